//! The cheapest HTTP/1.1 client there is: whole requests prepared beforehand, one connection held by hand.
//!
//! Cheap because it must not be what is measured. It takes from an answer what the measurement needs and no more.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head read, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Longest body read, in bytes.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// A connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer; borrows from its connection.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'c> {
    /// The HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: &'c [u8],
    /// The body.
    pub body: &'c [u8],
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 * 1024) })
    }

    /// Sends a whole request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not one that this client reads: its length must be in its head. The
    /// connection is of no use then.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.read_more().await?;
            if let Some(end) = end_of_head(&self.buffer) {
                break end;
            }
            ensure!(self.buffer.len() <= HEAD_MAX, "the answer's head is too long");
        };
        let status = status(&self.buffer[..head]).context("not an HTTP/1.1 answer")?;
        let length = header(&self.buffer[..head], b"content-length").and_then(number).context("no content-length")?;
        ensure!(length <= BODY_MAX, "the answer is too long");
        while self.buffer.len() < head + length {
            self.read_more().await?;
        }
        ensure!(self.buffer.len() == head + length, "more than the answer came");
        let (head, body) = self.buffer.split_at(head);
        Ok(Answer { status, head, body })
    }

    async fn read_more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

/// Where the head ends, its empty line included.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn number(bytes: &[u8]) -> Option<usize> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A header's value; `name` in lower case, as the server writes them.
pub fn header<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(b":")?;
        Some(value.trim_ascii())
    })
}

/// A POST with these headers and this body, as bytes.
pub fn post(host: &str, path: &str, content_type: &str, bearer: Option<&str>, body: &str) -> Vec<u8> {
    let authorization = bearer.map(|bearer| format!("authorization: Bearer {bearer}\r\n")).unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\n{authorization}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A GET, as bytes.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes()
}

/// A GraphQL request, as bytes.
pub fn graphql_request(address: SocketAddr, bearer: &str, document: &str, variables: &Value) -> Vec<u8> {
    let body = json!({ "query": document, "variables": variables }).to_string();
    post(&address.to_string(), "/query", "application/json", Some(bearer), &body)
}

/// Asks the management API on a connection of its own, and returns `data`.
///
/// # Errors
/// When it does not answer, or answers with an error.
pub async fn graphql(address: SocketAddr, bearer: &str, document: &str, variables: Value) -> Result<Value> {
    let mut connection = Connection::open(address).await?;
    let answer = connection.call(&graphql_request(address, bearer, document, &variables)).await?;
    let text = String::from_utf8_lossy(answer.body);
    let mut json: Value = serde_json::from_str(&text).with_context(|| format!("GraphQL answered {text:.500}"))?;
    ensure!(answer.status == 200 && json.get("errors").is_none(), "GraphQL answered {}: {text:.500}", answer.status);
    Ok(json["data"].take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_heads() {
        let head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: a\r\ncontent-length: 12\r\n\r\n";
        assert_eq!((status(head), header(head, b"content-length").and_then(number)), (Some(503), Some(12)));
        assert_eq!(end_of_head(head), Some(head.len()));
        assert_eq!(header(head, b"x-sallyport-reference"), None);
        assert_eq!(status(b"HTTP/2 200"), None);
    }
}
