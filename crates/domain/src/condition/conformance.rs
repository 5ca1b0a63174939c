//! How much of the CEL language conditions have: our own cases, each with the result that the language's specification
//! gives, run through admission and evaluation as a trust's condition is. `docs/conditions.md` shows the sums and every
//! case that differs; after a change, `UPDATE=1 cargo test -p sallyport-domain conformance` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use super::tests::NOW;
use super::*;

/// What the specification says of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spec {
    True,
    False,
    /// An error: at parsing, at checking or at evaluation.
    Error,
}

/// What we do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ours {
    /// The same.
    Same,
    /// Not admitted, on purpose.
    Refused,
    /// Something else.
    Differs,
}

struct Case {
    source: &'static str,
    spec: Spec,
    ours: Ours,
}

const fn holds(source: &'static str) -> Case {
    Case { source, spec: Spec::True, ours: Ours::Same }
}
const fn fails(source: &'static str) -> Case {
    Case { source, spec: Spec::False, ours: Ours::Same }
}
const fn errs(source: &'static str) -> Case {
    Case { source, spec: Spec::Error, ours: Ours::Same }
}
impl Case {
    const fn refused(mut self) -> Self {
        self.ours = Ours::Refused;
        self
    }
    const fn differs(mut self) -> Self {
        self.ours = Ours::Differs;
        self
    }
}

/// What the cases look at.
const CLAIMS: &str = r#"{
    "s": "text", "empty": "", "accent": "é", "n": 7, "neg": -7, "zero": 0, "f": 1.5, "t": true, "no": false, "nil": null,
    "big": 9223372036854775807, "list": [1, 2, 3], "words": ["a", "b", "c"], "mixed": [1, "a", null, true, 1.5],
    "nothing": [], "nested": [[1], [2, 3]], "map": {"a": 1, "b": {"c": [10, 20]}, "with space": 2}, "none": {},
    "objects": [{"id": 1, "tag": "x"}, {"id": 2}], "time": 1700000000, "when": "2023-11-14T22:13:20Z", "zone": "Europe/Berlin"
}"#;

const SECTIONS: &[(&str, &[Case])] = &[
    (
        "Literals",
        &[
            holds("0 == 0"),
            holds("42 == 42"),
            holds("-9223372036854775808 < 0"),
            holds("9223372036854775807 > 0"),
            holds("0x1F == 31"),
            holds("0xff == 255"),
            errs("0XFF == 255"),
            holds("-0x10 == -16"),
            holds("7u == 7u"),
            holds("0x10u == 16u"),
            holds("18446744073709551615u > 0u"),
            errs("9223372036854775808 > 0"),
            errs("18446744073709551616u > 0u"),
            errs("-1u == 1u"),
            holds("1.5 == 1.5"),
            holds("1e3 == 1000.0"),
            holds("1.5e-1 == 0.15"),
            holds("2E+2 == 200.0"),
            holds(".5 == 0.5"),
            errs("1. == 1.0"),
            holds("'single' == \"single\""),
            holds("'it\\'s' == \"it's\""),
            holds("'''a'b''' == \"a'b\""),
            holds("\"\"\"say \"hi\\\"\"\"\" == 'say \"hi\"'"),
            holds("'''two\nlines''' == 'two\\nlines'"),
            errs("'two\nlines' == 'x'"),
            holds("r'\\n' == '\\\\n'"),
            holds("R\"\\d\" == '\\\\d'"),
            holds("'\\a\\b\\f\\n\\r\\t\\v'.size() == 7"),
            holds("'\\x41\\X42' == 'AB'"),
            holds("'\\u00e9' == 'é'"),
            holds("'\\U0001F600' == '😀'"),
            holds("'\\101' == 'A'"),
            holds("'\\?\\`\\\"' == '?`\"'"),
            errs("'\\z' == 'z'"),
            errs("'\\u12' == ''"),
            errs("'\\ud800' == ''"),
            errs("'\\8' == ''"),
            errs("'open == ''"),
            holds("true != false"),
            holds("null == null"),
            holds("b'abc' == b'abc'").refused(),
            holds("size(b'é') == 2").refused(),
            holds("[] == []"),
            holds("[1, 2,] == [1, 2]"),
            holds("{}.size() == 0"),
            holds("{'a': 1,}.a == 1"),
        ],
    ),
    (
        "Integers",
        &[
            holds("1 + 2 == 3"),
            holds("5 - 7 == -2"),
            holds("6 * 7 == 42"),
            holds("7 / 2 == 3"),
            holds("-7 / 2 == -3"),
            holds("7 / -2 == -3"),
            holds("7 % 3 == 1"),
            holds("-7 % 3 == -1"),
            holds("7 % -3 == 1"),
            holds("-(-5) == 5"),
            holds("-claims.neg == 7"),
            errs("1 / 0 == 0"),
            errs("1 % 0 == 0"),
            errs("9223372036854775807 + 1 > 0"),
            errs("-9223372036854775808 - 1 < 0"),
            errs("9223372036854775807 * 2 > 0"),
            errs("-(-9223372036854775808) > 0"),
            errs("-9223372036854775808 / -1 > 0"),
            errs("-9223372036854775808 * -1 > 0"),
            holds("-9223372036854775808 + 9223372036854775807 == -1"),
            holds("1u + 2u == 3u"),
            errs("1u - 2u == 0u"),
            errs("18446744073709551615u + 1u > 0u"),
            errs("18446744073709551615u * 2u > 0u"),
            holds("7u / 2u == 3u"),
            holds("7u % 4u == 3u"),
            errs("7u / 0u == 0u"),
            errs("-(1u) == 1u"),
            errs("1 + 1u == 2"),
            errs("1 + 1.0 == 2.0"),
            errs("1u * 2.0 == 2.0"),
            errs("claims.n + claims.f > 0"),
            holds("claims.n * 2 + 1 == 15"),
            errs("'a' * 2 == 'aa'"),
            errs("true + 1 == 2"),
            errs("null + 1 == 1"),
        ],
    ),
    (
        "Doubles",
        &[
            holds("1.5 + 1.5 == 3.0"),
            holds("0.5 - 1.0 == -0.5"),
            holds("2.0 * 0.25 == 0.5"),
            holds("1.0 / 4.0 == 0.25"),
            holds("1.0 / 0.0 > 1e308"),
            holds("-1.0 / 0.0 < -1e308"),
            holds("0.0 / 0.0 != 0.0 / 0.0"),
            fails("0.0 / 0.0 == 0.0 / 0.0"),
            fails("0.0 / 0.0 < 1.0").differs(),
            fails("0.0 / 0.0 >= 1.0").differs(),
            holds("-0.0 == 0.0"),
            holds("1e308 * 10.0 == 1.0 / 0.0"),
            holds("5e-324 > 0.0"),
            errs("1.5 % 1.0 == 0.5"),
            holds("-1.5 == 0.0 - 1.5"),
            holds("claims.f == 1.5 && type(claims.f) == double"),
            holds("0.1 + 0.2 != 0.3"),
        ],
    ),
    (
        "Equality",
        &[
            holds("1 == 1.0"),
            holds("1 == 1u"),
            holds("1u == 1.0"),
            fails("1 == 1.5"),
            fails("-1 == 18446744073709551615u"),
            holds("1 != 2u"),
            fails("1 == '1'"),
            holds("1 != '1'"),
            fails("dyn(1) == dyn('1')"),
            fails("true == 'true'"),
            fails("claims.t == 1"),
            fails("null == false"),
            fails("null == 0"),
            holds("claims.nil == null"),
            holds("claims.s != null"),
            holds("'a' == 'a' && 'a' != 'A'"),
            fails("'é' == 'e\\u0301'"),
            holds("[1, 2] == [1, 2]"),
            fails("[1, 2] == [2, 1]"),
            fails("[1] == [1, 1]"),
            holds("[1, 2.0] == [1u, 2]"),
            holds("[[1], ['a']] == [[1], ['a']]"),
            holds("claims.list == [1, 2, 3]"),
            holds("[1, 2, 3] == claims.list"),
            holds("claims.nested == [[1], [2, 3]]"),
            holds("claims.map == claims.map"),
            holds("claims.none != claims.map"),
            holds("claims.objects[0] == claims.objects[0]"),
            holds("{'a': 1} == {'a': 1}"),
            holds("{'a': 1} == {'a': 1.0}"),
            holds("claims.none == {}"),
            fails("{'a': 1} == {'a': 2}"),
            fails("{'a': 1} == {'b': 1}"),
            fails("{'a': 1} == {'a': 1, 'b': 2}"),
            holds("{1: 2} == {1u: 2.0}"),
            holds("claims.map == {'a': 1, 'b': {'c': [10, 20]}, 'with space': 2}"),
            holds("{'a': 1.0, 'b': {'c': [10, 20]}, 'with space': 2} == claims.map"),
            holds("claims.map != {'a': 1, 'b': {'c': [10, 21]}, 'with space': 2}"),
            holds("claims.objects == [{'id': 1, 'tag': 'x'}, {'id': 2}]"),
            holds("[{'id': 1, 'tag': 'x'}, {'id': 2}] == claims.objects"),
            holds("{'id': 2} in claims.objects && claims.objects[1] in [{'id': 2}]"),
            fails("claims.list == claims.n"),
            fails("claims.n == claims.list"),
            holds("claims.nil == claims.mixed[2] && claims.t == claims.mixed[3]"),
            holds("claims.?s == claims.?s && claims.?missing == claims.?other && claims.?s != claims.?missing"),
            holds("claims.mixed == [1, 'a', null, true, 1.5]"),
            holds("type(1) != type('a')"),
            holds("duration('60s') == duration('1m')"),
            holds("timestamp('2023-11-14T22:13:20Z') == timestamp('2023-11-14T23:13:20+01:00')"),
        ],
    ),
    (
        "Order",
        &[
            holds("1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3"),
            holds("1 < 1.5"),
            holds("1u < 2"),
            holds("-1 < 0u"),
            holds("2.5 > 2u"),
            holds("9223372036854775807 < 9223372036854775808u"),
            holds("9223372036854775807 < 1e19"),
            holds("9223372036854775807 < 9223372036854775808.0").differs(),
            fails("9007199254740993 == 9007199254740992.0").differs(),
            holds("-1.5 < 0u"),
            holds("'a' < 'b' && 'a' < 'aa' && 'Z' < 'a'"),
            holds("'' < 'a'"),
            holds("'\\uFFFD' < '\\U0001F600'"),
            holds("false < true"),
            fails("true < false"),
            holds("duration('1s') < duration('1m')"),
            holds("timestamp('2023-01-01T00:00:00Z') < now"),
            holds("b'a' < b'b'").refused(),
            errs("'1' < 2"),
            errs("null < null"),
            errs("null < 1"),
            errs("[1] < [2]"),
            errs("claims.map < claims.map"),
            errs("true < 1"),
            errs("claims.s < 5"),
            errs("1 < 2 < 3"),
            holds("(1 < 2) == true"),
            errs("now < duration('1s')"),
        ],
    ),
    (
        "Logic",
        &[
            holds("true && true"),
            fails("true && false"),
            holds("false || true"),
            fails("false || false"),
            holds("!false && !!true"),
            holds("claims.t && !claims.no"),
            holds("claims.missing == 1 || true"),
            holds("true || claims.missing == 1"),
            fails("claims.missing == 1 && false"),
            fails("false && claims.missing == 1"),
            errs("claims.missing == 1 && true"),
            errs("true && claims.missing == 1"),
            errs("claims.missing == 1 || false"),
            errs("false || claims.missing == 1"),
            errs("claims.missing || claims.other"),
            holds("1 / 0 > 1 || 1 == 1"),
            fails("1 / 0 > 1 && 1 == 2"),
            holds("(claims.missing == 1 || claims.other == 1) || true"),
            errs("!claims.missing"),
            errs("'a' && true"),
            errs("claims.s && true"),
            fails("claims.s && false"),
            holds("claims.s || true"),
            errs("claims.n || false"),
            errs("!claims.n"),
            errs("!0"),
            errs("!null"),
            holds("true ? true : false"),
            holds("true ? claims.t : claims.missing"),
            holds("false ? claims.missing : claims.t"),
            holds("(claims.n > 5 ? 'big' : 'small') == 'big'"),
            errs("claims.missing ? true : true"),
            errs("claims.n ? true : false"),
            errs("claims.nil ? true : false"),
            holds("(false ? 1 : 'a') == 'a'"),
            errs("true ? false ? false : true : false"),
            holds("true ? (false ? false : true) : false"),
        ],
    ),
    (
        "Text",
        &[
            holds("'a' + 'b' == 'ab'"),
            holds("'' + '' == ''"),
            errs("'a' + 1 == 'a1'"),
            holds("size('') == 0"),
            holds("size('abc') == 3 && 'abc'.size() == 3"),
            holds("size(claims.accent) == 1"),
            holds("size('😀') == 1"),
            holds("'text'.contains('ex')"),
            holds("claims.s.contains('')"),
            fails("'text'.contains('EX')"),
            holds("'text'.startsWith('te') && 'text'.startsWith('')"),
            fails("'text'.startsWith('ext')"),
            holds("'text'.endsWith('xt') && 'text'.endsWith('')"),
            fails("'é'.endsWith('\\u0301')"),
            errs("claims.n.contains('7')"),
            errs("'7'.contains(7)"),
            errs("claims.s[0] == 't'"),
            errs("'e' in 'text'"),
            holds("'text'.matches('^t.*t$')"),
            holds("matches('text', 'ex')"),
            fails("'text'.matches('^ex')"),
            holds("'text'.matches('')"),
            holds("'TEXT'.matches('(?i)text')"),
            holds("'a\\nb'.matches('(?s)a.b')"),
            fails("'a\\nb'.matches('a.b')"),
            holds("'a\\nb'.matches('(?m)^b$')"),
            holds("'é'.matches('^.$')"),
            holds("'héllo'.matches('^h\\\\pL+o$')"),
            fails("'٣'.matches('^\\\\d$')"),
            holds("'a.c'.matches('a\\\\.c')"),
            holds("'foo123'.matches('[a-z]+[0-9]{3}')"),
            holds("'a]'.matches('^[a\\\\]]+$')"),
            errs("'x'.matches('(')"),
            errs("'x'.matches('(?=x)')"),
            errs("'x'.matches('(x)\\\\1')"),
            holds("'aab'.matches('a{2}b')"),
            holds("claims.s.matches('x' + 't')").refused(),
            holds("'text'.matches(claims.s)").refused(),
            holds("'aXb'.matches('a\\\\BX')").refused(),
            holds("'x'.matches('[[:alpha:]]')"),
        ],
    ),
    (
        "Text, extended",
        &[
            holds("'AbC'.lowerAscii() == 'abc'"),
            holds("'AbC'.upperAscii() == 'ABC'"),
            holds("'É'.lowerAscii() == 'É'"),
            holds("'a,b,c'.split(',') == ['a', 'b', 'c']"),
            holds("'abc'.split('') == ['a', 'b', 'c']"),
            holds("''.split(',') == ['']"),
            holds("'a,b,c'.split(',', 2) == ['a', 'b,c']").refused(),
            holds("'abc'.charAt(1) == 'b'").refused(),
            holds("'abc'.indexOf('c') == 2").refused(),
            holds("'abcb'.lastIndexOf('b') == 3").refused(),
            holds("['a', 'b'].join('-') == 'a-b'").refused(),
            holds("'abc'.replace('b', 'x') == 'axc'").refused(),
            holds("'abc'.substring(1) == 'bc'").refused(),
            holds("' a '.trim() == 'a'").refused(),
            holds("'abc'.reverse() == 'cba'").refused(),
            holds("'%d'.format([1]) == '1'").refused(),
            holds("strings.quote('a') == '\"a\"'").refused(),
        ],
    ),
    (
        "Lists",
        &[
            holds("[1, 2, 3][0] == 1 && claims.list[2] == 3"),
            errs("[1][1] == 1"),
            errs("[1][-1] == 1"),
            errs("[][0] == 1"),
            errs("claims.nothing[0] == 1"),
            holds("[7, 8][0u] == 7"),
            holds("[7, 8][dyn(1.0)] == 8"),
            errs("[7, 8][dyn(0.5)] == 7"),
            errs("claims.list['0'] == 1"),
            errs("claims.list.first == 1"),
            holds("claims.nested[1][0] == 2"),
            holds("[1] + [2, 3] == [1, 2, 3]"),
            holds("[] + [] == []"),
            holds("claims.list + ['a'] == [1, 2, 3, 'a']"),
            errs("[1] + 2 == [1, 2]"),
            holds("2 in [1, 2]"),
            holds("2.0 in claims.list"),
            fails("4 in claims.list"),
            fails("'1' in claims.list"),
            fails("1 in []"),
            holds("[1] in claims.nested"),
            holds("null in claims.mixed"),
            holds("!(1 in claims.words)"),
            errs("1 in 1"),
            errs("'a' in claims.n"),
            holds("size(claims.list) == 3 && claims.list.size() == 3"),
            holds("[1, 'a', [null]].size() == 3"),
            holds("claims.objects[1].id == 2"),
            errs("claims.objects[1].tag == 'x'"),
            holds("[claims.n, claims.neg][1] == -7"),
            errs("[claims.missing].size() == 1"),
        ],
    ),
    (
        "Maps",
        &[
            holds("{'a': 1}['a'] == 1 && {'a': 1}.a == 1"),
            errs("{'a': 1}['b'] == 1"),
            errs("{'a': 1}.b == 1"),
            holds("{1: 'x'}[1] == 'x'"),
            holds("{1: 'x'}[1u] == 'x'"),
            holds("{1u: 'x'}[1] == 'x'"),
            holds("{1: 'x'}[dyn(1.0)] == 'x'"),
            errs("{1: 'x'}[dyn(1.5)] == 'x'"),
            holds("{true: 1, false: 0}[claims.t] == 1"),
            errs("{1.5: 'x'}[1.5] == 'x'"),
            errs("{null: 1}[null] == 1"),
            errs("{'a': 1, 'a': 2}.a == 1"),
            errs("{1: 1, 1u: 2}[1] == 1"),
            holds("'a' in {'a': 1}"),
            fails("1 in {'a': 1}"),
            holds("1 in {1u: 2}"),
            holds("'a' in claims.map && !('c' in claims.map)"),
            holds("size({'a': 1, 'b': 2}) == 2 && claims.map.size() == 3"),
            holds("claims.map.b.c[1] == 20"),
            holds("claims['map']['b']['c'] == [10, 20]"),
            holds("claims.map['with space'] == 2"),
            errs("claims.map[1] == 1"),
            errs("claims.map[claims.nil] == 1"),
            holds("{'a': {'b': 1}}.a.b == 1"),
            holds("{'a': [1]}['a'][0] == 1"),
            holds("claims[claims.s + ''] == 1 || true"),
            holds("{claims.s: 1}.text == 1"),
            errs("{'a': 1} + {'b': 2} == 1"),
            errs("claims.map + claims.map == claims.map"),
            holds("{'a': 1}.all(k, k == 'a')"),
            holds("[{'a': 1}][0].a == 1"),
        ],
    ),
    (
        "Selection",
        &[
            holds("has(claims.s)"),
            fails("has(claims.missing)"),
            holds("has(claims.nil)"),
            holds("has(claims.map.b)"),
            fails("has(claims.map.z)"),
            errs("has(claims.missing.z)"),
            errs("has(claims.s.z)"),
            holds("has({'a': 1}.a) && !has({'a': 1}.b)"),
            errs("has(claims)"),
            errs("has(claims['s'])"),
            errs("has('a')"),
            holds("has(claims.map.b.c)"),
            holds("has(claims.objects[0].tag) && !has(claims.objects[1].tag)"),
            errs("claims.missing == 'x'"),
            errs("claims.s.length == 4"),
            errs("claims.n.x == 1"),
            errs("claims.nil.x == 1"),
            holds("claims.map . a == 1"),
            holds("claims\n.map\n.a == 1"),
            holds("claims.`map` == claims.map").refused(),
            holds("claims.map.`with space` == 2").refused(),
            holds("has(claims.map.`with space`)").refused(),
        ],
    ),
    (
        "Macros",
        &[
            holds("claims.list.all(x, x > 0)"),
            fails("claims.list.all(x, x > 1)"),
            holds("[].all(x, x > 0)"),
            holds("claims.list.exists(x, x == 2)"),
            fails("claims.list.exists(x, x == 4)"),
            fails("[].exists(x, true)"),
            holds("claims.list.exists_one(x, x == 2)"),
            fails("[1, 1].exists_one(x, x == 1)"),
            fails("[].exists_one(x, true)"),
            holds("[1, 2].existsOne(x, x == 1)"),
            holds("claims.list.map(x, x * 2) == [2, 4, 6]"),
            holds("claims.list.map(x, x > 1, x * 2) == [4, 6]"),
            holds("claims.list.filter(x, x % 2 == 1) == [1, 3]"),
            holds("[].map(x, x) == [] && [].filter(x, true) == []"),
            // An error does not count where another element decides.
            holds("[0, 1].exists(x, 1 / x == 1)"),
            holds("[1, 0].exists(x, 1 / x == 1)"),
            fails("[0, 2].all(x, 4 / x == 1)"),
            errs("[0, 1].all(x, 1 / x == 1)"),
            errs("[0].exists(x, 1 / x == 1)"),
            errs("[0, 1].exists_one(x, 1 / x == 1)"),
            errs("[0, 1].map(x, 1 / x) == [1]"),
            errs("[0, 1].filter(x, 1 / x == 1) == [1]"),
            errs("[1].all(x, x)"),
            errs("[1].exists(x, 'a')"),
            errs("['a'].filter(x, x) == []"),
            // Maps: their keys.
            holds("claims.map.exists(k, k == 'b')"),
            holds("claims.map.all(k, k.size() > 0)"),
            holds("claims.map.exists_one(k, k == 'a')"),
            holds("claims.map.filter(k, k == 'a') == ['a']"),
            holds("{'a': 1}.map(k, k + k) == ['aa']"),
            holds("claims.map.exists(k, claims.map[k] == 1)"),
            holds("claims.none.all(k, false)"),
            // In each other, and their names.
            holds("claims.nested.all(x, x.exists(y, y > 0))"),
            holds("claims.nested.exists(x, x.all(x, x > 1))"),
            holds("claims.list.map(x, x).filter(x, x > 1).exists(x, x == 3)"),
            holds("[1, 2].all(x, [1, 2].exists(y, x == y))"),
            holds("claims.list.exists(s, s == 1) && claims.s == 'text'"),
            errs("claims.list.exists(x, x == 1) && x == 1"),
            holds("claims.list.exists(n, n == 1 && claims.n == 7)"),
            errs("claims.list.all(x.y, true)"),
            errs("claims.list.all('x', true)"),
            errs("claims.list.all(x) == true"),
            errs("claims.n.all(x, true)"),
            errs("claims.s.exists(x, x == 't')"),
            errs("null.all(x, true)"),
            holds("claims.objects.filter(o, has(o.tag)).map(o, o.id) == [1]"),
            holds("claims.list.exists(i, v, v == 2)").refused(),
            holds("claims.list.all(i, v, v > i)").refused(),
            holds("claims.list.transformList(i, v, v + i) == [1, 3, 5]").refused(),
            holds("claims.map.exists(k, v, v == 1)").refused(),
            holds("cel.bind(x, claims.n, x == 7)").refused(),
        ],
    ),
    (
        "Conversions",
        &[
            holds("int(1u) == 1 && int(1) == 1"),
            holds("int(1.9) == 1 && int(-1.9) == -1"),
            holds("int('-42') == -42"),
            errs("int('4.2') == 4"),
            errs("int('') == 0"),
            errs("int('9223372036854775808') > 0"),
            errs("int(1e19) > 0"),
            errs("int(9223372036854775808u) > 0"),
            errs("int(0.0 / 0.0) == 0"),
            errs("int(true) == 1"),
            holds("int(timestamp('2023-11-14T22:13:20Z')) == 1700000000"),
            holds("uint(1) == 1u").refused(),
            errs("uint(-1) == 1u"),
            holds("double(1) == 1.0 && double(1u) == 1.0 && double('1e3') == 1000.0"),
            holds("double('-0.5') == -0.5"),
            errs("double('x') == 0.0"),
            errs("double(true) == 1.0"),
            holds("string(1) == '1' && string(-1) == '-1' && string(1u) == '1'"),
            holds("string(1.5) == '1.5'"),
            holds("string(true) == 'true'"),
            holds("string('a') == 'a'"),
            holds("string(timestamp('2023-11-14T22:13:20Z')) == '2023-11-14T22:13:20Z'"),
            holds("string(duration('90s')) == '90s'"),
            errs("string(null) == 'null'"),
            errs("string([1]) == '[1]'"),
            holds("string(b'abc') == 'abc'").refused(),
            holds("bytes('abc') == b'abc'").refused(),
            holds("bool('true') && bool('1') && bool('t') && bool('TRUE') && bool('True')"),
            holds("!bool('false') && !bool('0') && !bool('f') && !bool('FALSE') && !bool('False')"),
            holds("bool(true)"),
            errs("bool('yes')"),
            errs("bool('tRuE')"),
            errs("bool(1)"),
            holds("dyn(1) == 1 && dyn('a') == 'a'"),
            holds("timestamp(1700000000) == now"),
            holds("timestamp(now) == now"),
            holds("timestamp(claims.when) == timestamp(claims.time)"),
            errs("timestamp('yesterday') == now"),
            errs("timestamp('2023-11-14') == now"),
            errs("timestamp('2023-11-14T22:13:20') == now"),
            holds("duration(duration('1s')) == duration('1s')"),
            errs("duration('1') == duration('1s')"),
            errs("duration('1 s') == duration('1s')"),
            errs("duration(1) == duration('1s')"),
        ],
    ),
    (
        "Types",
        &[
            holds("type(1) == int && type(1u) == uint && type(1.0) == double"),
            holds("type('a') == string && type(true) == bool && type(null) == null_type"),
            holds("type([]) == list && type(claims.map) == map"),
            holds("type({}) == map"),
            holds("type(int) == type && type(type(1)) == type"),
            holds("type(type) == type"),
            holds("type(b'a') == bytes").refused(),
            holds("type(now) == google.protobuf.Timestamp").refused(),
            holds("type(duration('1s')) == google.protobuf.Duration").refused(),
            holds("type(claims.n) == int && type(claims.f) == double && type(claims.list) == list"),
            holds("type(claims.big) == int"),
            fails("type(1) == uint"),
            holds("type(1) == type(2) && type(1) != type(2u)"),
            holds("type(optional.none()) == optional_type").refused(),
        ],
    ),
    (
        "Time",
        &[
            holds("timestamp('2023-11-14T22:13:20.5Z') > now"),
            holds("timestamp('2023-11-15T00:13:20+02:00') == now"),
            holds("now + duration('1h') == timestamp('2023-11-14T23:13:20Z')"),
            holds("duration('1h') + now == timestamp('2023-11-14T23:13:20Z')"),
            holds("now - duration('20s') == timestamp('2023-11-14T22:13:00Z')"),
            holds("timestamp('2023-11-14T22:14:20Z') - now == duration('60s')"),
            holds("duration('1m') + duration('30s') == duration('90s')"),
            holds("duration('1m') - duration('90s') == duration('-30s')"),
            errs("now + now == now"),
            errs("duration('1s') - now == now"),
            errs("now + 1 == now"),
            holds("duration('1.5h') == duration('90m')"),
            holds("duration('1h30m') == duration('90m')"),
            holds("duration('-1.5s') == duration('-1500ms')"),
            holds("duration('1ms') == duration('1000us') && duration('1us') == duration('1000ns')"),
            holds("duration('0') == duration('0s')"),
            errs("timestamp('10000-01-01T00:00:00Z') > now"),
            errs("timestamp('9999-12-31T23:59:59Z') + duration('1s') > now"),
            errs("timestamp('0001-01-01T00:00:00Z') - duration('1s') < now"),
            errs("duration('320000000000s') > duration('0s')"),
            holds("timestamp('0001-01-01T00:00:00Z') < now && timestamp('9999-12-31T23:59:59Z') > now"),
            holds("now.getFullYear() == 2023 && now.getMonth() == 10 && now.getDate() == 14"),
            holds("now.getDayOfMonth() == 13 && now.getDayOfWeek() == 2 && now.getDayOfYear() == 317"),
            holds("now.getHours() == 22 && now.getMinutes() == 13 && now.getSeconds() == 20"),
            holds("timestamp('2023-11-14T22:13:20.25Z').getMilliseconds() == 250"),
            holds("now.getHours('Europe/Berlin') == 23 && now.getHours('+02:00') == 0 && now.getDate('+02:00') == 15"),
            holds("now.getHours('-03:30') == 18 && now.getMinutes('-03:30') == 43"),
            holds("now.getHours('02:00') == 0"),
            holds("now.getHours('UTC') == 22"),
            holds("now.getHours(claims.zone) == 23"),
            errs("now.getHours('Nowhere/Town') == 1"),
            errs("now.getHours(1) == 1"),
            holds("timestamp('2024-02-29T12:00:00Z').getDayOfYear() == 59"),
            holds("timestamp('2023-12-31T23:59:59Z').getDayOfYear() == 364"),
            holds("timestamp('2023-11-12T00:00:00Z').getDayOfWeek() == 0"),
            holds("duration('3730s').getHours() == 1 && duration('3730s').getMinutes() == 62"),
            holds("duration('3730s').getSeconds() == 3730"),
            holds("duration('1.25s').getMilliseconds() == 250").differs(),
            errs("duration('1s').getFullYear() == 0"),
        ],
    ),
    (
        "Optional values",
        &[
            holds("claims.?s.hasValue() && !claims.?missing.hasValue()"),
            holds("claims[?'s'].hasValue() && !claims[?'missing'].hasValue()"),
            holds("claims.list[?0].value() == 1 && !claims.list[?9].hasValue()"),
            holds("claims.?missing.deeper.orValue('d') == 'd'"),
            holds("claims.?map.a.orValue(0) == 1 && claims.?map.z.orValue(0) == 0"),
            holds("claims.?missing.orValue(1) == 1 && claims.?n.orValue(1) == 7"),
            holds("claims.?missing.or(claims.?n).value() == 7"),
            errs("claims.?missing.value() == 1"),
            holds("claims.?nil.orValue('x') == null"),
            holds("claims.map.?b.?c[1].orValue(0) == 20"),
            holds("has(claims.?map.a) && !has(claims.?map.z)"),
            errs("claims.?n"),
            errs("claims.?n == 7 && claims.?n"),
            fails("claims.?n == 7"),
            holds("claims.?n == claims.?n"),
            holds("optional.of(1).value() == 1").refused(),
            holds("!optional.none().hasValue()").refused(),
            holds("!optional.ofNonZeroValue(0).hasValue()").refused(),
            holds("claims.?n.optMap(x, x + 1).value() == 8").refused(),
            holds("claims.?n.optFlatMap(x, claims.?missing).orValue(1) == 1").refused(),
            holds("[?claims.?missing, 1] == [1]").refused(),
            holds("{?'a': claims.?n}.a == 7").refused(),
        ],
    ),
    (
        "Precedence and syntax",
        &[
            holds("1 + 2 * 3 == 7 && (1 + 2) * 3 == 9"),
            holds("10 - 3 - 2 == 5 && 100 / 10 / 2 == 5"),
            holds("-2 + 3 == 1 && 2 - -3 == 5"),
            holds("- - 1 == 1 && --1 == 1"),
            holds("7 % 4 * 2 == 6"),
            holds("1 + 1 == 2 && 2 < 3"),
            holds("true || false && false"),
            fails("(true || false) && false"),
            holds("!false && true"),
            holds("!(1 == 2)"),
            errs("!1 == 2"),
            holds("1 < 2 == true"),
            errs("true == 1 < 2"),
            holds("(1 in [1]) == true"),
            holds("true ? true : false || false"),
            holds("(true ? 1 : 2) == 1"),
            holds("false ? 1 == 2 : true ? 1 == 1 : false"),
            errs("true ? true : false ? false"),
            errs("true ? true"),
            holds("-claims.list[0] == -1"),
            holds("-claims.map.a == -1"),
            holds("claims.list[1 - 1] == 1"),
            holds("claims.list[claims.list[0]] == 2"),
            holds("[1, 2][claims.t ? 0 : 1] == 1"),
            holds("((((1)))) == 1"),
            holds("1==1&&2==2"),
            holds("1 == 1 // a comment"),
            holds("1 == 1 // a comment\n && true"),
            holds("\t1 ==\n\t1 "),
            errs("_x == 1"),
            holds("[1].all(_x, _x == 1)"),
            holds("[1].all(x1_, x1_ == 1)"),
            errs("[1].all(1x, true)"),
            errs("1 = 1"),
            errs("1 === 1"),
            errs("true & true"),
            errs("true | true"),
            errs("1 == 1;"),
            errs("(1 == 1"),
            errs("1 == 1)"),
            errs("[1, 2 == [1, 2]"),
            holds("[,] == []"),
            errs("true &&"),
            errs("&& true"),
            errs("claims.s."),
            errs("claims..s == ''"),
            errs("claims.1 == 1"),
            errs("f(,)"),
            errs("size(,'a') == 1"),
            errs("if (true) { true }"),
            errs("let x = 1; x == 1"),
            errs("for == 1"),
            errs("var == 1"),
            errs("[1].all(while, true)"),
            errs("[1].all(namespace, true)"),
            holds("has(claims.package) || true"),
            holds("{'in': 1}.size() == 1"),
            errs("claims.in == 1"),
            errs("true and false"),
            errs("not true"),
            errs("1 <> 2"),
            errs("a => a"),
            errs("$claims == 1"),
            errs("#"),
            errs("claims.s == \u{201c}text\u{201d}"),
            errs("x == 1"),
            errs("nofunction(1) == 1"),
            errs("claims.s.nomethod() == 1"),
            errs("size() == 0"),
            errs("size('a', 'b') == 0"),
            errs("'a'.startsWith('a', 'b')"),
            holds(".claims.s == 'text'").refused(),
        ],
    ),
    (
        "Messages",
        &[
            holds("google.protobuf.Int64Value{value: 1} == 1").refused(),
            holds("google.protobuf.Duration{seconds: 1} == duration('1s')").refused(),
            holds("google.protobuf.Struct{} == {}").refused(),
            errs("unknown.Message{} == 1"),
        ],
    ),
];

/// What admission and evaluation make of it.
enum Outcome {
    Refused(String),
    Evaluated(Result<bool, String>),
}

fn run(source: &str, claims: &Claims) -> Outcome {
    match Condition::compile("condition", source) {
        Ok(condition) => Outcome::Evaluated(condition.evaluate(claims, NOW)),
        Err(error) => Outcome::Refused(error.message),
    }
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::Evaluated(Ok(value)) => value.to_string(),
        Outcome::Evaluated(Err(why)) => format!("an error: {why}"),
    }
}

/// An error is an error, whether it is found when saving or when evaluating.
fn same(spec: Spec, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(_) | Outcome::Evaluated(Err(_)) => spec == Spec::Error,
        Outcome::Evaluated(Ok(value)) => spec == if *value { Spec::True } else { Spec::False },
    }
}

#[test]
fn each_case_is_as_in_the_specification_or_known_not_to_be() {
    let claims = Claims::parse(CLAIMS.as_bytes()).unwrap();
    let mut wrong = String::new();
    let mut seen = std::collections::BTreeSet::new();
    for Case { source, spec, ours } in SECTIONS.iter().flat_map(|(_, cases)| *cases) {
        assert!(seen.insert(source), "twice: {source}");
        let outcome = run(source, &claims);
        let as_known = match ours {
            Ours::Same => same(*spec, &outcome),
            Ours::Refused => matches!(outcome, Outcome::Refused(_)) && *spec != Spec::Error,
            Ours::Differs => !same(*spec, &outcome),
        };
        if !as_known {
            let _ =
                writeln!(wrong, "{source}\n    specification {spec:?}, known as {ours:?}, found {}", words(&outcome));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn documented() -> String {
    let mut text = String::from(
        "\n| part of the language | cases | as in the specification | refused when saved, on purpose | different |\n|---|---|---|---|---|\n",
    );
    let mut sums = [0; 4];
    let row = |text: &mut String, title: &str, counts: [usize; 4]| {
        let _ = writeln!(text, "| {title} | {} | {} | {} | {} |", counts[0], counts[1], counts[2], counts[3]);
    };
    for (title, cases) in SECTIONS {
        let count = |of: fn(&Ours) -> bool| cases.iter().filter(|case| of(&case.ours)).count();
        let counts = [
            cases.len(),
            count(|ours| *ours == Ours::Same),
            count(|ours| *ours == Ours::Refused),
            count(|ours| *ours == Ours::Differs),
        ];
        row(&mut text, title, counts);
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    row(&mut text, "**all**", sums);
    text.push_str("\nWhat is different:\n\n| expression | in the specification | here |\n|---|---|---|\n");
    let claims = Claims::parse(CLAIMS.as_bytes()).unwrap();
    for case in SECTIONS.iter().flat_map(|(_, cases)| *cases).filter(|case| case.ours == Ours::Differs) {
        let spec = match case.spec {
            Spec::True => "true",
            Spec::False => "false",
            Spec::Error => "an error",
        };
        let _ = writeln!(text, "| `{}` | {spec} | {} |", case.source, words(&run(case.source, &claims)));
    }
    text.push('\n');
    text
}

#[test]
fn the_documentation_shows_the_sums() {
    const BEGIN: &str = "<!-- conformance: written by `UPDATE=1 cargo test -p sallyport-domain conformance` -->\n";
    const END: &str = "<!-- end of conformance -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conditions.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the table's beginning is marked");
    let (_, after) = rest.split_once(END).expect("the table's end is marked");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", documented());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(document == wanted, "docs/conditions.md is stale: UPDATE=1 cargo test -p sallyport-domain conformance");
    }
}
