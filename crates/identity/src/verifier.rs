//! From a well-formed subject token and the provider that an admin configured to a [`VerifiedIdentity`].
//!
//! Verifies each token anew: no result is kept. Says nothing about times, which the protocols check beforehand, nor
//! about whether the identity gets in, which `sallyport_domain::matching` decides.

use std::fmt;
use std::sync::Arc;

use sallyport_domain::clock::{Clock, Timestamp};
use sallyport_domain::decision::{Check, CheckName, Refusal};
use sallyport_domain::exchange::ReplayKey;
use sallyport_domain::id::ProviderId;
use sallyport_domain::identity::Identity;
use sallyport_domain::issuer::IssuerKey;
use sallyport_domain::provider::{Provider, ProviderKind, ReplayPolicy};

use crate::aws::{self, SignedRequest};
use crate::discovery::{self, IssuerProblem};
use crate::jwt::{UnverifiedJwt, sha256, trust_domain};
use crate::keys::{KeyAnswer, KeyCache, SignatureOutcome, shown};
use crate::outbound::Outbound;

/// Seconds by which a use of a token is remembered beyond the token's end.
const REPLAY_LEEWAY: i64 = 30;

/// Verifies subject tokens. One per process, shared by an `Arc`.
pub struct Verifier {
    outbound: Outbound,
    keys: KeyCache,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// What became of a verification.
#[derive(Debug)]
pub struct Verification {
    /// Issuer, signature and algorithm, in this order; their texts are for admins.
    pub checks: Vec<Check>,
    /// The identity, or the refusal: [`Refusal::Denied`], or [`Refusal::Unavailable`] when the keys, or STS, cannot be
    /// had just now.
    pub outcome: Result<VerifiedIdentity, Refusal>,
}

/// An identity that was verified. Only verification makes one, and nothing takes one apart or copies it.
pub struct VerifiedIdentity {
    identity: Arc<Identity>,
    provider: Arc<Provider>,
    token_hash: [u8; 32],
    /// What one use of the token is named by, under [`ReplayPolicy::Once`]: SHA-256 of what is signed; for AWS of access key,
    /// date and signature.
    fingerprint: [u8; 32],
}

impl fmt::Debug for VerifiedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedIdentity").field("provider", &self.provider.id).finish_non_exhaustive()
    }
}

impl VerifiedIdentity {
    /// What was verified.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The provider by whose rules it was.
    pub const fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// SHA-256 of the subject token.
    pub const fn token_hash(&self) -> [u8; 32] {
        self.token_hash
    }

    /// What to consume together with the grant; `None` when the policy allows this token any number of times.
    ///
    /// A JWT is named by SHA-256 of `header.payload`, for a signature can be altered and stay valid, or of its `jti`;
    /// an AWS request by access key, date and signature, under either policy.
    pub fn replay_fingerprint(&self, policy: ReplayPolicy) -> Option<ReplayKey> {
        let fingerprint = match policy {
            ReplayPolicy::Allow => return None,
            ReplayPolicy::Once => self.fingerprint,
            ReplayPolicy::OnceIfJti if self.provider.kind == ProviderKind::AwsSts => self.fingerprint,
            ReplayPolicy::OnceIfJti => sha256(self.identity.token_id.as_ref()?.as_bytes()),
        };
        // Both kinds of token have an end; one that had none would have to be remembered for ever.
        let end = self.identity.expires_at.unwrap_or(Timestamp::from_micros(i64::MAX));
        Some(ReplayKey { provider: self.provider.id, fingerprint, until: end.plus_seconds(REPLAY_LEEWAY) })
    }
}

impl Verifier {
    /// A verifier with an empty key cache.
    pub fn new(outbound: Outbound, clock: Arc<dyn Clock>) -> Self {
        let keys = KeyCache::new(outbound.clone(), Arc::clone(&clock));
        Self { outbound, keys, clock }
    }

    /// Verifies issuer, algorithm and signature of a JWT. Fetches keys when none are cached or the key is unknown.
    pub async fn verify_jwt(&self, jwt: &UnverifiedJwt, provider: &Arc<Provider>) -> Verification {
        let issuer = issuer_check(jwt, provider);
        if issuer.is_failed() {
            return refused(
                issuer,
                Check::skipped(CheckName::Signature),
                Check::skipped(CheckName::Algorithm),
                Refusal::Denied,
            );
        }
        let algorithm =
            Check::of(CheckName::Algorithm, provider.allows(jwt.algorithm())).actual(jwt.algorithm().name());
        if algorithm.is_failed() {
            let accepted: Vec<&str> = provider.algorithms.iter().map(|a| a.name()).collect();
            let algorithm = algorithm.expected(format!("one of: {}", accepted.join(", ")));
            return refused(issuer, Check::skipped(CheckName::Signature), algorithm, Refusal::Denied);
        }
        let answer = self.keys.check(provider, |set| set.verify(jwt)).await;
        let failed = Check::failed(CheckName::Signature);
        let kid = || jwt.key_id().map_or_else(|| "no key id".to_owned(), |kid| format!("key id '{}'", shown(kid)));
        let (outcome, set, note) = match answer {
            KeyAnswer::Checked(outcome, set, note) => (outcome, set, note),
            KeyAnswer::Unavailable(why) => {
                return refused(issuer, failed.detail(why), algorithm, Refusal::Unavailable);
            }
            KeyAnswer::Unusable(why) => return refused(issuer, failed.detail(why), algorithm, Refusal::Denied),
        };
        match outcome {
            SignatureOutcome::Verified => Verification {
                checks: vec![issuer, Check::passed(CheckName::Signature), algorithm],
                outcome: Ok(VerifiedIdentity {
                    identity: as_of(provider, jwt.identity()),
                    provider: Arc::clone(provider),
                    token_hash: jwt.token_hash(),
                    fingerprint: jwt.signed_hash(),
                }),
            },
            SignatureOutcome::Wrong => {
                let signature =
                    failed.actual(kid()).detail("the issuer's key of this id did not make the token's signature");
                refused(issuer, signature, algorithm, Refusal::Denied)
            }
            SignatureOutcome::OtherAlgorithm => {
                let algorithm = Check::failed(CheckName::Algorithm)
                    .expected(format!("what the issuer's key is for: {}", set.describe()))
                    .actual(format!("{}, {}", jwt.algorithm().name(), kid()));
                refused(issuer, Check::skipped(CheckName::Signature), algorithm, Refusal::Denied)
            }
            SignatureOutcome::UnknownKey => {
                let mut detail = if jwt.key_id().is_some() {
                    "the issuer has no key of this id".to_owned()
                } else {
                    "no key of the issuer made the token's signature".to_owned()
                };
                if let Some(note) = note {
                    detail = format!("{detail}; {note}");
                }
                let signature = failed.expected(set.describe()).actual(kid()).detail(detail);
                refused(issuer, signature, algorithm, Refusal::Denied)
            }
        }
    }

    /// Has AWS STS verify a pre-signed `GetCallerIdentity` request, rebuilt from what was read of the caller's.
    pub async fn verify_aws(&self, request: &SignedRequest, provider: &Arc<Provider>) -> Verification {
        let algorithm = Check::passed(CheckName::Algorithm).actual(aws::ALGORITHM);
        if provider.kind != ProviderKind::AwsSts {
            let issuer = Check::failed(CheckName::Issuer)
                .expected(format!("a token of {}", provider.issuer))
                .actual("a pre-signed AWS request");
            return refused(issuer, Check::skipped(CheckName::Signature), algorithm, Refusal::Denied);
        }
        let issuer = Check::passed(CheckName::Issuer).actual(request.host());
        match aws::ask_sts(&self.outbound, request, provider).await {
            Ok(identity) => Verification {
                checks: vec![issuer, Check::passed(CheckName::Signature), algorithm],
                outcome: Ok(VerifiedIdentity {
                    identity: Arc::new(identity),
                    provider: Arc::clone(provider),
                    token_hash: request.token_hash(),
                    fingerprint: request.fingerprint(),
                }),
            },
            Err(problem) => {
                let refusal = problem.refusal();
                refused(issuer, Check::failed(CheckName::Signature).detail(problem.to_string()), algorithm, refusal)
            }
        }
    }

    /// Whether tokens of this provider could be verified, asked while its admin waits. Uses no cache.
    ///
    /// # Errors
    /// What is wrong: which member, which rule.
    pub async fn check_issuer(&self, provider: &Provider) -> Result<(), IssuerProblem> {
        discovery::check_issuer(&self.outbound, provider).await
    }

    /// Forgets the cached keys of a provider that is gone or was changed.
    pub fn forget(&self, provider: ProviderId) {
        self.keys.forget(provider);
    }

    /// The clock that verification runs by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

fn refused(issuer: Check, signature: Check, algorithm: Check, refusal: Refusal) -> Verification {
    Verification { checks: vec![issuer, signature, algorithm], outcome: Err(refusal) }
}

/// `iss` equals the provider's issuer modulo one trailing slash; for SPIFFE the trust domain of `sub` does, and `iss`
/// says nothing (JWT-SVID section 3).
fn issuer_check(jwt: &UnverifiedJwt, provider: &Provider) -> Check {
    let expected = provider.issuer.as_str();
    if provider.kind == ProviderKind::AwsSts {
        return Check::failed(CheckName::Issuer).expected("a pre-signed AWS request").actual("a JWT");
    }
    if provider.kind == ProviderKind::Spiffe {
        let found = trust_domain(&jwt.identity().subject);
        let held = found.is_some() && found == provider.issuer.trust_domain();
        let actual = found.map_or_else(|| "a subject that is no SPIFFE ID".to_owned(), |d| format!("spiffe://{d}"));
        return Check::of(CheckName::Issuer, held).expected(expected).actual(actual);
    }
    let held = jwt.issuer().is_some_and(|issuer| IssuerKey::of(issuer) == *provider.issuer.key());
    Check::of(CheckName::Issuer, held).expected(expected).actual(jwt.issuer().unwrap_or("no iss"))
}

/// The identity as verified by this provider: SPIFFE's issuer is the trust domain, whatever `iss` says.
fn as_of(provider: &Provider, identity: &Arc<Identity>) -> Arc<Identity> {
    if provider.kind != ProviderKind::Spiffe {
        return Arc::clone(identity);
    }
    let mut identity = Identity::clone(identity);
    provider.issuer.as_str().clone_into(&mut identity.issuer);
    Arc::new(identity)
}
