//! WIF auth bindings: a trust together with the service account it owns, created, changed and removed as one.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, InputObject, Object, SimpleObject};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::mapping::Mapping;
use sallyport_domain::matching::Installation;
use sallyport_domain::mrn::Resource;
use sallyport_domain::principal::ServiceAccount;
use sallyport_domain::provider::{KeySource, Provider, ProviderKind, ReplayPolicy};
use sallyport_domain::role::{BuiltInRole, Permission, RoleRef};
use sallyport_domain::scope::Scope;
use sallyport_domain::snapshot::Snapshot;
use sallyport_domain::trust::{BINDING_LIFETIME, Trust, client_id, draw_client_name};
use sallyport_domain::validate;
use sallyport_store::{BindingOrder, BindingOrderField, Constraint, MutateError, Page, Write, binding_fingerprint};
use serde_json::{Value, json};

use crate::access::{Access, Caller, Halt, Planned};
use crate::admission::{self, WhenUnreachable};
use crate::error::{Error, Result};
use crate::inputs::{KeyValue, KeyValueInput, OrderDirection, kept, kept_text, key_values, mappings, shown_roles};
use crate::paging::{self, COUNTED, PageInfo, cost, selected};

/// How often a creation is tried again when another one gets in its way.
const TRIES: usize = 8;

/// A binding: which identities of an issuer become its service account, and with what.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFAuthBinding", complex)]
pub(crate) struct Binding {
    /// Its MRN.
    mrn: String,
    /// A label.
    name: String,
    /// Free text.
    description: Option<String>,
    /// MRN of the space, organization or platform it applies to.
    scope: String,
    /// MRNs of the roles that workloads get.
    roles: Vec<String>,
    /// Lifetime of credentials, in seconds.
    expiration: u32,
    /// The identity provider's URI, exactly as given.
    issuer_uri: String,
    /// The subject expected, exactly as given.
    subject: String,
    /// Further claims that must have these values.
    mappings: Vec<KeyValue>,
    /// Audiences accepted; empty means the default set: the scope's MRN, this service's URL and host, and the client ID.
    allowed_audiences: Vec<String>,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it.
    created_by: Option<String>,
    /// When it last granted (RFC 3339); null for never.
    last_used: Option<String>,
    /// A CEL condition over the claims.
    condition: Option<String>,
    /// Networks accepted; empty means any.
    source_cidrs: Vec<String>,
    /// What clients of the OAuth 2.0 token endpoint present.
    client_id: String,
    /// MRN of the service account that workloads become.
    service_account_mrn: String,
    /// MRN of the provider that verifies their tokens.
    provider_mrn: String,
    /// Disabled bindings grant nothing, and suspend what they granted.
    disabled: bool,
    /// What was unwise about it when it was saved, or could not be checked.
    warnings: Vec<String>,
    #[graphql(skip)]
    kind: ProviderKind,
    #[graphql(skip)]
    public_url: String,
}

#[ComplexObject]
impl Binding {
    /// What the workload's clients need to know: save it as their configuration file.
    async fn config(&self) -> BindingConfig {
        self.configuration()
    }
}

/// The configuration file of the workload's clients.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFAuthBindingConfig")]
pub(crate) struct BindingConfig {
    /// Base URL of this service.
    universe_domain: String,
    /// Always `external_account`.
    #[graphql(name = "type")]
    kind: &'static str,
    /// MRN of the scope: what to exchange for, and the audience to ask the issuer for.
    audience: String,
    /// What sort of token is exchanged, as a token type URN.
    subject_token_type: &'static str,
    /// MRNs of the roles.
    scopes: Vec<String>,
    /// The identity provider's URI.
    issuer_uri: String,
}

/// A binding with its configuration file.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "CreateWIFAuthBindingPayload")]
pub(crate) struct CreatePayload {
    /// The binding.
    binding: Binding,
    /// What the workload's clients need to know.
    config: BindingConfig,
}

/// A binding with its configuration file.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "UpdateWIFAuthBindingPayload")]
pub(crate) struct UpdatePayload {
    /// The binding.
    binding: Binding,
    /// What the workload's clients need to know.
    config: BindingConfig,
}

/// A binding with its configuration file.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "GetWIFAuthBindingPayload")]
pub(crate) struct GetPayload {
    /// The binding.
    binding: Binding,
    /// What the workload's clients need to know.
    config: BindingConfig,
}

/// What was removed.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "RemoveWIFAuthBindingPayload")]
pub(crate) struct RemovePayload {
    /// MRN of the binding that is gone.
    mrn: String,
}

/// One page of bindings.
#[derive(Debug)]
pub(crate) struct BindingList {
    scope: Scope,
    page: Page<()>,
    bindings: Vec<Binding>,
}

/// One page of bindings.
#[Object(name = "ListWIFAuthBindingsPayload")]
impl BindingList {
    /// The bindings, in the order asked for.
    async fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// How many bindings the scope has in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_bindings(&self.scope).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// A binding to be made.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "CreateWIFAuthBindingInput")]
pub(crate) struct CreateInput {
    /// MRN of the space, organization or platform it applies to.
    scope_mrn: String,
    /// A label, at most 256 bytes.
    name: String,
    /// The identity provider's URI.
    issuer_uri: String,
    /// The subject expected: exact, or with `*` as its last segment; `org/repo` for GitHub.
    subject: String,
    /// Free text, at most 4,096 bytes.
    description: Option<String>,
    /// MRNs of the roles that workloads get; `agent` when left out.
    roles: Option<Vec<String>>,
    /// Lifetime of credentials in seconds, 1 to 86,400; 3,600 when left out.
    expiration: Option<i64>,
    /// Further claims that must have these values.
    mappings: Option<Vec<KeyValueInput>>,
    /// Audiences accepted; left out: the scope's MRN, this service's URL and host, and the client ID.
    allowed_audiences: Option<Vec<String>>,
    /// A CEL condition over the claims, at most 1,024 bytes.
    condition: Option<String>,
    /// Networks accepted, as CIDRs; left out: any.
    source_cidrs: Option<Vec<String>>,
    /// Check everything and answer with warnings, but save nothing.
    dry_run: Option<bool>,
}

/// Changes to a binding. A field left out, or null, keeps its value; an empty text or list takes it away.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "UpdateWIFAuthBindingInput")]
pub(crate) struct UpdateInput {
    /// MRN of the binding.
    mrn: String,
    /// A label.
    name: Option<String>,
    /// Free text.
    description: Option<String>,
    /// MRNs of the roles that workloads get.
    roles: Option<Vec<String>>,
    /// The subject expected.
    subject: Option<String>,
    /// Lifetime of credentials in seconds.
    expiration: Option<i64>,
    /// Further claims that must have these values.
    mappings: Option<Vec<KeyValueInput>>,
    /// Audiences accepted.
    allowed_audiences: Option<Vec<String>>,
    /// A CEL condition over the claims.
    condition: Option<String>,
    /// Networks accepted.
    source_cidrs: Option<Vec<String>>,
    /// Disabled bindings grant nothing, and suspend what they granted.
    disabled: Option<bool>,
    /// Check everything and answer with warnings, but save nothing.
    dry_run: Option<bool>,
}

/// What bindings can be ordered by.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AuthBindingOrderField {
    /// The label.
    Name,
    /// The identity provider's URI.
    IssuerUri,
    /// When it was created.
    CreateTime,
    /// When it last granted; one that never did counts as oldest.
    LastUsed,
}

/// An order of bindings.
#[derive(InputObject, Clone, Copy, Debug)]
#[graphql(name = "WIFAuthBindingOrder")]
pub(crate) struct OrderInput {
    /// Ascending or descending.
    direction: OrderDirection,
    /// By what.
    field: AuthBindingOrderField,
}

impl From<OrderInput> for BindingOrder {
    fn from(order: OrderInput) -> Self {
        let field = match order.field {
            AuthBindingOrderField::Name => BindingOrderField::Name,
            AuthBindingOrderField::IssuerUri => BindingOrderField::IssuerUri,
            AuthBindingOrderField::CreateTime => BindingOrderField::CreateTime,
            AuthBindingOrderField::LastUsed => BindingOrderField::LastUsed,
        };
        Self { field, descending: order.direction == OrderDirection::Desc }
    }
}

impl Binding {
    fn new(
        installation: &Installation,
        trust: &Trust,
        account: &ServiceAccount,
        provider: &Provider,
        last_used: Option<Timestamp>,
    ) -> Self {
        let mrns = &installation.mrns;
        let mut warnings = trust.warnings.to_vec();
        warnings.extend(provider.warnings.iter().filter(|w| !trust.warnings.contains(w)).cloned());
        Self {
            mrn: mrns.format(&Resource::Binding(trust.scope.clone(), trust.id)),
            name: trust.name.to_string(),
            description: trust.description.as_deref().map(Into::into),
            scope: mrns.scope(&trust.scope),
            roles: shown_roles(mrns, &account.roles),
            expiration: trust.lifetime,
            issuer_uri: trust.issuer.to_string(),
            subject: trust.subject.as_deref().unwrap_or_default().to_owned(),
            mappings: key_values(&trust.mappings),
            allowed_audiences: trust.allowed_audiences.to_vec(),
            created_at: trust.created_at.to_rfc3339(),
            created_by: Some(trust.created_by.to_string()).filter(|by| !by.is_empty()),
            last_used: last_used.map(Timestamp::to_rfc3339),
            condition: trust.condition.as_deref().map(Into::into),
            source_cidrs: trust.source_cidrs.to_vec(),
            client_id: client_id(&trust.client_name, &installation.tenant_domain),
            service_account_mrn: mrns.format(&Resource::ServiceAccount(account.scope.clone(), account.id)),
            provider_mrn: mrns.format(&Resource::Provider(provider.scope.clone(), provider.id)),
            disabled: trust.disabled || account.disabled,
            warnings,
            kind: provider.kind,
            public_url: installation.public_url.clone(),
        }
    }

    fn configuration(&self) -> BindingConfig {
        BindingConfig {
            universe_domain: self.public_url.clone(),
            kind: "external_account",
            audience: self.scope.clone(),
            subject_token_type: match self.kind {
                ProviderKind::AwsSts => "urn:ietf:params:aws:token-type:aws4_request",
                _ => "urn:ietf:params:oauth:token-type:jwt",
            },
            scopes: self.roles.clone(),
            issuer_uri: self.issuer_uri.clone(),
        }
    }

    /// For the record of changes.
    fn recorded(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "scope": self.scope,
            "roles": self.roles,
            "expiration": self.expiration,
            "issuerUri": self.issuer_uri,
            "subject": self.subject,
            "mappings": self.mappings.iter().map(KeyValue::recorded).collect::<Vec<_>>(),
            "allowedAudiences": self.allowed_audiences,
            "condition": self.condition,
            "sourceCidrs": self.source_cidrs,
            "serviceAccountMrn": self.service_account_mrn,
            "providerMrn": self.provider_mrn,
            "disabled": self.disabled,
        })
    }
}

/// The queries.
#[derive(Default)]
pub(crate) struct BindingQuery;

#[Object]
impl BindingQuery {
    /// The bindings of exactly this scope.
    #[graphql(name = "listWIFAuthBindings", complexity = "cost(first, child_complexity)")]
    async fn list_wif_auth_bindings(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "The order; oldest first when left out.")] order_by: Option<OrderInput>,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<BindingList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::BindingsRead, &scope, "scope")?;
        let order = order_by.map(Into::into).unwrap_or_default();
        let page = caller.services.store.list_bindings(&scope, order, &request).await?;
        let installation = &caller.services.installation;
        let bindings = page
            .items
            .iter()
            .map(|row| Binding::new(installation, &row.trust, &row.account, &row.provider, row.last_used))
            .collect();
        let page = Page { items: Vec::new(), end_cursor: page.end_cursor, has_next: page.has_next };
        Ok(Some(BindingList { scope, page, bindings }))
    }

    /// One binding, with the configuration file of its workload.
    #[graphql(name = "getWIFAuthBinding")]
    async fn get_wif_auth_binding(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the binding, or of the trust in it, as access tokens name it.")] mrn: String,
    ) -> Result<Option<GetPayload>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let access = caller.access(&snapshot)?;
        let found = Found::by_either_mrn(caller, &access, &mrn)?;
        access.require(Permission::BindingsRead, &found.trust.scope, "binding")?;
        let used = if selected(context, &["binding", "lastUsed"]) {
            caller.services.store.last_used(&[found.trust.id]).await?.get(&found.trust.id).copied()
        } else {
            None
        };
        let binding = Binding::new(&caller.services.installation, &found.trust, &found.account, &found.provider, used);
        Ok(Some(GetPayload { config: binding.configuration(), binding }))
    }
}

/// A binding in a snapshot, with its parts.
struct Found {
    trust: Trust,
    account: Arc<ServiceAccount>,
    provider: Arc<Provider>,
}

impl Found {
    /// What no binding's MRN names is not found.
    fn by_mrn(caller: &Caller, access: &Access<'_>, mrn: &str) -> Result<Self> {
        match caller.mrns().parse(mrn) {
            Some(Resource::Binding(scope, id)) => Self::at(access, &scope, id),
            _ => Err(Error::not_found("binding")),
        }
    }

    /// As [`Self::by_mrn`], for reading: the MRN of the trust in it will do.
    fn by_either_mrn(caller: &Caller, access: &Access<'_>, mrn: &str) -> Result<Self> {
        match caller.mrns().parse(mrn) {
            Some(Resource::Binding(scope, id) | Resource::Trust(scope, id)) => Self::at(access, &scope, id),
            _ => Err(Error::not_found("binding")),
        }
    }

    fn at(access: &Access<'_>, scope: &Scope, id: TrustId) -> Result<Self> {
        let missing = || Error::not_found("binding");
        let candidate = access.snapshot.candidate(id).ok_or_else(missing)?;
        let trust = candidate.trust.trust();
        if !trust.binding || trust.scope != *scope {
            return Err(missing());
        }
        let account = candidate.account.ok_or_else(missing)?;
        Ok(Self { trust: trust.clone(), account, provider: candidate.provider })
    }
}

/// The mutations.
#[derive(Default)]
pub(crate) struct BindingMutation;

#[Object]
impl BindingMutation {
    /// Creates a binding, its service account, and the provider when the scope has none for the issuer.
    #[graphql(name = "createWIFAuthBinding", complexity = "50 + child_complexity")]
    async fn create_wif_auth_binding(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "The binding. Nullable only because documented clients declare it so; null is refused.")]
        input: Option<CreateInput>,
    ) -> Result<Option<CreatePayload>> {
        let caller = Caller::of(context)?;
        let input = input.ok_or_else(|| Error::invalid("input", "must not be null"))?;
        let binding = Box::pin(create(caller, input)).await?;
        Ok(Some(CreatePayload { config: binding.configuration(), binding }))
    }

    /// Changes a binding; every check of its creation is made again.
    #[graphql(name = "updateWIFAuthBinding", complexity = "50 + child_complexity")]
    async fn update_wif_auth_binding(
        &self,
        context: &Context<'_>,
        input: UpdateInput,
    ) -> Result<Option<UpdatePayload>> {
        let caller = Caller::of(context)?;
        let binding = Box::pin(update(caller, input)).await?;
        Ok(Some(UpdatePayload { config: binding.configuration(), binding }))
    }

    /// Removes a binding with its service account, and with its provider when that was made for bindings and this was the
    /// last. Every credential it gave out ends.
    #[graphql(name = "removeWIFAuthBinding", complexity = "50 + child_complexity")]
    async fn remove_wif_auth_binding(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the binding.")] mrn: String,
    ) -> Result<Option<RemovePayload>> {
        let caller = Caller::of(context)?;
        caller
            .mutate(|access| {
                let found = Found::by_mrn(caller, access, &mrn)?;
                let Found { trust, account, provider } = &found;
                access.require_federation(Permission::BindingsManage, &trust.scope, "binding")?;
                let before = Binding::new(&caller.services.installation, trust, account, provider, None).recorded();
                let target = Resource::Binding(trust.scope.clone(), trust.id);
                let writes = vec![
                    Write::DeleteTrust(trust.id),
                    Write::DeleteServiceAccount(account.id),
                    Write::DeleteProviderIfUnused(provider.id),
                    caller.audit(access.snapshot, "removeWIFAuthBinding", &target, &trust.scope, (Some(before), None)),
                ];
                Ok(Planned { writes, value: () })
            })
            .await?;
        Ok(Some(RemovePayload { mrn }))
    }
}

/// A binding to be made, as far as it can be read without configuration.
struct Draft {
    scope: Scope,
    name: String,
    description: Option<String>,
    issuer: IssuerUri,
    subject: String,
    roles: Vec<String>,
    lifetime: u32,
    mappings: Vec<Mapping>,
    allowed_audiences: Vec<String>,
    condition: Option<String>,
    source_cidrs: Vec<String>,
}

/// Names for what a binding is made of.
struct Names {
    trust: TrustId,
    account: ServiceAccountId,
    provider: ProviderId,
    client: String,
    now: Timestamp,
}

/// What a plan made, or would make.
struct Made {
    trust: Trust,
    account: ServiceAccount,
    provider: Arc<Provider>,
    new_provider: bool,
}

impl Draft {
    fn read(caller: &Caller, input: CreateInput) -> Result<Self> {
        let scope = caller.scope("scopeMrn", &input.scope_mrn)?;
        let issuer_text = &input.issuer_uri;
        admission::own_issuer(&caller.services.installation, issuer_text)?;
        let issuer = IssuerUri::parse("issuerUri", issuer_text, issuer_text.starts_with("spiffe://"))?;
        // An issuer without a subject is everyone there, whatever else is asked of them.
        validate::required_text("subject", &input.subject, validate::TEXT_MAX)?;
        Ok(Self {
            scope,
            name: input.name,
            description: input.description,
            issuer,
            subject: input.subject,
            roles: input.roles.unwrap_or_default(),
            lifetime: validate::lifetime("expiration", input.expiration.unwrap_or(i64::from(BINDING_LIFETIME)))?,
            mappings: mappings(input.mappings),
            allowed_audiences: input.allowed_audiences.unwrap_or_default(),
            condition: input.condition,
            source_cidrs: input.source_cidrs.unwrap_or_default(),
        })
    }

    /// Everything that can be told from a snapshot: rights, roles, provider, and the trust's own rules.
    fn make(
        &self,
        caller: &Caller,
        access: &Access<'_>,
        existing: Option<ProviderId>,
        names: &Names,
    ) -> Result<Made, Halt> {
        access.require_federation(Permission::BindingsManage, &self.scope, "scope")?;
        let created_by = caller.principal.mrn.clone();
        let roles = if self.roles.is_empty() {
            vec![RoleRef::BuiltIn(BuiltInRole::Agent)]
        } else {
            access.roles("roles", &self.roles, &self.scope)?
        };
        let provider = match existing {
            None => Arc::new(self.implicit_provider(names, &created_by)?),
            Some(id) => {
                let same = |p: &&Arc<Provider>| p.scope == self.scope && p.issuer.key() == self.issuer.key();
                access.snapshot.provider(id).filter(same).cloned().ok_or(Halt::Outdated)?
            }
        };
        if provider.disabled {
            let mrn = caller.mrns().format(&Resource::Provider(provider.scope.clone(), provider.id));
            let message = format!("the scope's provider for this issuer, {mrn}, is disabled");
            return Err(Error::failed_precondition(message).on("issuerUri").into());
        }
        let account = ServiceAccount {
            id: names.account,
            scope: self.scope.clone(),
            name: self.name.as_str().into(),
            description: None,
            roles: roles.into(),
            disabled: false,
            owner: Some(names.trust),
            standing_key: None,
            valid_until: None,
            credentials_not_before: None,
            created_at: names.now,
            created_by: created_by.as_str().into(),
        };
        let trust = Trust {
            id: names.trust,
            client_name: names.client.as_str().into(),
            scope: self.scope.clone(),
            provider: provider.id,
            issuer: self.issuer.as_str().into(),
            service_account: account.id,
            binding: true,
            name: self.name.as_str().into(),
            description: self.description.clone().map(Into::into),
            subject: Some(self.subject.as_str().into()),
            mappings: self.mappings.clone().into(),
            allowed_audiences: self.allowed_audiences.clone().into(),
            condition: self.condition.clone().map(Into::into),
            source_cidrs: self.source_cidrs.clone().into(),
            scoped_roles: Arc::default(),
            passthrough_claims: Box::default(),
            lifetime: self.lifetime,
            ends_with_subject_token: false,
            disabled: false,
            credentials_not_before: None,
            warnings: Arc::default(),
            created_at: names.now,
            created_by: created_by.into(),
        };
        let trust = admission::trust(access, trust, &provider, &account)?;
        Ok(Made { trust, account, provider, new_provider: existing.is_none() })
    }

    fn implicit_provider(&self, names: &Names, created_by: &str) -> Result<Provider> {
        let kind = ProviderKind::of_issuer(self.issuer.as_str());
        let keys = match kind {
            ProviderKind::Spiffe => {
                return Err(Error::failed_precondition(
                    "a SPIFFE trust domain has no discovery: create its provider in this scope first, by createWIFProvider with jwksUri or jwks",
                )
                .on("issuerUri"));
            }
            ProviderKind::AwsSts => KeySource::Sts,
            _ => KeySource::Discovery,
        };
        Ok(Provider {
            id: names.provider,
            scope: self.scope.clone(),
            name: self.issuer.as_str().chars().take(validate::NAME_MAX).collect(),
            description: None,
            kind,
            issuer: self.issuer.clone(),
            keys,
            algorithms: Vec::new(),
            max_token_age: None,
            max_token_lifetime: None,
            replay: ReplayPolicy::Allow,
            require_audience_header: false,
            disabled: false,
            implicit: true,
            version: 1,
            credentials_not_before: None,
            warnings: Vec::new(),
            created_at: names.now,
            created_by: created_by.to_owned(),
        })
    }
}

impl Made {
    fn shown(&self, caller: &Caller, warning: Option<&String>) -> Binding {
        let mut provider = Provider::clone(&self.provider);
        if self.new_provider {
            provider.warnings.extend(warning.cloned());
        }
        Binding::new(&caller.services.installation, &self.trust, &self.account, &provider, None)
    }

    fn writes(self, caller: &Caller, snapshot: &Snapshot, warning: Option<&String>) -> Planned<Binding> {
        let binding = self.shown(caller, warning);
        let target = Resource::Binding(self.trust.scope.clone(), self.trust.id);
        let fingerprint = binding_fingerprint(&self.trust, self.provider.issuer.key());
        let audit = caller.audit(
            snapshot,
            "createWIFAuthBinding",
            &target,
            &self.trust.scope,
            (None, Some(binding.recorded())),
        );
        let mut writes = Vec::with_capacity(4);
        if self.new_provider {
            let mut provider = Provider::clone(&self.provider);
            provider.warnings.extend(warning.cloned());
            writes.push(Write::PutProvider(provider));
        }
        writes.push(Write::PutServiceAccount(self.account));
        writes.push(Write::PutTrust { trust: self.trust, binding_fingerprint: Some(fingerprint) });
        writes.push(audit);
        Planned { writes, value: binding }
    }
}

async fn create(caller: &Caller, input: CreateInput) -> Result<Binding> {
    let dry_run = input.dry_run.unwrap_or(false);
    let services = &caller.services;
    let draft = Draft::read(caller, input)?;
    // What the issuer answered, asked once however often the rest is tried.
    let mut asked: Option<Option<String>> = None;
    for _ in 0..TRIES {
        let snapshot = services.configuration.refresh().await?;
        let access = caller.access(&snapshot)?;
        access.require_federation(Permission::BindingsManage, &draft.scope, "scope")?;
        let existing =
            services.store.find_provider(&draft.scope, draft.issuer.key()).await?.map(|provider| provider.id);
        let names = Names {
            trust: TrustId(services.new_id()),
            account: ServiceAccountId(services.new_id()),
            provider: ProviderId(services.new_id()),
            client: draw_client_name(&*services.entropy),
            now: caller.now(),
        };
        // Everything is judged before the issuer is asked: nobody makes us fetch anything for a binding that cannot be.
        let made = match draft.make(caller, &access, existing, &names) {
            Ok(made) => made,
            Err(Halt::Outdated) => continue,
            Err(Halt::Refused(error)) => return Err(error),
        };
        if made.new_provider && asked.is_none() {
            asked = Some(admission::issuer(services, &made.provider, WhenUnreachable::Warn).await?);
        }
        let warning = asked.iter().flatten().next();
        if dry_run {
            refuse_duplicate(&snapshot, &made)?;
            return Ok(made.shown(caller, warning));
        }
        let done = services
            .configuration
            .mutate(|snapshot| -> Result<_, Halt> {
                let made = draft.make(caller, &caller.access(snapshot)?, existing, &names)?;
                let planned = made.writes(caller, snapshot, warning);
                Ok((planned.writes, planned.value))
            })
            .await;
        match done {
            Ok((binding, _)) => return Ok(binding),
            Err(
                MutateError::Rejected(Halt::Outdated)
                | MutateError::Conflict(Constraint::ClientName | Constraint::ProviderExists),
            ) => {}
            Err(MutateError::Rejected(Halt::Refused(error))) => return Err(error),
            Err(MutateError::Conflict(constraint)) => return Err(constraint.into()),
            Err(MutateError::Unavailable(error)) => return Err(error.into()),
        }
    }
    Err(Error::unavailable())
}

/// For a dry run; when saving, the database holds each fingerprint once.
fn refuse_duplicate(snapshot: &Snapshot, made: &Made) -> Result<()> {
    let key = made.provider.issuer.key();
    let fingerprint = binding_fingerprint(&made.trust, key);
    let same = snapshot.candidates(&made.trust.scope, key).iter().any(|candidate| {
        let other = candidate.trust.trust();
        other.binding && binding_fingerprint(other, key) == fingerprint
    });
    if same { Err(Constraint::BindingExists.into()) } else { Ok(()) }
}

async fn update(caller: &Caller, input: UpdateInput) -> Result<Binding> {
    let installation = &caller.services.installation;
    let plan = |access: &Access<'_>| -> Result<Planned<Binding>> {
        let Found { trust, account, provider } = Found::by_mrn(caller, access, &input.mrn)?;
        access.require_federation(Permission::BindingsManage, &trust.scope, "binding")?;
        // Whoever could not give these roles may not change to whom they are given either.
        access.may_grant("roles", &account.roles, &trust.scope)?;
        let before = Binding::new(installation, &trust, &account, &provider, None).recorded();
        let mut account = ServiceAccount::clone(&account);
        let mut changed = trust;
        changed.name = kept(input.name.clone(), changed.name);
        changed.description = input.description.clone().map(Into::into).or(changed.description);
        if let Some(subject) = &input.subject {
            validate::required_text("subject", subject, validate::TEXT_MAX)?;
            changed.subject = Some(subject.as_str().into());
        }
        if let Some(seconds) = input.expiration {
            changed.lifetime = validate::lifetime("expiration", seconds)?;
        }
        changed.mappings = input.mappings.clone().map_or(changed.mappings, |given| mappings(Some(given)).into());
        changed.allowed_audiences = kept(input.allowed_audiences.clone(), changed.allowed_audiences);
        changed.condition = kept_text(input.condition.clone(), changed.condition);
        changed.source_cidrs = kept(input.source_cidrs.clone(), changed.source_cidrs);
        changed.disabled = kept(input.disabled, changed.disabled);
        match input.roles.as_deref() {
            None => {}
            Some([]) => account.roles = [RoleRef::BuiltIn(BuiltInRole::Agent)].into(),
            Some(roles) => account.roles = access.roles("roles", roles, &changed.scope)?.into(),
        }
        account.name.clone_from(&changed.name);
        let changed = admission::trust(access, changed, &provider, &account)?;
        let binding = Binding::new(installation, &changed, &account, &provider, None);
        let target = Resource::Binding(changed.scope.clone(), changed.id);
        let record = (Some(before), Some(binding.recorded()));
        let audit = caller.audit(access.snapshot, "updateWIFAuthBinding", &target, &changed.scope, record);
        let fingerprint = binding_fingerprint(&changed, provider.issuer.key());
        let writes = vec![
            Write::PutServiceAccount(account),
            Write::PutTrust { trust: changed, binding_fingerprint: Some(fingerprint) },
            audit,
        ];
        Ok(Planned { writes, value: binding })
    };
    if input.dry_run.unwrap_or(false) {
        let snapshot = caller.services.configuration.refresh().await?;
        return Ok(plan(&caller.access(&snapshot)?)?.value);
    }
    Ok(caller.mutate(plan).await?.0)
}
