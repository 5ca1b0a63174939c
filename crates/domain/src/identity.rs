//! What a subject token asserts about a workload.
//!
//! An [`Identity`] says nothing about whether it was verified: the simulator makes them from bare claims. The only thing that
//! can be exchanged for a credential is the `VerifiedIdentity` of the identity crate, which wraps one and which only
//! verification can make.

use crate::claims::{Claims, ClaimsError};
use crate::clock::Timestamp;

/// Issuer, subject, audiences, times and claims of one subject token.
#[derive(Clone, PartialEq, Debug)]
pub struct Identity {
    /// `iss`; the trust domain as `spiffe://…` for SPIFFE; the STS issuer for AWS.
    pub issuer: String,
    /// `sub`, or the ARN that STS returned.
    pub subject: String,
    /// `aud`, or the value of AWS's signed server-binding header.
    pub audiences: Vec<String>,
    /// `iat`.
    pub issued_at: Option<Timestamp>,
    /// `exp`; for AWS the end of the request's signature window.
    pub expires_at: Option<Timestamp>,
    /// `jti`.
    pub token_id: Option<String>,
    /// All claims.
    pub claims: Claims,
}

impl Identity {
    /// Reads the registered claims out of `claims`, each with its right type. Leaves their rules to the verifier.
    ///
    /// # Errors
    /// When a registered claim has the wrong JSON type or `sub` is missing or empty.
    pub fn from_claims(claims: Claims) -> Result<Self, ClaimsError> {
        let subject = claims.text("sub")?.ok_or_else(|| ClaimsError("'sub' is missing".into()))?.to_owned();
        let issuer = claims.text("iss")?.unwrap_or_default().to_owned();
        let audiences = claims.audiences()?.into_iter().map(str::to_owned).collect();
        let issued_at = claims.numeric_date("iat")?.map(Timestamp::from_seconds);
        let expires_at = claims.numeric_date("exp")?.map(Timestamp::from_seconds);
        claims.numeric_date("nbf")?;
        let token_id = claims.text("jti")?.map(str::to_owned);
        Ok(Self { issuer, subject, audiences, issued_at, expires_at, token_id, claims })
    }
}
