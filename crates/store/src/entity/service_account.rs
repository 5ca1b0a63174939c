//! Service accounts.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ServiceAccountId, TrustId};
use sallyport_domain::principal::ServiceAccount;

use super::{Row, roles_text};
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "service_accounts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub scope: String,
    pub name: String,
    pub description: Option<String>,
    pub roles: String,
    pub disabled: bool,
    pub owner: Option<Uuid>,
    pub standing_key: Option<Vec<u8>>,
    pub valid_until: Option<i64>,
    pub credentials_not_before: Option<i64>,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("service_accounts");

impl Model {
    pub fn of(account: &ServiceAccount) -> Self {
        Self {
            id: account.id.0,
            scope: account.scope.key(),
            name: account.name.to_string(),
            description: account.description.as_deref().map(Into::into),
            roles: roles_text(&account.roles),
            disabled: account.disabled,
            owner: account.owner.map(|id| id.0),
            standing_key: account.standing_key.as_deref().map(|key| key.to_vec()),
            valid_until: account.valid_until.map(Timestamp::micros),
            credentials_not_before: account.credentials_not_before.map(Timestamp::micros),
            created_at: account.created_at.micros(),
            created_by: account.created_by.to_string(),
        }
    }

    pub fn read(self) -> Result<ServiceAccount, StoreError> {
        Ok(ServiceAccount {
            id: ServiceAccountId(self.id),
            scope: ROW.scope(self.id, &self.scope)?,
            name: self.name.into(),
            description: self.description.map(Into::into),
            roles: ROW.roles(self.id, "roles", &self.roles)?.into(),
            disabled: self.disabled,
            owner: self.owner.map(TrustId),
            standing_key: self
                .standing_key
                .map(|key| ROW.part(self.id, "standing_key", key.try_into().ok().map(Box::new)))
                .transpose()?,
            valid_until: self.valid_until.map(Timestamp::from_micros),
            credentials_not_before: self.credentials_not_before.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by.into(),
        })
    }
}
