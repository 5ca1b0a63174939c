//! `sallyport export`: the record as lines of OCSF JSON, from any point on, once or for ever.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use sallyport_domain::clock::{Clock, SystemClock, Timestamp};
use sallyport_domain::scope::Scope;
use sallyport_store::backup::sync_folder;
use sallyport_store::events::SETTLE;
use sallyport_store::{Event, EventFilter, PAGE_MAX, PageRequest};

use crate::settings::{Flags, Settings};
use crate::{serve, telemetry};

/// How long to wait when there is nothing new.
const POLL: Duration = Duration::from_secs(1);

/// What to export.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Only of this scope and everything below it: its MRN [default: the platform's]
    #[arg(long, value_name = "MRN")]
    scope: Option<String>,
    /// Only events at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Go on with what happens from now on, until --until or for ever
    #[arg(long)]
    follow: bool,
    /// Begin after this cursor, which an earlier run printed to standard error
    #[arg(long, value_name = "CURSOR", conflicts_with = "state")]
    after: Option<String>,
    /// File that keeps the cursor: the next run begins where this one ended, however it ended
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Append to this file [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    flags: Box<Flags>,
}

/// Exports until there is no more, or for ever.
///
/// # Errors
/// When a setting or an option is wrong, or the database, the output or the state cannot be read or written.
pub(crate) async fn export(options: Options) -> Result<()> {
    let settings = Settings::load(*options.flags)?;
    telemetry::start_logging(&settings.log, settings.log_format)?;
    let installation = serve::installation(&settings, settings.listen);
    let scope = match &options.scope {
        None => Scope::Platform,
        Some(mrn) => {
            installation.mrns.parse_scope(mrn).with_context(|| format!("--scope: '{mrn}' is no scope's MRN"))?
        }
    };
    let filter = EventFilter {
        since: time("--since", options.since.as_deref())?,
        until: time("--until", options.until.as_deref())?,
        ..EventFilter::of(scope)
    };
    let mut after = match &options.state {
        Some(file) => read_state(file)?,
        None => options.after,
    };
    let mut output = Output::open(options.output)?;
    let (store, _lock) = serve::existing_store(&settings).await?;
    let mut stop = std::pin::pin!(serve::stop_signal());
    loop {
        let request = PageRequest { first: PAGE_MAX, after: after.clone() };
        let now = SystemClock.now();
        let page = match store.export_events(&filter, &request, now).await {
            Ok(page) => page,
            Err(error) if error.is_transient() && options.follow => {
                tracing::warn!(%error, "the database cannot be read just now");
                if sleep_or_stop(&mut stop).await? {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error).context("the events could not be read"),
        };
        if !page.items.is_empty() {
            output.write(&page.items, |event| event.to_ocsf(&installation).to_string())?;
            after = page.end_cursor;
            if let (Some(file), Some(cursor)) = (&options.state, &after) {
                write_state(file, cursor)?;
            }
        }
        let over = filter.until.is_some_and(|until| now.plus_seconds(-SETTLE) >= until);
        if page.has_next {
            continue;
        }
        if !options.follow || over || sleep_or_stop(&mut stop).await? {
            break;
        }
    }
    store.close().await;
    if options.state.is_none() {
        tell_cursor(after.as_deref());
    }
    Ok(())
}

/// Rests for a while; true when the process was asked to stop.
async fn sleep_or_stop(stop: &mut std::pin::Pin<&mut impl Future<Output = Result<()>>>) -> Result<bool> {
    tokio::select! {
        () = tokio::time::sleep(POLL) => Ok(false),
        asked = stop => asked.map(|()| true),
    }
}

#[expect(clippy::print_stderr, reason = "the command's answer; standard output is for events")]
fn tell_cursor(cursor: Option<&str>) {
    match cursor {
        Some(cursor) => eprintln!("to go on from here: --after {cursor}"),
        None => eprintln!("there are no events"),
    }
}

fn time(option: &str, text: Option<&str>) -> Result<Option<Timestamp>> {
    text.map(|text| {
        Timestamp::parse_rfc3339(text)
            .with_context(|| format!("{option}: '{text}' is not an RFC 3339 time such as 2027-01-31T00:00:00Z"))
    })
    .transpose()
}

/// Where lines go.
enum Output {
    Stdout,
    File(PathBuf, File),
}

/// Ends the last line of a file, should whoever wrote it have been cut off: what follows is to be a line of its own.
///
/// # Errors
/// What the file system says.
pub(crate) fn whole_lines(file: &mut File) -> std::io::Result<()> {
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

impl Output {
    fn open(path: Option<PathBuf>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&path);
        let file = file.and_then(|mut file| whole_lines(&mut file).map(|()| file));
        Ok(Self::File(path.clone(), file.with_context(|| format!("--output: cannot write {}", path.display()))?))
    }

    /// Writes whole lines. In a file they are on disk before this returns: the cursor comes after them.
    fn write(&mut self, events: &[Event], line: impl Fn(&Event) -> String) -> Result<()> {
        let mut lines = String::new();
        for event in events {
            lines.push_str(&line(event));
            lines.push('\n');
        }
        match self {
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(lines.as_bytes()).and_then(|()| out.flush()).context("standard output is closed")
            }
            Self::File(path, file) => file
                .write_all(lines.as_bytes())
                .and_then(|()| file.sync_data())
                .with_context(|| format!("--output: cannot write {}", path.display())),
        }
    }
}

fn read_state(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => bail!("--state: {} is empty; remove it to begin anew", file.display()),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("--state: cannot read {}", file.display())),
    }
}

/// The old cursor or the new one, whatever happens meanwhile.
fn write_state(file: &Path, cursor: &str) -> Result<()> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let written =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh).and_then(|mut new| {
            writeln!(new, "{cursor}")?;
            new.sync_all()
        });
    written
        .and_then(|()| std::fs::rename(&fresh, file))
        .and_then(|()| sync_folder(file))
        .with_context(|| format!("--state: cannot write {}", file.display()))
}
