//! Matching: does this identity satisfy this trust, and which of several matching trusts wins.
//! Pure: from (trust, identity, circumstances) to checks.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::decision::{Check, CheckName, Refusal, Terms};
use crate::identity::Identity;
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
    /// Whether every check held.
    pub const fn matched(&self) -> bool {
        self.outcome.is_ok()
    }
}

impl Candidate {
    /// Whether the subject alone rules this candidate out: the cheap test before [`Self::evaluate`].
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
            self.enabled(at.now),
            roles_check,
        ];
        let failed = |name| checks.iter().any(|c| c.name == name && c.is_failed());
        let outcome = if checks.iter().all(|c| !c.is_failed()) {
            Ok(Terms {
                roles,
                lifetime: self.lifetime(identity, at.now),
                passthrough: self.trust.passthrough(&identity.claims),
            })
        } else if failed(CheckName::Audience) && !failed(CheckName::Subject) && !failed(CheckName::Enabled) {
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
            let held = identity.audiences.iter().any(|a| allowed.contains(a));
            return check(held).expected(format!("one of: {}", joined(allowed))).actual(actual);
        }
        let installation = at.installation;
        // What the provider asks for explicitly is not waived by a lax default.
        if installation.audience_policy == AudiencePolicy::Any && !self.provider.require_audience_header {
            return Check::skipped(CheckName::Audience)
                .actual(actual)
                .detail("the server accepts every audience (audience_policy = any)");
        }
        let defaults = [
            installation.mrns.scope(&self.trust.trust().scope),
            installation.public_url.clone(),
            installation.tenant_host().to_owned(),
            installation.client_id(&self.trust),
        ];
        let held = identity.audiences.iter().any(|a| defaults.contains(a));
        check(held).expected(format!("one of: {}", joined(&defaults))).actual(actual)
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
                // SPIFFE tokens may leave `iat` out; for all others the verifier has insisted on it.
                None => found.push("no iat".to_owned()),
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
        match mappings.iter().find(|m| !m.matches(&identity.claims)) {
            None => Check::passed(CheckName::Mappings)
                .expected(joined(mappings.iter().map(|m| format!("{} = {}", m.name(), m.value())))),
            Some(wrong) => {
                let check =
                    Check::failed(CheckName::Mappings).expected(format!("{} = {}", wrong.name(), wrong.value()));
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

    fn enabled(&self, now: Timestamp) -> Check {
        let ended = |account: &ServiceAccount| account.valid_until.is_some_and(|end| end <= now);
        let off = [
            (self.provider.disabled, "the provider is disabled"),
            (self.trust.trust().disabled, "the trust is disabled"),
            (self.account.is_none(), "the service account is gone"),
            (self.account.as_ref().is_some_and(|a| a.disabled), "the service account is disabled"),
            (self.account.as_ref().is_some_and(|a| ended(a)), "the service account is no longer valid"),
            (!self.scope_enabled, "the scope is disabled"),
        ];
        match off.iter().find(|(is_off, _)| *is_off) {
            None => Check::passed(CheckName::Enabled),
            Some((_, why)) => Check::failed(CheckName::Enabled)
                .expected("provider, trust, service account and scope enabled")
                .actual(*why),
        }
    }

    /// Trust's scoped roles ∩ account's roles ∩ roles asked for; nothing left is a refusal, never full access.
    fn roles(&self, at: &Circumstances<'_>) -> (Check, Vec<RoleRef>) {
        let scoped = &self.trust.trust().scoped_roles;
        let held: &[RoleRef] = self.account.as_ref().map(|a| a.roles.as_slice()).unwrap_or_default();
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

/// Evaluates all candidates and picks the winner: the most specific match, else the candidate whose refusal tells most.
/// `None` when there are no candidates.
pub fn choose<'c>(
    candidates: &'c [Candidate],
    identity: &Identity,
    at: &Circumstances<'_>,
) -> Option<(&'c Candidate, Evaluation)> {
    // Explaining a refusal does not need more of the candidates than a person would read.
    const EXPLAINED: usize = 16;
    let mut plausible: Vec<&Candidate> = candidates.iter().filter(|c| c.accepts_subject(identity)).collect();
    plausible.sort_by_cached_key(|c| c.rank());
    let mut best_refused: Option<(usize, &Candidate, Evaluation)> = None;
    for candidate in plausible {
        let evaluation = candidate.evaluate(identity, at);
        if evaluation.matched() {
            return Some((candidate, evaluation));
        }
        let failures = evaluation.checks.iter().filter(|c| c.is_failed()).count();
        if best_refused.as_ref().is_none_or(|(fewest, ..)| failures < *fewest) {
            best_refused = Some((failures, candidate, evaluation));
        }
    }
    if let Some((_, candidate, evaluation)) = best_refused {
        return Some((candidate, evaluation));
    }
    candidates
        .iter()
        .take(EXPLAINED)
        .map(|c| (c, c.evaluate(identity, at)))
        .min_by_key(|(_, e)| e.checks.iter().filter(|c| c.is_failed()).count())
}
