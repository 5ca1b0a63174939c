//! What reviews of this surface found: each finding with the test that keeps it fixed.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod common;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use common::{OWNER, World, role_mrn};
use sallyport_credentials::access_token::{AccessTokenClaims, WifClaims};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{CredentialId, OrganizationId};
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::RoleName;
use sallyport_domain::subject_status::SubjectStatus;
use sallyport_gateway::turns::Turns;
use sallyport_graphql::{GraphqlOptions, router};
use sallyport_store::{Configuration, MutateError, StoreError, Write};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// What a field of an answer says.
fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

async fn account(world: &World, scope: &str, role: &str, valid_until: Option<&str>) -> String {
    let made = world
        .run(
            "mutation($s: String!, $r: String!, $u: String) { createServiceAccount(input: {scopeMrn: $s, name: \"a\", roles: [{mrn: $r}], validUntil: $u}) { mrn } }",
            json!({ "s": scope, "r": role, "u": valid_until }),
        )
        .await;
    text(&made["createServiceAccount"]["mrn"])
}

async fn provider(world: &World, scope: &str) -> String {
    let made = world
        .run(
            "mutation($s: String!, $i: String!) { createWIFProvider(input: {scopeMrn: $s, name: \"ci\", kind: CUSTOM_OIDC, issuerUri: $i}) { provider { mrn } } }",
            json!({ "s": scope, "i": world.issuer.uri() }),
        )
        .await;
    text(&made["createWIFProvider"]["provider"]["mrn"])
}

async fn trust(world: &World, account: &str, provider: &str) -> String {
    let made = world
        .run(
            "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"t\", subject: \"robot\"}) { trust { mrn } } }",
            json!({ "a": account, "p": provider }),
        )
        .await;
    text(&made["createWIFTrust"]["trust"]["mrn"])
}

/// The access token that an exchange through this trust would have given.
fn access_token(world: &World, account: &str, trust: &str, role: &str) -> String {
    let services = &world.services;
    let now = services.now().seconds();
    let claims = AccessTokenClaims {
        iss: (&services.installation.public_url).into(),
        sub: account.into(),
        aud: (&services.installation.public_url).into(),
        client_id: "".into(),
        scope: "".into(),
        iat: now,
        exp: now + 600,
        jti: CredentialId(services.new_id()),
        roles: vec![role.to_owned()].into(),
        wif: WifClaims {
            issuer: world.issuer.uri().into(),
            subject: "robot".into(),
            provider: "".into(),
            trust: trust.into(),
        },
        c1wfc: std::collections::BTreeMap::new(),
    };
    services.keys.load().sign_access_token(&claims).unwrap()
}

/// A role of an organization's own.
async fn role(world: &World, organization: &str, name: &str, permissions: &[&str]) -> String {
    let made = world
        .run(
            "mutation($o: String!, $n: String!, $p: [String!]!) { createRole(input: {orgMrn: $o, name: $n, permissions: $p}) { mrn } }",
            json!({ "o": organization, "n": name, "p": permissions }),
        )
        .await;
    text(&made["createRole"]["mrn"])
}

/// Secret and MRN of an API token.
async fn token(world: &World, scope: &str, role: &str) -> (String, String) {
    let made = world
        .run(
            "mutation($s: String!, $r: String!) { generateAPIToken(input: {name: \"t\", scopeMrn: $s, roles: [{mrn: $r}]}) { token mrn } }",
            json!({ "s": scope, "r": role }),
        )
        .await["generateAPIToken"]
        .take();
    (text(&made["token"]), text(&made["mrn"]))
}

const ACCOUNTS: &str = "query($s: String!) { listServiceAccounts(scopeMrn: $s) { totalCount } }";

#[tokio::test(flavor = "multi_thread")]
async fn h1_a_document_of_spreads_without_fields_is_refused_before_the_engine_sees_it() {
    let world = World::new().await;
    let mut bomb = String::from("{...f0}");
    for i in 0..28 {
        bomb += &format!(" fragment f{i} on Query{{...f{0} ...f{0} ...f{0}}}", i + 1);
    }
    for last in ["", " fragment f28 on Query{...nope}", " fragment f28 on Query{...f0}"] {
        assert_eq!(world.refused(&format!("{bomb}{last}"), json!({})).await, "INVALID_ARGUMENT query");
    }
    let known = format!("{bomb} fragment f28 on Query{{__typename}}");
    assert_eq!(world.refused(&known, json!({})).await, "RESOURCE_EXHAUSTED ");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_who_is_gone_does_nothing_more_in_the_same_request() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let (secret, mrn) = token(&world, &space, &role_mrn("owner")).await;
    let answer = world
        .run_as(
            &secret,
            "mutation($t: String!, $s: String!) {
                first: deleteAPIToken(input: {mrn: $t}) { mrn }
                second: createServiceAccount(input: {scopeMrn: $s, name: \"x\"}) { mrn }
                third: generateAPIToken(input: {scopeMrn: $s, name: \"x\"}) { mrn }
                fourth: createWIFProvider(input: {scopeMrn: $s, name: \"x\", kind: AWS_STS}) { provider { mrn } }
                fifth: createWIFAuthBinding(input: {scopeMrn: $s, name: \"x\", issuerUri: \"https://127.0.0.1:1\", subject: \"x\"}) { binding { mrn } }
            }",
            json!({ "t": mrn, "s": space }),
        )
        .await;
    assert_eq!(answer["data"]["first"]["mrn"], mrn, "{answer}");
    let errors = answer["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 4, "{answer}");
    for error in errors {
        assert_eq!(error["extensions"]["code"], "UNAUTHENTICATED", "{answer}");
    }
    assert_eq!(world.run(ACCOUNTS, json!({ "s": space })).await["listServiceAccounts"]["totalCount"], 0);
    // Nor in the rest of its batch, by reading.
    let (secret, mrn) = token(&world, &space, &role_mrn("owner")).await;
    let batch = json!([
        { "query": "mutation($t: String!) { deleteAPIToken(input: {mrn: $t}) { mrn } }", "variables": { "t": mrn } },
        { "query": "{ viewer { mrn } }" },
        { "query": "query($s: String!) { getSpace(mrn: $s) { mrn } }", "variables": { "s": space } },
    ]);
    let answers = world.post(&secret, &batch).await;
    assert!(answers[0].get("errors").is_none(), "{answers}");
    for answer in &answers.as_array().unwrap()[1..] {
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{answer}");
    }
    // And who has less does less.
    let own =
        role(&world, &organization, "keeper", &["roles.read", "roles.manage", "spaces.create", "scopes.read"]).await;
    let (secret, _) = token(&world, &organization, &own).await;
    let answer = world
        .run_as(
            &secret,
            "mutation($r: String!, $o: String!) {
                first: updateRole(input: {mrn: $r, permissions: [\"roles.manage\", \"roles.read\", \"scopes.read\"]}) { mrn }
                second: createSpace(input: {name: \"x\", orgMrn: $o}) { mrn }
            }",
            json!({ "r": own, "o": organization }),
        )
        .await;
    assert_eq!(answer["data"]["first"]["mrn"], own, "{answer}");
    assert_eq!(answer["errors"][0]["extensions"]["code"], "PERMISSION_DENIED", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn m6_a_federated_caller_makes_nothing_that_outlasts_its_credential() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let all = [
        "apitokens.read",
        "apitokens.manage",
        "serviceaccounts.read",
        "serviceaccounts.manage",
        "roles.read",
        "roles.manage",
        "scopes.read",
        "spaces.manage",
    ];
    let plain = role(&world, &organization, "workload", &all).await;
    let trusted = role(&world, &organization, "trusted", &[&all[..], &["federation.byworkload"]].concat()).await;
    let provider = provider(&world, &organization).await;
    let target = account(&world, &organization, &plain, None).await;
    let spare_role = role(&world, &organization, "spare", &["roles.read"]).await;
    let spare_account = account(&world, &organization, &role_mrn("agent"), None).await;
    let (_, spare_token) = token(&world, &organization, &role_mrn("agent")).await;
    for (role, allowed) in [(&plain, false), (&trusted, true)] {
        let account = account(&world, &organization, role, None).await;
        let trust = trust(&world, &account, &provider).await;
        let bearer = access_token(&world, &account, &trust, role);
        for (document, variables) in [
            (
                "mutation($s: String!) { generateAPIToken(input: {scopeMrn: $s, name: \"x\"}) { mrn } }",
                json!({ "s": organization }),
            ),
            (
                "mutation($s: String!, $r: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"x\", roles: [{mrn: $r}]}) { mrn } }",
                json!({ "s": organization, "r": role }),
            ),
            (
                "mutation($a: String!) { updateServiceAccount(input: {mrn: $a, name: \"x\"}) { mrn } }",
                json!({ "a": target }),
            ),
            (
                "mutation($s: String!) { createRole(input: {orgMrn: $s, name: \"another\", permissions: [\"roles.read\"]}) { mrn } }",
                json!({ "s": organization }),
            ),
            ("mutation($r: String!) { updateRole(input: {mrn: $r, title: \"x\"}) { mrn } }", json!({ "r": role })),
            // Nor takes away what others rest on.
            ("mutation($r: String!) { deleteRole(mrn: $r) { mrn } }", json!({ "r": spare_role })),
            (
                "mutation($s: String!, $a: String!) { deleteServiceAccounts(input: {scopeMrn: $s, mrns: [$a]}) { mrns } }",
                json!({ "s": organization, "a": spare_account }),
            ),
            ("mutation($t: String!) { deleteAPIToken(input: {mrn: $t}) { mrn } }", json!({ "t": spare_token })),
            // Nor lets in again whom an admin locked out.
            ("mutation($s: String!) { updateSpace(input: {mrn: $s, disabled: true}) { mrn } }", json!({ "s": space })),
        ] {
            let answer = world.run_as(&bearer, document, variables).await;
            let code = &answer["errors"][0]["extensions"]["code"];
            if allowed {
                assert!(code.is_null(), "{document}\n{answer}");
            } else {
                assert_eq!(code, "PERMISSION_DENIED", "{document}\n{answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m7_ten_evaluations_fit_into_a_request_and_only_for_who_may_simulate() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let evaluate = |n: usize| {
        let fields: String = (0..n)
            .map(|i| format!("a{i}: testWIFCondition(expression: \"claims.sub == 'x'\", claims: {{sub: \"x\"}}) {{ matched error cost }} "))
            .collect();
        format!("{{ {fields} }}")
    };
    assert_eq!(world.run(&evaluate(10), json!({})).await["a9"]["matched"], true);
    assert_eq!(world.refused(&evaluate(11), json!({})).await, "RESOURCE_EXHAUSTED ");
    let simulate = |n: usize| {
        let fields: String =
            (0..n).map(|i| format!("a{i}: simulateExchange(input: {{claims: {{}}}}) {{ granted }} ")).collect();
        format!("{{ {fields} }}")
    };
    assert_eq!(world.run(&simulate(10), json!({})).await["a9"]["granted"], false);
    assert_eq!(world.refused(&simulate(11), json!({})).await, "RESOURCE_EXHAUSTED ");
    let agent = world.token(&space, "agent").await;
    assert_eq!(world.refused_as(&agent, &evaluate(1), json!({})).await.0, "PERMISSION_DENIED");
    let viewer = world.token(&space, "viewer").await;
    assert!(world.run_as(&viewer, &evaluate(1), json!({})).await.get("errors").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn m13_a_request_counts_a_few_lists_and_not_hundreds() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let counts = |n: usize| {
        let fields: String =
            (0..n).map(|i| format!("a{i}: listServiceAccounts(scopeMrn: $s, first: 1) {{ totalCount }} ")).collect();
        format!("query($s: String!) {{ {fields} }}")
    };
    world.run(&counts(11), json!({ "s": space })).await;
    assert_eq!(world.refused(&counts(12), json!({ "s": space })).await, "RESOURCE_EXHAUSTED ");
    // Within one list, and behind a fragment, each is paid too.
    let inside: String = (0..12).map(|i| format!("a{i}: totalCount ")).collect();
    let document = format!("query($s: String!) {{ listServiceAccounts(scopeMrn: $s, first: 1) {{ {inside} }} }}");
    assert_eq!(world.refused(&document, json!({ "s": space })).await, "RESOURCE_EXHAUSTED ");
    let document = format!(
        "query($s: String!) {{ listExchanges(scopeMrn: $s, first: 1) {{ ...c }} }} fragment c on ListExchangesPayload {{ {inside} }}"
    );
    assert_eq!(world.refused(&document, json!({ "s": space })).await, "RESOURCE_EXHAUSTED ");
    // The largest pages with everything there is, and the count.
    for (list, fields) in [
        (
            "listWIFAuthBindings",
            "bindings { mrn name description scope roles expiration issuerUri subject mappings { key value } allowedAudiences
                createdAt createdBy lastUsed condition sourceCidrs clientId serviceAccountMrn providerMrn disabled warnings
                config { universeDomain type audience subjectTokenType scopes issuerUri } }",
        ),
        (
            "listExchanges",
            "exchanges { reference time granted reason protocol scopeMrn trustMrn providerMrn serviceAccountMrn issuerUri subject
                sourceIp credentialMrn credentialExpiresAt checks { name outcome expected actual detail } }",
        ),
    ] {
        for first in [500, 1_000] {
            let document = format!(
                "query($s: String!) {{ {list}(scopeMrn: $s, first: {first}) {{ {fields} totalCount pageInfo {{ hasNextPage endCursor }} }} }}"
            );
            assert_eq!(world.run(&document, json!({ "s": space })).await[list]["totalCount"], 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l8_an_id_token_does_not_outlive_the_account_it_speaks_of() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let end = world.services.now().plus_seconds(120);
    let end = Timestamp::from_seconds(end.seconds()).to_rfc3339();
    let account = account(&world, &space, &role_mrn("agent"), Some(&end)).await;
    let made = world
        .run(
            "mutation($a: String!) { generateIDToken(input: {audience: \"x\", serviceAccountMrn: $a, expiration: 3600}) { expiresAt token } }",
            json!({ "a": account }),
        )
        .await["generateIDToken"]
        .take();
    assert_eq!(made["expiresAt"], end);
    let services = &world.services;
    let claims = services
        .keys
        .load()
        .verify_id_token(&text(&made["token"]), &services.installation.public_url, services.now())
        .unwrap();
    assert_eq!(Timestamp::from_seconds(claims.exp).to_rfc3339(), end);
}

#[tokio::test(flavor = "multi_thread")]
async fn l9_no_roles_at_all_are_not_all_roles() {
    let world = World::new().await;
    let made = "mutation($r: [RoleInput!]) { generateAPIToken(input: {name: \"x\", roles: $r}) { apiToken { roles { mrn } } } }";
    assert_eq!(world.refused(made, json!({ "r": [] })).await, "INVALID_ARGUMENT roles");
    for left_out in [json!({}), json!({ "r": null })] {
        let token = world.run(made, left_out).await["generateAPIToken"]["apiToken"].take();
        assert_eq!(token["roles"], json!([{ "mrn": role_mrn("owner") }]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_what_holds_a_role_that_is_gone_is_not_passed_on() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let ghost = role(&world, &organization, "ghost", &["agent.report"]).await;
    let account = account(&world, &space, &ghost, None).await;
    let provider = provider(&world, &space).await;
    let trust = trust(&world, &account, &provider).await;
    // The API refuses to delete a role that is given; the database of an older version may hold such an account.
    let (id, name) = (OrganizationId::parse("acme-org").unwrap(), RoleName::parse("ghost").unwrap());
    let gone = world
        .services
        .configuration
        .mutate(|_| -> Result<_, MutateError<StoreError>> {
            Ok((vec![Write::DeleteRole(id.clone(), name.clone())], ()))
        })
        .await;
    assert!(gone.is_ok());
    for (document, variables) in [
        (
            "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"x\", subject: \"mallory\"}) { trust { mrn } } }",
            json!({ "a": account, "p": provider }),
        ),
        (
            "mutation($t: String!) { updateWIFTrust(input: {mrn: $t, subject: \"mallory\"}) { trust { mrn } } }",
            json!({ "t": trust }),
        ),
        (
            "mutation($a: String!) { updateServiceAccount(input: {mrn: $a, name: \"x\"}) { mrn } }",
            json!({ "a": account }),
        ),
        (
            "mutation($a: String!) { generateIDToken(input: {audience: \"x\", serviceAccountMrn: $a}) { token } }",
            json!({ "a": account }),
        ),
    ] {
        let (code, _, message) = world.refused_as(OWNER, document, variables).await;
        assert_eq!(code, "FAILED_PRECONDITION", "{document}");
        assert!(message.contains(&ghost), "{message}");
    }
    let new = "mutation($s: String!, $r: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"x\", roles: [{mrn: $r}]}) { mrn } }";
    assert_eq!(world.refused(new, json!({ "s": space, "r": ghost })).await, "INVALID_ARGUMENT roles[0]");
    // It can always go.
    world
        .run(
            "mutation($s: String!, $a: [String!]!) { deleteServiceAccounts(input: {scopeMrn: $s, mrns: $a}) { mrns } }",
            json!({ "s": space, "a": [account] }),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l14_graphiql_comes_out_of_the_program_and_talks_to_nobody_else() {
    let world = World::new().await;
    let get = |path: String| Request::get(path).header("accept", "text/html,*/*").body(Body::empty()).unwrap();
    let page = world.raw(get("/graphql".into())).await;
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains("unsafe-eval"), "{policy}");
    for (file, kind) in [
        ("react-18.3.1.min.js", "text/javascript; charset=utf-8"),
        ("react-dom-18.3.1.min.js", "text/javascript; charset=utf-8"),
        ("graphiql-2.4.7.min.js", "text/javascript; charset=utf-8"),
        ("graphiql-2.4.7.min.css", "text/css; charset=utf-8"),
    ] {
        let found = world.raw(get(format!("/graphql/{file}"))).await;
        assert_eq!((found.status(), found.headers()[header::CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, kind));
        assert_eq!(found.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
    }
    assert_eq!(world.raw(get("/graphql/Cargo.toml".into())).await.status(), StatusCode::NOT_FOUND);
    // Switched off, there is none of it.
    let world = World::with(GraphqlOptions { introspection: true, graphiql: false }).await;
    assert_eq!(world.raw(get("/graphql".into())).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(world.raw(get("/graphql/react-18.3.1.min.js".into())).await.status(), StatusCode::NOT_FOUND);
}

/// M12: what was issued while the revocation waited for its turn ends with the rest.
#[tokio::test(flavor = "multi_thread")]
async fn m12_revocation_counts_from_when_it_is_done() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let account = account(&world, &space, &role_mrn("viewer"), None).await;
    let provider = provider(&world, &space).await;
    let trust = trust(&world, &account, &provider).await;
    let revoke = "mutation($m: String!) { revokeCredentials(mrn: $m) { mrn } }";
    let began = world.services.now().seconds();
    // Somebody else's change holds the lock for two seconds, while a token is issued.
    let configuration = Arc::clone(&world.services.configuration);
    let (held, holds) = tokio::sync::oneshot::channel();
    let mut held = Some(held);
    let other = tokio::spawn(async move {
        let plan = |_: &_| -> Result<_, ()> {
            held.take().map(|held| held.send(()));
            std::thread::sleep(std::time::Duration::from_millis(2_100));
            Ok((Vec::new(), ()))
        };
        configuration.mutate(plan).await.is_ok()
    });
    holds.await.unwrap();
    world.run(revoke, json!({ "m": trust })).await;
    assert!(other.await.unwrap());
    let snapshot = world.services.configuration.refresh().await.unwrap();
    let Some(Resource::Trust(_, id)) = world.services.installation.mrns.parse(&trust) else {
        panic!("{trust}");
    };
    let from = snapshot.trust(id).unwrap().trust().credentials_not_before.unwrap();
    assert!(from.seconds() >= began + 2, "{from:?}");
}

/// Access tokens carry the MRN of the trust in a binding; whoever looks it up finds it under either name.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_found_by_the_mrn_of_its_trust_and_the_other_way_round() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let made = world
        .run(
            "mutation($s: String!, $i: String!) { createWIFAuthBinding(input: {scopeMrn: $s, name: \"b\", issuerUri: $i, subject: \"robot\"}) { binding { mrn } } }",
            json!({ "s": space, "i": world.issuer.uri() }),
        )
        .await;
    let binding = text(&made["createWIFAuthBinding"]["binding"]["mrn"]);
    let trust = binding.replace("/wifbindings/", "/wiftrusts/");
    for mrn in [&binding, &trust] {
        let found = world
            .run(
                "query($m: String!) { getWIFAuthBinding(mrn: $m) { binding { mrn } } getWIFTrust(mrn: $m) { trust { mrn bindingMrn } } }",
                json!({ "m": mrn }),
            )
            .await;
        assert_eq!(found["getWIFAuthBinding"]["binding"]["mrn"], binding);
        assert_eq!(found["getWIFTrust"]["trust"], json!({ "mrn": trust, "bindingMrn": binding }));
    }
    // A trust of its own is no binding, under whatever name.
    let account = account(&world, &space, &role_mrn("viewer"), None).await;
    let provider = world
        .run("query($s: String!) { listWIFProviders(scopeMrn: $s) { providers { mrn } } }", json!({ "s": space }))
        .await["listWIFProviders"]["providers"][0]["mrn"]
        .take();
    let other = self::trust(&world, &account, &text(&provider)).await;
    for mrn in [&other, &other.replace("/wiftrusts/", "/wifbindings/")] {
        let find = "query($m: String!) { getWIFAuthBinding(mrn: $m) { binding { mrn } } }";
        assert_eq!(world.refused(find, json!({ "m": mrn })).await, "NOT_FOUND ");
    }
}

/// What a hostile request comes to.
enum Outcome {
    /// `extensions.code` and `.field` of its first error.
    Refused(&'static str),
    /// Harmless: answered with the caller's own name.
    Answered,
}

/// The standing list of requests that are meant to hurt. Each is answered soon, shortly, and as it says here.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_documents_are_refused_quickly_and_shortly() {
    use Outcome::{Answered, Refused};
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let document = |text: String| json!({ "query": text }).to_string().into_bytes();
    let with = |text: &str, variables: Value| json!({ "query": text, "variables": variables }).to_string().into_bytes();
    let many = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<Vec<_>>().join(" ");
    let viewer = "{viewer{mrn}}";
    let conditions = "query($c: JSON!) { testWIFCondition(expression: \"true\", claims: $c) { matched } }";
    let trust = "mutation($m: [KeyValueInput!]) { createWIFTrust(input: {serviceAccountMrn: \"x\", providerMrn: \"x\", name: \"n\", mappings: $m}) { trust { mrn } } }";
    let delete = format!(
        "mutation($m: [String!]!) {{ deleteServiceAccounts(input: {{scopeMrn: \"{space}\", mrns: $m}}) {{ mrns }} }}"
    );
    let page = "query($s: String!) { listExchanges(scopeMrn: $s, first: 1000000000) { totalCount } }";
    let find = "query($m: String!) { getSpace(mrn: $m) { mrn } }";
    let name = "mutation($n: String!) { createOrganization(input: {name: $n}) { mrn } }";
    let create = "createOrganization(input:{name:\"x\"}){mrn}";
    let persisted = json!({ "persistedQuery": { "version": 1, "sha256Hash": "0".repeat(64) } });
    let other = json!({ "authorization": "Bearer x" });
    let raw = |text: &str, variable: &str, value: &str| {
        format!("{{\"query\":{},\"variables\":{{\"{variable}\":{value}}}}}", json!(text)).into_bytes()
    };
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        // --- fragments
        (
            "a fragment that spreads itself",
            document("{...a} fragment a on Query{...a}".into()),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "two fragments that spread each other",
            document("{...a} fragment a on Query{viewer{mrn} ...b} fragment b on Query{...a}".into()),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a cycle that nothing spreads",
            document(format!("{viewer} fragment a on Query{{...b}} fragment b on Query{{...a}}")),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a cycle through an inline fragment",
            document("{...a} fragment a on Query{...on Query{...a}}".into()),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a chain of two hundred fragments",
            document(format!(
                "{{...f0}} {} fragment f200 on Query{viewer}",
                many(200, &|i| format!("fragment f{i} on Query{{...f{}}}", i + 1))
            )),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "a chain of ninety fragments",
            document(format!(
                "{{...f0}} {} fragment f90 on Query{viewer}",
                many(90, &|i| format!("fragment f{i} on Query{{...f{}}}", i + 1))
            )),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "one fragment twice",
            document(format!("{{...a}} {} {}", "fragment a on Query{viewer{mrn}}", "fragment a on Query{viewer{mrn}}")),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a fragment that is not used",
            document(format!("{viewer} fragment a on Query{viewer}")),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a fragment on a scalar",
            document("{viewer{mrn{...a}}} fragment a on String{x}".into()),
            Refused("INVALID_ARGUMENT query"),
        ),
        // --- many of one thing
        (
            "three hundred aliases",
            document(format!("{{{}}}", many(300, &|i| format!("a{i}:viewer{{mrn}}")))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "four thousand fields without aliases",
            document(format!("{{{}}}", "viewer{mrn}".repeat(1_600))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "two thousand unknown fields",
            document(format!("{{{}}}", many(2_000, &|i| format!("f{i}")))),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "three thousand unknown arguments",
            document(format!("{{viewer({}){{mrn}}}}", many(3_000, &|i| format!("a{i}:1")))),
            Refused("INVALID_ARGUMENT a0"),
        ),
        (
            "one argument three thousand times",
            document(format!("{{viewer({}){{mrn}}}}", "a:1 ".repeat(3_000))),
            Refused("INVALID_ARGUMENT a"),
        ),
        (
            "ten thousand arguments",
            document(format!("{{viewer({}){{mrn}}}}", "a:1 ".repeat(10_000))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "three thousand unknown directives",
            document(format!("query {} {viewer}", "@a ".repeat(3_000))),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "thirty thousand directives",
            document(format!("query {} {viewer}", "@a ".repeat(30_000))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "nine directives on one field",
            document(format!("{{viewer {}{{mrn}}}}", "@skip(if:false)".repeat(9))),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a directive again and again",
            document(format!("{{...{}{viewer}}}", "@include(if:true)".repeat(1_000))),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "two thousand variables",
            document(format!("query({}) {viewer}", many(2_000, &|i| format!("$a{i}:Int")))),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "one variable two thousand times",
            document(format!("query({}) {viewer}", "$a:Int ".repeat(2_000))),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "twenty-one operations",
            document(many(21, &|i| format!("query q{i} {viewer}"))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "two operations and no choice",
            document(format!("query a {viewer} query b {viewer}")),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "two operations of one name",
            document(format!("query a {viewer} query a {viewer}")),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "eleven requests in a batch",
            json!(vec![json!({ "query": viewer }); 11]).to_string().into_bytes(),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "a batch of batches",
            json!([[{ "query": viewer }]]).to_string().into_bytes(),
            Refused("INVALID_ARGUMENT query"),
        ),
        ("a batch with nothing in it", b"[]".to_vec(), Refused("INVALID_ARGUMENT body")),
        // --- size
        (
            "a document of 200 KB",
            document(format!("#{}\n{viewer}", "x".repeat(200_000))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        ("a document that is nothing but comment", document(format!("#{}\n{viewer}", "x".repeat(100_000))), Answered),
        ("a body over a megabyte", with(viewer, json!({ "a": "x".repeat(1_100_000) })), Refused("RESOURCE_EXHAUSTED ")),
        ("a variable of a megabyte, unused", with(viewer, json!({ "a": "x".repeat(1_000_000) })), Answered),
        (
            "sixty thousand entries of a list",
            with(trust, json!({ "m": vec![json!({ "key": "k" }); 50_000] })),
            Refused("INVALID_ARGUMENT serviceAccountMrn"),
        ),
        (
            "a list of the wrong things",
            with(trust, json!({ "m": vec![1; 200_000] })),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a list of a hundred thousand names",
            with(&delete, json!({ "m": vec!["x"; 100_000] })),
            Refused("INVALID_ARGUMENT mrns"),
        ),
        (
            "a list as long in the document",
            document(format!("{{listExchanges(scopeMrn:[{}]){{totalCount}}}}", "1 ".repeat(20_000))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        ("a page of a billion", with(page, json!({ "s": space })), Refused("INVALID_ARGUMENT first")),
        // --- depth
        (
            "claims a hundred levels deep",
            raw(conditions, "c", &nested("{\"a\":", "}", 100)),
            Refused("INVALID_ARGUMENT claims"),
        ),
        (
            "lists a hundred levels deep",
            raw(conditions, "c", &format!("{{\"a\":{}}}", nested("[", "]", 100))),
            Refused("INVALID_ARGUMENT claims"),
        ),
        (
            "JSON a hundred thousand levels deep",
            raw(viewer, "a", &nested("[", "]", 100_000)),
            Refused("INVALID_ARGUMENT body"),
        ),
        (
            "values sixty-five levels deep",
            document(format!("{{listExchanges(scopeMrn:{}){{totalCount}}}}", nested("[", "]", 65))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "a type sixty-five levels deep",
            document(format!("query($a:{}) {viewer}", nested("[", "]", 65).replace('1', "Int"))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "a selection thirty levels deep",
            document(format!("{}mrn{}", "{viewer".repeat(30), "}".repeat(30))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        // --- introspection
        (
            "the schema five times",
            document(format!("{{{}}}", many(5, &|i| format!("a{i}:__schema{{types{{name}}}}")))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        (
            "types of fields of types",
            document(format!("{{__schema{{types{}name{}}}}}", "{fields{type".repeat(4) + "{", "}".repeat(9))),
            Refused("RESOURCE_EXHAUSTED "),
        ),
        // --- what is not offered
        ("a subscription", document("subscription{viewer{mrn}}".into()), Refused("INVALID_ARGUMENT query")),
        ("a deferred fragment", document(format!("{{...@defer{viewer}}}")), Refused("INVALID_ARGUMENT query")),
        (
            "a persisted query that nobody persisted",
            json!({ "extensions": persisted }).to_string().into_bytes(),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a persisted query with its text",
            json!({ "query": viewer, "extensions": persisted }).to_string().into_bytes(),
            Answered,
        ),
        (
            "another caller's headers in the body",
            json!({ "query": viewer, "extensions": { "headers": other }, "headers": other }).to_string().into_bytes(),
            Answered,
        ),
        // --- done twice
        (
            "one mutation twice under one name",
            document(format!("mutation{{{create} {create}}}")),
            Refused("INVALID_ARGUMENT query"),
        ),
        (
            "a query that names a mutation's operation",
            json!({ "query": format!("query a{viewer} mutation b{{{create}}}"), "operationName": "a" })
                .to_string()
                .into_bytes(),
            Answered,
        ),
        (
            "the query twice in one object",
            br#"{"query":"mutation{deleteSpace(mrn:\"x\"){mrn}}","query":"{viewer{mrn}}"}"#.to_vec(),
            Answered,
        ),
        // --- letters
        (
            "a byte order mark before the JSON",
            [b"\xef\xbb\xbf".as_slice(), document(viewer.into()).as_slice()].concat(),
            Refused("INVALID_ARGUMENT body"),
        ),
        ("a byte order mark before the document", document(format!("\u{feff}{viewer}")), Answered),
        ("a zero-width space in a name", document("{view\u{200b}er{mrn}}".into()), Refused("INVALID_ARGUMENT query")),
        ("letters that look alike", document("{v\u{0456}ewer{mrn}}".into()), Refused("INVALID_ARGUMENT query")),
        ("full-width letters", document("{\u{ff56}iewer{mrn}}".into()), Refused("INVALID_ARGUMENT query")),
        ("text that runs backwards, in a comment", document(format!("{viewer} # \u{202e}")), Answered),
        ("a NUL in a name", document("{viewer\0{mrn}}".into()), Refused("INVALID_ARGUMENT query")),
        ("a NUL in a text", with(find, json!({ "m": format!("{space}\0") })), Refused("NOT_FOUND ")),
        ("a NUL in a label", with(name, json!({ "n": "a\0b" })), Refused("INVALID_ARGUMENT name")),
        (
            "half a surrogate pair in JSON",
            b"{\"query\":\"{getSpace(mrn:\\\"\\ud800\\\"){mrn}}\"}".to_vec(),
            Refused("INVALID_ARGUMENT body"),
        ),
        (
            "half a surrogate pair in the document",
            document("{getSpace(mrn:\"\\ud800\"){mrn}}".into()),
            Refused("INVALID_ARGUMENT query"),
        ),
        ("bytes that are not UTF-8", b"{\"query\":\"{viewer{mrn}}\xff\"}".to_vec(), Refused("INVALID_ARGUMENT body")),
        (
            "two bytes a letter",
            document(viewer.into()).iter().flat_map(|byte| [*byte, 0]).collect(),
            Refused("INVALID_ARGUMENT body"),
        ),
        // --- numbers
        (
            "a number beyond every integer",
            document("{listOrganizations(first:99999999999999999999999999){totalCount}}".into()),
            Refused("INVALID_ARGUMENT first"),
        ),
        (
            "a fraction for an integer",
            document("{listOrganizations(first:1.5){totalCount}}".into()),
            Refused("INVALID_ARGUMENT first"),
        ),
        (
            "an exponent for an integer",
            document("{listOrganizations(first:1e2){totalCount}}".into()),
            Refused("INVALID_ARGUMENT first"),
        ),
        (
            "a negative page",
            document("{listOrganizations(first:-1){totalCount}}".into()),
            Refused("INVALID_ARGUMENT first"),
        ),
        // --- no GraphQL at all
        ("an empty body", Vec::new(), Refused("INVALID_ARGUMENT body")),
        ("an empty document", document(String::new()), Refused("INVALID_ARGUMENT query")),
        ("a document that is a number", b"{\"query\":1}".to_vec(), Refused("INVALID_ARGUMENT query")),
        (
            "variables that are a list",
            b"{\"query\":\"{viewer{mrn}}\",\"variables\":[1]}".to_vec(),
            Refused("INVALID_ARGUMENT body"),
        ),
        ("a form", b"query=%7Bviewer%7Bmrn%7D%7D".to_vec(), Refused("INVALID_ARGUMENT body")),
        ("a megabyte of brackets", vec![b'['; 1_000_000], Refused("INVALID_ARGUMENT body")),
    ];
    let organizations = world.run("{ listOrganizations { totalCount } }", json!({})).await;
    for (what, body, outcome) in cases {
        let sent = body.len();
        let request = Request::post("/query")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {OWNER}"))
            .body(Body::from(body))
            .unwrap();
        let answer = tokio::time::timeout(std::time::Duration::from_secs(20), world.send(request));
        let (_, answer) = answer.await.unwrap_or_else(|_| panic!("{what}: no answer"));
        let length = answer.to_string().len();
        assert!(length < 20_000 + 3 * sent.min(30_000), "{what}: {sent} bytes were answered with {length}");
        let error = &answer["errors"][0]["extensions"];
        let code = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        match outcome {
            Answered => {
                let mrn = answer["data"]["viewer"]["mrn"].as_str();
                assert!(mrn.is_some_and(|mrn| mrn.contains("/apitokens/")), "{what}: {answer}");
            }
            Refused(expected) => {
                assert_eq!(format!("{} {}", code("code"), code("field")), expected, "{what}: {answer:.600}");
            }
        }
    }
    assert_eq!(world.run("{ listOrganizations { totalCount } }", json!({})).await, organizations, "none had an effect");
}

/// A batch is no way to try many secrets at once: it has one bearer, looked at before anything in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_attempt_to_be_somebody() {
    let world = World::new().await;
    let tries: Vec<Value> = (0..10)
        .map(|i| json!({ "query": "{ viewer { mrn } }", "extensions": { "authorization": format!("Bearer guess-{i}") } }))
        .collect();
    let answer = world.post("guess-of-a-token-0123456789", &json!(tries)).await;
    assert!(answer.is_object(), "one answer for all: {answer}");
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{answer}");
}

/// With introspection off, nothing but the documents a caller knows already is of use: not even a misspelt name is put right.
#[tokio::test(flavor = "multi_thread")]
async fn without_introspection_the_schema_is_not_told_in_other_ways() {
    let world = World::with(GraphqlOptions { introspection: false, graphiql: true }).await;
    for document in ["{ __schema { types { name } } }", "{ __type(name: \"Query\") { name } }"] {
        let answer = world.run_as(OWNER, document, json!({})).await;
        assert!(
            answer["errors"].is_array() || answer["data"].as_object().unwrap().values().all(Value::is_null),
            "{answer}"
        );
        assert!(!answer.to_string().contains("listOrganizations"), "{answer}");
    }
    let (_, _, message) = world.refused_as(OWNER, "{ viewr { mrn } }", json!({})).await;
    assert!(!message.contains("viewer"), "{message}");
    let told = World::new().await.refused_as(OWNER, "{ viewr { mrn } }", json!({})).await.2;
    assert!(told.contains("viewer"), "with introspection on, it helps: {told}");
}

/// An editor makes a provider for the issuer that an owner will bind an owner's role to, with keys of the editor's own. Nothing
/// forbids either; the owner is told whose keys they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_says_so_when_its_provider_trusts_other_keys_than_the_issuer_s() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let editor = world.token(&space, "editor").await;
    let owner = world.token(&space, "owner").await;
    let provide = "mutation($s: String!, $i: String!, $k: JSON, $u: String) { createWIFProvider(input: {scopeMrn: $s, name: \"mine\", kind: CUSTOM_OIDC, issuerUri: $i, jwks: $k, jwksUri: $u}) { provider { mrn } } }";
    let bind = "mutation($s: String!, $i: String!, $n: String!, $r: [String!]) { createWIFAuthBinding(input: {scopeMrn: $s, name: $n, issuerUri: $i, subject: $n, roles: $r}) { binding { mrn warnings } } }";
    let uploaded = "https://idp.acme.example";
    for (issuer, keys, at, says) in [
        (uploaded, world.issuer.jwks(), Value::Null, "uploaded"),
        (world.issuer.uri(), Value::Null, json!(world.issuer.jwks_uri()), world.issuer.jwks_uri()),
    ] {
        let made = world.run_as(&editor, provide, json!({ "s": space, "i": issuer, "k": keys, "u": at })).await;
        assert!(made.get("errors").is_none(), "{made}");
        let made =
            world.run_as(&owner, bind, json!({ "s": space, "i": issuer, "n": "x", "r": [role_mrn("owner")] })).await;
        let warnings = made["data"]["createWIFAuthBinding"]["binding"]["warnings"].to_string();
        assert!(warnings.contains("'mine'") && warnings.contains(says), "{made}");
        // From here on the editor cannot change the keys any more.
        let provider = world
            .run(
                "query($s: String!) { listWIFProviders(scopeMrn: $s) { providers { mrn issuerUri } } }",
                json!({ "s": space }),
            )
            .await;
        let providers = provider["listWIFProviders"]["providers"].as_array().unwrap();
        let mrn = &providers.iter().find(|provider| provider["issuerUri"] == issuer).unwrap()["mrn"];
        let swap =
            "mutation($p: String!, $k: JSON) { updateWIFProvider(input: {mrn: $p, jwks: $k}) { provider { mrn } } }";
        let mut keys = world.issuer.jwks();
        keys["keys"].as_array_mut().unwrap().truncate(1);
        let (code, ..) = world.refused_as(&editor, swap, json!({ "p": mrn, "k": keys })).await;
        assert_eq!(code, "PERMISSION_DENIED");
    }
    // Keys that the issuer publishes are nothing to speak of.
    let made = world.run_as(&owner, bind, json!({ "s": space, "i": world.github.uri(), "n": "acme/shop" })).await;
    assert!(!made["data"]["createWIFAuthBinding"]["binding"]["warnings"].to_string().contains("publishes"), "{made}");
}

#[tokio::test]
async fn a_provider_has_ten_thousand_subjects_of_which_something_is_said_and_no_more() {
    let world = World::new().await;
    let (_, space) = world.space("acme", "prod").await;
    let provider = provider(&world, &space).await;
    let configuration = &world.services.configuration;
    let Some(Resource::Provider(_, id)) = world.services.installation.mrns.parse(&provider) else {
        unreachable!("{provider} is a provider's")
    };
    let said = |number: i32| {
        Write::PutSubjectStatus(SubjectStatus {
            provider: id,
            subject: format!("subject-{number}"),
            disabled: true,
            credentials_not_before: None,
            updated_at: world.services.now(),
            updated_by: String::new(),
        })
    };
    let writes: Vec<Write> = (1..10_000).map(said).collect();
    configuration.mutate(|_| Ok::<_, ()>((writes.clone(), ()))).await.unwrap();
    let update = "mutation($p: String!, $s: String!, $d: Boolean!) { updateWIFSubject(input: {providerMrn: $p, subject: $s, disabled: $d}) { subject { disabled } } }";
    let revoke = "mutation($p: String!, $s: String!) { revokeCredentials(mrn: $p, subject: $s) { mrn } }";
    let of = |subject: &str, disabled: bool| json!({ "p": provider, "s": subject, "d": disabled });
    world.run(update, of("the last one", true)).await;
    for document in [update, revoke] {
        let (code, field, message) = world.refused_as(OWNER, document, of("one more", true)).await;
        assert_eq!((code.as_str(), field.as_str()), ("RESOURCE_EXHAUSTED", "subject"), "{message}");
        assert!(message.contains("10000 subjects") && message.contains("instead"), "{message}");
    }
    // Those that are there can be changed, and what is said in the end is room again.
    world.run(revoke, of("subject-1", true)).await;
    world.run(update, of("subject-2", false)).await;
    let now = world.services.now();
    world.services.store.purge_ended(now, 10).await.unwrap();
    configuration.forget_ended(now).await;
    world.run(update, of("one more", true)).await;
}

/// Exchanges wait for what mutations hold, also for those that have a name and are not asked for by it.
#[tokio::test]
async fn queries_wait_for_their_turn_and_mutations_for_none() {
    async fn finished_beside_mutations(api: &Router) -> bool {
        let send = |document: &str| {
            let request = Request::post("/query")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::AUTHORIZATION, format!("Bearer {OWNER}"))
                .body(Body::from(json!({ "query": document }).to_string()))
                .unwrap();
            api.clone().oneshot(request)
        };
        let query = tokio::spawn(send("query Who { viewer { mrn } }"));
        for _ in 0..3 {
            let made = send("mutation Make { createOrganization(input: {name: \"a\"}) { mrn } }").await.unwrap();
            let body = axum::body::to_bytes(made.into_body(), 10_000).await.unwrap();
            assert!(String::from_utf8_lossy(&body).contains("\"mrn\":"), "{body:?}");
        }
        let finished = query.is_finished();
        query.abort();
        finished
    }

    let world = World::new().await;
    assert!(finished_beside_mutations(&router(Arc::clone(&world.services), GraphqlOptions::default())).await);
    let configuration = Configuration::start(world.services.store.clone()).await.unwrap();
    let mut services = world.replica(configuration);
    Arc::get_mut(&mut services).unwrap().turns = Turns::of_each_round(0);
    assert!(!finished_beside_mutations(&router(services, GraphqlOptions::default())).await);
}
