//! How long the scenarios run, and the figures of what they saw.
//!
//! `SALLYPORT_CHAOS_MINUTES` shares a longer run out among the scenarios; unset, each does its few rounds. With
//! `SALLYPORT_CHAOS_REPORT` every round brings that file up to date: the tables of `docs/reliability.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Findings;

/// What is done to the server, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fault {
    /// SIGKILL, on the embedded database.
    KilledOnSqlite,
    /// SIGKILL of one of two replicas.
    KilledOnPostgres,
    /// SIGSTOP of one of two replicas, then SIGCONT.
    Paused,
    /// PostgreSQL's immediate stop under two replicas.
    DatabaseStopped,
    /// PostgreSQL falls silent for one of two replicas.
    DatabaseSilent,
    /// The primary is gone for good and a synchronous standby takes over.
    FailedOver,
    /// No file may grow.
    DiskFull,
    /// The issuer and STS dawdle, drop, refuse and fall silent.
    IssuersFail,
    /// The clock of one of two replicas jumps.
    ClockJumps,
    /// Clients that send half a request, or nothing, and stay.
    SlowClients,
    /// Tokens and requests that must be refused.
    HostileInputs,
}

impl Fault {
    /// All of them.
    const ALL: [Self; 11] = [
        Self::KilledOnSqlite,
        Self::KilledOnPostgres,
        Self::Paused,
        Self::DatabaseStopped,
        Self::DatabaseSilent,
        Self::FailedOver,
        Self::DiskFull,
        Self::IssuersFail,
        Self::ClockJumps,
        Self::SlowClients,
        Self::HostileInputs,
    ];

    /// As the table has it.
    const fn title(self) -> &'static str {
        match self {
            Self::KilledOnSqlite => "`kill -9`, SQLite",
            Self::KilledOnPostgres => "`kill -9` of one of two replicas, PostgreSQL",
            Self::Paused => "one of two replicas paused for seconds (SIGSTOP)",
            Self::DatabaseStopped => "PostgreSQL stopped at once, two replicas",
            Self::DatabaseSilent => "PostgreSQL silent for one of two replicas",
            Self::FailedOver => "PostgreSQL primary lost, synchronous standby promoted",
            Self::DiskFull => "no room for the embedded database",
            Self::IssuersFail => "issuers and STS slow, silent, cut off, failing",
            Self::ClockJumps => "clock of one of two replicas wrong by up to 5 min",
            Self::SlowClients => "slow and silent clients, more than there are file descriptors",
            Self::HostileInputs => "hostile inputs",
        }
    }

    /// How many parts of a longer run it gets.
    const fn share(self) -> u32 {
        match self {
            Self::KilledOnSqlite | Self::KilledOnPostgres | Self::HostileInputs => 3,
            Self::Paused | Self::DatabaseStopped | Self::DatabaseSilent | Self::FailedOver => 2,
            Self::DiskFull | Self::IssuersFail | Self::ClockJumps | Self::SlowClients => 1,
        }
    }

    /// How long it goes on in a longer run; nothing in the test command.
    pub(crate) fn budget(self) -> Duration {
        let Ok(minutes) = std::env::var("SALLYPORT_CHAOS_MINUTES") else { return Duration::ZERO };
        let minutes: u32 = minutes.parse().expect("SALLYPORT_CHAOS_MINUTES is a whole number");
        let shares: u32 = Self::ALL.into_iter().map(Self::share).sum();
        Duration::from_secs(60) * minutes * self.share() / shares
    }
}

/// Whether this is a longer run.
pub(crate) fn is_long_run() -> bool {
    std::env::var_os("SALLYPORT_CHAOS_MINUTES").is_some()
}

/// How often a scenario goes around.
#[derive(Debug)]
pub(crate) struct Rounds {
    least: usize,
    done: usize,
    until: Instant,
}

impl Rounds {
    /// `least` rounds; in a longer run, as many as fit into its share.
    pub(crate) fn of(fault: Fault, least: u32) -> Self {
        let least = if is_long_run() { 1 } else { usize::try_from(least).expect("a small number") };
        Self { least, done: 0, until: Instant::now() + fault.budget() }
    }

    /// Begins another round, if there is to be one.
    pub(crate) fn more(&mut self) -> bool {
        let more = self.done < self.least || Instant::now() < self.until;
        self.done += usize::from(more);
        more
    }

    /// How many have begun.
    pub(crate) fn done(&self) -> usize {
        self.done
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Faults survived; of hostile inputs, those tried.
    pub(crate) times: u64,
    /// Exchanges asked for.
    pub(crate) exchanges: u64,
    /// Credentials handed out.
    pub(crate) granted: u64,
    /// Refusals.
    pub(crate) refused: u64,
    /// 503, or no answer.
    pub(crate) unanswered: u64,
    /// What the record has to say.
    pub(crate) findings: Findings,
    /// Things revoked, removed or disabled.
    pub(crate) ended: usize,
    /// Of these, what was still honoured afterwards; hostile inputs that were let in.
    pub(crate) honoured: Vec<String>,
    /// The longest time from the end of a fault until credentials were handed out again.
    pub(crate) slowest_recovery: Duration,
}

impl Figures {
    fn extend(&mut self, other: Self) {
        self.times += other.times;
        self.exchanges += other.exchanges;
        self.granted += other.granted;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.findings.extend(other.findings);
        self.ended += other.ended;
        self.honoured.extend(other.honoured);
        self.slowest_recovery = self.slowest_recovery.max(other.slowest_recovery);
    }
}

static SEEN: Mutex<BTreeMap<Fault, Figures>> = Mutex::new(BTreeMap::new());

/// Adds what was seen to the report, and fails when any of it must not be.
pub(crate) fn add(fault: Fault, figures: Figures) {
    let wrong = [
        ("credentials without a record", figures.findings.lost.clone()),
        ("records that nobody asked for, or that contradict the answer", figures.findings.invented.clone()),
        ("what must be refused is honoured", figures.honoured.clone()),
    ];
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.entry(fault).or_default().extend(figures);
    if let Some(path) = std::env::var_os("SALLYPORT_CHAOS_REPORT") {
        std::fs::write(&path, render(&seen)).expect("the report can be written");
    }
    drop(seen);
    for (what, which) in wrong {
        assert!(which.is_empty(), "{fault:?}: {what}: {}\n{}", which.len(), which.join("\n"));
    }
}

/// The two tables.
fn render(seen: &BTreeMap<Fault, Figures>) -> String {
    let mut text = format!("{HEAD}\n");
    let mut total = Figures::default();
    let mut row = |title: &str, of: &Figures| {
        let _ = writeln!(
            text,
            "| {title} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} s |",
            of.times,
            of.exchanges,
            of.granted,
            of.refused,
            of.unanswered,
            of.findings.unclaimed,
            of.findings.lost.len(),
            of.findings.invented.len(),
            of.ended,
            of.honoured.len(),
            of.slowest_recovery.as_secs_f64(),
        );
    };
    for (fault, figures) in seen.iter().filter(|(fault, _)| **fault != Fault::HostileInputs) {
        row(fault.title(), figures);
        total.times += figures.times;
        total.exchanges += figures.exchanges;
        total.granted += figures.granted;
        total.refused += figures.refused;
        total.unanswered += figures.unanswered;
        total.findings.extend(figures.findings.clone());
        total.ended += figures.ended;
        total.honoured.extend(figures.honoured.clone());
        total.slowest_recovery = total.slowest_recovery.max(figures.slowest_recovery);
    }
    row("all of these", &total);
    if let Some(hostile) = seen.get(&Fault::HostileInputs) {
        let _ = write!(text, "\nHostile inputs tried: {}. Let in: {}.\n", hostile.times, hostile.honoured.len());
    }
    text
}

const HEAD: &str = "\
| fault | times | exchanges | granted | refused | 503 or no answer | granted, answer lost | records lost | records invented \
| ended | ended, yet honoured | slowest recovery |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

/// The published figures are those of a whole run of this suite, and a run that found nothing.
#[test]
fn the_published_tables_are_of_every_scenario_and_clean() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reliability.md");
    let docs = std::fs::read_to_string(path).expect("docs/reliability.md");
    let (_, rest) = docs.split_once("<!-- figures: scripts/chaos -->\n").expect("the figures begin");
    let (figures, _) = rest.split_once("<!-- end of figures -->").expect("the figures end");
    assert!(figures.contains(HEAD), "the columns are those of the report");
    let rows: Vec<Vec<&str>> = figures
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let titles: Vec<&str> = rows.iter().skip(1).map(|row| row[0]).collect();
    let faults = Fault::ALL.into_iter().filter(|fault| *fault != Fault::HostileInputs).map(Fault::title);
    assert_eq!(titles, faults.chain(["all of these"]).collect::<Vec<_>>());
    for row in &rows[1..] {
        assert_eq!((row[7], row[8], row[10]), ("0", "0", "0"), "{row:?}");
        assert_ne!((row[1], row[3]), ("0", "0"), "{row:?}");
    }
    assert!(figures.contains("Hostile inputs tried: ") && figures.contains(". Let in: 0."), "{figures}");
}
