//! The record as collectors read it: exchanges and management changes in one order, from any point on, nothing missed and
//! nothing twice, however often they ask and whichever replica they ask.
//!
//! The order is by time, then id. Both are set before the commit, and commits of several replicas, whose clocks differ, end
//! in any order: an event can turn up behind one that was handed out long ago. So nothing is handed out before its time is
//! **settled**. Settling a time writes it into the row that mutations move and into every lane that recorders hold
//! ([`hold_revision`](crate::store::hold_revision)), as a mutation writes its revision: whoever is committing is waited for,
//! and whoever comes later reads it and puts nothing on record at or before it. An event that is late is recorded as of just
//! after. Late is what took longer than [`SETTLE`] to be recorded, or comes from a machine whose clock is that far behind.
//!
//! [`Store::stream_events`] is the other way out: what this replica made durable, as it happens, for as long as somebody
//! keeps up. It promises less: see there.

use sallyport_domain::clock::Timestamp;
use sallyport_domain::event::Event;
use sallyport_domain::scope::Scope;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::entity::{audit_entry, configuration_revision, exchange};
use crate::error::StoreError;
use crate::listing::{audit_in, exchanges_in};
use crate::paging::{ID, Key, Keyset, NUMBER, PAGE_MAX, Page, PageRequest, end_cursor, keyset};
use crate::store::{Store, apart, read_held, retry};
use crate::{ExchangeFilter, recorder};

/// How long ago, in seconds, something must have happened to be settled: twice what a commit may take.
pub const SETTLE: i64 = 2 * recorder::COMMIT.as_secs() as i64;
/// How far, in seconds, a time is settled at least: however many collectors ask, recorders are held up no more often.
const STEP: i64 = 1;
/// The name of the order, in cursors: one for each choice of kinds, so that a cursor that has passed by events of a kind cannot
/// be gone on with as if it had not.
const fn order_name(filter: &EventFilter) -> &'static str {
    match (filter.exchanges, filter.changes) {
        (true, true) => "event",
        (true, false) => "event.exchange",
        (false, _) => "event.change",
    }
}

/// Which events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventFilter {
    /// Of this scope and everything below.
    pub scope: Scope,
    /// Exchanges among them.
    pub exchanges: bool,
    /// Management changes among them.
    pub changes: bool,
    /// Only those at or after this time.
    pub since: Option<Timestamp>,
    /// Only those before this time.
    pub until: Option<Timestamp>,
}

impl EventFilter {
    /// All events of a scope and below.
    pub const fn of(scope: Scope) -> Self {
        Self { scope, exchanges: true, changes: true, since: None, until: None }
    }
}

impl Store {
    /// The next settled events, oldest first. `now` is the caller's clock; events of the last ten seconds are not handed out
    /// yet. The cursor of an empty page is the one it was asked with, so that a collector can go on with it for ever.
    ///
    /// # Errors
    /// A bad cursor, or the database.
    pub async fn export_events(
        &self,
        filter: &EventFilter,
        request: &PageRequest,
        now: Timestamp,
    ) -> Result<Page<Event>, StoreError> {
        let settled = read_held(self.reader()).await?.settled();
        let page = self.events_up_to(filter, request, settled).await?;
        let wanted = now.plus_seconds(-SETTLE);
        if page.has_next || wanted < settled.plus_seconds(STEP) {
            return Ok(page);
        }
        // No further than to what is handed out: nobody is held up for nothing, and a collector's clock that is ahead of
        // everyone's makes nobody late.
        match self.newest_up_to(filter, wanted).await? {
            Some(newest) if newest > settled => {
                let settled = self.settle(newest).await?;
                self.events_up_to(filter, request, settled).await
            }
            _ => Ok(page),
        }
    }

    /// When the newest of the events happened that are not after `last`.
    async fn newest_up_to(&self, filter: &EventFilter, last: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let db = self.reader();
        let mut newest = None;
        if filter.exchanges {
            let time: Option<i64> = newest_exchange(filter, last).into_tuple().one(db).await?;
            newest = newest.max(time);
        }
        if filter.changes {
            let time: Option<i64> = newest_change(filter, last).into_tuple().one(db).await?;
            newest = newest.max(time);
        }
        Ok(newest.map(Timestamp::from_micros))
    }

    async fn events_up_to(
        &self,
        filter: &EventFilter,
        request: &PageRequest,
        settled: Timestamp,
    ) -> Result<Page<Event>, StoreError> {
        let db = self.reader();
        let mut items = Vec::new();
        if filter.exchanges {
            let rows = exchanges(filter, request, settled)?.all(db).await?;
            for row in rows {
                items.push(Event::Exchange(Box::new(row.read()?)));
            }
        }
        if filter.changes {
            let rows = changes(filter, request, settled)?.all(db).await?;
            for row in rows {
                items.push(Event::Change(Box::new(row.read()?)));
            }
        }
        items.sort_by_key(|event| (event.time(), event.id()));
        let wanted = usize::try_from(request.first.clamp(1, PAGE_MAX)).unwrap_or(usize::MAX);
        let has_next = items.len() > wanted;
        items.truncate(wanted);
        let end_cursor = match items.last() {
            Some(last) => Some(end_cursor(order_name(filter), Key::Number(last.time().micros()), Key::Id(last.id()))?),
            None => request.after.clone(),
        };
        Ok(Page { items, end_cursor, has_next })
    }

    /// Settles the record up to `wanted`, unless it is settled further already; answers up to when it is.
    async fn settle(&self, wanted: Timestamp) -> Result<Timestamp, StoreError> {
        let store = self.clone();
        // Who asks for events may have to wait for the processor, and must not keep those waiting who record.
        apart(async move {
            let settling = retry(|| async {
                let transaction = store.begin_write().await?;
                settle_in(&transaction, wanted).await?;
                let settled = read_held(&transaction).await?.settled();
                transaction.commit().await?;
                Ok(settled)
            });
            match timeout(recorder::COMMIT, settling).await {
                Ok(settled) => settled,
                Err(_) => Err(StoreError::timed_out("settling the record")),
            }
        })
        .await
    }

    /// What this replica makes durable from here on, as it happens. Nobody waits for the receiver: when `room` events wait
    /// for it, further ones are left out, and counted in `sallyport_events_unwritten_total`. An event that is received is
    /// durable; one whose commit the database did not answer may be durable and not be received. `None` when somebody else
    /// receives them.
    pub fn stream_events(&self, room: usize) -> Option<mpsc::Receiver<Event>> {
        let (sender, receiver) = mpsc::channel(room.max(1));
        self.events().set(sender).ok().map(|()| receiver)
    }

    /// Tells the receiver, where there is one, of an event that is durable.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(sender) = self.events().get()
            && let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(event())
        {
            metrics::counter!("sallyport_events_unwritten_total", "reason" => "queue_full").increment(1);
        }
    }
}

/// As a mutation does it: first the row that lets one on at a time, then the lanes.
async fn settle_in(db: &impl ConnectionTrait, wanted: Timestamp) -> Result<(), StoreError> {
    use configuration_revision::{Column, Entity, ONLY};
    let wanted = wanted.micros();
    let to_wanted = || Entity::update_many().col_expr(Column::Settled, Expr::val(wanted));
    let moved = to_wanted().filter(Column::Id.eq(ONLY)).filter(Column::Settled.lt(wanted)).exec(db).await?;
    if moved.rows_affected == 1 {
        to_wanted().filter(Column::Id.ne(ONLY)).exec(db).await?;
    }
    Ok(())
}

fn exchanges(
    filter: &EventFilter,
    request: &PageRequest,
    settled: Timestamp,
) -> Result<Select<exchange::Entity>, StoreError> {
    use exchange::Column;
    let select = exchanges_in(&ExchangeFilter::of(filter.scope.clone()));
    let order = Keyset { name: order_name(filter), sort: Column::Time, id: Column::Id, descending: false };
    keyset(within(select, Column::Time, filter, settled), &order, (&NUMBER, &ID), request)
}

fn changes(
    filter: &EventFilter,
    request: &PageRequest,
    settled: Timestamp,
) -> Result<Select<audit_entry::Entity>, StoreError> {
    use audit_entry::Column;
    let order = Keyset { name: order_name(filter), sort: Column::Time, id: Column::Id, descending: false };
    keyset(within(audit_in(&filter.scope), Column::Time, filter, settled), &order, (&NUMBER, &ID), request)
}

fn newest_exchange(filter: &EventFilter, last: Timestamp) -> Select<exchange::Entity> {
    use exchange::Column;
    let select = within(exchanges_in(&ExchangeFilter::of(filter.scope.clone())), Column::Time, filter, last);
    select.select_only().column(Column::Time).order_by_desc(Column::Time).limit(1)
}

fn newest_change(filter: &EventFilter, last: Timestamp) -> Select<audit_entry::Entity> {
    use audit_entry::Column;
    let select = within(audit_in(&filter.scope), Column::Time, filter, last);
    select.select_only().column(Column::Time).order_by_desc(Column::Time).limit(1)
}

fn within<E: EntityTrait>(select: Select<E>, time: E::Column, filter: &EventFilter, settled: Timestamp) -> Select<E> {
    let mut select = select.filter(time.lte(settled.micros()));
    if let Some(since) = filter.since {
        select = select.filter(time.gte(since.micros()));
    }
    if let Some(until) = filter.until {
        select = select.filter(time.lt(until.micros()));
    }
    select
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::testing::{plan, scratch};
    use crate::store::{StoreOptions, hold_revision};
    use sallyport_domain::id::{OrganizationId, SpaceId};
    use sallyport_testkit::Postgres;
    use sea_orm::{DbBackend, IntoActiveModel, QueryTrait, Statement};
    use uuid::Uuid;

    /// A page costs the same wherever it lies and however much there is.
    #[tokio::test]
    async fn every_page_is_one_walk_along_an_index_between_two_times() {
        let (store, _folder) = scratch().await;
        let scopes = [
            ("time_id", Scope::Platform),
            ("organization_time_id", Scope::Organization(OrganizationId::parse("acme").unwrap())),
            ("scope_time_id", Scope::Space(SpaceId::parse("prod").unwrap())),
        ];
        for (index, scope) in scopes {
            let since = Some(Timestamp::from_seconds(1));
            let filter = EventFilter { since, ..EventFilter::of(scope) };
            for after in [None, Some(crate::paging::cursor(order_name(&filter), NUMBER, ID))] {
                let request = PageRequest { first: 50, after };
                let settled = Timestamp::from_seconds(9);
                let of_exchanges = exchanges(&filter, &request, settled).unwrap().build(DbBackend::Sqlite);
                let of_changes = changes(&filter, &request, settled).unwrap().build(DbBackend::Sqlite);
                let newest = newest_exchange(&filter, settled).build(DbBackend::Sqlite);
                let newest_change = newest_change(&filter, settled).build(DbBackend::Sqlite);
                for (table, statement) in [
                    ("exchanges", of_exchanges),
                    ("audit_entries", of_changes),
                    ("exchanges", newest),
                    ("audit_entries", newest_change),
                ] {
                    let plan = plan(&store, statement).await;
                    assert!(plan.starts_with("SEARCH"), "{plan}");
                    assert!(plan.contains(&format!("ix_{table}_{index} ")), "{index}: {plan}");
                    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
                }
            }
        }
    }

    /// Time and id of an event are older than its commit.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_in_flight_is_waited_for_before_its_time_is_settled() {
        let server = Postgres::shared().unwrap();
        let url = server.url(&server.create_random_database("store").unwrap());
        let store = Store::connect(&StoreOptions { url, max_connections: 16 }).await.unwrap();
        store.migrate().await.unwrap();
        let time = Timestamp::from_seconds(1_790_000_000);
        let entry = |number| audit_entry::Model {
            id: Uuid::from_u128(number),
            time: time.micros(),
            actor: String::new(),
            action: String::new(),
            target: String::new(),
            scope: "platform".into(),
            organization: None,
            before: None,
            after: None,
            request_id: None,
            source_ip: None,
        };
        let insert = |number| audit_entry::Entity::insert(entry(number).into_active_model());
        insert(2).exec_without_returning(store.writer()).await.unwrap();
        let in_flight = store.begin_write().await.unwrap();
        let held = hold_revision(&in_flight, 5).await.unwrap();
        assert_eq!(held.on_record(time), time, "not settled yet");
        let collector = tokio::spawn({
            let store = store.clone();
            async move {
                let filter = EventFilter::of(Scope::Platform);
                store.export_events(&filter, &PageRequest::default(), time.plus_seconds(60)).await.unwrap()
            }
        });
        loop {
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let row = store.reader().query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
            if row.unwrap().try_get_by_index::<i64>(0).unwrap() == 1 {
                break;
            }
            assert!(!collector.is_finished(), "a page was handed out that a commit in flight belongs to");
        }
        insert(1).exec_without_returning(&in_flight).await.unwrap();
        in_flight.commit().await.unwrap();
        let page = collector.await.unwrap();
        assert_eq!(page.items.iter().map(|event| event.id().as_u128()).collect::<Vec<_>>(), [1, 2]);
    }
}
