//! Keys from a live issuer: honest, rotating, flooding, failing. The issuer is the testkit's, over real TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers outside test functions may fail a test too")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_domain::decision::{CheckName, Refusal};
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::provider::{KeySource, Provider, ReplayPolicy};
use sallyport_identity::{IssuerProblem, UnverifiedJwt, Verifier};
use sallyport_testkit::{Algorithm, Endpoint, Failure, Issuer, OldKey, Signer};
use serde_json::{Value, json};
use support::{NOW, World, admit, claims, parse, provider, provider_of, reason};

fn token(issuer: &Issuer) -> String {
    issuer.mint(claims(issuer.uri()))
}

fn token_with_kid(issuer: &Issuer, kid: &str) -> UnverifiedJwt {
    let mut header = issuer.header(Algorithm::Rs256);
    header["kid"] = json!(kid);
    parse(&issuer.mint_raw(header, claims(issuer.uri()).to_string().as_bytes(), &Signer::Current(Algorithm::Rs256)))
}

#[tokio::test]
async fn every_accepted_algorithm_verifies_by_discovery() {
    let world = World::new();
    let issuer =
        Issuer::builder().host("ci.example.test").algorithms(&Algorithm::ALL).start(&world.authority).await.unwrap();
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    for algorithm in Algorithm::ALL {
        let jwt = parse(&issuer.mint_with(algorithm, claims(issuer.uri())));
        let verification = verifier.verify_jwt(&jwt, &provider).await;
        let names: Vec<CheckName> = verification.checks.iter().map(|check| check.name).collect();
        assert_eq!(names, [CheckName::Issuer, CheckName::Signature, CheckName::Algorithm]);
        let verified = verification.outcome.unwrap();
        assert_eq!(verified.identity().issuer, issuer.uri());
        assert_eq!(verified.identity().audiences, ["sallyport"]);
        assert_eq!(verified.token_hash(), jwt.token_hash());
        let foreign = parse(&issuer.sign_with_foreign_key(algorithm, claims(issuer.uri())));
        assert_eq!(verifier.verify_jwt(&foreign, &provider).await.outcome.map(drop), Err(Refusal::Denied));
    }
    assert_eq!((issuer.discovery_fetches(), issuer.jwks_fetches()), (1, 1));
}

#[tokio::test]
async fn a_token_of_another_issuer_costs_no_fetch() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let mut claims = claims("https://other.example");
    claims["sub"] = json!("x");
    let verification = verifier.verify_jwt(&parse(&issuer.mint(claims)), &provider_of(&issuer)).await;
    assert_eq!(reason(&verification).0, CheckName::Issuer);
    assert_eq!(issuer.connections(), 0);
}

#[tokio::test]
async fn a_rotated_key_works_on_its_first_token() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Ok(()));
    issuer.rotate(Algorithm::Rs256, OldKey::Kept);
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Ok(()));
    assert_eq!(issuer.jwks_fetches(), 2);
}

#[tokio::test]
async fn a_withdrawn_key_stops_working_at_the_next_refresh() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    let old = token(&issuer);
    assert_eq!(admit(&verifier, &provider, &old).await, Ok(()));
    issuer.rotate(Algorithm::Rs256, OldKey::Withdrawn);
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Ok(()), "the refresh");
    assert_eq!(admit(&verifier, &provider, &old).await, Err(Refusal::Denied));
}

#[tokio::test]
async fn a_withdrawn_key_of_an_idle_provider_does_not_pass_once_more() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    let old = token(&issuer);
    assert_eq!(admit(&verifier, &provider, &old).await, Ok(()));
    issuer.rotate(Algorithm::Rs256, OldKey::Withdrawn);
    world.clock.advance(301);
    let verification = verifier.verify_jwt(&parse(&old), &provider).await;
    assert_eq!(verification.outcome.map(drop), Err(Refusal::Denied));
}

#[tokio::test]
async fn a_flood_of_unknown_key_ids_costs_two_fetches() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = Arc::new(world.verifier(&[&issuer]));
    let provider = provider_of(&issuer);
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Ok(()));
    let flood: Vec<_> = (0..200)
        .map(|n| {
            let (verifier, provider) = (Arc::clone(&verifier), Arc::clone(&provider));
            let jwt = token_with_kid(&issuer, &format!("invented-{n}"));
            tokio::spawn(async move { verifier.verify_jwt(&jwt, &provider).await.outcome.map(drop) })
        })
        .collect();
    for one in flood {
        assert_eq!(one.await.unwrap(), Err(Refusal::Denied));
    }
    assert_eq!(issuer.jwks_fetches(), 1 + 2);
    // Known keys are served all the while, and 30 s later there is one more.
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Ok(()));
    let verification = verifier.verify_jwt(&token_with_kid(&issuer, "invented"), &provider).await;
    assert!(reason(&verification).1.contains("within 30 s"), "{:?}", verification.checks);
    world.clock.advance(30);
    for _ in 0..3 {
        let _ = verifier.verify_jwt(&token_with_kid(&issuer, "invented"), &provider).await;
    }
    assert_eq!(issuer.jwks_fetches(), 1 + 3);
}

#[tokio::test]
async fn an_unknown_key_is_unavailable_while_the_issuer_cannot_be_asked_and_denied_once_it_was() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    let old = token(&issuer);
    assert_eq!(admit(&verifier, &provider, &old).await, Ok(()));
    let invented = async || verifier.verify_jwt(&token_with_kid(&issuer, "invented"), &provider).await;
    issuer.rotate(Algorithm::Rs256, OldKey::Kept);
    for failure in [Failure::CloseConnection, Failure::Status(503), Failure::Status(429), Failure::Hang] {
        issuer.set_failure_at(Endpoint::Jwks, failure.clone());
        let fetches = issuer.jwks_fetches();
        // The allowance's two fetches, at most one in the background, then what the last of them said, without asking again.
        for _ in 0..5 {
            let verification = verifier.verify_jwt(&parse(&token(&issuer)), &provider).await;
            assert!(reason(&verification).1.contains("could not be refreshed"), "{:?}", verification.checks);
            assert_eq!(verification.outcome.map(drop), Err(Refusal::Unavailable), "{failure:?}");
        }
        assert!(issuer.jwks_fetches() <= fetches + 3, "{failure:?}");
        assert_eq!(admit(&verifier, &provider, &old).await, Ok(()), "the keys at hand serve on");
        world.clock.advance(60);
    }
    // An issuer that answers wrongly is refused, as on the first load.
    issuer.set_failure_at(Endpoint::Jwks, Failure::Garbage);
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Err(Refusal::Denied));
    world.clock.advance(60);
    // An issuer that was asked and does not have the key is believed, for as long as it is not asked again.
    issuer.set_failure(Failure::None);
    assert_eq!(admit(&verifier, &provider, &token(&issuer)).await, Ok(()));
    for _ in 0..2 {
        assert_eq!(invented().await.outcome.map(drop), Err(Refusal::Denied));
    }
    issuer.set_failure(Failure::CloseConnection);
    assert_eq!(invented().await.outcome.map(drop), Err(Refusal::Denied));
}

#[tokio::test]
async fn many_tokens_at_once_share_the_first_load() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = Arc::new(world.verifier(&[&issuer]));
    let provider = provider_of(&issuer);
    let token = token(&issuer);
    let all: Vec<_> = (0..50)
        .map(|_| {
            let (verifier, provider, token) = (Arc::clone(&verifier), Arc::clone(&provider), token.clone());
            tokio::spawn(async move { admit(&verifier, &provider, &token).await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    assert_eq!(issuer.jwks_fetches(), 1);
}

#[tokio::test]
async fn good_keys_outlive_a_failing_or_empty_issuer_for_a_day() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    let jwt = parse(&token(&issuer));
    assert!(verifier.verify_jwt(&jwt, &provider).await.outcome.is_ok());
    for failure in [Failure::EmptyKeySet, Failure::Garbage, Failure::Status(500), Failure::Oversized] {
        issuer.set_failure_at(Endpoint::Jwks, failure.clone());
        world.clock.advance(3 * 3_600);
        let fetches = issuer.jwks_fetches();
        assert!(verifier.verify_jwt(&jwt, &provider).await.outcome.is_ok(), "{failure:?}");
        wait_for(|| issuer.jwks_fetches() > fetches).await;
    }
    // After a day without a good answer: what answers wrongly is refused like an issuer that nobody configured.
    world.clock.advance(12 * 3_600);
    assert_eq!(verifier.verify_jwt(&jwt, &provider).await.outcome.map(drop), Err(Refusal::Denied));
    issuer.set_failure(Failure::None);
    assert!(verifier.verify_jwt(&jwt, &provider).await.outcome.is_ok());
}

#[tokio::test]
async fn keys_are_refreshed_in_the_background_before_they_expire() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    let jwt = parse(&token(&issuer));
    assert!(verifier.verify_jwt(&jwt, &provider).await.outcome.is_ok());
    world.clock.advance(239);
    assert!(verifier.verify_jwt(&jwt, &provider).await.outcome.is_ok());
    assert_eq!(issuer.jwks_fetches(), 1);
    world.clock.advance(2);
    assert!(verifier.verify_jwt(&jwt, &provider).await.outcome.is_ok());
    wait_for(|| issuer.jwks_fetches() == 2).await;
    assert_eq!(issuer.discovery_fetches(), 1, "where the keys are is not asked each time");
}

#[tokio::test]
async fn a_stuck_issuer_does_not_hold_up_tokens_whose_keys_are_cached() {
    let world = World::new();
    let (stuck, other) =
        (world.issuer().await, Issuer::builder().host("other.example.test").start(&world.authority).await.unwrap());
    let verifier = world.verifier(&[&stuck, &other]);
    let (stuck_provider, mut other_provider) = (provider_of(&stuck), provider(other.uri()));
    other_provider.id = sallyport_domain::id::ProviderId(uuid::Uuid::from_u128(8));
    let other_provider = Arc::new(other_provider);
    assert_eq!(admit(&verifier, &stuck_provider, &token(&stuck)).await, Ok(()));
    stuck.set_failure(Failure::Hang);
    // An unknown key makes one wait, and nobody else.
    let unknown = token_with_kid(&stuck, "unknown");
    let known = parse(&token(&stuck));
    let begun = Instant::now();
    let (slow, quick) = tokio::join!(verifier.verify_jwt(&unknown, &stuck_provider), async {
        let verified = verifier.verify_jwt(&known, &stuck_provider).await.outcome.is_ok();
        let elsewhere = admit(&verifier, &other_provider, &token(&other)).await;
        (verified, elsewhere, begun.elapsed())
    });
    assert_eq!(slow.outcome.map(drop), Err(Refusal::Unavailable));
    assert!(quick.0);
    assert_eq!(quick.1, Ok(()));
    assert!(quick.2 < Duration::from_millis(1_000), "{:?}", quick.2);
    // Overdue keys: the first token waits a moment, then the old keys serve on without waiting.
    world.clock.advance(600);
    assert!(verifier.verify_jwt(&known, &stuck_provider).await.outcome.is_ok());
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(verifier.verify_jwt(&known, &stuck_provider).await.outcome.is_ok());
    }
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_issuer_that_cannot_be_reached_is_unavailable_one_that_answers_wrongly_is_refused_and_only_admins_learn_why()
{
    let world = World::new();
    let issuer = world.issuer().await;
    let provider = provider_of(&issuer);
    for (failure, says) in [
        (Failure::Hang, "in time"),
        (Failure::Trickle, "in time"),
        (Failure::Garbage, "not acceptable JSON"),
        (Failure::Redirect("https://evil.example/".into()), "status 302"),
        (Failure::Oversized, "longer than 256 KiB"),
        (Failure::Status(500), "status 500"),
        (Failure::CloseConnection, "cannot be reached"),
    ] {
        for endpoint in [Endpoint::Discovery, Endpoint::Jwks] {
            issuer.set_failure(Failure::None);
            issuer.set_failure_at(endpoint, failure.clone());
            let verifier = world.verifier(&[&issuer]);
            let verification = verifier.verify_jwt(&parse(&token(&issuer)), &provider).await;
            let (name, detail) = reason(&verification);
            assert_eq!(name, CheckName::Signature);
            assert!(detail.contains(says), "{failure:?}: {detail}");
            assert!(!detail.contains("told to fail") && !detail.contains("html"), "{detail}");
            let wrong = matches!(failure, Failure::Garbage | Failure::Redirect(_) | Failure::Oversized);
            let refusal = if wrong { Refusal::Denied } else { Refusal::Unavailable };
            assert_eq!(verification.outcome.map(drop), Err(refusal), "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_dead_issuer_is_not_asked_for_every_token() {
    let world = World::new();
    let issuer = world.issuer().await;
    issuer.set_failure(Failure::Status(500));
    let verifier = world.verifier(&[&issuer]);
    for _ in 0..50 {
        assert_eq!(admit(&verifier, &provider_of(&issuer), &token(&issuer)).await, Err(Refusal::Unavailable));
    }
    assert_eq!(issuer.discovery_fetches(), 5);
    issuer.set_failure(Failure::None);
    world.clock.advance(1);
    assert_eq!(admit(&verifier, &provider_of(&issuer), &token(&issuer)).await, Ok(()));
}

#[tokio::test]
async fn tls_must_be_for_the_host_and_from_a_trusted_authority() {
    let world = World::new();
    let elsewhere = World::new();
    let wrong_name = Issuer::builder()
        .host("ci.example.test")
        .certificate_names(&["other.example.test"])
        .start(&world.authority)
        .await
        .unwrap();
    let stranger = elsewhere.issuer().await;
    for (issuer, says) in [(&wrong_name, "for another host"), (&stranger, "not from a trusted authority")] {
        let verification = world.verifier(&[issuer]).verify_jwt(&parse(&token(issuer)), &provider_of(issuer)).await;
        assert!(reason(&verification).1.contains(says), "{:?}", verification.checks);
        assert_eq!(verification.outcome.map(drop), Err(Refusal::Unavailable));
    }
}

#[tokio::test]
async fn a_private_address_is_refused_wherever_a_document_leads_to_it() {
    let world = World::new();
    let issuer = world.issuer().await;
    // The issuer itself may be reached; what its discovery document names may not.
    let verifier =
        Verifier::new(world.outbound(&[issuer.resolve_entry()], issuer.host_and_port()), world.clock.clone());
    for (jwks_uri, says) in [
        (format!("https://127.0.0.1:{}/jwks", issuer.address().port()), "loopback"),
        (format!("https://localhost:{}/jwks", issuer.address().port()), "loopback"),
        ("https://169.254.169.254/latest/meta-data/".into(), "metadata"),
        ("https://[::ffff:a00:1]/jwks".into(), "private"),
        ("http://ci.example.test/jwks".into(), "https"),
        ("file:///etc/passwd".into(), "https"),
    ] {
        let mut document = issuer.discovery();
        document["jwks_uri"] = json!(jwks_uri);
        issuer.set_discovery_override(Some(document));
        let problem = verifier.check_issuer(&provider(issuer.uri())).await.unwrap_err();
        assert!(problem.to_string().contains(says), "{jwks_uri}: {problem}");
        assert_eq!(
            verifier.verify_jwt(&parse(&token(&issuer)), &provider_of(&issuer)).await.outcome.map(drop),
            Err(Refusal::Denied)
        );
        verifier.forget(provider(issuer.uri()).id);
    }
    assert_eq!(issuer.jwks_fetches(), 0);
}

#[tokio::test]
async fn an_issuer_is_checked_while_the_admin_waits_and_the_answer_says_which_member() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let good = provider(issuer.uri());
    verifier.check_issuer(&good).await.unwrap();

    let wrong = |problem: IssuerProblem, says: &str| {
        assert!(matches!(&problem, IssuerProblem::Wrong(text) if text.contains(says)), "{says}: {problem:?}");
    };
    for member in [
        "issuer",
        "jwks_uri",
        "response_types_supported",
        "subject_types_supported",
        "id_token_signing_alg_values_supported",
    ] {
        for bad in [None, Some(json!(7)), Some(json!("")), Some(json!([]))] {
            let mut document = issuer.discovery();
            match bad {
                Some(value) => document[member] = value,
                None => drop(document.as_object_mut().unwrap().shift_remove(member)),
            }
            issuer.set_discovery_override(Some(document));
            wrong(verifier.check_issuer(&good).await.unwrap_err(), &format!("'{member}'"));
        }
    }
    for other in ["https://evil.example", &format!("{}/x", issuer.uri()), &format!("{}//", issuer.uri())] {
        let mut document = issuer.discovery();
        document["issuer"] = json!(other);
        issuer.set_discovery_override(Some(document));
        wrong(verifier.check_issuer(&good).await.unwrap_err(), "'issuer' is");
    }
    let mut document = issuer.discovery();
    document["issuer"] = json!(format!("{}/", issuer.uri()));
    issuer.set_discovery_override(Some(document));
    verifier.check_issuer(&good).await.expect("one trailing slash is no difference");
    issuer.set_discovery_override(None);

    for (keys, says) in [
        (json!({}), "'keys'"),
        (json!({"keys": []}), "no key"),
        (json!({"keys": [{"kty": "oct", "k": "AA"}]}), "no key"),
        (json!({"keys": "x"}), "'keys'"),
    ] {
        issuer.set_jwks_override(Some(keys));
        wrong(verifier.check_issuer(&good).await.unwrap_err(), says);
    }
    issuer.set_jwks_override(None);
    let only = Provider { algorithms: vec![sallyport_domain::provider::Algorithm::PS512], ..good.clone() };
    wrong(verifier.check_issuer(&only).await.unwrap_err(), "algorithms");
    let by_url = Provider { keys: KeySource::Url(issuer.jwks_uri().into()), ..good.clone() };
    verifier.check_issuer(&by_url).await.unwrap();

    issuer.set_failure(Failure::Status(404));
    wrong(verifier.check_issuer(&good).await.unwrap_err(), "404");
    issuer.set_failure(Failure::Redirect("https://ci.example.test/x".into()));
    wrong(verifier.check_issuer(&good).await.unwrap_err(), "redirects");
    for failure in [Failure::Status(503), Failure::Hang, Failure::CloseConnection] {
        issuer.set_failure(failure);
        let problem = verifier.check_issuer(&good).await.unwrap_err();
        assert!(matches!(problem, IssuerProblem::Unreachable(_)), "{problem:?}");
    }
    let forbidden = Provider { issuer: IssuerUri::stored("https://10.0.0.1"), ..good };
    let problem = verifier.check_issuer(&forbidden).await.unwrap_err();
    assert!(matches!(problem, IssuerProblem::RuleBroken(_)), "{problem:?}");
}

#[tokio::test]
async fn uploaded_key_sets_with_secrets_or_weak_keys_are_refused_with_a_reason() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[]);
    let check = async |keys: Value| {
        let keys = KeySource::Uploaded(keys.to_string().into());
        verifier.check_issuer(&Provider { keys, ..provider(issuer.uri()) }).await
    };
    let good = issuer.jwks();
    check(good.clone()).await.unwrap();
    let rsa = good["keys"][0].clone();
    let ec = good["keys"][1].clone();
    let change = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        json!({"keys": [key]})
    };
    for (keys, says) in [
        (change(&rsa, "d", json!("AQAB")), "private"),
        (change(&rsa, "p", json!("AQAB")), "private"),
        (change(&ec, "d", json!("AQAB")), "private"),
        (json!({"keys": [{"kty": "oct", "k": "AAAA"}]}), "symmetric"),
        (json!({"keys": [{"kty": "oct"}]}), "symmetric"),
        (change(&rsa, "n", json!("AQAB")), "2048"),
        (change(&rsa, "e", json!("AQ")), "exponent"),
        (change(&rsa, "e", json!("Ag")), "exponent"),
        (change(&rsa, "e", json!("")), "exponent"),
        (change(&ec, "x", json!("AAAA")), "32 bytes"),
        (change(&ec, "x", ec["y"].clone()), "curve"),
        (change(&ec, "alg", json!("RS256")), "contradict"),
        (change(&rsa, "alg", json!("ES256")), "RSA"),
        (change(&rsa, "use", json!("enc")), "no key"),
        (change(&rsa, "use", json!("x509-svid")), "no key"),
        (change(&rsa, "key_ops", json!(["encrypt"])), "no key"),
        (change(&rsa, "kid", json!(1)), "'kid'"),
        (json!({"keys": []}), "no key"),
        (json!([]), "object"),
    ] {
        let problem = check(keys).await.unwrap_err();
        assert!(problem.to_string().contains(says), "{says}: {problem}");
    }
    // The same in an issuer's set is left out, and the good keys beside it work.
    let mut fetched = good;
    let secret = change(&rsa, "d", json!("AQAB"))["keys"][0].clone();
    fetched["keys"].as_array_mut().unwrap().splice(0..0, [secret, json!({"kty": "oct", "k": "AA"}), json!(1)]);
    issuer.set_jwks_override(Some(fetched));
    let verifier = world.verifier(&[&issuer]);
    assert_eq!(admit(&verifier, &provider_of(&issuer), &token(&issuer)).await, Ok(()));
}

#[tokio::test]
async fn keys_are_cached_by_provider_and_version_never_by_kid_alone() {
    let world = World::new();
    let (ours, theirs) =
        (world.issuer().await, Issuer::builder().host("evil.example.test").start(&world.authority).await.unwrap());
    let verifier = world.verifier(&[&ours, &theirs]);
    let provider_one = provider_of(&ours);
    assert_eq!(admit(&verifier, &provider_one, &token(&ours)).await, Ok(()));
    // Another issuer signs under our key's id, in our name, and is known to the cache.
    let mut other = provider(theirs.uri());
    other.id = sallyport_domain::id::ProviderId(uuid::Uuid::from_u128(9));
    let mut keys = theirs.jwks();
    keys["keys"][0]["kid"] = json!(ours.kid(Algorithm::Rs256));
    theirs.set_jwks_override(Some(keys));
    let header = ours.header(Algorithm::Rs256);
    let forge =
        |iss: &str| theirs.mint_raw(&header, claims(iss).to_string().as_bytes(), &Signer::Current(Algorithm::Rs256));
    assert_eq!(admit(&verifier, &Arc::new(other), &forge(theirs.uri())).await, Ok(()));
    assert_eq!(admit(&verifier, &provider_one, &forge(ours.uri())).await, Err(Refusal::Denied));
    // A new version starts anew.
    let next = Arc::new(Provider { version: 2, ..provider(ours.uri()) });
    let fetches = ours.jwks_fetches();
    assert_eq!(admit(&verifier, &next, &token(&ours)).await, Ok(()));
    assert_eq!(ours.jwks_fetches(), fetches + 1);
}

#[tokio::test]
async fn a_use_of_a_token_is_named_by_what_cannot_be_altered() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[&issuer]);
    let provider = provider_of(&issuer);
    let verified = async |token: &str| verifier.verify_jwt(&parse(token), &provider).await.outcome.unwrap();
    let claims_one = claims(issuer.uri());
    // ECDSA: two signatures of one message differ.
    let one = verified(&issuer.mint_with(Algorithm::Es256, &claims_one)).await;
    let two = verified(&issuer.mint_with(Algorithm::Es256, &claims_one)).await;
    assert_ne!(one.token_hash(), two.token_hash());
    assert_eq!(one.replay_fingerprint(ReplayPolicy::Once), two.replay_fingerprint(ReplayPolicy::Once));
    assert_eq!(one.replay_fingerprint(ReplayPolicy::Allow), None);
    let key = one.replay_fingerprint(ReplayPolicy::OnceIfJti).unwrap();
    assert_eq!(key.provider, provider.id);
    assert_eq!(key.until.seconds(), NOW + 600 + 30);
    let mut other = claims_one.clone();
    other["jti"] = json!("two");
    let three = verified(&issuer.mint(&other)).await;
    assert_ne!(three.replay_fingerprint(ReplayPolicy::OnceIfJti), Some(key));
    other.as_object_mut().unwrap().shift_remove("jti");
    let four = verified(&issuer.mint(&other)).await;
    assert_eq!(four.replay_fingerprint(ReplayPolicy::OnceIfJti), None);
    assert!(four.replay_fingerprint(ReplayPolicy::Once).is_some());
}

/// Lets background tasks run until `held`; gives up after a minute.
async fn wait_for(held: impl Fn() -> bool) {
    let begun = Instant::now();
    while !held() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never happened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
