//! Workers that exchange tokens until told to stop, come what may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::ledger::{Door, Gate, Ledger};
use super::report;
use crate::support::World;

/// Workers at each door.
const WORKERS: usize = 3;
/// Workers that show one token at both doors, where each is taken only once.
const ONCE: usize = 2;
/// What a worker waits between two exchanges in the test command, so that the other tests get their turn.
const PAUSE: Duration = Duration::from_millis(25);
/// What it waits when it got no answer: a server that is down is not worth a busy loop.
const PAUSE_DOWN: Duration = Duration::from_millis(20);

/// Running workers.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    workers: JoinSet<u64>,
}

impl Load {
    /// Starts the workers: some at each door and some at both, each going around the replicas.
    pub(crate) fn start(gate: &Gate, replicas: &[&World], ledger: &Arc<Ledger>) -> Self {
        let urls: Arc<[String]> = replicas.iter().map(|replica| replica.server.url.clone()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = JoinSet::new();
        let doors = Door::ALL.into_iter().flat_map(|door| (0..WORKERS).map(move |number| (gate, Some(door), number)));
        let both = gate.once.iter().flat_map(|once| (0..ONCE).map(move |number| (&**once, None, number)));
        for (gate, door, number) in doors.chain(both) {
            let (gate, ledger, stop, urls) = (gate.clone(), Arc::clone(ledger), Arc::clone(&stop), Arc::clone(&urls));
            workers.spawn(async move {
                let pause = if report::is_long_run() { Duration::ZERO } else { PAUSE };
                let url = |turn: usize| urls[turn % urls.len()].as_str();
                let mut turned_away = 0;
                for turn in number.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let statuses = match door {
                        Some(door) => [gate.attempt(url(turn), door, &ledger).await.0, None],
                        None => gate.attempt_at_both([url(turn), url(turn + 1)], &ledger).await,
                    };
                    let granted = statuses.contains(&Some(200));
                    turned_away += u64::from(!granted);
                    tokio::time::sleep(if granted { pause } else { PAUSE_DOWN }).await;
                }
                turned_away
            });
        }
        Self { stop, workers }
    }

    /// Lets each worker finish what it is at; how many exchanges were not granted. A worker's own failure fails the test.
    pub(crate) async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut turned_away = 0;
        while let Some(worker) = self.workers.join_next().await {
            turned_away += worker.expect("a worker failed");
        }
        turned_away
    }
}
