//! Story: access ends, for one credential or for all of a thing, and stays ended for as long as the admin says.

use serde_json::{Value, json};

use crate::support::{Ping, World, claims_of, run, sign};

async fn world() -> &'static World {
    static WORLD: tokio::sync::OnceCell<World> = tokio::sync::OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// Two subjects of one provider, each with its trust, in one space.
struct Pair {
    space: String,
    provider: String,
    account: String,
    /// The account's own, not of an exchange.
    standing: Value,
    trust: String,
    client: [String; 2],
}

/// One credential of each sort.
struct Held {
    bearer: String,
    document: Value,
}

impl Pair {
    async fn new(world: &World) -> Self {
        let space = world.place().await.space;
        let provider = world.provider(&space, world.issuer.uri()).await;
        let made = world.service_account(&space, &["viewer"]).await;
        let account = made["mrn"].as_str().unwrap().to_owned();
        let standing = json!({ "mrn": account, "private_key": made["privateKey"] });
        let trust = async |subject: &str| {
            let input =
                json!({ "serviceAccountMrn": account, "providerMrn": provider, "name": subject, "subject": subject });
            world.trust(input).await
        };
        let ((first, a), (_, b)) = (trust("one").await, trust("two").await);
        Self { space, provider, account, standing, trust: first, client: [a, b] }
    }

    async fn held(&self, world: &World, subject: usize) -> Held {
        let token = world.token(["one", "two"][subject], &self.space);
        let bearer = world.access_token(&self.client[subject], &token).await;
        Held { bearer, document: world.credential(&self.space, &token).await }
    }

    /// The statuses of both doors for a new exchange.
    async fn exchange(&self, world: &World, subject: usize) -> (u16, u16) {
        let token = world.token(["one", "two"][subject], &self.space);
        let rpc = world.exchange(&self.space, world.issuer.uri(), &token).await.status;
        (rpc, world.oauth(&self.client[subject], &token, &[]).await.status)
    }
}

impl Held {
    /// What the API answers to the bearer and to the key pair.
    async fn ping(&self, world: &World) -> (u16, u16) {
        (world.ping(&self.bearer).await, world.signed_ping(&self.document).await)
    }
}

const REVOKE: &str =
    "mutation($mrn: String!, $subject: String) { revokeCredentials(mrn: $mrn, subject: $subject) { mrn } }";
const GOOD: (u16, u16) = (200, 200);
const ENDED: (u16, u16) = (401, 401);

#[test]
fn everything_of_a_credential_a_trust_an_account_a_provider_or_a_subject_ends_at_once() {
    run(async {
        let world = world().await;
        let pair = Pair::new(world).await;
        // What is revoked, and whether the second subject's credentials end with it.
        let of_subject = (json!({ "mrn": pair.provider, "subject": "one" }), false);
        let of_trust = (json!({ "mrn": pair.trust }), false);
        let of_provider = (json!({ "mrn": pair.provider }), true);
        let of_account = (json!({ "mrn": pair.account }), true);
        for (what, both) in [of_subject, of_trust, of_provider, of_account] {
            let (one, two) = (pair.held(world, 0).await, pair.held(world, 1).await);
            assert_eq!((one.ping(world).await, two.ping(world).await), (GOOD, GOOD), "before: {what}");
            world.graphql(REVOKE, what.clone()).await;
            assert_eq!(one.ping(world).await, ENDED, "{what}");
            assert_eq!(two.ping(world).await, if both { ENDED } else { GOOD }, "{what}");
            // What is issued afterwards lives, even within the same second.
            assert_eq!(pair.held(world, 0).await.ping(world).await, GOOD, "after: {what}");
            assert_eq!(
                world.signed_ping(&pair.standing).await,
                200,
                "a standing key is no credential of an exchange: {what}"
            );
        }
    });
}

#[test]
fn a_disabled_subject_gets_nothing_and_uses_nothing_until_it_is_enabled_again() {
    run(async {
        let world = world().await;
        let pair = Pair::new(world).await;
        let update = "mutation($p: String!, $off: Boolean!) { updateWIFSubject(input: {providerMrn: $p, subject: \"one\", disabled: $off}) { subject { subject disabled updatedBy } } }";
        let (one, two) = (pair.held(world, 0).await, pair.held(world, 1).await);
        let done = world.graphql(update, json!({ "p": pair.provider, "off": true })).await;
        assert_eq!(done["updateWIFSubject"]["subject"]["disabled"], json!(true), "{done}");
        assert_eq!((one.ping(world).await, two.ping(world).await), (ENDED, GOOD));
        assert_eq!((pair.exchange(world, 0).await, pair.exchange(world, 1).await), ((403, 400), GOOD));
        let list =
            "query($p: String!) { listWIFSubjects(providerMrn: $p) { subjects { subject disabled } totalCount } }";
        let listed = world.graphql(list, json!({ "p": pair.provider })).await;
        let expected = json!({ "subjects": [{ "subject": "one", "disabled": true }], "totalCount": 1 });
        assert_eq!(listed["listWIFSubjects"], expected);
        // The admin sees why.
        let refused = "query($s: String!) { listExchanges(scopeMrn: $s, granted: false, first: 1) { exchanges { reason checks { name outcome actual } } } }";
        let refused = world.graphql(refused, json!({ "s": pair.space })).await;
        let exchange = &refused["listExchanges"]["exchanges"][0];
        assert_eq!(exchange["reason"], "enabled", "{exchange}");
        let why =
            json!({ "name": "enabled", "outcome": "FAILED", "actual": "the subject is disabled at the provider" });
        assert!(exchange["checks"].as_array().unwrap().contains(&why), "{exchange}");

        world.graphql(update, json!({ "p": pair.provider, "off": false })).await;
        assert_eq!((one.ping(world).await, pair.exchange(world, 0).await), (GOOD, GOOD), "suspended, not ended");
        // Revoking does not enable, nor enabling revive.
        world.graphql(update, json!({ "p": pair.provider, "off": true })).await;
        world.graphql(REVOKE, json!({ "mrn": pair.provider, "subject": "one" })).await;
        assert_eq!(pair.exchange(world, 0).await, (403, 400));
        world.graphql(update, json!({ "p": pair.provider, "off": false })).await;
        assert_eq!((one.ping(world).await, pair.exchange(world, 0).await), (ENDED, GOOD));
    });
}

#[test]
fn a_subject_is_named_with_its_provider() {
    run(async {
        let world = world().await;
        let pair = Pair::new(world).await;
        let refusal = world.refused(REVOKE, json!({ "mrn": pair.trust, "subject": "one" })).await;
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", "subject"));
        let refusal = world.refused(REVOKE, json!({ "mrn": pair.provider, "subject": "" })).await;
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", "subject"));
        // At another tenant's provider there is nothing to be done, nor to be seen.
        let stranger = world.api_token(&world.place().await.space, &["owner"]).await;
        let update = "mutation($p: String!) { updateWIFSubject(input: {providerMrn: $p, subject: \"one\", disabled: true}) { subject { subject } } }";
        let list = "query($p: String!) { listWIFSubjects(providerMrn: $p) { totalCount } }";
        for (document, variables) in [
            (update, json!({ "p": pair.provider })),
            (list, json!({ "p": pair.provider })),
            (REVOKE, json!({ "mrn": pair.provider })),
        ] {
            assert_eq!(world.refused_as(Some(&stranger), document, &variables).await.code, "NOT_FOUND", "{document}");
        }
    });
}

#[test]
fn key_pairs_and_access_tokens_are_introspected_and_revoked_alike() {
    run(async {
        let world = world().await;
        let pair = Pair::new(world).await;
        let reader = world.api_token(&pair.space, &["viewer"]).await;
        let introspect = async |token: &str| {
            let reply = world.post_form("/auth/v1/introspect", &[("token", token)], Some(&reader)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()
        };
        let inactive = json!({ "active": false });
        let held = pair.held(world, 0).await;
        let mrn = held.document["mrn"].as_str().unwrap().to_owned();
        let id = mrn.rsplit('/').next().unwrap().to_owned();
        let signed = sign(&held.document, Ping::NoHash);
        for token in [&mrn, &signed] {
            let description = introspect(token).await;
            assert_eq!(
                (&description["active"], &description["sub"], &description["jti"], &description["client_id"]),
                (&json!(true), &json!(pair.account), &json!(id), &json!(pair.client[0])),
                "{description}"
            );
            assert!(description.get("token_type").is_none(), "a key pair is no bearer: {description}");
            assert!(description["exp"].as_i64() > description["iat"].as_i64(), "{description}");
        }
        let claims = claims_of(&held.bearer);
        let description = introspect(&held.bearer).await;
        for name in ["sub", "iss", "aud", "exp", "iat", "jti", "client_id", "scope"] {
            assert_eq!(description[name], claims[name], "{name}");
        }
        assert_eq!(description["token_type"], "Bearer");
        // By possession.
        assert_eq!(world.post_form("/auth/v1/revoke", &[("token", signed.as_str())], None).await.status, 200);
        assert_eq!(held.ping(world).await, (200, 401), "one credential, not its neighbour");
        for token in [&mrn, &sign(&held.document, Ping::NoHash)] {
            assert_eq!(introspect(token).await, inactive);
        }
        // A suspended token is revoked all the same: it does not come back with its trust.
        let off = "mutation($mrn: String!, $off: Boolean) { updateWIFTrust(input: {mrn: $mrn, disabled: $off}) { trust { mrn } } }";
        world.graphql(off, json!({ "mrn": pair.trust, "off": true })).await;
        assert_eq!(introspect(&held.bearer).await, inactive);
        assert_eq!(world.post_form("/auth/v1/revoke", &[("token", held.bearer.as_str())], None).await.status, 200);
        world.graphql(off, json!({ "mrn": pair.trust, "off": false })).await;
        assert_eq!(held.ping(world).await, ENDED);
        // By name, with an admin's right; without it nothing happens, and nothing is said.
        let held = pair.held(world, 0).await;
        let mrn = held.document["mrn"].as_str().unwrap();
        assert_eq!(world.post_form("/auth/v1/revoke", &[("token", mrn)], Some(&reader)).await.status, 200);
        assert_eq!(held.ping(world).await, GOOD);
        let owner = world.api_token(&pair.space, &["owner"]).await;
        assert_eq!(world.post_form("/auth/v1/revoke", &[("token", mrn)], Some(&owner)).await.status, 200);
        assert_eq!(held.ping(world).await, (200, 401));
    });
}
