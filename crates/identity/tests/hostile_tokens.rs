//! The standing list of tokens that must be refused, run against every build. Each would be good but for one thing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers outside test functions may fail a test too")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::Refusal;
use sallyport_identity::{TimeRules, UnverifiedJwt};
use sallyport_testkit::{Algorithm, Signer};
use serde_json::{Value, json};
use support::{NOW, World, admit, claims, parse, provider, uploaded};

fn with(mut document: Value, name: &str, value: Value) -> Value {
    document[name] = value;
    document
}

fn without(mut document: Value, name: &str) -> Value {
    document.as_object_mut().unwrap().shift_remove(name);
    document
}

#[tokio::test]
async fn every_token_of_the_list_is_refused() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[]);
    let provider = uploaded(&issuer);
    let good = claims(issuer.uri());
    let payload = good.to_string();
    let rs256 = Algorithm::Rs256;
    let header = issuer.header(rs256);
    let sign = |header: &Value, payload: &str| issuer.mint_raw(header, payload.as_bytes(), &Signer::Current(rs256));
    let token = issuer.mint(&good);
    admit(&verifier, &provider, &token).await.expect("the token they are all made from is good");
    let parts: Vec<&str> = token.split('.').collect();
    let [head, body, signature] = parts[..] else { unreachable!("a JWT has three parts") };

    let pem = issuer.public_key_pem(rs256).into_bytes();
    let hmac = |alg: &str| {
        issuer.mint_raw(with(header.clone(), "alg", json!(alg)), payload.as_bytes(), &Signer::Hmac(pem.clone()))
    };
    let none = |alg: &str| issuer.mint_raw(with(header.clone(), "alg", json!(alg)), payload.as_bytes(), &Signer::None);
    let algorithm = Refusal::AlgorithmNotAllowed;
    for (what, token) in [
        ("none", none("none")),
        ("None", none("None")),
        ("nOnE", none("nOnE")),
        ("none with a signature", sign(&with(header.clone(), "alg", json!("none")), &payload)),
        ("HS256 under the public key (algorithm confusion)", hmac("HS256")),
        ("HS384", hmac("HS384")),
        ("HS512", hmac("HS512")),
        ("rs256", sign(&with(header.clone(), "alg", json!("rs256")), &payload)),
        ("ES256K", sign(&with(header.clone(), "alg", json!("ES256K")), &payload)),
        ("RSA1_5", sign(&with(header.clone(), "alg", json!("RSA1_5")), &payload)),
        ("empty alg", sign(&with(header.clone(), "alg", json!("")), &payload)),
    ] {
        assert_eq!(admit(&verifier, &provider, &token).await, Err(algorithm.clone()), "{what}");
    }

    let hostile_header = |name: &str, value: Value| sign(&with(header.clone(), name, value), &payload);
    let twice = format!("{{\"kid\":\"x\",{}", &header.to_string()[1..]);
    let padded = format!("{}.{}.{}", URL_SAFE.encode(header.to_string()), body, signature);
    let long_header = with(header.clone(), "pad", json!("x".repeat(5_000)));
    let nested = format!("{{\"a\":{}1{},{}", "[".repeat(40), "]".repeat(40), &payload[1..]);
    let malformed = [
        ("nothing", String::new()),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{token}.{signature}")),
        ("JWE, five parts", format!("{head}.{body}.{body}.{body}.{signature}")),
        ("JSON serialisation", json!({"payload": body, "protected": head, "signature": signature}).to_string()),
        ("over 16 KiB", issuer.mint(with(good.clone(), "pad", json!("x".repeat(16_384))))),
        ("header over 4 KiB", sign(&long_header, &payload)),
        ("padding", padded),
        ("standard base64 alphabet", token.replace(['-', '_'], "+")),
        ("space inside", format!("{head}. {body}.{signature}")),
        ("a line break inside", format!("{head}.{body}\n.{signature}")),
        ("no signature", format!("{head}.{body}.")),
        ("header not JSON", issuer.mint_bytes(b"x", payload.as_bytes(), &Signer::Current(rs256))),
        ("header an array", issuer.mint_bytes(b"[]", payload.as_bytes(), &Signer::Current(rs256))),
        (
            "header with a member twice",
            issuer.mint_bytes(twice.as_bytes(), payload.as_bytes(), &Signer::Current(rs256)),
        ),
        ("no alg", sign(&without(header.clone(), "alg"), &payload)),
        ("alg not a string", hostile_header("alg", json!(["RS256"]))),
        ("kid not a string", hostile_header("kid", json!(1))),
        ("crit", hostile_header("crit", json!(["exp"]))),
        ("empty crit", hostile_header("crit", json!([]))),
        ("b64 false", hostile_header("b64", json!(false))),
        ("zip", hostile_header("zip", json!("DEF"))),
        ("enc", hostile_header("enc", json!("A256GCM"))),
        ("typ of a logout token", hostile_header("typ", json!("logout+jwt"))),
        ("typ of a proof of possession", hostile_header("typ", json!("dpop+jwt"))),
        ("typ not a string", hostile_header("typ", json!(["JWT"]))),
        ("payload not JSON", sign(&header, "x")),
        ("payload with bytes after it", sign(&header, &format!("{payload} {{}}"))),
        ("payload with a BOM", sign(&header, &format!("\u{feff}{payload}"))),
        ("payload too deep", sign(&header, &nested)),
        ("a claim twice", sign(&header, &format!("{{\"sub\":\"admin\",{}", &payload[1..]))),
        ("a claim twice by escape", sign(&header, &format!("{{\"s\\u0075b\":\"admin\",{}", &payload[1..]))),
        ("a case twin of a claim", issuer.mint(with(good.clone(), "Sub", json!("admin")))),
        ("NaN", sign(&header, &payload.replace("600", "NaN"))),
        ("a lone surrogate", sign(&header, &format!("{{\"x\":\"\\ud800\",{}", &payload[1..]))),
        ("no exp", issuer.mint(without(good.clone(), "exp"))),
        ("exp as a string", issuer.mint(with(good.clone(), "exp", json!("1900000000")))),
        ("exp null", issuer.mint(with(good.clone(), "exp", json!(null)))),
        ("exp 1e300", issuer.mint(with(good.clone(), "exp", json!(1e300)))),
        ("no iat", issuer.mint(without(good.clone(), "iat"))),
        ("iat as a string", issuer.mint(with(good.clone(), "iat", json!("0")))),
        ("nbf as a string", issuer.mint(with(good.clone(), "nbf", json!("0")))),
        ("no sub", issuer.mint(without(good.clone(), "sub"))),
        ("empty sub", issuer.mint(with(good.clone(), "sub", json!("")))),
        ("sub a list", issuer.mint(with(good.clone(), "sub", json!(["a"])))),
        ("iss a list", issuer.mint(with(good.clone(), "iss", json!([issuer.uri()])))),
        ("aud a number", issuer.mint(with(good.clone(), "aud", json!(1)))),
        ("aud a list with a number", issuer.mint(with(good.clone(), "aud", json!(["sallyport", 1])))),
        ("jti a number", issuer.mint(with(good.clone(), "jti", json!(1)))),
    ];
    for (what, token) in malformed {
        let refusal = admit(&verifier, &provider, &token).await.expect_err(what);
        assert!(matches!(&refusal, Refusal::MalformedToken(_)), "{what}: {refusal:?}");
    }

    assert_eq!(
        admit(&verifier, &provider, &issuer.mint(with(good.clone(), "exp", json!(NOW - 30)))).await,
        Err(Refusal::Expired)
    );
    for name in ["nbf", "iat"] {
        let token = issuer.mint(with(good.clone(), name, json!(NOW + 31)));
        assert_eq!(admit(&verifier, &provider, &token).await, Err(Refusal::FromTheFuture), "{name}");
    }

    let own_jwk = json!({"jwk": {"kty": "RSA"}, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x"});
    let mut with_own_key = header.clone();
    with_own_key.as_object_mut().unwrap().extend(own_jwk.as_object().unwrap().clone());
    let foreign = |header: &Value| issuer.mint_raw(header, payload.as_bytes(), &Signer::Foreign(rs256));
    let other_kid = with(header.clone(), "kid", json!(issuer.kid(Algorithm::Es256)));
    let ps256 = with(header.clone(), "alg", json!("PS256"));
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
    flipped[7] ^= 1;
    let denied = [
        ("another's key under our kid", foreign(&header)),
        ("another's key without a kid", foreign(&without(header.clone(), "kid"))),
        ("a key brought along", foreign(&with_own_key)),
        ("the kid of a key of another type", sign(&other_kid, &payload)),
        (
            "an algorithm that the key's alg contradicts",
            issuer.mint_raw(&ps256, payload.as_bytes(), &Signer::Mixed(rs256, Algorithm::Ps256)),
        ),
        ("an invented kid", sign(&with(header.clone(), "kid", json!("../../etc/passwd")), &payload)),
        ("another payload", format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(payload.replace("acme", "evil")))),
        ("a flipped bit in the signature", format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(&flipped))),
        ("a signature cut short", format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(&flipped[..250]))),
        ("a signature of nothing but zeros", format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode([0; 256]))),
        (
            "ECDSA in DER",
            issuer.mint_raw(issuer.header(Algorithm::Es256), payload.as_bytes(), &Signer::Der(Algorithm::Es256)),
        ),
        (
            "ECDSA of zeros",
            issuer.mint_raw(issuer.header(Algorithm::Es256), payload.as_bytes(), &Signer::Bytes(vec![0; 64])),
        ),
        (
            "an issuer that only begins alike",
            issuer.mint(with(good.clone(), "iss", json!(format!("{}.evil.example", issuer.uri())))),
        ),
        ("an issuer in another case", issuer.mint(with(good.clone(), "iss", json!(issuer.uri().to_uppercase())))),
        ("an issuer with two slashes", issuer.mint(with(good.clone(), "iss", json!(format!("{}//", issuer.uri()))))),
        ("no issuer", issuer.mint(without(good.clone(), "iss"))),
    ];
    for (what, token) in denied {
        assert_eq!(admit(&verifier, &provider, &token).await, Err(Refusal::Denied), "{what}");
    }

    // And what must not be refused.
    for (what, token) in [
        ("one trailing slash", issuer.mint(with(good.clone(), "iss", json!(format!("{}/", issuer.uri()))))),
        ("white space around", format!(" {token}\r\n")),
        ("no typ", sign(&without(header.clone(), "typ"), &payload)),
        ("typ application/at+jwt", hostile_header("typ", json!("application/at+jwt"))),
        ("no kid", sign(&without(header.clone(), "kid"), &payload)),
        ("keys in the header, unused", sign(&with_own_key, &payload)),
    ] {
        assert_eq!(admit(&verifier, &provider, &token).await, Ok(()), "{what}");
    }
}

#[tokio::test]
async fn the_rules_of_time_are_those_of_the_endpoint() {
    let world = World::new();
    let issuer = world.issuer().await;
    let rpc = TimeRules::RPC;
    let check = |rules: TimeRules, exp: i64, nbf: i64, iat: Option<i64>| {
        let mut claims = claims(issuer.uri());
        claims["exp"] = json!(NOW + exp);
        claims["nbf"] = json!(NOW + nbf);
        claims["iat"] = json!(iat.map(|iat| NOW + iat));
        let claims = if iat.is_some() { claims } else { without(claims, "iat") };
        parse(&issuer.mint(claims)).check_times(Timestamp::from_seconds(NOW), &rules)
    };
    assert_eq!(check(rpc, 181, 0, Some(0)), Ok(()));
    assert_eq!(check(rpc, 180, 0, Some(0)), Err(Refusal::TooLittleTimeLeft));
    assert_eq!(check(rpc, 1, 0, Some(0)), Err(Refusal::TooLittleTimeLeft));
    assert_eq!(check(rpc, 0, 0, Some(0)), Err(Refusal::Expired));
    assert_eq!(check(TimeRules::OAUTH, 1, 0, Some(0)), Ok(()));
    assert_eq!(check(TimeRules::OAUTH, -29, 0, Some(0)), Ok(()));
    assert_eq!(check(TimeRules::OAUTH, -30, 0, Some(0)), Err(Refusal::Expired));
    for rules in [rpc, TimeRules::OAUTH] {
        assert_eq!(check(rules, 600, 30, Some(30)), Ok(()));
        assert_eq!(check(rules, 600, 31, Some(0)), Err(Refusal::FromTheFuture));
        assert_eq!(check(rules, 600, 0, Some(31)), Err(Refusal::FromTheFuture));
        assert!(matches!(check(rules, 600, 0, None), Err(Refusal::MalformedToken(_))));
        assert_eq!(check(rules.with_iat_optional(true), 600, 0, None), Ok(()));
        assert_eq!(check(rules.with_iat_optional(true), 600, 0, Some(31)), Err(Refusal::FromTheFuture));
    }
}

#[tokio::test]
async fn a_provider_s_own_list_of_algorithms_is_honoured() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[]);
    let mut only = sallyport_domain::provider::Provider::clone(&uploaded(&issuer));
    only.algorithms = vec![sallyport_domain::provider::Algorithm::ES256];
    let only = std::sync::Arc::new(only);
    let token = |algorithm| issuer.mint_with(algorithm, claims(issuer.uri()));
    assert_eq!(admit(&verifier, &only, &token(Algorithm::Es256)).await, Ok(()));
    assert_eq!(admit(&verifier, &only, &token(Algorithm::Rs256)).await, Err(Refusal::Denied));
}

#[test]
fn nothing_of_the_token_gets_into_errors_or_debug_output() {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
    let secret = "s3cr3t";
    for payload in [
        format!(r#"{{"sub":["{secret}"]}}"#),
        format!(r#"{{"sub":"{secret}","exp":"{secret}"}}"#),
        format!(r#"{{"sub":"{secret}" {secret}"#),
    ] {
        let token = format!("{header}.{}.AA", URL_SAFE_NO_PAD.encode(&payload));
        let error = UnverifiedJwt::parse(&token).unwrap_err();
        assert!(!format!("{error} {error:?} {:?}", error.check()).contains(secret), "{error}");
    }
    let token = format!("{header}.{}.AA", URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{secret}"}}"#)));
    assert!(!format!("{:?}", UnverifiedJwt::parse(&token).unwrap()).contains(secret));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,300}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,80}", 0..5)) {
        let _ = UnverifiedJwt::parse(&text);
        let _ = UnverifiedJwt::parse(&parts.join("."));
    }

    #[test]
    fn no_header_or_payload_makes_the_parser_panic(header in "\\{\\PC{0,60}\\}", payload in "\\{\\PC{0,60}\\}") {
        for (header, payload) in [(header.as_str(), payload.as_str()), ("{\"alg\":\"RS256\"}", payload.as_str())] {
            let token = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let _ = UnverifiedJwt::parse(&token);
        }
    }
}

#[tokio::test]
async fn a_token_altered_anywhere_never_verifies() {
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[]);
    let provider = uploaded(&issuer);
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let token = issuer.mint_with(algorithm, claims(issuer.uri()));
        assert_eq!(admit(&verifier, &provider, &token).await, Ok(()), "{algorithm:?}");
        // Every position, one other letter each: which one is a matter of the position.
        for at in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
            let other = letters[(at * 7 + 3) % letters.len()];
            if altered[at] == other {
                continue;
            }
            altered[at] = other;
            let altered = String::from_utf8(altered).unwrap();
            assert!(admit(&verifier, &provider, &altered).await.is_err(), "{algorithm:?} at {at}");
        }
    }
}

#[tokio::test]
async fn a_spiffe_token_belongs_to_its_subject_s_trust_domain_whatever_iss_says() {
    use sallyport_domain::issuer::IssuerUri;
    use sallyport_domain::provider::ProviderKind;
    let world = World::new();
    let issuer = world.issuer().await;
    let verifier = world.verifier(&[]);
    let mut spiffe = provider("spiffe://prod.example");
    spiffe.kind = ProviderKind::Spiffe;
    spiffe.issuer = IssuerUri::stored("spiffe://prod.example");
    let mut keys = issuer.jwks();
    for key in keys["keys"].as_array_mut().unwrap() {
        key["use"] = json!("jwt-svid");
    }
    spiffe.keys = sallyport_domain::provider::KeySource::Uploaded(keys.to_string().into());
    let spiffe = std::sync::Arc::new(spiffe);
    let token = |sub: &str, iss: Option<&str>| {
        let mut claims = without(without(claims(""), "iss"), "iat");
        claims["sub"] = json!(sub);
        if let Some(iss) = iss {
            claims["iss"] = json!(iss);
        }
        parse(&issuer.mint(claims))
    };
    for iss in [None, Some("https://spire.example"), Some("spiffe://other.example")] {
        let jwt = token("spiffe://prod.example/ns/web", iss);
        assert_eq!(jwt.spiffe_issuer().as_deref(), Some("spiffe://prod.example"));
        jwt.check_times(Timestamp::from_seconds(NOW), &TimeRules::RPC.with_iat_optional(true)).unwrap();
        let verified = verifier.verify_jwt(&jwt, &spiffe).await.outcome.unwrap();
        assert_eq!(verified.identity().issuer, "spiffe://prod.example");
    }
    for sub in [
        "spiffe://other.example/ns/web",
        "spiffe://prod.example",
        "spiffe://prod.example/",
        "spiffe://prod.example//x",
        "spiffe://prod.example/../x",
        "spiffe://PROD.example/x",
        "spiffe://user@prod.example/x",
        "spiffe://prod.example:443/x",
        "https://prod.example/x",
        "prod.example",
    ] {
        let verification = verifier.verify_jwt(&token(sub, Some("spiffe://prod.example")), &spiffe).await;
        assert_eq!(verification.outcome.map(drop), Err(Refusal::Denied), "{sub}");
    }
}
