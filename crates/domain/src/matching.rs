//! Matching: does this identity satisfy this trust, and which of several matching trusts wins.
//! Pure: from (trust, identity, circumstances) to checks.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::decision::{Check, CheckName, CheckOutcome, Refusal, Terms};
use crate::identity::Identity;
use crate::mapping::Mapping;
use crate::mrn::MrnDomain;
use crate::principal::ServiceAccount;
use crate::provider::{Provider, ProviderKind};
use crate::role::RoleRef;
use crate::trust::{CompiledTrust, client_id};
use crate::validate::joined;

/// Which audiences count when a trust lists none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AudiencePolicy {
    /// The scope MRN, the public URL, the tenant domain and the trust's client ID.
    #[default]
    Strict,
    /// Every audience.
    Any,
}

/// What the installation is called: needed for default audiences and client IDs.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The base URL, without trailing slash.
    pub public_url: String,
    /// Host, with port, in client IDs.
    pub tenant_domain: String,
    /// Resource names.
    pub mrns: MrnDomain,
    /// Which audiences count by default.
    pub audience_policy: AudiencePolicy,
}

impl Installation {
    /// The tenant domain without its port: the audience that clients ask their platform for.
    pub fn tenant_host(&self) -> &str {
        match self.tenant_domain.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.tenant_domain,
        }
    }

    /// The full client ID of a trust.
    pub fn client_id(&self, trust: &CompiledTrust) -> String {
        client_id(&trust.trust().client_name, &self.tenant_domain)
    }

    /// Whether this is the full client ID of a trust, to the letter.
    fn is_client_id(&self, text: &str, trust: &CompiledTrust) -> bool {
        text.strip_prefix(&*trust.trust().client_name)
            .and_then(|rest| rest.strip_prefix('@')?.strip_suffix("/wfe"))
            .is_some_and(|domain| domain == self.tenant_domain)
    }
}

/// The circumstances of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The installation's names and policy.
    pub installation: &'a Installation,
    /// Now.
    pub now: Timestamp,
    /// Seconds by which clocks may differ.
    pub leeway: i64,
    /// Where the request comes from; `None` when a simulation does not say.
    pub source_ip: Option<IpAddr>,
    /// Roles asked for, by name or MRN; empty means all.
    pub requested_roles: &'a [String],
    /// Whether the identity's subject is disabled at the provider that verified it.
    pub subject_disabled: bool,
}

/// A trust with everything it hangs together with, all from one snapshot.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The trust.
    pub trust: Arc<CompiledTrust>,
    /// Its provider.
    pub provider: Arc<Provider>,
    /// Its service account; `None` when that is gone.
    pub account: Option<Arc<ServiceAccount>>,
    /// Whether its scope, and the organization of its space, are enabled.
    pub scope_enabled: bool,
}

/// The checks of one candidate, and what it would grant.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Audience to roles, in the order of [`CheckName`].
    pub checks: Vec<Check>,
    /// The terms, or the refusal.
    pub outcome: Result<Terms, Refusal>,
}

impl Evaluation {
    /// Whether the identity is one that the trust accepts. What it then gets (roles), and whether anything at all just now
    /// (enabled), is decided after the most specific match was chosen: a disabled trust does not give way to a laxer one.
    pub fn matched(&self) -> bool {
        self.checks.iter().all(|c| !c.is_failed() || matches!(c.name, CheckName::Enabled | CheckName::Roles))
    }

    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.checks.iter().filter(|c| c.is_failed()).count()
    }
}

impl Candidate {
    /// Whether it has no subject pattern, or one that matches.
    pub fn accepts_subject(&self, identity: &Identity) -> bool {
        self.trust.subject().is_none_or(|pattern| pattern.matches(&identity.subject))
    }

    /// Whether evaluation may take so long that it belongs on a blocking thread.
    pub fn is_heavy(&self) -> bool {
        self.trust.condition().is_some_and(|condition| condition.is_ok_and(|c| c.is_heavy()))
    }

    /// Evaluates every check of the trust, without stopping at the first failure: an admin wants to see them all.
    pub fn evaluate(&self, identity: &Identity, at: &Circumstances<'_>) -> Evaluation {
        let (roles_check, roles) = self.roles(at);
        let checks = vec![
            self.audience(identity, at),
            self.freshness(identity, at),
            self.subject(identity),
            self.mappings(identity),
            self.condition(identity, at),
            self.source_ip(at),
            self.enabled(at),
            roles_check,
        ];
        let failed = |name| checks.iter().any(|c| c.name == name && c.is_failed());
        let outcome = if checks.iter().all(|c| !c.is_failed()) {
            Ok(Terms {
                roles,
                lifetime: self.lifetime(identity, at.now),
                passthrough: self.trust.passthrough(&identity.claims),
            })
        } else if failed(CheckName::Audience) && self.names_audience_to(identity, &checks) {
            Err(Refusal::AudienceNotAccepted)
        } else if checks.iter().all(|c| !c.is_failed() || c.name == CheckName::Roles) && !at.requested_roles.is_empty()
        {
            Err(Refusal::RolesBeyondGrant)
        } else {
            Err(Refusal::Denied)
        };
        Evaluation { checks, outcome }
    }

    /// The order in which matching candidates win: exact subject before pattern, then more conditions, then older.
    pub fn rank(&self) -> impl Ord + use<> {
        let trust = self.trust.trust();
        let exact = self.trust.subject().is_some_and(|s| s.is_exact());
        (!exact, usize::MAX - self.trust.specificity(), trust.created_at, trust.id)
    }

    /// Whether a wrong audience may be named to the caller: only to an identity that is meant here, lest strangers learn
    /// which trusts there are. Without a subject pattern it is the mappings and the condition that say who is meant.
    fn names_audience_to(&self, identity: &Identity, checks: &[Check]) -> bool {
        let held = |name| checks.iter().any(|c| c.name == name && c.outcome == CheckOutcome::Passed);
        let not_failed = |name| checks.iter().all(|c| c.name != name || !c.is_failed());
        let meant = match self.trust.subject() {
            Some(pattern) => pattern.matches(&identity.subject),
            None => {
                (held(CheckName::Mappings) || held(CheckName::Condition))
                    && not_failed(CheckName::Mappings)
                    && not_failed(CheckName::Condition)
            }
        };
        meant && not_failed(CheckName::Enabled)
    }

    fn audience(&self, identity: &Identity, at: &Circumstances<'_>) -> Check {
        let check = |held| Check::of(CheckName::Audience, held);
        let allowed = &self.trust.trust().allowed_audiences;
        let actual = joined(&identity.audiences);
        if self.provider.kind == ProviderKind::AwsSts
            && identity.audiences.is_empty()
            && !self.provider.require_audience_header
        {
            return Check::skipped(CheckName::Audience)
                .detail("the signed request names no audience, and the provider does not ask for one");
        }
        if !allowed.is_empty() {
            return match identity.audiences.iter().find(|a| allowed.contains(a)) {
                Some(accepted) => check(true).expected(accepted.as_str()).actual(actual),
                None => check(false).expected(format!("one of: {}", joined(allowed))).actual(actual),
            };
        }
        let installation = at.installation;
        // What the provider asks for explicitly is not waived by a lax default.
        if installation.audience_policy == AudiencePolicy::Any && !self.provider.require_audience_header {
            return Check::skipped(CheckName::Audience)
                .actual(actual)
                .detail("the server accepts every audience (audience_policy = any)");
        }
        let scope = installation.mrns.scope(&self.trust.trust().scope);
        let is_default = |audience: &&String| {
            **audience == installation.public_url
                || *audience == installation.tenant_host()
                || **audience == scope
                || installation.is_client_id(audience, &self.trust)
        };
        if let Some(accepted) = identity.audiences.iter().find(is_default) {
            return check(true).expected(accepted.as_str()).actual(actual);
        }
        let client_id = installation.client_id(&self.trust);
        let defaults = [&scope, &installation.public_url, installation.tenant_host(), &client_id];
        check(false).expected(format!("one of: {}", joined(defaults))).actual(actual)
    }

    fn freshness(&self, identity: &Identity, at: &Circumstances<'_>) -> Check {
        let mut wanted = Vec::new();
        let mut held = true;
        let mut found = Vec::new();
        if let Some(max) = self.trust.max_token_age(&self.provider) {
            wanted.push(format!("issued at most {max} s ago"));
            match identity.issued_at {
                Some(issued_at) => {
                    let age = at.now.seconds_since(issued_at);
                    held &= age <= i64::from(max) + at.leeway;
                    found.push(format!("issued {age} s ago"));
                }
                // Only SPIFFE tokens may leave `iat` out, and then there is no age to look at.
                None => {
                    held &= self.provider.kind == ProviderKind::Spiffe;
                    found.push("no iat".to_owned());
                }
            }
        }
        if let Some(max) = self.provider.max_token_lifetime {
            wanted.push(format!("valid for at most {max} s"));
            match (identity.issued_at, identity.expires_at) {
                (Some(from), Some(to)) => {
                    let lifetime = to.seconds_since(from);
                    held &= lifetime <= i64::from(max);
                    found.push(format!("valid for {lifetime} s"));
                }
                _ => held = false,
            }
        }
        let check = Check::of(CheckName::Freshness, held);
        if wanted.is_empty() { check } else { check.expected(wanted.join(", ")).actual(found.join(", ")) }
    }

    fn subject(&self, identity: &Identity) -> Check {
        match self.trust.subject() {
            None => Check::skipped(CheckName::Subject).actual(identity.subject.as_str()),
            Some(pattern) => Check::of(CheckName::Subject, pattern.matches(&identity.subject))
                .expected(pattern.to_string())
                .actual(identity.subject.as_str()),
        }
    }

    fn mappings(&self, identity: &Identity) -> Check {
        let mappings = self.trust.mappings();
        if mappings.is_empty() {
            return Check::skipped(CheckName::Mappings);
        }
        let wanted = |mapping: &Mapping| [mapping.name(), " = ", mapping.value()].concat();
        match mappings.iter().find(|m| !m.matches(&identity.claims)) {
            None => Check::passed(CheckName::Mappings).expected(joined(mappings.iter().map(wanted))),
            Some(wrong) => {
                let check = Check::failed(CheckName::Mappings).expected(wanted(wrong));
                match wrong.actual(&identity.claims) {
                    Some(actual) => check.actual(format!("{} = {actual}", wrong.name())),
                    None => check.detail(format!("claim `{}` is not in this token", wrong.name())),
                }
            }
        }
    }

    fn condition(&self, identity: &Identity, at: &Circumstances<'_>) -> Check {
        match self.trust.condition() {
            None => Check::skipped(CheckName::Condition),
            Some(Err(error)) => {
                Check::failed(CheckName::Condition).detail(format!("no longer compiles: {}", error.message))
            }
            Some(Ok(condition)) => {
                let check = |held| Check::of(CheckName::Condition, held).expected(condition.source());
                match condition.evaluate(&identity.claims, at.now) {
                    Ok(held) => check(held).actual(held.to_string()),
                    Err(error) => check(false).detail(error),
                }
            }
        }
    }

    fn source_ip(&self, at: &Circumstances<'_>) -> Check {
        let cidrs = self.trust.cidrs();
        if cidrs.is_empty() {
            return Check::skipped(CheckName::SourceIp);
        }
        let check = |held| Check::of(CheckName::SourceIp, held).expected(joined(&self.trust.trust().source_cidrs));
        match at.source_ip {
            Some(ip) => check(cidrs.contains(ip)).actual(ip.to_canonical().to_string()),
            None => check(false).detail("the source address is not known"),
        }
    }

    fn enabled(&self, at: &Circumstances<'_>) -> Check {
        let ended = |account: &ServiceAccount| account.valid_until.is_some_and(|end| end <= at.now);
        let off = [
            (self.provider.disabled, "the provider is disabled"),
            (self.trust.trust().disabled, "the trust is disabled"),
            (self.account.is_none(), "the service account is gone"),
            (self.account.as_ref().is_some_and(|a| a.disabled), "the service account is disabled"),
            (self.account.as_ref().is_some_and(|a| ended(a)), "the service account is no longer valid"),
            (!self.scope_enabled, "the scope is disabled"),
            (at.subject_disabled, "the subject is disabled at the provider"),
        ];
        match off.iter().find(|(is_off, _)| *is_off) {
            None => Check::passed(CheckName::Enabled),
            Some((_, why)) => Check::failed(CheckName::Enabled)
                .expected("provider, trust, service account, scope and subject enabled")
                .actual(*why),
        }
    }

    /// Trust's scoped roles ∩ account's roles ∩ roles asked for; nothing left is a refusal, never full access.
    fn roles(&self, at: &Circumstances<'_>) -> (Check, Vec<RoleRef>) {
        let scoped = &self.trust.trust().scoped_roles;
        let held: &[RoleRef] = self.account.as_ref().map(|a| &*a.roles).unwrap_or_default();
        let granted: Vec<RoleRef> = held.iter().filter(|r| scoped.is_empty() || scoped.contains(r)).cloned().collect();
        let is_named = |role: &RoleRef, text: &String| role.name() == text || at.installation.mrns.role(role) == *text;
        let beyond: Vec<&String> =
            at.requested_roles.iter().filter(|wanted| !granted.iter().any(|role| is_named(role, wanted))).collect();
        let effective: Vec<RoleRef> = granted
            .iter()
            .filter(|role| {
                at.requested_roles.is_empty() || at.requested_roles.iter().any(|wanted| is_named(role, wanted))
            })
            .cloned()
            .collect();
        let names = |roles: &[RoleRef]| joined(roles.iter().map(RoleRef::name));
        if !beyond.is_empty() {
            let check = Check::failed(CheckName::Roles).expected(names(&granted)).actual(joined(beyond));
            return (check.detail("roles were asked for that are not in the grant"), Vec::new());
        }
        if effective.is_empty() {
            let check = Check::failed(CheckName::Roles).expected(names(scoped)).actual(names(held));
            return (check.detail("the trust's scoped roles and the account's roles have none in common"), Vec::new());
        }
        (Check::passed(CheckName::Roles).actual(names(&effective)), effective)
    }

    fn lifetime(&self, identity: &Identity, now: Timestamp) -> u32 {
        let mut lifetime = self.trust.lifetime();
        let ends = [
            identity.expires_at.filter(|_| self.trust.trust().ends_with_subject_token),
            self.account.as_ref().and_then(|a| a.valid_until),
        ];
        for end in ends.into_iter().flatten() {
            lifetime = lifetime.min(u32::try_from(end.seconds_since(now)).unwrap_or(0).max(1));
        }
        lifetime
    }
}

/// Explaining a refusal does not need more candidates than a person would read.
pub(crate) const EXPLAINED: usize = 16;

/// Evaluates all candidates and picks the winner: the most specific match, else the candidate whose refusal tells most.
/// `None` when there are no candidates.
pub fn choose<'c>(
    candidates: &'c [Candidate],
    identity: &Identity,
    at: &Circumstances<'_>,
) -> Option<(&'c Candidate, Evaluation)> {
    // Where there is but one, it is the one, whatever becomes of it.
    if let [one] = candidates {
        return Some((one, one.evaluate(identity, at)));
    }
    let (mut meant, strangers): (Vec<&Candidate>, Vec<&Candidate>) =
        candidates.iter().partition(|c| c.accepts_subject(identity));
    meant.sort_by_cached_key(|c| c.rank());
    let (plausible, others): (Vec<&Candidate>, Vec<&Candidate>) =
        meant.into_iter().partition(|c| c.trust.mappings().iter().all(|m| m.matches(&identity.claims)));
    let mut refused: Option<(&Candidate, Evaluation)> = None;
    for candidate in plausible {
        let evaluation = candidate.evaluate(identity, at);
        if evaluation.matched() {
            return Some((candidate, evaluation));
        }
        refused = closer(refused, (candidate, evaluation));
    }
    // What is explained is the trust that came closest: of those that mean the subject, if there are any.
    for candidate in others.into_iter().take(EXPLAINED) {
        refused = closer(refused, (candidate, candidate.evaluate(identity, at)));
    }
    refused.or_else(|| {
        let evaluated = strangers.into_iter().take(EXPLAINED).map(|c| (c, c.evaluate(identity, at)));
        evaluated.fold(None, closer)
    })
}

/// The one that failed fewer checks; the first of equals.
fn closer<'c>(
    best: Option<(&'c Candidate, Evaluation)>,
    other: (&'c Candidate, Evaluation),
) -> Option<(&'c Candidate, Evaluation)> {
    match best {
        Some(best) if best.1.failures() <= other.1.failures() => Some(best),
        _ => Some(other),
    }
}

/// What tests of matching need.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::id::{OrganizationId, ProviderId, ServiceAccountId, TrustId};
    use crate::issuer::IssuerUri;
    use crate::provider::{KeySource, ReplayPolicy};
    use crate::role::BuiltInRole;
    use crate::scope::Scope;
    use crate::trust::Trust;
    use uuid::Uuid;

    pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    pub(crate) fn scope() -> Scope {
        Scope::Organization(OrganizationId::parse("acme-org").unwrap())
    }

    /// Its number is its id and its age.
    pub(crate) fn trust(id: u128, subject: &str) -> Trust {
        Trust {
            id: TrustId(Uuid::from_u128(id)),
            client_name: format!("calm-wolf-{id}").into(),
            scope: scope(),
            provider: ProviderId(Uuid::nil()),
            issuer: "https://issuer.example".into(),
            service_account: ServiceAccountId(Uuid::nil()),
            binding: false,
            name: "t".into(),
            description: None,
            subject: Some(subject.into()),
            mappings: Box::default(),
            allowed_audiences: Box::default(),
            condition: None,
            source_cidrs: Box::default(),
            scoped_roles: Arc::default(),
            passthrough_claims: Box::default(),
            lifetime: 1_800,
            ends_with_subject_token: false,
            disabled: false,
            credentials_not_before: None,
            warnings: Arc::default(),
            created_at: Timestamp::from_seconds(i64::try_from(id).unwrap()),
            created_by: Arc::default(),
        }
    }

    pub(crate) fn candidate(trust: Trust) -> Candidate {
        let provider = Arc::new(Provider {
            id: ProviderId(Uuid::nil()),
            scope: scope(),
            name: "p".into(),
            description: None,
            kind: ProviderKind::CustomOidc,
            issuer: IssuerUri::stored("https://issuer.example"),
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
            created_at: NOW,
            created_by: String::new(),
        });
        let account = ServiceAccount {
            id: ServiceAccountId(Uuid::nil()),
            scope: scope(),
            name: "a".into(),
            description: None,
            roles: [RoleRef::BuiltIn(BuiltInRole::Viewer), RoleRef::BuiltIn(BuiltInRole::Agent)].into(),
            disabled: false,
            owner: None,
            standing_key: None,
            valid_until: None,
            credentials_not_before: None,
            created_at: NOW,
            created_by: Arc::default(),
        };
        let trust = Arc::new(CompiledTrust::load(trust, &provider).unwrap());
        Candidate { trust, provider, account: Some(Arc::new(account)), scope_enabled: true }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{NOW, candidate, trust};
    use super::*;
    use crate::claims::Claims;
    use crate::id::TrustId;
    use crate::role::BuiltInRole;
    use crate::trust::Trust;

    const AUDIENCE: &str = "sallyport.example";

    fn installation() -> Installation {
        Installation {
            public_url: "https://sallyport.example:8443".into(),
            tenant_domain: "sallyport.example:8443".into(),
            mrns: MrnDomain::new("api.mondoo.app").unwrap(),
            audience_policy: AudiencePolicy::Strict,
        }
    }

    fn identity(sub: &str, aud: &str) -> Identity {
        let now = NOW.seconds();
        let text = format!(
            r#"{{"iss":"https://issuer.example","sub":"{sub}","aud":"{aud}","iat":{now},"exp":{},"env":"prod"}}"#,
            now + 600
        );
        Identity::from_claims(Claims::parse(text.as_bytes()).unwrap()).unwrap()
    }

    fn at<'a>(installation: &'a Installation, requested_roles: &'a [String]) -> Circumstances<'a> {
        Circumstances { installation, now: NOW, leeway: 30, source_ip: None, requested_roles, subject_disabled: false }
    }

    fn chosen(candidates: &[Candidate], identity: &Identity) -> (TrustId, Evaluation) {
        let installation = installation();
        let (candidate, evaluation) = choose(candidates, identity, &at(&installation, &[])).unwrap();
        (candidate.trust.trust().id, evaluation)
    }

    #[test]
    fn the_most_specific_match_wins_exact_then_conditions_then_age() {
        let mapped = Trust {
            mappings: [Mapping { key: "jwt_claims.env".into(), value: Some("prod".into()) }].into(),
            ..trust(3, "team/app/*")
        };
        let all = [
            candidate(trust(1, "team/app/*")),
            candidate(trust(4, "team/app/x")),
            candidate(mapped),
            candidate(trust(2, "team/app/*")),
        ];
        let winner = |those: &[Candidate]| chosen(those, &identity("team/app/x", AUDIENCE)).0.0.as_u128();
        assert_eq!(winner(&all), 4);
        assert_eq!(winner(&[all[0].clone(), all[2].clone()]), 3);
        assert_eq!(winner(&[all[3].clone(), all[0].clone()]), 1);
    }

    #[test]
    fn a_disabled_trust_does_not_give_way_to_a_laxer_one() {
        let exact = candidate(Trust { disabled: true, ..trust(1, "team/app/x") });
        let lax = candidate(trust(2, "team/app/*"));
        let (id, evaluation) = chosen(&[lax, exact], &identity("team/app/x", AUDIENCE));
        assert_eq!((id.0.as_u128(), evaluation.outcome), (1, Err(Refusal::Denied)));
    }

    #[test]
    fn a_wrong_audience_is_named_only_to_an_identity_that_is_meant() {
        let outcome = |trust: Trust, sub: &str| chosen(&[candidate(trust)], &identity(sub, "elsewhere")).1.outcome;
        assert_eq!(outcome(trust(1, "me"), "me"), Err(Refusal::AudienceNotAccepted));
        assert_eq!(outcome(trust(1, "me"), "stranger"), Err(Refusal::Denied));
        assert_eq!(outcome(Trust { disabled: true, ..trust(1, "me") }, "me"), Err(Refusal::Denied));
        let by_condition =
            |condition: &str| Trust { subject: None, condition: Some(condition.into()), ..trust(1, "-") };
        assert_eq!(outcome(by_condition("claims.env == 'prod'"), "me"), Err(Refusal::AudienceNotAccepted));
        assert_eq!(outcome(by_condition("claims.env == 'test'"), "me"), Err(Refusal::Denied));
    }

    #[test]
    fn every_default_audience_is_accepted_and_nothing_else() {
        let held = |aud: &str| chosen(&[candidate(trust(1, "me"))], &identity("me", aud)).1.outcome.is_ok();
        for good in [
            AUDIENCE,
            "https://sallyport.example:8443",
            "//captain.api.mondoo.app/organizations/acme-org",
            "calm-wolf-1@sallyport.example:8443/wfe",
        ] {
            assert!(held(good), "{good}");
        }
        for bad in [
            "sallyport.example:8443",
            "https://sallyport.example",
            "SALLYPORT.example",
            "",
            "//platform.api.mondoo.app",
        ] {
            assert!(!held(bad), "{bad}");
        }
    }

    #[test]
    fn roles_are_the_intersection_and_never_full_by_emptiness() {
        let installation = installation();
        let roles = |scoped: &[BuiltInRole], wanted: &[&str]| {
            let scoped_roles = scoped.iter().copied().map(RoleRef::BuiltIn).collect();
            let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
            let candidate = candidate(Trust { scoped_roles, ..trust(1, "me") });
            let evaluation = candidate.evaluate(&identity("me", AUDIENCE), &at(&installation, &wanted));
            evaluation.outcome.map(|t| t.roles.iter().map(|r| r.name().to_owned()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(roles(&[], &[]).unwrap(), "viewer agent");
        assert_eq!(roles(&[BuiltInRole::Agent, BuiltInRole::Owner], &[]).unwrap(), "agent");
        assert_eq!(roles(&[], &["agent"]).unwrap(), "agent");
        assert_eq!(roles(&[], &["//iam.api.mondoo.app/roles/viewer"]).unwrap(), "viewer");
        assert_eq!(roles(&[BuiltInRole::Owner], &[]), Err(Refusal::Denied));
        assert_eq!(roles(&[BuiltInRole::Agent], &["viewer"]), Err(Refusal::RolesBeyondGrant));
    }

    #[test]
    fn tokens_that_are_too_old_or_do_not_say_are_refused_except_for_bindings() {
        let outcome = |trust: Trust, change: fn(&mut Identity)| {
            let mut identity = identity("me", AUDIENCE);
            change(&mut identity);
            chosen(&[candidate(trust)], &identity).1.outcome.is_ok()
        };
        let aged = |i: &mut Identity| i.issued_at = Some(NOW.plus_seconds(-631));
        assert!(!outcome(trust(1, "me"), aged));
        assert!(outcome(Trust { binding: true, ..trust(1, "me") }, aged));
        assert!(outcome(trust(1, "me"), |i| i.issued_at = Some(NOW.plus_seconds(-600))));
        assert!(!outcome(trust(1, "me"), |i| i.issued_at = None));
    }
}
