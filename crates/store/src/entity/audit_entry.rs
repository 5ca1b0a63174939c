//! The record of management changes.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::event::AuditEntry;
use sallyport_domain::id::OrganizationId;

use super::Row;
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "audit_entries")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub time: i64,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub scope: String,
    pub organization: Option<String>,
    pub before: Option<String>,
    pub after: Option<String>,
    pub request_id: Option<String>,
    pub source_ip: Option<String>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("audit_entries");

impl Model {
    pub fn of(entry: &AuditEntry) -> Self {
        Self {
            id: entry.id,
            time: entry.time.micros(),
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            target: entry.target.clone(),
            scope: entry.scope.key(),
            organization: entry.organization.as_ref().map(ToString::to_string),
            before: entry.before.as_ref().map(ToString::to_string),
            after: entry.after.as_ref().map(ToString::to_string),
            request_id: entry.request_id.clone(),
            source_ip: entry.source_ip.clone(),
        }
    }

    pub fn read(self) -> Result<AuditEntry, StoreError> {
        let json = |part, text: Option<&String>| {
            text.map(|text| ROW.part(self.id, part, serde_json::from_str(text).ok())).transpose()
        };
        Ok(AuditEntry {
            id: self.id,
            time: Timestamp::from_micros(self.time),
            scope: ROW.scope(self.id, &self.scope)?,
            organization: self
                .organization
                .as_deref()
                .map(|id| ROW.part(self.id, "organization", OrganizationId::parse(id)))
                .transpose()?,
            before: json("before", self.before.as_ref())?,
            after: json("after", self.after.as_ref())?,
            actor: self.actor,
            action: self.action,
            target: self.target,
            request_id: self.request_id,
            source_ip: self.source_ip,
        })
    }
}
