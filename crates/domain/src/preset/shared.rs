//! Issuers that serve everyone: a valid signature of theirs says nothing about whose workload it is.

use super::{ClaimInfo, Pin, Preset, Tells, preset};
use crate::provider::{Provider, ProviderKind};

/// What to add to a trust so that it names its tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Safer {
    /// The claim that pins best, by [`ClaimInfo::name`].
    pub claim: &'static str,
    /// A placeholder for its value.
    pub value: &'static str,
    /// A subject that pins, with placeholders.
    pub subject: &'static str,
}

/// An issuer that serves everyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedIssuer {
    /// Who runs it, for people.
    pub name: &'static str,
    /// Whose tokens it issues: which form the subject has and what the claims are worth.
    pub kind: ProviderKind,
    /// What a trust must name.
    pub tenant: &'static str,
    /// What to write instead.
    pub safer: Safer,
    /// The claims of its tokens.
    pub claims: &'static [ClaimInfo],
    /// Leading words of a subject that are followed by the tenant, where [`Self::kind`] does not say.
    pub(crate) subject_keys: &'static [&'static str],
}

/// The tenant of Microsoft's personal accounts.
const PERSONAL_ACCOUNTS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

const SUBJECT: ClaimInfo = ClaimInfo::new("sub", r#""subject""#, "Who it is.").workload(Pin::Subject);

const fn of(kind: ProviderKind, tenant: &'static str, safer: Safer) -> SharedIssuer {
    let Preset { display_name, claims, .. } = preset(kind);
    SharedIssuer { name: display_name, kind, tenant, safer, claims, subject_keys: &[] }
}

const GITHUB: SharedIssuer = of(
    ProviderKind::GithubActions,
    "your organization or repository",
    Safer { claim: "repository_owner_id", value: "<organization id>", subject: "<organization>/<repository>" },
);
const GITLAB: SharedIssuer = of(
    ProviderKind::GitlabCi,
    "your group or project",
    Safer { claim: "project_id", value: "<project id>", subject: "project_path:<group>/<project>:*" },
);
const HCP: SharedIssuer = of(
    ProviderKind::HcpTerraform,
    "your organization, project or workspace",
    Safer {
        claim: "terraform_organization_id",
        value: "<organization id>",
        subject: "organization:<organization>:project:<project>:workspace:<workspace>:*",
    },
);
const GOOGLE: SharedIssuer = of(
    ProviderKind::GoogleCloud,
    "your service account or project",
    Safer { claim: "sub", value: "<unique id>", subject: "<unique id>" },
);
const BUILDKITE: SharedIssuer = of(
    ProviderKind::Buildkite,
    "your organization or pipeline",
    Safer {
        claim: "organization_id",
        value: "<organization id>",
        subject: "organization:<organization>:pipeline:<pipeline>:*",
    },
);
const CIRCLECI: SharedIssuer = of(
    ProviderKind::Circleci,
    "your organization or project",
    Safer {
        claim: "oidc.circleci.com/project-id",
        value: "<project id>",
        subject: "org/<organization id>/project/<project id>/*",
    },
);
const AWS: SharedIssuer = of(
    ProviderKind::AwsSts,
    "your account",
    Safer { claim: "account", value: "<account>", subject: "arn:aws:sts::<account>:assumed-role/<role>/*" },
);
const MICROSOFT: SharedIssuer = SharedIssuer {
    name: "Microsoft's issuer for personal accounts",
    kind: ProviderKind::CustomOidc,
    tenant: "the account",
    safer: Safer { claim: "oid", value: "<object id>", subject: "<subject>" },
    claims: &[
        SUBJECT,
        ClaimInfo::new("oid", r#""00000000-0000-0000-66f3-3332eca7ea81""#, "The account's object ID.")
            .workload(Pin::Whole)
            .id(),
        ClaimInfo::new("tid", r#""9188040d-6c67-4c5b-b112-36a304b66dad""#, "The same for everyone.")
            .tells(Tells::Nothing),
    ],
    subject_keys: &[],
};
const VERCEL: SharedIssuer = SharedIssuer {
    name: "Vercel's global issuer",
    kind: ProviderKind::CustomOidc,
    tenant: "your team or project",
    safer: Safer {
        claim: "project_id",
        value: "<project id>",
        subject: "owner:<team>:project:<project>:environment:production",
    },
    claims: &[
        SUBJECT,
        ClaimInfo::new("owner", r#""acme""#, "The team.").tenant(Pin::Whole).twin("owner_id"),
        ClaimInfo::new("owner_id", r#""team_7Gw5ZMzpQA8h90F832KGp7nwbuh3""#, "Its id.").tenant(Pin::Whole).id(),
        ClaimInfo::new("project", r#""api""#, "The project.")
            .tells(Tells::Workload)
            .twin("project_id")
            .caution("the name is unique only within a team"),
        ClaimInfo::new("project_id", r#""prj_7Gw5ZMBpQA8h9GF832KGp7nwbuh3""#, "Its id.").workload(Pin::Whole).id(),
        ClaimInfo::new("environment", r#""production""#, "The environment."),
    ],
    subject_keys: &["owner"],
};
const CODEFRESH: SharedIssuer = SharedIssuer {
    name: "Codefresh",
    kind: ProviderKind::CustomOidc,
    tenant: "your account",
    safer: Safer {
        claim: "account_id",
        value: "<account id>",
        subject: "account:<account id>:pipeline:<pipeline id>:*",
    },
    claims: &[
        SUBJECT,
        ClaimInfo::new("account_id", r#""628a80b693a15c0f9c13ab75""#, "The account's id.").tenant(Pin::Whole).id(),
        ClaimInfo::new("account_name", r#""acme""#, "The account's name.").tenant(Pin::Whole).twin("account_id"),
        ClaimInfo::new("pipeline_id", r#""64f88e3e34a79f4cf0ee2b7f""#, "The pipeline's id.").workload(Pin::Whole).id(),
    ],
    subject_keys: &["account"],
};
const COGNITO: SharedIssuer = SharedIssuer {
    name: "Amazon Cognito identity pools",
    kind: ProviderKind::CustomOidc,
    tenant: "the identity",
    safer: Safer { claim: "sub", value: "<region>:<identity id>", subject: "<region>:<identity id>" },
    claims: &[SUBJECT],
    subject_keys: &[],
};

/// Says whether the provider's issuer serves strangers too. Told by the issuer, not by the kind an admin chose.
pub fn shared_issuer(provider: &Provider) -> Option<&'static SharedIssuer> {
    if provider.kind == ProviderKind::AwsSts {
        return Some(&AWS);
    }
    // Tokens must carry the issuer byte for byte, but nobody should slip past by its case.
    let issuer = provider.issuer.key().as_str().to_ascii_lowercase();
    let (host, path) = issuer.strip_prefix("https://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
    match (host, path) {
        // An enterprise can have an issuer of its own, with its slug as path.
        ("token.actions.githubusercontent.com", "") => Some(&GITHUB),
        ("gitlab.com", "") => Some(&GITLAB),
        ("app.terraform.io" | "app.eu.terraform.io", "") => Some(&HCP),
        ("accounts.google.com", "") => Some(&GOOGLE),
        ("agent.buildkite.com", "") => Some(&BUILDKITE),
        // Each organization has its own, /org/<id>.
        ("oidc.circleci.com", "" | "org") => Some(&CIRCLECI),
        // Each team can have its own, /<team>.
        ("oidc.vercel.com", "") => Some(&VERCEL),
        ("oidc.codefresh.io", "") => Some(&CODEFRESH),
        ("cognito-identity.amazonaws.com", "") => Some(&COGNITO),
        ("sts.windows.net" | "login.microsoftonline.com", path)
            if path.split('/').next().is_some_and(|tenant| tenant == PERSONAL_ACCOUNTS) =>
        {
            Some(&MICROSOFT)
        }
        _ => None,
    }
}
