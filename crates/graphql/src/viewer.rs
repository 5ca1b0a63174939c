//! Who am I: the caller as the service sees them.

use async_graphql::{Context, Enum, Object, SimpleObject};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::mrn::Resource;
use sallyport_domain::principal::PrincipalKind as DomainKind;
use sallyport_domain::role::Permission;

use crate::access::Caller;
use crate::error::Result;
use crate::inputs::shown_roles;

/// What sort of principal.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PrincipalKind {
    /// A holder of an API token.
    ApiToken,
    /// A service account, by its standing key or by a credential it got in an exchange.
    ServiceAccount,
}

/// The caller.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct Viewer {
    /// The API token's or the service account's MRN.
    mrn: String,
    /// What sort of principal.
    kind: PrincipalKind,
    /// Its label.
    name: String,
    /// MRNs of the roles in force for this call.
    roles: Vec<String>,
    /// What those roles allow, at the scope below and everywhere under it.
    permissions: Vec<&'static str>,
    /// Where the roles hold.
    scope_mrn: String,
    /// When the credential used ends; null for one that stands.
    expires_at: Option<String>,
    /// Whether the credential came out of an exchange.
    federated: bool,
    /// The credential used, when it came out of an exchange.
    credential_mrn: Option<String>,
}

/// The query.
#[derive(Default)]
pub(crate) struct ViewerQuery;

#[Object]
impl ViewerQuery {
    /// Who is asking.
    async fn viewer(&self, context: &Context<'_>) -> Result<Viewer> {
        let caller = Caller::of(context)?;
        let mrns = caller.mrns();
        let snapshot = caller.snapshot()?;
        let principal = &caller.access(&snapshot)?.principal;
        let credential_mrn = principal.service_account.zip(principal.credential).map(|(account, credential)| {
            mrns.format(&Resource::Credential(principal.scope.clone(), account, credential))
        });
        Ok(Viewer {
            mrn: principal.mrn.clone(),
            kind: match principal.kind {
                DomainKind::ApiToken => PrincipalKind::ApiToken,
                DomainKind::ServiceAccount => PrincipalKind::ServiceAccount,
            },
            name: principal.name.clone(),
            roles: shown_roles(mrns, &principal.roles),
            permissions: principal.permissions.iter().map(Permission::name).collect(),
            scope_mrn: mrns.scope(&principal.scope),
            expires_at: principal.expires_at.map(Timestamp::to_rfc3339),
            federated: principal.is_federated(),
            credential_mrn,
        })
    }
}
