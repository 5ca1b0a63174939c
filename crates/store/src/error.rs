//! What can go wrong between us and the database, told apart by what the caller can do about it.
//! Messages hold the database's words and the names of tables and constraints, never the values of a row.

use sea_orm::sqlx;
use sea_orm::{DbErr, RuntimeErr};

use crate::feed::Stale;

/// Why the store did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is shutting down, or does not answer in time. Try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database answers and takes no writes: there is no room on its disk, or it is a standby. Try again later.
    #[error("the database takes no writes: {0}")]
    Unwritable(String),
    /// Other writers kept getting in the way, however often it was tried. Try again later.
    #[error("the database is busy: other writers kept getting in the way")]
    Contended,
    /// Not all configuration is loaded yet. Try again later.
    #[error("the configuration is still being loaded")]
    Loading,
    /// A rule of the schema forbids it.
    #[error("the database refused a change: {0}")]
    Conflict(Constraint),
    /// The `after` of a page request is not a cursor of this listing.
    #[error("not a cursor of this list")]
    BadCursor,
    /// A row cannot be read back: written by a newer version, or by other hands.
    #[error("row {id} of {table} cannot be read: {what}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row's key.
        id: String,
        /// Which part is wrong.
        what: String,
    },
    /// This program cannot work with the schema it finds: what is there, and what would do.
    #[error("the database's schema is not one that this version can work with: {0}")]
    Schema(String),
    /// The settings cannot work, whatever the database says.
    #[error("{0}")]
    Settings(String),
    /// The database refused a statement of ours: a defect of this program, or a schema that is not ours.
    #[error("the database refused a statement: {0}")]
    Database(String),
}

impl StoreError {
    /// Whether trying again later may help: the caller answers `UNAVAILABLE` or 503, and `INTERNAL` otherwise.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unwritable(_) | Self::Contended | Self::Loading)
    }

    pub(crate) fn timed_out(what: &str) -> Self {
        Self::Unavailable(format!("{what} took too long"))
    }
}

/// The rules of the schema that a change can run into.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Constraint {
    /// There is already a binding with this fingerprint.
    #[error("such a binding exists")]
    BindingExists,
    /// Another trust has this client name: draw another.
    #[error("the client name is taken")]
    ClientName,
    /// The scope already has a provider for this issuer.
    #[error("the scope has a provider for this issuer")]
    ProviderExists,
    /// An organization or space with this id was deleted; ids are never used again.
    #[error("the id was in use before")]
    IdRetired,
    /// Something else still refers to what was to go, or what is referred to is not there (any more).
    #[error("something else refers to it")]
    InUse,
    /// Any other.
    #[error("a rule of the schema")]
    Other,
}

/// Why a mutation changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MutateError<E> {
    /// The plan refused.
    #[error("refused")]
    Rejected(E),
    /// A rule of the schema forbids it.
    #[error(transparent)]
    Conflict(Constraint),
    /// The store failed. [`StoreError::is_transient`] tells an outage from a defect.
    #[error(transparent)]
    Unavailable(StoreError),
}

impl<E> From<StoreError> for MutateError<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(constraint) => Self::Conflict(constraint),
            other => Self::Unavailable(other),
        }
    }
}

impl From<Stale> for StoreError {
    fn from(stale: Stale) -> Self {
        Self::Unavailable(stale.to_string())
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match &error {
            DbErr::ConnectionAcquire(reason) => Self::Unavailable(reason.to_string()),
            DbErr::Conn(RuntimeErr::SqlxError(inner)) => match of_sqlx(inner) {
                // A server that turns a connection away (starting, full, wrong password) is not there for us.
                Self::Database(words) => Self::Unavailable(words),
                other => other,
            },
            DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner)) => of_sqlx(inner),
            DbErr::Conn(inner) => Self::Unavailable(inner.to_string()),
            other => Self::Database(other.to_string()),
        }
    }
}

pub(crate) fn of_sqlx(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(refusal) => of_refusal(refusal.as_ref()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreError::Unavailable(error.to_string()),
        other => StoreError::Database(other.to_string()),
    }
}

fn of_refusal(refusal: &dyn sqlx::error::DatabaseError) -> StoreError {
    let code = refusal.code().unwrap_or_default();
    let message = refusal.message();
    match code.as_ref() {
        // PostgreSQL: serialization_failure, deadlock_detected. SQLite: BUSY, LOCKED and their extensions.
        "40001" | "40P01" | "5" | "6" | "261" | "262" | "517" | "773" => StoreError::Contended,
        // unique_violation; SQLite UNIQUE, PRIMARYKEY.
        "23505" | "2067" | "1555" => StoreError::Conflict(unique(refusal.constraint().unwrap_or(message))),
        // foreign_key_violation, restrict_violation; SQLite FOREIGNKEY, and TRIGGER for ON DELETE RESTRICT.
        "23503" | "23001" | "787" | "1811" => StoreError::Conflict(Constraint::InUse),
        _ if code.starts_with("23") || code == "19" || code == "1299" || code == "275" => {
            StoreError::Conflict(Constraint::Other)
        }
        // disk_full, read-only after a failover; SQLite READONLY, IOERR (whatever of it a write meets), FULL.
        "53100" | "25006" => StoreError::Unwritable(message.to_owned()),
        _ if code.len() < 5 && matches!(code.parse::<u32>().map(|c| c & 0xFF), Ok(8 | 10 | 13)) => {
            StoreError::Unwritable(message.to_owned())
        }
        // Connection, resources, operator intervention, idle for too long in a transaction; SQLite CANTOPEN.
        _ if ["08", "53", "57", "58", "25P03"].iter().any(|class| code.len() == 5 && code.starts_with(class)) => {
            StoreError::Unavailable(message.to_owned())
        }
        _ if code.len() < 5 && matches!(code.parse::<u32>().map(|c| c & 0xFF), Ok(14)) => {
            StoreError::Unavailable(message.to_owned())
        }
        _ => StoreError::Database(message.to_owned()),
    }
}

/// PostgreSQL names the index; SQLite says `UNIQUE constraint failed: trusts.client_name`.
fn unique(words: &str) -> Constraint {
    let names = |index: &str, column: &str| words.contains(index) || words.contains(column);
    if names("uq_trusts_binding_fingerprint", "trusts.binding_fingerprint") {
        Constraint::BindingExists
    } else if names("uq_trusts_client_name", "trusts.client_name") {
        Constraint::ClientName
    } else if names("uq_providers_scope_issuer", "providers.issuer_key") {
        Constraint::ProviderExists
    } else {
        Constraint::Other
    }
}
