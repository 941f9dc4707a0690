//! What a template sees, where its output goes, and what it may cost.

use kube::ResourceExt;
use lockstep_e2e::control_plane::Authority;
use serde_json::{Value, json};

use lockstep_e2e::case::{Case, stop};

async fn with_app(topic: &str) -> Case {
    let case = Case::new(topic).await;
    case.vault_store().await;
    case.put("app", json!({"user": "ada", "pass": "CANARY-p", "port": 5432, "on": true, "more": {"deep": [1, 2]}})).await;
    case
}

fn from_app(case: &Case, target: Value, more: Value) -> Value {
    let mut spec = json!({"dataFrom": [{"extract": {"key": case.key("app")}}], "target": target});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[tokio::test]
async fn what_a_template_sees_is_text_in_the_order_of_its_keys() {
    let case = with_app("text").await;
    let data = json!({
        "types": "{{ range $k, $v := . }}{{ $k }}={{ printf \"%T\" $v }} {{ end }}",
        "text": "{{ .port }}+{{ .on }}+{{ .more }}",
        "dot": "{{ printf \"%T\" . }}",
        "number": "{{ add .port 1 }}",
    });
    case.external_secret("app", from_app(&case, json!({"template": {"data": data}}), json!({}))).await;
    case.secret_is(
        "app",
        &[
            ("types", "more=string on=string pass=string port=string user=string "),
            ("text", "5432+true+{\"deep\":[1,2]}"),
            ("dot", "map[string]string"),
            ("number", "5433"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_source_goes_to_data_labels_or_annotations_as_values_or_as_keys_and_values() {
    let case = with_app("places").await;
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"},
        "data": {"one": "of {{ .user }}", "team": "{{ .user }}-team", "many": "a: '{{ .user }}'\nb: '{{ .port }}'\n"}});
    case.apply(config_map).await.unwrap();
    case.apply_secret("t", &[("pairs", "c: '{{ .pass }}'\nd: x\n"), ("note", "{{ .user | upper }}")]).await;
    let map = |keys: Value, target: Value| json!({"configMap": {"name": "t", "items": keys}, "target": target});
    let secret = |keys: Value, target: Value| json!({"secret": {"name": "t", "items": keys}, "target": target});
    let pairs = |key: &str| json!([{"key": key, "templateAs": "KeysAndValues"}]);
    let template_from = json!([
        map(json!([{"key": "one"}]), json!("Data")),
        map(pairs("many"), json!("Data")),
        secret(pairs("pairs"), json!("Data")),
        map(json!([{"key": "team", "templateAs": "Values"}]), json!("Labels")),
        map(pairs("many"), json!("Annotations")),
        secret(json!([{"key": "note"}]), json!("Annotations")),
    ]);
    case.external_secret("app", from_app(&case, json!({"template": {"templateFrom": template_from}}), json!({}))).await;
    case.secret_is("app", &[("one", "of ada"), ("a", "ada"), ("b", "5432"), ("c", "CANARY-p"), ("d", "x")]).await;
    case.synced("app").await;
    let made = case.secrets().get("app").await.unwrap();
    assert_eq!(made.labels().get("team").map(String::as_str), Some("ada-team"));
    let annotation = |name: &str| made.annotations().get(name).map(String::as_str);
    assert_eq!((annotation("a"), annotation("b"), annotation("note")), (Some("ada"), Some("5432"), Some("ADA")));
}

#[tokio::test]
async fn what_is_there_gives_way_to_the_provider_and_that_to_templates() {
    let case = Case::new("precedence").await;
    case.vault_store().await;
    case.put("app", json!({"a": "provider", "b": "provider", "c": "provider"})).await;
    for policy in ["Merge", "Replace"] {
        let name = policy.to_lowercase();
        case.apply_secret(&name, &[("a", "there"), ("b", "there"), ("c", "there"), ("d", "there")]).await;
        let template = json!({"mergePolicy": policy, "data": {"a": "data"}, "templateFrom": [{"literal": "a: from\nb: from\n"}]});
        let target = json!({"creationPolicy": "Merge", "template": template});
        case.external_secret(&name, from_app(&case, target, json!({}))).await;
    }
    case.secret_is("merge", &[("a", "data"), ("b", "from"), ("c", "provider"), ("d", "there")]).await;
    // Replace takes the template's keys alone: the provider's are no keys of this object.
    case.secret_is("replace", &[("a", "data"), ("b", "from"), ("c", "there"), ("d", "there")]).await;
}

#[tokio::test]
async fn a_refresh_that_brings_nothing_new_rewrites_nothing_that_clock_or_chance_gave() {
    let case = with_app("stable").await;
    let lockstep_e2e::control_plane::Pair { certificate, key } = Authority::new("stable-ca").issue("stable", None, &["stable"]);
    case.put("pair", json!({"crt": certificate, "key": key})).await;
    case.put("clock", json!({"n": "1"})).await;
    let texts = json!({
        "now": "{{ now | unixEpoch }}", "random": "{{ randAlphaNum 12 }}", "uuid": "{{ uuidv4 }}",
        "ca": "{{ $ca := genCA \"x\" 1 }}{{ $ca.Cert }}", "hash": "{{ htpasswd \"u\" \"p\" }}",
        "store": "{{ pemToPkcs12 .crt .key }}", "locked": "{{ fullPemToPkcs12Pass .crt .key \"changeit\" }}",
        "clock": "{{ .n }}",
    });
    let data_from = json!([{"extract": {"key": case.key("pair")}}, {"extract": {"key": case.key("clock")}}]);
    let spec = json!({"refreshInterval": "1s", "dataFrom": data_from, "target": {"template": {"data": texts}}});
    case.external_secret("app", spec.clone()).await;
    case.synced("app").await;
    let before = case.secrets().get("app").await.unwrap();
    let reads = case.reads("pair");
    lockstep_e2e::harness::eventually("it is refreshed four times", async || (case.reads("pair") >= reads + 4).then_some(()))
        .await;
    // Also one that somebody asks for, where everything is read and rendered again.
    case.force_sync("app").await;
    case.caught_up("app").await;
    let after = case.secrets().get("app").await.unwrap();
    assert_eq!(after.data, before.data);
    assert_eq!(after.resource_version(), before.resource_version(), "nothing was written");
    // What changes is rendered.
    case.put("clock", json!({"n": "2"})).await;
    lockstep_e2e::harness::eventually("the new input", async || (case.secret("app").await?["clock"] == "2").then_some(())).await;
}

#[tokio::test]
async fn hostile_templates_end_and_take_little() {
    let case = Case::with_own_class("hostile").await;
    let operator = case.own_operator("a", &["--leader-elect=false", "--namespace", &case.name]);
    operator.wait_working();
    case.vault_store().await;
    case.put("app", json!({"user": "ada", "pass": "CANARY-p"})).await;
    case.external_secret("before", from_app(&case, json!({}), json!({}))).await;
    case.synced("before").await;
    let before = operator.process.usage().peak_rss;
    let deep = |open: &str, close: &str| format!("{}.{}", open.repeat(5000), close.repeat(5000));
    for (i, (text, needle)) in [
        ("{{ range until 900000 }}{{ range until 900000 }}{{ end }}{{ end }}".to_owned(), ""),
        (
            "{{ range $i := until 1000 }}{{ range until 1000 }}{{ $x := $i }}{{ end }}{{ end }}".to_owned(),
            "takes more than 1000000 steps",
        ),
        ("{{ $l := list }}{{ range until 100000 }}{{ $l = append $l (repeat 100000 \"x\") }}{{ end }}".to_owned(), ""),
        ("{{ $s := \"xxxxxxxx\" }}{{ range until 100 }}{{ $s = printf \"%s%s\" $s $s }}{{ end }}{{ len $s }}".to_owned(), ""),
        ("{{ printf \"%1000000000d\" 1 }}{{ fail \"x\" }}".to_owned(), ""),
        ("{{ repeat 1000000000 \"x\" }}".to_owned(), ""),
        ("{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}".to_owned(), "does it call itself?"),
        (format!("{{{{ {} }}}}", deep("(", ")")), ""),
        ("{{ if true }}".repeat(5000), ""),
        ("{{ range until 100000 }}{{ repeat 90 \"x\" }}{{ end }}".to_owned(), "the output is longer than 4194304 bytes"),
        ("{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ $d | toJson }}".to_owned(), ""),
        (
            format!(
                "{{{{ fromYaml \"a: &a [{}]\\nb: &b [{}]\\nc: [{}]\" }}}}{{{{ fail \"x\" }}}}",
                "x,".repeat(999),
                "*a,".repeat(999),
                "*b,".repeat(999)
            ),
            "",
        ),
        (format!("{{{{ mustRegexMatch \"{}\" (repeat 100000 \"a\") }}}}{{{{ fail \"x\" }}}}", "(a?){200}".repeat(5)), ""),
        ("{{ genPrivateKey \"rsa\" }}".repeat(200), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("hostile-{i}");
        case.external_secret(&name, from_app(&case, json!({"template": {"data": {"k": text}}}), json!({}))).await;
        let message = case.failed(&name, needle).await;
        assert!(message.contains("line 1 column") && !message.contains("CANARY"), "{i}: {message}");
        assert!(case.secret(&name).await.is_none());
    }
    let peak = operator.process.usage().peak_rss;
    assert!(peak < before + (192 << 20), "{} MiB more at the peak", (peak - before) >> 20);
    case.external_secret("after", from_app(&case, json!({}), json!({}))).await;
    case.synced("after").await;
    assert_eq!(operator.metric("lockstep_panics_total", &[]).await, 0);
    assert!(!operator.process.output().contains("CANARY"));
    stop(operator);
}
