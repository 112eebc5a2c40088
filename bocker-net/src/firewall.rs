//! Our nftables table in the kernel, and what is put into it and taken out for each container. Only this table is ever
//! touched. A packet that another table drops stays dropped: an accept ends one table's chain only.

use std::net::Ipv4Addr;

use bocker_pipe::{Error, Id, Kind, Result};
use nix::errno::Errno;

use crate::netlink::Refusal;
use crate::nft::{Element, Nft};
use crate::publish::{Protocol, Publish};
use crate::ruleset::{CHAINS, COMMENT, CONTAINERS, PUBLISHED, PUBLISHED_ANY, SETS, TABLE};
use crate::subnet::Subnet;

fn element_command(verb: &str, set: &str, text: &str) -> String {
    format!("nft {verb} element ip {TABLE} {set} '{{ {text} }}'")
}

/// The nft(8) command by which these addresses are those of containers; whose, the comment says.
pub(crate) fn add_addresses_command(subnet: Subnet, comment: &str) -> String {
    element_command(
        "add",
        CONTAINERS,
        &format!("{subnet} comment \"{comment}\""),
    )
}

/// The nft(8) command by which they are not any more.
pub(crate) fn delete_addresses_command(subnet: Subnet) -> String {
    element_command("delete", CONTAINERS, &subnet.to_string())
}

fn port_key_text(publish: &Publish) -> String {
    let port = format!("{} . {}", publish.protocol, publish.host_port);
    publish
        .host_ip
        .map_or(port.clone(), |ip| format!("{ip} . {port}"))
}

fn port_set(publish: &Publish) -> &'static str {
    if publish.host_ip.is_some() {
        PUBLISHED
    } else {
        PUBLISHED_ANY
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
            nft: Nft::open(TABLE)?,
        })
    }

    /// Whether the table is there. Fails with [`Kind::Exists`] when a table of this name is not ours.
    pub(crate) fn exists(&mut self) -> Result<bool> {
        match self
            .nft
            .table_comment()
            .map_err(|refusal| unsupported(&refusal, "look for the table ip bocker"))?
        {
            None => Ok(false),
            Some(comment) if comment == COMMENT => Ok(true),
            Some(_) => Err(Error::new(
                Kind::Exists,
                format!("the nftables table ip {TABLE} is not ours"),
            )
            .hint(format!(
                "rename it, or remove it with 'nft delete table ip {TABLE}'"
            ))),
        }
    }

    /// Makes the table and all that is in it, at once.
    pub(crate) fn make(&mut self) -> Result<()> {
        let nft = &mut self.nft;
        let mut batch = nft.batch();
        nft.add_table(&mut batch, COMMENT);
        for (id, set) in (1..).zip(&SETS) {
            nft.add_set(&mut batch, id, set.name, &set.holds);
        }
        for chain in &CHAINS {
            nft.add_chain(
                &mut batch,
                chain.name,
                chain.kind,
                chain.hook.1,
                chain.priority,
            );
            for rule in chain.rules {
                nft.add_rule(
                    &mut batch,
                    chain.name,
                    rule.iter().flat_map(|part| part.expressions()).collect(),
                );
            }
        }
        nft.commit(batch)
            .map_err(|refusal| unsupported(&refusal, "make the nftables table ip bocker"))
    }

    /// Removes the table. Already gone is success.
    pub(crate) fn remove(&mut self) -> Result<()> {
        if !self.exists()? {
            return Ok(());
        }
        let mut batch = self.nft.batch();
        self.nft.delete_table(&mut batch);
        gone_is_success(self.nft.commit(batch), || {
            "delete the nftables table ip bocker".into()
        })
    }

    /// Whether these addresses are known as those of containers.
    pub(crate) fn has_addresses(&mut self, subnet: Subnet) -> Result<bool> {
        let element = self
            .nft
            .get_element(CONTAINERS, &subnet.network().octets())
            .map_err(|refusal| refusal.error("read the containers' addresses"))?;
        Ok(element.is_some())
    }

    /// From now on these addresses are those of containers: masqueraded, and closed to the outside but for published ports.
    /// Already known is success.
    pub(crate) fn add_addresses(&mut self, subnet: Subnet, comment: &str) -> Result<()> {
        match self
            .nft
            .add_elements(CONTAINERS, &range(subnet, Some(comment)))
        {
            Err(refusal) if refusal.errno == Errno::EEXIST && self.has_addresses(subnet)? => Ok(()),
            result => result.map_err(|refusal| refusal.error(&format!("masquerade {subnet}"))),
        }
    }

    /// Takes a container's address back. Already gone, or another's by now, is success.
    pub(crate) fn delete_address(&mut self, address: Ipv4Addr, id: &Id) -> Result<()> {
        self.delete(CONTAINERS, &range(Subnet::of(address, 32), None), id)
    }

    /// Publishes a port. Fails with [`Kind::InUse`] when it is taken; the kernel decides, whoever else tries at this moment.
    pub(crate) fn publish(&mut self, publish: &Publish, address: Ipv4Addr, id: &Id) -> Result<()> {
        let mut data = address.octets().to_vec();
        data.extend(publish.container_port.to_be_bytes());
        data.extend([0, 0]);
        match self.nft.add_elements(
            port_set(publish),
            &[element(port_key(publish), data, Some(id.as_str()))],
        ) {
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
            .get_element(PUBLISHED_ANY, &port_key(&any))
            .map_err(ask)?
        {
            return Ok(element.comment);
        }
        let collides = |element: &Element| {
            published(element).is_some_and(|(other, _)| other.collides(publish))
        };
        let elements = self.nft.elements(PUBLISHED).map_err(ask)?;
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

    /// Addresses on a bridge of the user's, with the ids that their comments name.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(Ipv4Addr, Id)>> {
        let elements = self
            .nft
            .elements(CONTAINERS)
            .map_err(|refusal| refusal.error("list the containers' addresses"))?;
        let address = |element: Element| match element.key[..] {
            [a, b, c, d] => Some((Ipv4Addr::new(a, b, c, d), holder(element)?)),
            _ => None,
        };
        Ok(elements.into_iter().filter_map(address).collect())
    }

    /// All published ports, with the ids that their comments name.
    pub(crate) fn ports(&mut self) -> Result<Vec<(Publish, Id)>> {
        let mut ports = Vec::new();
        for set in [PUBLISHED, PUBLISHED_ANY] {
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

    fn owns(&mut self, set: &str, key: &[u8], id: &Id) -> Result<bool> {
        let element = self
            .nft
            .get_element(set, key)
            .map_err(|refusal| refusal.error(&format!("read the set {set}")))?;
        Ok(element
            .and_then(|element| element.comment)
            .is_some_and(|comment| comment == id.as_str()))
    }

    /// Only an element that names the id is deleted. It stays this id's until this id's own delete comes, and the verbs on
    /// one container are ordered, so that nothing happens between the question and the deletion.
    fn delete(&mut self, set: &str, elements: &[Element], id: &Id) -> Result<()> {
        let Some(first) = elements.first() else {
            return Ok(());
        };
        if !self.owns(set, &first.key, id)? {
            return Ok(());
        }
        gone_is_success(self.nft.delete_elements(set, elements), || {
            format!("delete an element of the set {set}")
        })
    }
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
    let first = element(subnet.network().octets().to_vec(), Vec::new(), comment);
    // A range that reaches the last address of all has no end.
    let after = subnet.broadcast().to_bits().checked_add(1);
    let end = after.map(|after| Element {
        ends: true,
        ..element(after.to_be_bytes().to_vec(), Vec::new(), None)
    });
    std::iter::once(first).chain(end).collect()
}

/// The container that an element's comment names.
fn holder(element: Element) -> Option<Id> {
    Id::parse(&element.comment?).ok()
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

fn unsupported(refusal: &Refusal, what: &str) -> Error {
    let error = refusal.error(what);
    match refusal.errno {
        // The protocol, a chain type or an expression is in a module that this kernel has not.
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::ENOENT | Errno::EINVAL => {
            error.hint("the kernel needs nf_tables, nft_nat, nft_masq, nft_ct and nft_fib_ipv4, or use --network none")
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
        for (text, set) in [("127.0.0.1:80:80", &SETS[1]), ("80:80", &SETS[2])] {
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
            "nft add element ip bocker published '{ 127.0.0.1 . tcp . 8080 comment \"ps_dryrun\" : 10.0.0.2 . 80 }'"
        );
        assert_eq!(
            delete_port_command(&publish("8080:80/udp")),
            "nft delete element ip bocker published_any '{ udp . 8080 }'"
        );
    }
}
