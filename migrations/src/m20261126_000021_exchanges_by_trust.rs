//! Exchanges are no longer indexed by their trust: nobody looks for them that way, and where many trusts are used, each exchange
//! changed a page of that index for itself alone.
//!
//! The version before does not use it either.

use sea_orm_migration::prelude::*;

use crate::schema::index;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let name = "ix_exchanges_trust_id_time";
        manager.drop_index(Index::drop().name(name).table("exchanges").if_exists().to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_index(index("exchanges", ["trust_id", "time"])).await
    }
}
