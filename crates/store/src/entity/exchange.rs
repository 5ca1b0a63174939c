//! The exchange record.

use std::borrow::Cow;

use sea_orm::Value;
use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::completed;
use sallyport_domain::exchange::{CredentialKind, ExchangeRecord, IssuedCredential, Protocol, ReplayKey};
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

/// What a column has of a record, as far as possible where the record has it.
#[derive(Clone, Debug)]
pub enum Cell<'r> {
    Text(Option<Cow<'r, str>>),
    Bytes(Option<&'r [u8]>),
    Id(Option<Uuid>),
    Number(Option<i64>),
    Flag(Option<bool>),
}

impl<'r> Cell<'r> {
    pub fn into_text(self) -> Option<Cow<'r, str>> {
        if let Self::Text(text) = self { text } else { None }
    }

    pub fn into_bytes(self) -> Option<&'r [u8]> {
        if let Self::Bytes(bytes) = self { bytes } else { None }
    }

    pub fn into_id(self) -> Option<Uuid> {
        if let Self::Id(id) = self { id } else { None }
    }

    pub fn into_number(self) -> Option<i64> {
        if let Self::Number(number) = self { number } else { None }
    }

    pub fn into_flag(self) -> Option<bool> {
        if let Self::Flag(flag) = self { flag } else { None }
    }

    fn text(text: impl Into<Cow<'r, str>>) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<Cell<'_>> for Value {
    fn from(cell: Cell<'_>) -> Self {
        match cell {
            Cell::Text(text) => text.map(Cow::into_owned).into(),
            Cell::Bytes(bytes) => bytes.map(<[u8]>::to_vec).into(),
            Cell::Id(id) => id.into(),
            Cell::Number(number) => number.into(),
            Cell::Flag(flag) => flag.into(),
        }
    }
}

/// A record on its way into the database.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Without its checks.
    record: Box<ExchangeRecord>,
    /// These, as they are stored: hundreds of records wait under load, and take less memory so.
    checks: String,
}

impl Entry {
    /// Of this record.
    pub fn new(mut record: Box<ExchangeRecord>) -> Self {
        let all = std::mem::take(&mut record.checks);
        let checks = checks::write(&all, [&recorded(&record.issuer), &recorded(&record.subject)]);
        Self { record, checks }
    }

    /// Its record, which has no checks.
    pub fn record(&self) -> &ExchangeRecord {
        &self.record
    }

    /// What a grant uses up; a refusal uses up nothing.
    pub fn replay(&self) -> Option<&ReplayKey> {
        self.record.replay.as_ref().filter(|_| self.record.granted)
    }

    /// The record with all it has, as it was put down at `time`.
    pub fn into_record(mut self, time: Timestamp) -> Box<ExchangeRecord> {
        self.record.time = time;
        let checks = checks::read(&self.checks, [&recorded(&self.record.issuer), &recorded(&self.record.subject)]);
        if checks.is_none() {
            tracing::error!(id = %self.record.id, "the checks of an exchange do not read back as they were written");
        }
        self.record.checks = completed(checks.unwrap_or_default());
        self.record
    }

    /// What it has in a column, put down at `time`.
    pub fn cell(&self, time: Timestamp, column: Column) -> Cell<'_> {
        let Self { record, checks } = self;
        let credential = record.credential.as_ref();
        match column {
            Column::Id => Cell::Id(Some(record.id.0)),
            Column::Time => Cell::Number(Some(time.micros())),
            Column::Scope => Cell::text(record.scope.key()),
            Column::Organization => Cell::Text(record.organization.as_ref().map(|id| id.as_str().into())),
            Column::Granted => Cell::Flag(Some(record.granted)),
            Column::Reason => Cell::Text(record.reason.as_deref().map(Into::into)),
            Column::Protocol => Cell::text(record.protocol.name()),
            Column::TrustId => Cell::Id(record.trust.map(|id| id.0)),
            Column::Binding => Cell::Flag(Some(record.binding)),
            Column::ProviderId => Cell::Id(record.provider.map(|id| id.0)),
            Column::ServiceAccountId => Cell::Id(record.service_account.map(|id| id.0)),
            Column::Issuer => Cell::text(recorded(&record.issuer)),
            Column::Subject => Cell::text(recorded(&record.subject)),
            Column::SourceIp => Cell::Text(record.source_ip.map(|ip| ip.to_string().into())),
            Column::TokenHash => Cell::Bytes(Some(&record.token_hash)),
            Column::Checks => Cell::text(checks),
            Column::CredentialKind => Cell::Text(credential.map(|c| c.kind.name().into())),
            Column::CredentialExpiresAt => Cell::Number(credential.map(|c| c.expires_at.micros())),
            Column::CredentialRoles => Cell::Text(credential.map(|c| list_text(&c.roles).into())),
            Column::CredentialPublicKey => Cell::Bytes(credential.and_then(|c| c.public_key.as_deref())),
        }
    }
}

impl Model {
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
            checks: completed(ROW.part(
                self.id,
                "checks",
                checks::read(&self.checks, [&self.issuer, &self.subject]),
            )?),
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
