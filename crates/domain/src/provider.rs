//! Providers: the issuers an admin trusts, and the rules their tokens are verified by.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::ProviderId;
use crate::issuer::IssuerUri;
use crate::scope::Scope;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// Which platform issues the tokens. Decides presets, guard rails and a few rules of freshness.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ProviderKind { $($(#[$doc])* $name),* }

        impl ProviderKind {
            /// Every kind.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// The name in GraphQL and in the store.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Reads [`Self::name`] back.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// GitHub Actions.
    GithubActions = "GITHUB_ACTIONS",
    /// GitLab CI, gitlab.com or self-managed.
    GitlabCi = "GITLAB_CI",
    /// HCP Terraform and Terraform Enterprise.
    HcpTerraform = "HCP_TERRAFORM",
    /// AWS IAM outbound identity federation (`sts:GetWebIdentityToken`).
    AwsIamOutbound = "AWS_IAM_OUTBOUND",
    /// Pre-signed AWS `GetCallerIdentity` requests; not JWTs.
    AwsSts = "AWS_STS",
    /// Google Cloud service account identity tokens.
    GoogleCloud = "GOOGLE_CLOUD",
    /// Microsoft Entra ID.
    Azure = "AZURE",
    /// Kubernetes service account tokens.
    Kubernetes = "KUBERNETES",
    /// SPIFFE JWT-SVIDs.
    Spiffe = "SPIFFE",
    /// CircleCI.
    Circleci = "CIRCLECI",
    /// Buildkite.
    Buildkite = "BUILDKITE",
    /// Any other OIDC issuer.
    CustomOidc = "CUSTOM_OIDC",
}

/// The AWS issuer of the clients' configuration.
pub const AWS_STS_ISSUER: &str = "https://sts.amazonaws.com";

impl ProviderKind {
    /// The kind that an issuer given without one (a binding's) has.
    pub fn of_issuer(issuer: &str) -> Self {
        let key = issuer.strip_suffix('/').unwrap_or(issuer);
        let host = key.strip_prefix("https://").unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
        match host {
            "sts.amazonaws.com" if key == AWS_STS_ISSUER => Self::AwsSts,
            "token.actions.githubusercontent.com" => Self::GithubActions,
            "gitlab.com" => Self::GitlabCi,
            "app.terraform.io" => Self::HcpTerraform,
            "accounts.google.com" => Self::GoogleCloud,
            "sts.windows.net" | "login.microsoftonline.com" => Self::Azure,
            "oidc.circleci.com" => Self::Circleci,
            "agent.buildkite.com" => Self::Buildkite,
            _ if key.starts_with("spiffe://") => Self::Spiffe,
            _ if host.ends_with(".tokens.sts.global.api.aws") => Self::AwsIamOutbound,
            _ => Self::CustomOidc,
        }
    }

    /// The issuer that the kind fixes or suggests.
    pub const fn default_issuer(self) -> Option<&'static str> {
        match self {
            Self::GithubActions => Some("https://token.actions.githubusercontent.com"),
            Self::GitlabCi => Some("https://gitlab.com"),
            Self::HcpTerraform => Some("https://app.terraform.io"),
            Self::AwsSts => Some(AWS_STS_ISSUER),
            Self::GoogleCloud => Some("https://accounts.google.com"),
            Self::Buildkite => Some("https://agent.buildkite.com"),
            Self::AwsIamOutbound
            | Self::Azure
            | Self::Kubernetes
            | Self::Spiffe
            | Self::Circleci
            | Self::CustomOidc => None,
        }
    }

    /// Whether platforms of this kind cache their tokens, so that a maximum age would refuse honest ones.
    pub const fn caches_tokens(self) -> bool {
        matches!(self, Self::GoogleCloud | Self::Azure | Self::Kubernetes)
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A JWS signature algorithm (RFC 7518 section 3.1, RFC 8037) that may be accepted. Asymmetric ones only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// Every algorithm a provider may accept; also the default list.
    pub const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The `alg` value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Reads an `alg` value, case-sensitively.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }
}

/// Where a provider's keys come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum KeySource {
    /// OpenID Connect discovery at the issuer.
    Discovery,
    /// A key set at this URL.
    Url(Arc<str>),
    /// A key set the admin uploaded: its JSON text.
    Uploaded(Arc<str>),
    /// None: AWS STS answers for the identity.
    Sts,
}

/// How often one subject token may be exchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplayPolicy {
    /// Any number of times while it is valid: what real clients do.
    #[default]
    Allow,
    /// Once, when it carries a `jti`; tokens without one any number of times.
    OnceIfJti,
    /// Once.
    Once,
}

impl ReplayPolicy {
    /// The name in GraphQL and in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::OnceIfJti => "ONCE_IF_JTI",
            Self::Once => "ONCE",
        }
    }

    /// Reads [`Self::name`] back.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Allow, Self::OnceIfJti, Self::Once].into_iter().find(|p| p.name() == name)
    }
}

/// A trusted issuer at a scope.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its id.
    pub id: ProviderId,
    /// Its scope; usable by trusts there and below.
    pub scope: Scope,
    /// A label.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// The platform.
    pub kind: ProviderKind,
    /// The issuer, exactly as given.
    pub issuer: IssuerUri,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Algorithms accepted; empty means [`Algorithm::ALL`].
    pub algorithms: Vec<Algorithm>,
    /// Oldest `iat` accepted, in seconds; `None` leaves it to the kind and the trust.
    pub max_token_age: Option<u32>,
    /// Longest `exp - iat` accepted, in seconds.
    pub max_token_lifetime: Option<u32>,
    /// How often one token may be exchanged.
    pub replay: ReplayPolicy,
    /// AWS only: the server-binding header must be signed and name the trust's audience.
    pub require_audience_header: bool,
    /// Disabled providers verify nothing.
    pub disabled: bool,
    /// Made by a binding; goes with its last trust.
    pub implicit: bool,
    /// Counts changes; part of the key cache's key.
    pub version: i64,
    /// Credentials issued before this time, whatever the trust, no longer work (revocation of all at once).
    pub credentials_not_before: Option<Timestamp>,
    /// What was unwise about it when saved.
    pub warnings: Vec<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it.
    pub created_by: String,
}

impl Provider {
    /// Whether tokens may be signed with `algorithm`.
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.is_empty() || self.algorithms.contains(&algorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_the_host_never_by_a_substring() {
        assert_eq!(
            ProviderKind::of_issuer("https://token.actions.githubusercontent.com/acme"),
            ProviderKind::GithubActions
        );
        assert_eq!(ProviderKind::of_issuer("https://sts.windows.net/tenant/"), ProviderKind::Azure);
        assert_eq!(ProviderKind::of_issuer("https://sts.amazonaws.com/"), ProviderKind::AwsSts);
        for other in
            ["https://evil.example/accounts.google.com", "https://gitlab.com.evil.example", "https://xgitlab.com"]
        {
            assert_eq!(ProviderKind::of_issuer(other), ProviderKind::CustomOidc, "{other}");
        }
        for kind in ProviderKind::ALL {
            assert_eq!(ProviderKind::from_name(kind.name()), Some(kind));
        }
    }
}
