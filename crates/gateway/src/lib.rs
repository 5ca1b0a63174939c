//! The exchange: one pipeline, the protocols in front of it, and what a relying party reads.
//!
//! The request's way is straight: adapter ([`rpc`], [`oauth`]) → [`pipeline`] → verify → match → grant → record → [`mint`] → adapter.

pub mod address;
pub mod authentication;
pub mod discovery;
pub mod introspection;
pub mod limits;
pub mod mint;
pub mod oauth;
pub mod origin;
pub mod overload;
pub mod pipeline;
pub mod reference;
pub mod request_id;
pub mod routes;
pub mod rpc;
pub mod services;
pub mod shedding;
pub mod simulate;
mod stages;
pub mod turns;

pub use routes::{Unfinished, router};
pub use services::Services;
