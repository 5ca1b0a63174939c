//! Where a request came from, for the record of management changes.

use std::net::IpAddr;

use axum::http::{Extensions, HeaderMap};

use crate::request_id::REQUEST_ID;
use crate::services::Services;

/// Longest id that is kept, in characters.
const REQUEST_ID_MAX: usize = 128;

/// Where a request came from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// Its `x-request-id`.
    pub request_id: Option<String>,
    /// The client's address, as far as trusted proxies tell it.
    pub source_ip: Option<IpAddr>,
}

impl Origin {
    /// Reads it off a request.
    pub fn of(services: &Services, extensions: &Extensions, headers: &HeaderMap) -> Self {
        let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        Self {
            request_id: id.map(|id| id.chars().take(REQUEST_ID_MAX).collect()),
            source_ip: services.trusted_proxies.client(extensions, headers),
        }
    }
}
