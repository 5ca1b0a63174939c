//! Complete claims of real workload identity tokens, one function for each platform.
//!
//! Names, JSON types and lifetimes are those that the platforms document; identities and numbers are invented. Every
//! call gives a new `jti` where the platform has one. Nothing here signs: pass the value to
//! [`Issuer::mint`](crate::Issuer::mint), or to `mint_with` where the platform's algorithm is not RS256.

use serde_json::{Value, json};

use crate::{random_hex, random_uuid};

/// GitHub Actions' issuer.
pub const GITHUB_ACTIONS: &str = "https://token.actions.githubusercontent.com";
/// GitLab.com's issuer.
pub const GITLAB: &str = "https://gitlab.com";
/// HCP Terraform's issuer.
pub const HCP_TERRAFORM: &str = "https://app.terraform.io";
/// Google's issuer.
pub const GOOGLE: &str = "https://accounts.google.com";
/// Buildkite's issuer.
pub const BUILDKITE: &str = "https://agent.buildkite.com";
/// CircleCI's issuer, to be followed by `/` and an organization id.
pub const CIRCLECI: &str = "https://oidc.circleci.com/org";
/// Entra's v1 issuer, to be followed by `/`, a tenant id and `/`.
pub const AZURE_V1: &str = "https://sts.windows.net";

/// What every token needs to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRequest<'a> {
    /// The moment of issue, in seconds since 1970.
    pub now: i64,
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`.
    pub audience: &'a str,
}

impl<'a> TokenRequest<'a> {
    /// A request at `now` (Unix seconds).
    pub fn new(now: i64, issuer: &'a str, audience: &'a str) -> Self {
        Self { now, issuer, audience }
    }
}

/// What follows the first `/`, or the whole.
fn after_slash(path: &str) -> &str {
    path.split_once('/').map_or(path, |(_, rest)| rest)
}

/// What precedes the first `/`, or the whole.
fn before_slash(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// `heads` or `tags` of a full Git reference as CI platforms call it, and the short name.
fn split_ref(git_ref: &str) -> (&'static str, &str) {
    match git_ref.strip_prefix("refs/tags/") {
        Some(tag) => ("tag", tag),
        None => ("branch", git_ref.strip_prefix("refs/heads/").unwrap_or(git_ref)),
    }
}

/// The ids [`github_actions`] gives every repository: owner, then repository.
pub const GITHUB_IDS: (&str, &str) = ("65", "74");

/// A workflow run at GitHub: `repository` as `org/repo`, `git_ref` as `refs/heads/main`. `exp` is five minutes away,
/// `nbf` ten minutes ago.
pub fn github_actions(request: &TokenRequest<'_>, repository: &str, git_ref: &str) -> Value {
    github(request, repository, git_ref, &format!("repo:{repository}:ref:{git_ref}"), None)
}

/// As [`github_actions`], for a job in a deployment environment, which takes the reference's place in the subject.
pub fn github_actions_environment(
    request: &TokenRequest<'_>,
    repository: &str,
    git_ref: &str,
    environment: &str,
) -> Value {
    let subject = format!("repo:{repository}:environment:{environment}");
    github(request, repository, git_ref, &subject, Some(environment))
}

/// As [`github_actions`], with the subject of July 2026, which carries owner and repository ids
/// ([`GITHUB_IDS`]): `repo:org@65/repo@74:ref:refs/heads/main`.
pub fn github_actions_with_ids(request: &TokenRequest<'_>, repository: &str, git_ref: &str) -> Value {
    let (owner, name) = (before_slash(repository), after_slash(repository));
    let subject = format!("repo:{owner}@{}/{name}@{}:ref:{git_ref}", GITHUB_IDS.0, GITHUB_IDS.1);
    github(request, repository, git_ref, &subject, None)
}

fn github(
    request: &TokenRequest<'_>,
    repository: &str,
    git_ref: &str,
    subject: &str,
    environment: Option<&str>,
) -> Value {
    let owner = before_slash(repository);
    let workflow = format!("{repository}/.github/workflows/deploy.yml@{git_ref}");
    let mut claims = json!({
        "jti": random_uuid(),
        "sub": subject,
        "aud": request.audience,
        "ref": git_ref,
        "sha": "7f1d5c2a9b3e4f60718293a4b5c6d7e8f9012345",
        "repository": repository,
        "repository_owner": owner,
        "repository_owner_id": GITHUB_IDS.0,
        "run_id": "9214783651",
        "run_number": "10",
        "run_attempt": "1",
        "repository_visibility": "private",
        "repository_id": GITHUB_IDS.1,
        "actor_id": "12",
        "actor": "octocat",
        "workflow": "deploy",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": split_ref(git_ref).0,
        "workflow_ref": workflow,
        "workflow_sha": "7f1d5c2a9b3e4f60718293a4b5c6d7e8f9012345",
        "job_workflow_ref": workflow,
        "job_workflow_sha": "7f1d5c2a9b3e4f60718293a4b5c6d7e8f9012345",
        "runner_environment": "github-hosted",
        "enterprise": "example-enterprise",
        "enterprise_id": "345",
        "iss": request.issuer,
        "nbf": request.now - 600,
        "exp": request.now + 300,
        "iat": request.now,
    });
    if let Some(environment) = environment {
        claims["environment"] = json!(environment);
        claims["environment_node_id"] = json!("EN_kwDOAbCdEf8AAAABCg");
    }
    claims
}

/// A CI job at GitLab: `project` as `group/project`, `git_ref` as `refs/heads/main`. Valid for an hour.
pub fn gitlab_ci(request: &TokenRequest<'_>, project: &str, git_ref: &str) -> Value {
    let (ref_type, name) = split_ref(git_ref);
    let namespace = project.rsplit_once('/').map_or(project, |(namespace, _)| namespace);
    json!({
        "namespace_id": "72",
        "namespace_path": namespace,
        "project_id": "20",
        "project_path": project,
        "user_id": "1",
        "user_login": "sample-user",
        "user_email": "sample-user@example.test",
        "user_access_level": "developer",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": name,
        "ref_type": ref_type,
        "ref_path": git_ref,
        "ref_protected": "true",
        "runner_id": 1,
        "runner_environment": "gitlab-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "project_visibility": "private",
        "ci_config_ref_uri": format!("gitlab.com/{project}//.gitlab-ci.yml@{git_ref}"),
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "jti": random_uuid(),
        "iss": request.issuer,
        "iat": request.now,
        "nbf": request.now - 5,
        "exp": request.now + 3600,
        "sub": format!("project_path:{project}:ref_type:{ref_type}:ref:{name}"),
        "aud": request.audience,
    })
}

/// A run at HCP Terraform; `run_phase` is `plan` or `apply`. Valid for two hours.
pub fn hcp_terraform(
    request: &TokenRequest<'_>,
    organization: &str,
    project: &str,
    workspace: &str,
    run_phase: &str,
) -> Value {
    let full = format!("organization:{organization}:project:{project}:workspace:{workspace}");
    json!({
        "jti": random_uuid(),
        "iss": request.issuer,
        "aud": request.audience,
        "iat": request.now,
        "nbf": request.now - 5,
        "exp": request.now + 7200,
        "sub": format!("{full}:run_phase:{run_phase}"),
        "terraform_organization_id": "org-GRNbCjYNpBB6NEBH",
        "terraform_organization_name": organization,
        "terraform_project_id": "prj-vegSA59s1XPwMr2t",
        "terraform_project_name": project,
        "terraform_workspace_id": "ws-mbsd5E3Ktt5Rg2Xm",
        "terraform_workspace_name": workspace,
        "terraform_full_workspace": full,
        "terraform_run_id": format!("run-{}", random_hex::<8>()),
        "terraform_run_phase": run_phase,
    })
}

/// A Compute Engine VM's identity token, `format=full`: the subject is the service account's number. Valid for an
/// hour; no `nbf`, no `jti`.
pub fn google_cloud(request: &TokenRequest<'_>, project: &str, service_account: &str, unique_id: &str) -> Value {
    json!({
        "aud": request.audience,
        "azp": unique_id,
        "email": format!("{service_account}@{project}.iam.gserviceaccount.com"),
        "email_verified": true,
        "exp": request.now + 3600,
        "google": {
            "compute_engine": {
                "instance_creation_timestamp": request.now - 86_400,
                "instance_id": "8087716956832600000",
                "instance_name": "build-1",
                "project_id": project,
                "project_number": 739_419_398_126_i64,
                "zone": "europe-west3-a",
            }
        },
        "iat": request.now,
        "iss": request.issuer,
        "sub": unique_id,
    })
}

/// An Azure managed identity's v1 token: the subject is its object id, the issuer ends in a slash. Valid for a day.
pub fn azure(request: &TokenRequest<'_>, tenant_id: &str, object_id: &str) -> Value {
    json!({
        "aud": request.audience,
        "iss": request.issuer,
        "iat": request.now,
        "nbf": request.now,
        "exp": request.now + 86_400,
        "aio": "k2RgYPgf1XP06p9pN8WFJ0w6Cx8dAgA=",
        "appid": "6731de76-14a6-49ae-97bc-6eba6914391e",
        "appidacr": "2",
        "idp": request.issuer,
        "idtyp": "app",
        "oid": object_id,
        "rh": "0.AVAA4ZXk-6Yl.",
        "sub": object_id,
        "tid": tenant_id,
        "uti": random_hex::<11>(),
        "ver": "1.0",
        "xms_mirid": format!(
            "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourcegroups/build/providers/\
             Microsoft.ManagedIdentity/userAssignedIdentities/{object_id}"
        ),
    })
}

/// A Kubernetes pod's projected service account token. Valid for an hour and seven seconds, as kubelet asks for it.
pub fn kubernetes(request: &TokenRequest<'_>, namespace: &str, service_account: &str) -> Value {
    json!({
        "aud": [request.audience],
        "exp": request.now + 3607,
        "iat": request.now,
        "iss": request.issuer,
        "jti": random_uuid(),
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": format!("{service_account}-5d9c7b6f4-x2x7k"), "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": service_account, "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
        },
        "nbf": request.now,
        "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
    })
}

/// A JWT-SVID as SPIRE issues it, for a SPIFFE ID such as `spiffe://example.test/ns/prod/sa/web`. Valid for five
/// minutes. SPIRE leaves `iss` out unless told otherwise, and so does this: the request's issuer is unused.
pub fn spiffe(request: &TokenRequest<'_>, spiffe_id: &str) -> Value {
    json!({
        "aud": [request.audience],
        "exp": request.now + 300,
        "iat": request.now,
        "sub": spiffe_id,
    })
}

/// A CircleCI job; the ids are UUIDs. CircleCI puts the organization id into `aud` unless asked otherwise. Valid for
/// an hour.
pub fn circleci(request: &TokenRequest<'_>, organization_id: &str, project_id: &str, git_ref: &str) -> Value {
    json!({
        "aud": request.audience,
        "exp": request.now + 3600,
        "iat": request.now,
        "iss": request.issuer,
        "oidc.circleci.com/context-ids": ["3b6e4c1a-0c7f-4f0e-8f0a-2f4f6d1c9b7e"],
        "oidc.circleci.com/job-id": random_uuid(),
        "oidc.circleci.com/org-id": organization_id,
        "oidc.circleci.com/pipeline-definition-id": "8f2d7a14-5b7c-4c59-9d0a-6d9c2f0b7a11",
        "oidc.circleci.com/pipeline-id": random_uuid(),
        "oidc.circleci.com/project-id": project_id,
        "oidc.circleci.com/ssh-rerun": false,
        "oidc.circleci.com/vcs-origin": "github.com/example/app",
        "oidc.circleci.com/vcs-ref": git_ref,
        "oidc.circleci.com/workflow-id": random_uuid(),
        "sub": format!("org/{organization_id}/project/{project_id}/user/58c7c0a4-8a2e-4c24-9d4c-0a3b7f3f8c55"),
    })
}

/// The ids of [`buildkite`]'s organization and pipeline, which a token carries only when it is asked for with
/// `--claim organization_id --claim pipeline_id`.
pub const BUILDKITE_IDS: (&str, &str) =
    ("0184990a-477b-4fa8-9968-496074483cee", "0184990a-4782-42b5-afc1-16715b10b1ff");

/// A Buildkite job in step `build` of a pipeline, without the optional claims. Valid for five minutes.
pub fn buildkite(request: &TokenRequest<'_>, organization: &str, pipeline: &str, git_ref: &str) -> Value {
    let commit = "9f3182061f1e2cca4702c368cbc039b7dc9d4485";
    json!({
        "iss": request.issuer,
        "sub": format!("organization:{organization}:pipeline:{pipeline}:ref:{git_ref}:commit:{commit}:step:build"),
        "aud": request.audience,
        "iat": request.now,
        "nbf": request.now,
        "exp": request.now + 300,
        "organization_slug": organization,
        "pipeline_slug": pipeline,
        "build_number": 1,
        "build_branch": split_ref(git_ref).1,
        "build_commit": commit,
        "build_source": "webhook",
        "step_key": "build",
        "job_id": random_uuid(),
        "agent_id": "0184990a-4782-42b5-afc1-16715b10b1f0",
        "runner_environment": "self-hosted",
    })
}

/// An AWS principal's outbound token (`sts:GetWebIdentityToken`); AWS's own claims are nested. Issuers look like
/// `https://<uuid>.tokens.sts.global.api.aws`. Signed ES384 or RS256. Valid for five minutes.
pub fn aws_outbound(request: &TokenRequest<'_>, account: &str, role: &str) -> Value {
    let arn = format!("arn:aws:iam::{account}:role/{role}");
    json!({
        "aud": request.audience,
        "sub": arn,
        "https://sts.amazonaws.com/": {
            "aws_account": account,
            "source_region": "eu-west-1",
            "org_id": "o-abc1234567",
            "ou_path": ["o-abc1234567/r-ab12/ou-ab12-11111111/ou-ab12-22222222"],
            "principal_id": arn,
            "principal_tags": {"environment": "production", "cost-center": "engineering"},
            "request_tags": {"job": "nightly"},
        },
        "iss": request.issuer,
        "exp": request.now + 300,
        "iat": request.now,
        "jti": random_uuid(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_states_who_when_and_for_whom() {
        let request = TokenRequest::new(1_800_000_000, "https://issuer.example.test", "audience");
        let all = [
            github_actions(&request, "org/repo", "refs/heads/main"),
            github_actions_environment(&request, "org/repo", "refs/heads/main", "prod"),
            github_actions_with_ids(&request, "org/repo", "refs/heads/main"),
            gitlab_ci(&request, "group/sub/project", "refs/tags/v1"),
            hcp_terraform(&request, "org", "project", "workspace", "apply"),
            google_cloud(&request, "project", "builder", "107517467455664443765"),
            azure(&request, "tenant", "object"),
            kubernetes(&request, "prod", "web"),
            spiffe(&request, "spiffe://example.test/web"),
            circleci(&request, "org-id", "project-id", "refs/heads/main"),
            buildkite(&request, "org", "pipeline", "refs/heads/main"),
            aws_outbound(&request, "123456789012", "Role"),
        ];
        for claims in all {
            assert!(claims["sub"].as_str().is_some_and(|sub| !sub.is_empty()), "{claims}");
            assert!(claims["aud"] == "audience" || claims["aud"][0] == "audience", "{claims}");
            assert_eq!(claims["iat"], 1_800_000_000, "{claims}");
            // The Mondoo exchange wants more than 180 s left.
            assert!(claims["exp"].as_i64().is_some_and(|exp| exp > 1_800_000_180), "{claims}");
        }
        let with_ids = github_actions_with_ids(&request, "org/repo", "refs/heads/main");
        assert_eq!(with_ids["sub"], "repo:org@65/repo@74:ref:refs/heads/main");
    }
}
