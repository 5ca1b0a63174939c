//! Expressions out of bytes: each byte is a choice of a grammar, so that what a fuzzer or a search tries is well formed
//! and mostly well typed, and gets past admission to the evaluator.

use std::fmt::Write as _;

/// Deepest nesting that is made.
const DEPTH: usize = 12;
/// Roughly the longest text that is made, in bytes; the condition's own limit is a little more.
const LENGTH: usize = 960;

/// An expression that is true or false. The same bytes make the same expression; too few are as good as zeros.
pub fn expression(bytes: &[u8]) -> String {
    let mut grammar = Grammar { bytes: bytes.iter(), text: String::new(), variables: 0 };
    grammar.truth(0);
    grammar.text
}

struct Grammar<'b> {
    bytes: std::slice::Iter<'b, u8>,
    text: String,
    /// How many loop variables are in sight: `x0`, `x1`, ...
    variables: usize,
}

impl Grammar<'_> {
    /// A number below `of`; 0, the simplest, when it is long or deep enough.
    fn choose(&mut self, of: u8, depth: usize) -> u8 {
        let byte = self.bytes.next().copied().unwrap_or(0);
        if depth > DEPTH || self.text.len() > LENGTH { 0 } else { byte % of }
    }

    fn one_of(&mut self, words: &[&str]) {
        let byte = self.bytes.next().copied().unwrap_or(0);
        let word = words.get(usize::from(byte) % words.len().max(1)).copied().unwrap_or_default();
        self.text.push_str(word);
    }

    fn say(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// `list.<macro>(x, <body>)`
    fn fold(&mut self, macros: &[&str], depth: usize, body: impl FnOnce(&mut Self)) {
        self.list(depth + 1);
        self.say(".");
        self.one_of(macros);
        let _ = write!(self.text, "(x{}, ", self.variables);
        self.variables += 1;
        body(self);
        self.variables -= 1;
        self.say(")");
    }

    fn truth(&mut self, depth: usize) {
        match self.choose(18, depth) {
            0 => self.one_of(&["true", "false", "claims.n == 1", "1 == 1"]),
            1..=3 => self.fold(&["all", "exists", "exists_one"], depth, |this| this.truth(depth + 1)),
            4 | 5 => {
                self.say("(");
                self.truth(depth + 1);
                self.one_of(&[" && ", " || "]);
                self.truth(depth + 1);
                self.say(")");
            }
            6 => {
                self.say("!");
                self.truth(depth + 1);
            }
            7 => {
                self.say("(");
                self.truth(depth + 1);
                self.say(" ? ");
                self.truth(depth + 1);
                self.say(" : ");
                self.truth(depth + 1);
                self.say(")");
            }
            // Whatever goes wrong, the loop goes on.
            8 => {
                self.say("(");
                self.truth(depth + 1);
                self.one_of(&[" || true)", " && false)", " || false)"]);
            }
            9 | 10 => {
                self.value(depth + 1);
                self.one_of(&[" == ", " != ", " < ", " <= ", " > ", " >= "]);
                self.value(depth + 1);
            }
            11 => {
                self.value(depth + 1);
                self.say(" in ");
                self.list(depth + 1);
            }
            12 => {
                self.string(depth + 1);
                self.one_of(&[".startsWith(", ".endsWith(", ".contains("]);
                self.string(depth + 1);
                self.say(")");
            }
            13 => {
                self.string(depth + 1);
                self.one_of(&[
                    ".matches('^a*$')",
                    ".matches('(x+x+)+y')",
                    ".matches('([ab]*)*[ab]{20}c')",
                    ".matches('.{0,60}.{0,60}')",
                    ".matches('[^a]*b')",
                    ".glob('**/a')",
                    ".glob('a*b*c')",
                    ".inCidr('10.0.0.0/8')",
                ]);
            }
            14 => self.one_of(&["has(claims.list)", "has(claims.map.a)", "has(x0.a)", "has(claims.m1)"]),
            15 => {
                self.list(depth + 1);
                self.say(" == ");
                self.list(depth + 1);
            }
            16 => {
                self.say("url(");
                self.string(depth + 1);
                self.say(").path == ''");
            }
            _ => {
                self.say("type(");
                self.value(depth + 1);
                self.one_of(&[") == int", ") == list", ") == string", ") == map"]);
            }
        }
    }

    fn value(&mut self, depth: usize) {
        match self.choose(8, depth) {
            0 => self.one_of(&["1", "'a'", "claims.n", "null", "true", "-1", "1.5", "2u", "now"]),
            1 => self.variable(),
            2 | 3 => self.list(depth + 1),
            4 => self.string(depth + 1),
            5 => self.number(depth + 1),
            6 => {
                self.list(depth + 1);
                self.say("[");
                self.number(depth + 1);
                self.say("]");
            }
            _ => {
                self.one_of(&["claims.?list", "claims.?nothing", "claims.map.?a", "claims[?'list']"]);
                self.say(".orValue(");
                self.value(depth + 1);
                self.say(")");
            }
        }
    }

    fn variable(&mut self) {
        let byte = self.bytes.next().copied().unwrap_or(0);
        match usize::from(byte).checked_rem(self.variables) {
            Some(index) => {
                let _ = write!(self.text, "x{index}");
            }
            None => self.say("claims.n"),
        }
    }

    fn list(&mut self, depth: usize) {
        match self.choose(14, depth) {
            0 | 1 => self.one_of(&[
                "claims.list",
                "claims.rows",
                "claims.other",
                "claims.map",
                "claims",
                "[1]",
                "[1,2,3,4,5,6,7,8,9,10]",
                "claims.rows[0]",
            ]),
            2 => self.variable(),
            3 | 4 => self.fold(&["map"], depth, |this| this.value(depth + 1)),
            5 => self.fold(&["filter"], depth, |this| this.truth(depth + 1)),
            6 => {
                self.string(depth + 1);
                self.one_of(&[".split('')", ".split('x')", ".split('/')"]);
            }
            7 => {
                self.list(depth + 1);
                self.say(" + ");
                self.list(depth + 1);
            }
            8 => {
                self.say("[");
                self.value(depth + 1);
                self.say(", ");
                self.value(depth + 1);
                self.say("]");
            }
            9 => {
                self.say("claims[");
                self.string(depth + 1);
                self.say("]");
            }
            10 => {
                self.say("{'a': ");
                self.value(depth + 1);
                self.say(", 'b': 1}");
            }
            11 => {
                self.say("(");
                self.truth(depth + 1);
                self.say(" ? ");
                self.list(depth + 1);
                self.say(" : ");
                self.list(depth + 1);
                self.say(")");
            }
            12 => {
                self.say("dyn(");
                self.list(depth + 1);
                self.say(")");
            }
            _ => {
                self.variable();
                self.one_of(&[".a", ".b", "[0]", ".?a.orValue([])"]);
            }
        }
    }

    fn string(&mut self, depth: usize) {
        match self.choose(9, depth) {
            0 | 1 => self.one_of(&[
                "claims.text",
                "claims.pad",
                "''",
                "'a'",
                "'https://h/p'",
                "'x'",
                "claims.list[0]",
                "claims.map.a",
            ]),
            2 => self.variable(),
            3 => {
                self.string(depth + 1);
                self.say(" + ");
                self.string(depth + 1);
            }
            4 => {
                self.string(depth + 1);
                self.one_of(&[".lowerAscii()", ".upperAscii()"]);
            }
            5 => {
                self.say("string(");
                self.value(depth + 1);
                self.say(")");
            }
            6 => {
                self.say("(");
                self.string(depth + 1);
                self.say(").split('x')[0]");
            }
            7 => {
                self.say("url(");
                self.string(depth + 1);
                self.one_of(&[").path", ").host", ").query", ").getPath()"]);
            }
            _ => {
                self.list(depth + 1);
                self.say("[0]");
            }
        }
    }

    fn number(&mut self, depth: usize) {
        match self.choose(9, depth) {
            0 | 1 => self.one_of(&["0", "1", "claims.n", "9223372036854775807", "-1", "999"]),
            2 => {
                self.say("size(");
                self.list(depth + 1);
                self.say(")");
            }
            3 => {
                self.string(depth + 1);
                self.say(".size()");
            }
            4 => {
                self.value(depth + 1);
                self.one_of(&[" + ", " - ", " * ", " / ", " % "]);
                self.value(depth + 1);
            }
            5 => {
                self.say("-");
                self.value(depth + 1);
            }
            6 => {
                self.one_of(&["int(", "double(", "duration(", "timestamp("]);
                self.value(depth + 1);
                self.say(")");
            }
            7 => self.one_of(&["now.getFullYear()", "now.getHours('Europe/Berlin')", "now.getDayOfYear()"]),
            _ => self.variable(),
        }
    }
}
