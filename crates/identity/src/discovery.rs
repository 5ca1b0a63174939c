//! OpenID Connect discovery: from an issuer to its key set, strictly, with errors that an admin can act on.
//!
//! May fetch only what the provider that an admin configured leads to.

use sallyport_domain::claims::{ARRAY_MAX, JSON_DEPTH_MAX, parse_object};
use sallyport_domain::issuer::{IssuerKey, IssuerUri, check_fetch_url};
use sallyport_domain::provider::{KeySource, Provider};
use serde_json::Value;
use url::Url;

use crate::keys::{KeySet, LoadError, Trusted};
use crate::outbound::{FetchError, Outbound};

/// What is wrong with an issuer, found while its admin waits. The text says which member or rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IssuerProblem {
    /// It cannot be reached just now.
    #[error("{0}")]
    Unreachable(String),
    /// It answers, but not as an issuer of this name must.
    #[error("{0}")]
    Wrong(String),
    /// The outbound rules forbid to ask it.
    #[error("{0}")]
    RuleBroken(String),
}

impl IssuerProblem {
    fn of_fetch(what: &str, url: &Url, error: &FetchError) -> Self {
        let hint = match error {
            FetchError::Status(300..=399) => " (redirects are not followed)",
            _ => "",
        };
        let text = format!("{what} could not be fetched from {url}: {error}{hint}");
        match error {
            FetchError::Refused(_) => Self::RuleBroken(text),
            passing if passing.is_passing() => Self::Unreachable(text),
            _ => Self::Wrong(text),
        }
    }
}

/// What we use of a discovery document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Discovery {
    /// Where the keys are; may be on another host than the issuer.
    pub(crate) jwks_uri: Url,
}

/// Members that are lists of strings and must be there (OpenID Connect Discovery 1.0 section 3).
const REQUIRED_LISTS: [&str; 3] =
    ["response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"];

impl Discovery {
    /// Reads a discovery document that claims to be `issuer`'s. On failure: what is wrong with it.
    pub(crate) fn parse(bytes: &[u8], issuer: &IssuerUri) -> Result<Self, String> {
        let document = parse_object(bytes, JSON_DEPTH_MAX, ARRAY_MAX)
            .map_err(|error| format!("the discovery document {error}"))?;
        let text = |name: &str| match document.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
            Some(_) => Err(format!("the discovery document's '{name}' is not a non-empty string")),
            None => Err(format!("the discovery document has no '{name}'")),
        };
        let named = text("issuer")?;
        if IssuerKey::of(named) != *issuer.key() {
            let named: String = named.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect();
            return Err(format!("the discovery document's 'issuer' is '{named}', not '{issuer}'"));
        }
        let jwks_uri = check_fetch_url("jwks_uri", text("jwks_uri")?)
            .map_err(|error| format!("the discovery document's 'jwks_uri' {}", error.message))?;
        for name in REQUIRED_LISTS {
            match document.get(name) {
                Some(Value::Array(items)) if !items.is_empty() && items.iter().all(Value::is_string) => {}
                Some(_) => {
                    return Err(format!("the discovery document's '{name}' is not a non-empty list of strings"));
                }
                None => return Err(format!("the discovery document has no '{name}'")),
            }
        }
        Ok(Self { jwks_uri })
    }
}

/// Where an issuer's discovery document is (OpenID Connect Discovery 1.0 section 4).
fn document_url(issuer: &IssuerUri) -> Result<Url, String> {
    let text = format!("{}/.well-known/openid-configuration", issuer.key().as_str());
    check_fetch_url("issuerUri", &text).map_err(|error| format!("the issuer {}", error.message))
}

/// Fetches and reads an issuer's discovery document.
pub(crate) async fn fetch(outbound: &Outbound, issuer: &IssuerUri) -> Result<Discovery, LoadError> {
    let url = document_url(issuer).map_err(LoadError::invalid)?;
    let fetched = outbound.get(&url).await.map_err(|error| LoadError::of_fetch("the discovery document", &error))?;
    Discovery::parse(&fetched.body, issuer).map_err(LoadError::invalid)
}

/// Whether tokens of this provider could be verified: its documents are there, right, and hold a key that fits.
///
/// # Errors
/// What is wrong, for the admin who is saving it.
pub(crate) async fn check_issuer(outbound: &Outbound, provider: &Provider) -> Result<(), IssuerProblem> {
    let key_set_url = match &provider.keys {
        KeySource::Sts => return Ok(()),
        KeySource::Uploaded(text) => {
            let set = KeySet::parse(text.as_bytes(), Trusted::Uploaded)
                .map_err(|error| IssuerProblem::Wrong(error.to_string()))?;
            return serves(&set, provider);
        }
        KeySource::Url(text) => {
            check_fetch_url("jwksUri", text).map_err(|error| IssuerProblem::RuleBroken(error.to_string()))?
        }
        KeySource::Discovery => {
            let url = document_url(&provider.issuer).map_err(IssuerProblem::RuleBroken)?;
            let fetched = outbound
                .get(&url)
                .await
                .map_err(|error| IssuerProblem::of_fetch("the discovery document", &url, &error))?;
            Discovery::parse(&fetched.body, &provider.issuer).map_err(IssuerProblem::Wrong)?.jwks_uri
        }
    };
    let fetched = outbound
        .get(&key_set_url)
        .await
        .map_err(|error| IssuerProblem::of_fetch("the key set", &key_set_url, &error))?;
    let set = KeySet::parse(&fetched.body, Trusted::Fetched)
        .map_err(|error| IssuerProblem::Wrong(format!("{error}, at {key_set_url}")))?;
    serves(&set, provider)
}

fn serves(set: &KeySet, provider: &Provider) -> Result<(), IssuerProblem> {
    if set.serves(provider) {
        Ok(())
    } else if set.is_empty() {
        Err(IssuerProblem::Wrong("the key set has no key that can verify a signature".into()))
    } else {
        Err(IssuerProblem::Wrong(format!(
            "the key set has no key for the algorithms that the provider accepts; it has {}",
            set.describe()
        )))
    }
}
