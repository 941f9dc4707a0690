//! What Prometheus is told: Lockstep's own series, and the names that people's alerts already use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::queue::Depth;
use crate::reads::StoreLabels;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    result: &'static str,
    category: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    store: String,
    provider: String,
    call: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SavedLabels {
    store: String,
    provider: String,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    result: &'static str,
}

#[derive(Default)]
struct StoreSeries {
    calls: Vec<CallLabels>,
    saved: Vec<SavedLabels>,
}

type Durations = Family<KindLabel, Histogram, fn() -> Histogram>;

/// Counters and histograms; the rest is read from the live state when Prometheus asks ([`Live`]).
#[derive(Default)]
pub struct Metrics {
    reconciles: Family<ReconcileLabels, Counter>,
    durations: OnceLock<Durations>,
    calls: Family<CallLabels, Counter>,
    saved: Family<SavedLabels, Counter>,
    /// The series of each store, which go with it.
    of_stores: Mutex<HashMap<String, StoreSeries>>,
    requests: Family<WriteLabels, Counter>,
    events_dropped: Counter,
    audited: Family<AuditLabels, Counter>,
    panics: Counter,
}

fn durations() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Metrics {
    /// One reconcile ended.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, category: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { kind, result, category }).inc();
        self.durations().get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
    }

    fn durations(&self) -> &Durations {
        self.durations.get_or_init(|| Family::new_with_constructor(durations as fn() -> Histogram))
    }

    /// One call to a provider ended.
    pub fn provider_call(&self, of: &StoreLabels, call: &'static str, result: &'static str) {
        let labels = CallLabels { store: of.store.clone(), provider: of.provider.clone(), call, result };
        if self.calls.get(&labels).is_none() {
            self.of_stores().entry(of.store.clone()).or_default().calls.push(labels.clone());
        }
        self.calls.get_or_create(&labels).inc();
    }

    fn of_stores(&self) -> MutexGuard<'_, HashMap<String, StoreSeries>> {
        self.of_stores.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A store is gone, and what was counted of it.
    pub fn forget_store(&self, store: &str) {
        if let Some(series) = self.of_stores().remove(store) {
            for labels in &series.calls {
                self.calls.remove(labels);
            }
            for labels in &series.saved {
                self.saved.remove(labels);
            }
        }
    }

    /// Calls were not made: `shared` with somebody else, filled into a `batch`, or the answer was `known`.
    pub fn calls_saved(&self, of: &StoreLabels, by: &'static str, count: u64) {
        if count > 0 {
            let labels = SavedLabels { store: of.store.clone(), provider: of.provider.clone(), by };
            if self.saved.get(&labels).is_none() {
                self.of_stores().entry(of.store.clone()).or_default().saved.push(labels.clone());
            }
            self.saved.get_or_create(&labels).inc_by(count);
        }
    }

    /// One request to the API server was sent.
    pub fn api_request(&self, verb: &'static str, resource: &'static str) {
        self.requests.get_or_create(&WriteLabels { verb, resource }).inc();
    }

    /// An event was not written because too many were waiting.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Records of the audit trail were `written`, or `lost`.
    pub fn audited(&self, result: &'static str, count: usize) {
        if count > 0 {
            self.audited.get_or_create(&AuditLabels { result }).inc_by(count as u64);
        }
    }

    /// How many of them.
    #[cfg(test)]
    pub fn audit_count(&self, result: &'static str) -> u64 {
        self.audited.get_or_create(&AuditLabels { result }).get()
    }

    /// A reconcile panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The text that `/metrics` answers with.
    ///
    /// # Errors
    /// When an encoder fails, which writing to memory does not.
    pub fn encode(&self, live: Weak<dyn Live>) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register("lockstep_reconciles", "Reconciles by result and error category", self.reconciles.clone());
        registry.register("lockstep_reconcile_duration_seconds", "Duration of a reconcile", self.durations().clone());
        registry.register("lockstep_provider_calls", "Calls to providers", self.calls.clone());
        registry.register("lockstep_provider_calls_saved", "Calls to providers that were not needed", self.saved.clone());
        registry.register(
            "lockstep_api_requests",
            "Requests to the API server; watches, and the leases of leaders and shards, left out",
            self.requests.clone(),
        );
        registry.register("lockstep_events_dropped", "Events not written because too many waited", self.events_dropped.clone());
        registry.register("lockstep_audit_records", "Records of the audit trail: written, or lost", self.audited.clone());
        registry.register("lockstep_panics", "Reconciles that panicked", self.panics.clone());
        registry.register_collector(Box::new(LiveCollector(live)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// One ExternalSecret as the metrics see it.
pub struct ObjectSample {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Status of Ready; none before the first sync.
    pub ready: Option<bool>,
    /// Syncs tried.
    pub sync_calls: u64,
    /// Syncs failed.
    pub sync_errors: u64,
}

/// The state that is read when Prometheus asks, so that ten thousand objects cost nothing in between.
pub trait Live: Send + Sync {
    /// Every ExternalSecret.
    fn objects(&self) -> Vec<ObjectSample>;
    /// Stores by readiness: ready, not ready.
    fn stores(&self) -> (usize, usize);
    /// Objects that are kept, and the bytes of their texts.
    fn kept(&self) -> (usize, usize);
    /// What `lockstep doctor` would find, by check; -1: that can't be told.
    fn findings(&self) -> Vec<(&'static str, i64)>;
    /// Queues by name.
    fn queues(&self) -> Vec<(&'static str, Depth)>;
}

struct LiveCollector(Weak<dyn Live>);

impl std::fmt::Debug for LiveCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LiveCollector")
    }
}

impl Collector for LiveCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(live) = self.0.upgrade() else { return Ok(()) };
        let objects = live.objects();
        let (kept, bytes) = live.kept();
        let what = [
            ("lockstep_cache_objects", "ExternalSecrets that are kept", kept),
            ("lockstep_cache_bytes", "Bytes of their texts", bytes),
        ];
        for (name, help, value) in what {
            ConstGauge::new(value as i64).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut gauge = |name: &str, help: &str, rows: &mut dyn Iterator<Item = (Vec<(&str, &str)>, i64)>| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in rows {
                ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
            }
            Ok::<_, std::fmt::Error>(())
        };
        let queues = live.queues();
        gauge(
            "lockstep_queue_depth",
            "Keys that wait for a worker",
            &mut queues.iter().map(|(name, depth)| (vec![("queue", *name)], depth.waiting as i64)),
        )?;
        gauge(
            "lockstep_queue_running",
            "Keys that are being worked on",
            &mut queues.iter().map(|(name, depth)| (vec![("queue", *name)], depth.running as i64)),
        )?;
        gauge(
            "lockstep_queue_overdue",
            "Refreshes that are due and wait for their turn",
            &mut queues.iter().map(|(name, depth)| (vec![("queue", *name)], depth.overdue as i64)),
        )?;
        let findings = live.findings();
        gauge(
            "lockstep_findings",
            "What lockstep doctor would find; -1: that can't be told",
            &mut findings.iter().map(|(check, n)| (vec![("check", *check)], *n)),
        )?;
        let count = |ready: Option<bool>| objects.iter().filter(|o| o.ready == ready).count() as i64;
        let (ready_stores, failed_stores) = live.stores();
        let rows = [
            ("ExternalSecret", "true", count(Some(true))),
            ("ExternalSecret", "false", count(Some(false))),
            ("ExternalSecret", "unknown", count(None)),
            ("SecretStore", "true", ready_stores as i64),
            ("SecretStore", "false", failed_stores as i64),
        ];
        gauge(
            "lockstep_objects",
            "Objects by readiness",
            &mut rows.iter().map(|(kind, ready, n)| (vec![("kind", *kind), ("ready", *ready)], *n)),
        )?;
        let conditions = objects.iter().flat_map(|o| {
            let labels =
                |status| vec![("condition", "Ready"), ("name", &*o.name), ("namespace", &*o.namespace), ("status", status)];
            let ready = o.ready;
            [(labels("True"), i64::from(ready == Some(true))), (labels("False"), i64::from(ready == Some(false)))]
        });
        gauge("externalsecret_status_condition", "Status of the condition Ready", &mut { conditions })?;
        gauge(
            "externalsecret_sync_calls_error",
            "Syncs that failed",
            &mut objects.iter().map(|o| (vec![("name", &*o.name), ("namespace", &*o.namespace)], o.sync_errors as i64)),
        )?;
        let mut metric = encoder.encode_descriptor("externalsecret_sync_calls", "Syncs", None, MetricType::Counter)?;
        for o in &objects {
            let labels = vec![("name", &*o.name), ("namespace", &*o.namespace)];
            ConstCounter::new(o.sync_calls).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Live for Fixed {
        fn objects(&self) -> Vec<ObjectSample> {
            vec![ObjectSample { namespace: "n".into(), name: "o".into(), ready: Some(false), sync_calls: 3, sync_errors: 2 }]
        }
        fn stores(&self) -> (usize, usize) {
            (1, 0)
        }
        fn kept(&self) -> (usize, usize) {
            (1, 700)
        }
        fn findings(&self) -> Vec<(&'static str, i64)> {
            vec![("unused-store", 2)]
        }
        fn queues(&self) -> Vec<(&'static str, Depth)> {
            vec![("externalsecret", Depth { waiting: 4, overdue: 2, running: 1, steady: 0.5 })]
        }
    }

    #[test]
    fn what_was_counted_of_a_store_goes_with_it() {
        let metrics = Arc::new(Metrics::default());
        let live: Arc<dyn Live> = Arc::new(Fixed);
        let of = |name: &str| StoreLabels { store: format!("SecretStore n/{name}"), provider: "vault".into() };
        for name in ["a", "b"] {
            metrics.provider_call(&of(name), "get", "ok");
            metrics.provider_call(&of(name), "get", "ok");
            metrics.calls_saved(&of(name), "shared", 3);
        }
        metrics.forget_store("SecretStore n/a");
        let text = metrics.encode(Arc::downgrade(&live)).expect("text");
        assert!(!text.contains("n/a") && text.contains(r#"store="SecretStore n/b",provider="vault",by="shared"} 3"#), "{text}");
    }

    #[test]
    fn the_names_that_alerts_use_are_there_to_the_letter() {
        let metrics = Metrics::default();
        metrics.reconciled("ExternalSecret", "error", "denied", Duration::from_millis(3));
        let live: Arc<dyn Live> = Arc::new(Fixed);
        let text = metrics.encode(Arc::downgrade(&live)).expect("text");
        for line in [
            r#"externalsecret_sync_calls_total{name="o",namespace="n"} 3"#,
            r#"externalsecret_sync_calls_error{name="o",namespace="n"} 2"#,
            r#"externalsecret_status_condition{condition="Ready",name="o",namespace="n",status="False"} 1"#,
            r#"externalsecret_status_condition{condition="Ready",name="o",namespace="n",status="True"} 0"#,
            r#"lockstep_reconciles_total{kind="ExternalSecret",result="error",category="denied"} 1"#,
            r#"lockstep_queue_depth{queue="externalsecret"} 4"#,
            r#"lockstep_queue_overdue{queue="externalsecret"} 2"#,
            "lockstep_cache_bytes 700",
            r#"lockstep_findings{check="unused-store"} 2"#,
            r#"lockstep_objects{kind="ExternalSecret",ready="false"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
