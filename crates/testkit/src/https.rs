//! The HTTPS listener under [`Issuer`](crate::Issuer) and [`Sts`](crate::Sts), and the failures it can play.
//!
//! Small on purpose: one accept loop on loopback, one handler. When the value is dropped the port closes and every
//! open connection is cut, as when a machine goes away.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use futures::future::BoxFuture;
use futures::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A way for a stand-in to misbehave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Failure {
    /// Answers as it should.
    #[default]
    None,
    /// Answers with this status and a short plain text.
    Status(u16),
    /// Takes the request and never answers.
    Hang,
    /// Answers rightly, after this long.
    Slow(Duration),
    /// Answers the right bytes, one every 100 ms: no read is slow, only the whole.
    Trickle,
    /// Answers 200 with the right content type and a body that does not parse.
    Garbage,
    /// Answers 302 to this location.
    Redirect(String),
    /// Answers rightly, followed by 2 MiB of white space, which would parse: only a size limit refuses it.
    Oversized,
    /// The issuer's key set has no keys (an STS answers as usual).
    EmptyKeySet,
    /// Cuts the connection instead of answering.
    CloseConnection,
}

/// The handler's way to say "cut the connection".
#[derive(Debug)]
pub(crate) struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the stand-in was told to cut the connection")
    }
}

impl std::error::Error for CutOff {}

/// What a handler gives back.
pub(crate) type Reply = Result<Response<Body>, CutOff>;
/// What answers requests.
pub(crate) type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Reply> + Send + Sync>;

/// Answers with `body`, or fails as told.
pub(crate) async fn reply(failure: Failure, status: u16, content_type: &str, body: Vec<u8>) -> Reply {
    match failure {
        Failure::None | Failure::EmptyKeySet => Ok(response(status, content_type, body)),
        Failure::Status(status) => Ok(response(status, "text/plain", b"told to fail\n".to_vec())),
        Failure::Hang => std::future::pending().await,
        Failure::Slow(delay) => {
            tokio::time::sleep(delay).await;
            Ok(response(status, content_type, body))
        }
        Failure::Trickle => {
            let bytes = stream::unfold(body.into_iter(), |mut rest| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                rest.next().map(|byte| (Ok::<_, Infallible>(Bytes::from(vec![byte])), rest))
            });
            Ok(response(status, content_type, Body::from_stream(bytes)))
        }
        Failure::Garbage => Ok(response(status, content_type, b"<html>{\"not\": what you expected".to_vec())),
        Failure::Redirect(location) => {
            let mut found = response(302, "text/plain", Vec::new());
            if let Ok(location) = HeaderValue::try_from(location) {
                found.headers_mut().insert(header::LOCATION, location);
            }
            Ok(found)
        }
        Failure::Oversized => {
            let mut body = body;
            body.resize(body.len() + 2 * 1024 * 1024, b' ');
            Ok(response(status, content_type, body))
        }
        Failure::CloseConnection => Err(CutOff),
    }
}

/// A response of these parts.
pub(crate) fn response(status: u16, content_type: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// A listener on `127.0.0.1`.
pub(crate) struct HttpsServer {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl HttpsServer {
    /// Listens on `port` (0: any free one) within the current tokio runtime.
    pub(crate) async fn start(config: rustls::ServerConfig, port: u16, handler: Handler) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listening on 127.0.0.1:{port}"))?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicU64::new(0));
        let accepting =
            tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), handler, connections.clone()));
        Ok(Self { address, connections, accepting })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// TCP connections so far, those with a failed handshake included.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until aborted. The set owns the connections, so they end with it.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, handler: Handler, connections: Arc<AtomicU64>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.fetch_add(1, Ordering::SeqCst);
                    open.spawn(serve(stream, acceptor.clone(), handler.clone()));
                }
                // Out of file descriptors, most likely: let some close.
                Err(error) => {
                    tracing::debug!(%error, "stand-in could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, handler: Handler) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "stand-in: TLS handshake failed");
            return;
        }
    };
    let service = TowerToHyperService::new(Front { handler });
    if let Err(error) = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "stand-in: connection ended");
    }
}

/// The handler as a tower service over any request body.
#[derive(Clone)]
struct Front {
    handler: Handler,
}

impl<B> tower::Service<Request<B>> for Front
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = CutOff;
    type Future = Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CutOff>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        (self.handler)(request.map(Body::new))
    }
}
