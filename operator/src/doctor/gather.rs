//! Reads what the doctor looks at: lists, page by page, of Secrets only metadata. What may not be read is said, and the rest is judged.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt};
use lockstep_crds::{ExternalSecret, ExternalSecretSpec, LABEL_MANAGED, PushSecret, PushSecretSpec};
use serde::de::DeserializeOwned;

use super::Check;
use super::encryption::Encryption;
use super::permissions::Permissions;
use crate::external_secret::kube_error;
use crate::keys::{ObjectKey, StoreKey};

/// A store, as far as it counts here.
#[derive(Clone, Debug)]
pub struct StoreSeen {
    /// Which.
    pub key: StoreKey,
    /// Its labels: PushSecrets may name them.
    pub labels: BTreeMap<String, String>,
    /// Whether it asks for tokens of a service account.
    pub as_service_account: bool,
}

/// Everything that was seen.
#[derive(Default)]
pub struct Seen {
    /// When.
    pub now: Timestamp,
    /// All ExternalSecrets.
    pub external_secrets: Vec<ExternalSecret>,
    /// What ClusterExternalSecrets make.
    pub cluster_external_secrets: Vec<ExternalSecretSpec>,
    /// All PushSecrets.
    pub push_secrets: Vec<PushSecret>,
    /// What ClusterPushSecrets make.
    pub cluster_push_secrets: Vec<PushSecretSpec>,
    /// All stores.
    pub stores: Vec<StoreSeen>,
    /// Secrets with the label of managed ones.
    pub managed: Vec<ObjectKey>,
    /// Signs of encryption.
    pub encryption: Encryption,
    /// What the operator may do.
    pub permissions: Permissions,
    /// What could not be looked at, and why.
    pub problems: Vec<(Check, String)>,
}

/// Objects of one page.
const PAGE: u32 = 500;

/// What to look at.
pub struct Scope<'a> {
    /// One namespace; none: all.
    pub namespace: Option<&'a str>,
    /// Namespace and name of the operator's service account.
    pub account: (&'a str, &'a str),
}

struct Gatherer<'a> {
    client: Client,
    scope: &'a Scope<'a>,
}

/// Reads it all.
pub async fn gather(client: Client, scope: &Scope<'_>, now: Timestamp) -> Seen {
    let from = Gatherer { client, scope };
    let mut seen = Seen { now, ..Seen::default() };
    let both = [Check::NeverSynced, Check::UnusedStore, Check::UnmanagedSecret];
    match from.objects("ExternalSecret", "v1", true).await {
        Ok(all) => seen.external_secrets = parsed(all),
        Err(why) => seen.problems.extend(both.map(|check| (check, why.clone()))),
    }
    match from.objects("PushSecret", "v1alpha1", true).await {
        Ok(all) => seen.push_secrets = parsed(all),
        Err(why) => seen.problems.push((Check::UnusedStore, why)),
    }
    for (kind, version) in
        [("SecretStore", "v1"), ("ClusterSecretStore", "v1"), ("ClusterExternalSecret", "v1"), ("ClusterPushSecret", "v1alpha1")]
    {
        let namespaced = kind == "SecretStore";
        // Whoever asks about one namespace may not know of the cluster's.
        if !namespaced && scope.namespace.is_some() {
            continue;
        }
        match from.objects(kind, version, namespaced).await {
            Ok(all) => match kind {
                "ClusterExternalSecret" => seen.cluster_external_secrets = part(all, "externalSecretSpec"),
                "ClusterPushSecret" => seen.cluster_push_secrets = part(all, "pushSecretSpec"),
                _ => seen.stores.extend(all.iter().map(store)),
            },
            Err(why) => seen.problems.push((Check::UnusedStore, why)),
        }
    }
    match from.managed().await {
        Ok(all) => seen.managed = all,
        Err(why) => seen.problems.push((Check::UnmanagedSecret, why)),
    }
    seen.encryption = from.encryption().await;
    seen.permissions = from.permissions().await;
    seen
}

fn parsed<T: DeserializeOwned>(all: Vec<DynamicObject>) -> Vec<T> {
    // One that does not parse has its condition from the operator.
    all.into_iter().filter_map(|object| serde_json::to_value(object).ok().and_then(|v| serde_json::from_value(v).ok())).collect()
}

fn part<T: DeserializeOwned>(all: Vec<DynamicObject>, field: &str) -> Vec<T> {
    all.into_iter().filter_map(|mut object| serde_json::from_value(object.data["spec"][field].take()).ok()).collect()
}

fn store(object: &DynamicObject) -> StoreSeen {
    StoreSeen {
        key: StoreKey { namespace: object.namespace().map(Into::into), name: object.name_any().into() },
        labels: object.labels().clone(),
        as_service_account: object.data["spec"]["provider"].to_string().contains("\"serviceAccountRef\""),
    }
}

impl Gatherer<'_> {
    async fn objects(&self, kind: &str, version: &str, namespaced: bool) -> Result<Vec<DynamicObject>, String> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("external-secrets.io", version, kind));
        let api: Api<DynamicObject> = match self.scope.namespace.filter(|_| namespaced) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        pages(ListParams::default(), async |params| api.list(&params).await)
            .await
            .map_err(|why| format!("{kind}s may not be listed ({why})"))
    }

    async fn managed(&self) -> Result<Vec<ObjectKey>, String> {
        let api: Api<Secret> = self.scoped();
        let params = ListParams::default().labels(&format!("{LABEL_MANAGED}=true"));
        let all: Vec<PartialObjectMeta<Secret>> = pages(params, async |params| api.list_metadata(&params).await)
            .await
            .map_err(|why| format!("Secrets may not be listed, not even their metadata ({why})"))?;
        Ok(all.iter().filter_map(ObjectKey::of).collect())
    }

    fn scoped<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match self.scope.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    async fn encryption(&self) -> Encryption {
        let request = http::Request::get("/metrics").body(Vec::new());
        let metrics = match request {
            Ok(request) => self.client.request_text(request).await.ok(),
            Err(_) => None,
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "kube-system");
        let found = pods.list(&ListParams::default().labels("component=kube-apiserver")).await;
        let command = |pod: Pod| {
            let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
            let words = containers.into_iter().flat_map(|c| c.command.into_iter().flatten().chain(c.args.into_iter().flatten()));
            words.collect::<Vec<String>>()
        };
        Encryption { metrics, commands: found.map(|list| list.items.into_iter().map(command).collect()).unwrap_or_default() }
    }

    async fn permissions(&self) -> Permissions {
        let (namespace, name) = self.scope.account;
        let who = format!("ServiceAccount {namespace}/{name}");
        Permissions { granted: self.granted(namespace, name).await.ok(), who }
    }

    async fn granted(&self, namespace: &str, name: &str) -> kube::Result<Vec<(String, PolicyRule)>> {
        let is_it = |subjects: &Option<Vec<Subject>>, of: Option<&str>| {
            subjects
                .iter()
                .flatten()
                .any(|s| s.kind == "ServiceAccount" && s.name == name && s.namespace.as_deref().or(of) == Some(namespace))
        };
        let mut rules = Vec::new();
        let of_cluster: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        for binding in of_cluster.list(&ListParams::default()).await?.items.into_iter().filter(|b| is_it(&b.subjects, None)) {
            rules.extend(self.rules(&binding.role_ref, None).await?);
        }
        let in_namespaces: Api<RoleBinding> = self.scoped();
        for binding in in_namespaces.list(&ListParams::default()).await?.items {
            let of = binding.metadata.namespace.clone().unwrap_or_default();
            if is_it(&binding.subjects, Some(&of)) {
                rules.extend(self.rules(&binding.role_ref, Some(&of)).await?);
            }
        }
        Ok(rules)
    }

    async fn rules(&self, role: &RoleRef, namespace: Option<&str>) -> kube::Result<Vec<(String, PolicyRule)>> {
        let (rules, name) = match namespace.filter(|_| role.kind == "Role") {
            Some(namespace) => {
                let found = Api::<Role>::namespaced(self.client.clone(), namespace).get_opt(&role.name).await?;
                (found.and_then(|r| r.rules), format!("Role {namespace}/{}", role.name))
            }
            None => {
                let found = Api::<ClusterRole>::all(self.client.clone()).get_opt(&role.name).await?;
                (found.and_then(|r| r.rules), format!("ClusterRole {}", role.name))
            }
        };
        Ok(rules.unwrap_or_default().into_iter().map(|rule| (name.clone(), rule)).collect())
    }
}

async fn pages<T: Clone>(
    params: ListParams,
    list: impl AsyncFn(ListParams) -> kube::Result<kube::core::ObjectList<T>>,
) -> Result<Vec<T>, String> {
    let mut params = params.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = list(params.clone()).await.map_err(|error| kube_error(&error))?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}
