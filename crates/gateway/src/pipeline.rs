//! The one pipeline: locate → verify → match → grant → record. Every protocol is an adapter in front of [`exchange`].
//!
//! A decision is taken on one snapshot. Should anything it rests on have changed by the time the grant is written, nothing is
//! written and it is taken again. No credential leaves before its record is durable.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use metrics::{Counter, Histogram};
use sallyport_domain::decision::{Check, CheckName, CheckOutcome, Refusal, Terms, completed};
use sallyport_domain::exchange::{CredentialKind, ExchangeRecord, Protocol, ReplayKey};
use sallyport_domain::id::{CredentialId, ExchangeId, ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::identity::Identity;
use sallyport_domain::issuer::IssuerKey;
use sallyport_domain::matching::{Candidate, Circumstances, Evaluation, choose};
use sallyport_domain::preset::shared_issuer;
use sallyport_domain::provider::{AWS_STS_ISSUER, Provider, ProviderKind};
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_domain::snapshot::Snapshot;
use sallyport_domain::trust::client_name;
use sallyport_identity::aws::SignedRequest;
use sallyport_identity::jwt::{TimeRules, TokenFault, UnverifiedJwt};
use sallyport_identity::verifier::{Verification, VerifiedIdentity};
use sallyport_store::{Needed, RecordError, Recorded};
use tracing::Instrument;
use tracing::field::Empty;

use crate::limits::Noise;
use crate::mint::{self, Minted};
use crate::request_id::CurrentRequest;
use crate::services::Services;
use crate::stages::Stage;

/// How often a decision is taken anew because the configuration moved on meanwhile.
const DECISIONS_AT_MOST: usize = 5;
/// Seconds by which clocks may differ.
pub(crate) const LEEWAY: i64 = 30;

/// Of what nearly every exchange counts, looked up once: the recorder of metrics is installed before the first, and stays.
static GRANTED: LazyLock<Counter> =
    LazyLock::new(|| metrics::counter!("sallyport_exchanges_total", "outcome" => "granted", "reason" => ""));
static ISSUED: LazyLock<[Counter; 3]> = LazyLock::new(|| {
    CredentialKind::ALL.map(|kind| metrics::counter!("sallyport_credentials_issued_total", "kind" => kind.name()))
});
static TOOK: LazyLock<[Histogram; 2]> = LazyLock::new(|| {
    Protocol::ALL.map(|door| metrics::histogram!("sallyport_exchange_duration_seconds", "protocol" => door.name()))
});

/// What the subject token claims to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenForm {
    /// A JWT.
    Jwt,
    /// A pre-signed AWS `GetCallerIdentity` request.
    AwsRequest,
}

/// How the request says which trusts may decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Locator {
    /// A client ID: exactly one trust.
    Client(String),
    /// A trust or binding by its MRN: exactly one trust.
    Trust(Scope, TrustId),
    /// The trusts of exactly this scope with this issuer; `None`: the token's own.
    Scope(Scope, Option<String>),
    /// Something that names nothing we could have; refused like any other name.
    Unknown,
}

/// What the caller wants to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// A JWT access token.
    AccessToken,
    /// A key pair with certificate.
    KeyPair,
    /// An OIDC ID token for this third party.
    IdToken {
        /// The third party.
        audience: String,
    },
}

impl Wanted {
    /// The sort of credential.
    pub const fn kind(&self) -> CredentialKind {
        match self {
            Self::AccessToken => CredentialKind::AccessToken,
            Self::KeyPair => CredentialKind::KeyPair,
            Self::IdToken { .. } => CredentialKind::IdToken,
        }
    }
}

/// One attempt, as an adapter read it. Not `Debug`: it holds the token.
pub struct Attempt {
    /// Through which door.
    pub protocol: Protocol,
    /// Which trusts may decide.
    pub locator: Locator,
    /// What the token claims to be.
    pub form: TokenForm,
    /// The subject token.
    pub token: String,
    /// What is wanted.
    pub wanted: Wanted,
    /// Roles asked for, by name or MRN; empty means all.
    pub requested_roles: Vec<String>,
    /// Where the request comes from.
    pub source_ip: Option<IpAddr>,
}

/// What the adapter answers with.
#[derive(Debug)]
pub struct Answer {
    /// The reference.
    pub reference: ExchangeId,
    /// A credential whose record is durable, or the refusal.
    pub result: Result<Box<Granted>, Refusal>,
}

/// A grant that is on record.
#[derive(Debug)]
pub struct Granted {
    /// The credential.
    pub credential: Minted,
    /// What it allows and for how long.
    pub terms: Terms,
    /// The scope it works in.
    pub scope: Scope,
    /// Whose it is.
    pub service_account: ServiceAccountId,
    /// Its id.
    pub id: CredentialId,
}

/// A subject token of the right shape, not yet verified.
pub(crate) enum Decoded {
    Jwt(UnverifiedJwt),
    Aws(SignedRequest),
}

impl Decoded {
    pub(crate) fn parse(form: TokenForm, token: &str) -> Result<Self, TokenFault> {
        match form {
            TokenForm::Jwt => UnverifiedJwt::parse(token.trim()).map(Self::Jwt),
            TokenForm::AwsRequest => SignedRequest::parse(token.trim()).map(Self::Aws),
        }
    }

    /// Rules that need no configuration.
    pub(crate) fn check_times(&self, services: &Services, protocol: Protocol) -> Result<(), Refusal> {
        let rules = match protocol {
            Protocol::Rpc => TimeRules::RPC,
            Protocol::Oauth => TimeRules::OAUTH,
        };
        match self {
            Self::Jwt(jwt) => {
                let spiffe = jwt.spiffe_issuer().is_some();
                jwt.check_times(services.now(), &rules.with_iat_optional(spiffe))
            }
            Self::Aws(request) => request.check_times(services.now()),
        }
    }

    /// The issuers it may be looked up under when the request names none.
    pub(crate) fn issuers(&self) -> Vec<String> {
        match self {
            Self::Jwt(jwt) => jwt.issuer().map(str::to_owned).into_iter().chain(jwt.spiffe_issuer()).collect(),
            Self::Aws(_) => vec![AWS_STS_ISSUER.to_owned()],
        }
    }

    fn fits(&self, provider: &Provider) -> bool {
        matches!(self, Self::Aws(_)) == (provider.kind == ProviderKind::AwsSts)
    }

    fn hash(&self) -> [u8; 32] {
        match self {
            Self::Jwt(jwt) => jwt.token_hash(),
            Self::Aws(request) => request.token_hash(),
        }
    }

    /// What it says its subject is; AWS says that only when asked.
    fn subject(&self) -> Option<&str> {
        match self {
            Self::Jwt(jwt) => jwt.claims_unverified().text("sub").ok().flatten(),
            Self::Aws(_) => None,
        }
    }

    fn candidates(&self, snapshot: &Snapshot, scope: &Scope, issuer: &str) -> Vec<Candidate> {
        let issuer = IssuerKey::of(issuer);
        match self.subject() {
            Some(subject) => snapshot.candidates_for(scope, &issuer, subject),
            None => snapshot.candidates(scope, &issuer),
        }
    }
}

/// What has to be loaded before [`locate`] can be asked.
fn needed<'l>(services: &Services, locator: &'l Locator) -> Option<Needed<'l>> {
    match locator {
        Locator::Client(id) => client_name(id, &services.installation.tenant_domain).map(Needed::Client),
        Locator::Trust(_, id) => Some(Needed::Trust(*id)),
        Locator::Scope(scope, _) => Some(Needed::TrustsOf(scope)),
        Locator::Unknown => None,
    }
}

/// Finds the candidates for a request. None is the same as any other refusal.
pub(crate) fn locate(services: &Services, snapshot: &Snapshot, locator: &Locator, decoded: &Decoded) -> Vec<Candidate> {
    let mut candidates = match locator {
        Locator::Scope(scope, Some(issuer)) => decoded.candidates(snapshot, scope, issuer),
        Locator::Scope(scope, None) => {
            decoded.issuers().iter().flat_map(|issuer| decoded.candidates(snapshot, scope, issuer)).collect()
        }
        one => locate_one(services, snapshot, one).into_iter().collect(),
    };
    candidates.retain(|c| decoded.fits(&c.provider));
    candidates
}

/// The one trust that a locator names, where it names one.
pub(crate) fn locate_one(services: &Services, snapshot: &Snapshot, locator: &Locator) -> Option<Candidate> {
    match locator {
        Locator::Client(id) => {
            client_name(id, &services.installation.tenant_domain).and_then(|name| snapshot.candidate_by_client(name))
        }
        Locator::Trust(scope, id) => snapshot.candidate(*id).filter(|c| c.trust.trust().scope == *scope),
        Locator::Scope(..) | Locator::Unknown => None,
    }
}

/// Refuses a request that never became an attempt, with a reference all the same.
pub fn refuse(services: &Services, protocol: Protocol, refusal: Refusal) -> Answer {
    let reference = ExchangeId(services.new_id());
    metrics::counter!("sallyport_exchanges_total", "outcome" => "refused", "reason" => "request").increment(1);
    tracing::info!(request = %CurrentRequest, %reference, protocol = protocol.name(), ?refusal, "exchange refused");
    Answer { reference, result: Err(refusal) }
}

/// One attempt from its token to its answer. Every way out passes here, and is counted here.
pub async fn exchange(services: &Services, attempt: &Attempt) -> Answer {
    let started = Instant::now();
    let reference = ExchangeId(services.new_id());
    let run = Run { services, attempt, reference };
    let (request, protocol) = (CurrentRequest, attempt.protocol.name());
    let span = tracing::debug_span!("exchange", %request, %reference, protocol, reason = Empty);
    let (result, reason) = run.decide().instrument(span.clone()).await;
    let (outcome, reason) = match &result {
        Ok(_) => ("granted", ""),
        Err(Refusal::Unavailable) => ("unavailable", reason),
        Err(_) => ("refused", reason),
    };
    span.record("reason", if reason.is_empty() { outcome } else { reason });
    if result.is_ok() {
        GRANTED.increment(1);
        ISSUED[attempt.wanted.kind() as usize].increment(1);
    } else {
        metrics::counter!("sallyport_exchanges_total", "outcome" => outcome, "reason" => reason).increment(1);
    }
    TOOK[attempt.protocol as usize].record(started.elapsed().as_secs_f64());
    if let Err(refusal) = &result {
        tracing::info!(%request, %reference, protocol, reason, ?refusal, "exchange refused");
    }
    Answer { reference, result }
}

/// Matching among the trusts of one provider, moved off the async threads when a condition may take long. `None` when there
/// are none.
pub(crate) async fn choose_apart(
    services: &Services,
    snapshot: &Snapshot,
    group: Vec<Candidate>,
    identity: &Identity,
    source_ip: Option<IpAddr>,
    requested_roles: &[String],
) -> Option<(Candidate, Evaluation)> {
    let installation = &services.installation;
    let now = services.now();
    let provider = group.first()?.provider.id;
    let subject_disabled = snapshot.subject_disabled(provider, &identity.subject);
    if !group.iter().any(Candidate::is_heavy) {
        let at = Circumstances { installation, now, leeway: LEEWAY, source_ip, requested_roles, subject_disabled };
        return choose(&group, identity, &at).map(|(c, e)| (c.clone(), e));
    }
    let (installation, identity, roles) = (installation.clone(), identity.clone(), requested_roles.to_vec());
    tokio::task::spawn_blocking(move || {
        let (installation, requested_roles) = (&installation, roles.as_slice());
        let at = Circumstances { installation, now, leeway: LEEWAY, source_ip, requested_roles, subject_disabled };
        choose(&group, &identity, &at).map(|(c, e)| (c.clone(), e))
    })
    .await
    .ok()
    .flatten()
}

struct Run<'a> {
    services: &'a Services,
    attempt: &'a Attempt,
    reference: ExchangeId,
}

/// The proof that everything passed: only matching a verified identity makes one, and only with one can be minted.
pub struct Grant<'a> {
    identity: &'a VerifiedIdentity,
    candidate: &'a Candidate,
    terms: &'a Terms,
    credential: CredentialId,
}

impl<'a> Grant<'a> {
    /// Who it is.
    pub const fn identity(&self) -> &'a VerifiedIdentity {
        self.identity
    }

    /// The trust that matched.
    pub const fn candidate(&self) -> &'a Candidate {
        self.candidate
    }

    /// What it gives.
    pub const fn terms(&self) -> &'a Terms {
        self.terms
    }

    /// The credential's id, equal to the exchange's.
    pub const fn credential(&self) -> CredentialId {
        self.credential
    }
}

/// What STS said, by provider and its version: it is not asked twice when a decision is taken anew. A JWT is verified again.
type Asked = HashMap<(ProviderId, i64), Arc<Verification>>;

/// What was decided and has yet to be recorded. Nothing else of an attempt is kept while it waits for that: under load,
/// hundreds do, and each byte is one that the processor has forgotten when it goes on.
struct Verdict {
    record: Box<ExchangeRecord>,
    /// Of the configuration that it was decided on.
    revision: i64,
    outcome: Outcome,
}

enum Outcome {
    Granted(Box<Granted>),
    Refused(Refusal, &'static str),
    /// A refusal that is counted and not recorded.
    Counted(Refusal, &'static str, Noise),
}

impl Run<'_> {
    async fn decide(&self) -> (Result<Box<Granted>, Refusal>, &'static str) {
        if let Err(wait) = self.services.limits.admit(self.attempt.source_ip) {
            return (Err(Refusal::RateLimited(wait.0)), "rate_limit");
        }
        let mut asked = Asked::new();
        for decisions in 0..DECISIONS_AT_MOST {
            // Boxed, so that what it takes to decide is given back before the record is waited for.
            match Box::pin(self.judge(decisions > 0, &mut asked)).await {
                Err((refusal, reason)) => return (Err(refusal), reason),
                Ok(verdict) => {
                    if let Some(settled) = self.settle(verdict).await {
                        return settled;
                    }
                }
            }
        }
        (Err(Refusal::Unavailable), "configuration")
    }

    /// Decides on one snapshot, and mints if it is a grant.
    ///
    /// # Errors
    /// When there is nothing to record, because nothing could be decided.
    async fn judge(&self, again: bool, asked: &mut Asked) -> Result<Verdict, (Refusal, &'static str)> {
        let services = self.services;
        let decoded = Decoded::parse(self.attempt.form, &self.attempt.token)
            .map_err(|fault| (fault.refusal(), fault.check().name.name()))?;
        // Once: an attempt that was verified is not to end without a record because its token ends meanwhile.
        if !again {
            decoded.check_times(services, self.attempt.protocol).map_err(|refusal| {
                let check = check_of_times(&refusal);
                (refusal, check.name())
            })?;
        }
        let needed = needed(services, &self.attempt.locator);
        // Boxed is what hardly any exchange needs, and is large.
        let snapshot = if again {
            Box::pin(services.configuration.refresh_with(needed.as_slice())).await
        } else {
            services.configuration.current_with(needed.as_slice()).await
        };
        let snapshot = snapshot.map_err(|_| (Refusal::Unavailable, "configuration"))?;
        let candidates = Stage::Locate.run_now(|| locate(services, &snapshot, &self.attempt.locator, &decoded));
        if candidates.is_empty() {
            return Err((Refusal::Denied, CheckName::Locate.name()));
        }
        // The trusts of one scope with one issuer may use that scope's provider or an ancestor's: each verifies by its own
        // rules, and all that match are ranked together.
        let mut evaluated: Vec<(Candidate, Evaluation, Arc<Verification>)> = Vec::with_capacity(1);
        let mut unverified: Option<Refused> = None;
        for (provider, group) in by_provider(candidates) {
            let verification = Stage::Verify.run(self.verify(&decoded, &provider, asked)).await;
            match &verification.outcome {
                Err(refusal) => {
                    unverified = Some(Refused::unverified(&provider, &group, &verification, refusal.clone()));
                }
                Ok(identity) => {
                    let chosen = Stage::Match.run(self.choose(&snapshot, group, identity.identity())).await;
                    let (candidate, evaluation) = chosen.ok_or((Refusal::Unavailable, "internal"))?;
                    evaluated.push((candidate, evaluation, verification));
                }
            }
        }
        let best = evaluated.into_iter().min_by_key(|(candidate, evaluation, _)| {
            let failures = if evaluation.matched() { 0 } else { evaluation.failures() };
            (!evaluation.matched(), failures, candidate.rank())
        });
        let refused = match best {
            Some((candidate, evaluation, verification)) => {
                match self.grant(&snapshot, verification, candidate, evaluation)? {
                    Attempted::Granted(verdict) => return Ok(verdict),
                    Attempted::Refused(refused) => *refused,
                }
            }
            None => unverified.ok_or((Refusal::Unavailable, "internal"))?,
        };
        Ok(self.refusal(&snapshot, &decoded, refused))
    }

    /// Verifies by one provider's rules.
    async fn verify(&self, decoded: &Decoded, provider: &Arc<Provider>, asked: &mut Asked) -> Arc<Verification> {
        let request = match decoded {
            // A disabled provider is not asked, and nobody learns that it is there.
            _ if provider.disabled => {
                return Arc::new(Verification { checks: Vec::new(), outcome: Err(Refusal::Denied) });
            }
            Decoded::Jwt(jwt) => return Arc::new(self.services.verifier.verify_jwt(jwt, provider).await),
            Decoded::Aws(request) => request,
        };
        let version = (provider.id, provider.version);
        if let Some(answer) = asked.get(&version) {
            return Arc::clone(answer);
        }
        let answer = Arc::new(Box::pin(self.services.verifier.verify_aws(request, provider)).await);
        asked.insert(version, Arc::clone(&answer));
        answer
    }

    /// Grants, if the evaluation and the limits allow.
    ///
    /// # Errors
    /// When there is nothing to record: the attempt was not decided.
    fn grant(
        &self,
        snapshot: &Snapshot,
        mut verification: Arc<Verification>,
        candidate: Candidate,
        evaluation: Evaluation,
    ) -> Result<Attempted, (Refusal, &'static str)> {
        let services = self.services;
        // Those of a JWT are nobody else's.
        let verified = Arc::get_mut(&mut verification).map(|own| std::mem::take(&mut own.checks));
        let mut checks = preamble(verified.unwrap_or_else(|| verification.checks.clone()));
        let Ok(identity) = &verification.outcome else { return Err((Refusal::Unavailable, "internal")) };
        checks.extend(evaluation.checks);
        let terms = match evaluation.outcome {
            Ok(terms) => terms,
            Err(refusal) => {
                return Ok(Attempted::Refused(Refused::verified(checks, refusal, candidate, identity)));
            }
        };
        if matches!(self.attempt.wanted, Wanted::IdToken { .. })
            && !snapshot.permissions_of(&terms.roles).contains(Permission::IdTokensIssue)
        {
            fail(&mut checks, CheckName::Roles, "the roles granted do not allow an ID token for another audience");
            return Ok(Attempted::Refused(Refused::verified(checks, Refusal::Denied, candidate, identity)));
        }
        let trust = candidate.trust.trust();
        services.limits.admit_trust(trust.id).map_err(|wait| (Refusal::RateLimited(wait.0), "rate_limit"))?;
        let replay = identity.replay_fingerprint(candidate.provider.replay);
        checks.push(match &replay {
            None => Check::skipped(CheckName::Replay),
            Some(_) => Check::passed(CheckName::Replay).detail("first use of this token"),
        });
        let credential = CredentialId(self.reference.0);
        let grant = Grant { identity, candidate: &candidate, terms: &terms, credential };
        let minted = Stage::Mint.run_now(|| mint::mint(services, &grant, &self.attempt.wanted));
        let (minted, issued) = minted.map_err(|error| {
            tracing::error!(request = %CurrentRequest, reference = %self.reference, %error, "a credential could not be minted");
            (Refusal::Unavailable, "mint")
        })?;
        let (facts, hash) = (Some(identity.identity()), identity.token_hash());
        let mut record = self.record(snapshot, &candidate, facts, hash, checks, replay);
        record.granted = true;
        record.service_account = Some(trust.service_account);
        record.credential = Some(issued);
        let (scope, service_account) = (trust.scope.clone(), trust.service_account);
        let granted = Box::new(Granted { credential: minted, terms, scope, service_account, id: credential });
        let (revision, outcome) = (snapshot.revision(), Outcome::Granted(granted));
        Ok(Attempted::Granted(Verdict { record, revision, outcome }))
    }

    async fn choose(
        &self,
        snapshot: &Snapshot,
        group: Vec<Candidate>,
        identity: &Identity,
    ) -> Option<(Candidate, Evaluation)> {
        let Attempt { source_ip, requested_roles, .. } = self.attempt;
        choose_apart(self.services, snapshot, group, identity, *source_ip, requested_roles).await
    }

    fn refusal(&self, snapshot: &Snapshot, decoded: &Decoded, refused: Refused) -> Verdict {
        let noise = refused.noise();
        let Refused { checks, refusal, candidate, identity, verified } = refused;
        let reason = checks.iter().find(|c| c.is_failed()).map_or("internal", |c| c.name.name());
        let (provider, scope) = (candidate.provider.id, &candidate.trust.trust().scope);
        let outcome = match noise.filter(|noise| !self.services.limits.record_noise(*noise, provider, scope)) {
            Some(noise) => Outcome::Counted(refusal, reason, noise),
            None => Outcome::Refused(refusal, reason),
        };
        let mut record = self.record(snapshot, &candidate, identity.as_ref(), decoded.hash(), checks, None);
        record.reason = Some(reason.to_owned());
        if record.subject.is_empty() {
            record.subject = decoded.subject().unwrap_or_default().to_owned();
        }
        if !verified {
            record.trust = None;
        }
        Verdict { record, revision: snapshot.revision(), outcome }
    }

    /// Puts a verdict on record, and only then answers. `None`: what the grant rests on has changed since, decide again.
    async fn settle(&self, verdict: Verdict) -> Option<(Result<Box<Granted>, Refusal>, &'static str)> {
        let Verdict { record, revision, outcome } = verdict;
        let (result, reason) = match outcome {
            Outcome::Granted(granted) => (Ok(granted), ""),
            Outcome::Refused(refusal, reason) => (Err(refusal), reason),
            Outcome::Counted(refusal, reason, noise) => {
                metrics::counter!("sallyport_exchanges_unrecorded_total", "why" => noise.name()).increment(1);
                return Some((Err(refusal), reason));
            }
        };
        // Only a token that may be used once can turn out to have been used.
        let if_replayed = record.replay.as_ref().map(|_| record.clone());
        let unavailable = |reason| Some((Err(Refusal::Unavailable), reason));
        match Stage::Record.run(self.services.recorder.record(record, revision)).await {
            Ok(Recorded::Durable) => Some((result, reason)),
            Ok(Recorded::Superseded) => None,
            Ok(Recorded::Replayed) => {
                let record = replayed(if_replayed?);
                let reason = CheckName::Replay.name();
                if let Err(error) = Stage::Record.run(self.services.recorder.record(record, revision)).await {
                    return self.unrecorded(error);
                }
                Some((Err(Refusal::Denied), reason))
            }
            Err(error) if result.is_err() => self.unrecorded(error),
            Err(RecordError::QueueFull) => unavailable("queue_full"),
            Err(RecordError::Unavailable) => unavailable("database"),
        }
    }

    /// A refusal is not told before it is on record, either.
    fn unrecorded(&self, error: RecordError) -> Option<(Result<Box<Granted>, Refusal>, &'static str)> {
        tracing::warn!(request = %CurrentRequest, reference = %self.reference, %error, "a refusal could not be recorded");
        Some((Err(Refusal::Unavailable), "database"))
    }

    fn record(
        &self,
        snapshot: &Snapshot,
        candidate: &Candidate,
        identity: Option<&Identity>,
        token_hash: [u8; 32],
        checks: Vec<Check>,
        replay: Option<ReplayKey>,
    ) -> Box<ExchangeRecord> {
        let trust = candidate.trust.trust();
        Box::new(ExchangeRecord {
            id: self.reference,
            time: self.services.now(),
            scope: trust.scope.clone(),
            organization: snapshot.organization_of_scope(&trust.scope),
            granted: false,
            reason: None,
            protocol: self.attempt.protocol,
            trust: Some(trust.id),
            binding: trust.binding,
            provider: Some(candidate.provider.id),
            service_account: None,
            issuer: candidate.provider.issuer.as_str().to_owned(),
            subject: identity.map(|identity| identity.subject.clone()).unwrap_or_default(),
            source_ip: self.attempt.source_ip,
            token_hash,
            credential: None,
            checks: completed(checks),
            replay,
        })
    }
}

/// The record of a refusal, from that of a grant whose token had been used before.
fn replayed(mut record: Box<ExchangeRecord>) -> Box<ExchangeRecord> {
    fail(&mut record.checks, CheckName::Replay, "this token was exchanged before, and the provider allows it once");
    record.reason = Some(CheckName::Replay.name().to_owned());
    record.granted = false;
    (record.service_account, record.credential, record.replay) = (None, None, None);
    record
}

enum Attempted {
    Granted(Verdict),
    Refused(Box<Refused>),
}

/// A refusal on its way to the record.
struct Refused {
    checks: Vec<Check>,
    refusal: Refusal,
    candidate: Candidate,
    identity: Option<Identity>,
    verified: bool,
}

impl Refused {
    /// Whether strangers could fill a tenant's log with refusals such as this one, so that only an allowance of them is
    /// recorded, and the rest counted. Every attempt has its reference, and its line in the operator's log, all the same.
    ///
    /// What did not verify is anybody's. What did verify is recorded always, as long as it is the tenant's own as far as can
    /// be told. It cannot be where the issuer serves others too (GitHub, or a provider that the platform offers to every
    /// tenant), and the identity is not even one that a trust means by subject, mappings or condition. An identity that is
    /// meant, and is refused for its audience, age, address, roles or a disabled part, is the tenant's own anywhere.
    fn noise(&self) -> Option<Noise> {
        if !self.verified {
            return Some(Noise::Unverified);
        }
        let provider = &self.candidate.provider;
        let offered_to_all = provider.scope == Scope::Platform && self.candidate.trust.trust().scope != Scope::Platform;
        let not_meant = self.checks.iter().any(|check| {
            check.is_failed() && matches!(check.name, CheckName::Subject | CheckName::Mappings | CheckName::Condition)
        });
        ((offered_to_all || shared_issuer(provider).is_some()) && not_meant).then_some(Noise::Stranger)
    }

    fn verified(checks: Vec<Check>, refusal: Refusal, candidate: Candidate, identity: &VerifiedIdentity) -> Box<Self> {
        Box::new(Self { checks, refusal, candidate, identity: Some(identity.identity().clone()), verified: true })
    }

    fn unverified(
        provider: &Arc<Provider>,
        group: &[Candidate],
        verification: &Verification,
        refusal: Refusal,
    ) -> Self {
        let mut checks = preamble(verification.checks.clone());
        if provider.disabled {
            checks.push(Check::failed(CheckName::Enabled).actual("the provider is disabled"));
        }
        debug_assert!(!group.is_empty(), "a provider is asked only for the candidates that use it");
        tracing::debug!(provider = %provider.id, "a subject token did not verify");
        Self { checks, refusal, candidate: group[0].clone(), identity: None, verified: false }
    }
}

/// Groups candidates by provider, in the order in which the providers first appear.
pub(crate) fn by_provider(candidates: Vec<Candidate>) -> Vec<(Arc<Provider>, Vec<Candidate>)> {
    let mut groups: Vec<(Arc<Provider>, Vec<Candidate>)> = Vec::with_capacity(1);
    for candidate in candidates {
        match groups.iter_mut().find(|(provider, _)| provider.id == candidate.provider.id) {
            Some((_, group)) => group.push(candidate),
            None => groups.push((Arc::clone(&candidate.provider), vec![candidate])),
        }
    }
    groups
}

/// Locate and decode passed; then what verification says.
pub(crate) fn preamble(verified: Vec<Check>) -> Vec<Check> {
    let mut checks = Vec::with_capacity(CheckName::ALL.len());
    checks.extend([Check::passed(CheckName::Locate), Check::passed(CheckName::Decode)]);
    checks.extend(verified);
    checks
}

/// The check that a fault of the token's times belongs to: a time that is missing is a fault of its shape.
pub(crate) const fn check_of_times(refusal: &Refusal) -> CheckName {
    match refusal {
        Refusal::MalformedToken(_) => CheckName::Decode,
        _ => CheckName::Freshness,
    }
}

/// Turns a check into a failure, or adds it.
pub(crate) fn fail(checks: &mut Vec<Check>, name: CheckName, detail: &str) {
    match checks.iter_mut().find(|c| c.name == name) {
        Some(check) => {
            check.outcome = CheckOutcome::Failed;
            check.detail = Some(detail.to_owned());
        }
        None => checks.push(Check::failed(name).detail(detail)),
    }
}

/// One of each refusal, for the tables of words that each protocol shows in its tests.
#[cfg(test)]
pub(crate) fn every_refusal() -> Vec<Refusal> {
    vec![
        Refusal::MalformedRequest("what is wrong".into()),
        Refusal::MalformedToken("the subject token has no signature".into()),
        Refusal::Expired,
        Refusal::TooLittleTimeLeft,
        Refusal::FromTheFuture,
        Refusal::AlgorithmNotAllowed,
        Refusal::AudienceNotAccepted,
        Refusal::RolesBeyondGrant,
        Refusal::Denied,
        Refusal::RateLimited(7),
        Refusal::Unavailable,
    ]
}
