//! `spec.target.template`: what a target is built from the provider's data with.

use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use lockstep_e2e::harness::eventually;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

async fn with_app(topic: &str) -> Case {
    let case = Case::new(topic).await;
    case.vault_store().await;
    case.put("app", json!({"user": "ada", "pass": "CANARY-p"})).await;
    case
}

fn from_app(case: &Case, template: Value) -> Value {
    json!({"dataFrom": [{"extract": {"key": case.key("app")}}], "target": {"template": template}})
}

async fn config_map(case: &Case, name: &str, data: Value) {
    case.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})).await.unwrap();
}

#[tokio::test]
async fn templates_give_keys_in_order_of_precedence() {
    let case = with_app("template").await;
    config_map(
        &case,
        "templates",
        json!({
            "a": "from the map {{ .user }}", "b": "map", "kv": "c: '{{ .user | upper }}'\nd: |\n  two\n  lines\nuser: map\n",
        }),
    )
    .await;
    case.apply_secret("templates", &[("b", "from the secret {{ .pass | len }}")]).await;
    let items =
        |keys: &[(&str, &str)]| -> Vec<Value> { keys.iter().map(|(key, as_)| json!({"key": key, "templateAs": as_})).collect() };
    let template = |policy: &str| {
        json!({
            "mergePolicy": policy,
            "data": {"a": "{{ printf \"%s:%s\" .user .pass | b64enc }}"},
            "templateFrom": [
                {"configMap": {"name": "templates", "items": items(&[("a", "Values"), ("b", "Values"), ("kv", "KeysAndValues")])}},
                {"secret": {"name": "templates", "items": items(&[("b", "Values")])}},
                {"literal": "e: {{ .user | quote }}\n", "valuesDecodingStrategy": "None"},
                {"literal": "f: aGk=\n", "valuesDecodingStrategy": "Base64"},
            ],
        })
    };
    let rendered = [
        ("a", "YWRhOkNBTkFSWS1w"),
        ("b", "from the secret 8"),
        ("c", "ADA"),
        ("d", "two\nlines\n"),
        ("e", "ada"),
        ("f", "hi"),
        ("user", "map"),
    ];
    case.external_secret("replace", from_app(&case, template("Replace"))).await;
    case.secret_is("replace", &rendered).await;
    case.external_secret("merge", from_app(&case, template("Merge"))).await;
    case.secret_is("merge", &[&rendered[..], &[("pass", "CANARY-p")]].concat()).await;
}

#[tokio::test]
async fn templates_give_labels_annotations_finalizers_and_a_type() {
    let case = with_app("templatemeta").await;
    let template = json!({
        "type": "kubernetes.io/basic-auth",
        "metadata": {
            "labels": {"team": "{{ .user }}"}, "annotations": {"note": "of {{ .user | title }}"}, "finalizers": ["example.com/keep"],
        },
        "data": {"username": "{{ .user }}", "password": "{{ .pass }}"},
        "templateFrom": [{"target": "Labels", "literal": "tier: '{{ .user | len }}'"}, {"target": "annotations", "literal": "more: x"}],
    });
    let mut object = json!({
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
        "metadata": {"name": "meta", "labels": {"own": "label"}},
        "spec": {"refreshInterval": "1h", "secretStoreRef": {"name": "vault"}},
    });
    object["spec"].as_object_mut().unwrap().extend(from_app(&case, template).as_object().unwrap().clone());
    case.apply(object).await.unwrap();
    case.secret_is("meta", &[("username", "ada"), ("password", "CANARY-p")]).await;
    case.synced("meta").await;
    let secret = case.secrets().get("meta").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/basic-auth"));
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    assert_eq!((label("team"), label("tier"), label("own")), (Some("ada"), Some("3"), None));
    let annotation = |name: &str| secret.annotations().get(name).map(String::as_str);
    assert_eq!((annotation("note"), annotation("more")), (Some("of Ada"), Some("x")));
    assert_eq!(secret.finalizers(), ["example.com/keep"]);
    // Somebody edits what was rendered: it is put back, without a provider being asked for what was not touched.
    let patch = json!({"metadata": {"labels": {"team": "other"}}});
    case.secrets().patch("meta", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    eventually("the label is put back", async || {
        (case.secrets().get("meta").await.unwrap().labels().get("team")? == "ada").then_some(())
    })
    .await;
    let patch = json!({"metadata": {"finalizers": null}});
    case.secrets().patch("meta", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn a_template_source_that_changes_is_rendered_at_once() {
    let case = with_app("templatefrom").await;
    config_map(&case, "t", json!({"k": "one {{ .user }}"})).await;
    let template = json!({"templateFrom": [{"configMap": {"name": "t", "items": [{"key": "k"}]}}]});
    case.external_secret("app", from_app(&case, template)).await;
    case.secret_is("app", &[("k", "one ada")]).await;
    config_map(&case, "t", json!({"k": "two {{ .user }}"})).await;
    case.secret_is("app", &[("k", "two ada")]).await;
    // One that goes keeps the last good value, and one that comes back is seen.
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::namespaced(case.client.clone(), &case.name);
    maps.delete("t", &DeleteParams::default()).await.unwrap();
    case.failed("app", "spec.target.template.templateFrom[0].configMap").await;
    assert_eq!(case.secret("app").await.unwrap()["k"], "two ada");
    config_map(&case, "t", json!({"k": "three {{ .user }}"})).await;
    case.secret_is("app", &[("k", "three ada")]).await;
    config_map(&case, "t", json!({"other": "x"})).await;
    case.failed("app", "t has no key k; it has other").await;
}

#[tokio::test]
async fn chance_and_the_clock_are_asked_once_while_the_inputs_stay() {
    let case = with_app("chance").await;
    let template = json!({
        "metadata": {"annotations": {"made": "{{ now | date \"2006-01-02T15:04:05.000000000\" }}"}},
        "data": {"password": "{{ randAlphaNum 24 }}", "id": "{{ uuidv4 }}", "user": "{{ .user }}", "hash": "{{ htpasswd .user .pass }}"},
    });
    let mut spec = from_app(&case, template);
    spec["refreshInterval"] = json!("1s");
    case.external_secret("app", spec).await;
    case.synced("app").await;
    let first = case.secret("app").await.unwrap();
    assert_eq!((first["password"].len(), first["id"].len(), first["user"].as_str()), (24, 36, "ada"));
    let version = case.secrets().get("app").await.unwrap().resource_version();
    let synced = |case: &Case| {
        let (client, name) = (case.objects(), "app");
        async move { client.get(name).await.unwrap().status.unwrap().synced_resource_version }
    };
    // Refreshes that a person asks for read and render everything anew.
    for _ in 0..3 {
        let before = synced(&case).await;
        case.force_sync("app").await;
        eventually("it is synced again", async || (synced(&case).await != before).then_some(())).await;
    }
    assert_eq!(case.secret("app").await.unwrap(), first);
    assert_eq!(case.secrets().get("app").await.unwrap().resource_version(), version, "nothing is written");
    // An edit is put back: by something else, for what was there is gone.
    let patch = json!({"stringData": {"password": "edited"}});
    case.secrets().patch("app", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    eventually("the edit is undone", async || (case.secret("app").await?["password"] != "edited").then_some(())).await;
    let second = case.secret("app").await.unwrap();
    assert_ne!(second["id"], first["id"]);
    // Another value of the provider is another input.
    case.put("app", json!({"user": "bob", "pass": "CANARY-q"})).await;
    eventually("the new user arrives", async || (case.secret("app").await?["user"] == "bob").then_some(())).await;
    assert_ne!(case.secret("app").await.unwrap()["password"], second["password"]);
}

#[tokio::test]
async fn what_chance_gave_survives_a_restart_and_a_merge_into_a_foreign_secret() {
    let case = Case::with_own_class("chancerestart").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    case.vault_store().await;
    case.put("app", json!({"user": "ada"})).await;
    case.apply_secret("theirs", &[("other", "x")]).await;
    let mut own = from_app(&case, json!({"data": {"id": "{{ uuidv4 }}"}}));
    case.external_secret("own", own.clone()).await;
    own["target"]["name"] = json!("theirs");
    own["target"]["creationPolicy"] = json!("Merge");
    case.external_secret("merged", own).await;
    case.synced("own").await;
    case.synced("merged").await;
    let (first, theirs) = (case.secret("own").await.unwrap(), case.secret("theirs").await.unwrap());
    assert_eq!((theirs["id"].len(), theirs["other"].as_str()), (36, "x"));
    drop(operator);
    let operator = case.own_operator("b", &[]);
    operator.wait_working();
    for name in ["own", "merged"] {
        case.force_sync(name).await;
        case.caught_up(name).await;
    }
    assert_eq!((case.secret("own").await.unwrap(), case.secret("theirs").await.unwrap()), (first.clone(), theirs));
    // A label of the object is no input: it arrives, and what chance gave stays.
    for team in ["a", "b"] {
        let patch = json!({"metadata": {"labels": {"team": team}}});
        case.objects().patch("own", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        eventually("the label arrives", async || {
            (case.secrets().get("own").await.unwrap().labels().get("team")? == team).then_some(())
        })
        .await;
        assert_eq!(case.secret("own").await.unwrap(), first);
    }
}

#[tokio::test]
async fn a_bad_template_says_where_it_is_wrong_and_disturbs_nobody() {
    let case = with_app("badtemplate").await;
    let large = "{{ range until 100000 }}{{ $.user }}{{ repeat 90 \"x\" }}{{ end }}";
    for (i, (text, needle)) in [
        ("{{ .user", "spec.target.template.data[k]: template k line 1 column 9: unclosed action"),
        ("line\n  {{ .user | nope }}", "template k line 2 column 14: function \"nope\" not defined"),
        ("{{ .nope }}", "map has no entry for key \"nope\"; there is pass, user"),
        ("{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}", "does it call itself?"),
        (large, "the output is longer than 4194304 bytes"),
        ("{{ range until 900000 }}{{ range until 900000 }}x{{ end }}{{ end }}", "line 1 column"),
        ("{{ mustRegexMatch \"(a+\" .pass }}", "the regexp is not valid"),
        ("{{ mustRegexMatch \"(a+)+$\" (repeat 100000 \"a\") }}{{ .user | pkcs12cert }}", "no PKCS#12 store"),
        ("{{ .pass | filterCertChain \"leaf\" }}", "no leaf certificate found"),
        ("{{ fail \"this is not what it should be\" }}", "the template says that it fails"),
        ("{{ env \"HOME\" }}", "function \"env\" not defined"),
        ("{{ getHostByName \"vault\" }}", "function \"getHostByName\" not defined"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad-{i}");
        case.external_secret(&name, from_app(&case, json!({"data": {"k": text}}))).await;
        let message = case.failed(&name, needle).await;
        assert!(!message.contains("CANARY-"), "{message}");
        assert!(case.secret(&name).await.is_none(), "{name} makes no Secret");
    }
    for (i, (from, needle)) in [
        (json!({"literal": "{{ .pass }}"}), "the result is no YAML with keys and values"),
        (json!({"literal": "a: b", "target": "spec.x"}), "templateFrom[0].target is none of Data, Labels and Annotations"),
        (json!({"literal": "a: '!'", "valuesDecodingStrategy": "Base64"}), "entry 1: the value is not Base64"),
        (json!({"secret": {"name": "nobody", "items": [{"key": "k"}]}}), "does not exist; create it"),
        (json!({"literal": "no such: {{ .user }}", "target": "Labels"}), "templateFrom[0].literal: entry 1: that is no label"),
        (json!({"literal": "team: 'not {{ .pass }}'", "target": "Labels"}), "templateFrom[0].literal: entry 1: that is no label"),
        (json!({"secret": {"name": "from-6", "items": [{"key": "k"}]}}), "from-6 is the target itself"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("from-{i}");
        case.external_secret(&name, from_app(&case, json!({"templateFrom": [from]}))).await;
        case.failed(&name, needle).await;
    }
    case.external_secret("good", json!({"data": [case.data("p", "app", "pass")]})).await;
    case.secret_is("good", &[("p", "CANARY-p")]).await;
    assert!(case.shared_operator().metric("lockstep_panics_total", &[]).await == 0, "nothing panicked");
}
