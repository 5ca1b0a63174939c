//! Settings: `--config FILE` (TOML), then environment, then flags; later wins. An unknown key or a value out of range is
//! an error that names it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::IpNet;
use sallyport_domain::matching::AudiencePolicy;
use sallyport_domain::mrn::MrnDomain;
use sallyport_identity::outbound::{AllowRule, OutboundSettings, ResolveOverride};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::event_log::Target;

/// For how long the record is kept by default: a year, which auditors commonly ask for (PCI DSS 4.0.1, 10.5.1), and the time
/// that an audit of it takes.
const RETENTION_DAYS: u32 = 400;
/// A hundred years.
const RETENTION_DAYS_MAX: u32 = 36_500;

/// Every setting as text, from one source. `None`: not given there.
#[derive(Args, Deserialize, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Source {
    /// Address of the main listener. A port of 0 takes any free one [default: 127.0.0.1:8080]
    #[arg(long, env = "SALLYPORT_LISTEN", value_name = "ADDRESS:PORT")]
    #[serde(deserialize_with = "scalar")]
    listen: Option<String>,
    /// Address of the admin listener: /metrics, /livez, /readyz. Empty turns it off [default: 127.0.0.1:8081]
    #[arg(long, env = "SALLYPORT_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    #[serde(deserialize_with = "scalar")]
    admin_listen: Option<String>,
    /// Base URL without trailing slash: the OIDC issuer, universeDomain and api_endpoint [default: http://<listen>]
    #[arg(long, env = "SALLYPORT_PUBLIC_URL", value_name = "URL")]
    #[serde(deserialize_with = "scalar")]
    public_url: Option<String>,
    /// Serve HTTPS with this certificate chain (PEM); read again when the file changes [default: none]
    #[arg(long, env = "SALLYPORT_TLS_CERT_FILE", value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    tls_cert_file: Option<String>,
    /// The private key of that certificate (PEM) [default: none]
    #[arg(long, env = "SALLYPORT_TLS_KEY_FILE", value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    tls_key_file: Option<String>,
    /// sqlite://FILE or postgres://… [default: sqlite, the file sallyport.db in the data folder]
    #[arg(long, env = "SALLYPORT_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    #[serde(deserialize_with = "scalar")]
    database_url: Option<String>,
    /// Database connections at most, 1 to 1000 [default: 16]
    #[arg(long, env = "SALLYPORT_DATABASE_CONNECTIONS", value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    database_connections: Option<String>,
    /// Folder for the embedded database and its master key [default: ./sallyport-data]
    #[arg(long, env = "SALLYPORT_DATA_DIR", value_name = "FOLDER")]
    #[serde(deserialize_with = "scalar")]
    data_dir: Option<String>,
    /// 32 bytes in base64 that encrypt signing keys at rest. With SQLite made on first start in the data folder; with
    /// PostgreSQL required, here or as a file [default: none]
    #[arg(long, env = "SALLYPORT_MASTER_KEY", value_name = "BASE64", hide_env_values = true)]
    #[serde(deserialize_with = "secret")]
    master_key: Option<SecretString>,
    /// File that holds the master key [default: master.key in the data folder, with SQLite]
    #[arg(long, env = "SALLYPORT_MASTER_KEY_FILE", value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    master_key_file: Option<String>,
    /// While the master key is being replaced: the other one, which also opens keys but seals none [default: none]
    #[arg(long, env = "SALLYPORT_FALLBACK_MASTER_KEY", value_name = "BASE64", hide_env_values = true)]
    #[serde(deserialize_with = "secret")]
    fallback_master_key: Option<SecretString>,
    /// File that holds it [default: none]
    #[arg(long, env = "SALLYPORT_FALLBACK_MASTER_KEY_FILE", value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    fallback_master_key_file: Option<String>,
    /// API token of the first platform owner, taken on the first start of an empty database; at least 20 characters
    /// [default: one is generated and printed once]
    #[arg(long, env = "SALLYPORT_BOOTSTRAP_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    #[serde(deserialize_with = "secret")]
    bootstrap_token: Option<SecretString>,
    /// Host, with port, in client IDs; without port it is an accepted audience [default: that of the public URL]
    #[arg(long, env = "SALLYPORT_TENANT_DOMAIN", value_name = "HOST[:PORT]")]
    #[serde(deserialize_with = "scalar")]
    tenant_domain: Option<String>,
    /// Domain of resource names [default: api.mondoo.app]
    #[arg(long, env = "SALLYPORT_MRN_DOMAIN", value_name = "DOMAIN")]
    #[serde(deserialize_with = "scalar")]
    mrn_domain: Option<String>,
    /// Which audiences a trust accepts that lists none: strict (scope MRN, public URL, tenant domain, client ID) or any
    /// [default: strict]
    #[arg(long, env = "SALLYPORT_AUDIENCE_POLICY", value_name = "strict|any")]
    #[serde(deserialize_with = "scalar")]
    audience_policy: Option<String>,
    /// Extra PEM roots for issuer and STS connections [default: none]
    #[arg(long, env = "SALLYPORT_OUTBOUND_CA_FILE", value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    outbound_ca_file: Option<String>,
    /// host:port=ip:port,…: where to connect for that host, as curl's --resolve; TLS still checks the host name
    /// [default: none]
    #[arg(long, env = "SALLYPORT_OUTBOUND_RESOLVE", value_name = "LIST")]
    #[serde(deserialize_with = "list")]
    outbound_resolve: Option<String>,
    /// CIDRs or host:port that may be reached although private; everything private is refused otherwise [default: none]
    #[arg(long, env = "SALLYPORT_OUTBOUND_ALLOW", value_name = "LIST")]
    #[serde(deserialize_with = "list")]
    outbound_allow: Option<String>,
    /// CIDRs whose Forwarded and X-Forwarded-For headers are believed [default: none]
    #[arg(long, env = "SALLYPORT_TRUSTED_PROXIES", value_name = "LIST")]
    #[serde(deserialize_with = "list")]
    trusted_proxies: Option<String>,
    /// Exchanges, introspections and revocations a second from one address; 0 means no limit [default: 0]
    #[arg(long, env = "SALLYPORT_LIMIT_PER_ADDRESS", value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    limit_per_address: Option<String>,
    /// Exchanges a second that one trust grants; 0 means no limit [default: 0]
    #[arg(long, env = "SALLYPORT_LIMIT_PER_TRUST", value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    limit_per_trust: Option<String>,
    /// Exchanges, introspections and revocations a second in all; 0 means no limit [default: 0]
    #[arg(long, env = "SALLYPORT_LIMIT_GLOBAL", value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    limit_global: Option<String>,
    /// Days for which exchanges and management changes are kept; 0 keeps them for ever [default: 400]
    #[arg(long, env = "SALLYPORT_RETENTION_DAYS", value_name = "DAYS")]
    #[serde(deserialize_with = "scalar")]
    retention_days: Option<String>,
    /// Where every event that this server puts on record is written as well, as a line of OCSF JSON: stdout, or a file
    /// [default: none]
    #[arg(long, env = "SALLYPORT_EVENT_LOG", value_name = "stdout|FILE")]
    #[serde(deserialize_with = "scalar")]
    event_log: Option<String>,
    /// Whether GraphQL introspection is answered: true or false [default: true]
    #[arg(long, env = "SALLYPORT_GRAPHQL_INTROSPECTION", value_name = "true|false")]
    #[serde(deserialize_with = "scalar")]
    graphql_introspection: Option<String>,
    /// Log filter, as of the tracing crate, such as info or sallyport_gateway=debug [default: info,sea_orm_migration=warn]
    #[arg(long, env = "SALLYPORT_LOG", value_name = "FILTER")]
    #[serde(deserialize_with = "scalar")]
    log: Option<String>,
    /// text or json [default: text]
    #[arg(long, env = "SALLYPORT_LOG_FORMAT", value_name = "text|json")]
    #[serde(deserialize_with = "scalar")]
    log_format: Option<String>,
}

/// The command line's part of the settings.
#[derive(Args, Clone, Default)]
pub(crate) struct Flags {
    /// TOML file with settings: the names below without SALLYPORT_, in lower case
    #[arg(long, env = "SALLYPORT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

macro_rules! each_setting {
    ($macro:ident) => {
        $macro!(
            listen admin_listen public_url tls_cert_file tls_key_file database_url database_connections data_dir
            master_key master_key_file fallback_master_key fallback_master_key_file bootstrap_token tenant_domain mrn_domain audience_policy outbound_ca_file
            outbound_resolve outbound_allow trusted_proxies limit_per_address limit_per_trust limit_global
            retention_days event_log graphql_introspection log log_format
        )
    };
}

impl Source {
    /// What is set here, else what is set there.
    fn or(self, other: Self) -> Self {
        macro_rules! merge { ($($name:ident)*) => { Self { $($name: self.$name.or(other.$name)),* } }; }
        each_setting!(merge)
    }
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every setting, checked.
pub(crate) struct Settings {
    /// Main listener.
    pub(crate) listen: SocketAddr,
    /// Admin listener; `None`: off.
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Base URL, when set.
    pub(crate) public_url: Option<String>,
    /// Certificate chain and key files.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// Database URL; holds a password perhaps.
    pub(crate) database_url: SecretString,
    /// Connections at most.
    pub(crate) database_connections: u32,
    /// Data folder.
    pub(crate) data_dir: PathBuf,
    /// The master key itself, when set.
    pub(crate) master_key: Option<SecretString>,
    /// Its file, when set.
    pub(crate) master_key_file: Option<PathBuf>,
    /// The other master key while one replaces the other, when set.
    pub(crate) fallback_master_key: Option<SecretString>,
    /// Its file, when set.
    pub(crate) fallback_master_key_file: Option<PathBuf>,
    /// First API token, when set.
    pub(crate) bootstrap_token: Option<SecretString>,
    /// Host with port in client IDs, when set.
    pub(crate) tenant_domain: Option<String>,
    /// Domain of MRNs.
    pub(crate) mrn_domain: MrnDomain,
    /// Default audiences.
    pub(crate) audience_policy: AudiencePolicy,
    /// The outbound client.
    pub(crate) outbound: OutboundSettings,
    /// Proxies that are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Exchanges, introspections and revocations a second per address; 0: no limit.
    pub(crate) limit_per_address: u32,
    /// Exchanges a second per trust; 0: no limit.
    pub(crate) limit_per_trust: u32,
    /// The same in all; 0: no limit.
    pub(crate) limit_global: u32,
    /// Days for which the record is kept; 0: for ever.
    pub(crate) retention_days: u32,
    /// Where events are written as well; `None`: nowhere.
    pub(crate) event_log: Option<Target>,
    /// Whether GraphQL introspection is answered.
    pub(crate) graphql_introspection: bool,
    /// Log filter.
    pub(crate) log: String,
    /// Log format.
    pub(crate) log_format: LogFormat,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("listen", &self.listen)
            .field("public_url", &self.public_url)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the file the flags name, and checks everything.
    ///
    /// # Errors
    /// Names the setting and says what would be right.
    pub(crate) fn load(flags: Flags) -> Result<Self> {
        check_environment()?;
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None => Source::default(),
        };
        Self::check(flags.source.or(file))
    }

    /// The defaults, with the embedded database in `folder` and no admin listener: what the quickstart runs on.
    ///
    /// # Errors
    /// None that the defaults could cause.
    pub(crate) fn on_one_machine(listen: SocketAddr, folder: &Path, outbound: OutboundSettings) -> Result<Self> {
        let source = Source {
            listen: Some(listen.to_string()),
            admin_listen: Some(String::new()),
            data_dir: Some(folder.display().to_string()),
            ..Source::default()
        };
        Ok(Self { outbound, ..Self::check(source)? })
    }

    fn check(source: Source) -> Result<Self> {
        let listen = address("listen", source.listen.as_deref().unwrap_or("127.0.0.1:8080"))?;
        let admin_listen = match source.admin_listen.as_deref().unwrap_or("127.0.0.1:8081") {
            "" => None,
            text => Some(address("admin_listen", text)?),
        };
        let tls = match (source.tls_cert_file, source.tls_key_file) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((PathBuf::from(cert), PathBuf::from(key))),
            _ => bail!("tls_cert_file and tls_key_file: set both or neither"),
        };
        let data_dir = PathBuf::from(source.data_dir.unwrap_or_else(|| "./sallyport-data".into()));
        let database_url = match source.database_url {
            None => format!("sqlite://{}", data_dir.join("sallyport.db").display()),
            Some(url) if ["sqlite:", "postgres://", "postgresql://"].iter().any(|s| url.starts_with(s)) => url,
            Some(_) => bail!("database_url: must start with sqlite:// or postgres://"),
        };
        if source.master_key.is_some() && source.master_key_file.is_some() {
            bail!("master_key and master_key_file: set one of them");
        }
        if source.fallback_master_key.is_some() && source.fallback_master_key_file.is_some() {
            bail!("fallback_master_key and fallback_master_key_file: set one of them");
        }
        if let Some(token) = &source.bootstrap_token {
            let text = token.expose_secret();
            if !(20..=500).contains(&text.len())
                || !text.bytes().all(|b| b.is_ascii_graphic())
                || text.matches('.').count() == 2
            {
                bail!("bootstrap_token: must be 20 to 500 visible ASCII characters, and not a JWT");
            }
        }
        let mrn_domain = source.mrn_domain.unwrap_or_else(|| "api.mondoo.app".into());
        let mrn_domain = MrnDomain::new(&mrn_domain)
            .with_context(|| format!("mrn_domain: '{mrn_domain}' is not a host name in lower case"))?;
        let audience_policy = match source.audience_policy.as_deref().unwrap_or("strict") {
            "strict" => AudiencePolicy::Strict,
            "any" => AudiencePolicy::Any,
            other => bail!("audience_policy: must be strict or any, not '{other}'"),
        };
        let ca_pem = source
            .outbound_ca_file
            .map(|path| std::fs::read(&path).with_context(|| format!("outbound_ca_file: cannot read {path}")))
            .transpose()?;
        let outbound = OutboundSettings {
            ca_pem,
            resolve: ResolveOverride::parse_list(source.outbound_resolve.as_deref().unwrap_or_default())
                .context("outbound_resolve")?,
            allow: AllowRule::parse_list(source.outbound_allow.as_deref().unwrap_or_default())
                .context("outbound_allow")?,
        };
        let log_format = match source.log_format.as_deref().unwrap_or("text") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => bail!("log_format: must be text or json, not '{other}'"),
        };
        let database_connections = number("database_connections", source.database_connections, 16)?;
        if !(1..=1_000).contains(&database_connections) {
            bail!("database_connections: must be between 1 and 1000, not {database_connections}");
        }
        let retention_days = number("retention_days", source.retention_days, RETENTION_DAYS)?;
        if retention_days > RETENTION_DAYS_MAX {
            bail!("retention_days: must be between 0 and {RETENTION_DAYS_MAX}, not {retention_days}");
        }
        Ok(Self {
            listen,
            admin_listen,
            public_url: source.public_url.filter(|text| !text.is_empty()).map(public_url).transpose()?,
            tls,
            database_url: SecretString::from(database_url),
            database_connections,
            data_dir,
            master_key: source.master_key,
            master_key_file: source.master_key_file.map(PathBuf::from),
            fallback_master_key: source.fallback_master_key,
            fallback_master_key_file: source.fallback_master_key_file.map(PathBuf::from),
            bootstrap_token: source.bootstrap_token,
            tenant_domain: source.tenant_domain.filter(|text| !text.is_empty()).map(tenant_domain).transpose()?,
            mrn_domain,
            audience_policy,
            outbound,
            trusted_proxies: networks("trusted_proxies", source.trusted_proxies.as_deref().unwrap_or_default())?,
            limit_per_address: number("limit_per_address", source.limit_per_address, 0)?,
            limit_per_trust: number("limit_per_trust", source.limit_per_trust, 0)?,
            limit_global: number("limit_global", source.limit_global, 0)?,
            retention_days,
            event_log: match source.event_log.as_deref().unwrap_or_default() {
                "" => None,
                "stdout" => Some(Target::Stdout),
                file => Some(Target::File(PathBuf::from(file))),
            },
            graphql_introspection: match source.graphql_introspection.as_deref().unwrap_or("true") {
                "true" => true,
                "false" => false,
                other => bail!("graphql_introspection: must be true or false, not '{other}'"),
            },
            log: source.log.unwrap_or_else(|| "info,sea_orm_migration=warn".into()),
            log_format,
        })
    }

    /// Whether the database is the embedded one.
    pub(crate) fn is_embedded(&self) -> bool {
        self.database_url.expose_secret().starts_with("sqlite:")
    }
}

fn read_file(path: &Path) -> Result<Source> {
    let text = std::fs::read_to_string(path).with_context(|| format!("config: cannot read {}", path.display()))?;
    // Without the line itself, which the library would show: it may hold a secret. Its key does not.
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count();
        let key = text.lines().nth(line).and_then(|l| l.split_once('=')).map_or("", |(key, _)| key.trim());
        anyhow::anyhow!("config: {}, line {}, {key}: {}", path.display(), line + 1, error.message())
    })
}

/// A mistyped variable must not be a setting silently left at its default.
pub(crate) fn check_environment() -> Result<()> {
    macro_rules! names { ($($name:ident)*) => { [$(stringify!($name)),*] }; }
    let known = each_setting!(names);
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix("SALLYPORT_") else { continue };
        if rest != "CONFIG"
            && !known.iter().any(|k| k.eq_ignore_ascii_case(rest) && rest.bytes().all(|b| !b.is_ascii_lowercase()))
        {
            bail!("the environment variable {name} is not a setting; see sallyport serve --help");
        }
    }
    Ok(())
}

fn address(name: &str, text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{name}: '{text}' is not an address with port, such as 127.0.0.1:8080"))
}

fn number(name: &str, text: Option<String>, default: u32) -> Result<u32> {
    match text {
        None => Ok(default),
        Some(text) => {
            text.parse().with_context(|| format!("{name}: '{text}' is not a whole number from 0 to {}", u32::MAX))
        }
    }
}

fn networks(name: &str, list: &str) -> Result<Vec<IpNet>> {
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            entry
                .parse::<IpNet>()
                .or_else(|_| entry.parse::<IpAddr>().map(IpNet::from))
                .with_context(|| format!("{name}: '{entry}' is not a CIDR such as 10.0.0.0/8"))
        })
        .collect()
}

/// Scheme and host with port, nothing else: clients append paths by concatenation.
fn public_url(text: String) -> Result<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = rest.is_some_and(|host| {
        !host.is_empty()
            && host.is_ascii()
            && !host.contains(['/', '?', '#', '@', ' ', '\\'])
            && host == host.to_ascii_lowercase()
    });
    if !fits {
        bail!(
            "public_url: must be http:// or https:// and a host in lower case, without path or trailing slash, such as https://sallyport.example.com"
        );
    }
    Ok(text)
}

fn tenant_domain(text: String) -> Result<String> {
    if text.is_empty() || text.contains(['/', '@', ' ']) || text != text.to_ascii_lowercase() {
        bail!(
            "tenant_domain: must be a host in lower case, with a port if need be, such as sallyport.example.com:8443"
        );
    }
    Ok(text)
}

/// TOML strings, numbers and booleans alike.
fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => Ok(Some(text)),
        toml::Value::Integer(number) => Ok(Some(number.to_string())),
        toml::Value::Boolean(flag) => Ok(Some(flag.to_string())),
        _ => Err(D::Error::custom("must be a string, a number or a boolean")),
    }
}

/// A TOML array of strings, or the comma list itself.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => Ok(Some(text)),
        toml::Value::Array(items) => items
            .into_iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| D::Error::custom("must be an array of strings")))
            .collect::<Result<Vec<_>, _>>()
            .map(|items| Some(items.join(","))),
        _ => Err(D::Error::custom("must be an array of strings, or a comma list")),
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    String::deserialize(deserializer).map(|text| Some(SecretString::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(toml: &str) -> String {
        match toml::from_str::<Source>(toml) {
            Ok(source) => Settings::check(source).map(|_| ()).map_err(|e| format!("{e:#}")).unwrap_err(),
            Err(error) => error.message().to_owned(),
        }
    }

    #[test]
    fn errors_name_the_setting() {
        assert!(error("lisen = 'x'").contains("unknown field `lisen`"));
        assert!(error("listen = 'x'").starts_with("listen: 'x' is not an address"));
        assert!(error("public_url = 'https://a.example/'").starts_with("public_url:"));
        assert!(error("limit_global = -1").starts_with("limit_global:"));
        assert!(error("retention_days = 36501").starts_with("retention_days:"));
        assert!(error("audience_policy = 'lax'").starts_with("audience_policy:"));
        assert!(error("bootstrap_token = 'short'").starts_with("bootstrap_token:"));
        assert!(error("tls_cert_file = 'a'").starts_with("tls_cert_file and tls_key_file"));
        assert!(error("database_url = 'mysql://x'").starts_with("database_url:"));
    }

    #[test]
    fn later_sources_win() {
        let file: Source =
            toml::from_str("listen = '127.0.0.1:1'\nlimit_global = 5\ntrusted_proxies = ['10.0.0.0/8']").unwrap();
        let flags = Source { listen: Some("127.0.0.1:2".into()), ..Source::default() };
        let settings = Settings::check(flags.or(file)).unwrap();
        assert_eq!((settings.listen.port(), settings.limit_global, settings.trusted_proxies.len()), (2, 5, 1));
    }
}
