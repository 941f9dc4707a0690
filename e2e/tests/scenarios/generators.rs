//! Generators: values that nobody stored anywhere.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, Patch, PatchParams};
use lockstep_e2e::aws::{Key, REGION, Role};
use lockstep_e2e::azure::Application;
use lockstep_e2e::harness::{self, aws, azure, eventually, gcp};
use lockstep_e2e::http_api::HttpApi;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

pub async fn generator(case: &Case, kind: &str, name: &str, spec: Value) {
    case.apply(manifest(kind, name, spec)).await.unwrap();
}

pub fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

pub fn from(kind: &str, name: &str) -> Value {
    json!({"sourceRef": {"generatorRef": {"kind": kind, "name": name}}})
}

/// The Secret's data once the object is synced as it is.
pub async fn values(case: &Case, name: &str) -> BTreeMap<String, String> {
    case.caught_up(name).await;
    case.synced(name).await;
    case.secret(name).await.unwrap()
}

#[tokio::test]
async fn each_kind_gives_its_keys_and_rewrites_and_templates_see_them() {
    let case = Case::new("generator").await;
    generator(&case, "Password", "password", json!({"length": 20, "symbols": 2, "digits": 3, "secretKeys": ["a", "b"]})).await;
    generator(&case, "UUID", "uuid", json!({})).await;
    generator(&case, "SSHKey", "ssh", json!({"keyType": "ed25519", "comment": "app"})).await;
    generator(&case, "Fake", "fake", json!({"data": {"f": "fake"}})).await;
    let cluster = json!({"kind": "Password", "generator": {"passwordSpec": {"length": 8, "symbols": 0}}});
    generator(&case, "ClusterGenerator", &case.name, cluster).await;
    let mut renamed = from("ClusterGenerator", &case.name);
    renamed["rewrite"] = json!([{"regexp": {"source": "password", "target": "short"}}]);
    let sources = [from("Password", "password"), from("UUID", "uuid"), from("SSHKey", "ssh"), from("Fake", "fake"), renamed];
    case.external_secret("all", json!({"secretStoreRef": null, "dataFrom": sources})).await;
    let all = values(&case, "all").await;
    let keys: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(keys, ["a", "b", "f", "privateKey", "publicKey", "short", "uuid"]);
    assert_eq!((all["a"].len(), all["short"].len(), all["f"].as_str()), (20, 8, "fake"));
    assert_ne!(all["a"], all["b"]);

    let template = json!({"data": {"config": "password: {{ .a }}\n"}});
    case.external_secret(
        "rendered",
        json!({"secretStoreRef": null, "dataFrom": [from("Password", "password")], "target": {"template": template}}),
    )
    .await;
    let rendered = values(&case, "rendered").await;
    assert_eq!((rendered.len(), rendered["config"].len()), (1, "password: \n".len() + 20));
    assert_ne!(rendered["config"], format!("password: {}\n", all["a"]), "each object has values of its own");
}

#[tokio::test]
async fn an_ssh_key_is_one_to_openssh_itself() {
    let case = Case::new("sshkey").await;
    for (name, spec) in [
        ("rsa", json!({"keySize": 3072})),
        ("ecdsa", json!({"keyType": "ecdsa", "keySize": 521})),
        ("ed", json!({"keyType": "ed25519"})),
    ] {
        generator(&case, "SSHKey", name, spec).await;
        case.external_secret(name, json!({"secretStoreRef": null, "dataFrom": [from("SSHKey", name)]})).await;
        let pair = values(&case, name).await;
        let file = case.harness.folder.path().join(format!("{}-{name}", case.name));
        std::fs::write(&file, &pair["privateKey"]).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let Ok(output) = std::process::Command::new("ssh-keygen").arg("-y").arg("-f").arg(&file).output() else {
            // Without OpenSSH on this machine the library's own reader, in a test beside the code, is what there is.
            continue;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), pair["publicKey"].trim());
    }
}

#[tokio::test]
async fn values_are_made_anew_at_a_refresh_and_when_the_generator_changes_and_at_no_other_time() {
    let case = Case::with_own_class("reroll").await;
    let operator = case.own_operator("a", &[]);
    case.vault_store().await;
    case.put("app", json!({"user": "ada"})).await;
    generator(&case, "Password", "password", json!({"length": 12})).await;
    let both =
        json!({"dataFrom": [from("Password", "password")], "data": [case.data("user", "app", "user")], "refreshInterval": "0"});
    case.external_secret("app", both).await;
    let first = values(&case, "app").await;

    // A store that changes, a label of the generator, a restart, and a target that only got a label: the password stays.
    case.apply_secret("vault-token", &[("token", lockstep_e2e::vault::ROOT), ("more", "x")]).await;
    let label = json!({"metadata": {"labels": {"team": "a"}}});
    let api = harness::api_of(&case.client, Some(&case.name), &manifest("Password", "password", json!({})));
    api.patch("password", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    case.secrets().patch("app", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    operator.process.signal("TERM");
    assert!(operator.process.wait_gone(std::time::Duration::from_secs(20)));
    let operator = case.own_operator("b", &[]);
    operator.wait_working();
    generator(&case, "Password", "probe", json!({})).await;
    case.external_secret("probe", json!({"secretStoreRef": {"name": "vault"}, "dataFrom": [from("Password", "probe")]})).await;
    values(&case, "probe").await;
    assert_eq!(case.secret("app").await.unwrap(), first);

    // The generator's spec, once the new process watches it; and a refresh that somebody asks for.
    let watched = format!("Generator(Password) {}/password", case.name);
    eventually("it is watched", async || operator.process.output().contains(&watched).then_some(())).await;
    generator(&case, "Password", "password", json!({"length": 14})).await;
    let second = eventually("a longer password", async || case.secret("app").await.filter(|s| s["password"].len() == 14)).await;
    case.force_sync("app").await;
    let third = values(&case, "app").await;
    assert_ne!(second["password"], third["password"]);
    assert_eq!(third["user"], "ada");
}

#[tokio::test]
async fn what_is_wrong_with_a_generator_is_said_and_mended_at_once() {
    let case = Case::new("badgenerator").await;
    let object = |kind: &str, name: &str| json!({"secretStoreRef": null, "dataFrom": [from(kind, name)]});
    case.external_secret("none", object("Password", "none")).await;
    case.failed("none", &format!("Password {}/none does not exist; create it", case.name)).await;
    generator(&case, "Password", "none", json!({"length": 100})).await;
    case.failed("none", "25 digits without a repetition can't be, as there are 10; set allowRepeat: true").await;
    generator(&case, "Password", "none", json!({"length": 100, "allowRepeat": true})).await;
    assert_eq!(values(&case, "none").await["password"].len(), 100);

    // Its store's credentials are gone, and come back.
    let provider = json!({"server": case.harness.vault.url, "auth": {"tokenSecretRef": {"name": "gone", "key": "token"}}});
    generator(&case, "VaultDynamicSecret", "vault", json!({"path": "secret/metadata/x", "provider": provider})).await;
    case.external_secret("vault", object("VaultDynamicSecret", "vault")).await;
    case.failed(
        "vault",
        &format!(
            "VaultDynamicSecret {}/vault: spec.provider.auth.tokenSecretRef: Secret {}/gone does not exist",
            case.name, case.name
        ),
    )
    .await;
    case.harness.vault.put(&case.key("x"), json!({"k": "v"})).await;
    let provider = json!({"server": case.harness.vault.url, "auth": {"tokenSecretRef": {"name": "gone", "key": "token"}}});
    generator(
        &case,
        "VaultDynamicSecret",
        "vault",
        json!({"path": format!("secret/data/{}", case.key("x")), "provider": provider}),
    )
    .await;
    case.apply_secret("gone", &[("token", lockstep_e2e::vault::ROOT)]).await;
    assert_eq!(values(&case, "vault").await["data"], r#"{"k":"v"}"#, "a path without a lease is asked at each refresh");

    for (name, source, needle) in [
        ("kind", from("MFA", "x"), "kind MFA is not served; there are ACRAccessToken"),
        (
            "elsewhere",
            from("Webhook", "elsewhere"),
            "names namespace kube-system; a generator reads the namespace of whoever uses it",
        ),
    ] {
        generator(&case, "Fake", "foreign", json!({"controller": "theirs", "data": {"a": "b"}})).await;
        let secrets = json!([{"name": "x", "secretRef": {"name": "x", "namespace": "kube-system"}}]);
        generator(&case, "Webhook", "elsewhere", json!({"url": "http://127.0.0.1:9", "result": {}, "secrets": secrets})).await;
        case.external_secret(name, json!({"secretStoreRef": null, "dataFrom": [source]})).await;
        case.failed(name, needle).await;
    }
    // Without a store a generator says whose the object is; beside one it is what is wrong.
    case.external_secret("foreign", object("Fake", "foreign")).await;
    case.vault_store().await;
    case.external_secret("both", json!({"dataFrom": [from("Fake", "foreign"), {"extract": {"key": case.key("x")}}]})).await;
    case.failed("both", "Fake badgenerator").await;
    case.failed("both", "is of another controller class").await;
    assert_eq!(case.ready_of("foreign").await, None);
    let data = json!({"secretStoreRef": null, "data": [{"secretKey": "k", "remoteRef": {"key": "k"}, "sourceRef": {"generatorRef": {"kind": "UUID", "name": "u"}}}]});
    let refused = case.try_external_secret("single", data).await.unwrap_err().to_string();
    assert!(refused.contains("a generator gives several keys; call it from spec.dataFrom"), "{refused}");
}

#[tokio::test]
async fn a_deleted_generator_leaves_what_it_gave() {
    let case = Case::new("gonegenerator").await;
    generator(&case, "UUID", "uuid", json!({})).await;
    case.external_secret(
        "app",
        json!({"secretStoreRef": null, "dataFrom": [from("UUID", "uuid")], "target": {"deletionPolicy": "Delete"}}),
    )
    .await;
    let before = values(&case, "app").await;
    let api = harness::api_of(&case.client, Some(&case.name), &manifest("UUID", "uuid", json!({})));
    api.delete("uuid", &DeleteParams::default()).await.unwrap();
    case.failed("app", "does not exist; create it").await;
    assert_eq!(case.secret("app").await.unwrap(), before, "that is no word of an authority about a secret");
}

#[tokio::test]
async fn a_webhook_gives_the_keys_of_its_answer() {
    let case = Case::new("hookgenerator").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("issue", json!({"user": "CANARY-u", "port": 5432}));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "api", "labels": {"external-secrets.io/type": "webhook"}},
        "stringData": {"token": "CANARY-token"}});
    case.apply(secret).await.unwrap();
    let spec = |path: &str| {
        json!({"url": format!("{}/secrets/issue", api.url), "headers": {"Authorization": "Bearer {{ .api.token }}"},
            "result": {"jsonPath": path}, "secrets": [{"name": "api", "secretRef": {"name": "api"}}]})
    };
    generator(&case, "Webhook", "hook", spec("$.data")).await;
    case.external_secret("app", json!({"secretStoreRef": null, "dataFrom": [from("Webhook", "hook")]})).await;
    let all = values(&case, "app").await;
    assert_eq!((all["user"].as_str(), all["port"].as_str(), all.len()), ("CANARY-u", "5432", 2));
    generator(&case, "Webhook", "hook", spec("$.data.port")).await;
    case.failed("app", "spec.result.jsonPath: leads to no JSON object").await;
    assert_eq!(case.secret("app").await.unwrap(), all);
}

#[tokio::test]
async fn aws_gives_tokens_for_its_registries_and_sessions() {
    let case = Case::new("awsgenerator").await;
    let key = format!("AKIA{}", case.name.to_uppercase().replace('-', ""));
    aws().key(&key, Key { secret: "CANARY-secret-key".into(), ..Key::default() });
    case.apply_secret("aws", &[("id", &key), ("secret", "CANARY-secret-key")]).await;
    let auth = json!({"secretRef": {
        "accessKeyIDSecretRef": {"name": "aws", "key": "id"}, "secretAccessKeySecretRef": {"name": "aws", "key": "secret"},
    }});
    let role = aws().role(&case.name, Role { trusts: vec![key.clone()], ..Role::default() });
    generator(&case, "ECRAuthorizationToken", "ecr", json!({"region": REGION, "auth": auth})).await;
    generator(
        &case,
        "STSSessionToken",
        "keys",
        json!({"region": REGION, "auth": auth, "requestParameters": {"sessionDuration": 1800}}),
    )
    .await;
    generator(&case, "STSSessionToken", "role", json!({"region": REGION, "auth": auth, "role": role})).await;
    for (kind, name) in [("ECRAuthorizationToken", "ecr"), ("STSSessionToken", "keys"), ("STSSessionToken", "role")] {
        case.external_secret(name, json!({"secretStoreRef": null, "dataFrom": [from(kind, name)]})).await;
    }
    let now = jiff::Timestamp::now().as_second();
    let ecr = values(&case, "ecr").await;
    assert_eq!((ecr["username"].as_str(), ecr["proxy_endpoint"].contains(REGION)), ("AWS", true), "{ecr:?}");
    // The emulator's tokens are all of 2015.
    assert!(!ecr["password"].is_empty() && ecr["expires_at"].parse::<i64>().unwrap() > 1_400_000_000);
    for (name, life) in [("keys", 1800), ("role", 3600)] {
        let session = values(&case, name).await;
        assert!(!session["access_key_id"].is_empty() && !session["session_token"].is_empty(), "{name}");
        let left = session["expiration"].parse::<i64>().unwrap() - now;
        assert!((life - 60..=life + 60).contains(&left), "{name}: {left}");
    }
    aws().key(&key, Key { secret: "CANARY-other".into(), ..Key::default() });
    case.force_sync("ecr").await;
    case.failed("ecr", "AWS refuses GetAuthorizationToken in").await;
    assert_eq!(case.secret("ecr").await.unwrap(), ecr, "the last good token stays");
}

#[tokio::test]
async fn google_gives_a_token() {
    let case = Case::new("gcrgenerator").await;
    let reader = format!("reader@{}.iam.gserviceaccount.com", case.name);
    case.apply_secret("google", &[("key.json", &gcp().account(&reader).to_string())]).await;
    let auth = json!({"secretRef": {"secretAccessKeySecretRef": {"name": "google", "key": "key.json"}}});
    generator(&case, "GCRAccessToken", "gcr", json!({"projectID": case.name, "auth": auth})).await;
    case.external_secret("gcr", json!({"secretStoreRef": null, "dataFrom": [from("GCRAccessToken", "gcr")]})).await;
    let token = values(&case, "gcr").await;
    assert_eq!((token["username"].as_str(), token.len()), ("oauth2accesstoken", 3));
    assert!(!token["password"].is_empty() && token["expiry"].parse::<i64>().unwrap() > jiff::Timestamp::now().as_second());
}

#[tokio::test]
async fn azure_gives_a_token_for_a_registry() {
    let case = Case::new("acr").await;
    let client = format!("app-{}", case.name);
    let application = Application { secrets: vec!["CANARY-client-secret".into()], ..Application::default() };
    azure().application("contoso", &client, application);
    azure().grant(&client, &[&case.name]);
    case.apply_secret("azure", &[("id", &client), ("secret", "CANARY-client-secret")]).await;
    let key = |key: &str| json!({"name": "azure", "key": key});
    let auth = json!({"servicePrincipal": {"secretRef": {"clientId": key("id"), "clientSecret": key("secret")}}});
    let registry = format!("{}.azurecr.io:{}", case.name, azure().port);
    let spec = json!({"registry": registry, "tenantId": "contoso", "auth": auth});
    generator(&case, "ACRAccessToken", "all", spec.clone()).await;
    let mut scoped = spec.clone();
    scoped["scope"] = json!("repository:app:pull");
    generator(&case, "ACRAccessToken", "scoped", scoped).await;
    for (name, begins) in [("all", "eyJ"), ("scoped", "access.repository:app:pull.")] {
        case.external_secret(name, json!({"secretStoreRef": null, "dataFrom": [from("ACRAccessToken", name)]})).await;
        let token = values(&case, name).await;
        assert_eq!(token["username"], "00000000-0000-0000-0000-000000000000");
        assert!(token["password"].starts_with(begins), "{name}");
    }
    azure().grant(&client, &[]);
    case.force_sync("all").await;
    case.failed("all", "refuses a token (code 401 UNAUTHORIZED: retrieving permissions failed)").await;
}
