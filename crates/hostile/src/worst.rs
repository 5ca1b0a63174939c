//! Conditions that take long: operations that can be costly, each in the largest condition around it that is admitted.
//!
//! Found by reading the evaluator, by the fuzzer, and by the search of `benches/worst_conditions.rs`.

use sallyport_domain::condition::Condition;
use sallyport_domain::validate::CONDITION_MAX;

/// Operations on the claims that [`largest_claims`](crate::condition::largest_claims) has. `x` is a loop's variable.
pub const OPERATIONS: &[&str] = &[
    // Operators on what they are not for: the evaluator would write its operands into the error.
    "claims.list - 1 == 0",
    "claims.list * claims.list == 0",
    "-claims.list == 0",
    "'a' < claims.list",
    "claims.list < claims.other",
    "claims.text < claims.pad",
    "claims.list + 1 == 2",
    "1 + claims.list == 2",
    "claims.text + claims.list == 2",
    "claims.text - claims.pad == 2",
    "claims.list[0.5] == 2",
    "claims.list[claims.n] == 2",
    "claims.list[claims.list] == 2",
    "claims[claims.text] == 0",
    "claims[x] == 0",
    "claims.list in {'a': 1}",
    "{'a': 1}[claims.list] == 1",
    "claims.list.startsWith('a')",
    "string(claims.list) == ''",
    "int(claims.list) == 0",
    "timestamp(claims.list) == now",
    "claims.list.getHours() == 1",
    "1 / 0 == 1",
    "claims.missing == 1",
    "claims.text[0] == 1",
    // Copies.
    "claims.list + claims.list == 0",
    "claims.rows + claims.other == 0",
    "[claims.list][0] == 1",
    "[claims][0].list == 1",
    "[1, 2, 3, 4, 5, 6, 7, 8] == 1",
    "{'a': 1, 'b': 2, 'c': 3, 'd': 4}[claims.text] == 1",
    "{'a': claims.list}.a == 1",
    "claims.?list.orValue(1) == 1",
    "claims.?list.hasValue()",
    "claims.?list.or(claims.?other).value() == 1",
    "dyn(claims).list == 1",
    "claims.text + claims.pad == ''",
    "claims.text.lowerAscii() == 'a'",
    // Comparisons.
    "claims.list == claims.other",
    "claims.rows == claims.rows",
    "claims == claims",
    "claims.map == claims.map",
    "claims.n == claims.list",
    "claims.text == claims.pad",
    "claims.?list == claims.?other",
    "{'a': 1} == claims.map",
    "claims.list == [1, 2, 3]",
    "claims.list in claims.rows",
    "claims.rows[0] in claims.rows",
    "'x' in claims.list",
    "claims.n in claims.list",
    "claims.text in claims.list",
    "claims.text in claims.map",
    "x == 1",
    "x == claims.n",
    "x == x",
    "x in claims.list",
    "x in [1, 2, 3, 4]",
    "x + x == x",
    "type(claims.list) == list",
    // Text.
    "url(claims.text).path == ''",
    "url(claims.pad).getHost() == ''",
    "claims.pad.split('') == 1",
    "claims.text.split('/') == 1",
    "claims.text.split('/')[0] == ''",
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'.split('') == 1",
    "claims.pad.contains('yx!')",
    "claims.text.contains(claims.text)",
    "claims.text.endsWith(claims.text)",
    "claims.text.matches('^a*$')",
    "claims.text.matches('(x+x+)+y')",
    "claims.text.matches('([ab]*)*[ab]{20}c')",
    "claims.text.matches('(a|ab|b)*c$')",
    "claims.text.matches('[^a]*b.*a.*b.*c')",
    "claims.text.matches('\\\\b(x|a)\\\\b')",
    "claims.text.matches('.{0,60}.{0,60}!')",
    "claims.text.matches('(?i)[a-z]{30,60}!')",
    "claims.text.glob('a*b*c**d')",
    "x.matches('(x+x+)+y')",
    "size(claims.text) == 1",
    "size(claims.pad) == 1",
    "double(claims.text) == 1.0",
    "double(claims.pad) == 1.0",
    "int(claims.text) == 1",
    "string(claims.n) == ''",
    "string(1e300) == ''",
    "string(now) == ''",
    "string(duration('1h')) == ''",
    "timestamp(claims.text) == now",
    "timestamp('2023-11-14T22:13:20.123456789Z') == now",
    "duration('1h2m3s4ms5us6ns') == duration(claims.text)",
    "now.getHours('Europe/Berlin') == 1",
    "now.getDayOfYear('America/Argentina/ComodRivadavia') == 1",
    "now.getHours(claims.text) == 1",
    "'2001:db8::1'.inCidr('2001:db8::/32')",
    "claims.text.inCidr('10.0.0.0/8')",
    // Paths, members and loops.
    "has(claims.list)",
    "has(claims.map.a)",
    "claims.map.a.b.c.d.e.f == 1",
    "claims.list.size() == 1",
    "claims.list.exists(y, false)",
    "claims.list.all(y, y == x || true)",
    "claims.list.exists_one(y, true)",
    "claims.list.map(y, y) == 1",
    "claims.list.map(y, [y, y]) == 1",
    "claims.list.filter(y, true) == 1",
    "claims.list.map(y, y).map(y, y).map(y, y) == 1",
    "claims.map(y, y) == 1",
    "claims.map(y, claims[y]) == 1",
    "claims.exists(y, claims[y] == x)",
    "claims.map.exists(y, false)",
    "claims.rows.exists(y, y.a == 1)",
    "claims.rows.exists(y, y == claims.rows[0])",
    "(claims.n == 1 ? claims.list : claims.other) == 1",
    "!(claims.n == 1)",
];

/// The largest admitted conditions around an operation: repeated as often as length and cost allow, by itself and in loops.
/// What goes wrong in one repetition does not keep the next from being evaluated.
pub fn amplified(operation: &'static str) -> impl Iterator<Item = String> {
    let numbers = |count: usize| (0..count).map(|n| (n % 10).to_string()).collect::<Vec<_>>().join(",");
    let over = |list: &str| (format!("{list}.all(x, "), ")".to_owned());
    let mut frames = vec![over("claims.list"), over("claims"), over("claims.rows"), over("claims.list.map(z, z)")];
    for count in [20, 10, 5] {
        let list = numbers(count);
        frames.push((format!("[{list}].all(w, [{list}].all(x, "), "))".to_owned()));
    }
    for count in [250, 64, 16, 4] {
        frames.push(over(&format!("[{}]", numbers(count))));
    }
    frames.push((String::new(), String::new()));
    frames.into_iter().filter_map(move |frame| largest(operation, &frame))
}

fn largest(operation: &str, (before, after): &(String, String)) -> Option<String> {
    let condition = |times: usize| format!("{before}{}true{after}", format!("{operation} || ").repeat(times));
    let admitted = |times: usize| Condition::compile("condition", &condition(times)).is_ok();
    let (mut fits, mut beyond) = (0, CONDITION_MAX / operation.len() + 1);
    while beyond - fits > 1 {
        let middle = fits.midpoint(beyond);
        if admitted(middle) { fits = middle } else { beyond = middle }
    }
    (fits > 0).then(|| condition(fits))
}
