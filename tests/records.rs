//! Story: auditors ask who got what, when and why, and who was refused. The record is exported, mirrored and forgotten, and
//! strangers cannot fill it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sallyport_testkit::{Algorithm, Issuer, Postgres, platforms};
use serde_json::{Value, json};

use crate::support::{Place, Reply, Server, World, claims, eventually, free_port, now, run, sallyport};

/// Longer than it takes until an event is handed out.
const SETTLED: Duration = Duration::from_secs(60);

const EXPORT: &str = "query($scope: String!, $after: String, $first: Int) { exportEvents(scopeMrn: $scope, after: $after, \
first: $first) { events pageInfo { hasNextPage endCursor } } }";

/// A command on the server's database.
fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = sallyport();
    command.args(arguments).envs(&server.environment);
    command
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The events in a text of JSON lines.
fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// What there is of a text that is still being written, up to the end of its last whole line.
fn so_far(text: &str) -> &str {
    text.rfind('\n').map_or("", |end| &text[..=end])
}

fn uids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["metadata"]["uid"].as_str().expect("an id").to_owned()).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// An exchange and its reference.
async fn exchanged(world: &World, place: &Place, subject: &str) -> (u16, String) {
    let reply = world.exchange(&place.space, world.issuer.uri(), &world.token(subject, &place.space)).await;
    (reply.status, reply.reference())
}

async fn metric(world: &World, name: &str, labels: &str) -> u64 {
    let text = Reply::to(world.http.get(format!("{}/metrics", world.server.admin_url))).await.text();
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(labels));
    let line = line.unwrap_or_else(|| panic!("no {name}{{{labels}}} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn recorded(world: &World, scope: &str) -> u64 {
    let list = "query($scope: String!) { listExchanges(scopeMrn: $scope) { totalCount } }";
    world.graphql(list, json!({ "scope": scope })).await["listExchanges"]["totalCount"].as_u64().unwrap()
}

/// threats.md, "Flooding": what never verified, and what anyone at a shared issuer can have verified, is recorded up to an
/// allowance of 60 a minute and then counted. What is the tenant's own is always recorded.
#[test]
fn strangers_cannot_fill_a_tenants_log() {
    run(async {
        const FLOOD: u64 = 150;
        let port = free_port();
        let world = World::with(|setup| {
            setup.set(
                "SALLYPORT_OUTBOUND_RESOLVE",
                &format!("token.actions.githubusercontent.com:443=127.0.0.1:{port}"),
            );
        })
        .await;
        let builder = Issuer::builder().port(port).well_known("https://token.actions.githubusercontent.com");
        let github = builder.algorithms(&[Algorithm::Es256]).start(&world.authority).await.unwrap();
        let place = world.place().await;
        world
            .bind(json!({ "scopeMrn": place.space, "name": "b", "issuerUri": github.uri(), "subject": "repo:acme/shop:*" }))
            .await;
        let token = |repository: &str, audience: &str, number: u64| {
            let mut claims = platforms::github_actions(&github.request(now(), audience), repository, "refs/heads/main");
            claims["run_id"] = json!(number.to_string());
            github.mint_with(Algorithm::Es256, claims)
        };
        let unrecorded = async |why: &str| metric(&world, "sallyport_exchanges_unrecorded_total", why).await;
        let send = async |token: &str| {
            let reply = world.exchange(&place.space, github.uri(), token).await;
            assert_ne!(reply.status, 200);
            reply.reference()
        };
        // What locates nothing is in the operator's log only.
        let nowhere =
            world.exchange(&place.organization, github.uri(), &token("acme/shop", &place.organization, 0)).await;
        assert_eq!(recorded(&world, &place.organization).await, 0);
        assert!(world.server.log().contains(&nowhere.reference()), "its reference is in the operator's log");

        // Anybody has a repository at GitHub, and so as many verified tokens as they like.
        let began = Instant::now();
        let mut references = BTreeSet::new();
        for number in 0..FLOOD {
            references.insert(send(&token("mallory/shop", &place.space, number)).await);
        }
        assert_eq!(references.len() as u64, FLOOD, "every attempt has a reference of its own");
        let kept = recorded(&world, &place.space).await;
        // The allowance fills up again while we send.
        assert!((60..=61 + began.elapsed().as_secs()).contains(&kept), "{kept} recorded in {:?}", began.elapsed());
        assert_eq!(unrecorded("why=\"stranger\"").await, FLOOD - kept);
        assert_eq!(unrecorded("why=\"unverified\"").await, 0);

        // Nor does a signature of their own help them, or hide the others.
        let began = Instant::now();
        for number in 0..FLOOD {
            let claims =
                platforms::github_actions(&github.request(now(), &place.space), "acme/shop", "refs/heads/main");
            let forged = github.sign_with_foreign_key(Algorithm::Es256, claims);
            references.insert(send(&format!("{forged}{}", if number % 2 == 0 { "" } else { " " })).await);
        }
        let forged = recorded(&world, &place.space).await - kept;
        assert!((60..=61 + began.elapsed().as_secs()).contains(&forged), "{forged} recorded in {:?}", began.elapsed());
        assert_eq!(unrecorded("why=\"unverified\"").await, FLOOD - forged);

        // The tenant's own repository, refused for its audience, is recorded as often as it comes.
        let before = recorded(&world, &place.space).await;
        for number in 0..FLOOD {
            send(&token("acme/shop", "somebody-else", number)).await;
        }
        assert_eq!(recorded(&world, &place.space).await, before + FLOOD);
        assert!(references.iter().all(|reference| world.server.log().contains(reference)));
    });
}

#[test]
fn at_a_tenants_own_issuer_every_verified_attempt_is_recorded() {
    run(async {
        const ATTEMPTS: u64 = 100;
        let world = World::new().await;
        let place = world.place().await;
        world.binding(&place.space, "meant", &[]).await;
        for number in 0..ATTEMPTS {
            assert_eq!(exchanged(&world, &place, &format!("other-{number}")).await.0, 403);
        }
        assert_eq!(recorded(&world, &place.space).await, ATTEMPTS);
        assert_eq!(metric(&world, "sallyport_exchanges_unrecorded_total", "why=\"stranger\"").await, 0);
    });
}

/// Any replica answers any page, and the cursor is good at each.
#[test]
fn a_collector_that_polls_now_one_replica_and_now_another_gets_every_event_once() {
    run(async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(postgres)).await;
        let two = one.replica().await;
        let place = one.place().await;
        one.binding(&place.space, "collected", &["viewer"]).await;
        let (mut sent, mut got) = (BTreeSet::new(), Vec::new());
        // Until it knows the binding, the other replica finds nothing that could be recorded.
        let token = one.token("collected", &place.space);
        let known = eventually("the binding on the other replica", Duration::from_secs(10), async || {
            let reply = two.exchange(&place.space, one.issuer.uri(), &token).await;
            (reply.status == 200).then(|| reply.reference())
        });
        sent.insert(known.await);
        let mut after = Value::Null;
        let deadline = Instant::now() + SETTLED;
        for round in 0.. {
            let world = if round % 2 == 0 { &one } else { &two };
            if sent.len() < 30 {
                let subject = if round % 3 == 0 { "refused" } else { "collected" };
                let reply = world.exchange(&place.space, one.issuer.uri(), &one.token(subject, &place.space)).await;
                if reply.status != 503 {
                    sent.insert(reply.reference());
                }
            }
            let other = if round % 2 == 0 { &two } else { &one };
            let answer = other.graphql(EXPORT, json!({ "scope": place.space, "after": after, "first": 7 })).await;
            let page = &answer["exportEvents"];
            let exchanges = page["events"].as_array().unwrap().iter().filter(|event| event["class_uid"] == 3002);
            got.extend(uids(&exchanges.cloned().collect::<Vec<_>>()));
            after = page["pageInfo"]["endCursor"].clone();
            if sent.len() == 30 && got.len() >= sent.len() {
                break;
            }
            assert!(Instant::now() < deadline, "{} of {} events", got.len(), sent.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(got.iter().cloned().collect::<BTreeSet<_>>(), sent);
        assert_eq!(got.len(), sent.len(), "nothing twice");
    });
}

/// A collector's process, which dies with the test.
struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Collector {
    fn follow(server: &Server, output: &Path, state: &Path) -> Self {
        let (output, state) = (output.to_str().unwrap(), state.to_str().unwrap());
        let mut command = command(server, &["export", "--follow", "--output", output, "--state", state]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs"))
    }

    /// Asks it to stop, and returns its exit status.
    fn terminate(mut self) -> Option<i32> {
        Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status().expect("kill");
        self.0.wait().expect("it ends").code()
    }
}

#[test]
fn the_export_command_goes_on_where_it_was_however_it_ended() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        world.binding(&place.space, "exported", &["viewer"]).await;
        let (output, state) = (world.server.path("events.json"), world.server.path("cursor"));
        let mut references = Vec::new();
        for subject in ["exported", "refused", "exported"] {
            references.push(exchanged(&world, &place, subject).await.1);
        }
        let lines = || events(so_far(&read(&output)));
        let complete = async |what: &str, references: &[String]| {
            eventually(what, SETTLED, async || {
                let found: BTreeSet<String> = uids(&lines()).into_iter().collect();
                references.iter().all(|reference| found.contains(reference)).then_some(())
            })
            .await;
        };
        let collector = Collector::follow(&world.server, &output, &state);
        complete("the first events", &references).await;
        // kill -9: the cursor is never ahead of what is on disk.
        drop(collector);
        let killed_at = lines().len();
        for _ in 0..3 {
            references.push(exchanged(&world, &place, "exported").await.1);
        }
        let collector = Collector::follow(&world.server, &output, &state);
        complete("what happened while nobody collected", &references).await;
        assert_eq!(collector.terminate(), Some(0), "asked to stop, it stops");
        assert!(killed_at < lines().len());
        let all = lines();
        // What was on disk when the process was killed may be there once more: ids tell.
        let mut seen = BTreeSet::new();
        let once: Vec<&Value> = all.iter().filter(|event| seen.insert(event["metadata"]["uid"].to_string())).collect();
        assert!(once.is_sorted_by_key(|event| event["time"].as_i64()), "oldest first");
        let classes: BTreeSet<i64> = all.iter().map(|event| event["class_uid"].as_i64().unwrap()).collect();
        assert_eq!(classes, BTreeSet::from([3002, 6003]), "exchanges and management changes");

        // Once, to standard output: as much as is settled, and the cursor to go on with.
        let once = command(&world.server, &["export", "--scope", &place.space]).output().unwrap();
        let of_space = events(&succeeded(&once));
        assert!(of_space.iter().all(|event| event["unmapped"]["scope_mrn"] == json!(place.space)), "{of_space:?}");
        assert!(references.iter().all(|reference| uids(&of_space).contains(reference)));
        let told = String::from_utf8_lossy(&once.stderr).into_owned();
        let cursor = told.rsplit_once("--after ").unwrap_or_else(|| panic!("{told}")).1.trim().to_owned();
        let rest = command(&world.server, &["export", "--scope", &place.space, "--after", &cursor]).output().unwrap();
        assert!(succeeded(&rest).is_empty());
        let start = all[0]["time_dt"].as_str().unwrap();
        let until = command(&world.server, &["export", "--until", start]).output().unwrap();
        assert!(succeeded(&until).is_empty());
        let since = command(&world.server, &["export", "--since", start]).output().unwrap();
        let again: BTreeSet<String> = uids(&events(&succeeded(&since))).into_iter().collect();
        assert!(again.is_superset(&uids(&all).into_iter().collect()));
        // No secret, no token.
        let text = read(&output);
        for secret in ["BEGIN", "eyJ", &world.admin] {
            assert!(!text.contains(secret), "{secret}");
        }
        for (arguments, named) in [
            (&["export", "--since", "yesterday"][..], "--since"),
            (&["export", "--scope", "everything"], "--scope"),
            (&["export", "--after", "nonsense"], "cursor"),
        ] {
            let refused = command(&world.server, arguments).output().unwrap();
            assert!(!refused.status.success());
            assert!(String::from_utf8_lossy(&refused.stderr).contains(named), "{refused:?}");
        }
    });
}

#[test]
fn the_event_log_has_every_event_and_may_be_moved_away() {
    run(async {
        let mut file = None;
        let mut world = World::with(|setup| {
            let path = setup.path("events.json");
            setup.set("SALLYPORT_EVENT_LOG", path.to_str().unwrap());
            file = Some(path);
        })
        .await;
        let file = file.unwrap();
        let place = world.place().await;
        let binding = world.binding(&place.space, "logged", &["viewer"]).await;
        let (granted, first) = exchanged(&world, &place, "logged").await;
        let (refused, second) = exchanged(&world, &place, "stranger").await;
        assert_eq!((granted, refused), (200, 403));
        let has = async |wanted: &[&str]| {
            eventually(&format!("{wanted:?} in the event log"), Duration::from_secs(20), async || {
                let found = uids(&events(so_far(&read(&file))));
                wanted.iter().all(|uid| found.iter().any(|f| f == uid)).then_some(())
            })
            .await;
        };
        has(&[&first, &second]).await;
        let logged = events(so_far(&read(&file)));
        let operations: Vec<&str> = logged.iter().filter_map(|event| event["api"]["operation"].as_str()).collect();
        assert_eq!(operations[..2], ["bootstrap", "rotateKeys"], "the first start is in it: {operations:?}");
        assert!(operations.contains(&"createWIFAuthBinding"), "{operations:?}");
        let of = |uid: &str| logged.iter().find(|event| event["metadata"]["uid"] == uid).unwrap();
        assert_eq!((&of(&first)["status"], &of(&second)["status_detail"]), (&json!("Success"), &json!("subject")));
        assert_eq!(of(&first)["src_endpoint"]["ip"], "127.0.0.1");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        // Rotated by whoever rotates logs.
        std::fs::rename(&file, world.server.path("events.1.json")).unwrap();
        let (_, third) = exchanged(&world, &place, "logged").await;
        has(&[&third]).await;
        assert!(!read(&file).contains(&first), "a new file");
        let bearer = world.access_token(&binding.client_id, &world.token("logged", &place.space)).await;
        world.post_form("/auth/v1/revoke", &[("token", bearer.as_str())], None).await;
        assert_eq!(world.server.terminate(), 0);
        let last = events(&read(&file));
        assert_eq!(last.last().unwrap()["api"]["operation"], "revokeCredentials", "what is left is written at the end");
        // What a process that was killed left of a line is a line of its own, and spoils no other.
        let torn = read(&file) + r#"{"class_uid":3002,"metada"#;
        std::fs::write(&file, &torn).unwrap();
        world.server.start_again().await;
        let (_, fourth) = exchanged(&world, &place, "logged").await;
        eventually("an event after the torn line", Duration::from_secs(20), async || {
            let added = read(&file).strip_prefix(&torn).expect("what is there stays").to_owned();
            let added = events(so_far(added.strip_prefix('\n')?));
            uids(&added).contains(&fourth).then_some(())
        })
        .await;
        assert_eq!(world.server.terminate(), 0);
        let text = format!("{}{}", read(&file), read(&world.server.path("events.1.json")));
        for secret in ["BEGIN", "eyJ", &world.admin] {
            assert!(!text.contains(secret), "{secret}");
        }
    });
}

#[test]
fn on_standard_output_there_are_events_and_nothing_else() {
    run(async {
        let world = World::with(|setup| {
            setup.set("SALLYPORT_EVENT_LOG", "stdout").unset("SALLYPORT_BOOTSTRAP_TOKEN");
        })
        .await;
        let log = world.server.log();
        let token = log.lines().map(str::trim).find(|line| line.starts_with("sallyport_"));
        let token = token.unwrap_or_else(|| panic!("the first token is shown to whoever started the server: {log}"));
        let create = "mutation { createOrganization(input: {name: \"n\"}) { mrn } }";
        world.graphql_as(token, create, json!({})).await;
        eventually("the change on standard output", Duration::from_secs(20), async || {
            let lines = events(so_far(&world.server.stdout()));
            lines.iter().any(|event| event["api"]["operation"] == "createOrganization").then_some(())
        })
        .await;
        assert!(!world.server.stdout().contains(token), "whoever collects events does not collect it");
    });
}

/// The event log is a mirror: neither a disk that refuses nor a pipe that nobody reads delays or loses an exchange.
#[test]
fn an_event_log_that_cannot_be_written_costs_lines_and_no_exchange() {
    run(async {
        let mut pipe = None;
        let mut world = World::with(|setup| {
            let path = setup.path("pipe");
            assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
            setup.set("SALLYPORT_EVENT_LOG", path.to_str().unwrap());
            // Somebody holds the reading end, and does not read.
            pipe = Some(OpenOptions::new().read(true).write(true).open(&path).unwrap());
        })
        .await;
        let place = world.place().await;
        world.binding(&place.space, "stuck", &["viewer"]).await;
        // Several times what a pipe takes.
        for _ in 0..150 {
            assert_eq!(exchanged(&world, &place, "stuck").await.0, 200);
        }
        assert_eq!(recorded(&world, &place.space).await, 150);
        let began = Instant::now();
        assert_eq!(world.server.terminate(), 0, "{}", world.server.log());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(world.server.log().contains("the event log could not be written to its end"));
        drop(pipe);

        // A folder that is gone.
        let folder = world.server.path("logs");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("events.json");
        world.server.environment.insert("SALLYPORT_EVENT_LOG".into(), file.display().to_string());
        world.server.start_again().await;
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(exchanged(&world, &place, "stuck").await.0, 200);
        eventually("the loss to be counted", Duration::from_secs(20), async || {
            let lost = metric(&world, "sallyport_events_unwritten_total", "reason=\"write_failed\"").await;
            (lost >= 1).then_some(())
        })
        .await;
        std::fs::create_dir(&folder).unwrap();
        let (_, reference) = exchanged(&world, &place, "stuck").await;
        eventually("the log to go on", Duration::from_secs(20), async || {
            read(&file).contains(&reference).then_some(())
        })
        .await;
        world.server.terminate();
        // One that cannot be written from the start keeps the server from starting.
        std::fs::remove_dir_all(&folder).unwrap();
        let refused = command(&world.server, &["serve"]).output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("event_log"), "{refused:?}");
    });
}

#[test]
fn what_is_old_is_forgotten_unless_its_credential_lives() {
    run(async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let mut world = World::with(|setup| {
            setup.on_postgres(postgres);
            setup.set("SALLYPORT_RETENTION_DAYS", "30");
        })
        .await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "kept", &["viewer"]).await;
        let (_, old) = exchanged(&world, &place, "refused").await;
        let bearer = world.access_token(&binding.client_id, &world.token("kept", &place.space)).await;
        let (_, young) = exchanged(&world, &place, "refused").await;
        world.server.terminate();
        let database = world.server.environment["SALLYPORT_DATABASE_URL"].rsplit('/').next().unwrap().to_owned();
        let age = 31_i64 * 86_400 * 1_000_000;
        let aged = format!("UPDATE exchanges SET time = time - {age} WHERE id <> '{young}'");
        postgres.sql(&database, &aged).unwrap();
        postgres
            .sql(&database, &format!("UPDATE audit_entries SET time = time - {age} WHERE action = 'createSpace'"))
            .unwrap();
        world.server.start_again().await;
        let list = "query($scope: String!) { listExchanges(scopeMrn: $scope) { exchanges { reference granted } } }";
        let left = eventually("the old exchange to go", Duration::from_secs(30), async || {
            let listed = world.graphql(list, json!({ "scope": place.space })).await;
            let exchanges = listed["listExchanges"]["exchanges"].as_array().unwrap().clone();
            exchanges.iter().all(|exchange| exchange["reference"] != json!(old)).then_some(exchanges)
        })
        .await;
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.iter().any(|exchange| exchange["reference"] == json!(young)));
        assert!(left.iter().any(|exchange| exchange["granted"] == json!(true)), "a live credential keeps its record");
        assert_eq!(world.ping(&bearer).await, 200);
        let changes =
            "{ listAuditEntries(scopeMrn: \"//platform.api.mondoo.app\", first: 1000) { entries { action } } }";
        eventually("the old management change to go", Duration::from_secs(30), async || {
            let listed = world.graphql(changes, json!({})).await.to_string();
            assert!(listed.contains("createOrganization"));
            (!listed.contains("createSpace")).then_some(())
        })
        .await;
        assert!(metric(&world, "sallyport_forgotten_total", "what=\"exchanges\"").await >= 1);
    });
}

#[test]
fn what_the_program_and_its_operator_did_is_on_record() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "revoked", &["viewer"]).await;
        let bearer = world.access_token(&binding.client_id, &world.token("revoked", &place.space)).await;
        let request = world.http.post(format!("{}/auth/v1/revoke", world.server.url)).body(format!("token={bearer}"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(Reply::to(request.header("x-request-id", "by-possession")).await.status, 200);
        succeeded(&command(&world.server, &["keys", "rotate"]).output().unwrap());
        let list = "{ listAuditEntries(scopeMrn: \"//platform.api.mondoo.app\", first: 1000) { entries { \
                    actorMrn action targetMrn before after requestId sourceIp } } }";
        let listed = world.graphql(list, json!({})).await;
        let entries = listed["listAuditEntries"]["entries"].as_array().unwrap();
        let of = |action: &str| entries.iter().filter(|e| e["action"] == action).collect::<Vec<_>>();
        let revoked = of("revokeCredentials");
        assert_eq!(revoked.len(), 1, "{entries:?}");
        assert_eq!((&revoked[0]["requestId"], &revoked[0]["sourceIp"]), (&json!("by-possession"), &json!("127.0.0.1")));
        assert_eq!(revoked[0]["actorMrn"], json!(binding.service_account));
        let platform = json!("//platform.api.mondoo.app");
        let bootstrap = of("bootstrap");
        assert_eq!((bootstrap.len(), &bootstrap[0]["actorMrn"]), (1, &platform));
        assert!(bootstrap[0]["targetMrn"].as_str().unwrap().contains("/apitokens/"));
        let rotated = of("rotateKeys");
        let by = |by: &str| rotated.iter().filter(|e| e["after"]["by"] == by).count();
        assert_eq!(by("start"), by("command"), "each purpose once at the first start, once by command: {rotated:?}");
        assert!(by("start") >= 2 && rotated.iter().all(|e| e["actorMrn"] == platform));
        let command = rotated.iter().find(|e| e["after"]["by"] == "command").unwrap();
        let keys = |side: &str| command[side]["keys"].as_array().unwrap().len();
        assert!(keys("before") < keys("after"), "{command}");
        assert!(!listed.to_string().contains("PRIVATE"));
    });
}

/// A verified token of the platform's own provider is a stranger's to a tenant that it does not belong to.
#[test]
fn tenants_cannot_fill_each_others_log_through_a_provider_of_the_platform() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        let provider = world.provider("//platform.api.mondoo.app", world.issuer.uri()).await;
        let account = world.service_account(&place.space, &["agent"]).await;
        let input =
            json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "ours" });
        let (_, client_id) = world.trust(input).await;
        let began = Instant::now();
        for number in 0..150 {
            let token = world.issuer.mint(claims(&world.issuer, &format!("theirs-{number}"), world.tenant_host()));
            assert_eq!(world.oauth(&client_id, &token, &[]).await.status, 400);
        }
        let kept = recorded(&world, &place.space).await;
        assert!((60..=61 + began.elapsed().as_secs()).contains(&kept), "{kept} recorded in {:?}", began.elapsed());
    });
}
