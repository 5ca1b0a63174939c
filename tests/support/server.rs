//! The process under test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sallyport_testkit::Postgres;
use tempfile::TempDir;

/// Starts the server and ends it on order, and in any case when this process is gone: the kernel closes the pipe,
/// however we end. Servers live in statics, whose destructors never run.
///
/// A file that may not grow any further ([`Server::limit_files`]) is to answer as a full disk does, not with a signal.
const WATCHDOG: &str = r#"
folder=$1; shift
trap '' XFSZ
"$@" </dev/null >>"$folder/stdout.log" 2>>"$folder/server.log" &
server=$!
echo $server
if read -r signal; then
    kill -s "$signal" $server 2>/dev/null
    wait $server
    exit $?
fi
kill -s KILL $server 2>/dev/null
wait $server
rm -rf "$folder"
"#;

/// How long a server may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// The binary under test, with an empty environment.
pub(crate) fn sallyport() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sallyport"));
    command.env_clear().envs(std::env::vars().filter(|(name, _)| matches!(name.as_str(), "PATH" | "HOME" | "TMPDIR")));
    command
}

/// A port for a server to be. From below the range that the kernel gives out, and each but once in this process: between
/// this look and the server's own bind nobody takes it, unless another run does.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97)) % COUNT;
        let port = u16::try_from(FIRST + number).expect("below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}

/// The settings of a server to be: a free port, its own folder and its own database.
pub(crate) struct Setup {
    environment: BTreeMap<String, String>,
    folder: TempDir,
}

impl Setup {
    /// The settings every test server has.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sallyport-e2e-").tempdir().expect("a temporary folder");
        let mut setup = Self { environment: BTreeMap::new(), folder };
        let (listen, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        setup.set("SALLYPORT_PUBLIC_URL", &format!("http://{listen}"));
        setup.set("SALLYPORT_LISTEN", &listen);
        setup.set("SALLYPORT_ADMIN_LISTEN", &admin);
        setup.set("SALLYPORT_DATA_DIR", &setup.path("data").display().to_string());
        match std::env::var("SALLYPORT_TEST_DATABASE").as_deref() {
            Err(_) | Ok("sqlite") => {}
            Ok("postgres") => setup.on_postgres(Postgres::shared().expect("a PostgreSQL server")),
            Ok(other) => panic!("SALLYPORT_TEST_DATABASE must be sqlite or postgres, not {other}"),
        }
        setup
    }

    /// A new database of this server, whatever the run's database is.
    pub(crate) fn on_postgres(&mut self, server: &Postgres) {
        let name = server.create_random_database("e2e").expect("a database");
        self.set("SALLYPORT_DATABASE_URL", &server.url(&name));
        self.set("SALLYPORT_MASTER_KEY", "c2FsbHlwb3J0J3MgZTJlIHRlc3RzLCAzMiBieXRlcyE=");
    }

    /// The embedded database, whatever the run's database is.
    pub(crate) fn on_sqlite(&mut self) {
        self.unset("SALLYPORT_DATABASE_URL").unset("SALLYPORT_MASTER_KEY");
    }

    /// One more environment variable, or another value for one.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable out again.
    pub(crate) fn unset(&mut self, name: &str) -> &mut Self {
        self.environment.remove(name);
        self
    }

    /// Serves HTTPS with a certificate of this authority. Answers the folder of certificate and key.
    pub(crate) fn serve_https(&mut self, authority: &sallyport_testkit::TestAuthority) -> PathBuf {
        let folder = self.path("tls");
        std::fs::create_dir(&folder).unwrap();
        let (certificate, key) = authority.issue_server(&["127.0.0.1"]).unwrap().write(&folder).unwrap();
        let url = self.get("SALLYPORT_PUBLIC_URL").replace("http://", "https://");
        self.set("SALLYPORT_PUBLIC_URL", &url);
        self.set("SALLYPORT_TLS_CERT_FILE", &certificate.display().to_string());
        self.set("SALLYPORT_TLS_KEY_FILE", &key.display().to_string());
        folder
    }

    /// A path in the server's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.environment.get(name).map_or("", String::as_str)
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn start(self) -> Server {
        let mut server = Server {
            url: self.get("SALLYPORT_PUBLIC_URL").to_owned(),
            admin_url: format!("http://{}", self.get("SALLYPORT_ADMIN_LISTEN")),
            environment: self.environment,
            // From here on the watchdog removes the folder.
            folder: self.folder.keep(),
            watchdog: None,
        };
        server.start_again().await;
        server
    }
}

/// A running server. Dropping it kills it and removes its folder.
pub(crate) struct Server {
    /// The public URL.
    pub(crate) url: String,
    /// The admin listener's.
    pub(crate) admin_url: String,
    /// Its settings, for the next start.
    pub(crate) environment: BTreeMap<String, String>,
    folder: PathBuf,
    watchdog: Option<(Child, u32)>,
}

impl Server {
    /// Starts it (again) with the same settings and data, and waits until it is ready.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.watchdog.is_none(), "the server runs already");
        let mut child = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&self.folder)
            .args([env!("CARGO_BIN_EXE_sallyport"), "serve"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.environment)
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut pid).expect("the server's process id");
        let pid: u32 = pid.trim().parse().expect("a process id");
        self.watchdog = Some((child, pid));

        let client = super::http::client(None);
        let probe = format!("{}/readyz", self.admin_url);
        let deadline = Instant::now() + START;
        loop {
            let ready = client.get(&probe).send().await.is_ok_and(|answer| answer.status() == 200);
            assert!(!ended(pid), "the server ended at once:\n{}", self.log());
            if ready {
                return;
            }
            assert!(Instant::now() < deadline, "the server is not ready after {START:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`, and waits until it is gone. Data stay.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
    }

    /// Asks it to stop, waits, and returns its exit status.
    pub(crate) fn terminate(&mut self) -> i32 {
        self.signal("TERM")
    }

    /// Stops the process in its tracks, until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.shell("kill -s STOP $0", &[]);
    }

    /// Lets a paused process go on.
    pub(crate) fn resume(&self) {
        self.shell("kill -s CONT $0", &[]);
    }

    /// From now on no file of the process may grow beyond so many bytes; `None` lifts that.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        self.shell("prlimit --pid $0 --fsize=$1:", &[&limit]);
    }

    /// From now on the process may have so many files and connections open.
    pub(crate) fn limit_descriptors(&self, count: u32) {
        self.shell("prlimit --pid $0 --nofile=$1:", &[&count.to_string()]);
    }

    /// Runs a line of shell that has the process id as `$0`.
    fn shell(&self, line: &str, arguments: &[&str]) {
        let (_, pid) = self.watchdog.as_ref().expect("a running server");
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", line, &pid.to_string()]).args(arguments).output().expect("a shell");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn signal(&mut self, signal: &str) -> i32 {
        let (mut child, _) = self.watchdog.take().expect("a running server");
        writeln!(child.stdin.take().expect("piped"), "{signal}").expect("the watchdog listens");
        child.wait().expect("the watchdog ends").code().unwrap_or(-1)
    }

    /// What it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        read(&self.folder.join("server.log"))
    }

    /// What it wrote to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        read(&self.folder.join("stdout.log"))
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "the log belongs to the failed test's output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.char_indices().rev().nth(6_000).map_or(log.as_str(), |(at, _)| &log[at..]);
            eprintln!("--- the server's log ends so ---\n{tail}");
        }
        match self.watchdog.take() {
            Some((mut child, _)) => {
                drop(child.stdin.take());
                let _ = child.wait();
            }
            None => {
                let _ = std::fs::remove_dir_all(&self.folder);
            }
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Whether the process is gone, or dead and not yet waited for. Where there is no /proc the deadline has to do.
fn ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    match stat {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => Path::new("/proc/self").exists(),
    }
}
