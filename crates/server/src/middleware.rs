//! What every request passes: an id, a span, a deadline, a net under panics, headers that browsers respect. When there is more to
//! do than can be done, exchanges are refused before all of it, where they have cost next to nothing yet.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::Either;
use hyper::body::Incoming;
use metrics::{Counter, Histogram, SharedString};
use opentelemetry_http::HeaderExtractor;
use sallyport_domain::exchange::Protocol;
use sallyport_gateway::overload::{Pace, Refusals};
use sallyport_gateway::request_id::{self, CurrentRequest, REQUEST_ID};
use sallyport_gateway::shedding::Asked;
use sallyport_gateway::{Services, Unfinished, routes};
use tokio::runtime::Handle;
use tower::Service;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::shedding::Refuse;

/// In place of an id that cannot be told.
const NO_ID: HeaderValue = HeaderValue::from_static("none");

/// Longest time for one request, from its first byte to its answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Wraps the routes. One layer: each costs every request a copy of the service beneath it.
pub(crate) fn wrap(routes: Router, services: Arc<Services>) -> Front {
    let routes = routes.fallback(not_found).layer(from_fn_with_state(services, pass));
    Front { routes, doors: None }
}

/// Wraps the routes of the gateway and what stands beside it. Exchanges, which are nearly all that is asked for, do not take the
/// router's way: they are refused before everything else while there is more to do than can be done, and else go straight
/// to their door.
pub(crate) fn wrap_gateway(routes: Router, services: Arc<Services>) -> Front {
    let refusals = Refusals::new(secure);
    let pace = Pace::new(Handle::current().metrics().num_workers());
    let doors = Doors { services: Arc::clone(&services), refusals, pace };
    Front { doors: Some(Arc::new(doors)), ..wrap(routes, services) }
}

/// Of exchanges, looked up once: the recorder of metrics is installed before the first request, and stays.
static EXCHANGES: LazyLock<[Counted; 2]> = LazyLock::new(|| {
    Protocol::ALL.map(|door| {
        let path = routes::path(door);
        let with = |status| metrics::counter!("sallyport_http_requests_total", "route" => path, "status" => status);
        let took = metrics::histogram!("sallyport_http_request_duration_seconds", "route" => path);
        Counted { took, answered: with("200"), refused: with("503") }
    })
});

struct Counted {
    took: Histogram,
    answered: Counter,
    refused: Counter,
}

/// What stands before the routes.
pub(crate) struct Front {
    routes: Router,
    /// The doors of exchanges, where there are any.
    doors: Option<Arc<Doors>>,
}

/// Where exchanges are refused while there is more to do than can be done.
pub(crate) struct Doors {
    services: Arc<Services>,
    refusals: Refusals,
    pace: Pace,
}

impl Doors {
    fn refuse(&self, door: Protocol, headers: &HeaderMap) -> Option<Response> {
        self.refuses(door).then(|| {
            let mut response = self.refusals.refuse(door, headers);
            let id = identify_by(&self.services, headers);
            response.headers_mut().insert(REQUEST_ID, id);
            response
        })
    }

    fn refuses(&self, door: Protocol) -> bool {
        let refuses = self.services.overload.refuses(self.services.recorder.waiting());
        if refuses {
            EXCHANGES[door as usize].refused.increment(1);
        }
        refuses
    }
}

/// Before anything is made of them.
impl Refuse for Doors {
    fn may_refuse(&self) -> bool {
        self.services.overload.is_there(self.services.recorder.waiting())
    }

    fn refuse(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        self.refuses(asked.door).then(|| {
            let id = identify(&self.services, asked.id);
            self.refusals.write(asked, (&REQUEST_ID, &id))
        })
    }

    fn unheard(&self, now: tokio::time::Instant) -> Option<tokio::time::Instant> {
        self.pace.refused(now)
    }
}

impl Front {
    /// Where exchanges are refused before anything is made of them, where there are any.
    pub(crate) fn refuse(&self) -> Option<Arc<dyn Refuse>> {
        self.doors.clone().map(|doors| -> Arc<dyn Refuse> { doors })
    }

    /// Answers a request.
    pub(crate) fn answer(
        &self,
        request: http::Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
        let Some((doors, door)) = self.doors.as_deref().and_then(|doors| Some((doors, routes::door(&request)?))) else {
            return Either::Right(Either::Right(self.routes.clone().call(request)));
        };
        if let Some(refusal) = doors.refuse(door, request.headers()) {
            let unheard = doors.unheard(tokio::time::Instant::now());
            return Either::Left(async move {
                // On this connection others may be asking as well, so the answer waits in their place.
                if let Some(until) = unheard {
                    tokio::time::sleep_until(until).await;
                }
                Ok(refusal)
            });
        }
        let (began, services, at_door) = (Instant::now(), Arc::clone(&doors.services), Arc::clone(&doors.services));
        let (id, path) = (identify_by(&services, request.headers()), routes::path(door));
        // For whoever debugs or traces. The few lines that are written otherwise name the request themselves.
        let span = tracing::debug_span!("request", id = id.to_str().unwrap_or_default(), method = "POST", path);
        let run = move |request| routes::exchange(door, at_door, request);
        let answer = framed(services, id, span, request.map(Body::new), run).map(move |response| {
            count_exchange(door, response.status(), began.elapsed());
            Ok(response)
        });
        Either::Right(Either::Left(Box::pin(answer)))
    }
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], r#"{"error":"not_found"}"#).into_response()
}

/// Any other request: counted by its route as it is written in the router, so that strangers cannot make up new ones.
async fn pass(State(services): State<Arc<Services>>, request: Request, next: Next) -> Response {
    let (began, route) = (Instant::now(), request.extensions().get::<MatchedPath>().cloned());
    let id = identify_by(&services, request.headers());
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = request.method().as_str(),
        path = request.uri().path(),
    );
    let id_of_run = id.clone();
    let run = |mut request: Request| {
        // For the audit log.
        request.headers_mut().insert(REQUEST_ID, id_of_run);
        next.run(request)
    };
    let response = framed(services, id, span, request, run).await;
    let route = route.map_or(SharedString::const_str("none"), |path| path.as_str().to_owned().into());
    count(route, response.status(), began.elapsed());
    response
}

/// Names the request, on its answer and in every log line, and runs it in its span, with a deadline and a net under panics: either
/// way the caller gets an answer it can read, and the others go on.
///
/// Put together of futures that lie in each other: of an `async fn` each part would be there twice, first as an argument.
fn framed<F: Future<Output = Response>>(
    services: Arc<Services>,
    id: HeaderValue,
    span: Span,
    request: Request,
    run: impl FnOnce(Request) -> F,
) -> impl Future<Output = Response> {
    // A stranger who could name the trace could also have everything of its sampled.
    if services.trusted_proxies.vouches(request.extensions()) {
        let context = opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.extract(&HeaderExtractor(request.headers()))
        });
        let _ = span.set_parent(context);
    }
    let (unfinished, span_of_run, id_of_run) = (Unfinished::of(&request), span.clone(), id.clone());
    let run = AssertUnwindSafe(async move { run(request).await }).catch_unwind();
    let answer = tokio::time::timeout(DEADLINE, run).map(move |outcome| {
        let (request, path) = (CurrentRequest, unfinished.path());
        match outcome {
            Ok(Ok(response)) => return response,
            Ok(Err(_)) => tracing::error!(%request, path, "a request panicked"),
            Err(_) => tracing::warn!(%request, path, "a request took longer than {} s", DEADLINE.as_secs()),
        }
        unfinished.answer(&services)
    });
    request_id::named(id_of_run, answer).instrument(span_of_run).map(move |mut response| {
        // Of traces only: no line is written after it.
        span.set_attribute("http.response.status_code", i64::from(response.status().as_u16()));
        mark(&mut response, id);
        response
    })
}

/// What every answer bears: the request's id, and what browsers respect.
fn mark(response: &mut Response, id: HeaderValue) {
    response.headers_mut().insert(REQUEST_ID, id);
    secure(response);
}

fn secure(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// The id of a request with these headers.
fn identify_by(services: &Services, headers: &HeaderMap) -> HeaderValue {
    identify(services, headers.get(REQUEST_ID).map(HeaderValue::as_bytes))
}

/// The caller's own request id when it is harmless, else a new one.
fn identify(services: &Services, given: Option<&[u8]>) -> HeaderValue {
    let harmless = given.filter(|id| {
        (1..=64).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    // A copy of its own: what was read with it is not to be kept for it.
    harmless.and_then(|id| HeaderValue::from_bytes(id).ok()).unwrap_or_else(|| {
        // A UUID is always a valid header value.
        let id = Bytes::from(services.new_id().to_string());
        HeaderValue::from_maybe_shared(id).unwrap_or(NO_ID)
    })
}

fn count_exchange(door: Protocol, status: StatusCode, took: Duration) {
    if status == StatusCode::OK {
        EXCHANGES[door as usize].took.record(took.as_secs_f64());
        EXCHANGES[door as usize].answered.increment(1);
    } else {
        count(SharedString::const_str(routes::path(door)), status, took);
    }
}

fn count(route: SharedString, status: StatusCode, took: Duration) {
    let labels = [("route", route), ("status", status.as_str().to_owned().into())];
    metrics::histogram!("sallyport_http_request_duration_seconds", &labels[..1]).record(took.as_secs_f64());
    metrics::counter!("sallyport_http_requests_total", &labels).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_door_is_counted_as_itself() {
        for (index, door) in Protocol::ALL.into_iter().enumerate() {
            assert_eq!(door as usize, index);
        }
    }
}
