//! Nouns and rules of workload identity federation.
//!
//! Nothing here does I/O, speaks SQL or HTTP, or reads a clock: time and chance come in as arguments.
//! Read in this order: [`scope`] and [`mrn`] (what is named), [`role`] and [`principal`] (who may do what),
//! [`provider`] and [`trust`] (whom an admin trusts), [`claims`] and [`identity`] (what a workload presents),
//! [`matching`] and [`decision`] (whether it gets in, and why), [`exchange`] and [`event`] (what is put on record),
//! [`snapshot`] (all of it, at one revision).

pub mod base64url;
pub mod claims;
pub mod clock;
pub mod condition;
pub mod decision;
pub mod entropy;
pub mod event;
pub mod exchange;
pub mod id;
pub mod identity;
pub mod issuer;
pub mod lint;
pub mod mapping;
pub mod matching;
pub mod mrn;
pub mod network;
mod numbered;
pub mod preset;
pub mod principal;
pub mod provider;
pub mod role;
pub mod scope;
pub mod shared;
pub mod snapshot;
pub mod subject;
pub mod subject_status;
pub mod trust;
mod trust_index;
pub mod validate;
