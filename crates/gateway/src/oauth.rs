//! The OAuth 2.0 token endpoint: token exchange (RFC 8693) in the shape ConductorOne's clients send, and a little more.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use memchr::{memchr_iter, memchr2};
use percent_encoding::percent_decode_str;
use sallyport_domain::decision::Refusal;
use sallyport_domain::exchange::{CredentialKind, Protocol};
use sallyport_domain::id::ExchangeId;
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::scope_text;
use serde::Serialize;
use serde_json::json;

use crate::mint::Minted;
use crate::pipeline::{self, Answer, Attempt, Granted, Locator, TokenForm, Wanted};
use crate::reference;
use crate::services::Services;

/// Largest request body, in bytes: a token of 16 KiB, percent-encoded.
pub const BODY_MAX: usize = 64 * 1024;

/// The one grant type here (RFC 8693 section 2.1).
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const AWS4_REQUEST: &str = "urn:ietf:params:aws:token-type:aws4_request";

/// An error of RFC 6749 section 5.2 with its words.
#[derive(Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    error: &'static str,
    pub(crate) description: String,
    retry_after: Option<u32>,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            error_description: &'a str,
        }
        let body = Body { error: self.error, error_description: &self.description };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl Refused {
    pub(crate) fn unavailable() -> Self {
        Refusal::Unavailable.into()
    }

    pub(crate) fn request(description: impl Into<String>) -> Self {
        Self::bad("invalid_request", description)
    }

    fn bad(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into(), retry_after: None }
    }
}

/// wire.md's table, OAuth column. Exhaustive on purpose.
impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let grant = |words: &str| Self::bad("invalid_grant", words);
        match refusal {
            Refusal::MalformedRequest(what) => Self::request(what),
            Refusal::MalformedToken(what) => Self::bad("invalid_grant", what),
            Refusal::Expired => grant("the subject token has expired"),
            Refusal::TooLittleTimeLeft => grant("the subject token ends too soon; get a fresh one"),
            Refusal::FromTheFuture => grant("the subject token is not valid yet; check the issuer's clock"),
            Refusal::AlgorithmNotAllowed => grant("the subject token's algorithm is not allowed"),
            Refusal::AudienceNotAccepted => grant(
                "the subject token was made for another audience; request it for the audience in your configuration",
            ),
            Refusal::Denied => grant("nothing here accepts this token; an administrator can look up why"),
            Refusal::RolesBeyondGrant => Self::bad("invalid_scope", "a requested scope is not granted"),
            Refusal::RateLimited(seconds) => Self {
                status: StatusCode::TOO_MANY_REQUESTS,
                error: "temporarily_unavailable",
                description: format!("too many requests; try again in {seconds} s"),
                retry_after: Some(seconds),
            },
            Refusal::Unavailable => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                error: "temporarily_unavailable",
                description: "a service that is needed cannot be reached just now; try again".into(),
                retry_after: None,
            },
        }
    }
}

/// Where tokens are asked for.
pub(crate) const TOKEN: &str = "/auth/v1/token";

/// `POST /auth/v1/token`. Not an `async fn`, which would keep the request until it has answered.
pub fn token(
    State(services): State<Arc<Services>>,
    request: Request<axum::body::Body>,
) -> impl Future<Output = Response> + Send {
    let source_ip = services.trusted_proxies.client(request.extensions(), request.headers());
    let body = read(request);
    async move {
        let attempt = match body.await {
            Ok(body) => Form::parse(&body).and_then(|form| attempt(&services, form, source_ip)),
            Err(refused) => Err(refused),
        };
        match attempt {
            Ok(attempt) => {
                let kind = attempt.wanted.kind();
                // Boxed: what is large is not to be moved through every layer around this one.
                let answer = Box::pin(pipeline::exchange(&services, &attempt)).await;
                respond(&services, answer, kind)
            }
            Err(refused) => refuse(&services, refused, None),
        }
    }
}

/// The answer to a token request that took too long or crashed.
pub(crate) fn unfinished(services: &Services) -> Response {
    let reference = pipeline::refuse(services, Protocol::Oauth, Refusal::Unavailable).reference;
    refuse(services, Refusal::Unavailable.into(), Some(reference))
}

/// As every answer of ours that is 503, in other words.
pub(crate) fn unavailable(words: &str) -> Response {
    Refused { description: words.to_owned(), ..Refused::unavailable() }.into_response()
}

/// The body of a request that says it is a form.
pub(crate) fn read(request: Request<axum::body::Body>) -> impl Future<Output = Result<Bytes, Refused>> + Send {
    let acceptable = check_content_type(request.headers());
    let body = request.into_body();
    async move {
        acceptable?;
        axum::body::to_bytes(body, BODY_MAX)
            .await
            .map_err(|_| Refused::request(format!("the body is longer than {BODY_MAX} bytes or was cut off")))
    }
}

/// Most parameters of a form, empty ones included.
const PARAMETERS: usize = 32;

/// The parameters of a form that were given and not empty: too few to be looked up any faster than one by one.
pub(crate) struct Form<'b>(Vec<(Cow<'b, str>, Cow<'b, str>)>);

impl<'b> Form<'b> {
    /// Reads a form: empty values count as absent, a repeated parameter is an error (RFC 6749 section 3.2).
    ///
    /// # Errors
    /// What is wrong, to be told to the caller.
    pub(crate) fn parse(body: &'b [u8]) -> Result<Self, Refused> {
        let body = str::from_utf8(body).map_err(|_| not_a_form())?;
        let mut parameters: Vec<(Cow<'b, str>, Cow<'b, str>)> = Vec::with_capacity(8);
        let mut began = 0;
        for ended in memchr_iter(b'&', body.as_bytes()).chain([body.len()]) {
            let pair = &body[std::mem::replace(&mut began, ended + 1)..ended];
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if parameters.iter().any(|(known, _)| *known == name) {
                let shown: String = name.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
                return Err(Refused::request(format!("the parameter '{shown}' is repeated")));
            }
            if parameters.len() == PARAMETERS {
                return Err(Refused::request(format!("the form has more than {PARAMETERS} parameters")));
            }
            parameters.push((name, value));
        }
        parameters.retain(|(_, value)| !value.is_empty());
        Ok(Self(parameters))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Takes a parameter out of the form.
    pub(crate) fn take(&mut self, name: &str) -> Option<Cow<'b, str>> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// A name or value as it is meant (URL Standard, "application/x-www-form-urlencoded parsing"), but that what is no UTF-8 is no
/// text and not another one.
///
/// # Errors
/// When it is none.
fn decoded(text: &str) -> Result<Cow<'_, str>, Refused> {
    // Tokens are long and have nothing to decode.
    if memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Ok(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for (index, words) in text.split('+').enumerate() {
        if index > 0 {
            bytes.push(b' ');
        }
        bytes.extend(percent_decode_str(words));
    }
    String::from_utf8(bytes).map(Cow::from).map_err(|_| not_a_form())
}

fn not_a_form() -> Refused {
    Refused::request("the body is not a valid form")
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refused> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Ok(())
    } else {
        Err(Refused::request("the content type must be application/x-www-form-urlencoded"))
    }
}

fn attempt(services: &Services, mut form: Form<'_>, source_ip: Option<IpAddr>) -> Result<Attempt, Refused> {
    let grant_type = form.take("grant_type").ok_or_else(|| Refused::request("grant_type is missing"))?;
    if grant_type != TOKEN_EXCHANGE {
        return Err(Refused::bad("unsupported_grant_type", format!("grant_type must be {TOKEN_EXCHANGE}")));
    }
    for name in ["actor_token", "actor_token_type", "resource"] {
        if form.has(name) {
            return Err(Refused::request(format!("{name} is not supported")));
        }
    }
    let token = form.take("subject_token").ok_or_else(|| Refused::request("subject_token is missing"))?;
    let form_of_token = match form.take("subject_token_type").as_deref() {
        None => return Err(Refused::request("subject_token_type is missing")),
        Some(JWT | ID_TOKEN) => TokenForm::Jwt,
        Some(AWS4_REQUEST) => TokenForm::AwsRequest,
        Some(_) => {
            return Err(Refused::request(format!("subject_token_type must be {JWT}, {ID_TOKEN} or {AWS4_REQUEST}")));
        }
    };
    let id_token_wanted = match form.take("requested_token_type").as_deref() {
        None | Some(ACCESS_TOKEN) => false,
        Some(ID_TOKEN) => true,
        Some(_) => return Err(Refused::request(format!("requested_token_type must be {ACCESS_TOKEN} or {ID_TOKEN}"))),
    };
    let audience = form.take("audience");
    let (locator, target) = match (form.take("client_id"), audience) {
        (Some(client), target) => (Locator::Client(client.into_owned()), target),
        (None, Some(which)) => (locate(services, &which), None),
        (None, None) => return Err(Refused::request("client_id is missing; it is the trust's client ID")),
    };
    let wanted = match (id_token_wanted, target) {
        (false, None) => Wanted::AccessToken,
        (true, Some(audience)) if audience.len() <= 1_024 => Wanted::IdToken { audience: audience.into_owned() },
        (true, Some(_)) => return Err(Refused::request("audience is too long")),
        (true, None) => {
            return Err(Refused::request("an ID token needs client_id, and in audience the third party it is for"));
        }
        // An access token is for this service only.
        (false, Some(target)) if is_self(services, &target) => Wanted::AccessToken,
        (false, Some(_)) => {
            return Err(Refused::bad("invalid_target", "only an ID token may name a third party as audience"));
        }
    };
    let requested_roles: Vec<String> =
        form.take("scope").map(|s| s.split_ascii_whitespace().map(str::to_owned).collect()).unwrap_or_default();
    let (protocol, form, token) = (Protocol::Oauth, form_of_token, token.into_owned());
    Ok(Attempt { protocol, locator, form, token, wanted, requested_roles, source_ip })
}

fn is_self(services: &Services, audience: &str) -> bool {
    let installation = &services.installation;
    audience == installation.public_url || audience == installation.tenant_host()
}

/// `audience` without a client ID says which trust: a client ID, a trust or binding MRN, or a scope MRN.
fn locate(services: &Services, which: &str) -> Locator {
    if !which.starts_with("//") {
        return Locator::Client(which.to_owned());
    }
    match services.installation.mrns.parse(which) {
        Some(Resource::Trust(scope, id) | Resource::Binding(scope, id)) => Locator::Trust(scope, id),
        Some(Resource::Scope(scope)) => Locator::Scope(scope, None),
        _ => Locator::Unknown,
    }
}

/// RFC 8693 section 2.2.1, but for the token itself, which is long and has nothing to escape.
#[derive(Serialize)]
struct Issued<'g> {
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: u32,
    scope: &'g str,
}

/// Bytes of such an answer, at most, besides the token and the scope.
const ANSWER: usize = 192;

fn respond(services: &Services, answer: Answer, kind: CredentialKind) -> Response {
    let granted = match answer.result {
        Ok(granted) => granted,
        Err(refusal) => return refuse(services, refusal.into(), Some(answer.reference)),
    };
    let (issued, token_type) = match kind {
        CredentialKind::IdToken => (ID_TOKEN, "N_A"),
        CredentialKind::AccessToken | CredentialKind::KeyPair => (ACCESS_TOKEN, "Bearer"),
    };
    let Granted { credential, terms, .. } = *granted;
    let scope = scope_text(&terms.roles);
    let body = Issued { issued_token_type: issued, token_type, expires_in: terms.lifetime, scope: &scope };
    let (Minted::Token(mut token) | Minted::Document(mut token)) = credential;
    debug_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')));
    // The answer is put around the token where it lies, if there is room: then no copy stays behind that has to be wiped.
    let room = token.len() + scope.len() + ANSWER;
    let mut json = if token.capacity() < room {
        let mut json = String::with_capacity(room);
        json.push_str(&token);
        json
    } else {
        std::mem::take(&mut *token)
    };
    json.insert_str(0, "{\"access_token\":\"");
    json.push('"');
    let mut json = json.into_bytes();
    let rest = json.len();
    if serde_json::to_writer(&mut json, &body).is_err() {
        return refuse(services, Refusal::Unavailable.into(), Some(answer.reference));
    }
    json[rest] = b',';
    // All headers that it will have: a table that need not grow.
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(json.into());
    *response.headers_mut() = headers;
    finish(response, answer.reference)
}

fn refuse(services: &Services, refused: Refused, reference: Option<ExchangeId>) -> Response {
    let reference = reference.unwrap_or_else(|| {
        let refusal = Refusal::MalformedRequest(refused.description.clone());
        pipeline::refuse(services, Protocol::Oauth, refusal).reference
    });
    let body = json!({
        "error": refused.error,
        "error_description": refused.description,
        "reference": reference.to_string(),
    });
    let mut response = (refused.status, Json(body)).into_response();
    if let Some(seconds) = refused.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    finish(response, reference)
}

fn finish(mut response: Response, reference: ExchangeId) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    reference::attach(&mut response, reference);
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::every_refusal;

    /// Every refusal with its status, code and words: a change of any shows in review.
    #[test]
    fn refusals() {
        let table: Vec<String> = every_refusal()
            .into_iter()
            .map(|refusal| {
                let refused = Refused::from(refusal);
                format!("{} {} {}", refused.status.as_u16(), refused.error, refused.description)
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn what_needs_no_decoding_reads_as_what_is_decoded() {
        let Form(read) = Form::parse(b"&&a=b=c&d=e%2Bf+g&h&%69=j%C3%A9&=k&").unwrap();
        let mut read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        read.sort_unstable();
        assert_eq!(read, [("", "k"), ("a", "b=c"), ("d", "e+f g"), ("i", "jé")]);
        for no_text in [&b"a=\xff"[..], b"a=%ff", b"%ff=a", b"a=+%C3+%A9"] {
            assert!(Form::parse(no_text).is_err());
        }
        // What is no escape stands for itself.
        let mut form = Form::parse(b"a=%&b=%4&c=%zz%2525").unwrap();
        assert_eq!(["a", "b", "c"].map(|name| form.take(name).unwrap()), ["%", "%4", "%zz%25"]);
    }

    #[test]
    fn repeated_parameters_are_refused_and_empty_ones_are_absent() {
        for twice in ["a=1&a=2", "a=1&%61=2", "a=&a=2", "a&b=1&a=1"] {
            assert!(Form::parse(twice.as_bytes()).is_err(), "{twice}");
        }
        let mut form = Form::parse(b"a=&b=x%20y").unwrap();
        assert!(!form.has("a"));
        assert_eq!((form.take("a"), form.take("b").as_deref(), form.take("b")), (None, Some("x y"), None));
    }

    proptest! {
        /// What is no text is refused here; the other puts U+FFFD in its place.
        #[test]
        fn a_value_reads_as_another_library_reads_it(value in "([a-zé+]|%[0-9a-fA-F]{2}|%c3%a9|%[g-z]?){0,20}") {
            let pair = format!("n={value}");
            let (_, other) = form_urlencoded::parse(pair.as_bytes()).next().unwrap();
            match decoded(&value) {
                Ok(decoded) => prop_assert_eq!(decoded, other),
                Err(_) => prop_assert!(other.contains(char::REPLACEMENT_CHARACTER)),
            }
        }
    }

    #[test]
    fn a_form_has_so_many_parameters_at_most() {
        let with = |count: usize| (0..count).map(|n| format!("p{n}=")).collect::<Vec<_>>().join("&");
        assert!(Form::parse(with(PARAMETERS).as_bytes()).is_ok());
        assert!(Form::parse(with(PARAMETERS + 1).as_bytes()).is_err());
    }
}
