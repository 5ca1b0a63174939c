//! The server under load: built, started as a process of its own, and asked what it used.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sallyport_testkit::Postgres;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::{Connection, get};
use crate::cores::Cores;

/// The platform owner's API token.
pub const OWNER: &str = "owner-of-the-benchmarked-installation";
/// The master key of servers on PostgreSQL.
const MASTER_KEY: &str = "c2FsbHlwb3J0J3MgYmVuY2htYXJrLCAzMiBieXRlcyE=";
/// How long a start may take.
const START: Duration = Duration::from_secs(300);
/// How long a stop may take: the server drains for 20 s at most.
const STOP: Duration = Duration::from_secs(60);
/// What `/proc/<pid>/stat` counts in: hundredths of a second, on every Linux (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Builds the server by cargo, in the profile this program was built in, and returns where it is: beside this program.
/// Without cargo around, the one that is there is taken.
///
/// # Errors
/// When it does not build, or is not there.
pub fn build() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let folder = own.parent().context("this program is in no folder")?;
    let program = folder.join("sallyport");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--package", "sallyport-server", "--bin", "sallyport"]);
        match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => {}
            Some("release") => drop(command.arg("--release")),
            Some(profile) => drop(command.args(["--profile", profile])),
        }
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::null());
        let status = command.status().context("running cargo")?;
        ensure!(status.success(), "the server did not build: {status}");
    }
    ensure!(program.is_file(), "{} is not there; cargo build --release -p sallyport-server", program.display());
    Ok(program)
}

/// Where the data are.
#[derive(Clone, Copy)]
pub enum Database<'p> {
    /// The embedded database.
    Sqlite,
    /// A database of this server, by name.
    Postgres(&'p Postgres, &'p str),
}

/// How to start servers.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    cores: Cores,
    folder: TempDir,
    environment: BTreeMap<&'static str, String>,
    database_url: String,
}

impl Setup {
    /// A server of `program` with a folder of its own, on `database`; `ca_pem` vouches for the issuer on loopback.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(program: &Path, cores: &Cores, database: Database<'_>, ca_pem: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sallyport-bench-").tempdir()?;
        let ca = folder.path().join("issuer-ca.pem");
        std::fs::write(&ca, ca_pem)?;
        let data = folder.path().join("data");
        let mut environment = BTreeMap::from([
            ("SALLYPORT_DATA_DIR", data.display().to_string()),
            ("SALLYPORT_BOOTSTRAP_TOKEN", OWNER.to_owned()),
            ("SALLYPORT_OUTBOUND_CA_FILE", ca.display().to_string()),
            ("SALLYPORT_OUTBOUND_ALLOW", "127.0.0.0/8".to_owned()),
            // Names stay the same over restarts and on every replica.
            ("SALLYPORT_PUBLIC_URL", "http://sallyport.example".to_owned()),
        ]);
        let database_url = match database {
            Database::Sqlite => format!("sqlite://{}", data.join("sallyport.db").display()),
            Database::Postgres(server, name) => {
                let url = server.url(name);
                environment.insert("SALLYPORT_DATABASE_URL", url.clone());
                environment.insert("SALLYPORT_MASTER_KEY", MASTER_KEY.to_owned());
                url
            }
        };
        Ok(Self { program: program.to_owned(), cores: cores.clone(), folder, environment, database_url })
    }

    /// The URL of the database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Starts one server and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; with its log.
    pub async fn start(&self, name: &str) -> Result<Server> {
        let (address, admin) = (free_address()?, free_address()?);
        let log = self.folder.path().join(format!("{name}.log"));
        let mut command = match &self.cores.server {
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", cores]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.environment)
            .env("SALLYPORT_LISTEN", address.to_string())
            .env("SALLYPORT_ADMIN_LISTEN", admin.to_string())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?);
        let began = Instant::now();
        let child = command.spawn().context("starting the server")?;
        let mut server = Server { child, address, admin, log, began, ready_after: Duration::ZERO };
        loop {
            if let Ok(mut connection) = Connection::open(admin).await
                && let Ok(answer) = connection.call(&get("localhost", "/readyz")).await
                && answer.status == 200
            {
                server.ready_after = began.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended at once ({status}):\n{}", server.log());
            }
            ensure!(began.elapsed() < START, "the server is not ready after {START:?}:\n{}", server.log());
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    began: Instant,
    /// How long it took from its start until `/readyz` said so.
    pub ready_after: Duration,
}

impl Server {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time it used so far, in user and kernel mode.
    ///
    /// # Errors
    /// When it is gone, or there is no `/proc`.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// As [`Self::cpu`].
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is not a number")?;
        Ok(kib * 1_024)
    }

    /// Commits of exchange records so far, and the records in them.
    ///
    /// # Errors
    /// When `/metrics` does not answer.
    pub async fn commits(&self) -> Result<Commits> {
        let [commits, records] =
            self.metrics(["sallyport_record_batch_size_count", "sallyport_record_batch_size_sum"]).await?;
        Ok(Commits { commits, records })
    }

    /// Waits until all configuration is in memory; how long after its start that was seen.
    ///
    /// # Errors
    /// When `/metrics` does not answer, or loading does not end in time.
    pub async fn loaded(&self) -> Result<Duration> {
        while self.metrics(["sallyport_configuration_loaded"]).await? != [1.0] {
            ensure!(self.began.elapsed() < START, "not all is loaded after {START:?}:\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(self.began.elapsed())
    }

    /// What these metrics say; 0 for one that is not there.
    async fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        let mut connection = Connection::open(self.admin).await?;
        let answer = connection.call(&get("localhost", "/metrics")).await?;
        let text = String::from_utf8_lossy(answer.body);
        Ok(names.map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or_default()
        }))
    }

    /// What it logged, the end of it.
    pub fn log(&self) -> String {
        let log =
            std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let from = log.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
        log[from..].to_owned()
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// When it does not, or ends with an error.
    pub async fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "the server could not be asked to stop");
        let deadline = Instant::now() + STOP;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the server ended with {status}:\n{}", self.log()),
                None => ensure!(Instant::now() < deadline, "the server does not stop"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counted by [`Server::commits`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Commits {
    /// Transactions that recorded exchanges.
    pub commits: f64,
    /// Exchanges they recorded.
    pub records: f64,
}

/// Processor time of a process, its threads included, its children not.
///
/// # Errors
/// When it is gone, or there is no `/proc`.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("processor time comes from /proc")?;
    times(&stat, 2).context("/proc/<pid>/stat has another form")
}

/// Processor time of this process.
///
/// # Errors
/// As [`cpu_of`].
pub fn own_cpu() -> Result<Duration> {
    cpu_of(std::process::id())
}

/// Processor time of a PostgreSQL server: all its processes, those that have ended included.
///
/// # Errors
/// As [`cpu_of`].
pub fn postgres_cpu(server: &Postgres) -> Result<Duration> {
    let pid_file = std::fs::read_to_string(server.folder().join("data/postmaster.pid"))?;
    let parent: u32 = pid_file.lines().next().unwrap_or_default().trim().parse().context("postmaster.pid")?;
    let mut sum = Duration::ZERO;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that has ended meanwhile is counted with its parent.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if pid == parent {
            sum += times(&stat, 4).unwrap_or_default();
        } else if fields(&stat).and_then(|mut rest| rest.nth(1)?.parse().ok()) == Some(parent) {
            sum += times(&stat, 2).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// What follows the process's name, which may hold anything: state, parent, and so on (proc(5)).
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '))
}

/// The first `count` of user, system, children's user and children's system time together.
fn times(stat: &str, count: usize) -> Option<Duration> {
    let ticks = fields(stat)?.skip(11).take(count).map(|field| field.parse::<u32>().ok());
    ticks.sum::<Option<u32>>().map(|ticks| TICK * ticks)
}

/// A port that nobody listens on just now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// What the figures depend on, in a few lines: processor, cores, load of the machine, file system of the data.
pub fn machine(cores: &Cores) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |m| m.1);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
    let folder = std::env::temp_dir();
    let mounts = read("/proc/self/mounts");
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(' ').skip(1);
            Some((parts.next()?, parts.next()?))
        })
        .filter(|(at, _)| folder.starts_with(at))
        .max_by_key(|(at, _)| at.len());
    let mut text = format!("{model}; {}; load of the machine before: {load}", cores.words);
    if cores.server.is_none() {
        let _ = write!(text, "; {count} cores");
    }
    let _ = write!(text, "; data on {}", mount.map_or("an unknown file system", |(_, kind)| kind));
    if cfg!(debug_assertions) {
        text.push_str("; A DEBUG BUILD: THESE FIGURES MEAN NOTHING");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_stat_whatever_the_process_is_called() {
        let stat = "12 (a) b (c) S 7 12 12 0 -1 4194304 100 0 0 0 150 50 3 4 20 0 9 0 1 2 3";
        assert_eq!(times(stat, 2), Some(Duration::from_secs(2)));
        assert_eq!(times(stat, 4), Some(Duration::from_millis(2_070)));
        assert_eq!(fields(stat).unwrap().nth(1), Some("7"));
        assert!(own_cpu().is_ok());
    }
}
