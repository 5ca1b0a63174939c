//! The exchange record: one attempt, granted or refused, with a reference.

use std::net::IpAddr;

use crate::clock::Timestamp;
use crate::decision::Check;
use crate::id::{CredentialId, ExchangeId, OrganizationId, ProviderId, ServiceAccountId, TrustId};
use crate::scope::Scope;

/// Through which door an attempt came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// `ExchangeExternalToken`.
    Rpc,
    /// The OAuth 2.0 token endpoint.
    Oauth,
}

impl Protocol {
    /// Every door, in order.
    pub const ALL: [Self; 2] = [Self::Rpc, Self::Oauth];

    /// The name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Oauth => "oauth",
        }
    }
}

/// What is kept of one attempt. Never the token itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeRecord {
    /// Its reference.
    pub id: ExchangeId,
    /// When it was decided.
    pub time: Timestamp,
    /// The scope of the trust, or of the provider when no trust was chosen.
    pub scope: Scope,
    /// The organization that scope belongs to, when it is not the platform.
    pub organization: Option<OrganizationId>,
    /// Whether a credential was given out.
    pub granted: bool,
    /// Name of the first failed check, for refusals.
    pub reason: Option<String>,
    /// Through which door.
    pub protocol: Protocol,
    /// The trust that decided.
    pub trust: Option<TrustId>,
    /// Whether that trust is a binding.
    pub binding: bool,
    /// The provider that verified.
    pub provider: Option<ProviderId>,
    /// The service account, for grants.
    pub service_account: Option<ServiceAccountId>,
    /// The issuer presented.
    pub issuer: String,
    /// The subject presented; empty when it could not be read.
    pub subject: String,
    /// Where the request came from.
    pub source_ip: Option<IpAddr>,
    /// SHA-256 of the subject token.
    pub token_hash: [u8; 32],
    /// The credential, for grants.
    pub credential: Option<IssuedCredential>,
    /// Every check.
    pub checks: Vec<Check>,
    /// To be consumed with the grant, when the provider allows a token once.
    pub replay: Option<ReplayKey>,
}

/// What sort of credential was minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialKind {
    /// A JWT (RFC 9068).
    AccessToken,
    /// A P-384 key pair with certificate.
    KeyPair,
    /// An OIDC ID token for a third party.
    IdToken,
}

impl CredentialKind {
    /// Every sort, in order.
    pub const ALL: [Self; 3] = [Self::AccessToken, Self::KeyPair, Self::IdToken];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::KeyPair => "key_pair",
            Self::IdToken => "id_token",
        }
    }

    /// Reads [`Self::name`] back.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What is kept of a credential: enough to check, list and revoke it, never enough to use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuedCredential {
    /// Its id; the access token's `jti`, the last part of the key pair's MRN.
    pub id: CredentialId,
    /// What sort.
    pub kind: CredentialKind,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Effective roles, as MRNs.
    pub roles: Vec<String>,
    /// Key pairs: the P-384 public key (SEC1, uncompressed).
    pub public_key: Option<Vec<u8>>,
}

/// Names one use of a subject token, for providers that allow it once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayKey {
    /// The provider.
    pub provider: ProviderId,
    /// SHA-256 of `header.payload`, of the `jti`, or of AWS's access key, date and signature.
    pub fingerprint: [u8; 32],
    /// Until when the use must be remembered.
    pub until: Timestamp,
}
