//! Tables of what is said, and where.

use serde_json::{Value, json};

use super::checks::{Findings, check};

const CORE: &str = "external-secrets.io";
const GENERATORS: &str = "generators.external-secrets.io";

fn of(group: &str, kind: &str, spec: Value) -> Findings {
    let object =
        json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "app", "namespace": "ns"}, "spec": spec});
    check(group, kind, &object)
}

/// A spec of an ExternalSecret with these fields.
fn spec(more: Value) -> Value {
    let mut all = json!({"secretStoreRef": {"name": "vault"}, "data": [{"secretKey": "k", "remoteRef": {"key": "app"}}]});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn template(template: Value) -> Value {
    spec(json!({"target": {"template": template}}))
}

fn rewrite(step: Value) -> Value {
    spec(json!({"dataFrom": [{"extract": {"key": "a"}}, {"extract": {"key": "b"}, "rewrite": [step]}]}))
}

fn windows(schedule: &str, duration: &str) -> Value {
    spec(json!({"syncWindows": {"kind": "allow", "windows": [{"schedule": schedule, "duration": duration}]}}))
}

#[test]
fn what_has_to_be_parsed_is_named_with_its_place() {
    for (spec, expected) in [
        (spec(json!({})), &[][..]),
        (spec(json!({"refreshInterval": "soon"})), &["spec.refreshInterval: \"soon\" is no duration"][..]),
        (windows("61 * * * *", "1h"), &["spec.syncWindows.windows[0].schedule"]),
        (windows("0 0 30 2 *", "1h"), &["spec.syncWindows.windows[0].schedule: \"0 0 30 2 *\" never comes"]),
        (windows("0 0 * * *", "long"), &["spec.syncWindows.windows[0].duration: \"long\" is no duration"]),
        (
            template(json!({"data": {"a": "x\n{{ .b", "b": "{{ .c | nope }}", "c": "{{ .d }}"}})),
            &[
                "spec.target.template.data[a]: template a line 2 column",
                "spec.target.template.data[b]: template b line 1 column 9: function \"nope\" not defined",
            ],
        ),
        (template(json!({"data": {"no key": "x"}})), &["spec.target.template.data[no key]: the key"]),
        (template(json!({"type": "bootstrap.kubernetes.io/token"})), &["bootstrap.kubernetes.io/token"]),
        (
            template(json!({"metadata": {"labels": {"l": "{{ end }}"}, "annotations": {"a": "{{ if }}"}}})),
            &["spec.target.template.metadata.labels[l]: template l line 1", "spec.target.template.metadata.annotations[a]"],
        ),
        (
            template(json!({"templateFrom": [{"literal": "ok"}, {"literal": "{{", "target": "spec.x"}]})),
            &["spec.target.template.templateFrom[1].target is none of", "spec.target.template.templateFrom[1].literal: template"],
        ),
        (
            spec(json!({"target": {"manifest": {"apiVersion": "a/v1", "kind": "A"}, "template": {"templateFrom": [
                {"literal": "x", "target": "spec.a[0].b"}, {"literal": "x", "target": "spec.a[0"},
            ]}}})),
            &["spec.target.template.templateFrom[1].target: \"spec.a[0\" is no path"],
        ),
        (rewrite(json!({"regexp": {"source": "(", "target": ""}})), &["spec.dataFrom[1].rewrite[0].regexp.source: "]),
        (rewrite(json!({"regexp": {"source": "(?=x)", "target": ""}})), &["spec.dataFrom[1].rewrite[0].regexp.source: "]),
        (
            rewrite(json!({"transform": {"template": "{{ .value | up }}"}})),
            &["spec.dataFrom[1].rewrite[0].transform.template: template transform line 1 column 13: function \"up\" not defined"],
        ),
        (spec(json!({"dataFrom": [{"find": {"name": {"regexp": "a{2,1}"}}}]})), &["spec.dataFrom[0].find.name.regexp: "]),
        (
            json!({"data": [{"secretKey": "k", "remoteRef": {"key": "app"}}]}),
            &["spec.data[0] names no store, and neither does spec.secretStoreRef"],
        ),
    ] {
        told(CORE, "ExternalSecret", &spec, expected, "spec.");
        // The same, where it stands in a fan-out.
        let fan = json!({"externalSecretSpec": spec, "namespaces": ["a"]});
        told(CORE, "ClusterExternalSecret", &fan, expected, "spec.externalSecretSpec.");
    }
}

fn told(group: &str, kind: &str, spec: &Value, expected: &[&str], prefix: &str) {
    let found = of(group, kind, spec.clone());
    assert_eq!(found.problems.len(), expected.len(), "{kind} {spec}: {found:?}");
    for needle in expected {
        let needle = needle.strip_prefix("spec.").map_or_else(|| (*needle).to_owned(), |rest| format!("{prefix}{rest}"));
        assert!(found.problems.iter().any(|p| p.contains(&needle)), "{kind}: {needle}: {found:?}");
    }
}

#[test]
fn pushes_stores_and_generators_are_checked_too() {
    let push = |more: Value| {
        let mut all = json!({"secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "s"}},
            "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": "r"}}}]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let store = |provider: Value, more: Value| {
        let mut all = json!({"provider": provider});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let webhook = json!({"url": "https://x/{{ .remoteRef.key", "headers": {"X-A": "{{ .a | nope }}"}, "body": "{{ if }}",
        "timeout": "never", "result": {"jsonPath": "{{ end }}"}});
    let none: &[&str] = &[];
    for (group, kind, spec, expected) in [
        (CORE, "PushSecret", push(json!({})), none),
        (CORE, "PushSecret", push(json!({"refreshInterval": "x"})), &["spec.refreshInterval"]),
        (
            CORE,
            "PushSecret",
            push(json!({"template": {"data": {"a": "{{ x }}"}}})),
            &["spec.template.data[a]: template a line 1"],
        ),
        (
            CORE,
            "PushSecret",
            push(json!({"dataTo": [{"storeRef": {"name": "v"}, "rewrite": [{"regexp": {"source": "[", "target": ""}}]}]})),
            &["spec.dataTo[0].rewrite[0].regexp.source: "],
        ),
        (
            CORE,
            "ClusterPushSecret",
            json!({"pushSecretSpec": push(json!({"refreshInterval": "x"}))}),
            &["spec.pushSecretSpec.refreshInterval: \"x\" is no duration"],
        ),
        (CORE, "SecretStore", store(json!({"fake": {"data": []}}), json!({})), none),
        (CORE, "SecretStore", store(json!({"fake": {}, "vault": {}}), json!({})), &["names fake and vault"]),
        (CORE, "SecretStore", store(json!({"fake": {"data": []}}), json!({"refreshInterval": "1x"})), &["spec.refreshInterval"]),
        (
            CORE,
            "ClusterSecretStore",
            store(json!({"fake": {"data": []}}), json!({"conditions": [{"namespaceRegexes": ["a", "("]}]})),
            &["spec.conditions[0].namespaceRegexes: \"(\" is no regular expression"],
        ),
        (
            CORE,
            "ClusterSecretStore",
            store(json!({"webhook": webhook}), json!({})),
            &[
                "spec.provider.webhook.url: template url line 1",
                "spec.provider.webhook.headers.X-A: template X-A line 1 column 9: function \"nope\" not defined",
                "spec.provider.webhook.body",
                "spec.provider.webhook.result.jsonPath",
                "spec.provider.webhook.timeout: \"never\" is no duration",
            ],
        ),
        (GENERATORS, "Password", json!({"length": 20}), none),
        (GENERATORS, "Password", json!({"length": 4, "digits": 3, "symbols": 3}), &["spec."]),
        (GENERATORS, "Webhook", json!({"url": "{{", "result": {}}), &["spec.url: template url"]),
        (
            GENERATORS,
            "ClusterGenerator",
            json!({"kind": "Webhook", "generator": {"webhookSpec": {"url": "{{", "result": {}}}}),
            &["spec.generator.webhookSpec.url: template url"],
        ),
        (
            GENERATORS,
            "ClusterGenerator",
            json!({"kind": "Password", "generator": {"uuidSpec": {}}}),
            &["spec.generator.passwordSpec"],
        ),
        (GENERATORS, "Grafana", json!({"anything": "{{"}), none),
    ] {
        told(group, kind, &spec, expected, "spec.");
    }
}

#[test]
fn what_is_probably_not_meant_or_not_understood_is_a_warning() {
    let twice = json!({"data": [
        {"secretKey": "k", "remoteRef": {"key": "a"}}, {"secretKey": "k", "remoteRef": {"key": "b"}},
    ]});
    let found = of(CORE, "ExternalSecret", spec(twice));
    assert_eq!(found.problems, Vec::<String>::new());
    assert_eq!(found.warnings, ["spec.data[1]: the key k stands there twice; the later entry wins"]);
    let newer = of(CORE, "ExternalSecret", spec(json!({"refreshPolicy": "Sometimes"})));
    assert_eq!(newer.problems, Vec::<String>::new());
    assert!(newer.warnings[0].starts_with("not understood by this version of Lockstep: unknown variant"), "{newer:?}");
}

#[test]
fn nothing_that_a_manifest_says_ends_in_a_panic() {
    let hostile = ["{{", "{{ .a", "{{ template \"x\" }}", "\u{0}", "(", "((((((((((", "a{1000}{1000}{1000}", "%", "🦀", ""];
    for text in hostile {
        let deep = (0..300).fold(json!(text), |inner, _| json!({"a": inner}));
        for (group, kind) in [
            (CORE, "ExternalSecret"),
            (CORE, "ClusterExternalSecret"),
            (CORE, "PushSecret"),
            (CORE, "ClusterPushSecret"),
            (CORE, "SecretStore"),
            (CORE, "ClusterSecretStore"),
            (GENERATORS, "Password"),
            (GENERATORS, "Webhook"),
            (GENERATORS, "ClusterGenerator"),
            ("other", "Kind"),
        ] {
            for spec in [json!(text), deep.clone(), json!([text]), json!(null), json!({"provider": {text: text}, "kind": text})] {
                let found = of(group, kind, spec);
                assert!(found.problems.iter().chain(&found.warnings).all(|t| t.len() < 10_000));
            }
        }
        for spec in [
            template(json!({"data": {"a": text.repeat(1000)}})),
            rewrite(json!({"regexp": {"source": text.repeat(1000), "target": text}})),
            rewrite(json!({"transform": {"template": text.repeat(1000)}})),
            windows(text, text),
        ] {
            of(CORE, "ExternalSecret", spec);
        }
    }
}
