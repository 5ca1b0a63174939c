//! The database schema: one file per change, up and down, for SQLite and PostgreSQL alike.
//!
//! Only what CockroachDB and YugabyteDB understand too: no sequences, triggers, extensions or advisory locks.
//! Times are microseconds since the Unix epoch in BIGINT columns, ids are UUIDs, scopes are their key as text,
//! lists are JSON text. A released file is never edited; a change of the schema is a new file.

use sea_orm_migration::prelude::*;

mod m20261122_000001_scopes;
mod m20261122_000002_principals;
mod m20261122_000003_federation;
mod m20261122_000004_exchanges;
mod m20261122_000005_credentials;
mod m20261122_000006_configuration;
mod m20261122_000007_audit;
mod m20261125_000020_subjects;
mod schema;

/// How many rows of `configuration_revision` follow the first: in each, one recorder at a time can hold the revision.
pub const REVISION_LANES: i64 = 16;

/// Brings a database to the schema of this program, or back.
#[derive(Clone, Copy, Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261122_000001_scopes::Migration),
            Box::new(m20261122_000002_principals::Migration),
            Box::new(m20261122_000003_federation::Migration),
            Box::new(m20261122_000004_exchanges::Migration),
            Box::new(m20261122_000005_credentials::Migration),
            Box::new(m20261122_000006_configuration::Migration),
            Box::new(m20261122_000007_audit::Migration),
            Box::new(m20261125_000020_subjects::Migration),
        ]
    }
}
