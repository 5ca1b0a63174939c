//! Permissions and the roles that bundle them. The table here is the one source; a golden test shows it whole.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::OrganizationId;
use crate::validate::FieldError;

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// One thing a principal may do at a scope.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Permission { $($(#[$doc])* $name),* }

        impl Permission {
            /// Every permission, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in GraphQL, custom roles and audit records.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Reads [`Self::name`] back.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

permissions! {
    /// Act as oneself: report, ping.
    AgentReport = "agent.report",
    /// See organizations and spaces.
    ScopesRead = "scopes.read",
    /// Create organizations (at the platform).
    OrganizationsCreate = "organizations.create",
    /// Rename, disable and delete organizations.
    OrganizationsManage = "organizations.manage",
    /// Create spaces in an organization.
    SpacesCreate = "spaces.create",
    /// Rename, disable and delete spaces.
    SpacesManage = "spaces.manage",
    /// See service accounts.
    ServiceAccountsRead = "serviceaccounts.read",
    /// Create, change, disable and delete service accounts.
    ServiceAccountsManage = "serviceaccounts.manage",
    /// See API tokens (never their secret).
    ApiTokensRead = "apitokens.read",
    /// Generate and delete API tokens.
    ApiTokensManage = "apitokens.manage",
    /// See roles.
    RolesRead = "roles.read",
    /// Define an organization's own roles.
    RolesManage = "roles.manage",
    /// See bindings.
    BindingsRead = "wifbindings.read",
    /// Create and remove bindings.
    BindingsManage = "wifbindings.manage",
    /// See providers.
    ProvidersRead = "wifproviders.read",
    /// Create, change and remove providers.
    ProvidersManage = "wifproviders.manage",
    /// See trusts.
    TrustsRead = "wiftrusts.read",
    /// Create, change and remove trusts.
    TrustsManage = "wiftrusts.manage",
    /// See exchanges, and why they were granted or refused.
    ExchangesRead = "exchanges.read",
    /// Try an exchange without issuing anything.
    ExchangesSimulate = "exchanges.simulate",
    /// Manage bindings, providers and trusts while being a federated workload oneself.
    FederationByWorkload = "federation.byworkload",
    /// See what became of a credential (introspection).
    CredentialsRead = "credentials.read",
    /// Revoke credentials.
    CredentialsRevoke = "credentials.revoke",
    /// Get an OIDC ID token for a third party's audience.
    IdTokensIssue = "idtokens.issue",
    /// Read the record of management changes.
    AuditRead = "audit.read",
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PermissionSet(u64);

impl PermissionSet {
    /// No permission.
    pub const EMPTY: Self = Self(0);

    /// Every permission.
    pub fn all() -> Self {
        Permission::ALL.iter().copied().collect()
    }

    /// Whether `permission` is in the set.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// Whether every permission of `other` is in this set.
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The permissions, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |p| self.contains(*p))
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, p| bits | 1 << p as u8))
    }
}

impl fmt::Debug for PermissionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Permission::name)).finish()
    }
}

/// The roles every installation has. Their names are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BuiltInRole {
    /// Act as itself and report.
    Agent,
    /// Read.
    Viewer,
    /// Agent and viewer, and create and remove bindings, trusts and providers with roles up to editor.
    Editor,
    /// Everything.
    Owner,
}

impl BuiltInRole {
    /// All, from least to most.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Viewer, Self::Editor, Self::Owner];

    /// The name, as in the role's MRN.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Owner => "owner",
        }
    }

    /// Reads [`Self::name`] back.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// What the role may do: the table.
    pub fn permissions(self) -> PermissionSet {
        use Permission as P;
        match self {
            Self::Agent => [P::AgentReport].into_iter().collect(),
            Self::Viewer => [
                P::ScopesRead,
                P::ServiceAccountsRead,
                P::ApiTokensRead,
                P::RolesRead,
                P::BindingsRead,
                P::ProvidersRead,
                P::TrustsRead,
                P::ExchangesRead,
                P::ExchangesSimulate,
                P::CredentialsRead,
            ]
            .into_iter()
            .collect(),
            Self::Editor => Self::Agent
                .permissions()
                .union(Self::Viewer.permissions())
                .union([P::BindingsManage, P::ProvidersManage, P::TrustsManage].into_iter().collect()),
            Self::Owner => PermissionSet::all(),
        }
    }
}

/// The name of an organization's own role: 2 to 64 of lower-case letters, digits, `-` and `_`, starting with a letter,
/// and not that of a built-in role.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoleName(Arc<str>);

impl RoleName {
    /// Reads a role name.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (2..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
            && BuiltInRole::from_name(text).is_none();
        fits.then(|| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which role is meant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RoleRef {
    /// One that every installation has.
    BuiltIn(BuiltInRole),
    /// One that an organization defined; usable in it and its spaces.
    Organization(OrganizationId, RoleName),
}

impl RoleRef {
    /// The last part of the MRN, which access tokens carry in `scope`.
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(role) => role.name(),
            Self::Organization(_, name) => name.as_str(),
        }
    }
}

/// The names of roles as an OAuth scope (RFC 6749 section 3.3): separated by spaces.
pub fn scope_text(roles: &[RoleRef]) -> String {
    let mut text = String::new();
    for role in roles {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(role.name());
    }
    text
}

/// An organization's own role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// The organization that defined it.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: RoleName,
    /// A label for people.
    pub title: String,
    /// What it may do.
    pub permissions: PermissionSet,
    /// When it was created.
    pub created_at: Timestamp,
    /// MRN of the principal who created it.
    pub created_by: String,
}

/// Reads permission names, naming the entry that is unknown.
///
/// # Errors
/// Names `field[index]` and the nearest permission there is.
pub fn parse_permissions(field: &str, names: &[String]) -> Result<PermissionSet, FieldError> {
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            Permission::from_name(name).ok_or_else(|| {
                let nearest =
                    Permission::ALL.iter().map(|p| p.name()).min_by_key(|known| strsim::levenshtein(known, name));
                let hint = nearest.map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
                FieldError::new(format!("{field}[{index}]"), format!("there is no such permission{hint}"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden table role × permission.
    #[test]
    fn roles_and_permissions() {
        let mut table = format!("{:<26}", "permission");
        for role in BuiltInRole::ALL {
            table += &format!("{:<8}", role.name());
        }
        for permission in Permission::ALL {
            table += &format!("\n{:<26}", permission.name());
            for role in BuiltInRole::ALL {
                table += &format!("{:<8}", if role.permissions().contains(*permission) { "yes" } else { "-" });
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn names_round_trip_and_fit_the_set() {
        assert!(Permission::ALL.len() <= 64);
        for permission in Permission::ALL {
            assert_eq!(Permission::from_name(permission.name()), Some(*permission));
        }
        assert!(RoleName::parse("owner").is_none());
        assert!(RoleName::parse("Deployer").is_none());
        assert!(RoleName::parse("deployer").is_some());
    }
}
