//! Source addresses: which networks a trust accepts an exchange from.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// The parsed source CIDRs of a trust. Empty means any address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceCidrs(Box<[IpNet]>);

impl SourceCidrs {
    /// Parses each entry: a CIDR, or a bare address meaning itself alone.
    /// On failure: the index of the entry, and what is wrong with it.
    pub fn parse(cidrs: &[String]) -> Result<Self, (usize, String)> {
        cidrs
            .iter()
            .enumerate()
            .map(|(index, text)| parse_one(text).map_err(|message| (index, message)))
            .collect::<Result<Box<[_]>, _>>()
            .map(Self)
    }

    /// Whether there is no restriction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` lies in one of the networks. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// Longest CIDR in bytes: IPv6 with an IPv4 tail, a slash and three digits.
const LENGTH_MAX: usize = 49;

fn parse_one(text: &str) -> Result<IpNet, String> {
    if text.len() > LENGTH_MAX {
        return Err(format!("is {} bytes long; no CIDR is longer than {LENGTH_MAX}", text.len()));
    }
    let net = IpNet::from_str(text)
        .or_else(|_| IpAddr::from_str(text).map(IpNet::from))
        .map_err(|_| format!("'{text}' is not a CIDR such as 203.0.113.0/24 or 2001:db8::/32"))?;
    if net.addr() != net.network() {
        return Err(format!("'{text}' has host bits set; the network is {}", net.trunc()));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_addresses_mapped_addresses_and_host_bits() {
        let nets = SourceCidrs::parse(&["203.0.113.7".into(), "2001:db8::/32".into()]).unwrap();
        assert!(nets.contains("::ffff:203.0.113.7".parse().unwrap()));
        assert!(!nets.contains("203.0.113.8".parse().unwrap()));
        assert!(nets.contains("2001:db8::1".parse().unwrap()));
        assert_eq!(
            SourceCidrs::parse(&["10.0.0.1/8".into()]).unwrap_err().1,
            "'10.0.0.1/8' has host bits set; the network is 10.0.0.0/8"
        );
        assert!(SourceCidrs::parse(&["ten".into()]).is_err());
        assert_eq!(
            SourceCidrs::parse(&["1".repeat(500)]).unwrap_err().1,
            "is 500 bytes long; no CIDR is longer than 49"
        );
    }
}
