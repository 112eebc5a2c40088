//! Our nftables table in the kernel, and what is put into it and taken out for each bridge and container. Only this table is
//! ever touched. A packet that another table drops stays dropped: an accept ends one table's chain only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bocker_pipe::{Error, Id, Kind, Result};
use nix::errno::Errno;

use crate::netlink::Refusal;
use crate::nft::{BaseChain, Element, Family, Nft};
use crate::publish::{Protocol, Publish};
use crate::ruleset::{BRIDGES, CHAINS, COMMENT, INTERNAL, SETS, TABLE, WITHIN, interface};
use crate::subnet::Subnet;

/// The sets of the table `ip bocker` that are in this one under the same names.
const FORMER_SETS: [&str; 3] = [
    Family::V4.containers(),
    Family::V4.published(),
    Family::V4.published_any(),
];

/// So many ports are asked for one by one; where there are more, all of a map is read.
const FEW: usize = 8;
/// Bytes of the key of a port on all addresses: protocol and port, each in a part of the register.
const PORT_KEY: usize = 8;

/// A bridge that containers are connected to, as our table knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BridgeRules<'a> {
    /// The interface's name, and the comment of its elements.
    pub(crate) name: &'a str,
    /// Whose addresses are containers'; none on a bridge of the user's, where others are too.
    pub(crate) subnets: &'a [Subnet],
    /// Whether nothing is forwarded into it and nothing out of it.
    pub(crate) internal: bool,
    /// Whether containers on it are not forwarded to each other either.
    pub(crate) isolated: bool,
}

impl BridgeRules<'_> {
    /// What it is in the table: sets, and the elements of each, as nft(8) writes them and as the kernel takes them.
    fn elements(&self) -> Vec<(&'static str, String, Vec<Element>)> {
        let comment = Some(self.name);
        let (name, key) = (format!("\"{}\"", self.name), interface(self.name));
        let mut all = vec![(
            BRIDGES,
            name.clone(),
            vec![element(key.clone(), Vec::new(), comment)],
        )];
        if self.internal {
            all.push((
                INTERNAL,
                name.clone(),
                vec![element(key.clone(), Vec::new(), comment)],
            ));
        }
        if !self.isolated {
            let pair = [key.clone(), key].concat();
            all.push((
                WITHIN,
                format!("{name} . {name}"),
                vec![element(pair, Vec::new(), comment)],
            ));
        }
        for subnet in self.subnets {
            let set = family(*subnet).containers();
            all.push((set, subnet.to_string(), range(*subnet, comment)));
        }
        all
    }

    /// The nft(8) commands that do what [`Firewall::add_bridge`] does.
    pub(crate) fn add_commands(&self) -> Vec<String> {
        let add = |(set, text, _): (&str, String, _)| {
            element_command("add", set, &format!("{text} comment \"{}\"", self.name))
        };
        self.elements().into_iter().map(add).collect()
    }

    /// The nft(8) commands that do what [`Firewall::remove_bridge`] does.
    pub(crate) fn remove_commands(&self) -> Vec<String> {
        let delete = |(set, text, _): (&str, String, _)| element_command("delete", set, &text);
        self.elements().into_iter().map(delete).collect()
    }
}

fn family(subnet: Subnet) -> Family {
    Family::of(subnet.network())
}

fn element_command(verb: &str, set: &str, text: &str) -> String {
    format!("nft {verb} element inet {TABLE} {set} '{{ {text} }}'")
}

/// The nft(8) command by which this address is a container's; whose, the comment says.
pub(crate) fn add_address_command(address: IpAddr, id: &Id) -> String {
    let text = format!("{address} comment \"{id}\"");
    element_command("add", Family::of(address).containers(), &text)
}

/// The nft(8) command by which it is not any more.
pub(crate) fn delete_address_command(address: IpAddr) -> String {
    element_command(
        "delete",
        Family::of(address).containers(),
        &address.to_string(),
    )
}

/// Where published ports lead: a container's addresses, at most one of each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Target {
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = (self.v4.map(IpAddr::from), self.v6.map(IpAddr::from));
        v4.into_iter().chain(v6)
    }

    /// The families in which something can be published.
    pub(crate) fn families(self) -> Vec<Family> {
        self.addresses().map(Family::of).collect()
    }
}

fn port_set(publish: &Publish, family: Family) -> &'static str {
    if publish.is_any() {
        family.published_any()
    } else {
        family.published()
    }
}

/// Of one port.
fn port_key_text(publish: &Publish) -> String {
    let port = format!("{} . {}", publish.protocol, publish.host_port);
    match publish.host_ip {
        Some(ip) if !publish.is_any() => format!("{ip} . {port}"),
        _ => port,
    }
}

/// Of one port.
fn port_key(publish: &Publish) -> Vec<u8> {
    let mut key = match publish.host_ip {
        Some(ip) if !publish.is_any() => octets(ip),
        _ => Vec::new(),
    };
    key.extend([publish.protocol.number(), 0, 0, 0]);
    key.extend(publish.host_port.to_be_bytes());
    key.extend([0, 0]);
    key
}

/// The elements that publish these ports, by the map that they go into; of which address, the target says.
fn port_elements(ports: &[Publish], to: Target, id: &Id) -> Vec<(&'static str, Vec<Element>)> {
    let mut maps: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for address in to.addresses() {
        let family = Family::of(address);
        for publish in ports.iter().filter(|publish| publish.covers(family)) {
            let map = port_set(publish, family);
            let elements = publish.each().map(|one| {
                let mut data = octets(address);
                data.extend(one.container_port.to_be_bytes());
                data.extend([0, 0]);
                element(port_key(&one), data, Some(id.as_str()))
            });
            match maps.iter_mut().find(|(name, _)| *name == map) {
                Some((_, all)) => all.extend(elements),
                None => maps.push((map, elements.collect())),
            }
        }
    }
    maps
}

/// The nft(8) commands that publish ports, one for each map.
pub(crate) fn add_ports_commands(ports: &[Publish], to: Target, id: &Id) -> Vec<String> {
    let mut texts = Texts::default();
    for address in to.addresses() {
        let family = Family::of(address);
        for publish in ports.iter().filter(|publish| publish.covers(family)) {
            texts.add(port_set(publish, family), publish, |one| {
                let (key, port) = (port_key_text(one), one.container_port);
                format!("{key} comment \"{id}\" : {address} . {port}")
            });
        }
    }
    texts.commands("add")
}

/// The nft(8) commands that take them back. Those on all addresses are of these families.
pub(crate) fn delete_ports_commands(ports: &[Publish], families: &[Family]) -> Vec<String> {
    let mut texts = Texts::default();
    for family in [Family::V4, Family::V6] {
        let is_there = |publish: &&Publish| match publish.host_ip {
            Some(ip) => Family::of(ip) == family,
            None => families.contains(&family),
        };
        for publish in ports.iter().filter(is_there) {
            texts.add(port_set(publish, family), publish, port_key_text);
        }
    }
    texts.commands("delete")
}

/// Elements as nft(8) writes them, by the map that they are of.
#[derive(Default)]
struct Texts(Vec<(&'static str, Vec<String>)>);

impl Texts {
    fn add(&mut self, map: &'static str, publish: &Publish, text: impl Fn(&Publish) -> String) {
        let texts = publish.each().map(|one| text(&one));
        match self.0.iter_mut().find(|(name, _)| *name == map) {
            Some((_, all)) => all.extend(texts),
            None => self.0.push((map, texts.collect())),
        }
    }

    fn commands(self, verb: &str) -> Vec<String> {
        let command =
            |(map, texts): (&str, Vec<String>)| element_command(verb, map, &texts.join(", "));
        self.0.into_iter().map(command).collect()
    }
}

/// The reverse of an element's key and data, of any of the maps.
fn published(element: &Element, family: Family) -> Option<(Publish, IpAddr)> {
    let (host_ip, key) = match element.key.len().checked_sub(PORT_KEY)? {
        0 => (any(family), &element.key[..]),
        length => {
            let (ip, rest) = element.key.split_at(length);
            (Some(address(ip)?), rest)
        }
    };
    let [protocol, _, _, _, port_high, port_low, ..] = *key else {
        return None;
    };
    let (to, port) = element.data.split_at_checked(family.length() as usize)?;
    let [to_high, to_low, ..] = *port else {
        return None;
    };
    let publish = Publish {
        host_ip,
        host_port: u16::from_be_bytes([port_high, port_low]),
        container_port: u16::from_be_bytes([to_high, to_low]),
        range: 1,
        protocol: Protocol::from_number(protocol)?,
    };
    Some((publish, address(to)?))
}

/// Published ports as [`Firewall::ports`] reads them back: one by one, and those on all addresses once for each family.
pub(crate) fn as_read(ports: &[Publish], families: &[Family]) -> Vec<Publish> {
    let of = |family: &Family| {
        let covered = ports.iter().filter(|publish| publish.covers(*family));
        let read = |one: Publish| Publish {
            host_ip: if one.is_any() {
                any(*family)
            } else {
                one.host_ip
            },
            ..one
        };
        covered
            .flat_map(Publish::each)
            .map(read)
            .collect::<Vec<_>>()
    };
    families.iter().flat_map(of).collect()
}

/// All addresses of a family. Those of IPv4 are not told from all there are: containers without IPv6 have no others.
fn any(family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => None,
        Family::V6 => Some(Ipv6Addr::UNSPECIFIED.into()),
    }
}

/// What is put into our table as it is made.
#[derive(Default)]
pub(crate) struct Contents {
    /// The nft(8) commands that do the same.
    pub(crate) commands: Vec<String>,
    elements: Vec<(&'static str, Vec<Element>)>,
}

impl Contents {
    pub(crate) fn add_bridge(&mut self, bridge: &BridgeRules<'_>) {
        self.commands.extend(bridge.add_commands());
        let elements = bridge.elements().into_iter();
        self.elements
            .extend(elements.map(|(set, _, elements)| (set, elements)));
    }

    pub(crate) fn add_address(&mut self, address: IpAddr, id: &Id) {
        self.commands.push(add_address_command(address, id));
        let elements = range_of_one(address, Some(id.as_str()));
        self.elements
            .push((Family::of(address).containers(), elements));
    }

    pub(crate) fn add_ports(&mut self, ports: &[Publish], to: Target, id: &Id) {
        self.commands.extend(add_ports_commands(ports, to, id));
        self.elements.extend(port_elements(ports, to, id));
    }
}

/// Our table in the kernel.
pub(crate) struct Firewall {
    nft: Nft,
}

impl Firewall {
    /// In the calling thread's network namespace.
    pub(crate) fn open() -> Result<Firewall> {
        Ok(Firewall {
            nft: Nft::open(None, TABLE)?,
        })
    }

    /// Whether the table is there. Fails with [`Kind::Exists`] when a table of this name is not ours.
    pub(crate) fn exists(&mut self) -> Result<bool> {
        match comment(&mut self.nft)? {
            None => Ok(false),
            Some(comment) if comment == COMMENT => Ok(true),
            Some(_) => Err(Error::new(
                Kind::Exists,
                format!("the nftables table inet {TABLE} is not ours"),
            )
            .hint(format!(
                "rename it, or remove it with 'nft delete table inet {TABLE}'"
            ))),
        }
    }

    /// The table `ip bocker`, which was ours before we looked after IPv6 as well, if there is one still. One that is not ours
    /// is in nobody's way.
    fn former() -> Result<Option<Nft>> {
        let mut nft = Nft::open(Some(Family::V4), TABLE)?;
        Ok((comment(&mut nft)?.as_deref() == Some(COMMENT)).then_some(nft))
    }

    /// Whether there is a table of an older bocker-net's, which [`Firewall::make`] takes over.
    pub(crate) fn has_former() -> Result<bool> {
        Ok(Firewall::former()?.is_some())
    }

    /// Makes the table and all that is in it, at once, and in it what is known to belong there. What the former table holds is taken over, in the same instant, so
    /// that containers that run meanwhile keep their ports.
    pub(crate) fn make(&mut self, contents: &Contents) -> Result<()> {
        let mut batch = self.nft.batch();
        self.nft.add_table(&mut batch, COMMENT);
        for (id, set) in (1..).zip(&SETS) {
            self.nft.add_set(&mut batch, id, set.name, &set.holds);
        }
        for chain in &CHAINS {
            self.nft.add_chain(
                &mut batch,
                chain.name,
                chain.kind,
                chain.hook.1,
                chain.priority,
            );
            for rule in chain.rules {
                self.nft.add_rule(
                    &mut batch,
                    chain.name,
                    rule.iter().flat_map(|part| part.expressions()).collect(),
                );
            }
        }
        for (set, elements) in &contents.elements {
            self.nft.add_elements(&mut batch, set, elements);
        }
        if let Some(mut former) = Firewall::former()? {
            for set in FORMER_SETS {
                let elements = former.elements(set).map_err(|refusal| {
                    refusal.error(&format!("list the set {set} of the table ip {TABLE}"))
                })?;
                self.nft.add_elements(&mut batch, set, &elements);
            }
            self.nft.delete_table_of(&mut batch, Family::V4);
        }
        let made = self.nft.commit(batch);
        made.map_err(|refusal| {
            unsupported(&refusal, &format!("make the nftables table inet {TABLE}"))
        })
    }

    /// Removes the table, and the former one. Already gone is success.
    pub(crate) fn remove(&mut self) -> Result<()> {
        let mut batch = self.nft.batch();
        let (has_table, has_former) = (self.exists()?, Firewall::former()?.is_some());
        if has_table {
            self.nft.delete_table(&mut batch);
        }
        if has_former {
            self.nft.delete_table_of(&mut batch, Family::V4);
        }
        if !has_table && !has_former {
            return Ok(());
        }
        gone_is_success(self.nft.commit(batch), || {
            format!("delete the nftables table inet {TABLE}")
        })
    }

    /// Whether the bridge is in the table, and so all of it: it is put there at once. False without the table.
    pub(crate) fn has_bridge(&mut self, bridge: &BridgeRules<'_>) -> Result<bool> {
        let found = self.nft.get_element(BRIDGES, &interface(bridge.name));
        let found = found.map_err(|refusal| {
            unsupported(&refusal, &format!("look into the table inet {TABLE}"))
        })?;
        Ok(found.is_some_and(|element| element.comment.as_deref() == Some(bridge.name)))
    }

    /// From now on containers are on this bridge: masqueraded, and closed to other networks but for published ports.
    /// Already known is success.
    pub(crate) fn add_bridge(&mut self, bridge: &BridgeRules<'_>) -> Result<()> {
        let mut batch = self.nft.batch();
        for (set, _, elements) in bridge.elements() {
            self.nft.add_elements(&mut batch, set, &elements);
        }
        let added = self.nft.commit(batch);
        added.map_err(|refusal| refusal.error(&format!("put {} into our table", bridge.name)))
    }

    /// The bridge is no containers' any more. Already gone, or another's by now, is success.
    pub(crate) fn remove_bridge(&mut self, bridge: &BridgeRules<'_>) -> Result<()> {
        let mut batch = self.nft.batch();
        let mut is_there = false;
        for (set, _, elements) in bridge.elements() {
            let Some(first) = elements.first() else {
                continue;
            };
            if owner(&mut self.nft, set, &first.key)?.as_deref() == Some(bridge.name) {
                self.nft.delete_elements(&mut batch, set, &elements);
                is_there = true;
            }
        }
        if !is_there {
            return Ok(());
        }
        gone_is_success(self.nft.commit(batch), || {
            format!("take {} out of our table", bridge.name)
        })
    }

    /// From now on this address is a container's, on a bridge where there are other machines.
    pub(crate) fn add_address(&mut self, address: IpAddr, id: &Id) -> Result<()> {
        let mut batch = self.nft.batch();
        let elements = range_of_one(address, Some(id.as_str()));
        let set = Family::of(address).containers();
        self.nft.add_elements(&mut batch, set, &elements);
        let added = self.nft.commit(batch);
        added.map_err(|refusal| refusal.error(&format!("masquerade {address}")))
    }

    /// Takes a container's address back. Already gone, or another's by now, is success.
    pub(crate) fn delete_address(&mut self, address: IpAddr, id: &Id) -> Result<()> {
        let set = Family::of(address).containers();
        self.delete(set, &range_of_one(address, None), id)
    }

    /// Publishes ports, all or none. Fails with [`Kind::InUse`] when one is taken; the kernel decides, whoever else tries at
    /// this moment.
    pub(crate) fn publish(&mut self, ports: &[Publish], to: Target, id: &Id) -> Result<()> {
        let mut batch = self.nft.batch();
        for (map, elements) in port_elements(ports, to, id) {
            self.nft.create_elements(&mut batch, map, &elements);
        }
        match self.nft.commit(batch) {
            Err(refusal) if refusal.errno == Errno::EEXIST => {
                self.refuse_taken(ports, &to.families())?;
                Err(refusal.error("publish ports"))
            }
            result => result.map_err(|refusal| refusal.error("publish ports")),
        }
    }

    /// Takes published ports back. Already gone, or another's by now, is success.
    pub(crate) fn unpublish(&mut self, ports: &[Publish], id: &Id) -> Result<()> {
        if ports.is_empty() || unpublish_of(&mut self.nft, ports, id)? {
            return Ok(());
        }
        if let Some(mut former) = Firewall::former()? {
            unpublish_of(&mut former, ports, id)?;
        }
        Ok(())
    }

    /// Fails with [`Kind::InUse`] when one of the ports is published already.
    pub(crate) fn refuse_taken(&mut self, ports: &[Publish], families: &[Family]) -> Result<()> {
        let taken = if count(ports) <= FEW {
            self.holder_of_few(ports, families)?
        } else {
            let collides = |(other, _): &(Publish, Id)| ports.iter().any(|one| one.collides(other));
            self.ports()?
                .into_iter()
                .find(collides)
                .map(|(publish, id)| (publish, id.to_string()))
        };
        match taken {
            None => Ok(()),
            Some((publish, holder)) => Err(Error::new(
                Kind::InUse,
                format!(
                    "port {} of the host is published by {holder} already",
                    publish.host()
                ),
            )
            .hint("choose another port, or remove that container")),
        }
    }

    /// One of these ports that would collide, and who has it, by asking for each.
    fn holder_of_few(
        &mut self,
        ports: &[Publish],
        families: &[Family],
    ) -> Result<Option<(Publish, String)>> {
        let ask = |refusal: Refusal| refusal.error("look for the published ports");
        for family in families {
            let covered = ports.iter().filter(|publish| publish.covers(*family));
            for one in covered.flat_map(Publish::each) {
                let any = Publish {
                    host_ip: None,
                    ..one.clone()
                };
                let mut found = self
                    .nft
                    .get_element(family.published_any(), &port_key(&any))
                    .map_err(ask)?;
                if found.is_none() && one.is_any() {
                    let all = self.nft.elements(family.published()).map_err(ask)?;
                    found = all.into_iter().find(|element| {
                        published(element, *family).is_some_and(|(other, _)| other.collides(&one))
                    });
                } else if found.is_none() {
                    found = self
                        .nft
                        .get_element(family.published(), &port_key(&one))
                        .map_err(ask)?;
                }
                if let Some(element) = found {
                    return Ok(Some((one, element.comment.unwrap_or_default())));
                }
            }
        }
        Ok(None)
    }

    /// The chains of all tables of the host.
    pub(crate) fn base_chains(&mut self) -> Result<Vec<BaseChain>> {
        self.nft
            .chains()
            .map_err(|refusal| refusal.error("list the chains of the host's firewall"))
    }

    /// The chain of each rule that is in our table.
    pub(crate) fn chains_of_rules(&mut self) -> Result<Vec<String>> {
        self.nft
            .chains_of_rules()
            .map_err(|refusal| refusal.error("list the rules of our table"))
    }

    /// Addresses on a bridge of the user's, with the ids that their comments name.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(IpAddr, Id)>> {
        let mut all = Vec::new();
        for family in [Family::V4, Family::V6] {
            let elements = self
                .nft
                .elements(family.containers())
                .map_err(|refusal| refusal.error("list the containers' addresses"))?;
            let address = |element: Element| Some((address(&element.key)?, holder(element)?));
            all.extend(elements.into_iter().filter_map(address));
        }
        Ok(all)
    }

    /// All published ports one by one, with the ids that their comments name.
    pub(crate) fn ports(&mut self) -> Result<Vec<(Publish, Id)>> {
        let ports = self.ports_and_targets()?.into_iter();
        Ok(ports.map(|(publish, _, id)| (publish, id)).collect())
    }

    /// The same of one container, with the addresses to which they lead.
    pub(crate) fn targets(&mut self, id: &Id) -> Result<Vec<(Publish, IpAddr)>> {
        let ports = self.ports_and_targets()?.into_iter();
        let ports = ports.filter(|(_, _, holder)| holder == id);
        Ok(ports.map(|(publish, to, _)| (publish, to)).collect())
    }

    fn ports_and_targets(&mut self) -> Result<Vec<(Publish, IpAddr, Id)>> {
        let mut ports = Vec::new();
        for family in [Family::V4, Family::V6] {
            for map in [family.published(), family.published_any()] {
                let elements = self
                    .nft
                    .elements(map)
                    .map_err(|refusal| refusal.error("list the published ports"))?;
                let port = |element| {
                    let (publish, to) = published(&element, family)?;
                    Some((publish, to, holder(element)?))
                };
                ports.extend(elements.into_iter().filter_map(port));
            }
        }
        Ok(ports)
    }

    /// Only an element that names the id is deleted, of our table or of the former one. It stays this id's until this id's
    /// own delete comes, and the verbs on one container are ordered, so that nothing happens between the question and the
    /// deletion.
    fn delete(&mut self, set: &str, elements: &[Element], id: &Id) -> Result<()> {
        if delete_of(&mut self.nft, set, elements, id)? {
            return Ok(());
        }
        if let Some(mut former) = Firewall::former()? {
            delete_of(&mut former, set, elements, id)?;
        }
        Ok(())
    }
}

/// How many ports these are. What a document says may be anything.
fn count(ports: &[Publish]) -> usize {
    ports.iter().fold(0, |sum, publish| {
        usize::saturating_add(sum, publish.range.into())
    })
}

/// Of what is this id's, all that these ports are; where they are many, all there is, in two messages a map rather than two
/// for each. Answers whether there was anything.
fn unpublish_of(nft: &mut Nft, ports: &[Publish], id: &Id) -> Result<bool> {
    let is_ours = |element: &Element| element.comment.as_deref() == Some(id.as_str());
    let mut batch = nft.batch();
    let mut any = false;
    for family in [Family::V4, Family::V6] {
        for map in [family.published(), family.published_any()] {
            let mut covered = ports
                .iter()
                .filter(|publish| publish.covers(family) && port_set(publish, family) == map)
                .peekable();
            if covered.peek().is_none() {
                continue;
            }
            let ask = |refusal: Refusal| refusal.error(&format!("read the map {map}"));
            let found: Vec<Element> = if count(ports) > FEW {
                nft.elements(map).map_err(ask)?
            } else {
                let mut found = Vec::new();
                for one in covered.flat_map(Publish::each) {
                    found.extend(nft.get_element(map, &port_key(&one)).map_err(ask)?);
                }
                found
            };
            let ours: Vec<Element> = found
                .into_iter()
                .filter(is_ours)
                .map(|found| element(found.key, Vec::new(), None))
                .collect();
            any |= !ours.is_empty();
            nft.delete_elements(&mut batch, map, &ours);
        }
    }
    if !any {
        return Ok(false);
    }
    gone_is_success(nft.commit(batch), || "take published ports back".into())?;
    Ok(true)
}

/// Answers whether the first of the elements was this id's.
fn delete_of(nft: &mut Nft, set: &str, elements: &[Element], id: &Id) -> Result<bool> {
    let Some(first) = elements.first() else {
        return Ok(true);
    };
    if owner(nft, set, &first.key)?.as_deref() != Some(id.as_str()) {
        return Ok(false);
    }
    let mut batch = nft.batch();
    nft.delete_elements(&mut batch, set, elements);
    gone_is_success(nft.commit(batch), || {
        format!("delete an element of the set {set}")
    })?;
    Ok(true)
}

/// Whose an element is, by its comment.
fn owner(nft: &mut Nft, set: &str, key: &[u8]) -> Result<Option<String>> {
    let element = nft
        .get_element(set, key)
        .map_err(|refusal| refusal.error(&format!("read the set {set}")))?;
    Ok(element.and_then(|element| element.comment))
}

fn element(key: Vec<u8>, data: Vec<u8>, comment: Option<&str>) -> Element {
    Element {
        key,
        data,
        comment: comment.map(str::to_owned),
        ends: false,
    }
}

/// A subnet as a set that holds ranges keeps it: its first address, and the first after it.
fn range(subnet: Subnet, comment: Option<&str>) -> Vec<Element> {
    range_of(subnet.network(), subnet.last(), comment)
}

fn range_of_one(address: IpAddr, comment: Option<&str>) -> Vec<Element> {
    range_of(address, address, comment)
}

fn range_of(first: IpAddr, last: IpAddr, comment: Option<&str>) -> Vec<Element> {
    // A range that reaches the last address of all has no end.
    let after = match last {
        IpAddr::V4(last) => last
            .to_bits()
            .checked_add(1)
            .map(|bits| bits.to_be_bytes().to_vec()),
        IpAddr::V6(last) => last
            .to_bits()
            .checked_add(1)
            .map(|bits| bits.to_be_bytes().to_vec()),
    };
    let end = after.map(|key| Element {
        ends: true,
        ..element(key, Vec::new(), None)
    });
    let first = element(octets(first), Vec::new(), comment);
    std::iter::once(first).chain(end).collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The reverse.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// The container that an element's comment names.
fn holder(element: Element) -> Option<Id> {
    Id::parse(&element.comment?).ok().filter(Id::is_container)
}

fn gone_is_success(result: Result<(), Refusal>, what: impl FnOnce() -> String) -> Result<()> {
    match result {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        result => result.map_err(|refusal| refusal.error(&what())),
    }
}

/// The comment of a table; `None` without the table.
fn comment(nft: &mut Nft) -> Result<Option<String>> {
    nft.table_comment()
        .map_err(|refusal| unsupported(&refusal, &format!("look for the table {TABLE}")))
}

fn unsupported(refusal: &Refusal, what: &str) -> Error {
    let error = refusal.error(what);
    match refusal.errno {
        // The protocol, a chain type or an expression is in a module that this kernel has not.
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::ENOENT | Errno::EINVAL => {
            error.hint("the kernel needs nf_tables with the family inet, nft_nat, nft_masq, nft_ct and nft_fib_inet, or use --network none")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Wanted;

    const TO: Target = Target {
        v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
        v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    };

    fn publish(text: &str) -> Publish {
        text.parse::<Wanted>().unwrap().settled().unwrap()
    }

    #[test]
    fn a_port_is_read_back_from_its_element() {
        for (text, family) in [
            ("127.0.0.1:8080:80/tcp", Family::V4),
            ("5353:53/udp", Family::V4),
            ("[2001:db8::1]:8080:80/tcp", Family::V6),
            ("[::]:8080:80/tcp", Family::V6),
        ] {
            let publish = publish(text);
            let maps = port_elements(std::slice::from_ref(&publish), TO, &Id::placeholder());
            let (map, elements) = maps
                .iter()
                .find(|(map, _)| *map == port_set(&publish, family))
                .unwrap();
            let set = SETS.iter().find(|set| set.name == *map).unwrap();
            assert_eq!(elements[0].key.len(), set.holds.key.1 as usize);
            assert_eq!(elements[0].data.len(), set.holds.data.unwrap().1 as usize);
            let (found, to) = published(&elements[0], family).unwrap();
            assert_eq!(found, publish);
            assert!(TO.addresses().any(|address| address == to));
        }
        for family in [Family::V4, Family::V6] {
            assert_eq!(published(&element(vec![1], vec![], None), family), None);
            assert_eq!(published(&element(vec![0; 8], vec![1], None), family), None);
        }
    }

    #[test]
    fn a_port_on_all_addresses_is_one_of_both_families_and_a_range_many() {
        let of = |text: &str| {
            let maps = port_elements(&[publish(text)], TO, &Id::placeholder());
            let sizes = maps
                .into_iter()
                .map(|(map, elements)| (map, elements.len()));
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(of("80:80"), [("published_any", 1), ("published6_any", 1)]);
        assert_eq!(of("0.0.0.0:80-89:80-89"), [("published_any", 10)]);
        assert_eq!(of("[2001:db8::1]:80:80"), [("published6", 1)]);
        assert_eq!(of("127.0.0.1:80:80"), [("published", 1)]);
    }

    #[test]
    fn a_port_is_read_back_once_for_each_family() {
        let ports = [
            publish("80-81:80-81"),
            publish("0.0.0.0:90:90"),
            publish("[::]:91:91"),
        ];
        let texts = |families: &[Family]| {
            let read = as_read(&ports, families);
            read.iter().map(Publish::host).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(&[Family::V4]), "80/tcp 81/tcp 90/tcp");
        assert_eq!(
            texts(&[Family::V4, Family::V6]),
            "80/tcp 81/tcp 90/tcp [::]:80/tcp [::]:81/tcp [::]:91/tcp"
        );
    }

    #[test]
    fn a_range_is_kept_as_its_first_address_and_the_first_after_it() {
        let keys = |subnet| {
            range(subnet, None)
                .into_iter()
                .map(|element| element.key)
                .collect::<Vec<_>>()
        };
        let subnet = Subnet::of(Ipv4Addr::new(10, 0, 0, 0), 16);
        assert_eq!(keys(subnet), [[10, 0, 0, 0], [10, 1, 0, 0]]);
        assert_eq!(
            keys(Subnet::of(Ipv4Addr::BROADCAST, 32)),
            [[255, 255, 255, 255]]
        );
    }

    #[test]
    fn commands_name_the_container_in_the_comment() {
        let id = Id::placeholder();
        let ports = [publish("127.0.0.1:8080:80"), publish("53-54:53-54/udp")];
        let v4 = Target { v6: None, ..TO };
        assert_eq!(
            add_ports_commands(&ports, v4, &id),
            [
                "nft add element inet bocker published '{ 127.0.0.1 . tcp . 8080 comment \"ps_dryrun\" : 10.0.0.2 . 80 }'",
                "nft add element inet bocker published_any '{ udp . 53 comment \"ps_dryrun\" : 10.0.0.2 . 53, \
                 udp . 54 comment \"ps_dryrun\" : 10.0.0.2 . 54 }'",
            ]
        );
        assert_eq!(
            delete_ports_commands(&ports[1..], &[Family::V4]),
            ["nft delete element inet bocker published_any '{ udp . 53, udp . 54 }'"]
        );
    }
}
