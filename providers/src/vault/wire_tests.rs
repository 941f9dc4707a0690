//! What goes over the wire, against a scripted Vault: headers, namespaces, and what a 403 leads to.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{Vault, connect};
use crate::registry::Options;
use crate::resolver::Fixed;
use crate::{Deleted, Error, Fetched, Provider, Result, Target, Want};

async fn vault(server: &MockServer, more: Value) -> Vault {
    let mut spec = json!({"server": server.uri(), "path": "kv", "auth": {"tokenSecretRef": {"name": "t"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    connect(serde_json::from_value(spec).unwrap(), Arc::new(Fixed("hvs.CANARY".into())), &Options::default()).await.unwrap()
}

fn value() -> ResponseTemplate {
    ResponseTemplate::new(200)
        .set_body_json(json!({"data": {"data": {"a": "b"}, "metadata": {"version": 1, "created_time": "t"}}}))
}

fn refused(code: u16) -> ResponseTemplate {
    ResponseTemplate::new(code).set_body_json(json!({"errors": ["permission denied"]}))
}

fn login(token: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"auth": {"client_token": token, "lease_duration": 3600, "renewable": false}}))
}

async fn read(vault: &Vault) -> Result<Fetched> {
    vault.get(&[Want::latest("app")]).await.remove(0)
}

const APP_ROLE: &str =
    r#"{"auth": {"namespace": "team/auth", "appRole": {"path": "approle", "roleId": "r", "secretRef": {"name": "s"}}}}"#;

#[tokio::test]
async fn namespace_headers_and_the_replication_state_are_sent() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path("/v1/kv/data/app"))
        .respond_with(value().insert_header("x-vault-index", "state-1"))
        .mount(&server)
        .await;
    let more = json!({"namespace": "team/a", "headers": {"x-extra": "yes"}, "readYourWrites": true, "forwardInconsistent": true});
    let vault = vault(&server, more).await;
    read(&vault).await.unwrap();
    read(&vault).await.unwrap();
    let requests = server.received_requests().await.unwrap();
    let get = |i: usize, name: &str| requests[i].headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    for i in 0..2 {
        assert_eq!(get(i, "x-vault-namespace").as_deref(), Some("team/a"));
        assert_eq!(get(i, "x-vault-token").as_deref(), Some("hvs.CANARY"));
        assert_eq!(get(i, "x-extra").as_deref(), Some("yes"));
        assert_eq!(get(i, "x-vault-inconsistent").as_deref(), Some("forward-active-node"));
    }
    assert_eq!(get(0, "x-vault-index"), None);
    assert_eq!(get(1, "x-vault-index").as_deref(), Some("state-1"));
}

#[tokio::test]
async fn a_denial_of_a_living_token_is_a_denial_and_of_a_dropped_one_a_single_new_login() {
    let server = MockServer::start().await;
    Mock::given(path("/v1/auth/approle/login"))
        .and(header("x-vault-namespace", "team/auth"))
        .respond_with(login("first"))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path("/v1/auth/approle/login")).respond_with(login("second")).mount(&server).await;
    Mock::given(path("/v1/kv/data/app")).and(header("x-vault-token", "first")).respond_with(refused(403)).mount(&server).await;
    Mock::given(path("/v1/kv/data/app")).and(header("x-vault-token", "second")).respond_with(value()).mount(&server).await;
    Mock::given(path("/v1/auth/token/lookup-self"))
        .and(header("x-vault-token", "first"))
        .respond_with(refused(403))
        .mount(&server)
        .await;
    let vault = vault(&server, serde_json::from_str(APP_ROLE).unwrap()).await;
    // Right after the login the denial is believed.
    assert!(matches!(read(&vault).await, Err(Error::Denied(_))));
    // Later the token is asked about: Vault has dropped it, and ten who meet that make one login.
    tokio::time::sleep(Duration::from_millis(5100)).await;
    let all = futures::future::join_all((0..10).map(|_| read(&vault))).await;
    assert!(all.iter().all(|a| matches!(a, Ok(Fetched::Value { .. }))), "{all:?}");
    let logins = server.received_requests().await.unwrap().iter().filter(|r| r.url.path().ends_with("/login")).count();
    assert_eq!(logins, 2);
}

#[tokio::test]
async fn throttling_says_for_how_long_and_other_failures_say_whom_they_concern() {
    for (answer, expected) in [
        (
            refused(429).insert_header("retry-after", "7"),
            Error::Throttled { retry_after: Some(Duration::from_secs(7)), message: String::new() },
        ),
        (refused(500), Error::unavailable("")),
        (ResponseTemplate::new(503).set_body_json(json!({"errors": ["Vault is sealed"]})), Error::unreachable("")),
        (ResponseTemplate::new(404).set_body_string("<html>"), Error::unavailable("")),
    ] {
        let server = MockServer::start().await;
        Mock::given(path("/v1/kv/data/app")).respond_with(answer).mount(&server).await;
        let error = read(&vault(&server, json!({})).await).await.unwrap_err();
        assert!(!error.to_string().contains("CANARY"), "{error}");
        match (&error, &expected) {
            (Error::Throttled { retry_after: a, .. }, Error::Throttled { retry_after: b, .. }) => assert_eq!(a, b),
            (Error::Unavailable { everybody: a, .. }, Error::Unavailable { everybody: b, .. }) => assert_eq!(a, b, "{error}"),
            _ => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_missing_secret_counts_only_once_the_mount_is_what_the_spec_says() {
    let nothing = || ResponseTemplate::new(404).set_body_json(json!({"errors": []}));
    for (info, authoritative) in [
        (ResponseTemplate::new(200).set_body_json(json!({"data": {"type": "kv", "options": {"version": "2"}}})), true),
        (ResponseTemplate::new(200).set_body_json(json!({"data": {"type": "kv", "options": {"version": "1"}}})), false),
        (refused(500), false),
    ] {
        let server = MockServer::start().await;
        Mock::given(path("/v1/kv/data/app")).respond_with(nothing()).mount(&server).await;
        Mock::given(path("/v1/sys/internal/ui/mounts/kv")).respond_with(info).mount(&server).await;
        let error = read(&vault(&server, json!({})).await).await.unwrap_err();
        assert_eq!(matches!(error, Error::NotFound(_)), authoritative, "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_once_and_an_unknown_host_is_unreachable_for_everybody() {
    let (standby, other) = (MockServer::start().await, MockServer::start().await);
    let to = |location: String| ResponseTemplate::new(307).insert_header("location", location.as_str());
    Mock::given(path("/v1/kv/data/app")).respond_with(to("/v1/moved".into())).up_to_n_times(1).mount(&standby).await;
    Mock::given(path("/v1/moved")).and(header("x-vault-token", "hvs.CANARY")).respond_with(value()).mount(&standby).await;
    assert!(read(&vault(&standby, json!({})).await).await.is_ok());
    // Who listens at another port of the host, or at another host, gets no token.
    Mock::given(wiremock::matchers::any()).respond_with(value()).expect(0).mount(&other).await;
    let away = other.uri().replace("127.0.0.1", "localhost");
    for location in [other.uri(), away] {
        Mock::given(path("/v1/kv/data/app"))
            .respond_with(to(format!("{location}/v1/kv/data/app")))
            .up_to_n_times(1)
            .mount(&standby)
            .await;
        assert!(read(&vault(&standby, json!({})).await).await.is_err(), "{location}");
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = vault(&standby, json!({"server": format!("http://127.0.0.1:{port}")})).await;
    assert!(matches!(read(&gone).await, Err(Error::Unavailable { everybody: true, .. })));
}

#[tokio::test]
async fn a_client_certificate_of_the_spec_is_read_and_must_be_a_pair() {
    let made = async |tls: Value| {
        let auth = json!({"tokenSecretRef": {"name": "t"}});
        let spec = json!({"server": "https://127.0.0.1:1", "path": "kv", "auth": auth, "tls": tls});
        connect(serde_json::from_value(spec).unwrap(), Arc::new(Fixed("CANARY, no PEM".into())), &Options::default()).await.err()
    };
    let half = made(json!({"certSecretRef": {"name": "c"}})).await.unwrap().to_string();
    assert_eq!(half, "spec.provider.vault.tls: needs both certSecretRef and keySecretRef");
    let bad = made(json!({"certSecretRef": {"name": "c"}, "keySecretRef": {"name": "k"}})).await.unwrap().to_string();
    assert!(bad.starts_with("spec.provider.vault.tls.certSecretRef: is no PEM certificate"), "{bad}");
    assert!(!bad.contains("CANARY"), "{bad}");
}

#[tokio::test]
async fn a_property_of_a_deleted_version_is_gone_and_older_versions_stay() {
    let server = MockServer::start().await;
    let mount = json!({"data": {"type": "kv", "path": "kv/", "options": {"version": "2"}}});
    let deleted = json!({"data": {"data": null, "metadata": {"version": 2, "deletion_time": "t", "destroyed": false}}});
    let ours = json!({"data": {"current_version": 2, "custom_metadata": {"managed-by": "external-secrets"}}});
    for (at, code, body) in
        [("/v1/sys/internal/ui/mounts/kv", 200, mount), ("/v1/kv/data/app", 404, deleted), ("/v1/kv/metadata/app", 200, ours)]
    {
        let answer = ResponseTemplate::new(code).set_body_json(body);
        Mock::given(method("GET")).and(path(at)).respond_with(answer).mount(&server).await;
    }
    Mock::given(method("DELETE")).respond_with(ResponseTemplate::new(204)).expect(0).mount(&server).await;
    let target = Target { key: "app".into(), property: Some("p".into()), metadata: None };
    assert_eq!(vault(&server, json!({})).await.delete(&target).await, Ok(Deleted::Absent));
}
