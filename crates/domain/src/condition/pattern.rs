//! Patterns of `matches` and `glob`: RE2's language on a linear-time engine, compiled once, bounded in size.

use regex::{Regex, RegexBuilder};

/// Largest compiled pattern, in bytes of automaton.
pub const PATTERN_SIZE_MAX: usize = 64 * 1024;
/// Longest text that `matches` and `glob` read, in bytes; longer is an error at evaluation.
pub const MATCH_INPUT_MAX: usize = 2_048;

/// Automaton sizes in bytes, and the worst cost of one byte of input at that size, in ticks (see `admit`).
const CLASSES: [(usize, u64); 3] = [(4 * 1024, 2), (16 * 1024, 8), (PATTERN_SIZE_MAX, 32)];

/// A compiled pattern and the ticks that a byte of input can cost.
pub(super) struct Compiled {
    pub(super) regex: Regex,
    pub(super) ticks_per_byte: u64,
}

/// Compiles a pattern of `matches`: RE2 syntax, unanchored search.
pub(super) fn regex(pattern: &str) -> Result<Compiled, String> {
    let translated = translate(pattern).map_err(|why| format!("the pattern of `matches` {why}"))?;
    compile(&translated, "matches")
}

/// Compiles a glob: `*` is any run of characters but the delimiters `/` and `:`, `**` any run, `?` one character but
/// the delimiters. The whole text must match.
pub(super) fn glob(pattern: &str) -> Result<Compiled, String> {
    let mut translated = String::from(r"(?s)\A");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                if rest.peek() == Some(&'*') {
                    return Err("the pattern of `glob` has more than two `*` in a row".into());
                }
                translated.push_str(".*");
            }
            '*' => translated.push_str("[^/:]*"),
            '?' => translated.push_str("[^/:]"),
            '[' | ']' | '{' | '}' | '\\' => {
                return Err(format!("the pattern of `glob` contains `{c}`; only `*`, `**` and `?` are special"));
            }
            other => translated.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    translated.push_str(r"\z");
    compile(&translated, "glob")
}

fn compile(translated: &str, function: &str) -> Result<Compiled, String> {
    let mut why = String::new();
    for (size, ticks_per_byte) in CLASSES {
        match RegexBuilder::new(translated).size_limit(size).dfa_size_limit(256 * 1024).nest_limit(32).build() {
            Ok(regex) => return Ok(Compiled { regex, ticks_per_byte }),
            Err(regex::Error::CompiledTooBig(_)) => why = "is too large; use fewer or smaller repetitions".into(),
            Err(error) => {
                // The last line is the reason; the lines before draw the pattern.
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                return Err(format!("the pattern of `{function}` is not valid: {reason}"));
            }
        }
    }
    Err(format!("the pattern of `{function}` {why}"))
}

/// RE2 syntax to the regex crate's. They differ in what could make a pattern match more than its author meant:
/// `\d \w \s \b` are ASCII in RE2, and `[`, `&&`, `~~` inside a class are literals there.
fn translate(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len() * 2);
    let mut chars = pattern.chars().peekable();
    // None outside a class, else how many items of the class were read.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        if c == '\\' {
            let escaped = chars.next().ok_or("ends with a backslash")?;
            class = class.map(|n| n + 1);
            match (escaped, class.is_some()) {
                ('d', false) => out.push_str("[0-9]"),
                ('d', true) => out.push_str("0-9"),
                ('D', _) => out.push_str("[^0-9]"),
                ('w', false) => out.push_str("[0-9A-Za-z_]"),
                ('w', true) => out.push_str("0-9A-Za-z_"),
                ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                ('s', false) => out.push_str(r"[\t\n\x0C\r ]"),
                ('s', true) => out.push_str(r"\t\n\x0C\r "),
                ('S', _) => out.push_str(r"[^\t\n\x0C\r ]"),
                ('b', false) => out.push_str(r"(?-u:\b)"),
                ('B', false) => return Err("contains \\B, which is not supported"),
                ('b' | 'B', true) => return Err("contains \\b inside a character class"),
                ('<' | '>', _) => out.push(escaped),
                ('Q' | 'E' | 'C' | 'K' | 'X' | 'R' | 'Z' | 'G', _) => {
                    return Err("contains an escape that is not supported");
                }
                (other, _) => {
                    out.push('\\');
                    out.push(other);
                }
            }
            continue;
        }
        match class {
            None => match c {
                '[' => {
                    out.push('[');
                    if chars.next_if_eq(&'^').is_some() {
                        out.push('^');
                    }
                    class = Some(0);
                }
                '(' if chars.peek() == Some(&'?') => {
                    chars.next();
                    out.push_str("(?");
                    match chars.peek() {
                        Some('P' | '<') => {}
                        _ => {
                            for flag in chars.by_ref() {
                                out.push(flag);
                                match flag {
                                    'i' | 'm' | 's' | 'U' | '-' => {}
                                    ':' | ')' => break,
                                    _ => return Err("contains a group or flag that RE2 does not have"),
                                }
                            }
                        }
                    }
                }
                other => out.push(other),
            },
            Some(read) => {
                class = Some(read + 1);
                match c {
                    // First in a class, `]` is a literal.
                    ']' if read == 0 => out.push_str(r"\]"),
                    ']' => {
                        out.push(']');
                        class = None;
                    }
                    '[' if chars.peek() == Some(&':') => {
                        out.push('[');
                        for inner in chars.by_ref() {
                            out.push(inner);
                            if inner == ']' {
                                break;
                            }
                        }
                    }
                    '[' | '&' | '~' => {
                        out.push('\\');
                        out.push(c);
                    }
                    '-' if chars.peek() == Some(&'-') => return Err("contains -- inside a character class"),
                    other => out.push(other),
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_patterns_as_re2_does() {
        let table = [
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^\w+$", "é", false),
            (r"^[\w-]+$", "a-b_c", true),
            (r"^[^\d]$", "x", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a&&b]+$", "&ab", true),
            (r"^[[a]+$", "[a", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a-z~~]+$", "a~", true),
            (r"\bmain\b", "refs/main/x", true),
            (r"\bmain\b", "maine", false),
            (r"a.c", "a\nc", false),
            (r"(?s)a.c", "a\nc", true),
            (r"(?i)^MAIN$", "main", true),
            (r"(?i:X)y", "xy", true),
            (r"^(?P<org>[a-z]+)/", "acme/api", true),
            (r"b", "abc", true),
            (r"^a$", "a\n", false),
            (r"\<b\>", "<b>", true),
            (r"^\S+\s\S+$", "a b", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(regex(pattern).map(|c| c.regex.is_match(text)), Ok(expected), "{pattern} on {text}");
        }
        for bad in
            [r"(", r"a\", r"(?x)a b", r"(?=a)", r"(?<!a)b", r"[a--b]", r"\Qa\E", r"(a)\1", "(a{0,100}){0,100}", "*"]
        {
            assert!(regex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_stop_at_delimiters_and_cover_the_whole_text() {
        let table = [
            ("refs/heads/*", "refs/heads/main", true),
            ("refs/heads/*", "refs/heads/a/b", false),
            ("refs/heads/**", "refs/heads/a/b", true),
            ("refs/heads/*", "xrefs/heads/main", false),
            ("refs/heads/*", "refs/heads/main\n", true),
            ("v?.?", "v1.2", true),
            ("v?.?", "v1x2", false),
            ("repo:*/*:ref:**", "repo:acme/api:ref:refs/heads/x", true),
            ("repo:acme*", "repo:acme/evil", false),
            ("a.c", "abc", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob(pattern).map(|c| c.regex.is_match(text)), Ok(expected), "{pattern} on {text}");
        }
        for bad in ["a{b,c}", "[ab]", "a***", r"a\*"] {
            assert!(glob(bad).is_err(), "{bad}");
        }
    }
}
