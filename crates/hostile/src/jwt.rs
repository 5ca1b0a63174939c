//! Subject tokens: [`UnverifiedJwt`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_domain::claims::Claims;
use sallyport_domain::clock::Timestamp;
use sallyport_identity::jwt::{HEADER_MAX, TOKEN_MAX};
use sallyport_identity::{TimeRules, TokenFault, UnverifiedJwt};
use serde_json::Value;

use crate::claims::assert_strict;
use crate::{assert_message, first_line, text};

/// The bytes as a token, and their lines as header, payload and signature of one.
pub fn jwt(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    token(text);
    token(&encoded(text));
}

/// A token with the first line as header, the second as payload and the rest, or anything, as signature.
pub(crate) fn encoded(text: &str) -> String {
    let (header, rest) = first_line(text);
    let (payload, signature) = first_line(rest);
    let signature = if signature.is_empty() { "signature" } else { signature };
    [header, payload, signature].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

fn token(token: &str) {
    let jwt = match UnverifiedJwt::parse(token) {
        Ok(jwt) => jwt,
        Err(fault) => {
            // The caller and the record are told; a claim's name may be in it.
            assert_message(&fault.to_string(), 512);
            assert_eq!(fault.check().detail, Some(fault.to_string()));
            let named = matches!(fault, TokenFault::AlgorithmNotAllowed);
            assert_eq!(named, matches!(fault.refusal(), sallyport_domain::decision::Refusal::AlgorithmNotAllowed));
            return;
        }
    };
    let trimmed = token.trim_ascii();
    assert!(trimmed.len() <= TOKEN_MAX);
    let parts: Vec<&str> = trimmed.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { unreachable!("a JWT of {} parts", parts.len()) };

    // Every letter counts: what was read encodes to the very token.
    let decoded = [header, payload, signature].map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default());
    for (decoded, part) in decoded.iter().zip(&parts) {
        assert!(!decoded.is_empty());
        assert_eq!(&URL_SAFE_NO_PAD.encode(decoded), part);
    }
    let [header, payload, _] = decoded;
    assert!(header.len() <= HEADER_MAX);

    // A reader that is not strict sees the same header and the same claims, so there is nothing to read differently.
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    assert_eq!(header["alg"], jwt.algorithm().name());
    assert_eq!(header.get("kid").and_then(Value::as_str), jwt.key_id());
    assert!(["crit", "b64", "zip", "enc"].iter().all(|name| header.get(name).is_none()));
    assert_strict(&payload, jwt.claims_unverified());
    let claims = Value::from(jwt.claims_unverified());
    assert!(claims["sub"].as_str().is_some_and(|sub| !sub.is_empty()));
    assert_eq!(claims.get("iss").and_then(Value::as_str), jwt.issuer());
    if let Some(issuer) = jwt.spiffe_issuer() {
        assert!(claims["sub"].as_str().is_some_and(|sub| sub.starts_with(&format!("{issuer}/"))));
    }

    // Read again, with white space around, it is the same token.
    let Ok(again) = UnverifiedJwt::parse(&format!(" {trimmed}\r\n")) else { unreachable!("the same token is refused") };
    assert_eq!(again.token_hash(), jwt.token_hash());
    assert_eq!(again.claims_unverified(), jwt.claims_unverified());

    times(&jwt);
}

/// At any time, and at the times that the token names: no panic, and what the stricter endpoint accepts the other does.
fn times(jwt: &UnverifiedJwt) {
    let claims: &Claims = jwt.claims_unverified();
    let named = ["exp", "nbf", "iat"].into_iter().filter_map(|name| claims.numeric_date(name).ok().flatten());
    for seconds in named.chain([i64::MIN, 0, 1_800_000_000, i64::MAX]) {
        for now in [seconds.saturating_sub(181), seconds.saturating_sub(31), seconds, seconds.saturating_add(31)] {
            let now = Timestamp::from_seconds(now);
            let rpc = jwt.check_times(now, &TimeRules::RPC);
            let oauth = jwt.check_times(now, &TimeRules::OAUTH);
            assert!(rpc.is_err() || oauth.is_ok(), "RPC accepts at {now} what OAuth refuses");
            if oauth.is_ok() {
                let expires_at = claims.numeric_date("exp").ok().flatten();
                assert!(expires_at.is_some_and(|exp| now < Timestamp::from_seconds(exp).plus_seconds(30)));
            }
            assert!(oauth.is_err() || jwt.check_times(now, &TimeRules::OAUTH.with_iat_optional(true)).is_ok());
        }
    }
}
