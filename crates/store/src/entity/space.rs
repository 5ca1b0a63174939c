//! Spaces.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{OrganizationId, SpaceId};
use sallyport_domain::scope::Space;

use super::Row;
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "spaces")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub organization: String,
    pub name: String,
    pub description: Option<String>,
    pub disabled: bool,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("spaces");

impl Model {
    pub fn of(space: &Space) -> Self {
        Self {
            id: space.id.to_string(),
            organization: space.organization.to_string(),
            name: space.name.clone(),
            description: space.description.clone(),
            disabled: space.disabled,
            created_at: space.created_at.micros(),
            created_by: space.created_by.clone(),
        }
    }

    pub fn read(self) -> Result<Space, StoreError> {
        Ok(Space {
            id: ROW.part(&self.id, "id", SpaceId::parse(&self.id))?,
            organization: ROW.part(&self.id, "organization", OrganizationId::parse(&self.organization))?,
            name: self.name,
            description: self.description,
            disabled: self.disabled,
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by,
        })
    }
}
