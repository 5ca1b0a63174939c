//! Who acts: service accounts and API tokens.

use sea_orm_migration::prelude::*;

use crate::schema::{
    bytes, create, drop, flag, id, index, maybe_bytes, maybe_id, maybe_number, maybe_text, number, table, text,
};

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
                "service_accounts",
                [
                    id("id").primary_key().take(),
                    text("scope"),
                    text("name"),
                    maybe_text("description"),
                    text("roles"),
                    flag("disabled"),
                    maybe_id("owner"),
                    maybe_bytes("standing_key"),
                    maybe_number("valid_until"),
                    maybe_number("credentials_not_before"),
                    number("created_at"),
                    text("created_by"),
                ],
            ),
            [index("service_accounts", ["scope", "created_at", "id"])],
        )
        .await?;
        create(
            manager,
            table(
                "api_tokens",
                [
                    id("id").primary_key().take(),
                    text("scope"),
                    text("name"),
                    maybe_text("description"),
                    text("roles"),
                    bytes("secret_hash"),
                    number("created_at"),
                    text("created_by"),
                ],
            ),
            [index("api_tokens", ["scope", "created_at", "id"])],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["api_tokens", "service_accounts"]).await
    }
}
