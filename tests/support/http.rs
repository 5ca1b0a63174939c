//! A plain HTTP client and its answers.

use std::net::SocketAddr;

use reqwest::header::HeaderMap;
use serde_json::Value;

/// A client that trusts `ca` (PEM) besides the usual roots, follows no redirect and uses no proxy.
#[expect(clippy::disallowed_methods, reason = "the workload's and the admin's side: outside the server under test")]
pub(crate) fn client(ca: Option<&str>) -> reqwest::Client {
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = ca {
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate")]);
    } else {
        builder = builder.tls_certs_only([]);
    }
    builder.build().expect("a client")
}

/// As [`client`], for a server that is called `host` and listens at `address`.
#[expect(clippy::disallowed_methods, reason = "the workload's and the admin's side: outside the server under test")]
pub(crate) fn client_at(host: &str, address: SocketAddr, ca: &str) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.tls_certs_only([root]).resolve(host, address).build().expect("a client")
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Sends the request.
    pub(crate) async fn to(request: reqwest::RequestBuilder) -> Self {
        Self::of(request).await.expect("a whole answer")
    }

    /// Sends the request, whose answer may never come.
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Result<Self, reqwest::Error> {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Self { status, headers, body: answer.bytes().await?.to_vec() })
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or the empty string.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The reference of an exchange: in the header, and nowhere else a different one.
    pub(crate) fn reference(&self) -> String {
        let reference = self.header("x-sallyport-reference").to_owned();
        assert_eq!(reference.len(), 36, "every answer of an exchange names its reference: {self:?}");
        assert!(!self.header("x-request-id").is_empty(), "every answer carries a request id: {self:?}");
        reference
    }

    /// Everything a caller can see of a refusal but what must differ: ids and the date.
    pub(crate) fn without_reference(&self) -> String {
        let reference = self.reference();
        let mut lines = vec![self.status.to_string()];
        for (name, value) in &self.headers {
            if !["x-request-id", "x-sallyport-reference", "date"].contains(&name.as_str()) {
                lines.push(format!("{name}: {}", value.to_str().unwrap_or("?")));
            }
        }
        lines.push(self.text().replace(&reference, "REFERENCE"));
        lines.join("\n")
    }
}

/// An `application/x-www-form-urlencoded` body.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// A POST with exactly these headers and those that HTTP/1.1 itself demands: libraries add an `Accept` of their own.
pub(crate) async fn bare_post(base: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let host = base.strip_prefix("http://").expect("plain HTTP");
    let mut head =
        format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("a connection");
    stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("the head is taken");
    stream.write_all(body).await.expect("the body is taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let end = end_of_head(&answer).expect("a head");
    let (status, headers) = head_of(&answer[..end]);
    Reply { status, headers, body: answer[end..].to_vec() }
}

/// Where a head ends, if it does.
fn end_of_head(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4)
}

/// Status and headers.
fn head_of(head: &[u8]) -> (u16, HeaderMap) {
    let head = std::str::from_utf8(head).expect("a head in ASCII");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        headers.append(name, value.parse().expect("a header value"));
    }
    (status, headers)
}

/// One connection, and nothing said on it but what is given.
pub(crate) struct Kept(tokio::net::TcpStream);

impl Kept {
    /// To a server without TLS.
    pub(crate) async fn open(base: &str) -> Self {
        let host = base.strip_prefix("http://").expect("plain HTTP");
        Self(tokio::net::TcpStream::connect(host).await.expect("a connection"))
    }

    /// Sends this: the answer to it, and it alone.
    pub(crate) async fn ask(&mut self, head: &str, body: &str) -> Reply {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let request = format!("{head}\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(request.as_bytes()).await.expect("it is taken");
        let (mut answer, mut end) = (Vec::new(), None);
        loop {
            let came = self.0.read_buf(&mut answer).await.expect("an answer");
            assert!(came > 0, "closed");
            end = end.or_else(|| end_of_head(&answer));
            let Some(end) = end else { continue };
            let (status, headers) = head_of(&answer[..end]);
            let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
            if answer.len() >= end + length {
                assert_eq!(answer.len(), end + length, "more than was asked for");
                return Reply { status, headers, body: answer[end..].to_vec() };
            }
        }
    }
}
