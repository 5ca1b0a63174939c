//! Exchanges: every attempt that is on record, granted or refused, and why.

use async_graphql::{Context, Enum, Object, SimpleObject};
use sallyport_domain::decision::{Check as DomainCheck, CheckOutcome as DomainOutcome};
use sallyport_domain::id::ExchangeId;
use sallyport_domain::matching::Installation;
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_domain::snapshot::Snapshot;
use sallyport_store::{ExchangeFilter, ExchangeRow, Page};

use crate::access::Caller;
use crate::error::{Error, Result};
use crate::paging::{self, COUNTED, PageInfo, cost};

/// What became of a check.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CheckOutcome {
    /// It held.
    Passed,
    /// It did not hold.
    Failed,
    /// It was not asked for, or could not be reached after an earlier failure.
    Skipped,
}

/// One check of an exchange.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct Check {
    /// Which: `locate`, `decode`, `issuer`, `signature`, `algorithm`, `audience`, `freshness`, `subject`, `mappings`,
    /// `condition`, `source_ip`, `enabled`, `roles` or `replay`.
    name: &'static str,
    /// What became of it.
    outcome: CheckOutcome,
    /// What was wanted.
    expected: Option<String>,
    /// What was found.
    actual: Option<String>,
    /// Anything that helps to understand it.
    detail: Option<String>,
}

impl From<&DomainCheck> for Check {
    fn from(check: &DomainCheck) -> Self {
        Self {
            name: check.name.name(),
            outcome: match check.outcome {
                DomainOutcome::Passed => CheckOutcome::Passed,
                DomainOutcome::Failed => CheckOutcome::Failed,
                DomainOutcome::Skipped => CheckOutcome::Skipped,
            },
            expected: check.expected.clone(),
            actual: check.actual.clone(),
            detail: check.detail.clone(),
        }
    }
}

/// One attempt.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct Exchange {
    /// Its reference, as the caller was told.
    reference: String,
    /// When it was decided (RFC 3339).
    time: String,
    /// Whether a credential was given out.
    granted: bool,
    /// Name of the first failed check; null for grants.
    reason: Option<String>,
    /// Through which door: `rpc` or `oauth`.
    protocol: &'static str,
    /// MRN of the scope.
    scope_mrn: String,
    /// MRN of the trust that decided; the binding's where that is one.
    trust_mrn: Option<String>,
    /// MRN of the provider that verified, as long as there is one.
    provider_mrn: Option<String>,
    /// MRN of the service account, for grants.
    service_account_mrn: Option<String>,
    /// The issuer presented.
    issuer_uri: String,
    /// The subject presented.
    subject: Option<String>,
    /// Where the request came from.
    source_ip: Option<String>,
    /// MRN of the credential, for grants.
    credential_mrn: Option<String>,
    /// When that credential ends (RFC 3339).
    credential_expires_at: Option<String>,
    /// Every check, in order.
    checks: Vec<Check>,
}

/// The MRN of a trust, a binding's too: as access tokens carry it, so that the two can be joined.
pub(crate) fn trust_mrn(installation: &Installation, scope: &Scope, id: sallyport_domain::id::TrustId) -> String {
    installation.mrns.format(&Resource::Trust(scope.clone(), id))
}

impl Exchange {
    fn new(installation: &Installation, snapshot: &Snapshot, row: &ExchangeRow) -> Self {
        let mrns = &installation.mrns;
        let credential = row.credential.as_ref();
        Self {
            reference: row.id.to_string(),
            time: row.time.to_rfc3339(),
            granted: row.granted,
            reason: row.reason.clone(),
            protocol: row.protocol.name(),
            scope_mrn: mrns.scope(&row.scope),
            trust_mrn: row.trust.map(|id| trust_mrn(installation, &row.scope, id)),
            provider_mrn: row
                .provider
                .and_then(|id| snapshot.provider(id))
                .map(|provider| mrns.format(&Resource::Provider(provider.scope.clone(), provider.id))),
            service_account_mrn: row
                .service_account
                .map(|id| mrns.format(&Resource::ServiceAccount(row.scope.clone(), id))),
            issuer_uri: row.issuer.clone(),
            subject: Some(row.subject.clone()).filter(|subject| !subject.is_empty()),
            source_ip: row.source_ip.map(|ip| ip.to_string()),
            credential_mrn: row
                .service_account
                .zip(credential)
                .map(|(account, c)| mrns.format(&Resource::Credential(row.scope.clone(), account, c.id))),
            credential_expires_at: credential.map(|c| c.expires_at.to_rfc3339()),
            checks: row.checks.iter().map(Into::into).collect(),
        }
    }
}

/// One page of exchanges.
#[derive(Debug)]
pub(crate) struct ExchangeList {
    filter: ExchangeFilter,
    page: Page<ExchangeRow>,
}

/// One page of exchanges.
#[Object(name = "ListExchangesPayload")]
impl ExchangeList {
    /// The exchanges, newest first.
    async fn exchanges(&self, context: &Context<'_>) -> Result<Vec<Exchange>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let installation = &caller.services.installation;
        Ok(self.page.items.iter().map(|row| Exchange::new(installation, &snapshot, row)).collect())
    }

    /// How many there are in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_exchanges(&self.filter).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// The query.
#[derive(Default)]
pub(crate) struct ExchangeQuery;

#[Object]
impl ExchangeQuery {
    /// The exchanges of a scope and of everything below it, newest first.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn list_exchanges(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Only the one with this reference.")] reference: Option<String>,
        #[graphql(desc = "Only granted ones, or only refused ones.")] granted: Option<bool>,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<ExchangeList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let reference = reference
            .map(|text| {
                ExchangeId::parse(&text)
                    .ok_or_else(|| Error::invalid("reference", "must be the reference that a caller was told, a UUID"))
            })
            .transpose()?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::ExchangesRead, &scope, "scope")?;
        let filter = ExchangeFilter { scope, reference, granted };
        let page = caller.services.store.list_exchanges(&filter, &request).await?;
        Ok(Some(ExchangeList { filter, page }))
    }
}
