//! A service account's own JWT: a fresh one signs each request (mondoo.md section 4.1; threats.md, "Credentials").
//!
//! [`UnverifiedServiceAccountJwt`] exposes nothing but the id of the key to look up. Whether that key still stands
//! (revoked, expired, account disabled) is for whoever looks it up.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use sallyport_domain::claims::{Claims, Value};
use sallyport_domain::clock::Timestamp;
use subtle::ConstantTimeEq as _;

use crate::token::{Compact, TokenError};

/// `iss` of every such token.
pub const ISSUER: &str = "mondoo/ams";
/// Longest life (`exp - iat`) of such a token, in seconds: the clients' 60 and a little for rounding.
pub const LIFETIME_MAX: i64 = 65;
/// Leeway on its times, in seconds: clients' clocks are not ours.
pub const LEEWAY: i64 = 60;
/// Length of a P-384 public key as SEC1 uncompressed point.
const PUBLIC_KEY_LEN: usize = 97;
/// Length of an ES384 signature (RFC 7518 section 3.4).
const SIGNATURE_LEN: usize = 96;

/// A token of the right form, of which nothing is verified.
pub struct UnverifiedServiceAccountJwt<'t> {
    compact: Compact<'t>,
    key_id: String,
}

impl std::fmt::Debug for UnverifiedServiceAccountJwt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnverifiedServiceAccountJwt").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl<'t> UnverifiedServiceAccountJwt<'t> {
    /// Reads the form only: size, three parts, `alg` ES384, `typ` JWT, a `kid`. No configuration is needed for that.
    ///
    /// # Errors
    /// Says what is wrong with the form.
    pub fn parse(token: &'t str) -> Result<Self, TokenError> {
        let compact = Compact::split(token)?;
        if !compact.is_type("JWT") {
            return Err(TokenError::Type);
        }
        if compact.text("alg") != "ES384" {
            return Err(TokenError::Algorithm);
        }
        if compact.signature.len() != SIGNATURE_LEN {
            return Err(TokenError::Malformed("its signature has the wrong length"));
        }
        let key_id = compact.text("kid").to_owned();
        if key_id.is_empty() {
            return Err(TokenError::Malformed("its header names no key"));
        }
        Ok(Self { compact, key_id })
    }

    /// MRN of the key it claims to be signed with: a credential's, or a service account's for its standing key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Checks it against the public key (SEC1 uncompressed, 97 bytes) that is on record for [`Self::key_id`]: signature,
    /// `sub` equal to `kid`, `iss`, then `exp`, `nbf` and `iat`, all three required whole seconds, with [`LEEWAY`].
    ///
    /// `chash` is the lower-case hexadecimal SHA-256 of the request body. It is compared when present, and must be
    /// present when `require_chash` (RPC calls with a body). `None` for `body` is a request without one: the same as
    /// an empty one.
    ///
    /// # Errors
    /// Says what failed first; nothing before [`TokenError::Signature`] depends on the payload.
    pub fn verify(
        &self,
        public_key_sec1: &[u8],
        now: Timestamp,
        body: Option<&[u8]>,
        require_chash: bool,
    ) -> Result<(), TokenError> {
        // Stated here, since the parser behind it also reads compressed points.
        if public_key_sec1.len() != PUBLIC_KEY_LEN || public_key_sec1.first() != Some(&4) {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key_sec1)
            .verify(self.compact.signing_input.as_bytes(), &self.compact.signature)
            .map_err(|_| TokenError::Signature)?;
        let claims = Claims::parse(self.compact.payload.as_slice()).map_err(TokenError::Payload)?;
        if claims.text("sub").map_err(TokenError::Payload)? != Some(&self.key_id) {
            return Err(TokenError::SubjectIsNotKey);
        }
        if claims.text("iss").map_err(TokenError::Payload)? != Some(ISSUER) {
            return Err(TokenError::Issuer);
        }
        let (exp, nbf, iat) = (seconds(&claims, "exp")?, seconds(&claims, "nbf")?, seconds(&claims, "iat")?);
        if Timestamp::from_seconds(exp) <= now.plus_seconds(-LEEWAY) {
            return Err(TokenError::Expired);
        }
        if Timestamp::from_seconds(nbf.max(iat)) > now.plus_seconds(LEEWAY) {
            return Err(TokenError::NotYetValid);
        }
        match exp.checked_sub(iat) {
            Some(0..=LIFETIME_MAX) => {}
            _ => return Err(TokenError::TooLong),
        }
        match claims.get("chash") {
            None if require_chash => Err(TokenError::BodyHashMissing),
            None => Ok(()),
            Some(Value::String(chash)) if bool::from(body_hash(body).as_bytes().ct_eq(chash.as_bytes())) => Ok(()),
            Some(_) => Err(TokenError::BodyHash),
        }
    }
}

/// `chash` of a request body: lower-case hexadecimal SHA-256.
pub(crate) fn body_hash(body: Option<&[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let hash = digest(&SHA256, body.unwrap_or_default());
    hash.as_ref()
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

fn seconds(claims: &Claims, name: &str) -> Result<i64, TokenError> {
    let seconds = if let Some(Value::Number(number)) = claims.get(name) { number.as_i64() } else { None };
    seconds.filter(|seconds| *seconds >= 0).ok_or(TokenError::Malformed("'exp', 'nbf' and 'iat' must be whole seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::sign_service_account_jwt;
    use crate::testing::{ACCOUNT, NOW, forge};
    use aws_lc_rs::hmac;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    };
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;
    use serde_json::{Value, json};
    use std::sync::OnceLock;

    const BODY: &[u8] = b"\x0a\x05hello";

    struct Key {
        pair: EcdsaKeyPair,
        der: EcdsaKeyPair,
        pem: String,
    }

    fn make() -> Key {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
        Key { pair, der, pem: crate::pem::encode("PRIVATE KEY", pkcs8.as_ref()) }
    }

    fn key() -> &'static Key {
        static KEY: OnceLock<Key> = OnceLock::new();
        KEY.get_or_init(make)
    }

    fn public() -> &'static [u8] {
        key().pair.public_key().as_ref()
    }

    fn check(token: &str) -> Result<(), TokenError> {
        UnverifiedServiceAccountJwt::parse(token)?.verify(public(), NOW, Some(BODY), true)
    }

    fn header() -> String {
        json!({ "alg": "ES384", "kid": ACCOUNT, "typ": "JWT" }).to_string()
    }

    fn payload(changes: &Value) -> String {
        let now = NOW.seconds();
        let mut claims = json!({
            "sub": ACCOUNT, "iss": "mondoo/ams", "iat": now, "nbf": now, "exp": now + 60, "chash": body_hash(Some(BODY)),
        });
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims.to_string()
    }

    fn sign(header: &str, payload: &str) -> String {
        forge(header, payload, |input| key().pair.sign(&SystemRandom::new(), input).unwrap())
    }

    #[test]
    fn accepts_what_the_clients_send() {
        let verify = |body: Option<&[u8]>, seen: Option<&[u8]>, required| {
            let token = sign_service_account_jwt(&key().pem, ACCOUNT, NOW, body).unwrap();
            let parsed = UnverifiedServiceAccountJwt::parse(&token).unwrap();
            assert_eq!(parsed.key_id(), ACCOUNT);
            parsed.verify(public(), NOW, seen, required)
        };
        assert_eq!(verify(Some(BODY), Some(BODY), true), Ok(()));
        assert_eq!(verify(Some(b""), Some(b""), true), Ok(()));
        assert_eq!(verify(Some(b""), None, true), Ok(()), "no body is an empty one");
        assert_eq!(verify(None, Some(BODY), false), Ok(()), "GraphQL clients leave chash out");
        assert_eq!(verify(None, Some(BODY), true), Err(TokenError::BodyHashMissing));
        assert_eq!(verify(Some(BODY), Some(b"other"), false), Err(TokenError::BodyHash), "present means checked");
        assert_eq!(verify(Some(BODY), None, false), Err(TokenError::BodyHash));
        let url = sign(&header().replace("\"JWT\"", "\"jwt\""), &payload(&json!({})));
        assert_eq!(check(&url), Ok(()), "typ is compared without case");
    }

    #[test]
    fn the_hash_of_nothing_is_what_the_clients_write() {
        assert_eq!(body_hash(None), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn refuses_other_algorithms_types_and_headers() {
        for alg in ["none", "nOnE", "HS384", "ES256", "ES512", "RS256", "EdDSA", "es384", ""] {
            let token = sign(&header().replace("ES384", alg), &payload(&json!({})));
            assert_eq!(check(&token), Err(TokenError::Algorithm), "{alg}");
        }
        for typ in ["at+jwt", "JOSE", ""] {
            let token = sign(&header().replace("\"JWT\"", &format!("\"{typ}\"")), &payload(&json!({})));
            assert_eq!(check(&token), Err(TokenError::Type), "{typ}");
        }
        for (name, value) in [("crit", json!(["exp"])), ("b64", json!(false)), ("zip", json!("DEF"))] {
            let mut header: Value = serde_json::from_str(&header()).unwrap();
            header[name] = value;
            let error = check(&sign(&header.to_string(), &payload(&json!({})))).unwrap_err();
            assert!(matches!(error, TokenError::Malformed(_)), "{name}");
        }
        for kid in [json!(""), json!(1), json!(null)] {
            let header = json!({ "alg": "ES384", "kid": kid, "typ": "JWT" }).to_string();
            assert!(matches!(check(&sign(&header, &payload(&json!({})))), Err(TokenError::Malformed(_))), "{kid}");
        }
    }

    #[test]
    fn a_key_in_the_header_is_never_used() {
        let foreign = make();
        let header = json!({
            "alg": "ES384", "kid": ACCOUNT, "typ": "JWT", "jku": "https://evil.example", "jwk": { "kty": "EC" },
        });
        let token = forge(&header.to_string(), &payload(&json!({})), |input| {
            foreign.pair.sign(&SystemRandom::new(), input).unwrap()
        });
        assert_eq!(check(&token), Err(TokenError::Signature));
    }

    #[test]
    fn refuses_an_hmac_made_with_the_public_key() {
        let secret = hmac::Key::new(hmac::HMAC_SHA384, public());
        for alg in ["HS384", "ES384"] {
            let token =
                forge(&header().replace("ES384", alg), &payload(&json!({})), |input| hmac::sign(&secret, input));
            assert!(check(&token).is_err(), "{alg}");
        }
    }

    #[test]
    fn refuses_foreign_altered_and_odd_sized_signatures() {
        let foreign = make();
        let stolen_kid = sign_service_account_jwt(&foreign.pem, ACCOUNT, NOW, Some(BODY)).unwrap();
        assert_eq!(check(&stolen_kid), Err(TokenError::Signature));
        let der = forge(&header(), &payload(&json!({})), |input| key().der.sign(&SystemRandom::new(), input).unwrap());
        assert!(check(&der).is_err(), "ASN.1 instead of fixed length");
        for signature in [vec![], vec![0; 96], vec![0; 95], vec![0; 97], vec![0; 192], vec![0xff; 96]] {
            assert!(check(&forge(&header(), &payload(&json!({})), |_| &signature)).is_err(), "{}", signature.len());
        }
        let good = sign(&header(), &payload(&json!({})));
        let (head, signature) = good.rsplit_once('.').unwrap();
        for bad in [
            format!("{good}.{signature}"),
            format!("{good}."),
            format!("{good}{signature}"),
            head.to_owned(),
            format!("{head}."),
            format!("{good} "),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        assert_eq!(check(&good), Ok(()));
    }

    #[test]
    fn refuses_public_keys_that_are_not_uncompressed_p384_points() {
        let token = sign(&header(), &payload(&json!({})));
        let parsed = UnverifiedServiceAccountJwt::parse(&token).unwrap();
        let mut hybrid = public().to_vec();
        hybrid[0] = 6;
        let mut off_curve = public().to_vec();
        off_curve[96] ^= 1;
        let compressed = [&[2 + (public()[96] & 1)], &public()[1..49]].concat();
        for bad in [&[][..], &public()[..96], &hybrid, &off_curve, &compressed, &[4; 65]] {
            assert_eq!(parsed.verify(bad, NOW, Some(BODY), true), Err(TokenError::Signature));
        }
    }

    #[test]
    fn refuses_claims_that_do_not_hold() {
        let now = NOW.seconds();
        let upper = body_hash(Some(BODY)).to_uppercase();
        let short = &body_hash(Some(BODY))[..63];
        for (changes, error) in [
            (json!({ "sub": "//agents.api.mondoo.app/serviceaccounts/other" }), TokenError::SubjectIsNotKey),
            (json!({ "sub": null }), TokenError::SubjectIsNotKey),
            (json!({ "iss": "mondoo/other" }), TokenError::Issuer),
            (json!({ "iss": null }), TokenError::Issuer),
            (json!({ "exp": now - 60, "iat": now - 120, "nbf": now - 120 }), TokenError::Expired),
            (json!({ "iat": now + 61, "exp": now + 100 }), TokenError::NotYetValid),
            (json!({ "nbf": now + 61 }), TokenError::NotYetValid),
            (json!({ "exp": now + 66 }), TokenError::TooLong),
            (json!({ "exp": now + 86_400 }), TokenError::TooLong),
            (json!({ "iat": now, "exp": now - 1 }), TokenError::TooLong),
            (json!({ "exp": i64::MAX, "iat": 0 }), TokenError::TooLong),
            (json!({ "chash": null }), TokenError::BodyHashMissing),
            (json!({ "chash": body_hash(Some(b"other")) }), TokenError::BodyHash),
            (json!({ "chash": upper }), TokenError::BodyHash),
            (json!({ "chash": short }), TokenError::BodyHash),
            (json!({ "chash": "" }), TokenError::BodyHash),
            (json!({ "chash": 1 }), TokenError::BodyHash),
        ] {
            assert_eq!(check(&sign(&header(), &payload(&changes))), Err(error), "{changes}");
        }
        for name in ["exp", "nbf", "iat"] {
            for value in [json!(null), json!(format!("{now}")), json!(1.5), json!(-1), json!([now]), json!(u64::MAX)] {
                let error = check(&sign(&header(), &payload(&json!({ name: value })))).unwrap_err();
                assert!(matches!(error, TokenError::Malformed(_)), "{name} {value}: {error}");
            }
        }
        let doubled = payload(&json!({})).replacen('{', &format!(r#"{{"sub":"{ACCOUNT}","#), 1);
        assert!(matches!(check(&sign(&header(), &doubled)), Err(TokenError::Payload(_))));
        for changes in [
            json!({ "exp": now - 59, "iat": now - 119, "nbf": now - 119 }),
            json!({ "iat": now + 60, "nbf": now + 60, "exp": now + 120 }),
        ] {
            assert_eq!(check(&sign(&header(), &payload(&changes))), Ok(()), "within the leeway: {changes}");
        }
    }

    #[test]
    fn a_client_needs_a_p384_key_in_pkcs8() {
        let sec1 = key().pem.replace("PRIVATE KEY", "EC PRIVATE KEY");
        for bad in ["", "x", &sec1, &crate::pem::encode("PRIVATE KEY", &[1, 2, 3])] {
            let error = sign_service_account_jwt(bad, ACCOUNT, NOW, None).unwrap_err();
            assert_eq!(error, crate::keys::KeyError::PrivateKey);
        }
        let (secret, _) = crate::secret::generate_api_token(&sallyport_domain::entropy::SystemEntropy);
        assert!(UnverifiedServiceAccountJwt::parse(secret.expose_secret()).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}") {
            let _ = UnverifiedServiceAccountJwt::parse(&text);
        }

        #[test]
        fn no_signed_garbage_panics_or_passes(payload in "\\PC{0,80}", json in "[{}\\[\\]\",:a-z0-9]{0,60}") {
            prop_assert!(check(&sign(&header(), &payload)).is_err());
            prop_assert!(check(&sign(&header(), &json)).is_err());
        }

        #[test]
        fn no_key_or_body_panics(public in proptest::collection::vec(any::<u8>(), 0..120), body in any::<Option<Vec<u8>>>()) {
            let token = sign(&header(), &payload(&json!({})));
            let parsed = UnverifiedServiceAccountJwt::parse(&token).unwrap();
            prop_assert!(parsed.verify(&public, NOW, body.as_deref(), true).is_err());
        }
    }
}
