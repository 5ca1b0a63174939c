//! The event log: every event that this server put on record, as a line of OCSF JSON, in a file or on standard output.
//!
//! It is a mirror and no more. An event is written after it is durable, by a thread of its own that nobody waits for: a slow
//! disk or a pipe that nobody reads delays no exchange, and loses none; it loses lines. What could not be written is counted
//! in `sallyport_events_unwritten_total`, and can be read from the database by `sallyport export` and `exportEvents`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sallyport_domain::matching::Installation;
use sallyport_store::{Event, Store};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::export::whole_lines;

/// Events that may wait for being written; further ones are left out.
const ROOM: usize = 16_384;
/// Most events of one write.
const BATCH: usize = 512;
/// How long a server that stops waits for what is left to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where events are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Standard output.
    Stdout,
    /// The end of this file. It is opened anew for each write, so that it can be moved away at any time.
    File(PathBuf),
}

impl Target {
    fn write(&self, lines: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File(path) => OpenOptions::new().create(true).append(true).mode(0o600).open(path)?.write_all(lines),
        }
    }

    /// Whether it can be written; and what an earlier process left half-written is a line of its own from here on.
    fn open(&self) -> std::io::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(path) => {
                let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
                whole_lines(&mut file)
            }
        }
    }
}

/// The thread that writes.
pub(crate) struct EventLog {
    closing: Arc<Notify>,
    done: oneshot::Receiver<()>,
}

impl EventLog {
    /// Begins to write what `store` makes durable from here on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be written: better no start than a log that is missed later.
    pub(crate) fn start(store: &Store, target: Target, installation: Installation) -> Result<Self> {
        metrics::describe_counter!("sallyport_events_written_total", "Events written to the event log");
        metrics::describe_counter!(
            "sallyport_events_unwritten_total",
            "Events the event log could not take, by reason"
        );
        metrics::counter!("sallyport_events_written_total").increment(0);
        for reason in ["queue_full", "write_failed"] {
            metrics::counter!("sallyport_events_unwritten_total", "reason" => reason).increment(0);
        }
        target.open().with_context(|| format!("event_log: cannot write {target:?}"))?;
        let events = store.stream_events(ROOM).context("event_log: the events are written already")?;
        let closing = Arc::new(Notify::new());
        let (ended, done) = oneshot::channel();
        let writer = Writer { target, installation, failing: false };
        let (runtime, until) = (tokio::runtime::Handle::current(), Arc::clone(&closing));
        // Not one of the runtime's own: those are waited for when the program ends, and a pipe may be stuck for ever.
        std::thread::Builder::new()
            .name("event-log".into())
            .spawn(move || {
                runtime.block_on(writer.run(events, until));
                let _ = ended.send(());
            })
            .context("event_log: no thread")?;
        Ok(Self { closing, done })
    }

    /// Writes what is left, unless that takes too long.
    pub(crate) async fn stop(self) {
        self.closing.notify_one();
        if tokio::time::timeout(PATIENCE, self.done).await.is_err() {
            tracing::warn!("the event log could not be written to its end");
        }
    }
}

struct Writer {
    target: Target,
    installation: Installation,
    /// Whether the last write failed, perhaps in the middle of a line.
    failing: bool,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, closing: Arc<Notify>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let taken = tokio::select! {
                biased;
                () = closing.notified() => {
                    events.close();
                    continue;
                }
                taken = events.recv_many(&mut batch, BATCH) => taken,
            };
            if taken == 0 {
                return;
            }
            self.write(&batch);
            batch.clear();
        }
    }

    fn write(&mut self, batch: &[Event]) {
        let mut lines = String::new();
        if self.failing {
            // Whatever was left of a line is not to spoil the next.
            lines.push('\n');
        }
        for event in batch {
            lines.push_str(&event.to_ocsf(&self.installation).to_string());
            lines.push('\n');
        }
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        match self.target.write(lines.as_bytes()) {
            Ok(()) => {
                metrics::counter!("sallyport_events_written_total").increment(count);
                if self.failing {
                    tracing::info!("the event log is written again");
                }
                self.failing = false;
            }
            Err(error) => {
                metrics::counter!("sallyport_events_unwritten_total", "reason" => "write_failed").increment(count);
                if !self.failing {
                    tracing::error!(%error, target = ?self.target, "the event log cannot be written; events are on record all the same");
                }
                self.failing = true;
            }
        }
    }
}
