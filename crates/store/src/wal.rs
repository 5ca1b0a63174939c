//! SQLite's write-ahead log, and how it comes into the main file.
//!
//! Left to itself, the writer copies it in the middle of a commit. Here it is copied beside the writer, a little at a time: whoever
//! is being recorded meanwhile shares the processor and the disk with it, and where these are busy, what piles up behind a
//! long copying takes several times as long to be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::store::WeakStore;

/// After how many writes the log is copied. Each of them waits for the disk once, and each copying twice: a fifth more.
const MANY: u32 = 10;
/// How long after one copying the next one begins, at the earliest.
const SHORTEST: Duration = Duration::from_millis(10);
/// The same where there are fewer writes than that: under load, when each is large.
const LONGEST: Duration = Duration::from_millis(50);
/// How often the writer's connection copies what is left, so that nothing is and the log can begin anew, unless somebody still reads
/// from it. Whoever writes waits for that.
const WHOLE: Duration = Duration::from_secs(1);

/// What is written since the log was last copied.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// How many began. One that is under way while the log is copied may stay in it until there is another: it is as durable there.
    writes: AtomicU32,
    many: Notify,
}

impl Log {
    /// Something is about to be written.
    pub(crate) fn write(&self) {
        if self.writes.fetch_add(1, Ordering::Relaxed) == MANY - 1 {
            self.many.notify_one();
        }
    }

    /// Waits until it is time to copy.
    async fn due(&self) {
        let latest = Instant::now() + LONGEST;
        sleep(SHORTEST).await;
        let _ = timeout_at(latest, self.many.notified()).await;
    }

    /// Whether there is something to copy; from now on, there is not.
    fn take(&self) -> bool {
        self.writes.swap(0, Ordering::Relaxed) > 0
    }
}

/// Copies the log time and again, until the store is gone.
pub(crate) async fn keep_copying(log: Arc<Log>, store: WeakStore) {
    let mut whole = Instant::now();
    loop {
        // The store may go meanwhile.
        log.due().await;
        let Some(store) = store.upgrade() else { return };
        if !log.take() {
            continue;
        }
        let both = [store.reader(), store.writer()];
        let is_whole = whole.elapsed() >= WHOLE;
        if is_whole {
            whole = Instant::now();
        }
        // Beside the writer first: there is little left then that the writer waits for.
        for connection in if is_whole { &both[..] } else { &both[..1] } {
            if let Err(error) = connection.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await {
                tracing::debug!(%error, "SQLite's log was not copied; its writer will do it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sallyport_domain::clock::Timestamp;
    use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
    use sea_orm::{EntityTrait as _, IntoActiveModel as _};
    use tokio::time::timeout;

    use super::*;
    use crate::entity::revoked_credential;
    use crate::listing::testing::scratch;

    #[tokio::test(start_paused = true)]
    async fn many_writes_are_copied_sooner() {
        let log = Log::default();
        let due = async || {
            let began = Instant::now();
            log.due().await;
            began.elapsed()
        };
        assert_eq!((due().await, log.take()), (LONGEST, false));
        for _ in 1..MANY {
            log.write();
        }
        assert_eq!((due().await, log.take()), (LONGEST, true));
        for _ in 0..MANY {
            log.write();
        }
        assert_eq!((due().await, log.take()), (SHORTEST, true));
        let meanwhile = async {
            sleep(2 * SHORTEST).await;
            (0..MANY).for_each(|_| log.write());
        };
        assert_eq!(tokio::join!(due(), meanwhile).0, 2 * SHORTEST);
    }

    #[tokio::test]
    async fn what_is_written_comes_into_the_main_file() {
        let (store, folder) = scratch().await;
        let id = uuid_v7(Timestamp::from_micros(7), &SystemEntropy);
        let main = folder.path().join("store.db");
        // With the file SQLite's locks on it are closed, as POSIX has it. Nobody else opens this one.
        let is_there = || std::fs::read(&main).unwrap().windows(16).any(|bytes| bytes == id.as_bytes());
        assert!(!is_there());
        let row = revoked_credential::Model { id, until: 0 }.into_active_model();
        revoked_credential::Entity::insert(row).exec_without_returning(store.write()).await.unwrap();
        // Nothing else copies it while the store is open.
        let copied = async {
            while !is_there() {
                // A copying between what was said of the first write and its end did not find it.
                let _ = store.write();
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), copied).await.unwrap();
    }
}
