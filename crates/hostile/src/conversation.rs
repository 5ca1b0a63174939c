//! What is said on a connection: [`Conversation`], which may answer an exchange in the HTTP library's place.

use httparse::{EMPTY_HEADER, Request, Status};
use sallyport_gateway::shedding::{Conversation, Heard};

/// Between what comes in one piece and what comes in the next.
const PIECE: u8 = 0;
/// The same, and meanwhile all that was passed on is answered.
const ANSWERED: u8 = 1;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// The bytes as a client's side of a conversation. All exchanges are refused that can be, but those whose id is `pass`.
pub fn conversation(bytes: &[u8]) {
    let mut conversation = Conversation::default();
    // Of all requests that came: how many are answered, and how much was heard and dropped so far.
    let (mut said, mut answered, mut dropped_from) = (Vec::new(), 0, None);
    for piece in bytes.split_inclusive(|byte| matches!(*byte, PIECE | ANSWERED)) {
        let (piece, answers) = match piece.split_last() {
            Some((&PIECE, piece)) => (piece, false),
            Some((&ANSWERED, piece)) => (piece, true),
            _ => (piece, false),
        };
        if !piece.is_empty() {
            let before = said.len();
            said.extend_from_slice(piece);
            let Heard { dropped, answer } =
                conversation.heard(piece, |asked| (asked.id != Some(b"pass")).then(|| b"no".to_vec()));
            assert!(dropped <= piece.len());
            if dropped > 0 {
                let from = *dropped_from.get_or_insert(before);
                if answer.is_some() {
                    // It is one whole request, and all before it is answered.
                    let requests = requests(&said[..before + dropped]);
                    assert_eq!(requests.get(answered), Some(&(from, before + dropped)));
                    assert_eq!(requests.len(), answered + 1);
                    (answered, dropped_from) = (answered + 1, None);
                } else {
                    assert_eq!(dropped, piece.len(), "the rest of it is to come");
                }
            } else {
                assert!(answer.is_none() && dropped_from.is_none(), "half a request is passed on");
            }
        }
        if answers && dropped_from.is_none() {
            for _ in answered..requests(&said).len() {
                conversation.said(ANSWER, ANSWER.len());
                answered += 1;
            }
        }
    }
}

/// Where each whole request begins and ends, as one sees it who has all of them: up to the first that is none, or whose end
/// something else than its length says.
fn requests(said: &[u8]) -> Vec<(usize, usize)> {
    let (mut requests, mut from) = (Vec::new(), 0);
    loop {
        let mut headers = [EMPTY_HEADER; 100];
        let mut request = Request::new(&mut headers);
        let Ok(Status::Complete(head)) = request.parse(&said[from..]) else { return requests };
        let named = |name: &str| {
            let headers = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            headers.map(|header| std::str::from_utf8(header.value).ok()).collect::<Vec<_>>()
        };
        let length = match named("content-length").as_slice() {
            [] => Some(0),
            [length] => length.and_then(|length| length.parse().ok()),
            _ => None,
        };
        let (Some(length), []) = (length, named("transfer-encoding").as_slice()) else { return requests };
        let Some(to) = (from + head).checked_add(length).filter(|to| *to <= said.len()) else { return requests };
        requests.push((from, to));
        from = to;
    }
}
