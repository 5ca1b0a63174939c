//! What is kept, in SQLite or PostgreSQL: configuration, exchange records, signing keys and audit entries.
//!
//! Read in this order: [`store`] (connections, errors, transactions), [`change`] (what a mutation writes, in one
//! transaction with its audit entries and its place in the change feed), [`feed`] (the current configuration in memory,
//! following the database), [`recorder`] (exchange records, many in one commit), [`listing`] (pages of everything, scope
//! first), [`keys`] (sealed signing keys and facts about the installation), [`backup`] (copies of the embedded database).
//!
//! There is one way to each row: no SQL is written for one database only, and nothing here decides who may do what.

pub mod backup;
pub mod change;
mod entity;
mod error;
pub mod feed;
mod fingerprint;
pub mod keys;
pub mod listing;
mod load;
mod migrate;
mod paging;
pub mod recorder;
pub mod store;

pub use change::{AuditEntry, Write};
pub use error::{Constraint, MutateError, StoreError};
pub use feed::{Configuration, KEPT_AFTER_END, Stale};
pub use fingerprint::binding_fingerprint;
pub use keys::{KeyRow, KeyTable};
pub use listing::{
    BindingOrder, BindingOrderField, BindingRow, ExchangeFilter, ExchangeRow, StoredCredential, TrustRow,
};
pub use paging::{PAGE_MAX, Page, PageRequest};
pub use recorder::{RecordError, Recorded, Recorder, RecorderOptions};
pub use store::{Store, StoreOptions};
