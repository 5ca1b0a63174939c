//! When trusts were last used.
//!
//! Where the database is shared, that is written together with the record. SQLite's is one process's own, and there it is kept
//! in memory until there is more to write at once: where many trusts are used, each use would change pages of the database for
//! itself alone, those among them by which bindings are listed by their last use. Whoever asks is told what is in memory as
//! well, and when the process dies before it is written, the record still says it: see [`Store::recover_uses`].

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::exchange::ExchangeRecord;
use sallyport_domain::id::TrustId;
use sallyport_domain::scope::Scope;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::sqlx::sqlite::SqliteArguments;
use sea_orm::sqlx::{self, Arguments as _, query_with};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, ModelTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use uuid::Uuid;

use crate::bulk::{BulkInsert, ROWS, Texts};
use crate::entity::{exchange, trust_usage};
use crate::error::{StoreError, of_sqlx};
use crate::recorder::COMMIT;
use crate::store::{Store, WeakStore, retry, timed};

/// How long uses are gathered.
const GATHERING: Duration = Duration::from_secs(10);
/// With so many gathered, writing begins without waiting for the rest of it.
const MANY: usize = 16_384;
/// In how many parts they are written: each is a transaction, which who is being recorded meanwhile waits for. Among a million trusts
/// each use is on pages of its own, and takes some 60 µs.
const PARTS: usize = 512;
/// A part is no smaller, unless there is no more: each waits for the disk.
const PART: usize = 16;
/// How long writing what was gathered takes, part by part. At once, it would keep the writer and the processor from exchanges for
/// as long as all of it takes; and the longer it takes, the fewer uses are written of a trust that is used all the time.
const WRITING: Duration = Duration::from_secs(30);
/// The same while there are [`MANY`], which take memory.
const WRITING_MANY: Duration = Duration::from_secs(5);
/// How far back from the newest exchange a use may not have been written, as long as writing succeeds: longer than it waits for the
/// writing that does not include it, for the gathering after that, and for the next writing; and for those two again, where what a
/// crash left is lost in another. So many trusts in use at once that their parts take longer than that may be shown as used earlier.
const UNWRITTEN: Duration = Duration::from_secs(120);
/// How much of that is read at a time.
const SLICE: Duration = Duration::from_secs(10);

/// Keeps what is newer.
static USAGES: BulkInsert<trust_usage::Entity> = BulkInsert::new(Some(|| {
    use trust_usage::{Column, Entity};
    let later = Expr::col(("excluded", Column::LastUsedAt)).gt(Expr::col((Entity, Column::LastUsedAt)));
    OnConflict::column(Column::TrustId).update_column(Column::LastUsedAt).action_and_where(later).to_owned()
}));

/// By trust, in the order of their ids: so that two replicas cannot each wait for the other, and neighbours share pages.
pub(crate) type Uses = BTreeMap<TrustId, Use>;

/// The last use of a trust.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    scope: Scope,
    binding: bool,
    at: Timestamp,
}

/// Adds what a grant that is put on record at `at` says of its trust.
pub(crate) fn add(uses: &mut Uses, grant: &ExchangeRecord, at: Timestamp) {
    if let Some(trust) = grant.trust {
        let first = || Use { scope: grant.scope.clone(), binding: grant.binding, at };
        let known = uses.entry(trust).or_insert_with(first);
        known.at = known.at.max(at);
    }
}

/// Writes uses on PostgreSQL, in a transaction of the caller's.
///
/// # Errors
/// The database.
pub(crate) async fn write(db: &impl ConnectionTrait, uses: &Uses) -> Result<(), StoreError> {
    let row = |(trust, last): (&TrustId, &Use)| trust_usage::Model {
        trust_id: trust.0,
        scope: last.scope.key(),
        binding: last.binding,
        last_used_at: last.at.micros(),
    };
    let rows: Vec<trust_usage::Model> = uses.iter().map(row).collect();
    USAGES.rows(db, &rows, trust_usage::Model::get).await
}

/// The uses that are durable in the record only.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    unwritten: Mutex<Uses>,
    /// Held by who writes a part: however many want it done, one at a time stands in the recorder's way, and the next goes on
    /// where it ended.
    writing: tokio::sync::Mutex<()>,
    many: Notify,
}

impl Usages {
    fn lock(&self) -> MutexGuard<'_, Uses> {
        // Each change of the map is one call: it is whole whatever panicked.
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are on record. Told before their callers are.
    pub(crate) fn gather(&self, uses: Uses) {
        let mut unwritten = self.lock();
        for (trust, last) in uses {
            let known = unwritten.entry(trust).or_insert_with(|| last.clone());
            known.at = known.at.max(last.at);
        }
        if unwritten.len() >= MANY {
            self.many.notify_one();
        }
    }

    /// Whether so many are gathered that writing is not to take its time.
    fn are_many(&self) -> bool {
        self.lock().len() >= MANY
    }

    /// The next ones by id, of this scope or of all; at most [`ROWS`].
    fn next(&self, after: Option<TrustId>, of: Option<&Scope>) -> Uses {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let unwritten = self.lock();
        let wanted = |(_, last): &(&TrustId, &Use)| of.is_none_or(|scope| last.scope == *scope);
        let range = unwritten.range((from, Bound::Unbounded)).filter(wanted).take(ROWS);
        range.map(|(trust, last)| (*trust, last.clone())).collect()
    }

    /// What is unwritten of these trusts' uses.
    fn of(&self, trusts: &[TrustId]) -> Uses {
        let unwritten = self.lock();
        trusts.iter().filter_map(|trust| Some((*trust, unwritten.get(trust)?.clone()))).collect()
    }

    /// These are in the database; what came meanwhile is not.
    fn wrote(&self, part: &Uses) {
        let mut unwritten = self.lock();
        for (trust, written) in part {
            if unwritten.get(trust).is_some_and(|known| known.at <= written.at) {
                unwritten.remove(trust);
            }
        }
    }
}

impl Store {
    /// When these trusts last granted; those that never did are not in the answer.
    ///
    /// # Errors
    /// The database.
    pub async fn last_used(&self, trusts: &[TrustId]) -> Result<HashMap<TrustId, Timestamp>, StoreError> {
        use trust_usage::{Column, Entity};
        let mut used = HashMap::new();
        // Memory first: what is written in between is in the database then.
        if let Some(usages) = self.usages() {
            let unwritten = usages.lock();
            used.extend(trusts.iter().filter_map(|trust| Some((*trust, unwritten.get(trust)?.at))));
        }
        let ids = trusts.iter().map(|id| id.0);
        let written = Entity::find().select_only().columns([Column::TrustId, Column::LastUsedAt]);
        let written = written.filter(Column::TrustId.is_in(ids)).filter(Column::LastUsedAt.gt(0));
        for (trust, at) in written.into_tuple::<(Uuid, i64)>().all(self.reader()).await? {
            let at = Timestamp::from_micros(at);
            let known = used.entry(TrustId(trust)).or_insert(at);
            *known = at.max(*known);
        }
        Ok(used)
    }

    /// Writes the uses that are in memory, of this scope or of all.
    ///
    /// # Errors
    /// The database; what it did not take stays in memory.
    pub(crate) async fn write_uses(&self, of: Option<&Scope>) -> Result<(), StoreError> {
        let mut written = None;
        loop {
            let part = self.write_some(|usages| usages.next(written, of)).await?;
            let Some((last, _)) = part.last_key_value() else { return Ok(()) };
            written = Some(*last);
        }
    }

    /// Writes what `choose` finds, at most [`ROWS`] uses, and answers it.
    async fn write_some(&self, choose: impl FnOnce(&Usages) -> Uses) -> Result<Uses, StoreError> {
        let Some(usages) = self.usages() else { return Ok(Uses::new()) };
        let _one_at_a_time = usages.writing.lock().await;
        let part = choose(usages);
        if part.is_empty() {
            return Ok(part);
        }
        match timeout(COMMIT, timed("uses", retry(|| write_part(self, &part)))).await {
            Ok(written) => written?,
            Err(_) => return Err(StoreError::timed_out("writing when trusts were last used")),
        }
        usages.wrote(&part);
        Ok(part)
    }

    /// Takes into memory what a process that died may not have written: the uses of the last exchanges on record.
    ///
    /// # Errors
    /// The database.
    async fn recover_uses(&self) -> Result<(), StoreError> {
        use exchange::{Column, Entity};
        let Some(usages) = self.usages() else { return Ok(()) };
        let newest = Entity::find().select_only().column(Column::Time).order_by_desc(Column::Time).limit(1);
        let Some(newest) = newest.into_tuple::<i64>().one(self.reader()).await? else { return Ok(()) };
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let mut since = newest.saturating_sub(micros(UNWRITTEN));
        while since <= newest {
            let until = since.saturating_add(micros(SLICE));
            let rows: Vec<(Uuid, String, bool, i64)> = uses_of(since..until).into_tuple().all(self.reader()).await?;
            let found = rows.into_iter().filter_map(|(trust, scope, binding, at)| {
                let (scope, at) = (Scope::parse_key(&scope)?, Timestamp::from_micros(at));
                Some((TrustId(trust), Use { scope, binding, at }))
            });
            usages.gather(found.collect());
            since = until;
        }
        Ok(())
    }
}

/// The last uses that exchanges of these times, in microseconds, put on record. Of trusts that are gone as well: see [`write_part`].
fn uses_of(times: Range<i64>) -> Select<exchange::Entity> {
    use exchange::{Column, Entity};
    let parts = [Column::TrustId, Column::Scope, Column::Binding];
    let uses = Entity::find().select_only().columns(parts).column_as(Column::Time.max(), "at");
    let of_times = uses.filter(Column::Time.gte(times.start)).filter(Column::Time.lt(times.end));
    let granted = of_times.filter(Column::Granted.eq(true));
    parts.into_iter().fold(granted.filter(Column::TrustId.is_not_null()), QuerySelect::group_by)
}

/// The texts of [`write_part`], by the number of uses.
static UPDATES: Texts = Texts::new();

/// Writes 1 to [`ROWS`] uses on SQLite, in a transaction that is this one statement. A trust that is gone by now has no row, and
/// gets none: nobody would take it away again.
async fn write_part(store: &Store, part: &Uses) -> Result<(), StoreError> {
    let failed = |error| of_sqlx(&error);
    let mut arguments = SqliteArguments::default();
    for (trust, last) in part {
        let added = arguments.add(trust.0).and_then(|()| arguments.add(last.at.micros()));
        added.map_err(|error| failed(sqlx::Error::Encode(error)))?;
    }
    let text = UPDATES.get(DbBackend::Sqlite, part.len(), || update(part.len()));
    query_with(text, arguments).execute(store.write().get_sqlite_connection_pool()).await.map_err(failed)?;
    Ok(())
}

/// The statement for so many uses. A row that is newer already stays as it is.
fn update(uses: usize) -> String {
    let given = vec!["(?, ?)"; uses].join(", ");
    format!(
        "UPDATE trust_usages SET last_used_at = given.column2 FROM (VALUES {given}) AS given \
         WHERE trust_id = given.column1 AND last_used_at < given.column2"
    )
}

/// Writes what was gathered, time and again, until the store is gone.
pub(crate) async fn keep_writing(usages: Arc<Usages>, store: WeakStore) {
    if let Some(store) = store.upgrade()
        && let Err(error) = store.recover_uses().await
    {
        tracing::warn!(%error, "when trusts were last used before the start may be shown as earlier than it was");
    }
    loop {
        let _ = timeout(GATHERING, usages.many.notified()).await;
        match write_gathered(&usages, &store).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "when trusts were last used could not be written; it will be tried again");
                // Many that are gathered already do not call for it at once.
                sleep(GATHERING).await;
            }
        }
    }
}

/// Writes what was gathered up to now, part by part, evenly over [`WRITING`], or faster while there are [`MANY`]. What comes
/// meanwhile is for the next time: however many trusts come into use, this ends. Answers whether the store is still there.
async fn write_gathered(usages: &Usages, store: &WeakStore) -> Result<bool, StoreError> {
    let trusts: Vec<TrustId> = usages.lock().keys().copied().collect();
    let parts = trusts.chunks((trusts.len() / PARTS).clamp(PART, ROWS));
    let count = u32::try_from(parts.len().max(1)).unwrap_or(u32::MAX);
    let mut due = Instant::now();
    for part in parts {
        if usages.are_many() {
            sleep_until(due).await;
        } else if timeout_at(due, usages.many.notified()).await.is_ok() {
            // From now on at that pace.
            due = due.min(Instant::now());
        }
        {
            // Not held while it waits: the store may go meanwhile.
            let Some(store) = store.upgrade() else { return Ok(false) };
            store.write_some(|usages| usages.of(part)).await?;
        }
        let all = if usages.are_many() { WRITING_MANY } else { WRITING };
        // Whoever is late is so for good: nothing is made up for at once.
        due = Instant::now().max(due + all / count);
    }
    Ok(store.upgrade().is_some())
}

#[cfg(test)]
mod tests {
    use sea_orm::{IntoActiveModel as _, QueryTrait, Statement, Value};

    use super::*;
    use crate::listing::testing::{plan, scratch};

    #[tokio::test]
    async fn the_last_uses_are_found_along_an_index() {
        let (store, _folder) = scratch().await;
        let plan = plan(&store, uses_of(1..2).build(DbBackend::Sqlite)).await;
        assert!(plan.contains("SEARCH exchanges USING INDEX ix_exchanges_time_id"), "{plan}");
    }

    #[tokio::test]
    async fn each_use_that_is_written_is_looked_up() {
        let (store, _folder) = scratch().await;
        let values = (0..4).map(Value::from);
        let plan = plan(&store, Statement::from_sql_and_values(DbBackend::Sqlite, update(2), values)).await;
        assert!(plan.contains("SEARCH trust_usages USING INDEX sqlite_autoindex_trust_usages_1"), "{plan}");
    }

    const NINE: Timestamp = Timestamp::from_micros(9);

    fn used(at: Timestamp) -> Use {
        Use { scope: Scope::Platform, binding: false, at }
    }

    /// Trusts that were never used, as far as their uses go.
    async fn trusts(store: &Store, count: u128) -> Vec<TrustId> {
        let ids: Vec<TrustId> = (0..count).map(|n| TrustId(Uuid::from_u128(n))).collect();
        for id in &ids {
            let scope = Scope::Platform.key();
            let row = trust_usage::Model { trust_id: id.0, scope, binding: false, last_used_at: 0 };
            trust_usage::Entity::insert(row.into_active_model()).exec_without_returning(store.writer()).await.unwrap();
        }
        ids
    }

    #[tokio::test]
    async fn an_older_use_does_not_take_the_place_of_a_newer_one() {
        let (store, _folder) = scratch().await;
        let trust = trusts(&store, 1).await[0];
        for at in [NINE, Timestamp::from_micros(8)] {
            write_part(&store, &Uses::from([(trust, used(at))])).await.unwrap();
            assert_eq!(store.last_used(&[trust]).await.unwrap()[&trust], NINE);
        }
    }

    #[tokio::test]
    async fn each_trust_gets_its_own_time() {
        let (store, _folder) = scratch().await;
        let trusts = trusts(&store, ROWS as u128).await;
        let times = (1..).map(Timestamp::from_micros);
        let uses: Uses = trusts.iter().copied().zip(times.map(used)).collect();
        write_part(&store, &uses).await.unwrap();
        let written = store.last_used(&trusts).await.unwrap();
        assert_eq!(written, uses.into_iter().map(|(trust, last)| (trust, last.at)).collect());
    }

    #[tokio::test]
    async fn what_comes_into_use_meanwhile_is_written_the_next_time() {
        let (store, _folder) = scratch().await;
        let trusts = trusts(&store, 1_001).await;
        let usages = store.usages().unwrap();
        let uses = |trusts: &[TrustId]| trusts.iter().map(|trust| (*trust, used(NINE))).collect();
        usages.gather(uses(&trusts[..1]));
        let weak = store.downgrade();
        // Polled in this order.
        let meanwhile = async { usages.gather(uses(&trusts[1..])) };
        let (there, ()) = tokio::join!(biased; write_gathered(usages, &weak), meanwhile);
        assert_eq!(there, Ok(true));
        assert_eq!(usages.lock().len(), 1_000);
        store.write_uses(None).await.unwrap();
        assert!(usages.lock().is_empty());
    }
}
