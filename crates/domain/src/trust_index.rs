//! Which trusts may mean a subject, without looking at each: for a scope that has thousands for one issuer. And which trust
//! has a client name.
//!
//! The index goes by hashes, so that a million trusts take some seventy megabytes, and answers too much rather than too little:
//! whoever asks looks at each trust itself again.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use crate::issuer::IssuerKey;
use crate::keyed::Keyed;
use crate::scope::Scope;
use crate::subject::SubjectKey;
use crate::trust::CompiledTrust;

/// Hashes of scope, issuer and subject key.
type Place = (u32, u32, u32);

/// Trusts by scope, issuer and subject, and by client name. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustIndex {
    places: Keyed<Place, CompiledTrust>,
    clients: Keyed<u64, CompiledTrust>,
    hasher: RandomState,
}

impl TrustIndex {
    /// Adds a trust.
    pub(crate) fn insert(&mut self, trust: &Arc<CompiledTrust>) {
        self.places.insert(self.place(trust), Arc::clone(trust));
        self.clients.insert(self.client(&trust.trust().client_name), Arc::clone(trust));
    }

    /// Takes a trust out; it must be as it was when it was added.
    pub(crate) fn remove(&mut self, trust: &CompiledTrust) {
        let id = trust.trust().id.0;
        self.places.remove(self.place(trust), id);
        self.clients.remove(self.client(&trust.trust().client_name), id);
    }

    /// Those of a scope, and by chance others.
    pub(crate) fn of_scope(&self, scope: &Scope) -> impl Iterator<Item = &Arc<CompiledTrust>> {
        let scope = self.hash(scope);
        self.places.of_all((scope, u32::MIN, u32::MIN), move |place| place.0 == scope)
    }

    /// Those of a scope for an issuer, and by chance others.
    pub(crate) fn of_issuer(&self, scope: &Scope, issuer: &IssuerKey) -> impl Iterator<Item = &Arc<CompiledTrust>> {
        let (scope, issuer) = (self.hash(scope), self.hash(issuer));
        self.places.of_all((scope, issuer, u32::MIN), move |place| (place.0, place.1) == (scope, issuer))
    }

    /// Those of a scope for an issuer whose subject pattern may match, or that have none; and by chance others.
    pub(crate) fn of_subject(
        &self,
        scope: &Scope,
        issuer: &IssuerKey,
        subject: &str,
    ) -> impl Iterator<Item = &Arc<CompiledTrust>> {
        let (scope, issuer) = (self.hash(scope), self.hash(issuer));
        let keys = SubjectKey::all_of(subject).map(Some).chain([None]);
        keys.flat_map(move |key| self.places.of((scope, issuer, self.hash(key))))
    }

    /// The one with this client name, and by chance others.
    pub(crate) fn of_client(&self, name: &str) -> impl Iterator<Item = &Arc<CompiledTrust>> {
        self.clients.of(self.client(name))
    }

    fn client(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    fn place(&self, trust: &CompiledTrust) -> Place {
        let subject = self.hash(trust.subject().map(SubjectKey::of));
        (self.hash(&trust.trust().scope), self.hash(trust.issuer()), subject)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a hash is a hash")]
    fn hash(&self, part: impl Hash) -> u32 {
        self.hasher.hash_one(part) as u32
    }
}
