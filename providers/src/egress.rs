//! Where connections of stores may go: a tenant writes the URL, and the operator's network reaches what the tenant's does not.
//!
//! Addresses are judged after the name's resolution, and the connection is made to the very addresses that were judged: a
//! name that means another address a moment later gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use crate::{Error, Result};

/// A host or a range of addresses, as a flag gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A host's name.
    Host(String),
    /// Every host below a domain: `*.example.com`.
    Below(String),
    /// Addresses.
    Net(IpNet),
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim().trim_end_matches('.').to_ascii_lowercase();
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("{text} is no host, no *.domain, no address and no CIDR"));
        }
        Ok(if below { Self::Below(name.to_owned()) } else { Self::Host(name.to_owned()) })
    }
}

impl Rule {
    fn admits(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Host(_) | Self::Below(_) => self.names(host),
            Self::Net(net) => net.contains(&address),
        }
    }

    fn names(&self, host: &str) -> bool {
        match self {
            Self::Host(name) => host == name,
            Self::Below(domain) => host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Self::Net(_) => false,
        }
    }
}

/// Where a host is, as a flag gives it: `HOST=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    host: Rule,
    address: IpAddr,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text} is not HOST=ADDRESS or *.DOMAIN=ADDRESS");
        let (host, address) = text.split_once('=').ok_or_else(wrong)?;
        match (host.parse()?, address.trim().parse()) {
            (host @ (Rule::Host(_) | Rule::Below(_)), Ok(address)) => Ok(Self { host, address }),
            _ => Err(wrong()),
        }
    }
}

/// Where connections of stores may go.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Where hosts are, instead of where the resolver says.
    pub places: Vec<Place>,
    /// What is reached though it is refused by default.
    pub allow: Vec<Rule>,
    /// When it is not empty: nothing else is reached.
    pub only: Vec<Rule>,
}

/// A connection that is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

const NOT_LISTED: &str = "is not in what --egress-only lists";

impl Egress {
    /// The address that a flag gives a host.
    pub fn place(&self, host: &str) -> Option<IpAddr> {
        self.places.iter().find(|place| place.host.admits(host, place.address)).map(|place| place.address)
    }

    /// No limits: for what no tenant gave.
    pub fn everywhere() -> Self {
        Self {
            places: vec![],
            allow: vec![Rule::Net(IpNet::V4(Ipv4Net::default())), Rule::Net(IpNet::V6(Ipv6Net::default()))],
            only: vec![],
        }
    }

    /// Whether a connection to `address`, which is what `host` means, may be made.
    ///
    /// # Errors
    /// [`Refused`] says why not, and which flag would allow it.
    pub fn check(&self, host: &str, address: IpAddr) -> std::result::Result<(), Refused> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = canonical(address);
        let named = |rules: &[Rule]| rules.iter().any(|rule| rule.admits(&host, address));
        if named(&self.only) || named(&self.allow) && self.only.is_empty() {
            return Ok(());
        }
        let what = match special(address) {
            _ if !self.only.is_empty() => NOT_LISTED.to_owned(),
            Some(what) => format!("is {what}, which stores may not reach; --egress-allow can allow it"),
            None => return Ok(()),
        };
        Err(Refused(if host.parse::<IpAddr>().is_ok() { what } else { format!("means {address}, which {what}") }))
    }

    /// Judges a name before a resolver is asked for it: where nothing but names may be reached, the question itself would tell
    /// something to whoever answers for another one.
    ///
    /// # Errors
    /// [`Refused`] says why it is not looked up.
    pub fn check_name(&self, host: &str) -> std::result::Result<(), Refused> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let by_address = self.only.iter().any(|rule| matches!(rule, Rule::Net(_)));
        match self.only.is_empty() || by_address || self.only.iter().any(|rule| rule.names(&host)) {
            true => Ok(()),
            false => Err(Refused(NOT_LISTED.into())),
        }
    }

    /// Judges an address that stands in a URL: no resolver will be asked for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it may not be reached.
    pub fn check_url(&self, field: &str, url: &Url) -> Result<()> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.check(&address.to_string(), address).map_err(|refused| Error::invalid(field, format!("{address} {refused}")))
    }
}

/// The IPv4 address inside of an IPv6 one that only carries it (RFC 4291, RFC 6052, RFC 8215, RFC 3056).
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let carried = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0 | 1, _, _, _, high, low] | [0x2002, high, low, ..] => {
            carried(high, low)
        }
        _ => address,
    }
}

/// What an address is that no store needs and that gives away credentials of machines.
///
/// AWS, GCP, Azure and OpenStack serve metadata at 169.254.169.254, AWS also at fd00:ec2::254 and, for EKS Pod Identity,
/// fd00:ec2::23, GCP at fd20:ce::254, Oracle at fd00:c1::a9fe:a9fe, Scaleway at fd00:42::42;
/// Azure's host agent is 168.63.129.16 and Alibaba's metadata 100.100.100.200 (the providers' documentation).
fn special(address: IpAddr) -> Option<&'static str> {
    const METADATA: [IpAddr; 7] = [
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    ];
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if METADATA.contains(&address) {
        Some("a cloud's metadata address")
    } else if link_local {
        Some("a link-local address (where clouds serve metadata)")
    } else if address.is_unspecified() {
        Some("the unspecified address")
    } else {
        None
    }
}

/// Finds a refusal among the causes of a failed request.
#[cfg(feature = "http")]
pub(crate) fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refused> {
    std::iter::successors(Some(error), |e| e.source()).find_map(|e| e.downcast_ref::<Refused>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|t| t.parse().expect(t)).collect()
    }

    #[test]
    fn where_only_names_are_listed_no_other_is_looked_up() {
        let listed = Egress { only: rules(&["vault.example", "*.aws.example"]), ..Egress::default() };
        for (name, asked) in
            [("vault.example.", true), ("a.AWS.example", true), ("value.evil.example", false), ("aws.example", false)]
        {
            assert_eq!(listed.check_name(name).is_ok(), asked, "{name}");
        }
        // An address can only be judged when it is known, and without the flag anything may be looked up.
        let by_address = Egress { only: rules(&["vault.example", "10.0.0.0/8"]), ..Egress::default() };
        assert!(by_address.check_name("other.example").is_ok() && Egress::default().check_name("other.example").is_ok());
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn metadata_and_link_local_addresses_are_refused_in_every_disguise() {
        let egress = Egress::default();
        for refused in [
            "169.254.169.254",
            "169.254.170.23",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:ec2::23",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "64:ff9b:1::a9fe:a9fe",
            "168.63.129.16",
            "100.100.100.200",
            "0.0.0.0",
            "::",
        ] {
            assert!(egress.check("vault.example.com", address(refused)).is_err(), "{refused}");
        }
        for reached in ["10.0.0.1", "127.0.0.1", "::1", "203.0.113.7", "fd00::1", "100.100.100.201"] {
            assert!(egress.check("vault.example.com", address(reached)).is_ok(), "{reached}");
        }
    }

    #[test]
    fn a_flag_allows_what_is_refused_and_another_allows_nothing_else() {
        let metadata = address("169.254.169.254");
        let allow = Egress { allow: rules(&["169.254.169.0/24"]), ..Egress::default() };
        assert!(allow.check("x", metadata).is_ok());
        assert!(allow.check("x", address("169.254.170.2")).is_err());
        let only = Egress { places: vec![], allow: vec![], only: rules(&["*.vault.azure.net", "vault.corp", "10.1.0.0/16"]) };
        for (host, ip, reached) in [
            ("a.vault.azure.net", "20.1.1.1", true),
            ("A.Vault.Azure.net.", "20.1.1.1", true),
            ("vault.azure.net", "20.1.1.1", false),
            ("evilvault.azure.net", "20.1.1.1", false),
            ("vault.corp", "192.168.0.1", true),
            ("x.vault.corp", "192.168.0.1", false),
            ("x", "10.1.2.3", true),
            ("x", "10.2.2.3", false),
            ("x", "169.254.169.254", false),
        ] {
            assert_eq!(only.check(host, address(ip)).is_ok(), reached, "{host} {ip}");
        }
    }

    #[test]
    fn addresses_in_urls_are_judged_however_they_are_written() {
        for url in ["http://169.254.169.254/x", "http://0xa9fea9fe/", "http://2852039166/", "https://[fe80::1]:8200", "http://0/"]
        {
            let url = Url::parse(url).expect("a URL");
            let error = Egress::default().check_url("spec.provider.vault.server", &url).expect_err(url.as_str()).to_string();
            assert!(error.contains("spec.provider.vault.server") && error.contains("--egress-allow"), "{error}");
        }
        assert!(Egress::default().check_url("f", &Url::parse("http://127.0.0.1:8200").expect("a URL")).is_ok());
    }

    #[test]
    fn rules_are_hosts_domains_addresses_and_ranges() {
        assert_eq!(rules(&["Vault.Example.com."]), [Rule::Host("vault.example.com".into())]);
        assert_eq!(rules(&["10.0.0.1"]), [Rule::Net("10.0.0.1/32".parse().expect("a range"))]);
        for wrong in ["", "*.", "a b", "https://x", "10.0.0.0/99", "*"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_places_a_host_and_nothing_beside_it() {
        let egress = Egress { places: vec!["*.vault.azure.net=10.0.0.7".parse().unwrap()], ..Egress::default() };
        assert_eq!(egress.place("app.vault.azure.net"), Some("10.0.0.7".parse().unwrap()));
        assert_eq!(egress.place("vault.azure.net"), None);
        assert_eq!(egress.place("app.vault.azure.net.evil.example"), None);
        for bad in ["a", "a=b", "10.0.0.0/8=10.0.0.1", "=10.0.0.1"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
