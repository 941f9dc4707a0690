//! What goes over the wire, against a scripted API.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use wiremock::matchers::{body_string, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{Webhook, connect};
use crate::registry::Options;
use crate::resolver::Fixed;
use crate::{Deleted, Error, Payload, Provider, Push, Pushed, Source, Target, Want};

async fn webhook(server: &MockServer, more: Value) -> Webhook {
    let mut spec = json!({
        "url": format!("{}/{{{{ .remoteRef.remoteKey }}}}?p={{{{ .remoteRef.property }}}}", server.uri()),
        "headers": {"X-Token": "{{ .api.key }}"},
        "secrets": [{"name": "api", "secretRef": {"name": "any"}}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    connect(serde_json::from_value(spec).unwrap(), Arc::new(Fixed("CANARY".into())), &Options::default()).await.unwrap()
}

fn push(value: Payload) -> Push {
    let target = Target { key: "team/app".into(), property: Some("p".into()), metadata: None };
    Push { target, value, only_new: false, source: Source::default() }
}

#[tokio::test]
async fn a_push_sends_the_value_or_what_the_body_makes_of_it() {
    let server = MockServer::start().await;
    let sent = |verb: &str, body: &str| {
        Mock::given(method(verb))
            .and(path("/team%2Fapp"))
            .and(query_param("p", "p"))
            .and(header("x-token", "CANARY"))
            .and(body_string(body))
    };
    sent("POST", "plain").respond_with(ResponseTemplate::new(204)).expect(1).mount(&server).await;
    sent("POST", r#"{"a":"1"}"#).respond_with(ResponseTemplate::new(201)).expect(1).mount(&server).await;
    sent("PUT", r#"{"value":"plain"}"#).respond_with(ResponseTemplate::new(200)).expect(1).mount(&server).await;
    let simple = webhook(&server, json!({})).await;
    assert_eq!(simple.push(&push(Payload::Bytes("plain".into()))).await, Ok(Pushed::Updated));
    let whole = Payload::Fields(BTreeMap::from([("a".to_owned(), "1".into())]));
    assert_eq!(simple.push(&push(whole)).await, Ok(Pushed::Updated));
    let body = r#"{"value":"{{ index .remoteRef .remoteRef.remoteKey }}"}"#;
    let shaped = webhook(&server, json!({"method": "put", "body": body})).await;
    assert_eq!(shaped.push(&push(Payload::Bytes("plain".into()))).await, Ok(Pushed::Updated));
}

#[tokio::test]
async fn a_deletion_takes_what_is_gone_already_for_gone() {
    let server = MockServer::start().await;
    Mock::given(method("DELETE"))
        .and(path("/here"))
        .and(header("x-token", "CANARY"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    Mock::given(method("DELETE")).and(path("/gone")).respond_with(ResponseTemplate::new(404)).mount(&server).await;
    Mock::given(method("DELETE")).and(path("/broken")).respond_with(ResponseTemplate::new(500)).mount(&server).await;
    let webhook = webhook(&server, json!({})).await;
    let delete = async |key: &str| webhook.delete(&Target { key: key.into(), ..Target::default() }).await;
    assert_eq!(delete("here").await, Ok(Deleted::Done));
    assert_eq!(delete("gone").await, Ok(Deleted::Absent));
    assert!(matches!(delete("broken").await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn statuses_map_to_the_taxonomy_and_no_body_is_repeated() {
    for (code, expected) in [
        (404, "not_found"),
        (401, "denied"),
        (403, "denied"),
        (429, "throttled"),
        (400, "invalid"),
        (422, "invalid"),
        (302, "invalid"),
        (408, "unavailable"),
        (500, "unavailable"),
        (503, "unavailable"),
    ] {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(code).set_body_string("CANARY-body").insert_header("location", "http://127.0.0.2/");
        Mock::given(method("GET")).respond_with(answer).mount(&server).await;
        let webhook = webhook(&server, json!({"url": format!("{}/{{{{ .remoteRef.key }}}}", server.uri())})).await;
        let error = webhook.get(&[Want::latest("a")]).await.remove(0).expect_err("an error");
        assert_eq!(error.category(), expected, "{code}");
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }
}

#[tokio::test]
async fn a_host_that_is_made_of_a_value_is_told_to_nobody() {
    let server = MockServer::start().await;
    for (url, told) in [
        ("http://{{ .api.key | lower }}.example.invalid/x", false),
        ("http://x{{ .api.key | b64enc | lower | replace \"=\" \"\" }}.example.invalid/", false),
        ("http://u:{{ .api.key }}@fixed.example.invalid/", true),
        ("http://fixed.example.invalid/{{ .api.key }}", true),
    ] {
        let connection = webhook(&server, json!({"url": url})).await;
        let Err(error) = connection.get(&[Want::latest("k")]).await.remove(0) else { panic!("{url} is reached") };
        let text = error.to_string().to_lowercase();
        let encoded = "q0foqvjz";
        assert!(!text.contains("canary") && !text.contains(encoded), "{text}");
        assert_eq!(text.contains("fixed.example.invalid"), told, "{text}");
        assert_eq!(text.contains("the host that spec.provider.webhook.url makes"), !told, "{text}");
    }
    // A value that is pushed is none that may be told either.
    let connection =
        webhook(&server, json!({"url": "http://{{ index .remoteRef .remoteRef.remoteKey }}.example.invalid/"})).await;
    let text = connection.push(&push(Payload::Bytes("canary-pushed".into()))).await.expect_err("no such host").to_string();
    assert!(!text.contains("canary-pushed"), "{text}");
}
