//! When there is more to do than can be done: new exchanges are refused at once, so that those under way are finished.
//!
//! What is watched is how many wait to be recorded, and how late a task gets its turn. These grow with everything that the
//! database or the processor cannot keep up with, and with nothing that merely waits: exchanges that stand before a stuck
//! issuer, however many, keep nobody out.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::FutureExt as _;
use metrics::Counter;
use sallyport_domain::exchange::Protocol;

use crate::rpc::Encoding;
use crate::{oauth, rpc};

/// Looked up once: the recorder of metrics is installed before the first request, and stays.
static REFUSED: LazyLock<Counter> = LazyLock::new(
    || metrics::counter!("sallyport_exchanges_total", "outcome" => "unavailable", "reason" => "overload"),
);

/// When so many wait to be recorded, the commit under way and the next one are full.
const WAITING: usize = 512;
/// A turn that comes later than this is late. About a thousand exchanges are waiting then.
const LATE: Duration = Duration::from_millis(100);
/// How many late turns after each other are overload: one alone is a machine that stood still for a moment.
const TURNS: u32 = 2;
/// How long after one turn the next is asked for.
const PAUSE: Duration = Duration::from_millis(10);

/// How late turns come.
#[derive(Debug, Default)]
pub struct Overload {
    /// How many in a row came late.
    late: AtomicU32,
}

impl Overload {
    /// Watches for ever, in a task of its own.
    pub async fn watch(&self) {
        loop {
            let asked = Instant::now();
            tokio::time::sleep(PAUSE).await;
            // Behind all tasks that are ready.
            tokio::task::yield_now().await;
            self.saw(asked.elapsed().saturating_sub(PAUSE));
        }
    }

    fn saw(&self, lateness: Duration) {
        let late = if lateness > LATE { self.late.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.late.store(late, Ordering::Relaxed);
    }

    fn is_overloaded(&self) -> bool {
        self.late.load(Ordering::Relaxed) >= TURNS
    }

    /// The answer to an exchange that there is no time for: a 503 that costs next to nothing, without a reference, for it has
    /// become no attempt. `None`: go on.
    ///
    /// `waiting` wait to be recorded.
    pub fn refuse(&self, door: Protocol, headers: &HeaderMap, waiting: usize) -> Option<Response> {
        if !self.is_overloaded() && waiting <= WAITING {
            return None;
        }
        REFUSED.increment(1);
        let answer = match door {
            Protocol::Oauth => &ANSWERS.oauth,
            Protocol::Rpc => &ANSWERS.rpc[Encoding::of_response(headers) as usize],
        };
        Some(answer.response())
    }
}

static ANSWERS: LazyLock<Answers> = LazyLock::new(|| {
    const WORDS: &str = "there is more to do than can be done just now; try again in a second";
    Answers {
        oauth: Prepared::of(oauth::unavailable(WORDS)),
        rpc: Encoding::ALL.map(|encoding| Prepared::of(rpc::unavailable(encoding, WORDS))),
    }
});

struct Answers {
    oauth: Prepared,
    rpc: [Prepared; 2],
}

/// What is the same in each such answer, put together once.
struct Prepared {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    fn of(response: Response) -> Self {
        let (mut parts, body) = response.into_parts();
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        // It is all there, so there is nothing to wait for.
        let body = to_bytes(body, usize::MAX).now_or_never().and_then(Result::ok).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body }
    }

    fn response(&self) -> Response {
        // With room for what every answer bears.
        let mut headers = HeaderMap::with_capacity(16);
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut response = Response::new(self.body.clone().into());
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_turns_are_overload_and_it_ends_by_itself() {
        let overload = Overload::default();
        let after = |millis| {
            overload.saw(Duration::from_millis(millis));
            overload.is_overloaded()
        };
        assert_eq!(
            [0, 100, 3_000, 1, 101, 500, 101, 100].map(after),
            [false, false, false, false, false, true, true, false]
        );
    }

    #[test]
    fn both_causes_refuse_and_each_client_can_read_it() {
        let (overload, headers) = (Overload::default(), HeaderMap::new());
        assert!(overload.refuse(Protocol::Oauth, &headers, WAITING).is_none());
        assert!(overload.refuse(Protocol::Oauth, &headers, WAITING + 1).is_some());
        overload.late.store(TURNS, Ordering::Relaxed);
        for door in Protocol::ALL {
            let response = overload.refuse(door, &headers, 0).unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
            let json = to_bytes(response.into_body(), 1_024).now_or_never().unwrap().unwrap();
            assert!(String::from_utf8_lossy(&json).contains("try again in a second"));
        }
        let protobuf = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/protobuf"))]);
        let response = overload.refuse(Protocol::Rpc, &protobuf, 0).unwrap();
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            rpc::unavailable(Encoding::Protobuf, "").headers()[header::CONTENT_TYPE]
        );
    }
}
