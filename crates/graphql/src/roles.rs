//! Roles: those that every installation has, and those that an organization defines.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use sallyport_domain::id::OrganizationId;
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::role::{
    BuiltInRole, Permission, PermissionSet, Role as DomainRole, RoleName, RoleRef, parse_permissions,
};
use sallyport_domain::scope::Scope;
use sallyport_domain::validate::{NAME_MAX, required_text};
use sallyport_store::{Page, Write};
use serde_json::{Value, json};

use crate::access::{Access, Caller, Planned};
use crate::error::{Error, Result};
use crate::inputs::kept;
use crate::paging::{self, COUNTED, PageInfo, cost};

/// A named set of permissions.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct Role {
    /// Its MRN.
    mrn: String,
    /// Its name: the last part of the MRN, which access tokens carry.
    name: String,
    /// A label for people.
    title: String,
    /// What it allows.
    permissions: Vec<&'static str>,
    /// Whether every installation has it.
    built_in: bool,
    /// MRN of the organization that defined it.
    org_mrn: Option<String>,
    /// When it was created (RFC 3339).
    created_at: Option<String>,
    /// MRN of who created it.
    created_by: Option<String>,
}

/// A role that something has, by name.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct RoleReference {
    /// The role's MRN.
    mrn: String,
    /// Its name.
    name: String,
}

impl RoleReference {
    pub(crate) fn all(mrns: &MrnDomain, roles: &[RoleRef]) -> Vec<Self> {
        roles.iter().map(|role| Self { mrn: mrns.role(role), name: role.name().to_owned() }).collect()
    }
}

impl Role {
    fn of_built_in(mrns: &MrnDomain, role: BuiltInRole) -> Self {
        let title = match role {
            BuiltInRole::Agent => "Agent: acts as itself and reports",
            BuiltInRole::Viewer => "Viewer: reads",
            BuiltInRole::Editor => "Editor: reads, reports, and manages bindings, trusts and providers",
            BuiltInRole::Owner => "Owner: everything",
        };
        Self {
            mrn: mrns.role(&RoleRef::BuiltIn(role)),
            name: role.name().to_owned(),
            title: title.to_owned(),
            permissions: names(role.permissions()),
            built_in: true,
            org_mrn: None,
            created_at: None,
            created_by: None,
        }
    }

    fn of_own(mrns: &MrnDomain, role: &DomainRole) -> Self {
        Self {
            mrn: mrns.role(&RoleRef::Organization(role.organization.clone(), role.name.clone())),
            name: role.name.to_string(),
            title: role.title.clone(),
            permissions: names(role.permissions),
            built_in: false,
            org_mrn: Some(mrns.scope(&Scope::Organization(role.organization.clone()))),
            created_at: Some(role.created_at.to_rfc3339()),
            created_by: Some(role.created_by.clone()).filter(|by| !by.is_empty()),
        }
    }

    fn recorded(&self) -> Value {
        json!({ "name": self.name, "title": self.title, "permissions": self.permissions })
    }
}

fn names(permissions: PermissionSet) -> Vec<&'static str> {
    permissions.iter().map(Permission::name).collect()
}

/// One page of an organization's own roles.
#[derive(Debug)]
pub(crate) struct RoleList {
    organization: OrganizationId,
    page: Page<DomainRole>,
}

/// One page of an organization's own roles.
#[Object(name = "ListRolesPayload")]
impl RoleList {
    /// The roles, by name.
    async fn roles(&self, context: &Context<'_>) -> Result<Vec<Role>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|role| Role::of_own(mrns, role)).collect())
    }

    /// How many roles the organization defines in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_roles(&self.organization).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// A role to be made.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct CreateRoleInput {
    /// MRN of the organization that defines it.
    org_mrn: String,
    /// Its name: 2 to 64 of lower-case letters, digits, `-` and `_`, starting with a letter.
    name: String,
    /// A label for people; the name when left out.
    title: Option<String>,
    /// What it allows, such as `wifbindings.read`.
    permissions: Vec<String>,
}

/// Changes to a role. A field left out, or null, keeps its value.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct UpdateRoleInput {
    /// MRN of the role.
    mrn: String,
    /// A label for people.
    title: Option<String>,
    /// What it allows.
    permissions: Option<Vec<String>>,
}

/// What was deleted.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct DeleteRolePayload {
    /// MRN of the role that is gone.
    mrn: String,
}

/// The queries.
#[derive(Default)]
pub(crate) struct RoleQuery;

#[Object]
impl RoleQuery {
    /// The roles that every installation has, from least to most.
    async fn built_in_roles(&self, context: &Context<'_>) -> Result<Vec<Role>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(BuiltInRole::ALL.into_iter().map(|role| Role::of_built_in(mrns, role)).collect())
    }

    /// The roles that an organization defined.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn list_roles(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the organization.")] org_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<RoleList>> {
        let caller = Caller::of(context)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        let organization = organization(caller, &caller.access(&snapshot)?, &org_mrn, Permission::RolesRead)?;
        let page = caller.services.store.list_roles(&organization, &request).await?;
        Ok(Some(RoleList { organization, page }))
    }

    /// One role.
    async fn get_role(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the role.")] mrn: String,
    ) -> Result<Option<Role>> {
        let caller = Caller::of(context)?;
        let missing = || Error::not_found("role");
        match caller.mrns().parse_role(&mrn).ok_or_else(missing)? {
            RoleRef::BuiltIn(role) => Ok(Some(Role::of_built_in(caller.mrns(), role))),
            RoleRef::Organization(organization, name) => {
                let snapshot = caller.snapshot()?;
                let access = caller.access(&snapshot)?;
                let scope = Scope::Organization(organization.clone());
                let role = snapshot
                    .role(&organization, &name)
                    .filter(|_| access.sees_offered(Permission::RolesRead, &scope))
                    .ok_or_else(missing)?;
                Ok(Some(Role::of_own(caller.mrns(), role)))
            }
        }
    }
}

fn organization(caller: &Caller, access: &Access<'_>, mrn: &str, wanted: Permission) -> Result<OrganizationId> {
    match caller.mrns().parse_scope(mrn) {
        Some(scope @ Scope::Organization(_)) => {
            access.require(wanted, &scope, "organization")?;
            let Scope::Organization(id) = scope else { return Err(Error::not_found("organization")) };
            Ok(id)
        }
        _ => Err(Error::not_found("organization")),
    }
}

/// The organization's own role that an MRN names, if the caller may change it.
fn own_role(caller: &Caller, access: &Access<'_>, mrn: &str) -> Result<DomainRole> {
    let missing = || Error::not_found("role");
    match caller.mrns().parse_role(mrn).ok_or_else(missing)? {
        RoleRef::BuiltIn(role) => {
            Err(Error::failed_precondition(format!("'{}' is built in and stays as it is", role.name())))
        }
        RoleRef::Organization(organization, name) => {
            access.require(Permission::RolesManage, &Scope::Organization(organization.clone()), "role")?;
            access.snapshot.role(&organization, &name).map(|role| DomainRole::clone(role)).ok_or_else(missing)
        }
    }
}

/// The mutations.
#[derive(Default)]
pub(crate) struct RoleMutation;

#[Object]
impl RoleMutation {
    /// Defines a role of an organization, usable in it and in its spaces. It may allow only what you may do there yourself.
    #[graphql(complexity = "50 + child_complexity")]
    async fn create_role(&self, context: &Context<'_>, input: CreateRoleInput) -> Result<Option<Role>> {
        let caller = Caller::of(context)?;
        let now = caller.now();
        let (made, _) = caller
            .mutate(|access| {
                let organization = organization(caller, access, &input.org_mrn, Permission::RolesManage)?;
                let scope = Scope::Organization(organization.clone());
                access.require_federation(Permission::RolesManage, &scope, "organization")?;
                let name = RoleName::parse(&input.name).ok_or_else(|| {
                    Error::invalid(
                        "name",
                        "must be 2 to 64 of lower-case letters, digits, '-' and '_', start with a letter, and not be that of a built-in role",
                    )
                })?;
                let title = input.title.clone().unwrap_or_else(|| input.name.clone());
                required_text("title", &title, NAME_MAX)?;
                let permissions = read_permissions(access, &input.permissions, &scope)?;
                if access.snapshot.role(&organization, &name).is_some() {
                    return Err(Error::already_exists("the organization has a role of this name").on("name"));
                }
                let created_by = caller.principal.mrn.clone();
                let role = DomainRole { organization, name, title, permissions, created_at: now, created_by };
                let shown = Role::of_own(caller.mrns(), &role);
                let target = resource(&role);
                let audit = caller.audit(access.snapshot, "createRole", &target, &scope, (None, Some(shown.recorded())));
                Ok(Planned { writes: vec![Write::PutRole(role), audit], value: shown })
            })
            .await?;
        Ok(Some(made))
    }

    /// Changes what a role allows, for everyone who has it. Neither what it allowed nor what it will allow may be beyond you.
    #[graphql(complexity = "50 + child_complexity")]
    async fn update_role(&self, context: &Context<'_>, input: UpdateRoleInput) -> Result<Option<Role>> {
        let caller = Caller::of(context)?;
        let (changed, _) = caller
            .mutate(|access| {
                let mut next = own_role(caller, access, &input.mrn)?;
                let scope = Scope::Organization(next.organization.clone());
                access.require_federation(Permission::RolesManage, &scope, "role")?;
                let target = resource(&next);
                access.may_grant(
                    "mrn",
                    &[RoleRef::Organization(next.organization.clone(), next.name.clone())],
                    &scope,
                )?;
                let before = Role::of_own(caller.mrns(), &next).recorded();
                next.title = kept(input.title.clone(), next.title);
                required_text("title", &next.title, NAME_MAX)?;
                if let Some(permissions) = &input.permissions {
                    next.permissions = read_permissions(access, permissions, &scope)?;
                }
                let shown = Role::of_own(caller.mrns(), &next);
                let record = (Some(before), Some(shown.recorded()));
                let audit = caller.audit(access.snapshot, "updateRole", &target, &scope, record);
                Ok(Planned { writes: vec![Write::PutRole(next), audit], value: shown })
            })
            .await?;
        Ok(Some(changed))
    }

    /// Deletes a role that nobody has any more. One still given is FAILED_PRECONDITION: made again under the same name, it
    /// would silently come back to all who had it.
    #[graphql(complexity = "50 + child_complexity")]
    async fn delete_role(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the role.")] mrn: String,
    ) -> Result<Option<DeleteRolePayload>> {
        let caller = Caller::of(context)?;
        caller
            .mutate(|access| {
                let role = own_role(caller, access, &mrn)?;
                let scope = Scope::Organization(role.organization.clone());
                access.require_federation(Permission::RolesManage, &scope, "role")?;
                if access.snapshot.role_in_use(&RoleRef::Organization(role.organization.clone(), role.name.clone())) {
                    return Err(Error::failed_precondition(
                        "the role is still given to a service account, an API token or a trust; take it away there first",
                    ));
                }
                let record = (Some(Role::of_own(caller.mrns(), &role).recorded()), None);
                let audit = caller.audit(access.snapshot, "deleteRole", &resource(&role), &scope, record);
                Ok(Planned { writes: vec![Write::DeleteRole(role.organization, role.name), audit], value: () })
            })
            .await?;
        Ok(Some(DeleteRolePayload { mrn }))
    }
}

fn resource(role: &DomainRole) -> Resource {
    Resource::Role(RoleRef::Organization(role.organization.clone(), role.name.clone()))
}

fn read_permissions(access: &Access<'_>, names: &[String], scope: &Scope) -> Result<PermissionSet> {
    if names.len() > Permission::ALL.len() {
        return Err(Error::invalid("permissions", "names a permission more than once"));
    }
    let permissions = parse_permissions("permissions", names)?;
    access.may_allow("permissions", permissions, scope)?;
    Ok(permissions)
}
