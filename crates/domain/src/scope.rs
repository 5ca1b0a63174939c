//! The tree *platform → organization → space*. Everything an admin makes belongs to one node of it,
//! and a grant at a node reaches everything below.

use std::fmt;

use crate::clock::Timestamp;
use crate::id::{OrganizationId, SpaceId};

/// A node of the tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// The root: the whole installation.
    Platform,
    /// One organization and its spaces.
    Organization(OrganizationId),
    /// One space. Which organization it belongs to is data, not part of its name.
    Space(SpaceId),
}

impl Scope {
    /// The stored form: `platform`, `organizations/<id>` or `spaces/<id>`.
    pub fn key(&self) -> String {
        match self {
            Self::Platform => "platform".to_owned(),
            Self::Organization(id) => ["organizations/", id.as_str()].concat(),
            Self::Space(id) => ["spaces/", id.as_str()].concat(),
        }
    }

    /// Reads [`Self::key`] back.
    pub fn parse_key(key: &str) -> Option<Self> {
        match key.split_once('/') {
            None if key == "platform" => Some(Self::Platform),
            Some(("organizations", id)) => OrganizationId::parse(id).map(Self::Organization),
            Some(("spaces", id)) => SpaceId::parse(id).map(Self::Space),
            _ => None,
        }
    }

    /// `platform`, `organization` or `space`: for tables, logs and messages.
    pub const fn level(&self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Organization(_) => "organization",
            Self::Space(_) => "space",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

/// An organization.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// A label, not unique.
    pub name: String,
    /// Disabled organizations grant nothing, themselves and below.
    pub disabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it.
    pub created_by: String,
}

/// A space of an organization.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Space {
    /// Its id.
    pub id: SpaceId,
    /// The organization it belongs to.
    pub organization: OrganizationId,
    /// A label, not unique.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Disabled spaces grant nothing.
    pub disabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it.
    pub created_by: String,
}

/// What scopes there are and how they hang together. Answered by a [`crate::snapshot::Snapshot`].
pub trait ScopeTree {
    /// The organization of a space; `None` when there is no such space.
    fn organization_of(&self, space: &SpaceId) -> Option<OrganizationId>;

    /// Whether `scope` is `ancestor` itself or lies below it. Unknown scopes lie below nothing but the platform.
    fn reaches(&self, ancestor: &Scope, scope: &Scope) -> bool {
        match (ancestor, scope) {
            (Scope::Platform, _) => true,
            (Scope::Organization(a), Scope::Organization(b)) => a == b,
            (Scope::Organization(a), Scope::Space(space)) => self.organization_of(space).as_ref() == Some(a),
            (Scope::Space(a), Scope::Space(b)) => a == b,
            (Scope::Organization(_) | Scope::Space(_), _) => false,
        }
    }
}
