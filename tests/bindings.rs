//! Story: an admin manages bindings through the documented GraphQL operations.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{World, claims, document, eventually, fixture, now, role, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    // No test goes to the real GitHub: nobody listens where its name leads.
    WORLD
        .get_or_init(|| {
            World::with(|setup| {
                setup.set("SALLYPORT_OUTBOUND_RESOLVE", "token.actions.githubusercontent.com:443=127.0.0.1:1");
            })
        })
        .await
}

/// The documented mutation, for tests that are about something else.
const CREATE: &str = "mutation CreateWIFAuthBinding($input: CreateWIFAuthBindingInput) { \
createWIFAuthBinding(input: $input) { \
binding { mrn name description scope roles expiration issuerUri subject mappings { key value } allowedAudiences \
condition sourceCidrs createdAt createdBy lastUsed warnings } \
config { universeDomain type audience subjectTokenType scopes issuerUri } } }";

/// Bindings of a scope, names only.
const NAMES: &str = "query($scope: String!, $order: WIFAuthBindingOrder, $first: Int, $after: String) { \
listWIFAuthBindings(scopeMrn: $scope, orderBy: $order, first: $first, after: $after) { \
bindings { name } totalCount pageInfo { hasNextPage endCursor } } }";

fn names(list: &Value) -> Vec<String> {
    let bindings = list["listWIFAuthBindings"]["bindings"].as_array().expect("bindings");
    bindings.iter().map(|binding| binding["name"].as_str().unwrap().to_owned()).collect()
}

/// An issuer nobody listens at: bindings are saved with a warning.
fn unreachable(path: &str) -> String {
    format!("https://127.0.0.1:1/{path}")
}

#[test]
fn documented_operations_work_verbatim() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let input = json!({
            "scopeMrn": place.space, "name": "Verbatim", "description": "As documented", "subject": "verbatim",
            "issuerUri": world.issuer.uri(), "roles": [role("viewer")], "expiration": 900,
            "mappings": [{ "key": "jwt_claims.repository", "value": "acme/shop" }],
            "allowedAudiences": [place.space],
        });
        let created = world.graphql(&fixture("create_binding.graphql"), json!({ "input": input })).await;
        let created = &created["createWIFAuthBinding"];
        let mut binding = created["binding"].clone();
        let mrn = binding["mrn"].as_str().unwrap().to_owned();
        let (id, collection) = (mrn.rsplit('/').next().unwrap(), "/wifbindings/");
        assert!(mrn.starts_with("//iam.api.mondoo.app/spaces/") && mrn.contains(collection) && id.len() == 36, "{mrn}");
        for (name, value) in input.as_object().unwrap() {
            let name = if name == "scopeMrn" { "scope" } else { name };
            assert_eq!(&binding[name], value, "{name}");
        }
        assert_eq!(binding["lastUsed"], Value::Null);
        let config = json!({
            "universeDomain": world.server.url, "type": "external_account", "audience": place.space,
            "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt", "scopes": [role("viewer")],
            "issuerUri": world.issuer.uri(),
        });
        assert_eq!(created["config"], config);

        let got = world.graphql(&fixture("get_binding.graphql"), json!({ "mrn": mrn })).await;
        assert_eq!(got["getWIFAuthBinding"]["config"], config);
        let creator = got["getWIFAuthBinding"]["binding"]["createdBy"].clone();
        let viewer = world.graphql("{ viewer { mrn } }", json!({})).await;
        assert_eq!(creator, viewer["viewer"]["mrn"]);
        binding["createdBy"] = creator;
        assert_eq!(got["getWIFAuthBinding"]["binding"], binding);

        let variables = json!({ "scopeMrn": place.space, "orderBy": { "direction": "ASC", "field": "NAME" } });
        let list = fixture("list_bindings.graphql");
        let listed = world.graphql(&list, variables).await;
        let listed = listed["listWIFAuthBindings"]["bindings"].as_array().unwrap();
        assert_eq!(listed.len(), 1);
        for (name, value) in listed[0].as_object().unwrap() {
            assert_eq!(value, &binding[name], "{name}");
        }
        let unordered = world.graphql(&list, json!({ "scopeMrn": place.space })).await;
        assert_eq!(unordered["listWIFAuthBindings"]["bindings"].as_array().unwrap().len(), 1);

        let remove = fixture("remove_binding.graphql");
        let removed = world.graphql(&remove, json!({ "mrn": mrn })).await;
        assert_eq!(removed["removeWIFAuthBinding"]["mrn"], json!(mrn));
        let gone = world.refused(&fixture("get_binding.graphql"), json!({ "mrn": mrn })).await;
        assert_eq!(gone.code, "NOT_FOUND");
        assert_eq!(world.refused(&remove, json!({ "mrn": mrn })).await.code, "NOT_FOUND");
        let empty = world.graphql(&list, json!({ "scopeMrn": place.space })).await;
        assert_eq!(empty["listWIFAuthBindings"]["bindings"], json!([]));
    });
}

#[test]
fn both_spellings_of_the_argument_and_explicit_nulls_get_the_defaults() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let input = json!({
            "scopeMrn": place.space, "name": "nulls", "issuerUri": world.issuer.uri(), "subject": "nulls",
            "description": null, "roles": null, "expiration": null, "mappings": null, "allowedAudiences": null,
            "condition": null, "sourceCidrs": null,
        });
        // mondoo-go and Terraform declare the variable non-null, the documentation nullable.
        let strict = CREATE.replace("CreateWIFAuthBindingInput)", "CreateWIFAuthBindingInput!)");
        assert_ne!(strict, CREATE);
        let created = world.graphql(&strict, json!({ "input": input })).await;
        let created = &created["createWIFAuthBinding"];
        let binding = &created["binding"];
        assert_eq!(binding["roles"], json!([role("agent")]));
        assert_eq!(binding["expiration"], json!(3600));
        assert_eq!((&binding["mappings"], &binding["allowedAudiences"]), (&json!([]), &json!([])));
        assert_eq!(created["config"]["scopes"], json!([role("agent")]));

        let nothing = world.refused(CREATE, json!({ "input": null })).await;
        assert_eq!((nothing.code.as_str(), nothing.field.as_str()), ("INVALID_ARGUMENT", "input"), "{nothing:?}");
        let absent = world.refused(CREATE, json!({})).await;
        assert_eq!((absent.code.as_str(), absent.field.as_str()), ("INVALID_ARGUMENT", "input"), "{absent:?}");
    });
}

#[test]
fn strings_and_list_order_come_back_byte_for_byte() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let input = json!({
            "scopeMrn": place.space,
            "name": " Ünïcödé e\u{301} \u{1F680} 日本 \u{200D} \" \\ </script> ",
            "description": "line one\nline two\r\n\ttabbed \u{FEFF} end ",
            "issuerUri": unreachable("Tenant-With-Case/"),
            "subject": "Repo:ACME/Shop:ref:refs/heads/fée",
            "roles": [role("viewer"), role("agent")],
            "expiration": 86400,
            "mappings": [
                { "key": "jwt_claims.zulu", "value": "  spaced " },
                { "key": "jwt_claims.kubernetes.io/namespace", "value": "default" },
                { "key": "jwt_claims.alpha", "value": "Ä" },
            ],
            "allowedAudiences": ["z", "https://b.example/", "A"],
            "sourceCidrs": ["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"],
            "condition": "claims.sub  ==  'x'",
        });
        let created = world.graphql(CREATE, json!({ "input": input })).await;
        let binding = &created["createWIFAuthBinding"]["binding"];
        let got = world.graphql(&fixture("get_binding.graphql"), json!({ "mrn": binding["mrn"] })).await;
        let got = &got["getWIFAuthBinding"]["binding"];
        for (name, value) in input.as_object().unwrap() {
            let name = if name == "scopeMrn" { "scope" } else { name };
            assert_eq!(&binding[name], value, "{name}");
            if !matches!(name, "condition" | "sourceCidrs") {
                assert_eq!(&got[name], value, "{name}");
            }
        }
        assert_eq!(created["createWIFAuthBinding"]["config"]["issuerUri"], input["issuerUri"]);
        let warnings = binding["warnings"].as_array().unwrap();
        assert!(!warnings.is_empty(), "an issuer that cannot be reached is saved with a warning");
    });
}

#[test]
fn the_same_rule_twice_is_refused_whatever_its_order_or_name() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let input = json!({
            "scopeMrn": place.space, "name": "first", "issuerUri": unreachable("twice"), "subject": "twice",
            "mappings": [{ "key": "jwt_claims.a", "value": "1" }, { "key": "jwt_claims.b", "value": "2" }],
            "allowedAudiences": ["one", "two"], "condition": "claims.a == '1'", "sourceCidrs": ["10.0.0.0/8"],
        });
        let with = |name: &str, value: Value| {
            let mut changed = input.clone();
            changed[name] = value;
            changed
        };
        world.bind(input.clone()).await;
        let swapped = json!([{ "key": "jwt_claims.b", "value": "2" }, { "key": "jwt_claims.a", "value": "1" }]);
        let same = [
            ("all the same", input.clone()),
            ("another name", with("name", json!("second"))),
            ("other roles", with("roles", json!([role("viewer")]))),
            ("another lifetime", with("expiration", json!(60))),
            ("audiences in another order", with("allowedAudiences", json!(["two", "one"]))),
            ("mappings in another order", with("mappings", swapped)),
            ("a trailing slash at the issuer", with("issuerUri", json!(unreachable("twice/")))),
        ];
        for (what, input) in same {
            let refusal = world.refused(CREATE, json!({ "input": input })).await;
            assert_eq!(refusal.code, "ALREADY_EXISTS", "{what}: {refusal:?}");
        }
        let other = [
            with("subject", json!("Twice")),
            with("allowedAudiences", json!(["one"])),
            with("mappings", json!([])),
            with("condition", json!("claims.a == '2'")),
            with("sourceCidrs", json!(["10.0.0.0/9"])),
            with("scopeMrn", json!(place.organization)),
        ];
        for input in other {
            world.bind(input).await;
        }
        let listed = world.graphql(NAMES, json!({ "scope": place.space })).await;
        assert_eq!(listed["listWIFAuthBindings"]["totalCount"], json!(6));
    });
}

#[test]
fn last_used_shows_the_latest_exchange() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let binding = world.binding(&place.space, "used", &[]).await;
        let get = fixture("get_binding.graphql");
        let before = world.graphql(&get, json!({ "mrn": binding.mrn })).await;
        assert_eq!(before["getWIFAuthBinding"]["binding"]["lastUsed"], Value::Null);
        let refused = world.exchange(&place.space, world.issuer.uri(), &world.token("other", &place.space)).await;
        assert_eq!(refused.status, 403);
        let unused = world.graphql(&get, json!({ "mrn": binding.mrn })).await;
        assert_eq!(unused["getWIFAuthBinding"]["binding"]["lastUsed"], Value::Null);

        let start = now();
        world.credential(&place.space, &world.token("used", &place.space)).await;
        // Visible on the same replica once the answer is out: no waiting here.
        let after = world.graphql(&get, json!({ "mrn": binding.mrn })).await;
        let last_used = after["getWIFAuthBinding"]["binding"]["lastUsed"].as_str().expect("a time").to_owned();
        let format = &time::format_description::well_known::Rfc3339;
        let at = time::OffsetDateTime::parse(&last_used, format).expect("RFC 3339").unix_timestamp();
        assert!((start - 1..=now() + 1).contains(&at), "{last_used}");
    });
}

#[test]
fn lists_are_ordered_by_every_field_in_both_directions() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        // Made in this order; by name: bravo, charlie, alpha reversed; by issuer another one again.
        let second = world.another_issuer().await;
        let third = world.another_issuer().await;
        let mut issuers = [&world.issuer, &second, &third];
        issuers.sort_by_key(|issuer| issuer.uri().to_owned());
        let made = [("bravo", issuers[2]), ("charlie", issuers[0]), ("alpha", issuers[1])];
        for (name, issuer) in made {
            world
                .bind(json!({ "scopeMrn": place.space, "name": name, "issuerUri": issuer.uri(), "subject": name }))
                .await;
        }
        // Used in another order; the next second has to come before the next use, since times are compared.
        for (name, issuer) in [made[1], made[2], made[0]] {
            let token = issuer.mint_with(sallyport_testkit::Algorithm::Es256, claims(issuer, name, &place.space));
            let reply = world.exchange(&place.space, issuer.uri(), &token).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let used = now();
            eventually("the next second", std::time::Duration::from_secs(3), async || (now() > used).then_some(()))
                .await;
        }
        let expected = [
            ("NAME", ["alpha", "bravo", "charlie"]),
            ("ISSUER_URI", ["charlie", "alpha", "bravo"]),
            ("CREATE_TIME", ["bravo", "charlie", "alpha"]),
            ("LAST_USED", ["charlie", "alpha", "bravo"]),
        ];
        for (field, ascending) in expected {
            let order =
                |direction: &str| json!({ "scope": place.space, "order": { "direction": direction, "field": field } });
            assert_eq!(names(&world.graphql(NAMES, order("ASC")).await), ascending, "{field} ASC");
            let descending: Vec<&str> = ascending.into_iter().rev().collect();
            assert_eq!(names(&world.graphql(NAMES, order("DESC")).await), descending, "{field} DESC");
        }
    });
}

#[test]
fn pages_show_every_binding_once() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let all: BTreeSet<String> = (0..7).map(|number| format!("page {}", number / 2 * 2)).collect();
        let mut subjects = BTreeSet::new();
        for number in 0..7 {
            // Two of each name: a page must be able to end between equals.
            let input = json!({ "scopeMrn": place.space, "name": format!("page {}", number / 2 * 2),
                                "issuerUri": unreachable("pages"), "subject": format!("subject {number}") });
            subjects.insert(format!("subject {number}"));
            world.bind(input).await;
        }
        let list = NAMES.replace("{ name }", "{ name subject }");
        for (field, direction) in
            [("NAME", "ASC"), ("NAME", "DESC"), ("CREATE_TIME", "DESC"), ("LAST_USED", "ASC"), ("ISSUER_URI", "DESC")]
        {
            let (mut after, mut seen, mut pages) = (Value::Null, Vec::new(), 0);
            loop {
                let order = json!({ "direction": direction, "field": field });
                let variables = json!({ "scope": place.space, "order": order, "first": 3, "after": after });
                let page = world.graphql(&list, variables).await;
                let page = &page["listWIFAuthBindings"];
                assert_eq!(page["totalCount"], json!(7));
                for binding in page["bindings"].as_array().unwrap() {
                    assert!(all.contains(binding["name"].as_str().unwrap()));
                    seen.push(binding["subject"].as_str().unwrap().to_owned());
                }
                pages += 1;
                if page["pageInfo"]["hasNextPage"] == json!(false) {
                    break;
                }
                after = page["pageInfo"]["endCursor"].clone();
            }
            assert_eq!((pages, seen.len()), (3, 7), "{field} {direction}: {seen:?}");
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), subjects, "{field} {direction}");
        }
        let many = world.graphql(NAMES, json!({ "scope": place.space, "first": 500 })).await;
        assert_eq!(names(&many).len(), 7);
        for (variable, value) in
            [("first", json!(0)), ("first", json!(1001)), ("first", json!(-1)), ("after", json!("nonsense"))]
        {
            let mut variables = json!({ "scope": place.space });
            variables[variable] = value.clone();
            let refusal = world.refused(NAMES, variables).await;
            assert_eq!(
                (refusal.code.as_str(), refusal.field.as_str()),
                ("INVALID_ARGUMENT", variable),
                "{value}: {refusal:?}"
            );
        }
    });
}

#[test]
fn every_field_has_limits_and_the_refusal_names_it() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let many = |make: &dyn Fn(usize) -> Value| Value::Array((0..33).map(make).collect());
        let long = |length: usize| json!("x".repeat(length));
        let mapping = |key: &str| json!([{ "key": key, "value": "v" }]);
        let cases: Vec<(&str, Value)> = vec![
            ("name", json!("")),
            ("name", json!("  ")),
            ("name", long(257)),
            ("name", json!("a\u{0}b")),
            ("description", long(4097)),
            ("subject", json!("")),
            ("subject", long(1025)),
            ("subject", json!("*")),
            ("subject", json!("repo:*/x")),
            ("expiration", json!(0)),
            ("expiration", json!(-1)),
            ("expiration", json!(86401)),
            ("roles", json!([role("nobody")])),
            ("roles", json!(["editor "])),
            ("roles", many(&|n| json!(role(&format!("r{n}"))))),
            ("mappings", mapping("repository")),
            ("mappings", mapping("jwt_claims.")),
            ("mappings", mapping("aws_claims.account")),
            ("mappings", json!([{ "key": "jwt_claims.a", "value": "x".repeat(1025) }])),
            ("mappings", many(&|n| json!({ "key": format!("jwt_claims.c{n}"), "value": "v" }))),
            ("allowedAudiences", json!([""])),
            ("allowedAudiences", json!(["x".repeat(1025)])),
            ("allowedAudiences", many(&|n| json!(format!("audience {n}")))),
            ("condition", json!("claims.")),
            ("condition", json!("1 + 1")),
            ("condition", json!("claimz.sub == 'x'")),
            ("condition", json!(format!("claims.sub == '{}'", "x".repeat(1024)))),
            ("sourceCidrs", json!(["10.0.0.0/33"])),
            ("sourceCidrs", json!(["example.com"])),
            ("sourceCidrs", many(&|n| json!(format!("10.{n}.0.0/16")))),
            ("issuerUri", json!("")),
            ("issuerUri", json!("http://127.0.0.1:1/plain")),
            ("issuerUri", json!("https://user@127.0.0.1:1/")),
            ("issuerUri", json!("https://127.0.0.1:1/?q=1")),
            ("issuerUri", json!("https://127.0.0.1:1/#f")),
            ("issuerUri", json!("https://127.0.0.1:1/a/../b")),
            ("issuerUri", json!("https://exämple.test/")),
            ("issuerUri", json!(format!("https://127.0.0.1:1/{}", "x".repeat(2048)))),
        ];
        for (field, value) in cases {
            let mut input = json!({ "scopeMrn": place.space, "name": "limits", "issuerUri": unreachable("limits"), "subject": "limits" });
            input[field] = value;
            let refusal = world.refused(CREATE, json!({ "input": input })).await;
            let shown: String = input[field].to_string().chars().take(80).collect();
            assert_eq!(refusal.code, "INVALID_ARGUMENT", "{field} = {shown}: {refusal:?}");
            assert!(refusal.field.starts_with(field), "{field} = {shown}: {refusal:?}");
            assert!(refusal.message.contains(field), "{field} = {shown}: {refusal:?}");
        }
        // The edges themselves are fine.
        let edges: Vec<(&str, Value)> = vec![
            ("name", long(256)),
            ("description", long(4096)),
            ("subject", long(1024)),
            ("expiration", json!(1)),
            ("expiration", json!(86400)),
        ];
        for (number, (field, value)) in edges.into_iter().enumerate() {
            let mut input = json!({ "scopeMrn": place.space, "name": "edge", "issuerUri": unreachable("edges"), "subject": format!("edge {number}") });
            input[field] = value;
            world.bind(input).await;
        }
    });
}

#[test]
fn an_issuer_that_answers_wrongly_or_that_is_out_of_bounds_is_refused_at_save() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let liar = world.another_issuer().await;
        let mut discovery = liar.discovery();
        discovery["issuer"] = json!("https://somebody.else.example");
        liar.set_discovery_override(Some(discovery));
        let incomplete = world.another_issuer().await;
        let mut discovery = incomplete.discovery();
        discovery.as_object_mut().unwrap().remove("response_types_supported");
        incomplete.set_discovery_override(Some(discovery));
        let cases = [
            ("another issuer's document", liar.uri()),
            ("a required field is missing", incomplete.uri()),
            ("a private address nobody allowed", "https://10.255.255.1/"),
            ("cloud metadata", "https://169.254.169.254/"),
        ];
        for (what, issuer_uri) in cases {
            let input = json!({ "scopeMrn": place.space, "name": what, "issuerUri": issuer_uri, "subject": "x" });
            let refusal = world.refused(CREATE, json!({ "input": input })).await;
            assert_eq!(
                (refusal.code.as_str(), refusal.field.as_str()),
                ("FAILED_PRECONDITION", "issuerUri"),
                "{what}: {refusal:?}"
            );
        }
        let listed = world.graphql(NAMES, json!({ "scope": place.space })).await;
        assert_eq!(listed["listWIFAuthBindings"]["totalCount"], json!(0));
    });
}

#[test]
fn our_own_tokens_cannot_buy_new_ones() {
    run(async {
        let mut world = World::with(|setup| {
            setup.set("SALLYPORT_PUBLIC_URL", "https://sallyport.example.test");
        })
        .await;
        world.server.url = format!("http://{}", world.server.environment["SALLYPORT_LISTEN"]);
        let place = world.place().await;
        for issuer_uri in ["https://sallyport.example.test", "https://sallyport.example.test/"] {
            let input = json!({ "scopeMrn": place.space, "name": "own", "issuerUri": issuer_uri, "subject": "x" });
            let refusal = world.refused(CREATE, json!({ "input": input })).await;
            assert_eq!(refusal.field, "issuerUri", "{refusal:?}");
            assert!(matches!(refusal.code.as_str(), "INVALID_ARGUMENT" | "FAILED_PRECONDITION"), "{refusal:?}");
        }
    });
}

#[test]
fn bindings_work_at_space_organization_and_platform_level() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let issuer = world.another_issuer().await;
        for scope in [place.space.as_str(), &place.organization, "//platform.api.mondoo.app"] {
            let binding = world
                .bind(json!({ "scopeMrn": scope, "name": "level", "issuerUri": issuer.uri(), "subject": "level" }))
                .await;
            let token = issuer.mint_with(sallyport_testkit::Algorithm::Es256, claims(&issuer, "level", scope));
            let reply = world.exchange(scope, issuer.uri(), &token).await;
            assert_eq!(reply.status, 200, "{scope}: {}", reply.text());
            let document = document(&reply);
            assert_eq!(document["space_mrn"], json!(scope));
            assert_eq!(world.signed_ping(&document).await, 200, "{scope}");
            world.unbind(&binding.mrn).await;
        }
    });
}

#[test]
fn the_issuer_of_a_shared_platform_must_be_pinned_to_a_tenant() {
    run(async {
        let (world, place) = (world().await, world().await.place().await);
        let github = "https://token.actions.githubusercontent.com";
        let input = |subject: &str| json!({ "scopeMrn": place.space, "name": "github", "issuerUri": github, "subject": subject });
        let refusal = world.refused(CREATE, json!({ "input": input("*") })).await;
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", "subject"), "{refusal:?}");
        let created = world.graphql(CREATE, json!({ "input": input("acme/shop") })).await;
        assert_eq!(created["createWIFAuthBinding"]["binding"]["subject"], json!("acme/shop"));
    });
}
