//! Single subjects of a provider: disabling one, whichever of the provider's trusts it matches.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::ProviderId;
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_domain::subject_status::{SubjectStatus, recorded};
use sallyport_store::{Page, Write};
use serde_json::json;

use crate::access::{Access, Caller, Planned};
use crate::error::{Error, Result};
use crate::paging::{self, COUNTED, PageInfo, cost};

/// Longest subject, in bytes: that of a whole token.
const SUBJECT_MAX: usize = 16 * 1_024;
/// Most subjects of one provider of which something is said: every replica holds them all in memory.
const SUBJECTS_MAX: usize = 10_000;

/// What an admin has said about one subject of a provider.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFSubject")]
pub(crate) struct WifSubject {
    /// MRN of the provider.
    provider_mrn: String,
    /// The subject, whole, as `listExchanges` shows it.
    subject: String,
    /// A disabled subject neither gets nor uses credentials, whichever trust it matches.
    disabled: bool,
    /// Credentials issued to it before this time have ended (RFC 3339).
    credentials_not_before: Option<String>,
    /// When this was last said (RFC 3339).
    updated_at: String,
    /// MRN of who said it.
    updated_by: String,
}

impl WifSubject {
    fn new(caller: &Caller, scope: &Scope, status: &SubjectStatus) -> Self {
        Self {
            provider_mrn: caller.mrns().format(&Resource::Provider(scope.clone(), status.provider)),
            subject: status.subject.clone(),
            disabled: status.disabled,
            credentials_not_before: status.credentials_not_before.map(Timestamp::to_rfc3339),
            updated_at: status.updated_at.to_rfc3339(),
            updated_by: status.updated_by.clone(),
        }
    }
}

/// A subject to be disabled or enabled.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "UpdateWIFSubjectInput")]
pub(crate) struct UpdateInput {
    /// MRN of the provider whose subject it is.
    provider_mrn: String,
    /// The subject, whole and in its letters' case, as `listExchanges` shows it. Not a pattern: where a workload chooses a part
    /// of its subject, as the session of an AWS role or a branch, disable the trust instead.
    subject: String,
    /// Whether it is disabled.
    disabled: bool,
}

/// A subject that was disabled or enabled.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "UpdateWIFSubjectPayload")]
pub(crate) struct UpdatePayload {
    /// The subject.
    subject: WifSubject,
}

/// One page of subjects.
#[derive(Debug)]
pub(crate) struct SubjectList {
    scope: Scope,
    provider: ProviderId,
    page: Page<SubjectStatus>,
}

/// One page of subjects.
#[Object(name = "ListWIFSubjectsPayload")]
impl SubjectList {
    /// The subjects, longest unchanged first.
    async fn subjects(&self, context: &Context<'_>) -> Result<Vec<WifSubject>> {
        let caller = Caller::of(context)?;
        Ok(self.page.items.iter().map(|status| WifSubject::new(caller, &self.scope, status)).collect())
    }

    /// How many there are in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_subject_statuses(self.provider).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// The query.
#[derive(Default)]
pub(crate) struct SubjectQuery;

#[Object]
impl SubjectQuery {
    /// The subjects of a provider that are disabled, or whose credentials were revoked within the last day.
    #[graphql(name = "listWIFSubjects", complexity = "cost(first, child_complexity)")]
    async fn list_wif_subjects(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the provider.")] provider_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<SubjectList>> {
        let caller = Caller::of(context)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        let access = caller.access(&snapshot)?;
        let (scope, provider) = provider(caller, &access, &provider_mrn)?;
        access.require(Permission::ProvidersRead, &scope, "provider")?;
        let page = caller.services.store.list_subject_statuses(provider, &request).await?;
        Ok(Some(SubjectList { scope, provider, page }))
    }
}

/// The mutation.
#[derive(Default)]
pub(crate) struct SubjectMutation;

#[Object]
impl SubjectMutation {
    /// Disables one subject of a provider, or enables it again. As long as it is disabled it gets nothing, whichever trust it
    /// matches, and what it has got does not work.
    #[graphql(name = "updateWIFSubject", complexity = "50 + child_complexity")]
    async fn update_wif_subject(&self, context: &Context<'_>, input: UpdateInput) -> Result<Option<UpdatePayload>> {
        let caller = Caller::of(context)?;
        let (subject, _) = caller
            .mutate(|access| {
                let (scope, provider) = provider(caller, access, &input.provider_mrn)?;
                access.require_federation(Permission::ProvidersManage, &scope, "provider")?;
                check_subject(&input.subject)?;
                let mut status = status_of(caller, access, provider, &input.subject)?;
                let shown = |disabled| Some(json!({ "subject": status.subject, "disabled": disabled }));
                let record = (shown(status.disabled), shown(input.disabled));
                status.disabled = input.disabled;
                let target = Resource::Provider(scope.clone(), provider);
                let audit = caller.audit(access.snapshot, "updateWIFSubject", &target, &scope, record);
                let value = WifSubject::new(caller, &scope, &status);
                Ok(Planned { writes: vec![Write::PutSubjectStatus(status), audit], value })
            })
            .await?;
        Ok(Some(UpdatePayload { subject }))
    }
}

/// The provider that an MRN names, if it is there. What the caller may do to it is for the caller of this to ask.
fn provider(caller: &Caller, access: &Access<'_>, mrn: &str) -> Result<(Scope, ProviderId)> {
    let missing = || Error::not_found("provider");
    let Some(Resource::Provider(scope, id)) = caller.mrns().parse(mrn) else { return Err(missing()) };
    match access.snapshot.provider(id) {
        Some(provider) if provider.scope == scope => Ok((scope, id)),
        _ => Err(missing()),
    }
}

/// Refuses what can be no subject.
pub(crate) fn check_subject(subject: &str) -> Result<()> {
    if subject.is_empty() {
        return Err(Error::invalid("subject", "must not be empty"));
    }
    if subject.len() > SUBJECT_MAX {
        let message = format!("is {} bytes long; at most {SUBJECT_MAX} are allowed", subject.len());
        return Err(Error::invalid("subject", message));
    }
    Ok(())
}

/// What was said about the subject, to be changed by this caller. Refuses one more than [`SUBJECTS_MAX`].
pub(crate) fn status_of(
    caller: &Caller,
    access: &Access<'_>,
    provider: ProviderId,
    subject: &str,
) -> Result<SubjectStatus> {
    let said = access.snapshot.subject_status(provider, subject);
    if said.is_none() && access.snapshot.subject_count(provider) >= SUBJECTS_MAX {
        return Err(Error::exhausted(format!(
            "{SUBJECTS_MAX} subjects of this provider are disabled or had their credentials revoked within the last day, and \
             no more are possible; enable some again, or disable or revoke the trust or the provider instead"
        ))
        .on("subject"));
    }
    Ok(SubjectStatus {
        provider,
        subject: recorded(subject).into_owned(),
        disabled: said.is_some_and(|status| status.disabled),
        credentials_not_before: said.and_then(|status| status.credentials_not_before),
        updated_at: caller.now(),
        updated_by: caller.principal.mrn.clone(),
    })
}
