//! What a scenario shows: a table, JSON, and a plot.

use std::collections::BTreeMap;

use anstyle::Style;
use serde_json::{Map, Value, json};

use super::measure::{Phase, round};
use crate::table;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Says what happens now.
pub fn note(text: &str) {
    anstream::eprintln!("{DIM}{text}{DIM:#}");
}

/// What a scenario found.
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// What it did, in a line.
    pub title: String,
    /// How many objects it was about.
    pub objects: u64,
    /// The operator.
    pub ours: Phase,
    /// The bare client.
    pub bare: Option<Phase>,
    /// Whether objects a second say something: not where an interval decides when their turn comes.
    pub rated: bool,
    /// What else was measured: key, what it is, value.
    pub more: Vec<(&'static str, &'static str, f64)>,
    /// Vault's reads in each second, for the plot.
    pub reads_by_second: Vec<u64>,
}

/// The keys of the core's bench; what a scenario does not measure is null.
const CORE: [&str; 17] = [
    "objects",
    "all_secrets_s",
    "all_ready_s",
    "rate_per_s",
    "bare_rate_per_s",
    "ratio",
    "cpu_ms_per_object",
    "bare_cpu_ms_per_object",
    "rss_peak_mb",
    "api_writes_per_object",
    "api_reads_per_object",
    "events_per_object",
    "provider_reads",
    "distinct_remote_secrets",
    "unchanged_refresh_writes",
    "restart_provider_reads",
    "restart_writes",
];

impl Report {
    fn per(&self, cpu: std::time::Duration) -> f64 {
        cpu.as_secs_f64() * 1000.0 / self.objects as f64
    }

    fn rate(&self, phase: &Phase) -> f64 {
        self.objects as f64 / phase.seconds
    }

    /// Every figure.
    pub fn figures(&self) -> Value {
        let each = |n: u64| round(n as f64 / self.objects as f64);
        let mut all = Map::new();
        for key in CORE {
            all.insert(key.into(), Value::Null);
        }
        let mut set = |key: &str, value: Value| drop(all.insert(key.into(), value));
        set("scenario", json!(self.scenario));
        set("objects", json!(self.objects));
        let ours = &self.ours;
        set("seconds", round(ours.seconds));
        if !ours.cpu.is_zero() {
            set("cpu_ms_per_object", round(self.per(ours.cpu)));
            set("api_server_cpu_ms_per_object", round(self.per(ours.api_cpu)));
        }
        set("rss_peak_mb", round(ours.rss_peak_mb));
        set("api_writes_per_object", each(ours.writes()));
        set("api_reads_per_object", each(ours.count(|verb, _| verb == "get")));
        set("events_per_object", each(ours.count(|_, resource| resource == "events")));
        set("provider_reads", json!(ours.reads));
        set("api_requests", json!(ours.requests));
        if self.rated {
            set("rate_per_s", round(self.rate(ours)));
        }
        if !ours.latencies.is_empty() {
            set("change_to_secret_p50_s", ours.percentile(0.5).map_or(Value::Null, round));
            set("change_to_secret_p99_s", ours.percentile(0.99).map_or(Value::Null, round));
        }
        if let Some(bare) = &self.bare {
            if self.rated {
                set("bare_rate_per_s", round(self.rate(bare)));
                set("ratio", round(self.rate(ours) / self.rate(bare)));
            }
            set("bare_cpu_ms_per_object", round(self.per(bare.cpu)));
            set("bare_api_server_cpu_ms_per_object", round(self.per(bare.api_cpu)));
            set("bare_rss_peak_mb", round(bare.rss_peak_mb));
            set("bare_change_to_secret_p50_s", bare.percentile(0.5).map_or(Value::Null, round));
            set("bare_change_to_secret_p99_s", bare.percentile(0.99).map_or(Value::Null, round));
            set("bare_api_requests", json!(bare.requests));
        }
        for (key, _, value) in &self.more {
            set(key, round(*value));
        }
        Value::Object(all)
    }

    /// Prints the tables.
    pub fn print(&self) {
        let show = |x: f64| if x.fract() == 0.0 && x.abs() < 1e9 { format!("{x}") } else { format!("{x:.3}") };
        let row = |what: &str, ours: Option<f64>, bare: Option<f64>| {
            let ratio = ours.zip(bare).filter(|(_, b)| *b != 0.0).map(|(a, b)| format!("{:.2}", a / b));
            vec![
                what.to_owned(),
                ours.map(show).unwrap_or_default(),
                bare.map(show).unwrap_or_default(),
                ratio.unwrap_or_default(),
            ]
        };
        let (ours, bare) = (&self.ours, self.bare.as_ref());
        let each = |n: u64| n as f64 / self.objects as f64;
        // None was used, or what was used can't be told from what else went on.
        let cpu = |of: std::time::Duration| (!of.is_zero()).then(|| self.per(of));
        let rate = |of: &Phase| self.rated.then(|| self.rate(of));
        let mut rows = vec![
            row("objects per second", rate(ours), bare.and_then(rate)),
            row("CPU per object, ms", cpu(ours.cpu), bare.and_then(|b| cpu(b.cpu))),
            row("API server's CPU per object, ms", cpu(ours.api_cpu), bare.and_then(|b| cpu(b.api_cpu))),
            row("peak memory, MB", Some(ours.rss_peak_mb), bare.map(|b| b.rss_peak_mb)),
            row("change to Secret, p50, s", ours.percentile(0.5), bare.and_then(|b| b.percentile(0.5))),
            row("change to Secret, p99, s", ours.percentile(0.99), bare.and_then(|b| b.percentile(0.99))),
            row("API writes per object", Some(each(ours.writes())), bare.map(|b| each(b.writes()))),
            row("API reads per object", Some(each(ours.count(|v, _| v == "get"))), None),
            row("events per object", Some(each(ours.count(|_, r| r == "events"))), None),
            row("provider reads", Some(ours.reads as f64), None),
        ];
        rows.extend(self.more.iter().map(|(_, what, value)| row(what, Some(*value), None)));
        rows.retain(|row| row[1..].iter().any(|cell| !cell.is_empty()));
        anstream::println!("\n{BOLD}{}: {}{BOLD:#}\n", self.scenario, self.title);
        anstream::println!("{}", table::render(&["", "Lockstep", "bare client", "ratio"], &rows));
        let empty = BTreeMap::new();
        let theirs = bare.map_or(&empty, |b| &b.requests);
        let names: std::collections::BTreeSet<&String> = ours.requests.keys().chain(theirs.keys()).collect();
        if !names.is_empty() {
            let cell = |of: &BTreeMap<String, u64>, name: &String| of.get(name).map(u64::to_string).unwrap_or_default();
            let rows: Vec<Vec<String>> =
                names.into_iter().map(|n| vec![n.clone(), cell(&ours.requests, n), cell(theirs, n)]).collect();
            anstream::println!("\n{}", table::render(&["API requests", "Lockstep", "bare client"], &rows));
        }
    }
}
