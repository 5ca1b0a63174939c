//! Pre-signed AWS requests ([`SignedRequest`]) and the answers of STS ([`Caller`]).

use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::Refusal;
use sallyport_identity::SignedRequest;
use sallyport_identity::aws::{Caller, WINDOW};
use sallyport_identity::jwt::TOKEN_MAX;
use serde_json::Value;

use crate::{assert_message, text};

/// All that a rebuilt request may carry.
const SENT: [&str; 7] = [
    "authorization",
    "x-amz-date",
    "x-amz-security-token",
    "content-type",
    "content-length",
    "x-sallyport-audience",
    "x-goog-cloud-target-resource",
];
const ACTION: &str = "Action=GetCallerIdentity&Version=2011-06-15";

/// The bytes as the document that a client sends, as they are and percent-encoded.
pub fn request(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let plain = document(text);
    let trimmed = text.trim_ascii();
    if trimmed.starts_with('{') {
        let encoded: String = trimmed.bytes().map(|byte| format!("%{byte:02x}")).collect();
        if encoded.len() <= TOKEN_MAX {
            assert_eq!(document(&encoded), plain, "the encoding decides");
        }
    }
}

/// What is sent for a document.
#[derive(PartialEq, Debug)]
struct Sent {
    method: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// `None` when the document is refused.
fn document(text: &str) -> Option<Sent> {
    let request = match SignedRequest::parse(text) {
        Ok(request) => request,
        Err(fault) => {
            assert_message(&fault.to_string(), 512);
            return None;
        }
    };
    assert!(text.trim_ascii().len() <= TOKEN_MAX);
    assert!(is_sts(request.host()), "asks {}", request.host());
    let Some(rebuilt) = request.rebuild() else { unreachable!("what parses cannot be rebuilt") };
    assert_eq!(rebuilt.url.as_str(), format!("https://{}/?{ACTION}", request.host()));
    assert!(matches!(rebuilt.method.as_str(), "GET" | "POST"));
    assert!(rebuilt.body.is_empty() || (rebuilt.method == "POST" && rebuilt.body == ACTION.as_bytes()));
    let mut headers = Vec::new();
    for (name, value) in &rebuilt.headers {
        assert!(SENT.contains(&name.as_str()), "sends {name}");
        let Ok(value) = value.to_str() else { unreachable!("a header that is not plain text") };
        headers.push((name.to_string(), value.to_owned()));
    }
    let has = |name: &str| headers.iter().any(|(known, _)| known == name);
    assert!(has("authorization") && has("x-amz-date"));
    times(&request);

    // What is sent was in the document, and the host in its URL: nothing was made up.
    let text = text.trim_ascii();
    if text.starts_with('{') {
        let given: Value = serde_json::from_str(text).unwrap_or_default();
        assert!(given["url"].as_str().is_some_and(|url| url.starts_with(&format!("https://{}", request.host()))));
        assert_eq!(given["method"], rebuilt.method.as_str());
        let given = given["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (name, value) in headers.iter().filter(|(name, _)| name != "content-length") {
            let found: Vec<&Value> = given
                .iter()
                .filter(|header| header["key"].as_str().is_some_and(|key| key.eq_ignore_ascii_case(name)))
                .map(|header| &header["value"])
                .collect();
            assert_eq!(found, [value], "{name}");
        }
    }
    Some(Sent { method: rebuilt.method.to_string(), host: request.host().to_owned(), headers, body: rebuilt.body })
}

/// An STS host by its shape, said differently from the list that the parser has.
fn is_sts(host: &str) -> bool {
    let Some((service, rest)) = host.split_once('.') else { return false };
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    matches!(service, "sts" | "sts-fips")
        && ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"].iter().any(|domain| {
            rest.strip_suffix(domain)
                .is_some_and(|region| region.is_empty() || region.strip_suffix('.').is_some_and(plain))
        })
}

/// The window lies around the request's own date, whatever the time.
fn times(request: &SignedRequest) {
    let at = |now: i64| request.check_times(Timestamp::from_seconds(now));
    assert_eq!(at(i64::MIN), Err(Refusal::FromTheFuture));
    assert_eq!(at(i64::MAX), Err(Refusal::Expired));
    // By bisection: the first second at which it is no longer too early, and the first at which it is too late.
    let first = |late: &dyn Fn(i64) -> bool| {
        let (mut before, mut after) = (-400_000_000_000, 400_000_000_000);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if late(middle) { after = middle } else { before = middle }
        }
        after
    };
    let start = first(&|now| at(now) != Err(Refusal::FromTheFuture));
    let end = first(&|now| at(now) == Err(Refusal::Expired));
    assert_eq!(end - start, 2 * WINDOW);
}

/// The bytes as STS's answer, in XML and in JSON.
pub fn sts_answer(bytes: &[u8]) {
    for content_type in ["text/xml", "application/json"] {
        let read = |body: &[u8]| Caller::read("sts.amazonaws.com", Some(content_type), body);
        let caller = match read(bytes) {
            Ok(caller) => caller,
            Err(why) => {
                assert_message(why, 128);
                continue;
            }
        };
        assert!(caller.account().len() == 12 && caller.account().bytes().all(|b| b.is_ascii_digit()));
        let arn: Vec<&str> = caller.arn().splitn(6, ':').collect();
        let ["arn", "aws", "iam" | "sts", "", account, _] = arn.as_slice() else { unreachable!("{}", caller.arn()) };
        assert_eq!(*account, caller.account());

        // The three values stand in the answer to the letter, and written plainly they are read again.
        let values = [("Account", caller.account()), ("Arn", caller.arn()), ("UserId", caller.user_id())];
        let canonical = if content_type == "text/xml" {
            let answer = String::from_utf8_lossy(bytes);
            let elements: String = values.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
            assert!(values.iter().all(|(_, value)| answer.contains(value)));
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <GetCallerIdentityResult>{elements}</GetCallerIdentityResult></GetCallerIdentityResponse>"
            )
        } else {
            let members: serde_json::Map<String, Value> =
                values.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
            serde_json::json!({ "GetCallerIdentityResponse": { "GetCallerIdentityResult": members } }).to_string()
        };
        assert_eq!(read(canonical.as_bytes()).as_ref(), Ok(&caller));
        // Of another partition it would be nobody.
        assert!(Caller::read("sts.cn-north-1.amazonaws.com.cn", Some(content_type), bytes).is_err());
    }
}
