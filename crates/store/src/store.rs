//! Connections, transactions and retries. Everything else in this crate goes through here.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use sallyport_domain::clock::{Clock as _, SystemClock, Timestamp};
use sallyport_domain::entropy::{Entropy, SystemEntropy, uuid_v7};
use sallyport_domain::event::Event;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection as _};
use sea_orm::{
    AccessMode, ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    IntoActiveModel, IsolationLevel, QuerySelect, RuntimeErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use crate::backup::sqlite_file;
use crate::entity::{configuration_revision, revoked_credential};
use crate::error::StoreError;
use crate::recorder::COMMIT;
use crate::usage::Usages;
use crate::wal::{self, Log};

/// How long to wait for a PostgreSQL connection: a dead database is answered for at once, not after a queue of waits.
const ACQUIRE_POSTGRES: Duration = Duration::from_secs(1);
/// How long a server that starts waits for PostgreSQL to take its first connections: both may be starting on one busy machine.
const START_POSTGRES: Duration = Duration::from_secs(10);
/// How long to wait for one of SQLite's connections: there is but one writer, and it may be busy honestly.
const ACQUIRE_SQLITE: Duration = Duration::from_secs(10);
/// How long SQLite waits for a lock that another process holds.
const BUSY_SQLITE: Duration = Duration::from_secs(5);
/// How long after one try to open a new file that others are opening comes the next.
const LOCKED_SQLITE: Duration = Duration::from_millis(10);
/// How long an idle connection is used again without a test. No longer than a replica takes to notice an outage, so that what
/// sat idle through one is replaced rather than handed to the first caller after it.
const IDLE_UNTESTED: Duration = Duration::from_secs(1);
/// How long a short question to the database may take, such as what the revision is.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);
/// Connections kept for following the change feed, so that a flood of listings cannot make a replica stale.
const FEED_CONNECTIONS: u32 = 2;
/// How long a PostgreSQL transaction may do nothing.
const IDLE_POSTGRES: &str = "15s";
/// How long one that writes may: a process that stands still in the middle of it holds up mutations for no longer, and they
/// hold up the exchanges of the other replicas. As long as a group commit may take.
const IDLE_WRITING: &str = "5s";
/// How often a transaction that lost against another is tried.
const TRIES: u32 = 8;

/// Where the database is.
#[derive(Clone)]
pub struct StoreOptions {
    /// `sqlite://<path>` or `postgres://…`.
    pub url: String,
    /// Connections at most, of all kinds together; at least 4 are used.
    pub max_connections: u32,
}

impl fmt::Debug for StoreOptions {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// The database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store(Arc<Pools>);

/// A database that may be gone.
#[derive(Clone, Debug)]
pub(crate) struct WeakStore(Weak<Pools>);

impl WeakStore {
    pub(crate) fn upgrade(&self) -> Option<Store> {
        self.0.upgrade().map(Store)
    }
}

#[derive(Debug)]
struct Pools {
    /// Mutations and the recorder; one connection on SQLite, which has one writer.
    writer: DatabaseConnection,
    /// Listings and look-ups.
    reader: DatabaseConnection,
    /// The change feed.
    feed: DatabaseConnection,
    /// Where durable events are told as well.
    events: OnceLock<mpsc::Sender<Event>>,
    /// Whether the last write that was tried met [`StoreError::Unwritable`].
    unwritable: AtomicBool,
    /// What is written since its log was last copied: on SQLite.
    log: Option<Arc<Log>>,
    /// When trusts were last used, as far as it is not written: on SQLite.
    usages: Option<Arc<Usages>>,
}

impl Store {
    /// Opens the database. On SQLite the file is made when missing, readable by its owner only; the folder must exist.
    ///
    /// # Errors
    /// [`StoreError::Settings`] for a URL of another kind, [`StoreError::Unavailable`] when nobody answers.
    pub async fn connect(options: &StoreOptions) -> Result<Self, StoreError> {
        let connections = options.max_connections.max(4);
        let pools = if options.url.starts_with("sqlite:") {
            prepare_sqlite_file(&options.url)?;
            Pools {
                writer: open_sqlite(&options.url, 1, false).await?,
                reader: open_sqlite(&options.url, connections - 2, true).await?,
                feed: open_sqlite(&options.url, 1, true).await?,
                events: OnceLock::new(),
                unwritable: AtomicBool::new(false),
                log: Some(Arc::default()),
                usages: Some(Arc::default()),
            }
        } else if options.url.starts_with("postgres:") || options.url.starts_with("postgresql:") {
            let url = options.url.replacen("postgresql:", "postgres:", 1);
            let writers = (connections / 4).max(1);
            Pools {
                writer: open_postgres(&url, writers, IDLE_WRITING).await?,
                reader: open_postgres(&url, (connections - writers - FEED_CONNECTIONS).max(1), IDLE_POSTGRES).await?,
                feed: open_postgres(&url, FEED_CONNECTIONS, IDLE_POSTGRES).await?,
                events: OnceLock::new(),
                unwritable: AtomicBool::new(false),
                log: None,
                usages: None,
            }
        } else {
            return Err(StoreError::Settings("the database URL must start with sqlite: or postgres:".into()));
        };
        let store = Self(Arc::new(pools));
        if let Some(log) = &store.0.log {
            tokio::spawn(wal::keep_copying(Arc::clone(log), store.downgrade()));
        }
        Ok(store)
    }

    /// Whether writes work, as far as the last exchange or change that was to be recorded tells. While they do not, the
    /// [`Recorder`](crate::Recorder) tries one each second, whether or not anybody else does.
    pub fn takes_writes(&self) -> bool {
        !self.0.unwritable.load(Ordering::Relaxed)
    }

    /// A write is durable.
    pub(crate) fn wrote(&self) {
        if self.0.unwritable.swap(false, Ordering::Relaxed) {
            tracing::info!("the database takes writes again");
        }
    }

    /// A write failed.
    pub(crate) fn failed_to_write(&self, error: &StoreError) {
        if matches!(error, StoreError::Unwritable(_)) && !self.0.unwritable.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "nothing can be recorded: this replica is not ready");
        }
    }

    /// Tries a write that leaves nothing behind. What is made and unmade in one transaction is written all the same.
    pub(crate) async fn try_write(&self) -> Result<(), StoreError> {
        let transaction = self.begin_write().await?;
        let id = uuid_v7(SystemClock.now(), &SystemEntropy);
        let row = revoked_credential::Model { id, until: 0 }.into_active_model();
        revoked_credential::Entity::insert(row).exec_without_returning(&transaction).await?;
        revoked_credential::Entity::delete_by_id(id).exec(&transaction).await?;
        transaction.commit().await?;
        self.wrote();
        Ok(())
    }

    /// Writes what is only in memory, and closes every connection after what is under way. Later calls answer
    /// [`StoreError::Unavailable`].
    pub async fn close(&self) {
        match timeout(COMMIT, self.write_uses(None)).await {
            Ok(Ok(())) => {}
            failed => tracing::warn!(
                ?failed,
                "when trusts were last used is not written; the next start finds it in the record"
            ),
        }
        for pool in [&self.0.writer, &self.0.reader, &self.0.feed] {
            if let Err(error) = pool.close_by_ref().await {
                tracing::warn!(%error, "closing the database");
            }
        }
    }

    pub(crate) fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.0))
    }

    /// What is gathered of when trusts were last used, where it is.
    pub(crate) fn usages(&self) -> Option<&Arc<Usages>> {
        self.0.usages.as_ref()
    }

    pub(crate) fn events(&self) -> &OnceLock<mpsc::Sender<Event>> {
        &self.0.events
    }

    pub(crate) fn writer(&self) -> &DatabaseConnection {
        &self.0.writer
    }

    pub(crate) fn reader(&self) -> &DatabaseConnection {
        &self.0.reader
    }

    pub(crate) fn feed(&self) -> &DatabaseConnection {
        &self.0.feed
    }

    /// The revision of the configuration in the database.
    pub(crate) async fn revision(&self) -> Result<i64, StoreError> {
        match timeout(ANSWER, timed("revision", read_revision(&self.0.feed))).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::timed_out("reading the revision")),
        }
    }

    /// The connections of who writes. Transactions over them begin [`apart`].
    pub(crate) fn write(&self) -> &DatabaseConnection {
        if let Some(log) = &self.0.log {
            log.write();
        }
        self.writer()
    }

    /// A transaction that writes. On SQLite it takes the write lock at once, so that it cannot lose it half-way.
    pub(crate) async fn begin_write(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: match self.writer().get_database_backend() {
                DbBackend::Sqlite => Some(SqliteTransactionMode::Immediate),
                _ => None,
            },
            ..TransactionOptions::default()
        };
        let db = self.write().clone();
        apart(async move { db.begin_with_options(options).await }).await
    }

    /// A transaction in which all reads see one state of the database.
    pub(crate) async fn begin_snapshot(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = match self.0.feed.get_database_backend() {
            // Every SQLite read transaction is a snapshot.
            DbBackend::Sqlite => TransactionOptions::default(),
            _ => TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            },
        };
        let db = self.0.feed.clone();
        apart(async move { db.begin_with_options(options).await }).await
    }
}

/// Does something in a task of its own, which goes on when whoever wants it goes away, or waits for the processor.
///
/// So do all transactions begin, which are rolled back when nobody wants them any more. Where the beginning itself is given up,
/// sqlx 0.9 believes on PostgreSQL that there is no transaction, and hands the connection on with one open: what comes next then
/// is "committed" by the statement, and lost with the connection
/// (<https://github.com/transact-rs/sqlx/issues/4385>).
pub(crate) async fn apart<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, StoreError>
where
    T: Send + 'static,
    E: Send + 'static,
    StoreError: From<E>,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::Unavailable("a task in the database ended before its work was done".into())),
    }
}

/// Does a piece of work in the database, and says in the metrics how long it took.
pub(crate) async fn timed<T>(operation: &'static str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let value = work.instrument(tracing::debug_span!("database", otel.name = operation)).await;
    metrics::histogram!("sallyport_database_seconds", "operation" => operation).record(began.elapsed().as_secs_f64());
    value
}

pub(crate) async fn read_revision(db: &impl sea_orm::ConnectionTrait) -> Result<i64, StoreError> {
    use configuration_revision::{Column, Entity, ONLY};
    // This column only: it is read as well before a copy of an older version is brought to this version's schema.
    let revision = Entity::find_by_id(ONLY).select_only().column(Column::Revision).into_tuple().one(db).await?;
    revision.ok_or_else(|| missing_row(ONLY))
}

/// The row that is read.
pub(crate) async fn read_held(db: &impl sea_orm::ConnectionTrait) -> Result<Held, StoreError> {
    use configuration_revision::{Entity, ONLY};
    Entity::find_by_id(ONLY).one(db).await?.as_ref().map(Held::of).ok_or_else(|| missing_row(ONLY))
}

/// What a transaction knows that puts something on record; it stays as it is until that ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// The revision of the configuration.
    pub(crate) revision: i64,
    /// Up to when the record is settled: see [`crate::events`].
    settled: Timestamp,
}

impl Held {
    /// Up to when the record is settled.
    pub(crate) const fn settled(self) -> Timestamp {
        self.settled
    }

    pub(crate) const fn of(row: &configuration_revision::Model) -> Self {
        Self { revision: row.revision, settled: Timestamp::from_micros(row.settled) }
    }

    /// When something that happened at `time` is put on record: then, unless that time is settled.
    pub(crate) fn on_record(self, time: Timestamp) -> Timestamp {
        time.max(Timestamp::from_micros(self.settled.micros().saturating_add(1)))
    }
}

/// The revision, which then stays as it is until this transaction ends: a mutation that is in flight is waited for, and a
/// later one waits for us. To come first in a transaction. (SQLite's write transactions come one after another anyhow; the
/// query builder leaves the clause out there.)
///
/// Each recorder holds one lane of its own choice, and a mutation updates them all. That is so because PostgreSQL lets a
/// shared lock in beside other shared locks even while someone waits to update the row: with one row and `FOR SHARE`, the
/// overlapping commits of a few busy replicas could keep a mutation, such as the one that disables a trust, waiting for
/// ever. Exclusive locks queue: a mutation waits in each lane for the commit under way, and for those that were in the queue
/// before it, never for those that come later. Recorders that happen to share a lane take turns; nothing else changes for
/// them. There is no deadlock: recorders hold one lane, mutations let each other on by the first row, and both take these
/// rows before they touch anything else that the other writes.
pub(crate) async fn hold_revision(db: &impl sea_orm::ConnectionTrait, lane: i64) -> Result<Held, StoreError> {
    // Not `one`: it binds its limit, and SQLite prepares a statement anew for each value bound there.
    let rows = configuration_revision::Entity::find_by_id(lane).lock_exclusive().all(db).await?;
    rows.first().map(Held::of).ok_or_else(|| missing_row(lane))
}

/// A lane to hold, at random.
pub(crate) fn choose_lane(entropy: &impl Entropy) -> i64 {
    let mut byte = [0];
    entropy.fill(&mut byte);
    configuration_revision::ONLY + 1 + i64::from(byte[0]) % sallyport_migrations::REVISION_LANES
}

pub(crate) fn missing_row(id: i64) -> StoreError {
    StoreError::Corrupt { table: "configuration_revision", id: id.to_string(), what: "the row is missing".into() }
}

/// Runs a whole transaction, and runs it again when it lost against another: SQLite's lock, a deadlock, or a serialisation
/// failure (which CockroachDB and YugabyteDB report in the normal course of things). The one place that does.
pub(crate) async fn retry<T, F, A>(mut attempt: F) -> Result<T, StoreError>
where
    F: FnMut() -> A,
    A: Future<Output = Result<T, StoreError>>,
{
    let mut pause = Duration::from_millis(4);
    for _ in 1..TRIES {
        match attempt().await {
            Err(StoreError::Contended) => {}
            done => return done,
        }
        sleep(pause).await;
        pause *= 2;
    }
    attempt().await
}

fn quiet(url: &str, connections: u32, acquire: Duration) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(acquire)
        .test_before_acquire_if_idle_for(IDLE_UNTESTED)
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    options
}

async fn open_sqlite(url: &str, connections: u32, read_only: bool) -> Result<DatabaseConnection, StoreError> {
    let mut options = quiet(url, connections, ACQUIRE_SQLITE);
    // Connections are files, not sockets: they neither break nor age.
    options
        .idle_timeout(None)
        .max_lifetime(None)
        .map_sqlx_sqlite_opts(move |sqlite| {
            let sqlite = sqlite
                .create_if_missing(false)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                // What statements keep to themselves, a journal for the case that they fail half-way for one, needs no file.
                .pragma("temp_store", "MEMORY")
                // Pages that many commits change are copied into the database once for all of them: 40 MB, not 4.
                .pragma("wal_autocheckpoint", "10000")
                // A page of rows at once: SQLite's thread does not wait for whoever reads them, row by row.
                .row_buffer_size(1_024)
                .busy_timeout(BUSY_SQLITE);
            if read_only {
                sqlite.pragma("query_only", "ON")
            } else {
                // Where many trusts are used, and many things are listed by many orders, so are many pages of the indexes: up to
                // 32 MB. And there are inserts of each number of rows.
                sqlite.pragma("cache_size", "-32768").statement_cache_capacity(384)
            }
        })
        // When a statement or a commit fails for want of room, or a statement that says `OR ROLLBACK` for any reason, SQLite
        // rolls back by itself, and sqlx believes the transaction still open. The next one would be a savepoint in it, and the
        // one after that would be "committed" without a byte on disk.
        .map_sqlx_sqlite_before_acquire(|sqlite, _| Box::pin(async move { Ok(!sqlite.is_in_transaction()) }));
    // Of several processes that start together on a new file, one gives it its log, and the others do not wait for that: SQLite
    // tells them at once that it is locked, for each of them might hold what that one needs.
    let began = Instant::now();
    loop {
        match Database::connect(options.clone()).await.map_err(StoreError::from) {
            Err(StoreError::Contended) if began.elapsed() < BUSY_SQLITE => sleep(LOCKED_SQLITE).await,
            opened => return opened,
        }
    }
}

async fn open_postgres(url: &str, connections: u32, idle: &'static str) -> Result<DatabaseConnection, StoreError> {
    let mut options = quiet(url, connections, ACQUIRE_POSTGRES);
    // With the connection's first message, and so before anything can be written: whatever a role, a database or the server
    // has for a default, a commit that was answered is on disk. A pooler that cannot pass these on must be told to, or
    // refuses; it is better not to start than to promise what does not hold.
    options.map_sqlx_postgres_opts(move |postgres| {
        postgres
            .application_name("sallyport")
            .options([("synchronous_commit", "on"), ("idle_in_transaction_session_timeout", idle)])
    });
    let began = Instant::now();
    loop {
        match Database::connect(options.clone()).await {
            Err(DbErr::Conn(RuntimeErr::SqlxError(error)))
                if matches!(*error, sqlx::Error::PoolTimedOut) && began.elapsed() < START_POSTGRES =>
            {
                tracing::warn!(%error, "the database does not answer yet");
            }
            connected => return Ok(connected?),
        }
    }
}

/// Makes the file before SQLite does, so that it is never readable by others; SQLite gives its side files the same mode.
fn prepare_sqlite_file(url: &str) -> Result<(), StoreError> {
    let path = sqlite_file(url)?;
    match create_private(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
    .map_err(|error| StoreError::Settings(format!("cannot make the database file {}: {error}", path.display())))
}

/// Makes a file that only its owner can read, and that was not there.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use sallyport_testkit::Postgres;
    use sea_orm::{ConnectionTrait, Statement};

    use super::*;

    async fn setting(connection: &DatabaseConnection, name: &str) -> String {
        let statement = Statement::from_string(DbBackend::Postgres, format!("SHOW {name}"));
        connection.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn whoever_opens_a_new_file_together_with_others_opens_it() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("store.db").display());
            let opening: Vec<_> = (0..8)
                .map(|_| {
                    let options = StoreOptions { url: url.clone(), max_connections: 4 };
                    tokio::spawn(async move { Store::connect(&options).await })
                })
                .collect();
            for store in opening {
                store.await.unwrap().unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn commits_are_on_disk_whatever_postgres_has_for_a_default() {
        let server = Postgres::shared().unwrap();
        let database = server.create_random_database("store").unwrap();
        for whose in [format!("DATABASE {database}"), format!("ROLE postgres IN DATABASE {database}")] {
            server.sql(&database, &format!("ALTER {whose} SET synchronous_commit = off")).unwrap();
        }
        let url = server.url(&database);
        let default = Database::connect(&url).await.unwrap();
        assert_eq!(setting(&default, "synchronous_commit").await, "off", "there has to be something to withstand");
        // Nor what the URL says.
        let url = format!("{url}?options[synchronous_commit]=off");
        let store = Store::connect(&StoreOptions { url, max_connections: 4 }).await.unwrap();
        let pools = [&store.0.writer, &store.0.reader, &store.0.feed];
        for (pool, idle) in pools.into_iter().zip([IDLE_WRITING, IDLE_POSTGRES, IDLE_POSTGRES]) {
            assert_eq!(setting(pool, "synchronous_commit").await, "on");
            assert_eq!(setting(pool, "idle_in_transaction_session_timeout").await, idle);
        }
    }

    /// So that recorders, whose commits may overlap without a gap, cannot starve it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_recorder_that_comes_later_waits_behind_a_mutation() {
        let server = Postgres::shared().unwrap();
        let url = server.url(&server.create_random_database("store").unwrap());
        let store = Store::connect(&StoreOptions { url, max_connections: 16 }).await.unwrap();
        store.migrate().await.unwrap();
        let waiting = async |wanted: i64| loop {
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let row = store.reader().query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
            if row.unwrap().try_get_by_index::<i64>(0).unwrap() == wanted {
                break;
            }
        };
        let hold = |store: Store| async move {
            let group = store.begin_write().await.unwrap();
            let revision = hold_revision(&group, 2).await.unwrap().revision;
            (group, revision)
        };
        let (first, revision) = hold(store.clone()).await;
        assert_eq!(revision, 0);
        let mutation = tokio::spawn({
            let store = store.clone();
            async move {
                let mutation = store.begin_write().await.unwrap();
                assert!(crate::change::advance_revision(&mutation, 0).await.unwrap().is_some());
                mutation.commit().await.unwrap();
            }
        });
        waiting(1).await;
        let later = tokio::spawn(hold(store.clone()));
        timeout(Duration::from_secs(10), waiting(2)).await.expect("a later recorder was let in before the mutation");
        first.commit().await.unwrap();
        mutation.await.unwrap();
        assert_eq!(later.await.unwrap().1, 1);
    }

    #[test]
    fn every_lane_is_chosen_and_no_other() {
        struct Fixed(u8);
        impl Entropy for Fixed {
            fn fill(&self, buffer: &mut [u8]) {
                buffer.fill(self.0);
            }
        }
        let chosen: std::collections::BTreeSet<i64> = (0..=255).map(|byte| choose_lane(&Fixed(byte))).collect();
        assert_eq!(chosen, (2..=1 + sallyport_migrations::REVISION_LANES).collect());
    }
}
