//! Targets of other kinds than Secret: `target.manifest`.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::operator::Operator;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use lockstep_e2e::case::{Case, stop};

/// What the operator's role must have beside `config/rbac` for the targets of these scenarios, and the kinds.
async fn kinds(case: &Case) {
    static SERVED: OnceCell<()> = OnceCell::const_new();
    SERVED
        .get_or_init(async || {
            let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                "level": {"type": "string", "enum": ["low", "high"]}, "count": {"type": "integer"},
            }});
            let crd = |kind: &str, scope: &str| {
                let (plural, singular) = (format!("{}s", kind.to_lowercase()), kind.to_lowercase());
                json!({
                    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                    "metadata": {"name": format!("{plural}.targets.example.org")},
                    "spec": {
                        "group": "targets.example.org", "scope": scope,
                        "names": {"kind": kind, "plural": plural, "singular": singular},
                        "versions": [{
                            "name": "v1", "served": true, "storage": true,
                            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any}}},
                        }],
                    },
                })
            };
            for (kind, scope) in [("Widget", "Namespaced"), ("Planet", "Cluster"), ("Closed", "Namespaced")] {
                harness::apply(&case.client, None, crd(kind, scope)).await.unwrap();
            }
            let rules = json!([
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch", "delete"]},
                {"apiGroups": ["targets.example.org"], "resources": ["widgets"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
            ]);
            let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "targets"}, "rules": rules});
            let binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "targets"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "targets"},
                "subjects": [{"kind": "ServiceAccount", "name": "lockstep", "namespace": "lockstep-system"}],
            });
            for object in [role, binding] {
                harness::apply(&case.client, None, object).await.unwrap();
            }
            let widgets = json!({"apiVersion": "targets.example.org/v1", "kind": "Widget"});
            eventually("widgets are served", async || {
                harness::api_of(&case.client, Some(&case.name), &widgets).list(&Default::default()).await.ok()
            })
            .await;
        })
        .await;
}

/// A case with an operator that writes other kinds.
pub async fn case(topic: &str) -> (Case, Operator) {
    let case = Case::with_own_class(topic).await;
    kinds(&case).await;
    let operator = case.own_operator("a", &["--unsafe-allow-generic-targets"]);
    case.vault_store().await;
    (case, operator)
}

fn api(case: &Case, api_version: &str, kind: &str) -> Api<DynamicObject> {
    harness::api_of(&case.client, Some(&case.name), &json!({"apiVersion": api_version, "kind": kind}))
}

fn config_maps(case: &Case) -> Api<DynamicObject> {
    api(case, "v1", "ConfigMap")
}

fn widgets(case: &Case) -> Api<DynamicObject> {
    api(case, "targets.example.org/v1", "Widget")
}

/// Waits until a field of a target has a value.
async fn field_is(api: &Api<DynamicObject>, name: &str, field: &str, expected: Value) {
    let mut last = None;
    for _ in 0..2400 {
        last = api.get_opt(name).await.unwrap().map(|object| object.data.get(field).cloned().unwrap_or_default());
        if last.as_ref() == Some(&expected) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{name} has {last:?} in {field} and not {expected}");
}

const SYNCED: &str = "ResourceSynced";
const FAILED: &str = "ResourceSyncedError";

#[tokio::test]
async fn a_config_map_is_kept_as_the_provider_has_it_and_put_right_when_somebody_edits_it() {
    let (case, operator) = case("configmap").await;
    case.put("app", json!({"host": "CANARY-h", "port": "CANARY-1"})).await;
    let target = json!({"manifest": {"apiVersion": "v1", "kind": "ConfigMap"}});
    let extract = json!([{"extract": {"key": case.key("app")}}]);
    case.external_secret("app", json!({"dataFrom": extract, "refreshInterval": "1s", "target": target})).await;
    case.ready_is("app", "True", SYNCED, "").await;
    let api = config_maps(&case);
    field_is(&api, "app", "data", json!({"host": "CANARY-h", "port": "CANARY-1"})).await;
    let made = api.get("app").await.unwrap().metadata;
    assert_eq!(made.labels.unwrap()["reconcile.external-secrets.io/managed"], "true");
    let owner = made.owner_references.unwrap().remove(0);
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("ExternalSecret", "app", Some(true)));
    assert_eq!(case.secret("app").await, None, "no Secret beside it");

    case.put("app", json!({"host": "CANARY-h2", "port": "CANARY-1"})).await;
    field_is(&api, "app", "data", json!({"host": "CANARY-h2", "port": "CANARY-1"})).await;

    // Nothing is due for an hour: what puts it right is the watch.
    case.external_secret("app", json!({"dataFrom": extract, "target": target})).await;
    case.caught_up("app").await;
    let edit = Patch::Merge(json!({"data": {"host": "by hand"}}));
    api.patch("app", &PatchParams::default(), &edit).await.unwrap();
    field_is(&api, "app", "data", json!({"host": "CANARY-h2", "port": "CANARY-1"})).await;
    api.delete("app", &DeleteParams::default()).await.unwrap();
    field_is(&api, "app", "data", json!({"host": "CANARY-h2", "port": "CANARY-1"})).await;
    // Then there is peace: nothing writes again what is right.
    case.force_sync("app").await;
    case.caught_up("app").await;
    let version = api.get("app").await.unwrap().metadata.resource_version;
    case.force_sync("app").await;
    case.caught_up("app").await;
    assert_eq!(api.get("app").await.unwrap().metadata.resource_version, version);

    // A restart with nothing changed writes nothing, and what happened meanwhile is found at once.
    stop(operator);
    let operator = case.own_operator("b", &["--unsafe-allow-generic-targets"]);
    operator.wait_working();
    case.force_sync("app").await;
    case.caught_up("app").await;
    assert_eq!(api.get("app").await.unwrap().metadata.resource_version, version);
    stop(operator);
    api.patch("app", &PatchParams::default(), &edit).await.unwrap();
    let operator = case.own_operator("c", &["--unsafe-allow-generic-targets"]);
    field_is(&api, "app", "data", json!({"host": "CANARY-h2", "port": "CANARY-1"})).await;

    // What the provider says is gone goes, as the policy says.
    case.external_secret(
        "app",
        json!({"dataFrom": extract, "target": {"manifest": target["manifest"], "deletionPolicy": "Delete"}}),
    )
    .await;
    case.caught_up("app").await;
    case.harness.vault.remove(&case.key("app")).await;
    case.force_sync("app").await;
    case.ready_is("app", "True", "ResourceDeleted", "").await;
    assert!(api.get_opt("app").await.unwrap().is_none());
    assert!(!operator.process.output().contains("CANARY"));
}

#[tokio::test]
async fn a_template_writes_to_paths_of_a_custom_resource() {
    let (case, operator) = case("widget").await;
    case.put("db", json!({"user": "CANARY-u", "password": "CANARY: p"})).await;
    case.apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}, "data": {"url": "db://{{ .user }}@host"},
    }))
    .await
    .unwrap();
    let template = |literal: &str| {
        json!({
            "metadata": {"labels": {"team": "blue"}},
            "templateFrom": [
                {"target": "spec.servers[1].login", "literal": literal},
                {"target": "spec.servers[0]", "configMap": {"name": "texts", "items": [{"key": "url"}]}},
                {"target": "spec.count", "literal": "{{ len .user }}"},
            ],
        })
    };
    let literal = "user: {{ .user }}\npassword: {{ .password | quote }}\n";
    let spec = |template: Value| {
        json!({
            "dataFrom": [{"extract": {"key": case.key("db")}}],
            "target": {
                "name": "made", "manifest": {"apiVersion": "targets.example.org/v1", "kind": "Widget"}, "template": template,
            },
        })
    };
    case.external_secret("db", spec(template(literal))).await;
    case.ready_is("db", "True", SYNCED, "").await;
    let api = widgets(&case);
    let right = json!({
        "servers": [{"url": "db://CANARY-u@host"}, {"login": {"user": "CANARY-u", "password": "CANARY: p"}}], "count": 8,
    });
    field_is(&api, "made", "spec", right.clone()).await;
    assert_eq!(api.get("made").await.unwrap().metadata.labels.unwrap()["team"], "blue");
    let edit = Patch::Merge(json!({"spec": {"servers": [], "count": 3}}));
    api.patch("made", &PatchParams::default(), &edit).await.unwrap();
    field_is(&api, "made", "spec", right).await;

    // A change of the source of a template arrives at once.
    case.apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}, "data": {"url": "changed"},
    }))
    .await
    .unwrap();
    eventually("the new text is there", async || {
        (api.get("made").await.unwrap().data["spec"]["servers"][0]["url"] == "changed").then_some(())
    })
    .await;

    // Places that are none are named, and what is there stays.
    for (target, literal, needle) in [
        ("spec.servers[99999].x", "a", "an index is above 10000"),
        ("metadata.ownerReferences", "a", "that is not a template's to write"),
        ("spec.count.deep", "a", "deep can't stand in what is no map"),
        ("spec.a", "{{ .password }}\n\tb: [", "the result is no YAML"),
    ] {
        let mut more = template("user: x");
        more["templateFrom"].as_array_mut().unwrap().push(json!({"target": target, "literal": literal}));
        case.external_secret("db", spec(more)).await;
        let message = case.ready_is("db", "False", FAILED, needle).await;
        assert!(message.contains("spec.target.template.templateFrom[3]"), "{message}");
        assert!(!message.contains("CANARY"), "{message}");
    }
    assert_eq!(api.get("made").await.unwrap().data["spec"]["servers"][0]["url"], "changed");
    assert!(!operator.process.output().contains("CANARY"));
}

#[tokio::test]
async fn a_target_that_the_operator_may_not_or_can_not_write_is_refused_by_name() {
    let (case, operator) = case("refused").await;
    case.put("app", json!({"k": "CANARY"})).await;
    let config_map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"theirs": "1"}});
    case.apply(config_map("foreign")).await.unwrap();
    let manifest = |api_version: &str, kind: &str| json!({"manifest": {"apiVersion": api_version, "kind": kind}});
    let data = json!([case.data("k", "app", "k")]);
    for (name, target, needle) in [
        ("unknown", manifest("targets.example.org/v1", "Ghost"), "the API server serves no kind Ghost in targets.example.org/v1"),
        ("planet", manifest("targets.example.org/v1", "Planet"), "Planet has no namespace"),
        ("closed", manifest("targets.example.org/v1", "Closed"), "the operator's role must allow that kind"),
        ("foreign", manifest("v1", "ConfigMap"), "exists and was not made by ExternalSecret"),
        ("secret", manifest("v1", "Secret"), "spec.target.manifest is for other kinds than Secret"),
        ("slash", manifest("/v1", "Secret"), "spec.target.manifest.apiVersion is no apiVersion"),
        ("push", manifest("external-secrets.io/v1alpha1", "PushSecret"), "of this operator's own kinds"),
        ("state", manifest("generators.external-secrets.io/v1alpha1", "GeneratorState"), "of this operator's own kinds"),
    ] {
        case.external_secret(name, json!({"data": data, "target": target})).await;
        let message = case.ready_is(name, "False", FAILED, needle).await;
        assert!(!message.contains("CANARY"), "{message}");
    }
    field_is(&config_maps(&case), "foreign", "data", json!({"theirs": "1"})).await;

    // What the schema refuses is named by its place: the API server's words quote it.
    case.put("typed", json!({"level": "CANARY-level", "count": "CANARY-count"})).await;
    for (name, path, needle) in [
        ("level", "spec.level", "does not take it (code 422: spec.level: "),
        ("count", "spec.count", "patch failed (code 500: its words"),
    ] {
        let template = json!({"templateFrom": [{"target": path, "literal": format!("{{{{ .{name} }}}}")}]});
        let mut target = manifest("targets.example.org/v1", "Widget");
        target["template"] = template;
        let spec = json!({"dataFrom": [{"extract": {"key": case.key("typed")}}], "target": target});
        case.external_secret(&format!("typed-{name}"), spec).await;
        let message = case.ready_is(&format!("typed-{name}"), "False", FAILED, needle).await;
        assert!(!message.contains("CANARY"), "{message}");
        let object = case.objects().get(&format!("typed-{name}")).await.unwrap();
        assert!(!serde_json::to_string(&object.status).unwrap().contains("CANARY"));
    }
    assert!(!operator.process.output().contains("CANARY"));

    // Of two that want the same one, without an owner reference too, one has it and the other says whose it is.
    let orphan = json!({"name": "both", "manifest": {"apiVersion": "v1", "kind": "ConfigMap"}, "creationPolicy": "Orphan"});
    case.external_secret("one", json!({"data": data, "target": orphan})).await;
    case.ready_is("one", "True", SYNCED, "").await;
    case.external_secret("two", json!({"data": data, "target": orphan})).await;
    case.ready_is("two", "False", FAILED, "was made by another ExternalSecret").await;

    // What was owned as a whole and is merged into from now on is not taken along.
    let policy =
        |policy: &str| json!({"name": "handed", "manifest": {"apiVersion": "v1", "kind": "ConfigMap"}, "creationPolicy": policy});
    case.external_secret("handed", json!({"data": data, "target": policy("Owner")})).await;
    case.ready_is("handed", "True", SYNCED, "").await;
    let handed = async || config_maps(&case).get("handed").await.unwrap().metadata;
    assert_eq!(handed().await.owner_references.unwrap_or_default().len(), 1);
    case.external_secret("handed", json!({"data": data, "target": policy("Merge")})).await;
    eventually("the owner reference goes", async || {
        handed().await.owner_references.is_none_or(|all| all.is_empty()).then_some(())
    })
    .await;
    case.caught_up("handed").await;
    assert!(!handed().await.labels.unwrap().contains_key(lockstep_crds::LABEL_CREATED_BY));

    // Merge writes beside what is there, and needs it.
    let merge =
        |name: &str| json!({"name": name, "manifest": {"apiVersion": "v1", "kind": "ConfigMap"}, "creationPolicy": "Merge"});
    case.external_secret("merged", json!({"data": data, "target": merge("foreign")})).await;
    case.ready_is("merged", "True", SYNCED, "").await;
    field_is(&config_maps(&case), "foreign", "data", json!({"theirs": "1", "k": "CANARY"})).await;
    case.external_secret("nothing", json!({"data": data, "target": merge("nothing")})).await;
    case.ready_is("nothing", "False", "ResourceMissing", "creationPolicy Merge makes none").await;
    // It is seen when it comes, and when a foreign one goes.
    case.apply(config_map("nothing")).await.unwrap();
    case.ready_is("nothing", "True", SYNCED, "").await;
    config_maps(&case).delete("foreign", &DeleteParams::default()).await.unwrap();
    eventually("one of the two makes its own", async || {
        let foreign = case.ready_of("foreign").await?;
        (foreign.reason == SYNCED || foreign.message.contains("merged")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_flag_no_other_kind_is_written() {
    let case = Case::new("noflag").await;
    case.vault_store().await;
    case.put("app", json!({"k": "CANARY"})).await;
    let target = json!({"manifest": {"apiVersion": "v1", "kind": "ConfigMap"}});
    case.external_secret("app", json!({"data": [case.data("k", "app", "k")], "target": target})).await;
    case.ready_is("app", "False", FAILED, "the operator's flag --unsafe-allow-generic-targets allows them").await;
    assert!(config_maps(&case).get_opt("app").await.unwrap().is_none());
}

#[tokio::test]
async fn two_who_want_a_target_to_be_different_do_not_write_it_without_end() {
    let (case, operator) = case("quarrel").await;
    case.put("app", json!({"one": "CANARY-1", "two": "CANARY-2"})).await;
    case.put("clock", json!({"n": "0"})).await;
    let target =
        json!({"name": "shared", "manifest": {"apiVersion": "v1", "kind": "ConfigMap"}, "creationPolicy": "CreateOrMerge"});
    for name in ["one", "two"] {
        case.external_secret(name, json!({"data": [case.data("key", "app", name)], "target": target})).await;
    }
    let patches = async || operator.metric("lockstep_api_requests_total", &["resource=\"targets\"", "verb=\"patch\""]).await;
    eventually("they quarrel", async || operator.process.output().contains("again and again").then_some(())).await;
    // Meanwhile another object is refreshed a dozen times.
    let before = patches().await;
    case.external_secret("clock", json!({"refreshInterval": "1s", "data": [case.data("n", "clock", "n")]})).await;
    for n in 1..=12 {
        case.put("clock", json!({"n": n.to_string()})).await;
        case.secret_is("clock", &[("n", &n.to_string())]).await;
    }
    let more = patches().await - before;
    assert!(more <= 24, "{more} writes of a target in a dozen seconds");
    // A person's change is done at once all the same.
    let mut apart = target.clone();
    apart["name"] = json!("apart");
    case.external_secret("two", json!({"data": [case.data("key", "app", "two")], "target": apart})).await;
    case.caught_up("two").await;
    field_is(&config_maps(&case), "apart", "data", json!({"key": "CANARY-2"})).await;
    stop(operator);
}
