//! A client of a few lines for this crate's own tests: one HTTP/1.1 request on one TLS connection.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::TestAuthority;

/// Sends `head` (without the empty line) and `body` and returns status and body of the answer.
pub(crate) async fn exchange(
    authority: &TestAuthority,
    address: SocketAddr,
    host: &str,
    head: &str,
    body: &str,
) -> Result<(u16, String)> {
    let mut config = authority.client_config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned())?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    // A peer that closes without saying so first is an error to rustls; the answer is there all the same.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// `GET` of a path.
pub(crate) async fn get(
    authority: &TestAuthority,
    address: SocketAddr,
    host: &str,
    path: &str,
) -> Result<(u16, String)> {
    exchange(authority, address, host, &format!("GET {path} HTTP/1.1\r\nHost: {host}"), "").await
}
