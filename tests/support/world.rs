//! A server, an issuer it trusts, and the common steps of every story.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sallyport_testkit::{Algorithm, Issuer, TestAuthority};
use serde_json::{Value, json};

use super::{Ping, Reply, Server, Setup, form, now, sign};

/// The bootstrap token of every test server.
const BOOTSTRAP: &str = "bootstrap-token-of-the-black-box-tests";

/// MRN of a built-in role.
pub(crate) fn role(name: &str) -> String {
    format!("//iam.api.mondoo.app/roles/{name}")
}

/// A server and its outside.
pub(crate) struct World {
    /// The process.
    pub(crate) server: Server,
    /// Who vouches for the stand-ins' certificates.
    pub(crate) authority: Arc<TestAuthority>,
    /// A CI platform.
    pub(crate) issuer: Issuer,
    /// A client.
    pub(crate) http: reqwest::Client,
    /// The platform owner's API token.
    pub(crate) admin: String,
}

/// An organization with a space, by MRN.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The organization.
    pub(crate) organization: String,
    /// The space.
    pub(crate) space: String,
}

/// A binding, as far as tests need it.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// Its MRN.
    pub(crate) mrn: String,
    /// The client ID of its trust.
    pub(crate) client_id: String,
    /// The service account that workloads become.
    pub(crate) service_account: String,
}

impl World {
    /// A world with the usual settings.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A world whose server has other settings than the usual ones.
    pub(crate) async fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let authority = Arc::new(TestAuthority::new().expect("an authority"));
        let issuer = Issuer::builder().start(&authority).await.expect("an issuer");
        let mut setup = Setup::new();
        let ca = setup.path("issuer-ca.pem");
        std::fs::write(&ca, authority.ca_pem()).expect("the CA's file");
        setup
            .set("SALLYPORT_BOOTSTRAP_TOKEN", BOOTSTRAP)
            .set("SALLYPORT_OUTBOUND_CA_FILE", &ca.display().to_string())
            .set("SALLYPORT_OUTBOUND_ALLOW", "127.0.0.0/8");
        change(&mut setup);
        let server = setup.start().await;
        Self { server, authority, issuer, http: super::http::client(None), admin: BOOTSTRAP.to_owned() }
    }

    /// A client without a world.
    pub(crate) fn client() -> reqwest::Client {
        super::http::client(None)
    }

    /// A client that trusts this authority (PEM) and no other.
    pub(crate) fn client_trusting(ca: &str) -> reqwest::Client {
        super::http::client(Some(ca))
    }

    /// A client that trusts this authority, for a server that is called `host` and listens at `address`.
    pub(crate) fn client_at(host: &str, address: SocketAddr, ca: &str) -> reqwest::Client {
        super::http::client_at(host, address, ca)
    }

    /// A second server on the same database and with the same outside. Only PostgreSQL can have that.
    pub(crate) async fn replica(&self) -> Self {
        self.replica_with(|_| {}).await
    }

    /// As [`replica`](Self::replica), with some settings of its own.
    pub(crate) async fn replica_with(&self, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::new();
        for (name, value) in &self.server.environment {
            if !matches!(name.as_str(), "SALLYPORT_LISTEN" | "SALLYPORT_ADMIN_LISTEN" | "SALLYPORT_DATA_DIR") {
                setup.set(name, value);
            }
        }
        change(&mut setup);
        let listen = format!("http://{}", setup.get("SALLYPORT_LISTEN"));
        let mut server = setup.start().await;
        // One public URL, as behind a load balancer; the test talks to each by its own address.
        server.url = listen;
        let issuer = self.another_issuer().await;
        Self {
            server,
            authority: Arc::clone(&self.authority),
            issuer,
            http: self.http.clone(),
            admin: self.admin.clone(),
        }
    }

    /// Another issuer, at its own port.
    pub(crate) async fn another_issuer(&self) -> Issuer {
        let builder = Issuer::builder().algorithms(&[Algorithm::Es256]);
        builder.start(&self.authority).await.expect("an issuer")
    }

    /// The host of the public URL: the tenant domain as audience, without port.
    pub(crate) fn tenant_host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// A new organization with a new space.
    pub(crate) async fn place(&self) -> Place {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let create = "mutation($name: String!) { createOrganization(input: {name: $name}) { mrn } }";
        let organization = self.graphql(create, json!({ "name": format!("Organization {number}") })).await;
        let organization = organization["createOrganization"]["mrn"].as_str().expect("an MRN").to_owned();
        let create = "mutation($org: String!) { createSpace(input: {name: \"Space\", orgMrn: $org}) { mrn } }";
        let space = self.graphql(create, json!({ "org": organization })).await;
        Place { organization, space: space["createSpace"]["mrn"].as_str().expect("an MRN").to_owned() }
    }

    /// A binding from its input.
    pub(crate) async fn bind(&self, input: Value) -> Binding {
        let create = "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { \
                      binding { mrn clientId serviceAccountMrn } } }";
        let created = self.graphql(create, json!({ "input": input })).await;
        let text = |name: &str| {
            let value = created.pointer(&format!("/createWIFAuthBinding/binding/{name}"));
            value.and_then(Value::as_str).unwrap_or_else(|| panic!("no {name}: {created}")).to_owned()
        };
        Binding { mrn: text("mrn"), client_id: text("clientId"), service_account: text("serviceAccountMrn") }
    }

    /// A binding of the world's issuer with these roles.
    pub(crate) async fn binding(&self, scope: &str, subject: &str, roles: &[&str]) -> Binding {
        let roles: Vec<String> = roles.iter().map(|name| role(name)).collect();
        let input = json!({ "scopeMrn": scope, "name": "binding", "issuerUri": self.issuer.uri(), "subject": subject });
        let mut input = input;
        if !roles.is_empty() {
            input["roles"] = json!(roles);
        }
        self.bind(input).await
    }

    /// Removes a binding.
    pub(crate) async fn unbind(&self, mrn: &str) {
        let remove = "mutation($mrn: String!) { removeWIFAuthBinding(mrn: $mrn) { mrn } }";
        let removed = self.graphql(remove, json!({ "mrn": mrn })).await;
        assert_eq!(removed["removeWIFAuthBinding"]["mrn"], mrn);
    }

    /// A service account with these roles: the answer of `createServiceAccount`.
    pub(crate) async fn service_account(&self, scope: &str, roles: &[&str]) -> Value {
        let roles: Vec<Value> = roles.iter().map(|name| json!({ "mrn": role(name) })).collect();
        let create = "mutation($input: CreateServiceAccountInput!) { createServiceAccount(input: $input) { \
                      mrn name scopeMrn certificate privateKey apiEndpoint roles { mrn } } }";
        let input = json!({ "scopeMrn": scope, "name": "account", "roles": roles });
        self.graphql(create, json!({ "input": input })).await["createServiceAccount"].take()
    }

    /// A provider for an issuer.
    pub(crate) async fn provider(&self, scope: &str, issuer_uri: &str) -> String {
        let input = json!({ "scopeMrn": scope, "name": "provider", "kind": "CUSTOM_OIDC", "issuerUri": issuer_uri });
        self.provider_with(input).await
    }

    /// A provider from its input.
    pub(crate) async fn provider_with(&self, input: Value) -> String {
        let create =
            "mutation($input: CreateWIFProviderInput!) { createWIFProvider(input: $input) { provider { mrn } } }";
        let created = self.graphql(create, json!({ "input": input })).await;
        created["createWIFProvider"]["provider"]["mrn"].as_str().expect("an MRN").to_owned()
    }

    /// A trust from its input: MRN and client ID.
    pub(crate) async fn trust(&self, input: Value) -> (String, String) {
        let create =
            "mutation($input: CreateWIFTrustInput!) { createWIFTrust(input: $input) { trust { mrn clientId } } }";
        let created = self.graphql(create, json!({ "input": input })).await;
        let trust = &created["createWIFTrust"]["trust"];
        let text = |name: &str| trust[name].as_str().unwrap_or_else(|| panic!("no {name}: {created}")).to_owned();
        (text("mrn"), text("clientId"))
    }

    /// An API token at a scope with these roles.
    pub(crate) async fn api_token(&self, scope: &str, roles: &[&str]) -> String {
        let roles: Vec<Value> = roles.iter().map(|name| json!({ "mrn": role(name) })).collect();
        let generate = "mutation($input: GenerateAPITokenInput!) { generateAPIToken(input: $input) { mrn token } }";
        let input = json!({ "name": "token", "scopeMrn": scope, "roles": roles });
        let made = self.graphql(generate, json!({ "input": input })).await;
        made["generateAPIToken"]["token"].as_str().expect("a token").to_owned()
    }

    /// Honest claims of the world's issuer: ten minutes.
    pub(crate) fn claims(&self, subject: &str, audience: &str) -> Value {
        claims(&self.issuer, subject, audience)
    }

    /// An honest token of the world's issuer.
    pub(crate) fn token(&self, subject: &str, audience: &str) -> String {
        self.issuer.mint(self.claims(subject, audience))
    }

    /// The Mondoo exchange, in JSON.
    pub(crate) async fn exchange(&self, scope: &str, issuer_uri: &str, token: &str) -> Reply {
        let body = json!({ "audience": scope, "issuer_uri": issuer_uri, "jwt_token": token });
        self.rpc("SecureTokenService/ExchangeExternalToken", &body.to_string(), None).await
    }

    /// The Mondoo exchange of a token of the world's issuer, which must be granted: the credential document.
    pub(crate) async fn credential(&self, scope: &str, token: &str) -> Value {
        let reply = self.exchange(scope, self.issuer.uri(), token).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        document(&reply)
    }

    /// An RPC in JSON.
    pub(crate) async fn rpc(&self, method: &str, body: &str, bearer: Option<&str>) -> Reply {
        let mut request = self.http.post(format!("{}/{method}", self.server.url)).body(body.to_owned());
        request = request.header("content-type", "application/json");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        Reply::to(request).await
    }

    /// `AgentManager/PingPong`, as the real client calls it: protobuf, empty. The HTTP status.
    pub(crate) async fn ping(&self, bearer: &str) -> u16 {
        let request = self.http.post(format!("{}/AgentManager/PingPong", self.server.url)).bearer_auth(bearer);
        let request = request.header("content-type", "application/protobuf").header("accept", "application/protobuf");
        Reply::to(request).await.status
    }

    /// As [`ping`](Self::ping), signed with a credential's key.
    pub(crate) async fn signed_ping(&self, document: &Value) -> u16 {
        self.ping(&sign(document, Ping::Hash(b""))).await
    }

    /// A POST of a form to a path.
    pub(crate) async fn post_form(&self, path: &str, fields: &[(&str, &str)], bearer: Option<&str>) -> Reply {
        let mut request = self.http.post(format!("{}{path}", self.server.url)).body(form(fields));
        request = request.header("content-type", "application/x-www-form-urlencoded");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        Reply::to(request).await
    }

    /// The OAuth exchange as the real clients send it, with further fields.
    pub(crate) async fn oauth(&self, client_id: &str, token: &str, more: &[(&str, &str)]) -> Reply {
        let fields = [&an_exchange(client_id, token)[..], more].concat();
        self.post_form("/auth/v1/token", &fields, None).await
    }

    /// An access token, by an OAuth exchange that must be granted.
    pub(crate) async fn access_token(&self, client_id: &str, token: &str) -> String {
        let reply = self.oauth(client_id, token, &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// The record of an exchange, as the platform's owner sees it.
    pub(crate) async fn record(&self, scope: &str, reference: &str) -> Value {
        let list = "query($scope: String!, $reference: String) { \
                    listExchanges(scopeMrn: $scope, reference: $reference) { totalCount exchanges { \
                    reference time granted reason trustMrn serviceAccountMrn issuerUri subject sourceIp credentialMrn \
                    checks { name outcome expected actual detail } } } }";
        let listed = self.graphql(list, json!({ "scope": scope, "reference": reference })).await;
        let exchanges = &listed["listExchanges"]["exchanges"];
        assert_eq!(exchanges.as_array().map(Vec::len), Some(1), "{listed}");
        exchanges[0].clone()
    }
}

/// The parameters of an OAuth exchange.
pub(crate) fn an_exchange<'t>(client_id: &'t str, token: &'t str) -> [(&'static str, &'t str); 4] {
    [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", token),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("client_id", client_id),
    ]
}

/// Honest claims of an issuer: ten minutes.
pub(crate) fn claims(issuer: &Issuer, subject: &str, audience: &str) -> Value {
    let now = now();
    json!({
        "iss": issuer.uri(), "sub": subject, "aud": audience, "iat": now, "nbf": now, "exp": now + 600,
        "repository": "acme/shop", "environment": "production", "groups": ["engineering", "oncall"],
    })
}

/// The credential document in an answer of the Mondoo exchange.
pub(crate) fn document(reply: &Reply) -> Value {
    let answer = reply.json();
    let text = answer["base64_credential"].as_str().unwrap_or_else(|| panic!("no credential: {answer}"));
    serde_json::from_slice(&STANDARD.decode(text).expect("standard base64 with padding")).expect("JSON")
}
