//! The exchange record.

use sea_orm::Value;
use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::completed;
use sallyport_domain::exchange::{CredentialKind, ExchangeRecord, IssuedCredential, Protocol};
use sallyport_domain::id::{CredentialId, ExchangeId, OrganizationId, ProviderId, ServiceAccountId, TrustId};
use sallyport_domain::subject_status::recorded;

use super::{Row, checks, list_text};
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "exchanges")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub time: i64,
    pub scope: String,
    pub organization: Option<String>,
    pub granted: bool,
    pub reason: Option<String>,
    pub protocol: String,
    pub trust_id: Option<Uuid>,
    pub binding: bool,
    pub provider_id: Option<Uuid>,
    pub service_account_id: Option<Uuid>,
    pub issuer: String,
    pub subject: String,
    pub source_ip: Option<String>,
    pub token_hash: Vec<u8>,
    pub checks: String,
    pub credential_kind: Option<String>,
    pub credential_expires_at: Option<i64>,
    pub credential_roles: Option<String>,
    pub credential_public_key: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("exchanges");

impl Model {
    /// What a record put down at `time` has in a column.
    pub fn value(record: &ExchangeRecord, time: Timestamp, column: Column) -> Value {
        let credential = record.credential.as_ref();
        match column {
            Column::Id => record.id.0.into(),
            Column::Time => time.micros().into(),
            Column::Scope => record.scope.key().into(),
            Column::Organization => record.organization.as_ref().map(|id| id.as_str().to_owned()).into(),
            Column::Granted => record.granted.into(),
            Column::Reason => record.reason.clone().into(),
            Column::Protocol => record.protocol.name().into(),
            Column::TrustId => record.trust.map(|id| id.0).into(),
            Column::Binding => record.binding.into(),
            Column::ProviderId => record.provider.map(|id| id.0).into(),
            Column::ServiceAccountId => record.service_account.map(|id| id.0).into(),
            Column::Issuer => recorded(&record.issuer).into_owned().into(),
            Column::Subject => recorded(&record.subject).into_owned().into(),
            Column::SourceIp => record.source_ip.map(|ip| ip.to_string()).into(),
            Column::TokenHash => record.token_hash.to_vec().into(),
            Column::Checks => checks::write(&record.checks).into(),
            Column::CredentialKind => credential.map(|c| c.kind.name()).into(),
            Column::CredentialExpiresAt => credential.map(|c| c.expires_at.micros()).into(),
            Column::CredentialRoles => credential.map(|c| list_text(&c.roles)).into(),
            Column::CredentialPublicKey => credential.and_then(|c| c.public_key.clone()).into(),
        }
    }

    /// The record, without its replay key: that is kept elsewhere, and not for long.
    pub fn read(self) -> Result<ExchangeRecord, StoreError> {
        let protocol = Protocol::ALL.into_iter().find(|p| p.name() == self.protocol);
        let (organization, source_ip) = (self.organization.as_deref(), self.source_ip.as_deref());
        Ok(ExchangeRecord {
            id: ExchangeId(self.id),
            time: Timestamp::from_micros(self.time),
            scope: ROW.scope(self.id, &self.scope)?,
            organization: organization
                .map(|id| ROW.part(self.id, "organization", OrganizationId::parse(id)))
                .transpose()?,
            granted: self.granted,
            reason: self.reason.clone(),
            protocol: ROW.part(self.id, "protocol", protocol)?,
            trust: self.trust_id.map(TrustId),
            binding: self.binding,
            provider: self.provider_id.map(ProviderId),
            service_account: self.service_account_id.map(ServiceAccountId),
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            source_ip: source_ip.map(|ip| ROW.part(self.id, "source_ip", ip.parse().ok())).transpose()?,
            token_hash: ROW.part(self.id, "token_hash", self.token_hash.as_slice().try_into().ok())?,
            credential: self.credential()?,
            checks: completed(ROW.part(self.id, "checks", checks::read(&self.checks))?),
            replay: None,
        })
    }

    pub fn credential(&self) -> Result<Option<IssuedCredential>, StoreError> {
        let Some(kind) = &self.credential_kind else { return Ok(None) };
        let expires_at = self.credential_expires_at.map(Timestamp::from_micros);
        Ok(Some(IssuedCredential {
            id: CredentialId(self.id),
            kind: ROW.part(self.id, "credential_kind", CredentialKind::from_name(kind))?,
            expires_at: ROW.part(self.id, "credential_expires_at", expires_at)?,
            roles: ROW.list(self.id, "credential_roles", self.credential_roles.as_deref().unwrap_or_default())?,
            public_key: self.credential_public_key.clone(),
        }))
    }
}
