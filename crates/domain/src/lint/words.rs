//! Pieces of condition text for messages.

use crate::condition::{Literal, SimpleTest};
use crate::preset::{expression, quoted};

/// Longest text of an admin that a message repeats.
const QUOTE_MAX: usize = 400;

/// A test as an admin would write it.
pub(super) fn test(test: &SimpleTest) -> String {
    let call =
        |claim: &[String], function: &str, text: &str| format!("{}.{function}({})", expression(claim), quoted(text));
    match test {
        SimpleTest::Equals { claim, literal } => format!("{} == {}", expression(claim), value(literal)),
        SimpleTest::In { claim, literals } => {
            format!("{} in [{}]", expression(claim), crate::validate::joined(literals.iter().map(value)))
        }
        SimpleTest::Includes { claim, literal } => format!("{} in {}", value(literal), expression(claim)),
        SimpleTest::StartsWith { claim, prefix } => call(claim, "startsWith", prefix),
        SimpleTest::EndsWith { claim, suffix } => call(claim, "endsWith", suffix),
        SimpleTest::Contains { claim, part } => call(claim, "contains", part),
        SimpleTest::Matches { claim, pattern } => call(claim, "matches", pattern),
        SimpleTest::Glob { claim, pattern } => call(claim, "glob", pattern),
        SimpleTest::Has { claim } => format!("has({})", expression(claim)),
        SimpleTest::Other => "another test".to_owned(),
    }
}

/// A literal as an admin would write it.
pub(super) fn value(literal: &Literal) -> String {
    match literal {
        Literal::String(text) => quoted(text),
        Literal::Int(number) => number.to_string(),
        Literal::Bool(value) => value.to_string(),
        Literal::Other => "…".to_owned(),
    }
}

/// The condition with `addition` as a further conjunct, when it is short enough to be repeated.
pub(super) fn with(source: &str, addition: &str) -> Option<String> {
    (source.len() <= QUOTE_MAX && !source.contains("//") && !source.contains('\n'))
        .then(|| format!("({}) && {addition}", source.trim()))
}
