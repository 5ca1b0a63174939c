//! From rows to a [`Snapshot`]: all of it, what changed since one, or a part at a time.
//!
//! Service accounts and trusts may be many: then all else is loaded first, and of them what is asked for, while the rest
//! follows in the order of the primary keys. Whatever is added to a snapshot is read in the transaction that brought it up to
//! date, so that what was deleted meanwhile cannot come back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ApiTokenId, CredentialId, OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use sallyport_domain::provider::Provider;
use sallyport_domain::role::RoleName;
use sallyport_domain::scope::Scope;
use sallyport_domain::shared::Shared;
use sallyport_domain::snapshot::{Change, Snapshot};
use sallyport_domain::subject_status::SubjectStatus;
use sallyport_domain::trust::CompiledTrust;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select, Value};
use tokio::time::Instant;
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

/// What is loaded before anything is answered, and what later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadOptions {
    /// Up to so many trusts, and as many service accounts, are loaded at once; more of either in the background.
    pub at_once: u64,
    /// Up to so many trusts of a scope are loaded when an exchange needs them; those of a scope with more are waited for.
    pub of_scope: u64,
    /// Rows read in one transaction of the background.
    pub chunk: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { at_once: 10_000, of_scope: 1_000, chunk: 1_000 }
    }
}

/// What a request names, and so has to be in the snapshot it is decided by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needed<'a> {
    /// The trust with this client name.
    Client(&'a str),
    /// A trust.
    Trust(TrustId),
    /// All trusts of exactly this scope.
    TrustsOf(&'a Scope),
    /// A service account.
    ServiceAccount(ServiceAccountId),
}

/// The configuration in memory, at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// All of it, but for the rest. Where a trust is, its service account is.
    pub(crate) snapshot: Arc<Snapshot>,
    /// `None` when everything is in the snapshot.
    pub(crate) rest: Option<Rest>,
}

/// Which service accounts and trusts have yet to be read.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    /// When loading began.
    pub(crate) began: Instant,
    next: Next,
    /// The scopes of which every trust is there already.
    scopes: imbl::HashSet<Scope>,
    /// The scopes that have too many trusts to read them for one exchange.
    large: imbl::HashSet<Scope>,
}

/// Where to go on: after this primary key. Service accounts come before the trusts that rest on them.
#[derive(Clone, Copy, Debug)]
enum Next {
    Account(Option<Uuid>),
    Trust(Option<Uuid>),
}

/// What to read besides what changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Read<'a> {
    /// Nothing.
    Changes,
    /// The next of the rest.
    Next,
    /// What is needed and not there.
    Needed(&'a [Needed<'a>]),
}

impl Loaded {
    /// The snapshot, which holds everything.
    ///
    /// # Errors
    /// [`StoreError::Loading`] when it does not yet.
    pub(crate) fn whole(self) -> Result<Arc<Snapshot>, StoreError> {
        if self.rest.is_none() { Ok(self.snapshot) } else { Err(StoreError::Loading) }
    }

    /// Whether something needed is waited for, rather than read.
    pub(crate) fn must_wait(&self, needed: &[Needed<'_>]) -> bool {
        let Some(rest) = &self.rest else { return false };
        needed.iter().any(|needed| matches!(needed, Needed::TrustsOf(scope) if rest.large.contains(*scope)))
    }

    /// Whether there is nothing left to read.
    pub(crate) fn has(&self, read: Read<'_>) -> bool {
        match read {
            Read::Changes => true,
            Read::Next => self.rest.is_none(),
            Read::Needed(needed) => needed.iter().all(|needed| self.holds(*needed)),
        }
    }

    /// Whether what is needed is in the snapshot, if it is anywhere.
    fn holds(&self, needed: Needed<'_>) -> bool {
        let Some(rest) = &self.rest else { return true };
        match needed {
            Needed::Client(name) => self.snapshot.candidate_by_client(name).is_some(),
            Needed::Trust(id) => self.snapshot.trust(id).is_some(),
            Needed::TrustsOf(scope) => {
                rest.scopes.contains(scope) || rest.large.contains(scope) || !self.snapshot.has_scope(scope)
            }
            Needed::ServiceAccount(id) => self.snapshot.service_account(id).is_some(),
        }
    }

    fn add(&mut self, changes: Vec<Change>) {
        self.snapshot = Arc::new(self.snapshot.with(self.snapshot.revision(), changes));
    }
}

impl Store {
    /// All configuration, at one revision. A row that cannot be read, or a trust that no longer compiles, is logged and left
    /// out: nothing is granted by it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn load_snapshot(&self) -> Result<Snapshot, StoreError> {
        let everything = LoadOptions { chunk: CHUNK as u64, ..LoadOptions::default() };
        let load = retry(|| async {
            let transaction = self.begin_snapshot().await?;
            let loaded = load_rest(&transaction, load_base(&transaction).await?, everything).await?;
            transaction.commit().await?;
            Ok(Arc::unwrap_or_clone(loaded.snapshot))
        });
        timed("load", load).await
    }

    /// What is loaded before anything is answered.
    pub(crate) async fn load(&self, options: LoadOptions) -> Result<Loaded, StoreError> {
        let load = retry(|| async {
            let transaction = self.begin_snapshot().await?;
            let loaded = begin(&transaction, options).await?;
            transaction.commit().await?;
            Ok(loaded)
        });
        timed("load", load).await
    }

    /// The newest configuration, made from `base` by what changed since, and by what else is to be read. When it is no longer
    /// known what changed, loading begins anew.
    pub(crate) async fn advance(
        &self,
        base: &Loaded,
        read: Read<'_>,
        options: LoadOptions,
    ) -> Result<Loaded, StoreError> {
        let follow = retry(|| async {
            let transaction = self.begin_snapshot().await?;
            let loaded = advance_in(&transaction, base, options).await?;
            let loaded = match read {
                Read::Changes => loaded,
                Read::Next => load_next(&transaction, loaded, options).await?,
                Read::Needed(needed) => load_needed(&transaction, loaded, needed, options).await?,
            };
            transaction.commit().await?;
            Ok(loaded)
        });
        timed("follow", follow).await
    }
}

async fn advance_in(db: &impl ConnectionTrait, base: &Loaded, options: LoadOptions) -> Result<Loaded, StoreError> {
    use configuration_change::{Column, Entity};
    let revision = read_revision(db).await?;
    let snapshot = &base.snapshot;
    let behind = revision - snapshot.revision();
    if behind == 0 {
        return Ok(base.clone());
    }
    if behind > 0 {
        let rows = Entity::find().filter(Column::Revision.gt(snapshot.revision())).all(db).await?;
        let revisions: HashSet<i64> = rows.iter().map(|row| row.revision).collect();
        let changed: Option<BTreeSet<Changed>> = rows.iter().map(|row| Changed::parse(&row.kind, &row.key)).collect();
        if let Some(changed) = changed.filter(|_| i64::try_from(revisions.len()) == Ok(behind)) {
            let changes = changes_of(db, changed, snapshot).await?;
            return Ok(Loaded { snapshot: Arc::new(snapshot.with(revision, changes)), rest: base.rest.clone() });
        }
    }
    tracing::warn!(from = snapshot.revision(), to = revision, "the change feed has a gap: loading all configuration");
    begin(db, options).await
}

/// Everything when there is little of it, and otherwise all but service accounts and trusts.
async fn begin(db: &impl ConnectionTrait, options: LoadOptions) -> Result<Loaded, StoreError> {
    let loaded = load_base(db).await?;
    let trusts = trust::Entity::find().order_by_asc(trust::Column::Id);
    let accounts = service_account::Entity::find().order_by_asc(service_account::Column::Id);
    if more_than(db, options.at_once, trusts, trust::Column::Id).await?
        || more_than(db, options.at_once, accounts, service_account::Column::Id).await?
    {
        tracing::info!("there are many trusts: they are loaded in the background");
        return Ok(loaded);
    }
    load_rest(db, loaded, LoadOptions { chunk: CHUNK as u64, ..options }).await
}

/// Whether there are more rows than so many, without counting them all.
async fn more_than<E: EntityTrait>(
    db: &impl ConnectionTrait,
    limit: u64,
    rows: Select<E>,
    id: E::Column,
) -> Result<bool, StoreError> {
    let one_more: Option<Uuid> = rows.select_only().column(id).offset(limit).limit(1).into_tuple().one(db).await?;
    Ok(one_more.is_some())
}

/// All but service accounts and trusts.
async fn load_base(db: &impl ConnectionTrait) -> Result<Loaded, StoreError> {
    let began = Instant::now();
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
    while let Some(rows) = next_chunk::<provider::Entity>(db, provider::Column::Id, after, CHUNK as u64).await? {
        after = rows.last().map(|row| row.id);
        let values = rows.into_iter().filter_map(|row| readable(row.read()));
        snapshot = snapshot.with(revision, values.map(|v| Change::Provider(v.id, Some(Arc::new(v)))));
    }
    let statuses = subject_status::Entity::find().all(db).await?;
    snapshot = snapshot.with(revision, statuses.into_iter().map(|row| Change::Subject(Arc::new(row.read()))));
    let rest = Rest { began, next: Next::Account(None), scopes: imbl::HashSet::new(), large: imbl::HashSet::new() };
    Ok(Loaded { snapshot: Arc::new(snapshot), rest: Some(rest) })
}

/// All that has yet to be read.
async fn load_rest(db: &impl ConnectionTrait, mut loaded: Loaded, options: LoadOptions) -> Result<Loaded, StoreError> {
    while loaded.rest.is_some() {
        loaded = load_next(db, loaded, options).await?;
    }
    Ok(loaded)
}

/// The next of what has yet to be read.
async fn load_next(db: &impl ConnectionTrait, mut loaded: Loaded, options: LoadOptions) -> Result<Loaded, StoreError> {
    let Some(rest) = &mut loaded.rest else { return Ok(loaded) };
    match rest.next {
        Next::Account(after) => {
            use service_account::{Column, Entity};
            let Some(rows) = next_chunk::<Entity>(db, Column::Id, after, options.chunk).await? else {
                rest.next = Next::Trust(None);
                return Ok(loaded);
            };
            rest.next = Next::Account(rows.last().map(|row| row.id));
            loaded.add(accounts(rows).collect());
        }
        Next::Trust(after) => {
            let Some(rows) = next_chunk::<trust::Entity>(db, trust::Column::Id, after, options.chunk).await? else {
                loaded.rest = None;
                return Ok(loaded);
            };
            rest.next = Next::Trust(rows.last().map(|row| row.id));
            let changes = trusts(db, rows, &loaded.snapshot).await?;
            loaded.add(changes);
        }
    }
    Ok(loaded)
}

/// What is needed and not there.
async fn load_needed(
    db: &impl ConnectionTrait,
    mut loaded: Loaded,
    needed: &[Needed<'_>],
    options: LoadOptions,
) -> Result<Loaded, StoreError> {
    use trust::{Column, Entity};
    for needed in needed {
        if loaded.holds(*needed) {
            continue;
        }
        let changes = match needed {
            Needed::ServiceAccount(id) => accounts(service_account::Entity::find_by_id(id.0).all(db).await?).collect(),
            Needed::Trust(id) => trusts(db, Entity::find_by_id(id.0).all(db).await?, &loaded.snapshot).await?,
            Needed::Client(name) => {
                let rows = Entity::find().filter(Column::ClientName.eq(*name)).all(db).await?;
                trusts(db, rows, &loaded.snapshot).await?
            }
            // The most specific of them wins: without all of them there is no telling which.
            Needed::TrustsOf(scope) => {
                let rows = Entity::find().filter(Column::Scope.eq(scope.key()));
                if more_than(db, options.of_scope, rows.clone(), Column::Id).await? {
                    // Remembered, so that it is not found out again for each exchange.
                    loaded.rest.as_mut().map(|rest| rest.large.insert(Scope::clone(scope)));
                    continue;
                }
                trusts(db, rows.all(db).await?, &loaded.snapshot).await?
            }
        };
        loaded.add(changes);
        if let (Needed::TrustsOf(scope), Some(rest)) = (needed, &mut loaded.rest) {
            rest.scopes.insert(Scope::clone(scope));
        }
    }
    Ok(loaded)
}

fn accounts(rows: impl IntoIterator<Item = service_account::Model>) -> impl Iterator<Item = Change> {
    let mut shared = Shared::default();
    rows.into_iter().filter_map(|row| readable(row.read())).map(move |mut account| {
        shared.service_account(&mut account);
        Change::ServiceAccount(account.id, Some(Arc::new(account)))
    })
}

/// These trusts, and those of their service accounts that `snapshot` does not hold.
async fn trusts(
    db: &impl ConnectionTrait,
    rows: Vec<trust::Model>,
    snapshot: &Snapshot,
) -> Result<Vec<Change>, StoreError> {
    let mut shared = Shared::default();
    let provider_of = |id| snapshot.provider(id).cloned();
    let compiled: Vec<_> = rows.into_iter().filter_map(|row| compile(row, &mut shared, provider_of)).collect();
    let mut changes = accounts_of(db, &compiled, |id| snapshot.service_account(id).is_some()).await?;
    changes.extend(compiled.into_iter().map(|trust| Change::Trust(trust.trust().id, Some(Arc::new(trust)))));
    Ok(changes)
}

/// The service accounts of these trusts, but for those that are known.
async fn accounts_of(
    db: &impl ConnectionTrait,
    trusts: &[CompiledTrust],
    known: impl Fn(ServiceAccountId) -> bool,
) -> Result<Vec<Change>, StoreError> {
    let needed: BTreeSet<_> =
        trusts.iter().map(|trust| trust.trust().service_account).filter(|id| !known(*id)).map(|id| id.0).collect();
    let found = by_key::<service_account::Entity, _, _>(db, service_account::Column::Id, needed, |row| row.id).await?;
    Ok(accounts(found.into_values()).collect())
}

async fn next_chunk<E: EntityTrait>(
    db: &impl ConnectionTrait,
    id: E::Column,
    after: Option<Uuid>,
    chunk: u64,
) -> Result<Option<Vec<E::Model>>, StoreError> {
    let mut select = E::find().order_by_asc(id).limit(chunk);
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
    let accounts: HashSet<ServiceAccountId> = named.accounts.iter().copied().collect();
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
    let (mut compiled, mut shared) = (Vec::with_capacity(found.len()), Shared::default());
    for id in named.trusts {
        let provider_of = |id| providers.get(&id).or_else(|| base.provider(id)).cloned();
        match found.remove(&id.0).and_then(|row| compile(row, &mut shared, provider_of)) {
            Some(trust) => compiled.push(trust),
            None => changes.push(Change::Trust(id, None)),
        }
    }
    // While not all is loaded, a trust that changed may be the first to need its service account.
    let known = |id| accounts.contains(&id) || base.service_account(id).is_some();
    changes.extend(accounts_of(db, &compiled, known).await?);
    changes.extend(compiled.into_iter().map(|trust| Change::Trust(trust.trust().id, Some(Arc::new(trust)))));
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

fn compile(
    row: trust::Model,
    shared: &mut Shared,
    provider_of: impl Fn(ProviderId) -> Option<Arc<Provider>>,
) -> Option<CompiledTrust> {
    let id = row.id;
    let mut trust = match row.read() {
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
    shared.trust(&mut trust);
    CompiledTrust::load(trust, &provider)
        .inspect_err(|error| tracing::error!(trust = %id, %error, "a trust no longer compiles: it matches nothing"))
        .ok()
}
