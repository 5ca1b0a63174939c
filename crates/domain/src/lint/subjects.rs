//! What a subject, or the beginning of one, says about tenant and workload.

use super::{View, is_blank};
use crate::preset::Tells;
use crate::provider::ProviderKind;
use crate::subject::SubjectPattern;

/// How much of a subject is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// Its beginning.
    Beginning,
}

/// The pattern's text and how much of a subject it is; `None` for a GitHub repository.
pub(super) fn part(pattern: SubjectPattern<'_>) -> Option<(&str, Part)> {
    match pattern {
        SubjectPattern::Exact(text) => Some((text, Part::Whole)),
        SubjectPattern::Prefix(text) => Some((text, Part::Beginning)),
        SubjectPattern::GithubRepository(_) => None,
    }
}

/// Whether the pattern names the tenant of a shared issuer.
pub(super) fn pattern_pins(view: &View<'_>, pattern: SubjectPattern<'_>) -> bool {
    match part(pattern) {
        // Written for a provider of another kind it would mean nothing.
        None => view.kind == ProviderKind::GithubActions,
        Some((text, part)) => pins(view, text, part),
    }
}

/// Whether subjects that are, or begin with, `text` are all of one tenant. Only the first word counts: platforms let
/// tenants compose what follows.
pub(super) fn pins(view: &View<'_>, text: &str, part: Part) -> bool {
    let whole = part == Part::Whole;
    let (key, rest) = text.split_once(':').unwrap_or((text, ""));
    let (value, ended) = match rest.split_once(':') {
        Some((value, _)) => (value, true),
        None => (rest, whole),
    };
    let named = ended && !is_blank(value);
    // `group/…`: the first segment is the tenant.
    let path = value.split_once('/').is_some_and(|(tenant, _)| !is_blank(tenant));
    match view.kind {
        ProviderKind::GithubActions => match key {
            "repo" | "repository" => path,
            "repository_owner" | "repository_owner_id" | "repository_id" | "enterprise" | "enterprise_id" => named,
            _ => false,
        },
        ProviderKind::GitlabCi => key == "project_path" && path,
        ProviderKind::HcpTerraform => key == "organization" && named,
        ProviderKind::Buildkite => key == "organization" && named || whole && is_uuid(text),
        ProviderKind::AwsSts => aws_account(text),
        ProviderKind::Circleci => text.strip_prefix("org/").is_some_and(|rest| match rest.split_once('/') {
            Some((organization, _)) => !is_blank(organization),
            None => whole && !is_blank(rest),
        }),
        _ => whole && !is_blank(text) || named && view.shared.is_some_and(|shared| shared.subject_keys.contains(&key)),
    }
}

/// Whether a subject that begins with `text` can be anyone's who uses the issuer, although the pattern is well formed.
pub(super) fn is_anyone(view: &View<'_>, text: &str, part: Part) -> bool {
    part == Part::Beginning
        && match view.kind {
            ProviderKind::Kubernetes => "system:serviceaccount:".starts_with(text),
            ProviderKind::Circleci => "org/".starts_with(text),
            ProviderKind::Spiffe => view.provider.issuer.trust_domain().is_some_and(|domain| {
                text.strip_prefix("spiffe://").is_some_and(|rest| format!("{domain}/").starts_with(rest))
            }),
            _ => false,
        }
}

/// What the pattern tells.
pub(super) fn pattern_tells(view: &View<'_>, pattern: SubjectPattern<'_>) -> Tells {
    part(pattern).map_or(Tells::Workload, |(text, part)| tells(view, text, part))
}

/// What a subject that is, or begins with, `text` tells.
pub(super) fn tells(view: &View<'_>, text: &str, part: Part) -> Tells {
    if part == Part::Whole {
        return Tells::Workload;
    }
    if is_anyone(view, text, part) {
        return Tells::Nothing;
    }
    let workload = match view.kind {
        ProviderKind::GithubActions => {
            // `repo:org/repo:`
            ["repo:", "repository:", "repository_id:"]
                .iter()
                .any(|key| text.strip_prefix(key).is_some_and(|rest| rest.contains(':')))
        }
        ProviderKind::GitlabCi => text.strip_prefix("project_path:").is_some_and(|rest| rest.contains(':')),
        ProviderKind::HcpTerraform => named_after(text, ":workspace:"),
        ProviderKind::Buildkite => named_after(text, ":pipeline:"),
        ProviderKind::Kubernetes => false,
        ProviderKind::Circleci => text.split_once("/project/").is_some_and(|(_, rest)| rest.contains('/')),
        ProviderKind::Spiffe => {
            let path =
                text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
            path.trim_end_matches('/').matches('/').count() >= 2
        }
        // A role's sessions: parsing has made sure of the role.
        ProviderKind::AwsSts | ProviderKind::AwsIamOutbound => {
            text.split('/').filter(|part| !part.is_empty()).count() >= 2
        }
        _ => false,
    };
    if workload { Tells::Workload } else { Tells::Tenant }
}

fn named_after(text: &str, label: &str) -> bool {
    text.split_once(label).is_some_and(|(_, rest)| rest.contains(':'))
}

/// Whether the subject begins with an identifier that nobody else gets later, in place of a name.
pub(super) fn is_by_id(view: &View<'_>, text: &str) -> bool {
    match view.kind {
        ProviderKind::GithubActions => {
            text.contains('@')
                || ["repository_id:", "repository_owner_id:", "enterprise_id:"].iter().any(|key| text.starts_with(key))
        }
        ProviderKind::Buildkite => is_uuid(text),
        ProviderKind::GitlabCi | ProviderKind::HcpTerraform => false,
        _ => true,
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// `arn:<partition>:<service>:<region>:<12 digits>:…`
fn aws_account(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    matches!(parts.as_slice(), ["arn", partition, service, _, account, _]
        if !is_blank(partition) && !is_blank(service) && account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()))
}
