//! Key sets: [`KeySet::parse`].

use sallyport_identity::keys::{KeySet, Trusted};
use serde_json::Value;

use crate::assert_message;

/// Members of private and symmetric keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4).
const SECRETS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The bytes as a JWK set, from an issuer and from an admin.
pub fn key_set(bytes: &[u8]) {
    let fetched = KeySet::parse(bytes, Trusted::Fetched);
    let uploaded = KeySet::parse(bytes, Trusted::Uploaded);
    for error in [fetched.as_ref().err(), uploaded.as_ref().err()].into_iter().flatten() {
        assert_message(&error.to_string(), 512);
    }
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let keys = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let secret = |key: &Value| key["kty"] == "oct" || SECRETS.iter().any(|name| key.get(name).is_some());
    if uploaded.is_ok() {
        assert!(fetched.as_ref().is_ok_and(|set| !set.is_empty()), "an admin may upload what an issuer may not send");
        assert!(!keys.iter().any(secret), "an uploaded set holds a secret");
    }
    if let Ok(set) = fetched {
        // One line a key in the set: none for what is secret.
        let usable = format!("{set:?}").matches('"').count() / 2;
        assert!(set.is_empty() || usable > 0);
        assert!(!keys.iter().all(secret) || set.is_empty(), "a secret is a key of the set");
    }
}
