//! The document's member `bocker.net`, and the shape of a CNI 1.1 result in it (containernetworking/cni, SPEC.md, section 5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bocker_pipe::Id;
use serde::{Deserialize, Serialize};

use crate::extra::ExtraHost;
use crate::publish::{Publish, Wanted};

/// How a container is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    /// A namespace of its own, connected to bridges by veth pairs.
    Bridge,
    /// A namespace of its own, with nothing but `lo`.
    None,
    /// The host's own namespace.
    Host,
    /// A namespace of its own, wired by plugins of CNI.
    Cni,
    /// That of another container.
    Container,
    /// One that somebody else has pinned, by its path.
    Ns,
}

/// `bocker.net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    /// How the container is connected.
    #[serde(default)]
    pub mode: Mode,
    /// In mode container, the one whose namespace and names it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Id>,
    /// Its namespace; absent where that is the host's.
    #[serde(default)]
    pub netns: Option<Netns>,
    /// Its host name.
    #[serde(default)]
    pub hostname: String,
    /// Name servers that were asked for; empty when they come from the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Search domains that were asked for.
    #[serde(default, rename = "dnsSearch", skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Options of resolv.conf(5) that were asked for.
    #[serde(default, rename = "dnsOptions", skip_serializing_if = "Vec::is_empty")]
    pub dns_options: Vec<String>,
    /// Names beside its own that it was asked to know.
    #[serde(default, rename = "extraHosts", skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Its interfaces, `lo` aside.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// Where it is pinned.
    pub path: String,
    /// Whether bocker-net made it, and so unpins it.
    pub made: bool,
}

/// One interface in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    pub network: String,
    /// Its bridge. An attachment without one is not of our making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The interface's name in the container.
    pub ifname: String,
    /// What was asked for, so that a later start can make it again.
    pub request: Request,
    /// What came of it.
    pub result: CniResult,
    /// Ports that are published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Publish>,
    /// Whether its address is masqueraded by itself: on a bridge that is not ours.
    #[serde(default, skip_serializing_if = "is_false")]
    pub masquerade: bool,
}

impl Attachment {
    /// The ports that are published: an earlier release put them where what was asked for is.
    pub(crate) fn ports(&self) -> Vec<Publish> {
        if self.published.is_empty() {
            let asked = self.request.publish.iter();
            asked.filter_map(Wanted::settled).collect()
        } else {
            self.published.clone()
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Ports to publish.
    #[serde(default)]
    pub publish: Vec<Wanted>,
    /// Whether all that the image exposes are published as well.
    #[serde(rename = "publishAll", default, skip_serializing_if = "is_false")]
    pub publish_all: bool,
    /// The addresses that it is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// The hardware address that it is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What the interface is to be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Names by which others on the network know it, besides its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// A CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    /// "1.1.0".
    pub cni_version: String,
    /// The bridge, the host's end of the pair, and the container's.
    pub interfaces: Vec<CniInterface>,
    /// Addresses of the container.
    pub ips: Vec<CniIp>,
    /// Its routes.
    pub routes: Vec<CniRoute>,
    /// What its resolv.conf says.
    pub dns: CniDns,
}

/// An interface of a CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniInterface {
    /// Its name.
    pub name: String,
    /// Its hardware address, where we chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The path of its namespace; empty on the host.
    #[serde(default)]
    pub sandbox: String,
}

/// An address of a CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniIp {
    /// With the length of its prefix: `10.0.0.2/16`.
    pub address: String,
    /// The bridge's address; absent where nothing is passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    pub interface: usize,
}

impl CniIp {
    /// The address without its prefix; `None` when it is none.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address.split('/').next()?.parse().ok()
    }
}

/// A route of a CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniRoute {
    /// Where to: `0.0.0.0/0`.
    pub dst: String,
    /// By which neighbour; absent where the destination is on the network itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name resolution of a CNI result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniDns {
    /// Addresses of name servers.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// Domains in which short names are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// As in resolv.conf(5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}
