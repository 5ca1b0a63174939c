//! A token of someone nobody had in mind. A condition that holds for it holds for anyone.

use serde_json::{Map, Value, json};

use super::View;
use crate::claims::Claims;
use crate::clock::Timestamp;
use crate::condition::Condition;
use crate::preset::{JsonType, Pin, Tells};
use crate::provider::ProviderKind;

/// Moments to try, in seconds since 1970: conditions may look at the time of day, the day of the week or the year.
const MOMENTS: [i64; 6] = [
    1_800_007_200, // Friday 15 January 2027, 10:00
    1_800_050_400, // the same day, 22:00
    1_800_158_400, // Sunday, 04:00
    1_600_009_200, // 2020
    1_900_000_800, // 2030
    2_200_000_000, // 2039
];

/// Whether the condition holds for a stranger at some time.
pub(super) fn gets_in(view: &View<'_>, condition: &Condition) -> bool {
    let literals = literals(condition.source());
    let audiences = [json!(literals), literals.first().map_or_else(|| json!("stranger"), |first| json!(first))];
    audiences.into_iter().filter_map(|audience| claims(view, audience)).any(|claims| {
        MOMENTS.iter().any(|moment| condition.evaluate(&claims, Timestamp::from_seconds(*moment)) == Ok(true))
    })
}

/// Claims like those of the platform, with values that mean nobody in particular.
fn claims(view: &View<'_>, audience: Value) -> Option<Claims> {
    let mut document = Map::new();
    for claim in view.known() {
        let value = match (claim.json_type, claim.tells) {
            (_, Tells::Nothing) => serde_json::from_str(claim.example).ok()?,
            (JsonType::String, _) if claim.pin == Pin::Subject => json!(subject(view)),
            (JsonType::String, _) => json!("5tr4nger"),
            (JsonType::Number, _) => json!(5_705_705),
            (JsonType::Boolean, _) => json!(false),
            (JsonType::Array, _) => json!(["5tr4nger"]),
            (JsonType::Object, _) => json!({"5tr4nger": "5tr4nger"}),
        };
        put(&mut document, claim.path(), value);
    }
    if view.kind != ProviderKind::AwsSts {
        document.insert("iss".into(), json!(view.provider.issuer.as_str()));
        document.insert("aud".into(), audience);
    }
    Claims::parse(Value::Object(document).to_string().as_bytes()).ok()
}

fn subject(view: &View<'_>) -> String {
    match view.kind {
        ProviderKind::GithubActions => "repo:5tr4nger/5tr4nger:ref:refs/heads/5tr4nger".into(),
        ProviderKind::GitlabCi => "project_path:5tr4nger/5tr4nger:ref_type:branch:ref:5tr4nger".into(),
        ProviderKind::HcpTerraform => {
            "organization:5tr4nger:project:5tr4nger:workspace:5tr4nger:run_phase:apply".into()
        }
        ProviderKind::Buildkite => {
            "organization:5tr4nger:pipeline:5tr4nger:ref:refs/heads/5tr4nger:commit:5:step:5tr4nger".into()
        }
        ProviderKind::AwsSts => "arn:aws:sts::570570570570:assumed-role/5tr4nger/5tr4nger".into(),
        ProviderKind::AwsIamOutbound => "arn:aws:iam::570570570570:role/5tr4nger".into(),
        ProviderKind::GoogleCloud => "570570570570570570570".into(),
        ProviderKind::Azure => "57057057-0570-4570-8570-570570570570".into(),
        ProviderKind::Kubernetes => "system:serviceaccount:5tr4nger:5tr4nger".into(),
        ProviderKind::Spiffe => format!("{}/5tr4nger", view.provider.issuer.key().as_str()),
        ProviderKind::Circleci => {
            let organization = view.provider.issuer.key().as_str().rsplit('/').next().unwrap_or("5tr4nger").to_owned();
            format!("org/{organization}/project/5tr4nger/user/5tr4nger")
        }
        ProviderKind::CustomOidc => "5tr4nger".into(),
    }
}

fn put(document: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [name] => {
            document.insert((*name).to_owned(), value);
        }
        [name, rest @ ..] => {
            let inner = document.entry((*name).to_owned()).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// The texts between quotes in the source, roughly: any of them may be the audience it asks for.
fn literals(source: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = &rest[start..=start];
        let tail = &rest[start + 1..];
        let Some(end) = tail.find(quote) else { break };
        texts.push(tail[..end].to_owned());
        rest = &tail[end + 1..];
    }
    texts.truncate(64);
    texts
}
