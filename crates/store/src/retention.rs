//! What time lets us forget: little by little, so that nobody who writes has to wait for it, and on any replica, since a row
//! that another has deleted meanwhile is simply not there.
//!
//! Each call deletes a bounded number of rows in one short statement, found along an index; call again until it answers 0.

use sallyport_domain::clock::Timestamp;
use sallyport_domain::validate::LIFETIME_MAX;
use sea_orm::sea_query::{Expr, ExprTrait, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    Statement,
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::entity::{audit_entry, exchange, replay_use, revoked_credential, subject_status, trust, trust_usage};
use crate::error::StoreError;
use crate::store::{ANSWER, Store, retry};

impl Store {
    /// What time it is for whoever forgets by it: the earlier of `own`, this machine's clock, and the database's. A replica whose
    /// clock is far ahead would otherwise forget what all the others still need. SQLite has the machine's clock.
    ///
    /// # Errors
    /// The database.
    pub async fn time_to_forget_by(&self, own: Timestamp) -> Result<Timestamp, StoreError> {
        const NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT)";
        // Whoever follows the change feed asks: not behind listings, and not for long.
        let feed = self.feed();
        if feed.get_database_backend() == DbBackend::Sqlite {
            return Ok(own);
        }
        let row = timeout(ANSWER, feed.query_one_raw(Statement::from_string(DbBackend::Postgres, NOW)))
            .await
            .map_err(|_| StoreError::timed_out("reading the database's clock"))??;
        let theirs = row.map(|row| row.try_get_by_index(0)).transpose()?.map(Timestamp::from_micros);
        Ok(theirs.map_or(own, |theirs| theirs.min(own)))
    }

    /// Forgets exchanges put on record before `before`, and with them what is known of their credentials; never one whose
    /// credential had not ended at `ended`. At most `limit`; answers how many went.
    ///
    /// # Errors
    /// The database.
    pub async fn purge_exchanges(&self, before: Timestamp, ended: Timestamp, limit: u64) -> Result<u64, StoreError> {
        use exchange::{Column, Entity};
        retry(|| async {
            let old = Entity::delete_many().filter(Column::Id.in_subquery(old_exchanges(before, ended, limit)));
            Ok(old.exec(self.write()).await?.rows_affected)
        })
        .await
    }

    /// Forgets management changes put on record before `before`; at most `limit`. Answers how many went.
    ///
    /// # Errors
    /// The database.
    pub async fn purge_changes(&self, before: Timestamp, limit: u64) -> Result<u64, StoreError> {
        use audit_entry::{Column, Entity};
        retry(|| async {
            let old = Entity::delete_many().filter(Column::Id.in_subquery(old_changes(before, limit)));
            Ok(old.exec(self.write()).await?.rows_affected)
        })
        .await
    }

    /// Forgets uses of tokens and revocations of credentials that ended by themselves before `ended`, and statuses of subjects
    /// that are enabled and revoke nothing that lives; at most `limit` of each. Answers how many went. Leave room for clocks
    /// that differ: what one replica has forgotten, another could accept.
    ///
    /// # Errors
    /// The database.
    pub async fn purge_ended(&self, ended: Timestamp, limit: u64) -> Result<u64, StoreError> {
        retry(|| async {
            let key = [replay_use::Column::ProviderId, replay_use::Column::Fingerprint];
            let uses = replay_use::Entity::delete_many()
                .filter(Expr::tuple(key.map(Expr::col)).in_subquery(ended_uses(ended, limit)))
                .exec(self.write())
                .await?;
            let revocations = revoked_credential::Entity::delete_many()
                .filter(revoked_credential::Column::Id.in_subquery(ended_revocations(ended, limit)))
                .exec(self.write())
                .await?;
            let subject = [subject_status::Column::ProviderId, subject_status::Column::SubjectHash];
            // What makes a status idle is asked again of the row that is deleted: somebody may be disabling the subject.
            let statuses = subject_status::Entity::delete_many()
                .filter(is_idle(ended))
                .filter(Expr::tuple(subject.map(Expr::col)).in_subquery(idle_statuses(ended, limit)))
                .exec(self.write())
                .await?;
            Ok(uses.rows_affected + revocations.rows_affected + statuses.rows_affected)
        })
        .await
    }

    /// Forgets when trusts were last used that are gone: on PostgreSQL a grant may be recorded while its trust is being
    /// deleted, and leave this behind. At most `limit`; answers how many went. Reads all of them: for now and then.
    ///
    /// # Errors
    /// The database.
    pub async fn purge_orphans(&self, limit: u64) -> Result<u64, StoreError> {
        use trust_usage::{Column, Entity};
        // Looked for where nobody who writes has to wait.
        let orphans: Vec<Uuid> = Entity::find()
            .select_only()
            .column(Column::TrustId)
            .filter(Expr::exists(their_trusts()).not())
            .limit(limit)
            .into_tuple()
            .all(self.reader())
            .await?;
        if orphans.is_empty() {
            return Ok(0);
        }
        Ok(Entity::delete_many().filter(Column::TrustId.is_in(orphans)).exec(self.write()).await?.rows_affected)
    }
}

fn old_exchanges(before: Timestamp, ended: Timestamp, limit: u64) -> SelectStatement {
    use exchange::{Column, Entity};
    let lives_no_more = Column::CredentialExpiresAt.is_null().or(Column::CredentialExpiresAt.lt(ended.micros()));
    Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Time.lt(before.micros()))
        .filter(lives_no_more)
        .order_by_asc(Column::Time)
        .limit(limit)
        .into_query()
}

fn old_changes(before: Timestamp, limit: u64) -> SelectStatement {
    use audit_entry::{Column, Entity};
    Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Time.lt(before.micros()))
        .order_by_asc(Column::Time)
        .limit(limit)
        .into_query()
}

fn ended_uses(ended: Timestamp, limit: u64) -> SelectStatement {
    use replay_use::{Column, Entity};
    Entity::find()
        .select_only()
        .columns([Column::ProviderId, Column::Fingerprint])
        .filter(Column::Until.lt(ended.micros()))
        .limit(limit)
        .into_query()
}

fn ended_revocations(ended: Timestamp, limit: u64) -> SelectStatement {
    use revoked_credential::{Column, Entity};
    Entity::find().select_only().column(Column::Id).filter(Column::Until.lt(ended.micros())).limit(limit).into_query()
}

/// Of subjects that are enabled again, and of whose credentials none is left that was ended.
fn idle_statuses(ended: Timestamp, limit: u64) -> SelectStatement {
    use subject_status::{Column, Entity};
    Entity::find()
        .select_only()
        .columns([Column::ProviderId, Column::SubjectHash])
        .filter(is_idle(ended))
        .limit(limit)
        .into_query()
}

/// Enabled, and whatever it revoked has ended by itself.
fn is_idle(ended: Timestamp) -> Condition {
    use subject_status::Column;
    let long_ago = ended.plus_seconds(-i64::from(LIFETIME_MAX));
    Condition::all()
        .add(Column::Disabled.eq(false))
        .add(Column::CredentialsNotBefore.is_null().or(Column::CredentialsNotBefore.lt(long_ago.micros())))
}

fn their_trusts() -> SelectStatement {
    let id = Expr::col((trust::Entity, trust::Column::Id));
    Query::select()
        .expr(Expr::val(1_i32))
        .from(trust::Entity)
        .and_where(id.equals((trust_usage::Entity, trust_usage::Column::TrustId)))
        .take()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::testing::{plan, scratch};

    #[tokio::test]
    async fn what_is_old_is_found_along_an_index() {
        let (store, _folder) = scratch().await;
        let time = Timestamp::from_seconds(1);
        for (index, select) in [
            ("ix_exchanges_time_id", old_exchanges(time, time, 10)),
            ("ix_audit_entries_time_id", old_changes(time, 10)),
            ("ix_replay_uses_until", ended_uses(time, 10)),
            ("ix_revoked_credentials_until", ended_revocations(time, 10)),
        ] {
            let plan = plan(&store, DbBackend::Sqlite.build(&select)).await;
            assert!(plan.starts_with("SEARCH") && plan.contains(index), "{index}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
