//! What the doctor looks for, as a metric: counted from what the watches have shown, and looked up once an hour where it takes a request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{Api, PostParams};

use super::encryption::{self, Encryption};
use super::gather::Seen;
use super::permissions::{self, Permissions};
use super::{Check, Level};
use crate::context::Context;
use crate::kube_io;

/// How often what takes a request is looked up.
const EVERY: Duration = Duration::from_secs(3600);
/// It can't be told.
const UNKNOWN: i64 = -1;

/// What was looked up last.
pub struct LookedUp {
    encryption: AtomicI64,
    permissions: AtomicI64,
}

impl Default for LookedUp {
    fn default() -> Self {
        Self { encryption: AtomicI64::new(UNKNOWN), permissions: AtomicI64::new(UNKNOWN) }
    }
}

/// Looks it up again and again.
pub async fn run(ctx: Arc<Context>) {
    loop {
        look_up(&ctx).await;
        tokio::time::sleep(EVERY).await;
    }
}

async fn look_up(ctx: &Context) {
    let namespace = ctx.options.namespaces.first().cloned().unwrap_or_else(|| "default".into());
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let (api, params) = (Api::<SelfSubjectRulesReview>::all(ctx.client.clone()), PostParams::default());
    ctx.metrics.api_request("create", "selfsubjectrulesreviews");
    let Ok(answer) = kube_io::in_time(|| api.create(&params, &review)).await else { return };
    let Some(status) = answer.status else { return };
    let reads_metrics = status.non_resource_rules.iter().any(|rule| {
        let urls = rule.non_resource_urls.iter().flatten();
        rule.verbs.iter().any(|v| v == "get" || v == "*") && urls.into_iter().any(|url| url == "/metrics" || url == "*")
    });
    let rule = |r: k8s_openapi::api::authorization::v1::ResourceRule| {
        let rule = PolicyRule { api_groups: r.api_groups, resources: r.resources, verbs: r.verbs, ..PolicyRule::default() };
        ("its roles".to_owned(), rule)
    };
    let granted = Some(status.resource_rules.into_iter().map(rule).collect());
    let seen = Permissions { who: "the operator".into(), granted };
    let found = permissions::judge(&seen, &Seen::default());
    let count = i64::try_from(found.iter().filter(|f| f.level == Level::Warning).count()).unwrap_or(UNKNOWN);
    ctx.looked_up.permissions.store(count, Ordering::Relaxed);
    if reads_metrics
        && let Ok(request) = http::Request::get("/metrics").body(Vec::new())
        && let Ok(metrics) = ctx.client.request_text(request).await
    {
        let judged = match encryption::judge(&Encryption { metrics: Some(metrics), commands: Vec::new() }).level {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Hint | Level::Unknown => UNKNOWN,
        };
        ctx.looked_up.encryption.store(judged, Ordering::Relaxed);
    }
}

impl Context {
    /// How many there are of each; -1: that can't be told.
    pub fn findings(&self) -> Vec<(Check, i64)> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let mut never = 0;
        self.state.for_each(|_, memo| never += usize::from(memo.is_none_or(|m| m.refreshed.is_none() && m.binding.is_none())));
        let fan_outs = self.fan_outs.keys();
        let made = fan_outs.iter().filter_map(|key| self.fan_outs.get(key)).flat_map(|f| f.cluster_stores());
        let of_fan_outs: BTreeSet<_> = made.collect();
        let idle = self.state.store_keys().into_iter().filter(|store| {
            !of_fan_outs.contains(store)
                && self.state.users(store, None, false).is_empty()
                && self.push_secrets.users(store).is_empty()
        });
        Check::ALL
            .into_iter()
            .map(|check| {
                let found = match check {
                    Check::EncryptionAtRest => self.looked_up.encryption.load(Ordering::Relaxed),
                    Check::NeverSynced => count(never),
                    Check::UnusedStore => count(idle.clone().count()),
                    Check::UnmanagedSecret => count(self.state.unclaimed()),
                    Check::BroadPermissions => self.looked_up.permissions.load(Ordering::Relaxed),
                };
                (check, found)
            })
            .collect()
    }
}
