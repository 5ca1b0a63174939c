//! Trusts: which identities of a provider become which service account, and with what.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::TrustId;
use sallyport_domain::matching::Installation;
use sallyport_domain::mrn::Resource;
use sallyport_domain::principal::ServiceAccount;
use sallyport_domain::role::Permission;
use sallyport_domain::scope::{Scope, ScopeTree as _};
use sallyport_domain::trust::{TRUST_LIFETIME, Trust, client_id, draw_client_name};
use sallyport_domain::validate;
use sallyport_store::{Constraint, MutateError, Page, TrustRow, Write};
use serde_json::{Value, json};

use crate::access::{Access, Caller, Planned};
use crate::admission;
use crate::error::{Error, Result};
use crate::inputs::{KeyValue, KeyValueInput, kept, kept_text, key_values, mappings, shown_roles};
use crate::paging::{self, COUNTED, PageInfo, cost, selected};
use crate::providers;

/// How often another client name is drawn when one is taken.
const TRIES: usize = 8;

/// A trust.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFTrust")]
pub(crate) struct WifTrust {
    /// Its MRN.
    mrn: String,
    /// MRN of its scope: that of its service account.
    scope: String,
    /// A label.
    name: String,
    /// Free text.
    description: Option<String>,
    /// What clients of the OAuth 2.0 token endpoint present as `client_id`.
    client_id: String,
    /// MRN of the provider that verifies its tokens.
    provider_mrn: String,
    /// MRN of the service account that workloads become.
    service_account_mrn: String,
    /// The subject expected: exact, or with `*` as its last segment.
    subject: Option<String>,
    /// Claims that must have these values.
    mappings: Vec<KeyValue>,
    /// Audiences accepted; empty means the default set: the scope's MRN, this service's URL and host, and the client ID.
    allowed_audiences: Vec<String>,
    /// A CEL condition over the claims.
    condition: Option<String>,
    /// Networks accepted; empty means any.
    source_cidrs: Vec<String>,
    /// MRNs of the roles granted at most; empty means all of the service account's.
    scoped_roles: Vec<String>,
    /// Names of string claims copied into the access token.
    passthrough_claims: Vec<String>,
    /// Lifetime of credentials, in seconds.
    expiration: u32,
    /// Whether credentials end with the subject token, when that is sooner.
    ends_with_subject_token: bool,
    /// MRN of the binding that this trust is part of; such a trust is changed only through it.
    binding_mrn: Option<String>,
    /// Disabled trusts grant nothing, and suspend what they granted.
    disabled: bool,
    /// What was unwise about it when it was saved.
    warnings: Vec<String>,
    /// When it last granted (RFC 3339); null for never.
    last_used: Option<String>,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it.
    created_by: Option<String>,
}

impl WifTrust {
    /// `provider_scope`: where the trust's provider lives; its own scope or one above.
    fn new(installation: &Installation, trust: &Trust, provider_scope: &Scope, last_used: Option<Timestamp>) -> Self {
        let mrns = &installation.mrns;
        Self {
            mrn: mrns.format(&Resource::Trust(trust.scope.clone(), trust.id)),
            scope: mrns.scope(&trust.scope),
            name: trust.name.to_string(),
            description: trust.description.as_deref().map(Into::into),
            client_id: client_id(&trust.client_name, &installation.tenant_domain),
            provider_mrn: mrns.format(&Resource::Provider(provider_scope.clone(), trust.provider)),
            service_account_mrn: mrns.format(&Resource::ServiceAccount(trust.scope.clone(), trust.service_account)),
            subject: trust.subject.as_deref().map(Into::into),
            mappings: key_values(&trust.mappings),
            allowed_audiences: trust.allowed_audiences.to_vec(),
            condition: trust.condition.as_deref().map(Into::into),
            source_cidrs: trust.source_cidrs.to_vec(),
            scoped_roles: shown_roles(mrns, &trust.scoped_roles),
            passthrough_claims: trust.passthrough_claims.to_vec(),
            expiration: trust.lifetime,
            ends_with_subject_token: trust.ends_with_subject_token,
            binding_mrn: trust.binding.then(|| mrns.format(&Resource::Binding(trust.scope.clone(), trust.id))),
            disabled: trust.disabled,
            warnings: trust.warnings.to_vec(),
            last_used: last_used.map(Timestamp::to_rfc3339),
            created_at: trust.created_at.to_rfc3339(),
            created_by: Some(trust.created_by.to_string()).filter(|by| !by.is_empty()),
        }
    }

    /// For the record of changes.
    fn recorded(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "providerMrn": self.provider_mrn,
            "serviceAccountMrn": self.service_account_mrn,
            "subject": self.subject,
            "mappings": self.mappings.iter().map(KeyValue::recorded).collect::<Vec<_>>(),
            "allowedAudiences": self.allowed_audiences,
            "condition": self.condition,
            "sourceCidrs": self.source_cidrs,
            "scopedRoles": self.scoped_roles,
            "passthroughClaims": self.passthrough_claims,
            "expiration": self.expiration,
            "endsWithSubjectToken": self.ends_with_subject_token,
            "disabled": self.disabled,
        })
    }
}

/// A trust to be made.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "CreateWIFTrustInput")]
pub(crate) struct CreateInput {
    /// MRN of the service account that workloads become; its scope is the trust's.
    service_account_mrn: String,
    /// MRN of the provider that verifies the tokens: of the same scope or one above.
    provider_mrn: String,
    /// A label, at most 256 bytes.
    name: String,
    /// Free text, at most 4,096 bytes.
    description: Option<String>,
    /// The subject expected: exact, or with `*` as its last segment; `org/repo` for GitHub.
    subject: Option<String>,
    /// A CEL condition over the claims, at most 1,024 bytes.
    condition: Option<String>,
    /// Claims that must have these values.
    mappings: Option<Vec<KeyValueInput>>,
    /// Audiences accepted; left out: the scope's MRN, this service's URL and host, and the client ID.
    allowed_audiences: Option<Vec<String>>,
    /// Networks accepted, as CIDRs; left out: any.
    source_cidrs: Option<Vec<String>>,
    /// MRNs of the roles granted at most; left out: all of the service account's.
    scoped_roles: Option<Vec<String>>,
    /// Names of string claims to copy into the access token.
    passthrough_claims: Option<Vec<String>>,
    /// Lifetime of credentials in seconds, 1 to 86,400; 1,800 when left out.
    expiration: Option<i64>,
    /// Whether credentials end with the subject token, when that is sooner.
    ends_with_subject_token: Option<bool>,
    /// Check everything and answer with warnings, but save nothing.
    dry_run: Option<bool>,
}

/// Changes to a trust. A field left out, or null, keeps its value; an empty text or list takes it away.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "UpdateWIFTrustInput")]
pub(crate) struct UpdateInput {
    /// MRN of the trust.
    mrn: String,
    /// A label.
    name: Option<String>,
    /// Free text.
    description: Option<String>,
    /// The subject expected.
    subject: Option<String>,
    /// A CEL condition over the claims.
    condition: Option<String>,
    /// Claims that must have these values.
    mappings: Option<Vec<KeyValueInput>>,
    /// Audiences accepted.
    allowed_audiences: Option<Vec<String>>,
    /// Networks accepted.
    source_cidrs: Option<Vec<String>>,
    /// MRNs of the roles granted at most.
    scoped_roles: Option<Vec<String>>,
    /// Names of string claims to copy into the access token.
    passthrough_claims: Option<Vec<String>>,
    /// Lifetime of credentials in seconds.
    expiration: Option<i64>,
    /// Whether credentials end with the subject token, when that is sooner.
    ends_with_subject_token: Option<bool>,
    /// Disabled trusts grant nothing, and suspend what they granted.
    disabled: Option<bool>,
    /// Check everything and answer with warnings, but save nothing.
    dry_run: Option<bool>,
}

/// A trust that was made.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "CreateWIFTrustPayload")]
pub(crate) struct CreatePayload {
    /// The trust.
    trust: WifTrust,
}

/// A trust that was changed.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "UpdateWIFTrustPayload")]
pub(crate) struct UpdatePayload {
    /// The trust.
    trust: WifTrust,
}

/// A trust that was found.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "GetWIFTrustPayload")]
pub(crate) struct GetPayload {
    /// The trust.
    trust: WifTrust,
}

/// What was removed.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "RemoveWIFTrustPayload")]
pub(crate) struct RemovePayload {
    /// MRN of the trust that is gone.
    mrn: String,
}

/// One page of trusts.
#[derive(Debug)]
pub(crate) struct TrustList {
    scope: Scope,
    bindings_too: bool,
    page: Page<TrustRow>,
}

/// One page of trusts.
#[Object(name = "ListWIFTrustsPayload")]
impl TrustList {
    /// The trusts, oldest first.
    async fn trusts(&self, context: &Context<'_>) -> Result<Vec<WifTrust>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let trusts = self.page.items.iter().map(|row| {
            let provider_scope = snapshot.provider(row.trust.provider).map_or(&self.scope, |p| &p.scope);
            WifTrust::new(&caller.services.installation, &row.trust, provider_scope, row.last_used)
        });
        Ok(trusts.collect())
    }

    /// How many trusts the scope has in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_trusts(&self.scope, self.bindings_too).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// The queries.
#[derive(Default)]
pub(crate) struct TrustQuery;

#[Object]
impl TrustQuery {
    /// The trusts of exactly this scope.
    #[graphql(name = "listWIFTrusts", complexity = "cost(first, child_complexity)")]
    async fn list_wif_trusts(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
        #[graphql(desc = "Whether to list the trusts of bindings too.")] include_bindings: Option<bool>,
    ) -> Result<Option<TrustList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::TrustsRead, &scope, "scope")?;
        let bindings_too = include_bindings.unwrap_or(false);
        let page = caller.services.store.list_trusts(&scope, bindings_too, &request).await?;
        Ok(Some(TrustList { scope, bindings_too, page }))
    }

    /// One trust; also the one inside a binding.
    #[graphql(name = "getWIFTrust")]
    async fn get_wif_trust(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the trust, or of the binding it is part of.")] mrn: String,
    ) -> Result<Option<GetPayload>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let access = caller.access(&snapshot)?;
        let (trust, provider_scope) = by_mrn(caller, &access, &mrn)?;
        access.require(Permission::TrustsRead, &trust.scope, "trust")?;
        let used = if selected(context, &["trust", "lastUsed"]) {
            caller.services.store.last_used(&[trust.id]).await?.get(&trust.id).copied()
        } else {
            None
        };
        let trust = WifTrust::new(&caller.services.installation, &trust, &provider_scope, used);
        Ok(Some(GetPayload { trust }))
    }
}

/// The trust that an MRN names, and the scope of its provider.
fn by_mrn(caller: &Caller, access: &Access<'_>, mrn: &str) -> Result<(Trust, Scope)> {
    let missing = || Error::not_found("trust");
    let Some(Resource::Trust(scope, id) | Resource::Binding(scope, id)) = caller.mrns().parse(mrn) else {
        return Err(missing());
    };
    let candidate = access.snapshot.candidate(id).ok_or_else(missing)?;
    let trust = candidate.trust.trust();
    if trust.scope != scope {
        return Err(missing());
    }
    Ok((trust.clone(), candidate.provider.scope.clone()))
}

/// The trust that an MRN names, if the caller may change it by itself.
fn changeable(caller: &Caller, access: &Access<'_>, mrn: &str) -> Result<(Trust, Scope)> {
    let (trust, provider_scope) = by_mrn(caller, access, mrn)?;
    access.require_federation(Permission::TrustsManage, &trust.scope, "trust")?;
    if trust.binding {
        return Err(access.change_the_binding(&Resource::Binding(trust.scope, trust.id)));
    }
    Ok((trust, provider_scope))
}

/// The mutations.
#[derive(Default)]
pub(crate) struct TrustMutation;

#[Object]
impl TrustMutation {
    /// Creates a trust.
    #[graphql(name = "createWIFTrust", complexity = "50 + child_complexity")]
    async fn create_wif_trust(&self, context: &Context<'_>, input: CreateInput) -> Result<Option<CreatePayload>> {
        let caller = Caller::of(context)?;
        let trust = Box::pin(create(caller, &input)).await?;
        Ok(Some(CreatePayload { trust }))
    }

    /// Changes a trust; every check of its creation is made again.
    #[graphql(name = "updateWIFTrust", complexity = "50 + child_complexity")]
    async fn update_wif_trust(&self, context: &Context<'_>, input: UpdateInput) -> Result<Option<UpdatePayload>> {
        let caller = Caller::of(context)?;
        let trust = Box::pin(update(caller, &input)).await?;
        Ok(Some(UpdatePayload { trust }))
    }

    /// Removes a trust. Every credential it gave out ends.
    #[graphql(name = "removeWIFTrust", complexity = "50 + child_complexity")]
    async fn remove_wif_trust(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the trust.")] mrn: String,
    ) -> Result<Option<RemovePayload>> {
        let caller = Caller::of(context)?;
        caller
            .mutate(|access| {
                let (trust, provider_scope) = changeable(caller, access, &mrn)?;
                let before = WifTrust::new(&caller.services.installation, &trust, &provider_scope, None).recorded();
                let target = Resource::Trust(trust.scope.clone(), trust.id);
                let audit =
                    caller.audit(access.snapshot, "removeWIFTrust", &target, &trust.scope, (Some(before), None));
                let writes = vec![Write::DeleteTrust(trust.id), Write::DeleteProviderIfUnused(trust.provider), audit];
                Ok(Planned { writes, value: () })
            })
            .await?;
        Ok(Some(RemovePayload { mrn }))
    }
}

/// The service account named in an input; what the caller may not see is as good as missing.
pub(crate) fn account_named(
    caller: &Caller,
    access: &Access<'_>,
    field: &str,
    mrn: &str,
) -> Result<Arc<ServiceAccount>> {
    let found = match caller.mrns().parse(mrn) {
        Some(Resource::ServiceAccount(scope, id)) => access
            .snapshot
            .service_account(id)
            .filter(|account| account.scope == scope && access.sees(Permission::ServiceAccountsRead, &scope)),
        _ => None,
    };
    found.cloned().ok_or_else(|| Error::invalid(field, "is not the MRN of a service account that you may see"))
}

async fn create(caller: &Caller, input: &CreateInput) -> Result<WifTrust> {
    let services = &caller.services;
    let expiration = validate::lifetime("expiration", input.expiration.unwrap_or(i64::from(TRUST_LIFETIME)))?;
    for _ in 0..TRIES {
        let (id, now) = (TrustId(services.new_id()), caller.now());
        let client_name = draw_client_name(&*services.entropy);
        let plan = |access: &Access<'_>| -> Result<Planned<WifTrust>> {
            let account = account_named(caller, access, "serviceAccountMrn", &input.service_account_mrn)?;
            access.require_federation(Permission::TrustsManage, &account.scope, "service account")?;
            access.not_of_binding(account.id)?;
            let provider = providers::by_mrn(caller, access, &input.provider_mrn)
                .filter(|provider| {
                    access.snapshot.reaches(&provider.scope, &account.scope)
                        && access.may(Permission::ProvidersRead, &account.scope)
                })
                .ok_or_else(|| {
                    Error::invalid(
                        "providerMrn",
                        "is not the MRN of a provider at the service account's scope, or one above, that you may see",
                    )
                })?;
            let scoped_roles =
                access.roles("scopedRoles", input.scoped_roles.as_deref().unwrap_or_default(), &account.scope)?;
            let trust = Trust {
                id,
                client_name: client_name.as_str().into(),
                scope: account.scope.clone(),
                provider: provider.id,
                issuer: provider.issuer.as_str().into(),
                service_account: account.id,
                binding: false,
                name: input.name.as_str().into(),
                description: input.description.clone().map(Into::into),
                subject: input.subject.clone().map(Into::into),
                mappings: mappings(input.mappings.clone()).into(),
                allowed_audiences: input.allowed_audiences.clone().unwrap_or_default().into(),
                condition: input.condition.clone().map(Into::into),
                source_cidrs: input.source_cidrs.clone().unwrap_or_default().into(),
                scoped_roles: scoped_roles.into(),
                passthrough_claims: input.passthrough_claims.clone().unwrap_or_default().into(),
                lifetime: expiration,
                ends_with_subject_token: input.ends_with_subject_token.unwrap_or(false),
                disabled: false,
                credentials_not_before: None,
                warnings: Arc::default(),
                created_at: now,
                created_by: caller.principal.mrn.as_str().into(),
            };
            let trust = admission::trust(access, trust, &provider, &account)?;
            let shown = WifTrust::new(&services.installation, &trust, &provider.scope, None);
            let target = Resource::Trust(trust.scope.clone(), trust.id);
            let record = (None, Some(shown.recorded()));
            let audit = caller.audit(access.snapshot, "createWIFTrust", &target, &trust.scope, record);
            Ok(Planned { writes: vec![Write::PutTrust { trust, binding_fingerprint: None }, audit], value: shown })
        };
        if input.dry_run.unwrap_or(false) {
            let snapshot = services.configuration.refresh().await?;
            return Ok(plan(&caller.access(&snapshot)?)?.value);
        }
        let done = services
            .configuration
            .mutate(|snapshot| -> Result<_, Error> {
                let planned = plan(&caller.access(snapshot)?)?;
                Ok((planned.writes, planned.value))
            })
            .await;
        match done {
            Ok((trust, _)) => return Ok(trust),
            Err(MutateError::Conflict(Constraint::ClientName)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::unavailable())
}

async fn update(caller: &Caller, input: &UpdateInput) -> Result<WifTrust> {
    let installation = &caller.services.installation;
    let plan = |access: &Access<'_>| -> Result<Planned<WifTrust>> {
        let (trust, provider_scope) = changeable(caller, access, &input.mrn)?;
        let missing = || Error::not_found("trust");
        let provider = access.snapshot.provider(trust.provider).ok_or_else(missing)?;
        let account = access.snapshot.service_account(trust.service_account).ok_or_else(missing)?;
        // Whoever could not give these roles may not change to whom they are given either.
        access.may_grant("scopedRoles", &admission::effective_roles(&trust, account), &trust.scope)?;
        let before = WifTrust::new(installation, &trust, &provider_scope, None).recorded();
        let mut next = trust;
        next.name = kept(input.name.clone(), next.name);
        next.description = input.description.clone().map(Into::into).or(next.description);
        next.subject = kept_text(input.subject.clone(), next.subject);
        next.condition = kept_text(input.condition.clone(), next.condition);
        next.mappings = input.mappings.clone().map_or(next.mappings, |given| mappings(Some(given)).into());
        next.allowed_audiences = kept(input.allowed_audiences.clone(), next.allowed_audiences);
        next.source_cidrs = kept(input.source_cidrs.clone(), next.source_cidrs);
        next.passthrough_claims = kept(input.passthrough_claims.clone(), next.passthrough_claims);
        if let Some(roles) = &input.scoped_roles {
            next.scoped_roles = access.roles("scopedRoles", roles, &next.scope)?.into();
        }
        if let Some(seconds) = input.expiration {
            next.lifetime = validate::lifetime("expiration", seconds)?;
        }
        next.ends_with_subject_token = kept(input.ends_with_subject_token, next.ends_with_subject_token);
        next.disabled = kept(input.disabled, next.disabled);
        let next = admission::trust(access, next, provider, account)?;
        let shown = WifTrust::new(installation, &next, &provider_scope, None);
        let target = Resource::Trust(next.scope.clone(), next.id);
        let record = (Some(before), Some(shown.recorded()));
        let audit = caller.audit(access.snapshot, "updateWIFTrust", &target, &next.scope, record);
        Ok(Planned { writes: vec![Write::PutTrust { trust: next, binding_fingerprint: None }, audit], value: shown })
    };
    if input.dry_run.unwrap_or(false) {
        let snapshot = caller.services.configuration.refresh().await?;
        return Ok(plan(&caller.access(&snapshot)?)?.value);
    }
    Ok(caller.mutate(plan).await?.0)
}
