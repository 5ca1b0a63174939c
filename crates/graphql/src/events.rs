//! The record as collectors read it: exchanges and management changes, in OCSF, oldest first, from any point on.

use async_graphql::{Context, Enum, Object, SimpleObject};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::role::Permission;
use sallyport_store::{Event, EventFilter};
use serde_json::Value;

use crate::access::{Access, Caller};
use crate::error::{Error, Result};
use crate::paging::{self, PageInfo, cost};

/// A kind of event.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EventKind {
    /// An exchange, granted or refused: an Authentication event of OCSF, class 3002.
    Exchange,
    /// A management change: an API Activity event of OCSF, class 6003.
    Change,
}

impl EventKind {
    const fn permission(self) -> Permission {
        match self {
            Self::Exchange => Permission::ExchangesRead,
            Self::Change => Permission::AuditRead,
        }
    }
}

/// The next events.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "ExportEventsPayload")]
pub(crate) struct ExportedEvents {
    /// The events in OCSF 1.6.0, oldest first. `metadata.uid` is an exchange's reference, or a management change's id.
    events: Vec<Value>,
    /// Where this page ends. A collector asks on with `endCursor` for ever; on an empty page that is the cursor it came with.
    page_info: PageInfo,
}

/// The query.
#[derive(Default)]
pub(crate) struct EventQuery;

#[Object]
impl EventQuery {
    /// The exchanges and management changes of a scope and of everything below it, in OCSF, oldest first: for collectors.
    /// Whoever goes on from `endCursor` misses no event and gets none twice, whichever replica answers. For that an event is
    /// handed out about ten seconds after it happened.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn export_events(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Only events of these kinds; when left out, of all that you may see.")] kinds: Option<
            Vec<EventKind>,
        >,
        #[graphql(desc = "Only events at or after this time (RFC 3339).")] since: Option<String>,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<ExportedEvents>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let since = time("since", since)?;
        let snapshot = caller.snapshot()?;
        let kinds = readable(&caller.access(&snapshot)?, &scope, kinds)?;
        let (exchanges, changes) = (kinds.contains(&EventKind::Exchange), kinds.contains(&EventKind::Change));
        let filter = EventFilter { scope, exchanges, changes, since, until: None };
        let page = caller.services.store.export_events(&filter, &request, caller.now()).await?;
        let page_info = (&page).into();
        let installation = &caller.services.installation;
        let events = page.items.iter().map(|event: &Event| event.to_ocsf(installation)).collect();
        Ok(Some(ExportedEvents { events, page_info }))
    }
}

/// The kinds that were asked for, each of which must be allowed; else those that are, of which there must be one.
fn readable(
    access: &Access<'_>,
    scope: &sallyport_domain::scope::Scope,
    kinds: Option<Vec<EventKind>>,
) -> Result<Vec<EventKind>> {
    let asked = kinds.filter(|kinds| !kinds.is_empty());
    let mut allowed = Vec::new();
    for kind in asked.clone().unwrap_or_else(|| vec![EventKind::Exchange, EventKind::Change]) {
        match access.require(kind.permission(), scope, "scope") {
            Ok(()) => allowed.push(kind),
            Err(refusal) if asked.is_some() => return Err(refusal),
            Err(_) => {}
        }
    }
    if allowed.is_empty() {
        access.require(Permission::ExchangesRead, scope, "scope")?;
    }
    Ok(allowed)
}

fn time(field: &str, given: Option<String>) -> Result<Option<Timestamp>> {
    given
        .map(|text| {
            Timestamp::parse_rfc3339(&text)
                .ok_or_else(|| Error::invalid(field, "must be an RFC 3339 time such as 2027-01-31T00:00:00Z"))
        })
        .transpose()
}
