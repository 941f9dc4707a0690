//! A collector of OpenTelemetry logs that keeps what it is sent, and the protocol's own types to read it with.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;

use crate::{python, serve};

#[derive(Default)]
struct Kept {
    bodies: Vec<Value>,
    headers: Vec<HeaderMap>,
    refuse: (u16, usize),
}

/// The collector.
pub struct Collector {
    /// Base URL: logs go to `/v1/logs` below it.
    pub url: String,
    kept: Arc<Mutex<Kept>>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Errors
    /// Why there is no port.
    pub fn start() -> Result<Self, String> {
        let kept = Arc::<Mutex<Kept>>::default();
        let app = Router::new().route("/v1/logs", post(take)).with_state(kept.clone());
        Ok(Self { url: serve::apart(app)?, kept })
    }

    /// Refuses the next requests with this status.
    pub fn refuse(&self, status: u16, times: usize) {
        lock(&self.kept).refuse = (status, times);
    }

    /// What it took.
    pub fn bodies(&self) -> Vec<Value> {
        lock(&self.kept).bodies.clone()
    }

    /// The headers of what it took.
    pub fn headers(&self) -> Vec<HeaderMap> {
        lock(&self.kept).headers.clone()
    }

    /// Reads bodies with `opentelemetry-proto`, the protocol's published types; gives them as their text form.
    ///
    /// # Errors
    /// What Python says.
    pub fn parse_with_opentelemetry(bodies: &[Value]) -> Result<String, String> {
        const READ: &str = "\
import base64, json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
for body in json.load(sys.stdin):
    print(json_format.Parse(json.dumps(body), ExportLogsServiceRequest()))
";
        let python = python::programs(&|text| eprintln!("{text}"))?.join("python");
        run(&python, READ, &Value::from(bodies.to_vec()).to_string())
    }
}

fn run(python: &Path, script: &str, input: &str) -> Result<String, String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new(python);
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    child.stdin.take().expect("piped").write_all(input.as_bytes()).map_err(|e| e.to_string())?;
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn take(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let mut kept = lock(&kept);
    if kept.refuse.1 > 0 {
        kept.refuse.1 -= 1;
        return (StatusCode::from_u16(kept.refuse.0).expect("a status"), "{}");
    }
    let Ok(body) = serde_json::from_slice(&body) else { return (StatusCode::BAD_REQUEST, "{}") };
    kept.bodies.push(body);
    kept.headers.push(headers);
    (StatusCode::OK, r#"{"partialSuccess":{}}"#)
}
