//! Story: issuers rotate their keys, proxies stand in front, and strangers send floods of invented key ids.

use sallyport_testkit::{Algorithm, Failure, OldKey, Signer};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::support::{Reply, World, claims, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD
        .get_or_init(|| {
            World::with(|setup| {
                setup.set("SALLYPORT_TRUSTED_PROXIES", "127.0.0.0/8,10.9.0.0/16");
            })
        })
        .await
}

#[test]
fn a_rotated_key_works_on_its_first_token() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let issuer = world.another_issuer().await;
        world
            .bind(json!({ "scopeMrn": place.space, "name": "b", "issuerUri": issuer.uri(), "subject": "rotated" }))
            .await;
        let exchange = async || {
            let token = issuer.mint_with(Algorithm::Es256, claims(&issuer, "rotated", &place.space));
            world.exchange(&place.space, issuer.uri(), &token).await.status
        };
        assert_eq!(exchange().await, 200);
        issuer.rotate(Algorithm::Es256, OldKey::Kept);
        assert_eq!(exchange().await, 200);
        issuer.rotate(Algorithm::Es256, OldKey::Withdrawn);
        assert_eq!(exchange().await, 200);
    });
}

#[test]
fn a_withdrawn_key_stops_at_the_next_refresh() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let issuer = world.another_issuer().await;
        world
            .bind(json!({ "scopeMrn": place.space, "name": "b", "issuerUri": issuer.uri(), "subject": "withdrawn" }))
            .await;
        let mint = || issuer.mint_with(Algorithm::Es256, claims(&issuer, "withdrawn", &place.space));
        let old = mint();
        assert_eq!(world.exchange(&place.space, issuer.uri(), &old).await.status, 200);
        issuer.rotate(Algorithm::Es256, OldKey::Withdrawn);
        // The new key's first token is what brings the refresh.
        assert_eq!(world.exchange(&place.space, issuer.uri(), &mint()).await.status, 200);
        assert_eq!(world.exchange(&place.space, issuer.uri(), &old).await.status, 403);
    });
}

#[test]
fn a_flood_of_invented_key_ids_costs_two_fetches() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let issuer = world.another_issuer().await;
        world
            .bind(json!({ "scopeMrn": place.space, "name": "b", "issuerUri": issuer.uri(), "subject": "flood" }))
            .await;
        let honest = claims(&issuer, "flood", &place.space);
        let token = issuer.mint_with(Algorithm::Es256, &honest);
        assert_eq!(world.exchange(&place.space, issuer.uri(), &token).await.status, 200);
        let before = issuer.jwks_fetches();
        for number in 0..40 {
            let header = json!({ "alg": "ES256", "kid": format!("invented-{number}"), "typ": "JWT" });
            let token = issuer.mint_raw(header, honest.to_string().as_bytes(), &Signer::Foreign(Algorithm::Es256));
            assert_eq!(world.exchange(&place.space, issuer.uri(), &token).await.status, 403);
        }
        let fetches = issuer.jwks_fetches() - before;
        assert!((1..=2).contains(&fetches), "{fetches} fetches");
        assert_eq!(world.exchange(&place.space, issuer.uri(), &token).await.status, 200);
    });
}

#[test]
fn good_keys_outlive_an_issuer_that_is_down() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let issuer = world.another_issuer().await;
        world
            .bind(json!({ "scopeMrn": place.space, "name": "b", "issuerUri": issuer.uri(), "subject": "outlive" }))
            .await;
        let honest = claims(&issuer, "outlive", &place.space);
        let token = issuer.mint_with(Algorithm::Es256, &honest);
        assert_eq!(world.exchange(&place.space, issuer.uri(), &token).await.status, 200);
        let header = json!({ "alg": "ES256", "kid": "unknown", "typ": "JWT" });
        let unknown = issuer.mint_raw(header, honest.to_string().as_bytes(), &Signer::Foreign(Algorithm::Es256));
        for failure in [Failure::CloseConnection, Failure::EmptyKeySet, Failure::Garbage] {
            issuer.set_failure(failure.clone());
            // An unknown key id makes the server ask, and be disappointed.
            world.exchange(&place.space, issuer.uri(), &unknown).await;
            assert_eq!(world.exchange(&place.space, issuer.uri(), &token).await.status, 200, "{failure:?}");
        }
    });
}

#[test]
fn nobody_makes_the_server_fetch_what_no_admin_configured() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let stranger = world.another_issuer().await;
        let token = stranger.mint_with(Algorithm::Es256, claims(&stranger, "x", &place.space));
        assert_eq!(world.exchange(&place.space, stranger.uri(), &token).await.status, 403);
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", token.as_str()),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", place.space.as_str()),
        ];
        assert_eq!(world.post_form("/auth/v1/token", &fields, None).await.status, 400);
        assert_eq!(stranger.connections(), 0, "not even a connection");
        // A redirect of a configured one is not followed either.
        let configured = world.another_issuer().await;
        world
            .bind(
                json!({ "scopeMrn": place.space, "name": "b", "issuerUri": configured.uri(), "subject": "redirected" }),
            )
            .await;
        configured.set_failure(Failure::Redirect(stranger.jwks_uri().to_owned()));
        let token = configured.mint_with(Algorithm::Es256, claims(&configured, "redirected", &place.space));
        world.exchange(&place.space, configured.uri(), &token).await;
        assert_eq!(stranger.connections(), 0, "redirects are not followed");
    });
}

#[test]
fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "b", "issuerUri": world.issuer.uri(), "subject": "proxied",
                            "sourceCidrs": ["203.0.113.0/24", "2001:db8::/32"] });
        world.bind(input).await;
        let token = world.token("proxied", &place.space);
        let body = json!({ "audience": place.space, "issuer_uri": world.issuer.uri(), "jwt_token": token }).to_string();
        let cases = [
            (vec![], 403),
            (vec![("x-forwarded-for", "203.0.113.7")], 200),
            (vec![("x-forwarded-for", "203.0.113.7, 10.9.1.1")], 200),
            // The client wrote the first one itself: the last hop that is no proxy counts.
            (vec![("x-forwarded-for", "203.0.113.7, 198.51.100.1")], 403),
            (vec![("x-forwarded-for", "203.0.113.7, 198.51.100.1, 10.9.1.1")], 403),
            (vec![("forwarded", "for=203.0.113.7")], 200),
            (vec![("forwarded", "for=\"[2001:db8::7]:4711\"")], 200),
            (vec![("x-forwarded-for", "garbage")], 403),
            (vec![("x-real-ip", "203.0.113.7")], 403),
        ];
        for (headers, status) in cases {
            let mut request = world.http.post(format!("{}/SecureTokenService/ExchangeExternalToken", world.server.url));
            request = request.header("content-type", "application/json");
            for (name, value) in &headers {
                request = request.header(*name, *value);
            }
            let reply = Reply::to(request.body(body.clone())).await;
            assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        }
        // Without trusted proxies nothing of it is believed.
        let plain = World::new().await;
        let place = plain.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "b", "issuerUri": plain.issuer.uri(), "subject": "proxied", "sourceCidrs": ["203.0.113.0/24"] });
        plain.bind(input).await;
        let body = json!({ "audience": place.space, "issuer_uri": plain.issuer.uri(), "jwt_token": plain.token("proxied", &place.space) });
        let request =
            plain.http.post(format!("{}/SecureTokenService/ExchangeExternalToken", plain.server.url)).json(&body);
        assert_eq!(Reply::to(request.header("x-forwarded-for", "203.0.113.7")).await.status, 403);
    });
}
