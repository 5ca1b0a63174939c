//! No room: the embedded database can write nothing.
//!
//! The means is a limit on the size of the process's files (`RLIMIT_FSIZE`), which needs neither root nor a file system of
//! its own, and is stricter than a full disk: not even what is there already may be written over beyond it.

use super::report::Fault;
use super::{RECOVERY, Stage, is_ready, scenario};
use crate::support::{Reply, Setup, World, eventually, run};

/// How large a file may be while there is no room: the first pages of the write-ahead log still fit, a commit soon does not.
const ROOM: u64 = 16 * 1024;
/// Credentials handed out before each fault and after it.
const BETWEEN: u64 = 20;

#[test]
fn without_room_nothing_leaves_and_with_room_it_goes_on() {
    scenario(Fault::DiskFull, async {
        let mut world = World::with(Setup::on_sqlite).await;
        let mut stage = Stage::new(Fault::DiskFull, 2, &world).await;
        while stage.rounds.more() {
            let gate = stage.gate(&world).await;
            let load = stage.load(&gate, &[&world]);
            stage.end_something(&world).await;
            stage.granted(BETWEEN).await;
            let before = stage.ledger.unavailable();
            world.server.limit_files(Some(ROOM));
            eventually("503 for want of room", RECOVERY, async || {
                (stage.ledger.unavailable() >= before + BETWEEN).then_some(())
            })
            .await;
            eventually("/readyz to say so", RECOVERY, async || (!is_ready(&world).await).then_some(())).await;
            // Not a byte: a change is refused as a whole, however often it is tried, and what only reads still works.
            world.server.limit_files(Some(0));
            let create = "mutation { createOrganization(input: {name: \"no room\"}) { mrn } }";
            for _ in 0..5 {
                assert_eq!(world.refused(create, serde_json::json!({})).await.code, "UNAVAILABLE");
            }
            world.graphql("{ viewer { mrn } }", serde_json::json!({})).await;
            assert_not_ready(&world).await;
            world.server.limit_files(None);
            let recovery = stage.granted(1).await;
            stage.granted(BETWEEN).await;
            assert!(is_ready(&world).await, "what was recorded last was recorded");
            load.stop().await;
            // What was handed out since is on disk, and not only in a process that believes so.
            world.server.kill();
            world.server.start_again().await;
            stage.conclude(&[&world], &gate, recovery).await;
        }
        stage.finish(&[&world]).await;
    });
}

/// Traffic is only sent to who is ready, so it must not take traffic to become so.
#[test]
fn with_room_again_it_is_ready_without_being_asked_for_anything() {
    run(async {
        let world = World::with(Setup::on_sqlite).await;
        assert!(is_ready(&world).await);
        world.server.limit_files(Some(0));
        let create = "mutation { createOrganization(input: {name: \"no room\"}) { mrn } }";
        assert_eq!(world.refused(create, serde_json::json!({})).await.code, "UNAVAILABLE");
        assert_not_ready(&world).await;
        // It stays so for as long as what is tried fails.
        let tried = std::time::Instant::now();
        while tried.elapsed() < std::time::Duration::from_secs(2) {
            assert_not_ready(&world).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        world.server.limit_files(None);
        eventually("it is ready again", RECOVERY, async || is_ready(&world).await.then_some(())).await;
        world.graphql(create, serde_json::json!({})).await;
    });
}

/// It says that it is not ready and why, and that it is alive.
async fn assert_not_ready(world: &World) {
    let ask = |path: &str| Reply::to(world.http.get(format!("{}{path}", world.server.url)));
    let ready = ask("/readyz").await;
    assert_eq!((ready.status, ready.text().contains("takes no writes")), (503, true), "{}", ready.text());
    assert_eq!(ask("/livez").await.status, 200, "not ready is not dead");
}
