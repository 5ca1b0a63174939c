//! The current configuration in memory, following the database.
//!
//! Requests read it without locks. It is confirmed against the database's revision five times a second, and by every batch
//! the recorder commits; a snapshot that could not be confirmed for more than a second is not given out, so that what was
//! removed or disabled on one replica works nowhere a second later.
//!
//! When there are many trusts, requests are answered before all of them are loaded. Until then, whoever wants to see all
//! configuration ([`Configuration::current`], [`Configuration::refresh`], [`Configuration::mutate`]) is refused, and whoever
//! says what is needed gets a snapshot that holds it, or is refused. What is not loaded yet is never taken for gone.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use sallyport_domain::clock::{Clock, SystemClock, Timestamp};
use sallyport_domain::snapshot::{Change, Snapshot};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::change::{Committed, Write};
use crate::error::{MutateError, StoreError};
use crate::load::{LoadOptions, Loaded, Needed, Read};
use crate::store::Store;

/// How often the revision is read.
const POLL: Duration = Duration::from_millis(200);
/// How long a snapshot may be used after the last read that confirmed it began.
const FRESH: Duration = Duration::from_secs(1);
/// How long catching up may take; loading anew is part of that.
const CATCH_UP: Duration = Duration::from_secs(120);
/// How often revocations of credentials that have ended are forgotten.
const FORGET: Duration = Duration::from_secs(300);
/// How long after its end a revocation, or the use of a one-time token, is kept, in seconds. What has ended by one replica's
/// clock may be good by another's, or by the same one once it is set right.
pub const KEPT_AFTER_END: i64 = 3_600;
/// How many read what they need at a time while not all is loaded: each a moment, and loading waits for them.
const READING: usize = 32;
/// How often a plan that was overtaken is made again.
const PLANS: u32 = 16;

/// The configuration could not be confirmed for more than a second, or is not loaded yet: answer 503, whatever was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the configuration could not be confirmed for more than a second, or is still being loaded")]
pub struct Stale;

/// The current configuration.
pub struct Configuration {
    store: Store,
    options: LoadOptions,
    current: ArcSwap<Loaded>,
    origin: Instant,
    /// When the latest read that confirmed `current` began, in microseconds since `origin`.
    confirmed: AtomicU64,
    /// Held while `current` is brought up to date.
    catching_up: Mutex<()>,
    /// Places for those who need something that is not loaded yet.
    reading: Semaphore,
    /// Held while a mutation plans and commits: those of one process do not overtake each other.
    mutating: Mutex<()>,
    wake: Arc<Notify>,
    poller: std::sync::OnceLock<AbortHandle>,
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configuration")
            .field("revision", &self.current.load().snapshot.revision())
            .finish_non_exhaustive()
    }
}

impl Configuration {
    /// [`Self::open`], and [`Self::follow`].
    ///
    /// # Errors
    /// When the configuration cannot be loaded.
    pub async fn start(store: Store) -> Result<Arc<Self>, StoreError> {
        let configuration = Self::open(store, LoadOptions::default()).await?;
        configuration.follow();
        Ok(configuration)
    }

    /// Loads everything, or, when there are many trusts, all but those and their service accounts.
    ///
    /// # Errors
    /// When the configuration cannot be loaded.
    pub async fn open(store: Store, options: LoadOptions) -> Result<Arc<Self>, StoreError> {
        let origin = Instant::now();
        let loaded = store.load(options).await?;
        let configuration = Arc::new(Self {
            store,
            options,
            current: ArcSwap::new(shown(loaded)),
            origin,
            confirmed: AtomicU64::new(0),
            catching_up: Mutex::new(()),
            reading: Semaphore::new(READING),
            mutating: Mutex::new(()),
            wake: Arc::new(Notify::new()),
            poller: std::sync::OnceLock::new(),
        });
        // Loading may have taken long: the snapshot counts from now on only if it is still the newest.
        configuration.catch_up(Read::Changes).await?;
        Ok(configuration)
    }

    /// Loads what is left to load, and follows the database until the last handle is dropped or [`Self::close`] is called.
    /// Must be called inside a tokio runtime.
    pub fn follow(self: &Arc<Self>) {
        self.poller.get_or_init(|| tokio::spawn(poll(Arc::downgrade(self), Arc::clone(&self.wake))).abort_handle());
    }

    /// The configuration to decide by: all of it.
    ///
    /// # Errors
    /// [`Stale`] when it could not be confirmed for more than a second, or is not loaded yet.
    pub fn current(&self) -> Result<Arc<Snapshot>, Stale> {
        self.current_at(Instant::now())
    }

    fn current_at(&self, now: Instant) -> Result<Arc<Snapshot>, Stale> {
        // There is nothing left to read.
        self.current_with_at(now, Read::Next)?.ok_or(Stale)
    }

    /// As [`Self::current`], for decisions that look at nothing in service accounts and trusts but what is needed; of a trust,
    /// the service account as well. While not all is loaded, what is missing is read now.
    ///
    /// # Errors
    /// [`StoreError::Loading`] when that would be too much, or when the database does not answer.
    pub async fn current_with(&self, needed: &[Needed<'_>]) -> Result<Arc<Snapshot>, StoreError> {
        match self.current_with_at(Instant::now(), Read::Needed(needed))? {
            Some(snapshot) => Ok(snapshot),
            // Boxed: it is rare, and large.
            None => Box::pin(self.refresh_with(needed)).await,
        }
    }

    /// Catches up, and reads what is needed. While not all is loaded, a few do so at a time and the others are refused: what
    /// strangers ask for must hold up neither loading nor those whose configuration is there.
    async fn catch_up_with(&self, needed: &[Needed<'_>]) -> Result<Loaded, StoreError> {
        let _place = match self.current.load().rest {
            Some(_) => Some(self.reading.try_acquire().map_err(|_| StoreError::Loading)?),
            None => None,
        };
        let loaded = self.catch_up(Read::Needed(needed)).await?;
        if loaded.must_wait(needed) { Err(StoreError::Loading) } else { Ok(loaded) }
    }

    /// `None`: not all that is to be read is there.
    fn current_with_at(&self, now: Instant, read: Read<'_>) -> Result<Option<Arc<Snapshot>>, Stale> {
        let loaded = vouched(now, || self.confirmed_at(), || self.current.load())?;
        match read {
            Read::Needed(needed) if loaded.must_wait(needed) => Err(Stale),
            read => Ok(loaded.has(read).then(|| Arc::clone(&loaded.snapshot))),
        }
    }

    /// Whether there is a configuration to decide by, of which something may not be loaded yet.
    pub fn is_confirmed(&self) -> bool {
        vouched(Instant::now(), || self.confirmed_at(), || ()).is_ok()
    }

    /// The newest configuration there is now: catches up first. Callers that ask at the same time share one read.
    ///
    /// # Errors
    /// When the database does not answer, or not all is loaded yet.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, StoreError> {
        self.catch_up(Read::Changes).await?.whole()
    }

    /// As [`Self::refresh`], for decisions as [`Self::current_with`] has them.
    ///
    /// # Errors
    /// As [`Self::current_with`].
    pub async fn refresh_with(&self, needed: &[Needed<'_>]) -> Result<Arc<Snapshot>, StoreError> {
        Ok(self.catch_up_with(needed).await?.snapshot)
    }

    /// Catches up, and reads what is to be read besides. One at a time, and everything in one state of the database: what is
    /// added is as new as the snapshot that it is added to.
    async fn catch_up(&self, read: Read<'_>) -> Result<Loaded, StoreError> {
        let asked = Instant::now();
        let _turn = self.catching_up.lock().await;
        let current = Loaded::clone(&self.current.load());
        let has_all = current.has(read);
        if has_all && self.confirmed_at() > asked {
            return Ok(current);
        }
        let began = Instant::now();
        if has_all && self.store.revision().await? == current.snapshot.revision() {
            self.confirmed_as_of(began);
            return Ok(current);
        }
        let next = match timeout(CATCH_UP, self.store.advance(&current, read, self.options)).await {
            Ok(next) => next?,
            Err(_) => return Err(StoreError::timed_out("catching up with the configuration")),
        };
        if let (Some(rest), None) = (&current.rest, &next.rest) {
            let (seconds, trusts) = (rest.began.elapsed().as_secs_f64(), next.snapshot.trust_count());
            tracing::info!(seconds, trusts, "all configuration is loaded");
        }
        self.current.store(shown(next.clone()));
        self.confirmed_as_of(began);
        Ok(next)
    }

    /// Someone read the database's revision, in a read that began at `began`. When it is ours, that confirms us;
    /// when it is not, we catch up at once.
    pub fn confirm(&self, revision: i64, began: Instant) {
        if revision == self.current.load().snapshot.revision() {
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
        plan: impl FnMut(&Snapshot) -> Result<(Vec<Write>, T), E>,
    ) -> Result<(T, Arc<Snapshot>), MutateError<E>> {
        let (value, loaded) = self.change(None, plan).await?;
        Ok((value, loaded.whole()?))
    }

    /// As [`Self::mutate`], for plans that look at nothing in service accounts and trusts but what is needed, as
    /// [`Self::current_with`] has it.
    ///
    /// # Errors
    /// As [`Self::mutate`] and [`Self::current_with`].
    pub async fn mutate_with<T, E>(
        &self,
        needed: &[Needed<'_>],
        plan: impl FnMut(&Snapshot) -> Result<(Vec<Write>, T), E>,
    ) -> Result<T, MutateError<E>> {
        Ok(self.change(Some(needed), plan).await?.0)
    }

    /// `needed`: `None` for everything.
    async fn change<T, E>(
        &self,
        needed: Option<&[Needed<'_>]>,
        mut plan: impl FnMut(&Snapshot) -> Result<(Vec<Write>, T), E>,
    ) -> Result<(T, Loaded), MutateError<E>> {
        let _turn = self.mutating.lock().await;
        for _ in 0..PLANS {
            let base = match needed {
                Some(needed) => self.catch_up_with(needed).await?,
                None => self.catch_up(Read::Changes).await?,
            };
            if needed.is_none() && base.rest.is_some() {
                return Err(MutateError::Unavailable(StoreError::Loading));
            }
            let (writes, value) = plan(&base.snapshot).map_err(MutateError::Rejected)?;
            match self.store.commit(&base.snapshot, &writes).await? {
                Committed::At(revision, changes) => {
                    return Ok((value, self.adopt(&base.snapshot, revision, changes).await));
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
        let current = self.current.load();
        if let Some(next) = current.snapshot.forget_ended(now) {
            self.current.store(shown(Loaded { snapshot: Arc::new(next), rest: current.rest.clone() }));
        }
    }

    /// Stops following the database. The snapshot is stale a second later.
    pub fn close(&self) {
        if let Some(poller) = self.poller.get() {
            poller.abort();
        }
    }

    /// Takes what follows `base`, unless the poller has been faster.
    async fn adopt(&self, base: &Snapshot, revision: i64, changes: Vec<Change>) -> Loaded {
        let _turn = self.catching_up.lock().await;
        let current = Loaded::clone(&self.current.load());
        if current.snapshot.revision() != base.revision() {
            return current;
        }
        // Of this revision more may have been loaded since.
        let next = Loaded { snapshot: Arc::new(current.snapshot.with(revision, changes)), ..current };
        self.current.store(shown(next.clone()));
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

/// What is to be had from now on, said in the metrics.
fn shown(loaded: Loaded) -> Arc<Loaded> {
    metrics::gauge!("sallyport_configuration_loaded").set(f64::from(u8::from(loaded.rest.is_none())));
    Arc::new(loaded)
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
    let mut loading = true;
    let mut forgot = Instant::now();
    loop {
        // What is left to load is loaded without a pause, while that goes well.
        if failing || !loading {
            tokio::select! {
                () = sleep(POLL) => {}
                () = wake.notified() => {}
            }
        }
        let Some(configuration) = configuration.upgrade() else { return };
        let caught_up = configuration.catch_up(Read::Next).await;
        loading = caught_up.as_ref().is_ok_and(|loaded| loaded.rest.is_some());
        match caught_up {
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
    use sallyport_domain::id::{OrganizationId, ServiceAccountId};
    use sallyport_domain::principal::ServiceAccount;
    use sallyport_domain::scope::{Organization, Scope};
    use sea_orm::EntityTrait;
    use uuid::Uuid;

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
    async fn while_loading_few_read_what_they_need_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let id = ServiceAccountId(Uuid::from_u128(1));
        let account = ServiceAccount {
            id,
            scope: Scope::Platform,
            name: "a".into(),
            description: None,
            roles: Arc::default(),
            disabled: false,
            owner: None,
            standing_key: None,
            valid_until: None,
            credentials_not_before: None,
            created_at: Timestamp::default(),
            created_by: Arc::default(),
        };
        let whole = Configuration::open(store.clone(), LoadOptions::default()).await.unwrap();
        let write = Write::PutServiceAccount(account);
        whole.mutate(|_| Ok::<_, ()>((vec![write.clone()], ()))).await.unwrap();

        let loading = Configuration::open(store, LoadOptions { at_once: 0, ..LoadOptions::default() }).await.unwrap();
        let needed = [Needed::ServiceAccount(id)];
        let others = loading.reading.acquire_many(u32::try_from(READING).unwrap()).await.unwrap();
        assert_eq!(loading.current_with(&needed).await.unwrap_err(), StoreError::Loading);
        assert!(loading.current_with(&[]).await.is_ok(), "whoever needs nothing of it waits for nobody");
        drop(others);
        assert!(loading.current_with(&needed).await.unwrap().service_account(id).is_some());
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
