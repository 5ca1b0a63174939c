//! JSON as it is kept of a token: for each exchange a few dozen values, without a hash table, and without an allocation for a
//! short text.

use std::borrow::Borrow;
use std::fmt;

use serde_json::{Map, Number};
use smol_str::SmolStr;

/// Up to how many members are looked up one by one; more have an index.
const FEW: usize = 32;

/// A JSON value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    String(SmolStr),
    /// A list.
    Array(Box<[Self]>),
    /// An object.
    Object(Members),
}

impl Value {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The members, if it is an object.
    pub const fn as_object(&self) -> Option<&Members> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }
}

/// Its JSON text.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            other => serde_json::Value::from(other.clone()).fmt(f),
        }
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::String(text.into()),
            Value::Array(items) => items.into_iter().map(Self::from).collect(),
            Value::Object(members) => Self::Object(members.into()),
        }
    }
}

/// The members of a JSON object in document order, no two of the same name. Two are equal in the same order only.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Members {
    members: Box<[(SmolStr, Value)]>,
    /// The members' places in the order of their names, where they are many.
    by_name: Option<Box<[usize]>>,
}

impl Members {
    /// Of these.
    ///
    /// # Errors
    /// A name that two of them have.
    pub(super) fn new(members: Vec<(SmolStr, Value)>) -> Result<Self, SmolStr> {
        let name = |index: usize| -> &str { &members[index].0 };
        let (twice, by_name) = if members.len() <= FEW {
            let mut marks = [0; FEW];
            let twice = (0..members.len()).find(|last| {
                let (mark, earlier) = (mark(name(*last)), &mut marks[..=*last]);
                earlier[*last] = mark;
                earlier[..*last].contains(&mark) && (0..*last).any(|earlier| name(earlier) == name(*last))
            });
            (twice, None)
        } else {
            let mut order: Vec<usize> = (0..members.len()).collect();
            order.sort_unstable_by_key(|index| name(*index));
            let twice = order.windows(2).find(|pair| name(pair[0]) == name(pair[1])).map(|pair| pair[0]);
            (twice, Some(order.into()))
        };
        match twice {
            Some(index) => Err(members[index].0.clone()),
            None => Ok(Self { members: members.into(), by_name }),
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
    pub fn get(&self, name: &str) -> Option<&Value> {
        let index = match &self.by_name {
            None => self.members.iter().position(|(known, _)| **known == *name)?,
            Some(order) => order[order.binary_search_by(|index| (*self.members[*index].0).cmp(name)).ok()?],
        };
        Some(&self.members[index].1)
    }

    /// Whether there is a member of this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Each member.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.members.iter().map(|(name, value)| (name.borrow(), value))
    }

    /// Each name.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }
}

/// The length and the last bytes of a name. Names with different ones are different, which is told sooner so.
fn mark(name: &str) -> u64 {
    let (bytes, mut mark) = (name.as_bytes(), [0; 8]);
    let kept = bytes.len().min(7);
    mark[..kept].copy_from_slice(&bytes[bytes.len() - kept..]);
    mark[7] = bytes.len().to_le_bytes()[0];
    u64::from_le_bytes(mark)
}

impl From<Members> for Map<String, serde_json::Value> {
    fn from(members: Members) -> Self {
        members.members.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[String]) -> Result<Members, SmolStr> {
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
