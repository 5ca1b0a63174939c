//! Health and metrics for operators.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use sallyport_gateway::Services;

/// `/livez` and `/readyz`, for both listeners.
pub(crate) fn health(services: Arc<Services>) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(services)
}

/// The admin listener: health, and metrics when they are collected.
pub(crate) fn admin(services: Arc<Services>, metrics: Option<PrometheusHandle>) -> Router {
    let router = health(services);
    match metrics {
        None => router,
        Some(handle) => router.route(
            "/metrics",
            get(|| async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()) }),
        ),
    }
}

/// Ready when the database has confirmed the configuration within the last second (exchanges need no more of it than what they name),
/// and takes writes: without a record nothing leaves. Asks nobody: strangers may ask this as often as they like.
async fn readyz(State(services): State<Arc<Services>>) -> Response {
    if !services.configuration.is_confirmed() {
        return (StatusCode::SERVICE_UNAVAILABLE, "configuration: not confirmed by the database\n").into_response();
    }
    if !services.store.takes_writes() {
        return (StatusCode::SERVICE_UNAVAILABLE, "database: takes no writes; is its disk full?\n").into_response();
    }
    "ok\n".into_response()
}
