//! base64url without padding (RFC 4648 section 5), as tokens have it (RFC 7515 section 2): one alphabet, no white space, no bits
//! left over that would make a second spelling of the same bytes.

use std::sync::LazyLock;

use base64::DecodeError;
use base64::Engine as _;

/// By what the processor has for many letters at once, if it has anything.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
static CODEC: LazyLock<base64::engine::Simd> =
    LazyLock::new(|| base64::engine::Simd::url_safe(base64::engine::general_purpose::NO_PAD));
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
static CODEC: LazyLock<base64::engine::GeneralPurpose> =
    LazyLock::new(|| base64::engine::general_purpose::URL_SAFE_NO_PAD);

/// As text.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    CODEC.encode(bytes)
}

/// Puts the letters of these bytes behind what is there.
pub fn append(bytes: &[u8], text: &mut Vec<u8>) {
    let began = text.len();
    // Without padding, n bytes are ⌈4n/3⌉ letters.
    text.resize(began + (bytes.len() * 4).div_ceil(3), 0);
    let written = CODEC.encode_slice(bytes, &mut text[began..]);
    debug_assert_eq!(written, Ok(text.len() - began), "there is room for exactly that");
}

/// The bytes of a text.
///
/// # Errors
/// When it is not what [`encode`] makes of any bytes.
pub fn decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, DecodeError> {
    CODEC.decode(text)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_is_one_spelling_of_everything() {
        assert_eq!(encode([0xfb, 0xef, 0xff]), "--__");
        for wrong in ["--__=", "--_", "+-__", "-/__", "-- __", "\n--__", "--__-", "--_\u{e9}"] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
        // Long ones, which are read many letters at once.
        let long = encode([0xff; 301]);
        for (place, letter) in (0..long.len()).flat_map(|place| ["=", "+", "/", "\0", "\u{80}"].map(|l| (place, l))) {
            assert!(
                decode(format!("{}{letter}{}", &long[..place], &long[place + 1..])).is_err(),
                "{letter:?} at {place}"
            );
        }
        // The last letter has bits to spare, which must be zero.
        assert!(long.ends_with("_w"));
        assert!(decode(format!("{}x", &long[..long.len() - 1])).is_err());
    }

    proptest! {
        #[test]
        fn it_is_what_it_is_letter_by_letter(bytes in prop::collection::vec(any::<u8>(), 0..600), text in "[A-Za-z0-9_-]{0,200}", other: String) {
            let encoded = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert_eq!(&encode(&bytes), &encoded);
            let mut appended = b"before".to_vec();
            append(&bytes, &mut appended);
            prop_assert_eq!(appended, format!("before{encoded}").into_bytes());
            prop_assert_eq!(decode(&encoded), Ok(bytes));
            for text in [text, other] {
                prop_assert_eq!(decode(&text), URL_SAFE_NO_PAD.decode(&text));
            }
        }
    }
}
