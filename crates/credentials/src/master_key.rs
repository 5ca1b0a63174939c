//! The master key: what encrypts signing keys at rest. It never leaves this type but as base64 for its own file.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sallyport_domain::entropy::Entropy;
use zeroize::Zeroizing;

/// Length of the key, in bytes.
pub const KEY_LEN: usize = 32;
/// Length of the key as padded base64.
const ENCODED_MAX: usize = 44;
/// First byte of everything sealed: the format below.
const VERSION: u8 = 1;
const FINGERPRINT_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// version ‖ fingerprint ‖ nonce
const HEADER_LEN: usize = 1 + FINGERPRINT_LEN + NONCE_LEN;

/// Padding as it comes: people paste keys from `openssl rand -base64 32` and from tools that leave it out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why the master key, or something sealed with it, cannot be used. Never holds key material.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// Not base64 of 32 bytes.
    #[error("the master key must be 32 bytes in base64, as `openssl rand -base64 32` prints them")]
    Malformed,
    /// The data was sealed with another master key.
    #[error("the data was sealed with another master key ({sealed_with}); this one is {this}")]
    WrongKey {
        /// Fingerprint of the key that sealed it.
        sealed_with: Fingerprint,
        /// Fingerprint of the key at hand.
        this: Fingerprint,
    },
    /// Sealed by a newer version of this program.
    #[error("the sealed data has format {0}, which this version cannot read")]
    UnknownFormat(u8),
    /// Cut off, altered, or moved from another place.
    #[error("the sealed data was altered or belongs elsewhere")]
    Tampered,
    /// The cipher refused to work.
    #[error("the cipher failed")]
    Cipher,
}

/// Names a master key without telling anything about it: the first 8 bytes of a key derived for this one use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; FINGERPRINT_LEN]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A 256-bit key from which the sealing key is derived (HKDF-SHA-256, RFC 5869). While the master key is being replaced, it has
/// the other one beside it: what either sealed is opened, and only this one seals.
pub struct MasterKey {
    bytes: Zeroizing<[u8; KEY_LEN]>,
    cipher: LessSafeKey,
    fingerprint: Fingerprint,
    fallback: Option<Box<MasterKey>>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.fingerprint)
    }
}

struct FingerprintLen;

impl KeyType for FingerprintLen {
    fn len(&self) -> usize {
        FINGERPRINT_LEN
    }
}

impl MasterKey {
    /// Reads `SALLYPORT_MASTER_KEY`: standard base64 of 32 bytes, padded or not, white space around it ignored.
    ///
    /// # Errors
    /// [`MasterKeyError::Malformed`] when it is anything else.
    pub fn from_base64(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim();
        if text.len() > ENCODED_MAX {
            return Err(MasterKeyError::Malformed);
        }
        let decoded = Zeroizing::new(LENIENT.decode(text).map_err(|_| MasterKeyError::Malformed)?);
        let bytes = <[u8; KEY_LEN]>::try_from(decoded.as_slice()).map_err(|_| MasterKeyError::Malformed)?;
        Self::new(Zeroizing::new(bytes))
    }

    /// Draws a new one.
    ///
    /// # Errors
    /// [`MasterKeyError::Cipher`] when the cipher cannot be set up.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, MasterKeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        entropy.fill(bytes.as_mut_slice());
        Self::new(bytes)
    }

    fn new(bytes: Zeroizing<[u8; KEY_LEN]>) -> Result<Self, MasterKeyError> {
        let failed = |_| MasterKeyError::Cipher;
        let root: Prk = Salt::new(HKDF_SHA256, b"sallyport master key").extract(bytes.as_slice());
        let cipher = UnboundKey::from(root.expand(&[b"seal v1"], &AES_256_GCM).map_err(failed)?);
        let mut fingerprint = [0; FINGERPRINT_LEN];
        root.expand(&[b"fingerprint"], FingerprintLen).and_then(|okm| okm.fill(&mut fingerprint)).map_err(failed)?;
        Ok(Self { bytes, cipher: LessSafeKey::new(cipher), fingerprint: Fingerprint(fingerprint), fallback: None })
    }

    /// The same key, which also opens what `other` sealed.
    #[must_use]
    pub fn with_fallback(self, other: Self) -> Self {
        Self { fallback: Some(Box::new(other)), ..self }
    }

    /// Whether this key sealed the data, as its head says; `false` for its fallback's.
    pub fn sealed(&self, data: &[u8]) -> bool {
        data.get(1..=FINGERPRINT_LEN) == Some(&self.fingerprint.0)
    }

    /// The key as padded base64, for the file it is kept in.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.bytes.as_slice()))
    }

    /// What names this key in messages.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Encrypts `plaintext` (AES-256-GCM, NIST SP 800-38D, random 96-bit nonce) bound to `context`, which says what
    /// it is and where it belongs and must be given again to open it.
    /// Layout: version (1) ‖ key fingerprint (8) ‖ nonce (12) ‖ ciphertext ‖ tag (16).
    ///
    /// # Errors
    /// [`MasterKeyError::Cipher`] for plaintexts beyond the cipher's 64 GiB.
    pub fn seal(&self, context: &[u8], plaintext: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, MasterKeyError> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut body = Vec::with_capacity(plaintext.len() + TAG_LEN);
        body.extend_from_slice(plaintext);
        self.cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.associated_data(context)),
                &mut body,
            )
            .map_err(|_| MasterKeyError::Cipher)?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.fingerprint.0);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Decrypts what [`Self::seal`] made for the same `context`.
    ///
    /// # Errors
    /// [`MasterKeyError::WrongKey`] when another master key sealed it, [`MasterKeyError::UnknownFormat`] for a version
    /// to come, else [`MasterKeyError::Tampered`].
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        match sealed.first() {
            None => return Err(MasterKeyError::Tampered),
            Some(&VERSION) => {}
            Some(&other) => return Err(MasterKeyError::UnknownFormat(other)),
        }
        let (header, body) = sealed.split_at_checked(HEADER_LEN).ok_or(MasterKeyError::Tampered)?;
        let (fingerprint, nonce) = header[1..].split_at(FINGERPRINT_LEN);
        if fingerprint != self.fingerprint.0 {
            if let Some(fallback) = self.fallback.as_ref().filter(|fallback| fallback.sealed(sealed)) {
                return fallback.open(context, sealed);
            }
            let sealed_with = Fingerprint(fingerprint.try_into().map_err(|_| MasterKeyError::Tampered)?);
            return Err(MasterKeyError::WrongKey { sealed_with, this: self.fingerprint });
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| MasterKeyError::Tampered)?;
        let mut plaintext = Zeroizing::new(body.to_vec());
        let length = self
            .cipher
            .open_in_place(nonce, Aad::from(self.associated_data(context)), &mut plaintext)
            .map_err(|_| MasterKeyError::Tampered)?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }

    fn associated_data(&self, context: &[u8]) -> Vec<u8> {
        [&[VERSION], self.fingerprint.0.as_slice(), context].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sallyport_domain::entropy::SequenceEntropy;

    fn key() -> (MasterKey, SequenceEntropy) {
        let entropy = SequenceEntropy::default();
        (MasterKey::generate(&entropy).unwrap(), entropy)
    }

    #[test]
    fn base64_round_trips_padded_or_not_and_with_a_line_feed() {
        let (key, entropy) = key();
        let text = key.to_base64();
        let sealed = key.seal(b"c", b"secret", &entropy).unwrap();
        for form in [text.to_string(), format!("{}\n", *text), text.trim_end_matches('=').to_owned()] {
            assert_eq!(*MasterKey::from_base64(&form).unwrap().open(b"c", &sealed).unwrap(), b"secret");
        }
    }

    #[test]
    fn refuses_keys_of_another_length_or_alphabet() {
        let short = STANDARD.encode([7; 31]);
        let long = STANDARD.encode([7; 33]);
        let url = STANDARD.encode([0xff; 32]).replace('/', "_");
        for bad in ["", "x", &short, &long, &url, "not base64 at all, not at all, not at all!!"] {
            assert_eq!(MasterKey::from_base64(bad).unwrap_err(), MasterKeyError::Malformed, "{bad}");
        }
    }

    #[test]
    fn another_master_key_is_named_as_the_cause() {
        let (key, entropy) = key();
        let other = MasterKey::generate(&entropy).unwrap();
        let sealed = key.seal(b"c", b"secret", &entropy).unwrap();
        assert_eq!(
            other.open(b"c", &sealed).unwrap_err(),
            MasterKeyError::WrongKey { sealed_with: key.fingerprint(), this: other.fingerprint() }
        );
    }

    #[test]
    fn a_fallback_opens_and_never_seals() {
        let (old, entropy) = key();
        let new = MasterKey::generate(&entropy).unwrap();
        let by_old = old.seal(b"c", b"secret", &entropy).unwrap();
        let both = MasterKey::from_base64(&new.to_base64()).unwrap().with_fallback(old);
        assert_eq!(*both.open(b"c", &by_old).unwrap(), b"secret");
        assert!(!both.sealed(&by_old));
        let by_both = both.seal(b"c", b"secret", &entropy).unwrap();
        assert!(both.sealed(&by_both));
        assert_eq!(*new.open(b"c", &by_both).unwrap(), b"secret");
        let third = MasterKey::generate(&entropy).unwrap().seal(b"c", b"x", &entropy).unwrap();
        assert!(matches!(both.open(b"c", &third), Err(MasterKeyError::WrongKey { .. })));
    }

    #[test]
    fn every_altered_byte_cut_or_changed_context_is_noticed() {
        let (key, entropy) = key();
        let sealed = key.seal(b"keys/1", b"secret", &entropy).unwrap();
        for i in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[i] ^= 1;
            assert!(key.open(b"keys/1", &altered).is_err(), "byte {i}");
            assert!(key.open(b"keys/1", &sealed[..i]).is_err(), "cut at {i}");
        }
        assert_eq!(key.open(b"keys/2", &sealed).unwrap_err(), MasterKeyError::Tampered);
    }

    #[test]
    fn the_same_plaintext_seals_differently_each_time() {
        let (key, entropy) = key();
        assert_ne!(key.seal(b"", b"x", &entropy).unwrap(), key.seal(b"", b"x", &entropy).unwrap());
    }

    #[test]
    fn debug_shows_no_key() {
        let (key, _) = key();
        let shown = format!("{key:?}");
        assert!(shown.len() < 40 && !shown.contains(&*key.to_base64()), "{shown}");
    }

    proptest! {
        #[test]
        fn opening_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), mine in any::<bool>()) {
            let (key, _) = key();
            let mut sealed = bytes;
            if mine {
                sealed.splice(0..0, key.fingerprint.0);
                sealed.insert(0, VERSION);
            }
            prop_assert!(key.open(b"", &sealed).is_err());
        }
    }
}
