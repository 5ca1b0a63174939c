//! From rows to a [`Snapshot`]: all of it, or what changed since one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ApiTokenId, CredentialId, OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use sallyport_domain::provider::Provider;
use sallyport_domain::role::RoleName;
use sallyport_domain::snapshot::{Change, Snapshot};
use sallyport_domain::subject_status::SubjectStatus;
use sallyport_domain::trust::CompiledTrust;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Value};
use uuid::Uuid;

use crate::change::Changed;
use crate::entity::{
    api_token, configuration_change, organization, provider, revoked_credential, role, service_account, space,
    subject_status, trust,
};
use crate::error::StoreError;
use crate::store::{Store, read_revision, retry, timed};

/// Rows read, and keys named, in one statement.
const CHUNK: usize = 2_000;

impl Store {
    /// All configuration, at one revision. A row that cannot be read, or a trust that no longer compiles, is logged and left
    /// out: nothing is granted by it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn load_snapshot(&self) -> Result<Snapshot, StoreError> {
        let load = retry(|| async {
            let transaction = self.begin_snapshot().await?;
            let snapshot = load_all(&transaction).await?;
            transaction.commit().await?;
            Ok(snapshot)
        });
        timed("load", load).await
    }

    /// The newest snapshot, made from `base` by what changed since; from everything, when that is no longer known.
    pub(crate) async fn advance(&self, base: &Snapshot) -> Result<Snapshot, StoreError> {
        let follow = retry(|| async {
            let transaction = self.begin_snapshot().await?;
            let next = advance_in(&transaction, base).await?;
            transaction.commit().await?;
            Ok(next)
        });
        timed("follow", follow).await
    }
}

async fn advance_in(db: &impl ConnectionTrait, base: &Snapshot) -> Result<Snapshot, StoreError> {
    use configuration_change::{Column, Entity};
    let revision = read_revision(db).await?;
    let behind = revision - base.revision();
    if behind == 0 {
        return Ok(base.clone());
    }
    if behind > 0 {
        let rows = Entity::find().filter(Column::Revision.gt(base.revision())).all(db).await?;
        let revisions: HashSet<i64> = rows.iter().map(|row| row.revision).collect();
        let changed: Option<BTreeSet<Changed>> = rows.iter().map(|row| Changed::parse(&row.kind, &row.key)).collect();
        if let Some(changed) = changed.filter(|_| i64::try_from(revisions.len()) == Ok(behind)) {
            let changes = changes_of(db, changed, base).await?;
            return Ok(base.with(revision, changes));
        }
    }
    tracing::warn!(from = base.revision(), to = revision, "the change feed has a gap: loading all configuration");
    load_all(db).await
}

async fn load_all(db: &impl ConnectionTrait) -> Result<Snapshot, StoreError> {
    let revision = read_revision(db).await?;
    let mut changes = Vec::new();
    for value in organization::Entity::find().all(db).await?.into_iter().filter_map(|row| readable(row.read())) {
        changes.push(Change::Organization(value.id.clone(), Some(Arc::new(value))));
    }
    for value in space::Entity::find().all(db).await?.into_iter().filter_map(|row| readable(row.read())) {
        changes.push(Change::Space(value.id.clone(), Some(Arc::new(value))));
    }
    for value in role::Entity::find().all(db).await?.into_iter().filter_map(|row| readable(row.read())) {
        changes.push(Change::Role(value.organization.clone(), value.name.clone(), Some(Arc::new(value))));
    }
    for value in api_token::Entity::find().all(db).await?.into_iter().filter_map(|row| readable(row.read())) {
        changes.push(Change::ApiToken(value.id, Some(Arc::new(value))));
    }
    for row in revoked_credential::Entity::find().all(db).await? {
        changes.push(revocation(&row));
    }
    let mut snapshot = Snapshot::default().with(revision, changes);
    // These may be many: a part at a time.
    let mut after = None;
    while let Some(rows) = next_chunk::<service_account::Entity>(db, service_account::Column::Id, after).await? {
        after = rows.last().map(|row| row.id);
        let values = rows.into_iter().filter_map(|row| readable(row.read()));
        snapshot = snapshot.with(revision, values.map(|v| Change::ServiceAccount(v.id, Some(Arc::new(v)))));
    }
    let mut after = None;
    while let Some(rows) = next_chunk::<provider::Entity>(db, provider::Column::Id, after).await? {
        after = rows.last().map(|row| row.id);
        let values = rows.into_iter().filter_map(|row| readable(row.read()));
        snapshot = snapshot.with(revision, values.map(|v| Change::Provider(v.id, Some(Arc::new(v)))));
    }
    let statuses = subject_status::Entity::find().all(db).await?;
    snapshot = snapshot.with(revision, statuses.into_iter().map(|row| Change::Subject(Arc::new(row.read()))));
    let mut after = None;
    while let Some(rows) = next_chunk::<trust::Entity>(db, trust::Column::Id, after).await? {
        after = rows.last().map(|row| row.id);
        let compiled: Vec<_> =
            rows.into_iter().filter_map(|row| compile(row, |id| snapshot.provider(id).cloned())).collect();
        snapshot =
            snapshot.with(revision, compiled.into_iter().map(|t| Change::Trust(t.trust().id, Some(Arc::new(t)))));
    }
    Ok(snapshot)
}

async fn next_chunk<E: EntityTrait>(
    db: &impl ConnectionTrait,
    id: E::Column,
    after: Option<Uuid>,
) -> Result<Option<Vec<E::Model>>, StoreError> {
    let mut select = E::find().order_by_asc(id).limit(CHUNK as u64);
    if let Some(after) = after {
        select = select.filter(id.gt(after));
    }
    let rows = select.all(db).await?;
    Ok((!rows.is_empty()).then_some(rows))
}

/// What is named in `changed`, as it now is. Trusts of a provider whose issuer or kind changed since `base` are among them,
/// since they are compiled against it.
pub(crate) async fn changes_of(
    db: &impl ConnectionTrait,
    changed: BTreeSet<Changed>,
    base: &Snapshot,
) -> Result<Vec<Change>, StoreError> {
    let mut named = Named::default();
    for changed in changed {
        named.add(changed);
    }
    let credentials = named.credentials.iter().map(|id| id.0);
    // One that is not there any more has ended, and was forgotten.
    let found =
        by_key::<revoked_credential::Entity, _, _>(db, revoked_credential::Column::Id, credentials, |row| row.id);
    let mut changes: Vec<Change> = found.await?.values().map(revocation).collect();

    let mut found = by_key::<organization::Entity, _, _>(
        db,
        organization::Column::Id,
        named.organizations.iter().map(ToString::to_string),
        |row| row.id.clone(),
    )
    .await?;
    for id in named.organizations {
        let value = found.remove(id.as_str()).and_then(|row| readable(row.read()));
        changes.push(Change::Organization(id, value.map(Arc::new)));
    }
    let mut found =
        by_key::<space::Entity, _, _>(db, space::Column::Id, named.spaces.iter().map(ToString::to_string), |row| {
            row.id.clone()
        })
        .await?;
    for id in named.spaces {
        let value = found.remove(id.as_str()).and_then(|row| readable(row.read()));
        changes.push(Change::Space(id, value.map(Arc::new)));
    }
    for (organization, name) in named.roles {
        let row = role::Entity::find_by_id((organization.to_string(), name.to_string())).one(db).await?;
        let value = row.and_then(|row| readable(row.read()));
        changes.push(Change::Role(organization, name, value.map(Arc::new)));
    }
    let mut found = by_key::<service_account::Entity, _, _>(
        db,
        service_account::Column::Id,
        named.accounts.iter().map(|id| id.0),
        |row| row.id,
    )
    .await?;
    for id in named.accounts {
        let value = found.remove(&id.0).and_then(|row| readable(row.read()));
        changes.push(Change::ServiceAccount(id, value.map(Arc::new)));
    }
    let mut found =
        by_key::<api_token::Entity, _, _>(db, api_token::Column::Id, named.tokens.iter().map(|id| id.0), |row| row.id)
            .await?;
    for id in named.tokens {
        let value = found.remove(&id.0).and_then(|row| readable(row.read()));
        changes.push(Change::ApiToken(id, value.map(Arc::new)));
    }

    // Before the providers, with which all that was said of their subjects goes.
    for (provider, hash) in named.subjects {
        let row = subject_status::Entity::find_by_id((provider.0, hash.clone())).one(db).await?;
        let status = match row {
            Some(row) => Some(row.read()),
            // It means nothing any more and was forgotten before we saw it: what we know says so from here on.
            None => base.subject_statuses(provider).find(|status| subject_status::hash(&status.subject) == hash).map(
                |known| SubjectStatus { disabled: false, credentials_not_before: None, ..SubjectStatus::clone(known) },
            ),
        };
        changes.extend(status.map(|status| Change::Subject(Arc::new(status))));
    }
    let mut providers: HashMap<ProviderId, Arc<Provider>> = HashMap::new();
    let mut found =
        by_key::<provider::Entity, _, _>(db, provider::Column::Id, named.providers.iter().map(|id| id.0), |row| row.id)
            .await?;
    for id in named.providers {
        let value = found.remove(&id.0).and_then(|row| readable(row.read())).map(Arc::new);
        if let Some(value) = &value {
            providers.insert(id, Arc::clone(value));
            let before = base.provider(id);
            if before.is_some_and(|old| old.kind != value.kind || old.issuer.key() != value.issuer.key()) {
                let all = trust::Entity::find().filter(trust::Column::ProviderId.eq(id.0)).all(db).await?;
                named.trusts.extend(all.into_iter().map(|row| TrustId(row.id)));
            }
        }
        changes.push(Change::Provider(id, value));
    }
    let mut found =
        by_key::<trust::Entity, _, _>(db, trust::Column::Id, named.trusts.iter().map(|id| id.0), |row| row.id).await?;
    for id in named.trusts {
        let provider_of = |id| providers.get(&id).or_else(|| base.provider(id)).cloned();
        let value = found.remove(&id.0).and_then(|row| compile(row, provider_of));
        changes.push(Change::Trust(id, value.map(Arc::new)));
    }
    Ok(changes)
}

/// What changed, by kind.
#[derive(Default)]
struct Named {
    organizations: Vec<OrganizationId>,
    spaces: Vec<SpaceId>,
    roles: Vec<(OrganizationId, RoleName)>,
    accounts: Vec<ServiceAccountId>,
    tokens: Vec<ApiTokenId>,
    providers: Vec<ProviderId>,
    trusts: BTreeSet<TrustId>,
    subjects: Vec<(ProviderId, String)>,
    credentials: Vec<CredentialId>,
}

impl Named {
    fn add(&mut self, changed: Changed) {
        match changed {
            Changed::Organization(id) => self.organizations.push(id),
            Changed::Space(id) => self.spaces.push(id),
            Changed::Role(organization, name) => self.roles.push((organization, name)),
            Changed::ServiceAccount(id) => self.accounts.push(id),
            Changed::ApiToken(id) => self.tokens.push(id),
            Changed::Provider(id) => self.providers.push(id),
            Changed::Trust(id) => drop(self.trusts.insert(id)),
            // Its trusts are named one by one as well.
            Changed::TrustsOf(_) => {}
            Changed::Subject(provider, hash) => self.subjects.push((provider, hash)),
            Changed::Credential(id) => self.credentials.push(id),
        }
    }
}

/// The rows with these keys.
pub(crate) async fn by_key<E, K, I>(
    db: &impl ConnectionTrait,
    column: E::Column,
    keys: I,
    key_of: impl Fn(&E::Model) -> K,
) -> Result<HashMap<K, E::Model>, StoreError>
where
    E: EntityTrait,
    K: Clone + Eq + Hash + Into<Value>,
    I: IntoIterator<Item = K>,
{
    let keys: Vec<K> = keys.into_iter().collect();
    let mut found = HashMap::with_capacity(keys.len());
    for chunk in keys.chunks(CHUNK) {
        let rows = E::find().filter(column.is_in(chunk.iter().cloned())).all(db).await?;
        found.extend(rows.into_iter().map(|row| (key_of(&row), row)));
    }
    Ok(found)
}

/// What was read, unless it cannot be: written by a newer version, or by other hands. It is left out, as if it were not
/// there, so that nothing is granted by it and all else goes on.
fn readable<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| tracing::error!(%error, "left out of the configuration: nothing is granted by it")).ok()
}

const fn revocation(row: &revoked_credential::Model) -> Change {
    Change::RevokedCredential(CredentialId(row.id), Timestamp::from_micros(row.until))
}

fn compile(row: trust::Model, provider_of: impl Fn(ProviderId) -> Option<Arc<Provider>>) -> Option<CompiledTrust> {
    let id = row.id;
    let trust = match row.read() {
        Ok(trust) => trust,
        Err(error) => {
            tracing::error!(trust = %id, %error, "a trust cannot be read: it matches nothing");
            return None;
        }
    };
    let Some(provider) = provider_of(trust.provider) else {
        tracing::error!(trust = %id, provider = %trust.provider, "a trust has no provider: it matches nothing");
        return None;
    };
    CompiledTrust::load(trust, &provider)
        .inspect_err(|error| tracing::error!(trust = %id, %error, "a trust no longer compiles: it matches nothing"))
        .ok()
}
