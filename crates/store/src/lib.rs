//! What is kept, in SQLite or PostgreSQL: configuration, exchange records, signing keys and audit entries.
//!
//! Read in this order: [`store`] (connections, errors, transactions), [`change`] (what a mutation writes, in one
//! transaction with its audit entries and its place in the change feed), [`feed`] (the current configuration in memory,
//! following the database), [`recorder`] (exchange records, many in one commit; `at_once`: by one statement), [`usage`] (when
//! trusts were last used), [`listing`] (pages of everything, scope first), [`events`] (the record as collectors read it), [`retention`]
//! (what is forgotten), [`keys`] (sealed signing keys and facts about the installation), [`migrate`] (the schema, and whether
//! this program can work with it), [`backup`] (copies of the embedded database), `wal` (its log).
//!
//! Nothing here decides who may do what. There is one way to each row, in SQL that both databases understand; what only one of
//! them does, `at_once`, [`retention`], `wal` and the settings of connections say themselves.

mod at_once;
pub mod backup;
mod bulk;
pub mod change;
mod entity;
mod error;
pub mod events;
pub mod feed;
mod fingerprint;
pub mod keys;
pub mod listing;
mod load;
pub mod migrate;
mod paging;
pub mod recorder;
pub mod retention;
pub mod store;
pub mod usage;
mod wal;

pub use change::Write;
pub use error::{Constraint, MutateError, StoreError};
pub use events::EventFilter;
pub use feed::{Configuration, KEPT_AFTER_END, Stale};

pub use fingerprint::binding_fingerprint;
pub use keys::{KeyRow, KeyTable};
pub use listing::{
    BindingOrder, BindingOrderField, BindingRow, ExchangeFilter, ExchangeRow, StoredCredential, TrustRow,
};
pub use load::{LoadOptions, Needed};
pub use migrate::Schema;
pub use paging::{PAGE_MAX, Page, PageRequest};
pub use recorder::{RecordError, Recorded, Recorder, RecorderOptions};
pub use sallyport_domain::event::{AuditEntry, Event};
pub use store::{Store, StoreOptions};
