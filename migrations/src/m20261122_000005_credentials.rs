//! Revoked credentials, and the signing keys (sealed).
//!
//! A row of `signing_key_sets` stands for all keys of one purpose: whoever makes it may make the first keys, and its
//! version goes up with every change, so that two replicas cannot rotate at once.

use sea_orm_migration::prelude::*;

use crate::schema::{bytes, create, drop, id, index, maybe_number, number, reference, table, text};

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
            table("revoked_credentials", [id("id").primary_key().take(), number("until")]),
            [index("revoked_credentials", ["until"])],
        )
        .await?;
        create(manager, table("signing_key_sets", [text("purpose").primary_key().take(), number("version")]), [])
            .await?;
        create(
            manager,
            table(
                "signing_keys",
                [
                    text("id").primary_key().take(),
                    text("purpose"),
                    text("state"),
                    number("created_at"),
                    number("activates_at"),
                    maybe_number("retires_at"),
                    bytes("sealed"),
                    bytes("public"),
                ],
            )
            .foreign_key(&mut reference("signing_keys", "purpose", "signing_key_sets", "purpose"))
            .take(),
            [],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["signing_keys", "signing_key_sets", "revoked_credentials"]).await
    }
}
