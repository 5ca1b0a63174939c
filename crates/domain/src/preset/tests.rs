//! The tables hold together, and the wizard's conditions mean what was typed.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::claims::Claims;
use crate::clock::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn json_type(value: &Value) -> Option<JsonType> {
    match value {
        Value::String(_) => Some(JsonType::String),
        Value::Number(_) => Some(JsonType::Number),
        Value::Bool(_) => Some(JsonType::Boolean),
        Value::Array(_) => Some(JsonType::Array),
        Value::Object(_) => Some(JsonType::Object),
        Value::Null => None,
    }
}

#[test]
fn every_kind_has_its_preset_and_its_tables_hold_together() {
    for (kind, at) in ProviderKind::ALL.into_iter().zip(&PRESETS) {
        assert_eq!(at.kind, kind);
        assert_eq!(preset(kind), at);
        assert_eq!(at.issuer, kind.default_issuer(), "{kind}");
        assert!(at.issuer.is_some() || at.issuer_editable, "{kind}");
        assert!(at.fields.iter().any(|field| field.required), "{kind}");
        assert!(!at.example_conditions.is_empty(), "{kind}");
        for (index, field) in at.fields.iter().enumerate() {
            assert!(at.claim(field.claim).is_some(), "{kind} {}", field.name);
            assert!(!at.fields[..index].iter().any(|other| other.name == field.name), "{kind} {}", field.name);
        }
        for (index, claim) in at.claims.iter().chain(REGISTERED_CLAIMS).enumerate() {
            let name = format!("{kind} {}", claim.name);
            assert!(!at.claims.iter().take(index).any(|other| other.name == claim.name), "{name}");
            let example: Value = serde_json::from_str(claim.example).expect(&name);
            assert_eq!(json_type(&example), Some(claim.json_type), "{name}");
            assert!(claim.stable_twin.is_none_or(|twin| at.claim(twin).is_some_and(|twin| twin.stable_id)), "{name}");
            assert!(!(claim.pins_tenant() && claim.tells < Tells::Tenant), "{name}");
            assert!(!(claim.pins_tenant() && claim.caution.is_some()), "{name}");
            // A mapping with this name finds the claim.
            let spelled = claim
                .path()
                .iter()
                .fold(claim.name, |rest, part| rest.strip_prefix(part).expect(&name).trim_start_matches(['.', '/']));
            assert_eq!(spelled, "", "{name}");
        }
    }
}

#[test]
fn snippets_fill_in_and_leave_no_placeholder() {
    for preset in &PRESETS {
        let setup = preset.setup_for("aud.example", "calm-wolf-1@aud.example/wfe", "https://sally.example");
        assert!(setup.contains("aud.example"), "{}", preset.kind);
        for placeholder in ["{audience}", "{client_id}", "{public_url}"] {
            assert!(preset.setup.contains(placeholder), "{} {placeholder}", preset.kind);
            assert!(!setup.contains(placeholder), "{} {placeholder}", preset.kind);
        }
    }
}

#[test]
fn the_wizards_examples_write_good_conditions() {
    let written: Vec<String> = PRESETS
        .iter()
        .map(|preset| {
            let values: Vec<(&str, &str)> = preset.fields.iter().map(|field| (field.name, field.example)).collect();
            format!("{}: {}", preset.kind, condition_from_fields(preset.kind, &values).unwrap())
        })
        .collect();
    insta::assert_snapshot!(written.join("\n"));
}

#[test]
fn wizard_errors_name_the_field() {
    let error = |kind, values: &[(&str, &str)]| condition_from_fields(kind, values).unwrap_err().to_string();
    insta::assert_snapshot!([
        error(ProviderKind::GithubActions, &[]),
        error(ProviderKind::GithubActions, &[("repository", " ")]),
        error(ProviderKind::GithubActions, &[("repo", "acme/api")]),
        error(ProviderKind::GithubActions, &[("repository", "a/b"), ("repository", "c/d")]),
        error(ProviderKind::GithubActions, &[("repository", &"x".repeat(1_025))]),
        error(ProviderKind::GithubActions, &[("repository", &"x".repeat(1_024))]),
        error(ProviderKind::GoogleCloud, &[("unique_id", "1"), ("project_number", "+1")]),
        error(ProviderKind::AwsSts, &[("account", "123456789012"), ("role", "arn:aws:sts::123456789012:assumed-role/d")]),
    ]
    .join("\n"), @r"
    repository: must not be empty; an example is acme/api
    repository: must not be empty; an example is acme/api
    repo: is no field of GITHUB_ACTIONS; there are repository, repository_id, repository_owner_id, environment, ref, event_name, job_workflow_ref
    repository: is given twice
    repository: is 1025 bytes long; at most 1024 are allowed
    condition: is 1047 bytes long; at most 1024 are allowed
    project_number: must be a whole number, such as 739419398126
    role: must end in '/' or ':', so that longer names do not match too, such as arn:aws:sts::123456789012:assumed-role/deploy/
    ");
}

/// Values for the preset's fields that fit their form, and the optional ones that are left out.
fn values(preset: &'static Preset) -> impl Strategy<Value = Vec<(&'static Field, String)>> {
    let nasty = prop_oneof![
        3 => "[a-z/:@.-]{1,12}",
        2 => "['\"\\\\\n\r\t\u{0}\u{1b}\u{7f}\u{85}{}$#/ux0-9a-f\u{2028}é😀]{1,12}",
        1 => any::<String>().prop_map(|text| text.chars().take(12).collect::<String>()),
    ];
    let one = (nasty, any::<u32>(), any::<bool>());
    prop::collection::vec(one, preset.fields.len()).prop_map(move |drawn| {
        preset
            .fields
            .iter()
            .zip(drawn)
            .filter(|(field, (text, _, keep))| field.required || *keep && !text.trim().is_empty())
            .map(|(field, (text, number, _))| {
                let claim = preset.claim(field.claim).unwrap();
                let value = match (claim.json_type, field.test) {
                    (JsonType::Number, _) => number.to_string(),
                    (JsonType::Boolean, _) => (number % 2 == 0).to_string(),
                    (_, FieldTest::StartsWith) => format!("{text}x/"),
                    _ => format!("x{text}"),
                };
                (field, value)
            })
            .collect()
    })
}

/// A token whose claims have these values; the value at `spoilt` is `instead`.
fn token(preset: &Preset, values: &[(&Field, String)], spoilt: Option<(usize, &str)>) -> Claims {
    let mut document = Map::new();
    for (index, (field, value)) in values.iter().enumerate() {
        let claim = preset.claim(field.claim).unwrap();
        let value = spoilt.filter(|(at, _)| *at == index).map_or(value.as_str(), |(_, instead)| instead);
        let value = match (claim.json_type, field.test) {
            (JsonType::Number, _) => value.parse::<i64>().map_or(json!(value), |number| json!(number)),
            (JsonType::Boolean, _) => json!(value == "true"),
            (JsonType::Array, _) => json!(["other", value]),
            (_, FieldTest::StartsWith) => json!(format!("{value}session")),
            _ => json!(value),
        };
        let mut at = &mut document;
        let (last, parents) = claim.path().split_last().unwrap();
        for parent in parents {
            at = at.entry(*parent).or_insert_with(|| json!({})).as_object_mut().unwrap();
        }
        at.insert((*last).to_owned(), value);
    }
    Claims::parse(Value::Object(document).to_string().as_bytes()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// For every platform and any characters: the condition compiles, holds for the token with those values, and for
    /// no token in which one of them differs.
    #[test]
    fn conditions_hold_for_the_typed_values_alone(
        (preset, values) in prop::sample::select(PRESETS.iter().collect::<Vec<_>>())
            .prop_flat_map(|preset| values(preset).prop_map(move |values| (preset, values))),
        other in "\\PC{1,6}",
    ) {
        let typed: Vec<(&str, &str)> = values.iter().map(|(field, value)| (field.name, value.as_str())).collect();
        let source = match condition_from_fields(preset.kind, &typed) {
            Ok(source) => source,
            // Escapes can make it longer than a condition may be.
            Err(error) => {
                prop_assert!(error.field == "condition" && error.message.contains("bytes long"), "{}", error);
                return Ok(());
            }
        };
        let condition = Condition::compile("condition", &source).unwrap();
        prop_assert_eq!(condition.evaluate(&token(preset, &values, None), NOW), Ok(true), "{}", source);
        for (index, (field, value)) in values.iter().enumerate() {
            let boolean = preset.claim(field.claim).unwrap().json_type == JsonType::Boolean;
            let spoilt = if boolean { if value == "true" { "false".into() } else { "true".into() } } else { format!("{other}{value}") };
            prop_assume!(!spoilt.starts_with(value.as_str()));
            let claims = token(preset, &values, Some((index, &spoilt)));
            prop_assert_ne!(condition.evaluate(&claims, NOW), Ok(true), "{} {}", source, field.name);
            if field.test == FieldTest::Equals && !boolean {
                let longer = format!("{value}{other}");
                prop_assume!(!(preset.claim(field.claim).unwrap().json_type == JsonType::Number && longer.parse::<i64>().is_ok_and(|n| n.to_string() == *value)));
                let claims = token(preset, &values, Some((index, &longer)));
                prop_assert_ne!(condition.evaluate(&claims, NOW), Ok(true), "{} {}", source, field.name);
            }
        }
    }

    #[test]
    fn quoted_text_stands_for_itself(text in any::<String>()) {
        let source = format!("claims.sub == {}", quoted(&text));
        if let Ok(condition) = Condition::compile("condition", &source) {
            let claims = Claims::parse(json!({"sub": text}).to_string().as_bytes()).unwrap();
            prop_assert_eq!(condition.evaluate(&claims, NOW), Ok(true), "{}", source);
        } else {
            prop_assert!(source.len() > crate::validate::CONDITION_MAX, "{}", source);
        }
    }
}
