//! A JWT as it arrived: shape, algorithm and times, before any configuration is looked at.
//!
//! May not touch the network, a key or the clock. What it reads is unverified; [`UnverifiedJwt`] shows only what
//! finding the right provider needs. The way on is [`Verifier::verify_jwt`](crate::verifier::Verifier::verify_jwt).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use aws_lc_rs::signature::ParsedPublicKey;
use memchr::memchr_iter;
use sallyport_domain::base64url;
use sallyport_domain::claims::{ARRAY_MAX, Claims, JSON_DEPTH_MAX, Members, Value, parse_members};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::{Check, CheckName, Refusal};
use sallyport_domain::identity::Identity;
use sallyport_domain::provider::Algorithm;

/// Longest subject token, in bytes.
pub const TOKEN_MAX: usize = 16 * 1024;
/// Longest decoded JOSE header, in bytes.
pub const HEADER_MAX: usize = 4 * 1024;

/// Why a subject token is not even worth verifying. Names the rule, never a value of the token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenFault {
    /// Not well-formed: what is wrong, to follow "the subject token".
    #[error("the subject token {0}")]
    Malformed(String),
    /// Signed with an algorithm that no provider may accept: none, HMAC, or an unknown one.
    #[error("the subject token's algorithm is not allowed")]
    AlgorithmNotAllowed,
}

impl TokenFault {
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    /// What the caller is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Malformed(_) => Refusal::MalformedToken(self.to_string()),
            Self::AlgorithmNotAllowed => Refusal::AlgorithmNotAllowed,
        }
    }

    /// The failed check, for the record.
    pub fn check(&self) -> Check {
        match self {
            Self::Malformed(_) => Check::failed(CheckName::Decode).detail(self.to_string()),
            Self::AlgorithmNotAllowed => Check::failed(CheckName::Algorithm)
                .expected(Algorithm::ALL.map(Algorithm::name).join(", "))
                .detail(self.to_string()),
        }
    }
}

impl From<TokenFault> for Refusal {
    fn from(fault: TokenFault) -> Self {
        fault.refusal()
    }
}

/// The rules of time of one endpoint (domain.md, "Rules decided").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeRules {
    /// More than this many seconds must remain until `exp`, without leeway; 0 asks only that it has not passed.
    pub min_remaining_secs: i64,
    /// Seconds by which clocks may differ: for `nbf`, for an `iat` in the future, and for `exp` when
    /// `min_remaining_secs` is 0.
    pub leeway: i64,
    /// Whether `iat` may be missing (SPIFFE, JWT-SVID section 3). When it is there it is checked all the same.
    pub iat_optional: bool,
}

impl TimeRules {
    /// `ExchangeExternalToken`: more than three minutes must remain.
    pub const RPC: Self = Self { min_remaining_secs: 180, leeway: 30, iat_optional: false };
    /// The OAuth 2.0 token endpoint.
    pub const OAUTH: Self = Self { min_remaining_secs: 0, leeway: 30, iat_optional: false };

    /// The same rules with `iat` optional or not.
    #[must_use]
    pub const fn with_iat_optional(mut self, optional: bool) -> Self {
        self.iat_optional = optional;
        self
    }
}

/// A well-formed JWT that nobody has vouched for.
#[derive(Clone)]
pub struct UnverifiedJwt {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What is signed, by its SHA-256.
    digest: Digest,
    /// What is signed, for the algorithms that do not sign that.
    signing_input: Option<Box<str>>,
    signature: Vec<u8>,
    token_hash: [u8; 32],
    not_before: Option<Timestamp>,
    identity: Arc<Identity>,
}

impl fmt::Debug for UnverifiedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedJwt").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl UnverifiedJwt {
    /// Reads a JWT in JWS compact serialisation (RFC 7515 section 7.1). White space around it is cut off.
    ///
    /// # Errors
    /// [`TokenFault::AlgorithmNotAllowed`] for `none` in any casing, HMAC and unknown algorithms; otherwise
    /// [`TokenFault::Malformed`]: size, segments, base64url, JSON, `crit`, `b64`, `zip`, JWE, a foreign `typ`, or a
    /// registered claim of the wrong type.
    pub fn parse(token: &str) -> Result<Self, TokenFault> {
        let token = token.trim_ascii();
        if token.is_empty() {
            return Err(TokenFault::malformed("is empty"));
        }
        if token.len() > TOKEN_MAX {
            return Err(TokenFault::malformed(format!("is longer than {TOKEN_MAX} bytes")));
        }
        let (header, payload, signature) = segments(token)?;
        // Without padding, n bytes are ⌈4n/3⌉ letters.
        if header.len() > (HEADER_MAX * 4).div_ceil(3) {
            return Err(TokenFault::malformed(format!("has a header longer than {HEADER_MAX} bytes")));
        }
        let (signing_input, rest) = token.split_at(header.len() + 1 + payload.len());

        let header = decode("header", header)?;
        let header = parse_members(&header, JSON_DEPTH_MAX, ARRAY_MAX)
            .map_err(|error| TokenFault::malformed(format!("has a header that {error}")))?;
        let (algorithm, key_id) = read_header(&header)?;

        let signature = decode("signature", signature)?;
        if signature.is_empty() {
            return Err(TokenFault::malformed("has no signature"));
        }
        let claims = Claims::parse(decode("payload", payload)?)
            .map_err(|error| TokenFault::malformed(format!("has a payload that is not acceptable: {error}")))?;
        let wrong = |error| TokenFault::malformed(format!("has a claim that is not acceptable: {error}"));
        let not_before = claims.numeric_date("nbf").map_err(wrong)?.map(Timestamp::from_seconds);
        let identity = Identity::from_claims(claims).map_err(wrong)?;

        let of_digest = matches!(algorithm, Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256);
        let mut hash = Context::new(&SHA256);
        hash.update(signing_input.as_bytes());
        let digest = hash.clone().finish();
        hash.update(rest.as_bytes());
        Ok(Self {
            algorithm,
            key_id,
            digest,
            signing_input: (!of_digest).then(|| signing_input.into()),
            signature,
            token_hash: octets(&hash.finish()),
            not_before,
            identity: Arc::new(identity),
        })
    }

    /// `iss` as it stands in the token; `None` when it has none, which only SPIFFE allows.
    pub fn issuer(&self) -> Option<&str> {
        Some(self.identity.issuer.as_str()).filter(|issuer| !issuer.is_empty())
    }

    /// The issuer of a SPIFFE provider that this token would belong to: `spiffe://<trust domain>`, when `sub` is a
    /// SPIFFE ID. `iss` says nothing about those.
    pub fn spiffe_issuer(&self) -> Option<String> {
        trust_domain(&self.identity.subject).map(|domain| format!("spiffe://{domain}"))
    }

    /// `alg`.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `kid`.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// SHA-256 of the whole token: how records name it.
    pub const fn token_hash(&self) -> [u8; 32] {
        self.token_hash
    }

    /// The claims that nobody has vouched for, to be shown to an admin in a simulation and used for nothing else.
    pub fn claims_unverified(&self) -> &Claims {
        &self.identity.claims
    }

    /// Checks `exp`, `nbf` and `iat` (RFC 7519 section 4.1) at `now`.
    ///
    /// # Errors
    /// The refusal that the caller may be told.
    pub fn check_times(&self, now: Timestamp, rules: &TimeRules) -> Result<(), Refusal> {
        let missing =
            |name: &str| Err(Refusal::MalformedToken(format!("the subject token has no '{name}', which is required")));
        let Some(expires_at) = self.identity.expires_at else { return missing("exp") };
        if rules.min_remaining_secs > 0 {
            if expires_at <= now {
                return Err(Refusal::Expired);
            }
            if expires_at <= now.plus_seconds(rules.min_remaining_secs) {
                return Err(Refusal::TooLittleTimeLeft);
            }
        } else if expires_at.plus_seconds(rules.leeway) <= now {
            return Err(Refusal::Expired);
        }
        let latest = now.plus_seconds(rules.leeway);
        if self.not_before.is_some_and(|not_before| not_before > latest) {
            return Err(Refusal::FromTheFuture);
        }
        match self.identity.issued_at {
            Some(issued_at) if issued_at > latest => Err(Refusal::FromTheFuture),
            None if !rules.iat_optional => missing("iat"),
            _ => Ok(()),
        }
    }

    pub(crate) const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// SHA-256 of what is signed, which no change of the signature changes.
    pub(crate) fn signed_hash(&self) -> [u8; 32] {
        octets(&self.digest)
    }

    /// Whether this key made the signature. Of a key for another algorithm it did not.
    pub(crate) fn is_signed_by(&self, key: &ParsedPublicKey) -> bool {
        let verified = match &self.signing_input {
            Some(signing_input) => key.verify_sig(signing_input.as_bytes(), &self.signature),
            None => key.verify_digest_sig(&self.digest, &self.signature),
        };
        verified.is_ok()
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    octets(&digest(&SHA256, bytes))
}

fn octets(sha256: &Digest) -> [u8; 32] {
    let mut octets = [0; 32];
    octets.copy_from_slice(sha256.as_ref());
    octets
}

/// The trust domain of a workload's SPIFFE ID (SPIFFE-ID section 2): `spiffe://<trust domain>/<segments>`.
pub(crate) fn trust_domain(subject: &str) -> Option<&str> {
    let (domain, path) = subject.strip_prefix("spiffe://")?.split_once('/')?;
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let domain_fits =
        (1..=255).contains(&domain.len()) && domain.bytes().all(|byte| letters(byte) && !byte.is_ascii_uppercase());
    let path_fits = subject.len() <= 2_048
        && path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(letters));
    (domain_fits && path_fits).then_some(domain)
}

fn segments(token: &str) -> Result<(&str, &str, &str), TokenFault> {
    let mut dots = memchr_iter(b'.', token.as_bytes());
    match (dots.next(), dots.next(), dots.next()) {
        (Some(first), Some(second), None) => Ok((&token[..first], &token[first + 1..second], &token[second + 1..])),
        (.., Some(_)) if dots.count() == 1 => {
            Err(TokenFault::malformed("is encrypted (JWE); only signed tokens are accepted"))
        }
        _ if token.starts_with('{') => {
            Err(TokenFault::malformed("is a JSON document; a JWT in its compact form is wanted"))
        }
        _ => Err(TokenFault::malformed("is not a JWT: three parts separated by dots are wanted")),
    }
}

fn decode(part: &str, text: &str) -> Result<Vec<u8>, TokenFault> {
    base64url::decode(text)
        .map_err(|_| TokenFault::malformed(format!("has a {part} that is not base64url without padding")))
}

/// Algorithm and key id (RFC 7515 section 4.1). Keys in the header (`jwk`, `jku`, `x5u`, `x5c`) are never looked at.
fn read_header(header: &Members<'_>) -> Result<(Algorithm, Option<String>), TokenFault> {
    // `enc` means JWE, `zip` and `b64` change what is signed, and what `crit` demands is nothing that we know.
    if let Some(name) = ["enc", "zip", "b64", "crit"].into_iter().find(|name| header.contains_key(name)) {
        return Err(TokenFault::malformed(format!("has the header member '{name}', which is not accepted")));
    }
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => Algorithm::from_name(name).ok_or(TokenFault::AlgorithmNotAllowed)?,
        Some(_) => return Err(TokenFault::malformed("has a header whose 'alg' is not a string")),
        None => return Err(TokenFault::malformed("has a header without 'alg'")),
    };
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if is_jwt(typ) => {}
        Some(_) => return Err(TokenFault::malformed("has a header whose 'typ' is not that of a JWT")),
    }
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone().into_owned()),
        Some(_) => return Err(TokenFault::malformed("has a header whose 'kid' is not a string")),
    };
    Ok((algorithm, key_id))
}

/// `JWT` (RFC 7519 section 5.1), `at+jwt` (RFC 9068 section 2.1) or `JOSE` (JWT-SVID section 2.2), with or without the
/// `application/` that RFC 7515 section 4.1.9 lets one leave out. Other types of JWT are meant for other receivers.
fn is_jwt(typ: &str) -> bool {
    let prefixed = typ.get(..12).is_some_and(|prefix| prefix.eq_ignore_ascii_case("application/"));
    let short = if prefixed { &typ[12..] } else { typ };
    ["JWT", "at+jwt", "JOSE"].iter().any(|known| short.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records and used-up tokens outlive a program: another hash would forget them.
    #[test]
    fn a_token_is_named_by_the_hash_of_all_of_it_and_its_use_by_that_of_what_is_signed() {
        for algorithm in ["RS256", "ES384"] {
            let header = base64url::encode(format!(r#"{{"alg":"{algorithm}"}}"#));
            let payload = base64url::encode(r#"{"iss":"https://a.example","sub":"b","exp":1,"iat":1}"#);
            let signed = format!("{header}.{payload}");
            let token = format!("{signed}.{}", base64url::encode("signature"));
            let jwt = UnverifiedJwt::parse(&format!(" {token}\n")).unwrap();
            assert_eq!(jwt.token_hash(), sha256(token.as_bytes()), "{algorithm}");
            assert_eq!(jwt.signed_hash(), sha256(signed.as_bytes()), "{algorithm}");
        }
    }
}
