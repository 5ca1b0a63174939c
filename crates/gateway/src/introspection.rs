//! Token introspection (RFC 7662) and revocation (RFC 7009): of access tokens, of key pairs by a JWT that they signed, and of any
//! credential by its MRN. An ID token is known here by its MRN only: it is a third party's to check, and nobody here could
//! make it look again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sallyport_domain::clock::Timestamp;
use sallyport_domain::decision::Refusal;
use sallyport_domain::id::CredentialId;
use sallyport_domain::mrn::Resource;
use sallyport_domain::principal::Principal;
use sallyport_domain::role::{Permission, scope_text};
use sallyport_domain::scope::Scope;
use sallyport_store::{AuditEntry, MutateError, Write};
use serde_json::{Value, json};

use crate::authentication::{AuthenticationError, Door, authenticate, credential, jwt, needed, possessed, revalidate};
use crate::oauth::{Form, Refused, read};
use crate::origin::Origin;
use crate::services::Services;

/// `POST /auth/v1/introspect`: for a bearer that may read credentials at the token's scope; `{"active": false}` for all else.
pub async fn introspect(State(services): State<Arc<Services>>, request: Request<axum::body::Body>) -> Response {
    let headers = request.headers().clone();
    let origin = Origin::of(&services, request.extensions(), &headers);
    let token = match token_of(&services, &origin, request).await {
        Ok(token) => token,
        Err(refused) => return refused.into_response(),
    };
    match describe(&services, &headers, &token).await {
        Ok(Some(description)) => no_store(StatusCode::OK, description),
        Ok(None) => no_store(StatusCode::OK, json!({ "active": false })),
        Err(Unreachable) => Refused::unavailable().into_response(),
    }
}

/// The token that a form names, within the limits that exchanges have: whoever floods one door is not to be let in at the next.
async fn token_of(services: &Services, origin: &Origin, request: Request<axum::body::Body>) -> Result<String, Refused> {
    services.limits.admit(origin.source_ip).map_err(|wait| Refusal::RateLimited(wait.0))?;
    let body = read(request).await?;
    let token = Form::parse(&body)?.take("token").ok_or_else(|| Refused::request("token is missing"))?;
    Ok(token.into_owned())
}

/// The configuration cannot be confirmed just now.
struct Unreachable;

async fn describe(services: &Services, headers: &HeaderMap, token: &str) -> Result<Option<Value>, Unreachable> {
    let Some(caller) = known(authenticate(services, headers, Door::Other).await)? else { return Ok(None) };
    let snapshot = services.configuration.current_with(&[]).await.map_err(|_| Unreachable)?;
    let installation = &services.installation;
    let subject = match installation.mrns.parse(token) {
        Some(Resource::Credential(scope, account, id)) => {
            // Not even whether there is one is said to those who may not see it.
            if !caller.may(Permission::CredentialsRead, &scope, &*snapshot) {
                return Ok(None);
            }
            known(credential(services, &scope, account, id).await)?
        }
        _ => known(jwt(services, token, Door::Other).await)?,
    };
    let Some(subject) = subject.filter(|s| caller.may(Permission::CredentialsRead, &s.scope, &*snapshot)) else {
        return Ok(None);
    };
    let scope = scope_text(&subject.roles);
    let needed = needed(&subject);
    let snapshot = services.configuration.current_with(needed.as_slice()).await.map_err(|_| Unreachable)?;
    let trust = subject.trust.and_then(|id| snapshot.trust(id));
    let mut description = json!({
        "active": true,
        "scope": scope,
        "sub": subject.mrn,
        "iss": installation.public_url,
        "aud": installation.public_url,
    });
    let more = [
        ("client_id", trust.map(|trust| json!(installation.client_id(trust)))),
        ("jti", subject.credential.map(|id| json!(id.to_string()))),
        ("iat", subject.issued_at.map(|at| json!(at.seconds()))),
        ("exp", subject.expires_at.map(|at| json!(at.seconds()))),
        // A key pair is no bearer: its holder signs (RFC 7662 section 2.2 leaves the member out where it says nothing).
        ("token_type", is_access_token(services, token).then(|| json!("Bearer"))),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            description[name] = value;
        }
    }
    Ok(Some(description))
}

fn is_access_token(services: &Services, token: &str) -> bool {
    services.keys.load().verify_access_token(token, &services.installation.public_url, services.now()).is_ok()
}

/// Nobody, for a credential that is none; an error when that cannot be told.
fn known<T>(recognised: Result<T, AuthenticationError>) -> Result<Option<T>, Unreachable> {
    match recognised {
        Ok(found) => Ok(Some(found)),
        Err(AuthenticationError::Unauthenticated) => Ok(None),
        Err(AuthenticationError::Unavailable) => Err(Unreachable),
    }
}

/// `POST /auth/v1/revoke`: by possession of the token, or with an admin's bearer by the credential's MRN.
/// 200 whether or not there was anything to revoke (RFC 7009 section 2.2).
pub async fn revoke(State(services): State<Arc<Services>>, request: Request<axum::body::Body>) -> Response {
    let headers = request.headers().clone();
    let origin = Origin::of(&services, request.extensions(), &headers);
    let token = match token_of(&services, &origin, request).await {
        Ok(token) => token,
        Err(refused) => return refused.into_response(),
    };
    let target = match target(&services, &headers, &token).await {
        Ok(Some(target)) => target,
        Ok(None) => return StatusCode::OK.into_response(),
        Err(Unreachable) => return Refused::unavailable().into_response(),
    };
    match target.revoke(&services, &origin).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(Unreachable) => Refused::unavailable().into_response(),
    }
}

/// A credential to be revoked, and on whose word.
struct Target {
    id: CredentialId,
    mrn: String,
    scope: Scope,
    until: Timestamp,
    actor: String,
    /// The admin who asks; `None` for whoever has the token itself.
    admin: Option<Principal>,
}

async fn target(services: &Services, headers: &HeaderMap, token: &str) -> Result<Option<Target>, Unreachable> {
    let mrns = &services.installation.mrns;
    if let Some(Resource::Credential(scope, account, id)) = mrns.parse(token) {
        let Some(caller) = known(authenticate(services, headers, Door::Other).await)? else { return Ok(None) };
        let snapshot = services.configuration.current_with(&[]).await.map_err(|_| Unreachable)?;
        if !caller.may(Permission::CredentialsRevoke, &scope, &*snapshot) {
            return Ok(None);
        }
        let stored = services.store.find_credential(&scope, account, id).await.map_err(|_| Unreachable)?;
        return Ok(stored.map(|s| Target {
            id,
            mrn: token.to_owned(),
            scope,
            until: s.expires_at,
            actor: caller.mrn.clone(),
            admin: Some(caller),
        }));
    }
    let Some(held) = known(possessed(services, token).await)? else { return Ok(None) };
    let account = Resource::ServiceAccount(held.scope.clone(), held.account);
    let mrn = mrns.format(&Resource::Credential(held.scope.clone(), held.account, held.id));
    Ok(Some(Target {
        id: held.id,
        mrn,
        scope: held.scope,
        until: held.until,
        actor: mrns.format(&account),
        admin: None,
    }))
}

impl Target {
    async fn revoke(self, services: &Services, origin: &Origin) -> Result<(), Unreachable> {
        let (entry_id, time) = (services.new_id(), services.now());
        let needed = self.admin.as_ref().and_then(needed);
        services
            .configuration
            .mutate_with(needed.as_slice(), |snapshot| -> Result<_, std::convert::Infallible> {
                // By the configuration that is changed, not by the one that was there when the request came.
                let may = self.admin.as_ref().is_none_or(|admin| {
                    revalidate(services, admin, snapshot)
                        .is_some_and(|admin| admin.may(Permission::CredentialsRevoke, &self.scope, snapshot))
                });
                if !may || snapshot.is_revoked(self.id) {
                    return Ok((Vec::new(), ()));
                }
                let audit = AuditEntry {
                    id: entry_id,
                    time,
                    actor: self.actor.clone(),
                    // One thing, one word: the name of the mutation that does the same.
                    action: "revokeCredentials".to_owned(),
                    target: self.mrn.clone(),
                    scope: self.scope.clone(),
                    organization: snapshot.organization_of_scope(&self.scope),
                    before: None,
                    after: None,
                    request_id: origin.request_id.clone(),
                    source_ip: origin.source_ip.map(|ip| ip.to_string()),
                };
                Ok((vec![Write::RevokeCredential { id: self.id, until: self.until }, Write::Audit(audit)], ()))
            })
            .await
            .map_err(|error| match error {
                MutateError::Rejected(never) => match never {},
                MutateError::Conflict(_) | MutateError::Unavailable(_) => Unreachable,
            })
    }
}

fn no_store(status: StatusCode, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
