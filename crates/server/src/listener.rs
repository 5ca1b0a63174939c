//! Takes connections, and has HTTP spoken on them: what stands before the HTTP library, and what becomes of connections when the
//! program ends.

use std::future::poll_fn;
use std::io;
use std::mem::replace;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{ConnectInfo, Request};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::middleware::Front;
use crate::patience::{Patient, first_words, is_http2};
use crate::shedding::{Refuse, Shedding, shed};

/// How long requests in flight may take to finish once the process was asked to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much of nothing but refusals the HTTP library hears something: its clock goes on while it hears nothing, so the next
/// head still has most of its time.
const HEARS: Duration = Duration::from_secs(2);
/// How long to wait for there to be room for another connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// Where TLS is spoken, and with what: it may be replaced.
pub(crate) type Tls = Arc<ArcSwap<ServerConfig>>;

/// Whether the program is about to end.
#[derive(Default, Debug)]
pub(crate) struct Closing {
    closes: AtomicBool,
    told: Notify,
}

impl Closing {
    /// It is.
    pub(crate) fn close(&self) {
        self.closes.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Waits for it, in a task, which has the same waker all the time. So that is given once, and who is polled for something else
    /// looks only at what is in the processor's caches.
    async fn closed(&self) {
        let mut told = pin!(self.told.notified());
        let mut waits = false;
        poll_fn(|context| {
            if self.closes.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if !replace(&mut waits, true) {
                ready!(told.as_mut().poll(context));
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

/// What all connections of a listener have in common.
struct Speaking {
    front: Front,
    refuse: Option<Arc<dyn Refuse>>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    closing: Arc<Closing>,
}

/// Has `front` answer whoever connects, until it is to close and all of them have gone.
pub(crate) async fn serve(listener: TcpListener, tls: Option<Tls>, front: Front, closing: Arc<Closing>) {
    let speaking = Arc::new(Speaking::new(front, Arc::clone(&closing)));
    let connections = TaskTracker::new();
    let mut fails = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = closing.closed() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                fails = false;
                // Answers are written whole; none is to wait until the one before has been taken. Where that cannot be had, it waits.
                let _ = stream.set_nodelay(true);
                let (speaking, tls) = (Arc::clone(&speaking), tls.as_ref().map(|tls| tls.load_full()));
                connections.spawn(async move {
                    let Some(tls) = tls else { return speaking.speak(stream, peer).await };
                    let accepted = tokio::select! {
                        biased;
                        () = speaking.closing.closed() => return,
                        accepted = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)) => accepted,
                    };
                    // Whoever fails at this is not a client, or is told by TLS.
                    if let Ok(Ok(stream)) = accepted {
                        speaking.speak(stream, peer).await;
                    }
                });
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                // Strangers can bring that about; they are not to fill the log with it.
                if !replace(&mut fails, true) {
                    tracing::error!(%error, "connections cannot be accepted just now");
                }
                sleep(NO_ROOM).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Whether the next one may well be accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Speaking {
    fn new(front: Front, closing: Arc<Closing>) -> Self {
        // Clients that dawdle over their request are cut off.
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(TokioExecutor::new()));
        http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        http2.timer(TokioTimer::new()).max_concurrent_streams(200).keep_alive_interval(HEAD_TIMEOUT);
        Self { refuse: front.refuse(), front, http1, http2, closing }
    }

    /// Answers on this connection until it ends.
    async fn speak<T>(&self, mut stream: T, peer: SocketAddr)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let words = tokio::select! {
            biased;
            () = self.closing.closed() => return,
            words = first_words(&mut stream, HEAD_TIMEOUT) => words,
        };
        let Some(words) = words.ok().filter(|words| !words.is_empty()) else { return };
        let is_http2 = is_http2(&words);
        let (shedding, stream) = shed(Patient::new(stream), words, self.refuse.clone(), HEARS);
        let answer = service_fn(|mut request: Request<_>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            self.front.answer(request)
        });
        if is_http2 {
            // It is rare, and larger than the other.
            Box::pin(self.go_on(&shedding, self.http2.serve_connection(TokioIo::new(stream), answer))).await;
        } else {
            self.go_on(&shedding, self.http1.serve_connection(TokioIo::new(stream), answer)).await;
        }
    }

    async fn go_on<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        shedding: &Shedding<T>,
        connection: impl GracefulConnection,
    ) {
        let (mut closed, mut connection) = (pin!(self.closing.closed()), pin!(connection));
        let ended = poll_fn(|context| {
            if closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(false);
            }
            // How it ended is the client's matter.
            shedding.poll(connection.as_mut(), context).map(|_| true)
        });
        if !ended.await {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(DRAIN, connection).await;
        }
    }
}
