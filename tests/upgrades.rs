//! Story: several processes start on one empty database, and versions come and go while others serve.

use std::process::{Command, Output, Stdio};

use sallyport_testkit::Postgres;
use serde_json::json;

use crate::support::{Setup, World, run, sallyport};

/// Runs as many `sallyport migrate` at once as one would start replicas.
fn migrate_together(change: impl Fn(&mut Command)) -> Vec<Output> {
    let mut running = Vec::new();
    for _ in 0..4 {
        let mut command = sallyport();
        command.arg("migrate").stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        running.push(command.spawn().expect("the binary runs"));
    }
    running.into_iter().map(|child| child.wait_with_output().expect("it ends")).collect()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn processes_that_start_together_migrate_once() {
    let postgres = Postgres::shared().expect("a PostgreSQL server");
    let database = postgres.create_random_database("together").unwrap();
    let on_postgres = |command: &mut Command| {
        command.env("SALLYPORT_DATABASE_URL", postgres.url(&database));
    };
    let folder = tempfile::tempdir().unwrap();
    let on_sqlite = |command: &mut Command| {
        command.env("SALLYPORT_DATA_DIR", folder.path().join("data"));
    };
    let all = |outputs: Vec<Output>| outputs.iter().map(told).collect::<Vec<_>>();
    for outputs in [all(migrate_together(on_postgres)), all(migrate_together(on_sqlite))] {
        assert!(outputs.iter().any(|text| text.starts_with("applied: ")), "{outputs:?}");
    }
    let rows = "SELECT count(*), count(DISTINCT version) FROM seaql_migrations";
    let counted = postgres.sql(&database, rows).unwrap();
    let (all, distinct) = counted.trim().split_once('|').expect("two numbers");
    assert_eq!(all, distinct, "each migration once");
    assert_eq!(postgres.sql(&database, "SELECT count(*) FROM configuration_revision").unwrap().trim(), "17");
    for again in [migrate_together(on_postgres), migrate_together(on_sqlite)] {
        assert!(again.iter().map(told).all(|text| text == "the schema is up to date\n"));
    }
}

/// One first token, one set of keys, whoever comes first.
#[test]
fn replicas_that_start_together_on_an_empty_database_are_one_installation() {
    run(async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let mut first = Setup::new();
        first.on_postgres(postgres);
        first.unset("SALLYPORT_BOOTSTRAP_TOKEN");
        let shared = ["SALLYPORT_DATABASE_URL", "SALLYPORT_MASTER_KEY"].map(|name| (name, first.get(name).to_owned()));
        let mut setups = vec![first];
        for _ in 0..3 {
            let mut setup = Setup::new();
            for (name, value) in &shared {
                setup.set(name, value);
            }
            setups.push(setup);
        }
        let starting: Vec<_> = setups.into_iter().map(|setup| tokio::spawn(setup.start())).collect();
        let mut servers = Vec::new();
        for server in starting {
            servers.push(server.await.expect("each gets ready"));
        }
        let tokens: Vec<String> = servers
            .iter()
            .flat_map(|server| server.stdout().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
            .filter(|line| line.starts_with("sallyport_"))
            .collect();
        assert_eq!(tokens.len(), 1, "one of them shows the first token");
        let http = World::client();
        let mut keys = std::collections::BTreeSet::new();
        for server in &servers {
            keys.insert(http.get(format!("{}/auth/v1/jwks", server.url)).send().await.unwrap().text().await.unwrap());
            let request = http.post(format!("{}/query", server.url)).bearer_auth(&tokens[0]);
            let answer = request.json(&json!({ "query": "{ viewer { mrn } }" })).send().await.unwrap();
            let answer: serde_json::Value = answer.json().await.unwrap();
            assert!(answer["data"]["viewer"]["mrn"].is_string(), "{answer}");
        }
        assert_eq!(keys.len(), 1, "one set of keys");
    });
}

const TOMORROW: &str = "m20991231_000001_tomorrow";

#[test]
fn a_version_starts_on_a_newer_schema_unless_that_is_from_too_far_ahead() {
    run(async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let mut world = World::with(|setup| setup.on_postgres(postgres)).await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "upgraded", &["viewer"]).await;
        let database = world.server.environment["SALLYPORT_DATABASE_URL"].rsplit('/').next().unwrap().to_owned();
        // A newer version migrates while this one serves: columns and tables more.
        let migrated = format!(
            "ALTER TABLE exchanges ADD COLUMN tomorrow TEXT NULL; ALTER TABLE trusts ADD COLUMN tomorrow BIGINT NOT NULL DEFAULT 7; \
             CREATE TABLE tomorrow (id BIGINT PRIMARY KEY); INSERT INTO seaql_migrations VALUES ('{TOMORROW}', 0)"
        );
        postgres.sql(&database, &migrated).unwrap();
        let exchange = async |world: &World| {
            let bearer = world.access_token(&binding.client_id, &world.token("upgraded", &place.space)).await;
            world.ping(&bearer).await
        };
        assert_eq!(exchange(&world).await, 200, "it goes on");
        // And is started once more, as after a crash, or when the newer version is taken back.
        world.server.kill();
        world.server.start_again().await;
        assert_eq!(exchange(&world).await, 200);
        world.binding(&place.space, "after the migration", &[]).await;
        assert!(world.server.log().contains(TOMORROW), "it says so");
        world.server.terminate();

        // A migration that only newer programs can work with.
        let oldest = format!("UPDATE installation SET value = '{TOMORROW}' WHERE key = 'oldest_program'");
        postgres.sql(&database, &oldest).unwrap();
        for arguments in [&["serve"][..], &["migrate"], &["export"], &["keys", "rotate"]] {
            let mut command = sallyport();
            command.args(arguments).envs(&world.server.environment);
            let complaint = refused(&command.output().unwrap());
            assert!(complaint.contains("newer version has migrated") && complaint.contains(TOMORROW), "{complaint}");
        }
    });
}

#[test]
fn commands_neither_make_a_database_nor_migrate_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let file = data.join("sallyport.db");
    for arguments in [&["export"][..], &["keys", "rotate"]] {
        let mut command = sallyport();
        command.args(arguments).env("SALLYPORT_DATA_DIR", &data);
        assert!(refused(&command.output().unwrap()).contains("there is no database"));
        assert!(!file.exists());
    }
    let postgres = Postgres::shared().expect("a PostgreSQL server");
    let database = postgres.create_random_database("unmigrated").unwrap();
    let mut command = sallyport();
    command.arg("export").env("SALLYPORT_DATABASE_URL", postgres.url(&database));
    assert!(refused(&command.output().unwrap()).contains("sallyport migrate"));
}
