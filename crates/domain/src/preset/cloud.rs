//! Presets of clouds, clusters and everything else.

use super::{ClaimInfo, Field, JsonType, Pin, Preset, Tells, exchange};
use crate::provider::ProviderKind;

const fn claim(name: &'static str, example: &'static str, description: &'static str) -> ClaimInfo {
    ClaimInfo::new(name, example, description)
}

pub(super) const GOOGLE_CLOUD: Preset = Preset {
    kind: ProviderKind::GoogleCloud,
    display_name: "Google Cloud",
    issuer: Some("https://accounts.google.com"),
    issuer_editable: false,
    issuer_hint: "Fixed: every Google account has tokens of it.",
    subject_hint: "The service account's numeric unique ID, such as '107517467455664443765'.",
    audience_hint: "The `audience` parameter of the metadata server, or `--audiences` of `gcloud auth print-identity-token`.",
    fields: &[
        Field::required(
            "unique_id",
            "sub",
            "Unique ID",
            "107517467455664443765",
            "Of the service account: gcloud iam service-accounts describe <e-mail> --format='value(uniqueId)'",
        ),
        Field::optional(
            "email",
            "email",
            "E-mail",
            "builder@my-project.iam.gserviceaccount.com",
            "The service account's e-mail address.",
        ),
        Field::optional(
            "project_number",
            "google.compute_engine.project_number",
            "Project number",
            "739419398126",
            "Only virtual machines of this project. Needs tokens asked for with format=full.",
        ),
        Field::optional(
            "zone",
            "google.compute_engine.zone",
            "Zone",
            "europe-west3-a",
            "Only virtual machines in this zone. Needs tokens asked for with format=full.",
        ),
    ],
    claims: &[
        claim("sub", r#""107517467455664443765""#, "The account's numeric unique ID, as text.")
            .workload(Pin::Subject)
            .id(),
        claim("azp", r#""107517467455664443765""#, "For whom the token was issued.")
            .caution("for people it is the application's client ID, which everyone who uses the application shares"),
        claim("email", r#""builder@my-project.iam.gserviceaccount.com""#, "The account's e-mail address.")
            .workload(Pin::Whole)
            .twin("sub"),
        claim("email_verified", "true", "Whether Google has verified the address.")
            .typed(JsonType::Boolean)
            .tells(Tells::Nothing),
        claim("hd", r#""acme.com""#, "The Google Workspace domain; service accounts have none.").tenant(Pin::Whole),
        claim("google.compute_engine.project_id", r#""my-project""#, "The virtual machine's project.")
            .at(&["google", "compute_engine", "project_id"])
            .tenant(Pin::Whole)
            .twin("google.compute_engine.project_number"),
        claim("google.compute_engine.project_number", "739419398126", "That project's number.")
            .at(&["google", "compute_engine", "project_number"])
            .typed(JsonType::Number)
            .tenant(Pin::Whole)
            .id(),
        claim("google.compute_engine.instance_id", r#""8087716956832600000""#, "The virtual machine's id. Text.")
            .at(&["google", "compute_engine", "instance_id"])
            .workload(Pin::Whole)
            .id(),
        claim("google.compute_engine.instance_name", r#""build-1""#, "The virtual machine's name.")
            .at(&["google", "compute_engine", "instance_name"])
            .tells(Tells::Workload)
            .twin("google.compute_engine.instance_id")
            .caution("the name is unique only within a project and zone"),
        claim("google.compute_engine.instance_creation_timestamp", "1799913600", "When it was made.")
            .at(&["google", "compute_engine", "instance_creation_timestamp"])
            .typed(JsonType::Number)
            .tells(Tells::Nothing),
        claim("google.compute_engine.zone", r#""europe-west3-a""#, "Its zone.")
            .at(&["google", "compute_engine", "zone"])
            .tells(Tells::Nothing),
    ],
    claims_complete: false,
    example_conditions: &[
        "claims.sub == '107517467455664443765'",
        "claims.email == 'builder@my-project.iam.gserviceaccount.com' && claims.email_verified == true",
        "claims.google.compute_engine.project_number == 739419398126",
    ],
    setup: concat!(
        "# On a virtual machine, in Cloud Run or in GKE:
TOKEN=$(curl -sSf -G -H 'Metadata-Flavor: Google' \\
  --data-urlencode 'audience={audience}' --data-urlencode format=full \\
  http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity)
",
        exchange!()
    ),
};

pub(super) const AZURE: Preset = Preset {
    kind: ProviderKind::Azure,
    display_name: "Microsoft Azure",
    issuer: None,
    issuer_editable: true,
    issuer_hint: "https://sts.windows.net/<tenant id>/ for v1 tokens, https://login.microsoftonline.com/<tenant id>/v2.0 for v2.",
    subject_hint: "The managed identity's object ID, such as 'd1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10'.",
    audience_hint: "The `resource` asked for: the Application ID URI of an app registration in Entra, api://<application id>; list it in allowedAudiences.",
    fields: &[
        Field::required(
            "object_id",
            "sub",
            "Object ID",
            "d1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10",
            "Of the managed identity or service principal: az identity show --query principalId",
        ),
        Field::optional(
            "application_id",
            "appid",
            "Application ID",
            "6731de76-14a6-49ae-97bc-6eba6914391e",
            "v1 tokens only: the identity's client ID.",
        ),
    ],
    claims: &[
        claim("sub", r#""d1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10""#, "The identity's object ID.")
            .workload(Pin::Subject)
            .id(),
        claim("oid", r#""d1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10""#, "The identity's object ID.")
            .workload(Pin::Whole)
            .id(),
        claim("appid", r#""6731de76-14a6-49ae-97bc-6eba6914391e""#, "The application's client ID (v1).")
            .workload(Pin::Whole)
            .id(),
        claim("azp", r#""6731de76-14a6-49ae-97bc-6eba6914391e""#, "The application's client ID (v2).")
            .workload(Pin::Whole)
            .id(),
        claim("tid", r#""72f988bf-86f1-41af-91ab-2d7cd011db47""#, "The tenant: the same in every token of the issuer.")
            .tenant(Pin::Whole)
            .id(),
        claim(
            "xms_mirid",
            r#""/subscriptions/0b1f6471-…/userAssignedIdentities/build""#,
            "The identity's resource ID.",
        )
        .tells(Tells::Workload)
        .twin("oid"),
        claim("idp", r#""https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/""#, "Who authenticated it.")
            .tells(Tells::Nothing),
        claim("idtyp", r#""app""#, "app for identities without a user.").tells(Tells::Nothing),
        claim("appidacr", r#""2""#, "How the application authenticated.").tells(Tells::Nothing),
        claim("azpacr", r#""2""#, "How the application authenticated (v2).").tells(Tells::Nothing),
        claim("ver", r#""1.0""#, "The form of the token.").tells(Tells::Nothing),
        claim("aio", r#""k2RgYPgf1XP06p9pN8WFJ0w6Cx8dAgA=""#, "Entra's own.").tells(Tells::Nothing),
        claim("rh", r#""0.AVAA4ZXk-6Yl.""#, "Entra's own.").tells(Tells::Nothing),
        claim("uti", r#""b4e1c6a9d2f0""#, "The token's id.").tells(Tells::Nothing),
        claim("roles", r#"["Sallyport.Exchange"]"#, "Application roles assigned to the identity.")
            .typed(JsonType::Array)
            .tells(Tells::Workload),
        claim("groups", r#"["8f3b…"]"#, "Groups of the identity.").typed(JsonType::Array).tells(Tells::Workload),
    ],
    claims_complete: false,
    example_conditions: &[
        "claims.oid == 'd1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10'",
        "claims.appid == '6731de76-14a6-49ae-97bc-6eba6914391e' && claims.idtyp == 'app'",
    ],
    setup: concat!(
        "# On a virtual machine with a managed identity:
TOKEN=$(curl -sSf -G -H 'Metadata: true' --data-urlencode api-version=2018-02-01 \\
  --data-urlencode 'resource={audience}' http://169.254.169.254/metadata/identity/oauth2/token | jq -r .access_token)
",
        exchange!()
    ),
};

pub(super) const KUBERNETES: Preset = Preset {
    kind: ProviderKind::Kubernetes,
    display_name: "Kubernetes",
    issuer: None,
    issuer_editable: true,
    issuer_hint: "The cluster's --service-account-issuer: kubectl get --raw /.well-known/openid-configuration | jq -r .issuer. \
                  Upload the keys (kubectl get --raw /openid/v1/jwks) when it cannot be reached.",
    subject_hint: "'system:serviceaccount:<namespace>:<service account>'",
    audience_hint: "`audience` of the projected volume's `serviceAccountToken`.",
    fields: &[
        Field::required("namespace", "kubernetes.io/namespace", "Namespace", "production", "The pod's namespace."),
        Field::required(
            "service_account",
            "kubernetes.io/serviceaccount/name",
            "Service account",
            "api",
            "The pod's service account.",
        ),
        Field::optional(
            "service_account_uid",
            "kubernetes.io/serviceaccount/uid",
            "Service account UID",
            "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798",
            "Keeps an account out that is made later under the same name.",
        ),
    ],
    claims: &[
        claim("sub", r#""system:serviceaccount:production:api""#, "Namespace and service account.")
            .workload(Pin::Subject),
        claim("kubernetes.io/namespace", r#""production""#, "The pod's namespace.")
            .at(&["kubernetes.io", "namespace"])
            .tenant(Pin::Whole),
        claim("kubernetes.io/serviceaccount/name", r#""api""#, "The pod's service account.")
            .at(&["kubernetes.io", "serviceaccount", "name"])
            .tells(Tells::Workload)
            .twin("kubernetes.io/serviceaccount/uid")
            .caution("the name is unique only within a namespace"),
        claim("kubernetes.io/serviceaccount/uid", r#""14ee3fa4-a7e2-420f-9f9a-dbc4507c3798""#, "Its UID.")
            .at(&["kubernetes.io", "serviceaccount", "uid"])
            .workload(Pin::Whole)
            .id(),
        claim("kubernetes.io/pod/name", r#""api-5d9c7b6f4-x2x7k""#, "The pod.").at(&["kubernetes.io", "pod", "name"]),
        claim("kubernetes.io/pod/uid", r#""5e0bd49b-f040-43b0-99b7-22765a53f7f3""#, "The pod's UID.")
            .at(&["kubernetes.io", "pod", "uid"]),
        claim("kubernetes.io/node/name", r#""node-1""#, "The node.").at(&["kubernetes.io", "node", "name"]),
        claim("kubernetes.io/node/uid", r#""646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1""#, "The node's UID.")
            .at(&["kubernetes.io", "node", "uid"]),
        claim("kubernetes.io/warnafter", "1800003600", "When the token should have been renewed.")
            .at(&["kubernetes.io", "warnafter"])
            .typed(JsonType::Number)
            .tells(Tells::Nothing),
    ],
    claims_complete: false,
    example_conditions: &[
        "claims.sub == 'system:serviceaccount:production:api'",
        "claims['kubernetes.io'].namespace == 'production' && claims['kubernetes.io'].serviceaccount.name == 'api'",
    ],
    setup: concat!(
        "# In the pod: a volume with `projected: { sources: [{ serviceAccountToken: { path: token, audience: '{audience}' } }] }`,
# mounted at /var/run/secrets/sallyport. Then:
TOKEN=$(cat /var/run/secrets/sallyport/token)
",
        exchange!()
    ),
};

pub(super) const SPIFFE: Preset = Preset {
    kind: ProviderKind::Spiffe,
    display_name: "SPIFFE / SPIRE",
    issuer: None,
    issuer_editable: true,
    issuer_hint: "spiffe://<trust domain>, with the bundle endpoint as key set URL (SPIRE's OIDC discovery provider: https://<host>/keys).",
    subject_hint: "A SPIFFE ID, 'spiffe://prod.acme.internal/ns/production/sa/api', or 'spiffe://prod.acme.internal/ns/production/*'.",
    audience_hint: "`-audience` of `spire-agent api fetch jwt`.",
    fields: &[Field::required(
        "spiffe_id",
        "sub",
        "SPIFFE ID",
        "spiffe://prod.acme.internal/ns/production/sa/api",
        "The workload's whole SPIFFE ID.",
    )],
    claims: &[
        claim("sub", r#""spiffe://prod.acme.internal/ns/production/sa/api""#, "The SPIFFE ID.").workload(Pin::Subject)
    ],
    claims_complete: false,
    example_conditions: &[
        "claims.sub == 'spiffe://prod.acme.internal/ns/production/sa/api'",
        "url(claims.sub).path.startsWith('/ns/production/')",
    ],
    setup: concat!(
        "# Where SPIRE's agent runs:
TOKEN=$(spire-agent api fetch jwt -audience '{audience}' -output json | jq -r '.[0].svids[0].svid')
",
        exchange!()
    ),
};

pub(super) const CUSTOM_OIDC: Preset = Preset {
    kind: ProviderKind::CustomOidc,
    display_name: "Custom OIDC",
    issuer: None,
    issuer_editable: true,
    issuer_hint: "Any HTTPS issuer with OpenID Connect discovery; or give a key set URL, or upload the keys.",
    subject_hint: "The token's `sub`, whole.",
    audience_hint: "However the issuer lets a workload choose it.",
    fields: &[Field::required("subject", "sub", "Subject", "my-workload", "The token's `sub`, whole.")],
    claims: &[claim("sub", r#""my-workload""#, "Who it is.").workload(Pin::Subject)],
    claims_complete: false,
    example_conditions: &["claims.sub == 'my-workload'"],
    setup: concat!(
        "# Ask your issuer for a token with `aud` {audience}, put it into TOKEN, then:
",
        exchange!()
    ),
};
