//! AWS Signature Version 4: computing it, and the `GetCallerIdentity` documents that clients make with it.
//!
//! One canonicalisation serves signer and checker, so AWS's published examples are among the tests.

use aws_lc_rs::{digest, hmac as lc_hmac};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::hex;

/// The signing algorithm's name in `Authorization`.
pub(crate) const SCHEME: &str = "AWS4-HMAC-SHA256";
/// The query of a GetCallerIdentity request, and its form body.
pub const GET_CALLER_IDENTITY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
/// The form content type that real clients send.
const FORM: &str = "application/x-www-form-urlencoded";
/// `X-Amz-Date`.
pub(crate) const AMZ_DATE: &[BorrowedFormatItem<'static>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// Long-lived (`AKIA…`) or temporary (`ASIA…`, with a session token) access keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token of temporary keys.
    pub session_token: Option<String>,
}

impl AccessKey {
    /// A fresh long-lived key.
    pub fn long_lived() -> Self {
        Self { id: format!("AKIA{}", random_id()), secret: crate::random_hex::<20>(), session_token: None }
    }

    /// A fresh temporary key with a session token, as an assumed role has it.
    pub fn temporary() -> Self {
        Self {
            id: format!("ASIA{}", random_id()),
            secret: crate::random_hex::<20>(),
            // With the characters of base64, since those are the ones that encodings get wrong.
            session_token: Some(format!(
                "IQoJb3JpZ2luX2VjE/{}+{}==",
                crate::random_hex::<64>(),
                crate::random_hex::<64>()
            )),
        }
    }
}

/// Sixteen upper-case characters.
fn random_id() -> String {
    crate::random_hex::<8>().to_ascii_uppercase()
}

/// HMAC with SHA-256.
pub(crate) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    lc_hmac::sign(&lc_hmac::Key::new(lc_hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `now` (Unix seconds) as in `X-Amz-Date`, such as `20270115T080000Z`.
pub fn amz_date(now: i64) -> String {
    OffsetDateTime::from_unix_timestamp(now).ok().and_then(|time| time.format(AMZ_DATE).ok()).unwrap_or_default()
}

/// Where and for what a signature counts.
pub(crate) struct SigningScope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    /// `X-Amz-Date`.
    pub(crate) date: &'a str,
}

impl SigningScope<'_> {
    fn day(&self) -> &str {
        self.date.get(..8).unwrap_or(self.date)
    }

    /// `<day>/<region>/<service>/aws4_request`.
    pub(crate) fn credential_scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.day(), self.region, self.service)
    }
}

/// The parts of a request that a signature covers.
pub(crate) struct Canonical<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// As on the wire.
    pub(crate) query: &'a str,
    /// Signed headers: lower-case names, in order.
    pub(crate) headers: &'a [(String, String)],
    pub(crate) body: &'a [u8],
}

impl Canonical<'_> {
    /// Names of the signed headers, joined by `;`.
    pub(crate) fn signed_headers(&self) -> String {
        self.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";")
    }

    fn request(&self) -> String {
        let mut query: Vec<String> = self
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                format!("{}={}", encode(&decode(name)), encode(&decode(value)))
            })
            .collect();
        query.sort();
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        format!(
            "{}\n{}\n{}\n{headers}\n{}\n{}",
            self.method,
            self.path,
            query.join("&"),
            self.signed_headers(),
            sha256_hex(self.body)
        )
    }

    /// The signature in lower-case hex.
    pub(crate) fn signature(&self, secret: &str, scope: &SigningScope<'_>) -> String {
        let text = format!(
            "{SCHEME}\n{}\n{}\n{}",
            scope.date,
            scope.credential_scope(),
            sha256_hex(self.request().as_bytes())
        );
        let key = [scope.day(), scope.region, scope.service, "aws4_request"]
            .iter()
            .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
        hex(&hmac(&key, text.as_bytes()))
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Undoes percent-encoding; what is not one stays as it is.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// The region a request to this STS host is signed for.
pub fn region_of(host: &str) -> &str {
    let mut labels = host.split('.');
    match (labels.next(), labels.next()) {
        (Some("sts" | "sts-fips"), Some(region)) if region != "amazonaws" => region,
        _ => "us-east-1",
    }
}

/// The two documents seen in the wild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Mondoo,
    Documented,
}

/// What [`presign`] signs. Anything can be set wrong, for hostile documents.
#[derive(Debug, Clone)]
pub struct PresignOptions {
    shape: Shape,
    now: i64,
    host: String,
    region: Option<String>,
    service: String,
    method: String,
    url: Option<String>,
    body: Option<String>,
    signed: Vec<(String, String)>,
    unsigned: Vec<(String, String)>,
}

impl PresignOptions {
    fn new(shape: Shape, now: i64) -> Self {
        Self {
            shape,
            now,
            host: "sts.amazonaws.com".to_owned(),
            region: None,
            service: "sts".to_owned(),
            method: "POST".to_owned(),
            url: None,
            body: None,
            signed: Vec::new(),
            unsigned: Vec::new(),
        }
    }

    /// As Mondoo's clients do it: canonical header case, `host` first, form content type, and a form body that is
    /// signed (with its length) but neither transmitted nor, as a length, listed.
    pub fn mondoo(now: i64) -> Self {
        Self::new(Shape::Mondoo, now)
    }

    /// As Mondoo's documentation shows it: lower-case header names, `SignedHeaders=host;x-amz-date`, empty body.
    pub fn documented(now: i64) -> Self {
        Self::new(Shape::Documented, now)
    }

    /// Another host, in the URL and signed; its region goes into the signature. Default `sts.amazonaws.com`.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Another region than the host's.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        self.region = Some(region.to_owned());
        self
    }

    /// Another service than `sts`.
    #[must_use]
    pub fn service(mut self, service: &str) -> Self {
        service.clone_into(&mut self.service);
        self
    }

    /// Another method than `POST`. `GET` has no body in either shape.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Another URL in the document; its path and query are what is signed. The signed host stays [`host`](Self::host).
    #[must_use]
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(url.to_owned());
        self
    }

    /// Another body to sign.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    /// One more header, signed and listed, such as `x-sallyport-audience`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.signed.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more header, listed but not signed.
    #[must_use]
    pub fn unsigned_header(mut self, name: &str, value: &str) -> Self {
        self.unsigned.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Signs a request and gives the JSON document a workload presents as its subject token: `headers` (an array of
/// `{key, value}`), `method`, `url`.
pub fn presign(key: &AccessKey, options: &PresignOptions) -> Value {
    let mondoo = options.shape == Shape::Mondoo;
    let has_body = mondoo && options.method != "GET";
    let body =
        options.body.clone().unwrap_or_else(|| if has_body { GET_CALLER_IDENTITY.to_owned() } else { String::new() });
    let url = options.url.clone().unwrap_or_else(|| format!("https://{}/?{GET_CALLER_IDENTITY}", options.host));
    let date = amz_date(options.now);
    let name = |canonical: &str| if mondoo { canonical.to_owned() } else { canonical.to_ascii_lowercase() };

    // As listed in the document, `Authorization` still to come in its alphabetical place.
    let mut listed = vec![(name("X-Amz-Date"), date.clone())];
    if has_body {
        listed.push((name("Content-Type"), FORM.to_owned()));
    }
    if let Some(token) = &key.session_token {
        listed.push((name("X-Amz-Security-Token"), token.clone()));
    }
    listed.extend(options.signed.iter().cloned());

    let mut signed: Vec<(String, String)> =
        listed.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    signed.push(("host".to_owned(), options.host.clone()));
    if has_body {
        signed.push(("content-length".to_owned(), body.len().to_string()));
    }
    signed.sort();

    let after_scheme = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let target = after_scheme.find(['/', '?']).map_or("/", |start| &after_scheme[start..]);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let canonical = Canonical {
        method: &options.method,
        path: if path.is_empty() { "/" } else { path },
        query,
        headers: &signed,
        body: body.as_bytes(),
    };
    let region = options.region.as_deref().unwrap_or_else(|| region_of(&options.host));
    let scope = SigningScope { region, service: &options.service, date: &date };
    let authorization = format!(
        "{SCHEME} Credential={}/{}, SignedHeaders={}, Signature={}",
        key.id,
        scope.credential_scope(),
        canonical.signed_headers(),
        canonical.signature(&key.secret, &scope)
    );

    listed.push((name("Authorization"), authorization));
    listed.extend(options.unsigned.iter().cloned());
    listed.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    listed.insert(0, ("host".to_owned(), options.host.clone()));
    let headers: Vec<Value> = listed.into_iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    json!({"headers": headers, "method": options.method, "url": url})
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// `get-vanilla` of AWS's Signature Version 4 test suite.
    #[test]
    fn agrees_with_the_published_test_suite() {
        let headers = headers(&[("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")]);
        let canonical = Canonical { method: "GET", path: "/", query: "", headers: &headers, body: b"" };
        let scope = SigningScope { region: "us-east-1", service: "service", date: "20150830T123600Z" };
        assert_eq!(
            canonical.signature(SECRET, &scope),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }

    /// The worked example of AWS's documentation (IAM `ListUsers`).
    #[test]
    fn agrees_with_the_documented_example() {
        let headers = headers(&[
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ]);
        let query = "Version=2010-05-08&Action=ListUsers";
        let canonical = Canonical { method: "GET", path: "/", query, headers: &headers, body: b"" };
        let scope = SigningScope { region: "us-east-1", service: "iam", date: "20150830T123600Z" };
        assert_eq!(
            canonical.signature(SECRET, &scope),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    #[test]
    fn regions_come_from_hosts() {
        assert_eq!(region_of("sts.amazonaws.com"), "us-east-1");
        assert_eq!(region_of("sts.eu-west-1.amazonaws.com"), "eu-west-1");
        assert_eq!(region_of("sts-fips.us-west-2.amazonaws.com"), "us-west-2");
        assert_eq!(region_of("sts.cn-north-1.amazonaws.com.cn"), "cn-north-1");
    }

    #[test]
    fn the_two_shapes_are_those_seen_in_the_wild() {
        let key = AccessKey::temporary();
        let keys = |document: &Value| -> Vec<String> {
            let headers = document["headers"].as_array().cloned().unwrap_or_default();
            headers.iter().map(|header| header["key"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let mondoo = presign(&key, &PresignOptions::mondoo(1_800_000_000));
        assert_eq!(keys(&mondoo), ["host", "Authorization", "Content-Type", "X-Amz-Date", "X-Amz-Security-Token"]);
        let authorization = mondoo["headers"][1]["value"].as_str().unwrap();
        assert!(
            authorization.contains("SignedHeaders=content-length;content-type;host;x-amz-date;x-amz-security-token,"),
            "{authorization}"
        );
        assert_eq!(mondoo["url"], "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15");
        let documented = presign(&AccessKey::long_lived(), &PresignOptions::documented(1_800_000_000));
        assert_eq!(keys(&documented), ["host", "authorization", "x-amz-date"]);
        assert!(documented["headers"][1]["value"].as_str().unwrap().contains("SignedHeaders=host;x-amz-date,"));
    }
}
