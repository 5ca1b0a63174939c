//! The harness: a real server process, the outside world around it, and a client of each protocol.

mod graphql;
mod http;
mod jwt;
mod node;
pub(crate) mod proto;
pub(crate) mod schema;
mod server;
pub(crate) mod tenant;
mod world;

pub(crate) use http::{Kept, Reply, bare_post, form};
pub(crate) use jwt::{Ping, claims_of, header_of, resign, sign, sign_claims};
pub(crate) use node::Node;
pub(crate) use server::{Server, Setup, free_port, sallyport};
pub(crate) use world::{Binding, Place, World, an_exchange, claims, document, role};

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::Runtime;

/// Longest time for one test.
pub(crate) const TEST_DEADLINE: Duration = Duration::from_secs(180);

/// Runs a test on the one runtime of this process: stand-ins and clients are shared between tests, so they must not die
/// with a test's own runtime.
pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    run_within(TEST_DEADLINE, test);
}

/// As [`run`], with a deadline of its own.
pub(crate) fn run_within<F: Future<Output = ()>>(deadline: Duration, test: F) {
    runtime().block_on(async {
        tokio::time::timeout(deadline, test).await.expect("the test took too long");
    });
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        // As the program does: exactly one TLS provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    })
}

/// Unix seconds.
#[expect(clippy::disallowed_methods, reason = "the tests' own clock: the server under test has the real one")]
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a date after 1970");
    i64::try_from(since.as_secs()).expect("a date before the end of time")
}

/// Asks until `probe` answers with something, at most for `limit`.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "still not, after {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A file of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
