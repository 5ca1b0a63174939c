//! Organizations.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::OrganizationId;
use sallyport_domain::scope::Organization;

use super::Row;
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "organizations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub name: String,
    pub disabled: bool,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("organizations");

impl Model {
    pub fn of(organization: &Organization) -> Self {
        Self {
            id: organization.id.to_string(),
            name: organization.name.clone(),
            disabled: organization.disabled,
            created_at: organization.created_at.micros(),
            created_by: organization.created_by.clone(),
        }
    }

    pub fn read(self) -> Result<Organization, StoreError> {
        Ok(Organization {
            id: ROW.part(&self.id, "id", OrganizationId::parse(&self.id))?,
            name: self.name,
            disabled: self.disabled,
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by,
        })
    }
}
