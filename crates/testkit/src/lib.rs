//! Stand-ins for the outside world: an OIDC issuer, an AWS STS that checks signatures, a throwaway PostgreSQL, and the
//! network in between.
//!
//! For tests and for `sallyport quickstart`; `sallyport serve` never links a line of it into a request. It depends on
//! no other Sallyport crate, so that an error of ours is not repeated here and thereby hidden. The current time always
//! comes in as an argument.
//!
//! | module | what is there |
//! |---|---|
//! | [`authority`] | [`TestAuthority`], the certificate authority the stand-ins' TLS hangs from |
//! | [`forwarder`] | [`Forwarder`], a network that can fall silent, be cut, or lead elsewhere |
//! | [`https`] | [`Failure`], the ways in which a stand-in misbehaves on request |
//! | [`issuer`] | [`Issuer`], an HTTPS OIDC issuer that also mints hostile tokens |
//! | [`keys`] | [`Algorithm`] and the issuer's signing keys |
//! | [`platforms`] | complete, realistic claims of each supported platform |
//! | [`postgres`] | [`Postgres`], a database server that cannot outlive the process |
//! | [`sigv4`] | signing and checking AWS requests, and the documents clients send |
//! | [`sts`] | [`Sts`], GetCallerIdentity behind real signature checks |

pub mod authority;
#[cfg(test)]
mod client;
pub mod forwarder;
pub mod https;
pub mod issuer;
pub mod keys;
pub mod platforms;
pub mod postgres;
pub mod sigv4;
pub mod sts;

pub use authority::{ServerIdentity, TestAuthority};
pub use forwarder::{Forwarder, Traffic};
pub use https::Failure;
pub use issuer::{Endpoint, Issuer, OldKey, Signer};
pub use keys::Algorithm;
pub use platforms::TokenRequest;
pub use postgres::Postgres;
pub use sigv4::{AccessKey, PresignOptions, presign};
pub use sts::{CallerIdentity, Sts};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks even after a panic elsewhere: one failed test must not bring down those that share a stand-in with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `N` random bytes in lower-case hex.
#[expect(clippy::expect_used, reason = "the aws-lc generator reports no failure once it has been seeded")]
fn random_hex<const N: usize>() -> String {
    let mut bytes = [0_u8; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
    hex(&bytes)
}

/// A random identifier in the usual 8-4-4-4-12 form.
fn random_uuid() -> String {
    let mut digits = random_hex::<16>();
    digits.replace_range(12..13, "4");
    digits.replace_range(16..17, "a");
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// Lower-case hex.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
