//! The steps of `create`, in the order in which networking is taught.

use std::net::{IpAddr, Ipv4Addr};

use bocker_pipe::step::quote;
use bocker_pipe::{Error, Id, Kind, Result, Step, claim, lock, paths};
use nix::errno::Errno;

use crate::conntrack;
use crate::extra::ExtraHost;
use crate::files::{self, Files};
use crate::host::Host;
use crate::member::{CniDns, Mode};
use crate::netns::{self, Inside, Unpinned};
use crate::publish::{Protocol, Publish};
use crate::resolve::{self, Asked, Reach};
use crate::route::Veth;
use crate::subnet::{host_mac, mac, mac_text};
use crate::{BRIDGE, IFNAME, STAGE, altname, firewall, host_end, lease, peer_altname, ruleset};

const LOOPBACK: &str = "lo";

/// What every mode works on.
pub(crate) struct Container {
    pub(crate) id: Id,
    pub(crate) mode: Mode,
    pub(crate) hostname: Option<String>,
    pub(crate) asked_dns: Asked,
    pub(crate) reach: Reach,
    pub(crate) dns: CniDns,
    pub(crate) extra_hosts: Vec<ExtraHost>,
    /// The host's addresses as the container reaches it; none without a network that the host is in.
    pub(crate) gateways: Vec<IpAddr>,
    /// The namespace before it is pinned, where there is to be one.
    pub(crate) namespace: Option<Unpinned>,
    /// Known once the namespace is pinned.
    pub(crate) inside: Option<Inside>,
    /// Known once it is leased; in a dry run, the one that would be tried first.
    pub(crate) address: Option<Ipv4Addr>,
    /// What plugins of CNI gave.
    pub(crate) given: Vec<IpAddr>,
    /// Orders the verbs on this container.
    pub(crate) verbs: Option<lock::Lock>,
}

/// What a container on the bridge works on besides.
pub(crate) struct Bridged {
    pub(crate) container: Container,
    pub(crate) host: Host,
    pub(crate) publish: Vec<Publish>,
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
    pub(crate) fn inside(&mut self) -> Result<&mut Inside> {
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

    pub(crate) fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.id.to_string())
    }

    fn files(&self) -> Result<Files> {
        let extra = self.extra_hosts()?;
        let hosts = match self.mode {
            // As docker: the host's own, in a copy, so that the container cannot edit the host's.
            Mode::Host => files::hosts_of_host()? + &extra,
            Mode::Bridge | Mode::None => {
                let address = self.address.map(IpAddr::V4);
                files::hosts(&self.hostname(), address.as_slice(), &extra)
            }
            Mode::Cni => files::hosts(&self.hostname(), &self.given, &extra),
        };
        Ok(Files {
            hosts,
            hostname: format!("{}\n", self.hostname()),
            resolv_conf: resolve::text(&self.asked_dns, self.reach, &self.dns)?,
        })
    }

    /// The lines of hosts(5) that were asked for.
    pub(crate) fn extra_hosts(&self) -> Result<String> {
        let hosts = self.extra_hosts.iter();
        hosts.map(|host| host.lines(&self.gateways)).collect()
    }
}

/// The id, where none was given.
pub(crate) fn claim_step<C: AsRef<Container> + AsMut<Container> + 'static>() -> Step<C> {
    Step::new(
        "net.claim",
        "an id that nobody else has, by a folder that only one can make",
    )
    .command(|context: &C| {
        let folder = paths::claim(&context.as_ref().id);
        vec![format!("mkdir -p -m 700 {}", folder.display())]
    })
    .look(|_| format!("ls -l {}", paths::run().display()))
    .apply(|context: &mut C| {
        let container = context.as_mut();
        container.id = claim::make(STAGE)?;
        let verbs = lock::verbs(&container.id);
        if verbs.is_err() {
            claim::release_own(&container.id, STAGE)?;
        }
        container.verbs = Some(verbs?);
        Ok(())
    })
    .undo(|context: &mut C| {
        let container = context.as_mut();
        container.verbs = None;
        claim::release_own(&container.id, STAGE)
    })
}

/// A namespace of its own.
pub(crate) fn netns_step<C: AsRef<Container> + AsMut<Container> + 'static>() -> Step<C> {
    Step::new(
        "net.netns",
        "interfaces, addresses and ports of its own; a bind mount keeps it without a process",
    )
    .command(|context: &C| {
        let path = netns::path(&context.as_ref().id);
        let path = path.display();
        vec![
            format!("touch {path}"),
            format!("unshare --net={path} true"),
        ]
    })
    .look(|context| format!("findmnt {}", netns::path(&context.as_ref().id).display()))
    .apply(|context: &mut C| {
        let container = context.as_mut();
        let namespace = match container.namespace.take() {
            Some(namespace) => namespace,
            None => Unpinned::make()?,
        };
        container.inside = Some(namespace.pin(&netns::path(&container.id))?);
        Ok(())
    })
    .undo(|context: &mut C| {
        let container = context.as_mut();
        // Our own descriptors would keep it.
        container.inside = None;
        netns::unpin(&netns::path(&container.id))
    })
}

/// All that a container has that is connected to nothing.
pub(crate) fn loopback_step<C: AsRef<Container> + AsMut<Container> + 'static>() -> Step<C> {
    Step::new(
        "net.up",
        "an interface passes nothing until it is up, and lo is all there is",
    )
    .command(|context: &C| vec![in_namespace(&context.as_ref().id, "ip link set lo up")])
    .look(|context| in_namespace(&context.as_ref().id, "ip link"))
    .apply(|context: &mut C| up_inside(context.as_mut(), LOOPBACK))
}

/// The files by which it knows names.
pub(crate) fn files_step<C: AsRef<Container> + AsMut<Container> + 'static>() -> Step<C> {
    Step::new(
        "net.files",
        "how the container knows names: its own, its address, and whom it asks for all others",
    )
    .command(|context: &C| {
        let container = context.as_ref();
        match container.files() {
            Ok(files) => files.commands(&container.id),
            Err(error) => vec![format!("# {error}")],
        }
    })
    .look(|context| {
        format!(
            "grep . {}/[hr]*",
            paths::claim(&context.as_ref().id).display()
        )
    })
    .apply(|context: &mut C| {
        let container = context.as_ref();
        container.files()?.write(&container.id)
    })
    .undo(|context: &mut C| files::remove(&context.as_ref().id))
}

/// An address.
pub(crate) fn lease_step() -> Step<Bridged> {
    Step::new(
        "net.lease",
        "an address of the bridge's subnet that no other container has",
    )
    .command(|context: &Bridged| {
        let folder = lease::folder(BRIDGE);
        let link = folder.join(context.container.shown_address().to_string());
        let target = lease::target(&context.container.id);
        vec![
            format!("mkdir -p -m 700 {}", folder.display()),
            format!("ln -s {target} {}", link.display()),
        ]
    })
    .look(|_| format!("ls -l {}", lease::folder(BRIDGE).display()))
    .apply(lease_address)
    .undo(|context| {
        let folder = lease::folder(BRIDGE);
        lease::release(&folder, context.container.address()?, &context.container.id)
    })
}

fn lease_address(context: &mut Bridged) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let folder = lease::folder(BRIDGE);
    // A namespace takes its time to end: an interface of this very container may still be there.
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

/// A cable.
pub(crate) fn veth_step() -> Step<Bridged> {
    Step::new(
        "net.veth",
        "a cable: one plug stays in the bridge, the other is born in the container as eth0",
    )
    .command(|context: &Bridged| {
        let Container { id, .. } = &context.container;
        let (host, address) = (host_end(id), context.container.shown_address());
        let netns = netns::path(id);
        let peer = format!(
            "name {IFNAME} address {} netns {}",
            mac_text(&mac(address)),
            netns.display()
        );
        let second_name = format!(
            "ip link property add dev {IFNAME} altname {}",
            peer_altname(id)
        );
        vec![
            format!(
                "ip link add {host} address {} master {BRIDGE} type veth peer {peer}",
                mac_text(&host_mac(address))
            ),
            format!(
                "ip link property add dev {host} altname {}",
                altname(address)
            ),
            in_namespace(id, &second_name),
            format!("ip link set {host} addrgenmode none"),
        ]
    })
    .look(|_| format!("ip -d link show master {BRIDGE}"))
    .apply(plug_in)
    .undo(|context| {
        context
            .host
            .route
            .delete_link(&host_end(&context.container.id))
    })
}

fn plug_in(context: &mut Bridged) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let address = container.address()?;
    let (name, second_name) = (host_end(&container.id), peer_altname(&container.id));
    let inside = container.inside()?;
    let veth = Veth {
        host: &name,
        host_mac: host_mac(address),
        bridge: host.bridge.index,
        peer: IFNAME,
        peer_mac: mac(address),
    };
    host.route
        .add_veth(&veth, &inside.namespace)
        .map_err(|refusal| refusal.error(&format!("make the interface {name}")))?;
    let named = prepare_ends(host, inside, &altname(address), &name, &second_name);
    if named.is_err() {
        host.route.delete_link(&name)?;
    }
    named
}

fn prepare_ends(
    host: &mut Host,
    inside: &mut Inside,
    lease: &str,
    name: &str,
    peer: &str,
) -> Result<()> {
    let naming = |name: &str| format!("give {name} an alternative name");
    host.route
        .add_altname(name, lease)
        .map_err(|refusal| refusal.error(&naming(name)))?;
    inside
        .route
        .add_altname(IFNAME, peer)
        .map_err(|refusal| refusal.error(&naming(IFNAME)))?;
    // The host talks to containers by IPv4 only: an IPv6 address of this end would be a way around the firewall.
    let quiet = host.route.without_ipv6(name);
    quiet.map_err(|refusal| refusal.error(&format!("keep IPv6 from {name}")))?;
    // Asked by name once: addresses and routes are given by index.
    match inside.route.link(IFNAME)? {
        Some(link) => inside.index = link.index,
        None => return Err(Error::system(&format!("find {IFNAME}"), Errno::ENODEV)),
    }
    Ok(())
}

/// The address on the container's plug.
pub(crate) fn address_step() -> Step<Bridged> {
    Step::new("net.address", "who the container is on that network")
        .command(|context: &Bridged| {
            let (address, prefix) = (
                context.container.shown_address(),
                context.host.bridge.prefix,
            );
            let command = format!("ip address add {address}/{prefix} broadcast + dev {IFNAME}");
            vec![in_namespace(&context.container.id, &command)]
        })
        .look(|context| in_namespace(&context.container.id, "ip address"))
        .apply(|context: &mut Bridged| {
            let (address, prefix) = (context.container.address()?, context.host.bridge.prefix);
            let Inside { route, index, .. } = context.container.inside()?;
            route
                .add_address(*index, address, prefix)
                .map_err(|refusal| refusal.error(&format!("give {address}/{prefix} to {IFNAME}")))
        })
}

/// Everything on.
pub(crate) fn up_step() -> Step<Bridged> {
    Step::new(
        "net.up",
        "an interface passes nothing until it is up: both plugs, and the container's own lo",
    )
    .command(|context: &Bridged| {
        let id = &context.container.id;
        vec![
            in_namespace(id, &format!("ip link set {LOOPBACK} up")),
            in_namespace(id, &format!("ip link set {IFNAME} up")),
            format!("ip link set {} up", host_end(id)),
        ]
    })
    .look(|context| in_namespace(&context.container.id, "ip link"))
    .apply(|context: &mut Bridged| {
        up_inside(&mut context.container, LOOPBACK)?;
        up_inside(&mut context.container, IFNAME)?;
        let name = host_end(&context.container.id);
        let up = context.host.route.set_up(&name);
        up.map_err(|refusal| refusal.error(&format!("bring {name} up")))
    })
}

fn up_inside(container: &mut Container, name: &str) -> Result<()> {
    let up = container.inside()?.route.set_up(name);
    up.map_err(|refusal| refusal.error(&format!("bring {name} up")))
}

/// The way out.
pub(crate) fn route_step() -> Step<Bridged> {
    Step::new(
        "net.route",
        "what is not on this network goes to the bridge's address, which passes it on",
    )
    .command(|context: &Bridged| {
        let gateway = context.host.bridge.address;
        let command = format!("ip route add default via {gateway} dev {IFNAME}");
        vec![in_namespace(&context.container.id, &command)]
    })
    .look(|context| in_namespace(&context.container.id, "ip route"))
    .apply(|context: &mut Bridged| {
        let gateway = context.host.bridge.address;
        let Inside { route, index, .. } = context.container.inside()?;
        route
            .add_default_route(*index, gateway)
            .map_err(|refusal| refusal.error(&format!("route by {gateway}")))
    })
}

/// On a bridge of the user's only our containers are masqueraded, each by itself.
pub(crate) fn masquerade_step() -> Step<Bridged> {
    Step::new(
        "net.masquerade",
        "outside nobody knows this address: what leaves carries the host's, and answers return",
    )
    .command(|context: &Bridged| {
        let Container { id, .. } = &context.container;
        let address = context.container.shown_address();
        vec![firewall::add_address_command(address.into(), id)]
    })
    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
    .apply(|context: &mut Bridged| {
        let address = context.container.address()?;
        let id = &context.container.id;
        context.host.firewall.add_address(address.into(), id)
    })
    .undo(|context| {
        let address = context.container.address()?;
        let id = &context.container.id;
        context.host.firewall.delete_address(address.into(), id)
    })
}

/// A published port.
pub(crate) fn port_step(publish: Publish) -> Step<Bridged> {
    let (shown, undone) = (publish.clone(), publish.clone());
    Step::new(
        "net.port",
        "what is sent to this port of the host is sent on to the container's address and port",
    )
    .command(move |context: &Bridged| {
        let Container { id, .. } = &context.container;
        let address = context.container.shown_address();
        let mut lines = vec![firewall::add_port_command(&shown, address, id)];
        if shown.protocol == Protocol::Udp {
            lines.push(format!(
                "# conntrack -D -p udp --orig-port-dst {}",
                shown.host_port
            ));
        }
        lines
    })
    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
    .apply(move |context: &mut Bridged| publish_port(context, &publish))
    .undo(move |context| {
        context
            .host
            .firewall
            .unpublish(&undone, &context.container.id)
    })
}

fn publish_port(context: &mut Bridged, publish: &Publish) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    host.firewall
        .publish(publish, container.address()?, &container.id)?;
    if publish.protocol != Protocol::Udp {
        return Ok(());
    }
    let addresses = host
        .route
        .addresses()?
        .into_iter()
        .map(|(_, address, _)| address);
    let of_port = addresses.filter(|address| publish.host_ip.is_none_or(|ip| ip == *address));
    let forgotten = conntrack::forget(publish, of_port);
    if forgotten.is_err() {
        host.firewall.unpublish(publish, &container.id)?;
    }
    forgotten
}

/// The way from a container to its own published port, where frames on bridges pass the firewall (br_netfilter): there the
/// bridge itself, not the host behind it, would have to send the frame back to where it came from.
pub(crate) fn hairpin_step() -> Step<Bridged> {
    Step::new(
        "net.hairpin",
        "what the container sends to its own published port may come back by the same plug",
    )
    .command(|context: &Bridged| {
        let name = host_end(&context.container.id);
        vec![format!("ip link set {name} type bridge_slave hairpin on")]
    })
    .look(|_| format!("bridge -d link show master {BRIDGE}"))
    .apply(|context: &mut Bridged| {
        let name = host_end(&context.container.id);
        let hairpin = context.host.route.set_hairpin(&name);
        hairpin.map_err(|refusal| refusal.error(&format!("set hairpin mode on {name}")))
    })
}

fn in_namespace(id: &Id, command: &str) -> String {
    format!(
        "nsenter --net={} {command}",
        quote(&netns::path(id).display().to_string())
    )
}
