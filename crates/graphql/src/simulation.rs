//! Trying an exchange: every check's outcome, and nothing issued, recorded or used up.

use std::net::IpAddr;
use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::Permission;
use sallyport_gateway::pipeline::Locator;
use sallyport_gateway::simulate::{Presented, Simulation, simulate};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::access::Caller;
use crate::conditions;
use crate::error::{Error, Result};
use crate::exchanges::{Check, trust_mrn};
use crate::inputs::shown_roles;
use crate::limits::EVALUATION;

/// Longest subject token looked at, in bytes; an AWS document may be percent-encoded.
const TOKEN_MAX: usize = 64 * 1024;

/// What to try. Exactly one of `subjectToken` and `claims` is needed.
#[derive(InputObject, Clone)]
pub(crate) struct SimulateExchangeInput {
    /// A whole subject token; it is verified as in an exchange.
    subject_token: Option<String>,
    /// Bare claims; they are taken as if they had verified.
    claims: Option<Value>,
    /// The client ID of the trust that is to decide.
    client_id: Option<String>,
    /// Which trusts may decide, without a client ID: a client ID, the MRN of a trust or binding, or that of a scope; your own
    /// scope when left out.
    audience: Option<String>,
    /// With a scope: the issuer; the token's own when left out.
    issuer_uri: Option<String>,
    /// From where it is pretended to come.
    source_ip: Option<String>,
}

/// What would have happened.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct SimulateExchangePayload {
    /// Whether a credential would have been given out.
    granted: bool,
    /// MRN of the trust that decided; the binding's where that is one.
    trust_mrn: Option<String>,
    /// MRNs of the roles that would be granted.
    roles: Vec<String>,
    /// Lifetime that the credential would have, in seconds.
    expiration: Option<u32>,
    /// Name of the first failed check; null for grants.
    reason: Option<&'static str>,
    /// The claims, as far as they could be read.
    claims: Option<Value>,
    /// Every check, in order.
    checks: Vec<Check>,
}

/// The query.
#[derive(Default)]
pub(crate) struct SimulationQuery;

#[Object]
impl SimulationQuery {
    /// Tries an exchange: the same steps as a real one, every check shown, nothing issued. A request may hold ten of these.
    #[graphql(complexity = "EVALUATION + child_complexity")]
    async fn simulate_exchange(
        &self,
        context: &Context<'_>,
        input: SimulateExchangeInput,
    ) -> Result<Option<SimulateExchangePayload>> {
        Ok(Some(Box::pin(run(Caller::of(context)?, input)).await?))
    }
}

async fn run(caller: &Caller, input: SimulateExchangeInput) -> Result<SimulateExchangePayload> {
    let snapshot = caller.snapshot()?;
    let allowed = caller.principal.scope.clone();
    caller.access(&snapshot)?.require_openly(Permission::ExchangesSimulate, &allowed)?;
    let presented = match (input.subject_token, input.claims) {
        (Some(token), None) if token.len() > TOKEN_MAX => {
            return Err(Error::invalid(
                "subjectToken",
                format!("is {} bytes long; at most {TOKEN_MAX} are allowed", token.len()),
            ));
        }
        (Some(token), None) => Presented::Token(token),
        (None, Some(claims)) => Presented::Claims(conditions::claims("claims", &claims)?),
        _ => return Err(Error::invalid("subjectToken", "exactly one of subjectToken and claims is needed")),
    };
    let source_ip = input
        .source_ip
        .map(|text| {
            text.parse::<IpAddr>()
                .map_err(|_| Error::invalid("sourceIp", "must be an IP address such as 203.0.113.7 or 2001:db8::1"))
        })
        .transpose()?;
    let locator = match (input.client_id, input.audience) {
        (Some(client), _) => Locator::Client(client),
        (None, None) => Locator::Scope(allowed.clone(), input.issuer_uri),
        (None, Some(which)) if !which.starts_with("//") => Locator::Client(which),
        (None, Some(which)) => match caller.mrns().parse(&which) {
            Some(Resource::Trust(scope, id) | Resource::Binding(scope, id)) => Locator::Trust(scope, id),
            Some(Resource::Scope(scope)) => Locator::Scope(scope, input.issuer_uri),
            _ => {
                return Err(Error::invalid(
                    "audience",
                    "must be a client ID, or the MRN of a trust, a binding or a scope",
                ));
            }
        },
    };
    let services = Arc::clone(&caller.services);
    let simulation = Simulation { presented, locator, source_ip, allowed };
    // In a task of its own: a query may have to wait for its turn, and would keep a place at an STS meanwhile. It ends with its caller.
    let simulating = async move { simulate(&services, &snapshot, simulation).await }.in_current_span();
    let simulated = AbortOnDropHandle::new(tokio::spawn(simulating)).await;
    let simulated = simulated.map_err(|_| Error::internal("the task of a simulation ended before it"))?;
    let installation = &caller.services.installation;
    Ok(SimulateExchangePayload {
        granted: simulated.granted(),
        trust_mrn: simulated.trust.as_ref().map(|(scope, id)| trust_mrn(installation, scope, *id)),
        roles: simulated.terms.as_ref().map(|terms| shown_roles(caller.mrns(), &terms.roles)).unwrap_or_default(),
        expiration: simulated.terms.as_ref().map(|terms| terms.lifetime),
        reason: simulated.reason().map(|check| check.name()),
        checks: simulated.checks.iter().map(Into::into).collect(),
        claims: simulated.claims.as_ref().map(Into::into),
    })
}
