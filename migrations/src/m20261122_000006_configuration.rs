//! The revision of all configuration, what changed in each, and facts about the installation itself.

use sea_orm_migration::prelude::*;

use crate::schema::{create, drop, number, primary_key, table, text};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(manager, table("configuration_revision", [number("id").primary_key().take(), number("revision")]), [])
            .await?;
        let mut rows = Query::insert();
        rows.into_table("configuration_revision")
            .columns(["id", "revision"])
            .on_conflict(OnConflict::column("id").do_nothing().to_owned());
        for id in 1..=1 + crate::REVISION_LANES {
            rows.values_panic([id.into(), 0_i64.into()]);
        }
        manager.execute(rows).await?;
        create(
            manager,
            table("configuration_changes", [number("revision"), text("kind"), text("key")])
                .primary_key(&mut primary_key(["revision", "kind", "key"]))
                .take(),
            [],
        )
        .await?;
        create(manager, table("installation", [text("key").primary_key().take(), text("value")]), []).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["installation", "configuration_changes", "configuration_revision"]).await
    }
}
