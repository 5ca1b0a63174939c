//! Which cores the server runs on and which are left to the load, so that neither takes the other's time.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// How the cores of this machine are shared out.
#[derive(Clone, Debug)]
pub struct Cores {
    /// The server's cores as `taskset` takes them; `None` when nothing is pinned.
    pub server: Option<String>,
    /// In words, for the report.
    pub words: String,
}

impl Cores {
    /// Gives the first `wanted` cores to the server and keeps this process, and all that it starts, on the others. Must
    /// be called before any thread is started: threads inherit where they may run.
    ///
    /// Nothing is pinned where there is no `taskset` (util-linux), or where no core would be left for the load.
    ///
    /// # Errors
    /// When `taskset` is there and refuses.
    pub fn share_out(wanted: usize) -> Result<Self> {
        let all = allowed().unwrap_or_default();
        let has_taskset = Command::new("taskset").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !has_taskset.is_ok_and(|status| status.success()) {
            return Ok(Self::unpinned("there is no taskset: server and load share all cores, nothing is pinned"));
        }
        if wanted == 0 || wanted >= all.len() {
            return Ok(Self::unpinned(&format!(
                "server and load share all {} cores, nothing is pinned",
                all.len().max(1)
            )));
        }
        let (server, load) = all.split_at(wanted);
        let (server, load) = (list(server), list(load));
        let status = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", &load, &std::process::id().to_string()])
            .stdout(Stdio::null())
            .status()
            .context("running taskset")?;
        ensure!(status.success(), "taskset could not keep this process on cores {load}: {status}");
        let words = format!("server on core {server}; load, issuer and PostgreSQL on core {load} (taskset)");
        Ok(Self { server: Some(server), words })
    }

    fn unpinned(words: &str) -> Self {
        Self { server: None, words: words.to_owned() }
    }
}

/// The cores this process may use; `None` where there is no `/proc`.
fn allowed() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse(list)
}

/// `0-2,5`, as the kernel writes it.
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cores)
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(parse("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse("7"), Some(vec![7]));
        assert_eq!(parse("0-x"), None);
    }
}
