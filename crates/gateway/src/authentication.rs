//! Who is calling our own API: an API token, an access token we minted, or a service account's own JWT.
//!
//! Everything a credential hangs on is looked up in the current snapshot at every call, so that removing or disabling any
//! of it ends or suspends the credential at once.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sallyport_credentials::access_token::AccessTokenClaims;
use sallyport_credentials::secret::{hash_secret, hashes_equal};
use sallyport_credentials::service_account_jwt::UnverifiedServiceAccountJwt;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::{CredentialId, ServiceAccountId, TrustId};
use sallyport_domain::mrn::Resource;
use sallyport_domain::principal::{ApiToken, Principal, PrincipalKind, ServiceAccount};
use sallyport_domain::role::RoleRef;
use sallyport_domain::scope::Scope;
use sallyport_domain::snapshot::Snapshot;
use sallyport_store::{Needed, StoredCredential};

use crate::services::Services;

/// Longest bearer value looked at, in bytes.
const BEARER_MAX: usize = 16 * 1024;

/// Which door the caller stands at.
#[derive(Clone, Copy, Debug)]
pub enum Door<'a> {
    /// The GraphQL API, with the body's bytes: a `chash` is checked when present.
    Graphql(&'a [u8]),
    /// An RPC, with the body's bytes: a `chash` is required when there is a body.
    Rpc(&'a [u8]),
    /// Another endpoint, whose body the clients do not sign.
    Other,
}

/// Why nobody was recognised. What exactly was wrong is nobody's business but the log's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// No, or no valid, credential.
    #[error("unauthenticated")]
    Unauthenticated,
    /// It cannot be told just now: the configuration or the database is out of reach.
    #[error("authentication is not available just now")]
    Unavailable,
}

use AuthenticationError::{Unauthenticated, Unavailable};

/// Recognises the caller by its `Authorization: Bearer` header.
///
/// # Errors
/// [`Unauthenticated`] for a missing, malformed, foreign, expired, revoked or suspended credential;
/// [`Unavailable`] when that cannot be told.
pub async fn authenticate(
    services: &Services,
    headers: &HeaderMap,
    door: Door<'_>,
) -> Result<Principal, AuthenticationError> {
    let bearer = bearer(headers)?;
    let snapshot = snapshot_with(services, &[]).await?;
    if bearer.bytes().filter(|b| *b == b'.').count() != 2 {
        return api_token(services, &snapshot, bearer);
    }
    jwt(services, bearer, door).await
}

async fn snapshot_with(services: &Services, needed: &[Needed<'_>]) -> Result<Arc<Snapshot>, AuthenticationError> {
    services.configuration.current_with(needed).await.map_err(|_| Unavailable)
}

/// Recognises a service account by a JWT: one that it signed itself, or one of our access tokens.
///
/// # Errors
/// As [`authenticate`].
pub async fn jwt(services: &Services, token: &str, door: Door<'_>) -> Result<Principal, AuthenticationError> {
    match UnverifiedServiceAccountJwt::parse(token) {
        Ok(jwt) => service_account_jwt(services, &jwt, door).await,
        // Not a service account's: then it can only be one of our access tokens.
        Err(_) => {
            let keys = services.keys.load();
            let claims = keys
                .verify_access_token(token, &services.installation.public_url, services.now())
                .map_err(|_| Unauthenticated)?;
            access_token(services, &claims).await
        }
    }
}

/// Whom a credential that an exchange gave out makes, of whatever sort, when it is named rather than shown.
///
/// # Errors
/// As [`authenticate`].
pub async fn credential(
    services: &Services,
    scope: &Scope,
    account: ServiceAccountId,
    id: CredentialId,
) -> Result<Principal, AuthenticationError> {
    let stored = stored_credential(services, scope, account, id).await?;
    Exchanged::stored(services, stored)?.recognised(services).await
}

/// A credential of an exchange, and when it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Possessed {
    /// The credential.
    pub id: CredentialId,
    /// The scope it was granted in.
    pub scope: Scope,
    /// Whose it is.
    pub account: ServiceAccountId,
    /// When it ends.
    pub until: Timestamp,
}

/// Which credential somebody holds who shows this: an access token, or a JWT signed just now with the key of a key pair.
/// Whether it works at the moment is not asked. A standing key is no credential of an exchange; it ends with its account.
///
/// # Errors
/// As [`authenticate`].
pub async fn possessed(services: &Services, token: &str) -> Result<Possessed, AuthenticationError> {
    let mrns = &services.installation.mrns;
    let Ok(jwt) = UnverifiedServiceAccountJwt::parse(token) else {
        let keys = services.keys.load();
        let claims = keys
            .verify_access_token(token, &services.installation.public_url, services.now())
            .map_err(|_| Unauthenticated)?;
        return match mrns.parse(&claims.sub) {
            Some(Resource::ServiceAccount(scope, account)) => {
                Ok(Possessed { id: claims.jti, scope, account, until: Timestamp::from_seconds(claims.exp) })
            }
            _ => Err(Unauthenticated),
        };
    };
    let Some(Resource::Credential(scope, account, id)) = mrns.parse(jwt.key_id()) else { return Err(Unauthenticated) };
    let stored = stored_credential(services, &scope, account, id).await?;
    let key = stored.public_key.as_deref().ok_or(Unauthenticated)?;
    jwt.verify(key, services.now(), None, false).map_err(|_| Unauthenticated)?;
    // What has ended needs no revoking, and its holder writes nothing here any more.
    if stored.expires_at <= services.now() {
        return Err(Unauthenticated);
    }
    Ok(Possessed { id, scope, account, until: stored.expires_at })
}

async fn stored_credential(
    services: &Services,
    scope: &Scope,
    account: ServiceAccountId,
    id: CredentialId,
) -> Result<StoredCredential, AuthenticationError> {
    let stored = services.store.find_credential(scope, account, id).await.map_err(|_| Unavailable)?;
    stored.ok_or(Unauthenticated)
}

/// What has to be loaded before [`revalidate`] can be asked.
pub fn needed(principal: &Principal) -> Option<Needed<'static>> {
    principal.trust.map(Needed::Trust).or_else(|| principal.service_account.map(Needed::ServiceAccount))
}

/// The same caller by a newer snapshot, with the rights it has there: for requests that take their time. `None` when the
/// credential no longer stands.
pub fn revalidate(services: &Services, principal: &Principal, snapshot: &Snapshot) -> Option<Principal> {
    if let Some(id) = principal.api_token {
        return holder(services, snapshot, snapshot.api_token(id)?).ok();
    }
    let account = principal.service_account?;
    match (principal.credential, principal.trust, principal.issued_at, principal.expires_at) {
        (None, ..) => standing(services, snapshot, snapshot.service_account(account)?).ok(),
        (Some(credential), Some(trust), Some(issued_at), Some(expires_at)) => {
            let (scope, roles) = (principal.scope.clone(), principal.roles.clone());
            let subject = principal.subject.clone()?;
            let used = Exchanged { scope, account, trust, subject, credential, issued_at, expires_at, roles };
            used.principal(services, snapshot).ok()
        }
        _ => None,
    }
}

/// The bearer value; exactly one header, scheme in any case (RFC 6750 section 2.1, RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, AuthenticationError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Unauthenticated) };
    let text = value.to_str().map_err(|_| Unauthenticated)?;
    let (scheme, token) = text.split_once(' ').ok_or(Unauthenticated)?;
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= BEARER_MAX {
        Ok(token)
    } else {
        Err(Unauthenticated)
    }
}

fn api_token(services: &Services, snapshot: &Snapshot, bearer: &str) -> Result<Principal, AuthenticationError> {
    let hash = hash_secret(bearer);
    let token = snapshot.api_token_by_hash(&hash).ok_or(Unauthenticated)?;
    if !hashes_equal(&hash, &token.secret_hash) {
        return Err(Unauthenticated);
    }
    holder(services, snapshot, token)
}

/// Whoever holds an API token: all its roles.
fn holder(services: &Services, snapshot: &Snapshot, token: &ApiToken) -> Result<Principal, AuthenticationError> {
    if !snapshot.scope_enabled(&token.scope) {
        return Err(Unauthenticated);
    }
    Ok(Principal {
        kind: PrincipalKind::ApiToken,
        mrn: services.installation.mrns.format(&Resource::ApiToken(token.scope.clone(), token.id)),
        name: token.name.clone(),
        scope: token.scope.clone(),
        permissions: snapshot.permissions_of(&token.roles),
        roles: token.roles.clone(),
        issued_at: None,
        expires_at: None,
        api_token: Some(token.id),
        service_account: None,
        credential: None,
        trust: None,
        subject: None,
    })
}

/// Recognises an access token of ours by its claims.
async fn access_token(services: &Services, claims: &AccessTokenClaims<'_>) -> Result<Principal, AuthenticationError> {
    let mrns = &services.installation.mrns;
    let Some(Resource::ServiceAccount(scope, account)) = mrns.parse(&claims.sub) else { return Err(Unauthenticated) };
    let Some(Resource::Trust(_, trust)) = mrns.parse(&claims.wif.trust) else { return Err(Unauthenticated) };
    let used = Exchanged {
        scope,
        account,
        trust,
        subject: claims.wif.subject.clone().into_owned(),
        credential: claims.jti,
        // `iat` has whole seconds, and what was issued in the second of a revocation, after it, is to live.
        issued_at: Timestamp::from_seconds(claims.iat).max(claims.jti.made_at().unwrap_or_default()),
        expires_at: Timestamp::from_seconds(claims.exp),
        roles: claims.roles.iter().filter_map(|mrn| mrns.parse_role(mrn)).collect(),
    };
    used.recognised(services).await
}

async fn service_account_jwt(
    services: &Services,
    jwt: &UnverifiedServiceAccountJwt<'_>,
    door: Door<'_>,
) -> Result<Principal, AuthenticationError> {
    let mrns = &services.installation.mrns;
    let (body, require_chash) = match door {
        Door::Graphql(body) => (Some(body), false),
        Door::Rpc(body) => (Some(body), !body.is_empty()),
        Door::Other => (None, false),
    };
    match mrns.parse(jwt.key_id()) {
        Some(Resource::ServiceAccount(scope, id)) => {
            let snapshot = snapshot_with(services, &[Needed::ServiceAccount(id)]).await?;
            let account = snapshot.service_account(id).filter(|a| a.scope == scope).ok_or(Unauthenticated)?;
            let key = account.standing_key.as_deref().ok_or(Unauthenticated)?;
            jwt.verify(key, services.now(), body, require_chash).map_err(|_| Unauthenticated)?;
            standing(services, &snapshot, account)
        }
        Some(Resource::Credential(scope, account, id)) => {
            let stored = stored_credential(services, &scope, account, id).await?;
            let key = stored.public_key.as_deref().ok_or(Unauthenticated)?;
            jwt.verify(key, services.now(), body, require_chash).map_err(|_| Unauthenticated)?;
            Exchanged::stored(services, stored)?.recognised(services).await
        }
        _ => Err(Unauthenticated),
    }
}

/// A service account by its standing key: all its roles.
fn standing(
    services: &Services,
    snapshot: &Snapshot,
    account: &Arc<ServiceAccount>,
) -> Result<Principal, AuthenticationError> {
    check_account(account, services.now())?;
    if !snapshot.scope_enabled(&account.scope) {
        return Err(Unauthenticated);
    }
    Ok(Principal {
        kind: PrincipalKind::ServiceAccount,
        mrn: services.installation.mrns.format(&Resource::ServiceAccount(account.scope.clone(), account.id)),
        name: account.name.to_string(),
        scope: account.scope.clone(),
        permissions: snapshot.permissions_of(&account.roles),
        roles: account.roles.to_vec(),
        issued_at: None,
        expires_at: account.valid_until,
        api_token: None,
        service_account: Some(account.id),
        credential: None,
        trust: None,
        subject: None,
    })
}

fn check_account(account: &ServiceAccount, now: Timestamp) -> Result<(), AuthenticationError> {
    let ended = account.valid_until.is_some_and(|end| end <= now);
    if account.disabled || ended { Err(Unauthenticated) } else { Ok(()) }
}

/// A credential that came out of an exchange, of either sort, once its own signature and times are checked.
struct Exchanged {
    scope: Scope,
    account: ServiceAccountId,
    trust: TrustId,
    subject: String,
    credential: CredentialId,
    issued_at: Timestamp,
    expires_at: Timestamp,
    roles: Vec<RoleRef>,
}

impl Exchanged {
    fn stored(services: &Services, stored: StoredCredential) -> Result<Self, AuthenticationError> {
        let mrns = &services.installation.mrns;
        Ok(Self {
            scope: stored.scope,
            account: stored.account,
            trust: stored.trust.ok_or(Unauthenticated)?,
            subject: stored.subject,
            credential: stored.id,
            issued_at: stored.issued_at,
            expires_at: stored.expires_at,
            roles: stored.roles.iter().filter_map(|mrn| mrns.parse_role(mrn)).collect(),
        })
    }

    async fn recognised(self, services: &Services) -> Result<Principal, AuthenticationError> {
        let snapshot = snapshot_with(services, &[Needed::Trust(self.trust)]).await?;
        self.principal(services, &snapshot)
    }

    fn principal(self, services: &Services, snapshot: &Snapshot) -> Result<Principal, AuthenticationError> {
        let now = services.now();
        let candidate = snapshot.candidate(self.trust).ok_or(Unauthenticated)?;
        let account = candidate.account.as_ref().filter(|a| a.id == self.account && a.scope == self.scope);
        let account = account.ok_or(Unauthenticated)?;
        check_account(account, now)?;
        let trust = candidate.trust.trust();
        let revoked = |not_before: Option<Timestamp>| not_before.is_some_and(|t| self.issued_at < t);
        let status = snapshot.subject_status(candidate.provider.id, &self.subject);
        let suspended = candidate.provider.disabled
            || trust.disabled
            || !candidate.scope_enabled
            || status.is_some_and(|status| status.disabled);
        if self.expires_at <= now
            || suspended
            || snapshot.is_revoked(self.credential)
            || revoked(account.credentials_not_before)
            || revoked(trust.credentials_not_before)
            || revoked(candidate.provider.credentials_not_before)
            || revoked(status.and_then(|status| status.credentials_not_before))
        {
            return Err(Unauthenticated);
        }
        // What the account or the trust has lost since, the credential has lost too.
        let scoped = &trust.scoped_roles;
        let roles: Vec<RoleRef> = self
            .roles
            .into_iter()
            .filter(|role| account.roles.contains(role) && (scoped.is_empty() || scoped.contains(role)))
            .collect();
        Ok(Principal {
            kind: PrincipalKind::ServiceAccount,
            mrn: services.installation.mrns.format(&Resource::ServiceAccount(self.scope.clone(), self.account)),
            name: account.name.to_string(),
            scope: self.scope,
            permissions: snapshot.permissions_of(&roles),
            roles,
            issued_at: Some(self.issued_at),
            expires_at: Some(self.expires_at),
            api_token: None,
            service_account: Some(self.account),
            credential: Some(self.credential),
            trust: Some(self.trust),
            subject: Some(self.subject),
        })
    }
}
