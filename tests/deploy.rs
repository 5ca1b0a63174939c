//! Story: an operator takes what `deploy/` and the compose file offer. What they name must be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support::{Reply, World, run, sallyport};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below a path.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else {
        found.push(path.to_path_buf());
    }
}

/// The names with this beginning in a text.
fn names(text: &str, beginning: &str) -> BTreeSet<String> {
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(beginning)
        .filter(|(at, _)| !text[..*at].ends_with(part_of_a_name))
        .map(|(at, _)| text[at..].chars().take_while(|c| part_of_a_name(*c)).collect())
        .collect()
}

fn read(paths: &[&str]) -> String {
    let mut found = Vec::new();
    for path in paths {
        files(&root().join(path), &mut found);
    }
    assert!(!found.is_empty());
    found.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn dashboards_and_alerts_name_metrics_that_there_are() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        world.binding(&place.space, "deployed", &[]).await;
        world.credential(&place.space, &world.token("deployed", &place.space)).await;
        let scraped = Reply::to(world.http.get(format!("{}/metrics", world.server.admin_url))).await.text();
        let there =
            names(&scraped, "sallyport_").into_iter().chain(names(&scraped, "process_")).collect::<BTreeSet<_>>();
        let text = read(&["deploy/grafana", "deploy/prometheus"]);
        serde_json::from_str::<serde_json::Value>(&read(&["deploy/grafana"])).unwrap();
        let named: Vec<String> = names(&text, "sallyport_").into_iter().chain(names(&text, "process_")).collect();
        assert!(named.len() > 15, "{named:?}");
        for name in named {
            assert!(there.contains(&name), "{name} is not among the metrics: {there:?}");
        }
    });
}

#[test]
fn manifests_and_guides_name_settings_that_there_are() {
    let help = sallyport().args(["serve", "--help"]).output().unwrap();
    let settings = names(&String::from_utf8_lossy(&help.stdout), "SALLYPORT_");
    assert!(settings.len() > 20, "{settings:?}");
    let text = read(&["deploy", "docs", "docker-compose.yml", "Dockerfile", "README.md"]);
    for name in names(&text, "SALLYPORT_") {
        // The tests' own, and the beginning of all.
        if name != "SALLYPORT_" && !name.starts_with("SALLYPORT_TEST_") && !name.starts_with("SALLYPORT_CHAOS_") {
            assert!(settings.contains(&name), "{name} is not a setting");
        }
    }
}
