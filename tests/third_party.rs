//! Story: an HTTPS issuer that nobody wrote for us. The npm package `oidc-provider` issues tokens; a binding accepts them.

use serde_json::json;

use crate::support::{Node, Reply, World, claims_of, document, form, run};

/// A token for this resource, by client_credentials.
async fn token(client: &reqwest::Client, issuer: &str, resource: &str) -> String {
    let fields = [("grant_type", "client_credentials"), ("scope", "deploy"), ("resource", resource)];
    let request = client.post(format!("{issuer}/token")).body(form(&fields));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let reply = Reply::to(request.basic_auth("ci-job", Some("a%20secret%20of%20the%20CI%20platform"))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["access_token"].as_str().expect("a token").to_owned()
}

#[test]
fn tokens_of_an_issuer_nobody_wrote_for_us_are_exchanged() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = world.authority.issue_server(&["127.0.0.1"]).unwrap().write(folder.path()).unwrap();
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let provider = Node::start("provider.mjs", &[&certificate, &key]);
        let issuer = provider.first_line.as_str();
        let client = World::client_trusting(world.authority.ca_pem());

        let binding = world
            .bind(json!({ "scopeMrn": place.space, "name": "oidc-provider", "issuerUri": issuer, "subject": "ci-job",
                          "mappings": [{ "key": "jwt_claims.project", "value": "shop" }, { "key": "jwt_claims.protected", "value": "true" }],
                          "condition": "claims.client_id == 'ci-job' && claims.scope == 'deploy'" }))
            .await;
        let token_for_us = token(&client, issuer, &world.server.url).await;
        assert_eq!(claims_of(&token_for_us)["iss"], json!(issuer));
        let reply = world.exchange(&place.space, issuer, &token_for_us).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(world.signed_ping(&document(&reply)).await, 200);
        let bearer = world.access_token(&binding.client_id, &token_for_us).await;
        assert_eq!(claims_of(&bearer)["wif"]["issuer"], json!(issuer));
        assert_eq!(world.ping(&bearer).await, 200);

        let for_another = token(&client, issuer, "https://another.service.example").await;
        let reply = world.exchange(&place.space, issuer, &for_another).await;
        assert_eq!((reply.status, &reply.json()["code"]), (401, &json!(16)), "{}", reply.text());
        // The same rule as a trust of a provider that was checked at save.
        let elsewhere = world.place().await;
        let account = world.service_account(&elsewhere.space, &["viewer"]).await;
        let provider = world.provider(&elsewhere.space, issuer).await;
        let input =
            json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "ci-job" });
        let (_, client_id) = world.trust(input).await;
        world.access_token(&client_id, &token_for_us).await;
    });
}
