//! The service account credential as clients read it: one JSON document (mondoo.md section 3).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::key_pair::KeyPairCredential;

/// What the document carries besides names.
enum Content {
    KeyPair { private_key: SecretString, certificate: String },
    Token(SecretString),
}

/// A credential document. Its secrets are written out only by [`Self::to_json`] and [`Self::to_base64`].
pub struct ServiceAccountDocument {
    mrn: String,
    scope_mrn: String,
    api_endpoint: String,
    content: Content,
}

impl fmt::Debug for ServiceAccountDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountDocument").field("mrn", &self.mrn).finish_non_exhaustive()
    }
}

/// The members in the order in which consoles write them. `space_mrn` is the only scope that the exchange client reads,
/// whatever the level; `scope_mrn` and `parent_mrn` serve the readers of configuration files.
#[derive(Serialize)]
struct Members<'d> {
    mrn: &'d str,
    space_mrn: &'d str,
    scope_mrn: &'d str,
    parent_mrn: &'d str,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'d str>,
    api_endpoint: &'d str,
    typename: &'static str,
}

impl ServiceAccountDocument {
    /// With a key pair. `mrn` is what signs: the credential's MRN, or the service account's for a standing key;
    /// `api_endpoint` is the public URL.
    pub fn key_pair(mrn: &str, scope_mrn: &str, api_endpoint: &str, credential: KeyPairCredential) -> Self {
        let content =
            Content::KeyPair { private_key: credential.private_key_pem, certificate: credential.certificate_pem };
        Self::new(mrn, scope_mrn, api_endpoint, content)
    }

    /// With an access token in the key pair's place (`response_type = TOKEN`).
    pub fn token(mrn: &str, scope_mrn: &str, api_endpoint: &str, token: SecretString) -> Self {
        Self::new(mrn, scope_mrn, api_endpoint, Content::Token(token))
    }

    fn new(mrn: &str, scope_mrn: &str, api_endpoint: &str, content: Content) -> Self {
        Self { mrn: mrn.to_owned(), scope_mrn: scope_mrn.to_owned(), api_endpoint: api_endpoint.to_owned(), content }
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Zeroizing<String> {
        let (private_key, certificate, token) = match &self.content {
            Content::KeyPair { private_key, certificate } => {
                (Some(private_key.expose_secret()), Some(certificate.as_str()), None)
            }
            Content::Token(token) => (None, None, Some(token.expose_secret())),
        };
        let members = Members {
            mrn: &self.mrn,
            space_mrn: &self.scope_mrn,
            scope_mrn: &self.scope_mrn,
            parent_mrn: &self.scope_mrn,
            private_key,
            certificate,
            token,
            api_endpoint: &self.api_endpoint,
            typename: "ServiceAccountCredential",
        };
        // Room for all of it, line feeds escaped: a buffer that grows leaves copies of the key behind.
        let texts = [private_key, certificate, token].into_iter().flatten().map(str::len).sum::<usize>();
        let names = self.mrn.len() + 3 * self.scope_mrn.len() + self.api_endpoint.len();
        let mut json = Zeroizing::new(Vec::with_capacity(2 * (texts + names) + 256));
        // Strings and fixed names only: writing them into memory cannot fail.
        let _ = serde_json::to_writer(&mut *json, &members);
        Zeroizing::new(String::from_utf8(std::mem::take(&mut *json)).unwrap_or_default())
    }

    /// The document as `base64_credential` wants it: standard base64 with padding (RFC 4648 section 4), one line.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.to_json().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_pair::KeyPairRequest;
    use crate::testing::{ACCOUNT, NOW, SCOPE, installation};
    use sallyport_domain::entropy::SystemEntropy;
    use serde_json::Value;

    #[test]
    fn a_key_pair_document_has_what_every_client_reads() {
        let request =
            KeyPairRequest { subject_mrn: ACCOUNT, scope_mrn: SCOPE, not_after: NOW.plus_seconds(60), now: NOW };
        let credential = installation().ring.issue_key_pair(&request, &SystemEntropy).unwrap();
        let pem = credential.private_key_pem.expose_secret().to_owned();
        let certificate = credential.certificate_pem.clone();
        let document = ServiceAccountDocument::key_pair(ACCOUNT, SCOPE, "https://sallyport.example", credential);
        let encoded = document.to_base64();
        assert!(encoded.len().is_multiple_of(4) && !encoded.contains('\n'));
        let read: Value = serde_json::from_slice(&STANDARD.decode(encoded.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "mrn": ACCOUNT,
                "space_mrn": SCOPE,
                "scope_mrn": SCOPE,
                "parent_mrn": SCOPE,
                "private_key": pem,
                "certificate": certificate,
                "api_endpoint": "https://sallyport.example",
                "typename": "ServiceAccountCredential",
            })
        );
        assert!(!format!("{document:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_token_document_has_a_token_and_no_key() {
        let document = ServiceAccountDocument::token(ACCOUNT, SCOPE, "https://x.example", "a.b.c".into());
        let read: Value = serde_json::from_str(&document.to_json()).unwrap();
        assert_eq!(read["token"], "a.b.c");
        assert_eq!(read["typename"], "ServiceAccountCredential");
        assert_eq!((read.get("private_key"), read.get("certificate")), (None, None));
        assert!(!format!("{document:?}").contains("a.b.c"));
    }
}
