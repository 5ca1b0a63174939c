//! The process itself: killed, and paused.

use std::time::Duration;

use futures::future::join_all;
use sallyport_testkit::Postgres;

use super::report::Fault;
use super::{RECOVERY, Stage, scenario};
use crate::support::{Setup, World, eventually};

/// Credentials handed out between a restart and the next blow, in the test command and at least.
const BETWEEN: u64 = 20;

#[test]
fn kill_nine_loses_no_record_on_sqlite() {
    scenario(Fault::KilledOnSqlite, async {
        let mut world = World::with(Setup::on_sqlite).await;
        let mut stage = Stage::new(Fault::KilledOnSqlite, 3, &world).await;
        while stage.rounds.more() {
            let gate = stage.gate(&world).await;
            let load = stage.load(&gate, &[&world]);
            stage.end_something(&world).await;
            stage.granted(BETWEEN).await;
            world.server.kill();
            let killed = std::time::Instant::now();
            world.server.start_again().await;
            stage.granted(1).await;
            let recovery = killed.elapsed();
            stage.granted(BETWEEN).await;
            load.stop().await;
            stage.conclude(&[&world], &gate, recovery).await;
        }
        stage.finish(&[&world]).await;
    });
}

#[test]
fn kill_nine_of_a_replica_loses_no_record_on_postgres() {
    scenario(Fault::KilledOnPostgres, async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(postgres)).await;
        let mut two = one.replica().await;
        let mut stage = Stage::new(Fault::KilledOnPostgres, 3, &one).await;
        while stage.rounds.more() {
            let gate = stage.gate(&one).await;
            let load = stage.load(&gate, &[&one, &two]);
            stage.end_something(&one).await;
            stage.granted(BETWEEN).await;
            two.server.kill();
            let killed = std::time::Instant::now();
            // The other goes on as if nothing had happened, whatever the dead one held.
            stage.granted(BETWEEN).await;
            two.server.start_again().await;
            stage.granted(1).await;
            let recovery = killed.elapsed();
            stage.granted(BETWEEN).await;
            load.stop().await;
            stage.conclude(&[&one, &two], &gate, recovery).await;
        }
        stage.finish(&[&one, &two]).await;
    });
}

/// What was decided to end while a replica stood still is ended for it too, from its first answer on.
#[test]
fn a_replica_that_was_paused_honours_nothing_that_ended_meanwhile() {
    scenario(Fault::Paused, async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(postgres)).await;
        let two = one.replica().await;
        let mut stage = Stage::new(Fault::Paused, 1, &one).await;
        while stage.rounds.more() {
            let gate = stage.gate(&one).await;
            let doomed = stage.all_doomed(&one).await;
            // Each its own workers: those of the paused one wait with it.
            let loads = [stage.load(&gate, &[&one]), stage.load(&gate, &[&two])];
            stage.granted(BETWEEN).await;
            two.server.pause();
            // It may stand still in the middle of a commit: then the database takes its locks away after 5 s.
            let mut ended = Vec::new();
            for doomed in doomed {
                ended.push(doomed.end(&one).await);
            }
            stage.granted(BETWEEN).await;
            let began = std::time::Instant::now();
            // These wait in the paused process, and are what it reads first when it goes on.
            let waiting = join_all(ended.iter().map(|ended| ended.honoured(&two, &stage.ledger)));
            let resume = async {
                // Long enough for any snapshot to be stale: a second, by domain.md.
                tokio::time::sleep(Duration::from_millis(2_500).saturating_sub(began.elapsed())).await;
                two.server.resume();
            };
            let (honoured, ()) = tokio::join!(waiting, resume);
            assert_eq!(honoured.concat(), Vec::<String>::new());
            let resumed = std::time::Instant::now();
            let answered = stage.ledger.granted();
            eventually("both hand out credentials", RECOVERY, async || {
                let (status, _) = gate.attempt(&two.server.url, super::Door::KeyPair, &stage.ledger).await;
                (status == Some(200) && stage.ledger.granted() > answered + 1).then_some(())
            })
            .await;
            let recovery = resumed.elapsed();
            for load in loads {
                load.stop().await;
            }
            stage.ended.extend(ended);
            stage.conclude(&[&one, &two], &gate, recovery).await;
        }
        stage.finish(&[&one, &two]).await;
    });
}
