//! What many things in memory have in common, kept once: trusts of one scope have the same issuer, roles, warnings and author.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::principal::ServiceAccount;
use crate::role::RoleRef;
use crate::scope::Scope;
use crate::trust::Trust;

/// Parts seen so far. For as long as things are read one after the other; afterwards they share by themselves.
#[derive(Debug, Default)]
pub struct Shared {
    texts: HashSet<Arc<str>>,
    lists: HashSet<Arc<[String]>>,
    roles: HashSet<Arc<[RoleRef]>>,
    scopes: HashSet<Scope>,
}

impl Shared {
    /// Lets a trust share what it has in common with those before it.
    pub fn trust(&mut self, trust: &mut Trust) {
        one(&mut self.scopes, &mut trust.scope);
        one(&mut self.texts, &mut trust.issuer);
        one(&mut self.texts, &mut trust.created_by);
        one(&mut self.roles, &mut trust.scoped_roles);
        one(&mut self.lists, &mut trust.warnings);
        for mapping in &mut trust.mappings {
            one(&mut self.texts, &mut mapping.key);
        }
    }

    /// Lets a service account share what it has in common with those before it.
    pub fn service_account(&mut self, account: &mut ServiceAccount) {
        one(&mut self.scopes, &mut account.scope);
        one(&mut self.texts, &mut account.created_by);
        one(&mut self.roles, &mut account.roles);
    }
}

fn one<T: Clone + Eq + Hash>(seen: &mut HashSet<T>, part: &mut T) {
    match seen.get(part) {
        Some(same) => *part = same.clone(),
        None => drop(seen.insert(part.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OrganizationId;

    #[test]
    fn equal_parts_become_one_and_others_stay() {
        let mut shared = Shared::default();
        let scope = || Scope::Organization(OrganizationId::parse("acme-org").unwrap());
        let (mut first, mut second, mut other): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "a".into(), "b".into());
        for text in [&mut first, &mut second, &mut other] {
            one(&mut shared.texts, text);
        }
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((&*second, &*other), ("a", "b"));
        let (mut here, mut there) = (scope(), scope());
        one(&mut shared.scopes, &mut here);
        one(&mut shared.scopes, &mut there);
        assert_eq!((here, there), (scope(), scope()));
    }
}
