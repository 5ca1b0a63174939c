//! Claims: [`Claims::parse`], and what is read out of them.

use sallyport_domain::claims::{self, ARRAY_MAX, Claims, DEPTH_MAX, REGISTERED};
use sallyport_domain::identity::Identity;
use sallyport_domain::mapping::{self, Mapping};
use sallyport_domain::provider::ProviderKind;
use serde_json::Value;

use crate::{assert_message, first_line, text};

/// The first line as the name of a mapped claim, the rest as the claims.
pub fn claims(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (name, document) = first_line(text);
    let claims = match Claims::parse(document.as_bytes()) {
        Ok(claims) => claims,
        Err(error) => return assert_message(&error.to_string(), 512),
    };
    assert_strict(document.as_bytes(), &claims);
    for registered in REGISTERED {
        if let Ok(Some(text)) = claims.text(registered) {
            assert!(!text.is_empty());
        }
        if let Ok(Some(seconds)) = claims.numeric_date(registered) {
            assert!((0..=253_402_300_799).contains(&seconds));
        }
    }
    match Identity::from_claims(claims.clone()) {
        Ok(identity) => {
            assert!(!identity.subject.is_empty());
            assert_eq!(claims.text("sub"), Ok(Some(identity.subject.as_str())));
            assert_eq!(identity.claims, claims);
        }
        Err(error) => assert_message(&error.to_string(), 512),
    }
    mapped(name, &claims);
}

/// A mapping matches a claim by the text that it shows, and nothing that is not there.
fn mapped(name: &str, claims: &Claims) {
    let compile = |value: &str| {
        let mapping = [Mapping { key: format!("jwt_claims.{name}").into(), value: Some(value.into()) }];
        mapping::check("mappings", &mapping, ProviderKind::CustomOidc).ok()?;
        let [mapping] = mapping;
        Some(mapping)
    };
    let Some(some) = compile("some value") else { return };
    let Some(actual) = some.actual(claims) else {
        assert!(!some.matches(claims), "a claim that is not there matches");
        return;
    };
    if let Some(claims::Value::String(text)) = claims.get(name) {
        assert_eq!(actual, **text);
    }
    if let Some(exact) = compile(&actual) {
        let scalar = matches!(
            claims.get(name),
            Some(claims::Value::Bool(_) | claims::Value::Number(_) | claims::Value::String(_))
        );
        assert!(!scalar || exact.matches(claims), "a claim does not match its own text");
    }
}

/// What was read strictly is what a reader that is not strict reads, within the limits, and is read again from what it
/// is written as.
pub(crate) fn assert_strict(document: &[u8], claims: &Claims) {
    let lenient: Value = serde_json::from_slice(document).unwrap_or_default();
    let strict = Value::from(claims);
    assert_eq!(lenient, strict);
    assert_within(&strict, DEPTH_MAX);
    for name in claims.members().keys() {
        let twin = REGISTERED.iter().find(|registered| name != **registered && name.eq_ignore_ascii_case(registered));
        assert_eq!(twin, None, "a twin of a registered claim");
    }
    let written = strict.to_string();
    assert_eq!(Claims::parse(written.as_bytes()).as_ref(), Ok(claims), "reads differently from {written}");
}

fn assert_within(value: &Value, depth: usize) {
    match value {
        Value::Array(items) => {
            assert!(depth > 0 && items.len() <= ARRAY_MAX);
            items.iter().for_each(|item| assert_within(item, depth - 1));
        }
        Value::Object(members) => {
            assert!(depth > 0);
            members.values().for_each(|item| assert_within(item, depth - 1));
        }
        _ => {}
    }
}
