//! What all containers share on this machine: forwarding, our nftables table and the bridge. They are made at first need
//! and kept; `reset` removes them. Making and removing is ordered by a lock on our folder, `/run/bocker/net`.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Id, Kind, Result, Step, paths};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::BRIDGE;
use crate::firewall::{BridgeRules, Firewall};
use crate::route::{Link, Route};
use crate::subnet::{Subnet, mac, mac_text};
use crate::{lease, ruleset, sysctl};

/// In the machine's run folder: what is recorded about shared objects.
const FOLDER: &str = "net";
/// The alias of a bridge that we made (`ip link show`).
const ALIAS: &str = "made by bocker-net";
/// What the bridge's subnet is chosen from: the original's, Podman's, and one that Docker does not begin with.
const CANDIDATES: [Subnet; 3] = [
    Subnet::of(Ipv4Addr::new(10, 0, 0, 0), 16),
    Subnet::of(Ipv4Addr::new(10, 88, 0, 0), 16),
    Subnet::of(Ipv4Addr::new(172, 30, 0, 0), 16),
];

/// A route to more than this is a default route by another name: VPNs lead everything away in two halves (openvpn(8),
/// --redirect-gateway def1).
const SMALLEST_PREFIX: u8 = 8;

/// `/run/bocker/net`.
pub(crate) fn folder() -> PathBuf {
    paths::run().join(FOLDER)
}

/// A lock on our folder: shared by those who use what is there, exclusive for those who make or remove it.
pub(crate) struct Guard(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Waits for the lock.
pub(crate) fn lock(how: FlockArg) -> Result<Guard> {
    let folder = folder();
    let leases = lease::folder(BRIDGE);
    loop {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&leases)
            .doing(|| format!("make {}", leases.display()))?;
        let mut file = File::open(&folder).doing(|| format!("open {}", folder.display()))?;
        let guard = loop {
            match Flock::lock(file, how) {
                Ok(guard) => break guard,
                Err((again, Errno::EINTR)) => file = again,
                Err((_, errno)) => {
                    return Err(errno).doing(|| format!("lock {}", folder.display()));
                }
            }
        };
        // `reset` removes the folder while it holds the lock: then this is a lock on nothing.
        let locked = guard
            .metadata()
            .doing(|| format!("look at {}", folder.display()))?;
        match fs::metadata(&folder) {
            Ok(there) if (there.ino(), there.dev()) == (locked.ino(), locked.dev()) => {
                return Ok(Guard(guard));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(|| format!("look at {}", folder.display())),
        }
    }
}

/// The bridge, found or planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// Zero as long as it is only planned.
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    /// Whether we made it, or will.
    pub(crate) ours: bool,
    /// Whether it has all that we give it.
    complete: bool,
}

impl Bridge {
    fn planned(subnet: Subnet) -> Bridge {
        Bridge {
            index: 0,
            address: subnet.gateway(),
            prefix: subnet.prefix(),
            ours: true,
            complete: false,
        }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        Subnet::of(self.address, self.prefix)
    }
}

/// The bridge as our table knows it. On one of the user's are others, too: there each container's address is told by itself.
fn rules<'a>(bridge: &Bridge, subnet: &'a Subnet) -> BridgeRules<'a> {
    let subnets = std::slice::from_ref(subnet);
    BridgeRules {
        name: BRIDGE,
        subnets: if bridge.ours { subnets } else { &[] },
        internal: false,
        isolated: false,
    }
}

/// The shared objects as they are now, and the sockets to work on them.
pub(crate) struct Host {
    pub(crate) route: Route,
    pub(crate) firewall: Firewall,
    pub(crate) bridge: Bridge,
    forwards: bool,
    has_table: bool,
    /// Whether there is a table of an older bocker-net's instead.
    has_former_table: bool,
    routes_localnet: bool,
    masquerades: bool,
    guard: Option<Guard>,
}

impl AsRef<Host> for Host {
    fn as_ref(&self) -> &Host {
        self
    }
}

impl AsMut<Host> for Host {
    fn as_mut(&mut self) -> &mut Host {
        self
    }
}

impl Host {
    /// Looks at the shared objects, under a lock that is exclusive if something has to be made. A dry run takes none.
    pub(crate) fn look(dry_run: bool) -> Result<Host> {
        if dry_run {
            return Host::look_under(None);
        }
        let host = Host::look_under(Some(lock(FlockArg::LockShared)?))?;
        if host.is_complete() {
            return Ok(host);
        }
        drop(host);
        Host::look_under(Some(lock(FlockArg::LockExclusive)?))
    }

    fn look_under(guard: Option<Guard>) -> Result<Host> {
        let mut route = Route::open()?;
        let mut firewall = Firewall::open()?;
        let bridge = match find_bridge(&mut route)? {
            Some(bridge) => bridge,
            None => Bridge::planned(free_subnet(&mut route)?),
        };
        // What knows the bridge is our table, and whole.
        let masquerades = firewall.has_bridge(&rules(&bridge, &bridge.subnet()))?;
        let has_table = masquerades || firewall.exists()?;
        Ok(Host {
            forwards: sysctl::is_on(sysctl::IP_FORWARD)?,
            has_table,
            has_former_table: !has_table && Firewall::has_former()?,
            masquerades,
            routes_localnet: sysctl::is_on(&sysctl::route_localnet(BRIDGE))?,
            route,
            firewall,
            bridge,
            guard,
        })
    }

    fn is_complete(&self) -> bool {
        self.forwards
            && self.has_table
            && self.bridge.complete
            && self.routes_localnet
            && self.masquerades
    }

    /// Lets others make and remove again, once a lease shows that the shared objects are in use.
    pub(crate) fn unlock(&mut self) {
        self.guard = None;
    }

    /// The steps that make what is missing. They are not undone: what all containers share is kept for the next.
    pub(crate) fn steps<C: AsRef<Host> + AsMut<Host> + 'static>(&self) -> Vec<Step<C>> {
        let mut steps = Vec::new();
        if !self.forwards {
            steps.push(
                Step::new(
                    "net.forward",
                    "the host passes packets on between its interfaces, as a router does",
                )
                .command(|_| turn_on_commands(sysctl::IP_FORWARD))
                .look(|_| format!("sysctl {}", sysctl::IP_FORWARD))
                .apply(|_| sysctl::turn_on(sysctl::IP_FORWARD)),
            );
        }
        if !self.has_table {
            steps.push(
                Step::new(
                    "net.table",
                    "a firewall table of our own: what is masqueraded, published and let in",
                )
                .command(|context: &C| {
                    let mut lines = ruleset::table_commands();
                    if context.as_ref().has_former_table {
                        lines.push(format!(
                            "# what the table ip {0} holds is taken over; nft delete table ip {0}",
                            ruleset::TABLE
                        ));
                    }
                    lines
                })
                .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                .apply(|context: &mut C| context.as_mut().firewall.make()),
            );
        }
        if !self.bridge.complete {
            steps.push(
                Step::new(
                    "net.bridge",
                    "a switch in software: containers are its ports, its address is their gateway",
                )
                .command(|context: &C| bridge_commands(&context.as_ref().bridge))
                .look(|_| format!("ip -d link show {BRIDGE}; ip address show {BRIDGE}"))
                .apply(|context: &mut C| context.as_mut().make_bridge()),
            );
        }
        if !self.routes_localnet {
            let name = sysctl::route_localnet(BRIDGE);
            let command = turn_on_commands(&name);
            let look = format!("sysctl {name}");
            steps.push(
                Step::new(
                    "net.localhost",
                    "127.0.0.1 may leave by the bridge, so that published ports answer there",
                )
                .command(move |_| command.clone())
                .look(move |_| look.clone())
                .apply(move |_| sysctl::turn_on(&name)),
            );
        }
        if !self.masquerades {
            steps.push(
                Step::new(
                    "net.masquerade",
                    "outside nobody knows these addresses: what leaves carries the host's, and answers return",
                )
                .command(|context: &C| {
                    let bridge = &context.as_ref().bridge;
                    rules(bridge, &bridge.subnet()).add_commands()
                })
                .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                .apply(|context: &mut C| {
                    let Host {
                        bridge, firewall, ..
                    } = context.as_mut();
                    firewall.add_bridge(&rules(bridge, &bridge.subnet()))
                }),
            );
        }
        steps
    }

    fn make_bridge(&mut self) -> Result<()> {
        let (address, prefix) = (self.bridge.address, self.bridge.prefix);
        let made = match self.route.add_bridge(BRIDGE, mac(address)) {
            Ok(()) => true,
            // Ours, of a create that was killed before it was complete.
            Err(refusal) if refusal.errno == Errno::EEXIST && self.bridge.index != 0 => false,
            Err(refusal) => {
                return Err(bridge_error(
                    refusal.error(&format!("make the bridge {BRIDGE}")),
                ));
            }
        };
        let result = self.complete_bridge(address, prefix);
        if result.is_err() && made {
            self.route.delete_link(BRIDGE)?;
        }
        result
    }

    fn complete_bridge(&mut self, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let on = |what: &str| format!("{what} the bridge {BRIDGE}");
        self.route
            .set_alias(BRIDGE, ALIAS)
            .map_err(|refusal| refusal.error(&on("mark")))?;
        sysctl::turn_off_ipv6(BRIDGE)?;
        let link = self
            .route
            .link(BRIDGE)?
            .ok_or_else(|| Error::system(&on("find"), Errno::ENODEV))?;
        match self.route.add_address(link.index, address, prefix) {
            Err(refusal) if refusal.errno == Errno::EEXIST => {}
            result => result.map_err(|refusal| refusal.error(&on("give an address to")))?,
        }
        self.route
            .set_up(BRIDGE)
            .map_err(|refusal| refusal.error(&on("bring up")))?;
        self.bridge.index = link.index;
        self.bridge.complete = true;
        Ok(())
    }
}

fn bridge_error(error: Error) -> Error {
    if error.is(Errno::EOPNOTSUPP) {
        return error
            .hint("load the kernel's module with 'modprobe bridge', or use --network none");
    }
    error
}

fn turn_on_commands(name: &str) -> Vec<String> {
    let records = sysctl::folder();
    vec![
        format!("mkdir -p -m 700 {}", records.display()),
        format!("printf 0 > {}", records.join(name).display()),
        format!("sysctl -w {name}=1"),
    ]
}

fn bridge_commands(bridge: &Bridge) -> Vec<String> {
    let Bridge {
        address, prefix, ..
    } = bridge;
    vec![
        format!(
            "ip link add {BRIDGE} address {} type bridge",
            mac_text(&mac(*address))
        ),
        format!("ip link set {BRIDGE} alias {}", quote(ALIAS)),
        format!("sysctl -w {}=1", sysctl::disable_ipv6(BRIDGE)),
        format!("ip address add {address}/{prefix} broadcast + dev {BRIDGE}"),
        format!("ip link set {BRIDGE} up"),
    ]
}

/// The bridge if there is one: ours, perhaps half made, or the user's, which is used as it is.
pub(crate) fn find_bridge(route: &mut Route) -> Result<Option<Bridge>> {
    let Some(link) = route.link(BRIDGE)? else {
        return Ok(None);
    };
    let refuse = |what: &str, hint: String| {
        Err(Error::new(Kind::Invalid, format!("the interface {BRIDGE} {what}")).hint(hint))
    };
    if !link.bridge {
        return refuse("is not a bridge", "rename it, or use --network none".into());
    }
    let address = route
        .addresses()?
        .into_iter()
        .find(|(index, ..)| *index == link.index);
    match (made_for(&link), address) {
        (Some(subnet), address) => {
            let complete = link.alias.is_some() && link.up && address.is_some();
            let (address, prefix) =
                address.map_or((subnet.gateway(), subnet.prefix()), |(_, a, p)| (a, p));
            Ok(Some(Bridge {
                index: link.index,
                address,
                prefix,
                ours: true,
                complete,
            }))
        }
        (None, None) => refuse(
            "has no IPv4 address",
            format!("give it one, such as 'ip address add 10.0.0.1/16 dev {BRIDGE}'"),
        ),
        (None, Some(_)) if !link.up => refuse(
            "is down",
            format!("bring it up with 'ip link set {BRIDGE} up'"),
        ),
        (None, Some((_, address, prefix))) => Ok(Some(Bridge {
            index: link.index,
            address,
            prefix,
            ours: false,
            complete: true,
        })),
    }
}

/// The subnet for which we made this bridge. Its alias says so, and before it has one, its MAC: that is given as it is made.
fn made_for(link: &Link) -> Option<Subnet> {
    let made = CANDIDATES
        .into_iter()
        .find(|subnet| link.mac == mac(subnet.gateway()));
    match link.alias.as_deref() {
        Some(ALIAS) => made.or(Some(CANDIDATES[0])),
        Some(_) => None,
        None => made,
    }
}

/// The first candidate that no address and no route of the host overlaps.
fn free_subnet(route: &mut Route) -> Result<Subnet> {
    let mut taken = route.destinations()?;
    taken.retain(|destination| destination.prefix() >= SMALLEST_PREFIX);
    taken.extend(
        route
            .addresses()?
            .into_iter()
            .map(|(_, address, prefix)| Subnet::of(address, prefix)),
    );
    let is_free = |subnet: &Subnet| !taken.iter().any(|other| other.overlaps(*subnet));
    CANDIDATES.into_iter().find(is_free).ok_or_else(|| {
        let tried = CANDIDATES.map(|subnet| subnet.to_string()).join(", ");
        let message = format!("the host has addresses or routes in all of {tried}");
        Error::new(Kind::InUse, message).hint(format!(
            "make {BRIDGE} yourself, with an address of a free subnet, and bring it up"
        ))
    })
}

/// Whom the shared objects serve now: ids of leases, and of addresses and ports in our table.
pub(crate) fn users(firewall: &mut Firewall) -> Result<Vec<Id>> {
    let mut ids: Vec<Id> = lease::list(&lease::folder(BRIDGE))?
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    if firewall.exists()? {
        ids.extend(firewall.addresses()?.into_iter().map(|(_, id)| id));
        ids.extend(firewall.ports()?.into_iter().map(|(_, id)| id));
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}
