//! Presets: what is known about each platform. One table feeds the console's wizard, the condition it writes
//! and the guard rails of [`lint`](crate::lint), so that they cannot disagree about what a claim is worth.
//!
//! Everything is static. [`preset`] is one platform, [`PRESETS`] all of them, [`shared_issuer`] says whether an issuer
//! serves strangers too, and [`condition_from_fields`] turns the wizard's answers into a condition.

use std::slice;

use crate::condition::Condition;
use crate::provider::ProviderKind;
use crate::trust::TRUST_TOKEN_AGE;
use crate::validate::{FieldError, TEXT_MAX, joined};

mod aws;
mod ci;
mod cloud;
mod shared;
#[cfg(test)]
mod tests;

pub use shared::{Safer, SharedIssuer, shared_issuer};

/// The JSON type of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JsonType {
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

impl JsonType {
    /// The name in GraphQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "STRING",
            Self::Number => "NUMBER",
            Self::Boolean => "BOOLEAN",
            Self::Array => "ARRAY",
            Self::Object => "OBJECT",
        }
    }
}

/// What a claim tells about the workload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tells {
    /// Nothing: every identity of the issuer can have the same value.
    Nothing,
    /// How, when or why it runs: branch, event, environment, who pressed the button.
    Circumstance,
    /// The tenant it belongs to: organization, group, account, namespace.
    Tenant,
    /// Which workload it is: repository, project, workspace, machine identity.
    Workload,
}

/// How a claim can pin the tenant on an issuer that serves everyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// Not at all: a stranger can have the same value.
    No,
    /// By its whole value.
    Whole,
    /// By its whole value, or by a beginning that ends at this delimiter.
    Path(char),
    /// As the subject: a whole one, or a beginning that names the tenant.
    Subject,
}

/// One claim of a platform's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimInfo {
    /// The name as claim mappings spell it: `repository`, `kubernetes.io/namespace`.
    pub name: &'static str,
    /// What it holds.
    pub description: &'static str,
    /// An example value, as JSON.
    pub example: &'static str,
    /// Its JSON type.
    pub json_type: JsonType,
    /// What it tells.
    pub tells: Tells,
    /// Whether and how it pins the tenant on a shared issuer.
    pub pin: Pin,
    /// Whether it is an identifier that is never given to someone else later.
    pub stable_id: bool,
    /// The claim with the stable identifier of what this one names.
    pub stable_twin: Option<&'static str>,
    /// Whether limiting it keeps out code that nobody has reviewed yet (pull requests, plans, any branch).
    pub reviewed: bool,
    /// Why it proves less than it seems to.
    pub caution: Option<&'static str>,
    /// Its path when that is not just the name.
    nested: &'static [&'static str],
}

impl ClaimInfo {
    /// A text claim that tells a circumstance; the methods below change that. `example` is JSON.
    const fn new(name: &'static str, example: &'static str, description: &'static str) -> Self {
        Self {
            name,
            description,
            example,
            json_type: JsonType::String,
            tells: Tells::Circumstance,
            pin: Pin::No,
            stable_id: false,
            stable_twin: None,
            reviewed: false,
            caution: None,
            nested: &[],
        }
    }

    const fn typed(mut self, json_type: JsonType) -> Self {
        self.json_type = json_type;
        self
    }
    const fn tells(mut self, tells: Tells) -> Self {
        self.tells = tells;
        self
    }
    const fn tenant(self, pin: Pin) -> Self {
        self.tells(Tells::Tenant).pinned(pin)
    }
    const fn workload(self, pin: Pin) -> Self {
        self.tells(Tells::Workload).pinned(pin)
    }
    const fn pinned(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }
    const fn id(mut self) -> Self {
        self.stable_id = true;
        self
    }
    const fn twin(mut self, claim: &'static str) -> Self {
        self.stable_twin = Some(claim);
        self
    }
    const fn reviewed(mut self) -> Self {
        self.reviewed = true;
        self
    }
    const fn caution(mut self, why: &'static str) -> Self {
        self.caution = Some(why);
        self
    }
    const fn at(mut self, path: &'static [&'static str]) -> Self {
        self.nested = path;
        self
    }

    /// The path below `claims`.
    pub const fn path(&self) -> &[&'static str] {
        if self.nested.is_empty() { slice::from_ref(&self.name) } else { self.nested }
    }

    /// Whether it names the tenant or something inside it so that no stranger can have the same value.
    pub const fn pins_tenant(&self) -> bool {
        !matches!(self.pin, Pin::No)
    }

    /// How a condition reads it: `claims.repository`, `claims['kubernetes.io'].namespace`.
    pub fn expression(&self) -> String {
        expression(self.path())
    }
}

/// The claims that every JWT may carry (RFC 7519 section 4.1), without `sub`, whose meaning is the platform's.
pub const REGISTERED_CLAIMS: &[ClaimInfo] = &[
    ClaimInfo::new("iss", r#""https://issuer.example""#, "The issuer. The provider has checked it already.")
        .tells(Tells::Nothing),
    ClaimInfo::new("aud", r#""sallyport.example.com""#, "The audience: whoever asks for a token chooses it freely.")
        .tells(Tells::Nothing),
    ClaimInfo::new("exp", "1800000300", "When the token ends, in seconds since 1970.")
        .typed(JsonType::Number)
        .tells(Tells::Nothing),
    ClaimInfo::new("iat", "1800000000", "When it was issued, in seconds since 1970.")
        .typed(JsonType::Number)
        .tells(Tells::Nothing),
    ClaimInfo::new("nbf", "1800000000", "From when it is valid, in seconds since 1970.")
        .typed(JsonType::Number)
        .tells(Tells::Nothing),
    ClaimInfo::new("jti", r#""0d9c1f66-32a1-4f3f-9f4b-0b8c6f9a7b1e""#, "The token's own identifier.")
        .tells(Tells::Nothing),
];

/// How a wizard field's value is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldTest {
    /// The claim equals the value; a list contains it.
    Equals,
    /// The claim begins with the value, which ends in `/` or `:`.
    StartsWith,
}

/// One field of the wizard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name, unique within the preset.
    pub name: &'static str,
    /// A short label.
    pub label: &'static str,
    /// One sentence of help.
    pub help: &'static str,
    /// Whether it must be filled in.
    pub required: bool,
    /// An example value, as typed.
    pub example: &'static str,
    /// The claim it is compared with, by [`ClaimInfo::name`].
    pub claim: &'static str,
    /// How.
    pub test: FieldTest,
}

impl Field {
    const fn required(
        name: &'static str,
        claim: &'static str,
        label: &'static str,
        example: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, label, help, required: true, example, claim, test: FieldTest::Equals }
    }
    const fn optional(
        name: &'static str,
        claim: &'static str,
        label: &'static str,
        example: &'static str,
        help: &'static str,
    ) -> Self {
        Self { required: false, ..Self::required(name, claim, label, example, help) }
    }
    const fn prefix(mut self) -> Self {
        self.test = FieldTest::StartsWith;
        self
    }
}

/// What is known about one platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preset {
    /// The kind of provider.
    pub kind: ProviderKind,
    /// The platform's name, for people.
    pub display_name: &'static str,
    /// The issuer that is fixed or suggested.
    pub issuer: Option<&'static str>,
    /// Whether another issuer may be given.
    pub issuer_editable: bool,
    /// What the issuer looks like and where to find it.
    pub issuer_hint: &'static str,
    /// What the subject looks like.
    pub subject_hint: &'static str,
    /// Which audience to ask for, and how the platform is told.
    pub audience_hint: &'static str,
    /// The wizard's fields, in order.
    pub fields: &'static [Field],
    /// The platform's own claims and `sub`; [`REGISTERED_CLAIMS`] come on top, except for AWS STS.
    pub claims: &'static [ClaimInfo],
    /// Whether [`Self::claims`] is complete, so that another name is probably a slip.
    pub claims_complete: bool,
    /// Conditions to start from; each passes the linter.
    pub example_conditions: &'static [&'static str],
    /// What to write on the platform's side, with `{audience}`, `{client_id}` and `{public_url}`.
    pub setup: &'static str,
}

impl Preset {
    /// The oldest token, in seconds, that a trust made from this preset accepts when nobody says otherwise.
    pub fn default_max_token_age(&self) -> Option<u32> {
        (!self.kind.caches_tokens()).then_some(TRUST_TOKEN_AGE)
    }

    /// [`Self::setup`] with its placeholders filled in.
    pub fn setup_for(&self, audience: &str, client_id: &str, public_url: &str) -> String {
        self.setup.replace("{audience}", audience).replace("{client_id}", client_id).replace("{public_url}", public_url)
    }

    /// The claim called `name` in [`ClaimInfo::name`]'s spelling.
    pub fn claim(&self, name: &str) -> Option<&'static ClaimInfo> {
        self.claims.iter().find(|claim| claim.name == name)
    }
}

/// Every platform, in the order of [`ProviderKind::ALL`].
pub static PRESETS: [Preset; ProviderKind::ALL.len()] = [
    ci::GITHUB_ACTIONS,
    ci::GITLAB_CI,
    ci::HCP_TERRAFORM,
    aws::AWS_IAM_OUTBOUND,
    aws::AWS_STS,
    cloud::GOOGLE_CLOUD,
    cloud::AZURE,
    cloud::KUBERNETES,
    cloud::SPIFFE,
    ci::CIRCLECI,
    ci::BUILDKITE,
    cloud::CUSTOM_OIDC,
];

/// What is known about `kind`.
pub const fn preset(kind: ProviderKind) -> &'static Preset {
    match kind {
        ProviderKind::GithubActions => &PRESETS[0],
        ProviderKind::GitlabCi => &PRESETS[1],
        ProviderKind::HcpTerraform => &PRESETS[2],
        ProviderKind::AwsIamOutbound => &PRESETS[3],
        ProviderKind::AwsSts => &PRESETS[4],
        ProviderKind::GoogleCloud => &PRESETS[5],
        ProviderKind::Azure => &PRESETS[6],
        ProviderKind::Kubernetes => &PRESETS[7],
        ProviderKind::Spiffe => &PRESETS[8],
        ProviderKind::Circleci => &PRESETS[9],
        ProviderKind::Buildkite => &PRESETS[10],
        ProviderKind::CustomOidc => &PRESETS[11],
    }
}

/// The condition that holds for exactly the tokens whose claims have these values: `(field name, value)`. Optional
/// fields may be left out or empty; values are taken literally, whatever characters they hold.
///
/// # Errors
/// Names the wizard's field: unknown, given twice, missing, too long, of the wrong form; or `condition` when the whole
/// would exceed the limits of conditions.
pub fn condition_from_fields(kind: ProviderKind, values: &[(&str, &str)]) -> Result<String, FieldError> {
    let preset = preset(kind);
    for (index, (name, _)) in values.iter().enumerate() {
        if !preset.fields.iter().any(|field| field.name == *name) {
            let names = joined(preset.fields.iter().map(|field| field.name));
            return Err(FieldError::new(*name, format!("is no field of {}; there are {names}", kind.name())));
        }
        if values.iter().take(index).any(|(other, _)| other == name) {
            return Err(FieldError::new(*name, "is given twice"));
        }
    }
    let mut tests = Vec::new();
    for field in preset.fields {
        let value = values.iter().find(|(name, _)| *name == field.name).map(|(_, value)| *value).unwrap_or_default();
        if value.trim().is_empty() {
            if field.required {
                return Err(FieldError::new(field.name, format!("must not be empty; an example is {}", field.example)));
            }
            continue;
        }
        if value.len() > TEXT_MAX {
            return Err(FieldError::new(
                field.name,
                format!("is {} bytes long; at most {TEXT_MAX} are allowed", value.len()),
            ));
        }
        let Some(claim) = preset.claim(field.claim) else { continue };
        tests.push(test(field, claim, value)?);
    }
    let condition = tests.join(" && ");
    Condition::compile("condition", &condition)?;
    Ok(condition)
}

fn test(field: &Field, claim: &ClaimInfo, value: &str) -> Result<String, FieldError> {
    let wrong = |message: &str| FieldError::new(field.name, format!("{message}, such as {}", field.example));
    let expression = claim.expression();
    Ok(match (field.test, claim.json_type) {
        (FieldTest::StartsWith, _) => {
            if !value.ends_with(['/', ':']) {
                return Err(wrong("must end in '/' or ':', so that longer names do not match too"));
            }
            format!("{expression}.startsWith({})", quoted(value))
        }
        (FieldTest::Equals, JsonType::Number) => {
            let digits = value.bytes().all(|b| b.is_ascii_digit());
            let number = value.parse::<i64>().ok().filter(|_| digits).ok_or_else(|| wrong("must be a whole number"))?;
            format!("{expression} == {number}")
        }
        (FieldTest::Equals, JsonType::Boolean) => match value {
            "true" | "false" => format!("{expression} == {value}"),
            _ => return Err(wrong("must be true or false")),
        },
        (FieldTest::Equals, JsonType::Array) => format!("{} in {expression}", quoted(value)),
        (FieldTest::Equals, JsonType::String | JsonType::Object) => format!("{expression} == {}", quoted(value)),
    })
}

/// `text` as a CEL string literal that stands for exactly `text`.
pub fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for c in text.chars() {
        match c {
            '\\' | '\'' => literal.extend(['\\', c]),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\t' => literal.push_str("\\t"),
            c if c.is_control() => literal.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('\'');
    literal
}

/// How a condition reads the claim at `path`.
pub fn expression<S: AsRef<str>>(path: &[S]) -> String {
    let mut text = String::from("claims");
    for name in path.iter().map(AsRef::as_ref) {
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let plain = starts_well && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if plain && !matches!(name, "in" | "true" | "false" | "null") {
            text.push('.');
            text.push_str(name);
        } else {
            text.push('[');
            text.push_str(&quoted(name));
            text.push(']');
        }
    }
    text
}

/// The last step on every platform: the exchange itself. A refusal is shown, for its reference; the token is not.
macro_rules! exchange {
    () => {
        exchange!("urn:ietf:params:oauth:token-type:jwt", "\"subject_token=$TOKEN\"")
    };
    ($token_type:literal, $subject_token:literal) => {
        concat!(
            "ANSWER=$(curl -sS --fail-with-body {public_url}/auth/v1/token \\
  -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange \\
  -d subject_token_type=",
            $token_type,
            " \\
  --data-urlencode 'client_id={client_id}' \\
  --data-urlencode ",
            $subject_token,
            ") || { echo \"$ANSWER\"; exit 1; }
ACCESS_TOKEN=$(printf '%s' \"$ANSWER\" | jq -r .access_token)
"
        )
    };
}
use exchange;
