//! The ports of one container on the way: asked for, checked before anything is made, chosen, and published.

use std::collections::HashSet;
use std::io::Write;

use bocker_pipe::{Document, Error, Id, Kind, Result};
use serde_json::Value;

use crate::firewall::{Firewall, Target, add_ports_commands};
use crate::nft::Family;
use crate::publish::{self, Protocol, Publish, Wanted};
use crate::route::Route;
use crate::{conntrack, used};

/// Where an image says which ports it uses.
const EXPOSED: &str = "/bocker/image/config/ExposedPorts";
/// How often ports are chosen anew that others have taken meanwhile.
const TRIES: usize = 32;

/// What was asked for, and what has come of it.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    asked: (Vec<Wanted>, bool),
    /// That, and what the image exposes.
    wanted: Vec<Wanted>,
    published: Vec<Publish>,
}

impl Ports {
    /// Those of `-p`, and with `-P` those of the image that are not among them.
    pub(crate) fn asked(
        publish: Vec<Wanted>,
        publish_all: bool,
        document: &Document,
    ) -> Result<Ports> {
        let mut wanted = publish.clone();
        if publish_all {
            let ports = document.value(EXPOSED).unwrap_or(&Value::Null);
            let (exposed, others) = publish::exposed(ports, &publish)?;
            wanted.extend(exposed);
            if !others.is_empty() {
                let others = others.join(", ");
                let line =
                    format!("bocker-net: not published, because neither tcp nor udp: {others}\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
        publish::check(&wanted)?;
        Ok(Ports {
            asked: (publish, publish_all),
            wanted,
            published: Vec::new(),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What was asked for by `-p`, and whether `-P` was, so that a later start can ask for it again.
    pub(crate) fn request(&self) -> (Vec<Wanted>, bool) {
        self.asked.clone()
    }

    /// What has come of it.
    pub(crate) fn published(&self) -> &[Publish] {
        &self.published
    }

    /// Refuses what cannot be published, by a container that speaks these families.
    pub(crate) fn refuse(&self, firewall: &mut Firewall, families: &[Family]) -> Result<()> {
        for wanted in &self.wanted {
            if let Some(ip) = wanted.host_ip
                && !families.contains(&Family::of(ip))
            {
                let what =
                    format!("cannot publish {wanted}: the container has no address of that kind");
                return Err(Error::new(Kind::Invalid, what)
                    .hint("a network with both is made by 'bocker network create --ipv6 NAME'"));
            }
        }
        let fixed = self.fixed();
        if fixed.is_empty() {
            return Ok(());
        }
        firewall.refuse_taken(&fixed, families)?;
        used::refuse(&fixed, families)
    }

    fn fixed(&self) -> Vec<Publish> {
        self.wanted.iter().filter_map(Wanted::settled).collect()
    }

    /// Chooses what was left open.
    pub(crate) fn choose(
        &mut self,
        firewall: &mut Firewall,
        families: &[Family],
        id: &Id,
    ) -> Result<()> {
        if self.fixed().len() == self.wanted.len() {
            self.published = self.fixed();
            return Ok(());
        }
        let taken: HashSet<(Protocol, u16)> = firewall
            .ports()?
            .into_iter()
            .map(|(publish, _)| (publish.protocol, publish.host_port))
            .collect();
        let is_taken = |one: &Publish| {
            let known = taken.contains(&(one.protocol, one.host_port));
            Ok(known || !used::is_free(one, families)?)
        };
        self.published = publish::settle(&self.wanted, id, publish::local_ports(), is_taken)?;
        Ok(())
    }

    /// Publishes them.
    pub(crate) fn publish(
        &mut self,
        firewall: &mut Firewall,
        route: &mut Route,
        to: Target,
        id: &Id,
    ) -> Result<()> {
        let families = to.families();
        let mut tries = 0;
        loop {
            tries += 1;
            self.choose(firewall, &families, id)?;
            match firewall.publish(&self.published, to, id) {
                // Somebody has chosen the same at the same time.
                Err(error)
                    if error.kind() == &Kind::InUse
                        && tries < TRIES
                        && self.fixed().len() < self.wanted.len() => {}
                result => break result,
            }
        }?;
        let forgotten = conntrack::forget(&self.published, &families, || {
            route.local_addresses(families.contains(&Family::V6))
        });
        if forgotten.is_err() {
            firewall.unpublish(&self.published, id)?;
        }
        forgotten
    }

    /// The commands that do the same.
    pub(crate) fn commands(&self, to: Target, id: &Id) -> Vec<String> {
        let mut lines = add_ports_commands(&self.published, to, id);
        let udp = |publish: &&Publish| publish.protocol == Protocol::Udp;
        for port in self.published.iter().filter(udp).flat_map(Publish::each) {
            let port = port.host_port;
            lines.push(format!("# conntrack -D -p udp --orig-port-dst {port}"));
        }
        lines
    }
}
