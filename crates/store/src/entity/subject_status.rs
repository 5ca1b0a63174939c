//! What admins said about single subjects of providers.

use sea_orm::entity::prelude::*;

use aws_lc_rs::digest::{SHA256, digest};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::ProviderId;
use sallyport_domain::subject_status::{SubjectStatus, recorded};

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "subject_statuses")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub provider_id: Uuid,
    /// Subjects may be longer than an index takes.
    #[sea_orm(primary_key, auto_increment = false)]
    pub subject_hash: String,
    pub subject: String,
    pub disabled: bool,
    pub credentials_not_before: Option<i64>,
    pub updated_at: i64,
    pub updated_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// SHA-256 of a subject as records hold it, in hexadecimal.
pub fn hash(subject: &str) -> String {
    digest(&SHA256, recorded(subject).as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Model {
    pub fn of(status: &SubjectStatus) -> Self {
        Self {
            provider_id: status.provider.0,
            subject_hash: hash(&status.subject),
            subject: recorded(&status.subject).into_owned(),
            disabled: status.disabled,
            credentials_not_before: status.credentials_not_before.map(Timestamp::micros),
            updated_at: status.updated_at.micros(),
            updated_by: status.updated_by.clone(),
        }
    }

    pub fn read(self) -> SubjectStatus {
        SubjectStatus {
            provider: ProviderId(self.provider_id),
            subject: self.subject,
            disabled: self.disabled,
            credentials_not_before: self.credentials_not_before.map(Timestamp::from_micros),
            updated_at: Timestamp::from_micros(self.updated_at),
            updated_by: self.updated_by,
        }
    }
}
