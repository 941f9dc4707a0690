//! The audit trail, as whoever has to answer for it reads it.

use lockstep_e2e::canary;
use lockstep_e2e::case::{Case, stop};
use lockstep_e2e::harness::eventually;
use lockstep_e2e::operator::Operator;
use lockstep_e2e::otlp::Collector;
use serde_json::{Value, json};

use crate::push::Pushing;

const KEY: &str = "an audit key of at least thirty-two bytes";

fn key_file(case: &Case) -> String {
    let path = case.harness.folder.path().join(format!("{}.audit-key", case.name));
    std::fs::write(&path, KEY).unwrap();
    path.display().to_string()
}

fn records(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|r| r["audit"] == "lockstep").collect()
}

fn of<'a>(all: &'a [Value], action: &str) -> Vec<&'a Value> {
    all.iter().filter(|r| r["action"] == action).collect()
}

/// What `lockstep audit-hash` says of a value.
fn hash(case: &Case, key_file: &str, value: &str) -> String {
    use std::io::Write;
    let mut command = std::process::Command::new(&case.harness.binary);
    command.args(["audit-hash", "--key-file", key_file]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

async fn until(operator: &Operator, path: &std::path::Path, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    eventually(what, async || {
        assert!(operator.process.is_running());
        let all = records(&std::fs::read_to_string(path).unwrap_or_default());
        is(&all).then_some(all)
    })
    .await
}

#[tokio::test]
async fn who_had_which_value_since_when_is_told_and_no_value_is() {
    let case = Case::with_own_class("audit").await;
    let (file, key) = (case.harness.folder.path().join(format!("{}.jsonl", case.name)), key_file(&case));
    let operator = case.own_operator("a", &["--audit", &format!("file={}", file.display()), "--audit-key-file", &key]);
    case.vault_store().await;
    case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    let data = json!([case.data("user", "app", "user"), case.data("pass", "app", "pass")]);
    case.external_secret("app", json!({"data": data})).await;
    case.synced("app").await;
    let all = until(&operator, &file, "the first sync is told", |all| !of(all, "target.write").is_empty()).await;

    let start = of(&all, "operator.start")[0];
    assert_eq!(start["key"]["kept"], true);
    let read = of(&all, "provider.get")[0];
    assert_eq!(read["result"], "ok");
    assert_eq!(read["store"]["provider"], "vault");
    assert_eq!(read["store"]["identity"]["auth"]["tokenSecretRef"]["name"], "vault-token");
    assert_eq!(read["secret"]["key"], json!(case.key("app")));
    assert!(read["secret"]["version"].as_str().unwrap().starts_with("1@"), "{read}");
    let write = of(&all, "target.write")[0];
    assert_eq!(write["result"], "created");
    assert_eq!(write["object"]["name"], "app");
    assert_eq!(write["target"]["uid"], json!(case.secrets().get("app").await.unwrap().metadata.uid));
    assert_eq!(write["keys"]["pass"], json!(hash(&case, &key, "CANARY-p")), "somebody with the key can tell which value it was");
    assert_ne!(write["keys"]["user"], write["keys"]["pass"]);
    assert_eq!(write["sources"][0]["key"], json!(case.key("app")));
    assert_eq!(write["sources"][0]["store"]["name"], "vault");

    // A refresh that changes nothing is an access and no change; a change is both; what fails is told as such.
    case.force_sync("app").await;
    case.caught_up("app").await;
    case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-2"})).await;
    case.force_sync("app").await;
    case.secret_is("app", &[("user", "CANARY-u"), ("pass", "CANARY-2")]).await;
    case.external_secret("none", json!({"data": [case.data("p", "missing", "p")]})).await;
    case.failed("none", "").await;
    // Before the end: if that is seen after the Secret's, it is made once more, and collected.
    let all = until(&operator, &file, "both writes are told", |all| of(all, "target.write").len() >= 2).await;
    let writes = of(&all, "target.write");
    assert_eq!(writes.iter().map(|w| w["result"].as_str().unwrap()).collect::<Vec<_>>(), ["created", "updated"]);
    assert!(writes[1]["sources"][0]["version"].as_str().unwrap().starts_with("2@"), "{:?}", writes[1]);
    case.delete("app").await;
    let all = until(&operator, &file, "the end is told", |all| !of(all, "object.gone").is_empty()).await;
    assert!(
        of(&all, "provider.get").iter().any(|r| r["result"] == "not_found" && r["secret"]["key"] == json!(case.key("missing")))
    );
    assert_eq!(of(&all, "object.gone")[0]["result"], "collected");
    assert!(of(&all, "provider.get").len() >= 4, "{all:#?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(canary::find(text.as_bytes(), b"CANARY"), None);
    eventually("what was written is counted", async || {
        let written = operator.metric("lockstep_audit_records_total", &["result=\"written\""]).await;
        (written == std::fs::read_to_string(&file).unwrap().lines().count() as u64).then_some(())
    })
    .await;
    assert_eq!(operator.metric("lockstep_audit_records_total", &["result=\"lost\""]).await, 0);
    stop(operator);
}

#[tokio::test]
async fn a_collector_of_opentelemetry_takes_it_and_what_it_does_not_take_is_counted() {
    let case = Case::with_own_class("otlp").await;
    let collector = Collector::start().unwrap();
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=CANARY-tenant")];
    // It is busy at first: the batch is sent again.
    collector.refuse(503, 1);
    let operator = case.own_operator_with("a", &["--audit", "otlp", "--audit", "stdout"], &env);
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    let bodies = eventually("the collector has the write", async || {
        let bodies = collector.bodies();
        bodies.iter().any(|b| b.to_string().contains("target.write")).then_some(bodies)
    })
    .await;
    assert!(collector.headers().iter().all(|h| h.get("x-tenant").is_some_and(|v| v == "CANARY-tenant")));
    assert_eq!(records(&operator.process.output()).first().map(|r| r["action"].clone()), Some(json!("operator.start")));
    // The protocol's own types read it.
    let parsed = Collector::parse_with_opentelemetry(&bodies).unwrap();
    assert!(parsed.contains("target.write") && parsed.contains("provider.get"), "{parsed}");
    assert_eq!(canary::find(parsed.as_bytes(), b"CANARY-p"), None);

    // One that refuses for good loses records, which are counted; the sync goes on.
    let lost = async || operator.metric("lockstep_audit_records_total", &["result=\"lost\""]).await;
    assert_eq!(lost().await, 0);
    collector.refuse(400, 1000);
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.force_sync("app").await;
    case.secret_is("app", &[("p", "CANARY-2")]).await;
    eventually("the loss is counted", async || (lost().await > 0).then_some(())).await;
    eventually("and told once", async || operator.process.output().contains("audit records are lost").then_some(())).await;
    stop(operator);
}

#[tokio::test]
async fn what_is_pushed_where_and_taken_back_is_told() {
    let on = Pushing::of(Case::with_own_class("auditpush").await).await;
    let file = on.0.harness.folder.path().join(format!("{}.jsonl", on.0.name));
    let operator = on.0.own_operator("a", &["--audit", &format!("file={}", file.display())]);
    on.push("push", json!({"deletionPolicy": "Delete", "data": [on.entry(Some("user"), "app", Some("name"))]})).await;
    on.remote_is("app", json!({"name": "CANARY-u"})).await;
    let all = until(&operator, &file, "the push is told", |all| !of(all, "target.write").is_empty()).await;
    let write = of(&all, "target.write")[0];
    assert_eq!((&write["object"]["kind"], &write["result"]), (&json!("PushSecret"), &json!("created")));
    assert_eq!((&write["target"]["key"], &write["target"]["property"]), (&json!(on.key("app")), &json!("name")));
    assert_eq!(of(&all, "provider.push")[0]["result"], "ok");
    on.api().delete("push", &Default::default()).await.unwrap();
    on.remote_is("app", Value::Null).await;
    let all = until(&operator, &file, "the end is told", |all| !of(all, "target.delete").is_empty()).await;
    assert_eq!(of(&all, "target.delete")[0]["result"], "deleted");
    assert_eq!(of(&all, "operator.start")[0]["key"]["kept"], false, "without a file the key is one of chance");
    assert_eq!(canary::find(std::fs::read_to_string(&file).unwrap().as_bytes(), b"CANARY"), None);
    stop(operator);
}
