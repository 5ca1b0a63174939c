//! When there is more to do than can be done: new exchanges are refused at once, so that those under way are finished.
//!
//! What is watched is how late a task gets its turn. That grows with everything that takes processor time and with nothing
//! that merely waits: exchanges that stand before a stuck issuer, however many, keep nobody out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Request, header};
use axum::response::Response;

use crate::{oauth, rpc};

/// A turn that comes later than this is too late. Some thousand exchanges are waiting then.
const LATE: Duration = Duration::from_millis(250);
/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// How late turns come.
#[derive(Debug)]
pub struct Overload {
    started: Instant,
    /// When the watcher last had its turn, in microseconds since the start.
    seen: AtomicU64,
    /// How late that was, in microseconds.
    late: AtomicU64,
}

impl Default for Overload {
    fn default() -> Self {
        Self { started: Instant::now(), seen: AtomicU64::new(0), late: AtomicU64::new(0) }
    }
}

impl Overload {
    /// Watches for ever, in a task of its own.
    pub async fn watch(&self) {
        loop {
            let began = Instant::now();
            tokio::time::sleep(EVERY).await;
            // Behind all tasks that are ready.
            tokio::task::yield_now().await;
            self.saw(began, Instant::now());
        }
    }

    /// Whether a new exchange had to wait too long. Also when nobody could even look.
    fn is_at(&self, now: Instant) -> bool {
        let (seen, late) = (self.seen.load(Ordering::Relaxed), self.late.load(Ordering::Relaxed));
        let unseen = micros(now, self.started).saturating_sub(seen);
        let limit = u64::try_from(LATE.as_micros()).unwrap_or(u64::MAX);
        late > limit || seen > 0 && unseen > limit.saturating_add(2 * u64::try_from(EVERY.as_micros()).unwrap_or(0))
    }

    fn saw(&self, began: Instant, now: Instant) {
        let late = micros(now, began + EVERY);
        self.late.store(late, Ordering::Relaxed);
        self.seen.store(micros(now, self.started), Ordering::Relaxed);
    }

    /// The answer to an exchange that there is no time for: a 503 that costs next to nothing, without a reference, for it has
    /// become no attempt. `None`: go on.
    pub fn refuse<B>(&self, request: &Request<B>) -> Option<Response> {
        const WORDS: &str = "there is more to do than can be done just now; try again in a second";
        let path = request.uri().path();
        let (is_oauth, is_rpc) = (path == oauth::TOKEN, path == rpc::EXCHANGE);
        if !(is_oauth || is_rpc) || !self.is_at(Instant::now()) {
            return None;
        }
        metrics::counter!("sallyport_exchanges_total", "outcome" => "unavailable", "reason" => "overload").increment(1);
        let mut response =
            if is_oauth { oauth::unavailable(WORDS) } else { rpc::unavailable(request.headers(), WORDS) };
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        Some(response)
    }
}

fn micros(now: Instant, since: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[test]
    fn late_turns_and_missing_ones_are_overload_and_it_ends_by_itself() {
        let overload = Overload::default();
        let at = |millis| overload.started + Duration::from_millis(millis);
        assert!(!overload.is_at(at(10_000)), "nobody has looked yet");
        overload.saw(at(0), at(11));
        assert!(!overload.is_at(at(250)));
        assert!(overload.is_at(at(290)), "nobody has looked for long");
        overload.saw(at(11), at(291));
        assert!(overload.is_at(at(292)), "its turn came 270 ms late");
        overload.saw(at(291), at(302));
        assert!(!overload.is_at(at(303)));
    }

    #[test]
    fn only_exchanges_are_refused_and_each_client_can_read_it() {
        let overload = Overload::default();
        let request = |path| Request::builder().uri(path).body(()).unwrap();
        assert!(overload.refuse(&request(oauth::TOKEN)).is_none());
        overload.late.store(1_000_000, Ordering::Relaxed);
        assert!(overload.refuse(&request("/query")).is_none());
        for path in [oauth::TOKEN, rpc::EXCHANGE] {
            let response = overload.refuse(&request(path)).unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }
}
