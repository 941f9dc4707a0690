//! Whoever looks at the cluster itself meanwhile: which shapes each Secret ever had, and what was ever deleted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use lockstep_crds::generator::state::SECRET_TYPE;
use tokio_util::task::AbortOnDropHandle;

use super::world::World;
use crate::interposer::Interposer;

/// Follows the Secrets of some namespaces, past every proxy.
pub struct Watched {
    shapes: Arc<Mutex<BTreeSet<String>>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Watched {
    /// From now on.
    pub fn begin(world: &World, namespaces: &[String]) -> Self {
        let shapes = Arc::<Mutex<BTreeSet<String>>>::default();
        let name = world.case.name.clone();
        let follow = |namespace: &String| {
            let api: Api<Secret> = Api::namespaced(world.case.client.clone(), namespace);
            let (shapes, name) = (shapes.clone(), name.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                let mut stream = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
                while let Some(secret) = stream.next().await {
                    if let Some(shape) = secret.ok().as_ref().and_then(shape) {
                        shapes.lock().unwrap_or_else(|p| p.into_inner()).insert(shape.replace(&name, "CASE"));
                    }
                }
            }))
        };
        let tasks = namespaces.iter().map(follow).collect();
        Self { shapes, _tasks: tasks }
    }

    /// Every Secret with every set of keys that it ever had.
    pub fn shapes(&self) -> BTreeSet<String> {
        self.shapes.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }
}

fn shape(secret: &Secret) -> Option<String> {
    if secret.type_.as_deref() == Some(SECRET_TYPE) {
        return None;
    }
    let named = |(key, value): (&String, &k8s_openapi::ByteString)| match value.0.is_empty() {
        true => format!("{key} (empty)"),
        false => key.clone(),
    };
    let keys: Vec<String> = secret.data.iter().flatten().map(named).collect();
    let meta = &secret.metadata;
    Some(format!("{}/{}: {}", meta.namespace.as_deref()?, meta.name.as_deref()?, keys.join(", ")))
}

/// What an operator asked to be deleted.
pub fn deletes(api: &Interposer, name: &str) -> BTreeSet<String> {
    let log = api.log();
    let deleted = log.iter().filter(|e| e.method == "DELETE");
    let place = |path: &str| match path.split_once("/generatorstates/") {
        // Their names are hashes.
        Some((begin, _)) => format!("{begin}/generatorstates"),
        None => path.to_owned(),
    };
    deleted.map(|e| place(&e.path).replace(name, "CASE")).collect()
}
