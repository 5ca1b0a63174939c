//! Story: what callers learn. wire.md's table of faults, each on both endpoints, and the one answer for all the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sallyport_testkit::{Algorithm, Failure, Postgres, Signer};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::proto::{ExchangeRequest, Status};
use crate::support::{Binding, Kept, Place, Reply, World, an_exchange, claims, eventually, form, now, role, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// A place with a binding, and both endpoints to present tokens at.
struct Stage {
    world: &'static World,
    place: Place,
    binding: Binding,
}

impl Stage {
    async fn new(subject: &str) -> Self {
        let world = world().await;
        let place = world.place().await;
        let binding = world.binding(&place.space, subject, &[]).await;
        Self { world, place, binding }
    }

    async fn rpc(&self, token: &str) -> Reply {
        self.world.exchange(&self.place.space, self.world.issuer.uri(), token).await
    }

    async fn oauth(&self, token: &str) -> Reply {
        self.world.oauth(&self.binding.client_id, token, &[]).await
    }

    /// Presents the token at both endpoints: a named fault with this RPC code, and `word` in the words of both.
    async fn named(&self, what: &str, token: &str, code: i32, word: &str) {
        let rpc = self.rpc(token).await;
        let answer = rpc.json();
        let status = if code == 3 { 400 } else { 401 };
        assert_eq!((rpc.status, &answer["code"]), (status, &json!(code)), "{what}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.to_lowercase().contains(word), "{what}: {message}");
        assert!(
            message.ends_with(&format!("{})", rpc.reference())) || message.ends_with(&rpc.reference()),
            "{what}: {message}"
        );
        self.named_by_oauth(what, token, word).await;
    }

    async fn named_by_oauth(&self, what: &str, token: &str, word: &str) {
        let oauth = self.oauth(token).await;
        let answer = oauth.json();
        assert_eq!((oauth.status, &answer["error"]), (400, &json!("invalid_grant")), "{what}: {answer}");
        let description = answer["error_description"].as_str().unwrap();
        assert!(description.to_lowercase().contains(word), "{what}: {description}");
        assert_eq!(answer["reference"], json!(oauth.reference()), "{what}");
        assert_eq!(oauth.header("cache-control"), "no-store", "{what}");
    }
}

/// Claims with some replaced; null takes one out.
fn changed(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[test]
fn a_malformed_token_is_named() {
    run(async {
        let stage = Stage::new("malformed").await;
        let issuer = &stage.world.issuer;
        let good = stage.world.claims("malformed", &stage.place.space);
        let with = |changes: Value| issuer.mint(changed(good.clone(), changes));
        let raw = |payload: &str| {
            issuer.mint_raw(issuer.header(Algorithm::Rs256), payload.as_bytes(), &Signer::Current(Algorithm::Rs256))
        };
        let header = |text: &str| {
            issuer.mint_bytes(text.as_bytes(), good.to_string().as_bytes(), &Signer::Current(Algorithm::Rs256))
        };
        let honest = issuer.mint(&good);
        let text = good.to_string();
        let duplicate = text.replacen('{', "{\"sub\":\"someone else\",", 1);
        let twin = text.replacen('{', "{\"Sub\":\"someone else\",", 1);
        let nested = text.replacen('{', &format!("{{\"deep\":{}1{},", "[".repeat(40), "]".repeat(40)), 1);
        let kid = issuer.kid(Algorithm::Rs256);
        let cases = [
            ("no JWT at all", "not a token".to_owned()),
            ("two parts", honest.rsplit_once('.').unwrap().0.to_owned()),
            ("four parts", format!("{honest}.x")),
            ("five parts, a JWE", format!("{honest}.x.y")),
            ("JSON serialisation", json!({ "payload": "e30", "signatures": [] }).to_string()),
            ("an empty signature", format!("{}.", honest.rsplit_once('.').unwrap().0)),
            ("padding", format!("{honest}=")),
            ("an alphabet of its own", honest.replacen('.', "+.", 1)),
            ("over 16 KiB", with(json!({ "filler": "x".repeat(17_000) }))),
            ("a header that is no JSON", header("not JSON")),
            (
                "a header over 4 KiB",
                header(&json!({ "alg": "RS256", "kid": kid, "filler": "x".repeat(5_000) }).to_string()),
            ),
            ("alg twice", header(&format!("{{\"alg\":\"RS256\",\"kid\":\"{kid}\",\"alg\":\"RS256\"}}"))),
            ("crit", header(&json!({ "alg": "RS256", "kid": kid, "crit": ["exp"] }).to_string())),
            ("b64 false", header(&json!({ "alg": "RS256", "kid": kid, "b64": false }).to_string())),
            ("zip", header(&json!({ "alg": "RS256", "kid": kid, "zip": "DEF" }).to_string())),
            ("a payload that is no JSON", raw("not JSON")),
            ("a payload that is an array", raw("[]")),
            ("bytes after the payload", raw(&format!("{text} x"))),
            ("a claim twice", raw(&duplicate)),
            ("a twin in another case", raw(&twin)),
            ("nesting", raw(&nested)),
            ("a lone surrogate", raw(&text.replacen('{', "{\"x\":\"\\ud800\",", 1))),
            ("NaN", raw(&text.replacen('{', "{\"x\":NaN,", 1))),
            ("exp as text", with(json!({ "exp": (now() + 600).to_string() }))),
            ("iat as text", with(json!({ "iat": "now" }))),
            ("nbf as text", with(json!({ "nbf": "now" }))),
            ("sub as number", with(json!({ "sub": 5 }))),
            ("iss as list", with(json!({ "iss": [issuer.uri()] }))),
            ("aud as object", with(json!({ "aud": { "a": 1 } }))),
            ("aud with a number", with(json!({ "aud": [stage.place.space, 5] }))),
            ("no exp", with(json!({ "exp": null }))),
            ("no iat", with(json!({ "iat": null }))),
            ("no sub", with(json!({ "sub": null }))),
            ("an empty sub", with(json!({ "sub": "" }))),
        ];
        for (what, token) in cases {
            stage.named(what, &token, 3, "").await;
        }
        assert_eq!(stage.rpc(&honest).await.status, 200);
    });
}

#[test]
fn an_expired_token_is_named() {
    run(async {
        let stage = Stage::new("expired").await;
        let good = stage.world.claims("expired", &stage.place.space);
        for age in [60, 3_600] {
            let times = json!({ "exp": now() - age, "iat": now() - age - 600, "nbf": now() - age - 600 });
            let token = stage.world.issuer.mint(changed(good.clone(), times));
            stage.named("expired", &token, 16, "expired").await;
        }
    });
}

#[test]
fn less_than_three_minutes_left_is_refused_by_rpc_and_good_enough_for_oauth() {
    run(async {
        let stage = Stage::new("short").await;
        let good = stage.world.claims("short", &stage.place.space);
        let mint = |left: i64| stage.world.issuer.mint(changed(good.clone(), json!({ "exp": now() + left })));
        let token = mint(170);
        let rpc = stage.rpc(&token).await;
        assert_eq!((rpc.status, &rpc.json()["code"]), (401, &json!(16)), "{}", rpc.text());
        assert!(rpc.json()["message"].as_str().unwrap().contains("3 minutes"), "{}", rpc.text());
        assert_eq!(stage.oauth(&token).await.status, 200);
        assert_eq!(stage.rpc(&mint(200)).await.status, 200);
        // OAuth: 30 s of leeway after the end, no more.
        assert_eq!(stage.oauth(&mint(-10)).await.status, 200);
        stage.named_by_oauth("beyond the leeway", &mint(-45), "expired").await;
    });
}

#[test]
fn a_token_from_the_future_is_named() {
    run(async {
        let stage = Stage::new("future").await;
        let good = stage.world.claims("future", &stage.place.space);
        for claim in ["iat", "nbf"] {
            let times = json!({ claim: now() + 300, "exp": now() + 900 });
            let token = stage.world.issuer.mint(changed(good.clone(), times));
            stage.named(claim, &token, 16, "not valid yet").await;
        }
    });
}

#[test]
fn algorithms_that_are_not_asymmetric_and_listed_are_named() {
    run(async {
        let stage = Stage::new("algorithm").await;
        let issuer = &stage.world.issuer;
        let payload = stage.world.claims("algorithm", &stage.place.space).to_string();
        let kid = issuer.kid(Algorithm::Rs256);
        let header = |alg: &str| json!({ "alg": alg, "kid": kid, "typ": "JWT" });
        for alg in ["none", "None", "NONE", "nOnE"] {
            let token = issuer.mint_raw(header(alg), payload.as_bytes(), &Signer::None);
            stage.named(&format!("alg {alg}"), &token, 16, "algorithm").await;
        }
        // The published key as HMAC secret, in both forms attackers try.
        let pem = issuer.public_key_pem(Algorithm::Rs256).into_bytes();
        for (alg, secret) in [("HS256", pem.clone()), ("HS384", pem.clone()), ("HS512", pem), ("HS256", Vec::new())] {
            let token = issuer.mint_raw(header(alg), payload.as_bytes(), &Signer::Hmac(secret));
            stage.named(alg, &token, 16, "algorithm").await;
        }
        for alg in ["ES256K", "RS1", "rs256", "ES512", "A256GCM", "dir"] {
            let token = issuer.mint_raw(header(alg), payload.as_bytes(), &Signer::Bytes(vec![7; 64]));
            stage.named(alg, &token, 16, "algorithm").await;
        }
    });
}

#[test]
fn a_token_for_another_audience_is_named_once_it_is_verified() {
    run(async {
        let stage = Stage::new("audience").await;
        let issuer = &stage.world.issuer;
        let strange = stage.world.claims("audience", "https://another.service.example");
        stage.named("another audience", &issuer.mint(&strange), 16, "audience").await;
        for audience in
            [json!(null), json!([]), json!(format!("{}/", stage.place.space)), json!(stage.place.organization)]
        {
            stage
                .named(
                    "no fitting audience",
                    &issuer.mint(changed(strange.clone(), json!({ "aud": audience }))),
                    16,
                    "audience",
                )
                .await;
        }
        // Nothing is said about the audience before signature, issuer and subject have passed.
        let mut other_subject = strange.clone();
        other_subject["sub"] = json!("someone else");
        for token in [issuer.sign_with_foreign_key(Algorithm::Rs256, &strange), issuer.mint(other_subject)] {
            let (rpc, oauth) = (stage.rpc(&token).await, stage.oauth(&token).await);
            assert_eq!(rpc.status, 403, "{}", rpc.text());
            assert!(!rpc.text().contains("audience") && !oauth.text().contains("audience"), "{}", oauth.text());
        }
        let client_id = stage.binding.client_id.as_str();
        for audience in [stage.place.space.as_str(), &stage.world.server.url, stage.world.tenant_host(), client_id] {
            let token = stage.world.token("audience", audience);
            assert_eq!(stage.rpc(&token).await.status, 200, "{audience}");
            let many = changed(stage.world.claims("audience", ""), json!({ "aud": ["x", audience] }));
            assert_eq!(stage.oauth(&issuer.mint(many)).await.status, 200, "{audience} among others");
        }
    });
}

/// All the ways to be nobody here: what differs is for the admin's eyes only.
#[test]
fn everything_else_is_one_and_the_same_refusal() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["viewer"]).await;
        let issuer = &world.issuer;
        let provider = world.provider(&place.space, issuer.uri()).await;
        let token = |subject: &str| world.token(subject, &place.space);
        let trust = async |name: &str, more: Value| {
            let mut input =
                json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": name, "subject": name });
            for (key, value) in more.as_object().unwrap() {
                input[key] = value.clone();
            }
            world.trust(input).await
        };
        let (_, good) = trust("good", json!({})).await;
        let (_, condition) =
            trust("condition", json!({ "condition": "claims.repository == 'other/repository'" })).await;
        let (_, failing) = trust("failing", json!({ "condition": "claims.missing == 'x'" })).await;
        let (_, mapping) =
            trust("mapping", json!({ "mappings": [{ "key": "jwt_claims.repository", "value": "x" }] })).await;
        let (_, address) = trust("address", json!({ "sourceCidrs": ["192.0.2.0/24"] })).await;
        let (disabled_mrn, disabled) = trust("disabled", json!({})).await;
        let disable =
            "mutation($mrn: String!) { updateWIFTrust(input: {mrn: $mrn, disabled: true}) { trust { disabled } } }";
        world.graphql(disable, json!({ "mrn": disabled_mrn })).await;

        let off = world.service_account(&place.space, &["viewer"]).await;
        let input =
            json!({ "serviceAccountMrn": off["mrn"], "providerMrn": provider, "name": "off", "subject": "off" });
        let (_, account_off) = world.trust(input).await;
        let disable = "mutation($mrn: String!) { updateServiceAccount(input: {mrn: $mrn, disabled: true}) { mrn } }";
        world.graphql(disable, json!({ "mrn": off["mrn"] })).await;

        let second = world.another_issuer().await;
        let provider_off = world.provider(&place.space, second.uri()).await;
        let input = json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider_off, "name": "provider", "subject": "provider" });
        let (_, behind_disabled) = world.trust(input).await;
        let disable = "mutation($mrn: String!) { updateWIFProvider(input: {mrn: $mrn, disabled: true}) { provider { disabled } } }";
        world.graphql(disable, json!({ "mrn": provider_off })).await;

        // It works, so the refusals below are for their reason and no other.
        let honest = world.exchange(&place.space, issuer.uri(), &token("good")).await;
        assert_eq!(honest.status, 200, "{}", honest.text());
        assert_eq!(world.oauth(&good, &token("good"), &[]).await.status, 200);

        let by_second = |subject: &str| second.mint_with(Algorithm::Es256, claims(&second, subject, &place.space));
        let foreign = issuer.sign_with_foreign_key(Algorithm::Rs256, world.claims("good", &place.space));
        let mut header = issuer.header(Algorithm::Rs256);
        header["kid"] = json!("no-such-key");
        let payload = world.claims("good", &place.space).to_string();
        let unknown_key = issuer.mint_raw(&header, payload.as_bytes(), &Signer::Current(Algorithm::Rs256));
        let mixed = issuer.mint_raw(
            issuer.header(Algorithm::Rs256),
            payload.as_bytes(),
            &Signer::Mixed(Algorithm::Rs256, Algorithm::Ps256),
        );
        let der = issuer.mint_raw(issuer.header(Algorithm::Es256), payload.as_bytes(), &Signer::Der(Algorithm::Es256));
        let mut wrong_type = issuer.header(Algorithm::Es256);
        wrong_type["kid"] = json!(issuer.kid(Algorithm::Rs256));
        let wrong_type = issuer.mint_raw(wrong_type, payload.as_bytes(), &Signer::Current(Algorithm::Es256));
        let mut embedded = issuer.header(Algorithm::Rs256);
        embedded["jwk"] = issuer.jwks()["keys"][0].clone();
        embedded["kid"] = json!("embedded");
        let embedded = issuer.mint_raw(embedded, payload.as_bytes(), &Signer::Current(Algorithm::Rs256));
        let mut tampered = honest_parts(&token("good"));
        tampered[1] = URL_SAFE_NO_PAD.encode(world.claims("good", &place.organization).to_string());
        let unsigned =
            issuer.mint_raw(issuer.header(Algorithm::Rs256), payload.as_bytes(), &Signer::Bytes(vec![0; 256]));
        let issuer_uri = issuer.uri();
        let nowhere = "//captain.api.mondoo.app/spaces/no-such-space";
        let unknown = "https://nobody.configured.example";

        let by_rpc = [
            ("unknown scope", nowhere, issuer_uri, token("good"), None),
            ("garbage for a scope", "my space", issuer_uri, token("good"), None),
            (
                "the organization above",
                place.organization.as_str(),
                issuer_uri,
                world.token("good", &place.organization),
                None,
            ),
            ("unknown issuer", &place.space, unknown, token("good"), None),
            ("another issuer's token", &place.space, issuer_uri, by_second("good"), None),
            ("a subject of nobody", &place.space, issuer_uri, token("nobody"), Some("subject")),
            ("a subject in another case", &place.space, issuer_uri, token("Good"), Some("subject")),
            ("a bad signature", &place.space, issuer_uri, foreign.clone(), Some("signature")),
            ("zeroes for a signature", &place.space, issuer_uri, unsigned.clone(), Some("signature")),
            ("an unknown key", &place.space, issuer_uri, unknown_key.clone(), Some("signature")),
            ("a key brought along", &place.space, issuer_uri, embedded, Some("signature")),
            ("PS256 under RS256", &place.space, issuer_uri, mixed, Some("signature")),
            ("ECDSA in DER", &place.space, issuer_uri, der, Some("signature")),
            ("a key of another type", &place.space, issuer_uri, wrong_type, Some("algorithm")),
            ("a changed payload", &place.space, issuer_uri, tampered.join("."), Some("signature")),
            ("a condition not met", &place.space, issuer_uri, token("condition"), Some("condition")),
            ("a condition in error", &place.space, issuer_uri, token("failing"), Some("condition")),
            ("a mapping not met", &place.space, issuer_uri, token("mapping"), Some("mappings")),
            ("another address", &place.space, issuer_uri, token("address"), Some("source_ip")),
            ("a disabled trust", &place.space, issuer_uri, token("disabled"), Some("enabled")),
            ("a disabled account", &place.space, issuer_uri, token("off"), Some("enabled")),
            ("a disabled provider", &place.space, second.uri(), by_second("provider"), Some("enabled")),
        ];
        let mut seen: Option<String> = None;
        for (what, scope, issuer_uri, token, reason) in by_rpc {
            let reply = world.exchange(scope, issuer_uri, &token).await;
            let answer = reply.json();
            assert_eq!((reply.status, &answer["code"]), (403, &json!(7)), "{what}: {answer}");
            assert_eq!(seen.get_or_insert_with(|| reply.without_reference()), &reply.without_reference(), "{what}");
            if let Some(reason) = reason {
                let record = world.record(&place.organization, &reply.reference()).await;
                assert_eq!(
                    (&record["granted"], &record["reason"]),
                    (&json!(false), &json!(reason)),
                    "{what}: {record}"
                );
            }
            // The Go client's encoding says the same.
            let message = ExchangeRequest {
                issuer_uri: issuer_uri.to_owned(),
                audience: scope.to_owned(),
                jwt_token: token,
                ..ExchangeRequest::default()
            };
            let request = world.http.post(format!("{}/SecureTokenService/ExchangeExternalToken", world.server.url));
            let request = request
                .header("content-type", "application/protobuf")
                .header("accept", "application/protobuf")
                .body(message.encode_to_vec());
            let in_protobuf = Reply::to(request).await;
            let status = Status::decode(in_protobuf.body.as_slice()).expect("google.rpc.Status");
            assert_eq!((in_protobuf.status, status.code), (403, 7), "{what}");
            let words = answer["message"].as_str().unwrap().replace(&reply.reference(), "");
            assert_eq!(status.message.replace(&in_protobuf.reference(), ""), words, "{what}");
        }

        let by_oauth = [
            ("unknown client ID", "calm-wolf-40291@127.0.0.1/wfe", token("good")),
            ("garbage for a client ID", "x", token("good")),
            ("another trust's subject", good.as_str(), token("condition")),
            ("another issuer's token", &good, by_second("good")),
            ("a bad signature", &good, foreign),
            ("zeroes for a signature", &good, unsigned),
            ("an unknown key", &good, unknown_key),
            ("a condition not met", &condition, token("condition")),
            ("a condition in error", &failing, token("failing")),
            ("a mapping not met", &mapping, token("mapping")),
            ("another address", &address, token("address")),
            ("a disabled trust", &disabled, token("disabled")),
            ("a disabled account", &account_off, token("off")),
            ("a disabled provider", &behind_disabled, by_second("provider")),
        ];
        let mut seen: Option<String> = None;
        for (what, client_id, token) in by_oauth {
            let reply = world.oauth(client_id, &token, &[]).await;
            let answer = reply.json();
            assert_eq!((reply.status, &answer["error"]), (400, &json!("invalid_grant")), "{what}: {answer}");
            assert_eq!(seen.get_or_insert_with(|| reply.without_reference()), &reply.without_reference(), "{what}");
        }
    });
}

fn honest_parts(token: &str) -> Vec<String> {
    token.split('.').map(str::to_owned).collect()
}

#[test]
fn malformed_oauth_requests_are_invalid_requests() {
    run(async {
        let stage = Stage::new("form").await;
        let world = stage.world;
        let token = world.token("form", &stage.place.space);
        let client_id = stage.binding.client_id.as_str();
        let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
        let jwt = "urn:ietf:params:oauth:token-type:jwt";
        let good = vec![
            ("grant_type", exchange),
            ("subject_token", token.as_str()),
            ("subject_token_type", jwt),
            ("client_id", client_id),
        ];
        let without = |name: &str| good.iter().copied().filter(|(field, _)| *field != name).collect::<Vec<_>>();
        let with = |name: &'static str, value: &'static str| {
            let mut fields = good.clone();
            fields.push((name, value));
            fields
        };
        let replaced = |name: &'static str, value: &'static str| {
            let mut fields = without(name);
            fields.push((name, value));
            fields
        };
        let huge = "x".repeat(100_000);
        let mut oversized = good.clone();
        oversized.push(("filler", &huge));
        let cases = [
            ("no grant type", without("grant_type"), "invalid_request"),
            ("an empty grant type", replaced("grant_type", ""), "invalid_request"),
            ("another grant", replaced("grant_type", "client_credentials"), "unsupported_grant_type"),
            ("no subject token", without("subject_token"), "invalid_request"),
            ("an empty subject token", replaced("subject_token", ""), "invalid_request"),
            ("no token type", without("subject_token_type"), "invalid_request"),
            (
                "an unknown token type",
                replaced("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"),
                "invalid_request",
            ),
            ("nobody to become", without("client_id"), "invalid_request"),
            ("a repeated parameter", with("client_id", "other"), "invalid_request"),
            ("an actor token", with("actor_token", "x"), "invalid_request"),
            ("a resource", with("resource", "https://api.example"), "invalid_request"),
            (
                "an unknown requested type",
                with("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
                "invalid_request",
            ),
            ("an oversized body", oversized, "invalid_request"),
        ];
        for (what, fields, error) in cases {
            let reply = world.post_form("/auth/v1/token", &fields, None).await;
            let answer = reply.json();
            assert_eq!((reply.status, &answer["error"]), (400, &json!(error)), "{what}: {answer}");
            assert!(answer["error_description"].is_string(), "{what}: {answer}");
            assert_eq!(answer["reference"], json!(reply.reference()), "{what}");
            assert_eq!(reply.header("cache-control"), "no-store", "{what}");
            assert_eq!(reply.header("content-type"), "application/json", "{what}");
        }
        for content_type in ["application/json", "text/plain", "multipart/form-data; boundary=x"] {
            let request =
                world.http.post(format!("{}/auth/v1/token", world.server.url)).header("content-type", content_type);
            let reply = Reply::to(request.body(form(&good))).await;
            assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid_request")), "{content_type}");
        }
        // Unknown parameters are ignored, empty ones count as absent.
        for (name, value) in [
            ("nonsense", "x"),
            ("scope", ""),
            ("resource", ""),
            ("actor_token", ""),
            ("audience", ""),
            ("requested_token_type", ""),
        ] {
            let reply = world.post_form("/auth/v1/token", &with(name, value), None).await;
            assert_eq!(reply.status, 200, "{name}={value}: {}", reply.text());
        }
    });
}

#[test]
fn asking_for_more_than_was_granted_is_an_invalid_scope() {
    run(async {
        let stage = Stage::new("scope").await;
        let token = stage.world.token("scope", &stage.place.space);
        for scope in ["owner", "agent owner", "no-such-role"] {
            let reply = stage.world.oauth(&stage.binding.client_id, &token, &[("scope", scope)]).await;
            assert_eq!(
                (reply.status, &reply.json()["error"]),
                (400, &json!("invalid_scope")),
                "{scope}: {}",
                reply.text()
            );
            reply.reference();
        }
        let reply = stage.world.oauth(&stage.binding.client_id, &token, &[("scope", "agent")]).await;
        assert_eq!((reply.status, &reply.json()["scope"]), (200, &json!("agent")));
    });
}

#[test]
fn an_issuer_out_of_reach_is_unavailable_not_a_refusal() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        for failure in [Failure::CloseConnection, Failure::Status(500), Failure::Hang] {
            let issuer = world.another_issuer().await;
            let input =
                json!({ "scopeMrn": place.space, "name": "down", "issuerUri": issuer.uri(), "subject": "down" });
            // Down from the start: no key was ever loaded.
            issuer.set_failure(Failure::CloseConnection);
            let binding = world.bind(input).await;
            issuer.set_failure(failure.clone());
            let token = issuer.mint_with(Algorithm::Es256, claims(&issuer, "down", &place.space));
            let (rpc, oauth) = tokio::join!(
                world.exchange(&place.space, issuer.uri(), &token),
                world.oauth(&binding.client_id, &token, &[])
            );
            let answer = rpc.json();
            assert_eq!((rpc.status, &answer["code"]), (503, &json!(14)), "{failure:?}: {answer}");
            assert!(!answer["message"].as_str().unwrap().contains("127.0.0.1"), "{answer}");
            rpc.reference();
            let answer = oauth.json();
            assert_eq!(
                (oauth.status, &answer["error"]),
                (503, &json!("temporarily_unavailable")),
                "{failure:?}: {answer}"
            );
            assert_eq!(answer["reference"], json!(oauth.reference()));

            issuer.set_failure(Failure::None);
            eventually(&format!("recovery after {failure:?}"), Duration::from_secs(10), async || {
                (world.exchange(&place.space, issuer.uri(), &token).await.status == 200).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn an_issuer_that_answers_wrongly_is_refused_like_one_nobody_configured() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        for failure in [
            Failure::Garbage,
            Failure::Oversized,
            Failure::EmptyKeySet,
            Failure::Redirect("https://127.0.0.1:1/".into()),
        ] {
            let issuer = world.another_issuer().await;
            issuer.set_failure(Failure::CloseConnection);
            let input =
                json!({ "scopeMrn": place.space, "name": "wrong", "issuerUri": issuer.uri(), "subject": "wrong" });
            let binding = world.bind(input).await;
            issuer.set_failure(failure.clone());
            let token = issuer.mint_with(Algorithm::Es256, claims(&issuer, "wrong", &place.space));
            let rpc = world.exchange(&place.space, issuer.uri(), &token).await;
            assert_eq!((rpc.status, &rpc.json()["code"]), (403, &json!(7)), "{failure:?}: {}", rpc.text());
            let oauth = world.oauth(&binding.client_id, &token, &[]).await;
            // The second attempt within a second may find the first one's fetch still fresh, and be told to try again.
            assert!(matches!(oauth.status, 400 | 503), "{failure:?}: {}", oauth.text());
            issuer.set_failure(Failure::None);
            eventually(&format!("recovery after {failure:?}"), Duration::from_secs(10), async || {
                (world.exchange(&place.space, issuer.uri(), &token).await.status == 200).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn the_rate_limit_says_when_to_come_back() {
    run(async {
        let world = World::with(|setup| {
            setup.set("SALLYPORT_LIMIT_PER_ADDRESS", "1");
        })
        .await;
        let mut limited = None;
        for _ in 0..10 {
            let reply = world
                .exchange("//captain.api.mondoo.app/spaces/none", world.issuer.uri(), &world.token("x", "y"))
                .await;
            if reply.status != 403 {
                limited = Some(reply);
                break;
            }
        }
        let reply = limited.expect("ten in a row exceed one a second");
        assert_eq!((reply.status, &reply.json()["code"]), (429, &json!(8)), "{}", reply.text());
        assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{reply:?}");
        reply.reference();
        let reply = world.oauth("a@b/wfe", &world.token("x", "y"), &[]).await;
        assert_eq!(reply.status, 429, "{}", reply.text());
        assert!(!reply.header("retry-after").is_empty());
    });
}

#[test]
fn introspection_and_revocation_are_limited_with_the_exchanges() {
    run(async {
        for limit in ["SALLYPORT_LIMIT_PER_ADDRESS", "SALLYPORT_LIMIT_GLOBAL"] {
            let world = World::with(|setup| {
                setup.set(limit, "1");
            })
            .await;
            for path in ["/auth/v1/introspect", "/auth/v1/revoke"] {
                let mut answers = Vec::new();
                for _ in 0..10 {
                    answers.push(world.post_form(path, &[("token", "nobody's")], Some(&world.admin)).await);
                }
                let limited =
                    answers.iter().find(|reply| reply.status != 200).expect("ten in a row exceed one a second");
                assert_eq!(limited.status, 429, "{limit} {path}: {}", limited.text());
                assert_eq!(limited.json()["error"], json!("temporarily_unavailable"));
                assert!(limited.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{limited:?}");
                // What belongs to one door belongs to all.
                let exchanged = world.oauth("a@b/wfe", &world.token("x", "y"), &[]).await;
                assert_eq!(exchanged.status, 429, "{limit} {path}: {}", exchanged.text());
            }
        }
    });
}

#[test]
fn a_trust_with_roles_its_account_lacks_grants_nothing() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let account = world.service_account(&place.space, &["agent"]).await;
        let provider = world.provider(&place.space, world.issuer.uri()).await;
        let input = json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "empty", "subject": "empty",
                            "scopedRoles": [role("viewer")] });
        let (_, client_id) = world.trust(input).await;
        let reply = world.oauth(&client_id, &world.token("empty", &place.space), &[]).await;
        assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid_grant")), "{}", reply.text());
        let record = world.record(&place.space, &reply.reference()).await;
        assert_eq!(record["reason"], json!("roles"), "{record}");
    });
}

/// All but what is each answer's own, and the date, which a 503 need not have (RFC 9110 section 6.6.1).
fn comparable(headers: &HeaderMap) -> BTreeSet<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
    headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str())).map(text).collect()
}

/// Another session keeps PostgreSQL from recording anything. Some hundred exchanges may wait for that; who comes then is told at
/// once, while the others wait, and what was granted in the end is on record.
#[test]
fn what_comes_while_too_much_waits_is_refused_at_once() {
    run(async {
        let server = Postgres::shared().expect("a PostgreSQL server");
        let mut url = String::new();
        let world = World::with(|setup| {
            setup.on_postgres(server);
            setup.get("SALLYPORT_DATABASE_URL").clone_into(&mut url);
        })
        .await;
        let database: &'static str = url.rsplit('/').next().unwrap().to_owned().leak();
        let place = world.place().await;
        let binding = world.binding(&place.space, "crowd", &["viewer"]).await;
        let token = world.token("crowd", &place.space);

        const HOLD: &str = "BEGIN; LOCK TABLE exchanges IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(120)";
        let holder = std::thread::spawn(|| server.sql(database, HOLD));
        let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'exchanges'::regclass AND mode = 'AccessExclusiveLock' AND granted";
        eventually("the lock", Duration::from_secs(20), async || {
            (server.sql(database, locks).unwrap() == "1").then_some(())
        })
        .await;

        // Known to the server since before: it is answered without a request being made of what it says.
        let mut kept = Kept::open(&world.server.url).await;
        assert_eq!(kept.ask("GET /livez HTTP/1.1", "").await.status, 200);

        let (world, binding, place, token) = (&world, &binding, &place, &token);
        let one = |n: usize| async move {
            if n.is_multiple_of(2) {
                world.oauth(&binding.client_id, token, &[]).await
            } else {
                world.exchange(&place.space, world.issuer.uri(), token).await
            }
        };
        let mut crowd: FuturesUnordered<_> = (0..1_500).map(one).collect();
        let mut answers = Vec::new();
        let is_refused = |reply: &&Reply| reply.status == 503 && reply.text().contains("more to do than can be done");
        while answers.iter().filter(is_refused).count() < 100 {
            answers.push(crowd.next().await.expect("more than may wait"));
        }
        assert!(!holder.is_finished(), "nobody waited for the lock");
        assert!(answers.iter().all(|reply| reply.status == 503), "nothing is granted that is not on record");
        for refused in answers.iter().filter(is_refused) {
            let body = refused.json();
            assert!(body["error"] == json!("temporarily_unavailable") || body["code"] == json!(14), "{body}");
            assert_eq!(refused.header("retry-after"), "1");
            assert_eq!(refused.header("x-content-type-options"), "nosniff");
        }
        // Prepared once, but for whose it is.
        let refused = answers.iter().filter(is_refused);
        let ids: BTreeSet<_> = refused.clone().map(|reply| reply.header("x-request-id")).collect();
        assert!(ids.len() == refused.count() && !ids.contains("") && !ids.contains("none"), "{ids:?}");
        let doors = answers.iter().filter(is_refused).map(|refused| refused.json()["code"].is_null());
        assert_eq!(doors.collect::<BTreeSet<_>>().len(), 2, "both doors");

        let asked = form(&an_exchange(&binding.client_id, token));
        let oauth = "POST /auth/v1/token HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded";
        let rpc = "POST /SecureTokenService/ExchangeExternalToken HTTP/1.1\r\nContent-Type: application/protobuf";
        let at_once = [
            kept.ask(&format!("{oauth}\r\nX-Request-Id: mine"), &asked).await,
            kept.ask(&format!("{rpc}\r\nAccept: application/json\r\nX-Request-Id: not <mine>"), "").await,
            kept.ask(rpc, "").await,
        ];
        let ordinary = |of: &dyn Fn(&Reply) -> bool| {
            let reply = answers.iter().find(|reply| is_refused(reply) && of(reply)).unwrap();
            (reply.status, comparable(&reply.headers), reply.body.clone())
        };
        let [of_oauth, of_rpc, of_protobuf] = &at_once;
        for (at_once, json) in [(of_oauth, true), (of_rpc, false)] {
            let at_once = (at_once.status, comparable(&at_once.headers), at_once.body.clone());
            assert_eq!(at_once, ordinary(&|reply| reply.json()["code"].is_null() == json));
        }
        assert_eq!(of_oauth.header("x-request-id"), "mine");
        assert_eq!(of_rpc.header("x-request-id").len(), 36, "{of_rpc:?}");
        assert_eq!(Status::decode(&*of_protobuf.body).unwrap().code, 14);
        assert!(at_once.iter().all(|reply| reply.header("date").is_empty()), "the HTTP library's have one");

        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' AND datname = current_database()";
        server.sql(database, end).unwrap();
        assert!(holder.join().unwrap().is_err(), "it was ended");
        answers.extend(crowd.collect::<Vec<_>>().await);
        let granted = answers.iter().filter(|reply| reply.status == 200).count();
        assert!(answers.iter().all(|reply| matches!(reply.status, 200 | 503)), "{answers:?}");
        assert_eq!(world.oauth(&binding.client_id, token, &[]).await.status, 200, "it is itself again");
        assert_eq!(kept.ask(oauth, &asked).await.status, 200, "on that connection, too");
        let list = "query($scope: String!) { listExchanges(scopeMrn: $scope) { totalCount } }";
        let recorded =
            world.graphql(list, json!({ "scope": place.space })).await["listExchanges"]["totalCount"].clone();
        // What was recorded while its answer was lost may be there, too.
        let recorded = usize::try_from(recorded.as_u64().unwrap()).unwrap();
        assert!(recorded > granted, "{recorded} on record, {granted} granted before the last");
    });
}
