//! When there is more to do than can be done: new exchanges are refused at once, so that those under way are finished.
//!
//! What is watched is how many wait to be recorded, and how late a task gets its turn. These grow with everything that the
//! database or the processor cannot keep up with, and with nothing that merely waits: exchanges that stand before a stuck
//! issuer, however many, keep nobody out.
//!
//! A rush finds room for all that two commits can take. Where it does not end and the processor is what has no time, fewer may
//! wait: no more is granted for a longer queue, everybody in it only waits longer, and what it holds is missing in the
//! processor's caches. Where the database is what everybody waits for, the room stays, for there a longer queue makes commits
//! larger.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
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
/// So many may wait for each thread of the runtime, however long there is too much to do. With fewer, commits become so small
/// that each costs more of the processor.
const LEAST: usize = 64;
/// A turn that comes sooner than this came to a processor that had time. Timers are a millisecond late by themselves.
const PUNCTUAL: Duration = Duration::from_millis(2);
/// A turn that comes later than this is late. About a thousand exchanges are waiting then.
const LATE: Duration = Duration::from_millis(100);
/// How many late turns after each other are overload: one alone is a machine that stood still for a moment.
const TURNS: u32 = 2;
/// How long after one turn the next is asked for.
const PAUSE: Duration = Duration::from_millis(10);

/// How late turns come, and how many may wait.
#[derive(Debug)]
pub struct Overload {
    /// How many in a row came late.
    late: AtomicU32,
    /// How many may wait to be recorded.
    room: AtomicUsize,
    /// Whether somebody was refused since the last turn.
    refused: AtomicBool,
}

impl Default for Overload {
    fn default() -> Self {
        Self { late: AtomicU32::new(0), room: AtomicUsize::new(WAITING), refused: AtomicBool::new(false) }
    }
}

impl Overload {
    /// Watches for ever, in a task of its own.
    pub async fn watch(&self) {
        let least = LEAST * tokio::runtime::Handle::current().metrics().num_workers();
        loop {
            let asked = Instant::now();
            tokio::time::sleep(PAUSE).await;
            // Behind all tasks that are ready.
            tokio::task::yield_now().await;
            self.saw(asked.elapsed().saturating_sub(PAUSE), least);
        }
    }

    /// A turn came so late; the room is never less than `least`. This alone writes what it reads, but for `refused`.
    fn saw(&self, lateness: Duration, least: usize) {
        let late = if lateness > LATE { self.late.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.late.store(late, Ordering::Relaxed);
        let refused = self.refused.swap(false, Ordering::Relaxed);
        let room = self.room.load(Ordering::Relaxed);
        let room = match (lateness < PUNCTUAL, refused) {
            (true, _) => room + room / 4,
            (false, true) => room - room / 4,
            (false, false) => room,
        };
        self.room.store(room.clamp(least.min(WAITING), WAITING), Ordering::Relaxed);
    }

    /// Whether an exchange that comes now is one too many, where so many wait to be recorded.
    pub fn is_full(&self, waiting: usize) -> bool {
        let full = self.late.load(Ordering::Relaxed) >= TURNS || waiting > self.room.load(Ordering::Relaxed);
        if full {
            self.refused.store(true, Ordering::Relaxed);
        }
        full
    }
}

/// The answers to exchanges that there is no time for: a 503 that costs next to nothing, without a reference, for it has become no
/// attempt.
#[derive(Debug)]
pub struct Refusals {
    oauth: Prepared,
    rpc: [Prepared; 2],
}

impl Refusals {
    /// Puts them together, once. What every other answer passes on its way out, `finish` is to do to them.
    pub fn new(finish: impl Fn(&mut Response)) -> Self {
        const WORDS: &str = "there is more to do than can be done just now; try again in a second";
        let prepared = |mut response: Response| {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            finish(&mut response);
            Prepared::of(response)
        };
        Self {
            oauth: prepared(oauth::unavailable(WORDS)),
            rpc: Encoding::ALL.map(|encoding| prepared(rpc::unavailable(encoding, WORDS))),
        }
    }

    /// Refuses an exchange of these headers, and counts it.
    pub fn refuse(&self, door: Protocol, headers: &HeaderMap) -> Response {
        REFUSED.increment(1);
        match door {
            Protocol::Oauth => self.oauth.response(),
            Protocol::Rpc => self.rpc[Encoding::of_response(headers) as usize].response(),
        }
    }
}

/// What is the same in each such answer.
#[derive(Debug)]
struct Prepared {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        // It is all there, so there is nothing to wait for.
        let body = to_bytes(body, usize::MAX).now_or_never().and_then(Result::ok).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body }
    }

    fn response(&self) -> Response {
        let mut response = Response::new(self.body.clone().into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(overload: &Overload, count: usize, millis: u64) {
        for _ in 0..count {
            overload.saw(Duration::from_millis(millis), LEAST);
        }
    }

    /// How many may wait.
    fn room(overload: &Overload) -> usize {
        (0..).find(|waiting| overload.is_full(waiting + 1)).unwrap()
    }

    #[test]
    fn late_turns_are_overload_and_it_ends_by_itself() {
        let overload = Overload::default();
        let after = |millis| {
            turns(&overload, 1, millis);
            overload.is_full(0)
        };
        assert_eq!(
            [0, 100, 3_000, 1, 101, 500, 101, 100].map(after),
            [false, false, false, false, false, true, true, false]
        );
    }

    #[test]
    fn both_causes_refuse() {
        let overload = Overload::default();
        assert_eq!([0, WAITING, WAITING + 1].map(|waiting| overload.is_full(waiting)), [false, false, true]);
        turns(&overload, 2, 101);
        assert!(overload.is_full(0));
    }

    #[test]
    fn there_is_less_room_while_a_busy_processor_refuses() {
        let overload = Overload::default();
        // Busy, and nobody is refused.
        turns(&overload, 100, 50);
        assert_eq!(room(&overload), WAITING);
        // Who asked for the room was refused at its end.
        turns(&overload, 1, 50);
        assert_eq!(room(&overload), WAITING - WAITING / 4);
        for _ in 0..20 {
            assert!(overload.is_full(WAITING));
            turns(&overload, 1, 2);
        }
        assert_eq!(room(&overload), LEAST);
    }

    #[test]
    fn all_the_room_is_back_once_the_processor_has_time() {
        let overload = Overload::default();
        for _ in 0..20 {
            assert!(overload.is_full(WAITING + 1));
            turns(&overload, 1, 50);
        }
        assert_eq!(room(&overload), LEAST);
        turns(&overload, 20, 1);
        assert_eq!(room(&overload), WAITING);
    }

    /// A database that keeps everybody waiting needs no processor.
    #[test]
    fn a_slow_database_takes_no_room() {
        let overload = Overload::default();
        for _ in 0..100 {
            assert!(overload.is_full(WAITING + 1));
            turns(&overload, 1, 1);
        }
        assert_eq!(room(&overload), WAITING);
    }

    #[test]
    fn many_threads_have_all_the_room() {
        let overload = Overload::default();
        for _ in 0..100 {
            assert!(overload.is_full(WAITING + 1));
            overload.saw(Duration::from_millis(50), 16 * LEAST);
        }
        assert_eq!(room(&overload), WAITING);
    }

    #[test]
    fn each_client_can_read_its_refusal() {
        const FINISHED: &str = "x-finished";
        let refusals = Refusals::new(|response| {
            response.headers_mut().insert(FINISHED, HeaderValue::from_static("yes"));
        });
        for door in Protocol::ALL {
            let response = refusals.refuse(door, &HeaderMap::new());
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!([header::RETRY_AFTER.as_str(), FINISHED].map(|name| &response.headers()[name]), ["1", "yes"]);
            let json = to_bytes(response.into_body(), 1_024).now_or_never().unwrap().unwrap();
            assert!(String::from_utf8_lossy(&json).contains("try again in a second"));
        }
        let protobuf = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/protobuf"))]);
        let response = refusals.refuse(Protocol::Rpc, &protobuf);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            rpc::unavailable(Encoding::Protobuf, "").headers()[header::CONTENT_TYPE]
        );
    }
}
