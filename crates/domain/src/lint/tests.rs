//! The table of cases: what is refused, what is warned about, in which words. `docs/guard-rails.md` shows all of it;
//! after a change, `UPDATE=1 cargo test -p sallyport-domain lint` writes it anew.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Lint, lint};
use crate::claims::Claims;
use crate::clock::Timestamp;
use crate::id::{OrganizationId, ProviderId, ServiceAccountId, TrustId};
use crate::issuer::IssuerUri;
use crate::mapping::Mapping;
use crate::preset::{PRESETS, preset};
use crate::provider::{KeySource, Provider, ProviderKind, ReplayPolicy};
use crate::scope::Scope;
use crate::trust::{CompiledTrust, TRUST_LIFETIME, Trust};

use ProviderKind as K;

/// A trust, short: everything has a default.
#[derive(Clone, Copy, Default)]
struct Case {
    issuer: Option<&'static str>,
    subject: Option<&'static str>,
    mappings: &'static [(&'static str, &'static str)],
    condition: Option<&'static str>,
    audiences: &'static [&'static str],
    passthrough: &'static [&'static str],
    lifetime: Option<u32>,
}

const NONE: Case = Case {
    issuer: None,
    subject: None,
    mappings: &[],
    condition: None,
    audiences: &[],
    passthrough: &[],
    lifetime: None,
};

const fn subject(text: &'static str) -> Case {
    Case { subject: Some(text), ..NONE }
}
const fn condition(text: &'static str) -> Case {
    Case { condition: Some(text), ..NONE }
}
const fn mapping(mappings: &'static [(&'static str, &'static str)]) -> Case {
    Case { mappings, ..NONE }
}
impl Case {
    const fn at(mut self, issuer: &'static str) -> Self {
        self.issuer = Some(issuer);
        self
    }
    const fn and(mut self, text: &'static str) -> Self {
        self.condition = Some(text);
        self
    }
    const fn map(mut self, mappings: &'static [(&'static str, &'static str)]) -> Self {
        self.mappings = mappings;
        self
    }
    const fn passing(mut self, names: &'static [&'static str]) -> Self {
        self.passthrough = names;
        self
    }
    const fn lasting(mut self, seconds: u32) -> Self {
        self.lifetime = Some(seconds);
        self
    }
}

fn default_issuer(kind: K) -> &'static str {
    kind.default_issuer().unwrap_or(match kind {
        K::AwsIamOutbound => "https://5a1b.tokens.sts.global.api.aws",
        K::Azure => "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
        K::Kubernetes => "https://cluster.example.com",
        K::Spiffe => "spiffe://prod.acme.internal",
        K::Circleci => "https://oidc.circleci.com/org/5ab1f0a2-0c52-4f3c-93a5-1f7a7c1f4c11",
        _ => "https://issuer.example.com",
    })
}

fn provider(kind: K, issuer: &str) -> Provider {
    Provider {
        id: ProviderId(uuid::Uuid::nil()),
        scope: Scope::Organization(OrganizationId::parse("acme-org").unwrap()),
        name: "p".into(),
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

fn trust(kind: K, case: &Case) -> Trust {
    let prefix = if kind == K::AwsSts { "aws_claims" } else { "jwt_claims" };
    Trust {
        id: TrustId(uuid::Uuid::nil()),
        client_name: "calm-wolf-10000".into(),
        scope: Scope::Organization(OrganizationId::parse("acme-org").unwrap()),
        provider: ProviderId(uuid::Uuid::nil()),
        issuer: "https://issuer.example".into(),
        service_account: ServiceAccountId(uuid::Uuid::nil()),
        binding: false,
        name: "t".into(),
        description: None,
        subject: case.subject.map(Into::into),
        mappings: case
            .mappings
            .iter()
            .map(|(name, value)| Mapping { key: format!("{prefix}.{name}").into(), value: Some((*value).into()) })
            .collect(),
        allowed_audiences: case.audiences.iter().map(|a| (*a).to_owned()).collect(),
        condition: case.condition.map(Into::into),
        source_cidrs: Box::default(),
        scoped_roles: Arc::default(),
        passthrough_claims: case.passthrough.iter().map(|a| (*a).to_owned()).collect(),
        lifetime: case.lifetime.unwrap_or(TRUST_LIFETIME),
        ends_with_subject_token: false,
        disabled: false,
        credentials_not_before: None,
        warnings: Arc::default(),
        created_at: Timestamp::from_seconds(0),
        created_by: Arc::default(),
    }
}

fn judge(kind: K, case: &Case) -> Lint {
    let provider = provider(kind, case.issuer.unwrap_or_else(|| default_issuer(kind)));
    lint(&CompiledTrust::load(trust(kind, case), &provider).unwrap(), &provider)
}

fn refused(kind: K, case: &Case) -> bool {
    judge(kind, case).refusal.is_some()
}

const GHES: &str = "https://github.acme.example/_services/token";
const ENTERPRISE: &str = "https://token.actions.githubusercontent.com/acme-inc";
const OWN_GITLAB: &str = "https://gitlab.acme.example";

/// What the documentation shows: title, kind, cases.
const TABLE: &[(&str, &[(K, Case)])] = &[
    (
        "Strangers on shared issuers",
        &[
            (K::GithubActions, Case { audiences: &["sallyport"], ..NONE }),
            (K::GithubActions, condition("claims.ref == 'refs/heads/main'")),
            (K::GithubActions, condition("claims.repository_owner.startsWith('acme')")),
            (K::GithubActions, condition("claims.repository.startsWith('acme')")),
            (K::GithubActions, condition("claims.repository.contains('acme/')")),
            (K::GithubActions, condition("claims.repository.matches('^acme/api$')")),
            (K::GithubActions, condition("claims.repository.endsWith('/api')")),
            (K::GithubActions, condition("claims.repository_id == 74")),
            (K::GithubActions, condition("claims.repository == 'acme/api' || claims.environment == 'production'")),
            (K::GithubActions, condition("claims.repository != 'evil/api'")),
            (K::GithubActions, condition("claims.repository == ''")),
            (
                K::GithubActions,
                condition("claims.job_workflow_ref == 'acme/workflows/.github/workflows/deploy.yml@refs/heads/main'"),
            ),
            (K::GithubActions, condition("claims.sub.startsWith('repo:')")),
            (K::GithubActions, subject("environment:production")),
            (K::GithubActions, mapping(&[("actor_id", "12")])),
            (K::GithubActions, mapping(&[("repository_owner_id", "")])),
            (K::CustomOidc, condition("claims.ref == 'main'").at("https://gitlab.com")),
            (K::GitlabCi, condition("claims.ci_config_ref_uri.startsWith('gitlab.com/acme/')")),
            (K::GitlabCi, mapping(&[("user_login", "sample-user")])),
            (K::HcpTerraform, condition("claims.terraform_workspace_name == 'production'")),
            (
                K::HcpTerraform,
                condition("claims.sub.startsWith('organization:acme')").at("https://app.eu.terraform.io"),
            ),
            (K::GoogleCloud, condition("claims.email.endsWith('@my-project.iam.gserviceaccount.com')")),
            (K::GoogleCloud, mapping(&[("azp", "1234.apps.googleusercontent.com")])),
            (K::Buildkite, mapping(&[("pipeline_slug", "deploy")])),
            (K::AwsSts, condition("claims.arn.contains(':assumed-role/deploy/')")),
            (K::AwsSts, mapping(&[("arn", "deploy")])),
            (K::Circleci, subject("org/").at("https://oidc.circleci.com")),
            (K::CustomOidc, condition("claims.environment == 'production'").at("https://oidc.vercel.com")),
        ],
    ),
    (
        "Anyone on an issuer of one's own",
        &[
            (K::CustomOidc, Case { audiences: &["sallyport"], ..NONE }),
            (K::CustomOidc, condition("true")),
            (K::CustomOidc, condition("claims.aud == 'sallyport'")),
            (K::CustomOidc, condition("claims.sub != 'someone-else'")),
            (K::CustomOidc, condition("claims.sub.startsWith('')")),
            (K::CustomOidc, mapping(&[("iss", "https://issuer.example.com")])),
            (K::GitlabCi, condition("claims.ref_protected == 'true'").at(OWN_GITLAB)),
            (K::Kubernetes, subject("system:serviceaccount:*")),
            (K::Spiffe, condition("claims.sub.startsWith('spiffe://prod.acme.internal/')")),
        ],
    ),
    (
        "Whole tenants",
        &[
            (K::GithubActions, mapping(&[("repository_owner_id", "65"), ("ref", "refs/heads/main")])),
            (K::GithubActions, condition("claims.ref == 'refs/heads/main'").at(GHES)),
            (K::GitlabCi, condition("claims.namespace_id == '72' && claims.ref_protected == 'true'")),
            (
                K::HcpTerraform,
                subject("organization:acme:project:platform:*")
                    .map(&[("terraform_organization_id", "org-GRNbCjYNpBB6NEBH")]),
            ),
            (K::GoogleCloud, condition("claims.google.compute_engine.project_number == 739419398126")),
            (K::Azure, mapping(&[("tid", "72f988bf-86f1-41af-91ab-2d7cd011db47")])),
            (K::AwsIamOutbound, condition("claims['https://sts.amazonaws.com/'].aws_account == '123456789012'")),
            (K::AwsSts, mapping(&[("account", "123456789012")])),
            (K::Kubernetes, subject("system:serviceaccount:production:*")),
            (K::Spiffe, subject("spiffe://prod.acme.internal/ns/*")),
            (
                K::Circleci,
                subject("org/5ab1f0a2-0c52-4f3c-93a5-1f7a7c1f4c11/*")
                    .and("claims['oidc.circleci.com/vcs-ref'] == 'refs/heads/main'"),
            ),
            (
                K::Buildkite,
                condition(
                    "claims.organization_id == '0184990a-477b-4fa8-9968-496074483cee' && claims.build_branch == 'main'",
                ),
            ),
            (K::CustomOidc, subject("team/ops/*")),
        ],
    ),
    (
        "Names, and code that nobody has reviewed",
        &[
            (K::GithubActions, subject("acme/api")),
            (K::GithubActions, subject("acme/api").lasting(7_200)),
            (K::GithubActions, condition("claims.repository_id == '74' && claims.event_name == 'pull_request'")),
            (K::GithubActions, condition("claims.repository == 'acme/api' && claims.environment == 'production'")),
            (K::GitlabCi, subject("project_path:acme/api:*")),
            (
                K::HcpTerraform,
                condition(
                    "claims.terraform_organization_name == 'acme' && claims.terraform_workspace_name == 'production'",
                ),
            ),
            (K::GoogleCloud, condition("claims.email == 'builder@my-project.iam.gserviceaccount.com'")),
            (K::Circleci, mapping(&[("oidc.circleci.com/project-id", "1d6f4c3a-3b0e-4f9b-8a55-7d0f4f1c2b3a")])),
            (K::Buildkite, subject("organization:acme:pipeline:deploy:*")),
        ],
    ),
    (
        "Subjects that tokens do not have",
        &[
            (K::GithubActions, subject("repo:acme/api:ref:refs/heads/main").map(&[("repository_id", "74")])),
            (K::GithubActions, condition("claims.sub.startsWith('repo:acme/') && claims.ref == 'refs/heads/main'")),
            (K::Azure, subject("api://sallyport")),
            (K::GoogleCloud, subject("builder@my-project.iam.gserviceaccount.com")),
            (K::Kubernetes, subject("system:serviceaccount:api")),
            (K::Kubernetes, mapping(&[("kubernetes.io/serviceaccount/name", "api")])),
            (K::Spiffe, subject("spiffe://prod.other.internal/ns/production/sa/api")),
        ],
    ),
    (
        "Tests that never hold, or hold too often",
        &[
            (K::GitlabCi, condition("claims.project_id == '20' && claims.ref_protected == true")),
            (K::GitlabCi, condition("claims.project_id == '20' && claims.ref_protected && claims.runner_id == '1'")),
            (K::GithubActions, condition("claims.repository_owner_id == '65' && claims.repositry == 'acme/api'")),
            (
                K::HcpTerraform,
                condition(
                    "claims.terraform_workspace_id == 'ws-mbsd5E3Ktt5Rg2Xm' && claims.terraform_organization == 'acme' && claims.terraform_run_phase == 'apply'",
                ),
            ),
            (K::GithubActions, mapping(&[("repository_id", "74"), ("branch", "main"), ("environment", "production")])),
            (
                K::GithubActions,
                condition(
                    "claims.repository_id == '74' && claims.ref.matches('refs/heads/release-[0-9]+') && 'acme' in claims.repository",
                ),
            ),
            (
                K::AwsSts,
                condition("claims.account == '123456789012' && claims.sub == 'arn:aws:iam::123456789012:user/ci'"),
            ),
            (
                K::GoogleCloud,
                subject("107517467455664443765").passing(&["email", "email_verified", "google.compute_engine.zone"]),
            ),
        ],
    ),
    (
        "Nothing to say against",
        &[
            (K::GithubActions, subject("acme@65/api@74").and("claims.environment == 'production'")),
            (K::GithubActions, mapping(&[("repository_id", "74"), ("environment", "production")])),
            (
                K::GithubActions,
                condition("claims.repository_id in ['74', '75'] && claims.ref.startsWith('refs/tags/v')"),
            ),
            (K::GithubActions, subject("acme/api").and("claims.ref == 'refs/heads/main'").at(ENTERPRISE)),
            (K::GitlabCi, condition("claims.project_id == '20' && claims.ref_protected == 'true'")),
            (
                K::HcpTerraform,
                condition(
                    "claims.terraform_workspace_id == 'ws-mbsd5E3Ktt5Rg2Xm' && claims.terraform_run_phase == 'apply'",
                ),
            ),
            (K::AwsIamOutbound, subject("arn:aws:iam::123456789012:role/deploy")),
            (K::AwsSts, subject("arn:aws:sts::123456789012:assumed-role/deploy/*")),
            (K::GoogleCloud, subject("107517467455664443765")),
            (K::Azure, subject("d1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10")),
            (K::Kubernetes, subject("system:serviceaccount:production:api")),
            (K::Spiffe, condition("url(claims.sub).path.startsWith('/ns/production/')")),
            (
                K::Buildkite,
                condition(
                    "claims.pipeline_id == '0184990a-4782-42b5-afc1-16715b10b1ff' && claims.build_branch == 'main'",
                ),
            ),
            (K::CustomOidc, subject("my-workload")),
        ],
    ),
];

/// The table as the documentation shows it.
fn rendered() -> String {
    let mut text = String::new();
    for (title, cases) in TABLE {
        let _ = write!(text, "### {title}\n\n");
        for (kind, case) in *cases {
            let issuer = case.issuer.map_or_else(String::new, |issuer| format!(", {issuer}"));
            let _ = write!(text, "{}{issuer}\n\n```text\n", preset(*kind).display_name);
            let mut line = |label: &str, value: &str| {
                let _ = writeln!(text, "{label:<12}{value}");
            };
            if let Some(subject) = case.subject {
                line("subject", subject);
            }
            for (name, value) in case.mappings {
                let prefix = if *kind == K::AwsSts { "aws_claims" } else { "jwt_claims" };
                line("mapping", &format!("{prefix}.{name} = {value}"));
            }
            if let Some(condition) = case.condition {
                line("condition", condition);
            }
            if !case.audiences.is_empty() {
                line("audience", &case.audiences.join(", "));
            }
            if !case.passthrough.is_empty() {
                line("passthrough", &case.passthrough.join(", "));
            }
            if let Some(seconds) = case.lifetime {
                line("expiration", &seconds.to_string());
            }
            let Lint { refusal, warnings } = judge(*kind, case);
            match &refusal {
                Some(refusal) => line("→ refused", &refusal.to_string()),
                None if warnings.is_empty() => line("→ accepted", ""),
                // What is refused is not warned about here: the refusal comes first.
                None => warnings.iter().for_each(|warning| line("→ warned", &warning.to_string())),
            }
            text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            text.push_str("\n```\n\n");
        }
    }
    text
}

#[test]
fn the_documentation_shows_every_case() {
    const BEGIN: &str = "<!-- cases: written by `UPDATE=1 cargo test -p sallyport-domain lint` -->\n\n";
    const END: &str = "<!-- end of cases -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guard-rails.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the cases' beginning is marked");
    let (_, after) = rest.split_once(END).expect("the cases' end is marked");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", rendered());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(document == wanted, "docs/guard-rails.md is stale: UPDATE=1 cargo test -p sallyport-domain lint");
    }
}

#[test]
fn the_table_means_what_its_titles_say() {
    for (title, cases) in TABLE {
        for (index, (kind, case)) in cases.iter().enumerate() {
            let Lint { refusal, warnings } = judge(*kind, case);
            match *title {
                "Strangers on shared issuers" | "Anyone on an issuer of one's own" => {
                    assert!(refusal.is_some(), "{title} {index}");
                }
                "Nothing to say against" => {
                    assert!(refusal.is_none(), "{title} {index}: {refusal:?}");
                    assert!(warnings.is_empty(), "{title} {index}: {warnings:?}");
                }
                _ => {
                    assert!(refusal.is_none(), "{title} {index}: {refusal:?}");
                    assert!(!warnings.is_empty(), "{title} {index}");
                }
            }
        }
    }
}

#[test]
fn documented_patterns_of_other_products_are_accepted() {
    // Conditions and bindings that the public guides of Mondoo and ConductorOne show (shape, not words).
    let role = "claims['https://sts.amazonaws.com/']['aws_account'] == '123456789012' && claims.sub == 'arn:aws:iam::123456789012:role/deploy'";
    for (kind, case) in [
        (K::GithubActions, condition("claims.repository == 'acme/api'")),
        (K::GithubActions, condition("claims.repository == 'acme/api' && claims.ref == 'refs/heads/main'")),
        (K::GithubActions, condition("claims.repository == 'acme/api' && claims.environment == 'production'")),
        (K::GithubActions, subject("acme/api")),
        (K::GithubActions, subject("repo:acme/api:ref:refs/heads/main")),
        (K::GithubActions, subject("repo:acme/*")),
        (K::GitlabCi, condition("claims.project_path == 'acme/api' && claims.ref_protected == 'true'")),
        (K::GitlabCi, subject("project_path:acme/api:ref_type:branch:ref:main")),
        (
            K::HcpTerraform,
            condition(
                "claims.terraform_organization_name == 'acme' && claims.terraform_workspace_name == 'p' && claims.terraform_run_phase == 'apply'",
            ),
        ),
        (K::AwsIamOutbound, condition(role)),
        (K::AwsIamOutbound, condition("claims['https://sts.amazonaws.com/'].principal_tags.team == 'ops'")),
        (K::Spiffe, condition("url(claims.sub).path == '/ns/production/sa/api'")),
        (K::AwsSts, subject("arn:aws:sts::123456789012:assumed-role/Role/*")),
        (K::GoogleCloud, subject("107517467455664443765")),
        (K::Azure, subject("https://management.azure.com/")),
        (K::Kubernetes, subject("system:serviceaccount:default:cnspec").map(&[("kubernetes.io/namespace", "default")])),
        (K::CustomOidc, subject("anything")),
    ] {
        assert_eq!(judge(kind, &case).refusal, None, "{kind} {:?} {:?}", case.subject, case.condition);
    }
}

#[test]
fn shared_issuers_are_told_by_the_issuer_not_by_the_kind() {
    let unpinned = condition("claims.environment == 'production'");
    for issuer in [
        "https://token.actions.githubusercontent.com",
        "https://token.actions.githubusercontent.com/",
        "https://Token.Actions.GitHubUserContent.com",
        "https://gitlab.com",
        "https://gitlab.com/",
        "https://app.terraform.io",
        "https://app.eu.terraform.io",
        "https://accounts.google.com",
        "https://agent.buildkite.com",
        "https://oidc.circleci.com",
        "https://oidc.vercel.com",
        "https://oidc.codefresh.io",
        "https://cognito-identity.amazonaws.com",
        "https://sts.windows.net/9188040d-6c67-4c5b-b112-36a304b66dad/",
        "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
    ] {
        for kind in [K::CustomOidc, K::GithubActions, K::GitlabCi] {
            assert!(refused(kind, &unpinned.at(issuer)), "{issuer} {kind}");
        }
    }
    for issuer in [
        ENTERPRISE,
        GHES,
        OWN_GITLAB,
        "https://oidc.circleci.com/org/5ab1f0a2",
        "https://oidc.vercel.com/acme",
        "https://evil.example/gitlab.com",
        "https://gitlab.com.acme.example",
    ] {
        assert!(!refused(K::CustomOidc, &unpinned.at(issuer)), "{issuer}");
    }
    // A repository means nothing to GitLab, whatever the provider's kind.
    assert!(refused(K::GithubActions, &subject("acme/api").at("https://gitlab.com")));
}

#[test]
fn every_way_to_pin_is_known() {
    for (kind, case) in [
        (K::GithubActions, subject("repository_owner_id:65:repository_id:74")),
        (K::GithubActions, subject("repo:acme@65/api@74:ref:refs/heads/main")),
        (K::GithubActions, mapping(&[("enterprise_id", "345")])),
        (K::GithubActions, mapping(&[("sub", "repo:acme/api:environment:production")])),
        (K::GithubActions, condition("claims.repository.startsWith('acme/')")),
        (K::GithubActions, condition("claims.workflow_ref.startsWith('acme/api/.github/')")),
        (K::GithubActions, condition("claims.sub.startsWith('repo:acme/api:')")),
        (K::GithubActions, condition("claims.sub in ['repo:acme/api:pull_request', 'repo:acme/web:pull_request']")),
        (K::GithubActions, condition("'74' == claims.repository_id")),
        (K::GithubActions, condition("claims.repository_owner_id == '65' && (claims.ref == 'a' || claims.ref == 'b')")),
        (K::GithubActions, condition("claims.ref == 'a' ? claims.repository_id == '1' : claims.repository_id == '2'")),
        (K::GitlabCi, subject("project_path:acme/*")),
        (K::GitlabCi, condition("claims.namespace_path.startsWith('acme/')")),
        (K::HcpTerraform, condition("claims.terraform_full_workspace.startsWith('organization:acme:')")),
        (K::HcpTerraform, mapping(&[("terraform_project_id", "prj-1")])),
        (K::GoogleCloud, mapping(&[("google.compute_engine.project_id", "p")])),
        (K::GoogleCloud, mapping(&[("hd", "acme.com")])),
        (K::Buildkite, subject("0184990a-4782-42b5-afc1-16715b10b1ff")),
        (K::Buildkite, mapping(&[("organization_slug", "acme"), ("pipeline_slug", "deploy")])),
        (K::AwsSts, condition("claims.arn.startsWith('arn:aws:sts::123456789012:')")),
        (K::AwsSts, condition("claims.userid.startsWith('AROAEXAMPLEID:')")),
        (K::AwsSts, mapping(&[("arn", "arn:aws:iam::123456789012:user/ci")])),
        (K::Circleci, subject("org/5ab1/project/1d6f/*").at("https://oidc.circleci.com")),
        (K::CustomOidc, subject("owner:acme:*").at("https://oidc.vercel.com")),
    ] {
        let verdict = judge(kind, &case);
        assert_eq!(verdict.refusal, None, "{kind} {:?} {:?} {:?}", case.subject, case.mappings, case.condition);
    }
    for (kind, case) in [
        (K::GithubActions, condition("claims.repository.startsWith('/')")),
        (K::GithubActions, condition("claims.repository_id in ['74', '']")),
        (K::GithubActions, condition("claims.repository_id in ['74', 75]")),
        (K::GithubActions, condition("claims.repository_id in []")),
        (K::GithubActions, condition("claims.repository == claims.repository")),
        (K::GithubActions, condition("has(claims.repository_id)")),
        (K::GithubActions, condition("!(claims.repository_id == '74')")),
        (K::GithubActions, condition("claims.repository_id > '74'")),
        (K::GithubActions, condition("claims.workflow == 'acme' || claims.repository_id == '74'")),
        (K::GithubActions, condition("claims.ref == 'a' ? claims.repository_id == '1' : true")),
        (K::GithubActions, condition("'74' in claims.repository_id")),
        (K::GithubActions, condition("claims.aud == 'https://github.com/acme'")),
        (K::GithubActions, subject("repo::ref:x")),
        (K::GithubActions, subject("ref:refs/heads/repo:acme/api")),
        (K::GithubActions, subject("job_workflow_ref:acme/wf/.github/workflows/x.yml@main:repo:acme/api")),
        (K::GithubActions, subject("repository_owner: :x")),
        (K::GitlabCi, condition("claims.sub.startsWith('project_path:acme')")),
        (K::GitlabCi, condition("claims.namespace_id.startsWith('72/')")),
        (K::GitlabCi, condition("'acme' in claims.groups_direct")),
        (K::HcpTerraform, condition("claims.sub.startsWith('organization:acme')")),
        (K::HcpTerraform, subject("project:platform:workspace:production:run_phase:apply")),
        (K::GoogleCloud, condition("claims.email_verified == true")),
        (K::GoogleCloud, condition("claims['google.compute_engine.project_id'] == 'p'")),
        (K::AwsSts, condition("claims.arn.startsWith('arn:aws:sts::')")),
        (K::AwsSts, condition("claims.arn.startsWith('arn:aws:sts::123:')")),
        (K::AwsSts, condition("claims.sub == 'arn:aws:iam::123456789012:user/ci'")),
        (K::CustomOidc, subject("project:api:*").at("https://oidc.vercel.com")),
    ] {
        assert!(refused(kind, &case), "{kind} {:?} {:?} {:?}", case.subject, case.mappings, case.condition);
    }
}

#[test]
fn conditions_that_hold_for_a_stranger_are_refused_on_any_issuer() {
    for text in [
        "1 == 1",
        "size(claims.sub) > 0",
        "claims.sub.matches('.*')",
        "claims.sub.glob('**')",
        "claims.aud.exists(a, a == 'sallyport')",
        "claims.aud[0] == 'sallyport'",
        "'sallyport' in claims.aud",
        "now.getHours() < 20",
        "now > timestamp('2024-01-01T00:00:00Z')",
        "claims.?nothing.orValue('x') == 'x'",
        "has(claims.sub)",
        "!has(claims.blocked)",
        "claims.sub == 'a' || true",
        "claims.sub in ['a', '']",
        "claims.iss == 'https://issuer.example.com'",
        "claims.iss.startsWith('https://') && claims.exp > 0",
    ] {
        let provider = provider(K::CustomOidc, default_issuer(K::CustomOidc));
        let trust = Trust { condition: Some(text.into()), ..trust(K::CustomOidc, &NONE) };
        let verdict = lint(&CompiledTrust::load(trust, &provider).unwrap(), &provider);
        assert!(verdict.refusal.is_some(), "{text}");
    }
    for text in ["claims.groups.exists(g, g == 'ops')", "url(claims.sub).path == '/x'", "claims.sub.glob('team-*')"] {
        let provider = provider(K::CustomOidc, default_issuer(K::CustomOidc));
        let trust = Trust { condition: Some(text.into()), ..trust(K::CustomOidc, &NONE) };
        let verdict = lint(&CompiledTrust::load(trust, &provider).unwrap(), &provider);
        assert_eq!(verdict.refusal, None, "{text}");
    }
}

#[test]
fn examples_of_presets_have_nothing_against_them_but_width() {
    for preset in &PRESETS {
        for example in preset.example_conditions {
            let verdict = judge(preset.kind, &condition(example));
            assert_eq!(verdict.refusal, None, "{example}");
            for warning in verdict.warnings {
                let known = ["accepts every", "rests on names", "accepts plans"];
                assert!(known.iter().any(|words| warning.message.starts_with(words)), "{example}: {warning}");
            }
        }
    }
}

/// One test of a GitHub claim, with what an attacker could also arrange for.
fn atom() -> impl Strategy<Value = String> {
    let claim = prop::sample::select(vec![
        "repository",
        "repository_id",
        "repository_owner",
        "repository_owner_id",
        "sub",
        "ref",
        "environment",
        "actor",
        "workflow",
        "workflow_ref",
        "job_workflow_ref",
        "aud",
    ]);
    let literal = prop::sample::select(vec![
        "",
        "a",
        "acme",
        "acme/",
        "acme/api",
        "65",
        "74",
        "6",
        "repo:",
        "repo:acme",
        "repo:acme/",
        "repo:acme/api:",
        "main",
        "octocat",
        "acme/wf/.github/workflows/d.yml@main",
        "/",
        ":",
    ]);
    let operator = prop::sample::select(vec![
        "==",
        "!=",
        "in",
        "includes",
        "startsWith",
        "endsWith",
        "contains",
        "matches",
        "glob",
        "has",
    ]);
    (claim, operator, literal).prop_map(|(claim, operator, literal)| match operator {
        "in" => format!("claims.{claim} in ['{literal}', 'acme/api']"),
        "includes" => format!("'{literal}' in claims.{claim}"),
        "has" => format!("has(claims.{claim})"),
        "==" | "!=" => format!("claims.{claim} {operator} '{literal}'"),
        method => format!("claims.{claim}.{method}('{literal}')"),
    })
}

fn expression() -> impl Strategy<Value = String> {
    atom().prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            1 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

/// Tokens of strangers (no literal above is one of their tenants) who chose every name to look like acme's, and made acme's people and workflows run in theirs.
fn strangers() -> Vec<Claims> {
    let names =
        [("evil", "acme"), ("acme-evil", "api"), ("aacme", "acme"), ("ab", "api"), ("655", "74"), ("acme.", "main")];
    let mut all = Vec::new();
    for (owner, name) in names {
        for context in ["ref:main", "environment:acme", "environment:repo", "pull_request"] {
            for subject in
                [format!("repo:{owner}/{name}:{context}"), context.to_owned(), format!("actor:octocat:{context}")]
            {
                let document = serde_json::json!({
                    "repository": format!("{owner}/{name}"), "repository_id": "9974", "repository_owner": owner,
                    "repository_owner_id": "9965", "sub": subject, "ref": "main", "environment": "acme",
                    "actor": "octocat", "workflow": "acme/api", "workflow_ref": format!("{owner}/{name}/.github/workflows/d.yml@main"),
                    "job_workflow_ref": "acme/wf/.github/workflows/d.yml@main", "aud": "acme/api",
                });
                all.push(Claims::parse(document.to_string().as_bytes()).unwrap());
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The point of it all: what passes on a shared issuer lets no stranger in.
    #[test]
    fn what_passes_lets_no_stranger_in(source in expression()) {
        let provider = provider(K::GithubActions, default_issuer(K::GithubActions));
        let trust = Trust { condition: Some(source.as_str().into()), ..trust(K::GithubActions, &NONE) };
        if let Ok(compiled) = CompiledTrust::admit(trust, &provider)
            && lint(&compiled, &provider).refusal.is_none()
        {
            let condition = compiled.condition().unwrap().unwrap();
            for stranger in strangers() {
                let outcome = condition.evaluate(&stranger, Timestamp::from_seconds(1_800_000_000));
                prop_assert_ne!(outcome, Ok(true), "{} {:?}", source, stranger);
            }
        }
    }

    /// Whatever is written, for every kind: no panic, and messages of a readable size.
    #[test]
    fn any_trust_can_be_judged(
        subject in proptest::option::of("[a-z:/@*']{1,30}"),
        source in proptest::option::of(prop_oneof![expression(), "claims\\.[a-z]{1,8} == '[^'\\\\]{0,20}'"]),
        value in "[ -~]{0,10}",
    ) {
        for kind in K::ALL {
            let provider = provider(kind, default_issuer(kind));
            let name = if kind == K::AwsSts { "aws_claims.arn" } else { "jwt_claims.repository" };
            let trust = Trust {
                subject: subject.as_deref().map(Into::into),
                condition: source.as_deref().map(Into::into),
                mappings: [Mapping { key: name.into(), value: Some(value.as_str().into()) }].into(),
                ..trust(kind, &NONE)
            };
            if let Ok(compiled) = CompiledTrust::load(trust, &provider) {
                let verdict = lint(&compiled, &provider);
                if let Some(refusal) = verdict.refusal {
                    prop_assert!(refusal.message.len() < 2_000);
                }
                for warning in verdict.warnings {
                    prop_assert!(warning.message.len() < 1_000);
                }
            }
        }
    }
}
