//! Pre-signed AWS `GetCallerIdentity` requests: read strictly, rebuilt, sent to STS, and its answer read strictly.
//!
//! Nothing of the caller's document is forwarded as it came: what is sent is put together here from parts that were
//! each checked, so that the document cannot choose a host, an action or a header of its own (Vault's CVE-2020-16250
//! and CVE-2020-16251).

use std::fmt;

use quick_xml::Reader;
use quick_xml::events::Event;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sallyport_domain::claims::{Claims, JSON_DEPTH_MAX, parse_object};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::Refusal;
use sallyport_domain::identity::Identity;
use sallyport_domain::provider::{AWS_STS_ISSUER, Provider};
use serde_json::{Map, Value, json};
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use url::Url;

use crate::jwt::{TOKEN_MAX, TokenFault, sha256};
use crate::outbound::{FetchError, Outbound, OutboundRequest};

/// The name of AWS's signature scheme (Signature Version 4).
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a request's date may be from now, either way, in seconds: as STS has it.
pub const WINDOW: i64 = 15 * 60;

/// The one action, as query and as form body.
const ACTION: [&str; 2] = ["Action=GetCallerIdentity", "Version=2011-06-15"];
const FORM: &str = "application/x-www-form-urlencoded";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");
const HEADERS_MAX: usize = 16;

/// Headers that a signed request may carry. The last two bind it to a receiver.
const HEADERS: [&str; 8] = [
    "authorization",
    "x-amz-date",
    "x-amz-security-token",
    "content-type",
    "host",
    "content-length",
    "x-sallyport-audience",
    "x-goog-cloud-target-resource",
];
const BINDING_HEADERS: [&str; 2] = ["x-sallyport-audience", "x-goog-cloud-target-resource"];

/// AWS's commercial regions.
const REGIONS: [&str; 34] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];
/// Those with a FIPS endpoint of their own.
const FIPS_REGIONS: [&str; 4] = ["us-east-1", "us-east-2", "us-west-1", "us-west-2"];

/// One STS host: what a request to it must be signed for, and whose identities it answers with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Endpoint {
    region: &'static str,
    partition: &'static str,
}

/// The endpoint of a host, compared whole; `None` for anything that is not on the computed list.
fn endpoint(host: &str) -> Option<Endpoint> {
    let of = |region, partition| Some(Endpoint { region, partition });
    if host == "sts.amazonaws.com" {
        return of("us-east-1", "aws");
    }
    let is = |prefix: &str, region: &str, suffix: &str| {
        host.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)) == Some(region)
    };
    if let Some(region) = REGIONS.into_iter().find(|region| is("sts.", region, ".amazonaws.com")) {
        return of(region, "aws");
    }
    if let Some(region) = FIPS_REGIONS.into_iter().find(|region| is("sts-fips.", region, ".amazonaws.com")) {
        return of(region, "aws");
    }
    match host {
        "sts.us-gov-east-1.amazonaws.com" => of("us-gov-east-1", "aws-us-gov"),
        "sts.us-gov-west-1.amazonaws.com" => of("us-gov-west-1", "aws-us-gov"),
        "sts.cn-north-1.amazonaws.com.cn" => of("cn-north-1", "aws-cn"),
        "sts.cn-northwest-1.amazonaws.com.cn" => of("cn-northwest-1", "aws-cn"),
        "sts.eusc-de-east-1.amazonaws.eu" => of("eusc-de-east-1", "aws-eusc"),
        _ => None,
    }
}

/// A well-formed pre-signed request that STS has not yet vouched for.
pub struct SignedRequest {
    method: Method,
    host: String,
    /// What is sent besides `Host` and `Content-Length`: only signed headers, and the content type.
    headers: Vec<(&'static str, String)>,
    body: String,
    date: Timestamp,
    /// Signed binding headers: for whom the request was made.
    audiences: Vec<String>,
    fingerprint: [u8; 32],
    token_hash: [u8; 32],
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest is a proof of identity.
        f.debug_struct("SignedRequest").field("host", &self.host).finish_non_exhaustive()
    }
}

fn malformed(what: impl Into<String>) -> TokenFault {
    TokenFault::malformed(what)
}

impl SignedRequest {
    /// Reads the document that AWS clients send: a JSON object of `url`, `method` and `headers`, the latter a list of
    /// `{key, value}`; also percent-encoded as a whole, as Google's libraries send it.
    ///
    /// # Errors
    /// Says which part is not acceptable, without repeating it.
    pub fn parse(text: &str) -> Result<Self, TokenFault> {
        let text = text.trim_ascii();
        if text.len() > TOKEN_MAX {
            return Err(malformed(format!("is longer than {TOKEN_MAX} bytes")));
        }
        let decoded;
        let json = if text.starts_with('{') {
            text.as_bytes()
        } else if text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%7B")) {
            decoded = percent_decode(text).ok_or_else(|| malformed("is not properly percent-encoded"))?;
            &decoded
        } else {
            return Err(malformed(
                "is not a pre-signed AWS request: a JSON object of url, method and headers is wanted",
            ));
        };
        let document = parse_object(json, JSON_DEPTH_MAX, HEADERS_MAX).map_err(|error| malformed(error.to_string()))?;
        if document.keys().any(|name| !matches!(name.as_str(), "url" | "method" | "headers" | "body")) {
            return Err(malformed("has members besides url, method, headers and body"));
        }
        let member = |name: &str| {
            document
                .get(name)
                .and_then(Value::as_str)
                .ok_or_else(|| malformed(format!("has no '{name}' that is a string")))
        };
        let method = match member("method")? {
            "POST" => Method::POST,
            "GET" => Method::GET,
            _ => return Err(malformed("has a method other than POST and GET")),
        };
        let host = read_url(member("url")?)?;
        let endpoint = endpoint(host).ok_or_else(|| malformed("names a host that is not an AWS STS endpoint"))?;
        let headers = Headers::read(document.get("headers"))?;
        if headers.get("host").is_some_and(|value| value != host) {
            return Err(malformed("has a 'host' header that differs from its URL's host"));
        }

        let date_text = headers.get("x-amz-date").ok_or_else(|| malformed("has no 'x-amz-date' header"))?;
        let date = PrimitiveDateTime::parse(date_text, DATE)
            .map_err(|_| malformed("has an 'x-amz-date' that is not of the form YYYYMMDD'T'HHMMSS'Z'"))?;
        let authorization = headers.get("authorization").ok_or_else(|| malformed("has no 'authorization' header"))?;
        let authorization = Authorization::read(authorization)?;
        if authorization.day != date_text.get(..8).unwrap_or_default() {
            return Err(malformed("is signed for another day than its 'x-amz-date'"));
        }
        if authorization.region != endpoint.region {
            return Err(malformed("is signed for another region than its host's"));
        }
        check_signed_headers(&authorization.signed, &headers)?;
        let signed = |name: &str| authorization.signed.contains(&name);

        let content_type = headers.get("content-type");
        if let Some(value) = content_type
            && !value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM)
        {
            return Err(malformed(format!("has a content type other than {FORM}")));
        }
        let form = ACTION.join("&");
        // The body is signed but not sent along (mondoo.md 2.5): there is one where a sign of one is.
        let has_body = method == Method::POST
            && headers.get("content-length") != Some("0")
            && (content_type.is_some() || signed("content-type") || signed("content-length"));
        let body = if has_body { form.clone() } else { String::new() };
        if headers.get("content-length").is_some_and(|length| length != body.len().to_string()) {
            return Err(malformed("has a 'content-length' that is not that of a GetCallerIdentity request"));
        }
        match document.get("body") {
            None | Some(Value::Null) => {}
            Some(Value::String(given)) if given.is_empty() || *given == form => {}
            Some(_) => return Err(malformed("has a body other than that of a GetCallerIdentity request")),
        }

        let sent = ["authorization", "x-amz-date", "x-amz-security-token", "content-type"]
            .into_iter()
            // An unsigned binding header says nothing, and STS need not see it.
            .chain(BINDING_HEADERS.into_iter().filter(|name| signed(name)));
        let kept: Vec<_> = sent.filter_map(|name| Some((name, headers.get(name)?.to_owned()))).collect();
        let audiences =
            kept.iter().filter(|(name, _)| BINDING_HEADERS.contains(name)).map(|(_, v)| v.clone()).collect();
        let fingerprint = sha256([authorization.access_key, date_text, authorization.signature].join("\n").as_bytes());
        Ok(Self {
            method,
            host: host.to_owned(),
            headers: kept,
            body,
            date: Timestamp::from_seconds(date.assume_utc().unix_timestamp()),
            audiences,
            fingerprint,
            token_hash: sha256(text.as_bytes()),
        })
    }

    /// The issuer that such a request belongs to.
    pub const fn issuer(&self) -> &'static str {
        AWS_STS_ISSUER
    }

    /// The STS host it is meant for; one of a computed list.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// SHA-256 of the whole document: how records name it.
    pub const fn token_hash(&self) -> [u8; 32] {
        self.token_hash
    }

    /// Checks that the request was signed less than [`WINDOW`] from `now`.
    ///
    /// # Errors
    /// [`Refusal::Expired`] or [`Refusal::FromTheFuture`].
    pub fn check_times(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.date.plus_seconds(WINDOW) <= now {
            Err(Refusal::Expired)
        } else if self.date > now.plus_seconds(WINDOW) {
            Err(Refusal::FromTheFuture)
        } else {
            Ok(())
        }
    }

    /// Names one use: access key, date and signature.
    pub(crate) const fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The request as we send it: what was read of the caller's, put together anew. `None` is never seen: whatever
    /// parses can be rebuilt.
    pub fn rebuild(&self) -> Option<OutboundRequest> {
        let url = Url::parse(&format!("https://{}/?{}", self.host, ACTION.join("&"))).ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        if self.method == Method::POST {
            headers.insert(reqwest::header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        Some(OutboundRequest { method: self.method.clone(), url, headers, body: self.body.clone().into_bytes() })
    }
}

/// The host of `https://<host>[:443][/]?<the action>`. Read by hand: a parser would first repair what is refused here.
fn read_url(url: &str) -> Result<&str, TokenFault> {
    let rest = url.strip_prefix("https://").ok_or_else(|| malformed("has a URL that is not https"))?;
    let (authority, query) = rest.split_once('?').ok_or_else(|| malformed("has a URL without a query"))?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains('/') {
        return Err(malformed("has a URL with a path other than /"));
    }
    let mut parameters: Vec<&str> = query.split('&').collect();
    parameters.sort_unstable();
    if parameters != ACTION {
        return Err(malformed("asks for something other than Action=GetCallerIdentity&Version=2011-06-15"));
    }
    Ok(authority.strip_suffix(":443").unwrap_or(authority))
}

/// The headers of a document: allow-listed, each once, by lower-case name.
struct Headers(Vec<(&'static str, String)>);

impl Headers {
    fn read(member: Option<&Value>) -> Result<Self, TokenFault> {
        let Some(Value::Array(items)) = member else {
            return Err(malformed("has no list of headers"));
        };
        let mut headers: Vec<(&'static str, String)> = Vec::with_capacity(items.len());
        for item in items {
            let (name, value) =
                Self::read_one(item).ok_or_else(|| malformed("has a header that is not {key, value}"))?;
            let name = HEADERS.into_iter().find(|known| name.eq_ignore_ascii_case(known)).ok_or_else(|| {
                malformed(format!("has a header that is not accepted; only {} are", HEADERS.join(", ")))
            })?;
            if headers.iter().any(|(other, _)| *other == name) {
                return Err(malformed(format!("has the header '{name}' twice")));
            }
            // Printable ASCII, single spaces only inside: nothing that a server could read as another header, and
            // nothing whose canonical form would differ from itself.
            let plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if !plain || value.is_empty() || value.trim() != value || value.contains("  ") {
                return Err(malformed(format!("has a header '{name}' whose value is not acceptable")));
            }
            headers.push((name, value.to_owned()));
        }
        Ok(Self(headers))
    }

    fn read_one(item: &Value) -> Option<(&str, &str)> {
        let item: &Map<String, Value> = item.as_object()?;
        let (key, value) = (item.get("key")?.as_str()?, item.get("value")?.as_str()?);
        (item.len() == 2).then_some((key, value))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// `AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/sts/aws4_request, SignedHeaders=<a;b>, Signature=<hex>`.
struct Authorization<'a> {
    access_key: &'a str,
    day: &'a str,
    region: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn read(text: &'a str) -> Result<Self, TokenFault> {
        let fields = text
            .strip_prefix(ALGORITHM)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or_else(|| malformed(format!("is not signed with {ALGORITHM}")))?;
        Self::fields(fields).ok_or_else(|| malformed("has an 'authorization' header that cannot be read"))
    }

    fn fields(fields: &'a str) -> Option<Self> {
        let mut parts = fields.split(',').map(str::trim);
        let credential = parts.next()?.strip_prefix("Credential=")?;
        let signed = parts.next()?.strip_prefix("SignedHeaders=")?;
        let signature = parts.next()?.strip_prefix("Signature=")?;
        let mut scope = credential.split('/');
        let (access_key, day, region) = (scope.next()?, scope.next()?, scope.next()?);
        let whole = parts.next().is_none()
            && scope.next() == Some("sts")
            && scope.next() == Some("aws4_request")
            && scope.next().is_none();
        let fits = whole
            && (16..=128).contains(&access_key.len())
            && access_key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
            && signature.len() == 64
            && signature.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self { access_key, day, region, signed: signed.split(';').collect(), signature })
    }
}

fn check_signed_headers(signed: &[&str], headers: &Headers) -> Result<(), TokenFault> {
    if !signed.is_sorted_by(|a, b| a < b) {
        return Err(malformed("has SignedHeaders that are not sorted, each once"));
    }
    if let Some(name) = ["host", "x-amz-date"].into_iter().find(|name| !signed.contains(name)) {
        return Err(malformed(format!("does not sign the header '{name}'")));
    }
    if headers.get("x-amz-security-token").is_some() && !signed.contains(&"x-amz-security-token") {
        return Err(malformed("does not sign the header 'x-amz-security-token'"));
    }
    // Host and length follow from what we send.
    let there = |name: &str| matches!(name, "host" | "content-length") || headers.get(name).is_some();
    if signed.iter().any(|name| *name == "authorization" || !HEADERS.contains(name) || !there(name)) {
        return Err(malformed("signs a header that is not there or not accepted"));
    }
    Ok(())
}

/// Decodes `%XX` everywhere; `None` when one is broken.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}

// ---------------------------------------------------------------------------------------------------------------------

/// Why STS vouched for nobody. For admins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StsProblem {
    /// Not to be had just now.
    #[error("AWS STS: {0}")]
    Unavailable(String),
    /// It says no.
    #[error("AWS STS refused the request: {0}")]
    Refused(String),
    /// It answered something else than an identity that fits.
    #[error("AWS STS gave an answer that is not acceptable: {0}")]
    Answer(&'static str),
    /// The provider wants the request bound to a receiver.
    #[error(
        "the provider requires one of the headers x-sallyport-audience and x-goog-cloud-target-resource to be signed"
    )]
    Unbound,
}

impl StsProblem {
    pub(crate) const fn refusal(&self) -> Refusal {
        match self {
            Self::Unavailable(_) => Refusal::Unavailable,
            Self::Refused(_) | Self::Answer(_) | Self::Unbound => Refusal::Denied,
        }
    }
}

/// Sends the rebuilt request and reads the identity out of the answer.
pub(crate) async fn ask_sts(
    outbound: &Outbound,
    request: &SignedRequest,
    provider: &Provider,
) -> Result<Identity, StsProblem> {
    if provider.require_audience_header && request.audiences.is_empty() {
        return Err(StsProblem::Unbound);
    }
    let rebuilt = request.rebuild().ok_or(StsProblem::Answer("the request cannot be rebuilt"))?;
    let fetched = outbound.send(rebuilt).await.map_err(|error| match error {
        FetchError::TooLarge => StsProblem::Answer("it is too long"),
        other => StsProblem::Unavailable(other.to_string()),
    })?;
    match fetched.status {
        200 => {}
        status => return Err(refused(status, &fetched.body)),
    }
    Caller::read(&request.host, fetched.content_type.as_deref(), &fetched.body)
        .map_err(StsProblem::Answer)?
        .into_identity(request)
}

/// Sorts STS's refusals by its error code, out of a closed list: nothing else of its words is used.
fn refused(status: u16, body: &[u8]) -> StsProblem {
    const THROTTLED: [&str; 4] = ["Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"];
    const KNOWN: [&str; 8] = [
        "SignatureDoesNotMatch",
        "InvalidClientTokenId",
        "ExpiredToken",
        "RequestExpired",
        "AccessDenied",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "InvalidAction",
    ];
    let said = |code: &str| {
        let element = format!("<Code>{code}</Code>");
        body.windows(element.len()).any(|window| window == element.as_bytes())
    };
    let answer = format!("it answered with status {status}");
    if status == 429 || status >= 500 || THROTTLED.into_iter().any(said) {
        return StsProblem::Unavailable(answer);
    }
    StsProblem::Refused(KNOWN.into_iter().find(|code| said(code)).map_or(answer, str::to_owned))
}

/// Whom an answer of STS names. Text that was read strictly; what makes it true is who gave the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    account: String,
    arn: String,
    user_id: String,
}

impl Caller {
    /// Reads the answer of the STS endpoint `host`.
    ///
    /// # Errors
    /// What is not acceptable, to follow "gave an answer that is not acceptable". Repeats nothing of the answer.
    pub fn read(host: &str, content_type: Option<&str>, body: &[u8]) -> Result<Self, &'static str> {
        let endpoint = endpoint(host).ok_or("it is not from an AWS STS endpoint")?;
        let caller = match content_type {
            Some("text/xml" | "application/xml") => Self::read_xml(body),
            Some("application/json" | "application/x-amz-json-1.0" | "application/x-amz-json-1.1") => {
                Self::read_json(body)
            }
            _ => Err("it is neither XML nor JSON"),
        }?;
        caller.check(endpoint)?;
        Ok(caller)
    }

    /// The account's twelve digits.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// The unique id of the user or role, with a role session's name.
    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// `GetCallerIdentityResponse/GetCallerIdentityResult/{Arn,UserId,Account}`, each once, nothing else but response
    /// metadata; no DTD, processing instruction, comment, CDATA or reference.
    fn read_xml(body: &[u8]) -> Result<Self, &'static str> {
        const BROKEN: &str = "it is not well-formed XML";
        let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
        let mut reader = Reader::from_str(text);
        let mut path = String::new();
        let mut values: [Option<String>; 3] = [None, None, None];
        let (mut roots, mut results) = (0, 0);
        let value_at = |path: &str| {
            ["Account", "Arn", "UserId"]
                .iter()
                .position(|name| path.strip_prefix("/GetCallerIdentityResponse/GetCallerIdentityResult/") == Some(name))
        };
        loop {
            match reader.read_event().map_err(|_| BROKEN)? {
                Event::Decl(_) if roots == 0 => {}
                Event::Start(element) => {
                    let is_root = path.is_empty();
                    path.push('/');
                    path.push_str(element.name().as_ref());
                    if is_root {
                        roots += 1;
                        let namespace = element.try_get_attribute("xmlns").map_err(|_| BROKEN)?;
                        if namespace.is_none_or(|attribute| attribute.value != NAMESPACE) {
                            return Err("its root is of another namespace");
                        }
                    } else if element.attributes().next().is_some() {
                        return Err("an element has attributes");
                    }
                    match (path.as_str(), value_at(&path)) {
                        (_, Some(index)) if values[index].is_none() => values[index] = Some(String::new()),
                        ("/GetCallerIdentityResponse", _) if roots == 1 => {}
                        ("/GetCallerIdentityResponse/GetCallerIdentityResult", _) if results == 0 => results += 1,
                        (
                            "/GetCallerIdentityResponse/ResponseMetadata"
                            | "/GetCallerIdentityResponse/ResponseMetadata/RequestId",
                            _,
                        ) => {}
                        _ => return Err("it has an element that does not belong there"),
                    }
                }
                Event::End(_) => path.truncate(path.rfind('/').unwrap_or(0)),
                Event::Text(text) => {
                    let text: &str = &text;
                    match value_at(&path) {
                        Some(index) => values[index].get_or_insert_default().push_str(text),
                        None if path.ends_with("/RequestId") || text.trim_ascii().is_empty() => {}
                        None => return Err("it has text between its elements"),
                    }
                }
                Event::Eof if path.is_empty() && roots == 1 => break,
                _ => return Err("it has something besides elements and text"),
            }
        }
        match values {
            [Some(account), Some(arn), Some(user_id)] => Ok(Self { account, arn, user_id }),
            _ => Err("it lacks account, ARN or user id"),
        }
    }

    fn read_json(body: &[u8]) -> Result<Self, &'static str> {
        let document = parse_object(body, JSON_DEPTH_MAX, HEADERS_MAX).map_err(|_| "it is not acceptable JSON")?;
        let result = document
            .get("GetCallerIdentityResponse")
            .and_then(|response| response.get("GetCallerIdentityResult"))
            .and_then(Value::as_object)
            .filter(|_| document.len() == 1)
            .ok_or("it is not a GetCallerIdentityResponse")?;
        let text = |name: &str| {
            result.get(name).and_then(Value::as_str).map(str::to_owned).ok_or("it lacks account, ARN or user id")
        };
        Ok(Self { account: text("Account")?, arn: text("Arn")?, user_id: text("UserId")? })
    }

    /// Account, partition, ARN and user id must tell the same story.
    fn check(&self, endpoint: Endpoint) -> Result<(), &'static str> {
        if self.account.len() != 12 || !self.account.bytes().all(|b| b.is_ascii_digit()) {
            return Err("its account is not an account id");
        }
        // IAM allows letters, digits and +=,.@-_ in names, and slashes in a user's path.
        let plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| {
                    b.is_ascii_alphanumeric()
                        || matches!(b, b'+' | b'=' | b',' | b'.' | b'@' | b'-' | b'_' | b'/' | b':')
                })
        };
        if self.arn.len() > 2_048 || self.user_id.len() > 256 || !plain(&self.arn) || !plain(&self.user_id) {
            return Err("its ARN or user id is not of the usual form");
        }
        let parts: Vec<&str> = self.arn.splitn(6, ':').collect();
        let ["arn", partition, service, "", account, resource] = parts[..] else {
            return Err("its ARN is not of the usual form");
        };
        if partition != endpoint.partition {
            return Err("its ARN is of another partition than the endpoint");
        }
        if account != self.account {
            return Err("its ARN is of another account than it says");
        }
        let segments: Vec<&str> = resource.split('/').collect();
        let unique_id = |id: &str| {
            (4..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        let fits = match (service, segments.as_slice()) {
            ("sts", ["assumed-role", role, session]) => {
                !role.is_empty()
                    && self.user_id.split_once(':').is_some_and(|(id, name)| unique_id(id) && name == *session)
            }
            ("sts", ["federated-user", name]) => {
                self.user_id.split_once(':').is_some_and(|(id, user)| id == self.account && user == *name)
            }
            // AWS answers for a role's session; the clients' documentation names the role itself all the same.
            ("iam", ["role", .., name]) => {
                !name.is_empty() && unique_id(self.user_id.split_once(':').map_or(self.user_id.as_str(), |(id, _)| id))
            }
            ("iam", ["user", .., name]) => !name.is_empty() && unique_id(&self.user_id),
            ("iam", ["root"]) => self.user_id == self.account,
            _ => false,
        };
        if fits { Ok(()) } else { Err("its ARN and user id do not fit together") }
    }

    fn into_identity(self, request: &SignedRequest) -> Result<Identity, StsProblem> {
        let claims = json!({"account": self.account, "arn": self.arn, "userid": self.user_id}).to_string();
        let claims =
            Claims::parse(claims.as_bytes()).map_err(|_| StsProblem::Answer("its values do not make claims"))?;
        Ok(Identity {
            issuer: AWS_STS_ISSUER.to_owned(),
            subject: self.arn,
            audiences: request.audiences.clone(),
            issued_at: Some(request.date),
            expires_at: Some(request.date.plus_seconds(WINDOW)),
            token_id: None,
            claims,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261122/us-east-1/sts/aws4_request, \
        SignedHeaders=host;x-amz-date, Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const URL: &str = "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15";

    fn document(method: &str, url: &str, headers: &[(&str, &str)]) -> String {
        let headers: Vec<Value> = headers.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        json!({"headers": headers, "method": method, "url": url}).to_string()
    }

    fn headers<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut headers =
            vec![("host", "sts.amazonaws.com"), ("Authorization", AUTHORIZATION), ("X-Amz-Date", "20261122T120000Z")];
        headers.extend_from_slice(more);
        headers
    }

    fn signing(signed: &str) -> String {
        AUTHORIZATION.replace("host;x-amz-date", signed)
    }

    #[test]
    fn a_request_is_rebuilt_from_its_parts_never_forwarded() {
        let request = SignedRequest::parse(&document("POST", URL, &headers(&[]))).unwrap();
        let rebuilt = request.rebuild().unwrap();
        assert_eq!(rebuilt.url.as_str(), URL);
        assert_eq!(rebuilt.body, b"");
        assert_eq!(rebuilt.headers["content-length"], "0");
        assert_eq!(rebuilt.headers.len(), 3);
        assert_eq!(request.host(), "sts.amazonaws.com");
    }

    #[test]
    fn the_body_is_the_one_that_was_signed() {
        for (signed, more, length) in [
            ("content-length;content-type;host;x-amz-date", Some(FORM), 43),
            ("host;x-amz-date", Some("application/x-www-form-urlencoded; charset=utf-8"), 43),
            ("content-length;host;x-amz-date", None, 43),
            ("host;x-amz-date", None, 0),
        ] {
            let authorization = signing(signed);
            let mut all = headers(&[]);
            all[1].1 = &authorization;
            all.extend(more.map(|value| ("Content-Type", value)));
            let request = SignedRequest::parse(&document("POST", URL, &all)).unwrap();
            assert_eq!(request.rebuild().unwrap().body.len(), length, "{signed}");
        }
        let get = SignedRequest::parse(&document("GET", URL, &headers(&[]))).unwrap();
        assert_eq!(get.rebuild().unwrap().body.len(), 0);
    }

    #[test]
    fn only_signed_binding_headers_name_an_audience() {
        let unsigned =
            SignedRequest::parse(&document("POST", URL, &headers(&[("x-sallyport-audience", "me")]))).unwrap();
        assert!(unsigned.audiences.is_empty());
        assert!(!unsigned.rebuild().unwrap().headers.contains_key("x-sallyport-audience"));
        let authorization = signing("host;x-amz-date;x-goog-cloud-target-resource");
        let mut all = headers(&[("x-goog-cloud-target-resource", "//me")]);
        all[1].1 = &authorization;
        let signed = SignedRequest::parse(&document("POST", URL, &all)).unwrap();
        assert_eq!(signed.audiences, ["//me"]);
        assert_eq!(signed.rebuild().unwrap().headers["x-goog-cloud-target-resource"], "//me");
    }

    #[test]
    fn a_request_lives_fifteen_minutes_either_way() {
        let request = SignedRequest::parse(&document("POST", URL, &headers(&[]))).unwrap();
        let at = |offset| request.check_times(request.date.plus_seconds(offset));
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(WINDOW - 1), Ok(()));
        assert_eq!(at(WINDOW), Err(Refusal::Expired));
        assert_eq!(at(-WINDOW), Ok(()));
        assert_eq!(at(-WINDOW - 1), Err(Refusal::FromTheFuture));
    }

    const XML: &str = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/Alice</Arn>\
        <UserId>AIDACKCEVSQ6C2EXAMPLE</UserId><Account>123456789012</Account></GetCallerIdentityResult>\
        <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>";

    proptest! {
        #[test]
        fn no_document_makes_the_parser_panic(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SignedRequest::parse(&text);
            let _ = SignedRequest::parse(&format!("%7B{text}"));
            let _ = SignedRequest::parse(&document("POST", URL, &headers(&[("x-sallyport-audience", &text)])));
            let _ = Authorization::read(&format!("{ALGORITHM} {text}"));
            let _ = Caller::read_xml(&bytes);
            let _ = Caller::read_xml(XML.replace("<Arn>", &text).as_bytes());
            let _ = Caller::read_json(&bytes);
        }
    }
}
