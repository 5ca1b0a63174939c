//! What is merely unwise: saved, with a warning that says what would be better.

use super::subjects::{self, Part};
use super::{View, Warning, is_blank, whole_values, words};
use crate::condition::{Literal, SimpleTest};
use crate::mapping::Mapping;
use crate::preset::{ClaimInfo, JsonType, Pin, Tells, expression, preset, quoted};
use crate::provider::ProviderKind;
use crate::subject::SubjectPattern;

/// Longest lifetime, in seconds, that passes without remark where unreviewed code gets in.
const UNREVIEWED_LIFETIME: u32 = 3_600;

pub(super) fn of(view: &View<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    width(view, &mut found);
    names(view, &mut found);
    unreviewed(view, &mut found);
    subject_form(view, &mut found);
    kubernetes_names(view, &mut found);
    tests(view, &mut found);
    unknown_mappings(view, &mut found);
    passthrough(view, &mut found);
    let mut warnings: Vec<Warning> = Vec::new();
    for warning in found {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings
}

fn warn(found: &mut Vec<Warning>, field: impl Into<String>, message: impl Into<String>) {
    found.push(Warning { field: field.into(), message: message.into() });
}

/// The mapping key that names `claim`.
fn key(view: &View<'_>, claim: &str) -> String {
    let prefix = if view.kind == ProviderKind::AwsSts { "aws_claims" } else { "jwt_claims" };
    format!("{prefix}.{claim}")
}

/// The field where the trust says whom it accepts.
fn main_field(view: &View<'_>) -> &'static str {
    if view.subject().is_some() {
        "subject"
    } else if view.trust.mappings().is_empty() {
        "condition"
    } else {
        "mappings"
    }
}

/// Tests whose outcome depends on the claim's value, and for beginnings on what stands in them.
fn tells(view: &View<'_>, test: &SimpleTest) -> Tells {
    let Some(path) = test.claim() else { return Tells::Workload };
    let Some(claim) = view.claim(path) else { return Tells::Workload };
    match test {
        SimpleTest::Has { .. } => Tells::Nothing,
        SimpleTest::StartsWith { prefix, .. } => match claim.pin {
            Pin::Subject => subjects::tells(view, prefix, Part::Beginning),
            // A group's path begins many projects; `owner/repository/` one.
            Pin::Path('/') if claim.name.ends_with("_path") || prefix.matches('/').count() < 2 => Tells::Tenant,
            _ => claim.tells,
        },
        _ => claim.tells,
    }
}

/// Trusts that accept a whole tenant, or do not say whom they accept.
fn width(view: &View<'_>, found: &mut Vec<Warning>) {
    let subject = view.subject().map(|pattern| subjects::pattern_tells(view, pattern));
    let mapped = view
        .trust
        .mappings()
        .iter()
        .filter(|mapping| !is_blank(mapping.value()))
        .map(|mapping| view.mapped(mapping).map_or(Tells::Workload, |claim| claim.tells));
    let condition = view
        .branches
        .iter()
        .map(|branch| branch.iter().map(|test| tells(view, test)).max().unwrap_or(Tells::Nothing))
        .min();
    let Some(level) = subject.into_iter().chain(mapped).chain(condition).max() else { return };
    if level == Tells::Workload {
        return;
    }
    let (tenant, workload, best) = match view.kind {
        ProviderKind::GithubActions => ("repository of the organization", "repository", "repository_id"),
        ProviderKind::GitlabCi => ("project of the group", "project", "project_id"),
        ProviderKind::HcpTerraform => {
            ("workspace of the organization or project", "workspace", "terraform_workspace_id")
        }
        ProviderKind::AwsIamOutbound => ("role of the account or organization", "role", "sub"),
        ProviderKind::AwsSts => ("role and user of the account", "role", "arn"),
        ProviderKind::GoogleCloud => ("identity of the project or domain", "service account", "sub"),
        ProviderKind::Azure => ("application, managed identity, user and guest of the tenant", "identity", "oid"),
        ProviderKind::Kubernetes => ("service account of the namespace", "service account", "sub"),
        ProviderKind::Spiffe => ("workload under the path", "workload", "sub"),
        ProviderKind::Circleci => ("project of the organization", "project", "oidc.circleci.com/project-id"),
        ProviderKind::Buildkite => ("pipeline of the organization", "pipeline", "pipeline_id"),
        ProviderKind::CustomOidc => ("identity whose subject begins so", "identity", "sub"),
    };
    let best = preset(view.kind).claim(best).map_or_else(|| "claims.sub".to_owned(), ClaimInfo::expression);
    let message = if level == Tells::Tenant {
        format!("accepts every {tenant}; name the {workload} that is meant, best by {best}")
    } else {
        format!("does not say which {workload} is meant, so any of the issuer's gets in; name it, best by {best}")
    };
    warn(found, main_field(view), message);
}

/// Pins that rest on names, on issuers where strangers can register them later.
fn names(view: &View<'_>, found: &mut Vec<Warning>) {
    if view.shared.is_none() {
        return;
    }
    let is_id = |claim: Option<&ClaimInfo>| claim.is_some_and(|claim| claim.stable_id && claim.pins_tenant());
    let compares = |test: &SimpleTest| !whole_values(test).is_empty() || matches!(test, SimpleTest::StartsWith { .. });
    let by_id = view.trust.mappings().iter().any(|mapping| is_id(view.mapped(mapping)))
        || view.in_every_branch(|test| compares(test) && is_id(test.claim().and_then(|path| view.claim(path))));
    if by_id {
        return;
    }
    let mut hints: Vec<(String, String, &'static str)> = Vec::new();
    if view.subject().is_some() {
        if subjects::is_by_id(view, view.trust.trust().subject.as_deref().unwrap_or_default()) {
            return;
        }
        let twin = match view.kind {
            ProviderKind::GithubActions => "repository_id",
            ProviderKind::GitlabCi => "project_id",
            ProviderKind::HcpTerraform => "terraform_organization_id",
            _ => "organization_id",
        };
        hints.push(("subject".into(), "the subject".into(), twin));
    }
    for (index, mapping) in view.trust.mappings().iter().enumerate() {
        if let Some(twin) = view.mapped(mapping).and_then(|claim| claim.stable_twin) {
            hints.push((format!("mappings[{index}].key"), mapping.name().to_owned(), twin));
        }
    }
    for test in view.tests().into_iter().filter(|test| compares(test)) {
        let Some(path) = test.claim() else { continue };
        if let Some(twin) = view.claim(path).and_then(|claim| claim.stable_twin) {
            hints.push(("condition".into(), expression(path), twin));
        }
    }
    // One warning: the first hint is for the trust's widest statement.
    if let Some((field, what, twin)) = hints.into_iter().next() {
        let read = view.known().find(|claim| claim.name == twin).map_or_else(String::new, ClaimInfo::expression);
        warn(
            found,
            field,
            format!(
                "rests on names ({what}), which a stranger can register once they are given up; pin the id too, with the mapping {} or {read} in the condition",
                key(view, twin)
            ),
        );
    }
}

/// Code that nobody has reviewed: pull requests, plans, any branch.
fn unreviewed(view: &View<'_>, found: &mut Vec<Warning>) {
    let advice = match view.kind {
        ProviderKind::GithubActions => {
            "accepts pull requests, whose code nobody has reviewed; add claims.environment == 'production' or claims.ref == 'refs/heads/main' to the condition"
        }
        ProviderKind::GitlabCi => {
            "accepts unprotected branches, whose code nobody has to review; add claims.ref_protected == 'true' to the condition"
        }
        ProviderKind::HcpTerraform => {
            "accepts plans, which run for code that nobody has reviewed; add claims.terraform_run_phase == 'apply' to the condition, and make a second trust with fewer roles for plans"
        }
        ProviderKind::Circleci => {
            "accepts every branch, also those that nobody has to review; add claims['oidc.circleci.com/vcs-ref'] == 'refs/heads/main' to the condition"
        }
        ProviderKind::Buildkite => {
            "accepts every branch, pull requests included; add claims.build_branch == 'main' to the condition"
        }
        _ => return,
    };
    let by_subject =
        view.subject().and_then(subjects::part).is_some_and(|(text, part)| subject_limits(view, text, part));
    let by_mapping = view.trust.mappings().iter().any(|mapping| mapping_limits(view, mapping));
    if by_subject || by_mapping || view.in_every_branch(|test| test_limits(view, test)) {
        return;
    }
    warn(found, main_field(view), advice);
    if view.trust.lifetime() > UNREVIEWED_LIFETIME {
        warn(
            found,
            "expiration",
            format!(
                "is {} seconds for code that nobody has reviewed; keep it at {UNREVIEWED_LIFETIME} or less, or keep such code out",
                view.trust.lifetime()
            ),
        );
    }
}

fn subject_limits(view: &View<'_>, text: &str, part: Part) -> bool {
    let whole = part == Part::Whole;
    match view.kind {
        ProviderKind::GithubActions if whole => !text.ends_with(":pull_request"),
        ProviderKind::GithubActions => text.contains(":ref:") || text.contains(":environment:"),
        ProviderKind::HcpTerraform => whole && text.ends_with(":run_phase:apply"),
        ProviderKind::Circleci => text.contains("/vcs-ref/"),
        _ => text.contains(":ref:"),
    }
}

/// Values of reviewed claims that keep unreviewed code out.
fn is_reviewed(claim: &ClaimInfo, value: &str) -> bool {
    const UNREVIEWED: [&str; 6] =
        ["pull_request", "pull_request_target", "merge_request_event", "external_pull_request_event", "plan", "false"];
    // A workflow file is reviewed at a reference only: in a pull request it is the request's own.
    let file = claim.name.ends_with("workflow_ref");
    let at_pull_request = value.starts_with("refs/pull/") || value.contains("@refs/pull/");
    !is_blank(value)
        && !UNREVIEWED.contains(&value)
        && value != "branch"
        && !at_pull_request
        && (!file || value.contains('@'))
}

fn mapping_limits(view: &View<'_>, mapping: &Mapping) -> bool {
    view.mapped(mapping).is_some_and(|claim| match claim.pin {
        Pin::Subject => subject_limits(view, mapping.value(), Part::Whole),
        _ => claim.reviewed && is_reviewed(claim, mapping.value()),
    })
}

fn test_limits(view: &View<'_>, test: &SimpleTest) -> bool {
    if *test == SimpleTest::Other {
        // Too complicated to read, but it looks at the right thing.
        let source = view.condition.map_or("", |condition| condition.source());
        return view.claims.iter().any(|claim| claim.reviewed && mentions(source, claim.name));
    }
    let Some(claim) = test.claim().and_then(|path| view.claim(path)) else { return false };
    let texts = whole_values(test);
    let all = |good: &dyn Fn(&str) -> bool| {
        !texts.is_empty() && texts.iter().all(|literal| matches!(literal, Literal::String(text) if good(text)))
    };
    match (claim.pin, test) {
        (Pin::Subject, SimpleTest::StartsWith { prefix, .. }) => subject_limits(view, prefix, Part::Beginning),
        (Pin::Subject, _) => all(&|text| subject_limits(view, text, Part::Whole)),
        _ if !claim.reviewed => false,
        (_, SimpleTest::StartsWith { prefix: text, .. } | SimpleTest::Glob { pattern: text, .. }) => {
            is_reviewed(claim, text)
        }
        (_, SimpleTest::Matches { pattern, .. }) => !is_blank(pattern),
        (_, SimpleTest::Includes { .. }) => true,
        _ => all(&|text| is_reviewed(claim, text)),
    }
}

/// Whether `source` has `name` as a whole word.
fn mentions(source: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source
        .match_indices(name)
        .any(|(at, _)| !source[..at].ends_with(word) && !source[at + name.len()..].starts_with(word))
}

/// Subjects that the platform's tokens do not have, or soon will not.
fn subject_form(view: &View<'_>, found: &mut Vec<Warning>) {
    let mut texts: Vec<(&str, &str, Part)> = Vec::new();
    if let Some((text, part)) = view.subject().and_then(subjects::part) {
        texts.push(("subject", text, part));
    }
    let tests = view.tests();
    for test in &tests {
        let is_subject = test.claim().is_some_and(|path| matches!(path, [name] if name == "sub"));
        match test {
            SimpleTest::StartsWith { prefix, .. } if is_subject => texts.push(("condition", prefix, Part::Beginning)),
            test if is_subject => {
                texts.extend(whole_values(test).iter().filter_map(|literal| match literal {
                    Literal::String(text) => Some(("condition", text.as_str(), Part::Whole)),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    for (field, text, part) in texts {
        if let Some(message) = odd_subject(view, text, part) {
            warn(found, field, message);
        }
    }
    if matches!(view.subject(), Some(SubjectPattern::GithubRepository(_))) && view.kind != ProviderKind::GithubActions {
        warn(found, "subject", format!("is a GitHub repository, which tokens of {} never carry", view.platform));
    }
}

fn odd_subject(view: &View<'_>, text: &str, part: Part) -> Option<String> {
    match view.kind {
        // Not said of GitHub Enterprise Server.
        ProviderKind::GithubActions
            if ProviderKind::of_issuer(view.provider.issuer.as_str()) == ProviderKind::GithubActions =>
        {
            github_without_ids(text)
        }
        ProviderKind::Azure if text.contains(':') => Some(format!(
            "'{text}' is a URI, but Entra's sub is the identity's object ID (az identity show --query principalId); an Application ID URI belongs into allowedAudiences"
        )),
        ProviderKind::GoogleCloud if !text.bytes().all(|b| b.is_ascii_digit()) => Some(format!(
            "'{text}' is not numeric, but Google's sub is the account's unique ID; compare an e-mail address with claims.email"
        )),
        ProviderKind::Kubernetes if part == Part::Whole => {
            let account = text.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
            match account {
                Some((namespace, name)) if !is_blank(namespace) && !is_blank(name) => None,
                _ => Some(format!(
                    "'{text}' lacks the namespace or the service account; pods' subjects are 'system:serviceaccount:<namespace>:<service account>'"
                )),
            }
        }
        ProviderKind::Spiffe => {
            let domain = view.provider.issuer.trust_domain()?;
            let inside = text.strip_prefix("spiffe://").is_some_and(|rest| {
                rest.strip_prefix(domain).is_some_and(|path| path.is_empty() || path.starts_with('/'))
            });
            (!inside).then(|| format!("'{text}' is not in the trust domain, spiffe://{domain}/…, so no token matches"))
        }
        _ => None,
    }
}

/// `repo:org/repo:…` without ids, which GitHub's subjects carry since July 2026.
fn github_without_ids(text: &str) -> Option<String> {
    let rest = text.strip_prefix("repo:")?;
    let (owner, rest) = rest.split_once('/')?;
    if owner.contains('@') {
        return None;
    }
    let (repository, context) = rest.split_once(':').unwrap_or((rest, ""));
    let better = if repository.is_empty() {
        "leave the subject out and map jwt_claims.repository_owner_id to the organization's id".to_owned()
    } else {
        let repository = format!("set the subject to '{owner}/{repository}', which matches both");
        let claim = match context.split_once(':') {
            Some((claim @ ("ref" | "environment"), value)) if !value.is_empty() => Some((claim, value)),
            _ if context == "pull_request" => Some(("event_name", "pull_request")),
            _ => None,
        };
        match claim {
            Some((claim, value)) => format!("{repository}, and the condition to claims.{claim} == {}", quoted(value)),
            None => repository,
        }
    };
    Some(format!(
        "GitHub's subjects can carry ids since July 2026 (repo:{owner}@<id>/…), which this does not match; {better}"
    ))
}

/// A service account's name without its namespace.
fn kubernetes_names(view: &View<'_>, found: &mut Vec<Warning>) {
    if view.kind != ProviderKind::Kubernetes || view.subject().is_some() {
        return;
    }
    let is = |claim: Option<&ClaimInfo>, wanted: &[&str]| claim.is_some_and(|claim| wanted.contains(&claim.name));
    let tested = |wanted: &[&str]| {
        view.trust.mappings().iter().any(|mapping| is(view.mapped(mapping), wanted))
            || view.branches.iter().flatten().any(|test| is(test.claim().and_then(|path| view.claim(path)), wanted))
    };
    if tested(&["kubernetes.io/serviceaccount/name"])
        && !tested(&["kubernetes.io/namespace", "kubernetes.io/serviceaccount/uid", "sub"])
    {
        warn(
            found,
            main_field(view),
            "names a service account without its namespace, so that one in any namespace gets in; add claims['kubernetes.io'].namespace == '<namespace>' to the condition",
        );
    }
}

/// Tests that cannot hold, or hold for more than they seem to.
fn tests(view: &View<'_>, found: &mut Vec<Warning>) {
    let converts = view.condition.is_some_and(|condition| condition.source().contains("string("));
    for test in view.tests() {
        let Some(path) = test.claim() else { continue };
        let Some(claim) = view.claim(path) else {
            if let Some(message) = unknown(view, &path.join("."), &expression(path)) {
                warn(found, "condition", message);
            }
            continue;
        };
        if claim.path().len() != path.len() {
            continue;
        }
        let read = expression(path);
        let literals = match test {
            SimpleTest::Includes { .. } if claim.json_type == JsonType::String => {
                warn(
                    found,
                    "condition",
                    format!("{read} is text, not a list; write {read} == '…' or {read}.contains('…')"),
                );
                continue;
            }
            SimpleTest::Matches { pattern, .. } => {
                if !(pattern.starts_with('^') || pattern.starts_with("\\A")) || !pattern.ends_with('$') {
                    warn(
                        found,
                        "condition",
                        format!(
                            "{} finds its pattern anywhere in the text; write ^…$ to cover all of it",
                            words::test(test)
                        ),
                    );
                }
                continue;
            }
            test => whole_values(test),
        };
        for literal in literals {
            let right = match (claim.json_type, literal) {
                (JsonType::String, Literal::Int(number)) => quoted(&number.to_string()),
                (JsonType::String, Literal::Bool(value)) => quoted(&value.to_string()),
                (JsonType::Number, Literal::String(text)) if !converts => match text.parse::<i64>() {
                    Ok(number) => number.to_string(),
                    Err(_) => continue,
                },
                (JsonType::Boolean, Literal::String(text))
                    if matches!(text.as_str(), "true" | "false") && !converts =>
                {
                    text.clone()
                }
                _ => continue,
            };
            let kind = match claim.json_type {
                JsonType::String => "text",
                JsonType::Number => "a number",
                _ => "true or false, not text",
            };
            warn(
                found,
                "condition",
                format!(
                    "{read} is {kind} in tokens of {}, so comparing it with {} never holds; write {read} == {right}",
                    view.platform,
                    words::value(literal)
                ),
            );
        }
    }
}

/// What to say about a claim that the platform is not known to send.
fn unknown(view: &View<'_>, name: &str, shown: &str) -> Option<String> {
    let free = match view.kind {
        ProviderKind::GithubActions => name.starts_with("repo_property_"),
        ProviderKind::Buildkite => name.starts_with("agent_tag:"),
        _ => false,
    };
    if free {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('/', ".");
    let wanted = plain(name);
    let near = view
        .known()
        .map(|claim| (strsim::damerau_levenshtein(&wanted, &plain(claim.name)), claim))
        .filter(|(distance, claim)| distance * 3 <= claim.name.len() && claim.name.len() > 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, claim)| claim);
    // `terraform_organization` of `…_id` and `…_name`.
    let longer: Vec<&ClaimInfo> = view
        .known()
        .filter(|claim| plain(claim.name).strip_prefix(&wanted).is_some_and(|r| r.starts_with('_')))
        .collect();
    let meant = if longer.is_empty() { near.into_iter().collect() } else { longer };
    let platform = view.platform;
    if meant.is_empty() {
        return view
            .claims_complete
            .then(|| format!("{platform} is not known to send {shown}; a claim that is absent never matches"));
    }
    let names =
        meant.iter().map(|claim| if shown.starts_with("claims") { claim.expression() } else { quoted(claim.name) });
    let names = names.collect::<Vec<_>>().join(" or ");
    Some(format!("{platform} is not known to send {shown}; did you mean {names}?"))
}

fn unknown_mappings(view: &View<'_>, found: &mut Vec<Warning>) {
    for (index, mapping) in view.trust.mappings().iter().enumerate() {
        if view.mapped(mapping).is_none()
            && let Some(message) = unknown(view, mapping.name(), &quoted(mapping.name()))
        {
            warn(found, format!("mappings[{index}].key"), message);
        }
    }
}

/// Claims to pass through that never will be.
fn passthrough(view: &View<'_>, found: &mut Vec<Warning>) {
    for (index, name) in view.trust.trust().passthrough_claims.iter().enumerate() {
        let field = format!("passthroughClaims[{index}]");
        let claim = view.known().find(|claim| spelled(claim, name));
        match claim {
            Some(claim) if claim.path().len() > 1 => {
                warn(found, field, format!("'{name}' is inside an object; only claims at the top are passed through"));
            }
            Some(claim) if claim.json_type != JsonType::String => {
                warn(found, field, format!("'{name}' is not text, and only text is passed through"));
            }
            Some(_) => {}
            None => {
                if let Some(message) = unknown(view, name, &quoted(name)) {
                    warn(found, field, message);
                }
            }
        }
    }
}

fn spelled(claim: &ClaimInfo, name: &str) -> bool {
    super::spells(name, claim.path())
}
