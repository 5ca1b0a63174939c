//! The management API: GraphQL over HTTP.
//!
//! Read in this order: [`handler`] (from HTTP to an authenticated request), [`limits`] (how large it may be), [`schema`] (what
//! there is), `access` (the one place permissions are checked), `admission` (the one place where a trust or provider that is
//! about to be saved is judged), then a module for each noun. [`error`] is what every refusal looks like.

mod access;
mod admission;
mod api_tokens;
mod audit;
mod bindings;
mod conditions;
pub mod error;
mod events;
mod exchanges;
mod graphiql;
pub mod handler;
mod id_tokens;
mod inputs;
pub mod limits;
mod paging;
mod presets;
mod providers;
mod revocation;
mod roles;
pub mod schema;
mod scopes;
mod service_accounts;
mod simulation;
mod subjects;
mod trusts;
mod viewer;

pub use handler::{Api, GraphqlOptions, router};
pub use schema::sdl;
