//! API tokens: standing bearer secrets. Only their SHA-256 is kept; they have 256 random bits, so a plain hash is enough.

use aws_lc_rs::digest::{SHA256, digest};
use sallyport_domain::base64url;
use sallyport_domain::entropy::Entropy;
use secrecy::SecretString;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// How every API token that we make begins, so that scanners for leaked secrets can find it.
pub const API_TOKEN_PREFIX: &str = "sallyport_";
/// Random bytes in an API token.
const SECRET_LEN: usize = 32;

/// A new API token, `sallyport_` and 32 random bytes in base64url, with the hash to keep. The secret is shown once.
pub fn generate_api_token(entropy: &dyn Entropy) -> (SecretString, [u8; 32]) {
    let mut random = Zeroizing::new([0; SECRET_LEN]);
    entropy.fill(random.as_mut_slice());
    let encoded = Zeroizing::new(base64url::encode(random.as_slice()));
    let mut token = String::with_capacity(API_TOKEN_PREFIX.len() + encoded.len());
    token.push_str(API_TOKEN_PREFIX);
    token.push_str(&encoded);
    let hash = hash_secret(&token);
    (SecretString::from(token), hash)
}

/// SHA-256 of a secret: what is kept of an API token, and what one presented is looked up by.
pub fn hash_secret(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    hash
}

/// Compares two hashes in constant time.
pub fn hashes_equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sallyport_domain::entropy::SequenceEntropy;
    use secrecy::ExposeSecret as _;

    #[test]
    fn tokens_differ_have_256_bits_and_are_found_by_their_hash() {
        let entropy = SequenceEntropy::default();
        let (one, hash) = generate_api_token(&entropy);
        let (two, other) = generate_api_token(&entropy);
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert_eq!(one.expose_secret().len(), API_TOKEN_PREFIX.len() + 43);
        assert!(one.expose_secret().starts_with(API_TOKEN_PREFIX));
        assert!(hashes_equal(&hash_secret(one.expose_secret()), &hash));
        assert!(!hashes_equal(&hash, &other));
        assert!(!format!("{one:?}").contains(one.expose_secret()));
    }

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(hash_secret("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
