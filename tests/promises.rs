//! docs/security.md names a test for every promise; this sees to it that each of them is there.

use std::collections::BTreeMap;
use std::path::Path;

/// The repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Whether a source file has a test of this name: a function with a test's attribute above it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        begins(line) && above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_promise_of_the_security_document_has_a_test_that_is_there() {
    let document = std::fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let (_, table) = document.split_once("## Promises").expect("the table");
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    let mut promises = Vec::new();
    let mut wrong = Vec::new();
    for line in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [promise, tests] = cells[..] else { panic!("two columns: {line}") };
        if promise == "promise" || promise.starts_with("---") {
            continue;
        }
        assert!(!promises.contains(&promise), "twice: {promise}");
        promises.push(promise);
        let named: Vec<(&str, &str)> = tests.split('`').filter_map(|part| part.split_once(".rs::")).collect();
        if named.is_empty() || named.len() != tests.split(", ").count() {
            wrong.push(format!("{promise}: `path.rs::test`, separated by commas: {tests}"));
        }
        for (file, test) in named {
            let source = sources
                .entry(file)
                .or_insert_with(|| std::fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default());
            if !has_test(source, test) {
                wrong.push(format!("{promise}: there is no test {file}.rs::{test}"));
            }
        }
    }
    assert!(promises.len() > 60, "{} promises", promises.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_tests_count_as_tests() {
    let source = "#[test]\nfn good() {}\n\n    #[tokio::test(flavor = \"multi_thread\")]\n    /// Why.\n    async fn also() {}\nfn helper() {}\n// fn commented() {}\n";
    assert!(has_test(source, "good") && has_test(source, "also"));
    assert!(!has_test(source, "helper") && !has_test(source, "commented") && !has_test(source, "goo"));
}
