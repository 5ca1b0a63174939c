//! The schema: whether this program can work with the one it finds, and bringing it up to date, also when several replicas
//! start on one empty database together. The rules for migrations are in `sallyport_migrations`.

use std::collections::BTreeSet;
use std::time::Duration;

use sallyport_migrations::{Migrator, OLDEST_PROGRAM};
use sea_orm::EntityTrait;
use sea_orm_migration::{MigratorTrait, SchemaManager, seaql_migrations};
use tokio::time::{Instant, sleep};

use crate::entity::installation;
use crate::error::StoreError;
use crate::store::Store;

/// How long replicas that start together may get in each other's way.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// What a database's schema is to this program. Any other cannot be worked with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Schema {
    /// These migrations are missing, in order; in an empty database all.
    Behind(Vec<String>),
    /// It is the program's own.
    Current,
    /// A newer version has migrated it, by these, and left it such that this program can work with it.
    Ahead(Vec<String>),
}

impl Store {
    /// What the schema is to this program. Reads only.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when this program cannot work with it: a version from long after it, or of another line, has
    /// migrated it.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        let known: Vec<String> = Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();
        let applied = self.applied().await?;
        let missing: Vec<String> = known.iter().filter(|name| !applied.contains(*name)).cloned().collect();
        let unknown: Vec<String> = applied.into_iter().filter(|name| !known.contains(name)).collect();
        match (missing.is_empty(), unknown.is_empty()) {
            (true, true) => Ok(Schema::Current),
            (false, true) => Ok(Schema::Behind(missing)),
            (false, false) => Err(StoreError::Schema(format!(
                "it has {} and lacks {}: another line of versions has migrated it",
                unknown.join(", "),
                missing.join(", ")
            ))),
            (true, false) => {
                let oldest = installation::Entity::find_by_id(OLDEST_PROGRAM.to_owned()).one(self.reader()).await?;
                let oldest = oldest.map(|fact| fact.value).unwrap_or_default();
                if known.contains(&oldest) {
                    return Ok(Schema::Ahead(unknown));
                }
                let newest = known.last().map(String::as_str).unwrap_or_default();
                Err(StoreError::Schema(format!(
                    "a newer version has migrated it, and programs have to know {oldest} since; this one knows up to {newest}. Run a version at least as new, or restore a backup from before"
                )))
            }
        }
    }

    async fn applied(&self) -> Result<BTreeSet<String>, StoreError> {
        if !SchemaManager::new(self.reader()).has_table("seaql_migrations").await? {
            return Ok(BTreeSet::new());
        }
        let rows = seaql_migrations::Entity::find().all(self.reader()).await?;
        Ok(rows.into_iter().map(|row| row.version).collect())
    }

    /// Applies every migration that is missing, and answers their names. Where none is, nothing is changed, nor needs to be
    /// allowed. Whoever loses against another replica looks again, for up to 30 s.
    ///
    /// # Errors
    /// The last failure; at once when this program cannot work with the schema.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let started = Instant::now();
        let mut applied = None;
        loop {
            let error = match self.schema().await {
                Ok(Schema::Current) => return Ok(applied.unwrap_or_default()),
                Ok(Schema::Ahead(newer)) => {
                    tracing::warn!(newer = newer.join(", "), "a newer version has migrated the database");
                    return Ok(applied.unwrap_or_default());
                }
                Ok(Schema::Behind(missing)) => {
                    applied.get_or_insert(missing);
                    match Migrator::up(self.writer(), None).await {
                        Ok(()) => continue,
                        Err(error) => error.into(),
                    }
                }
                Err(refusal @ StoreError::Schema(_)) => return Err(refusal),
                Err(error) => error,
            };
            if started.elapsed() > PATIENCE {
                return Err(error);
            }
            tracing::info!(reason = %error, "looking at the schema again");
            sleep(PAUSE).await;
        }
    }

    /// Takes every migration back: for tests, and for leaving.
    ///
    /// # Errors
    /// What the database says.
    pub async fn migrate_down(&self) -> Result<(), StoreError> {
        Ok(Migrator::down(self.writer(), None).await?)
    }
}
