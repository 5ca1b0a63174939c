//! The linter: what a trust must not accept, and what it had better not.
//!
//! [`lint`] refuses trusts that let strangers in: on an issuer that serves everyone, whatever does not pin the tenant;
//! on one's own issuer, whatever accepts each of its identities. It warns about what is merely unwise. Every message says
//! what to write instead. What claims are worth stands in [`preset`](crate::preset); `docs/guard-rails.md` shows each
//! message with the trust that causes it.

use std::fmt;

use crate::condition::{Condition, Literal, SimpleTest};
use crate::mapping::Mapping;
use crate::preset::{ClaimInfo, REGISTERED_CLAIMS, SharedIssuer, preset, shared_issuer};
use crate::provider::{Provider, ProviderKind};
use crate::subject::SubjectPattern;
use crate::trust::CompiledTrust;
use crate::validate::FieldError;

mod advice;
mod refusal;
mod stranger;
mod subjects;
#[cfg(test)]
mod tests;
mod words;

/// What the linter found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lint {
    /// Why the trust must not be saved, and what to write instead.
    pub refusal: Option<FieldError>,
    /// What is unwise about it.
    pub warnings: Vec<Warning>,
}

/// Something unwise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Warning {
    /// The input field, in the schema's spelling.
    pub field: String,
    /// What is unwise and what would be better.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Judges `trust`, which tokens of `provider` are matched against.
pub fn lint(trust: &CompiledTrust, provider: &Provider) -> Lint {
    let view = View::new(trust, provider);
    Lint { refusal: refusal::of(&view), warnings: advice::of(&view) }
}

/// A trust with all that is known about its issuer.
struct View<'t> {
    trust: &'t CompiledTrust,
    provider: &'t Provider,
    /// What the issuer's tokens look like: told by the issuer where it is known, else by the provider's kind.
    kind: ProviderKind,
    shared: Option<&'static SharedIssuer>,
    claims: &'static [ClaimInfo],
    claims_complete: bool,
    platform: &'static str,
    condition: Option<&'t Condition>,
    /// The condition's branches; empty without a condition.
    branches: Vec<Vec<SimpleTest>>,
}

impl<'t> View<'t> {
    fn new(trust: &'t CompiledTrust, provider: &'t Provider) -> Self {
        let shared = shared_issuer(provider);
        let kind = match (shared, ProviderKind::of_issuer(provider.issuer.as_str())) {
            (Some(shared), _) => shared.kind,
            (None, ProviderKind::CustomOidc) => provider.kind,
            (None, kind) => kind,
        };
        let preset = preset(kind);
        let condition = trust.condition().and_then(Result::ok).map(AsRef::as_ref);
        Self {
            trust,
            provider,
            kind,
            shared,
            claims: shared.map_or(preset.claims, |shared| shared.claims),
            claims_complete: preset.claims_complete,
            platform: shared.map_or(preset.display_name, |shared| shared.name),
            condition,
            branches: condition.map(Condition::branches).unwrap_or_default(),
        }
    }

    /// The registered claims, where tokens have them.
    fn registered(&self) -> &'static [ClaimInfo] {
        if self.kind == ProviderKind::AwsSts { &[] } else { REGISTERED_CLAIMS }
    }

    fn known(&self) -> impl Iterator<Item = &'static ClaimInfo> + use<> {
        self.claims.iter().chain(self.registered())
    }

    /// The claim at `path`; of a path into an object whose members users name, that object.
    fn claim(&self, path: &[String]) -> Option<&'static ClaimInfo> {
        self.known().find(|claim| {
            let own = claim.path();
            own.len() <= path.len()
                && own.iter().zip(path).all(|(a, b)| a == b)
                && (own.len() == path.len() || claim.json_type == crate::preset::JsonType::Object)
        })
    }

    /// The claim that a mapping names, in any of the spellings that find it.
    fn mapped(&self, mapping: &Mapping) -> Option<&'static ClaimInfo> {
        self.known().find(|claim| spells(mapping.name(), claim.path()))
    }

    fn subject(&self) -> Option<SubjectPattern<'t>> {
        self.trust.subject()
    }

    /// Every simple test of the condition, each once.
    fn tests(&self) -> Vec<&SimpleTest> {
        let mut seen: Vec<&SimpleTest> = Vec::new();
        for test in self.branches.iter().flatten() {
            if !seen.contains(&test) {
                seen.push(test);
            }
        }
        seen
    }

    /// Whether the condition cannot hold unless one of the tests that `pass` does.
    fn in_every_branch(&self, pass: impl Fn(&SimpleTest) -> bool) -> bool {
        !self.branches.is_empty() && self.branches.iter().all(|branch| branch.iter().any(&pass))
    }
}

/// Whether `name` is the path's members joined by `.` or `/`.
fn spells(name: &str, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    match name.strip_prefix(first) {
        Some("") => rest.is_empty(),
        Some(tail) => !rest.is_empty() && tail.strip_prefix(['.', '/']).is_some_and(|tail| spells(tail, rest)),
        None => false,
    }
}

/// The literals that a test accepts as the claim's whole value.
fn whole_values(test: &SimpleTest) -> &[Literal] {
    match test {
        SimpleTest::Equals { literal, .. } => std::slice::from_ref(literal),
        SimpleTest::In { literals, .. } => literals,
        _ => &[],
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
