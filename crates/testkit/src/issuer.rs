//! An OIDC issuer on loopback: discovery, a key set, tokens of every kind, and failures on demand.
//!
//! Its URI may claim any host. Clients get there through a resolve override (`SALLYPORT_OUTBOUND_RESOLVE`, see
//! [`Issuer::resolve_entry`]) and check its certificate against the [`TestAuthority`].

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use axum::body::Body;
use axum::http::{Method, Request};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::authority::TestAuthority;
use crate::https::{Failure, HttpsServer, Reply, reply, response};
use crate::keys::{Algorithm, SigningKey};
use crate::lock;
use crate::platforms::TokenRequest;

/// The two documents an issuer serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/.well-known/openid-configuration`.
    Discovery,
    /// `/jwks`.
    Jwks,
}

/// What becomes of the key that a rotation replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKey {
    /// Stays in the key set; tokens it signed keep verifying.
    Kept,
    /// Leaves the key set.
    Withdrawn,
}

/// How a hand-made token gets its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The issuer's current key of this algorithm.
    Current(Algorithm),
    /// The issuer's key of this id, withdrawn or not.
    Kid(String),
    /// A key of this algorithm that no issuer publishes.
    Foreign(Algorithm),
    /// The issuer's current key of the first algorithm, used by the second (of the same family, as RS256 and PS256).
    Mixed(Algorithm, Algorithm),
    /// The issuer's current key, ECDSA signatures in DER instead of JOSE's fixed length.
    Der(Algorithm),
    /// HMAC with SHA-256 under this secret, as in algorithm confusion with [`Issuer::public_key_pem`].
    Hmac(Vec<u8>),
    /// These bytes.
    Bytes(Vec<u8>),
    /// The empty signature of `alg: none`.
    None,
}

struct Key {
    key: Arc<SigningKey>,
    published: bool,
    /// Signs new tokens of its algorithm.
    current: bool,
}

struct State {
    uri: String,
    discovery_path: String,
    jwks_path: String,
    jwks_uri: String,
    key_use: Option<String>,
    keys: Mutex<Vec<Key>>,
    failures: Mutex<[Failure; 2]>,
    overrides: Mutex<[Option<Value>; 2]>,
    fetches: [AtomicU64; 2],
}

impl State {
    fn discovery(&self) -> Value {
        let mut algorithms: Vec<&str> =
            lock(&self.keys).iter().filter(|key| key.published).map(|key| key.key.algorithm().name()).collect();
        algorithms.dedup();
        json!({
            "issuer": self.uri,
            "jwks_uri": self.jwks_uri,
            "subject_types_supported": ["public", "pairwise"],
            "response_types_supported": ["id_token"],
            "claims_supported": ["sub", "aud", "exp", "iat", "iss", "jti", "nbf"],
            "id_token_signing_alg_values_supported": algorithms,
            "scopes_supported": ["openid"],
        })
    }

    fn jwks(&self) -> Value {
        let keys: Vec<Value> = lock(&self.keys)
            .iter()
            .filter(|key| key.published)
            .map(|key| key.key.jwk(self.key_use.as_deref()))
            .collect();
        json!({ "keys": keys })
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Reply {
        let path = request.uri().path();
        let endpoint = if path == self.discovery_path {
            Endpoint::Discovery
        } else if path == self.jwks_path {
            Endpoint::Jwks
        } else {
            return Ok(response(404, "text/plain", "no such document\n"));
        };
        if request.method() != Method::GET {
            return Ok(response(405, "text/plain", "GET only\n"));
        }
        self.fetches[endpoint as usize].fetch_add(1, Ordering::SeqCst);
        let failure = lock(&self.failures)[endpoint as usize].clone();
        let replaced = lock(&self.overrides)[endpoint as usize].clone();
        let document = match (endpoint, replaced) {
            (Endpoint::Jwks, _) if failure == Failure::EmptyKeySet => json!({"keys": []}),
            (_, Some(document)) => document,
            (Endpoint::Discovery, None) => self.discovery(),
            (Endpoint::Jwks, None) => self.jwks(),
        };
        reply(failure, 200, "application/json", document.to_string().into_bytes()).await
    }

    /// The current key of `algorithm`, made and published when there is none yet.
    fn current(&self, algorithm: Algorithm) -> Arc<SigningKey> {
        let mut keys = lock(&self.keys);
        if let Some(key) = keys.iter().find(|key| key.current && key.key.algorithm() == algorithm) {
            return key.key.clone();
        }
        let key = Arc::new(SigningKey::generate(algorithm));
        keys.push(Key { key: key.clone(), published: true, current: true });
        key
    }
}

/// How an issuer is set up. See [`Issuer::builder`].
#[derive(Debug, Clone)]
pub struct IssuerBuilder {
    host: String,
    path: String,
    jwks_path: Option<String>,
    port_in_uri: bool,
    port: u16,
    certificate_names: Option<Vec<String>>,
    algorithms: Vec<Algorithm>,
    key_use: Option<String>,
}

impl IssuerBuilder {
    /// The host in the URI and in the certificate: a name or an IP address. Default `127.0.0.1`.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// The path of the URI, with its leading slash and, if wanted, a trailing one. Default none.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Takes host and path from a platform's issuer, such as `https://token.actions.githubusercontent.com`; the URI is
    /// exactly this one, without a port.
    #[must_use]
    pub fn well_known(mut self, uri: &str) -> Self {
        let rest = uri.strip_prefix("https://").unwrap_or(uri);
        let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        self.port_in_uri = false;
        self.host(host).path(path)
    }

    /// Leaves the port out of the URI, as if the issuer were on 443.
    #[must_use]
    pub fn default_port(mut self) -> Self {
        self.port_in_uri = false;
        self
    }

    /// Listens on this port instead of a free one: for an issuer that comes back where another one was.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The path of the key set. Default: the issuer's path, then `/jwks`.
    #[must_use]
    pub fn jwks_path(mut self, path: &str) -> Self {
        self.jwks_path = Some(path.to_owned());
        self
    }

    /// Other names in the certificate than the host, so that TLS must fail.
    #[must_use]
    pub fn certificate_names(mut self, names: &[&str]) -> Self {
        self.certificate_names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// The algorithms with a published key from the start, in key-set order. Default RS256, ES256, ES384, EdDSA.
    #[must_use]
    pub fn algorithms(mut self, algorithms: &[Algorithm]) -> Self {
        self.algorithms = algorithms.to_vec();
        self
    }

    /// The `use` member of published keys; `None` leaves it out. Default `sig`; SPIFFE has `jwt-svid`.
    #[must_use]
    pub fn key_use(mut self, key_use: Option<&str>) -> Self {
        self.key_use = key_use.map(str::to_owned);
        self
    }

    /// Makes the keys and listens, within the current tokio runtime.
    ///
    /// # Errors
    /// When the port cannot be had or the host is no name for a certificate.
    pub async fn start(self, authority: &TestAuthority) -> Result<Issuer> {
        ensure!(self.path.is_empty() || self.path.starts_with('/'), "an issuer's path starts with a slash");
        let bare_host = self.host.trim_start_matches('[').trim_end_matches(']');
        let names = self.certificate_names.clone().unwrap_or_else(|| vec![bare_host.to_owned()]);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let config = authority.issue_server(&names)?.server_config()?;

        let algorithms = self.algorithms.clone();
        let keys = tokio::task::spawn_blocking(move || {
            algorithms
                .into_iter()
                .map(|algorithm| Key { key: Arc::new(SigningKey::generate(algorithm)), published: true, current: true })
                .collect::<Vec<_>>()
        })
        .await
        .context("making the issuer's keys")?;

        // The URI holds the port, which is known only once the listener is there; the cell closes that circle.
        let cell = Arc::new(std::sync::OnceLock::<Arc<State>>::new());
        let seen = cell.clone();
        let server = HttpsServer::start(
            config,
            self.port,
            Arc::new(move |request| {
                let state = seen.get().cloned();
                Box::pin(async move {
                    match state {
                        Some(state) => state.answer(request).await,
                        None => Ok(response(503, "text/plain", "starting\n")),
                    }
                })
            }),
        )
        .await?;

        let port = if self.port_in_uri { server.address().port() } else { 443 };
        let origin =
            if self.port_in_uri { format!("https://{}:{port}", self.host) } else { format!("https://{}", self.host) };
        let base = self.path.trim_end_matches('/');
        let jwks_path = self.jwks_path.unwrap_or_else(|| format!("{base}/jwks"));
        let state = Arc::new(State {
            uri: format!("{origin}{}", self.path),
            discovery_path: format!("{base}/.well-known/openid-configuration"),
            jwks_uri: format!("{origin}{jwks_path}"),
            jwks_path,
            key_use: self.key_use,
            keys: Mutex::new(keys),
            failures: Mutex::default(),
            overrides: Mutex::default(),
            fetches: Default::default(),
        });
        // Set once, here; a second value cannot exist.
        let _ = cell.set(state.clone());
        Ok(Issuer { state, server, host_and_port: format!("{}:{port}", self.host) })
    }
}

/// A running issuer. Dropping it closes the port.
pub struct Issuer {
    state: Arc<State>,
    server: HttpsServer,
    host_and_port: String,
}

impl Issuer {
    /// An issuer at `https://127.0.0.1:<port>`, until told otherwise.
    pub fn builder() -> IssuerBuilder {
        IssuerBuilder {
            host: "127.0.0.1".to_owned(),
            path: String::new(),
            jwks_path: None,
            port_in_uri: true,
            port: 0,
            certificate_names: None,
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa],
            key_use: Some("sig".to_owned()),
        }
    }

    /// The issuer URI: `iss` of its tokens.
    pub fn uri(&self) -> &str {
        &self.state.uri
    }

    /// Where the key set is.
    pub fn jwks_uri(&self) -> &str {
        &self.state.jwks_uri
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Host and port a client of [`uri`](Self::uri) believes to connect to.
    pub fn host_and_port(&self) -> &str {
        &self.host_and_port
    }

    /// An entry for `SALLYPORT_OUTBOUND_RESOLVE`: `host:port=127.0.0.1:port`.
    pub fn resolve_entry(&self) -> String {
        format!("{}={}", self.host_and_port, self.address())
    }

    /// A token request at this issuer, for [`platforms`](crate::platforms).
    pub fn request<'a>(&'a self, now: i64, audience: &'a str) -> TokenRequest<'a> {
        TokenRequest { now, issuer: self.uri(), audience }
    }

    /// A token with exactly these claims, RS256.
    pub fn mint(&self, claims: impl Borrow<Value>) -> String {
        self.mint_with(Algorithm::Rs256, claims)
    }

    /// A token with exactly these claims, by this algorithm. A key of an algorithm that has none yet is made and
    /// published.
    pub fn mint_with(&self, algorithm: Algorithm, claims: impl Borrow<Value>) -> String {
        self.mint_raw(self.header(algorithm), claims.borrow().to_string().as_bytes(), &Signer::Current(algorithm))
    }

    /// A token that names the issuer's current key of this algorithm but is signed by a stranger's.
    pub fn sign_with_foreign_key(&self, algorithm: Algorithm, claims: impl Borrow<Value>) -> String {
        self.mint_raw(self.header(algorithm), claims.borrow().to_string().as_bytes(), &Signer::Foreign(algorithm))
    }

    /// A token of any header and payload, for what a verifier must refuse.
    pub fn mint_raw(&self, header: impl Borrow<Value>, payload: &[u8], signer: &Signer) -> String {
        self.mint_bytes(header.borrow().to_string().as_bytes(), payload, signer)
    }

    /// As [`mint_raw`](Self::mint_raw), the header as bytes too: for duplicate members, or no JSON at all.
    pub fn mint_bytes(&self, header: &[u8], payload: &[u8], signer: &Signer) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let message = signed.as_bytes();
        let signature = match signer {
            Signer::Current(algorithm) => self.state.current(*algorithm).sign(message),
            Signer::Kid(kid) => {
                let key = lock(&self.state.keys).iter().find(|key| key.key.kid() == kid).map(|key| key.key.clone());
                key.map(|key| key.sign(message)).unwrap_or_default()
            }
            Signer::Foreign(algorithm) => SigningKey::generate(*algorithm).sign(message),
            Signer::Mixed(of, by) => self.state.current(*of).sign_as(*by, message),
            Signer::Der(algorithm) => self.state.current(*algorithm).sign_der(message),
            Signer::Hmac(secret) => crate::sigv4::hmac(secret, message),
            Signer::Bytes(bytes) => bytes.clone(),
            Signer::None => Vec::new(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The header of an honest token: `alg`, `kid` of the current key, `typ`.
    pub fn header(&self, algorithm: Algorithm) -> Value {
        json!({"alg": algorithm.name(), "kid": self.kid(algorithm), "typ": "JWT"})
    }

    /// The id of the current key of this algorithm.
    pub fn kid(&self, algorithm: Algorithm) -> String {
        self.state.current(algorithm).kid().to_owned()
    }

    /// The current public key of this algorithm in PEM (SubjectPublicKeyInfo).
    pub fn public_key_pem(&self, algorithm: Algorithm) -> String {
        let text = STANDARD.encode(self.state.current(algorithm).public_der());
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem + "-----END PUBLIC KEY-----\n"
    }

    /// A new key signs from now on; its id is returned. RSA blocks for some 70 ms.
    pub fn rotate(&self, algorithm: Algorithm, old: OldKey) -> String {
        let new = Arc::new(SigningKey::generate(algorithm));
        let kid = new.kid().to_owned();
        let mut keys = lock(&self.state.keys);
        for key in keys.iter_mut().filter(|key| key.key.algorithm() == algorithm) {
            key.current = false;
            key.published &= old == OldKey::Kept;
        }
        keys.push(Key { key: new, published: true, current: true });
        kid
    }

    /// The key set as served without failure or override.
    pub fn jwks(&self) -> Value {
        self.state.jwks()
    }

    /// The discovery document as served without failure or override.
    pub fn discovery(&self) -> Value {
        self.state.discovery()
    }

    /// Serves this instead of the key set; `None` undoes it.
    pub fn set_jwks_override(&self, document: Option<Value>) {
        lock(&self.state.overrides)[Endpoint::Jwks as usize] = document;
    }

    /// Serves this instead of the discovery document; `None` undoes it.
    pub fn set_discovery_override(&self, document: Option<Value>) {
        lock(&self.state.overrides)[Endpoint::Discovery as usize] = document;
    }

    /// Fails so at both endpoints from now on; [`Failure::None`] undoes it.
    pub fn set_failure(&self, failure: Failure) {
        *lock(&self.state.failures) = [failure.clone(), failure];
    }

    /// Fails so at one endpoint from now on.
    pub fn set_failure_at(&self, endpoint: Endpoint, failure: Failure) {
        lock(&self.state.failures)[endpoint as usize] = failure;
    }

    /// How often the discovery document was asked for, failures included.
    pub fn discovery_fetches(&self) -> u64 {
        self.state.fetches[Endpoint::Discovery as usize].load(Ordering::SeqCst)
    }

    /// How often the key set was asked for, failures included.
    pub fn jwks_fetches(&self) -> u64 {
        self.state.fetches[Endpoint::Jwks as usize].load(Ordering::SeqCst)
    }

    /// TCP connections so far.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};

    use super::*;
    use crate::client::get;
    use crate::platforms;

    const NOW: i64 = 1_800_000_000;

    /// Verifies as a relying party would, with a library that is not this crate.
    fn verify(jwks: &str, algorithm: jsonwebtoken::Algorithm, token: &str) -> Result<Value> {
        let keys: JwkSet = serde_json::from_str(jwks)?;
        let kid = decode_header(token)?.kid.context("kid")?;
        let key = DecodingKey::from_jwk(keys.find(&kid).context("unknown kid")?)?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&["audience"]);
        validation.validate_exp = false;
        Ok(decode::<Value>(token, &key, &validation)?.claims)
    }

    #[tokio::test]
    async fn serves_documents_and_mints_tokens_that_others_verify() {
        let authority = TestAuthority::new().unwrap();
        let issuer = Issuer::builder().host("issuer.example.test").path("/tenant").start(&authority).await.unwrap();
        let (address, host) = (issuer.address(), "issuer.example.test");
        assert_eq!(issuer.uri(), format!("https://issuer.example.test:{}/tenant", address.port()));

        let (status, body) = get(&authority, address, host, "/tenant/.well-known/openid-configuration").await.unwrap();
        assert_eq!(status, 200);
        let document: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["issuer"], issuer.uri());
        assert_eq!(document["jwks_uri"], issuer.jwks_uri());
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["RS256", "ES256", "ES384", "EdDSA"]));

        let claims = platforms::github_actions(&issuer.request(NOW, "audience"), "org/repo", "refs/heads/main");
        let all = Algorithm::ALL.map(|algorithm| (algorithm, issuer.mint_with(algorithm, &claims)));
        let (_, jwks) = get(&authority, address, host, "/tenant/jwks").await.unwrap();
        for (algorithm, token) in all {
            let name = algorithm.name().parse().unwrap();
            assert_eq!(verify(&jwks, name, &token).unwrap(), claims, "{algorithm:?}");
            let forged = issuer.sign_with_foreign_key(algorithm, &claims);
            assert!(verify(&jwks, name, &forged).is_err(), "{algorithm:?}");
        }
        let der = issuer.mint_raw(
            issuer.header(Algorithm::Es256),
            claims.to_string().as_bytes(),
            &Signer::Der(Algorithm::Es256),
        );
        assert!(verify(&jwks, jsonwebtoken::Algorithm::ES256, &der).is_err());
        assert_eq!((issuer.discovery_fetches(), issuer.jwks_fetches()), (1, 1));

        // Only the host's own name is in the certificate, and only the authority's clients trust it.
        assert!(get(&authority, address, "other.example.test", "/tenant/jwks").await.is_err());
        assert!(get(&TestAuthority::new().unwrap(), address, host, "/tenant/jwks").await.is_err());
    }

    #[tokio::test]
    async fn rotates_and_fails_on_demand() {
        let authority = TestAuthority::new().unwrap();
        let builder = Issuer::builder().well_known(platforms::GITHUB_ACTIONS);
        let issuer = builder.algorithms(&[Algorithm::Es256]).start(&authority).await.unwrap();
        let host = "token.actions.githubusercontent.com";
        assert_eq!(issuer.uri(), platforms::GITHUB_ACTIONS);
        assert_eq!(issuer.resolve_entry(), format!("{host}:443={}", issuer.address()));

        let first = issuer.kid(Algorithm::Es256);
        let second = issuer.rotate(Algorithm::Es256, OldKey::Kept);
        assert_ne!(first, second);
        assert_eq!(issuer.jwks()["keys"].as_array().unwrap().len(), 2);
        issuer.rotate(Algorithm::Es256, OldKey::Withdrawn);
        assert_eq!(issuer.jwks()["keys"].as_array().unwrap().len(), 1);

        let fetch = || get(&authority, issuer.address(), host, "/jwks");
        issuer.set_failure(Failure::Status(503));
        assert_eq!(fetch().await.unwrap().0, 503);
        issuer.set_failure(Failure::CloseConnection);
        assert!(fetch().await.is_err());
        issuer.set_failure(Failure::EmptyKeySet);
        assert_eq!(fetch().await.unwrap().1, r#"{"keys":[]}"#);
        issuer.set_failure(Failure::Oversized);
        assert!(fetch().await.unwrap().1.len() > 2 * 1024 * 1024);
        issuer.set_failure(Failure::Redirect("https://elsewhere.example.test/".to_owned()));
        assert_eq!(fetch().await.unwrap().0, 302);
        issuer.set_failure(Failure::Garbage);
        assert!(serde_json::from_str::<Value>(&fetch().await.unwrap().1).is_err());
        issuer.set_failure(Failure::Hang);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), fetch()).await.is_err());
        issuer.set_failure(Failure::None);
        issuer.set_jwks_override(Some(json!({"keys": "none"})));
        assert_eq!(fetch().await.unwrap().1, r#"{"keys":"none"}"#);
        assert_eq!(issuer.jwks_fetches(), 8);

        let address = issuer.address();
        drop(issuer);
        tokio::task::yield_now().await;
        assert!(get(&authority, address, host, "/jwks").await.is_err());
    }
}
