//! API tokens: the hash, never the secret.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::ApiTokenId;
use sallyport_domain::principal::ApiToken;

use super::{Row, roles_text};
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "api_tokens")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub scope: String,
    pub name: String,
    pub description: Option<String>,
    pub roles: String,
    pub secret_hash: Vec<u8>,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("api_tokens");

impl Model {
    pub fn of(token: &ApiToken) -> Self {
        Self {
            id: token.id.0,
            scope: token.scope.key(),
            name: token.name.clone(),
            description: token.description.clone(),
            roles: roles_text(&token.roles),
            secret_hash: token.secret_hash.to_vec(),
            created_at: token.created_at.micros(),
            created_by: token.created_by.clone(),
        }
    }

    pub fn read(self) -> Result<ApiToken, StoreError> {
        Ok(ApiToken {
            id: ApiTokenId(self.id),
            scope: ROW.scope(self.id, &self.scope)?,
            name: self.name,
            description: self.description,
            roles: ROW.roles(self.id, "roles", &self.roles)?,
            secret_hash: ROW.part(self.id, "secret_hash", self.secret_hash.try_into().ok())?,
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by,
        })
    }
}
