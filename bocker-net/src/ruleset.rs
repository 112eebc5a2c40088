//! What our nftables table holds, as data: shown as nft(8) commands, and sent to the kernel as expressions.
//!
//! Addresses and ports of containers are elements of sets and maps, not rules: however many there are, a packet costs the
//! same few lookups, and an element names its container in its comment.

use bocker_pipe::step::quote;

use crate::BRIDGE;
use crate::nft::{Base, Expression, SetType};

/// The table's name; its family is `ip`.
pub(crate) const TABLE: &str = "bocker";
/// The table's comment, by which we know it is ours.
pub(crate) const COMMENT: &str = "made by bocker-net";
/// Addresses of containers.
pub(crate) const CONTAINERS: &str = "containers";
/// Ports published on one address of the host, and on all.
pub(crate) const PUBLISHED: &str = "published";
pub(crate) const PUBLISHED_ANY: &str = "published_any";

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
/// An interface's name as rules compare it: padded with zeros.
const IFNAMSIZ: usize = 16;
// Where the addresses are in an IPv4 header, and the destination port in those of TCP and UDP.
const IP_SADDR: u32 = 12;
const IP_DADDR: u32 = 16;
const TH_DPORT: u32 = 2;
const LOOPBACK: u8 = 127;

// nft(8)'s own numbers of types, of which a concatenation takes six bits each; kept so that `nft list` can show the sets.
const IPV4_ADDR: u32 = 7;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;

/// One part of a rule.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    FromContainer,
    ToContainer,
    FromLoopback,
    ToLoopback,
    /// Came in by our bridge, or not.
    InByBridge(bool),
    OutByBridge(bool),
    /// Belongs to a connection that was let through.
    Known,
    /// Was sent to a published port.
    WasPublished,
    /// The destination is an address of the host.
    ToHost,
    Dnat,
    DnatAny,
    Accept,
    Drop,
    Return,
    Masquerade,
}

impl Part {
    /// As nft(8) writes it.
    fn text(self) -> String {
        let not = |positive: bool| if positive { "" } else { "!= " };
        match self {
            Part::FromContainer => format!("ip saddr @{CONTAINERS}"),
            Part::ToContainer => format!("ip daddr @{CONTAINERS}"),
            Part::FromLoopback => "ip saddr 127.0.0.0/8".into(),
            Part::ToLoopback => "ip daddr 127.0.0.0/8".into(),
            Part::InByBridge(positive) => format!("iifname {}\"{BRIDGE}\"", not(positive)),
            Part::OutByBridge(positive) => format!("oifname {}\"{BRIDGE}\"", not(positive)),
            Part::Known => "ct state established,related".into(),
            Part::WasPublished => "ct status dnat".into(),
            Part::ToHost => "fib daddr type local".into(),
            Part::Dnat => format!("dnat ip to ip daddr . meta l4proto . th dport map @{PUBLISHED}"),
            Part::DnatAny => format!("dnat ip to meta l4proto . th dport map @{PUBLISHED_ANY}"),
            Part::Accept => "accept".into(),
            Part::Drop => "drop".into(),
            Part::Return => "return".into(),
            Part::Masquerade => "masquerade".into(),
        }
    }

    /// As the kernel takes it.
    pub(crate) fn expressions(self) -> Vec<Expression> {
        let address = |offset| Expression::payload(Base::Network, offset, 4, 0);
        let first_octet = |offset| Expression::payload(Base::Network, offset, 1, 0);
        let interface = |key, positive| {
            vec![
                Expression::meta(key, 0),
                Expression::compare(positive, &interface(BRIDGE)),
            ]
        };
        let bits = |key, mask| {
            vec![
                Expression::ct(key),
                Expression::and(mask),
                Expression::compare(false, &[0; 4]),
            ]
        };
        match self {
            Part::FromContainer => vec![address(IP_SADDR), Expression::lookup(CONTAINERS, false)],
            Part::ToContainer => vec![address(IP_DADDR), Expression::lookup(CONTAINERS, false)],
            Part::FromLoopback => vec![
                first_octet(IP_SADDR),
                Expression::compare(true, &[LOOPBACK]),
            ],
            Part::ToLoopback => vec![
                first_octet(IP_DADDR),
                Expression::compare(true, &[LOOPBACK]),
            ],
            Part::InByBridge(positive) => interface(NFT_META_IIFNAME, positive),
            Part::OutByBridge(positive) => interface(NFT_META_OIFNAME, positive),
            Part::Known => bits(NFT_CT_STATE, STATE_KNOWN),
            Part::WasPublished => bits(NFT_CT_STATUS, IPS_DST_NAT),
            Part::ToHost => {
                vec![
                    Expression::fib_daddr_type(),
                    Expression::compare(true, &RTN_LOCAL.to_ne_bytes()),
                ]
            }
            Part::Dnat => vec![
                address(IP_DADDR),
                Expression::meta(NFT_META_L4PROTO, 1),
                Expression::payload(Base::Transport, TH_DPORT, 2, 2),
                Expression::lookup(PUBLISHED, true),
                Expression::dnat(),
            ],
            Part::DnatAny => vec![
                Expression::meta(NFT_META_L4PROTO, 0),
                Expression::payload(Base::Transport, TH_DPORT, 2, 1),
                Expression::lookup(PUBLISHED_ANY, true),
                Expression::dnat(),
            ],
            Part::Accept => vec![Expression::verdict(NF_ACCEPT)],
            Part::Drop => vec![Expression::verdict(NF_DROP)],
            Part::Return => vec![Expression::verdict(NFT_RETURN)],
            Part::Masquerade => vec![Expression::masquerade()],
        }
    }
}

fn interface(name: &str) -> [u8; IFNAMSIZ] {
    let mut bytes = [0; IFNAMSIZ];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
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

const ENDPOINT: (u32, u32) = (IPV4_ADDR << 6 | INET_SERVICE, 8);

pub(crate) static SETS: [Set; 3] = [
    Set {
        name: CONTAINERS,
        text: "type ipv4_addr; flags interval;",
        holds: SetType {
            key: (IPV4_ADDR, 4),
            data: None,
            interval: true,
        },
    },
    Set {
        name: PUBLISHED,
        text: "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
        holds: SetType {
            key: (IPV4_ADDR << 12 | INET_PROTO << 6 | INET_SERVICE, 12),
            data: Some(ENDPOINT),
            interval: false,
        },
    },
    Set {
        name: PUBLISHED_ANY,
        text: "type inet_proto . inet_service : ipv4_addr . inet_service;",
        holds: SetType {
            key: (INET_PROTO << 6 | INET_SERVICE, 8),
            data: Some(ENDPOINT),
            interval: false,
        },
    },
];

/// Priorities are nft(8)'s names `raw`, `dstnat`, `filter` and `srcnat` (linux/netfilter_ipv4.h).
pub(crate) static CHAINS: [Chain; 5] = [
    Chain {
        name: "raw",
        kind: "filter",
        hook: ("prerouting", NF_INET_PRE_ROUTING),
        priority: -300,
        // The bridge has route_localnet, so a container could reach what listens on 127.0.0.1 only (CVE-2020-8558).
        rules: &[&[Part::InByBridge(true), Part::ToLoopback, Part::Drop]],
    },
    Chain {
        name: "prerouting",
        kind: "nat",
        hook: ("prerouting", NF_INET_PRE_ROUTING),
        priority: -100,
        rules: &[
            // A neighbour on the wire must not reach a port that is published on 127.0.0.1 (moby/moby#45610).
            &[Part::ToLoopback, Part::Return],
            &[Part::Dnat],
            &[Part::ToHost, Part::DnatAny],
        ],
    },
    Chain {
        name: "output",
        kind: "nat",
        hook: ("output", NF_INET_LOCAL_OUT),
        priority: -100,
        rules: &[&[Part::Dnat], &[Part::ToHost, Part::DnatAny]],
    },
    Chain {
        name: "forward",
        kind: "filter",
        hook: ("forward", NF_INET_FORWARD),
        priority: 0,
        rules: &[
            &[Part::FromContainer, Part::Accept],
            &[Part::ToContainer, Part::Known, Part::Accept],
            &[Part::ToContainer, Part::WasPublished, Part::Accept],
            // What is not published is not reached from outside, not even by a neighbour with a route.
            &[Part::InByBridge(false), Part::ToContainer, Part::Drop],
        ],
    },
    Chain {
        name: "postrouting",
        kind: "nat",
        hook: ("postrouting", NF_INET_POST_ROUTING),
        priority: 100,
        rules: &[
            &[
                Part::FromContainer,
                Part::OutByBridge(false),
                Part::Masquerade,
            ],
            // A published port used by a container or on localhost: the answer has to come back through the host.
            &[
                Part::FromContainer,
                Part::OutByBridge(true),
                Part::WasPublished,
                Part::Masquerade,
            ],
            &[
                Part::FromLoopback,
                Part::OutByBridge(true),
                Part::WasPublished,
                Part::Masquerade,
            ],
        ],
    },
];

/// The nft(8) commands that make the table.
pub(crate) fn table_commands() -> Vec<String> {
    let mut lines = vec![format!(
        "nft add table ip {TABLE} '{{ comment \"{COMMENT}\"; }}'"
    )];
    for set in &SETS {
        let kind = if set.holds.data.is_some() {
            "map"
        } else {
            "set"
        };
        lines.push(format!(
            "nft add {kind} ip {TABLE} {} '{{ {} }}'",
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
            "nft add chain ip {TABLE} {name} '{{ type {kind} hook {hook} priority {priority}; policy accept; }}'"
        ));
        for rule in *rules {
            let text = rule
                .iter()
                .map(|part| part.text())
                .collect::<Vec<_>>()
                .join(" ");
            lines.push(format!("nft add rule ip {TABLE} {name} {}", quote(&text)));
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
            Part::Dnat,
            Part::DnatAny,
        ];
        let texts: Vec<_> = ends.iter().map(|part| part.text()).collect();
        for rule in CHAINS.iter().flat_map(|chain| chain.rules) {
            assert!(texts.contains(&rule.last().unwrap().text()));
        }
    }
}
