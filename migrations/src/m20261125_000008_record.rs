//! Up to when the record is settled, where a management change came from, and which programs can work with this schema.
//!
//! Additive: the version before leaves the new columns at their defaults and never asks for them.

use sea_orm_migration::prelude::*;

use crate::schema::{add_column, drop_column, maybe_text, number, oldest_program};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        add_column(manager, "configuration_revision", number("settled").default(0).take()).await?;
        add_column(manager, "audit_entries", maybe_text("source_ip")).await?;
        oldest_program(manager, "m20261122_000007_audit").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_column(manager, "audit_entries", "source_ip").await?;
        drop_column(manager, "configuration_revision", "settled").await
    }
}
