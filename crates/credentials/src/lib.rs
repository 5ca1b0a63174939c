//! Minting and checking credentials. No SQL, no HTTP; time and chance come in as arguments.
//!
//! Read in this order: [`master_key`] (what protects keys at rest), [`keys`] and [`rotation`] (signing keys and their
//! life), [`ring`] (the keys in use, as one immutable value), then what they sign: [`access_token`], [`id_token`],
//! [`key_pair`] with its [`document`]. [`service_account_jwt`] checks what a service account signs itself, [`secret`]
//! makes and hashes API tokens, [`token`] holds what all JWTs have in common. [`client`] is the other side's half,
//! for the quickstart and tests.
//!
//! Key material is drawn by aws-lc-rs from its own generator (RSA cannot be made from given bytes); ids, nonces, serial
//! numbers and API tokens come from [`sallyport_domain::entropy::Entropy`].

pub mod access_token;
pub mod client;
pub mod document;
pub mod id_token;
pub mod key_pair;
pub mod keys;
pub mod master_key;
mod pem;
pub mod ring;
pub mod rotation;
pub mod secret;
pub mod service_account_jwt;
pub mod token;

pub use access_token::{AccessTokenClaims, WifClaims};
pub use document::ServiceAccountDocument;
pub use id_token::IdTokenClaims;
pub use key_pair::{KeyPairCredential, KeyPairRequest};
pub use keys::{KeyError, Purpose, SlotState, StoredKey};
pub use master_key::{MasterKey, MasterKeyError};
pub use ring::KeyRing;
pub use rotation::{KeyChange, RotationPolicy, plan_rotation};
pub use service_account_jwt::UnverifiedServiceAccountJwt;
pub use token::TokenError;

#[cfg(test)]
mod testing;
