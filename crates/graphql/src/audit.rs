//! The record of management changes: who did what to what, and what it was before.

use async_graphql::{Context, Object, SimpleObject};
use sallyport_domain::mrn::MrnDomain;
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_store::{AuditEntry as StoredEntry, Page};
use serde_json::Value;

use crate::access::Caller;
use crate::error::Result;
use crate::paging::{self, COUNTED, PageInfo, cost};

/// One management change.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct AuditEntry {
    /// Its id.
    id: String,
    /// When it was done (RFC 3339).
    time: String,
    /// MRN of who did it.
    actor_mrn: String,
    /// What was done: the name of the mutation.
    action: String,
    /// MRN of what it was done to.
    target_mrn: String,
    /// MRN of the scope.
    scope_mrn: String,
    /// What it was before; null when it was made.
    before: Option<Value>,
    /// What it was then; null when it was removed.
    after: Option<Value>,
    /// The request's `x-request-id`; null for what came from no request.
    request_id: Option<String>,
    /// Where the request came from, where that is known.
    source_ip: Option<String>,
}

impl AuditEntry {
    fn new(mrns: &MrnDomain, entry: &StoredEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            time: entry.time.to_rfc3339(),
            actor_mrn: entry.actor.clone(),
            action: entry.action.clone(),
            target_mrn: entry.target.clone(),
            scope_mrn: mrns.scope(&entry.scope),
            before: entry.before.clone(),
            after: entry.after.clone(),
            request_id: entry.request_id.clone(),
            source_ip: entry.source_ip.clone(),
        }
    }
}

/// One page of management changes.
#[derive(Debug)]
pub(crate) struct AuditList {
    scope: Scope,
    page: Page<StoredEntry>,
}

/// One page of management changes.
#[Object(name = "ListAuditEntriesPayload")]
impl AuditList {
    /// The changes, newest first.
    async fn entries(&self, context: &Context<'_>) -> Result<Vec<AuditEntry>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|entry| AuditEntry::new(mrns, entry)).collect())
    }

    /// How many there are in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_audit(&self.scope).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// The query.
#[derive(Default)]
pub(crate) struct AuditQuery;

#[Object]
impl AuditQuery {
    /// The management changes of a scope and of everything below it, newest first.
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn list_audit_entries(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<AuditList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::AuditRead, &scope, "scope")?;
        let page = caller.services.store.list_audit(&scope, &request).await?;
        Ok(Some(AuditList { scope, page }))
    }
}
