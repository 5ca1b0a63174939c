//! Black-box tests of the built binary, one file per story. They see what a user sees: a process, its settings, HTTP.
//!
//! `SALLYPORT_TEST_DATABASE` is `sqlite` (default) or `postgres` and holds for the whole run. Each story shares one
//! server; each test makes its own organization and space. The clock is the real one, and nothing sleeps to pass:
//! what takes time is polled with a deadline.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this crate is tests throughout, helpers included; a panic is how a test fails"
)]

mod support;

mod aws;
mod backup;
mod bindings;
mod chaos;
mod credentials;
mod deploy;
mod durability;
mod ending;
mod guides;
mod hostile_requests;
mod issuer;
mod keys;
mod management;
mod oauth_exchange;
mod permissions;
mod presets;
mod promises;
mod quickstart;
mod records;
mod refusals;
mod replicas;
mod rpc_exchange;
mod settings;
mod telemetry;
mod tenants;
mod third_party;
mod threats;
mod trusts;
mod upgrades;
