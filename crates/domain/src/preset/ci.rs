//! Presets of the continuous integration platforms.

use super::{ClaimInfo, Field, JsonType, Pin, Preset, Tells, exchange};
use crate::provider::ProviderKind;

const fn claim(name: &'static str, example: &'static str, description: &'static str) -> ClaimInfo {
    ClaimInfo::new(name, example, description)
}

pub(super) const GITHUB_ACTIONS: Preset = Preset {
    kind: ProviderKind::GithubActions,
    display_name: "GitHub Actions",
    issuer: Some("https://token.actions.githubusercontent.com"),
    issuer_editable: true,
    issuer_hint: "Fixed for github.com. An enterprise with an issuer of its own appends its slug, \
                  https://token.actions.githubusercontent.com/<enterprise>; GitHub Enterprise Server uses https://<host>/_services/token.",
    subject_hint: "'my-org/my-repo' means every workflow of that repository; 'my-org@65/my-repo@74' pins the ids too. \
                   Or a whole subject such as 'repo:my-org/my-repo:environment:production'.",
    audience_hint: "The workflow chooses the audience when it asks for the token.",
    fields: &[
        Field::required(
            "repository",
            "repository",
            "Repository",
            "acme/api",
            "Owner and name, as in the repository's URL.",
        ),
        Field::optional(
            "repository_id",
            "repository_id",
            "Repository ID",
            "74",
            "Keeps a stranger out who registers the name later: gh api repos/acme/api --jq .id",
        ),
        Field::optional(
            "repository_owner_id",
            "repository_owner_id",
            "Organization ID",
            "65",
            "Keeps a stranger out who registers the organization's name later: gh api orgs/acme --jq .id",
        ),
        Field::optional(
            "environment",
            "environment",
            "Environment",
            "production",
            "A deployment environment; its protection rules then decide who gets in. The best limit there is.",
        ),
        Field::optional(
            "ref",
            "ref",
            "Branch or tag",
            "refs/heads/main",
            "The full reference. Keeps pull requests out.",
        ),
        Field::optional("event_name", "event_name", "Event", "push", "What starts the workflow."),
        Field::optional(
            "job_workflow_ref",
            "job_workflow_ref",
            "Reusable workflow",
            "acme/workflows/.github/workflows/deploy.yml@refs/heads/main",
            "Only jobs that run this workflow file at this reference.",
        ),
    ],
    claims: &[
        claim(
            "sub",
            r#""repo:acme/api:ref:refs/heads/main""#,
            "Repository and context; organizations can change its form.",
        )
        .workload(Pin::Subject),
        claim("repository", r#""acme/api""#, "Owner and name of the repository.")
            .workload(Pin::Path('/'))
            .twin("repository_id"),
        claim("repository_id", r#""74""#, "The repository's id. Text, not a number.").workload(Pin::Whole).id(),
        claim("repository_owner", r#""acme""#, "The organization or user that owns the repository.")
            .tenant(Pin::Whole)
            .twin("repository_owner_id"),
        claim("repository_owner_id", r#""65""#, "The owner's id. Text, not a number.").tenant(Pin::Whole).id(),
        claim("repository_visibility", r#""private""#, "public, internal or private.").tells(Tells::Nothing),
        claim("enterprise", r#""acme-inc""#, "The slug of the enterprise that has the repository.")
            .tenant(Pin::Whole)
            .twin("enterprise_id"),
        claim("enterprise_id", r#""345""#, "The enterprise's id. Text, not a number.").tenant(Pin::Whole).id(),
        claim("ref", r#""refs/heads/main""#, "The Git reference of the run.").reviewed(),
        claim("ref_type", r#""branch""#, "branch or tag.").tells(Tells::Nothing).reviewed(),
        claim("ref_protected", r#""true""#, "Whether the reference is protected: the text 'true' or 'false'.")
            .tells(Tells::Nothing)
            .reviewed(),
        claim("sha", r#""7f1d5c2a9b3e4f60718293a4b5c6d7e8f9012345""#, "The commit."),
        claim("environment", r#""production""#, "The job's deployment environment; absent without one.").reviewed(),
        claim("environment_node_id", r#""EN_kwDOAbCdEf8AAAABCg""#, "The environment's id.").reviewed(),
        claim("event_name", r#""push""#, "What started the workflow.").tells(Tells::Nothing).reviewed(),
        claim("workflow", r#""deploy""#, "The workflow's name, which every workflow chooses for itself."),
        claim(
            "workflow_ref",
            r#""acme/api/.github/workflows/deploy.yml@refs/heads/main""#,
            "The workflow file that was started, in its repository.",
        )
        .workload(Pin::Path('/'))
        .reviewed(),
        claim("workflow_sha", r#""7f1d5c2a9b3e4f60718293a4b5c6d7e8f9012345""#, "The commit of that file."),
        claim(
            "job_workflow_ref",
            r#""acme/workflows/.github/workflows/deploy.yml@refs/heads/main""#,
            "The workflow file that the job runs; for a reusable workflow, the called one.",
        )
        .reviewed()
        .caution("any repository can call a public reusable workflow"),
        claim("job_workflow_sha", r#""7f1d5c2a9b3e4f60718293a4b5c6d7e8f9012345""#, "The commit of that file."),
        claim("actor", r#""octocat""#, "Who started the run.")
            .twin("actor_id")
            .caution("a stranger can make this person start a run in the stranger's own repository"),
        claim("actor_id", r#""12""#, "The id of who started the run. Text, not a number.")
            .id()
            .caution("a stranger can make this person start a run in the stranger's own repository"),
        claim("head_ref", r#""""#, "The source branch of a pull request."),
        claim("base_ref", r#""""#, "The target branch of a pull request."),
        claim("run_id", r#""9214783651""#, "The run's id. Text, not a number."),
        claim("run_number", r#""10""#, "The run's number in its workflow. Text, not a number."),
        claim("run_attempt", r#""1""#, "Which attempt of the run. Text, not a number."),
        claim("check_run_id", r#""30412345678""#, "The job's check run. Text, not a number."),
        claim("runner_environment", r#""github-hosted""#, "github-hosted or self-hosted.").tells(Tells::Nothing),
        claim("issuer_scope", r#""enterprise""#, "For whom the issuer is.").tells(Tells::Nothing),
    ],
    claims_complete: true,
    example_conditions: &[
        "claims.repository_id == '74' && claims.environment == 'production'",
        "claims.repository == 'acme/api' && claims.ref == 'refs/heads/main'",
        "claims.repository_owner_id == '65' && claims.job_workflow_ref == 'acme/workflows/.github/workflows/deploy.yml@refs/heads/main'",
        "claims.repository_owner_id == '65' && claims.ref_protected == 'true'",
    ],
    setup: concat!(
        "# .github/workflows/<name>.yml: the job needs `permissions: { id-token: write }`; then, in a step:
TOKEN=$(curl -sSf -G -H \"Authorization: bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN\" \\
  --data-urlencode 'audience={audience}' \"$ACTIONS_ID_TOKEN_REQUEST_URL\" | jq -r .value)
",
        exchange!()
    ),
};

pub(super) const GITLAB_CI: Preset = Preset {
    kind: ProviderKind::GitlabCi,
    display_name: "GitLab CI/CD",
    issuer: Some("https://gitlab.com"),
    issuer_editable: true,
    issuer_hint: "https://gitlab.com, or the URL of your own GitLab.",
    subject_hint: "'project_path:my-group/my-project:ref_type:branch:ref:main'; 'project_path:my-group/my-project:*' means all its jobs.",
    audience_hint: "`aud` of the job's `id_tokens` entry.",
    fields: &[
        Field::required("project_path", "project_path", "Project", "acme/api", "The path, with all its groups."),
        Field::optional(
            "project_id",
            "project_id",
            "Project ID",
            "20",
            "Keeps a stranger out who registers the path later. On the project's start page.",
        ),
        Field::optional(
            "ref_protected",
            "ref_protected",
            "Protected references only",
            "true",
            "true: only protected branches and tags get in. Keep it on.",
        ),
        Field::optional("ref", "ref", "Branch or tag", "main", "The short name."),
        Field::optional("ref_type", "ref_type", "Kind of reference", "branch", "branch or tag."),
        Field::optional(
            "environment",
            "environment",
            "Environment",
            "production",
            "The environment the job deploys to.",
        ),
    ],
    claims: &[
        claim("sub", r#""project_path:acme/api:ref_type:branch:ref:main""#, "Project and reference.")
            .workload(Pin::Subject),
        claim("project_path", r#""acme/api""#, "The project with all its groups.")
            .workload(Pin::Path('/'))
            .twin("project_id"),
        claim("project_id", r#""20""#, "The project's id. Text, not a number.").workload(Pin::Whole).id(),
        claim("namespace_path", r#""acme""#, "The group or user that has the project.")
            .tenant(Pin::Path('/'))
            .twin("namespace_id"),
        claim("namespace_id", r#""72""#, "The namespace's id. Text, not a number.").tenant(Pin::Whole).id(),
        claim("job_project_path", r#""acme/api""#, "The project in which the job ran.")
            .caution("for a merge request from a fork it names the target project while the fork's code runs"),
        claim("job_project_id", r#""20""#, "The id of the project in which the job ran. Text, not a number.")
            .caution("for a merge request from a fork it names the target project while the fork's code runs"),
        claim("job_namespace_path", r#""acme""#, "The namespace in which the job ran.")
            .caution("for a merge request from a fork it names the target project while the fork's code runs"),
        claim("job_namespace_id", r#""72""#, "The id of the namespace in which the job ran. Text, not a number.")
            .caution("for a merge request from a fork it names the target project while the fork's code runs"),
        claim("job_source", r#""push""#, "What started the job.").tells(Tells::Nothing).reviewed(),
        claim("user_id", r#""1""#, "Who started the job, by id. Text, not a number.")
            .id()
            .caution("the same person can start a job in a stranger's project"),
        claim("user_login", r#""sample-user""#, "Who started the job.")
            .twin("user_id")
            .caution("the same person can start a job in a stranger's project"),
        claim("user_email", r#""sample-user@example.test""#, "Their e-mail address.")
            .twin("user_id")
            .caution("the same person can start a job in a stranger's project"),
        claim("user_access_level", r#""developer""#, "Their role in the project.").tells(Tells::Nothing),
        claim("user_identities", "[]", "Their identities elsewhere, when the instance shows them.")
            .typed(JsonType::Array),
        claim("groups_direct", r#"["acme"]"#, "The groups they are direct members of.")
            .typed(JsonType::Array)
            .caution("members of the group can start a job in any project"),
        claim("pipeline_id", r#""574""#, "The pipeline's id. Text, not a number."),
        claim("pipeline_source", r#""push""#, "What started the pipeline.").tells(Tells::Nothing).reviewed(),
        claim("job_id", r#""302""#, "The job's id. Text, not a number."),
        claim("ref", r#""main""#, "The branch or tag, short.").reviewed(),
        claim("ref_type", r#""branch""#, "branch or tag.").tells(Tells::Nothing),
        claim("ref_path", r#""refs/heads/main""#, "The full reference.").reviewed(),
        claim("ref_protected", r#""true""#, "Whether the reference is protected: the text 'true' or 'false'.")
            .tells(Tells::Nothing)
            .reviewed(),
        claim("environment", r#""production""#, "The environment; absent without one.").reviewed(),
        claim("environment_protected", r#""true""#, "Whether it is protected: the text 'true' or 'false'.")
            .tells(Tells::Nothing)
            .reviewed(),
        claim("environment_action", r#""start""#, "What the job does with it.").tells(Tells::Nothing),
        claim("deployment_tier", r#""production""#, "The tier that the job declares.").tells(Tells::Nothing).reviewed(),
        claim("runner_id", "1", "The runner's id: a number.").typed(JsonType::Number),
        claim("runner_environment", r#""gitlab-hosted""#, "gitlab-hosted or self-hosted.").tells(Tells::Nothing),
        claim("sha", r#""714a629c0b401fdce83e847fc9589983fc6f46bc""#, "The commit."),
        claim("project_visibility", r#""private""#, "public, internal or private.").tells(Tells::Nothing),
        claim(
            "ci_config_ref_uri",
            r#""gitlab.com/acme/api//.gitlab-ci.yml@refs/heads/main""#,
            "The file that defines the pipeline.",
        )
        .caution("any project can use the configuration file of another"),
        claim("ci_config_sha", r#""714a629c0b401fdce83e847fc9589983fc6f46bc""#, "The commit of that file."),
    ],
    claims_complete: true,
    example_conditions: &[
        "claims.project_id == '20' && claims.ref_protected == 'true'",
        "claims.project_path == 'acme/api' && claims.ref_type == 'branch' && claims.ref == 'main'",
        "claims.namespace_id == '72' && claims.environment == 'production'",
    ],
    setup: concat!(
        "# .gitlab-ci.yml: the job needs `id_tokens: { TOKEN: { aud: '{audience}' } }`; then, in its script:
",
        exchange!()
    ),
};

pub(super) const HCP_TERRAFORM: Preset = Preset {
    kind: ProviderKind::HcpTerraform,
    display_name: "HCP Terraform",
    issuer: Some("https://app.terraform.io"),
    issuer_editable: true,
    issuer_hint: "https://app.terraform.io, https://app.eu.terraform.io, or the URL of your Terraform Enterprise.",
    subject_hint: "'organization:my-org:project:my-project:workspace:my-workspace:run_phase:apply'",
    audience_hint: "The workspace variable TFC_WORKLOAD_IDENTITY_AUDIENCE.",
    fields: &[
        Field::required(
            "organization",
            "terraform_organization_name",
            "Organization",
            "acme",
            "The organization's name.",
        ),
        Field::required("workspace", "terraform_workspace_name", "Workspace", "production", "The workspace's name."),
        Field::optional("project", "terraform_project_name", "Project", "platform", "The project's name."),
        Field::optional(
            "workspace_id",
            "terraform_workspace_id",
            "Workspace ID",
            "ws-mbsd5E3Ktt5Rg2Xm",
            "Keeps a stranger out who registers the organization's name later. In the workspace's settings.",
        ),
        Field::optional(
            "run_phase",
            "terraform_run_phase",
            "Run phase",
            "apply",
            "apply keeps speculative plans out. Make a second trust, with fewer roles, for plan.",
        ),
    ],
    claims: &[
        claim("sub", r#""organization:acme:project:p:workspace:production:run_phase:apply""#, "The run, in full.")
            .workload(Pin::Subject),
        claim("terraform_organization_id", r#""org-GRNbCjYNpBB6NEBH""#, "The organization's id.")
            .tenant(Pin::Whole)
            .id(),
        claim("terraform_organization_name", r#""acme""#, "The organization's name.")
            .tenant(Pin::Whole)
            .twin("terraform_organization_id"),
        claim("terraform_project_id", r#""prj-vegSA59s1XPwMr2t""#, "The project's id.").tenant(Pin::Whole).id(),
        claim("terraform_project_name", r#""platform""#, "The project's name.")
            .tells(Tells::Tenant)
            .twin("terraform_project_id")
            .caution("the name is unique only within an organization"),
        claim("terraform_workspace_id", r#""ws-mbsd5E3Ktt5Rg2Xm""#, "The workspace's id.").workload(Pin::Whole).id(),
        claim("terraform_workspace_name", r#""production""#, "The workspace's name.")
            .tells(Tells::Workload)
            .twin("terraform_workspace_id")
            .caution("the name is unique only within an organization"),
        claim(
            "terraform_full_workspace",
            r#""organization:acme:project:p:workspace:production""#,
            "Organization, project and workspace.",
        )
        .workload(Pin::Subject)
        .twin("terraform_workspace_id"),
        claim("terraform_run_id", r#""run-VRRcTRNNsCDmoEHU""#, "The run's id."),
        claim("terraform_run_phase", r#""apply""#, "plan or apply.").tells(Tells::Nothing).reviewed(),
    ],
    claims_complete: true,
    example_conditions: &[
        "claims.terraform_workspace_id == 'ws-mbsd5E3Ktt5Rg2Xm' && claims.terraform_run_phase == 'apply'",
        "claims.terraform_organization_name == 'acme' && claims.terraform_workspace_name == 'production'",
        "claims.terraform_organization_id == 'org-GRNbCjYNpBB6NEBH' && claims.terraform_project_name == 'platform' && claims.terraform_run_phase == 'apply'",
    ],
    setup: "# Environment variables of the workspace; HCP Terraform then puts a token into each run.
TFC_WORKLOAD_IDENTITY_AUDIENCE={audience}
# ConductorOne's Terraform provider needs nothing but:
#   client_id = \"{client_id}\"
# and exchanges TFC_WORKLOAD_IDENTITY_TOKEN at {public_url}/auth/v1/token by itself.
",
};

pub(super) const CIRCLECI: Preset = Preset {
    kind: ProviderKind::Circleci,
    display_name: "CircleCI",
    issuer: None,
    issuer_editable: true,
    issuer_hint: "https://oidc.circleci.com/org/<organization id>. The id is in the organization's settings.",
    subject_hint: "'org/<organization id>/project/<project id>/*' means every job of that project.",
    audience_hint: "The organization's id, unless the job asks for another: circleci run oidc get --claims '{\"aud\": \"…\"}'.",
    fields: &[
        Field::required(
            "project_id",
            "oidc.circleci.com/project-id",
            "Project ID",
            "1d6f4c3a-3b0e-4f9b-8a55-7d0f4f1c2b3a",
            "In the project's settings.",
        ),
        Field::optional(
            "context_id",
            "oidc.circleci.com/context-ids",
            "Context ID",
            "3b6e4c1a-0c7f-4f0e-8f0a-2f4f6d1c9b7e",
            "A context the job must use; its restrictions then decide who gets in.",
        ),
        Field::optional(
            "vcs_ref",
            "oidc.circleci.com/vcs-ref",
            "Branch or tag",
            "refs/heads/main",
            "The full reference.",
        ),
    ],
    claims: &[
        claim("sub", r#""org/5ab1.../project/1d6f.../user/58c7...""#, "Organization, project and user.")
            .workload(Pin::Subject),
        claim("oidc.circleci.com/org-id", r#""5ab1f0a2-0c52-4f3c-93a5-1f7a7c1f4c11""#, "The organization's id.")
            .tenant(Pin::Whole)
            .id(),
        claim("oidc.circleci.com/project-id", r#""1d6f4c3a-3b0e-4f9b-8a55-7d0f4f1c2b3a""#, "The project's id.")
            .workload(Pin::Whole)
            .id(),
        claim("oidc.circleci.com/context-ids", r#"["3b6e4c1a-0c7f-4f0e-8f0a-2f4f6d1c9b7e"]"#, "The job's contexts.")
            .typed(JsonType::Array)
            .reviewed(),
        claim("oidc.circleci.com/vcs-origin", r#""github.com/acme/api""#, "The repository.")
            .tells(Tells::Workload)
            .twin("oidc.circleci.com/project-id"),
        claim("oidc.circleci.com/vcs-ref", r#""refs/heads/main""#, "The Git reference.").reviewed(),
        claim("oidc.circleci.com/ssh-rerun", "false", "Whether someone reran the job with SSH access.")
            .typed(JsonType::Boolean)
            .tells(Tells::Nothing),
        claim("oidc.circleci.com/job-id", r#""0f5d1f8e-94ad-4d29-8a5e-7a5c1f9f3a60""#, "The job's id."),
        claim("oidc.circleci.com/workflow-id", r#""f27f2d49-8a1b-4f55-9f7e-2b60c8e1a3d4""#, "The workflow run's id."),
        claim("oidc.circleci.com/pipeline-id", r#""9e3b0d9b-2a0d-4d8b-8f6a-1c5b3e7f9a20""#, "The pipeline run's id."),
        claim(
            "oidc.circleci.com/pipeline-definition-id",
            r#""8f2d7a14-5b7c-4c59-9d0a-6d9c2f0b7a11""#,
            "The pipeline definition's id.",
        )
        .id(),
    ],
    claims_complete: true,
    example_conditions: &[
        "claims['oidc.circleci.com/project-id'] == '1d6f4c3a-3b0e-4f9b-8a55-7d0f4f1c2b3a' && claims['oidc.circleci.com/vcs-ref'] == 'refs/heads/main'",
        "claims['oidc.circleci.com/project-id'] == '1d6f4c3a-3b0e-4f9b-8a55-7d0f4f1c2b3a' && '3b6e4c1a-0c7f-4f0e-8f0a-2f4f6d1c9b7e' in claims['oidc.circleci.com/context-ids']",
    ],
    setup: concat!(
        "# In a job's step:
TOKEN=$(circleci run oidc get --claims '{\"aud\": \"{audience}\"}')
",
        exchange!()
    ),
};

pub(super) const BUILDKITE: Preset = Preset {
    kind: ProviderKind::Buildkite,
    display_name: "Buildkite",
    issuer: Some("https://agent.buildkite.com"),
    issuer_editable: false,
    issuer_hint: "Fixed.",
    subject_hint: "'organization:my-org:pipeline:my-pipeline:*' means every job of that pipeline.",
    audience_hint: "`--audience` of `buildkite-agent oidc request-token`.",
    fields: &[
        Field::required(
            "organization",
            "organization_slug",
            "Organization",
            "acme",
            "The slug, as in the organization's URL.",
        ),
        Field::required("pipeline", "pipeline_slug", "Pipeline", "deploy", "The slug, as in the pipeline's URL."),
        Field::optional(
            "pipeline_id",
            "pipeline_id",
            "Pipeline ID",
            "0184990a-4782-42b5-afc1-16715b10b1ff",
            "Keeps a stranger out who registers the names later. In the pipeline's settings; jobs must ask for it with --claim pipeline_id.",
        ),
        Field::optional("branch", "build_branch", "Branch", "main", "Only builds of this branch."),
        Field::optional("step_key", "step_key", "Step key", "deploy", "Only this step."),
    ],
    claims: &[
        claim("sub", r#""organization:acme:pipeline:deploy:ref:refs/heads/main:commit:9f3182:step:build""#, "The job.")
            .workload(Pin::Subject),
        claim("organization_slug", r#""acme""#, "The organization's slug.").tenant(Pin::Whole).twin("organization_id"),
        claim(
            "organization_id",
            r#""0184990a-477b-4fa8-9968-496074483cee""#,
            "The organization's id; only when asked for with --claim.",
        )
        .tenant(Pin::Whole)
        .id(),
        claim("pipeline_slug", r#""deploy""#, "The pipeline's slug.")
            .tells(Tells::Workload)
            .twin("pipeline_id")
            .caution("the slug is unique only within an organization"),
        claim(
            "pipeline_id",
            r#""0184990a-4782-42b5-afc1-16715b10b1ff""#,
            "The pipeline's id; only when asked for with --claim.",
        )
        .workload(Pin::Whole)
        .id(),
        claim("cluster_id", r#""0184990a-4782-42b5-afc1-16715b10b100""#, "The cluster's id.").tenant(Pin::Whole).id(),
        claim("cluster_name", r#""default""#, "The cluster's name.")
            .twin("cluster_id")
            .caution("the name is unique only within an organization"),
        claim("queue_id", r#""0184990a-4782-42b5-afc1-16715b10b101""#, "The queue's id.").tenant(Pin::Whole).id(),
        claim("queue_key", r#""default""#, "The queue's key.")
            .twin("queue_id")
            .caution("the key is unique only within a cluster"),
        claim("build_number", "1", "The build's number.").typed(JsonType::Number),
        claim("build_branch", r#""main""#, "The branch.").reviewed(),
        claim("build_tag", r#""v1.0""#, "The tag.").reviewed(),
        claim("build_commit", r#""9f3182061f1e2cca4702c368cbc039b7dc9d4485""#, "The commit."),
        claim("build_source", r#""webhook""#, "What started the build.").tells(Tells::Nothing),
        claim("step_key", r#""build""#, "The step's key."),
        claim("job_id", r#""0184990a-4782-42b5-afc1-16715b10b1f1""#, "The job's id."),
        claim("agent_id", r#""0184990a-4782-42b5-afc1-16715b10b1f0""#, "The agent's id."),
        claim("runner_environment", r#""self-hosted""#, "self-hosted or buildkite-hosted.").tells(Tells::Nothing),
    ],
    claims_complete: true,
    example_conditions: &[
        "claims.pipeline_id == '0184990a-4782-42b5-afc1-16715b10b1ff' && claims.build_branch == 'main'",
        "claims.organization_id == '0184990a-477b-4fa8-9968-496074483cee' && claims.pipeline_slug == 'deploy'",
    ],
    setup: concat!(
        "# In a step's script (in the pipeline's YAML every $ would have to be doubled):
TOKEN=$(buildkite-agent oidc request-token --audience '{audience}' --claim organization_id --claim pipeline_id)
",
        exchange!()
    ),
};
