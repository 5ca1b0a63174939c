//! Story: faults. The server is killed, paused, cut off, starved and lied to while workloads exchange tokens through both
//! doors. Afterwards it is checked from outside, through `listExchanges` and the doors themselves, that every credential
//! handed out has its record, that no record was invented, that whatever was revoked, removed or disabled stays so on every
//! replica, and that the server recovered by itself.
//!
//! In the test command each scenario runs a round or a few. `scripts/chaos MINUTES` runs the same scenarios for longer and
//! prints the table of `docs/reliability.md`; see [`report`].

mod clients;
mod clock;
mod database;
mod disk;
mod ended;
mod hostile;
mod issuers;
mod ledger;
mod load;
mod process;
mod report;

use std::sync::Arc;
use std::time::Duration;

use sallyport_testkit::Issuer;
use serde_json::json;

use crate::support::{TEST_DEADLINE, World, eventually, run_within};
use ended::{Doomed, Ended, How};
use ledger::{Door, Gate, Ledger};
use load::Load;
use report::{Fault, Figures, Rounds};

/// How long recovery may take. No promise: this only tells "by itself, soon" from "never" on a busy machine.
const RECOVERY: Duration = Duration::from_secs(60);
/// The longest of the server's own deadlines for one decision: a group commit, or a fetch from an issuer.
const OWN_DEADLINE: Duration = Duration::from_secs(5);

/// Runs one scenario, for as long as its share of a longer run.
fn scenario<F: Future<Output = ()>>(fault: Fault, test: F) {
    run_within(fault.budget() + TEST_DEADLINE, test);
}

/// What one scenario has under way: its outside, and all it remembers.
struct Stage {
    fault: Fault,
    rounds: Rounds,
    issuer: Arc<Issuer>,
    /// Another, each of whose tokens is taken only once.
    issuer_once: Arc<Issuer>,
    ledger: Arc<Ledger>,
    ended: Vec<Ended>,
}

impl Stage {
    async fn new(fault: Fault, rounds: u32, world: &World) -> Self {
        let issuer = Arc::new(world.another_issuer().await);
        let issuer_once = Arc::new(world.another_issuer().await);
        let rounds = Rounds::of(fault, rounds);
        Self { fault, rounds, issuer, issuer_once, ledger: Arc::new(Ledger::default()), ended: Vec::new() }
    }

    /// A new space with one binding that both doors lead to, and beside it a trust that takes each token once.
    async fn gate(&self, world: &World) -> Gate {
        Gate::new(world, &self.issuer).await.and_once(world, &self.issuer_once).await
    }

    /// Exchanges without a pause through these replicas.
    fn load(&self, gate: &Gate, replicas: &[&World]) -> Load {
        Load::start(gate, replicas, &self.ledger)
    }

    /// Something to be ended in each of the ways there are.
    async fn all_doomed(&self, world: &World) -> Vec<Doomed> {
        let mut doomed = Vec::new();
        for how in How::ALL {
            doomed.push(Doomed::new(how, world, &self.issuer, &self.ledger).await);
        }
        doomed
    }

    /// Ends something now, how differs from round to round; it is remembered, and asked for after every fault from here on.
    async fn end_something(&mut self, world: &World) {
        let how = How::ALL[self.rounds.done() % How::ALL.len()];
        let doomed = Doomed::new(how, world, &self.issuer, &self.ledger).await;
        self.ended.push(doomed.end(world).await);
    }

    /// Waits until so many more credentials were handed out, and answers how long that took.
    async fn granted(&self, more: u64) -> Duration {
        let began = std::time::Instant::now();
        let wanted = self.ledger.granted() + more;
        eventually("credentials are handed out", RECOVERY, async || (self.ledger.granted() >= wanted).then_some(()))
            .await;
        began.elapsed()
    }

    /// The end of a round, with no load any more: all that was promised, seen from outside.
    async fn conclude(&mut self, replicas: &[&World], gate: &Gate, recovery: Duration) {
        let mut figures = Figures { times: 1, slowest_recovery: recovery, ..Figures::default() };
        for replica in replicas {
            // What was ended last; all of it at the end of the scenario.
            for ended in self.ended.iter().rev().take(8) {
                figures.honoured.extend(ended.honoured(replica, &self.ledger).await);
            }
        }
        let reader = replicas[self.rounds.done() % replicas.len()];
        figures.findings = self.ledger.audit(reader, &gate.space).await;
        report::add(self.fault, figures);
    }

    /// The end of the scenario: nothing was lost later on either.
    async fn finish(self, replicas: &[&World]) {
        let mut figures = Figures { ended: self.ended.len(), ..self.ledger.totals() };
        for replica in replicas {
            for ended in &self.ended {
                figures.honoured.extend(ended.honoured(replica, &self.ledger).await);
            }
            let mut findings = self.ledger.audit(replica, "//platform.api.mondoo.app").await;
            // Counted in its round already.
            findings.unclaimed = 0;
            figures.findings.extend(findings);
            let log = replica.server.log();
            assert!(!log.contains("panicked"), "{:?}: the server panicked\n{log}", self.fault);
        }
        report::add(self.fault, figures);
    }
}

/// Whether the replica says that it is ready.
async fn is_ready(world: &World) -> bool {
    let answer = world.http.get(format!("{}/readyz", world.server.url)).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// During an outage: the replica says that it is not ready but alive, and whoever asks is told 503 at once.
async fn assert_unavailable(stage: &Stage, world: &World, gate: &Gate) {
    eventually("/readyz to say so", RECOVERY, async || (!is_ready(world).await).then_some(())).await;
    for door in Door::ALL {
        let asked = std::time::Instant::now();
        let (status, _) = gate.attempt(&world.server.url, door, &stage.ledger).await;
        assert_eq!(status, Some(503), "{door:?}");
        assert!(asked.elapsed() < OWN_DEADLINE, "{door:?}: 503 took {:?}", asked.elapsed());
    }
    // What needs the configuration alone is answered for as long as that is confirmed: a second.
    eventually("the API to say so", OWN_DEADLINE, async || {
        let answer = world.query(Some(&world.admin), "{ viewer { mrn } }", &json!({})).await.json();
        (answer["errors"][0]["extensions"]["code"] == "UNAVAILABLE").then_some(())
    })
    .await;
    let live = world.http.get(format!("{}/livez", world.server.url)).send().await.expect("an answer");
    assert_eq!(live.status(), 200, "not ready is not dead");
}
