//! What a relying party reads: our discovery documents, our public keys, our CA.
//!
//! OpenID Connect Discovery 1.0 section 3 and RFC 8414 section 2. Sallyport as an issuer has no authorization endpoint:
//! nobody logs in here. Strict clients want the member all the same; it names a path that answers 404.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::oauth::TOKEN_EXCHANGE;
use crate::services::Services;

/// Where the installation's CA certificates are read, as a PEM bundle.
pub const CA_PATH: &str = "/.well-known/sallyport-ca.pem";

/// Seconds for which relying parties may keep what they read here. Keys are published long before they sign.
const MAX_AGE: &str = "public, max-age=300";

/// `GET /.well-known/openid-configuration`.
pub async fn openid_configuration(State(services): State<Arc<Services>>) -> Response {
    let mut document = common(&services);
    let base = &services.installation.public_url;
    if let Value::Object(members) = &mut document {
        members.insert("authorization_endpoint".into(), format!("{base}/auth/v1/authorize").into());
        members.insert("subject_types_supported".into(), json!(["public"]));
        members.insert("id_token_signing_alg_values_supported".into(), json!(["RS256"]));
        members.insert("claims_supported".into(), json!(["iss", "sub", "aud", "exp", "iat", "jti"]));
    }
    cached(document)
}

/// `GET /.well-known/oauth-authorization-server`.
pub async fn authorization_server(State(services): State<Arc<Services>>) -> Response {
    cached(common(&services))
}

fn common(services: &Services) -> Value {
    let base = &services.installation.public_url;
    json!({
        "issuer": base,
        "token_endpoint": format!("{base}/auth/v1/token"),
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "introspection_endpoint": format!("{base}/auth/v1/introspect"),
        "revocation_endpoint": format!("{base}/auth/v1/revoke"),
        "response_types_supported": ["id_token"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": ["none"],
        "scopes_supported": ["agent", "viewer", "editor", "owner"],
    })
}

/// `GET /auth/v1/jwks` and `GET /.well-known/jwks.json`: every public key, before, during and after its use.
pub async fn jwks(State(services): State<Arc<Services>>) -> Response {
    cached(services.keys.load().jwks().clone())
}

/// `GET` [`CA_PATH`]: the certificates that key-pair credentials chain to.
pub async fn ca(State(services): State<Arc<Services>>) -> Response {
    let pem = services.keys.load().ca_pem().to_owned();
    let content_type = HeaderValue::from_static("application/pem-certificate-chain");
    let cache = HeaderValue::from_static(MAX_AGE);
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, cache)], pem).into_response()
}

fn cached(document: Value) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static(MAX_AGE))], Json(document)).into_response()
}
