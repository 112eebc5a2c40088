//! `create`: what was asked for, checked before anything is made; the steps; and what they put into the document.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use bocker_pipe::document::Mount;
use bocker_pipe::{Arg, Call, Document, Error, Id, Kind, Result, Step, lock};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use crate::extra::ExtraHost;
use crate::host::Host;
use crate::member::{
    Attachment, CniInterface, CniIp, CniResult, CniRoute, Mode, Net, Netns, Request,
};
use crate::netns::{self, Unpinned};
use crate::publish::{Protocol, Publish};
use crate::resolve::{self, Asked, Reach};
use crate::steps::{self, Bridged, Container};
use crate::subnet::{host_mac, mac, mac_text};
use crate::{BRIDGE, IFNAME, MEMBER, cni, files, host_end};

const CNI_VERSION: &str = "1.1.0";

/// What was asked for, by options or by the document of a container that is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    mode: Mode,
    hostname: Option<String>,
    publish: Vec<Publish>,
    dns: Asked,
    extra_hosts: Vec<ExtraHost>,
}

/// What the options say; absent where none was given.
#[derive(Default)]
struct Options {
    mode: Option<Mode>,
    hostname: Option<String>,
    publish: Vec<Publish>,
    dns: Asked,
    extra_hosts: Vec<ExtraHost>,
    cni: cni::create::Options,
}

impl Options {
    fn parse(call: &mut Call) -> Result<Options> {
        let mut options = Options::default();
        while let Some(arg) = call.arg()? {
            let Arg::Option(option) = arg else {
                let Arg::Value(word) = arg else { continue };
                return Err(call.unexpected(&word));
            };
            match option.as_str() {
                "--network" => {
                    let name = call.text()?;
                    match name.strip_prefix("cni:") {
                        Some(name) => options.cni.networks.push(name.to_owned()),
                        None => options.mode = Some(network(&name)?),
                    }
                }
                "--cni" => options.cni.networks.push(call.text()?),
                "--cni-capability" => options.cni.capability(&call.text()?)?,
                "--cni-timeout" => options.cni.timeout = Some(call.number()?),
                "--hostname" => options.hostname = Some(files::checked_hostname(&call.text()?)?),
                "-p" | "--publish" => options.publish.push(call.text()?.parse()?),
                "--add-host" => options.extra_hosts.push(call.text()?.parse()?),
                "--dns" => options.dns.servers.push(resolve::server(&call.text()?)?),
                "--dns-search" => options.dns.search.push(call.text()?),
                // docker's two spellings.
                "--dns-option" | "--dns-opt" => options.dns.options.push(call.text()?),
                _ => return Err(call.unknown(&option)),
            }
        }
        if !options.cni.networks.is_empty() {
            if options.mode.is_some() {
                let message = "networks of CNI do not go together with others";
                return Err(Error::new(Kind::Usage, message).hint("give --network or --cni"));
            }
            options.mode = Some(Mode::Cni);
        }
        Ok(options)
    }

    /// Options come before what the document remembers of an earlier create.
    fn over(self, earlier: Option<Net>) -> Wish {
        let earlier = earlier.map(|net| {
            let attachments = net.attachments.into_iter();
            let publish = attachments.flat_map(|attachment| attachment.request.publish);
            Wish {
                mode: net.mode,
                hostname: Some(net.hostname).filter(|name| !name.is_empty()),
                publish: publish.collect(),
                dns: Asked {
                    servers: net.dns,
                    search: net.dns_search,
                    options: net.dns_options,
                },
                extra_hosts: net.extra_hosts,
            }
        });
        let mut wish = earlier.unwrap_or(Wish {
            mode: Mode::Bridge,
            hostname: None,
            publish: Vec::new(),
            dns: Asked::default(),
            extra_hosts: Vec::new(),
        });
        if let Some(mode) = self.mode {
            // Only the bridge has ports, and the host's name is for its own network alone.
            if mode != wish.mode {
                wish.publish.clear();
                wish.hostname = None;
            }
            wish.mode = mode;
        }
        wish.hostname = self.hostname.or(wish.hostname);
        wish.publish = or(self.publish, wish.publish);
        wish.dns = Asked {
            servers: or(self.dns.servers, wish.dns.servers),
            search: or(self.dns.search, wish.dns.search),
            options: or(self.dns.options, wish.dns.options),
        };
        wish.extra_hosts = or(self.extra_hosts, wish.extra_hosts);
        wish
    }
}

fn network(name: &str) -> Result<Mode> {
    match name {
        "bridge" => Ok(Mode::Bridge),
        "none" => Ok(Mode::None),
        "host" => Ok(Mode::Host),
        _ => Err(
            Error::new(Kind::Unsupported, format!("there is no network '{name}'"))
                .hint("give --network bridge, none, host or cni:NAME"),
        ),
    }
}

/// The first, or if it is empty, the other.
fn or<T>(asked: Vec<T>, earlier: Vec<T>) -> Vec<T> {
    if asked.is_empty() { earlier } else { asked }
}

impl Wish {
    fn check(&self) -> Result<()> {
        // An earlier one comes from a document, which anybody may have written; the host's own is as it is.
        if let Some(hostname) = self.hostname.as_ref().filter(|_| self.mode != Mode::Host) {
            files::checked_hostname(hostname)?;
        }
        self.dns.check()?;
        if !matches!(self.mode, Mode::Bridge | Mode::Cni) && !self.publish.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                "ports are published on the bridge network and those of CNI only",
            )
            .hint("leave -p out"));
        }
        for (place, one) in self.publish.iter().enumerate() {
            if self
                .publish
                .iter()
                .take(place)
                .any(|other| other.collides(one))
            {
                return Err(Error::new(
                    Kind::Usage,
                    format!("port {} of the host is published twice", one.host()),
                ));
            }
        }
        Ok(())
    }
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let mut options = Options::parse(call)?;
    // Half a millisecond, which passes while the stage before is still at work.
    let namespace = match options.mode {
        Some(Mode::Host) => None,
        _ if call.dry_run() => None,
        _ => Some(Unpinned::make()?),
    };
    let document = call.document()?;
    let earlier: Option<Net> = match cni::is_in(document) {
        true => options.cni.earlier(document)?,
        false => document.member(MEMBER)?,
    };
    let id = match document.value("/bocker/id") {
        None => None,
        Some(_) => Some(document.id()?),
    };
    let dry_run = call.dry_run();
    let of_cni = std::mem::take(&mut options.cni);
    let wish = options.over(earlier);
    wish.check()?;
    let verbs = match &id {
        Some(id) => refuse_existing(id, dry_run)?,
        None => None,
    };
    let is_new = id.is_none();
    let hostname = match (wish.mode, wish.hostname) {
        (Mode::Host, None) => Some(host_name()?),
        (_, hostname) => hostname,
    };
    let reach = match wish.mode {
        Mode::Host => Reach::Host,
        Mode::Bridge | Mode::None | Mode::Cni => Reach::Network { ipv6: false },
    };
    let mut container = Container {
        id: id.unwrap_or_else(Id::placeholder),
        mode: wish.mode,
        hostname,
        dns: resolve::resolution(&wish.dns, reach)?,
        asked_dns: wish.dns,
        reach,
        extra_hosts: wish.extra_hosts,
        gateways: match wish.mode {
            Mode::Host => vec![Ipv4Addr::LOCALHOST.into()],
            Mode::Bridge | Mode::None | Mode::Cni => Vec::new(),
        },
        namespace,
        inside: None,
        address: None,
        given: Vec::new(),
        verbs,
    };
    if wish.mode == Mode::Cni {
        return cni::create::run(call, container, is_new, wish.publish, of_cni);
    }
    if wish.mode != Mode::Bridge {
        container.extra_hosts()?;
        let mut steps = Vec::new();
        if is_new {
            steps.push(steps::claim_step());
        }
        if wish.mode == Mode::None {
            steps.extend([steps::netns_step(), steps::loopback_step()]);
        }
        steps.push(steps::files_step());
        return call.create(container, steps, |document, container| {
            finish(document, container, Vec::new());
            Ok(())
        });
    }
    let mut host = Host::look(dry_run)?;
    container.gateways = vec![host.bridge.address.into()];
    container.extra_hosts()?;
    host.firewall.refuse_taken(&wish.publish)?;
    wish.publish.iter().try_for_each(refuse_used)?;
    let mut context = Bridged {
        container,
        host,
        publish: wish.publish,
    };
    if dry_run {
        let bridge = &context.host.bridge;
        context.container.address = bridge
            .subnet()
            .hosts_from(&context.container.id)
            .find(|address| *address != bridge.address);
    }
    let mut steps: Vec<Step<Bridged>> = Vec::new();
    if is_new {
        steps.push(steps::claim_step());
    }
    steps.extend(context.host.steps());
    steps.extend([
        steps::netns_step(),
        steps::lease_step(),
        steps::veth_step(),
        steps::address_step(),
        steps::up_step(),
        steps::route_step(),
    ]);
    if !context.host.bridge.ours {
        steps.push(steps::masquerade_step());
    }
    if !context.publish.is_empty() {
        steps.push(steps::hairpin_step());
    }
    steps.extend(context.publish.iter().cloned().map(steps::port_step));
    steps.push(steps::files_step());
    call.create(context, steps, |document, context| {
        finish(document, &context.container, vec![context.attachment()?]);
        Ok(())
    })
}

/// Orders this verb after others on the same container. Fails with [`Kind::Exists`] when it has a network already.
fn refuse_existing(id: &Id, dry_run: bool) -> Result<Option<lock::Lock>> {
    if dry_run {
        return Ok(None);
    }
    let verbs = lock::verbs(id).map_err(|error| match error.kind() {
        Kind::NotFound => error.hint("begin with 'bocker-snap create', or give --new"),
        _ => error,
    })?;
    if netns::is_pinned(&netns::path(id)) || cni::Kept::is_there(id) {
        return Err(
            Error::new(Kind::Exists, format!("{id} has a network already"))
                .hint("remove it with 'bocker-net delete'"),
        );
    }
    Ok(Some(verbs))
}

/// The host's own name, which a container in its network namespace shares.
fn host_name() -> Result<String> {
    let name =
        nix::sys::utsname::uname().map_err(|errno| Error::system("ask the host's name", errno))?;
    Ok(name.nodename().to_string_lossy().into_owned())
}

/// Refuses a port on which a program of the host listens: published, it would be hidden from the outside.
pub(crate) fn refuse_used(publish: &Publish) -> Result<()> {
    let kind = match publish.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let [a, b, c, d] = publish.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let try_bind = || {
        let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
        if publish.protocol == Protocol::Tcp {
            // Connections that have just ended are not in the way; a listener still is (socket(7)).
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        }
        bind(
            socket.as_raw_fd(),
            &SockaddrIn::new(a, b, c, d, publish.host_port),
        )
    };
    let refuse = |kind, what: &str, hint: &str| {
        Err(Error::new(kind, format!("cannot publish {publish}: {what}")).hint(hint))
    };
    match try_bind() {
        Ok(()) => Ok(()),
        Err(Errno::EADDRINUSE) => refuse(
            Kind::InUse,
            "a program of the host uses that port",
            "choose another, or see who with 'ss -lntup'",
        ),
        Err(Errno::EADDRNOTAVAIL) => refuse(
            Kind::Invalid,
            "the host does not have that address",
            "'ip -4 address' lists those it has",
        ),
        Err(errno) => Err(Error::system(
            &format!("try port {}", publish.host()),
            errno,
        )),
    }
}

impl Bridged {
    fn attachment(&self) -> Result<Attachment> {
        let address = self
            .container
            .address
            .ok_or_else(|| Error::new(Kind::Invalid, "no address is leased"))?;
        let bridge = &self.host.bridge;
        let interface = |name: String, mac, sandbox| CniInterface { name, mac, sandbox };
        let sandbox = netns::path(&self.container.id).display().to_string();
        let result = CniResult {
            cni_version: CNI_VERSION.into(),
            interfaces: vec![
                interface(BRIDGE.into(), None, String::new()),
                interface(
                    host_end(&self.container.id),
                    Some(mac_text(&host_mac(address))),
                    String::new(),
                ),
                interface(IFNAME.into(), Some(mac_text(&mac(address))), sandbox),
            ],
            ips: vec![CniIp {
                address: format!("{address}/{}", bridge.prefix),
                gateway: bridge.address,
                interface: 2,
            }],
            routes: vec![CniRoute {
                dst: "0.0.0.0/0".into(),
                gw: bridge.address,
            }],
            dns: self.container.dns.clone(),
        };
        Ok(Attachment {
            network: BRIDGE.into(),
            ifname: IFNAME.into(),
            request: Request {
                publish: self.publish.clone(),
            },
            masquerade: !bridge.ours,
            result,
        })
    }
}

/// Puts into the document what was made.
pub(crate) fn finish(document: &mut Document, container: &Container, attachments: Vec<Attachment>) {
    let id = &container.id;
    document.set("/bocker/id", id);
    let hostname = container.hostname();
    let path = netns::path(id).display().to_string();
    let netns = match container.mode {
        Mode::Host => {
            document.remove_namespace("network");
            None
        }
        Mode::Bridge | Mode::None | Mode::Cni => {
            document.set_namespace("network", Some(&path));
            Some(Netns { path, made: true })
        }
    };
    document.set("/hostname", &hostname);
    document.remove_mounts(|destination, source| files::is_mount(id, destination, source));
    for mount in files::mounts(id) {
        // Who mounts a file of their own there wants that one.
        let asked: Vec<Mount> = document.get("/mounts").ok().flatten().unwrap_or_default();
        if !asked
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            document.add_mount(&mount);
        }
    }
    let net = Net {
        mode: container.mode,
        netns,
        hostname,
        dns: container.asked_dns.servers.clone(),
        dns_search: container.asked_dns.search.clone(),
        dns_options: container.asked_dns.options.clone(),
        extra_hosts: container.extra_hosts.clone(),
        attachments,
    };
    document.set_member(MEMBER, &net);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier() -> Net {
        let text = r#"{"hostname":"web","dns":["192.0.2.53"],"dnsSearch":["example.org"],"extraHosts":["db:192.0.2.7"],"attachments":[{"network":"bridge0","ifname":"eth0",
            "request":{"publish":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]},
            "result":{"cniVersion":"1.1.0","interfaces":[],"ips":[],"routes":[],"dns":{}}}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_was_asked_for_earlier_holds_where_no_option_says_otherwise() {
        let again = Options::default().over(Some(earlier()));
        assert_eq!(again.mode, Mode::Bridge);
        assert_eq!(again.hostname.as_deref(), Some("web"));
        assert_eq!(again.dns.servers[0].to_string(), "192.0.2.53");
        assert_eq!(again.dns.search, ["example.org"]);
        assert_eq!(again.extra_hosts[0].to_string(), "db:192.0.2.7");
        assert_eq!(again.publish[0].to_string(), "8080:80/tcp");

        let options = Options {
            hostname: Some("other".into()),
            publish: vec!["9090:90".parse().unwrap()],
            ..Options::default()
        };
        let options = Options {
            dns: Asked {
                servers: vec![Ipv4Addr::LOCALHOST.into()],
                ..Asked::default()
            },
            ..options
        };
        let changed = options.over(Some(earlier()));
        assert_eq!(changed.dns.servers.len(), 1);
        assert_eq!(changed.dns.search, ["example.org"]);
        assert_eq!(changed.hostname.as_deref(), Some("other"));
        assert_eq!(changed.publish.len(), 1);
        assert_eq!(changed.publish[0].host_port, 9090);
    }

    #[test]
    fn another_network_takes_no_ports_along() {
        let options = Options {
            mode: Some(Mode::None),
            ..Options::default()
        };
        let wish = options.over(Some(earlier()));
        assert!(wish.publish.is_empty());
        wish.check().unwrap();
    }

    #[test]
    fn names_of_a_document_are_checked_as_those_of_an_option() {
        let net = Net {
            hostname: "web\n192.0.2.1 bank.example".into(),
            ..earlier()
        };
        let wish = Options::default().over(Some(net));
        assert_eq!(wish.check().unwrap_err().kind(), &Kind::Invalid);
        let net = Net {
            dns_search: vec!["a\nnameserver 192.0.2.1".into()],
            ..earlier()
        };
        let wish = Options::default().over(Some(net));
        assert_eq!(wish.check().unwrap_err().kind(), &Kind::Invalid);
    }
}
