//! Story: Sallyport itself is an OIDC issuer that others verify without knowing it.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Node, Reply, World, now, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

async fn get(world: &World, path: &str) -> Reply {
    let reply = Reply::to(world.http.get(format!("{}{path}", world.server.url))).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"), "{path}: {}", reply.text());
    reply
}

const GENERATE: &str = "mutation($input: GenerateIDTokenInput!) { generateIDToken(input: $input) { token expiresAt } }";

#[test]
fn discovery_documents_hold_every_field_that_a_strict_client_wants() {
    run(async {
        let world = world().await;
        let url = &world.server.url;
        let document = get(world, "/.well-known/openid-configuration").await.json();
        assert_eq!(document["issuer"], json!(url));
        // OpenID Connect Discovery 1.0 section 3, and the seed's list of what our own discovery demands of others.
        for name in ["jwks_uri", "authorization_endpoint", "token_endpoint"] {
            assert!(document[name].as_str().is_some_and(|value| value.starts_with(url)), "{name}: {document}");
        }
        for name in ["response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"] {
            assert!(document[name].as_array().is_some_and(|list| !list.is_empty()), "{name}: {document}");
        }
        assert!(
            document["id_token_signing_alg_values_supported"].as_array().unwrap().contains(&json!("RS256")),
            "RS256 is a must"
        );
        let server = get(world, "/.well-known/oauth-authorization-server").await.json();
        assert_eq!(server["issuer"], json!(url));
        assert_eq!(server["token_endpoint"], json!(format!("{url}/auth/v1/token")));
        assert!(
            server["grant_types_supported"]
                .as_array()
                .unwrap()
                .contains(&json!("urn:ietf:params:oauth:grant-type:token-exchange"))
        );
        for name in ["introspection_endpoint", "revocation_endpoint", "jwks_uri"] {
            assert!(server[name].as_str().is_some_and(|value| value.starts_with(url)), "{name}: {server}");
        }
        assert!(server["response_types_supported"].is_array());
        // A strict client's opinion.
        let found = Node::run("discover.mjs", &[url]).await.expect("openid-client accepts both documents");
        assert_eq!((&found["oidc"]["issuer"], &found["oauth2"]["issuer"]), (&json!(url), &json!(url)));
    });
}

#[test]
fn key_sets_hold_public_keys_only_and_both_paths_show_the_same() {
    run(async {
        let world = world().await;
        let keys = get(world, "/.well-known/jwks.json").await.json();
        assert_eq!(get(world, "/auth/v1/jwks").await.json(), keys);
        let keys = keys["keys"].as_array().unwrap();
        let mut algorithms: Vec<&str> = keys.iter().map(|key| key["alg"].as_str().expect("alg")).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        assert!(algorithms.contains(&"EdDSA") && algorithms.contains(&"RS256"), "{algorithms:?}");
        let mut ids = std::collections::BTreeSet::new();
        for key in keys {
            assert_eq!(key["use"], json!("sig"));
            assert!(ids.insert(key["kid"].as_str().expect("kid")), "key ids are unique");
            for secret in ["d", "p", "q", "dp", "dq", "qi", "k", "oth"] {
                assert!(key.get(secret).is_none(), "{secret} is nobody's business");
            }
        }
    });
}

#[test]
fn an_id_token_is_verified_by_a_stranger_from_the_issuer_url_alone() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["agent"]).await;
        let audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/sallyport";
        let input = json!({ "audience": audience, "serviceAccountMrn": account["mrn"], "expiration": 600 });
        let made = world.graphql(GENERATE, json!({ "input": input })).await;
        let token = made["generateIDToken"]["token"].as_str().expect("a token");
        assert!(made["generateIDToken"]["expiresAt"].is_string());
        let url = world.server.url.as_str();
        let verified = Node::run("verify.mjs", &[url, audience, token]).await.expect("jose accepts it");
        let claims = &verified["claims"];
        assert_eq!((&claims["iss"], &claims["sub"], &claims["aud"]), (&json!(url), &account["mrn"], &json!(audience)));
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
        assert!((claims["iat"].as_i64().unwrap() - now()).abs() < 10);
        assert_eq!(verified["header"]["alg"], json!("RS256"));
        let listed = verified["metadata"]["id_token_signing_alg_values_supported"].as_array().unwrap();
        assert!(listed.contains(&verified["header"]["alg"]));

        // The relying party's checks are real.
        let wrong = Node::run("verify.mjs", &[url, "another audience", token]).await;
        assert!(wrong.is_err_and(|complaint| complaint.contains("aud")));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", "A".repeat(342));
        assert!(Node::run("verify.mjs", &[url, audience, &forged]).await.is_err());
        // It opens nothing here.
        assert_eq!(world.ping(token).await, 401);
    });
}

#[test]
fn an_access_token_is_verified_by_a_stranger_too() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "relying party", &["viewer"]).await;
        let token = world.access_token(&binding.client_id, &world.token("relying party", &place.space)).await;
        let url = world.server.url.as_str();
        let verified = Node::run("verify.mjs", &[url, url, &token, "at+jwt"]).await.expect("jose accepts it");
        assert_eq!(verified["header"]["alg"], json!("EdDSA"));
        assert_eq!(verified["claims"]["sub"], json!(binding.service_account));
    });
}

#[test]
fn getting_an_id_token_takes_a_permission_of_its_own() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["agent"]).await;
        let variables = json!({ "input": { "audience": "x", "serviceAccountMrn": account["mrn"] } });
        let editor = world.api_token(&place.space, &["editor"]).await;
        let refusal = world.refused_as(Some(&editor), GENERATE, &variables).await;
        assert_eq!(refusal.code, "PERMISSION_DENIED", "{refusal:?}");
        assert_eq!(world.refused_as(None, GENERATE, &variables).await.code, "UNAUTHENTICATED");
        let refused: [(Value, &str); 4] = [
            (json!({ "audience": "", "serviceAccountMrn": account["mrn"] }), "audience"),
            (json!({ "audience": "x".repeat(1025), "serviceAccountMrn": account["mrn"] }), "audience"),
            (json!({ "audience": "x", "serviceAccountMrn": account["mrn"], "expiration": 86_401 }), "expiration"),
            (
                json!({ "audience": "x", "serviceAccountMrn": "//agents.api.mondoo.app/serviceaccounts/none" }),
                "serviceAccountMrn",
            ),
        ];
        for (input, field) in refused {
            let refusal = world.refused(GENERATE, json!({ "input": input })).await;
            assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", field), "{refusal:?}");
        }
    });
}
