//! Story: requests that are hostile before a token is looked at. Paths, methods, types, headers, bodies and connections have one
//! reading here, and what has none is refused.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::support::{Reply, World, document, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.server.url.trim_start_matches("http://")).await.expect("a connection")
}

/// Sends these bytes and reads until the server hangs up. What it said, however it ended.
async fn say(world: &World, bytes: &[u8]) -> String {
    let mut stream = connect(world).await;
    let mut heard = Vec::new();
    let talk = async {
        // The server may hang up before it has heard all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut heard).await;
    };
    tokio::time::timeout(Duration::from_secs(30), talk).await.expect("the server hangs up");
    String::from_utf8_lossy(&heard).into_owned()
}

/// A request, written by hand.
fn request(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [text.as_bytes(), body].concat()
}

const ASK: &[u8] = br#"{"query":"{viewer{mrn}}"}"#;
const JSON: &str = "Content-Type: application/json";

#[test]
fn a_request_has_one_path_one_method_one_type_and_one_bearer() {
    run(async {
        let world = world().await;
        let bearer = format!("Authorization: Bearer {}", world.admin);
        let good = [bearer.as_str(), JSON];
        let honest = say(world, &request("POST /query", &good, ASK)).await;
        assert!(honest.starts_with("HTTP/1.1 200 ") && honest.contains("/apitokens/"), "{honest}");
        let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
        for path in [
            "//query",
            "/query/",
            "/./query",
            "/x/../query",
            "/%71uery",
            "/query%2f",
            "/QUERY",
            "/Query",
            "/query;x",
            "/query%00",
            "/SecureTokenService/../query",
            "/graphql/../query",
            "/graphql/%2e%2e/query",
            "/graphql//",
            "/graphql/..%2f..%2fCargo.toml",
        ] {
            cases.push((format!("the path {path}"), request(&format!("POST {path}"), &good, ASK)));
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "QUERY", "post"] {
            cases.push((format!("the method {method}"), request(&format!("{method} /query"), &good, ASK)));
        }
        for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
            let over = format!("{name}: POST");
            cases.push((name.to_owned(), request("GET /query", &[&bearer, JSON, &over], ASK)));
            cases.push((name.to_owned(), request("GET /query?_method=POST", &[&bearer, JSON, &over], ASK)));
        }
        for path in ["/query", "/graphql"] {
            let line = format!("GET {path}?query=%7Bviewer%7Bmrn%7D%7D");
            cases.push(("a query in the URL".into(), request(&line, &good, b"")));
            cases.push((
                "a query in the URL, for a browser".into(),
                request(&line, &[&bearer, JSON, "Accept: text/html"], b""),
            ));
            let line = format!("POST {path}?query=%7Bviewer%7Bmrn%7D%7D");
            cases.push(("a query in the URL of a POST".into(), request(&line, &good, b"{}")));
        }
        for content_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/graphql",
            "application/jsonp",
            "application/vnd.api+json",
            "text/json",
            "text/plain; application/json",
            "*/*",
            "",
        ] {
            let header = format!("Content-Type: {content_type}");
            cases.push((header.clone(), request("POST /query", &[&bearer, &header], ASK)));
        }
        cases.push(("no content type".into(), request("POST /query", &[&bearer], ASK)));
        for encoding in ["gzip", "deflate", "br", "zstd"] {
            // What the header promises: whoever unpacks it would find an honest request, or a bomb.
            let header = format!("Content-Encoding: {encoding}");
            cases.push((header.clone(), request("POST /query", &[&bearer, JSON, &header], &PACKED)));
        }
        let utf16: Vec<u8> = ASK.iter().flat_map(|byte| [*byte, 0]).collect();
        cases.push((
            "UTF-16".into(),
            request("POST /query", &[&bearer, "Content-Type: application/json; charset=utf-16"], &utf16),
        ));
        let token = &world.admin;
        for name in ["access_token", "token", "authorization", "bearer"] {
            cases.push(("a token in the URL".into(), request(&format!("POST /query?{name}={token}"), &[JSON], ASK)));
        }
        let authorizations = [
            vec![format!("Authorization: Basic {token}")],
            vec![format!("Authorization: {token}")],
            vec![format!("Authorization: Bearer{token}")],
            vec![format!("Authorization: Bearer {token}, Bearer {token}")],
            vec![format!("Authorization: Bearer {token} x")],
            vec![bearer.clone(), "Authorization: Bearer other".into()],
            vec!["Authorization: Bearer other".into(), bearer.clone()],
            vec![format!("Proxy-Authorization: Bearer {token}")],
            vec![format!("X-Authorization: Bearer {token}")],
            vec![format!("X-Forwarded-Authorization: Bearer {token}")],
            vec![format!("Cookie: authorization=Bearer {token}; access_token={token}")],
            vec!["Authorization: Bearer x\r\n ".into(), JSON.into()],
        ];
        for headers in &authorizations {
            let mut all: Vec<&str> = headers.iter().map(String::as_str).collect();
            all.push(JSON);
            cases.push((headers.join(" and "), request("POST /query", &all, ASK)));
        }
        for (what, bytes) in cases {
            let answer = say(world, &bytes).await;
            assert!(!answer.contains("/apitokens/"), "{what}: {answer}");
            assert!(answer.starts_with("HTTP/1.1 "), "{what}: {answer}");
        }
    });
}

/// `{"query":"{viewer{mrn}}"}`, packed by gzip.
const PACKED: [u8; 45] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab, 0x56, 0x2a, 0x2c, 0x4d, 0x2d, 0xaa, 0x54, 0xb2,
    0x52, 0xaa, 0x2e, 0xcb, 0x4c, 0x2d, 0x4f, 0x2d, 0xaa, 0xce, 0x2d, 0xca, 0xab, 0xad, 0x55, 0xaa, 0x05, 0x00, 0x3e,
    0xb8, 0xd0, 0xcd, 0x19, 0x00, 0x00, 0x00,
];

#[test]
fn a_message_has_one_length_and_one_end() {
    run(async {
        let world = world().await;
        let bearer = format!("Authorization: Bearer {}", world.admin);
        let head = format!("POST /auth/v1/introspect HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n");
        // Behind each, a second request that somebody else would have meant to be part of the first.
        let hidden = format!(
            "POST /query HTTP/1.1\r\nHost: x\r\n{bearer}\r\n{JSON}\r\nConnection: close\r\nContent-Length: 25\r\n\r\n{{\"query\":\"{{viewer{{mrn}}}}\"}}"
        );
        for (what, framing) in [
            ("two lengths that differ", "Content-Length: 4\r\nContent-Length: 5\r\n\r\n"),
            ("a list of lengths that differ", "Content-Length: 4, 5\r\n\r\n"),
            ("a length with a sign", "Content-Length: +4\r\n\r\n"),
            ("a negative length", "Content-Length: -4\r\n\r\n"),
            ("a length in hexadecimal", "Content-Length: 0x4\r\n\r\n"),
            ("a length beyond all numbers", "Content-Length: 99999999999999999999999\r\n\r\n"),
            ("an encoding that is none", "Transfer-Encoding: xchunked\r\n\r\n"),
            ("chunked, but not last", "Transfer-Encoding: chunked, identity\r\n\r\n"),
            ("a space before the colon", "Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n"),
            ("a folded header", "Content-Length:\r\n 4\r\n\r\n"),
            ("a NUL in a header", "X: a\0b\r\nContent-Length: 0\r\n\r\n"),
            ("a lone CR in a header", "X: a\rContent-Length: 0\r\n\r\n"),
        ] {
            let answer = say(world, format!("{head}{framing}{hidden}").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
            assert!(!answer.contains("/apitokens/"), "{what}: {answer}");
        }
    });
}

#[test]
fn bodies_beyond_the_limit_are_refused_at_every_door() {
    run(async {
        let world = world().await;
        for (path, content_type, status) in [
            ("query", "application/json", 413),
            ("graphql", "application/json", 413),
            ("auth/v1/token", "application/x-www-form-urlencoded", 400),
            ("auth/v1/introspect", "application/x-www-form-urlencoded", 400),
            ("auth/v1/revoke", "application/x-www-form-urlencoded", 400),
            ("SecureTokenService/ExchangeExternalToken", "application/json", 400),
            ("SecureTokenService/ExchangeExternalToken", "application/protobuf", 400),
            ("Health/Check", "application/json", 400),
            ("AgentManager/PingPong", "application/protobuf", 400),
        ] {
            let body = "x".repeat(2_000_000);
            let type_ = format!("Content-Type: {content_type}");
            let whole = request(&format!("POST /{path}"), &[&type_], body.as_bytes());
            let chunks = format!(
                "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{type_}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            );
            // Hanging up in the middle of a body resets the connection; then there may be nothing left to read.
            for bytes in [whole, chunks.into_bytes()] {
                let answer = say(world, &bytes).await;
                assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
                assert!(answer.len() < 2_000, "{path}: nothing of it comes back");
            }
        }
        let many: Vec<String> = (0..300).map(|n| format!("X-{n}: y")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = format!("X: {}", "y".repeat(1_000_000));
        for headers in [many, vec![long.as_str()]] {
            let answer = say(world, &request("GET /livez", &headers, b"")).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        assert_eq!(Reply::to(world.http.get(format!("{}/livez", world.server.url))).await.status, 200);
    });
}

/// Pages of other origins may neither read an answer nor learn that they might.
#[test]
fn no_answer_is_for_another_origin_or_frame() {
    run(async {
        let world = world().await;
        for path in [
            "query",
            "graphql",
            "auth/v1/token",
            "auth/v1/introspect",
            "auth/v1/revoke",
            "auth/v1/jwks",
            ".well-known/jwks.json",
            ".well-known/openid-configuration",
            "SecureTokenService/ExchangeExternalToken",
            "AgentManager/PingPong",
            "livez",
            "nowhere",
        ] {
            for method in ["OPTIONS", "GET", "POST"] {
                let request = world
                    .http
                    .request(method.parse().unwrap(), format!("{}/{path}", world.server.url))
                    .header("origin", "https://evil.example")
                    .header("access-control-request-method", "POST")
                    .header("access-control-request-headers", "authorization, content-type");
                let reply = Reply::to(request).await;
                let shared = reply.headers.keys().find(|name| name.as_str().starts_with("access-control-"));
                assert_eq!(shared, None, "{method} {path}: {reply:?}");
                assert_eq!(reply.header("x-content-type-options"), "nosniff", "{method} {path}");
                assert_eq!(reply.header("x-frame-options"), "DENY", "{method} {path}");
                assert!(reply.header("set-cookie").is_empty(), "{method} {path}: nothing here rests on a cookie");
            }
        }
    });
}

#[test]
fn the_host_a_caller_names_changes_nothing_that_we_say_of_ourselves() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        world.binding(&place.space, "host", &[]).await;
        let forged = [
            ("host", "evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("x-original-url", "/auth/v1/jwks"),
            ("x-rewrite-url", "/auth/v1/jwks"),
            ("forwarded", "host=evil.example;proto=https"),
        ];
        let with = |mut request: reqwest::RequestBuilder| {
            for (name, value) in forged {
                request = request.header(name, value);
            }
            request
        };
        for path in [".well-known/openid-configuration", ".well-known/oauth-authorization-server"] {
            let url = format!("{}/{path}", world.server.url);
            let (plain, forged) = (Reply::to(world.http.get(&url)).await, Reply::to(with(world.http.get(&url))).await);
            assert_eq!((plain.status, plain.text()), (forged.status, forged.text()));
            assert_eq!(plain.json()["issuer"], json!(world.server.url));
        }
        let body = json!({ "audience": place.space, "issuer_uri": world.issuer.uri(), "jwt_token": world.token("host", &place.space) });
        let url = format!("{}/SecureTokenService/ExchangeExternalToken", world.server.url);
        let reply = Reply::to(with(world.http.post(url)).json(&body)).await;
        assert_eq!(document(&reply)["api_endpoint"], json!(world.server.url));
    });
}

/// Everything a stranger can have written into a log, and what the lines look like afterwards.
#[test]
fn strangers_write_no_log_lines_and_no_terminal_commands() {
    run(async {
        for format in ["text", "json"] {
            let world = World::with(|setup| {
                setup.set("SALLYPORT_LOG", "debug").set("SALLYPORT_LOG_FORMAT", format);
            })
            .await;
            let place = world.place().await;
            world.binding(&place.space, "log", &[]).await;
            let forged = "x\n2026-01-01T00:00:00Z  INFO forged line\r\u{1b}[31m\",\"forged\":\"member";
            let mut claims = world.claims(forged, &place.space);
            claims["jti"] = json!(forged);
            claims["repository"] = json!(forged);
            let mut header = world.issuer.header(sallyport_testkit::Algorithm::Rs256);
            let current = sallyport_testkit::Signer::Current(sallyport_testkit::Algorithm::Rs256);
            let honest = world.issuer.mint(&claims);
            header["kid"] = json!(forged);
            let kid = world.issuer.mint_raw(&header, claims.to_string().as_bytes(), &current);
            for (scope, issuer, token) in [
                (place.space.as_str(), world.issuer.uri(), honest.as_str()),
                (&place.space, world.issuer.uri(), &kid),
                (&place.space, world.issuer.uri(), forged),
                (forged, world.issuer.uri(), &honest),
                (&place.space, forged, &honest),
            ] {
                let reply = world.exchange(scope, issuer, token).await;
                assert!(reply.status >= 400, "{}", reply.text());
                let reply = world.oauth(scope, token, &[("scope", forged), (forged, "1"), (forged, "2")]).await;
                assert_eq!(reply.status, 400, "{}", reply.text());
            }
            let secret = "secret-in-the-query-string";
            for path in
                ["/a%0a2026-01-01T00:00:00Z%20INFO%20forged%20line", "/%1b[31m", "/\"},{\"forged\":\"member", "/query"]
            {
                let bytes = request(&format!("POST {path}?access_token={secret}"), &["X-Request-Id: a\"b", JSON], ASK);
                say(&world, &bytes).await;
            }
            for id in ["a b", "a\"b", "a,b", "\u{fc}", "x".repeat(65).as_str(), ""] {
                let request =
                    world.http.get(format!("{}/livez", world.server.url)).header("x-request-id", id.as_bytes());
                let reply = Reply::to(request.header("user-agent", "forged line")).await;
                assert_eq!(reply.header("x-request-id").len(), 36, "one of ours instead of {id:?}");
            }
            world.query(Some(forged_bearer()), "{ viewer { mrn } }", &json!({ "forged": forged })).await;

            let log = world.server.log();
            assert!(log.contains("exchange refused") && log.contains("forged"), "{log}");
            assert!(!log.contains(secret), "what stands in a query string is not logged");
            assert!(!log.contains('\u{1b}') && !log.contains('\r'), "{log}");
            for line in log.lines() {
                if format == "json" {
                    let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    assert!(entry["timestamp"].is_string() && entry.get("forged").is_none(), "{line}");
                } else {
                    assert!(!line.starts_with("2026-01-01T00:00:00Z"), "{line}");
                }
            }
        }
    });
}

/// Whoever complains has the one or the other.
#[test]
fn the_line_of_a_refusal_names_request_and_reference() {
    run(async {
        let world = World::with(|setup| {
            setup.set("SALLYPORT_LOG", "info");
        })
        .await;
        let place = world.place().await;
        let token = world.token("nobody", &place.space);
        for reply in [
            world.exchange(&place.space, world.issuer.uri(), &token).await,
            world.exchange("nowhere", world.issuer.uri(), &token).await,
            world.oauth(&place.space, &token, &[]).await,
            world.oauth(&place.space, &token, &[("scope", "a"), ("scope", "b")]).await,
        ] {
            assert!(reply.status >= 400, "{}", reply.text());
            let told = ["x-sallyport-reference", "x-request-id"].map(|name| reply.header(name));
            let log = world.server.log();
            let is_told = |line: &str| told.iter().all(|words| !words.is_empty() && line.contains(words));
            assert!(log.lines().any(is_told), "{told:?}: {log}");
        }
    });
}

fn forged_bearer() -> &'static str {
    "eyJmb3JnZWQiOiJsaW5lIn0.eyJmb3JnZWQiOiJsaW5lIn0.Zm9yZ2Vk"
}

/// Behind a proxy that writes one header and passes the other on, anyone can see to it that their address cannot be told. That
/// must not be worth it.
#[test]
fn an_address_that_cannot_be_told_does_not_escape_the_limit() {
    run(async {
        let world = World::with(|setup| {
            setup.set("SALLYPORT_LIMIT_PER_ADDRESS", "1").set("SALLYPORT_TRUSTED_PROXIES", "127.0.0.0/8");
        })
        .await;
        let body = json!({ "audience": "x", "issuer_uri": world.issuer.uri(), "jwt_token": world.token("x", "y") });
        let try_as = async |forwarded: &str| {
            let request = world.http.post(format!("{}/SecureTokenService/ExchangeExternalToken", world.server.url));
            let request = request.header("x-forwarded-for", "198.51.100.7").header("forwarded", forwarded);
            Reply::to(request.json(&body)).await.status
        };
        let mut limited = 0;
        for n in 0..30 {
            for forged in
                [format!("for=192.0.2.{n}"), "for=unknown".to_owned(), format!("for=_hidden{n}"), "junk".to_owned()]
            {
                limited += usize::from(try_as(&forged).await == 429);
            }
        }
        assert!(limited > 60, "{limited} of 120");
        // Who can be told is not limited along with them.
        assert_eq!(try_as("for=198.51.100.7").await, 403);
    });
}

/// HTTP/2 by hand: a frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Floods of HTTP/2 frames that cost their sender nothing: rapid resets (CVE-2023-44487), endless headers (CVE-2024-27316),
/// settings and pings without end. The connection ends, and the server goes on.
#[test]
fn floods_of_http2_frames_end_the_connection_and_nothing_else() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    run(async {
        let world = world().await;
        // GET / of http, authority x.
        let get = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        let resets: Vec<u8> = (0..20_000_u32)
            .flat_map(|n| {
                [frame(HEADERS, 5, 2 * n + 1, &get), frame(RESET, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat()
            })
            .collect();
        let endless = {
            let mut bytes = frame(HEADERS, 1, 1, &get);
            let more = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7d][..], &[b'b'; 253]].concat();
            (0..20_000).for_each(|_| bytes.extend(frame(CONTINUATION, 0, 1, &more)));
            bytes
        };
        for (what, flood) in [("resets", resets), ("endless headers", endless)] {
            let heard = say(world, &[preface.clone(), flood].concat()).await;
            assert!(!heard.is_empty(), "{what}: it was HTTP/2 that was spoken");
        }
        // These are answered as long as somebody reads the answers; nobody does, so it must not be kept for them.
        for (what, one) in [("pings", frame(PING, 0, 0, &[0; 8])), ("settings", frame(SETTINGS, 0, 0, &[]))] {
            let mut stream = connect(world).await;
            let flood = [preface.clone(), one.repeat(200_000)].concat();
            let _ = tokio::time::timeout(Duration::from_secs(3), stream.write_all(&flood)).await;
            let reply = Reply::to(world.http.get(format!("{}/livez", world.server.url))).await;
            assert_eq!(reply.status, 200, "{what}");
        }
        assert_eq!(Reply::to(world.http.get(format!("{}/livez", world.server.url))).await.status, 200);
    });
}

/// Ten seconds to begin a connection and to send a request's head, thirty for the rest.
#[test]
fn who_says_nothing_or_dawdles_is_cut_off() {
    run(async {
        let world = world().await;
        let body = "POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
        let form = "POST /auth/v1/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\na";
        let cases = [
            ("nothing", "", 20),
            ("one letter", "P", 20),
            ("half of HTTP/2's beginning", "PRI * HTTP/2.0\r\n\r\n", 20),
            ("half a head", "POST /query HTTP/1.1\r\nHost: x\r\n", 20),
            ("a request, and then nothing", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 20),
            ("HTTP/2, and then nothing", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0", 50),
            ("half a body", body, 50),
            ("half a form", form, 50),
        ];
        let begun = Instant::now();
        let all = cases.map(|(what, said, limit)| async move {
            let mut stream = connect(world).await;
            stream.write_all(said.as_bytes()).await.expect("it is taken");
            let mut heard = Vec::new();
            let end = tokio::time::timeout(Duration::from_secs(limit), stream.read_to_end(&mut heard)).await;
            assert!(end.is_ok(), "{what}: still open after {limit} s: {}", String::from_utf8_lossy(&heard));
        });
        futures::future::join_all(all).await;
        assert!(begun.elapsed() > Duration::from_secs(5), "nobody is cut off at once");
    });
}
