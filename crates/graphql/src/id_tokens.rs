//! OIDC ID tokens for third parties.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use sallyport_credentials::id_token::IdTokenClaims;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::CredentialId;
use sallyport_domain::mrn::Resource;
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_domain::trust::BINDING_LIFETIME;
use sallyport_domain::validate;
use serde_json::json;

use crate::access::{Access, Caller, Planned};
use crate::admission;
use crate::error::{Error, Result};
use crate::trusts::account_named;

/// An ID token to be made.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "GenerateIDTokenInput")]
pub(crate) struct GenerateInput {
    /// The third party it is for.
    audience: String,
    /// MRN of the service account it speaks of; yourself when left out.
    service_account_mrn: Option<String>,
    /// Its lifetime in seconds, 1 to 86,400; 3,600 when left out. It never outlives the credential you
    /// use, nor the service account it speaks of.
    expiration: Option<i64>,
}

/// A new ID token.
#[derive(SimpleObject, Clone)]
#[graphql(name = "GenerateIDTokenPayload")]
pub(crate) struct GeneratePayload {
    /// The token: a JWT that the third party verifies from our key set.
    token: String,
    /// When it ends (RFC 3339).
    expires_at: String,
}

/// The mutations.
#[derive(Default)]
pub(crate) struct IdTokenMutation;

#[Object]
impl IdTokenMutation {
    /// Generates an OIDC ID token for a third party. Its subject is the MRN of the service account; for an API token, which is
    /// none, that of the token's scope.
    #[graphql(name = "generateIDToken", complexity = "50 + child_complexity")]
    async fn generate_id_token(&self, context: &Context<'_>, input: GenerateInput) -> Result<Option<GeneratePayload>> {
        Ok(Some(Box::pin(generate(Caller::of(context)?, &input)).await?))
    }
}

async fn generate(caller: &Caller, input: &GenerateInput) -> Result<GeneratePayload> {
    let services = &caller.services;
    admission::audience(&input.audience)?;
    let seconds = validate::lifetime("expiration", input.expiration.unwrap_or(i64::from(BINDING_LIFETIME)))?;
    let jti = CredentialId(services.new_id());
    let ((subject, now, end), _) = caller
        .mutate(|access| {
            let (subject, scope, account_ends) = speaks_of(caller, access, input)?;
            let now = caller.now();
            let ends = [access.principal.expires_at, account_ends];
            let end = ends.into_iter().flatten().fold(now.plus_seconds(i64::from(seconds)), Timestamp::min);
            let subject_mrn = caller.mrns().format(&subject);
            let after = json!({ "audience": input.audience, "jti": jti.to_string(), "expiresAt": end.to_rfc3339() });
            let audit = caller.audit(access.snapshot, "generateIDToken", &subject, &scope, (None, Some(after)));
            // On record before the token leaves.
            Ok(Planned { writes: vec![audit], value: (subject_mrn, now, end) })
        })
        .await?;
    let claims = IdTokenClaims {
        iss: services.installation.public_url.clone(),
        sub: subject,
        aud: input.audience.clone(),
        iat: now.seconds(),
        exp: end.seconds(),
        jti,
    };
    let token = services.keys.load().sign_id_token(&claims).map_err(|error| Error::internal(&error.to_string()))?;
    Ok(GeneratePayload { token, expires_at: end.to_rfc3339() })
}

/// Of whom an ID token is to speak, at which scope the right to have it is needed, and when they end.
fn speaks_of(
    caller: &Caller,
    access: &Access<'_>,
    input: &GenerateInput,
) -> Result<(Resource, Scope, Option<Timestamp>)> {
    let principal = &access.principal;
    let oneself = principal.service_account.filter(|_| match &input.service_account_mrn {
        None => true,
        Some(mrn) => *mrn == principal.mrn,
    });
    match (&input.service_account_mrn, oneself) {
        (_, Some(id)) => {
            let scope = principal.scope.clone();
            access.require_openly(Permission::IdTokensIssue, &scope)?;
            let ends = access.snapshot.service_account(id).and_then(|account| account.valid_until);
            Ok((Resource::ServiceAccount(scope.clone(), id), scope, ends))
        }
        (None, None) => {
            let scope = principal.scope.clone();
            access.require_openly(Permission::IdTokensIssue, &scope)?;
            Ok((Resource::Scope(scope.clone()), scope, None))
        }
        (Some(mrn), None) => {
            let account = account_named(caller, access, "serviceAccountMrn", mrn)?;
            access.require(Permission::IdTokensIssue, &account.scope, "service account")?;
            // To speak for an account is to have what it has.
            access.may_grant("serviceAccountMrn", &account.roles, &account.scope)?;
            let ended = account.valid_until.is_some_and(|end| end <= caller.now());
            if account.disabled || ended || !access.snapshot.scope_enabled(&account.scope) {
                return Err(Error::failed_precondition("the service account, or its scope, is disabled or has ended")
                    .on("serviceAccountMrn"));
            }
            Ok((
                Resource::ServiceAccount(account.scope.clone(), account.id),
                account.scope.clone(),
                account.valid_until,
            ))
        }
    }
}
