//! The other side's half: what a client does with a key pair. For the quickstart and tests; the server never signs for
//! a service account.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use sallyport_domain::clock::Timestamp;
use serde_json::{Map, Value};

use crate::keys::KeyError;
use crate::service_account_jwt::{ISSUER, body_hash};
use crate::token::{assemble, header};

/// How long such a token lives, in seconds.
const LIFETIME: i64 = 60;

/// Signs a request as Mondoo's clients do (mondoo.md section 4.1): ES384, `kid` and `sub` = `mrn`, 60 seconds.
/// With `body`, even an empty one, the token carries `chash`; `None` leaves it out, as GraphQL clients do.
///
/// # Errors
/// [`KeyError::PrivateKey`] when the key is not a P-384 key in PKCS#8 PEM.
pub fn sign_service_account_jwt(
    private_key_pem: &str,
    mrn: &str,
    now: Timestamp,
    body: Option<&[u8]>,
) -> Result<String, KeyError> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(private_key_pem.as_bytes()).map_err(|_| KeyError::PrivateKey)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der.secret_pkcs8_der())
        .map_err(|_| KeyError::PrivateKey)?;
    let mut claims = Map::new();
    claims.insert("iss".into(), ISSUER.into());
    claims.insert("sub".into(), mrn.into());
    claims.insert("iat".into(), now.seconds().into());
    claims.insert("nbf".into(), now.seconds().into());
    claims.insert("exp".into(), now.plus_seconds(LIFETIME).seconds().into());
    if body.is_some() {
        claims.insert("chash".into(), body_hash(body).into());
    }
    assemble(&header("ES384", "JWT", mrn), &Value::Object(claims), |input| {
        key.sign(&SystemRandom::new(), input).map_err(|_| KeyError::PrivateKey)
    })
}
