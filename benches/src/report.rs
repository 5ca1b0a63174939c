//! The one table of a run, and the same for machines.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::primitives::{Least, Primitives, mean};

/// What was measured of one variant; what does not apply is `None`.
#[derive(Clone, Default, Debug)]
pub struct Row {
    /// The variant.
    pub name: String,
    /// Granted answers a second.
    pub rate: Option<f64>,
    /// Granted answers for each second of the server's processor time.
    pub per_core: Option<f64>,
    /// What that could be at most, by the primitives and `/livez` before and afterwards.
    pub limit: Option<f64>,
    /// Latencies of granted answers: half, 99 of 100 and 999 of 1,000 were faster.
    pub p50: Option<Duration>,
    /// See [`Self::p50`].
    pub p99: Option<Duration>,
    /// See [`Self::p50`].
    pub p999: Option<Duration>,
    /// Processor time of all servers, in percent of one core.
    pub server_cpu: Option<f64>,
    /// Processor time of the load and the issuer, in percent of one core: at 100 the load is what was measured.
    pub load_cpu: Option<f64>,
    /// Processor time of PostgreSQL, in percent of one core.
    pub database_cpu: Option<f64>,
    /// Resident memory of one server afterwards, in bytes.
    pub memory: Option<u64>,
    /// Commits of exchange records for each record.
    pub commits: Option<f64>,
    /// Answers that were neither granted nor 429 or 503, and broken connections.
    pub errors: u64,
    /// Whatever else there is to say.
    pub note: String,
}

impl Row {
    /// How much of the limit was reached.
    pub fn of_limit(&self) -> Option<f64> {
        self.per_core.zip(self.limit).map(|(reached, limit)| reached / limit)
    }

    fn cells(&self) -> [String; 15] {
        [
            self.name.clone(),
            shown(self.rate, |v| format!("{v:.0}")),
            shown(self.per_core, |v| format!("{v:.0}")),
            shown(self.limit, |v| format!("{v:.0}")),
            shown(self.of_limit(), |v| format!("{v:.2}")),
            shown(self.p50, milliseconds),
            shown(self.p99, milliseconds),
            shown(self.p999, milliseconds),
            shown(self.server_cpu, |v| format!("{v:.0}")),
            shown(self.load_cpu, |v| format!("{v:.0}")),
            shown(self.database_cpu, |v| format!("{v:.0}")),
            shown(self.memory, |v| mebibytes(v).to_string()),
            shown(self.commits, |v| format!("{v:.4}")),
            self.errors.to_string(),
            self.note.clone(),
        ]
    }

    fn json(&self) -> Value {
        let ms = |latency: Option<Duration>| latency.map(|latency| latency.as_secs_f64() * 1_000.0);
        json!({
            "variant": self.name,
            "requests_per_second": self.rate,
            "requests_per_server_core_second": self.per_core,
            "limit_per_core_second": self.limit,
            "fraction_of_limit": self.of_limit(),
            "p50_ms": ms(self.p50),
            "p99_ms": ms(self.p99),
            "p999_ms": ms(self.p999),
            "server_cpu_percent": self.server_cpu,
            "load_cpu_percent": self.load_cpu,
            "database_cpu_percent": self.database_cpu,
            "resident_bytes": self.memory,
            "commits_per_exchange": self.commits,
            "errors": self.errors,
            "note": self.note,
        })
    }
}

/// The heads of the columns, in two lines.
const HEADS: [(&str, &str); 15] = [
    ("variant", ""),
    ("req/s", ""),
    ("req/s per", "server core"),
    ("limit per", "core"),
    ("fraction", "of limit"),
    ("p50", "ms"),
    ("p99", "ms"),
    ("p99.9", "ms"),
    ("server", "CPU %"),
    ("load", "CPU %"),
    ("postgres", "CPU %"),
    ("memory", "MiB"),
    ("commits/", "exchange"),
    ("errors", ""),
    ("", ""),
];

/// A whole run.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// What the figures depend on.
    pub machine: String,
    /// What no exchange can cost less than, as often as it was measured.
    pub least: Vec<Least>,
    /// The variants.
    pub rows: Vec<Row>,
    /// What the check at the end of each installation found.
    pub checks: Vec<String>,
}

impl Report {
    /// The parts of the limit, on average.
    fn parts(&self, livez: &'static str) -> impl Iterator<Item = (&'static str, Duration)> {
        let primitives: Vec<Primitives> = self.least.iter().map(|least| least.primitives).collect();
        let livez = (livez, mean(self.least.iter().map(|least| least.livez)));
        Primitives::mean(&primitives).rows().into_iter().chain([livez])
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        for (name, time) in self.parts("/livez, server's time") {
            let _ = writeln!(text, "{name:<26} {:>9.1} µs", time.as_secs_f64() * 1e6);
        }
        text.push('\n');
        let cells: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let widths: Vec<usize> = (0..HEADS.len())
            .map(|column| {
                let head = HEADS[column].0.len().max(HEADS[column].1.len());
                cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default().max(head)
            })
            .collect();
        let mut line = |cells: &[&str]| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let width = widths[column];
                let left = column == 0 || column + 1 == cells.len();
                let _ = if left { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(&HEADS.map(|head| head.0));
        line(&HEADS.map(|head| head.1));
        for row in &cells {
            line(&row.each_ref().map(String::as_str));
        }
        text.push('\n');
        for check in &self.checks {
            let _ = writeln!(text, "{check}");
        }
        text
    }

    /// For machines: times in microseconds where the name says nothing else.
    pub fn json(&self) -> Value {
        let micros = |time: Duration| json!(time.as_secs_f64() * 1e6);
        let primitives: Map<String, Value> =
            self.parts("/livez").map(|(name, time)| (name.to_owned(), micros(time))).collect();
        json!({
            "machine": self.machine,
            "primitives_us": primitives,
            "variants": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "checks": self.checks,
        })
    }
}

fn shown<T>(value: Option<T>, write: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), write)
}

/// Milliseconds with as many digits as say something.
pub fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// Whole mebibytes.
pub const fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_is_of_what_a_core_could_do() {
        let row = Row { per_core: Some(5_000.0), limit: Some(20_000.0), ..Row::default() };
        assert_eq!(row.of_limit(), Some(0.25));
        assert_eq!(Row::default().of_limit(), None);
        let report = Report { rows: vec![row], ..Report::default() };
        assert!(report.table().contains("0.25"));
        assert_eq!(report.json()["variants"][0]["fraction_of_limit"], 0.25);
    }
}
