//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};

use crate::services::Services;
use crate::{discovery, introspection, oauth, rpc};

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

/// The answer to a request that took too long or crashed, as the caller of that path reads it. One of an exchange names a
/// reference, which stands in the operator's log.
pub fn unfinished(services: &Services, path: &str, headers: &HeaderMap) -> Response {
    const BODY: &str = r#"{"error":"temporarily_unavailable","error_description":"the request could not be finished just now; try again"}"#;
    if path == oauth::TOKEN {
        return oauth::unfinished(services);
    }
    rpc::unfinished(services, path, headers).unwrap_or_else(|| {
        (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "application/json")], BODY).into_response()
    })
}
