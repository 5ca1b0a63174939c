//! The program: everything wired together, started, and drained again.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;
use sallyport_credentials::secret::{generate_api_token, hash_secret};
use sallyport_domain::clock::{Clock, SystemClock};
use sallyport_domain::entropy::{Entropy, SystemEntropy, uuid_v7};
use sallyport_domain::id::ApiTokenId;
use sallyport_domain::matching::Installation;
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::principal::ApiToken;
use sallyport_domain::role::{BuiltInRole, RoleRef};
use sallyport_domain::scope::Scope;
use sallyport_gateway::Services;
use sallyport_gateway::address::TrustedProxies;
use sallyport_gateway::limits::Limits;
use sallyport_gateway::overload::Overload;
use sallyport_gateway::turns::Turns;
use sallyport_graphql::GraphqlOptions;
use sallyport_identity::outbound::Outbound;
use sallyport_identity::verifier::Verifier;
use sallyport_store::backup::sqlite_file;
use sallyport_store::{AuditEntry, Configuration, Recorder, RecorderOptions, Schema, Store, StoreOptions};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::backup::DatabaseLock;
use crate::event_log::{EventLog, Target};
use crate::listener::Closing;
use crate::middleware::Front;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::{keys, listener, master_key, middleware, monitoring, retention, telemetry, tls};

/// Exchanges waiting for their record at most; more are answered 503.
const RECORDS_WAITING: usize = 8_192;

/// A server that answers.
pub(crate) struct Running {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its shared parts.
    pub(crate) services: Arc<Services>,
    /// The API token made on the first start, when none was set.
    pub(crate) first_token: Option<SecretString>,
    closing: Arc<Closing>,
    listeners: Vec<JoinHandle<()>>,
    event_log: Option<EventLog>,
    _lock: Option<DatabaseLock>,
}

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When a setting, the database or a listener keeps it from starting, or a listener dies.
#[expect(clippy::print_stdout, reason = "the first token is shown once, to whoever started the server, and to no log")]
#[expect(clippy::print_stderr, reason = "the same, where standard output is for events")]
pub(crate) async fn serve(settings: Settings) -> Result<()> {
    let telemetry = Telemetry::start(&settings.log, settings.log_format)?;
    let events_on_stdout = settings.event_log == Some(Target::Stdout);
    let running = start(settings, Some(telemetry.metrics.clone())).await?;
    if let Some(token) = &running.first_token {
        let notice = format!(
            "First start. The API token of the platform owner, shown only this once:\n\n  {}\n",
            token.expose_secret()
        );
        // Whoever collects events is not to collect it.
        if events_on_stdout {
            eprintln!("{notice}");
        } else {
            println!("{notice}");
        }
    }
    tracing::info!(address = %running.address, public_url = running.services.installation.public_url, "serving");
    stop_signal().await?;
    tracing::info!("draining");
    let stopped = running.stop().await;
    telemetry.stop().await;
    stopped
}

/// Starts everything and returns once the listener answers.
///
/// # Errors
/// As [`serve`].
pub(crate) async fn start(settings: Settings, metrics: Option<PrometheusHandle>) -> Result<Running> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    make_data_folder(&settings)?;
    let lock = DatabaseLock::shared(&settings)?;
    let master = master_key::load(&settings, &*entropy)?;
    let listener = bind("listen", settings.listen)?;
    let address = listener.local_addr()?;

    let installation = installation(&settings, address);
    let store = migrated_store(&settings).await?;
    let event_log = match settings.event_log.clone() {
        Some(target) => Some(EventLog::start(&store, target, installation.clone())?),
        None => None,
    };
    let first_token =
        bootstrap(&store, settings.bootstrap_token.as_ref(), &installation.mrns, &*clock, &*entropy).await?;
    let seams = keys::Seams { clock: &*clock, entropy: &*entropy, mrns: &installation.mrns, by: "start" };
    let ring = keys::load(&store, &master, seams).await?;
    let configuration = Configuration::start(store.clone()).await.context("the configuration could not be loaded")?;
    let recorder =
        Recorder::start(store.clone(), Arc::clone(&configuration), RecorderOptions { queue: RECORDS_WAITING });
    let outbound = Outbound::new(settings.outbound.clone()).context("outbound settings")?;

    let services = Arc::new(Services {
        installation,
        configuration,
        store,
        recorder,
        verifier: Arc::new(Verifier::new(outbound, Arc::clone(&clock))),
        keys: ArcSwap::from_pointee(ring),
        clock,
        entropy,
        trusted_proxies: TrustedProxies::new(settings.trusted_proxies.clone()),
        limits: Limits::new(settings.limit_global, settings.limit_per_address, settings.limit_per_trust),
        overload: Overload::default(),
        turns: Turns::start(),
    });
    let watched = Arc::clone(&services);
    tokio::spawn(async move { watched.overload.watch().await });
    keys::keep_rotating(Arc::clone(&services), master);
    retention::keep_forgetting(Arc::clone(&services), settings.retention_days);

    let (closing, listeners) = (Arc::new(Closing::default()), Vec::new());
    let mut running = Running { address, services, first_token, closing, listeners, event_log, _lock: lock };
    let graphql = GraphqlOptions { introspection: settings.graphql_introspection, ..GraphqlOptions::default() };
    let routes = sallyport_gateway::router(Arc::clone(&running.services))
        .merge(sallyport_graphql::router(Arc::clone(&running.services), graphql))
        .merge(monitoring::health(Arc::clone(&running.services)));
    let routes = middleware::wrap_gateway(routes, Arc::clone(&running.services));
    running.listen(listener, routes, settings.tls)?;
    if let Some(metrics) = &metrics {
        telemetry::keep_looking(Arc::clone(&running.services), metrics.clone());
    }
    if let Some(admin) = settings.admin_listen {
        let listener = bind("admin_listen", admin)?;
        tracing::info!(address = %listener.local_addr()?, "admin listener");
        let routes =
            middleware::wrap(monitoring::admin(Arc::clone(&running.services), metrics), Arc::clone(&running.services));
        running.listen(listener, routes, None)?;
    }
    Ok(running)
}

/// Makes the folder of the embedded database, for nobody else's eyes.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_data_folder(settings: &Settings) -> Result<()> {
    if !settings.is_embedded() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&settings.data_dir)
        .with_context(|| format!("data_dir: cannot make {}", settings.data_dir.display()))
}

/// `sallyport keys rotate`: works on the database alone; running servers follow within seconds.
///
/// # Errors
/// When a setting, the database or the master key keeps it from happening.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn rotate_keys(settings: Settings, leaked: bool) -> Result<()> {
    telemetry::start_logging(&settings.log, settings.log_format)?;
    let (store, _lock) = existing_store(&settings).await?;
    let master = master_key::load(&settings, &SystemEntropy)?;
    let mrns = &settings.mrn_domain;
    let seams = keys::Seams { clock: &SystemClock, entropy: &SystemEntropy, mrns, by: "command" };
    keys::rotate_by_command(&store, &master, seams, leaked).await?;
    store.close().await;
    println!(
        "{}",
        if leaked { "the keys are replaced" } else { "the new keys are published, and sign from tomorrow on" }
    );
    Ok(())
}

/// `sallyport keys reseal`: encrypts the signing keys anew after the master key was replaced.
///
/// # Errors
/// As [`rotate_keys`].
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn reseal_keys(settings: Settings) -> Result<()> {
    telemetry::start_logging(&settings.log, settings.log_format)?;
    let (store, _lock) = existing_store(&settings).await?;
    let master = master_key::load(&settings, &SystemEntropy)?;
    let mrns = &settings.mrn_domain;
    let seams = keys::Seams { clock: &SystemClock, entropy: &SystemEntropy, mrns, by: "command" };
    let resealed = keys::reseal(&store, &master, seams).await?;
    store.close().await;
    let key = master.fingerprint();
    println!(
        "{resealed} keys sealed anew; all are sealed with the master key {key}, and the other one is needed no more"
    );
    Ok(())
}

/// `sallyport migrate`: brings the database to this version's schema, for those who do not leave that to the servers.
///
/// # Errors
/// When a setting or the database keeps it from happening, or this version cannot work with the schema it finds.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn migrate(settings: Settings) -> Result<()> {
    telemetry::start_logging(&settings.log, settings.log_format)?;
    make_data_folder(&settings)?;
    let _lock = DatabaseLock::shared(&settings)?;
    let store = connect(&settings).await?;
    let applied = store.migrate().await.context("the database could not be migrated")?;
    let schema = store.schema().await?;
    store.close().await;
    match (applied.is_empty(), schema) {
        (_, Schema::Ahead(newer)) => println!("a newer version has migrated the database: {}", newer.join(", ")),
        (true, _) => println!("the schema is up to date"),
        (false, _) => println!("applied: {}", applied.join(", ")),
    }
    Ok(())
}

async fn connect(settings: &Settings) -> Result<Store> {
    let url = settings.database_url.expose_secret().to_owned();
    let options = StoreOptions { url, max_connections: settings.database_connections };
    Store::connect(&options).await.context("database_url")
}

async fn migrated_store(settings: &Settings) -> Result<Store> {
    let store = connect(settings).await?;
    store.migrate().await.context("the database could not be migrated")?;
    Ok(store)
}

/// The database as servers left it, for commands: they neither make one nor change its schema under running servers.
///
/// # Errors
/// When there is none, or this version cannot work with its schema.
pub(crate) async fn existing_store(settings: &Settings) -> Result<(Store, Option<DatabaseLock>)> {
    if settings.is_embedded() {
        let file = sqlite_file(settings.database_url.expose_secret())?;
        if !file.exists() {
            bail!("there is no database at {}", file.display());
        }
    }
    let lock = DatabaseLock::shared(settings)?;
    let store = connect(settings).await?;
    match store.schema().await? {
        Schema::Current | Schema::Ahead(_) => Ok((store, lock)),
        Schema::Behind(missing) => {
            bail!("the database lacks {}: run sallyport migrate, or start a server of this version", missing.join(", "))
        }
    }
}

impl Running {
    fn listen(
        &mut self,
        listener: TcpListener,
        routes: Front,
        files: Option<(std::path::PathBuf, std::path::PathBuf)>,
    ) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let tls = files.map(|(cert, key)| tls::start(cert, key)).transpose()?;
        self.listeners.push(tokio::spawn(listener::serve(listener, tls, routes, Arc::clone(&self.closing))));
        Ok(())
    }

    /// Stops taking connections, lets requests in flight finish, then closes the database.
    ///
    /// # Errors
    /// When a listener had died.
    pub(crate) async fn stop(self) -> Result<()> {
        self.closing.close();
        for listener in self.listeners {
            listener.await.context("a listener panicked")?;
        }
        self.services.recorder.shutdown().await;
        if let Some(log) = self.event_log {
            log.stop().await;
        }
        self.services.configuration.close();
        self.services.store.close().await;
        Ok(())
    }
}

fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("{setting}: cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The names of this installation; `address` is where it listens.
pub(crate) fn installation(settings: &Settings, address: SocketAddr) -> Installation {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let public_url = settings.public_url.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
    let host = public_url.split_once("://").map_or(public_url.as_str(), |(_, host)| host).to_owned();
    Installation {
        tenant_domain: settings.tenant_domain.clone().unwrap_or(host),
        public_url,
        mrns: settings.mrn_domain.clone(),
        audience_policy: settings.audience_policy,
    }
}

/// Puts the first API token into an empty database: the one that was set, or a fresh one, which is returned.
pub(crate) async fn bootstrap(
    store: &Store,
    given: Option<&SecretString>,
    mrns: &MrnDomain,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Option<SecretString>> {
    let (fresh, secret_hash) = match given {
        Some(token) => (None, hash_secret(token.expose_secret())),
        None => {
            let (token, hash) = generate_api_token(entropy);
            (Some(token), hash)
        }
    };
    let now = clock.now();
    let token = ApiToken {
        id: ApiTokenId(uuid_v7(now, entropy)),
        scope: Scope::Platform,
        name: "bootstrap".to_owned(),
        description: Some("The first platform owner.".to_owned()),
        roles: vec![RoleRef::BuiltIn(BuiltInRole::Owner)],
        secret_hash,
        created_at: now,
        created_by: String::new(),
    };
    let platform = mrns.scope(&token.scope);
    let audit = AuditEntry {
        id: uuid_v7(now, entropy),
        time: now,
        actor: platform,
        action: "bootstrap".to_owned(),
        target: mrns.format(&Resource::ApiToken(token.scope.clone(), token.id)),
        scope: token.scope.clone(),
        organization: None,
        before: None,
        after: Some(json!({
            "name": token.name,
            "description": token.description,
            "roles": token.roles.iter().map(|role| mrns.role(role)).collect::<Vec<_>>(),
        })),
        request_id: None,
        source_ip: None,
    };
    let taken = store.bootstrap(&token, &audit).await.context("the first API token could not be stored")?;
    Ok(fresh.filter(|_| taken))
}

/// Waits until the process is asked to stop.
///
/// # Errors
/// When signals cannot be listened to.
pub(crate) async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
