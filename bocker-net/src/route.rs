//! Interfaces, addresses and routes by rtnetlink(7): what ip-link(8), ip-address(8) and ip-route(8) do.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use bocker_pipe::Result;
use netlink_packet_core::{DefaultNla, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage, Prop,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::bridge::HostAddress;
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
    /// The largest packet of both; the kernel's default unless somebody said so.
    pub(crate) mtu: Option<u32>,
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

    /// The interface with this index.
    pub(crate) fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.ask_for_link(message, &index.to_string())
    }

    fn find_link(&mut self, by: LinkAttribute, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![by];
        self.ask_for_link(message, name)
    }

    fn ask_for_link(&mut self, mut message: LinkMessage, name: &str) -> Result<Option<Link>> {
        // Counters are most of the answer, and nobody asks for them.
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
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

    /// The same without where they are.
    pub(crate) fn local_addresses(&mut self, with_ipv6: bool) -> Result<Vec<IpAddr>> {
        let addresses = self.addresses(with_ipv6)?;
        Ok(addresses
            .into_iter()
            .map(|(_, address, _)| address)
            .collect())
    }

    /// All IPv4 addresses of the host, and those of IPv6 where they are asked for.
    pub(crate) fn addresses(&mut self, with_ipv6: bool) -> Result<Vec<HostAddress>> {
        let mut message = AddressMessage::default();
        message.header.family = match with_ipv6 {
            true => AddressFamily::Unspec,
            false => AddressFamily::Inet,
        };
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)
            .map_err(|refusal| refusal.error("list the addresses"))?;
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Those of one interface. However many there are, the kernel looks at this one alone.
    pub(crate) fn addresses_of(&mut self, index: u32) -> Result<Vec<HostAddress>> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        self.netlink.be_strict(true)?;
        let answers = self.request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP);
        self.netlink.be_strict(false)?;
        let answers = match answers {
            // It has gone meanwhile.
            Err(refusal) if refusal.errno == Errno::ENODEV => Vec::new(),
            answers => answers.map_err(|refusal| refusal.error("list the addresses"))?,
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// The destinations of all routes in all tables but the default routes.
    pub(crate) fn destinations(&mut self) -> Result<Vec<Subnet>> {
        let found = self.routes()?.into_iter().filter_map(|message| {
            let prefix = message.header.destination_prefix_length;
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                        Some(Subnet::of(*address, prefix))
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                        Some(Subnet::of(*address, prefix))
                    }
                    _ => None,
                })
        });
        Ok(found.collect())
    }

    /// The interfaces by which default routes go that a router has advertised.
    pub(crate) fn advertised_routes(&mut self) -> Result<Vec<u32>> {
        let is_advertised = |message: &RouteMessage| {
            message.header.protocol == RouteProtocol::Ra
                && message.header.destination_prefix_length == 0
        };
        let routes = self.routes()?.into_iter().filter(is_advertised);
        let interface = |message: RouteMessage| {
            let mut attributes = message.attributes.into_iter();
            attributes.find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(index),
                _ => None,
            })
        };
        Ok(routes.filter_map(interface).collect())
    }

    /// All routes, of both families and in all tables.
    fn routes(&mut self) -> Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = match self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP) {
                // A kernel without IPv6.
                Err(refusal) if refusal.errno == Errno::EAFNOSUPPORT => continue,
                answers => answers.map_err(|refusal| refusal.error("list the routes"))?,
            };
            routes.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Some(message),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// `ip link add NAME address MAC [mtu MTU] type bridge mcast_snooping 0`. A bridge without a MAC of its own changes it with its
    /// ports, and every neighbour would have to learn it anew. It snoops on nobody: as nobody asks who listens, it would pass all
    /// on all the same, and keep timers for every port, which are set again whenever one comes.
    pub(crate) fn add_bridge(
        &mut self,
        name: &str,
        mac: [u8; 6],
        mtu: Option<u32>,
    ) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
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
        peer.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
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
        message.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        self.act(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// `ip link property add dev NAME altname ALTNAME`: more names, and longer ones (since Linux 5.5).
    pub(crate) fn add_altnames(&mut self, name: &str, altnames: &[String]) -> Result<(), Refusal> {
        let altnames = altnames.iter().cloned().map(Prop::AltIfName);
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::PropList(altnames.collect()),
        ];
        self.act(
            RouteNetlinkMessage::NewLinkProp(message),
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND,
        )
    }

    /// `ip link set NAME type bridge_slave hairpin on`: the bridge may send a frame back by the port that it came in by.
    pub(crate) fn set_hairpin(&mut self, name: &str) -> Result<(), Refusal> {
        self.set_port(name, InfoBridgePort::HairpinMode(true))
    }

    /// `ip link set NAME type bridge_slave isolated on`: the bridge passes nothing on to other ports that are isolated.
    pub(crate) fn set_isolated(&mut self, name: &str) -> Result<(), Refusal> {
        self.set_port(name, InfoBridgePort::Isolated(true))
    }

    fn set_port(&mut self, name: &str, how: InfoBridgePort) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![how])),
            ]),
        ];
        self.act(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// `ip link set NAME addrgenmode none`: no IPv6 address by itself, and none of the traffic that finding one makes.
    pub(crate) fn without_own_ipv6(&mut self, name: &str) -> Result<(), Refusal> {
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

    /// `ip address add ADDRESS/PREFIX broadcast + dev INDEX`, and for IPv6 `nodad`: nobody waits whether another has it.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), Refusal> {
        let mut message = AddressMessage::default();
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
        ];
        let subnet = Subnet::of(address, prefix);
        let last = match (address, subnet.last()) {
            (IpAddr::V4(_), IpAddr::V4(last)) => {
                message.header.family = AddressFamily::Inet;
                AddressAttribute::Broadcast(last)
            }
            _ => {
                message.header.family = AddressFamily::Inet6;
                AddressAttribute::Flags(AddressFlags::Nodad)
            }
        };
        message.attributes.push(last);
        self.act(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// `ip route add default via GATEWAY dev INDEX`.
    pub(crate) fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> Result<(), Refusal> {
        self.add_route(index, None, gateway)
    }

    /// `ip route add SUBNET via GATEWAY dev INDEX`; without a subnet the default route.
    pub(crate) fn add_route(
        &mut self,
        index: u32,
        to: Option<Subnet>,
        gateway: IpAddr,
    ) -> Result<(), Refusal> {
        let (family, gateway) = match gateway {
            IpAddr::V4(gateway) => (AddressFamily::Inet, RouteAddress::Inet(gateway)),
            IpAddr::V6(gateway) => (AddressFamily::Inet6, RouteAddress::Inet6(gateway)),
        };
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
        if let Some(to) = to {
            message.header.destination_prefix_length = to.prefix();
            let to = match to.network() {
                IpAddr::V4(address) => RouteAddress::Inet(address),
                IpAddr::V6(address) => RouteAddress::Inet6(address),
            };
            message.attributes.push(RouteAttribute::Destination(to));
        }
        self.act(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
}

fn address(answer: RouteNetlinkMessage) -> Option<HostAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    // That of the other end, which only some kinds of links have, comes as the address; else both are the same.
    let local = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = &message.attributes;
    let address = attributes.iter().find_map(local);
    let address = address.or_else(|| attributes.iter().find_map(any))?;
    Some((message.header.index, address, message.header.prefix_len))
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
