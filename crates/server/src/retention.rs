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

/// One pass: all that is old at `now`, unless the database's clock disagrees.
async fn forget(store: &Store, now: Timestamp, days: u32, orphans: bool) -> Result<(), StoreError> {
    let now = store.time_to_forget_by(now).await?;
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

#[cfg(test)]
mod tests {
    use sallyport_domain::clock::{Clock, ManualClock, SystemClock};
    use sallyport_domain::entropy::SystemEntropy;
    use sallyport_domain::mrn::MrnDomain;
    use sallyport_domain::scope::Scope;
    use sallyport_store::{PageRequest, StoreOptions};
    use sallyport_testkit::Postgres;

    use super::*;
    use crate::serve::bootstrap;

    #[tokio::test]
    async fn a_replica_whose_clock_is_far_ahead_forgets_nothing_early() {
        let server = Postgres::shared().unwrap();
        let url = server.url(&server.create_random_database("retention").unwrap());
        let store = Store::connect(&StoreOptions { url, max_connections: 4 }).await.unwrap();
        store.migrate().await.unwrap();
        // An entry of two days ago.
        let (now, mrns) = (SystemClock.now(), MrnDomain::new("example.test").unwrap());
        let then = ManualClock::new(now.plus_seconds(-2 * DAY));
        bootstrap(&store, None, &mrns, &then, &SystemEntropy).await.unwrap();
        let kept = async || store.list_audit(&Scope::Platform, &PageRequest::default()).await.unwrap().items.len();
        forget(&store, now.plus_seconds(1_000 * DAY), 3, false).await.unwrap();
        assert_eq!(kept().await, 1, "by the database's clock it is not old");
        // Nor does a clock that is behind forget more than it knows to be old.
        forget(&store, now.plus_seconds(-DAY), 1, false).await.unwrap();
        assert_eq!(kept().await, 1, "by its own clock it is not old");
        forget(&store, now, 1, false).await.unwrap();
        assert_eq!(kept().await, 0);
    }
}
