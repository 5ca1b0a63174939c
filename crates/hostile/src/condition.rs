//! Conditions: whatever [`Condition::compile`] admits is evaluated, on arbitrary claims and on the largest there are,
//! with the stack of a worker thread.

use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sallyport_domain::claims::{ARRAY_MAX, Claims};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::condition::{COST_MAX, Condition, HEAVY, Literal, PANICKED, SimpleTest};
use serde_json::{Value, json};

use crate::{assert_message, expression, text as as_text};

/// When conditions are evaluated.
pub const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
/// Longest document that claims come from, in bytes: the token limit.
pub const CLAIMS_MAX: usize = 16 * 1024;
/// Stack of the threads that serve requests, in bytes (tokio's default).
pub const WORKER_STACK: usize = 2 * 1024 * 1024;

/// Longest that an instrumented build may take: a fixed part, and ten times what the static cost promises.
const OVERHEAD: Duration = Duration::from_millis(10);
const STEP: Duration = Duration::from_micros(4);

/// The bytes as a condition; after a line `---`, as claims.
pub fn text(bytes: &[u8]) {
    inspect_text(bytes, false);
}

/// As [`text`], and it must not take longer than its static cost says. For the fuzzer: a test suite has no stop watch.
pub fn text_in_time(bytes: &[u8]) {
    inspect_text(bytes, true);
}

/// The bytes as the choices of a grammar, see [`expression::expression`].
pub fn tree(bytes: &[u8]) {
    on_worker_stack(|| inspect(&expression::expression(bytes), None, false));
}

/// As [`tree`], and it must not take longer than its static cost says.
pub fn tree_in_time(bytes: &[u8]) {
    on_worker_stack(|| inspect(&expression::expression(bytes), None, true));
}

fn inspect_text(bytes: &[u8], in_time: bool) {
    let Some(text) = as_text(bytes) else { return };
    let (source, document) = text.split_once("\n---\n").unwrap_or((text, ""));
    let claims = (document.len() <= CLAIMS_MAX).then(|| Claims::parse(document.as_bytes()).ok()).flatten();
    on_worker_stack(|| inspect(source, claims.as_ref(), in_time));
}

/// Runs `work` with the stack of a worker thread. An overflow ends the process, which no test misses.
pub fn on_worker_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(WORKER_STACK).spawn_scoped(scope, work);
        match worker.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("no thread: {error}"),
        }
    })
}

fn inspect(source: &str, claims: Option<&Claims>, in_time: bool) {
    let condition = match Condition::compile("condition", source) {
        Ok(condition) => condition,
        Err(error) => {
            assert_eq!(error.field, "condition");
            assert_message(&error.message, 512);
            return;
        }
    };
    assert_eq!(condition.source(), source);
    assert!(condition.cost() <= COST_MAX);
    assert_eq!(condition.is_heavy(), condition.cost() > HEAVY);
    let branches = condition.branches();
    assert!(!branches.is_empty());
    for claims in claims.into_iter().chain(largest_claims()) {
        let (outcome, took) = timed(&condition, claims);
        match &outcome {
            Ok(true) => {
                let held = branches.iter().any(|branch| branch.iter().all(|test| can_hold(test, claims)));
                assert!(held, "true although no branch holds, so the guard rails read it wrongly: {branches:?}");
            }
            Ok(false) => {}
            Err(error) => {
                assert_message(error, 300);
                // To the letter: a fuzzer puts any text it sees into claims, which errors quote.
                assert_ne!(error, PANICKED, "the evaluator panics");
            }
        }
        let allowed = OVERHEAD + STEP * condition.cost();
        // Caches are cold at first: only what is slow each time is slow.
        let slow = in_time && took > allowed && (0..4).all(|_| timed(&condition, claims).1 > allowed);
        assert!(!slow, "takes more than {allowed:?} at a cost of {} steps: {source}", condition.cost());
    }
}

/// Evaluates, and says how much processor time that took, on whatever threads.
pub fn timed(condition: &Condition, claims: &Claims) -> (Result<bool, String>, Duration) {
    let now = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let started = now();
    let outcome = std::hint::black_box(condition.evaluate(claims, NOW));
    (outcome, now().saturating_sub(started))
}

/// Claims as large as a token can carry them, each large in its own way, under the names that [`expression`] uses.
pub fn largest_claims() -> &'static [Claims] {
    static CLAIMS: LazyLock<Vec<Claims>> = LazyLock::new(|| {
        let list = |length: usize, item: &dyn Fn(usize) -> Value| Value::from_iter((0..length).map(item));
        let nested = |depth: usize| (0..depth).fold(json!("x"), |inner, _| json!([inner]));
        let all = [
            // Many texts, all different.
            json!({ "list": list(ARRAY_MAX, &|n| format!("{n:03}").into()), "rows": list(100, &|n| json!({ "a": n, "b": "x" })),
                    "text": "ab".repeat(1_000), "pad": "xy".repeat(2_000), "n": 7, "map": { "a": "b" } }),
            // Many numbers, twice, and objects.
            json!({ "list": list(ARRAY_MAX, &|_| json!(1)), "other": list(ARRAY_MAX, &|_| json!(1)),
                    "rows": list(ARRAY_MAX, &|_| json!({ "a": 1 })), "text": "a".repeat(1_900), "pad": "", "n": 0, "map": {} }),
            // Lists in lists.
            json!({ "list": list(ARRAY_MAX, &|_| json!([[]])), "other": list(30, &|_| nested(12)),
                    "rows": list(100, &|_| list(30, &|_| json!(0))), "text": "", "pad": "x".repeat(1_000), "n": -1, "map": { "a": [] } }),
            // Long texts that differ only at their ends.
            json!({ "list": list(6, &|n| format!("{}{n}", "x".repeat(1_000)).into()),
                    "other": list(6, &|n| format!("{}{n}", "x".repeat(1_000)).into()), "rows": [],
                    "text": "x".repeat(2_000), "pad": "x".repeat(1_000), "n": 1.5, "map": { "a": "x".repeat(1_000) } }),
            // Texts that read as URLs and numbers, and are long to read.
            json!({ "list": list(100, &|n| format!("https://h/{}", "a/".repeat(n % 20)).into()), "rows": [], "other": [1.5, 2.5],
                    "text": format!("https://h{}", "/".repeat(1_900)), "pad": format!("https://h/{}", "./a/".repeat(2_000)),
                    "n": 1e300, "map": {} }),
            json!({ "list": list(100, &|_| format!("0.{}1", "0".repeat(30)).into()), "rows": [], "other": [],
                    "text": format!("0.{}1", "0".repeat(2_000)), "pad": "9".repeat(8_000), "n": 0.1, "map": {} }),
            // Characters of four bytes.
            json!({ "list": list(100, &|_| "😀😀".into()), "rows": [], "other": [], "text": "😀".repeat(500), "pad": "😀".repeat(3_000),
                    "n": -1.5e-300, "map": { "😀": "😀" } }),
            wide(),
        ];
        all.into_iter().filter_map(|document| claims(&document)).collect()
    });
    &CLAIMS
}

/// As many members as may be looped over, most of them lists.
fn wide() -> Value {
    let members = |length: usize| Value::from_iter((0..length).map(|n| (format!("m{n}"), json!([]))));
    let mut document = members(ARRAY_MAX - 100);
    if let Some(document) = document.as_object_mut() {
        let list = Value::from_iter((0..500).map(|_| json!(1)));
        let more = json!({ "text": "a", "pad": "b", "n": 2, "map": members(100), "rows": [{ "a": members(20) }], "list": list });
        document.extend(more.as_object().cloned().unwrap_or_default());
    }
    document
}

fn claims(document: &Value) -> Option<Claims> {
    let document = document.to_string();
    assert!(document.len() <= CLAIMS_MAX, "{} bytes", document.len());
    Claims::parse(document.as_bytes()).ok()
}

/// Whether a conjunct can be true of the claims. Says yes when in doubt.
fn can_hold(test: &SimpleTest, claims: &Claims) -> bool {
    let Some(path) = test.claim() else { return true };
    let Some((first, rest)) = path.split_first() else { return true };
    let claims = Value::from(claims);
    let Some(value) = rest.iter().try_fold(claims.get(first), |value, name| Some(value?.get(name))).flatten() else {
        return false;
    };
    // `string()` makes numbers and booleans comparable with text.
    let holds_text = |test: &dyn Fn(&str) -> bool| value.as_str().map_or(!value.is_object(), test);
    match test {
        SimpleTest::Equals { literal, .. } => can_equal(value, literal),
        SimpleTest::In { literals, .. } => literals.iter().any(|literal| can_equal(value, literal)),
        SimpleTest::Includes { literal, .. } => match value {
            Value::Array(items) => items.iter().any(|item| can_equal(item, literal)),
            Value::Object(members) => matches!(literal, Literal::String(name) if members.contains_key(name)),
            _ => false,
        },
        SimpleTest::StartsWith { prefix, .. } => holds_text(&|text| text.starts_with(prefix.as_str())),
        SimpleTest::EndsWith { suffix, .. } => holds_text(&|text| text.ends_with(suffix.as_str())),
        SimpleTest::Contains { part, .. } => holds_text(&|text| text.contains(part.as_str())),
        SimpleTest::Matches { .. } | SimpleTest::Glob { .. } => holds_text(&|_| true),
        SimpleTest::Has { .. } | SimpleTest::Other => true,
    }
}

fn can_equal(value: &Value, literal: &Literal) -> bool {
    match (literal, value) {
        (Literal::String(text), Value::String(value)) => text == value,
        (Literal::String(text), Value::Bool(value)) => *text == value.to_string(),
        (Literal::String(_), Value::Number(_)) | (Literal::Other, _) => true,
        (Literal::Int(number), Value::Number(value)) => {
            value.as_i64() == Some(*number) || value.as_i64().is_none() && value.as_f64() == Some(*number as f64)
        }
        (Literal::Bool(truth), Value::Bool(value)) => truth == value,
        _ => false,
    }
}
