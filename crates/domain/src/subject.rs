//! Subject patterns: which `sub` (or AWS ARN) a trust accepts. Whole-string, linear-time, exact unless the admin says otherwise.

use std::fmt;

use crate::provider::ProviderKind;
use crate::validate::{FieldError, TEXT_MAX, required_text};

/// A compiled subject pattern: what the admin's text means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubjectPattern<'t> {
    /// The whole subject, byte for byte.
    Exact(&'t str),
    /// The text before a final `*`; it ends in `/` or `:`, and at least one more character must follow.
    Prefix(&'t str),
    /// Every workflow of one GitHub repository, in both subject forms.
    GithubRepository(GithubRepository<'t>),
}

/// What sort of pattern a text is: with it, the text need not be checked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SubjectForm {
    /// [`SubjectPattern::Exact`].
    Exact,
    /// [`SubjectPattern::Prefix`].
    Prefix,
    /// [`SubjectPattern::GithubRepository`].
    GithubRepository,
}

/// `org/repo`, each part with its immutable id when the admin pins it (`org@ID/repo@ID`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GithubRepository<'t> {
    owner: GithubName<'t>,
    repository: GithubName<'t>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct GithubName<'t> {
    name: &'t str,
    id: Option<&'t str>,
}

impl SubjectForm {
    /// The pattern that this text is.
    pub(crate) fn of(self, text: &str) -> SubjectPattern<'_> {
        match self {
            Self::Exact => SubjectPattern::Exact(text),
            Self::Prefix => SubjectPattern::Prefix(text.strip_suffix('*').unwrap_or(text)),
            Self::GithubRepository => {
                let (owner, repository) = text.split_once('/').unwrap_or((text, ""));
                let (owner, repository) = (GithubName::of(owner), GithubName::of(repository));
                SubjectPattern::GithubRepository(GithubRepository { owner, repository })
            }
        }
    }
}

impl<'t> SubjectPattern<'t> {
    /// Compiles what an admin wrote for a provider of `kind`.
    ///
    /// # Errors
    /// Names `field`: empty or overlong text, `*` anywhere but as the last segment, or a pattern that would match anyone.
    pub fn parse(field: &str, text: &'t str, kind: ProviderKind) -> Result<Self, FieldError> {
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
        let Some(position) = text.find('*') else { return Ok(Self::Exact(text)) };
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
        Ok(Self::Prefix(prefix))
    }

    /// What sort of pattern it is.
    pub(crate) const fn form(self) -> SubjectForm {
        match self {
            Self::Exact(_) => SubjectForm::Exact,
            Self::Prefix(_) => SubjectForm::Prefix,
            Self::GithubRepository(_) => SubjectForm::GithubRepository,
        }
    }

    /// Whether `subject` is one of those meant.
    pub fn matches(&self, subject: &str) -> bool {
        match self {
            Self::Exact(exact) => *exact == subject,
            Self::Prefix(prefix) => subject.len() > prefix.len() && subject.starts_with(prefix),
            Self::GithubRepository(repository) => repository.matches(subject),
        }
    }

    /// Whether exactly one subject matches: preferred when several trusts match.
    pub const fn is_exact(&self) -> bool {
        matches!(self, Self::Exact(_))
    }
}

/// What an index keeps patterns under: a pattern that matches a subject is under one of the subject's keys. Not the other way
/// round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum SubjectKey<'s> {
    /// The whole subject.
    Whole(&'s str),
    /// Its beginning, up to a delimiter.
    Beginning(&'s str),
    /// Names of a GitHub owner and repository, without ids.
    Repository(&'s str, &'s str),
}

/// How many of a subject's beginnings are keys, the shortest first: a stranger's subject may be nothing but delimiters.
const BEGINNINGS: usize = 8;

impl<'s> SubjectKey<'s> {
    /// The one key of a pattern.
    pub(crate) fn of(pattern: SubjectPattern<'s>) -> Self {
        match pattern {
            SubjectPattern::Exact(exact) => Self::Whole(exact),
            SubjectPattern::Prefix(prefix) => Self::Beginning(beginnings(prefix).last().unwrap_or(prefix)),
            SubjectPattern::GithubRepository(GithubRepository { owner, repository }) => {
                Self::Repository(owner.name, repository.name)
            }
        }
    }

    /// Every key of a subject, each once.
    pub(crate) fn all_of(subject: &'s str) -> impl Iterator<Item = Self> {
        let repository = full_github_name(subject).map(|(owner, repository, _)| {
            let name = |text: &'s str| text.split_once('@').map_or(text, |(name, _)| name);
            Self::Repository(name(owner), name(repository))
        });
        [Self::Whole(subject)].into_iter().chain(beginnings(subject).map(Self::Beginning)).chain(repository)
    }
}

/// The shortest beginnings that end in a delimiter.
fn beginnings(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(['/', ':']).take(BEGINNINGS).map(|(at, _)| &text[..=at])
}

/// Owner, repository and what follows of `repo:owner/repository:…`.
fn full_github_name(subject: &str) -> Option<(&str, &str, &str)> {
    let (full_name, context) = subject.strip_prefix("repo:")?.split_once(':')?;
    let (owner, repository) = full_name.split_once('/')?;
    Some((owner, repository, context))
}

impl fmt::Display for SubjectPattern<'_> {
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

impl<'t> GithubRepository<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (owner, repository) = text.split_once('/')?;
        Some(Self { owner: GithubName::parse(owner)?, repository: GithubName::parse(repository)? })
    }

    /// `repo:org/repo:…`, or since July 2026 `repo:org@ID/repo@ID:…`; something must follow the last colon.
    fn matches(&self, subject: &str) -> bool {
        let Some((owner, repository, context)) = full_github_name(subject) else { return false };
        !context.is_empty() && self.owner.matches(owner) && self.repository.matches(repository)
    }
}

impl<'t> GithubName<'t> {
    fn of(text: &'t str) -> Self {
        match text.split_once('@') {
            Some((name, id)) => Self { name, id: Some(id) },
            None => Self { name: text, id: None },
        }
    }

    fn parse(text: &'t str) -> Option<Self> {
        let Self { name, id } = Self::of(text);
        let named =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let numbered = id.is_none_or(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
        (named && numbered).then_some(Self { name, id })
    }

    /// Without an id in the pattern any id will do; with one, only a subject that carries that id.
    fn matches(&self, text: &str) -> bool {
        GithubName::parse(text)
            .is_some_and(|other| other.name == self.name && (self.id.is_none() || self.id == other.id))
    }
}

impl fmt::Display for GithubName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{}@{id}", self.name),
            None => f.write_str(self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use ProviderKind::{
        AwsSts, Buildkite, Circleci, CustomOidc, GithubActions, GitlabCi, HcpTerraform, Kubernetes, Spiffe,
    };

    /// The standing list of patterns that must be refused, each with its reason. threats.md, "Matching".
    #[test]
    fn patterns_that_must_be_refused() {
        let segment = "may hold '*' only as its last segment, after '/' or ':'";
        let anyone = "would match any identity of the issuer";
        let repository = "must be a repository ('my-org/my-repo', meaning all its workflows)";
        let long = "a".repeat(1_025);
        let table: &[(ProviderKind, &str, &str)] = &[
            (CustomOidc, "", "must not be empty"),
            (CustomOidc, " \t ", "must not be empty"),
            (CustomOidc, &long, "is 1025 bytes long; at most 1024 are allowed"),
            (CustomOidc, "a\0b", "contains the control character U+0000"),
            (CustomOidc, "a\nb", "contains the control character U+000A"),
            (CustomOidc, "*", segment),
            (CustomOidc, "a*", segment),
            (CustomOidc, "team-*", segment),
            (CustomOidc, "a/*/b", segment),
            (CustomOidc, "*/b", segment),
            (CustomOidc, "a/**", segment),
            (CustomOidc, "a/*:*", segment),
            (CustomOidc, "a/* ", segment),
            (CustomOidc, "/*", anyone),
            (CustomOidc, ":*", anyone),
            (CustomOidc, "//*", anyone),
            (CustomOidc, "https://*", anyone),
            (CustomOidc, "https:*", anyone),
            (CustomOidc, "spiffe://*", anyone),
            (CustomOidc, "urn:*", anyone),
            (GithubActions, "org", repository),
            (GithubActions, "org/*", repository),
            (GithubActions, "org/repo/x", repository),
            (GithubActions, "/repo", repository),
            (GithubActions, "org/", repository),
            (GithubActions, "org@/repo", repository),
            (GithubActions, "org@12a/repo", repository),
            (GithubActions, "örg/repo", repository),
            (GithubActions, "repo:*", anyone),
            (GithubActions, "repo:org/repo*", segment),
            (GithubActions, "repo:*/repo:ref:refs/heads/main", segment),
            (GitlabCi, "project_path:*", anyone),
            (HcpTerraform, "organization:*", anyone),
            (Buildkite, "organization:*", anyone),
            (Circleci, "org/*", anyone),
            (Kubernetes, "system:*", anyone),
            (Spiffe, "spiffe://acme/*", anyone),
            (Spiffe, "https://acme/ns/*", anyone),
            (AwsSts, "arn:*", anyone),
            (AwsSts, "arn:aws:*", anyone),
            (AwsSts, "arn:aws:sts::*", anyone),
            (AwsSts, "arn:aws:sts::1234:assumed-role/R/*", anyone),
            (AwsSts, "arn:aws:sts:us-east-1:123456789012:assumed-role/R/*", anyone),
            (AwsSts, "arn:aws:s3::123456789012:*", anyone),
            (AwsSts, "arn:aws:sts::123456789012:assumed-role/Deploy*", segment),
        ];
        for (kind, pattern, reason) in table {
            let error = SubjectPattern::parse("subject", pattern, *kind).expect_err(pattern);
            assert_eq!(error.field, "subject");
            assert!(error.message.contains(reason), "{kind} {pattern}: {error}");
        }
    }

    #[test]
    fn patterns_match_whole_subjects_and_stop_at_delimiters() {
        let any_session = "arn:aws:sts::123456789012:assumed-role/Role/*";
        let any_role = "arn:aws:sts::123456789012:assumed-role/*";
        let table: &[(ProviderKind, &str, &str, bool)] = &[
            // A repository is every workflow of it, in both subject forms.
            (GithubActions, "org/repo", "repo:org/repo:ref:refs/heads/main", true),
            (GithubActions, "org/repo", "repo:org@123/repo@456:environment:prod", true),
            (GithubActions, "org@123/repo@456", "repo:org@123/repo@456:pull_request", true),
            (GithubActions, "org@123/repo", "repo:org@123/repo@9:pull_request", true),
            (GithubActions, "org/repo", "repo:org/repo2:ref:x", false),
            (GithubActions, "org/repo", "repo:xorg/repo:ref:x", false),
            (GithubActions, "org/repo", "repo:org/repo", false),
            (GithubActions, "org/repo", "repo:org/repo:", false),
            (GithubActions, "org/repo", "repo:org/repo/x:ref:y", false),
            (GithubActions, "org/repo", "org/repo", false),
            (GithubActions, "org/repo", "repo:ORG/repo:ref:x", false),
            (GithubActions, "org/repo", "xrepo:org/repo:ref:x", false),
            (GithubActions, "org/repo", "environment:org/repo:x", false),
            (GithubActions, "org@123/repo@456", "repo:org/repo:ref:x", false),
            (GithubActions, "org@123/repo@456", "repo:org@1234/repo@456:ref:x", false),
            (GithubActions, "org/repo", "repo:org@x/repo@1:ref:x", false),
            (GithubActions, "repo:org/repo:*", "repo:org/repo:ref:x", true),
            (GithubActions, "repo:org/repo:*", "repo:org/repo2:ref:x", false),
            (GithubActions, "repo:org/*", "repo:org/any:ref:x", true),
            (GithubActions, "repo:org/*", "repo:org2/any:ref:x", false),
            (GithubActions, "repo:org/repo:ref:refs/heads/main", "repo:org/repo:ref:refs/heads/main", true),
            (GithubActions, "repo:org/repo:ref:refs/heads/main", "repo:org/repo:ref:refs/heads/main2", false),
            (GithubActions, "repo:org/repo:ref:refs/heads/main", "repo:org/repo:ref:refs/heads/mai", false),
            (AwsSts, any_session, "arn:aws:sts::123456789012:assumed-role/Role/i-0abc", true),
            (AwsSts, any_session, "arn:aws:sts::123456789012:assumed-role/Role2/x", false),
            (AwsSts, any_session, "arn:aws:sts::123456789012:assumed-role/Role/", false),
            (AwsSts, any_session, "arn:aws:sts::999999999999:assumed-role/Role/x", false),
            (AwsSts, any_role, "arn:aws:sts::123456789012:assumed-role/R/s", true),
            (AwsSts, any_role, "arn:aws:iam::123456789012:role/R", false),
            (Spiffe, "spiffe://acme/ns/prod/*", "spiffe://acme/ns/prod/sa/x", true),
            (Spiffe, "spiffe://acme/ns/prod/*", "spiffe://acme/ns/production/sa/x", false),
            (Spiffe, "spiffe://acme/ns/prod/*", "spiffe://evil/ns/prod/sa/x", false),
            // On an issuer of one's own the first word may be a tenant.
            (CustomOidc, "team/*", "team/app", true),
            (CustomOidc, "team/*", "team", false),
            (CustomOidc, "team/*", "team2/app", false),
            (CustomOidc, "app", "app", true),
            (CustomOidc, "app", "APP", false),
            (CustomOidc, "app", " app", false),
            (CustomOidc, "app", "app\n", false),
            (CustomOidc, "é", "e\u{301}", false),
            (CustomOidc, "a.c", "abc", false),
            (CustomOidc, "a?c", "abc", false),
        ];
        for (kind, pattern, subject, expected) in table {
            let compiled = SubjectPattern::parse("subject", pattern, *kind).expect(pattern);
            assert_eq!(compiled.matches(subject), *expected, "{kind} {pattern} {subject}");
            assert_eq!(compiled.form().of(pattern), compiled, "{kind} {pattern}");
        }
    }

    proptest! {
        #[test]
        fn an_exact_pattern_matches_itself_alone(pattern in "[a-z:/@.-]{1,40}", other in "[a-z:/@.-]{1,40}") {
            if let Ok(compiled) = SubjectPattern::parse("subject", &pattern, CustomOidc) {
                prop_assert!(compiled.matches(&pattern));
                prop_assert_eq!(compiled.matches(&other), pattern == other);
            }
        }

        #[test]
        fn parsing_never_panics(pattern in any::<String>(), subject in any::<String>()) {
            for kind in ProviderKind::ALL {
                if let Ok(compiled) = SubjectPattern::parse("subject", &pattern, kind) {
                    compiled.matches(&subject);
                    prop_assert_eq!(compiled.form().of(&pattern), compiled);
                }
            }
        }
    }

    proptest! {
        /// The index may answer too much, never too little.
        #[test]
        fn a_pattern_that_matches_is_under_a_key_of_the_subject(
            subject in "(repo:)?[ab@1/:]{0,24}",
            cut in any::<prop::sample::Index>(),
            github in "[ab](@1)?/[ab](@1)?",
            context in "[ab:/]{1,20}",
        ) {
            let cut = cut.index(subject.len() + 1);
            let of_github = format!("repo:{github}:{context}");
            let patterns = [
                SubjectPattern::Exact(&subject),
                SubjectPattern::Prefix(&subject[..cut]),
                SubjectPattern::GithubRepository(GithubRepository::parse(&github).unwrap()),
                SubjectPattern::Prefix("repo:"),
            ];
            for pattern in patterns.iter().filter(|p| match p { SubjectPattern::Prefix(p) => p.ends_with(['/', ':']), _ => true }) {
                for subject in [&subject, &of_github] {
                    let is_found = SubjectKey::all_of(subject).any(|key| key == SubjectKey::of(*pattern));
                    prop_assert!(is_found || !pattern.matches(subject), "{pattern:?} {subject}");
                }
            }
        }
    }
}
