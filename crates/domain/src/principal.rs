//! Who acts, and what they may do where. Every permission check of the program ends in [`Principal::permissions_at`].

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::{ApiTokenId, CredentialId, ServiceAccountId, TrustId};
use crate::role::{Permission, PermissionSet, RoleRef};
use crate::scope::{Scope, ScopeTree};

/// What sort of principal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrincipalKind {
    /// A holder of an API token.
    ApiToken,
    /// A service account, by its standing key or by a credential it got in an exchange.
    ServiceAccount,
}

impl PrincipalKind {
    /// The name in GraphQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApiToken => "API_TOKEN",
            Self::ServiceAccount => "SERVICE_ACCOUNT",
        }
    }
}

/// An authenticated caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// What sort.
    pub kind: PrincipalKind,
    /// Its MRN: the API token's or the service account's.
    pub mrn: String,
    /// Its label.
    pub name: String,
    /// Where its roles hold: this scope and all below.
    pub scope: Scope,
    /// The roles in force for this call, already narrowed by the credential.
    pub roles: Vec<RoleRef>,
    /// What those roles allow.
    pub permissions: PermissionSet,
    /// When the exchanged credential was issued; `None` for one that stands.
    pub issued_at: Option<Timestamp>,
    /// When the credential used ends; `None` for one that stands.
    pub expires_at: Option<Timestamp>,
    /// The API token, when it is one.
    pub api_token: Option<ApiTokenId>,
    /// The service account, when it is one.
    pub service_account: Option<ServiceAccountId>,
    /// The exchanged credential used, when it was one; such a caller is a federated workload.
    pub credential: Option<CredentialId>,
    /// The trust that credential came from.
    pub trust: Option<TrustId>,
    /// Whose subject token it was exchanged for: the subject at the trust's provider.
    pub subject: Option<String>,
}

impl Principal {
    /// What the principal may do at `scope`: all its permissions at its own scope and below, nothing elsewhere.
    pub fn permissions_at(&self, scope: &Scope, tree: &impl ScopeTree) -> PermissionSet {
        if tree.reaches(&self.scope, scope) { self.permissions } else { PermissionSet::EMPTY }
    }

    /// Whether the principal may do one thing at `scope`.
    pub fn may(&self, permission: Permission, scope: &Scope, tree: &impl ScopeTree) -> bool {
        self.permissions_at(scope, tree).contains(permission)
    }

    /// Whether the caller got its credential in an exchange.
    pub const fn is_federated(&self) -> bool {
        self.credential.is_some()
    }
}

/// Bytes of a standing key: a P-384 point, uncompressed (SEC1).
pub const STANDING_KEY: usize = 97;

/// A non-human principal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceAccount {
    /// Its id.
    pub id: ServiceAccountId,
    /// Where it lives and holds its roles.
    pub scope: Scope,
    /// A label.
    pub name: Box<str>,
    /// Free text.
    pub description: Option<Box<str>>,
    /// Its roles at its scope.
    pub roles: Arc<[RoleRef]>,
    /// Disabled accounts neither get nor use credentials.
    pub disabled: bool,
    /// The binding that owns it; such an account is changed only through the binding.
    pub owner: Option<TrustId>,
    /// Its standing key, when it was made with one: the P-384 public key (SEC1, uncompressed).
    pub standing_key: Option<Box<[u8; STANDING_KEY]>>,
    /// When the account and its standing key end.
    pub valid_until: Option<Timestamp>,
    /// Credentials issued before this time no longer work (revocation of all at once).
    pub credentials_not_before: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it.
    pub created_by: Arc<str>,
}

/// A standing bearer secret. The secret itself is never kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// Where its roles hold.
    pub scope: Scope,
    /// A label.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Its roles.
    pub roles: Vec<RoleRef>,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it; empty for the bootstrap token.
    pub created_by: String,
}
