//! The operator's rights: without any single one of them something that it does is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use lockstep_e2e::case::Case;
use lockstep_e2e::harness::{self, documents, eventually, root};
use lockstep_e2e::interposer::{Exchange, Lie};
use lockstep_e2e::reliability::stories::{self, Story};
use lockstep_e2e::reliability::world::{Making, World};
use serde_json::{Value, json};

/// Group, resource with subresource, verb.
type Right = (String, String, String);

/// The rules of the roles of a kind in files of `config`.
fn role(files: &[&str], kind: &str) -> Vec<Value> {
    let texts = files.iter().map(|file| std::fs::read_to_string(root().join("config").join(file)).unwrap());
    let roles = texts.flat_map(|text| documents(&text)).filter(|object| object["kind"] == kind);
    roles.flat_map(|role| role["rules"].as_array().unwrap().clone()).collect()
}

const CORE: &str = "rbac/rbac.yaml";
const PUSH: &str = "rbac/push/push.yaml";
const TOKENS: &str = "rbac/tokens/tokens.yaml";
const ALL: &[&str] = &[CORE, PUSH, TOKENS];

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn rights(rules: &[Value]) -> Vec<Right> {
    let mut all = Vec::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                all.extend(texts(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    all.sort();
    all.dedup();
    all
}

/// The right that a request takes.
fn right(exchange: &Exchange) -> Option<Right> {
    let parts: Vec<&str> = exchange.path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, named) = match rest {
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, sub, ..] => (format!("{resource}/{sub}"), true),
        [] => return None,
    };
    let verb = match exchange.method.as_str() {
        "GET" if named => "get",
        "GET" if exchange.query.contains("watch=") => "watch",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => return None,
    };
    Some((group.to_owned(), resource, verb.to_owned()))
}

/// Everything that an object or a store can refer to: what is asked for counts, and not whether it works.
async fn refers_to_everything(world: &World) {
    let case = &world.case;
    case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app"}})).await.unwrap();
    case.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": "none"}}))
        .await
        .unwrap();
    let kubernetes = json!({"kubernetes": {"mountPath": "kubernetes", "role": "app", "serviceAccountRef": {"name": "app"}}});
    case.apply_store("as-account", case.vault_at(&world.vault.url, kubernetes)).await;
    let mut with_ca = case.vault_at(&world.vault.url, json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}}));
    with_ca["vault"]["caProvider"] = json!({"type": "ConfigMap", "name": "ca", "key": "ca.crt"});
    case.apply_store("with-ca", with_ca).await;
    let aws = json!({"aws": {"service": "SecretsManager", "region": "eu-west-1", "auth": {"jwt": {"serviceAccountRef": {"name": "app"}}}}});
    case.apply_store("with-annotations", aws).await;
    let generators = [
        ("ACRAccessToken", json!({"registry": "r", "auth": {}})),
        ("ECRAuthorizationToken", json!({"region": "eu-west-1"})),
        ("Fake", json!({"data": {"k": "v"}})),
        ("GCRAccessToken", json!({"projectID": "p", "auth": {}})),
        ("Password", json!({"length": 8})),
        ("SSHKey", json!({"keyType": "ed25519"})),
        ("STSSessionToken", json!({"region": "eu-west-1"})),
        ("UUID", json!({})),
        ("VaultDynamicSecret", json!({"path": "a/b", "provider": {"server": world.vault.url, "auth": {}}})),
        ("Webhook", json!({"url": "http://127.0.0.1:9", "result": {"jsonPath": "$"}})),
    ];
    let mut entries = Vec::new();
    for (kind, spec) in generators {
        let object = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": kind, "metadata": {"name": "g"}, "spec": spec});
        case.apply(object).await.unwrap();
        entries.push((kind.to_owned(), "g".to_owned()));
    }
    let cluster = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "ClusterGenerator", "metadata": {"name": case.name},
        "spec": {"kind": "Fake", "generator": {"fakeSpec": {"data": {"k": "v"}}}}});
    if world.cluster {
        harness::apply(&case.client, None, cluster).await.unwrap();
        entries.push(("ClusterGenerator".into(), case.name.clone()));
    }
    for (kind, name) in entries {
        let source = json!({"sourceRef": {"generatorRef": {"kind": kind, "name": name}}});
        // The store says whose it is.
        let data = json!([case.data("user", "app", "user")]);
        case.external_secret(&kind.to_lowercase(), json!({"data": data, "dataFrom": [source]})).await;
    }
    let from = json!({"templateFrom": [{"configMap": {"name": "ca", "items": [{"key": "ca.crt"}]}}]});
    case.external_secret("from", json!({"data": [case.data("user", "app", "user")], "target": {"template": from}})).await;
    let missing = json!({"name": "missing", "kind": if world.cluster { "ClusterSecretStore" } else { "SecretStore" }});
    case.external_secret("missing", json!({"secretStoreRef": missing, "data": [case.data("user", "app", "user")]})).await;
    for name in ["as-account", "with-ca", "with-annotations"] {
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": [case.data("user", "app", "user")]})).await;
    }
}

async fn references_are_followed(world: &World) {
    (stories::ALL[0].before)(world).await;
    world.start().await;
    refers_to_everything(world).await;
    // Each of them answers, with a Secret or with a reason.
    for object in world.case.objects().list(&Default::default()).await.unwrap() {
        world.case.caught_up_or_failed(object.metadata.name.as_deref().unwrap()).await;
    }
}

/// A fan-out of pushes that loses a namespace, and a push that outlives its store.
async fn pushes_are_left_over(world: &World) {
    let (case, name) = (&world.case, &world.case.name);
    let fan = stories::ALL.iter().find(|story| story.name == "a fan-out of pushes").unwrap();
    (fan.before)(world).await;
    world.start().await;
    let place = |key: &str| json!([{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key(key), "property": "k"}}}]);
    let push = |store: Value, key: &str| {
        json!({"refreshInterval": "1s", "deletionPolicy": "Delete", "secretStoreRefs": [store], "selector": {"secret": {"name": "source"}},
            "data": place(key)})
    };
    let fan_out = |team: &str| {
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "ClusterPushSecret", "metadata": {"name": name}, "spec": {
            "pushSecretSpec": push(json!({"name": name, "kind": "ClusterSecretStore"}), "many"), "pushSecretName": "push",
            "namespaceSelectors": [{"matchLabels": {"team": format!("{name}-{team}")}}]}})
    };
    let identity = json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret"});
    let made: Api<DynamicObject> = harness::api_of(&case.client, Some(&format!("{name}-a")), &identity);
    harness::apply(&case.client, None, fan_out("in")).await.unwrap();
    eventually("the push is made", async || made.get_opt("push").await.unwrap()).await;
    harness::apply(&case.client, None, fan_out("out")).await.unwrap();
    eventually("the push is gone", async || made.get_opt("push").await.unwrap().is_none().then_some(())).await;
    case.apply_secret("source", &[("k", "CANARY-k")]).await;
    case.vault_store_at(&world.vault.url).await;
    case.apply(json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "left"},
        "spec": push(json!({"name": "vault"}), "left")}))
        .await
        .unwrap();
    let own: Api<DynamicObject> = harness::api_of(&case.client, Some(name), &identity);
    let ready = async || {
        let object = own.get_opt("left").await.unwrap()?;
        (object.data["status"]["conditions"][0]["status"] == "True").then_some(())
    };
    eventually("it is pushed", ready).await;
    let stores: Api<DynamicObject> =
        harness::api_of(&case.client, Some(name), &json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore"}));
    stores.delete("vault", &Default::default()).await.unwrap();
    own.delete("left", &Default::default()).await.unwrap();
    // For a minute its store may come back; then the operator asks whether the namespace is going.
    tokio::time::sleep(Duration::from_secs(50)).await;
    eventually("the namespace is asked for", async || {
        let asks = |e: &Exchange| e.method == "GET" && e.path == format!("/api/v1/namespaces/{name}");
        (world.api.log().iter().any(asks) || refused(world).is_some()).then_some(())
    })
    .await;
}

/// A lease that Vault does not prolong, which its GeneratorState says.
async fn a_lease_is_not_prolonged(world: &World) {
    let lease = stories::ALL.iter().find(|story| story.name == "a lease, its change and its end").unwrap();
    (lease.before)(world).await;
    world.script(|vault, exchange| match vault && exchange.path.ends_with("leases/renew") {
        true => Lie::Answer(500),
        false => Lie::None,
    });
    world.start().await;
    let source = json!({"sourceRef": {"generatorRef": {"kind": "VaultDynamicSecret", "name": "made"}}});
    world.case.external_secret("app", json!({"secretStoreRef": null, "refreshInterval": "2s", "dataFrom": [source]})).await;
    let states: Api<lockstep_crds::GeneratorState> = Api::namespaced(world.case.client.clone(), &world.case.name);
    eventually("it is said", async || {
        let found = states.list(&Default::default()).await.unwrap().items;
        let conditions = found.into_iter().next()?.status?.conditions;
        conditions.into_iter().find(|c| c.reason.as_deref() == Some("RenewalFailed"))
    })
    .await;
}

/// Both kinds of owners are deleted while something is made for them, which is given back.
async fn owners_of_leases_go(world: &World) {
    let lease = stories::ALL.iter().find(|story| story.name == "a lease, its change and its end").unwrap();
    (lease.before)(world).await;
    world.start().await;
    let case = &world.case;
    let reference = json!({"kind": "VaultDynamicSecret", "name": "made"});
    let states: Api<lockstep_crds::GeneratorState> = Api::namespaced(case.client.clone(), &case.name);
    let count = async |n: usize| (states.list(&Default::default()).await.unwrap().items.len() == n).then_some(());
    let asked_for = |resource: &str| {
        let path = format!("/{resource}/app");
        world.api.log().iter().any(|e| e.method == "GET" && e.path.ends_with(&path))
    };
    // The garbage collector may be faster than the operator, which then has nobody to ask for.
    for _ in 0..6 {
        case.external_secret("app", json!({"secretStoreRef": null, "dataFrom": [{"sourceRef": {"generatorRef": reference}}]}))
            .await;
        let place = json!([{"match": {"secretKey": "username", "remoteRef": {"remoteKey": case.key("made"), "property": "u"}}}]);
        case.apply(json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "app"}, "spec": {
            "refreshInterval": "1h", "secretStoreRefs": [{"name": "vault"}], "selector": {"generatorRef": reference}, "data": place}}))
        .await
        .unwrap();
        eventually("both have one", async || count(2).await).await;
        for (kind, version) in [("ExternalSecret", "v1"), ("PushSecret", "v1alpha1")] {
            let identity = json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind});
            harness::api_of(&case.client, Some(&case.name), &identity).delete("app", &Default::default()).await.unwrap();
        }
        eventually("none is left", async || count(0).await).await;
        if asked_for("externalsecrets") && asked_for("pushsecrets") {
            return;
        }
    }
}

/// A story of rights: until the operator has asked for all that it asks for, or is refused.
#[derive(Clone, Copy)]
enum Told {
    Story(Story),
    References,
    Leftovers,
    Unrenewed,
    OwnersGo,
    Leader,
    Shards,
}

impl Told {
    fn all() -> Vec<Self> {
        stories::ALL
            .iter()
            .copied()
            .map(Self::Story)
            .chain([Self::References, Self::Leftovers, Self::Unrenewed, Self::OwnersGo, Self::Leader, Self::Shards])
            .collect()
    }

    async fn tell(self, world: &World) {
        match self {
            Self::Story(story) => {
                (story.before)(world).await;
                world.start().await;
                (story.run)(world).await;
            }
            Self::References => references_are_followed(world).await,
            Self::Leftovers => pushes_are_left_over(world).await,
            Self::Unrenewed => a_lease_is_not_prolonged(world).await,
            Self::OwnersGo => owners_of_leases_go(world).await,
            Self::Leader | Self::Shards => {
                let first = stories::ALL[0];
                (first.before)(world).await;
                world.start().await;
                (first.run)(world).await;
            }
        }
    }

    fn takes_a_cluster(self) -> bool {
        matches!(self, Self::Leftovers) || matches!(self, Self::Story(story) if story.cluster)
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Leader => &["--leader-elect=true"],
            Self::Shards => &["--shards=2"],
            Self::Story(_) | Self::References | Self::Leftovers | Self::Unrenewed | Self::OwnersGo => Making::default().args,
        }
    }
}

/// Whether a request is about a case: about one of its namespaces, or about none.
fn concerns(exchange: &Exchange, case: &str) -> bool {
    let own = [format!("/namespaces/{case}/"), format!("/namespaces/{case}-")];
    !exchange.path.contains("/namespaces/") || own.iter().any(|part| exchange.path.contains(part))
}

/// What was refused first. In a namespace that is going everything is; those are of cases that are over.
fn refused(world: &World) -> Option<Exchange> {
    world.api.log().into_iter().find(|e| e.status == Some(403) && concerns(e, &world.case.name))
}

/// The rules of the ClusterRole without some rights.
fn without(less: &[Right]) -> Vec<Value> {
    let left = rights(&Rules::whole().cluster).into_iter().filter(|right| !less.contains(right));
    left.map(|(group, resource, verb)| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})).collect()
}

/// What an account may: in the whole cluster, and in its own namespace.
#[derive(Clone, Default)]
struct Rules {
    cluster: Vec<Value>,
    own: Vec<Value>,
}

impl Rules {
    /// Those of `config/rbac`; ConfigMaps as targets are an administrator's own addition.
    fn whole() -> Self {
        let mut cluster = role(ALL, "ClusterRole");
        cluster.push(addition());
        Self { cluster, own: role(&[CORE], "Role") }
    }

    /// Those of `config/overlays/single-namespace`.
    fn of_a_namespace() -> Self {
        let mut own = role(&["overlays/single-namespace/rbac.yaml"], "Role");
        own.push(addition());
        Self { cluster: Vec::new(), own }
    }
}

/// A token of an account that has these rules.
async fn token_with(case: &Case, rules: &Rules) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "less"}});
    case.apply(account).await.unwrap();
    for (kind, namespace, rules) in [("ClusterRole", None, &rules.cluster), ("Role", Some(&*case.name), &rules.own)] {
        let role =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": case.name}, "rules": rules});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": {"name": case.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": case.name},
            "subjects": [{"kind": "ServiceAccount", "name": "less", "namespace": case.name}]});
        for object in [role, binding] {
            harness::apply(&case.client, namespace, object).await.unwrap();
        }
    }
    harness::service_account_token(&case.client, &case.name, "less").await
}

fn addition() -> Value {
    json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch", "delete"]})
}

/// What a run asked for, and what of it was refused first.
struct Asked {
    rights: BTreeSet<Right>,
    /// Those that were asked for in its own namespaces: an operator of the whole cluster meets other cases' objects too.
    own: BTreeSet<Right>,
    refused: Option<Exchange>,
}

/// Tells it to an operator with these rules: to its end, or until something is refused.
async fn told(told: Told, making: Making, rules: &Rules, until_refused: bool) -> Asked {
    let making = Making { args: told.args(), ..making };
    let case = Case::apart("rights").await;
    let token = token_with(&case, rules).await;
    let world = World::of(case, making, &token);
    let ended = {
        let story = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(told.tell(&world)));
        let watch = async {
            while !until_refused || refused(&world).is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            ended = story => ended.is_ok() || until_refused,
            () = watch => true,
            () = tokio::time::sleep(Duration::from_secs(60)), if until_refused => true,
        }
    };
    let refused = refused(&world);
    let (api, client, name) = (world.api.clone(), world.case.client.clone(), world.case.name.clone());
    world.end().await;
    for kind in ["ClusterRoleBinding", "ClusterRole"] {
        let identity = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind});
        let _ = harness::api_of(&client, None, &identity).delete(&name, &Default::default()).await;
    }
    assert!(ended, "the story did not end; refused: {refused:?}");
    let log = api.log();
    for exchange in log.iter().filter(|e| e.path.ends_with("/secrets") && e.method == "GET") {
        let sparse = exchange.accept.contains("as=PartialObjectMetadata");
        assert!(sparse, "Secrets are listed or watched with their data: {exchange:?}");
    }
    let own = log.iter().filter(|e| e.path.contains("/namespaces/") && concerns(e, &name));
    Asked { rights: log.iter().filter_map(right).collect(), own: own.filter_map(right).collect(), refused }
}

/// All of what is asked for with all rights: on an API server of today, and on one before streaming lists.
async fn asked_by(all: Vec<(Told, bool)>, cluster: bool, rules: &Rules) -> Vec<(Told, Asked)> {
    futures::stream::iter(all)
        .map(|(story, old_api)| async move {
            let asked = told(story, Making { cluster, old_api, ..Making::default() }, rules, false).await;
            assert!(asked.refused.is_none(), "with all rights {:?} was refused", asked.refused);
            (story, asked)
        })
        .buffer_unordered(3)
        .collect()
        .await
}

/// What the API server asks for beside the request's own right: an owner's finalizers, and to create what is patched first.
fn is_indirect((group, resource, verb): &Right) -> bool {
    let applied = group == "external-secrets.io" && verb == "create";
    applied || resource.ends_with("/finalizers")
}

/// Rights that nobody asked for.
fn idle(rules: &[Value], asked: &[(Told, Asked)]) -> Vec<String> {
    let unasked = |right: &Right| !is_indirect(right) && !asked.iter().any(|(_, a)| a.rights.contains(right));
    rights(rules).iter().filter(|right| unasked(right)).map(|(g, r, v)| format!("{v} {r} of {g:?}")).collect()
}

#[tokio::test]
async fn each_right_of_the_role_is_asked_for_and_without_any_one_rule_something_is_refused() {
    let whole = Rules::whole();
    let mut all: Vec<(Told, bool)> = Told::all().into_iter().map(|told| (told, false)).collect();
    all.extend([(Told::References, true)]);
    let asked = asked_by(all, true, &whole).await;
    let mut given = role(ALL, "ClusterRole");
    given.extend(whole.own.clone());
    assert_eq!(idle(&given, &asked), [""; 0], "nobody asks for these");
    // Each rule in turn; of an owner's finalizers each kind in turn, with a story that makes something that it owns.
    let by_name = |name: &str| Told::Story(*stories::ALL.iter().find(|story| story.name == name).unwrap());
    let owners = [
        ("clusterexternalsecrets/finalizers", by_name("a fan-out that shrinks and ends")),
        ("clusterpushsecrets/finalizers", by_name("a fan-out of pushes")),
        ("externalsecrets", by_name("a fan-out that shrinks and ends")),
        ("pushsecrets", by_name("a fan-out of pushes")),
    ];
    let mut cases: Vec<(Vec<Told>, Vec<Right>)> = Vec::new();
    for rule in role(ALL, "ClusterRole") {
        let (indirect, direct): (Vec<Right>, Vec<Right>) = rights(&[rule]).into_iter().partition(is_indirect);
        cases.extend(indirect.into_iter().map(|right| {
            let (_, story) = owners.iter().find(|(resource, _)| *resource == right.1).expect("a story of an owner");
            (vec![*story], vec![right])
        }));
        let quick = || asked.iter().filter(|(story, _)| !matches!(story, Told::Leftovers));
        let in_own = quick().filter(|(_, asked)| direct.iter().any(|right| asked.own.contains(right)));
        let anywhere = quick().filter(|(_, asked)| direct.iter().any(|right| asked.rights.contains(right)));
        let who: Vec<Told> = in_own.chain(anywhere).map(|(story, _)| *story).take(3).collect();
        if !direct.is_empty() {
            cases.push((who, direct));
        }
    }
    let missed: Vec<Option<Vec<Right>>> = futures::stream::iter(cases)
        .map(|(who, rule)| async move {
            let less = Rules { cluster: without(&rule), ..Rules::whole() };
            for story in who {
                if told(story, Making { cluster: true, ..Making::default() }, &less, true).await.refused.is_some() {
                    return None;
                }
            }
            Some(rule)
        })
        .buffer_unordered(3)
        .collect()
        .await;
    let missed: Vec<_> = missed.into_iter().flatten().collect();
    assert!(missed.is_empty(), "nobody misses {missed:#?}");
}

#[tokio::test]
async fn each_right_in_a_single_namespace_is_asked_for_and_none_is_missed() {
    let rules = Rules::of_a_namespace();
    let mut all: Vec<(Told, bool)> = Told::all().into_iter().filter(|told| !told.takes_a_cluster()).map(|t| (t, false)).collect();
    all.push((Told::References, true));
    let asked = asked_by(all, false, &rules).await;
    assert_eq!(idle(&role(&["overlays/single-namespace/rbac.yaml"], "Role"), &asked), [""; 0], "nobody asks for these");
}

/// The rules of some files, for a case of its own.
fn of(files: &[&str]) -> Rules {
    Rules { cluster: role(files, "ClusterRole"), own: role(&[CORE], "Role") }
}

async fn world_with(rules: &Rules, args: &'static [&'static str]) -> World {
    let case = Case::apart("variant").await;
    let token = token_with(&case, rules).await;
    World::of(case, Making { cluster: true, interval: "1s", args, ..Making::default() }, &token)
}

/// Ends it; answers all that was asked.
async fn over(world: World) -> Vec<Exchange> {
    let (api, client, name) = (world.api.clone(), world.case.client.clone(), world.case.name.clone());
    world.end().await;
    for kind in ["ClusterRoleBinding", "ClusterRole"] {
        let identity = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind});
        let _ = harness::api_of(&client, None, &identity).delete(&name, &Default::default()).await;
    }
    api.log()
}

#[tokio::test]
async fn without_push_secrets_no_right_to_them_is_asked_for_and_they_are_left_alone() {
    let world = world_with(&of(&[CORE, TOKENS]), &["--leader-elect=false", "--push-secrets=false"]).await;
    let case = &world.case;
    (stories::ALL[0].before)(&world).await;
    world.start().await;
    case.apply_secret("source", &[("k", "CANARY-k")]).await;
    let place = json!([{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key("pushed"), "property": "k"}}}]);
    case.apply(json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "left"}, "spec": {
        "refreshInterval": "1s", "secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "source"}}, "data": place}}))
    .await
    .unwrap();
    (stories::ALL[0].run)(&world).await;
    let pushes: Api<lockstep_crds::PushSecret> = Api::namespaced(case.client.clone(), &case.name);
    assert!(pushes.get("left").await.unwrap().status.is_none());
    assert!(refused(&world).is_none(), "{:?}", refused(&world));
    assert!(!over(world).await.iter().any(|e| e.path.contains("pushsecrets")));
}

#[tokio::test]
async fn without_tokens_a_store_says_which_account_is_missing_and_a_role_that_names_it_is_enough() {
    let world = world_with(&of(&[CORE, PUSH]), Making::default().args).await;
    let case = &world.case;
    world.start().await;
    for name in ["app", "other"] {
        case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})).await.unwrap();
        let auth = json!({"kubernetes": {"mountPath": case.name, "role": "app", "serviceAccountRef": {"name": name}}});
        let provider = case.vault_at(&world.vault.url, auth);
        case.apply(json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": name},
            "spec": {"controller": case.name, "refreshInterval": 1, "provider": provider}}))
            .await
            .unwrap();
        let said = case.store_is(name, "False", "InvalidProviderConfig", &format!("{}/{name}", case.name)).await;
        assert!(said.contains("serviceaccounts/token") && said.contains("403"), "{said}");
    }
    let given =
        json!([{"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["app"], "verbs": ["create"]}]);
    case.apply(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "tokens"}, "rules": given}),
    )
    .await
    .unwrap();
    case.apply(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tokens"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tokens"},
        "subjects": [{"kind": "ServiceAccount", "name": "less", "namespace": case.name}]}))
        .await
        .unwrap();
    // Vault knows no such login, which is what is said next: the token was made.
    let made = |name: &str| format!("/serviceaccounts/{name}/token");
    eventually("a token of the account that is named is made", async || {
        world.api.log().iter().any(|e| e.path.ends_with(&made("app")) && e.status == Some(201)).then_some(())
    })
    .await;
    assert!(!over(world).await.iter().any(|e| e.path.ends_with(&made("other")) && e.status == Some(201)));
}

#[tokio::test]
async fn with_rights_to_look_alone_the_operator_writes_nothing_and_says_what_it_lacks() {
    let view = Rules { cluster: role(&["rbac/view/view.yaml"], "ClusterRole"), own: Vec::new() };
    let world = world_with(&view, Making::default().args).await;
    (stories::ALL[0].before)(&world).await;
    world.start().await;
    let source = json!([world.case.data("user", "app", "user")]);
    world.case.external_secret("app", json!({"data": source})).await;
    let said = eventually("the log says what is missing", async || {
        let logs = world.logs();
        (logs.contains("managed Secrets") && logs.contains("403")).then_some(logs)
    })
    .await;
    assert!(said.contains("Forbidden") || said.contains("forbidden"), "{said}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = over(world).await;
    let written = asked.iter().filter(|e| e.method != "GET" && e.status.is_some_and(|s| s < 300)).count();
    assert_eq!(written, 0, "{:?}", asked.iter().find(|e| e.method != "GET"));
    assert!(asked.len() < 100, "{} requests in a few seconds", asked.len());
}
