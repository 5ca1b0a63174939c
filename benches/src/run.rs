//! A run: one installation after the other, each with its variants, each checked at its end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sallyport_testkit::{Algorithm, Issuer, Postgres, TestAuthority};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio::try_join;

use crate::client::{get, graphql, graphql_request};
use crate::cores::Cores;
use crate::estate::{Builder, mrns};
use crate::load::{Mark, Outcome, Pace, Plan, Requests, per_second, percentile, run};
use crate::primitives::{Least, Primitives, disk, mean};
use crate::report::{Report, Row, milliseconds};
use crate::server::{Commits, Database, OWNER, Server, Setup, machine, own_cpu, postgres_cpu};
use crate::tokens::{Door, requests};
use crate::variants::{Engine, Measure, Variant, World};

/// Different tokens of one variant; RSA signatures take their time.
const RSA_TOKENS: usize = 8_192;
/// As [`RSA_TOKENS`], of the others.
const TOKENS: usize = 32_768;
/// Exchanges a second up to which a variant that uses each token once has enough of them.
const ONCE_AT_MOST: u64 = 20_000;
/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// In how many parts exchanges are counted, so that what they are held against is measured between them: a machine with neighbours
/// gives in one second half of what it gives in another.
const ROUNDS: u32 = 4;
/// Time counted of `/livez`, each time.
const LIVEZ: Duration = Duration::from_millis(500);
/// How often a start is measured.
const STARTS: usize = 3;
/// How long a server is left alone before its idle memory is read.
const IDLE: Duration = Duration::from_secs(2);
/// How many references of granted answers are looked up at the end.
const LOOKED_UP: usize = 40;

/// Writes 64 files of PostgreSQL's log, which a checkpoint lets it use again.
const WRITE_LOG_FILES: &str = "DO $$ BEGIN FOR file IN 1..64 LOOP \
     PERFORM pg_logical_emit_message(false, 'sallyport-bench', ''); PERFORM pg_switch_wal(); END LOOP; END $$";

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time counted of each variant.
    pub window: Duration,
    /// Connections of each variant but for those of pages and of overload.
    pub connections: usize,
    /// Connections in overload.
    pub overload_connections: usize,
}

/// Measures the variants, in their order; those of one installation must stand together. What was measured stands in `report`
/// whatever happens then. Answers whether every grant has its record, every record its grant, and nothing went wrong.
///
/// # Errors
/// When something does not start, or breaks. A check that does not hold is no error.
pub async fn measure(
    options: Options,
    program: PathBuf,
    cores: Cores,
    variants: &[Variant],
    report: &mut Report,
) -> Result<bool> {
    report.machine = machine(&cores);
    let authority = TestAuthority::new()?;
    let algorithms = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    let issuer = Issuer::builder().algorithms(&algorithms).start(&authority).await?;
    let ground = Ground { options, program, cores, authority, issuer, postgres: OnceLock::new() };
    let mut sound = true;
    for group in variants.chunk_by(|a, b| a.world == b.world) {
        let Some(first) = group.first() else { continue };
        let mut running = ground.start(&first.world).await?;
        if report.least.is_empty() || group.iter().any(Variant::is_exchange) {
            tell("/livez and the primitives");
            let row = running.limit().await?;
            if report.rows.is_empty() {
                report.rows.push(row);
            }
        }
        for variant in group {
            tell(&variant.name);
            // The machine's neighbours come and go: what was possible meanwhile is what was before, between and afterwards.
            let before = running.least.len().saturating_sub(1);
            let mut row = running.variant(variant).await.with_context(|| variant.name.clone())?;
            if variant.is_exchange() {
                running.limit().await?;
                let around = running.least[before..].iter();
                let least = mean(around.map(|least| least.exchange(variant.algorithm, variant.door)));
                row.limit = Some(1.0 / least.as_secs_f64());
            }
            report.rows.push(row);
        }
        report.least.append(&mut running.least);
        let (check, holds) = running.check().await?;
        tell(&check);
        report.checks.push(check);
        sound &= holds;
        running.stop().await?;
    }
    Ok(sound)
}

fn livez() -> Arc<Requests> {
    let mut requests = Requests::new("ok");
    requests.push(&get("localhost", "/livez"));
    Arc::new(requests)
}

fn shown(latency: Option<Duration>) -> String {
    latency.map_or_else(|| "–".to_owned(), milliseconds)
}

/// Says on standard error what happens: the table is for standard output.
#[expect(clippy::print_stderr, reason = "progress, for whoever waits")]
fn tell(what: &str) {
    eprintln!("… {what}");
}

/// What all installations have in common.
struct Ground {
    options: Options,
    program: PathBuf,
    cores: Cores,
    authority: TestAuthority,
    issuer: Issuer,
    /// Started when first needed.
    postgres: OnceLock<Postgres>,
}

impl Ground {
    /// PostgreSQL as testkit starts it by default: it waits for the disk. As if it had run for a while: then it writes its log into
    /// files that are there, and does not stop every 16 MiB to write a new one full of zeros first.
    fn postgres(&self) -> Result<&Postgres> {
        if self.postgres.get().is_none() {
            let server = Postgres::builder().setting("min_wal_size", "1GB").start()?;
            server.sql("postgres", WRITE_LOG_FILES)?;
            server.sql("postgres", "CHECKPOINT")?;
            let _ = self.postgres.set(server);
        }
        self.postgres.get().context("PostgreSQL was not started")
    }

    /// Sets an installation up: one start that makes its database, then all its configuration, then its servers.
    async fn start<'g>(&'g self, world: &'g World) -> Result<Running<'g>> {
        let bindings = world.estate.bindings();
        tell(&format!("{:?}, {bindings} bindings, {} server(s)", world.engine, world.replicas));
        let (database, name);
        let database = match world.engine {
            Engine::Sqlite => Database::Sqlite,
            Engine::Postgres => {
                database = self.postgres()?;
                name = database.create_random_database("bench")?;
                Database::Postgres(database, &name)
            }
        };
        let setup = Setup::new(&self.program, &self.cores, database, self.authority.ca_pem())?;
        let first = setup.start("first").await?;
        let first_start = first.ready_after;
        first.stop().await?;
        let began = Instant::now();
        world.estate.fill(setup.database_url(), self.issuer.uri()).await?;
        if bindings > 1 {
            tell(&format!("{bindings} bindings written in {:.1} s", began.elapsed().as_secs_f64()));
        }
        let mut running = Running {
            ground: self,
            world,
            setup,
            servers: Vec::new(),
            first_start,
            requests: HashMap::new(),
            least: Vec::new(),
            granted: 0,
            lost: 0,
            errors: 0,
            references: Vec::new(),
        };
        running.start().await?;
        // Nothing but starts is measured while a server is still loading.
        running.loaded().await?;
        Ok(running)
    }
}

/// An installation that runs.
struct Running<'g> {
    ground: &'g Ground,
    world: &'g World,
    setup: Setup,
    servers: Vec<Server>,
    /// How long the very first start took, on an empty database.
    first_start: Duration,
    requests: HashMap<(Algorithm, Door), Arc<Requests>>,
    /// What no exchange could cost less than, as often as it was measured.
    least: Vec<Least>,
    /// Exchanges granted so far.
    granted: u64,
    /// Exchanges without an answer so far.
    lost: u64,
    errors: u64,
    references: Vec<String>,
}

/// What was used up to a moment, or between two.
#[derive(Clone, Copy, Default)]
struct Used {
    servers: Duration,
    load: Duration,
    database: Option<Duration>,
    commits: Commits,
}

impl Used {
    fn since(self, before: Self) -> Self {
        Self {
            servers: self.servers.saturating_sub(before.servers),
            load: self.load.saturating_sub(before.load),
            database: self.database.zip(before.database).map(|(after, before)| after.saturating_sub(before)),
            commits: Commits {
                commits: self.commits.commits - before.commits.commits,
                records: self.commits.records - before.commits.records,
            },
        }
    }

    fn add(&mut self, more: Self) {
        self.servers += more.servers;
        self.load += more.load;
        self.database = self.database.into_iter().chain(more.database).reduce(|one, other| one + other);
        self.commits.commits += more.commits.commits;
        self.commits.records += more.commits.records;
    }
}

/// What came of requests, and what they used.
#[derive(Default)]
struct Seen {
    outcome: Outcome,
    used: Used,
}

impl Seen {
    fn add(&mut self, more: Self) {
        self.outcome.add(more.outcome);
        self.used.add(more.used);
    }
}

impl Running<'_> {
    async fn start(&mut self) -> Result<()> {
        for number in 0..self.world.replicas {
            self.servers.push(self.setup.start(&format!("server-{number}")).await?);
        }
        Ok(())
    }

    /// How long after their starts the servers had everything in memory.
    async fn loaded(&self) -> Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(self.servers.len());
        for server in &self.servers {
            took.push(server.loaded().await?);
        }
        Ok(took)
    }

    async fn stop(&mut self) -> Result<()> {
        for server in std::mem::take(&mut self.servers) {
            server.stop().await?;
        }
        Ok(())
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    fn address(&self) -> Result<SocketAddr> {
        self.servers.first().map(Server::address).context("no server runs")
    }

    /// Reads what is cheap to read next to the counted time, and asks for metrics outside of it.
    async fn used(&self, mark: Mark) -> Result<Used> {
        let mut used = Used::default();
        if mark == Mark::Begins {
            used.commits = self.commits().await?;
        }
        for server in &self.servers {
            used.servers += server.cpu()?;
        }
        used.load = own_cpu()?;
        used.database = self.ground.postgres.get().map(postgres_cpu).transpose()?;
        if mark == Mark::Ended {
            used.commits = self.commits().await?;
        }
        Ok(used)
    }

    async fn commits(&self) -> Result<Commits> {
        let mut sum = Commits::default();
        for server in &self.servers {
            let of_one = server.commits().await?;
            sum.commits += of_one.commits;
            sum.records += of_one.records;
        }
        Ok(sum)
    }

    /// Sends requests as planned.
    async fn send(&mut self, requests: &Arc<Requests>, plan: Plan) -> Result<Seen> {
        let this = &*self;
        let (outcome, before, after) = run(&this.addresses(), requests, plan, |mark| this.used(mark)).await?;
        self.errors += outcome.errors;
        Ok(Seen { outcome, used: after.since(before) })
    }

    /// As [`Self::send`], of exchanges, which are counted for the check.
    async fn exchanges(&mut self, requests: &Arc<Requests>, plan: Plan) -> Result<Seen> {
        let mut seen = self.send(requests, plan).await?;
        self.granted += seen.outcome.granted_in_all;
        self.lost += seen.outcome.lost;
        self.references.append(&mut seen.outcome.references);
        Ok(seen)
    }

    /// As [`Self::exchanges`], for one of the rounds in which they are counted.
    async fn round(&mut self, variant: &Variant, plan: Plan) -> Result<Seen> {
        let requests = self.requests(variant)?;
        self.exchanges(&requests, Plan { window: plan.window / ROUNDS, ..plan }).await
    }

    /// As [`Self::round`], as fast as the answers come.
    async fn maximum_now(&mut self, variant: &Variant) -> Result<Seen> {
        let seen = self.round(variant, self.closed()).await?;
        ensure!(seen.outcome.granted > 0, "nothing was granted: {}", seen.outcome.first_error.unwrap_or_default());
        Ok(seen)
    }

    fn row(&self, name: &str, Seen { outcome, used }: &Seen) -> Result<Row> {
        let cores = |used: Duration| 100.0 * used.as_secs_f64() / outcome.window.as_secs_f64();
        let note = match &outcome.first_error {
            Some(error) => format!("first error: {error}"),
            None if outcome.refusals.is_empty() => String::new(),
            None => format!("{} refused with 429 or 503", outcome.refusals.len()),
        };
        Ok(Row {
            name: name.to_owned(),
            rate: Some(outcome.rate()),
            per_core: Some(per_second(outcome.granted, used.servers)),
            limit: None,
            p50: percentile(&outcome.latencies, 0.5),
            p99: percentile(&outcome.latencies, 0.99),
            p999: percentile(&outcome.latencies, 0.999),
            server_cpu: Some(cores(used.servers)),
            load_cpu: (!self.closed().wakeful).then(|| cores(used.load)),
            database_cpu: used.database.filter(|_| self.world.engine == Engine::Postgres).map(cores),
            memory: self.memory()?,
            commits: (used.commits.records > 0.0).then(|| used.commits.commits / used.commits.records),
            errors: outcome.errors,
            note,
        })
    }

    fn memory(&self) -> Result<Option<u64>> {
        let all = self.servers.iter().map(Server::memory).collect::<Result<Vec<_>>>()?;
        Ok(all.into_iter().max())
    }

    fn closed(&self) -> Plan {
        Plan {
            pace: Pace::Closed,
            connections: self.ground.options.connections,
            warm_up: WARM_UP,
            window: self.ground.options.window,
            once: false,
            // Only where the core is the load's alone.
            wakeful: self.world.engine == Engine::Sqlite && self.ground.cores.server.is_some(),
        }
    }

    /// Measures what no exchange can cost less than, just now. Answers what was seen of the cheapest request there is, which
    /// says what HTTP costs here, client and middleware included.
    async fn limit(&mut self) -> Result<Row> {
        let primitives = Primitives::measure()?;
        let seen = self.send(&livez(), Plan { window: LIVEZ, ..self.closed() }).await?;
        let row = self.row("/livez", &seen)?;
        let per_core = row.per_core.filter(|rate| *rate > 0.0).context("/livez was never answered")?;
        self.least.push(Least { primitives, livez: Duration::from_secs_f64(1.0 / per_core) });
        Ok(row)
    }

    async fn variant(&mut self, variant: &Variant) -> Result<Row> {
        match variant.measure {
            Measure::Maximum => self.maximum(variant).await,
            Measure::Half => self.half(variant).await,
            Measure::Overload => self.overload(variant).await,
            Measure::Beside => self.beside(variant).await,
            Measure::Once => self.once(variant).await,
            Measure::Cold => self.cold(variant).await,
            Measure::Page { after } => self.page(variant, after).await,
            Measure::Start => self.starts(variant).await,
        }
    }

    /// Requests with as many different tokens, of bindings all over the installation.
    fn make(&self, variant: &Variant, count: usize) -> Result<Arc<Requests>> {
        let estate = &self.world.estate;
        let targets = 0..estate.bindings();
        Ok(Arc::new(requests(&self.ground.issuer, variant.algorithm, variant.door, estate, targets, count)?))
    }

    fn requests(&mut self, variant: &Variant) -> Result<Arc<Requests>> {
        let kind = (variant.algorithm, variant.door);
        if let Some(made) = self.requests.get(&kind) {
            return Ok(Arc::clone(made));
        }
        let made = self.make(variant, if variant.algorithm == Algorithm::Rs256 { RSA_TOKENS } else { TOKENS })?;
        self.requests.insert(kind, Arc::clone(&made));
        Ok(made)
    }

    async fn maximum(&mut self, variant: &Variant) -> Result<Row> {
        let mut seen = Seen::default();
        for round in 0..ROUNDS {
            if round > 0 {
                self.limit().await?;
            }
            seen.add(self.maximum_now(variant).await?);
        }
        self.row(&variant.name, &seen)
    }

    async fn half(&mut self, variant: &Variant) -> Result<Row> {
        let (mut maxima, mut seen) = (Seen::default(), Seen::default());
        for _ in 0..ROUNDS {
            let maximum = self.maximum_now(variant).await?;
            let plan = Plan { pace: Pace::Open(maximum.outcome.rate() / 2.0), ..self.closed() };
            maxima.add(maximum);
            seen.add(self.round(variant, plan).await?);
        }
        let mut row = self.row(&variant.name, &seen)?;
        // What the machine, its other work and the load itself make of the cheapest request, at the same rate; and what the disk does.
        let rate = maxima.outcome.rate() / 2.0;
        let plan = Plan { pace: Pace::Open(rate), ..self.closed() };
        let least = self.send(&livez(), plan).await?;
        let least = self.row("/livez", &least)?;
        let disk = disk(plan.window)?;
        if row.note.is_empty() {
            row.note = format!(
                "{rate:.0}/s due, {} of them unsent; of /livez at that rate p50 {} ms, p99 {} ms, p99.9 {} ms; of the disk alone p50 {} ms, p99 {} ms, p99.9 {} ms, longest {} ms",
                seen.outcome.unsent,
                shown(least.p50),
                shown(least.p99),
                shown(least.p999),
                shown(percentile(&disk, 0.5)),
                shown(percentile(&disk, 0.99)),
                shown(percentile(&disk, 0.999)),
                shown(disk.last().copied()),
            );
        }
        Ok(row)
    }

    async fn overload(&mut self, variant: &Variant) -> Result<Row> {
        // In turn with the maximum: the same machine gives more in one second than in the next.
        let connections = self.ground.options.overload_connections;
        let (mut maxima, mut during) = (Seen::default(), Seen::default());
        for _ in 0..ROUNDS {
            let maximum = self.maximum_now(variant).await?;
            let plan = Plan { pace: Pace::Open(maximum.outcome.rate() * 2.0), connections, ..self.closed() };
            maxima.add(maximum);
            during.add(self.round(variant, plan).await?);
        }
        let plan = Plan { pace: Pace::Open(maxima.outcome.rate() / 2.0), ..self.closed() };
        let normal = self.round(variant, plan).await?;
        maxima.add(self.maximum_now(variant).await?);
        let mut row = self.row(&variant.name, &during)?;
        let (maximum, refused) = (maxima.outcome.rate(), u64::try_from(during.outcome.refusals.len())?);
        row.note = format!(
            "{:.0}/s due on {connections} connections; {:.0} % kept of the maxima in turn with it, {maximum:.0}/s; {:.0}/s refused with 429 or 503, p99 {} ms; {} unsent; at half the maximum right afterwards: {:.0}/s, p99 {} ms{}",
            maximum * 2.0,
            100.0 * during.outcome.rate() / maximum,
            per_second(refused, during.outcome.window),
            shown(percentile(&during.outcome.refusals, 0.99)),
            during.outcome.unsent,
            normal.outcome.rate(),
            shown(percentile(&normal.outcome.latencies, 0.99)),
            during.outcome.first_error.map_or_else(String::new, |error| format!("; first error: {error}")),
        );
        row.errors += maxima.outcome.errors + normal.outcome.errors;
        Ok(row)
    }

    async fn once(&mut self, variant: &Variant) -> Result<Row> {
        let plan = Plan { once: true, ..self.closed() };
        let count = ONCE_AT_MOST * (plan.warm_up + plan.window).as_secs().max(1);
        let requests = self.make(variant, usize::try_from(count)?)?;
        let seen = self.exchanges(&requests, plan).await?;
        self.row(&variant.name, &seen)
    }

    /// The providers must be as many as the bindings.
    async fn cold(&mut self, variant: &Variant) -> Result<Row> {
        // Whatever came before: no key is cached now.
        self.stop().await?;
        self.start().await?;
        let count = self.world.estate.bindings();
        let (requests, fetches) = (self.make(variant, count)?, self.ground.issuer.jwks_fetches());
        let (warm_up, window) = (Duration::ZERO, Duration::from_secs(60));
        let plan = Plan { warm_up, window, once: true, ..self.closed() };
        let seen = self.exchanges(&requests, plan).await?;
        let mut row = self.row(&variant.name, &seen)?;
        let fetches = self.ground.issuer.jwks_fetches() - fetches;
        row.note = format!("{count} providers, each for the first time; {fetches} key sets fetched");
        Ok(row)
    }

    /// Asks for one page of 100 bindings of the largest space, after so many of 1,000.
    async fn request_of_page(&self, after_pages: usize) -> Result<Arc<Requests>> {
        const LIST: &str = "query($scope: String!, $after: String) { listWIFAuthBindings(scopeMrn: $scope, first: 100, after: $after) { bindings { mrn name scope roles expiration issuerUri subject mappings { key value } allowedAudiences createdAt createdBy lastUsed clientId serviceAccountMrn disabled warnings } pageInfo { hasNextPage endCursor } } }";
        const WALK: &str = "query($scope: String!, $after: String) { listWIFAuthBindings(scopeMrn: $scope, first: 1000, after: $after) { pageInfo { endCursor } } }";
        let address = self.address()?;
        let largest = self.world.estate.spaces.iter().enumerate().max_by_key(|(_, bindings)| **bindings);
        let scope = mrns().scope(&Builder::scope(largest.map_or(0, |(space, _)| space)));
        let mut after = Value::Null;
        for _ in 0..after_pages {
            let walked = graphql(address, OWNER, WALK, json!({ "scope": scope, "after": after })).await?;
            after = walked["listWIFAuthBindings"]["pageInfo"]["endCursor"].clone();
            ensure!(after.is_string(), "the list ended before page {after_pages}");
        }
        let variables = json!({ "scope": scope, "after": after });
        let page = graphql(address, OWNER, LIST, variables.clone()).await?;
        let items = page["listWIFAuthBindings"]["bindings"].as_array().map_or(0, Vec::len);
        ensure!(items == 100, "a page of 100 has {items}");
        let mut requests = Requests::new("{\"data\":{\"listWIFAuthBindings\":{\"bindings\":[{");
        requests.push(&graphql_request(address, OWNER, LIST, &variables));
        Ok(Arc::new(requests))
    }

    async fn page(&mut self, variant: &Variant, pages: usize) -> Result<Row> {
        let request = self.request_of_page(pages).await?;
        let seen = self.send(&request, Plan { connections: 1, ..self.closed() }).await?;
        let mut row = self.row(&variant.name, &seen)?;
        if row.note.is_empty() {
            row.note = format!("one request at a time, {} bindings before the page", pages * 1_000);
        }
        Ok(row)
    }

    async fn beside(&mut self, variant: &Variant) -> Result<Row> {
        let page = self.request_of_page(0).await?;
        let (mut maxima, mut seen, mut pages) = (Seen::default(), Seen::default(), Outcome::default());
        for _ in 0..ROUNDS {
            let maximum = self.maximum_now(variant).await?;
            let plan = Plan { pace: Pace::Open(maximum.outcome.rate() / 2.0), ..self.closed() };
            maxima.add(maximum);
            // A little longer: they do not end before what is counted beside them.
            let beside = Plan { window: plan.window / ROUNDS + WARM_UP, ..self.closed() };
            let (addresses, page) = (self.addresses(), Arc::clone(&page));
            let (one, other) =
                try_join!(run(&addresses, &page, beside, |_| std::future::ready(Ok(()))), self.round(variant, plan))?;
            pages.add(one.0);
            seen.add(other);
        }
        let mut row = self.row(&variant.name, &seen)?;
        row.note = format!(
            "{:.0}/s due, {} of them unsent, {} refused with 429 or 503; beside {:.0} pages a second on {} connections, p50 {} ms, p99 {} ms, {} refused{}",
            maxima.outcome.rate() / 2.0,
            seen.outcome.unsent,
            seen.outcome.refusals.len(),
            pages.rate(),
            self.closed().connections,
            shown(percentile(&pages.latencies, 0.5)),
            shown(percentile(&pages.latencies, 0.99)),
            pages.refusals.len(),
            seen.outcome
                .first_error
                .or(pages.first_error)
                .map_or_else(String::new, |error| format!("; first error: {error}")),
        );
        row.errors += maxima.outcome.errors + pages.errors;
        self.errors += pages.errors;
        Ok(row)
    }

    async fn starts(&mut self, variant: &Variant) -> Result<Row> {
        let (mut ready, mut loaded) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            self.stop().await?;
            self.start().await?;
            ready.extend(self.servers.iter().map(|server| milliseconds(server.ready_after)));
            loaded.extend(self.loaded().await?.into_iter().map(milliseconds));
        }
        sleep(IDLE).await;
        let note = format!(
            "ready after {} ms, all loaded after {} ms (ready after {} ms on an empty database); memory while idle",
            ready.join(", "),
            loaded.join(", "),
            milliseconds(self.first_start)
        );
        Ok(Row { name: variant.name.clone(), memory: self.memory()?, note, ..Row::default() })
    }

    /// Asks the management API whether every grant has its record, and no record was invented.
    async fn check(&self) -> Result<(String, bool)> {
        const COUNT: &str =
            "query($scope: String!) { listExchanges(scopeMrn: $scope, granted: true, first: 1) { totalCount } }";
        const FIND: &str = "query($scope: String!, $reference: String) { listExchanges(scopeMrn: $scope, reference: $reference) { exchanges { granted credentialMrn } } }";
        let (address, platform) = (self.address()?, mrns().scope(&sallyport_domain::scope::Scope::Platform));
        let counted = graphql(address, OWNER, COUNT, json!({ "scope": platform })).await?;
        let recorded = counted["listExchanges"]["totalCount"].as_u64().context("no totalCount")?;
        let mut missing = 0;
        let step = self.references.len().div_ceil(LOOKED_UP).max(1);
        let looked_up: Vec<_> = self.references.iter().step_by(step).collect();
        for reference in &looked_up {
            let found = graphql(address, OWNER, FIND, json!({ "scope": platform, "reference": reference })).await?;
            let exchange = &found["listExchanges"]["exchanges"][0];
            if exchange["granted"] != true || !exchange["credentialMrn"].is_string() {
                missing += 1;
            }
        }
        let complete = (self.granted..=self.granted + self.lost).contains(&recorded) && missing == 0;
        let text = format!(
            "{}: {:?}, {} bindings, {} server(s): {} granted answers, {recorded} granted records, {} requests without an answer; {} of {} references looked up are on record; {} errors",
            if complete { "every grant has its record" } else { "RECORDS AND GRANTS DIFFER" },
            self.world.engine,
            self.world.estate.bindings(),
            self.world.replicas,
            self.granted,
            self.lost,
            looked_up.len() - missing,
            looked_up.len(),
            self.errors,
        );
        Ok((text, complete && self.errors == 0))
    }
}
