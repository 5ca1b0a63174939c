//! When there is more to do than can be done: new exchanges are refused at once, so that those under way are finished.
//!
//! What is watched is how many wait to be recorded, and how late a task gets its turn. These grow with everything that the
//! database or the processor cannot keep up with, and with nothing that merely waits: exchanges that stand before a stuck
//! issuer, however many, keep nobody out.
//!
//! How many may wait goes by how busy the runtime's threads are. A rush finds room for all that two commits can take. Where it
//! does not end and the processor is what has no time, fewer may wait: hardly more is granted for a longer queue, everybody in it
//! waits longer, and what it holds is missing in the processor's caches. Where the processor has time to spare, the room stays:
//! what everybody waits for is the database then, and a longer queue makes its commits larger.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::FutureExt as _;
use metrics::Counter;
use sallyport_domain::exchange::Protocol;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::rpc::Encoding;
use crate::shedding::Asked;
use crate::{oauth, rpc};

/// Looked up once: the recorder of metrics is installed before the first request, and stays.
static REFUSED: LazyLock<Counter> = LazyLock::new(
    || metrics::counter!("sallyport_exchanges_total", "outcome" => "unavailable", "reason" => "overload"),
);

/// When so many wait to be recorded, the commit under way and the next one are full.
const WAITING: usize = 512;
/// So many may wait for each thread of the runtime, however long there is too much to do; that is all of them where there are
/// eight threads. With fewer, commits become so small that each costs more of the processor.
const LEAST: usize = 64;
/// Threads that are busy for a larger part of their time have none to spare: the rest goes by while they look at the network.
const SATURATED: f64 = 0.9;
/// What the last turn makes of that part; the rest is what it was before. So a rush that comes to a server with time to spare finds
/// all the room for a tenth of a second.
const SHARE: f64 = 0.2;
/// A turn that comes later than this is late. On a slow core a few hundred key pairs that come together take half of it: nobody is
/// to be refused for what is done in a moment.
const LATE: Duration = Duration::from_millis(200);
/// How many late turns after each other are overload: one alone is a machine that stood still for a moment.
const TURNS: u32 = 2;
/// How long after one turn the next is asked for.
const PAUSE: Duration = Duration::from_millis(10);

/// How many exchanges each thread of the runtime may refuse in a second and listen to their clients again at once: a third of its
/// time, and more on a slow core. At twice what it can do, it needs fewer.
const REFUSALS: u32 = 25_000;
/// So much of these may be had at once, when fewer were needed before.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Longest time that a client who was refused is not listened to: after so long it is asked to come again.
const UNHEARD: Duration = Duration::from_secs(1);

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
        let runtime = Handle::current().metrics();
        let threads = runtime.num_workers();
        let busy = || (0..threads).map(|thread| runtime.worker_total_busy_duration(thread)).sum::<Duration>();
        let (mut busy_before, mut usual) = (busy(), 0.0);
        loop {
            let asked = Instant::now();
            sleep(PAUSE).await;
            // Behind tasks that are ready, some sixty of them.
            yield_now().await;
            let (took, busy_now) = (asked.elapsed(), busy());
            self.saw(took.saturating_sub(PAUSE));
            // Some 1 when all of them are busy.
            #[expect(clippy::cast_precision_loss, reason = "there are never 2^52 threads")]
            let busy_part = busy_now.saturating_sub(busy_before).as_secs_f64() / (took.as_secs_f64() * threads as f64);
            usual += (busy_part - usual) * SHARE;
            self.adapt(usual > SATURATED, LEAST * threads);
            busy_before = busy_now;
        }
    }

    /// A turn came so late.
    fn saw(&self, lateness: Duration) {
        let late = if lateness > LATE { self.late.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.late.store(late, Ordering::Relaxed);
    }

    /// Makes the room smaller while somebody is refused for want of it and the processor is saturated, and larger otherwise.
    fn adapt(&self, saturated: bool, least: usize) {
        let (before, refused) = (self.room(), self.refused.swap(false, Ordering::Relaxed));
        let room = match (saturated, refused) {
            (true, true) => before - before / 4,
            (true, false) => before + before / 16,
            (false, _) => before + before / 4,
        };
        let room = room.clamp(least.min(WAITING), WAITING);
        if room != before {
            self.room.store(room, Ordering::Relaxed);
        }
    }

    /// How many may wait to be recorded.
    pub fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    /// Whether there is more to do than can be done, where so many wait to be recorded.
    pub fn is_there(&self, waiting: usize) -> bool {
        waiting > self.room() || self.late.load(Ordering::Relaxed) >= TURNS
    }

    /// Whether an exchange that comes now is one too many, where so many wait to be recorded; it is to be refused then.
    pub fn refuses(&self, waiting: usize) -> bool {
        if waiting > self.room() {
            self.refused.store(true, Ordering::Relaxed);
            return true;
        }
        self.late.load(Ordering::Relaxed) >= TURNS
    }
}

/// How much of the time goes by with refusing. Whoever comes again as soon as it was refused could take all of it otherwise, and the
/// more of these there are, the less would be granted to anybody.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// What each refusal takes of the time.
    each: Duration,
    /// Up to when the time is taken, in nanoseconds since it began.
    taken: AtomicU64,
}

impl Pace {
    /// Of a runtime with so many threads.
    pub fn new(threads: usize) -> Self {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        Self { began: Instant::now(), each: Duration::from_secs(1) / REFUSALS / threads, taken: AtomicU64::new(0) }
    }

    /// One more is refused now: until when its client is not to be listened to. `None`: as soon as it says something.
    pub fn refused(&self, now: Instant) -> Option<Instant> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let since = nanos(now.saturating_duration_since(self.began));
        let (earliest, latest) = (since.saturating_sub(nanos(AT_ONCE)), since.saturating_add(nanos(UNHEARD)));
        let take = |taken: u64| taken.max(earliest).saturating_add(nanos(self.each)).min(latest);
        let before = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| Some(take(taken)));
        let ahead = take(before.unwrap_or_else(|taken| taken)).saturating_sub(since);
        (ahead > 0).then(|| now + Duration::from_nanos(ahead))
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
        self.take(door, Encoding::of_response(headers)).response()
    }

    /// The same for one of which nobody has made a request yet: the whole answer in HTTP/1.1, with this header besides and
    /// without a date, which a 503 need not have (RFC 9110 section 6.6.1).
    pub fn write(&self, asked: &Asked<'_>, header: (&HeaderName, &HeaderValue)) -> Vec<u8> {
        self.take(asked.door, asked.encoding).bytes(header)
    }

    fn take(&self, door: Protocol, encoding: Encoding) -> &Prepared {
        REFUSED.increment(1);
        match door {
            Protocol::Oauth => &self.oauth,
            Protocol::Rpc => &self.rpc[encoding as usize],
        }
    }
}

/// What is the same in each such answer.
#[derive(Debug)]
struct Prepared {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// The beginning of its bytes, and their end, between which there is room for a header.
    written: [Vec<u8>; 2],
}

impl Prepared {
    fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        // It is all there, so there is nothing to wait for.
        let body = to_bytes(body, usize::MAX).now_or_never().and_then(Result::ok).unwrap_or_default();
        let mut begin = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", parts.status, body.len()).into_bytes();
        for (name, value) in &parts.headers {
            begin.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let written = [begin, [b"\r\n\r\n", &body[..]].concat()];
        Self { status: parts.status, headers: parts.headers, body, written }
    }

    fn bytes(&self, (name, value): (&HeaderName, &HeaderValue)) -> Vec<u8> {
        let [begin, end] = &self.written;
        [&begin[..], name.as_str().as_bytes(), b": ", value.as_bytes(), end].concat()
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
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;

    /// On a clock that goes only when it is told to, so that turns come exactly as late as is said here.
    #[tokio::test(start_paused = true)]
    async fn whoever_watches_sees_late_turns_and_gives_the_room_back() {
        let overload = Arc::new(Overload::default());
        let watched = Arc::clone(&overload);
        let watching = tokio::spawn(async move { watched.watch().await });
        let turn = async |late: Duration| {
            // Its pause begins; it is over by so much; it has let others go first.
            yield_now().await;
            advance(PAUSE + late).await;
            yield_now().await;
            yield_now().await;
            overload.refuses(0)
        };
        for (late, refused) in
            [(0, false), (201, false), (0, false), (200, false), (200, false), (201, false), (201, true), (0, false)]
        {
            assert_eq!(turn(Duration::from_millis(late)).await, refused, "{late}");
        }
        // Nobody waits for the processor here: what the room has lost comes back, though somebody is refused. The threads' busy time
        // is real, so a machine that stands still may take some of it away once more.
        overload.room.store(LEAST, Ordering::Relaxed);
        let mut turns = 0..1_000;
        while overload.room() < WAITING {
            assert!(turns.next().is_some() && overload.refuses(WAITING + 1));
            turn(Duration::ZERO).await;
        }
        watching.abort();
    }

    /// As many turns, with somebody refused in each.
    fn refusing(overload: &Overload, turns: usize, saturated: bool, least: usize) {
        for _ in 0..turns {
            assert!(overload.refuses(WAITING + 1));
            overload.adapt(saturated, least);
        }
    }

    #[test]
    fn late_turns_are_overload_and_it_ends_by_itself() {
        let overload = Overload::default();
        let after = |millis| {
            overload.saw(Duration::from_millis(millis));
            overload.refuses(0)
        };
        assert_eq!(
            [0, 200, 3_000, 1, 201, 500, 201, 200].map(after),
            [false, false, false, false, false, true, true, false]
        );
        // It was not the room that they lacked.
        overload.adapt(true, LEAST);
        assert_eq!(overload.room(), WAITING);
    }

    #[test]
    fn so_many_may_wait_and_no_more() {
        let overload = Overload::default();
        assert_eq!([0, WAITING, WAITING + 1].map(|waiting| overload.refuses(waiting)), [false, false, true]);
        overload.adapt(true, LEAST);
        let room = overload.room();
        assert!(room < WAITING);
        assert_eq!([room, room + 1].map(|waiting| overload.refuses(waiting)), [false, true]);
    }

    #[test]
    fn fewer_may_wait_while_a_saturated_processor_refuses() {
        let overload = Overload::default();
        refusing(&overload, 3, true, LEAST);
        assert_eq!(overload.room(), 216);
        refusing(&overload, 5, true, LEAST);
        assert_eq!(overload.room(), LEAST);
        let of_three_threads = Overload::default();
        refusing(&of_three_threads, 100, true, 3 * LEAST);
        assert_eq!(of_three_threads.room(), 3 * LEAST);
        let of_many_threads = Overload::default();
        refusing(&of_many_threads, 100, true, 16 * LEAST);
        assert_eq!(of_many_threads.room(), WAITING);
    }

    #[test]
    fn all_the_room_comes_back() {
        // The processor has time, and soon.
        let overload = Overload::default();
        refusing(&overload, 10, true, LEAST);
        refusing(&overload, 10, false, LEAST);
        assert_eq!(overload.room(), WAITING);
        // It has none, but nobody is refused any more.
        refusing(&overload, 10, true, LEAST);
        for _ in 0..9 {
            overload.adapt(true, LEAST);
        }
        assert!(overload.room() < WAITING / 4);
        for _ in 0..40 {
            overload.adapt(true, LEAST);
        }
        assert_eq!(overload.room(), WAITING);
    }

    #[test]
    fn where_the_processor_has_time_the_room_stays() {
        let overload = Overload::default();
        refusing(&overload, 100, false, LEAST);
        assert_eq!(overload.room(), WAITING);
    }

    #[test]
    fn who_comes_again_at_once_is_not_listened_to_for_a_while() {
        let pace = Pace::new(2);
        let now = pace.began + Duration::from_secs(5);
        let at_once = AT_ONCE.as_secs_f64() * f64::from(REFUSALS) * 2.0;
        let refuse = |now: Instant, times: usize| (0..times).map(|_| pace.refused(now)).last().unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 5,000")]
        let at_once = at_once as usize;
        assert_eq!(refuse(now, at_once), None);
        assert_eq!(refuse(now, 4), Some(now + 4 * pace.each));
        // So many are refused in the time of so many.
        let later = now + 2 * pace.each;
        assert_eq!(refuse(later, 2), Some(later + 4 * pace.each));
        // However many there are, and until there are none.
        assert_eq!(refuse(later, 100_000), Some(later + UNHEARD));
        let rested = later + UNHEARD;
        assert_eq!(refuse(rested, 1), Some(rested + pace.each));
        let rested = rested + Duration::from_secs(5);
        assert_eq!(refuse(rested, at_once), None);
        assert!(refuse(rested, 1).is_some());
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
