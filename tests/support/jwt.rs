//! What a client does with tokens: reads them, and signs requests with a credential's key (mondoo.md section 4.1).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::now;

/// What a signed request says about its body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ping<'a> {
    /// `chash` of this body.
    Hash(&'a [u8]),
    /// No `chash`, as GraphQL clients do.
    NoHash,
}

/// A service account's own JWT, made from its credential document.
pub(crate) fn sign(document: &Value, about: Ping<'_>) -> String {
    let mrn = document["mrn"].as_str().expect("the document names its holder");
    let now = now();
    let mut claims = json!({ "sub": mrn, "iss": "mondoo/ams", "iat": now, "nbf": now, "exp": now + 60 });
    if let Ping::Hash(body) = about {
        claims["chash"] = json!(hex(digest(&SHA256, body).as_ref()));
    }
    sign_claims(document, &json!({ "alg": "ES384", "kid": mrn, "typ": "JWT" }), &claims)
}

/// A JWT of any header and claims, ES384 with the document's key.
pub(crate) fn sign_claims(document: &Value, header: &Value, claims: &Value) -> String {
    let pem = document["private_key"].as_str().expect("the document has a private key");
    let der = pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
    let der = STANDARD.decode(der).expect("PEM");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &der).expect("a P-384 key in PKCS#8");
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The token with header and claims replaced and the signature kept.
pub(crate) fn resign(token: &str, header: &Value, claims: &Value) -> String {
    let signature = token.rsplit('.').next().unwrap_or_default();
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

/// The claims of a token, unverified.
pub(crate) fn claims_of(token: &str) -> Value {
    part(token, 1)
}

/// The header of a token.
pub(crate) fn header_of(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
