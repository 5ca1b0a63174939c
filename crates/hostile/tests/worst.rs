//! The worst conditions that are admitted cannot kill the process: they are evaluated with the stack of a worker thread, and
//! an overflow would end this program. How long they take is for `benches/worst_conditions.rs`.

#![allow(clippy::unwrap_used, reason = "helpers outside test functions may fail a test too")]

use sallyport_domain::condition::{COST_MAX, Condition, PANICKED};
use sallyport_domain::validate::CONDITION_MAX;
use sallyport_hostile::condition::{NOW, largest_claims, on_worker_stack};
use sallyport_hostile::worst::{OPERATIONS, amplified};

fn evaluate(source: &str) {
    let condition = Condition::compile("condition", source).unwrap();
    assert!(condition.cost() <= COST_MAX);
    on_worker_stack(|| {
        for claims in largest_claims() {
            let outcome = condition.evaluate(claims, NOW);
            assert_ne!(outcome, Err(PANICKED.to_owned()), "{source}");
        }
    });
}

#[test]
fn costly_operations_as_often_as_admitted() {
    // Unoptimised, each takes a while: one condition around every operation, the largest loops first.
    let admitted: Vec<String> = OPERATIONS.iter().filter_map(|operation| amplified(operation).next()).collect();
    // Some are not admitted even once, where claims can be as large as a token; most are.
    assert!(admitted.len() * 10 > OPERATIONS.len() * 9, "only {} of {} are admitted", admitted.len(), OPERATIONS.len());
    for source in admitted {
        evaluate(&source);
    }
}

/// What is repeated before and after a core, each as often as admission allows.
const NESTED: &[(&str, &str, &str)] = &[
    ("(", "claims.t", ")"),
    ("!", "claims.t", ""),
    ("dyn(", "claims.t", ")"),
    ("!dyn(", "claims.t", ")"),
    ("[", "claims.t", "][0]"),
    ("{'a': ", "claims.t", "}.a"),
    ("true ? ", "claims.t", " : false"),
    ("false ? true : ", "claims.t", ""),
    ("(true ? ", "claims.t", " : false)"),
    ("true && ", "claims.t", ""),
    ("true && (", "claims.t", ")"),
    ("claims.missing || ", "claims.t", ""),
    ("claims.t == (", "true", ")"),
    ("1 + ", "1 == 1", ""),
    ("", "1 == 1", " + 1"),
    ("1 + (", "1", ") == 1"),
    ("-", "1 == 1", ""),
    ("-(", "1", ") == 1"),
    ("claims.n - (", "1", ")"),
    ("", "claims", "[0]"),
    ("", "claims.list", "[0]"),
    ("", "claims", ".a"),
    ("", "claims", ".?a"),
    ("", "claims.?list", ".or(claims.?n)"),
    ("", "claims.text", ".lowerAscii()"),
    ("", "claims.list", " + claims.n"),
    ("claims.list[", "0", "]"),
    ("claims[claims[", "'a'", "]]"),
    ("string(", "claims.n", ")"),
    ("size([", "1", "])"),
    ("claims.n in [", "1", "]"),
    ("[1].all(x, ", "true", ")"),
    ("", "[1]", ".map(x, x)"),
    ("", "claims.t", " || claims.t == claims.n"),
];

#[test]
fn nesting_as_deep_as_admitted() {
    for (before, core, after) in NESTED {
        let nested = |times: usize| {
            let value = format!("{}{core}{}", before.repeat(times), after.repeat(times));
            // As it is, or compared, whichever gives true or false.
            [value.clone(), format!("{value} == 1")]
        };
        let admitted =
            |times: usize| nested(times).into_iter().find(|source| Condition::compile("condition", source).is_ok());
        let deepest = (1..CONDITION_MAX).map_while(admitted).last();
        let deepest = deepest.unwrap_or_else(|| panic!("{before}…{core}…{after} is not admitted once"));
        evaluate(&deepest);
    }
}
