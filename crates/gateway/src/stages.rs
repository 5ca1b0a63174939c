//! How long each stage of an exchange takes: a histogram for operators, a span for traces.

use std::sync::LazyLock;
use std::time::Instant;

use metrics::Histogram;
use tracing::Instrument;

/// A stage of the pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Shape, size, times; which trusts may decide.
    Locate,
    /// The subject token's signature, or AWS's answer.
    Verify,
    /// Subject, claims, conditions, addresses.
    Match,
    /// Signing the credential.
    Mint,
    /// Until the record is durable.
    Record,
}

/// Looked up once: the recorder of metrics is installed before the first exchange, and stays.
static TOOK: LazyLock<[Histogram; 5]> = LazyLock::new(|| {
    Stage::ALL.map(|stage| metrics::histogram!("sallyport_exchange_stage_seconds", "stage" => stage.name()))
});

impl Stage {
    const ALL: [Self; 5] = [Self::Locate, Self::Verify, Self::Match, Self::Mint, Self::Record];

    const fn name(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Verify => "verify",
            Self::Match => "match",
            Self::Mint => "mint",
            Self::Record => "record",
        }
    }

    fn took(self, began: Instant) {
        TOOK[self as usize].record(began.elapsed().as_secs_f64());
    }

    /// Does the work of this stage.
    pub(crate) async fn run<T>(self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let value = work.instrument(tracing::debug_span!("stage", otel.name = self.name())).await;
        self.took(began);
        value
    }

    /// Does the work of this stage, where it waits for nothing.
    pub(crate) fn run_now<T>(self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = tracing::debug_span!("stage", otel.name = self.name()).in_scope(work);
        self.took(began);
        value
    }
}
