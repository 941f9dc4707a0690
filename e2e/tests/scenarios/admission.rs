//! `lockstep webhook`, asked by the real API server.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use lockstep::admission::certificate::{self, Pair};
use lockstep_e2e::control_plane::kubeconfig;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::process::{Process, free_port};
use serde_json::{Value, json};

use crate::deployment::render;
use lockstep_e2e::case::Case;

const NAMESPACE: &str = "lockstep-system";
const NAME: &str = "lockstep-webhook";

struct Webhook {
    process: Process,
    port: u16,
    health: u16,
    metrics: u16,
}

impl Webhook {
    fn start(case: &Case, name: &str, port: u16, args: &[&str], kubeconfig: &Path) -> Self {
        let (health, metrics) = (free_port(), free_port());
        let mut command = Command::new(&case.harness.binary);
        command.args(["webhook", "--log-level", "trace", "--tls-name", "127.0.0.1", "--namespace", NAMESPACE]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]).args(args);
        command.args(["--health-addr", &format!("127.0.0.1:{health}"), "--metrics-addr", &format!("127.0.0.1:{metrics}")]);
        command.env("KUBECONFIG", kubeconfig);
        let log = case.harness.folder.path().join(format!("webhook-{}-{name}.log", case.name));
        Self { process: Process::start(&command, &log), port, health, metrics }
    }

    async fn ready(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.health);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        eventually("the webhook is ready", async || client.get(&url).send().await.ok()?.status().is_success().then_some(()))
            .await;
    }

    async fn metric(&self, line: &str) -> bool {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let text = client.get(format!("http://127.0.0.1:{}/metrics", self.metrics)).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("lockstep_webhook_certificate_end_seconds"), "{text}");
        text.lines().any(|l| l.starts_with(line))
    }
}

/// The manifest of the configuration as it is shipped, but for the address, and for nobody else's objects.
fn pointed(mut configuration: Value, case: &Case, port: u16) -> Value {
    let webhook = &mut configuration["webhooks"][0];
    webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{port}/validate")});
    webhook["objectSelector"] = json!({"matchLabels": {"admission": case.name}});
    configuration
}

fn object(case: &Case, name: &str, spec: Value) -> Value {
    let mut all = json!({"secretStoreRef": {"name": "vault"}, "data": [{"secretKey": "k", "remoteRef": {"key": "app"}}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
        "metadata": {"name": name, "namespace": case.name, "labels": {"admission": case.name}}, "spec": all,
    })
}

fn bad() -> Value {
    json!({
        "refreshInterval": "soon",
        "target": {"template": {"data": {"url": "https://\n  {{ .host | nope }}", "b": "{{ .x"}}},
        "dataFrom": [{"extract": {"key": "a"}, "rewrite": [{"regexp": {"source": "(", "target": ""}}]}],
    })
}

async fn refused(case: &Case, object: Value) -> String {
    match case.apply(object).await {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("it is taken: {other:?}"),
    }
}

async fn secret(case: &Case) -> Secret {
    Api::<Secret>::namespaced(case.client.clone(), NAMESPACE).get(NAME).await.unwrap()
}

async fn bundle(case: &Case) -> Vec<u8> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(case.client.clone());
    let webhooks = api.get("lockstep").await.unwrap().webhooks.unwrap();
    webhooks[0].client_config.ca_bundle.clone().unwrap_or_default().0
}

/// Waits until the API server trusts what is in the Secret, and that is another than `before`.
async fn renewed(case: &Case, before: &[u8]) -> Vec<u8> {
    eventually("another certificate is made and trusted", async || {
        let data = secret(case).await.data?;
        let certificate = data.get("tls.crt")?.0.clone();
        (certificate != before && bundle(case).await == data.get("ca.crt")?.0).then_some(certificate)
    })
    .await
}

async fn put_pair(case: &Case, pair: Option<&Pair>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let data =
        pair.map(|p| json!({"tls.crt": text(&p.certificate), "tls.key": text(p.key.expose()), "ca.crt": text(&p.authorities)}));
    let patch = match data {
        Some(data) => json!({"stringData": data}),
        None => json!({"data": null}),
    };
    let api: Api<Secret> = Api::namespaced(case.client.clone(), NAMESPACE);
    api.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_said_at_apply_and_the_webhook_keeps_its_own_certificate() {
    let case = Case::with_own_class("admission").await;
    let port = free_port();
    for mut object in render("config/webhook") {
        if object["kind"] == "ValidatingWebhookConfiguration" {
            object = pointed(object, &case, port);
        }
        harness::apply(&case.client, None, object).await.unwrap();
    }
    let cluster = &case.harness.control_plane;
    let token = harness::service_account_token(&case.client, NAMESPACE, NAME).await;
    let path = case.harness.folder.path().join("webhook.kubeconfig");
    std::fs::write(&path, kubeconfig(&cluster.url, &cluster.ca, &format!("token: {token}"))).unwrap();
    let webhook = Webhook::start(&case, "a", port, &[], &path);
    webhook.ready().await;
    let first = renewed(&case, b"").await;

    // All that is wrong is said at once, each with its place.
    let message = eventually("the API server asks", async || match case.apply(object(&case, "bad", bad())).await {
        Err(kube::Error::Api(status)) => Some(status.message.clone()),
        _ => {
            let _ = case.objects().delete("bad", &Default::default()).await;
            None
        }
    })
    .await;
    for needle in [
        "admission webhook \"validate.external-secrets.io\" denied the request: spec.refreshInterval: \"soon\" is no duration",
        "spec.target.template.data[url]: template url line 2 column 14: function \"nope\" not defined",
        "spec.target.template.data[b]: template b line 1 column",
        "spec.dataFrom[0].rewrite[0].regexp.source: ",
    ] {
        assert!(message.contains(needle), "{needle}: {message}");
    }
    case.apply(object(&case, "good", json!({"target": {"template": {"data": {"u": "{{ .k | upper }}"}}}}))).await.unwrap();
    let store = |conditions: Value| {
        json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ClusterSecretStore",
            "metadata": {"name": case.name, "labels": {"admission": case.name}},
            "spec": {"provider": {"fake": {"data": []}}, "controller": case.name, "conditions": conditions},
        })
    };
    let message = refused(&case, store(json!([{"namespaceRegexes": ["("]}]))).await;
    assert!(message.contains("spec.conditions[0].namespaceRegexes: \"(\" is no regular expression"), "{message}");
    case.apply(store(json!([]))).await.unwrap();
    let password = json!({
        "apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "Password",
        "metadata": {"name": "p", "labels": {"admission": case.name}}, "spec": {"length": 2, "digits": 3, "symbols": 3, "noUpper": false, "allowRepeat": true},
    });
    refused(&case, password).await;

    // What is probably not meant is a warning, as kubectl shows it.
    let twice = object(
        &case,
        "twice",
        json!({"data": [
            {"secretKey": "k", "remoteRef": {"key": "a"}}, {"secretKey": "k", "remoteRef": {"key": "b"}},
        ]}),
    );
    let url = format!("/apis/external-secrets.io/v1/namespaces/{}/externalsecrets", case.name);
    let post = Request::post(url).header("content-type", "application/json").body(serde_json::to_vec(&twice).unwrap().into());
    let answer = case.client.send(post.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 201);
    let warning = answer.headers()["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("spec.data[1]: the key k stands there twice; the later entry wins"), "{warning}");

    // An object that was there before is not held by the webhook, whatever else of it changes.
    let mut old = object(&case, "old", bad());
    old["metadata"]["labels"] = json!({});
    case.apply(old).await.unwrap();
    let label = Patch::Merge(json!({"metadata": {"labels": {"admission": case.name}, "finalizers": ["example.org/f"]}}));
    case.objects().patch("old", &PatchParams::default(), &label).await.unwrap();
    let change = Patch::Merge(json!({"spec": {"refreshInterval": "later"}}));
    case.objects().patch("old", &PatchParams::default(), &change).await.unwrap_err();
    case.objects().delete("old", &Default::default()).await.unwrap();
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    case.objects().patch("old", &PatchParams::default(), &free).await.unwrap();
    assert!(webhook.metric("lockstep_webhook_reviews_total{kind=\"ExternalSecret\",answer=\"denied\"}").await);

    // A second replica serves the same certificate and writes nothing.
    let version = async || secret(&case).await.metadata.resource_version;
    let before = version().await;
    let second = Webhook::start(&case, "b", free_port(), &[], &path);
    second.ready().await;
    assert_eq!(version().await, before);

    // Whatever becomes of the Secret or of the configuration, it is made right, and those who were trusted stay so.
    put_pair(&case, None).await;
    let made = renewed(&case, &first).await;
    let names = [format!("{NAME}.{NAMESPACE}.svc"), format!("{NAME}.{NAMESPACE}.svc.cluster.local"), "127.0.0.1".to_owned()];
    let now = Timestamp::now();
    let ending = certificate::make(&names, Duration::from_secs(3600), None, now - Duration::from_secs(3000)).unwrap();
    put_pair(&case, Some(&ending)).await;
    let latest = renewed(&case, &ending.certificate).await;
    assert_ne!(latest, made);
    let trusted = String::from_utf8(bundle(&case).await).unwrap();
    assert!(trusted.contains(String::from_utf8_lossy(&ending.authorities).trim()), "the one before stays trusted");
    let api: Api<ValidatingWebhookConfiguration> = Api::all(case.client.clone());
    let none: json_patch::Patch =
        serde_json::from_value(json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}])).unwrap();
    api.patch("lockstep", &PatchParams::default(), &Patch::<()>::Json(none)).await.unwrap();
    eventually("the API server is told again", async || (bundle(&case).await == trusted.as_bytes()).then_some(())).await;
    eventually("and asks again", async || {
        let taken = case.apply(object(&case, "bad", bad())).await;
        if taken.is_ok() {
            case.delete("bad").await;
        }
        taken.err()
    })
    .await;

    // It may do nothing else.
    let own = harness::client(&path).await;
    let denied = |result: kube::Result<()>| assert!(matches!(result, Err(kube::Error::Api(s)) if s.code == 403));
    denied(Api::<Secret>::namespaced(own.clone(), NAMESPACE).list(&Default::default()).await.map(drop));
    denied(Api::<Secret>::namespaced(own.clone(), NAMESPACE).get("another").await.map(drop));
    denied(Api::<Secret>::namespaced(own.clone(), &case.name).get(NAME).await.map(drop));
    denied(Api::<Secret>::namespaced(own.clone(), NAMESPACE).delete(NAME, &Default::default()).await.map(drop));
    let another: Secret = serde_json::from_value(json!({"metadata": {"name": "another"}})).unwrap();
    denied(Api::<Secret>::namespaced(own.clone(), NAMESPACE).create(&Default::default(), &another).await.map(drop));
    denied(Api::<ValidatingWebhookConfiguration>::all(own.clone()).list(&Default::default()).await.map(drop));
    denied(Api::<ValidatingWebhookConfiguration>::all(own).delete("lockstep", &Default::default()).await.map(drop));

    // Time alone brings the next certificate.
    drop((webhook, second));
    put_pair(&case, None).await;
    let short = Webhook::start(&case, "c", free_port(), &["--certificate-validity", "12s"], &path);
    short.ready().await;
    let first = renewed(&case, b"").await;
    let next = renewed(&case, &first).await;
    assert_ne!(renewed(&case, &next).await, first);
    assert!(short.process.is_running() && !short.process.output().contains("PRIVATE"));
    drop(short);

    // Without it everything is taken, and the operator says what is wrong.
    case.apply(object(&case, "bad", bad())).await.unwrap();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(case.client.clone());
    configurations.delete("lockstep", &Default::default()).await.unwrap();
    case.delete_cluster_store(&case.name.clone()).await;
}

#[tokio::test]
async fn a_certificate_in_files_is_followed_and_hostile_callers_hold_nobody_up() {
    let case = Case::new("certdir").await;
    let folder = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1".to_owned()];
    let make = || certificate::make(&names, Duration::from_secs(86_400), None, Timestamp::now()).unwrap();
    let write = |pair: &Pair| {
        std::fs::write(folder.path().join("tls.crt"), &pair.certificate).unwrap();
        std::fs::write(folder.path().join("tls.key"), pair.key.expose()).unwrap();
    };
    let pair = make();
    write(&pair);
    // It needs no cluster.
    let nowhere = folder.path().join("none");
    let port = free_port();
    let webhook = Arc::new(Webhook::start(&case, "files", port, &["--cert-dir", folder.path().to_str().unwrap()], &nowhere));
    webhook.ready().await;
    let trusting = |pair: &Pair| {
        let authority = reqwest::Certificate::from_pem(&pair.authorities).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([authority]).timeout(Duration::from_secs(30)).build().unwrap()
    };
    let url = format!("https://127.0.0.1:{}/validate", webhook.port);
    let client = trusting(&pair);
    let review = |spec: Value| {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "the-uid", "operation": "CREATE", "userInfo": {}, "name": "app", "namespace": "ns",
            "kind": {"group": "external-secrets.io", "version": "v1", "kind": "ExternalSecret"},
            "resource": {"group": "external-secrets.io", "version": "v1", "resource": "externalsecrets"},
            "object": object(&case, "app", spec),
        }})
    };
    let ask = async |client: &reqwest::Client, spec: Value| -> Value {
        client.post(&url).json(&review(spec)).send().await.unwrap().json().await.unwrap()
    };
    let answer = ask(&client, json!({})).await;
    assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!("AdmissionReview"), &json!("admission.k8s.io/v1")), "{answer}");
    assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!("the-uid"), &json!(true)), "{answer}");
    assert_eq!(ask(&client, bad()).await["response"]["allowed"], false);

    // Those who say nothing, too much, or nonsense.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let post = async |body: Vec<u8>| client.post(&url).body(body).send().await.map(|answer| answer.status().as_u16());
    assert_eq!(post(b"{".to_vec()).await.unwrap(), 400);
    assert_eq!(post(b"{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}".to_vec()).await.unwrap(), 400);
    assert_eq!(post([b"[".repeat(500_000)].concat()).await.unwrap(), 400);
    // The connection may be cut before all of it is sent.
    assert!(matches!(post(vec![b' '; 20 << 20]).await, Ok(413) | Err(_)));
    assert_eq!(client.get(&url).send().await.unwrap().status().as_u16(), 404);
    let deep = "{{ if true }}".repeat(200_000);
    let hostile = json!({"target": {"template": {"data": {"a": deep, "b": "((".repeat(100_000)}}}});
    assert_eq!(ask(&client, hostile).await["response"]["allowed"], false);
    assert_eq!(ask(&client, json!({})).await["response"]["allowed"], true);
    drop(silent);

    // A new certificate is served once it is there whole.
    let next = make();
    std::fs::write(folder.path().join("tls.crt"), &next.certificate).unwrap();
    eventually("the halves do not fit", async || {
        webhook.process.output().contains("tls.key is not the key of tls.crt").then_some(())
    })
    .await;
    assert_eq!(ask(&trusting(&pair), json!({})).await["response"]["allowed"], true);
    write(&next);
    let client = trusting(&next);
    eventually("the new one is served", async || client.post(&url).json(&review(json!({}))).send().await.ok()).await;
    let output = webhook.process.output();
    assert!(!output.contains("PRIVATE") && !output.contains("panicked"), "{output}");
}
