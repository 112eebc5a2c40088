//! Connection tracking, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h): forgetting flows that would pass a newly
//! published port by. NAT is decided by a flow's first packet, and a UDP client that kept on asking while nobody answered, or
//! while another container did, is one flow for as long as it asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bocker_pipe::Result;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::netlink::{self, Attributes, HEADER, NFGENMSG, NLM_F_ACK, NLM_F_DUMP, Netlink, Refusal};
use crate::nft::Family;
use crate::publish::{Protocol, Publish};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// Which fields of the tuple count (net/netfilter/nf_internals.h).
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;

/// Forgets the flows to these ports of addresses of the host, which `local` lists when it matters. A kernel without ctnetlink
/// forgets them by itself once they have been silent for two minutes.
pub(crate) fn forget(
    ports: &[Publish],
    families: &[Family],
    local: impl FnOnce() -> Result<Vec<IpAddr>>,
) -> Result<()> {
    let ports: Vec<&Publish> = ports
        .iter()
        .filter(|publish| publish.protocol == Protocol::Udp)
        .collect();
    if ports.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut flows = Vec::new();
    for family in families {
        flows.extend(flows_to(&mut netlink, &ports, *family)?);
    }
    if flows.is_empty() {
        return Ok(());
    }
    let local = local()?;
    let is_local = |address: &IpAddr| address.is_loopback() || local.contains(address);
    for flow in flows.iter().filter(|flow| is_local(&flow.to)) {
        match flow.delete(&mut netlink) {
            Ok(()) => {}
            // Ended by itself meanwhile.
            Err(refusal) if refusal.errno == Errno::ENOENT => {}
            Err(refusal) => {
                let what = format!("forget a flow to {} port {}", flow.to, flow.port);
                return Err(refusal.error(&what));
            }
        }
    }
    Ok(())
}

/// A flow as the kernel knows it.
struct Flow {
    family: Family,
    to: IpAddr,
    port: u16,
    /// The attributes by which it is found again, and no other that has taken its place.
    name: Attributes,
}

/// The flows of UDP that were going to these ports, wherever they are. Those that the kernel can pick it does: since Linux
/// 5.8; before, it shows all.
fn flows_to(netlink: &mut Netlink, ports: &[&Publish], family: Family) -> Result<Vec<Flow>> {
    let tuple = Attributes::default().nest(
        CTA_TUPLE_PROTO,
        Attributes::default().bytes(CTA_PROTO_NUM, &[Protocol::Udp.number()]),
    );
    let filter = Attributes::default().bytes(
        CTA_FILTER_ORIG_FLAGS,
        &CTA_FILTER_F_CTA_PROTO_NUM.to_ne_bytes(),
    );
    let attributes = Attributes::default()
        .nest(CTA_TUPLE_ORIG, tuple)
        .nest(CTA_FILTER, filter);
    let mut bytes = Vec::new();
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
    let sequence = netlink.netfilter(
        &mut bytes,
        kind,
        NLM_F_DUMP,
        family.number(),
        0,
        &attributes.0,
    );
    match netlink.exchange(&bytes, sequence, sequence) {
        Ok(answers) => {
            let flows = answers.iter().filter_map(|answer| flow(answer, family));
            let wanted = |flow: &Flow| ports.iter().any(|publish| flow.is_to(publish));
            Ok(flows.filter(wanted).collect())
        }
        Err(refusal)
            if matches!(
                refusal.errno,
                Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT
            ) =>
        {
            Ok(Vec::new())
        }
        Err(refusal) => Err(refusal.error("list the flows of UDP")),
    }
}

fn flow(answer: &[u8], family: Family) -> Option<Flow> {
    let bytes = answer.get(HEADER + NFGENMSG..)?;
    let tuple = netlink::attribute(bytes, CTA_TUPLE_ORIG)?;
    let ip = netlink::attribute(tuple, CTA_TUPLE_IP)?;
    let proto = netlink::attribute(tuple, CTA_TUPLE_PROTO)?;
    if netlink::attribute(proto, CTA_PROTO_NUM)? != [Protocol::Udp.number()] {
        return None;
    }
    let to: IpAddr = match family {
        Family::V4 => {
            let octets = netlink::attribute(ip, CTA_IP_V4_DST)?;
            Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()
        }
        Family::V6 => {
            let octets = netlink::attribute(ip, CTA_IP_V6_DST)?;
            Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()
        }
    };
    let port = netlink::attribute(proto, CTA_PROTO_DST_PORT)?;
    // Tuple first, then what tells this flow from a later one with the same tuple.
    let mut name = Attributes::default().nest(CTA_TUPLE_ORIG, Attributes(tuple.to_vec()));
    for kind in [CTA_ID, CTA_ZONE] {
        if let Some(value) = netlink::attribute(bytes, kind) {
            name = name.bytes(kind, value);
        }
    }
    Some(Flow {
        family,
        to,
        port: u16::from_be_bytes(port.try_into().ok()?),
        name,
    })
}

impl Flow {
    fn is_to(&self, publish: &Publish) -> bool {
        let ports =
            u32::from(publish.host_port)..u32::from(publish.host_port) + u32::from(publish.range);
        ports.contains(&self.port.into())
            && publish.covers(self.family)
            && (publish.is_any() || publish.host_ip == Some(self.to))
    }

    fn delete(&self, netlink: &mut Netlink) -> std::result::Result<(), Refusal> {
        let mut bytes = Vec::new();
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
        let family = self.family.number();
        let sequence = netlink.netfilter(&mut bytes, kind, NLM_F_ACK, family, 0, &self.name.0);
        netlink.exchange(&bytes, sequence, sequence).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flow_is_read_and_named_by_its_tuple_and_its_number() {
        let ip = Attributes::default()
            .bytes(1, &[192, 0, 2, 2])
            .bytes(CTA_IP_V4_DST, &[192, 0, 2, 1]);
        let proto = Attributes::default()
            .bytes(CTA_PROTO_NUM, &[17])
            .bytes(2, &[0x80, 1])
            .bytes(CTA_PROTO_DST_PORT, &5353u16.to_be_bytes());
        let tuple = Attributes::default()
            .nest(CTA_TUPLE_IP, ip)
            .nest(CTA_TUPLE_PROTO, proto);
        let attributes = Attributes::default()
            .nest(CTA_TUPLE_ORIG, tuple)
            .bytes(CTA_ID, &[1, 2, 3, 4]);
        let mut answer = vec![0; HEADER + NFGENMSG];
        answer.extend(&attributes.0);
        let flow = flow(&answer, Family::V4).unwrap();
        assert_eq!(flow.name.0, attributes.0);
        for (text, is_meant) in [
            ("5353:53/udp", true),
            ("5350-5360:1-11/udp", true),
            ("192.0.2.1:5353:53/udp", true),
            ("127.0.0.1:5353:53/udp", false),
            ("[::]:5353:53/udp", false),
            ("5354:53/udp", false),
        ] {
            let wanted: crate::publish::Wanted = text.parse().unwrap();
            assert_eq!(flow.is_to(&wanted.settled().unwrap()), is_meant, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            flow(&bytes, Family::V4);
            flow(&bytes, Family::V6);
        }
    }
}
