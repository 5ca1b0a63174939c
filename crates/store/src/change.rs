//! What a mutation writes. All writes of one mutation, their place in the change feed and their audit entries are one
//! transaction, which begins by moving the configuration's revision on: whoever planned on an older revision changes nothing.

use std::collections::BTreeSet;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::entropy::SystemEntropy;
use sallyport_domain::event::{AuditEntry, Event};
use sallyport_domain::id::{ApiTokenId, CredentialId, OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use sallyport_domain::principal::{ApiToken, ServiceAccount};
use sallyport_domain::provider::Provider;
use sallyport_domain::role::{Role, RoleName};
use sallyport_domain::scope::{Organization, Scope, Space};
use sallyport_domain::snapshot::{Change, Snapshot};
use sallyport_domain::subject_status::SubjectStatus;
use sallyport_domain::trust::Trust;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Query};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IdenStatic, IntoActiveModel, Iterable,
    PrimaryKeyToColumn, QueryFilter, QueryOrder, QuerySelect,
};

use crate::entity::{
    api_token, audit_entry, configuration_change, configuration_revision, exchange, organization, provider, retired_id,
    revoked_credential, role, service_account, space, subject_status, trust, trust_usage,
};
use crate::error::{Constraint, StoreError};
use crate::load::changes_of;
use crate::store::{Held, Store, choose_lane, hold_revision, retry, timed};

/// How far ahead, in seconds, another replica's clock is believed to be when everything it issued is revoked.
const SKEW_MAX: i64 = 60;

/// For how many revisions it is remembered what changed. A replica that is further behind loads everything.
const FEED_KEPT: i64 = 10_000;

/// One write of a mutation. `Put` makes or replaces; deleting what is not there is no error.
/// Writes are done in the order given: put an account before its trust, delete a trust before its account.
#[derive(Clone, Debug)]
pub enum Write {
    /// Makes or replaces an organization; [`Constraint::IdRetired`] when one with this id was deleted.
    PutOrganization(Organization),
    /// Deletes an organization, for good: its id is never used again. [`Constraint::InUse`] while it has spaces or roles.
    DeleteOrganization(OrganizationId),
    /// Makes or replaces a space; [`Constraint::IdRetired`] when one with this id was deleted.
    PutSpace(Space),
    /// Deletes a space, for good: its id is never used again. What belongs to it must be deleted by the same plan.
    DeleteSpace(SpaceId),
    /// Makes or replaces an organization's own role.
    PutRole(Role),
    /// Deletes an organization's own role.
    DeleteRole(OrganizationId, RoleName),
    /// Makes or replaces a service account.
    PutServiceAccount(ServiceAccount),
    /// Deletes a service account; [`Constraint::InUse`] while trusts refer to it.
    DeleteServiceAccount(ServiceAccountId),
    /// Makes or replaces an API token.
    PutApiToken(ApiToken),
    /// Deletes an API token.
    DeleteApiToken(ApiTokenId),
    /// Makes or replaces a provider; [`Constraint::ProviderExists`] when its scope has another for the issuer.
    PutProvider(Provider),
    /// Deletes a provider; [`Constraint::InUse`] while trusts refer to it.
    DeleteProvider(ProviderId),
    /// Deletes a provider that a binding made, unless a trust is left; leaves any other provider alone.
    DeleteProviderIfUnused(ProviderId),
    /// Makes or replaces a trust; its provider and service account must be there.
    PutTrust {
        /// The trust.
        trust: Trust,
        /// For bindings: [`binding_fingerprint`](crate::binding_fingerprint), of which there is one;
        /// [`Constraint::BindingExists`] otherwise. `None` for other trusts.
        binding_fingerprint: Option<[u8; 32]>,
    },
    /// Deletes a trust.
    DeleteTrust(TrustId),
    /// Makes or replaces the status of a subject, whose provider must be there. It goes with that provider.
    PutSubjectStatus(SubjectStatus),
    /// Ends one credential.
    RevokeCredential {
        /// The credential.
        id: CredentialId,
        /// When it would have ended by itself; it is remembered until then.
        until: Timestamp,
    },
    /// Does another write, whose `credentials_not_before` it moves up to after every exchange that is on record by then, if that
    /// is later: the clock of the replica that issued a credential may be ahead of the one that revokes it. By a minute at most,
    /// for one that is wrong altogether.
    Ending(Box<Self>),
    /// Records who did what. A mutation of audit entries alone leaves the revision as it is.
    Audit(AuditEntry),
}

/// What a row of the change feed names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Changed {
    Organization(OrganizationId),
    Space(SpaceId),
    Role(OrganizationId, RoleName),
    ServiceAccount(ServiceAccountId),
    ApiToken(ApiTokenId),
    Provider(ProviderId),
    Trust(TrustId),
    /// A trust was made, changed or deleted in this scope. Stands beside [`Self::Trust`], whose row may be gone: whoever
    /// chose among the scope's trusts chose among others than there are now.
    TrustsOf(Scope),
    /// A subject of a provider, by the hash of its name.
    Subject(ProviderId, String),
    Credential(CredentialId),
}

impl Changed {
    fn row(&self, revision: i64) -> configuration_change::Model {
        let (kind, key) = match self {
            Self::Organization(id) => ("organization", id.to_string()),
            Self::Space(id) => ("space", id.to_string()),
            Self::Role(organization, name) => ("role", format!("{organization}/{name}")),
            Self::ServiceAccount(id) => ("service_account", id.to_string()),
            Self::ApiToken(id) => ("api_token", id.to_string()),
            Self::Provider(id) => ("provider", id.to_string()),
            Self::Trust(id) => ("trust", id.to_string()),
            Self::TrustsOf(scope) => ("trusts_of", scope.key()),
            Self::Subject(provider, hash) => ("subject", format!("{provider}/{hash}")),
            Self::Credential(id) => ("credential", id.to_string()),
        };
        configuration_change::Model { revision, kind: kind.to_owned(), key }
    }

    /// `None` when the row is of a kind that this version does not know.
    pub(crate) fn parse(kind: &str, key: &str) -> Option<Self> {
        match kind {
            "organization" => OrganizationId::parse(key).map(Self::Organization),
            "space" => SpaceId::parse(key).map(Self::Space),
            "role" => {
                let (organization, name) = key.split_once('/')?;
                Some(Self::Role(OrganizationId::parse(organization)?, RoleName::parse(name)?))
            }
            "service_account" => ServiceAccountId::parse(key).map(Self::ServiceAccount),
            "api_token" => ApiTokenId::parse(key).map(Self::ApiToken),
            "provider" => ProviderId::parse(key).map(Self::Provider),
            "trust" => TrustId::parse(key).map(Self::Trust),
            "trusts_of" => Scope::parse_key(key).map(Self::TrustsOf),
            "subject" => {
                let (provider, hash) = key.split_once('/')?;
                Some(Self::Subject(ProviderId::parse(provider)?, hash.to_owned()))
            }
            "credential" => CredentialId::parse(key).map(Self::Credential),
            _ => None,
        }
    }
}

/// What became of a mutation's writes.
pub(crate) enum Committed {
    /// They are durable, as this revision, which differs from the one they were planned on by these changes.
    At(i64, Vec<Change>),
    /// There was nothing to change but the record.
    Unchanged,
    /// The configuration has moved on since they were planned: nothing was written.
    Overtaken,
}

impl Store {
    /// Writes all of it, or nothing.
    pub(crate) async fn commit(&self, base: &Snapshot, writes: &[Write]) -> Result<Committed, StoreError> {
        let committed = timed("change", retry(|| self.try_commit(base, writes))).await;
        if let Err(error) = &committed {
            self.failed_to_write(error);
        }
        committed
    }

    async fn try_commit(&self, base: &Snapshot, writes: &[Write]) -> Result<Committed, StoreError> {
        if writes.is_empty() {
            return Ok(Committed::Unchanged);
        }
        let transaction = self.begin_write().await?;
        let record_alone = writes.iter().all(|write| matches!(write, Write::Audit(_)));
        let held = if record_alone {
            hold_revision(&transaction, choose_lane(&SystemEntropy)).await?
        } else {
            match advance_revision(&transaction, base.revision()).await? {
                Some(held) => held,
                None => {
                    transaction.rollback().await?;
                    return Ok(Committed::Overtaken);
                }
            }
        };
        let mut changed = BTreeSet::new();
        let mut recorded = Vec::new();
        for write in writes {
            match write {
                Write::Audit(entry) => recorded.push(put_on_record(&transaction, held, entry).await?),
                Write::Ending(write) => {
                    let write = after_all_issued(&transaction, write).await?;
                    apply(&transaction, &write, &mut changed).await?;
                }
                write => apply(&transaction, write, &mut changed).await?,
            }
        }
        let committed = if record_alone {
            Committed::Unchanged
        } else {
            announce(&transaction, held.revision, &changed).await?;
            Committed::At(held.revision, changes_of(&transaction, changed, base).await?)
        };
        transaction.commit().await?;
        self.wrote();
        for entry in recorded {
            self.tell(|| Event::Change(Box::new(entry)));
        }
        Ok(committed)
    }
}

/// The latest time by which something on record may have been issued, and the beginning of what is issued from here on: `now`,
/// or just after the newest exchange. To be asked while every lane is held, when no grant is on its way to the record.
pub(crate) async fn after_all_on_record(db: &impl ConnectionTrait, now: Timestamp) -> Result<Timestamp, StoreError> {
    use exchange::{Column, Entity};
    let newest: Option<i64> = Entity::find()
        .select_only()
        .column(Column::Time)
        .order_by_desc(Column::Time)
        .order_by_desc(Column::Id)
        .limit(1)
        .into_tuple()
        .one(db)
        .await?;
    let after = Timestamp::from_micros(newest.unwrap_or_default().saturating_add(1));
    Ok(after.min(now.plus_seconds(SKEW_MAX)).max(now))
}

/// A write that ends credentials, with the time from which on they count.
async fn after_all_issued(db: &impl ConnectionTrait, write: &Write) -> Result<Write, StoreError> {
    let mut write = write.clone();
    let not_before = match &mut write {
        Write::PutServiceAccount(account) => &mut account.credentials_not_before,
        Write::PutTrust { trust, .. } => &mut trust.credentials_not_before,
        Write::PutProvider(provider) => &mut provider.credentials_not_before,
        Write::PutSubjectStatus(status) => &mut status.credentials_not_before,
        _ => return Ok(write),
    };
    if let Some(now) = *not_before {
        *not_before = Some(after_all_on_record(db, now).await?);
    }
    Ok(write)
}

/// Writes an audit entry; answers it as it is on record. `held` is what this transaction holds.
pub(crate) async fn put_on_record(
    db: &impl ConnectionTrait,
    held: Held,
    entry: &AuditEntry,
) -> Result<AuditEntry, StoreError> {
    let entry = AuditEntry { time: held.on_record(entry.time), ..entry.clone() };
    audit_entry::Entity::insert(audit_entry::Model::of(&entry).into_active_model()).exec_without_returning(db).await?;
    Ok(entry)
}

/// Moves the revision on from `from`; `None` when it is not there any more. Comes before all else that recorders or other
/// mutations may wait for, so that whoever waits here holds up nobody but those in the same queue.
///
/// First the row that mutations read, which lets one mutation on at a time. Then the lanes, each of which may be held by a
/// recorder for as long as one group commit takes: see [`hold_revision`](crate::store::hold_revision). From then on no
/// grant is committed before this transaction is.
pub(crate) async fn advance_revision(db: &impl ConnectionTrait, from: i64) -> Result<Option<Held>, StoreError> {
    use configuration_revision::{Column, Entity, ONLY};
    let moved = Entity::update_many()
        .col_expr(Column::Revision, Expr::col(Column::Revision).add(1_i64))
        .filter(Column::Id.eq(ONLY))
        .filter(Column::Revision.eq(from))
        .exec_with_returning(db)
        .await?;
    let Some(row) = moved.first() else { return Ok(None) };
    Entity::update_many()
        .col_expr(Column::Revision, Expr::val(row.revision))
        .filter(Column::Id.ne(ONLY))
        .exec(db)
        .await?;
    Ok(Some(Held::of(row)))
}

/// Writes the rows of the change feed for `revision`, and forgets those that are old.
pub(crate) async fn announce(
    db: &impl ConnectionTrait,
    revision: i64,
    changed: &BTreeSet<Changed>,
) -> Result<(), StoreError> {
    use configuration_change::{ActiveModel, Column, Entity};
    let rows: Vec<ActiveModel> = changed.iter().map(|changed| changed.row(revision).into_active_model()).collect();
    for chunk in rows.chunks(1_000) {
        Entity::insert_many(chunk.to_vec()).exec_without_returning(db).await?;
    }
    Entity::delete_many().filter(Column::Revision.lte(revision - FEED_KEPT)).exec(db).await?;
    Ok(())
}

async fn apply(db: &impl ConnectionTrait, write: &Write, changed: &mut BTreeSet<Changed>) -> Result<(), StoreError> {
    let named = match write {
        Write::PutOrganization(value) => {
            refuse_retired(db, ORGANIZATION, value.id.as_str()).await?;
            put(db, organization::Model::of(value)).await?;
            Changed::Organization(value.id.clone())
        }
        Write::DeleteOrganization(id) => {
            let deleted = organization::Entity::delete_by_id(id.to_string()).exec(db).await?;
            retire(db, deleted.rows_affected, ORGANIZATION, id.as_str()).await?;
            Changed::Organization(id.clone())
        }
        Write::PutSpace(value) => {
            refuse_retired(db, SPACE, value.id.as_str()).await?;
            put(db, space::Model::of(value)).await?;
            Changed::Space(value.id.clone())
        }
        Write::DeleteSpace(id) => {
            let deleted = space::Entity::delete_by_id(id.to_string()).exec(db).await?;
            retire(db, deleted.rows_affected, SPACE, id.as_str()).await?;
            Changed::Space(id.clone())
        }
        Write::PutRole(value) => {
            put(db, role::Model::of(value)).await?;
            Changed::Role(value.organization.clone(), value.name.clone())
        }
        Write::DeleteRole(organization, name) => {
            role::Entity::delete_by_id((organization.to_string(), name.to_string())).exec(db).await?;
            Changed::Role(organization.clone(), name.clone())
        }
        Write::PutServiceAccount(value) => {
            put(db, service_account::Model::of(value)).await?;
            Changed::ServiceAccount(value.id)
        }
        Write::DeleteServiceAccount(id) => {
            service_account::Entity::delete_by_id(id.0).exec(db).await?;
            Changed::ServiceAccount(*id)
        }
        Write::PutApiToken(value) => {
            put(db, api_token::Model::of(value)).await?;
            Changed::ApiToken(value.id)
        }
        Write::DeleteApiToken(id) => {
            api_token::Entity::delete_by_id(id.0).exec(db).await?;
            Changed::ApiToken(*id)
        }
        Write::PutProvider(value) => {
            put(db, provider::Model::of(value)).await?;
            Changed::Provider(value.id)
        }
        Write::DeleteProvider(id) => {
            let gone = provider::Entity::delete_by_id(id.0).exec(db).await?;
            forget_subjects(db, gone.rows_affected, *id).await?;
            Changed::Provider(*id)
        }
        Write::DeleteProviderIfUnused(id) => {
            let trusts = Query::select()
                .expr(Expr::val(1_i32))
                .from(trust::Entity)
                .and_where(trust::Column::ProviderId.eq(id.0))
                .take();
            let gone = provider::Entity::delete_by_id(id.0)
                .filter(provider::Column::Implicit.eq(true))
                .filter(Expr::exists(trusts).not())
                .exec(db)
                .await?;
            forget_subjects(db, gone.rows_affected, *id).await?;
            Changed::Provider(*id)
        }
        Write::PutTrust { trust, binding_fingerprint } => {
            put_trust(db, trust, *binding_fingerprint).await?;
            changed.insert(Changed::TrustsOf(trust.scope.clone()));
            Changed::Trust(trust.id)
        }
        Write::DeleteTrust(id) => {
            let scope = trust::Entity::find_by_id(id.0).one(db).await?.and_then(|row| Scope::parse_key(&row.scope));
            changed.extend(scope.map(Changed::TrustsOf));
            trust_usage::Entity::delete_by_id(id.0).exec(db).await?;
            trust::Entity::delete_by_id(id.0).exec(db).await?;
            Changed::Trust(*id)
        }
        Write::PutSubjectStatus(status) => {
            let row = subject_status::Model::of(status);
            let named = Changed::Subject(status.provider, row.subject_hash.clone());
            put(db, row).await?;
            named
        }
        Write::RevokeCredential { id, until } => {
            put(db, revoked_credential::Model { id: id.0, until: until.micros() }).await?;
            Changed::Credential(*id)
        }
        // These are put on record, and made into another, before they come here.
        Write::Audit(_) | Write::Ending(_) => return Ok(()),
    };
    changed.insert(named);
    Ok(())
}

/// What was said about the subjects of a provider that is gone.
async fn forget_subjects(db: &impl ConnectionTrait, gone: u64, provider: ProviderId) -> Result<(), StoreError> {
    if gone > 0 {
        let of_provider = subject_status::Column::ProviderId.eq(provider.0);
        subject_status::Entity::delete_many().filter(of_provider).exec(db).await?;
    }
    Ok(())
}

/// The kinds of things whose ids are chosen by their creators, and named by records that outlive them.
const ORGANIZATION: &str = "organization";
const SPACE: &str = "space";

/// Keeps the id of what was deleted from ever being used again: whoever got it would read what is recorded of its first
/// owner.
async fn retire(db: &impl ConnectionTrait, deleted: u64, kind: &str, id: &str) -> Result<(), StoreError> {
    if deleted == 0 {
        return Ok(());
    }
    let row = retired_id::Model { kind: kind.to_owned(), id: id.to_owned() };
    retired_id::Entity::insert(row.into_active_model()).on_conflict_do_nothing().exec_without_returning(db).await?;
    Ok(())
}

async fn refuse_retired(db: &impl ConnectionTrait, kind: &str, id: &str) -> Result<(), StoreError> {
    match retired_id::Entity::find_by_id((kind.to_owned(), id.to_owned())).one(db).await? {
        Some(_) => Err(StoreError::Conflict(Constraint::IdRetired)),
        None => Ok(()),
    }
}

async fn put_trust(db: &impl ConnectionTrait, value: &Trust, fingerprint: Option<[u8; 32]>) -> Result<(), StoreError> {
    put(db, trust::Model::of(value, fingerprint)).await?;
    let usage =
        trust_usage::Model { trust_id: value.id.0, scope: value.scope.key(), binding: value.binding, last_used_at: 0 };
    trust_usage::Entity::insert(usage.into_active_model()).on_conflict_do_nothing().exec_without_returning(db).await?;
    Ok(())
}

/// Inserts the row, or replaces the one with its primary key.
pub(crate) async fn put<M, A>(db: &impl ConnectionTrait, row: M) -> Result<(), StoreError>
where
    M: IntoActiveModel<A>,
    A: ActiveModelTrait,
{
    let key: Vec<_> = <A::Entity as EntityTrait>::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column).collect();
    let is_key = |column: &<A::Entity as EntityTrait>::Column| key.iter().any(|k| k.as_str() == column.as_str());
    let rest = <A::Entity as EntityTrait>::Column::iter().filter(|column| !is_key(column));
    let replace = OnConflict::columns(key.iter().copied()).update_columns(rest).to_owned();
    A::Entity::insert(row.into_active_model()).on_conflict(replace).exec_without_returning(db).await?;
    Ok(())
}
