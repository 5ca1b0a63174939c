//! Exchanges put on record by one statement, which is a transaction by itself; on SQLite by a few in one transaction, where they
//! are too many for one.
//!
//! What the recorder writes is nearly always the same, and decided on the revision that it held last. That fits into a statement
//! which does nothing when the revision is another by now, or somebody else holds it: then the transaction that asks first
//! decides, which waits, and undoes what it did when nobody waits for it any more. Each statement less is one time less that
//! SQLite's thread is woken, or that a message comes and goes to PostgreSQL.
//!
//! These statements go to `sqlx` itself: sea-orm has it make a copy of every text and value, which are many here.

use std::fmt::Write as _;
use std::sync::Arc;

use sea_orm::sqlx::postgres::PgArguments;
use sea_orm::sqlx::sqlite::SqliteArguments;
use sea_orm::sqlx::{self, Arguments as _, query_with};
use sea_orm::{DbBackend, EntityName, Iden, Iterable};

use crate::bulk::{ROWS, Texts};
use crate::entity::exchange::{self, Cell, Column, Entry};
use crate::entity::{configuration_revision, trust_usage};
use crate::error::{StoreError, of_sqlx};
use crate::store::{Held, Store, apart};

static TEXTS: Texts = Texts::new();

/// How long an argument is, about.
const BYTES: usize = 32;

/// Puts all of these on record, of which there is at least one, and none of which uses up a token; on PostgreSQL also when
/// their trusts were last used. All or nothing; and nothing when the lane is not as it was held, somebody holds it, or they are
/// too many: then the answer is false. The lane is held meanwhile, as by [`hold_revision`](crate::store::hold_revision).
///
/// A caller that goes away does not stop a statement: what the database got, it may still do.
///
/// # Errors
/// When the database does not take them, or does not know such a statement.
pub(crate) async fn record(store: &Store, lane: i64, held: Held, records: &[&Entry]) -> Result<bool, StoreError> {
    let db = store.write();
    let backend = db.get_database_backend();
    if records.len() <= ROWS {
        let rows = if backend == DbBackend::Sqlite {
            let (text, arguments) = sqlite(lane, held, records)?;
            query_with(text, arguments).execute(db.get_sqlite_connection_pool()).await.map_err(failed)?.rows_affected()
        } else {
            let (text, arguments) = postgres(lane, held, records)?;
            let done = query_with(text, arguments).execute(db.get_postgres_connection_pool()).await;
            done.map_err(failed)?.rows_affected()
        };
        return Ok(rows > 0);
    }
    // What a first of several statements noted of trusts' use would be locked until the last, and other replicas would wait.
    if backend != DbBackend::Sqlite {
        return Ok(false);
    }
    let pool = db.get_sqlite_connection_pool().clone();
    let mut transaction = apart(async move { pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed) }).await?;
    for part in records.chunks(ROWS) {
        let (text, arguments) = sqlite(lane, held, part)?;
        let done = query_with(text, arguments).execute(&mut *transaction).await.map_err(failed)?;
        if done.rows_affected() == 0 {
            transaction.rollback().await.map_err(failed)?;
            return Ok(false);
        }
    }
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}

fn failed(error: sqlx::Error) -> StoreError {
    of_sqlx(&error)
}

/// The statement for these, of which there are 1 to [`ROWS`], with its arguments as SQLite's thread gets them: each its own.
fn sqlite(lane: i64, held: Held, records: &[&Entry]) -> Result<(&'static str, SqliteArguments), StoreError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(records.len() * Column::iter().count() + 3, 0);
    for cell in rows(held, records).chain(lane_as_held(lane, held)) {
        match cell {
            // In one piece with its count of owners.
            Cell::Text(text) => arguments.add(text.map(|text| Arc::<str>::from(&*text))),
            Cell::Bytes(bytes) => arguments.add(bytes),
            Cell::Id(id) => arguments.add(id),
            Cell::Number(number) => arguments.add(number),
            Cell::Flag(flag) => arguments.add(flag),
        }
        .map_err(|error| failed(sqlx::Error::Encode(error)))?;
    }
    let (backend, count) = (DbBackend::Sqlite, records.len());
    Ok((TEXTS.get(backend, count, || text(backend, count)), arguments))
}

/// The same for PostgreSQL, as they are sent. It keeps few texts, and a row without an id is no row there.
fn postgres(lane: i64, held: Held, records: &[&Entry]) -> Result<(&'static str, PgArguments), StoreError> {
    let (backend, count) = (DbBackend::Postgres, records.len().next_power_of_two());
    let mut arguments = PgArguments::default();
    let parameters = count * Column::iter().count() + 3;
    arguments.reserve(parameters, parameters * BYTES);
    let no_rows = (records.len()..count).flat_map(|_| rows(held, &records[..1]).map(|cell| cell.as_null()));
    for cell in rows(held, records).chain(no_rows).chain(lane_as_held(lane, held)) {
        match cell {
            Cell::Text(text) => arguments.add(text.as_deref()),
            Cell::Bytes(bytes) => arguments.add(bytes),
            Cell::Id(id) => arguments.add(id),
            Cell::Number(number) => arguments.add(number),
            Cell::Flag(flag) => arguments.add(flag),
        }
        .map_err(|error| failed(sqlx::Error::Encode(error)))?;
    }
    Ok((TEXTS.get(backend, count, || text(backend, count)), arguments))
}

fn rows<'r>(held: Held, records: &'r [&'r Entry]) -> impl Iterator<Item = Cell<'r>> {
    records.iter().flat_map(move |entry| {
        let time = held.on_record(entry.record().time);
        Column::iter().map(move |column| entry.cell(time, column))
    })
}

/// What the lane has to be, for the statement to do anything.
fn lane_as_held<'r>(lane: i64, held: Held) -> impl Iterator<Item = Cell<'r>> {
    [lane, held.revision, held.settled().micros()].into_iter().map(|number| Cell::Number(Some(number)))
}

/// The statement for so many rows. Its parameters are theirs, and what the lane has to be: its number, revision and settled time.
fn text(backend: DbBackend, rows: usize) -> String {
    let columns: Vec<String> = Column::iter().map(|column| format!("\"{}\"", column.unquoted())).collect();
    let parameters = rows * columns.len();
    let place = |n: usize| if backend == DbBackend::Sqlite { "?".to_owned() } else { format!("${}", n + 1) };
    let mut values = String::new();
    for row in 0..rows {
        let places: Vec<String> = (row * columns.len()..(row + 1) * columns.len()).map(place).collect();
        let comma = if row == 0 { "" } else { ", " };
        let _ = write!(values, "{comma}({})", places.join(", "));
    }
    let columns = columns.join(", ");
    let (exchanges, usage) = (exchange::Entity.table_name(), trust_usage::Entity.table_name());
    let held = format!(
        "SELECT 1 FROM {} WHERE id = {} AND revision = {} AND settled = {}",
        configuration_revision::Entity.table_name(),
        place(parameters),
        place(parameters + 1),
        place(parameters + 2),
    );
    if backend == DbBackend::Sqlite {
        // One writer: while the statement runs, nobody else changes the lane. With `OR ROLLBACK` SQLite keeps no copy of each
        // page that the statement changes, to undo it alone should it fail half-way.
        return format!(
            "INSERT OR ROLLBACK INTO {exchanges} ({columns}) SELECT * FROM (VALUES {values}) WHERE EXISTS ({held})"
        );
    }
    format!(
        "WITH held AS ({held} FOR UPDATE SKIP LOCKED), \
         records AS (SELECT * FROM (VALUES {values}) AS given ({columns}) \
           WHERE id IS NOT NULL AND EXISTS (SELECT 1 FROM held)), \
         used AS (INSERT INTO {usage} AS known (trust_id, scope, binding, last_used_at) \
           SELECT trust_id, min(scope), bool_or(binding), max(time) FROM records \
           WHERE granted AND trust_id IS NOT NULL GROUP BY trust_id ORDER BY trust_id \
           ON CONFLICT (trust_id) DO UPDATE SET last_used_at = excluded.last_used_at \
           WHERE excluded.last_used_at > known.last_used_at RETURNING trust_id) \
         INSERT INTO {exchanges} ({columns}) SELECT * FROM records"
    )
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use sallyport_domain::clock::Timestamp;
    use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
    use sallyport_domain::exchange::{ExchangeRecord, Protocol};
    use sallyport_domain::id::ExchangeId;
    use sallyport_domain::scope::Scope;
    use sallyport_testkit::Postgres;

    use super::*;
    use crate::listing::ExchangeFilter;
    use crate::listing::testing::scratch;
    use crate::store::{StoreOptions, hold_revision};

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

    /// A lane may be another in any of its parts: then the transaction of several statements decides.
    async fn nothing_is_recorded_unless_the_lane_is_as_it_was(store: Store) {
        let transaction = store.begin_write().await.unwrap();
        let held = hold_revision(&transaction, 2).await.unwrap();
        transaction.rollback().await.unwrap();
        let count = async || store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await.unwrap();
        let lane = |revision, settled| Held::of(&configuration_revision::Model { id: 2, revision, settled });
        let (revision, settled) = (held.revision, held.settled().micros());
        for (lane_number, held) in [(2, lane(revision + 1, settled)), (2, lane(revision, settled + 1)), (10_000, held)]
        {
            assert_eq!(record(&store, lane_number, held, &[&a_refusal()]).await, Ok(false));
            assert_eq!(count().await, 0);
        }
        assert_eq!(record(&store, 2, held, &[&a_refusal(), &a_refusal(), &a_refusal()]).await, Ok(true));
        assert_eq!(count().await, 3);
        // All or nothing.
        let twice = a_refusal();
        assert!(record(&store, 2, held, &[&a_refusal(), &twice, &twice]).await.is_err());
        assert_eq!(count().await, 3);
        // As are those that take several statements.
        let many: Vec<_> = (0..2 * ROWS + 3).map(|_| a_refusal()).collect();
        let all: Vec<_> = many.iter().collect();
        if store.writer().get_database_backend() == DbBackend::Sqlite {
            assert!(record(&store, 2, held, &[&all[..], &all[..1]].concat()).await.is_err());
            assert_eq!(record(&store, 2, lane(revision, settled + 1), &all).await, Ok(false));
            assert_eq!(count().await, 3);
            assert_eq!(record(&store, 2, held, &all).await, Ok(true));
            assert_eq!(count().await, 3 + many.len() as u64);
        } else {
            assert_eq!(record(&store, 2, held, &all).await, Ok(false));
            assert_eq!(count().await, 3);
        }
    }

    /// Whoever goes away while a transaction begins, at whichever point, leaves none open on the connection: what is recorded
    /// over it next would not be durable, and nobody would know.
    async fn a_transaction_that_nobody_waits_for_is_not_left_open(store: Store) {
        let transaction = store.begin_write().await.unwrap();
        let held = hold_revision(&transaction, 2).await.unwrap();
        transaction.rollback().await.unwrap();
        let rows = if store.writer().get_database_backend() == DbBackend::Sqlite { ROWS + 1 } else { ROWS };
        let many: Vec<_> = (0..rows).map(|_| a_refusal()).collect();
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
            let mut recorded = Ok(false);
            for _ in 0..10_000 {
                recorded = record(&store, 2, held, &[&a_refusal()]).await;
                if recorded == Ok(true) {
                    break;
                }
                // The one before still holds the lane, and is about to be rolled back.
                tokio::task::yield_now().await;
            }
            assert_eq!(recorded, Ok(true));
            // Over another connection, which sees only what is committed.
            assert_eq!(store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await, Ok(steps));
        }
    }

    fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// With one connection that writes.
    async fn postgres() -> Store {
        let server = Postgres::shared().unwrap();
        let url = server.url(&server.create_random_database("store").unwrap());
        let store = Store::connect(&StoreOptions { url, max_connections: 4 }).await.unwrap();
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
    async fn a_transaction_that_nobody_waits_for_is_not_left_open_in_sqlite() {
        let (store, _folder) = scratch().await;
        a_transaction_that_nobody_waits_for_is_not_left_open(store).await;
    }

    #[tokio::test]
    async fn a_transaction_that_nobody_waits_for_is_not_left_open_in_postgres() {
        a_transaction_that_nobody_waits_for_is_not_left_open(postgres().await).await;
    }
}
