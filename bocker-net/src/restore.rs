//! What our table held, known without it: somebody has flushed the whole ruleset under containers that live, as a firewall
//! does that is started again. The next who makes the table puts it back, in the same transaction.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;

use bocker_pipe::{Document, Id, Result, claim, containers};

use crate::bridge::Bridge;
use crate::firewall::{Contents, Target};
use crate::member::Attachment;
use crate::network::{self, Network};
use crate::nft::Family;
use crate::publish::Publish;
use crate::route::Route;
use crate::{conntrack, host, lease};

const ATTACHMENTS: &str = "/bocker/net/attachments";

/// What is to be put back.
#[derive(Default)]
pub(crate) struct Lost {
    pub(crate) contents: Contents,
    ports: Vec<Publish>,
    families: Vec<Family>,
    /// Whose ports they are.
    known: Vec<Id>,
    /// Who lives, and what it had published nobody knows: a network that was made alone has no document on disk.
    unknown: Vec<Id>,
}

impl Lost {
    /// Looks for those who have a lease, and for what their documents say. `None` when there is nobody: then no table was lost.
    pub(crate) fn look(route: &mut Route) -> Result<Option<Lost>> {
        let mut leased: BTreeMap<Id, Vec<IpAddr>> = BTreeMap::new();
        for bridge in host::bridges_with_leases()? {
            for (address, id) in lease::list(&lease::folder(&bridge))? {
                leased.entry(id).or_default().push(address);
            }
        }
        if leased.is_empty() {
            return Ok(None);
        }
        let mut lost = Lost::default();
        // Of this root. Those of another are put back by the next create there, which finds them missing.
        let (networks, _) = network::list()?;
        for network in std::iter::once(Network::default_one()).chain(networks) {
            // What cannot be understood is said when it is used.
            if let Ok(bridge) = Bridge::look(route, network)
                && bridge.index != 0
            {
                lost.contents.add_bridge(&bridge.rules());
            }
        }
        for (id, leases) in leased {
            match attachments(&id) {
                Some(attachments) => lost.add(&id, &leases, attachments),
                None => lost.unknown.push(id),
            }
        }
        Ok(Some(lost))
    }

    fn add(&mut self, id: &Id, leases: &[IpAddr], attachments: Vec<Attachment>) {
        for attachment in attachments {
            let ports = attachment.ports();
            let mut target = Target::default();
            // What a document says of addresses counts where there is a lease.
            let addresses = attachment.result.ips.iter().filter_map(|ip| ip.address());
            for address in addresses.filter(|address| leases.contains(address)) {
                if attachment.masquerade {
                    self.contents.add_address(address, id);
                }
                match address {
                    IpAddr::V4(address) => _ = target.v4.get_or_insert(address),
                    IpAddr::V6(address) => _ = target.v6.get_or_insert(address),
                }
            }
            if ports.is_empty() || target == Target::default() {
                continue;
            }
            self.contents.add_ports(&ports, target, id);
            self.ports.extend(ports);
            self.families = [Family::V4, Family::V6].into();
            self.known.push(id.clone());
        }
    }

    /// What comes after the table is there again: flows that began without it are forgotten, and people are told.
    pub(crate) fn finish(&self, route: &mut Route) -> Result<()> {
        let names = |ids: &[Id]| {
            let names: Vec<&str> = ids.iter().map(Id::as_str).collect();
            names.join(", ")
        };
        let mut line = String::from(
            "bocker-net: our nftables table was gone, as after 'nft flush ruleset'; it is made again",
        );
        if !self.known.is_empty() {
            line += &format!(", with the ports of {}", names(&self.known));
        }
        if !self.unknown.is_empty() {
            line += &format!("; what {} had published is not known", names(&self.unknown));
        }
        line.push('\n');
        let _ = std::io::stderr().write_all(line.as_bytes());
        conntrack::forget(&self.ports, &self.families, || route.local_addresses(true))
    }
}

/// What the document of a container says of its networks, in whatever root it is kept. `None` when there is none that can be
/// read.
fn attachments(id: &Id) -> Option<Vec<Attachment>> {
    let root = claim::read(id)?.root;
    let path = root
        .join("containers")
        .join(id.as_str())
        .join(containers::CONFIG);
    let document = Document::read(File::open(path).ok()?).ok()?;
    let all = document.value(ATTACHMENTS)?.as_array()?;
    let ours = (0..all.len()).filter_map(|place| {
        let attachment: Option<Attachment> =
            document.get(&format!("{ATTACHMENTS}/{place}")).ok()?;
        attachment.filter(|one| one.bridge.is_some())
    });
    Some(ours.collect())
}
