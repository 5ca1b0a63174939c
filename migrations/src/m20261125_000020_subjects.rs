//! Ending access by provider and by subject: all credentials of a provider at once, and what admins said about single subjects.

use sea_orm_migration::prelude::*;

use crate::schema::{create, drop, flag, id, index, maybe_number, number, primary_key, table, text};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !manager.has_column("providers", "credentials_not_before").await? {
            let mut column = maybe_number("credentials_not_before");
            manager.alter_table(Table::alter().table("providers").add_column(&mut column).take()).await?;
        }
        create(
            manager,
            table(
                "subject_statuses",
                [
                    id("provider_id"),
                    text("subject_hash"),
                    text("subject"),
                    flag("disabled"),
                    maybe_number("credentials_not_before"),
                    number("updated_at"),
                    text("updated_by"),
                ],
            )
            .primary_key(&mut primary_key(["provider_id", "subject_hash"]))
            .take(),
            [index("subject_statuses", ["provider_id", "updated_at", "subject_hash"])],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["subject_statuses"]).await?;
        manager.alter_table(Table::alter().table("providers").drop_column("credentials_not_before").take()).await
    }
}
