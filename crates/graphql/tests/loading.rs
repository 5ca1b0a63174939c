//! A replica that has many trusts to load, before it has loaded any: what names its trust is answered as ever, and whatever would
//! need to see all of them is not available.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod common;

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{OWNER, World, role_mrn};
use http_body_util::BodyExt as _;
use sallyport_gateway::Services;
use sallyport_store::{Configuration, LoadOptions};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const FEW: u64 = 10;

/// A replica that loads nothing by itself.
struct Replica {
    services: Arc<Services>,
    api: Router,
}

impl Replica {
    async fn of(world: &World, of_scope: u64) -> Self {
        let options = LoadOptions { at_once: 0, of_scope, chunk: 1 };
        let configuration = Configuration::open(world.services.store.clone(), options).await.unwrap();
        let services = world.replica(configuration);
        let api = sallyport_gateway::router(Arc::clone(&services))
            .merge(sallyport_graphql::router(Arc::clone(&services), sallyport_graphql::GraphqlOptions::default()));
        Self { services, api }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        // Nothing else confirms it.
        self.services.configuration.refresh_with(&[]).await.unwrap();
        let response = self.api.clone().oneshot(request).await.unwrap();
        assert!(self.services.configuration.current().is_err());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// What every request of a test needs.
struct Place {
    world: World,
    space: String,
    binding: Value,
}

impl Place {
    async fn new() -> Self {
        let world = World::new().await;
        let (_, space) = world.space("acme-org", "acme-space").await;
        let document = "mutation($input: CreateWIFAuthBindingInput!) { createWIFAuthBinding(input: $input) { binding { mrn clientId } } }";
        let input = json!({
            "scopeMrn": space,
            "name": "ci",
            "issuerUri": world.issuer.uri(),
            "subject": "robot",
            "roles": [role_mrn("owner")],
        });
        let mut made = world.run(document, json!({ "input": input })).await;
        let binding = made["createWIFAuthBinding"]["binding"].take();
        Self { world, space, binding }
    }

    /// A replica with nothing loaded.
    async fn cold(&self) -> Replica {
        Replica::of(&self.world, FEW).await
    }

    fn subject_token(&self) -> String {
        let now = self.world.services.now().seconds();
        self.world.issuer.mint(json!({
            "iss": self.world.issuer.uri(),
            "sub": "robot",
            "aud": "sallyport.example",
            "iat": now,
            "exp": now + 600,
        }))
    }

    /// A token request; `which` is a client ID, or the MRN of a trust or a scope.
    fn exchange(&self, which: &str) -> Request<Body> {
        form(
            "/auth/v1/token",
            None,
            &[
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
                ("subject_token", &self.subject_token()),
                (if which.starts_with("//") { "audience" } else { "client_id" }, which),
            ],
        )
    }

    fn client(&self) -> &str {
        self.binding["clientId"].as_str().unwrap()
    }

    async fn access_token(&self) -> String {
        let (status, answer) = self.cold().await.send(self.exchange(self.client())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

fn form(path: &str, bearer: Option<&str>, fields: &[(&str, &str)]) -> Request<Body> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    let request = match bearer {
        Some(bearer) => request.header("authorization", format!("Bearer {bearer}")),
        None => request,
    };
    request.body(Body::from(body)).unwrap()
}

fn post(path: &str, bearer: &str, body: &Value) -> Request<Body> {
    Request::post(path)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {bearer}"))
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn ping(bearer: &str) -> Request<Body> {
    Request::post("/AgentManager/PingPong")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {bearer}"))
        .body(Body::empty())
        .unwrap()
}

/// A JWT that a service account signs with its standing key.
fn signed(mrn: &str, pem: &str, now: i64) -> String {
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &STANDARD.decode(der).unwrap()).unwrap();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "ES384", "kid": mrn, "typ": "JWT" }));
    let claims = part(json!({ "sub": mrn, "iss": "mondoo/ams", "iat": now, "nbf": now, "exp": now + 60 }));
    let text = format!("{header}.{claims}");
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_find_their_trust_however_it_is_named() {
    let place = Place::new().await;
    let binding = place.binding["mrn"].as_str().unwrap();
    for which in [place.client(), binding, &place.space] {
        let (status, answer) = place.cold().await.send(place.exchange(which)).await;
        assert_eq!(status, StatusCode::OK, "{which}: {answer}");
    }
    let message = json!({
        "issuer_uri": place.world.issuer.uri(),
        "audience": place.space,
        "jwt_token": place.subject_token(),
    });
    let request = Request::post("/SecureTokenService/ExchangeExternalToken")
        .header("content-type", "application/json")
        .body(Body::from(message.to_string()))
        .unwrap();
    assert_eq!(place.cold().await.send(request).await.0, StatusCode::OK);
    for nobody in ["no-body-12345", "//captain.api.mondoo.app/spaces/nowhere"] {
        let (status, answer) = place.cold().await.send(place.exchange(nobody)).await;
        assert_eq!((status, &answer["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")), "{nobody}");
    }
    // Of a scope with many trusts, the most specific cannot be told yet. That is no refusal.
    let replica = Replica::of(&place.world, 0).await;
    let (status, _) = replica.send(place.exchange(&place.space)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(replica.send(place.exchange(place.client())).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_work_and_end() {
    let place = Place::new().await;
    let world = &place.world;
    let made = world
        .run(
            "mutation($s: String!, $r: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"a\", roles: [{mrn: $r}]}) { mrn privateKey } }",
            json!({ "s": place.space, "r": role_mrn("agent") }),
        )
        .await;
    let account = &made["createServiceAccount"];
    let standing = signed(
        account["mrn"].as_str().unwrap(),
        account["privateKey"].as_str().unwrap(),
        world.services.now().seconds(),
    );
    assert_eq!(place.cold().await.send(ping(&standing)).await.0, StatusCode::OK);
    let token = place.access_token().await;
    assert_eq!(place.cold().await.send(ping(&token)).await.0, StatusCode::OK);
    assert_eq!(place.cold().await.send(ping(OWNER)).await.0, StatusCode::OK);

    let exchanges = "query($s: String!) { listExchanges(scopeMrn: $s, first: 1) { exchanges { credentialMrn } } }";
    let found = world.run(exchanges, json!({ "s": place.space })).await;
    let credential = found["listExchanges"]["exchanges"][0]["credentialMrn"].as_str().unwrap();
    for which in [token.as_str(), credential] {
        // By an API token, by another credential, and about oneself.
        for bearer in [OWNER, &place.access_token().await, &token] {
            let request = form("/auth/v1/introspect", Some(bearer), &[("token", which)]);
            let (status, answer) = place.cold().await.send(request).await;
            assert_eq!((status, &answer["active"]), (StatusCode::OK, &json!(true)), "{which}: {answer}");
            assert_eq!(answer["client_id"], place.client());
        }
    }
    // An admin who is one by a trust that is not loaded either.
    let admin = place.access_token().await;
    let request = form("/auth/v1/revoke", Some(&admin), &[("token", credential)]);
    assert_eq!(place.cold().await.send(request).await.0, StatusCode::OK);
    assert_eq!(place.cold().await.send(ping(&token)).await.0, StatusCode::UNAUTHORIZED);
    let request = form("/auth/v1/revoke", None, &[("token", &admin)]);
    assert_eq!(place.cold().await.send(request).await.0, StatusCode::OK);
    assert_eq!(place.cold().await.send(ping(&admin)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_not_available_until_everything_is_there() {
    let place = Place::new().await;
    let binding = place.binding["mrn"].as_str().unwrap();
    let replica = place.cold().await;
    for document in [
        "query($m: String!) { getWIFAuthBinding(mrn: $m) { binding { mrn } } }",
        "mutation($m: String!) { removeWIFAuthBinding(mrn: $m) { mrn } }",
        "query($m: String!) { simulateExchange(input: {claims: {}, audience: $m}) { granted } }",
    ] {
        let body = json!({ "query": document, "variables": { "m": binding } });
        let (_, answer) = replica.send(post("/query", OWNER, &body)).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{document}: {answer}");
    }
}
