//! Interfaces, addresses and routes by rtnetlink(7): what ip-link(8), ip-address(8) and ip-route(8) do.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use bocker_pipe::Result;
use netlink_packet_core::{DefaultNla, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::netlink::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, Netlink, Refusal,
};
use crate::subnet::Subnet;

/// linux/if_link.h: asks by an alternative name; the crate knows it inside a list of properties only.
const IFLA_ALT_IFNAME: u16 = 53;

/// What we ask about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) bridge: bool,
    pub(crate) mac: Vec<u8>,
    pub(crate) alias: Option<String>,
    /// Index of the bridge that it is a port of.
    pub(crate) master: Option<u32>,
}

/// A veth pair to be made: one end here, the other born inside another network namespace (veth(4)).
pub(crate) struct Veth<'a> {
    pub(crate) host: &'a str,
    pub(crate) host_mac: [u8; 6],
    /// Index of the bridge that the host's end becomes a port of.
    pub(crate) bridge: u32,
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: [u8; 6],
}

/// An rtnetlink socket in one network namespace.
pub(crate) struct Route {
    netlink: Netlink,
}

impl Route {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Route> {
        Ok(Route {
            netlink: Netlink::open(NETLINK_ROUTE)?,
        })
    }

    /// Asks, and gives the answers.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let sequence = self.netlink.next_sequence();
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut inner = Vec::new();
        for answer in self.netlink.exchange(&bytes, sequence, sequence)? {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer) {
                Ok(NetlinkMessage {
                    payload: NetlinkPayload::InnerMessage(message),
                    ..
                }) => inner.push(message),
                Ok(_) => {}
                Err(_) => return Err(Errno::EBADMSG.into()),
            }
        }
        Ok(inner)
    }

    fn act(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.request(message, NLM_F_ACK | flags).map(|_| ())
    }

    /// The interface of this name, or with this alternative name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>> {
        self.find_link(LinkAttribute::IfName(name.to_owned()), name)
    }

    /// The interface with this alternative name, which may be longer than a name.
    pub(crate) fn link_by_altname(&mut self, name: &str) -> Result<Option<Link>> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.find_link(
            LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, bytes)),
            name,
        )
    }

    fn find_link(&mut self, by: LinkAttribute, name: &str) -> Result<Option<Link>> {
        // Counters are most of the answer, and nobody asks for them.
        let mut message = LinkMessage::default();
        message.attributes = vec![by, LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().find_map(link)),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(refusal.error(&format!("look for the interface {name}"))),
        }
    }

    /// All interfaces.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let answers = self
            .request(RouteNetlinkMessage::GetLink(message), NLM_F_DUMP)
            .map_err(|refusal| refusal.error("list the interfaces"))?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// All IPv4 addresses: index of the interface, address, length of the prefix.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Addr, u8)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)
            .map_err(|refusal| refusal.error("list the addresses"))?;
        let found = answers.into_iter().filter_map(|answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            let address = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                })?;
            Some((message.header.index, address, message.header.prefix_len))
        });
        Ok(found.collect())
    }

    /// The destinations of all IPv4 routes in all tables but the default routes.
    pub(crate) fn destinations(&mut self) -> Result<Vec<Subnet>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .map_err(|refusal| refusal.error("list the routes"))?;
        let found = answers.into_iter().filter_map(|answer| {
            let RouteNetlinkMessage::NewRoute(message) = answer else {
                return None;
            };
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(Subnet::of(
                        *address,
                        message.header.destination_prefix_length,
                    )),
                    _ => None,
                })
        });
        Ok(found.collect())
    }

    /// `ip link add NAME address MAC type bridge`. A bridge without a MAC of its own changes it with its ports, and every
    /// neighbour would have to learn it anew.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: [u8; 6]) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.act(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// `ip link add HOST address MAC master BRIDGE type veth peer name PEER address MAC netns INSIDE`.
    /// Both get a MAC from us: one made by the kernel is changed by systemd-udevd while we work (systemd.link(5)).
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>, inside: impl AsFd) -> Result<(), Refusal> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer.to_owned()),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::NetNsFd(inside.as_fd().as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(veth.host.to_owned()),
            LinkAttribute::Address(veth.host_mac.to_vec()),
            LinkAttribute::Controller(veth.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.act(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// `ip link property add dev NAME altname ALTNAME`: a second, longer name (since Linux 5.5).
    pub(crate) fn add_altname(&mut self, name: &str, altname: &str) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::PropList(vec![Prop::AltIfName(altname.to_owned())]),
        ];
        self.act(
            RouteNetlinkMessage::NewLinkProp(message),
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND,
        )
    }

    /// `ip link set NAME type bridge_slave hairpin on`: the bridge may send a frame back by the port that it came in by.
    pub(crate) fn set_hairpin(&mut self, name: &str) -> Result<(), Refusal> {
        let hairpin = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(hairpin),
            ]),
        ];
        self.act(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// `ip link set NAME addrgenmode none`: no IPv6 address by itself, and none of the traffic that finding one makes.
    pub(crate) fn without_ipv6(&mut self, name: &str) -> Result<(), Refusal> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]),
        ];
        match self.act(RouteNetlinkMessage::SetLink(message), 0) {
            // A kernel without IPv6 gives no such address anyway.
            Err(refusal) if refusal.errno == Errno::EAFNOSUPPORT => Ok(()),
            result => result,
        }
    }

    /// `ip link set NAME alias TEXT`.
    pub(crate) fn set_alias(&mut self, name: &str, alias: &str) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::IfAlias(alias.to_owned()),
        ];
        self.act(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// `ip link set NAME up`.
    pub(crate) fn set_up(&mut self, name: &str) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.act(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// `ip link delete NAME`. Already gone is success.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        match self.act(RouteNetlinkMessage::DelLink(message), 0) {
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
            result => {
                result.map_err(|refusal| refusal.error(&format!("delete the interface {name}")))
            }
        }
    }

    /// `ip address add ADDRESS/PREFIX broadcast + dev INDEX`.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Refusal> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
            AddressAttribute::Broadcast(Subnet::of(address, prefix).broadcast()),
        ];
        self.act(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// `ip route add default via GATEWAY dev INDEX`.
    pub(crate) fn add_default_route(
        &mut self,
        index: u32,
        gateway: Ipv4Addr,
    ) -> Result<(), Refusal> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Oif(index),
        ];
        self.act(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
}

fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        bridge: false,
        mac: Vec::new(),
        alias: None,
        master: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(infos) => {
                link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge))
            }
            _ => {}
        }
    }
    Some(link)
}
