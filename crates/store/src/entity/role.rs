//! Organizations' own roles.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::OrganizationId;
use sallyport_domain::role::{Permission, Role, RoleName};

use super::{Row, list_text};
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "roles")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub organization: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub title: String,
    pub permissions: String,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("roles");

impl Model {
    pub fn of(role: &Role) -> Self {
        Self {
            organization: role.organization.to_string(),
            name: role.name.to_string(),
            title: role.title.clone(),
            permissions: list_text(role.permissions.iter().map(Permission::name)),
            created_at: role.created_at.micros(),
            created_by: role.created_by.clone(),
        }
    }

    /// Permissions that this version does not know allow nothing.
    pub fn read(self) -> Result<Role, StoreError> {
        let permissions: Vec<String> = ROW.list(&self.name, "permissions", &self.permissions)?;
        Ok(Role {
            organization: ROW.part(&self.name, "organization", OrganizationId::parse(&self.organization))?,
            name: ROW.part(&self.name, "name", RoleName::parse(&self.name))?,
            title: self.title,
            permissions: permissions.iter().filter_map(|name| Permission::from_name(name)).collect(),
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by,
        })
    }
}
