//! Things by their id, and by a small number that each has for as long as it is there. Of a million things, few are in the
//! processor's caches: a number takes fewer steps through what is not than an id, and half the memory wherever it is kept.

use std::sync::Arc;

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericOrdSet, GenericVector};
use uuid::Uuid;

/// What has an id.
pub(crate) trait Identified {
    /// Its id.
    fn id(&self) -> Uuid;
}

impl<V: Identified> Identified for Arc<V> {
    fn id(&self) -> Uuid {
        (**self).id()
    }
}

/// The number of a thing. When the thing has gone, another may get it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Number(u32);

impl Number {
    /// None is smaller.
    pub(crate) const FIRST: Self = Self(u32::MIN);

    const fn place(self) -> usize {
        self.0 as usize
    }
}

/// The half of an id that is drawn at random, and so tells the id apart from nearly all others. Ids begin with the time: inserted in
/// their own order, they would leave every leaf of a tree half empty. Of bytes, so that nothing is lost to alignment beside a number.
type Half = [u8; 8];

const fn half(id: Uuid) -> Half {
    id.as_u64_pair().1.to_be_bytes()
}

/// Things by id and number. Copies share what they have in common. Places of what has gone are kept for what will come.
#[derive(Clone, Debug)]
pub(crate) struct Numbered<V> {
    things: GenericVector<Option<V>, DefaultSharedPtr>,
    numbers: GenericOrdSet<(Half, Number), DefaultSharedPtr>,
    free: GenericVector<Number, DefaultSharedPtr>,
}

impl<V> Default for Numbered<V> {
    fn default() -> Self {
        Self { things: GenericVector::new(), numbers: GenericOrdSet::new(), free: GenericVector::new() }
    }
}

impl<V: Identified + Clone> Numbered<V> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// All of them, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.things.iter().flatten()
    }

    /// The one with this number.
    pub(crate) fn at(&self, number: Number) -> Option<&V> {
        self.things.get(number.place())?.as_ref()
    }

    /// The one with this id.
    pub(crate) fn get(&self, id: Uuid) -> Option<&V> {
        self.find(id).map(|(_, thing)| thing)
    }

    /// The number of the one with this id.
    pub(crate) fn number(&self, id: Uuid) -> Option<Number> {
        self.find(id).map(|(number, _)| number)
    }

    /// Puts it in, in the place of the one with the same id. Answers its number, which was that one's.
    pub(crate) fn insert(&mut self, thing: V) -> Number {
        let id = thing.id();
        let number = self.number(id).unwrap_or_else(|| {
            let number = self.free.pop_back().unwrap_or_else(|| {
                #[expect(clippy::expect_used, reason = "so many would take 64 GiB for their places alone")]
                let number = Number(u32::try_from(self.things.len()).expect("fewer than 2^32 things"));
                self.things.push_back(None);
                number
            });
            self.numbers.insert((half(id), number));
            number
        });
        self.things.set(number.place(), Some(thing));
        number
    }

    /// Takes out the one with this id.
    pub(crate) fn remove(&mut self, id: Uuid) -> Option<(Number, V)> {
        let number = self.number(id)?;
        self.numbers.remove(&(half(id), number));
        self.free.push_back(number);
        Some((number, self.things.set(number.place(), None)?))
    }

    fn find(&self, id: Uuid) -> Option<(Number, &V)> {
        let half = half(id);
        let range = self.numbers.range((half, Number::FIRST)..).take_while(move |(of, _)| *of == half);
        range.filter_map(|(_, number)| Some((*number, self.at(*number)?))).find(|(_, thing)| thing.id() == id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Thing(Uuid, u32);

    impl Identified for Thing {
        fn id(&self) -> Uuid {
            self.0
        }
    }

    /// Ids of which many share a half.
    fn an_id() -> impl Strategy<Value = Uuid> {
        (0..4_u64, 0..100_u64).prop_map(|(time, random)| Uuid::from_u64_pair(time, random))
    }

    proptest! {
        /// As a plain map would have it, and each under its number until it goes; what copies have stays as it is.
        #[test]
        fn things_are_found_by_id_and_by_number(
            steps in prop::collection::vec((an_id(), prop::option::weighted(0.6, any::<u32>())), 0..1_000),
            copied_at in 0..1_000_usize,
        ) {
            let mut numbered = Numbered::default();
            let mut plain: BTreeMap<Uuid, (Number, Thing)> = BTreeMap::new();
            let mut copies = None;
            for (step, (id, value)) in steps.into_iter().enumerate() {
                if step == copied_at {
                    copies = Some((numbered.clone(), plain.clone()));
                }
                if let Some(value) = value {
                    let number = numbered.insert(Thing(id, value));
                    if let Some((before, _)) = plain.insert(id, (number, Thing(id, value))) {
                        prop_assert_eq!(before, number);
                    }
                } else {
                    prop_assert_eq!(numbered.remove(id), plain.remove(&id));
                }
            }
            for (numbered, plain) in copies.into_iter().chain([(numbered, plain)]) {
                prop_assert_eq!(numbered.len(), plain.len());
                prop_assert_eq!(numbered.values().count(), plain.len());
                for time in 0..4 {
                    for random in 0..100 {
                        let id = Uuid::from_u64_pair(time, random);
                        let known = plain.get(&id);
                        prop_assert_eq!(numbered.get(id), known.map(|(_, thing)| thing));
                        prop_assert_eq!(numbered.number(id), known.map(|(number, _)| *number));
                    }
                }
                for (number, thing) in plain.values() {
                    prop_assert_eq!(numbered.at(*number), Some(thing));
                }
            }
        }
    }

    /// What came and went leaves no room behind that nobody uses. So many that the vectors are as deep as they are with a million.
    #[test]
    fn numbers_are_given_again() {
        let mut numbered = Numbered::default();
        let ids = (0..270_000).map(|n| Uuid::from_u64_pair(n, n.reverse_bits())).collect::<Vec<_>>();
        for round in 0..2 {
            for id in &ids {
                numbered.insert(Thing(*id, round));
            }
            assert_eq!((numbered.len(), numbered.things.len(), numbered.free.len()), (ids.len(), ids.len(), 0));
            for id in &ids {
                let thing = Thing(*id, round);
                assert_eq!(numbered.number(*id).and_then(|number| numbered.at(number)), Some(&thing));
            }
            for id in &ids {
                numbered.remove(*id);
            }
            assert_eq!((numbered.len(), numbered.values().count(), numbered.free.len()), (0, 0, ids.len()));
        }
    }
}
