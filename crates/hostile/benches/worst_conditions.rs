//! The admitted conditions that take longest: those that are known, and what a search finds.
//!
//! `cargo bench -p sallyport-hostile --bench worst_conditions` measures the known ones and searches for a minute;
//! `-- 600` searches for ten. `-- '<expression>'` measures that expression alone.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sallyport_domain::condition::Condition;
use sallyport_hostile::condition::{largest_claims, on_worker_stack, timed};
use sallyport_hostile::expression::expression;
use sallyport_hostile::worst::{OPERATIONS, amplified};

/// What no admitted condition may take.
const PROMISED: Duration = Duration::from_millis(50);
/// How many of the worst are shown.
const SHOWN: usize = 20;

struct Measured {
    source: String,
    cost: u32,
    /// Of the claims on which it takes longest: the median of several evaluations.
    time: Duration,
}

fn main() -> ExitCode {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let seconds = match argument.as_deref().map(str::parse::<u64>) {
        None => 60,
        Some(Ok(seconds)) => seconds,
        Some(Err(_)) => return one(&argument.unwrap_or_default()),
    };
    let mut all: Vec<Measured> = OPERATIONS.iter().filter_map(|operation| worst_around(operation)).collect();
    println!("{} costly operations, each in the largest conditions around it that are admitted", all.len());
    all.extend(search(Duration::from_secs(seconds)));
    all.sort_by_key(|measured| std::cmp::Reverse(measured.time));
    println!("{:>8}  {:>10}  {:>8}  condition", "steps", "time", "ns/step");
    all.iter().take(SHOWN).for_each(print);
    all.sort_by_key(|measured| std::cmp::Reverse(per_step(measured)));
    println!("\nthe most time a step, of those that take half a millisecond at least");
    all.iter().filter(|measured| measured.time > Duration::from_micros(500)).take(SHOWN).for_each(print);
    all.sort_by_key(|measured| std::cmp::Reverse(measured.time));
    let Some(worst) = all.first() else { return ExitCode::FAILURE };
    println!("\nthe worst admitted condition takes {:.1} ms of processor time", worst.time.as_secs_f64() * 1e3);
    if worst.time < PROMISED { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(source: &str) -> ExitCode {
    let condition = match Condition::compile("condition", source) {
        Ok(condition) => condition,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for (number, claims) in largest_claims().iter().enumerate() {
        let mut times: Vec<Duration> = (0..9).map(|_| timed(&condition, claims).1).collect();
        times.sort();
        println!("claims {number}: {:?}, at {} steps", times[times.len() / 2], condition.cost());
    }
    ExitCode::SUCCESS
}

fn print(measured: &Measured) {
    let Measured { source, cost, time } = measured;
    let per_step = per_step(measured);
    let source: String =
        if source.len() > 160 { source.chars().take(160).chain("…".chars()).collect() } else { source.clone() };
    println!("{cost:>8}  {:>7.2} ms  {per_step:>8}  {source}", time.as_secs_f64() * 1e3);
}

fn per_step(measured: &Measured) -> u128 {
    measured.time.as_nanos() / u128::from(measured.cost).max(1)
}

/// Of the largest conditions around an operation, the one that takes longest.
fn worst_around(operation: &'static str) -> Option<Measured> {
    let rough = amplified(operation).filter_map(|source| measure(&source, 1));
    let longest = rough.max_by_key(|measured| measured.time)?;
    measure(&longest.source, 9)
}

/// `None` when it is not admitted. On the stack of a worker, so that an overflow shows.
fn measure(source: &str, rounds: usize) -> Option<Measured> {
    on_worker_stack(|| {
        let condition = Condition::compile("condition", source).ok()?;
        let slowest = largest_claims().iter().map(|claims| {
            let mut times: Vec<Duration> = (0..rounds).map(|_| timed(&condition, claims).1).collect();
            times.sort();
            times[rounds / 2]
        });
        Some(Measured { source: source.to_owned(), cost: condition.cost(), time: slowest.max().unwrap_or_default() })
    })
}

/// What a search is after.
#[derive(Clone, Copy)]
enum Aim {
    /// The longest time.
    Time,
    /// The longest time for its static cost: what admission counts too low.
    Undercounted,
}

impl Aim {
    fn score(self, measured: &Measured) -> u128 {
        let nanos = measured.time.as_nanos();
        match self {
            Self::Time => nanos,
            // What is over at once says nothing.
            Self::Undercounted if nanos < 200_000 => 0,
            Self::Undercounted => nanos * 1_000 / u128::from(measured.cost).max(1),
        }
    }
}

/// Changes the best so far a little, over and over, and keeps what scores higher. Begins anew now and then, since what
/// is best soon looks all alike.
fn search(duration: Duration) -> Vec<Measured> {
    const KEPT: usize = 12;
    const ROUNDS: u32 = 8;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut found = Vec::new();
    let (mut tried, mut admitted) = (0_u64, 0_u64);
    for round in 0..ROUNDS {
        let aim = if round % 2 == 0 { Aim::Time } else { Aim::Undercounted };
        let mut kept: Vec<(Vec<u8>, Measured)> = Vec::new();
        let started = Instant::now();
        while started.elapsed() < duration / ROUNDS {
            tried += 1;
            let bytes = match kept.len() {
                0 => random.bytes(),
                // Now and then something new.
                _ if random.below(8) == 0 => random.bytes(),
                count => {
                    let (parent, other) = (random.below(count), random.below(count));
                    random.changed(&kept[parent].0, &kept[other].0)
                }
            };
            let source = expression(&bytes);
            if kept.iter().any(|(_, known)| known.source == source) {
                continue;
            }
            let Some(first) = measure(&source, 1) else { continue };
            admitted += 1;
            let bar = kept.get(KEPT - 1).map_or(0, |(_, last)| aim.score(last));
            if aim.score(&first) <= bar {
                continue;
            }
            // Once may be chance.
            let Some(again) = measure(&source, 3) else { continue };
            kept.push((bytes, again));
            kept.sort_by_key(|(_, measured)| std::cmp::Reverse(aim.score(measured)));
            kept.truncate(KEPT);
        }
        found.extend(kept.into_iter().take(3).filter_map(|(_, found)| measure(&found.source, 9)));
    }
    println!("searched {} s: {tried} expressions, {admitted} admitted", duration.as_secs());
    found
}

/// xorshift64*: the same search each time, as far as times allow.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap_or_default() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = 8 + self.below(120);
        (0..length).map(|_| self.byte()).collect()
    }

    fn changed(&mut self, parent: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = parent.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(5) {
                0 => bytes.insert(at.min(bytes.len()), self.byte()),
                1 if bytes.len() > 1 => {
                    bytes.remove(at);
                }
                // The end of another.
                2 if !other.is_empty() => {
                    let from = self.below(other.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                    bytes.truncate(400);
                }
                3 => {
                    let copied = bytes[at.min(bytes.len() - 1)..].to_vec();
                    bytes.extend(copied);
                    bytes.truncate(400);
                }
                _ if !bytes.is_empty() => bytes[at] = self.byte(),
                _ => bytes.push(self.byte()),
            }
        }
        bytes
    }
}
