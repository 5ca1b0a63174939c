//! Providers: the issuers an admin trusts, and the rules their tokens are verified by.

use std::sync::Arc;

use async_graphql::{Context, Enum, InputObject, Object, SimpleObject};
use futures::future::BoxFuture;
use sallyport_domain::id::{ProviderId, TrustId};
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::provider::{Algorithm, KeySource, Provider, ProviderKind, ReplayPolicy as DomainReplay};
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_domain::validate::{KEY_SET_MAX, list_within};
use sallyport_identity::keys::{KeySet, Trusted};
use sallyport_store::{Page, Write, binding_fingerprint};
use serde_json::{Value, json};

use crate::access::{Access, Caller, Planned};
use crate::admission::{self, WhenUnreachable};
use crate::error::{Code, Error, Result};
use crate::inputs::{kept, kept_text};
use crate::paging::{self, COUNTED, PageInfo, cost};
use crate::presets::WifProviderKind;

/// Most trusts of a provider whose issuer or kind can be changed: each is judged and written anew in the same transaction,
/// while every other change of the configuration waits.
const TRUSTS_REJUDGED_MAX: usize = 100;
/// Most trusts looked at when a provider's rules change.
const TRUSTS_LOOKED_AT_MAX: u64 = 100_000;

/// How often one subject token may be exchanged.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplayPolicy {
    /// Any number of times while it is valid: what real clients do.
    Allow,
    /// Once, when it carries a `jti`; tokens without one any number of times.
    OnceIfJti,
    /// Once.
    Once,
}

impl From<ReplayPolicy> for DomainReplay {
    fn from(policy: ReplayPolicy) -> Self {
        match policy {
            ReplayPolicy::Allow => Self::Allow,
            ReplayPolicy::OnceIfJti => Self::OnceIfJti,
            ReplayPolicy::Once => Self::Once,
        }
    }
}

impl From<DomainReplay> for ReplayPolicy {
    fn from(policy: DomainReplay) -> Self {
        match policy {
            DomainReplay::Allow => Self::Allow,
            DomainReplay::OnceIfJti => Self::OnceIfJti,
            DomainReplay::Once => Self::Once,
        }
    }
}

/// Where a provider's keys come from.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
#[graphql(name = "WIFKeySource")]
pub(crate) enum WifKeySource {
    /// OpenID Connect discovery at the issuer.
    Discovery,
    /// A key set at `jwksUri`.
    JwksUri,
    /// A key set that was uploaded.
    Jwks,
    /// None: AWS STS answers for the identity.
    Sts,
}

/// A trusted issuer at a scope, usable by trusts there and below.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFProvider")]
pub(crate) struct WifProvider {
    /// Its MRN.
    mrn: String,
    /// MRN of its scope.
    scope: String,
    /// A label.
    name: String,
    /// Free text.
    description: Option<String>,
    /// The platform.
    kind: WifProviderKind,
    /// The issuer, exactly as given.
    issuer_uri: String,
    /// Where its keys come from.
    key_source: WifKeySource,
    /// Where the key set is, when it is not found by discovery.
    jwks_uri: Option<String>,
    /// The key set, when one was uploaded.
    jwks: Option<Value>,
    /// JWS algorithms accepted.
    algorithms: Vec<String>,
    /// Oldest `iat` accepted, in seconds; null leaves it to the kind and the trust.
    max_token_age_seconds: Option<u32>,
    /// Longest `exp` minus `iat` accepted, in seconds.
    max_token_lifetime_seconds: Option<u32>,
    /// How often one token may be exchanged.
    replay: ReplayPolicy,
    /// AWS only: the server-binding header must be signed and name the trust's audience.
    require_audience_header: bool,
    /// Disabled providers verify nothing.
    disabled: bool,
    /// Made by a binding; goes with its last trust.
    implicit: bool,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it.
    created_by: Option<String>,
    /// What was unwise about it when it was saved, or could not be checked.
    warnings: Vec<String>,
}

impl WifProvider {
    fn new(mrns: &MrnDomain, provider: &Provider) -> Self {
        let algorithms = if provider.algorithms.is_empty() { &Algorithm::ALL[..] } else { &provider.algorithms };
        Self {
            mrn: mrns.format(&Resource::Provider(provider.scope.clone(), provider.id)),
            scope: mrns.scope(&provider.scope),
            name: provider.name.clone(),
            description: provider.description.clone(),
            kind: provider.kind.into(),
            issuer_uri: provider.issuer.as_str().to_owned(),
            key_source: match &provider.keys {
                KeySource::Discovery => WifKeySource::Discovery,
                KeySource::Url(_) => WifKeySource::JwksUri,
                KeySource::Uploaded(_) => WifKeySource::Jwks,
                KeySource::Sts => WifKeySource::Sts,
            },
            jwks_uri: match &provider.keys {
                KeySource::Url(url) => Some(url.to_string()),
                _ => None,
            },
            jwks: match &provider.keys {
                KeySource::Uploaded(text) => serde_json::from_str(text).ok(),
                _ => None,
            },
            algorithms: algorithms.iter().map(|a| a.name().to_owned()).collect(),
            max_token_age_seconds: provider.max_token_age,
            max_token_lifetime_seconds: provider.max_token_lifetime,
            replay: provider.replay.into(),
            require_audience_header: provider.require_audience_header,
            disabled: provider.disabled,
            implicit: provider.implicit,
            created_at: provider.created_at.to_rfc3339(),
            created_by: Some(provider.created_by.clone()).filter(|by| !by.is_empty()),
            warnings: provider.warnings.clone(),
        }
    }
}

/// For the record of changes; key sets hold public keys only.
fn recorded(provider: &Provider) -> Value {
    let keys = match &provider.keys {
        KeySource::Discovery => json!("discovery"),
        KeySource::Url(url) => json!(&**url),
        KeySource::Uploaded(text) => serde_json::from_str(text).unwrap_or_default(),
        KeySource::Sts => json!("sts"),
    };
    json!({
        "name": provider.name,
        "description": provider.description,
        "kind": provider.kind.name(),
        "issuerUri": provider.issuer.as_str(),
        "keys": keys,
        "algorithms": provider.algorithms.iter().map(|a| a.name()).collect::<Vec<_>>(),
        "maxTokenAgeSeconds": provider.max_token_age,
        "maxTokenLifetimeSeconds": provider.max_token_lifetime,
        "replay": provider.replay.name(),
        "requireAudienceHeader": provider.require_audience_header,
        "disabled": provider.disabled,
        "implicit": provider.implicit,
    })
}

/// A provider to be made. Neither `jwksUri` nor `jwks`: OpenID Connect discovery.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "CreateWIFProviderInput")]
pub(crate) struct CreateInput {
    /// MRN of its scope.
    scope_mrn: String,
    /// A label, at most 256 bytes.
    name: String,
    /// The platform.
    kind: WifProviderKind,
    /// The issuer; may be left out where the kind fixes or suggests one.
    issuer_uri: Option<String>,
    /// Where the key set is.
    jwks_uri: Option<String>,
    /// The key set itself (RFC 7517), public keys only.
    jwks: Option<Value>,
    /// JWS algorithms accepted, such as `RS256`; all asymmetric ones when left out.
    algorithms: Option<Vec<String>>,
    /// Oldest `iat` accepted, in seconds.
    max_token_age_seconds: Option<i64>,
    /// Longest `exp` minus `iat` accepted, in seconds.
    max_token_lifetime_seconds: Option<i64>,
    /// How often one token may be exchanged; any number of times when left out.
    replay: Option<ReplayPolicy>,
    /// AWS only: demand that the server-binding header is signed and names the trust's audience.
    require_audience_header: Option<bool>,
    /// Free text, at most 4,096 bytes.
    description: Option<String>,
    /// Check everything and answer with warnings, but save nothing.
    dry_run: Option<bool>,
}

/// Changes to a provider. A field left out, or null, keeps its value; an empty text or list, or 0, takes it away.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "UpdateWIFProviderInput")]
pub(crate) struct UpdateInput {
    /// MRN of the provider.
    mrn: String,
    /// A label.
    name: Option<String>,
    /// The platform.
    kind: Option<WifProviderKind>,
    /// The issuer.
    issuer_uri: Option<String>,
    /// Where the key set is; the empty text goes back to discovery.
    jwks_uri: Option<String>,
    /// The key set itself.
    jwks: Option<Value>,
    /// JWS algorithms accepted.
    algorithms: Option<Vec<String>>,
    /// Oldest `iat` accepted, in seconds.
    max_token_age_seconds: Option<i64>,
    /// Longest `exp` minus `iat` accepted, in seconds.
    max_token_lifetime_seconds: Option<i64>,
    /// How often one token may be exchanged.
    replay: Option<ReplayPolicy>,
    /// AWS only: demand that the server-binding header is signed and names the trust's audience.
    require_audience_header: Option<bool>,
    /// Free text.
    description: Option<String>,
    /// Disabled providers verify nothing.
    disabled: Option<bool>,
    /// Check everything and answer with warnings, but save nothing.
    dry_run: Option<bool>,
}

/// A provider that was made.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "CreateWIFProviderPayload")]
pub(crate) struct CreatePayload {
    /// The provider.
    provider: WifProvider,
}

/// A provider that was changed.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "UpdateWIFProviderPayload")]
pub(crate) struct UpdatePayload {
    /// The provider.
    provider: WifProvider,
}

/// A provider that was found.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "GetWIFProviderPayload")]
pub(crate) struct GetPayload {
    /// The provider.
    provider: WifProvider,
}

/// What was removed.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "RemoveWIFProviderPayload")]
pub(crate) struct RemovePayload {
    /// MRN of the provider that is gone.
    mrn: String,
}

/// One page of providers.
#[derive(Debug)]
pub(crate) struct ProviderList {
    scope: Scope,
    page: Page<Provider>,
}

/// One page of providers.
#[Object(name = "ListWIFProvidersPayload")]
impl ProviderList {
    /// The providers, oldest first.
    async fn providers(&self, context: &Context<'_>) -> Result<Vec<WifProvider>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|provider| WifProvider::new(mrns, provider)).collect())
    }

    /// How many providers the scope has in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_providers(&self.scope).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// The queries.
#[derive(Default)]
pub(crate) struct ProviderQuery;

#[Object]
impl ProviderQuery {
    /// The providers of exactly this scope; those made by bindings among them.
    #[graphql(name = "listWIFProviders", complexity = "cost(first, child_complexity)")]
    async fn list_wif_providers(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<ProviderList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::ProvidersRead, &scope, "scope")?;
        let page = caller.services.store.list_providers(&scope, &request).await?;
        Ok(Some(ProviderList { scope, page }))
    }

    /// One provider; also one of a scope above, whose providers are offered to the caller's scope.
    #[graphql(name = "getWIFProvider")]
    async fn get_wif_provider(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the provider.")] mrn: String,
    ) -> Result<Option<GetPayload>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let access = caller.access(&snapshot)?;
        let provider = by_mrn(caller, &access, &mrn)
            .filter(|provider| access.sees_offered(Permission::ProvidersRead, &provider.scope))
            .ok_or_else(|| Error::not_found("provider"))?;
        Ok(Some(GetPayload { provider: WifProvider::new(caller.mrns(), &provider) }))
    }
}

/// The provider that an MRN names.
pub(crate) fn by_mrn(caller: &Caller, access: &Access<'_>, mrn: &str) -> Option<Arc<Provider>> {
    let Some(Resource::Provider(scope, id)) = caller.mrns().parse(mrn) else { return None };
    access.snapshot.provider(id).filter(|provider| provider.scope == scope).cloned()
}

/// The mutations.
#[derive(Default)]
pub(crate) struct ProviderMutation;

#[Object]
impl ProviderMutation {
    /// Creates a provider, once its issuer has answered as one must.
    #[graphql(name = "createWIFProvider", complexity = "50 + child_complexity")]
    async fn create_wif_provider(&self, context: &Context<'_>, input: CreateInput) -> Result<Option<CreatePayload>> {
        let caller = Caller::of(context)?;
        let provider = Box::pin(create(caller, input)).await?;
        Ok(Some(CreatePayload { provider: WifProvider::new(caller.mrns(), &provider) }))
    }

    /// Changes a provider; every check of its creation is made again, and its trusts are judged by the new rules. The kind and
    /// the issuer of one that more than 100 trusts use can no longer be changed.
    #[graphql(name = "updateWIFProvider", complexity = "50 + child_complexity")]
    async fn update_wif_provider(&self, context: &Context<'_>, input: UpdateInput) -> Result<Option<UpdatePayload>> {
        let caller = Caller::of(context)?;
        let provider = Box::pin(update(caller, &input)).await?;
        Ok(Some(UpdatePayload { provider: WifProvider::new(caller.mrns(), &provider) }))
    }

    /// Removes a provider that no trust uses any more.
    #[graphql(name = "removeWIFProvider", complexity = "50 + child_complexity")]
    async fn remove_wif_provider(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the provider.")] mrn: String,
    ) -> Result<Option<RemovePayload>> {
        let caller = Caller::of(context)?;
        let removed = caller
            .mutate(|access| {
                let provider = by_mrn(caller, access, &mrn).ok_or_else(|| Error::not_found("provider"))?;
                access.require_federation(Permission::ProvidersManage, &provider.scope, "provider")?;
                let target = Resource::Provider(provider.scope.clone(), provider.id);
                let record = (Some(recorded(&provider)), None);
                let audit = caller.audit(access.snapshot, "removeWIFProvider", &target, &provider.scope, record);
                Ok(Planned { writes: vec![Write::DeleteProvider(provider.id), audit], value: provider.id })
            })
            .await;
        let (id, _) = removed.map_err(|error| match error.code() {
            Code::FailedPrecondition => {
                Error::failed_precondition("trusts or bindings still use this provider; remove them first")
            }
            _ => error,
        })?;
        caller.services.verifier.forget(id);
        Ok(Some(RemovePayload { mrn }))
    }
}

/// Where the keys are to come from.
fn key_source(kind: ProviderKind, jwks_uri: Option<&str>, jwks: Option<&Value>) -> Result<KeySource> {
    match (jwks_uri, jwks) {
        (Some(_), Some(_)) => Err(Error::invalid("jwks", "must be left out when jwksUri is given")),
        (Some(url), None) => Ok(KeySource::Url(url.into())),
        (None, Some(keys)) => {
            let text = serde_json::to_string(keys).map_err(|error| Error::internal(&error.to_string()))?;
            if text.len() > KEY_SET_MAX {
                return Err(Error::invalid(
                    "jwks",
                    format!("is {} bytes long; at most {KEY_SET_MAX} are allowed", text.len()),
                ));
            }
            KeySet::parse(text.as_bytes(), Trusted::Uploaded)
                .map_err(|error| Error::invalid("jwks", error.to_string()))?;
            Ok(KeySource::Uploaded(text.into()))
        }
        (None, None) if kind == ProviderKind::AwsSts => Ok(KeySource::Sts),
        (None, None) => Ok(KeySource::Discovery),
    }
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>> {
    list_within("algorithms", names)?;
    let mut list = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let known = || Algorithm::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ");
        let algorithm = Algorithm::from_name(name)
            .ok_or_else(|| Error::invalid(format!("algorithms[{index}]"), format!("must be one of {}", known())))?;
        if list.contains(&algorithm) {
            return Err(Error::invalid(format!("algorithms[{index}]"), "names an algorithm a second time"));
        }
        list.push(algorithm);
    }
    Ok(list)
}

fn seconds(field: &str, given: i64) -> Result<u32> {
    u32::try_from(given).map_err(|_| Error::invalid(field, format!("is {given}; must be a positive number of seconds")))
}

/// As in [`seconds`]; for updates, where 0 takes the rule away.
fn kept_seconds(field: &str, given: Option<i64>, current: Option<u32>) -> Result<Option<u32>> {
    match given {
        None => Ok(current),
        Some(0) => Ok(None),
        Some(given) => seconds(field, given).map(Some),
    }
}

fn issuer(text: &str, kind: ProviderKind) -> Result<IssuerUri> {
    Ok(IssuerUri::parse("issuerUri", text, kind == ProviderKind::Spiffe)?)
}

async fn create(caller: &Caller, input: CreateInput) -> Result<Provider> {
    let services = &caller.services;
    let installation = &services.installation;
    let scope = caller.scope("scopeMrn", &input.scope_mrn)?;
    {
        // Strangers learn nothing, not even what is wrong with their input.
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require_federation(Permission::ProvidersManage, &scope, "scope")?;
    }
    let kind: ProviderKind = input.kind.into();
    let issuer_text = input.issuer_uri.as_deref().or_else(|| kind.default_issuer()).ok_or_else(|| {
        Error::invalid("issuerUri", format!("is needed for {kind}: its issuer differs from customer to customer"))
    })?;
    admission::own_issuer(installation, issuer_text)?;
    let mut provider = Provider {
        id: ProviderId(services.new_id()),
        scope,
        name: input.name,
        description: input.description,
        kind,
        issuer: issuer(issuer_text, kind)?,
        keys: key_source(kind, input.jwks_uri.as_deref(), input.jwks.as_ref())?,
        algorithms: algorithms(&input.algorithms.unwrap_or_default())?,
        max_token_age: input.max_token_age_seconds.map(|s| seconds("maxTokenAgeSeconds", s)).transpose()?,
        max_token_lifetime: input
            .max_token_lifetime_seconds
            .map(|s| seconds("maxTokenLifetimeSeconds", s))
            .transpose()?,
        replay: input.replay.map(Into::into).unwrap_or_default(),
        require_audience_header: input.require_audience_header.unwrap_or(false),
        disabled: false,
        implicit: false,
        version: 1,
        credentials_not_before: None,
        warnings: Vec::new(),
        created_at: caller.now(),
        created_by: caller.principal.mrn.clone(),
    };
    admission::provider(installation, &mut provider)?;
    admission::issuer(services, &provider, WhenUnreachable::Refuse).await?;
    if input.dry_run.unwrap_or(false) {
        return Ok(provider);
    }
    caller
        .mutate(|access| {
            access.require_federation(Permission::ProvidersManage, &provider.scope, "scope")?;
            let target = Resource::Provider(provider.scope.clone(), provider.id);
            let record = (None, Some(recorded(&provider)));
            let audit = caller.audit(access.snapshot, "createWIFProvider", &target, &provider.scope, record);
            Ok(Planned { writes: vec![Write::PutProvider(provider.clone()), audit], value: () })
        })
        .await?;
    Ok(provider)
}

/// The provider after the changes, judged by everything but its issuer's answer and its trusts.
fn changed(caller: &Caller, current: &Provider, input: &UpdateInput) -> Result<Provider> {
    let mut next = current.clone();
    next.name = kept(input.name.clone(), next.name);
    next.description = input.description.clone().or(next.description);
    next.kind = input.kind.map_or(next.kind, Into::into);
    if let Some(text) = &input.issuer_uri {
        admission::own_issuer(&caller.services.installation, text)?;
        next.issuer = issuer(text, next.kind)?;
    } else if next.kind != current.kind {
        next.issuer = issuer(next.issuer.as_str(), next.kind)?;
    }
    if input.jwks_uri.is_some() || input.jwks.is_some() {
        let url = kept_text(input.jwks_uri.clone(), None::<String>);
        next.keys = key_source(next.kind, url.as_deref(), input.jwks.as_ref())?;
    } else if next.kind != current.kind && matches!(next.keys, KeySource::Discovery | KeySource::Sts) {
        next.keys = key_source(next.kind, None, None)?;
    }
    if let Some(names) = &input.algorithms {
        next.algorithms = algorithms(names)?;
    }
    next.max_token_age = kept_seconds("maxTokenAgeSeconds", input.max_token_age_seconds, next.max_token_age)?;
    next.max_token_lifetime =
        kept_seconds("maxTokenLifetimeSeconds", input.max_token_lifetime_seconds, next.max_token_lifetime)?;
    next.replay = input.replay.map_or(next.replay, Into::into);
    next.require_audience_header = kept(input.require_audience_header, next.require_audience_header);
    next.disabled = kept(input.disabled, next.disabled);
    let warnings = std::mem::take(&mut next.warnings);
    admission::provider(&caller.services.installation, &mut next)?;
    if same_issuer(current, &next) {
        next.warnings = warnings;
    }
    if !only_switched(current, &next) {
        // Whoever sets its rules wants to keep it.
        next.implicit = false;
    }
    next.version += 1;
    Ok(next)
}

/// Whether what the issuer was asked about is as it was.
fn same_issuer(a: &Provider, b: &Provider) -> bool {
    a.kind == b.kind && a.issuer.as_str() == b.issuer.as_str() && a.keys == b.keys && a.algorithms == b.algorithms
}

/// Whether nothing but the label, or being enabled, differs.
fn only_switched(a: &Provider, b: &Provider) -> bool {
    same_issuer(a, b)
        && a.max_token_age == b.max_token_age
        && a.max_token_lifetime == b.max_token_lifetime
        && a.replay == b.replay
        && a.require_audience_header == b.require_audience_header
}

async fn update(caller: &Caller, input: &UpdateInput) -> Result<Provider> {
    let services = &caller.services;
    let find = |access: &Access<'_>| -> Result<Arc<Provider>> {
        let provider = by_mrn(caller, access, &input.mrn).ok_or_else(|| Error::not_found("provider"))?;
        access.require_federation(Permission::ProvidersManage, &provider.scope, "provider")?;
        Ok(provider)
    };
    let warning = {
        let snapshot = services.configuration.refresh().await?;
        let current = find(&caller.access(&snapshot)?)?;
        let next = changed(caller, &current, input)?;
        if same_issuer(&current, &next) {
            None
        } else {
            let unreachable = if next.implicit { WhenUnreachable::Warn } else { WhenUnreachable::Refuse };
            admission::issuer(services, &next, unreachable).await?
        }
    };
    let plan = |access: &Access<'_>, trusts: &Vec<TrustId>| -> Result<Planned<Provider>> {
        let current = find(access)?;
        let mut next = changed(caller, &current, input)?;
        next.warnings.extend(warning.clone());
        let mut writes = vec![Write::PutProvider(next.clone())];
        writes.extend(rejudged(access, &current, &next, trusts)?);
        let target = Resource::Provider(next.scope.clone(), next.id);
        let record = (Some(recorded(&current)), Some(recorded(&next)));
        writes.push(caller.audit(access.snapshot, "updateWIFProvider", &target, &next.scope, record));
        Ok(Planned { writes, value: next })
    };
    let id = match caller.mrns().parse(&input.mrn) {
        Some(Resource::Provider(_, id)) => id,
        _ => return Err(Error::not_found("provider")),
    };
    let look = |_| -> BoxFuture<'_, Result<Vec<TrustId>>> {
        Box::pin(async move { Ok(services.store.trusts_of_provider(id, TRUSTS_LOOKED_AT_MAX).await?) })
    };
    let next = if input.dry_run.unwrap_or(false) {
        let snapshot = services.configuration.refresh().await?;
        let trusts = look(Arc::clone(&snapshot)).await?;
        plan(&caller.access(&snapshot)?, &trusts)?.value
    } else {
        caller.mutate_on(look, plan).await?.0
    };
    services.verifier.forget(id);
    Ok(next)
}

/// What a change of a provider means for the trusts that use it. Whoever sets the rules of its tokens decides who gets what
/// its trusts grant, so none of them may grant beyond the caller's own permissions; and each must pass the checks of its own
/// creation under another kind or issuer.
fn rejudged(access: &Access<'_>, current: &Provider, next: &Provider, trusts: &[TrustId]) -> Result<Vec<Write>> {
    let enabled_again = current.disabled && !next.disabled;
    if only_switched(current, next) && !enabled_again {
        return Ok(Vec::new());
    }
    let judge_anew = current.kind != next.kind || current.issuer.key() != next.issuer.key();
    if judge_anew && trusts.len() > TRUSTS_REJUDGED_MAX {
        return Err(Error::failed_precondition(format!(
            "more than {TRUSTS_REJUDGED_MAX} trusts use this provider; its kind and issuer can no longer be changed"
        )));
    }
    let mut writes = Vec::new();
    for id in trusts {
        // A trust that no longer compiles is not in the snapshot, and grants nothing.
        let Some(compiled) = access.snapshot.trust(*id) else { continue };
        let trust = compiled.trust();
        let Some(account) = access.snapshot.service_account(trust.service_account) else { continue };
        access.may_grant("mrn", &admission::effective_roles(trust, account), &trust.scope)?;
        if judge_anew {
            let mut moved = trust.clone();
            if compiled.issuer() != next.issuer.key() {
                moved.issuer = next.issuer.as_str().into();
            }
            let judged = admission::trust(access, moved, next, account).map_err(|error| {
                Error::failed_precondition(format!("the trust '{}' does not fit: {}", trust.name, error.message()))
            })?;
            let binding_fingerprint = judged.binding.then(|| binding_fingerprint(&judged, next.issuer.key()));
            writes.push(Write::PutTrust { trust: judged, binding_fingerprint });
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use sallyport_store::Constraint;

    #[test]
    fn algorithms_are_named_in_errors() {
        let error = algorithms(&["RS256".into(), "HS256".into()]).unwrap_err();
        insta::assert_snapshot!(error.message(), @"algorithms[1]: must be one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA");
        assert!(algorithms(&["RS256".into(), "RS256".into()]).is_err());
        assert_eq!(Error::from(Constraint::ProviderExists).code(), Code::AlreadyExists);
    }
}
