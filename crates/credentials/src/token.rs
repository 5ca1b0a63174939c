//! What all our JWTs have in common: the compact form (RFC 7515 section 7.1) and why a token is refused.
//!
//! Signing and checking are done here with aws-lc-rs and not through a JOSE library: each kind of token has exactly one
//! algorithm, so there is nothing to negotiate and nothing to confuse.

use sallyport_domain::base64url;
use sallyport_domain::claims::{ClaimsError, JSON_DEPTH_MAX, parse_object};
use sallyport_domain::clock::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::keys::KeyError;

/// Longest token read or made, in bytes.
pub const TOKEN_MAX: usize = 16 * 1024;
/// Longest header read, in bytes of base64url.
pub const HEADER_MAX: usize = 4 * 1024;
/// How far ahead another replica's or a client's clock may be, in seconds, where a rule below does not say otherwise.
pub const CLOCK_SKEW: i64 = 30;

/// Why a token is not accepted. Holds no part of the token; callers of the API learn none of this but "unauthenticated".
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a compact JWS of the expected form; says in what way.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Its payload is not acceptable JSON.
    #[error("the token's payload {0}")]
    Payload(ClaimsError),
    /// `typ` names another kind of token.
    #[error("the token is of another type")]
    Type,
    /// `alg` is not the one algorithm of this kind of token.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// `kid` names no key of ours.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the token's signature does not verify")]
    Signature,
    /// `iss` is someone else.
    #[error("the token has another issuer")]
    Issuer,
    /// `aud` is someone else.
    #[error("the token was made for another audience")]
    Audience,
    /// `sub` differs from `kid`.
    #[error("the token's subject is not the holder of its key")]
    SubjectIsNotKey,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `iat` or `nbf` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It lives longer than its kind may.
    #[error("the token lives longer than allowed")]
    TooLong,
    /// `chash` is missing where it is required.
    #[error("the token does not cover the request body")]
    BodyHashMissing,
    /// `chash` is not the hash of the request body.
    #[error("the token covers another request body")]
    BodyHash,
}

/// A token cut into its parts; nothing in it is verified.
pub(crate) struct Compact<'t> {
    /// The header's members.
    pub(crate) header: Map<String, Value>,
    /// `header.payload`: what is signed.
    pub(crate) signing_input: &'t str,
    /// The decoded payload.
    pub(crate) payload: Vec<u8>,
    /// The decoded signature.
    pub(crate) signature: Vec<u8>,
}

impl<'t> Compact<'t> {
    /// Cuts `token`: size first, then exactly two dots, strict base64url, one JSON object as header without the members
    /// that change what a signature means (`crit`, `b64`, `zip`, `enc`). Members that carry or point at keys are not looked at.
    pub(crate) fn split(token: &'t str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed("it is too long"));
        }
        let mut dots = token.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenError::Malformed("it has not exactly three parts"));
        };
        if first > HEADER_MAX {
            return Err(TokenError::Malformed("its header is too long"));
        }
        let decode = |part: &str| base64url::decode(part).map_err(|_| TokenError::Malformed("a part is not base64url"));
        let header = parse_object(&decode(&token[..first])?, JSON_DEPTH_MAX, 64)
            .map_err(|_| TokenError::Malformed("its header is not acceptable JSON"))?;
        if ["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
            return Err(TokenError::Malformed("its header asks for what is not supported"));
        }
        Ok(Self {
            header,
            signing_input: &token[..second],
            payload: decode(&token[first + 1..second])?,
            signature: decode(&token[second + 1..])?,
        })
    }

    /// A header member as text; empty when absent or of another type.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.header.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether `typ` is `wanted`, compared as a media type: without case, `application/` left out or not (RFC 7515
    /// section 4.1.9).
    pub(crate) fn is_type(&self, wanted: &str) -> bool {
        let typ = self.text("typ");
        let short = match typ.split_at_checked("application/".len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
            _ => typ,
        };
        short.eq_ignore_ascii_case(wanted)
    }

    /// Refuses a header with members beyond those that we write ourselves.
    pub(crate) fn only_our_header(&self) -> Result<(), TokenError> {
        if self.header.keys().all(|name| matches!(name.as_str(), "alg" | "typ" | "kid")) {
            Ok(())
        } else {
            Err(TokenError::Malformed("its header has members that we do not write"))
        }
    }
}

/// The encoded header of all tokens of one key, with the dot that follows it.
pub(crate) fn header(alg: &str, typ: &str, kid: &str) -> String {
    let json = serde_json::json!({ "alg": alg, "typ": typ, "kid": kid }).to_string();
    let mut encoded = base64url::encode(json);
    encoded.push('.');
    encoded
}

/// Puts a token together: `header` as from [`header`], `claims` as JSON, and what `sign` makes of the two.
pub(crate) fn assemble<S: AsRef<[u8]>>(
    header: &str,
    claims: &impl Serialize,
    sign: impl FnOnce(&[u8]) -> Result<S, KeyError>,
) -> Result<String, KeyError> {
    // What it says is no secret: only its signature makes it a credential.
    let mut json = Vec::with_capacity(2_048);
    serde_json::to_writer(&mut json, claims).map_err(|_| KeyError::TooLarge)?;
    let mut token = Vec::with_capacity(header.len() + json.len() * 4 / 3 + 360);
    token.extend_from_slice(header.as_bytes());
    base64url::append(&json, &mut token);
    let signature = sign(&token)?;
    token.push(b'.');
    base64url::append(signature.as_ref(), &mut token);
    if token.len() > TOKEN_MAX {
        return Err(KeyError::TooLarge);
    }
    // Letters of our own, all of them ASCII.
    String::from_utf8(token).map_err(|_| KeyError::TooLarge)
}

/// The times of a token that we signed: not ended (our own clock set `exp`: no leeway), not from the future.
pub(crate) fn check_times(iat: i64, exp: i64, now: Timestamp) -> Result<(), TokenError> {
    if Timestamp::from_seconds(exp) <= now {
        return Err(TokenError::Expired);
    }
    if Timestamp::from_seconds(iat) > now.plus_seconds(CLOCK_SKEW) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}
