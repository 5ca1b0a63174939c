//! Claim mappings: `jwt_claims.<name> = value` and `aws_claims.<name> = value`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::claims::{Claims, Members, Value};
use crate::provider::ProviderKind;
use crate::validate::{FieldError, TEXT_MAX, list_within, required_text, text_within};

/// A mapping as an admin wrote it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Mapping {
    /// `jwt_claims.<name>` or `aws_claims.<name>`.
    pub key: Arc<str>,
    /// What the claim must be; a mapping without a value is refused when saved, and matches nothing.
    pub value: Option<Box<str>>,
}

/// Checks all mappings of a trust.
///
/// # Errors
/// Names the entry (`mappings[2].key`): unknown prefix, unknown AWS claim, missing value, a claim named twice, too many.
pub fn check(field: &str, mappings: &[Mapping], kind: ProviderKind) -> Result<(), FieldError> {
    list_within(field, mappings)?;
    for (index, mapping) in mappings.iter().enumerate() {
        let key_field = || format!("{field}[{index}].key");
        required_text(&key_field(), &mapping.key, TEXT_MAX)?;
        let prefix = if kind == ProviderKind::AwsSts { "aws_claims." } else { "jwt_claims." };
        let name = mapping.key.strip_prefix(prefix).filter(|name| !name.is_empty()).ok_or_else(|| {
            let example = if kind == ProviderKind::AwsSts { "aws_claims.account" } else { "jwt_claims.repository" };
            FieldError::new(key_field(), format!("must start with '{prefix}' for this issuer, such as '{example}'"))
        })?;
        if kind == ProviderKind::AwsSts && !matches!(name, "account" | "arn" | "userid") {
            return Err(FieldError::new(
                key_field(),
                "must be aws_claims.account, aws_claims.arn or aws_claims.userid",
            ));
        }
        if mappings[..index].iter().any(|other| other.key == mapping.key) {
            return Err(FieldError::new(key_field(), format!("names the claim '{name}' a second time")));
        }
        let value_field = || format!("{field}[{index}].value");
        let value = mapping
            .value
            .as_deref()
            .ok_or_else(|| FieldError::new(value_field(), "must say what the claim has to be"))?;
        text_within(&value_field(), value, TEXT_MAX)?;
    }
    Ok(())
}

impl Mapping {
    /// The claim's name, as after the prefix.
    pub fn name(&self) -> &str {
        self.key.split_once('.').map_or("", |(_, name)| name)
    }

    /// What it must be.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// The claim as text: `None` when it is absent.
    pub fn actual<'c>(&self, claims: &'c Claims) -> Option<Cow<'c, str>> {
        find(claims.members(), self.name()).map(text_of)
    }

    /// Whether the claim is there and is, or as an array contains, the value.
    pub fn matches(&self, claims: &Claims) -> bool {
        let Some(wanted) = self.value.as_deref() else { return false };
        match find(claims.members(), self.name()) {
            None | Some(Value::Object(_) | Value::Null) => false,
            Some(Value::Array(items)) => items.iter().any(|item| {
                !matches!(item, Value::Array(_) | Value::Object(_) | Value::Null) && text_of(item) == wanted
            }),
            Some(value) => text_of(value) == wanted,
        }
    }
}

/// The literal key first; else the longest member name that begins the rest and is followed by `.` or `/`,
/// then on inside it, without backtracking.
fn find<'c>(object: &'c Members<'c>, name: &str) -> Option<&'c Value<'c>> {
    let mut object = object;
    let mut rest = name;
    loop {
        if let Some(value) = object.get(rest) {
            return Some(value);
        }
        let (member, value) = object
            .iter()
            .filter(|(member, _)| {
                !member.is_empty() && rest.strip_prefix(*member).is_some_and(|tail| tail.starts_with(['.', '/']))
            })
            .max_by_key(|(member, _)| member.len())?;
        rest = &rest[member.len() + 1..];
        object = value.as_object()?;
    }
}

/// Strings as they are; numbers and booleans by their JSON text.
fn text_of<'c>(value: &'c Value<'_>) -> Cow<'c, str> {
    match value {
        Value::String(text) => Cow::Borrowed(&**text),
        other => Cow::Owned(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(claims: &str, name: &str, value: &str) -> bool {
        let mapping = Mapping { key: format!("jwt_claims.{name}").into(), value: Some(value.into()) };
        check("mappings", std::slice::from_ref(&mapping), ProviderKind::CustomOidc).unwrap();
        mapping.matches(&Claims::parse(claims.as_bytes()).unwrap())
    }

    #[test]
    fn names_find_literal_keys_then_the_longest_member() {
        assert!(matches(r#"{"kubernetes.io":{"namespace":"default"}}"#, "kubernetes.io/namespace", "default"));
        assert!(matches(
            r#"{"kubernetes.io/namespace":"a","kubernetes.io":{"namespace":"b"}}"#,
            "kubernetes.io/namespace",
            "a"
        ));
        assert!(matches(r#"{"a":{"b":{"c":1}}}"#, "a.b.c", "1"));
        assert!(matches(r#"{"https://x/":{"acc":"1"}}"#, "https://x/.acc", "1"));
        // Without backtracking: the longest member decides, even when a shorter one would have led somewhere.
        assert!(!matches(r#"{"a.b":{"x":1},"a":{"b":{"c":1}}}"#, "a.b.c", "1"));
        assert!(!matches(r#"{"ab":1}"#, "a", "1"));
    }

    #[test]
    fn arrays_contain_scalars_compare_by_text_and_absence_never_matches() {
        assert!(matches(r#"{"groups":["a","b"]}"#, "groups", "b"));
        assert!(matches(r#"{"n":12,"b":true}"#, "n", "12"));
        assert!(matches(r#"{"n":12,"b":true}"#, "b", "true"));
        assert!(!matches(r#"{"n":null}"#, "n", "null"));
        assert!(!matches(r#"{"n":{}}"#, "n", "{}"));
        assert!(!matches(r#"{"n":[[1]]}"#, "n", "[1]"));
        assert!(!matches("{}", "n", ""));
    }

    #[test]
    fn a_mapping_without_a_value_matches_nothing() {
        let mapping = Mapping { key: "jwt_claims.a".into(), value: None };
        check("mappings", std::slice::from_ref(&mapping), ProviderKind::CustomOidc).unwrap_err();
        for claims in ["{}", r#"{"a":""}"#, r#"{"a":null}"#, r#"{"a":[""]}"#] {
            assert!(!mapping.matches(&Claims::parse(claims.as_bytes()).unwrap()), "{claims}");
        }
    }

    #[test]
    fn errors_name_the_entry() {
        let entry = |key: &str, value: Option<&str>| Mapping { key: key.into(), value: value.map(Into::into) };
        let error = |mappings: &[Mapping], kind| check("mappings", mappings, kind).unwrap_err().to_string();
        insta::assert_snapshot!(error(&[entry("repository", Some("x"))], ProviderKind::CustomOidc), @"mappings[0].key: must start with 'jwt_claims.' for this issuer, such as 'jwt_claims.repository'");
        insta::assert_snapshot!(error(&[entry("aws_claims.account", Some("x"))], ProviderKind::CustomOidc), @"mappings[0].key: must start with 'jwt_claims.' for this issuer, such as 'jwt_claims.repository'");
        insta::assert_snapshot!(error(&[entry("aws_claims.role", Some("x"))], ProviderKind::AwsSts), @"mappings[0].key: must be aws_claims.account, aws_claims.arn or aws_claims.userid");
        insta::assert_snapshot!(error(&[entry("jwt_claims.a", None)], ProviderKind::CustomOidc), @"mappings[0].value: must say what the claim has to be");
        insta::assert_snapshot!(error(&[entry("jwt_claims.a", Some("1")), entry("jwt_claims.a", Some("2"))], ProviderKind::CustomOidc), @"mappings[1].key: names the claim 'a' a second time");
    }
}
