//! Story: an admin manages providers and trusts, tries a token out without issuing anything, and looks up refusals.

use sallyport_testkit::Algorithm;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{World, claims, role, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

const CREATE_PROVIDER: &str =
    "mutation($input: CreateWIFProviderInput!) { createWIFProvider(input: $input) { provider { mrn issuerUri } } }";
const CREATE_TRUST: &str = "mutation($input: CreateWIFTrustInput!) { createWIFTrust(input: $input) { trust { \
mrn scope name clientId providerMrn serviceAccountMrn subject condition mappings { key value } allowedAudiences sourceCidrs \
scopedRoles passthroughClaims expiration disabled warnings lastUsed } } }";
const UPDATE_TRUST: &str = "mutation($input: UpdateWIFTrustInput!) { updateWIFTrust(input: $input) { trust { \
mrn scope name clientId providerMrn serviceAccountMrn subject condition mappings { key value } allowedAudiences sourceCidrs \
scopedRoles passthroughClaims expiration disabled warnings lastUsed } } }";
const SIMULATE: &str = "query($input: SimulateExchangeInput!) { simulateExchange(input: $input) { \
granted trustMrn roles reason claims checks { name outcome expected actual detail } } }";

/// The checks, in order.
const CHECKS: [&str; 14] = [
    "locate",
    "decode",
    "issuer",
    "signature",
    "algorithm",
    "audience",
    "freshness",
    "subject",
    "mappings",
    "condition",
    "source_ip",
    "enabled",
    "roles",
    "replay",
];

#[test]
fn a_provider_is_checked_while_the_admin_waits() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let input = |issuer_uri: &str| json!({ "input": { "scopeMrn": place.space, "name": "p", "kind": "CUSTOM_OIDC", "issuerUri": issuer_uri } });
        let down = world.refused(CREATE_PROVIDER, input("https://127.0.0.1:1/")).await;
        assert_eq!((down.code.as_str(), down.field.as_str()), ("FAILED_PRECONDITION", "issuerUri"), "{down:?}");
        for name in [
            "issuer",
            "jwks_uri",
            "response_types_supported",
            "subject_types_supported",
            "id_token_signing_alg_values_supported",
        ] {
            let issuer = world.another_issuer().await;
            let mut discovery = issuer.discovery();
            discovery.as_object_mut().unwrap().remove(name);
            issuer.set_discovery_override(Some(discovery));
            let refusal = world.refused(CREATE_PROVIDER, input(issuer.uri())).await;
            assert_eq!(
                (refusal.code.as_str(), refusal.field.as_str()),
                ("FAILED_PRECONDITION", "issuerUri"),
                "{name}: {refusal:?}"
            );
            assert!(refusal.message.contains(name), "the error says which: {refusal:?}");
        }
        let issuer = world.another_issuer().await;
        world.graphql(CREATE_PROVIDER, input(issuer.uri())).await;
        let twice = world.refused(CREATE_PROVIDER, input(&format!("{}/", issuer.uri()))).await;
        assert_eq!(twice.code, "ALREADY_EXISTS", "one per scope and issuer modulo a slash: {twice:?}");
        let own = world.refused(CREATE_PROVIDER, input(&world.server.url)).await;
        assert_eq!(own.field, "issuerUri", "{own:?}");
    });
}

#[test]
fn a_provider_with_trusts_cannot_be_removed_and_an_implicit_one_goes_with_its_last_binding() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let input =
            json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "s" });
        let (trust, _) = world.trust(input).await;
        let remove = "mutation($mrn: String!) { removeWIFProvider(mrn: $mrn) { mrn } }";
        assert_eq!(world.refused(remove, json!({ "mrn": provider })).await.code, "FAILED_PRECONDITION");
        world.graphql("mutation($mrn: String!) { removeWIFTrust(mrn: $mrn) { mrn } }", json!({ "mrn": trust })).await;
        world.graphql(remove, json!({ "mrn": provider })).await;

        let issuer = world.another_issuer().await;
        let binding = world
            .bind(json!({ "scopeMrn": place.space, "name": "b", "issuerUri": issuer.uri(), "subject": "s" }))
            .await;
        let list =
            "query($s: String!) { listWIFProviders(scopeMrn: $s) { providers { mrn issuerUri implicit disabled } } }";
        let listed = world.graphql(list, json!({ "s": place.space })).await;
        let providers = listed["listWIFProviders"]["providers"].as_array().expect("providers");
        assert_eq!(providers.len(), 1, "{listed}");
        assert_eq!((&providers[0]["issuerUri"], &providers[0]["implicit"]), (&json!(issuer.uri()), &json!(true)));
        // The parts of a binding are changed only through it.
        let attach = json!({ "serviceAccountMrn": binding.service_account, "providerMrn": providers[0]["mrn"], "name": "t", "subject": "x" });
        let refusal = world.refused(CREATE_TRUST, json!({ "input": attach })).await;
        assert_eq!(refusal.code, "FAILED_PRECONDITION", "{refusal:?}");
        assert!(refusal.message.contains(&binding.mrn), "it names the binding: {refusal:?}");
        world.unbind(&binding.mrn).await;
        let listed = world.graphql(list, json!({ "s": place.space })).await;
        assert_eq!(listed["listWIFProviders"]["providers"], json!([]));
    });
}

#[test]
fn a_field_left_out_of_an_update_keeps_its_value_and_every_rule_is_checked_again() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["viewer", "agent"]).await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let input = json!({
            "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "trust", "subject": "kept",
            "condition": "claims.repository == 'acme/shop'", "mappings": [{ "key": "jwt_claims.environment", "value": "production" }],
            "allowedAudiences": [place.space], "sourceCidrs": ["127.0.0.0/8", "::1/128"], "scopedRoles": [role("viewer")],
            "passthroughClaims": ["repository"], "expiration": 300,
        });
        let made = world.graphql(CREATE_TRUST, json!({ "input": input })).await;
        let made = made["createWIFTrust"]["trust"].clone();
        for (name, value) in input.as_object().unwrap() {
            assert_eq!(&made[name], value, "{name}");
        }
        let token = || world.token("kept", &place.space);
        let client_id = made["clientId"].as_str().unwrap();
        assert_eq!(world.oauth(client_id, &token(), &[]).await.status, 200);
        let renamed = world.graphql(UPDATE_TRUST, json!({ "input": { "mrn": made["mrn"], "name": "renamed" } })).await;
        let renamed = &renamed["updateWIFTrust"]["trust"];
        for (name, value) in made.as_object().unwrap() {
            if name != "name" && name != "lastUsed" {
                assert_eq!(&renamed[name], value, "{name} was left out");
            }
        }
        assert_eq!(renamed["name"], json!("renamed"));
        let wrong: [(&str, Value); 6] = [
            ("condition", json!("claims.repository ==")),
            ("expiration", json!(0)),
            ("sourceCidrs", json!(["nowhere"])),
            ("subject", json!("*")),
            ("mappings", json!([{ "key": "x", "value": "y" }])),
            ("scopedRoles", json!([role("nobody")])),
        ];
        for (field, value) in wrong {
            let mut input = json!({ "mrn": made["mrn"] });
            input[field] = value;
            let refusal = world.refused(UPDATE_TRUST, json!({ "input": input })).await;
            assert_eq!(refusal.code, "INVALID_ARGUMENT", "{field}: {refusal:?}");
            assert!(refusal.field.starts_with(field), "{field}: {refusal:?}");
        }
        world
            .graphql(UPDATE_TRUST, json!({ "input": { "mrn": made["mrn"], "condition": "claims.repository == 'x'" } }))
            .await;
        assert_eq!(world.oauth(client_id, &token(), &[]).await.status, 400, "the new rule holds at once");
    });
}

#[test]
fn simulation_shows_every_check_and_issues_nothing() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "b", "issuerUri": world.issuer.uri(), "subject": "simulated",
                            "condition": "claims.repository == 'acme/shop'" });
        let binding = world.bind(input).await;
        let simulate =
            async |input: Value| world.graphql(SIMULATE, json!({ "input": input })).await["simulateExchange"].take();
        let good = world.token("simulated", &place.space);
        let granted = simulate(json!({ "subjectToken": good, "clientId": binding.client_id })).await;
        assert_eq!(
            (&granted["granted"], &granted["reason"], &granted["roles"]),
            (&json!(true), &Value::Null, &json!([role("agent")])),
            "{granted}"
        );
        assert_eq!(granted["claims"]["sub"], json!("simulated"));
        let names: Vec<&str> =
            granted["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(names, CHECKS);
        for check in granted["checks"].as_array().unwrap() {
            assert!(matches!(check["outcome"].as_str(), Some("PASSED" | "SKIPPED")), "{check}");
        }
        let mut other = world.claims("simulated", &place.space);
        other["repository"] = json!("mallory/shop");
        let refused =
            simulate(json!({ "subjectToken": world.issuer.mint(&other), "clientId": binding.client_id })).await;
        assert_eq!((&refused["granted"], &refused["reason"]), (&json!(false), &json!("condition")), "{refused}");
        // Claims alone do: what cannot be checked then is skipped.
        let by_claims = simulate(json!({ "claims": world.claims("simulated", &place.space), "audience": place.space,
                                         "issuerUri": world.issuer.uri() }))
        .await;
        let outcome = |name: &str| {
            let checks = by_claims["checks"].as_array().unwrap();
            checks.iter().find(|check| check["name"] == name).unwrap()["outcome"].clone()
        };
        assert_eq!((outcome("signature"), outcome("subject")), (json!("SKIPPED"), json!("PASSED")), "{by_claims}");
        let recorded = "query($s: String!) { listExchanges(scopeMrn: $s) { totalCount } }";
        let recorded = world.graphql(recorded, json!({ "s": place.space })).await;
        assert_eq!(recorded["listExchanges"]["totalCount"], json!(0), "nothing was issued, nothing recorded");
        for input in [
            json!({ "clientId": binding.client_id }),
            json!({ "subjectToken": good, "claims": {}, "clientId": binding.client_id }),
        ] {
            assert_eq!(world.refused(SIMULATE, json!({ "input": input })).await.code, "INVALID_ARGUMENT");
        }
    });
}

#[test]
fn a_reference_leads_the_admin_to_the_whole_decision() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "recorded", &[]).await;
        let token = world.token("recorded", &place.space);
        let granted = world.exchange(&place.space, world.issuer.uri(), &token).await;
        let record = world.record(&place.organization, &granted.reference()).await;
        assert_eq!((&record["granted"], &record["reason"]), (&json!(true), &Value::Null), "{record}");
        assert_eq!(record["serviceAccountMrn"], json!(binding.service_account));
        assert_eq!((&record["issuerUri"], &record["subject"]), (&json!(world.issuer.uri()), &json!("recorded")));
        assert_eq!(record["sourceIp"], json!("127.0.0.1"));
        let names: Vec<&str> =
            record["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(names, CHECKS);
        let refused = world.exchange(&place.space, world.issuer.uri(), &world.token("stranger", &place.space)).await;
        let record = world.record(&place.organization, &refused.reference()).await;
        assert_eq!(
            (&record["granted"], &record["reason"], &record["subject"]),
            (&json!(false), &json!("subject"), &json!("stranger"))
        );
        assert!(!record.to_string().contains(token.rsplit('.').next().unwrap()), "never the token");

        let list = "query($s: String!, $granted: Boolean, $first: Int, $after: String) { \
                    listExchanges(scopeMrn: $s, granted: $granted, first: $first, after: $after) { \
                    totalCount exchanges { reference granted } pageInfo { hasNextPage endCursor } } }";
        for (granted, count) in [(json!(null), 2), (json!(true), 1), (json!(false), 1)] {
            let listed = world.graphql(list, json!({ "s": place.space, "granted": granted })).await;
            assert_eq!(listed["listExchanges"]["totalCount"], json!(count), "{listed}");
        }
        let first = world.graphql(list, json!({ "s": place.organization, "first": 1 })).await;
        let first = &first["listExchanges"];
        assert_eq!(first["pageInfo"]["hasNextPage"], json!(true));
        let second = world
            .graphql(list, json!({ "s": place.organization, "first": 1, "after": first["pageInfo"]["endCursor"] }))
            .await;
        let second = &second["listExchanges"];
        assert_eq!(second["pageInfo"]["hasNextPage"], json!(false));
        assert_ne!(first["exchanges"][0]["reference"], second["exchanges"][0]["reference"]);
        let elsewhere = world.place().await;
        let none = world.graphql(list, json!({ "s": elsewhere.organization })).await;
        assert_eq!(none["listExchanges"]["totalCount"], json!(0), "every query carries its scope");
    });
}

#[test]
fn the_most_specific_of_several_trusts_wins() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let mut trusts = Vec::new();
        for (name, more) in [
            ("pattern", json!({ "subject": "job:deploy:*" })),
            ("exact", json!({ "subject": "job:deploy:main" })),
            (
                "exact with a condition",
                json!({ "subject": "job:deploy:main", "condition": "claims.repository == 'acme/shop'" }),
            ),
        ] {
            let account = world.service_account(&place.space, &["viewer"]).await;
            let mut input = json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": name });
            for (key, value) in more.as_object().unwrap() {
                input[key] = value.clone();
            }
            trusts.push((world.trust(input).await.0, account["mrn"].clone()));
        }
        let expected = [
            ("job:deploy:main", json!("acme/shop"), 2),
            ("job:deploy:main", json!("acme/other"), 1),
            ("job:deploy:test", json!("acme/shop"), 0),
        ];
        for (subject, repository, winner) in expected {
            let mut claims = world.claims(subject, &place.space);
            claims["repository"] = repository;
            let reply = world.exchange(&place.space, world.issuer.uri(), &world.issuer.mint(&claims)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let record = world.record(&place.space, &reply.reference()).await;
            assert_eq!(
                (&record["trustMrn"], &record["serviceAccountMrn"]),
                (&json!(trusts[winner].0), &trusts[winner].1),
                "{subject}"
            );
        }
    });
}

#[test]
fn conditions_can_be_tried_before_they_are_saved() {
    run(async {
        let world = world().await;
        let test = "query($e: String!, $c: JSON!) { testWIFCondition(expression: $e, claims: $c) { matched error } }";
        let claims =
            json!({ "repository": "acme/shop", "groups": ["a", "b"], "https://x.example/": { "account": "1" } });
        for (expression, matched) in [
            ("claims.repository == 'acme/shop'", true),
            ("claims.repository.startsWith('other/')", false),
            ("'b' in claims.groups && size(claims.groups) == 2", true),
            ("claims['https://x.example/'].account == '1'", true),
            ("claims.repository.matches('^acme/[a-z]+$')", true),
        ] {
            let tried = world.graphql(test, json!({ "e": expression, "c": claims })).await;
            assert_eq!(tried["testWIFCondition"], json!({ "matched": matched, "error": null }), "{expression}");
        }
        for expression in ["claims.missing == 'x'", "claims.", "1 + 1"] {
            let tried = world.graphql(test, json!({ "e": expression, "c": claims })).await;
            assert_eq!(tried["testWIFCondition"]["matched"], json!(false), "{expression}");
            assert!(tried["testWIFCondition"]["error"].is_string(), "{expression}: {tried}");
        }
    });
}

#[test]
fn one_time_tokens_are_good_for_one_exchange() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        for (replay, with_id) in [("ONCE", false), ("ONCE_IF_JTI", true)] {
            let issuer = world.another_issuer().await;
            let input = json!({ "scopeMrn": place.space, "name": "p", "kind": "CUSTOM_OIDC", "issuerUri": issuer.uri(), "replay": replay });
            let provider = world.provider_with(input).await;
            let account = world.service_account(&place.space, &["viewer"]).await;
            let input =
                json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "once" });
            let (_, client_id) = world.trust(input).await;
            let mut honest = claims(&issuer, "once", &place.space);
            if with_id {
                honest["jti"] = json!("the one and only");
            }
            let token = issuer.mint_with(Algorithm::Es256, &honest);
            let simulate = json!({ "input": { "subjectToken": token, "clientId": client_id } });
            assert_eq!(
                world.graphql(SIMULATE, simulate).await["simulateExchange"]["granted"],
                json!(true),
                "simulation consumes nothing"
            );
            // At the same moment: one wins.
            let (one, two) = tokio::join!(world.oauth(&client_id, &token, &[]), world.oauth(&client_id, &token, &[]));
            let mut statuses = [one.status, two.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 400], "{replay}: {} {}", one.text(), two.text());
            let again = world.oauth(&client_id, &token, &[]).await;
            assert_eq!((again.status, &again.json()["error"]), (400, &json!("invalid_grant")), "{replay}");
            let record = world.record(&place.space, &again.reference()).await;
            assert_eq!(record["reason"], json!("replay"), "{record}");
        }
    });
}
