//! The record: every mutation leaves its entry, and collectors read all of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use common::{OWNER, World};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::exchange::{ExchangeRecord, Protocol};
use sallyport_domain::id::{ExchangeId, OrganizationId, SpaceId};
use sallyport_domain::scope::Scope;
use sallyport_store::{AuditEntry, Recorded, Write};
use serde_json::{Value, json};

/// What an entry says of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    /// What it is now.
    Made,
    /// What it was and what it is.
    Changed,
    /// What it was.
    Gone,
    /// Nothing besides what it was done to.
    Done,
}

/// A mutation as it is walked: its name, its arguments and selection, what is remembered of the answer, and what its entry
/// shows. Arguments name what was remembered as `<name>`.
type Step = (&'static str, &'static str, &'static [(&'static str, &'static str)], Shown);

/// Every mutation once, in an order in which each succeeds.
const WALK: [Step; 27] = [
    ("createOrganization", r#"(input: {name: "o", id: "acme-org"}) { mrn }"#, &[("org", "/mrn")], Shown::Made),
    ("updateOrganization", r#"(input: {mrn: "<org>", name: "p"}) { mrn }"#, &[], Shown::Changed),
    (
        "createSpace",
        r#"(input: {name: "s", id: "acme-space", orgMrn: "<org>"}) { mrn }"#,
        &[("space", "/mrn")],
        Shown::Made,
    ),
    ("updateSpace", r#"(input: {mrn: "<space>", name: "t"}) { mrn }"#, &[], Shown::Changed),
    (
        "createRole",
        r#"(input: {orgMrn: "<org>", name: "deployer", permissions: ["agent.report"]}) { mrn }"#,
        &[("role", "/mrn")],
        Shown::Made,
    ),
    ("updateRole", r#"(input: {mrn: "<role>", permissions: ["scopes.read"]}) { mrn }"#, &[], Shown::Changed),
    (
        "createServiceAccount",
        r#"(input: {scopeMrn: "<space>", name: "a", roles: [{mrn: "//iam.api.mondoo.app/roles/agent"}]}) { mrn privateKey }"#,
        &[("account", "/mrn"), ("secret key", "/privateKey")],
        Shown::Made,
    ),
    ("updateServiceAccount", r#"(input: {mrn: "<account>", name: "b"}) { mrn }"#, &[], Shown::Changed),
    (
        "generateAPIToken",
        r#"(input: {scopeMrn: "<space>", name: "t", roles: [{mrn: "<role>"}]}) { mrn token }"#,
        &[("token", "/mrn"), ("secret token", "/token")],
        Shown::Made,
    ),
    (
        "createWIFProvider",
        r#"(input: {scopeMrn: "<space>", name: "ci", kind: CUSTOM_OIDC, issuerUri: "<issuer>"}) { provider { mrn } }"#,
        &[("provider", "/provider/mrn")],
        Shown::Made,
    ),
    (
        "updateWIFProvider",
        r#"(input: {mrn: "<provider>", description: "d"}) { provider { mrn } }"#,
        &[],
        Shown::Changed,
    ),
    (
        "createWIFTrust",
        r#"(input: {serviceAccountMrn: "<account>", providerMrn: "<provider>", name: "t", subject: "robot"}) { trust { mrn } }"#,
        &[("trust", "/trust/mrn")],
        Shown::Made,
    ),
    ("updateWIFTrust", r#"(input: {mrn: "<trust>", subject: "other"}) { trust { mrn } }"#, &[], Shown::Changed),
    (
        "updateWIFSubject",
        r#"(input: {providerMrn: "<provider>", subject: "robot", disabled: true}) { subject { subject } }"#,
        &[],
        Shown::Changed,
    ),
    (
        "createWIFAuthBinding",
        r#"(input: {scopeMrn: "<space>", name: "b", issuerUri: "<issuer>", subject: "bound"}) { binding { mrn } }"#,
        &[("binding", "/binding/mrn")],
        Shown::Made,
    ),
    ("updateWIFAuthBinding", r#"(input: {mrn: "<binding>", name: "c"}) { binding { mrn } }"#, &[], Shown::Changed),
    (
        "generateIDToken",
        r#"(input: {audience: "https://third.example", serviceAccountMrn: "<account>"}) { token }"#,
        &[("secret ID token", "/token")],
        Shown::Made,
    ),
    ("revokeCredentials", r#"(mrn: "<binding>") { mrn }"#, &[], Shown::Done),
    ("removeWIFAuthBinding", r#"(mrn: "<binding>") { mrn }"#, &[], Shown::Gone),
    ("removeWIFTrust", r#"(mrn: "<trust>") { mrn }"#, &[], Shown::Gone),
    ("removeWIFProvider", r#"(mrn: "<provider>") { mrn }"#, &[], Shown::Gone),
    ("deleteServiceAccounts", r#"(input: {scopeMrn: "<space>", mrns: ["<account>"]}) { mrns }"#, &[], Shown::Gone),
    ("deleteAPIToken", r#"(input: {mrn: "<token>"}) { mrn }"#, &[], Shown::Gone),
    ("deleteRole", r#"(mrn: "<role>") { mrn }"#, &[], Shown::Gone),
    ("deleteSpace", r#"(mrn: "<space>") { mrn }"#, &[], Shown::Gone),
    ("deleteOrganization", r#"(mrn: "<org>") { mrn }"#, &[], Shown::Gone),
    // Once more, so that something of another tenant is on record as well.
    ("createOrganization", r#"(input: {name: "o", id: "other-org"}) { mrn }"#, &[], Shown::Made),
];

/// The mutations of the schema.
fn mutations() -> BTreeSet<String> {
    let sdl = sallyport_graphql::sdl();
    let body = sdl.split_once("\ntype Mutation {\n").unwrap().1.split_once("\n}").unwrap().0;
    let is_field = |line: &&str| line.starts_with('\t') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    let mut in_description = false;
    body.lines()
        .filter(|line| {
            let quotes = line.trim() == "\"\"\"";
            in_description ^= quotes;
            !in_description && !quotes
        })
        .filter(is_field)
        .filter_map(|line| line[1..].split_once(['(', ':']).map(|(name, _)| name.to_owned()))
        .collect()
}

const ENTRIES: &str = "query($s: String!) { listAuditEntries(scopeMrn: $s, first: 1000) { entries {
    id time actorMrn action targetMrn scopeMrn before after requestId sourceIp } } }";

async fn entries(world: &World) -> Vec<Value> {
    let listed = world.run(ENTRIES, json!({ "s": "//platform.api.mondoo.app" })).await;
    listed["listAuditEntries"]["entries"].as_array().unwrap().clone()
}

/// Sends a mutation as a client at 192.0.2.7 does, with a request id.
async fn mutate(world: &World, document: &str, request_id: &str) -> Value {
    let request = Request::post("/query")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {OWNER}"))
        .header("x-request-id", request_id)
        .extension(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4711))))
        .body(Body::from(json!({ "query": document }).to_string()))
        .unwrap();
    let (status, answer) = world.send(request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mutation_says_who_did_what_and_what_it_was_before() {
    let walked: BTreeSet<String> = WALK.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(walked, mutations(), "each mutation of the schema has a step here, and must be on record");

    let world = World::new().await;
    let owner = world.run("{ viewer { mrn } }", json!({})).await["viewer"]["mrn"].clone();
    let mut known = BTreeMap::from([("issuer", world.issuer.uri().to_owned())]);
    for (number, (name, rest, remembered, shown)) in WALK.into_iter().enumerate() {
        let request_id = format!("step-{number}");
        let mut arguments = rest.to_owned();
        for (what, value) in &known {
            arguments = arguments.replace(&format!("<{what}>"), value);
        }
        let answer = mutate(&world, &format!("mutation {{ {name}{arguments} }}"), &request_id).await;
        assert!(answer.get("errors").is_none(), "{name}: {answer}");
        for (what, pointer) in remembered {
            let value = answer["data"][name].pointer(pointer).and_then(Value::as_str);
            known.insert(what, value.unwrap_or_else(|| panic!("{name}: no {pointer} in {answer}")).to_owned());
        }
        let found: Vec<Value> = entries(&world).await.into_iter().filter(|e| e["requestId"] == *request_id).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let entry = &found[0];
        assert_eq!(entry["action"], name);
        assert_eq!((&entry["actorMrn"], &entry["sourceIp"]), (&owner, &json!("192.0.2.7")), "{name}");
        assert!(entry["targetMrn"].as_str().unwrap().starts_with("//"), "{name}: {entry}");
        assert!(entry["scopeMrn"].as_str().unwrap().starts_with("//"), "{name}: {entry}");
        let (before, after) = (!entry["before"].is_null(), !entry["after"].is_null());
        let wanted = match shown {
            Shown::Made => (false, true),
            Shown::Changed => (true, true),
            Shown::Gone => (true, false),
            Shown::Done => (false, false),
        };
        assert_eq!((before, after), wanted, "{name}: before and after in {entry}");
        assert_ne!((shown, &entry["before"]), (Shown::Changed, &entry["after"]), "{name}: a change shows");
    }
    let all = Value::from(entries(&world).await).to_string();
    let secrets: Vec<(&&str, &String)> = known.iter().filter(|(what, _)| what.starts_with("secret")).collect();
    assert_eq!(secrets.len(), 3);
    for (what, secret) in secrets {
        // Any line of a PEM, any part of a JWT.
        for part in secret.split(['\n', '.']).filter(|part| part.len() > 30 || *part == secret) {
            assert!(!all.contains(part), "{what} is on record");
        }
    }
    let hash = sallyport_credentials::secret::hash_secret(&known["secret token"]);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!all.contains(&hash), "not even hashed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_leaves_no_entry() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let before = entries(&world).await.len();
    for input in [
        format!(
            r#"{{scopeMrn: "{space}", name: "b", issuerUri: "{}", subject: "x", dryRun: true}}"#,
            world.issuer.uri()
        ),
        format!(r#"{{scopeMrn: "{space}", name: "", issuerUri: "{}", subject: "x"}}"#, world.issuer.uri()),
    ] {
        mutate(&world, &format!("mutation {{ createWIFAuthBinding(input: {input}) {{ binding {{ mrn }} }} }}"), "none")
            .await;
    }
    assert_eq!(entries(&world).await.len(), before);
}

/// An hour ago: settled.
fn old(world: &World) -> Timestamp {
    world.services.now().plus_seconds(-3_600)
}

async fn record(world: &World, space: &str, organization: &str) -> String {
    let id = ExchangeId(world.services.new_id());
    let record = ExchangeRecord {
        id,
        time: old(world),
        scope: Scope::Space(SpaceId::parse(space).unwrap()),
        organization: OrganizationId::parse(organization),
        granted: false,
        reason: Some("subject".into()),
        protocol: Protocol::Oauth,
        trust: None,
        binding: false,
        provider: None,
        service_account: None,
        issuer: "https://issuer.example".into(),
        subject: "stranger".into(),
        source_ip: None,
        token_hash: [7; 32],
        credential: None,
        checks: Vec::new(),
        replay: None,
    };
    assert_eq!(world.services.recorder.record(record, 0).await, Ok(Recorded::Durable));
    id.to_string()
}

async fn change(world: &World, space: &str, organization: &str) -> String {
    let id = world.services.new_id();
    let entry = AuditEntry {
        id,
        time: old(world),
        actor: "//iam.api.mondoo.app/apitokens/x".into(),
        action: "updateSpace".into(),
        target: format!("//captain.api.mondoo.app/spaces/{space}"),
        scope: Scope::Space(SpaceId::parse(space).unwrap()),
        organization: OrganizationId::parse(organization),
        before: Some(json!({ "name": "a" })),
        after: Some(json!({ "name": "b" })),
        request_id: None,
        source_ip: None,
    };
    let write = || vec![Write::Audit(entry.clone())];
    world.services.configuration.mutate(|_| Ok::<_, ()>((write(), ()))).await.unwrap();
    id.to_string()
}

const EXPORT: &str = "query($s: String!, $k: [EventKind!], $since: String, $first: Int, $after: String) {
    exportEvents(scopeMrn: $s, kinds: $k, since: $since, first: $first, after: $after) {
        events pageInfo { hasNextPage endCursor } } }";

fn uids(answer: &Value) -> Vec<String> {
    let events = answer["exportEvents"]["events"].as_array().unwrap_or_else(|| panic!("{answer}"));
    events.iter().map(|event| event["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_get_what_their_scope_and_permissions_show_and_go_on_from_where_they_were() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let (_, elsewhere) = world.space("evil-org", "evil-space").await;
    let mut ours = Vec::new();
    for _ in 0..3 {
        ours.push(record(&world, "acme-space", "acme-org").await);
        ours.push(change(&world, "acme-space", "acme-org").await);
    }
    let theirs = record(&world, "evil-space", "evil-org").await;

    // A page at a time, from the first event to the last, and on.
    let mut got = Vec::new();
    let mut after = Value::Null;
    for _ in 0..4 {
        let answer = world.run(EXPORT, json!({ "s": organization, "first": 2, "after": after })).await;
        let page = &answer["exportEvents"]["pageInfo"];
        got.extend(uids(&answer));
        assert_eq!(page["hasNextPage"], json!(got.len() < 6), "{answer}");
        after = page["endCursor"].clone();
    }
    assert_eq!(got, ours, "oldest first, each once");
    let later = record(&world, "acme-space", "acme-org").await;
    // It is late, and so on record after what was handed out: to be had a second later.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let found = loop {
        let found = uids(&world.run(EXPORT, json!({ "s": space, "after": after })).await);
        if !found.is_empty() {
            break found;
        }
        assert!(tokio::time::Instant::now() < deadline, "the cursor of an empty page leads nowhere");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(found, [later]);

    // Both kinds in their classes.
    let all = world.run(EXPORT, json!({ "s": "//platform.api.mondoo.app" })).await;
    assert!(uids(&all).contains(&theirs) && uids(&all).contains(&ours[0]));
    let classes: BTreeSet<i64> =
        all["exportEvents"]["events"].as_array().unwrap().iter().map(|e| e["class_uid"].as_i64().unwrap()).collect();
    assert_eq!(classes, BTreeSet::from([3002, 6003]));
    let only = |kind: &str| json!({ "s": space, "k": [kind] });
    assert_eq!(uids(&world.run(EXPORT, only("EXCHANGE")).await).len(), 4);
    assert_eq!(uids(&world.run(EXPORT, only("CHANGE")).await).len(), 3);
    let since = world.services.now().to_rfc3339();
    assert!(uids(&world.run(EXPORT, json!({ "s": space, "since": since })).await).is_empty());
    let since = old(&world).plus_seconds(-60).to_rfc3339();
    assert_eq!(uids(&world.run(EXPORT, json!({ "s": space, "since": since })).await).len(), 7);

    // A viewer sees exchanges and no management changes, and is told so when it asks for them.
    let viewer = world.token(&space, "viewer").await;
    let seen = world.run_as(&viewer, EXPORT, json!({ "s": space })).await;
    assert_eq!(uids(&seen["data"]).len(), 4, "{seen}");
    let (code, ..) = world.refused_as(&viewer, EXPORT, only("CHANGE")).await;
    assert!(["PERMISSION_DENIED", "NOT_FOUND"].contains(&code.as_str()), "{code}");
    for scope in [&organization, &elsewhere, "//platform.api.mondoo.app"] {
        let (code, ..) = world.refused_as(&viewer, EXPORT, json!({ "s": scope })).await;
        assert_eq!(code, "NOT_FOUND", "{scope}");
    }
    let agent = world.token(&space, "agent").await;
    assert_eq!(world.refused_as(&agent, EXPORT, json!({ "s": space })).await.0, "NOT_FOUND");

    for (variables, wanted) in [
        (json!({ "s": space, "since": "yesterday" }), "INVALID_ARGUMENT since"),
        (json!({ "s": space, "after": "nonsense" }), "INVALID_ARGUMENT after"),
        (json!({ "s": space, "first": 1_001 }), "INVALID_ARGUMENT first"),
        (json!({ "s": "everything" }), "INVALID_ARGUMENT scopeMrn"),
    ] {
        assert_eq!(world.refused(EXPORT, variables).await, wanted);
    }
}
