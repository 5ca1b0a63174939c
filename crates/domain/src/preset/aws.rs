//! Presets of AWS.

use super::{ClaimInfo, Field, JsonType, Pin, Preset, Tells, exchange};
use crate::provider::{AWS_STS_ISSUER, ProviderKind};

/// The member that holds all of AWS's own claims.
const NAMESPACE: &str = "https://sts.amazonaws.com/";

const fn claim(name: &'static str, example: &'static str, description: &'static str) -> ClaimInfo {
    ClaimInfo::new(name, example, description)
}

pub(super) const AWS_IAM_OUTBOUND: Preset = Preset {
    kind: ProviderKind::AwsIamOutbound,
    display_name: "AWS IAM outbound federation",
    issuer: None,
    issuer_editable: true,
    issuer_hint: "One for each account, https://<id>.tokens.sts.global.api.aws: aws iam get-outbound-web-identity-federation-info",
    subject_hint: "The role's ARN: 'arn:aws:iam::123456789012:role/deploy'.",
    audience_hint: "`--audience` of `aws sts get-web-identity-token`.",
    fields: &[
        Field::required("role_arn", "sub", "Role ARN", "arn:aws:iam::123456789012:role/deploy", "The IAM role's ARN."),
        Field::required(
            "account",
            "https://sts.amazonaws.com/.aws_account",
            "Account",
            "123456789012",
            "The account's twelve digits.",
        ),
        Field::optional(
            "organization",
            "https://sts.amazonaws.com/.org_id",
            "Organization",
            "o-abc1234567",
            "The AWS organization the account must still belong to.",
        ),
    ],
    claims: &[
        claim("sub", r#""arn:aws:iam::123456789012:role/deploy""#, "The principal's ARN.").workload(Pin::Subject),
        claim("https://sts.amazonaws.com/.aws_account", r#""123456789012""#, "The account.")
            .at(&[NAMESPACE, "aws_account"])
            .tenant(Pin::Whole)
            .id(),
        claim("https://sts.amazonaws.com/.org_id", r#""o-abc1234567""#, "The AWS organization.")
            .at(&[NAMESPACE, "org_id"])
            .tenant(Pin::Whole)
            .id(),
        claim(
            "https://sts.amazonaws.com/.ou_path",
            r#"["o-abc1234567/r-ab12/ou-ab12-11111111"]"#,
            "Organizational units.",
        )
        .at(&[NAMESPACE, "ou_path"])
        .typed(JsonType::Array)
        .tells(Tells::Tenant),
        claim(
            "https://sts.amazonaws.com/.principal_id",
            r#""arn:aws:iam::123456789012:role/deploy""#,
            "The principal.",
        )
        .at(&[NAMESPACE, "principal_id"])
        .workload(Pin::Subject),
        claim("https://sts.amazonaws.com/.source_region", r#""eu-west-1""#, "The region the token was asked for in.")
            .at(&[NAMESPACE, "source_region"])
            .tells(Tells::Nothing),
        claim("https://sts.amazonaws.com/.principal_tags", r#"{"team": "ops"}"#, "The principal's tags.")
            .at(&[NAMESPACE, "principal_tags"])
            .typed(JsonType::Object),
        claim("https://sts.amazonaws.com/.request_tags", r#"{"job": "nightly"}"#, "Tags the caller chose freely.")
            .at(&[NAMESPACE, "request_tags"])
            .typed(JsonType::Object)
            .caution("whoever asks for the token chooses them"),
        claim(
            "https://sts.amazonaws.com/.lambda_source_function_arn",
            r#""arn:aws:lambda:eu-west-1:123456789012:function:f""#,
            "The Lambda function the caller runs in.",
        )
        .at(&[NAMESPACE, "lambda_source_function_arn"])
        .tells(Tells::Workload),
        claim(
            "https://sts.amazonaws.com/.ec2_source_instance_arn",
            r#""arn:aws:ec2:eu-west-1:123456789012:instance/i-0abc""#,
            "The EC2 instance the caller runs on.",
        )
        .at(&[NAMESPACE, "ec2_source_instance_arn"])
        .tells(Tells::Workload),
    ],
    claims_complete: false,
    example_conditions: &[
        "claims.sub == 'arn:aws:iam::123456789012:role/deploy' && claims['https://sts.amazonaws.com/'].aws_account == '123456789012'",
        "claims.sub == 'arn:aws:iam::123456789012:role/deploy' && claims['https://sts.amazonaws.com/'].org_id == 'o-abc1234567'",
    ],
    setup: concat!(
        "# Once for the account: aws iam enable-outbound-web-identity-federation
# The role needs sts:GetWebIdentityToken, limited to sts:IdentityTokenAudience = {audience}; STS's global endpoint
# does not have the call, so set a region. Then:
TOKEN=$(aws sts get-web-identity-token --audience '{audience}' --signing-algorithm ES384 \\
  --query WebIdentityToken --output text)
",
        exchange!()
    ),
};

pub(super) const AWS_STS: Preset = Preset {
    kind: ProviderKind::AwsSts,
    display_name: "AWS (signed GetCallerIdentity)",
    issuer: Some(AWS_STS_ISSUER),
    issuer_editable: false,
    issuer_hint: "Fixed: every AWS account answers to it.",
    subject_hint: "'arn:aws:sts::123456789012:assumed-role/my-role/*' means every session of that role.",
    audience_hint: "Put it into the signed header X-Sallyport-Audience, or leave it out where the provider allows that.",
    fields: &[
        Field::required("account", "account", "Account", "123456789012", "The account's twelve digits."),
        Field::required(
            "role",
            "arn",
            "Assumed role",
            "arn:aws:sts::123456789012:assumed-role/deploy/",
            "The role's session ARN up to the session's name, which the caller chooses.",
        )
        .prefix(),
        Field::optional(
            "role_id",
            "userid",
            "Role ID",
            "AROAEXAMPLEID:",
            "Keeps a role out that is made later under the same name: aws iam get-role, and a colon.",
        )
        .prefix(),
    ],
    claims: &[
        claim("account", r#""123456789012""#, "The account.").tenant(Pin::Whole).id(),
        claim("arn", r#""arn:aws:sts::123456789012:assumed-role/deploy/i-0abc""#, "The caller's ARN.")
            .workload(Pin::Subject),
        claim("userid", r#""AROAEXAMPLEID:i-0abc""#, "The caller's unique id, and for roles the session's name.")
            .workload(Pin::Path(':'))
            .id(),
    ],
    claims_complete: true,
    example_conditions: &[
        "claims.account == '123456789012' && claims.arn.startsWith('arn:aws:sts::123456789012:assumed-role/deploy/')",
        "claims.userid.startsWith('AROAEXAMPLEID:')",
    ],
    setup: concat!(
        "# cnspec and mql sign the request by themselves, with whatever credentials the AWS SDK finds. Others sign a
# GetCallerIdentity request with the header X-Sallyport-Audience: {audience}, write it to request.json as the AWS
# guide shows, and exchange that:
",
        exchange!("urn:ietf:params:aws:token-type:aws4_request", "subject_token@request.json")
    ),
};
