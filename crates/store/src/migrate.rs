//! Bringing the schema up to date, also when several replicas start on one empty database together.

use std::time::Duration;

use sallyport_migrations::Migrator;
use sea_orm_migration::MigratorTrait;
use tokio::time::{Instant, sleep};

use crate::error::StoreError;
use crate::store::Store;

/// How long replicas that start together may get in each other's way.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

impl Store {
    /// Applies every migration that is missing. Whoever loses against another replica tries again, for up to 30 s.
    ///
    /// # Errors
    /// The last failure; also when the database has migrations that this program does not know.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let started = Instant::now();
        loop {
            let error = match Migrator::up(self.writer(), None).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // What is wrong for good is wrong for everyone: the schema is from another version.
            if matches!(error, sea_orm::DbErr::Custom(_)) || started.elapsed() > PATIENCE {
                return Err(error.into());
            }
            let reason = crate::error::root_words(&error);
            tracing::info!(%reason, "applying migrations again");
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
