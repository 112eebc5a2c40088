//! `check`: what should be there of a container's network, by its document, against what is. Both are put down as facts, so that
//! whatever is missing, other than it should be, or there without a reason, is a line that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Document, Error, Id, Kind, Result, containers};
use serde::Serialize;

use crate::firewall::{self, Firewall};
use crate::gc::{self, Found};
use crate::host::Host;
use crate::member::{Attachment, CniIp, Net};
use crate::names::Names;
use crate::network::{self, Network};
use crate::nft::Family;
use crate::observe::{self, Inside, Peer};
use crate::plug::altname;
use crate::route::Route;
use crate::ruleset::CHAINS;
use crate::{BRIDGE, cni, files, netns};

/// The exit code when something differs.
const DIFFERS: u8 = 1;
const LOOPBACK: &str = "lo";
const NAMESPACE: &str = "a network namespace";
const UP: &str = "up";
const ON: &str = "on";
const FILE: &str = "a file";
const LEASE: &str = "lease";
const TOLD: &str = "told";

/// What is said of which property of which object.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Facts(BTreeMap<(&'static str, String, &'static str), String>);

impl Facts {
    fn say(
        &mut self,
        object: &'static str,
        name: impl Display,
        what: &'static str,
        is: impl Display,
    ) {
        self.0
            .insert((object, name.to_string(), what), is.to_string());
    }

    fn names_any(&self, object: &'static str) -> bool {
        self.0.keys().any(|(kind, ..)| *kind == object)
    }

    fn names(&self, object: &'static str, name: &str) -> bool {
        self.0
            .keys()
            .any(|(kind, of, _)| *kind == object && of == name)
    }
}

/// A line of `check`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference<'a> {
    /// The container; none for what all share.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id>,
    object: &'a str,
    name: &'a str,
    property: &'a str,
    expected: Option<&'a str>,
    found: Option<&'a str>,
}

/// All that differs, in the order of the objects' names.
fn differences<'a>(
    id: Option<&'a Id>,
    expected: &'a Facts,
    found: &'a Facts,
) -> Vec<Difference<'a>> {
    let mut keys: Vec<_> = expected.0.keys().chain(found.0.keys()).collect();
    keys.sort();
    keys.dedup();
    let difference = |key: &'a (&'static str, String, &'static str)| {
        let of = |facts: &'a Facts| facts.0.get(key).map(String::as_str);
        let (expected, found) = (of(expected), of(found));
        let (object, name, property) = key;
        (expected != found).then_some(Difference {
            id,
            object,
            name,
            property,
            expected,
            found,
        })
    };
    keys.into_iter().filter_map(difference).collect()
}

/// What the document says that there should be.
fn expected(id: &Id, net: &Net) -> Result<Facts> {
    let mut facts = Facts::default();
    if let Some(netns) = net.netns.as_ref().filter(|netns| netns.made) {
        facts.say("namespace", &netns.path, "is", NAMESPACE);
        facts.say("interface", LOOPBACK, "is", UP);
    }
    for attachment in &net.attachments {
        expect_attachment(&mut facts, id, attachment);
    }
    for line in Names::of_machine().to_tell(id)?.lines() {
        facts.say("neighbour", line, "in hosts", TOLD);
    }
    for path in files::paths(id) {
        facts.say("file", path.display(), "is", FILE);
    }
    for address in addresses(net) {
        facts.say("own address", address, "name in hosts", &net.hostname);
    }
    Ok(facts)
}

fn addresses(net: &Net) -> impl Iterator<Item = IpAddr> {
    let ips = net.attachments.iter().flat_map(|one| &one.result.ips);
    ips.filter_map(CniIp::address)
}

fn expect_attachment(facts: &mut Facts, id: &Id, attachment: &Attachment) {
    let Attachment { result, ifname, .. } = attachment;
    let [bridge, outer, inner] = result.interfaces.as_slice() else {
        return;
    };
    for (interface, leads) in [
        (outer, ("bridge", &bridge.name)),
        (inner, ("peer", &outer.name)),
    ] {
        facts.say("interface", &interface.name, "is", UP);
        facts.say("interface", &interface.name, leads.0, leads.1);
        if let Some(mac) = &interface.mac {
            facts.say("interface", &interface.name, "mac", mac);
        }
    }
    if bridge.name != BRIDGE {
        facts.say("names", &bridge.name, "hold", id);
    }
    let ports = attachment.ports();
    if !ports.is_empty() {
        facts.say("interface", &outer.name, "hairpin", ON);
    }
    for ip in &result.ips {
        facts.say("address", &ip.address, "interface", ifname);
        if let Some(address) = ip.address() {
            facts.say(LEASE, address, "container", id);
            facts.say(
                "alternative name",
                altname(address),
                "interface",
                &outer.name,
            );
            if attachment.masquerade {
                facts.say("masquerade", address, "container", id);
            }
        }
    }
    for route in &result.routes {
        facts.say("route", &route.dst, "by", way(route.gw, ifname));
    }
    for address in result.ips.iter().filter_map(CniIp::address) {
        for publish in firewall::as_read(&ports, &[Family::of(address)]) {
            let to = SocketAddr::new(address, publish.container_port);
            facts.say("port", publish.host(), "leads to", to);
        }
    }
}

fn way(gateway: Option<IpAddr>, interface: &str) -> String {
    match gateway {
        Some(gateway) => format!("{gateway} {interface}"),
        None => interface.to_owned(),
    }
}

/// What the containers on these networks share: what would have to be made for the next, and the rules of our table.
fn shared(names: &BTreeSet<String>) -> Result<(Facts, Facts)> {
    let (mut expected, mut found) = (Facts::default(), Facts::default());
    let mut networks: Vec<Network> = Vec::new();
    for name in names {
        expected.say("network", name, "is", "defined");
        match network::find(name) {
            Ok(network) => {
                found.say("network", name, "is", "defined");
                networks.push(network);
            }
            Err(error) if error.kind() == &Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut host = Host::look(&networks, true)?;
    for step in host.steps::<Host>() {
        expected.say("shared", step.name(), "is", "done");
        found.say("shared", step.name(), "is", "to be done");
    }
    let chains = host.firewall.chains_of_rules()?;
    for chain in &CHAINS {
        let count = chains.iter().filter(|name| *name == chain.name).count();
        expected.say("chain", chain.name, "rules", chain.rules.len());
        found.say("chain", chain.name, "rules", count);
    }
    Ok((expected, found))
}

/// What there is of it.
fn found(id: &Id, net: &Net, objects: &Found, expected: &Facts, is_over: bool) -> Result<Facts> {
    let mut facts = Facts::default();
    let path = netns::path(id);
    if netns::is_pinned(&path) {
        facts.say("namespace", path.display(), "is", NAMESPACE);
        find_inside(&mut facts, &observe::inside(&path)?, expected);
    }
    // The host's end is there without the other as long as a process is in the namespace, and after a create that was killed.
    for link in &objects.links {
        if facts.names("interface", link) || is_over && goes_by_itself(link)? {
            continue;
        }
        facts.say("interface", link, "is", "without its peer");
    }
    for address in &objects.leases {
        facts.say(LEASE, address, "container", id);
    }
    for address in &objects.masqueraded {
        facts.say("masquerade", address, "container", id);
    }
    if !objects.publish.is_empty() {
        for (publish, address) in Firewall::open()?.targets(id)? {
            let to = SocketAddr::new(address, publish.container_port);
            facts.say("port", publish.host(), "leads to", to);
        }
    }
    for path in files::paths(id) {
        if let Ok(meta) = fs::symlink_metadata(&path) {
            let is = if meta.is_file() { FILE } else { "no file" };
            facts.say("file", path.display(), "is", is);
        }
    }
    for bridge in &objects.named {
        facts.say("names", bridge, "hold", id);
    }
    for line in Names::of_machine().told(id)?.lines() {
        facts.say("neighbour", line, "in hosts", TOLD);
    }
    let hosts = files::read_hosts(id)?;
    for address in addresses(net) {
        if let Some(name) = first_name(&hosts, address) {
            facts.say("own address", address, "name in hosts", name);
        }
    }
    Ok(facts)
}

/// Whether an interface goes that is the kernel's to remove, with the namespace that held its peer.
fn goes_by_itself(name: &str) -> Result<bool> {
    let begun = Instant::now();
    let mut route = Route::open()?;
    while route.link(name)?.is_some() {
        if begun.elapsed() > netns::ENDS_WITHIN {
            return Ok(false);
        }
        std::thread::sleep(netns::PAUSE);
    }
    Ok(true)
}

/// The name that a hosts file gives an address first (hosts(5)).
fn first_name(hosts: &str, address: IpAddr) -> Option<&str> {
    hosts.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()?.parse() == Ok(address)).then(|| words.next())?
    })
}

fn find_inside(facts: &mut Facts, inside: &Inside, expected: &Facts) {
    for interface in &inside.interfaces {
        let name = &interface.link.name;
        // The kernel gives namespaces interfaces of its own, which are down.
        if !interface.link.up && !expected.names("interface", name) {
            continue;
        }
        facts.say("interface", name, "is", state(interface.link.up));
        if name == LOOPBACK {
            continue;
        }
        facts.say("interface", name, "mac", &interface.link.mac);
        for address in &interface.addresses {
            if !is_of_the_kernel(address) {
                facts.say("address", address, "interface", name);
            }
        }
        if let Some(peer) = &interface.peer {
            find_peer(facts, name, peer);
        }
    }
    for route in &inside.routes {
        facts.say("route", &route.dst, "by", way(route.gw, &route.interface));
    }
}

fn find_peer(facts: &mut Facts, name: &str, peer: &Peer) {
    let outer = &peer.link.name;
    facts.say("interface", name, "peer", outer);
    facts.say("interface", outer, "is", state(peer.link.up));
    facts.say("interface", outer, "mac", &peer.link.mac);
    if let Some(bridge) = &peer.bridge {
        facts.say("interface", outer, "bridge", bridge);
    }
    if peer.hairpin {
        facts.say("interface", outer, "hairpin", ON);
    }
    for altname in &peer.link.altnames {
        facts.say("alternative name", altname, "interface", outer);
    }
}

fn state(up: bool) -> &'static str {
    if up { UP } else { "down" }
}

/// Link-local addresses of IPv6 come with every interface.
fn is_of_the_kernel(address: &str) -> bool {
    let address = address.split('/').next().unwrap_or_default();
    address
        .parse()
        .is_ok_and(|address: Ipv6Addr| address.is_unicast_link_local())
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let mut documents = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Value(word) if word == "-" => documents.push(Document::read(std::io::stdin())?),
            Arg::Value(word) => documents.push(of_container(call, &word)?),
            Arg::Option(option) => return Err(call.unknown(&option)),
        }
    }
    let objects = gc::find()?;
    if documents.is_empty() {
        documents = all()?;
    }
    let mut differs = false;
    let mut networks = BTreeSet::new();
    for document in &documents {
        let id = document.id()?;
        let nothing = Found::nothing(id.clone());
        let objects = objects.of(&id).unwrap_or(&nothing);
        let (expected, found) = compare(&id, document, objects)?;
        for difference in differences(Some(&id), &expected, &found) {
            differs = true;
            call.line(&difference)?;
        }
        if expected.names_any(LEASE) {
            let net: Net = document.need("/bocker/net", "bocker-net create")?;
            networks.extend(net.attachments.into_iter().map(|one| one.network));
        }
    }
    if !networks.is_empty() {
        let (expected, found) = shared(&networks)?;
        for difference in differences(None, &expected, &found) {
            differs = true;
            call.line(&difference)?;
        }
    }
    if differs {
        call.set_exit_code(DIFFERS);
    }
    Ok(())
}

fn of_container(call: &mut Call, word: &OsStr) -> Result<Document> {
    let name = word
        .to_str()
        .ok_or_else(|| call.unexpected(&word.to_owned()))?;
    let document = call.document_of(name)?.clone();
    match document.value("/bocker/net") {
        Some(_) => Ok(document),
        None => {
            let what = format!("{name} has no document that tells of its network");
            Err(Error::new(Kind::NotFound, what).hint(
                "give the one that 'bocker-net create' has written, with 'bocker-net check -'",
            ))
        }
    }
}

/// The documents of all containers of our root that have a network.
fn all() -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for id in containers::list()? {
        // One that is damaged, or goes at this moment, is not for this verb to name.
        documents.extend(
            containers::load(&id)
                .ok()
                .filter(|one| one.value("/bocker/net").is_some()),
        );
    }
    Ok(documents)
}

fn compare(id: &Id, document: &Document, objects: &Found) -> Result<(Facts, Facts)> {
    if cni::is_in(document) {
        return asked_of_plugins(id);
    }
    let net: Net = document.need("/bocker/net", "bocker-net create")?;
    // Of one that has ended only what was asked for is left in the document, so that a start can make it again.
    let is_over = State::of(id, || gc::has_processes(id), || false) == State::Exited;
    let expected = if is_over {
        Facts::default()
    } else {
        expected(id, &net)?
    };
    let found = found(id, &net, objects, &expected, is_over)?;
    Ok((expected, found))
}

/// What plugins have made, they can tell.
fn asked_of_plugins(id: &Id) -> Result<(Facts, Facts)> {
    let (mut expected, mut found) = (Facts::default(), Facts::default());
    for (network, answer) in cni::check(id)? {
        expected.say("network", &network, "CHECK", "passes");
        match answer {
            Ok(()) => found.say("network", &network, "CHECK", "passes"),
            Err(error) => found.say("network", &network, "CHECK", error),
        }
    }
    Ok((expected, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_other_or_there_without_a_reason_is_named() {
        let (mut expected, mut found) = (Facts::default(), Facts::default());
        for facts in [&mut expected, &mut found] {
            facts.say("interface", "eth0", "is", UP);
        }
        assert!(differences(None, &expected, &found).is_empty());
        expected.say("address", "10.0.0.2/16", "interface", "eth0");
        expected.say("route", "0.0.0.0/0", "by", "10.0.0.1 eth0");
        found.say("route", "0.0.0.0/0", "by", "10.0.0.9 eth0");
        found.say(LEASE, "10.0.0.3", "container", "ps_abc123");
        let lines: Vec<String> = differences(None, &expected, &found)
            .iter()
            .map(|one| serde_json::to_string(one).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                r#"{"object":"address","name":"10.0.0.2/16","property":"interface","expected":"eth0","found":null}"#,
                r#"{"object":"lease","name":"10.0.0.3","property":"container","expected":null,"found":"ps_abc123"}"#,
                r#"{"object":"route","name":"0.0.0.0/0","property":"by","expected":"10.0.0.1 eth0","found":"10.0.0.9 eth0"}"#,
            ]
        );
    }

    #[test]
    fn the_first_line_of_an_address_names_it() {
        let hosts = "127.0.0.1\tlocalhost\n# 10.0.0.2 x\n10.0.0.2\tweb.lan web\n10.0.0.2\tother\n10.0.0.3\n";
        let name = |address: &str| first_name(hosts, address.parse().unwrap());
        assert_eq!(name("10.0.0.2"), Some("web.lan"));
        assert_eq!(name("10.0.0.3"), None);
        assert_eq!(name("10.0.0.4"), None);
    }
}
