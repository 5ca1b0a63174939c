//! Resource names (MRNs): `//<service>.<mrn-domain>/<collection>/<id>[/…]`, opaque to callers, echoed byte for byte.

use std::sync::Arc;

use uuid::Uuid;

use crate::id::{ApiTokenId, CredentialId, OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use crate::role::{BuiltInRole, RoleName, RoleRef};
use crate::scope::Scope;

/// Everything that has a name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Resource {
    /// The platform, an organization or a space.
    Scope(Scope),
    /// A service account of a scope.
    ServiceAccount(Scope, ServiceAccountId),
    /// One credential of a service account.
    Credential(Scope, ServiceAccountId, CredentialId),
    /// A role, built in or an organization's own.
    Role(RoleRef),
    /// A binding: the trust of the same id, seen as a binding.
    Binding(Scope, TrustId),
    /// A provider of a scope.
    Provider(Scope, ProviderId),
    /// A trust of a scope.
    Trust(Scope, TrustId),
    /// An API token of a scope.
    ApiToken(Scope, ApiTokenId),
}

/// Writes and reads MRNs under one domain (`SALLYPORT_MRN_DOMAIN`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MrnDomain(Arc<str>);

impl MrnDomain {
    /// `None` unless `domain` is a host name of lower-case letters, digits, `-` and `.`.
    pub fn new(domain: &str) -> Option<Self> {
        let labels_fit = domain.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
        (domain.len() <= 200 && labels_fit).then(|| Self(domain.into()))
    }

    /// The domain itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of `resource`.
    pub fn format(&self, resource: &Resource) -> String {
        let of = |service, scope| Name::of(service, &self.0).scope(scope);
        let Name(name) = match resource {
            Resource::Scope(Scope::Platform) => Name::of("platform", &self.0),
            Resource::Scope(scope) => of("captain", scope),
            Resource::ServiceAccount(scope, id) => of("agents", scope).id("serviceaccounts", id.0),
            Resource::Credential(scope, account, id) => {
                of("agents", scope).id("serviceaccounts", account.0).id("credentials", id.0)
            }
            Resource::Role(RoleRef::BuiltIn(role)) => Name::of("iam", &self.0).part("roles", role.name()),
            Resource::Role(RoleRef::Organization(organization, name)) => {
                Name::of("iam", &self.0).part("organizations", organization.as_str()).part("roles", name.as_str())
            }
            Resource::Binding(scope, id) => of("iam", scope).id("wifbindings", id.0),
            Resource::Provider(scope, id) => of("iam", scope).id("wifproviders", id.0),
            Resource::Trust(scope, id) => of("iam", scope).id("wiftrusts", id.0),
            Resource::ApiToken(scope, id) => of("iam", scope).id("apitokens", id.0),
        };
        name
    }

    /// The name of a scope.
    pub fn scope(&self, scope: &Scope) -> String {
        self.format(&Resource::Scope(scope.clone()))
    }

    /// The name of a role.
    pub fn role(&self, role: &RoleRef) -> String {
        self.format(&Resource::Role(role.clone()))
    }

    /// Reads a name; only the exact text that [`Self::format`] writes is accepted.
    pub fn parse(&self, mrn: &str) -> Option<Resource> {
        let rest = mrn.strip_prefix("//")?;
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) => (host, Some(path)),
            None => (rest, None),
        };
        let service = host.strip_suffix(&*self.0)?.strip_suffix('.')?;
        let segments: Vec<&str> = path.map(|p| p.split('/').collect()).unwrap_or_default();
        match service {
            "platform" => path.is_none().then_some(Resource::Scope(Scope::Platform)),
            "captain" => scope_of(&segments).map(Resource::Scope),
            "agents" => {
                let (scope, rest) = split_scope(&segments)?;
                match rest {
                    ["serviceaccounts", id] => Some(Resource::ServiceAccount(scope, ServiceAccountId::parse(id)?)),
                    ["serviceaccounts", account, "credentials", id] => {
                        Some(Resource::Credential(scope, ServiceAccountId::parse(account)?, CredentialId::parse(id)?))
                    }
                    _ => None,
                }
            }
            "iam" => {
                let (scope, rest) = split_scope(&segments)?;
                match (scope, rest) {
                    (Scope::Platform, ["roles", name]) => {
                        BuiltInRole::from_name(name).map(|role| Resource::Role(RoleRef::BuiltIn(role)))
                    }
                    (Scope::Organization(organization), ["roles", name]) => {
                        Some(Resource::Role(RoleRef::Organization(organization, RoleName::parse(name)?)))
                    }
                    (scope, ["wifbindings", id]) => Some(Resource::Binding(scope, TrustId::parse(id)?)),
                    (scope, ["wifproviders", id]) => Some(Resource::Provider(scope, ProviderId::parse(id)?)),
                    (scope, ["wiftrusts", id]) => Some(Resource::Trust(scope, TrustId::parse(id)?)),
                    (scope, ["apitokens", id]) => Some(Resource::ApiToken(scope, ApiTokenId::parse(id)?)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Reads the name of a scope.
    pub fn parse_scope(&self, mrn: &str) -> Option<Scope> {
        match self.parse(mrn)? {
            Resource::Scope(scope) => Some(scope),
            _ => None,
        }
    }

    /// Reads the name of a role.
    pub fn parse_role(&self, mrn: &str) -> Option<RoleRef> {
        match self.parse(mrn)? {
            Resource::Role(role) => Some(role),
            _ => None,
        }
    }
}

/// A name that is put together. Every exchange writes several, so that this does without the machinery of `format!`.
struct Name(String);

impl Name {
    fn of(service: &str, domain: &str) -> Self {
        let mut name = String::with_capacity(domain.len() + 160);
        for part in ["//", service, ".", domain] {
            name.push_str(part);
        }
        Self(name)
    }

    fn part(mut self, collection: &str, id: &str) -> Self {
        for part in ["/", collection, "/", id] {
            self.0.push_str(part);
        }
        self
    }

    fn id(self, collection: &str, id: Uuid) -> Self {
        self.part(collection, id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }

    /// Nothing for the platform.
    fn scope(self, scope: &Scope) -> Self {
        match scope {
            Scope::Platform => self,
            Scope::Organization(id) => self.part("organizations", id.as_str()),
            Scope::Space(id) => self.part("spaces", id.as_str()),
        }
    }
}

fn scope_of(segments: &[&str]) -> Option<Scope> {
    match segments {
        ["organizations", id] => OrganizationId::parse(id).map(Scope::Organization),
        ["spaces", id] => SpaceId::parse(id).map(Scope::Space),
        _ => None,
    }
}

fn split_scope<'s, 't>(segments: &'s [&'t str]) -> Option<(Scope, &'s [&'t str])> {
    match segments {
        ["organizations" | "spaces", _, rest @ ..] => Some((scope_of(&segments[..2])?, rest)),
        rest => Some((Scope::Platform, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain() -> MrnDomain {
        MrnDomain::new("api.mondoo.app").unwrap()
    }

    #[test]
    fn formats_as_the_clients_know_them_and_reads_back() {
        let space = Scope::Space(SpaceId::parse("hungry-poet-123456").unwrap());
        let id = Uuid::from_u128(7);
        for (resource, text) in [
            (Resource::Scope(Scope::Platform), "//platform.api.mondoo.app".to_owned()),
            (Resource::Scope(space.clone()), "//captain.api.mondoo.app/spaces/hungry-poet-123456".into()),
            (
                Resource::ServiceAccount(Scope::Platform, ServiceAccountId(id)),
                format!("//agents.api.mondoo.app/serviceaccounts/{id}"),
            ),
            (
                Resource::Credential(space.clone(), ServiceAccountId(id), CredentialId(id)),
                format!("//agents.api.mondoo.app/spaces/hungry-poet-123456/serviceaccounts/{id}/credentials/{id}"),
            ),
            (Resource::Role(RoleRef::BuiltIn(BuiltInRole::Agent)), "//iam.api.mondoo.app/roles/agent".into()),
            (
                Resource::Binding(space, TrustId(id)),
                format!("//iam.api.mondoo.app/spaces/hungry-poet-123456/wifbindings/{id}"),
            ),
        ] {
            assert_eq!(domain().format(&resource), text);
            assert_eq!(domain().parse(&text), Some(resource));
        }
    }

    #[test]
    fn refuses_near_misses() {
        for bad in [
            "",
            "/",
            "//",
            "platform.api.mondoo.app",
            "//platform.api.mondoo.app/",
            "//platform.api.mondoo.appx",
            "//xplatform.api.mondoo.app",
            "//captain.api.mondoo.app/spaces/abc",
            "//captain.api.mondoo.app/spaces/abcd/",
            "//captain.api.mondoo.app/spaces/a%20bc",
            "//captain.evil.app/spaces/abcd",
            "//iam.api.mondoo.app/roles/root",
            "//agents.api.mondoo.app/spaces/abcd/serviceaccounts/00000000-0000-0000-0000-00000000000A",
        ] {
            assert_eq!(domain().parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_written_back_to_the_letter(text in "//(agents|iam|captain|platform)\\.api\\.mondoo\\.app(/[a-z]{4,15}/[a-zA-Z0-9._-]{1,40}){0,3}") {
            if let Some(resource) = domain().parse(&text) {
                prop_assert_eq!(domain().format(&resource), text);
            }
        }
    }
}
