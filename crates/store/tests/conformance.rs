//! One suite, run on SQLite and on PostgreSQL: what one database does, the other must.
//! Nothing here sleeps to pass; a replica is asked to catch up, or a future is awaited.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this whole file is a test, which clippy.toml's exception does not see"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sallyport_domain::clock::{Clock, SystemClock, Timestamp};
use sallyport_domain::decision::{Check, CheckName, completed};
use sallyport_domain::entropy::{Entropy, SystemEntropy, uuid_v7};
use sallyport_domain::exchange::{CredentialKind, ExchangeRecord, IssuedCredential, Protocol, ReplayKey};
use sallyport_domain::id::{
    ApiTokenId, CredentialId, ExchangeId, OrganizationId, ProviderId, ServiceAccountId, SpaceId, TrustId,
};
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::mapping::Mapping;
use sallyport_domain::principal::{ApiToken, ServiceAccount};
use sallyport_domain::provider::{Algorithm, KeySource, Provider, ProviderKind, ReplayPolicy};
use sallyport_domain::role::{BuiltInRole, Permission, Role, RoleName, RoleRef};
use sallyport_domain::scope::{Organization, Scope, Space};
use sallyport_domain::snapshot::Snapshot;
use sallyport_domain::subject_status::SubjectStatus;
use sallyport_domain::trust::Trust;
use sallyport_store::{
    AuditEntry, BindingOrder, BindingOrderField, Configuration, Constraint, Event, EventFilter, ExchangeFilter, KeyRow,
    LoadOptions, MutateError, Needed, PageRequest, RecordError, Recorded, Recorder, RecorderOptions, Schema, Store,
    StoreError, StoreOptions, Write, binding_fingerprint,
};
use sallyport_testkit::Postgres;
use sea_orm::{
    ConnectionTrait, Database, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

struct Db {
    store: Store,
    options: StoreOptions,
    _folder: Option<tempfile::TempDir>,
}

impl Db {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("store.db").display());
        Self::open(url, Some(folder)).await
    }

    async fn postgres() -> Self {
        let server = Postgres::shared().unwrap();
        let database = server.create_random_database("store").unwrap();
        Self::open(server.url(&database), None).await
    }

    async fn open(url: String, folder: Option<tempfile::TempDir>) -> Self {
        let options = StoreOptions { url, max_connections: 6 };
        let store = Store::connect(&options).await.unwrap();
        store.migrate().await.unwrap();
        Self { store, options, _folder: folder }
    }

    /// The same database after a version to come has migrated it, by the rules of `sallyport_migrations`: columns, tables and
    /// an index that this version does not know.
    async fn of_tomorrow(self) -> Self {
        let mut all = String::new();
        for table in self.tables().await {
            all += &format!("ALTER TABLE {table} ADD COLUMN tomorrow_number BIGINT NOT NULL DEFAULT 7;");
            all += &format!("ALTER TABLE {table} ADD COLUMN tomorrow_text TEXT NULL;");
            all += &format!("CREATE INDEX ix_{table}_tomorrow ON {table} (tomorrow_number);");
        }
        all += "CREATE TABLE tomorrow (id BIGINT PRIMARY KEY, trust_id UUID NULL);";
        all += &format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{TOMORROW}', 0)");
        self.sql(&format!("BEGIN;{all};COMMIT")).await;
        assert_eq!(self.store.schema().await, Ok(Schema::Ahead(vec![TOMORROW.into()])));
        assert_eq!(self.store.migrate().await, Ok(vec![]), "there is nothing to do for this version, and it may start");
        self
    }

    /// Every table of ours.
    async fn tables(&self) -> Vec<String> {
        let connection = Database::connect(&self.options.url).await.unwrap();
        let sql = match connection.get_database_backend() {
            DbBackend::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'seaql_migrations'",
            _ => "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'seaql_migrations'",
        };
        let rows =
            connection.query_all_raw(Statement::from_string(connection.get_database_backend(), sql)).await.unwrap();
        connection.close().await.unwrap();
        let tables: Vec<String> = rows.into_iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
        assert!(tables.len() > 15, "{tables:?}");
        tables
    }

    /// Done by other hands.
    async fn sql(&self, sql: &str) {
        let connection = Database::connect(&self.options.url).await.unwrap();
        connection.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.unwrap();
    }

    /// Another replica on the same database.
    async fn replica(&self) -> Store {
        Store::connect(&self.options).await.unwrap()
    }

    async fn configuration(&self) -> Arc<Configuration> {
        // A machine under load may take longer for a connection than the store waits.
        for _ in 0..20 {
            match Configuration::start(self.store.clone()).await {
                Err(error) if error.is_transient() => {}
                started => return started.unwrap(),
            }
        }
        panic!("the database does not answer")
    }
}

/// A migration that this version does not know.
const TOMORROW: &str = "m20991231_000001_tomorrow";

macro_rules! on_both {
    ($sqlite:ident, $postgres:ident, $prepared:expr; $($name:ident),* $(,)?) => {
        mod $sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($prepared(super::Db::sqlite().await).await).await }
        )*}
        mod $postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($prepared(super::Db::postgres().await).await).await }
        )*}
    };
}

/// All that is read and written runs on this version's schema, and on that of a version to come: while replicas are replaced
/// one by one, this version works with both.
macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        on_both!(sqlite, postgres, std::future::ready; $($name),*);
        on_both!(sqlite_of_tomorrow, postgres_of_tomorrow, super::Db::of_tomorrow; $($name),*);
    };
}

on_both! {
    sqlite_schema, postgres_schema, std::future::ready;
    migrations_up_down_up,
    replicas_migrate_together,
    a_schema_from_too_far_ahead_is_refused,
    a_schema_of_another_line_is_refused,
}

conformance! {
    everything_round_trips_and_goes,
    feed_and_full_reload_agree,
    replicas_see_each_other,
    a_stale_plan_is_made_again,
    concurrent_mutations_all_happen,
    duplicates_are_refused,
    what_is_in_use_stays,
    an_implicit_provider_goes_with_its_last_trust,
    a_changed_issuer_recompiles_trusts,
    a_failed_mutation_leaves_nothing,
    audit_alone_leaves_the_revision,
    pages_in_every_order,
    pages_of_other_lists,
    foreign_cursors_are_refused,
    exchanges_by_scope_and_filter,
    credentials_are_found_by_scope_and_account,
    providers_are_found_by_scope_and_issuer,
    the_id_of_an_organization_or_space_is_never_used_again,
    ended_revocations_are_forgotten_in_memory_too,
    a_grant_is_superseded_by_a_mutation,
    a_mutation_in_flight_is_waited_for_before_a_grant,
    a_record_waits_for_what_is_being_settled,
    only_what_a_grant_rests_on_supersedes_it,
    what_cannot_be_told_supersedes_every_older_grant,
    a_refusal_is_kept_whatever_the_revision,
    batches_of_every_size_are_recorded_whole,
    a_token_is_used_once_in_a_batch,
    a_token_is_used_once_across_batches_and_replicas,
    last_use_shows_once_answered_and_never_goes_back,
    uses_that_were_not_written_are_found_in_the_record,
    uses_are_written_before_the_store_closes,
    the_uses_of_many_trusts_are_written_whoever_wants_it,
    the_use_of_a_trust_that_is_gone_leaves_nothing_behind,
    a_full_queue_refuses,
    shutdown_commits_what_is_queued,
    hostile_text_harms_nobody,
    keys_of_replicas_that_start_together,
    bootstrap_happens_once,
    what_has_ended_is_forgotten,
    what_is_revoked_includes_what_faster_clocks_issued,
    a_subject_that_is_disabled_while_its_idle_status_is_forgotten_stays_disabled,
    a_status_that_is_forgotten_before_a_replica_saw_it_is_forgotten_there_too,
    a_clock_that_is_ahead_forgets_nothing_early,
    a_cursor_goes_on_with_the_kinds_that_it_came_from,
    what_is_old_is_forgotten_little_by_little,
    a_collector_misses_nothing_and_gets_nothing_twice,
    a_late_event_is_put_on_record_after_what_was_handed_out,
    events_are_exported_by_scope_kind_and_time,
    what_is_durable_is_told_and_nobody_waits_for_the_listener,
    what_a_newer_version_wrote_is_left_out,
    changes_of_a_kind_from_a_newer_version_are_caught_up_with,
    few_trusts_are_loaded_at_once,
    while_loading_what_is_needed_is_found_and_all_else_refused,
    what_changes_while_loading_is_followed,
    what_goes_in_the_middle_of_loading_does_not_come_back,
    the_trusts_of_a_large_scope_are_waited_for,
    a_gap_in_the_feed_begins_loading_anew,
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_790_000_000)
}

fn fresh() -> Uuid {
    uuid_v7(now(), &SystemEntropy)
}

fn random_hash() -> [u8; 32] {
    let mut hash = [0; 32];
    SystemEntropy.fill(&mut hash);
    hash
}

fn organization_id() -> OrganizationId {
    OrganizationId::parse("acme-org").unwrap()
}

fn space_id() -> SpaceId {
    SpaceId::parse("acme-prod").unwrap()
}

fn space() -> Scope {
    Scope::Space(space_id())
}

fn other_space() -> Scope {
    Scope::Space(SpaceId::parse("other-prod").unwrap())
}

fn an_organization() -> Organization {
    Organization {
        id: organization_id(),
        name: "Acme".into(),
        disabled: false,
        created_at: now(),
        created_by: "//someone".into(),
    }
}

fn a_space() -> Space {
    Space {
        id: space_id(),
        organization: organization_id(),
        name: "Production".into(),
        description: Some("línea 1\nline 2".into()),
        disabled: true,
        created_at: now(),
        created_by: "//someone".into(),
    }
}

fn a_role() -> Role {
    Role {
        organization: organization_id(),
        name: RoleName::parse("deployer").unwrap(),
        title: "Deployer".into(),
        permissions: [Permission::AgentReport, Permission::BindingsManage].into_iter().collect(),
        created_at: now(),
        created_by: "//someone".into(),
    }
}

fn an_account(scope: Scope) -> ServiceAccount {
    ServiceAccount {
        id: ServiceAccountId(fresh()),
        scope,
        name: "robot".into(),
        description: None,
        roles: [RoleRef::BuiltIn(BuiltInRole::Agent)].into(),
        disabled: false,
        owner: None,
        standing_key: None,
        valid_until: None,
        credentials_not_before: None,
        created_at: now(),
        created_by: "//someone".into(),
    }
}

fn a_provider(scope: Scope, issuer: &str) -> Provider {
    Provider {
        id: ProviderId(fresh()),
        scope,
        name: "GitHub".into(),
        description: None,
        kind: ProviderKind::CustomOidc,
        issuer: IssuerUri::stored(issuer),
        keys: KeySource::Discovery,
        algorithms: vec![],
        max_token_age: None,
        max_token_lifetime: None,
        replay: ReplayPolicy::Allow,
        require_audience_header: false,
        disabled: false,
        implicit: true,
        version: 1,
        credentials_not_before: None,
        warnings: vec![],
        created_at: now(),
        created_by: "//someone".into(),
    }
}

fn a_trust(provider: &Provider, account: &ServiceAccount) -> Trust {
    let id = TrustId(fresh());
    Trust {
        id,
        client_name: format!("client-{id}").into(),
        scope: account.scope.clone(),
        provider: provider.id,
        issuer: provider.issuer.as_str().into(),
        service_account: account.id,
        binding: true,
        name: "ci".into(),
        description: None,
        subject: Some(format!("subject-{id}").into()),
        mappings: Box::default(),
        allowed_audiences: Box::default(),
        condition: None,
        source_cidrs: Box::default(),
        scoped_roles: Arc::default(),
        passthrough_claims: Box::default(),
        lifetime: 3_600,
        ends_with_subject_token: false,
        disabled: false,
        credentials_not_before: None,
        warnings: Arc::default(),
        created_at: now(),
        created_by: "//someone".into(),
    }
}

fn put_trust(trust: &Trust) -> Write {
    Write::PutTrust { trust: trust.clone(), binding_fingerprint: None }
}

fn an_audit_entry(action: &str) -> AuditEntry {
    AuditEntry {
        id: fresh(),
        time: now(),
        actor: "//actor".into(),
        action: action.into(),
        target: "//target".into(),
        scope: space(),
        organization: Some(organization_id()),
        before: None,
        after: Some(serde_json::json!({"z": 1, "a": [null, "x"]})),
        request_id: Some("request-1".into()),
        source_ip: Some("192.0.2.1".into()),
    }
}

/// About the subject of [`a_grant`].
fn a_status(provider: &Provider) -> SubjectStatus {
    SubjectStatus {
        provider: provider.id,
        subject: "subject".into(),
        disabled: false,
        credentials_not_before: None,
        updated_at: now(),
        updated_by: "//somebody".into(),
    }
}

async fn write(configuration: &Configuration, writes: Vec<Write>) -> Arc<Snapshot> {
    try_write(configuration, writes).await.unwrap()
}

async fn try_write(configuration: &Configuration, writes: Vec<Write>) -> Result<Arc<Snapshot>, MutateError<()>> {
    configuration.mutate(|_| Ok::<_, ()>((writes.clone(), ()))).await.map(|((), snapshot)| snapshot)
}

/// A tree, a provider, an account and a trust, all in place.
async fn furnished(configuration: &Configuration) -> (Provider, ServiceAccount, Trust) {
    let provider = a_provider(space(), "https://issuer.example");
    let account = an_account(space());
    let trust = a_trust(&provider, &account);
    write(
        configuration,
        vec![
            Write::PutOrganization(an_organization()),
            Write::PutSpace(a_space()),
            Write::PutProvider(provider.clone()),
            Write::PutServiceAccount(account.clone()),
            put_trust(&trust),
        ],
    )
    .await;
    (provider, account, trust)
}

/// Everything a snapshot says about these, as text: snapshots themselves have no order.
fn told(snapshot: &Snapshot, trusts: &[TrustId], accounts: &[ServiceAccountId], providers: &[ProviderId]) -> String {
    let mut text = format!("{}\n", snapshot.revision());
    text += &format!("{:?}\n{:?}\n", snapshot.organization(&organization_id()), snapshot.space(&space_id()));
    text += &format!("{:?}\n", snapshot.role(&organization_id(), &a_role().name));
    for id in trusts {
        let trust = snapshot.trust(*id).map(|t| (t.trust(), t.issuer()));
        text += &format!("{trust:?}\n");
    }
    for id in accounts {
        text += &format!("{:?}\n", snapshot.service_account(*id));
    }
    for id in providers {
        text += &format!("{:?}\n", snapshot.provider(*id));
    }
    text + &snapshot.trust_count().to_string()
}

async fn everything_round_trips_and_goes(db: Db) {
    let configuration = db.configuration().await;
    let mut account = an_account(space());
    account.description = Some(Box::default());
    account.roles =
        vec![RoleRef::BuiltIn(BuiltInRole::Owner), RoleRef::Organization(organization_id(), a_role().name)].into();
    account.disabled = true;
    account.owner = Some(TrustId(fresh()));
    account.standing_key = Some(Box::new([255; 97]));
    account.valid_until = Some(Timestamp::from_micros(1));
    account.credentials_not_before = Some(Timestamp::from_micros(i64::MAX));
    let token = ApiToken {
        id: ApiTokenId(fresh()),
        scope: Scope::Platform,
        name: "token".into(),
        description: Some("d".into()),
        roles: vec![RoleRef::BuiltIn(BuiltInRole::Viewer)],
        secret_hash: random_hash(),
        created_at: now(),
        created_by: String::new(),
    };
    let mut provider = a_provider(space(), "https://issuer.example/");
    provider.description = Some("d".into());
    provider.keys = KeySource::Uploaded(r#"{"keys":[]}"#.into());
    provider.algorithms = vec![Algorithm::EdDSA, Algorithm::RS256];
    provider.max_token_age = Some(u32::MAX);
    provider.max_token_lifetime = Some(0);
    provider.replay = ReplayPolicy::OnceIfJti;
    provider.require_audience_header = true;
    provider.disabled = true;
    provider.implicit = false;
    provider.version = 7;
    provider.credentials_not_before = Some(now());
    provider.warnings = vec!["w \"quoted\"".into()];
    let mut trust = a_trust(&provider, &account);
    trust.description = Some("d".into());
    trust.mappings = [Mapping { key: "jwt_claims.a".into(), value: Some("1".into()) }].into();
    trust.allowed_audiences = ["b".into(), "a".into()].into();
    trust.condition = Some("claims.a == '1'".into());
    trust.source_cidrs = ["10.0.0.0/8".into()].into();
    trust.scoped_roles = [RoleRef::BuiltIn(BuiltInRole::Agent)].into();
    trust.passthrough_claims = ["sub".into()].into();
    trust.ends_with_subject_token = true;
    trust.disabled = true;
    trust.credentials_not_before = Some(now());
    trust.warnings = ["w".into()].into();
    let revoked = CredentialId(fresh());
    let mut status = a_status(&provider);
    status.disabled = true;

    let snapshot = write(
        &configuration,
        vec![
            Write::PutOrganization(an_organization()),
            Write::PutSpace(a_space()),
            Write::PutRole(a_role()),
            Write::PutServiceAccount(account.clone()),
            Write::PutApiToken(token.clone()),
            Write::PutProvider(provider.clone()),
            Write::PutTrust { trust: trust.clone(), binding_fingerprint: Some(random_hash()) },
            Write::PutSubjectStatus(status.clone()),
            Write::RevokeCredential { id: revoked, until: now() },
            Write::Audit(an_audit_entry("all")),
        ],
    )
    .await;
    let reloaded = db.store.load_snapshot().await.unwrap();
    for snapshot in [&*snapshot, &reloaded] {
        assert_eq!(**snapshot.organization(&organization_id()).unwrap(), an_organization());
        assert_eq!(**snapshot.space(&space_id()).unwrap(), a_space());
        assert_eq!(**snapshot.role(&organization_id(), &a_role().name).unwrap(), a_role());
        assert_eq!(**snapshot.service_account(account.id).unwrap(), account);
        assert_eq!(**snapshot.api_token_by_hash(&token.secret_hash).unwrap(), token);
        assert_eq!(format!("{:?}", snapshot.provider(provider.id).unwrap()), format!("{provider:?}"));
        assert_eq!(*snapshot.trust(trust.id).unwrap().trust(), trust);
        assert!(snapshot.is_revoked(revoked));
        assert_eq!(snapshot.subject_status(provider.id, &status.subject).unwrap().as_ref(), &status);
        assert!(!snapshot.subject_disabled(provider.id, &status.subject.to_uppercase()));
    }
    let on_record = db.store.list_audit(&space(), &PageRequest::default()).await.unwrap().items.remove(0);
    assert_eq!(on_record, AuditEntry { id: on_record.id, ..an_audit_entry("all") });

    // Replacing keeps nothing of what was there.
    let plain = ServiceAccount { id: account.id, ..an_account(space()) };
    let changed = Space { disabled: false, description: None, ..a_space() };
    let writes = vec![Write::PutServiceAccount(plain.clone()), Write::PutSpace(changed.clone())];
    let snapshot = write(&configuration, writes).await;
    assert_eq!(**snapshot.service_account(account.id).unwrap(), plain);
    assert_eq!(**snapshot.space(&space_id()).unwrap(), changed);

    let snapshot = write(
        &configuration,
        vec![
            Write::DeleteTrust(trust.id),
            Write::DeleteProvider(provider.id),
            Write::DeleteApiToken(token.id),
            Write::DeleteServiceAccount(account.id),
            Write::DeleteRole(organization_id(), a_role().name),
            Write::DeleteSpace(space_id()),
            Write::DeleteOrganization(organization_id()),
        ],
    )
    .await;
    let reloaded = db.store.load_snapshot().await.unwrap();
    for snapshot in [&*snapshot, &reloaded] {
        assert!(snapshot.organization(&organization_id()).is_none());
        assert!(snapshot.space(&space_id()).is_none());
        assert!(snapshot.role(&organization_id(), &a_role().name).is_none());
        assert!(snapshot.service_account(account.id).is_none());
        assert!(snapshot.api_token_by_hash(&token.secret_hash).is_none());
        assert!(snapshot.provider(provider.id).is_none());
        assert!(snapshot.subject_status(provider.id, &status.subject).is_none());
        assert!(snapshot.trust(trust.id).is_none());
        assert!(snapshot.candidate_by_client(&trust.client_name).is_none());
    }
}

async fn feed_and_full_reload_agree(db: Db) {
    let configuration = db.configuration().await;
    let follower = Configuration::start(db.replica().await).await.unwrap();
    let (provider, account, trust) = furnished(&configuration).await;
    let other = a_trust(&provider, &account);
    write(&configuration, vec![Write::PutRole(a_role()), put_trust(&other)]).await;
    write(&configuration, vec![put_trust(&Trust { disabled: true, ..trust.clone() })]).await;
    write(&configuration, vec![Write::DeleteTrust(other.id)]).await;
    write(&configuration, vec![Write::PutSubjectStatus(a_status(&provider))]).await;

    let tell = |snapshot: &Snapshot| told(snapshot, &[trust.id, other.id], &[account.id], &[provider.id]);
    let leader = configuration.refresh().await.unwrap();
    assert_eq!(leader.revision(), 5);
    assert_eq!(tell(&leader), tell(&db.store.load_snapshot().await.unwrap()));
    let followed = follower.refresh().await.unwrap();
    assert_eq!(tell(&leader), tell(&followed));
    let status = a_status(&provider);
    assert_eq!(followed.subject_status(provider.id, &status.subject).unwrap().as_ref(), &status);
}

async fn replicas_see_each_other(db: Db) {
    let here = db.configuration().await;
    let there = Configuration::start(db.replica().await).await.unwrap();
    write(&here, vec![Write::PutOrganization(an_organization())]).await;
    assert!(there.refresh().await.unwrap().organization(&organization_id()).is_some());
    // Without being asked to look: a mutation plans on the newest.
    write(&there, vec![Write::PutSpace(a_space())]).await;
    let name = Organization { name: "Renamed".into(), ..an_organization() };
    let seen = here
        .mutate(|snapshot| {
            Ok::<_, ()>((vec![Write::PutOrganization(name.clone())], snapshot.space(&space_id()).is_some()))
        })
        .await
        .unwrap()
        .0;
    assert!(seen);
    assert_eq!(there.refresh().await.unwrap().organization(&organization_id()).unwrap().name, "Renamed");
}

async fn a_stale_plan_is_made_again(db: Db) {
    let here = db.configuration().await;
    let there = Configuration::start(db.replica().await).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let mut planned_on = Vec::new();
    let (_, snapshot) = tokio::task::block_in_place(|| {
        runtime.block_on(here.mutate(|snapshot| {
            if planned_on.is_empty() {
                // The other replica is faster, while we plan.
                runtime.block_on_elsewhere(&there);
            }
            planned_on.push(snapshot.revision());
            Ok::<_, ()>((vec![Write::PutSpace(a_space())], ()))
        }))
    })
    .unwrap();
    assert_eq!(planned_on, [0, 1]);
    assert_eq!(snapshot.revision(), 2);
    assert!(snapshot.organization(&organization_id()).is_some());
}

trait Elsewhere {
    fn block_on_elsewhere(&self, configuration: &Arc<Configuration>);
}

impl Elsewhere for tokio::runtime::Handle {
    /// A mutation by another replica, done before this returns, from inside a plan, which cannot await.
    fn block_on_elsewhere(&self, configuration: &Arc<Configuration>) {
        let configuration = Arc::clone(configuration);
        let handle = self.clone();
        std::thread::spawn(move || {
            handle.block_on(write(&configuration, vec![Write::PutOrganization(an_organization())]))
        })
        .join()
        .unwrap();
    }
}

async fn concurrent_mutations_all_happen(db: Db) {
    let here = db.configuration().await;
    let there = Configuration::start(db.replica().await).await.unwrap();
    let mutations = (0..12).map(|n| {
        let configuration = Arc::clone(if n % 2 == 0 { &here } else { &there });
        tokio::spawn(async move {
            let account = ServiceAccount { name: format!("robot-{n}").into(), ..an_account(Scope::Platform) };
            write(&configuration, vec![Write::PutServiceAccount(account)]).await.revision()
        })
    });
    let mut revisions = BTreeSet::new();
    for mutation in mutations.collect::<Vec<_>>() {
        revisions.insert(mutation.await.unwrap());
    }
    assert_eq!(here.refresh().await.unwrap().revision(), 12);
    assert_eq!(db.store.count_service_accounts(&Scope::Platform).await.unwrap(), 12);
    assert_eq!(there.refresh().await.unwrap().revision(), 12);
    assert!(revisions.contains(&12));
}

async fn duplicates_are_refused(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, trust) = furnished(&configuration).await;
    let mut first = Trust { subject: Some("same".into()), ..a_trust(&provider, &account) };
    first.allowed_audiences = ["a".into(), "b".into()].into();
    let mut second = Trust { id: TrustId(fresh()), client_name: "other".into(), ..first.clone() };
    second.allowed_audiences = ["b".into(), "a".into(), "b".into()].into();
    let with_fingerprint = |trust: &Trust| Write::PutTrust {
        trust: trust.clone(),
        binding_fingerprint: Some(binding_fingerprint(trust, provider.issuer.key())),
    };
    write(&configuration, vec![with_fingerprint(&first)]).await;
    // Itself again is no duplicate.
    write(&configuration, vec![with_fingerprint(&first)]).await;
    let refused = |outcome: Result<_, MutateError<()>>| match outcome {
        Err(MutateError::Conflict(constraint)) => constraint,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(try_write(&configuration, vec![with_fingerprint(&second)]).await), Constraint::BindingExists);
    second.subject = Some("different".into());
    write(&configuration, vec![with_fingerprint(&second)]).await;

    let clash = Trust { client_name: trust.client_name.clone(), ..a_trust(&provider, &account) };
    assert_eq!(refused(try_write(&configuration, vec![put_trust(&clash)]).await), Constraint::ClientName);
    let again = a_provider(space(), "https://issuer.example/");
    assert_eq!(refused(try_write(&configuration, vec![Write::PutProvider(again)]).await), Constraint::ProviderExists);
    // Elsewhere it is no duplicate.
    write(&configuration, vec![Write::PutProvider(a_provider(Scope::Platform, "https://issuer.example/"))]).await;
}

async fn what_is_in_use_stays(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, trust) = furnished(&configuration).await;
    for used in [
        Write::DeleteProvider(provider.id),
        Write::DeleteServiceAccount(account.id),
        Write::DeleteOrganization(organization_id()),
    ] {
        let outcome = try_write(&configuration, vec![used.clone()]).await;
        assert!(matches!(outcome, Err(MutateError::Conflict(Constraint::InUse))), "{used:?}: {outcome:?}");
    }
    let nowhere = Trust { provider: ProviderId(fresh()), ..a_trust(&provider, &account) };
    let outcome = try_write(&configuration, vec![put_trust(&nowhere)]).await;
    assert!(matches!(outcome, Err(MutateError::Conflict(Constraint::InUse))), "{outcome:?}");
    assert_eq!(db.store.trusts_of_provider(provider.id, 10).await.unwrap(), [trust.id]);
    assert_eq!(db.store.trusts_of_account(account.id, 10).await.unwrap(), [trust.id]);
    assert_eq!(db.store.count_trusts_of_provider(provider.id).await.unwrap(), 1);
    assert_eq!(db.store.count_trusts_of_account(account.id).await.unwrap(), 1);
}

async fn an_implicit_provider_goes_with_its_last_trust(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, trust) = furnished(&configuration).await;
    let second = a_trust(&provider, &account);
    write(&configuration, vec![put_trust(&second)]).await;
    let go = |trust: TrustId| vec![Write::DeleteTrust(trust), Write::DeleteProviderIfUnused(provider.id)];
    assert!(write(&configuration, go(trust.id)).await.provider(provider.id).is_some());
    assert!(write(&configuration, go(second.id)).await.provider(provider.id).is_none());
    let explicit = Provider { implicit: false, ..a_provider(space(), "https://explicit.example") };
    write(&configuration, vec![Write::PutProvider(explicit.clone())]).await;
    let snapshot = write(&configuration, vec![Write::DeleteProviderIfUnused(explicit.id)]).await;
    assert!(snapshot.provider(explicit.id).is_some());
}

async fn a_changed_issuer_recompiles_trusts(db: Db) {
    let configuration = db.configuration().await;
    let follower = Configuration::start(db.replica().await).await.unwrap();
    let (provider, _, trust) = furnished(&configuration).await;
    let moved = Provider { issuer: IssuerUri::stored("https://moved.example"), version: 2, ..provider };
    let snapshot = write(&configuration, vec![Write::PutProvider(moved.clone())]).await;
    for snapshot in [snapshot, follower.refresh().await.unwrap()] {
        assert_eq!(snapshot.candidates(&space(), moved.issuer.key()).len(), 1);
        assert_eq!(snapshot.trust(trust.id).unwrap().issuer(), moved.issuer.key());
    }
}

async fn a_failed_mutation_leaves_nothing(db: Db) {
    let configuration = db.configuration().await;
    let (provider, _, _) = furnished(&configuration).await;
    let before = configuration.refresh().await.unwrap().revision();
    let orphan = an_account(space());
    let outcome = try_write(
        &configuration,
        vec![
            Write::PutServiceAccount(orphan.clone()),
            Write::Audit(an_audit_entry("never")),
            Write::DeleteProvider(provider.id),
        ],
    )
    .await;
    assert!(matches!(outcome, Err(MutateError::Conflict(Constraint::InUse))));
    let refused = configuration.mutate(|_| Err::<(Vec<Write>, ()), _>("no")).await;
    assert_eq!(refused.unwrap_err(), MutateError::Rejected("no"));
    let after = db.store.load_snapshot().await.unwrap();
    assert_eq!(after.revision(), before);
    assert!(after.service_account(orphan.id).is_none());
    assert!(db.store.list_audit(&Scope::Platform, &PageRequest::default()).await.unwrap().items.is_empty());
}

async fn audit_alone_leaves_the_revision(db: Db) {
    let configuration = db.configuration().await;
    let entry = an_audit_entry("idtoken.issue");
    let elsewhere = AuditEntry { scope: Scope::Platform, organization: None, ..an_audit_entry("other") };
    let writes = vec![Write::Audit(entry.clone()), Write::Audit(elsewhere)];
    assert_eq!(write(&configuration, writes).await.revision(), 0);
    let page = db.store.list_audit(&Scope::Organization(organization_id()), &PageRequest::default()).await.unwrap();
    assert_eq!(page.items, [entry]);
    assert_eq!(db.store.count_audit(&Scope::Platform).await.unwrap(), 2);
    assert_eq!(db.store.count_audit(&space()).await.unwrap(), 1);
}

async fn pages_in_every_order(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let issuers = ["https://a.example", "https://b.example", "https://c.example"];
    let providers = issuers.map(|issuer| a_provider(space(), issuer));
    let mut writes: Vec<Write> = vec![Write::PutOrganization(an_organization()), Write::PutSpace(a_space())];
    writes.extend(providers.iter().cloned().map(Write::PutProvider));
    let mut trusts = Vec::new();
    for n in 0..17_usize {
        let account = an_account(space());
        let mut trust = a_trust(&providers[n * 5 % 3], &account);
        trust.name = format!("name-{}", n * 7 % 4).into();
        trust.created_at = now().plus_seconds(i64::try_from(n * 3 % 5).unwrap());
        writes.extend([Write::PutServiceAccount(account), put_trust(&trust)]);
        trusts.push(trust);
    }
    // Neither a trust that is no binding, nor a binding elsewhere, is listed.
    let (account, outside) = (an_account(space()), an_account(Scope::Platform));
    let plain = Trust { binding: false, ..a_trust(&providers[0], &account) };
    let foreign = a_trust(&providers[0], &outside);
    writes.extend([Write::PutServiceAccount(account), Write::PutServiceAccount(outside)]);
    writes.extend([put_trust(&plain), put_trust(&foreign)]);
    let revision = write(&configuration, writes).await.revision();
    for (n, trust) in trusts.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        let time = now().plus_seconds(i64::try_from(n % 3).unwrap());
        let record = ExchangeRecord { time, ..a_grant(trust) };
        assert_eq!(recorder.record(record, revision).await, Ok(Recorded::Durable));
    }
    let used = db.store.last_used(&trusts.iter().map(|t| t.id).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(used.len(), 9);
    let issuer_of =
        |trust: &Trust| providers.iter().find(|p| p.id == trust.provider).unwrap().issuer.as_str().to_owned();

    for field in [
        BindingOrderField::Name,
        BindingOrderField::IssuerUri,
        BindingOrderField::CreateTime,
        BindingOrderField::LastUsed,
    ] {
        let sort = |trust: &Trust| match field {
            BindingOrderField::Name => (trust.name.to_string(), 0),
            BindingOrderField::IssuerUri => (issuer_of(trust), 0),
            BindingOrderField::CreateTime => (String::new(), trust.created_at.micros()),
            BindingOrderField::LastUsed => (String::new(), used.get(&trust.id).map_or(0, |t| t.micros())),
        };
        let mut expected = trusts.clone();
        expected.sort_by_key(|trust| (sort(trust), trust.id));
        for descending in [false, true] {
            if descending {
                expected.reverse();
            }
            for first in [1, 4, 17, 1_000] {
                let order = BindingOrder { field, descending };
                let mut seen = Vec::new();
                let mut request = PageRequest::first(first);
                loop {
                    let page = db.store.list_bindings(&space(), order, &request).await.unwrap();
                    assert!(page.items.len() <= first as usize);
                    for row in page.items {
                        assert_eq!(row.account.id, row.trust.service_account);
                        assert_eq!(row.provider.id, row.trust.provider);
                        assert_eq!(row.last_used, used.get(&row.trust.id).copied());
                        seen.push(row.trust);
                    }
                    if !page.has_next {
                        break;
                    }
                    request.after = page.end_cursor;
                }
                assert_eq!(seen, expected, "{order:?} by {first}");
            }
        }
    }
    assert_eq!(db.store.count_bindings(&space()).await.unwrap(), 17);
    assert_eq!(db.store.count_trusts(&space(), false).await.unwrap(), 1);
    assert_eq!(db.store.count_trusts(&space(), true).await.unwrap(), 18);
    let page = db.store.list_trusts(&space(), false, &PageRequest::default()).await.unwrap();
    assert_eq!(page.items.iter().map(|row| &row.trust).collect::<Vec<_>>(), [&plain]);
    assert_eq!(db.store.list_trusts(&space(), true, &PageRequest::default()).await.unwrap().items.len(), 18);
}

async fn pages_of_other_lists(db: Db) {
    let configuration = db.configuration().await;
    let mut writes = Vec::new();
    for n in 0..3 {
        let organization =
            Organization { id: OrganizationId::parse(&format!("org-{n}")).unwrap(), ..an_organization() };
        writes.push(Write::PutOrganization(organization.clone()));
        writes.push(Write::PutSpace(Space {
            id: SpaceId::parse(&format!("space-{n}")).unwrap(),
            organization: OrganizationId::parse("org-0").unwrap(),
            ..a_space()
        }));
        writes.push(Write::PutRole(Role {
            organization: OrganizationId::parse("org-0").unwrap(),
            name: RoleName::parse(&format!("role-{n}")).unwrap(),
            ..a_role()
        }));
        writes.push(Write::PutServiceAccount(an_account(Scope::Platform)));
        writes.push(Write::PutProvider(a_provider(Scope::Platform, &format!("https://{n}.example"))));
        writes.push(Write::PutApiToken(ApiToken {
            id: ApiTokenId(fresh()),
            scope: Scope::Platform,
            name: format!("token-{n}"),
            description: None,
            roles: vec![],
            secret_hash: random_hash(),
            created_at: now(),
            created_by: String::new(),
        }));
    }
    write(&configuration, writes).await;
    let organization = OrganizationId::parse("org-0").unwrap();
    let store = &db.store;

    macro_rules! two_pages {
        ($list:ident($($scope:expr)?), $count:ident, $key:expr) => {{
            let first = store.$list($($scope,)? &PageRequest::first(2)).await.unwrap();
            assert!(first.has_next && first.items.len() == 2, stringify!($list));
            let rest = PageRequest { first: 2, after: first.end_cursor };
            let second = store.$list($($scope,)? &rest).await.unwrap();
            assert!(!second.has_next && second.items.len() == 1, stringify!($list));
            let keys: Vec<String> = first.items.iter().chain(&second.items).map($key).collect();
            assert!(keys.is_sorted() && keys.iter().collect::<BTreeSet<_>>().len() == 3, "{keys:?}");
            assert_eq!(store.$count($($scope)?).await.unwrap(), 3);
        }};
    }
    two_pages!(list_organizations(), count_organizations, |o| o.id.to_string());
    two_pages!(list_spaces(&organization), count_spaces, |s| s.id.to_string());
    two_pages!(list_roles(&organization), count_roles, |r| r.name.to_string());
    two_pages!(list_service_accounts(&Scope::Platform), count_service_accounts, |a| a.id.to_string());
    two_pages!(list_providers(&Scope::Platform), count_providers, |p| p.id.to_string());
    two_pages!(list_api_tokens(&Scope::Platform), count_api_tokens, |t| t.id.to_string());
}

async fn foreign_cursors_are_refused(db: Db) {
    let configuration = db.configuration().await;
    furnished(&configuration).await;
    let by = |field| BindingOrder { field, descending: false };
    let page = db.store.list_bindings(&space(), by(BindingOrderField::Name), &PageRequest::first(1)).await.unwrap();
    for after in [page.end_cursor.unwrap(), String::new(), "x".into(), "WyJjcmVhdGVkIl0".into(), "é".into()] {
        let request = PageRequest { first: 1, after: Some(after) };
        let outcome = db.store.list_bindings(&space(), by(BindingOrderField::IssuerUri), &request).await;
        assert_eq!(outcome.unwrap_err(), StoreError::BadCursor);
    }
}

fn a_grant(trust: &Trust) -> ExchangeRecord {
    let id = fresh();
    ExchangeRecord {
        id: ExchangeId(id),
        time: now(),
        scope: trust.scope.clone(),
        organization: Some(organization_id()),
        granted: true,
        reason: None,
        protocol: Protocol::Oauth,
        trust: Some(trust.id),
        binding: trust.binding,
        provider: Some(trust.provider),
        service_account: Some(trust.service_account),
        issuer: "https://issuer.example".into(),
        subject: "subject".into(),
        source_ip: Some([203, 0, 113, 7].into()),
        token_hash: random_hash(),
        credential: Some(IssuedCredential {
            id: CredentialId(id),
            kind: CredentialKind::KeyPair,
            expires_at: now().plus_seconds(60),
            roles: vec!["//iam.api.mondoo.app/roles/agent".into()],
            public_key: Some(vec![4, 1, 2]),
        }),
        checks: completed(vec![
            Check::passed(CheckName::Locate).detail("x"),
            Check::skipped(CheckName::Audience).detail("y"),
        ]),
        replay: None,
    }
}

fn a_refusal(scope: Scope, organization: Option<OrganizationId>) -> ExchangeRecord {
    ExchangeRecord {
        id: ExchangeId(fresh()),
        time: now(),
        scope,
        organization,
        granted: false,
        reason: Some("signature".into()),
        protocol: Protocol::Rpc,
        trust: None,
        binding: false,
        provider: None,
        service_account: None,
        issuer: "https://issuer.example".into(),
        subject: String::new(),
        source_ip: None,
        token_hash: random_hash(),
        credential: None,
        checks: completed(vec![Check::failed(CheckName::Signature).expected("a").actual("b")]),
        replay: None,
    }
}

fn a_replay_key(provider: ProviderId) -> ReplayKey {
    ReplayKey { provider, fingerprint: random_hash(), until: now().plus_seconds(60) }
}

async fn exchanges_by_scope_and_filter(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    let grant = a_grant(&trust);
    let in_space = a_refusal(space(), Some(organization_id()));
    let in_organization = a_refusal(Scope::Organization(organization_id()), Some(organization_id()));
    let on_platform = ExchangeRecord { time: now().plus_seconds(5), ..a_refusal(Scope::Platform, None) };
    for record in [&grant, &in_space, &in_organization, &on_platform] {
        assert_eq!(recorder.record(record.clone(), 1).await, Ok(Recorded::Durable));
    }
    let ids = |records: &[&ExchangeRecord]| {
        let mut all: Vec<_> = records.iter().map(|r| (r.time, r.id)).collect();
        all.sort();
        all.reverse();
        all
    };
    let organization = Scope::Organization(organization_id());
    for (filter, expected) in [
        (ExchangeFilter::of(space()), vec![&grant, &in_space]),
        (ExchangeFilter::of(organization.clone()), vec![&grant, &in_space, &in_organization]),
        (ExchangeFilter::of(Scope::Platform), vec![&grant, &in_space, &in_organization, &on_platform]),
        (ExchangeFilter { granted: Some(true), ..ExchangeFilter::of(organization.clone()) }, vec![&grant]),
        (ExchangeFilter { granted: Some(false), ..ExchangeFilter::of(space()) }, vec![&in_space]),
        (ExchangeFilter { reference: Some(grant.id), ..ExchangeFilter::of(space()) }, vec![&grant]),
        (ExchangeFilter { reference: Some(on_platform.id), ..ExchangeFilter::of(organization) }, vec![]),
    ] {
        let mut seen = Vec::new();
        let mut request = PageRequest::first(2);
        loop {
            let page = db.store.list_exchanges(&filter, &request).await.unwrap();
            seen.extend(page.items.iter().map(|row| (row.time, row.id)));
            if !page.has_next {
                break;
            }
            request.after = page.end_cursor;
        }
        assert_eq!(seen, ids(&expected), "{filter:?}");
        assert_eq!(db.store.count_exchanges(&filter).await.unwrap(), expected.len() as u64);
    }
    let all = db.store.list_exchanges(&ExchangeFilter::of(Scope::Platform), &PageRequest::default()).await.unwrap();
    for record in [grant, in_space, in_organization, on_platform] {
        assert!(all.items.contains(&record), "every field comes back");
    }
}

async fn credentials_are_found_by_scope_and_account(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, account, trust) = furnished(&configuration).await;
    let grant = a_grant(&trust);
    let refusal = ExchangeRecord { service_account: Some(account.id), ..a_refusal(space(), None) };
    recorder.record(grant.clone(), 1).await.unwrap();
    recorder.record(refusal.clone(), 1).await.unwrap();
    let issued = grant.credential.clone().unwrap();
    let found = db.store.find_credential(&space(), account.id, issued.id).await.unwrap().unwrap();
    assert_eq!((found.kind, found.roles, found.expires_at), (issued.kind, issued.roles, issued.expires_at));
    assert_eq!((found.public_key, found.issued_at), (issued.public_key, grant.time));
    assert_eq!((found.trust, found.provider), (Some(trust.id), Some(provider.id)));
    let other = ServiceAccountId(fresh());
    assert!(db.store.find_credential(&space(), other, issued.id).await.unwrap().is_none());
    assert!(db.store.find_credential(&space(), account.id, CredentialId(refusal.id.0)).await.unwrap().is_none());
    for elsewhere in [Scope::Platform, Scope::Organization(organization_id()), other_space()] {
        assert!(db.store.find_credential(&elsewhere, account.id, issued.id).await.unwrap().is_none(), "{elsewhere}");
    }
}

async fn providers_are_found_by_scope_and_issuer(db: Db) {
    let configuration = db.configuration().await;
    let (provider, ..) = furnished(&configuration).await;
    let same = IssuerUri::stored("https://issuer.example/");
    let found = db.store.find_provider(&space(), same.key()).await.unwrap();
    assert_eq!(found.map(|found| found.id), Some(provider.id));
    assert!(db.store.find_provider(&Scope::Platform, same.key()).await.unwrap().is_none());
    let another = IssuerUri::stored("https://issuer.example/other");
    assert!(db.store.find_provider(&space(), another.key()).await.unwrap().is_none());
}

/// Otherwise whoever makes it again reads the log of its first owner, which outlives it.
async fn the_id_of_an_organization_or_space_is_never_used_again(db: Db) {
    let configuration = db.configuration().await;
    let retired = |outcome: Result<_, MutateError<()>>| {
        assert!(matches!(outcome, Err(MutateError::Conflict(Constraint::IdRetired))), "{outcome:?}");
    };
    let (organization, a_space) = (Write::PutOrganization(an_organization()), Write::PutSpace(a_space()));
    write(&configuration, vec![organization.clone(), a_space.clone()]).await;
    write(&configuration, vec![Write::DeleteSpace(space_id())]).await;
    retired(try_write(&configuration, vec![a_space.clone()]).await);
    // The organization is still there, may be changed, and may have other spaces; one with its own id among them.
    let twin = Space { id: SpaceId::parse("acme-org").unwrap(), ..self::a_space() };
    write(&configuration, vec![organization.clone(), Write::PutSpace(twin.clone())]).await;
    write(&configuration, vec![Write::DeleteSpace(twin.id), Write::DeleteOrganization(organization_id())]).await;
    retired(try_write(&configuration, vec![organization.clone()]).await);
    // Deleting again what is gone, or what never was, changes nothing of that.
    let never = OrganizationId::parse("never-was").unwrap();
    write(&configuration, vec![Write::DeleteOrganization(organization_id()), Write::DeleteOrganization(never.clone())])
        .await;
    retired(try_write(&configuration, vec![organization]).await);
    write(&configuration, vec![Write::PutOrganization(Organization { id: never, ..an_organization() })]).await;
}

async fn ended_revocations_are_forgotten_in_memory_too(db: Db) {
    let configuration = db.configuration().await;
    let follower = Configuration::start(db.replica().await).await.unwrap();
    let (ended, kept) = (CredentialId(fresh()), CredentialId(fresh()));
    let writes = [(ended, now()), (kept, now().plus_seconds(100))];
    let revoke = |id, until| Write::RevokeCredential { id, until };
    write(&configuration, writes.into_iter().map(|(id, until)| revoke(id, until)).collect()).await;
    follower.refresh().await.unwrap();
    for replica in [&configuration, &follower] {
        replica.forget_ended(now()).await;
        assert!(replica.current().unwrap().is_revoked(ended), "it has not ended before now");
        replica.forget_ended(now().plus_seconds(1)).await;
        let snapshot = replica.current().unwrap();
        assert_eq!((snapshot.is_revoked(ended), snapshot.is_revoked(kept), snapshot.revision()), (false, true, 1));
    }
    // Revoked once more: the end given last counts.
    write(&configuration, vec![revoke(kept, now().plus_seconds(200))]).await;
    configuration.forget_ended(now().plus_seconds(150)).await;
    assert!(configuration.current().unwrap().is_revoked(kept));
    configuration.forget_ended(now().plus_seconds(201)).await;
    assert!(!configuration.current().unwrap().is_revoked(kept));
}

async fn a_grant_is_superseded_by_a_mutation(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, _, trust) = furnished(&configuration).await;
    let decided_on = configuration.current().unwrap().revision();
    // Another replica disables the trust; ours has not noticed.
    let other = Configuration::start(db.replica().await).await.unwrap();
    write(&other, vec![put_trust(&Trust { disabled: true, ..trust.clone() })]).await;
    let grant = ExchangeRecord { replay: Some(a_replay_key(provider.id)), ..a_grant(&trust) };
    assert_eq!(recorder.record(grant.clone(), decided_on).await, Ok(Recorded::Superseded));
    assert_eq!(db.store.count_exchanges(&ExchangeFilter::of(Scope::Platform)).await.unwrap(), 0);
    assert!(db.store.last_used(&[trust.id]).await.unwrap().is_empty());
    // Nothing was consumed either: decided again, the same grant is recorded.
    let revision = configuration.refresh().await.unwrap().revision();
    assert_eq!(recorder.record(grant, revision).await, Ok(Recorded::Durable));
}

/// For changes that the store does not make by itself, or not as slowly.
async fn another_hand(db: &Db) -> DatabaseTransaction {
    let connection = Database::connect(&db.options.url).await.unwrap();
    let sqlite_transaction_mode =
        (connection.get_database_backend() == DbBackend::Sqlite).then_some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() };
    connection.begin_with_options(options).await.unwrap()
}

/// A while in which something that is not held up would long have happened.
const A_WHILE: Duration = Duration::from_millis(300);

/// Begins to record something, which does not happen.
async fn held_up(recorder: &Arc<Recorder>, record: ExchangeRecord) -> JoinHandle<Result<Recorded, RecordError>> {
    let recorder = Arc::clone(recorder);
    let mut recording = tokio::spawn(async move { recorder.record(record, 1).await });
    assert!(timeout(A_WHILE, &mut recording).await.is_err(), "it overtook what is in flight");
    recording
}

async fn a_mutation_in_flight_is_waited_for_before_a_grant(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Arc::new(Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default()));
    let (_, _, trust) = furnished(&configuration).await;
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Durable));

    let mutation = another_hand(&db).await;
    mutation.execute_unprepared("UPDATE configuration_revision SET revision = 2").await.unwrap();
    let row = format!("INSERT INTO configuration_changes (revision, kind, key) VALUES (2, 'trust', '{}')", trust.id);
    mutation.execute_unprepared(&row).await.unwrap();
    let recording = held_up(&recorder, a_grant(&trust)).await;
    mutation.commit().await.unwrap();
    assert_eq!(recording.await.unwrap(), Ok(Recorded::Superseded));
    assert_eq!(db.store.count_exchanges(&ExchangeFilter::of(space())).await.unwrap(), 1);
}

/// Otherwise a collector that was told of everything up to then never sees it.
async fn a_record_waits_for_what_is_being_settled(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Arc::new(Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default()));
    let (_, _, trust) = furnished(&configuration).await;
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Durable));

    let settling = another_hand(&db).await;
    let settled = now().plus_seconds(7);
    let sql = format!("UPDATE configuration_revision SET settled = {}", settled.micros());
    settling.execute_unprepared(&sql).await.unwrap();
    let grant = a_grant(&trust);
    let recording = held_up(&recorder, grant.clone()).await;
    settling.commit().await.unwrap();
    assert_eq!(recording.await.unwrap(), Ok(Recorded::Durable));
    let filter = ExchangeFilter { reference: Some(grant.id), ..ExchangeFilter::of(space()) };
    let listed = db.store.list_exchanges(&filter, &PageRequest::default()).await.unwrap();
    assert_eq!(listed.items[0].time, Timestamp::from_micros(settled.micros() + 1));
}

async fn only_what_a_grant_rests_on_supersedes_it(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, account, trust) = furnished(&configuration).await;
    let other_organization = OrganizationId::parse("other-org").unwrap();
    let organization = Organization { id: other_organization.clone(), ..an_organization() };
    let Scope::Space(other_id) = other_space() else { panic!("a space") };
    let other_space_of_theirs = Space { id: other_id, organization: other_organization.clone(), ..a_space() };
    let theirs = (a_provider(other_space(), "https://issuer.example"), an_account(other_space()));
    let their_trust = a_trust(&theirs.0, &theirs.1);
    let on_platform = a_provider(Scope::Platform, "https://platform.example");
    let at_organization = an_account(Scope::Organization(organization_id()));
    let neighbour = a_trust(&provider, &account);
    let token = ApiToken {
        id: ApiTokenId(fresh()),
        scope: space(),
        name: "token".into(),
        description: None,
        roles: vec![],
        secret_hash: random_hash(),
        created_at: now(),
        created_by: String::new(),
    };
    for (superseded, write_one) in [
        (false, Write::PutOrganization(organization)),
        (false, Write::PutSpace(other_space_of_theirs)),
        (false, Write::PutRole(Role { organization: other_organization, ..a_role() })),
        (false, Write::PutProvider(theirs.0)),
        (false, Write::PutServiceAccount(theirs.1)),
        (false, put_trust(&their_trust)),
        (false, Write::DeleteTrust(their_trust.id)),
        (false, Write::PutProvider(on_platform.clone())),
        (false, Write::PutServiceAccount(at_organization.clone())),
        (false, put_trust(&a_trust(&provider, &at_organization))),
        (false, Write::PutServiceAccount(an_account(space()))),
        (false, Write::PutApiToken(token)),
        (false, Write::RevokeCredential { id: CredentialId(fresh()), until: now() }),
        (false, Write::PutSubjectStatus(SubjectStatus { subject: "another".into(), ..a_status(&provider) })),
        (false, Write::PutSubjectStatus(SubjectStatus { provider: on_platform.id, ..a_status(&provider) })),
        (true, Write::PutSubjectStatus(a_status(&provider))),
        (true, Write::PutOrganization(an_organization())),
        (true, Write::PutSpace(a_space())),
        (true, Write::PutRole(a_role())),
        (true, Write::DeleteRole(organization_id(), a_role().name)),
        (true, Write::PutProvider(provider.clone())),
        (true, Write::PutServiceAccount(account.clone())),
        (true, put_trust(&trust)),
        (true, put_trust(&neighbour)),
        (true, Write::DeleteTrust(neighbour.id)),
        (true, Write::DeleteTrust(trust.id)),
    ] {
        let decided_on = configuration.refresh().await.unwrap().revision();
        write(&configuration, vec![write_one.clone()]).await;
        let expected = if superseded { Recorded::Superseded } else { Recorded::Durable };
        assert_eq!(recorder.record(a_grant(&trust), decided_on).await, Ok(expected), "{write_one:?}");
    }
    // Of several changes, one that matters is enough; and only what came after the grant was decided counts.
    let decided_on = configuration.refresh().await.unwrap().revision();
    write(&configuration, vec![Write::PutSpace(a_space())]).await;
    write(&configuration, vec![Write::PutServiceAccount(an_account(Scope::Platform))]).await;
    let grants = [decided_on, decided_on + 1, decided_on + 2].map(|on| recorder.record(a_grant(&trust), on));
    assert_eq!(futures_join(grants).await, [Ok(Recorded::Superseded), Ok(Recorded::Durable), Ok(Recorded::Durable)]);
}

async fn what_cannot_be_told_supersedes_every_older_grant(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    let revoke = |n: usize| {
        let one = |_| Write::RevokeCredential { id: CredentialId(fresh()), until: now() };
        (0..n).map(one).collect::<Vec<_>>()
    };
    // A gap, a kind from the future, and more than is looked through.
    for sql in [
        "DELETE FROM configuration_changes WHERE revision = 2",
        "UPDATE configuration_changes SET kind = 'unheard_of' WHERE revision = 3",
    ] {
        let decided_on = write(&configuration, revoke(1)).await.revision() - 1;
        let hand = another_hand(&db).await;
        hand.execute_unprepared(sql).await.unwrap();
        hand.commit().await.unwrap();
        assert_eq!(recorder.record(a_grant(&trust), decided_on).await, Ok(Recorded::Superseded), "{sql}");
    }
    let decided_on = write(&configuration, revoke(501)).await.revision() - 1;
    assert_eq!(recorder.record(a_grant(&trust), decided_on).await, Ok(Recorded::Superseded));
    let decided_on = write(&configuration, revoke(500)).await.revision() - 1;
    assert_eq!(recorder.record(a_grant(&trust), decided_on).await, Ok(Recorded::Durable));
    // A revision that is yet to come, as after a restored backup.
    assert_eq!(recorder.record(a_grant(&trust), decided_on + 2).await, Ok(Recorded::Superseded));
}

/// The other way round: a mutation waits for a group that is being committed, whichever lane that holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutation_waits_for_a_group_commit_in_flight() {
    let db = Db::postgres().await;
    let configuration = db.configuration().await;
    for lane in [2, 17] {
        let group = another_hand(&db).await;
        let hold = format!("SELECT revision FROM configuration_revision WHERE id = {lane} FOR UPDATE");
        group.execute_unprepared(&hold).await.unwrap();
        let mut mutating = tokio::spawn({
            let configuration = Arc::clone(&configuration);
            async move { write(&configuration, vec![Write::PutOrganization(an_organization())]).await.revision() }
        });
        assert!(timeout(A_WHILE, &mut mutating).await.is_err(), "a mutation overtook a group commit");
        group.commit().await.unwrap();
        mutating.await.unwrap();
    }
    let rows = Postgres::shared().unwrap();
    let database = db.options.url.rsplit('/').next().unwrap();
    assert_eq!(
        rows.sql(database, "SELECT count(*), min(revision), max(revision) FROM configuration_revision").unwrap().trim(),
        "17|2|2"
    );
}

/// Replicas that commit group after group. (`a_recorder_that_comes_later_waits_behind_a_mutation` has the mechanism.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuous_group_commits_do_not_starve_a_mutation() {
    let db = Db::postgres().await;
    let configuration = db.configuration().await;
    let mut replicas = Vec::new();
    for _ in 0..6 {
        let store = db.replica().await;
        let following = Configuration::start(store.clone()).await.unwrap();
        let recorder = Recorder::start(store, following, RecorderOptions::default());
        replicas.push(tokio::spawn(async move {
            loop {
                let refusals = (0..8).map(|_| recorder.record(a_refusal(Scope::Platform, None), 0));
                assert!(futures_join(refusals).await.iter().all(Result::is_ok));
            }
        }));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let began = std::time::Instant::now();
        write(&configuration, vec![Write::PutServiceAccount(an_account(Scope::Platform))]).await;
        slowest = slowest.max(began.elapsed());
    }
    assert!(replicas.iter().all(|replica| !replica.is_finished()));
    for replica in replicas {
        replica.abort();
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// A recorder with more to do than one commit takes keeps its connection, and here there is no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_connection_of_a_busy_recorder_gets_it() {
    let db = Db::postgres().await;
    let configuration = db.configuration().await;
    let recorder = Arc::new(Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default()));
    let busy: Vec<_> = (0..1_200)
        .map(|_| {
            let recorder = Arc::clone(&recorder);
            tokio::spawn(async move { while recorder.record(a_refusal(Scope::Platform, None), 0).await.is_ok() {} })
        })
        .collect();
    while recorder.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        write(&configuration, vec![Write::PutServiceAccount(an_account(Scope::Platform))]).await;
    }
    assert!(busy.iter().all(|task| !task.is_finished()));
    recorder.shutdown().await;
}

async fn a_refusal_is_kept_whatever_the_revision(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    furnished(&configuration).await;
    assert_eq!(recorder.record(a_refusal(space(), None), 0).await, Ok(Recorded::Durable));
    assert_eq!(db.store.count_exchanges(&ExchangeFilter::of(space())).await.unwrap(), 1);
}

/// By one statement and by several, whose texts depend on how many they are.
async fn batches_of_every_size_are_recorded_whole(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    let mut all = Vec::new();
    for size in [1, 1, 2, 3, 5, 8, 33, 64, 65, 130] {
        let time = now().plus_seconds(i64::try_from(all.len()).unwrap());
        let batch: Vec<ExchangeRecord> = (0..size)
            .map(|n| if n % 3 == 2 { a_refusal(space(), None) } else { a_grant(&trust) })
            .map(|record| ExchangeRecord { time, ..record })
            .collect();
        let outcomes = futures_join(batch.iter().map(|record| recorder.record(record.clone(), 1))).await;
        assert_eq!(outcomes, vec![Ok(Recorded::Durable); size]);
        assert_eq!(db.store.last_used(&[trust.id]).await.unwrap()[&trust.id], time);
        all.extend(batch);
    }
    let listed =
        db.store.list_exchanges(&ExchangeFilter::of(Scope::Platform), &PageRequest::first(1_000)).await.unwrap();
    let mut listed: Vec<ExchangeRecord> = listed.items;
    for records in [&mut all, &mut listed] {
        records.sort_by_key(|record| record.id.0);
    }
    assert!(listed == all, "{} of {} came back as they were", listed.len(), all.len());
}

async fn a_token_is_used_once_in_a_batch(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, _, trust) = furnished(&configuration).await;
    // From the second on, a batch may be a single statement.
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Durable));
    let replay = a_replay_key(provider.id);
    // All are queued before the recorder gets to run again: batches, however they fall.
    let all = (0..40).map(|n| {
        let replay = (n % 2 == 0).then(|| replay.clone());
        recorder.record(ExchangeRecord { replay, ..a_grant(&trust) }, 1)
    });
    let outcomes = futures_join(all).await;
    let count = |wanted| outcomes.iter().filter(|o| **o == Ok(wanted)).count();
    assert_eq!((count(Recorded::Durable), count(Recorded::Replayed)), (21, 19));
    assert_eq!(db.store.count_exchanges(&ExchangeFilter::of(space())).await.unwrap(), 22);
}

/// Polls all at once, in order.
async fn futures_join<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().map(|(_, output)| output.unwrap()).collect()
}

async fn a_token_is_used_once_across_batches_and_replicas(db: Db) {
    let here = db.configuration().await;
    let (provider, _, trust) = furnished(&here).await;
    let there = Configuration::start(db.replica().await).await.unwrap();
    let recorders = [
        Recorder::start(db.store.clone(), Arc::clone(&here), RecorderOptions::default()),
        Recorder::start(db.replica().await, Arc::clone(&there), RecorderOptions::default()),
    ];
    let replay = a_replay_key(provider.id);
    let with = |replay: &ReplayKey| ExchangeRecord { replay: Some(replay.clone()), ..a_grant(&trust) };
    assert_eq!(recorders[0].record(with(&replay), 1).await, Ok(Recorded::Durable));
    assert_eq!(recorders[0].record(with(&replay), 1).await, Ok(Recorded::Replayed));
    assert_eq!(recorders[1].record(with(&replay), 1).await, Ok(Recorded::Replayed));
    // The same fingerprint at another provider is another token.
    let elsewhere = ReplayKey { provider: ProviderId(fresh()), ..replay };
    assert_eq!(recorders[1].record(with(&elsewhere), 1).await, Ok(Recorded::Durable));
    // Many tokens, both replicas at once: each token once.
    let keys: Vec<ReplayKey> = (0..20).map(|_| a_replay_key(provider.id)).collect();
    let all = keys.iter().chain(keys.iter().rev()).enumerate().map(|(n, k)| recorders[n / 20].record(with(k), 1));
    let outcomes = futures_join(all).await;
    for n in 0..20 {
        let mut pair = [outcomes[n], outcomes[39 - n]].map(Result::unwrap);
        pair.sort_by_key(|o| *o == Recorded::Replayed);
        assert_eq!(pair, [Recorded::Durable, Recorded::Replayed]);
    }
}

async fn last_use_shows_once_answered_and_never_goes_back(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    for (at, shown) in [(10, 10), (5, 10), (20, 20)] {
        let record = ExchangeRecord { time: now().plus_seconds(at), ..a_grant(&trust) };
        assert_eq!(recorder.record(record, 1).await, Ok(Recorded::Durable));
        let used = db.store.last_used(&[trust.id]).await.unwrap();
        assert_eq!(used[&trust.id], now().plus_seconds(shown));
    }
    // Neither in memory nor in the database, by whoever writes last.
    let there = db.replica().await;
    let late = Recorder::start(there.clone(), Arc::clone(&configuration), RecorderOptions::default());
    for (recorder, store, at) in [(&recorder, &db.store, 30), (&late, &there, 25)] {
        let record = ExchangeRecord { time: now().plus_seconds(at), ..a_grant(&trust) };
        assert_eq!(recorder.record(record, 1).await, Ok(Recorded::Durable));
        list_by_use(store).await;
        let used = db.replica().await.last_used(&[trust.id]).await.unwrap();
        assert_eq!(used[&trust.id], now().plus_seconds(30));
    }
    // Saving the trust again does not forget it.
    write(&configuration, vec![put_trust(&trust)]).await;
    assert_eq!(db.store.last_used(&[trust.id]).await.unwrap().len(), 1);
}

async fn uses_that_were_not_written_are_found_in_the_record(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Durable));
    // A refusal is no use.
    let refusal = ExchangeRecord { time: now().plus_seconds(1), granted: false, ..a_grant(&trust) };
    assert_eq!(recorder.record(refusal, 1).await, Ok(Recorded::Durable));
    // That process dies now, as far as the next one can tell: it would have written the use in ten seconds.
    let other = db.replica().await;
    let _recorder = Recorder::start(other.clone(), db.configuration().await, RecorderOptions::default());
    let found = async {
        loop {
            if let Some(used) = other.last_used(&[trust.id]).await.unwrap().remove(&trust.id) {
                break used;
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(5), found).await, Ok(now()));
}

/// By which all that was gathered of the scope is written.
async fn list_by_use(store: &Store) {
    let order = BindingOrder { field: BindingOrderField::LastUsed, descending: true };
    store.list_bindings(&space(), order, &PageRequest::default()).await.unwrap();
}

async fn the_use_of_a_trust_that_is_gone_leaves_nothing_behind(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Durable));
    write(&configuration, vec![Write::DeleteTrust(trust.id)]).await;
    list_by_use(&db.store).await;
    assert_eq!(db.store.purge_orphans(10).await, Ok(0));
    assert!(db.store.last_used(&[trust.id]).await.unwrap().is_empty());
}

async fn uses_are_written_before_the_store_closes(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Durable));
    recorder.shutdown().await;
    let other = db.replica().await;
    db.store.close().await;
    assert_eq!(other.last_used(&[trust.id]).await.unwrap()[&trust.id], now());
}

async fn the_uses_of_many_trusts_are_written_whoever_wants_it(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, account, first) = furnished(&configuration).await;
    // More than are written at a time, and elsewhere as many that are not asked for.
    let outside = an_account(Scope::Platform);
    let mut trusts: Vec<Trust> = (0..100).map(|_| a_trust(&provider, &account)).collect();
    let foreign: Vec<Trust> = (0..40).map(|_| a_trust(&provider, &outside)).collect();
    let mut writes = vec![Write::PutServiceAccount(outside)];
    writes.extend(trusts.iter().chain(&foreign).map(put_trust));
    let revision = write(&configuration, writes).await.revision();
    trusts.push(first);
    let all = trusts.iter().chain(&foreign).map(|trust| recorder.record(a_grant(trust), revision));
    assert!(futures_join(all).await.into_iter().all(|recorded| recorded == Ok(Recorded::Durable)));
    futures_join((0..3).map(|_| list_by_use(&db.store))).await;
    let other = db.replica().await;
    let ids: Vec<TrustId> = trusts.iter().map(|trust| trust.id).collect();
    assert_eq!(other.last_used(&ids).await.unwrap().len(), ids.len());
    recorder.shutdown().await;
    db.store.close().await;
    let ids: Vec<TrustId> = foreign.iter().map(|trust| trust.id).collect();
    assert_eq!(other.last_used(&ids).await.unwrap().len(), ids.len());
}

async fn a_full_queue_refuses(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions { queue: 2 });
    // Queued within one poll each, faster than any commit.
    let outcomes = futures_join((0..200).map(|_| recorder.record(a_refusal(space(), None), 0))).await;
    let full = outcomes.iter().filter(|o| **o == Err(RecordError::QueueFull)).count();
    let kept = outcomes.iter().filter(|o| **o == Ok(Recorded::Durable)).count();
    assert_eq!(full + kept, 200);
    assert!(full > 0 && kept >= 2, "{full} full, {kept} kept");
    assert_eq!(db.store.count_exchanges(&ExchangeFilter::of(space())).await.unwrap(), kept as u64);
}

async fn shutdown_commits_what_is_queued(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Arc::new(Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default()));
    let queued = futures_join((0..50).map(|n| {
        let recorder = Arc::clone(&recorder);
        async move {
            if n == 49 {
                recorder.shutdown().await;
                return Ok(Recorded::Durable);
            }
            recorder.record(a_refusal(space(), None), 0).await
        }
    }));
    assert!(queued.await.iter().all(|o| *o == Ok(Recorded::Durable)));
    assert_eq!(db.store.count_exchanges(&ExchangeFilter::of(space())).await.unwrap(), 49);
    assert_eq!(recorder.record(a_refusal(space(), None), 0).await, Err(RecordError::Unavailable));
}

async fn hostile_text_harms_nobody(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let mut hostile = a_refusal(space(), None);
    hostile.subject = "a\0b".into();
    hostile.issuer = "\0".into();
    hostile.checks = completed(vec![Check::failed(CheckName::Subject).actual("a\0b")]);
    let twin = a_refusal(space(), None);
    // A record that the database must refuse (its id exists) does not take its neighbours with it.
    assert_eq!(recorder.record(twin.clone(), 0).await, Ok(Recorded::Durable));
    let batch = [a_refusal(space(), None), twin, hostile.clone(), a_refusal(space(), None)];
    let outcomes = futures_join(batch.map(|record| recorder.record(record, 0))).await;
    assert_eq!(
        outcomes,
        [Ok(Recorded::Durable), Err(RecordError::Unavailable), Ok(Recorded::Durable), Ok(Recorded::Durable)]
    );
    let filter = ExchangeFilter { reference: Some(hostile.id), ..ExchangeFilter::of(space()) };
    let kept = db.store.list_exchanges(&filter, &PageRequest::default()).await.unwrap().items.remove(0);
    assert_eq!(kept.subject, "a\u{FFFD}b");
    assert_eq!(kept.checks, hostile.checks);
}

async fn keys_of_replicas_that_start_together(db: Db) {
    let key = |id: &str, state: &str| KeyRow {
        id: id.into(),
        purpose: "token".into(),
        state: state.into(),
        created_at: now(),
        activates_at: now(),
        retires_at: None,
        sealed: vec![0, 255],
        public: vec![1],
    };
    let stores = [db.store.clone(), db.replica().await];
    let firsts = ["a", "b"].map(|id| [key(id, "current")]);
    let audit = || an_audit_entry("rotateKeys");
    let entries = [audit(), audit()];
    let won = futures_join((0..2).map(|n| stores[n].insert_keys_if_absent("token", &firsts[n], &entries[n]))).await;
    assert_eq!(won.iter().filter(|w| **w == Ok(true)).count(), 1, "{won:?}");
    let table = stores[1].load_keys().await.unwrap();
    assert_eq!(table.keys.len(), 1);
    assert_eq!(table.keys[0].sealed, [0, 255]);
    let version = table.versions["token"];
    let mut retired = table.keys[0].clone();
    retired.state = "retired".into();
    retired.retires_at = Some(now());
    let put = [retired.clone(), key("c", "current")];
    assert!(stores[0].apply_key_changes("token", version, &put, &[], &audit()).await.unwrap());
    assert!(!stores[1].apply_key_changes("token", version, &[key("d", "current")], &[], &audit()).await.unwrap());
    assert!(stores[1].apply_key_changes("token", version + 1, &[], &[retired.id], &audit()).await.unwrap());
    assert_eq!(db.store.count_audit(&space()).await.unwrap(), 3, "each change is on record, and no attempt");
    let ids: Vec<_> = stores[0].load_keys().await.unwrap().keys.into_iter().map(|k| k.id).collect();
    assert_eq!(ids, ["c"]);
}

async fn bootstrap_happens_once(db: Db) {
    let configuration = db.configuration().await;
    let token = || ApiToken {
        id: ApiTokenId(fresh()),
        scope: Scope::Platform,
        name: "bootstrap".into(),
        description: None,
        roles: vec![RoleRef::BuiltIn(BuiltInRole::Owner)],
        secret_hash: random_hash(),
        created_at: now(),
        created_by: String::new(),
    };
    let stores = [db.store.clone(), db.replica().await];
    let tokens = [token(), token()];
    let entries = [an_audit_entry("bootstrap"), an_audit_entry("bootstrap")];
    let won = futures_join((0..2).map(|n| stores[n].bootstrap(&tokens[n], &entries[n]))).await;
    assert_eq!(won.iter().filter(|w| **w == Ok(true)).count(), 1, "{won:?}");
    let winner = won.iter().position(|w| *w == Ok(true)).unwrap();
    let snapshot = configuration.refresh().await.unwrap();
    assert!(snapshot.api_token_by_hash(&tokens[winner].secret_hash).is_some());
    assert!(snapshot.api_token_by_hash(&tokens[1 - winner].secret_hash).is_none());
    write(&configuration, vec![Write::DeleteApiToken(tokens[winner].id)]).await;
    assert_eq!(db.store.bootstrap(&token(), &an_audit_entry("bootstrap")).await, Ok(false));
    assert_eq!(db.store.list_audit(&space(), &PageRequest::default()).await.unwrap().items, [entries[winner].clone()]);
    assert_eq!(db.store.installation_fact("check", "1").await.unwrap(), "1");
    assert_eq!(stores[1].installation_fact("check", "2").await.unwrap(), "1");
}

async fn what_has_ended_is_forgotten(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, _, trust) = furnished(&configuration).await;
    let kept = CredentialId(fresh());
    let writes = [now(), now(), now(), now().plus_seconds(100)].into_iter();
    let writes = writes.zip([CredentialId(fresh()), CredentialId(fresh()), CredentialId(fresh()), kept]);
    write(&configuration, writes.map(|(until, id)| Write::RevokeCredential { id, until }).collect()).await;
    let replay = ReplayKey { until: now(), ..a_replay_key(provider.id) };
    let grant = ExchangeRecord { replay: Some(replay), ..a_grant(&trust) };
    assert_eq!(recorder.record(grant, 2).await, Ok(Recorded::Durable));
    assert_eq!(db.store.purge_ended(now(), 10).await, Ok(0));
    let ended = now().plus_seconds(1);
    for gone in [3, 1, 0] {
        assert_eq!(db.store.purge_ended(ended, 2).await, Ok(gone), "at most two of each at a time");
    }
    assert!(db.store.load_snapshot().await.unwrap().is_revoked(kept));
    // What was said about a subject goes when it means nothing any more: enabled, and all that it ended would have ended.
    let status = SubjectStatus { credentials_not_before: Some(now()), ..a_status(&provider) };
    let disabled = SubjectStatus { subject: "disabled".into(), disabled: true, ..status.clone() };
    write(&configuration, vec![Write::PutSubjectStatus(status), Write::PutSubjectStatus(disabled)]).await;
    assert_eq!(db.store.purge_ended(now().plus_seconds(86_400), 10).await, Ok(1), "the other revocation");
    assert_eq!(db.store.purge_ended(now().plus_seconds(86_401), 10).await, Ok(1));
    let left = db.store.list_subject_statuses(provider.id, &PageRequest::default()).await.unwrap();
    assert_eq!(left.items.iter().map(|s| s.subject.as_str()).collect::<Vec<_>>(), ["disabled"]);
    assert_eq!(db.store.count_subject_statuses(provider.id).await.unwrap(), 1);
    // A use of a trust that is gone.
    assert_eq!(db.store.purge_orphans(10).await, Ok(0));
    list_by_use(&db.store).await;
    assert_eq!(db.store.last_used(&[trust.id]).await.unwrap().len(), 1);
    db.sql("DELETE FROM trusts").await;
    assert_eq!(db.store.purge_orphans(10).await, Ok(1));
    assert!(db.store.last_used(&[trust.id]).await.unwrap().is_empty());
}

/// A credential bears the time of the replica that issued it, whose clock may be ahead of the one that revokes.
async fn what_is_revoked_includes_what_faster_clocks_issued(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (provider, account, trust) = furnished(&configuration).await;
    let revoking = |time: Timestamp| {
        let credentials_not_before = Some(time);
        let trust = Trust { credentials_not_before, ..trust.clone() };
        [
            Write::PutServiceAccount(ServiceAccount { credentials_not_before, ..account.clone() }),
            Write::PutTrust { trust, binding_fingerprint: None },
            Write::PutProvider(Provider { credentials_not_before, ..provider.clone() }),
            Write::PutSubjectStatus(SubjectStatus { credentials_not_before, ..a_status(&provider) }),
        ]
    };
    let ended = async |time: Timestamp| {
        let writes = revoking(time).into_iter().map(|write| Write::Ending(Box::new(write)));
        let snapshot = write(&configuration, writes.collect()).await;
        assert_eq!(
            snapshot.subject_status(provider.id, "subject"),
            db.store.load_snapshot().await.unwrap().subject_status(provider.id, "subject")
        );
        [
            snapshot.service_account(account.id).unwrap().credentials_not_before,
            snapshot.trust(trust.id).unwrap().trust().credentials_not_before,
            snapshot.provider(provider.id).unwrap().credentials_not_before,
            snapshot.subject_status(provider.id, "subject").unwrap().credentials_not_before,
        ]
        .map(Option::unwrap)
    };
    assert_eq!(ended(now()).await, [now(); 4], "nothing is on record");
    let ahead = now().plus_seconds(40);
    let record = ExchangeRecord { time: ahead, ..a_grant(&trust) };
    assert_eq!(recorder.record(record, configuration.current().unwrap().revision()).await, Ok(Recorded::Durable));
    assert_eq!(ended(now()).await, [Timestamp::from_micros(ahead.micros() + 1); 4], "just after it");
    let later = now().plus_seconds(41);
    assert_eq!(ended(later).await, [later; 4], "it was before");
    // A clock that is altogether wrong must not end for good what is issued from here on.
    let record = ExchangeRecord { time: now().plus_seconds(1_000), ..a_grant(&trust) };
    assert_eq!(recorder.record(record, configuration.current().unwrap().revision()).await, Ok(Recorded::Durable));
    assert_eq!(ended(now()).await, [now().plus_seconds(60); 4], "a minute at most");
    let snapshot = write(&configuration, revoking(now()).to_vec()).await;
    assert_eq!(snapshot.trust(trust.id).unwrap().trust().credentials_not_before, Some(now()), "an update is no ending");
}

async fn a_subject_that_is_disabled_while_its_idle_status_is_forgotten_stays_disabled(db: Db) {
    let configuration = db.configuration().await;
    let (provider, ..) = furnished(&configuration).await;
    write(&configuration, vec![Write::PutSubjectStatus(a_status(&provider))]).await;
    let disabling = another_hand(&db).await;
    disabling.execute_unprepared("UPDATE subject_statuses SET disabled = TRUE").await.unwrap();
    let mut forgetting = tokio::spawn({
        let store = db.store.clone();
        async move { store.purge_ended(now(), 10).await }
    });
    assert!(timeout(A_WHILE, &mut forgetting).await.is_err(), "the row is held");
    disabling.commit().await.unwrap();
    assert_eq!(forgetting.await.unwrap(), Ok(0));
    assert!(db.store.load_snapshot().await.unwrap().subject_disabled(provider.id, "subject"));
}

async fn a_status_that_is_forgotten_before_a_replica_saw_it_is_forgotten_there_too(db: Db) {
    let configuration = db.configuration().await;
    let (provider, ..) = furnished(&configuration).await;
    let disabled = SubjectStatus { disabled: true, ..a_status(&provider) };
    write(&configuration, vec![Write::PutSubjectStatus(disabled)]).await;
    let behind = Configuration::start(db.replica().await).await.unwrap();
    behind.close();
    assert!(behind.refresh().await.unwrap().subject_disabled(provider.id, "subject"));
    write(&configuration, vec![Write::PutSubjectStatus(a_status(&provider))]).await;
    assert_eq!(db.store.purge_ended(now(), 10).await, Ok(1));
    let caught_up = behind.refresh().await.unwrap();
    assert!(
        !caught_up.subject_disabled(provider.id, "subject"),
        "enabled on one replica, disabled for good on another"
    );
    // Nor does it outlive its provider.
    write(&configuration, vec![Write::PutSubjectStatus(a_status(&provider))]).await;
    let trusts: Vec<TrustId> = db.store.trusts_of_provider(provider.id, 10).await.unwrap();
    let mut writes: Vec<Write> = trusts.into_iter().map(Write::DeleteTrust).collect();
    writes.push(Write::DeleteProvider(provider.id));
    write(&configuration, writes).await;
    assert_eq!(behind.refresh().await.unwrap().subject_count(provider.id), 0);
}

async fn a_clock_that_is_ahead_forgets_nothing_early(db: Db) {
    let (machine, year) = (SystemClock.now(), 365 * 86_400);
    assert_eq!(db.store.time_to_forget_by(machine.plus_seconds(-year)).await, Ok(machine.plus_seconds(-year)));
    let ahead = machine.plus_seconds(year);
    let by = db.store.time_to_forget_by(ahead).await.unwrap();
    if db.options.url.starts_with("sqlite:") {
        assert_eq!(by, ahead, "the machine has but one clock");
    } else {
        assert!((-5..=60).contains(&by.seconds_since(machine)), "{by}, not the database's {machine}");
    }
}

async fn what_is_old_is_forgotten_little_by_little(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, account, trust) = furnished(&configuration).await;
    let day = 86_400;
    let lives = a_grant(&trust);
    let living = IssuedCredential { expires_at: now().plus_seconds(day), ..lives.credential.clone().unwrap() };
    let lives = ExchangeRecord { time: now().plus_seconds(-9), credential: Some(living.clone()), ..lives };
    assert_eq!(recorder.record(lives.clone(), 1).await, Ok(Recorded::Durable));
    for age in [5, 4, 3, 2, 1] {
        let record = ExchangeRecord { time: now().plus_seconds(-age), ..a_refusal(space(), None) };
        assert_eq!(recorder.record(record, 1).await, Ok(Recorded::Durable));
        let entry = AuditEntry { time: now().plus_seconds(-age), ..an_audit_entry("old") };
        write(&configuration, vec![Write::Audit(entry)]).await;
    }
    assert_eq!(recorder.record(a_refusal(space(), None), 1).await, Ok(Recorded::Durable));
    write(&configuration, vec![Write::Audit(an_audit_entry("new"))]).await;
    for gone in [2, 2, 1, 0] {
        assert_eq!(db.store.purge_exchanges(now(), now(), 2).await, Ok(gone));
        assert_eq!(db.store.purge_changes(now(), 2).await, Ok(gone));
    }
    let left = db.store.list_exchanges(&ExchangeFilter::of(space()), &PageRequest::default()).await.unwrap();
    assert_eq!(left.items.len(), 2);
    // Old as it is, its credential lives: it can still be looked up, and revoked.
    assert!(db.store.find_credential(&space(), account.id, living.id).await.unwrap().is_some());
    assert_eq!(db.store.list_audit(&space(), &PageRequest::default()).await.unwrap().items[0].action, "new");
    let ended = living.expires_at.plus_seconds(1);
    assert_eq!(db.store.purge_exchanges(now(), ended, 2).await, Ok(1));
    // Two replicas at once do not get in each other's way.
    let entries = (0..40).map(|_| Write::Audit(an_audit_entry("old"))).collect();
    write(&configuration, entries).await;
    let stores = [db.store.clone(), db.replica().await];
    let purging = stores.iter().map(|store| async move {
        let mut gone = 0;
        loop {
            match store.purge_changes(ended, 3).await.unwrap() {
                0 => return gone,
                some => gone += some,
            }
        }
    });
    assert_eq!(futures_join(purging).await.iter().sum::<u64>(), 41);
}

fn everything() -> EventFilter {
    EventFilter::of(Scope::Platform)
}

/// Three replicas whose clocks are two minutes apart, recording while a collector asks now one and now another.
async fn a_collector_misses_nothing_and_gets_nothing_twice(db: Db) {
    const EACH: i64 = 40;
    let configuration = db.configuration().await;
    furnished(&configuration).await;
    let written = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let mut replicas = Vec::new();
    for skew in [-60, 0, 60] {
        let store = db.replica().await;
        let configuration = Configuration::start(store.clone()).await.unwrap();
        let recorder = Recorder::start(store, Arc::clone(&configuration), RecorderOptions::default());
        replicas.push((skew, configuration, recorder));
    }
    let mut writers = Vec::new();
    for (skew, configuration, recorder) in replicas {
        let written = Arc::clone(&written);
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                let time = now().plus_seconds(skew + n);
                let record = ExchangeRecord { time, ..a_refusal(space(), None) };
                assert_eq!(recorder.record(record.clone(), 0).await, Ok(Recorded::Durable));
                let entry = AuditEntry { time, ..an_audit_entry("written") };
                write(&configuration, vec![Write::Audit(entry.clone())]).await;
                written.lock().unwrap().extend([record.id.0, entry.id]);
            }
        }));
    }
    let readers = [db.store.clone(), db.replica().await];
    let mut read: Vec<(Timestamp, Uuid)> = Vec::new();
    let mut after = None;
    let mut polls = 0;
    loop {
        // Before the last look, so that what was written before it is surely to be seen.
        let done = writers.iter().all(JoinHandle::is_finished);
        polls += 1;
        // The collector's own clock, past what the slow one writes, a second on at every poll; at the end, past everything.
        let clock = now().plus_seconds(if done { 10_000 } else { 20 + polls });
        // Large enough to keep up, and sometimes so small that a page ends anywhere.
        let request = PageRequest { first: if polls % 3 == 0 { 7 } else { 1_000 }, after: after.clone() };
        let reader = &readers[usize::try_from(polls % 2).unwrap()];
        let page = reader.export_events(&everything(), &request, clock).await.unwrap();
        read.extend(page.items.iter().map(|event| (event.time(), event.id())));
        assert!(page.end_cursor.is_some() || page.items.is_empty());
        after = page.end_cursor;
        if done && !page.has_next && page.items.is_empty() {
            break;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(read.is_sorted(), "oldest first");
    let ids: BTreeSet<Uuid> = read.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids.len(), read.len(), "nothing twice");
    let written = written.lock().unwrap();
    assert_eq!(written.difference(&ids).count(), 0, "nothing missed");
    assert_eq!(ids.difference(&written).count(), 0, "nothing else");
}

async fn a_late_event_is_put_on_record_after_what_was_handed_out(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    let request = PageRequest::default();
    let early = ExchangeRecord { time: now(), ..a_refusal(space(), None) };
    assert_eq!(recorder.record(early.clone(), 0).await, Ok(Recorded::Durable));
    let page = db.store.export_events(&everything(), &request, now().plus_seconds(5)).await.unwrap();
    assert_eq!((page.items.len(), page.end_cursor), (0, None), "it could still be overtaken");
    let page = db.store.export_events(&everything(), &request, now().plus_seconds(30)).await.unwrap();
    assert_eq!(page.items, [Event::Exchange(Box::new(early))]);

    // Handed out up to now; these took longer, or come from a machine whose clock is behind.
    let late = ExchangeRecord { time: now().plus_seconds(-3), ..a_grant(&trust) };
    assert_eq!(recorder.record(late.clone(), 1).await, Ok(Recorded::Durable));
    let entry = an_audit_entry("late");
    write(&configuration, vec![Write::Audit(entry.clone())]).await;
    let with_a_change = an_audit_entry("late too");
    write(&configuration, vec![put_trust(&trust), Write::Audit(with_a_change.clone())]).await;
    let after = PageRequest { after: page.end_cursor.clone(), ..PageRequest::default() };
    let page = db.store.export_events(&everything(), &after, now().plus_seconds(60)).await.unwrap();
    let just_after = Timestamp::from_micros(now().micros() + 1);
    assert_eq!(page.items.iter().map(Event::time).collect::<Vec<_>>(), [just_after; 3]);
    let ids: BTreeSet<Uuid> = page.items.iter().map(Event::id).collect();
    assert_eq!(ids, BTreeSet::from([late.id.0, entry.id, with_a_change.id]));
    assert_eq!(db.store.last_used(&[trust.id]).await.unwrap()[&trust.id], just_after);
    let issued = db.store.find_credential(&space(), trust.service_account, late.credential.unwrap().id).await.unwrap();
    assert_eq!(issued.unwrap().issued_at, now(), "a late record makes its credential no younger");
    // The cursor of an empty page goes on where it was.
    let after = PageRequest { after: page.end_cursor.clone(), ..PageRequest::default() };
    let page = db.store.export_events(&everything(), &after, now().plus_seconds(600)).await.unwrap();
    assert_eq!((page.items.len(), page.has_next, page.end_cursor), (0, false, after.after));
}

async fn events_are_exported_by_scope_kind_and_time(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    furnished(&configuration).await;
    let scopes = [(space(), Some(organization_id())), (other_space(), None), (Scope::Platform, None)];
    for (number, (scope, organization)) in (0..).zip(scopes) {
        let time = now().plus_seconds(number);
        let record = ExchangeRecord { time, ..a_refusal(scope.clone(), organization.clone()) };
        assert_eq!(recorder.record(record, 0).await, Ok(Recorded::Durable));
        let entry = AuditEntry { time, scope, organization, ..an_audit_entry("change") };
        write(&configuration, vec![Write::Audit(entry)]).await;
    }
    let count = async |filter: EventFilter| {
        let page = db.store.export_events(&filter, &PageRequest::first(1_000), now().plus_seconds(100)).await.unwrap();
        page.items.len()
    };
    assert_eq!(count(everything()).await, 6);
    assert_eq!(count(EventFilter::of(Scope::Organization(organization_id()))).await, 2);
    assert_eq!(count(EventFilter::of(space())).await, 2);
    assert_eq!(count(EventFilter { changes: false, ..everything() }).await, 3);
    assert_eq!(count(EventFilter { exchanges: false, ..everything() }).await, 3);
    assert_eq!(count(EventFilter { since: Some(now().plus_seconds(1)), ..everything() }).await, 4);
    assert_eq!(count(EventFilter { until: Some(now().plus_seconds(1)), ..everything() }).await, 2);
    let foreign = db.store.list_exchanges(&ExchangeFilter::of(Scope::Platform), &PageRequest::first(1)).await.unwrap();
    let request = PageRequest { after: foreign.end_cursor, ..PageRequest::default() };
    assert_eq!(db.store.export_events(&everything(), &request, now()).await, Err(StoreError::BadCursor));
}

/// It has passed by events of the other kind, which would be missed for ever by whoever asks for both from there on.
async fn a_cursor_goes_on_with_the_kinds_that_it_came_from(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    furnished(&configuration).await;
    assert_eq!(recorder.record(a_refusal(space(), None), 0).await, Ok(Recorded::Durable));
    write(&configuration, vec![Write::Audit(an_audit_entry("change"))]).await;
    let kinds = [
        everything(),
        EventFilter { changes: false, ..everything() },
        EventFilter { exchanges: false, ..everything() },
    ];
    let page = async |filter: &EventFilter, after: Option<String>| {
        let request = PageRequest { first: 1, after };
        db.store.export_events(filter, &request, now().plus_seconds(100)).await
    };
    for from in &kinds {
        let cursor = page(from, None).await.unwrap().end_cursor;
        assert!(cursor.is_some());
        for to in &kinds {
            let went_on = page(to, cursor.clone()).await;
            if from == to {
                assert!(went_on.is_ok(), "{from:?}");
            } else {
                assert_eq!(went_on, Err(StoreError::BadCursor), "{from:?} to {to:?}");
            }
        }
    }
}

async fn what_is_durable_is_told_and_nobody_waits_for_the_listener(db: Db) {
    let configuration = db.configuration().await;
    let (provider, _, trust) = furnished(&configuration).await;
    let mut told = db.store.stream_events(3).unwrap();
    assert!(db.store.stream_events(3).is_none(), "one listener");
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let grant = ExchangeRecord { replay: Some(a_replay_key(provider.id)), ..a_grant(&trust) };
    assert_eq!(recorder.record(grant.clone(), 1).await, Ok(Recorded::Durable));
    let again = ExchangeRecord { id: ExchangeId(fresh()), ..grant.clone() };
    assert_eq!(recorder.record(again, 1).await, Ok(Recorded::Replayed), "not on record, and so not told");
    let entry = an_audit_entry("told");
    write(&configuration, vec![put_trust(&trust), Write::Audit(entry.clone())]).await;
    let overtaken = try_write(&configuration, vec![Write::Audit(entry.clone())]).await;
    assert!(overtaken.is_err(), "its id exists: refused, and not told");
    assert_eq!(told.recv().await, Some(Event::Exchange(Box::new(grant))));
    assert_eq!(told.recv().await, Some(Event::Change(Box::new(entry))));
    // It stops listening; what is recorded goes on.
    for _ in 0..5 {
        assert_eq!(recorder.record(a_refusal(space(), None), 0).await, Ok(Recorded::Durable));
    }
    assert_eq!(told.len(), 3);
}

async fn what_a_newer_version_wrote_is_left_out(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, trust) = furnished(&configuration).await;
    let kept = a_provider(space(), "https://another.example");
    write(&configuration, vec![Write::PutProvider(kept.clone())]).await;
    db.sql(&format!("UPDATE providers SET kind = 'TELEPATHY' WHERE issuer = '{}'", provider.issuer.as_str())).await;
    // Read as a whole, and as a change.
    write(&configuration, vec![put_trust(&trust)]).await;
    let reloaded = db.store.load_snapshot().await.unwrap();
    assert!(reloaded.provider(provider.id).is_none() && reloaded.provider(kept.id).is_some());
    assert!(reloaded.candidate(trust.id).is_none(), "nothing is granted by what cannot be read");
    assert!(reloaded.service_account(account.id).is_some());
    db.sql(&format!("UPDATE service_accounts SET roles = '[\"tomorrow\"]' WHERE name = '{}'", account.name)).await;
    db.sql("UPDATE configuration_revision SET revision = revision + 1").await;
    let (revision, id) = (configuration.current().unwrap().revision() + 1, account.id);
    db.sql(&format!(
        "INSERT INTO configuration_changes (revision, kind, key) VALUES ({revision}, 'service_account', '{id}')"
    ))
    .await;
    assert!(configuration.refresh().await.unwrap().service_account(account.id).is_none());
    assert!(configuration.current().is_ok(), "all else goes on");
}

async fn changes_of_a_kind_from_a_newer_version_are_caught_up_with(db: Db) {
    let configuration = db.configuration().await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    let (_, _, trust) = furnished(&configuration).await;
    db.sql("UPDATE configuration_revision SET revision = 2").await;
    db.sql("INSERT INTO configuration_changes (revision, kind, key) VALUES (2, 'tomorrow', 'x')").await;
    // What it means cannot be told: whatever rests on older configuration is decided again.
    assert_eq!(recorder.record(a_grant(&trust), 1).await, Ok(Recorded::Superseded));
    assert_eq!(configuration.refresh().await.unwrap().revision(), 2);
    assert_eq!(recorder.record(a_grant(&trust), 2).await, Ok(Recorded::Durable));
    assert_eq!(write(&configuration, vec![put_trust(&trust)]).await.revision(), 3);
}

/// For this many trusts and more, loading takes its time.
const MANY: LoadOptions = LoadOptions { at_once: 0, of_scope: 100, chunk: 2 };

/// Another replica, which has loaded what it must to answer anything; the rest once it follows.
async fn loading(db: &Db, options: LoadOptions) -> Arc<Configuration> {
    Configuration::open(db.replica().await, options).await.unwrap()
}

/// What a request sees that names these, on a replica that nothing else keeps confirmed.
async fn seen(configuration: &Configuration, needed: &[Needed<'_>]) -> Result<Arc<Snapshot>, StoreError> {
    configuration.refresh_with(&[]).await.unwrap();
    configuration.current_with(needed).await
}

async fn loaded(configuration: &Arc<Configuration>) -> Arc<Snapshot> {
    configuration.follow();
    let whole = async {
        loop {
            if let Ok(snapshot) = configuration.current() {
                return snapshot;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), whole).await.unwrap()
}

async fn few_trusts_are_loaded_at_once(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, trust) = furnished(&configuration).await;
    let one = LoadOptions { at_once: 1, ..MANY };
    assert!(loading(&db, one).await.current().unwrap().candidate(trust.id).unwrap().account.is_some());
    // Of service accounts there may be many as well.
    let other = an_account(space());
    write(&configuration, vec![Write::PutServiceAccount(other.clone())]).await;
    assert!(loading(&db, one).await.current().is_err());
    write(&configuration, vec![Write::DeleteServiceAccount(other.id), put_trust(&a_trust(&provider, &account))]).await;
    assert!(loading(&db, one).await.current().is_err());
    let two = LoadOptions { at_once: 2, ..MANY };
    assert!(loading(&db, two).await.current().is_ok());
}

async fn while_loading_what_is_needed_is_found_and_all_else_refused(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, trust) = furnished(&configuration).await;
    let token = ApiToken {
        id: ApiTokenId(fresh()),
        scope: space(),
        name: "token".into(),
        description: None,
        roles: vec![RoleRef::BuiltIn(BuiltInRole::Viewer)],
        secret_hash: random_hash(),
        created_at: now(),
        created_by: String::new(),
    };
    write(&configuration, vec![Write::PutApiToken(token.clone())]).await;

    let there = loading(&db, MANY).await;
    let bare = seen(&there, &[]).await.unwrap();
    assert!(
        bare.trust(trust.id).is_none() && bare.service_account(account.id).is_none(),
        "nothing is proven otherwise"
    );
    assert_eq!(bare.api_token_by_hash(&token.secret_hash).unwrap().id, token.id);
    assert!(there.is_confirmed() && there.current().is_err());
    assert!(there.current().is_err());
    assert_eq!(there.refresh().await.unwrap_err(), StoreError::Loading);
    assert!(StoreError::Loading.is_transient());
    let refused = try_write(&there, vec![Write::DeleteTrust(trust.id)]).await;
    assert_eq!(refused.unwrap_err(), MutateError::Unavailable(StoreError::Loading));

    let scope = space();
    for (needed, is_trust) in [
        (Needed::Client(&trust.client_name), true),
        (Needed::Trust(trust.id), true),
        (Needed::TrustsOf(&scope), true),
        (Needed::ServiceAccount(account.id), false),
    ] {
        let there = loading(&db, MANY).await;
        let snapshot = seen(&there, &[needed]).await.unwrap();
        assert_eq!(**snapshot.service_account(account.id).unwrap(), account, "{needed:?}");
        let candidate = snapshot.candidate_by_client(&trust.client_name);
        assert_eq!(candidate.is_some_and(|c| c.account.is_some()), is_trust, "{needed:?}");
        assert_eq!(snapshot.candidates(&scope, provider.issuer.key()).len(), usize::from(is_trust), "{needed:?}");
        assert!(there.current().is_err(), "that is not all");
    }
    let nowhere = Scope::Space(SpaceId::parse("nowhere").unwrap());
    let unknown = [
        Needed::Client("nobody"),
        Needed::Trust(TrustId(fresh())),
        Needed::TrustsOf(&nowhere),
        Needed::ServiceAccount(ServiceAccountId(fresh())),
    ];
    assert!(seen(&there, &unknown).await.unwrap().candidate_by_client("nobody").is_none());

    // A plan that says what it needs can be carried out.
    let revoked = CredentialId(fresh());
    let plan = |snapshot: &Snapshot| {
        assert!(snapshot.candidate(trust.id).unwrap().account.is_some());
        Ok::<_, ()>((vec![Write::RevokeCredential { id: revoked, until: now() }], ()))
    };
    there.mutate_with(&[Needed::Trust(trust.id)], plan).await.unwrap();
    let snapshot = seen(&there, &[]).await.unwrap();
    assert!(snapshot.is_revoked(revoked) && snapshot.trust(trust.id).is_some());

    let whole = loaded(&there).await;
    let tell = |snapshot: &Snapshot| told(snapshot, &[trust.id], &[account.id], &[provider.id]);
    assert_eq!(tell(&whole), tell(&db.store.load_snapshot().await.unwrap()));
    assert!(there.refresh().await.is_ok() && there.current().is_ok());
    write(&there, vec![Write::DeleteTrust(trust.id)]).await;
}

async fn what_changes_while_loading_is_followed(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, deleted) = furnished(&configuration).await;
    let (disabled, warm) = (a_trust(&provider, &account), a_trust(&provider, &account));
    let unused = an_account(space());
    let writes = vec![put_trust(&disabled), put_trust(&warm), Write::PutServiceAccount(unused.clone())];
    write(&configuration, writes).await;
    let there = loading(&db, MANY).await;
    assert!(seen(&there, &[Needed::Trust(warm.id)]).await.unwrap().trust(warm.id).is_some());

    let made = a_trust(&provider, &unused);
    let ended = ServiceAccount { disabled: true, ..account.clone() };
    let writes = vec![
        Write::DeleteTrust(deleted.id),
        Write::DeleteTrust(warm.id),
        put_trust(&Trust { disabled: true, ..disabled.clone() }),
        put_trust(&made),
        Write::PutServiceAccount(ended.clone()),
    ];
    write(&configuration, writes).await;
    let bare = there.refresh_with(&[]).await.unwrap();
    assert!(bare.candidate(made.id).unwrap().account.is_some(), "what is not loaded was taken for gone");
    let check = |snapshot: &Snapshot| {
        assert!(snapshot.trust(deleted.id).is_none() && snapshot.candidate_by_client(&deleted.client_name).is_none());
        assert!(snapshot.trust(warm.id).is_none());
        assert!(snapshot.trust(disabled.id).unwrap().trust().disabled);
        assert_eq!(**snapshot.service_account(account.id).unwrap(), ended);
    };
    let all = [deleted.id, warm.id, disabled.id, made.id].map(Needed::Trust);
    check(&seen(&there, &all).await.unwrap());
    assert!(there.current().is_err());

    // A provider that is changed takes its trusts along, loaded or not.
    let there = loading(&db, MANY).await;
    let moved = Provider { issuer: IssuerUri::stored("https://moved.example"), version: 2, ..provider.clone() };
    write(&configuration, vec![Write::PutProvider(moved.clone())]).await;
    let snapshot = seen(&there, &[Needed::TrustsOf(&space())]).await.unwrap();
    assert_eq!(snapshot.candidates(&space(), moved.issuer.key()).len(), 2);
    check(&snapshot);
    let whole = loaded(&there).await;
    check(&whole);
    let tell = |snapshot: &Snapshot| {
        let accounts = [account.id, unused.id];
        told(snapshot, &[deleted.id, warm.id, disabled.id, made.id], &accounts, &[provider.id])
    };
    assert_eq!(tell(&whole), tell(&db.store.load_snapshot().await.unwrap()));
}

async fn what_goes_in_the_middle_of_loading_does_not_come_back(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, _) = furnished(&configuration).await;
    let many: Vec<Trust> = (0..60).map(|_| a_trust(&provider, &account)).collect();
    write(&configuration, many.iter().map(put_trust).collect()).await;
    let changing = tokio::spawn({
        let many = many.clone();
        async move {
            for (number, trust) in many.iter().enumerate() {
                let disabled = put_trust(&Trust { disabled: true, ..trust.clone() });
                let change = if number % 2 == 0 { Write::DeleteTrust(trust.id) } else { disabled };
                write(&configuration, vec![change]).await;
            }
        }
    });
    // Meanwhile they are loaded again and again: asked for one by one, as those of a scope, and by and by.
    let store = db.replica().await;
    let mut replicas = Vec::new();
    while !changing.is_finished() || replicas.is_empty() {
        let options = LoadOptions { chunk: 40, ..MANY };
        let there = Configuration::open(store.clone(), options).await.unwrap();
        match replicas.len() % 3 {
            0 => drop(there.refresh_with(&[Needed::TrustsOf(&space())]).await.unwrap()),
            1 => {
                let each: Vec<_> = many.iter().map(|trust| Needed::Client(&trust.client_name)).collect();
                there.refresh_with(&each).await.unwrap();
            }
            _ => drop(loaded(&there).await),
        }
        replicas.push(there);
    }
    changing.await.unwrap();
    let ids: Vec<TrustId> = many.iter().map(|trust| trust.id).collect();
    let tell = |snapshot: &Snapshot| told(snapshot, &ids, &[account.id], &[provider.id]);
    let now = tell(&db.store.load_snapshot().await.unwrap());
    for there in replicas {
        loaded(&there).await;
        let whole = there.refresh().await.unwrap();
        for (number, trust) in many.iter().enumerate() {
            let found = whole.trust(trust.id).map(|found| found.trust().disabled);
            assert_eq!(found, (number % 2 == 1).then_some(true), "{number}");
        }
        assert_eq!(tell(&whole), now);
    }
}

async fn the_trusts_of_a_large_scope_are_waited_for(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, first) = furnished(&configuration).await;
    let second = a_trust(&provider, &account);
    write(&configuration, vec![put_trust(&second)]).await;
    let needed = space();
    let needed = [Needed::TrustsOf(&needed)];
    let there = loading(&db, LoadOptions { of_scope: 1, ..MANY }).await;
    // Even if one of them is there: another may be more specific.
    seen(&there, &[Needed::Trust(first.id)]).await.unwrap();
    assert_eq!(seen(&there, &needed).await.unwrap_err(), StoreError::Loading);
    assert!(seen(&there, &[Needed::Client(&second.client_name)]).await.unwrap().trust(second.id).is_some());
    loaded(&there).await;
    let snapshot = there.current_with(&needed).await.unwrap();
    assert_eq!(snapshot.candidates(&space(), provider.issuer.key()).len(), 2);

    let there = loading(&db, LoadOptions { of_scope: 2, ..MANY }).await;
    let snapshot = seen(&there, &needed).await.unwrap();
    assert_eq!(snapshot.candidates(&space(), provider.issuer.key()).len(), 2);
    // One that comes later is known without a further look, however many there are now.
    write(&configuration, vec![put_trust(&a_trust(&provider, &account))]).await;
    let snapshot = seen(&there, &needed).await.unwrap();
    assert_eq!(snapshot.candidates(&space(), provider.issuer.key()).len(), 3);
    assert!(there.current().is_err());
}

async fn a_gap_in_the_feed_begins_loading_anew(db: Db) {
    let configuration = db.configuration().await;
    let (provider, account, gone) = furnished(&configuration).await;
    let kept = a_trust(&provider, &account);
    write(&configuration, vec![put_trust(&kept)]).await;
    let scope = space();
    let there = loading(&db, MANY).await;
    let before = loaded(&loading(&db, MANY).await).await;
    let followed = loading(&db, MANY).await;
    loaded(&followed).await;
    followed.close();
    assert_eq!(seen(&there, &[Needed::TrustsOf(&scope)]).await.unwrap().trust_count(), 2);

    let made = a_trust(&provider, &account);
    write(&configuration, vec![Write::DeleteTrust(gone.id), put_trust(&made)]).await;
    db.sql("DELETE FROM configuration_changes").await;
    let snapshot = seen(&there, &[Needed::Trust(gone.id)]).await.unwrap();
    assert_eq!((snapshot.revision(), snapshot.trust_count()), (before.revision() + 1, 0));
    let snapshot = seen(&there, &[Needed::TrustsOf(&scope)]).await.unwrap();
    assert_eq!(snapshot.candidates(&scope, provider.issuer.key()).len(), 2);
    assert!(snapshot.trust(made.id).is_some() && snapshot.trust(gone.id).is_none());
    // As well where everything was loaded: from then on it is not.
    assert_eq!(followed.refresh().await.unwrap_err(), StoreError::Loading);
    assert!(followed.current().is_err());
    assert!(seen(&followed, &[Needed::Trust(kept.id)]).await.unwrap().trust(kept.id).is_some());
    let whole = loaded(&there).await;
    let tell = |snapshot: &Snapshot| told(snapshot, &[gone.id, kept.id, made.id], &[account.id], &[provider.id]);
    assert_eq!(tell(&whole), tell(&db.store.load_snapshot().await.unwrap()));
}

async fn migrations_up_down_up(db: Db) {
    let configuration = db.configuration().await;
    furnished(&configuration).await;
    drop(configuration);
    db.store.migrate().await.unwrap();
    assert_eq!(db.store.load_snapshot().await.unwrap().revision(), 1);
    db.store.migrate_down().await.unwrap();
    assert!(db.store.load_snapshot().await.is_err());
    db.store.migrate().await.unwrap();
    assert_eq!(db.store.load_snapshot().await.unwrap().revision(), 0);
    assert_eq!(db.store.count_organizations().await.unwrap(), 0);
}

async fn replicas_migrate_together(db: Db) {
    assert_eq!(db.store.schema().await, Ok(Schema::Current));
    db.store.migrate_down().await.unwrap();
    let Ok(Schema::Behind(all)) = db.store.schema().await else { panic!("nothing is applied") };
    let mut starting = Vec::new();
    for _ in 0..4 {
        let store = db.replica().await;
        starting.push(tokio::spawn(async move { store.migrate().await }));
    }
    for replica in starting {
        replica.await.unwrap().unwrap();
    }
    assert_eq!(db.store.schema().await, Ok(Schema::Current));
    let connection = Database::connect(&db.options.url).await.unwrap();
    let count = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        let row = connection.query_one_raw(Statement::from_string(connection.get_database_backend(), sql)).await;
        row.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    assert_eq!(count("seaql_migrations").await, i64::try_from(all.len()).unwrap(), "each once");
    assert_eq!(count("configuration_revision").await, 17, "what a migration inserts is there once");
    assert_eq!(db.store.load_snapshot().await.unwrap().revision(), 0);
}

async fn a_schema_from_too_far_ahead_is_refused(db: Db) {
    let db = db.of_tomorrow().await;
    db.sql(&format!("UPDATE installation SET value = '{TOMORROW}' WHERE key = 'oldest_program'")).await;
    let refusal = db.store.migrate().await.unwrap_err();
    assert!(matches!(&refusal, StoreError::Schema(_)) && !refusal.is_transient());
    let words = refusal.to_string();
    assert!(words.contains(TOMORROW) && words.contains("this one knows up to"), "{words}");
    assert_eq!(db.store.schema().await, Err(refusal));
}

async fn a_schema_of_another_line_is_refused(db: Db) {
    db.sql(&format!("UPDATE seaql_migrations SET version = '{TOMORROW}' WHERE version LIKE '%_record'")).await;
    let words = db.store.migrate().await.unwrap_err().to_string();
    assert!(words.contains("another line of versions") && words.contains("_record"), "{words}");
}

/// Operators migrate with a role that may, and serve with one that may only read and write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_change_the_schema_can_start_on_one_that_is_up_to_date() {
    let db = Db::postgres().await;
    let role = format!("server_{}", fresh().simple());
    for sql in [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'"),
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
    ] {
        db.sql(&sql).await;
    }
    let (_, server) = db.options.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:secret@{server}");
    let store = Store::connect(&StoreOptions { url, ..db.options.clone() }).await.unwrap();
    assert_eq!(store.migrate().await, Ok(vec![]));
    let configuration = Configuration::start(store).await.unwrap();
    write(&configuration, vec![Write::PutOrganization(an_organization())]).await;
}

#[tokio::test]
async fn a_sqlite_file_is_private_and_memory_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let db = Db::sqlite().await;
    let folder = db._folder.as_ref().unwrap().path();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
    for url in ["sqlite::memory:", "sqlite://?mode=memory", "mysql://x"] {
        let options = StoreOptions { url: url.into(), max_connections: 4 };
        assert!(matches!(Store::connect(&options).await, Err(StoreError::Settings(_))), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_postgres_is_unavailable_at_once_and_comes_back() {
    let server = Postgres::builder().fsync(false).start().unwrap();
    let database = server.create_random_database("store").unwrap();
    let db = Db::open(server.url(&database), None).await;
    let configuration = db.configuration().await;
    furnished(&configuration).await;
    let loading = loading(&db, MANY).await;
    let recorder = Recorder::start(db.store.clone(), Arc::clone(&configuration), RecorderOptions::default());
    server.stop_immediately().unwrap();
    loading.follow();
    let began = std::time::Instant::now();
    assert!(db.store.count_organizations().await.unwrap_err().is_transient());
    assert!(configuration.refresh().await.unwrap_err().is_transient());
    assert_eq!(recorder.record(a_refusal(space(), None), 0).await, Err(RecordError::Unavailable));
    let outcome = try_write(&configuration, vec![Write::PutOrganization(an_organization())]).await;
    assert!(matches!(outcome, Err(MutateError::Unavailable(error)) if error.is_transient()));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    while configuration.current().is_ok() {
        // Not confirmed, and so soon not given out.
        assert!(configuration.refresh().await.is_err());
    }
    server.start_again().unwrap();
    // A pool may still hold connections that died; each is found out once.
    let back = (0..20).map(|_| async { db.store.count_organizations().await.is_ok() });
    assert!(futures_join(back).await.contains(&true));
    while configuration.refresh().await.is_err() {}
    assert!(configuration.current().is_ok());
    while recorder.record(a_refusal(space(), None), 0).await.is_err() {}
    // What was being loaded is loaded after all.
    loaded(&loading).await;
}
