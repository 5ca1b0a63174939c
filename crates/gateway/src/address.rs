//! Where a request really comes from.
//!
//! `Forwarded` (RFC 7239) and `X-Forwarded-For` are written by anyone; they are believed only as far as trusted proxies wrote
//! them: read from the right, the first address that is not a trusted proxy is the client.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, header};
use ipnet::IpNet;

/// The networks whose forwarding headers are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// From parsed CIDRs.
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Whether the peer itself is a trusted proxy: what it says in other headers may be believed too.
    pub fn vouches(&self, extensions: &Extensions) -> bool {
        extensions.get::<ConnectInfo<SocketAddr>>().is_some_and(|peer| self.trusts(peer.0.ip()))
    }

    /// The client's address: the peer's, or what trusted proxies say in front of it. `None` when the peer is unknown, when a
    /// trusted proxy forwarded something that is not an address, or when both headers are there and disagree: most proxies
    /// write one of them and pass the other on as the client sent it.
    pub fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
        if !self.trusts(peer) {
            return Some(peer);
        }
        let forwarded = hops(headers, header::FORWARDED.as_str(), forwarded_for);
        let x_forwarded_for = hops(headers, "x-forwarded-for", |hop| Some(hop.to_owned()));
        match (forwarded.is_empty(), x_forwarded_for.is_empty()) {
            (true, true) => Some(peer),
            (false, true) => self.first_untrusted(peer, forwarded),
            (true, false) => self.first_untrusted(peer, x_forwarded_for),
            (false, false) => {
                let client = self.first_untrusted(peer, forwarded)?;
                (self.first_untrusted(peer, x_forwarded_for)? == client).then_some(client)
            }
        }
    }

    /// Read from the right, the first hop that is not itself a trusted proxy.
    fn first_untrusted(&self, peer: IpAddr, hops: Vec<Option<String>>) -> Option<IpAddr> {
        let mut client = peer;
        for hop in hops.into_iter().rev() {
            client = parse_node(&hop?)?;
            if !self.trusts(client) {
                break;
            }
        }
        Some(client)
    }
}

/// All hops of a header that may be repeated and comma-separated, leftmost first; `None` for one that says no address.
fn hops(headers: &HeaderMap, name: &str, read: impl Fn(&str) -> Option<String>) -> Vec<Option<String>> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("unreadable").split(','))
        .map(|hop| read(hop.trim()))
        .collect()
}

/// The `for=` parameter of one `Forwarded` element.
fn forwarded_for(element: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"').to_owned())
    })
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.split_once(']')).map(|(address, _)| address);
    bracketed
        .and_then(|t| t.parse().ok())
        .or_else(|| text.parse().ok())
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, header: Option<(&'static str, &str)>) -> Option<String> {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        proxies.client(&extensions, &headers).map(|ip| ip.to_string())
    }

    #[test]
    fn strangers_cannot_choose_their_address() {
        let xff = |v| Some(("x-forwarded-for", v));
        assert_eq!(client("203.0.113.9", xff("198.51.100.1")).as_deref(), Some("203.0.113.9"));
        assert_eq!(client("10.0.0.1", xff("198.51.100.1")).as_deref(), Some("198.51.100.1"));
        assert_eq!(client("10.0.0.1", xff("1.1.1.1, 198.51.100.1, 10.0.0.2")).as_deref(), Some("198.51.100.1"));
        assert_eq!(client("::ffff:10.0.0.1", xff("198.51.100.1")).as_deref(), Some("198.51.100.1"));
        assert_eq!(client("10.0.0.1", xff("junk")), None);
        assert_eq!(
            client("10.0.0.1", Some(("forwarded", r#"for="[2001:db8::1]:80";proto=https"#))).as_deref(),
            Some("2001:db8::1")
        );
        assert_eq!(client("10.0.0.1", None).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn a_header_that_the_proxy_passed_on_does_not_override_the_one_it_wrote() {
        let both = |forwarded: &str, x_forwarded_for: &str| {
            let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(SocketAddr::new("10.0.0.1".parse().unwrap(), 1)));
            let mut headers = HeaderMap::new();
            headers.insert("forwarded", forwarded.parse().unwrap());
            headers.insert("x-forwarded-for", x_forwarded_for.parse().unwrap());
            proxies.client(&extensions, &headers).map(|ip| ip.to_string())
        };
        assert_eq!(both("for=203.0.113.7", "198.51.100.1"), None);
        assert_eq!(both("for=198.51.100.1", "198.51.100.1").as_deref(), Some("198.51.100.1"));
    }
}
