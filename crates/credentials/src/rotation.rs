//! The life of signing keys (house rule 9): published before used, used for a while, kept until the last credential ends.
//!
//! [`plan_rotation`] decides, from the stored keys and the time alone, what to change now. Whoever runs it (a timer, a
//! command) carries the changes out in one transaction that reads the keys again, so that two replicas cannot both do it.

use sallyport_domain::clock::Timestamp;
use sallyport_domain::entropy::Entropy;
use sallyport_domain::validate::LIFETIME_MAX;

use crate::key_pair::AUTHORITY_VALIDITY;
use crate::keys::{KeyError, Purpose, SlotState, StoredKey, generate};
use crate::master_key::MasterKey;
use crate::ring::signing;

const DAY: i64 = 86_400;

/// When keys change places. All in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RotationPolicy {
    /// How long a token key signs. 0 asks for a new key now: what the rotation command does.
    pub lifetime: i64,
    /// How long an authority signs.
    pub authority_lifetime: i64,
    /// How long a key is published before it signs: as long as relying parties may cache our key set.
    pub lead: i64,
    /// How long a token key is kept after it signed last: the longest credential plus leeway.
    pub keep: i64,
}

impl Default for RotationPolicy {
    /// 30 days for token keys, a year for authorities, published a day ahead, kept for the longest credential and
    /// five minutes.
    fn default() -> Self {
        Self { lifetime: 30 * DAY, authority_lifetime: 365 * DAY, lead: DAY, keep: LIFETIME_MAX as i64 + 300 }
    }
}

impl RotationPolicy {
    /// The policy that begins a rotation of every purpose now, with the same lead and overlap.
    #[must_use]
    pub const fn at_once(self) -> Self {
        Self { lifetime: 0, authority_lifetime: 0, ..self }
    }

    const fn lifetime_of(&self, purpose: Purpose) -> i64 {
        match purpose {
            Purpose::AccessToken | Purpose::IdToken => self.lifetime,
            Purpose::Certificate => self.authority_lifetime,
        }
    }

    /// When the last thing that `key` signed, retiring at `now`, has ended. Certificates of standing keys end with
    /// their authority at the latest.
    fn ends(&self, key: &StoredKey, now: Timestamp) -> Timestamp {
        let tokens = now.plus_seconds(self.keep);
        match key.purpose {
            Purpose::AccessToken | Purpose::IdToken => tokens,
            Purpose::Certificate => tokens.max(key.created_at.plus_seconds(AUTHORITY_VALIDITY)),
        }
    }
}

/// One step in the life of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyChange {
    /// Make a key.
    Generate {
        /// What for.
        purpose: Purpose,
        /// Into which slot: [`SlotState::Current`] only when there is none to sign with.
        state: SlotState,
        /// From when it signs.
        activates_at: Timestamp,
    },
    /// The next key becomes the current one.
    Promote {
        /// Which key.
        id: String,
        /// From when it signs: now.
        activates_at: Timestamp,
    },
    /// The current key signs no more.
    Retire {
        /// Which key.
        id: String,
        /// When it may be removed.
        retires_at: Timestamp,
    },
    /// The key is no longer needed.
    Remove {
        /// Which key.
        id: String,
    },
}

impl KeyChange {
    /// Carries the change out on `keys`. A change that names a key which is not there changes nothing.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn apply(
        &self,
        keys: &mut Vec<StoredKey>,
        now: Timestamp,
        entropy: &dyn Entropy,
        master: &MasterKey,
    ) -> Result<(), KeyError> {
        match self {
            Self::Generate { purpose, state, activates_at } => {
                let key = generate(*purpose, now, entropy, master)?;
                keys.push(StoredKey { state: *state, activates_at: *activates_at, ..key });
            }
            Self::Promote { id, activates_at } => {
                if let Some(key) = keys.iter_mut().find(|key| key.id == *id) {
                    key.state = SlotState::Current;
                    key.activates_at = *activates_at;
                }
            }
            Self::Retire { id, retires_at } => {
                if let Some(key) = keys.iter_mut().find(|key| key.id == *id) {
                    key.state = SlotState::Retired;
                    key.retires_at = Some(*retires_at);
                }
            }
            Self::Remove { id } => keys.retain(|key| key.id != *id),
        }
        Ok(())
    }
}

/// What to change now so that the house rule holds, in the order in which to do it; empty when all is well.
///
/// For each purpose: without a current key, the next one is promoted or a first one made; a next key whose time has come
/// takes over and the current one retires; a current key within `lead` of its end gets a successor; retired keys go when
/// their last credential has ended. What two replicas made twice is put right: of two current keys the one that does not
/// sign retires, of two next keys the one that never signed is removed.
pub fn plan_rotation(keys: &[StoredKey], now: Timestamp, policy: &RotationPolicy) -> Vec<KeyChange> {
    Purpose::ALL.into_iter().flat_map(|purpose| plan_purpose(keys, purpose, now, policy)).collect()
}

fn plan_purpose(keys: &[StoredKey], purpose: Purpose, now: Timestamp, policy: &RotationPolicy) -> Vec<KeyChange> {
    let mut changes = Vec::new();
    let in_slot = |state| keys.iter().filter(move |key| key.purpose == purpose && key.state == state);

    let current = signing(keys, purpose);
    // The one that was to sign first; ties by id, so that every replica plans alike.
    let next = in_slot(SlotState::Next).min_by(|a, b| (a.activates_at, &a.id).cmp(&(b.activates_at, &b.id)));
    let retire = |key: &StoredKey| KeyChange::Retire { id: key.id.clone(), retires_at: policy.ends(key, now) };

    match (current, next) {
        (None, None) => {
            changes.push(KeyChange::Generate { purpose, state: SlotState::Current, activates_at: now });
        }
        (None, Some(next)) => changes.push(KeyChange::Promote { id: next.id.clone(), activates_at: now }),
        (Some(current), Some(next)) if next.activates_at <= now => {
            changes.push(KeyChange::Promote { id: next.id.clone(), activates_at: now });
            changes.push(retire(current));
        }
        (Some(_), Some(_)) => {}
        (Some(current), None) => {
            let due = current.activates_at.plus_seconds(policy.lifetime_of(purpose));
            if due <= now.plus_seconds(policy.lead) {
                let activates_at = due.max(now.plus_seconds(policy.lead));
                changes.push(KeyChange::Generate { purpose, state: SlotState::Next, activates_at });
            }
        }
    }
    for other in in_slot(SlotState::Current).filter(|key| current.is_some_and(|current| current.id != key.id)) {
        changes.push(retire(other));
    }
    for other in in_slot(SlotState::Next).filter(|key| next.is_some_and(|next| next.id != key.id)) {
        changes.push(KeyChange::Remove { id: other.id.clone() });
    }
    for retired in in_slot(SlotState::Retired).filter(|key| key.retires_at.is_some_and(|end| end <= now)) {
        changes.push(KeyChange::Remove { id: retired.id.clone() });
    }
    changes
}

/// What to do when the key of `purpose` has leaked: a new one signs at once and every other is removed, which ends all
/// credentials that they signed. Relying parties refuse new tokens until they read the key set again.
pub fn plan_replacement(keys: &[StoredKey], purpose: Purpose, now: Timestamp) -> Vec<KeyChange> {
    let first = KeyChange::Generate { purpose, state: SlotState::Current, activates_at: now };
    let others = keys.iter().filter(|key| key.purpose == purpose).map(|key| KeyChange::Remove { id: key.id.clone() });
    std::iter::once(first).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::KeyRing;
    use crate::testing::{ISSUER, NOW, access_claims};
    use proptest::prelude::*;
    use sallyport_domain::entropy::SystemEntropy;

    fn at(days: i64) -> Timestamp {
        NOW.plus_seconds(days * DAY)
    }

    fn key(id: &str, state: SlotState, activates_at: Timestamp) -> StoredKey {
        StoredKey {
            id: id.into(),
            purpose: Purpose::AccessToken,
            state,
            created_at: NOW,
            activates_at,
            retires_at: (state == SlotState::Retired).then_some(activates_at),
            sealed: Vec::new(),
            public: Vec::new(),
        }
    }

    /// The plan for access token keys alone.
    fn plan(keys: &[StoredKey], now: Timestamp, policy: &RotationPolicy) -> Vec<KeyChange> {
        plan_purpose(keys, Purpose::AccessToken, now, policy)
    }

    fn generate_change(state: SlotState, activates_at: Timestamp) -> KeyChange {
        KeyChange::Generate { purpose: Purpose::AccessToken, state, activates_at }
    }

    fn promote(id: &str, activates_at: Timestamp) -> KeyChange {
        KeyChange::Promote { id: id.into(), activates_at }
    }

    fn retire(id: &str, now: Timestamp) -> KeyChange {
        KeyChange::Retire { id: id.into(), retires_at: now.plus_seconds(DAY + 300) }
    }

    fn remove(id: &str) -> KeyChange {
        KeyChange::Remove { id: id.into() }
    }

    #[test]
    fn the_plan_by_what_is_there() {
        use SlotState::{Current, Next, Retired};
        let policy = RotationPolicy::default();
        let end = NOW.plus_seconds(-1);
        for (name, keys, now, wanted) in [
            ("nothing yet", vec![], NOW, vec![generate_change(Current, NOW)]),
            ("all is well", vec![key("a", Current, NOW)], at(28), vec![]),
            ("a successor a day ahead", vec![key("a", Current, NOW)], at(29), vec![generate_change(Next, at(30))]),
            ("late: still a day ahead", vec![key("a", Current, NOW)], at(90), vec![generate_change(Next, at(91))]),
            ("not yet time", vec![key("a", Current, NOW), key("b", Next, at(30))], at(29), vec![]),
            (
                "its time has come",
                vec![key("a", Current, NOW), key("b", Next, at(30))],
                at(30),
                vec![promote("b", at(30)), retire("a", at(30))],
            ),
            ("only a next one", vec![key("b", Next, at(30))], NOW, vec![promote("b", NOW)]),
            (
                "two current: the later signs",
                vec![key("a", Current, at(1)), key("b", Current, NOW)],
                at(2),
                vec![retire("b", at(2))],
            ),
            (
                "two current at one time: the greater id signs",
                vec![key("a", Current, NOW), key("b", Current, NOW)],
                at(2),
                vec![retire("a", at(2))],
            ),
            (
                "two next: one is left",
                vec![key("a", Current, NOW), key("c", Next, at(30)), key("b", Next, at(30))],
                at(29),
                vec![remove("c")],
            ),
            ("retired and over", vec![key("a", Current, NOW), key("z", Retired, end)], NOW, vec![remove("z")]),
            ("retired and needed", vec![key("a", Current, NOW), key("z", Retired, at(1))], NOW, vec![]),
        ] {
            assert_eq!(plan(&keys, now, &policy), wanted, "{name}");
        }
    }

    #[test]
    fn a_command_rotates_without_shortening_lead_or_overlap() {
        let policy = RotationPolicy::default();
        let mut keys = vec![key("a", SlotState::Current, NOW)];
        assert_eq!(plan(&keys, at(1), &policy.at_once()), [generate_change(SlotState::Next, at(2))]);
        keys.push(key("b", SlotState::Next, at(2)));
        assert_eq!(plan(&keys, at(1), &policy.at_once()), [], "asking twice makes no third key");
        assert_eq!(plan(&keys, at(2), &policy), [promote("b", at(2)), retire("a", at(2))]);
    }

    #[test]
    fn authorities_are_kept_as_long_as_their_certificates() {
        let policy = RotationPolicy::default();
        let current = StoredKey { purpose: Purpose::Certificate, ..key("a", SlotState::Current, NOW) };
        let next = StoredKey { purpose: Purpose::Certificate, ..key("b", SlotState::Next, at(365)) };
        let plan = plan_purpose(&[current, next], Purpose::Certificate, at(365), &policy);
        let kept = KeyChange::Retire { id: "a".into(), retires_at: NOW.plus_seconds(AUTHORITY_VALIDITY) };
        assert_eq!(plan[1], kept);
    }

    #[test]
    fn every_purpose_is_planned_for() {
        assert_eq!(plan_rotation(&[], NOW, &RotationPolicy::default()).len(), 3);
    }

    #[test]
    fn a_leaked_key_is_replaced_at_once() {
        let keys =
            [key("a", SlotState::Current, NOW), key("b", SlotState::Next, at(30)), key("z", SlotState::Retired, at(1))];
        assert_eq!(
            plan_replacement(&keys, Purpose::AccessToken, NOW),
            [generate_change(SlotState::Current, NOW), remove("a"), remove("b"), remove("z")]
        );
    }

    #[test]
    fn tokens_outlive_a_rotation_with_real_keys() {
        let master = MasterKey::generate(&SystemEntropy).unwrap();
        let policy = RotationPolicy::default();
        let mut keys = Vec::new();
        let run = |keys: &mut Vec<StoredKey>, now| {
            for change in plan(keys, now, &policy) {
                change.apply(keys, now, &SystemEntropy, &master).unwrap();
            }
            KeyRing::open(keys, &master).unwrap()
        };
        let mut claims = access_claims();
        run(&mut keys, NOW);
        let published = run(&mut keys, at(29));
        assert_eq!(published.jwks()["keys"].as_array().unwrap().len(), 2);
        claims.exp = at(31).seconds();
        let token = published.sign_access_token(&claims).unwrap();
        let rotated = run(&mut keys, at(30));
        assert!(rotated.verify_access_token(&token, ISSUER, at(30)).is_ok(), "signed before the rotation");
        let fresh = rotated.sign_access_token(&claims).unwrap();
        assert!(published.verify_access_token(&fresh, ISSUER, at(30)).is_ok(), "the new key was published before");
        let later = run(&mut keys, at(31).plus_seconds(301));
        assert_eq!(later.jwks()["keys"].as_array().unwrap().len(), 1);
    }

    proptest! {
        /// However irregularly the plan is run, one key signs, it was published a day before (but for the first), and a
        /// retired key stays for the longest credential.
        #[test]
        fn house_rule_9_holds_whenever_the_plan_is_run(steps in proptest::collection::vec((1_i64..5 * DAY, any::<bool>()), 1..80)) {
            let normal = RotationPolicy::default();
            let mut keys: Vec<StoredKey> = Vec::new();
            let mut now = NOW;
            let mut made = 0;
            let mut last_signed = std::collections::HashMap::new();
            for (step, forced) in steps {
                let policy = if forced { normal.at_once() } else { normal };
                for change in plan_purpose(&keys, Purpose::AccessToken, now, &policy) {
                    match change {
                        KeyChange::Generate { state, activates_at, .. } => {
                            made += 1;
                            keys.push(StoredKey { created_at: now, ..key(&format!("{made:04}"), state, activates_at) });
                        }
                        KeyChange::Remove { id } => {
                            if let Some(signed) = last_signed.get(&id) {
                                prop_assert!(now.seconds_since(*signed) >= DAY, "removed too soon");
                            }
                            keys.retain(|key| key.id != id);
                        }
                        KeyChange::Promote { id, activates_at } => {
                            let key = keys.iter_mut().find(|key| key.id == id).unwrap();
                            prop_assert!(now.seconds_since(key.created_at) >= DAY, "used before it was known");
                            (key.state, key.activates_at) = (SlotState::Current, activates_at);
                        }
                        KeyChange::Retire { id, retires_at } => {
                            last_signed.insert(id.clone(), now);
                            let key = keys.iter_mut().find(|key| key.id == id).unwrap();
                            (key.state, key.retires_at) = (SlotState::Retired, Some(retires_at));
                        }
                    }
                }
                prop_assert_eq!(keys.iter().filter(|key| key.state == SlotState::Current).count(), 1);
                prop_assert!(keys.iter().filter(|key| key.state == SlotState::Next).count() <= 1);
                now = now.plus_seconds(step);
            }
        }
    }
}
