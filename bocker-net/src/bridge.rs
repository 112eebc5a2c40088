//! The bridge of a network on this machine: found, planned, made, removed. One that somebody else has made is never used, but
//! for `bridge0`, which is used as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bocker_pipe::step::quote;
use bocker_pipe::{Error, Kind, Result};
use nix::errno::Errno;

use crate::BRIDGE;
use crate::firewall::BridgeRules;
use crate::network::{Network, Range};
use crate::route::{Link, Route};
use crate::subnet::{Subnet, mac, mac_text};
use crate::sysctl;

/// The bridge's own address on its link, as docker's: without one the host asks for no neighbour's hardware address on behalf
/// of packets that it forwards (RFC 4861, 7.2.2), and what comes from outside finds no container.
const LINK_LOCAL: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)), 64);
/// The alias of a bridge that we made (`ip link show`).
const ALIAS: &str = "made by bocker-net";
/// What the default network's subnet is chosen from: the original's, Podman's, and one that Docker does not begin with.
const CANDIDATES: [Subnet; 3] = [
    Subnet::v4(10, 0, 0, 0, 16),
    Subnet::v4(10, 88, 0, 0, 16),
    Subnet::v4(172, 30, 0, 0, 16),
];
/// What those of other networks are chosen from: a part of each private range (RFC 1918).
const POOLS: [Subnet; 3] = [
    Subnet::v4(10, 128, 0, 0, 9),
    Subnet::v4(172, 24, 0, 0, 13),
    Subnet::v4(192, 168, 128, 0, 17),
];
/// The smallest that holds as many containers as a bridge has ports.
const POOL_PREFIX: u8 = 21;
/// How many ports a bridge has (net/bridge/br_private.h: BR_MAX_PORTS, of which the first is not used).
pub(crate) const PORTS: usize = 1023;

/// A route to more than this is a default route by another name: VPNs lead everything away in two halves (openvpn(8),
/// --redirect-gateway def1).
const SMALLEST_PREFIX: u8 = 8;
/// The same for IPv6, where the internet is 2000::/3.
const SMALLEST_PREFIX_IPV6: u8 = 4;

/// An address of the host: index of the interface, address, length of the prefix.
pub(crate) type HostAddress = (u32, IpAddr, u8);

/// The bridge of a network, found or planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) network: Network,
    /// The network's subnets, as the firewall asks for them; none on a bridge of the user's, where others are too.
    subnets: Vec<Subnet>,
    /// Zero as long as it is only planned.
    pub(crate) index: u32,
    /// Whether we made it, or will.
    pub(crate) ours: bool,
    /// Whether it has all that we give it.
    pub(crate) complete: bool,
}

impl Bridge {
    /// Finds the network's bridge, or plans it. Fails when it cannot be: another's interface has its name, or what the
    /// host has come to use since overlaps a subnet that we chose.
    pub(crate) fn look(route: &mut Route, network: Network) -> Result<Bridge> {
        match route.link(&network.bridge)? {
            Some(link) => found(&link, &route.addresses_of(link.index)?, network),
            None => planned(route, network),
        }
    }

    /// That of a network that has none now.
    pub(crate) fn gone(network: Network) -> Bridge {
        Bridge {
            subnets: subnets(&network),
            network,
            index: 0,
            ours: true,
            complete: false,
        }
    }

    /// Its subnets are not for our table to know: nothing that leaves them is masqueraded.
    pub(crate) fn is_left_alone(&mut self) {
        self.subnets.clear();
    }

    /// As our table knows it.
    pub(crate) fn rules(&self) -> BridgeRules<'_> {
        BridgeRules {
            name: &self.network.bridge,
            subnets: &self.subnets,
            internal: self.network.internal,
            isolated: self.network.isolated,
        }
    }

    /// Its IPv4 address, by which its MAC is made.
    fn address(&self) -> Ipv4Addr {
        match self.network.ipv4().map(|range| range.gateway) {
            Some(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Makes it, or completes one of ours whose making was killed. On failure nothing new is left.
    pub(crate) fn make(&mut self, route: &mut Route) -> Result<()> {
        let name = self.network.bridge.clone();
        let made = match route.add_bridge(&name, mac(self.address()), self.network.mtu) {
            Ok(()) => true,
            Err(refusal) if refusal.errno == Errno::EEXIST && self.index != 0 => false,
            Err(refusal) => {
                return Err(unsupported(
                    refusal.error(&format!("make the bridge {name}")),
                ));
            }
        };
        let result = self.complete(route);
        if result.is_err() && made {
            route.delete_link(&name)?;
        }
        result
    }

    fn complete(&mut self, route: &mut Route) -> Result<()> {
        let name = &self.network.bridge;
        let on = |what: &str| format!("{what} the bridge {name}");
        route
            .set_alias(name, ALIAS)
            .map_err(|refusal| refusal.error(&on("mark")))?;
        for (switch, value) in self.switches() {
            sysctl::set_own(&switch, value)?;
        }
        if self.network.ipv6().is_some() {
            route
                .without_own_ipv6(name)
                .map_err(|refusal| refusal.error(&on("prepare")))?;
        }
        let link = route
            .link(name)?
            .ok_or_else(|| Error::system(&on("find"), Errno::ENODEV))?;
        for (address, prefix) in self.addresses() {
            match route.add_address(link.index, address, prefix) {
                Err(refusal) if refusal.errno == Errno::EEXIST => {}
                result => result.map_err(|refusal| refusal.error(&on("give an address to")))?,
            }
        }
        route
            .set_up(name)
            .map_err(|refusal| refusal.error(&on("bring up")))?;
        self.index = link.index;
        self.complete = true;
        Ok(())
    }

    /// Switches of the bridge itself, which go with it. An IPv6 address that the kernel gives by itself would be a way around
    /// the firewall, and a router that a container plays is none that the host is to follow.
    fn switches(&self) -> Vec<(String, &'static str)> {
        let name = &self.network.bridge;
        match self.network.ipv6() {
            None => vec![(sysctl::disable_ipv6(name), "1")],
            Some(_) => vec![
                (sysctl::disable_ipv6(name), "0"),
                (sysctl::accept_ra(name), "0"),
            ],
        }
    }

    /// What it is given, the gateways last: by them it is known to be complete.
    fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let link_local = self.network.ipv6().map(|_| LINK_LOCAL);
        let gateways = self.network.subnets.iter();
        let gateways = gateways.map(|range| (range.gateway, range.subnet.prefix()));
        link_local.into_iter().chain(gateways).collect()
    }

    /// The commands that make it.
    pub(crate) fn commands(&self) -> Vec<String> {
        let name = &self.network.bridge;
        let mtu = match self.network.mtu {
            Some(mtu) => format!(" mtu {mtu}"),
            None => String::new(),
        };
        let mac = mac_text(&mac(self.address()));
        let mut lines = vec![
            format!("ip link add {name} address {mac}{mtu} type bridge mcast_snooping 0"),
            format!("ip link set {name} alias {}", quote(ALIAS)),
        ];
        let switches = self.switches().into_iter();
        lines.extend(switches.map(|(switch, value)| format!("sysctl -w {switch}={value}")));
        if self.network.ipv6().is_some() {
            lines.push(format!("ip link set {name} addrgenmode none"));
        }
        let addresses = self.addresses().into_iter();
        lines.extend(addresses.map(|(address, prefix)| {
            let how = address_flags(address);
            format!("ip address add {address}/{prefix} {how} dev {name}")
        }));
        lines.push(format!("ip link set {name} up"));
        lines
    }
}

/// How ip-address(8) is told what [`Route::add_address`] does: nobody waits whether another has the address, we hand them out.
pub(crate) fn address_flags(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "broadcast +",
        IpAddr::V6(_) => "nodad",
    }
}

fn unsupported(error: Error) -> Error {
    if error.is(Errno::EOPNOTSUPP) {
        return error
            .hint("load the kernel's module with 'modprobe bridge', or use --network none");
    }
    error
}

/// Whether we have made this interface: our bridges say so.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.bridge && link.alias.as_deref() == Some(ALIAS)
}

/// An interface of the bridge's name is there: ours, perhaps half made; the user's `bridge0`, which is used as it is; or another's.
fn found(link: &Link, addresses: &[HostAddress], mut network: Network) -> Result<Bridge> {
    let refuse = |what: &str, hint: String| {
        Err(Error::new(Kind::Invalid, format!("the interface {} {what}", link.name)).hint(hint))
    };
    if !link.bridge {
        return refuse(
            "is not a bridge",
            "rename it, or use another network".into(),
        );
    }
    let has = |range: &Range| {
        let one = (link.index, range.gateway, range.subnet.prefix());
        addresses.contains(&one)
    };
    if !network.is_default() {
        let Some(range) = network.ipv4() else {
            return refuse("has no IPv4 address", "make the network again".into());
        };
        let IpAddr::V4(gateway) = range.gateway else {
            return refuse("has no IPv4 address", "make the network again".into());
        };
        // Its MAC is given as it is made, its mark after that.
        if link.mac != mac(gateway) || link.alias.as_deref().is_some_and(|alias| alias != ALIAS) {
            return refuse(
                "is not of ours, or of another network",
                format!(
                    "rename it, or remove it with 'ip link delete {}'",
                    link.name
                ),
            );
        }
        let complete = link.alias.is_some() && link.up && network.subnets.iter().all(has);
        return Ok(Bridge {
            subnets: subnets(&network),
            network,
            index: link.index,
            ours: true,
            complete,
        });
    }
    let address = addresses
        .iter()
        .find(|(index, address, _)| *index == link.index && address.is_ipv4());
    let range = |(_, address, prefix): &HostAddress| Range {
        gateway: *address,
        ..Range::of(Subnet::of(*address, *prefix))
    };
    match (made_for(link), address) {
        (Some(subnet), address) => {
            network.subnets = vec![address.map_or(Range::of(subnet), range)];
            Ok(Bridge {
                subnets: subnets(&network),
                network,
                index: link.index,
                ours: true,
                complete: link.alias.is_some() && link.up && address.is_some(),
            })
        }
        (None, None) => refuse(
            "has no IPv4 address",
            format!("give it one, such as 'ip address add 10.0.0.1/16 dev {BRIDGE}'"),
        ),
        (None, Some(_)) if !link.up => refuse(
            "is down",
            format!("bring it up with 'ip link set {BRIDGE} up'"),
        ),
        (None, Some(address)) => {
            network.subnets = vec![range(address)];
            Ok(Bridge {
                subnets: Vec::new(),
                network,
                index: link.index,
                ours: false,
                complete: true,
            })
        }
    }
}

fn subnets(network: &Network) -> Vec<Subnet> {
    let subnets = network.subnets.iter().map(|range| range.subnet);
    subnets.collect()
}

/// The subnet for which we made `bridge0`. Its alias says that we did, and before it has one, its MAC: that is given as it is made.
fn made_for(link: &Link) -> Option<Subnet> {
    let made = CANDIDATES
        .into_iter()
        .find(|subnet| matches!(subnet.gateway(), IpAddr::V4(gateway) if link.mac == mac(gateway)));
    match link.alias.as_deref() {
        Some(ALIAS) => made.or(Some(CANDIDATES[0])),
        Some(_) => None,
        None => made,
    }
}

fn planned(route: &mut Route, mut network: Network) -> Result<Bridge> {
    let is_chosen = network.subnets.iter().any(|range| range.chosen);
    if network.is_default() || is_chosen {
        let taken = taken(route)?;
        if network.is_default() {
            network.subnets = vec![Range::of(default_subnet(&taken)?)];
        }
        let chosen = network.subnets.iter().filter(|range| range.chosen);
        if let Some((range, other)) = chosen
            .filter_map(|range| Some((range, overlapped(&taken, range.subnet)?)))
            .next()
        {
            let what = format!(
                "the subnet {} of the network '{}' overlaps {other}, which the host has come to use",
                range.subnet, network.name
            );
            return Err(Error::new(Kind::InUse, what)
                .hint("make the network again, which chooses another, or give it a --subnet"));
        }
    }
    Ok(Bridge::gone(network))
}

/// What the host uses: the destinations of its routes, but default routes, and its addresses.
pub(crate) fn taken(route: &mut Route) -> Result<Vec<Subnet>> {
    let mut taken = route.destinations()?;
    taken.retain(|destination| {
        let smallest = match destination.is_ipv4() {
            true => SMALLEST_PREFIX,
            false => SMALLEST_PREFIX_IPV6,
        };
        destination.prefix() >= smallest
    });
    let addresses = route.addresses(true)?.into_iter();
    taken.extend(addresses.map(|(_, address, prefix)| Subnet::of(address, prefix)));
    Ok(taken)
}

/// The first of them with which the subnet has an address in common.
pub(crate) fn overlapped(taken: &[Subnet], subnet: Subnet) -> Option<Subnet> {
    taken.iter().copied().find(|other| other.overlaps(subnet))
}

/// The first candidate that no address and no route of the host overlaps.
fn default_subnet(taken: &[Subnet]) -> Result<Subnet> {
    let is_free = |subnet: &Subnet| overlapped(taken, *subnet).is_none();
    CANDIDATES.into_iter().find(is_free).ok_or_else(|| {
        let tried = CANDIDATES.map(|subnet| subnet.to_string()).join(", ");
        let message = format!("the host has addresses or routes in all of {tried}");
        Error::new(Kind::InUse, message).hint(format!(
            "make {BRIDGE} yourself, with an address of a free subnet, and bring it up"
        ))
    })
}

/// A subnet for a new network that nobody uses.
pub(crate) fn free_subnet(taken: &[Subnet]) -> Result<Subnet> {
    for pool in POOLS {
        let mut place = 0;
        while let Some(network) = pool.nth(place) {
            let subnet = Subnet::of(network, POOL_PREFIX);
            match overlapped(taken, subnet) {
                None => return Ok(subnet),
                // What holds it may hold the whole pool: the next is tried behind it.
                Some(other) => place = pool.place(other.last()).max(place) | subnet.last_place(),
            }
            place += 1;
        }
    }
    let pools = POOLS.map(|pool| pool.to_string()).join(", ");
    let what = format!("the host or other networks use all of {pools}");
    Err(Error::new(Kind::InUse, what).hint("give --subnet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_network_gets_the_first_subnet_that_nobody_uses() {
        assert_eq!(free_subnet(&[]).unwrap(), subnet("10.128.0.0/21"));
        let taken = [subnet("10.128.3.0/24"), subnet("10.128.8.0/22")];
        assert_eq!(free_subnet(&taken).unwrap(), subnet("10.128.16.0/21"));
        let vpn = [subnet("10.0.0.0/8")];
        assert_eq!(free_subnet(&vpn).unwrap(), subnet("172.24.0.0/21"));
        let private = [
            subnet("10.0.0.0/8"),
            subnet("172.16.0.0/12"),
            subnet("192.168.0.0/16"),
        ];
        assert_eq!(free_subnet(&private).unwrap_err().kind(), &Kind::InUse);
    }

    #[test]
    fn no_two_new_networks_get_the_same_subnet() {
        let mut taken = Vec::new();
        for _ in 0..60 {
            let subnet = free_subnet(&taken).unwrap();
            assert_eq!(overlapped(&taken, subnet), None);
            taken.push(subnet);
        }
    }
}
