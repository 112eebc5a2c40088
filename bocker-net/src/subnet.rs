//! IPv4 subnets: the little arithmetic that addresses and leases need.

use std::fmt;
use std::net::Ipv4Addr;

use bocker_pipe::Id;

/// A subnet such as `10.0.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// The subnet that holds this address. A prefix above 32 counts as 32.
    pub(crate) const fn of(address: Ipv4Addr, prefix: u8) -> Subnet {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Subnet {
            network: address.to_bits() & mask(prefix),
            prefix,
        }
    }

    /// Its first address, which means the network itself.
    pub(crate) fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// Length of the network part in bits.
    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its first address for a host, which we give to the bridge.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.saturating_add(1))
    }

    /// Its last address, which means all of its hosts (RFC 1122, 3.2.1.3).
    pub(crate) fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !mask(self.prefix))
    }

    /// Its last address.
    pub(crate) fn last(self) -> Ipv4Addr {
        self.broadcast()
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(self, other: Subnet) -> bool {
        let mask = mask(self.prefix.min(other.prefix));
        self.network & mask == other.network & mask
    }

    /// All addresses for hosts, each once, beginning at the place that the id picks: the same container gets the same
    /// address again unless another has taken it, and no counter has to be kept.
    pub(crate) fn hosts_from(self, id: &Id) -> impl Iterator<Item = Ipv4Addr> {
        let size = 1u64 << (32 - self.prefix);
        // The first is the network's own, the last is the broadcast address.
        let hosts = size.saturating_sub(2);
        let start = if hosts == 0 {
            0
        } else {
            u64::from(hash(id.as_str())) % hosts
        };
        (0..hosts).map(move |step| {
            let offset = 1 + (start + step) % hosts;
            // The offset is below the subnet's size, so the sum stays within 32 bits.
            Ipv4Addr::from_bits((u64::from(self.network) + offset) as u32)
        })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 {
        0
    } else {
        u32::MAX << (32 - prefix)
    }
}

/// FNV-1a, 32 bits: spreads ids evenly and stays the same over releases, unlike the standard library's.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn subnet(text: &str) -> Subnet {
        let (address, prefix) = text.split_once('/').unwrap();
        Subnet::of(address.parse().unwrap(), prefix.parse().unwrap())
    }

    #[test]
    fn subnets_overlap_when_one_holds_the_other() {
        assert!(subnet("10.0.0.0/16").overlaps(subnet("10.0.3.0/24")));
        assert!(subnet("10.0.3.7/32").overlaps(subnet("10.0.0.0/16")));
        assert!(subnet("0.0.0.0/0").overlaps(subnet("10.0.0.0/16")));
        assert!(!subnet("10.0.0.0/16").overlaps(subnet("10.1.0.0/16")));
    }

    #[test]
    fn every_host_address_comes_once_and_network_and_broadcast_never() {
        let id = Id::placeholder();
        let hosts: Vec<_> = subnet("192.168.7.0/24").hosts_from(&id).collect();
        assert_eq!(hosts.len(), 254);
        assert_eq!(hosts.iter().collect::<HashSet<_>>().len(), 254);
        assert!(!hosts.contains(&Ipv4Addr::new(192, 168, 7, 0)));
        assert!(!hosts.contains(&Ipv4Addr::new(192, 168, 7, 255)));
        assert_eq!(subnet("10.0.0.1/32").hosts_from(&id).count(), 0);
        assert_eq!(
            subnet("0.0.0.0/0").hosts_from(&id).next(),
            subnet("0.0.0.0/0").hosts_from(&id).next()
        );
    }

    #[test]
    fn the_253_ids_of_the_original_get_253_addresses() {
        // The original deleted every 0 from the last digits of the id: 253 ids shared 211 addresses, and two had the gateway's.
        let first = |number: u32| {
            let id = Id::parse(&format!("ps_0{number}")).unwrap();
            subnet("10.0.0.0/8").hosts_from(&id).next().unwrap()
        };
        let addresses: HashSet<_> = (42002..=42254).map(first).collect();
        assert_eq!(addresses.len(), 253);
        assert!(!addresses.contains(&Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn a_mac_is_six_octets_in_hexadecimal() {
        // The original wrote 02:42:ac:11:000:32, which is none.
        assert_eq!(
            mac_text(&mac(Ipv4Addr::new(10, 0, 0, 32))),
            "02:42:0a:00:00:20"
        );
    }
}
