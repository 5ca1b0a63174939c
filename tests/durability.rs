//! Story: what was acknowledged survives `kill -9`, and what was refused leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Setup, World, eventually, fixture, role, run};

const COUNTS: &str = "query($scope: String!) { bindings: listWIFAuthBindings(scopeMrn: $scope) { totalCount } \
providers: listWIFProviders(scopeMrn: $scope) { totalCount } trusts: listWIFTrusts(scopeMrn: $scope) { totalCount } \
accounts: listServiceAccounts(scopeMrn: $scope) { totalCount } }";

#[test]
fn kill_nine_loses_neither_configuration_nor_live_credentials() {
    run(async {
        let mut world = World::new().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "durable", &["viewer"]).await;
        let reader = world.api_token(&place.space, &["viewer"]).await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        let token = world.token("durable", &place.space);
        let get = fixture("get_binding.graphql");
        let before = world.graphql(&get, json!({ "mrn": binding.mrn })).await;
        let reply = world.exchange(&place.space, world.issuer.uri(), &token).await;
        let document = crate::support::document(&reply);
        let bearer = world.access_token(&binding.client_id, &token).await;
        let revoked = world.access_token(&binding.client_id, &token).await;
        world.post_form("/auth/v1/revoke", &[("token", revoked.as_str())], None).await;
        let keys = format!("{}/auth/v1/jwks", world.server.url);
        let keys_before = crate::support::Reply::to(world.http.get(&keys)).await.json();
        // Killed right after the answer: nothing was given time to settle.
        world.server.kill();
        world.server.start_again().await;

        assert_eq!(world.signed_ping(&document).await, 200, "the key pair");
        assert_eq!(world.ping(&bearer).await, 200, "the access token");
        assert_eq!(world.ping(&revoked).await, 401, "a revocation is kept");
        let standing = json!({ "mrn": account["mrn"], "private_key": account["privateKey"] });
        assert_eq!(world.signed_ping(&standing).await, 200, "the standing key");
        let after = world.graphql_as(&reader, &get, json!({ "mrn": binding.mrn })).await;
        let without_use = |answer: &Value| {
            let mut binding = answer["getWIFAuthBinding"]["binding"].clone();
            binding.as_object_mut().unwrap().remove("lastUsed");
            binding
        };
        assert_eq!(without_use(&after), without_use(&before));
        // That use was in memory only, and is looked up in the record.
        eventually("the use", Duration::from_secs(20), async || {
            let found = world.graphql_as(&reader, &get, json!({ "mrn": binding.mrn })).await;
            found["getWIFAuthBinding"]["binding"]["lastUsed"].is_string().then_some(())
        })
        .await;
        let record = world.record(&place.space, &reply.reference()).await;
        assert_eq!((&record["granted"], &record["credentialMrn"]), (&json!(true), &document["mrn"]));
        assert_eq!(crate::support::Reply::to(world.http.get(&keys)).await.json(), keys_before, "the signing keys");
        assert_eq!(world.exchange(&place.space, world.issuer.uri(), &token).await.status, 200);

        world.unbind(&binding.mrn).await;
        world.server.kill();
        world.server.start_again().await;
        assert_eq!((world.signed_ping(&document).await, world.ping(&bearer).await), (401, 401), "a removal is kept");
    });
}

#[test]
fn a_kill_between_writes_leaves_whole_bindings_only() {
    run(async {
        let mut world = World::new().await;
        let place = world.place().await;
        let acknowledged = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let create =
            "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn } } }";
        let mut writers = Vec::new();
        for writer in 0..4 {
            let (http, url, admin) = (world.http.clone(), format!("{}/query", world.server.url), world.admin.clone());
            let (acknowledged, stop, space) = (Arc::clone(&acknowledged), Arc::clone(&stop), place.space.clone());
            writers.push(tokio::spawn(async move {
                for number in 0.. {
                    let input = json!({ "scopeMrn": space, "name": "n", "issuerUri": format!("https://127.0.0.1:1/{writer}/{number}"),
                                        "subject": "s" });
                    let body = json!({ "query": create, "variables": { "input": input } });
                    let Ok(answer) = http.post(&url).bearer_auth(&admin).json(&body).send().await else { return };
                    let Ok(answer) = answer.json::<Value>().await else { return };
                    if let Some(mrn) = answer.pointer("/data/createWIFAuthBinding/binding/mrn").and_then(Value::as_str) {
                        acknowledged.lock().unwrap().push(mrn.to_owned());
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }));
        }
        eventually("a dozen bindings", Duration::from_secs(60), async || {
            (acknowledged.lock().unwrap().len() >= 12).then_some(())
        })
        .await;
        world.server.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        world.server.start_again().await;
        let acknowledged = acknowledged.lock().unwrap().clone();
        for mrn in &acknowledged {
            world.graphql(&fixture("get_binding.graphql"), json!({ "mrn": mrn })).await;
        }
        let counts = world.graphql(COUNTS, json!({ "scope": place.space })).await;
        let count = |name: &str| counts[name]["totalCount"].as_u64().unwrap();
        assert!(count("bindings") >= acknowledged.len() as u64, "{counts}");
        // Each has its account and, since each has its own issuer, its implicit provider: nothing is left half-written.
        assert_eq!((count("accounts"), count("providers")), (count("bindings"), count("bindings")), "{counts}");
    });
}

#[test]
fn a_refused_mutation_leaves_nothing_half_written() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        let create =
            "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn } } }";
        let input = json!({ "scopeMrn": place.space, "name": "n", "issuerUri": world.issuer.uri(), "subject": "once" });
        world.bind(input.clone()).await;
        let liar = world.another_issuer().await;
        let mut discovery = liar.discovery();
        discovery["issuer"] = json!("https://somebody.else.example");
        liar.set_discovery_override(Some(discovery));
        let fresh = world.another_issuer().await;
        let before = world.graphql(COUNTS, json!({ "scope": place.space })).await;
        let with = |name: &str, value: Value| {
            let mut changed = input.clone();
            changed["issuerUri"] = json!(fresh.uri());
            changed[name] = value;
            changed
        };
        let refused = [
            ("a duplicate", input.clone()),
            ("an unknown role", with("roles", json!([role("viewer"), role("nobody")]))),
            ("a wrong lifetime", with("expiration", json!(0))),
            ("a wrong condition", with("condition", json!("claims.("))),
            ("a wrong issuer", with("issuerUri", json!(liar.uri()))),
        ];
        for (what, input) in refused {
            world.refused(create, json!({ "input": input })).await;
            assert_eq!(world.graphql(COUNTS, json!({ "scope": place.space })).await, before, "{what}");
        }
        // Several mutations in one document: each stands alone, in order.
        let document = "mutation($good: CreateWIFAuthBindingInput, $bad: CreateWIFAuthBindingInput) { \
                        bad: createWIFAuthBinding(input: $bad) { binding { mrn } } \
                        good: createWIFAuthBinding(input: $good) { binding { mrn } } }";
        let variables = json!({ "good": with("subject", json!("second")), "bad": with("expiration", json!(-5)) });
        let answer = world.query(Some(&world.admin), document, &variables).await.json();
        assert_eq!(answer["errors"].as_array().map(Vec::len), Some(1), "{answer}");
        let after = world.graphql(COUNTS, json!({ "scope": place.space })).await;
        let count = |answer: &Value| answer["bindings"]["totalCount"].as_u64().unwrap();
        assert!(count(&after) - count(&before) <= 1, "{after}");
        assert_eq!(after["accounts"]["totalCount"], after["bindings"]["totalCount"], "{after}");
    });
}

#[test]
fn a_polite_stop_lets_requests_finish_and_exits_with_zero() {
    run(async {
        let mut world = World::new().await;
        let place = world.place().await;
        world.binding(&place.space, "drained", &[]).await;
        let token = world.token("drained", &place.space);
        let body = json!({ "audience": place.space, "issuer_uri": world.issuer.uri(), "jwt_token": token }).to_string();
        // The issuer takes its time, so that the exchange is under way when the signal comes.
        world.issuer.set_failure(sallyport_testkit::Failure::Slow(Duration::from_millis(700)));
        let request =
            world.http.post(format!("{}/SecureTokenService/ExchangeExternalToken", world.server.url)).body(body);
        let fetched = world.issuer.connections();
        let exchange = tokio::spawn(request.header("content-type", "application/json").send());
        let issuer = &world.issuer;
        // Either the server fetches keys for this exchange, or it has them and the answer is out already.
        eventually("the exchange to be under way", Duration::from_secs(10), async || {
            (issuer.connections() > fetched || exchange.is_finished()).then_some(())
        })
        .await;
        let status = world.server.terminate();
        assert_eq!(exchange.await.unwrap().expect("the answer still comes").status(), 200);
        assert_eq!(status, 0, "{}", world.server.log());
    });
}

/// On either listener, with TLS and without.
#[test]
fn who_says_nothing_keeps_no_server_from_stopping() {
    run(async {
        let authority = sallyport_testkit::TestAuthority::new().unwrap();
        let mut setup = Setup::new();
        setup.serve_https(&authority);
        let mut server = setup.start().await;
        let connect = async |url: &str| {
            let (_, address) = url.split_once("://").unwrap();
            TcpStream::connect(address).await.unwrap()
        };
        let (main, admin) = (server.url.clone(), server.admin_url.clone());
        // Before a handshake, before a request, and in the middle of finding out which protocol it is.
        let mut silent = vec![connect(&main).await, connect(&admin).await, connect(&admin).await];
        silent[2].write_all(b"PRI * HTTP/2.0").await.unwrap();
        // After an answer.
        let client = World::client_trusting(authority.ca_pem());
        for url in [format!("{main}/.well-known/openid-configuration"), format!("{admin}/livez")] {
            assert!(!client.get(url).send().await.unwrap().bytes().await.unwrap().is_empty());
        }
        let asked = Instant::now();
        assert_eq!(server.terminate(), 0, "{}", server.log());
        // They have ten seconds otherwise, and what is under way has twenty.
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        for mut stream in silent {
            // It may be told so, or cut off.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
}

#[test]
fn secrets_at_rest_and_in_logs_are_not_readable() {
    run(async {
        let mut world = World::with(|setup| {
            setup.set("SALLYPORT_LOG", "trace");
        })
        .await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "secret", &[]).await;
        let token = world.token("secret", &place.space);
        let document = world.credential(&place.space, &token).await;
        let bearer = world.access_token(&binding.client_id, &token).await;
        let api = world.api_token(&place.space, &["viewer"]).await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        let world_log = {
            world.server.terminate();
            world.server.log()
        };
        let mut kept: Vec<(String, Vec<u8>)> = vec![("the log".to_owned(), world_log.into_bytes())];
        for entry in std::fs::read_dir(world.server.path("data")).into_iter().flatten() {
            let path = entry.unwrap().path();
            kept.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
        let line = |pem: &Value| pem.as_str().unwrap().lines().nth(2).unwrap().to_owned();
        let secrets = [
            ("the bootstrap token", world.admin.clone()),
            ("an API token", api),
            ("a workload's private key", line(&document["private_key"])),
            ("a standing private key", line(&account["privateKey"])),
            ("an access token's signature", bearer.rsplit('.').next().unwrap().to_owned()),
            ("a subject token's signature", token.rsplit('.').next().unwrap().to_owned()),
        ];
        for (place, bytes) in &kept {
            for (what, secret) in &secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{what} is readable in {place}");
            }
        }
    });
}
