//! Issuers and AWS STS that dawdle, drop, refuse and fall silent: whoever needs them is told to try again, nobody else
//! notices.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sallyport_testkit::{Algorithm, Failure, Forwarder, Issuer, Sts, Traffic};

use super::report::Fault;
use super::{Door, Gate, RECOVERY, Stage, scenario};
use crate::support::{World, eventually, free_port, now};

/// Credentials handed out before the faults, and at least while they last, to workloads of an issuer that has none.
const BETWEEN: u64 = 20;
/// The name of the issuer behind the forwarder.
const FAR: &str = "far.example.test";

/// A way to fail, and its end.
struct Broken {
    issuer: Arc<Issuer>,
    failure: Failure,
}

async fn issuer(world: &World, builder: sallyport_testkit::issuer::IssuerBuilder) -> Arc<Issuer> {
    Arc::new(builder.algorithms(&[Algorithm::Es256]).start(&world.authority).await.expect("an issuer"))
}

#[test]
fn issuers_and_sts_that_fail_hold_up_only_those_who_need_them() {
    scenario(Fault::IssuersFail, async {
        let (network, sts_port) =
            (Forwarder::start(([127, 0, 0, 1], 1).into()).await.expect("a forwarder"), free_port());
        let world = World::with(|setup| {
            let entries = format!("{FAR}:443={},sts.amazonaws.com:443=127.0.0.1:{sts_port}", network.address());
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &entries);
        })
        .await;
        let sts = Arc::new(Sts::builder(now).port(sts_port).start(&world.authority).await.expect("an STS"));
        let far = issuer(&world, Issuer::builder().well_known(&format!("https://{FAR}"))).await;
        network.redirect(far.address());
        let mut broken = Vec::new();
        for failure in [
            Failure::CloseConnection,
            Failure::Hang,
            Failure::Status(500),
            Failure::Slow(Duration::from_secs(20)),
            Failure::Trickle,
        ] {
            broken.push(Broken { issuer: issuer(&world, Issuer::builder()).await, failure });
        }
        let sts_failures = [Failure::Hang, Failure::CloseConnection, Failure::Status(503), Failure::Trickle];

        let mut stage = Stage::new(Fault::IssuersFail, 1, &world).await;
        while stage.rounds.more() {
            let steady = stage.gate(&world).await;
            let aws = Gate::for_aws(&world, &sts).await;
            // Bound while nobody answers: so the keys are yet to be fetched. New ones each round, and with them new providers.
            let mut gates = vec![aws];
            for broken in &broken {
                broken.issuer.set_failure(Failure::CloseConnection);
                gates.push(Gate::new(&world, &broken.issuer).await);
            }
            network.set_traffic(Traffic::Cut);
            gates.push(Gate::new(&world, &far).await);

            let load = stage.load(&steady, &[&world]);
            stage.end_something(&world).await;
            stage.granted(BETWEEN).await;
            for broken in &broken {
                broken.issuer.set_failure(broken.failure.clone());
            }
            network.set_traffic(if stage.rounds.done() % 2 == 1 { Traffic::Silent } else { Traffic::Cut });
            sts.set_failure(sts_failures[stage.rounds.done() % sts_failures.len()].clone());

            let before = stage.ledger.granted();
            let attempts = gates.iter().flat_map(|gate| Door::ALL.map(|door| (gate, door)));
            let answers = join_all(attempts.map(|(gate, door)| {
                let (url, ledger) = (&world.server.url, &stage.ledger);
                async move { gate.attempt(url, door, ledger).await.0 }
            }))
            .await;
            assert!(answers.iter().all(|status| *status == Some(503)), "{answers:?}");
            // Those who do not need them are served all the while.
            stage.granted(BETWEEN).await;
            assert!(stage.ledger.granted() > before);

            for broken in &broken {
                broken.issuer.set_failure(Failure::None);
            }
            network.set_traffic(Traffic::Flows);
            sts.set_failure(Failure::None);
            let healed = std::time::Instant::now();
            for (gate, door) in gates.iter().flat_map(|gate| Door::ALL.map(|door| (gate, door))) {
                eventually("recovery of an issuer", RECOVERY, async || {
                    let (status, _) = gate.attempt(&world.server.url, door, &stage.ledger).await;
                    (status == Some(200)).then_some(())
                })
                .await;
            }
            let recovery = healed.elapsed();
            assert_eq!(load.stop().await, 0, "exchanges that need none of these were turned away");
            stage.conclude(&[&world], &steady, recovery).await;
        }
        stage.finish(&[&world]).await;
    });
}
