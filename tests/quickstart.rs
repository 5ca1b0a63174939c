//! Story: one command shows what this is.

use crate::support::{free_port, sallyport};

#[test]
fn quickstart_tells_the_whole_story_and_exits_with_zero() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = sallyport();
    command.args(["quickstart", "--exit", "--listen", &format!("127.0.0.1:{}", free_port())]);
    let output = command.current_dir(folder.path()).output().expect("the binary runs");
    let (story, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{story}\n{complaints}");
    let mut rest: &str = &story;
    // The chapters, in order, and what each must show.
    for line in [
        "The server runs",
        "The admin",
        "//captain.api.mondoo.app/organizations/",
        "//captain.api.mondoo.app/spaces/",
        "createWIFAuthBinding",
        "\"type\": \"external_account\"",
        "The CI job asks its platform for a token",
        "ExchangeExternalToken",
        "\"private_key\"",
        "//agents.api.mondoo.app/spaces/",
        "/auth/v1/token",
        "\"access_token\"",
        "A stranger tries",
        "403",
        "refused because of: ",
        "FAILED",
        "removeWIFAuthBinding",
        "Every step worked",
    ] {
        let at = rest.find(line).unwrap_or_else(|| panic!("'{line}' is missing, or told too early:\n{story}"));
        rest = &rest[at..];
    }
    assert!(!story.contains('\u{1b}'), "no colours into a pipe");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn quickstart_moves_to_a_free_port_when_its_own_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = sallyport().args(["quickstart", "--exit", "--listen", &address]).output().expect("the binary runs");
    let story = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{story}");
    assert!(story.contains("is taken"), "{story}");
}
