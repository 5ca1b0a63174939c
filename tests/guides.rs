//! The guides of `docs/guides`, followed to the letter: what an admin types, what a workload runs, what each of them sees.
//!
//! A guide is read from top to bottom. Its fenced blocks are executed, by their language:
//!
//! | block | is |
//! |---|---|
//! | `graphql` | typed by the platform's owner. Without an answer below it, it must succeed without a warning |
//! | `sh` | run by the workload, or by the admin; `yaml`: a pipeline or a pod, whose scripts are run; `env`: variables of its environment; `hcl`: Terraform |
//! | `json` | the answer to what stands before it: a GraphQL answer, a script's output, or what the first row of a table sees |
//!
//! A table that begins with `In the token` lists refusals. Each row's token differs from the good one as its first cell says;
//! it is shown at both doors and to the simulator, and must meet the words and the failed check of the row. The words are
//! those of the table in the index, which says with what status and code each door says them.
//!
//! What stands under `With a trust` and `With a binding` are two ways to the same end: the rest of the guide is followed once
//! with each. Words in capitals (`names.rs`) are what the reader replaces. Any other block fails the test.

mod document;
mod names;
mod platform;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use sallyport_testkit::{Issuer, TestAuthority};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::document::{Content, Part, read, spans};
use self::names::Names;
use self::platform::{Differs, PLATFORMS, Platform, Ports, Shows, Standing};
use crate::support::{Reply, Setup, World, now, run};

/// The server's address in the guides.
const PUBLIC_URL: &str = "https://sallyport.example.com";
const HOST: &str = "sallyport.example.com";
/// Where the guides' workloads get in.
const SPACE: &str = "//captain.api.mondoo.app/spaces/acme-production";
/// The two ways to let a workload in.
const WAYS: [&str; 2] = ["With a trust", "With a binding"];
/// The admin's token.
const ADMIN: &str = "the-admin-of-the-guides";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides")
}

fn guide(file: &str) -> String {
    let path = folder().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a door says, and how.
struct Said {
    status: u16,
    /// `error` of OAuth, or the code of the RPC.
    code: Value,
    words: String,
}

/// A row of the index's table of words.
struct Answer {
    words: String,
    /// What the OAuth endpoint says; `None`: it lets the token in.
    oauth: Option<Said>,
    rpc: Said,
    recorded: bool,
}

/// The index's table of words.
fn answers() -> Vec<Answer> {
    let rows = read(&guide("README.md")).into_iter().find_map(|part| match part.content {
        Content::Table(rows) if rows[0][0] == "The caller sees" => Some(rows),
        _ => None,
    });
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let answer = |row: &Vec<String>| {
        let words = spans(&row[0]).0.remove(0);
        let (codes, oauth) = spans(&row[1]);
        let oauth = codes.first().map(|code| Said {
            status: digits(&oauth).parse().expect("a status"),
            code: json!(code),
            words: words.clone(),
        });
        let (around, rpc) = spans(&row[2]);
        let (status, rest) = rpc.split_once(", code ").unwrap_or_else(|| panic!("no code: {row:?}"));
        let around = around.first().map(String::as_str).unwrap_or_default();
        let words = if rest.contains("before it") { format!("{around} {words}") } else { format!("{words}{around}") };
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let code = number.parse::<i32>().expect("a code");
        let rpc = Said { status: status.parse().expect("a status"), code: json!(code), words };
        let recorded = match row[3].as_str() {
            "yes" => true,
            "no" => false,
            other => panic!("on record: '{other}'?"),
        };
        Answer { words: spans(&row[0]).0.remove(0), oauth, rpc, recorded }
    };
    rows.expect("the index says what callers see")[1..].iter().map(answer).collect()
}

/// A server as the guides have it, a platform beside it, and somebody who follows a guide.
struct Reader {
    world: World,
    standing: Arc<Standing>,
    names: Names,
    answers: Vec<Answer>,
    folder: TempDir,
    /// Variables that the guide puts into the workload's environment.
    environment: Vec<(String, String)>,
    /// What the last block answered.
    last: Option<Value>,
}

impl Reader {
    async fn new(platform: &'static Platform) -> Self {
        let authority = Arc::new(TestAuthority::new().expect("an authority"));
        let (ports, resolve) = Ports::choose(platform);
        let mut setup = Setup::new();
        let tls = setup.path("tls");
        std::fs::create_dir(&tls).expect("a folder");
        let ca = authority.write_ca(&tls).expect("the CA's file");
        let identity = authority.issue_server(&[HOST]).expect("a certificate");
        let (certificate, key) = identity.write(&tls).expect("the certificate's files");
        let listen = setup.get("SALLYPORT_LISTEN").to_owned();
        setup
            .set("SALLYPORT_PUBLIC_URL", PUBLIC_URL)
            .set("SALLYPORT_TLS_CERT_FILE", &certificate.display().to_string())
            .set("SALLYPORT_TLS_KEY_FILE", &key.display().to_string())
            .set("SALLYPORT_BOOTSTRAP_TOKEN", ADMIN)
            .set("SALLYPORT_OUTBOUND_CA_FILE", &ca.display().to_string())
            .set("SALLYPORT_OUTBOUND_ALLOW", "127.0.0.0/8")
            .set("SALLYPORT_OUTBOUND_RESOLVE", &resolve);
        let server = setup.start().await;
        let standing = Standing::open(platform, ports, &authority).await;
        let http = World::client_at(HOST, listen.parse().expect("an address"), authority.ca_pem());
        let issuer = Issuer::builder().algorithms(&[]).start(&authority).await.expect("an issuer");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = listen.rsplit(':').next().expect("a port");
        let outside = standing.url.trim_start_matches("http://");
        let redirected = format!(
            "noproxy = \"*\"\ncacert = \"{}\"\nconnect-to = \"{HOST}:443:127.0.0.1:{port}\"\n\
             connect-to = \"metadata.google.internal:80:{outside}\"\nconnect-to = \"169.254.169.254:80:{outside}\"\n",
            ca.display()
        );
        std::fs::write(folder.path().join(".curlrc"), redirected).expect("curl's configuration");
        let world = World { server, authority, issuer, http, admin: ADMIN.to_owned() };
        let mut environment = Vec::new();
        if platform.kind == "CUSTOM_OIDC" {
            // How its workloads come by their token is not for the guide to say.
            environment.push(("TOKEN".to_owned(), standing.token(HOST, &Differs::new())));
        }
        let (names, answers) = (Names::default(), answers());
        Self { world, standing, names, answers, folder, environment, last: None }
    }

    /// Follows the parts of a guide.
    async fn follow(&mut self, file: &str, parts: &[&Part]) {
        for (index, part) in parts.iter().enumerate() {
            let place = format!("docs/guides/{file}:{}", part.line);
            let next = parts.get(index + 1).map(|part| &part.content);
            let shown = match next {
                Some(Content::Block { language, text }) if language == "json" => {
                    Some(serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{place}: {error}")))
                }
                _ => None,
            };
            match &part.content {
                Content::Block { language, text } => match language.as_str() {
                    "graphql" => self.ask(&place, text, shown.is_some()).await,
                    "json" => self.compare(&place, text),
                    "sh" => self.run(&place, "sh", &self.names.fill(text), &[], shown.as_ref()).await,
                    "yaml" => self.pipeline(&place, &self.names.fill(text), shown.as_ref()).await,
                    "env" => self.variables(text),
                    "hcl" => self.terraform(&place, &self.names.fill(text)).await,
                    other => panic!("{place}: nobody knows what to do with a block of '{other}'"),
                },
                Content::Table(rows) if rows[0][0] == "In the token" => {
                    self.names.forget("REFERENCE");
                    for (number, row) in rows[1..].iter().enumerate() {
                        let answer = self.refusal(&format!("{place}, row {}", number + 1), row).await;
                        if number == 0 {
                            self.last = Some(answer);
                        }
                    }
                }
                Content::Table(_) => {}
            }
        }
    }

    /// What an admin types.
    async fn ask(&mut self, place: &str, document: &str, answer_is_shown: bool) {
        let reply = self.world.query(Some(ADMIN), &self.names.fill(document), &json!({})).await;
        let answer = reply.json();
        if !answer_is_shown {
            assert!(answer.get("errors").is_none(), "{place}: {answer}");
            assert!(!warns(&answer), "{place} warns without saying so: {answer}");
        }
        // The reader saves the configuration file that a binding's answer shows.
        let config = answer.pointer("/data/createWIFAuthBinding/config");
        if let Some(config) = config {
            std::fs::write(self.folder.path().join("wif-config.json"), config.to_string()).expect("a file");
        }
        self.last = Some(answer);
    }

    fn compare(&mut self, place: &str, shown: &str) {
        let shown = serde_json::from_str(shown).unwrap_or_else(|error| panic!("{place}: {error}"));
        let real = self.last.take().unwrap_or_else(|| panic!("{place}: an answer to nothing"));
        if let Err(error) = self.names.agree(&shown, &real) {
            panic!("{place}: {error}\n{real:#}");
        }
    }

    /// Runs a script where a workload would. It must succeed, unless the guide shows its refusal.
    async fn run(&mut self, place: &str, shell: &str, script: &str, more: &[(String, String)], shown: Option<&Value>) {
        let credential = self.folder.path().join("credential.json");
        let root = self.folder.path().join("var/run");
        let script = script.replace("/var/run/", &format!("{}/", root.display()));
        let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guides/bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = std::process::Command::new(shell);
        command
            .args(["-e", "-c", &script])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder.path())
            .env("CURL_HOME", self.folder.path())
            .env("PLATFORM", &self.standing.url)
            .env("CREDENTIAL", &credential)
            .env("API_TOKEN", ADMIN)
            .envs(self.environment.iter().cloned())
            .envs(more.iter().cloned());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect(shell);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = format!("{place}:\n{script}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let refusal = shown.is_some_and(|shown| shown.get("error").is_some() || shown.get("code").is_some());
        assert_eq!(output.status.success(), !refusal, "{told}");
        // A command to the CI platform's log is no output.
        let text: String =
            text.lines().filter(|line| !line.starts_with("::")).map(|line| format!("{line}\n")).collect();
        self.last = if text.trim().is_empty() {
            None
        } else {
            Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {told}")))
        };
        if credential.exists() {
            let document = std::fs::read(&credential).expect("a file");
            let document: Value = serde_json::from_slice(&document).unwrap_or_else(|error| panic!("{error}: {told}"));
            assert_eq!(self.world.signed_ping(&document).await, 200, "{told}");
            std::fs::remove_file(&credential).expect("a file");
        }
    }

    /// What a platform does with a file of its own: a workflow, a pipeline, a pod.
    async fn pipeline(&mut self, place: &str, text: &str, shown: Option<&Value>) {
        let file: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{place}: {error}"));
        match self.standing.platform.kind {
            "GITHUB_ACTIONS" => {
                for job in file["jobs"].as_object().expect("jobs").values() {
                    assert_eq!(job["permissions"]["id-token"], "write", "{place}: without it there is no token");
                    let environment = &self.standing.claims(HOST)["environment"];
                    assert_eq!(&job["environment"], environment, "{place}: the job's environment is in its token");
                    let request = [
                        ("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{}/actions?api-version=2.0", self.standing.url)),
                        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-token".to_owned()),
                    ];
                    let request = request.map(|(name, value)| (name.to_owned(), value));
                    for step in job["steps"].as_array().expect("steps") {
                        match (step["uses"].as_str(), step["run"].as_str()) {
                            (Some(action), None) if action.starts_with("actions/checkout@") => {}
                            (None, Some(script)) => self.run(place, "bash", script, &request, shown).await,
                            _ => panic!("{place}: nobody knows what to do with the step {step}"),
                        }
                    }
                }
            }
            "GITLAB_CI" => {
                for job in file.as_object().expect("jobs").values() {
                    let tokens = job["id_tokens"].as_object().expect("id_tokens").iter().map(|(name, wanted)| {
                        let audience = wanted["aud"].as_str().expect("an audience");
                        (name.clone(), self.standing.token(audience, &Differs::new()))
                    });
                    let tokens: Vec<(String, String)> = tokens.collect();
                    let lines = job["script"].as_array().expect("a script").iter().filter_map(Value::as_str);
                    let script = lines.collect::<Vec<_>>().join("\n");
                    self.run(place, "bash", &script, &tokens, shown).await;
                }
            }
            "KUBERNETES" => self.pod(place, &file, shown).await,
            other => panic!("{place}: {other} has no files"),
        }
    }

    /// What kubelet does: mounts the projected tokens and starts the containers.
    async fn pod(&mut self, place: &str, pod: &Value, shown: Option<&Value>) {
        let claims = self.standing.claims(HOST);
        let spec = &pod["spec"];
        assert_eq!(pod["metadata"]["namespace"], claims["kubernetes.io"]["namespace"], "{place}");
        assert_eq!(spec["serviceAccountName"], claims["kubernetes.io"]["serviceaccount"]["name"], "{place}");
        for container in spec["containers"].as_array().expect("containers") {
            for mount in container["volumeMounts"].as_array().expect("volumeMounts") {
                let mut volumes = spec["volumes"].as_array().expect("volumes").iter();
                let volume = volumes.find(|volume| volume["name"] == mount["name"]).expect("the mount's volume");
                let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
                assert!(token["expirationSeconds"].as_i64().is_none_or(|seconds| seconds >= 600), "{place}");
                let at = mount["mountPath"].as_str().and_then(|path| path.strip_prefix('/')).expect("a mount path");
                let at = self.folder.path().join(at);
                std::fs::create_dir_all(&at).expect("a folder");
                let audience = token["audience"].as_str().expect("an audience");
                let file = at.join(token["path"].as_str().expect("a path"));
                std::fs::write(file, self.standing.token(audience, &Differs::new())).expect("a file");
            }
            assert_eq!(container["command"], json!(["sh", "-e", "-c"]), "{place}");
            let script = container["args"][0].as_str().expect("a script").to_owned();
            self.run(place, "sh", &script, &[], shown).await;
        }
    }

    /// Variables of the workload's environment. HCP Terraform makes a token of the one that names an audience.
    fn variables(&mut self, text: &str) {
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if name == "TFC_WORKLOAD_IDENTITY_AUDIENCE" {
                let token = self.standing.token(value, &Differs::new());
                self.environment.push(("TFC_WORKLOAD_IDENTITY_TOKEN".to_owned(), token));
            }
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// What the Terraform provider does: exchanges the run's token where the client ID's host says.
    async fn terraform(&mut self, place: &str, text: &str) {
        let wanted = Regex::new(r#"^provider "conductorone" \{\n  client_id = "([^"@]+@([^"/]+)/wfe)"\n\}$"#)
            .expect("a pattern");
        let found = wanted.captures(text).unwrap_or_else(|| panic!("{place}: not the provider's block: {text}"));
        assert_eq!(&found[2], HOST, "{place}");
        let token = self.environment.iter().find(|(name, _)| name == "TFC_WORKLOAD_IDENTITY_TOKEN");
        let (_, token) = token.unwrap_or_else(|| panic!("{place}: the run has no token"));
        let access_token = self.world.access_token(&found[1], token).await;
        assert_eq!(self.world.ping(&access_token).await, 200, "{place}");
    }

    /// Shows a token that must be refused at both doors and to the simulator. Answers with what OAuth said.
    async fn refusal(&mut self, place: &str, row: &[String]) -> Value {
        let (differs, text) = spans(&row[0]);
        let reachable = text != "The server cannot reach STS";
        assert!(!differs.is_empty() || !reachable || text == "The same token", "{place}: how does it differ?");
        let differs = differs.first().map(|members| differences(place, members)).unwrap_or_default();
        let told = spans(&row[1]).0.remove(0);
        let (mut seen, _) = spans(&row[2]);
        let check = seen.remove(0);
        let tokens = self.standing.platform.audiences.map(|audience| self.standing.token(audience, &differs));

        self.standing.set_reachable(reachable);
        let oauth = self.oauth(&tokens[0]).await;
        let issuer = self.standing.platform.issuer;
        let rpc = self.world.exchange(SPACE, issuer, &tokens[1]).await;
        let simulated = self.simulate(&tokens[0]).await;
        self.standing.set_reachable(true);

        let answer = self.answers.iter().find(|answer| answer.words.contains(&told));
        let answer = answer.unwrap_or_else(|| panic!("{place}: the index knows no answer '{told}'"));
        let reference = rpc.reference();
        let words = format!("{} (reference {reference})", answer.rpc.words);
        assert_eq!(
            (rpc.status, rpc.json()),
            (answer.rpc.status, json!({ "code": answer.rpc.code, "message": words })),
            "{place}, at the RPC"
        );
        self.recorded(place, &rpc, answer.recorded, &check, &seen).await;
        match &answer.oauth {
            Some(said) => {
                let body =
                    json!({ "error": said.code, "error_description": said.words, "reference": oauth.reference() });
                assert_eq!((oauth.status, oauth.json()), (said.status, body), "{place}, at the OAuth endpoint");
                self.recorded(place, &oauth, answer.recorded, &check, &seen).await;
                assert_eq!(simulated["granted"], false, "{place}: {simulated}");
                assert_fails(place, &simulated, &check, &seen);
                // What is not on record was found before anything else; the simulator goes on and may find more.
                assert!(!answer.recorded || simulated["reason"] == check.as_str(), "{place}: {simulated:#}");
            }
            None => {
                assert_eq!(oauth.status, 200, "{place}: {}", oauth.text());
                assert_eq!(simulated["granted"], true, "{place}: {simulated}");
            }
        }
        oauth.json()
    }

    /// The OAuth exchange, as the guide's script sends it.
    async fn oauth(&self, token: &str) -> Reply {
        let kind = match self.standing.platform.shows {
            Shows::Jwt(..) => "urn:ietf:params:oauth:token-type:jwt",
            Shows::AwsRequest => "urn:ietf:params:aws:token-type:aws4_request",
        };
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token_type", kind),
            ("client_id", self.names.get("CLIENT_ID")),
            ("subject_token", token),
        ];
        self.world.post_form("/auth/v1/token", &fields, None).await
    }

    /// What the simulator says of a token.
    async fn simulate(&self, token: &str) -> Value {
        let query = "query($input: SimulateExchangeInput!) { simulateExchange(input: $input) { \
                     granted reason checks { name outcome expected actual detail } } }";
        let input = json!({ "clientId": self.names.get("CLIENT_ID"), "subjectToken": token, "sourceIp": "127.0.0.1" });
        self.world.graphql(query, json!({ "input": input })).await["simulateExchange"].take()
    }

    /// What the admin finds when looking a reference up.
    async fn recorded(&self, place: &str, reply: &Reply, recorded: bool, check: &str, seen: &[String]) {
        if recorded {
            let record = self.world.record(SPACE, &reply.reference()).await;
            assert_fails(place, &record, check, seen);
            assert_eq!(record["reason"], check, "{place}: {record:#}");
            return;
        }
        let list = "query($scope: String!, $reference: String) { listExchanges(scopeMrn: $scope, reference: $reference) { totalCount } }";
        let listed = self.world.graphql(list, json!({ "scope": SPACE, "reference": reply.reference() })).await;
        assert_eq!(listed["listExchanges"]["totalCount"], 0, "{place}: the index says it is not on record");
    }
}

/// Whether an answer has warnings anywhere.
fn warns(answer: &Value) -> bool {
    match answer {
        Value::Object(members) => members.iter().any(|(name, value)| {
            if name == "warnings" { value.as_array().is_some_and(|list| !list.is_empty()) } else { warns(value) }
        }),
        Value::Array(items) => items.iter().any(warns),
        _ => false,
    }
}

/// The check failed, and tells what the guide says it does.
fn assert_fails(place: &str, decided: &Value, check: &str, seen: &[String]) {
    let checks = decided["checks"].as_array().expect("checks");
    let failed = checks.iter().find(|c| c["name"] == check).expect("every check is there");
    assert_eq!(failed["outcome"], "FAILED", "{place}: {decided:#}");
    for text in seen {
        let shown = json!(text);
        let mut told =
            ["expected", "actual", "detail"].iter().map(|name| &failed[*name]).filter(|told| told.is_string());
        assert!(told.any(|told| Names::default().agree(&shown, told).is_ok()), "{place}: no '{text}' in {failed:#}");
    }
}

/// The members in a row's first cell: JSON, with times as `now - 60`.
fn differences(place: &str, members: &str) -> Differs {
    let time = Regex::new(r"now ([+-]) (\d+)").expect("a pattern");
    let members = time.replace_all(members, |found: &regex::Captures<'_>| {
        let seconds: i64 = found[2].parse().expect("seconds");
        (if &found[1] == "+" { now() + seconds } else { now() - seconds }).to_string()
    });
    serde_json::from_str(&format!("{{{members}}}")).unwrap_or_else(|error| panic!("{place}: {error}: {members}"))
}

/// Follows the part of a guide that is about a platform, once in each way that it shows.
async fn follow(platform: &'static Platform) {
    let index = read(&guide("README.md"));
    let document = read(&guide(platform.file));
    let about: Vec<&Part> = document.iter().filter(|part| part.is_under(platform.heading)).collect();
    for way in WAYS {
        let other = WAYS.into_iter().find(|other| *other != way).expect("another way");
        let mut reader = Reader::new(platform).await;
        reader
            .follow("README.md", &index.iter().filter(|part| part.is_under("Before you begin")).collect::<Vec<_>>())
            .await;
        let parts: Vec<&Part> = about.iter().copied().filter(|part| !part.is_in(other)).collect();
        assert!(parts.iter().any(|part| part.is_in(way)), "{} has nothing {way}", platform.heading);
        reader.follow(platform.file, &parts).await;
        let list = "query($scope: String!) { listExchanges(scopeMrn: $scope, granted: true, first: 500) { exchanges { protocol } } }";
        let listed = reader.world.graphql(list, json!({ "scope": SPACE })).await;
        for door in ["rpc", "oauth"] {
            let through = |exchange: &Value| exchange["protocol"] == door;
            let granted = listed["listExchanges"]["exchanges"].as_array().expect("exchanges").iter().any(through);
            assert!(granted, "{}, {way}: nothing came in through {door}", platform.heading);
        }
    }
}

/// Follows every part of a guide.
fn follow_guide(file: &str) {
    run(async {
        for platform in PLATFORMS.iter().filter(|platform| platform.file == file) {
            Box::pin(follow(platform)).await;
        }
    });
}

/// A script's logical lines, each on one line with single spaces.
fn logical_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_wizard_s_snippets_are_the_guides() {
    run(async {
        let world = World::new().await;
        let presets = world.graphql("{ wifPresets { kind setup } }", json!({})).await["wifPresets"].take();
        let presets = presets.as_array().expect("presets");
        for preset in presets {
            let platform = PLATFORMS.iter().find(|platform| preset["kind"] == platform.kind);
            let platform = platform.unwrap_or_else(|| panic!("{} has no guide", preset["kind"]));
            let setup = preset["setup"].as_str().expect("a snippet").replace("{client_id}", "CLIENT_ID");
            let setup = setup.replace("{audience}", platform.audiences[0]).replace("{public_url}", PUBLIC_URL);
            let shown: Vec<String> = read(&guide(platform.file))
                .into_iter()
                .filter(|part| part.is_under(platform.heading))
                .filter_map(|part| match part.content {
                    Content::Block { text, .. } => Some(logical_lines(&text)),
                    Content::Table(_) => None,
                })
                .flatten()
                .collect();
            for line in logical_lines(&setup).iter().filter(|line| !line.starts_with('#')) {
                // HCP Terraform names the token for the run, every other guide calls it TOKEN.
                let tfc = line.replace("$TOKEN", "$TFC_WORKLOAD_IDENTITY_TOKEN");
                assert!(shown.contains(line) || shown.contains(&tfc), "{} lacks: {line}", platform.file);
            }
        }
    });
}

#[test]
fn every_guide_is_followed_and_every_answer_is_met() {
    let index = guide("README.md");
    let root = std::fs::read_to_string(folder().join("../../README.md")).expect("the README");
    assert!(root.contains("(docs/guides/README.md)"), "the README leads to the guides");
    for entry in std::fs::read_dir(folder()).expect("the guides") {
        let file = entry.expect("a file").file_name().into_string().expect("a name");
        let about: Vec<&Platform> = PLATFORMS.iter().filter(|platform| platform.file == file).collect();
        let executed = |part: &Part| match &part.content {
            Content::Block { .. } => true,
            Content::Table(rows) => rows[0][0] == "In the token",
        };
        for part in read(&guide(&file)).iter().filter(|part| executed(part)) {
            let followed = match file.as_str() {
                "README.md" => part.is_under("Before you begin"),
                _ => about.iter().any(|platform| part.is_under(platform.heading)),
            };
            assert!(followed, "docs/guides/{file}:{}: nobody follows this", part.line);
        }
        assert!(file == "README.md" || index.contains(&format!("({file})")), "the index lacks {file}");
    }
    let mut files: Vec<&str> = PLATFORMS.iter().map(|platform| platform.file).collect();
    files.dedup();
    let rows: Vec<Vec<String>> = files
        .into_iter()
        .flat_map(|file| read(&guide(file)))
        .filter_map(|part| match part.content {
            Content::Table(rows) if rows[0][0] == "In the token" => Some(rows),
            _ => None,
        })
        .flatten()
        .collect();
    for answer in answers() {
        let met = rows.iter().any(|row| spans(&row[1]).0.iter().any(|told| answer.words.contains(told)));
        assert!(met, "no guide meets: {}", answer.words);
    }
}

#[test]
fn github_actions() {
    follow_guide("github-actions.md");
}

#[test]
fn gitlab_ci() {
    follow_guide("gitlab-ci.md");
}

#[test]
fn hcp_terraform() {
    follow_guide("hcp-terraform.md");
}

#[test]
fn google_cloud() {
    follow_guide("google-cloud.md");
}

#[test]
fn azure() {
    follow_guide("azure.md");
}

#[test]
fn aws() {
    follow_guide("aws.md");
}

#[test]
fn kubernetes() {
    follow_guide("kubernetes.md");
}

#[test]
fn spiffe() {
    follow_guide("spiffe.md");
}

#[test]
fn circleci_and_buildkite() {
    follow_guide("circleci-buildkite.md");
}

#[test]
fn custom_oidc() {
    follow_guide("custom-oidc.md");
}
