//! Load: closed (as fast as the answers come) and open (at a fixed rate, whatever comes back).
//!
//! In an open loop a request's latency counts from when it was due, not from when a connection was free to send it: a
//! server that stalls is charged for all who would have come meanwhile.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use crate::client::{Connection, header};

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// How exactly an open loop keeps its times.
const TICK: Duration = Duration::from_micros(100);
/// Every how many granted requests the reference is kept, to be looked up afterwards.
const REFERENCE_EVERY: u64 = 499;
/// How the management API says that there was no time.
const UNAVAILABLE: &[u8] = b"\"code\":\"UNAVAILABLE\"";
/// What an exchange's answer calls its reference.
const REFERENCE: &[u8] = b"x-sallyport-reference";

/// Whole requests, one behind another.
#[derive(Default, Debug)]
pub struct Requests {
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
    /// What the body of a granted one begins with.
    pub granted: &'static str,
}

impl Requests {
    /// None yet, whose granted answers begin so.
    pub const fn new(granted: &'static str) -> Self {
        Self { bytes: Vec::new(), ranges: Vec::new(), granted }
    }

    /// One more.
    pub fn push(&mut self, request: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(request);
        self.ranges.push(start..self.bytes.len());
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        self.ranges.get(index).map(|range| &self.bytes[range.clone()])
    }
}

/// When requests are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Each connection sends its next request once it has the answer to the one before.
    Closed,
    /// So many a second, evenly.
    Open(f64),
}

/// At which end of the counted time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// It is about to begin.
    Begins,
    /// It is over.
    Ended,
}

/// What to do with the requests.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// When they are sent.
    pub pace: Pace,
    /// Over how many connections.
    pub connections: usize,
    /// For how long before anything counts; zero counts the very first request.
    pub warm_up: Duration,
    /// For how long what happens counts.
    pub window: Duration,
    /// Each request once, and then it is over; otherwise from the beginning again.
    pub once: bool,
    /// Whether the load polls when it has nothing to do, instead of sleeping. Whoever sends to a core that sleeps pays for
    /// waking it, some 5 µs on a virtual machine: an answer would cost the server more the less the load has to do.
    pub wakeful: bool,
}

/// What came of one request.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// When it ended (closed loop) or was due (open loop).
    at: Instant,
    latency: Duration,
    status: u16,
}

/// What came of all of them.
#[derive(Default, Debug)]
pub struct Outcome {
    /// How long was counted.
    pub window: Duration,
    /// Granted answers in the window.
    pub granted: u64,
    /// Granted answers in all: each of them must be on record.
    pub granted_in_all: u64,
    /// Latencies of granted answers in the window, shortest first.
    pub latencies: Vec<Duration>,
    /// Latencies of answers 429 and 503 in the window, shortest first.
    pub refusals: Vec<Duration>,
    /// Everything else in the window and outside: other statuses, wrong bodies, broken connections.
    pub errors: u64,
    /// Requests that were sent and not answered: they may be on record.
    pub lost: u64,
    /// Open loop: requests that were due and could not be sent, all connections waiting.
    pub unsent: u64,
    /// References of some granted answers.
    pub references: Vec<String>,
    /// The first error, in words.
    pub first_error: Option<String>,
}

impl Outcome {
    /// Granted answers a second.
    pub fn rate(&self) -> f64 {
        per_second(self.granted, self.window)
    }

    /// As if both had been one.
    pub fn add(&mut self, more: Self) {
        self.window += more.window;
        self.granted += more.granted;
        self.granted_in_all += more.granted_in_all;
        self.errors += more.errors;
        self.lost += more.lost;
        self.unsent += more.unsent;
        self.references.extend(more.references);
        self.first_error = self.first_error.take().or(more.first_error);
        for (latencies, more) in [(&mut self.latencies, more.latencies), (&mut self.refusals, more.refusals)] {
            latencies.extend(more);
            latencies.sort_unstable();
        }
    }
}

/// So many in this time, a second.
#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
pub fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// The latency that this part (0 to 1) of all did not exceed.
pub fn percentile(sorted: &[Duration], part: f64) -> Option<Duration> {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied()
}

struct Shared {
    requests: Arc<Requests>,
    plan: Plan,
    next: AtomicUsize,
    stop: AtomicBool,
    /// Open loop: one permit for each request that is due.
    due: Semaphore,
    slots: AtomicU64,
    began: Instant,
}

impl Shared {
    fn request(&self) -> Option<&[u8]> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let index = if self.plan.once { index } else { index % self.requests.len() };
        self.requests.get(index)
    }

    /// Lets go what is due by now and was not released yet.
    fn release(&self, released: &mut u64) {
        let Pace::Open(rate) = self.plan.pace else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let due = (self.began.elapsed().as_secs_f64() * rate) as u64;
        if let Ok(more @ 1..) = usize::try_from(due - *released) {
            self.due.add_permits(more);
            *released = due;
        }
    }

    fn exhausted(&self) -> bool {
        self.plan.once && self.next.load(Ordering::Relaxed) >= self.requests.len()
    }
}

#[derive(Default)]
struct Tally {
    samples: Vec<Sample>,
    granted: u64,
    errors: u64,
    lost: u64,
    references: Vec<String>,
    first_error: Option<String>,
}

/// Sends the requests to the servers, one connection in turn to each. `mark` is called right before counting begins and
/// right after it ended, is told which, and what it returned comes back.
///
/// # Errors
/// When a connection cannot be opened, `mark` fails, or a worker ends badly.
pub async fn run<M, F>(
    addresses: &[SocketAddr],
    requests: &Arc<Requests>,
    plan: Plan,
    mut mark: impl FnMut(Mark) -> F,
) -> Result<(Outcome, M, M)>
where
    F: Future<Output = Result<M>>,
{
    ensure!(!requests.is_empty() && !addresses.is_empty(), "nothing to send, or nowhere");
    let mut connections = Vec::with_capacity(plan.connections);
    for address in addresses.iter().cycle().take(plan.connections) {
        connections.push((*address, Connection::open(*address).await?));
    }
    // Without a warm-up nothing may be sent before the mark.
    let early = if plan.warm_up.is_zero() { Some(mark(Mark::Begins).await?) } else { None };
    let shared = Arc::new(Shared {
        requests: Arc::clone(requests),
        plan,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        due: Semaphore::new(0),
        slots: AtomicU64::new(0),
        began: Instant::now(),
    });
    let dispatcher = Dispatcher::start(&shared)?;
    let workers: Vec<_> = connections
        .into_iter()
        .map(|(address, connection)| tokio::spawn(work(Arc::clone(&shared), address, connection)))
        .collect();

    let (before, from) = match early {
        Some(before) => (before, shared.began),
        None => {
            sleep(plan.warm_up).await;
            (mark(Mark::Begins).await?, Instant::now())
        }
    };
    let end = from + plan.window;
    while Instant::now() < end && !shared.exhausted() {
        sleep_until(end.min(Instant::now() + Duration::from_millis(10)).into()).await;
    }
    let to = Instant::now();
    let after = mark(Mark::Ended).await?;

    shared.stop.store(true, Ordering::Relaxed);
    let released = dispatcher.finish().await?;
    shared.due.close();
    let mut outcome = Outcome { window: to - from, ..Outcome::default() };
    outcome.unsent = released.saturating_sub(shared.slots.load(Ordering::Relaxed));
    for worker in workers {
        let tally = worker.await.context("a connection's task ended badly")?;
        outcome.granted_in_all += tally.granted;
        outcome.errors += tally.errors;
        outcome.lost += tally.lost;
        outcome.references.extend(tally.references);
        outcome.first_error = outcome.first_error.or(tally.first_error);
        for sample in tally.samples.into_iter().filter(|sample| (from..to).contains(&sample.at)) {
            match sample.status {
                200 => outcome.latencies.push(sample.latency),
                _ => outcome.refusals.push(sample.latency),
            }
        }
    }
    outcome.latencies.sort_unstable();
    outcome.refusals.sort_unstable();
    outcome.granted = u64::try_from(outcome.latencies.len())?;
    Ok((outcome, before, after))
}

/// Lets requests go when they are due.
enum Dispatcher {
    /// In a closed loop nobody has to, unless it polls.
    Nobody,
    /// Where the load polls, whoever polls: another thread would have to wait until that one is made to give up the core.
    Task(JoinHandle<u64>),
    /// A thread and not a task: the runtime's timers tick in milliseconds.
    Thread(std::thread::JoinHandle<u64>),
}

impl Dispatcher {
    fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (shared, plan) = (Arc::clone(shared), shared.plan);
        Ok(match plan.pace {
            _ if plan.wakeful => Self::Task(tokio::spawn(async move {
                let mut released = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    shared.release(&mut released);
                    tokio::task::yield_now().await;
                }
                released
            })),
            Pace::Closed => Self::Nobody,
            Pace::Open(_) => {
                let dispatch = move || {
                    let mut released = 0;
                    while !shared.stop.load(Ordering::Relaxed) {
                        shared.release(&mut released);
                        std::thread::sleep(TICK);
                    }
                    released
                };
                Self::Thread(std::thread::Builder::new().name("dispatcher".to_owned()).spawn(dispatch)?)
            }
        })
    }

    /// How many it let go, when it was told to stop.
    async fn finish(self) -> Result<u64> {
        match self {
            Self::Nobody => Ok(0),
            Self::Task(task) => task.await.context("the dispatcher ended badly"),
            Self::Thread(thread) => thread.join().map_err(|_| anyhow!("the dispatcher ended badly")),
        }
    }
}

async fn work(shared: Arc<Shared>, address: SocketAddr, mut connection: Connection) -> Tally {
    let mut tally = Tally::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let due = match shared.plan.pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => {
                let Ok(permit) = shared.due.acquire().await else { break };
                permit.forget();
                #[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
                let slot = shared.slots.fetch_add(1, Ordering::Relaxed) as f64;
                shared.began + Duration::from_secs_f64(slot / rate)
            }
        };
        let Some(request) = shared.request() else { break };
        let answer = timeout(PATIENCE, connection.call(request)).await;
        let now = Instant::now();
        let at = if shared.plan.pace == Pace::Closed { now } else { due };
        let latency = now.saturating_duration_since(due);
        let wrong = match answer {
            Ok(Ok(answer)) => match answer.status {
                200 if answer.body.starts_with(shared.requests.granted.as_bytes()) => {
                    tally.granted += 1;
                    if tally.granted % REFERENCE_EVERY == 1
                        && let Some(reference) = header(answer.head, REFERENCE)
                    {
                        tally.references.push(String::from_utf8_lossy(reference).into_owned());
                    }
                    tally.samples.push(Sample { at, latency, status: 200 });
                    continue;
                }
                // The management API says so in its answer, whose status is 200 all the same.
                200 if answer.body.windows(UNAVAILABLE.len()).any(|part| part == UNAVAILABLE) => {
                    tally.samples.push(Sample { at, latency, status: 503 });
                    continue;
                }
                status @ (429 | 503) => {
                    tally.samples.push(Sample { at, latency, status });
                    continue;
                }
                status => format!("{status}: {:.300}", String::from_utf8_lossy(answer.body)),
            },
            Ok(Err(error)) => {
                tally.lost += 1;
                format!("{error:#}")
            }
            Err(_) => {
                tally.lost += 1;
                format!("no answer within {PATIENCE:?}")
            }
        };
        tally.errors += 1;
        tally.first_error.get_or_insert(wrong);
        // After a broken connection, a new one; after an answer that was read whole, a new one does no harm.
        match Connection::open(address).await {
            Ok(new) => connection = new,
            Err(error) => {
                tally.first_error.get_or_insert(format!("{error:#}"));
                break;
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_add_up() {
        let millis = |all: &[u64]| all.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let round = |granted, latencies: &[u64]| Outcome {
            window: Duration::from_secs(2),
            granted,
            latencies: millis(latencies),
            ..Outcome::default()
        };
        let mut both = round(2, &[1, 9]);
        both.add(Outcome { errors: 1, first_error: Some("no answer".to_owned()), ..round(1, &[5]) });
        assert!((both.rate() - 0.75).abs() < 1e-9);
        assert_eq!((both.latencies, both.errors), (millis(&[1, 5, 9]), 1));
        assert_eq!(both.first_error.as_deref(), Some("no answer"));
    }

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let seen: Vec<_> = (1..=1_000).map(Duration::from_micros).collect();
        let at = |part| percentile(&seen, part).unwrap().as_micros();
        assert_eq!((at(0.5), at(0.99), at(0.999), at(1.0)), (500, 990, 999, 1_000));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&seen[..1], 0.01), Some(Duration::from_micros(1)));
    }
}
