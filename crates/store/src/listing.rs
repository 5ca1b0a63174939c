//! Pages of what is kept, and a few look-ups. Finders take the scope first: what is not in it is not found.
//! None of this lies on the way of an exchange; it reads the database, not the snapshot. Before bindings are listed by their last
//! use, what was gathered of that is written.

use std::collections::HashMap;
use std::sync::Arc;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::event::AuditEntry;
use sallyport_domain::exchange::{CredentialKind, ExchangeRecord};
use sallyport_domain::id::{CredentialId, ExchangeId, OrganizationId, ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::issuer::IssuerKey;
use sallyport_domain::principal::{ApiToken, ServiceAccount};
use sallyport_domain::provider::Provider;
use sallyport_domain::role::Role;
use sallyport_domain::scope::{Organization, Scope, Space};
use sallyport_domain::subject_status::SubjectStatus;
use sallyport_domain::trust::Trust;
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use tokio::time::timeout;

use crate::entity::{
    api_token, audit_entry, exchange, organization, provider, role, service_account, space, subject_status, trust,
    trust_usage,
};
use crate::error::StoreError;
use crate::load::by_key;
use crate::paging::{ID, Key, Keyset, NUMBER, Page, PageRequest, TEXT, page};
use crate::store::{ANSWER, Store, apart, timed};

/// What bindings can be ordered by; the id breaks ties.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BindingOrderField {
    /// The label.
    Name,
    /// The issuer, as given.
    IssuerUri,
    /// When it was created.
    #[default]
    CreateTime,
    /// When it last granted; one that never did counts as oldest.
    LastUsed,
}

/// The order of a list of bindings; by default the oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BindingOrder {
    /// By what.
    pub field: BindingOrderField,
    /// Largest first.
    pub descending: bool,
}

/// A binding with its parts.
#[derive(Clone, Debug)]
pub struct BindingRow {
    /// The trust it is a view of.
    pub trust: Trust,
    /// The service account it owns.
    pub account: ServiceAccount,
    /// Its provider.
    pub provider: Arc<Provider>,
    /// When it last granted; `None` for never.
    pub last_used: Option<Timestamp>,
}

/// A trust, and when it last granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustRow {
    /// The trust.
    pub trust: Trust,
    /// When it last granted; `None` for never.
    pub last_used: Option<Timestamp>,
}

/// An exchange as it is listed: the record, whose `replay` is always `None`.
pub type ExchangeRow = ExchangeRecord;

/// Which exchanges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeFilter {
    /// Of this scope and everything below.
    pub scope: Scope,
    /// Only the one with this reference.
    pub reference: Option<ExchangeId>,
    /// Only granted ones, or only refused ones.
    pub granted: Option<bool>,
}

impl ExchangeFilter {
    /// All exchanges of a scope and below.
    pub const fn of(scope: Scope) -> Self {
        Self { scope, reference: None, granted: None }
    }
}

/// What is kept of a credential that an exchange gave out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCredential {
    /// Its id.
    pub id: CredentialId,
    /// What sort.
    pub kind: CredentialKind,
    /// Whose it is.
    pub account: ServiceAccountId,
    /// The trust it came from.
    pub trust: Option<TrustId>,
    /// Whether that trust is a binding.
    pub binding: bool,
    /// The provider that verified.
    pub provider: Option<ProviderId>,
    /// The scope it was granted in.
    pub scope: Scope,
    /// Effective roles, as MRNs.
    pub roles: Vec<String>,
    /// When it was issued: when its exchange began, to the millisecond.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Key pairs: the P-384 public key (SEC1, uncompressed).
    pub public_key: Option<Vec<u8>>,
    /// Issuer of the subject token.
    pub issuer: String,
    /// Subject of the subject token.
    pub subject: String,
}

macro_rules! listings_of_a_scope {
    ($($(#[$doc:meta])* $list:ident, $(#[$count_doc:meta])* $count:ident: $entity:ident => $noun:ty;)*) => {
        impl Store {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// A bad cursor, or the database.
            pub async fn $list(&self, scope: &Scope, request: &PageRequest) -> Result<Page<$noun>, StoreError> {
                let select = $entity::Entity::find().filter($entity::Column::Scope.eq(scope.key()));
                let order = Keyset {
                    name: stringify!($entity),
                    sort: $entity::Column::CreatedAt,
                    id: $entity::Column::Id,
                    descending: false,
                };
                page(self.reader(), select, order, (&NUMBER, &ID), request, |row| {
                    (Key::Number(row.created_at), Key::Id(row.id))
                })
                .await?
                .try_map($entity::Model::read)
            }

            $(#[$count_doc])*
            ///
            /// # Errors
            /// The database.
            pub async fn $count(&self, scope: &Scope) -> Result<u64, StoreError> {
                Ok($entity::Entity::find().filter($entity::Column::Scope.eq(scope.key())).count(self.reader()).await?)
            }
        )*}
    };
}

listings_of_a_scope! {
    /// The providers of exactly this scope, oldest first.
    list_providers,
    /// How many [`Self::list_providers`] lists.
    count_providers: provider => Provider;
    /// The service accounts of exactly this scope, oldest first; those that bindings own among them.
    list_service_accounts,
    /// How many [`Self::list_service_accounts`] lists.
    count_service_accounts: service_account => ServiceAccount;
    /// The API tokens of exactly this scope, oldest first.
    list_api_tokens,
    /// How many [`Self::list_api_tokens`] lists.
    count_api_tokens: api_token => ApiToken;
}

impl Store {
    /// The bindings of exactly this scope.
    ///
    /// # Errors
    /// A bad cursor (one of another order is), or the database.
    pub async fn list_bindings(
        &self,
        scope: &Scope,
        order: BindingOrder,
        request: &PageRequest,
    ) -> Result<Page<BindingRow>, StoreError> {
        let trusts = if order.field == BindingOrderField::LastUsed {
            self.bindings_by_usage(scope, order.descending, request).await?
        } else {
            let (keyset, kind) = binding_keyset(order);
            page(self.reader(), trusts_in(scope, Some(true)), keyset, (&kind, &ID), request, |row| {
                let sort = match order.field {
                    BindingOrderField::Name => Key::Text(row.name.clone()),
                    BindingOrderField::IssuerUri => Key::Text(row.issuer.clone()),
                    BindingOrderField::CreateTime | BindingOrderField::LastUsed => Key::Number(row.created_at),
                };
                (sort, Key::Id(row.id))
            })
            .await?
        };
        self.with_parts(trusts).await
    }

    /// How many bindings are in exactly this scope.
    ///
    /// # Errors
    /// The database.
    pub async fn count_bindings(&self, scope: &Scope) -> Result<u64, StoreError> {
        Ok(trusts_in(scope, Some(true)).count(self.reader()).await?)
    }

    async fn bindings_by_usage(
        &self,
        scope: &Scope,
        descending: bool,
        request: &PageRequest,
    ) -> Result<Page<trust::Model>, StoreError> {
        let (store, of) = (self.clone(), scope.clone());
        // Who lists may have to wait for the processor, and must not keep the writer meanwhile.
        let writing = async move {
            match timeout(ANSWER, store.write_uses(Some(&of))).await {
                Ok(done) => done,
                Err(_) => Err(StoreError::timed_out("writing when bindings were last used")),
            }
        };
        match apart(writing).await {
            Ok(()) => {}
            failed => tracing::warn!(?failed, "bindings are listed by their last use as far as it is written"),
        }
        let usages = page(self.reader(), usages_in(scope), usage_keyset(descending), (&NUMBER, &ID), request, |row| {
            (Key::Number(row.last_used_at), Key::Id(row.trust_id))
        })
        .await?;
        let ids: Vec<_> = usages.items.iter().map(|usage| usage.trust_id).collect();
        let mut found = by_key::<trust::Entity, _, _>(self.reader(), trust::Column::Id, ids, |row| row.id).await?;
        let items = usages.items.iter().filter_map(|usage| found.remove(&usage.trust_id)).collect();
        Ok(Page { items, end_cursor: usages.end_cursor, has_next: usages.has_next })
    }

    /// Adds to each binding its account, provider and last use. A binding removed meanwhile is left out.
    async fn with_parts(&self, page: Page<trust::Model>) -> Result<Page<BindingRow>, StoreError> {
        let db = self.reader();
        let trusts = ids_of(&page.items);
        let accounts = page.items.iter().map(|row| row.service_account_id);
        let mut providers: Vec<_> = page.items.iter().map(|row| row.provider_id).collect();
        providers.sort_unstable();
        providers.dedup();
        // At once: each by itself would be a way to the database and back.
        let (used, mut accounts, rows) = tokio::try_join!(
            self.last_used(&trusts),
            by_key::<service_account::Entity, _, _>(db, service_account::Column::Id, accounts, |row| row.id),
            by_key::<provider::Entity, _, _>(db, provider::Column::Id, providers, |row| row.id),
        )?;
        // Each is read once, however many bindings share it.
        let mut providers = HashMap::with_capacity(rows.len());
        for (id, row) in rows {
            providers.insert(id, Arc::new(row.read()?));
        }
        let mut items = Vec::with_capacity(page.items.len());
        for row in page.items {
            let (Some(account), Some(provider)) =
                (accounts.remove(&row.service_account_id), providers.get(&row.provider_id))
            else {
                continue;
            };
            let trust = row.read()?;
            items.push(BindingRow {
                last_used: used.get(&trust.id).copied(),
                trust,
                account: account.read()?,
                provider: Arc::clone(provider),
            });
        }
        Ok(Page { items, end_cursor: page.end_cursor, has_next: page.has_next })
    }

    /// The trusts of exactly this scope, oldest first; bindings among them if asked for.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_trusts(
        &self,
        scope: &Scope,
        bindings_too: bool,
        request: &PageRequest,
    ) -> Result<Page<TrustRow>, StoreError> {
        let select = trusts_in(scope, (!bindings_too).then_some(false));
        let (keyset, kind) = binding_keyset(BindingOrder::default());
        let trusts = page(self.reader(), select, keyset, (&kind, &ID), request, |row| {
            (Key::Number(row.created_at), Key::Id(row.id))
        })
        .await?;
        let used = self.last_used(&ids_of(&trusts.items)).await?;
        trusts.try_map(|row| {
            let trust = row.read()?;
            Ok(TrustRow { last_used: used.get(&trust.id).copied(), trust })
        })
    }

    /// How many [`Self::list_trusts`] lists.
    ///
    /// # Errors
    /// The database.
    pub async fn count_trusts(&self, scope: &Scope, bindings_too: bool) -> Result<u64, StoreError> {
        Ok(trusts_in(scope, (!bindings_too).then_some(false)).count(self.reader()).await?)
    }

    /// The trusts that lead to this service account, by id, at most `limit`.
    ///
    /// # Errors
    /// The database.
    pub async fn trusts_of_account(&self, account: ServiceAccountId, limit: u64) -> Result<Vec<TrustId>, StoreError> {
        self.trust_ids(trust::Column::ServiceAccountId.eq(account.0), limit).await
    }

    /// The trusts that use this provider, by id, at most `limit`.
    ///
    /// # Errors
    /// The database.
    pub async fn trusts_of_provider(&self, provider: ProviderId, limit: u64) -> Result<Vec<TrustId>, StoreError> {
        self.trust_ids(trust::Column::ProviderId.eq(provider.0), limit).await
    }

    async fn trust_ids(&self, which: sea_orm::sea_query::SimpleExpr, limit: u64) -> Result<Vec<TrustId>, StoreError> {
        let ids: Vec<uuid::Uuid> = trust::Entity::find()
            .select_only()
            .column(trust::Column::Id)
            .filter(which)
            .order_by_asc(trust::Column::Id)
            .limit(limit)
            .into_tuple()
            .all(self.reader())
            .await?;
        Ok(ids.into_iter().map(TrustId).collect())
    }

    /// The provider of exactly this scope for this issuer; there is one at most.
    ///
    /// # Errors
    /// The database.
    pub async fn find_provider(&self, scope: &Scope, issuer: &IssuerKey) -> Result<Option<Provider>, StoreError> {
        let row = provider::Entity::find()
            .filter(provider::Column::Scope.eq(scope.key()))
            .filter(provider::Column::IssuerKey.eq(issuer.as_str()))
            .one(self.reader())
            .await?;
        row.map(provider::Model::read).transpose()
    }

    /// The subjects of a provider that something was said about, longest unchanged first.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_subject_statuses(
        &self,
        provider: ProviderId,
        request: &PageRequest,
    ) -> Result<Page<SubjectStatus>, StoreError> {
        use subject_status::{Column, Entity, Model};
        let select = Entity::find().filter(Column::ProviderId.eq(provider.0));
        let order =
            Keyset { name: "subject_status", sort: Column::UpdatedAt, id: Column::SubjectHash, descending: false };
        page(self.reader(), select, order, (&NUMBER, &TEXT), request, |row| {
            (Key::Number(row.updated_at), Key::Text(row.subject_hash.clone()))
        })
        .await?
        .try_map(|row| Ok(Model::read(row)))
    }

    /// How many [`Self::list_subject_statuses`] lists.
    ///
    /// # Errors
    /// The database.
    pub async fn count_subject_statuses(&self, provider: ProviderId) -> Result<u64, StoreError> {
        use subject_status::{Column, Entity};
        Ok(Entity::find().filter(Column::ProviderId.eq(provider.0)).count(self.reader()).await?)
    }

    /// How many trusts lead to this service account.
    ///
    /// # Errors
    /// The database.
    pub async fn count_trusts_of_account(&self, account: ServiceAccountId) -> Result<u64, StoreError> {
        let of = trust::Column::ServiceAccountId.eq(account.0);
        Ok(trust::Entity::find().filter(of).count(self.reader()).await?)
    }

    /// How many trusts use this provider.
    ///
    /// # Errors
    /// The database.
    pub async fn count_trusts_of_provider(&self, provider: ProviderId) -> Result<u64, StoreError> {
        Ok(trust::Entity::find().filter(trust::Column::ProviderId.eq(provider.0)).count(self.reader()).await?)
    }

    /// All organizations, oldest first: for principals of the platform.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_organizations(&self, request: &PageRequest) -> Result<Page<Organization>, StoreError> {
        use organization::{Column, Entity, Model};
        let order = Keyset { name: "organization", sort: Column::CreatedAt, id: Column::Id, descending: false };
        page(self.reader(), Entity::find(), order, (&NUMBER, &TEXT), request, |row| {
            (Key::Number(row.created_at), Key::Text(row.id.clone()))
        })
        .await?
        .try_map(Model::read)
    }

    /// How many organizations there are.
    ///
    /// # Errors
    /// The database.
    pub async fn count_organizations(&self) -> Result<u64, StoreError> {
        Ok(organization::Entity::find().count(self.reader()).await?)
    }

    /// The spaces of an organization, oldest first.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_spaces(
        &self,
        organization: &OrganizationId,
        request: &PageRequest,
    ) -> Result<Page<Space>, StoreError> {
        use space::{Column, Entity, Model};
        let select = Entity::find().filter(Column::Organization.eq(organization.as_str()));
        let order = Keyset { name: "space", sort: Column::CreatedAt, id: Column::Id, descending: false };
        page(self.reader(), select, order, (&NUMBER, &TEXT), request, |row| {
            (Key::Number(row.created_at), Key::Text(row.id.clone()))
        })
        .await?
        .try_map(Model::read)
    }

    /// How many spaces an organization has.
    ///
    /// # Errors
    /// The database.
    pub async fn count_spaces(&self, organization: &OrganizationId) -> Result<u64, StoreError> {
        let of = space::Column::Organization.eq(organization.as_str());
        Ok(space::Entity::find().filter(of).count(self.reader()).await?)
    }

    /// The roles that an organization defined, by name.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_roles(
        &self,
        organization: &OrganizationId,
        request: &PageRequest,
    ) -> Result<Page<Role>, StoreError> {
        use role::{Column, Entity, Model};
        let select = Entity::find().filter(Column::Organization.eq(organization.as_str()));
        let order = Keyset { name: "role", sort: Column::Organization, id: Column::Name, descending: false };
        page(self.reader(), select, order, (&TEXT, &TEXT), request, |row| {
            (Key::Text(row.organization.clone()), Key::Text(row.name.clone()))
        })
        .await?
        .try_map(Model::read)
    }

    /// How many roles an organization defined.
    ///
    /// # Errors
    /// The database.
    pub async fn count_roles(&self, organization: &OrganizationId) -> Result<u64, StoreError> {
        let of = role::Column::Organization.eq(organization.as_str());
        Ok(role::Entity::find().filter(of).count(self.reader()).await?)
    }

    /// Exchanges, newest first.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_exchanges(
        &self,
        filter: &ExchangeFilter,
        request: &PageRequest,
    ) -> Result<Page<ExchangeRow>, StoreError> {
        use exchange::{Column, Model};
        let order = Keyset { name: "exchange", sort: Column::Time, id: Column::Id, descending: true };
        page(self.reader(), exchanges_in(filter), order, (&NUMBER, &ID), request, |row| {
            (Key::Number(row.time), Key::Id(row.id))
        })
        .await?
        .try_map(Model::read)
    }

    /// How many exchanges [`Self::list_exchanges`] lists.
    ///
    /// # Errors
    /// The database.
    pub async fn count_exchanges(&self, filter: &ExchangeFilter) -> Result<u64, StoreError> {
        Ok(exchanges_in(filter).count(self.reader()).await?)
    }

    /// The credential that an exchange in exactly this scope gave to this service account; one look-up. Whether it is
    /// revoked, or suspended with its trust or account, is for the snapshot to say.
    ///
    /// # Errors
    /// The database.
    pub async fn find_credential(
        &self,
        scope: &Scope,
        account: ServiceAccountId,
        id: CredentialId,
    ) -> Result<Option<StoredCredential>, StoreError> {
        let find = exchange::Entity::find_by_id(id.0)
            .filter(exchange::Column::Scope.eq(scope.key()))
            .filter(exchange::Column::ServiceAccountId.eq(account.0));
        let row = timed("credential", find.one(self.reader())).await?;
        let Some(row) = row else { return Ok(None) };
        let Some(credential) = row.credential()? else { return Ok(None) };
        let record = row.read()?;
        Ok(Some(StoredCredential {
            id,
            kind: credential.kind,
            account,
            trust: record.trust,
            binding: record.binding,
            provider: record.provider,
            scope: record.scope,
            roles: credential.roles,
            // By its id: the record's own time may be later, when the record was late.
            issued_at: id.made_at().unwrap_or(record.time),
            expires_at: credential.expires_at,
            public_key: credential.public_key,
            issuer: record.issuer,
            subject: record.subject,
        }))
    }

    /// Management changes of a scope and everything below, newest first.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn list_audit(&self, scope: &Scope, request: &PageRequest) -> Result<Page<AuditEntry>, StoreError> {
        use audit_entry::{Column, Model};
        let order = Keyset { name: "audit", sort: Column::Time, id: Column::Id, descending: true };
        page(self.reader(), audit_in(scope), order, (&NUMBER, &ID), request, |row| {
            (Key::Number(row.time), Key::Id(row.id))
        })
        .await?
        .try_map(Model::read)
    }

    /// How many entries [`Self::list_audit`] lists.
    ///
    /// # Errors
    /// The database.
    pub async fn count_audit(&self, scope: &Scope) -> Result<u64, StoreError> {
        Ok(audit_in(scope).count(self.reader()).await?)
    }
}

fn ids_of(rows: &[trust::Model]) -> Vec<TrustId> {
    rows.iter().map(|row| TrustId(row.id)).collect()
}

pub(crate) fn trusts_in(scope: &Scope, binding: Option<bool>) -> Select<trust::Entity> {
    let select = trust::Entity::find().filter(trust::Column::Scope.eq(scope.key()));
    match binding {
        Some(binding) => select.filter(trust::Column::Binding.eq(binding)),
        None => select,
    }
}

pub(crate) fn usages_in(scope: &Scope) -> Select<trust_usage::Entity> {
    trust_usage::Entity::find()
        .filter(trust_usage::Column::Scope.eq(scope.key()))
        .filter(trust_usage::Column::Binding.eq(true))
}

pub(crate) const fn usage_keyset(descending: bool) -> Keyset<trust_usage::Column> {
    use trust_usage::Column;
    Keyset { name: "last_used", sort: Column::LastUsedAt, id: Column::TrustId, descending }
}

pub(crate) fn binding_keyset(order: BindingOrder) -> (Keyset<trust::Column>, Key) {
    use trust::Column;
    let (name, sort, kind) = match order.field {
        BindingOrderField::Name => ("name", Column::Name, TEXT),
        BindingOrderField::IssuerUri => ("issuer", Column::Issuer, TEXT),
        BindingOrderField::CreateTime | BindingOrderField::LastUsed => ("created", Column::CreatedAt, NUMBER),
    };
    (Keyset { name, sort, id: Column::Id, descending: order.descending }, kind)
}

pub(crate) fn exchanges_in(filter: &ExchangeFilter) -> Select<exchange::Entity> {
    use exchange::{Column, Entity};
    let mut select = match &filter.scope {
        Scope::Platform => Entity::find(),
        Scope::Organization(id) => Entity::find().filter(Column::Organization.eq(id.as_str())),
        space @ Scope::Space(_) => Entity::find().filter(Column::Scope.eq(space.key())),
    };
    if let Some(reference) = filter.reference {
        select = select.filter(Column::Id.eq(reference.0));
    }
    if let Some(granted) = filter.granted {
        select = select.filter(Column::Granted.eq(granted));
    }
    select
}

pub(crate) fn audit_in(scope: &Scope) -> Select<audit_entry::Entity> {
    use audit_entry::{Column, Entity};
    match scope {
        Scope::Platform => Entity::find(),
        Scope::Organization(id) => Entity::find().filter(Column::Organization.eq(id.as_str())),
        Scope::Space(_) => Entity::find().filter(Column::Scope.eq(scope.key())),
    }
}

/// What tests of queries need.
#[cfg(test)]
pub(crate) mod testing {
    use sea_orm::{ConnectionTrait, DbBackend, Statement};

    use crate::store::{Store, StoreOptions};

    /// A fresh SQLite store.
    pub(crate) async fn scratch() -> (Store, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("store.db").display());
        let store = Store::connect(&StoreOptions { url, max_connections: 4 }).await.unwrap();
        store.migrate().await.unwrap();
        (store, folder)
    }

    /// How SQLite would carry a statement out.
    pub(crate) async fn plan(store: &Store, statement: Statement) -> String {
        let explain = format!("EXPLAIN QUERY PLAN {}", statement.sql);
        let values = statement.values.unwrap_or(sea_orm::Values(Vec::new()));
        let rows = store.reader().query_all_raw(Statement::from_sql_and_values(DbBackend::Sqlite, explain, values));
        let lines = rows.await.unwrap().into_iter().map(|row| row.try_get::<String>("", "detail").unwrap());
        lines.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{plan, scratch};
    use super::*;
    use crate::paging::keyset;
    use sea_orm::{DbBackend, QueryTrait};

    /// Each page is one walk along one index, from where the page before ended: no sorting, no skipping.
    #[tokio::test]
    async fn every_page_is_one_walk_along_an_index() {
        let (store, _folder) = scratch().await;
        let organization = OrganizationId::parse("acme").unwrap();
        let space = Scope::Space(sallyport_domain::id::SpaceId::parse("prod").unwrap());

        let mut plans = Vec::new();
        macro_rules! check {
            ($index:literal, $select:expr, $order:expr, $kind:expr) => {{
                let (order, kind) = ($order, $kind);
                for after in [None, Some(crate::paging::cursor(order.name, kind.clone(), ID))] {
                    let request = PageRequest { first: 50, after };
                    let select = keyset($select, &order, (&kind, &ID), &request).unwrap();
                    plans.push(($index, request.after.is_some(), plan(&store, select.build(DbBackend::Sqlite)).await));
                }
            }};
        }
        for descending in [false, true] {
            let by = |field| binding_keyset(BindingOrder { field, descending });
            let (name, kind) = by(BindingOrderField::Name);
            check!("ix_trusts_scope_binding_name_id", trusts_in(&space, Some(true)), name, kind);
            let (issuer, kind) = by(BindingOrderField::IssuerUri);
            check!("ix_trusts_scope_binding_issuer_id", trusts_in(&space, Some(true)), issuer, kind);
            let (created, kind) = by(BindingOrderField::CreateTime);
            check!("ix_trusts_scope_binding_created_at_id", trusts_in(&space, Some(true)), created, kind);
            let used = usage_keyset(descending);
            check!("ix_trust_usages_scope_binding_last_used_at_trust_id", usages_in(&space), used, NUMBER);
        }
        let (created, kind) = binding_keyset(BindingOrder::default());
        check!("ix_trusts_scope_created_at_id", trusts_in(&space, None), created, kind);
        let time =
            Keyset { name: "exchange", sort: exchange::Column::Time, id: exchange::Column::Id, descending: true };
        check!("ix_exchanges_scope_time_id", exchanges_in(&ExchangeFilter::of(space.clone())), time, NUMBER);
        let of_organization = ExchangeFilter::of(Scope::Organization(organization));
        check!("ix_exchanges_organization_time_id", exchanges_in(&of_organization), time, NUMBER);
        check!("ix_exchanges_time_id", exchanges_in(&ExchangeFilter::of(Scope::Platform)), time, NUMBER);

        for (index, continued, plan) in plans {
            assert!(plan.contains(index), "{index}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{index} sorts: {plan}");
            assert!(
                !continued || plan.starts_with("SEARCH"),
                "{index} does not begin where the last page ended: {plan}"
            );
            assert!(!continued || plan.contains("id)>(") || plan.contains("id)<("), "{index}: {plan}");
        }
    }
}
