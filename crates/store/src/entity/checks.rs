//! The checks of an exchange as they are stored. They are most of a record, and records are most of a database, so this is JSON
//! that says nothing twice.
//!
//! The checks that have something to say stand in order. Each is its name (after `!` if it failed, after `?` if it was
//! skipped); where there are texts, a list of that, what was expected, what was found and the detail, up to the last that is
//! there. `true` for what was found means that it is what was expected.
//!
//! Databases older than that have an object for each, as [`Check`] is serialised; both are read.

use sallyport_domain::decision::{Check, CheckName, CheckOutcome};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::Value;

use super::list_text_in;

/// The checks of a grant fit in, mostly.
const ROOM: usize = 512;

/// As text.
pub fn write(checks: &[Check]) -> String {
    list_text_in(ROOM, checks.iter().filter(|check| !check.is_silent()).map(Stored))
}

/// Reads [`write()`] back, without the checks that said nothing. `None`: that is not such a text.
pub fn read(text: &str) -> Option<Vec<Check>> {
    let stored: Vec<Value> = serde_json::from_str(text).ok()?;
    stored.into_iter().map(check).collect()
}

struct Stored<'c>(&'c Check);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Check { expected, actual, detail, .. } = self.0;
        let name = Name(self.0);
        if expected.is_none() && actual.is_none() && detail.is_none() {
            return name.serialize(serializer);
        }
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&name)?;
        list.serialize_element(expected)?;
        if actual.is_some() && actual == expected {
            list.serialize_element(&true)?;
        } else if actual.is_some() || detail.is_some() {
            list.serialize_element(actual)?;
        }
        if detail.is_some() {
            list.serialize_element(detail)?;
        }
        list.end()
    }
}

struct Name<'c>(&'c Check);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.0.name.name();
        match self.0.outcome {
            CheckOutcome::Passed => serializer.serialize_str(name),
            CheckOutcome::Failed => serializer.collect_str(&format_args!("!{name}")),
            CheckOutcome::Skipped => serializer.collect_str(&format_args!("?{name}")),
        }
    }
}

fn check(stored: Value) -> Option<Check> {
    let mut parts = match stored {
        Value::Array(parts) => parts.into_iter(),
        Value::Object(_) => return serde_json::from_value(stored).ok(),
        name => vec![name].into_iter(),
    };
    let mut check = named(parts.next()?.as_str()?)?;
    check.expected = text(parts.next())?;
    check.actual = match parts.next() {
        Some(Value::Bool(true)) => check.expected.clone(),
        other => text(other)?,
    };
    check.detail = text(parts.next())?;
    parts.next().is_none().then_some(check)
}

fn named(text: &str) -> Option<Check> {
    let (outcome, name) = match (text.strip_prefix('!'), text.strip_prefix('?')) {
        (Some(name), _) => (CheckOutcome::Failed, name),
        (_, Some(name)) => (CheckOutcome::Skipped, name),
        _ => (CheckOutcome::Passed, text),
    };
    let name = CheckName::ALL.into_iter().find(|known| known.name() == name)?;
    Some(Check { outcome, ..Check::passed(name) })
}

/// `None`: it is no text, and not absent either.
fn text(part: Option<Value>) -> Option<Option<String>> {
    match part {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::list_text;

    #[test]
    fn every_check_reads_as_it_was_written() {
        let texts = |some: &[&str]| std::iter::once(None).chain(some.iter().map(|t| Some((*t).to_owned()))).collect();
        let (expected, actual, detail): (Vec<_>, Vec<_>, Vec<_>) =
            (texts(&["a"]), texts(&["a", "\0 \"é\u{2028}"]), texts(&["a", ""]));
        let mut checks = Vec::new();
        for name in CheckName::ALL {
            for outcome in [CheckOutcome::Passed, CheckOutcome::Failed, CheckOutcome::Skipped] {
                for expected in &expected {
                    for actual in &actual {
                        for detail in &detail {
                            let (expected, actual, detail) = (expected.clone(), actual.clone(), detail.clone());
                            checks.push(Check { name, outcome, expected, actual, detail });
                        }
                    }
                }
            }
        }
        let told: Vec<Check> = checks.iter().filter(|check| !check.is_silent()).cloned().collect();
        assert_eq!(read(&write(&checks)).as_ref(), Some(&told));
        assert!(!write(&checks).contains('\0'), "PostgreSQL has no such text");
        // As they were written before.
        assert_eq!(read(&list_text(&checks)), Some(checks));
    }

    #[test]
    fn nothing_is_written_twice() {
        let issuer = Check::passed(CheckName::Issuer).expected("https://a").actual("https://a");
        let subject = Check::failed(CheckName::Subject).expected("b").actual("c");
        let checks = [
            Check::passed(CheckName::Decode),
            issuer,
            subject,
            Check::skipped(CheckName::Roles).detail("d"),
            Check::skipped(CheckName::Replay),
        ];
        assert_eq!(
            write(&checks),
            r#"["decode",["issuer","https://a",true],["!subject","b","c"],["?roles",null,null,"d"]]"#
        );
    }

    #[test]
    fn what_is_no_list_of_checks_is_not_read() {
        for wrong in [
            "",
            "{}",
            "[1]",
            "[[]]",
            r#"["nothing"]"#,
            r#"["!!issuer"]"#,
            r#"[["issuer",1]]"#,
            r#"[["issuer",true]]"#,
            r#"[["issuer","a","b","c","d"]]"#,
            r#"[{"name":"issuer"}]"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
