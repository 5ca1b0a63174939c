//! Things by a short key, for what there is a million of. Copies share what they have in common.
//!
//! In a tree, and not a hash map, which would take three times the memory. It holds keys and pointers: who looks for a key walks
//! down one tree, whose nodes are not in the processor's caches where there are many, and is at the thing itself. Things of the
//! same key stand beside each other, told apart by their ids.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::GenericOrdSet;
use imbl::shared_ptr::DefaultSharedPtr;
use uuid::Uuid;

use crate::principal::ServiceAccount;
use crate::trust::CompiledTrust;

/// What has an id.
pub(crate) trait Identified {
    /// Its id, which does not change.
    fn id(&self) -> Uuid;
}

impl Identified for ServiceAccount {
    fn id(&self) -> Uuid {
        self.id.0
    }
}

impl Identified for CompiledTrust {
    fn id(&self) -> Uuid {
        self.trust().id.0
    }
}

/// Things by a key that several of them may have.
#[derive(Debug)]
pub(crate) struct Keyed<K: Ord, V: Identified>(GenericOrdSet<Entry<K, V>, DefaultSharedPtr>);

impl<K: Ord, V: Identified> Clone for Keyed<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord, V: Identified> Default for Keyed<K, V> {
    fn default() -> Self {
        Self(GenericOrdSet::default())
    }
}

impl<K: Copy + Ord, V: Identified> Keyed<K, V> {
    /// Adds a thing; that of the same key and id goes.
    pub(crate) fn insert(&mut self, key: K, value: Arc<V>) {
        let entry = Entry { key, value };
        self.0.remove(&entry);
        self.0.insert(entry);
    }

    /// Takes the thing of this key and id out.
    pub(crate) fn remove(&mut self, key: K, id: Uuid) -> Option<Arc<V>> {
        self.0.remove(&Exactly(key, id)).map(|entry| entry.value)
    }

    /// The thing of this key and id.
    pub(crate) fn get(&self, key: K, id: Uuid) -> Option<&Arc<V>> {
        self.0.get(&Exactly(key, id)).map(|entry| &entry.value)
    }

    /// Those of this key.
    pub(crate) fn of(&self, key: K) -> impl Iterator<Item = &Arc<V>> {
        self.of_all(key, move |at| at == key)
    }

    /// Those of the keys from this one on, for as long as keys are `meant`.
    pub(crate) fn of_all(&self, from: K, meant: impl Fn(K) -> bool) -> impl Iterator<Item = &Arc<V>> {
        // Without an end, which imbl would look for as well.
        self.0.range(First(from)..).take_while(move |entry| meant(entry.key)).map(|entry| &entry.value)
    }

    /// All of them.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.0.iter().map(|entry| &entry.value)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Things by their ids.
#[derive(Debug)]
pub(crate) struct ById<V: Identified>(Keyed<u64, V>);

impl<V: Identified> Clone for ById<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: Identified> Default for ById<V> {
    fn default() -> Self {
        Self(Keyed::default())
    }
}

impl<V: Identified> ById<V> {
    /// Adds a thing; that of the same id goes.
    pub(crate) fn insert(&mut self, value: Arc<V>) {
        self.0.insert(shuffled(value.id()).0, value);
    }

    /// Takes the thing of this id out.
    pub(crate) fn remove(&mut self, id: Uuid) -> Option<Arc<V>> {
        self.0.remove(shuffled(id).0, id)
    }

    /// The thing of this id.
    pub(crate) fn get(&self, id: Uuid) -> Option<&Arc<V>> {
        self.0.get(shuffled(id).0, id)
    }

    /// All of them, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.0.values()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The half of an id that is drawn at random, and so tells it apart from nearly all others; then the one that begins with the time.
/// Inserted in the order of time, ids would leave every leaf of a tree half empty.
const fn shuffled(id: Uuid) -> (u64, u64) {
    let (time, random) = id.as_u64_pair();
    (random, time)
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: Arc<V>,
}

impl<K: Copy, V> Clone for Entry<K, V> {
    fn clone(&self) -> Self {
        Self { key: self.key, value: Arc::clone(&self.value) }
    }
}

impl<K: Ord, V: Identified> Ord for Entry<K, V> {
    /// Looks at the things themselves, which are not in the processor's caches, only where the keys are equal.
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then_with(|| shuffled(self.value.id()).cmp(&shuffled(other.value.id())))
    }
}

impl<K: Ord, V: Identified> PartialOrd for Entry<K, V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, V: Identified> PartialEq for Entry<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord, V: Identified> Eq for Entry<K, V> {}

/// Equal to the entry of this key and id.
struct Exactly<K>(K, Uuid);

impl<K: Ord, V: Identified> equivalent::Equivalent<Entry<K, V>> for Exactly<K> {
    fn equivalent(&self, entry: &Entry<K, V>) -> bool {
        equivalent::Comparable::compare(self, entry).is_eq()
    }
}

impl<K: Ord, V: Identified> equivalent::Comparable<Entry<K, V>> for Exactly<K> {
    fn compare(&self, entry: &Entry<K, V>) -> Ordering {
        self.0.cmp(&entry.key).then_with(|| shuffled(self.1).cmp(&shuffled(entry.value.id())))
    }
}

/// Before all entries of this key, and after those of smaller ones.
struct First<K>(K);

impl<K: Ord, V> equivalent::Equivalent<Entry<K, V>> for First<K> {
    fn equivalent(&self, _: &Entry<K, V>) -> bool {
        false
    }
}

impl<K: Ord, V> equivalent::Comparable<Entry<K, V>> for First<K> {
    fn compare(&self, entry: &Entry<K, V>) -> Ordering {
        self.0.cmp(&entry.key).then(Ordering::Less)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A thing, and which of those with its id it is.
    #[derive(PartialEq, Eq, Debug)]
    struct Thing(Uuid, usize);

    impl Identified for Thing {
        fn id(&self) -> Uuid {
            self.0
        }
    }

    /// Ids of which many have a half in common.
    fn id() -> impl Strategy<Value = Uuid> {
        (0_u64..6, 0_u64..6).prop_map(|(time, random)| Uuid::from_u64_pair(time, random))
    }

    proptest! {
        /// However many share a key, and whatever is put in place of what: like a map of the standard library by key and id, and a
        /// copy stays as it was.
        #[test]
        fn it_holds_what_a_map_would(steps in prop::collection::vec((0_u8..4, id(), any::<bool>()), 0..200), copied in 0_usize..200) {
            let (mut keyed, mut model) = (Keyed::default(), BTreeMap::new());
            let mut copy = None;
            for (step, (key, id, added)) in steps.iter().copied().enumerate() {
                if step == copied {
                    copy = Some((keyed.clone(), model.clone()));
                }
                if added {
                    keyed.insert(key, Arc::new(Thing(id, step)));
                    model.insert((key, shuffled(id)), Thing(id, step).into());
                } else {
                    prop_assert_eq!(keyed.remove(key, id), model.remove(&(key, shuffled(id))));
                }
            }
            for (keyed, model) in [(keyed, model)].into_iter().chain(copy) {
                let model: BTreeMap<(u8, (u64, u64)), Arc<Thing>> = model;
                prop_assert_eq!(keyed.len(), model.len());
                prop_assert!(keyed.values().eq(model.values()));
                for key in 0..5 {
                    let of_key = |from: u8, to: u8| model.range((from, (0, 0))..(to, (0, 0))).map(|(_, thing)| thing);
                    prop_assert!(keyed.of(key).eq(of_key(key, key + 1)));
                    prop_assert!(keyed.of_all(key, |at| at < 3).eq(of_key(key, key.max(3))));
                }
                for ((key, _), thing) in &model {
                    prop_assert_eq!(keyed.get(*key, thing.0), Some(thing));
                    prop_assert_eq!(keyed.get(key + 4, thing.0), None);
                }
            }
        }

        #[test]
        fn ids_that_share_a_half_are_different_things(ids in prop::collection::vec(id(), 0..50), absent in id()) {
            let mut things = ById::default();
            for (number, id) in ids.iter().enumerate() {
                things.insert(Arc::new(Thing(*id, number)));
            }
            for id in &ids {
                let newest = ids.iter().rposition(|other| other == id).unwrap();
                prop_assert_eq!(&**things.get(*id).unwrap(), &Thing(*id, newest));
            }
            prop_assert_eq!(things.get(absent).is_some(), ids.contains(&absent));
            prop_assert_eq!(things.remove(absent).is_some(), ids.contains(&absent));
            prop_assert_eq!(things.get(absent), None);
        }
    }
}
