//! Trying an exchange without issuing anything: the same locate, verify and match as the pipeline, and every check shown.

use std::net::IpAddr;
use std::sync::Arc;

use sallyport_domain::claims::Claims;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::{Check, CheckName, Refusal, Terms, completed};
use sallyport_domain::exchange::Protocol;
use sallyport_domain::id::TrustId;
use sallyport_domain::identity::Identity;
use sallyport_domain::issuer::IssuerKey;
use sallyport_domain::matching::Candidate;
use sallyport_domain::provider::{Provider, ReplayPolicy};
use sallyport_domain::scope::{Scope, ScopeTree};
use sallyport_domain::snapshot::Snapshot;

use crate::oauth::Refused;
use crate::pipeline::{self, Decoded, Locator, TokenForm, by_provider, preamble};
use crate::services::Services;

/// What is to be tried. Not `Debug`: it may hold a token.
pub enum Presented {
    /// A whole subject token: it is verified as in an exchange.
    Token(String),
    /// Bare claims: taken as if they had verified.
    Claims(Claims),
}

/// One simulation.
pub struct Simulation {
    /// The token or the claims.
    pub presented: Presented,
    /// Which trusts may decide.
    pub locator: Locator,
    /// From where it is pretended to come.
    pub source_ip: Option<IpAddr>,
    /// Where the caller may simulate: this scope and below. Trusts elsewhere are not found.
    pub allowed: Scope,
}

/// What would have happened.
#[derive(Debug)]
pub struct Simulated {
    /// The trust that decided, with its scope.
    pub trust: Option<(Scope, TrustId)>,
    /// What would be granted.
    pub terms: Option<Terms>,
    /// Every check.
    pub checks: Vec<Check>,
    /// The claims, as far as they could be read.
    pub claims: Option<Claims>,
}

impl Simulated {
    /// Whether a credential would have been given out.
    pub const fn granted(&self) -> bool {
        self.terms.is_some()
    }

    /// The first failed check.
    pub fn reason(&self) -> Option<CheckName> {
        self.checks.iter().find(|c| c.is_failed()).map(|c| c.name)
    }

    fn failures(&self) -> usize {
        self.checks.iter().filter(|c| c.is_failed()).count()
    }

    fn refused(checks: Vec<Check>, claims: Option<Claims>) -> Self {
        Self { trust: None, terms: None, checks, claims }
    }
}

/// Tries an exchange on `snapshot`.
pub async fn simulate(services: &Services, snapshot: &Snapshot, simulation: Simulation) -> Simulated {
    let mut simulated = decide(services, snapshot, simulation).await;
    simulated.checks = completed(simulated.checks);
    simulated
}

async fn decide(services: &Services, snapshot: &Snapshot, simulation: Simulation) -> Simulated {
    let subject = match Subject::read(&simulation.presented) {
        Ok(subject) => subject,
        Err(decode) => return Simulated::refused(vec![Check::skipped(CheckName::Locate), decode], None),
    };
    let candidates: Vec<Candidate> = subject
        .locate(services, snapshot, &simulation.locator)
        .into_iter()
        .filter(|c| snapshot.reaches(&simulation.allowed, &c.trust.trust().scope))
        .collect();
    if candidates.is_empty() {
        let locate =
            Check::failed(CheckName::Locate).detail("no trust you can see fits this client ID, audience and issuer");
        return Simulated::refused(vec![locate, Check::passed(CheckName::Decode)], subject.claims().cloned());
    }
    let mut furthest: Option<Simulated> = None;
    for (provider, group) in by_provider(candidates) {
        let simulated = subject.present(services, snapshot, &simulation, &provider, &group).await;
        if simulated.granted() {
            return simulated;
        }
        if furthest.as_ref().is_none_or(|other| other.failures() > simulated.failures()) {
            furthest = Some(simulated);
        }
    }
    // There was at least one candidate, so at least one provider was asked.
    furthest.unwrap_or_else(|| Simulated::refused(Vec::new(), None))
}

enum Subject<'a> {
    Token(Box<Decoded>),
    Claims(&'a Claims),
}

impl<'a> Subject<'a> {
    fn read(presented: &'a Presented) -> Result<Self, Check> {
        match presented {
            Presented::Claims(claims) => Ok(Self::Claims(claims)),
            Presented::Token(token) => {
                let aws = token.trim_start().starts_with(['{', '%']);
                let form = if aws { TokenForm::AwsRequest } else { TokenForm::Jwt };
                Decoded::parse(form, token).map(|decoded| Self::Token(Box::new(decoded))).map_err(|fault| fault.check())
            }
        }
    }

    fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Token(decoded) => match &**decoded {
                Decoded::Jwt(jwt) => Some(jwt.claims_unverified()),
                Decoded::Aws(_) => None,
            },
            Self::Claims(claims) => Some(claims),
        }
    }

    fn locate(&self, services: &Services, snapshot: &Snapshot, locator: &Locator) -> Vec<Candidate> {
        match (self, locator) {
            (Self::Token(decoded), _) => pipeline::locate(services, snapshot, locator, decoded),
            (Self::Claims(claims), Locator::Scope(scope, issuer)) => {
                let issuer = issuer.as_deref().or_else(|| claims.get("iss")?.as_str());
                match issuer {
                    Some(issuer) => snapshot.candidates(scope, &IssuerKey::of(issuer)),
                    None => snapshot.candidates_in(scope),
                }
            }
            (Self::Claims(_), _) => pipeline::locate_one(services, snapshot, locator).into_iter().collect(),
        }
    }

    /// Verifies, or takes bare claims as verified, then matches.
    async fn present(
        &self,
        services: &Services,
        snapshot: &Snapshot,
        simulation: &Simulation,
        provider: &Arc<Provider>,
        group: &[Candidate],
    ) -> Simulated {
        let (mut checks, identity) = match self {
            Self::Token(decoded) => {
                let verification = match &**decoded {
                    Decoded::Jwt(jwt) => services.verifier.verify_jwt(jwt, provider).await,
                    Decoded::Aws(request) => services.verifier.verify_aws(request, provider).await,
                };
                (preamble(verification.checks), verification.outcome.ok().map(|v| v.identity().clone()))
            }
            Self::Claims(claims) => {
                let names = [CheckName::Decode, CheckName::Issuer, CheckName::Signature, CheckName::Algorithm];
                let mut checks = vec![Check::passed(CheckName::Locate)];
                checks.extend(names.map(|name| Check::skipped(name).detail("bare claims are taken as verified")));
                (checks, Some(assumed(claims, services.now())))
            }
        };
        // The exchange looks at the times first; here an admin with an old token wants to see the other checks too.
        let late = match self {
            Self::Token(decoded) => decoded.check_times(services, Protocol::Oauth).err(),
            Self::Claims(_) => None,
        };
        let Some(identity) = identity else {
            let trust = group.first().map(trust_of);
            if let Some(refusal) = late {
                fail_times(&mut checks, refusal);
            }
            return Simulated { trust, terms: None, checks, claims: self.claims().cloned() };
        };
        let (group, source_ip) = (group.to_vec(), simulation.source_ip);
        let chosen = pipeline::choose_apart(services, snapshot, group, &identity, source_ip, &[]).await;
        let Some((candidate, evaluation)) = chosen else {
            return Simulated::refused(checks, self.claims().cloned());
        };
        checks.extend(evaluation.checks);
        let mut terms = evaluation.outcome.ok();
        if let Some(refusal) = late {
            fail_times(&mut checks, refusal);
            terms = None;
        }
        checks.push(match candidate.provider.replay {
            ReplayPolicy::Allow => Check::skipped(CheckName::Replay),
            _ => Check::skipped(CheckName::Replay)
                .detail("a simulation uses nothing up; whether the token was used is not looked at"),
        });
        Simulated { trust: Some(trust_of(&candidate)), terms, checks, claims: Some(identity.claims) }
    }
}

/// The token's times do not hold, in the words that its caller would hear.
fn fail_times(checks: &mut Vec<Check>, refusal: Refusal) {
    let name = pipeline::check_of_times(&refusal);
    pipeline::fail(checks, name, &Refused::from(refusal).description);
}

fn trust_of(candidate: &Candidate) -> (Scope, TrustId) {
    let trust = candidate.trust.trust();
    (trust.scope.clone(), trust.id)
}

/// Bare claims read leniently: what is missing or of a wrong type shows in the checks that need it. Without `iat` they are as
/// of now: whoever writes claims by hand asks about everything but their age.
fn assumed(claims: &Claims, now: Timestamp) -> Identity {
    let text = |name: &str| claims.text(name).ok().flatten().unwrap_or_default().to_owned();
    let time = |name: &str| claims.numeric_date(name).ok().flatten().map(Timestamp::from_seconds);
    let subject = if claims.get("sub").is_some() { text("sub") } else { text("arn") };
    Identity {
        issuer: text("iss"),
        subject,
        audiences: claims.audiences().unwrap_or_default().into_iter().map(str::to_owned).collect(),
        issued_at: time("iat").or(Some(now)),
        expires_at: time("exp"),
        token_id: Some(text("jti")).filter(|t| !t.is_empty()),
        claims: claims.clone(),
    }
}
