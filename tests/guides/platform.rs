//! Each platform as a guide's reader meets it: an issuer at its own name, the tokens it gives, and the places where a
//! workload asks for them. The command lines of `tests/guides/bin` and curl's redirected hosts all end up here.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use sallyport_testkit::platforms::{self, TokenRequest};
use sallyport_testkit::{
    AccessKey, Algorithm, CallerIdentity, Failure, Issuer, PresignOptions, Signer, Sts, TestAuthority, presign,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{free_port, now};

/// What a workload shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shows {
    /// A JWT with these claims, signed so.
    Jwt(Algorithm, fn(&TokenRequest<'_>) -> Value),
    /// A pre-signed `GetCallerIdentity` request, vouched for by STS.
    AwsRequest,
}

/// Where a platform's keys come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keys {
    /// Its issuer says.
    Discovery,
    /// A URL that the guide gives.
    At(&'static str),
    /// The admin uploads them; the issuer cannot be reached.
    Uploaded,
}

/// One platform of one guide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Platform {
    /// The guide's file.
    pub(super) file: &'static str,
    /// The heading of the part that is about it.
    pub(super) heading: &'static str,
    /// Its preset.
    pub(super) kind: &'static str,
    /// The issuer of its tokens, as the guide writes it.
    pub(super) issuer: &'static str,
    /// Where its keys come from.
    pub(super) keys: Keys,
    /// What its workloads show.
    pub(super) shows: Shows,
    /// Claims that a token has only when they are asked for.
    pub(super) optional: &'static [(&'static str, &'static str)],
    /// The audiences asked for at the OAuth and at the RPC door.
    pub(super) audiences: [&'static str; 2],
}

const HOST: &str = "sallyport.example.com";
const SPACE: &str = "//captain.api.mondoo.app/spaces/acme-production";

const CIRCLECI_ORGANIZATION: &str = "5ab1f0a2-0c52-4f3c-93a5-1f7a7c1f4c11";
const CIRCLECI_PROJECT: &str = "1d6f4c3a-3b0e-4f9b-8a55-7d0f4f1c2b3a";
const AZURE_TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const AZURE_RESOURCE: &str = "api://6f1c2d3e-5a4b-4c3d-9e8f-0a1b2c3d4e5f";
const ACCOUNT: &str = "123456789012";
const SESSION: &str = "i-0abc";

/// Every platform that has a guide.
pub(super) const PLATFORMS: [Platform; 13] = [
    Platform {
        file: "github-actions.md",
        heading: "GitHub Actions",
        kind: "GITHUB_ACTIONS",
        issuer: "https://token.actions.githubusercontent.com",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| {
            platforms::github_actions_environment(request, "acme/api", "refs/heads/main", "production")
        }),
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "gitlab-ci.md",
        heading: "GitLab CI",
        kind: "GITLAB_CI",
        issuer: "https://gitlab.com",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| platforms::gitlab_ci(request, "acme/api", "refs/heads/main")),
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "hcp-terraform.md",
        heading: "HCP Terraform",
        kind: "HCP_TERRAFORM",
        issuer: "https://app.terraform.io",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| {
            platforms::hcp_terraform(request, "acme", "platform", "production", "apply")
        }),
        optional: &[],
        audiences: [HOST, HOST],
    },
    Platform {
        file: "google-cloud.md",
        heading: "Google Cloud",
        kind: "GOOGLE_CLOUD",
        issuer: "https://accounts.google.com",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| {
            platforms::google_cloud(request, "my-project", "builder", "107517467455664443765")
        }),
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "azure.md",
        heading: "Azure",
        kind: "AZURE",
        issuer: "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| {
            platforms::azure(request, AZURE_TENANT, "d1fbb1c4-7a31-4a5e-9d57-1b6b9b7a2f10")
        }),
        optional: &[],
        audiences: [AZURE_RESOURCE, AZURE_RESOURCE],
    },
    Platform {
        file: "aws.md",
        heading: "A signed GetCallerIdentity request",
        kind: "AWS_STS",
        issuer: "https://sts.amazonaws.com",
        keys: Keys::Discovery,
        shows: Shows::AwsRequest,
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "aws.md",
        heading: "Outbound identity federation",
        kind: "AWS_IAM_OUTBOUND",
        issuer: "https://0b6c7d41-5f0e-4a8b-9c3d-2e1f0a9b8c7d.tokens.sts.global.api.aws",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Es384, |request| platforms::aws_outbound(request, ACCOUNT, "deploy")),
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "kubernetes.md",
        heading: "A cluster whose issuer can be reached",
        kind: "KUBERNETES",
        issuer: "https://oidc.eks.eu-west-1.amazonaws.com/id/0A1B2C3D4E5F60718293A4B5C6D7E8F9",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| platforms::kubernetes(request, "production", "api")),
        optional: &[],
        audiences: [HOST, HOST],
    },
    Platform {
        file: "kubernetes.md",
        heading: "A cluster that nobody can reach",
        kind: "KUBERNETES",
        issuer: "https://kubernetes.default.svc.cluster.local",
        keys: Keys::Uploaded,
        shows: Shows::Jwt(Algorithm::Rs256, |request| platforms::kubernetes(request, "production", "api")),
        optional: &[],
        audiences: [HOST, HOST],
    },
    Platform {
        file: "spiffe.md",
        heading: "SPIFFE",
        kind: "SPIFFE",
        issuer: "spiffe://prod.acme.internal",
        keys: Keys::At("https://oidc-discovery.prod.acme.internal/keys"),
        shows: Shows::Jwt(Algorithm::Es256, |request| {
            platforms::spiffe(request, "spiffe://prod.acme.internal/ns/production/sa/api")
        }),
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "circleci-buildkite.md",
        heading: "CircleCI",
        kind: "CIRCLECI",
        issuer: "https://oidc.circleci.com/org/5ab1f0a2-0c52-4f3c-93a5-1f7a7c1f4c11",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| {
            platforms::circleci(request, CIRCLECI_ORGANIZATION, CIRCLECI_PROJECT, "refs/heads/main")
        }),
        optional: &[],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "circleci-buildkite.md",
        heading: "Buildkite",
        kind: "BUILDKITE",
        issuer: "https://agent.buildkite.com",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Rs256, |request| {
            platforms::buildkite(request, "acme", "deploy", "refs/heads/main")
        }),
        optional: &[("organization_id", platforms::BUILDKITE_IDS.0), ("pipeline_id", platforms::BUILDKITE_IDS.1)],
        audiences: [HOST, SPACE],
    },
    Platform {
        file: "custom-oidc.md",
        heading: "Custom OIDC",
        kind: "CUSTOM_OIDC",
        issuer: "https://login.acme.example",
        keys: Keys::Discovery,
        shows: Shows::Jwt(Algorithm::Es256, |request| {
            json!({
                "iss": request.issuer, "sub": "nightly-report", "aud": request.audience,
                "iat": request.now, "exp": request.now + 600, "team": "reporting",
            })
        }),
        optional: &[],
        audiences: [HOST, SPACE],
    },
];

/// How a token differs from the good one: members of its claims and its header, or of the caller's identity; null takes one
/// away.
pub(super) type Differs = serde_json::Map<String, Value>;

/// A platform at work.
pub(super) struct Standing {
    /// Which.
    pub(super) platform: &'static Platform,
    issuer: Option<Issuer>,
    sts: Option<Sts>,
    key: AccessKey,
    /// Where its workloads ask for tokens.
    pub(super) url: String,
}

/// The port of the hosts in `SALLYPORT_OUTBOUND_RESOLVE`.
pub(super) struct Ports {
    outside: u16,
}

impl Ports {
    /// Entries that lead to a platform to be.
    pub(super) fn choose(platform: &Platform) -> (Self, String) {
        let outside = free_port();
        let hosts = match platform.shows {
            Shows::AwsRequest => vec!["sts.amazonaws.com", "sts.eu-west-1.amazonaws.com"],
            Shows::Jwt(..) => match platform.keys {
                Keys::At(url) => vec![host(url)],
                Keys::Discovery | Keys::Uploaded => vec![host(platform.issuer)],
            },
        };
        let entries: Vec<String> = hosts.iter().map(|host| format!("{host}:443=127.0.0.1:{outside}")).collect();
        (Self { outside }, entries.join(","))
    }
}

fn host(url: &str) -> &str {
    url.trim_start_matches("https://").split('/').next().expect("a host")
}

impl Standing {
    /// Opens a platform at its ports.
    pub(super) async fn open(platform: &'static Platform, ports: Ports, authority: &TestAuthority) -> Arc<Self> {
        let (mut issuer, mut sts) = (None, None);
        match platform.shows {
            Shows::Jwt(algorithm, _) => {
                let builder = Issuer::builder().port(ports.outside).algorithms(&[algorithm]);
                let builder = match platform.keys {
                    Keys::At(url) => {
                        let (origin, path) = url.split_at("https://".len() + host(url).len());
                        builder.well_known(origin).jwks_path(path).key_use(Some("jwt-svid"))
                    }
                    Keys::Discovery | Keys::Uploaded => builder.well_known(platform.issuer),
                };
                issuer = Some(builder.start(authority).await.expect("an issuer"));
            }
            Shows::AwsRequest => {
                sts = Some(Sts::builder(now).port(ports.outside).start(authority).await.expect("an STS"));
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let standing = Arc::new(Self { platform, issuer, sts, key: AccessKey::temporary(), url });
        if let Some(sts) = &standing.sts {
            sts.add_identity(standing.key.clone(), CallerIdentity::assumed_role(ACCOUNT, "deploy", SESSION));
        }
        standing.set_reachable(true);
        let router = router().with_state(Arc::clone(&standing));
        tokio::spawn(async move { axum::serve(listener, router).await });
        standing
    }

    /// A token for an audience that differs so from the good one.
    pub(super) fn token(&self, audience: &str, differs: &Differs) -> String {
        match self.platform.shows {
            Shows::Jwt(algorithm, _) => {
                let mut claims = self.claims(audience);
                for (name, value) in self.platform.optional {
                    claims[*name] = json!(value);
                }
                self.sign(algorithm, claims, differs)
            }
            Shows::AwsRequest => self.request(audience, differs),
        }
    }

    /// The claims of a good token, without those that must be asked for.
    pub(super) fn claims(&self, audience: &str) -> Value {
        let Shows::Jwt(_, claims) = self.platform.shows else { panic!("AWS has no claims") };
        claims(&TokenRequest::new(now(), self.platform.issuer, audience))
    }

    fn sign(&self, algorithm: Algorithm, mut claims: Value, differs: &Differs) -> String {
        let issuer = self.issuer.as_ref().expect("an issuer");
        let mut header = issuer.header(algorithm);
        let mut signer = Signer::Current(algorithm);
        for (name, value) in differs {
            match name.as_str() {
                "kid" => {
                    header["kid"] = value.clone();
                    signer = Signer::Foreign(algorithm);
                }
                "alg" => {
                    header["alg"] = value.clone();
                    signer = Signer::Hmac(b"secret".to_vec());
                }
                _ => merge(&mut claims, name, value),
            }
        }
        issuer.mint_raw(header, claims.to_string().as_bytes(), &signer)
    }

    fn request(&self, audience: &str, differs: &Differs) -> String {
        let mut identity = CallerIdentity::assumed_role(ACCOUNT, "deploy", SESSION);
        let (mut header, mut signed_at, mut known) = (Some(audience.to_owned()), now(), true);
        for (name, value) in differs {
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "arn" => text.clone_into(&mut identity.arn),
                "account" => text.clone_into(&mut identity.account),
                "userid" => text.clone_into(&mut identity.user_id),
                "x-sallyport-audience" => header = value.as_str().map(str::to_owned),
                "x-amz-date" => signed_at = value.as_i64().expect("a time"),
                "Credential" => known = false,
                other => panic!("a signed request has no {other}"),
            }
        }
        let key = AccessKey::temporary();
        if known {
            self.sts.as_ref().expect("an STS").add_identity(key.clone(), identity);
        }
        let mut options = PresignOptions::documented(signed_at).host("sts.eu-west-1.amazonaws.com");
        if let Some(header) = &header {
            options = options.header("x-sallyport-audience", header);
        }
        presign(&key, &options).to_string()
    }

    /// Cuts the platform off, or connects it again, unless nobody can ever reach it.
    pub(super) fn set_reachable(&self, reachable: bool) {
        let reachable = reachable && self.platform.keys != Keys::Uploaded;
        let failure = if reachable { Failure::None } else { Failure::CloseConnection };
        if let Some(sts) = &self.sts {
            sts.set_failure(failure.clone());
        }
        if let Some(issuer) = &self.issuer {
            issuer.set_failure(failure);
        }
    }
}

/// JSON merge patch (RFC 7386) of one member.
fn merge(document: &mut Value, name: &str, value: &Value) {
    let object = document.as_object_mut().expect("an object");
    match value {
        Value::Null => drop(object.shift_remove(name)),
        Value::Object(members) => {
            let inner = object.entry(name).or_insert_with(|| json!({}));
            members.iter().for_each(|(name, value)| merge(inner, name, value));
        }
        value => drop(object.insert(name.to_owned(), value.clone())),
    }
}

type Asked = (State<Arc<Standing>>, Query<HashMap<String, String>>, HeaderMap);
type Told = Result<String, StatusCode>;

/// The places where workloads ask. Each wants what the real one wants.
fn router() -> Router<Arc<Standing>> {
    Router::new()
        .route("/token", get(|asked: Asked| async move { token(&asked, "audience") }))
        .route("/actions", get(github))
        .route("/computeMetadata/v1/instance/service-accounts/default/identity", get(google))
        .route("/metadata/identity/oauth2/token", get(azure))
        .route(
            "/jwks",
            get(|State(at): State<Arc<Standing>>| async move { at.issuer.as_ref().expect("keys").jwks().to_string() }),
        )
        .route("/credentials", get(credentials))
        .route(
            "/sign",
            get(|State(at): State<Arc<Standing>>| async move {
                presign(&at.key, &PresignOptions::mondoo(now())).to_string()
            }),
        )
}

fn token((State(at), Query(query), _): &Asked, name: &str) -> Told {
    let Shows::Jwt(algorithm, _) = at.platform.shows else { return Err(StatusCode::NOT_FOUND) };
    let audience = query.get(name).ok_or(StatusCode::BAD_REQUEST)?;
    let mut claims = at.claims(audience);
    for wanted in query.get("claims").map(|list| list.split(',')).into_iter().flatten() {
        let known = at.platform.optional.iter().find(|(name, _)| *name == wanted);
        claims[wanted] = json!(known.ok_or(StatusCode::BAD_REQUEST)?.1);
    }
    if at.platform.kind == "GOOGLE_CLOUD" && query.get("format").is_none_or(|format| format != "full") {
        for name in ["google", "email", "email_verified"] {
            merge(&mut claims, name, &Value::Null);
        }
    }
    Ok(at.sign(algorithm, claims, &Differs::new()))
}

async fn github(asked: Asked) -> Told {
    let right = asked.2.get("authorization").is_some_and(|value| value == "bearer request-token");
    if !right || asked.1.get("api-version").is_none_or(|version| version != "2.0") {
        return Err(StatusCode::UNAUTHORIZED);
    }
    Ok(json!({ "count": 1, "value": token(&asked, "audience")? }).to_string())
}

async fn google(asked: Asked) -> Told {
    if asked.2.get("metadata-flavor").is_none_or(|value| value != "Google") {
        return Err(StatusCode::FORBIDDEN);
    }
    token(&asked, "audience")
}

async fn azure(asked: Asked) -> Told {
    let flagged = asked.2.get("metadata").is_some_and(|value| value == "true");
    if !flagged || asked.1.get("api-version").is_none_or(|version| version != "2018-02-01") {
        return Err(StatusCode::BAD_REQUEST);
    }
    // Entra gives tokens for registered resources only.
    if asked.1.get("resource").is_none_or(|resource| resource != AZURE_RESOURCE) {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(json!({ "access_token": token(&asked, "resource")?, "token_type": "Bearer", "resource": AZURE_RESOURCE })
        .to_string())
}

async fn credentials(State(at): State<Arc<Standing>>) -> String {
    let AccessKey { id, secret, session_token } = &at.key;
    format!(
        "export AWS_ACCESS_KEY_ID={id}\nexport AWS_SECRET_ACCESS_KEY={secret}\nexport AWS_SESSION_TOKEN={}\n",
        session_token.as_deref().unwrap_or_default()
    )
}
