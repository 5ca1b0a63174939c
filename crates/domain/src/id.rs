//! Identifiers: one type for each kind of thing, so that one cannot be passed for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::validate::FieldError;

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Parses the canonical form only (lower case, hyphens): ids are compared byte for byte.
            pub fn parse(text: &str) -> Option<Self> {
                let id = Uuid::try_parse(text).ok()?;
                (id.hyphenated().to_string() == text).then_some(Self(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }
    )*};
}

uuid_id! {
    /// A service account.
    ServiceAccountId;
    /// A provider.
    ProviderId;
    /// A trust, and the binding that is a view of it.
    TrustId;
    /// An API token.
    ApiTokenId;
    /// A credential that was minted. Equals the id of the exchange that produced it, when one did.
    CredentialId;
    /// One exchange attempt; what callers are told as its reference.
    ExchangeId;
}

impl CredentialId {
    /// When the id was made, to the millisecond (UUIDv7, RFC 9562 section 5.7): when the exchange began that produced the
    /// credential. `None` for an id that does not say.
    pub fn made_at(self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let seconds = Timestamp::from_seconds(i64::try_from(seconds).ok()?);
        Some(Timestamp::from_micros(seconds.micros().saturating_add(i64::from(nanos / 1_000))))
    }
}

macro_rules! named_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// 4 to 200 characters of letters, digits, `-`, `_` and `.`.
            pub fn parse(text: &str) -> Option<Self> {
                let fits = (4..=200).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
                fits.then(|| Self(text.into()))
            }

            /// As [`Self::parse`], with an error that names the input field `field`.
            pub fn parse_field(field: &str, text: &str) -> Result<Self, FieldError> {
                Self::parse(text).ok_or_else(|| {
                    FieldError::new(field, "must be 4 to 200 characters of letters, digits, '-', '_' and '.'")
                })
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

named_id! {
    /// An organization; may be chosen by its creator.
    OrganizationId;
    /// A space; may be chosen by its creator.
    SpaceId;
}
