//! What the HTTP library has no time limits for: until it is known which protocol a client speaks, and for how long it may take
//! nothing of what is said to it. It could hold a connection open for nothing, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

/// How HTTP/2 begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is heard of it at once: the first request, mostly.
const FIRST: usize = 4 * 1024;

/// How long a client may take nothing of what is said to it. TLS says only when all is taken of up to 64 KiB.
const TAKE: Duration = Duration::from_secs(30);

/// What a client says first: so much that it is clear whether it is HTTP/2.
///
/// # Errors
/// When that takes longer than `limit`, or the connection fails.
pub(crate) async fn first_words<T: AsyncRead + Unpin>(stream: &mut T, limit: Duration) -> io::Result<Vec<u8>> {
    let hear = async {
        let mut words = Vec::with_capacity(FIRST);
        while words.len() < PREFACE.len() && PREFACE.starts_with(&words) && stream.read_buf(&mut words).await? > 0 {}
        Ok(words)
    };
    timeout(limit, hear).await?
}

/// Whether who begins like this speaks HTTP/2.
pub(crate) fn is_http2(first_words: &[u8]) -> bool {
    first_words.starts_with(PREFACE)
}

/// A connection that has to take what is said.
#[derive(Debug)]
pub(crate) struct Patient<T> {
    stream: T,
    /// When it has to have taken something; `None` while it takes all.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<T> Patient<T> {
    /// This one.
    pub(crate) fn new(stream: T) -> Self {
        Self { stream, stuck: None }
    }
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
        let mut server = Patient::new(server);
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

    /// What is heard of these pieces, a second apart, where there are five.
    async fn heard(pieces: &[&[u8]]) -> Result<Vec<u8>, io::ErrorKind> {
        let (mut client, mut server) = duplex(10_000);
        let hearing = tokio::spawn(async move { first_words(&mut server, Duration::from_secs(5)).await });
        for piece in pieces {
            sleep(Duration::from_secs(1)).await;
            // Nobody hears what comes too late.
            let _ = client.write_all(piece).await;
        }
        drop(client);
        hearing.await.unwrap().map_err(|error| error.kind())
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_begin_in_time_is_cut_off() {
        let late = Err(io::ErrorKind::TimedOut);
        assert_eq!(heard(&[b"", b"", b"", b"", b"", b"G"]).await, late);
        assert_eq!(heard(&[b"P", b"R", b"I", b" ", b"*", b" HTTP/2.0\r\n\r\nSM\r\n\r\n"]).await, late);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_waited_for_than_it_takes_to_know() {
        for (pieces, words, http2) in [
            (&[b"GET /", &b"livez"[..]][..], &b"GET /"[..], false),
            (&[b"P", b"OST /"], b"POST /", false),
            (&[b"PRI", b" * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", true),
            (&[PREFACE], PREFACE, true),
            (&[&PREFACE[..23], b"x"], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", false),
            // It goes away.
            (&[], b"", false),
            (&[b"PRI"], b"PRI", false),
        ] {
            assert_eq!(heard(pieces).await.as_deref(), Ok(words));
            assert_eq!(is_http2(words), http2);
        }
        let long = [b'a'; 2 * FIRST];
        assert_eq!(heard(&[&long]).await.as_deref(), Ok(&long[..FIRST]));
    }
}
