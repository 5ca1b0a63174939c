//! Story: several servers on one PostgreSQL, and a PostgreSQL that goes away. PostgreSQL in every run, whatever the run's
//! database is.

use std::time::Duration;

use sallyport_testkit::Postgres;
use serde_json::json;

use crate::support::{World, eventually, run};

/// What domain.md promises between replicas, and a little for this machine.
const SOON: Duration = Duration::from_millis(1_500);

#[test]
fn what_ends_on_one_replica_ends_on_the_other_within_a_second() {
    run(async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(postgres)).await;
        let two = one.replica().await;
        let place = one.place().await;
        let binding = one.binding(&place.space, "replicated", &["viewer"]).await;
        let token = one.token("replicated", &place.space);
        eventually("the binding on the other replica", SOON, async || {
            (two.exchange(&place.space, one.issuer.uri(), &token).await.status == 200).then_some(())
        })
        .await;
        // Keys and credentials are common property.
        let bearer = one.access_token(&binding.client_id, &token).await;
        let document = one.credential(&place.space, &token).await;
        assert_eq!((two.ping(&bearer).await, two.signed_ping(&document).await), (200, 200));
        let keys = |world: &World| world.http.get(format!("{}/auth/v1/jwks", world.server.url)).send();
        let (ours, theirs) =
            (keys(&one).await.unwrap().text().await.unwrap(), keys(&two).await.unwrap().text().await.unwrap());
        assert_eq!(ours, theirs);

        let revoked = one.access_token(&binding.client_id, &token).await;
        one.post_form("/auth/v1/revoke", &[("token", revoked.as_str())], None).await;
        eventually("the revocation", SOON, async || (two.ping(&revoked).await == 401).then_some(())).await;
        assert_eq!(two.ping(&bearer).await, 200);
        one.unbind(&binding.mrn).await;
        eventually("the removal", SOON, async || {
            (two.ping(&bearer).await == 401 && two.signed_ping(&document).await == 401).then_some(())
        })
        .await;
        assert_eq!(two.exchange(&place.space, one.issuer.uri(), &token).await.status, 403);
    });
}

#[test]
fn a_one_time_token_is_good_for_one_exchange_on_all_replicas_together() {
    run(async {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        let one = World::with(|setup| setup.on_postgres(postgres)).await;
        let two = one.replica().await;
        let place = one.place().await;
        let account = one.service_account(&place.space, &["viewer"]).await;
        let input = json!({ "scopeMrn": place.space, "name": "p", "kind": "CUSTOM_OIDC", "issuerUri": one.issuer.uri(), "replay": "ONCE" });
        let provider = one.provider_with(input).await;
        let input =
            json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "subject": "once" });
        let (_, client_id) = one.trust(input).await;
        eventually("the trust on the other replica", SOON, async || {
            (two.oauth(&client_id, &one.token("once", &place.space), &[]).await.status == 200).then_some(())
        })
        .await;
        for round in 0..5 {
            let mut claims = one.claims("once", &place.space);
            claims["round"] = json!(round);
            let token = one.issuer.mint(&claims);
            let (a, b, c, d) = tokio::join!(
                one.oauth(&client_id, &token, &[]),
                two.oauth(&client_id, &token, &[]),
                one.oauth(&client_id, &token, &[]),
                two.oauth(&client_id, &token, &[])
            );
            let mut statuses = [a.status, b.status, c.status, d.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 400, 400, 400], "round {round}");
        }
    });
}

#[test]
fn without_its_database_the_server_says_unavailable_and_recovers() {
    run(async {
        let postgres = Postgres::builder().fsync(false).start().expect("a PostgreSQL server");
        let world = World::with(|setup| setup.on_postgres(&postgres)).await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "outage", &["viewer"]).await;
        let token = world.token("outage", &place.space);
        let bearer = world.access_token(&binding.client_id, &token).await;
        postgres.stop_immediately().expect("stopped");
        // A snapshot that could not be confirmed for a second is not used: nothing is decided on what may be outdated.
        eventually("the API to notice", Duration::from_secs(10), async || {
            (world.ping(&bearer).await == 503).then_some(())
        })
        .await;
        let rpc = world.exchange(&place.space, world.issuer.uri(), &token).await;
        assert_eq!((rpc.status, &rpc.json()["code"]), (503, &json!(14)), "{}", rpc.text());
        rpc.reference();
        let oauth = world.oauth(&binding.client_id, &token, &[]).await;
        assert_eq!((oauth.status, &oauth.json()["error"]), (503, &json!("temporarily_unavailable")));
        let refusal = world.refused("{ viewer { mrn } }", json!({})).await;
        assert_eq!(refusal.code, "UNAVAILABLE", "{refusal:?}");
        let introspection =
            world.post_form("/auth/v1/introspect", &[("token", bearer.as_str())], Some(&world.admin)).await;
        assert_eq!(introspection.status, 503, "{}", introspection.text());
        let ready = world.http.get(format!("{}/readyz", world.server.url)).send().await.unwrap();
        assert_eq!(ready.status(), 503);
        let live = world.http.get(format!("{}/livez", world.server.url)).send().await.unwrap();
        assert_eq!(live.status(), 200, "not ready is not dead");
        postgres.start_again().expect("started");
        eventually("recovery", Duration::from_secs(30), async || (world.ping(&bearer).await == 200).then_some(()))
            .await;
        eventually("exchanges again", Duration::from_secs(30), async || {
            (world.exchange(&place.space, world.issuer.uri(), &token).await.status == 200).then_some(())
        })
        .await;
        world.binding(&place.space, "after the outage", &[]).await;
    });
}
