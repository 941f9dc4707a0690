//! Tenants stay apart: no reference of a namespaced object leaves its namespace, whichever field of whichever kind it stands in.

use std::collections::BTreeSet;

use lockstep_e2e::control_plane::Authority;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::reliability::world::{Making, World};
use serde_json::{Value, json};

/// Specs of stores which between them have every reference that a store can have, each to something of its own namespace.
fn stores() -> Vec<(&'static str, Value)> {
    let secret = json!({"name": "mine", "key": "k"});
    // What is read first must not be what is wrong.
    let pem = json!({"name": "mine", "key": "pem"});
    let account = json!({"name": "mine"});
    let vault = |auth: Value| json!({"vault": {"server": "http://127.0.0.1:9", "path": "secret", "auth": auth}});
    let aws = |auth: Value| json!({"aws": {"service": "SecretsManager", "region": "eu-west-1", "auth": auth}});
    let keys = json!({"accessKeyIDSecretRef": secret, "secretAccessKeySecretRef": secret, "sessionTokenSecretRef": secret});
    let azure = |more: Value| {
        let mut spec = json!({"vaultUrl": "https://x.vault.azure.net", "tenantId": "t"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"azurekv": spec})
    };
    let google = |auth: Value| json!({"gcpsm": {"projectID": "p", "auth": auth}});
    let federation = |more: Value| {
        let mut spec =
            json!({"audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/providers/b"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        google(json!({"workloadIdentityFederation": spec}))
    };
    let kubernetes =
        |auth: Value| json!({"kubernetes": {"remoteNamespace": "x", "server": {"url": "https://127.0.0.1:9"}, "auth": auth}});
    let webhook = |more: Value| {
        let mut spec = json!({"url": "http://127.0.0.1:9", "result": {"jsonPath": "$.v"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"webhook": spec})
    };
    let ca = json!({"type": "Secret", "name": "mine", "key": "pem"});
    let mut vault_with_ca = vault(json!({"tokenSecretRef": secret}));
    vault_with_ca["vault"]["caProvider"] = ca.clone();
    let mut vault_with_tls = vault(json!({"tokenSecretRef": secret}));
    vault_with_tls["vault"]["tls"] = json!({"certSecretRef": pem, "keySecretRef": pem});
    let mut kubernetes_with_ca = kubernetes(json!({"token": {"bearerToken": secret}}));
    kubernetes_with_ca["kubernetes"]["server"]["caProvider"] = ca.clone();
    vec![
        ("aws-irsa", aws(json!({"jwt": {"serviceAccountRef": account}}))),
        ("aws-keys", aws(json!({"secretRef": keys}))),
        ("azure-secret", azure(json!({"authSecretRef": {"clientId": secret, "clientSecret": secret}}))),
        ("azure-certificate", azure(json!({"authSecretRef": {"clientId": secret, "clientCertificate": pem}}))),
        (
            "azure-identity",
            azure(
                json!({"authType": "WorkloadIdentity", "serviceAccountRef": account, "authSecretRef": {"clientId": secret, "tenantId": secret}}),
            ),
        ),
        ("gcp-key", google(json!({"secretRef": {"secretAccessKeySecretRef": secret}}))),
        (
            "gcp-identity",
            google(json!({"workloadIdentity": {"clusterLocation": "l", "clusterName": "c", "serviceAccountRef": account}})),
        ),
        ("gcp-federation", federation(json!({"serviceAccountRef": account}))),
        ("gcp-federation-file", federation(json!({"credConfig": secret}))),
        (
            "gcp-federation-aws",
            federation(json!({"awsSecurityCredentials": {"region": "eu-west-1", "awsCredentialsSecretRef": {"name": "mine"}}})),
        ),
        ("kubernetes-certificate", kubernetes(json!({"cert": {"clientCert": pem, "clientKey": pem}}))),
        ("kubernetes-account", kubernetes(json!({"serviceAccount": account}))),
        ("kubernetes-token", kubernetes(json!({"token": {"bearerToken": secret}}))),
        ("kubernetes-ca", kubernetes_with_ca),
        ("kubernetes-file", json!({"kubernetes": {"remoteNamespace": "x", "authRef": secret}})),
        ("vault-token", vault(json!({"tokenSecretRef": secret}))),
        ("vault-approle", vault(json!({"appRole": {"path": "approle", "roleRef": secret, "secretRef": secret}}))),
        ("vault-certificate", vault(json!({"cert": {"clientCert": pem, "secretRef": pem}}))),
        (
            "vault-gcp-key",
            vault(json!({"gcp": {"role": "r", "projectID": "p", "secretRef": {"secretAccessKeySecretRef": secret}}})),
        ),
        (
            "vault-gcp-account",
            vault(json!({"gcp": {"role": "r", "projectID": "p", "serviceAccountRef": account,
                "workloadIdentity": {"clusterLocation": "l", "clusterName": "c", "serviceAccountRef": account}}})),
        ),
        (
            "vault-gcp-identity",
            vault(json!({"gcp": {"role": "r", "projectID": "p",
                "workloadIdentity": {"clusterLocation": "l", "clusterName": "c", "serviceAccountRef": account}}})),
        ),
        ("vault-iam-account", vault(json!({"iam": {"vaultRole": "r", "jwt": {"serviceAccountRef": account}}}))),
        ("vault-iam-keys", vault(json!({"iam": {"vaultRole": "r", "secretRef": keys}}))),
        (
            "vault-jwt-account",
            vault(json!({"jwt": {"path": "jwt", "role": "r", "kubernetesServiceAccountToken": {"serviceAccountRef": account}}})),
        ),
        ("vault-jwt", vault(json!({"jwt": {"path": "jwt", "role": "r", "secretRef": secret}}))),
        ("vault-kubernetes", vault(json!({"kubernetes": {"mountPath": "kubernetes", "role": "r", "secretRef": secret}}))),
        (
            "vault-kubernetes-account",
            vault(json!({"kubernetes": {"mountPath": "kubernetes", "role": "r", "serviceAccountRef": account}})),
        ),
        ("vault-ldap", vault(json!({"ldap": {"path": "ldap", "username": "u", "secretRef": secret}}))),
        ("vault-userpass", vault(json!({"userPass": {"path": "userpass", "username": "u", "secretRef": secret}}))),
        ("vault-ca", vault_with_ca),
        ("vault-tls", vault_with_tls),
        ("webhook-ntlm", webhook(json!({"auth": {"ntlm": {"usernameSecret": secret, "passwordSecret": secret}}}))),
        ("webhook-ca", webhook(json!({"caProvider": ca}))),
        ("webhook-secrets", webhook(json!({"secrets": [{"name": "s", "secretRef": secret}]}))),
    ]
}

/// A namespace that is Vault's own, and none of Kubernetes.
const NOT_OURS: [&str; 2] = ["spec.provider.vault.namespace", "spec.provider.vault.auth.namespace"];

/// See the end of the test.
const ON_GKE_ALONE: &str = "spec.provider.vault.auth.gcp.serviceAccountRef";

/// The fields of a SecretStore that hold a namespace, as the contract has them.
fn fields() -> BTreeSet<String> {
    let text = std::fs::read_to_string(harness::root().join("e2e/contract/fields.tsv")).unwrap();
    let rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let of_store =
        rows.filter(|row| row[0] == "SecretStore" && row[2].starts_with("spec.provider.") && row[2].ends_with(".namespace"));
    of_store.map(|row| row[2].to_owned()).filter(|path| !NOT_OURS.contains(&path.as_str())).collect()
}

/// Every object in a spec that names something, with its path as the contract writes it.
fn references(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    let Some(fields) = value.as_object() else { return };
    let pointer = |path: &str| format!("/{}", path.trim_start_matches("spec.provider.").replace("[]", "/0").replace('.', "/"));
    if fields.get("name") == Some(&json!("mine")) {
        found.push((path.to_owned(), pointer(path)));
    }
    for (name, value) in fields {
        match value.as_array() {
            Some(items) => items.iter().take(1).for_each(|item| references(item, &format!("{path}.{name}[]"), found)),
            None => references(value, &format!("{path}.{name}"), found),
        }
    }
}

#[tokio::test]
async fn no_reference_of_a_secret_store_leaves_its_namespace() {
    let world = World::new("tenant", Making { cluster: true, ..Making::default() }).await;
    let case = &world.case;
    let victim = format!("{}-a", case.name);
    harness::create_namespace(&case.client, &victim).await;
    let pair = Authority::new("tenants").issue("tenant", None, &["localhost"]);
    let both = format!("{}\n{}", pair.certificate, pair.key);
    for namespace in [&case.name, &victim] {
        for name in ["mine", "victim"] {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace,
                "labels": {"external-secrets.io/type": "webhook"}}, "stringData": {"k": "CANARY-k", "pem": both}});
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}});
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"pem": both}});
            for object in [secret, account, map] {
                harness::apply(&case.client, None, object).await.unwrap();
            }
        }
    }
    world.start().await;
    let mut tried = BTreeSet::new();
    let mut names = Vec::new();
    for (base, spec) in stores() {
        let mut found = Vec::new();
        references(&spec, "spec.provider", &mut found);
        assert!(!found.is_empty(), "{base} refers to something");
        for (path, pointer) in found {
            let kinds: &[Option<&str>] =
                if path.ends_with("caProvider") { &[Some("Secret"), Some("ConfigMap")] } else { &[None] };
            for kind in kinds {
                let mut spec = spec.clone();
                let reference = spec.pointer_mut(&pointer).unwrap_or_else(|| panic!("{path} is at {pointer}"));
                reference["name"] = json!("victim");
                reference["namespace"] = json!(victim);
                if let Some(kind) = kind {
                    reference["type"] = json!(kind);
                }
                let name = format!("s{}", names.len());
                case.apply_store(&name, spec).await;
                names.push((name, format!("{base}: {path}")));
            }
            tried.insert(format!("{path}.namespace"));
        }
    }
    let fields = fields();
    assert!(fields.len() > 40, "the contract was read");
    let missing: Vec<&String> = fields.difference(&tried).collect();
    assert!(missing.is_empty(), "nobody tries {missing:#?}");
    for (name, what) in &names {
        let api: kube::Api<lockstep_crds::SecretStore> = kube::Api::namespaced(case.client.clone(), &case.name);
        let told = eventually(&format!("{what} is answered"), async || {
            let conditions = api.get(name).await.unwrap().status?.conditions;
            conditions.into_iter().find(|c| c.type_ == "Ready")
        })
        .await;
        let message = told.message.unwrap_or_default();
        // One is read on GKE alone, and what comes before it is not here: that nobody went there has to do.
        let says = message.contains(&victim) || what.ends_with(ON_GKE_ALONE);
        assert!(told.status == "False" && says, "{what}: {} {message}", told.status);
    }
    let there: Vec<_> = world.api.log().into_iter().filter(|e| e.path.contains(&format!("/namespaces/{victim}/"))).collect();
    assert!(there.is_empty(), "the operator went there: {there:#?}");
    world.end().await;
}
