//! The public API as `e2e/contract` has it, line by line: its fields against what the API server serves, its sentences against
//! these scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};
use kube::api::Api;
use lockstep_e2e::harness::root;

use lockstep_e2e::case::Case;

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("e2e/contract").join(name)).unwrap()
}

/// The rows of a table, by the names of its columns.
fn rows(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines.map(|line| heading.iter().copied().zip(line.split('\t')).collect()).collect()
}

/// The contract's text, a heading or a bullet (or paragraph) an entry, each on one line.
fn paragraphs(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let begins = line.starts_with("- ") || line.starts_with('#');
        match line.trim() {
            "" => open = false,
            words if open && !begins => {
                let last = all.last_mut().unwrap();
                last.push(' ');
                last.push_str(words);
            }
            words => {
                all.push(words.trim_start_matches("- ").to_owned());
                open = !line.starts_with('#');
            }
        }
    }
    all
}

/// `module::function` of every test under a folder.
fn tests(folder: &Path, module: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let of = |name: &str| if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
        if path.is_dir() {
            tests(&path, &of(&stem), found);
            continue;
        }
        let module = if stem == "mod" { module.to_owned() } else { of(&stem) };
        let text = std::fs::read_to_string(&path).unwrap();
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if marked && let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
                found.insert(format!("{module}::{}", rest.split('(').next().unwrap()));
                marked = false;
            }
            marked |= line.starts_with("#[tokio::test") || line == "#[test]";
        }
    }
}

#[test]
fn every_statement_of_the_contract_names_its_scenarios() {
    let mut known = BTreeSet::new();
    tests(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios"), "", &mut known);
    assert!(known.contains("contract::every_statement_of_the_contract_names_its_scenarios") && known.len() > 150);
    let table = read("semantics.tsv");
    let (mut said, mut wrong) = (Vec::<String>::new(), Vec::new());
    let mut ended = true;
    for line in table.lines() {
        if line.is_empty() || line.starts_with('#') {
            said.extend((!line.is_empty()).then(|| line.to_owned()));
            ended = true;
            continue;
        }
        let (statement, tests) = line.split_once('\t').unwrap_or((line, ""));
        let mut tests = tests.split_whitespace().peekable();
        if tests.peek().is_none() {
            wrong.push(format!("no scenario for: {statement}"));
        }
        wrong.extend(tests.filter(|test| !known.contains(*test)).map(|test| format!("{test} is no scenario, for: {statement}")));
        match said.last_mut() {
            Some(last) if !ended => {
                last.push(' ');
                last.push_str(statement);
            }
            _ => said.push(statement.to_owned()),
        }
        ended = false;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(said, paragraphs(&read("semantics.md")), "the table's statements are the whole text, in its order");
    // Where the contract itself lies beside the checkout, this is a copy of it.
    let original = root().join("../shared/contract");
    for name in ["semantics.md", "fields.tsv", "kinds.tsv"] {
        if let Ok(text) = std::fs::read_to_string(original.join(name)) {
            assert_eq!(text, read(name), "e2e/contract/{name} is not the contract's; copy it");
        }
    }
}

/// Last parts of the paths that name something, or that decide whose identity is used.
const NAMING: [&str; 12] = [
    "name",
    "namespace",
    "auth",
    "authType",
    "identityId",
    "remoteNamespace",
    "namespaces[]",
    "namespaceSelector",
    "namespaceSelectors[]",
    "namespaceRegexes[]",
    "labelSelector",
    "selector",
];

#[test]
fn every_field_that_names_something_names_the_scenario_that_keeps_tenants_apart() {
    let mut known = BTreeSet::new();
    tests(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios"), "", &mut known);
    let fields = read("fields.tsv");
    let naming = |path: &str| path.starts_with("spec.") && NAMING.contains(&path.rsplit('.').next().unwrap_or_default());
    let expected: BTreeSet<(String, String)> = rows(&fields)
        .iter()
        .filter(|row| naming(row["path"]))
        .map(|row| (row["kind"].to_owned(), row["path"].to_owned()))
        .collect();
    assert!(expected.len() > 400, "the contract was read: {}", expected.len());
    let table = read("references.tsv");
    let table: String = table.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut found = BTreeSet::new();
    for row in rows(&table) {
        let field = (row["kind"].to_owned(), row["field"].to_owned());
        assert!(!row["names"].is_empty() && !row["scenarios"].is_empty(), "{field:?} has no scenario");
        for scenario in row["scenarios"].split(' ') {
            assert!(known.contains(scenario), "{scenario} is no scenario, for {field:?}");
        }
        assert!(found.insert(field.clone()), "{field:?} is there twice");
    }
    let missing: Vec<_> = expected.difference(&found).collect();
    let more: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "references.tsv lacks {missing:#?} and has {more:#?} that the contract has not"
    );
}

type Fields<'a> = BTreeMap<String, &'a JSONSchemaProps>;

fn walk<'a>(path: String, schema: &'a JSONSchemaProps, fields: &mut Fields<'a>) {
    for (name, inner) in schema.properties.iter().flatten() {
        walk(format!("{path}.{name}"), inner, fields);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(inner)) = &schema.additional_properties {
        walk(format!("{path}.*"), inner, fields);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(inner)) = &schema.items {
        walk(format!("{path}[]"), inner, fields);
    }
    fields.insert(path, schema);
}

fn type_of(schema: &JSONSchemaProps) -> &str {
    match &schema.type_ {
        Some(name) => name,
        None if schema.x_kubernetes_int_or_string == Some(true) => "int-or-string",
        None => "any",
    }
}

#[tokio::test]
async fn the_api_server_serves_every_field_type_and_column_of_the_contract() {
    let case = Case::new("contract").await;
    let crds: Api<CustomResourceDefinition> = Api::all(case.client.clone());
    let all = crds.list(&Default::default()).await.unwrap().items;
    let mut served = BTreeMap::new();
    for crd in &all {
        for version in crd.spec.versions.iter().filter(|v| v.served) {
            let mut fields = Fields::new();
            let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            for (name, schema) in
                schema.properties.iter().flatten().filter(|(name, _)| ["spec", "status"].contains(&name.as_str()))
            {
                walk(name.clone(), schema, &mut fields);
            }
            served.insert((crd.spec.names.kind.as_str(), version.name.as_str()), fields);
        }
    }
    let mut wrong = Vec::new();
    let text = read("fields.tsv");
    let fields = rows(&text);
    assert!(fields.len() > 1800);
    for row in fields {
        let place = format!("{}/{} {}", row["kind"], row["version"], row["path"]);
        let Some(schema) = served.get(&(row["kind"], row["version"])).and_then(|fields| fields.get(row["path"])) else {
            wrong.push(format!("{place}: missing"));
            continue;
        };
        let ours = type_of(schema);
        if row["type"] != "any" && ours != "any" && ours != row["type"] {
            wrong.push(format!("{place}: is {ours}, not {}", row["type"]));
        }
        let words = row["constraints"].split("; ").find_map(|c| c.strip_prefix("enum="));
        if let (Some(words), Some(ours)) = (words, &schema.enum_) {
            let lacks: Vec<&str> = words.split('|').filter(|w| !ours.iter().any(|o| o.0.as_str() == Some(w))).collect();
            wrong.extend((!lacks.is_empty()).then(|| format!("{place}: lacks {lacks:?}")));
        }
    }
    let text = read("kinds.tsv");
    for row in rows(&text) {
        let Some(crd) = all.iter().find(|crd| crd.metadata.name.as_deref() == Some(row["crd"])) else {
            wrong.push(format!("{}: missing", row["crd"]));
            continue;
        };
        let Some(version) = crd.spec.versions.iter().find(|v| v.name == row["version"] && v.served && v.storage) else {
            wrong.push(format!("{}: does not serve {}", row["crd"], row["version"]));
            continue;
        };
        let names = crd.status.as_ref().and_then(|s| s.accepted_names.clone()).unwrap();
        let lacks = |wanted: &str, have: &Option<Vec<String>>| {
            wanted.split(',').filter(|w| !w.is_empty()).any(|w| !have.iter().flatten().any(|h| h == w))
        };
        let parts = [
            crd.spec.scope != row["scope"],
            lacks(row["short_names"], &names.short_names),
            lacks(row["categories"], &names.categories),
        ];
        if parts.contains(&true) {
            wrong.push(format!("{}: scope, short names or categories: {parts:?}", row["crd"]));
        }
        for column in row["printer_columns"].split("> ").filter(|c| !c.is_empty()) {
            let (name, path) = column.trim_end_matches('>').split_once('<').unwrap();
            if !version.additional_printer_columns.iter().flatten().any(|c| c.name == name && c.json_path == path) {
                wrong.push(format!("{}: no column {name} of {path}", row["crd"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
