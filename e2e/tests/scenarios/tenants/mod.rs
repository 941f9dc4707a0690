//! Tenants stay apart: no reference of a namespaced object leaves its namespace, whichever field of whichever kind it stands in.

mod specs;

use std::collections::BTreeSet;

use lockstep_crds::generator::GeneratorKind;
use lockstep_e2e::case::Case;
use lockstep_e2e::control_plane::Authority;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::interposer::Sort;
use lockstep_e2e::reliability::world::{Making, World};
use serde_json::{Value, json};

use self::specs::{NOT_SERVED, fields, fields_of_generators, generators, stores};

/// See the end of the test.
const ON_GKE_ALONE: &str = "spec.provider.vault.auth.gcp.serviceAccountRef";

/// Every object in a spec that names something, with its path as the contract writes it.
fn references(value: &Value, root: &str, path: &str, found: &mut Vec<(String, String)>) {
    let Some(fields) = value.as_object() else { return };
    let pointer = |path: &str| {
        let below = path.strip_prefix(root).unwrap_or(path).trim_start_matches('.');
        format!("/{}", below.replace("[]", "/0").replace('.', "/"))
    };
    if fields.get("name") == Some(&json!("mine")) {
        found.push((path.to_owned(), pointer(path)));
    }
    for (name, value) in fields {
        match value.as_array() {
            Some(items) => items.iter().take(1).for_each(|item| references(item, root, &format!("{path}.{name}[]"), found)),
            None => references(value, root, &format!("{path}.{name}"), found),
        }
    }
}

/// A Secret, a ServiceAccount and a ConfigMap of each of these names, with whatever any provider looks for in them.
async fn nameable(case: &Case, namespace: &str, names: &[String]) {
    let pair = Authority::new("tenants").issue("tenant", None, &["localhost"]);
    let both = format!("{}\n{}", pair.certificate, pair.key);
    for name in names {
        let annotations = json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/r",
            "iam.gke.io/gcp-service-account": "a@b.c", "azure.workload.identity/client-id": "c"});
        let metadata = json!({"name": name, "namespace": namespace, "labels": {"external-secrets.io/type": "webhook"},
            "annotations": annotations});
        let data = json!({"k": "CANARY-k", "pem": both, "aws_access_key_id": "k", "aws_secret_access_key": "s",
            "access_key_id": "k", "secret_access_key": "s"});
        for object in [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"pem": both}}),
        ] {
            harness::apply(&case.client, None, object).await.unwrap();
        }
    }
}

/// A world with another namespace, both with everything that a reference can name.
async fn with_victim() -> (World, String) {
    let world = World::new("tenant", Making { cluster: true, ..Making::default() }).await;
    let case = &world.case;
    let victim = format!("{}-a", case.name);
    harness::create_namespace(&case.client, &victim).await;
    for namespace in [&case.name, &victim] {
        nameable(case, namespace, &["mine".into(), "victim".into()]).await;
    }
    (world, victim)
}

/// Nobody asked for anything in the other namespace.
async fn nobody_went_there(world: World, victim: &str) {
    let there: Vec<_> = world.api.log().into_iter().filter(|e| e.path.contains(&format!("/namespaces/{victim}/"))).collect();
    assert!(there.is_empty(), "the operator went there: {there:#?}");
    world.end().await;
}

#[tokio::test]
async fn no_reference_of_a_secret_store_leaves_its_namespace() {
    let (world, victim) = with_victim().await;
    let case = &world.case;
    world.start().await;
    let mut tried = BTreeSet::new();
    let mut names = Vec::new();
    for (base, spec) in stores() {
        let mut found = Vec::new();
        references(&spec, "spec.provider", "spec.provider", &mut found);
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
    nobody_went_there(world, &victim).await;
}

#[tokio::test]
async fn no_reference_of_a_generator_leaves_its_namespace() {
    let (world, victim) = with_victim().await;
    let case = &world.case;
    world.start().await;
    let fields = fields_of_generators();
    assert!(fields.len() > 70, "the contract was read: {}", fields.len());
    let (mut tried, mut names) = (BTreeSet::new(), Vec::new());
    // The store says whose object it is, and is read first.
    let data = json!([{"secretKey": "v", "remoteRef": {"key": "k"}}]);
    let reading = |kind: &str, name: &str| {
        let source = json!({"sourceRef": {"generatorRef": {"kind": kind, "name": name}}});
        json!({"secretStoreRef": {"name": "own"}, "data": data, "dataFrom": [source]})
    };
    for (kind, spec) in generators() {
        let mut found = Vec::new();
        references(&spec, "spec", "spec", &mut found);
        for (path, pointer) in found {
            let mut spec = spec.clone();
            let reference = spec.pointer_mut(&pointer).unwrap_or_else(|| panic!("{path} is at {pointer}"));
            reference["name"] = json!("victim");
            reference["namespace"] = json!(victim);
            if kind == "VaultDynamicSecret" {
                spec["controller"] = json!(case.name);
            }
            let part = GeneratorKind::of(kind).unwrap().field();
            let inside = format!("spec.generator.{part}{}.namespace", path.trim_start_matches("spec"));
            let whole = json!({"kind": kind, "generator": {part: spec}});
            for (kind, path, spec) in
                [(kind, format!("{path}.namespace"), spec.clone()), ("ClusterGenerator", inside, whole.clone())]
            {
                let field = (kind.to_owned(), path);
                if !fields.contains(&field) {
                    continue;
                }
                let name = format!("{}-g{}", case.name, names.len());
                let object = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
                case.apply(object).await.unwrap_or_else(|error| panic!("{field:?}: {error}"));
                case.external_secret(&name, reading(kind, &name)).await;
                names.push((name, format!("{kind}: {}", field.1.trim_end_matches(".namespace")), victim.clone()));
                tried.insert(field);
            }
        }
    }
    for kind in NOT_SERVED {
        let name = format!("{}-g{}", case.name, names.len());
        let object = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "ClusterGenerator", "metadata": {"name": name},
            "spec": {"kind": kind, "generator": {"uuidSpec": {}}}});
        case.apply(object).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        case.external_secret(&name, reading("ClusterGenerator", &name)).await;
        names.push((name, format!("ClusterGenerator of {kind}"), "is not served".into()));
    }
    case.apply_store("own", json!({"fake": {"data": [{"key": "k", "value": "v"}]}})).await;
    let missing: Vec<_> = fields.difference(&tried).collect();
    assert!(missing.is_empty(), "nobody tries {missing:#?}");
    for (name, what, needle) in &names {
        let told = eventually(&format!("{what} is answered"), async || {
            let conditions = case.objects().get(name).await.unwrap().status?.conditions;
            conditions
                .into_iter()
                .find(|c| c.type_ == "Ready" && !c.message.as_deref().unwrap_or_default().contains("does not exist"))
        })
        .await;
        let message = told.message.unwrap_or_default();
        let on_gke_alone =
            what.ends_with("auth.gcp.serviceAccountRef") || what.ends_with("auth.gcp.workloadIdentity.serviceAccountRef");
        assert!(told.status == "False" && (message.contains(needle) || on_gke_alone), "{what}: {} {message}", told.status);
    }
    let clusters = harness::api_of(
        &case.client,
        None,
        &json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "ClusterGenerator"}),
    );
    for (name, ..) in names.iter().filter(|(_, what, _)| what.starts_with("ClusterGenerator")) {
        clusters.delete(name, &Default::default()).await.unwrap();
    }
    nobody_went_there(world, &victim).await;
}

#[tokio::test]
async fn a_generator_that_names_no_identity_is_not_the_operator() {
    let case = Case::new("nobody").await;
    let vault = json!({"server": case.harness.vault.url, "auth": {"kubernetes": {"mountPath": "kubernetes", "role": "r"}}});
    case.apply_store("own", json!({"fake": {"data": [{"key": "k", "value": "v"}]}})).await;
    for (kind, spec) in [
        ("ECRAuthorizationToken", json!({"region": "eu-west-1"})),
        ("STSSessionToken", json!({"region": "eu-west-1"})),
        ("GCRAccessToken", json!({"projectID": "p", "auth": {}})),
        (
            "ACRAccessToken",
            json!({"tenantId": "t", "registry": "x.azurecr.io", "auth": {"managedIdentity": {"identityId": "i"}}}),
        ),
        ("VaultDynamicSecret", json!({"path": "a/b", "provider": vault})),
    ] {
        let name = kind.to_lowercase();
        case.apply(json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}))
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        let data = json!([{"secretKey": "v", "remoteRef": {"key": "k"}}]);
        let source = json!({"sourceRef": {"generatorRef": {"kind": kind, "name": name}}});
        case.external_secret(&name, json!({"secretStoreRef": {"name": "own"}, "data": data, "dataFrom": [source]})).await;
        case.failed(&name, "the operator's own is for ClusterGenerators only").await;
    }
}

/// Gives every reference of a spec a name of its own and this namespace, or none; answers path and name.
fn name_apart(spec: &mut Value, kind: Option<&str>, namespace: Option<&str>, count: &mut usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    references(spec, "spec.provider", "spec.provider", &mut found);
    let mut names = Vec::new();
    for (path, pointer) in found {
        let reference = spec.pointer_mut(&pointer).unwrap_or_else(|| panic!("{path} is at {pointer}"));
        let name = format!("ref-{count}");
        *count += 1;
        reference["name"] = json!(name);
        if let Some(namespace) = namespace {
            reference["namespace"] = json!(namespace);
        }
        if path.ends_with("caProvider")
            && let Some(kind) = kind
        {
            reference["type"] = json!(kind);
        }
        names.push((path, name));
    }
    names
}

/// The namespaces where something of that name was asked for.
fn asked_for(world: &World, name: &str) -> BTreeSet<String> {
    let named = |path: &str| {
        let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
        let (namespace, resource, object) = (parts.next()?, parts.next()?, parts.next()?);
        let reads = matches!(resource, "secrets" | "serviceaccounts" | "configmaps");
        (reads && object == name).then(|| namespace.to_owned())
    };
    world.api.log().iter().filter(|e| e.sort != Sort::Watch).filter_map(|e| named(&e.path)).collect()
}

/// What is read only once a step before it has succeeded, which takes a cloud.
const AFTER_A_CLOUD: [&str; 1] = [ON_GKE_ALONE];

#[tokio::test]
async fn a_cluster_stores_references_are_read_where_they_say_or_as_whoever_uses_it() {
    let (world, other) = with_victim().await;
    let case = &world.case;
    let mut count = 0;
    let (mut stores_made, mut expected) = (Vec::new(), Vec::new());
    for (base, spec) in stores() {
        for kind in ["Secret", "ConfigMap"] {
            if kind == "ConfigMap" && !base.ends_with("-ca") {
                continue;
            }
            for named in [None, Some(other.as_str())] {
                let mut spec = spec.clone();
                let names = name_apart(&mut spec, Some(kind), named, &mut count);
                let store = format!("{}-{}", case.name, stores_made.len());
                expected.extend(names.into_iter().map(|(path, name)| (format!("{base}: {path}"), name, named.is_some())));
                stores_made.push((store, spec));
            }
        }
    }
    let names: Vec<String> = (0..count).map(|n| format!("ref-{n}")).collect();
    for namespace in [&case.name, &other] {
        nameable(case, namespace, &names).await;
    }
    world.start().await;
    for (store, spec) in &stores_made {
        case.apply_cluster_store(store, spec.clone(), json!([])).await;
        for namespace in [&case.name, &other] {
            let data = json!([{"secretKey": "v", "remoteRef": {"key": "k"}}]);
            let object = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": store, "namespace": namespace},
                "spec": {"refreshInterval": "1h", "secretStoreRef": {"name": store, "kind": "ClusterSecretStore"}, "data": data}});
            harness::apply(&case.client, None, object).await.unwrap();
        }
    }
    let identity = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret"});
    for (store, spec) in &stores_made {
        for namespace in [&case.name, &other] {
            let api = harness::api_of(&case.client, Some(namespace), &identity);
            eventually(&format!("{namespace}/{store} is answered, of {spec}"), async || {
                let object = api.get(store).await.unwrap();
                object.data["status"]["conditions"][0]["status"].as_str().map(|status| assert_eq!(status, "False"))
            })
            .await;
        }
    }
    let mut wrong = Vec::new();
    let mut reached = BTreeSet::new();
    for (path, name, named) in &expected {
        let there = asked_for(&world, name);
        let all = if *named { BTreeSet::from([other.clone()]) } else { BTreeSet::from([case.name.clone(), other.clone()]) };
        if there == all {
            reached.insert(path.split(": ").last().unwrap().to_owned());
        } else if !there.is_empty() || !AFTER_A_CLOUD.iter().any(|end| path.ends_with(end)) {
            wrong.push(format!("{path} ({name}, named: {named}) was read in {there:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let without_namespace = |path: String| path.trim_end_matches(".namespace").to_owned();
    let missing: Vec<String> = fields().into_iter().map(without_namespace).filter(|path| !reached.contains(path)).collect();
    assert!(missing.iter().all(|path| AFTER_A_CLOUD.contains(&path.as_str())), "nobody reads {missing:#?}");
    for (store, _) in &stores_made {
        case.delete_cluster_store(store).await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_name_without_a_namespace_means_the_objects_own() {
    let (world, victim) = with_victim().await;
    let case = &world.case;
    // What is named is there only in the other namespace.
    let values = json!({"fake": {"data": [{"key": "k", "value": "CANARY-theirs"}]}});
    let there = [
        json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "spec": {"controller": "nobody", "provider": values}}),
        json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "Fake", "spec": {"data": {"k": "CANARY-theirs"}}}),
        json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"k": "CANARY-theirs"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "CANARY-theirs"}}),
    ];
    for mut object in there {
        object["metadata"] = json!({"name": "theirs", "namespace": victim});
        harness::apply(&case.client, None, object).await.unwrap();
    }
    case.apply_store("own", json!({"fake": {"data": [{"key": "k", "value": "CANARY-own"}]}})).await;
    world.start().await;
    let plain = json!([{"secretKey": "v", "remoteRef": {"key": "k"}}]);
    let with_source = |source: Value| json!([plain[0], {"secretKey": "w", "remoteRef": {"key": "k"}, "sourceRef": source}]);
    let store = json!({"storeRef": {"name": "theirs"}});
    let generator =
        json!({"generatorRef": {"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "Fake", "name": "theirs"}});
    let from = |what: &str| json!({"templateFrom": [{what: {"name": "theirs", "items": [{"key": "k"}]}}]});
    let read = |more: Value| {
        let mut spec = json!({"refreshInterval": "1h", "secretStoreRef": {"name": "own"}, "data": plain});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let push = |more: Value| {
        let data = json!([{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key("pushed")}}}]);
        let mut spec = json!({"refreshInterval": "1h", "secretStoreRefs": [{"name": "own"}], "selector": {"secret": {"name": "mine"}}, "data": data});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let both = [
        ("ExternalSecret", "secretStoreRef.name", read(json!({"secretStoreRef": {"name": "theirs"}}))),
        ("ExternalSecret", "data[].sourceRef.storeRef.name", read(json!({"data": with_source(store.clone())}))),
        ("ExternalSecret", "data[].sourceRef.generatorRef.name", read(json!({"data": with_source(generator.clone())}))),
        (
            "ExternalSecret",
            "dataFrom[].sourceRef.storeRef.name",
            read(json!({"dataFrom": [{"extract": {"key": "k"}, "sourceRef": store}]})),
        ),
        ("ExternalSecret", "dataFrom[].sourceRef.generatorRef.name", read(json!({"dataFrom": [{"sourceRef": generator}]}))),
        (
            "ExternalSecret",
            "target.template.templateFrom[].configMap.name",
            read(json!({"target": {"template": from("configMap")}})),
        ),
        ("ExternalSecret", "target.template.templateFrom[].secret.name", read(json!({"target": {"template": from("secret")}}))),
        ("PushSecret", "secretStoreRefs[].name", push(json!({"secretStoreRefs": [{"name": "theirs"}]}))),
        ("PushSecret", "dataTo[].storeRef.name", push(json!({"dataTo": [{"storeRef": {"name": "theirs"}}]}))),
        ("PushSecret", "selector.secret.name", push(json!({"selector": {"secret": {"name": "theirs"}}}))),
        ("PushSecret", "selector.generatorRef.name", push(json!({"selector": generator}))),
        ("PushSecret", "template.templateFrom[].configMap.name", push(json!({"template": from("configMap")}))),
        ("PushSecret", "template.templateFrom[].secret.name", push(json!({"template": from("secret")}))),
        // Last: it makes one of that name here.
        ("ExternalSecret", "target.name", read(json!({"target": {"name": "theirs"}}))),
    ];
    for (n, (kind, path, spec)) in both.iter().enumerate() {
        let version = if *kind == "PushSecret" { "v1alpha1" } else { "v1" };
        let object = json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind, "metadata": {"name": format!("o{n}")}, "spec": spec});
        match case.apply(object.clone()).await {
            // A generator is called by dataFrom alone: the CRD says so.
            Err(error) if *path == "data[].sourceRef.generatorRef.name" => {
                assert!(error.to_string().contains("call it from spec.dataFrom"), "{error}");
                continue;
            }
            applied => applied.unwrap_or_else(|error| panic!("{path}: {error}")),
        }
        let api = harness::api_of(&case.client, Some(&case.name), &object);
        let (status, message) = eventually(&format!("{kind} {path} is answered"), async || {
            let object = api.get(&format!("o{n}")).await.unwrap();
            let ready = object.data["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?.clone();
            Some((ready["status"].clone(), ready["message"].as_str()?.to_owned()))
        })
        .await;
        match *path {
            // A Secret of that name is made here; theirs is another.
            "target.name" => case.secret_is("theirs", &[("v", "CANARY-own")]).await,
            _ => assert!(status == "False" && message.contains("does not exist"), "{kind} {path}: {status} {message}"),
        }
    }
    let theirs = harness::secret(&case.client, &victim, "theirs").await.unwrap();
    assert_eq!(theirs.get("k").map(String::as_str), Some("CANARY-theirs"));
    nobody_went_there(world, &victim).await;
}

/// A PushSecret on the fake store `own`, or on others.
async fn push(case: &Case, name: &str, stores: Value, selector: Value) {
    let data = json!([{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key(name)}}}]);
    let spec = json!({"refreshInterval": "1h", "secretStoreRefs": stores, "selector": selector, "data": data});
    case.apply(
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": name}, "spec": spec}),
    )
    .await
    .unwrap();
}

async fn push_fails(case: &Case, name: &str, needle: &str) {
    let api: kube::Api<lockstep_crds::PushSecret> = kube::Api::namespaced(case.client.clone(), &case.name);
    let message = eventually(&format!("{name} is answered"), async || {
        let conditions = api.get(name).await.unwrap().status?.conditions;
        conditions.into_iter().find(|c| c.type_ == "Ready" && c.status == "False")?.message
    })
    .await;
    assert!(message.contains(needle) && !message.contains("CANARY"), "{name}: {message}");
}

#[tokio::test]
async fn labels_select_nothing_of_another_namespace_and_conditions_hold_for_pushes() {
    let (case, other) = (Case::new("labels").await, Case::new("labels-victim").await);
    let labels = json!({"team": other.name});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs", "labels": labels}, "stringData": {"k": "CANARY-k"}});
    other.apply(secret).await.unwrap();
    let store = json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": "theirs", "labels": labels},
        "spec": {"provider": {"fake": {"data": []}}}});
    other.apply(store).await.unwrap();
    case.apply_store("own", json!({"fake": {"data": []}})).await;
    case.apply_secret("mine", &[("k", "CANARY-mine")]).await;
    let by_label = json!({"matchLabels": labels});
    push(&case, "secrets", json!([{"name": "own"}]), json!({"secret": {"selector": by_label}})).await;
    push_fails(&case, "secrets", &format!("no Secret of namespace {}", case.name)).await;
    push(&case, "stores", json!([{"labelSelector": by_label}]), json!({"secret": {"name": "mine"}})).await;
    let api: kube::Api<lockstep_crds::PushSecret> = kube::Api::namespaced(case.client.clone(), &case.name);
    let status = eventually("what selects no store is answered", async || {
        api.get("stores").await.unwrap().status.filter(|status| !status.conditions.is_empty())
    })
    .await;
    assert!(status.synced_push_secrets.is_empty(), "{:?}", status.synced_push_secrets);
    // A cluster store that admits another namespace alone takes nothing from this one.
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "namespace": other.name, "key": "token"}});
    other.apply_secret("vault-token", &[("token", lockstep_e2e::vault::ROOT)]).await;
    let vault = case.vault_at(&case.harness.vault.url, auth);
    case.apply_cluster_store(&case.name, vault, json!([{"namespaces": [other.name]}])).await;
    push(&case, "conditions", json!([{"name": case.name, "kind": "ClusterSecretStore"}]), json!({"secret": {"name": "mine"}}))
        .await;
    push_fails(&case, "conditions", "does not admit namespace").await;
    assert_eq!(case.reads("conditions"), 0);
    case.delete_cluster_store(&case.name).await;
}

#[tokio::test]
async fn a_webhook_generator_uses_only_secrets_whose_owner_allows_it() {
    let case = Case::new("hookgen").await;
    case.apply_secret("unlabelled", &[("token", "CANARY-token")]).await;
    let spec = json!({"url": "http://127.0.0.1:9/{{ .api.token }}", "result": {"jsonPath": "$"},
        "secrets": [{"name": "api", "secretRef": {"name": "unlabelled"}}]});
    case.apply(json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "Webhook", "metadata": {"name": "hook"}, "spec": spec}))
        .await
        .unwrap();
    let source = json!({"sourceRef": {"generatorRef": {"kind": "Webhook", "name": "hook"}}});
    case.external_secret("app", json!({"secretStoreRef": null, "dataFrom": [source]})).await;
    let message = case.failed("app", "external-secrets.io/type").await;
    assert!(!message.contains("CANARY"), "{message}");
}

#[tokio::test]
async fn two_namespaces_with_equal_stores_share_no_connection_and_no_read() {
    let (one, two) = (Case::new("equal").await, Case::new("equal").await);
    let (url, _, seen) = one.watched_vault();
    one.put("app", json!({"p": "CANARY-p"})).await;
    for case in [&one, &two] {
        case.vault_store_at(&url).await;
        case.store_is("vault", "True", "Valid", "").await;
    }
    assert!(seen.of("GET", "lookup-self").len() >= 2, "each is asked who it is");
    let key = one.data("p", "app", "p");
    let read = || seen.of("GET", &one.key("app")).len();
    for (n, case) in [&one, &two].into_iter().enumerate() {
        case.external_secret("app", json!({"data": [key]})).await;
        case.secret_is("app", &[("p", "CANARY-p")]).await;
        assert_eq!(read(), n + 1, "each reads for itself, though the other's answer is a moment old");
    }
    // Without its own credentials one has nothing, whatever the other has.
    two.secrets().delete("vault-token", &Default::default()).await.unwrap();
    two.external_secret("late", json!({"data": [key]})).await;
    two.failed("late", "vault-token does not exist").await;
    one.external_secret("late", json!({"data": [key]})).await;
    one.secret_is("late", &[("p", "CANARY-p")]).await;
}
