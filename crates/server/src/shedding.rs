//! Exchanges that there is no time for are refused where their bytes come in, before the HTTP library is even polled: when there is
//! more to do than can be done, what it costs to look at a connection is most of what a refusal costs.
//!
//! Two hold a connection: the HTTP library, which hears and says what it always does, and who refuses, who is polled before it.
//! While there is too much to do and all that was asked is answered, that one listens in its place, and what it does not refuse is
//! kept for the library. Whoever was refused and comes again at once may not be listened to at all for a while.

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, take};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sallyport_gateway::shedding::{Asked, Conversation};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest request that is refused here, in bytes; an exchange is about a quarter of it. It lies on the stack, where others lay
/// just before, and so in the processor's caches. The HTTP library takes as much at once.
const LONGEST: usize = 8 * 1024;

/// Refuses exchanges.
pub(crate) trait Refuse: Send + Sync {
    /// Whether there may be something to refuse just now.
    fn may_refuse(&self) -> bool;

    /// Answers an exchange that is to be refused.
    fn refuse(&self, asked: &Asked<'_>) -> Option<Vec<u8>>;

    /// Until when a client that is refused now is not listened to, while there may be something to refuse. `None`: it is.
    fn unheard(&self, now: Instant) -> Option<Instant>;
}

/// A connection, and how far what is said on it has come.
struct Line<T> {
    stream: T,
    followed: Option<Followed>,
    /// Whether the HTTP library waits to hear more, and for nothing else but its own clock.
    waits: bool,
    /// What was heard in the HTTP library's place and is for it; so much of it was passed on.
    kept: Vec<u8>,
    passed: usize,
    /// Until when it is not listened to; and who wakes the task then, if something is to be heard before.
    unheard: Option<Instant>,
    end: Option<Pin<Box<Sleep>>>,
    /// What kept from hearing or saying more.
    failed: Option<io::Error>,
    /// An answer, of which so much is said.
    unsaid: Vec<u8>,
    said: usize,
}

struct Followed {
    refuse: Arc<dyn Refuse>,
    limit: Duration,
    conversation: Conversation,
    /// When the HTTP library last heard something.
    passed_on: Instant,
}

/// A connection as the HTTP library has it.
pub(crate) struct Shed<T>(Arc<Mutex<Line<T>>>);

/// A connection as who refuses has it.
pub(crate) struct Shedding<T>(Arc<Mutex<Line<T>>>);

/// On this connection, on which this was heard so far and nothing said, exchanges may be refused where `refuse` is. The HTTP library
/// hears something after `limit` at the latest: it closes connections that it does not hear from, by a clock that is not looked
/// at while it is not polled.
pub(crate) fn shed<T>(
    stream: T,
    heard: Vec<u8>,
    refuse: Option<Arc<dyn Refuse>>,
    limit: Duration,
) -> (Shedding<T>, Shed<T>) {
    let followed = refuse.map(|refuse| {
        let mut followed = Followed { refuse, limit, conversation: Conversation::default(), passed_on: Instant::now() };
        followed.pass_on(&heard);
        followed
    });
    let (kept, unsaid) = (heard, Vec::new());
    let line = Line {
        stream,
        followed,
        waits: false,
        kept,
        passed: 0,
        unheard: None,
        end: None,
        failed: None,
        unsaid,
        said: 0,
    };
    let line = Arc::new(Mutex::new(line));
    (Shedding(Arc::clone(&line)), Shed(line))
}

/// Whoever panics with it ends the connection.
fn lock<T>(line: &Mutex<Line<T>>) -> MutexGuard<'_, Line<T>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Shedding<T> {
    /// Refuses what there is to refuse, and polls what the HTTP library makes of the connection, unless that was all there was
    /// to do, or the client is not listened to. What woke the task is not kept from the library: it waits for nothing but to
    /// hear more, and for a clock that has not run out while it heard something within the limit, or a second more.
    pub(crate) fn poll<F: Future>(&self, http: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut line = lock(&self.0);
        let refusing = line.poll_refuse(context).unwrap_or_else(|error| {
            line.failed = Some(error);
            Poll::Ready(())
        });
        drop(line);
        ready!(refusing);
        http.poll(context)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Line<T> {
    /// Pending where something was refused and that was all, or the client is not listened to.
    fn poll_refuse(&mut self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        let mut refused = false;
        while self.is_ours() {
            if self.poll_unheard(context).is_pending() {
                return Ok(Poll::Pending);
            }
            let mut room = [const { MaybeUninit::uninit() }; LONGEST];
            let mut buffer = ReadBuf::uninit(&mut room);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, &mut buffer) else {
                return Ok(if refused { Poll::Pending } else { Poll::Ready(()) });
            };
            read?;
            let came = buffer.filled();
            // At the end the HTTP library hears it as well.
            let Some(followed) = self.followed.as_mut().filter(|_| !came.is_empty()) else { break };
            let now = Instant::now();
            let Some(answer) = followed.hear(came, now) else {
                self.kept.extend_from_slice(came);
                break;
            };
            self.unheard = followed.refuse.unheard(now);
            (self.unsaid, refused) = (answer, true);
            // Where it cannot be said at once, it is said before the HTTP library hears or says anything.
            let Poll::Ready(said) = self.poll_say(context) else { break };
            said?;
        }
        Ok(Poll::Ready(()))
    }
}

impl<T: AsyncWrite + Unpin> Line<T> {
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

impl<T> Line<T> {
    /// Whether who refuses may listen in the HTTP library's place, for there may be something to refuse.
    fn is_ours(&self) -> bool {
        let nothing_left = self.waits && self.kept.is_empty() && self.unsaid.is_empty();
        nothing_left && self.followed.as_ref().is_some_and(Followed::may_refuse)
    }

    /// Waits until it is listened to again.
    fn poll_unheard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(until) = self.unheard.filter(|until| *until > Instant::now()) {
            let end = self.end.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(end.as_mut().poll(context));
        }
        (self.unheard, self.end) = (None, None);
        Poll::Ready(())
    }

    /// Passes on what was kept, where there is something.
    fn pass_on(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let kept = &self.kept[self.passed..];
        if kept.is_empty() {
            return false;
        }
        let piece = &kept[..kept.len().min(buffer.remaining())];
        buffer.put_slice(piece);
        self.passed += piece.len();
        if self.passed == self.kept.len() {
            (self.kept, self.passed) = (Vec::new(), 0);
        }
        true
    }

    /// The HTTP library said so much of this.
    fn wrote(&mut self, bytes: &[u8], written: usize) {
        if let Some(followed) = &mut self.followed {
            followed.conversation.said(bytes, written);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Shed<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = &mut *lock(&self.0);
        line.waits = false;
        if line.pass_on(buffer) {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = take(&mut line.failed) {
            return Poll::Ready(Err(error));
        }
        ready!(line.poll_say(context))?;
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut line.stream).poll_read(context, buffer) else {
            // Without budget it has not set its clock, and is to be polled for that.
            line.waits = line.followed.as_ref().is_some_and(Followed::is_idle) && has_budget_remaining();
            return Poll::Pending;
        };
        read?;
        let came = &buffer.filled()[before..];
        if let Some(followed) = line.followed.as_mut().filter(|_| !came.is_empty()) {
            followed.pass_on(came);
        }
        Poll::Ready(Ok(()))
    }
}

impl Followed {
    /// Whether all that was asked is answered.
    fn is_idle(&self) -> bool {
        self.conversation.is_idle()
    }

    /// Whether what comes now may be refused.
    fn may_refuse(&self) -> bool {
        self.is_idle() && self.refuse.may_refuse()
    }

    /// The answer, where this is refused; else it is for the HTTP library.
    fn hear(&mut self, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
        let unheard = now - self.passed_on > self.limit;
        let answer = self.conversation.heard(bytes, |asked| if unheard { None } else { self.refuse.refuse(asked) });
        if answer.is_none() {
            self.passed_on = now;
        }
        answer
    }

    /// The HTTP library heard this.
    fn pass_on(&mut self, bytes: &[u8]) {
        self.conversation.heard(bytes, |_| None);
        self.passed_on = Instant::now();
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Shed<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = &mut *lock(&self.0);
        line.waits = false;
        ready!(line.poll_say(context))?;
        let written = ready!(Pin::new(&mut line.stream).poll_write(context, bytes))?;
        line.wrote(bytes, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = &mut *lock(&self.0);
        let flushed = match line.poll_say(context) {
            Poll::Ready(Ok(())) => Pin::new(&mut line.stream).poll_flush(context),
            other => other,
        };
        // Then it waits for that as well.
        line.waits &= flushed.is_ready();
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = &mut *lock(&self.0);
        line.waits = false;
        ready!(line.poll_say(context))?;
        Pin::new(&mut line.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = &mut *lock(&self.0);
        line.waits = false;
        ready!(line.poll_say(context))?;
        let written = ready!(Pin::new(&mut line.stream).poll_write_vectored(context, slices))?;
        line.wrote(slices.first().map_or(&[], |slice| slice), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use axum::Router;
    use axum::body::to_bytes;
    use axum::extract::Request;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse as _, Response};
    use hyper::server::conn::http1;
    use hyper_util::rt::{TokioIo, TokioTimer};
    use hyper_util::service::TowerToHyperService;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter, DuplexStream, duplex};
    use tokio::task::coop::poll_proceed;
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time;

    use super::*;
    use crate::patience::first_words;

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

    /// Refuses the exchanges whose bit is set.
    struct Marked {
        bits: u64,
        /// Whether there may be something to refuse, in turn.
        may: u64,
        turn: AtomicU32,
        /// For how long it does not listen after that.
        unheard: Option<Duration>,
        /// Whether anything passed for a request that is none.
        smuggled: Arc<AtomicBool>,
    }

    impl Marked {
        fn new(bits: u64, may: u64) -> Self {
            Self { bits, may, turn: AtomicU32::new(0), unheard: None, smuggled: Arc::default() }
        }
    }

    impl Refuse for Marked {
        fn may_refuse(&self) -> bool {
            self.may >> (self.turn.fetch_add(1, Ordering::Relaxed) % 64) & 1 == 1
        }

        fn refuse(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
            let id: usize = std::str::from_utf8(asked.id?).unwrap().parse().unwrap();
            self.smuggled.fetch_or(id == SMUGGLED, Ordering::Relaxed);
            let length = NO_TIME.len();
            let answer = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {length}\r\nx-request-id: {id}\r\n\r\n{NO_TIME}"
            );
            (self.bits >> (id % 64) & 1 == 1).then(|| answer.into_bytes())
        }

        fn unheard(&self, now: Instant) -> Option<Instant> {
            self.unheard.map(|time| now + time)
        }
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

    /// How long a client may take to send its request's head.
    const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

    /// Answers on this connection, in a task, until it ends.
    fn serve(
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        refuse: Option<Arc<dyn Refuse>>,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let first = first_words(&mut stream, HEAD_TIMEOUT).await.unwrap();
            let (shedding, stream) = shed(stream, first, refuse, HEAD_TIMEOUT / 5);
            let service = TowerToHyperService::new(Router::new().fallback(answer));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
            let _ = poll_fn(|context| shedding.poll(connection.as_mut(), context)).await;
        })
    }

    /// What is said on a connection to these, of which those with these ids are refused where they can be.
    fn conversation(questions: &[Question], sending: &Sending, refuse: Option<Marked>) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (client, server) = duplex(sending.room);
            let smuggling = refuse.as_ref().map(|refuse| Arc::clone(&refuse.smuggled)).unwrap_or_default();
            let serving = serve(server, refuse.map(|refuse| -> Arc<dyn Refuse> { Arc::new(refuse) }));
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
            // It is heard that nothing more comes.
            let _ = writing.shutdown().await;
            serving.await.unwrap();
            assert!(!smuggling.load(Ordering::Relaxed), "a body passed for a request");
            take(&mut *heard.lock().unwrap())
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
            may in prop_oneof![Just(u64::MAX), any::<u64>()],
        ) {
            let plain = answers(&questions, &conversation(&questions, &sending, None));
            let shed = answers(&questions, &conversation(&questions, &sending, Some(Marked::new(refused, may))));
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
            let heard = answers(&questions, &conversation(&questions, &sending, Some(Marked::new(0b0_1011, u64::MAX))));
            let statuses: Vec<u16> = heard.iter().map(|answer| answer.1).collect();
            assert_eq!(statuses, [200, 503, 200, 503, 200], "{room}");
        }
    }

    /// Says this and hears a whole answer, of that status.
    async fn ask(client: &mut DuplexStream, question: &[u8], status: &str) {
        client.write_all(question).await.unwrap();
        let (mut heard, mut piece) = (Vec::new(), [0; 10_000]);
        while !answers(&[], &heard).iter().any(|answer| answer.2.len() > 10) {
            let came = client.read(&mut piece).await.unwrap();
            assert_ne!(came, 0, "it ended after {:?}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&piece[..came]);
        }
        assert!(heard.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{:?}", String::from_utf8_lossy(&heard));
    }

    /// Nothing more is said to this one, and it ends when the time for a head is over.
    async fn is_cut_off(client: &mut DuplexStream, serving: JoinHandle<()>) {
        ends(client, serving, HEAD_TIMEOUT + Duration::from_secs(1)).await;
    }

    async fn ends(client: &mut DuplexStream, serving: JoinHandle<()>, within: Duration) {
        assert_eq!(time::timeout(within, client.read(&mut [0; 10])).await.expect("it goes on").unwrap(), 0);
        serving.await.unwrap();
    }

    fn an_exchange() -> Vec<u8> {
        let question = Question { method: "POST", path: "/auth/v1/token", headers: "", body: Sent::Some };
        question.parts(1).concat().into_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_refused_and_says_nothing_more_is_cut_off() {
        for refusals in 0..3 {
            let (mut client, server) = duplex(65_536);
            let serving = serve(server, Some(Arc::new(Marked::new(u64::MAX, u64::MAX))));
            ask(&mut client, &an_exchange(), "200").await;
            for _ in 0..refusals {
                ask(&mut client, &an_exchange(), "503").await;
            }
            is_cut_off(&mut client, serving).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_again_at_once_waits() {
        const UNHEARD: Duration = Duration::from_millis(700);
        let (mut client, server) = duplex(65_536);
        let marked = Marked { unheard: Some(UNHEARD), ..Marked::new(u64::MAX, u64::MAX) };
        let serving = serve(server, Some(Arc::new(marked)));
        ask(&mut client, &an_exchange(), "200").await;
        ask(&mut client, &an_exchange(), "503").await;
        let mut refused = Instant::now();
        for pause in [0, 500] {
            time::sleep(Duration::from_millis(pause)).await;
            let asked = Instant::now();
            ask(&mut client, &an_exchange(), "503").await;
            // To the millisecond: so exact are tokio's clocks.
            let waited = UNHEARD.saturating_sub(asked - refused);
            assert_eq!(asked.elapsed().as_millis(), waited.as_millis(), "{pause}");
            refused = Instant::now();
        }
        // By then the HTTP library has heard nothing for two seconds.
        time::sleep(Duration::from_millis(800)).await;
        ask(&mut client, &an_exchange(), "200").await;
        is_cut_off(&mut client, serving).await;
    }

    /// Whoever has nothing more to say is no less cut off for it, nor is who goes away missed.
    #[tokio::test(start_paused = true)]
    async fn who_is_not_listened_to_ends_like_any_other() {
        for goes in [false, true] {
            let (mut client, server) = duplex(65_536);
            let marked = Marked { unheard: Some(Duration::from_millis(700)), ..Marked::new(u64::MAX, u64::MAX) };
            let serving = serve(server, Some(Arc::new(marked)));
            ask(&mut client, &an_exchange(), "200").await;
            ask(&mut client, &an_exchange(), "503").await;
            if goes {
                client.shutdown().await.unwrap();
                ends(&mut client, serving, Duration::from_millis(701)).await;
            } else {
                is_cut_off(&mut client, serving).await;
            }
        }
    }

    /// A stream on which it takes all of the task's budget to hear nothing after an answer.
    struct Tiring {
        stream: DuplexStream,
        answered: bool,
    }

    impl AsyncRead for Tiring {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            self.answered &= read.is_pending();
            while self.answered
                && let Poll::Ready(proceeding) = poll_proceed(context)
            {
                proceeding.made_progress();
            }
            read
        }
    }

    impl AsyncWrite for Tiring {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.answered = true;
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    /// It could not set its clock, and will be polled for that.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_refused_here_when_the_http_library_had_no_budget_left() {
        for tiring in [false, true] {
            let (mut client, server) = duplex(65_536);
            let refuse: Option<Arc<dyn Refuse>> = Some(Arc::new(Marked::new(u64::MAX, u64::MAX)));
            let serving = match tiring {
                true => serve(Tiring { stream: server, answered: false }, refuse),
                false => serve(server, refuse),
            };
            ask(&mut client, &an_exchange(), "200").await;
            ask(&mut client, &an_exchange(), if tiring { "200" } else { "503" }).await;
            serving.abort();
        }
    }

    /// TLS takes an answer before the network does. Whoever refuses then would say the rest of it as well, and the HTTP library
    /// would not learn of it, wait for nothing and never look at its clock.
    #[tokio::test(start_paused = true)]
    async fn who_is_refused_while_an_answer_is_on_its_way_is_cut_off_as_well() {
        const ROOM: usize = 310;
        let (mut client, server) = duplex(ROOM);
        let serving = serve(BufWriter::new(server), Some(Arc::new(Marked::new(u64::MAX, u64::MAX))));
        let long = Question { method: "GET", path: "/long", headers: "", body: Sent::Nothing };
        client.write_all(long.parts(0).concat().as_bytes()).await.unwrap();
        settle(100).await;
        // It takes a little, and is given a little more.
        let (mut heard, mut piece) = (Vec::new(), [0; ROOM]);
        client.read_exact(&mut piece[..5]).await.unwrap();
        heard.extend_from_slice(&piece[..5]);
        settle(100).await;
        // At once there is more to hear, and room for all that is to be said.
        client.write_all(&an_exchange()).await.unwrap();
        client.read_exact(&mut piece).await.unwrap();
        heard.extend_from_slice(&piece);
        settle(100).await;
        let rest = client.read(&mut piece).await.unwrap();
        heard.extend_from_slice(&piece[..rest]);
        assert_eq!(answers(&[], &heard).iter().map(|answer| answer.0).collect::<Vec<_>>(), [Some(0), Some(1)]);
        is_cut_off(&mut client, serving).await;
    }

    /// It closes connections that it does not hear from.
    #[test]
    fn the_http_library_hears_something_from_time_to_time() {
        let hear = |limit| {
            let refuse = Arc::new(Marked::new(u64::MAX, u64::MAX));
            let (conversation, passed_on) = (Conversation::default(), Instant::now());
            let mut followed = Followed { refuse, limit, conversation, passed_on };
            let mut passed_on = |bytes: &[u8]| {
                let is = followed.hear(bytes, Instant::now()).is_none();
                followed.conversation = Conversation::default();
                is
            };
            [(); 3].map(|()| passed_on(&an_exchange()))
        };
        assert_eq!(hear(Duration::MAX), [false; 3]);
        assert_eq!(hear(Duration::ZERO), [true; 3]);
    }
}
