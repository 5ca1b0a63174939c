//! The command line of the benchmark.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use sallyport_bench::cores::Cores;
use sallyport_bench::report::Report;
use sallyport_bench::run::{Options, measure};
use sallyport_bench::variants::Variant;
use sallyport_bench::{server, variants};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures the real server: exchanges a second and per core, latencies, memory, commits, beside what the cryptography and
/// HTTP alone cost. Ends with a check that every grant has its record.
///
/// Data are kept in a temporary folder (TMPDIR), which must be on a real disk for figures of a real installation.
#[derive(Parser, Debug)]
#[command(name = "sallyport-bench", version, max_term_width = 120)]
struct Cli {
    /// Only the variant of this name, or else those whose names contain it; may be given several times
    #[arg(long, value_name = "PART")]
    variant: Vec<String>,
    /// All variants; takes long, and fills databases with a million trusts
    #[arg(long, conflicts_with = "variant")]
    all: bool,
    /// Names the variants that the other options choose, and ends
    #[arg(long)]
    list: bool,
    /// Seconds that are counted of each variant
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connections that exchanges come over
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Connections in overload
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1..))]
    overload_connections: u16,
    /// Cores that the server has to itself, where there is taskset; 0 pins nothing
    #[arg(long, default_value_t = 1)]
    server_cores: usize,
    /// Prints JSON instead of the table
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stderr, reason = "the program's last words go to standard error")]
fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("sallyport-bench: something went wrong that must not: see the errors and checks above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sallyport-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn run(cli: &Cli) -> Result<bool> {
    let all = variants::all();
    let named = |part: &String| all.iter().any(|variant| variant.name == *part);
    let is_meant =
        |name: &str| cli.variant.iter().any(|p| if named(p) { name == p } else { name.contains(p.as_str()) });
    let is_chosen = |variant: &Variant| match cli.variant.as_slice() {
        [] => cli.all || cli.list || variant.usual,
        _ => is_meant(&variant.name),
    };
    let chosen: Vec<_> = all.iter().filter(|variant| is_chosen(variant)).cloned().collect();
    if chosen.is_empty() {
        bail!("no variant's name contains {}; --list names them", cli.variant.join(" or "));
    }
    if cli.list {
        for variant in chosen {
            println!("{}{}", variant.name, if variant.usual { "  (usual)" } else { "" });
        }
        return Ok(true);
    }

    // Before this process is kept on some of the cores, and before there are threads.
    let program = server::build()?;
    let cores = Cores::share_out(cli.server_cores)?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let options = Options {
        window: Duration::from_secs(cli.seconds),
        connections: cli.connections.into(),
        overload_connections: cli.overload_connections.into(),
    };
    let mut report = Report::default();
    let sound = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            sound = measure(options, program, cores, &chosen, &mut report) => sound,
            // Dropping the run ends its servers.
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    // What came before something broke was measured all the same.
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&report.json()).context("writing JSON")?);
    } else {
        println!("{}", report.table());
    }
    sound
}
