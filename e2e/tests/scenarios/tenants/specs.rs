//! Specs that have every reference there is, and the contract's list of those.

use std::collections::BTreeSet;

use lockstep_crds::generator::GeneratorKind;
use lockstep_e2e::harness;
use serde_json::{Value, json};

/// Specs of stores which between them have every reference that a store can have, each to something of its own namespace.
pub fn stores() -> Vec<(&'static str, Value)> {
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
pub const NOT_OURS: [&str; 2] = ["spec.provider.vault.namespace", "spec.provider.vault.auth.namespace"];

/// The fields of a SecretStore that hold a namespace, as the contract has them.
pub fn fields() -> BTreeSet<String> {
    let text = std::fs::read_to_string(harness::root().join("e2e/contract/fields.tsv")).unwrap();
    let rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let of_store =
        rows.filter(|row| row[0] == "SecretStore" && row[2].starts_with("spec.provider.") && row[2].ends_with(".namespace"));
    of_store.map(|row| row[2].to_owned()).filter(|path| !NOT_OURS.contains(&path.as_str())).collect()
}

/// A generator of each kind for every way to log in that it shares with a store.
pub fn generators() -> Vec<(&'static str, Value)> {
    let secret = json!({"name": "mine", "key": "k"});
    let mut all = Vec::new();
    for (_, store) in stores() {
        let (provider, spec) = store.as_object().unwrap().iter().next().unwrap();
        match provider.as_str() {
            "vault" => all.push(("VaultDynamicSecret", json!({"path": "a/b", "provider": spec}))),
            "aws" => all.extend(
                ["ECRAuthorizationToken", "STSSessionToken"]
                    .map(|kind| (kind, json!({"region": "eu-west-1", "auth": spec["auth"]}))),
            ),
            "gcpsm" => all.push(("GCRAccessToken", json!({"projectID": "p", "auth": spec["auth"]}))),
            "webhook" => all.push(("Webhook", spec.clone())),
            _ => {}
        }
    }
    let registry = |auth: Value| json!({"tenantId": "t", "registry": "x.azurecr.io", "auth": auth});
    all.push((
        "ACRAccessToken",
        registry(json!({"servicePrincipal": {"secretRef": {"clientId": secret, "clientSecret": secret}}})),
    ));
    all.push(("ACRAccessToken", registry(json!({"workloadIdentity": {"serviceAccountRef": {"name": "mine"}}}))));
    all
}

/// The fields of the generators that are served and that hold a namespace of Kubernetes, alone and in a ClusterGenerator: kind and path.
pub fn fields_of_generators() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(harness::root().join("e2e/contract/fields.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let served: BTreeSet<&str> = generators().into_iter().map(|(kind, _)| kind).collect();
    let named = |row: &&Vec<&str>| row[2].starts_with("spec.") && row[2].ends_with(".namespace");
    let own = rows.iter().filter(named).filter(|row| served.contains(row[0])).map(|row| (row[0].to_owned(), row[2].to_owned()));
    // Its provider is a store's.
    let vault =
        fields().into_iter().filter_map(|path| Some(format!("spec.provider.{}", path.strip_prefix("spec.provider.vault.")?)));
    let vaults_own = [
        "spec.generator.vaultDynamicSecretSpec.provider.namespace",
        "spec.generator.vaultDynamicSecretSpec.provider.auth.namespace",
    ];
    let parts: BTreeSet<&str> = served.iter().map(|kind| GeneratorKind::of(kind).unwrap().field()).collect();
    let in_clusters = rows
        .iter()
        .filter(named)
        .filter(|row| row[0] == "ClusterGenerator" && parts.contains(row[2].split('.').nth(2).unwrap_or_default()))
        .filter(|row| !vaults_own.contains(&row[2]))
        .map(|row| (row[0].to_owned(), row[2].to_owned()));
    own.chain(in_clusters).chain(vault.map(|path| ("VaultDynamicSecret".to_owned(), path))).collect()
}

/// Kinds of generator that this version does not serve.
pub const NOT_SERVED: [&str; 7] = [
    "BeyondtrustWorkloadCredentialsDynamicSecret",
    "CloudsmithAccessToken",
    "GithubAccessToken",
    "GitlabDeployToken",
    "QuayAccessToken",
    "Grafana",
    "MFA",
];
