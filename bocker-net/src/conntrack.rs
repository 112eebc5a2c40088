//! Connection tracking, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h): forgetting flows that would pass a newly
//! published port by. NAT is decided by a flow's first packet, and a UDP client that kept on asking while nobody answered, or
//! while another container did, is one flow for as long as it asks.

use std::net::Ipv4Addr;

use bocker_pipe::Result;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::netlink::{Attributes, NFPROTO_IPV4, NLM_F_ACK, Netlink};
use crate::publish::Publish;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// Which fields of the tuple count (net/netfilter/nf_internals.h).
const CTA_FILTER_F_CTA_IP_DST: u32 = 1 << 1;
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;

/// Forgets the flows to this port of these addresses of the host. A kernel that cannot (before 6.9, or without ctnetlink)
/// refuses, and forgets them by itself once they have been silent for two minutes.
pub(crate) fn forget(publish: &Publish, addresses: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    for address in addresses {
        let attributes = flows(publish, address);
        let mut bytes = Vec::new();
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
        let sequence =
            netlink.netfilter(&mut bytes, kind, NLM_F_ACK, NFPROTO_IPV4, 0, &attributes.0);
        match netlink.exchange(&bytes, sequence, sequence) {
            Ok(_) => {}
            Err(refusal)
                if matches!(
                    refusal.errno,
                    Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT
                ) =>
            {
                return Ok(());
            }
            Err(refusal) => {
                let what = format!("forget the flows to {address} port {}", publish.host_port);
                return Err(refusal.error(&what));
            }
        }
    }
    Ok(())
}

fn flows(publish: &Publish, address: Ipv4Addr) -> Attributes {
    let ip = Attributes::default().bytes(CTA_IP_V4_DST, &address.octets());
    let proto = Attributes::default()
        .bytes(CTA_PROTO_NUM, &[publish.protocol.number()])
        .bytes(CTA_PROTO_DST_PORT, &publish.host_port.to_be_bytes());
    let tuple = Attributes::default()
        .nest(CTA_TUPLE_IP, ip)
        .nest(CTA_TUPLE_PROTO, proto);
    let fields =
        CTA_FILTER_F_CTA_IP_DST | CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT;
    let filter = Attributes::default().bytes(CTA_FILTER_ORIG_FLAGS, &fields.to_ne_bytes());
    Attributes::default()
        .nest(CTA_TUPLE_ORIG, tuple)
        .nest(CTA_FILTER, filter)
}
