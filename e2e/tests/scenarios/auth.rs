//! Each way to log in to a real Vault: one login serves everyone, and ends with the operator.

use std::time::Duration;

use lockstep_e2e::control_plane::Pair;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::vault::LDAP_PASSWORD;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// A policy for the case, and three objects that read through the store `vault`.
async fn prepare(case: &Case) {
    case.harness.vault.policy(&case.name, &[&format!("secret/data/{}/*", case.name)]).await;
    case.put("app", json!({"p": "CANARY-p"})).await;
}

async fn three_objects_sync(case: &Case) {
    for i in 0..3 {
        case.external_secret(&format!("app-{i}"), json!({"data": [case.data("p", "app", "p")]})).await;
    }
    for i in 0..3 {
        case.secret_is(&format!("app-{i}"), &[("p", "CANARY-p")]).await;
    }
}

/// The store and three objects work, and there was one login.
async fn one_login_serves_all(case: &Case, auth: Value, login: &str) {
    let before = case.harness.vault.requests("update", login);
    case.apply_store("vault", case.vault_at(&case.harness.vault.url, auth)).await;
    three_objects_sync(case).await;
    case.store_is("vault", "True", "Valid", "").await;
    assert_eq!(case.harness.vault.requests("update", login) - before, 1, "one login for the store and its three objects");
}

#[tokio::test]
async fn approle_logs_in_once_and_again_when_vault_drops_the_token() {
    let case = Case::new("approle").await;
    prepare(&case).await;
    let vault = &case.harness.vault;
    let mount = format!("approle-{}", case.name);
    vault.auth(&mount, "approle").await;
    vault.write(&format!("auth/{mount}/role/app"), json!({"token_policies": [case.name], "token_ttl": "1h"})).await;
    let role = vault.read(&format!("auth/{mount}/role/app/role-id")).await["data"]["role_id"].as_str().unwrap().to_owned();
    let secret = vault.write(&format!("auth/{mount}/role/app/secret-id"), json!({})).await["data"]["secret_id"]
        .as_str()
        .unwrap()
        .to_owned();
    case.apply_secret("approle", &[("role-id", &role), ("secret-id", &secret)]).await;
    let auth = json!({"appRole": {"path": mount, "roleRef": {"name": "approle", "key": "role-id"}, "secretRef": {"name": "approle", "key": "secret-id"}}});
    let login = format!("auth/{mount}/login");
    one_login_serves_all(&case, auth, &login).await;
    // All of its tokens are revoked behind the operator's back: a 403 that means "expired".
    vault.write(&format!("sys/leases/revoke-prefix/{login}"), json!({})).await;
    case.put("app", json!({"p": "CANARY-q"})).await;
    // A denial in the first seconds after a good answer is taken for one of the policy.
    for i in 0..3 {
        let name = format!("app-{i}");
        eventually("the new value arrives", async || {
            case.force_sync(&name).await;
            case.caught_up_or_failed(&name).await;
            (case.secret(&name).await?["p"] == "CANARY-q").then_some(())
        })
        .await;
    }
    assert_eq!(vault.requests("update", &login), 2, "one new login for all three");
}

#[tokio::test]
async fn a_short_lived_token_is_renewed_before_it_ends_and_revoked_at_shutdown() {
    let case = Case::with_own_class("renew").await;
    prepare(&case).await;
    let vault = &case.harness.vault;
    let mount = format!("userpass-{}", case.name);
    vault.auth(&mount, "userpass").await;
    vault
        .write(
            &format!("auth/{mount}/users/ada"),
            json!({"password": "CANARY-pw", "token_policies": [case.name], "token_ttl": "3s"}),
        )
        .await;
    case.apply_secret("password", &[("password", "CANARY-pw")]).await;
    let auth = json!({"userPass": {"path": mount, "username": "ada", "secretRef": {"name": "password", "key": "password"}}});
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    case.apply_store("vault", case.vault_at(&vault.url, auth)).await;
    case.external_secret("app", json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    eventually("it was renewed three times", async || {
        (vault.requests_of("update", "auth/token/renew-self", &mount) >= 3).then_some(())
    })
    .await;
    case.put("app", json!({"p": "CANARY-q"})).await;
    case.secret_is("app", &[("p", "CANARY-q")]).await;
    assert_eq!(vault.requests("update", &format!("auth/{mount}/login")), 1);
    operator.process.signal("TERM");
    assert!(operator.process.wait_gone(Duration::from_secs(5)), "it stops inside of 5 s");
    assert_eq!(vault.requests_of("update", "auth/token/revoke-self", &mount), 1);
}

#[tokio::test]
async fn kubernetes_auth_takes_a_service_account_a_token_in_a_secret_or_the_pods_own() {
    let case = Case::with_own_class("kube").await;
    prepare(&case).await;
    let vault = &case.harness.vault;
    let mount = format!("kubernetes-{}", case.name);
    vault.auth(&mount, "kubernetes").await;
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    case.apply(account("reviewer")).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": format!("{}-reviewer", case.name)},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
        "subjects": [{"kind": "ServiceAccount", "name": "reviewer", "namespace": case.name}]});
    case.apply(binding).await.unwrap();
    let reviewer = harness::service_account_token(&case.client, &case.name, "reviewer").await;
    let cluster = &case.harness.control_plane;
    vault
        .write(
            &format!("auth/{mount}/config"),
            json!({"kubernetes_host": cluster.url, "kubernetes_ca_cert": cluster.ca, "token_reviewer_jwt": reviewer, "disable_local_ca_jwt": true}),
        )
        .await;
    let role = json!({"bound_service_account_names": "app,lockstep", "bound_service_account_namespaces": format!("{},lockstep-system", case.name),
        "token_policies": [case.name], "token_ttl": "1h", "audience": ""});
    vault.write(&format!("auth/{mount}/role/app"), role).await;
    let file = case.harness.folder.path().join(format!("{}.token", case.name));
    std::fs::write(&file, harness::service_account_token(&case.client, "lockstep-system", "lockstep").await).unwrap();
    let operator = case.own_operator("a", &["--token-file", file.to_str().unwrap()]);
    operator.wait_working();
    let base = |more: Value| {
        let mut auth = json!({"mountPath": mount, "role": "app"});
        auth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"kubernetes": auth})
    };
    let login = format!("auth/{mount}/login");
    // The service account is missing at first; the store comes good at once when it appears.
    case.apply_store("vault", case.vault_at(&vault.url, base(json!({"serviceAccountRef": {"name": "app"}})))).await;
    case.store_is("vault", "False", "InvalidProviderConfig", "/app does not exist; create it").await;
    case.apply(account("app")).await.unwrap();
    case.store_is("vault", "True", "Valid", "").await;
    three_objects_sync(&case).await;
    assert_eq!(vault.requests("update", &login), 1);
    let token = harness::service_account_token(&case.client, &case.name, "app").await;
    case.apply_secret("jwt", &[("token", &token)]).await;
    case.apply_store("by-secret", case.vault_at(&vault.url, base(json!({"secretRef": {"name": "jwt"}})))).await;
    case.store_is("by-secret", "True", "Valid", "").await;
    case.external_secret("by-secret", json!({"secretStoreRef": {"name": "by-secret"}, "data": [case.data("p", "app", "p")]}))
        .await;
    case.secret_is("by-secret", &[("p", "CANARY-p")]).await;
    // The operator's own token goes where an administrator says, and never where a tenant does.
    case.apply_cluster_store(&case.name, case.vault_at(&vault.url, base(json!({}))), json!([])).await;
    let store = json!({"name": case.name, "kind": "ClusterSecretStore"});
    case.external_secret("by-pod", json!({"secretStoreRef": store, "data": [case.data("p", "app", "p")]})).await;
    case.secret_is("by-pod", &[("p", "CANARY-p")]).await;
    case.apply_store("thief", case.vault_at(&vault.url, base(json!({})))).await;
    case.store_is("thief", "False", "InvalidProviderConfig", "the operator's own is for ClusterSecretStores only").await;
    case.delete_cluster_store(&case.name).await;
}

#[tokio::test]
async fn jwt_auth_takes_a_service_accounts_token_for_an_audience_or_one_in_a_secret() {
    let case = Case::new("jwt").await;
    prepare(&case).await;
    let vault = &case.harness.vault;
    let mount = format!("jwt-{}", case.name);
    vault.auth(&mount, "jwt").await;
    vault.write(&format!("auth/{mount}/config"), json!({"jwt_validation_pubkeys": [case.harness.control_plane.token_key]})).await;
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": format!("system:serviceaccount:{}:app", case.name),
        "token_policies": [case.name]});
    vault.write(&format!("auth/{mount}/role/app"), role).await;
    case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app"}})).await.unwrap();
    let token = json!({"serviceAccountRef": {"name": "app"}, "audiences": ["vault"], "expirationSeconds": 600});
    let auth = json!({"jwt": {"path": mount, "role": "app", "kubernetesServiceAccountToken": token}});
    one_login_serves_all(&case, auth, &format!("auth/{mount}/login")).await;
    let right = harness::token_for(&case.client, &case.name, "app", &["vault"]).await;
    case.apply_secret("right", &[("jwt", &right)]).await;
    let auth = json!({"jwt": {"path": mount, "role": "app", "secretRef": {"name": "right", "key": "jwt"}}});
    case.apply_store("right", case.vault_at(&vault.url, auth)).await;
    case.store_is("right", "True", "Valid", "").await;
    // A token for another audience is refused by Vault, and the message says where.
    let wrong = harness::service_account_token(&case.client, &case.name, "app").await;
    case.apply_secret("jwt", &[("jwt", &wrong)]).await;
    let auth = json!({"jwt": {"path": mount, "role": "app", "secretRef": {"name": "jwt", "key": "jwt"}}});
    case.apply_store("wrong", case.vault_at(&vault.url, auth)).await;
    let message = case.store_is("wrong", "False", "InvalidProviderConfig", "login failed").await;
    assert!(message.contains(&mount) && !message.contains(&wrong), "{message}");
}

#[tokio::test]
async fn user_and_password_log_in_by_userpass_and_by_ldap() {
    let case = Case::new("password").await;
    prepare(&case).await;
    let vault = &case.harness.vault;
    let (userpass, ldap) = (format!("userpass-{}", case.name), format!("ldap-{}", case.name));
    vault.auth(&userpass, "userpass").await;
    vault.write(&format!("auth/{userpass}/users/ada"), json!({"password": "CANARY-pw", "token_policies": [case.name]})).await;
    case.apply_secret("passwords", &[("userpass", "CANARY-pw"), ("ldap", LDAP_PASSWORD), ("wrong", "CANARY-wrong")]).await;
    let auth = json!({"userPass": {"path": userpass, "username": "ada", "secretRef": {"name": "passwords", "key": "userpass"}}});
    one_login_serves_all(&case, auth, &format!("auth/{userpass}/login/ada")).await;

    vault.auth(&ldap, "ldap").await;
    let config = json!({"url": format!("ldap://127.0.0.1:{}", vault.ldap_port), "userdn": "ou=people,dc=example,dc=org",
        "userattr": "cn", "groupdn": "ou=groups,dc=example,dc=org", "discoverdn": false});
    vault.write(&format!("auth/{ldap}/config"), config).await;
    vault.write(&format!("auth/{ldap}/users/ada"), json!({"policies": case.name})).await;
    let auth = |key: &str| json!({"ldap": {"path": ldap, "username": "ada", "secretRef": {"name": "passwords", "key": key}}});
    case.apply_store("ldap", case.vault_at(&vault.url, auth("ldap"))).await;
    case.external_secret("ldap", json!({"secretStoreRef": {"name": "ldap"}, "data": [case.data("p", "app", "p")]})).await;
    case.secret_is("ldap", &[("p", "CANARY-p")]).await;
    case.apply_store("ldap", case.vault_at(&vault.url, auth("wrong"))).await;
    case.store_is("ldap", "False", "InvalidProviderConfig", "login failed").await;
    case.secret_is("ldap", &[("p", "CANARY-p")]).await;
}

#[tokio::test]
async fn a_client_certificate_logs_in_over_tls_with_a_ca_from_the_spec_or_a_config_map() {
    let case = Case::new("cert").await;
    prepare(&case).await;
    let vault = &case.harness.vault;
    let mount = format!("cert-{}", case.name);
    vault.auth(&mount, "cert").await;
    vault
        .write(&format!("auth/{mount}/certs/app"), json!({"certificate": vault.authority.pem, "token_policies": case.name}))
        .await;
    let Pair { certificate, key } = vault.authority.issue("app", None, &["app"]);
    case.apply_secret("pair", &[("tls.crt", &certificate), ("tls.key", &key)]).await;
    let config_map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": vault.authority.pem}});
    case.apply(config_map).await.unwrap();
    let auth = json!({"cert": {"path": mount, "vaultRole": "app", "clientCert": {"name": "pair", "key": "tls.crt"}, "secretRef": {"name": "pair", "key": "tls.key"}}});
    let mut provider = case.vault_at(&vault.tls_url, auth);
    // Without the authority the server is not trusted, and the message says so.
    case.apply_store("vault", provider.clone()).await;
    case.store_is("vault", "False", "InvalidProviderConfig", "certificate").await;
    provider["vault"]["caProvider"] = json!({"type": "ConfigMap", "name": "ca", "key": "ca.crt"});
    case.apply_store("vault", provider.clone()).await;
    case.store_is("vault", "True", "Valid", "").await;
    three_objects_sync(&case).await;
    provider["vault"].as_object_mut().unwrap().remove("caProvider");
    provider["vault"]["caBundle"] =
        json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &vault.authority.pem));
    case.apply_store("bundle", provider).await;
    case.store_is("bundle", "True", "Valid", "").await;
}
