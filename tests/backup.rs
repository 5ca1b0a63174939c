//! Story: an operator copies the embedded database while the server works, loses the machine, and puts the copy back; and
//! replaces the master key without a moment's outage.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, World, run, sallyport};

/// Runs a command with the server's settings.
fn command(server: &Server, arguments: &[&str], change: &[(&str, Option<&str>)]) -> Output {
    let mut command = sallyport();
    command.args(arguments).envs(&server.environment);
    for (name, value) in change {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().expect("the binary runs")
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A world whose server has the embedded database, whatever the run's is.
async fn embedded() -> World {
    World::with(|setup| {
        setup.unset("SALLYPORT_DATABASE_URL").unset("SALLYPORT_MASTER_KEY");
    })
    .await
}

/// The ids of the published signing keys.
async fn keys(world: &World) -> Vec<Value> {
    let set = Reply::to(world.http.get(format!("{}/auth/v1/jwks", world.server.url))).await.json();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect()
}

async fn names(world: &World) -> Vec<Value> {
    let list = world.graphql("{ listOrganizations { organizations { name } } }", json!({})).await;
    list["listOrganizations"]["organizations"].as_array().unwrap().iter().map(|o| o["name"].clone()).collect()
}

#[test]
fn a_copy_taken_while_the_server_works_is_whole_and_comes_back() {
    run(async {
        let mut world = embedded().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "backed-up", &["viewer"]).await;
        let exchange = async |world: &World| {
            let reply = world.exchange(&place.space, world.issuer.uri(), &world.token("backed-up", &place.space)).await;
            (reply.status, reply.reference())
        };
        let bearer = world.access_token(&binding.client_id, &world.token("backed-up", &place.space)).await;
        let (_, before) = exchange(&world).await;
        let copy = world.server.path("copy.db");
        let copy = copy.to_str().unwrap();
        // While exchanges are under way.
        let (output, _) = tokio::join!(
            tokio::task::spawn_blocking({
                let (environment, copy) = (world.server.environment.clone(), copy.to_owned());
                move || sallyport().args(["backup", &copy]).envs(environment).output().expect("the binary runs")
            }),
            async {
                for _ in 0..20 {
                    assert_eq!(exchange(&world).await.0, 200);
                }
            }
        );
        assert!(succeeded(&output.unwrap()).contains("whole copy"));
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(copy).unwrap().permissions()) & 0o777,
            0o600
        );
        assert!(refused(&command(&world.server, &["backup", copy], &[])).contains("is there already"));

        // Everything after the copy is lost with the machine.
        let (names_then, keys_then) = (names(&world).await, keys(&world).await);
        world.graphql("mutation { createOrganization(input: {name: \"Later\"}) { mrn } }", json!({})).await;
        let (_, after) = exchange(&world).await;
        assert!(refused(&command(&world.server, &["restore", "--force", copy], &[])).contains("stop it first"));
        world.server.kill();
        assert!(refused(&command(&world.server, &["restore", copy], &[])).contains("--force"));
        // As when root restores for a server that is somebody else. Where the tests are not root's, all is one user's anyway.
        let data = world.server.path("data");
        let _ = std::os::unix::fs::chown(&data, Some(12_345), Some(12_345));
        let output = succeeded(&command(&world.server, &["restore", "--force", copy], &[]));
        assert!(output.contains(".before-") && output.contains("has ended"), "{output}");
        // The side files of the old database are set aside with it: SQLite would play them into the new one.
        let files: Vec<String> =
            std::fs::read_dir(&data).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        let side = |name: &&String| name.ends_with("-wal") || name.ends_with("-shm");
        let (old, new): (Vec<&String>, Vec<&String>) = files.iter().filter(side).partition(|n| n.contains(".before-"));
        assert_eq!((old.len(), new.len()), (2, 0), "killed, the old one left two: {files:?}");
        assert!(!files.iter().any(|name| name.contains("restoring")), "{files:?}");
        let owner = |file: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(file).unwrap());
        assert_eq!(owner(&data.join("sallyport.db")), owner(&data), "the server can open it");
        world.server.start_again().await;

        assert_eq!(names(&world).await, names_then);
        assert_eq!(world.record(&place.space, &before).await["granted"], json!(true));
        let gone = "query($s: String!, $r: String) { listExchanges(scopeMrn: $s, reference: $r) { totalCount } }";
        let gone = world.graphql(gone, json!({ "s": place.space, "r": after })).await;
        assert_eq!(gone["listExchanges"]["totalCount"], json!(0));
        // What was revoked since the copy must not come back: nothing issued before does.
        assert_eq!(world.ping(&bearer).await, 401);
        let fresh = world.access_token(&binding.client_id, &world.token("backed-up", &place.space)).await;
        assert_eq!(world.ping(&fresh).await, 200);
        let audit = "{ listAuditEntries(scopeMrn: \"//platform.api.mondoo.app\", first: 9) { entries { action } } }";
        let audit = world.graphql(audit, json!({})).await;
        let done = audit["listAuditEntries"]["entries"].as_array().unwrap();
        assert!(done.contains(&json!({ "action": "restore" })), "{audit}");
        // A key that leaked after the copy was taken does not sign again.
        assert_eq!(keys(&world).await.iter().filter(|key| keys_then.contains(key)).count(), 0);

        // Unless the operator knows that nothing was revoked.
        world.server.terminate();
        succeeded(&command(&world.server, &["restore", "--force", "--keep-credentials", copy], &[]));
        world.server.start_again().await;
        assert_eq!(world.ping(&bearer).await, 200);
    });
}

#[test]
fn what_is_no_good_copy_is_refused_and_changes_nothing() {
    run(async {
        let mut world = embedded().await;
        let place = world.place().await;
        let copy = world.server.path("copy.db");
        let file = copy.to_str().unwrap();
        succeeded(&command(&world.server, &["backup", file], &[]));
        world.server.terminate();
        let bytes = std::fs::read(&copy).unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = world.server.path(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let mut spoilt = bytes.clone();
        let middle = spoilt.len() / 2;
        spoilt[middle..middle + 4_096].fill(0xAA);
        let spoilt = write("spoilt.db", &spoilt);
        let cut = write("cut.db", &bytes[..bytes.len() / 3]);
        let text = write("text.db", b"no database at all");
        let empty = write("empty.db", b"");
        let before = std::fs::read(world.server.path("data/sallyport.db")).unwrap();
        for bad in [spoilt, cut, text, empty, "/nowhere/at/all.db".to_owned()] {
            refused(&command(&world.server, &["restore", "--force", &bad], &[]));
        }
        // A key of another installation opens nothing here.
        let other = "c2FsbHlwb3J0J3MgZTJlIHRlc3RzLCAzMiBieXRlcyE=";
        let output = command(&world.server, &["restore", "--force", file], &[("SALLYPORT_MASTER_KEY", Some(other))]);
        assert!(refused(&output).contains("master key"), "{output:?}");
        assert_eq!(std::fs::read(world.server.path("data/sallyport.db")).unwrap(), before);
        let left: Vec<String> = std::fs::read_dir(world.server.path("data"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("restoring") || name.contains("before"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
        world.server.start_again().await;
        let get = world.graphql("query($m: String!) { getSpace(mrn: $m) { mrn } }", json!({ "m": place.space })).await;
        assert_eq!(get["getSpace"]["mrn"], json!(place.space));
    });
}

#[test]
fn on_postgresql_the_operator_is_sent_to_its_own_tools() {
    let mut setup = Setup::new();
    setup.set("SALLYPORT_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none").set("SALLYPORT_MASTER_KEY", "x");
    for arguments in [["backup", "x.db"], ["restore", "x.db"]] {
        let mut command = sallyport();
        command.args(arguments).env("SALLYPORT_DATABASE_URL", setup.get("SALLYPORT_DATABASE_URL"));
        assert!(refused(&command.output().unwrap()).contains("pg_dump"));
    }
}

#[test]
fn the_master_key_is_replaced_and_what_was_signed_stays_good() {
    run(async {
        const OLD: &str = "b2xkIG1hc3RlciBrZXkgb2YgMzIgYnl0ZXMgISEhISE=";
        const NEW: &str = "bmV3IG1hc3RlciBrZXkgb2YgMzIgYnl0ZXMgISEhISE=";
        let mut world = World::with(|setup| {
            setup.set("SALLYPORT_MASTER_KEY", OLD);
        })
        .await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "resealed", &["viewer"]).await;
        let token = world.access_token(&binding.client_id, &world.token("resealed", &place.space)).await;
        let restart = async |world: &mut World, key: &str, fallback: Option<&str>| {
            world.server.terminate();
            world.server.environment.insert("SALLYPORT_MASTER_KEY".into(), key.into());
            match fallback {
                Some(other) => world.server.environment.insert("SALLYPORT_FALLBACK_MASTER_KEY".into(), other.into()),
                None => world.server.environment.remove("SALLYPORT_FALLBACK_MASTER_KEY"),
            };
            world.server.start_again().await;
        };
        restart(&mut world, OLD, Some(NEW)).await;
        restart(&mut world, NEW, Some(OLD)).await;
        assert_eq!(world.ping(&token).await, 200);
        // While it serves.
        let output = succeeded(&command(&world.server, &["keys", "reseal"], &[]));
        assert!(output.starts_with("3 keys sealed anew"), "{output}");
        assert!(!output.contains(OLD) && !output.contains(NEW));
        assert!(succeeded(&command(&world.server, &["keys", "reseal"], &[])).starts_with("0 keys"));
        assert_eq!(world.ping(&token).await, 200);
        restart(&mut world, NEW, None).await;
        assert_eq!(world.ping(&token).await, 200);
        world.access_token(&binding.client_id, &world.token("resealed", &place.space)).await;
        // The old one is good for nothing any more.
        world.server.terminate();
        let output = command(&world.server, &["serve"], &[("SALLYPORT_MASTER_KEY", Some(OLD))]);
        assert!(refused(&output).contains("master key"), "{output:?}");
    });
}
