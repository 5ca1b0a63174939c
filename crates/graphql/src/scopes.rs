//! Organizations and their spaces.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use futures::future::BoxFuture;
use sallyport_domain::entropy::Entropy;
use sallyport_domain::id::{OrganizationId, SpaceId};
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::role::Permission;
use sallyport_domain::scope::{Organization as DomainOrganization, Scope, Space as DomainSpace};
use sallyport_domain::snapshot::Snapshot;
use sallyport_domain::trust::draw_client_name;
use sallyport_store::{Page, Store, Write};
use serde_json::{Value, json};

use crate::access::{Access, Caller, Planned};
use crate::error::{Error, Result};
use crate::inputs::{check_label, kept};
use crate::paging::{self, COUNTED, PageInfo, cost};

/// An organization: a node of the tree platform, organization, space.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct Organization {
    /// Its MRN.
    mrn: String,
    /// Its id.
    id: String,
    /// A label.
    name: String,
    /// Disabled organizations grant nothing, themselves and below.
    disabled: bool,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it.
    created_by: Option<String>,
}

/// A space of an organization.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct Space {
    /// Its MRN.
    mrn: String,
    /// Its id.
    id: String,
    /// MRN of its organization.
    org_mrn: String,
    /// A label.
    name: String,
    /// Free text.
    description: Option<String>,
    /// Disabled spaces grant nothing.
    disabled: bool,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it.
    created_by: Option<String>,
}

impl Organization {
    fn new(mrns: &MrnDomain, organization: &DomainOrganization) -> Self {
        Self {
            mrn: mrns.scope(&Scope::Organization(organization.id.clone())),
            id: organization.id.to_string(),
            name: organization.name.clone(),
            disabled: organization.disabled,
            created_at: organization.created_at.to_rfc3339(),
            created_by: Some(organization.created_by.clone()).filter(|by| !by.is_empty()),
        }
    }

    fn recorded(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "disabled": self.disabled })
    }
}

impl Space {
    fn new(mrns: &MrnDomain, space: &DomainSpace) -> Self {
        Self {
            mrn: mrns.scope(&Scope::Space(space.id.clone())),
            id: space.id.to_string(),
            org_mrn: mrns.scope(&Scope::Organization(space.organization.clone())),
            name: space.name.clone(),
            description: space.description.clone(),
            disabled: space.disabled,
            created_at: space.created_at.to_rfc3339(),
            created_by: Some(space.created_by.clone()).filter(|by| !by.is_empty()),
        }
    }

    fn recorded(&self) -> Value {
        json!({
            "id": self.id,
            "orgMrn": self.org_mrn,
            "name": self.name,
            "description": self.description,
            "disabled": self.disabled,
        })
    }
}

/// One page of organizations.
#[derive(Debug)]
pub(crate) struct OrganizationList {
    page: Page<DomainOrganization>,
    /// Known without asking the database, for callers who see one at most.
    total: Option<u64>,
}

/// One page of organizations.
#[Object(name = "ListOrganizationsPayload")]
impl OrganizationList {
    /// The organizations that you may see, oldest first.
    async fn organizations(&self, context: &Context<'_>) -> Result<Vec<Organization>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|organization| Organization::new(mrns, organization)).collect())
    }

    /// How many there are in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        match self.total {
            Some(total) => Ok(total),
            None => Ok(Caller::of(context)?.services.store.count_organizations().await?),
        }
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// One page of spaces.
#[derive(Debug)]
pub(crate) struct SpaceList {
    organization: OrganizationId,
    page: Page<DomainSpace>,
}

/// One page of spaces.
#[Object(name = "ListSpacesPayload")]
impl SpaceList {
    /// The spaces, oldest first.
    async fn spaces(&self, context: &Context<'_>) -> Result<Vec<Space>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|space| Space::new(mrns, space)).collect())
    }

    /// How many spaces the organization has in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_spaces(&self.organization).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// An organization to be made.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct CreateOrganizationInput {
    /// A label, at most 256 bytes.
    name: String,
    /// Its id: 4 to 200 of letters, digits, `-`, `_` and `.`; drawn when left out.
    id: Option<String>,
}

/// Changes to an organization. A field left out, or null, keeps its value.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct UpdateOrganizationInput {
    /// MRN of the organization.
    mrn: String,
    /// A label.
    name: Option<String>,
    /// Disabled organizations grant nothing, themselves and below.
    disabled: Option<bool>,
}

/// A space to be made.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct CreateSpaceInput {
    /// A label, at most 256 bytes.
    name: String,
    /// MRN of its organization.
    org_mrn: String,
    /// Its id: 4 to 200 of letters, digits, `-`, `_` and `.`; drawn when left out.
    id: Option<String>,
    /// Free text, at most 4,096 bytes.
    description: Option<String>,
}

/// Changes to a space. A field left out, or null, keeps its value.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct UpdateSpaceInput {
    /// MRN of the space.
    mrn: String,
    /// A label.
    name: Option<String>,
    /// Free text.
    description: Option<String>,
    /// Disabled spaces grant nothing.
    disabled: Option<bool>,
}

/// What was deleted.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct DeleteScopePayload {
    /// MRN of what is gone.
    mrn: String,
}

/// The queries.
#[derive(Default)]
pub(crate) struct ScopeQuery;

#[Object]
impl ScopeQuery {
    /// The organizations that you may see.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn list_organizations(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<OrganizationList>> {
        let caller = Caller::of(context)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        let access = caller.access(&snapshot)?;
        if access.may(Permission::ScopesRead, &Scope::Platform) {
            let page = caller.services.store.list_organizations(&request).await?;
            return Ok(Some(OrganizationList { page, total: None }));
        }
        let own = match &access.principal.scope {
            scope @ Scope::Organization(id) if access.may(Permission::ScopesRead, scope) => snapshot.organization(id),
            _ => None,
        };
        let items: Vec<DomainOrganization> =
            own.map(|organization| DomainOrganization::clone(organization)).into_iter().collect();
        let total = u64::try_from(items.len()).ok();
        Ok(Some(OrganizationList { page: Page { items, end_cursor: None, has_next: false }, total }))
    }

    /// One organization.
    async fn get_organization(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the organization.")] mrn: String,
    ) -> Result<Option<Organization>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let organization = organization(caller, &caller.access(&snapshot)?, &mrn, Permission::ScopesRead)?;
        Ok(Some(Organization::new(caller.mrns(), &organization)))
    }

    /// The spaces of an organization.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn list_spaces(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the organization.")] org_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<SpaceList>> {
        let caller = Caller::of(context)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        let parent = organization(caller, &caller.access(&snapshot)?, &org_mrn, Permission::ScopesRead)?;
        let page = caller.services.store.list_spaces(&parent.id, &request).await?;
        Ok(Some(SpaceList { organization: parent.id, page }))
    }

    /// One space.
    async fn get_space(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the space.")] mrn: String,
    ) -> Result<Option<Space>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        let space = space(caller, &caller.access(&snapshot)?, &mrn, Permission::ScopesRead)?;
        Ok(Some(Space::new(caller.mrns(), &space)))
    }
}

/// The organization that an MRN names, if the caller may do this to it.
fn organization(caller: &Caller, access: &Access<'_>, mrn: &str, wanted: Permission) -> Result<DomainOrganization> {
    let missing = || Error::not_found("organization");
    let Some(scope @ Scope::Organization(_)) = caller.mrns().parse_scope(mrn) else { return Err(missing()) };
    access.require(wanted, &scope, "organization")?;
    let Scope::Organization(id) = &scope else { return Err(missing()) };
    access.snapshot.organization(id).map(|found| DomainOrganization::clone(found)).ok_or_else(missing)
}

/// The space that an MRN names, if the caller may do this to it.
fn space(caller: &Caller, access: &Access<'_>, mrn: &str, wanted: Permission) -> Result<DomainSpace> {
    let missing = || Error::not_found("space");
    let Some(scope @ Scope::Space(_)) = caller.mrns().parse_scope(mrn) else { return Err(missing()) };
    access.require(wanted, &scope, "space")?;
    let Scope::Space(id) = &scope else { return Err(missing()) };
    access.snapshot.space(id).map(|found| DomainSpace::clone(found)).ok_or_else(missing)
}

/// An id that was not chosen, drawn until it is free.
fn drawn(entropy: &dyn Entropy, free: impl Fn(&str) -> bool) -> Result<String> {
    (0..8)
        .map(|_| draw_client_name(entropy))
        .find(|name| free(name))
        .ok_or_else(|| Error::internal("no free id was drawn"))
}

/// What would be orphaned if a scope went.
async fn contents(store: &Store, scope: &Scope) -> Result<Vec<String>> {
    let mut counts = vec![
        ("service accounts", store.count_service_accounts(scope).await?),
        ("API tokens", store.count_api_tokens(scope).await?),
        ("trusts and bindings", store.count_trusts(scope, true).await?),
        ("providers", store.count_providers(scope).await?),
    ];
    if let Scope::Organization(id) = scope {
        counts.push(("spaces", store.count_spaces(id).await?));
        counts.push(("roles", store.count_roles(id).await?));
    }
    Ok(counts.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect())
}

fn refuse_full(contents: &[String]) -> Result<()> {
    if contents.is_empty() {
        return Ok(());
    }
    Err(Error::failed_precondition(format!("it is not empty: delete its {} first", contents.join(", "))))
}

/// Disables a scope or enables it: that decides who gets access, and a workload does not do so without the permission for it.
fn switch(
    access: &Access<'_>,
    disabled: &mut bool,
    wanted: Option<bool>,
    permission: Permission,
    scope: &Scope,
) -> Result<()> {
    if let Some(wanted) = wanted.filter(|wanted| wanted != disabled) {
        access.require_federation(permission, scope, scope.level())?;
        *disabled = wanted;
    }
    Ok(())
}

/// The mutations.
#[derive(Default)]
pub(crate) struct ScopeMutation;

#[Object]
impl ScopeMutation {
    /// Creates an organization.
    #[graphql(complexity = "50 + child_complexity")]
    async fn create_organization(
        &self,
        context: &Context<'_>,
        input: CreateOrganizationInput,
    ) -> Result<Option<Organization>> {
        let caller = Caller::of(context)?;
        let now = caller.now();
        let (made, _) = caller
            .mutate(|access| {
                access.require_openly(Permission::OrganizationsCreate, &Scope::Platform)?;
                check_label(&input.name, None)?;
                let free =
                    |id: &str| OrganizationId::parse(id).is_some_and(|id| access.snapshot.organization(&id).is_none());
                let id = match &input.id {
                    Some(id) => id.clone(),
                    None => drawn(&*caller.services.entropy, free)?,
                };
                let id = OrganizationId::parse_field("id", &id)?;
                if access.snapshot.organization(&id).is_some() {
                    return Err(Error::already_exists("there is an organization with this id").on("id"));
                }
                let organization = DomainOrganization {
                    id: id.clone(),
                    name: input.name.clone(),
                    disabled: false,
                    created_at: now,
                    created_by: caller.principal.mrn.clone(),
                };
                let shown = Organization::new(caller.mrns(), &organization);
                let scope = Scope::Organization(id);
                let record = (None, Some(shown.recorded()));
                let audit = caller.audit(
                    access.snapshot,
                    "createOrganization",
                    &Resource::Scope(scope.clone()),
                    &scope,
                    record,
                );
                Ok(Planned { writes: vec![Write::PutOrganization(organization), audit], value: shown })
            })
            .await?;
        Ok(Some(made))
    }

    /// Renames, disables or enables an organization.
    #[graphql(complexity = "50 + child_complexity")]
    async fn update_organization(
        &self,
        context: &Context<'_>,
        input: UpdateOrganizationInput,
    ) -> Result<Option<Organization>> {
        let caller = Caller::of(context)?;
        let (changed, _) = caller
            .mutate(|access| {
                let mut next = organization(caller, access, &input.mrn, Permission::OrganizationsManage)?;
                let before = Organization::new(caller.mrns(), &next).recorded();
                next.name = kept(input.name.clone(), next.name);
                let scope = Scope::Organization(next.id.clone());
                switch(access, &mut next.disabled, input.disabled, Permission::OrganizationsManage, &scope)?;
                check_label(&next.name, None)?;
                let shown = Organization::new(caller.mrns(), &next);
                let record = (Some(before), Some(shown.recorded()));
                let audit = caller.audit(
                    access.snapshot,
                    "updateOrganization",
                    &Resource::Scope(scope.clone()),
                    &scope,
                    record,
                );
                Ok(Planned { writes: vec![Write::PutOrganization(next), audit], value: shown })
            })
            .await?;
        Ok(Some(changed))
    }

    /// Deletes an organization that has nothing in it any more.
    #[graphql(complexity = "50 + child_complexity")]
    async fn delete_organization(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the organization.")] mrn: String,
    ) -> Result<Option<DeleteScopePayload>> {
        let caller = Caller::of(context)?;
        let look = |snapshot: Arc<Snapshot>| -> BoxFuture<'_, Result<Vec<String>>> {
            let access = caller.access(&snapshot);
            let found = access.and_then(|a| organization(caller, &a, &mrn, Permission::OrganizationsManage));
            Box::pin(async move { contents(&caller.services.store, &Scope::Organization(found?.id)).await })
        };
        caller
            .mutate_on(look, |access, contents| {
                let found = organization(caller, access, &mrn, Permission::OrganizationsManage)?;
                refuse_full(contents)?;
                let scope = Scope::Organization(found.id.clone());
                let record = (Some(Organization::new(caller.mrns(), &found).recorded()), None);
                let audit = caller.audit(
                    access.snapshot,
                    "deleteOrganization",
                    &Resource::Scope(scope.clone()),
                    &scope,
                    record,
                );
                Ok(Planned { writes: vec![Write::DeleteOrganization(found.id), audit], value: () })
            })
            .await?;
        Ok(Some(DeleteScopePayload { mrn }))
    }

    /// Creates a space in an organization.
    #[graphql(complexity = "50 + child_complexity")]
    async fn create_space(&self, context: &Context<'_>, input: CreateSpaceInput) -> Result<Option<Space>> {
        let caller = Caller::of(context)?;
        let now = caller.now();
        let (made, _) = caller
            .mutate(|access| {
                let parent = organization(caller, access, &input.org_mrn, Permission::SpacesCreate)?;
                check_label(&input.name, input.description.as_deref())?;
                let free = |id: &str| SpaceId::parse(id).is_some_and(|id| access.snapshot.space(&id).is_none());
                let id = match &input.id {
                    Some(id) => id.clone(),
                    None => drawn(&*caller.services.entropy, free)?,
                };
                let id = SpaceId::parse_field("id", &id)?;
                if access.snapshot.space(&id).is_some() {
                    return Err(Error::already_exists("there is a space with this id").on("id"));
                }
                let space = DomainSpace {
                    id: id.clone(),
                    organization: parent.id.clone(),
                    name: input.name.clone(),
                    description: input.description.clone(),
                    disabled: false,
                    created_at: now,
                    created_by: caller.principal.mrn.clone(),
                };
                let shown = Space::new(caller.mrns(), &space);
                let record = (None, Some(shown.recorded()));
                // Recorded at the organization: the space is not there yet.
                let audit = caller.audit(
                    access.snapshot,
                    "createSpace",
                    &Resource::Scope(Scope::Space(id)),
                    &Scope::Organization(parent.id),
                    record,
                );
                Ok(Planned { writes: vec![Write::PutSpace(space), audit], value: shown })
            })
            .await?;
        Ok(Some(made))
    }

    /// Renames, describes, disables or enables a space.
    #[graphql(complexity = "50 + child_complexity")]
    async fn update_space(&self, context: &Context<'_>, input: UpdateSpaceInput) -> Result<Option<Space>> {
        let caller = Caller::of(context)?;
        let (changed, _) = caller
            .mutate(|access| {
                let mut next = space(caller, access, &input.mrn, Permission::SpacesManage)?;
                let before = Space::new(caller.mrns(), &next).recorded();
                next.name = kept(input.name.clone(), next.name);
                next.description = input.description.clone().or(next.description);
                let scope = Scope::Space(next.id.clone());
                switch(access, &mut next.disabled, input.disabled, Permission::SpacesManage, &scope)?;
                check_label(&next.name, next.description.as_deref())?;
                let shown = Space::new(caller.mrns(), &next);
                let record = (Some(before), Some(shown.recorded()));
                let audit =
                    caller.audit(access.snapshot, "updateSpace", &Resource::Scope(scope.clone()), &scope, record);
                Ok(Planned { writes: vec![Write::PutSpace(next), audit], value: shown })
            })
            .await?;
        Ok(Some(changed))
    }

    /// Deletes a space that has nothing in it any more.
    #[graphql(complexity = "50 + child_complexity")]
    async fn delete_space(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the space.")] mrn: String,
    ) -> Result<Option<DeleteScopePayload>> {
        let caller = Caller::of(context)?;
        let look = |snapshot: Arc<Snapshot>| -> BoxFuture<'_, Result<Vec<String>>> {
            let access = caller.access(&snapshot);
            let found = access.and_then(|a| space(caller, &a, &mrn, Permission::SpacesManage));
            Box::pin(async move { contents(&caller.services.store, &Scope::Space(found?.id)).await })
        };
        caller
            .mutate_on(look, |access, contents| {
                let found = space(caller, access, &mrn, Permission::SpacesManage)?;
                refuse_full(contents)?;
                let record = (Some(Space::new(caller.mrns(), &found).recorded()), None);
                let audit = caller.audit(
                    access.snapshot,
                    "deleteSpace",
                    &Resource::Scope(Scope::Space(found.id.clone())),
                    &Scope::Organization(found.organization),
                    record,
                );
                Ok(Planned { writes: vec![Write::DeleteSpace(found.id), audit], value: () })
            })
            .await?;
        Ok(Some(DeleteScopePayload { mrn }))
    }
}
