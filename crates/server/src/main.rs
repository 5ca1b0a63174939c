//! `sallyport`: workload identity federation, self-hosted. This file is the command line; [`serve`] is the program.

mod backup;
mod event_log;
mod export;
mod keys;
mod listener;
mod master_key;
mod middleware;
mod monitoring;
mod patience;
mod quickstart;
mod retention;
mod serve;
mod settings;
mod shedding;
mod telemetry;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::settings::{Flags, Settings};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Workload identity federation: a workload shows the token its own platform gives it, and gets a short-lived credential
/// limited to what an admin granted.
#[derive(Parser)]
#[command(name = "sallyport", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    ///
    /// Settings come from --config FILE (TOML), then the environment, then flags; later wins.
    Serve(Box<Flags>),
    /// Show the whole story on this machine: server, issuer, binding, exchange, refusal
    ///
    /// Starts the server on an embedded database in a temporary folder, and a local HTTPS OIDC issuer that plays the CI
    /// platform; then keeps serving.
    Quickstart(quickstart::Options),
    /// Look after the signing keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Bring the database to this version's schema
    ///
    /// Servers do so themselves when they start. This is for those who want to do it first, or with a role of the database
    /// that may change the schema while the servers' may not.
    Migrate(Box<Flags>),
    /// Write the record as lines of OCSF JSON: exchanges and management changes, oldest first
    ///
    /// Whoever goes on from the cursor misses no event; after a crash some may come twice, with the same metadata.uid. Works
    /// on the database, also while servers run.
    Export(export::Options),
    /// Copy the embedded database into a file, also while a server runs
    Backup {
        /// The file to be made; it must not be there yet
        file: PathBuf,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Put a copy of the embedded database back, while no server runs
    ///
    /// The copy is checked first, and its keys are opened with the master key. Every credential issued until now ends, so that
    /// what was revoked after the copy was taken does not come back with it.
    Restore {
        /// The copy, made by `sallyport backup`
        file: PathBuf,
        /// Set aside the database that is there
        #[arg(long)]
        force: bool,
        /// Leave credentials that were issued before the copy was taken as they are, also those revoked since
        #[arg(long)]
        keep_credentials: bool,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Check the settings and say what is wrong with them, without starting anything
    CheckConfig(Box<Flags>),
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Begin a rotation of all signing keys and the CA now, on all replicas
    ///
    /// The new keys are published at once and sign after the usual lead of a day; the old ones are kept until the last
    /// credential they signed has ended.
    Rotate {
        /// A key has leaked: the new ones sign at once, the old ones are gone, and all they signed is refused
        #[arg(long)]
        leaked: bool,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Encrypt the signing keys anew with the master key that is set now
    ///
    /// The key they were encrypted with so far is given as the fallback. Servers that know both keys go on meanwhile.
    Reseal(Box<Flags>),
}

#[expect(clippy::print_stderr, reason = "the program's last words go to standard error")]
fn main() -> ExitCode {
    let cli = Cli::command().after_long_help(every_setting()).get_matches();
    match Cli::from_arg_matches(&cli).map_err(Into::into).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sallyport: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every setting with its default, for `sallyport --help`.
fn every_setting() -> String {
    let cli = Cli::command();
    let flags = cli.find_subcommand("serve").map(clap::Command::get_arguments).into_iter().flatten();
    let rows = flags.filter_map(|flag| {
        let env = flag.get_env()?.to_str()?;
        Some(format!("  {env}\n          {}", flag.get_help()?))
    });
    let head =
        "Settings, from --config FILE (TOML, the names without SALLYPORT_ in lower case), then these, then flags:"
            .to_owned();
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}

fn run(cli: Cli) -> Result<()> {
    // Exactly one TLS and one JWT provider, chosen here rather than guessed by the libraries.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the async runtime did not start")?;
    match cli.command {
        Command::Serve(flags) => runtime.block_on(serve::serve(Settings::load(*flags)?)),
        Command::Quickstart(options) => runtime.block_on(quickstart::run(options)),
        Command::Keys(KeysCommand::Rotate { leaked, flags }) => {
            runtime.block_on(serve::rotate_keys(Settings::load(*flags)?, leaked))
        }
        Command::Keys(KeysCommand::Reseal(flags)) => runtime.block_on(serve::reseal_keys(Settings::load(*flags)?)),
        Command::Migrate(flags) => runtime.block_on(serve::migrate(Settings::load(*flags)?)),
        Command::Export(options) => runtime.block_on(export::export(options)),
        Command::Backup { file, flags } => runtime.block_on(backup::back_up(Settings::load(*flags)?, &file)),
        Command::Restore { file, force, keep_credentials, flags } => {
            runtime.block_on(backup::restore(Settings::load(*flags)?, &file, force, keep_credentials))
        }
        Command::CheckConfig(flags) => check_config(*flags),
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn check_config(flags: Flags) -> Result<()> {
    let settings = Settings::load(flags)?;
    println!("the settings are right; the server would listen on {}", settings.listen);
    Ok(())
}
