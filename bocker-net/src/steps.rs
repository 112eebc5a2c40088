//! The steps of `create`, in the order in which networking is taught.

use std::net::IpAddr;
use std::path::PathBuf;

use bocker_pipe::step::quote;
use bocker_pipe::{Error, Id, Kind, Result, Step, claim, lock, paths};
use nix::errno::Errno;

use crate::bridge::{Bridge, PORTS, address_flags};
use crate::extra::ExtraHost;
use crate::files::{self, Files};
use crate::firewall::Target;
use crate::host::Host;
use crate::lease::Pool;
use crate::member::{CniDns, CniRoute, Mode};
use crate::names::{Entry, Names};
use crate::netlink::Refusal;
use crate::netns::{self, Inside, Unpinned};
use crate::plug::{Leased, Plug, altname};
use crate::ports::Ports;
use crate::resolve::{self, Reach};
use crate::route::Veth;
use crate::subnet::mac_text;
use crate::{STAGE, firewall, lease, ruleset, sysctl};

const LOOPBACK: &str = "lo";
/// What a default route leads to, of each family.
const EVERYWHERE: &str = "0.0.0.0/0";
const EVERYWHERE_IPV6: &str = "::/0";

/// The container whose network another one shares.
pub(crate) struct Joined {
    pub(crate) id: Id,
    /// Where its namespace is pinned; `None` where that is the host's.
    pub(crate) netns: Option<String>,
}

/// What every mode works on.
pub(crate) struct Container {
    pub(crate) id: Id,
    /// As people call it, if they do.
    pub(crate) name: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) hostname: Option<String>,
    pub(crate) asked_dns: resolve::Asked,
    pub(crate) reach: Reach,
    pub(crate) dns: CniDns,
    pub(crate) extra_hosts: Vec<ExtraHost>,
    /// The host's addresses as the container reaches it; none without a network that the host is in.
    pub(crate) gateways: Vec<IpAddr>,
    /// In mode container.
    pub(crate) joined: Option<Joined>,
    /// In mode ns: somebody else's namespace.
    pub(crate) elsewhere: Option<PathBuf>,
    /// The namespace before it is pinned, where there is to be one.
    pub(crate) namespace: Option<Unpinned>,
    /// Known once the namespace is pinned.
    pub(crate) inside: Option<Inside>,
    /// Its interfaces.
    pub(crate) plugs: Vec<Plug>,
    /// Which of them leads out: the first on a network that is not internal.
    pub(crate) way_out: Option<usize>,
    /// What plugins of CNI gave.
    pub(crate) given: Vec<IpAddr>,
    /// Orders the verbs on this container.
    pub(crate) verbs: Option<lock::Lock>,
}

/// What a container on bridges works on besides. The host's places are in the order of the container's plugs.
pub(crate) struct Bridged {
    pub(crate) container: Container,
    pub(crate) host: Host,
    pub(crate) ports: Ports,
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

    fn plug(&self, at: usize) -> Result<&Plug> {
        let plug = self.plugs.get(at);
        plug.ok_or_else(|| Error::new(Kind::Invalid, "there is no such interface"))
    }

    fn plug_mut(&mut self, at: usize) -> Result<&mut Plug> {
        let plug = self.plugs.get_mut(at);
        plug.ok_or_else(|| Error::new(Kind::Invalid, "there is no such interface"))
    }

    /// The addresses by which it is reached from outside, where published ports lead.
    fn reached_by(&self) -> impl Iterator<Item = IpAddr> {
        let plug = self.way_out.and_then(|at| self.plugs.get(at));
        let leased = plug.into_iter().flat_map(|plug| &plug.leased);
        leased.map(|leased| leased.address)
    }

    /// Where published ports lead.
    pub(crate) fn target(&self) -> Target {
        let mut target = Target::default();
        for address in self.reached_by() {
            match address {
                IpAddr::V4(address) => _ = target.v4.get_or_insert(address),
                IpAddr::V6(address) => _ = target.v6.get_or_insert(address),
            }
        }
        target
    }

    /// The addresses that the container knows itself by.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let leased = self.plugs.iter().flat_map(|plug| &plug.leased);
        leased.map(|leased| leased.address).collect()
    }

    /// The host's end of the interface that leads out.
    fn way_out_end(&self) -> Option<&str> {
        let plug = self.way_out.and_then(|at| self.plugs.get(at));
        plug.map(|plug| plug.host_end.as_str())
    }

    /// The default routes, and the interface by which each goes.
    fn default_routes(&self) -> Vec<(usize, IpAddr)> {
        let by = |four: bool| {
            let plugs = self.plugs.iter().enumerate();
            plugs
                .flat_map(|(at, plug)| plug.leased.iter().map(move |leased| (at, leased)))
                .filter(|(_, leased)| leased.address.is_ipv4() == four)
                .find_map(|(at, leased)| Some((at, leased.gateway?)))
        };
        by(true).into_iter().chain(by(false)).collect()
    }

    /// What the document says of the routes by this interface.
    pub(crate) fn routes_by(&self, at: usize) -> Vec<CniRoute> {
        let of_plug = self
            .default_routes()
            .into_iter()
            .filter(|(by, _)| *by == at);
        let route = |(_, gateway): (usize, IpAddr)| CniRoute {
            dst: match gateway {
                IpAddr::V4(_) => EVERYWHERE.into(),
                IpAddr::V6(_) => EVERYWHERE_IPV6.into(),
            },
            gw: Some(gateway),
        };
        of_plug.map(route).collect()
    }

    pub(crate) fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.id.to_string())
    }

    fn files(&self) -> Result<Files> {
        let extra = self.extra_hosts()?;
        let hosts = match self.mode {
            // As docker: the host's own, in a copy, so that the container cannot edit the host's.
            Mode::Host => files::hosts_of_host()? + &extra,
            Mode::Bridge | Mode::None | Mode::Container | Mode::Ns => {
                files::hosts(&self.hostname(), &self.own_addresses(), &extra)
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
        for (number, plug) in container.plugs.iter_mut().enumerate() {
            plug.name_ends(number, &container.id);
        }
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

/// How the others on networks that somebody made know it, and it them.
pub(crate) fn names_step() -> Step<Bridged> {
    Step::new(
        "net.names",
        "the others on its network find it by its name, id and aliases, and it finds them",
    )
    .command(|context: &Bridged| {
        let names = Names::of_machine();
        let entries = context.entries().unwrap_or_default();
        let mut lines: Vec<String> = entries.iter().flat_map(|one| names.commands(one)).collect();
        lines.push(
            "# what these tables say is written into the hosts file of everyone in them".into(),
        );
        lines
    })
    .look(|context| {
        let claims = paths::run().display();
        format!(
            "grep {} {}/net/names/* {claims}/*/hosts",
            context.container.id, claims
        )
    })
    .apply(|context: &mut Bridged| {
        let (names, id) = (Names::of_machine(), &context.container.id);
        let joined = names.join(id, &context.entries()?);
        if joined.is_err() {
            names.leave(id)?;
        }
        joined
    })
    .undo(|context| Names::of_machine().leave(&context.container.id))
}

/// The addresses of one interface.
pub(crate) fn lease_step(at: usize) -> Step<Bridged> {
    Step::new(
        "net.lease",
        "an address of the network's subnet that no other container has",
    )
    .command(move |context: &Bridged| {
        let Ok((plug, bridge)) = context.at(at) else {
            return Vec::new();
        };
        let folder = lease::folder(&bridge.network.bridge);
        let target = lease::target(&context.container.id);
        let mut lines = vec![format!("mkdir -p -m 700 {}", folder.display())];
        let links = plug
            .leased
            .iter()
            .map(|leased| folder.join(leased.address.to_string()));
        lines.extend(links.map(|link| format!("ln -s {target} {}", link.display())));
        lines
    })
    .look(move |context| {
        let bridge = context
            .host
            .bridge(at)
            .map(|bridge| bridge.network.bridge.as_str());
        format!(
            "ls -l {}",
            lease::folder(bridge.unwrap_or_default()).display()
        )
    })
    .apply(move |context: &mut Bridged| {
        let leased = lease_addresses(context, at);
        if leased.is_err() {
            release_addresses(context, at)?;
        }
        leased
    })
    .undo(move |context| release_addresses(context, at))
}

fn lease_addresses(context: &mut Bridged, at: usize) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let id = container.id.clone();
    let is_last = at + 1 == container.plugs.len();
    let network = host.bridge(at)?.network.clone();
    let plug = container.plug_mut(at)?;
    // A namespace takes its time to end: an interface of this very container may still be there.
    host.route.delete_link(&plug.host_end)?;
    for range in &network.subnets {
        let pool = Pool::of(&network.bridge, range);
        let lingers = |address| Ok(host.route.link_by_altname(&altname(address))?.is_some());
        let request = &plug.asked.request;
        let asked = match range.subnet.is_ipv4() {
            true => request.ip.map(IpAddr::from),
            false => request.ip6.map(IpAddr::from),
        };
        let earlier = plug.asked.earlier.iter().copied();
        let address = match asked {
            Some(address) => pool.take_this(address, &id, lingers).map(|()| address)?,
            None => pool.take(
                &id,
                earlier
                    .into_iter()
                    .find(|address| range.subnet.contains(*address)),
                lingers,
            )?,
        };
        plug.leased.push(Leased {
            address,
            prefix: range.subnet.prefix(),
            gateway: (!network.internal).then_some(range.gateway),
        });
    }
    // What is still to be made is made before anybody else looks.
    if is_last && host.is_complete() {
        host.unlock();
    }
    Ok(())
}

fn release_addresses(context: &mut Bridged, at: usize) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let folder = lease::folder(&host.bridge(at)?.network.bridge);
    for leased in &container.plug(at)?.leased {
        lease::release(&folder, leased.address, &container.id)?;
    }
    Ok(())
}

impl Bridged {
    /// An interface, and the bridge that it is plugged into.
    pub(crate) fn at(&self, at: usize) -> Result<(&Plug, &Bridge)> {
        Ok((self.container.plug(at)?, self.host.bridge(at)?))
    }

    /// Its interfaces on networks that somebody made, as the others know them.
    fn entries(&self) -> Result<Vec<Entry>> {
        let Container {
            id, name, plugs, ..
        } = &self.container;
        let mut entries = Vec::new();
        for (at, plug) in plugs.iter().enumerate() {
            let network = &self.host.bridge(at)?.network;
            if !network.is_default() {
                let addresses = plug.leased.iter().map(|leased| leased.address).collect();
                let aliases = &plug.asked.request.aliases;
                entries.push(Entry::new(
                    &network.bridge,
                    addresses,
                    id,
                    name.as_deref(),
                    aliases,
                ));
            }
        }
        Ok(entries)
    }

    /// In a dry run, the addresses that would be tried first.
    pub(crate) fn plan(&mut self) -> Result<()> {
        for at in 0..self.container.plugs.len() {
            let network = self.host.bridge(at)?.network.clone();
            let id = self.container.id.clone();
            let plug = self.container.plug_mut(at)?;
            for range in &network.subnets {
                let asked = match range.subnet.is_ipv4() {
                    true => plug.asked.request.ip.map(IpAddr::from),
                    false => plug.asked.request.ip6.map(IpAddr::from),
                };
                let Some(address) = asked.or_else(|| Pool::of(&network.bridge, range).first(&id))
                else {
                    continue;
                };
                plug.leased.push(Leased {
                    address,
                    prefix: range.subnet.prefix(),
                    gateway: (!network.internal).then_some(range.gateway),
                });
            }
        }
        Ok(())
    }
}

/// A cable.
pub(crate) fn veth_step(at: usize) -> Step<Bridged> {
    Step::new(
        "net.veth",
        "a cable: one plug stays in the bridge, the other is born in the container as its interface",
    )
    .command(move |context: &Bridged| veth_commands(context, at).unwrap_or_default())
    .look(move |context| {
        let bridge = context.host.bridge(at).map(|bridge| bridge.network.bridge.as_str());
        format!("ip -d link show master {}", bridge.unwrap_or_default())
    })
    .apply(move |context: &mut Bridged| plug_in(context, at))
    .undo(move |context| {
        let name = &context.container.plug(at)?.host_end;
        context.host.route.delete_link(name)
    })
}

fn veth_commands(context: &Bridged, at: usize) -> Result<Vec<String>> {
    let (plug, bridge) = context.at(at)?;
    let Container { id, .. } = &context.container;
    let (host, ifname) = (&plug.host_end, &plug.ifname);
    let mtu = match bridge.network.mtu {
        Some(mtu) => format!(" mtu {mtu}"),
        None => String::new(),
    };
    let peer = format!(
        "name {ifname} address {}{mtu} netns {}",
        mac_text(&plug.mac()?),
        netns::path(id).display()
    );
    let altnames = plug.altnames().join(" altname ");
    let second_name = format!(
        "ip link property add dev {ifname} altname {}",
        plug.peer_altname
    );
    let mut lines = vec![
        format!(
            "ip link add {host} address {}{mtu} master {} type veth peer {peer}",
            mac_text(&plug.host_mac()),
            bridge.network.bridge
        ),
        format!("ip link property add dev {host} altname {altnames}"),
        in_namespace(id, &second_name),
        format!("sysctl -w {}=1", sysctl::disable_ipv6(host)),
    ];
    if bridge.network.ipv6().is_none() {
        lines.push(in_namespace(
            id,
            &format!("ip link set {ifname} addrgenmode none"),
        ));
    }
    if bridge.network.isolated {
        lines.push(format!("ip link set {host} type bridge_slave isolated on"));
    }
    Ok(lines)
}

fn plug_in(context: &mut Bridged, at: usize) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let bridge = host.bridge(at)?;
    let (index, network) = (bridge.index, bridge.network.clone());
    let plug = container.plug(at)?;
    let name = plug.host_end.clone();
    let veth = Veth {
        host: &plug.host_end,
        host_mac: plug.host_mac(),
        bridge: index,
        peer: &plug.ifname,
        peer_mac: plug.mac()?,
        mtu: network.mtu,
    };
    let inside = container.inside.as_ref();
    let inside = inside.ok_or_else(|| Error::new(Kind::Invalid, "there is no namespace yet"))?;
    host.route
        .add_veth(&veth, &inside.namespace)
        .map_err(|refusal| no_plug(&refusal, &name, &network.bridge))?;
    let prepared = prepare_ends(context, at);
    if prepared.is_err() {
        context.host.route.delete_link(&name)?;
    }
    prepared
}

fn no_plug(refusal: &Refusal, name: &str, bridge: &str) -> Error {
    match refusal.errno {
        // The kernel's bridge has counted its ports (net/bridge/br_if.c, find_portno).
        Errno::EXFULL => Error::new(
            Kind::InUse,
            format!("the bridge {bridge} has {PORTS} containers, and the kernel gives a bridge no more ports"),
        )
        .hint("make a second network with 'bocker network create NAME', and give --network NAME"),
        _ => refusal.error(&format!("make the interface {name}")),
    }
}

fn prepare_ends(context: &mut Bridged, at: usize) -> Result<()> {
    let Bridged {
        container, host, ..
    } = context;
    let network = &host.bridge(at)?.network;
    let (is_isolated, has_ipv6) = (network.isolated, network.ipv6().is_some());
    let plug = container.plug(at)?;
    let (name, altnames) = (plug.host_end.clone(), plug.altnames());
    let (ifname, peer_altname) = (plug.ifname.clone(), plug.peer_altname.clone());
    let naming = |name: &str| format!("give {name} an alternative name");
    let quiet = |name: &str| format!("keep IPv6 from {name}");
    host.route
        .add_altnames(&name, &altnames)
        .map_err(|refusal| refusal.error(&naming(&name)))?;
    // The host talks to containers by the bridge's address: one of this end would be a way around the firewall. Without IPv6 it
    // gets no routes either, which lie in one list for all interfaces.
    sysctl::set_own(&sysctl::disable_ipv6(&name), "1")?;
    if is_isolated {
        let isolated = host.route.set_isolated(&name);
        isolated.map_err(|refusal| refusal.error(&format!("isolate the port {name}")))?;
    }
    let Inside { route, .. } = container.inside()?;
    route
        .add_altnames(&ifname, &[peer_altname])
        .map_err(|refusal| refusal.error(&naming(&ifname)))?;
    if !has_ipv6 {
        // What it would send to find an address of IPv6 goes to every container on the bridge.
        route
            .without_own_ipv6(&ifname)
            .map_err(|refusal| refusal.error(&quiet(&ifname)))?;
    }
    // Asked by name once: addresses and routes are given by index.
    let Some(link) = route.link(&ifname)? else {
        return Err(Error::system(&format!("find {ifname}"), Errno::ENODEV));
    };
    container.plug_mut(at)?.index = link.index;
    Ok(())
}

/// The addresses on the container's plug.
pub(crate) fn address_step(at: usize) -> Step<Bridged> {
    Step::new("net.address", "who the container is on that network")
        .command(move |context: &Bridged| {
            let Container { id, .. } = &context.container;
            let Ok(plug) = context.container.plug(at) else {
                return Vec::new();
            };
            let command = |leased: &Leased| {
                let Leased {
                    address, prefix, ..
                } = leased;
                let how = address_flags(*address);
                let command = format!(
                    "ip address add {address}/{prefix} {how} dev {}",
                    plug.ifname
                );
                in_namespace(id, &command)
            };
            plug.leased.iter().map(command).collect()
        })
        .look(|context| in_namespace(&context.container.id, "ip address"))
        .apply(move |context: &mut Bridged| {
            let plug = context.container.plug(at)?;
            let (index, ifname) = (plug.index, plug.ifname.clone());
            let leased = plug.leased.clone();
            let Inside { route, .. } = context.container.inside()?;
            for Leased {
                address, prefix, ..
            } in leased
            {
                route
                    .add_address(index, address, prefix)
                    .map_err(|refusal| {
                        refusal.error(&format!("give {address}/{prefix} to {ifname}"))
                    })?;
            }
            Ok(())
        })
}

/// Everything on.
pub(crate) fn up_step() -> Step<Bridged> {
    Step::new(
        "net.up",
        "an interface passes nothing until it is up: both plugs, and the container's own lo",
    )
    .command(|context: &Bridged| {
        let Container { id, plugs, .. } = &context.container;
        let up = |name: &str| format!("ip link set {name} up");
        let mut lines = vec![in_namespace(id, &up(LOOPBACK))];
        for plug in plugs {
            lines.push(in_namespace(id, &up(&plug.ifname)));
            lines.push(up(&plug.host_end));
        }
        lines
    })
    .look(|context| in_namespace(&context.container.id, "ip link"))
    .apply(|context: &mut Bridged| {
        up_inside(&mut context.container, LOOPBACK)?;
        for at in 0..context.container.plugs.len() {
            let plug = context.container.plug(at)?;
            let (name, ifname) = (plug.host_end.clone(), plug.ifname.clone());
            up_inside(&mut context.container, &ifname)?;
            let up = context.host.route.set_up(&name);
            up.map_err(|refusal| refusal.error(&format!("bring {name} up")))?;
        }
        Ok(())
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
        "what is not on its networks goes to the first bridge that leads out, which passes it on",
    )
    .command(|context: &Bridged| {
        let Container { id, plugs, .. } = &context.container;
        let routes = context.container.default_routes().into_iter();
        let command = |(at, gateway): (usize, IpAddr)| {
            let ifname = plugs.get(at).map_or("", |plug| &plug.ifname);
            let family = if gateway.is_ipv4() { "" } else { "-6 " };
            let command = format!("ip {family}route add default via {gateway} dev {ifname}");
            in_namespace(id, &command)
        };
        routes.map(command).collect()
    })
    .look(|context| in_namespace(&context.container.id, "ip route"))
    .apply(|context: &mut Bridged| {
        for (at, gateway) in context.container.default_routes() {
            let index = context.container.plug(at)?.index;
            let Inside { route, .. } = context.container.inside()?;
            route
                .add_default_route(index, gateway)
                .map_err(|refusal| refusal.error(&format!("route by {gateway}")))?;
        }
        Ok(())
    })
}

/// On a bridge of the user's only our containers are masqueraded, each by itself.
pub(crate) fn masquerade_step(at: usize) -> Step<Bridged> {
    Step::new(
        "net.masquerade",
        "outside nobody knows this address: what leaves carries the host's, and answers return",
    )
    .command(move |context: &Bridged| {
        let Container { id, plugs, .. } = &context.container;
        let leased = plugs.get(at).into_iter().flat_map(|plug| &plug.leased);
        let command = |leased: &Leased| firewall::add_address_command(leased.address, id);
        leased.map(command).collect()
    })
    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
    .apply(move |context: &mut Bridged| {
        let Container { id, .. } = &context.container;
        for leased in &context.container.plug(at)?.leased {
            context.host.firewall.add_address(leased.address, id)?;
        }
        Ok(())
    })
    .undo(move |context| {
        let Container { id, .. } = &context.container;
        for leased in &context.container.plug(at)?.leased {
            context.host.firewall.delete_address(leased.address, id)?;
        }
        Ok(())
    })
}

/// The published ports, all at once.
pub(crate) fn ports_step() -> Step<Bridged> {
    Step::new(
        "net.port",
        "what is sent to these ports of the host (of every address of it, unless one is named) is sent on to the container; \
         it is forwarded, so the host's own input rules do not see it",
    )
    .command(|context: &Bridged| {
        let Bridged {
            container, ports, ..
        } = context;
        ports.commands(container.target(), &container.id)
    })
    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
    .apply(|context: &mut Bridged| {
        let Bridged {
            container,
            host,
            ports,
        } = context;
        let Host {
            firewall, route, ..
        } = host;
        ports.publish(firewall, route, container.target(), &container.id)
    })
    .undo(|context| {
        let Bridged {
            container,
            host,
            ports,
        } = context;
        host.firewall.unpublish(ports.published(), &container.id)
    })
}

/// The way from a container to its own published port, where frames on bridges pass the firewall (br_netfilter): there the
/// bridge itself, not the host behind it, would have to send the frame back to where it came from.
pub(crate) fn hairpin_step() -> Step<Bridged> {
    Step::new(
        "net.hairpin",
        "what the container sends to its own published port may come back by the same plug",
    )
    .command(|context: &Bridged| {
        let name = context.container.way_out_end().unwrap_or_default();
        vec![format!("ip link set {name} type bridge_slave hairpin on")]
    })
    .look(|_| "bridge -d link show".into())
    .apply(|context: &mut Bridged| {
        let Some(name) = context.container.way_out_end() else {
            return Ok(());
        };
        let hairpin = context.host.route.set_hairpin(name);
        hairpin.map_err(|refusal| refusal.error(&format!("set hairpin mode on {name}")))
    })
}

fn in_namespace(id: &Id, command: &str) -> String {
    format!(
        "nsenter --net={} {command}",
        quote(&netns::path(id).display().to_string())
    )
}
