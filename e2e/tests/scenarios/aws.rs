//! AWS Secrets Manager and Parameter Store: every kind of identity, what is read at what price, and what errors look like.

use std::time::Duration;

use lockstep_e2e::aws::{Aws, Fault, Key, REGION, Role};
use lockstep_e2e::faults::Fault::Answer;
use lockstep_e2e::harness::{aws, eventually, secret};
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// A case with access keys of its own that may read what begins with its name.
struct OnAws {
    case: Case,
    aws: &'static Aws,
    key: String,
}

impl OnAws {
    async fn new(topic: &str) -> Self {
        Self::of(Case::new(topic).await).await
    }

    async fn of(case: Case) -> Self {
        let aws = aws();
        let key = format!("AKIA{}", case.name.to_uppercase().replace('-', ""));
        aws.key(
            &key,
            Key {
                secret: "CANARY-secret-key".into(),
                names: vec![case.name.clone(), format!("/{}", case.name)],
                ..Key::default()
            },
        );
        let on = Self { case, aws, key };
        on.credentials(&on.key, "CANARY-secret-key").await;
        on
    }

    async fn credentials(&self, id: &str, secret: &str) {
        self.case.apply_secret("aws", &[("id", id), ("secret", secret)]).await;
    }

    fn keys(&self) -> Value {
        json!({"secretRef": {
            "accessKeyIDSecretRef": {"name": "aws", "key": "id"},
            "secretAccessKeySecretRef": {"name": "aws", "key": "secret"},
        }})
    }

    fn spec(&self, service: &str, more: Value) -> Value {
        let mut spec = json!({"service": service, "region": REGION, "auth": self.keys()});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"aws": spec})
    }

    async fn object(&self, name: &str, store: &str, entries: Value) {
        self.case.external_secret(name, json!({"secretStoreRef": {"name": store}, "data": entries})).await;
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.case.name)
    }

    fn count(&self, key: &str, operation: &str) -> usize {
        self.aws.calls(key).iter().filter(|call| call.operation == operation).count()
    }
}

fn entry(secret_key: &str, remote: Value) -> Value {
    json!({"secretKey": secret_key, "remoteRef": remote})
}

#[tokio::test]
async fn secrets_manager_serves_values_versions_properties_and_tags() {
    let on = OnAws::new("on-sm").await;
    let app = on.name("app");
    on.aws.put_secret(&app, r#"{"user": "CANARY-old"}"#).await;
    on.aws.put_secret(&app, r#"{"user": "CANARY-new"}"#).await;
    let tags = json!({"SecretId": app, "Tags": [{"Key": "team", "Value": "a"}]});
    on.aws.admin("secretsmanager.TagResource", tags).await;
    let binary = json!({"Name": on.name("bin"), "SecretBinary": "Q0FOQVJZAA=="});
    on.aws.admin("secretsmanager.CreateSecret", binary).await;
    on.case.apply_store("sm", on.spec("SecretsManager", json!({"prefix": format!("{}/", on.case.name)}))).await;
    on.case.store_is("sm", "True", "Valid", "store validated").await;
    let entries = json!([
        entry("new", json!({"key": "app", "property": "user"})),
        entry("old", json!({"key": "app", "property": "user", "version": "AWSPREVIOUS"})),
        entry("team", json!({"key": "app", "metadataPolicy": "Fetch", "property": "team"})),
        entry("bin", json!({"key": "bin"})),
    ]);
    on.object("app", "sm", entries).await;
    on.case.secret_is("app", &[("new", "CANARY-new"), ("old", "CANARY-old"), ("team", "a"), ("bin", "CANARY\0")]).await;

    // Nothing there, scheduled for deletion, and what may not be read are three different things.
    on.object("gone", "sm", json!([entry("x", json!({"key": "nowhere"}))])).await;
    on.case.failed("gone", "AWS has nothing for").await;
    on.aws.put_secret(&on.name("doomed"), "CANARY").await;
    on.aws.admin("secretsmanager.DeleteSecret", json!({"SecretId": on.name("doomed")})).await;
    on.object("doomed", "sm", json!([entry("x", json!({"key": "doomed"}))])).await;
    on.case.failed("doomed", "not found: AWS has scheduled it for deletion").await;
    on.case.apply_store("plain", on.spec("SecretsManager", json!({}))).await;
    on.object("denied", "plain", json!([entry("x", json!({"key": "somebody-elses"}))])).await;
    on.case.failed("denied", "AccessDeniedException").await;
}

#[tokio::test]
async fn parameter_store_serves_values_versions_and_paths() {
    let on = OnAws::new("on-ssm").await;
    let app = format!("/{}/app", on.case.name);
    on.aws.put_parameter(&app, "CANARY-1").await;
    on.aws.put_parameter(&app, "CANARY-2").await;
    on.case.apply_store("ssm", on.spec("ParameterStore", json!({}))).await;
    let labelled = json!({"Name": app, "ParameterVersion": 1, "Labels": ["prod"]});
    on.aws.admin("AmazonSSM.LabelParameterVersion", labelled).await;
    let plain = format!("{}-plain", on.case.name);
    on.aws.put_parameter(&plain, "CANARY-plain").await;
    let entries = json!([
        entry("new", json!({"key": app})),
        entry("old", json!({"key": app, "version": "1"})),
        entry("labelled", json!({"key": app, "version": "prod"})),
        entry("plain", json!({"key": plain})),
    ]);
    on.object("app", "ssm", entries).await;
    let expected = [("new", "CANARY-2"), ("old", "CANARY-1"), ("labelled", "CANARY-1"), ("plain", "CANARY-plain")];
    on.case.secret_is("app", &expected).await;
    on.object("unlabelled", "ssm", json!([entry("x", json!({"key": app, "version": "staging"}))])).await;
    on.case.failed("unlabelled", "not found").await;
    // A prefix stands before every key.
    on.case.apply_store("below", on.spec("ParameterStore", json!({"prefix": format!("/{}/", on.case.name)}))).await;
    on.object(
        "below",
        "below",
        json!([entry("new", json!({"key": "app"})), entry("old", json!({"key": "app", "version": "1"}))]),
    )
    .await;
    on.case.secret_is("below", &[("new", "CANARY-2"), ("old", "CANARY-1")]).await;
    on.object("gone", "ssm", json!([entry("x", json!({"key": format!("{app}/nowhere")}))])).await;
    on.case.failed("gone", "AWS has no parameter").await;
    on.object("denied", "ssm", json!([entry("x", json!({"key": "/somebody/elses"}))])).await;
    on.case.failed("denied", "AccessDeniedException").await;
}

#[tokio::test]
async fn a_hundred_secrets_and_parameters_are_read_in_batches() {
    // An operator of its own: the shared one's workers have other scenarios' objects too.
    let on = OnAws::of(Case::with_own_class("on-batch").await).await;
    let operator = on.case.own_operator("batch", &[]);
    operator.wait_working();
    for i in 0..100 {
        on.aws.put_secret(&on.name(&format!("s{i}")), &format!("CANARY-{i}")).await;
        on.aws.put_parameter(&format!("/{}", on.name(&format!("p{i}"))), &format!("CANARY-{i}")).await;
    }
    // The objects are there before their stores, so that all of them are due at once.
    for i in 0..100 {
        on.object(&format!("s{i}"), "sm", json!([entry("x", json!({"key": on.name(&format!("s{i}"))}))])).await;
        on.object(&format!("p{i}"), "ssm", json!([entry("x", json!({"key": format!("/{}", on.name(&format!("p{i}")))}))])).await;
    }
    for i in 0..100 {
        on.case.failed(&format!("s{i}"), "does not exist").await;
        on.case.failed(&format!("p{i}"), "does not exist").await;
    }
    on.case.apply_store("sm", on.spec("SecretsManager", json!({}))).await;
    for i in 0..100 {
        on.case.secret_is(&format!("s{i}"), &[("x", &format!("CANARY-{i}"))]).await;
    }
    assert!(on.count(&on.key, "BatchGetSecretValue") <= 5, "{:?}", on.aws.calls(&on.key));
    assert_eq!(on.count(&on.key, "GetSecretValue"), 0);
    on.case.apply_store("ssm", on.spec("ParameterStore", json!({}))).await;
    for i in 0..100 {
        on.case.secret_is(&format!("p{i}"), &[("x", &format!("CANARY-{i}"))]).await;
    }
    assert!(on.count(&on.key, "GetParameters") <= 10, "{:?}", on.aws.calls(&on.key));
    assert_eq!(on.count(&on.key, "GetParameter"), 0);
}

#[tokio::test]
async fn an_identity_without_the_right_to_batches_reads_one_by_one() {
    let on = OnAws::new("on-single").await;
    let refused = vec!["BatchGetSecretValue".to_owned()];
    on.aws.key(&on.key, Key { secret: "CANARY-secret-key".into(), names: vec![on.case.name.clone()], refused, ..Key::default() });
    let entries: Vec<Value> = (0..5).map(|i| entry(&format!("k{i}"), json!({"key": on.name(&format!("s{i}"))}))).collect();
    for i in 0..5 {
        on.aws.put_secret(&on.name(&format!("s{i}")), &format!("CANARY-{i}")).await;
    }
    on.case.apply_store("sm", on.spec("SecretsManager", json!({}))).await;
    on.object("app", "sm", Value::Array(entries)).await;
    on.case
        .secret_is("app", &[("k0", "CANARY-0"), ("k1", "CANARY-1"), ("k2", "CANARY-2"), ("k3", "CANARY-3"), ("k4", "CANARY-4")])
        .await;
    assert_eq!(on.count(&on.key, "BatchGetSecretValue"), 1, "it is not tried again");
}

#[tokio::test]
async fn wrong_keys_are_named_and_right_ones_taken_up_at_once() {
    let on = OnAws::new("on-keys").await;
    on.aws.put_secret(&on.name("app"), "CANARY-v").await;
    on.credentials(&on.key, "CANARY-not-it").await;
    on.case.apply_store("sm", on.spec("SecretsManager", json!({}))).await;
    on.object("app", "sm", json!([entry("x", json!({"key": on.name("app")}))])).await;
    on.case.failed("app", "InvalidSignatureException").await;
    on.credentials("AKIANOBODY", "CANARY-secret-key").await;
    on.case.failed("app", "UnrecognizedClientException").await;
    on.credentials(&on.key, "CANARY-secret-key").await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
    on.case.apply_store("sm", on.spec("SecretsManager", json!({"region": "nowhere"}))).await;
    on.case.failed("app", "spec.provider.aws.region: is no region of AWS").await;
    on.case.apply_store("sm", on.spec("SecretsManager", json!({"role": "arn:aws:iam::1:role/x"}))).await;
    on.case.failed("app", "is no ARN of a role").await;
}

#[tokio::test]
async fn roles_are_assumed_in_order_with_external_id_and_tags() {
    let on = OnAws::new("on-roles").await;
    on.aws.put_secret(&on.name("app"), "CANARY-v").await;
    on.aws.key(&on.key, Key { secret: "CANARY-secret-key".into(), ..Key::default() });
    let first = on.aws.role(&format!("{}-first", on.case.name), Role { trusts: vec![on.key.clone()], ..Role::default() });
    let last = on.aws.role(
        &format!("{}-last", on.case.name),
        Role {
            trusts: vec![first.clone()],
            external_id: Some("ours".into()),
            tags: [("team".to_owned(), "a".to_owned())].into(),
            names: vec![on.case.name.clone()],
            ..Role::default()
        },
    );
    let roles = |external: &str| {
        on.spec(
            "SecretsManager",
            json!({"additionalRoles": [first], "role": last, "externalID": external, "sessionTags": [{"key": "team", "value": "a"}]}),
        )
    };
    on.case.apply_store("sm", roles("theirs")).await;
    on.object("app", "sm", json!([entry("x", json!({"key": on.name("app")}))])).await;
    on.case.failed("app", &format!("AWS refuses AssumeRole of {last}")).await;
    on.case.store_is("sm", "False", "InvalidProviderConfig", "AccessDenied").await;
    on.case.apply_store("sm", roles("ours")).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;

    // Sessions that have ended are renewed once, and nobody notices.
    on.aws.expire_sessions(&last);
    on.aws.put_secret(&on.name("app"), "CANARY-w").await;
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-w")]).await;
}

#[tokio::test]
async fn a_service_account_is_a_role_by_its_web_identity() {
    let on = OnAws::new("on-irsa").await;
    on.aws.put_secret(&on.name("app"), "CANARY-v").await;
    let subject = format!("system:serviceaccount:{}:reader", on.case.name);
    let trusts = vec![subject];
    let role = Role { trusts, audience: "sts.amazonaws.com".into(), names: vec![on.case.name.clone()], ..Role::default() };
    let arn = on.aws.role(&on.case.name, role);
    let account = |annotations: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "annotations": annotations}});
    on.case.apply(account(json!({}))).await.unwrap();
    let auth = json!({"jwt": {"serviceAccountRef": {"name": "reader"}}});
    on.case.apply_store("sm", on.spec("SecretsManager", json!({"auth": auth}))).await;
    on.object("app", "sm", json!([entry("x", json!({"key": on.name("app")}))])).await;
    on.case.failed("app", "ServiceAccount reader has no annotation eks.amazonaws.com/role-arn").await;
    // A role that does not trust it, then an audience that IAM does not take, then the right one: each change is taken up.
    let other = on.aws.role(&format!("{}-other", on.case.name), Role { audience: "sts.amazonaws.com".into(), ..Role::default() });
    on.case.apply(account(json!({"eks.amazonaws.com/role-arn": other}))).await.unwrap();
    on.case.failed("app", "Not authorized to perform sts:AssumeRoleWithWebIdentity").await;
    let wrong = json!({"eks.amazonaws.com/role-arn": arn, "eks.amazonaws.com/audience": "elsewhere"});
    on.case.apply(account(wrong)).await.unwrap();
    on.case.failed("app", "Incorrect token audience").await;
    on.case.apply(account(json!({"eks.amazonaws.com/role-arn": arn}))).await.unwrap();
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn a_store_without_auth_is_the_operator_only_where_that_is_allowed() {
    let on = OnAws::new("on-own").await;
    on.case.apply_store("sm", json!({"aws": {"service": "SecretsManager", "region": REGION}})).await;
    on.object("app", "sm", json!([entry("x", json!({"key": on.name("app")}))])).await;
    on.case.failed("app", "the operator's own is for ClusterSecretStores only").await;
    let name = format!("own-{}", on.case.name);
    on.case.apply_cluster_store(&name, json!({"aws": {"service": "SecretsManager", "region": REGION}}), json!([])).await;
    let store = json!({"name": name, "kind": "ClusterSecretStore"});
    let object = json!({"secretStoreRef": store, "data": [entry("x", json!({"key": on.name("app")}))]});
    on.case.external_secret("cluster", object).await;
    on.case.failed("cluster", "the operator's own pod has none").await;
    on.case.delete_cluster_store(&name).await;
}

#[tokio::test]
async fn the_operators_own_identity_reads_for_stores_without_auth() {
    let case = Case::with_own_class("on-env").await;
    let aws = aws();
    let id = format!("AKIA{}", case.name.to_uppercase().replace('-', ""));
    aws.key(&id, Key { secret: "CANARY-own".into(), names: vec![case.name.clone()], ..Key::default() });
    aws.put_secret(&format!("{}/app", case.name), "CANARY-v").await;
    let env = [("AWS_ACCESS_KEY_ID", id.as_str()), ("AWS_SECRET_ACCESS_KEY", "CANARY-own")];
    let operator = case.own_operator_with("own", &["--share-own-identity"], &env);
    operator.wait_working();
    case.apply_store("sm", json!({"aws": {"service": "SecretsManager", "region": REGION}})).await;
    let entries = json!([entry("x", json!({"key": format!("{}/app", case.name)}))]);
    case.external_secret("app", json!({"secretStoreRef": {"name": "sm"}, "data": entries})).await;
    case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn the_operators_pod_may_have_a_role_by_pod_identity() {
    let case = Case::with_own_class("on-pod").await;
    let aws = aws();
    aws.put_secret(&format!("{}/app", case.name), "CANARY-v").await;
    case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}})).await.unwrap();
    let file = case.harness.folder.path().join(format!("{}.token", case.name));
    let token = async |audience: &str| {
        let token = lockstep_e2e::harness::token_for(&case.client, &case.name, "operator", &[audience]).await;
        std::fs::write(&file, token).unwrap();
    };
    token("sts.amazonaws.com").await;
    let (agent, path) = (format!("{}/pod-identity", aws.url), file.display().to_string());
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.as_str())];
    let operator = case.own_operator_with("own", &["--share-own-identity"], &env);
    operator.wait_working();
    case.apply_store("sm", json!({"aws": {"service": "SecretsManager", "region": REGION}})).await;
    let entries = json!([entry("x", json!({"key": format!("{}/app", case.name)}))]);
    case.external_secret("app", json!({"secretStoreRef": {"name": "sm"}, "data": entries})).await;
    case.failed("app", "check that EKS Pod Identity associates the operator's service account with a role").await;
    token("pods.eks.amazonaws.com").await;
    let arn = aws.role(&case.name, Role { names: vec![case.name.clone()], ..Role::default() });
    aws.associate(&format!("system:serviceaccount:{}:operator", case.name), &arn);
    // A refusal is the answer for everybody for half a minute.
    eventually("the association is taken up", async || {
        case.force_sync("app").await;
        secret(&case.client, &case.name, "app").await
    })
    .await;
    case.secret_is("app", &[("x", "CANARY-v")]).await;
    assert!(aws.calls(&arn).iter().any(|call| call.operation == "GetSecretValue"), "{:?}", aws.calls(&arn));
}

#[tokio::test]
async fn a_store_that_says_so_tries_again() {
    let on = OnAws::new("on-patient").await;
    for service in ["SecretsManager", "ParameterStore"] {
        let key = match service {
            "ParameterStore" => format!("/{}", on.name("app")),
            _ => on.name("app"),
        };
        on.aws.put_secret(&key, "CANARY-v").await;
        on.aws.put_parameter(&key, "CANARY-v").await;
        let store = service.to_lowercase();
        on.case.apply_store(&store, on.spec(service, json!({}))).await;
        let (faults, name) = (on.aws.faults.clone(), on.case.name.clone());
        on.case
            .rides_two_failures_out(&store, json!([entry("x", json!({"key": key}))]), || {
                let body = json!({"__type": "InternalServiceError", "message": "as the test asked"}).to_string();
                faults.add(2, Answer { status: 503, retry_after: None, body }, move |_, body| {
                    body.windows(name.len()).any(|window| window == name.as_bytes())
                })
            })
            .await;
        on.case.delete("patient").await;
        on.case.delete("before").await;
    }
}

#[tokio::test]
async fn throttling_failures_and_cut_connections_leave_the_secret_alone() {
    let on = OnAws::new("on-faults").await;
    on.aws.put_secret(&on.name("app"), "CANARY-v").await;
    on.case.apply_store("sm", on.spec("SecretsManager", json!({}))).await;
    on.object("app", "sm", json!([entry("x", json!({"key": on.name("app")}))])).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
    let error = |status: u16, code: &str| Fault::Error { status, code: code.into(), retry_after: None };
    // A provider that wants fewer calls is no failure: what is Ready stays so, and the value comes later.
    on.aws.put_secret(&on.name("app"), "CANARY-later").await;
    on.aws.fail(
        &on.key,
        "GetSecretValue",
        1,
        Fault::Error { status: 400, code: "ThrottlingException".into(), retry_after: Some(1) },
    );
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-later")]).await;
    on.case.ready_is("app", "True", "SecretSynced", "").await;
    assert!(on.case.shared_operator().metric("lockstep_provider_calls_total", &[&on.case.name, "throttled"]).await > 0);
    for (fault, needle) in [
        (error(500, "InternalServiceError"), "InternalServiceError"),
        (Fault::Cut, "unavailable"),
        (Fault::Late(Duration::from_secs(12)), "in time"),
    ] {
        on.aws.put_secret(&on.name("app"), &format!("CANARY-{needle}")).await;
        on.aws.fail(&on.key, "GetSecretValue", usize::MAX, fault);
        on.case.force_sync("app").await;
        on.case.failed("app", needle).await;
        on.aws.heal(&on.key);
        assert!(on.case.secret("app").await.is_some_and(|data| !data.is_empty()), "the last good value stays");
        // Nobody does anything: it comes back by itself.
        eventually("the new value", async || on.case.secret("app").await.filter(|data| data["x"] == format!("CANARY-{needle}")))
            .await;
    }
}

/// Vault's AWS method asks STS who somebody is, with the request that was signed for it.
async fn vault_method(on: &OnAws, principal: &str) -> String {
    let (vault, path) = (&on.case.harness.vault, format!("aws-{}", on.case.name));
    vault.auth(&path, "aws").await;
    let client = json!({"access_key": "x", "secret_key": "x", "sts_endpoint": on.aws.url, "sts_region": REGION, "iam_server_id_header_value": "ours"});
    vault.write(&format!("auth/{path}/config/client"), client).await;
    vault.policy(&on.case.name, &[&format!("secret/data/{}/*", on.case.name)]).await;
    let role = json!({"auth_type": "iam", "bound_iam_principal_arn": principal, "policies": on.case.name, "resolve_aws_unique_ids": false});
    vault.write(&format!("auth/{path}/role/shop"), role).await;
    on.case.put("app", json!({"p": "CANARY-v"})).await;
    path
}

#[tokio::test]
async fn vault_takes_an_identity_of_aws() {
    let on = OnAws::new("on-vault").await;
    let path = vault_method(&on, &format!("arn:aws:iam::123456789012:user/{}", on.key)).await;
    let iam = |server: &str| json!({"iam": {"path": path, "region": REGION, "vaultRole": "shop", "vaultAwsIamServerID": server, "secretRef": on.keys()["secretRef"]}});
    on.case.apply_store("vault", on.case.vault_at(&on.case.harness.vault.url, iam("ours"))).await;
    on.case.external_secret("app", json!({"data": [on.case.data("p", "app", "p")]})).await;
    on.case.secret_is("app", &[("p", "CANARY-v")]).await;
    // Keys that are not good, and a server that is another one.
    on.credentials(&on.key, "CANARY-not-it").await;
    on.case.failed("app", "login failed").await;
    on.credentials(&on.key, "CANARY-secret-key").await;
    on.case.synced("app").await;
    on.case.apply_store("vault", on.case.vault_at(&on.case.harness.vault.url, iam("theirs"))).await;
    on.case.failed("app", "X-Vault-AWS-IAM-Server-ID").await;
}

#[tokio::test]
async fn vault_takes_a_service_accounts_web_identity_of_aws() {
    let on = OnAws::new("on-vault-irsa").await;
    let trusts = vec![format!("system:serviceaccount:{}:reader", on.case.name)];
    let arn = on.aws.role(&on.case.name, Role { trusts, audience: "sts.amazonaws.com".into(), ..Role::default() });
    let path = vault_method(&on, &arn).await;
    let annotations = json!({"eks.amazonaws.com/role-arn": arn});
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "annotations": annotations}});
    on.case.apply(account).await.unwrap();
    let jwt = json!({"serviceAccountRef": {"name": "reader"}});
    let iam = json!({"iam": {"path": path, "region": REGION, "vaultRole": "shop", "vaultAwsIamServerID": "ours", "jwt": jwt}});
    on.case.apply_store("vault", on.case.vault_at(&on.case.harness.vault.url, iam)).await;
    on.case.external_secret("app", json!({"data": [on.case.data("p", "app", "p")]})).await;
    on.case.secret_is("app", &[("p", "CANARY-v")]).await;
}

#[tokio::test]
async fn a_cluster_stores_session_says_which_namespace_uses_it() {
    let on = OnAws::new("on-tags").await;
    let other = Case::new("on-tags-other").await;
    on.aws.put_secret(&on.name("app"), "CANARY-v").await;
    let tags = [("esoNamespace".to_owned(), on.case.name.clone()), ("esoStoreKind".to_owned(), "ClusterSecretStore".to_owned())];
    let role = Role { trusts: vec![on.key.clone()], tags: tags.into(), names: vec![on.case.name.clone()], ..Role::default() };
    let arn = on.aws.role(&on.case.name, role);
    let key = |key: &str| json!({"name": "aws", "namespace": on.case.name, "key": key});
    let auth = json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}});
    let name = format!("tags-{}", on.case.name);
    let spec = on.spec("SecretsManager", json!({"auth": auth, "role": arn, "sessionTagsPolicy": "Simple"}));
    on.case.apply_cluster_store(&name, spec, json!([])).await;
    let store = json!({"name": name, "kind": "ClusterSecretStore"});
    let object = json!({"secretStoreRef": store, "data": [entry("x", json!({"key": on.name("app")}))]});
    on.case.external_secret("app", object.clone()).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
    // The role's trust policy admits one namespace: another one has a session of its own, and is not let in by the first.
    other.external_secret("app", object).await;
    other.failed("app", &format!("AWS refuses AssumeRole of {arn}")).await;
    on.case.delete_cluster_store(&name).await;
}

#[tokio::test]
async fn a_refusal_that_passes_does_not_end_reading_in_batches() {
    let on = OnAws::new("on-passing").await;
    let entries = ["a", "b"].map(|name| entry(name, json!({"key": on.name(name)})));
    for name in ["a", "b"] {
        on.aws.put_secret(&on.name(name), "CANARY-v").await;
    }
    let refused = || Fault::Error { status: 400, code: "AccessDeniedException".into(), retry_after: None };
    on.aws.fail(&on.key, "BatchGetSecretValue", 1, refused());
    on.aws.fail(&on.key, "GetSecretValue", 2, refused());
    on.case.apply_store("sm", on.spec("SecretsManager", json!({}))).await;
    on.object("app", "sm", json!(entries)).await;
    on.case.failed("app", "AccessDeniedException").await;
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("a", "CANARY-v"), ("b", "CANARY-v")]).await;
    assert_eq!((on.count(&on.key, "BatchGetSecretValue"), on.count(&on.key, "GetSecretValue")), (2, 2));
}

#[tokio::test]
async fn secrets_and_parameters_are_found_by_name_path_and_tags() {
    let on = OnAws::new("on-find").await;
    for (name, team) in [("db/a", "x"), ("db/b", "y"), ("web/c", "x")] {
        let name = on.name(name);
        on.aws.put_secret(&name, &format!("CANARY-{team}")).await;
        let tags = json!([{"Key": "team", "Value": team}]);
        on.aws.admin("secretsmanager.TagResource", json!({"SecretId": name, "Tags": tags})).await;
        let parameter = format!("/{name}");
        on.aws.put_parameter(&parameter, &format!("CANARY-{team}")).await;
        let tagged = json!({"ResourceType": "Parameter", "ResourceId": parameter, "Tags": tags});
        on.aws.admin("AmazonSSM.AddTagsToResource", tagged).await;
    }
    // What lies beside the path.
    on.aws.put_secret(&format!("{}-other/db/a", on.case.name), "CANARY-other").await;
    on.aws.put_parameter(&format!("/{}-other/db/a", on.case.name), "CANARY-other").await;
    on.case.apply_store("sm", on.spec("SecretsManager", json!({}))).await;
    on.case.apply_store("ssm", on.spec("ParameterStore", json!({}))).await;
    let last = json!([{"regexp": {"source": ".*/", "target": ""}}]);
    for (store, path) in [("sm", on.name("")), ("ssm", format!("/{}", on.case.name))] {
        for (name, find, expected) in [
            ("path", json!({"path": path}), &[("a", "CANARY-x"), ("b", "CANARY-y"), ("c", "CANARY-x")][..]),
            ("name", json!({"path": path, "name": {"regexp": "/db/"}}), &[("a", "CANARY-x"), ("b", "CANARY-y")]),
            ("tags", json!({"path": path, "tags": {"team": "x"}}), &[("a", "CANARY-x"), ("c", "CANARY-x")]),
        ] {
            let name = format!("{store}-{name}");
            let spec = json!({"secretStoreRef": {"name": store}, "dataFrom": [{"find": find, "rewrite": last}]});
            on.case.external_secret(&name, spec).await;
            on.case.secret_is(&name, expected).await;
        }
    }
    assert_eq!(on.count(&on.key, "GetSecretValue"), 0, "what was found is read in batches");
}
