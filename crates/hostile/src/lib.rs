//! Hostile input: what every parser that a stranger or a tenant reaches must hold to, whatever the bytes.
//!
//! Each function of [`TARGETS`] takes bytes, hands them to one parser through its public door, and asserts what must be
//! true of the answer; a broken promise is a panic. `fuzz/` runs them under libFuzzer, `tests/replay.rs` runs them over
//! the checked-in seeds and over every input that once broke one, and `benches/worst_conditions.rs` looks for the condition
//! that takes longest. Nothing that ships depends on this crate.

pub mod aws;
pub mod claims;
pub mod condition;
pub mod conversation;
pub mod expression;
pub mod jwt;
pub mod keys;
pub mod names;
pub mod service_account;
pub mod subject;
pub mod worst;

/// One target: its name, which is also that of its folder in `fuzz/seeds`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("jwt", jwt::jwt),
    ("claims", claims::claims),
    ("key_set", keys::key_set),
    ("service_account_jwt", service_account::service_account_jwt),
    ("aws_request", aws::request),
    ("sts_answer", aws::sts_answer),
    ("condition", condition::text),
    ("condition_tree", condition::tree),
    ("subject_pattern", subject::pattern),
    ("mrn", names::mrn),
    ("conversation", conversation::conversation),
];

/// The bytes as text; what is none does not reach a parser of text.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The first line and the rest.
fn first_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// What the other end or a log may be shown: one line, of bounded length.
fn assert_message(message: &str, longest: usize) {
    assert!(message.len() <= longest, "a message of {} bytes: {message:.200}", message.len());
    assert!(!message.contains(char::is_control), "control characters in a message: {message:?}");
}
