//! Claims as CEL values, read in place: a condition that looks at two claims converts two claims.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelTimestamp, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::admit::RANGE_MAX;
use super::equality::object_equals;
use super::functions::Constant;
use crate::claims::{Claims, Members, Value};
use crate::clock::Timestamp;

/// What the names in a condition mean during one evaluation.
pub(super) struct Variables<'c> {
    claims: Object<'c>,
    now: CelTimestamp,
    constants: &'c [Constant],
}

impl<'c> Variables<'c> {
    /// `None` when `now` is outside the years chrono can express.
    pub(super) fn new(claims: &'c Claims, now: Timestamp, constants: &'c [Constant]) -> Option<Self> {
        let now = chrono::DateTime::from_timestamp_micros(now.micros())?.fixed_offset();
        Some(Self { claims: Object::new(claims.members()), now: CelTimestamp::from(now), constants })
    }
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "claims" => Some(CowVal::Borrowed(&self.claims)),
            "now" => Some(CowVal::Borrowed(&self.now)),
            _ => {
                let index: usize = variable.strip_prefix('@')?.parse().ok()?;
                self.constants.get(index).map(Constant::value)
            }
        }
    }
}

/// A JSON object as a CEL map that converts members when they are read. Arrays and inner objects are converted once
/// per evaluation, so that a loop does not convert them at each turn.
pub(super) struct Object<'c> {
    members: &'c Members<'c>,
    /// As many places as members, each the head of a list: found by where the member lies in memory.
    converted: OnceLock<Box<[Place<'c>]>>,
    keys: OnceLock<Vec<CelString<'c>>>,
}

type Place<'c> = OnceLock<Box<Slot<'c>>>;

/// One converted member, and the next of the same place: a list that only grows, so that what it lends stays where it is.
struct Slot<'c> {
    of: &'c Value<'c>,
    value: Converted<'c>,
    next: Place<'c>,
}

enum Converted<'c> {
    Object(Object<'c>),
    List(CelList<'c>),
}

impl<'c> Object<'c> {
    fn new(members: &'c Members<'c>) -> Self {
        Self { members, converted: OnceLock::new(), keys: OnceLock::new() }
    }

    fn converted(&self, value: &'c Value<'c>) -> Option<&Converted<'c>> {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return None;
        }
        let places = self.converted.get_or_init(|| self.members.iter().map(|_| Place::new()).collect());
        // Members lie in a row, so this spreads them evenly.
        let index = std::ptr::from_ref(value).addr() / size_of::<Value<'_>>() % places.len();
        let mut place = places.get(index)?;
        loop {
            match place.get() {
                Some(slot) if std::ptr::eq(slot.of, value) => return Some(&slot.value),
                Some(slot) => place = &slot.next,
                None => {
                    let new = match value {
                        Value::Object(members) => Converted::Object(Object::new(members)),
                        Value::Array(items) => Converted::List(list(items)),
                        _ => return None,
                    };
                    place.get_or_init(|| Box::new(Slot { of: value, value: new, next: Place::new() }));
                }
            }
        }
    }
}

fn list<'c>(items: &'c [Value<'c>]) -> CelList<'c> {
    CelList::from(items.iter().map(boxed).collect::<Vec<_>>())
}

/// The value as CEL sees it. Integers are `int` when they fit: as `uint`, `claims.exp + 60` would be an error.
fn boxed<'c>(value: &'c Value<'c>) -> Box<dyn Val + 'c> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Box::new(CelInt::from(integer)),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Box::new(CelString::from(&**text)),
        Value::Array(items) => Box::new(list(items)),
        Value::Object(members) => Box::new(Object::new(members)),
    }
}

impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims")
    }
}

impl<'c> Val for Object<'c> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }
    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }
    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }
    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }
    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        // The static cost assumes this cap. Arrays are capped when the claims are parsed, objects are not.
        if self.members.len() > RANGE_MAX { None } else { Some(self) }
    }
    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }
    fn equals(&self, other: &dyn Val) -> bool {
        object_equals(self.members, other)
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(Object::new(self.members))
    }
}

impl Container for Object<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(value.downcast_ref::<CelString>().is_some_and(|name| self.members.contains_key(name.inner())))
    }
}

impl Sizer for Object<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.members.len()).unwrap_or(i64::MAX))
    }
}

impl<'c> Indexer for Object<'c> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let Some(name) = index.downcast_ref::<CelString>() else {
            return Err(ExecutionError::no_such_overload("_[_]", vec!["map".into(), index.get_type().name().into()]));
        };
        let members: &'c Members<'c> = self.members;
        let value = members.get(name.inner()).ok_or_else(|| ExecutionError::NoSuchKey(Arc::new(name.to_string())))?;
        Ok(match self.converted(value) {
            Some(Converted::Object(object)) => CowVal::Borrowed(object),
            Some(Converted::List(list)) => CowVal::Borrowed(list),
            None => CowVal::Owned(boxed(value)),
        })
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Iterable for Object<'_> {
    fn iter<'b, 'v>(&'b self) -> Box<dyn CelIterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        let keys = self.keys.get_or_init(|| self.members.keys().map(CelString::from).collect());
        Box::new(Keys(keys.iter()))
    }
}

struct Keys<'b, 'c>(std::slice::Iter<'b, CelString<'c>>);

impl<'b, 'c: 'v, 'v> CelIterator<'b, 'v> for Keys<'b, 'c> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next().map(|name| name as &'b (dyn Val + 'v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many lists an object has: a list that is converted at each reading makes loops quadratic.
    #[test]
    fn a_member_is_converted_once() {
        let text: Vec<String> = (0..300).map(|n| format!(r#""m{n}":[{n},{{"a":[{n}]}}]"#)).collect();
        let claims = Claims::parse(format!("{{{}}}", text.join(",")).as_bytes()).unwrap();
        let members = claims.members();
        let object = Object::new(members);
        let place = |name: &str| match object.get(&CelString::from(name)).unwrap() {
            CowVal::Borrowed(value) => std::ptr::from_ref(value).addr(),
            CowVal::Owned(_) => panic!("{name} was converted for this reading alone"),
        };
        let first: Vec<usize> = members.keys().map(place).collect();
        let again: Vec<usize> = members.keys().map(place).collect();
        assert_eq!(first, again);
        let distinct: std::collections::BTreeSet<usize> = first.into_iter().collect();
        assert_eq!(distinct.len(), members.len());
    }
}
