//! Exchanges put on record by one statement, which is a transaction by itself; on SQLite by a few in one transaction, where they
//! are too many for one. PostgreSQL gets an array for each column, so that its statement is the same for however many, and uses up
//! tokens in it as well.
//!
//! What the recorder writes is nearly always the same, and decided on the revision that it held last. That fits into a statement
//! which does nothing when the revision is another by now, or somebody else holds it: then the transaction that asks first
//! decides, which waits, and undoes what it did when nobody waits for it any more. Each statement less is one time less that
//! SQLite's thread is woken, or that a message comes and goes to PostgreSQL.
//!
//! These statements go to `sqlx` itself: sea-orm has it make a copy of every text and value, which are many here.
//!
//! The [`Connection`] of a statement may be kept for the next one: a pool asks each that it gets back whether it still answers,
//! and so the database once more for each commit.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use sea_orm::sqlx::error::BoxDynError;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::postgres::{PgArguments, PgBindIterExt as _};
use sea_orm::sqlx::query::Query;
use sea_orm::sqlx::sqlite::SqliteArguments;
use sea_orm::sqlx::{self, Arguments as _, PgConnection, Postgres, Row as _, Sqlite, SqlitePool, query_with};
use sea_orm::{DbBackend, EntityName, Iden, Iterable};
use uuid::Uuid;

use crate::bulk::{ROWS, Texts};
use crate::entity::exchange::{self, Cell, Column, Entry};
use crate::entity::{configuration_revision, replay_use, trust_usage};
use crate::error::{StoreError, of_sqlx};
use crate::recorder::Recorded;
use crate::store::{Held, Store, apart};

static SQLITE: Texts = Texts::new();
static POSTGRES: LazyLock<String> = LazyLock::new(|| postgres_text(false));
/// Where tokens are used up.
static POSTGRES_ONCE: LazyLock<String> = LazyLock::new(|| postgres_text(true));

/// How long a cell is, about.
const BYTES: usize = 32;

/// What a lane has to be, for a statement to do anything: its number, revision and settled time.
type Expected = [i64; 3];

/// A connection that writes, with nothing under way.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// What was recorded, and over which connection, if it may be kept.
pub(crate) type Done = (Vec<Recorded>, Option<Connection>);

/// Puts all of these on record, of which there is at least one; on PostgreSQL it also uses up their tokens, and notes when their
/// trusts were last used. All or nothing, but for those whose tokens were used up before. It goes over the connection that was
/// kept, if one was; that one is given back to its pool unless it is in the answer.
///
/// There is no answer, and nothing is written, when the lane is not as it was held or somebody holds it, when nothing is left to
/// record, or when there are tokens and this is SQLite. The lane is held meanwhile, as by
/// [`hold_revision`](crate::store::hold_revision).
///
/// A caller that goes away does not stop a statement: what the database got, it may still do.
///
/// # Errors
/// When the database does not take them, or does not know such a statement: then nothing is written, unless the error is
/// transient: then they may be.
pub(crate) async fn record(
    store: &Store,
    kept: Option<Connection>,
    lane: i64,
    held: Held,
    records: &[&Entry],
) -> Result<Option<Done>, StoreError> {
    let (db, expected) = (store.write(), [lane, held.revision, held.settled().micros()]);
    if db.get_database_backend() != DbBackend::Sqlite {
        let mut connection = match kept {
            Some(Connection::Postgres(kept)) => kept,
            _ => db.get_postgres_connection_pool().acquire().await.map_err(failed)?,
        };
        let done = in_postgres(&mut connection, expected, held, records).await?;
        return Ok(done.map(|outcomes| (outcomes, Some(Connection::Postgres(connection)))));
    }
    if use_up_tokens(records) {
        return Ok(None);
    }
    let pool = db.get_sqlite_connection_pool();
    let (done, connection) = if records.len() > ROWS {
        // Its transaction takes one from the pool, which has no other.
        drop(kept);
        (by_parts_in_sqlite(pool, expected, held, records).await?, None)
    } else {
        let mut connection = match kept {
            Some(Connection::Sqlite(kept)) => kept,
            _ => pool.acquire().await.map_err(failed)?,
        };
        let done = sqlite(expected, held, records)?.execute(&mut *connection).await.map_err(failed)?;
        (done.rows_affected() > 0, Some(Connection::Sqlite(connection)))
    };
    Ok(done.then(|| (vec![Recorded::Durable; records.len()], connection)))
}

/// Whether there are tokens that these use up.
fn use_up_tokens(records: &[&Entry]) -> bool {
    records.iter().any(|entry| entry.replay().is_some())
}

async fn by_parts_in_sqlite(
    pool: &SqlitePool,
    expected: Expected,
    held: Held,
    records: &[&Entry],
) -> Result<bool, StoreError> {
    let pool = pool.clone();
    let mut transaction = apart(async move { pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed) }).await?;
    for part in records.chunks(ROWS) {
        let done = sqlite(expected, held, part)?.execute(&mut *transaction).await.map_err(failed)?;
        if done.rows_affected() == 0 {
            transaction.rollback().await.map_err(failed)?;
            return Ok(false);
        }
    }
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}

async fn in_postgres(
    connection: &mut PgConnection,
    expected: Expected,
    held: Held,
    records: &[&Entry],
) -> Result<Option<Vec<Recorded>>, StoreError> {
    if !use_up_tokens(records) {
        let arguments = postgres(expected, held, records)?;
        let done = query_with(POSTGRES.as_str(), arguments).execute(connection).await.map_err(failed)?;
        return Ok((done.rows_affected() > 0).then(|| vec![Recorded::Durable; records.len()]));
    }
    // The statement does not look for the same token twice among those that it is given.
    let mut tokens = HashSet::new();
    let mut is_first = |entry: &Entry| entry.replay().is_none_or(|key| tokens.insert((key.provider, key.fingerprint)));
    let firsts: Vec<&Entry> = records.iter().copied().filter(|entry| is_first(entry)).collect();
    let mut arguments = postgres(expected, held, &firsts)?;
    let keys = || firsts.iter().map(|entry| entry.replay());
    arguments.add(keys().map(|key| key.map(|key| key.provider.0)).bind_iter()).map_err(encoding)?;
    arguments.add(keys().map(|key| key.map(|key| &key.fingerprint[..])).bind_iter()).map_err(encoding)?;
    arguments.add(keys().map(|key| key.map(|key| key.until.micros())).bind_iter()).map_err(encoding)?;
    let written = query_with(POSTGRES_ONCE.as_str(), arguments).fetch_all(connection).await.map_err(failed)?;
    let written: Result<HashSet<Uuid>, _> = written.iter().map(|row| row.try_get(0)).collect();
    // They are written, whatever could not be read: nobody is to try them again.
    let written = written.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let outcome = |entry: &&Entry| match written.contains(&entry.record().id.0) {
        true => Recorded::Durable,
        false => Recorded::Replayed,
    };
    Ok((!written.is_empty()).then(|| records.iter().map(outcome).collect()))
}

fn failed(error: sqlx::Error) -> StoreError {
    of_sqlx(&error)
}

/// The statement for these, of which there are 1 to [`ROWS`], with its arguments as SQLite's thread gets them: each its own.
fn sqlite(
    expected: Expected,
    held: Held,
    records: &[&Entry],
) -> Result<Query<'static, Sqlite, SqliteArguments>, StoreError> {
    let (mut arguments, columns) = (SqliteArguments::default(), Column::iter().count());
    arguments.reserve(records.len() * columns + expected.len(), 0);
    let mut texts: Vec<Option<Arc<str>>> = vec![None; columns];
    for entry in records {
        for (column, before) in Column::iter().zip(&mut texts) {
            match cell(held, entry, column) {
                Cell::Text(text) => arguments.add(text.map(|text| as_before(before, &text))),
                Cell::Bytes(bytes) => arguments.add(bytes),
                Cell::Id(id) => arguments.add(id),
                Cell::Number(number) => arguments.add(number),
                Cell::Flag(flag) => arguments.add(flag),
            }
            .map_err(encoding)?;
        }
    }
    expected.into_iter().try_for_each(|number| arguments.add(number)).map_err(encoding)?;
    Ok(query_with(SQLITE.get(DbBackend::Sqlite, records.len(), || sqlite_text(records.len())), arguments))
}

/// A text in one piece with its count of owners, and the one before where they are the same: many columns have the same in row after
/// row, and what one thread allocates and another one frees costs both more than it looks.
fn as_before(before: &mut Option<Arc<str>>, text: &str) -> Arc<str> {
    match before {
        Some(before) if **before == *text => Arc::clone(before),
        _ => Arc::clone(before.insert(text.into())),
    }
}

/// The arguments for PostgreSQL, as they are sent; without tokens.
fn postgres(expected: Expected, held: Held, records: &[&Entry]) -> Result<PgArguments, StoreError> {
    let (mut arguments, columns) = (PgArguments::default(), Column::iter().count());
    arguments.reserve(expected.len() + columns, records.len() * columns * BYTES);
    expected.into_iter().try_for_each(|number| arguments.add(number)).map_err(encoding)?;
    for column in Column::iter() {
        let mut cells = records.iter().map(|entry| cell(held, entry, column)).peekable();
        // A column's are all of one kind.
        match cells.peek() {
            Some(Cell::Text(_)) => arguments.add(cells.map(Cell::into_text).bind_iter()),
            Some(Cell::Bytes(_)) => arguments.add(cells.map(Cell::into_bytes).bind_iter()),
            Some(Cell::Id(_)) => arguments.add(cells.map(Cell::into_id).bind_iter()),
            Some(Cell::Number(_)) => arguments.add(cells.map(Cell::into_number).bind_iter()),
            Some(Cell::Flag(_)) => arguments.add(cells.map(Cell::into_flag).bind_iter()),
            None => Err("nothing to record".into()),
        }
        .map_err(encoding)?;
    }
    Ok(arguments)
}

fn encoding(error: BoxDynError) -> StoreError {
    failed(sqlx::Error::Encode(error))
}

fn cell<'r>(held: Held, entry: &'r Entry, column: Column) -> Cell<'r> {
    entry.cell(held.on_record(entry.record().time), column)
}

/// Asks for the lane, if it is as expected; the arguments are placeholders.
fn lane_as_expected(lane: &str, revision: &str, settled: &str) -> String {
    let lanes = configuration_revision::Entity.table_name();
    format!("SELECT 1 FROM {lanes} WHERE id = {lane} AND revision = {revision} AND settled = {settled}")
}

fn column_names() -> String {
    let names: Vec<String> = Column::iter().map(|column| format!("\"{}\"", column.unquoted())).collect();
    names.join(", ")
}

/// The statement for so many rows. Its parameters are theirs, and what the lane has to be.
fn sqlite_text(rows: usize) -> String {
    let row = format!("({})", vec!["?"; Column::iter().count()].join(", "));
    let (values, columns, lane) = (vec![row; rows].join(", "), column_names(), lane_as_expected("?", "?", "?"));
    let exchanges = exchange::Entity.table_name();
    // One writer: while the statement runs, nobody else changes the lane. With `OR ROLLBACK` SQLite keeps no copy of each
    // page that the statement changes, to undo it alone should it fail half-way.
    format!("INSERT OR ROLLBACK INTO {exchanges} ({columns}) SELECT * FROM (VALUES {values}) WHERE EXISTS ({lane})")
}

/// The statement for however many. Its parameters are what the lane has to be, an array for each column, and where tokens are used
/// up one each for their providers, fingerprints and ends.
fn postgres_text(once: bool) -> String {
    let (columns, lane) = (column_names(), lane_as_expected("$1", "$2", "$3"));
    let (tokens, more, returning) =
        if once { (", token_provider, token_fingerprint, token_until", 3, " RETURNING id") } else { ("", 0, "") };
    let arrays: Vec<String> = (4..4 + Column::iter().count() + more).map(|n| format!("${n}")).collect();
    let given = format!(
        "SELECT * FROM unnest({}) AS given ({columns}{tokens}) WHERE EXISTS (SELECT 1 FROM held)",
        arrays.join(", ")
    );
    let (exchanges, usage, uses) =
        (exchange::Entity.table_name(), trust_usage::Entity.table_name(), replay_use::Entity.table_name());
    // In order, as wherever they are used up: two replicas that wait for each other's would be a deadlock.
    let records = if once {
        format!(
            "given AS ({given}), \
             fresh AS (INSERT INTO {uses} (provider_id, fingerprint, until) \
               SELECT token_provider, token_fingerprint, token_until FROM given \
               WHERE token_provider IS NOT NULL ORDER BY token_provider, token_fingerprint \
               ON CONFLICT DO NOTHING RETURNING provider_id, fingerprint), \
             records AS (SELECT {columns} FROM given WHERE token_provider IS NULL \
               OR (token_provider, token_fingerprint) IN (SELECT provider_id, fingerprint FROM fresh))"
        )
    } else {
        format!("records AS ({given})")
    };
    format!(
        "WITH held AS ({lane} FOR UPDATE SKIP LOCKED), {records}, \
         used AS (INSERT INTO {usage} AS known (trust_id, scope, binding, last_used_at) \
           SELECT trust_id, min(scope), bool_or(binding), max(time) FROM records \
           WHERE granted AND trust_id IS NOT NULL GROUP BY trust_id ORDER BY trust_id \
           ON CONFLICT (trust_id) DO UPDATE SET last_used_at = excluded.last_used_at \
           WHERE excluded.last_used_at > known.last_used_at RETURNING trust_id) \
         INSERT INTO {exchanges} ({columns}) SELECT * FROM records{returning}"
    )
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use sallyport_domain::clock::Timestamp;
    use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
    use sallyport_domain::exchange::{CredentialKind, ExchangeRecord, IssuedCredential, Protocol, ReplayKey};
    use sallyport_domain::id::{CredentialId, ExchangeId, OrganizationId, ProviderId, ServiceAccountId, TrustId};
    use sallyport_domain::scope::Scope;
    use sallyport_testkit::Postgres;
    use sea_orm::{ConnectionTrait as _, EntityTrait as _, IntoActiveModel as _, Statement};

    use super::*;
    use crate::listing::ExchangeFilter;
    use crate::listing::testing::scratch;
    use crate::recorder::COMMIT;
    use crate::store::{StoreOptions, hold_revision};

    /// Over a connection of its own.
    async fn record(
        store: &Store,
        lane: i64,
        held: Held,
        records: &[&Entry],
    ) -> Result<Option<Vec<Recorded>>, StoreError> {
        Ok(super::record(store, None, lane, held, records).await?.map(|(outcomes, _)| outcomes))
    }

    fn a_refusal() -> Entry {
        Entry::new(Box::new(ExchangeRecord {
            id: ExchangeId(uuid_v7(Timestamp::from_micros(7), &SystemEntropy)),
            time: Timestamp::from_micros(7),
            scope: Scope::Platform,
            organization: None,
            granted: false,
            reason: None,
            protocol: Protocol::Oauth,
            trust: None,
            binding: false,
            provider: None,
            service_account: None,
            issuer: "https://issuer.example".into(),
            subject: "subject".into(),
            source_ip: None,
            token_hash: [7; 32],
            credential: None,
            checks: Vec::new(),
            replay: None,
        }))
    }

    #[test]
    fn the_cells_of_a_column_are_of_one_kind() {
        let (bare, id) = (a_refusal(), uuid_v7(Timestamp::from_micros(7), &SystemEntropy));
        let full = Entry::new(Box::new(ExchangeRecord {
            organization: OrganizationId::parse("acme"),
            reason: Some("expired".into()),
            trust: Some(TrustId(id)),
            provider: Some(ProviderId(id)),
            service_account: Some(ServiceAccountId(id)),
            source_ip: "192.0.2.1".parse().ok(),
            credential: Some(IssuedCredential {
                id: CredentialId(id),
                kind: CredentialKind::AccessToken,
                expires_at: Timestamp::from_micros(9),
                roles: Vec::new(),
                public_key: Some(vec![4]),
            }),
            ..bare.record().clone()
        }));
        for column in Column::iter() {
            let kinds = [&bare, &full].map(|entry| discriminant(&entry.cell(Timestamp::from_micros(7), column)));
            assert_eq!(kinds[0], kinds[1], "{column:?}");
        }
    }

    /// A lane as it is now.
    async fn lane_of(store: &Store) -> Held {
        let transaction = store.begin_write().await.unwrap();
        let held = hold_revision(&transaction, 2).await.unwrap();
        transaction.rollback().await.unwrap();
        held
    }

    fn a_key(provider: ProviderId, fingerprint: u8) -> ReplayKey {
        ReplayKey { provider, fingerprint: [fingerprint; 32], until: Timestamp::from_micros(9) }
    }

    /// A grant that uses up this.
    fn a_use(replay: ReplayKey) -> Entry {
        Entry::new(Box::new(ExchangeRecord { granted: true, replay: Some(replay), ..a_refusal().record().clone() }))
    }

    fn durable(records: usize) -> Result<Option<Vec<Recorded>>, StoreError> {
        Ok(Some(vec![Recorded::Durable; records]))
    }

    /// A lane may be another in any of its parts: then the transaction of several statements decides.
    async fn nothing_is_recorded_unless_the_lane_is_as_it_was(store: Store) {
        let held = lane_of(&store).await;
        let count = async || store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await.unwrap();
        let lane = |revision, settled| Held::of(&configuration_revision::Model { id: 2, revision, settled });
        let (revision, settled) = (held.revision, held.settled().micros());
        for (lane_number, held) in [(2, lane(revision + 1, settled)), (2, lane(revision, settled + 1)), (10_000, held)]
        {
            assert_eq!(record(&store, lane_number, held, &[&a_refusal()]).await, Ok(None));
            assert_eq!(count().await, 0);
        }
        assert_eq!(record(&store, 2, held, &[&a_refusal(), &a_refusal(), &a_refusal()]).await, durable(3));
        assert_eq!(count().await, 3);
        // All or nothing.
        let twice = a_refusal();
        assert!(record(&store, 2, held, &[&a_refusal(), &twice, &twice]).await.is_err());
        assert_eq!(count().await, 3);
        // As are those that take SQLite several statements.
        let many: Vec<_> = (0..2 * ROWS + 3).map(|_| a_refusal()).collect();
        let all: Vec<_> = many.iter().collect();
        assert!(record(&store, 2, held, &[&all[..], &all[..1]].concat()).await.is_err());
        assert_eq!(record(&store, 2, lane(revision, settled + 1), &all).await, Ok(None));
        assert_eq!(count().await, 3);
        assert_eq!(record(&store, 2, held, &all).await, durable(many.len()));
        assert_eq!(count().await, 3 + many.len() as u64);
    }

    /// Whether somebody else may have the one connection that writes, at once.
    fn is_free(store: &Store) -> bool {
        match store.writer().get_database_backend() {
            DbBackend::Sqlite => store.writer().get_sqlite_connection_pool().try_acquire().is_some(),
            _ => store.writer().get_postgres_connection_pool().try_acquire().is_some(),
        }
    }

    /// It is: to be given back takes a while.
    async fn is_given_back(store: &Store) -> bool {
        tokio::time::timeout(COMMIT, async {
            while !is_free(store) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .is_ok()
    }

    /// It is the only one: the transaction that decides then waits for it, and so does everybody else.
    async fn a_connection_is_kept_only_for_more_of_the_same(store: Store) {
        let held = lane_of(&store).await;
        assert!(is_given_back(&store).await);
        let over = async |kept, lane, records: &[&Entry]| super::record(&store, kept, lane, held, records).await;
        let kept = async |before| {
            let (outcomes, kept) = over(before, 2, &[&a_refusal()]).await.unwrap().unwrap();
            assert_eq!(outcomes, [Recorded::Durable]);
            assert!(kept.is_some());
            kept
        };
        let first = kept(None).await;
        assert!(!is_free(&store));
        // There is no other that this could go over.
        let second = kept(first).await;
        assert!(over(second, 10_000, &[&a_refusal()]).await.unwrap().is_none());
        assert!(is_given_back(&store).await);
        let twice = a_refusal();
        assert!(over(kept(None).await, 2, &[&twice, &twice]).await.is_err());
        assert!(is_given_back(&store).await);
        let many: Vec<_> = (0..=ROWS).map(|_| a_refusal()).collect();
        let many: Vec<_> = many.iter().collect();
        let (outcomes, after_many) = over(kept(None).await, 2, &many).await.unwrap().unwrap();
        assert_eq!(outcomes.len(), many.len());
        // SQLite takes several statements for these.
        assert_eq!(after_many.is_none(), store.usages().is_some());
        drop(after_many);
        assert!(is_given_back(&store).await);
        // A token that was used up, and on SQLite any.
        let a_use = a_use(a_key(ProviderId(uuid_v7(Timestamp::from_micros(7), &SystemEntropy)), 1));
        drop(over(None, 2, &[&a_use]).await.unwrap());
        assert!(over(kept(None).await, 2, &[&a_use]).await.unwrap().is_none());
        assert!(is_given_back(&store).await);
    }

    /// Whoever brings a token that was used up has no record, in whichever batch it was, and its trust was not used then.
    #[tokio::test]
    async fn a_token_is_used_up_once_in_postgres() {
        let store = postgres().await;
        let held = lane_of(&store).await;
        let provider = ProviderId(uuid_v7(Timestamp::from_micros(7), &SystemEntropy));
        let of = |granted, fingerprint: u8, time| {
            let (trust, time) = (Some(TrustId(provider.0)), Timestamp::from_micros(time));
            let a_use = a_use(a_key(provider, fingerprint)).record().clone();
            Entry::new(Box::new(ExchangeRecord { granted, time, trust, ..a_use }))
        };
        // After all that is settled.
        const THEN: i64 = 4_000_000_000_000_000;
        let (granted, refused) =
            (|fingerprint| of(true, fingerprint, THEN), |fingerprint| of(false, fingerprint, THEN + 1));
        let later = |fingerprint| of(true, fingerprint, THEN + 2);
        let count = async || store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await.unwrap();
        let used = async || store.last_used(&[TrustId(provider.0)]).await.unwrap().into_values().next();
        let given = [granted(1), granted(1), granted(2), refused(1), refused(3), a_refusal()];
        let given: Vec<&Entry> = given.iter().collect();
        let (durable, replayed) = (Recorded::Durable, Recorded::Replayed);
        let outcomes = Ok(Some(vec![durable, replayed, durable, durable, durable, durable]));
        assert_eq!(record(&store, 2, held, &given).await, outcomes);
        assert_eq!(count().await, 5);
        let first_use = Some(Timestamp::from_micros(THEN));
        assert_eq!(used().await, first_use);
        assert_eq!(record(&store, 2, held, &[&later(1), &later(2)]).await, Ok(None));
        assert_eq!(record(&store, 10_000, held, &[&later(3)]).await, Ok(None));
        assert_eq!((count().await, used().await), (5, first_use));
        // A refused batch uses up nothing.
        let twice = a_refusal();
        assert!(record(&store, 2, held, &[&later(3), &twice, &twice]).await.is_err());
        assert_eq!((count().await, used().await), (5, first_use));
        let again = [later(2), granted(3), granted(3)];
        let again: Vec<&Entry> = again.iter().collect();
        assert_eq!(record(&store, 2, held, &again).await, Ok(Some(vec![replayed, durable, replayed])));
        assert_eq!((count().await, used().await), (6, first_use));
        // At another provider it is another token; and of many, each is looked for.
        let elsewhere = |fingerprint| {
            let mut record = granted(fingerprint).record().clone();
            record.replay.as_mut().unwrap().provider = ProviderId(record.id.0);
            Entry::new(Box::new(record))
        };
        let many: Vec<_> = (0..2 * ROWS as u8 + 2).flat_map(|n| [granted(n), elsewhere(n)]).collect();
        let all: Vec<&Entry> = many.iter().collect();
        let outcomes = record(&store, 2, held, &all).await.unwrap().unwrap();
        for (n, outcome) in outcomes.iter().enumerate() {
            assert_eq!(*outcome, if [2, 4, 6].contains(&n) { replayed } else { durable }, "{n}");
        }
        assert_eq!(count().await, 6 + many.len() as u64 - 3);
    }

    /// Somebody else may be using up the same token just now: whether it is left shows when they are done.
    #[tokio::test]
    async fn a_token_that_somebody_is_using_up_is_waited_for_in_postgres() {
        for others_keep_it in [true, false] {
            let url = postgres_url();
            let (store, other) = (connect(&url).await, connect(&url).await);
            let held = lane_of(&store).await;
            let key = a_key(ProviderId(uuid_v7(Timestamp::from_micros(7), &SystemEntropy)), 1);
            let theirs = other.begin_write().await.unwrap();
            let model = replay_use::Model {
                provider_id: key.provider.0,
                fingerprint: key.fingerprint.to_vec(),
                until: key.until.micros(),
            };
            replay_use::Entity::insert(model.into_active_model()).exec_without_returning(&theirs).await.unwrap();
            let ours = a_use(key);
            let recording = tokio::spawn(async move { record(&store, 2, held, &[&ours]).await });
            let waiting =
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while other
                .reader()
                .query_one_raw(Statement::from_string(DbBackend::Postgres, waiting))
                .await
                .unwrap()
                .is_none()
                && !recording.is_finished()
            {
                tokio::task::yield_now().await;
            }
            if others_keep_it {
                theirs.commit().await.unwrap();
                assert_eq!(recording.await.unwrap(), Ok(None));
            } else {
                theirs.rollback().await.unwrap();
                assert_eq!(recording.await.unwrap(), durable(1));
            }
        }
    }

    /// Whoever goes away while a transaction begins, at whichever point, leaves none open on the connection: what is recorded
    /// over it next would not be durable, and nobody would know.
    async fn a_transaction_that_nobody_waits_for_is_not_left_open(store: Store) {
        let held = lane_of(&store).await;
        let many: Vec<_> = (0..=ROWS).map(|_| a_refusal()).collect();
        let many: Vec<_> = many.iter().collect();
        for steps in 1..=40 {
            let mut begins: Pin<Box<dyn Future<Output = ()>>> = if steps % 2 == 0 {
                Box::pin(async { drop(store.begin_write().await) })
            } else {
                // Of a lane that is another: nothing is recorded however far it comes.
                Box::pin(async { drop(record(&store, 10_000, held, &many).await) })
            };
            for _ in 0..steps / 2 + 1 {
                if poll_once(begins.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(begins);
            let mut recorded = Ok(None);
            for _ in 0..10_000 {
                recorded = record(&store, 2, held, &[&a_refusal()]).await;
                if recorded == durable(1) {
                    break;
                }
                // The one before still holds the lane, and is about to be rolled back.
                tokio::task::yield_now().await;
            }
            assert_eq!(recorded, durable(1));
            // Over another connection, which sees only what is committed.
            assert_eq!(store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await, Ok(steps));
        }
    }

    fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    async fn postgres() -> Store {
        connect(&postgres_url()).await
    }

    /// Of a database of its own.
    fn postgres_url() -> String {
        let server = Postgres::shared().unwrap();
        server.url(&server.create_random_database("store").unwrap())
    }

    /// With one connection that writes.
    async fn connect(url: &str) -> Store {
        let store = Store::connect(&StoreOptions { url: url.to_owned(), max_connections: 4 }).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    #[tokio::test]
    async fn nothing_is_recorded_unless_the_lane_is_as_it_was_in_sqlite() {
        let (store, _folder) = scratch().await;
        nothing_is_recorded_unless_the_lane_is_as_it_was(store).await;
    }

    #[tokio::test]
    async fn nothing_is_recorded_unless_the_lane_is_as_it_was_in_postgres() {
        nothing_is_recorded_unless_the_lane_is_as_it_was(postgres().await).await;
    }

    #[tokio::test]
    async fn a_connection_is_kept_only_for_more_of_the_same_in_sqlite() {
        let (store, _folder) = scratch().await;
        a_connection_is_kept_only_for_more_of_the_same(store).await;
    }

    #[tokio::test]
    async fn a_connection_is_kept_only_for_more_of_the_same_in_postgres() {
        a_connection_is_kept_only_for_more_of_the_same(postgres().await).await;
    }

    #[tokio::test]
    async fn tokens_are_left_to_the_transaction_in_sqlite() {
        let (store, _folder) = scratch().await;
        let held = lane_of(&store).await;
        let count = async || store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await.unwrap();
        let a_use = a_use(a_key(ProviderId(uuid_v7(Timestamp::from_micros(7), &SystemEntropy)), 1));
        assert_eq!(record(&store, 2, held, &[&a_refusal(), &a_use]).await, Ok(None));
        assert_eq!(count().await, 0);
        // It is not the lane.
        assert_eq!(record(&store, 2, held, &[&a_refusal()]).await, durable(1));
        assert_eq!(count().await, 1);
    }

    #[tokio::test]
    async fn a_transaction_that_nobody_waits_for_is_not_left_open_in_sqlite() {
        let (store, _folder) = scratch().await;
        a_transaction_that_nobody_waits_for_is_not_left_open(store).await;
    }

    #[tokio::test]
    async fn a_transaction_that_nobody_waits_for_is_not_left_open_in_postgres() {
        a_transaction_that_nobody_waits_for_is_not_left_open(postgres().await).await;
    }
}
