//! Subnets of IPv4 and IPv6: the little arithmetic that networks, addresses and leases need.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use bocker_pipe::{Error, Id, Kind, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many bits an address of each family has.
const V4_BITS: u8 = 32;
const V6_BITS: u8 = 128;

/// A subnet such as `10.0.0.0/16` or `fd00:1::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subnet {
    network: IpAddr,
    prefix: u8,
}

/// The number that an address is, whatever its family.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Subnet {
    /// The subnet that holds this address. A prefix longer than an address counts as one as long.
    pub(crate) fn of(address: impl Into<IpAddr>, prefix: u8) -> Subnet {
        let address = address.into();
        let subnet = Subnet {
            network: address,
            prefix: prefix.min(width(address)),
        };
        Subnet {
            network: subnet.with_bits(bits(address) & !subnet.host_mask()),
            ..subnet
        }
    }

    /// An IPv4 subnet that is known when this is compiled: the address is its network.
    pub(crate) const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Subnet {
        Subnet {
            network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            prefix,
        }
    }

    /// The same for IPv6.
    pub(crate) const fn v6(first: u16, prefix: u8) -> Subnet {
        Subnet {
            network: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)),
            prefix,
        }
    }

    /// An address of the same family. Bits beyond its width are cut off.
    fn with_bits(self, bits: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// One bit for each place in which its addresses differ.
    fn host_mask(self) -> u128 {
        let host_bits = width(self.network) - self.prefix;
        1u128
            .checked_shl(host_bits.into())
            .map_or(u128::MAX, |size| size - 1)
    }

    /// Its first address, which means the network itself.
    pub(crate) fn network(self) -> IpAddr {
        self.network
    }

    /// Length of the network part in bits.
    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is one of IPv4.
    pub(crate) fn is_ipv4(self) -> bool {
        self.network.is_ipv4()
    }

    /// Its first address for a host, which we give to the bridge.
    pub(crate) fn gateway(self) -> IpAddr {
        self.with_bits(bits(self.network) | 1)
    }

    /// Its last address; in IPv4 it means all of its hosts (RFC 1122, 3.2.1.3).
    pub(crate) fn last(self) -> IpAddr {
        self.with_bits(bits(self.network) | self.host_mask())
    }

    /// Whether the address is one of it.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        Subnet::of(address, self.prefix) == self
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Whether no host can have this address of it: it means the network, or in IPv4 all of its hosts.
    pub(crate) fn reserves(self, address: IpAddr) -> bool {
        address == self.network || self.is_ipv4() && address == self.last()
    }

    /// Its address with this number, counted from its first. `None` beyond its end.
    pub(crate) fn nth(self, number: u128) -> Option<IpAddr> {
        (number <= self.host_mask()).then(|| self.with_bits(bits(self.network) + number))
    }

    /// The place of an address of it, the reverse of [`Subnet::nth`].
    pub(crate) fn place(self, address: IpAddr) -> u128 {
        bits(address) & self.host_mask()
    }

    /// The number of the last address.
    pub(crate) fn last_place(self) -> u128 {
        self.host_mask()
    }

    /// The place that an id picks among the first 65,536: the same container gets the same address again unless another has
    /// taken it, and no counter has to be kept.
    pub(crate) fn place_of(self, id: &Id) -> u128 {
        let places = self.host_mask().min(u16::MAX.into()) + 1;
        u128::from(hash(id.as_str())) % places
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => V4_BITS,
        IpAddr::V6(_) => V6_BITS,
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Takes `ADDRESS/LENGTH`, the address being the network's. Fails with [`Kind::Invalid`].
    fn from_str(text: &str) -> Result<Subnet> {
        let refuse = |hint: String| {
            Err(Error::new(Kind::Invalid, format!("'{text}' is no subnet")).hint(hint))
        };
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix: u8 = prefix.parse().ok().filter(|_| is_number)?;
            Some((address.parse::<IpAddr>().ok()?, prefix))
        });
        match parsed {
            Some((address, prefix)) if prefix <= width(address) => {
                let subnet = Subnet::of(address, prefix);
                match subnet.network == address {
                    true => Ok(subnet),
                    false => refuse(format!("its first address is meant: {subnet}")),
                }
            }
            _ => refuse("give ADDRESS/LENGTH, such as 10.1.0.0/24 or fd00:1::/64".into()),
        }
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Subnet, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// FNV-1a, 32 bits: spreads ids evenly and stays the same over releases, unlike the standard library's.
pub(crate) fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The same with 64 bits, for what must not meet by chance.
fn long_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A unique local subnet of IPv6 (RFC 4193) for the network with this id: `fd`, 40 bits that nobody else is likely to have, and 16 more.
pub(crate) fn unique_local(id: &Id) -> Subnet {
    const FD: u64 = 0xfd << 56;
    const BELOW_FD: u64 = (1 << 56) - 1;
    let network = u128::from(FD | long_hash(id.as_str()) & BELOW_FD) << 64;
    Subnet::of(Ipv6Addr::from_bits(network), 64)
}

/// A locally administered unicast MAC made from an address, as Docker makes them: `02:42` and the four octets.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// The same for the other end of its cable, which differs in the first octet: `06:42`.
pub(crate) fn host_mac(address: Ipv4Addr) -> [u8; 6] {
    let [_, rest @ ..] = mac(address);
    let mut mac = [0x06; 6];
    mac[1..].copy_from_slice(&rest);
    mac
}

/// `02:42:0a:00:00:02`.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// The reverse. Fails with [`Kind::Invalid`] on what one interface cannot have: a group's address, or none but zeros.
pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    /// The bit of the first octet that marks a group (IEEE 802, I/G).
    const GROUP: u8 = 1;
    let octet = |part: &str| match part.len() {
        2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let octets: Option<Vec<u8>> = text.split([':', '-']).map(octet).collect();
    match octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok()) {
        Some(mac) if mac[0] & GROUP == 0 && mac != [0; 6] => Ok(mac),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("'{text}' is no address of one interface"),
        )
        .hint("give six octets, such as 02:42:0a:00:00:07, the first of them even")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_overlap_when_one_holds_the_other() {
        assert!(subnet("10.0.0.0/16").overlaps(subnet("10.0.3.0/24")));
        assert!(subnet("10.0.3.7/32").overlaps(subnet("10.0.0.0/16")));
        assert!(subnet("0.0.0.0/0").overlaps(subnet("10.0.0.0/16")));
        assert!(!subnet("10.0.0.0/16").overlaps(subnet("10.1.0.0/16")));
        assert!(subnet("fd00::/8").overlaps(subnet("fd00:1::/64")));
        assert!(!subnet("::/0").overlaps(subnet("0.0.0.0/0")));
    }

    #[test]
    fn first_last_and_numbered_addresses_are_those_of_ipcalc() {
        let of = |text: &str| {
            let subnet = subnet(text);
            (subnet.gateway(), subnet.last())
        };
        assert_eq!(of("10.1.0.0/16"), (ip("10.1.0.1"), ip("10.1.255.255")));
        assert_eq!(of("fd00:1::/64").1, ip("fd00:1::ffff:ffff:ffff:ffff"));
        assert_eq!(of("::/0").1, ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(subnet("10.1.0.0/24").nth(7), Some(ip("10.1.0.7")));
        assert_eq!(subnet("10.1.0.0/24").nth(256), None);
        assert_eq!(subnet("10.1.0.0/24").place(ip("10.1.0.7")), 7);
    }

    #[test]
    fn what_is_no_subnet_is_refused_with_what_it_could_be() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "fd00::/129",
            "a/8",
            "/8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(
                text.parse::<Subnet>().unwrap_err().kind(),
                &Kind::Invalid,
                "{text}"
            );
        }
        let error = "10.1.2.3/16".parse::<Subnet>().unwrap_err();
        assert!(error.hint_text().unwrap().contains("10.1.0.0/16"));
    }

    #[test]
    fn the_253_ids_of_the_original_get_253_addresses() {
        // The original deleted every 0 from the last digits of the id: 253 ids shared 211 addresses, and two had the gateway's.
        let first = |number: u32| {
            let id = Id::parse(&format!("ps_0{number}")).unwrap();
            subnet("10.0.0.0/8").place_of(&id)
        };
        let places: HashSet<_> = (42002..=42254).map(first).collect();
        assert_eq!(places.len(), 253);
        assert!(!places.contains(&1));
    }

    #[test]
    fn each_network_has_an_ipv6_subnet_of_its_own() {
        let of = |text: &str| unique_local(&Id::parse(text).unwrap());
        assert!(subnet("fd00::/8").contains(of("net_abc123").network()));
        assert_ne!(of("net_abc123"), of("net_abc124"));
        assert_eq!(of("net_abc123"), of("net_abc123"));
    }

    #[test]
    fn a_mac_is_six_octets_in_hexadecimal() {
        // The original wrote 02:42:ac:11:000:32, which is none.
        let made = mac(Ipv4Addr::new(10, 0, 0, 32));
        assert_eq!(mac_text(&made), "02:42:0a:00:00:20");
        assert_eq!(parse_mac("02:42:0a:00:00:20").unwrap(), made);
        for text in [
            "02:42:ac:11:000:32",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:42:0a:00:00",
            "",
            "0242.0a00.0020",
        ] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fail_otherwise_than_by_an_error(text in "[0-9a-f:./]{0,40}") {
            let _ = text.parse::<Subnet>();
        }

        #[test]
        fn a_subnet_holds_its_first_and_last_address_and_is_shown_as_it_is_read(bits: u128, four: bool, prefix in 0u8..=128) {
            let address: IpAddr = match four {
                true => Ipv4Addr::from_bits(bits as u32).into(),
                false => Ipv6Addr::from_bits(bits).into(),
            };
            let of = Subnet::of(address, prefix);
            prop_assert!([address, of.network(), of.last()].iter().all(|one| of.contains(*one)));
            prop_assert_eq!(of.to_string().parse::<Subnet>().unwrap(), of);
            prop_assert_eq!(of.nth(of.place(address)), Some(address));
        }
    }
}
