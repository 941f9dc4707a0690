//! `config/samples/stores`: with what people put in the place of its words, each store is Ready.

use std::collections::HashMap;

use lockstep_e2e::aws::{Key, REGION, Role};
use lockstep_e2e::azure::Application;
use lockstep_e2e::control_plane::Pair;
use lockstep_e2e::gcp::Pool;
use lockstep_e2e::harness::{self, aws, azure, gcp};
use lockstep_e2e::http_api::HttpApi;
use lockstep_e2e::rsa::Rsa;
use lockstep_e2e::vault::{LDAP_PASSWORD, ROOT};
use serde_json::{Value, json};

use crate::azure::TENANT;
use crate::providers::{account, ca_bundle};
use crate::samples::{become_ready, files, filled};
use lockstep_e2e::case::{Case, stop};

/// What people put in the place of the words of a sample.
type Words = Vec<(String, String)>;

fn base64(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

/// Vault's methods where the samples have them, each with the role or user of its sample.
async fn vault(case: &Case, words: &mut Words) {
    let (vault, policy) = (&case.harness.vault, &case.name);
    vault.policy(policy, &["secret/data/shop/*"]).await;
    for method in ["approle", "cert", "userpass", "ldap", "jwt", "kubernetes", "aws", "gcp"] {
        vault.auth(method, method).await;
    }
    vault.write("auth/approle/role/shop", json!({"token_policies": [policy]})).await;
    let text = |answer: Value, key: &str| answer["data"][key].as_str().unwrap().to_owned();
    let role = text(vault.read("auth/approle/role/shop/role-id").await, "role_id");
    let secret = text(vault.write("auth/approle/role/shop/secret-id", json!({})).await, "secret_id");
    vault.write("auth/cert/certs/shop", json!({"certificate": vault.authority.pem, "token_policies": policy})).await;
    vault.write("auth/userpass/users/shop", json!({"password": LDAP_PASSWORD, "token_policies": [policy]})).await;
    let config = json!({"url": format!("ldap://127.0.0.1:{}", vault.ldap_port), "userdn": "ou=people,dc=example,dc=org",
        "userattr": "cn", "groupdn": "ou=groups,dc=example,dc=org", "discoverdn": false});
    vault.write("auth/ldap/config", config).await;
    vault.write("auth/ldap/users/ada", json!({"policies": policy})).await;
    let cluster = &case.harness.control_plane;
    vault.write("auth/jwt/config", json!({"jwt_validation_pubkeys": [cluster.token_key]})).await;
    let subject = format!("system:serviceaccount:{}:reader", case.name);
    let role_of_token = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": subject, "token_policies": [policy]});
    vault.write("auth/jwt/role/shop", role_of_token).await;
    case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reviewer"}})).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": format!("{}-reviewer", case.name)},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
        "subjects": [{"kind": "ServiceAccount", "name": "reviewer", "namespace": case.name}]});
    case.apply(binding).await.unwrap();
    let reviewer = harness::service_account_token(&case.client, &case.name, "reviewer").await;
    let config = json!({"kubernetes_host": cluster.url, "kubernetes_ca_cert": cluster.ca, "token_reviewer_jwt": reviewer, "disable_local_ca_jwt": true});
    vault.write("auth/kubernetes/config", config).await;
    let bound = json!({"bound_service_account_names": "reader", "bound_service_account_namespaces": case.name, "token_policies": [policy], "audience": ""});
    vault.write("auth/kubernetes/role/shop", bound).await;
    let client = json!({"access_key": "x", "secret_key": "x", "sts_endpoint": aws().url, "sts_region": "us-east-1"});
    vault.write("auth/aws/config/client", client).await;
    let arn = web_identity(case);
    let role_of_aws =
        json!({"auth_type": "iam", "bound_iam_principal_arn": arn, "policies": policy, "resolve_aws_unique_ids": false});
    vault.write("auth/aws/role/shop", role_of_aws).await;
    vault.write("auth/gcp/config", json!({"custom_endpoint": {"api": gcp().url, "iam": gcp().url}})).await;
    let reader = reader(case);
    vault.write("auth/gcp/role/app", json!({"type": "iam", "policies": policy, "bound_service_accounts": reader})).await;
    let Pair { certificate, key } = vault.authority.issue("shop", None, &["shop"]);
    let own = |name: &str, value: String| (name.to_owned(), value);
    words.extend([
        own("00000000-0000-0000-0000-000000000000", role),
        own("YOUR_SECRET_ID", secret),
        own("YOUR_CERTIFICATE", certificate),
        own("YOUR_KEY", key),
        own("https://bao.example.com:8200", vault.url.clone()),
    ]);
}

/// The role that the samples' service account `reader` has at AWS.
fn web_identity(case: &Case) -> String {
    let trusts = vec![format!("system:serviceaccount:{}:reader", case.name)];
    aws().role(&format!("{}-reader", case.name), Role { trusts, audience: "sts.amazonaws.com".into(), ..Role::default() })
}

/// The Google account of the samples.
fn reader(case: &Case) -> String {
    format!("reader@{}.iam.gserviceaccount.com", case.name)
}

/// Keys, roles and a key for the operator itself.
fn aws_identities(case: &Case, words: &mut Words) -> (String, &'static str) {
    let key = format!("AKIA{}", case.name.to_uppercase().replace('-', ""));
    for (id, secret) in [(key.clone(), "CANARY-aws"), (format!("{key}OWN"), "CANARY-own")] {
        aws().key(&id, Key { secret: secret.into(), ..Key::default() });
    }
    let hub = aws().role(&format!("{}-hub", case.name), Role { trusts: vec![key.clone()], ..Role::default() });
    let tags = [("team".to_owned(), "shop".to_owned())].into();
    let last = Role { trusts: vec![hub.clone()], external_id: Some("lockstep".into()), tags, ..Role::default() };
    let shop = aws().role(&format!("{}-shop", case.name), last);
    let own = |name: &str, value: String| (name.to_owned(), value);
    words.extend([
        own("YOUR_ACCESS_KEY_ID", key.clone()),
        own("YOUR_SECRET_ACCESS_KEY", "CANARY-aws".into()),
        own("arn:aws:iam::123456789012:role/hub", hub),
        own("arn:aws:iam::210987654321:role/shop", shop),
        own("arn:aws:iam::123456789012:role/reader", web_identity(case)),
    ]);
    assert_eq!(REGION, "eu-central-1", "the samples name it");
    (format!("{key}OWN"), "CANARY-own")
}

/// An application with a secret, a certificate and a service account, which is the machine's identity too.
fn azure_identities(case: &Case, words: &mut Words) {
    let client = format!("app-{}", case.name);
    let key = Rsa::new(&case.name);
    let application = Application {
        secrets: vec!["CANARY-azure".into()],
        certificates: vec![key.certificate()],
        subjects: vec![format!("system:serviceaccount:{}:azure-reader", case.name)],
    };
    azure().application(TENANT, &client, application);
    azure().grant(&client, &[&case.name]);
    azure().machine(&client, &client);
    words.extend([
        ("66666666-7777-8888-9999-000000000000".to_owned(), client),
        ("https://my-vault.vault.azure.net".to_owned(), azure().vault(&case.name)),
        ("YOUR_PEM".to_owned(), format!("{}{}", key.certificate(), key.pem())),
        ("YOUR_CLIENT_SECRET".to_owned(), "CANARY-azure".to_owned()),
    ]);
}

/// A key, a GKE cluster, two pools, and a machine of Google's; answers the machine's host.
fn google_identities(case: &Case, key: &str, words: &mut Words) -> String {
    let (reader, project) = (reader(case), format!("projects/{}", case.name));
    let json_key = gcp().account(&reader).to_string();
    gcp().grant(&reader, &[&project]);
    gcp().cluster(&format!("{project}/locations/europe-west3/clusters/main"));
    let pool = |name: &str| {
        format!(
            "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{}/providers/{name}",
            case.name
        )
    };
    gcp().pool(&pool("main"), Pool::default());
    let aws = HashMap::from([(key.to_owned(), "CANARY-aws".to_owned())]);
    gcp().pool(&pool("aws"), Pool { aws, ..Pool::default() });
    let federated = format!(
        "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{0}/subject/system:serviceaccount:{0}:federated-reader",
        case.name
    );
    let principals =
        ["gcp-reader", "vault-gcp-reader"].map(|name| format!("serviceAccount:{0}.svc.id.goog[{0}/{name}]", case.name));
    gcp().users(&reader, &[&principals[0], &principals[1], &federated, &reader]);
    let own = |name: &str, value: String| (name.to_owned(), value);
    words.extend([
        own("workloadIdentityPools/clusters/", format!("workloadIdentityPools/{}/", case.name)),
        own("workloadIdentityPools/clouds/", format!("workloadIdentityPools/{}/", case.name)),
        own("my-project", case.name.clone()),
        own("YOUR_JSON_KEY", json_key),
    ]);
    gcp().another_machine(&reader).unwrap()
}

/// What no word stands for: the class of this test's operator, authorities of its servers, and places.
fn adapted(case: &Case, object: &mut Value) {
    let cluster = object["kind"] == "ClusterSecretStore";
    if !cluster && object["kind"] != "SecretStore" {
        return;
    }
    object["spec"]["controller"] = json!(case.class);
    if cluster {
        object["metadata"]["name"] = json!(format!("{}-{}", object["metadata"]["name"].as_str().unwrap(), case.name));
    }
    let provider = object["spec"]["provider"].as_object_mut().unwrap();
    if let Some(kubernetes) = provider.get_mut("kubernetes") {
        kubernetes["remoteNamespace"] = json!(case.name);
        if kubernetes.get("server").is_some() {
            kubernetes["server"]["caBundle"] = json!(ca_bundle(case));
        }
    }
    if let Some(vault) = provider.get_mut("vault") {
        let authority = json!(base64(&case.harness.vault.authority.pem));
        vault["caBundle"] = authority;
        if let Some(user) = vault["auth"].pointer_mut("/ldap/username") {
            *user = json!("ada");
        }
    }
    if let Some(azure_vault) = provider.get_mut("azurekv").filter(|_| !cluster) {
        azure_vault["customCloudConfig"] = json!({"activeDirectoryEndpoint": azure().entra()});
    }
}

#[tokio::test]
async fn each_sample_of_a_store_becomes_ready() {
    let case = Case::with_own_class("storesamples").await;
    let mut words = Words::new();
    let (own_key, own_secret) = aws_identities(&case, &mut words);
    azure_identities(&case, &mut words);
    let key = own_key.trim_end_matches("OWN").to_owned();
    let metadata = google_identities(&case, &key, &mut words);
    vault(&case, &mut words).await;
    let api = HttpApi::start("CANARY-token").await;
    account(&case, &case.name, &["get", "list"]).await;
    let cluster = &case.harness.control_plane;
    let authority = format!("{}\n      certificate-authority-data: {}", cluster.url, base64(&cluster.ca));
    let reader = harness::service_account_token(&case.client, &case.name, "reader").await;
    let admin = harness::documents(&std::fs::read_to_string(&cluster.kubeconfig).unwrap()).remove(0)["users"][0]["user"].clone();
    let decoded = |name: &str| {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, admin[name].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let env = [
        ("AWS_ACCESS_KEY_ID", own_key.as_str()),
        ("AWS_SECRET_ACCESS_KEY", own_secret),
        ("GCE_METADATA_HOST", metadata.as_str()),
    ];
    let operator = case.own_operator_with("own", &[], &env);
    operator.wait_working();
    let mut stores = 0;
    for file in files("stores", 31) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let mut words = words.clone();
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let of_vault = if name == "vault-certificate" { &case.harness.vault.tls_url } else { &case.harness.vault.url };
        words.push(own("https://vault.example.com:8200", of_vault));
        words.push(own("https://api.example.com", &api.url));
        words.push(own("YOUR_PASSWORD", LDAP_PASSWORD));
        words.push(own("YOUR_TOKEN", if name.starts_with("kubernetes") { &reader } else { ROOT }));
        if name == "kubernetes-certificate" {
            words.retain(|(word, _)| word != "YOUR_CERTIFICATE" && word != "YOUR_KEY");
            words.push(own("YOUR_CERTIFICATE", &decoded("client-certificate-data")));
            words.push(own("YOUR_KEY", &decoded("client-key-data")));
        }
        let address = if name == "kubernetes-kubeconfig" { &authority } else { &cluster.url };
        words.push(own("https://cluster.example.com:6443", address));
        let words: Vec<(&str, &str)> = words.iter().map(|(word, with)| (word.as_str(), with.as_str())).collect();
        let mut objects = filled(&file, &words);
        objects.iter_mut().for_each(|object| adapted(&case, object));
        become_ready(&case, &objects).await;
        for store in objects.iter().filter(|o| o["kind"].as_str().unwrap().ends_with("SecretStore")) {
            let api = harness::api_of(&case.client, Some(&case.name), store);
            api.delete(store["metadata"]["name"].as_str().unwrap(), &Default::default()).await.unwrap();
            stores += 1;
        }
    }
    assert!(stores >= 31, "{stores}");
    assert!(!operator.process.output().contains("CANARY"));
    stop(operator);
}
