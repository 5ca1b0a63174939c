//! What a guide writes for values that only the answers tell, and how an answer is compared with the one that is shown.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// The words that stand for such values, as `docs/guides/README.md` explains them.
const NAMES: [&str; 5] = ["PROVIDER_MRN", "SERVICE_ACCOUNT_MRN", "TRUST_MRN", "CLIENT_ID", "REFERENCE"];

/// Anything.
const ANYTHING: &str = "…";

/// The values met so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// The value of a name.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no answer has told {name} yet"))
    }

    /// Gives a name its value, or another one.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        assert!(NAMES.contains(&name), "{name} is none of the guides' names");
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Forgets a name, so that the next answer can tell it anew.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The text with every name replaced, as a reader does it.
    pub(super) fn fill(&self, text: &str) -> String {
        name().replace_all(text, |found: &regex::Captures<'_>| self.get(&found[0]).to_owned()).into_owned()
    }

    /// Compares an answer with the one that is shown, in which `…` is anything: some text, or some elements of a list.
    /// Names that are new get their values.
    pub(super) fn agree(&mut self, shown: &Value, real: &Value) -> Result<(), String> {
        match (shown, real) {
            (Value::String(shown), _) if shown == ANYTHING => Ok(()),
            (Value::String(shown), Value::String(real)) => self.agree_text(shown, real),
            (Value::Array(shown), Value::Array(real)) => self.agree_list(shown, real),
            (Value::Object(shown), Value::Object(real)) => {
                let keys = |map: &serde_json::Map<String, Value>| {
                    let mut keys: Vec<String> = map.keys().cloned().collect();
                    keys.sort();
                    keys
                };
                if keys(shown) != keys(real) {
                    return Err(format!("the members are {:?}, not {:?}", keys(real), keys(shown)));
                }
                shown.iter().try_for_each(|(key, shown)| {
                    self.agree(shown, &real[key]).map_err(|error| format!("{key}: {error}"))
                })
            }
            _ if shown == real => Ok(()),
            _ => Err(format!("it is {real}, not {shown}")),
        }
    }

    fn agree_text(&mut self, shown: &str, real: &str) -> Result<(), String> {
        let mut pattern = String::from("(?s)^");
        let mut rest = shown;
        let token = Regex::new(&format!("{ANYTHING}|{}", name().as_str())).expect("a pattern");
        let mut new: Vec<String> = Vec::new();
        while let Some(found) = token.find(rest) {
            pattern.push_str(&regex::escape(&rest[..found.start()]));
            match found.as_str() {
                ANYTHING => pattern.push_str(".*"),
                known if self.0.contains_key(known) => pattern.push_str(&regex::escape(self.get(known))),
                unknown => {
                    new.push(unknown.to_owned());
                    pattern.push_str("(.+)");
                }
            }
            rest = &rest[found.end()..];
        }
        pattern.push_str(&regex::escape(rest));
        pattern.push('$');
        let found = Regex::new(&pattern).expect("a pattern").captures(real);
        let found = found.ok_or_else(|| format!("it is '{real}', not '{shown}'"))?;
        for (index, name) in new.iter().enumerate() {
            self.set(name, &found[index + 1]);
        }
        Ok(())
    }

    fn agree_list(&mut self, shown: &[Value], real: &[Value]) -> Result<(), String> {
        let Some((first, rest)) = shown.split_first() else {
            return if real.is_empty() { Ok(()) } else { Err(format!("there is more: {}", real[0])) };
        };
        if first.as_str() == Some(ANYTHING) {
            let mut error = String::new();
            for skipped in 0..=real.len() {
                let mut attempt = self.clone();
                match attempt.agree_list(rest, &real[skipped..]) {
                    Ok(()) => {
                        *self = attempt;
                        return Ok(());
                    }
                    Err(other) => error = other,
                }
            }
            return Err(error);
        }
        let (found, left) = real.split_first().ok_or_else(|| format!("there is no {first}"))?;
        self.agree(first, found)?;
        self.agree_list(rest, left)
    }
}

/// One of the names, as a whole word.
fn name() -> Regex {
    Regex::new(&format!(r"\b(?:{})\b", NAMES.join("|"))).expect("a pattern")
}
