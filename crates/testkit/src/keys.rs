//! Signing keys of the stand-in issuer, and their public halves as JWKs.
//!
//! Signatures are made with aws-lc-rs directly, not with a JOSE library: such a library would refuse to make the
//! tokens that a verifier must refuse.

use std::sync::Mutex;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::{lock, random_hex};

/// A JWS signature algorithm (RFC 7518, section 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The name in `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    fn rsa_encoding(self) -> Option<&'static dyn RsaEncoding> {
        Some(match self {
            Self::Rs256 => &RSA_PKCS1_SHA256,
            Self::Rs384 => &RSA_PKCS1_SHA384,
            Self::Rs512 => &RSA_PKCS1_SHA512,
            Self::Ps256 => &RSA_PSS_SHA256,
            Self::Ps384 => &RSA_PSS_SHA384,
            Self::Ps512 => &RSA_PSS_SHA512,
            Self::Es256 | Self::Es384 | Self::EdDsa => return None,
        })
    }
}

/// RSA key pairs that no live issuer holds. Making one takes some 70 ms, so a dropped issuer hands its keys on; two
/// live issuers never share one, or a token of either would verify at the other.
static SPARE_RSA: Mutex<Vec<rsa::KeyPair>> = Mutex::new(Vec::new());

enum Material {
    /// `None` only while being dropped.
    Rsa(Option<rsa::KeyPair>),
    /// The same key twice: with fixed-length signatures, as JOSE has them, and with DER ones, as it has not.
    Ec {
        fixed: EcdsaKeyPair,
        der: EcdsaKeyPair,
    },
    Ed(Ed25519KeyPair),
}

/// A key pair, for one algorithm, under a random key id.
pub(crate) struct SigningKey {
    kid: String,
    algorithm: Algorithm,
    material: Material,
}

impl SigningKey {
    /// A key of its own. RSA blocks for some 70 ms unless a spare one is at hand.
    #[expect(clippy::expect_used, reason = "key generation fails only without memory or randomness")]
    pub(crate) fn generate(algorithm: Algorithm) -> Self {
        let ec = |fixed, der| {
            let fixed = EcdsaKeyPair::generate(fixed).expect("an EC key");
            let pkcs8 = fixed.to_pkcs8v1().expect("a key just made has an encoding");
            let der = EcdsaKeyPair::from_pkcs8(der, pkcs8.as_ref()).expect("which reads back");
            Material::Ec { fixed, der }
        };
        let material = match algorithm {
            Algorithm::Es256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_ASN1_SIGNING),
            Algorithm::Es384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING),
            Algorithm::EdDsa => Material::Ed(Ed25519KeyPair::generate().expect("an Ed25519 key")),
            _ => {
                let spare = lock(&SPARE_RSA).pop();
                let pair = spare.unwrap_or_else(|| rsa::KeyPair::generate(KeySize::Rsa2048).expect("an RSA key"));
                Material::Rsa(Some(pair))
            }
        };
        let kid = format!("{}-{}", algorithm.name().to_ascii_lowercase(), random_hex::<8>());
        Self { kid, algorithm, material }
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Signs by the key's own algorithm.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.sign_as(self.algorithm, message)
    }

    /// Signs with this key by another algorithm of its family; by its own where it has no such one.
    #[expect(clippy::expect_used, reason = "signing with a sound key fails only without memory or randomness")]
    pub(crate) fn sign_as(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        match &self.material {
            Material::Rsa(pair) => {
                let pair = pair.as_ref().expect("present until dropped");
                let encoding = algorithm.rsa_encoding().or(self.algorithm.rsa_encoding()).expect("an RSA algorithm");
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut signature).expect("an RSA signature");
                signature
            }
            Material::Ec { fixed, .. } => {
                fixed.sign(&SystemRandom::new(), message).expect("an ECDSA signature").as_ref().to_vec()
            }
            Material::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// As [`sign`](Self::sign), but ECDSA signatures come in DER, which JOSE forbids.
    #[expect(clippy::expect_used, reason = "as above")]
    pub(crate) fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        match &self.material {
            Material::Ec { der, .. } => {
                der.sign(&SystemRandom::new(), message).expect("an ECDSA signature").as_ref().to_vec()
            }
            Material::Rsa(_) | Material::Ed(_) => self.sign(message),
        }
    }

    /// The public key as JWK, with `kid`, `alg` and, when given, `use`.
    pub(crate) fn jwk(&self, key_use: Option<&str>) -> Value {
        let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.material {
            Material::Rsa(pair) => {
                let (modulus, exponent) =
                    pair.as_ref().map(|pair| rsa_components(pair.public_key().as_ref())).unwrap_or_default();
                json!({"kty": "RSA", "n": base64(&modulus), "e": base64(&exponent)})
            }
            Material::Ec { fixed, .. } => {
                // An uncompressed point: 4, x, y.
                let point = &fixed.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if self.algorithm == Algorithm::Es384 { "P-384" } else { "P-256" };
                json!({"kty": "EC", "crv": curve, "x": base64(x), "y": base64(y)})
            }
            Material::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref())}),
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm.name());
        if let Some(key_use) = key_use {
            jwk["use"] = json!(key_use);
        }
        jwk
    }

    /// The public key in DER (SubjectPublicKeyInfo), as an attacker would use it for an HMAC secret.
    #[expect(clippy::expect_used, reason = "a key just made has an encoding")]
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &self.material {
            Material::Rsa(pair) => pair.as_ref().expect("present until dropped").public_key().as_der(),
            Material::Ec { fixed, .. } => fixed.public_key().as_der(),
            Material::Ed(pair) => pair.public_key().as_der(),
        }
        .expect("a public key's encoding");
        der.as_ref().to_vec()
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        if let Material::Rsa(pair) = &mut self.material
            && let Some(pair) = pair.take()
        {
            lock(&SPARE_RSA).push(pair);
        }
    }
}

/// Modulus and exponent of a DER `RSAPublicKey` (RFC 8017, A.1.1), without leading zeros.
fn rsa_components(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn element(input: &[u8]) -> (&[u8], &[u8]) {
        let (header, length) = match input[1] {
            short @ 0..=0x7f => (2, usize::from(short)),
            long => {
                let digits = usize::from(long & 0x7f);
                let length = input[2..2 + digits].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                (2 + digits, length)
            }
        };
        (&input[header..header + length], &input[header + length..])
    }
    fn unsigned(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
    }
    let (sequence, _) = element(der);
    let (modulus, rest) = element(sequence);
    let (exponent, _) = element(rest);
    (unsigned(modulus), unsigned(exponent))
}
