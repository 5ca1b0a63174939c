//! Clocks that disagree: an issuer's with a server's, a replica's with its neighbour's, and one that jumps.
//!
//! The jump is real: the server runs with a small library (`fixtures/skewed_clock.c`) that adds to its wall clock what a
//! file says. Every decision is judged by the clock of the replica that took it, in the interval between question and
//! answer: nothing is accepted that was outside domain.md's leeway all that time, nothing refused that was inside.

use std::process::Command;
use std::time::Duration;

use futures::StreamExt as _;
use sallyport_testkit::Postgres;
use serde_json::json;

use super::report::Fault;
use super::{Door, Gate, RECOVERY, Stage, scenario};
use crate::support::{Setup, World, eventually};

/// Credentials handed out at each setting of the clock.
const BETWEEN: u64 = 10;
/// Seconds by which clocks may differ (domain.md).
const LEEWAY: f64 = 30.0;
/// Seconds that must remain at the RPC door (domain.md).
const REMAINING: f64 = 180.0;
/// What the clock of the second replica is set to, in seconds ahead of the first's: within the leeway, at its edges, far.
const AHEAD: [i64; 7] = [10, -10, 29, -31, 300, -300, 0];
/// How far tokens are dated ahead of the server's clock.
const DATED: [i64; 8] = [-3_600, -29, 0, 27, 29, 31, 33, 300];
/// How long tokens still last by the server's clock.
const LASTING: [i64; 9] = [-3_600, -33, -31, -29, -27, 0, 178, 181, 185];

/// A wall clock that can be set.
struct Clock {
    file: std::path::PathBuf,
}

impl Clock {
    /// Has a server to be run by this clock.
    fn of(setup: &mut Setup) -> Self {
        let library = setup.path("skewed_clock.so");
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/skewed_clock.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
        let compiled = compiled.expect("a C compiler, as for the build itself");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let clock = Self { file: setup.path("clock") };
        std::fs::write(&clock.file, 0_i64.to_ne_bytes()).expect("the clock's file");
        setup.set("LD_PRELOAD", &library.display().to_string());
        setup.set("SKEWED_CLOCK", &clock.file.display().to_string());
        clock
    }

    /// Sets it, and waits until the server goes by it.
    async fn set(&self, server: &World, ahead: i64) {
        use std::io::Write as _;
        // Not truncated: the server has it mapped.
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.file).expect("the clock's file");
        file.write_all(&ahead.to_ne_bytes()).expect("the clock is set");
        eventually("the server goes by its clock", RECOVERY, async || {
            let answer = server.rpc("Health/Check", "{}", None).await.json();
            let says = answer["time"].as_str().expect("a time");
            let says = time::OffsetDateTime::parse(says, &time::format_description::well_known::Rfc3339);
            let off = says.expect("RFC 3339").unix_timestamp() - crate::support::now() - ahead;
            (off.abs() <= 5).then_some(())
        })
        .await;
    }
}

/// Unix time with its fractions.
#[expect(clippy::disallowed_methods, reason = "the tests' own clock: the server under test has another")]
fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a date after 1970");
    since.as_secs_f64()
}

/// Presents tokens dated around what the replica's clock says, and judges each answer.
async fn probe(stage: &Stage, replica: &World, gate: &Gate, ahead: i64) {
    let times = DATED.map(|dated| (dated, dated + 600)).into_iter().chain(LASTING.map(|lasting| (-600, lasting)));
    let probes = times.flat_map(|(dated, lasting)| Door::ALL.map(|door| (door, dated, lasting)));
    let judged = probes.map(|(door, dated, lasting)| async move {
        let before = now() + ahead as f64;
        #[expect(clippy::cast_possible_truncation, reason = "Unix time in seconds")]
        let clock = before.floor() as i64;
        let (status, _) = gate
            .attempt_at(&replica.server.url, door, &stage.ledger, |claims| {
                claims["iat"] = json!(clock + dated);
                claims["nbf"] = json!(clock + dated);
                claims["exp"] = json!(clock + lasting);
            })
            .await;
        let after = now() + ahead as f64;
        let fits = |at: f64| {
            let ends = (clock + lasting) as f64;
            let in_time = if door == Door::KeyPair { ends > at + REMAINING } else { ends + LEEWAY > at };
            in_time && (clock + dated) as f64 <= at + LEEWAY
        };
        // Between the two the answer may be either: time passes while it is decided.
        let allowed = match status.expect("an answer") {
            200 => fits(before) || fits(after),
            400 | 401 => !fits(before) || !fits(after),
            _ => false,
        };
        assert!(allowed, "{door:?}: clock {ahead} s ahead, dated {dated} s, lasting {lasting} s: {status:?}");
    });
    futures::stream::iter(judged).buffer_unordered(8).collect::<()>().await;
}

#[test]
fn clocks_that_disagree_or_jump_let_nobody_in_and_lose_no_record() {
    scenario(Fault::ClockJumps, async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(postgres)).await;
        let mut clock = None;
        let two = one.replica_with(|setup| clock = Some(Clock::of(setup))).await;
        let clock = clock.expect("a clock");
        let mut stage = Stage::new(Fault::ClockJumps, 1, &one).await;
        while stage.rounds.more() {
            let gate = stage.gate(&one).await;
            let load = stage.load(&gate, &[&one, &two]);
            stage.end_something(&two).await;
            for ahead in AHEAD {
                clock.set(&two, ahead).await;
                tokio::join!(probe(&stage, &one, &gate, 0), probe(&stage, &two, &gate, ahead));
                stage.granted(BETWEEN).await;
                if ahead.abs() <= 10 {
                    // What a replica within the leeway handed out is good at the other, and the other way round.
                    for (from, to) in [(&one, &two), (&two, &one)] {
                        for door in Door::ALL {
                            let (status, credential) = gate.attempt(&from.server.url, door, &stage.ledger).await;
                            let credential = credential.unwrap_or_else(|| panic!("{door:?}: {status:?}"));
                            assert_eq!(
                                super::ended::present(to, &credential).await,
                                Some(200),
                                "{door:?}, {ahead} s ahead"
                            );
                        }
                    }
                }
            }
            load.stop().await;
            stage.conclude(&[&one, &two], &gate, Duration::ZERO).await;
        }
        stage.finish(&[&one, &two]).await;
    });
}
