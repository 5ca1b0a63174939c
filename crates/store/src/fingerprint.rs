//! What makes two bindings the same.

use aws_lc_rs::digest::{Context, SHA256};

use sallyport_domain::issuer::IssuerKey;
use sallyport_domain::trust::Trust;

/// SHA-256 over everything that decides whom a binding accepts: scope, issuer, subject, mappings, audiences, condition and
/// CIDRs, lists as sets. Two bindings with one fingerprint are duplicates; the store holds each fingerprint once.
///
/// Every part is preceded by its length and every list by its count, so that no two inputs share an encoding; an absent part
/// differs from an empty one.
pub fn binding_fingerprint(trust: &Trust, issuer: &IssuerKey) -> [u8; 32] {
    let mut digest = Digest(Context::new(&SHA256));
    digest.part(b"sallyport binding 1");
    digest.part(trust.scope.key().as_bytes());
    digest.part(issuer.as_str().as_bytes());
    digest.maybe(trust.subject.as_deref());
    let mut mappings: Vec<_> = trust.mappings.iter().collect();
    mappings.sort_unstable();
    mappings.dedup();
    digest.count(mappings.len());
    for mapping in mappings {
        digest.part(mapping.key.as_bytes());
        digest.maybe(mapping.value.as_deref());
    }
    digest.set(&trust.allowed_audiences);
    digest.maybe(trust.condition.as_deref());
    digest.set(&trust.source_cidrs);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.0.finish().as_ref());
    fingerprint
}

struct Digest(Context);

impl Digest {
    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_be_bytes());
    }

    fn part(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn maybe(&mut self, text: Option<&str>) {
        self.0.update(&[u8::from(text.is_some())]);
        if let Some(text) = text {
            self.part(text.as_bytes());
        }
    }

    fn set(&mut self, items: &[String]) {
        let mut items: Vec<_> = items.iter().collect();
        items.sort_unstable();
        items.dedup();
        self.count(items.len());
        for item in items {
            self.part(item.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sallyport_domain::clock::Timestamp;
    use sallyport_domain::id::{ProviderId, ServiceAccountId, SpaceId, TrustId};
    use sallyport_domain::mapping::Mapping;
    use sallyport_domain::scope::Scope;
    use uuid::Uuid;

    use super::*;

    fn a_trust() -> Trust {
        Trust {
            id: TrustId(Uuid::nil()),
            client_name: Box::default(),
            scope: Scope::Platform,
            provider: ProviderId(Uuid::nil()),
            issuer: "https://issuer.example".into(),
            service_account: ServiceAccountId(Uuid::nil()),
            binding: true,
            name: Box::default(),
            description: None,
            subject: Some("subject".into()),
            mappings: Box::default(),
            allowed_audiences: Box::default(),
            condition: None,
            source_cidrs: Box::default(),
            scoped_roles: Arc::default(),
            passthrough_claims: Box::default(),
            lifetime: 1,
            ends_with_subject_token: false,
            disabled: false,
            credentials_not_before: None,
            warnings: Arc::default(),
            created_at: Timestamp::default(),
            created_by: Arc::default(),
        }
    }

    fn changed(change: impl FnOnce(&mut Trust)) -> [u8; 32] {
        let mut trust = a_trust();
        change(&mut trust);
        binding_fingerprint(&trust, &IssuerKey::of("https://issuer.example"))
    }

    #[test]
    fn every_part_counts_and_no_two_encodings_meet() {
        let mapping = |key: &str, value: Option<&str>| Mapping { key: key.into(), value: value.map(Into::into) };
        let mut all = vec![
            changed(|_| {}),
            binding_fingerprint(&a_trust(), &IssuerKey::of("https://other.example")),
            changed(|t| t.scope = Scope::Space(SpaceId::parse("prod").unwrap())),
            changed(|t| t.subject = None),
            changed(|t| t.subject = Some(Box::default())),
            changed(|t| t.condition = Some(Box::default())),
            changed(|t| t.condition = Some("true".into())),
            changed(|t| t.allowed_audiences = ["ab".into()].into()),
            changed(|t| t.allowed_audiences = ["a".into(), "b".into()].into()),
            changed(|t| t.source_cidrs = ["ab".into()].into()),
            changed(|t| t.mappings = [mapping("a", None)].into()),
            changed(|t| t.mappings = [mapping("a", Some(""))].into()),
            changed(|t| t.mappings = [mapping("a", Some("b"))].into()),
            changed(|t| t.mappings = [mapping("ab", Some(""))].into()),
        ];
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn lists_are_sets_and_labels_do_not_count() {
        let audiences = |list: &[&str]| changed(|t| t.allowed_audiences = list.iter().map(|s| (*s).into()).collect());
        assert_eq!(audiences(&["a", "b"]), audiences(&["b", "a", "b"]));
        assert_eq!(changed(|_| {}), changed(|t| t.name = "other".into()));
        let with_slash = binding_fingerprint(&a_trust(), &IssuerKey::of("https://issuer.example/"));
        assert_eq!(with_slash, changed(|_| {}));
    }
}
