//! `sallyport quickstart`: the whole story on one machine, told while it happens.
//!
//! Nothing here is staged: a real server, a real HTTPS issuer, real requests over HTTP. Each step shows the request that one
//! could send oneself. The local issuer comes from the testkit; `serve` never uses it.

#![expect(clippy::print_stdout, reason = "telling the story is what this command is for")]

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::header::AUTHORIZATION;
use sallyport_credentials::client::sign_service_account_jwt;
use sallyport_domain::base64url;
use sallyport_domain::clock::{Clock, SystemClock, Timestamp};
use sallyport_identity::outbound::{AllowRule, OutboundSettings};
use sallyport_testkit::{Issuer, TestAuthority, platforms};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::serve::{self, Running};
use crate::settings::{LogFormat, Settings};
use crate::telemetry;

/// Options of `sallyport quickstart`.
#[derive(Args)]
pub(crate) struct Options {
    /// Stop after the story; the exit status says whether every step worked
    #[arg(long)]
    exit: bool,
    /// Where the server listens; when that port is taken, a free one is used
    #[arg(long, env = "SALLYPORT_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// The repository that the admin lets in.
const REPOSITORY: &str = "acme/shop";
/// A repository of somebody else on the same CI platform.
const STRANGER: &str = "mallory/shop";
/// The branch both run on.
const BRANCH: &str = "refs/heads/main";
/// How long the token for trying things oneself is valid, in seconds.
const TRY_YOURSELF: i64 = 3_600;

const CREATE_BINDING: &str = "mutation CreateWIFAuthBinding($input: CreateWIFAuthBindingInput) { \
createWIFAuthBinding(input: $input) { \
binding { mrn clientId roles expiration warnings } \
config { type universeDomain audience subjectTokenType scopes issuerUri } } }";

/// Tells the story, then keeps serving unless asked to stop.
///
/// # Errors
/// When any step did not do what it should.
pub(crate) async fn run(options: Options) -> Result<()> {
    crate::settings::check_environment()?;
    telemetry::start_logging("warn", LogFormat::Text)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let stage = Stage::build(&options, folder.path()).await?;
    let scene = stage.tell().await?;
    if options.exit {
        println!("\nThat was the whole story. Every step worked.");
    } else {
        stage.invite(&scene, folder.path())?;
        tokio::signal::ctrl_c().await?;
        println!("\nGood-bye. The temporary folder goes with me.");
    }
    stage.running.stop().await
}

/// What the story leaves behind for the visitor.
struct Scene {
    space: String,
    client_id: String,
}

struct Stage {
    running: Running,
    issuer: Issuer,
    authority: TestAuthority,
    url: String,
    admin: SecretString,
    http: reqwest::Client,
    bold: bool,
}

impl Stage {
    async fn build(options: &Options, folder: &Path) -> Result<Self> {
        let authority = TestAuthority::new()?;
        let issuer = Issuer::builder().start(&authority).await.context("the local issuer did not start")?;
        let outbound = OutboundSettings {
            ca_pem: Some(authority.ca_pem().as_bytes().to_vec()),
            resolve: Vec::new(),
            allow: AllowRule::parse_list(issuer.host_and_port())?,
        };
        let taken = std::net::TcpListener::bind(options.listen).is_err();
        let listen = if taken { SocketAddr::new(options.listen.ip(), 0) } else { options.listen };
        let running = serve::start(Settings::on_one_machine(listen, folder, outbound)?, None).await?;
        if taken {
            println!("({} is taken, so the server listens on {} instead.)", options.listen, running.address);
        }
        let admin = running.first_token.clone().context("the first start makes an API token")?;
        let url = running.services.installation.public_url.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the workload's and the admin's side, talking to our own server"
        )]
        let http = reqwest::Client::builder().no_proxy().build()?;
        let bold = std::io::stdout().is_terminal();
        Ok(Self { running, issuer, authority, url, admin, http, bold })
    }

    async fn tell(&self) -> Result<Scene> {
        self.headline(0, "Sallyport: no stored secrets");
        println!(
            "   A CI job proves who it is with the token its own platform gives it,\n   \
             and gets a short-lived credential limited to what an admin granted."
        );

        self.headline(1, "The server runs");
        println!("   {}  (embedded database in a temporary folder)", self.url);
        println!("   {}  plays the CI platform: a real HTTPS OIDC issuer", self.issuer.uri());

        self.headline(2, "The admin makes a place to work in");
        let organization =
            self.graphql("mutation { createOrganization(input: {name: \"ACME\"}) { mrn } }", json!({})).await?;
        let organization = text(&organization, "/createOrganization/mrn")?;
        let create_space = "mutation($org: String!) { createSpace(input: {name: \"Shop\", orgMrn: $org}) { mrn } }";
        let space = text(&self.graphql(create_space, json!({ "org": organization })).await?, "/createSpace/mrn")?;
        println!("   organization  {organization}\n   space         {space}");

        self.headline(3, &format!("The admin lets the repository {REPOSITORY} in, as an agent"));
        let input = json!({
            "scopeMrn": space,
            "name": "main branch of the shop",
            "issuerUri": self.issuer.uri(),
            "subject": format!("repo:{REPOSITORY}:ref:{BRANCH}"),
            "mappings": [{ "key": "jwt_claims.repository", "value": REPOSITORY }],
        });
        let variables = json!({ "input": input });
        self.show(&format!(
            "curl {}/query -H \"Authorization: Bearer $ADMIN_TOKEN\" -H 'Content-Type: application/json' -d '{}'",
            self.url,
            json!({ "query": CREATE_BINDING, "variables": variables })
        ));
        let created = self.graphql(CREATE_BINDING, variables).await?;
        let binding = text(&created, "/createWIFAuthBinding/binding/mrn")?;
        let client_id = text(&created, "/createWIFAuthBinding/binding/clientId")?;
        let config = created.pointer("/createWIFAuthBinding/config").context("the answer has a config")?;
        println!("   binding  {binding}");
        println!("   What the CI job needs to know; nothing of it is secret:");
        self.quote(&serde_json::to_string_pretty(config)?);

        self.headline(4, "The CI job asks its platform for a token");
        let token = self.subject_token(REPOSITORY, &space, 600);
        println!("   It is signed by the platform and says:");
        self.quote(&claims_of(&token)?);

        self.headline(5, "It exchanges the token for a credential");
        self.show(&exchange_command(&self.url, &space, self.issuer.uri()));
        let (status, answer) = self.exchange(&space, &token).await?;
        ensure!(status == 200, "the exchange was refused: {answer}");
        let document = STANDARD.decode(text(&answer, "/base64_credential")?).context("the credential is base64")?;
        let document: Value = serde_json::from_slice(&document).context("the credential is JSON")?;
        println!("   200. A P-384 key pair with its certificate, for one hour:");
        self.quote(&serde_json::to_string_pretty(&shortened(&document))?);

        self.headline(6, "It calls the API with the credential");
        let viewer = "{ viewer { mrn kind roles scopeMrn expiresAt } }";
        let bearer = sign(&document, None)?;
        self.show(&format!(
            "curl {}/query -H \"Authorization: Bearer $SIGNED_WITH_THE_KEY\" -H 'Content-Type: application/json' -d '{}'",
            self.url,
            json!({ "query": viewer })
        ));
        let seen = self.graphql_as(&bearer, viewer, json!({})).await?;
        self.quote(&serde_json::to_string_pretty(seen.pointer("/viewer").context("the answer has a viewer")?)?);

        self.headline(7, "Others get an access token instead, by OAuth 2.0 token exchange (RFC 8693)");
        self.show(&oauth_command(&self.url, &client_id));
        let issued = self.oauth(&client_id, &token).await?;
        self.quote(&serde_json::to_string_pretty(&shortened(&issued))?);

        self.headline(8, &format!("A stranger tries: {STRANGER}, on the same CI platform"));
        let stranger = self.subject_token(STRANGER, &space, 600);
        let (status, refusal) = self.exchange(&space, &stranger).await?;
        ensure!(status == 403, "the stranger should have been refused with 403, not {status}: {refusal}");
        println!("   {status}. {}", text(&refusal, "/message")?);
        println!("   That is all a stranger learns. The admin looks the reference up and sees why:");
        let reference = reference_in(&text(&refusal, "/message")?)?;
        let query = "query($scope: String!, $reference: String) { listExchanges(scopeMrn: $scope, reference: $reference) { \
                     exchanges { granted reason subject checks { name outcome expected actual } } } }";
        let listed = self.graphql(query, json!({ "scope": space, "reference": reference })).await?;
        let exchange = listed.pointer("/listExchanges/exchanges/0").context("the refusal is on record")?;
        ensure!(exchange["granted"] == json!(false), "the record says it was refused");
        self.checks(exchange)?;

        self.headline(9, "The admin removes a binding, and its credentials end at once");
        let second = json!({ "input": { "scopeMrn": space, "name": "for a moment", "issuerUri": self.issuer.uri(),
                                        "subject": format!("repo:{REPOSITORY}:environment:preview") } });
        let second = text(&self.graphql(CREATE_BINDING, second).await?, "/createWIFAuthBinding/binding/mrn")?;
        let preview = self.preview_token(&space);
        let (status, answer) = self.exchange(&space, &preview).await?;
        ensure!(status == 200, "the preview job is let in: {answer}");
        let document: Value = serde_json::from_slice(&STANDARD.decode(text(&answer, "/base64_credential")?)?)?;
        self.ping(&document, 200).await?;
        println!("   Before: AgentManager/PingPong answers 200.");
        let remove = "mutation($mrn: String!) { removeWIFAuthBinding(mrn: $mrn) { mrn } }";
        self.graphql(remove, json!({ "mrn": second })).await?;
        self.ping(&document, 401).await?;
        println!(
            "   After removeWIFAuthBinding: 401. The certificate is still good for an hour; the server knows better."
        );
        Ok(Scene { space, client_id })
    }

    /// What to try next, with everything filled in.
    fn invite(&self, scene: &Scene, folder: &Path) -> Result<()> {
        self.headline(0, "Now you. The server goes on until Ctrl-C. In another terminal:");
        let ca = self.authority.write_ca(folder)?;
        println!("   export ADMIN_TOKEN={}", self.admin.expose_secret());
        println!("   export CI_TOKEN={}", self.subject_token(REPOSITORY, &scene.space, TRY_YOURSELF));
        println!("\n   # an exchange, either way (this token is good for an hour)");
        println!("   {}", exchange_command(&self.url, &scene.space, self.issuer.uri()));
        println!("   {}", oauth_command(&self.url, &scene.client_id));
        println!("\n   # who got in, who did not, and why");
        let query =
            "query($scope: String!) { listExchanges(scopeMrn: $scope) { exchanges { time granted reason subject } } }";
        println!(
            "   curl {}/query -H \"Authorization: Bearer $ADMIN_TOKEN\" -H 'Content-Type: application/json' -d '{}'",
            self.url,
            json!({ "query": query, "variables": { "scope": scene.space } })
        );
        println!("\n   # the API in a browser, with its documentation");
        println!("   {}/graphql", self.url);
        println!("\n   # the public keys: the CI platform's, and ours");
        println!("   curl --cacert {} {}", ca.display(), self.issuer.jwks_uri());
        println!("   curl {}/.well-known/jwks.json", self.url);
        Ok(())
    }

    fn subject_token(&self, repository: &str, audience: &str, lifetime: i64) -> String {
        let now = SystemClock.now();
        let request = self.issuer.request(now.seconds(), audience);
        self.issuer.mint(valid_for(platforms::github_actions(&request, repository, BRANCH), now, lifetime))
    }

    fn preview_token(&self, audience: &str) -> String {
        let now = SystemClock.now();
        let request = self.issuer.request(now.seconds(), audience);
        let claims = platforms::github_actions_environment(&request, REPOSITORY, BRANCH, "preview");
        self.issuer.mint(valid_for(claims, now, 600))
    }

    async fn graphql(&self, query: &str, variables: Value) -> Result<Value> {
        self.graphql_as(self.admin.expose_secret(), query, variables).await
    }

    async fn graphql_as(&self, bearer: &str, query: &str, variables: Value) -> Result<Value> {
        let body = json!({ "query": query, "variables": variables });
        let request = self.http.post(format!("{}/query", self.url)).bearer_auth(bearer).json(&body);
        let mut answer: Value = request.send().await?.json().await?;
        if let Some(errors) = answer.get("errors") {
            bail!("GraphQL refused: {errors}");
        }
        Ok(answer["data"].take())
    }

    async fn exchange(&self, space: &str, token: &str) -> Result<(u16, Value)> {
        let url = format!("{}/SecureTokenService/ExchangeExternalToken", self.url);
        let body = json!({ "audience": space, "issuer_uri": self.issuer.uri(), "jwt_token": token });
        let response = self.http.post(url).json(&body).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    async fn oauth(&self, client_id: &str, token: &str) -> Result<Value> {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("client_id", client_id),
            ("subject_token", token),
        ];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(format!("{}/auth/v1/token", self.url)).body(body);
        let response = request.header("content-type", "application/x-www-form-urlencoded").send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status == 200, "the token endpoint refused: {answer}");
        Ok(answer)
    }

    async fn ping(&self, document: &Value, expected: u16) -> Result<()> {
        let bearer = sign(document, Some(b"{}"))?;
        let request = self
            .http
            .post(format!("{}/AgentManager/PingPong", self.url))
            .header(AUTHORIZATION, format!("Bearer {bearer}"));
        let status = request.header("content-type", "application/json").body("{}").send().await?.status().as_u16();
        ensure!(status == expected, "PingPong answered {status} where {expected} was expected");
        Ok(())
    }

    fn headline(&self, number: u32, text: &str) {
        let text = if number == 0 { text.to_owned() } else { format!("{number}  {text}") };
        if self.bold { println!("\n\x1b[1m{text}\x1b[0m") } else { println!("\n{text}") }
    }

    fn show(&self, command: &str) {
        if self.bold { println!("   \x1b[2m$ {command}\x1b[0m") } else { println!("   $ {command}") }
    }

    #[expect(clippy::unused_self, reason = "one of the story's voices")]
    fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("     {line}");
        }
    }

    #[expect(clippy::unused_self, reason = "one of the story's voices")]
    fn checks(&self, exchange: &Value) -> Result<()> {
        println!("     refused because of: {}", text(exchange, "/reason")?);
        for check in exchange["checks"].as_array().context("the record has checks")? {
            let part = |name: &str| check[name].as_str().map(|t| format!("  {name}: {t}")).unwrap_or_default();
            let (name, outcome) = (text(check, "/name")?, text(check, "/outcome")?);
            println!("     {name:<10} {outcome:<8}{}{}", part("expected"), part("actual"));
        }
        Ok(())
    }
}

fn exchange_command(url: &str, space: &str, issuer: &str) -> String {
    format!(
        "curl {url}/SecureTokenService/ExchangeExternalToken -H 'Content-Type: application/json' \
         -d '{{\"audience\":\"{space}\",\"issuer_uri\":\"{issuer}\",\"jwt_token\":\"'$CI_TOKEN'\"}}'"
    )
}

fn oauth_command(url: &str, client_id: &str) -> String {
    format!(
        "curl {url}/auth/v1/token --data-urlencode grant_type=urn:ietf:params:oauth:grant-type:token-exchange \
         --data-urlencode subject_token_type=urn:ietf:params:oauth:token-type:jwt \
         --data-urlencode client_id={client_id} --data-urlencode subject_token=$CI_TOKEN"
    )
}

/// Signs a request as the clients do, with the key of a credential document.
fn sign(document: &Value, body: Option<&[u8]>) -> Result<String> {
    let (key, mrn) = (text(document, "/private_key")?, text(document, "/mrn")?);
    Ok(sign_service_account_jwt(&key, &mrn, SystemClock.now(), body)?)
}

fn valid_for(mut claims: Value, now: Timestamp, lifetime: i64) -> Value {
    claims["exp"] = json!(now.seconds() + lifetime);
    claims
}

fn claims_of(token: &str) -> Result<String> {
    let payload = token.split('.').nth(1).context("a JWT has a payload")?;
    let claims: Value = serde_json::from_slice(&base64url::decode(payload)?)?;
    let shown = ["iss", "sub", "aud", "repository", "ref", "actor", "exp"];
    let picked: serde_json::Map<String, Value> =
        shown.iter().filter_map(|name| Some(((*name).to_owned(), claims.get(*name)?.clone()))).collect();
    Ok(serde_json::to_string_pretty(&picked)?)
}

/// Long values, such as keys and tokens, cut to what a reader needs.
fn shortened(document: &Value) -> Value {
    let Some(members) = document.as_object() else { return document.clone() };
    let shorten = |value: &Value| match value.as_str() {
        Some(long) if long.len() > 160 => {
            let start: String = long.chars().take_while(|c| *c != '\n').take(48).collect();
            json!(format!("{start}… ({} characters)", long.len()))
        }
        _ => value.clone(),
    };
    Value::Object(members.iter().map(|(name, value)| (name.clone(), shorten(value))).collect())
}

fn text(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("the answer has no {pointer}: {value}"))
}

/// The reference at the end of a refusal.
fn reference_in(message: &str) -> Result<String> {
    let (_, rest) = message.rsplit_once("(reference ").context("the refusal names its reference")?;
    Ok(rest.trim_end_matches(')').to_owned())
}
