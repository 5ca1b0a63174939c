//! Bindings as the documented clients create, list, get and remove them: the seed's documents, verbatim.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod common;

use common::{OWNER, World, role_mrn};
use serde_json::{Value, json};

// The documents that the clients' own documentation shows, exactly as published.
const CREATE: &str = include_str!("../../../tests/fixtures/create_binding.graphql");
const LIST: &str = include_str!("../../../tests/fixtures/list_bindings.graphql");
const GET: &str = include_str!("../../../tests/fixtures/get_binding.graphql");
const REMOVE: &str = include_str!("../../../tests/fixtures/remove_binding.graphql");

fn github(scope: &str, subject: &str) -> Value {
    json!({ "input": {
        "scopeMrn": scope,
        "name": "ci",
        "issuerUri": "https://token.actions.githubusercontent.com",
        "subject": subject,
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_of_the_seed_work_verbatim() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let made = world.run(CREATE, github(&space, "acme/shop")).await;
    let binding = &made["createWIFAuthBinding"]["binding"];
    assert_eq!(binding["scope"], *space);
    assert_eq!(binding["roles"], json!([role_mrn("agent")]));
    assert_eq!(binding["expiration"], 3600);
    assert_eq!(binding["description"], Value::Null);
    assert_eq!(binding["mappings"], json!([]));
    assert_eq!(
        made["createWIFAuthBinding"]["config"],
        json!({
            "universeDomain": "https://sallyport.example",
            "type": "external_account",
            "audience": space,
            "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt",
            "scopes": [role_mrn("agent")],
            "issuerUri": "https://token.actions.githubusercontent.com",
        })
    );
    let mrn = binding["mrn"].as_str().unwrap();
    let got = world.run(GET, json!({ "mrn": mrn })).await;
    assert_eq!(got["getWIFAuthBinding"]["binding"]["name"], "ci");
    assert!(got["getWIFAuthBinding"]["binding"]["createdBy"].as_str().unwrap().contains("/apitokens/"));
    for order in [Value::Null, json!({ "direction": "DESC", "field": "LAST_USED" })] {
        let listed = world.run(LIST, json!({ "scopeMrn": space, "orderBy": order })).await;
        assert_eq!(listed["listWIFAuthBindings"]["bindings"][0]["mrn"], mrn);
    }
    let removed = world.run(REMOVE, json!({ "mrn": mrn })).await;
    assert_eq!(removed["removeWIFAuthBinding"]["mrn"], mrn);
    // Both parts are gone, and so is the provider that was made for it.
    assert_eq!(world.refused(GET, json!({ "mrn": mrn })).await, "NOT_FOUND ");
    assert_eq!(world.refused(REMOVE, json!({ "mrn": mrn })).await, "NOT_FOUND ");
    let left = world
        .run(
            "query($s: String!) {
                listServiceAccounts(scopeMrn: $s) { totalCount }
                listWIFProviders(scopeMrn: $s) { totalCount }
                listWIFTrusts(scopeMrn: $s, includeBindings: true) { totalCount }
            }",
            json!({ "s": space }),
        )
        .await;
    for list in ["listServiceAccounts", "listWIFProviders", "listWIFTrusts"] {
        assert_eq!(left[list]["totalCount"], 0, "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_comes_back_byte_for_byte_and_null_is_absent() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let input = json!({ "input": {
        "scopeMrn": space,
        "name": " spaced  name ",
        "description": "line\nbreak",
        "issuerUri": format!("{}/", world.issuer.uri()),
        "subject": "build-robot",
        "roles": [role_mrn("viewer"), role_mrn("agent")],
        "expiration": 86400,
        "mappings": [{ "key": "jwt_claims.z", "value": "1" }, { "key": "jwt_claims.a", "value": "" }],
        "allowedAudiences": ["zeta", "alpha"],
        "condition": " claims.email == \"x\" ",
        "sourceCidrs": ["203.0.113.0/24", "2001:db8::/32"],
    }});
    let document = "mutation($input:CreateWIFAuthBindingInput!){createWIFAuthBinding(input: $input){
        binding{name,description,issuerUri,subject,roles,expiration,mappings{key,value},allowedAudiences,condition,sourceCidrs,clientId,serviceAccountMrn,disabled}
    }}";
    let made = world.run(document, input.clone()).await;
    let binding = &made["createWIFAuthBinding"]["binding"];
    for field in [
        "name",
        "description",
        "issuerUri",
        "subject",
        "roles",
        "expiration",
        "mappings",
        "allowedAudiences",
        "condition",
        "sourceCidrs",
    ] {
        assert_eq!(binding[field], input["input"][field], "{field}");
    }
    assert!(binding["clientId"].as_str().unwrap().ends_with("@sallyport.example/wfe"));
    // The same again, lists in another order: a duplicate.
    let mut same = input.clone();
    same["input"]["allowedAudiences"] = json!(["alpha", "zeta"]);
    same["input"]["name"] = json!("another name");
    assert_eq!(world.refused(document, same).await, "ALREADY_EXISTS ");
    // Unset lists arrive as null.
    let mut bare = github(&space, "acme/shop");
    for field in ["roles", "mappings", "allowedAudiences", "description", "expiration", "condition", "sourceCidrs"] {
        bare["input"][field] = Value::Null;
    }
    let made = world.run(document, bare).await;
    assert_eq!(made["createWIFAuthBinding"]["binding"]["roles"], json!([role_mrn("agent")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_is_named() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let mut found = String::new();
    let long = "x".repeat(5_000);
    for (field, value) in [
        ("scopeMrn", json!("nonsense")),
        ("scopeMrn", json!("//captain.api.mondoo.app/spaces/nowhere")),
        ("name", json!(" ")),
        ("name", json!("a\u{7}b")),
        ("description", json!(long)),
        ("issuerUri", json!("http://token.actions.githubusercontent.com")),
        ("issuerUri", json!("https://sallyport.example/")),
        ("issuerUri", json!("HTTPS://SALLYPORT.EXAMPLE:443")),
        ("issuerUri", json!("https://10.0.0.1")),
        ("issuerUri", json!("spiffe://prod.acme.internal")),
        ("subject", json!("")),
        ("subject", json!("no-repository")),
        ("roles", json!(["agent"])),
        ("roles", json!([role_mrn("agent"), role_mrn("agent")])),
        ("roles", json!(["//iam.api.mondoo.app/organizations/acme-org/roles/none"])),
        ("expiration", json!(0)),
        ("expiration", json!(86401)),
        ("expiration", json!(99_999_999_999_i64)),
        ("mappings", json!([{ "key": "repository", "value": "x" }])),
        ("mappings", json!([{ "key": "jwt_claims.a" }])),
        ("allowedAudiences", json!([""])),
        ("condition", json!("claims.")),
        ("sourceCidrs", json!(["10.0.0.1/8"])),
    ] {
        let mut input = github(&space, "acme/shop");
        input["input"][field] = value.clone();
        let (code, named, message) = world.refused_as(OWNER, CREATE, input).await;
        let value = value.to_string();
        let message = message.replace(&world.issuer.uri().to_owned(), "<issuer>");
        found += &format!("{field} = {}\n  {code} {named}: {message}\n", if value.len() > 90 { "…" } else { &value });
    }
    insta::assert_snapshot!(found);
    assert_eq!(world.refused(CREATE, json!({ "input": null })).await, "INVALID_ARGUMENT input");
    assert_eq!(world.refused(CREATE, json!({})).await, "INVALID_ARGUMENT input");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_reached_is_a_warning_and_one_that_answers_wrongly_is_refused() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let document = "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn warnings } } }";
    let mut input = github(&space, "build-robot");
    input["input"]["issuerUri"] = json!("https://127.0.0.1:1");
    let made = world.run(document, input.clone()).await;
    let binding = &made["createWIFAuthBinding"]["binding"];
    assert!(binding["warnings"][0].as_str().unwrap().contains("could not be reached"), "{binding}");
    let got = world
        .run(
            "query($m: String!) { getWIFAuthBinding(mrn: $m) { binding { warnings } } }",
            json!({ "m": binding["mrn"] }),
        )
        .await;
    assert_eq!(got["getWIFAuthBinding"]["binding"]["warnings"], binding["warnings"]);
    world.issuer.set_discovery_override(Some(json!({ "issuer": "https://someone.else" })));
    input["input"]["issuerUri"] = json!(world.issuer.uri());
    assert_eq!(world.refused(document, input).await, "FAILED_PRECONDITION issuerUri");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_orders_and_counts() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    for name in ["charlie", "alpha", "bravo"] {
        let mut input = github(&space, &format!("acme/{name}"));
        input["input"]["name"] = json!(name);
        world.run(CREATE, input).await;
    }
    let document = "query($s: String!, $o: WIFAuthBindingOrder, $a: String) {
        listWIFAuthBindings(scopeMrn: $s, orderBy: $o, first: 2, after: $a) {
            bindings { name } totalCount pageInfo { hasNextPage endCursor }
        }
    }";
    let order = json!({ "direction": "DESC", "field": "NAME" });
    let first = world.run(document, json!({ "s": space, "o": order })).await["listWIFAuthBindings"].take();
    assert_eq!(first["bindings"], json!([{ "name": "charlie" }, { "name": "bravo" }]));
    assert_eq!(first["totalCount"], 3);
    assert_eq!(first["pageInfo"]["hasNextPage"], true);
    let after = &first["pageInfo"]["endCursor"];
    let second = world.run(document, json!({ "s": space, "o": order, "a": after })).await["listWIFAuthBindings"].take();
    assert_eq!(second["bindings"], json!([{ "name": "alpha" }]));
    assert_eq!(second["pageInfo"]["hasNextPage"], false);
    // A cursor of another order is refused, as is nonsense.
    assert_eq!(world.refused(document, json!({ "s": space, "a": after })).await, "INVALID_ARGUMENT after");
    assert_eq!(world.refused(document, json!({ "s": space, "a": "?" })).await, "INVALID_ARGUMENT after");
    for first in [0, 1_001, -1] {
        let document =
            format!("query($s: String!) {{ listWIFAuthBindings(scopeMrn: $s, first: {first}) {{ totalCount }} }}");
        assert_eq!(world.refused(&document, json!({ "s": space })).await, "INVALID_ARGUMENT first");
    }
    // A long page with every field keeps within the limits.
    let whole = "query($s: String!) { listWIFAuthBindings(scopeMrn: $s, first: 500) { totalCount pageInfo { hasNextPage endCursor }
        bindings { mrn name description scope roles expiration issuerUri subject mappings { key value } allowedAudiences createdAt
            createdBy lastUsed condition sourceCidrs clientId serviceAccountMrn providerMrn disabled warnings
            config { universeDomain type audience subjectTokenType scopes issuerUri } } } }";
    let listed = world.run(whole, json!({ "s": space })).await;
    assert_eq!(listed["listWIFAuthBindings"]["bindings"].as_array().expect("a list").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_s_parts_are_changed_only_through_it() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let made = world
        .run(
            "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn serviceAccountMrn providerMrn } } }",
            github(&space, "acme/shop"),
        )
        .await;
    let binding = &made["createWIFAuthBinding"]["binding"];
    let mrn = binding["mrn"].as_str().unwrap();
    let trust = mrn.replace("wifbindings", "wiftrusts");
    for (document, variables) in [
        (
            "mutation($t: String!) { updateWIFTrust(input: {mrn: $t, name: \"x\"}) { trust { mrn } } }",
            json!({ "t": trust }),
        ),
        ("mutation($t: String!) { removeWIFTrust(mrn: $t) { mrn } }", json!({ "t": trust })),
        (
            "mutation($a: String!) { updateServiceAccount(input: {mrn: $a, disabled: true}) { mrn } }",
            json!({ "a": binding["serviceAccountMrn"] }),
        ),
        (
            "mutation($s: String!, $a: String!) { deleteServiceAccounts(input: {scopeMrn: $s, mrns: [$a]}) { mrns } }",
            json!({ "s": space, "a": binding["serviceAccountMrn"] }),
        ),
        (
            "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"x\", subject: \"acme/shop\"}) { trust { mrn } } }",
            json!({ "a": binding["serviceAccountMrn"], "p": binding["providerMrn"] }),
        ),
    ] {
        let (code, _, message) = world.refused_as(OWNER, document, variables).await;
        assert_eq!(code, "FAILED_PRECONDITION", "{document}: {message}");
        assert!(message.contains(mrn), "{message}");
    }
    let (code, _, _) = world
        .refused_as(
            OWNER,
            "mutation($p: String!) { removeWIFProvider(mrn: $p) { mrn } }",
            json!({ "p": binding["providerMrn"] }),
        )
        .await;
    assert_eq!(code, "FAILED_PRECONDITION");
    let update = "mutation($m: String!) { updateWIFAuthBinding(input: {mrn: $m, name: \"renamed\", disabled: true, expiration: 60}) {
        binding { name subject expiration disabled roles } } }";
    let updated = world.run(update, json!({ "m": mrn })).await;
    assert_eq!(
        updated["updateWIFAuthBinding"]["binding"],
        json!({ "name": "renamed", "subject": "acme/shop", "expiration": 60, "disabled": true, "roles": [role_mrn("agent")] })
    );
    // A disabled provider takes no new binding.
    world
        .run(
            "mutation($p: String!) { updateWIFProvider(input: {mrn: $p, disabled: true}) { provider { disabled implicit } } }",
            json!({ "p": binding["providerMrn"] }),
        )
        .await;
    assert_eq!(world.refused(CREATE, github(&space, "acme/other")).await, "FAILED_PRECONDITION issuerUri");
}
