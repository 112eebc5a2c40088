//! What our nftables table holds, as data: shown as nft(8) commands, and sent to the kernel as expressions.
//!
//! Bridges, addresses and ports of containers are elements of sets and maps, not rules: however many there are, a packet
//! costs the same few lookups, and an element names in its comment whose it is.

use bocker_pipe::step::quote;

use crate::nft::{Base, Expression, Family, Lookup, PART, SetType};

/// The table's name; its family is `inet`, so that it sees IPv4 and IPv6.
pub(crate) const TABLE: &str = "bocker";
/// The table's comment, by which we know it is ours.
pub(crate) const COMMENT: &str = "made by bocker-net";
/// Bridges that containers are connected to, and those of them that have no way out and none in.
pub(crate) const BRIDGES: &str = "bridges";
pub(crate) const INTERNAL: &str = "internal";
/// Each bridge with itself: what comes in by the first may leave by the second. An isolated bridge is not among them.
pub(crate) const WITHIN: &str = "within";

impl Family {
    /// The set of containers' addresses.
    pub(crate) const fn containers(self) -> &'static str {
        match self {
            Family::V4 => "containers",
            Family::V6 => "containers6",
        }
    }

    /// The map of ports that are published on one address of the host.
    pub(crate) const fn published(self) -> &'static str {
        match self {
            Family::V4 => "published",
            Family::V6 => "published6",
        }
    }

    /// The map of those that are published on all.
    pub(crate) const fn published_any(self) -> &'static str {
        match self {
            Family::V4 => "published_any",
            Family::V6 => "published6_any",
        }
    }

    /// As nft(8) calls its header.
    fn header(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Family::V4 => "127.0.0.0/8",
            Family::V6 => "::1",
        }
    }

    /// Where the source and the destination are in its header.
    fn source(self) -> u32 {
        match self {
            Family::V4 => 12,
            Family::V6 => 8,
        }
    }

    fn destination(self) -> u32 {
        self.source() + self.length()
    }
}

// linux/netfilter_ipv4.h and linux/netfilter.h
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_INET_POST_ROUTING: u32 = 4;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
// linux/netfilter/nf_tables.h
const NFT_RETURN: i32 = -5;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
/// `established` and `related` (NF_CT_STATE_BIT).
const STATE_KNOWN: u32 = 0b110;
/// linux/netfilter/nf_conntrack_common.h
const IPS_DST_NAT: u32 = 1 << 5;
/// linux/rtnetlink.h
const RTN_LOCAL: u32 = 2;
/// An interface's name as sets hold it: padded with zeros.
const IFNAMSIZ: usize = 16;
/// The same in parts of the register.
const IFNAME_PARTS: u32 = IFNAMSIZ as u32 / PART;
/// Where the destination port is in the headers of TCP and UDP.
const TH_DPORT: u32 = 2;
/// 127.0.0.0/8, and ::1.
const LOOPBACK: &[u8] = &[127];
const LOOPBACK6: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

// nft(8)'s own numbers of types, of which a concatenation takes six bits each; kept so that `nft list` can show the sets.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
const IFNAME: u32 = 41;

/// One part of a rule.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Of this family.
    Is(Family),
    FromContainer(Family),
    ToContainer(Family),
    FromLoopback,
    ToLoopback(Family),
    /// Came in by one of these bridges.
    InBy(&'static str),
    /// Goes out by one of these bridges, or by none.
    OutBy(&'static str, Lookup),
    /// Came in and goes out by the same bridge, or not.
    Within(Lookup),
    /// Belongs to a connection that was let through.
    Known,
    /// Was sent to a published port.
    WasPublished,
    /// The destination is an address of the host.
    ToHost,
    Dnat(Family),
    DnatAny(Family),
    Accept,
    Drop,
    Return,
    Masquerade,
}

impl Part {
    /// As nft(8) writes it.
    fn text(self) -> String {
        let not = |how| if how == Lookup::Lacks { "!= " } else { "" };
        let ports = "meta l4proto . th dport map";
        match self {
            Part::Is(family) => format!("meta nfproto {}", family.name()),
            Part::FromContainer(family) => {
                format!("{} saddr @{}", family.header(), family.containers())
            }
            Part::ToContainer(family) => {
                format!("{} daddr @{}", family.header(), family.containers())
            }
            Part::FromLoopback => format!("ip saddr {}", Family::V4.loopback()),
            Part::ToLoopback(family) => format!("{} daddr {}", family.header(), family.loopback()),
            Part::InBy(bridges) => format!("iifname @{bridges}"),
            Part::OutBy(bridges, how) => format!("oifname {}@{bridges}", not(how)),
            Part::Within(how) => format!("iifname . oifname {}@{WITHIN}", not(how)),
            Part::Known => "ct state established,related".into(),
            Part::WasPublished => "ct status dnat".into(),
            Part::ToHost => "fib daddr type local".into(),
            Part::Dnat(family) => {
                let (header, map) = (family.header(), family.published());
                format!("dnat {header} to {header} daddr . {ports} @{map}")
            }
            Part::DnatAny(family) => {
                format!(
                    "dnat {} to {ports} @{}",
                    family.header(),
                    family.published_any()
                )
            }
            Part::Accept => "accept".into(),
            Part::Drop => "drop".into(),
            Part::Return => "return".into(),
            Part::Masquerade => "masquerade".into(),
        }
    }

    /// As the kernel takes it.
    pub(crate) fn expressions(self) -> Vec<Expression> {
        let address = |family: Family, offset| {
            let [load, compare] = Expression::family(family);
            let payload = Expression::payload(Base::Network, offset, family.length(), 0);
            vec![load, compare, payload]
        };
        let loopback = |family, offset| {
            let value = match family {
                Family::V4 => LOOPBACK,
                Family::V6 => LOOPBACK6,
            };
            // Nothing is longer than an address of 16 bytes.
            let payload = Expression::payload(Base::Network, offset, value.len() as u32, 0);
            let [load, compare] = Expression::family(family);
            vec![load, compare, payload, Expression::compare(true, value)]
        };
        let bits = |key, mask| {
            vec![
                Expression::ct(key),
                Expression::and(mask),
                Expression::compare(false, &[0; 4]),
            ]
        };
        // Protocol and port, from this part of the register on.
        let port = |part| {
            [
                Expression::meta(NFT_META_L4PROTO, part),
                Expression::payload(Base::Transport, TH_DPORT, 2, part + 1),
            ]
        };
        match self {
            Part::Is(family) => Expression::family(family).into(),
            Part::FromContainer(family) => {
                let mut list = address(family, family.source());
                list.push(Expression::lookup(family.containers(), Lookup::Holds));
                list
            }
            Part::ToContainer(family) => {
                let mut list = address(family, family.destination());
                list.push(Expression::lookup(family.containers(), Lookup::Holds));
                list
            }
            Part::FromLoopback => loopback(Family::V4, Family::V4.source()),
            Part::ToLoopback(family) => loopback(family, family.destination()),
            Part::InBy(bridges) => vec![
                Expression::meta(NFT_META_IIFNAME, 0),
                Expression::lookup(bridges, Lookup::Holds),
            ],
            Part::OutBy(bridges, how) => vec![
                Expression::meta(NFT_META_OIFNAME, 0),
                Expression::lookup(bridges, how),
            ],
            Part::Within(how) => vec![
                Expression::meta(NFT_META_IIFNAME, 0),
                Expression::meta(NFT_META_OIFNAME, IFNAME_PARTS),
                Expression::lookup(WITHIN, how),
            ],
            Part::Known => bits(NFT_CT_STATE, STATE_KNOWN),
            Part::WasPublished => bits(NFT_CT_STATUS, IPS_DST_NAT),
            Part::ToHost => {
                vec![
                    Expression::fib_daddr_type(),
                    Expression::compare(true, &RTN_LOCAL.to_ne_bytes()),
                ]
            }
            Part::Dnat(family) => {
                let mut list = address(family, family.destination());
                list.extend(port(family.length() / PART));
                list.push(Expression::lookup(family.published(), Lookup::Gives));
                list.push(Expression::dnat(family));
                list
            }
            Part::DnatAny(family) => {
                let mut list = Vec::from(port(0));
                list.push(Expression::lookup(family.published_any(), Lookup::Gives));
                list.push(Expression::dnat(family));
                list
            }
            Part::Accept => vec![Expression::verdict(NF_ACCEPT)],
            Part::Drop => vec![Expression::verdict(NF_DROP)],
            Part::Return => vec![Expression::verdict(NFT_RETURN)],
            Part::Masquerade => vec![Expression::masquerade()],
        }
    }
}

/// An interface's name as an element's key.
pub(crate) fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

/// A chain of our table: where the kernel calls it, and its rules.
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) hook: (&'static str, u32),
    pub(crate) priority: i32,
    pub(crate) rules: &'static [&'static [Part]],
}

/// A set or map: its type as nft(8) writes it, and as the kernel takes it.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) holds: SetType,
}

impl Set {
    const fn of(name: &'static str, text: &'static str, key: (u32, u32)) -> Set {
        let holds = SetType {
            key,
            data: None,
            interval: false,
            host_order: key.0 == IFNAME,
        };
        Set { name, text, holds }
    }

    const fn of_ranges(mut self) -> Set {
        self.holds.interval = true;
        self
    }

    const fn giving(mut self, data: (u32, u32)) -> Set {
        self.holds.data = Some(data);
        self
    }
}

const PORT: u32 = INET_PROTO << 6 | INET_SERVICE;
const ENDPOINT: (u32, u32) = (IPV4_ADDR << 6 | INET_SERVICE, 8);
const ENDPOINT6: (u32, u32) = (IPV6_ADDR << 6 | INET_SERVICE, 20);

pub(crate) static SETS: [Set; 9] = [
    Set::of(BRIDGES, "type ifname;", (IFNAME, 16)),
    Set::of(INTERNAL, "type ifname;", (IFNAME, 16)),
    Set::of(WITHIN, "type ifname . ifname;", (IFNAME << 6 | IFNAME, 32)),
    Set::of(
        Family::V4.containers(),
        "type ipv4_addr; flags interval;",
        (IPV4_ADDR, 4),
    )
    .of_ranges(),
    Set::of(
        Family::V6.containers(),
        "type ipv6_addr; flags interval;",
        (IPV6_ADDR, 16),
    )
    .of_ranges(),
    Set::of(
        Family::V4.published(),
        "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
        (IPV4_ADDR << 12 | PORT, 12),
    )
    .giving(ENDPOINT),
    Set::of(
        Family::V4.published_any(),
        "type inet_proto . inet_service : ipv4_addr . inet_service;",
        (PORT, 8),
    )
    .giving(ENDPOINT),
    Set::of(
        Family::V6.published(),
        "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
        (IPV6_ADDR << 12 | PORT, 24),
    )
    .giving(ENDPOINT6),
    Set::of(
        Family::V6.published_any(),
        "type inet_proto . inet_service : ipv6_addr . inet_service;",
        (PORT, 8),
    )
    .giving(ENDPOINT6),
];

/// Priorities are nft(8)'s names `raw`, `dstnat`, `filter` and `srcnat` (linux/netfilter_ipv4.h).
pub(crate) static CHAINS: [Chain; 5] = [
    Chain {
        name: "raw",
        kind: "filter",
        hook: ("prerouting", NF_INET_PRE_ROUTING),
        priority: -300,
        // Our bridges have route_localnet, so a container could reach what listens on 127.0.0.1 only (CVE-2020-8558). The
        // kernel itself drops what comes in for ::1.
        rules: &[&[
            Part::ToLoopback(Family::V4),
            Part::InBy(BRIDGES),
            Part::Drop,
        ]],
    },
    Chain {
        name: "prerouting",
        kind: "nat",
        hook: ("prerouting", NF_INET_PRE_ROUTING),
        priority: -100,
        rules: &[
            // A neighbour on the wire must not reach a port that is published on 127.0.0.1 (moby/moby#45610).
            &[Part::ToLoopback(Family::V4), Part::Return],
            &[Part::Dnat(Family::V4)],
            &[
                Part::Is(Family::V4),
                Part::ToHost,
                Part::DnatAny(Family::V4),
            ],
            &[Part::Dnat(Family::V6)],
            &[
                Part::Is(Family::V6),
                Part::ToHost,
                Part::DnatAny(Family::V6),
            ],
        ],
    },
    Chain {
        name: "output",
        kind: "nat",
        hook: ("output", NF_INET_LOCAL_OUT),
        priority: -100,
        rules: &[
            &[Part::Dnat(Family::V4)],
            &[
                Part::Is(Family::V4),
                Part::ToHost,
                Part::DnatAny(Family::V4),
            ],
            // From ::1 nothing can leave by an interface: whoever asks there is refused at once rather than never answered.
            &[Part::ToLoopback(Family::V6), Part::Return],
            &[Part::Dnat(Family::V6)],
            &[
                Part::Is(Family::V6),
                Part::ToHost,
                Part::DnatAny(Family::V6),
            ],
        ],
    },
    Chain {
        name: "forward",
        kind: "filter",
        hook: ("forward", NF_INET_FORWARD),
        priority: 0,
        rules: &[
            // All but the first packet of a connection go no further.
            &[Part::Known, Part::Accept],
            &[Part::Within(Lookup::Holds), Part::Accept],
            &[Part::InBy(INTERNAL), Part::Drop],
            &[Part::OutBy(INTERNAL, Lookup::Holds), Part::Drop],
            &[Part::WasPublished, Part::Accept],
            // What is not published is not reached from outside its network: not by a neighbour with a route, and not from
            // another network of ours.
            &[Part::ToContainer(Family::V4), Part::Drop],
            &[Part::ToContainer(Family::V6), Part::Drop],
        ],
    },
    Chain {
        name: "postrouting",
        kind: "nat",
        hook: ("postrouting", NF_INET_POST_ROUTING),
        priority: 100,
        rules: &[
            &[
                Part::FromContainer(Family::V4),
                Part::OutBy(BRIDGES, Lookup::Lacks),
                Part::Masquerade,
            ],
            &[
                Part::FromContainer(Family::V6),
                Part::OutBy(BRIDGES, Lookup::Lacks),
                Part::Masquerade,
            ],
            // By a bridge of the user's, on which are other machines, from a network behind another.
            &[
                Part::FromContainer(Family::V4),
                Part::InBy(BRIDGES),
                Part::Within(Lookup::Lacks),
                Part::Masquerade,
            ],
            &[
                Part::FromContainer(Family::V6),
                Part::InBy(BRIDGES),
                Part::Within(Lookup::Lacks),
                Part::Masquerade,
            ],
            // A published port used by a container or on localhost: the answer has to come back through the host.
            &[
                Part::FromContainer(Family::V4),
                Part::WasPublished,
                Part::Masquerade,
            ],
            &[
                Part::FromContainer(Family::V6),
                Part::WasPublished,
                Part::Masquerade,
            ],
            &[
                Part::FromLoopback,
                Part::OutBy(BRIDGES, Lookup::Holds),
                Part::WasPublished,
                Part::Masquerade,
            ],
        ],
    },
];

/// The nft(8) commands that make the table.
pub(crate) fn table_commands() -> Vec<String> {
    let mut lines = vec![format!(
        "nft add table inet {TABLE} '{{ comment \"{COMMENT}\"; }}'"
    )];
    for set in &SETS {
        let kind = if set.holds.data.is_some() {
            "map"
        } else {
            "set"
        };
        lines.push(format!(
            "nft add {kind} inet {TABLE} {} '{{ {} }}'",
            set.name, set.text
        ));
    }
    for chain in &CHAINS {
        let Chain {
            name,
            kind,
            hook: (hook, _),
            priority,
            rules,
        } = chain;
        lines.push(format!(
            "nft add chain inet {TABLE} {name} '{{ type {kind} hook {hook} priority {priority}; policy accept; }}'"
        ));
        for rule in *rules {
            let text = rule
                .iter()
                .map(|part| part.text())
                .collect::<Vec<_>>()
                .join(" ");
            lines.push(format!("nft add rule inet {TABLE} {name} {}", quote(&text)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_ends_with_what_is_done() {
        let ends = [
            Part::Accept,
            Part::Drop,
            Part::Return,
            Part::Masquerade,
            Part::Dnat(Family::V4),
            Part::DnatAny(Family::V4),
            Part::Dnat(Family::V6),
            Part::DnatAny(Family::V6),
        ];
        let texts: Vec<_> = ends.iter().map(|part| part.text()).collect();
        for rule in CHAINS.iter().flat_map(|chain| chain.rules) {
            assert!(texts.contains(&rule.last().unwrap().text()));
        }
    }
}
