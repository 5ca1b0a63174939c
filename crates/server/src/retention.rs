//! Forgetting what is old, in the background, a little at a time: on every replica, since whoever comes second finds nothing
//! left to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_domain::clock::Timestamp;
use sallyport_gateway::Services;
use sallyport_store::{KEPT_AFTER_END, Store, StoreError};

/// How long lies between two passes.
const EVERY: Duration = Duration::from_secs(300);
/// How many passes lie between two looks for orphans, which read a whole table.
const ORPHANS_EVERY: u32 = 12;
/// Rows that go in one transaction.
const BATCH: u64 = 500;
/// The shortest rest between two.
const REST: Duration = Duration::from_millis(50);
/// How many times as long as a transaction took the rest after it is: whoever writes has the database to themselves for most
/// of the time.
const REST_FACTOR: u32 = 4;
const DAY: i64 = 86_400;

/// Forgets for as long as the process lives. `days`: for how long the record is kept; 0: for ever.
pub(crate) fn keep_forgetting(services: Arc<Services>, days: u32) {
    metrics::describe_counter!("sallyport_forgotten_total", "Rows that were old and went, by what they were");
    for what in ["exchanges", "changes", "ended", "orphans"] {
        metrics::counter!("sallyport_forgotten_total", "what" => what).increment(0);
    }
    tokio::spawn(async move {
        for pass in 0_u32.. {
            let orphans = pass.is_multiple_of(ORPHANS_EVERY);
            if let Err(error) = forget(&services.store, services.now(), days, orphans).await {
                tracing::warn!(%error, "what is old could not be forgotten; it is tried again later");
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// One pass: all that is old at `now`.
async fn forget(store: &Store, now: Timestamp, days: u32, orphans: bool) -> Result<(), StoreError> {
    let ended = now.plus_seconds(-KEPT_AFTER_END);
    little_by_little("ended", || store.purge_ended(ended, BATCH)).await?;
    if days > 0 {
        let before = now.plus_seconds(-DAY * i64::from(days));
        little_by_little("exchanges", || store.purge_exchanges(before, ended, BATCH)).await?;
        little_by_little("changes", || store.purge_changes(before, BATCH)).await?;
    }
    if orphans {
        little_by_little("orphans", || store.purge_orphans(BATCH)).await?;
    }
    Ok(())
}

async fn little_by_little<F: Future<Output = Result<u64, StoreError>>>(
    what: &'static str,
    some: impl Fn() -> F,
) -> Result<(), StoreError> {
    loop {
        let began = Instant::now();
        let gone = some().await?;
        if gone == 0 {
            return Ok(());
        }
        metrics::counter!("sallyport_forgotten_total", "what" => what).increment(gone);
        tokio::time::sleep(REST.max(began.elapsed() * REST_FACTOR)).await;
    }
}
