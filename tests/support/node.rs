//! Other people's software under Node: `tests/node`. `scripts/test` installs it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A script that runs until the value is dropped.
pub(crate) struct Node {
    child: Child,
    /// The first line it printed.
    pub(crate) first_line: String,
}

impl Node {
    /// Starts a script and waits for its first line.
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Self {
        let mut child = command(script, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        assert!(!line.is_empty(), "{script} ended at once; are its packages installed? (cd tests/node && npm ci)");
        Self { child, first_line: line.trim().to_owned() }
    }

    /// Runs a script to its end and returns the JSON it printed, or what it complained about.
    pub(crate) async fn run(script: &str, arguments: &[&str]) -> Result<Value, String> {
        let mut command = command(script, arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("node");
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).expect("JSON on standard output"))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(script: &str, arguments: &[&str]) -> Command {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/node");
    let mut command = Command::new("node");
    command.arg(folder.join(script)).args(arguments).current_dir(folder).env("NODE_NO_WARNINGS", "1");
    command
}
