//! Equality and membership, as the language has them, of values whose types are not known when a condition is saved.
//!
//! The evaluator's own would do but for two things: a number that it compares with a list is written into an error first,
//! together with a copy of the list, and a map literal on the left never equals an object of the claims.

use cel::ExecutionError;
use cel::common::ast::operators;
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelOptional, CelString, Kind};
use cel::common::value::Val;

use crate::claims::{Members, Value};

/// Whether two values are equal. Values of different types are not, but for numbers.
pub(super) fn equal(a: &dyn Val, b: &dyn Val) -> bool {
    match (a.get_type().kind(), b.get_type().kind()) {
        (Kind::Int | Kind::UInt | Kind::Double, Kind::Int | Kind::UInt | Kind::Double) => a.equals(b),
        (Kind::List, Kind::List) => match (a.downcast_ref::<CelList>(), b.downcast_ref::<CelList>()) {
            (Some(a), Some(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| equal(a.as_ref(), b.as_ref()))
            }
            _ => false,
        },
        (Kind::Map, Kind::Map) => match a.downcast_ref::<CelMap>() {
            Some(literal) => {
                size(b) == Some(literal.len())
                    && literal.iter().all(|(key, value)| {
                        let other = b.as_indexer().and_then(|b| b.get(key.inner()).ok());
                        other.is_some_and(|other| equal(value.as_ref(), other.as_ref()))
                    })
            }
            None => a.equals(b),
        },
        (Kind::Opaque, Kind::Opaque) => match (a.downcast_ref::<CelOptional>(), b.downcast_ref::<CelOptional>()) {
            (Some(a), Some(b)) => match (a.option(), b.option()) {
                (Some(a), Some(b)) => equal(a, b),
                (a, b) => a.is_none() && b.is_none(),
            },
            _ => false,
        },
        (a_kind, b_kind) => a_kind == b_kind && a.equals(b),
    }
}

/// Whether an object of the claims equals a value.
pub(super) fn object_equals(members: &Members<'_>, other: &dyn Val) -> bool {
    let (Kind::Map, Some(indexer)) = (other.get_type().kind(), other.as_indexer()) else { return false };
    size(other) == Some(members.len())
        && members.iter().all(|(name, value)| {
            indexer.get(&CelString::from(name)).is_ok_and(|other| json_equals(value, other.as_ref()))
        })
}

/// Whether a value of the claims equals another, read in place.
fn json_equals(value: &Value<'_>, other: &dyn Val) -> bool {
    match value {
        Value::Null => other.get_type().kind() == Kind::NullType,
        Value::Bool(value) => equal(&CelBool::from(*value), other),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => equal(&CelInt::from(integer), other),
            None => equal(&CelDouble::from(number.as_f64().unwrap_or(f64::NAN)), other),
        },
        Value::String(text) => equal(&CelString::from(&**text), other),
        Value::Array(items) => other.downcast_ref::<CelList>().is_some_and(|other| {
            items.len() == other.len() && items.iter().zip(other.iter()).all(|(a, b)| json_equals(a, b.as_ref()))
        }),
        Value::Object(members) => object_equals(members, other),
    }
}

/// Whether `container` has `value` as an element, or as a member's name.
pub(super) fn contains(container: &dyn Val, value: &dyn Val) -> Result<bool, ExecutionError> {
    if let Some(list) = container.downcast_ref::<CelList>() {
        return Ok(list.iter().any(|item| equal(item.as_ref(), value)));
    }
    match container.as_container() {
        Some(map) if is_scalar(value) => map.contains(value),
        _ => {
            let types = [value, container].map(|value| value.get_type().name().to_owned());
            Err(ExecutionError::no_such_overload(operators::IN, types.to_vec()))
        }
    }
}

/// Whether the value certainly has no elements.
pub(super) fn is_scalar(value: &dyn Val) -> bool {
    matches!(
        value.get_type().kind(),
        Kind::Boolean
            | Kind::Int
            | Kind::UInt
            | Kind::Double
            | Kind::String
            | Kind::NullType
            | Kind::Timestamp
            | Kind::Duration
            | Kind::Type
    )
}

fn size(value: &dyn Val) -> Option<usize> {
    usize::try_from(value.as_sizer()?.size().into_inner()).ok()
}
