//! Which trusts may mean a subject, without looking at each: for a scope that has thousands for one issuer. And which trust
//! has a client name.
//!
//! The index holds hashes and the trusts' numbers, so that a million trusts take some forty megabytes, and answers too much rather
//! than too little: whoever asks looks at each trust itself again.

use std::hash::{BuildHasher, Hash, RandomState};

use imbl::GenericOrdSet;

use crate::issuer::IssuerKey;
use crate::numbered::Number;
use crate::scope::Scope;
use crate::subject::SubjectKey;
use crate::trust::CompiledTrust;

/// Hashes of scope, issuer and subject key, and the trust's number.
type Entry = (u32, u32, u32, Number);

/// Trusts by scope, issuer and subject, and by client name. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustIndex {
    entries: GenericOrdSet<Entry, imbl::shared_ptr::DefaultSharedPtr>,
    clients: GenericOrdSet<(u32, Number), imbl::shared_ptr::DefaultSharedPtr>,
    hasher: RandomState,
}

impl TrustIndex {
    /// Adds a trust.
    pub(crate) fn insert(&mut self, trust: &CompiledTrust, number: Number) {
        self.entries.insert(self.entry(trust, number));
        self.clients.insert((self.hash(&*trust.trust().client_name), number));
    }

    /// Takes a trust out; it and its number must be as they were when it was added.
    pub(crate) fn remove(&mut self, trust: &CompiledTrust, number: Number) {
        self.entries.remove(&self.entry(trust, number));
        self.clients.remove(&(self.hash(&*trust.trust().client_name), number));
    }

    /// Those of a scope, and by chance others.
    pub(crate) fn of_scope(&self, scope: &Scope) -> impl Iterator<Item = Number> {
        let scope = self.hash(scope);
        self.entries_from((scope, u32::MIN, u32::MIN), move |entry| entry.0 == scope)
    }

    /// Those of a scope for an issuer, and by chance others.
    pub(crate) fn of_issuer(&self, scope: &Scope, issuer: &IssuerKey) -> impl Iterator<Item = Number> {
        let (scope, issuer) = (self.hash(scope), self.hash(issuer));
        self.entries_from((scope, issuer, u32::MIN), move |entry| (entry.0, entry.1) == (scope, issuer))
    }

    /// Those of a scope for an issuer whose subject pattern may match, or that have none; and by chance others.
    pub(crate) fn of_subject(&self, scope: &Scope, issuer: &IssuerKey, subject: &str) -> impl Iterator<Item = Number> {
        let (scope, issuer) = (self.hash(scope), self.hash(issuer));
        let keys = SubjectKey::all_of(subject).map(Some).chain([None]);
        keys.flat_map(move |key| {
            let place = (scope, issuer, self.hash(key));
            self.entries_from(place, move |entry| (entry.0, entry.1, entry.2) == place)
        })
    }

    /// The one with this client name, and by chance others.
    pub(crate) fn of_client(&self, name: &str) -> impl Iterator<Item = Number> {
        let name = self.hash(name);
        self.clients.range((name, Number::FIRST)..).take_while(move |entry| entry.0 == name).map(|(_, number)| *number)
    }

    fn entry(&self, trust: &CompiledTrust, number: Number) -> Entry {
        let subject = self.hash(trust.subject().map(SubjectKey::of));
        (self.hash(&trust.trust().scope), self.hash(trust.issuer()), subject, number)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a hash is a hash")]
    fn hash(&self, part: impl Hash) -> u32 {
        self.hasher.hash_one(part) as u32
    }

    /// Those from this place on, for as long as they are meant: what ends a range, imbl looks for as well.
    fn entries_from(&self, from: (u32, u32, u32), meant: impl Fn(&Entry) -> bool) -> impl Iterator<Item = Number> {
        let from = (from.0, from.1, from.2, Number::FIRST);
        self.entries.range(from..).take_while(move |entry| meant(entry)).map(|(.., number)| *number)
    }
}
