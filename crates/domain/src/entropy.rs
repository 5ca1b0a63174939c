//! Chance as an argument: ids and secrets are drawn through [`Entropy`], so that tests can repeat them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::clock::Timestamp;

/// A source of unpredictable bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out` completely.
    fn fill(&self, out: &mut [u8]);
}

/// A fresh UUIDv7 (RFC 9562 section 5.7): `now` in milliseconds, then random bits.
pub fn uuid_v7(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0_u8; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.micros() / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// The operating system's generator; what ids need of it is fetched for some fifty of them at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

/// Up to how many bytes come from what was fetched before: as many as a UUID has. A secret and a nonce have more. They are not
/// in memory before they are made, where a copy of the machine would find them too.
const SHORT: usize = 10;

/// Bytes of the system's generator, each for one use.
struct Fetched {
    bytes: [u8; 512],
    left: usize,
}

thread_local! {
    static FETCHED: RefCell<Fetched> = const { RefCell::new(Fetched { bytes: [0; 512], left: 0 }) };
}

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        if out.len() > SHORT {
            return ask_the_system(out);
        }
        FETCHED.with_borrow_mut(|fetched| {
            if fetched.left < out.len() {
                ask_the_system(&mut fetched.bytes);
                fetched.left = fetched.bytes.len();
            }
            let from = fetched.left - out.len();
            let given = &mut fetched.bytes[from..fetched.left];
            out.copy_from_slice(given);
            given.fill(0);
            fetched.left = from;
        });
    }
}

#[expect(
    clippy::expect_used,
    reason = "without the kernel's generator no secret may be made: stopping is the only safe answer"
)]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's generator")]
fn ask_the_system(out: &mut [u8]) {
    getrandom::fill(out).expect("the operating system's random generator answers");
}

/// A repeatable sequence for tests; never for a running server.
#[derive(Debug, Default)]
pub struct SequenceEntropy(AtomicU64);

impl Entropy for SequenceEntropy {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            // SplitMix64's finaliser spreads a counter over all bits.
            let mut x = self.0.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let bytes = (x ^ (x >> 31)).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_twice() {
        let draw = || {
            (0..400).map(|n| {
                let mut bytes = vec![0; 8 + n % 6];
                SystemEntropy.fill(&mut bytes);
                bytes
            })
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || draw().collect::<Vec<_>>())).collect();
        let all: Vec<Vec<u8>> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let eights: HashSet<&[u8]> = all.iter().map(|bytes| &bytes[..8]).collect();
        assert_eq!(eights.len(), all.len());
    }
}
