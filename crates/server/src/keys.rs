//! Signing keys in a running server: made on the first start, rotated on schedule, the same on every replica.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sallyport_credentials::rotation::plan_replacement;
use sallyport_credentials::{
    KeyChange, KeyRing, MasterKey, Purpose, RotationPolicy, SlotState, StoredKey, plan_rotation,
};
use sallyport_domain::clock::{Clock, Timestamp};
use sallyport_domain::entropy::{Entropy, uuid_v7};
use sallyport_domain::mrn::MrnDomain;
use sallyport_domain::scope::Scope;
use sallyport_gateway::Services;
use sallyport_store::{AuditEntry, KeyRow, KeyTable, Store};
use serde_json::{Value, json};

/// How often a command tries to change the keys before it gives up.
const TRIES: usize = 8;
/// How often the keys are looked at: how long a replica goes on with a key that was replaced as leaked.
const LOOK: Duration = Duration::from_secs(5);

/// Loads the keys, making those that are missing. Replicas that start together end up with the same ones.
///
/// # Errors
/// When the database fails, or the master key is not the one the keys were sealed with.
pub(crate) async fn load(store: &Store, master: &MasterKey, seams: Seams<'_>) -> Result<KeyRing> {
    let table = store.load_keys().await.context("the signing keys could not be loaded")?;
    for purpose in Purpose::ALL {
        if table.keys.iter().any(|key| key.purpose == purpose.name()) {
            continue;
        }
        let mut keys = Vec::new();
        let first = plan_rotation(&[], seams.clock.now(), &RotationPolicy::default());
        for change in first.into_iter().filter(|c| matches!(c, KeyChange::Generate { purpose: p, .. } if *p == purpose))
        {
            change
                .apply(&mut keys, seams.clock.now(), seams.entropy, master)
                .context("a signing key could not be made")?;
        }
        let audit = seams.audit("rotateKeys", purpose, (&[], &keys));
        let rows: Vec<KeyRow> = keys.into_iter().map(to_row).collect();
        store
            .insert_keys_if_absent(purpose.name(), &rows, &audit)
            .await
            .context("a signing key could not be stored")?;
    }
    open(&store.load_keys().await?, master)
}

/// Rotates on schedule, and follows what other replicas did, for as long as the process lives.
pub(crate) fn keep_rotating(services: Arc<Services>, master: MasterKey) {
    tokio::spawn(async move {
        let mut versions = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let (clock, entropy) = (&*services.clock, &*services.entropy);
            let seams = Seams { clock, entropy, mrns: &services.installation.mrns, by: "schedule" };
            let scheduled = |keys: &[StoredKey]| plan_rotation(keys, services.clock.now(), &RotationPolicy::default());
            match change(&services.store, &master, seams, scheduled).await {
                Ok(table) if versions.as_ref() == Some(&table.versions) => {}
                Ok(table) => match open(&table, &master) {
                    Ok(ring) => {
                        services.keys.store(Arc::new(ring));
                        versions = Some(table.versions);
                    }
                    Err(error) => tracing::error!(error = format!("{error:#}"), "the signing keys cannot be opened"),
                },
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the signing keys could not be looked at"),
            }
        }
    });
}

/// Begins a rotation of every purpose now (`sallyport keys rotate`): the new keys are published, and sign after the usual lead.
/// With `leaked`, the new keys sign at once and the old ones are gone, with every credential that they signed.
///
/// # Errors
/// When the database or the master key fails.
pub(crate) async fn rotate_by_command(store: &Store, master: &MasterKey, seams: Seams<'_>, leaked: bool) -> Result<()> {
    let old: HashSet<String> = store.load_keys().await?.keys.into_iter().map(|key| key.id).collect();
    let is_left = |keys: &[StoredKey], purpose| keys.iter().any(|k| k.purpose == purpose && old.contains(&k.id));
    let plan = |keys: &[StoredKey]| -> Vec<KeyChange> {
        if leaked {
            let left = Purpose::ALL.into_iter().filter(|purpose| is_left(keys, *purpose));
            return left.flat_map(|purpose| plan_replacement(keys, purpose, seams.clock.now())).collect();
        }
        plan_rotation(keys, seams.clock.now(), &RotationPolicy::default().at_once())
    };
    // A replica that rotates meanwhile wins; then it is planned again on what it left.
    for _ in 0..TRIES {
        let table = change(store, master, seams, plan).await?;
        if plan(&stored(&table)?).is_empty() {
            return Ok(());
        }
    }
    bail!("other replicas kept changing the keys; try again")
}

/// Seals every key with the master key at hand (`sallyport keys reseal`); answers how many were sealed with its fallback.
///
/// # Errors
/// When the database fails, or a key opens with neither.
pub(crate) async fn reseal(store: &Store, master: &MasterKey, seams: Seams<'_>) -> Result<usize> {
    let mut resealed = 0;
    for purpose in Purpose::ALL {
        loop {
            let table = store.load_keys().await?;
            let Some(version) = table.versions.get(purpose.name()) else { break };
            let mut put = Vec::new();
            for key in stored(&table)?.iter().filter(|key| key.purpose == purpose) {
                put.extend(key.reseal(master, seams.entropy)?);
            }
            let audit = seams.audit("resealKeys", purpose, (&put, &put));
            let put: Vec<KeyRow> = put.into_iter().map(to_row).collect();
            // A replica that rotated meanwhile has the next word.
            if put.is_empty() || store.apply_key_changes(purpose.name(), *version, &put, &[], &audit).await? {
                resealed += put.len();
                break;
            }
        }
    }
    Ok(resealed)
}

/// What a change of keys needs: clock, chance, and what it goes on record with.
#[derive(Clone, Copy)]
pub(crate) struct Seams<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) mrns: &'a MrnDomain,
    /// What made it happen: `start`, `schedule`, `command` or `restore`.
    pub(crate) by: &'static str,
}

impl Seams<'_> {
    /// The record of a change of one purpose's keys: which there were and which there are, nothing of what is in them.
    fn audit(&self, action: &str, purpose: Purpose, (before, after): (&[StoredKey], &[StoredKey])) -> AuditEntry {
        let shown = |keys: &[StoredKey]| {
            let keys: Vec<Value> = keys
                .iter()
                .map(|key| {
                    json!({
                        "id": key.id,
                        "state": key.state.name(),
                        "activatesAt": key.activates_at.to_rfc3339(),
                        "retiresAt": key.retires_at.map(Timestamp::to_rfc3339),
                    })
                })
                .collect();
            json!({ "purpose": purpose.name(), "keys": keys })
        };
        let mut after = shown(after);
        after["by"] = json!(self.by);
        let (now, platform) = (self.clock.now(), self.mrns.scope(&Scope::Platform));
        AuditEntry {
            id: uuid_v7(now, self.entropy),
            time: now,
            actor: platform.clone(),
            action: action.to_owned(),
            target: platform,
            scope: Scope::Platform,
            organization: None,
            before: Some(shown(before)).filter(|_| !before.is_empty()),
            after: Some(after),
            request_id: None,
            source_ip: None,
        }
    }
}

/// Carries out a plan, unless another replica was faster; answers the keys as they are afterwards.
async fn change(
    store: &Store,
    master: &MasterKey,
    seams: Seams<'_>,
    plan: impl Fn(&[StoredKey]) -> Vec<KeyChange>,
) -> Result<KeyTable> {
    let table = store.load_keys().await?;
    let before = stored(&table)?;
    let changes = plan(&before);
    if changes.is_empty() {
        return Ok(table);
    }
    let mut after = before.clone();
    for change in &changes {
        change.apply(&mut after, seams.clock.now(), seams.entropy, master)?;
    }
    for purpose in Purpose::ALL {
        let of_purpose =
            |keys: &[StoredKey]| -> Vec<StoredKey> { keys.iter().filter(|k| k.purpose == purpose).cloned().collect() };
        let (old, new) = (of_purpose(&before), of_purpose(&after));
        if old == new {
            continue;
        }
        let removed: Vec<String> =
            old.iter().filter(|k| new.iter().all(|n| n.id != k.id)).map(|k| k.id.clone()).collect();
        let version = table.versions.get(purpose.name()).copied().unwrap_or_default();
        let audit = seams.audit("rotateKeys", purpose, (&old, &new));
        let put: Vec<KeyRow> = new.into_iter().filter(|k| !old.contains(k)).map(to_row).collect();
        if store.apply_key_changes(purpose.name(), version, &put, &removed, &audit).await? {
            tracing::info!(
                purpose = purpose.name(),
                changed = put.len(),
                removed = removed.len(),
                "signing keys rotated"
            );
        }
    }
    Ok(store.load_keys().await?)
}

/// The keys, opened.
///
/// # Errors
/// When the master key is not the one they were sealed with.
pub(crate) fn open(table: &KeyTable, master: &MasterKey) -> Result<KeyRing> {
    KeyRing::open(&stored(table)?, master)
        .context("the signing keys cannot be opened; is this the master key they were made with?")
}

fn stored(table: &KeyTable) -> Result<Vec<StoredKey>> {
    table.keys.iter().map(from_row).collect()
}

fn to_row(key: StoredKey) -> KeyRow {
    KeyRow {
        id: key.id,
        purpose: key.purpose.name().to_owned(),
        state: key.state.name().to_owned(),
        created_at: key.created_at,
        activates_at: key.activates_at,
        retires_at: key.retires_at,
        sealed: key.sealed,
        public: key.public,
    }
}

fn from_row(row: &KeyRow) -> Result<StoredKey> {
    Ok(StoredKey {
        id: row.id.clone(),
        purpose: Purpose::from_name(&row.purpose).with_context(|| format!("unknown key purpose '{}'", row.purpose))?,
        state: SlotState::from_name(&row.state).with_context(|| format!("unknown key state '{}'", row.state))?,
        created_at: row.created_at,
        activates_at: row.activates_at,
        retires_at: row.retires_at,
        sealed: row.sealed.clone(),
        public: row.public.clone(),
    })
}
