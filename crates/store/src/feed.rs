//! The current configuration in memory, following the database.
//!
//! Requests read it without locks. It is confirmed against the database's revision five times a second, and by every batch
//! the recorder commits; a snapshot that could not be confirmed for more than a second is not given out, so that what was
//! removed or disabled on one replica works nowhere a second later.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use sallyport_domain::clock::{Clock, SystemClock, Timestamp};
use sallyport_domain::snapshot::Snapshot;
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::change::{Committed, Write};
use crate::error::{MutateError, StoreError};
use crate::store::Store;

/// How often the revision is read.
const POLL: Duration = Duration::from_millis(200);
/// How long a snapshot may be used after the last read that confirmed it began.
const FRESH: Duration = Duration::from_secs(1);
/// How long catching up may take; loading everything is part of that.
const CATCH_UP: Duration = Duration::from_secs(120);
/// How often revocations of credentials that have ended are forgotten.
const FORGET: Duration = Duration::from_secs(300);
/// How long after its end a revocation, or the use of a one-time token, is kept, in seconds. What has ended by one replica's
/// clock may be good by another's, or by the same one once it is set right.
pub const KEPT_AFTER_END: i64 = 3_600;
/// How often a plan that was overtaken is made again.
const PLANS: u32 = 16;

/// The configuration could not be confirmed for more than a second: answer 503, whatever was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the configuration could not be confirmed for more than a second")]
pub struct Stale;

/// The current configuration.
pub struct Configuration {
    store: Store,
    current: ArcSwap<Snapshot>,
    origin: Instant,
    /// When the latest read that confirmed `current` began, in microseconds since `origin`.
    confirmed: AtomicU64,
    /// Held while `current` is brought up to date.
    catching_up: Mutex<()>,
    /// Held while a mutation plans and commits: those of one process do not overtake each other.
    mutating: Mutex<()>,
    wake: Arc<Notify>,
    poller: std::sync::OnceLock<AbortHandle>,
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configuration").field("revision", &self.current.load().revision()).finish_non_exhaustive()
    }
}

impl Configuration {
    /// Loads everything, and follows the database until the last handle is dropped or [`Self::close`] is called.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot be loaded.
    pub async fn start(store: Store) -> Result<Arc<Self>, StoreError> {
        let origin = Instant::now();
        let snapshot = store.load_snapshot().await?;
        let wake = Arc::new(Notify::new());
        let configuration = Arc::new(Self {
            store,
            current: ArcSwap::from_pointee(snapshot),
            origin,
            confirmed: AtomicU64::new(0),
            catching_up: Mutex::new(()),
            mutating: Mutex::new(()),
            wake: Arc::clone(&wake),
            poller: std::sync::OnceLock::new(),
        });
        // Loading may have taken long: the snapshot counts from now on only if it is still the newest.
        configuration.refresh().await?;
        let poller = tokio::spawn(poll(Arc::downgrade(&configuration), wake));
        let _ = configuration.poller.set(poller.abort_handle());
        Ok(configuration)
    }

    /// The configuration to decide by.
    ///
    /// # Errors
    /// [`Stale`] when it could not be confirmed for more than a second.
    pub fn current(&self) -> Result<Arc<Snapshot>, Stale> {
        self.current_at(Instant::now())
    }

    fn current_at(&self, now: Instant) -> Result<Arc<Snapshot>, Stale> {
        vouched(now, || self.confirmed_at(), || self.current.load_full())
    }

    /// The newest configuration there is now: catches up first. Callers that ask at the same time share one read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, StoreError> {
        let asked = Instant::now();
        let _turn = self.catching_up.lock().await;
        let current = self.current.load_full();
        if self.confirmed_at() > asked {
            return Ok(current);
        }
        let began = Instant::now();
        let revision = self.store.revision().await?;
        if revision == current.revision() {
            self.confirmed_as_of(began);
            return Ok(current);
        }
        let next = match timeout(CATCH_UP, self.store.advance(&current)).await {
            Ok(next) => Arc::new(next?),
            Err(_) => return Err(StoreError::timed_out("catching up with the configuration")),
        };
        self.current.store(Arc::clone(&next));
        self.confirmed_as_of(began);
        Ok(next)
    }

    /// Someone read the database's revision, in a read that began at `began`. When it is ours, that confirms us;
    /// when it is not, we catch up at once.
    pub fn confirm(&self, revision: i64, began: Instant) {
        if revision == self.current.load().revision() {
            self.confirmed_as_of(began);
        } else {
            self.wake.notify_one();
        }
    }

    /// Changes the configuration. `plan` sees the newest snapshot and says what to write, or refuses. Either all of it is
    /// written, with its audit entries, or nothing; and only if nothing else changed meanwhile, otherwise `plan` is asked
    /// again on what is newest then. When this returns, [`Self::current`] on this replica has the change.
    ///
    /// # Errors
    /// What `plan` says, a rule of the schema, or a failure of the store. After one of the last kind the change may or may
    /// not have happened, as with any database whose answer to a commit is lost.
    pub async fn mutate<T, E>(
        &self,
        mut plan: impl FnMut(&Snapshot) -> Result<(Vec<Write>, T), E>,
    ) -> Result<(T, Arc<Snapshot>), MutateError<E>> {
        let _turn = self.mutating.lock().await;
        for _ in 0..PLANS {
            let base = self.refresh().await?;
            let (writes, value) = plan(&base).map_err(MutateError::Rejected)?;
            match self.store.commit(&base, &writes).await? {
                Committed::At(revision, changes) => {
                    let snapshot = self.adopt(&base, || base.with(revision, changes)).await;
                    return Ok((value, snapshot));
                }
                Committed::Unchanged => return Ok((value, base)),
                Committed::Overtaken => {}
            }
        }
        Err(MutateError::Unavailable(StoreError::Contended))
    }

    /// Forgets revocations of credentials that have ended by themselves before `now`; the poller does so by itself.
    pub async fn forget_ended(&self, now: Timestamp) {
        let _turn = self.catching_up.lock().await;
        if let Some(next) = self.current.load().forget_ended(now) {
            self.current.store(Arc::new(next));
        }
    }

    /// Stops following the database. The snapshot is stale a second later.
    pub fn close(&self) {
        if let Some(poller) = self.poller.get() {
            poller.abort();
        }
    }

    /// Takes what follows `base`, unless the poller has been faster.
    async fn adopt(&self, base: &Snapshot, next: impl FnOnce() -> Snapshot) -> Arc<Snapshot> {
        let _turn = self.catching_up.lock().await;
        let current = self.current.load_full();
        if current.revision() != base.revision() {
            return current;
        }
        let next = Arc::new(next());
        self.current.store(Arc::clone(&next));
        next
    }

    fn confirmed_at(&self) -> Instant {
        self.origin + Duration::from_micros(self.confirmed.load(Ordering::Acquire))
    }

    fn confirmed_as_of(&self, began: Instant) {
        let micros = began.saturating_duration_since(self.origin).as_micros();
        self.confirmed.fetch_max(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::AcqRel);
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        self.close();
    }
}

/// The snapshot, if it was confirmed lately. `confirmed` is read first: whatever is loaded afterwards is at least as new as
/// what that vouches for. The other way round, a refresh in between would vouch for an older snapshot.
fn vouched<T>(now: Instant, confirmed: impl FnOnce() -> Instant, load: impl FnOnce() -> T) -> Result<T, Stale> {
    let confirmed = confirmed();
    let snapshot = load();
    if now.saturating_duration_since(confirmed) > FRESH { Err(Stale) } else { Ok(snapshot) }
}

async fn poll(configuration: Weak<Configuration>, wake: Arc<Notify>) {
    let mut failing = false;
    let mut forgot = Instant::now();
    loop {
        tokio::select! {
            () = sleep(POLL) => {}
            () = wake.notified() => {}
        }
        let Some(configuration) = configuration.upgrade() else { return };
        match configuration.refresh().await {
            Ok(_) if failing => {
                failing = false;
                tracing::info!("the configuration is confirmed again");
            }
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the configuration cannot be confirmed");
            }
            Ok(_) | Err(_) => {}
        }
        if forgot.elapsed() > FORGET {
            forgot = Instant::now();
            // Without the database's clock nothing is forgotten: the next turn will do.
            if let Ok(now) = configuration.store.time_to_forget_by(SystemClock.now()).await {
                configuration.forget_ended(now.plus_seconds(-KEPT_AFTER_END)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sallyport_domain::clock::Timestamp;
    use sallyport_domain::id::OrganizationId;
    use sallyport_domain::scope::Organization;
    use sea_orm::EntityTrait;

    use super::*;
    use crate::entity::configuration_change;
    use crate::store::StoreOptions;

    async fn store(folder: &tempfile::TempDir) -> Store {
        let url = format!("sqlite://{}", folder.path().join("store.db").display());
        let store = Store::connect(&StoreOptions { url, max_connections: 4 }).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    fn an_organization(id: &str) -> Organization {
        Organization {
            id: OrganizationId::parse(id).unwrap(),
            name: id.into(),
            disabled: false,
            created_at: Timestamp::default(),
            created_by: String::new(),
        }
    }

    async fn put(configuration: &Configuration, id: &str) {
        let write = Write::PutOrganization(an_organization(id));
        configuration.mutate(|_| Ok::<_, ()>((vec![write.clone()], ()))).await.unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_not_confirmed_for_a_second_is_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let configuration = Configuration::start(store(&folder).await).await.unwrap();
        configuration.close();
        let confirmed = configuration.confirmed_at();
        assert!(configuration.current_at(confirmed + FRESH).is_ok());
        let late = confirmed + FRESH + Duration::from_micros(1);
        assert_eq!(configuration.current_at(late).unwrap_err(), Stale);
        // What the recorder reads confirms it as well, if it is our revision, and as of when that read began.
        configuration.confirm(7, late);
        assert!(configuration.current_at(late).is_err());
        configuration.confirm(0, late);
        assert!(configuration.current_at(late + FRESH).is_ok());
        assert!(configuration.current_at(late + FRESH + Duration::from_micros(1)).is_err());
    }

    #[test]
    fn a_refresh_in_between_cannot_vouch_for_an_older_snapshot() {
        let began = Instant::now();
        let now = began + FRESH * 2;
        // The last confirmation is too old; a refresh confirms again between our two reads, whichever comes first.
        let confirmed = std::cell::Cell::new(began);
        let confirmed_at = || confirmed.replace(now);
        let load = || if confirmed.replace(now) == began { "older" } else { "newer" };
        assert_ne!(vouched(now, confirmed_at, load), Ok("older"));
    }

    #[tokio::test]
    async fn a_gap_in_the_feed_loads_everything() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let behind = Configuration::start(store.clone()).await.unwrap();
        behind.close();
        let ahead = Configuration::start(store.clone()).await.unwrap();
        put(&ahead, "first").await;
        put(&ahead, "second").await;
        let first = configuration_change::Entity::delete_by_id((1, "organization".to_owned(), "first".to_owned()));
        assert_eq!(first.exec(store.writer()).await.unwrap().rows_affected, 1);
        let snapshot = behind.refresh().await.unwrap();
        assert_eq!(snapshot.revision(), 2);
        assert!(snapshot.organization(&an_organization("first").id).is_some());
    }

    #[tokio::test]
    async fn following_ends_with_the_last_handle() {
        let folder = tempfile::tempdir().unwrap();
        let configuration = Configuration::start(store(&folder).await).await.unwrap();
        let poller = configuration.poller.get().unwrap().clone();
        drop(configuration);
        while !poller.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
