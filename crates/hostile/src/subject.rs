//! Subject patterns: [`SubjectPattern`], and that what the guard rails let pass stays within one tenant.

use std::sync::Arc;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::lint::lint;
use sallyport_domain::provider::{KeySource, Provider, ProviderKind, ReplayPolicy};
use sallyport_domain::scope::Scope;
use sallyport_domain::subject::SubjectPattern;
use sallyport_domain::trust::{CompiledTrust, TRUST_LIFETIME, Trust};
use uuid::Uuid;

use crate::{assert_message, first_line, text};

/// The first line as a pattern, the second as a subject, for every kind of provider.
pub fn pattern(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (pattern, rest) = first_line(text);
    let (subject, _) = first_line(rest);
    for kind in ProviderKind::ALL {
        match SubjectPattern::parse("subject", pattern, kind) {
            Ok(compiled) => matching(&compiled, pattern, subject),
            Err(error) => {
                assert_eq!(error.field, "subject");
                assert_message(&error.message, 2_048);
            }
        }
        tenants(kind, pattern, subject);
    }
}

fn matching(compiled: &SubjectPattern, pattern: &str, subject: &str) {
    assert!(!compiled.matches(""));
    let matched = compiled.matches(subject);
    match compiled {
        SubjectPattern::Exact(_) => {
            assert!(compiled.is_exact() && compiled.matches(pattern) && !pattern.contains('*'));
            assert_eq!(matched, subject == pattern);
        }
        SubjectPattern::Prefix(prefix) => {
            assert_eq!(format!("{prefix}*"), pattern);
            assert!(prefix.ends_with(['/', ':']) && !prefix.contains('*'));
            assert!(!compiled.matches(prefix), "nothing follows the delimiter");
            assert_eq!(matched, subject.len() > prefix.len() && subject.starts_with(prefix));
        }
        SubjectPattern::GithubRepository(_) => {
            let (owner, repository) = pattern.split_once('/').unwrap_or_default();
            let name = |text: &str| text.split('@').next().unwrap_or_default().to_owned();
            if matched {
                let rest = subject.strip_prefix("repo:").unwrap_or_default();
                let (full_name, context) = rest.split_once(':').unwrap_or_default();
                let (o, r) = full_name.split_once('/').unwrap_or_default();
                assert!(!context.is_empty());
                assert_eq!((name(o), name(r)), (name(owner), name(repository)));
                for (given, wanted) in [(o, owner), (r, repository)] {
                    assert!(!wanted.contains('@') || given == wanted, "the pinned id is another");
                }
            }
            // All contexts of a repository, or none.
            assert!(compiled.matches(&format!("repo:{pattern}:ref:refs/heads/main")));
        }
    }
}

/// What may be saved as a trust by its subject alone matches nobody else's subject: the same one with another tenant's
/// name in it.
fn tenants(kind: ProviderKind, pattern: &str, subject: &str) {
    let provider = provider(kind);
    let Ok(compiled) = CompiledTrust::admit(trust(&provider, pattern), &provider) else { return };
    let verdict = lint(&compiled, &provider);
    for warning in &verdict.warnings {
        assert_message(&warning.message, 4_096);
    }
    if let Some(refusal) = verdict.refusal {
        return assert_message(&refusal.message, 4_096);
    }
    let Some(pattern) = compiled.subject() else { unreachable!("the subject is gone") };
    if !pattern.matches(subject) {
        return;
    }
    let Some((start, end)) = tenant(kind, subject) else { return };
    let (before, tenant, after) = (&subject[..start], &subject[start..end], &subject[end..]);
    for stranger in [format!("{tenant}x"), format!("x{tenant}"), "x".to_owned(), "stranger".to_owned()] {
        let other = format!("{before}{stranger}{after}");
        assert!(stranger == tenant || !pattern.matches(&other), "also matches {other}");
    }
}

/// Where the tenant's name stands in a subject, on issuers that serve everyone; on one's own, the part that tells its
/// workloads apart at the least.
fn tenant(kind: ProviderKind, subject: &str) -> Option<(usize, usize)> {
    let after = |prefix: &str, delimiters: &[char]| {
        let rest = subject.strip_prefix(prefix)?;
        let length = rest.find(delimiters).unwrap_or(rest.len());
        (length > 0).then_some((prefix.len(), prefix.len() + length))
    };
    match kind {
        ProviderKind::GithubActions => after("repo:", &['/', ':', '@']),
        ProviderKind::GitlabCi => after("project_path:", &['/', ':']),
        ProviderKind::HcpTerraform | ProviderKind::Buildkite => after("organization:", &[':']),
        ProviderKind::Circleci => after("org/", &['/']),
        ProviderKind::AwsSts => ["arn:aws:sts::", "arn:aws:iam::"].iter().find_map(|prefix| after(prefix, &[':'])),
        ProviderKind::Kubernetes => after("system:serviceaccount:", &[':']),
        ProviderKind::Spiffe => {
            let (_, path) = subject.strip_prefix("spiffe://")?.split_once('/')?;
            let start = subject.len() - path.len();
            let length = path.find('/').unwrap_or(path.len());
            (length > 0).then_some((start, start + length))
        }
        // One word, the whole of which counts.
        ProviderKind::GoogleCloud => (!subject.contains([':', '/'])).then_some((0, subject.len())),
        ProviderKind::AwsIamOutbound | ProviderKind::Azure | ProviderKind::CustomOidc => None,
    }
}

fn provider(kind: ProviderKind) -> Provider {
    let issuer = kind.default_issuer().unwrap_or(match kind {
        ProviderKind::AwsIamOutbound => "https://5a1b.tokens.sts.global.api.aws",
        ProviderKind::Azure => "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
        ProviderKind::Spiffe => "spiffe://prod.acme.internal",
        ProviderKind::Circleci => "https://oidc.circleci.com",
        _ => "https://issuer.example",
    });
    Provider {
        id: ProviderId(Uuid::nil()),
        scope: Scope::Platform,
        name: "provider".into(),
        description: None,
        kind,
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
        created_at: Timestamp::from_seconds(0),
        created_by: String::new(),
    }
}

fn trust(provider: &Provider, subject: &str) -> Trust {
    Trust {
        id: TrustId(Uuid::nil()),
        client_name: "calm-wolf-10000".into(),
        scope: Scope::Platform,
        provider: provider.id,
        issuer: provider.issuer.as_str().into(),
        service_account: ServiceAccountId(Uuid::nil()),
        binding: false,
        name: "trust".into(),
        description: None,
        subject: Some(subject.into()),
        mappings: Box::default(),
        allowed_audiences: Box::default(),
        condition: None,
        source_cidrs: Box::default(),
        scoped_roles: Arc::default(),
        passthrough_claims: Box::default(),
        lifetime: TRUST_LIFETIME,
        ends_with_subject_token: false,
        disabled: false,
        credentials_not_before: None,
        warnings: Arc::default(),
        created_at: Timestamp::from_seconds(0),
        created_by: Arc::default(),
    }
}
