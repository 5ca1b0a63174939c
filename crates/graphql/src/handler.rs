//! GraphQL over HTTP: `POST /query` and `POST /graphql`, and GraphiQL for browsers at `GET /graphql`.
//!
//! Who calls is settled before the document is looked at, so strangers learn nothing of the schema. Well-formed requests are
//! answered with status 200 whatever became of them, as existing clients demand; only a request that asks for nothing but
//! `application/graphql-response+json` gets the statuses of that media type.

use std::sync::Arc;

use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationType};
use async_graphql::{BatchResponse, EmptySubscription, Request, Response, Schema};
use async_graphql_axum::GraphQLResponse;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use sallyport_domain::principal::Principal;
use sallyport_gateway::Services;
use sallyport_gateway::authentication::{Door, authenticate};
use sallyport_gateway::origin::Origin;
use serde_json::Value;

use crate::access::Caller;
use crate::error::{self, Code, Error};
use crate::graphiql;
use crate::limits::{self, BATCH_MAX, BODY_MAX, ERRORS_MAX};
use crate::schema::{Mutation, Query, build};

/// Settings of this surface.
#[derive(Clone, Copy, Debug)]
pub struct GraphqlOptions {
    /// Whether authenticated callers may ask for the schema.
    pub introspection: bool,
    /// Whether browsers get GraphiQL at `GET /graphql`.
    pub graphiql: bool,
}

impl Default for GraphqlOptions {
    fn default() -> Self {
        Self { introspection: true, graphiql: true }
    }
}

/// The schema with all it runs on.
#[derive(Clone)]
pub struct Api {
    services: Arc<Services>,
    schema: Schema<Query, Mutation, EmptySubscription>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// The routes of the management API.
pub fn router(services: Arc<Services>, options: GraphqlOptions) -> Router {
    let api = Api::new(services, options);
    let mut router = Router::new().route("/query", post(serve).fallback(post_only));
    if options.graphiql {
        router = router
            .route("/graphql", post(serve).get(graphiql_page).fallback(post_only))
            .route("/graphql/{file}", get(graphiql_file));
    } else {
        router = router.route("/graphql", post(serve).fallback(post_only));
    }
    router.with_state(api)
}

impl Api {
    /// Builds the schema.
    pub fn new(services: Arc<Services>, options: GraphqlOptions) -> Self {
        Self { services, schema: build(options) }
    }

    /// Executes one request for a caller who is known already.
    pub async fn execute(&self, principal: Arc<Principal>, origin: Origin, mut request: Request) -> Response {
        let mut response = match limits::admit(&request.query) {
            Err(refusal) => Response::from_errors(vec![refusal.into_server_error()]),
            Ok(document) => {
                let is_mutation = is_mutation(&document, request.operation_name.as_deref());
                request.set_parsed_query(document);
                let caller = Caller { services: Arc::clone(&self.services), principal, origin };
                let answer = Box::pin(self.schema.execute(request.data(caller)));
                // Mutations take none: exchanges may have to wait for what these hold. What queries hold, whenever they wait,
                // nobody else must need: `simulateExchange` and the store do such things in tasks of their own.
                if is_mutation { answer.await } else { self.services.turns.run(answer).await }
            }
        };
        let more = response.errors.len().saturating_sub(ERRORS_MAX);
        if more > 0 {
            response.errors.truncate(ERRORS_MAX);
            response.errors.push(Error::exhausted(format!("{more} more errors are not shown")).into_server_error());
        }
        for failure in &mut response.errors {
            error::complete(failure);
        }
        response
    }
}

async fn serve(
    State(api): State<Api>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> axum::response::Response {
    let reply = Reply::wanted(&headers);
    if !is_json(&headers) {
        let error = Error::invalid("Content-Type", "must be application/json");
        return reply.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, error);
    }
    let Ok(body) = to_bytes(body, BODY_MAX).await else {
        let error = Error::exhausted(format!("the request body must be whole and of at most {BODY_MAX} bytes"));
        return reply.refuse(StatusCode::PAYLOAD_TOO_LARGE, error);
    };
    let principal = match authenticate(&api.services, &headers, Door::Graphql(&body)).await {
        Ok(principal) => Arc::new(principal),
        Err(failure) => return reply.fail(failure.into()),
    };
    let origin = Origin::of(&api.services, &extensions, &headers);
    match read(&body) {
        Err(refusal) => reply.refuse(StatusCode::BAD_REQUEST, refusal),
        Ok(Requests::One(request)) => reply.one(api.execute(principal, origin, *request).await),
        Ok(Requests::Batch(requests)) => {
            let mut responses = Vec::with_capacity(requests.len());
            // One after the other: a batch takes no more of the machine than its requests sent singly.
            for request in requests {
                responses.push(api.execute(Arc::clone(&principal), origin.clone(), request).await);
            }
            reply.send(StatusCode::OK, BatchResponse::Batch(responses))
        }
    }
}

/// Whether what is to be done of this document is a mutation.
fn is_mutation(document: &ExecutableDocument, operation_name: Option<&str>) -> bool {
    let operation = match &document.operations {
        DocumentOperations::Single(only) => Some(only),
        // Also when only one is there that has a name; it is done without being asked for by that.
        DocumentOperations::Multiple(all) => match operation_name {
            Some(name) => all.get(name),
            None => all.values().next().filter(|_| all.len() == 1),
        },
    };
    operation.is_some_and(|operation| operation.node.ty == OperationType::Mutation)
}

enum Requests {
    One(Box<Request>),
    Batch(Vec<Request>),
}

fn read(body: &Bytes) -> Result<Requests, Error> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Error::invalid("body", format!("must be a JSON object with 'query': {error}")))?;
    match value {
        Value::Array(items) if items.is_empty() => Err(Error::invalid("body", "an empty batch asks for nothing")),
        Value::Array(items) if items.len() > BATCH_MAX => {
            Err(Error::exhausted(format!("a batch of {}; at most {BATCH_MAX} are allowed", items.len())))
        }
        Value::Array(items) => Ok(Requests::Batch(items.into_iter().map(read_one).collect::<Result<_, _>>()?)),
        one => Ok(Requests::One(Box::new(read_one(one)?))),
    }
}

fn read_one(mut value: Value) -> Result<Request, Error> {
    if let Value::Object(members) = &mut value {
        // Clients send null, or an empty operation name, for what they leave out.
        let left_out = |name: &str, value: &Value| value.is_null() || name == "operationName" && value == "";
        members.retain(|name, value| !left_out(name, value));
    }
    if !value.get("query").is_some_and(Value::is_string) {
        return Err(Error::invalid("query", "must be there, and be the GraphQL document"));
    }
    serde_json::from_value(value).map_err(|error| Error::invalid("body", format!("is not a GraphQL request: {error}")))
}

/// JSON and nothing else: a form or plain text is what another site's page can send without asking.
fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

const JSON: &str = "application/json";
const GRAPHQL_JSON: &str = "application/graphql-response+json";

/// How to answer.
#[derive(Clone, Copy)]
struct Reply {
    media_type: &'static str,
}

impl Reply {
    fn wanted(headers: &HeaderMap) -> Self {
        let mut graphql = false;
        for value in headers.get_all(header::ACCEPT) {
            for range in value.to_str().unwrap_or("*/*").split(',') {
                match range.split(';').next().map(str::trim) {
                    Some(JSON | "application/*" | "*/*") => return Self { media_type: JSON },
                    Some(GRAPHQL_JSON) => graphql = true,
                    _ => {}
                }
            }
        }
        Self { media_type: if graphql { GRAPHQL_JSON } else { JSON } }
    }

    fn one(self, response: Response) -> axum::response::Response {
        let outcome = response.errors.first().map_or("OK", |_| "ERROR");
        metrics::counter!("sallyport_graphql_requests_total", "outcome" => outcome).increment(1);
        let nothing_done = response.data == async_graphql::Value::Null && !response.errors.is_empty();
        let status = if nothing_done { self.status(StatusCode::BAD_REQUEST) } else { StatusCode::OK };
        self.send(status, response.into())
    }

    /// The status for a well-formed request that came to nothing.
    fn status(self, status: StatusCode) -> StatusCode {
        if self.media_type == GRAPHQL_JSON { status } else { StatusCode::OK }
    }

    fn fail(self, error: Error) -> axum::response::Response {
        let status = match error.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        self.refuse(self.status(status), error)
    }

    fn refuse(self, status: StatusCode, error: Error) -> axum::response::Response {
        metrics::counter!("sallyport_graphql_requests_total", "outcome" => error.code().name()).increment(1);
        self.send(status, Response::from_errors(vec![error.into_server_error()]).into())
    }

    fn send(self, status: StatusCode, answer: BatchResponse) -> axum::response::Response {
        let mut response = GraphQLResponse(answer).into_response();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

async fn graphiql_page(headers: HeaderMap) -> axum::response::Response {
    if takes_html(&headers) { graphiql::page() } else { post_only().await }
}

/// Browsers, and whoever takes anything.
fn takes_html(headers: &HeaderMap) -> bool {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    accept.is_empty()
        || accept.iter().any(|range| ["text/html", "text/*", "*/*"].iter().any(|html| range.contains(html)))
}

async fn graphiql_file(Path(name): Path<String>) -> axum::response::Response {
    graphiql::file(&name).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

async fn post_only() -> axum::response::Response {
    let error = Error::invalid("method", "must be POST, with a JSON body");
    let mut response = Reply { media_type: JSON }.refuse(StatusCode::METHOD_NOT_ALLOWED, error);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn only_json_is_read() {
        assert!(is_json(&headers(header::CONTENT_TYPE, "application/json; charset=utf-8")));
        for other in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"] {
            assert!(!is_json(&headers(header::CONTENT_TYPE, other)), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn the_newer_media_type_only_for_who_asks_for_nothing_else() {
        let wanted = |accept| Reply::wanted(&headers(header::ACCEPT, accept)).media_type;
        assert_eq!(wanted("*/*"), JSON);
        assert_eq!(wanted("application/graphql-response+json, application/json;q=0.9"), JSON);
        assert_eq!(wanted("application/graphql-response+json"), GRAPHQL_JSON);
        assert_eq!(Reply::wanted(&HeaderMap::new()).media_type, JSON);
    }

    #[test]
    fn it_is_a_mutation_when_that_is_what_is_to_be_done() {
        let is = |document, name| is_mutation(&limits::admit(document).unwrap(), name);
        assert!(is("mutation { a }", None) && is("mutation M { a }", Some("M")) && is("mutation M { a }", None));
        assert!(!is("{ a }", None) && !is("query Q { a }", Some("Q")) && !is("query Q { a }", None));
        let both = "query Q { a } mutation M { a }";
        assert!(is(both, Some("M")));
        assert!(!is(both, Some("Q")) && !is(both, Some("N")) && !is(both, None));
    }

    #[test]
    fn requests_are_read_leniently_and_batches_are_short() {
        let one =
            Bytes::from_static(br#"{"query":"{viewer{mrn}}","variables":null,"operationName":"","extensions":null}"#);
        assert!(matches!(read(&one), Ok(Requests::One(request)) if request.operation_name.is_none()));
        let batch = |n: usize| Bytes::from(format!("[{}]", vec![r#"{"query":"{viewer{mrn}}"}"#; n].join(",")));
        assert!(matches!(read(&batch(10)), Ok(Requests::Batch(requests)) if requests.len() == 10));
        assert_eq!(read(&batch(11)).err().map(|e| e.code()), Some(Code::ResourceExhausted));
        for wrong in ["", "{}", "[]", "[1]", r#"{"query":1}"#, r#""query""#, r#"{"query":"{a}","variables":[]}"#] {
            assert!(read(&Bytes::from_static(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
