//! An AWS STS that knows `GetCallerIdentity` and checks Signature Version 4 for real.
//!
//! It answers in STS's words, XML or JSON, right and wrong. It speaks HTTP/1.1 only, as STS does. Not modelled:
//! signatures in the query string, which no client of ours sends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use serde_json::json;
use time::PrimitiveDateTime;

use crate::authority::TestAuthority;
use crate::https::{Failure, HttpsServer, Reply, reply, response};
use crate::sigv4::{AMZ_DATE, AccessKey, Canonical, SCHEME, SigningScope, amz_date, decode, region_of};
use crate::{lock, random_uuid};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// How far `X-Amz-Date` may be from now, in seconds.
const WINDOW: i64 = 15 * 60;
/// More than any request of ours has.
const BODY_LIMIT: usize = 64 * 1024;

/// Who a set of access keys belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerIdentity {
    /// Twelve digits.
    pub account: String,
    /// Such as `arn:aws:sts::123456789012:assumed-role/Deploy/i-0abc`.
    pub arn: String,
    /// Such as `AROAEXAMPLEID:i-0abc`.
    pub user_id: String,
}

impl CallerIdentity {
    /// A session of an assumed role.
    pub fn assumed_role(account: &str, role: &str, session: &str) -> Self {
        Self {
            account: account.to_owned(),
            arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{session}"),
            user_id: format!("AROA3XFRBF535PLBIFPI4:{session}"),
        }
    }

    /// An IAM user.
    pub fn user(account: &str, name: &str) -> Self {
        Self {
            account: account.to_owned(),
            arn: format!("arn:aws:iam::{account}:user/{name}"),
            user_id: "AIDACKCEVSQ6C2EXAMPLE".to_owned(),
        }
    }
}

/// An answer to give whatever the request, for tests of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A refusal in STS's words.
struct Refusal {
    status: u16,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn mismatch(message: impl Into<String>) -> Self {
        Self::new(403, "SignatureDoesNotMatch", message)
    }
}

/// Tells the time in Unix seconds.
type Clock = Box<dyn Fn() -> i64 + Send + Sync>;

struct State {
    clock: Clock,
    identities: Mutex<HashMap<String, (AccessKey, CallerIdentity)>>,
    failure: Mutex<Failure>,
    answer: Mutex<Option<Answer>>,
    seen: Mutex<Vec<SeenRequest>>,
    requests: AtomicU64,
    verified: AtomicU64,
}

impl State {
    async fn handle(self: Arc<Self>, request: Request<Body>) -> Reply {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
            return Ok(response(413, "text/plain", "too long\n"));
        };
        let seen = SeenRequest {
            method: parts.method.as_str().to_owned(),
            target: parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body: body.to_vec(),
        };
        lock(&self.seen).push(seen.clone());

        let failure = lock(&self.failure).clone();
        let replaced = lock(&self.answer).clone();
        if let Some(answer) = replaced {
            return reply(failure, answer.status, &answer.content_type, answer.body).await;
        }
        let wants_json = parts
            .headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.starts_with("application/json"));
        let request_id = random_uuid();
        let (status, body) = match self.check(&seen, &parts.headers) {
            Ok(identity) => {
                self.verified.fetch_add(1, Ordering::SeqCst);
                (
                    200,
                    if wants_json {
                        identity_json(&identity, &request_id)
                    } else {
                        identity_xml(&identity, &request_id)
                    },
                )
            }
            Err(refusal) => {
                tracing::debug!(code = refusal.code, message = refusal.message, "stand-in STS refuses");
                let body =
                    if wants_json { refusal_json(&refusal, &request_id) } else { refusal_xml(&refusal, &request_id) };
                (refusal.status, body)
            }
        };
        let content_type = if wants_json { "application/json" } else { "text/xml" };
        let mut reply = reply(failure, status, content_type, body.into_bytes()).await?;
        if let Ok(id) = request_id.parse() {
            reply.headers_mut().insert("x-amzn-requestid", id);
        }
        Ok(reply)
    }

    /// The order of the checks follows STS: what is asked, whether it is signed at all, when, by whom, rightly.
    fn check(&self, request: &SeenRequest, headers: &HeaderMap) -> Result<CallerIdentity, Refusal> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if path != "/" {
            return Err(Refusal::new(404, "UnknownOperationException", "no such path"));
        }
        if request.method == "POST" && !headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Refusal::new(411, "MissingContentLength", "You must provide the Content-Length HTTP header."));
        }
        if request.method != "POST" && request.method != "GET" {
            return Err(Refusal::new(405, "MethodNotAllowed", "GET or POST"));
        }
        self.check_action(request, query, headers)?;

        for name in ["authorization", "host", "x-amz-date", "x-amz-security-token"] {
            if headers.get_all(name).iter().count() > 1 {
                return Err(Refusal::new(400, "IncompleteSignature", format!("more than one {name}")));
            }
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = text("authorization").ok_or_else(|| {
            Refusal::new(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
        })?;
        let parsed = Authorization::parse(authorization)
            .ok_or_else(|| Refusal::new(400, "IncompleteSignature", format!("cannot parse '{authorization}'")))?;
        let date = text("x-amz-date").ok_or_else(|| {
            Refusal::new(
                400,
                "IncompleteSignature",
                "Authorization header requires existence of an 'X-Amz-Date' header.",
            )
        })?;
        self.check_date(date)?;

        let host = text("host").unwrap_or_default();
        let [day, region, service, end] = parsed.scope;
        if !date.starts_with(day) || service != "sts" || end != "aws4_request" {
            return Err(Refusal::mismatch(format!(
                "Credential should be scoped to correct service and date: {day}/{service}"
            )));
        }
        let expected_region = region_of(host.split(':').next().unwrap_or(host));
        if region != expected_region {
            return Err(Refusal::mismatch(format!(
                "Credential should be scoped to a valid region, not '{region}' (this is {expected_region})."
            )));
        }
        let unknown =
            || Refusal::new(403, "InvalidClientTokenId", "The security token included in the request is invalid.");
        let (key, identity) = lock(&self.identities).get(parsed.access_key).cloned().ok_or_else(unknown)?;
        if key.session_token.as_deref() != text("x-amz-security-token") {
            return Err(unknown());
        }

        let mut sorted = parsed.signed_headers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted != parsed.signed_headers {
            return Err(Refusal::new(400, "IncompleteSignature", "SignedHeaders must be sorted and lower case"));
        }
        let must_be_signed = headers
            .keys()
            .map(|name| name.as_str())
            .filter(|name| *name == "host" || name.starts_with("x-amz-"))
            .find(|name| !sorted.contains(name));
        if let Some(name) = must_be_signed {
            return Err(Refusal::mismatch(format!("'{name}' must be a 'SignedHeader' in the AWS Credential.")));
        }
        let mut signed = Vec::with_capacity(sorted.len());
        for name in sorted {
            let values: Vec<&str> =
                request.headers.iter().filter(|(seen, _)| seen == name).map(|(_, value)| value.as_str()).collect();
            if values.is_empty() {
                return Err(Refusal::mismatch(format!("signed header '{name}' is not in the request")));
            }
            signed.push((name.to_owned(), values.join(",")));
        }
        let canonical = Canonical { method: &request.method, path, query, headers: &signed, body: &request.body };
        let expected = canonical.signature(&key.secret, &SigningScope { region, service, date });
        if expected != parsed.signature {
            return Err(Refusal::mismatch(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                 Access Key and signing method. Consult the service documentation for details.",
            ));
        }
        Ok(identity)
    }

    /// STS takes parameters from the query and from a form body alike.
    fn check_action(&self, request: &SeenRequest, query: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let is_form = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let body = if is_form { String::from_utf8_lossy(&request.body) } else { "".into() };
        let values = |wanted: &str| -> Vec<Vec<u8>> {
            query
                .split('&')
                .chain(body.split('&'))
                .filter_map(|pair| pair.split_once('='))
                .filter(|(name, _)| decode(name) == wanted.as_bytes())
                .map(|(_, value)| decode(value))
                .collect()
        };
        let all = |name: &str, wanted: &[u8]| {
            let values = values(name);
            !values.is_empty() && values.iter().all(|value| value == wanted)
        };
        if all("Action", b"GetCallerIdentity") && all("Version", b"2011-06-15") {
            Ok(())
        } else {
            let action = values("Action").concat();
            let message =
                format!("Could not find operation {} for version 2011-06-15", String::from_utf8_lossy(&action));
            Err(Refusal::new(400, "InvalidAction", message))
        }
    }

    fn check_date(&self, date: &str) -> Result<(), Refusal> {
        let signed = PrimitiveDateTime::parse(date, AMZ_DATE)
            .map_err(|_| {
                Refusal::new(
                    400,
                    "IncompleteSignature",
                    format!("Date must be in ISO-8601 'basic format'. Got '{date}'."),
                )
            })?
            .assume_utc()
            .unix_timestamp();
        let now = (self.clock)();
        if signed < now - WINDOW {
            let (now, limit) = (amz_date(now), amz_date(now - WINDOW));
            return Err(Refusal::mismatch(format!(
                "Signature expired: {date} is now earlier than {limit} ({now} - 15 min.)"
            )));
        }
        if signed > now + WINDOW {
            let (now, limit) = (amz_date(now), amz_date(now + WINDOW));
            return Err(Refusal::mismatch(format!(
                "Signature not yet current: {date} is still later than {limit} ({now} + 15 min.)"
            )));
        }
        Ok(())
    }
}

/// The parts of an `Authorization` header.
struct Authorization<'a> {
    access_key: &'a str,
    scope: [&'a str; 4],
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let fields = text.strip_prefix(SCHEME)?.strip_prefix(' ')?;
        let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        let (access_key, scope) = field("Credential")?.split_once('/')?;
        let scope: Vec<&str> = scope.split('/').collect();
        Some(Self {
            access_key,
            scope: scope.try_into().ok()?,
            signed_headers: field("SignedHeaders")?.split(';').collect(),
            signature: field("Signature")?,
        })
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The XML that STS answers with for this identity.
pub fn identity_xml(identity: &CallerIdentity, request_id: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\">\n  <GetCallerIdentityResult>\n    <Arn>{}</Arn>\n    \
         <UserId>{}</UserId>\n    <Account>{}</Account>\n  </GetCallerIdentityResult>\n  <ResponseMetadata>\n    \
         <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n",
        escape(&identity.arn),
        escape(&identity.user_id),
        escape(&identity.account),
    )
}

fn identity_json(identity: &CallerIdentity, request_id: &str) -> String {
    json!({"GetCallerIdentityResponse": {
        "GetCallerIdentityResult": {
            "Account": identity.account, "Arn": identity.arn, "UserId": identity.user_id,
        },
        "ResponseMetadata": {"RequestId": request_id},
    }})
    .to_string()
}

fn refusal_xml(refusal: &Refusal, request_id: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\">\n  <Error>\n    <Type>Sender</Type>\n    <Code>{}</Code>\n    \
         <Message>{}</Message>\n  </Error>\n  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n",
        refusal.code,
        escape(&refusal.message),
    )
}

fn refusal_json(refusal: &Refusal, request_id: &str) -> String {
    json!({
        "Error": {"Code": refusal.code, "Message": refusal.message, "Type": "Sender"},
        "RequestId": request_id,
    })
    .to_string()
}

/// How an STS is set up. See [`Sts::builder`].
pub struct StsBuilder {
    clock: Clock,
    hosts: Vec<String>,
    port: u16,
}

impl StsBuilder {
    /// The hosts in its certificate. Default: `sts.amazonaws.com`, the regional ones of us-east-1 and eu-west-1, and
    /// `127.0.0.1`.
    #[must_use]
    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        self.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        self
    }

    /// Listens on this port instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Listens, within the current tokio runtime.
    ///
    /// # Errors
    /// When the port cannot be had or a host is no name for a certificate.
    pub async fn start(self, authority: &TestAuthority) -> Result<Sts> {
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        let config = authority.issue_server(&hosts)?.server_config_with_alpn(&["http/1.1"])?;
        let state = Arc::new(State {
            clock: self.clock,
            identities: Mutex::default(),
            failure: Mutex::default(),
            answer: Mutex::default(),
            seen: Mutex::default(),
            requests: AtomicU64::default(),
            verified: AtomicU64::default(),
        });
        let handling = state.clone();
        let handler = Arc::new(move |request| Box::pin(handling.clone().handle(request)) as _);
        let server = HttpsServer::start(config, self.port, handler).await.context("starting the stand-in STS")?;
        Ok(Sts { state, server })
    }
}

/// A running STS. Dropping it closes the port.
pub struct Sts {
    state: Arc<State>,
    server: HttpsServer,
}

impl Sts {
    /// An STS that reads the time (Unix seconds) from `clock`.
    pub fn builder(clock: impl Fn() -> i64 + Send + Sync + 'static) -> StsBuilder {
        let hosts = [
            "sts.amazonaws.com",
            "sts.us-east-1.amazonaws.com",
            "sts.eu-west-1.amazonaws.com",
            "localhost",
            "127.0.0.1",
        ];
        StsBuilder { clock: Box::new(clock), hosts: hosts.map(str::to_owned).to_vec(), port: 0 }
    }

    /// From now on these keys are that identity's.
    pub fn add_identity(&self, key: AccessKey, identity: CallerIdentity) {
        lock(&self.state.identities).insert(key.id.clone(), (key, identity));
    }

    /// From now on this access key is unknown.
    pub fn remove_identity(&self, access_key_id: &str) {
        lock(&self.state.identities).remove(access_key_id);
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// An entry for `SALLYPORT_OUTBOUND_RESOLVE`: `host:443=127.0.0.1:port`.
    pub fn resolve_entry(&self, host: &str) -> String {
        format!("{host}:443={}", self.address())
    }

    /// Fails so from now on; [`Failure::None`] undoes it.
    pub fn set_failure(&self, failure: Failure) {
        *lock(&self.state.failure) = failure;
    }

    /// Answers so from now on, whatever the request; `None` undoes it.
    pub fn set_answer_override(&self, answer: Option<Answer>) {
        *lock(&self.state.answer) = answer;
    }

    /// Requests so far, failures included.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests whose signature was right.
    pub fn verified(&self) -> u64 {
        self.state.verified.load(Ordering::SeqCst)
    }

    /// Every request as it arrived, oldest first.
    pub fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.state.seen).clone()
    }

    /// TCP connections so far.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::client::exchange;
    use crate::sigv4::{GET_CALLER_IDENTITY, PresignOptions, presign};

    const NOW: i64 = 1_800_000_000;

    /// Sends a document to STS as Sallyport must: the listed headers, and the body if a form content type is there.
    async fn send(authority: &TestAuthority, sts: &Sts, document: &Value) -> (u16, String) {
        let url = document["url"].as_str().unwrap().strip_prefix("https://").unwrap();
        let (host, target) = url.split_once('/').unwrap();
        let mut head = format!("{} /{target} HTTP/1.1", document["method"].as_str().unwrap());
        let mut body = "";
        for header in document["headers"].as_array().unwrap() {
            let (key, value) = (header["key"].as_str().unwrap(), header["value"].as_str().unwrap());
            if key.eq_ignore_ascii_case("content-type") {
                body = GET_CALLER_IDENTITY;
            }
            head.push_str(&format!("\r\n{key}: {value}"));
        }
        head.push_str(&format!("\r\nContent-Length: {}", body.len()));
        exchange(authority, sts.address(), host, &head, body).await.unwrap()
    }

    #[tokio::test]
    async fn accepts_what_is_signed_rightly() {
        let authority = TestAuthority::new().unwrap();
        let sts = Sts::builder(|| NOW).start(&authority).await.unwrap();
        for key in [AccessKey::long_lived(), AccessKey::temporary()] {
            sts.add_identity(key.clone(), CallerIdentity::assumed_role("123456789012", "Deploy", "i-0abc"));
            for options in [
                PresignOptions::mondoo(NOW),
                PresignOptions::documented(NOW - 14 * 60),
                PresignOptions::mondoo(NOW).host("sts.eu-west-1.amazonaws.com"),
                PresignOptions::mondoo(NOW).header("x-sallyport-audience", "//captain.api.mondoo.app/spaces/a b"),
                PresignOptions::documented(NOW).header("x-goog-cloud-target-resource", "//iam.googleapis.com/x"),
                PresignOptions::documented(NOW).method("GET"),
            ] {
                let (status, body) = send(&authority, &sts, &presign(&key, &options)).await;
                assert_eq!(status, 200, "{options:?}: {body}");
                assert!(body.contains("<Arn>arn:aws:sts::123456789012:assumed-role/Deploy/i-0abc</Arn>"), "{body}");
            }
        }
        assert_eq!((sts.requests(), sts.verified()), (12, 12));
    }

    #[tokio::test]
    async fn refuses_what_is_not() {
        let authority = TestAuthority::new().unwrap();
        let sts = Sts::builder(|| NOW).start(&authority).await.unwrap();
        let key = AccessKey::temporary();
        sts.add_identity(key.clone(), CallerIdentity::user("123456789012", "alice"));
        let honest = || presign(&key, &PresignOptions::mondoo(NOW));
        let with = |options: PresignOptions| presign(&key, &options);
        let set = |name: &str, value: &str| {
            let mut document = honest();
            for header in document["headers"].as_array_mut().unwrap() {
                if header["key"] == name {
                    header["value"] = json!(value);
                }
            }
            document
        };
        let without = |name: &str| {
            let mut document = honest();
            document["headers"].as_array_mut().unwrap().retain(|header| header["key"] != name);
            document
        };
        let wrong_secret = AccessKey { secret: "other".to_owned(), ..key.clone() };
        let mut other_action = honest();
        other_action["url"] = json!("https://sts.amazonaws.com/?Action=AssumeRole&Version=2011-06-15");
        for (document, code) in [
            (presign(&wrong_secret, &PresignOptions::mondoo(NOW)), "SignatureDoesNotMatch"),
            (presign(&AccessKey::temporary(), &PresignOptions::mondoo(NOW)), "InvalidClientTokenId"),
            (with(PresignOptions::mondoo(NOW - 16 * 60)), "Signature expired"),
            (with(PresignOptions::mondoo(NOW + 16 * 60)), "Signature not yet current"),
            (with(PresignOptions::mondoo(NOW).region("eu-west-1")), "valid region"),
            (with(PresignOptions::mondoo(NOW).service("s3")), "SignatureDoesNotMatch"),
            (with(PresignOptions::mondoo(NOW).body("Action=AssumeRole")), "SignatureDoesNotMatch"),
            (with(PresignOptions::mondoo(NOW).unsigned_header("x-amz-target", "x")), "must be a"),
            (set("X-Amz-Date", &amz_date(NOW + 1)), "SignatureDoesNotMatch"),
            (set("X-Amz-Security-Token", "other"), "InvalidClientTokenId"),
            (without("X-Amz-Security-Token"), "InvalidClientTokenId"),
            (without("Authorization"), "MissingAuthenticationToken"),
            (without("Content-Type"), "SignatureDoesNotMatch"),
            (other_action, "InvalidAction"),
        ] {
            let (status, body) = send(&authority, &sts, &document).await;
            assert!((400..500).contains(&status) && body.contains(code), "{code}: {status} {body}");
        }
        assert_eq!(sts.verified(), 0);

        let answer = Answer { status: 200, content_type: "text/xml".to_owned(), body: b"<!DOCTYPE x>".to_vec() };
        sts.set_answer_override(Some(answer));
        assert_eq!(send(&authority, &sts, &honest()).await, (200, "<!DOCTYPE x>".to_owned()));
    }
}
