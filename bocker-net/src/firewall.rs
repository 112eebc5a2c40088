//! Our nftables table in the kernel, and what is put into it and taken out for each bridge and container. Only this table is
//! ever touched. A packet that another table drops stays dropped: an accept ends one table's chain only.

use std::net::{IpAddr, Ipv4Addr};

use bocker_pipe::{Error, Id, Kind, Result};
use nix::errno::Errno;

use crate::netlink::Refusal;
use crate::nft::{Element, Family, Nft};
use crate::publish::{Protocol, Publish};
use crate::ruleset::{BRIDGES, CHAINS, COMMENT, INTERNAL, SETS, TABLE, WITHIN, interface};
use crate::subnet::Subnet;

/// The sets of the table `ip bocker` that are in this one under the same names.
const FORMER_SETS: [&str; 3] = [
    Family::V4.containers(),
    Family::V4.published(),
    Family::V4.published_any(),
];

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

fn port_key_text(publish: &Publish) -> String {
    let port = format!("{} . {}", publish.protocol, publish.host_port);
    publish
        .host_ip
        .map_or(port.clone(), |ip| format!("{ip} . {port}"))
}

fn port_set(publish: &Publish) -> &'static str {
    if publish.host_ip.is_some() {
        Family::V4.published()
    } else {
        Family::V4.published_any()
    }
}

/// The nft(8) command that publishes a port.
pub(crate) fn add_port_command(publish: &Publish, address: Ipv4Addr, id: &Id) -> String {
    let text = format!(
        "{} comment \"{id}\" : {address} . {}",
        port_key_text(publish),
        publish.container_port
    );
    element_command("add", port_set(publish), &text)
}

/// The nft(8) command that takes it back.
pub(crate) fn delete_port_command(publish: &Publish) -> String {
    element_command("delete", port_set(publish), &port_key_text(publish))
}

fn port_key(publish: &Publish) -> Vec<u8> {
    let mut key = publish
        .host_ip
        .map_or(Vec::new(), |ip| ip.octets().to_vec());
    key.extend([publish.protocol.number(), 0, 0, 0]);
    key.extend(publish.host_port.to_be_bytes());
    key.extend([0, 0]);
    key
}

/// The reverse of an element's key and data, of either map.
fn published(element: &Element) -> Option<(Publish, Ipv4Addr)> {
    let (host_ip, key) = match element.key[..] {
        [a, b, c, d, ref rest @ ..] if rest.len() == 8 => (Some(Ipv4Addr::new(a, b, c, d)), rest),
        ref rest => (None, rest),
    };
    let [protocol, _, _, _, port_high, port_low, ..] = *key else {
        return None;
    };
    let [a, b, c, d, to_high, to_low, ..] = element.data[..] else {
        return None;
    };
    let publish = Publish {
        host_ip,
        host_port: u16::from_be_bytes([port_high, port_low]),
        container_port: u16::from_be_bytes([to_high, to_low]),
        protocol: Protocol::from_number(protocol)?,
    };
    Some((publish, Ipv4Addr::new(a, b, c, d)))
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

    /// Makes the table and all that is in it, at once. What the former table holds is taken over, in the same instant, so
    /// that containers that run meanwhile keep their ports.
    pub(crate) fn make(&mut self) -> Result<()> {
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

    /// Publishes a port. Fails with [`Kind::InUse`] when it is taken; the kernel decides, whoever else tries at this moment.
    pub(crate) fn publish(&mut self, publish: &Publish, address: Ipv4Addr, id: &Id) -> Result<()> {
        let mut data = address.octets().to_vec();
        data.extend(publish.container_port.to_be_bytes());
        data.extend([0, 0]);
        let mut batch = self.nft.batch();
        self.nft.create_elements(
            &mut batch,
            port_set(publish),
            &[element(port_key(publish), data, Some(id.as_str()))],
        );
        match self.nft.commit(batch) {
            Err(refusal) if refusal.errno == Errno::EEXIST => match self.holder(publish)? {
                Some(holder) => Err(taken(publish, &holder)),
                None => Err(refusal.error(&format!("publish {publish}"))),
            },
            result => result.map_err(|refusal| refusal.error(&format!("publish {publish}"))),
        }
    }

    /// Takes a published port back. Already gone, or another's by now, is success.
    pub(crate) fn unpublish(&mut self, publish: &Publish, id: &Id) -> Result<()> {
        self.delete(
            port_set(publish),
            &[element(port_key(publish), Vec::new(), None)],
            id,
        )
    }

    /// Who has published a port that this one would collide with.
    pub(crate) fn holder(&mut self, publish: &Publish) -> Result<Option<String>> {
        let ask = |refusal: Refusal| refusal.error("list the published ports");
        let any = Publish {
            host_ip: None,
            ..publish.clone()
        };
        if let Some(element) = self
            .nft
            .get_element(Family::V4.published_any(), &port_key(&any))
            .map_err(ask)?
        {
            return Ok(element.comment);
        }
        let collides = |element: &Element| {
            published(element).is_some_and(|(other, _)| other.collides(publish))
        };
        let elements = self.nft.elements(Family::V4.published()).map_err(ask)?;
        Ok(elements
            .into_iter()
            .find(collides)
            .and_then(|element| element.comment))
    }

    /// Fails with [`Kind::InUse`] when one of the ports is published already.
    pub(crate) fn refuse_taken(&mut self, ports: &[Publish]) -> Result<()> {
        for publish in ports {
            if let Some(holder) = self.holder(publish)? {
                return Err(taken(publish, &holder));
            }
        }
        Ok(())
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

    /// All published ports, with the ids that their comments name.
    pub(crate) fn ports(&mut self) -> Result<Vec<(Publish, Id)>> {
        let mut ports = Vec::new();
        for set in [Family::V4.published(), Family::V4.published_any()] {
            let elements = self
                .nft
                .elements(set)
                .map_err(|refusal| refusal.error("list the published ports"))?;
            ports.extend(
                elements
                    .into_iter()
                    .filter_map(|element| Some((published(&element)?.0, holder(element)?))),
            );
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

fn taken(publish: &Publish, holder: &str) -> Error {
    Error::new(
        Kind::InUse,
        format!(
            "port {} of the host is published by {holder} already",
            publish.host()
        ),
    )
    .hint("choose another port, or remove that container")
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

    fn publish(text: &str) -> Publish {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_is_read_back_from_its_element() {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        for text in ["127.0.0.1:8080:80/tcp", "5353:53/udp"] {
            let publish = publish(text);
            let data = vec![10, 0, 0, 2, 0, publish.container_port as u8, 0, 0];
            let element = element(port_key(&publish), data, None);
            assert_eq!(published(&element), Some((publish, address)));
        }
        assert_eq!(published(&element(vec![1], vec![], None)), None);
    }

    #[test]
    fn keys_have_the_length_that_their_set_declares() {
        for (text, set) in [("127.0.0.1:80:80", &SETS[5]), ("80:80", &SETS[6])] {
            assert_eq!(port_set(&publish(text)), set.name);
            assert_eq!(port_key(&publish(text)).len(), set.holds.key.1 as usize);
        }
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
        let address = Ipv4Addr::new(10, 0, 0, 2);
        assert_eq!(
            add_port_command(&publish("127.0.0.1:8080:80"), address, &id),
            "nft add element inet bocker published '{ 127.0.0.1 . tcp . 8080 comment \"ps_dryrun\" : 10.0.0.2 . 80 }'"
        );
        assert_eq!(
            delete_port_command(&publish("8080:80/udp")),
            "nft delete element inet bocker published_any '{ udp . 8080 }'"
        );
    }
}
