//! Where records are written: each place has a queue and one task, and slows down nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::otlp::{Endpoint, Exporter};
use super::{AuditError, Place};
use crate::metrics::Metrics;

/// Records that may wait, of half a kilobyte each: some seconds of a cluster's first sync.
const WAITING: usize = 4096;
/// Records that are written in one go.
const BATCH: usize = 256;
/// How often it is looked whether a file was moved away.
const LOOK_EVERY: Duration = Duration::from_secs(1);

enum Message {
    Record(Arc<str>),
    Flush(oneshot::Sender<()>),
}

/// One place.
pub(super) struct Sink {
    sender: mpsc::Sender<Message>,
    metrics: Arc<Metrics>,
}

impl Sink {
    pub(super) fn start(place: &Place, endpoint: Option<&Endpoint>, metrics: &Arc<Metrics>) -> Result<Self, AuditError> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut writer = match place {
            Place::Stdout => Writer::Stdout,
            Place::File(path) => {
                // Opened once before anything else happens: a folder that is missing is told at the start.
                let failed = |error| AuditError::File(path.display().to_string(), error);
                let file = std::fs::File::options().append(true).create(true).open(path).map_err(failed)?;
                Writer::File(Appended { path: path.clone(), file: Some(File::from_std(file)), looked: Instant::now() })
            }
            Place::Otlp => {
                let missing =
                    || AuditError::Otlp("no address; set --audit-otlp-endpoint or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT".into());
                Writer::Otlp(Exporter::new(endpoint.ok_or_else(missing)?).map_err(AuditError::Otlp)?)
            }
        };
        let counting = metrics.clone();
        tokio::spawn(async move { write_all(receiver, &mut writer, &counting).await });
        Ok(Self { sender, metrics: metrics.clone() })
    }

    pub(super) fn leave(&self, line: Arc<str>) {
        if self.sender.try_send(Message::Record(line)).is_err() {
            self.metrics.audited("lost", 1);
        }
    }

    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

enum Writer {
    Stdout,
    File(Appended),
    Otlp(Exporter),
}

async fn write_all(mut receiver: mpsc::Receiver<Message>, writer: &mut Writer, metrics: &Metrics) {
    let mut messages = Vec::with_capacity(BATCH);
    let mut was_lost = false;
    while receiver.recv_many(&mut messages, BATCH).await > 0 {
        let (mut lines, mut waiting) = (Vec::new(), Vec::new());
        for message in messages.drain(..) {
            match message {
                Message::Record(line) => lines.push(line),
                Message::Flush(done) => waiting.push(done),
            }
        }
        let written = if lines.is_empty() { Ok(0) } else { writer.write(&lines).await };
        let lost = match &written {
            Ok(refused) => *refused,
            Err(_) => lines.len(),
        };
        metrics.audited("written", lines.len().saturating_sub(lost));
        metrics.audited("lost", lost);
        if let Err(why) = &written {
            // Once for each time that it begins to fail: the metric counts.
            if !was_lost {
                tracing::error!(%why, count = lost, "audit records are lost");
            }
        }
        was_lost = written.is_err();
        for done in waiting {
            let _ = done.send(());
        }
    }
}

impl Writer {
    /// Answers how many of them were not taken.
    async fn write(&mut self, lines: &[Arc<str>]) -> Result<usize, String> {
        match self {
            Self::Stdout => {
                let text = joined(lines);
                // A pipe that nobody empties holds up a thread for it, and nobody else.
                let written = tokio::task::spawn_blocking(move || {
                    use std::io::Write;
                    let mut stdout = std::io::stdout().lock();
                    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
                });
                written.await.map_err(|error| error.to_string())?.map_err(|error| format!("stdout: {error}"))?;
                Ok(0)
            }
            Self::File(appended) => {
                let text = joined(lines);
                appended.write(text.as_bytes()).await.map_err(|error| format!("{}: {error}", appended.path.display()))?;
                Ok(0)
            }
            Self::Otlp(exporter) => exporter.export(lines).await,
        }
    }
}

fn joined(lines: &[Arc<str>]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

struct Appended {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
}

impl Appended {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.file.is_some() && self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            if !self.is_in_place().await {
                self.file = None;
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path).await?),
        };
        let written = async { file.write_all(bytes).await.and(file.flush().await) }.await;
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Whether the file of that name is the one that is written.
    async fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Some(file) = &self.file else { return false };
        let (Ok(ours), Ok(there)) = (file.metadata().await, tokio::fs::metadata(&self.path).await) else { return false };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }
}

async fn open(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).open(path).await
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Audit, Settings};
    use super::*;

    fn settings(place: Place) -> Settings {
        Settings { places: vec![place], ..Settings::default() }
    }

    #[tokio::test]
    async fn a_file_that_is_moved_away_is_opened_anew_and_nothing_is_lost() {
        let folder = std::env::temp_dir().join(format!("lockstep-audit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("audit.jsonl");
        let metrics = Arc::<Metrics>::default();
        let audit = Audit::start(&settings(Place::File(path.clone())), &metrics).unwrap();
        audit.record(Action::Get, "ok", serde_json::json!({"n": 1}));
        audit.flush(Duration::from_secs(5)).await;
        std::fs::rename(&path, folder.join("audit.jsonl.1")).unwrap();
        tokio::time::sleep(LOOK_EVERY + Duration::from_millis(50)).await;
        audit.record(Action::Get, "ok", serde_json::json!({"n": 2}));
        audit.flush(Duration::from_secs(5)).await;
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let (old, new) = (read("audit.jsonl.1"), read("audit.jsonl"));
        assert!(old.contains("operator.start") && old.contains(r#""n":1"#) && !old.contains(r#""n":2"#), "{old}");
        assert!(new.contains(r#""n":2"#) && new.lines().count() == 1, "{new}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted() {
        let (sender, receiver) = mpsc::channel(1);
        let metrics = Arc::<Metrics>::default();
        let sink = Sink { sender, metrics: metrics.clone() };
        for _ in 0..3 {
            sink.leave("{}".into());
        }
        drop(receiver);
        assert_eq!(metrics.audit_count("lost"), 2);
    }

    #[test]
    fn a_file_that_can_not_be_made_is_told_at_the_start() {
        let place = Place::File("/nowhere/at/all/audit.jsonl".into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let started = runtime.block_on(async { Audit::start(&settings(place), &Arc::default()) });
        assert!(matches!(started, Err(AuditError::File(path, _)) if path.contains("/nowhere")));
    }
}
