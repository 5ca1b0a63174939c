//! Ending access: one credential, or all that a trust, a binding, a service account, a provider or one of its subjects has got.

use async_graphql::{Context, Object, SimpleObject};
use sallyport_domain::mrn::Resource;
use sallyport_domain::principal::ServiceAccount;
use sallyport_domain::provider::Provider;
use sallyport_domain::role::Permission;
use sallyport_store::{Write, binding_fingerprint};
use serde_json::json;

use crate::access::{Access, Caller, Planned};
use crate::error::{Error, Result};
use crate::subjects::{check_subject, status_of};

/// What may be named, for refusals.
const NAMED: &str = "credential, trust, binding, provider or service account";

/// What was revoked.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct RevokeCredentialsPayload {
    /// MRN of the credential, or of that whose credentials were all revoked.
    mrn: String,
}

/// The mutation.
#[derive(Default)]
pub(crate) struct RevocationMutation;

#[Object]
impl RevocationMutation {
    /// Ends one credential, or every credential that came so far of a trust, a binding, a service account, a provider, or of
    /// one subject of a provider. Whoever still matches a trust can get a new one: disable what is not to. The standing key of a
    /// service account, which createServiceAccount gave, goes on working: disable or delete the account to end it.
    #[graphql(complexity = "50 + child_complexity")]
    async fn revoke_credentials(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of a credential, a trust, a binding, a provider or a service account.")] mrn: String,
        #[graphql(
            desc = "With a provider: only the credentials of this subject, written as `listExchanges` shows it."
        )]
        subject: Option<String>,
    ) -> Result<Option<RevokeCredentialsPayload>> {
        Box::pin(revoke(Caller::of(context)?, &mrn, subject.as_deref())).await?;
        Ok(Some(RevokeCredentialsPayload { mrn }))
    }
}

async fn revoke(caller: &Caller, mrn: &str, subject: Option<&str>) -> Result<()> {
    let missing = || Error::not_found(NAMED);
    let target = caller.mrns().parse(mrn).ok_or_else(missing)?;
    let scope = match &target {
        Resource::Credential(scope, ..)
        | Resource::ServiceAccount(scope, _)
        | Resource::Trust(scope, _)
        | Resource::Binding(scope, _)
        | Resource::Provider(scope, _) => scope.clone(),
        _ => return Err(missing()),
    };
    if let Some(subject) = subject {
        if !matches!(target, Resource::Provider(..)) {
            return Err(Error::invalid("subject", "belongs to a provider: give the MRN of that provider with it"));
        }
        check_subject(subject)?;
    }
    let may = |access: &Access<'_>| access.require(Permission::CredentialsRevoke, &scope, NAMED);
    let until = match &target {
        Resource::Credential(_, account, id) => {
            may(&caller.access(&*caller.snapshot()?)?)?;
            let stored = caller.services.store.find_credential(&scope, *account, *id).await?;
            Some(stored.ok_or_else(missing)?.expires_at)
        }
        _ => None,
    };
    caller
        .mutate(|access| {
            may(access)?;
            let snapshot = access.snapshot;
            // Now, and not when the request came: what was issued while it waited for its turn is to end too.
            let now = caller.now();
            let write = match &target {
                Resource::Credential(_, _, id) if snapshot.is_revoked(*id) => {
                    return Ok(Planned { writes: Vec::new(), value: () });
                }
                Resource::Credential(_, _, id) => {
                    Write::RevokeCredential { id: *id, until: until.ok_or_else(missing)? }
                }
                Resource::ServiceAccount(_, id) => {
                    let found = snapshot.service_account(*id).filter(|account| account.scope == scope);
                    let mut account = found.map(|a| ServiceAccount::clone(a)).ok_or_else(missing)?;
                    account.credentials_not_before = Some(now);
                    Write::Ending(Box::new(Write::PutServiceAccount(account)))
                }
                Resource::Trust(_, id) | Resource::Binding(_, id) => {
                    let candidate = snapshot.candidate(*id).ok_or_else(missing)?;
                    let mut trust = candidate.trust.trust().clone();
                    if trust.scope != scope {
                        return Err(missing());
                    }
                    trust.credentials_not_before = Some(now);
                    let issuer = candidate.provider.issuer.key();
                    let binding_fingerprint = trust.binding.then(|| binding_fingerprint(&trust, issuer));
                    Write::Ending(Box::new(Write::PutTrust { trust, binding_fingerprint }))
                }
                Resource::Provider(_, id) => {
                    let found = snapshot.provider(*id).filter(|provider| provider.scope == scope);
                    let mut provider = found.map(|p| Provider::clone(p)).ok_or_else(missing)?;
                    match subject {
                        None => {
                            provider.credentials_not_before = Some(now);
                            Write::Ending(Box::new(Write::PutProvider(provider)))
                        }
                        Some(subject) => {
                            let mut status = status_of(caller, access, provider.id, subject)?;
                            status.credentials_not_before = Some(now);
                            Write::Ending(Box::new(Write::PutSubjectStatus(status)))
                        }
                    }
                }
                _ => return Err(missing()),
            };
            let after = subject.map(|subject| json!({ "subject": subject }));
            let audit = caller.audit(snapshot, "revokeCredentials", &target, &scope, (None, after));
            Ok(Planned { writes: vec![write, audit], value: () })
        })
        .await?;
    Ok(())
}
