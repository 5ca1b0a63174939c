//! Logs, metrics and traces of the process.
//!
//! Metrics are collected once and shown twice: on `/metrics`, and by OTLP when an `OTEL_EXPORTER_OTLP_…ENDPOINT` is set. Traces go
//! by OTLP only. The OpenTelemetry variables are read by that SDK as its specification says. Nothing that is logged, counted or
//! traced holds a token or a key.

use std::env;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use sallyport_gateway::Services;
use sallyport_gateway::limits::Noise;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::settings::LogFormat;

/// Bucket bounds of durations, in seconds: from a cached exchange to an issuer that times out.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// Bucket bounds of how many records share one commit.
const RECORDS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0];
/// How often what is not counted but looked up is looked up.
const LOOK: Duration = Duration::from_secs(5);
/// How often measurements are added up: those of seconds would keep everybody waiting for some milliseconds.
const UPKEEP: Duration = Duration::from_millis(200);

/// What collects metrics and traces.
pub(crate) struct Telemetry {
    /// Renders the metrics for `/metrics`.
    pub(crate) metrics: PrometheusHandle,
    traces: Option<SdkTracerProvider>,
    meters: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts logging to standard error, and collecting metrics and traces.
    ///
    /// # Errors
    /// When the log filter does not parse or an OpenTelemetry variable asks for what is not there, naming it; when something
    /// was started before.
    pub(crate) fn start(filter: &str, format: LogFormat) -> Result<Self> {
        let wanted = Otlp::wanted(|name| env::var(name).ok())?;
        let traces = wanted.traces.then(traces).transpose()?;
        let (metrics, meters) = start_metrics(wanted.metrics)?;
        start_logging_with(filter, format, traces.as_ref())?;
        Ok(Self { metrics, traces, meters })
    }

    /// Sends what is left, for a few seconds at most.
    pub(crate) async fn stop(self) {
        let send = move || {
            if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
                tracing::warn!(%error, "the last traces could not be sent");
            }
            if let Some(Err(error)) = self.meters.map(|meters| meters.shutdown()) {
                tracing::warn!(%error, "the last metrics could not be sent");
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(send).await {
            tracing::warn!(%error, "telemetry ended badly");
        }
    }
}

/// What is to be sent by OTLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Otlp {
    traces: bool,
    metrics: bool,
}

impl Otlp {
    /// What the variables of the OpenTelemetry specification say.
    fn wanted(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
            return Ok(Self { traces: false, metrics: false });
        }
        let all = set("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
        let signal = |name: &str| {
            let off = set(&format!("OTEL_{name}_EXPORTER")).is_some_and(|value| value.trim() == "none");
            !off && (all || set(&format!("OTEL_EXPORTER_OTLP_{name}_ENDPOINT")).is_some())
        };
        let wanted = Self { traces: signal("TRACES"), metrics: signal("METRICS") };
        for (name, on) in
            [("", wanted.traces || wanted.metrics), ("TRACES_", wanted.traces), ("METRICS_", wanted.metrics)]
        {
            let name = format!("OTEL_EXPORTER_OTLP_{name}PROTOCOL");
            match set(&name) {
                Some(protocol) if on && protocol.trim() != "http/protobuf" => {
                    bail!("{name}: must be http/protobuf, not '{protocol}'")
                }
                _ => {}
            }
        }
        Ok(wanted)
    }
}

/// Starts logging to standard error, for commands that end by themselves.
///
/// # Errors
/// As [`Telemetry::start`].
pub(crate) fn start_logging(filter: &str, format: LogFormat) -> Result<()> {
    start_logging_with(filter, format, None)
}

fn start_logging_with(filter: &str, format: LogFormat, traces: Option<&SdkTracerProvider>) -> Result<()> {
    let filter =
        EnvFilter::try_new(filter).context("log: not a tracing filter such as info or sallyport_gateway=debug")?;
    // Our own spans in full, whatever the log shows, and nobody else's.
    let spans = traces.map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer("sallyport"))
            .with_filter(Targets::new().with_target("sallyport", LevelFilter::DEBUG))
    });
    let registry = tracing_subscriber::registry();
    match spans {
        Some(spans) => registry.with(spans).with(lines(format).with_filter(filter)).try_init(),
        // What nobody wants to see then costs nothing.
        None => registry.with(filter).with(lines(format)).try_init(),
    }
    .context("logging was started before")
}

/// The lines of the log.
fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Who we are, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
fn resource() -> Resource {
    let named = env::var_os("OTEL_SERVICE_NAME").is_some()
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = Resource::builder().with_attribute(version);
    if named { builder.build() } else { builder.with_service_name("sallyport").build() }
}

fn traces() -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_http().build().context("traces cannot be sent by OTLP")?;
    opentelemetry::global::set_text_map_propagator(opentelemetry_sdk::propagation::TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

fn start_metrics(otlp: bool) -> Result<(PrometheusHandle, Option<SdkMeterProvider>)> {
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("sallyport_record_batch_size".into()), &RECORDS)?
        .build_recorder();
    let handle = prometheus.handle();
    let meters = if otlp {
        let exporter = MetricExporter::builder().with_http().build().context("metrics cannot be sent by OTLP")?;
        let (meters, recorder) = metrics_exporter_opentelemetry::Recorder::builder("sallyport")
            .with_meter_provider(|builder| builder.with_periodic_exporter(exporter).with_resource(resource()))
            .build();
        let both = FanoutBuilder::default().add_recorder(prometheus).add_recorder(recorder).build();
        metrics::set_global_recorder(both).map(|()| Some(meters)).ok()
    } else {
        metrics::set_global_recorder(prometheus).map(|()| None).ok()
    };
    let meters = meters.context("metrics were started before")?;
    describe();
    Ok((handle, meters))
}

/// Names and meanings, there from the first scrape on.
fn describe() {
    for (name, meaning) in [
        ("sallyport_exchanges_total", "Exchanges by outcome, and by the first failed check"),
        ("sallyport_exchanges_unrecorded_total", "Attempts that were counted, not recorded"),
        ("sallyport_credentials_issued_total", "Credentials given out, by kind"),
        ("sallyport_jwks_fetches_total", "Fetches of issuers' key sets by outcome"),
        ("sallyport_outbound_requests_total", "Requests to issuers and STS by outcome"),
        ("sallyport_http_requests_total", "HTTP requests by route and status"),
        ("sallyport_graphql_requests_total", "GraphQL requests by outcome"),
    ] {
        metrics::describe_counter!(name, meaning);
    }
    for (name, meaning) in [
        ("sallyport_exchange_duration_seconds", "Time from an exchange's token to its answer"),
        ("sallyport_exchange_stage_seconds", "Time of each stage of an exchange"),
        ("sallyport_http_request_duration_seconds", "Time of HTTP requests by route"),
        ("sallyport_outbound_seconds", "Time of requests to issuers and STS"),
        ("sallyport_database_seconds", "Time of work in the database by operation"),
        ("sallyport_record_batch_size", "Exchange records that shared one commit"),
    ] {
        metrics::describe_histogram!(name, meaning);
    }
    for (name, meaning) in [
        ("sallyport_record_queue_depth", "Exchange records waiting for the next commit"),
        ("sallyport_record_queue_room", "Exchange records that may wait before new exchanges are refused"),
        ("sallyport_configuration_revision", "Revision of the configuration in memory"),
        ("sallyport_configuration_confirmed", "1 while the configuration is confirmed by the database"),
        ("sallyport_configuration_loaded", "1 when all configuration is in memory, 0 while some is still being loaded"),
        ("sallyport_trusts", "Trusts, those of bindings among them"),
        ("sallyport_providers", "Providers"),
        ("sallyport_service_accounts", "Service accounts"),
        ("sallyport_revocations", "Single credentials that are revoked and have not ended by themselves"),
    ] {
        metrics::describe_gauge!(name, meaning);
    }
    metrics::counter!("sallyport_exchanges_total", "outcome" => "granted", "reason" => "").increment(0);
    metrics::counter!("sallyport_jwks_fetches_total", "outcome" => "ok").increment(0);
    for why in [Noise::Unverified, Noise::Stranger] {
        metrics::counter!("sallyport_exchanges_unrecorded_total", "why" => why.name()).increment(0);
    }
    metrics::gauge!("sallyport_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::gauge!("sallyport_record_queue_depth").set(0.0);
}

/// Looks up, every few seconds, what is not counted as it happens; and adds up what was measured, for it takes memory until then.
pub(crate) fn keep_looking(services: Arc<Services>, metrics: PrometheusHandle) {
    let process = metrics_process::Collector::new("sallyport_");
    process.describe();
    tokio::spawn(async move {
        loop {
            process.collect();
            look(&services);
            tokio::time::sleep(LOOK).await;
        }
    });
    tokio::spawn(async move {
        loop {
            metrics.run_upkeep();
            tokio::time::sleep(UPKEEP).await;
        }
    });
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn look(services: &Services) {
    let configuration = &services.configuration;
    metrics::gauge!("sallyport_record_queue_room").set(services.overload.room() as f64);
    metrics::gauge!("sallyport_configuration_confirmed").set(f64::from(u8::from(configuration.is_confirmed())));
    if let Ok(snapshot) = configuration.current() {
        let size = snapshot.size();
        metrics::gauge!("sallyport_configuration_revision").set(snapshot.revision() as f64);
        metrics::gauge!("sallyport_trusts").set(size.trusts as f64);
        metrics::gauge!("sallyport_providers").set(size.providers as f64);
        metrics::gauge!("sallyport_service_accounts").set(size.service_accounts as f64);
        metrics::gauge!("sallyport_revocations").set(size.revocations as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn otlp_is_on_when_an_endpoint_is_set_and_speaks_one_protocol() {
        let wanted = |variables: &[(&str, &str)]| {
            Otlp::wanted(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
                .map(|otlp| (otlp.traces, otlp.metrics))
                .map_err(|error| error.to_string())
        };
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert_eq!(wanted(&[]), Ok((false, false)));
        assert_eq!(wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok((false, false)));
        assert_eq!(wanted(&[all]), Ok((true, true)));
        assert_eq!(wanted(&[all, ("OTEL_SDK_DISABLED", "TRUE")]), Ok((false, false)));
        assert_eq!(wanted(&[all, ("OTEL_METRICS_EXPORTER", "none")]), Ok((true, false)));
        assert_eq!(wanted(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://x")]), Ok((false, true)));
        assert_eq!(wanted(&[all, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]), Ok((true, true)));
        for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
            assert!(wanted(&[all, (name, "grpc")]).unwrap_err().starts_with(name));
            assert_eq!(wanted(&[(name, "grpc")]), Ok((false, false)), "nothing is sent");
        }
    }
}
