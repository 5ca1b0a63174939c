//! Which request is being answered, for the lines of the log: an exchange has a span only where somebody looks at it, for that would
//! cost each of them more than most of its steps, and nearly none writes a line.

use std::fmt;

use axum::http::{HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;
use tokio::task_local;

/// The header of a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

task_local! {
    static CURRENT: HeaderValue;
}

/// Runs what answers the request of this id.
pub fn named<F: Future>(id: HeaderValue, run: F) -> TaskLocalFuture<HeaderValue, F> {
    CURRENT.scope(id, run)
}

/// The id of the request that is being answered, in words; none outside of one.
#[derive(Clone, Copy, Debug)]
pub struct CurrentRequest;

impl fmt::Display for CurrentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CURRENT.try_with(|id| f.write_str(id.to_str().unwrap_or_default())).unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_request_knows_its_own() {
        let shown = || CurrentRequest.to_string();
        assert_eq!(shown(), "");
        let other = async {
            tokio::task::yield_now().await;
            shown()
        };
        let (a, b) = tokio::join!(named(HeaderValue::from_static("a"), other), async {
            tokio::task::yield_now().await;
            shown()
        });
        assert_eq!([a, b], ["a", ""]);
    }
}
