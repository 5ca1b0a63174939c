//! Tokens that service accounts sign themselves: [`UnverifiedServiceAccountJwt`].

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_credentials::service_account_jwt::{ISSUER, LEEWAY, LIFETIME_MAX};
use sallyport_credentials::{TokenError, UnverifiedServiceAccountJwt};
use sallyport_domain::clock::Timestamp;
use serde_json::Value;

use crate::{assert_message, first_line, text};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// The bytes as a token; and their lines as header, payload and request body of one that is properly signed, so that
/// what comes after the signature is reached too.
pub fn service_account_jwt(bytes: &[u8]) {
    static KEY: LazyLock<Option<EcdsaKeyPair>> =
        LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).ok());
    let (Some(text), Some(key)) = (text(bytes), KEY.as_ref()) else { return };
    let public = key.public_key().as_ref();
    let (header, rest) = first_line(text);
    let (payload, body) = first_line(rest);

    let outcome = check(text, public, body.as_bytes());
    assert_ne!(outcome, Ok(()), "a token that nobody signed");

    let input = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let Ok(signature) = key.sign(&SystemRandom::new(), input.as_bytes()) else { return };
    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature));
    if check(&token, public, body.as_bytes()).is_err() {
        return;
    }
    // It passed: then it says what it has to.
    let header: Value = serde_json::from_str(header).unwrap_or_default();
    let claims: Value = serde_json::from_str(payload).unwrap_or_default();
    let seconds = |name: &str| claims[name].as_i64().unwrap_or(i64::MIN);
    let now = NOW.seconds();
    assert_eq!((&header["alg"], &header["kid"]), (&"ES384".into(), &claims["sub"]));
    assert_eq!(claims["iss"], ISSUER);
    assert!((0..=LIFETIME_MAX).contains(&(seconds("exp") - seconds("iat"))));
    assert!(seconds("exp") > now - LEEWAY && seconds("iat").max(seconds("nbf")) <= now + LEEWAY);
    // And it covers this body, and no other.
    let other = format!("{body}x");
    assert_eq!(check(&token, public, other.as_bytes()), Err(TokenError::BodyHash));
}

fn check(token: &str, public: &[u8], body: &[u8]) -> Result<(), TokenError> {
    let outcome = UnverifiedServiceAccountJwt::parse(token).and_then(|jwt| {
        assert!(!jwt.key_id().is_empty());
        jwt.verify(public, NOW, Some(body), true)
    });
    if let Err(error) = &outcome {
        assert_message(&error.to_string(), 512);
    }
    outcome
}
