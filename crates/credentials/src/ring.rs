//! The key ring: all signing keys, opened and ready, as one immutable value. Callers hold it behind an `ArcSwap` and
//! replace it whenever the stored keys change; what is in hand goes on working.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256,
};
use serde_json::{Value, json};

use crate::key_pair::Authority;
use crate::keys::{KeyError, Purpose, SlotState, StoredKey, ed25519_jwk, p384_thumbprint, rsa_jwk};
use crate::master_key::MasterKey;
use crate::token;

/// A private key together with the encoded header of the tokens it signs.
pub(crate) struct Signer<K> {
    pub(crate) key: K,
    pub(crate) header: String,
}

/// Every signing key of the installation: the current one of each purpose to sign with, all of them to check with.
pub struct KeyRing {
    pub(crate) access_signer: Option<Signer<Ed25519KeyPair>>,
    pub(crate) id_signer: Option<Signer<rsa::KeyPair>>,
    pub(crate) authority: Option<Authority>,
    pub(crate) access_keys: HashMap<String, ParsedPublicKey>,
    pub(crate) id_keys: HashMap<String, ParsedPublicKey>,
    jwks: Value,
    ca_pem: String,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("jwks", &self.jwks).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Opens all `keys`. Of each purpose, the key in the slot [`SlotState::Current`] signs; were there two, the one with
    /// the later `activates_at` (then the greater id), so that all replicas agree. A purpose without a current key
    /// makes its `sign_…` fail, not this.
    ///
    /// # Errors
    /// When a key was sealed with another master key, was altered, or is not what its record says. A ring is whole or
    /// not at all: with a key missing, credentials would fail one by one.
    pub fn open(keys: &[StoredKey], master: &MasterKey) -> Result<Self, KeyError> {
        let mut ordered: Vec<&StoredKey> = keys.iter().collect();
        ordered.sort_by(|a, b| (a.purpose, a.created_at, &a.id).cmp(&(b.purpose, b.created_at, &b.id)));
        let signs = |key: &StoredKey| signing(keys, key.purpose).is_some_and(|current| current.id == key.id);

        let mut ring = Self {
            access_signer: None,
            id_signer: None,
            authority: None,
            access_keys: HashMap::new(),
            id_keys: HashMap::new(),
            jwks: Value::Null,
            ca_pem: String::new(),
        };
        let mut published = Vec::new();
        for stored in ordered {
            let private = stored.open(master)?;
            let corrupt = |_| stored.corrupt();
            match stored.purpose {
                Purpose::AccessToken => {
                    let key = Ed25519KeyPair::from_pkcs8(&private).map_err(corrupt)?;
                    let (kid, jwk) = ed25519_jwk(key.public_key().as_ref());
                    same_id(stored, &kid)?;
                    let public = ParsedPublicKey::new(&ED25519, key.public_key().as_ref()).map_err(corrupt)?;
                    ring.access_keys.insert(kid.clone(), public);
                    published.push(jwk);
                    if signs(stored) {
                        ring.access_signer = Some(Signer { key, header: token::header("EdDSA", "at+jwt", &kid) });
                    }
                }
                Purpose::IdToken => {
                    let key = rsa::KeyPair::from_pkcs8(&private).map_err(corrupt)?;
                    let (kid, jwk) = rsa_jwk(key.public_key());
                    same_id(stored, &kid)?;
                    let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref())
                        .map_err(corrupt)?;
                    ring.id_keys.insert(kid.clone(), public);
                    published.push(jwk);
                    if signs(stored) {
                        ring.id_signer = Some(Signer { key, header: token::header("RS256", "JWT", &kid) });
                    }
                }
                Purpose::Certificate => {
                    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &private).map_err(corrupt)?;
                    same_id(stored, &p384_thumbprint(key.public_key().as_ref()))?;
                    let authority = Authority::open(key, &stored.public).ok_or_else(|| stored.corrupt())?;
                    ring.ca_pem.push_str(authority.pem());
                    if signs(stored) {
                        ring.authority = Some(authority);
                    }
                }
            }
        }
        ring.jwks = json!({ "keys": published });
        Ok(ring)
    }

    /// The JSON Web Key Set (RFC 7517 section 5) that relying parties read: access and ID token keys of every slot,
    /// oldest first, each with `use`, `alg` and `kid`.
    pub const fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// The CA certificates of every slot, oldest first, as a PEM bundle: the trust anchors of key pair certificates.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

/// The key of `purpose` that signs.
pub(crate) fn signing(keys: &[StoredKey], purpose: Purpose) -> Option<&StoredKey> {
    keys.iter()
        .filter(|key| key.purpose == purpose && key.state == SlotState::Current)
        .max_by(|a, b| (a.activates_at, &a.id).cmp(&(b.activates_at, &b.id)))
}

fn same_id(stored: &StoredKey, id: &str) -> Result<(), KeyError> {
    if stored.id == id { Ok(()) } else { Err(stored.corrupt()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::generate;
    use crate::testing::{ISSUER, Installation, NOW, access_claims, installation};
    use sallyport_domain::clock::Timestamp;
    use sallyport_domain::entropy::SystemEntropy;

    #[test]
    fn publishes_public_members_only_with_use_alg_and_thumbprint() {
        let good = installation();
        let keys = good.ring.jwks()["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2);
        for (key, (purpose, alg, members)) in keys.iter().zip([
            (Purpose::AccessToken, "EdDSA", ["kty", "crv", "x", "use", "alg", "kid"]),
            (Purpose::IdToken, "RS256", ["kty", "n", "e", "use", "alg", "kid"]),
        ]) {
            assert_eq!(key.as_object().unwrap().keys().collect::<Vec<_>>(), members);
            assert_eq!(key["alg"], alg);
            assert_eq!(key["use"], "sig");
            assert_eq!(key["kid"], good.stored(purpose).id.as_str());
            assert_eq!(serde_json::from_slice::<Value>(&good.stored(purpose).public).unwrap(), *key);
            let parsed: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.clone()).unwrap();
            let thumbprint = parsed.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
            assert_eq!(thumbprint, good.stored(purpose).id);
        }
    }

    #[test]
    fn neither_the_ring_nor_a_stored_key_shows_secrets() {
        let good = installation();
        let shown = format!("{:?} {:?}", good.ring, good.keys);
        assert!(!shown.contains("sealed: [") && !shown.contains("\"d\""), "{shown}");
    }

    #[test]
    fn a_wrong_master_key_says_so() {
        let other = MasterKey::generate(&SystemEntropy).unwrap();
        let error = KeyRing::open(&installation().keys, &other).unwrap_err();
        assert!(error.to_string().contains("another master key"), "{error}");
    }

    #[test]
    fn refuses_records_that_were_altered() {
        let good = installation();
        let foreign = Installation::new();
        for index in 0..good.keys.len() {
            let mut cases: Vec<(&str, StoredKey)> = Vec::new();
            let key = || good.keys[index].clone();
            cases.push(("sealed", {
                let mut key = key();
                *key.sealed.last_mut().unwrap() ^= 1;
                key
            }));
            cases.push(("id", StoredKey { id: "other".into(), ..key() }));
            cases.push(("public", StoredKey { public: foreign.keys[index].public.clone(), ..key() }));
            cases.push(("purpose", StoredKey { purpose: good.keys[(index + 1) % 3].purpose, ..key() }));
            cases.push(("swapped", StoredKey { sealed: good.keys[(index + 1) % 3].sealed.clone(), ..key() }));
            cases.push(("empty", StoredKey { sealed: Vec::new(), ..key() }));
            for (what, altered) in cases {
                let error = KeyRing::open(&[altered], &good.master).unwrap_err();
                assert!(matches!(error, KeyError::Sealed { .. } | KeyError::Corrupt { .. }), "{what}: {error}");
            }
        }
    }

    #[test]
    fn the_latest_current_key_signs_whatever_the_order_and_all_verify() {
        let good = installation();
        let make = |state, activates: i64| StoredKey {
            state,
            activates_at: Timestamp::from_seconds(activates),
            ..generate(Purpose::AccessToken, NOW, &SystemEntropy, &good.master).unwrap()
        };
        let keys = [
            make(SlotState::Next, 9),
            make(SlotState::Current, 3),
            make(SlotState::Current, 5),
            make(SlotState::Retired, 8),
        ];
        let mut reversed = keys.to_vec();
        reversed.reverse();
        for keys in [&keys[..], &reversed] {
            let ring = KeyRing::open(keys, &good.master).unwrap();
            assert!(ring.access_signer.as_ref().unwrap().header == token::header("EdDSA", "at+jwt", &signing_id(keys)));
            assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 4);
        }
        let ring = KeyRing::open(&keys, &good.master).unwrap();
        for key in &keys {
            let alone = [StoredKey { state: SlotState::Current, ..key.clone() }];
            let signed = KeyRing::open(&alone, &good.master).unwrap().sign_access_token(&access_claims()).unwrap();
            assert!(ring.verify_access_token(&signed, ISSUER, NOW).is_ok());
        }
    }

    fn signing_id(keys: &[StoredKey]) -> String {
        keys.iter().find(|key| key.activates_at.seconds() == 5).unwrap().id.clone()
    }

    #[test]
    fn no_keys_make_an_empty_ring() {
        let ring = KeyRing::open(&[], &installation().master).unwrap();
        assert_eq!(*ring.jwks(), json!({ "keys": [] }));
        assert_eq!(ring.ca_pem(), "");
    }
}
