//! Logs and metrics of the process.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::LogFormat;

/// Bucket bounds of durations, in seconds: from a cached exchange to an issuer that times out.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Starts logging to standard error. Nothing that is logged holds a token or a key.
///
/// # Errors
/// When the filter does not parse, naming the setting.
pub(crate) fn start_logging(filter: &str, format: LogFormat) -> Result<()> {
    let filter =
        EnvFilter::try_new(filter).context("log: not a tracing filter such as info or sallyport_gateway=debug")?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init(),
    }
    .context("logging was started before")
}

/// Starts collecting metrics; the handle renders them for `/metrics`.
///
/// # Errors
/// When another recorder is in place.
pub(crate) fn start_metrics() -> Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()
        .context("metrics were started before")?;
    describe();
    Ok(handle)
}

/// Names and meanings, there from the first scrape on.
fn describe() {
    metrics::describe_counter!("sallyport_exchanges_total", "Exchanges by outcome, and by the first failed check");
    metrics::counter!("sallyport_exchanges_total", "outcome" => "granted", "reason" => "").increment(0);
    metrics::describe_counter!("sallyport_jwks_fetches_total", "Fetches of issuers' key sets by outcome");
    metrics::counter!("sallyport_jwks_fetches_total", "outcome" => "ok").increment(0);
    metrics::describe_histogram!("sallyport_exchange_duration_seconds", "Time from an exchange's token to its answer");
    metrics::describe_counter!("sallyport_exchanges_unrecorded_total", "Attempts that were counted, not recorded");
    metrics::counter!("sallyport_exchanges_unrecorded_total").increment(0);
}
