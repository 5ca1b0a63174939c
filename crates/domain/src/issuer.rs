//! Issuer identifiers: what may be saved as one, and when two name the same issuer.

use std::fmt;
use std::sync::Arc;

use url::{Host, Url};

use crate::validate::{FieldError, URL_MAX};

/// An issuer exactly as the admin gave it. Compared modulo one trailing slash through [`Self::key`].
#[derive(Clone, Debug)]
pub struct IssuerUri {
    text: Arc<str>,
    key: IssuerKey,
}

/// An issuer without one trailing slash: equal keys name the same issuer. Case is kept, prefixes never match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IssuerKey(Arc<str>);

impl IssuerUri {
    /// Takes stored text as it is.
    pub fn stored(text: &str) -> Self {
        let text: Arc<str> = text.into();
        let key = if text.ends_with('/') { IssuerKey::of(&text) } else { IssuerKey(Arc::clone(&text)) };
        Self { text, key }
    }

    /// Checks text from an admin: `https`, an ASCII host, and no user info, query, fragment, dot segment or trailing junk;
    /// or `spiffe://<trust domain>` when `spiffe` is set.
    pub fn parse(field: &str, text: &str, spiffe: bool) -> Result<Self, FieldError> {
        if spiffe { check_spiffe(text) } else { check_https(text) }
            .map_err(|message| FieldError::new(field, message))?;
        Ok(Self::stored(text))
    }

    /// The text as given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What to compare by.
    pub const fn key(&self) -> &IssuerKey {
        &self.key
    }

    /// The SPIFFE trust domain, when this issuer is one.
    pub fn trust_domain(&self) -> Option<&str> {
        self.text.strip_prefix("spiffe://").map(|domain| domain.strip_suffix('/').unwrap_or(domain))
    }
}

impl IssuerKey {
    /// The key of any issuer text, checked or not.
    pub fn of(text: &str) -> Self {
        Self(text.strip_suffix('/').unwrap_or(text).into())
    }

    /// The text without its trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IssuerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks a URL that the server itself will fetch: the issuer's rules, but a query is allowed.
pub fn check_fetch_url(field: &str, text: &str) -> Result<Url, FieldError> {
    common(text, true).map_err(|message| FieldError::new(field, message))
}

fn check_https(text: &str) -> Result<(), String> {
    common(text, false).map(drop)
}

fn common(text: &str, query_allowed: bool) -> Result<Url, String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if text.len() > URL_MAX {
        return Err(format!("is {} bytes long; at most {URL_MAX} are allowed", text.len()));
    }
    if !text.is_ascii()
        || text.bytes().any(|b| b <= b' ' || b == 0x7F || matches!(b, b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}'))
    {
        return Err("must hold only the ASCII characters of a URL, without spaces".into());
    }
    // The parser would mend `https:a` and `https:/a`; what follows relies on the text being what it was read as.
    if !text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
        return Err("must start with https://; an example is https://token.actions.githubusercontent.com".into());
    }
    let url = Url::parse(text).map_err(|error| {
        format!("is not a URL ({error}); an example is https://token.actions.githubusercontent.com")
    })?;
    if url.scheme() != "https" {
        return Err(format!("must start with https://, not {}:", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() || text.contains('@') && url.authority().contains('@') {
        return Err("must not contain a user name or password".into());
    }
    if url.fragment().is_some() || text.contains('#') {
        return Err("must not contain a fragment (#…)".into());
    }
    if !query_allowed && (url.query().is_some() || text.contains('?')) {
        return Err("must not contain a query (?…)".into());
    }
    let Some(host) = url.host() else { return Err("must name a host".into()) };
    if let Host::Domain(name) = host
        && (name.ends_with('.') || name.is_empty())
    {
        return Err("must not have a host that ends in a dot".into());
    }
    // The parser resolves dot segments, adds a root slash, lower-cases scheme and host and drops a default port;
    // whatever else it changed was something two readers could read differently.
    let canonical = url.as_str();
    let same = canonical == text || canonical.strip_suffix('/') == Some(text) && url.path() == "/";
    if !same {
        let rest = |t: &str| t.get(8..).and_then(|r| r.find(['/', '?']).map(|i| r[i..].to_owned())).unwrap_or_default();
        let (given, parsed) = (rest(text), rest(canonical));
        if given != parsed && !(given.is_empty() && parsed == "/") {
            return Err(format!("must be written in its canonical form, without dot segments: {canonical}"));
        }
        let authority = &text[8..text.len() - given.len()];
        if !authority.eq_ignore_ascii_case(url.authority()) {
            return Err(format!("must be written in its canonical form: {canonical}"));
        }
    }
    Ok(url)
}

/// SPIFFE-ID section 2.1: the trust domain is 1 to 255 of lower-case letters, digits, `.`, `-`, `_`, with no path.
fn check_spiffe(text: &str) -> Result<(), String> {
    let domain = text.strip_prefix("spiffe://").ok_or("must be spiffe:// followed by the trust domain")?;
    let fits = (1..=255).contains(&domain.len())
        && domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
    if fits {
        Ok(())
    } else {
        Err("must be spiffe:// and a trust domain of lower-case letters, digits, '.', '-' and '_', without a path"
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_platforms_use() {
        for good in [
            "https://token.actions.githubusercontent.com",
            "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
            "https://gitlab.example.com:8443/path",
            "https://127.0.0.1:9000",
            "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
            "https://Login.Example.com/Tenant",
        ] {
            IssuerUri::parse("issuerUri", good, false).unwrap();
        }
        IssuerUri::parse("issuerUri", "spiffe://prod.acme.internal", true).unwrap();
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        for bad in [
            "",
            "http://a.example",
            "https://",
            "https://user@a.example",
            "https://a.example?x",
            "https://a.example/#f",
            "https://a.example/../b",
            "https://a.example/%2e%2e/b",
            "https://a.example /",
            "https://ä.example",
            "https://a.example\\b",
            "ftp://a.example",
            "https://a.example./",
            "https:/a.example",
            "https:a.example",
            "https:a",
            "https:",
            "h",
            "https://0x7f000001/",
            "https://127.1/",
            "spiffe://x",
        ] {
            assert!(IssuerUri::parse("issuerUri", bad, false).is_err(), "{bad}");
        }
        for bad in ["spiffe://", "spiffe://A", "spiffe://a/b", "https://a.example"] {
            assert!(IssuerUri::parse("issuerUri", bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_ignore_exactly_one_trailing_slash() {
        assert_eq!(IssuerKey::of("https://a/"), IssuerKey::of("https://a"));
        assert_ne!(IssuerKey::of("https://a//"), IssuerKey::of("https://a"));
        assert_ne!(IssuerKey::of("https://a/B"), IssuerKey::of("https://a/b"));
    }
}
