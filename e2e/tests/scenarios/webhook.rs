//! Webhook stores, and where stores may connect to at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use lockstep_e2e::faults::Fault;
use lockstep_e2e::harness::eventually;
use lockstep_e2e::http_api::HttpApi;
use lockstep_e2e::ntlm::NtlmApi;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

fn spec(url: &str, more: Value) -> Value {
    let mut spec = json!({
        "url": format!("{url}/secrets/{{{{ .remoteRef.key }}}}?version={{{{ .remoteRef.version }}}}&from={{{{ .remoteRef.namespace }}}}"),
        "headers": {"Authorization": "Bearer {{ .api.token }}"},
        "result": {"jsonPath": "$.data.{{ .remoteRef.property }}"},
        "secrets": [{"name": "api", "secretRef": {"name": "api"}}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"webhook": spec})
}

async fn credentials(case: &Case, token: &str, labels: Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "api", "labels": labels}, "stringData": {"token": token}});
    case.apply(secret).await.unwrap();
}

fn entry(secret_key: &str, key: &str, property: &str) -> Value {
    json!({"secretKey": secret_key, "remoteRef": {"key": key, "property": property, "version": "v 2"}})
}

#[tokio::test]
async fn a_webhook_serves_what_its_templates_ask_for() {
    let case = Case::new("webhook").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("team/app", json!({"user": "CANARY-u", "pin": {"n": 7}}));
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    case.apply_store("hook", spec(&api.url, json!({}))).await;
    case.store_is("hook", "True", "Valid", "store validated").await;
    let data = json!([entry("user", "team/app", "user"), entry("pin", "team/app", "pin")]);
    case.external_secret("app", json!({"secretStoreRef": {"name": "hook"}, "data": data})).await;
    case.secret_is("app", &[("user", "CANARY-u"), ("pin", r#"{"n":7}"#)]).await;
    let asked = api.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.key.as_str()), ("GET", "team/app"), "the key is one segment");
    assert_eq!((asked.query["version"].as_str(), &asked.query["from"]), ("v 2", &case.name));

    // What is not there is not found, and what the path does not match is said.
    case.external_secret("gone", json!({"secretStoreRef": {"name": "hook"}, "data": [entry("user", "nowhere", "user")]})).await;
    case.failed("gone", "has nothing there (code 404)").await;
    case.external_secret("other", json!({"secretStoreRef": {"name": "hook"}, "data": [entry("user", "team/app", "pass")]})).await;
    case.failed("other", "matches nothing; the answer is an object with data").await;

    // A rotated token is taken up at once, a wrong one is named.
    credentials(&case, "CANARY-wrong", json!({"external-secrets.io/type": "webhook"})).await;
    case.force_sync("app").await;
    case.failed("app", "refuses the request (code 403)").await;
    case.secret_is("app", &[("user", "CANARY-u"), ("pin", r#"{"n":7}"#)]).await;
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    case.synced("app").await;
}

#[tokio::test]
async fn a_webhook_sends_the_body_that_its_template_makes_and_takes_what_is_pushed() {
    let case = Case::new("webhook-body").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("app", json!({"user": "CANARY-u"}));
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    let body = r#"{"key": "{{ .remoteRef.key | upper }}", "as": "{{ .api.token }}"}"#;
    case.apply_store("hook", spec(&api.url, json!({"method": "PUT", "body": body}))).await;
    case.external_secret("app", json!({"secretStoreRef": {"name": "hook"}, "data": [entry("user", "app", "user")]})).await;
    case.secret_is("app", &[("user", "CANARY-u")]).await;
    let asked = api.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.body.as_str()), ("PUT", r#"{"key": "APP", "as": "CANARY-token"}"#));

    let url = format!("{}/secrets/{{{{ .remoteRef.remoteKey }}}}", api.url);
    let push_body = r#"{"value": "{{ index .remoteRef .remoteRef.remoteKey }}"}"#;
    let store = spec(&api.url, json!({"url": url, "method": "POST", "body": push_body}));
    case.apply_store("pushes", store).await;
    case.apply_secret("source", &[("k", "CANARY-pushed")]).await;
    let push = json!({"secretStoreRefs": [{"name": "pushes"}], "selector": {"secret": {"name": "source"}},
        "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": "made"}}}]});
    case.apply(
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "push"}, "spec": push}),
    )
    .await
    .unwrap();
    let pushed =
        eventually("it is pushed", async || api.asked().into_iter().find(|a| a.key == "made" && a.method == "POST")).await;
    assert_eq!(pushed.body, r#"{"value": "CANARY-pushed"}"#);
}

#[tokio::test]
async fn what_a_webhook_does_not_have_goes_as_the_deletion_policy_says_and_what_it_can_not_say_stays() {
    let case = Case::new("webhook-gone").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("app", json!({"user": "CANARY-u"}));
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    case.apply_store("hook", spec(&api.url, json!({}))).await;
    let all = [("delete", "Delete"), ("merge", "Merge"), ("retain", "Retain")];
    for (name, policy) in all {
        let target = json!({"deletionPolicy": policy});
        case.external_secret(
            name,
            json!({"secretStoreRef": {"name": "hook"}, "target": target, "data": [entry("user", "app", "user")]}),
        )
        .await;
        case.secret_is(name, &[("user", "CANARY-u")]).await;
    }
    let failing = Arc::new(AtomicU16::new(0));
    for status in [500, 403, 410] {
        let now = failing.clone();
        let answer = Fault::Answer { status, retry_after: None, body: "{}".into() };
        api.faults.add(usize::MAX, answer, move |_, _| now.load(Ordering::SeqCst) == status);
    }
    for status in [500, 403, 410] {
        failing.store(status, Ordering::SeqCst);
        for (name, _) in all {
            case.force_sync(name).await;
            case.failed(name, &format!("code {status}")).await;
            case.secret_is(name, &[("user", "CANARY-u")]).await;
        }
    }
    failing.store(0, Ordering::SeqCst);
    api.remove("app");
    for (name, _) in all {
        case.force_sync(name).await;
    }
    case.secret_gone("delete").await;
    case.ready_is("delete", "True", "SecretDeleted", "").await;
    case.secret_is("merge", &[]).await;
    case.failed("retain", "has nothing there (code 404)").await;
    case.secret_is("retain", &[("user", "CANARY-u")]).await;
}

#[tokio::test]
async fn a_store_that_says_so_tries_again() {
    let case = Case::new("webhook-patient").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("app", json!({"user": "CANARY-u"}));
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    case.apply_store("hook", spec(&api.url, json!({}))).await;
    let before = std::cell::Cell::new(0);
    case.rides_two_failures_out("hook", json!([entry("user", "app", "user")]), || {
        before.set(api.asked().len());
        api.faults.add(2, Fault::Answer { status: 503, retry_after: None, body: "{}".into() }, |_, _| true)
    })
    .await;
    assert_eq!(api.asked().len(), before.get() + 1, "what failed never came here");
}

#[tokio::test]
async fn a_webhook_uses_only_secrets_whose_owner_allows_it() {
    let case = Case::new("webhook-label").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("app", json!({"user": "CANARY-u"}));
    credentials(&case, "CANARY-token", json!({})).await;
    case.apply_store("hook", spec(&api.url, json!({}))).await;
    case.external_secret("app", json!({"secretStoreRef": {"name": "hook"}, "data": [entry("user", "app", "user")]})).await;
    case.failed("app", "does not carry the label external-secrets.io/type=webhook").await;
    case.store_is("hook", "False", "InvalidProviderConfig", "does not carry the label").await;
    assert_eq!(api.asked(), []);
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    case.synced("app").await;
}

#[tokio::test]
async fn a_wrong_webhook_says_where_it_is_wrong() {
    let case = Case::new("webhook-wrong").await;
    let api = HttpApi::start("CANARY-token").await;
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    for (name, more, needle) in [
        ("function", json!({"url": format!("{}/{{{{ .remoteRef.key | env }}}}", api.url)}), "function \"env\" not defined"),
        (
            "variable",
            json!({"headers": {"X-Key": "{{ .api.pin }}"}}),
            "spec.provider.webhook.headers.X-Key: template X-Key line 1 column 4: at <.api.pin>: map has no entry for key \"pin\"; there is .api.token, ",
        ),
        ("method", json!({"method": "GE T"}), "spec.provider.webhook.method: is no HTTP method"),
        ("timeout", json!({"timeout": "soon"}), "spec.provider.webhook.timeout"),
        ("scheme", json!({"url": "file:///etc/passwd?{{ .remoteRef.key }}"}), "makes no http or https URL"),
        ("path", json!({"result": {"jsonPath": "data["}}), "is no JSONPath"),
    ] {
        api.put("app", json!({"user": "CANARY-u"}));
        case.apply_store(name, spec(&api.url, more)).await;
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": [entry("user", "app", "user")]})).await;
        case.failed(name, needle).await;
    }
}

#[tokio::test]
async fn stores_do_not_reach_link_local_and_metadata_addresses() {
    let case = Case::new("egress").await;
    case.apply_secret("vault-token", &[("token", "CANARY")]).await;
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    let vault = case.vault_at("http://169.254.169.254", json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}}));
    let hook = |url: &str| spec(url, json!({}));
    let kubernetes = json!({"kubernetes": {"server": {"url": "https://[fe80::1]"}, "auth": {"token": {"bearerToken": {"name": "vault-token", "key": "token"}}}}});
    for (name, provider) in [
        ("vault", vault),
        ("hook", hook("http://0xa9fea9fe")),
        ("mapped", hook("http://[::ffff:169.254.169.254]")),
        ("kubernetes", kubernetes),
    ] {
        case.apply_store(name, provider).await;
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": [entry("user", "app", "user")]})).await;
        case.failed(name, "a link-local address (where clouds serve metadata), which stores may not reach").await;
    }
}

#[tokio::test]
async fn a_flag_names_all_that_stores_may_reach() {
    let case = Case::with_own_class("egress-only").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("app", json!({"user": "CANARY-u"}));
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    let operator = case.own_operator("only", &["--egress-only", "127.0.0.1", "--egress-only", "*.example.com"]);
    operator.wait_working();
    let by_name = api.url.replace("127.0.0.1", "localhost");
    for (name, url) in [("address", api.url.as_str()), ("name", by_name.as_str())] {
        case.apply_store(name, spec(url, json!({}))).await;
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": [entry("user", "app", "user")]})).await;
        case.secret_is(name, &[("user", "CANARY-u")]).await;
    }
    let elsewhere = json!({"url": "http://127.0.0.2:9/{{ .remoteRef.key }}"});
    case.apply_store("elsewhere", spec(&api.url, elsewhere)).await;
    let object = json!({"secretStoreRef": {"name": "elsewhere"}, "data": [entry("user", "app", "user")]});
    case.external_secret("elsewhere", object).await;
    case.failed("elsewhere", "is not in what --egress-only lists").await;
}

#[tokio::test]
async fn a_cluster_store_is_read_as_each_namespace_that_its_templates_name() {
    let case = Case::new("webhook-ns").await;
    let other = Case::new("webhook-ns-other").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("app", json!({"user": "CANARY-u"}));
    credentials(&case, "CANARY-token", json!({"external-secrets.io/type": "webhook"})).await;
    let secrets = json!([{"name": "api", "secretRef": {"name": "api", "namespace": case.name}}]);
    let name = format!("hook-{}", case.name);
    case.apply_cluster_store(&name, spec(&api.url, json!({"secrets": secrets})), json!([])).await;
    let store = json!({"name": name, "kind": "ClusterSecretStore"});
    for case in [&case, &other] {
        case.external_secret("app", json!({"secretStoreRef": store, "data": [entry("user", "app", "user")]})).await;
        case.secret_is("app", &[("user", "CANARY-u")]).await;
    }
    let from: Vec<String> = api.asked().into_iter().map(|asked| asked.query["from"].clone()).collect();
    assert!(from.contains(&case.name) && from.contains(&other.name), "{from:?}");
    case.delete_cluster_store(&name).await;
}

async fn ntlm_api(case: &Case, scheme: &'static str) -> NtlmApi {
    let (folder, name) = (case.harness.folder.path().to_owned(), format!("{}-{scheme}", case.name));
    let start = move || NtlmApi::start(&folder, &name, scheme, "CANARY-password", "CANARY-value").unwrap();
    tokio::task::spawn_blocking(start).await.unwrap()
}

async fn ntlm_user(case: &Case, user: &str, password: &str, labels: Value) {
    let data = json!({"user": user, "password": password});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ntlm", "labels": labels}, "stringData": data});
    case.apply(secret).await.unwrap();
}

fn ntlm_spec(api: &NtlmApi) -> Value {
    let part = |key: &str| json!({"name": "ntlm", "key": key});
    let auth = json!({"ntlm": {"usernameSecret": part("user"), "passwordSecret": part("password")}});
    let url = format!("{}/secrets/{{{{ .remoteRef.key }}}}", api.url);
    json!({"webhook": {"url": url, "result": {"jsonPath": "$.data.value"}, "auth": auth}})
}

#[tokio::test]
async fn a_webhook_logs_in_with_ntlm_once_a_connection() {
    let case = Case::new("ntlm").await;
    let api = ntlm_api(&case, "NTLM").await;
    let ours = json!({"external-secrets.io/type": "webhook"});
    ntlm_user(&case, "DOMAIN\\app", "CANARY-password", json!({})).await;
    case.apply_store("hook", ntlm_spec(&api)).await;
    let data = json!([{"secretKey": "v", "remoteRef": {"key": "a"}}, {"secretKey": "w", "remoteRef": {"key": "b"}}]);
    case.external_secret("app", json!({"secretStoreRef": {"name": "hook"}, "data": data})).await;
    case.failed("app", "does not carry the label external-secrets.io/type=webhook").await;
    ntlm_user(&case, "DOMAIN\\app", "CANARY-password", ours.clone()).await;
    case.secret_is("app", &[("v", "CANARY-value"), ("w", "CANARY-value")]).await;
    assert_eq!(api.requests()[..4], ["anonymous", "challenged", r"logged in DOMAIN\app", r"served DOMAIN\app"]);

    // A wrong password is named and tried no more than twice, for directories lock users out; the value stays.
    ntlm_user(&case, "DOMAIN\\app", "CANARY-wrong", ours.clone()).await;
    case.force_sync("app").await;
    case.failed("app", "refuses the NTLM login (code 401); check the user (DOMAIN\\name) and the password").await;
    case.secret_is("app", &[("v", "CANARY-value"), ("w", "CANARY-value")]).await;
    case.force_sync("app").await;
    case.failed("app", "refuses the NTLM login").await;
    let refused = api.requests().iter().filter(|line| line.starts_with("refused")).count();
    assert_eq!(refused, 2, "{:?}", api.requests());
    ntlm_user(&case, "DOMAIN\\app", "CANARY-password", ours).await;
    case.synced("app").await;
}

#[tokio::test]
async fn ntlm_goes_by_negotiate_too_and_a_password_never_by_basic() {
    let case = Case::new("ntlm-offers").await;
    ntlm_user(&case, "DOMAIN\\app", "CANARY-password", json!({"external-secrets.io/type": "webhook"})).await;
    let (negotiate, basic) = (ntlm_api(&case, "Negotiate").await, ntlm_api(&case, "Basic").await);
    for (name, api) in [("negotiate", &negotiate), ("basic", &basic)] {
        case.apply_store(name, ntlm_spec(api)).await;
        let data = json!([{"secretKey": "v", "remoteRef": {"key": "a"}}]);
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": data})).await;
    }
    case.secret_is("negotiate", &[("v", "CANARY-value")]).await;
    // A request with a body: its length is told in every message.
    let mut posts = ntlm_spec(&negotiate);
    posts["webhook"]["method"] = json!("POST");
    case.apply_store("empty", posts.clone()).await;
    posts["webhook"]["body"] = json!("{{ .remoteRef.key }}");
    case.apply_store("posts", posts).await;
    for name in ["empty", "posts"] {
        let data = json!([{"secretKey": "v", "remoteRef": {"key": "a"}}]);
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": data})).await;
        case.secret_is(name, &[("v", "CANARY-value")]).await;
    }
    assert!(!negotiate.requests().iter().any(|line| line == "without a length"), "{:?}", negotiate.requests());
    case.failed("basic", "refuses the request (code 401) and does not offer NTLM").await;
    assert!(basic.requests().iter().all(|line| line == "anonymous"), "{:?}", basic.requests());
}
