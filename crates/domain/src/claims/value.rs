//! JSON as it is kept of a token: for each exchange a few dozen values, without a hash table, and without a copy of a text
//! that stands in the document as it is meant.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Number};

/// Up to how many members are looked up one by one; more are by their order.
const FEW: usize = 32;
/// Among how many places their marks are spread, to see that two are different.
const PLACES: usize = 256;

/// A JSON value of a document.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'d> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text; one of its own where the document has it with escapes.
    String(Cow<'d, str>),
    /// A list.
    Array(Box<[Self]>),
    /// An object.
    Object(Members<'d>),
}

impl<'d> Value<'d> {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The members, if it is an object.
    pub const fn as_object(&self) -> Option<&Members<'d>> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }
}

/// Its JSON text.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            other => serde_json::Value::from(other).fmt(f),
        }
    }
}

impl From<&Value<'_>> for serde_json::Value {
    fn from(value: &Value<'_>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::String(text.clone().into_owned()),
            Value::Array(items) => items.iter().map(Self::from).collect(),
            Value::Object(members) => Self::Object(members.into()),
        }
    }
}

/// The members of a JSON object in document order, no two of the same name. Two are equal in the same order only.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Members<'d> {
    members: Vec<(Cow<'d, str>, Value<'d>)>,
    /// What finds them: of up to [`FEW`] the mark of each, of more their places in the order of their names.
    index: Box<[usize]>,
}

impl<'d> Members<'d> {
    /// Of these.
    ///
    /// # Errors
    /// A name that two of them have.
    pub(super) fn new(members: Vec<(Cow<'d, str>, Value<'d>)>) -> Result<Self, Cow<'d, str>> {
        let name = |place: usize| -> &str { &members[place].0 };
        let count = members.len();
        let (twice, index) = if count <= FEW {
            let marks: Box<[usize]> = members.iter().map(|(name, _)| mark(name)).collect();
            let mut taken = [false; PLACES];
            let twice = (0..count).find(|last| {
                // Most have a place to themselves, and need not be compared.
                std::mem::replace(&mut taken[place_of(marks[*last])], true)
                    && marks[..*last].contains(&marks[*last])
                    && (0..*last).any(|earlier| name(earlier) == name(*last))
            });
            (twice, marks)
        } else {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_unstable_by_key(|place| name(*place));
            let twice = order.windows(2).find(|pair| name(pair[0]) == name(pair[1])).map(|pair| pair[0]);
            (twice, order.into())
        };
        match twice {
            Some(place) => Err(members[place].0.clone()),
            None => Ok(Self { members, index }),
        }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&Value<'d>> {
        let known = |place: usize| -> &str { &self.members[place].0 };
        let place = if self.members.len() <= FEW {
            let wanted = mark(name);
            (0..self.members.len()).find(|place| self.index[*place] == wanted && known(*place) == name)?
        } else {
            self.index[self.index.binary_search_by(|place| known(*place).cmp(name)).ok()?]
        };
        Some(&self.members[place].1)
    }

    /// Whether there is a member of this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Each member.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'d>)> {
        self.members.iter().map(|(name, value)| (&**name, value))
    }

    /// Each name.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }
}

/// What mostly differs where names do, which is told sooner so: of short ones it is their bytes.
fn mark(name: &str) -> usize {
    let bytes = name.as_bytes();
    match bytes.last_chunk() {
        Some(last) => usize::from_le_bytes(*last).wrapping_add(bytes.len()),
        None => bytes.iter().fold(bytes.len(), |mark, byte| mark << u8::BITS | usize::from(*byte)),
    }
}

/// A place for a mark: different ones mostly have different ones.
fn place_of(mark: usize) -> usize {
    const SPREAD: usize = 0x9E37_79B9_7F4A_7C15_u64 as usize;
    mark.wrapping_mul(SPREAD) >> (usize::BITS - PLACES.ilog2())
}

impl From<&Members<'_>> for Map<String, serde_json::Value> {
    fn from(members: &Members<'_>) -> Self {
        members.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[String]) -> Result<Members<'_>, Cow<'_, str>> {
        Members::new(
            names.iter().enumerate().map(|(n, name)| (name.as_str().into(), Value::Number(n.into()))).collect(),
        )
    }

    #[test]
    fn members_are_found_and_kept_in_order_however_many_there_are() {
        for count in [0, 1, FEW, FEW + 1, 500] {
            let names: Vec<String> = (0..count).map(|n| format!("m{}", (n * 7_919) % 1_000)).collect();
            let object = members(&names).unwrap();
            assert_eq!(object.len(), count);
            assert!(object.keys().eq(names.iter().map(String::as_str)));
            for (n, name) in names.iter().enumerate() {
                assert_eq!(object.get(name), Some(&Value::Number(n.into())));
            }
            for other in ["", "m", "m1000", "n"] {
                assert_eq!(object.get(other), None, "{other}");
            }
        }
    }

    #[test]
    fn names_of_the_same_length_and_end_are_different_names() {
        let names: Vec<String> = (0..FEW).map(|n| format!("{n:02}_the_same_end")).collect();
        let object = members(&names).unwrap();
        assert!(names.iter().enumerate().all(|(n, name)| object.get(name) == Some(&Value::Number(n.into()))));
        let mut twice = names.clone();
        twice[FEW - 1].clone_from(&names[3]);
        assert_eq!(members(&twice), Err(names[3].as_str().into()));
    }

    #[test]
    fn no_name_is_there_twice_however_many_there_are() {
        for count in [2, FEW, FEW + 1, 500] {
            for (first, second) in [(0, 1), (0, count - 1), (count - 2, count - 1)] {
                let mut names: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
                names[second] = names[first].clone();
                assert_eq!(members(&names), Err(names[first].as_str().into()));
            }
        }
    }
}
