//! Trusts, bindings among them.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::trust::Trust;

use super::{Row, list_text, roles_text};
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "trusts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub client_name: String,
    pub scope: String,
    pub provider_id: Uuid,
    pub issuer: String,
    pub service_account_id: Uuid,
    pub binding: bool,
    pub binding_fingerprint: Option<Vec<u8>>,
    pub name: String,
    pub description: Option<String>,
    pub subject: Option<String>,
    pub mappings: String,
    pub allowed_audiences: String,
    pub condition: Option<String>,
    pub source_cidrs: String,
    pub scoped_roles: String,
    pub passthrough_claims: String,
    pub lifetime: i64,
    pub ends_with_subject_token: bool,
    pub disabled: bool,
    pub credentials_not_before: Option<i64>,
    pub warnings: String,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("trusts");

impl Model {
    pub fn of(trust: &Trust, binding_fingerprint: Option<[u8; 32]>) -> Self {
        Self {
            id: trust.id.0,
            client_name: trust.client_name.to_string(),
            scope: trust.scope.key(),
            provider_id: trust.provider.0,
            issuer: trust.issuer.to_string(),
            service_account_id: trust.service_account.0,
            binding: trust.binding,
            binding_fingerprint: binding_fingerprint.map(Vec::from),
            name: trust.name.to_string(),
            description: trust.description.as_deref().map(Into::into),
            subject: trust.subject.as_deref().map(Into::into),
            mappings: list_text(&trust.mappings),
            allowed_audiences: list_text(&trust.allowed_audiences),
            condition: trust.condition.as_deref().map(Into::into),
            source_cidrs: list_text(&trust.source_cidrs),
            scoped_roles: roles_text(&trust.scoped_roles),
            passthrough_claims: list_text(&trust.passthrough_claims),
            lifetime: i64::from(trust.lifetime),
            ends_with_subject_token: trust.ends_with_subject_token,
            disabled: trust.disabled,
            credentials_not_before: trust.credentials_not_before.map(Timestamp::micros),
            warnings: list_text(&*trust.warnings),
            created_at: trust.created_at.micros(),
            created_by: trust.created_by.to_string(),
        }
    }

    pub fn read(self) -> Result<Trust, StoreError> {
        Ok(Trust {
            id: TrustId(self.id),
            client_name: self.client_name.into(),
            scope: ROW.scope(self.id, &self.scope)?,
            provider: ProviderId(self.provider_id),
            issuer: self.issuer.into(),
            service_account: ServiceAccountId(self.service_account_id),
            binding: self.binding,
            name: self.name.into(),
            description: self.description.map(Into::into),
            subject: self.subject.map(Into::into),
            mappings: ROW.list(self.id, "mappings", &self.mappings)?.into(),
            allowed_audiences: ROW.list(self.id, "allowed_audiences", &self.allowed_audiences)?.into(),
            condition: self.condition.map(Into::into),
            source_cidrs: ROW.list(self.id, "source_cidrs", &self.source_cidrs)?.into(),
            scoped_roles: ROW.roles(self.id, "scoped_roles", &self.scoped_roles)?.into(),
            passthrough_claims: ROW.list(self.id, "passthrough_claims", &self.passthrough_claims)?.into(),
            lifetime: ROW.part(self.id, "lifetime", u32::try_from(self.lifetime).ok())?,
            ends_with_subject_token: self.ends_with_subject_token,
            disabled: self.disabled,
            credentials_not_before: self.credentials_not_before.map(Timestamp::from_micros),
            warnings: ROW.list(self.id, "warnings", &self.warnings)?.into(),
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by.into(),
        })
    }
}
