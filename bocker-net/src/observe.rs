//! What the kernel has of a container's network: interfaces with their counters, addresses and routes, asked inside its
//! namespace, and of the other ends of its cables on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use bocker_pipe::Result;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use serde::Serialize;

use crate::netlink::{NLM_F_ACK, NLM_F_DUMP};
use crate::netns;
use crate::route::Route;
use crate::subnet::mac_text;

/// What is inside a namespace.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Inside {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) routes: Vec<Way>,
}

/// An interface of a container.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Interface {
    #[serde(flatten)]
    pub(crate) link: Link,
    /// With the length of the prefix.
    pub(crate) addresses: Vec<String>,
    /// The other end of its cable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<Peer>,
    pub(crate) counters: Counters,
}

/// The end on the host.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Peer {
    #[serde(flatten)]
    pub(crate) link: Link,
    /// What it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bridge: Option<String>,
    /// Whether the bridge may send a frame back by it.
    pub(crate) hairpin: bool,
}

/// What both ends have.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Link {
    #[serde(rename = "interface")]
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) altnames: Vec<String>,
}

/// As the container sees them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Counters {
    received: Count,
    sent: Count,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Count {
    bytes: u64,
    packets: u64,
    errors: u64,
    dropped: u64,
}

/// A route that somebody has given; those that go with an address are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Way {
    pub(crate) dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    pub(crate) interface: String,
}

/// One interface as the kernel describes it.
#[derive(Debug, Default)]
struct Described {
    link: Link,
    counters: Counters,
    /// Index of the other end in its own namespace.
    peer: Option<u32>,
    /// Index of what it is a port of.
    master: Option<u32>,
    hairpin: bool,
}

/// Looks into the namespace that is pinned at a path. Fails when none is.
pub(crate) fn inside(path: &Path) -> Result<Inside> {
    let mut there = netns::route_in(path)?;
    let mut here = Route::open()?;
    let addresses = addresses(&mut there)?;
    let mut interfaces = Vec::new();
    for described in describe(&mut there, None)? {
        let Described { link, counters, .. } = described;
        let of_this = addresses.iter().filter(|(index, _)| *index == link.index);
        interfaces.push(Interface {
            addresses: of_this.map(|(_, address)| address.clone()).collect(),
            peer: match described.peer {
                Some(index) => peer(&mut here, index, link.index)?,
                None => None,
            },
            link,
            counters,
        });
    }
    let routes = routes(&mut there, &interfaces)?;
    Ok(Inside { interfaces, routes })
}

/// The end on the host, which may have gone meanwhile. An interface of which this is not the other end has the index by chance:
/// the cable leads to another namespace.
fn peer(here: &mut Route, index: u32, of: u32) -> Result<Option<Peer>> {
    let found = describe(here, Some(index))?.pop();
    let Some(described) = found.filter(|found| found.peer == Some(of)) else {
        return Ok(None);
    };
    let bridge = match described.master {
        Some(index) => describe(here, Some(index))?.pop(),
        None => None,
    };
    Ok(Some(Peer {
        link: described.link,
        bridge: bridge.map(|bridge| bridge.link.name),
        hairpin: described.hairpin,
    }))
}

/// All interfaces of a namespace, or the one with this index if it is there.
fn describe(route: &mut Route, index: Option<u32>) -> Result<Vec<Described>> {
    let mut message = LinkMessage::default();
    message.header.index = index.unwrap_or_default();
    let flags = if index.is_some() {
        NLM_F_ACK
    } else {
        NLM_F_DUMP
    };
    match route.request(RouteNetlinkMessage::GetLink(message), flags) {
        Ok(answers) => Ok(answers.into_iter().filter_map(described).collect()),
        Err(refusal) if index.is_some() && refusal.errno == Errno::ENODEV => Ok(Vec::new()),
        Err(refusal) => Err(refusal.error("list the interfaces")),
    }
}

fn described(answer: RouteNetlinkMessage) -> Option<Described> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut described = Described::default();
    described.link.index = message.header.index;
    described.link.up = message.header.flags.contains(LinkFlags::Up);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => described.link.name = name,
            LinkAttribute::Address(mac) => described.link.mac = mac_text(&mac),
            LinkAttribute::Mtu(mtu) => described.link.mtu = mtu,
            LinkAttribute::Link(index) => described.peer = Some(index),
            LinkAttribute::Controller(index) => described.master = Some(index),
            LinkAttribute::PropList(props) => {
                let names = props.into_iter().filter_map(|prop| match prop {
                    Prop::AltIfName(name) => Some(name),
                    _ => None,
                });
                described.link.altnames = names.collect();
            }
            LinkAttribute::LinkInfo(infos) => described.hairpin = infos.iter().any(is_hairpin),
            LinkAttribute::Stats64(stats) => {
                described.counters = Counters {
                    received: Count {
                        bytes: stats.rx_bytes,
                        packets: stats.rx_packets,
                        errors: stats.rx_errors,
                        dropped: stats.rx_dropped,
                    },
                    sent: Count {
                        bytes: stats.tx_bytes,
                        packets: stats.tx_packets,
                        errors: stats.tx_errors,
                        dropped: stats.tx_dropped,
                    },
                };
            }
            _ => {}
        }
    }
    Some(described)
}

fn is_hairpin(info: &LinkInfo) -> bool {
    let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info else {
        return false;
    };
    port.contains(&InfoBridgePort::HairpinMode(true))
}

/// All addresses, by the index of their interface.
fn addresses(route: &mut Route) -> Result<Vec<(u32, String)>> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Unspec;
    let answers = route
        .request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)
        .map_err(|refusal| refusal.error("list the addresses"))?;
    let address = |answer| {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            return None;
        };
        // The local one is the interface's own, where the other end's is told as well (linux/if_addr.h).
        let attributes = message.attributes.iter();
        let local = attributes.clone().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(address),
            _ => None,
        });
        let address = local.or_else(|| {
            attributes.clone().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(address),
                _ => None,
            })
        })?;
        let address = format!("{address}/{}", message.header.prefix_len);
        Some((message.header.index, address))
    };
    Ok(answers.into_iter().filter_map(address).collect())
}

fn routes(route: &mut Route, interfaces: &[Interface]) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        match route.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP) {
            // A kernel without IPv6.
            Err(refusal) if refusal.errno == Errno::EAFNOSUPPORT => {}
            answers => {
                let answers = answers.map_err(|refusal| refusal.error("list the routes"))?;
                ways.extend(
                    answers
                        .into_iter()
                        .filter_map(|answer| way(answer, interfaces)),
                );
            }
        }
    }
    Ok(ways)
}

fn way(answer: RouteNetlinkMessage, interfaces: &[Interface]) -> Option<Way> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    let is_given = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel;
    if !is_given {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let (mut to, mut gw, mut index) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => gw = ip(address),
            RouteAttribute::Oif(number) => index = Some(*number),
            _ => {}
        }
    }
    // Everywhere is not told.
    let everywhere = match header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let of_index = |interface: &&Interface| Some(interface.link.index) == index;
    let interface = interfaces.iter().find(of_index)?;
    Some(Way {
        dst: format!(
            "{}/{}",
            to.unwrap_or(everywhere),
            header.destination_prefix_length
        ),
        gw,
        interface: interface.link.name.clone(),
    })
}
