//! What the integration tests share: a verifier that trusts the stand-ins' authority, and providers for it.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use sallyport_domain::clock::{ManualClock, Timestamp};
use sallyport_domain::decision::{CheckName, Refusal};
use sallyport_domain::id::ProviderId;
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::provider::{KeySource, Provider, ProviderKind, ReplayPolicy};
use sallyport_domain::scope::Scope;
use sallyport_identity::outbound::{AllowRule, Limits, ResolveOverride};
use sallyport_identity::{Outbound, OutboundSettings, TimeRules, UnverifiedJwt, Verification, Verifier};
use sallyport_testkit::{Issuer, TestAuthority};
use serde_json::{Value, json};
use uuid::Uuid;

/// When the tests take place.
pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) struct World {
    pub(crate) authority: TestAuthority,
    pub(crate) clock: Arc<ManualClock>,
}

impl World {
    pub(crate) fn new() -> Self {
        let authority = TestAuthority::new().unwrap();
        Self { authority, clock: Arc::new(ManualClock::new(Timestamp::from_seconds(NOW))) }
    }

    pub(crate) async fn issuer(&self) -> Issuer {
        Issuer::builder().host("ci.example.test").start(&self.authority).await.unwrap()
    }

    /// Trusts the authority, knows the way to `resolve`, and may reach what `allow` lists. Waits 1.5 s at most.
    pub(crate) fn outbound(&self, resolve: &[String], allow: &str) -> Outbound {
        let settings = OutboundSettings {
            ca_pem: Some(self.authority.ca_pem().as_bytes().to_vec()),
            resolve: ResolveOverride::parse_list(&resolve.join(",")).unwrap(),
            allow: AllowRule::parse_list(allow).unwrap(),
        };
        let limits = Limits { total: Duration::from_millis(1_500), ..Limits::default() };
        Outbound::with_limits(settings, limits).unwrap()
    }

    pub(crate) fn verifier(&self, issuers: &[&Issuer]) -> Verifier {
        let resolve: Vec<String> = issuers.iter().map(|issuer| issuer.resolve_entry()).collect();
        Verifier::new(self.outbound(&resolve, "127.0.0.0/8"), self.clock.clone())
    }
}

pub(crate) fn provider(issuer: &str) -> Provider {
    Provider {
        id: ProviderId(Uuid::from_u128(7)),
        scope: Scope::Platform,
        name: "test".into(),
        description: None,
        kind: ProviderKind::CustomOidc,
        issuer: IssuerUri::stored(issuer),
        keys: KeySource::Discovery,
        algorithms: Vec::new(),
        max_token_age: None,
        max_token_lifetime: None,
        replay: ReplayPolicy::Allow,
        require_audience_header: false,
        disabled: false,
        implicit: false,
        version: 1,
        credentials_not_before: None,
        warnings: Vec::new(),
        created_at: Timestamp::from_seconds(NOW),
        created_by: String::new(),
    }
}

pub(crate) fn provider_of(issuer: &Issuer) -> Arc<Provider> {
    Arc::new(provider(issuer.uri()))
}

pub(crate) fn uploaded(issuer: &Issuer) -> Arc<Provider> {
    Arc::new(Provider { keys: KeySource::Uploaded(issuer.jwks().to_string().into()), ..provider(issuer.uri()) })
}

pub(crate) fn claims(issuer: &str) -> Value {
    json!({"iss": issuer, "sub": "repo:acme/app:ref:refs/heads/main", "aud": "sallyport", "jti": "one",
           "iat": NOW, "nbf": NOW - 5, "exp": NOW + 600})
}

pub(crate) fn parse(token: &str) -> UnverifiedJwt {
    UnverifiedJwt::parse(token).unwrap()
}

/// Every step that stands between a token and an identity, as the pipeline takes them.
pub(crate) async fn admit(verifier: &Verifier, provider: &Arc<Provider>, token: &str) -> Result<(), Refusal> {
    let jwt = UnverifiedJwt::parse(token)?;
    jwt.check_times(Timestamp::from_seconds(NOW), &TimeRules::OAUTH)?;
    verifier.verify_jwt(&jwt, provider).await.outcome.map(drop)
}

/// The first failed check and what it says.
pub(crate) fn reason(verification: &Verification) -> (CheckName, String) {
    let check = verification.checks.iter().find(|check| check.is_failed()).expect("a failed check");
    (check.name, check.detail.clone().unwrap_or_default())
}
