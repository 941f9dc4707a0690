//! The watches: what is observed, and when all of it has been seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Resource;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use lockstep_crds::{
    ClusterExternalSecret, ClusterPushSecret, ClusterSecretStore, ExternalSecret, GeneratorState, LABEL_MANAGED, PushSecret,
    SecretStore,
};
use tokio::sync::Notify;

use super::followers::{Fans, Namespaces, Objects, Pushes, Scope, States, Stores, Targets};
use crate::context::Context;
use crate::fan_out::cache::FanOutKind;
use crate::kube_io;
use crate::mirror::{Guard, follow};

/// Opens once every watch has seen everything: before that an object's store or target may only seem to be missing.
pub(super) struct Gate {
    left: AtomicUsize,
    open: Notify,
}

impl Gate {
    pub(super) fn new(ctx: &Context) -> Arc<Self> {
        let scopes = ctx.options.namespaces.len();
        // Objects, stores and targets, and for the whole cluster also cluster stores and namespaces.
        let watches = if scopes == 0 { 5 } else { 3 * scopes };
        Arc::new(Self { left: AtomicUsize::new(watches), open: Notify::new() })
    }

    fn one_ready(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.open.notify_one();
        }
    }

    pub(super) async fn opened(&self) {
        self.open.notified().await;
    }
}

/// Tells the gate at most once.
pub(super) struct Once(Arc<Gate>, std::sync::Once);

impl Once {
    fn new(gate: &Arc<Gate>) -> Self {
        Self(gate.clone(), std::sync::Once::new())
    }

    pub(super) fn ready(&self) {
        self.1.call_once(|| self.0.one_ready());
    }
}

/// Objects of one page of a list, where they do not come one by one.
const PAGE: u32 = 100;

/// How the first state of things is asked for: one by one where the API server can (WatchList, served by default from 1.34 on),
/// since a page takes many times its own size while it is parsed.
pub(super) async fn list_style(client: &kube::Client) -> watcher::Config {
    let version = kube_io::in_time(|| client.apiserver_version()).await;
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let one_by_one = version.is_ok_and(|v| (number(&v.major), number(&v.minor)) >= (Some(1), Some(34)));
    let config = watcher::Config::default();
    if one_by_one { config.streaming_lists() } else { config.page_size(PAGE) }
}

pub(super) fn start_watches(
    ctx: &Arc<Context>,
    gate: &Arc<Gate>,
    watches: &mut tokio::task::JoinSet<()>,
    style: watcher::Config,
) {
    let scopes: Vec<Option<String>> = match ctx.options.namespaces.as_slice() {
        [] => vec![None],
        named => named.iter().cloned().map(Some).collect(),
    };
    for scope in &scopes {
        let objects = Objects { ctx: ctx.clone(), scope: scope.clone(), once: Once::new(gate) };
        let api: Api<Guard<ExternalSecret>> = scoped(ctx, scope.as_deref());
        watches.spawn(follow(stream(api, style.clone()), objects, "ExternalSecrets"));
        let of = scope.clone().map_or(Scope::Namespaces, Scope::Namespace);
        let stores = Stores { ctx: ctx.clone(), scope: of, once: Once::new(gate) };
        let api: Api<Guard<SecretStore>> = scoped(ctx, scope.as_deref());
        watches.spawn(follow(stream(api, style.clone()), stores, "SecretStores"));
        let api: Api<PartialObjectMeta<Secret>> = scoped(ctx, scope.as_deref());
        let config = style.clone().labels(&format!("{LABEL_MANAGED}=true"));
        watches.spawn(follow(
            stream(api, config),
            Targets { ctx: ctx.clone(), scope: scope.clone(), once: Once::new(gate) },
            "managed Secrets",
        ));
        if ctx.options.push_secrets {
            let api: Api<Guard<PushSecret>> = scoped(ctx, scope.as_deref());
            let pushes = Pushes { ctx: ctx.clone(), scope: scope.clone() };
            watches.spawn(follow(stream(api, style.clone()), pushes, "PushSecrets"));
        }
        // Nobody waits for these but who uses a generator: their CRD may be missing.
        let api: Api<Guard<GeneratorState>> = scoped(ctx, scope.as_deref());
        let states = States { ctx: ctx.clone(), scope: scope.clone(), seen: std::sync::Once::new() };
        watches.spawn(follow(stream(api, style.clone()), states, "GeneratorStates"));
    }
    if ctx.options.namespaces.is_empty() {
        let stores = Stores { ctx: ctx.clone(), scope: Scope::Cluster, once: Once::new(gate) };
        let api: Api<Guard<ClusterSecretStore>> = Api::all(ctx.client.clone());
        watches.spawn(follow(stream(api, style.clone()), stores, "ClusterSecretStores"));
        let api: Api<Guard<ClusterExternalSecret>> = Api::all(ctx.client.clone());
        let fans = Fans { ctx: ctx.clone(), kind: FanOutKind::ExternalSecrets };
        watches.spawn(follow(stream(api, style.clone()), fans, "ClusterExternalSecrets"));
        if ctx.options.push_secrets {
            let api: Api<Guard<ClusterPushSecret>> = Api::all(ctx.client.clone());
            let fans = Fans { ctx: ctx.clone(), kind: FanOutKind::PushSecrets };
            watches.spawn(follow(stream(api, style.clone()), fans, "ClusterPushSecrets"));
        }
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(ctx.client.clone());
        watches.spawn(follow(stream(api, style.clone()), Namespaces { ctx: ctx.clone(), once: Once::new(gate) }, "Namespaces"));
    }
}

fn scoped<K>(ctx: &Context, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
        None => Api::all(ctx.client.clone()),
    }
}

fn stream<K>(api: Api<K>, config: watcher::Config) -> impl futures::Stream<Item = watcher::Result<watcher::Event<K>>>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config).default_backoff().modify(|o| prune(o.meta_mut()))
}

/// What nobody reads is not kept.
fn prune(meta: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}
