//! What is said on a connection: [`Conversation`], which may answer an exchange in the HTTP library's place.

use httparse::{EMPTY_HEADER, Request, Status};
use sallyport_gateway::shedding::Conversation;

/// Between what comes in one piece and what comes in the next.
const PIECE: u8 = 0;
/// The same, and meanwhile all that was passed on is answered.
const ANSWERED: u8 = 1;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// The bytes as a client's side of a conversation. All exchanges are refused that can be, but those whose id is `pass`.
pub fn conversation(bytes: &[u8]) {
    let mut conversation = Conversation::default();
    // Of all requests that came, so many are answered.
    let (mut heard, mut answered) = (Vec::new(), 0);
    for piece in bytes.split_inclusive(|byte| matches!(*byte, PIECE | ANSWERED)) {
        let (piece, answers) = match piece.split_last() {
            Some((&PIECE, piece)) => (piece, false),
            Some((&ANSWERED, piece)) => (piece, true),
            _ => (piece, false),
        };
        if !piece.is_empty() {
            let before = heard.len();
            heard.extend_from_slice(piece);
            let refused = conversation.heard(piece, |asked| (asked.id != Some(b"pass")).then(|| b"no".to_vec()));
            if refused.is_some() {
                // It is one whole request, and all before it is answered.
                assert_eq!(requests(&heard).get(answered..), Some(&[(before, heard.len())][..]));
                answered += 1;
            }
        }
        if answers {
            while answered < requests(&heard).len() {
                let (begin, end) = ANSWER.split_at(piece.len() % ANSWER.len());
                conversation.said(ANSWER, begin.len());
                conversation.said(end, end.len());
                answered += 1;
            }
        }
    }
}

/// Where each whole request begins and ends, as one sees it who has all of them: up to the first that is none, or whose end
/// something else than its length says.
fn requests(heard: &[u8]) -> Vec<(usize, usize)> {
    let (mut requests, mut from) = (Vec::new(), 0);
    loop {
        let mut headers = [EMPTY_HEADER; 100];
        let mut request = Request::new(&mut headers);
        let Ok(Status::Complete(head)) = request.parse(&heard[from..]) else { return requests };
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
        let Some(to) = (from + head).checked_add(length).filter(|to| *to <= heard.len()) else { return requests };
        requests.push((from, to));
        from = to;
    }
}
