//! When trusts were last used. What an exchange changes of that is kept in memory until there is more to write at once: where
//! many trusts are used, each use would change pages of the database for itself alone, and those by the way of which bindings
//! are listed by their last use besides.
//!
//! Whoever asks on this replica is told what is in memory as well; other replicas see it within a second. When the process dies
//! before it is written, the record still says it: [`Store::recover_uses`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::exchange::ExchangeRecord;
use sallyport_domain::id::TrustId;
use sallyport_domain::scope::Scope;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, Iterable, ModelTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait as _,
    Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use crate::bulk::BulkInsert;
use crate::entity::{exchange, trust, trust_usage};
use crate::error::StoreError;
use crate::recorder::COMMIT;
use crate::store::{Store, retry, timed};

/// How long uses are gathered where other replicas ask for them.
const SHARED: Duration = Duration::from_millis(500);
/// How long they are where there is but one process.
const ALONE: Duration = Duration::from_secs(10);
/// With so many gathered, they are written at once.
const MANY: usize = 16_384;
/// Most of one transaction: who waits to be recorded waits for no more.
const PART: usize = 512;
/// How far back from the newest exchange a use may not have been written: longer than they are gathered and written in.
const UNWRITTEN: Duration = Duration::from_secs(30);

/// Keeps what is newer.
static USAGES: BulkInsert<trust_usage::Entity> = BulkInsert::new(Some(|| {
    use trust_usage::{Column, Entity};
    let later = Expr::col(("excluded", Column::LastUsedAt)).gt(Expr::col((Entity, Column::LastUsedAt)));
    OnConflict::column(Column::TrustId).update_column(Column::LastUsedAt).action_and_where(later).to_owned()
}));

/// What a use was of, and when.
#[derive(Clone, Debug)]
struct Use {
    scope: Scope,
    binding: bool,
    at: Timestamp,
}

impl Use {
    fn row(&self, trust: TrustId) -> Vec<Value> {
        let row = trust_usage::Model {
            trust_id: trust.0,
            scope: self.scope.key(),
            binding: self.binding,
            last_used_at: self.at.micros(),
        };
        trust_usage::Column::iter().map(|column| row.get(column)).collect()
    }
}

/// The uses that are durable in the record only.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    unwritten: Mutex<BTreeMap<TrustId, Use>>,
    many: Notify,
}

impl Usages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TrustId, Use>> {
        // Each change of the map is one call: it is whole whatever panicked.
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw(&self, trust: TrustId, scope: &Scope, binding: bool, at: Timestamp) {
        let mut unwritten = self.lock();
        let known = unwritten.entry(trust).or_insert_with(|| Use { scope: scope.clone(), binding, at });
        known.at = known.at.max(at);
        if unwritten.len() == MANY {
            self.many.notify_one();
        }
    }

    /// The next ones by id, of this scope or of all.
    fn part(&self, after: Option<TrustId>, of: Option<&Scope>) -> Vec<(TrustId, Use)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let unwritten = self.lock();
        let range = unwritten.range((from, Bound::Unbounded));
        range
            .filter(|(_, used)| of.is_none_or(|scope| used.scope == *scope))
            .take(PART)
            .map(|(id, used)| (*id, used.clone()))
            .collect()
    }

    /// These are in the database; what came meanwhile is not.
    fn wrote(&self, part: &[(TrustId, Use)]) {
        let mut unwritten = self.lock();
        for (trust, written) in part {
            if unwritten.get(trust).is_some_and(|known| known.at <= written.at) {
                unwritten.remove(trust);
            }
        }
    }
}

impl Store {
    /// This grant is durable. Told before its caller is.
    pub(crate) fn saw_use(&self, grant: &ExchangeRecord, time: Timestamp) {
        if let Some(trust) = grant.trust {
            self.usages().saw(trust, &grant.scope, grant.binding, time);
        }
    }

    /// Its trust is gone.
    pub(crate) fn forget_use(&self, trust: TrustId) {
        self.usages().lock().remove(&trust);
    }

    /// When these trusts last granted; those that never did are not in the answer.
    ///
    /// # Errors
    /// The database.
    pub async fn last_used(&self, trusts: &[TrustId]) -> Result<HashMap<TrustId, Timestamp>, StoreError> {
        use trust_usage::{Column, Entity};
        // Memory first: what is written in between is in the database then.
        let mut used: HashMap<TrustId, Timestamp> = {
            let unwritten = self.usages().lock();
            trusts.iter().filter_map(|trust| Some((*trust, unwritten.get(trust)?.at))).collect()
        };
        let ids = trusts.iter().map(|id| id.0);
        let rows = Entity::find()
            .filter(Column::TrustId.is_in(ids))
            .filter(Column::LastUsedAt.gt(0))
            .all(self.reader())
            .await?;
        for row in rows {
            let (trust, written) = (TrustId(row.trust_id), Timestamp::from_micros(row.last_used_at));
            let known = used.entry(trust).or_insert(written);
            *known = written.max(*known);
        }
        Ok(used)
    }

    /// Writes the uses that are in memory, of this scope or of all.
    ///
    /// # Errors
    /// The database; what it did not take stays in memory.
    pub(crate) async fn write_uses(&self, of: Option<&Scope>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            // In the order of their ids, so that two replicas cannot each wait for the other, and neighbours share pages.
            let part = self.usages().part(after, of);
            let Some((last, _)) = part.last() else { return Ok(()) };
            after = Some(*last);
            let work = retry(|| write(self, &part));
            match timeout(COMMIT, timed("uses", work)).await {
                Ok(written) => written?,
                Err(_) => return Err(StoreError::timed_out("writing when trusts were last used")),
            }
            self.usages().wrote(&part);
        }
    }

    /// Takes into memory what a process that died may not have written: the uses of the last exchanges on record.
    ///
    /// # Errors
    /// The database.
    pub(crate) async fn recover_uses(&self) -> Result<(), StoreError> {
        use exchange::{Column, Entity};
        let newest = Entity::find().select_only().column(Column::Time).order_by_desc(Column::Time).limit(1);
        let Some(newest) = newest.into_tuple::<i64>().one(self.reader()).await? else { return Ok(()) };
        let since = newest.saturating_sub(i64::try_from(UNWRITTEN.as_micros()).unwrap_or(i64::MAX));
        let uses: Vec<(Uuid, String, bool, i64)> = Entity::find()
            .select_only()
            .columns([Column::TrustId, Column::Scope, Column::Binding])
            .column_as(Column::Time.max(), "at")
            .filter(Column::Time.gte(since))
            .filter(Column::Granted.eq(true))
            .filter(
                Column::TrustId.in_subquery(trust::Entity::find().select_only().column(trust::Column::Id).into_query()),
            )
            .group_by(Column::TrustId)
            .group_by(Column::Scope)
            .group_by(Column::Binding)
            .into_tuple()
            .all(self.reader())
            .await?;
        for (trust, scope, binding, at) in uses {
            if let Some(scope) = Scope::parse_key(&scope) {
                self.usages().saw(TrustId(trust), &scope, binding, Timestamp::from_micros(at));
            }
        }
        Ok(())
    }
}

async fn write(store: &Store, part: &[(TrustId, Use)]) -> Result<(), StoreError> {
    let transaction = store.begin_write().await?;
    let rows: Vec<Vec<Value>> = part.iter().map(|(trust, used)| used.row(*trust)).collect();
    USAGES.rows(&transaction, rows.into_iter()).await?;
    transaction.commit().await?;
    Ok(())
}

/// Writes what was gathered, time and again, until the store is gone.
pub(crate) async fn keep_writing(store: Store) {
    if let Err(error) = store.recover_uses().await {
        tracing::warn!(%error, "when trusts were last used before the start may be shown as earlier than it was");
    }
    let pause = if store.writer().get_database_backend() == DbBackend::Sqlite { ALONE } else { SHARED };
    let (usages, store) = (Arc::clone(store.usages()), store.downgrade());
    loop {
        let _ = timeout(pause, usages.many.notified()).await;
        let Some(store) = store.upgrade() else { return };
        if let Err(error) = store.write_uses(None).await {
            tracing::warn!(%error, "when trusts were last used could not be written; it will be tried again");
        }
    }
}
