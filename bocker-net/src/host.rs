//! What all containers share on this machine: forwarding, our nftables table and the bridges. They are made at first need
//! and kept; `reset` removes them. Making and removing is ordered by a lock on our folder, `/run/bocker/net`.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Id, Kind, Result, Step, paths};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::bridge::Bridge;
use crate::firewall::{Contents, Firewall};
use crate::network::Network;
use crate::restore::Lost;
use crate::route::Route;
use crate::{BRIDGE, cni, lease, ruleset, sysctl};

/// In the machine's run folder: what is recorded about shared objects.
const FOLDER: &str = "net";

/// `/run/bocker/net`.
pub(crate) fn folder() -> PathBuf {
    paths::run().join(FOLDER)
}

/// A lock on our folder: shared by those who use what is there, exclusive for those who make or remove it.
pub(crate) struct Guard(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Waits for the lock.
pub(crate) fn lock(how: FlockArg) -> Result<Guard> {
    let folder = folder();
    loop {
        make_folder(&folder)?;
        let file = match File::open(&folder) {
            Ok(file) => file,
            // `reset` has removed it since.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).doing(|| format!("open {}", folder.display())),
        };
        let guard = flock(file, how).doing(|| format!("lock {}", folder.display()))?;
        // `reset` removes the folder while it holds the lock: then this is a lock on nothing.
        let locked = guard
            .metadata()
            .doing(|| format!("look at {}", folder.display()))?;
        match fs::metadata(&folder) {
            Ok(there) if (there.ino(), there.dev()) == (locked.ino(), locked.dev()) => {
                // Not before: what is put into the folder while `reset` empties it would stay, and the folder with it.
                make_folder(&lease::folder(BRIDGE))?;
                return Ok(Guard(guard));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(|| format!("look at {}", folder.display())),
        }
    }
}

/// Makes a folder that root alone reads, and those above it. There already is success.
fn make_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .doing(|| format!("make {}", folder.display()))
}

/// Waits for a lock on a file, whatever signals come.
pub(crate) fn flock(mut file: File, how: FlockArg) -> nix::Result<Flock<File>> {
    loop {
        match Flock::lock(file, how) {
            Ok(guard) => return Ok(guard),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(errno),
        }
    }
}

/// Removes a folder in which nothing is. Already gone is success.
pub(crate) fn remove_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", folder.display())),
    }
}

/// The bridges of which there are leases, or were: the folders beside the records of switches.
pub(crate) fn bridges_with_leases() -> Result<Vec<String>> {
    let folder = folder();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_bridge_name(name)).collect();
    names.sort();
    Ok(names)
}

/// Whether this can be the name of a bridge of ours.
pub(crate) fn is_bridge_name(name: &str) -> bool {
    name == BRIDGE || Id::parse(name).is_ok_and(|id| id.is_network())
}

/// A bridge, and what else of the host goes with it.
pub(crate) struct Place {
    pub(crate) bridge: Bridge,
    routes_localnet: bool,
    /// Whether our table knows it.
    in_table: bool,
}

impl Place {
    /// Whether the host passes packets on between it and others.
    fn is_open(&self) -> bool {
        !self.bridge.network.internal
    }

    fn is_complete(&self) -> bool {
        self.bridge.complete && self.in_table && (self.routes_localnet || !self.is_open())
    }
}

/// The shared objects as they are now, and the sockets to work on them.
pub(crate) struct Host {
    pub(crate) route: Route,
    pub(crate) firewall: Firewall,
    /// In the order in which the networks were named.
    pub(crate) places: Vec<Place>,
    /// The switches that are needed and not on.
    forwarding: Vec<&'static str>,
    has_table: bool,
    /// Whether there is a table of an older bocker-net's instead.
    has_former_table: bool,
    /// What it held, where it is gone and containers live.
    lost: Option<Lost>,
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
    /// Looks at what these networks need, under a lock that is exclusive if something has to be made. A dry run takes none.
    pub(crate) fn look(networks: &[Network], dry_run: bool) -> Result<Host> {
        if dry_run {
            return Host::look_under(networks, None);
        }
        let host = Host::look_under(networks, Some(lock(FlockArg::LockShared)?))?;
        if host.is_complete() {
            return Ok(host);
        }
        drop(host);
        Host::look_under(networks, Some(lock(FlockArg::LockExclusive)?))
    }

    fn look_under(networks: &[Network], guard: Option<Guard>) -> Result<Host> {
        let mut route = Route::open()?;
        let mut firewall = Firewall::open()?;
        let mut places = Vec::new();
        for network in networks {
            let bridge = Bridge::look(&mut route, network.clone())?;
            places.push(Place {
                routes_localnet: sysctl::is_on(&sysctl::route_localnet(&network.bridge))?,
                in_table: firewall.has_bridge(&bridge.rules())?,
                bridge,
            });
        }
        // What knows a bridge is our table, and whole.
        let has_table = places.iter().any(|place| place.in_table) || firewall.exists()?;
        let has_former_table = !has_table && Firewall::has_former()?;
        let lost = match has_table || has_former_table {
            true => None,
            false => Lost::look(&mut route)?,
        };
        let mut host = Host {
            route,
            firewall,
            places,
            forwarding: Vec::new(),
            has_table,
            has_former_table,
            lost,
            guard,
        };
        host.find_forwarding()?;
        Ok(host)
    }

    /// Which switches are to be turned on. Fails with [`Kind::Unsupported`] when the host would lose its own way by it.
    fn find_forwarding(&mut self) -> Result<()> {
        let open = || self.places.iter().filter(|place| place.is_open());
        let ipv6 = open().any(|place| place.bridge.network.ipv6().is_some());
        if open().next().is_some() && !sysctl::is_on(sysctl::IP_FORWARD)? {
            self.forwarding.push(sysctl::IP_FORWARD);
        }
        if ipv6 && !sysctl::is_on(sysctl::IP6_FORWARD)? {
            self.refuse_deafness()?;
            self.forwarding.push(sysctl::IP6_FORWARD);
        }
        Ok(())
    }

    /// A router does not listen to others (RFC 4861, 6.2.7): a host that has its default route from an advertisement would
    /// lose it when it runs out. Whether it is to be a router that does is for its owner to say.
    fn refuse_deafness(&mut self) -> Result<()> {
        for index in self.route.advertised_routes()? {
            let Some(link) = self.route.link_by_index(index)? else {
                continue;
            };
            let name = sysctl::accept_ra(&link.name);
            if sysctl::value(&name)?.as_deref() == Some(sysctl::ACCEPT_RA_HOST) {
                let what = format!(
                    "to forward IPv6, the host would stop listening to the router on {}, from which it has its default route",
                    link.name
                );
                return Err(Error::new(Kind::Unsupported, what).hint(format!(
                    "let it listen all the same with 'sysctl -w {name}=2', or use a network without IPv6"
                )));
            }
        }
        Ok(())
    }

    fn make_table(&mut self) -> Result<()> {
        match &self.lost {
            None => self.firewall.make(&Contents::default()),
            Some(lost) => {
                self.firewall.make(&lost.contents)?;
                lost.finish(&mut self.route)
            }
        }
    }

    /// Whether nothing is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.forwarding.is_empty() && self.has_table && self.places.iter().all(Place::is_complete)
    }

    /// Lets others make and remove again, once a lease shows that the shared objects are in use.
    pub(crate) fn unlock(&mut self) {
        self.guard = None;
    }

    /// What leaves these bridges keeps the containers' addresses.
    pub(crate) fn without_masquerade(&mut self) {
        for place in &mut self.places {
            place.bridge.is_left_alone();
        }
    }

    /// The bridge of the network that was named at this place.
    pub(crate) fn bridge(&self, place: usize) -> Result<&Bridge> {
        let found = self.places.get(place).map(|place| &place.bridge);
        found.ok_or_else(|| Error::new(Kind::Invalid, "no bridge was looked for"))
    }

    /// The steps that make what is missing. They are not undone: what all containers share is kept for the next.
    pub(crate) fn steps<C: AsRef<Host> + AsMut<Host> + 'static>(&self) -> Vec<Step<C>> {
        let mut steps = self.bridge_steps();
        steps.extend(self.nat_steps());
        steps
    }

    /// Those of them that containers are plugged into.
    pub(crate) fn bridge_steps<C: AsRef<Host> + AsMut<Host> + 'static>(&self) -> Vec<Step<C>> {
        let places = self.places.iter().enumerate();
        let incomplete = places.filter(|(_, place)| !place.bridge.complete);
        incomplete
            .map(|(at, place)| bridge_step(at, &place.bridge.network.bridge))
            .collect()
    }

    /// Those by which packets come further than the bridges.
    pub(crate) fn nat_steps<C: AsRef<Host> + AsMut<Host> + 'static>(&self) -> Vec<Step<C>> {
        let mut steps = Vec::new();
        for switch in self.forwarding.iter().copied() {
            steps.push(
                Step::new(
                    "net.forward",
                    "the host passes packets on between its interfaces, as a router does",
                )
                .command({
                    // Asked once it is on, and then all of them are.
                    let overruled = sysctl::overruled(switch).unwrap_or_default();
                    move |_| {
                        let mut lines = turn_on_commands(switch);
                        let records = sysctl::folder();
                        let record =
                            |name: &String| format!("printf 1 > {}", records.join(name).display());
                        lines.splice(1..1, overruled.iter().map(record));
                        lines
                    }
                })
                .look(move |_| format!("sysctl {switch}"))
                .apply(move |_| sysctl::turn_on(switch)),
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
                    let lost = context.as_ref().lost.as_ref();
                    lines.extend(
                        lost.into_iter()
                            .flat_map(|lost| lost.contents.commands.clone()),
                    );
                    if context.as_ref().has_former_table {
                        lines.push(format!(
                            "# what the table ip {0} holds is taken over; nft delete table ip {0}",
                            ruleset::TABLE
                        ));
                    }
                    lines
                })
                .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                .apply(|context: &mut C| context.as_mut().make_table()),
            );
        }
        for (at, place) in self.places.iter().enumerate() {
            steps.extend(place_steps(at, place));
        }
        steps
    }
}

fn bridge_step<C: AsRef<Host> + AsMut<Host> + 'static>(at: usize, name: &str) -> Step<C> {
    let look = format!("ip -d link show {name}; ip address show {name}");
    Step::new(
        "net.bridge",
        "a switch in software: containers are its ports, its address is their gateway",
    )
    .command(move |context: &C| {
        let bridge = context.as_ref().bridge(at);
        bridge.map(Bridge::commands).unwrap_or_default()
    })
    .look(move |_| look.clone())
    .apply(move |context: &mut C| {
        let host = context.as_mut();
        match host.places.get_mut(at) {
            Some(place) => place.bridge.make(&mut host.route),
            None => Ok(()),
        }
    })
}

/// The steps that make what is missing of what goes with one bridge.
fn place_steps<C: AsRef<Host> + AsMut<Host> + 'static>(at: usize, place: &Place) -> Vec<Step<C>> {
    let mut steps = Vec::new();
    let name = place.bridge.network.bridge.clone();
    if !place.routes_localnet && place.is_open() {
        let switch = sysctl::route_localnet(&name);
        let command = turn_on_commands(&switch);
        let look = format!("sysctl {switch}");
        steps.push(
            Step::new(
                "net.localhost",
                "127.0.0.1 may leave by the bridge, so that published ports answer there",
            )
            .command(move |_| command.clone())
            .look(move |_| look.clone())
            .apply(move |_| sysctl::turn_on(&switch)),
        );
    }
    if !place.in_table {
        steps.push(
            Step::new("net.masquerade", why_in_table(&place.bridge.network))
                .command(move |context: &C| {
                    let bridge = context.as_ref().bridge(at);
                    bridge.map_or(Vec::new(), |bridge| bridge.rules().add_commands())
                })
                .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                .apply(move |context: &mut C| {
                    let host = context.as_mut();
                    match host.places.get(at) {
                        Some(place) => host.firewall.add_bridge(&place.bridge.rules()),
                        None => Ok(()),
                    }
                }),
        );
    }
    steps
}

fn why_in_table(network: &Network) -> &'static str {
    match network.internal {
        true => "nothing is passed on from this network to another, nor to it",
        false => {
            "outside nobody knows these addresses: what leaves carries the host's, and answers return"
        }
    }
}

fn turn_on_commands(name: &str) -> Vec<String> {
    let records = sysctl::folder();
    vec![
        format!("mkdir -p -m 700 {}", records.display()),
        format!("printf 0 > {}", records.join(name).display()),
        format!("sysctl -w {name}=1"),
    ]
}

/// Whom the shared objects serve now: ids of leases, and of addresses and ports in our table.
pub(crate) fn users(firewall: &mut Firewall) -> Result<Vec<Id>> {
    let mut ids: Vec<Id> = Vec::new();
    for bridge in bridges_with_leases()? {
        let folder = lease::folder(&bridge);
        // Whoever has a lease that cannot be read is somebody.
        lease::check(&folder)?;
        ids.extend(lease::list(&folder)?.into_iter().map(|(_, id)| id));
    }
    ids.extend(cni::plugin::attachment::ids()?);
    if firewall.exists()? {
        ids.extend(firewall.addresses()?.into_iter().map(|(_, id)| id));
        ids.extend(firewall.ports()?.into_iter().map(|(_, id)| id));
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}
