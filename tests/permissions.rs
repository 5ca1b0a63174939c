//! Golden walk: every operation as nobody and as someone without rights. Not found equals not allowed.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Refusal, Reply, World, role, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// What the variables of an operation name: all of one place, or things that do not exist.
struct Names {
    organization: String,
    space: String,
    binding: String,
    provider: String,
    trust: String,
    account: String,
    api_token: String,
}

impl Names {
    /// Things that are there.
    async fn real(world: &World) -> Self {
        let place = world.place().await;
        let binding = world.binding(&place.space, "walk", &[]).await;
        let account = world.service_account(&place.space, &["viewer"]).await["mrn"].as_str().unwrap().to_owned();
        let issuer = world.another_issuer().await;
        let provider = world.provider(&place.space, issuer.uri()).await;
        let input = json!({ "serviceAccountMrn": account, "providerMrn": provider, "name": "walk", "subject": "walk" });
        let (trust, _) = world.trust(input).await;
        let generate = "mutation($input: GenerateAPITokenInput!) { generateAPIToken(input: $input) { mrn } }";
        let token = json!({ "name": "walk", "scopeMrn": place.space, "roles": [{ "mrn": role("agent") }] });
        let token = world.graphql(generate, json!({ "input": token })).await;
        Self {
            organization: place.organization,
            space: place.space,
            binding: binding.mrn,
            provider,
            trust,
            account,
            api_token: token["generateAPIToken"]["mrn"].as_str().unwrap().to_owned(),
        }
    }

    /// Names of the same form that nothing has.
    fn invented(real: &Self) -> Self {
        let other = |mrn: &str| format!("{}000000000000", &mrn[..mrn.len() - 12]);
        Self {
            organization: other(&real.organization),
            space: other(&real.space),
            binding: other(&real.binding),
            provider: other(&real.provider),
            trust: other(&real.trust),
            account: other(&real.account),
            api_token: other(&real.api_token),
        }
    }

    /// Every operation of the fixed part: name, document, variables.
    fn operations(&self) -> Vec<(&'static str, &'static str, Value)> {
        let (space, roles) = (&self.space, json!([{ "mrn": role("agent") }]));
        vec![
            (
                "createWIFAuthBinding",
                "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn } } }",
                json!({ "input": { "scopeMrn": space, "name": "n", "issuerUri": "https://127.0.0.1:1/", "subject": "s" } }),
            ),
            (
                "removeWIFAuthBinding",
                "mutation($mrn: String!) { removeWIFAuthBinding(mrn: $mrn) { mrn } }",
                json!({ "mrn": self.binding }),
            ),
            (
                "createSpace",
                "mutation($input: CreateSpaceInput!) { createSpace(input: $input) { mrn } }",
                json!({ "input": { "name": "n", "orgMrn": self.organization } }),
            ),
            (
                "createServiceAccount",
                "mutation($input: CreateServiceAccountInput!) { createServiceAccount(input: $input) { mrn } }",
                json!({ "input": { "scopeMrn": space, "name": "n", "roles": roles } }),
            ),
            (
                "updateServiceAccount",
                "mutation($input: UpdateServiceAccountInput!) { updateServiceAccount(input: $input) { mrn } }",
                json!({ "input": { "mrn": self.account, "name": "m" } }),
            ),
            (
                "deleteServiceAccounts",
                "mutation($input: DeleteServiceAccountsInput!) { deleteServiceAccounts(input: $input) { __typename } }",
                json!({ "input": { "scopeMrn": space, "mrns": [self.account] } }),
            ),
            (
                "generateAPIToken",
                "mutation($input: GenerateAPITokenInput!) { generateAPIToken(input: $input) { mrn } }",
                json!({ "input": { "scopeMrn": space, "name": "n", "roles": roles } }),
            ),
            (
                "deleteAPIToken",
                "mutation($mrn: String!) { deleteAPIToken(input: {mrn: $mrn}) { __typename } }",
                json!({ "mrn": self.api_token }),
            ),
            (
                "createWIFProvider",
                "mutation($input: CreateWIFProviderInput!) { createWIFProvider(input: $input) { provider { mrn } } }",
                json!({ "input": { "scopeMrn": space, "name": "n", "kind": "CUSTOM_OIDC", "issuerUri": "https://127.0.0.1:1/" } }),
            ),
            (
                "updateWIFProvider",
                "mutation($input: UpdateWIFProviderInput!) { updateWIFProvider(input: $input) { provider { mrn } } }",
                json!({ "input": { "mrn": self.provider, "name": "m" } }),
            ),
            (
                "removeWIFProvider",
                "mutation($mrn: String!) { removeWIFProvider(mrn: $mrn) { mrn } }",
                json!({ "mrn": self.provider }),
            ),
            (
                "updateWIFTrust",
                "mutation($input: UpdateWIFTrustInput!) { updateWIFTrust(input: $input) { trust { mrn } } }",
                json!({ "input": { "mrn": self.trust, "name": "m" } }),
            ),
            (
                "removeWIFTrust",
                "mutation($mrn: String!) { removeWIFTrust(mrn: $mrn) { mrn } }",
                json!({ "mrn": self.trust }),
            ),
            (
                "listWIFAuthBindings",
                "query($s: String!) { listWIFAuthBindings(scopeMrn: $s) { totalCount } }",
                json!({ "s": space }),
            ),
            (
                "getWIFAuthBinding",
                "query($mrn: String!) { getWIFAuthBinding(mrn: $mrn) { binding { mrn } } }",
                json!({ "mrn": self.binding }),
            ),
            (
                "listWIFProviders",
                "query($s: String!) { listWIFProviders(scopeMrn: $s) { totalCount } }",
                json!({ "s": space }),
            ),
            (
                "getWIFProvider",
                "query($mrn: String!) { getWIFProvider(mrn: $mrn) { __typename } }",
                json!({ "mrn": self.provider }),
            ),
            (
                "listWIFTrusts",
                "query($s: String!) { listWIFTrusts(scopeMrn: $s) { totalCount } }",
                json!({ "s": space }),
            ),
            (
                "getWIFTrust",
                "query($mrn: String!) { getWIFTrust(mrn: $mrn) { __typename } }",
                json!({ "mrn": self.trust }),
            ),
            (
                "listServiceAccounts",
                "query($s: String!) { listServiceAccounts(scopeMrn: $s) { totalCount } }",
                json!({ "s": space }),
            ),
            (
                "listExchanges",
                "query($s: String!) { listExchanges(scopeMrn: $s) { totalCount } }",
                json!({ "s": space }),
            ),
        ]
    }
}

#[test]
fn every_operation_as_nobody_is_unauthenticated() {
    run(async {
        let world = world().await;
        let real = Names::real(world).await;
        let mut operations = real.operations();
        operations.push(("viewer", "{ viewer { mrn } }", json!({})));
        operations.push(("wifPresets", "{ wifPresets { kind } }", json!({})));
        operations.push((
            "testWIFCondition",
            "{ testWIFCondition(expression: \"true\", claims: {}) { matched } }",
            json!({}),
        ));
        operations.push((
            "createOrganization",
            "mutation { createOrganization(input: {name: \"n\"}) { mrn } }",
            json!({}),
        ));
        operations.push((
            "generateIDToken",
            "mutation { generateIDToken(input: {audience: \"x\"}) { token } }",
            json!({}),
        ));
        operations.push(("introspection", "{ __schema { types { name } } }", json!({})));
        operations.push(("a misspelt field", "{ viewr { mrn } }", json!({})));
        let strangers =
            [None, Some("not-a-token-of-ours-0123456789"), Some("a.b.c"), Some("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.")];
        let mut seen: Option<Refusal> = None;
        for (name, document, variables) in &operations {
            for bearer in strangers {
                let refusal = world.refused_as(bearer, document, variables).await;
                assert_eq!(refusal.code, "UNAUTHENTICATED", "{name}: {refusal:?}");
                assert_eq!(seen.get_or_insert_with(|| refusal.clone()), &refusal, "{name}: no hints to strangers");
            }
        }
    });
}

#[test]
fn without_rights_what_exists_looks_like_what_does_not() {
    run(async {
        let world = world().await;
        let real = Names::real(world).await;
        let invented = Names::invented(&real);
        let elsewhere = world.place().await;
        // An owner of another organization, and an agent of this very space: neither may see anything here.
        let strangers = [
            ("owner elsewhere", world.api_token(&elsewhere.organization, &["owner"]).await),
            ("agent here", world.api_token(&real.space, &["agent"]).await),
        ];
        for (who, bearer) in &strangers {
            for ((name, document, there), (_, _, nowhere)) in real.operations().into_iter().zip(invented.operations()) {
                let (there, nowhere) = (
                    world.refused_as(Some(bearer), document, &there).await,
                    world.refused_as(Some(bearer), document, &nowhere).await,
                );
                assert_eq!(there, nowhere, "{who}, {name}");
                assert_eq!(there.code, "NOT_FOUND", "{who}, {name}: {there:?}");
            }
            // Parents named inside an input are arguments.
            let trust = |names: &Names| json!({ "input": { "serviceAccountMrn": names.account, "providerMrn": names.provider, "name": "n", "subject": "s" } });
            let create = "mutation($input: CreateWIFTrustInput!) { createWIFTrust(input: $input) { trust { mrn } } }";
            let there = world.refused_as(Some(bearer), create, &trust(&real)).await;
            assert_eq!(there, world.refused_as(Some(bearer), create, &trust(&invented)).await, "{who}, createWIFTrust");
            assert!(matches!(there.code.as_str(), "INVALID_ARGUMENT" | "NOT_FOUND"), "{there:?}");
        }
        // A simulation is an answer rather than an error; it tells a stranger the same of both.
        let simulate = "query($input: SimulateExchangeInput!) { simulateExchange(input: $input) { \
                        granted trustMrn roles reason claims checks { name outcome expected actual detail } } }";
        for (who, bearer) in &strangers {
            let mut seen = Vec::new();
            for names in [&real, &invented] {
                let claims = json!({ "iss": world.issuer.uri(), "sub": "walk" });
                let input = json!({ "claims": claims, "audience": names.space, "issuerUri": world.issuer.uri() });
                let answer = world.query(Some(bearer), simulate, &json!({ "input": input })).await.json();
                seen.push(answer.to_string().replace(&names.space, "SPACE"));
            }
            assert_eq!(seen[0], seen[1], "{who}");
        }
        // Nothing of it had an effect.
        for (name, document, variables) in real.operations().into_iter().filter(|(name, ..)| name.starts_with("get")) {
            let reply = world.query(Some(&world.admin), document, &variables).await;
            assert!(reply.json().get("errors").is_none(), "{name}: {}", reply.text());
        }
    });
}

#[test]
fn who_sees_but_may_not_change_is_told_so() {
    run(async {
        let world = world().await;
        let real = Names::real(world).await;
        let viewer = world.api_token(&real.organization, &["viewer"]).await;
        for (name, document, variables) in real.operations() {
            if document.starts_with("mutation") {
                let refusal = world.refused_as(Some(&viewer), document, &variables).await;
                assert_eq!(refusal.code, "PERMISSION_DENIED", "{name}: {refusal:?}");
            } else {
                let reply = world.query(Some(&viewer), document, &variables).await;
                assert!(reply.json().get("errors").is_none(), "{name}: {}", reply.text());
            }
        }
        let create = "mutation { createOrganization(input: {name: \"n\"}) { mrn } }";
        assert_eq!(world.refused_as(Some(&viewer), create, &json!({})).await.code, "PERMISSION_DENIED");
    });
}

#[test]
fn ids_are_compared_case_sensitively() {
    run(async {
        let world = world().await;
        let create = "mutation($id: String!) { createOrganization(input: {name: \"n\", id: $id}) { mrn } }";
        for id in ["Case-Matters", "case-matters"] {
            world.graphql(create, json!({ "id": id })).await;
        }
        let lower = "//captain.api.mondoo.app/organizations/case-matters";
        let token = world.api_token(lower, &["viewer"]).await;
        let list = "query($s: String!) { listWIFAuthBindings(scopeMrn: $s) { totalCount } }";
        world.graphql_as(&token, list, json!({ "s": lower })).await;
        let scope = json!({ "s": "//captain.api.mondoo.app/organizations/Case-Matters" });
        assert_eq!(world.refused_as(Some(&token), list, &scope).await.code, "NOT_FOUND");
        let scope = json!({ "s": "//Captain.api.mondoo.app/organizations/case-matters" });
        assert_eq!(world.refused_as(Some(&token), list, &scope).await.code, "INVALID_ARGUMENT", "no MRN at all");
    });
}

#[test]
fn cross_site_requests_and_oversized_queries_are_refused() {
    run(async {
        let world = world().await;
        let url = format!("{}/query", world.server.url);
        let body = json!({ "query": "{ viewer { mrn } }" }).to_string();
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            let request = world.http.post(&url).bearer_auth(&world.admin).header("content-type", content_type);
            let reply = Reply::to(request.body(body.clone())).await;
            assert!(reply.status >= 400 && !reply.text().contains("apitokens"), "{content_type}: {}", reply.text());
        }
        let get = format!("{url}?query=%7Bviewer%7Bmrn%7D%7D");
        let reply = Reply::to(world.http.get(get).bearer_auth(&world.admin)).await;
        assert!(reply.status >= 400 && !reply.text().contains("apitokens"), "{}", reply.text());

        let aliases = (0..200).map(|n| format!("a{n}: viewer {{ mrn }} ")).collect::<String>();
        let deep =
            format!("{{ __schema {{ types {{ {} name {} }} }} }}", "fields { type { ".repeat(20), "} } ".repeat(20));
        for document in [format!("{{ {aliases} }}"), deep] {
            let refusal = world.refused(&document, json!({})).await;
            assert_eq!(refusal.code, "RESOURCE_EXHAUSTED", "{refusal:?}");
        }
        let batch: Vec<Value> = (0..100).map(|_| json!({ "query": "{ viewer { mrn } }" })).collect();
        let reply = Reply::to(world.http.post(&url).bearer_auth(&world.admin).json(&batch)).await;
        assert!(reply.status >= 400, "a batch of 100: {}", reply.status);
        assert!(!reply.header("x-request-id").is_empty());
    });
}

#[test]
fn browsers_get_a_console_without_a_token() {
    run(async {
        let world = world().await;
        let reply =
            Reply::to(world.http.get(format!("{}/graphql", world.server.url)).header("accept", "text/html")).await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("content-type").starts_with("text/html"), "{reply:?}");
        assert_eq!(reply.header("x-frame-options"), "DENY");
    });
}
