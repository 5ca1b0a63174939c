//! Connections that say nothing, or take nothing of what is said, are cut off. The server's HTTP library first reads until it
//! knows whether it hears HTTP/1 or HTTP/2, and sets its own time limits only then; and none for its answers. A client could hold
//! a connection open for nothing, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum_server::accept::Accept;
use futures::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How HTTP/2 begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may take nothing of what is said to it. TLS says only when all is taken of up to 64 KiB.
const TAKE: Duration = Duration::from_secs(30);

/// Another acceptor's connections, each with `limit` to say which protocol it speaks. The time it takes to accept them, a TLS
/// handshake for one, is the other acceptor's to limit.
#[derive(Clone, Debug)]
pub(crate) struct Patience<A> {
    pub(crate) acceptor: A,
    pub(crate) limit: Duration,
}

impl<I, S, A> Accept<I, S> for Patience<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Patient<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let (accepting, limit) = (self.acceptor.accept(stream, service), self.limit);
        async move {
            let (stream, service) = accepting.await?;
            Ok((Patient { stream, heard: 0, end: Some(Box::pin(sleep(limit))), stuck: None }, service))
        }
        .boxed()
    }
}

/// A connection that has to begin in time, and to go on.
#[derive(Debug)]
pub(crate) struct Patient<T> {
    stream: T,
    /// How much of the preface was read.
    heard: usize,
    /// When it is over; `None` once the protocol is known.
    end: Option<Pin<Box<Sleep>>>,
    /// When it has to have taken something; `None` while it takes all.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<T: Unpin> Patient<T> {
    /// What came of saying something.
    fn said<R>(
        &mut self,
        context: &mut Context<'_>,
        say: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if let Poll::Ready(said) = say(Pin::new(&mut self.stream), context) {
            self.stuck = None;
            return Poll::Ready(said);
        }
        let end = self.stuck.get_or_insert_with(|| Box::pin(sleep(TAKE)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) else {
            if let Some(end) = &mut self.end {
                ready!(end.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        };
        if self.end.is_some() {
            let said = &buffer.filled()[before..];
            let awaited = &PREFACE[self.heard..];
            let undecided = said.len() < awaited.len() && awaited.starts_with(said);
            self.heard += said.len();
            if !undecided {
                self.end = None;
            }
        }
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.said(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.said(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.said(context, |stream, context| stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.said(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    /// On a clock that goes on by itself when there is nothing else to do.
    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off_and_who_takes_slowly_is_not() {
        let (mut client, server) = duplex(10);
        let mut server = Patient { stream: server, heard: 0, end: None, stuck: None };
        let saying = tokio::spawn(async move {
            server.write_all(&[7; 50]).await.unwrap();
            let began = Instant::now();
            let error = server.write_all(&[7; 50]).await.unwrap_err();
            (error.kind(), began.elapsed())
        });
        for _ in 0..5 {
            sleep(TAKE - Duration::from_millis(10)).await;
            client.read_exact(&mut [0; 10]).await.unwrap();
        }
        let (kind, waited) = saying.await.unwrap();
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!(waited >= TAKE && waited < 2 * TAKE, "{waited:?}");
    }
}
