//! Subject token to verified identity, through the one guarded outbound client.
//!
//! The way of a token: [`jwt`] or [`aws`] reads its shape and times, the caller finds the provider, and [`verifier`]
//! makes a [`VerifiedIdentity`] of the two, which nothing else can make. Keys come from [`keys`] and [`discovery`];
//! whatever leaves the process goes through [`outbound`].
//!
//! Nothing here decides whether an identity gets in (that is `sallyport_domain::matching`), keeps anything on disk, or
//! reads a clock of its own. No token and no value of a claim gets into an error or a log.

pub mod aws;
pub mod discovery;
pub mod jwt;
pub mod keys;
pub mod outbound;
pub mod verifier;

pub use aws::SignedRequest;
pub use discovery::IssuerProblem;
pub use jwt::{TimeRules, TokenFault, UnverifiedJwt};
pub use outbound::{Outbound, OutboundSettings};
pub use verifier::{Verification, VerifiedIdentity, Verifier};
