//! What a console's wizard needs to know about each platform: its issuer, which fields to ask for, which claims its tokens
//! carry, and conditions to start from. The facts are `sallyport_domain::preset`'s; here they are only shown.

use async_graphql::{Enum, Object, SimpleObject};
use sallyport_domain::preset::{
    ClaimInfo, Field, FieldTest, JsonType, PRESETS, Pin, Preset, REGISTERED_CLAIMS, Tells, condition_from_fields,
};
use sallyport_domain::provider::ProviderKind;
use sallyport_domain::validate::list_within;
use serde_json::Value;

use crate::error::Result;
use crate::inputs::KeyValueInput;

/// Which platform issues the tokens. Decides presets, guard rails and a few rules of freshness.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
#[graphql(name = "WIFProviderKind")]
pub(crate) enum WifProviderKind {
    /// GitHub Actions, on github.com or GitHub Enterprise Server.
    GithubActions,
    /// GitLab CI, on gitlab.com or self-managed.
    GitlabCi,
    /// HCP Terraform and Terraform Enterprise.
    HcpTerraform,
    /// AWS IAM outbound identity federation (`sts:GetWebIdentityToken`): JWTs.
    AwsIamOutbound,
    /// Pre-signed AWS `GetCallerIdentity` requests; not JWTs.
    AwsSts,
    /// Google Cloud service account identity tokens.
    GoogleCloud,
    /// Microsoft Entra ID.
    Azure,
    /// Kubernetes service account tokens.
    Kubernetes,
    /// SPIFFE JWT-SVIDs.
    Spiffe,
    /// CircleCI.
    Circleci,
    /// Buildkite.
    Buildkite,
    /// Any other OIDC issuer.
    CustomOidc,
}

macro_rules! same_kinds {
    ($($name:ident),* $(,)?) => {
        impl From<WifProviderKind> for ProviderKind {
            fn from(kind: WifProviderKind) -> Self {
                match kind { $(WifProviderKind::$name => Self::$name),* }
            }
        }

        impl From<ProviderKind> for WifProviderKind {
            fn from(kind: ProviderKind) -> Self {
                match kind { $(ProviderKind::$name => Self::$name),* }
            }
        }
    };
}

same_kinds!(
    GithubActions,
    GitlabCi,
    HcpTerraform,
    AwsIamOutbound,
    AwsSts,
    GoogleCloud,
    Azure,
    Kubernetes,
    Spiffe,
    Circleci,
    Buildkite,
    CustomOidc,
);

/// How a wizard field's value is compared with its claim.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
#[graphql(name = "WIFPresetFieldTest")]
pub(crate) enum WifPresetFieldTest {
    /// The claim equals the value; a list contains it.
    Equals,
    /// The claim begins with the value, which ends in `/` or `:`.
    StartsWith,
}

/// One field of the wizard. `buildWIFCondition` turns the answers into a condition.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFPresetField")]
pub(crate) struct WifPresetField {
    /// Its name, unique within the preset.
    name: &'static str,
    /// A short label.
    label: &'static str,
    /// One sentence of help.
    help: &'static str,
    /// Whether it must be filled in.
    required: bool,
    /// An example, as typed.
    example: &'static str,
    /// The claim that the answer is compared with.
    claim: &'static str,
    /// How it is compared.
    test: WifPresetFieldTest,
}

/// The JSON type of a claim.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
#[graphql(name = "WIFPresetClaimType")]
pub(crate) enum WifPresetClaimType {
    /// Text.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    Array,
    /// An object with members that the platform's users name.
    Object,
}

/// What a claim tells about the workload.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
#[graphql(name = "WIFPresetClaimMeaning")]
pub(crate) enum WifPresetClaimMeaning {
    /// Nothing: every identity of the issuer can have the same value.
    Nothing,
    /// How, when or why it runs: branch, event, environment.
    Circumstance,
    /// The tenant it belongs to: organization, group, account, namespace.
    Tenant,
    /// Which workload it is: repository, project, workspace, machine identity.
    Workload,
}

/// A claim that tokens of a platform carry.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFPresetClaim")]
pub(crate) struct WifPresetClaim {
    /// Its name; in a mapping it follows `jwt_claims.` or `aws_claims.`.
    name: &'static str,
    /// How a condition reads it.
    expression: String,
    /// What it holds.
    description: &'static str,
    /// An example, as it appears in a token.
    example: Value,
    /// Its JSON type.
    #[graphql(name = "type")]
    json_type: WifPresetClaimType,
    /// What it tells about the workload.
    tells: WifPresetClaimMeaning,
    /// Whether demanding it pins the tenant, on an issuer that serves everyone.
    pins_tenant: bool,
    /// Whether it is an identifier that is never given to someone else later.
    stable_id: bool,
    /// The claim with the stable identifier of what this one names.
    stable_twin: Option<&'static str>,
    /// Why it proves less than it seems to.
    caution: Option<&'static str>,
}

/// All that a console needs to offer a platform.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFPreset")]
pub(crate) struct WifPreset {
    /// The platform.
    kind: WifProviderKind,
    /// Its name for people.
    display_name: &'static str,
    /// The issuer that the platform fixes or suggests; null where it differs from customer to customer.
    issuer_uri: Option<&'static str>,
    /// Whether another issuer may be entered.
    issuer_editable: bool,
    /// What an issuer of this platform looks like, and where to find it.
    issuer_hint: &'static str,
    /// What the subject looks like.
    subject_hint: &'static str,
    /// Which audience to ask for, and how the platform is told.
    audience_hint: &'static str,
    /// What sort of token the workload presents, as a token type URN.
    subject_token_type: &'static str,
    /// The prefix of mapping keys: `jwt_claims.` or `aws_claims.`.
    mapping_prefix: &'static str,
    /// The oldest token, in seconds, that a trust accepts when nobody says otherwise; null for any age.
    default_max_token_age_seconds: Option<u32>,
    /// What to ask for.
    fields: Vec<WifPresetField>,
    /// What the tokens carry.
    claims: Vec<WifPresetClaim>,
    /// Conditions to start from.
    example_conditions: Vec<&'static str>,
    /// What to write on the platform's side, with `{audience}`, `{client_id}` and `{public_url}` to be filled in.
    setup: &'static str,
}

impl From<&Preset> for WifPreset {
    fn from(preset: &Preset) -> Self {
        let aws = preset.kind == ProviderKind::AwsSts;
        let registered = if aws { &[] } else { REGISTERED_CLAIMS };
        Self {
            kind: preset.kind.into(),
            display_name: preset.display_name,
            issuer_uri: preset.issuer,
            issuer_editable: preset.issuer_editable,
            issuer_hint: preset.issuer_hint,
            subject_hint: preset.subject_hint,
            audience_hint: preset.audience_hint,
            subject_token_type: if aws {
                "urn:ietf:params:aws:token-type:aws4_request"
            } else {
                "urn:ietf:params:oauth:token-type:jwt"
            },
            mapping_prefix: if aws { "aws_claims." } else { "jwt_claims." },
            default_max_token_age_seconds: preset.default_max_token_age(),
            fields: preset.fields.iter().map(Into::into).collect(),
            claims: preset.claims.iter().chain(registered).map(Into::into).collect(),
            example_conditions: preset.example_conditions.to_vec(),
            setup: preset.setup,
        }
    }
}

impl From<&Field> for WifPresetField {
    fn from(field: &Field) -> Self {
        Self {
            name: field.name,
            label: field.label,
            help: field.help,
            required: field.required,
            example: field.example,
            claim: field.claim,
            test: match field.test {
                FieldTest::Equals => WifPresetFieldTest::Equals,
                FieldTest::StartsWith => WifPresetFieldTest::StartsWith,
            },
        }
    }
}

impl From<&ClaimInfo> for WifPresetClaim {
    fn from(claim: &ClaimInfo) -> Self {
        Self {
            name: claim.name,
            expression: claim.expression(),
            description: claim.description,
            example: serde_json::from_str(claim.example).unwrap_or_else(|_| claim.example.into()),
            json_type: match claim.json_type {
                JsonType::String => WifPresetClaimType::String,
                JsonType::Number => WifPresetClaimType::Number,
                JsonType::Boolean => WifPresetClaimType::Boolean,
                JsonType::Array => WifPresetClaimType::Array,
                JsonType::Object => WifPresetClaimType::Object,
            },
            tells: match claim.tells {
                Tells::Nothing => WifPresetClaimMeaning::Nothing,
                Tells::Circumstance => WifPresetClaimMeaning::Circumstance,
                Tells::Tenant => WifPresetClaimMeaning::Tenant,
                Tells::Workload => WifPresetClaimMeaning::Workload,
            },
            pins_tenant: claim.pin != Pin::No,
            stable_id: claim.stable_id,
            stable_twin: claim.stable_twin,
            caution: claim.caution,
        }
    }
}

/// A condition made of the wizard's answers.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFCondition")]
pub(crate) struct WifCondition {
    /// The CEL expression.
    condition: String,
}

/// The queries.
#[derive(Default)]
pub(crate) struct PresetQuery;

#[Object]
impl PresetQuery {
    /// What a console's wizard needs to know about each platform.
    #[graphql(name = "wifPresets", complexity = "100 + child_complexity")]
    async fn wif_presets(&self) -> Vec<WifPreset> {
        PRESETS.iter().map(Into::into).collect()
    }

    /// The condition that holds for exactly the tokens whose claims have the values that the wizard was given.
    #[graphql(name = "buildWIFCondition", complexity = "50 + child_complexity")]
    async fn build_wif_condition(
        &self,
        #[graphql(desc = "The platform.")] kind: WifProviderKind,
        #[graphql(desc = "The answers: the names of the preset's fields, and what was typed.")] fields: Vec<
            KeyValueInput,
        >,
    ) -> Result<Option<WifCondition>> {
        list_within("fields", &fields)?;
        let values: Vec<(&str, &str)> =
            fields.iter().map(|f| (f.key.as_str(), f.value.as_deref().unwrap_or_default())).collect();
        let condition = condition_from_fields(kind.into(), &values)?;
        Ok(Some(WifCondition { condition }))
    }
}
