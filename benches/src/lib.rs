//! What performance claims rest on: the real server under load, in numbers that others can measure too.
//!
//! `cargo run --release -p sallyport-bench` measures it from outside, `cargo bench -p sallyport-bench` each stage by itself.
//! What the figures mean: `docs/performance.md`.
//!
//! | module | what is there |
//! |---|---|
//! | [`variants`] | everything that can be measured, by name |
//! | [`run`] | a run: installations, their variants, the check at the end |
//! | [`load`], [`client`] | load at a pace, over connections held by hand |
//! | [`server`], [`cores`] | the server's process, what it used, where it runs |
//! | [`estate`], [`tokens`] | what the server has been configured with, and who comes |
//! | [`primitives`] | what no server can leave out |
//! | [`report`] | the table |

pub mod client;
pub mod cores;
pub mod estate;
pub mod load;
pub mod primitives;
pub mod report;
pub mod run;
pub mod server;
pub mod tokens;
pub mod variants;
