//! Which trusts may mean a subject, without looking at each: for a scope that has thousands for one issuer.
//!
//! The index holds hashes, so that a million trusts take less than a hundred megabytes, and answers too much rather than too little:
//! whoever asks looks at each trust's own scope, issuer and subject again.

use std::hash::{BuildHasher, Hash, RandomState};

use imbl::GenericOrdSet;
use uuid::Uuid;

use crate::id::TrustId;
use crate::issuer::IssuerKey;
use crate::scope::Scope;
use crate::subject::SubjectKey;
use crate::trust::CompiledTrust;

/// Hashes of scope, issuer and subject key, and the trust.
type Entry = (u32, u32, u32, TrustId);

const FIRST: TrustId = TrustId(Uuid::nil());
const LAST: TrustId = TrustId(Uuid::max());

/// Trusts by scope, issuer and subject, and by client name. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustIndex {
    entries: GenericOrdSet<Entry, imbl::shared_ptr::DefaultSharedPtr>,
    clients: GenericOrdSet<(u32, TrustId), imbl::shared_ptr::DefaultSharedPtr>,
    hasher: RandomState,
}

impl TrustIndex {
    /// Adds a trust.
    pub(crate) fn insert(&mut self, trust: &CompiledTrust) {
        self.entries.insert(self.entry(trust));
        self.clients.insert(self.client(trust));
    }

    /// Takes a trust out; it must be as it was when it was added.
    pub(crate) fn remove(&mut self, trust: &CompiledTrust) {
        self.entries.remove(&self.entry(trust));
        self.clients.remove(&self.client(trust));
    }

    /// Those of a scope, and by chance others.
    pub(crate) fn of_scope(&self, scope: &Scope) -> impl Iterator<Item = TrustId> {
        let scope = self.hash(scope);
        self.between((scope, u32::MIN, u32::MIN), (scope, u32::MAX, u32::MAX))
    }

    /// Those of a scope for an issuer, and by chance others.
    pub(crate) fn of_issuer(&self, scope: &Scope, issuer: &IssuerKey) -> impl Iterator<Item = TrustId> {
        let (scope, issuer) = (self.hash(scope), self.hash(issuer));
        self.between((scope, issuer, u32::MIN), (scope, issuer, u32::MAX))
    }

    /// Those of a scope for an issuer whose subject pattern may match, or that have none; and by chance others.
    pub(crate) fn of_subject(&self, scope: &Scope, issuer: &IssuerKey, subject: &str) -> impl Iterator<Item = TrustId> {
        let (scope, issuer) = (self.hash(scope), self.hash(issuer));
        let keys = SubjectKey::all_of(subject).map(Some).chain([None]);
        keys.flat_map(move |key| {
            let subject = self.hash(key);
            self.between((scope, issuer, subject), (scope, issuer, subject))
        })
    }

    /// The one with this client name, and by chance others.
    pub(crate) fn of_client(&self, name: &str) -> impl Iterator<Item = TrustId> {
        let name = self.hash(name);
        self.clients.range((name, FIRST)..=(name, LAST)).map(|(_, id)| *id)
    }

    fn client(&self, trust: &CompiledTrust) -> (u32, TrustId) {
        (self.hash(&*trust.trust().client_name), trust.trust().id)
    }

    fn entry(&self, trust: &CompiledTrust) -> Entry {
        let subject = self.hash(trust.subject().map(SubjectKey::of));
        (self.hash(&trust.trust().scope), self.hash(trust.issuer()), subject, trust.trust().id)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a hash is a hash")]
    fn hash(&self, part: impl Hash) -> u32 {
        self.hasher.hash_one(part) as u32
    }

    fn between(&self, from: (u32, u32, u32), to: (u32, u32, u32)) -> impl Iterator<Item = TrustId> {
        let from = (from.0, from.1, from.2, FIRST);
        let to = (to.0, to.1, to.2, LAST);
        self.entries.range(from..=to).map(|(.., id)| *id)
    }
}
