//! What every request passes: an id, a span, a deadline, a net under panics, headers that browsers respect.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use metrics::SharedString;
use opentelemetry_http::HeaderExtractor;
use sallyport_gateway::Services;
use tracing::Instrument;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header of the request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest time for one request, from its first byte to its answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Wraps the routes.
pub(crate) fn wrap(routes: Router, services: Arc<Services>) -> Router {
    routes
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&services), finish))
        .layer(from_fn(browser_headers))
        .layer(from_fn_with_state(services, identify))
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], r#"{"error":"not_found"}"#).into_response()
}

/// A deadline, and a net under panics: either way the caller gets an answer it can read, and the others go on.
async fn finish(State(services): State<Arc<Services>>, request: Request, next: Next) -> Response {
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let run = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(response)) => return response,
        Ok(Err(_)) => tracing::error!(path, "a request panicked"),
        Err(_) => tracing::warn!(path, "a request took longer than {} s", DEADLINE.as_secs()),
    }
    sallyport_gateway::unfinished(&services, &path, &headers)
}

/// Takes over a caller's request id when it is harmless, else makes one; says it on the answer and in every log line.
async fn identify(State(services): State<Arc<Services>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    let id = given.cloned().unwrap_or_else(|| {
        // A UUID is always a valid header value.
        HeaderValue::from_str(&services.new_id().to_string()).unwrap_or_else(|_| HeaderValue::from_static("none"))
    });
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
        http.response.status_code = Empty,
    );
    // A stranger who could name the trace could also have everything of its sampled.
    if services.trusted_proxies.vouches(request.extensions()) {
        let context = opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.extract(&HeaderExtractor(request.headers()))
        });
        let _ = span.set_parent(context);
    }
    let (began, route) = (Instant::now(), route(&request));
    let mut response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    let labels = [("route", route), ("status", SharedString::from(response.status().as_str().to_owned()))];
    metrics::histogram!("sallyport_http_request_duration_seconds", &labels[..1]).record(began.elapsed().as_secs_f64());
    metrics::counter!("sallyport_http_requests_total", &labels).increment(1);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The route as it is written in the router, so that strangers cannot make up new ones.
fn route(request: &Request) -> SharedString {
    match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned().into(),
        None => "none".into(),
    }
}

async fn browser_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
