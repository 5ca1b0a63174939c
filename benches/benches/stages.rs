//! Each stage of an exchange by itself: `cargo bench -p sallyport-bench`.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sallyport_bench::estate::{Builder, Estate, TENANT, mrns};
use sallyport_bench::primitives::{key_pair_request, ring};
use sallyport_bench::tokens::token;
use sallyport_credentials::{AccessTokenClaims, ServiceAccountDocument, WifClaims};
use sallyport_domain::claims::Claims;
use sallyport_domain::clock::{Clock as _, SystemClock, Timestamp};
use sallyport_domain::decision::{Check, completed};
use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
use sallyport_domain::exchange::{CredentialKind, ExchangeRecord, IssuedCredential, Protocol};
use sallyport_domain::id::{CredentialId, ExchangeId, OrganizationId, ProviderId};
use sallyport_domain::identity::Identity;
use sallyport_domain::issuer::IssuerKey;
use sallyport_domain::matching::{AudiencePolicy, Candidate, Circumstances, Installation, choose};
use sallyport_domain::provider::{KeySource, Provider, ReplayPolicy};
use sallyport_domain::scope::{Organization, Scope, Space};
use sallyport_domain::snapshot::{Change, Snapshot};
use sallyport_domain::trust::CompiledTrust;
use sallyport_identity::jwt::UnverifiedJwt;
use sallyport_identity::outbound::{Outbound, OutboundSettings};
use sallyport_identity::verifier::Verifier;
use sallyport_store::{Configuration, Recorded, Recorder, RecorderOptions, Store, StoreOptions};
use sallyport_testkit::{Algorithm, Issuer, TestAuthority};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An issuer and one of its tokens by each algorithm.
struct Workload {
    issuer: Issuer,
    tokens: [(Algorithm, String); 3],
}

impl Workload {
    async fn new() -> Result<Self> {
        let algorithms = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        let issuer = Issuer::builder().algorithms(&algorithms).start(&TestAuthority::new()?).await?;
        let target = Estate::even(1, 1).target(0);
        let tokens = algorithms.map(|algorithm| (algorithm, token(&issuer, algorithm, &target)));
        Ok(Self { issuer, tokens })
    }

    /// The provider of space 0, with the issuer's keys uploaded: no stage here goes to the network.
    fn provider(&self) -> Provider {
        let provider = Builder::new(self.issuer.uri(), ReplayPolicy::Allow).provider(Builder::scope(0));
        Provider { keys: KeySource::Uploaded(self.issuer.jwks().to_string().into()), ..provider }
    }

    /// What the first token says.
    fn identity(&self) -> Result<Identity> {
        let jwt = UnverifiedJwt::parse(&self.tokens[0].1)?;
        Ok(Identity::from_claims(jwt.claims_unverified().clone())?)
    }
}

/// A snapshot with this many trusts in one space with one issuer.
fn snapshot(provider: &Provider, trusts: usize) -> Result<Snapshot> {
    let builder = Builder::new(provider.issuer.as_str(), ReplayPolicy::Allow);
    let (scope, now) = (Builder::scope(0), SystemClock.now());
    let organization = OrganizationId::parse("bench-organization").ok_or("no id")?;
    let mut changes = vec![
        Change::Organization(
            organization.clone(),
            Some(Arc::new(Organization {
                id: organization.clone(),
                name: "Benchmark".into(),
                disabled: false,
                created_at: now,
                created_by: String::new(),
            })),
        ),
        Change::Provider(provider.id, Some(Arc::new(provider.clone()))),
    ];
    if let Scope::Space(id) = &scope {
        let space = Space {
            id: id.clone(),
            organization,
            name: "Space".into(),
            description: None,
            disabled: false,
            created_at: now,
            created_by: String::new(),
        };
        changes.push(Change::Space(id.clone(), Some(Arc::new(space))));
    }
    for number in 0..trusts {
        let (account, trust) = builder.trust(scope.clone(), provider.id, number);
        changes.push(Change::ServiceAccount(account.id, Some(Arc::new(account))));
        let compiled = CompiledTrust::load(trust, provider).map_err(|error| error.message)?;
        changes.push(Change::Trust(compiled.trust().id, Some(Arc::new(compiled))));
    }
    Ok(Snapshot::default().with(1, changes))
}

fn installation() -> Installation {
    Installation {
        public_url: format!("http://{TENANT}"),
        tenant_domain: TENANT.to_owned(),
        mrns: mrns(),
        audience_policy: AudiencePolicy::Strict,
    }
}

fn circumstances(installation: &Installation) -> Circumstances<'_> {
    let (now, leeway) = (SystemClock.now(), 30);
    Circumstances { installation, now, leeway, source_ip: None, requested_roles: &[], subject_disabled: false }
}

fn decode(criterion: &mut Criterion, workload: &Workload) -> Result<()> {
    let token = &workload.tokens[0].1;
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(token.len() as u64));
    group.bench_function("token", |bencher| bencher.iter(|| UnverifiedJwt::parse(black_box(token))));
    let claims = serde_json::to_vec(&serde_json::Value::from(&workload.identity()?.claims))?;
    group.throughput(Throughput::Bytes(claims.len() as u64));
    group.bench_function("claims", |bencher| bencher.iter(|| Claims::parse(black_box(claims.as_slice()))));
    group.finish();
    Ok(())
}

fn verify(criterion: &mut Criterion, runtime: &Runtime, workload: &Workload) -> Result<()> {
    let verifier = Verifier::new(Outbound::new(OutboundSettings::default())?, Arc::new(SystemClock));
    let provider = Arc::new(workload.provider());
    let mut group = criterion.benchmark_group("verify");
    for (algorithm, token) in &workload.tokens {
        let jwt = UnverifiedJwt::parse(token)?;
        if let Err(refusal) = runtime.block_on(verifier.verify_jwt(&jwt, &provider)).outcome {
            return Err(format!("{}: {refusal:?}", algorithm.name()).into());
        }
        group.bench_function(algorithm.name(), |bencher| {
            bencher.to_async(runtime).iter(|| verifier.verify_jwt(black_box(&jwt), &provider));
        });
    }
    group.finish();
    Ok(())
}

/// The two ways to the trust: by its client ID, and among all of a scope.
fn locate_and_match(criterion: &mut Criterion, workload: &Workload) -> Result<()> {
    let (provider, identity, installation) = (workload.provider(), workload.identity()?, installation());
    let (scope, issuer) = (Builder::scope(0), IssuerKey::of(provider.issuer.as_str()));
    let mut group = criterion.benchmark_group("locate and match");
    for trusts in [1, 10_000] {
        let snapshot = snapshot(&provider, trusts)?;
        let at = circumstances(&installation);
        let among = |candidates: Vec<Candidate>| choose(&candidates, &identity, &at).map(|(_, e)| e.matched());
        let by_client = || among(snapshot.candidate_by_client("bench-otter-0").into_iter().collect());
        let by_scope = || among(snapshot.candidates_for(&scope, &issuer, &identity.subject));
        if (by_client(), by_scope()) != (Some(true), Some(true)) {
            return Err("the token does not match".into());
        }
        group.bench_function(BenchmarkId::new("by client ID", trusts), |bencher| bencher.iter(by_client));
        group.bench_function(BenchmarkId::new("by scope", trusts), |bencher| bencher.iter(by_scope));
    }
    group.finish();
    Ok(())
}

fn mint(criterion: &mut Criterion) -> Result<()> {
    let (ring, now) = (ring()?, SystemClock.now());
    let (id, request) = (uuid_v7(now, &SystemEntropy), key_pair_request(now));
    let claims = AccessTokenClaims {
        iss: format!("http://{TENANT}").into(),
        sub: format!("//agents.api.mondoo.app/spaces/bench-space-0/serviceaccounts/{id}").into(),
        aud: format!("http://{TENANT}").into(),
        client_id: format!("bench-otter-0@{TENANT}/wfe").into(),
        scope: "agent".into(),
        iat: now.seconds(),
        exp: now.seconds() + 3_600,
        jti: CredentialId(id),
        roles: vec!["//iam.api.mondoo.app/roles/agent".into()].into(),
        wif: WifClaims {
            issuer: "https://token.actions.githubusercontent.com".into(),
            subject: "repo:acme/repo-0:ref:refs/heads/main".into(),
            provider: format!("//iam.api.mondoo.app/spaces/bench-space-0/wifproviders/{id}").into(),
            trust: format!("//iam.api.mondoo.app/spaces/bench-space-0/wiftrusts/{id}").into(),
        },
        c1wfc: [].into(),
    };
    let mut group = criterion.benchmark_group("mint");
    group.bench_function("token", |bencher| bencher.iter(|| ring.sign_access_token(black_box(&claims))));
    group.bench_function("key pair", |bencher| {
        bencher.iter(|| {
            let credential = ring.issue_key_pair(black_box(&request), &SystemEntropy)?;
            let (mrn, scope) = (request.subject_mrn, request.scope_mrn);
            Ok::<_, sallyport_credentials::KeyError>(
                ServiceAccountDocument::key_pair(mrn, scope, &claims.iss, credential).to_base64(),
            )
        });
    });
    group.finish();
    Ok(())
}

/// The checks of a granted exchange, as the pipeline puts them together.
fn checks(workload: &Workload) -> Result<Vec<Check>> {
    let (provider, identity, installation) = (workload.provider(), workload.identity()?, installation());
    let candidate = snapshot(&provider, 1)?.candidate_by_client("bench-otter-0").ok_or("no trust")?;
    Ok(completed(candidate.evaluate(&identity, &circumstances(&installation)).checks))
}

fn record_of(workload: &Workload, checks: Vec<Check>) -> Result<ExchangeRecord> {
    let now: Timestamp = SystemClock.now();
    let id = uuid_v7(now, &SystemEntropy);
    let (account, trust) =
        Builder::new(workload.issuer.uri(), ReplayPolicy::Allow).trust(Builder::scope(0), ProviderId(id), 0);
    Ok(ExchangeRecord {
        id: ExchangeId(id),
        time: now,
        scope: trust.scope,
        organization: OrganizationId::parse("bench-organization"),
        granted: true,
        reason: None,
        protocol: Protocol::Oauth,
        trust: Some(trust.id),
        binding: true,
        provider: Some(ProviderId(id)),
        service_account: Some(account.id),
        issuer: workload.issuer.uri().to_owned(),
        subject: workload.identity()?.subject,
        source_ip: Some([127, 0, 0, 1].into()),
        token_hash: [7; 32],
        credential: Some(IssuedCredential {
            id: CredentialId(id),
            kind: CredentialKind::AccessToken,
            expires_at: now.plus_seconds(3_600),
            roles: vec!["//iam.api.mondoo.app/roles/agent".into()],
            public_key: None,
        }),
        checks,
        replay: None,
    })
}

/// What a record costs: its part in a group commit on SQLite, the wait for the disk included.
fn record(criterion: &mut Criterion, runtime: &Runtime, workload: &Workload) -> Result<()> {
    let one = record_of(workload, checks(workload)?)?;
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("bench.db").display());
    let (recorder, configuration) = runtime.block_on(async {
        let store = Store::connect(&StoreOptions { url, max_connections: 4 }).await?;
        store.migrate().await?;
        let configuration = Configuration::start(store.clone()).await?;
        let recorder = Recorder::start(store, Arc::clone(&configuration), RecorderOptions::default());
        Ok::<_, Box<dyn std::error::Error>>((recorder, configuration))
    })?;
    let revision = configuration.current()?.revision();

    let mut group = criterion.benchmark_group("record");
    for together in [1_usize, 64, 512] {
        group.throughput(Throughput::Elements(together as u64));
        group.bench_function(BenchmarkId::new("in one commit", together), |bencher| {
            bencher.to_async(runtime).iter_batched(
                || {
                    let fresh = || {
                        let id = uuid_v7(SystemClock.now(), &SystemEntropy);
                        let mut record = ExchangeRecord { id: ExchangeId(id), ..one.clone() };
                        if let Some(credential) = &mut record.credential {
                            credential.id = CredentialId(id);
                        }
                        record
                    };
                    std::iter::repeat_with(fresh).take(together).collect::<Vec<_>>()
                },
                |records| async {
                    let waiting: Vec<_> = records.into_iter().map(|r| Box::pin(recorder.record(r, revision))).collect();
                    durable(waiting).await
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
    runtime.block_on(recorder.shutdown());
    configuration.close();
    Ok(())
}

/// Waits for all of them, each having been queued before the first is waited for.
async fn durable<F>(mut waiting: Vec<std::pin::Pin<Box<F>>>) -> std::result::Result<(), Infallible>
where
    F: Future<Output = std::result::Result<Recorded, sallyport_store::RecordError>>,
{
    std::future::poll_fn(|context| {
        waiting.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(answer) => {
                assert_eq!(answer, Ok(Recorded::Durable));
                false
            }
        });
        if waiting.is_empty() { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
    })
    .await
}

#[expect(clippy::expect_used, reason = "a benchmark that cannot be set up ends here, and says why")]
fn stages(criterion: &mut Criterion) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let workload = runtime.block_on(Workload::new()).expect("an issuer and its tokens");
    decode(criterion, &workload).expect("decode");
    verify(criterion, &runtime, &workload).expect("verify");
    locate_and_match(criterion, &workload).expect("locate and match");
    mint(criterion).expect("mint");
    record(criterion, &runtime, &workload).expect("record");
}

criterion_group!(all, stages);
criterion_main!(all);
