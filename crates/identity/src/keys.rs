//! Verification keys: reading a JWK set, choosing a key for a token, and the cache that keeps them fresh.
//!
//! The key decides what it may verify: its type, curve, `alg`, `use` and `key_ops`, never a token's header alone.
//! The cache holds no lock while it fetches, and a stranger's invented key ids cannot make it fetch more often than
//! its allowance says.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use sallyport_domain::base64url;
use sallyport_domain::claims::{ARRAY_MAX, JSON_DEPTH_MAX, parse_object};
use sallyport_domain::clock::{Clock, Timestamp};
use sallyport_domain::id::ProviderId;
use sallyport_domain::issuer::check_fetch_url;
use sallyport_domain::provider::{Algorithm, KeySource, Provider};
use serde_json::{Map, Value};
use url::Url;

use crate::discovery;
use crate::jwt::UnverifiedJwt;
use crate::outbound::{FetchError, Outbound};

/// Most keys in one set.
const KEYS_MAX: usize = 256;
/// Most keys tried for one token.
const TRIED_MAX: usize = 8;
/// Longest `kid` repeated in an explanation, in characters.
const KID_SHOWN: usize = 64;

/// Who wrote the key set, which decides what a bad key in it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trusted {
    /// The issuer: keys that are not acceptable are left out.
    Fetched,
    /// An admin, who is waiting: secrets and weak or broken keys are refused with an explanation.
    Uploaded,
}

/// Why a key set is not acceptable. Never repeats key material.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeySetError(String);

/// A JWK set (RFC 7517 section 5), its keys ready to verify.
pub struct KeySet {
    keys: Vec<Key>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.kid.as_deref().unwrap_or("(no kid)"))).finish()
    }
}

struct Key {
    kid: Option<String>,
    /// What it may verify, each prepared once.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl Key {
    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers.iter().find(|(a, _)| *a == algorithm).map(|(_, key)| key)
    }
}

/// What became of a signature under a key set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SignatureOutcome {
    /// A key of the set made it.
    Verified,
    /// The named key did not make it.
    Wrong,
    /// The named key is not for this algorithm.
    OtherAlgorithm,
    /// No key has this id; or, without an id, no key that fits made it.
    UnknownKey,
}

impl KeySet {
    /// Reads a key set.
    ///
    /// # Errors
    /// When it is no JWK set, and for [`Trusted::Uploaded`] also when a key in it is secret, weak or broken, or none is
    /// usable.
    pub fn parse(bytes: &[u8], trusted: Trusted) -> Result<Self, KeySetError> {
        let document = parse_object(bytes, JSON_DEPTH_MAX, ARRAY_MAX)
            .map_err(|error| KeySetError(format!("the key set {error}")))?;
        let Some(Value::Array(members)) = document.get("keys") else {
            return Err(KeySetError("the key set has no array 'keys' (RFC 7517 section 5)".into()));
        };
        if members.len() > KEYS_MAX {
            return Err(KeySetError(format!("the key set has more than {KEYS_MAX} keys")));
        }
        let mut keys = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            match (read_key(member), trusted) {
                (Ok(key), _) => keys.push(key),
                (Err(Unusable::NotForUs), _) | (Err(Unusable::Bad(_)), Trusted::Fetched) => {}
                (Err(Unusable::Bad(why)), Trusted::Uploaded) => {
                    return Err(KeySetError(format!("keys[{index}] {why}")));
                }
            }
        }
        if keys.is_empty() && trusted == Trusted::Uploaded {
            return Err(KeySetError(
                "the key set has no key that can verify a signature: RSA, EC (P-256, P-384) or OKP (Ed25519), \
                 with 'use' sig, jwt-svid or none"
                    .into(),
            ));
        }
        Ok(Self { keys })
    }

    /// Whether no key of the set is usable.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether some key may verify tokens of this provider.
    pub fn serves(&self, provider: &Provider) -> bool {
        self.keys.iter().any(|key| key.verifiers.iter().any(|(algorithm, _)| provider.allows(*algorithm)))
    }

    /// The key ids, for an explanation.
    pub(crate) fn describe(&self) -> String {
        const SHOWN: usize = 8;
        let names: Vec<String> = self
            .keys
            .iter()
            .take(SHOWN)
            .map(|key| {
                let algorithms: Vec<&str> = key.verifiers.iter().map(|(a, _)| a.name()).collect();
                let kid = key.kid.as_deref().map_or_else(|| "(no kid)".into(), shown);
                format!("{kid} ({})", algorithms.join(", "))
            })
            .collect();
        let more =
            if self.keys.len() > SHOWN { format!(" and {} more", self.keys.len() - SHOWN) } else { String::new() };
        if names.is_empty() { "no usable key".into() } else { names.join("; ") + &more }
    }

    /// Whether a key of this set signed the token. CPU work of 16 to 180 µs a key, at most [`TRIED_MAX`] keys.
    pub(crate) fn verify(&self, jwt: &UnverifiedJwt) -> SignatureOutcome {
        let (algorithm, kid) = (jwt.algorithm(), jwt.key_id());
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        // A set whose keys have no ids (an admin's upload, often) serves tokens that name one as well.
        let anonymous = |key: &&Key| kid.is_some() && key.kid.is_none();
        let tried = |candidates: &mut dyn Iterator<Item = &ParsedPublicKey>| {
            candidates.take(TRIED_MAX).any(|key| jwt.is_signed_by(key))
        };
        if tried(&mut self.keys.iter().filter(named).filter_map(|key| key.verifier(algorithm)))
            || tried(&mut self.keys.iter().filter(anonymous).filter_map(|key| key.verifier(algorithm)))
        {
            return SignatureOutcome::Verified;
        }
        if kid.is_none() {
            return SignatureOutcome::UnknownKey;
        }
        let mut of_that_name = self.keys.iter().filter(named).peekable();
        if of_that_name.peek().is_none() {
            SignatureOutcome::UnknownKey
        } else if of_that_name.any(|key| key.verifier(algorithm).is_some()) {
            SignatureOutcome::Wrong
        } else {
            SignatureOutcome::OtherAlgorithm
        }
    }
}

/// A key id as far as an explanation repeats it.
pub(crate) fn shown(kid: &str) -> String {
    kid.chars().take(KID_SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect()
}

enum Unusable {
    /// Fine, but not for verifying a JWT here.
    NotForUs,
    /// Wrong: what is, to follow `keys[i]`.
    Bad(String),
}

fn bad(why: impl Into<String>) -> Unusable {
    Unusable::Bad(why.into())
}

/// Members that only private and symmetric keys have (RFC 7518 sections 6.2.2, 6.3.2 and 6.4; RFC 8037 section 2).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fn read_key(member: &Value) -> Result<Key, Unusable> {
    let Value::Object(jwk) = member else { return Err(bad("is not an object")) };
    // First of all: an admin who pasted a secret is told so, whatever else the key is.
    if let Some(secret) = SECRET_MEMBERS.iter().find(|name| jwk.contains_key(**name)) {
        return Err(bad(format!(
            "has the member '{secret}' of a private or symmetric key; only public keys belong here"
        )));
    }
    let kty = text(jwk, "kty")?.ok_or_else(|| bad("has no 'kty'"))?;
    if kty == "oct" {
        return Err(bad("is a symmetric key; only public keys belong here"));
    }
    let kid = text(jwk, "kid")?.map(str::to_owned);
    // `jwt-svid` is SPIFFE's name for the same use; its bundles hold `x509-svid` keys beside.
    if !matches!(text(jwk, "use")?, None | Some("sig" | "jwt-svid")) {
        return Err(Unusable::NotForUs);
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(Value::Array(_)) => return Err(Unusable::NotForUs),
        Some(_) => return Err(bad("has a 'key_ops' that is not an array")),
    }
    let only = match text(jwk, "alg")? {
        None => None,
        Some(name) => Some(Algorithm::from_name(name).ok_or(Unusable::NotForUs)?),
    };
    let verifiers = match (kty, text(jwk, "crv")?) {
        ("RSA", _) => rsa(jwk, only)?,
        ("EC", Some("P-256")) => ec(jwk, only, Algorithm::ES256, &ECDSA_P256_SHA256_FIXED, 32)?,
        ("EC", Some("P-384")) => ec(jwk, only, Algorithm::ES384, &ECDSA_P384_SHA384_FIXED, 48)?,
        ("OKP", Some("Ed25519")) => {
            let x = bytes(jwk, "x")?;
            if x.len() != 32 {
                return Err(bad("has an 'x' that is not 32 bytes long"));
            }
            single(only, Algorithm::EdDSA, &ED25519, &x)?
        }
        _ => return Err(Unusable::NotForUs),
    };
    Ok(Key { kid, verifiers })
}

fn text<'k>(jwk: &'k Map<String, Value>, name: &str) -> Result<Option<&'k str>, Unusable> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(format!("has a '{name}' that is not a string"))),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Unusable> {
    let text = text(jwk, name)?.ok_or_else(|| bad(format!("has no '{name}'")))?;
    base64url::decode(text).map_err(|_| bad(format!("has a '{name}' that is not base64url without padding")))
}

fn rsa(jwk: &Map<String, Value>, only: Option<Algorithm>) -> Result<Vec<(Algorithm, ParsedPublicKey)>, Unusable> {
    const ALGORITHMS: [(Algorithm, &RsaParameters); 6] = [
        (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
        (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
        (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
    ];
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    // A sign byte in front breaks RFC 7518 section 6.3.1, but some issuers write it, and it changes nothing.
    let unsigned =
        |number: &[u8]| number.iter().position(|byte| *byte != 0).map_or_else(Vec::new, |at| number[at..].to_vec());
    let (n, e) = (unsigned(&n), unsigned(&e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if bits < 2_048 {
        return Err(bad(format!("is an RSA key of {bits} bits; at least 2048 are wanted")));
    }
    if bits > 8_192 {
        return Err(bad(format!("is an RSA key of {bits} bits; at most 8192 are accepted")));
    }
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !odd(&n) {
        return Err(bad("has an RSA modulus that is even"));
    }
    if !odd(&e) || e.len() > 4 || e == [1] {
        return Err(bad("has an RSA exponent that is not an odd number from 3 to 32 bits"));
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    let verifiers: Vec<_> = ALGORITHMS
        .into_iter()
        .filter(|(algorithm, _)| only.is_none_or(|only| only == *algorithm))
        .map(|(algorithm, parameters)| Ok((algorithm, components.to_parsed_public_key(parameters)?)))
        .collect::<Result<_, aws_lc_rs::error::KeyRejected>>()
        .map_err(|_| bad("is not an acceptable RSA key"))?;
    if verifiers.is_empty() { Err(bad("has an 'alg' that is not for RSA keys")) } else { Ok(verifiers) }
}

fn ec(
    jwk: &Map<String, Value>,
    only: Option<Algorithm>,
    algorithm: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
    length: usize,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, Unusable> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err(bad(format!("has coordinates that are not {length} bytes long (RFC 7518 section 6.2.1)")));
    }
    // SEC 1 section 2.3.3: uncompressed. Whether the point is on the curve is checked by the parser.
    single(only, algorithm, verification, &[&[4], x.as_slice(), y.as_slice()].concat())
}

fn single(
    only: Option<Algorithm>,
    algorithm: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
    public: &[u8],
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, Unusable> {
    if only.is_some_and(|only| only != algorithm) {
        return Err(bad(format!("has an 'alg' that its type and curve contradict: they mean {}", algorithm.name())));
    }
    let key = ParsedPublicKey::new(verification, public).map_err(|_| bad("is not a point of its curve"))?;
    Ok(vec![(algorithm, key)])
}

// ---------------------------------------------------------------------------------------------------------------------

/// How long fetched keys stand when the issuer does not say, in seconds.
const LIFETIME_DEFAULT: u64 = 300;
/// Bounds of what the issuer may say.
const LIFETIME_BOUNDS: (u64, u64) = (60, 3_600);
/// After which part of their lifetime keys are refreshed in the background, in percent.
const REFRESH_AT: i64 = 80;
/// How long good keys outlive failing refreshes, in seconds.
const STALE_MAX: i64 = 24 * 3_600;
/// After a failed refresh, how long to wait for the next, in seconds.
const RETRY_AFTER: i64 = 30;
/// How long a discovery document stands, in seconds.
const DISCOVERY_LIFETIME: i64 = 3_600;
/// How long a token waits for a refresh of keys whose lifetime is over, before the old ones do.
const OVERDUE_WAIT: Duration = Duration::from_secs(1);
/// How long an entry that nobody asks for is remembered, in seconds.
const IDLE_MAX: i64 = 48 * 3_600;
/// Most versions of one provider.
const VERSIONS_MAX: usize = 8;
/// Among how few entries idle ones are not looked for.
const SWEEP_AT_LEAST: usize = 1_024;

/// Why there are no keys. For admins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LoadError {
    /// What failed and why.
    pub(crate) text: String,
    /// For metrics.
    kind: &'static str,
    /// Whether it may be gone in a moment: then callers are told to try again. An issuer that answers wrongly is refused like
    /// one that nobody configured.
    passing: bool,
}

impl LoadError {
    pub(crate) fn of_fetch(what: &str, error: &FetchError) -> Self {
        Self { text: format!("{what}: {error}"), kind: error.kind(), passing: error.is_passing() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: "invalid", passing: false }
    }

    fn passing(text: &str) -> Self {
        Self { text: text.to_owned(), kind: "unavailable", passing: true }
    }
}

/// Keys and when they came.
struct Loaded {
    set: Arc<KeySet>,
    /// The last good fetch.
    fetched_at: Timestamp,
    /// When they are to be refreshed in the background.
    refresh_at: Timestamp,
    /// When their lifetime is over.
    expires_at: Timestamp,
    /// Whether the last refresh failed: then nobody waits for the next.
    failing: bool,
}

/// Tokens that come back with time, whole ones only.
struct Allowance {
    tokens: i64,
    most: i64,
    every: i64,
    since: Option<Timestamp>,
}

impl Allowance {
    const fn new(most: i64, every: i64) -> Self {
        Self { tokens: most, most, every, since: None }
    }

    /// Takes a token, if there is one.
    fn claim(&mut self, now: Timestamp) -> bool {
        let since = *self.since.get_or_insert(now);
        let refilled = now.seconds_since(since).max(0) / self.every;
        self.tokens = self.tokens.saturating_add(refilled).min(self.most);
        self.since = Some(if self.tokens == self.most { now } else { since.plus_seconds(refilled * self.every) });
        let granted = self.tokens > 0;
        if granted {
            self.tokens -= 1;
        }
        granted
    }
}

type Flight = Shared<BoxFuture<'static, Result<Arc<KeySet>, LoadError>>>;

/// What one version of a provider has.
struct Entry {
    keys: ArcSwapOption<Loaded>,
    /// Locked for moments only, never while fetching.
    state: Mutex<EntryState>,
}

struct EntryState {
    flight: Option<Flight>,
    /// For unknown key ids (domain.md, "key refresh").
    refreshes: Allowance,
    /// For first loads that keep failing: a dead issuer is not asked for each token.
    attempts: Allowance,
    last_failure: Option<LoadError>,
    /// Where discovery said the keys are, and until when that stands.
    key_set_url: Option<(Url, Timestamp)>,
    used_at: Timestamp,
}

/// The versions of one provider that are in use: nearly always one.
type Versions = Vec<(Version, Arc<Entry>)>;

/// A version of a provider; a dry run may have others than the one that is saved.
#[derive(Debug)]
struct Version {
    number: i64,
    /// The key set's URL, or the issuer to discover it from; empty for uploaded keys.
    url: Arc<str>,
}

impl Version {
    fn of(provider: &Provider) -> Self {
        Self { number: provider.version, url: Self::url(provider).into() }
    }

    fn is_of(&self, provider: &Provider) -> bool {
        self.number == provider.version && *self.url == *Self::url(provider)
    }

    fn url(provider: &Provider) -> &str {
        match &provider.keys {
            KeySource::Discovery => provider.issuer.as_str(),
            KeySource::Url(url) => url,
            KeySource::Uploaded(_) | KeySource::Sts => "",
        }
    }
}

/// The keys of every provider that was asked for. One per process.
pub(crate) struct KeyCache {
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    entries: RwLock<HashMap<ProviderId, Versions>>,
    /// At how many providers idle ones are looked for.
    sweep_at: AtomicUsize,
}

/// What the cache has to say about one token.
pub(crate) enum KeyAnswer {
    /// Checked under these keys.
    Checked(SignatureOutcome, Arc<KeySet>, Option<String>),
    /// There are no keys just now, or none that the token names, and the issuer could not be asked for more.
    Unavailable(String),
    /// There never will be: the provider's configuration is no good for JWTs.
    Unusable(String),
}

fn not_refreshed(why: &str) -> String {
    format!("the token's key is not among those at hand, and the key set could not be refreshed: {why}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeyCache {
    pub(crate) fn new(outbound: Outbound, clock: Arc<dyn Clock>) -> Self {
        Self { outbound, clock, entries: RwLock::default(), sweep_at: AtomicUsize::new(SWEEP_AT_LEAST) }
    }

    /// Forgets everything about a provider.
    pub(crate) fn forget(&self, provider: ProviderId) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&provider);
    }

    /// Checks a signature under the provider's keys, fetching them when there are none, when they are overdue, or
    /// when the key is unknown and the allowance permits.
    pub(crate) async fn check(
        &self,
        provider: &Arc<Provider>,
        verify: impl Fn(&KeySet) -> SignatureOutcome + Send + Sync,
    ) -> KeyAnswer {
        let now = self.clock.now();
        let entry = self.entry(provider, now);
        let set = match &provider.keys {
            KeySource::Sts => return KeyAnswer::Unusable("the provider verifies AWS requests, not JWTs".into()),
            KeySource::Uploaded(text) => match self.uploaded(&entry, text, now) {
                Ok(set) => {
                    let outcome = verify(&set);
                    return KeyAnswer::Checked(outcome, set, None);
                }
                Err(error) => return KeyAnswer::Unusable(error.to_string()),
            },
            KeySource::Discovery | KeySource::Url(_) => match self.current(&entry, provider, now).await {
                Ok(set) => set,
                Err(error) if error.passing => return KeyAnswer::Unavailable(error.text),
                Err(error) => return KeyAnswer::Unusable(error.text),
            },
        };
        let outcome = verify(&set);
        if outcome != SignatureOutcome::UnknownKey {
            return KeyAnswer::Checked(outcome, set, None);
        }
        self.refresh_for_unknown(&entry, provider, set, verify).await
    }

    /// The key may be newer than what is cached. Whoever finds a fetch under way waits for it; that fetch may have
    /// begun before the key existed, so one of its own is tried after it, if the allowance has one left. When the last
    /// fetch did not get through, it cannot be told whether the issuer has the key: that is no refusal.
    async fn refresh_for_unknown(
        &self,
        entry: &Arc<Entry>,
        provider: &Arc<Provider>,
        mut set: Arc<KeySet>,
        verify: impl Fn(&KeySet) -> SignatureOutcome + Send + Sync,
    ) -> KeyAnswer {
        const ROUNDS: usize = 2;
        for _ in 0..ROUNDS {
            let (flight, own) = {
                let now = self.clock.now();
                let mut state = lock(&entry.state);
                match state.flight.clone() {
                    Some(flight) => (flight, false),
                    // Someone else's fetch may have landed since `set` was read: look before spending.
                    None if entry.keys.load().as_ref().is_some_and(|loaded| !Arc::ptr_eq(&loaded.set, &set)) => {
                        drop(state);
                        if let Some(loaded) = entry.keys.load_full() {
                            set = Arc::clone(&loaded.set);
                        }
                        match verify(&set) {
                            SignatureOutcome::UnknownKey => continue,
                            outcome => return KeyAnswer::Checked(outcome, set, None),
                        }
                    }
                    None if state.refreshes.claim(now) => (self.start(entry, &mut state, provider), true),
                    None => {
                        if let Some(failure) = state.last_failure.as_ref().filter(|failure| failure.passing) {
                            return KeyAnswer::Unavailable(not_refreshed(&failure.text));
                        }
                        let note = "the key set was refreshed for unknown key ids too often just now; \
                                    it will be again within 30 s";
                        return KeyAnswer::Checked(SignatureOutcome::UnknownKey, set, Some(note.into()));
                    }
                }
            };
            match flight.await {
                Ok(fresh) => {
                    set = fresh;
                    let outcome = verify(&set);
                    if outcome != SignatureOutcome::UnknownKey || own {
                        return KeyAnswer::Checked(outcome, set, None);
                    }
                }
                Err(error) if error.passing => return KeyAnswer::Unavailable(not_refreshed(&error.text)),
                Err(error) => {
                    let note = format!("the key set could not be refreshed: {}", error.text);
                    return KeyAnswer::Checked(SignatureOutcome::UnknownKey, set, Some(note));
                }
            }
        }
        KeyAnswer::Checked(SignatureOutcome::UnknownKey, set, None)
    }

    /// The keys to use now. Spends no allowance.
    async fn current(
        &self,
        entry: &Arc<Entry>,
        provider: &Arc<Provider>,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, LoadError> {
        let loaded = entry.keys.load_full().filter(|loaded| now.seconds_since(loaded.fetched_at) < STALE_MAX);
        let Some(loaded) = loaded else {
            let flight = {
                let mut state = lock(&entry.state);
                match state.flight.clone() {
                    Some(flight) => flight,
                    None if state.attempts.claim(now) => self.start(entry, &mut state, provider),
                    None => {
                        return Err(state.last_failure.clone().unwrap_or_else(|| {
                            LoadError::passing("the key set could not be fetched; it will be tried again in a second")
                        }));
                    }
                }
            };
            return flight.await;
        };
        if now < loaded.refresh_at {
            return Ok(Arc::clone(&loaded.set));
        }
        let flight = {
            let mut state = lock(&entry.state);
            match state.flight.clone() {
                Some(flight) => flight,
                None => self.start(entry, &mut state, provider),
            }
        };
        // The lifetime of an idle provider's keys may be long over: a key withdrawn since must not pass once more only
        // because nobody asked. A stuck issuer gets a moment, then the old keys serve on.
        if now >= loaded.expires_at
            && !loaded.failing
            && let Ok(Ok(fresh)) = tokio::time::timeout(OVERDUE_WAIT, flight).await
        {
            return Ok(fresh);
        }
        Ok(Arc::clone(&loaded.set))
    }

    fn uploaded(&self, entry: &Entry, text: &str, now: Timestamp) -> Result<Arc<KeySet>, KeySetError> {
        if let Some(loaded) = entry.keys.load_full() {
            return Ok(Arc::clone(&loaded.set));
        }
        let set = Arc::new(KeySet::parse(text.as_bytes(), Trusted::Uploaded)?);
        let loaded =
            Loaded { set: Arc::clone(&set), fetched_at: now, refresh_at: now, expires_at: now, failing: false };
        entry.keys.store(Some(Arc::new(loaded)));
        Ok(set)
    }

    fn entry(&self, provider: &Provider, now: Timestamp) -> Arc<Entry> {
        let find = |versions: &Versions| {
            versions.iter().find(|(version, _)| version.is_of(provider)).map(|(_, entry)| Arc::clone(entry))
        };
        let known = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&provider.id).and_then(find);
        if let Some(entry) = known {
            return entry;
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Now and then, not for each new provider: there may be many.
        if entries.len() >= self.sweep_at.load(Ordering::Relaxed) {
            let is_idle = |entry: &Entry| now.seconds_since(lock(&entry.state).used_at) >= IDLE_MAX;
            entries.retain(|_, versions| {
                versions.retain(|(_, entry)| !is_idle(entry));
                !versions.is_empty()
            });
            self.sweep_at.store(SWEEP_AT_LEAST.max(2 * entries.len()), Ordering::Relaxed);
        }
        let versions = entries.entry(provider.id).or_default();
        if let Some(entry) = find(versions) {
            return entry;
        }
        versions.retain(|(version, _)| version.number >= provider.version);
        if versions.len() >= VERSIONS_MAX {
            versions.remove(0);
        }
        let entry = Arc::new(Entry {
            keys: ArcSwapOption::empty(),
            state: Mutex::new(EntryState {
                flight: None,
                refreshes: Allowance::new(2, 30),
                attempts: Allowance::new(5, 1),
                last_failure: None,
                key_set_url: None,
                used_at: now,
            }),
        });
        versions.push((Version::of(provider), Arc::clone(&entry)));
        entry
    }

    /// Starts a fetch on a task of its own, so that it ends well even when nobody waits for it any longer.
    fn start(&self, entry: &Arc<Entry>, state: &mut EntryState, provider: &Arc<Provider>) -> Flight {
        let known_url = state.key_set_url.take();
        state.used_at = self.clock.now();
        let waiting = Arc::clone(entry);
        let (entry, provider) = (Arc::clone(entry), Arc::clone(provider));
        let (outbound, clock) = (self.outbound.clone(), Arc::clone(&self.clock));
        let task = tokio::spawn(async move {
            let loaded = load(&outbound, &provider, known_url, clock.now()).await;
            entry.land(loaded, clock.now(), &provider)
        });
        let flight = async move {
            task.await.unwrap_or_else(|_| {
                // A flight that crashed never landed: without this, everyone would go on waiting for it.
                lock(&waiting.state).flight = None;
                Err(LoadError::passing("the fetch of the key set ended unexpectedly"))
            })
        }
        .boxed()
        .shared();
        state.flight = Some(flight.clone());
        flight
    }
}

/// What a fetch brought.
struct Fresh {
    set: KeySet,
    lifetime: u64,
    key_set_url: Option<(Url, Timestamp)>,
}

impl Entry {
    /// Keeps what a fetch brought, or keeps what was there.
    fn land(
        &self,
        fresh: Result<Fresh, LoadError>,
        now: Timestamp,
        provider: &Provider,
    ) -> Result<Arc<KeySet>, LoadError> {
        let result = match fresh {
            Ok(fresh) if fresh.set.is_empty() => {
                Err(LoadError { text: "the key set has no usable key".into(), kind: "empty", passing: false })
            }
            Ok(fresh) => {
                #[expect(clippy::cast_possible_wrap, reason = "clamped to an hour")]
                let lifetime = fresh.lifetime.clamp(LIFETIME_BOUNDS.0, LIFETIME_BOUNDS.1) as i64;
                let set = Arc::new(fresh.set);
                self.keys.store(Some(Arc::new(Loaded {
                    set: Arc::clone(&set),
                    fetched_at: now,
                    refresh_at: now.plus_seconds(lifetime * REFRESH_AT / 100),
                    expires_at: now.plus_seconds(lifetime),
                    failing: false,
                })));
                Ok((set, fresh.key_set_url))
            }
            Err(error) => Err(error),
        };
        let outcome = result.as_ref().err().map_or("ok", |error| error.kind);
        metrics::counter!("sallyport_jwks_fetches_total", "outcome" => outcome).increment(1);
        if let Err(error) = &result {
            tracing::warn!(provider = %provider.id, reason = error.text, "an issuer's keys could not be fetched");
            if let Some(old) = self.keys.load_full() {
                self.keys.store(Some(Arc::new(Loaded {
                    set: Arc::clone(&old.set),
                    fetched_at: old.fetched_at,
                    refresh_at: now.plus_seconds(RETRY_AFTER),
                    expires_at: old.expires_at,
                    failing: true,
                })));
            }
        }
        let mut state = lock(&self.state);
        state.flight = None;
        match result {
            Ok((set, key_set_url)) => {
                state.last_failure = None;
                state.key_set_url = key_set_url;
                Ok(set)
            }
            Err(error) => {
                state.last_failure = Some(error.clone());
                Err(error)
            }
        }
    }
}

/// Fetches a provider's keys: the discovery document first, unless where they are is known and still stands.
async fn load(
    outbound: &Outbound,
    provider: &Provider,
    known_url: Option<(Url, Timestamp)>,
    now: Timestamp,
) -> Result<Fresh, LoadError> {
    let (url, stands_until) = match (&provider.keys, known_url) {
        (KeySource::Url(text), _) => {
            let url = check_fetch_url("jwksUri", text).map_err(|error| LoadError::invalid(error.to_string()))?;
            (url, None)
        }
        (_, Some((url, until))) if now < until => (url, Some(until)),
        _ => {
            let url = discovery::fetch(outbound, &provider.issuer).await?.jwks_uri;
            (url, Some(now.plus_seconds(DISCOVERY_LIFETIME)))
        }
    };
    let (set, max_age) = fetch_key_set(outbound, &url).await?;
    Ok(Fresh {
        set,
        lifetime: max_age.unwrap_or(LIFETIME_DEFAULT),
        key_set_url: stands_until.map(|until| (url, until)),
    })
}

/// Fetches and reads one key set; also how long it stands, in seconds, when the issuer says so.
pub(crate) async fn fetch_key_set(outbound: &Outbound, url: &Url) -> Result<(KeySet, Option<u64>), LoadError> {
    let fetched = outbound.get(url).await.map_err(|error| LoadError::of_fetch("the key set", &error))?;
    let set = KeySet::parse(&fetched.body, Trusted::Fetched).map_err(|error| LoadError::invalid(error.to_string()))?;
    Ok((set, fetched.cache_max_age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_allowance_refills_one_at_a_time_and_never_beyond_its_size() {
        let start = Timestamp::from_seconds(1_000_000);
        let mut allowance = Allowance::new(2, 30);
        let mut claims = |seconds| allowance.claim(start.plus_seconds(seconds));
        assert!(claims(0) && claims(0) && !claims(0) && !claims(29));
        assert!(claims(30) && !claims(59));
        assert!(claims(60) && !claims(60));
        assert!(claims(10_000) && claims(10_000) && !claims(10_000));
        // A clock that was set back gives nothing away and does not get stuck.
        assert!(!claims(0) && claims(10_030));
    }

    #[test]
    fn rsa_keys_with_a_sign_byte_are_read_as_what_they_are() {
        let modulus = |first: &[u8]| base64url::encode([first, &[0xff; 255], &[1]].concat());
        let set = |n: String| format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"AQAB"}}]}}"#);
        for first in [&[][..], &[0]] {
            let set = KeySet::parse(set(modulus(first)).as_bytes(), Trusted::Uploaded).unwrap();
            assert_eq!(set.describe(), "(no kid) (RS256, RS384, RS512, PS256, PS384, PS512)");
        }
        let even = base64url::encode([0xfe; 256]);
        assert!(KeySet::parse(set(even).as_bytes(), Trusted::Uploaded).is_err());
    }

    proptest! {
        #[test]
        fn no_key_set_makes_the_parser_panic(text in "\\PC{0,200}", value in "[A-Za-z0-9_-]{0,90}") {
            let _ = KeySet::parse(text.as_bytes(), Trusted::Fetched);
            for key in [
                format!(r#"{{"kty":"RSA","n":"{value}","e":"AQAB"}}"#),
                format!(r#"{{"kty":"RSA","n":"AQAB","e":"{value}"}}"#),
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{value}","y":"{value}"}}"#),
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{value}"}}"#),
            ] {
                let _ = KeySet::parse(format!(r#"{{"keys":[{key}]}}"#).as_bytes(), Trusted::Uploaded);
            }
        }
    }
}
