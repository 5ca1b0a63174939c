//! Minting: from a grant to the credential that leaves, and to what is kept of it.

use sallyport_credentials::access_token::{AccessTokenClaims, WifClaims};
use sallyport_credentials::document::ServiceAccountDocument;
use sallyport_credentials::id_token::IdTokenClaims;
use sallyport_credentials::key_pair::KeyPairRequest;
use sallyport_credentials::keys::KeyError;
use sallyport_domain::exchange::IssuedCredential;
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::scope_text;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::pipeline::{Grant, Granted, Wanted};
use crate::services::Services;

/// A credential on its way out. Wiped when dropped, never printed.
pub enum Minted {
    /// A service account credential document with a key pair, in base64.
    Document(Zeroizing<String>),
    /// An access token or an ID token.
    Token(Zeroizing<String>),
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Document(_) => "Document(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// Makes the credential that was wanted. Nothing leaves before the caller has put [`IssuedCredential`] on record.
///
/// # Errors
/// When there is no signing key, or the claims passed through do not fit into a token.
pub fn mint(services: &Services, grant: &Grant<'_>, wanted: &Wanted) -> Result<(Minted, IssuedCredential), KeyError> {
    let mrns = &services.installation.mrns;
    let keys = services.keys.load();
    let trust = grant.candidate().trust.trust();
    let now = services.now();
    let expires_at = now.plus_seconds(i64::from(grant.terms().lifetime));
    let account_mrn = mrns.format(&Resource::ServiceAccount(trust.scope.clone(), trust.service_account));
    let roles: Vec<String> = grant.terms().roles.iter().map(|role| mrns.role(role)).collect();
    let mut public_key = None;
    let minted = match wanted {
        Wanted::AccessToken => {
            let identity = grant.identity().identity();
            let claims = AccessTokenClaims {
                iss: (&services.installation.public_url).into(),
                sub: account_mrn.into(),
                aud: (&services.installation.public_url).into(),
                client_id: services.installation.client_id(&grant.candidate().trust).into(),
                scope: scope_text(&grant.terms().roles).into(),
                iat: now.seconds(),
                exp: expires_at.seconds(),
                jti: grant.credential(),
                roles: (&roles).into(),
                wif: WifClaims {
                    issuer: (&identity.issuer).into(),
                    subject: (&identity.subject).into(),
                    provider: mrns
                        .format(&Resource::Provider(
                            grant.candidate().provider.scope.clone(),
                            grant.candidate().provider.id,
                        ))
                        .into(),
                    trust: mrns.format(&Resource::Trust(trust.scope.clone(), trust.id)).into(),
                },
                c1wfc: grant.terms().passthrough.iter().cloned().collect(),
            };
            Minted::Token(Zeroizing::new(keys.sign_access_token(&claims)?))
        }
        Wanted::IdToken { audience } => {
            let claims = IdTokenClaims {
                iss: services.installation.public_url.clone(),
                sub: account_mrn,
                aud: audience.clone(),
                iat: now.seconds(),
                exp: expires_at.seconds(),
                jti: grant.credential(),
            };
            Minted::Token(Zeroizing::new(keys.sign_id_token(&claims)?))
        }
        Wanted::KeyPair => {
            let mrn =
                mrns.format(&Resource::Credential(trust.scope.clone(), trust.service_account, grant.credential()));
            let scope_mrn = mrns.scope(&trust.scope);
            let request = KeyPairRequest { subject_mrn: &mrn, scope_mrn: &scope_mrn, not_after: expires_at, now };
            let credential = keys.issue_key_pair(&request, &*services.entropy)?;
            public_key = Some(credential.public_key.clone());
            let api_endpoint = &services.installation.public_url;
            Minted::Document(ServiceAccountDocument::key_pair(&mrn, &scope_mrn, api_endpoint, credential).to_base64())
        }
    };
    let issued = IssuedCredential { id: grant.credential(), kind: wanted.kind(), expires_at, roles, public_key };
    Ok((minted, issued))
}

/// The document that carries a token in the key pair's place (`response_type = TOKEN`), in base64.
pub fn token_document(services: &Services, granted: &Granted, token: &str) -> Zeroizing<String> {
    let mrns = &services.installation.mrns;
    let mrn = mrns.format(&Resource::Credential(granted.scope.clone(), granted.service_account, granted.id));
    let (scope_mrn, api_endpoint) = (mrns.scope(&granted.scope), &services.installation.public_url);
    ServiceAccountDocument::token(&mrn, &scope_mrn, api_endpoint, SecretString::from(token)).to_base64()
}
