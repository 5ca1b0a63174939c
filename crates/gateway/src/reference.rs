//! The reference of an exchange, on every answer: an admin can look it up, a stranger learns nothing from it.

use axum::http::{HeaderName, HeaderValue, Response};
use sallyport_domain::id::ExchangeId;

/// The header that names the reference.
pub const HEADER: HeaderName = HeaderName::from_static("x-sallyport-reference");

/// Adds the reference to a response.
pub fn attach<B>(response: &mut Response<B>, reference: ExchangeId) {
    if let Ok(value) = HeaderValue::from_str(&reference.to_string()) {
        response.headers_mut().insert(HEADER, value);
    }
}
