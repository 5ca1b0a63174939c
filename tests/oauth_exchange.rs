//! Story: ConductorOne's clients, and any OAuth 2.0 client, exchange a token at the token endpoint.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Place, World, claims_of, header_of, now, role, run};

const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// A trust of a service account with these roles, for tokens with this subject.
struct Workload {
    place: Place,
    account: String,
    provider: String,
    trust: String,
    client_id: String,
    subject: String,
}

async fn workload(world: &World, subject: &str, roles: &[&str], more: Value) -> Workload {
    let place = world.place().await;
    let account = world.service_account(&place.space, roles).await["mrn"].as_str().unwrap().to_owned();
    let provider = world.provider(&place.space, world.issuer.uri()).await;
    let mut input =
        json!({ "serviceAccountMrn": account, "providerMrn": provider, "name": "trust", "subject": subject });
    for (name, value) in more.as_object().unwrap() {
        input[name] = value.clone();
    }
    let (trust, client_id) = world.trust(input).await;
    Workload { place, account, provider, trust, client_id, subject: subject.to_owned() }
}

impl Workload {
    fn token(&self, world: &World) -> String {
        world.token(&self.subject, world.tenant_host())
    }
}

#[test]
fn the_client_gets_a_bearer_for_half_an_hour() {
    run(async {
        let world = world().await;
        let workload = workload(
            world,
            "oauth",
            &["viewer", "agent"],
            json!({ "passthroughClaims": ["repository", "groups", "absent"] }),
        )
        .await;
        let (name, host) = workload.client_id.split_once('@').expect("name@host/wfe");
        assert_eq!(format!("http://{host}"), format!("{}/wfe", world.server.url));
        let words: Vec<&str> = name.split('-').collect();
        assert!(words.len() == 3 && words[2].len() == 5 && words[2].parse::<u32>().is_ok(), "{name}");

        let reply = world.oauth(&workload.client_id, &workload.token(world), &[]).await;
        let answer = reply.json();
        assert_eq!(reply.status, 200, "{answer}");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert_eq!(reply.header("content-type"), "application/json");
        reply.reference();
        assert_eq!(
            (&answer["issued_token_type"], &answer["token_type"], &answer["expires_in"]),
            (&json!(ACCESS_TOKEN), &json!("Bearer"), &json!(1800))
        );
        let mut scope: Vec<&str> = answer["scope"].as_str().unwrap().split(' ').collect();
        scope.sort_unstable();
        assert_eq!(scope, ["agent", "viewer"]);

        let token = answer["access_token"].as_str().unwrap();
        let header = header_of(token);
        assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("at+jwt")));
        let claims = claims_of(token);
        assert_eq!(claims["iss"], json!(world.server.url));
        assert_eq!(claims["aud"], json!(world.server.url));
        assert_eq!(claims["sub"], json!(workload.account));
        assert_eq!(claims["client_id"], json!(workload.client_id));
        assert_eq!(claims["scope"], answer["scope"]);
        let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert_eq!(lifetime, 1800);
        assert!((claims["iat"].as_i64().unwrap() - now()).abs() < 10);
        assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
        let mut roles: Vec<&str> =
            claims["roles"].as_array().unwrap().iter().map(|role| role.as_str().unwrap()).collect();
        roles.sort_unstable();
        assert_eq!(roles, [role("agent"), role("viewer")]);
        let wif = json!({ "issuer": world.issuer.uri(), "subject": "oauth", "provider": workload.provider, "trust": workload.trust });
        assert_eq!(claims["wif"], wif);
        // Strings only, as ConductorOne does.
        assert_eq!(claims["c1wfc"], json!({ "repository": "acme/shop" }));
    });
}

#[test]
fn the_trust_is_found_by_client_id_audience_mrn_or_scope() {
    run(async {
        let world = world().await;
        let workload = workload(world, "locate", &["viewer"], json!({})).await;
        let binding = world.binding(&workload.place.space, "bound", &["viewer"]).await;
        let token = workload.token(world);
        let exchange = async |audience: &str, token: &str| {
            let fields = [
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token", token),
                ("subject_token_type", ID_TOKEN),
                ("audience", audience),
            ];
            let reply = world.post_form("/auth/v1/token", &fields, None).await;
            assert_eq!(reply.status, 200, "{audience}: {}", reply.text());
            claims_of(reply.json()["access_token"].as_str().unwrap())
        };
        for audience in [workload.client_id.as_str(), &workload.trust, &workload.place.space] {
            assert_eq!(exchange(audience, &token).await["wif"]["trust"], json!(workload.trust), "{audience}");
        }
        let bound = world.token("bound", world.tenant_host());
        for audience in [binding.mrn.as_str(), &binding.client_id, &workload.place.space] {
            assert_eq!(exchange(audience, &bound).await["sub"], json!(binding.service_account), "{audience}");
        }
        // An access token is for this service only.
        let reply = world.oauth(&workload.client_id, &token, &[("audience", "https://elsewhere.example")]).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
    });
}

#[test]
fn roles_are_narrowed_by_the_trust_and_by_the_request() {
    run(async {
        let world = world().await;
        let workload = workload(
            world,
            "narrow",
            &["viewer", "agent", "editor"],
            json!({ "scopedRoles": [role("viewer"), role("agent"), role("owner")], "expiration": 120 }),
        )
        .await;
        let token = workload.token(world);
        let reply = world.oauth(&workload.client_id, &token, &[]).await.json();
        let mut scope: Vec<&str> = reply["scope"].as_str().unwrap().split(' ').collect();
        scope.sort_unstable();
        assert_eq!((scope, &reply["expires_in"]), (vec!["agent", "viewer"], &json!(120)), "{reply}");
        let narrow = world.oauth(&workload.client_id, &token, &[("scope", "viewer")]).await.json();
        assert_eq!(narrow["scope"], json!("viewer"));
        let viewer = world
            .graphql_as(
                narrow["access_token"].as_str().unwrap(),
                "{ viewer { mrn kind roles scopeMrn expiresAt permissions } }",
                json!({}),
            )
            .await;
        let viewer = &viewer["viewer"];
        assert_eq!(
            (&viewer["mrn"], &viewer["scopeMrn"], &viewer["roles"]),
            (&json!(workload.account), &json!(workload.place.space), &json!([role("viewer")]))
        );
        assert!(viewer["expiresAt"].is_string(), "{viewer}");
        assert_eq!(world.oauth(&workload.client_id, &token, &[("scope", "editor")]).await.status, 400);
    });
}

#[test]
fn an_id_token_for_a_third_party_needs_the_permission() {
    run(async {
        let world = world().await;
        let more = [("requested_token_type", ID_TOKEN), ("audience", "https://bigquery.example")];
        let owner = workload(world, "id token", &["owner"], json!({})).await;
        let reply = world.oauth(&owner.client_id, &owner.token(world), &more).await;
        let answer = reply.json();
        assert_eq!((reply.status, &answer["issued_token_type"]), (200, &json!(ID_TOKEN)), "{answer}");
        let token = answer["access_token"].as_str().unwrap();
        let claims = claims_of(token);
        assert_eq!(
            (&claims["aud"], &claims["sub"], &claims["iss"]),
            (&json!("https://bigquery.example"), &json!(owner.account), &json!(world.server.url))
        );
        // It opens nothing here.
        assert_eq!(world.ping(token).await, 401);
        let viewer = workload(world, "no id token", &["viewer"], json!({})).await;
        let reply = world.oauth(&viewer.client_id, &viewer.token(world), &more).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
    });
}

#[test]
fn introspection_tells_those_who_may_read_and_revocation_ends_the_token() {
    run(async {
        let world = world().await;
        let workload = workload(world, "introspect", &["viewer"], json!({})).await;
        let token = world.access_token(&workload.client_id, &workload.token(world)).await;
        let introspect = async |bearer: Option<&str>, token: &str| {
            let reply = world.post_form("/auth/v1/introspect", &[("token", token)], bearer).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()
        };
        let reader = world.api_token(&workload.place.space, &["viewer"]).await;
        let elsewhere = world.place().await;
        let stranger = world.api_token(&elsewhere.space, &["owner"]).await;
        let inactive = json!({ "active": false });
        let active = introspect(Some(&reader), &token).await;
        assert_eq!(
            (&active["active"], &active["sub"], &active["client_id"]),
            (&json!(true), &json!(workload.account), &json!(workload.client_id)),
            "{active}"
        );
        assert_eq!(introspect(None, &token).await, inactive);
        assert_eq!(introspect(Some(&stranger), &token).await, inactive);
        assert_eq!(introspect(Some(&reader), "garbage").await, inactive);

        assert_eq!(world.ping(&token).await, 200);
        let reply = world.post_form("/auth/v1/revoke", &[("token", token.as_str())], None).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(world.ping(&token).await, 401);
        assert_eq!(introspect(Some(&reader), &token).await, inactive);
        // Nothing to revoke is no error, and tells nothing.
        assert_eq!(world.post_form("/auth/v1/revoke", &[("token", "garbage")], None).await.status, 200);
        let fresh = world.access_token(&workload.client_id, &workload.token(world)).await;
        assert_eq!(world.ping(&fresh).await, 200, "one credential is revoked, not the trust");
    });
}

#[test]
fn a_token_older_than_ten_minutes_is_refused_by_a_trust_and_fine_for_a_binding() {
    run(async {
        let world = world().await;
        let workload = workload(world, "old", &["viewer"], json!({})).await;
        let binding = world.binding(&workload.place.space, "old binding", &[]).await;
        let mint = |subject: &str, age: i64| {
            let mut claims = world.claims(subject, world.tenant_host());
            claims["iat"] = json!(now() - age);
            claims["nbf"] = json!(now() - age);
            claims["exp"] = json!(now() + 600);
            world.issuer.mint(claims)
        };
        assert_eq!(world.oauth(&workload.client_id, &mint("old", 500), &[]).await.status, 200);
        let reply = world.oauth(&workload.client_id, &mint("old", 700), &[]).await;
        assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid_grant")), "{}", reply.text());
        let record = world.record(&workload.place.space, &reply.reference()).await;
        assert_eq!(record["reason"], json!("freshness"), "{record}");
        assert_eq!(world.oauth(&binding.client_id, &mint("old binding", 700), &[]).await.status, 200);
    });
}
