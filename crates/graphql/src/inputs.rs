//! Input and output types that several nouns share.

use async_graphql::{Enum, InputObject, SimpleObject};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::mapping::Mapping;
use sallyport_domain::mrn::MrnDomain;
use sallyport_domain::role::RoleRef;
use sallyport_domain::validate::{DESCRIPTION_MAX, NAME_MAX, required_text, text_within};

use crate::error::{Error, Result};

/// A key and its value.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct KeyValueInput {
    /// The key: `jwt_claims.<name>` or `aws_claims.<name>`.
    pub(crate) key: String,
    /// What the claim must be.
    pub(crate) value: Option<String>,
}

/// A key and its value.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct KeyValue {
    /// The key.
    key: String,
    /// The value.
    value: Option<String>,
}

/// A role, by name.
#[derive(InputObject, Clone, Debug)]
pub(crate) struct RoleInput {
    /// The role's MRN.
    pub(crate) mrn: String,
}

/// Ascending or descending.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OrderDirection {
    /// Smallest, first or oldest on top.
    Asc,
    /// Largest, last or newest on top.
    Desc,
}

/// Reads mappings; a list left out is empty.
pub(crate) fn mappings(given: Option<Vec<KeyValueInput>>) -> Vec<Mapping> {
    given
        .unwrap_or_default()
        .into_iter()
        .map(|pair| Mapping { key: pair.key.into(), value: pair.value.map(Into::into) })
        .collect()
}

/// Shows mappings, in the admin's order.
pub(crate) fn key_values(mappings: &[Mapping]) -> Vec<KeyValue> {
    mappings.iter().map(|m| KeyValue { key: m.key.to_string(), value: m.value.as_deref().map(Into::into) }).collect()
}

/// The MRNs of `RoleInput`s; a list left out is empty.
pub(crate) fn role_mrns(given: Option<Vec<RoleInput>>) -> Vec<String> {
    given.unwrap_or_default().into_iter().map(|role| role.mrn).collect()
}

/// The MRNs of roles.
pub(crate) fn shown_roles(mrns: &MrnDomain, roles: &[RoleRef]) -> Vec<String> {
    roles.iter().map(|role| mrns.role(role)).collect()
}

/// Checks a label and its description.
pub(crate) fn check_label(name: &str, description: Option<&str>) -> Result<()> {
    required_text("name", name, NAME_MAX)?;
    if let Some(description) = description {
        text_within("description", description, DESCRIPTION_MAX)?;
    }
    Ok(())
}

/// Reads an RFC 3339 time that lies in the future.
pub(crate) fn future(field: &str, text: &str, now: Timestamp) -> Result<Timestamp> {
    let time = Timestamp::parse_rfc3339(text)
        .ok_or_else(|| Error::invalid(field, "must be an RFC 3339 time such as 2027-01-31T00:00:00Z"))?;
    if time <= now {
        return Err(Error::invalid(field, format!("is {text}; must be in the future")));
    }
    Ok(time)
}

/// What an update leaves a value at: null and absent keep it.
pub(crate) fn kept<T>(given: Option<impl Into<T>>, current: T) -> T {
    given.map_or(current, Into::into)
}

/// As [`kept`], for text that may be taken away: the empty text does.
pub(crate) fn kept_text<T: From<String>>(given: Option<String>, current: Option<T>) -> Option<T> {
    match given {
        None => current,
        Some(text) if text.is_empty() => None,
        Some(text) => Some(text.into()),
    }
}

impl KeyValue {
    /// For the record of changes.
    pub(crate) fn recorded(&self) -> serde_json::Value {
        serde_json::json!({ "key": self.key, "value": self.value })
    }
}
