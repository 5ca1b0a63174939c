//! The database schema: one file per change, up and down, for SQLite and PostgreSQL alike.
//!
//! Only what CockroachDB and YugabyteDB understand too: no sequences, triggers, extensions or advisory locks.
//! Times are microseconds since the Unix epoch in BIGINT columns, ids are UUIDs, scopes are their key as text,
//! lists are JSON text. A released file is never edited; a change of the schema is a new file.
//!
//! # While the version before still serves
//!
//! Replicas are replaced one by one, so every migration runs under programs that do not know it, and may have to be lived
//! with when the new version is taken back. Hence:
//!
//! 1. **Only add.** A new table, a column that may be null or has a default, an index. Only an index that neither version
//!    uses may go, as 4 says. What the version before reads or writes is neither renamed, nor retyped, nor dropped, nor
//!    given another meaning; a release later, when nothing uses it any more, it may go. That later migration calls `schema::oldest_program`, and programs from before refuse to
//!    start.
//! 2. **No rule that the version before could break**: no `NOT NULL` without default, unique index or reference on what it
//!    writes.
//! 3. **One transaction** with its row in `seaql_migrations`, so that of several replicas that start together one has the
//!    effect, whatever the migration does; the others fail, look again, and find it done.
//! 4. **Nobody waits for long.** `exchanges` and `audit_entries` grow without bound: adding a column to them is a change of
//!    the catalogue, an index is not, and keeps writers out while it is built. Such an index is a migration of its own,
//!    outside a transaction, `CREATE INDEX CONCURRENTLY IF NOT EXISTS` on PostgreSQL, or `DROP INDEX CONCURRENTLY IF EXISTS`.
//! 5. **A new value in an old column** (a kind of provider, say) is something that the version before cannot read. It leaves
//!    such configuration out, and so grants nothing by it.
//! 6. **A new restriction** (a subject that is disabled, say) is one that the version before does not enforce. Say in the
//!    operations guide what is not to be used before the last old replica is gone.
//!
//! The store's conformance suite runs a second time on a database with columns, tables and feed entries of a version to
//! come.

use sea_orm_migration::prelude::*;

mod m20261122_000001_scopes;
mod m20261122_000002_principals;
mod m20261122_000003_federation;
mod m20261122_000004_exchanges;
mod m20261122_000005_credentials;
mod m20261122_000006_configuration;
mod m20261122_000007_audit;
mod m20261125_000008_record;
mod m20261125_000020_subjects;
mod m20261126_000021_exchanges_by_trust;
mod schema;

/// How many rows of `configuration_revision` follow the first: in each, one recorder at a time can hold the revision.
pub const REVISION_LANES: i64 = 16;

/// Key in `installation` of the oldest migration that a program must know to work with the schema as it is.
pub const OLDEST_PROGRAM: &str = "oldest_program";

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
            Box::new(m20261125_000008_record::Migration),
            Box::new(m20261125_000020_subjects::Migration),
            Box::new(m20261126_000021_exchanges_by_trust::Migration),
        ]
    }
}
