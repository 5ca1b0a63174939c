//! Story: what a workload gets, what it opens, and when it ends.

use std::process::Command;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Ping, Reply, World, claims_of, document, header_of, now, resign, role, run, sign, sign_claims};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// Runs `openssl` over files in a scratch folder; its standard output.
fn openssl(folder: &std::path::Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_document_is_what_every_client_reads() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "document", "issuerUri": world.issuer.uri(), "subject": "document",
                            "expiration": 900 });
        let binding = world.bind(input).await;
        let reply = world.exchange(&place.space, world.issuer.uri(), &world.token("document", &place.space)).await;
        let document = document(&reply);
        let names: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
        for name in
            ["mrn", "space_mrn", "scope_mrn", "parent_mrn", "private_key", "certificate", "api_endpoint", "typename"]
        {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        let mrn = document["mrn"].as_str().unwrap();
        assert!(mrn.starts_with(&format!("{}/credentials/", binding.service_account)), "{mrn}");
        for name in ["space_mrn", "scope_mrn", "parent_mrn"] {
            assert_eq!(document[name], json!(place.space), "{name}");
        }
        assert_eq!(document["api_endpoint"], json!(world.server.url), "no trailing slash: clients append /query");
        assert_eq!(document["typename"], json!("ServiceAccountCredential"));
        let key = document["private_key"].as_str().unwrap();
        assert!(
            key.starts_with("-----BEGIN PRIVATE KEY-----\n") && key.trim_end().ends_with("-----END PRIVATE KEY-----")
        );
        let record = world.record(&place.space, &reply.reference()).await;
        assert_eq!((&record["granted"], &record["credentialMrn"]), (&json!(true), &json!(mrn)), "{record}");

        // Somebody else's opinion of key and certificate.
        let folder = tempfile::tempdir().unwrap();
        let certificate = document["certificate"].as_str().unwrap();
        std::fs::write(folder.path().join("key.pem"), key).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), certificate).unwrap();
        let ca = Reply::to(world.http.get(format!("{}/.well-known/sallyport-ca.pem", world.server.url))).await;
        assert_eq!(ca.status, 200);
        std::fs::write(folder.path().join("ca.pem"), &ca.body).unwrap();
        let verified = openssl(folder.path(), &["verify", "-x509_strict", "-CAfile", "ca.pem", "certificate.pem"]);
        assert_eq!(verified.trim(), "certificate.pem: OK");
        let shown = openssl(folder.path(), &["pkey", "-in", "key.pem", "-noout", "-text"]);
        assert!(shown.contains("secp384r1") || shown.contains("P-384"), "{shown}");
        let of_key = openssl(folder.path(), &["pkey", "-in", "key.pem", "-pubout"]);
        assert_eq!(openssl(folder.path(), &["x509", "-in", "certificate.pem", "-noout", "-pubkey"]), of_key);
        let text = openssl(folder.path(), &["x509", "-in", "certificate.pem", "-noout", "-text"]);
        assert!(text.contains("ecdsa-with-SHA384") && text.contains("CA:FALSE"), "{text}");
        assert!(!openssl(folder.path(), &["x509", "-in", "certificate.pem", "-noout", "-subject"]).trim().is_empty());
        // It ends when the binding says: within 900 s, not within 860.
        let ends = |seconds: &str| {
            let mut check = Command::new("openssl");
            check.args(["x509", "-in", "certificate.pem", "-noout", "-checkend", seconds]).current_dir(folder.path());
            !check.output().unwrap().status.success()
        };
        assert!(ends("905") && !ends("840"));
    });
}

#[test]
fn key_pair_access_token_and_api_token_each_open_the_api_within_their_roles() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "agent", &["agent"]).await;
        let viewer = world.binding(&place.space, "viewer", &["viewer"]).await;
        let document = world.credential(&place.space, &world.token("agent", &place.space)).await;
        let bearer = world.access_token(&binding.client_id, &world.token("agent", &place.space)).await;
        let reader = world.access_token(&viewer.client_id, &world.token("viewer", &place.space)).await;
        let viewer_of = "{ viewer { mrn kind roles permissions scopeMrn expiresAt } }";
        for bearer in [sign(&document, Ping::NoHash), bearer.clone()] {
            let seen = world.graphql_as(&bearer, viewer_of, json!({})).await;
            let seen = &seen["viewer"];
            assert_eq!(seen["mrn"], json!(binding.service_account), "{seen}");
            assert_eq!((&seen["roles"], &seen["scopeMrn"]), (&json!([role("agent")]), &json!(place.space)), "{seen}");
            assert!(seen["expiresAt"].is_string(), "{seen}");
        }
        // A hash of the body is checked when it is there.
        let body = json!({ "query": viewer_of }).to_string();
        for (hashed, allowed) in [(body.as_bytes(), true), (b"other".as_slice(), false)] {
            let request = world.http.post(format!("{}/query", world.server.url)).body(body.clone());
            let request =
                request.header("content-type", "application/json").bearer_auth(sign(&document, Ping::Hash(hashed)));
            assert_eq!(Reply::to(request).await.json().get("errors").is_none(), allowed);
        }
        let list = "query($scope: String!) { listWIFAuthBindings(scopeMrn: $scope) { bindings { mrn } } }";
        let create =
            "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn } } }";
        let input = json!({ "scopeMrn": place.space, "name": "n", "issuerUri": world.issuer.uri(), "subject": "made by a workload" });
        let scope = json!({ "scope": place.space });
        for bearer in [sign(&document, Ping::NoHash), bearer] {
            assert_eq!(world.refused_as(Some(&bearer), list, &scope).await.code, "NOT_FOUND", "an agent sees nothing");
            let refusal = world.refused_as(Some(&bearer), create, &json!({ "input": input })).await;
            assert!(matches!(refusal.code.as_str(), "NOT_FOUND" | "PERMISSION_DENIED"), "{refusal:?}");
        }
        assert_eq!(
            world.graphql_as(&reader, list, scope.clone()).await["listWIFAuthBindings"]["bindings"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert_eq!(world.refused_as(Some(&reader), create, &json!({ "input": input })).await.code, "PERMISSION_DENIED");
        let api = world.api_token(&place.space, &["agent"]).await;
        assert_eq!(world.ping(&api).await, 200);
        assert_eq!(world.refused_as(Some(&api), list, &scope).await.code, "NOT_FOUND");
    });
}

#[test]
fn a_federated_editor_cannot_manage_federation_and_an_owner_can() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let create = "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn createdBy } } }";
        let remove = "mutation($mrn: String!) { removeWIFAuthBinding(mrn: $mrn) { mrn } }";
        let input = |subject: &str| json!({ "input": { "scopeMrn": place.space, "name": "n", "issuerUri": world.issuer.uri(), "subject": subject } });
        let editor = world.binding(&place.space, "editor", &["editor"]).await;
        let bearer = world.access_token(&editor.client_id, &world.token("editor", &place.space)).await;
        assert_eq!(world.refused_as(Some(&bearer), create, &input("a")).await.code, "PERMISSION_DENIED");
        assert_eq!(
            world.refused_as(Some(&bearer), remove, &json!({ "mrn": editor.mrn })).await.code,
            "PERMISSION_DENIED"
        );
        let document = world.credential(&place.space, &world.token("editor", &place.space)).await;
        assert_eq!(
            world.refused_as(Some(&sign(&document, Ping::NoHash)), create, &input("b")).await.code,
            "PERMISSION_DENIED"
        );

        // The same role on a person's API token may.
        let person = world.api_token(&place.space, &["editor"]).await;
        world.graphql_as(&person, create, input("c")).await;
        let owner = world.binding(&place.space, "owner", &["owner"]).await;
        let bearer = world.access_token(&owner.client_id, &world.token("owner", &place.space)).await;
        let made = world.graphql_as(&bearer, create, input("d")).await;
        assert_eq!(made["createWIFAuthBinding"]["binding"]["createdBy"], json!(owner.service_account));
    });
}

#[test]
fn removing_the_binding_ends_both_kinds_of_credential_at_once() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "removed", &["viewer"]).await;
        let token = world.token("removed", &place.space);
        let document = world.credential(&place.space, &token).await;
        let bearer = world.access_token(&binding.client_id, &token).await;
        let viewer = "{ viewer { mrn } }";
        assert_eq!((world.signed_ping(&document).await, world.ping(&bearer).await), (200, 200));
        world.graphql_as(&bearer, viewer, json!({})).await;
        world.unbind(&binding.mrn).await;
        assert_eq!((world.signed_ping(&document).await, world.ping(&bearer).await), (401, 401));
        for bearer in [bearer, sign(&document, Ping::NoHash)] {
            assert_eq!(world.refused_as(Some(&bearer), viewer, &json!({})).await.code, "UNAUTHENTICATED");
        }
        assert_eq!(world.exchange(&place.space, world.issuer.uri(), &token).await.status, 403);
        let accounts = "query($scope: String!) { listServiceAccounts(scopeMrn: $scope) { totalCount } }";
        let left = world.graphql(accounts, json!({ "scope": place.space })).await;
        assert_eq!(left["listServiceAccounts"]["totalCount"], json!(0), "the binding's service account goes with it");
    });
}

#[test]
fn disabling_suspends_credentials_for_as_long_as_it_lasts() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let input = json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "suspended" });
        let (trust, client_id) = world.trust(input).await;
        let bearer = world.access_token(&client_id, &world.token("suspended", &place.space)).await;
        let document = world.credential(&place.space, &world.token("suspended", &place.space)).await;
        let trust_off = "mutation($mrn: String!, $off: Boolean) { updateWIFTrust(input: {mrn: $mrn, disabled: $off}) { trust { mrn } } }";
        let provider_off = "mutation($mrn: String!, $off: Boolean) { updateWIFProvider(input: {mrn: $mrn, disabled: $off}) { provider { mrn } } }";
        let account_off = "mutation($mrn: String!, $off: Boolean) { updateServiceAccount(input: {mrn: $mrn, disabled: $off}) { mrn } }";
        for (what, mutation, mrn) in [
            ("trust", trust_off, json!(trust)),
            ("provider", provider_off, json!(provider)),
            ("account", account_off, account["mrn"].clone()),
        ] {
            assert_eq!((world.ping(&bearer).await, world.signed_ping(&document).await), (200, 200), "before: {what}");
            world.graphql(mutation, json!({ "mrn": mrn, "off": true })).await;
            assert_eq!((world.ping(&bearer).await, world.signed_ping(&document).await), (401, 401), "disabled {what}");
            world.graphql(mutation, json!({ "mrn": mrn, "off": false })).await;
        }
        assert_eq!((world.ping(&bearer).await, world.signed_ping(&document).await), (200, 200));
    });
}

#[test]
fn tampered_access_tokens_are_refused() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "tampered", &["viewer"]).await;
        let token = world.access_token(&binding.client_id, &world.token("tampered", &place.space)).await;
        let (header, claims) = (header_of(&token), claims_of(&token));
        let with = |value: &Value, name: &str, changed: Value| {
            let mut copy = value.clone();
            copy[name] = changed;
            copy
        };
        let other = claims_of(&world.access_token(&binding.client_id, &world.token("tampered", &place.space)).await);
        let parts: Vec<&str> = token.split('.').collect();
        let jwks = Reply::to(world.http.get(format!("{}/auth/v1/jwks", world.server.url))).await.json();
        let ours =
            jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).expect("our key").clone();
        let hmac = |secret: &[u8]| {
            let signed = format!("{}.{}", encode(&with(&header, "alg", json!("HS256"))), parts[1]);
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
            format!("{signed}.{}", base64url(tag.as_ref()))
        };
        let x = base64url_decode(ours["x"].as_str().unwrap());
        let cases = [
            ("owner's roles", resign(&token, &header, &with(&claims, "roles", json!([role("owner")])))),
            ("a longer life", resign(&token, &header, &with(&claims, "exp", json!(now() + 86_400)))),
            ("another's id", resign(&token, &header, &with(&claims, "jti", other["jti"].clone()))),
            ("alg none", resign(&token, &with(&header, "alg", json!("none")), &claims)),
            ("alg none, unsigned", format!("{}.{}.", encode(&with(&header, "alg", json!("none"))), parts[1])),
            ("alg ES384", resign(&token, &with(&header, "alg", json!("ES384")), &claims)),
            ("typ JWT", resign(&token, &with(&header, "typ", json!("JWT")), &claims)),
            ("unsigned", format!("{}.{}.", parts[0], parts[1])),
            ("another key id", resign(&token, &with(&header, "kid", json!("x")), &claims)),
            ("HMAC with our public key", hmac(&x)),
            ("HMAC with our public JWK", hmac(ours.to_string().as_bytes())),
            ("the signature cut", token[..token.len() - 4].to_owned()),
            ("the issuer's own token", world.token("tampered", &place.space)),
        ];
        for (what, bearer) in cases {
            assert_eq!(world.ping(&bearer).await, 401, "{what}");
            assert_eq!(
                world.refused_as(Some(&bearer), "{ viewer { mrn } }", &json!({})).await.code,
                "UNAUTHENTICATED",
                "{what}"
            );
        }
        assert_eq!(world.ping(&token).await, 200);
    });
}

#[test]
fn a_service_accounts_own_jwt_is_held_to_its_form() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        world.binding(&place.space, "own", &[]).await;
        world.binding(&place.space, "other", &[]).await;
        let document = world.credential(&place.space, &world.token("own", &place.space)).await;
        let other = world.credential(&place.space, &world.token("other", &place.space)).await;
        let mrn = document["mrn"].clone();
        let header = json!({ "alg": "ES384", "kid": mrn, "typ": "JWT" });
        let claims = |changes: Value| {
            let mut claims = json!({ "sub": mrn, "iss": "mondoo/ams", "iat": now(), "nbf": now(), "exp": now() + 60 });
            for (name, value) in changes.as_object().unwrap() {
                claims[name] = value.clone();
            }
            claims
        };
        assert_eq!(world.ping(&sign_claims(&document, &header, &claims(json!({})))).await, 200);
        // Clocks differ: a minute either way is fine.
        let early = json!({ "iat": now() + 30, "nbf": now() + 30, "exp": now() + 90 });
        let late = json!({ "iat": now() - 90, "nbf": now() - 90, "exp": now() - 30 });
        assert_eq!(world.ping(&sign_claims(&document, &header, &claims(early))).await, 200);
        assert_eq!(world.ping(&sign_claims(&document, &header, &claims(late))).await, 200);
        let refused = [
            ("expired", claims(json!({ "iat": now() - 200, "nbf": now() - 200, "exp": now() - 140 }))),
            ("from the future", claims(json!({ "iat": now() + 140, "nbf": now() + 140, "exp": now() + 200 }))),
            ("valid for a day", claims(json!({ "exp": now() + 86_400 }))),
            ("another issuer", claims(json!({ "iss": "mondoo/other" }))),
            ("another subject", claims(json!({ "sub": other["mrn"] }))),
            ("no expiry", claims(json!({ "exp": null }))),
        ];
        for (what, claims) in refused {
            assert_eq!(world.ping(&sign_claims(&document, &header, &claims)).await, 401, "{what}");
        }
        let other_key = json!({ "alg": "ES384", "kid": other["mrn"], "typ": "JWT" });
        let theirs = claims(json!({ "sub": other["mrn"] }));
        assert_eq!(world.ping(&sign_claims(&document, &other_key, &theirs)).await, 401, "signed with another's key");
        for alg in ["ES256", "HS256", "none"] {
            let header = json!({ "alg": alg, "kid": mrn, "typ": "JWT" });
            assert_eq!(world.ping(&sign_claims(&document, &header, &claims(json!({})))).await, 401, "{alg}");
        }
    });
}

#[test]
fn standing_keys_of_service_accounts_work_until_the_account_is_deleted() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        assert_eq!(account["scopeMrn"], json!(place.space));
        assert_eq!(account["apiEndpoint"], json!(world.server.url));
        let document = json!({ "mrn": account["mrn"], "private_key": account["privateKey"] });
        let bearer = || sign(&document, Ping::NoHash);
        let seen = world.graphql_as(&bearer(), "{ viewer { mrn roles } }", json!({})).await;
        assert_eq!(seen["viewer"], json!({ "mrn": account["mrn"], "roles": [role("viewer")] }));
        assert_eq!(world.signed_ping(&document).await, 200);
        let delete =
            "mutation($input: DeleteServiceAccountsInput!) { deleteServiceAccounts(input: $input) { __typename } }";
        world.graphql(delete, json!({ "input": { "scopeMrn": place.space, "mrns": [account["mrn"]] } })).await;
        assert_eq!(world.signed_ping(&document).await, 401);
        assert_eq!(world.refused_as(Some(&bearer()), "{ viewer { mrn } }", &json!({})).await.code, "UNAUTHENTICATED");
    });
}

fn encode(value: &Value) -> String {
    base64url(value.to_string().as_bytes())
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn base64url_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64url")
}
