//! Story: Mondoo's clients exchange a token and check their standing, in protobuf, in JSON and by curl.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::proto::{ExchangeRequest, ExchangeResponse, Health, Note, Status};
use crate::support::{Ping, Place, Reply, World, bare_post, claims_of, document, fixture, header_of, run, sign};

const EXCHANGE: &str = "SecureTokenService/ExchangeExternalToken";
const PROTOBUF: &str = "application/protobuf";

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// What it is, its headers, its body, and a word of the refusal.
type Malformed<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<u8>, &'a str);

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

/// A place with a binding for `subject`, and an honest token.
async fn ready(world: &World, subject: &str) -> (Place, String) {
    let place = world.place().await;
    world.binding(&place.space, subject, &[]).await;
    let token = world.token(subject, &place.space);
    (place, token)
}

/// A POST of bytes under exactly these headers.
async fn post(world: &World, method: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    bare_post(&world.server.url, method, headers, &body).await
}

fn message(world: &World, place: &Place, token: &str) -> ExchangeRequest {
    ExchangeRequest {
        issuer_uri: world.issuer.uri().to_owned(),
        audience: place.space.clone(),
        jwt_token: token.to_owned(),
        ..ExchangeRequest::default()
    }
}

/// The document in a protobuf answer.
fn protobuf_document(reply: &Reply) -> Value {
    assert_eq!((reply.status, reply.header("content-type")), (200, PROTOBUF), "{}", reply.text());
    let answer = ExchangeResponse::decode(reply.body.as_slice()).expect("the message");
    serde_json::from_slice(&STANDARD.decode(answer.base64_credential).expect("base64")).expect("JSON")
}

#[test]
fn the_go_client_exchanges_in_protobuf() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "protobuf").await;
        let mut request = message(world, &place, &token);
        request.unknown = "from the future".to_owned();
        for content_type in [PROTOBUF, "application/octet-stream", "application/grpc+proto"] {
            let headers = [("content-type", content_type), ("accept", content_type)];
            let reply = post(world, EXCHANGE, &headers, request.encode_to_vec()).await;
            let document = protobuf_document(&reply);
            assert_eq!(document["space_mrn"], json!(place.space), "{content_type}");
            reply.reference();
        }
        // Several exchanges of one token are what real clients do; each is a credential of its own.
        let reply = post(world, EXCHANGE, &[("content-type", PROTOBUF)], request.encode_to_vec()).await;
        let (one, reply) = (
            protobuf_document(&reply),
            post(world, EXCHANGE, &[("content-type", PROTOBUF)], request.encode_to_vec()).await,
        );
        assert_ne!(one["mrn"], protobuf_document(&reply)["mrn"]);
        assert_eq!(world.signed_ping(&one).await, 200);
    });
}

#[test]
fn answers_are_encoded_as_the_accept_header_says() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "negotiation").await;
        let protobuf = message(world, &place, &token).encode_to_vec();
        let json = json!({ "issuer_uri": world.issuer.uri(), "audience": place.space, "jwt_token": token }).to_string();
        let cases: [(Headers<'_>, &[u8], bool); 7] = [
            (&[("content-type", PROTOBUF)], &protobuf, true),
            (&[("content-type", PROTOBUF), ("accept", "*/*")], &protobuf, false),
            (&[("content-type", PROTOBUF), ("accept", "application/json")], &protobuf, false),
            (&[("content-type", "application/json"), ("accept", PROTOBUF)], json.as_bytes(), true),
            (&[("content-type", "application/json"), ("accept", "application/protobuf, */*")], json.as_bytes(), false),
            (&[("content-type", "application/json; charset=utf-8")], json.as_bytes(), false),
            (&[], json.as_bytes(), false),
        ];
        for (headers, body, binary) in cases {
            let reply = post(world, EXCHANGE, headers, body.to_vec()).await;
            assert_eq!(reply.status, 200, "{headers:?}: {}", reply.text());
            if binary {
                assert!(protobuf_document(&reply)["mrn"].is_string(), "{headers:?}");
            } else {
                assert_eq!(reply.header("content-type"), "application/json", "{headers:?}");
                assert!(document(&reply)["mrn"].is_string(), "{headers:?}");
            }
        }
    });
}

#[test]
fn json_names_come_in_both_spellings_and_the_query_is_ignored() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "spellings").await;
        let camel = json!({ "issuerUri": world.issuer.uri(), "audience": place.space, "jwtToken": token,
                            "responseType": "TOKEN", "somethingElse": { "a": [1] } });
        let reply = world.rpc(&format!("{EXCHANGE}?="), &camel.to_string(), None).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(document(&reply)["token"].is_string());
        // The GCP flow sends the metadata server's raw body.
        let spaced =
            json!({ "issuer_uri": world.issuer.uri(), "audience": place.space, "jwt_token": format!(" {token}\n") });
        let reply = world.rpc(&format!("{EXCHANGE}?a=b&c"), &spaced.to_string(), None).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    });
}

#[test]
fn the_documented_curl_lines_work_verbatim() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "curl").await;
        let space_id = place.space.rsplit('/').next().unwrap();
        for name in ["exchange_manually.sh", "exchange_gcp.sh", "exchange_custom.sh"] {
            let line = fixture(name);
            let line = line
                .replace(
                    "//captain.api.mondoo.app/spaces/<SPACE-ID>",
                    &format!("//captain.api.mondoo.app/spaces/{space_id}"),
                )
                .replace("<UNIVERSE_DOMAIN>", &world.server.url)
                .replace("<WIF-ISSUER-URI>", world.issuer.uri())
                .replace("<WIF-ISSUED-TOKEN>", &token)
                .replace("UNIVERSE_DOMAIN", &world.server.url)
                .replace("\"AUDIENCE\"", &format!("\"{}\"", place.space))
                .replace("\"ISSUER\"", &format!("\"{}\"", world.issuer.uri()))
                .replace("\"TOKEN\"", &format!("\"{token}\""));
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &line]).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
            let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().expect("curl");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let answer: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{name}: {error}: {}", String::from_utf8_lossy(&output.stdout)));
            assert_eq!(
                answer.as_object().unwrap().keys().collect::<Vec<_>>(),
                ["base64_credential"],
                "{name}: {answer}"
            );
            let document = STANDARD.decode(answer["base64_credential"].as_str().unwrap()).unwrap();
            let document: Value = serde_json::from_slice(&document).unwrap();
            assert_eq!(document["api_endpoint"], json!(world.server.url));
            assert_eq!(world.signed_ping(&document).await, 200, "{name}");
        }
    });
}

#[test]
fn response_type_token_gives_a_bearer_instead_of_a_key() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "bearer").await;
        let request = ExchangeRequest { response_type: "TOKEN".to_owned(), ..message(world, &place, &token) };
        let reply = post(world, EXCHANGE, &[("content-type", PROTOBUF)], request.encode_to_vec()).await;
        let document = protobuf_document(&reply);
        let bearer = document["token"].as_str().expect("a token");
        assert_eq!((document.get("private_key"), document.get("certificate")), (None, None));
        for name in ["mrn", "space_mrn", "api_endpoint"] {
            assert!(!document[name].as_str().unwrap_or_default().is_empty(), "{name}: {document}");
        }
        assert_eq!(header_of(bearer)["typ"], json!("at+jwt"));
        assert_eq!(claims_of(bearer)["scope"], json!("agent"));
        assert_eq!(world.ping(bearer).await, 200);
        // With a body too, and without any hash of it: a bearer signs nothing.
        assert_eq!(world.rpc("AgentManager/PingPong", "{}", Some(bearer)).await.status, 200);

        let other = json!({ "issuer_uri": world.issuer.uri(), "audience": place.space, "jwt_token": token, "response_type": "COOKIE" });
        let reply = world.rpc(EXCHANGE, &other.to_string(), None).await;
        assert_eq!((reply.status, &reply.json()["code"]), (400, &json!(3)), "{}", reply.text());
    });
}

#[test]
fn health_check_answers_anyone_in_both_encodings() {
    run(async {
        let world = world().await;
        let reply = post(world, "Health/Check", &[("content-type", PROTOBUF), ("accept", PROTOBUF)], Vec::new()).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, PROTOBUF));
        let health = Health::decode(reply.body.as_slice()).unwrap();
        assert_eq!(health.status, 1, "SERVING");
        assert!(health.api_version.parse::<u32>().is_ok(), "a major version: {health:?}");
        let format = &time::format_description::well_known::Rfc3339;
        let skew = time::OffsetDateTime::parse(&health.time, format).unwrap().unix_timestamp() - crate::support::now();
        assert!(skew.abs() < 30, "clients warn above 30 s: {health:?}");
        let reply = world.rpc("Health/Check", "{}", None).await;
        let answer = reply.json();
        assert_eq!((reply.status, &answer["status"]), (200, &json!("SERVING")), "{answer}");
        assert!(answer["apiVersion"].is_string() && answer["time"].is_string(), "{answer}");
        assert!(!reply.header("x-request-id").is_empty());
    });
}

#[test]
fn ping_pong_checks_the_signature_over_the_body() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "ping").await;
        let document = world.credential(&place.space, &token).await;
        let note = Note { text: "not empty".to_owned() }.encode_to_vec();
        let ping = async |about: Ping<'_>, body: &[u8]| {
            let bearer = format!("Bearer {}", sign(&document, about));
            let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF), ("authorization", bearer.as_str())];
            post(world, "AgentManager/PingPong", &headers, body.to_vec()).await
        };
        let empty = ping(Ping::Hash(b""), b"").await;
        assert_eq!((empty.status, empty.body.len()), (200, 0), "an empty Pong is an empty body");
        assert_eq!(ping(Ping::NoHash, b"").await.status, 200);
        assert_eq!(ping(Ping::Hash(&note), &note).await.status, 200);
        let refused = [
            (Ping::Hash(b"other"), b"".as_slice()),
            (Ping::Hash(b""), &note),
            (Ping::NoHash, &note),
            (Ping::Hash(b"other"), &note),
        ];
        for (about, body) in refused {
            let reply = ping(about, body).await;
            let status = Status::decode(reply.body.as_slice()).expect("google.rpc.Status");
            assert_eq!((reply.status, reply.header("content-type"), status.code), (401, PROTOBUF, 16), "{about:?}");
            assert_eq!(status.message, "request permission unauthenticated");
        }
        let nobody = world.rpc("AgentManager/PingPong", "{}", None).await;
        assert_eq!((nobody.status, &nobody.json()["code"]), (401, &json!(16)));
    });
}

#[test]
fn other_methods_of_known_services_are_not_found_as_a_status() {
    run(async {
        let world = world().await;
        for method in ["SecureTokenService/ExchangeSSH", "AgentManager/RegisterAgent", "Health/Watch"] {
            let reply = post(world, method, &[("content-type", PROTOBUF), ("accept", PROTOBUF)], Vec::new()).await;
            let status = Status::decode(reply.body.as_slice()).expect("google.rpc.Status");
            assert_eq!((reply.status, status.code), (404, 5), "{method}: {status:?}");
            let reply = world.rpc(method, "{}", None).await;
            assert_eq!((reply.status, &reply.json()["code"]), (404, &json!(5)), "{method}");
            assert!(!reply.header("x-request-id").is_empty());
        }
    });
}

#[test]
fn malformed_requests_are_named_and_never_answered_with_an_empty_body() {
    run(async {
        let world = world().await;
        let (place, token) = ready(world, "malformed").await;
        let good = json!({ "issuer_uri": world.issuer.uri(), "audience": place.space, "jwt_token": token }).to_string();
        let huge =
            json!({ "issuer_uri": world.issuer.uri(), "audience": place.space, "jwt_token": "x".repeat(100_000) })
                .to_string();
        let json_type = ("content-type", "application/json");
        let cases: Vec<Malformed<'_>> = vec![
            (
                "curl's default type",
                vec![("content-type", "application/x-www-form-urlencoded")],
                good.clone().into_bytes(),
                "unexpected content-type:",
            ),
            ("plain text", vec![("content-type", "text/plain")], good.clone().into_bytes(), "unexpected content-type:"),
            ("an empty body", vec![json_type], Vec::new(), "missing"),
            ("an empty protobuf message", vec![("content-type", PROTOBUF)], Vec::new(), "missing"),
            ("no JSON", vec![json_type], b"{\"issuer_uri\"".to_vec(), ""),
            ("a JSON array", vec![json_type], b"[]".to_vec(), ""),
            ("a number for a string", vec![json_type], b"{\"jwt_token\": 5}".to_vec(), ""),
            ("no protobuf", vec![("content-type", PROTOBUF)], b"\xff\xff\xff\xff".to_vec(), ""),
            (
                "nulls",
                vec![json_type],
                b"{\"issuer_uri\": null, \"audience\": null, \"jwt_token\": null}".to_vec(),
                "missing",
            ),
            ("an oversized body", vec![json_type], huge.into_bytes(), ""),
            (
                "a bad timeout",
                vec![json_type, ("request-timeout", "soon")],
                good.clone().into_bytes(),
                "Request-Timeout",
            ),
        ];
        for (what, headers, body, words) in cases {
            let reply = post(world, EXCHANGE, &headers, body.clone()).await;
            let (code, message) = if reply.header("content-type") == PROTOBUF {
                let status = Status::decode(reply.body.as_slice()).expect("google.rpc.Status");
                (json!(status.code), status.message)
            } else {
                let status = reply.json();
                (status["code"].clone(), status["message"].as_str().expect("a message").to_owned())
            };
            assert_eq!((reply.status, code), (400, json!(3)), "{what}: {message}");
            assert!(message.contains(words), "{what}: {message}");
            assert!(message.contains(&reply.reference()), "{what}: {message}");
            // The Go client reads protobuf only; an empty body would look like success.
            let mut headers = headers;
            headers.push(("accept", PROTOBUF));
            let reply = post(world, EXCHANGE, &headers, body).await;
            let status = Status::decode(reply.body.as_slice()).expect("google.rpc.Status");
            assert_eq!((reply.status, status.code), (400, 3), "{what}");
            assert!(!status.message.is_empty(), "{what}");
        }
        let fine = post(world, EXCHANGE, &[json_type, ("request-timeout", "30S")], good.into_bytes()).await;
        assert_eq!(fine.status, 200);
    });
}

#[test]
fn a_callers_request_id_comes_back() {
    run(async {
        let world = world().await;
        let headers = [("x-request-id", "6c0f4f0e-1"), ("content-type", "application/json")];
        let reply = post(world, "Health/Check", &headers, b"{}".to_vec()).await;
        assert_eq!(reply.header("x-request-id"), "6c0f4f0e-1");
        let reply = post(world, "nowhere", &[], Vec::new()).await;
        assert_eq!((reply.status, reply.header("x-request-id").is_empty()), (404, false));
    });
}
