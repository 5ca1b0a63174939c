//! All configuration at one revision, in memory. Immutable: a change makes a new snapshot that shares all that did not change.

use std::sync::Arc;

use imbl::{GenericHashMap, GenericOrdSet};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{ApiTokenId, CredentialId, OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use crate::issuer::IssuerKey;
use crate::matching::{Candidate, EXPLAINED};
use crate::numbered::{Identified, Number, Numbered};
use crate::principal::{ApiToken, ServiceAccount};
use crate::provider::Provider;
use crate::role::{PermissionSet, Role, RoleName, RoleRef};
use crate::scope::{Organization, Scope, ScopeTree, Space};
use crate::subject_status::{SubjectStatus, recorded};
use crate::trust::CompiledTrust;
use crate::trust_index::TrustIndex;
use crate::validate::LIFETIME_MAX;

type Map<K, V> = GenericHashMap<K, V, std::hash::RandomState, imbl::shared_ptr::DefaultSharedPtr>;
type Ordered<V> = GenericOrdSet<V, imbl::shared_ptr::DefaultSharedPtr>;

/// How many ended revocations [`Snapshot::forget_ended`] drops at most: it runs between requests.
const FORGOTTEN_AT_ONCE: usize = 10_000;

impl Identified for ServiceAccount {
    fn id(&self) -> Uuid {
        self.id.0
    }
}

/// A trust, and the way to its service account.
#[derive(Clone, Debug)]
struct Placed {
    trust: Arc<CompiledTrust>,
    /// What number its service account had when the trust was put here, if it was there: another may have it by now.
    account: Option<Number>,
}

impl Identified for Placed {
    fn id(&self) -> Uuid {
        self.trust.trust().id.0
    }
}

/// One change of configuration: a thing as it now is, or gone.
#[derive(Clone, Debug)]
pub enum Change {
    /// An organization.
    Organization(OrganizationId, Option<Arc<Organization>>),
    /// A space.
    Space(SpaceId, Option<Arc<Space>>),
    /// An organization's own role.
    Role(OrganizationId, RoleName, Option<Arc<Role>>),
    /// A service account.
    ServiceAccount(ServiceAccountId, Option<Arc<ServiceAccount>>),
    /// An API token.
    ApiToken(ApiTokenId, Option<Arc<ApiToken>>),
    /// A provider.
    Provider(ProviderId, Option<Arc<Provider>>),
    /// A trust.
    Trust(TrustId, Option<Arc<CompiledTrust>>),
    /// The status of a subject. All of a provider's go with it.
    Subject(Arc<SubjectStatus>),
    /// A credential was revoked; remembered until it would have ended by itself, which is then.
    RevokedCredential(CredentialId, Timestamp),
}

/// All configuration at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: i64,
    organizations: Map<OrganizationId, Arc<Organization>>,
    spaces: Map<SpaceId, Arc<Space>>,
    roles: Map<(OrganizationId, RoleName), Arc<Role>>,
    accounts: Numbered<Arc<ServiceAccount>>,
    tokens: Map<ApiTokenId, Arc<ApiToken>>,
    tokens_by_hash: Map<[u8; 32], ApiTokenId>,
    providers: Map<ProviderId, Arc<Provider>>,
    trusts: Numbered<Placed>,
    trust_index: TrustIndex,
    subjects: Map<ProviderId, Map<Arc<str>, Arc<SubjectStatus>>>,
    revoked: Map<CredentialId, Timestamp>,
    /// The same, those that end first in front.
    revoked_by_end: Ordered<(Timestamp, CredentialId)>,
}

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Trusts, those of bindings among them.
    pub trusts: usize,
    /// Providers.
    pub providers: usize,
    /// Service accounts.
    pub service_accounts: usize,
    /// Single credentials that are revoked and have not been forgotten.
    pub revocations: usize,
}

impl Snapshot {
    /// How much there is.
    pub fn size(&self) -> Size {
        Size {
            trusts: self.trusts.len(),
            providers: self.providers.len(),
            service_accounts: self.accounts.len(),
            revocations: self.revoked.len(),
        }
    }

    /// The revision this is a picture of.
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// The snapshot after `changes`, at `revision`.
    #[must_use]
    pub fn with(&self, revision: i64, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = self.clone();
        next.revision = revision;
        for change in changes {
            next.apply(change);
        }
        next
    }

    /// The same revision without revocations of credentials that have ended by themselves before `now`, and without statuses
    /// of subjects that mean nothing any more; a bounded number of them at a time. `None` when there are none.
    #[must_use]
    pub fn forget_ended(&self, now: Timestamp) -> Option<Self> {
        let ended = |snapshot: &Self| snapshot.revoked_by_end.get_min().filter(|(until, _)| *until < now).copied();
        let long_ago = now.plus_seconds(-i64::from(LIFETIME_MAX));
        let idle = |status: &SubjectStatus| {
            !status.disabled && status.credentials_not_before.is_none_or(|not_before| not_before < long_ago)
        };
        let idle: Vec<(ProviderId, Arc<str>)> = self
            .subjects
            .iter()
            .flat_map(|(provider, of)| of.iter().map(move |(subject, status)| (provider, subject, status)))
            .filter(|(_, _, status)| idle(status))
            .take(FORGOTTEN_AT_ONCE)
            .map(|(provider, subject, _)| (*provider, Arc::clone(subject)))
            .collect();
        if ended(self).is_none() && idle.is_empty() {
            return None;
        }
        let mut next = self.clone();
        for (provider, subject) in idle {
            if let Some(of) = next.subjects.get_mut(&provider) {
                of.remove(&subject);
            }
        }
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some(entry) = ended(&next) else { break };
            next.revoked_by_end.remove(&entry);
            next.revoked.remove(&entry.1);
        }
        Some(next)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Organization(id, value) => put(&mut self.organizations, id, value),
            Change::Space(id, value) => put(&mut self.spaces, id, value),
            Change::Role(organization, name, value) => put(&mut self.roles, (organization, name), value),
            Change::ServiceAccount(id, Some(value)) => {
                debug_assert_eq!(id, value.id);
                self.accounts.insert(value);
            }
            Change::ServiceAccount(id, None) => drop(self.accounts.remove(id.0)),
            Change::ApiToken(id, value) => {
                if let Some(old) = self.tokens.get(&id) {
                    self.tokens_by_hash.remove(&old.secret_hash);
                }
                if let Some(token) = &value {
                    self.tokens_by_hash.insert(token.secret_hash, id);
                }
                put(&mut self.tokens, id, value);
            }
            Change::Provider(id, value) => {
                if value.is_none() {
                    self.subjects.remove(&id);
                }
                put(&mut self.providers, id, value);
            }
            Change::Subject(status) => {
                let of_provider = self.subjects.entry(status.provider).or_default();
                of_provider.insert(status.subject.as_str().into(), status);
            }
            Change::Trust(id, value) => self.apply_trust(id, value),
            Change::RevokedCredential(id, until) => {
                if let Some(before) = self.revoked.insert(id, until) {
                    self.revoked_by_end.remove(&(before, id));
                }
                self.revoked_by_end.insert((until, id));
            }
        }
    }

    fn apply_trust(&mut self, id: TrustId, value: Option<Arc<CompiledTrust>>) {
        if let Some((number, old)) = self.trusts.remove(id.0) {
            self.trust_index.remove(&old.trust, number);
        }
        if let Some(trust) = value {
            debug_assert_eq!(id, trust.trust().id);
            let account = self.accounts.number(trust.trust().service_account.0);
            let number = self.trusts.insert(Placed { trust: Arc::clone(&trust), account });
            self.trust_index.insert(&trust, number);
        }
    }

    /// An organization.
    pub fn organization(&self, id: &OrganizationId) -> Option<&Arc<Organization>> {
        self.organizations.get(id)
    }

    /// A space.
    pub fn space(&self, id: &SpaceId) -> Option<&Arc<Space>> {
        self.spaces.get(id)
    }

    /// A service account, wherever it lives. Callers that act for a principal check its scope.
    pub fn service_account(&self, id: ServiceAccountId) -> Option<&Arc<ServiceAccount>> {
        self.accounts.get(id.0)
    }

    /// A provider.
    pub fn provider(&self, id: ProviderId) -> Option<&Arc<Provider>> {
        self.providers.get(&id)
    }

    /// What was said about a subject of a provider, if anything.
    pub fn subject_status(&self, provider: ProviderId, subject: &str) -> Option<&Arc<SubjectStatus>> {
        self.subjects.get(&provider)?.get(&*recorded(subject))
    }

    /// What was said about the subjects of a provider, in no order.
    pub fn subject_statuses(&self, provider: ProviderId) -> impl Iterator<Item = &Arc<SubjectStatus>> {
        self.subjects.get(&provider).into_iter().flat_map(Map::values)
    }

    /// Of how many subjects of a provider something was said.
    pub fn subject_count(&self, provider: ProviderId) -> usize {
        self.subjects.get(&provider).map_or(0, Map::len)
    }

    /// Whether a subject of a provider is disabled.
    pub fn subject_disabled(&self, provider: ProviderId, subject: &str) -> bool {
        self.subject_status(provider, subject).is_some_and(|status| status.disabled)
    }

    /// A trust.
    pub fn trust(&self, id: TrustId) -> Option<&Arc<CompiledTrust>> {
        self.trusts.get(id.0).map(|placed| &placed.trust)
    }

    /// An organization's own role.
    pub fn role(&self, organization: &OrganizationId, name: &RoleName) -> Option<&Arc<Role>> {
        self.roles.get(&(organization.clone(), name.clone()))
    }

    /// An API token, wherever it holds. Callers that act for a principal check its scope.
    pub fn api_token(&self, id: ApiTokenId) -> Option<&Arc<ApiToken>> {
        self.tokens.get(&id)
    }

    /// The API token with this SHA-256. The caller compares the hash once more in constant time.
    pub fn api_token_by_hash(&self, hash: &[u8; 32]) -> Option<&Arc<ApiToken>> {
        self.tokens.get(self.tokens_by_hash.get(hash)?)
    }

    /// Whether one credential was revoked by itself. Ended ones may have been forgotten.
    pub fn is_revoked(&self, id: CredentialId) -> bool {
        self.revoked.contains_key(&id)
    }

    /// Whether the scope exists.
    pub fn has_scope(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Platform => true,
            Scope::Organization(id) => self.organizations.contains_key(id),
            Scope::Space(id) => self.spaces.contains_key(id),
        }
    }

    /// Whether the scope exists and neither it nor its organization is disabled.
    pub fn scope_enabled(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Platform => true,
            Scope::Organization(id) => self.organizations.get(id).is_some_and(|o| !o.disabled),
            Scope::Space(id) => self.spaces.get(id).is_some_and(|space| {
                !space.disabled && self.organizations.get(&space.organization).is_some_and(|o| !o.disabled)
            }),
        }
    }

    /// The organization a scope belongs to; `None` for the platform and for unknown scopes.
    pub fn organization_of_scope(&self, scope: &Scope) -> Option<OrganizationId> {
        match scope {
            Scope::Platform => None,
            Scope::Organization(id) => Some(id.clone()),
            Scope::Space(id) => self.organization_of(id),
        }
    }

    /// What roles allow together; roles that no longer exist allow nothing.
    pub fn permissions_of(&self, roles: &[RoleRef]) -> PermissionSet {
        roles.iter().fold(PermissionSet::EMPTY, |all, role| {
            all.union(match role {
                RoleRef::BuiltIn(built_in) => built_in.permissions(),
                RoleRef::Organization(organization, name) => {
                    self.role(organization, name).map(|r| r.permissions).unwrap_or_default()
                }
            })
        })
    }

    /// Whether a role can be given at a scope: it exists, and an organization's own only in that organization.
    pub fn role_usable_at(&self, role: &RoleRef, scope: &Scope) -> bool {
        match role {
            RoleRef::BuiltIn(_) => true,
            RoleRef::Organization(organization, name) => {
                self.role(organization, name).is_some()
                    && self.organization_of_scope(scope).as_ref() == Some(organization)
            }
        }
    }

    /// Whether anyone holds the role, or a trust is scoped to it. Looks at everything: for rare questions.
    pub fn role_in_use(&self, role: &RoleRef) -> bool {
        self.accounts.values().any(|account| account.roles.contains(role))
            || self.tokens.values().any(|token| token.roles.contains(role))
            || self.trusts.values().any(|placed| placed.trust.trust().scoped_roles.contains(role))
    }

    /// The trust with this client name, with all it hangs together with.
    pub fn candidate_by_client(&self, client_name: &str) -> Option<Candidate> {
        let mut trusts = self.trust_index.of_client(client_name).filter_map(|number| self.trusts.at(number));
        self.candidate_of(trusts.find(|placed| &*placed.trust.trust().client_name == client_name)?)
    }

    /// A trust with all it hangs together with.
    pub fn candidate(&self, id: TrustId) -> Option<Candidate> {
        self.candidate_of(self.trusts.get(id.0)?)
    }

    fn candidate_of(&self, placed: &Placed) -> Option<Candidate> {
        let trust = Arc::clone(&placed.trust);
        let provider = self.providers.get(&trust.trust().provider)?.clone();
        let account = self.account_of(placed).cloned();
        let scope_enabled = self.scope_enabled(&trust.trust().scope);
        Some(Candidate { trust, provider, account, scope_enabled })
    }

    fn account_of(&self, placed: &Placed) -> Option<&Arc<ServiceAccount>> {
        let id = placed.trust.trust().service_account;
        let there = placed.account.and_then(|number| self.accounts.at(number)).filter(|account| account.id == id);
        there.or_else(|| self.service_account(id))
    }

    /// The trusts of exactly this scope with this issuer, never of an ancestor.
    pub fn candidates(&self, scope: &Scope, issuer: &IssuerKey) -> Vec<Candidate> {
        self.those_of(scope, issuer, self.trust_index.of_issuer(scope, issuer)).collect()
    }

    /// As [`Self::candidates`], but for those that cannot mean this subject. When none can, a few that could be shown to an
    /// admin who wonders why.
    pub fn candidates_for(&self, scope: &Scope, issuer: &IssuerKey, subject: &str) -> Vec<Candidate> {
        let of_subject = self.trust_index.of_subject(scope, issuer, subject);
        let meant = |candidate: &Candidate| candidate.trust.subject().is_none_or(|pattern| pattern.matches(subject));
        let candidates: Vec<Candidate> = self.those_of(scope, issuer, of_subject).filter(meant).collect();
        if !candidates.is_empty() {
            return candidates;
        }
        self.those_of(scope, issuer, self.trust_index.of_issuer(scope, issuer)).take(EXPLAINED).collect()
    }

    /// The candidates of every issuer in exactly this scope: for the simulator's view of a whole scope.
    pub fn candidates_in(&self, scope: &Scope) -> Vec<Candidate> {
        let trusts = self.trust_index.of_scope(scope).filter_map(|number| self.trusts.at(number));
        let of_scope = trusts.filter(|placed| placed.trust.trust().scope == *scope);
        of_scope.filter_map(|placed| self.candidate_of(placed)).collect()
    }

    /// The index answers by hashes: each trust is asked for its own scope and issuer.
    fn those_of(
        &self,
        scope: &Scope,
        issuer: &IssuerKey,
        numbers: impl Iterator<Item = Number>,
    ) -> impl Iterator<Item = Candidate> {
        let is_of = move |placed: &&Placed| placed.trust.trust().scope == *scope && placed.trust.issuer() == issuer;
        numbers.filter_map(|number| self.trusts.at(number)).filter(is_of).filter_map(|placed| self.candidate_of(placed))
    }

    /// How many trusts there are.
    pub fn trust_count(&self) -> usize {
        self.trusts.len()
    }
}

impl ScopeTree for Snapshot {
    fn organization_of(&self, space: &SpaceId) -> Option<OrganizationId> {
        self.spaces.get(space).map(|s| s.organization.clone())
    }
}

fn put<K: std::hash::Hash + Eq + Clone, V: Clone>(map: &mut Map<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::issuer::IssuerUri;
    use crate::matching::testing::{candidate, scope, trust};
    use crate::trust::Trust;

    fn account(id: u128) -> Change {
        let account = candidate(trust(1, "s")).account.unwrap();
        let id = ServiceAccountId(Uuid::from_u128(id));
        Change::ServiceAccount(id, Some(Arc::new(ServiceAccount { id, ..ServiceAccount::clone(&account) })))
    }

    fn no_account(id: u128) -> Change {
        Change::ServiceAccount(ServiceAccountId(Uuid::from_u128(id)), None)
    }

    /// A trust, its provider, and who gets in by it.
    fn trust_of(account: u128) -> [Change; 2] {
        let service_account = ServiceAccountId(Uuid::from_u128(account));
        let Candidate { trust, provider, .. } = candidate(Trust { service_account, ..trust(1, "s") });
        [Change::Provider(provider.id, Some(provider)), Change::Trust(trust.trust().id, Some(trust))]
    }

    fn account_by_each_way(snapshot: &Snapshot) -> Option<u128> {
        let issuer = candidate(trust(1, "s")).provider.issuer.key().clone();
        let one = |found: Vec<Candidate>| <[Candidate; 1]>::try_from(found).unwrap()[0].clone();
        let ways = [
            snapshot.candidate_by_client("calm-wolf-1").unwrap(),
            snapshot.candidate(TrustId(Uuid::from_u128(1))).unwrap(),
            one(snapshot.candidates(&scope(), &issuer)),
            one(snapshot.candidates_for(&scope(), &issuer, "s")),
            one(snapshot.candidates_in(&scope())),
        ];
        let accounts = ways.map(|candidate| candidate.account.map(|account| account.id.0.as_u128()));
        assert!(accounts.iter().all(|account| *account == accounts[0]), "{accounts:?}");
        accounts[0]
    }

    /// An account that has gone leaves its number to another, which the trusts that led to it must never lead to.
    #[test]
    fn a_trust_leads_to_its_own_account_only() {
        let mut snapshot = Snapshot::default().with(1, std::iter::once(account(7)).chain(trust_of(7)));
        assert_eq!(account_by_each_way(&snapshot), Some(7));
        snapshot = snapshot.with(2, [no_account(7), account(8)]);
        assert_eq!(account_by_each_way(&snapshot), None);
        assert_eq!(account_by_each_way(&snapshot.with(3, trust_of(8))), Some(8));
        // Back again, with another number.
        snapshot = snapshot.with(4, [account(7)]);
        assert_eq!(account_by_each_way(&snapshot), Some(7));
    }

    #[test]
    fn a_trust_that_comes_before_its_account_finds_it() {
        let snapshot = Snapshot::default().with(1, trust_of(7));
        assert_eq!(account_by_each_way(&snapshot), None);
        assert_eq!(account_by_each_way(&snapshot.with(2, [account(7)])), Some(7));
    }

    #[test]
    fn a_trust_that_has_gone_is_found_no_way_and_leaves_its_number_to_another() {
        let mut snapshot = Snapshot::default().with(1, std::iter::once(account(7)).chain(trust_of(7)));
        let (other, id) = (candidate(trust(2, "s")).trust, TrustId(Uuid::from_u128(1)));
        snapshot =
            snapshot.with(2, [Change::Trust(id, None), Change::Trust(other.trust().id, Some(Arc::clone(&other)))]);
        assert_eq!(snapshot.trust_count(), 1);
        assert!(snapshot.candidate(id).is_none() && snapshot.candidate_by_client("calm-wolf-1").is_none());
        let left: Vec<Candidate> = snapshot.candidates_in(&scope());
        assert!(matches!(&left[..], [candidate] if candidate.trust.trust().id == other.trust().id));
    }

    /// A trust as far as it matters which one is found: its scope and provider by their places below, its subject, the account,
    /// and whether it has its second name.
    type Spec = (usize, usize, Option<&'static str>, u128, bool);

    const SCOPES: [&str; 2] = ["acme-org", "other-org"];
    const ISSUERS: [&str; 2] = ["https://issuer.example", "https://other.example"];
    const PATTERNS: [Option<&str>; 5] = [None, Some("repo:a"), Some("repo:a:*"), Some("repo:b"), Some("repo:*")];
    const SUBJECTS: [&str; 4] = ["repo:a", "repo:a:ref", "repo:b", "none"];
    const TRUSTS: u128 = 12;
    const ACCOUNTS: u128 = 4;

    #[derive(Clone, Debug)]
    enum Step {
        Trust(u128, Option<Spec>),
        Account(u128, bool),
    }

    fn a_step() -> impl Strategy<Value = Step> {
        let spec = (0..2_usize, 0..2_usize, prop::sample::select(&PATTERNS[..]), 0..ACCOUNTS, any::<bool>());
        let of_trust = (0..TRUSTS, prop::option::weighted(0.7, spec)).prop_map(|(id, spec)| Step::Trust(id, spec));
        let of_account = (0..ACCOUNTS, any::<bool>()).prop_map(|(id, there)| Step::Account(id, there));
        prop_oneof![3 => of_trust, 1 => of_account]
    }

    fn scope_at(place: usize) -> Scope {
        Scope::Organization(OrganizationId::parse(SCOPES[place]).unwrap())
    }

    fn provider_at(place: usize) -> Arc<Provider> {
        let any = candidate(trust(1, "s")).provider;
        let id = ProviderId(Uuid::from_u128(place as u128));
        Arc::new(Provider { id, issuer: IssuerUri::stored(ISSUERS[place]), ..Provider::clone(&any) })
    }

    fn name_of(id: u128, second: bool) -> String {
        format!("{}-{id}", if second { "loud-bear" } else { "calm-wolf" })
    }

    fn specified(id: u128, (scope, provider, subject, account, second): Spec) -> Arc<CompiledTrust> {
        let trust = Trust {
            client_name: name_of(id, second).into(),
            scope: scope_at(scope),
            provider: ProviderId(Uuid::from_u128(provider as u128)),
            issuer: ISSUERS[provider].into(),
            service_account: ServiceAccountId(Uuid::from_u128(account)),
            subject: subject.map(Into::into),
            ..trust(id, "")
        };
        Arc::new(CompiledTrust::load(trust, &provider_at(provider)).unwrap())
    }

    #[derive(Clone, Default)]
    struct Model {
        trusts: BTreeMap<u128, Spec>,
        accounts: BTreeSet<u128>,
    }

    impl Model {
        fn ids(&self, meant: impl Fn(&Spec) -> bool) -> BTreeSet<u128> {
            self.trusts.iter().filter(|(_, spec)| meant(spec)).map(|(id, _)| *id).collect()
        }

        /// That the snapshot says of everything, in each way that there is to ask, what the model says.
        fn check(&self, snapshot: &Snapshot) {
            let (trusts, service_accounts) = (self.trusts.len(), self.accounts.len());
            assert_eq!(snapshot.size(), Size { trusts, providers: 2, service_accounts, revocations: 0 });
            let ids = |found: Vec<Candidate>| -> BTreeSet<u128> {
                let count = found.len();
                let ids: BTreeSet<_> = found
                    .into_iter()
                    .map(|candidate| {
                        let id = candidate.trust.trust().id.0.as_u128();
                        let account = candidate.account.map(|account| account.id.0.as_u128());
                        assert_eq!(account, self.account(id));
                        id
                    })
                    .collect();
                assert_eq!(ids.len(), count, "each once");
                ids
            };
            for id in 0..TRUSTS {
                let spec = self.trusts.get(&id);
                let trust_id = TrustId(Uuid::from_u128(id));
                assert_eq!(snapshot.trust(trust_id).is_some(), spec.is_some());
                assert_eq!(ids(snapshot.candidate(trust_id).into_iter().collect()).first(), spec.map(|_| &id));
                for second in [false, true] {
                    let named = snapshot.candidate_by_client(&name_of(id, second)).into_iter().collect();
                    assert_eq!(ids(named).first(), spec.filter(|spec| spec.4 == second).map(|_| &id));
                }
            }
            for scope in 0..SCOPES.len() {
                assert_eq!(ids(snapshot.candidates_in(&scope_at(scope))), self.ids(|spec| spec.0 == scope));
                for provider in 0..ISSUERS.len() {
                    let issuer = provider_at(provider).issuer.key().clone();
                    let of_issuer = self.ids(|spec| (spec.0, spec.1) == (scope, provider));
                    assert_eq!(ids(snapshot.candidates(&scope_at(scope), &issuer)), of_issuer);
                    for subject in SUBJECTS {
                        let matches = |pattern: &str| match pattern.strip_suffix('*') {
                            Some(start) => subject.starts_with(start),
                            None => subject == pattern,
                        };
                        let meant =
                            self.ids(|spec| (spec.0, spec.1) == (scope, provider) && spec.2.is_none_or(matches));
                        let found = ids(snapshot.candidates_for(&scope_at(scope), &issuer, subject));
                        if meant.is_empty() {
                            // There are never more than are explained.
                            assert_eq!(found, of_issuer);
                        } else {
                            assert_eq!(found, meant);
                        }
                    }
                }
            }
        }

        /// Who gets in by this trust, if they are there.
        fn account(&self, trust: u128) -> Option<u128> {
            self.trusts.get(&trust).map(|spec| spec.3).filter(|account| self.accounts.contains(account))
        }
    }

    proptest! {
        /// However trusts and accounts come, change and go, each is found as what it is now, and a copy stays as it was.
        #[test]
        fn everything_is_found_as_it_is_now(steps in prop::collection::vec(a_step(), 0..120), copied_at in 0..120_usize) {
            let providers = (0..2).map(provider_at).map(|provider| Change::Provider(provider.id, Some(provider)));
            let (mut snapshot, mut model) = (Snapshot::default().with(1, providers), Model::default());
            let mut copy = None;
            for (step, change) in steps.into_iter().enumerate() {
                if step == copied_at {
                    copy = Some((snapshot.clone(), model.clone()));
                }
                let change = match change {
                    Step::Trust(id, spec) => {
                        model.trusts.remove(&id);
                        model.trusts.extend(spec.map(|spec| (id, spec)));
                        Change::Trust(TrustId(Uuid::from_u128(id)), spec.map(|spec| specified(id, spec)))
                    }
                    Step::Account(id, true) => {
                        model.accounts.insert(id);
                        account(id)
                    }
                    Step::Account(id, false) => {
                        model.accounts.remove(&id);
                        no_account(id)
                    }
                };
                snapshot = snapshot.with(2, [change]);
            }
            for (snapshot, model) in copy.into_iter().chain([(snapshot, model)]) {
                model.check(&snapshot);
            }
        }
    }
}
