//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures::future::Either;
use sallyport_domain::exchange::Protocol;

use crate::services::Services;
use crate::{discovery, introspection, oauth, rpc};

/// The door at which a request asks for an exchange, if it does.
pub fn door<B>(request: &Request<B>) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|door| request.uri().path() == path(*door) && request.method() == Method::POST)
}

/// Where a door is.
pub const fn path(door: Protocol) -> &'static str {
    match door {
        Protocol::Rpc => rpc::EXCHANGE,
        Protocol::Oauth => oauth::TOKEN,
    }
}

/// The exchange that is asked for at this door: what the router would lead to, without the way there.
pub fn exchange(
    door: Protocol,
    services: Arc<Services>,
    request: Request<Body>,
) -> impl Future<Output = Response> + Send {
    match door {
        Protocol::Rpc => Either::Left(rpc::exchange_external_token(State(services), request)),
        Protocol::Oauth => Either::Right(oauth::token(State(services), request)),
    }
}

/// Every route of the gateway.
pub fn router(services: Arc<Services>) -> Router {
    Router::new()
        .route(rpc::EXCHANGE, post(rpc::exchange_external_token).fallback(rpc::no_such_method))
        .route("/Health/Check", post(rpc::health_check).fallback(rpc::no_such_method))
        .route("/AgentManager/PingPong", post(rpc::ping_pong).fallback(rpc::no_such_method))
        .route("/SecureTokenService/{*method}", any(rpc::no_such_method))
        .route("/Health/{*method}", any(rpc::no_such_method))
        .route("/AgentManager/{*method}", any(rpc::no_such_method))
        .route(oauth::TOKEN, post(oauth::token))
        .route("/auth/v1/introspect", post(introspection::introspect))
        .route("/auth/v1/revoke", post(introspection::revoke))
        .route("/auth/v1/jwks", get(discovery::jwks))
        .route("/.well-known/jwks.json", get(discovery::jwks))
        .route("/.well-known/openid-configuration", get(discovery::openid_configuration))
        .route("/.well-known/oauth-authorization-server", get(discovery::authorization_server))
        .route(discovery::CA_PATH, get(discovery::ca))
        .with_state(services)
}

/// What a request must be remembered by, so that its caller gets an answer which it can read even when the request takes too
/// long or crashes. Cheap to make: nearly every request is finished.
#[derive(Debug)]
pub struct Unfinished {
    path: Path,
    encoding: rpc::Encoding,
}

#[derive(Debug)]
enum Path {
    /// Of an exchange, whose target is not kept: it would keep all that was read with it, and the connection would have to
    /// read on into other memory.
    Door(Protocol),
    /// Of anything else.
    Other(Uri),
}

impl Unfinished {
    /// Of this request.
    pub fn of<B>(request: &Request<B>) -> Self {
        let path = door(request).map_or_else(|| Path::Other(request.uri().clone()), Path::Door);
        Self { path, encoding: rpc::Encoding::of_response(request.headers()) }
    }

    /// Its path.
    pub fn path(&self) -> &str {
        match &self.path {
            Path::Door(door) => path(*door),
            Path::Other(uri) => uri.path(),
        }
    }

    /// The answer. That of an exchange names a reference, which stands in the operator's log.
    pub fn answer(&self, services: &Services) -> Response {
        const BODY: &str = r#"{"error":"temporarily_unavailable","error_description":"the request could not be finished just now; try again"}"#;
        if self.path() == oauth::TOKEN {
            return oauth::unfinished(services);
        }
        rpc::unfinished(services, self.path(), self.encoding).unwrap_or_else(|| {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "application/json")], BODY).into_response()
        })
    }
}
