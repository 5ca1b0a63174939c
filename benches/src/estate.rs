//! What the server has been configured with: spaces with bindings, as the management API would have made them, but
//! written through the store directly, thousands in one mutation.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sallyport_domain::clock::{Clock as _, SystemClock, Timestamp};
use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
use sallyport_domain::id::{OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::mapping::Mapping;
use sallyport_domain::mrn::MrnDomain;
use sallyport_domain::principal::ServiceAccount;
use sallyport_domain::provider::{KeySource, Provider, ProviderKind, ReplayPolicy};
use sallyport_domain::role::{BuiltInRole, RoleRef};
use sallyport_domain::scope::{Organization, Scope, Space};
use sallyport_domain::trust::{BINDING_LIFETIME, Trust};
use sallyport_store::{Configuration, Store, StoreOptions, Write, binding_fingerprint};

/// Bindings written in one mutation.
const AT_ONCE: usize = 5_000;
/// Where server and clients think the server is.
pub const TENANT: &str = "sallyport.example";

/// How many bindings, in which spaces, under which rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Estate {
    /// Bindings of each space. Each space has a provider of its own for the one issuer.
    pub spaces: Vec<usize>,
    /// How often one token may be exchanged.
    pub replay: ReplayPolicy,
}

/// One binding, and what a token for it must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `org/repo`, the binding's claim mapping.
    pub repository: String,
    /// The subject.
    pub subject: String,
    /// MRN of the space.
    pub scope_mrn: String,
    /// The trust's client ID.
    pub client_id: String,
}

/// The branch that all jobs run on.
pub const BRANCH: &str = "refs/heads/main";

impl Estate {
    /// `spaces` spaces with `bindings` bindings each; tokens may be used again.
    pub fn even(spaces: usize, bindings: usize) -> Self {
        Self { spaces: vec![bindings; spaces], replay: ReplayPolicy::Allow }
    }

    /// How many bindings there are.
    pub fn bindings(&self) -> usize {
        self.spaces.iter().sum()
    }

    /// The binding of this number, counted from 0 over all spaces.
    pub fn target(&self, number: usize) -> Target {
        let mut rest = number;
        let mut space = 0;
        while let Some(bindings) = self.spaces.get(space).filter(|bindings| rest >= **bindings) {
            rest -= bindings;
            space += 1;
        }
        let repository = format!("acme/repo-{number}");
        Target {
            subject: format!("repo:{repository}:ref:{BRANCH}"),
            scope_mrn: format!("//captain.{}/spaces/{}", mrns().as_str(), space_name(space)),
            client_id: format!("{}@{TENANT}/wfe", client_name(number)),
            repository,
        }
    }

    /// Writes all of it into an installation whose server has been started once and is stopped now.
    ///
    /// # Errors
    /// The database.
    pub async fn fill(&self, database_url: &str, issuer: &str) -> Result<()> {
        let options = StoreOptions { url: database_url.to_owned(), max_connections: 4 };
        let store = Store::connect(&options).await.context("opening the database to fill it")?;
        let configuration = Configuration::start(store.clone()).await?;
        let mut builder = Builder::new(issuer, self.replay);
        let mut writes = builder.spaces(self.spaces.len());
        let (mut number, mut filled) = (0, 0);
        for (space, bindings) in self.spaces.iter().enumerate() {
            for _ in 0..*bindings {
                builder.binding(space, number, &mut writes);
                number += 1;
                filled += 1;
                if filled == AT_ONCE {
                    put(&configuration, std::mem::take(&mut writes)).await?;
                    filled = 0;
                }
            }
        }
        put(&configuration, writes).await?;
        configuration.close();
        store.close().await;
        Ok(())
    }
}

async fn put(configuration: &Arc<Configuration>, writes: Vec<Write>) -> Result<()> {
    configuration
        .mutate(|_| Ok::<_, Infallible>((writes.clone(), ())))
        .await
        .map_err(|error| anyhow::anyhow!("the database was not filled: {error:?}"))?;
    Ok(())
}

/// The domain of all MRNs here: the default one.
#[expect(clippy::expect_used, reason = "a constant")]
pub fn mrns() -> MrnDomain {
    MrnDomain::new("api.mondoo.app").expect("a host name")
}

fn space_name(space: usize) -> String {
    format!("bench-space-{space}")
}

fn client_name(number: usize) -> String {
    format!("bench-otter-{number}")
}

/// Makes the values.
#[derive(Debug)]
pub struct Builder {
    issuer: IssuerUri,
    replay: ReplayPolicy,
    providers: Vec<ProviderId>,
    organization: OrganizationId,
    now: Timestamp,
}

impl Builder {
    /// For this issuer.
    #[expect(clippy::expect_used, reason = "a constant")]
    pub fn new(issuer: &str, replay: ReplayPolicy) -> Self {
        Self {
            issuer: IssuerUri::stored(issuer),
            replay,
            providers: Vec::new(),
            organization: OrganizationId::parse("bench-organization").expect("an id"),
            now: SystemClock.now(),
        }
    }

    /// The scope of a space.
    #[expect(clippy::expect_used, reason = "letters, a hyphen and a number")]
    pub fn scope(space: usize) -> Scope {
        Scope::Space(SpaceId::parse(&space_name(space)).expect("an id"))
    }

    /// One organization with this many spaces, each with its provider.
    pub fn spaces(&mut self, count: usize) -> Vec<Write> {
        let mut writes = vec![Write::PutOrganization(Organization {
            id: self.organization.clone(),
            name: "Benchmark".to_owned(),
            disabled: false,
            created_at: self.now,
            created_by: String::new(),
        })];
        for number in 0..count {
            let scope = Self::scope(number);
            if let Scope::Space(id) = &scope {
                writes.push(Write::PutSpace(Space {
                    id: id.clone(),
                    organization: self.organization.clone(),
                    name: format!("Space {number}"),
                    description: None,
                    disabled: false,
                    created_at: self.now,
                    created_by: String::new(),
                }));
            }
            let provider = self.provider(scope);
            self.providers.push(provider.id);
            writes.push(Write::PutProvider(provider));
        }
        writes
    }

    /// A provider as a binding makes it.
    pub fn provider(&self, scope: Scope) -> Provider {
        Provider {
            id: ProviderId(uuid_v7(self.now, &SystemEntropy)),
            scope,
            name: "CI".to_owned(),
            description: None,
            kind: ProviderKind::CustomOidc,
            issuer: self.issuer.clone(),
            keys: KeySource::Discovery,
            algorithms: Vec::new(),
            max_token_age: None,
            max_token_lifetime: None,
            replay: self.replay,
            require_audience_header: false,
            disabled: false,
            implicit: true,
            version: 1,
            credentials_not_before: None,
            warnings: Vec::new(),
            created_at: self.now,
            created_by: String::new(),
        }
    }

    /// A binding's trust and the account it owns.
    pub fn trust(&self, scope: Scope, provider: ProviderId, number: usize) -> (ServiceAccount, Trust) {
        let id = TrustId(uuid_v7(self.now, &SystemEntropy));
        let repository = format!("acme/repo-{number}");
        let name = format!("main branch of {repository}");
        let account = ServiceAccount {
            id: ServiceAccountId(uuid_v7(self.now, &SystemEntropy)),
            scope: scope.clone(),
            name: name.as_str().into(),
            description: None,
            roles: [RoleRef::BuiltIn(BuiltInRole::Agent)].into(),
            disabled: false,
            owner: Some(id),
            standing_key: None,
            valid_until: None,
            credentials_not_before: None,
            created_at: self.now,
            created_by: Arc::default(),
        };
        let trust = Trust {
            id,
            client_name: client_name(number).into(),
            scope,
            provider,
            issuer: self.issuer.as_str().into(),
            service_account: account.id,
            binding: true,
            name: name.into(),
            description: None,
            subject: Some(format!("repo:{repository}:ref:{BRANCH}").into()),
            mappings: [Mapping { key: "jwt_claims.repository".into(), value: Some(repository.into()) }].into(),
            allowed_audiences: Box::default(),
            condition: None,
            source_cidrs: Box::default(),
            scoped_roles: Arc::default(),
            passthrough_claims: Box::default(),
            lifetime: BINDING_LIFETIME,
            ends_with_subject_token: false,
            disabled: false,
            credentials_not_before: None,
            warnings: Arc::default(),
            created_at: self.now,
            created_by: Arc::default(),
        };
        (account, trust)
    }

    fn binding(&self, space: usize, number: usize, writes: &mut Vec<Write>) {
        let Some(provider) = self.providers.get(space) else { return };
        let (account, trust) = self.trust(Self::scope(space), *provider, number);
        let binding_fingerprint = Some(binding_fingerprint(&trust, self.issuer.key()));
        writes.push(Write::PutServiceAccount(account));
        writes.push(Write::PutTrust { trust, binding_fingerprint });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_counted_over_all_spaces() {
        let estate = Estate { spaces: vec![2, 1, 3], replay: ReplayPolicy::Allow };
        let spaces: Vec<_> =
            (0..estate.bindings()).map(|n| estate.target(n).scope_mrn.rsplit('-').next().unwrap().to_owned()).collect();
        assert_eq!(spaces, ["0", "0", "1", "2", "2", "2"]);
        assert_eq!(estate.target(3).client_id, "bench-otter-3@sallyport.example/wfe");
    }
}
