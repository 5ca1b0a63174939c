//! The checks of an exchange as they are stored. They are most of a record, and records are most of a database, so this is JSON
//! that says nothing twice.
//!
//! The checks that have something to say stand in order. Each is its number: its place in [`CheckName::ALL`] from 1 on, negative
//! if it failed, and 100 more if it was skipped. Where there are texts, it is a list of that, what was expected, what was found
//! and the detail, up to the last that is there. `true` for what was found means that it is what was expected; `0` for a text
//! that it is the record's issuer, and `1` its subject.
//!
//! In older databases a check is its name (after `!` if it failed, after `?` if it was skipped), and before that an object, as
//! [`Check`] is serialised; all are read.

use sallyport_domain::decision::{Check, CheckName, CheckOutcome};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::Value;

use super::list_text_in;

/// The checks of a grant fit in, mostly.
const ROOM: usize = 256;
/// What is added to the number of a check that was skipped.
const SKIPPED: i64 = 100;

/// What stands beside the checks in a record: its issuer and its subject, as they are recorded.
pub type Beside<'r> = [&'r str; 2];

/// As text.
pub fn write(checks: &[Check], beside: Beside<'_>) -> String {
    let told = checks.iter().filter(|check| !check.is_silent());
    list_text_in(ROOM, told.map(|check| Stored { check, beside }))
}

/// Reads [`write()`] back, without the checks that said nothing. `None`: that is not such a text.
pub fn read(text: &str, beside: Beside<'_>) -> Option<Vec<Check>> {
    let stored: Vec<Value> = serde_json::from_str(text).ok()?;
    stored.into_iter().map(|stored| check(stored, beside)).collect()
}

struct Stored<'c> {
    check: &'c Check,
    beside: Beside<'c>,
}

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Check { expected, actual, detail, .. } = self.check;
        let number = number(self.check);
        if expected.is_none() && actual.is_none() && detail.is_none() {
            return serializer.serialize_i64(number);
        }
        let text = |text| Text { text, beside: self.beside };
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&number)?;
        list.serialize_element(&text(expected))?;
        if actual.is_some() && actual == expected {
            list.serialize_element(&true)?;
        } else if actual.is_some() || detail.is_some() {
            list.serialize_element(&text(actual))?;
        }
        if detail.is_some() {
            list.serialize_element(&text(detail))?;
        }
        list.end()
    }
}

/// A text, or where else it stands in the record.
struct Text<'c> {
    text: &'c Option<String>,
    beside: Beside<'c>,
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(text) = self.text else { return serializer.serialize_none() };
        match self.beside.iter().position(|other| other == text) {
            Some(place) => place.serialize(serializer),
            None => serializer.serialize_str(text),
        }
    }
}

fn number(check: &Check) -> i64 {
    let number = check.name as i64 + 1;
    match check.outcome {
        CheckOutcome::Passed => number,
        CheckOutcome::Failed => -number,
        CheckOutcome::Skipped => SKIPPED + number,
    }
}

fn numbered(number: i64) -> Option<Check> {
    let (outcome, number) = match number {
        ..0 => (CheckOutcome::Failed, number.checked_neg()?),
        0..=SKIPPED => (CheckOutcome::Passed, number),
        _ => (CheckOutcome::Skipped, number - SKIPPED),
    };
    let name = *CheckName::ALL.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
    Some(Check { outcome, ..Check::passed(name) })
}

fn check(stored: Value, beside: Beside<'_>) -> Option<Check> {
    let mut parts = match stored {
        Value::Array(parts) => parts.into_iter(),
        Value::Object(_) => return serde_json::from_value(stored).ok(),
        which => vec![which].into_iter(),
    };
    let mut check = match parts.next()? {
        Value::String(name) => named(&name)?,
        number => numbered(number.as_i64()?)?,
    };
    check.expected = text(parts.next(), beside)?;
    check.actual = match parts.next() {
        Some(Value::Bool(true)) => check.expected.clone(),
        other => text(other, beside)?,
    };
    check.detail = text(parts.next(), beside)?;
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
fn text(part: Option<Value>, beside: Beside<'_>) -> Option<Option<String>> {
    match part {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text)),
        Some(place) => {
            let place = usize::try_from(place.as_u64()?).ok()?;
            beside.get(place).map(|text| Some((*text).to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::list_text;

    const BESIDE: Beside<'static> = ["https://a", "s"];

    #[test]
    fn every_check_reads_as_it_was_written() {
        let texts = |some: &[&str]| std::iter::once(None).chain(some.iter().map(|t| Some((*t).to_owned()))).collect();
        let (expected, actual, detail): (Vec<_>, Vec<_>, Vec<_>) =
            (texts(&["a", "https://a"]), texts(&["a", "s", "\0 \"é\u{2028}"]), texts(&["a", "s", ""]));
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
        for beside in [BESIDE, ["", ""], ["a", "a"]] {
            assert_eq!(read(&write(&checks, beside), beside).as_ref(), Some(&told));
        }
        assert!(!write(&checks, BESIDE).contains('\0'), "PostgreSQL has no such text");
        // As they were written at first.
        assert_eq!(read(&list_text(&checks), BESIDE), Some(checks));
    }

    #[test]
    fn nothing_is_written_twice() {
        let issuer = Check::passed(CheckName::Issuer).expected("https://a").actual("https://a");
        let audience = Check::passed(CheckName::Audience).expected("a").actual("a");
        let subject = Check::failed(CheckName::Subject).expected("b").actual("s");
        let checks = [
            Check::passed(CheckName::Decode),
            issuer,
            audience,
            subject,
            Check::skipped(CheckName::Roles).detail("d"),
            Check::skipped(CheckName::Replay),
        ];
        let text = write(&checks, BESIDE);
        assert_eq!(text, r#"[2,[3,0,true],[6,"a",true],[-8,"b",1],[113,null,null,"d"]]"#);
        // As they were written before they had numbers.
        let names = r#"["decode",["issuer","https://a",true],["audience","a",true],["!subject","b","s"],["?roles",null,null,"d"]]"#;
        let told = Some(checks[..5].to_vec());
        assert_eq!([read(names, BESIDE), read(&text, BESIDE)], [told.clone(), told]);
    }

    /// Databases hold these numbers: a new check must not move the others.
    #[test]
    fn each_check_keeps_its_number() {
        let all = "locate decode issuer signature algorithm audience freshness subject mappings condition source_ip enabled roles replay";
        let names: Vec<&str> = all.split(' ').collect();
        assert_eq!(CheckName::ALL.map(CheckName::name)[..], names);
        for (index, name) in CheckName::ALL.into_iter().enumerate() {
            assert_eq!(name as usize, index);
        }
    }

    #[test]
    fn what_is_no_list_of_checks_is_not_read() {
        for wrong in [
            "",
            "{}",
            "[0]",
            "[15]",
            "[-15]",
            "[100]",
            "[115]",
            "[-9223372036854775808]",
            "[1.0]",
            "[[]]",
            r#"["nothing"]"#,
            r#"["!!issuer"]"#,
            "[[3,2]]",
            "[[3,-1]]",
            "[[3,true]]",
            r#"[[3,"a",false]]"#,
            r#"[[3,"a","b","c","d"]]"#,
            r#"[{"name":"issuer"}]"#,
        ] {
            assert_eq!(read(wrong, BESIDE), None, "{wrong}");
        }
    }
}
