//! The standing list of tokens that must be refused, each with the reason that is given. Each would be good but for one
//! thing. threats.md, "JWT verification".

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers outside test functions may fail a test too")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::{CheckName, Refusal};
use sallyport_identity::{TimeRules, UnverifiedJwt};
use sallyport_testkit::{Algorithm, Signer};
use serde_json::{Value, json};
use support::{NOW, World, admit, claims, parse, provider, reason, uploaded};

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
    let deep_header = format!("{{\"x\":{}1{},{}", "[".repeat(40), "]".repeat(40), &header.to_string()[1..]);
    let nested = format!("{{\"a\":{}1{},{}", "[".repeat(40), "]".repeat(40), &payload[1..]);
    let malformed = [
        ("nothing", String::new(), "is empty"),
        ("two parts", format!("{head}.{body}"), "is not a JWT: three parts separated by dots are wanted"),
        ("four parts", format!("{token}.{signature}"), "is not a JWT: three parts separated by dots are wanted"),
        (
            "JWE, five parts",
            format!("{head}.{body}.{body}.{body}.{signature}"),
            "is encrypted (JWE); only signed tokens are accepted",
        ),
        (
            "JSON serialisation",
            json!({"payload": body, "protected": head, "signature": signature}).to_string(),
            "is a JSON document; a JWT in its compact form is wanted",
        ),
        (
            "over 16 KiB",
            issuer.mint(with(good.clone(), "pad", json!("x".repeat(16_384)))),
            "is longer than 16384 bytes",
        ),
        ("header over 4 KiB", sign(&long_header, &payload), "has a header longer than 4096 bytes"),
        ("padding", padded, "has a header that is not base64url without padding"),
        ("standard base64 alphabet", token.replace(['-', '_'], "+"), "that is not base64url without padding"),
        ("space inside", format!("{head}. {body}.{signature}"), "has a payload that is not base64url without padding"),
        (
            "a line break inside",
            format!("{head}.{body}\n.{signature}"),
            "has a payload that is not base64url without padding",
        ),
        ("no signature", format!("{head}.{body}."), "has no signature"),
        (
            "header not JSON",
            issuer.mint_bytes(b"x", payload.as_bytes(), &Signer::Current(rs256)),
            "has a header that is not acceptable JSON",
        ),
        (
            "header an array",
            issuer.mint_bytes(b"[]", payload.as_bytes(), &Signer::Current(rs256)),
            "has a header that is not a JSON object",
        ),
        (
            "header with a member twice",
            issuer.mint_bytes(twice.as_bytes(), payload.as_bytes(), &Signer::Current(rs256)),
            "has a header that is not acceptable JSON: the member 'kid' appears twice",
        ),
        ("no alg", sign(&without(header.clone(), "alg"), &payload), "has a header without 'alg'"),
        ("alg not a string", hostile_header("alg", json!(["RS256"])), "has a header whose 'alg' is not a string"),
        ("kid not a string", hostile_header("kid", json!(1)), "has a header whose 'kid' is not a string"),
        ("crit", hostile_header("crit", json!(["exp"])), "has the header member 'crit', which is not accepted"),
        ("empty crit", hostile_header("crit", json!([])), "has the header member 'crit', which is not accepted"),
        ("b64 false", hostile_header("b64", json!(false)), "has the header member 'b64', which is not accepted"),
        ("zip", hostile_header("zip", json!("DEF")), "has the header member 'zip', which is not accepted"),
        ("enc", hostile_header("enc", json!("A256GCM")), "has the header member 'enc', which is not accepted"),
        (
            "typ of a logout token",
            hostile_header("typ", json!("logout+jwt")),
            "has a header whose 'typ' is not that of a JWT",
        ),
        (
            "typ of a proof of possession",
            hostile_header("typ", json!("dpop+jwt")),
            "has a header whose 'typ' is not that of a JWT",
        ),
        ("typ not a string", hostile_header("typ", json!(["JWT"])), "has a header whose 'typ' is not that of a JWT"),
        ("payload not JSON", sign(&header, "x"), "has a payload that is not acceptable: is not acceptable JSON"),
        ("payload with bytes after it", sign(&header, &format!("{payload} {{}}")), "has bytes after the JSON object"),
        ("payload with a BOM", sign(&header, &format!("\u{feff}{payload}")), "is not acceptable JSON"),
        ("payload too deep", sign(&header, &nested), "nests too deeply"),
        (
            "a claim twice",
            sign(&header, &format!("{{\"sub\":\"admin\",{}", &payload[1..])),
            "the member 'sub' appears twice",
        ),
        (
            "a claim twice by escape",
            sign(&header, &format!("{{\"s\\u0075b\":\"admin\",{}", &payload[1..])),
            "the member 'sub' appears twice",
        ),
        (
            "a case twin of a claim",
            issuer.mint(with(good.clone(), "Sub", json!("admin"))),
            "the member 'Sub' differs from 'sub' only by case",
        ),
        ("NaN", sign(&header, &payload.replace("600", "NaN")), "is not acceptable JSON"),
        (
            "a lone surrogate",
            sign(&header, &format!("{{\"x\":\"\\ud800\",{}", &payload[1..])),
            "is not acceptable JSON",
        ),
        ("no exp", issuer.mint(without(good.clone(), "exp")), "has no 'exp', which is required"),
        ("exp as a string", issuer.mint(with(good.clone(), "exp", json!("1900000000"))), "'exp' must be a number"),
        ("exp null", issuer.mint(with(good.clone(), "exp", json!(null))), "'exp' must be a number"),
        (
            "exp 1e300",
            issuer.mint(with(good.clone(), "exp", json!(1e300))),
            "'exp' must be a time in seconds since 1970",
        ),
        ("no iat", issuer.mint(without(good.clone(), "iat")), "has no 'iat', which is required"),
        ("iat as a string", issuer.mint(with(good.clone(), "iat", json!("0"))), "'iat' must be a number"),
        ("nbf as a string", issuer.mint(with(good.clone(), "nbf", json!("0"))), "'nbf' must be a number"),
        ("no sub", issuer.mint(without(good.clone(), "sub")), "'sub' is missing"),
        ("empty sub", issuer.mint(with(good.clone(), "sub", json!(""))), "'sub' must be a non-empty string"),
        ("sub a list", issuer.mint(with(good.clone(), "sub", json!(["a"]))), "'sub' must be a non-empty string"),
        (
            "iss a list",
            issuer.mint(with(good.clone(), "iss", json!([issuer.uri()]))),
            "'iss' must be a non-empty string",
        ),
        (
            "aud a number",
            issuer.mint(with(good.clone(), "aud", json!(1))),
            "'aud' must be a string or an array of strings",
        ),
        (
            "aud a list with a number",
            issuer.mint(with(good.clone(), "aud", json!(["sallyport", 1]))),
            "'aud' must be a string or an array of strings",
        ),
        ("jti a number", issuer.mint(with(good.clone(), "jti", json!(1))), "'jti' must be a non-empty string"),
        ("dots alone", "..".into(), "has a header that is not acceptable JSON"),
        (
            "header too deep",
            issuer.mint_bytes(deep_header.as_bytes(), payload.as_bytes(), &Signer::Current(rs256)),
            "nests too deeply",
        ),
        (
            "a header beyond UTF-8",
            issuer.mint_bytes(b"{\"alg\":\"RS256\",\"x\":\"\xff\"}", payload.as_bytes(), &Signer::Current(rs256)),
            "has a header that is not UTF-8",
        ),
        ("payload an array", sign(&header, "[]"), "is not a JSON object"),
        (
            "a claim inside a claim twice",
            sign(&header, &format!("{{\"x\":{{\"a\":1,\"a\":2}},{}", &payload[1..])),
            "the member 'a' appears twice",
        ),
        (
            "a twin of a claim in Unicode's case",
            sign(&header, &format!("{{\"\u{17f}ub\":\"admin\",{}", &payload[1..])),
            "differs from 'sub' only by case",
        ),
        ("Infinity", sign(&header, &format!("{{\"x\":Infinity,{}", &payload[1..])), "is not acceptable JSON"),
        (
            "a number beyond all bounds",
            sign(&header, &format!("{{\"x\":1e999,{}", &payload[1..])),
            "is not acceptable JSON",
        ),
        ("a comment", sign(&header, &format!("{{/**/{}", &payload[1..])), "is not acceptable JSON"),
        (
            "a list of more than a thousand",
            issuer.mint(with(good.clone(), "x", json!(vec![0; 1_001]))),
            "an array has more than 1000 elements",
        ),
        (
            "exp before 1970",
            issuer.mint(with(good.clone(), "exp", json!(-1))),
            "'exp' must be a time in seconds since 1970",
        ),
        ("exp true", issuer.mint(with(good.clone(), "exp", json!(true))), "'exp' must be a number"),
        ("sub null", issuer.mint(with(good.clone(), "sub", json!(null))), "'sub' must be a non-empty string"),
        (
            "aud an object",
            issuer.mint(with(good.clone(), "aud", json!({"a": "sallyport"}))),
            "'aud' must be a string or an array of strings",
        ),
    ];
    for (what, token, reason) in malformed {
        match admit(&verifier, &provider, &token).await {
            Err(Refusal::MalformedToken(words)) => assert!(words.contains(reason), "{what}: {words}"),
            other => panic!("{what}: {other:?}"),
        }
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
    let made = "the issuer's key of this id did not make the token's signature";
    let denied = [
        ("another's key under our kid", foreign(&header), CheckName::Signature, made),
        (
            "another's key without a kid",
            foreign(&without(header.clone(), "kid")),
            CheckName::Signature,
            "no key of the issuer made the token's signature",
        ),
        ("a key brought along", foreign(&with_own_key), CheckName::Signature, made),
        ("the kid of a key of another type", sign(&other_kid, &payload), CheckName::Algorithm, ""),
        (
            "an algorithm that the key's alg contradicts",
            issuer.mint_raw(&ps256, payload.as_bytes(), &Signer::Mixed(rs256, Algorithm::Ps256)),
            CheckName::Algorithm,
            "",
        ),
        (
            "an invented kid",
            sign(&with(header.clone(), "kid", json!("../../etc/passwd")), &payload),
            CheckName::Signature,
            "the issuer has no key of this id",
        ),
        (
            "another payload",
            format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(payload.replace("acme", "evil"))),
            CheckName::Signature,
            made,
        ),
        (
            "a flipped bit in the signature",
            format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(&flipped)),
            CheckName::Signature,
            made,
        ),
        (
            "a signature cut short",
            format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(&flipped[..250])),
            CheckName::Signature,
            made,
        ),
        (
            "a signature of nothing but zeros",
            format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode([0; 256])),
            CheckName::Signature,
            made,
        ),
        (
            "ECDSA in DER",
            issuer.mint_raw(issuer.header(Algorithm::Es256), payload.as_bytes(), &Signer::Der(Algorithm::Es256)),
            CheckName::Signature,
            made,
        ),
        (
            "ECDSA of zeros",
            issuer.mint_raw(issuer.header(Algorithm::Es256), payload.as_bytes(), &Signer::Bytes(vec![0; 64])),
            CheckName::Signature,
            made,
        ),
        (
            "an issuer that only begins alike",
            issuer.mint(with(good.clone(), "iss", json!(format!("{}.evil.example", issuer.uri())))),
            CheckName::Issuer,
            "",
        ),
        (
            "an issuer in another case",
            issuer.mint(with(good.clone(), "iss", json!(issuer.uri().to_uppercase()))),
            CheckName::Issuer,
            "",
        ),
        (
            "an issuer with two slashes",
            issuer.mint(with(good.clone(), "iss", json!(format!("{}//", issuer.uri())))),
            CheckName::Issuer,
            "",
        ),
        ("no issuer", issuer.mint(without(good.clone(), "iss")), CheckName::Issuer, ""),
    ];
    // Callers learn nothing; the record says which check failed, and why where its name does not say it.
    for (what, token, check, detail) in denied {
        assert_eq!(admit(&verifier, &provider, &token).await, Err(Refusal::Denied), "{what}");
        assert_eq!(reason(&verifier.verify_jwt(&parse(&token), &provider).await), (check, detail.to_owned()), "{what}");
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
