//! Exchanges are no longer indexed by their trust: nobody looks for them that way, and where many trusts are used, each exchange
//! changed a page of that index for itself alone.
//!
//! The version before does not use it either.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::schema::index;

const NAME: &str = "ix_exchanges_trust_id_time";

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// PostgreSQL drops an index beside those who use its table only outside a transaction; inside one, a dump that reads the record
    /// for hours would hold up this, and this everyone who writes. It may be repeated.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let concurrently = if manager.get_database_backend() == DbBackend::Postgres { "CONCURRENTLY" } else { "" };
        let drop = format!(r#"DROP INDEX {concurrently} IF EXISTS "{NAME}""#);
        manager.get_connection().execute_unprepared(&drop).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_index(index("exchanges", ["trust_id", "time"])).await
    }
}
