//! Story: settings come from a file, the environment and flags; mistakes are named; help tells everything.

use std::process::{Command, Output};

use crate::support::{Reply, Setup, World, free_port, run, sallyport};

/// Every setting of wire.md that has a variable, and its default as `--help` must show it.
const SETTINGS: [(&str, &str); 22] = [
    ("SALLYPORT_LISTEN", "127.0.0.1:8080"),
    ("SALLYPORT_ADMIN_LISTEN", "127.0.0.1:8081"),
    ("SALLYPORT_PUBLIC_URL", "http://<listen>"),
    ("SALLYPORT_TLS_CERT_FILE", "none"),
    ("SALLYPORT_TLS_KEY_FILE", "none"),
    ("SALLYPORT_DATABASE_URL", "sqlite"),
    ("SALLYPORT_DATA_DIR", "./sallyport-data"),
    ("SALLYPORT_MASTER_KEY", "none"),
    ("SALLYPORT_MASTER_KEY_FILE", ""),
    ("SALLYPORT_BOOTSTRAP_TOKEN", "generated"),
    ("SALLYPORT_TENANT_DOMAIN", "public URL"),
    ("SALLYPORT_MRN_DOMAIN", "api.mondoo.app"),
    ("SALLYPORT_AUDIENCE_POLICY", "strict"),
    ("SALLYPORT_OUTBOUND_CA_FILE", "none"),
    ("SALLYPORT_OUTBOUND_RESOLVE", "none"),
    ("SALLYPORT_OUTBOUND_ALLOW", "none"),
    ("SALLYPORT_TRUSTED_PROXIES", "none"),
    ("SALLYPORT_LIMIT_PER_ADDRESS", "0"),
    ("SALLYPORT_LIMIT_PER_TRUST", "0"),
    ("SALLYPORT_LIMIT_GLOBAL", "0"),
    ("SALLYPORT_RETENTION_DAYS", "400"),
    ("SALLYPORT_EVENT_LOG", "none"),
];

fn serve(change: impl FnOnce(&mut Command)) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = sallyport();
    command.arg("serve").current_dir(folder.path());
    change(&mut command);
    command.output().expect("the binary runs")
}

/// The complaint of a start that must fail.
fn complaint(change: impl FnOnce(&mut Command)) -> String {
    let output = serve(change);
    assert!(!output.status.success(), "it should have refused to start");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_lists_every_setting_with_its_default() {
    let top = sallyport().arg("--help").output().unwrap();
    let top_text = String::from_utf8_lossy(&top.stdout).into_owned();
    assert!(top.status.success());
    for command in ["serve", "quickstart"] {
        assert!(top_text.contains(command), "{top_text}");
    }
    let help = serve(|command| {
        command.arg("--help");
    });
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for (name, default) in SETTINGS {
        let at = [']', '=']
            .iter()
            .find_map(|end| text.find(&format!("[env: {name}{end}")))
            .unwrap_or_else(|| panic!("{name} is not in the help:\n{text}"));
        // The paragraph of this option: from the line that names the flag to the variable.
        let start = text[..at].rfind("\n      --").unwrap_or_default();
        let paragraph = text[start..at].split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(paragraph.contains("[default: "), "{name} shows no default: {paragraph}");
        assert!(paragraph.contains(default), "{name}: {paragraph}");
    }
    for name in ["SALLYPORT_LOG=", "SALLYPORT_LOG_FORMAT=", "--config"] {
        assert!(text.contains(name), "{name}");
    }
    let quickstart = sallyport().args(["quickstart", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&quickstart.stdout).contains("--exit"));
}

#[test]
fn wiremd_says_help_at_the_top_lists_every_setting() {
    let top = sallyport().arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&top.stdout).into_owned();
    let missing: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).filter(|name| !text.contains(name)).collect();
    assert!(missing.is_empty(), "not in `sallyport --help`: {missing:?}");
}

#[test]
fn secrets_in_the_environment_are_not_shown_by_help() {
    let help = serve(|command| {
        command.arg("--help").env("SALLYPORT_BOOTSTRAP_TOKEN", "a-secret-of-mine-0123456789");
        command
            .env("SALLYPORT_MASTER_KEY", "another-secret")
            .env("SALLYPORT_DATABASE_URL", "postgres://u:password@h/d");
    });
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for secret in ["a-secret-of-mine", "another-secret", "password@"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("sallyport.toml");
        std::fs::write(&path, text).unwrap();
        path
    };
    let by_environment = [
        ("SALLYPORT_LISTN", "127.0.0.1:1", "SALLYPORT_LISTN"),
        ("SALLYPORT_LISTEN", "everywhere", "listen"),
        ("SALLYPORT_LISTEN", "127.0.0.1:99999", "listen"),
        ("SALLYPORT_ADMIN_LISTEN", "8081", "admin_listen"),
        ("SALLYPORT_PUBLIC_URL", "https://sallyport.example/", "public_url"),
        ("SALLYPORT_PUBLIC_URL", "sallyport.example", "public_url"),
        ("SALLYPORT_TLS_CERT_FILE", "/only/one", "tls_key_file"),
        ("SALLYPORT_DATABASE_URL", "mysql://x", "database_url"),
        ("SALLYPORT_BOOTSTRAP_TOKEN", "short", "bootstrap_token"),
        ("SALLYPORT_MASTER_KEY", "c2hvcnQ=", "master_key"),
        ("SALLYPORT_MASTER_KEY_FILE", "/no/such/file", "master_key_file"),
        ("SALLYPORT_AUDIENCE_POLICY", "lax", "audience_policy"),
        ("SALLYPORT_MRN_DOMAIN", "UPPER CASE", "mrn_domain"),
        ("SALLYPORT_OUTBOUND_CA_FILE", "/no/such/file", "outbound_ca_file"),
        ("SALLYPORT_OUTBOUND_RESOLVE", "nonsense", "outbound_resolve"),
        ("SALLYPORT_OUTBOUND_ALLOW", "10.0.0.0/99", "outbound_allow"),
        ("SALLYPORT_TRUSTED_PROXIES", "proxy", "trusted_proxies"),
        ("SALLYPORT_LIMIT_PER_ADDRESS", "-1", "limit_per_address"),
        ("SALLYPORT_LIMIT_PER_TRUST", "many", "limit_per_trust"),
        ("SALLYPORT_LIMIT_GLOBAL", "4294967296", "limit_global"),
        ("SALLYPORT_RETENTION_DAYS", "a year", "retention_days"),
        ("SALLYPORT_RETENTION_DAYS", "36501", "retention_days"),
        ("SALLYPORT_EVENT_LOG", "/no/such/folder/events", "event_log"),
        ("SALLYPORT_LOG", "sallyport=loudest", "log"),
        ("SALLYPORT_LOG_FORMAT", "xml", "log_format"),
    ];
    for (name, value, named) in by_environment {
        let complaint = complaint(|command| {
            command.env(name, value);
        });
        assert!(complaint.contains(named), "{name}={value}: {complaint}");
    }
    let by_file = [
        ("lisen = '127.0.0.1:1'", "lisen"),
        ("limit_global = -5", "limit_global"),
        ("listen = ['a']", "listen"),
        ("[server]\nlisten = 'x'", "server"),
        ("listen = ", "sallyport.toml"),
    ];
    for (text, named) in by_file {
        let path = file(text);
        let complaint = complaint(|command| {
            command.arg("--config").arg(&path);
        });
        assert!(complaint.contains(named), "{text}: {complaint}");
    }
    let flag = complaint(|command| {
        command.arg("--lisen");
    });
    assert!(flag.contains("--lisen"), "{flag}");
    let missing = complaint(|command| {
        command.args(["--config", "/no/such/file.toml"]);
    });
    assert!(missing.contains("/no/such/file.toml"), "{missing}");
    let key = complaint(|command| {
        command.env("SALLYPORT_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    });
    assert!(key.contains("master_key"), "with PostgreSQL the master key is required: {key}");
}

#[test]
fn later_sources_win_over_earlier_ones() {
    run(async {
        let taken = free_port();
        let setup = Setup::new();
        let file = setup.path("sallyport.toml");
        std::fs::write(
            &file,
            format!("listen = '127.0.0.1:{taken}'\nmrn_domain = 'file.example'\naudience_policy = 'any'\n"),
        )
        .unwrap();
        let mut setup = setup;
        setup.set("SALLYPORT_CONFIG", &file.display().to_string());
        setup.set("SALLYPORT_MRN_DOMAIN", "environment.example");
        setup.set("SALLYPORT_BOOTSTRAP_TOKEN", "a-bootstrap-token-for-settings");
        // The port is the environment's, so is the domain; ready at all means the file's `listen` lost.
        let server = setup.start().await;
        let http = World::client();
        let request = http.post(format!("{}/query", server.url)).bearer_auth("a-bootstrap-token-for-settings");
        let reply = Reply::to(request.json(&serde_json::json!({ "query": "{ viewer { mrn } }" }))).await;
        let mrn = reply.json()["data"]["viewer"]["mrn"].as_str().unwrap().to_owned();
        assert!(mrn.starts_with("//iam.environment.example/"), "{mrn}");
        // A flag beats the environment: a wrong flag over a right variable is the one that is complained about.
        let flag = complaint(|command| {
            command.env("SALLYPORT_AUDIENCE_POLICY", "any").args(["--audience-policy", "flag"]);
        });
        assert!(flag.contains("flag"), "{flag}");
    });
}

#[test]
fn the_audience_policy_any_makes_the_documented_audience_work() {
    run(async {
        let world = World::with(|setup| {
            setup.set("SALLYPORT_AUDIENCE_POLICY", "any");
        })
        .await;
        let place = world.place().await;
        world.binding(&place.space, "any", &[]).await;
        let reply = world.exchange(&place.space, world.issuer.uri(), &world.token("any", "test")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    });
}

#[test]
fn https_is_served_and_a_new_certificate_is_taken_up() {
    run(async {
        let authority = sallyport_testkit::TestAuthority::new().unwrap();
        let mut setup = Setup::new();
        let folder = setup.serve_https(&authority);
        let server = setup.start().await;
        let get = async |ca: &str| {
            // A new client each time: an open connection keeps its certificate.
            let client = World::client_trusting(ca);
            client.get(format!("{}/.well-known/openid-configuration", server.url)).send().await
        };
        let answer =
            get(authority.ca_pem()).await.expect("the certificate fits").json::<serde_json::Value>().await.unwrap();
        assert_eq!(answer["issuer"], serde_json::json!(server.url));

        let next = sallyport_testkit::TestAuthority::new().unwrap();
        assert!(get(next.ca_pem()).await.is_err());
        next.issue_server(&["127.0.0.1"]).unwrap().write(&folder).unwrap();
        crate::support::eventually("the new certificate", std::time::Duration::from_secs(90), async || {
            get(next.ca_pem()).await.ok().map(|_| ())
        })
        .await;
    });
}

#[test]
fn the_master_key_is_made_once_and_for_nobody_elses_eyes() {
    use std::os::unix::fs::PermissionsExt as _;
    run(async {
        let mut setup = Setup::new();
        setup.unset("SALLYPORT_DATABASE_URL").unset("SALLYPORT_MASTER_KEY");
        let mut server = setup.start().await;
        let path = server.path("data/master.key");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = std::fs::read(&path).unwrap();
        server.terminate();
        server.start_again().await;
        assert_eq!(std::fs::read(&path).unwrap(), key);
        server.terminate();
        // Another key cannot read what this one sealed: better no start than new keys behind everyone's back.
        std::fs::write(&path, "c2FsbHlwb3J0J3MgZTJlIHRlc3RzLCAzMiBieXRlcyE=").unwrap();
        let output = tokio::task::spawn_blocking(move || {
            let mut command = sallyport();
            command.arg("serve").envs(&server.environment);
            let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while child.try_wait().unwrap().is_none() {
                if std::time::Instant::now() > deadline {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return None;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Some(child.wait_with_output().unwrap())
        })
        .await
        .unwrap();
        let output = output.expect("it must not start with the wrong master key");
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).to_lowercase().contains("master key"), "{output:?}");
    });
}

#[test]
fn health_and_metrics_are_where_operators_look() {
    run(async {
        let world = World::new().await;
        for url in [&world.server.url, &world.server.admin_url] {
            for path in ["/livez", "/readyz"] {
                assert_eq!(Reply::to(world.http.get(format!("{url}{path}"))).await.status, 200, "{url}{path}");
            }
        }
        assert_eq!(
            Reply::to(world.http.get(format!("{}/metrics", world.server.url))).await.status,
            404,
            "not for everyone"
        );
        let place = world.place().await;
        world.binding(&place.space, "metrics", &[]).await;
        world.credential(&place.space, &world.token("metrics", &place.space)).await;
        world.exchange(&place.space, world.issuer.uri(), &world.token("other", &place.space)).await;
        let reply = Reply::to(world.http.get(format!("{}/metrics", world.server.admin_url))).await;
        let text = reply.text();
        assert_eq!(reply.status, 200);
        let line = |start: &str, parts: &[&str]| {
            text.lines().any(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)))
        };
        assert!(line("sallyport_exchanges_total{", &["outcome=", "reason=\"subject\""]), "{text}");
        assert!(line("sallyport_exchanges_total{", &["outcome=\"granted\""]), "{text}");
        assert!(line("sallyport_jwks_fetches_total{", &["outcome="]), "{text}");
        assert!(line("sallyport_exchange_duration_seconds_bucket", &["le="]), "{text}");
    });
}
