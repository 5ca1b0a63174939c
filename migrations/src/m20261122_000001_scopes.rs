//! Organizations, their spaces and their own roles.
//!
//! Creators choose the ids of organizations and spaces, and records outlive them: `retired_ids` keeps an id from being
//! used again.

use sea_orm_migration::prelude::*;

use crate::schema::{create, drop, flag, index, maybe_text, number, primary_key, reference, table, text};

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
                "organizations",
                [
                    text("id").primary_key().take(),
                    text("name"),
                    flag("disabled"),
                    number("created_at"),
                    text("created_by"),
                ],
            ),
            [index("organizations", ["created_at", "id"])],
        )
        .await?;
        create(
            manager,
            table(
                "spaces",
                [
                    text("id").primary_key().take(),
                    text("organization"),
                    text("name"),
                    maybe_text("description"),
                    flag("disabled"),
                    number("created_at"),
                    text("created_by"),
                ],
            )
            .foreign_key(&mut reference("spaces", "organization", "organizations", "id"))
            .take(),
            [index("spaces", ["organization", "created_at", "id"])],
        )
        .await?;
        create(
            manager,
            table(
                "roles",
                [
                    text("organization"),
                    text("name"),
                    text("title"),
                    text("permissions"),
                    number("created_at"),
                    text("created_by"),
                ],
            )
            .primary_key(&mut primary_key(["organization", "name"]))
            .foreign_key(&mut reference("roles", "organization", "organizations", "id"))
            .take(),
            [],
        )
        .await?;
        create(
            manager,
            table("retired_ids", [text("kind"), text("id")]).primary_key(&mut primary_key(["kind", "id"])).take(),
            [],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["retired_ids", "roles", "spaces", "organizations"]).await
    }
}
