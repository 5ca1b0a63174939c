//! The revision of all configuration, and up to when the record is settled. One row is what is read; the others, the lanes, repeat it for the recorders to hold.

use sea_orm::entity::prelude::*;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "configuration_revision")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub revision: i64,
    /// Nothing is put on record at or before this time any more: see [`crate::events`].
    pub settled: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The id of the row that is read; the lanes follow it.
pub const ONLY: i64 = 1;
