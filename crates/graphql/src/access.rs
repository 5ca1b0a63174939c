//! The one place where permissions are checked, and the caller on whose behalf everything is done.
//!
//! Two rules. What a caller may not see is not found, in the same words as what is not there. Nobody gives, or edits, a grant
//! that reaches beyond their own permissions at that scope.

use std::sync::Arc;

use async_graphql::Context;
use futures::future::BoxFuture;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::ServiceAccountId;
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::principal::Principal;
use sallyport_domain::role::{Permission, PermissionSet, RoleRef};
use sallyport_domain::scope::{Scope, ScopeTree as _};
use sallyport_domain::snapshot::Snapshot;
use sallyport_domain::validate::list_within;
use sallyport_gateway::Services;
use sallyport_gateway::authentication::revalidate;
use sallyport_gateway::origin::Origin;
use sallyport_store::{AuditEntry, MutateError, Write};
use serde_json::Value;

use crate::error::{Error, Result};

/// Who asks, and in which request.
pub(crate) struct Caller {
    pub(crate) services: Arc<Services>,
    pub(crate) principal: Arc<Principal>,
    pub(crate) origin: Origin,
}

/// How often an operation is tried again because the configuration moved on while it looked something up.
const TRIES: usize = 8;

/// What a plan wants done.
pub(crate) struct Planned<T> {
    pub(crate) writes: Vec<Write>,
    pub(crate) value: T,
}

impl<T> Planned<T> {
    /// The writes and the value. What changes anything says who did it, in the same transaction; a plan that does not is a
    /// defect, and changes nothing.
    fn on_record(self) -> Result<(Vec<Write>, T)> {
        if self.writes.is_empty() || self.writes.iter().any(|write| matches!(write, Write::Audit(_))) {
            Ok((self.writes, self.value))
        } else {
            Err(Error::internal("a mutation would change something without putting it on record"))
        }
    }
}

/// A plan's refusal, or the news that what it had looked up is out of date.
pub(crate) enum Halt {
    Refused(Error),
    Outdated,
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl Caller {
    /// The caller of the request under way.
    pub(crate) fn of<'c>(context: &Context<'c>) -> Result<&'c Self> {
        context.data::<Self>().map_err(|_| Error::internal("a request reached the schema without its caller"))
    }

    pub(crate) fn mrns(&self) -> &MrnDomain {
        &self.services.installation.mrns
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.services.now()
    }

    /// The configuration to answer by.
    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        Ok(self.services.configuration.current()?)
    }

    /// What the caller may do, by this configuration: a request is recognised once, but what it rests on may be gone, or less,
    /// by the time one of its operations comes to be judged.
    pub(crate) fn access<'a>(&'a self, snapshot: &'a Snapshot) -> Result<Access<'a>> {
        let principal = revalidate(&self.services, &self.principal, snapshot).ok_or_else(Error::unauthenticated)?;
        Ok(Access { principal, snapshot, mrns: self.mrns() })
    }

    /// Reads a scope's MRN. Whether it is there is for [`Access`] to say.
    pub(crate) fn scope(&self, field: &str, mrn: &str) -> Result<Scope> {
        self.mrns().parse_scope(mrn).ok_or_else(|| {
            let domain = self.mrns().as_str();
            Error::invalid(
                field,
                format!("must be the MRN of a space (//captain.{domain}/spaces/<id>), an organization (//captain.{domain}/organizations/<id>) or the platform (//platform.{domain})"),
            )
        })
    }

    /// Changes the configuration by one plan; the newest snapshot and the caller's rights on it come in.
    pub(crate) async fn mutate<T>(
        &self,
        mut plan: impl FnMut(&Access<'_>) -> Result<Planned<T>>,
    ) -> Result<(T, Arc<Snapshot>)> {
        let done = self.services.configuration.mutate(|snapshot| plan(&self.access(snapshot)?)?.on_record()).await?;
        Ok(done)
    }

    /// As [`Self::mutate`], for plans that rest on facts which only the database knows: `look` reads them, and is asked again
    /// when the configuration has moved on since.
    pub(crate) async fn mutate_on<'l, F, T>(
        &self,
        look: impl Fn(Arc<Snapshot>) -> BoxFuture<'l, Result<F>>,
        mut plan: impl FnMut(&Access<'_>, &F) -> Result<Planned<T>>,
    ) -> Result<(T, Arc<Snapshot>)> {
        for _ in 0..TRIES {
            let seen = self.services.configuration.refresh().await?;
            let facts = look(Arc::clone(&seen)).await?;
            let done = self
                .services
                .configuration
                .mutate(|snapshot| -> Result<_, Halt> {
                    if snapshot.revision() != seen.revision() {
                        return Err(Halt::Outdated);
                    }
                    Ok(plan(&self.access(snapshot)?, &facts)?.on_record()?)
                })
                .await;
            match done {
                Ok(done) => return Ok(done),
                Err(MutateError::Rejected(Halt::Outdated)) => {}
                Err(MutateError::Rejected(Halt::Refused(error))) => return Err(error),
                Err(MutateError::Conflict(constraint)) => return Err(constraint.into()),
                Err(MutateError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(Error::unavailable())
    }

    /// The record of a change. `before` and `after` must not hold secrets.
    pub(crate) fn audit(
        &self,
        snapshot: &Snapshot,
        action: &str,
        target: &Resource,
        scope: &Scope,
        change: (Option<Value>, Option<Value>),
    ) -> Write {
        Write::Audit(AuditEntry {
            id: self.services.new_id(),
            time: self.now(),
            actor: self.principal.mrn.clone(),
            action: action.to_owned(),
            target: self.mrns().format(target),
            organization: match scope {
                // A new organization is not in the snapshot yet.
                Scope::Organization(id) => Some(id.clone()),
                other => snapshot.organization_of_scope(other),
            },
            scope: scope.clone(),
            before: change.0,
            after: change.1,
            request_id: self.origin.request_id.clone(),
            source_ip: self.origin.source_ip.map(|ip| ip.to_string()),
        })
    }
}

/// What one caller may do, by one snapshot.
pub(crate) struct Access<'a> {
    /// The caller, with the rights that this snapshot gives.
    pub(crate) principal: Principal,
    pub(crate) snapshot: &'a Snapshot,
    mrns: &'a MrnDomain,
}

impl Access<'_> {
    /// Whether the caller may do this there.
    pub(crate) fn may(&self, permission: Permission, scope: &Scope) -> bool {
        self.snapshot.has_scope(scope) && self.principal.may(permission, scope, self.snapshot)
    }

    /// The check. Without `permission` at `scope`: [`Error::permission_denied`] when the caller may at least see such things
    /// there, else [`Error::not_found`] about `what`, as if the scope were not there.
    pub(crate) fn require(&self, permission: Permission, scope: &Scope, what: &str) -> Result<()> {
        if !self.snapshot.has_scope(scope) {
            return Err(Error::not_found(what));
        }
        if self.principal.may(permission, scope, self.snapshot) {
            return Ok(());
        }
        let seen = self.principal.permissions_at(scope, self.snapshot);
        if seen.contains(sight(permission)) { Err(self.denied(permission, scope)) } else { Err(Error::not_found(what)) }
    }

    /// As [`Self::require`], for what everyone knows to be there.
    pub(crate) fn require_openly(&self, permission: Permission, scope: &Scope) -> Result<()> {
        if self.may(permission, scope) { Ok(()) } else { Err(self.denied(permission, scope)) }
    }

    /// As [`Self::require`], for all that gives access, or decides who gets it: bindings, providers, trusts, service accounts,
    /// API tokens, roles. A caller that is itself a federated workload needs one more permission, so that an exchanged
    /// credential cannot make itself permanent.
    pub(crate) fn require_federation(&self, permission: Permission, scope: &Scope, what: &str) -> Result<()> {
        self.require(permission, scope, what)?;
        if self.principal.is_federated() && !self.may(Permission::FederationByWorkload, scope) {
            return Err(Error::permission_denied(format!(
                "a workload that is itself federated needs the permission '{}' to manage federation, service accounts, API tokens and roles",
                Permission::FederationByWorkload.name()
            )));
        }
        Ok(())
    }

    /// Whether the caller may see things of this sort at `scope`.
    pub(crate) fn sees(&self, permission: Permission, scope: &Scope) -> bool {
        self.may(sight(permission), scope)
    }

    /// Whether the caller may see what is offered at `scope` to everything below: it lies on the way from the caller's own
    /// scope to the root, or the caller has rights there.
    pub(crate) fn sees_offered(&self, permission: Permission, scope: &Scope) -> bool {
        self.may(permission, scope)
            || self.principal.permissions.contains(permission) && self.snapshot.reaches(scope, &self.principal.scope)
    }

    /// Refuses a grant of `roles` at `scope` that reaches beyond the caller's own permissions there, and one of a role that does
    /// not exist: who knows what it will allow once somebody makes it.
    pub(crate) fn may_grant(&self, field: &str, roles: &[RoleRef], scope: &Scope) -> Result<()> {
        let own = self.principal.permissions_at(scope, self.snapshot);
        for role in roles {
            if let RoleRef::Organization(organization, name) = role
                && self.snapshot.role(organization, name).is_none()
            {
                return Err(Error::failed_precondition(format!(
                    "the role '{}' does not exist any more; nobody can give it, or change to whom it is given",
                    self.mrns.role(role)
                ))
                .on(field));
            }
            let beyond = self.snapshot.permissions_of(std::slice::from_ref(role)).without(own);
            if let Some(permission) = beyond.iter().next() {
                return Err(Error::permission_denied(format!(
                    "the role '{}' allows '{}', which you may not do yourself at this {}",
                    role.name(),
                    permission.name(),
                    scope.level()
                ))
                .on(field));
            }
        }
        Ok(())
    }

    /// As [`Self::may_grant`], for what a role is to allow.
    pub(crate) fn may_allow(&self, field: &str, permissions: PermissionSet, scope: &Scope) -> Result<()> {
        let own = self.principal.permissions_at(scope, self.snapshot);
        match permissions.without(own).iter().next() {
            None => Ok(()),
            Some(permission) => Err(Error::permission_denied(format!(
                "you may not do '{}' yourself at this {}",
                permission.name(),
                scope.level()
            ))
            .on(field)),
        }
    }

    /// Reads a list of role MRNs that may be given at `scope`.
    pub(crate) fn roles(&self, field: &str, mrns: &[String], scope: &Scope) -> Result<Vec<RoleRef>> {
        list_within(field, mrns)?;
        let mut roles: Vec<RoleRef> = Vec::with_capacity(mrns.len());
        for (index, mrn) in mrns.iter().enumerate() {
            let entry = format!("{field}[{index}]");
            let role = self
                .mrns
                .parse_role(mrn)
                .filter(|role| self.snapshot.role_usable_at(role, scope))
                .ok_or_else(|| Error::invalid(&entry, self.no_role(mrn)))?;
            if roles.contains(&role) {
                return Err(Error::invalid(entry, "names a role a second time"));
            }
            roles.push(role);
        }
        Ok(roles)
    }

    fn no_role(&self, given: &str) -> String {
        let example = match sallyport_domain::role::BuiltInRole::from_name(given) {
            Some(role) => format!("; did you mean '{}'?", self.mrns.role(&RoleRef::BuiltIn(role))),
            None => format!("; built in are //iam.{0}/roles/agent, viewer, editor and owner", self.mrns.as_str()),
        };
        format!("is not the MRN of a role that can be given at this scope{example}")
    }

    /// Refuses to touch what a binding owns.
    pub(crate) fn not_of_binding(&self, account: ServiceAccountId) -> Result<()> {
        let account = self.snapshot.service_account(account);
        match account.and_then(|a| a.owner.map(|binding| (a, binding))) {
            None => Ok(()),
            Some((account, binding)) => {
                Err(self.change_the_binding(&Resource::Binding(account.scope.clone(), binding)))
            }
        }
    }

    /// The refusal to change a part of a binding otherwise than through it.
    pub(crate) fn change_the_binding(&self, binding: &Resource) -> Error {
        Error::failed_precondition(format!(
            "this belongs to the binding {}; change or remove the binding instead",
            self.mrns.format(binding)
        ))
    }

    fn denied(&self, permission: Permission, scope: &Scope) -> Error {
        Error::permission_denied(format!(
            "this needs the permission '{}' at this {}, which your roles do not give",
            permission.name(),
            scope.level()
        ))
    }
}

/// The permission to see what another permission lets one change.
const fn sight(permission: Permission) -> Permission {
    use Permission as P;
    match permission {
        P::OrganizationsCreate | P::OrganizationsManage | P::SpacesCreate | P::SpacesManage | P::ScopesRead => {
            P::ScopesRead
        }
        P::ServiceAccountsManage | P::ServiceAccountsRead | P::IdTokensIssue => P::ServiceAccountsRead,
        P::ApiTokensManage | P::ApiTokensRead => P::ApiTokensRead,
        P::RolesManage | P::RolesRead => P::RolesRead,
        P::BindingsManage | P::BindingsRead => P::BindingsRead,
        P::ProvidersManage | P::ProvidersRead => P::ProvidersRead,
        P::TrustsManage | P::TrustsRead => P::TrustsRead,
        P::ExchangesSimulate | P::ExchangesRead => P::ExchangesRead,
        P::CredentialsRevoke | P::CredentialsRead => P::CredentialsRead,
        P::AuditRead | P::AgentReport | P::FederationByWorkload => P::ScopesRead,
    }
}
