//! PostgreSQL: stopped, out of reach, and replaced by its standby.
//!
//! Without `fsync`: a process that dies takes nothing with it that it has written, and the machine does not die here.

use sallyport_testkit::{Forwarder, Postgres, Traffic};

use super::report::Fault;
use super::{Door, RECOVERY, Stage, assert_unavailable, is_ready, scenario};
use crate::support::{World, eventually};

/// Credentials handed out before each fault and after it.
const BETWEEN: u64 = 20;

#[test]
fn postgres_stopped_under_load_is_answered_503_and_recovered_from() {
    scenario(Fault::DatabaseStopped, async {
        let postgres = Postgres::builder().fsync(false).start().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(&postgres)).await;
        let two = one.replica().await;
        let mut stage = Stage::new(Fault::DatabaseStopped, 1, &one).await;
        while stage.rounds.more() {
            let gate = stage.gate(&one).await;
            let load = stage.load(&gate, &[&one, &two]);
            stage.end_something(&one).await;
            stage.granted(BETWEEN).await;
            postgres.stop_immediately().expect("stopped");
            for replica in [&one, &two] {
                assert_unavailable(&stage, replica, &gate).await;
            }
            postgres.start_again().expect("started");
            let recovery = stage.granted(1).await;
            stage.granted(BETWEEN).await;
            load.stop().await;
            stage.conclude(&[&one, &two], &gate, recovery).await;
        }
        stage.finish(&[&one, &two]).await;
    });
}

/// Not a refused connection but silence: nothing that the replica waits for ever comes.
#[test]
fn a_replica_that_hears_nothing_from_postgres_decides_nothing() {
    scenario(Fault::DatabaseSilent, async {
        let postgres = Postgres::builder().fsync(false).start().expect("a PostgreSQL server");
        let network = Forwarder::start(postgres.address()).await.expect("a forwarder");
        let one = World::with(|setup| setup.on_postgres(&postgres)).await;
        let two = one
            .replica_with(|setup| {
                let direct = format!("@{}/", postgres.address());
                let through = setup.get("SALLYPORT_DATABASE_URL").replace(&direct, &format!("@{}/", network.address()));
                setup.set("SALLYPORT_DATABASE_URL", &through);
            })
            .await;
        let mut stage = Stage::new(Fault::DatabaseSilent, 1, &one).await;
        while stage.rounds.more() {
            let gate = stage.gate(&one).await;
            let doomed = stage.all_doomed(&one).await;
            let loads = [stage.load(&gate, &[&one]), stage.load(&gate, &[&two])];
            stage.granted(BETWEEN).await;
            network.set_traffic(Traffic::Silent);
            // The silent replica may hold a lock: then the database takes it away after 5 s.
            for doomed in doomed {
                stage.ended.push(doomed.end(&one).await);
            }
            assert_unavailable(&stage, &two, &gate).await;
            // The other one is not affected.
            stage.granted(BETWEEN).await;
            assert!(is_ready(&one).await);
            network.set_traffic(Traffic::Flows);
            let healed = std::time::Instant::now();
            eventually("the silent replica to recover", RECOVERY, async || {
                let (status, _) = gate.attempt(&two.server.url, Door::AccessToken, &stage.ledger).await;
                (status == Some(200)).then_some(())
            })
            .await;
            let recovery = healed.elapsed();
            stage.granted(BETWEEN).await;
            for load in loads {
                load.stop().await;
            }
            stage.conclude(&[&one, &two], &gate, recovery).await;
        }
        stage.finish(&[&one, &two]).await;
    });
}

/// The primary dies, and with it whatever the standby had not yet confirmed. The servers' database URL stays as it is: its
/// address is moved to the standby, as a virtual address or a proxy does.
#[test]
fn failing_over_to_a_synchronous_standby_loses_no_record() {
    scenario(Fault::FailedOver, async {
        let mut primary = Postgres::builder().fsync(false).start().expect("a PostgreSQL server");
        let address = Forwarder::start(primary.address()).await.expect("a forwarder");
        let one = World::with(|setup| {
            setup.on_postgres(&primary);
            let direct = format!("@{}/", primary.address());
            let through = setup.get("SALLYPORT_DATABASE_URL").replace(&direct, &format!("@{}/", address.address()));
            setup.set("SALLYPORT_DATABASE_URL", &through);
        })
        .await;
        let two = one.replica().await;
        let mut stage = Stage::new(Fault::FailedOver, 1, &one).await;
        while stage.rounds.more() {
            let standby = Postgres::builder().fsync(false).start_standby_of(&primary).expect("a standby");
            primary.wait_for_standby().expect("a standby that follows");
            let gate = stage.gate(&one).await;
            let load = stage.load(&gate, &[&one, &two]);
            stage.end_something(&one).await;
            stage.granted(BETWEEN).await;
            primary.stop_immediately().expect("stopped");
            assert_unavailable(&stage, &one, &gate).await;
            standby.promote().expect("promoted");
            address.redirect(standby.address());
            let recovery = stage.granted(1).await;
            stage.granted(BETWEEN).await;
            load.stop().await;
            stage.conclude(&[&one, &two], &gate, recovery).await;
            primary = standby;
        }
        // The standby lost: nothing is handed out that only one machine knows of.
        let standby = Postgres::builder().fsync(false).start_standby_of(&primary).expect("a standby");
        primary.wait_for_standby().expect("a standby that follows");
        let gate = stage.gate(&one).await;
        standby.stop_immediately().expect("stopped");
        let (status, _) = gate.attempt(&one.server.url, Door::KeyPair, &stage.ledger).await;
        assert_eq!(status, Some(503), "a credential was handed out that the standby has no record of");
        standby.start_again().expect("started");
        eventually("recovery", RECOVERY, async || {
            let (status, _) = gate.attempt(&one.server.url, Door::KeyPair, &stage.ledger).await;
            (status == Some(200)).then_some(())
        })
        .await;
        stage.finish(&[&one, &two]).await;
    });
}
