//! OIDC ID tokens for third parties (OpenID Connect Core 1.0 section 2): RS256, verified by them from our key set.
//! Our own API never accepts one.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::CredentialId;
use serde::{Deserialize, Serialize};

use crate::access_token::typed;
use crate::keys::{KeyError, Purpose};
use crate::ring::KeyRing;
use crate::token::{Compact, TokenError, assemble, check_times};

/// What an ID token says; the members bear their names on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdTokenClaims {
    /// Issuer: the public URL.
    pub iss: String,
    /// Subject: the service account's MRN.
    pub sub: String,
    /// Audience: the third party.
    pub aud: String,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// From when it is no longer valid, in seconds since 1970.
    pub exp: i64,
    /// Its id; the last part of the credential's MRN.
    pub jti: CredentialId,
}

impl KeyRing {
    /// Signs an ID token (RS256, some 300 µs).
    ///
    /// # Errors
    /// [`KeyError::NoSigningKey`] before the first key exists; [`KeyError::TooLarge`] for an oversized audience.
    pub fn sign_id_token(&self, claims: &IdTokenClaims) -> Result<String, KeyError> {
        let signer = self.id_signer.as_ref().ok_or(KeyError::NoSigningKey(Purpose::IdToken))?;
        assemble(&signer.header, claims, |input| {
            let mut signature = vec![0; signer.key.public_modulus_len()];
            signer
                .key
                .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature)
                .map_err(|_| KeyError::Signing(Purpose::IdToken))?;
            Ok(signature)
        })
    }

    /// Checks an ID token of ours, for introspection and revocation: as [`Self::verify_access_token`], but whatever the
    /// audience. Never a proof of who calls.
    ///
    /// # Errors
    /// Says what failed first.
    pub fn verify_id_token(&self, token: &str, issuer: &str, now: Timestamp) -> Result<IdTokenClaims, TokenError> {
        let compact = Compact::split(token)?;
        if !compact.is_type("JWT") {
            return Err(TokenError::Type);
        }
        if compact.text("alg") != "RS256" {
            return Err(TokenError::Algorithm);
        }
        compact.only_our_header()?;
        let key = self.id_keys.get(compact.text("kid")).ok_or(TokenError::UnknownKey)?;
        key.verify_sig(compact.signing_input.as_bytes(), &compact.signature).map_err(|_| TokenError::Signature)?;
        let claims: IdTokenClaims = typed(&compact.payload)?;
        if claims.iss != issuer {
            return Err(TokenError::Issuer);
        }
        check_times(claims.iat, claims.exp, now)?;
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ACCOUNT, ISSUER, Installation, NOW, installation};
    use uuid::Uuid;

    fn claims() -> IdTokenClaims {
        IdTokenClaims {
            iss: ISSUER.into(),
            sub: ACCOUNT.into(),
            aud: "https://vault.example".into(),
            iat: NOW.seconds(),
            exp: NOW.seconds() + 600,
            jti: CredentialId(Uuid::from_u128(9)),
        }
    }

    #[test]
    fn a_third_party_verifies_it_from_the_published_keys() {
        let token = installation().ring.sign_id_token(&claims()).unwrap();
        let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(installation().ring.jwks().clone()).unwrap();
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(header.typ.as_deref(), Some("JWT"));
        let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        rules.set_audience(&["https://vault.example"]);
        rules.set_issuer(&[ISSUER]);
        rules.validate_exp = false;
        assert_eq!(jsonwebtoken::decode::<IdTokenClaims>(&token, &key, &rules).unwrap().claims, claims());
    }

    #[test]
    fn verifies_its_own_and_refuses_the_rest() {
        let ring = &installation().ring;
        let token = ring.sign_id_token(&claims()).unwrap();
        assert_eq!(ring.verify_id_token(&token, ISSUER, NOW), Ok(claims()));
        assert_eq!(ring.verify_id_token(&token, "https://other.example", NOW), Err(TokenError::Issuer));
        assert_eq!(ring.verify_id_token(&token, ISSUER, NOW.plus_seconds(600)), Err(TokenError::Expired));
        let foreign = Installation::new().ring.sign_id_token(&claims()).unwrap();
        assert_eq!(ring.verify_id_token(&foreign, ISSUER, NOW), Err(TokenError::UnknownKey));
        let (head, _) = token.rsplit_once('.').unwrap();
        assert_eq!(ring.verify_id_token(&format!("{head}."), ISSUER, NOW), Err(TokenError::Signature));
    }
}
