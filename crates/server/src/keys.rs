//! Signing keys in a running server: made on the first start, rotated on schedule, the same on every replica.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sallyport_credentials::{
    KeyChange, KeyRing, MasterKey, Purpose, RotationPolicy, SlotState, StoredKey, plan_rotation,
};
use sallyport_domain::clock::Clock;
use sallyport_domain::entropy::Entropy;
use sallyport_gateway::Services;
use sallyport_store::{KeyRow, KeyTable, Store};

/// How often the keys are looked at. Far below the lead with which a key is published before it signs.
const LOOK: Duration = Duration::from_secs(60);

/// Loads the keys, making those that are missing. Replicas that start together end up with the same ones.
///
/// # Errors
/// When the database fails, or the master key is not the one the keys were sealed with.
pub(crate) async fn load(
    store: &Store,
    master: &MasterKey,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<KeyRing> {
    let table = store.load_keys().await.context("the signing keys could not be loaded")?;
    for purpose in Purpose::ALL {
        if table.keys.iter().any(|key| key.purpose == purpose.name()) {
            continue;
        }
        let mut keys = Vec::new();
        let first = plan_rotation(&[], clock.now(), &RotationPolicy::default());
        for change in first.into_iter().filter(|c| matches!(c, KeyChange::Generate { purpose: p, .. } if *p == purpose))
        {
            change.apply(&mut keys, clock.now(), entropy, master).context("a signing key could not be made")?;
        }
        let rows: Vec<KeyRow> = keys.into_iter().map(to_row).collect();
        store.insert_keys_if_absent(purpose.name(), &rows).await.context("a signing key could not be stored")?;
    }
    open(&store.load_keys().await?, master)
}

/// Rotates on schedule, and follows what other replicas did, for as long as the process lives.
pub(crate) fn keep_rotating(services: Arc<Services>, master: MasterKey) {
    tokio::spawn(async move {
        let mut versions = None;
        loop {
            tokio::time::sleep(LOOK).await;
            match rotate(&services, &master).await {
                Ok(table) => {
                    if versions.as_ref() == Some(&table.versions) {
                        continue;
                    }
                    match open(&table, &master) {
                        Ok(ring) => {
                            services.keys.store(Arc::new(ring));
                            versions = Some(table.versions);
                        }
                        Err(error) => {
                            tracing::error!(error = format!("{error:#}"), "the signing keys cannot be opened")
                        }
                    }
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the signing keys could not be looked at"),
            }
            if let Err(error) = services.store.purge_expired(services.now()).await {
                tracing::warn!(%error, "what has ended could not be purged");
            }
        }
    });
}

/// Does what the schedule asks for now, and answers the keys as they are afterwards.
async fn rotate(services: &Services, master: &MasterKey) -> Result<KeyTable> {
    let table = services.store.load_keys().await?;
    let before = stored(&table)?;
    let changes = plan_rotation(&before, services.now(), &RotationPolicy::default());
    if changes.is_empty() {
        return Ok(table);
    }
    let mut after = before.clone();
    for change in &changes {
        change.apply(&mut after, services.now(), &*services.entropy, master)?;
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
        let put: Vec<KeyRow> = new.into_iter().filter(|k| !old.contains(k)).map(to_row).collect();
        if services.store.apply_key_changes(purpose.name(), version, &put, &removed).await? {
            tracing::info!(
                purpose = purpose.name(),
                changed = put.len(),
                removed = removed.len(),
                "signing keys rotated"
            );
        }
    }
    Ok(services.store.load_keys().await?)
}

fn open(table: &KeyTable, master: &MasterKey) -> Result<KeyRing> {
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
