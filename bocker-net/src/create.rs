//! `create`: a network namespace for a container, connected as asked, step by step in the order in which networking is taught.

use std::net::Ipv4Addr;

use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Document, Error, Id, Kind, Result, Step, claim, lock, paths};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use crate::files::{self, Files};
use crate::host::{self, Host};
use crate::member::{
    Attachment, CniDns, CniInterface, CniIp, CniResult, CniRoute, Mode, Net, Netns, Request,
};
use crate::netns::{self, Inside};
use crate::publish::{Protocol, Publish};
use crate::route::Veth;
use crate::subnet::{Subnet, mac, mac_text};
use crate::{BRIDGE, IFNAME, MEMBER, STAGE, altname, firewall, host_end, lease, peer_altname};

const CNI_VERSION: &str = "1.1.0";
const LOOPBACK_INTERFACE: &str = "lo";

/// What was asked for, by options or by the document of a container that is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    mode: Mode,
    hostname: Option<String>,
    publish: Vec<Publish>,
    dns: Vec<Ipv4Addr>,
}

/// What the options say; absent where none was given.
#[derive(Default)]
struct Options {
    mode: Option<Mode>,
    hostname: Option<String>,
    publish: Vec<Publish>,
    dns: Vec<Ipv4Addr>,
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
                "--network" => options.mode = Some(network(&call.text()?)?),
                "--hostname" => options.hostname = Some(files::checked_hostname(&call.text()?)?),
                "-p" | "--publish" => options.publish.push(call.text()?.parse()?),
                "--dns" => options.dns.push(server(&call.text()?)?),
                _ => return Err(call.unknown(&option)),
            }
        }
        Ok(options)
    }

    /// Options come before what the document remembers of an earlier create.
    fn over(self, earlier: Option<Net>) -> Wish {
        let (mode, hostname, publish, dns) = match earlier {
            Some(net) => {
                let publish = net
                    .attachments
                    .into_iter()
                    .flat_map(|attachment| attachment.request.publish);
                (
                    Some(net.mode),
                    Some(net.hostname),
                    publish.collect(),
                    net.dns,
                )
            }
            None => (None, None, Vec::new(), Vec::new()),
        };
        let or = |given: Vec<Publish>, earlier| if given.is_empty() { earlier } else { given };
        Wish {
            mode: self.mode.or(mode).unwrap_or(Mode::Bridge),
            hostname: self.hostname.or(hostname),
            publish: or(self.publish, publish),
            dns: if self.dns.is_empty() { dns } else { self.dns },
        }
    }
}

fn network(name: &str) -> Result<Mode> {
    match name {
        "bridge" => Ok(Mode::Bridge),
        "none" => Ok(Mode::None),
        "host" => Ok(Mode::Host),
        _ => Err(
            Error::new(Kind::Unsupported, format!("there is no network '{name}'"))
                .hint("give --network bridge, none or host"),
        ),
    }
}

fn server(text: &str) -> Result<Ipv4Addr> {
    text.parse().map_err(|_| {
        Error::new(
            Kind::Usage,
            format!("'{text}' is not the IPv4 address of a name server"),
        )
        .hint("such as --dns 192.0.2.53")
    })
}

impl Wish {
    fn check(&self) -> Result<()> {
        if self.mode != Mode::Bridge && !self.publish.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                "ports are published on the bridge network only",
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

/// What every mode works on.
struct Container {
    id: Id,
    mode: Mode,
    hostname: Option<String>,
    asked_dns: Vec<Ipv4Addr>,
    dns: CniDns,
    /// Known once the namespace is made.
    inside: Option<Inside>,
    /// Known once it is leased; in a dry run, the one that would be tried first.
    address: Option<Ipv4Addr>,
    /// Orders the verbs on this container.
    #[expect(dead_code, reason = "held for its drop")]
    verbs: Option<lock::Lock>,
}

/// What a container on the bridge works on besides.
struct Bridged {
    container: Container,
    host: Host,
    publish: Vec<Publish>,
}

impl AsRef<Container> for Container {
    fn as_ref(&self) -> &Container {
        self
    }
}

impl AsMut<Container> for Container {
    fn as_mut(&mut self) -> &mut Container {
        self
    }
}

impl AsRef<Container> for Bridged {
    fn as_ref(&self) -> &Container {
        &self.container
    }
}

impl AsMut<Container> for Bridged {
    fn as_mut(&mut self) -> &mut Container {
        &mut self.container
    }
}

impl AsRef<Host> for Bridged {
    fn as_ref(&self) -> &Host {
        &self.host
    }
}

impl AsMut<Host> for Bridged {
    fn as_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}

impl Container {
    fn inside(&mut self) -> Result<&mut Inside> {
        self.inside
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Invalid, "the network namespace is not made yet"))
    }

    fn address(&self) -> Result<Ipv4Addr> {
        self.address
            .ok_or_else(|| Error::new(Kind::Invalid, "no address is leased yet"))
    }

    /// For commands, which are shown once the address is known.
    fn shown_address(&self) -> Ipv4Addr {
        self.address.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.id.to_string())
    }

    fn files(&self) -> Result<Files> {
        let (hosts, resolv_conf) = match self.mode {
            // As docker: the host's own name resolution, in a copy, so that the container cannot edit the host's.
            Mode::Host if self.asked_dns.is_empty() => (
                files::of_host("/etc/hosts")?,
                files::of_host("/etc/resolv.conf")?,
            ),
            Mode::Host => (files::of_host("/etc/hosts")?, files::resolv_conf(&self.dns)),
            Mode::Bridge | Mode::None => (
                files::hosts(&self.hostname(), self.address),
                files::resolv_conf(&self.dns),
            ),
        };
        Ok(Files {
            hosts,
            hostname: format!("{}\n", self.hostname()),
            resolv_conf,
        })
    }
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let options = Options::parse(call)?;
    let document = call.document()?;
    let earlier: Option<Net> = document.member(MEMBER)?;
    let id = match document.value("/bocker/id") {
        None => None,
        Some(_) => Some(document.id()?),
    };
    let dry_run = call.dry_run();
    let wish = options.over(earlier);
    wish.check()?;
    if id
        .as_ref()
        .is_some_and(|id| netns::is_pinned(&netns::path(id)))
    {
        let id = id.as_ref().map(Id::as_str).unwrap_or_default();
        return Err(
            Error::new(Kind::Exists, format!("{id} has a network already"))
                .hint("remove it with 'bocker-net delete'"),
        );
    }
    let verbs = match &id {
        Some(id) if !dry_run => Some(lock::verbs(id)?),
        _ => None,
    };
    let is_new = id.is_none();
    let hostname = match (wish.mode, wish.hostname) {
        (Mode::Host, None) => Some(host_name()?),
        (_, hostname) => hostname,
    };
    let container = Container {
        id: id.unwrap_or_else(Id::placeholder),
        mode: wish.mode,
        hostname,
        dns: files::dns(&wish.dns)?,
        asked_dns: wish.dns,
        inside: None,
        address: None,
        verbs,
    };
    if wish.mode != Mode::Bridge {
        let steps = claim_step(is_new)
            .into_iter()
            .chain(own_steps(wish.mode))
            .collect();
        return call.create(container, steps, |document, container| {
            finish(document, container, Vec::new());
            Ok(())
        });
    }
    let mut host = Host::look(dry_run)?;
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
    let mut steps: Vec<Step<Bridged>> = claim_step(is_new).into_iter().collect();
    steps.extend(context.host.steps());
    steps.push(netns_step());
    steps.extend(bridge_steps());
    if !context.host.bridge.ours {
        steps.push(masquerade_container_step());
    }
    steps.extend(context.publish.iter().cloned().map(port_step));
    steps.push(files_step());
    call.create(context, steps, |document, context| {
        finish(document, &context.container, vec![context.attachment()?]);
        Ok(())
    })
}

/// The host's own name, which a container in its network namespace shares.
fn host_name() -> Result<String> {
    let name =
        nix::sys::utsname::uname().map_err(|errno| Error::system("ask the host's name", errno))?;
    Ok(name.nodename().to_string_lossy().into_owned())
}

/// Refuses a port on which a program of the host listens: published, it would be hidden from the outside.
fn refuse_used(publish: &Publish) -> Result<()> {
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
            std::os::fd::AsRawFd::as_raw_fd(&socket),
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

fn claim_step<C: AsRef<Container> + AsMut<Container> + 'static>(is_new: bool) -> Option<Step<C>> {
    is_new.then(|| {
        Step::new(
            "net.claim",
            "an id that nobody else has, by a folder that only one can make",
        )
        .command(|context: &C| {
            vec![format!(
                "mkdir -p -m 700 {}",
                paths::claim(&context.as_ref().id).display()
            )]
        })
        .look(|_| format!("ls -l {}", paths::run().display()))
        .apply(|context: &mut C| {
            context.as_mut().id = claim::make(STAGE)?;
            Ok(())
        })
        .undo(|context: &mut C| claim::release_own(&context.as_ref().id, STAGE))
    })
}

/// The steps of a container that is connected to nothing, or to all that the host is.
fn own_steps(mode: Mode) -> Vec<Step<Container>> {
    let mut steps = Vec::new();
    if mode == Mode::None {
        steps.push(netns_step());
        steps.push(
            Step::new(
                "net.up",
                "an interface passes nothing until it is up, and lo is all there is",
            )
            .command(|container: &Container| vec![in_namespace(&container.id, "ip link set lo up")])
            .look(|container| in_namespace(&container.id, "ip link"))
            .apply(|container: &mut Container| up_inside(container, LOOPBACK_INTERFACE)),
        );
    }
    steps.push(files_step());
    steps
}

fn netns_step<C: AsRef<Container> + AsMut<Container> + 'static>() -> Step<C> {
    Step::new("net.netns", "interfaces, addresses, routes and ports of its own; the bind mount keeps it without a process")
        .command(|context: &C| {
            let path = netns::path(&context.as_ref().id);
            vec![format!("touch {}", path.display()), format!("unshare --net={} true", path.display())]
        })
        .look(|context| format!("findmnt {}", netns::path(&context.as_ref().id).display()))
        .apply(|context: &mut C| {
            let container = context.as_mut();
            container.inside = Some(netns::pin(&netns::path(&container.id))?);
            Ok(())
        })
        .undo(|context: &mut C| {
            let container = context.as_mut();
            // Our own descriptors would keep it.
            container.inside = None;
            netns::unpin(&netns::path(&container.id))
        })
}

fn files_step<C: AsRef<Container> + AsMut<Container> + 'static>() -> Step<C> {
    Step::new(
        "net.files",
        "how the container knows names: its own, its address, and whom it asks for all others",
    )
    .command(|context: &C| {
        let container = context.as_ref();
        container.files().map_or_else(
            |error| vec![format!("# {error}")],
            |files| files.commands(&container.id),
        )
    })
    .look(|context| {
        format!(
            "cat {}/resolv.conf",
            paths::claim(&context.as_ref().id).display()
        )
    })
    .apply(|context: &mut C| {
        let container = context.as_ref();
        container.files()?.write(&container.id)
    })
    .undo(|context: &mut C| files::remove(&context.as_ref().id))
}

/// The steps that connect a namespace to the bridge.
fn bridge_steps() -> Vec<Step<Bridged>> {
    let id = |context: &Bridged| context.container.id.clone();
    vec![
        Step::new("net.lease", "an address of the bridge's subnet that no other container has")
            .command(|context: &Bridged| {
                let folder = lease::folder(BRIDGE);
                let link = folder.join(context.container.shown_address().to_string());
                vec![
                    format!("mkdir -p -m 700 {}", folder.display()),
                    format!("ln -s {} {}", lease::target(&context.container.id), link.display()),
                ]
            })
            .look(|_| format!("ls -l {}", lease::folder(BRIDGE).display()))
            .apply(lease_address)
            .undo(move |context| match context.container.address {
                Some(address) => lease::release(&lease::folder(BRIDGE), address, &context.container.id),
                None => Ok(()),
            }),
        Step::new("net.veth", "a cable: one plug stays in the bridge, the other is born in the container as eth0")
            .command(move |context: &Bridged| {
                let (host, address) = (host_end(&id(context)), context.container.shown_address());
                let netns = netns::path(&id(context));
                vec![
                    format!(
                        "ip link add {host} master {BRIDGE} type veth peer name {IFNAME} address {} netns {}",
                        mac_text(&mac(address)),
                        netns.display()
                    ),
                    format!("ip link property add dev {host} altname {}", altname(address)),
                    in_namespace(
                        &id(context),
                        &format!("ip link property add dev {IFNAME} altname {}", peer_altname(&id(context))),
                    ),
                ]
            })
            .look(move |_| format!("ip -d link show master {BRIDGE}"))
            .apply(plug_in)
            .undo(move |context| context.host.route.delete_link(&host_end(&id(context)))),
        Step::new("net.address", "who the container is on that network")
            .command(move |context: &Bridged| {
                let (address, prefix) = (context.container.shown_address(), context.host.bridge.prefix);
                let command = format!("ip address add {address}/{prefix} broadcast + dev {IFNAME}");
                vec![in_namespace(&id(context), &command)]
            })
            .look(move |context| in_namespace(&id(context), "ip address"))
            .apply(|context: &mut Bridged| {
                let (address, prefix) = (context.container.address()?, context.host.bridge.prefix);
                let Inside { route, index, .. } = context.container.inside()?;
                route
                    .add_address(*index, address, prefix)
                    .map_err(|refusal| refusal.error(&format!("give {address}/{prefix} to {IFNAME}")))
            }),
        Step::new("net.up", "an interface passes nothing until it is up: both plugs, and the container's own lo")
            .command(move |context: &Bridged| {
                vec![
                    in_namespace(&id(context), &format!("ip link set {LOOPBACK_INTERFACE} up")),
                    in_namespace(&id(context), &format!("ip link set {IFNAME} up")),
                    format!("ip link set {} up", host_end(&id(context))),
                ]
            })
            .look(move |context| in_namespace(&id(context), "ip link"))
            .apply(|context: &mut Bridged| {
                up_inside(&mut context.container, LOOPBACK_INTERFACE)?;
                up_inside(&mut context.container, IFNAME)?;
                let name = host_end(&context.container.id);
                context.host.route.set_up(&name).map_err(|refusal| refusal.error(&format!("bring {name} up")))
            }),
        Step::new("net.route", "everything that is not on this network goes to the bridge's address, which passes it on")
            .command(move |context: &Bridged| {
                let gateway = context.host.bridge.address;
                vec![in_namespace(&id(context), &format!("ip route add default via {gateway} dev {IFNAME}"))]
            })
            .look(move |context| in_namespace(&id(context), "ip route"))
            .apply(|context: &mut Bridged| {
                let gateway = context.host.bridge.address;
                let Inside { route, index, .. } = context.container.inside()?;
                route
                    .add_default_route(*index, gateway)
                    .map_err(|refusal| refusal.error(&format!("route by {gateway}")))
            }),
    ]
}

/// On a bridge of the user's only our containers are masqueraded, each by itself.
fn masquerade_container_step() -> Step<Bridged> {
    host::masquerade_step(|context: &Bridged| {
        let subnet = Subnet::of(context.container.shown_address(), 32);
        (subnet, context.container.id.to_string())
    })
    .undo(|context| {
        let address = context.container.address()?;
        context
            .host
            .firewall
            .delete_address(address, &context.container.id)
    })
}

fn port_step(publish: Publish) -> Step<Bridged> {
    let (shown, looked, undone) = (publish.clone(), publish.protocol, publish.clone());
    Step::new("net.port", "what is sent to this port of the host gets the container's address instead, before it is routed")
        .command(move |context: &Bridged| {
            vec![firewall::add_port_command(&shown, context.container.shown_address(), &context.container.id)]
        })
        .look(move |_| format!("nft list table ip {}; conntrack -L -p {looked}", firewall::TABLE))
        .apply(move |context: &mut Bridged| {
            let address = context.container.address()?;
            context.host.firewall.publish(&publish, address, &context.container.id)
        })
        .undo(move |context| context.host.firewall.unpublish(&undone, &context.container.id))
}

fn lease_address(context: &mut Bridged) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let folder = lease::folder(BRIDGE);
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(&folder)
        .map_err(|error| {
            Error::new(
                Kind::System(error.raw_os_error().unwrap_or(0)),
                format!("cannot make {}: {error}", folder.display()),
            )
        })?;
    // The end of a namespace takes its time: the interface of this container's former one may still be there.
    host.route.delete_link(&host_end(&container.id))?;
    let (subnet, gateway) = (host.bridge.subnet(), host.bridge.address);
    let lingers = |address| Ok(host.route.link_by_altname(&altname(address))?.is_some());
    container.address = Some(lease::take(
        &folder,
        subnet,
        gateway,
        &container.id,
        lingers,
    )?);
    host.unlock();
    Ok(())
}

fn plug_in(context: &mut Bridged) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let address = container.address()?;
    let (name, id) = (host_end(&container.id), container.id.clone());
    let inside = container.inside()?;
    let veth = Veth {
        host: &name,
        bridge: host.bridge.index,
        peer: IFNAME,
        peer_mac: mac(address),
    };
    host.route
        .add_veth(&veth, &inside.namespace)
        .map_err(|refusal| refusal.error(&format!("make the interface {name}")))?;
    let named = host
        .route
        .add_altname(&name, &altname(address))
        .and_then(|()| inside.route.add_altname(IFNAME, &peer_altname(&id)));
    if let Err(refusal) = named {
        host.route.delete_link(&name)?;
        return Err(refusal.error(&format!("give {name} an alternative name")));
    }
    // Asked by name once; an address and a route are given by index.
    match inside.route.link(IFNAME)? {
        Some(link) => inside.index = link.index,
        None => return Err(Error::system(&format!("find {IFNAME}"), Errno::ENODEV)),
    }
    Ok(())
}

fn up_inside(container: &mut Container, name: &str) -> Result<()> {
    let route = &mut container.inside()?.route;
    route
        .set_up(name)
        .map_err(|refusal| refusal.error(&format!("bring {name} up")))
}

fn in_namespace(id: &Id, command: &str) -> String {
    format!(
        "nsenter --net={} {command}",
        quote(&netns::path(id).display().to_string())
    )
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
                interface(host_end(&self.container.id), None, String::new()),
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
            result,
        })
    }
}

/// Puts into the document what was made.
fn finish(document: &mut Document, container: &Container, attachments: Vec<Attachment>) {
    let id = &container.id;
    document.set("/bocker/id", id);
    let hostname = container.hostname();
    let path = netns::path(id).display().to_string();
    let netns = match container.mode {
        Mode::Host => {
            document.remove_namespace("network");
            None
        }
        Mode::Bridge | Mode::None => {
            document.set_namespace("network", Some(&path));
            Some(Netns { path, made: true })
        }
    };
    document.set("/hostname", &hostname);
    document.remove_mounts(|destination, source| files::is_mount(id, destination, source));
    for mount in files::mounts(id) {
        document.add_mount(&mount);
    }
    let net = Net {
        mode: container.mode,
        netns,
        hostname,
        dns: container.asked_dns.clone(),
        attachments,
    };
    document.set_member(MEMBER, &net);
}
