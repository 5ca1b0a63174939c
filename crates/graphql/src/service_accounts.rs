//! Service accounts: the non-human principals that workloads become.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use futures::future::BoxFuture;
use sallyport_credentials::key_pair::{AUTHORITY_VALIDITY, KeyPairRequest};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::principal::{STANDING_KEY, ServiceAccount as DomainAccount};
use sallyport_domain::role::{BuiltInRole, Permission, RoleRef};
use sallyport_domain::scope::Scope;
use sallyport_domain::snapshot::Snapshot;
use sallyport_store::{Page, Write};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::access::{Access, Caller, Planned};
use crate::error::{Error, Result};
use crate::inputs::{RoleInput, check_label, future, kept, role_mrns, shown_roles};
use crate::paging::{self, COUNTED, PageInfo, cost};
use crate::roles::RoleReference;

/// Most accounts deleted by one mutation.
const DELETED_MAX: usize = 1_000;
/// Most trusts that go with an account.
const TRUSTS_MAX: u64 = 10_000;

/// A non-human principal.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct ServiceAccount {
    /// Its MRN.
    mrn: String,
    /// A label.
    name: String,
    /// Free text.
    description: Option<String>,
    /// MRN of its scope, where its roles hold.
    scope_mrn: String,
    /// Its roles.
    roles: Vec<RoleReference>,
    /// Disabled accounts neither get nor use credentials.
    disabled: bool,
    /// MRN of the binding that owns it; such an account is changed only through the binding.
    binding_mrn: Option<String>,
    /// Whether it has a standing key of its own.
    has_standing_key: bool,
    /// When the account and its standing key end (RFC 3339).
    valid_until: Option<String>,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it.
    created_by: Option<String>,
}

impl ServiceAccount {
    fn new(mrns: &MrnDomain, account: &DomainAccount) -> Self {
        Self {
            mrn: mrns.format(&resource(account)),
            name: account.name.to_string(),
            description: account.description.as_deref().map(Into::into),
            scope_mrn: mrns.scope(&account.scope),
            roles: RoleReference::all(mrns, &account.roles),
            disabled: account.disabled,
            binding_mrn: account.owner.map(|id| mrns.format(&Resource::Binding(account.scope.clone(), id))),
            has_standing_key: account.standing_key.is_some(),
            valid_until: account.valid_until.map(Timestamp::to_rfc3339),
            created_at: account.created_at.to_rfc3339(),
            created_by: Some(account.created_by.to_string()).filter(|by| !by.is_empty()),
        }
    }
}

fn resource(account: &DomainAccount) -> Resource {
    Resource::ServiceAccount(account.scope.clone(), account.id)
}

/// For the record of changes.
fn recorded(mrns: &MrnDomain, account: &DomainAccount) -> Value {
    json!({
        "name": account.name,
        "description": account.description,
        "roles": shown_roles(mrns, &account.roles),
        "disabled": account.disabled,
        "validUntil": account.valid_until.map(Timestamp::to_rfc3339),
    })
}

/// A new service account with its standing key. The private key is shown once and kept nowhere.
#[derive(SimpleObject, Clone)]
pub(crate) struct ServiceAccountCredential {
    /// MRN of the service account; signed requests name it as `kid` and `sub`.
    mrn: String,
    /// A label.
    name: String,
    /// MRN of its scope.
    scope_mrn: String,
    /// The same, under the name that configuration files use.
    parent_mrn: String,
    /// The certificate, as PEM.
    certificate: String,
    /// The private key, as PEM (PKCS#8, EC P-384).
    private_key: String,
    /// Base URL of this service.
    api_endpoint: String,
    /// Its roles.
    roles: Vec<RoleReference>,
    /// When the account and its key end (RFC 3339).
    valid_until: Option<String>,
}

/// One page of service accounts.
#[derive(Debug)]
pub(crate) struct ServiceAccountList {
    scope: Scope,
    page: Page<DomainAccount>,
}

/// One page of service accounts.
#[Object(name = "ListServiceAccountsPayload")]
impl ServiceAccountList {
    /// The service accounts, oldest first.
    async fn service_accounts(&self, context: &Context<'_>) -> Result<Vec<ServiceAccount>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|account| ServiceAccount::new(mrns, account)).collect())
    }

    /// How many service accounts the scope has in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_service_accounts(&self.scope).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// A service account to be made.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct CreateServiceAccountInput {
    /// MRN of its scope.
    scope_mrn: String,
    /// A label, at most 256 bytes.
    name: String,
    /// Free text, at most 4,096 bytes.
    description: Option<String>,
    /// Its roles; `agent` when left out.
    roles: Option<Vec<RoleInput>>,
    /// When the account and its key end (RFC 3339); never when left out.
    valid_until: Option<String>,
}

/// Changes to a service account. A field left out, or null, keeps its value.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct UpdateServiceAccountInput {
    /// MRN of the service account.
    mrn: String,
    /// A label.
    name: Option<String>,
    /// Free text.
    description: Option<String>,
    /// Its roles.
    roles: Option<Vec<RoleInput>>,
    /// Disabled accounts neither get nor use credentials.
    disabled: Option<bool>,
}

/// Service accounts to be deleted.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct DeleteServiceAccountsInput {
    /// MRN of their scope.
    scope_mrn: String,
    /// Their MRNs.
    mrns: Vec<String>,
}

/// What was deleted.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct DeleteServiceAccountsPayload {
    /// MRNs of the accounts that are gone.
    mrns: Vec<String>,
}

/// The queries.
#[derive(Default)]
pub(crate) struct ServiceAccountQuery;

#[Object]
impl ServiceAccountQuery {
    /// The service accounts of exactly this scope; those that bindings own among them.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn list_service_accounts(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<ServiceAccountList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::ServiceAccountsRead, &scope, "scope")?;
        let page = caller.services.store.list_service_accounts(&scope, &request).await?;
        Ok(Some(ServiceAccountList { scope, page }))
    }

    /// One service account.
    async fn get_service_account(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the service account.")] mrn: String,
    ) -> Result<Option<ServiceAccount>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let account = by_mrn(caller, &caller.access(&snapshot)?, &mrn, Permission::ServiceAccountsRead)?;
        Ok(Some(ServiceAccount::new(caller.mrns(), &account)))
    }
}

/// The account that an MRN names, if the caller may do this to it.
fn by_mrn(caller: &Caller, access: &Access<'_>, mrn: &str, wanted: Permission) -> Result<DomainAccount> {
    let missing = || Error::not_found("service account");
    let Some(Resource::ServiceAccount(scope, id)) = caller.mrns().parse(mrn) else { return Err(missing()) };
    let account = access.snapshot.service_account(id).filter(|account| account.scope == scope).ok_or_else(missing)?;
    access.require(wanted, &scope, "service account")?;
    Ok(DomainAccount::clone(account))
}

/// The mutations.
#[derive(Default)]
pub(crate) struct ServiceAccountMutation;

#[Object]
impl ServiceAccountMutation {
    /// Creates a service account with a standing key. The private key is shown once.
    #[graphql(complexity = "100 + child_complexity")]
    async fn create_service_account(
        &self,
        context: &Context<'_>,
        input: CreateServiceAccountInput,
    ) -> Result<Option<ServiceAccountCredential>> {
        let caller = Caller::of(context)?;
        Ok(Some(Box::pin(create(caller, input)).await?))
    }

    /// Changes a service account that no binding owns. Neither its old roles nor its new ones may be beyond you.
    #[graphql(complexity = "50 + child_complexity")]
    async fn update_service_account(
        &self,
        context: &Context<'_>,
        input: UpdateServiceAccountInput,
    ) -> Result<Option<ServiceAccount>> {
        let caller = Caller::of(context)?;
        let (changed, _) = caller
            .mutate(|access| {
                let mut next = by_mrn(caller, access, &input.mrn, Permission::ServiceAccountsManage)?;
                access.require_federation(Permission::ServiceAccountsManage, &next.scope, "service account")?;
                access.not_of_binding(next.id)?;
                access.may_grant("roles", &next.roles, &next.scope)?;
                let before = recorded(caller.mrns(), &next);
                next.name = kept(input.name.clone(), next.name);
                next.description = input.description.clone().map(Into::into).or(next.description);
                check_label(&next.name, next.description.as_deref())?;
                if let Some(roles) = input.roles.clone() {
                    next.roles = access.roles("roles", &role_mrns(Some(roles)), &next.scope)?.into();
                    access.may_grant("roles", &next.roles, &next.scope)?;
                }
                next.disabled = kept(input.disabled, next.disabled);
                let record = (Some(before), Some(recorded(caller.mrns(), &next)));
                let audit =
                    caller.audit(access.snapshot, "updateServiceAccount", &resource(&next), &next.scope, record);
                let value = ServiceAccount::new(caller.mrns(), &next);
                Ok(Planned { writes: vec![Write::PutServiceAccount(next), audit], value })
            })
            .await?;
        Ok(Some(changed))
    }

    /// Deletes service accounts that no binding owns, with their trusts. Every credential of theirs ends.
    #[graphql(complexity = "100 + child_complexity")]
    async fn delete_service_accounts(
        &self,
        context: &Context<'_>,
        input: DeleteServiceAccountsInput,
    ) -> Result<Option<DeleteServiceAccountsPayload>> {
        let caller = Caller::of(context)?;
        Box::pin(delete(caller, &input)).await?;
        Ok(Some(DeleteServiceAccountsPayload { mrns: input.mrns }))
    }
}

async fn create(caller: &Caller, input: CreateServiceAccountInput) -> Result<ServiceAccountCredential> {
    let services = &caller.services;
    let mrns = caller.mrns();
    let scope = caller.scope("scopeMrn", &input.scope_mrn)?;
    let now = caller.now();
    let asked = role_mrns(input.roles);
    let id = ServiceAccountId(services.new_id());
    let judge = |access: &Access<'_>| -> Result<DomainAccount> {
        access.require_federation(Permission::ServiceAccountsManage, &scope, "scope")?;
        check_label(&input.name, input.description.as_deref())?;
        let valid_until = input.valid_until.as_deref().map(|text| future("validUntil", text, now)).transpose()?;
        let roles = if asked.is_empty() {
            vec![RoleRef::BuiltIn(BuiltInRole::Agent)]
        } else {
            access.roles("roles", &asked, &scope)?
        };
        access.may_grant("roles", &roles, &scope)?;
        Ok(DomainAccount {
            id,
            scope: scope.clone(),
            name: input.name.as_str().into(),
            description: input.description.clone().map(Into::into),
            roles: roles.into(),
            disabled: false,
            owner: None,
            standing_key: None,
            valid_until,
            credentials_not_before: None,
            created_at: now,
            created_by: caller.principal.mrn.as_str().into(),
        })
    };
    // Judged before a key is made.
    let snapshot = services.configuration.refresh().await?;
    let account = judge(&caller.access(&snapshot)?)?;
    let (mrn, scope_mrn) = (mrns.format(&resource(&account)), mrns.scope(&scope));
    let request = KeyPairRequest {
        subject_mrn: &mrn,
        scope_mrn: &scope_mrn,
        not_after: account.valid_until.unwrap_or_else(|| now.plus_seconds(AUTHORITY_VALIDITY)),
        now,
    };
    let pair = services.keys.load().issue_key_pair(&request, &*services.entropy);
    let pair = pair.map_err(|error| Error::internal(&error.to_string()))?;
    let public_key: [u8; STANDING_KEY] =
        pair.public_key.as_slice().try_into().map_err(|_| Error::internal("a public key of another length"))?;
    let (account, _) = caller
        .mutate(|access| {
            let mut account = judge(access)?;
            account.standing_key = Some(Box::new(public_key));
            let record = (None, Some(recorded(mrns, &account)));
            let audit = caller.audit(access.snapshot, "createServiceAccount", &resource(&account), &scope, record);
            Ok(Planned { writes: vec![Write::PutServiceAccount(account.clone()), audit], value: account })
        })
        .await?;
    Ok(ServiceAccountCredential {
        mrn,
        name: account.name.into(),
        parent_mrn: scope_mrn.clone(),
        scope_mrn,
        certificate: pair.certificate_pem,
        private_key: pair.private_key_pem.expose_secret().to_owned(),
        api_endpoint: services.installation.public_url.clone(),
        roles: RoleReference::all(mrns, &account.roles),
        valid_until: account.valid_until.map(Timestamp::to_rfc3339),
    })
}

async fn delete(caller: &Caller, input: &DeleteServiceAccountsInput) -> Result<()> {
    let scope = caller.scope("scopeMrn", &input.scope_mrn)?;
    if input.mrns.len() > DELETED_MAX {
        let message = format!("has {} entries; at most {DELETED_MAX} are allowed", input.mrns.len());
        return Err(Error::invalid("mrns", message));
    }
    let named = |access: &Access<'_>| -> Result<Vec<DomainAccount>> {
        access.require_federation(Permission::ServiceAccountsManage, &scope, "scope")?;
        let mut accounts: Vec<DomainAccount> = Vec::with_capacity(input.mrns.len());
        for (index, mrn) in input.mrns.iter().enumerate() {
            let field = format!("mrns[{index}]");
            let account = by_mrn(caller, access, mrn, Permission::ServiceAccountsManage)
                .ok()
                .filter(|account| account.scope == scope)
                .ok_or_else(|| Error::invalid(&field, "is not the MRN of a service account of this scope"))?;
            access.not_of_binding(account.id).map_err(|error| error.on(field))?;
            if accounts.iter().all(|other| other.id != account.id) {
                accounts.push(account);
            }
        }
        Ok(accounts)
    };
    let look = |snapshot: Arc<Snapshot>| -> BoxFuture<'_, Result<Vec<TrustId>>> {
        let accounts = caller.access(&snapshot).and_then(|access| named(&access));
        Box::pin(async move {
            let mut trusts = Vec::new();
            for account in accounts? {
                trusts.extend(caller.services.store.trusts_of_account(account.id, TRUSTS_MAX).await?);
            }
            Ok(trusts)
        })
    };
    caller
        .mutate_on(look, |access, trusts| {
            let mut writes: Vec<Write> = trusts.iter().map(|id| Write::DeleteTrust(*id)).collect();
            for account in named(access)? {
                writes.push(Write::DeleteServiceAccount(account.id));
                let record = (Some(recorded(caller.mrns(), &account)), None);
                writes.push(caller.audit(
                    access.snapshot,
                    "deleteServiceAccounts",
                    &resource(&account),
                    &scope,
                    record,
                ));
            }
            let mut providers: Vec<ProviderId> =
                trusts.iter().filter_map(|id| Some(access.snapshot.trust(*id)?.trust().provider)).collect();
            providers.sort_unstable();
            providers.dedup();
            writes.extend(providers.into_iter().map(Write::DeleteProviderIfUnused));
            Ok(Planned { writes, value: () })
        })
        .await?;
    Ok(())
}
