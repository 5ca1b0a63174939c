//! Trusts: which identities of a provider become which service account, and with what.

use std::sync::{Arc, OnceLock};

use crate::claims::Claims;
use crate::clock::Timestamp;
use crate::condition::Condition;
use crate::entropy::Entropy;
use crate::id::{ProviderId, ServiceAccountId, TrustId};
use crate::issuer::IssuerKey;
use crate::mapping::{self, Mapping};
use crate::network::SourceCidrs;
use crate::provider::Provider;
use crate::role::RoleRef;
use crate::scope::Scope;
use crate::subject::{SubjectForm, SubjectPattern};
use crate::validate::{
    self, DESCRIPTION_MAX, FieldError, LIFETIME_MAX, NAME_MAX, TEXT_MAX, list_within, required_text, text_within,
};

/// Default lifetime of a binding's credentials, in seconds.
pub const BINDING_LIFETIME: u32 = 3_600;
/// Default lifetime of a trust's credentials, in seconds.
pub const TRUST_LIFETIME: u32 = 1_800;
/// Oldest `iat`, in seconds, for trusts that are not bindings when the provider does not say.
pub const TRUST_TOKEN_AGE: u32 = 600;

/// A trust as it is kept: text exactly as the admin gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust {
    /// Its id.
    pub id: TrustId,
    /// The name part of its client ID (`swift-otter-19384`), unique in the installation.
    pub client_name: Box<str>,
    /// Its scope: that of its service account.
    pub scope: Scope,
    /// The provider that verifies its tokens.
    pub provider: ProviderId,
    /// That provider's issuer, as whoever made the trust spelt it: with or without a trailing slash.
    pub issuer: Arc<str>,
    /// The service account that workloads become.
    pub service_account: ServiceAccountId,
    /// Whether it is a binding: it owns its service account and is changed only as a whole.
    pub binding: bool,
    /// A label.
    pub name: Box<str>,
    /// Free text.
    pub description: Option<Box<str>>,
    /// Subject pattern; `None` leaves the subject to the condition.
    pub subject: Option<Box<str>>,
    /// Claims that must have these values.
    pub mappings: Box<[Mapping]>,
    /// Audiences accepted; empty means the default set.
    pub allowed_audiences: Box<[String]>,
    /// CEL over the claims.
    pub condition: Option<Box<str>>,
    /// Networks accepted; empty means any.
    pub source_cidrs: Box<[String]>,
    /// Roles granted at most; empty means all of the account's.
    pub scoped_roles: Arc<[RoleRef]>,
    /// Names of string claims copied into the access token.
    pub passthrough_claims: Box<[String]>,
    /// Lifetime of credentials, in seconds.
    pub lifetime: u32,
    /// Whether credentials end with the subject token, when that is sooner.
    pub ends_with_subject_token: bool,
    /// Disabled trusts grant nothing.
    pub disabled: bool,
    /// Credentials issued before this time no longer work (revocation of all at once).
    pub credentials_not_before: Option<Timestamp>,
    /// What was unwise about it when saved.
    pub warnings: Arc<[String]>,
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it.
    pub created_by: Arc<str>,
}

/// A trust ready to be matched: the only form that can be evaluated. A million of them are in memory, so that it keeps nothing
/// which it can tell from the text as cheaply.
#[derive(Debug)]
pub struct CompiledTrust {
    trust: Trust,
    issuer: IssuerKey,
    subject: Option<SubjectForm>,
    cidrs: SourceCidrs,
    /// Compiled when first needed: most of a million trusts are not used between two restarts.
    condition: OnceLock<Box<Result<Arc<Condition>, FieldError>>>,
}

impl CompiledTrust {
    /// Compiles a trust from the store. Its condition is compiled when first needed.
    ///
    /// # Errors
    /// When a part no longer passes the rules it was saved under; such a trust matches nothing.
    pub fn load(trust: Trust, provider: &Provider) -> Result<Self, FieldError> {
        let kind = provider.kind;
        let subject = trust.subject.as_deref().map(|s| SubjectPattern::parse("subject", s, kind)).transpose()?;
        let subject = subject.map(SubjectPattern::form);
        mapping::check("mappings", &trust.mappings, kind)?;
        let cidrs = validate::source_cidrs("sourceCidrs", &trust.source_cidrs)?;
        Ok(Self { trust, issuer: provider.issuer.key().clone(), subject, cidrs, condition: OnceLock::new() })
    }

    /// Checks and compiles what an admin is about to save: every field, with its limits.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn admit(trust: Trust, provider: &Provider) -> Result<Self, FieldError> {
        required_text("name", &trust.name, NAME_MAX)?;
        if let Some(description) = &trust.description {
            text_within("description", description, DESCRIPTION_MAX)?;
        }
        list_within("allowedAudiences", &trust.allowed_audiences)?;
        for (index, audience) in trust.allowed_audiences.iter().enumerate() {
            required_text(&format!("allowedAudiences[{index}]"), audience, TEXT_MAX)?;
        }
        list_within("passthroughClaims", &trust.passthrough_claims)?;
        for (index, claim) in trust.passthrough_claims.iter().enumerate() {
            required_text(&format!("passthroughClaims[{index}]"), claim, TEXT_MAX)?;
        }
        list_within("scopedRoles", &trust.scoped_roles)?;
        validate::lifetime("expiration", i64::from(trust.lifetime))?;
        let compiled = Self::load(trust, provider)?;
        compiled.condition().transpose().map_err(Clone::clone)?;
        if compiled.subject.is_none() && compiled.mappings().is_empty() && compiled.trust.condition.is_none() {
            return Err(FieldError::new(
                "subject",
                "a trust must say whom it accepts: set a subject, a claim mapping or a condition; an audience alone matches anyone the issuer serves",
            ));
        }
        Ok(compiled)
    }

    /// The trust as it is kept.
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The issuer of its provider.
    pub const fn issuer(&self) -> &IssuerKey {
        &self.issuer
    }

    /// The subject pattern.
    pub fn subject(&self) -> Option<SubjectPattern<'_>> {
        Some(self.subject?.of(self.trust.subject.as_deref()?))
    }

    /// The claim mappings, each with a value.
    pub fn mappings(&self) -> &[Mapping] {
        &self.trust.mappings
    }

    /// The networks accepted.
    pub const fn cidrs(&self) -> &SourceCidrs {
        &self.cidrs
    }

    /// The condition: `None` when there is none, an error when it no longer compiles (which matches nothing).
    pub fn condition(&self) -> Option<Result<&Arc<Condition>, &FieldError>> {
        let source = self.trust.condition.as_deref()?;
        let compiled = || Box::new(Condition::compile("condition", source).map(Arc::new));
        Some((**self.condition.get_or_init(compiled)).as_ref())
    }

    /// How many conditions it sets: each mapping counts one; audiences, condition and CIDRs one each.
    /// Among several matching trusts the one with more wins.
    pub fn specificity(&self) -> usize {
        self.trust.mappings.len()
            + usize::from(!self.trust.allowed_audiences.is_empty())
            + usize::from(self.trust.condition.is_some())
            + usize::from(!self.cidrs.is_empty())
    }

    /// The oldest token accepted, in seconds since `iat`: the provider's rule always applies; without one,
    /// 600 s for trusts whose platform does not cache tokens, and none for bindings, on either endpoint.
    pub fn max_token_age(&self, provider: &Provider) -> Option<u32> {
        provider
            .max_token_age
            .or_else(|| (!self.trust.binding && !provider.kind.caches_tokens()).then_some(TRUST_TOKEN_AGE))
    }

    /// The string claims to copy into the access token, in the admin's order; others are skipped.
    pub fn passthrough(&self, claims: &Claims) -> Vec<(String, String)> {
        self.trust
            .passthrough_claims
            .iter()
            .filter_map(|name| Some((name.clone(), claims.get(name)?.as_str()?.to_owned())))
            .collect()
    }

    /// The lifetime granted at most, in seconds, under the platform's cap.
    pub fn lifetime(&self) -> u32 {
        self.trust.lifetime.clamp(1, LIFETIME_MAX)
    }
}

/// The full client ID that clients present: `<name>@<tenant domain>/wfe`.
pub fn client_id(client_name: &str, tenant_domain: &str) -> String {
    [client_name, "@", tenant_domain, "/wfe"].concat()
}

/// The name part of a client ID: from the full form under our own tenant domain, or a bare name. Client software lower-cases
/// the host, so that part is compared without case.
pub fn client_name<'c>(client_id: &'c str, tenant_domain: &str) -> Option<&'c str> {
    match client_id.split_once('@') {
        None => Some(client_id),
        Some((name, rest)) => {
            rest.strip_suffix("/wfe").is_some_and(|host| host.eq_ignore_ascii_case(tenant_domain)).then_some(name)
        }
    }
}

/// A fresh name part: an adjective, an animal and five digits. Uniqueness is the store's to enforce; draw again on a clash.
pub fn draw_client_name(entropy: &dyn Entropy) -> String {
    const ADJECTIVES: [&str; 32] = [
        "amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "crisp", "deft", "eager", "early",
        "fair", "fleet", "gentle", "glad", "grand", "keen", "kind", "lively", "lucid", "merry", "noble", "proud",
        "quick", "quiet", "ready", "sharp", "steady", "still", "sunny", "swift",
    ];
    const ANIMALS: [&str; 32] = [
        "badger", "bear", "beaver", "bison", "crane", "deer", "dolphin", "eagle", "falcon", "ferret", "finch", "fox",
        "gecko", "hare", "hawk", "heron", "ibex", "koala", "lark", "lemur", "lynx", "marten", "moose", "newt", "orca",
        "osprey", "otter", "owl", "panda", "raven", "seal", "wolf",
    ];
    let mut bytes = [0_u8; 6];
    entropy.fill(&mut bytes);
    let digits = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) % 90_000 + 10_000;
    format!("{}-{}-{digits}", ADJECTIVES[usize::from(bytes[0]) % 32], ANIMALS[usize::from(bytes[1]) % 32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SequenceEntropy;

    #[test]
    fn client_ids_carry_the_tenant_and_are_found_with_or_without_it() {
        let name = draw_client_name(&SequenceEntropy::default());
        let full = client_id(&name, "127.0.0.1:8443");
        assert_eq!(client_name(&full, "127.0.0.1:8443"), Some(name.as_str()));
        assert_eq!(client_name(&name, "127.0.0.1:8443"), Some(name.as_str()));
        assert_eq!(client_name("a@ACME.example/wfe", "acme.example"), Some("a"));
        for foreign in ["a@evil.example/wfe", "a@acme.example/spc", "a@acme.example", "a@/wfe"] {
            assert_eq!(client_name(foreign, "acme.example"), None, "{foreign}");
        }
    }
}
