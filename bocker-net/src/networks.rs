//! `network create|list|inspect|remove|prune`: networks by themselves, without a container.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use bocker_pipe::error::Failures;
use bocker_pipe::events::{Event, Type};
use bocker_pipe::id::Prefix;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step, paths};
use serde::Serialize;
use serde_json::json;

use crate::bridge::{self, Bridge};
use crate::firewall::Firewall;
use crate::host::Guard;
use crate::network::{self, DEFAULT, Network, Range};
use crate::route::Route;
use crate::subnet::{Subnet, unique_local};
use crate::{BRIDGE, lease, ruleset, sysctl};

/// How many random ids are tried: with 30 bits, a second try is already rare.
const TRIES: usize = 64;

/// One network, as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    network: Network,
    /// Whether its bridge stands.
    up: bool,
    /// The addresses of the containers on it that run, by their ids.
    containers: BTreeMap<Id, Vec<IpAddr>>,
    /// All containers that are to be on it when they run.
    used_by: Vec<Id>,
}

/// What is looked at for every network.
struct Machine {
    route: Route,
}

impl Machine {
    fn look() -> Result<Machine> {
        Ok(Machine {
            route: Route::open()?,
        })
    }

    fn describe(&mut self, network: Network) -> Result<Listed> {
        let used_by = users(&network)?;
        let is_there = self.route.link(&network.bridge)?.is_some();
        let network = match Bridge::look(&mut self.route, network.clone()) {
            Ok(bridge) => bridge.network,
            // What is wrong with its bridge is for those to say who need it.
            Err(_) => network,
        };
        let mut containers: BTreeMap<Id, Vec<IpAddr>> = BTreeMap::new();
        for (address, id) in lease::list(&lease::folder(&network.bridge))? {
            containers.entry(id).or_default().push(address);
        }
        Ok(Listed {
            network,
            up: is_there,
            containers,
            used_by,
        })
    }

    /// Which subnets networks of ours have: those of this root, and those whose bridges stand, of whatever root.
    fn of_ours(&mut self, networks: &[Network]) -> Result<Vec<(Subnet, String)>> {
        let mut ours = Vec::new();
        for network in networks {
            let subnets = network.subnets.iter();
            ours.extend(subnets.map(|range| (range.subnet, network.name.clone())));
        }
        for link in self.route.links()?.into_iter().filter(bridge::is_ours) {
            let of_link = self.route.addresses_of(link.index)?.into_iter();
            ours.extend(of_link.map(|(_, address, prefix)| {
                let name = if link.name == BRIDGE {
                    DEFAULT
                } else {
                    &link.name
                };
                (Subnet::of(address, prefix), name.to_owned())
            }));
        }
        Ok(ours)
    }
}

/// The containers that have an address on it, and those of our root that are to have one when they are started again.
fn users(network: &Network) -> Result<Vec<Id>> {
    let leases = lease::list(&lease::folder(&network.bridge))?;
    let mut ids: Vec<Id> = leases.into_iter().map(|(_, id)| id).collect();
    ids.extend(network.named_by()?);
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// What a network must be to be listed or removed.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Dangling(bool),
    Driver(String),
    Id(String),
    Label(String, Option<String>),
    Name(String),
    Custom(bool),
}

impl Filter {
    /// Takes docker's filters. Fails with [`Kind::Usage`].
    fn parse(text: &str) -> Result<Filter> {
        Ok(match text.split_once('=') {
            Some(("dangling", "true" | "1")) => Filter::Dangling(true),
            Some(("dangling", "false" | "0")) => Filter::Dangling(false),
            Some(("driver", driver)) => Filter::Driver(driver.into()),
            Some(("id", part)) => Filter::Id(part.into()),
            Some(("name", part)) => Filter::Name(part.into()),
            Some(("type", "custom")) => Filter::Custom(true),
            Some(("type", "builtin")) => Filter::Custom(false),
            Some(("label", label)) => match label.split_once('=') {
                Some((name, value)) => Filter::Label(name.into(), Some(value.into())),
                None => Filter::Label(label.into(), None),
            },
            _ => {
                let what = format!("'{text}' is no filter for networks");
                return Err(Error::new(Kind::Usage, what).hint(
                    "use dangling=true, driver=bridge, id=PART, label=KEY[=VALUE], name=PART or type=custom",
                ));
            }
        })
    }

    fn takes(&self, listed: &Listed) -> bool {
        let network = &listed.network;
        match self {
            Filter::Dangling(dangling) => {
                (listed.used_by.is_empty() && !network.is_default()) == *dangling
            }
            Filter::Driver(driver) => driver == DEFAULT,
            Filter::Id(part) => network.id.contains(part),
            Filter::Name(part) => network.name.contains(part),
            Filter::Custom(custom) => network.is_default() != *custom,
            Filter::Label(name, value) => {
                let found = network.labels.get(name);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
        }
    }
}

/// The arguments of one of the verbs, as far as it takes them.
#[derive(Debug, Default)]
struct Options {
    names: Vec<String>,
    subnets: Vec<Subnet>,
    gateways: Vec<IpAddr>,
    ranges: Vec<Subnet>,
    internal: bool,
    isolated: bool,
    ipv6: bool,
    mtu: Option<u32>,
    labels: BTreeMap<String, String>,
    filters: Vec<Filter>,
    force: bool,
}

impl Options {
    fn read(call: &mut Call, allowed: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        options.names = call.words(allowed, |call, option| {
            match option {
                "--subnet" => options.subnets.push(call.text()?.parse()?),
                "--ip-range" => options.ranges.push(call.text()?.parse()?),
                "--gateway" => options.gateways.push(gateway(&call.text()?)?),
                "--mtu" => options.mtu = Some(call.number()?),
                "--label" => {
                    let text = call.text()?;
                    let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                    options.labels.insert(name.to_owned(), value.to_owned());
                }
                "--filter" => options.filters.push(Filter::parse(&call.text()?)?),
                "--internal" => options.internal = true,
                "--isolated" => options.isolated = true,
                "--ipv6" => options.ipv6 = true,
                _ => options.force = true,
            }
            Ok(())
        })?;
        Ok(options)
    }

    /// The names, at least one.
    fn named(&self) -> Result<&[String]> {
        match self.names.is_empty() {
            true => Err(Error::new(Kind::Usage, "no network is named")),
            false => Ok(&self.names),
        }
    }

    /// The subnets that are asked for, with the gateway and the range of each.
    fn asked(&self) -> Result<Vec<Range>> {
        let mut asked: Vec<Range> = self.subnets.iter().copied().map(Range::of).collect();
        let stray = |what: String| {
            Err(Error::new(Kind::Usage, what).hint("give the --subnet that it is a part of"))
        };
        for gateway in &self.gateways {
            match asked
                .iter_mut()
                .find(|range| range.subnet.contains(*gateway))
            {
                Some(range) => range.gateway = *gateway,
                None => return stray(format!("the gateway {gateway} is in no subnet")),
            }
        }
        for part in &self.ranges {
            match asked.iter_mut().find(|range| range.subnet.overlaps(*part)) {
                Some(range) => range.range = Some(*part),
                None => return stray(format!("the range {part} is in no subnet")),
            }
        }
        asked.iter().try_for_each(Range::check)?;
        for (place, range) in asked.iter().enumerate() {
            let others = asked.iter().take(place);
            if let Some(other) = others
                .clone()
                .find(|other| other.subnet.overlaps(range.subnet))
            {
                let what = format!("the subnets {} and {} overlap", other.subnet, range.subnet);
                return Err(Error::new(Kind::Usage, what));
            }
        }
        Ok(asked)
    }
}

fn gateway(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        Error::new(Kind::Invalid, format!("'{text}' is no address"))
            .hint("such as --gateway 10.1.0.1, beside --subnet 10.1.0.0/24")
    })
}

/// `network VERB ...`.
pub(crate) fn network(call: &mut Call) -> Result<()> {
    let verb = match call.arg()? {
        Some(Arg::Value(verb)) => verb,
        Some(Arg::Option(option)) => return Err(call.unknown(&option)),
        None => {
            let what = "the verb after 'network' is missing";
            return Err(
                Error::new(Kind::Usage, what).hint("it is create, list, inspect, remove or prune")
            );
        }
    };
    match verb.to_str() {
        Some("create") => create(call),
        Some("list" | "ls") => list(call),
        Some("inspect") => inspect(call),
        Some("remove" | "rm") => remove(call),
        Some("prune") => prune(call),
        _ => Err(call.unexpected(&verb)),
    }
}

/// What `create` does.
struct Creation {
    network: Network,
    #[expect(dead_code, reason = "held for its drop")]
    guard: Option<Guard>,
}

/// `network create NAME`.
fn create(call: &mut Call) -> Result<()> {
    let allowed = [
        "--subnet",
        "--gateway",
        "--ip-range",
        "--internal",
        "--isolated",
        "--ipv6",
        "--mtu",
        "--label",
    ];
    let options = Options::read(call, &allowed)?;
    let name = match options.named()? {
        [name] => network::checked_name(name)?,
        [_, second, ..] => return Err(call.unexpected(&second.into())),
        [] => return Err(Error::new(Kind::Usage, "no network is named")),
    };
    let asked = options.asked()?;
    // Whoever makes one at this moment, too, waits, and then sees this one.
    let guard = match call.dry_run() {
        true => None,
        false => Some(network::lock()?),
    };
    let (networks, _) = network::list()?;
    if network::path(name).exists() {
        let what = format!("a network named '{name}' exists already");
        return Err(Error::new(Kind::Exists, what).hint(format!(
            "choose another name, or remove it with 'bocker network rm {name}'"
        )));
    }
    let mut machine = Machine::look()?;
    let id = new_id(&mut machine.route, &networks, call.dry_run())?;
    let network = Network {
        name: name.to_owned(),
        bridge: id.to_string(),
        subnets: subnets(&mut machine, &networks, &id, asked, options.ipv6)?,
        id: id.to_string(),
        internal: options.internal,
        isolated: options.isolated,
        mtu: options.mtu,
        labels: options.labels,
        created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
    };
    network.check()?;
    let mut creation = Creation { network, guard };
    call.run_steps(&mut creation, vec![create_step()])?;
    if !call.dry_run() {
        tell("create", &creation.network);
    }
    call.line(&creation.network)
}

fn create_step() -> Step<Creation> {
    Step::new(
        "net.network",
        "a network is a note of how its bridge is to be, which is made when a container needs it",
    )
    .command(|creation: &Creation| {
        let folder = quote(&network::folder().display().to_string());
        let path = network::path(&creation.network.name);
        let text = serde_json::to_string(&creation.network).unwrap_or_default();
        vec![
            format!("mkdir -p -m 700 {folder}"),
            format!(
                "printf '%s\\n' {} > {}",
                quote(&text),
                quote(&path.display().to_string())
            ),
        ]
    })
    .look(|creation| {
        let path = network::path(&creation.network.name);
        format!("cat {}", quote(&path.display().to_string()))
    })
    .apply(|creation| creation.network.save())
    .undo(|creation| creation.network.forget())
}

/// An id that no network has, and whose name no interface has.
fn new_id(route: &mut Route, networks: &[Network], dry_run: bool) -> Result<Id> {
    if dry_run {
        return Id::parse("net_dryrun");
    }
    for _ in 0..TRIES {
        let id = Id::random(Prefix::Network)?;
        let is_taken = networks.iter().any(|network| network.id == id.as_str())
            || lease::folder(id.as_str()).exists()
            || route.link(id.as_str())?.is_some();
        if !is_taken {
            return Ok(id);
        }
    }
    let what = format!("{TRIES} random ids in a row were taken");
    Err(Error::new(Kind::Exists, what))
}

/// Those that are asked for, and where one is missing, one of our choice.
fn subnets(
    machine: &mut Machine,
    networks: &[Network],
    id: &Id,
    asked: Vec<Range>,
    ipv6: bool,
) -> Result<Vec<Range>> {
    let ours = machine.of_ours(networks)?;
    for range in &asked {
        if let Some((other, name)) = ours.iter().find(|(other, _)| other.overlaps(range.subnet)) {
            let what = format!(
                "{} overlaps {other}, the subnet of the network '{name}'",
                range.subnet
            );
            return Err(Error::new(Kind::InUse, what)
                .hint("choose another, or give no --subnet and get a free one"));
        }
    }
    let mut taken = bridge::taken(&mut machine.route)?;
    taken.extend(ours.into_iter().map(|(subnet, _)| subnet));
    taken.extend(asked.iter().map(|range| range.subnet));
    let has = |four: bool| asked.iter().any(|range| range.subnet.is_ipv4() == four);
    let chosen = |subnet: Subnet| Range {
        chosen: true,
        ..Range::of(subnet)
    };
    let mut subnets = Vec::new();
    if !has(true) {
        subnets.push(chosen(bridge::free_subnet(&taken)?));
    }
    if ipv6 && !has(false) {
        let subnet = unique_local(id);
        if let Some(other) = bridge::overlapped(&taken, subnet) {
            let what = format!("{subnet}, made from the id {id}, overlaps {other}");
            return Err(Error::new(Kind::InUse, what).hint("try again, or give --subnet"));
        }
        subnets.push(chosen(subnet));
    }
    subnets.extend(asked);
    subnets.sort_by_key(|range| !range.subnet.is_ipv4());
    Ok(subnets)
}

/// `network list`.
fn list(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &["--filter"])?;
    if let Some(word) = options.names.first() {
        return Err(call.unexpected(&word.into()));
    }
    let (networks, mut failures) = network::list()?;
    let mut machine = Machine::look()?;
    for network in std::iter::once(Network::default_one()).chain(networks) {
        match machine.describe(network) {
            Ok(listed) => {
                if options.filters.iter().all(|filter| filter.takes(&listed)) {
                    call.line(&listed)?;
                }
            }
            Err(error) => failures.note(Err(error)),
        }
    }
    failures.into_result()
}

/// `network inspect NAME...`.
fn inspect(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &[])?;
    let mut machine = Machine::look()?;
    let mut failures = Failures::default();
    for name in options.named()? {
        let listed = network::find(name).and_then(|network| machine.describe(network));
        match listed {
            Ok(listed) => call.line(&listed)?,
            Err(error) => failures.note(Err(error)),
        }
    }
    failures.into_result()
}

/// What is taken away of a network.
struct Removal {
    network: Network,
    bridge: Option<Bridge>,
    route: Route,
    firewall: Firewall,
}

/// `network remove NAME...`: its bridge, what our table knows of it, and its definition.
fn remove(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &["-f", "--force"])?;
    let _guard = lock_unless(call.dry_run())?;
    let mut failures = Failures::default();
    for name in options.named()? {
        let removed = match network::find(name) {
            Err(error) if options.force && error.kind() == &Kind::NotFound => continue,
            found => found.and_then(|network| take_away(call, network)),
        };
        match removed {
            Ok(name) => call.line(&json!({ "name": name }))?,
            Err(error) => failures.note(Err(error)),
        }
    }
    failures.into_result()
}

/// `network prune [NAME...]`: those that no container is to be on, or those of them that are named.
fn prune(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &["--filter"])?;
    let _guard = lock_unless(call.dry_run())?;
    if !call.dry_run() {
        network::tidy()?;
    }
    let (networks, mut failures) = network::list()?;
    let mut machine = Machine::look()?;
    for network in networks {
        let is_named = options.names.is_empty() || options.names.contains(&network.name);
        let listed = machine.describe(network)?;
        let goes = is_named
            && listed.used_by.is_empty()
            && options.filters.iter().all(|filter| filter.takes(&listed));
        if !goes {
            continue;
        }
        let name = listed.network.name.clone();
        let removed = match call.dry_run() {
            true => Ok(name),
            false => take_away(call, listed.network),
        };
        match removed {
            Ok(name) => call.line(&json!({ "name": name }))?,
            Err(error) => failures.note(Err(error)),
        }
    }
    failures.into_result()
}

fn lock_unless(dry_run: bool) -> Result<Option<Guard>> {
    match dry_run {
        true => Ok(None),
        false => network::lock().map(Some),
    }
}

/// Removes a network that nobody uses, for one who holds the lock. Its definition goes last: as long as it is there, the rest
/// can be found.
fn take_away(call: &Call, network: Network) -> Result<String> {
    let name = network.name.clone();
    if network.is_default() {
        let what = format!("the network '{name}' is there for all containers that name no other");
        return Err(Error::new(Kind::Invalid, what)
            .hint("'bocker system reset' removes all that containers share"));
    }
    let folder = lease::folder(&network.bridge);
    lease::check(&folder)?;
    let users = users(&network)?;
    if !users.is_empty() {
        let shown: Vec<&str> = users.iter().map(Id::as_str).collect();
        let shown = shown.join(" ");
        let what = format!("the network '{name}' is used by {shown}");
        return Err(Error::new(Kind::InUse, what)
            .hint(format!("remove first what uses it: 'bocker rm {shown}'")));
    }
    let mut machine = Machine::look()?;
    let bridge = match machine.route.link(&network.bridge)? {
        // Somebody else's is left alone.
        Some(_) => Bridge::look(&mut machine.route, network.clone()).ok(),
        None => None,
    };
    let mut removal = Removal {
        network,
        bridge,
        route: machine.route,
        firewall: Firewall::open()?,
    };
    let steps = removal.steps()?;
    call.engine().tear_down(&mut removal, steps)?;
    if !call.dry_run() {
        tell("destroy", &removal.network);
    }
    Ok(name)
}

fn tell(action: &str, network: &Network) {
    let event = Event::new(Type::Network, action, &network.id);
    event.name(&network.name).with("type", "bridge").record();
}

impl Removal {
    fn steps(&mut self) -> Result<Vec<Step<Removal>>> {
        let mut steps = Vec::new();
        let planned = match &self.bridge {
            Some(bridge) => bridge.clone(),
            None => Bridge::gone(self.network.clone()),
        };
        if self.firewall.exists()? && self.firewall.has_bridge(&planned.rules())? {
            let shown = planned.clone();
            steps.push(
                Step::new("net.masquerade", "our table knows the network no more")
                    .command(move |_| shown.rules().remove_commands())
                    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                    .apply(move |removal: &mut Removal| {
                        removal.firewall.remove_bridge(&planned.rules())
                    }),
            );
        }
        if self.bridge.is_some() {
            steps.push(
                Step::new("net.bridge", "the bridge goes, which we made")
                    .command(|removal: &Removal| {
                        vec![format!("ip link delete {}", removal.network.bridge)]
                    })
                    .look(|_| "ip link show type bridge".into())
                    .apply(|removal| removal.route.delete_link(&removal.network.bridge)),
            );
        }
        if lease::folder(&self.network.bridge).exists() || self.bridge.is_some() {
            steps.push(
                Step::new("net.folder", "nothing is left to remember")
                    .command(|removal: &Removal| {
                        let bridge = &removal.network.bridge;
                        let record = sysctl::folder().join(sysctl::route_localnet(bridge));
                        let folder = lease::folder(bridge);
                        vec![format!("rm -rf {} {}", record.display(), folder.display())]
                    })
                    .look(|_| format!("ls -R {}", paths::run().join("net").display()))
                    .apply(|removal| {
                        let bridge = &removal.network.bridge;
                        sysctl::forget_interface(bridge)?;
                        lease::remove_folder(&lease::folder(bridge))
                    }),
            );
        }
        steps.push(
            Step::new("net.network", "nobody knows the network any more")
                .command(|removal: &Removal| {
                    let path = network::path(&removal.network.name);
                    let folder = quote(&network::folder().display().to_string());
                    vec![
                        format!("rm -f {}", quote(&path.display().to_string())),
                        format!("rmdir --ignore-fail-on-non-empty {folder}"),
                    ]
                })
                .look(|_| format!("ls {}", quote(&network::folder().display().to_string())))
                .apply(|removal| removal.network.forget())
                .last(),
        );
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(subnets: &[&str], gateways: &[&str], ranges: &[&str]) -> Result<Vec<Range>> {
        let options = Options {
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ..Options::default()
        };
        options.asked()
    }

    #[test]
    fn gateways_and_ranges_go_to_the_subnet_that_holds_them() {
        let subnets = ["10.1.0.0/24", "fd00:1::/64"];
        let both = asked(&subnets, &["fd00:1::99", "10.1.0.9"], &["10.1.0.128/25"]).unwrap();
        assert_eq!(both[0].gateway.to_string(), "10.1.0.9");
        assert_eq!(both[0].range.unwrap().to_string(), "10.1.0.128/25");
        assert_eq!(both[1].gateway.to_string(), "fd00:1::99");
        for (gateways, ranges) in [(&["10.2.0.1"][..], &[][..]), (&[], &["10.2.0.0/25"])] {
            assert_eq!(
                asked(&subnets, gateways, ranges).unwrap_err().kind(),
                &Kind::Usage
            );
        }
        assert!(asked(&["10.1.0.0/24", "10.1.0.128/25"], &[], &[]).is_err());
    }

    #[test]
    fn filters_are_those_of_docker() {
        for text in [
            "dangling=true",
            "driver=bridge",
            "id=net_",
            "name=web",
            "label=a",
            "label=a=b",
            "type=custom",
        ] {
            Filter::parse(text).unwrap();
        }
        for text in ["", "dangling", "dangling=x", "frob=1", "type=x"] {
            assert_eq!(
                Filter::parse(text).unwrap_err().kind(),
                &Kind::Usage,
                "{text}"
            );
        }
    }
}
