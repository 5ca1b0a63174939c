//! The one place that records an exchange. Whenever the recorder is idle it lets run what is ready to run, takes all that is
//! queued then and commits it at once, so that a lone exchange waits for one commit and a thousand share it. When several came
//! together, the next commit begins half a millisecond after this one at the earliest, as exactly as timers are. As long as there is
//! always more to record it keeps its connection, but for giving others a turn.
//!
//! In the same transaction, and before anything else, it takes hold of the configuration's revision: see
//! [`hold_revision`](crate::store::hold_revision). Where the statements that record can say that too, as they nearly always can,
//! they do: see `at_once`. A grant decided on an older revision is not written when what it rests on has changed since: its
//! caller decides again. So whatever order an observer sees, no grant comes after a change that forbade it.
//!
//! A grant rests on its trust, the other trusts of that scope (among which that one was chosen), the provider, its subject, the
//! service account, the scope, its organization, and the roles which that organization defined. What else changes, above all
//! whatever another tenant does, leaves it alone. When it cannot be told what changed, because that is too much or the feed
//! no longer says, everything has.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sallyport_domain::entropy::SystemEntropy;
use sallyport_domain::event::Event;
use sallyport_domain::exchange::ExchangeRecord;
use sallyport_domain::id::OrganizationId;
use sallyport_domain::scope::Scope;
use sea_orm::{ColumnTrait, DbBackend, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect, TryInsertResult};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout};
use uuid::Uuid;

use crate::at_once::{self, Connection};
use crate::bulk::BulkInsert;
use crate::change::Changed;
use crate::entity::exchange::{self, Entry};
use crate::entity::{configuration_change, replay_use, subject_status};
use crate::error::StoreError;
use crate::feed::Configuration;
use crate::store::{Held, Store, choose_lane, hold_revision, retry, timed};
use crate::usage::{self, Uses};

/// Most records of one commit.
const BATCH: usize = 512;
/// How long after one commit began the next one begins, when more than one exchange at a time is there to share it.
const PACE: Duration = Duration::from_micros(500);
/// How often all that is ready to run gets its turn before such a commit begins: under load most who are there come into it.
const ROUNDS: usize = 8;
/// After how long they get no more turns: whoever came first has waited for so long. A turn that has begun is finished. On SQLite
/// each commit takes the processor that exchanges need, so that it is better to have few.
const GATHERING: Duration = Duration::from_millis(5);
/// The same on PostgreSQL, which works meanwhile.
const GATHERING_FOR_POSTGRES: Duration = Duration::from_millis(1);
/// After how long it keeps its connection no more from one commit to the next, but gives whoever waits for one a turn: on SQLite
/// there is but one that writes.
const KEEPING: Duration = Duration::from_millis(3);
/// Up to how many changes of configuration are looked through for what a grant rests on.
const CHANGES: u64 = 500;
/// How long a commit may take before its waiters are told that the database is not available. It may still happen after that:
/// then there are records of grants whose callers never got their credentials, and one-time tokens are used up.
pub(crate) const COMMIT: Duration = Duration::from_secs(5);
/// How often it is looked whether the database takes writes again.
const LOOK: Duration = Duration::from_secs(1);

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct RecorderOptions {
    /// Records that may be queued; more are answered with [`RecordError::QueueFull`].
    pub queue: usize,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self { queue: 8_192 }
    }
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It is durable, and visible to listings.
    Durable,
    /// A grant decided on an older configuration, and what it rests on has changed since: nothing was written. Refresh, and
    /// decide again.
    Superseded,
    /// A grant for a subject token that was used before: nothing was written. Record the refusal.
    Replayed,
}

/// Why a record was not kept. Without a record there is no credential: answer 503.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Too much is waiting to be recorded.
    #[error("too many exchanges are waiting to be recorded")]
    QueueFull,
    /// The database did not take it, or the recorder was shut down.
    #[error("the exchange could not be recorded")]
    Unavailable,
}

static EXCHANGES: BulkInsert<exchange::Entity> = BulkInsert::new(None);

#[derive(Debug)]
struct Job {
    entry: Entry,
    revision: i64,
    reply: oneshot::Sender<Result<Recorded, RecordError>>,
}

impl Job {
    fn record(&self) -> &ExchangeRecord {
        self.entry.record()
    }
}

/// Records exchanges. Shared by reference or `Arc`.
#[derive(Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Job>,
    closing: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Starts recording. Must be called inside a tokio runtime.
    pub fn start(store: Store, configuration: Arc<Configuration>, options: RecorderOptions) -> Self {
        let (queue, jobs) = mpsc::channel(options.queue.max(1));
        let closing = Arc::new(Notify::new());
        if let Some(usages) = store.usages() {
            tokio::spawn(usage::keep_writing(Arc::clone(usages), store.downgrade()));
        }
        let task = tokio::spawn(run(store, configuration, jobs, Arc::clone(&closing)));
        Self { queue, closing, task: Mutex::new(Some(task)) }
    }

    /// Records one exchange, which was decided on the configuration at `revision`
    /// ([`Snapshot::revision`](sallyport_domain::snapshot::Snapshot::revision)), and waits until it is durable.
    /// For refusals the revision does not matter. A caller that goes away while waiting does not undo the record.
    ///
    /// # Errors
    /// When it could not be kept.
    pub async fn record(&self, record: impl Into<Box<ExchangeRecord>>, revision: i64) -> Result<Recorded, RecordError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { entry: Entry::new(record.into()), revision, reply };
        self.queue.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => RecordError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => RecordError::Unavailable,
        })?;
        answer.await.unwrap_or(Err(RecordError::Unavailable))
    }

    /// How many wait to be recorded, besides those that are being recorded.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Takes no more, commits what is queued, and returns when that is done.
    pub async fn shutdown(&self) {
        self.closing.notify_one();
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the recorder ended badly");
        }
    }
}

async fn run(store: Store, configuration: Arc<Configuration>, mut jobs: mpsc::Receiver<Job>, closing: Arc<Notify>) {
    let lane = choose_lane(&SystemEntropy);
    let at_most = match store.writer().get_database_backend() {
        DbBackend::Sqlite => GATHERING,
        _ => GATHERING_FOR_POSTGRES,
    };
    let mut known = None;
    let mut batch = Vec::with_capacity(BATCH);
    let (mut began, mut crowded) = (Instant::now(), false);
    let (mut kept, mut kept_since) = (None, began);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let first = tokio::select! {
            biased;
            () = closing.notified() => {
                jobs.close();
                continue;
            }
            _ = looks.tick() => {
                if !store.takes_writes() {
                    // Who waits for readiness sends nothing: without this, nobody would ever find out that there is room again.
                    kept = None;
                    let _ = timeout(COMMIT, store.try_write()).await;
                }
                continue;
            }
            first = jobs.recv() => first,
        };
        let Some(first) = first else { return };
        batch.push(first);
        if crowded {
            // A fast disk would take a commit of two or three records each time, and those would use up the processor.
            sleep_until(began + PACE).await;
        }
        // Whoever is ready to go on now comes into the same commit, and where several come together, whoever comes meanwhile.
        // When there is nothing else to do, this costs nothing.
        let gathering = Instant::now();
        for _ in 0..if crowded { ROUNDS } else { 1 } {
            tokio::task::yield_now().await;
            while batch.len() < BATCH
                && let Ok(job) = jobs.try_recv()
            {
                batch.push(job);
            }
            if batch.len() == BATCH || gathering.elapsed() > at_most {
                break;
            }
        }
        (began, crowded) = (Instant::now(), batch.len() > 1);
        if kept.is_none() {
            kept_since = began;
        }
        metrics::gauge!("sallyport_record_queue_depth").set(count(jobs.len()));
        metrics::histogram!("sallyport_record_batch_size").record(count(batch.len()));
        settle(&store, &configuration, lane, &mut known, &mut kept, std::mem::take(&mut batch)).await;
        if jobs.is_empty() || kept_since.elapsed() > KEEPING {
            kept = None;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point, and queues are short")]
const fn count(n: usize) -> f64 {
    n as f64
}

/// Commits the jobs and answers them all. When the database refuses the batch for what is in it, the halves are tried by
/// themselves, so that one record cannot take its neighbours with it.
async fn settle(
    store: &Store,
    configuration: &Configuration,
    lane: i64,
    known: &mut Option<Held>,
    kept: &mut Option<Connection>,
    jobs: Vec<Job>,
) {
    let mut batches = vec![jobs];
    while let Some(mut jobs) = batches.pop() {
        let last = *known;
        let mut connection = kept.take();
        let work = retry(|| commit(store, configuration, lane, last, connection.take(), &jobs));
        let outcome = match timeout(COMMIT, timed("record", work)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::timed_out("recording exchanges")),
        };
        if let Err(error) = &outcome {
            store.failed_to_write(error);
        }
        match outcome {
            Ok((outcomes, held, connection)) => {
                *known = Some(held);
                *kept = connection;
                let mut durable = Vec::with_capacity(jobs.len());
                for (Job { entry, reply, .. }, outcome) in jobs.into_iter().zip(outcomes) {
                    // Whoever went away meanwhile has no use for the answer.
                    let _ = reply.send(Ok(outcome));
                    if outcome == Recorded::Durable {
                        durable.push(entry);
                    }
                }
                // After all answers, which are waited for.
                for entry in durable {
                    let time = held.on_record(entry.record().time);
                    store.tell(|| Event::Exchange(entry.into_record(time)));
                }
            }
            Err(error) if !error.is_transient() && jobs.len() > 1 => {
                tracing::error!(%error, records = jobs.len(), "a batch was refused: trying its halves");
                let half = jobs.split_off(jobs.len() / 2);
                batches.push(half);
                batches.push(jobs);
            }
            Err(error) => {
                tracing::error!(%error, records = jobs.len(), "exchanges could not be recorded");
                for job in jobs {
                    let _ = job.reply.send(Err(RecordError::Unavailable));
                }
            }
        }
    }
}

/// What became of each job, in order; what was held; and the connection, if it may be kept.
type Committed = (Vec<Recorded>, Held, Option<Connection>);

/// One transaction. `last` is what was held the last time, and `kept` the connection that was kept.
async fn commit(
    store: &Store,
    configuration: &Configuration,
    lane: i64,
    last: Option<Held>,
    kept: Option<Connection>,
    jobs: &[Job],
) -> Result<Committed, StoreError> {
    if let Some(committed) = commit_at_once(store, configuration, lane, last, kept, jobs).await? {
        return Ok(committed);
    }
    // What was kept has been given back: there may be no other for this.
    let (outcomes, held) = commit_step_by_step(store, configuration, lane, jobs).await?;
    Ok((outcomes, held, None))
}

/// Without an answer nothing was written.
async fn commit_at_once(
    store: &Store,
    configuration: &Configuration,
    lane: i64,
    last: Option<Held>,
    kept: Option<Connection>,
    jobs: &[Job],
) -> Result<Option<Committed>, StoreError> {
    let Some(held) = last else { return Ok(None) };
    if jobs.iter().any(|job| job.record().granted && job.revision != held.revision) {
        return Ok(None);
    }
    let entries: Vec<&Entry> = jobs.iter().map(|job| &job.entry).collect();
    let began = Instant::now();
    match at_once::record(store, kept, lane, held, &entries).await {
        Ok(Some((outcomes, connection))) => {
            configuration.confirm(held.revision, began);
            store.wrote();
            if let Some(usages) = store.usages() {
                usages.gather(uses(&durable(entries, &outcomes), held));
            }
            Ok(Some((outcomes, held, connection)))
        }
        Ok(None) => Ok(None),
        Err(error) if error.is_transient() => Err(error),
        // Nothing was written. Why it cannot be is said by whoever tries next; or only such a statement is too much for the database.
        Err(error) => {
            tracing::debug!(%error, "exchanges could not be recorded at once");
            Ok(None)
        }
    }
}

/// What became of each job, in order, and what was held.
async fn commit_step_by_step(
    store: &Store,
    configuration: &Configuration,
    lane: i64,
    jobs: &[Job],
) -> Result<(Vec<Recorded>, Held), StoreError> {
    let transaction = store.begin_write().await?;
    let began = Instant::now();
    let held = hold_revision(&transaction, lane).await?;
    let revision = held.revision;
    configuration.confirm(revision, began);
    let oldest = jobs.iter().filter(|job| job.record().granted).map(|job| job.revision).min();
    let since = Since::read(&transaction, oldest.unwrap_or(revision), revision).await?;

    let mut seen = HashSet::new();
    let mut tokens: BTreeMap<(Uuid, Vec<u8>), i64> = BTreeMap::new();
    let mut outcomes: Vec<Recorded> = jobs
        .iter()
        .map(|job| {
            if job.record().granted && since.changes_what(job.record(), job.revision) {
                return Recorded::Superseded;
            }
            match job.entry.replay() {
                Some(replay) if !seen.insert((replay.provider, replay.fingerprint)) => Recorded::Replayed,
                Some(replay) => {
                    tokens.insert((replay.provider.0, replay.fingerprint.to_vec()), replay.until.micros());
                    Recorded::Durable
                }
                None => Recorded::Durable,
            }
        })
        .collect();

    let fresh = consume(&transaction, &tokens).await?;
    for (job, outcome) in jobs.iter().zip(&mut outcomes) {
        if *outcome == Recorded::Durable
            && let Some(replay) = job.entry.replay()
            && !fresh.contains(&(replay.provider.0, replay.fingerprint.to_vec()))
        {
            *outcome = Recorded::Replayed;
        }
    }

    let rows = durable(jobs.iter().map(|job| &job.entry), &outcomes);
    if rows.is_empty() {
        transaction.rollback().await?;
        return Ok((outcomes, held));
    }
    let uses = uses(&rows, held);
    let value = |entry: &&Entry, column| entry.cell(held.on_record(entry.record().time), column).into();
    EXCHANGES.rows(&transaction, &rows, value).await?;
    if store.usages().is_none() {
        usage::write(&transaction, &uses).await?;
    }

    transaction.commit().await?;
    store.wrote();
    if let Some(usages) = store.usages() {
        usages.gather(uses);
    }
    Ok((outcomes, held))
}

/// Those that are to be on record, by these outcomes.
fn durable<'r>(entries: impl IntoIterator<Item = &'r Entry>, outcomes: &[Recorded]) -> Vec<&'r Entry> {
    let all = entries.into_iter().zip(outcomes);
    all.filter(|(_, outcome)| **outcome == Recorded::Durable).map(|(entry, _)| entry).collect()
}

/// What grants among these say of when their trusts were last used.
fn uses(entries: &[&Entry], held: Held) -> Uses {
    let mut uses = Uses::new();
    for grant in entries.iter().map(|entry| entry.record()).filter(|record| record.granted) {
        usage::add(&mut uses, grant, held.on_record(grant.time));
    }
    uses
}

/// What has changed up to the revision of now.
struct Since {
    revision: i64,
    /// `None` when it cannot be told.
    changes: Option<Vec<(i64, Changed)>>,
}

impl Since {
    /// What changed after `oldest`. Nothing did when that is the revision of now, as it nearly always is.
    async fn read(db: &impl sea_orm::ConnectionTrait, oldest: i64, revision: i64) -> Result<Self, StoreError> {
        use configuration_change::{Column, Entity};
        if oldest == revision {
            return Ok(Self { revision, changes: Some(Vec::new()) });
        }
        let rows = Entity::find().filter(Column::Revision.gt(oldest)).limit(CHANGES + 1).all(db).await?;
        let revisions: BTreeSet<i64> = rows.iter().map(|row| row.revision).collect();
        let complete = u64::try_from(rows.len()).is_ok_and(|rows| rows <= CHANGES)
            && i64::try_from(revisions.len()) == Ok(revision - oldest);
        let changes = rows.iter().map(|row| Some((row.revision, Changed::parse(&row.kind, &row.key)?))).collect();
        Ok(Self { revision, changes: if complete { changes } else { None } })
    }

    /// Whether something that the grant rests on changed after `decided_on`.
    fn changes_what(&self, grant: &ExchangeRecord, decided_on: i64) -> bool {
        decided_on != self.revision
            && self.changes.as_ref().is_none_or(|changes| {
                changes.iter().any(|(revision, changed)| *revision > decided_on && rests_on(grant, changed))
            })
    }
}

/// Whether the grant rests on what changed. What a record does not name, it might rest on.
fn rests_on(grant: &ExchangeRecord, changed: &Changed) -> bool {
    let organization =
        |id: &OrganizationId| grant.scope != Scope::Platform && grant.organization.as_ref().is_none_or(|own| own == id);
    match changed {
        Changed::Trust(id) => grant.trust.is_none_or(|own| own == *id),
        Changed::TrustsOf(scope) => grant.scope == *scope,
        Changed::Provider(id) => grant.provider.is_none_or(|own| own == *id),
        Changed::Subject(id, hash) => {
            grant.provider.is_none_or(|own| own == *id) && subject_status::hash(&grant.subject) == *hash
        }
        Changed::ServiceAccount(id) => grant.service_account.is_none_or(|own| own == *id),
        Changed::Space(id) => matches!(&grant.scope, Scope::Space(own) if own == id),
        Changed::Organization(id) | Changed::Role(id, _) => organization(id),
        // The credential of a grant is new, and no grant comes from an API token.
        Changed::Credential(_) | Changed::ApiToken(_) => false,
    }
}

/// Marks the tokens as used; answers those that were not before.
async fn consume(
    db: &impl sea_orm::ConnectionTrait,
    uses: &BTreeMap<(Uuid, Vec<u8>), i64>,
) -> Result<HashSet<(Uuid, Vec<u8>)>, StoreError> {
    let rows = uses.iter().map(|((provider, fingerprint), until)| {
        replay_use::Model { provider_id: *provider, fingerprint: fingerprint.clone(), until: *until }
            .into_active_model()
    });
    let inserted = replay_use::Entity::insert_many::<replay_use::ActiveModel, _>(rows)
        .on_conflict_do_nothing()
        .exec_with_returning_keys(db)
        .await?;
    Ok(match inserted {
        TryInsertResult::Inserted(keys) => keys.into_iter().collect(),
        TryInsertResult::Empty | TryInsertResult::Conflicted => HashSet::new(),
    })
}
