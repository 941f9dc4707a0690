//! Google Cloud Secret Manager: every kind of identity, what is read, and what errors look like.

use std::collections::HashMap;

use lockstep_e2e::faults::Fault;
use lockstep_e2e::gcp::{Gcp, Pool};
use lockstep_e2e::harness::{eventually, gcp, secret, token_for};
use lockstep_e2e::http_api::HttpApi;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// A case with a project of its own.
struct OnGcp {
    case: Case,
    gcp: &'static Gcp,
    /// A service account that may read everything in the project.
    reader: String,
}

impl OnGcp {
    async fn new(topic: &str) -> Self {
        let case = Case::new(topic).await;
        let reader = format!("reader@{}.iam.gserviceaccount.com", case.name);
        let on = Self { case, gcp: gcp(), reader };
        on.gcp.grant(&on.reader, &[&on.project()]);
        on
    }

    fn project(&self) -> String {
        format!("projects/{}", self.case.name)
    }

    fn secret(&self, name: &str) -> String {
        format!("{}/secrets/{name}", self.project())
    }

    async fn key(&self, json: &Value) {
        self.case.apply_secret("google", &[("key.json", &json.to_string())]).await;
    }

    /// A store with the reader's key, and more.
    async fn store(&self, name: &str, more: Value) {
        self.key(&self.gcp.account(&self.reader)).await;
        let auth = json!({"secretRef": {"secretAccessKeySecretRef": {"name": "google", "key": "key.json"}}});
        self.store_with(name, json!({"auth": auth}), more).await;
    }

    async fn store_with(&self, name: &str, auth: Value, more: Value) {
        let mut spec = json!({"projectID": self.case.name});
        for part in [auth, more] {
            spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        self.case.apply_store(name, json!({"gcpsm": spec})).await;
    }

    async fn object(&self, name: &str, store: &str, entries: Value) {
        self.case.external_secret(name, json!({"secretStoreRef": {"name": store}, "data": entries})).await;
    }

    async fn account(&self, annotations: Value) {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "annotations": annotations}});
        self.case.apply(account).await.unwrap();
    }
}

fn entry(secret_key: &str, remote: Value) -> Value {
    json!({"secretKey": secret_key, "remoteRef": remote})
}

#[tokio::test]
async fn secret_manager_serves_values_versions_and_metadata() {
    let on = OnGcp::new("gcp-read").await;
    let app = on.secret("app");
    on.gcp.put(&app, br#"{"user": "CANARY-old"}"#);
    on.gcp.put(&app, br#"{"user": "CANARY-new"}"#);
    on.gcp.set(&app, "labels", json!({"team": "a"}));
    on.gcp.set(&app, "annotations", json!({"example.com/owner": "b"}));
    on.gcp.set(&app, "versionAliases", json!({"first": "1"}));
    on.gcp.put(&on.secret("bin"), b"CANARY\0");
    on.store("sm", json!({})).await;
    on.case.store_is("sm", "True", "Valid", "store validated").await;
    let entries = json!([
        entry("new", json!({"key": "app", "property": "user"})),
        entry("number", json!({"key": "app", "property": "user", "version": "1"})),
        entry("alias", json!({"key": "app", "property": "user", "version": "first"})),
        entry("latest", json!({"key": "app", "property": "user", "version": "latest"})),
        entry("team", json!({"key": "app", "metadataPolicy": "Fetch", "property": "labels.team"})),
        entry("owner", json!({"key": "app", "metadataPolicy": "Fetch", "property": "annotations.example.com/owner"})),
        entry("bin", json!({"key": "bin"})),
    ]);
    on.object("app", "sm", entries).await;
    let expected = [
        ("new", "CANARY-new"),
        ("number", "CANARY-old"),
        ("alias", "CANARY-old"),
        ("latest", "CANARY-new"),
        ("team", "a"),
        ("owner", "b"),
        ("bin", "CANARY\0"),
    ];
    on.case.secret_is("app", &expected).await;

    for (name, remote, needle) in [
        ("gone", json!({"key": "nowhere"}), "not found: Google has nothing for AccessSecretVersion"),
        ("version", json!({"key": "app", "version": "9"}), "not found: Google has nothing for AccessSecretVersion"),
        ("malformed", json!({"key": "a/b"}), "is no name of a Google secret"),
        ("nonsense", json!({"key": "app", "version": "1/../2"}), "is no version of a Google secret"),
    ] {
        on.object(name, "sm", json!([entry("x", remote)])).await;
        on.case.failed(name, needle).await;
    }
    // The store's project wins over the key's own; without one, the key's is meant.
    let mut elsewhere = on.gcp.account(&on.reader);
    elsewhere["project_id"] = json!("elsewhere");
    on.key(&elsewhere).await;
    on.case.force_sync("app").await;
    on.case.caught_up("app").await;
    let auth = json!({"secretRef": {"secretAccessKeySecretRef": {"name": "google", "key": "key.json"}}});
    on.case.apply_store("keys", json!({"gcpsm": {"auth": auth}})).await;
    on.object("keys", "keys", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("keys", "projects/elsewhere/").await;
    on.gcp.grant(&on.reader, &[&on.secret("app")]);
    on.gcp.put(&on.secret("other"), b"CANARY");
    on.object("denied", "sm", json!([entry("x", json!({"key": "other"}))])).await;
    on.case.failed("denied", "PERMISSION_DENIED: Permission 'secretmanager.versions.access' denied").await;
}

#[tokio::test]
async fn a_store_that_says_so_tries_again() {
    let on = OnGcp::new("gcp-patient").await;
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    on.store("sm", json!({})).await;
    let path = format!("/v1/{}", on.secret("app"));
    on.case
        .rides_two_failures_out("sm", json!([entry("x", json!({"key": "app"}))]), || {
            let body = json!({"error": {"code": 503, "status": "UNAVAILABLE", "message": "as the test asked"}}).to_string();
            let failing = Fault::Answer { status: 503, retry_after: None, body };
            on.gcp.faults.add(2, failing, move |parts, _| parts.uri.path().starts_with(&path))
        })
        .await;
}

#[tokio::test]
async fn a_version_that_is_off_is_said_or_passed_over_as_the_policy_has_it() {
    let on = OnGcp::new("gcp-off").await;
    // A name so long that the state stands beyond what a message shows of Google's words.
    let name = "x".repeat(250);
    let app = on.secret(&name);
    for value in ["CANARY-1", "CANARY-2", "CANARY-3"] {
        on.gcp.put(&app, value.as_bytes());
    }
    on.gcp.switch(&app, 3, "DISABLED");
    on.gcp.switch(&app, 1, "DESTROYED");
    on.store("fail", json!({})).await;
    on.store("fetch", json!({"secretVersionSelectionPolicy": "LatestOrFetch"})).await;
    for store in ["fail", "fetch"] {
        on.object(store, store, json!([entry("x", json!({"key": name}))])).await;
    }
    on.case.failed("fail", "remoteRef.version: Google can't do AccessSecretVersion").await;
    on.case.secret_is("fetch", &[("x", "CANARY-2")]).await;
    on.store("typo", json!({"secretVersionSelectionPolicy": "Latest"})).await;
    on.case.store_is("typo", "False", "InvalidProviderConfig", "LatestOrFail or LatestOrFetch").await;
}

#[tokio::test]
async fn regional_secrets_are_those_of_a_location() {
    let on = OnGcp::new("gcp-region").await;
    on.gcp.put(&on.secret("app"), b"CANARY-global");
    on.gcp.put(&format!("{}/locations/europe-west3/secrets/app", on.project()), b"CANARY-regional");
    on.store("sm", json!({"location": "europe-west3"})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.secret_is("app", &[("x", "CANARY-regional")]).await;
    on.store("evil", json!({"location": "x.evil.example/"})).await;
    on.case.store_is("evil", "False", "InvalidProviderConfig", "spec.provider.gcpsm.location: is no location").await;
}

#[tokio::test]
async fn a_key_that_is_wrong_is_named_and_a_right_one_taken_up_at_once() {
    let on = OnGcp::new("gcp-key").await;
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    on.store("sm", json!({})).await;
    let mut other = on.gcp.account(&on.reader);
    other["private_key"] = on.gcp.account(&format!("other@{}.iam.gserviceaccount.com", on.case.name))["private_key"].clone();
    on.key(&other).await;
    // Whoever reads before the change is seen has the value, and no reason to read again.
    on.case.store_is("sm", "False", "InvalidProviderConfig", "invalid_grant").await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", &format!("Google refuses a token of {} (invalid_grant: Invalid JWT Signature.)", on.reader)).await;
    on.key(&json!({"type": "authorized_user"})).await;
    on.case.failed("app", "a key of type \"service_account\" is needed").await;
    on.key(&on.gcp.account(&on.reader)).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;

    // A token that has ended before its time is renewed once, and nobody notices.
    on.gcp.expire(&on.reader);
    on.gcp.put(&on.secret("app"), b"CANARY-w");
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-w")]).await;
    // A value that came damaged is not taken.
    let path = format!("/v1/{}/versions/latest:access", on.secret("app"));
    let damage = |mut json: Value| {
        json["payload"]["data"] = json!("Q0FOQVJZLXg=");
        json
    };
    on.gcp.faults.add(usize::MAX, Fault::Change(std::sync::Arc::new(damage)), move |parts, _| parts.uri.path() == path);
    on.case.force_sync("app").await;
    on.case.failed("app", "came damaged: its CRC32C is another").await;
    on.case.secret_is("app", &[("x", "CANARY-w")]).await;
}

#[tokio::test]
async fn a_service_account_of_a_gke_cluster_is_a_principal_or_a_google_account() {
    let on = OnGcp::new("gcp-gke").await;
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    let cluster = format!("{}/locations/europe-west3/clusters/main", on.project());
    let principal = format!("serviceAccount:{0}.svc.id.goog[{0}/app]", on.case.name);
    on.account(json!({})).await;
    let auth = |cluster: &str| {
        json!({"auth": {"workloadIdentity": {
            "serviceAccountRef": {"name": "app"}, "clusterLocation": "europe-west3", "clusterName": cluster,
            "clusterProjectID": on.case.name,
        }}})
    };
    on.store_with("sm", auth("other"), json!({})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "invalid_target").await;
    on.case.failed("app", "must name this cluster").await;
    on.gcp.cluster(&cluster);
    on.store_with("sm", auth("main"), json!({})).await;
    on.case.failed("app", "PERMISSION_DENIED").await;
    on.gcp.grant(&principal, &[&on.project()]);
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
    // As a Google service account, which must admit it.
    on.account(json!({"iam.gke.io/gcp-service-account": on.reader})).await;
    on.case.failed("app", &format!("Google refuses a token of {}", on.reader)).await;
    on.gcp.users(&on.reader, &[&principal]);
    on.gcp.put(&on.secret("app"), b"CANARY-w");
    // A refusal holds for half a minute, unless the identity changes.
    on.store_with("sm", auth("main"), json!({"secretVersionSelectionPolicy": "LatestOrFetch"})).await;
    on.case.secret_is("app", &[("x", "CANARY-w")]).await;
    on.store_with("sm", auth("main"), json!({"auth": {"workloadIdentity": {"serviceAccountRef": {"name": "nobody"}, "clusterLocation": "l", "clusterName": "c"}}})).await;
    on.case.failed("app", "ServiceAccount").await;
}

#[tokio::test]
async fn a_service_account_of_any_cluster_is_federated() {
    let on = OnGcp::new("gcp-wif").await;
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    on.account(json!({})).await;
    let pool = format!(
        "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{}/providers/k8s",
        on.case.name
    );
    let auth = |more: Value| {
        let mut federation = json!({"serviceAccountRef": {"name": "app"}, "audience": pool});
        federation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"auth": {"workloadIdentityFederation": federation}})
    };
    on.store_with("sm", auth(json!({})), json!({})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "Invalid value for \"audience\"").await;
    on.gcp.pool(&pool, Pool::default());
    let wrong = json!({"serviceAccountRef": {"name": "app", "audiences": ["elsewhere"]}});
    on.store_with("sm", auth(wrong), json!({})).await;
    on.case.failed("app", "The audience in ID Token [elsewhere] does not match").await;
    let principal = format!(
        "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{0}/subject/system:serviceaccount:{0}:app",
        on.case.name
    );
    on.gcp.users(&on.reader, &[&principal]);
    on.store_with("sm", auth(json!({"gcpServiceAccountEmail": on.reader})), json!({})).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
    // Without a Google service account the principal itself is asked for.
    on.store_with("sm", auth(json!({})), json!({})).await;
    on.case.failed("app", "PERMISSION_DENIED").await;
    on.gcp.grant(&principal, &[&on.project()]);
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn an_aws_identity_is_federated() {
    let on = OnGcp::new("gcp-aws").await;
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    let pool = format!(
        "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{}/providers/aws",
        on.case.name
    );
    let aws = HashMap::from([("AKIAGOOGLE".to_owned(), "CANARY-secret-key".to_owned())]);
    on.gcp.pool(&pool, Pool { aws, ..Pool::default() });
    let principal = format!(
        "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{}/subject/AKIAGOOGLE",
        on.case.name
    );
    on.gcp.grant(&principal, &[&on.project()]);
    let keys = |secret: &str| {
        [("aws_access_key_id".to_owned(), "AKIAGOOGLE".to_owned()), ("aws_secret_access_key".to_owned(), secret.to_owned())]
    };
    let put = async |secret: &str| {
        let keys = keys(secret);
        let keys: Vec<(&str, &str)> = keys.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        on.case.apply_secret("aws", &keys).await;
    };
    put("CANARY-wrong").await;
    let source = json!({"region": "eu-central-1", "awsCredentialsSecretRef": {"name": "aws"}});
    let auth = json!({"auth": {"workloadIdentityFederation": {"awsSecurityCredentials": source, "audience": pool}}});
    on.store_with("sm", auth, json!({})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "Google refuses the exchange of an AWS identity").await;
    on.case.failed("app", "SignatureDoesNotMatch").await;
    put("CANARY-secret-key").await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn the_operators_own_aws_identity_is_federated_for_cluster_stores() {
    let case = Case::with_own_class("gcp-aws1").await;
    let secret = format!("projects/{}/secrets/app", case.name);
    gcp().put(&secret, b"CANARY-v");
    let pools = "iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools";
    let pool = format!("//{pools}/{}/providers/aws", case.name);
    let aws = HashMap::from([("AKIAOWN".to_owned(), "CANARY-own-key".to_owned())]);
    gcp().pool(&pool, Pool { aws, ..Pool::default() });
    gcp().grant(&format!("principal://{pools}/{}/subject/AKIAOWN", case.name), &[&format!("projects/{}", case.name)]);
    let config = json!({
        "type": "external_account",
        "audience": pool,
        "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {
            "environment_id": "aws1",
            "region_url": "http://169.254.169.254/latest/meta-data/placement/availability-zone",
            "url": "http://169.254.169.254/latest/meta-data/iam/security-credentials",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
        },
    });
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "google"}, "data": {"config": config.to_string()}});
    case.apply(map).await.unwrap();
    let spec =
        |map: Value| json!({"gcpsm": {"projectID": case.name, "auth": {"workloadIdentityFederation": {"credConfig": map}}}});
    let env = [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "AKIAOWN"), ("AWS_SECRET_ACCESS_KEY", "CANARY-own-key")];
    let operator = case.own_operator_with("own", &[], &env);
    operator.wait_working();
    let data = json!([entry("x", json!({"key": "app"}))]);
    case.apply_store("sm", spec(json!({"name": "google", "key": "config"}))).await;
    case.external_secret("tenant", json!({"secretStoreRef": {"name": "sm"}, "data": data})).await;
    case.failed("tenant", "the operator's own is for ClusterSecretStores only").await;
    let (name, map) = (format!("aws1-{}", case.name), json!({"name": "google", "key": "config", "namespace": case.name}));
    case.apply_cluster_store(&name, spec(map), json!([])).await;
    let store = json!({"name": name, "kind": "ClusterSecretStore"});
    case.external_secret("app", json!({"secretStoreRef": store, "data": data})).await;
    case.secret_is("app", &[("x", "CANARY-v")]).await;
    case.delete_cluster_store(&name).await;
}

#[tokio::test]
async fn a_configuration_for_federation_is_taken_without_what_would_be_the_operators() {
    let on = OnGcp::new("gcp-config").await;
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    let pool = format!(
        "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{}/providers/k8s",
        on.case.name
    );
    on.gcp.pool(&pool, Pool::default());
    on.account(json!({})).await;
    let token = token_for(&on.case.client, &on.case.name, "app", &[&pool]).await;
    let api = HttpApi::start("CANARY-api").await;
    api.put("token", json!(token));
    let tokens = format!("{}/secrets/token", api.url);
    let configure = async |source: Value| {
        let config = json!({
            "type": "external_account",
            "audience": pool,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "service_account_impersonation_url":
                format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{}:generateAccessToken", on.reader),
            "credential_source": source,
        });
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "google"}, "data": {"config": config.to_string()}});
        on.case.apply(map).await.unwrap();
    };
    configure(json!({"file": "/etc/passwd"})).await;
    let auth = json!({"auth": {"workloadIdentityFederation": {
        "credConfig": {"name": "google", "key": "config"}, "externalTokenEndpoint": tokens,
    }}});
    on.store_with("sm", auth, json!({})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "names a file (credential_source.file), which is refused").await;
    let principal = format!(
        "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{0}/subject/system:serviceaccount:{0}:app",
        on.case.name
    );
    on.gcp.users(&on.reader, &[&principal]);
    configure(json!({"url": tokens, "headers": {"Authorization": "Bearer CANARY-api"}, "format": {"type": "json", "subject_token_field_name": "data"}})).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn a_store_without_auth_is_the_operators_machine_only_where_that_is_allowed() {
    let on = OnGcp::new("gcp-own").await;
    let email = format!("operator@{}.iam.gserviceaccount.com", on.case.name);
    on.gcp.account(&email);
    on.gcp.grant(&email, &[&on.project()]);
    on.gcp.put(&on.secret("app"), b"CANARY-v");
    on.case.apply_store("sm", json!({"gcpsm": {"projectID": on.case.name}})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "the operator's own is for ClusterSecretStores only").await;
    let name = format!("own-{}", on.case.name);
    on.case.apply_cluster_store(&name, json!({"gcpsm": {"projectID": on.case.name}}), json!([])).await;
    let store = json!({"name": name, "kind": "ClusterSecretStore"});
    let object = json!({"secretStoreRef": store, "data": [entry("x", json!({"key": "app"}))]});
    on.case.external_secret("cluster", object).await;
    on.case.failed("cluster", "the operator's own").await;
    // What was refused is asked for again, though not at every turn.
    on.gcp.machine(&email);
    eventually("the machine's identity is taken up", async || {
        on.case.force_sync("cluster").await;
        secret(&on.case.client, &on.case.name, "cluster").await
    })
    .await;
    on.case.secret_is("cluster", &[("x", "CANARY-v")]).await;
    // Without a project it is the machine's.
    on.gcp.put(&on.secret("app"), b"CANARY-w");
    on.case.apply_cluster_store(&name, json!({"gcpsm": {}}), json!([])).await;
    on.case.force_sync("cluster").await;
    on.case.secret_is("cluster", &[("x", "CANARY-w")]).await;
    on.case.delete_cluster_store(&name).await;
}

#[tokio::test]
async fn a_google_identity_logs_in_to_vault() {
    let on = OnGcp::new("gcp-vault").await;
    let (vault, name) = (&on.case.harness.vault, &on.case.name);
    on.case.put("app", json!({"user": "CANARY-u"})).await;
    let mount = format!("gcp-{name}");
    vault.write(&format!("sys/auth/{mount}"), json!({"type": "gcp"})).await;
    let endpoints = json!({"api": on.gcp.url, "iam": on.gcp.url});
    vault.write(&format!("auth/{mount}/config"), json!({"custom_endpoint": endpoints})).await;
    vault.policy_of(name, &["read"], &[&format!("secret/data/{name}/*")]).await;
    let role = json!({"type": "iam", "policies": name, "bound_service_accounts": on.reader, "token_ttl": "1h"});
    vault.write(&format!("auth/{mount}/role/app"), role).await;
    let store = async |auth: Value| {
        let mut gcp = json!({"path": mount, "role": "app"});
        gcp.as_object_mut().unwrap().extend(auth.as_object().unwrap().clone());
        on.case.apply_store("vault", on.case.vault_at(&vault.url, json!({"gcp": gcp}))).await;
    };
    let object = async |name: &str| {
        on.object(name, "vault", json!([entry("user", json!({"key": on.case.key("app"), "property": "user"}))])).await;
    };
    let by_key = json!({"secretRef": {"secretAccessKeySecretRef": {"name": "google", "key": "key.json"}}});
    on.key(&on.gcp.account(&format!("other@{name}.iam.gserviceaccount.com"))).await;
    store(by_key).await;
    object("by-key").await;
    on.case.failed("by-key", "login failed").await;
    on.case.failed("by-key", "is not authorized for role").await;
    on.key(&on.gcp.account(&on.reader)).await;
    on.case.secret_is("by-key", &[("user", "CANARY-u")]).await;

    // Of a GKE cluster: Google signs for the account that the annotation names, if it may.
    on.account(json!({"iam.gke.io/gcp-service-account": on.reader})).await;
    on.gcp.cluster(&format!("projects/{name}/locations/europe-west3/clusters/vaulted"));
    let principal = format!("serviceAccount:{name}.svc.id.goog[{name}/app]");
    on.gcp.users(&on.reader, &[&principal]);
    let cluster = json!({
        "serviceAccountRef": {"name": "app"}, "clusterLocation": "europe-west3", "clusterName": "vaulted", "clusterProjectID": name,
    });
    store(json!({"workloadIdentity": cluster})).await;
    object("by-cluster").await;
    on.case.failed("by-cluster", "needs roles/iam.serviceAccountTokenCreator on itself").await;
    on.gcp.users(&on.reader, &[&principal, &on.reader]);
    store(json!({"projectID": name, "workloadIdentity": cluster})).await;
    on.case.secret_is("by-cluster", &[("user", "CANARY-u")]).await;
}

#[tokio::test]
async fn secrets_are_found_by_name_and_labels() {
    let on = OnGcp::new("gcp-find").await;
    for (name, team) in [("db-a", "x"), ("db-b", "y"), ("web-c", "x")] {
        let name = on.secret(name);
        on.gcp.put(&name, format!("CANARY-{team}").as_bytes());
        on.gcp.set(&name, "labels", json!({"team": team}));
    }
    on.store("sm", json!({})).await;
    for (name, find, expected) in [
        ("name", json!({"name": {"regexp": "^db-"}}), &[("db-a", "CANARY-x"), ("db-b", "CANARY-y")]),
        ("tags", json!({"tags": {"team": "x"}}), &[("db-a", "CANARY-x"), ("web-c", "CANARY-x")]),
        ("path", json!({"path": "db-"}), &[("db-a", "CANARY-x"), ("db-b", "CANARY-y")]),
    ] {
        on.case.external_secret(name, json!({"secretStoreRef": {"name": "sm"}, "dataFrom": [{"find": find}]})).await;
        on.case.secret_is(name, expected).await;
    }
}
