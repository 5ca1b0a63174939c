//! Story: an AWS workload proves who it is with a pre-signed GetCallerIdentity request. STS is a stand-in that checks
//! signatures.

use sallyport_testkit::{AccessKey, CallerIdentity, Failure, PresignOptions, Sts, presign};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Reply, World, document, fixture, now, run};

const ISSUER: &str = "https://sts.amazonaws.com";

struct Aws {
    world: World,
    sts: Sts,
}

async fn aws() -> &'static Aws {
    static AWS: OnceCell<Aws> = OnceCell::const_new();
    AWS.get_or_init(async || {
        // STS needs the world's authority, and the server STS's port: so the port comes first.
        let port = crate::support::free_port();
        let world = World::with(|setup| {
            let entries =
                ["sts.amazonaws.com", "sts.eu-west-1.amazonaws.com"].map(|host| format!("{host}:443=127.0.0.1:{port}"));
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &entries.join(","));
        })
        .await;
        let sts = Sts::builder(now).port(port).start(&world.authority).await.expect("an STS");
        Aws { world, sts }
    })
    .await
}

impl Aws {
    /// A new assumed-role session in this account.
    fn session(&self, account: &str) -> AccessKey {
        let key = AccessKey::temporary();
        self.sts.add_identity(key.clone(), CallerIdentity::assumed_role(account, "Deploy", "run-17"));
        key
    }

    async fn exchange(&self, scope: &str, request: &Value) -> Reply {
        self.world.exchange(scope, ISSUER, &request.to_string()).await
    }

    async fn bind(&self, subject: &str, more: Value) -> String {
        let place = self.world.place().await;
        let mut input = json!({ "scopeMrn": place.space, "name": "aws", "issuerUri": ISSUER, "subject": subject });
        for (name, value) in more.as_object().unwrap() {
            input[name] = value.clone();
        }
        self.world.bind(input).await;
        place.space
    }
}

#[test]
fn the_mondoo_client_and_the_documented_form_are_exchanged() {
    run(async {
        let aws = aws().await;
        let space = aws
            .bind(
                "arn:aws:sts::123456789012:assumed-role/Deploy/*",
                json!({ "mappings": [{ "key": "aws_claims.account", "value": "123456789012" }] }),
            )
            .await;
        let key = aws.session("123456789012");
        for options in [PresignOptions::mondoo(now()), PresignOptions::documented(now())] {
            let reply = aws.exchange(&space, &presign(&key, &options)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(aws.world.signed_ping(&document(&reply)).await, 200);
        }
    });
}

#[test]
fn the_documented_curl_line_works_verbatim() {
    run(async {
        let aws = aws().await;
        let space = aws.bind("arn:aws:sts::123456789012:assumed-role/Deploy/*", json!({})).await;
        let request = presign(&aws.session("123456789012"), &PresignOptions::mondoo(now())).to_string();
        // The request stands inside a JSON string.
        let escaped = serde_json::to_string(&request).unwrap();
        let line = fixture("exchange_aws.sh")
            .replace("UNIVERSE_DOMAIN", &aws.world.server.url)
            .replace("\"AUDIENCE\"", &format!("\"{space}\""))
            .replace("\"PRE_SIGNED_REQUEST_JSON\"", &escaped);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line]).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().expect("curl");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(answer["base64_credential"].is_string(), "{answer}");
    });
}

#[test]
fn another_account_role_or_host_is_refused() {
    run(async {
        let aws = aws().await;
        let space = aws.bind("arn:aws:sts::123456789012:assumed-role/Deploy/*", json!({})).await;
        let other_account = aws.session("999999999999");
        let other_role = AccessKey::temporary();
        aws.sts
            .add_identity(other_role.clone(), CallerIdentity::assumed_role("123456789012", "Deploy-Admin", "run-17"));
        for key in [&other_account, &other_role] {
            let reply = aws.exchange(&space, &presign(key, &PresignOptions::mondoo(now()))).await;
            assert_eq!((reply.status, &reply.json()["code"]), (403, &json!(7)), "{}", reply.text());
            let record = aws.world.record(&space, &reply.reference()).await;
            assert_eq!(record["reason"], json!("subject"), "{record}");
        }
        let key = aws.session("123456789012");
        let before = aws.sts.requests();
        for host in [
            "sts.amazonaws.com.evil.example",
            "evil.example",
            "127.0.0.1",
            "s3.amazonaws.com",
            "sts.nowhere-9.amazonaws.com",
        ] {
            let reply = aws.exchange(&space, &presign(&key, &PresignOptions::mondoo(now()).host(host))).await;
            assert!(matches!(reply.status, 400 | 403), "{host}: {} {}", reply.status, reply.text());
        }
        let good = presign(&key, &PresignOptions::mondoo(now()));
        let with = |name: &str, value: Value| {
            let mut request = good.clone();
            request[name] = value;
            request
        };
        let others = [
            with("url", json!("https://sts.amazonaws.com/?Action=AssumeRole&Version=2011-06-15")),
            with(
                "url",
                json!("https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&Action=AssumeRole"),
            ),
            with("url", json!("https://sts.amazonaws.com:8443/?Action=GetCallerIdentity&Version=2011-06-15")),
            with("url", json!("http://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15")),
            with("url", json!("https://sts.amazonaws.com/path?Action=GetCallerIdentity&Version=2011-06-15")),
            with("method", json!("PUT")),
            with("headers", json!([])),
        ];
        for request in others {
            let reply = aws.exchange(&space, &request).await;
            assert!(matches!(reply.status, 400 | 403), "{request}: {} {}", reply.status, reply.text());
        }
        assert_eq!(aws.sts.requests(), before, "nothing of this reaches STS");
        let unknown = presign(&AccessKey::long_lived(), &PresignOptions::mondoo(now()));
        assert_eq!(aws.exchange(&space, &unknown).await.status, 403, "STS knows no such key");
    });
}

/// Relay (Vault CVE-2025-11621): a request that a service of somebody else's talked out of a workload is worth nothing here, where
/// the provider demands that it names its receiver.
#[test]
fn a_request_signed_for_another_receiver_is_refused_where_the_provider_demands_ours() {
    run(async {
        let aws = aws().await;
        let place = aws.world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "aws", "kind": "AWS_STS", "requireAudienceHeader": true });
        aws.world.provider_with(input).await;
        let input = json!({ "scopeMrn": place.space, "name": "aws", "issuerUri": ISSUER,
                            "subject": "arn:aws:sts::123456789012:assumed-role/Deploy/*" });
        let binding = aws.world.bind(input).await;
        let key = aws.session("123456789012");
        let signed = |name: &str, value: &str| presign(&key, &PresignOptions::mondoo(now()).header(name, value));
        for receiver in [place.space.as_str(), &binding.client_id, &aws.world.server.url] {
            for name in ["x-sallyport-audience", "x-goog-cloud-target-resource"] {
                let reply = aws.exchange(&place.space, &signed(name, receiver)).await;
                assert_eq!(reply.status, 200, "{name}: {receiver}: {}", reply.text());
            }
        }
        for receiver in ["vault.example.com", &place.organization, &format!("{}/", place.space), "*"] {
            let reply = aws.exchange(&place.space, &signed("x-sallyport-audience", receiver)).await;
            assert!(matches!(reply.status, 401 | 403), "{receiver}: {}", reply.text());
            let record = aws.world.record(&place.space, &reply.reference()).await;
            assert_eq!(record["reason"], json!("audience"), "{record}");
        }
        let unsigned = PresignOptions::mondoo(now()).unsigned_header("x-sallyport-audience", &place.space);
        for request in [presign(&key, &unsigned), presign(&key, &PresignOptions::mondoo(now()))] {
            assert_eq!(aws.exchange(&place.space, &request).await.status, 403, "it does not name its receiver");
        }
    });
}

#[test]
fn nothing_of_an_answer_is_kept_and_a_request_is_good_once_where_the_provider_says_so() {
    run(async {
        // Its own world: it counts what STS is asked.
        let port = crate::support::free_port();
        let world = World::with(|setup| {
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &format!("sts.amazonaws.com:443=127.0.0.1:{port}"));
        })
        .await;
        let sts = Sts::builder(now).port(port).start(&world.authority).await.expect("an STS");
        let key = AccessKey::temporary();
        sts.add_identity(key.clone(), CallerIdentity::assumed_role("123456789012", "Deploy", "run-17"));
        let subject = "arn:aws:sts::123456789012:assumed-role/Deploy/*";
        let (often, once) = (world.place().await, world.place().await);
        world.bind(json!({ "scopeMrn": often.space, "name": "aws", "issuerUri": ISSUER, "subject": subject })).await;
        let input = json!({ "scopeMrn": once.space, "name": "aws", "kind": "AWS_STS", "replay": "ONCE" });
        world.provider_with(input).await;
        world.bind(json!({ "scopeMrn": once.space, "name": "aws", "issuerUri": ISSUER, "subject": subject })).await;
        let request = presign(&key, &PresignOptions::mondoo(now())).to_string();
        for n in 1..=3 {
            assert_eq!(world.exchange(&often.space, ISSUER, &request).await.status, 200);
            assert_eq!(sts.requests(), n, "STS is asked each time");
        }
        let first = world.exchange(&once.space, ISSUER, &request).await;
        assert_eq!(first.status, 200, "{}", first.text());
        // The same signature in another document is the same request.
        let mut other: Value = serde_json::from_str(&request).unwrap();
        other["headers"].as_array_mut().unwrap().reverse();
        for again in [request.clone(), format!(" {request} "), other.to_string()] {
            let reply = world.exchange(&once.space, ISSUER, &again).await;
            assert_eq!((reply.status, &reply.json()["code"]), (403, &json!(7)), "{}", reply.text());
            assert_eq!(world.record(&once.space, &reply.reference()).await["reason"], json!("replay"));
        }
        // What STS vouched for a moment ago it need not vouch for now.
        sts.remove_identity(&key.id);
        assert_eq!(world.exchange(&often.space, ISSUER, &request).await.status, 403);
    });
}

/// Neither an account, nor a role, nor whether AWS is trusted at all can be read off a refusal.
#[test]
fn a_signed_request_that_is_refused_looks_like_one_where_aws_is_not_trusted() {
    run(async {
        let aws = aws().await;
        let space = aws.bind("arn:aws:sts::123456789012:assumed-role/Deploy/*", json!({})).await;
        let elsewhere = aws.world.place().await.space;
        let stranger = aws.session("999999999999");
        let unknown = AccessKey::temporary();
        let mut seen: Option<String> = None;
        for key in [&stranger, &unknown] {
            for scope in [space.as_str(), &elsewhere, "//captain.api.mondoo.app/spaces/no-such-space"] {
                let reply = aws.exchange(scope, &presign(key, &PresignOptions::mondoo(now()))).await;
                assert_eq!(reply.status, 403, "{scope}: {}", reply.text());
                let refusal = reply.without_reference();
                assert_eq!(seen.get_or_insert_with(|| refusal.clone()), &refusal, "{scope}");
            }
        }
    });
}

#[test]
fn a_stuck_sts_is_asked_by_few_at_a_time() {
    run(async {
        // Its own world: the failure is everyone's.
        let port = crate::support::free_port();
        let world = World::with(|setup| {
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &format!("sts.amazonaws.com:443=127.0.0.1:{port}"));
        })
        .await;
        let sts = Sts::builder(now).port(port).start(&world.authority).await.expect("an STS");
        let place = world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "aws", "issuerUri": ISSUER,
                            "subject": "arn:aws:sts::123456789012:assumed-role/Deploy/*" });
        world.bind(input).await;
        world.binding(&place.space, "quick", &[]).await;
        sts.set_failure(Failure::Hang);
        let waiting = (0..100).map(|_| {
            let request = presign(&AccessKey::temporary(), &PresignOptions::mondoo(now())).to_string();
            let (world, space) = (&world, &place.space);
            async move { world.exchange(space, ISSUER, &request).await.status }
        });
        let elsewhere = async {
            for _ in 0..10 {
                let reply = world.exchange(&place.space, world.issuer.uri(), &world.token("quick", &place.space)).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
        };
        let (statuses, ()) = tokio::join!(futures::future::join_all(waiting), elsewhere);
        assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
        // 32 at a time for five seconds; the others give up their wait before that.
        assert!(sts.connections() <= 40, "{} connections for a hundred requests", sts.connections());
    });
}

#[test]
fn an_sts_out_of_reach_is_unavailable() {
    run(async {
        // Its own world: the failure is everyone's.
        let port = crate::support::free_port();
        let world = World::with(|setup| {
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &format!("sts.amazonaws.com:443=127.0.0.1:{port}"));
        })
        .await;
        let sts = Sts::builder(now).port(port).start(&world.authority).await.expect("an STS");
        let key = AccessKey::temporary();
        sts.add_identity(key.clone(), CallerIdentity::assumed_role("123456789012", "Deploy", "run-17"));
        let place = world.place().await;
        let input = json!({ "scopeMrn": place.space, "name": "aws", "issuerUri": ISSUER,
                            "subject": "arn:aws:sts::123456789012:assumed-role/Deploy/*" });
        world.bind(input).await;
        for failure in [Failure::CloseConnection, Failure::Status(500), Failure::Hang] {
            sts.set_failure(failure.clone());
            let reply =
                world.exchange(&place.space, ISSUER, &presign(&key, &PresignOptions::mondoo(now())).to_string()).await;
            assert_eq!((reply.status, &reply.json()["code"]), (503, &json!(14)), "{failure:?}: {}", reply.text());
        }
        sts.set_failure(Failure::None);
        let reply =
            world.exchange(&place.space, ISSUER, &presign(&key, &PresignOptions::mondoo(now())).to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    });
}
