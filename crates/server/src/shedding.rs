//! Exchanges that there is no time for are refused where their bytes come in, before a request is made of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum_server::accept::Accept;
use futures::future::{BoxFuture, FutureExt};
use sallyport_gateway::shedding::{Asked, Conversation};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Answers an exchange that is to be refused.
pub(crate) type Refuse = Arc<dyn Fn(&Asked<'_>) -> Option<Vec<u8>> + Send + Sync>;

/// Another acceptor's connections, on which exchanges are refused. Never the first thing that is said, and the HTTP library hears
/// something after `limit` at the latest: it closes connections that it does not hear from.
#[derive(Clone)]
pub(crate) struct Shedding<A> {
    pub(crate) acceptor: A,
    /// `None` where there are no exchanges.
    pub(crate) refuse: Option<Refuse>,
    pub(crate) limit: Duration,
}

impl<I, S, A> Accept<I, S> for Shedding<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Shed<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let (accepting, refuse, limit) = (self.acceptor.accept(stream, service), self.refuse.clone(), self.limit);
        async move {
            let (stream, service) = accepting.await?;
            Ok((Shed::new(stream, refuse, limit), service))
        }
        .boxed()
    }
}

/// A connection on which exchanges may be refused.
pub(crate) struct Shed<T> {
    stream: T,
    followed: Option<Followed>,
    /// An answer, of which so much is said.
    unsaid: Vec<u8>,
    said: usize,
}

struct Followed {
    refuse: Refuse,
    limit: Duration,
    conversation: Conversation,
    /// When the HTTP library last heard something.
    passed_on: Option<Instant>,
}

impl<T> Shed<T> {
    fn new(stream: T, refuse: Option<Refuse>, limit: Duration) -> Self {
        let followed =
            refuse.map(|refuse| Followed { refuse, limit, conversation: Conversation::default(), passed_on: None });
        Self { stream, followed, unsaid: Vec::new(), said: 0 }
    }

    /// The HTTP library said so much of this.
    fn wrote(&mut self, bytes: &[u8], written: usize) {
        if let Some(followed) = &mut self.followed {
            followed.conversation.said(bytes, written);
        }
    }
}

impl<T: AsyncWrite + Unpin> Shed<T> {
    /// Says what is unsaid.
    fn poll_say(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsaid.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.said < self.unsaid.len() {
            let said = ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsaid[self.said..]))?;
            if said == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.said += said;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        (self.unsaid, self.said) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Shed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shed = &mut *self;
        let before = buffer.filled().len();
        loop {
            ready!(shed.poll_say(context))?;
            ready!(Pin::new(&mut shed.stream).poll_read(context, buffer))?;
            let came = buffer.filled().len() - before;
            let Some(followed) = shed.followed.as_mut().filter(|_| came > 0) else { return Poll::Ready(Ok(())) };
            let Some(answer) = followed.hear(&buffer.filled()[before..]) else { return Poll::Ready(Ok(())) };
            shed.unsaid = answer;
            buffer.set_filled(before);
        }
    }
}

impl Followed {
    /// The answer, where this is refused.
    fn hear(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let now = Instant::now();
        let unheard = self.passed_on.is_none_or(|last| now - last > self.limit);
        let answer = self.conversation.heard(bytes, |asked| if unheard { None } else { (self.refuse)(asked) });
        if answer.is_none() {
            self.passed_on = Some(now);
        }
        answer
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Shed<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_say(context))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.wrote(bytes, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_say(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_say(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_say(context))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.wrote(slices.first().map_or(&[], |slice| slice), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::Router;
    use axum::body::to_bytes;
    use axum::extract::Request;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse as _, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto::Builder;
    use hyper_util::service::TowerToHyperService;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::task::yield_now;

    use super::*;

    /// The id of a request that is a part of another one's body.
    const SMUGGLED: usize = 999;

    /// What is said to whoever is refused: more than a narrow network holds.
    const NO_TIME: &str = "there is no time for this just now, and whoever is told so has to read a long text about it, in which \
        nothing is said that has not been said before, and then all of it once more: there is no time for this just now!";

    /// What the client asks.
    #[derive(Clone, Debug)]
    struct Question {
        method: &'static str,
        path: &'static str,
        headers: &'static str,
        body: Sent,
    }

    #[derive(Clone, Copy, Debug)]
    enum Sent {
        Nothing,
        Some,
        /// What could pass for a request.
        Request,
        Chunked,
    }

    impl Question {
        /// Its head, and its body in parts, of which what could pass for a request is one.
        fn parts(&self, id: usize) -> [String; 4] {
            let Self { method, path, headers, .. } = self;
            let smuggled =
                format!("POST /auth/v1/token HTTP/1.1\r\nx-request-id: {SMUGGLED}\r\ncontent-length: 0\r\n\r\n");
            let length = smuggled.len();
            let none = String::new;
            let (framing, before, body, after) = match self.body {
                Sent::Nothing => (none(), none(), none(), none()),
                Sent::Some => ("content-length: 5\r\n".to_owned(), none(), "abcde".to_owned(), none()),
                Sent::Request => (format!("content-length: {length}\r\n"), none(), smuggled, none()),
                Sent::Chunked => (
                    "transfer-encoding: chunked\r\n".to_owned(),
                    format!("{length:x}\r\n"),
                    smuggled,
                    "\r\n0\r\n\r\n".to_owned(),
                ),
            };
            let head = format!("{method} {path} HTTP/1.1\r\nx-request-id: {id}\r\n{headers}{framing}\r\n");
            [head, before, body, after]
        }
    }

    fn questions() -> impl Strategy<Value = Vec<Question>> {
        let question = (
            prop_oneof![6 => Just("POST"), 1 => Just("GET"), 1 => Just("HEAD"), 1 => Just("PUT")],
            prop_oneof![6 => Just("/auth/v1/token"), 2 => Just("/slow"), 2 => Just("/early"), 1 => Just("/empty"), 1 => Just("/long")],
            prop_oneof![
                8 => Just(""),
                1 => Just("connection: keep-alive\r\n"),
                1 => Just("connection: close\r\n"),
                1 => Just("expect: 100-continue\r\n"),
            ],
            prop_oneof![2 => Just(Sent::Nothing), 4 => Just(Sent::Some), 4 => Just(Sent::Request), 1 => Just(Sent::Chunked)],
        );
        let question = question.prop_map(|(method, path, headers, body)| Question { method, path, headers, body });
        prop::collection::vec(question, 1..8)
    }

    /// How they are sent.
    #[derive(Clone, Debug)]
    struct Sending {
        pieces: Pieces,
        /// Whether each piece waits until nothing more is said.
        waits: bool,
        /// How much the network holds.
        room: usize,
    }

    #[derive(Clone, Debug)]
    enum Pieces {
        Questions,
        /// What a question consists of.
        Parts,
        /// So much at a time, in turn.
        Of(Vec<usize>),
    }

    impl Pieces {
        fn cut(&self, questions: &[Question]) -> Vec<Vec<u8>> {
            let parts = questions.iter().enumerate().map(|(id, question)| question.parts(id));
            match self {
                Self::Questions => parts.map(|parts| parts.concat().into_bytes()).collect(),
                Self::Parts => parts.flatten().filter(|part| !part.is_empty()).map(String::into_bytes).collect(),
                Self::Of(lengths) => {
                    let all = parts.flatten().collect::<String>();
                    let (mut left, mut pieces) = (all.as_bytes(), Vec::new());
                    for length in lengths.iter().cycle() {
                        let (piece, rest) = left.split_at(left.len().min(*length));
                        pieces.push(piece.to_vec());
                        left = rest;
                        if left.is_empty() {
                            break;
                        }
                    }
                    pieces
                }
            }
        }
    }

    fn sendings() -> impl Strategy<Value = Sending> {
        let length = prop_oneof![1..4_usize, 4..200_usize, Just(10_000)];
        let pieces = prop_oneof![
            Just(Pieces::Questions),
            Just(Pieces::Parts),
            prop::collection::vec(length, 1..6).prop_map(Pieces::Of)
        ];
        let room = prop_oneof![1 => Just(7), 1 => Just(200), 2 => Just(65_536)];
        (pieces, any::<bool>(), room).prop_map(|(pieces, waits, room)| Sending { pieces, waits, room })
    }

    async fn answer(request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let id = parts.headers["x-request-id"].clone();
        let read = if path == "/early" { None } else { Some(to_bytes(body, 1_000).await.unwrap()) };
        if path == "/slow" {
            settle(5).await;
        }
        let status = if path == "/empty" { StatusCode::NO_CONTENT } else { StatusCode::OK };
        let text = format!("{} {path} {read:?}", parts.method).repeat(if path == "/long" { 10 } else { 1 });
        (status, [("x-request-id", id)], if path == "/empty" { String::new() } else { text }).into_response()
    }

    /// What is said on a connection to these, of which those with these ids are refused where they can be.
    fn conversation(questions: &[Question], sending: &Sending, refused: Option<u64>) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (client, server) = duplex(sending.room);
            let smuggled = Arc::new(AtomicBool::new(false));
            let smuggling = Arc::clone(&smuggled);
            let refuse = refused.map(|refused| -> Refuse {
                Arc::new(move |asked| {
                    let id: usize = std::str::from_utf8(asked.id.unwrap()).unwrap().parse().unwrap();
                    smuggling.fetch_or(id == SMUGGLED, Ordering::Relaxed);
                    let answer = format!(
                        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\r\n{NO_TIME}",
                        NO_TIME.len()
                    );
                    (refused >> (id % 64) & 1 == 1).then(|| answer.into_bytes())
                })
            });
            let stream = Shed::new(server, refuse, Duration::MAX);
            tokio::spawn(async move {
                let service = TowerToHyperService::new(Router::new().fallback(answer));
                Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
            });
            let heard = Arc::new(Mutex::new(Vec::new()));
            let (mut reading, mut writing) = tokio::io::split(client);
            let hearing = Arc::clone(&heard);
            tokio::spawn(async move {
                let mut piece = [0; 64];
                while let Ok(came @ 1..) = reading.read(&mut piece).await {
                    hearing.lock().unwrap().extend_from_slice(&piece[..came]);
                }
            });
            for piece in sending.pieces.cut(questions) {
                tokio::select! {
                    biased;
                    // It is closed where the server has said that it closes it.
                    written = writing.write_all(&piece) => if written.is_err() { break },
                    // Rarely the HTTP library itself stops listening after an answer that came early.
                    () = settle(10_000) => break,
                }
                if sending.waits {
                    quiet(&heard).await;
                } else {
                    settle(1).await;
                }
            }
            quiet(&heard).await;
            assert!(!smuggled.load(Ordering::Relaxed), "a body passed for a request");
            std::mem::take(&mut *heard.lock().unwrap())
        })
    }

    /// Waits until nothing more is said.
    async fn quiet(heard: &Mutex<Vec<u8>>) {
        let mut before = None;
        while before != Some(heard.lock().unwrap().len()) {
            before = Some(heard.lock().unwrap().len());
            settle(200).await;
        }
    }

    /// Lets all others go on, so many times.
    async fn settle(times: usize) {
        for _ in 0..times {
            yield_now().await;
        }
    }

    /// An answer: the id it bears, its status and its body.
    type Answer = (Option<usize>, u16, String);

    /// The answers to these.
    fn answers(questions: &[Question], heard: &[u8]) -> Vec<Answer> {
        let mut text = String::from_utf8(heard.to_vec()).unwrap();
        let mut answers: Vec<Answer> = Vec::new();
        while let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let status: u16 = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
            let has_body = questions.get(answers.len()).is_none_or(|question| question.method != "HEAD");
            let length = header("content-length").filter(|_| has_body).map_or(0, |length| length.parse().unwrap());
            if status != 100 {
                answers.push((header("x-request-id").map(|id| id.parse().unwrap()), status, rest[..length].to_owned()));
            }
            text = rest[length..].to_owned();
        }
        assert_eq!(text, "", "not an answer");
        answers
    }

    proptest! {
        /// The same conversation as without it, but that some exchanges are refused: nobody gets the answer to what another
        /// asked, and no body passes for a request.
        #[test]
        fn whoever_is_refused_here_changes_nothing_else(
            questions in questions(),
            sending in sendings(),
            refused in any::<u64>(),
        ) {
            let plain = answers(&questions, &conversation(&questions, &sending, None));
            let shed = answers(&questions, &conversation(&questions, &sending, Some(refused)));
            // An answer that comes before the end of what was asked may end the conversation, or not, as it happens to come.
            match questions.iter().position(|question| question.path == "/early") {
                None => prop_assert_eq!(plain.len(), shed.len()),
                Some(early) => prop_assert_eq!(plain.len().min(early), shed.len().min(early)),
            }
            for (id, answer) in shed.into_iter().enumerate() {
                let is_refused = id > 0
                    && refused >> id & 1 == 1
                    && (questions[id].method, questions[id].path) == ("POST", "/auth/v1/token")
                    && answer == (Some(id), 503, NO_TIME.to_owned());
                let as_ever = plain.get(id).map_or(answer.0 == Some(id), |plain| *plain == answer);
                prop_assert!(is_refused || as_ever, "{id}: {answer:?}, and not {:?}", plain.get(id));
            }
        }
    }

    /// Or the property above would hold for want of refusals.
    #[test]
    fn whoever_waits_is_refused_here_from_the_second_time() {
        let question = Question { method: "POST", path: "/auth/v1/token", headers: "", body: Sent::Request };
        for room in [200, 65_536] {
            let sending = Sending { pieces: Pieces::Questions, waits: true, room };
            let questions = vec![question.clone(); 5];
            let heard = answers(&questions, &conversation(&questions, &sending, Some(0b0_1011)));
            let statuses: Vec<u16> = heard.iter().map(|answer| answer.1).collect();
            assert_eq!(statuses, [200, 503, 200, 503, 200], "{room}");
        }
    }

    /// It closes connections that it does not hear from.
    #[test]
    fn the_http_library_hears_something_from_time_to_time() {
        let question = Question { method: "POST", path: "/auth/v1/token", headers: "", body: Sent::Some };
        let question = question.parts(1).concat();
        let hear = |limit| {
            let refuse: Refuse = Arc::new(|_| Some(Vec::new()));
            let mut followed = Followed { refuse, limit, conversation: Conversation::default(), passed_on: None };
            let mut passed_on = |bytes: &[u8]| {
                let is = followed.hear(bytes).is_none();
                followed.conversation = Conversation::default();
                is
            };
            [(); 3].map(|()| passed_on(question.as_bytes()))
        };
        assert_eq!(hear(Duration::MAX), [true, false, false]);
        assert_eq!(hear(Duration::ZERO), [true, true, true]);
    }
}
