//! Copies of the embedded database: taken while a server runs, checked, and put back. PostgreSQL has its own tools for that.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use sallyport_domain::clock::{Clock as _, SystemClock, Timestamp};
use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
use sallyport_domain::event::AuditEntry;
use sea_orm::sea_query::Expr;
use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, Statement};

use crate::change::{advance_revision, after_all_on_record, put_on_record};
use crate::entity::trust;
use crate::error::StoreError;
use crate::store::{Store, create_private, read_revision};

/// The file of an embedded database, from its URL.
///
/// # Errors
/// [`StoreError::Settings`] for a URL that names none.
pub fn sqlite_file(url: &str) -> Result<PathBuf, StoreError> {
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|error| StoreError::Settings(format!("the database URL cannot be used: {error}")))?;
    let path = options.get_filename();
    if url.contains(":memory:") || url.contains("mode=memory") || path.as_os_str().is_empty() {
        return Err(StoreError::Settings("a SQLite database in memory keeps nothing: name a file".into()));
    }
    Ok(path.to_path_buf())
}

impl Store {
    /// Writes all that is committed now into a new file, readable by its owner only, while others go on reading and writing.
    /// The file is there when it is whole and on disk, and not before.
    ///
    /// # Errors
    /// [`StoreError::Settings`] when this is not the embedded database, or the file is there or cannot be written.
    pub async fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        if self.writer().get_database_backend() != DbBackend::Sqlite {
            return Err(StoreError::Settings(
                "only the embedded database is copied; for PostgreSQL use pg_dump".into(),
            ));
        }
        if to.exists() {
            return Err(StoreError::Settings(format!("{} is there already", to.display())));
        }
        let mut partial = to.as_os_str().to_owned();
        partial.push(format!(".{}.partial", uuid_v7(SystemClock.now(), &SystemEntropy)));
        let partial = PathBuf::from(partial);
        let failed = |error: std::io::Error| StoreError::Settings(format!("cannot write {}: {error}", to.display()));
        create_private(&partial).map_err(failed)?;
        let target = partial.to_str().ok_or_else(|| StoreError::Settings("the file's name is not UTF-8".into()))?;
        let copy = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [target.into()]);
        let written = match self.writer().execute_raw(copy).await {
            Ok(_) => File::open(&partial).and_then(|file| file.sync_all()).map_err(failed),
            Err(error) => Err(error.into()),
        };
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written?;
        // Not renamed: that would replace a file which came there meanwhile.
        let linked = std::fs::hard_link(&partial, to).map_err(failed);
        let _ = std::fs::remove_file(&partial);
        linked?;
        sync_folder(to).map_err(failed)
    }

    /// Whether the embedded database is ours and whole: every page, every index, every reference.
    ///
    /// # Errors
    /// [`StoreError::Settings`] that says what is wrong with it.
    pub async fn check_integrity(&self) -> Result<(), StoreError> {
        let ask = |pragma: &str| Statement::from_string(DbBackend::Sqlite, format!("PRAGMA {pragma}"));
        let damaged = |what: String| StoreError::Settings(format!("the database is damaged: {what}"));
        if let Err(error) = read_revision(self.writer()).await {
            return Err(StoreError::Settings(format!("it is not a database of this program: {error}")));
        }
        let found: Option<String> = match self.writer().query_one_raw(ask("integrity_check(1)")).await? {
            Some(row) => Some(row.try_get_by_index(0)?),
            None => None,
        };
        if found.as_deref() != Some("ok") {
            return Err(damaged(found.unwrap_or_else(|| "no answer".into())));
        }
        match self.writer().query_one_raw(ask("foreign_key_check")).await? {
            Some(row) => Err(damaged(format!("a reference from {} leads nowhere", row.try_get_by_index::<String>(0)?))),
            None => Ok(()),
        }
    }

    /// Ends every credential issued before `now`, with `audit` for the record: what was revoked after a copy was taken must not
    /// come back with it.
    ///
    /// # Errors
    /// The database.
    pub async fn end_all_credentials(&self, now: Timestamp, audit: &AuditEntry) -> Result<(), StoreError> {
        let transaction = self.begin_write().await?;
        let revision = read_revision(&transaction).await?;
        let Some(held) = advance_revision(&transaction, revision).await? else {
            return Err(StoreError::Contended);
        };
        let not_before = after_all_on_record(&transaction, now).await?;
        trust::Entity::update_many()
            .col_expr(trust::Column::CredentialsNotBefore, Expr::val(not_before.micros()))
            .exec(&transaction)
            .await?;
        put_on_record(&transaction, held, audit).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Makes a rename in this file's folder last.
///
/// # Errors
/// What the file system says.
pub fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}
