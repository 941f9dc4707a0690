//! Nothing leaks: what was planted is searched for in everything that the operator ever said.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject};
use lockstep_e2e::canary;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::vault::ROOT;
use serde_json::json;

use crate::push::Pushing;
use lockstep_e2e::case::Case;

#[tokio::test]
async fn a_canary_in_vault_is_in_no_log_at_trace_no_event_no_status_and_no_metric() {
    let case = Case::with_own_class("canary").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    let canary = "CANARY-6f1d";
    case.vault_store().await;
    case.put("text", json!({"p": canary, "n": 7})).await;
    case.put("odd", json!({"a b": canary, "a_b": canary})).await;
    // Good and bad ways to use it: each goes through other code, and each error could quote what it met.
    case.external_secret("good", json!({"dataFrom": [{"extract": {"key": case.key("text")}}]})).await;
    case.synced("good").await;
    case.external_secret("clash", json!({"dataFrom": [{"extract": {"key": case.key("odd")}}]})).await;
    case.failed("clash", "both become").await;
    let mut base64 = case.data("k", "text", "p");
    base64["remoteRef"]["decodingStrategy"] = json!("Base64");
    case.external_secret("base64", json!({"data": [base64]})).await;
    case.failed("base64", "not Base64").await;
    case.external_secret("missing", json!({"data": [case.data("k", "text", "nope")]})).await;
    case.failed("missing", "has no property nope").await;
    let json_type = json!({"template": {"type": "kubernetes.io/dockerconfigjson"}});
    case.external_secret("shape", json!({"data": [case.data(".dockerconfigjson", "text", "p")], "target": json_type})).await;
    case.failed("shape", "needs JSON").await;
    case.apply_store("fake", json!({"fake": {"data": [{"key": "k", "value": canary}]}})).await;
    case.external_secret(
        "fake",
        json!({"secretStoreRef": {"name": "fake"}, "data": [{"secretKey": "k", "remoteRef": {"key": "k", "property": "x"}}]}),
    )
    .await;
    case.failed("fake", "not JSON").await;
    // A wrong token is a value too.
    case.apply_secret("wrong-token", &[("token", "CANARY-6f1d-token")]).await;
    let wrong = json!({"tokenSecretRef": {"name": "wrong-token", "key": "token"}});
    case.apply_store("wrong", case.vault_at(&case.harness.vault.url, wrong)).await;
    case.store_is("wrong", "False", "InvalidProviderConfig", "code 403").await;
    case.put("text", json!({"p": format!("{canary}-2")})).await;
    case.force_sync("good").await;
    case.secret_is("good", &[("p", "CANARY-6f1d-2")]).await;
    case.caught_up("good").await;

    let metrics = operator.metrics().await;
    assert!(metrics.contains("externalsecret_sync_calls_total{"), "the metrics are there");
    let log = operator.process.output();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is at its lowest level");
    assert!(log.contains("sync failed"), "and tells what failed");
    let mut said = vec![("log", log), ("metrics", metrics)];
    let events: Api<Event> = Api::namespaced(case.client.clone(), &case.name);
    let events = events.list(&Default::default()).await.unwrap();
    assert!(events.items.len() >= 5, "there are events");
    said.push(("events", format!("{events:?}")));
    for kind in ["ExternalSecret", "SecretStore"] {
        let resource =
            kube::discovery::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("external-secrets.io", "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(case.client.clone(), &case.name, &resource);
        for object in api.list(&Default::default()).await.unwrap() {
            said.push(("status", object.data["status"].to_string()));
        }
    }
    for (place, text) in &said {
        assert_eq!(canary::find(text.as_bytes(), canary.as_bytes()), None, "the canary is in the {place}");
        assert_eq!(canary::find(text.as_bytes(), ROOT.as_bytes()), None, "the root token is in the {place}");
    }
    // The shared operator, which serves every other scenario at TRACE, has said none of their values either.
    assert!(!case.shared_operator().process.output().contains("CANARY"));
}

#[tokio::test]
async fn a_canary_that_is_pushed_is_in_no_log_no_event_no_status_and_no_metric() {
    let case = Case::with_own_class("canarypush").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    let on = Pushing::of(case).await;
    let case = &on.0;
    let canary = "CANARY-5e2a";
    case.apply_secret("source", &[("user", canary), ("json", &json!({"in": canary}).to_string())]).await;
    let to = |name: &str, property: &str| json!({"match": {"secretKey": "user", "remoteRef": {"remoteKey": on.key(name), "property": property}}});
    on.push("good", json!({"data": [to("good", "user")], "deletionPolicy": "Delete"})).await;
    on.is("good", "True", "Synced", "").await;
    // Each failure goes through other code, and could quote what it met.
    let template = |text: &str| json!({"data": [to("bad", "p")], "template": {"data": {"user": text}}});
    let mut missing = to("bad", "p");
    missing["match"]["secretKey"] = json!("absent");
    case.put("theirs", json!({"p": "somebody's"})).await;
    let by_rule = |rewrite: serde_json::Value| json!({"dataTo": [{"storeRef": {"name": "vault"}, "rewrite": [rewrite]}]});
    for (name, spec, needle) in [
        ("missing", json!({"data": [missing]}), "has no key absent"),
        ("foreign", json!({"data": [to("theirs", "p")]}), "is not managed by external-secrets"),
        ("fails", template("{{ fail .user }}"), "template"),
        ("parses", template("{{ (fromJson .user).x }}"), "template"),
        ("counts", template("{{ index .user 999 }}"), "template"),
        ("twice", json!({"data": [to("twice", "p"), to("twice", "p")]}), "twice"),
        ("rule", by_rule(json!({"transform": {"template": "{{ fail .value }}"}})), "dataTo[0]"),
        ("clash", by_rule(json!({"regexp": {"source": ".*", "target": on.key("clash")}})), "clash"),
    ] {
        on.push(name, spec).await;
        on.is(name, "False", "Errored", needle).await;
    }
    // A token that the provider refuses is a value too, and so is what a store echoes.
    case.apply_secret("wrong-token", &[("token", "CANARY-5e2a-token")]).await;
    let wrong = json!({"tokenSecretRef": {"name": "wrong-token", "key": "token"}});
    case.apply_store("wrong", case.vault_at(&case.harness.vault.url, wrong)).await;
    on.push("refused", json!({"secretStoreRefs": [{"name": "wrong"}], "data": [to("refused", "p")]})).await;
    on.is("refused", "False", "Errored", "").await;
    // It changes, and goes.
    case.apply_secret("source", &[("user", "CANARY-5e2a-2"), ("json", "{}")]).await;
    eventually("the new value arrives", async || {
        let data = case.harness.vault.read(&format!("secret/data/{}", on.key("good"))).await["data"]["data"].clone();
        (data["user"] == "CANARY-5e2a-2").then_some(())
    })
    .await;
    let metrics = operator.metrics().await;
    let log = operator.process.output();
    assert!(log.contains("push failed"), "the log tells what failed");
    let mut said = vec![("log".to_owned(), log), ("metrics".to_owned(), metrics)];
    for (place, version, kind) in [
        ("status", "external-secrets.io/v1alpha1", "PushSecret"),
        ("status of the store", "external-secrets.io/v1", "SecretStore"),
        ("event", "events.k8s.io/v1", "Event"),
    ] {
        let api = harness::api_of(&case.client, Some(&case.name), &json!({"apiVersion": version, "kind": kind}));
        let all = api.list(&Default::default()).await.unwrap().items;
        assert!(!all.is_empty(), "there is a {place}");
        said.extend(
            all.iter().map(|object| {
                (place.to_owned(), if kind == "Event" { &object.data } else { &object.data["status"] }.to_string())
            }),
        );
    }
    for (place, text) in &said {
        for secret in [canary, ROOT] {
            assert_eq!(canary::find(text.as_bytes(), secret.as_bytes()), None, "the canary is in the {place}: {text}");
        }
    }
}

/// Everything that a process has in its memory and may read itself, piece by piece.
fn memory(pid: u32, mut look: impl FnMut(&str, &[u8])) {
    use std::io::{Read, Seek, SeekFrom};
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("root reads the memory of others");
    let mut file = std::fs::File::open(format!("/proc/{pid}/mem")).expect("root reads the memory of others");
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        if !rights.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // A part that is gone since the list was read has nothing to say.
        if file.seek(SeekFrom::Start(from)).is_ok() && file.read_exact(&mut bytes).is_ok() {
            look(line, &bytes);
        }
    }
}

#[tokio::test]
async fn a_value_that_nobody_needs_any_more_is_nowhere_in_the_memory_of_the_process() {
    let case = Case::with_own_class("memory").await;
    // A connection that others keep busy would keep the tail of what it read (SECURITY.md).
    let operator = case.own_operator("a", &["--namespace", &case.name]);
    operator.wait_working();
    case.vault_store().await;
    let value = "CANARY-memory-7d3f91c2-ü/+\"-of-some-length";
    case.put("app", json!({"p": value, "q": "CANARY-memory-other"})).await;
    let template = json!({"mergePolicy": "Merge", "data": {"conf": "{{ .p | upper | b64enc }} {{ .p }}"}});
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")], "target": {"template": template}})).await;
    case.synced("app").await;
    // Somebody edits the target, so that the operator reads it too; and another way that fails.
    let patch = json!({"stringData": {"p": "edited"}});
    case.secrets().patch("app", &Default::default(), &kube::api::Patch::Merge(&patch)).await.unwrap();
    eventually("it is put right", async || case.secret("app").await.filter(|s| s["p"] == value)).await;
    let mut base64 = case.data("k", "app", "p");
    base64["remoteRef"]["decodingStrategy"] = json!("Base64");
    case.external_secret("bad", json!({"data": [base64]})).await;
    case.failed("bad", "not Base64").await;
    // The values are gone at the provider: nothing asks for them again.
    case.harness.vault.remove(&case.key("app")).await;
    case.force_sync("bad").await;

    let found = || {
        let mut places = Vec::new();
        memory(operator.process.pid, |line, bytes| {
            for (name, form) in canary::forms(value.as_bytes()) {
                if let Some(at) = canary::position(bytes, &form) {
                    let around = &bytes[at.saturating_sub(400)..(at + 200).min(bytes.len())];
                    places.push(format!("{name}: {line}: {}", around.escape_ascii()));
                }
            }
        });
        places
    };
    // What is shared among those who read is kept for some seconds.
    let mut last = found();
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while !last.is_empty() && tokio::time::Instant::now() < end {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        last = found();
    }
    assert!(last.is_empty(), "a minute later: {last:#?}");
    // The search finds what is there: the token of the store is needed for as long as the store is.
    let mut there = false;
    memory(operator.process.pid, |_, bytes| there |= canary::contains(bytes, ROOT.as_bytes()));
    assert!(there, "the memory was searched");
}

#[tokio::test]
async fn no_core_dump_is_written_and_nobody_but_root_reads_the_memory() {
    let case = Case::with_own_class("dump").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    let pid = operator.process.pid;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
    // The kernel gives the files of a process that is not dumpable to root, whoever runs it (proc(5)).
    let somebody = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "sleep", "30"])
        .spawn();
    let owner = |pid: u32| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/mem")).unwrap());
    assert_eq!(owner(pid), 0);
    if let Ok(mut sleeper) = somebody {
        eventually("an ordinary process is its user's", async || (owner(sleeper.id()) == 65534).then_some(())).await;
        let binary = case.harness.binary.clone();
        let kubeconfig = case.harness.folder.path().join("operator.kubeconfig");
        let readable = case.harness.folder.path();
        std::fs::set_permissions(readable, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut as_nobody = std::process::Command::new("setpriv");
        as_nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(binary);
        as_nobody.args(["run", "--leader-elect=false", "--controller-class", &format!("{}-nobody", case.name)]);
        as_nobody.args(["--metrics-addr", "127.0.0.1:0", "--health-addr", "127.0.0.1:0"]).env("KUBECONFIG", kubeconfig);
        as_nobody.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut operator = as_nobody.spawn().unwrap();
        eventually("the operator's memory is root's though nobody runs it", async || {
            assert!(operator.try_wait().unwrap().is_none(), "it runs");
            (owner(operator.id()) == 0).then_some(())
        })
        .await;
        for child in [&mut operator, &mut sleeper] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
