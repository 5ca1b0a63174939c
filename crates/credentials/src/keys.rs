//! Signing keys as the store keeps them: private part sealed, public part as relying parties read it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use sallyport_domain::base64url;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::entropy::Entropy;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::key_pair::authority_certificate;
use crate::master_key::{MasterKey, MasterKeyError};
use crate::pem;

/// What a signing key is for. Each purpose has one algorithm, so a signature of one is never mistaken for another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Purpose {
    /// Access tokens: Ed25519 (RFC 8037).
    AccessToken,
    /// OIDC ID tokens: RSA-2048, RS256, which every relying party understands.
    IdToken,
    /// Certificates of key pairs: a P-384 certification authority.
    Certificate,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AccessToken, Self::IdToken, Self::Certificate];

    /// The stored name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::IdToken => "id_token",
            Self::Certificate => "certificate",
        }
    }

    /// Reads [`Self::name`] back.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a key stands in its life. Keys in every slot are published.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SlotState {
    /// Published, not yet used: relying parties get to know it.
    Next,
    /// The one that signs.
    Current,
    /// Signs no more; published until the last credential it signed has ended.
    Retired,
}

impl SlotState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Next, Self::Current, Self::Retired];

    /// The stored name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Retired => "retired",
        }
    }

    /// Reads [`Self::name`] back.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Why keys cannot be made, read or used. Holds no key material.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The stored key does not open.
    #[error("the {purpose} key {id} cannot be opened: {cause}")]
    Sealed {
        /// Which key.
        id: String,
        /// What it is for.
        purpose: Purpose,
        /// Why not.
        cause: MasterKeyError,
    },
    /// A new key could not be sealed.
    #[error("a new key cannot be sealed: {0}")]
    Sealing(MasterKeyError),
    /// The stored key opens, but is not what its record says.
    #[error("the {purpose} key {id} is not what its record says")]
    Corrupt {
        /// Which key.
        id: String,
        /// What it is for.
        purpose: Purpose,
    },
    /// A new key could not be made.
    #[error("a {0} key could not be made")]
    Generation(Purpose),
    /// No key of this purpose is current.
    #[error("there is no current {0} key")]
    NoSigningKey(Purpose),
    /// Signing failed.
    #[error("signing with the {0} key failed")]
    Signing(Purpose),
    /// The token would be longer than we accept ourselves: too many roles or passed-through claims.
    #[error("the token would be too large")]
    TooLarge,
    /// A certificate cannot be made of what was asked.
    #[error("the certificate cannot be made: {0}")]
    Certificate(&'static str),
    /// A private key given by a client is not one of ours.
    #[error("the private key is not a P-384 key in PKCS#8 PEM")]
    PrivateKey,
}

/// A signing key at rest. Plain data: the store keeps it as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Its `kid`: the SHA-256 thumbprint of the public key (RFC 7638).
    pub id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it stands in its life.
    pub state: SlotState,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it signs, or is meant to sign.
    pub activates_at: Timestamp,
    /// Retired keys: when nothing it signed is valid any more, so that it may be removed.
    pub retires_at: Option<Timestamp>,
    /// The private key (PKCS#8), sealed by the master key together with `id`, `purpose` and `public`.
    pub sealed: Vec<u8>,
    /// The public key: a JWK as JSON (RFC 7517); for [`Purpose::Certificate`] the CA certificate as PEM.
    pub public: Vec<u8>,
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKey")
            .field("id", &self.id)
            .field("purpose", &self.purpose)
            .field("state", &self.state)
            .field("created_at", &self.created_at)
            .field("activates_at", &self.activates_at)
            .field("retires_at", &self.retires_at)
            .finish_non_exhaustive()
    }
}

/// Makes a key in the slot [`SlotState::Next`], active from `now`; whoever plans (see [`crate::rotation`]) sets the slot
/// and time it wants. An RSA key takes some 70 ms of CPU: not on an async worker.
///
/// # Errors
/// [`KeyError::Generation`] when the generator fails, [`KeyError::Sealing`] when the cipher does.
pub fn generate(
    purpose: Purpose,
    now: Timestamp,
    entropy: &dyn Entropy,
    master: &MasterKey,
) -> Result<StoredKey, KeyError> {
    let failed = |_| KeyError::Generation(purpose);
    let (id, public, private) = match purpose {
        Purpose::AccessToken => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            let private = pair.to_pkcs8v1().map_err(failed)?;
            let (id, jwk) = ed25519_jwk(pair.public_key().as_ref());
            (id, jwk.to_string().into_bytes(), Zeroizing::new(private.as_ref().to_vec()))
        }
        Purpose::IdToken => {
            let pair = rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
            let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
            let (id, jwk) = rsa_jwk(pair.public_key());
            (id, jwk.to_string().into_bytes(), Zeroizing::new(private.as_ref().to_vec()))
        }
        Purpose::Certificate => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?;
            let private = Zeroizing::new(pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec());
            let id = p384_thumbprint(pair.public_key().as_ref());
            let certificate = authority_certificate(pair, &id, now, entropy)?;
            (id, pem::encode("CERTIFICATE", &certificate).into_bytes(), private)
        }
    };
    let sealed = master.seal(&context(purpose, &id, &public), &private, entropy).map_err(KeyError::Sealing)?;
    Ok(StoredKey {
        id,
        purpose,
        state: SlotState::Next,
        created_at: now,
        activates_at: now,
        retires_at: None,
        sealed,
        public,
    })
}

impl StoredKey {
    /// The private key (PKCS#8 DER). Opens only with the record's own id, purpose and public part.
    pub(crate) fn open(&self, master: &MasterKey) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        master.open(&context(self.purpose, &self.id, &self.public), &self.sealed).map_err(|cause| KeyError::Sealed {
            id: self.id.clone(),
            purpose: self.purpose,
            cause,
        })
    }

    /// The same key sealed with `master`; `None` when it is already.
    ///
    /// # Errors
    /// [`KeyError::Sealed`] when neither `master` nor its fallback opens it.
    pub fn reseal(&self, master: &MasterKey, entropy: &dyn Entropy) -> Result<Option<Self>, KeyError> {
        let private = self.open(master)?;
        if master.sealed(&self.sealed) {
            return Ok(None);
        }
        let context = context(self.purpose, &self.id, &self.public);
        let sealed = master.seal(&context, &private, entropy).map_err(KeyError::Sealing)?;
        Ok(Some(Self { sealed, ..self.clone() }))
    }

    /// That this record contradicts itself.
    pub(crate) fn corrupt(&self) -> KeyError {
        KeyError::Corrupt { id: self.id.clone(), purpose: self.purpose }
    }
}

/// Binds the private part to its record, so that someone who can write to the database, but has no master key, can
/// neither swap keys nor put a public key of their own under ours.
fn context(purpose: Purpose, id: &str, public: &[u8]) -> Vec<u8> {
    let mut context = format!("sallyport signing key\0{purpose}\0{id}\0").into_bytes();
    context.extend_from_slice(digest(&SHA256, public).as_ref());
    context
}

/// `kid` and public JWK of an Ed25519 key (RFC 8037 section 2).
pub(crate) fn ed25519_jwk(public: &[u8]) -> (String, Value) {
    let x = base64url::encode(public);
    let kid = thumbprint(&format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": kid });
    (kid, jwk)
}

/// `kid` and public JWK of an RSA key (RFC 7518 section 6.3.1).
pub(crate) fn rsa_jwk(public: &rsa::PublicKey) -> (String, Value) {
    let n = base64url::encode(public.modulus().big_endian_without_leading_zero());
    let e = base64url::encode(public.exponent().big_endian_without_leading_zero());
    let kid = thumbprint(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#));
    let jwk = json!({ "kty": "RSA", "n": n, "e": e, "use": "sig", "alg": "RS256", "kid": kid });
    (kid, jwk)
}

/// Thumbprint of a P-384 key given as SEC1 uncompressed point.
pub(crate) fn p384_thumbprint(public: &[u8]) -> String {
    let (x, y) = public.get(1..).unwrap_or_default().split_at(public.len() / 2);
    let (x, y) = (base64url::encode(x), base64url::encode(y));
    thumbprint(&format!(r#"{{"crv":"P-384","kty":"EC","x":"{x}","y":"{y}"}}"#))
}

/// RFC 7638 section 3: SHA-256 of the required members in lexicographic order, base64url.
fn thumbprint(canonical: &str) -> String {
    base64url::encode(digest(&SHA256, canonical.as_bytes()))
}
