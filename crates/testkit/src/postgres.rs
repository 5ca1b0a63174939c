//! A throwaway PostgreSQL server on loopback, which cannot outlive the process that started it.
//!
//! The server's parent is a small shell script, the watchdog, which reads orders from a pipe. The kernel closes that
//! pipe when this process ends, however it ends, `SIGKILL` included; the watchdog then stops the server and removes
//! its folder. So a server in a `static` ([`Postgres::shared`]) is cleaned up too.
//!
//! Local binaries only: nothing is downloaded, and no server is ever skipped. As root, everything runs as the user
//! `postgres`, since PostgreSQL refuses root. Calls block; in async tests that is a second at most.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::{lock, random_hex};

/// The superuser of the throwaway server, and the system user that runs it under root.
const USER: &str = "postgres";
/// The programs we need, from one and the same folder.
const PROGRAMS: [&str; 5] = ["initdb", "postgres", "psql", "createdb", "pg_basebackup"];
/// A start takes 0.1 s, or the time of crash recovery; a loaded machine may need more.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What the server says once it takes connections, in the C locale; a standby takes read-only ones.
const READY: &str = "database system is ready to accept";
/// What it says when another process took the port first.
const PORT_TAKEN: &str = "could not create any TCP/IP sockets";

/// Arguments: folder, server program, its arguments. SIGQUIT is PostgreSQL's immediate shutdown. The log is cut at
/// each start, so that `READY` in it always means the present server.
const WATCHDOG: &str = r#"
folder=$1; program=$2; shift 2
server=
stop() {
    if [ -n "$server" ]; then
        kill -QUIT "$server" 2>/dev/null
        wait "$server" 2>/dev/null
        server=
    fi
}
trap '' HUP INT TERM
while read -r order port; do
    case $order in
        start) stop; "$program" "$@" -p "$port" </dev/null >"$folder/server.log" 2>&1 & server=$! ;;
        stop) stop ;;
    esac
    echo done
done
stop
cd / && rm -rf "$folder"
"#;

/// How a server is set up. See [`Postgres::builder`].
#[derive(Debug, Clone)]
pub struct PostgresBuilder {
    fsync: bool,
    settings: Vec<(String, String)>,
}

impl PostgresBuilder {
    /// Whether commits reach the disk. Default yes; without, tests are quicker and a power cut loses them.
    #[must_use]
    pub fn fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// One more server setting, as in `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the cluster and starts the server. Takes some 0.7 s.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, with a word on how to install it, or does not start, with its log.
    pub fn start(self) -> Result<Postgres> {
        let programs = find_programs()?;
        let (folder, as_root) = new_folder()?;
        let password = random_hex::<16>();
        // Trust authentication would make everyone on this machine a superuser, that is, the system user behind it.
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, &password)?;
        give_away(as_root, folder.path())?;
        run(command_as(as_root, &programs.join("initdb"))
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", USER])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .current_dir(folder.path()))
        .context("initdb")?;
        self.serve(programs, folder, as_root, password)
    }

    /// Copies a running server and starts the copy as its standby, which follows it until [`Postgres::promote`]. Takes
    /// some 2 s. Whether the primary waits for it is the primary's setting, see [`Postgres::wait_for_standby`].
    ///
    /// # Errors
    /// As [`start`](Self::start), and when the primary does not let itself be copied.
    pub fn start_standby_of(self, primary: &Postgres) -> Result<Postgres> {
        let programs = find_programs()?;
        let (folder, as_root) = new_folder()?;
        give_away(as_root, folder.path())?;
        run(without_environment(command_as(as_root, &programs.join("pg_basebackup")))
            .args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"])
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .args(["--host", "127.0.0.1", "--port", &primary.port.to_string(), "--username", USER, "--no-password"])
            .env("PGPASSWORD", &primary.password)
            .env("LC_ALL", "C")
            .current_dir(folder.path()))
        .context("pg_basebackup")?;
        self.serve(programs, folder, as_root, primary.password.clone())
    }

    /// Starts the server on a folder that holds a cluster.
    fn serve(self, programs: PathBuf, folder: TempDir, as_root: bool, password: String) -> Result<Postgres> {
        let watchdog = Watchdog::spawn(as_root, folder.path(), &self.server_command(&programs, folder.path()))?;
        // From here on the watchdog removes the folder.
        let folder = folder.keep();
        let mut server = Postgres { programs, folder, port: 0, password, watchdog: Mutex::new(watchdog) };
        // Another process can take the port between our look and the server's bind: then once more, with another.
        for attempt in 1.. {
            server.port = free_port()?;
            match server.start_again() {
                Ok(()) => break,
                Err(error) if attempt < 5 && format!("{error:#}").contains(PORT_TAKEN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(server)
    }

    /// Program and arguments of the server, but for the port.
    fn server_command(&self, programs: &Path, folder: &Path) -> Vec<String> {
        let onoff = if self.fsync { "on" } else { "off" };
        let mut command = vec![
            programs.join("postgres").display().to_string(),
            "-D".to_owned(),
            folder.join("data").display().to_string(),
            "-k".to_owned(),
            folder.display().to_string(),
        ];
        let settings = [
            ("listen_addresses", "127.0.0.1"),
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("fsync", onoff),
            ("full_page_writes", onoff),
            ("lc_messages", "C"),
        ];
        let extra = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in settings.into_iter().chain(extra) {
            command.push("-c".to_owned());
            command.push(format!("{name}={value}"));
        }
        command
    }
}

/// A running (or stopped, see [`stop_immediately`](Self::stop_immediately)) server. Dropping it stops it at once and
/// removes its folder.
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    password: String,
    watchdog: Mutex<Watchdog>,
}

impl Postgres {
    /// Starts a server with `fsync` on.
    ///
    /// # Errors
    /// As [`PostgresBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// A server to be set up first.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder { fsync: true, settings: Vec::new() }
    }

    /// The one server of this process (`fsync` off), started at the first call. Give each test its own database.
    ///
    /// # Errors
    /// As [`PostgresBuilder::start`]; a failure stays for the life of the process.
    pub fn shared() -> Result<&'static Self> {
        // A static, since test functions of one binary have nothing else in common; the watchdog cleans up after it.
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::builder().fsync(false).start().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!(error.clone()))
    }

    /// The port on 127.0.0.1, the same for the server's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The connection URL of a database, user and password included.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The server's folder: `data`, `server.log`, the socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates an empty database. Takes some 60 ms.
    ///
    /// # Errors
    /// When there is one of this name.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.create_database_from_template(name, "template0")
    }

    /// Creates a database as a copy of `template`.
    ///
    /// # Errors
    /// When there is one of this name, or anyone is connected to the template.
    pub fn create_database_from_template(&self, name: &str, template: &str) -> Result<()> {
        run(self.client("createdb").args(["--maintenance-db", USER, "--template", template, name]))
            .with_context(|| format!("creating database {name} from {template}"))?;
        Ok(())
    }

    /// A new database with a random name that begins with `prefix`; the name is returned.
    ///
    /// # Errors
    /// As [`create_database`](Self::create_database).
    pub fn create_random_database(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}_{}", random_hex::<6>());
        self.create_database(&name)?;
        Ok(name)
    }

    /// Runs SQL through `psql` and returns its unaligned output, rows as lines, columns separated by `|`.
    ///
    /// # Errors
    /// When a statement fails, with the server's words.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let output = run(self
            .client("psql")
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1"])
            .args(["--dbname", database, "--command", sql]))?;
        Ok(output.trim_end().to_owned())
    }

    /// Stops the server as a crash would: no checkpoint, connections cut. Returns once it is gone. Data stay.
    ///
    /// # Errors
    /// When the watchdog is gone.
    pub fn stop_immediately(&self) -> Result<()> {
        lock(&self.watchdog).order("stop")
    }

    /// Starts the server with the same port and data, and waits until it takes connections. One that runs is stopped
    /// first, as by [`stop_immediately`](Self::stop_immediately).
    ///
    /// # Errors
    /// When it does not start, with its log.
    pub fn start_again(&self) -> Result<()> {
        lock(&self.watchdog).order(&format!("start {}", self.port))?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            if log.contains(READY) && TcpStream::connect(self.address()).is_ok() {
                return Ok(());
            }
            if log.contains(PORT_TAKEN) || Instant::now() > deadline {
                bail!("PostgreSQL did not start on port {}:\n{log}", self.port);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has every commit from now on wait until a standby has it on disk too, and returns once one does follow.
    ///
    /// # Errors
    /// When none follows within a minute.
    pub fn wait_for_standby(&self) -> Result<()> {
        self.sql(USER, "alter system set synchronous_standby_names = '*'")?;
        self.sql(USER, "select pg_reload_conf()")?;
        let deadline = Instant::now() + START_TIMEOUT;
        while self.sql(USER, "select count(*) from pg_stat_replication where sync_state = 'sync'")? != "1" {
            ensure!(Instant::now() < deadline, "no standby follows the server on port {}", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Makes a standby a server of its own right. Returns once it takes writes.
    ///
    /// # Errors
    /// When it is no standby, or does not come up within a minute.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.sql(USER, "select pg_promote()")?;
        ensure!(promoted == "t", "the standby on port {} was not promoted within a minute", self.port);
        Ok(())
    }

    /// A client program, pointed at this server and at nothing from the caller's environment.
    fn client(&self, program: &str) -> Command {
        let mut command = without_environment(Command::new(self.programs.join(program)));
        command
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string(), "--username", USER])
            .arg("--no-password")
            .env("PGPASSWORD", &self.password)
            .env("LC_ALL", "C");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        lock(&self.watchdog).finish();
        // The watchdog emptied it; where the parent folder is not writable for it, the folder itself is still there.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The watchdog process and the pipes to it.
struct Watchdog {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    fn spawn(as_root: bool, folder: &Path, server: &[String]) -> Result<Self> {
        let mut child = command_as(as_root, Path::new("/bin/sh"))
            .args(["-c", WATCHDOG, "sallyport-postgres-watchdog"])
            .arg(folder)
            .args(server)
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Out of the terminal's foreground group: Ctrl-C is for the tests, the watchdog cleans up after them.
            .process_group(0)
            .spawn()
            .context("starting the PostgreSQL watchdog")?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the PostgreSQL watchdog has no pipes");
        };
        Ok(Self { child, orders: Some(orders), answers: BufReader::new(answers) })
    }

    /// Gives an order and waits until it is carried out.
    fn order(&mut self, order: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the PostgreSQL watchdog has ended")?;
        writeln!(orders, "{order}").context("the PostgreSQL watchdog is gone")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(answer == "done\n", "the PostgreSQL watchdog is gone");
        Ok(())
    }

    /// Closes the pipe, upon which the watchdog stops the server, removes the folder and ends.
    fn finish(&mut self) {
        self.orders = None;
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "PostgreSQL watchdog");
        }
    }
}

/// The folder that holds all the programs: from `PATH`, else the newest of Debian's.
fn find_programs() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort();
    std::env::split_paths(&path)
        .chain(debian.into_iter().rev().map(|(_, folder)| folder))
        .find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file()))
        .with_context(|| {
            format!(
                "no PostgreSQL server found: {} are neither in one folder of PATH nor in /usr/lib/postgresql/*/bin. \
                 Install one (apt-get install postgresql) or put its bin folder on PATH",
                PROGRAMS.join(", ")
            )
        })
}

/// An empty folder for a server, and whether we are root.
fn new_folder() -> Result<(TempDir, bool)> {
    let folder = tempfile::Builder::new().prefix("sallyport-pg-").tempdir()?;
    let as_root = folder.path().metadata()?.uid() == 0;
    Ok((folder, as_root))
}

/// Under root, makes the folder the system user's.
fn give_away(as_root: bool, folder: &Path) -> Result<()> {
    if as_root {
        run(Command::new("chown").args(["-R", &format!("{USER}:")]).arg(folder))
            .context("as root, PostgreSQL needs its system user: apt-get install postgresql")?;
    }
    Ok(())
}

/// The command without the caller's own PostgreSQL settings.
fn without_environment(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command
}

/// `program`, under root as the system user `postgres`.
fn command_as(as_root: bool, program: &Path) -> Command {
    if !as_root {
        return Command::new(program);
    }
    // It lives in sbin, which is not on everyone's PATH.
    let runuser = ["/usr/sbin/runuser", "/sbin/runuser"].into_iter().find(|path| Path::new(path).is_file());
    let mut command = Command::new(runuser.unwrap_or("runuser"));
    command.args(["-u", USER, "--"]).arg(program);
    command
}

/// Runs to the end and returns what it printed; anything but success is an error with what it said.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A port that nobody listens on just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_answers_survives_a_crash_and_goes() {
        let server = Postgres::builder().fsync(false).start().unwrap();
        server.create_database("template_of_tests").unwrap();
        server.sql("template_of_tests", "create table t (n int); insert into t values (42)").unwrap();
        server.create_database_from_template("copy", "template_of_tests").unwrap();
        assert_eq!(server.sql("copy", "select n, 'x' from t").unwrap(), "42|x");
        assert!(server.sql("copy", "select nonsense").unwrap_err().to_string().contains("nonsense"));

        server.stop_immediately().unwrap();
        assert!(TcpStream::connect(server.address()).is_err());
        server.start_again().unwrap();
        assert_eq!(server.sql("copy", "select n from t").unwrap(), "42");

        let (address, folder) = (server.address(), server.folder().to_owned());
        drop(server);
        assert!(TcpStream::connect(address).is_err());
        assert!(!folder.exists());
    }

    #[test]
    fn a_standby_has_what_was_committed_and_takes_over() {
        let primary = Postgres::builder().fsync(false).start().unwrap();
        primary.create_database("d").unwrap();
        primary.sql("d", "create table t (n int)").unwrap();
        let standby = Postgres::builder().fsync(false).start_standby_of(&primary).unwrap();
        primary.wait_for_standby().unwrap();
        primary.sql("d", "insert into t values (42)").unwrap();
        assert!(standby.sql("d", "insert into t values (1)").unwrap_err().to_string().contains("read-only"));
        primary.stop_immediately().unwrap();
        standby.promote().unwrap();
        standby.sql("d", "insert into t values (43)").unwrap();
        assert_eq!(standby.sql("d", "select n from t order by n").unwrap(), "42\n43");
    }

    /// The role that the next test kills.
    const VICTIM: &str = "SALLYPORT_TESTKIT_VICTIM";

    #[test]
    fn goes_with_a_process_that_is_killed() {
        if std::env::var_os(VICTIM).is_some() {
            let server = Postgres::shared().unwrap();
            println!("\nvictim {} {}", server.address(), server.folder().display());
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "postgres::tests::goes_with_a_process_that_is_killed", "--nocapture"])
            .env(VICTIM, "yes")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let line = output.lines().map_while(Result::ok).find(|line| line.starts_with("victim ")).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (address, folder): (SocketAddr, _) = (words[1].parse().unwrap(), Path::new(words[2]));
        assert!(TcpStream::connect(address).is_ok());

        victim.kill().unwrap();
        victim.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_ok() || folder.exists() {
            assert!(Instant::now() < deadline, "PostgreSQL outlived its process");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
