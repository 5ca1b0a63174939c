//! The tables as sea-orm sees them, and the way from each row to its noun of the domain and back.
#![expect(unreachable_pub, reason = "what sea-orm derives must be `pub`; the module itself is private")]

pub mod api_token;
pub mod audit_entry;
pub mod checks;
pub mod configuration_change;
pub mod configuration_revision;
pub mod exchange;
pub mod installation;
pub mod organization;
pub mod provider;
pub mod replay_use;
pub mod retired_id;
pub mod revoked_credential;
pub mod role;
pub mod service_account;
pub mod signing_key;
pub mod signing_key_set;
pub mod space;
pub mod subject_status;
pub mod trust;
pub mod trust_usage;

use std::fmt::Display;

use sallyport_domain::id::OrganizationId;
use sallyport_domain::role::{BuiltInRole, RoleName, RoleRef};
use sallyport_domain::scope::Scope;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::error::StoreError;

/// A list as JSON text. What is listed here always has a JSON form.
pub fn list_text<T: Serialize>(items: impl IntoIterator<Item = T>) -> String {
    list_text_in(128, items)
}

/// The same, with room for so many bytes from the beginning.
pub fn list_text_in<T: Serialize>(room: usize, items: impl IntoIterator<Item = T>) -> String {
    let mut text = Vec::with_capacity(room);
    let written = serde_json::Serializer::new(&mut text).collect_seq(items).is_ok();
    String::from_utf8(text).ok().filter(|_| written).unwrap_or_else(|| "[]".into())
}

/// Roles as JSON text: `viewer`, or `organizations/<id>/roles/<name>`.
pub fn roles_text(roles: &[RoleRef]) -> String {
    list_text(roles.iter().map(|role| match role {
        RoleRef::BuiltIn(role) => role.name().to_owned(),
        RoleRef::Organization(organization, name) => format!("organizations/{organization}/roles/{name}"),
    }))
}

fn parse_role(text: &str) -> Option<RoleRef> {
    let Some(rest) = text.strip_prefix("organizations/") else {
        return BuiltInRole::from_name(text).map(RoleRef::BuiltIn);
    };
    let (organization, name) = rest.split_once("/roles/")?;
    Some(RoleRef::Organization(OrganizationId::parse(organization)?, RoleName::parse(name)?))
}

/// Reads the parts of a row of the named table, and says which part was wrong.
pub struct Row(pub &'static str);

impl Row {
    pub fn part<T>(&self, id: impl Display, what: &str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| StoreError::Corrupt { table: self.0, id: id.to_string(), what: what.to_owned() })
    }

    pub fn scope(&self, id: impl Display, key: &str) -> Result<Scope, StoreError> {
        self.part(id, "scope", Scope::parse_key(key))
    }

    pub fn list<T: DeserializeOwned>(&self, id: impl Display, what: &str, text: &str) -> Result<Vec<T>, StoreError> {
        self.part(id, what, serde_json::from_str(text).ok())
    }

    pub fn roles(&self, id: impl Display, what: &str, text: &str) -> Result<Vec<RoleRef>, StoreError> {
        let names: Vec<String> = self.list(&id, what, text)?;
        self.part(id, what, names.iter().map(|name| parse_role(name)).collect())
    }
}
