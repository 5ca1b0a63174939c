//! Every seed, and every input that once broke a target, through the same functions that the fuzzer runs.
#![expect(clippy::unwrap_used, reason = "this whole file is a test, which clippy.toml's exception does not see")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sallyport_hostile::TARGETS;

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn replay(kind: &str, fewest: usize) {
    let mut known = BTreeSet::new();
    for (name, target) in TARGETS {
        let folder = folder(kind).join(name);
        known.insert(folder.clone());
        let inputs = if folder.is_dir() { entries(&folder) } else { Vec::new() };
        assert!(inputs.len() >= fewest, "{} has {} inputs", folder.display(), inputs.len());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            // The name of what breaks, before the message of the panic itself.
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name} breaks on {}", input.display());
        }
    }
    for folder in entries(&folder(kind)).iter().filter(|entry| entry.is_dir()) {
        assert!(known.contains(folder), "{} belongs to no target", folder.display());
    }
}

#[test]
fn every_seed_holds() {
    replay("seeds", 10);
}

#[test]
fn what_once_broke_a_target_holds() {
    replay("regressions", 0);
}

/// `fuzz/` builds a program for each target, and for nothing else.
#[test]
fn every_target_has_a_program() {
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    let programs: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    let targets: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, targets);
    for name in targets {
        let program = fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains("sallyport_hostile::"), "{name}");
    }
}
