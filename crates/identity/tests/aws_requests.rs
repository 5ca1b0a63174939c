//! Pre-signed AWS requests against the testkit's STS, which checks every signature.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers outside test functions may fail a test too")]

mod support;

use std::sync::Arc;

use sallyport_domain::clock::Clock as _;
use sallyport_domain::decision::{CheckName, Refusal};
use sallyport_domain::provider::{KeySource, Provider, ProviderKind, ReplayPolicy};
use sallyport_identity::{SignedRequest, Verification, Verifier};
use sallyport_testkit::sts::Answer;
use sallyport_testkit::{AccessKey, CallerIdentity, Failure, PresignOptions, Sts, presign};
use support::{NOW, World, provider, reason};

struct Aws {
    _world: World,
    sts: Sts,
    verifier: Verifier,
    provider: Arc<Provider>,
    key: AccessKey,
}

const HOST: &str = "sts.eu-west-1.amazonaws.com";

async fn aws() -> Aws {
    let world = World::new();
    let clock = world.clock.clone();
    let sts = Sts::builder(move || clock.now().seconds()).start(&world.authority).await.unwrap();
    let outbound = world.outbound(&[sts.resolve_entry("sts.amazonaws.com"), sts.resolve_entry(HOST)], "127.0.0.0/8");
    let verifier = Verifier::new(outbound, world.clock.clone());
    let key = AccessKey::temporary();
    sts.add_identity(key.clone(), CallerIdentity::assumed_role("123456789012", "Deploy", "run-1"));
    let provider =
        Provider { kind: ProviderKind::AwsSts, keys: KeySource::Sts, ..provider("https://sts.amazonaws.com") };
    Aws { _world: world, sts, verifier, provider: Arc::new(provider), key }
}

impl Aws {
    async fn verify(&self, options: &PresignOptions) -> Verification {
        let request = SignedRequest::parse(&presign(&self.key, options).to_string()).unwrap();
        self.verifier.verify_aws(&request, &self.provider).await
    }
}

#[tokio::test]
async fn what_real_clients_send_is_rebuilt_so_that_the_signature_holds() {
    let aws = aws().await;
    for (what, options) in [
        ("Mondoo's client", PresignOptions::mondoo(NOW)),
        ("the documented sample", PresignOptions::documented(NOW)),
        ("a regional endpoint", PresignOptions::mondoo(NOW).host(HOST)),
        ("GET", PresignOptions::documented(NOW).method("GET")),
        (
            "Google's empty path",
            PresignOptions::documented(NOW)
                .url("https://sts.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"),
        ),
        ("Google's binding header", PresignOptions::documented(NOW).header("x-goog-cloud-target-resource", "//here")),
    ] {
        let verification = aws.verify(&options).await;
        assert_eq!(
            verification.checks.iter().map(|c| c.name).collect::<Vec<_>>(),
            [CheckName::Issuer, CheckName::Signature, CheckName::Algorithm]
        );
        let verified =
            verification.outcome.unwrap_or_else(|refusal| panic!("{what}: {refusal:?} {:?}", verification.checks));
        let identity = verified.identity();
        assert_eq!(identity.issuer, "https://sts.amazonaws.com");
        assert_eq!(identity.subject, "arn:aws:sts::123456789012:assumed-role/Deploy/run-1");
        assert_eq!(identity.claims.text("account").unwrap(), Some("123456789012"));
        assert_eq!(identity.expires_at.unwrap().seconds(), NOW + 900);
    }
    assert_eq!(aws.sts.requests(), aws.sts.verified());
}

#[tokio::test]
async fn the_caller_s_document_chooses_nothing_that_is_sent() {
    let aws = aws().await;
    let _ = aws.verify(&PresignOptions::mondoo(NOW).unsigned_header("x-sallyport-audience", "me")).await;
    let seen = &aws.sts.seen()[0];
    assert_eq!(seen.target, "/?Action=GetCallerIdentity&Version=2011-06-15");
    assert_eq!(seen.body, b"Action=GetCallerIdentity&Version=2011-06-15");
    let mut names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept", "authorization", "content-length", "content-type", "host", "x-amz-date", "x-amz-security-token"]
    );
}

#[tokio::test]
async fn a_signature_that_sts_refuses_is_denied() {
    let aws = aws().await;
    aws.sts.remove_identity(&aws.key.id);
    let verification = aws.verify(&PresignOptions::mondoo(NOW)).await;
    assert_eq!(
        reason(&verification),
        (CheckName::Signature, "AWS STS refused the request: InvalidClientTokenId".into())
    );
    assert_eq!(verification.outcome.map(drop), Err(Refusal::Denied));

    let key = aws.key.clone();
    aws.sts.add_identity(AccessKey { secret: "another".into(), ..key }, CallerIdentity::user("123456789012", "Alice"));
    let verification = aws.verify(&PresignOptions::mondoo(NOW)).await;
    assert!(reason(&verification).1.contains("SignatureDoesNotMatch"), "{:?}", verification.checks);
    assert_eq!(verification.outcome.map(drop), Err(Refusal::Denied));
}

#[tokio::test]
async fn an_sts_that_is_not_there_is_unavailable_and_one_that_answers_oddly_is_denied() {
    let aws = aws().await;
    for (failure, refusal) in [
        (Failure::Hang, Refusal::Unavailable),
        (Failure::Trickle, Refusal::Unavailable),
        (Failure::CloseConnection, Refusal::Unavailable),
        (Failure::Status(500), Refusal::Unavailable),
        (Failure::Status(429), Refusal::Unavailable),
        (Failure::Status(403), Refusal::Denied),
        (Failure::Garbage, Refusal::Denied),
        (Failure::Oversized, Refusal::Denied),
        (Failure::Redirect("https://evil.example/".into()), Refusal::Denied),
    ] {
        aws.sts.set_failure(failure.clone());
        let verification = aws.verify(&PresignOptions::mondoo(NOW)).await;
        assert_eq!(verification.outcome.map(drop), Err(refusal), "{failure:?}");
    }
}

#[tokio::test]
async fn an_answer_of_another_account_partition_or_shape_is_denied() {
    let aws = aws().await;
    let answer = |content_type: &str, body: &str| {
        Some(Answer { status: 200, content_type: content_type.into(), body: body.as_bytes().to_vec() })
    };
    let identity = CallerIdentity::assumed_role("123456789012", "Deploy", "run-1");
    let good = sallyport_testkit::sts::identity_xml(&identity, "r");
    aws.sts.set_answer_override(answer("text/xml", &good));
    assert!(aws.verify(&PresignOptions::mondoo(NOW)).await.outcome.is_ok());
    for (content_type, body) in [
        ("text/html", good.clone()),
        ("text/xml", good.replace("arn:aws:", "arn:aws-cn:")),
        ("text/xml", good.replace("<Account>123456789012", "<Account>999999999999")),
        ("text/xml", good.replace("sts::123456789012", "sts::999999999999")),
        ("text/xml", good.replace("run-1</Arn>", "run-2</Arn>")),
        ("text/xml", format!("<!DOCTYPE a>{good}")),
        ("application/json", "{}".into()),
    ] {
        aws.sts.set_answer_override(answer(content_type, &body));
        let verification = aws.verify(&PresignOptions::mondoo(NOW)).await;
        assert_eq!(verification.outcome.map(drop), Err(Refusal::Denied), "{body}");
    }
}

#[tokio::test]
async fn a_provider_may_demand_that_the_request_is_bound_to_a_receiver() {
    let mut aws = aws().await;
    aws.provider = Arc::new(Provider { require_audience_header: true, ..Provider::clone(&aws.provider) });
    for options in [
        PresignOptions::mondoo(NOW),
        PresignOptions::mondoo(NOW).unsigned_header("x-sallyport-audience", "sallyport.example"),
    ] {
        let verification = aws.verify(&options).await;
        assert!(reason(&verification).1.contains("to be signed"));
        assert_eq!(verification.outcome.map(drop), Err(Refusal::Denied));
    }
    assert_eq!(aws.sts.requests(), 0, "STS is not bothered");
    let bound = aws.verify(&PresignOptions::mondoo(NOW).header("x-sallyport-audience", "sallyport.example")).await;
    assert_eq!(bound.outcome.unwrap().identity().audiences, ["sallyport.example"]);
}

#[tokio::test]
async fn one_use_is_named_by_key_date_and_signature_under_either_policy() {
    let aws = aws().await;
    let one = aws.verify(&PresignOptions::mondoo(NOW)).await.outcome.unwrap();
    let two = aws.verify(&PresignOptions::mondoo(NOW - 1)).await.outcome.unwrap();
    let named = one.replay_fingerprint(ReplayPolicy::Once).unwrap();
    assert_eq!(one.replay_fingerprint(ReplayPolicy::OnceIfJti), Some(named.clone()));
    assert_eq!(named.until.seconds(), NOW + 900 + 30);
    assert_ne!(two.replay_fingerprint(ReplayPolicy::Once), Some(named));
    assert_eq!(one.replay_fingerprint(ReplayPolicy::Allow), None);
}

#[tokio::test]
async fn a_jwt_does_not_pass_at_an_aws_provider_nor_a_request_at_another() {
    let aws = aws().await;
    let request = SignedRequest::parse(&presign(&aws.key, &PresignOptions::mondoo(NOW)).to_string()).unwrap();
    let jwt_provider = Arc::new(provider("https://sts.amazonaws.com"));
    let verification = aws.verifier.verify_aws(&request, &jwt_provider).await;
    assert_eq!(reason(&verification).0, CheckName::Issuer);
    assert_eq!(aws.sts.requests(), 0);
}
