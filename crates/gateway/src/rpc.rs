//! Mondoo's RPC, as its unmodified clients speak it: protobuf or JSON, errors as `google.rpc.Status` in the same encoding,
//! never an empty error body (an old client takes one for success).

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use sallyport_domain::decision::Refusal;
use sallyport_domain::exchange::Protocol;
use sallyport_domain::id::ExchangeId;
use sallyport_domain::provider::{AWS_STS_ISSUER, ProviderKind};
use serde::{Deserialize, Serialize};

use crate::authentication::{AuthenticationError, Door, authenticate};
use crate::mint::{self, Minted};
use crate::pipeline::{self, Answer, Attempt, Locator, TokenForm, Wanted};
use crate::reference;
use crate::services::Services;

/// Largest request body, in bytes: a token of 16 KiB with room for escapes.
pub const BODY_MAX: usize = 64 * 1024;

/// The major version of the API that these RPCs speak; clients warn when theirs differs.
const API_VERSION: &str = "13";

const PROTOBUF: &str = "application/protobuf";
const BINARY_TYPES: [&str; 3] = [PROTOBUF, "application/octet-stream", "application/grpc+proto"];

/// `google.rpc.Code`, as far as we use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The request is wrong.
    InvalidArgument = 3,
    /// No such method.
    NotFound = 5,
    /// Refused.
    PermissionDenied = 7,
    /// Rate limit.
    ResourceExhausted = 8,
    /// Not with this HTTP method.
    Unimplemented = 12,
    /// Something needed cannot be reached.
    Unavailable = 14,
    /// Not, or no longer, proven who one is.
    Unauthenticated = 16,
}

impl Code {
    const fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }
}

/// `google.rpc.Status` without details.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Where exchanges are asked for.
pub(crate) const EXCHANGE: &str = "/SecureTokenService/ExchangeExternalToken";

/// The request of `ExchangeExternalToken`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
struct ExchangeExternalTokenRequest {
    #[prost(string, tag = "1")]
    #[serde(alias = "issuerUri", deserialize_with = "text")]
    issuer_uri: String,
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "text")]
    audience: String,
    #[prost(string, tag = "3")]
    #[serde(alias = "jwtToken", deserialize_with = "text")]
    jwt_token: String,
    #[prost(string, tag = "4")]
    #[serde(alias = "responseType", deserialize_with = "text")]
    response_type: String,
}

/// In protobuf's JSON, null means the default.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct ExchangeExternalTokenResponse {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    base64_credential: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    #[serde(serialize_with = "serving")]
    status: i32,
    #[prost(string, tag = "2")]
    time: String,
    #[prost(string, tag = "3")]
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[prost(string, tag = "4")]
    build: String,
}

const SERVING: i32 = 1;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn serving<S: serde::Serializer>(status: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *status == SERVING { "SERVING" } else { "UNKNOWN" })
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Empty {}

/// How to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    pub(crate) const ALL: [Self; 2] = [Self::Protobuf, Self::Json];

    /// By `Accept`, compared literally; without one by the request's own type.
    pub(crate) fn of_response(headers: &HeaderMap) -> Self {
        let named = headers.get(header::ACCEPT).or_else(|| headers.get(header::CONTENT_TYPE));
        Self::named(named.map(HeaderValue::as_bytes))
    }

    /// As the header says that it goes by.
    pub(crate) fn named(value: Option<&[u8]>) -> Self {
        match value {
            Some(value) if BINARY_TYPES.iter().any(|t| value == t.as_bytes()) => Self::Protobuf,
            _ => Self::Json,
        }
    }

    /// By `Content-Type` without parameters; a missing one is JSON.
    ///
    /// # Errors
    /// The type, when it is none of those known.
    fn of_request(headers: &HeaderMap) -> Result<Self, String> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Self::Json) };
        let value = value.to_str().unwrap_or("unreadable");
        let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "application/json" | "" => Ok(Self::Json),
            binary if BINARY_TYPES.contains(&binary) => Ok(Self::Protobuf),
            other => Err(other.chars().take(100).collect()),
        }
    }

    fn decode<M: Message + Default + for<'de> Deserialize<'de>>(self, body: &[u8]) -> Result<M, String> {
        match self {
            _ if body.is_empty() => Ok(M::default()),
            Self::Protobuf => {
                M::decode(body).map_err(|_| "the body is not the protobuf message of this method".to_owned())
            }
            // serde would take an array for a message, member by member.
            Self::Json if !body.trim_ascii_start().starts_with(b"{") => {
                Err("the body is not the JSON message of this method: it must be an object".to_owned())
            }
            Self::Json => serde_json::from_slice(body).map_err(|error| {
                format!(
                    "the body is not the JSON message of this method (line {}, column {})",
                    error.line(),
                    error.column()
                )
            }),
        }
    }

    fn respond<M: Message + Serialize>(self, status: StatusCode, message: &M) -> Response {
        let (content_type, body) = match self {
            Self::Protobuf => (PROTOBUF, message.encode_to_vec()),
            // A struct of strings and numbers always serialises.
            Self::Json => ("application/json", serde_json::to_vec(message).unwrap_or_default()),
        };
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    fn fail(self, code: Code, message: impl Into<String>) -> Response {
        self.respond(code.status(), &Status { code: code as i32, message: message.into() })
    }
}

/// `POST /SecureTokenService/ExchangeExternalToken`.
pub async fn exchange_external_token(
    State(services): State<Arc<Services>>,
    request: Request<axum::body::Body>,
) -> Response {
    let encoding = Encoding::of_response(request.headers());
    let source_ip = services.trusted_proxies.client(request.extensions(), request.headers());
    let answer = match read::<ExchangeExternalTokenRequest>(request).await {
        Ok(message) => match attempt(&services, message, source_ip) {
            Ok(attempt) => Box::pin(pipeline::exchange(&services, &attempt)).await,
            Err(wrong) => pipeline::refuse(&services, Protocol::Rpc, Refusal::MalformedRequest(wrong)),
        },
        Err(wrong) => pipeline::refuse(&services, Protocol::Rpc, Refusal::MalformedRequest(wrong)),
    };
    respond(&services, encoding, answer)
}

fn attempt(
    services: &Services,
    message: ExchangeExternalTokenRequest,
    source_ip: Option<IpAddr>,
) -> Result<Attempt, String> {
    for (value, name) in
        [(&message.issuer_uri, "issuer_uri"), (&message.audience, "audience"), (&message.jwt_token, "jwt_token")]
    {
        if value.trim().is_empty() {
            return Err(format!("{name} is missing"));
        }
    }
    let wanted = match message.response_type.as_str() {
        "" => Wanted::KeyPair,
        "TOKEN" => Wanted::AccessToken,
        _ => return Err("response_type must be TOKEN or absent".to_owned()),
    };
    let form = match ProviderKind::of_issuer(&message.issuer_uri) {
        ProviderKind::AwsSts => TokenForm::AwsRequest,
        _ => TokenForm::Jwt,
    };
    let issuer = if form == TokenForm::AwsRequest { AWS_STS_ISSUER.to_owned() } else { message.issuer_uri };
    let locator = match services.installation.mrns.parse_scope(message.audience.trim()) {
        Some(scope) => Locator::Scope(scope, Some(issuer)),
        None => Locator::Unknown,
    };
    let requested_roles = Vec::new();
    Ok(Attempt { protocol: Protocol::Rpc, locator, form, token: message.jwt_token, wanted, requested_roles, source_ip })
}

fn respond(services: &Services, encoding: Encoding, answer: Answer) -> Response {
    let reference = answer.reference;
    let mut response = match answer.result {
        Ok(granted) => {
            let base64_credential = match &granted.credential {
                Minted::Document(document) => document.to_string(),
                Minted::Token(token) => mint::token_document(services, &granted, token).to_string(),
            };
            encoding.respond(StatusCode::OK, &ExchangeExternalTokenResponse { base64_credential })
        }
        Err(refusal) => refuse(encoding, refusal, reference),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reference::attach(&mut response, reference);
    response
}

fn refuse(encoding: Encoding, refusal: Refusal, reference: ExchangeId) -> Response {
    let retry_after = match refusal {
        Refusal::RateLimited(seconds) => Some(seconds),
        _ => None,
    };
    let (code, words) = words(refusal);
    let mut response = encoding.fail(code, format!("{words} (reference {reference})"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// wire.md's table, RPC column. Exhaustive on purpose.
fn words(refusal: Refusal) -> (Code, String) {
    match refusal {
        Refusal::MalformedRequest(what) => (Code::InvalidArgument, what),
        Refusal::MalformedToken(what) => (Code::InvalidArgument, what),
        Refusal::Expired => (Code::Unauthenticated, "the subject token has expired".into()),
        Refusal::TooLittleTimeLeft => (
            Code::Unauthenticated,
            "the subject token must have more than 3 minutes until expiration; get a fresh one".into(),
        ),
        Refusal::FromTheFuture => (Code::Unauthenticated, "the subject token is not valid yet; check the issuer's clock".into()),
        Refusal::AlgorithmNotAllowed => (
            Code::Unauthenticated,
            "the subject token's algorithm is not allowed; use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA".into(),
        ),
        Refusal::AudienceNotAccepted => (
            Code::Unauthenticated,
            "the subject token was made for another audience; request it for the audience in your configuration".into(),
        ),
        Refusal::RolesBeyondGrant => (Code::PermissionDenied, "roles were requested that are not granted".into()),
        Refusal::Denied => (
            Code::PermissionDenied,
            "request permission denied: nothing here accepts this token; an administrator can look up why".into(),
        ),
        Refusal::RateLimited(seconds) => (Code::ResourceExhausted, format!("too many requests; try again in {seconds} s")),
        Refusal::Unavailable => (Code::Unavailable, "a service that is needed cannot be reached just now; try again".into()),
    }
}

/// `POST /Health/Check`: no authentication.
pub async fn health_check(State(services): State<Arc<Services>>, request: Request<axum::body::Body>) -> Response {
    let encoding = Encoding::of_response(request.headers());
    if let Err(wrong) = read::<EmptyRequest>(request).await {
        return encoding.fail(Code::InvalidArgument, wrong);
    }
    let response = HealthCheckResponse {
        status: SERVING,
        time: services.now().to_rfc3339(),
        api_version: API_VERSION.to_owned(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
    };
    encoding.respond(StatusCode::OK, &response)
}

/// `POST /AgentManager/PingPong`: proves that a credential works.
pub async fn ping_pong(State(services): State<Arc<Services>>, request: Request<axum::body::Body>) -> Response {
    let encoding = Encoding::of_response(request.headers());
    if let Err(wrong) = check_headers(request.headers()) {
        return encoding.fail(Code::InvalidArgument, wrong);
    }
    let (parts, body) = request.into_parts();
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(wrong) => return encoding.fail(Code::InvalidArgument, wrong),
    };
    match authenticate(&services, &parts.headers, Door::Rpc(&body)).await {
        Ok(_) => encoding.respond(StatusCode::OK, &Empty {}),
        Err(AuthenticationError::Unauthenticated) => {
            encoding.fail(Code::Unauthenticated, "request permission unauthenticated")
        }
        Err(AuthenticationError::Unavailable) => {
            encoding.fail(Code::Unavailable, "a service that is needed cannot be reached just now; try again")
        }
    }
}

/// The answer to a call that took too long or crashed, in the encoding its caller reads: never empty, which an old client would
/// take for success. `None` when the path is no RPC service's.
pub(crate) fn unfinished(services: &Services, path: &str, encoding: Encoding) -> Option<Response> {
    if path == EXCHANGE {
        let refusal = Refusal::Unavailable;
        let reference = pipeline::refuse(services, Protocol::Rpc, refusal.clone()).reference;
        let mut response = refuse(encoding, refusal, reference);
        reference::attach(&mut response, reference);
        return Some(response);
    }
    ["/SecureTokenService/", "/Health/", "/AgentManager/"]
        .iter()
        .any(|service| path.starts_with(service))
        .then(|| encoding.fail(Code::Unavailable, "the request could not be finished just now; try again"))
}

/// As every answer of ours that is unavailable, in other words.
pub(crate) fn unavailable(encoding: Encoding, words: &str) -> Response {
    encoding.fail(Code::Unavailable, words)
}

/// Any other method of a known service, and known methods by another verb than POST.
pub async fn no_such_method(method: Method, headers: HeaderMap) -> Response {
    let encoding = Encoding::of_response(&headers);
    if method == Method::POST {
        encoding.fail(Code::NotFound, "method not defined")
    } else {
        encoding.fail(Code::Unimplemented, "RPC methods are called with POST")
    }
}

#[derive(Clone, PartialEq, Message, Deserialize)]
struct EmptyRequest {}

async fn read<M: Message + Default + for<'de> Deserialize<'de>>(
    request: Request<axum::body::Body>,
) -> Result<M, String> {
    check_headers(request.headers())?;
    let encoding = Encoding::of_request(request.headers())
        .map_err(|found| format!("unexpected content-type: {found}; use application/json or application/protobuf"))?;
    let body = read_body(request.into_body()).await?;
    encoding.decode(&body)
}

async fn read_body(body: axum::body::Body) -> Result<Bytes, String> {
    axum::body::to_bytes(body, BODY_MAX)
        .await
        .map_err(|_| format!("the body is longer than {BODY_MAX} bytes or was cut off"))
}

/// `Request-Timeout: <int><H|M|S|m|u|n>`; the value itself is not needed, every request here is short.
fn check_headers(headers: &HeaderMap) -> Result<(), String> {
    let Some(value) = headers.get("request-timeout") else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let number = text.strip_suffix(['H', 'M', 'S', 'm', 'u', 'n']).unwrap_or_default();
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err("Request-Timeout must be a whole number and one of H, M, S, m, u, n, such as 30S".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::every_refusal;

    /// Every refusal with its code, status and words: a change of any shows in review.
    #[test]
    fn refusals() {
        let table: Vec<String> = every_refusal()
            .into_iter()
            .map(|refusal| {
                let (code, words) = words(refusal);
                format!("{:>2} {} {words}", code as i32, code.status().as_u16())
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn errors_are_never_empty_in_either_encoding() {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let response = encoding.fail(Code::PermissionDenied, "no");
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert!(!axum::body::HttpBody::is_end_stream(response.body()));
        }
    }

    #[test]
    fn content_negotiation_is_that_of_the_reference_server() {
        let headers = |pairs: &[(header::HeaderName, &str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
        };
        let request = |value: &str| Encoding::of_request(&headers(&[(header::CONTENT_TYPE, value)]));
        assert_eq!(request("application/json; charset=utf-8"), Ok(Encoding::Json));
        assert_eq!(request("application/protobuf"), Ok(Encoding::Protobuf));
        assert_eq!(request("application/octet-stream"), Ok(Encoding::Protobuf));
        assert_eq!(Encoding::of_request(&HeaderMap::new()), Ok(Encoding::Json));
        assert_eq!(request("application/x-www-form-urlencoded"), Err("application/x-www-form-urlencoded".into()));
        let response = |pairs: &[(header::HeaderName, &str)]| Encoding::of_response(&headers(pairs));
        assert_eq!(response(&[(header::ACCEPT, "application/protobuf")]), Encoding::Protobuf);
        assert_eq!(
            response(&[(header::ACCEPT, "*/*"), (header::CONTENT_TYPE, "application/protobuf")]),
            Encoding::Json
        );
        assert_eq!(response(&[(header::CONTENT_TYPE, "application/protobuf")]), Encoding::Protobuf);
        assert_eq!(response(&[]), Encoding::Json);
    }

    #[test]
    fn request_timeouts_are_a_number_and_a_unit() {
        let check = |value: &str| {
            check_headers(&[("request-timeout".parse().unwrap(), value.parse().unwrap())].into_iter().collect())
        };
        assert!(check("30S").is_ok());
        for bad in ["30", "S", "-1S", "1.5S", "999999999S", "30s"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_takes_both_spellings_and_null_and_ignores_the_unknown() {
        let read = |text: &str| Encoding::Json.decode::<ExchangeExternalTokenRequest>(text.as_bytes());
        let message = read(r#"{"issuerUri":"i","audience":null,"jwt_token":"t","other":[1]}"#).unwrap();
        assert_eq!(
            (message.issuer_uri.as_str(), message.audience.as_str(), message.jwt_token.as_str()),
            ("i", "", "t")
        );
        assert!(read(r#"{"jwt_token":1}"#).is_err());
        assert!(read(r#"{"jwt_token":"a","jwtToken":"b"}"#).is_err());
        assert!(read("[]").is_err());
        let secret = read(r#"{"jwt_token":"SECRET" "#).unwrap_err();
        assert!(!secret.contains("SECRET"), "{secret}");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Encoding::Json.decode::<ExchangeExternalTokenRequest>(&body);
            let _ = Encoding::Protobuf.decode::<ExchangeExternalTokenRequest>(&body);
        }
    }
}
