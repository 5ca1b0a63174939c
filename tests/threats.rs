//! Story: what other products of this kind got wrong, where no other story tells it. docs/security.md says which test keeps
//! which promise.

use std::time::Duration;

use sallyport_testkit::{AccessKey, Algorithm, PresignOptions, presign};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::schema::{Kind, Schema};
use crate::support::tenant::Tenant;
use crate::support::{Ping, Reply, World, claims, document, eventually, now, role, run, sallyport, sign};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// Whatever can be switched off: nothing is minted any more from that moment on, and what was minted is suspended.
#[test]
fn what_is_disabled_mints_nothing_from_that_moment_on() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let input =
            json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "off" });
        let (trust, client_id) = world.trust(input).await;
        let api_token = world.api_token(&place.space, &["viewer"]).await;
        let token = world.token("off", &place.space);
        let bearer = world.access_token(&client_id, &token).await;
        let key_pair = world.credential(&place.space, &token).await;
        let switch = |mutation: &str, payload: &str| {
            format!(
                "mutation($mrn: String!, $off: Boolean) {{ {mutation}(input: {{mrn: $mrn, disabled: $off}}) {{ {payload} }} }}"
            )
        };
        let binding = world.binding(&place.space, "bound", &["viewer"]).await;
        let bound = world.token("bound", &place.space);
        let of_binding = world.access_token(&binding.client_id, &bound).await;
        let stranger = world.oauth("calm-wolf-00000", &token, &[]).await.without_reference();
        for (what, mutation, mrn, scope_wide) in [
            ("trust", switch("updateWIFTrust", "trust { mrn }"), json!(trust), false),
            ("provider", switch("updateWIFProvider", "provider { mrn }"), json!(provider), false),
            ("service account", switch("updateServiceAccount", "mrn"), account["mrn"].clone(), false),
            ("space", switch("updateSpace", "mrn"), json!(place.space), true),
            ("organization", switch("updateOrganization", "mrn"), json!(place.organization), true),
        ] {
            world.graphql(&mutation, json!({ "mrn": mrn, "off": true })).await;
            let refused = world.oauth(&client_id, &token, &[]).await;
            assert_eq!(refused.without_reference(), stranger, "a disabled {what} looks like one that is not there");
            assert_eq!(world.exchange(&place.space, world.issuer.uri(), &token).await.status, 403, "{what}");
            assert_eq!((world.ping(&bearer).await, world.signed_ping(&key_pair).await), (401, 401), "{what}");
            let viewer = world.query(Some(&api_token), "{ viewer { mrn } }", &json!({})).await.json();
            assert_eq!(viewer.get("errors").is_some(), scope_wide, "{what}: API tokens of the scope: {viewer}");
            let standing = sign(&json!({ "mrn": account["mrn"], "private_key": account["privateKey"] }), Ping::NoHash);
            let viewer = world.query(Some(&standing), "{ viewer { mrn } }", &json!({})).await.json();
            assert_eq!(
                viewer.get("errors").is_some(),
                scope_wide || what == "service account",
                "{what}: standing key: {viewer}"
            );
            world.graphql(&mutation, json!({ "mrn": mrn, "off": false })).await;
            assert_eq!(world.oauth(&client_id, &token, &[]).await.status, 200, "{what}, enabled again");
            assert_eq!(
                (world.ping(&bearer).await, world.signed_ping(&key_pair).await),
                (200, 200),
                "{what}, enabled again"
            );
        }
        let switch = switch("updateWIFAuthBinding", "binding { mrn }");
        world.graphql(&switch, json!({ "mrn": binding.mrn, "off": true })).await;
        assert_eq!(world.oauth(&binding.client_id, &bound, &[]).await.status, 400);
        assert_eq!(world.ping(&of_binding).await, 401);
        world.graphql(&switch, json!({ "mrn": binding.mrn, "off": false })).await;
        assert_eq!(world.ping(&of_binding).await, 200);
    });
}

#[test]
fn credentials_of_every_sort_end_on_time() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "short", "issuerUri": world.issuer.uri(), "subject": "short",
                            "roles": [role("viewer")], "expiration": 3 });
        let binding = world.bind(input).await;
        let token = world.token("short", &place.space);
        let bearer = world.access_token(&binding.client_id, &token).await;
        let key_pair = world.credential(&place.space, &token).await;
        let end = time_of(now() + 3);
        let create = "mutation($s: String!, $u: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"short\", validUntil: $u}) \
                      { mrn privateKey } }";
        let account = world.graphql(create, json!({ "s": place.space, "u": end })).await["createServiceAccount"].take();
        let account = json!({ "mrn": account["mrn"], "private_key": account["privateKey"] });
        let still =
            async || [world.ping(&bearer).await, world.signed_ping(&key_pair).await, world.signed_ping(&account).await];
        // On a slow machine the three seconds may be over before they are looked at; what counts is that they end.
        let first = still().await;
        assert!(first.iter().all(|status| matches!(status, 200 | 401)), "{first:?}");
        eventually("the end of all three", Duration::from_secs(15), async || (still().await == [401; 3]).then_some(()))
            .await;
        let introspected =
            world.post_form("/auth/v1/introspect", &[("token", bearer.as_str())], Some(&world.admin)).await;
        assert_eq!(introspected.json(), json!({ "active": false }));
    });
}

/// RFC 3339 of Unix seconds.
fn time_of(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}

#[test]
fn limits_of_a_trust_and_of_all_together_say_when_to_come_back() {
    run(async {
        let world = World::with(|setup| {
            setup.set("SALLYPORT_LIMIT_PER_TRUST", "1");
        })
        .await;
        let place = world.place().await;
        let (one, other) =
            (world.binding(&place.space, "one", &[]).await, world.binding(&place.space, "other", &[]).await);
        let token = world.token("one", &place.space);
        let many = (0..20).map(|_| world.oauth(&one.client_id, &token, &[]));
        let many = futures::future::join_all(many).await;
        let limited = many.into_iter().find(|reply| reply.status != 200);
        told_to_wait(&limited.expect("twenty at once exceed one a second"));
        let reply = world.oauth(&other.client_id, &world.token("other", &place.space), &[]).await;
        assert_eq!(reply.status, 200, "another trust has its own: {}", reply.text());
        // Strangers spend nothing of a trust's.
        let foreign = world.issuer.sign_with_foreign_key(Algorithm::Rs256, world.claims("other", &place.space));
        for _ in 0..20 {
            assert_eq!(world.oauth(&other.client_id, &foreign, &[]).await.status, 400);
        }
        eventually("another exchange of the same trust", Duration::from_secs(5), async || {
            let reply = world.oauth(&other.client_id, &world.token("other", &place.space), &[]).await;
            (reply.status == 200).then_some(())
        })
        .await;

        let world = World::with(|setup| {
            setup.set("SALLYPORT_LIMIT_GLOBAL", "2");
        })
        .await;
        let token = world.token("x", "y");
        let many = futures::future::join_all((0..30).map(|_| world.oauth("nobody", &token, &[]))).await;
        let limited = many.into_iter().find(|reply| reply.status != 400);
        told_to_wait(&limited.expect("thirty at once exceed two a second"));
    });
}

fn told_to_wait(reply: &Reply) {
    assert_eq!((reply.status, &reply.json()["error"]), (429, &json!("temporarily_unavailable")), "{}", reply.text());
    assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{reply:?}");
    reply.reference();
}

#[test]
fn strangers_cannot_fill_a_tenants_log() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        world.binding(&place.space, "log", &[]).await;
        let foreign = world.issuer.sign_with_foreign_key(Algorithm::Rs256, world.claims("log", &place.space));
        let counted = async || {
            let metrics = Reply::to(world.http.get(format!("{}/metrics", world.server.admin_url))).await.text();
            let line = metrics
                .lines()
                .find(|line| line.starts_with(r#"sallyport_exchanges_unrecorded_total{why="unverified"}"#));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).expect("the counter")
        };
        for _ in 0..200 {
            assert_eq!(world.exchange(&place.space, world.issuer.uri(), &foreign).await.status, 403);
        }
        // Nothing located at all: not on record anywhere.
        for _ in 0..50 {
            world.exchange("//captain.api.mondoo.app/spaces/nowhere-at-all", world.issuer.uri(), &foreign).await;
        }
        let list = "query($s: String!) { listExchanges(scopeMrn: $s, granted: false) { totalCount } }";
        let kept = async |scope: &str| {
            world.graphql(list, json!({ "s": scope })).await["listExchanges"]["totalCount"].as_f64().expect("a number")
        };
        let (recorded, unrecorded) = (kept(&place.space).await, counted().await);
        // Sixty a minute; the test may take a part of one.
        assert!((60.0..150.0).contains(&recorded), "{recorded}");
        assert!((recorded + unrecorded - 200.0).abs() < f64::EPSILON, "{recorded} on record, {unrecorded} counted");
        assert!(
            (kept("//platform.api.mondoo.app").await - recorded).abs() < f64::EPSILON,
            "what located nothing is nowhere"
        );
        // Whoever verifies is on record all the same, granted or refused.
        let granted = world.exchange(&place.space, world.issuer.uri(), &world.token("log", &place.space)).await;
        assert_eq!(world.record(&place.space, &granted.reference()).await["granted"], json!(true));
        let refused = world.exchange(&place.space, world.issuer.uri(), &world.token("nobody", &place.space)).await;
        assert_eq!(world.record(&place.space, &refused.reference()).await["reason"], json!("subject"));
    });
}

/// A stranger with a bad token must not learn from its fault's name whether anything is there.
#[test]
fn a_fault_of_the_token_is_named_alike_where_something_is_configured_and_where_nothing_is() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "faults", &[]).await;
        let good = world.claims("faults", &place.space);
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            world.issuer.mint(&claims)
        };
        let none = world.issuer.mint_raw(
            json!({ "alg": "none" }),
            good.to_string().as_bytes(),
            &sallyport_testkit::Signer::None,
        );
        let nowhere = "//captain.api.mondoo.app/spaces/no-such-space";
        let no_client = format!("calm-wolf-00000@{}", binding.client_id.split_once('@').expect("a domain").1);
        for (what, token) in [
            ("no token at all", "garbage".to_owned()),
            ("a claim of a wrong type", with("exp", json!("soon"))),
            ("expired", with("exp", json!(now() - 3_600))),
            ("from the future", with("iat", json!(now() + 3_600))),
            ("no algorithm", none),
            ("an honest token of somebody else's", world.token("somebody else", &place.space)),
        ] {
            let there = world.exchange(&place.space, world.issuer.uri(), &token).await;
            for (scope, issuer) in
                [(nowhere, world.issuer.uri()), (&place.space, "https://nobody.configured.example"), ("x", "y")]
            {
                let reply = world.exchange(scope, issuer, &token).await;
                assert_eq!(there.without_reference(), reply.without_reference(), "{what}: {scope} {issuer}");
            }
            let there = world.oauth(&binding.client_id, &token, &[]).await;
            let elsewhere = world.oauth(&no_client, &token, &[]).await;
            assert_eq!(there.without_reference(), elsewhere.without_reference(), "{what}");
        }
        let reply = world.exchange(&place.space, world.issuer.uri(), &with("exp", json!(now() + 60))).await;
        let elsewhere = world.exchange(nowhere, world.issuer.uri(), &with("exp", json!(now() + 60))).await;
        assert_eq!(reply.without_reference(), elsewhere.without_reference(), "too little time left");
    });
}

/// Server-side request forgery by whoever may make providers: through the issuer, the key set's URL, and later changes of both.
#[test]
fn no_provider_makes_the_server_ask_its_own_network() {
    run(async {
        let world = World::with(|setup| {
            setup.unset("SALLYPORT_OUTBOUND_ALLOW");
        })
        .await;
        let place = world.place().await;
        let port = world.issuer.address().port();
        let create = "mutation($i: CreateWIFProviderInput!) { createWIFProvider(input: $i) { provider { mrn } } }";
        let update = "mutation($i: UpdateWIFProviderInput!) { updateWIFProvider(input: $i) { provider { mrn } } }";
        let input = json!({ "scopeMrn": place.space, "name": "uploaded", "kind": "CUSTOM_OIDC", "issuerUri": "https://ci.example.com",
                            "jwks": world.issuer.jwks() });
        let provider =
            world.graphql(create, json!({ "i": input })).await["createWIFProvider"]["provider"]["mrn"].take();
        let targets = [
            format!("https://127.0.0.1:{port}"),
            format!("https://localhost:{port}"),
            format!("https://127.1:{port}"),
            format!("https://2130706433:{port}"),
            format!("https://0x7f000001:{port}"),
            format!("https://0177.0.0.1:{port}"),
            format!("https://[::1]:{port}"),
            format!("https://[::ffff:127.0.0.1]:{port}"),
            format!("https://[::ffff:7f00:1]:{port}"),
            format!("https://[64:ff9b::7f00:1]:{port}"),
            format!("https://[2002:7f00:1::]:{port}"),
            format!("https://0.0.0.0:{port}"),
            format!("http://127.0.0.1:{port}"),
            format!("https://user:password@127.0.0.1:{port}"),
            format!("https://ci.example.com@127.0.0.1:{port}"),
            format!("https://127.0.0.1:{port}#.example.com"),
            format!("https://127.0.0.1:{port}?.example.com"),
            format!("https://127.0.0.1:{port}/%2e%2e/"),
            "https://169.254.169.254/latest/meta-data/".into(),
            "https://[fd00:ec2::254]/".into(),
            "https://10.0.0.1".into(),
            "https://192.168.0.1".into(),
            "https://100.64.0.1".into(),
            "file:///etc/passwd".into(),
            "gopher://127.0.0.1/".into(),
            "https://\u{ff11}27.0.0.1".into(),
            "https://127\u{3002}0\u{3002}0\u{3002}1".into(),
        ];
        for target in &targets {
            for (document, input) in [
                (create, json!({ "scopeMrn": place.space, "name": "n", "kind": "CUSTOM_OIDC", "issuerUri": target })),
                (
                    create,
                    json!({ "scopeMrn": place.space, "name": "n", "kind": "CUSTOM_OIDC", "issuerUri": "https://ci.example.org", "jwksUri": target }),
                ),
                (
                    create,
                    json!({ "scopeMrn": place.space, "name": "n", "kind": "SPIFFE", "issuerUri": "spiffe://prod.example", "jwksUri": target }),
                ),
                (
                    create,
                    json!({ "scopeMrn": place.space, "name": "n", "kind": "CUSTOM_OIDC", "issuerUri": target, "dryRun": true }),
                ),
                (update, json!({ "mrn": provider, "issuerUri": target, "jwksUri": "" })),
                (update, json!({ "mrn": provider, "jwksUri": target })),
            ] {
                let refusal = world.refused(document, json!({ "i": input })).await;
                assert!(
                    matches!(refusal.code.as_str(), "INVALID_ARGUMENT" | "FAILED_PRECONDITION"),
                    "{target}: {refusal:?}"
                );
                assert!(matches!(refusal.field.as_str(), "issuerUri" | "jwksUri"), "{target}: {refusal:?}");
            }
            let bind =
                "mutation($i: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $i) { binding { mrn } } }";
            let input = json!({ "scopeMrn": place.space, "name": "n", "issuerUri": target, "subject": "s" });
            let refusal = world.refused(bind, json!({ "i": input })).await;
            assert_eq!(refusal.field, "issuerUri", "{target}: {refusal:?}");
        }
        assert_eq!(world.issuer.connections(), 0, "not even a connection");
        let list = "query($s: String!) { listWIFProviders(scopeMrn: $s) { totalCount } }";
        assert_eq!(world.graphql(list, json!({ "s": place.space })).await["listWIFProviders"]["totalCount"], json!(1));
    });
}

/// What was deleted leaves its id to nobody: whoever held a name of it would hold it again.
#[test]
fn a_scope_that_is_gone_takes_its_id_and_its_tokens_with_it() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let create = "mutation($o: String!) { createSpace(input: {name: \"n\", orgMrn: $o, id: \"once-and-never-again\"}) { mrn } }";
        let made = world.graphql(create, json!({ "o": place.organization })).await;
        let space = made["createSpace"]["mrn"].as_str().unwrap().to_owned();
        let binding = world.binding(&space, "gone", &["viewer"]).await;
        let token = world.token("gone", &space);
        let bearer = world.access_token(&binding.client_id, &token).await;
        let key_pair = world.credential(&space, &token).await;
        let generate = "mutation($s: String!, $r: [RoleInput!]) { generateAPIToken(input: {name: \"n\", scopeMrn: $s, roles: $r}) { mrn token } }";
        let api =
            world.graphql(generate, json!({ "s": space, "r": [{ "mrn": role("viewer") }] })).await["generateAPIToken"]
                .take();
        let delete = "mutation($mrn: String!) { deleteSpace(mrn: $mrn) { mrn } }";
        assert_eq!(world.refused(delete, json!({ "mrn": space })).await.code, "FAILED_PRECONDITION", "not empty");
        world.unbind(&binding.mrn).await;
        world
            .graphql(
                "mutation($mrn: String!) { deleteAPIToken(input: {mrn: $mrn}) { mrn } }",
                json!({ "mrn": api["mrn"] }),
            )
            .await;
        world.graphql(delete, json!({ "mrn": space })).await;
        for place in [&place.organization, &world.place().await.organization] {
            let refusal = world.refused(create, json!({ "o": place })).await;
            assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("ALREADY_EXISTS", "id"), "{refusal:?}");
        }
        assert_eq!((world.ping(&bearer).await, world.signed_ping(&key_pair).await), (401, 401));
        let secret = api["token"].as_str().unwrap();
        assert_eq!(world.refused_as(Some(secret), "{ viewer { mrn } }", &json!({})).await.code, "UNAUTHENTICATED");
        assert_eq!(world.exchange(&space, world.issuer.uri(), &token).await.status, 403);
        assert_eq!(world.oauth(&binding.client_id, &token, &[]).await.status, 400);
    });
}

#[test]
fn signing_keys_rotate_by_command_without_ending_anything_and_a_leaked_one_ends_all_it_signed() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "rotation", &["viewer"]).await;
        let honest = || world.token("rotation", &place.space);
        let old = world.access_token(&binding.client_id, &honest()).await;
        let old_pair = world.credential(&place.space, &honest()).await;
        let published = async || {
            let keys = Reply::to(world.http.get(format!("{}/auth/v1/jwks", world.server.url))).await.json();
            keys["keys"].as_array().expect("keys").iter().map(|key| key["kid"].to_string()).collect::<Vec<_>>()
        };
        let rotate = async |more: &'static [&'static str]| {
            let mut command = sallyport();
            command
                .args(["keys", "rotate"])
                .args(more)
                .envs(&world.server.environment)
                .current_dir(world.server.path(""));
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the program");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let before = published().await;
        rotate(&[]).await;
        let after = eventually("the new keys on the running server", Duration::from_secs(20), async || {
            let keys = published().await;
            (keys.len() > before.len()).then_some(keys)
        })
        .await;
        assert!(before.iter().all(|kid| after.contains(kid)), "the old ones stay: {before:?} {after:?}");
        assert_eq!((world.ping(&old).await, world.signed_ping(&old_pair).await), (200, 200));
        let signs = |token: &str| crate::support::header_of(token)["kid"].to_string();
        let next = world.access_token(&binding.client_id, &honest()).await;
        assert!(before.contains(&signs(&next)), "a new key is published a day before it signs");

        rotate(&["--leaked"]).await;
        eventually("the end of what the leaked key signed", Duration::from_secs(20), async || {
            (world.ping(&old).await == 401 && world.ping(&next).await == 401).then_some(())
        })
        .await;
        let keys = published().await;
        assert!(keys.iter().all(|kid| !before.contains(kid)), "{before:?} {keys:?}");
        let fresh = world.access_token(&binding.client_id, &honest()).await;
        assert!(keys.contains(&signs(&fresh)));
        assert_eq!(world.ping(&fresh).await, 200);
    });
}

/// What a CI job puts into its token is the job's word. Copied into ours, it stays in its corner.
#[test]
fn claims_passed_through_cannot_pose_as_ours() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["agent"]).await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let names = ["roles", "sub", "scope", "wif", "aud", "jti", "exp", "c1wfc", "client_id", "groups", "number"];
        let input = json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "poser",
                            "passthroughClaims": names });
        let (_, client_id) = world.trust(input).await;
        let mut claims = world.claims("poser", &place.space);
        for name in ["roles", "scope", "wif", "c1wfc", "client_id"] {
            claims[name] = json!(role("owner"));
        }
        claims["number"] = json!(1);
        let token = world.access_token(&client_id, &world.issuer.mint(&claims)).await;
        let ours = crate::support::claims_of(&token);
        assert_eq!(ours["roles"], json!([role("agent")]), "{ours}");
        assert_eq!((&ours["sub"], &ours["scope"]), (&account["mrn"], &json!("agent")), "{ours}");
        assert_eq!(ours["client_id"], json!(client_id), "{ours}");
        assert_eq!(ours["c1wfc"]["roles"], json!(role("owner")), "where it belongs: {ours}");
        for (name, value) in ours["c1wfc"].as_object().expect("an object") {
            assert!(value.is_string(), "{name} is text: {ours}");
        }
        let viewer = world.graphql_as(&token, "{ viewer { roles } }", json!({})).await;
        assert_eq!(viewer["viewer"]["roles"], json!([role("agent")]));
    });
}

/// A stuck issuer takes no place from the others, however many wait for it.
#[test]
fn a_hundred_exchanges_at_a_stuck_issuer_do_not_slow_one_elsewhere() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let stuck = world.another_issuer().await;
        world
            .bind(json!({ "scopeMrn": place.space, "name": "stuck", "issuerUri": stuck.uri(), "subject": "stuck" }))
            .await;
        world.binding(&place.space, "quick", &[]).await;
        let quick = world.token("quick", &place.space);
        assert_eq!(world.exchange(&place.space, world.issuer.uri(), &quick).await.status, 200);
        stuck.set_failure(sallyport_testkit::Failure::Hang);
        let before = stuck.connections();
        let waiting = (0..100).map(|n| {
            let mut claims = claims(&stuck, "stuck", &place.space);
            claims["n"] = json!(n);
            let token = stuck.mint_with(Algorithm::Es256, claims);
            let (place, uri) = (place.space.clone(), stuck.uri().to_owned());
            async move { world.exchange(&place, &uri, &token).await.status }
        });
        let elsewhere = async {
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                let begun = std::time::Instant::now();
                let reply = world.exchange(&place.space, world.issuer.uri(), &quick).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        };
        let (statuses, slowest) = tokio::join!(futures::future::join_all(waiting), elsewhere);
        assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
        // A stuck request takes five seconds; this machine is shared.
        assert!(slowest < Duration::from_secs(3), "{slowest:?}");
        assert!(stuck.connections() - before <= 8, "{} connections for a hundred tokens", stuck.connections() - before);
        // And over once it is over.
        stuck.set_failure(sallyport_testkit::Failure::None);
        let token = stuck.mint_with(Algorithm::Es256, claims(&stuck, "stuck", &place.space));
        eventually("recovery", Duration::from_secs(15), async || {
            let reply = world.exchange(&place.space, stuck.uri(), &token).await;
            (reply.status == 200).then(|| document(&reply))
        })
        .await;
    });
}

/// Private keys and tokens are in the one answer that hands them out: in no other, in no log however chatty, in no file of the
/// server, in no record of an exchange or of a change.
#[test]
fn what_is_secret_is_in_no_log_no_file_no_record_and_no_second_answer() {
    run(async {
        let mut world = World::with(|setup| {
            setup.set("SALLYPORT_LOG", "trace");
        })
        .await;
        let tenant = Tenant::new(&world, "secret").await;
        let mut secrets: Vec<(&str, String)> = vec![("the bootstrap token", world.admin.clone())];
        let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
        for (what, caller) in [("an API token", &tenant.owner), ("an API token of the space", &tenant.space_owner)] {
            secrets.push((what, caller.bearer()));
        }
        for (what, caller) in [("a key pair's key", &tenant.key_pair), ("a standing key", &tenant.standing)] {
            let pem = caller.private_key().expect("a key");
            secrets.push((what, pem.lines().nth(2).expect("PEM").to_owned()));
            let proof = caller.bearer();
            world.query(Some(&proof), "{ viewer { mrn } }", &json!({})).await;
            secrets.push(("a service account's own JWT", signature(&proof)));
        }
        secrets.push(("an access token", signature(&tenant.access_token)));
        // Presented, granted and refused, at every door.
        let space = &tenant.names[&Kind::Space];
        let subject_token = world.token("secret", space);
        let refused = world.token("nobody", space);
        let expired = {
            let mut claims = world.claims("secret", space);
            claims["exp"] = json!(now() - 600);
            world.issuer.mint(claims)
        };
        for (what, token) in
            [("a subject token", &subject_token), ("a refused one", &refused), ("an expired one", &expired)]
        {
            world.exchange(space, world.issuer.uri(), token).await;
            world.oauth(&tenant.names[&Kind::ClientId], token, &[]).await;
            for path in ["/auth/v1/introspect", "/auth/v1/revoke"] {
                world.post_form(path, &[("token", token.as_str())], Some(&tenant.owner.bearer())).await;
            }
            let simulate = "query($t: String!) { simulateExchange(input: {subjectToken: $t}) { granted checks { actual expected detail } } }";
            let simulated = world.query(Some(&tenant.owner.bearer()), simulate, &json!({ "t": token })).await.text();
            assert!(!simulated.contains(&signature(token)), "{what}: {simulated}");
            secrets.push((what, signature(token)));
        }
        let generate = "mutation { generateIDToken(input: {audience: \"https://third.example\"}) { token } }";
        let id_token = world.graphql_as(&tenant.owner.bearer(), generate, json!({})).await;
        secrets.push(("an ID token", signature(id_token["generateIDToken"]["token"].as_str().expect("a token"))));
        let signed = presign(&AccessKey::temporary(), &PresignOptions::mondoo(now())).to_string();
        world.exchange(space, "https://sts.amazonaws.com", &signed).await;
        let (_, of_request) = signed.split_once("Signature=").expect("a signature");
        secrets.push(("a signed AWS request", of_request[..64].to_owned()));

        let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
        let schema = Schema::of(&world).await;
        for caller in tenant.callers() {
            let answers = tenant.crawl(&world, &schema, caller, &[]).await.concat();
            assert!(answers.contains("generateAPIToken") && answers.contains("\"granted\":true"), "{}", caller.who);
            kept.push((format!("the answers to {}", caller.who), answers.into_bytes()));
        }
        kept.push((
            "metrics".into(),
            Reply::to(world.http.get(format!("{}/metrics", world.server.admin_url))).await.body,
        ));
        world.server.terminate();
        let log = world.server.log();
        assert!(log.contains("TRACE") && log.contains("exchange refused"), "the log is as chatty as it gets");
        kept.push(("the log".into(), log.into_bytes()));
        kept.push(("standard output".into(), world.server.stdout().into_bytes()));
        for entry in std::fs::read_dir(world.server.path("data")).into_iter().flatten() {
            let path = entry.unwrap().path();
            kept.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
        for (place, bytes) in &kept {
            for (what, secret) in &secrets {
                assert!(secret.len() >= 20, "{what}: {secret}");
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{what} is readable in {place}");
            }
        }
    });
}
