//! Subject tokens, made beforehand, and the requests that carry them.

use std::sync::Arc;

use anyhow::Result;
use sallyport_domain::clock::{Clock as _, SystemClock};
use sallyport_testkit::{Algorithm, Issuer, platforms};
use serde_json::json;

use crate::client::post;
use crate::estate::{BRANCH, Estate, TENANT, Target};
use crate::load::Requests;

/// How long the tokens are good for, in seconds: longer than any run.
const LIFETIME: i64 = 4 * 3_600;

/// Through which door, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Door {
    /// The OAuth token endpoint with the trust's client ID: an access token.
    Client,
    /// The OAuth token endpoint with the scope: an access token of whichever of its trusts fits best.
    Scope,
    /// `ExchangeExternalToken`: a key pair with certificate.
    KeyPair,
}

impl Door {
    /// Whether a key pair comes out, and not a token.
    pub const fn gives_key_pair(self) -> bool {
        matches!(self, Self::KeyPair)
    }

    /// What the body of a granted answer begins with.
    const fn granted(self) -> &'static str {
        match self {
            Self::Client | Self::Scope => "{\"access_token\":\"",
            Self::KeyPair => "{\"base64_credential\":\"",
        }
    }

    fn request(self, issuer: &str, target: &Target, token: &str) -> Result<Vec<u8>> {
        if self == Self::KeyPair {
            let body = json!({ "issuer_uri": issuer, "audience": target.scope_mrn, "jwt_token": token });
            let path = "/SecureTokenService/ExchangeExternalToken";
            return Ok(post(TENANT, path, "application/json", None, &body.to_string()));
        }
        let whom =
            if self == Self::Client { ("client_id", &target.client_id) } else { ("audience", &target.scope_mrn) };
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("subject_token", token)
            .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
            .append_pair(whom.0, whom.1)
            .finish();
        Ok(post(TENANT, "/auth/v1/token", "application/x-www-form-urlencoded", None, &body))
    }
}

/// `count` requests with as many different tokens, for targets spread evenly over those numbered `targets`. Each is a
/// GitHub workflow's token, but for its issuer and lifetime.
///
/// # Errors
/// When a request cannot be written.
pub fn requests(
    issuer: &Issuer,
    algorithm: Algorithm,
    door: Door,
    estate: &Estate,
    targets: std::ops::Range<usize>,
    count: usize,
) -> Result<Requests> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let issuer = Arc::new(issuer);
    let made: Vec<Result<Vec<Vec<u8>>>> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let (issuer, targets) = (Arc::clone(&issuer), targets.clone());
                scope.spawn(move || {
                    let numbers = (part..count).step_by(threads);
                    numbers
                        .map(|number| {
                            // A stride that shares no factor with any count here visits each once before any twice.
                            let target = estate.target(targets.start + number * 7_919 % targets.len());
                            door.request(issuer.uri(), &target, &token(&issuer, algorithm, &target))
                        })
                        .collect()
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut requests = Requests::new(door.granted());
    for part in made {
        part?.iter().for_each(|request| requests.push(request));
    }
    Ok(requests)
}

/// One token.
pub fn token(issuer: &Issuer, algorithm: Algorithm, target: &Target) -> String {
    let now = SystemClock.now().seconds();
    let mut claims = platforms::github_actions(&issuer.request(now, &target.scope_mrn), &target.repository, BRANCH);
    claims["exp"] = json!(now + LIFETIME);
    issuer.mint_with(algorithm, claims)
}
