//! Subject patterns: which `sub` (or AWS ARN) a trust accepts. Whole-string, linear-time, exact unless the admin says otherwise.

use std::fmt;

use crate::provider::ProviderKind;
use crate::validate::{FieldError, TEXT_MAX, required_text};

/// A compiled subject pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubjectPattern {
    /// The whole subject, byte for byte.
    Exact(String),
    /// The text before a final `*`; it ends in `/` or `:`, and at least one more character must follow.
    Prefix(String),
    /// Every workflow of one GitHub repository, in both subject forms.
    GithubRepository(GithubRepository),
}

/// `org/repo`, each part with its immutable id when the admin pins it (`org@ID/repo@ID`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GithubRepository {
    owner: GithubName,
    repository: GithubName,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct GithubName {
    name: String,
    id: Option<String>,
}

impl SubjectPattern {
    /// Compiles what an admin wrote for a provider of `kind`.
    ///
    /// # Errors
    /// Names `field`: empty or overlong text, `*` anywhere but as the last segment, or a pattern that would match anyone.
    pub fn parse(field: &str, text: &str, kind: ProviderKind) -> Result<Self, FieldError> {
        required_text(field, text, TEXT_MAX)?;
        if kind == ProviderKind::GithubActions && !text.contains(':') {
            if let Some(repository) = GithubRepository::parse(text) {
                return Ok(Self::GithubRepository(repository));
            }
            return Err(FieldError::new(
                field,
                "must be a repository ('my-org/my-repo', meaning all its workflows) or a whole GitHub subject such as 'repo:my-org/my-repo:ref:refs/heads/main'",
            ));
        }
        let Some(position) = text.find('*') else { return Ok(Self::Exact(text.to_owned())) };
        let prefix = &text[..position];
        if position + 1 != text.len() || !prefix.ends_with(['/', ':']) {
            return Err(FieldError::new(
                field,
                "may hold '*' only as its last segment, after '/' or ':', such as 'repo:my-org/my-repo:*'",
            ));
        }
        if anyone(prefix, kind) {
            return Err(FieldError::new(
                field,
                format!(
                    "'{text}' would match any identity of the issuer; name at least the project, account or organization"
                ),
            ));
        }
        Ok(Self::Prefix(prefix.to_owned()))
    }

    /// Whether `subject` is one of those meant.
    pub fn matches(&self, subject: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == subject,
            Self::Prefix(prefix) => subject.len() > prefix.len() && subject.starts_with(prefix.as_str()),
            Self::GithubRepository(repository) => repository.matches(subject),
        }
    }

    /// Whether exactly one subject matches: preferred when several trusts match.
    pub const fn is_exact(&self) -> bool {
        matches!(self, Self::Exact(_))
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::GithubRepository(r) => write!(f, "every workflow of {}/{}", r.owner, r.repository),
        }
    }
}

/// Prefixes that every token of such an issuer shares, or that pin nothing but a kind of thing.
fn anyone(prefix: &str, kind: ProviderKind) -> bool {
    let segments = prefix.trim_end_matches(['/', ':']);
    if segments.is_empty() {
        return true;
    }
    match kind {
        ProviderKind::AwsSts => !names_aws_principal(prefix),
        // `spiffe://domain/` is everyone in the trust domain; more must be named.
        ProviderKind::Spiffe => prefix.strip_prefix("spiffe://").is_none_or(|rest| rest.matches('/').count() < 2),
        // An own issuer's first label may well be a tenant; only a scheme says nothing at all.
        ProviderKind::CustomOidc => {
            segments.ends_with("//")
                || segments.ends_with(":/")
                || matches!(segments, "https" | "http" | "spiffe" | "urn")
        }
        // A single leading label (`repo:`, `organization:`, `project_path:`) names a kind, not a tenant.
        _ => !segments.contains(['/', ':']) || segments.ends_with("//") || segments.ends_with(":/"),
    }
}

/// `arn:<partition>:<iam|sts>::<12 digits>:…`: at least the account is there before the `*`.
fn names_aws_principal(prefix: &str) -> bool {
    let parts: Vec<&str> = prefix.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts.as_slice() else { return false };
    *arn == "arn"
        && !partition.is_empty()
        && matches!(*service, "iam" | "sts")
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && !resource.starts_with('/')
}

impl GithubRepository {
    fn parse(text: &str) -> Option<Self> {
        let (owner, repository) = text.split_once('/')?;
        Some(Self { owner: GithubName::parse(owner)?, repository: GithubName::parse(repository)? })
    }

    /// `repo:org/repo:…`, or since July 2026 `repo:org@ID/repo@ID:…`; something must follow the last colon.
    fn matches(&self, subject: &str) -> bool {
        let Some((full_name, context)) = subject.strip_prefix("repo:").and_then(|rest| rest.split_once(':')) else {
            return false;
        };
        let Some((owner, repository)) = full_name.split_once('/') else { return false };
        !context.is_empty() && self.owner.matches(owner) && self.repository.matches(repository)
    }
}

impl GithubName {
    fn parse(text: &str) -> Option<Self> {
        let (name, id) = match text.split_once('@') {
            Some((name, id)) => (name, Some(id)),
            None => (text, None),
        };
        let named =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let numbered = id.is_none_or(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
        (named && numbered).then(|| Self { name: name.to_owned(), id: id.map(str::to_owned) })
    }

    /// Without an id in the pattern any id will do; with one, only a subject that carries that id.
    fn matches(&self, text: &str) -> bool {
        Self::parse(text).is_some_and(|other| other.name == self.name && (self.id.is_none() || self.id == other.id))
    }
}

impl fmt::Display for GithubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{}@{id}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(kind: ProviderKind, pattern: &str, subject: &str) -> bool {
        SubjectPattern::parse("subject", pattern, kind).unwrap().matches(subject)
    }

    #[test]
    fn github_repository_means_all_its_workflows_in_both_subject_forms() {
        let gh = ProviderKind::GithubActions;
        assert!(matches(gh, "org/repo", "repo:org/repo:ref:refs/heads/main"));
        assert!(matches(gh, "org/repo", "repo:org@123/repo@456:environment:prod"));
        assert!(matches(gh, "org@123/repo@456", "repo:org@123/repo@456:pull_request"));
        for (pattern, subject) in [
            ("org/repo", "repo:org/repo2:ref:x"),
            ("org/repo", "repo:org/repo"),
            ("org/repo", "repo:org/repo:"),
            ("org/repo", "repo:org/repo/x:ref:y"),
            ("org/repo", "org/repo"),
            ("org/repo", "repo:ORG/repo:ref:x"),
            ("org/repo", "xrepo:org/repo:ref:x"),
            ("org@123/repo@456", "repo:org/repo:ref:x"),
            ("org@123/repo@456", "repo:org@1234/repo@456:ref:x"),
            ("org/repo", "repo:org@x/repo@1:ref:x"),
        ] {
            assert!(!matches(gh, pattern, subject), "{pattern} {subject}");
        }
        assert!(SubjectPattern::parse("subject", "org", gh).is_err());
        assert!(SubjectPattern::parse("subject", "org/*", gh).is_err());
    }

    #[test]
    fn wildcards_are_delimiter_bounded_and_last() {
        let aws = ProviderKind::AwsSts;
        let any_session = "arn:aws:sts::123456789012:assumed-role/Role/*";
        assert!(matches(aws, any_session, "arn:aws:sts::123456789012:assumed-role/Role/i-0abc"));
        assert!(!matches(aws, any_session, "arn:aws:sts::123456789012:assumed-role/Role2/x"));
        assert!(!matches(aws, any_session, "arn:aws:sts::123456789012:assumed-role/Role/"));
        let refused = |kind, text: &str| SubjectPattern::parse("subject", text, kind).is_err();
        for bad in ["*", "a*", "/*", ":*", "a/*/b", "a/**", "https://*", "https:*"] {
            assert!(refused(ProviderKind::CustomOidc, bad), "{bad}");
        }
        // On an own issuer the first label may be a tenant; on these platforms everyone shares it.
        assert!(matches(ProviderKind::CustomOidc, "team/*", "team/app"));
        for (kind, bad) in [
            (ProviderKind::GithubActions, "repo:*"),
            (ProviderKind::HcpTerraform, "organization:*"),
            (ProviderKind::GitlabCi, "project_path:*"),
            (ProviderKind::Kubernetes, "system:*"),
        ] {
            assert!(refused(kind, bad), "{bad}");
        }
        assert!(matches(aws, "arn:aws:sts::123456789012:assumed-role/*", "arn:aws:sts::123456789012:assumed-role/R/s"));
        for bad in ["arn:aws:sts::*", "arn:aws:sts::1234:assumed-role/R/*", "arn:aws:*", "arn:aws:s3::123456789012:*"] {
            assert!(refused(aws, bad), "{bad}");
        }
        assert!(SubjectPattern::parse("subject", "spiffe://acme/*", ProviderKind::Spiffe).is_err());
        assert!(matches(ProviderKind::Spiffe, "spiffe://acme/ns/prod/*", "spiffe://acme/ns/prod/sa/x"));
        assert!(matches(ProviderKind::GithubActions, "repo:org/repo:*", "repo:org/repo:ref:x"));
    }

    proptest! {
        #[test]
        fn an_exact_pattern_matches_itself_alone(pattern in "[a-z:/@.-]{1,40}", other in "[a-z:/@.-]{1,40}") {
            if let Ok(compiled) = SubjectPattern::parse("subject", &pattern, ProviderKind::CustomOidc) {
                prop_assert!(compiled.matches(&pattern));
                prop_assert_eq!(compiled.matches(&other), pattern == other);
            }
        }

        #[test]
        fn parsing_never_panics(pattern in any::<String>(), subject in any::<String>()) {
            for kind in ProviderKind::ALL {
                if let Ok(compiled) = SubjectPattern::parse("subject", &pattern, kind) {
                    compiled.matches(&subject);
                }
            }
        }
    }
}
