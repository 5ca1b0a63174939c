//! The management API on a scratch SQLite database, spoken to through its router.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use sallyport_credentials::keys::{Purpose, SlotState, StoredKey, generate};
use sallyport_credentials::master_key::MasterKey;
use sallyport_credentials::ring::KeyRing;
use sallyport_credentials::secret::hash_secret;
use sallyport_domain::clock::{Clock as _, SystemClock};
use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
use sallyport_domain::id::ApiTokenId;
use sallyport_domain::matching::{AudiencePolicy, Installation};
use sallyport_domain::mrn::MrnDomain;
use sallyport_domain::principal::ApiToken;
use sallyport_domain::role::{BuiltInRole, RoleRef};
use sallyport_domain::scope::Scope;
use sallyport_gateway::Services;
use sallyport_gateway::address::TrustedProxies;
use sallyport_gateway::limits::Limits;
use sallyport_gateway::overload::Overload;
use sallyport_gateway::turns::Turns;
use sallyport_graphql::{GraphqlOptions, router};
use sallyport_identity::outbound::{AllowRule, Outbound, OutboundSettings, ResolveOverride};
use sallyport_identity::verifier::Verifier;
use sallyport_store::{AuditEntry, Configuration, Recorder, RecorderOptions, Store, StoreOptions};
use sallyport_testkit::{Issuer, TestAuthority};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// The first platform owner's API token.
pub(crate) const OWNER: &str = "sallyport_test_platform_owner";

/// One installation.
pub(crate) struct World {
    pub(crate) services: Arc<Services>,
    pub(crate) issuer: Issuer,
    pub(crate) github: Issuer,
    api: Router,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(GraphqlOptions::default()).await
    }

    pub(crate) async fn with(options: GraphqlOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("test.db").display());
        let store = Store::connect(&StoreOptions { url, max_connections: 6 }).await.unwrap();
        store.migrate().await.unwrap();
        let clock = SystemClock;
        let owner = ApiToken {
            id: ApiTokenId(uuid_v7(clock.now(), &SystemEntropy)),
            scope: Scope::Platform,
            name: "bootstrap".into(),
            description: None,
            roles: vec![RoleRef::BuiltIn(BuiltInRole::Owner)],
            secret_hash: hash_secret(OWNER),
            created_at: clock.now(),
            created_by: String::new(),
        };
        let audit = AuditEntry {
            id: uuid_v7(clock.now(), &SystemEntropy),
            time: clock.now(),
            actor: "//platform.api.mondoo.app".into(),
            action: "bootstrap".into(),
            target: "//platform.api.mondoo.app".into(),
            scope: Scope::Platform,
            organization: None,
            before: None,
            after: None,
            request_id: None,
            source_ip: None,
        };
        assert!(store.bootstrap(&owner, &audit).await.unwrap());
        let configuration = Configuration::start(store.clone()).await.unwrap();
        let recorder = Recorder::start(store.clone(), Arc::clone(&configuration), RecorderOptions::default());
        let authority = TestAuthority::new().unwrap();
        let issuer = Issuer::builder().start(&authority).await.unwrap();
        let github = Issuer::builder()
            .host("token.actions.githubusercontent.com")
            .default_port()
            .start(&authority)
            .await
            .unwrap();
        let outbound = Outbound::new(OutboundSettings {
            ca_pem: Some(authority.ca_pem().as_bytes().to_vec()),
            resolve: ResolveOverride::parse_list(&github.resolve_entry()).unwrap(),
            allow: AllowRule::parse_list("127.0.0.0/8").unwrap(),
        })
        .unwrap();
        let services = Arc::new(Services {
            installation: Installation {
                public_url: "https://sallyport.example".into(),
                tenant_domain: "sallyport.example".into(),
                mrns: MrnDomain::new("api.mondoo.app").unwrap(),
                audience_policy: AudiencePolicy::Strict,
            },
            configuration,
            store,
            recorder,
            verifier: Arc::new(Verifier::new(outbound, Arc::new(clock))),
            keys: ArcSwap::from_pointee(ring()),
            clock: Arc::new(clock),
            entropy: Arc::new(SystemEntropy),
            trusted_proxies: TrustedProxies::default(),
            limits: Limits::new(0, 0, 0),
            overload: Overload::default(),
            turns: Turns::start(),
        });
        let api = router(Arc::clone(&services), options);
        Self { services, issuer, github, api, _folder: folder }
    }

    /// The parts of another replica on the same database, with this configuration.
    pub(crate) fn replica(&self, configuration: Arc<Configuration>) -> Arc<Services> {
        let here = &self.services;
        let recorder = Recorder::start(here.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
        Arc::new(Services {
            installation: here.installation.clone(),
            configuration,
            store: here.store.clone(),
            recorder,
            verifier: Arc::clone(&here.verifier),
            keys: ArcSwap::new(here.keys.load_full()),
            clock: Arc::clone(&here.clock),
            entropy: Arc::clone(&here.entropy),
            trusted_proxies: TrustedProxies::default(),
            limits: Limits::new(0, 0, 0),
            overload: Overload::default(),
            turns: Turns::start(),
        })
    }

    /// Sends any request; the answer as it comes.
    pub(crate) async fn raw(&self, request: Request<Body>) -> axum::response::Response {
        self.api.clone().oneshot(request).await.unwrap()
    }

    /// Sends any request.
    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.raw(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into())))
    }

    /// Sends a GraphQL request with a bearer; the whole answer.
    pub(crate) async fn post(&self, bearer: &str, body: &Value) -> Value {
        let request = Request::post("/query")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {bearer}"))
            .body(Body::from(body.to_string()))
            .unwrap();
        let (status, answer) = self.send(request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Runs a document for somebody; the whole answer.
    pub(crate) async fn run_as(&self, bearer: &str, document: &str, variables: Value) -> Value {
        self.post(bearer, &json!({ "query": document, "variables": variables })).await
    }

    /// Runs a document for the platform owner, which must succeed; its data.
    pub(crate) async fn run(&self, document: &str, variables: Value) -> Value {
        let mut answer = self.run_as(OWNER, document, variables).await;
        assert!(answer.get("errors").is_none(), "{document}\n{answer:#}");
        answer["data"].take()
    }

    /// Runs a document that must fail; code and field of the first error, and its message.
    pub(crate) async fn refused_as(&self, bearer: &str, document: &str, variables: Value) -> (String, String, String) {
        let answer = self.run_as(bearer, document, variables).await;
        let error = &answer["errors"][0];
        assert!(error.is_object(), "{document}\n{answer:#}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&error["extensions"]["code"]), text(&error["extensions"]["field"]), text(&error["message"]))
    }

    /// As [`Self::refused_as`], for the platform owner: code and field in one.
    pub(crate) async fn refused(&self, document: &str, variables: Value) -> String {
        let (code, field, _) = self.refused_as(OWNER, document, variables).await;
        format!("{code} {field}")
    }

    /// An organization and a space in it; their MRNs.
    pub(crate) async fn space(&self, organization: &str, space: &str) -> (String, String) {
        let made = self
            .run(
                "mutation($id: String!) { createOrganization(input: {name: $id, id: $id}) { mrn } }",
                json!({ "id": organization }),
            )
            .await;
        let organization = made["createOrganization"]["mrn"].as_str().unwrap().to_owned();
        let made = self
            .run(
                "mutation($id: String!, $org: String!) { createSpace(input: {name: $id, id: $id, orgMrn: $org}) { mrn } }",
                json!({ "id": space, "org": organization }),
            )
            .await;
        (organization, made["createSpace"]["mrn"].as_str().unwrap().to_owned())
    }

    /// An API token with one role; its secret.
    pub(crate) async fn token(&self, scope: &str, role: &str) -> String {
        let made = self
            .run(
                "mutation($scope: String!, $role: String!) {
                    generateAPIToken(input: {name: \"test\", scopeMrn: $scope, roles: [{mrn: $role}]}) { token }
                }",
                json!({ "scope": scope, "role": role_mrn(role) }),
            )
            .await;
        made["generateAPIToken"]["token"].as_str().unwrap().to_owned()
    }
}

/// The MRN of a built-in role.
pub(crate) fn role_mrn(name: &str) -> String {
    format!("//iam.api.mondoo.app/roles/{name}")
}

fn ring() -> KeyRing {
    let master = MasterKey::generate(&SystemEntropy).unwrap();
    let keys: Vec<StoredKey> = Purpose::ALL
        .into_iter()
        .map(|purpose| {
            let key = generate(purpose, SystemClock.now(), &SystemEntropy, &master).unwrap();
            StoredKey { state: SlotState::Current, ..key }
        })
        .collect();
    KeyRing::open(&keys, &master).unwrap()
}
