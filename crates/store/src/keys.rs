//! Signing keys as sealed bytes, and facts about the installation.
//! What a key is for and what its states mean is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::entropy::SystemEntropy;
use sallyport_domain::event::{AuditEntry, Event};
use sallyport_domain::principal::ApiToken;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter};

use crate::change::{Changed, advance_revision, announce, put_on_record};
use crate::entity::{api_token, installation, signing_key, signing_key_set};
use crate::error::StoreError;
use crate::store::{Store, choose_lane, hold_revision, read_revision, retry};

/// A signing key as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id: the `kid`, or a certificate's serial.
    pub id: String,
    /// What it is for, such as `token` or `ca`.
    pub purpose: String,
    /// Its slot, such as `next`, `current` or `retired`.
    pub state: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it may first be used.
    pub activates_at: Timestamp,
    /// When the last thing it signed ends; `None` while that is open.
    pub retires_at: Option<Timestamp>,
    /// The private part, encrypted under the master key.
    pub sealed: Vec<u8>,
    /// The public part.
    pub public: Vec<u8>,
}

impl fmt::Debug for KeyRow {
    /// Without the private part, sealed though it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, purpose, state, created_at, activates_at, retires_at, sealed: _, public: _ } = self;
        f.debug_struct("KeyRow")
            .field("id", id)
            .field("purpose", purpose)
            .field("state", state)
            .field("created_at", created_at)
            .field("activates_at", activates_at)
            .field("retires_at", retires_at)
            .finish_non_exhaustive()
    }
}

/// All keys, with the version of each purpose's set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyTable {
    /// The version of the set of each purpose that has keys; goes up with every change.
    pub versions: BTreeMap<String, i64>,
    /// The keys, by purpose and then the time they were made.
    pub keys: Vec<KeyRow>,
}

impl Store {
    /// All signing keys.
    ///
    /// # Errors
    /// The database.
    pub async fn load_keys(&self) -> Result<KeyTable, StoreError> {
        retry(|| async {
            let transaction = self.begin_snapshot().await?;
            let sets = signing_key_set::Entity::find().all(&transaction).await?;
            let mut keys: Vec<KeyRow> =
                signing_key::Entity::find().all(&transaction).await?.into_iter().map(read).collect();
            transaction.commit().await?;
            keys.sort_by(|a, b| (&a.purpose, a.created_at, &a.id).cmp(&(&b.purpose, b.created_at, &b.id)));
            Ok(KeyTable { versions: sets.into_iter().map(|set| (set.purpose, set.version)).collect(), keys })
        })
        .await
    }

    /// Keeps the first keys of a purpose, unless it has any: of replicas that start together, one wins. Whoever gets `false`
    /// loads the winner's. Every key must be of that purpose. `audit` is put on record with them.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_keys_if_absent(
        &self,
        purpose: &str,
        keys: &[KeyRow],
        audit: &AuditEntry,
    ) -> Result<bool, StoreError> {
        retry(|| async {
            let transaction = self.begin_write().await?;
            let held = hold_revision(&transaction, choose_lane(&SystemEntropy)).await?;
            let set = signing_key_set::Model { purpose: purpose.to_owned(), version: 1 };
            if !insert_or_nothing(&transaction, set).await? {
                transaction.rollback().await?;
                return Ok(false);
            }
            put_keys(&transaction, keys).await?;
            let entry = put_on_record(&transaction, held, audit).await?;
            transaction.commit().await?;
            self.tell(|| Event::Change(Box::new(entry)));
            Ok(true)
        })
        .await
    }

    /// Makes, replaces and deletes keys of one purpose in one step, if its set is still at `version`
    /// ([`KeyTable::versions`]). `false`: another replica was faster; load again. `audit` is put on record with them.
    ///
    /// # Errors
    /// The database.
    pub async fn apply_key_changes(
        &self,
        purpose: &str,
        version: i64,
        put: &[KeyRow],
        delete: &[String],
        audit: &AuditEntry,
    ) -> Result<bool, StoreError> {
        use signing_key_set::{Column, Entity};
        retry(|| async {
            let transaction = self.begin_write().await?;
            let held = hold_revision(&transaction, choose_lane(&SystemEntropy)).await?;
            let moved = Entity::update_many()
                .col_expr(Column::Version, Expr::col(Column::Version).add(1_i64))
                .filter(Column::Purpose.eq(purpose))
                .filter(Column::Version.eq(version))
                .exec(&transaction)
                .await?;
            if moved.rows_affected != 1 {
                transaction.rollback().await?;
                return Ok(false);
            }
            put_keys(&transaction, put).await?;
            signing_key::Entity::delete_many()
                .filter(signing_key::Column::Purpose.eq(purpose))
                .filter(signing_key::Column::Id.is_in(delete))
                .exec(&transaction)
                .await?;
            let entry = put_on_record(&transaction, held, audit).await?;
            transaction.commit().await?;
            self.tell(|| Event::Change(Box::new(entry)));
            Ok(true)
        })
        .await
    }

    /// Keeps the first owner's API token on the first start of an installation, and never again, whatever became of that
    /// token. Of replicas that start together, one gets `true`: only it may show a token that it generated. `audit` is put on
    /// record with it.
    ///
    /// # Errors
    /// The database.
    pub async fn bootstrap(&self, token: &ApiToken, audit: &AuditEntry) -> Result<bool, StoreError> {
        retry(|| async {
            let transaction = self.begin_write().await?;
            let fact = installation::Model { key: "bootstrapped".into(), value: token.id.to_string() };
            if !insert_or_nothing(&transaction, fact).await? {
                transaction.rollback().await?;
                return Ok(false);
            }
            let revision = read_revision(&transaction).await?;
            let Some(held) = advance_revision(&transaction, revision).await? else {
                return Err(StoreError::Contended);
            };
            let row = api_token::Model::of(token).into_active_model();
            api_token::Entity::insert(row).exec_without_returning(&transaction).await?;
            announce(&transaction, held.revision, &BTreeSet::from([Changed::ApiToken(token.id)])).await?;
            let entry = put_on_record(&transaction, held, audit).await?;
            transaction.commit().await?;
            self.tell(|| Event::Change(Box::new(entry)));
            Ok(true)
        })
        .await
    }

    /// A fact about the installation: keeps `value` under `key` unless there is one, and answers what is kept.
    /// Such as a check value that tells a wrong master key.
    ///
    /// # Errors
    /// The database.
    pub async fn installation_fact(&self, key: &str, value: &str) -> Result<String, StoreError> {
        let fact = installation::Model { key: key.to_owned(), value: value.to_owned() };
        retry(|| async {
            let transaction = self.begin_write().await?;
            insert_or_nothing(&transaction, fact.clone()).await?;
            let kept = installation::Entity::find_by_id(key.to_owned()).one(&transaction).await?;
            transaction.commit().await?;
            kept.map(|row| row.value).ok_or_else(|| StoreError::Corrupt {
                table: "installation",
                id: key.to_owned(),
                what: "the row is missing".into(),
            })
        })
        .await
    }
}

/// Whether the row was inserted; `false` when there is one with its primary key.
async fn insert_or_nothing<M, A>(db: &impl ConnectionTrait, row: M) -> Result<bool, StoreError>
where
    M: IntoActiveModel<A>,
    A: ActiveModelTrait,
{
    let inserted = A::Entity::insert(row.into_active_model())
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(db)
        .await?;
    Ok(inserted == 1)
}

async fn put_keys(db: &impl ConnectionTrait, keys: &[KeyRow]) -> Result<(), StoreError> {
    for key in keys {
        crate::change::put(db, row(key)).await?;
    }
    Ok(())
}

fn row(key: &KeyRow) -> signing_key::Model {
    signing_key::Model {
        id: key.id.clone(),
        purpose: key.purpose.clone(),
        state: key.state.clone(),
        created_at: key.created_at.micros(),
        activates_at: key.activates_at.micros(),
        retires_at: key.retires_at.map(Timestamp::micros),
        sealed: key.sealed.clone(),
        public: key.public.clone(),
    }
}

fn read(row: signing_key::Model) -> KeyRow {
    KeyRow {
        id: row.id,
        purpose: row.purpose,
        state: row.state,
        created_at: Timestamp::from_micros(row.created_at),
        activates_at: Timestamp::from_micros(row.activates_at),
        retires_at: row.retires_at.map(Timestamp::from_micros),
        sealed: row.sealed,
        public: row.public,
    }
}
