//! Story: tenants do not exist for one another. Every operation of the schema and every endpoint is tried by one tenant with
//! the things of another; whatever comes back is what it is for things that nobody has.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::schema::{Kind, Operation, Schema};
use crate::support::tenant::{Caller, Tenant, sorted, text};
use crate::support::{Reply, World, claims_of, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// The UUIDs in a text: everything that is not named by its creator is named by one.
fn uuids(text: &str) -> BTreeSet<String> {
    const FORM: [usize; 5] = [8, 4, 4, 4, 12];
    let words = text.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    let fits = |word: &&str| {
        let parts: Vec<usize> = word.split('-').map(str::len).collect();
        parts == FORM
    };
    words.filter(fits).map(str::to_owned).collect()
}

/// The same text with another id in it, of the same form, that nobody has.
fn invented(name: &str, of: &Tenant) -> String {
    let mut other = name.replace(of.word, &"x".repeat(of.word.len()));
    for id in uuids(name) {
        other = other.replace(&id, &format!("{}000000000000", &id[..24]));
    }
    if other == name {
        // A client ID: drawn words and digits.
        other = format!("calm-wolf-00000{}", name.find('@').map_or("", |at| &name[at..]));
    }
    assert_ne!(other, name);
    other
}

/// One attempt: what is tried, and the same with something that is not there.
struct Probe<'s> {
    operation: &'s Operation,
    path: &'s str,
    real: (String, Value),
    nobodys: (String, Value),
}

/// Every operation with every name it takes: `of`'s thing, and that thing under the name of a place of `own`. The other names
/// are those of `own`, so that nothing is refused for another reason.
fn probes<'s>(schema: &Schema, operations: &'s [Operation], own: &Tenant, of: &Tenant) -> Vec<Probe<'s>> {
    let mut probes = Vec::new();
    for operation in operations {
        for reference in &operation.references {
            for kind in reference.kinds {
                let there = &of.names[kind];
                let mut names = vec![there.clone()];
                let misplaced = there.replace(of.word, own.word);
                if misplaced != *there && !uuids(there).is_empty() {
                    names.push(misplaced);
                }
                for name in names {
                    let nobody = invented(&name, if name == *there { of } else { own });
                    // A thing of nobody's in one's own place.
                    let nobody =
                        if name == *there { nobody } else { nobody.replace(&"x".repeat(own.word.len()), own.word) };
                    let call = |name: &str| schema.variables(operation, &own.names, &[(reference, name)]);
                    probes.push(Probe {
                        operation,
                        path: &reference.path,
                        real: (name.clone(), call(&name)),
                        nobodys: (nobody.clone(), call(&nobody)),
                    });
                }
            }
        }
    }
    probes
}

/// What a stranger sees of an answer, with the name that it gave itself taken out.
fn seen(reply: &Reply, given: &str) -> String {
    let mut lines = vec![reply.status.to_string()];
    for (name, value) in &reply.headers {
        if !["x-request-id", "date", "content-length"].contains(&name.as_str()) {
            lines.push(format!("{name}: {}", value.to_str().unwrap_or("?")));
        }
    }
    lines.push(sorted(&reply.text().replace(given, "WHAT WAS GIVEN")));
    lines.join("\n")
}

/// Two tenants on one server, and the schema.
struct Stage {
    world: &'static World,
    schema: Schema,
    heron: Tenant,
    zebra: Tenant,
}

async fn stage() -> &'static Stage {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    STAGE.get_or_init(|| Stage::of("heron", "zebra")).await
}

impl Stage {
    async fn of(one: &'static str, other: &'static str) -> Self {
        let world = world().await;
        let schema = Schema::of(world).await;
        Self { world, schema, heron: Tenant::new(world, one).await, zebra: Tenant::new(world, other).await }
    }

    /// What cannot be in an answer to heron: zebra's word, and the ids of zebra's things.
    async fn marks(&self) -> (BTreeSet<String>, Vec<String>) {
        let mut marks = BTreeSet::from([self.zebra.word.to_owned(), self.zebra.names[&Kind::ClientId].clone()]);
        let whole = self.zebra.crawl(self.world, &self.schema, &self.zebra.owner, &[]).await;
        marks.extend(whole.iter().flat_map(|answer| uuids(answer)));
        // Both were founded by the platform's owner, and both see the presets with their examples.
        for operation in self.schema.operations().iter().filter(|operation| operation.takes_nothing()) {
            let common = self.world.graphql(&operation.document, json!({})).await;
            for id in uuids(&common.to_string()) {
                marks.remove(&id);
            }
        }
        for (kind, name) in &self.zebra.names {
            assert!(marks.iter().any(|mark| name.contains(mark.as_str())), "the crawl has not seen {kind:?} {name}");
        }
        let cursors = whole.iter().filter_map(|answer| {
            let answer: Value = serde_json::from_str(answer).ok()?;
            let list = answer["data"].as_object()?.values().next()?.clone();
            list.pointer("/pageInfo/endCursor").and_then(Value::as_str).map(str::to_owned)
        });
        let cursors: BTreeSet<String> = cursors.collect();
        (marks, cursors.into_iter().collect())
    }
}

#[test]
fn no_operation_tells_another_tenants_things_from_things_that_nobody_has() {
    run(async {
        // A pair of their own: nobody else may change anything while this compares.
        let stage = Stage::of("raven", "tapir").await;
        let (world, schema, heron, zebra) = (stage.world, &stage.schema, &stage.heron, &stage.zebra);
        let operations = schema.operations();
        // But for what is exported, which is what happened some seconds ago.
        let crawl = async || {
            let answers = zebra.crawl(world, schema, &zebra.owner, &[]).await;
            answers.into_iter().filter(|answer| !answer.contains("\"exportEvents\"")).collect::<Vec<_>>()
        };
        let before = crawl().await;
        let viewer = world.api_token(&heron.names[&Kind::Organization], &["viewer"]).await;
        let viewer = Caller::with_token("a viewer", viewer);
        let mut tried = 0;
        for caller in heron.callers().into_iter().chain([&viewer]) {
            for probe in probes(schema, &operations, heron, zebra) {
                let mut answers = Vec::new();
                for (name, variables) in [&probe.real, &probe.nobodys] {
                    let reply = world.query(Some(&caller.bearer()), &probe.operation.document, variables).await;
                    let refused = reply.json().get("errors").is_some();
                    assert!(
                        refused || !probe.operation.mutation,
                        "{}: {} {variables}: {}",
                        caller.who,
                        probe.path,
                        reply.text()
                    );
                    answers.push(seen(&reply, name));
                }
                assert_eq!(answers[0], answers[1], "{}: {} of {:?}", caller.who, probe.path, probe.real);
                assert!(!answers[0].contains(zebra.word), "{}: {}: {}", caller.who, probe.path, answers[0]);
                tried += 1;
            }
        }
        assert!(tried > 300, "{tried}");
        assert_eq!(crawl().await, before, "and none of it had an effect");
    });
}

/// Being in a space is not having rights in it: an agent finds nothing there, and not even whether it is there.
#[test]
fn no_operation_tells_a_principal_without_rights_what_there_is_around_it() {
    run(async {
        let stage = stage().await;
        let (world, schema, zebra) = (stage.world, &stage.schema, &stage.zebra);
        let agent = world.api_token(&zebra.names[&Kind::Space], &["agent"]).await;
        for probe in probes(schema, &schema.operations(), zebra, zebra) {
            let mut answers = Vec::new();
            for (name, variables) in [&probe.real, &probe.nobodys] {
                let reply = world.query(Some(&agent), &probe.operation.document, variables).await;
                assert!(reply.json().get("errors").is_some(), "{}: {variables}: {}", probe.path, reply.text());
                answers.push(seen(&reply, name));
            }
            assert_eq!(answers[0], answers[1], "{} of {:?}", probe.path, probe.real);
        }
    });
}

#[test]
fn no_field_of_any_answer_shows_another_tenant() {
    run(async {
        // A pair of their own: elsewhere here one tenant's names are shown to the other, who then has them on record.
        let stage = Stage::of("quartzco", "topazco").await;
        let (marks, cursors) = stage.marks().await;
        assert!(marks.len() > 15 && cursors.len() > 5, "{marks:?} {cursors:?}");
        for caller in stage.heron.callers() {
            let answers = stage.heron.crawl(stage.world, &stage.schema, caller, &cursors).await;
            for answer in &answers {
                for mark in &marks {
                    assert!(!answer.contains(mark.as_str()), "{}: {mark} in {answer}", caller.who);
                }
            }
            // They do see their own.
            let own = answers.iter().filter(|answer| answer.contains("\"name\":\"quartzco\"")).count();
            assert!(own > 10, "{}: {own}", caller.who);
        }
    });
}

#[test]
fn every_operation_as_nobody_is_unauthenticated_and_says_nothing_else() {
    run(async {
        let stage = stage().await;
        let (world, schema) = (stage.world, &stage.schema);
        let honest = stage.heron.federated.bearer();
        let unsigned = format!("{}.", honest.rsplit_once('.').unwrap().0);
        let strangers = [
            None,
            Some("not-a-token-of-ours-0123456789"),
            Some("a.b.c"),
            Some("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."),
            Some(unsigned.as_str()),
        ];
        let mut calls: Vec<(String, Value)> = schema
            .operations()
            .iter()
            .map(|operation| (operation.document.clone(), schema.variables(operation, &stage.heron.names, &[])))
            .collect();
        calls.push(("{ __schema { types { name } } }".into(), json!({})));
        calls.push(("{ viewr { mrn } }".into(), json!({})));
        calls.push(("{ not a document".into(), json!({})));
        let mut first: Option<String> = None;
        for (document, variables) in &calls {
            for bearer in strangers {
                let reply = world.query(bearer, document, variables).await;
                assert_eq!(reply.json()["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{document}");
                let seen = seen(&reply, "nothing");
                assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen, "{document}: no hints to strangers");
            }
        }
    });
}

#[test]
fn introspection_says_inactive_of_another_tenants_token_as_of_garbage() {
    run(async {
        let stage = stage().await;
        let (world, heron, zebra) = (stage.world, &stage.heron, &stage.zebra);
        let ask = async |token: &str, bearer: Option<&str>| {
            world.post_form("/auth/v1/introspect", &[("token", token)], bearer).await
        };
        let known = ask(&zebra.access_token, Some(&zebra.owner.bearer())).await;
        assert_eq!(known.json()["active"], true, "{}", known.text());
        let zebras_api_token = zebra.space_owner.bearer();
        let zebras_signature = zebra.standing.bearer();
        let mut first: Option<String> = None;
        let callers: Vec<Option<String>> = heron
            .callers()
            .into_iter()
            .map(|caller| Some(caller.bearer()))
            .chain([None, Some("nobody".into())])
            .collect();
        for bearer in &callers {
            for token in
                ["garbage", &zebra.access_token, &zebras_api_token, &zebras_signature, &zebra.names[&Kind::Credential]]
            {
                let reply = ask(token, bearer.as_deref()).await;
                let seen = seen(&reply, token);
                assert!(seen.ends_with("{\"active\":false}"), "{seen}");
                assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen);
            }
        }
        // A workload does not look its own token up either, unless a role lets it.
        let own = ask(&heron.access_token, Some(&heron.federated.bearer())).await;
        assert_eq!(own.json()["active"], true, "owners may read credentials: {}", own.text());
    });
}

#[test]
fn revocation_by_name_is_for_the_tenants_own_and_answers_everyone_alike() {
    run(async {
        let stage = stage().await;
        let (world, heron, zebra) = (stage.world, &stage.heron, &stage.zebra);
        let claims = claims_of(&zebra.access_token);
        let by_token = format!("{}/credentials/{}", text(&claims["sub"]), text(&claims["jti"]));
        let nobodys = invented(&by_token, zebra);
        let mut first: Option<String> = None;
        for bearer in heron.callers().map(Caller::bearer).into_iter().map(Some).chain([None, Some("nobody".into())]) {
            for name in [
                &by_token,
                &nobodys,
                &zebra.names[&Kind::Credential],
                &zebra.names[&Kind::Trust],
                &zebra.space_owner.bearer(),
            ] {
                let reply = world.post_form("/auth/v1/revoke", &[("token", name)], bearer.as_deref()).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                let seen = seen(&reply, name);
                assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen);
            }
        }
        assert_eq!(world.ping(&zebra.access_token).await, 200);
        for caller in zebra.callers() {
            let viewer = world.query(Some(&caller.bearer()), "{ viewer { mrn } }", &json!({})).await.json();
            assert!(viewer.get("errors").is_none(), "{}: {viewer}", caller.who);
        }
    });
}

#[test]
fn exchanges_at_another_tenants_names_are_refused_like_those_at_nobodys() {
    run(async {
        let stage = stage().await;
        let (world, heron, zebra) = (stage.world, &stage.heron, &stage.zebra);
        // Both trust this issuer. Heron's workload knocks at zebra's doors with every audience it can think of.
        let mut seen: Option<String> = None;
        for audience in
            [&heron.names[&Kind::Space], &zebra.names[&Kind::Space], &world.server.url, &zebra.names[&Kind::ClientId]]
        {
            let token = world.token(heron.word, audience);
            for kind in [Kind::Space, Kind::Organization] {
                for scope in [zebra.names[&kind].clone(), invented(&zebra.names[&kind], zebra)] {
                    let reply = world.exchange(&scope, world.issuer.uri(), &token).await;
                    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!(7)), "{scope}: {}", reply.text());
                    assert_eq!(
                        seen.get_or_insert_with(|| reply.without_reference()),
                        &reply.without_reference(),
                        "{scope}"
                    );
                }
            }
        }
        let mut seen: Option<String> = None;
        for kind in [Kind::ClientId, Kind::Trust, Kind::Binding, Kind::Space, Kind::Organization, Kind::Credential] {
            for name in [zebra.names[&kind].clone(), invented(&zebra.names[&kind], zebra)] {
                let which = if kind == Kind::ClientId { "client_id" } else { "audience" };
                let token = world.token(heron.word, &zebra.names[&Kind::Space]);
                let fields = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("subject_token", token.as_str()),
                    ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
                    (which, name.as_str()),
                ];
                let reply = world.post_form("/auth/v1/token", &fields, None).await;
                assert_eq!(
                    (reply.status, &reply.json()["error"]),
                    (400, &json!("invalid_grant")),
                    "{name}: {}",
                    reply.text()
                );
                assert_eq!(seen.get_or_insert_with(|| reply.without_reference()), &reply.without_reference(), "{name}");
            }
        }
    });
}

/// The confused deputy: one platform, one workload, trusted by two tenants under the same subject. What it asked for the one is
/// of no use to whoever gets hold of it there and carries it to the other.
#[test]
fn a_token_made_for_one_tenant_opens_nothing_at_another_that_trusts_the_same_workload() {
    run(async {
        let stage = stage().await;
        let (world, heron, zebra) = (stage.world, &stage.heron, &stage.zebra);
        let ours = world.binding(&heron.names[&Kind::Space], "both", &[]).await;
        let theirs = world.binding(&zebra.names[&Kind::Space], "both", &[]).await;
        let made_for_zebra = world.token("both", &zebra.names[&Kind::Space]);
        assert_eq!(world.oauth(&theirs.client_id, &made_for_zebra, &[]).await.status, 200);
        let reply = world.oauth(&ours.client_id, &made_for_zebra, &[]).await;
        assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid_grant")), "{}", reply.text());
        let reply = world.exchange(&heron.names[&Kind::Space], world.issuer.uri(), &made_for_zebra).await;
        assert_eq!(reply.status, 401, "{}", reply.text());
        // Nor under the client ID of the one and the scope of the other, nor one level up in the same tenant.
        let for_client = world.token("both", &theirs.client_id);
        assert_eq!(world.oauth(&ours.client_id, &for_client, &[]).await.status, 400);
        let reply =
            world.oauth(&heron.organization_client, &world.token(heron.word, &heron.names[&Kind::Space]), &[]).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
    });
}
