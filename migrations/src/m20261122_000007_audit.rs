//! The record of management changes.

use sea_orm_migration::prelude::*;

use crate::schema::{create, drop, id, index, maybe_text, number, table, text};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(
            manager,
            table(
                "audit_entries",
                [
                    id("id").primary_key().take(),
                    number("time"),
                    text("actor"),
                    text("action"),
                    text("target"),
                    text("scope"),
                    maybe_text("organization"),
                    maybe_text("before"),
                    maybe_text("after"),
                    maybe_text("request_id"),
                ],
            ),
            [
                index("audit_entries", ["scope", "time", "id"]),
                index("audit_entries", ["organization", "time", "id"]),
                index("audit_entries", ["time", "id"]),
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["audit_entries"]).await
    }
}
