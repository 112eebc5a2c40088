//! One interface of a container: what is asked for it, and what has come of it. The n-th is `eth<n>` in the container, and its
//! other end on the host is a port of the network's bridge.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bocker_pipe::{Error, Id, Kind, Result};

use crate::bridge::Bridge;
use crate::member::{Attachment, CniDns, CniInterface, CniIp, CniResult, CniRoute, Request};
use crate::names;
use crate::network::DEFAULT;
use crate::subnet::{host_mac, mac, mac_text, parse_mac};

const CNI_VERSION: &str = "1.1.0";
/// An interface's name has at most 15 characters (IFNAMSIZ, netdevice(7)).
const IFNAME_MAX: usize = 15;
/// By what the two ends of the pairs are counted: one character each, so that an id fits behind it.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// So many pairs have names.
const PLUGS_MAX: usize = DIGITS.len() / 2;

/// The name of an end of a pair. With the id, it has all 15 characters that a name can have.
fn end(number: usize, id: &Id) -> String {
    let digit = DIGITS.get(number).copied().unwrap_or(b'_');
    format!("veth{}_{id}", char::from(digit))
}

/// The container whose pair has its host end called so.
pub(crate) fn id_of_host_end(name: &str) -> Option<Id> {
    let (digit, id) = name.strip_prefix("veth")?.split_once('_')?;
    let [digit] = *digit.as_bytes() else {
        return None;
    };
    let number = DIGITS.iter().position(|one| *one == digit)?;
    let id = Id::parse(id).ok().filter(Id::is_container)?;
    (number % 2 == 0).then_some(id)
}

/// The alternative name of the host's end: as long as the kernel knows it, the address is not given to another.
pub(crate) fn altname(address: IpAddr) -> String {
    format!("bocker-{address}")
}

/// A network that a container is to be on, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its name.
    pub(crate) network: String,
    pub(crate) request: Request,
    /// The addresses that the container had there before.
    pub(crate) earlier: Vec<IpAddr>,
}

impl Asked {
    /// The network of this name, and nothing more.
    pub(crate) fn of(network: &str) -> Asked {
        Asked {
            network: network.to_owned(),
            ..Asked::default()
        }
    }
}

impl From<Attachment> for Asked {
    fn from(attachment: Attachment) -> Asked {
        let earlier = attachment.result.ips.iter().filter_map(CniIp::address);
        Asked {
            earlier: earlier.collect(),
            network: attachment.network,
            request: attachment.request,
        }
    }
}

impl FromStr for Asked {
    type Err = Error;

    /// Takes `NAME`, docker's `name=NAME,ip=ADDRESS,...` or podman's `NAME:ip=ADDRESS,...`. Fails with [`Kind::Usage`].
    fn from_str(text: &str) -> Result<Asked> {
        let refuse = |what: String| {
            Err(Error::new(Kind::Usage, what).hint(
                "give NAME, or name=NAME with any of ip=, ip6=, mac=, ifname= and alias=, such as name=web,ip=10.1.0.7",
            ))
        };
        // Whichever of the two comes first: an IPv6 address has colons, too.
        let (name, options) = match text.find([':', '=']) {
            Some(colon) if text[colon..].starts_with(':') => {
                (Some(&text[..colon]), Some(&text[colon + 1..]))
            }
            Some(_) => (None, Some(text)),
            None => (Some(text), None),
        };
        let mut asked = Asked::of(name.unwrap_or_default());
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            let Some((key, value)) = option.split_once('=') else {
                return refuse(format!("'{option}' of '{text}' is not KEY=VALUE"));
            };
            match key {
                "name" if name.is_none() => value.clone_into(&mut asked.network),
                _ => asked.set(key, value)?,
            }
        }
        match asked.network.is_empty() {
            true => refuse(format!("'{text}' names no network")),
            false => Ok(asked),
        }
    }
}

impl Asked {
    /// One of docker's keys of `--network name=NAME,KEY=VALUE`.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let refuse = |what: &str| Error::new(Kind::Usage, format!("'{value}' is no {what}"));
        let request = &mut self.request;
        match key {
            // Podman has one key for both.
            "ip" | "ip6" => match value.parse() {
                Ok(IpAddr::V4(address)) if key == "ip" => request.ip = Some(address),
                Ok(IpAddr::V6(address)) => request.ip6 = Some(address),
                _ => return Err(refuse("address of that family")),
            },
            "mac" | "mac-address" => request.mac = Some(mac_text(&parse_mac(value)?)),
            "ifname" | "interface_name" | "interface-name" => {
                request.ifname = Some(checked_ifname(value)?.to_owned());
            }
            "alias" => request
                .aliases
                .push(names::checked_alias(value)?.to_owned()),
            _ => {
                let what = format!("'{key}' is nothing that can be asked for an interface");
                return Err(
                    Error::new(Kind::Usage, what).hint("it is ip, ip6, mac, ifname or alias")
                );
            }
        }
        Ok(())
    }

    /// Fails with [`Kind::Invalid`] on what a document asks for and no option would have taken.
    pub(crate) fn check(&self) -> Result<()> {
        let request = &self.request;
        request.mac.as_deref().map_or(Ok([0; 6]), parse_mac)?;
        request.ifname.as_deref().map_or(Ok(""), checked_ifname)?;
        let mut aliases = request.aliases.iter();
        aliases.try_for_each(|alias| names::checked_alias(alias).map(|_| ()))
    }
}

/// Takes the name of an interface as the kernel does (net/core/dev.c, dev_valid_name), but not `lo`.
pub(crate) fn checked_ifname(name: &str) -> Result<&str> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let fits = (1..=IFNAME_MAX).contains(&name.len()) && name.bytes().all(is_allowed);
    match name {
        "." | ".." | "lo" => {}
        _ if fits => return Ok(name),
        _ => {}
    }
    let what = format!("'{name}' cannot be the name of an interface");
    Err(Error::new(Kind::Invalid, what).hint("give up to 15 letters, digits, '-', '_' and '.'"))
}

/// An address that a container has on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// By which others are reached; `None` where nothing is passed on.
    pub(crate) gateway: Option<IpAddr>,
}

/// One interface of a container.
#[derive(Debug)]
pub(crate) struct Plug {
    pub(crate) asked: Asked,
    /// The end in the container.
    pub(crate) ifname: String,
    /// The alternative name of the same.
    pub(crate) peer_altname: String,
    /// The end on the host.
    pub(crate) host_end: String,
    /// Known once they are leased; in a dry run, those that would be tried first.
    pub(crate) leased: Vec<Leased>,
    /// Index of the interface in the container, once it is there.
    pub(crate) index: u32,
}

impl Plug {
    /// Those of a container, in the order of what is asked for. Fails with [`Kind::Usage`] when two would be one.
    pub(crate) fn all(id: &Id, asked: &[Asked]) -> Result<Vec<Plug>> {
        if asked.len() > PLUGS_MAX {
            let what = format!("a container has at most {PLUGS_MAX} networks");
            return Err(Error::new(Kind::Usage, what));
        }
        let mut plugs: Vec<Plug> = Vec::new();
        for (number, asked) in asked.iter().enumerate() {
            let ifname = asked.request.ifname.clone();
            let ifname = ifname.unwrap_or_else(|| format!("eth{number}"));
            if plugs.iter().any(|other| other.ifname == ifname) {
                let what = format!("two interfaces would be called '{ifname}'");
                return Err(Error::new(Kind::Usage, what).hint("give each another ifname="));
            }
            if plugs
                .iter()
                .any(|other| other.asked.network == asked.network)
            {
                let what = format!("the network '{}' is named twice", asked.network);
                return Err(Error::new(Kind::Usage, what));
            }
            let mut plug = Plug {
                asked: asked.clone(),
                ifname,
                peer_altname: String::new(),
                host_end: String::new(),
                leased: Vec::new(),
                index: 0,
            };
            plug.name_ends(number, id);
            plugs.push(plug);
        }
        Ok(plugs)
    }

    /// Names both ends after the container, whose id may be known later.
    pub(crate) fn name_ends(&mut self, number: usize, id: &Id) {
        self.host_end = end(2 * number, id);
        self.peer_altname = end(2 * number + 1, id);
    }

    /// Its address of IPv4.
    pub(crate) fn ipv4(&self) -> Option<Ipv4Addr> {
        self.leased.iter().find_map(|leased| match leased.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// Its hardware address: the one asked for, or one made from its address.
    pub(crate) fn mac(&self) -> Result<[u8; 6]> {
        match &self.asked.request.mac {
            Some(asked) => parse_mac(asked),
            None => Ok(mac(self.ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED))),
        }
    }

    /// That of the end on the host.
    pub(crate) fn host_mac(&self) -> [u8; 6] {
        host_mac(self.ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED))
    }

    /// The alternative names of the end on the host, one for each address.
    pub(crate) fn altnames(&self) -> Vec<String> {
        let addresses = self.leased.iter().map(|leased| altname(leased.address));
        addresses.collect()
    }

    /// What the document says of it. `routes` are those that go by this interface.
    pub(crate) fn attachment(
        &self,
        bridge: &Bridge,
        sandbox: &str,
        routes: Vec<CniRoute>,
        dns: CniDns,
    ) -> Result<Attachment> {
        let interface = |name: &str, mac: Option<[u8; 6]>, sandbox: &str| CniInterface {
            name: name.to_owned(),
            mac: mac.map(|mac| mac_text(&mac)),
            sandbox: sandbox.to_owned(),
        };
        let name = &bridge.network.bridge;
        let ips = self.leased.iter().map(|leased| CniIp {
            address: format!("{}/{}", leased.address, leased.prefix),
            gateway: leased.gateway,
            interface: 2,
        });
        Ok(Attachment {
            network: bridge.network.name.clone(),
            bridge: Some(name.clone()),
            ifname: self.ifname.clone(),
            request: self.asked.request.clone(),
            masquerade: !bridge.ours,
            published: Vec::new(),
            result: CniResult {
                cni_version: CNI_VERSION.into(),
                interfaces: vec![
                    interface(name, None, ""),
                    interface(&self.host_end, Some(self.host_mac()), ""),
                    interface(&self.ifname, Some(self.mac()?), sandbox),
                ],
                ips: ips.collect(),
                routes,
                dns,
            },
        })
    }
}

/// The network that a container is on when nobody says otherwise.
pub(crate) fn default_network() -> Vec<Asked> {
    vec![Asked::of(DEFAULT)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(text: &str) -> Asked {
        text.parse().unwrap()
    }

    #[test]
    fn the_forms_of_docker_and_podman_are_understood() {
        assert_eq!(asked("web"), Asked::of("web"));
        let docker = asked(
            "name=web,ip=10.1.0.7,ip6=fd00::7,mac-address=02:42:0A:01:00:07,alias=a,alias=b,ifname=lan0",
        );
        assert_eq!(docker.network, "web");
        assert_eq!(docker.request.ip, Some(Ipv4Addr::new(10, 1, 0, 7)));
        assert_eq!(docker.request.mac.as_deref(), Some("02:42:0a:01:00:07"));
        assert_eq!(docker.request.aliases, ["a", "b"]);
        assert_eq!(docker.request.ifname.as_deref(), Some("lan0"));
        let podman = asked(
            "web:ip=10.1.0.7,ip=fd00::7,mac=02:42:0a:01:00:07,alias=a,alias=b,interface_name=lan0",
        );
        assert_eq!(podman, docker);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "name=",
            "ip=10.1.0.7",
            "web:ip",
            "name=web,ip=10.1.0",
            "name=web,ip=fd00::7,ip6=10.1.0.7",
            "name=web,ifname=lo",
            "name=web,ifname=a/b",
            "name=web,ifname=",
            "name=web,ifname=abcdefghijklmnop",
            "name=web,alias=a b",
            "name=web,alias=ps_abc123",
            "name=web,mac=01:00:5e:00:00:01",
            "name=web,frob=x",
            "web:name=other",
        ] {
            assert!(text.parse::<Asked>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_ends_of_all_pairs_have_names_that_say_whose_they_are() {
        let id = Id::parse("ps_abc123").unwrap();
        let networks: Vec<_> = (0..18).map(|n| Asked::of(&format!("net{n}"))).collect();
        let plugs = Plug::all(&id, &networks).unwrap();
        let first = (plugs[0].host_end.as_str(), plugs[0].peer_altname.as_str());
        assert_eq!(first, ("veth0_ps_abc123", "veth1_ps_abc123"));
        assert_eq!(
            (plugs[1].ifname.as_str(), plugs[5].host_end.as_str()),
            ("eth1", "vetha_ps_abc123")
        );
        let mut names: Vec<_> = plugs
            .iter()
            .flat_map(|plug| [&plug.host_end, &plug.peer_altname])
            .collect();
        assert!(names.iter().all(|name| name.len() <= IFNAME_MAX));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 36);
        for plug in &plugs {
            assert_eq!(id_of_host_end(&plug.host_end), Some(id.clone()));
            assert_eq!(id_of_host_end(&plug.peer_altname), None);
        }
        for other in [
            "veth0_img_abc123",
            "veth_ps_abc123",
            "veth00_ps_abc123",
            "eth0",
            "veth0_",
        ] {
            assert_eq!(id_of_host_end(other), None, "{other}");
        }
        let more: Vec<_> = (0..19).map(|n| Asked::of(&format!("net{n}"))).collect();
        assert!(Plug::all(&id, &more).is_err());
    }

    #[test]
    fn no_two_interfaces_have_one_name_or_one_network() {
        let id = Id::placeholder();
        for pair in [
            ["web", "web"],
            ["name=web,ifname=eth1", "db"],
            ["name=web,ifname=x", "name=db,ifname=x"],
        ] {
            assert!(Plug::all(&id, &pair.map(asked)).is_err(), "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fail_otherwise_than_by_an_error(text in "\\PC*") {
            let _ = text.parse::<Asked>();
        }
    }
}
