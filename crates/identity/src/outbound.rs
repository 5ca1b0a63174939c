//! The one client through which this program reaches the outside: issuers and AWS STS.
//!
//! Every other way to build an HTTP client is banned by lint. This one speaks HTTPS only, follows no redirect, uses no
//! proxy, and connects to no address that is not public, unless the operator listed it: names are resolved once and
//! the checked address is the one connected to, so that a name cannot mean one thing when checked and another when
//! used. Time, size and concurrency are bounded. What a remote says in an error goes nowhere.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, Method};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use url::{Host, Url};

/// How long, how big, how many. [`Default`] is what the server runs with; tests shorten the waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// One request from the first resolution to the last byte, waiting for a place included.
    pub total: Duration,
    /// Establishing a connection.
    pub connect: Duration,
    /// Longest body read, in bytes.
    pub body: usize,
    /// Requests under way to one host and port.
    pub per_host: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: Duration::from_secs(5), connect: Duration::from_secs(3), body: 256 * 1024, per_host: 32 }
    }
}

/// What the operator may change about outbound connections.
#[derive(Clone, Default, Debug)]
pub struct OutboundSettings {
    /// More roots to trust, in PEM (`SALLYPORT_OUTBOUND_CA_FILE`).
    pub ca_pem: Option<Vec<u8>>,
    /// Where to connect for some hosts (`SALLYPORT_OUTBOUND_RESOLVE`).
    pub resolve: Vec<ResolveOverride>,
    /// What may be reached although it is not public (`SALLYPORT_OUTBOUND_ALLOW`).
    pub allow: Vec<AllowRule>,
}

/// Settings that no client can be built from. Written for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// An entry of a comma list: which, and what is wrong with it.
    #[error("'{entry}' {message}")]
    Entry {
        /// The entry as written.
        entry: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The PEM of additional roots.
    #[error("the additional CA certificates cannot be used: {0}")]
    Roots(String),
    /// The TLS or HTTP library refused its configuration.
    #[error("the outbound client cannot be built")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn entry_error(entry: &str, message: impl Into<String>) -> OutboundError {
    OutboundError::Entry { entry: entry.to_owned(), message: message.into() }
}

/// For this host and port, connect there instead; as curl's `--resolve`. TLS still checks the host's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolveOverride {
    /// The host in URLs, in lower case.
    pub host: String,
    /// The port in URLs.
    pub port: u16,
    /// Where to connect.
    pub address: SocketAddr,
}

impl FromStr for ResolveOverride {
    type Err = OutboundError;

    /// Reads `host:port=ip:port`.
    fn from_str(entry: &str) -> Result<Self, OutboundError> {
        let wrong =
            || entry_error(entry, "is not of the form host:port=ip:port, such as ci.example.com:443=10.0.0.7:8443");
        let (from, to) = entry.split_once('=').ok_or_else(wrong)?;
        let (host, port) = host_and_port(from).ok_or_else(wrong)?;
        let address = SocketAddr::from_str(to.trim()).map_err(|_| wrong())?;
        if let Ok(literal) = IpAddr::from_str(host.trim_matches(['[', ']']))
            && literal != address.ip()
        {
            return Err(entry_error(
                entry,
                "gives another address to a host that is an address; name the host instead",
            ));
        }
        Ok(Self { host, port, address })
    }
}

impl ResolveOverride {
    /// Reads the comma list of `SALLYPORT_OUTBOUND_RESOLVE`; blank entries are skipped.
    ///
    /// # Errors
    /// Names the entry.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, OutboundError> {
        entries(list).map(Self::from_str).collect()
    }
}

/// Something that may be reached although it is not public.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllowRule {
    /// Every address in a network. The address of the cloud's metadata service must be listed by itself.
    Network(IpNet),
    /// Wherever this host (in lower case) leads, on this port.
    HostPort(String, u16),
}

impl FromStr for AllowRule {
    type Err = OutboundError;

    /// Reads a CIDR, a bare address, or `host:port`.
    fn from_str(entry: &str) -> Result<Self, OutboundError> {
        if let Ok(address) = IpAddr::from_str(entry) {
            return Ok(Self::Network(IpNet::from(address)));
        }
        if entry.contains('/') {
            let net = IpNet::from_str(entry)
                .map_err(|_| entry_error(entry, "is not a CIDR such as 10.20.0.0/16 or fd00:12::/32"))?;
            if net.addr() != net.network() {
                return Err(entry_error(entry, format!("has host bits set; the network is {}", net.trunc())));
            }
            return Ok(Self::Network(net));
        }
        let (host, port) = host_and_port(entry)
            .ok_or_else(|| entry_error(entry, "is neither a CIDR such as 10.20.0.0/16 nor host:port"))?;
        Ok(Self::HostPort(host, port))
    }
}

impl AllowRule {
    /// Reads the comma list of `SALLYPORT_OUTBOUND_ALLOW`; blank entries are skipped.
    ///
    /// # Errors
    /// Names the entry.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, OutboundError> {
        entries(list).map(Self::from_str).collect()
    }
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// A host as URLs spell it, and a port.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten().filter(|p| *p != 0)?;
    let host = Host::parse(host).ok()?;
    Some((host.to_string(), port))
}

/// An address as a URL names it.
fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Why something could not be fetched, for admins and logs. Holds no word of what the remote said.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// The outbound rules forbid it: which one.
    #[error("the outbound rules forbid it: {0}")]
    Refused(String),
    /// No connection, or it broke: why.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// Another status than 200. Redirects are not followed.
    #[error("it answered with status {0}")]
    Status(u16),
    /// A body beyond the limit.
    #[error("its answer is longer than 256 KiB")]
    TooLarge,
    /// Not finished in time.
    #[error("it did not answer in time")]
    TimedOut,
    /// Too many requests to the same host are waiting for an answer.
    #[error("too many requests to it are under way")]
    Busy,
    /// The body is not the JSON that was wanted: what is wrong with it.
    #[error("its answer {0}")]
    NotJson(String),
}

impl FetchError {
    /// Whether trying again later may help, without anyone changing anything.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut | Self::Busy | Self::Status(408 | 429 | 500..))
    }

    /// A short name for metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timed_out",
            Self::Busy => "busy",
            Self::NotJson(_) => "invalid",
        }
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The HTTP status; always 200 from [`Outbound::get`].
    pub status: u16,
    /// `Content-Type` without parameters, in lower case.
    pub content_type: Option<String>,
    /// The whole body.
    pub body: Vec<u8>,
    /// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1) in seconds; 0 for `no-store` and `no-cache`.
    pub cache_max_age: Option<u64>,
}

/// A request to be sent as it is.
#[derive(Clone)]
pub struct OutboundRequest {
    /// The method.
    pub method: Method,
    /// Where to. `Host` follows from it.
    pub url: Url,
    /// Further headers.
    pub headers: HeaderMap,
    /// The body, sent with its `Content-Length`.
    pub body: Vec<u8>,
}

impl fmt::Debug for OutboundRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and body are a workload's proof of identity.
        f.debug_struct("OutboundRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

/// The guarded client. Cheap to clone.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

struct Inner {
    /// Reaches public addresses and the allowed networks.
    guarded: Client,
    /// Reaches any address: for the listed pairs of host and port.
    listed: Client,
    allow: Allow,
    pinned: HashMap<(String, u16), Pinned>,
    places: Mutex<HashMap<(String, u16), Arc<Semaphore>>>,
    limits: Limits,
}

/// A client that knows one host, at one address; or why that address may not be reached.
struct Pinned {
    client: Result<Client, String>,
    address: SocketAddr,
}

impl Outbound {
    /// Builds the client with the server's limits.
    ///
    /// # Errors
    /// When the additional roots are not certificates, or an override leads to a private address that is not allowed.
    pub fn new(settings: OutboundSettings) -> Result<Self, OutboundError> {
        Self::with_limits(settings, Limits::default())
    }

    /// As [`Self::new`], with other limits.
    ///
    /// # Errors
    /// As there.
    pub fn with_limits(settings: OutboundSettings, limits: Limits) -> Result<Self, OutboundError> {
        let tls = tls_config(settings.ca_pem.as_deref())?;
        let allow = Allow(settings.allow.into());
        let mut pinned = HashMap::new();
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        for ResolveOverride { host, port, address } in settings.resolve {
            let listed = allow.lists(&host, port) || allow.lists(&literal(address.ip()), address.port());
            let client = match allow.check(address.ip()) {
                Err(why) if !listed => {
                    tracing::warn!(host, port, %address, "this override leads to {why}, which SALLYPORT_OUTBOUND_ALLOW does not list: it will be refused");
                    Err(why)
                }
                _ => Ok(client(tls.clone(), limits, Resolver::Pinned { host: host.clone(), address: address.ip() })?),
            };
            pinned.insert((host, port), Pinned { client, address });
        }
        Ok(Self(Arc::new(Inner {
            guarded: client(tls.clone(), limits, Resolver::Checked(Some(allow.clone()), Arc::clone(&lookups)))?,
            listed: client(tls, limits, Resolver::Checked(None, lookups))?,
            allow,
            pinned,
            places: Mutex::default(),
            limits,
        })))
    }

    /// Fetches a document that must be there.
    ///
    /// # Errors
    /// [`FetchError::Status`] for anything but 200, and whatever [`Self::send`] says.
    pub async fn get(&self, url: &Url) -> Result<Fetched, FetchError> {
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("application/json")),
            (USER_AGENT, HeaderValue::from_static(concat!("sallyport/", env!("CARGO_PKG_VERSION")))),
        ]);
        let request = OutboundRequest { method: Method::GET, url: url.clone(), headers, body: Vec::new() };
        let fetched = self.send(request).await?;
        if fetched.status == 200 { Ok(fetched) } else { Err(FetchError::Status(fetched.status)) }
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// When the rules forbid it, or no whole answer of bearable size came in time.
    pub async fn send(&self, request: OutboundRequest) -> Result<Fetched, FetchError> {
        let began = tokio::time::Instant::now();
        let sent = tokio::time::timeout(self.0.limits.total, self.send_within(request))
            .instrument(tracing::debug_span!("outbound", otel.kind = "client"))
            .await
            .unwrap_or(Err(FetchError::TimedOut));
        let outcome = sent.as_ref().err().map_or("answered", FetchError::kind);
        metrics::counter!("sallyport_outbound_requests_total", "outcome" => outcome).increment(1);
        metrics::histogram!("sallyport_outbound_seconds").record(began.elapsed().as_secs_f64());
        sent
    }

    async fn send_within(&self, mut request: OutboundRequest) -> Result<Fetched, FetchError> {
        let (host, port) = self.0.target(&request.url)?;
        let key = (host, port);
        // Held until the body is read: a stuck host fills its own places only.
        let place = self.0.place(&key);
        let _permit = match tokio::time::timeout(self.0.limits.total / 2, place.acquire()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(FetchError::Busy),
        };
        let client = if let Some(pinned) = self.0.pinned.get(&key) {
            let client = pinned
                .client
                .as_ref()
                .map_err(|why| FetchError::Refused(format!("the operator's override of its host leads to {why}")))?;
            // The connector takes the port from the URL, so it goes there; the host that TLS checks stays. `Host` is
            // what the URL said.
            let authority = request.url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
            let authority = HeaderValue::try_from(authority)
                .map_err(|_| FetchError::Refused("the URL's host is not acceptable".into()))?;
            request.headers.insert(HOST, authority);
            request
                .url
                .set_port(Some(pinned.address.port()))
                .map_err(|()| FetchError::Refused("the URL cannot have a port".into()))?;
            client
        } else if self.0.allow.lists(&key.0, key.1) {
            &self.0.listed
        } else {
            &self.0.guarded
        };
        let mut response = client
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .send()
            .await
            .map_err(explain)?;
        let text = |name: HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_ascii_lowercase)
        };
        let content_type =
            text(CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let cache_max_age = text(CACHE_CONTROL).and_then(|value| max_age(&value));
        let status = response.status().as_u16();
        let limit = self.0.limits.body;
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(FetchError::TooLarge);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            if body.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { status, content_type, body, cache_max_age })
    }
}

impl Inner {
    /// Host and port of a URL that may be asked for; literal addresses are checked here, names by the resolver.
    fn target(&self, url: &Url) -> Result<(String, u16), FetchError> {
        if url.scheme() != "https" {
            return Err(FetchError::Refused("only https is spoken".into()));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(FetchError::Refused("the URL names no host".into()));
        };
        let literal = match host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
        };
        let host = host.to_string();
        if let Some(address) = literal
            && !self.allow.lists(&host, port)
        {
            self.allow.check(address).map_err(FetchError::Refused)?;
        }
        Ok((host, port))
    }

    /// The places of one host. Idle ones are forgotten now and then.
    fn place(&self, key: &(String, u16)) -> Arc<Semaphore> {
        const REMEMBERED: usize = 1_024;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED {
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.limits.per_host))).clone()
    }
}

/// What the operator permits beyond public addresses.
#[derive(Clone)]
struct Allow(Arc<[AllowRule]>);

impl Allow {
    fn lists(&self, host: &str, port: u16) -> bool {
        self.0.iter().any(|rule| matches!(rule, AllowRule::HostPort(h, p) if h == host && *p == port))
    }

    /// Whether `address` may be connected to; if not, what it is.
    fn check(&self, address: IpAddr) -> Result<(), String> {
        let Some(class) = not_public(address) else { return Ok(()) };
        let canonical = address.to_canonical();
        let allowed = self.0.iter().any(|rule| match rule {
            AllowRule::Network(net) => {
                (net.contains(&address) || net.contains(&canonical))
                    && (class != METADATA || net.prefix_len() == net.max_prefix_len())
            }
            AllowRule::HostPort(..) => false,
        });
        if allowed { Ok(()) } else { Err(format!("{address}, {class}")) }
    }
}

const METADATA: &str = "the address of a cloud metadata service";

/// What kind of address it is, when it is not a public one (IANA's special-purpose registries). Addresses that carry
/// another one inside are what they carry.
fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = address.octets();
    Some(match (a, b, c, d) {
        // AWS, GCP, Azure and others; then Alibaba, which hides in shared space, and Oracle's old one.
        (169, 254, 169, 254) | (169, 254, 170, 2) | (169, 254, 170, 23) | (100, 100, 100, 200) | (192, 0, 0, 192) => {
            METADATA
        }
        (168, 63, 129, 16) => "an address inside Azure",
        (0, ..) => "an address of this host",
        (127, ..) => "a loopback address",
        (10, ..) | (172, 16..=31, ..) | (192, 168, ..) => "a private address",
        (100, 64..=127, ..) => "a shared address (carrier-grade NAT)",
        (169, 254, ..) => "a link-local address",
        (192, 0, 0, _) => "a protocol assignment",
        (192, 0, 2, _) | (198, 51, 100, _) | (203, 0, 113, _) => "a documentation address",
        (192, 88, 99, _) => "a 6to4 relay",
        (198, 18..=19, ..) => "a benchmarking address",
        (224..=239, ..) => "a multicast address",
        (240.., ..) => "a reserved address",
        _ => return None,
    })
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("an address of this host"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some(METADATA),
        // Only as public as what they carry; and nobody publishes an issuer that way.
        [0, 0, 0, 0, 0, 0xffff, high, low] => {
            Some(not_public_v4(embedded(high, low)).unwrap_or("an IPv4-mapped address"))
        }
        [0, 0, 0, 0, 0, 0, high, low] => {
            Some(not_public_v4(embedded(high, low)).unwrap_or("an IPv4-compatible address"))
        }
        [0, 0, 0, 0, 0xffff, 0, ..] => Some("an IPv4-translated address"),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => not_public_v4(embedded(high, low)),
        [0x64, 0xff9b, ..] => Some("a local translation address (NAT64)"),
        [0x100, 0, 0, 0 | 1, ..] => Some("a discard address"),
        [0x2001, 0, ..] => Some("a Teredo address"),
        [0x2001, 0x2, 0, ..] => Some("a benchmarking address"),
        [0x2001, 0x10..=0x3f, ..] => Some("an ORCHID"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("a documentation address"),
        [0x2001, 0..=0x1ff, ..] => Some("a protocol assignment"),
        [0x2002, ..] => Some("a 6to4 address"),
        [0x5f00, ..] => Some("a segment routing address"),
        [0xfc00..=0xfdff, ..] => Some("a unique local address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfec0..=0xfeff, ..] => Some("a site-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        // Global unicast is 2000::/3; nothing outside it is assigned to anyone.
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

/// Look-ups of names at a time. Each may hold a thread of the runtime's blocking pool for longer than anyone waits.
const LOOKUPS: usize = 64;

/// How a client finds addresses. What it returns is what gets connected to.
enum Resolver {
    /// The system's resolver, through these rules if any, with so many look-ups at a time.
    Checked(Option<Allow>, Arc<Semaphore>),
    /// One host only, always there.
    Pinned { host: String, address: IpAddr },
}

/// A name led only where the rules forbid to go.
#[derive(Debug)]
struct ForbiddenAddress(String);

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ForbiddenAddress {}

/// The name is unknown to the resolver.
#[derive(Debug)]
struct UnknownName;

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its name does not resolve")
    }
}

impl std::error::Error for UnknownName {}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        match self {
            Self::Pinned { host, address } => {
                let found = if name.as_str().eq_ignore_ascii_case(host) {
                    Ok(Box::new(std::iter::once(SocketAddr::new(*address, 0))) as Addrs)
                } else {
                    Err(UnknownName.into())
                };
                Box::pin(std::future::ready(found))
            }
            Self::Checked(allow, lookups) => {
                let allow = allow.clone();
                let lookups = Arc::clone(lookups);
                Box::pin(async move {
                    // The system's resolver blocks a thread for as long as it likes, whether or not anyone still waits. The
                    // permit stays with the thread, so that names that lead nowhere cannot take all of them.
                    let permit = lookups.acquire_owned().await.map_err(|_| UnknownName)?;
                    let lookup = tokio::spawn(async move {
                        let found = tokio::net::lookup_host((name.as_str(), 0)).await.map(Iterator::collect);
                        drop(permit);
                        found
                    });
                    let all: Vec<SocketAddr> = lookup.await.map_err(|_| UnknownName)?.map_err(|_| UnknownName)?;
                    let Some(allow) = allow else { return Ok(Box::new(all.into_iter()) as Addrs) };
                    let mut forbidden = None;
                    let mut good = Vec::with_capacity(all.len());
                    for address in all {
                        match allow.check(address.ip()) {
                            Ok(()) => good.push(address),
                            Err(why) => forbidden = Some(why),
                        }
                    }
                    match (good.is_empty(), forbidden) {
                        (false, _) => Ok(Box::new(good.into_iter()) as Addrs),
                        (true, Some(why)) => Err(ForbiddenAddress(format!("its name leads to {why}")).into()),
                        (true, None) => Err(UnknownName.into()),
                    }
                })
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that builds an outbound client")]
fn client(tls: rustls::ClientConfig, limits: Limits, resolver: Resolver) -> Result<Client, OutboundError> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        // A pinned host's `Host` differs from the URL's authority, which HTTP/2 would send instead.
        .http1_only()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .connect_timeout(limits.connect)
        .timeout(limits.total)
        .pool_max_idle_per_host(8)
        .pool_idle_timeout(Duration::from_secs(60))
        .dns_resolver(Arc::new(resolver))
        .build()
        .map_err(|error| OutboundError::Client(Box::new(error)))
}

/// TLS 1.2 and 1.3 by aws-lc-rs, whatever the process's default provider is. Trusts the machine's roots and `ca_pem`;
/// a machine without roots trusts only the latter.
fn tls_config(ca_pem: Option<&[u8]>) -> Result<rustls::ClientConfig, OutboundError> {
    let mut roots = rustls::RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (_, ignored) = roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::warn!(ignored, "this machine has no root certificates: only additional ones are trusted");
    }
    if let Some(pem) = ca_pem {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| OutboundError::Roots(error.to_string()))?;
            roots.add(certificate).map_err(|error| OutboundError::Roots(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(OutboundError::Roots("the file holds no PEM certificate".into()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OutboundError::Client(Box::new(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Says what went wrong in words of our own: the library's would repeat URLs and the remote's words.
fn explain(error: reqwest::Error) -> FetchError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(ForbiddenAddress(why)) = inner.downcast_ref() {
            return FetchError::Refused(why.clone());
        }
        if inner.is::<UnknownName>() {
            return FetchError::Unreachable(UnknownName.to_string());
        }
        if let Some(tls) = tls_error(inner) {
            return FetchError::Unreachable(explain_tls(tls));
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        FetchError::TimedOut
    } else if error.is_connect() {
        FetchError::Unreachable("no connection could be made".into())
    } else {
        FetchError::Unreachable("the connection broke".into())
    }
}

/// The TLS error that `error` is, or wraps in any number of `io::Error`s, whose own `source` skips what they wrap.
fn tls_error<'e>(mut error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    while let Some(io) = error.downcast_ref::<std::io::Error>() {
        error = io.get_ref()?;
    }
    error.downcast_ref()
}

fn explain_tls(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    let rustls::Error::InvalidCertificate(error) = error else {
        return "the TLS handshake failed".into();
    };
    match error {
        C::UnknownIssuer => "its TLS certificate is not from a trusted authority (see SALLYPORT_OUTBOUND_CA_FILE)",
        C::Expired | C::ExpiredContext { .. } => "its TLS certificate has expired",
        C::NotValidYet | C::NotValidYetContext { .. } => "its TLS certificate is not valid yet",
        C::NotValidForName | C::NotValidForNameContext { .. } => "its TLS certificate is for another host",
        C::Revoked => "its TLS certificate was revoked",
        _ => "its TLS certificate is not acceptable",
    }
    .into()
}

fn max_age(cache_control: &str) -> Option<u64> {
    let mut found = None;
    for directive in cache_control.split(',').map(str::trim) {
        if matches!(directive, "no-store" | "no-cache") {
            return Some(0);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            found = found.or_else(|| seconds.trim_matches('"').parse().ok());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_in_every_disguise() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(not_public(bad.parse().unwrap()).is_some(), "{bad}");
        }
        for good in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(not_public(good.parse().unwrap()), None, "{good}");
        }
    }

    #[test]
    fn a_listed_network_opens_itself_but_never_the_metadata_service() {
        let allow = |list: &str| Allow(AllowRule::parse_list(list).unwrap().into());
        let may = |list: &str, address: &str| allow(list).check(address.parse().unwrap()).is_ok();
        assert!(may("10.1.0.0/16", "10.1.2.3"));
        assert!(may("10.1.0.0/16", "::ffff:10.1.2.3"));
        assert!(!may("10.1.0.0/16", "10.2.0.1"));
        assert!(may("fd12::/16", "fd12::1"));
        assert!(!may("0.0.0.0/0", "169.254.169.254"));
        assert!(!may("fd00::/8", "fd00:ec2::254"));
        assert!(may("169.254.169.254", "169.254.169.254"));
        assert!(!may("localhost:443", "127.0.0.1"));
        assert!(allow("LocalHost:8443").lists("localhost", 8443));
        assert!(!allow("localhost:8443").lists("localhost", 443));
    }

    #[test]
    fn lists_name_the_entry_that_is_wrong() {
        let resolve = ResolveOverride::parse_list(" ci.example:443=127.0.0.1:9000, [::1]:1=[::1]:2 ,").unwrap();
        assert_eq!(resolve[0].host, "ci.example");
        assert_eq!(resolve[0].address, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(resolve[1].host, "[::1]");
        for bad in [
            "ci.example=1.2.3.4:1",
            "ci.example:0=1.2.3.4:1",
            "a:1=b:2",
            "a:1",
            "a b:1=1.2.3.4:1",
            "1.2.3.4:1=1.2.3.5:1",
            "a:+1=1.2.3.4:1",
        ] {
            let error = ResolveOverride::parse_list(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
        for bad in ["10.0.0.1/8", "10.0.0.0/33", "nonsense", "host:", "host:99999", "x/y"] {
            let error = AllowRule::parse_list(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[tokio::test]
    async fn an_override_to_a_private_address_is_refused_unless_listed() {
        let asked = async |allow: &str| {
            let outbound = Outbound::new(OutboundSettings {
                ca_pem: None,
                resolve: ResolveOverride::parse_list("ci.example:443=127.0.0.1:9").unwrap(),
                allow: AllowRule::parse_list(allow).unwrap(),
            });
            outbound.unwrap().get(&Url::parse("https://ci.example/").unwrap()).await.unwrap_err()
        };
        for unlisted in ["", "10.0.0.0/8,ci.example:444", "127.0.0.1:10"] {
            assert!(
                matches!(asked(unlisted).await, FetchError::Refused(why) if why.contains("loopback")),
                "{unlisted}"
            );
        }
        for listed in ["127.0.0.0/8", "ci.example:443", "127.0.0.1:9"] {
            assert!(matches!(asked(listed).await, FetchError::Unreachable(_)), "{listed}");
        }
    }

    #[tokio::test]
    async fn literal_addresses_and_other_schemes_are_refused_before_anything_is_sent() {
        let outbound = Outbound::new(OutboundSettings::default()).unwrap();
        for bad in [
            "http://example.com/",
            "ftp://example.com/",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[fd00:ec2::254]/",
        ] {
            let result = outbound.get(&Url::parse(bad).unwrap()).await;
            assert!(matches!(result, Err(FetchError::Refused(_))), "{bad}: {result:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused() {
        let outbound = Outbound::new(OutboundSettings::default()).unwrap();
        let result = outbound.get(&Url::parse("https://localhost:1/").unwrap()).await;
        assert!(matches!(&result, Err(FetchError::Refused(why)) if why.contains("loopback")), "{result:?}");
    }

    #[test]
    fn cache_control_is_read_leniently() {
        assert_eq!(max_age("public, max-age=300, must-revalidate"), Some(300));
        assert_eq!(max_age("max-age=\"60\""), Some(60));
        assert_eq!(max_age("max-age=3600, no-cache"), Some(0));
        assert_eq!(max_age("max-age=-1"), None);
        assert_eq!(max_age("public"), None);
    }
}
