//! Access tokens: JWTs of type `at+jwt` (RFC 9068), signed with Ed25519 (RFC 8037), for our own API and nobody else's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sallyport_domain::claims::Claims;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::CredentialId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keys::{KeyError, Purpose};
use crate::ring::KeyRing;
use crate::token::{Compact, TokenError, assemble, check_times};

/// What an access token says (RFC 9068 section 2.2); the members bear their names on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessTokenClaims<'c> {
    /// Issuer: the public URL.
    pub iss: Cow<'c, str>,
    /// Subject: the service account's MRN.
    pub sub: Cow<'c, str>,
    /// Audience: the public URL, nothing else.
    pub aud: Cow<'c, str>,
    /// Client ID of the trust that granted it.
    pub client_id: Cow<'c, str>,
    /// Names of the effective roles, separated by spaces.
    pub scope: Cow<'c, str>,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// From when it is no longer accepted, in seconds since 1970.
    pub exp: i64,
    /// Its id; the last part of the credential's MRN.
    pub jti: CredentialId,
    /// MRNs of the effective roles.
    pub roles: Cow<'c, [String]>,
    /// Whom it was exchanged for.
    pub wif: WifClaims<'c>,
    /// Claims passed through from the subject token; left out when there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub c1wfc: BTreeMap<String, String>,
}

/// The workload behind an access token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WifClaims<'c> {
    /// Issuer of the subject token.
    pub issuer: Cow<'c, str>,
    /// Subject of the subject token.
    pub subject: Cow<'c, str>,
    /// MRN of the provider that verified it.
    pub provider: Cow<'c, str>,
    /// MRN of the trust that accepted it.
    pub trust: Cow<'c, str>,
}

impl KeyRing {
    /// Signs an access token (some 10 µs).
    ///
    /// # Errors
    /// [`KeyError::NoSigningKey`] before the first key exists; [`KeyError::TooLarge`] when the claims make a token longer
    /// than [`crate::token::TOKEN_MAX`], which we would refuse ourselves.
    pub fn sign_access_token(&self, claims: &AccessTokenClaims<'_>) -> Result<String, KeyError> {
        let signer = self.access_signer.as_ref().ok_or(KeyError::NoSigningKey(Purpose::AccessToken))?;
        assemble(&signer.header, claims, |input| {
            signer.key.try_sign(input).map_err(|_| KeyError::Signing(Purpose::AccessToken))
        })
    }

    /// Checks an access token of ours: type, algorithm, key, signature, then issuer and audience (both `issuer`, the
    /// public URL), end (no leeway: our own clocks set it) and `iat` (at most [`crate::token::CLOCK_SKEW`] ahead).
    /// Whether the credential still stands (revoked, disabled) is the caller's to look up by `jti`.
    ///
    /// # Errors
    /// Says which of these failed first.
    pub fn verify_access_token(
        &self,
        token: &str,
        issuer: &str,
        now: Timestamp,
    ) -> Result<AccessTokenClaims<'static>, TokenError> {
        let compact = Compact::split(token)?;
        if !compact.is_type("at+jwt") {
            return Err(TokenError::Type);
        }
        if compact.text("alg") != "EdDSA" {
            return Err(TokenError::Algorithm);
        }
        compact.only_our_header()?;
        let key = self.access_keys.get(compact.text("kid")).ok_or(TokenError::UnknownKey)?;
        key.verify_sig(compact.signing_input.as_bytes(), &compact.signature).map_err(|_| TokenError::Signature)?;
        let claims: AccessTokenClaims<'static> = typed(&compact.payload)?;
        if claims.iss != issuer {
            return Err(TokenError::Issuer);
        }
        if claims.aud != issuer {
            return Err(TokenError::Audience);
        }
        check_times(claims.iat, claims.exp, now)?;
        Ok(claims)
    }
}

/// Reads a verified payload: strict JSON first, then each member with its own type.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, TokenError> {
    let claims = Claims::parse(payload).map_err(TokenError::Payload)?;
    // The reason is dropped: serde's words can repeat values.
    serde_json::from_value(Value::from(&claims))
        .map_err(|_| TokenError::Malformed("a claim is missing or has the wrong type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id_token::IdTokenClaims;
    use crate::keys::StoredKey;
    use crate::testing::{ISSUER, Installation, NOW, access_claims, forge, installation};
    use crate::token::TOKEN_MAX;
    use aws_lc_rs::hmac;
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    fn verify(token: &str) -> Result<AccessTokenClaims<'static>, TokenError> {
        installation().ring.verify_access_token(token, ISSUER, NOW)
    }

    fn part(token: &str, index: usize) -> Value {
        let encoded = token.split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
    }

    /// The payload of a good token with some members replaced.
    fn payload(changes: &Value) -> String {
        let mut claims = serde_json::to_value(access_claims()).unwrap();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.to_string()
    }

    #[test]
    fn round_trips() {
        let token = installation().ring.sign_access_token(&access_claims()).unwrap();
        assert_eq!(verify(&token).unwrap(), access_claims());
    }

    #[test]
    fn says_on_the_wire_exactly_what_is_agreed() {
        let mut claims = access_claims();
        let token = installation().ring.sign_access_token(&claims).unwrap();
        let kid = &installation().stored(Purpose::AccessToken).id;
        assert_eq!(part(&token, 0), json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": kid }));
        assert_eq!(
            part(&token, 1),
            json!({
                "iss": "https://sallyport.example",
                "sub": claims.sub,
                "aud": "https://sallyport.example",
                "client_id": "keen-otter-12345@sallyport.example/wfe",
                "scope": "agent viewer",
                "iat": 1_795_000_000,
                "exp": 1_795_003_600,
                "jti": "00000000-0000-0000-0000-000000000007",
                "roles": ["//iam.api.mondoo.app/roles/agent", "//iam.api.mondoo.app/roles/viewer"],
                "wif": {
                    "issuer": "https://token.actions.githubusercontent.com",
                    "subject": "repo:acme/app:ref:refs/heads/main",
                    "provider": claims.wif.provider,
                    "trust": claims.wif.trust,
                },
                "c1wfc": { "actor": "octocat" },
            })
        );
        claims.c1wfc.clear();
        assert_eq!(part(&installation().ring.sign_access_token(&claims).unwrap(), 1).get("c1wfc"), None);
    }

    #[test]
    fn another_library_verifies_it_from_the_published_keys() {
        let token = installation().ring.sign_access_token(&access_claims()).unwrap();
        let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(installation().ring.jwks().clone()).unwrap();
        let header = jsonwebtoken::decode_header(&token).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
        rules.set_audience(&[ISSUER]);
        rules.set_issuer(&[ISSUER]);
        rules.validate_exp = false;
        assert!(jsonwebtoken::decode::<AccessTokenClaims>(&token, &key, &rules).is_ok());
    }

    #[test]
    fn the_type_is_a_media_type() {
        let good = installation();
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/at+JWT"] {
            let header = good.access_header().replace("at+jwt", typ);
            assert!(verify(&good.sign_as_access(&header, &payload(&json!({})))).is_ok(), "{typ}");
        }
        for typ in ["JWT", "", "at+jwt ", "text/at+jwt", "application/application/at+jwt"] {
            let header = good.access_header().replace("at+jwt", typ);
            let token = good.sign_as_access(&header, &payload(&json!({})));
            assert_eq!(verify(&token), Err(TokenError::Type), "{typ}");
        }
    }

    #[test]
    fn refuses_headers_that_are_not_ours() {
        let good = installation();
        let kid = &good.stored(Purpose::AccessToken).id;
        let other = &good.stored(Purpose::IdToken).id;
        let malformed = |e: &TokenError| matches!(e, TokenError::Malformed(_));
        for alg in ["none", "None", "NONE", "HS256", "RS256", "ES256", "eddsa", "Ed25519", ""] {
            let header = format!(r#"{{"alg":"{alg}","typ":"at+jwt","kid":"{kid}"}}"#);
            let token = good.sign_as_access(&header, &payload(&json!({})));
            assert_eq!(verify(&token), Err(TokenError::Algorithm), "{alg}");
        }
        for header in [
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","crit":["exp"]}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","b64":false}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","zip":"DEF"}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","jku":"https://evil.example"}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","jwk":{{"kty":"OKP"}}}}"#),
            format!(r#"{{"alg":"none","alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#),
            "[]".to_owned(),
            "{".to_owned(),
        ] {
            let error = verify(&good.sign_as_access(&header, &payload(&json!({})))).unwrap_err();
            assert!(malformed(&error), "{header}: {error}");
        }
        for kid in ["", "../../etc/passwd", other] {
            let header = format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#);
            let token = good.sign_as_access(&header, &payload(&json!({})));
            assert_eq!(verify(&token), Err(TokenError::UnknownKey), "{kid}");
        }
    }

    #[test]
    fn refuses_an_hmac_made_with_the_public_key() {
        let good = installation();
        let jwk: Value = serde_json::from_slice(&good.stored(Purpose::AccessToken).public).unwrap();
        let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &public);
        for alg in ["HS256", "EdDSA"] {
            let header = good.access_header().replace("EdDSA", alg);
            assert!(verify(&forge(&header, &payload(&json!({})), |input| hmac::sign(&key, input))).is_err(), "{alg}");
        }
    }

    #[test]
    fn refuses_foreign_keys_and_altered_or_missing_signatures() {
        let good = installation();
        let token = good.ring.sign_access_token(&access_claims()).unwrap();
        let foreign = Installation::new();
        let stolen_kid = foreign.sign_as_access(&good.access_header(), &payload(&json!({})));
        assert_eq!(verify(&stolen_kid), Err(TokenError::Signature));
        assert_eq!(verify(&foreign.ring.sign_access_token(&access_claims()).unwrap()), Err(TokenError::UnknownKey));
        let unsigned = token.rsplit_once('.').unwrap().0;
        assert_eq!(verify(&format!("{unsigned}.")), Err(TokenError::Signature));
        let (head, signature) = token.rsplit_once('.').unwrap();
        let mut raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
        raw.push(0);
        assert_eq!(verify(&format!("{head}.{}", URL_SAFE_NO_PAD.encode(&raw))), Err(TokenError::Signature));
        for at in [0, 31, 32, 63] {
            let mut altered = raw[..64].to_vec();
            altered[at] ^= 1;
            assert_eq!(verify(&format!("{head}.{}", URL_SAFE_NO_PAD.encode(&altered))), Err(TokenError::Signature));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let exp = payload(&json!({ "exp": NOW.seconds() + 86_400 }));
        let swapped = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(exp), parts[2]);
        assert_eq!(verify(&swapped), Err(TokenError::Signature));
    }

    #[test]
    fn refuses_what_is_not_one_compact_token() {
        let token = installation().ring.sign_access_token(&access_claims()).unwrap();
        let (head, signature) = token.rsplit_once('.').unwrap();
        let standard = STANDARD.encode([0xfb; 64]);
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            head.to_owned(),
            format!("{token}.{signature}"),
            format!("{token}."),
            format!(".{token}"),
            format!("{token}="),
            format!("{token} "),
            format!(" {token}"),
            format!("{token}\n"),
            format!("{head}.{standard}"),
            format!("Bearer {token}"),
            format!(r#"{{"payload":"{head}","signatures":[]}}"#),
            format!("{token}{}", "A".repeat(TOKEN_MAX)),
            "é.é.é".into(),
        ] {
            assert!(matches!(verify(&bad), Err(TokenError::Malformed(_))), "{bad:.80}");
        }
    }

    #[test]
    fn refuses_claims_that_do_not_hold() {
        let good = installation();
        let now = NOW.seconds();
        for (changes, error) in [
            (json!({ "iss": "https://evil.example" }), TokenError::Issuer),
            (json!({ "iss": "https://sallyport.example/" }), TokenError::Issuer),
            (json!({ "aud": "https://other.example" }), TokenError::Audience),
            (json!({ "exp": now }), TokenError::Expired),
            (json!({ "exp": now - 1 }), TokenError::Expired),
            (json!({ "iat": now + 31 }), TokenError::NotYetValid),
        ] {
            let token = good.sign_as_access(&good.access_header(), &payload(&changes));
            assert_eq!(verify(&token), Err(error), "{changes}");
        }
        for changes in [
            json!({ "exp": "1795003600" }),
            json!({ "exp": 1_795_003_600.5 }),
            json!({ "exp": null }),
            json!({ "iat": true }),
            json!({ "aud": ["https://sallyport.example"] }),
            json!({ "aud": null }),
            json!({ "sub": 1 }),
            json!({ "jti": "x" }),
            json!({ "roles": "owner" }),
            json!({ "wif": {} }),
            json!({ "c1wfc": { "a": 1 } }),
        ] {
            let token = good.sign_as_access(&good.access_header(), &payload(&changes));
            assert!(matches!(verify(&token), Err(TokenError::Malformed(_))), "{changes}");
        }
        let doubled = payload(&json!({})).replacen('{', r#"{"sub":"someone else","#, 1);
        let twin = payload(&json!({ "Exp": 9_999_999_999_u64 }));
        let trailing = payload(&json!({})) + "{}";
        for text in [doubled, twin, trailing, "null".into(), String::new()] {
            let token = good.sign_as_access(&good.access_header(), &text);
            assert!(matches!(verify(&token), Err(TokenError::Payload(_))), "{text}");
        }
        let edge = good.sign_as_access(&good.access_header(), &payload(&json!({ "exp": now + 1, "iat": now + 30 })));
        assert!(verify(&edge).is_ok());
    }

    #[test]
    fn refuses_an_id_token_as_an_access_token_and_the_other_way_round() {
        let ring = &installation().ring;
        let claims = access_claims();
        let id = IdTokenClaims {
            iss: claims.iss.clone().into_owned(),
            sub: claims.sub.clone().into_owned(),
            aud: claims.aud.clone().into_owned(),
            iat: claims.iat,
            exp: claims.exp,
            jti: claims.jti,
        };
        assert_eq!(verify(&ring.sign_id_token(&id).unwrap()), Err(TokenError::Type));
        let access = ring.sign_access_token(&claims).unwrap();
        assert_eq!(ring.verify_id_token(&access, ISSUER, NOW), Err(TokenError::Type));
    }

    #[test]
    fn makes_no_token_that_it_would_refuse_for_its_size() {
        let mut claims = access_claims();
        claims.c1wfc.insert("big".into(), "x".repeat(TOKEN_MAX));
        assert_eq!(installation().ring.sign_access_token(&claims), Err(KeyError::TooLarge));
    }

    #[test]
    fn without_a_current_key_nothing_is_signed_but_all_is_verified() {
        let good = installation();
        let token = good.ring.sign_access_token(&access_claims()).unwrap();
        let retired: Vec<StoredKey> =
            good.keys.iter().map(|key| StoredKey { state: crate::keys::SlotState::Retired, ..key.clone() }).collect();
        let ring = KeyRing::open(&retired, &good.master).unwrap();
        assert_eq!(ring.sign_access_token(&access_claims()), Err(KeyError::NoSigningKey(Purpose::AccessToken)));
        assert!(ring.verify_access_token(&token, ISSUER, NOW).is_ok());
    }

    proptest! {
        #[test]
        fn verifying_never_panics(text in "\\PC{0,200}") {
            prop_assert!(verify(&text).is_err());
        }

        #[test]
        fn no_signed_garbage_panics_or_passes(header in "\\PC{0,80}", payload in "\\PC{0,80}", ours in any::<bool>()) {
            let header = if ours { installation().access_header() } else { header };
            prop_assert!(verify(&installation().sign_as_access(&header, &payload)).is_err());
        }

        #[test]
        fn no_altered_token_passes(at in 0_usize..400, with in "[A-Za-z0-9_.-]") {
            let token = installation().ring.sign_access_token(&access_claims()).unwrap();
            let mut altered = token.clone();
            altered.replace_range(at..=at, &with);
            prop_assert!(altered == token || verify(&altered).is_err());
        }
    }
}
