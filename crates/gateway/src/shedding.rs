//! Follows what is said on a connection as far as it takes to answer in the HTTP library's place: when there is more to do than can
//! be done, most of what a refusal costs is making a request of bytes, and bytes of an answer.
//!
//! Whoever answers there must be sure of two things: that what comes begins a request, and that all which was asked before is
//! answered. Otherwise a body passes for a request, or somebody gets the answer to what another asked (RFC 9112 section 11.2).
//! So only one kind of conversation is followed: HTTP/1.1 requests with whole heads that need nothing special, have at most a
//! `Content-Length` to say where they end, and wait for the answer to the one before. Heads are read by `httparse`, as the
//! HTTP library does. After anything else the conversation is lost: all of it is passed on, for good.

use std::mem::{MaybeUninit, replace};

use httparse::{Request, Status};
use memchr::memmem;
use sallyport_domain::exchange::Protocol;

use crate::routes;
use crate::rpc::Encoding;

/// Longest request that is refused here, head and body; doors take no longer ones.
const LONGEST: usize = 64 * 1024;
/// Most headers of a head that is followed.
const HEADERS: usize = 64;
/// In how many pieces a head may come that is followed, and how long these may be together: it is read anew with each.
const PIECES: usize = 8;
const PIECES_LONGEST: usize = 16 * 1024;

/// How far a conversation has come.
#[derive(Debug)]
pub struct Conversation(Turn);

#[derive(Debug)]
enum Turn {
    /// All that was asked is answered: what comes begins a request.
    Theirs,
    /// This is the beginning of a head, which was passed on, and came in so many pieces.
    Beginning(Vec<u8>, usize),
    /// So much is to come of a request that was passed on.
    Asking(usize),
    /// A request was passed on, and its answer is to begin.
    Ours,
    /// So much is to be said of an answer.
    Answering(usize),
    /// Nobody knows.
    Lost,
}

/// A request for an exchange.
#[derive(Debug)]
pub struct Asked<'b> {
    /// Where it is asked for.
    pub door: Protocol,
    /// What the caller calls the request.
    pub id: Option<&'b [u8]>,
    /// How the RPC door is to answer.
    pub(crate) encoding: Encoding,
}

impl Default for Conversation {
    /// Of a new connection.
    fn default() -> Self {
        Self(Turn::Theirs)
    }
}

impl Conversation {
    /// Whether all that was asked is answered.
    pub const fn is_idle(&self) -> bool {
        matches!(self.0, Turn::Theirs)
    }

    /// The client said this. `refuse` is asked about an exchange that is all there; what it answers is the whole answer to it,
    /// and is to be said before anything else. Then the HTTP library must not see any of these bytes, and else all of them.
    pub fn heard(&mut self, bytes: &[u8], refuse: impl FnOnce(&Asked<'_>) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        self.0 = match replace(&mut self.0, Turn::Lost) {
            Turn::Theirs => match Question::read(bytes) {
                Read::Whole(Question { to_come, asked }) => {
                    let asked = asked.filter(|_| to_come == 0 && bytes.len() <= LONGEST);
                    if let Some(answer) = asked.and_then(|asked| refuse(&asked)) {
                        self.0 = Turn::Theirs;
                        return Some(answer);
                    }
                    asking(to_come)
                }
                Read::Part => beginning(Vec::new(), bytes, 0),
                Read::Other => Turn::Lost,
            },
            Turn::Beginning(head, pieces) => match beginning(head, bytes, pieces) {
                Turn::Beginning(head, pieces) => match Question::read(&head) {
                    Read::Whole(Question { to_come, .. }) => asking(to_come),
                    Read::Part => Turn::Beginning(head, pieces),
                    Read::Other => Turn::Lost,
                },
                lost => lost,
            },
            Turn::Asking(left) => left.checked_sub(bytes.len()).map_or(Turn::Lost, asking),
            // They do not wait for their answer.
            Turn::Ours | Turn::Answering(_) | Turn::Lost => Turn::Lost,
        };
        None
    }

    /// The HTTP library said so much of this, of which an answer's head is all there at its first words.
    pub fn said(&mut self, bytes: &[u8], written: usize) {
        if written == 0 {
            return;
        }
        let length = match &self.0 {
            Turn::Ours => length_of_answer(bytes),
            Turn::Answering(left) => Some(*left),
            _ => None,
        };
        self.0 = match length.and_then(|length| length.checked_sub(written)) {
            Some(0) => Turn::Theirs,
            Some(left) => Turn::Answering(left),
            None => Turn::Lost,
        };
    }
}

/// One more piece came of a head.
fn beginning(mut head: Vec<u8>, piece: &[u8], before: usize) -> Turn {
    if before == PIECES || head.len() + piece.len() > PIECES_LONGEST {
        return Turn::Lost;
    }
    head.extend_from_slice(piece);
    Turn::Beginning(head, before + 1)
}

/// So much is to come of a request that was passed on.
fn asking(to_come: usize) -> Turn {
    if to_come == 0 { Turn::Ours } else { Turn::Asking(to_come) }
}

/// What bytes at the beginning of a request are.
enum Read<'b> {
    /// A whole head that is followed, and no more than its body.
    Whole(Question<'b>),
    /// Part of a head.
    Part,
    /// Anything else.
    Other,
}

/// A request, of which at least the head is there.
struct Question<'b> {
    /// How much of it is to come.
    to_come: usize,
    /// Where it asks for an exchange.
    asked: Option<Asked<'b>>,
}

impl<'b> Question<'b> {
    fn read(bytes: &'b [u8]) -> Read<'b> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut request = Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(Status::Complete(head)) => Self::of(&request, head, bytes.len()).map_or(Read::Other, Read::Whole),
            Ok(Status::Partial) => Read::Part,
            Err(_) => Read::Other,
        }
    }

    /// Of this, whose head is so long, of which so much came.
    fn of(request: &Request<'_, 'b>, head: usize, came: usize) -> Option<Self> {
        let (Some(method), Some(path), Some(1)) = (request.method, request.path, request.version) else { return None };
        let (mut length, mut accept, mut content_type, mut id) = (None, None, None, None);
        for header in &*request.headers {
            let is = |name| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                if length.replace(decimal(header.value)?).is_some() {
                    return None;
                }
            } else if is("accept") {
                accept = accept.or(Some(header.value));
            } else if is("content-type") {
                content_type = content_type.or(Some(header.value));
            } else if is("x-request-id") {
                id = id.or(Some(header.value));
            } else if is("connection") {
                if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            } else if is("transfer-encoding") || is("upgrade") || is("expect") {
                return None;
            }
        }
        let door = match method {
            "POST" => Protocol::ALL.into_iter().find(|door| routes::path(*door) == path),
            "GET" => None,
            // The answer to a HEAD has no body, whatever its head says.
            _ => return None,
        };
        let asked = door.map(|door| Asked { door, id, encoding: Encoding::named(accept.or(content_type)) });
        let to_come = (head.checked_add(length.unwrap_or(0))?).checked_sub(came)?;
        Some(Self { to_come, asked })
    }
}

/// A number of digits and nothing else, of fewer than there can be bytes.
fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    text.iter().try_fold(0, |number: usize, digit| {
        digit.is_ascii_digit().then(|| number.checked_mul(10)?.checked_add(usize::from(digit - b'0')))?
    })
}

/// How long an answer is, head and body, which begins like this: with its whole head, as the HTTP library writes it.
fn length_of_answer(bytes: &[u8]) -> Option<usize> {
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    let head = memmem::find(bytes, b"\r\n\r\n")?;
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    if status[0] == b'1' || status == b"204" || status == b"304" {
        return None;
    }
    let bytes = &bytes[..head];
    // Nothing is to be said after it.
    if memmem::find(bytes, b"\r\nconnection: close").is_some() {
        return None;
    }
    let length = &bytes[memmem::find(bytes, LENGTH)? + LENGTH.len()..];
    let length = decimal(&length[..memmem::find(length, b"\r\n").unwrap_or(length.len())])?;
    (head + 4).checked_add(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 3\r\ndate: now\r\n\r\nabc";

    /// An exchange with these headers and this body.
    fn an_exchange(headers: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!("POST /auth/v1/token HTTP/1.1\r\nhost: a\r\n{headers}content-length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    /// Whether this is refused, where whatever can be is.
    fn is_refused(conversation: &mut Conversation, bytes: &[u8]) -> bool {
        conversation.heard(bytes, |_| Some(b"no".to_vec())).is_some()
    }

    /// Whether the next exchange would be refused, for the conversation is known to have come to one.
    fn is_followed(conversation: &mut Conversation) -> bool {
        is_refused(conversation, &an_exchange("", "body"))
    }

    /// Passes on what comes in these pieces.
    fn pass_on(pieces: &[&[u8]]) -> Conversation {
        let mut conversation = Conversation::default();
        for piece in pieces {
            assert_eq!(conversation.heard(piece, |_| None), None);
        }
        conversation
    }

    #[test]
    fn an_exchange_is_asked_about_with_what_its_answer_goes_by() {
        let mut asked = Vec::new();
        let mut ask = |request: &[u8]| {
            let mut conversation = Conversation::default();
            conversation.heard(request, |about| {
                asked.push((about.door, about.encoding, about.id.map(<[u8]>::to_vec)));
                None
            });
        };
        ask(&an_exchange("X-Request-ID: one\r\nx-request-id: two\r\n", ""));
        ask(b"POST /SecureTokenService/ExchangeExternalToken HTTP/1.1\r\nContent-Type: application/protobuf\r\n\r\n");
        ask(b"POST /SecureTokenService/ExchangeExternalToken HTTP/1.1\r\ncontent-type: application/protobuf\r\nAccept: a/b\r\n\r\n");
        // None of these is an exchange.
        ask(b"GET /auth/v1/token HTTP/1.1\r\n\r\n");
        ask(b"POST /auth/v1/token?a HTTP/1.1\r\n\r\n");
        ask(b"POST /auth/v1/revoke HTTP/1.1\r\n\r\n");
        ask(b"POST http://a/auth/v1/token HTTP/1.1\r\n\r\n");
        // No door takes as much.
        ask(&an_exchange("", &"a".repeat(LONGEST)));
        assert_eq!(
            asked,
            [
                (Protocol::Oauth, Encoding::Json, Some(b"one".to_vec())),
                (Protocol::Rpc, Encoding::Protobuf, None),
                (Protocol::Rpc, Encoding::Json, None),
            ]
        );
    }

    /// The HTTP library is to know of whatever it may have to wait for.
    #[test]
    fn what_comes_in_pieces_is_passed_on() {
        let request = an_exchange("", "a body");
        for end in 1..request.len() {
            let (first, second) = request.split_at(end);
            let mut conversation = Conversation::default();
            assert!(!is_refused(&mut conversation, first) && !is_refused(&mut conversation, second), "{end}");
            conversation.said(ANSWER, ANSWER.len());
            assert!(is_followed(&mut conversation), "{end}");
        }
    }

    #[test]
    fn an_answer_is_waited_for_to_its_end() {
        let request = an_exchange("", "a body");
        let (first, second) = request.split_at(24);
        for pieces in [&[&request[..]][..], &[first, second], &[&request[..request.len() - 1], b"y"]] {
            let mut conversation = pass_on(pieces);
            conversation.said(ANSWER, 0);
            conversation.said(ANSWER, 5);
            conversation.said(&ANSWER[5..], ANSWER.len() - 6);
            conversation.said(b"c", 1);
            assert!(is_followed(&mut conversation));
            // A body of its own.
            let mut conversation = pass_on(pieces);
            let head = ANSWER.len() - 3;
            conversation.said(&ANSWER[..head], head + 3);
            assert!(is_followed(&mut conversation));
        }
    }

    #[test]
    fn whoever_does_not_wait_is_not_followed() {
        let request = an_exchange("", "a body");
        let lost = |mut conversation: Conversation| {
            assert!(!is_followed(&mut conversation));
            conversation.said(ANSWER, ANSWER.len());
            assert!(!is_followed(&mut conversation));
        };
        // Two at once, the second before the answer, and in the middle of it.
        lost(pass_on(&[&request.repeat(2)]));
        lost(pass_on(&[&request]));
        let mut conversation = pass_on(&[&request]);
        conversation.said(ANSWER, 5);
        lost(conversation);
        // An answer before the end of the request; one too many; and none that was asked for.
        let mut conversation = pass_on(&[&request[..request.len() - 1]]);
        conversation.said(ANSWER, ANSWER.len());
        lost(conversation);
        let mut conversation = pass_on(&[&request]);
        conversation.said(ANSWER, ANSWER.len() + 1);
        lost(conversation);
        let mut conversation = Conversation::default();
        conversation.said(ANSWER, ANSWER.len());
        lost(conversation);
    }

    #[test]
    fn requests_of_any_other_kind_are_not_followed() {
        for request in [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            b"POST /auth/v1/token HTTP/1.0\r\n\r\n",
            b"HEAD /livez HTTP/1.1\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length: 0\r\nContent-Length: 0\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length: +0\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length:\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length: 0, 0\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\nexpect: 100-continue\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\nupgrade: h2c\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\nconnection: close\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\ncontent-length : 0\r\n\r\n",
            b"POST /auth/v1/token HTTP/1.1\r\na: b\r\n c: d\r\n\r\n",
            b"no request at all\r\n\r\n",
        ] {
            let mut conversation = Conversation::default();
            assert!(!is_refused(&mut conversation, request), "{}", String::from_utf8_lossy(request));
            conversation.said(ANSWER, ANSWER.len());
            assert!(!is_followed(&mut conversation), "{}", String::from_utf8_lossy(request));
        }
        let mut conversation = pass_on(&[b"GET /livez HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n"]);
        conversation.said(ANSWER, ANSWER.len());
        assert!(is_followed(&mut conversation));
    }

    /// They are read anew with each piece.
    #[test]
    fn heads_in_many_pieces_are_not_followed() {
        let request = an_exchange("", "a body");
        let in_pieces = |pieces: usize| {
            let (last, rest) = (request.len() - 10, request.chunks(1).take(pieces - 1));
            let mut pieces: Vec<&[u8]> = rest.collect();
            pieces.extend([&request[pieces.len()..last], &request[last..]]);
            let mut conversation = pass_on(&pieces);
            conversation.said(ANSWER, ANSWER.len());
            is_followed(&mut conversation)
        };
        assert_eq!([1, PIECES - 1, PIECES].map(in_pieces), [true, true, false]);
        let long = an_exchange(&format!("a: {}\r\n", "b".repeat(PIECES_LONGEST)), "");
        let (first, second) = long.split_at(long.len() - 1);
        let mut conversation = pass_on(&[first, second]);
        conversation.said(ANSWER, ANSWER.len());
        assert!(!is_followed(&mut conversation));
    }

    #[test]
    fn an_answer_whose_end_cannot_be_told_is_not_followed() {
        for (answer, length) in [
            (ANSWER, Some(ANSWER.len())),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some(38)),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", None),
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\n\r\n\r\ncontent-length: 1\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 1a\r\n\r\n", None),
            (b"HTTP/1.1 100 Continue\r\ncontent-length: 1\r\n\r\n", None),
            (b"HTTP/1.1 204 No Content\r\ncontent-length: 1\r\n\r\n", None),
            (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1\r\n\r\n", None),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", None),
            (b"", None),
        ] {
            assert_eq!(length_of_answer(answer), length, "{}", String::from_utf8_lossy(answer));
        }
    }
}
