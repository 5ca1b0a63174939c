//! Everything that can be measured, by name.

use sallyport_domain::provider::ReplayPolicy;
use sallyport_testkit::Algorithm;

use crate::estate::Estate;
use crate::tokens::Door;

/// What a server stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The embedded database.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

/// An installation: variants that want the same one share it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct World {
    /// The database.
    pub engine: Engine,
    /// How many servers share it.
    pub replicas: usize,
    /// What is configured.
    pub estate: Estate,
}

/// What is done to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// As many exchanges as it takes.
    Maximum,
    /// Half as many, evenly.
    Half,
    /// Twice as many, evenly, over many connections; then half as many again.
    Overload,
    /// Half as many, evenly, while as many connections ask for pages of 100 bindings as fast as these come.
    Beside,
    /// Each token once.
    Once,
    /// One exchange for each provider, whose keys nobody has asked for before.
    Cold,
    /// Pages of 100 bindings of the largest space, one after the other: from the first, or from far inside.
    Page {
        /// After how many pages of 1,000.
        after: usize,
    },
    /// Starts on what is there, and memory while nothing happens.
    Start,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name, by which it is chosen.
    pub name: String,
    /// On what.
    pub world: World,
    /// What is done.
    pub measure: Measure,
    /// How tokens are signed.
    pub algorithm: Algorithm,
    /// Where they are shown.
    pub door: Door,
    /// Whether it is measured when nothing is chosen.
    pub usual: bool,
}

impl Variant {
    /// Whether exchanges are what is measured.
    pub const fn is_exchange(&self) -> bool {
        !matches!(self.measure, Measure::Page { .. } | Measure::Start)
    }
}

/// The space of a million and, beside it, 10,000 bindings as they are elsewhere.
fn million() -> Estate {
    let mut estate = Estate::even(100, 100);
    estate.spaces.push(1_000_000);
    estate
}

/// All of them; those of one world stand together.
pub fn all() -> Vec<Variant> {
    use Algorithm::{EdDsa, Es256, Rs256};
    use Door::{Client, KeyPair, Scope};
    use Measure::{Beside, Cold, Half, Maximum, Once, Overload, Page, Start};

    let mut variants = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let sqlite = engine == Engine::Sqlite;
        let name = if sqlite { "sqlite" } else { "postgres" };
        let mut add = |estate: &Estate, replicas, what: &str, measure, algorithm, door, usual| {
            let world = World { engine, replicas, estate: estate.clone() };
            variants.push(Variant { name: format!("{name}/{what}"), world, measure, algorithm, door, usual });
        };

        let one = Estate::even(1, 1);
        add(&one, 1, "start/1-trust", Start, Rs256, Client, sqlite);
        add(&one, 1, "token/RS256", Maximum, Rs256, Client, true);
        add(&one, 1, "token/RS256/half-rate", Half, Rs256, Client, sqlite);
        add(&one, 1, "token/RS256/overload", Overload, Rs256, Client, false);
        add(&one, 1, "token/ES256", Maximum, Es256, Client, sqlite);
        add(&one, 1, "token/EdDSA", Maximum, EdDsa, Client, sqlite);
        add(&one, 1, "token/RS256/by-scope/1-trust", Maximum, Rs256, Scope, false);
        add(&one, 1, "key-pair/RS256", Maximum, Rs256, KeyPair, true);
        add(&one, 1, "key-pair/RS256/half-rate", Half, Rs256, KeyPair, false);
        add(&one, 1, "key-pair/RS256/overload", Overload, Rs256, KeyPair, false);
        add(&one, 1, "key-pair/ES256", Maximum, Es256, KeyPair, false);
        add(&one, 1, "key-pair/EdDSA", Maximum, EdDsa, KeyPair, false);

        let once = Estate { replay: ReplayPolicy::Once, ..one.clone() };
        add(&once, 1, "token/ES256/once", Once, Es256, Client, false);
        add(&Estate::even(512, 1), 1, "token/RS256/cold-keys", Cold, Rs256, Client, false);

        add(&Estate::even(1, 100), 1, "token/RS256/100-trusts", Maximum, Rs256, Client, false);
        let thousands = Estate::even(100, 100);
        add(&thousands, 1, "token/RS256/10000-trusts", Maximum, Rs256, Client, sqlite);
        add(&thousands, 1, "token/RS256/10000-trusts/half-rate", Half, Rs256, Client, false);
        add(&thousands, 1, "key-pair/RS256/10000-trusts", Maximum, Rs256, KeyPair, false);

        let crowded = Estate::even(1, 10_000);
        add(&crowded, 1, "token/RS256/by-scope/10000-trusts", Maximum, Rs256, Scope, false);
        add(&crowded, 1, "token/RS256/beside-pages", Beside, Rs256, Client, false);
        add(&crowded, 1, "graphql/100-of-10000/first-page", Page { after: 0 }, Rs256, Client, false);
        add(&crowded, 1, "graphql/100-of-10000/deep-page", Page { after: 8 }, Rs256, Client, false);

        add(&Estate::even(1_000, 100), 1, "start/100000-trusts", Start, Rs256, Client, false);

        let million = million();
        add(&million, 1, "start/1000000-trusts", Start, Rs256, Client, false);
        add(&million, 1, "token/RS256/1000000-trusts", Maximum, Rs256, Client, false);
        add(&million, 1, "token/RS256/1000000-trusts/half-rate", Half, Rs256, Client, false);
        add(&million, 1, "graphql/100-of-1000000/first-page", Page { after: 0 }, Rs256, Client, false);
        add(&million, 1, "graphql/100-of-1000000/deep-page", Page { after: 100 }, Rs256, Client, false);

        if !sqlite {
            add(&one, 2, "token/RS256/two-replicas", Maximum, Rs256, Client, false);
            add(&one, 2, "key-pair/RS256/two-replicas", Maximum, Rs256, KeyPair, false);
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_worlds_stand_together() {
        let all = all();
        let names: HashSet<_> = all.iter().map(|variant| &variant.name).collect();
        assert_eq!(names.len(), all.len());
        let mut worlds: Vec<_> = all.iter().map(|variant| &variant.world).collect();
        worlds.dedup();
        for (index, world) in worlds.iter().enumerate() {
            assert!(!worlds[..index].contains(world), "{world:?}");
        }
    }
}
