//! Networks as people make them: a definition each, `$BOCKER_ROOT/networks/<name>.json`. What stands on the machine for one is
//! a bridge (`bridge.rs`), made at first need: a definition is all that a restart leaves.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bocker_pipe::error::Failures;
use bocker_pipe::{Doing, Error, Id, Kind, Result, containers, files, paths};
use serde::{Deserialize, Serialize};

use crate::BRIDGE;
use crate::host;
use crate::member::is_false;
use crate::subnet::Subnet;

/// The network that containers are on unless told otherwise, in docker's word.
pub(crate) const DEFAULT: &str = "bridge";
/// What cannot be the name of a network: it means something else.
const RESERVED: [&str; 5] = [DEFAULT, "default", "none", "host", BRIDGE];
const SUFFIX: &str = ".json";
/// A definition on its way; the lock of all networks is held meanwhile, so that one name is enough.
const NEW: &str = ".new";
/// The smallest MTU with which IPv4 works (RFC 791, 3.2), and IPv6 (RFC 8200, 5); the largest that a bridge takes.
const MTU_MIN: u32 = 68;
const MTU_MIN_IPV6: u32 = 1280;
const MTU_MAX: u32 = 65535;
/// What no network of containers can be, and why (RFC 6890).
const ABSURD: [(Subnet, &str); 8] = [
    (Subnet::v4(0, 0, 0, 0, 8), "they mean this host"),
    (Subnet::v4(127, 0, 0, 0, 8), "they are loopback"),
    (Subnet::v4(169, 254, 0, 0, 16), "they are link-local"),
    (Subnet::v4(224, 0, 0, 0, 4), "they mean groups"),
    (Subnet::v4(240, 0, 0, 0, 4), "they are reserved"),
    (Subnet::v6(0, 8), "they are reserved"),
    (Subnet::v6(0xfe80, 10), "they are link-local"),
    (Subnet::v6(0xff00, 8), "they mean groups"),
];
/// Of each family, the shortest and longest prefix that is neither a mistake nor too small for a gateway and a container.
const PREFIXES: [(u8, u8); 2] = [(8, 30), (16, 126)];

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// All of it.
    pub(crate) subnet: Subnet,
    /// The bridge's address, by which containers reach what is elsewhere.
    pub(crate) gateway: IpAddr,
    /// The part from which addresses are chosen; all of it unless somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) range: Option<Subnet>,
    /// Whether we have chosen it, and it gives way to what the host uses.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) chosen: bool,
}

impl Range {
    /// A subnet with the usual gateway, its first address.
    pub(crate) fn of(subnet: Subnet) -> Range {
        Range {
            subnet,
            gateway: subnet.gateway(),
            range: None,
            chosen: false,
        }
    }

    /// Fails with [`Kind::Invalid`] when no container could be reached in it.
    pub(crate) fn check(&self) -> Result<()> {
        let Range {
            subnet, gateway, ..
        } = self;
        let refuse = |what: String, hint: &str| Err(Error::new(Kind::Invalid, what).hint(hint));
        if let Some((_, why)) = ABSURD.iter().find(|(absurd, _)| absurd.overlaps(*subnet)) {
            let what = format!("{subnet} holds addresses that no container can have: {why}");
            return refuse(
                what,
                "give one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8",
            );
        }
        let (shortest, longest) = PREFIXES[usize::from(!subnet.is_ipv4())];
        if !(shortest..=longest).contains(&subnet.prefix()) {
            let what = format!("{subnet} is no subnet for containers");
            return refuse(
                what,
                &format!("its length has to be {shortest} to {longest}"),
            );
        }
        if !subnet.contains(*gateway) || subnet.reserves(*gateway) {
            let what = format!("{gateway} cannot be the gateway of {subnet}");
            return refuse(
                what,
                &format!("give an address of it, such as {}", subnet.gateway()),
            );
        }
        match self.range {
            Some(range) if !subnet.overlaps(range) || range.prefix() < subnet.prefix() => refuse(
                format!("{range} is no part of {subnet}"),
                "addresses are chosen from a part of the subnet",
            ),
            _ => Ok(()),
        }
    }
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    /// As people call it.
    pub(crate) name: String,
    /// The id, which is its bridge's name; that of the default network is `bridge0`.
    pub(crate) id: String,
    /// The interface that stands for it on the machine.
    pub(crate) bridge: String,
    /// One of IPv4, and one of IPv6 if it has any. Those of the default network are known once its bridge is.
    pub(crate) subnets: Vec<Range>,
    /// Whether it is connected to nothing else.
    #[serde(default)]
    pub(crate) internal: bool,
    /// Whether its containers cannot reach each other.
    #[serde(default)]
    pub(crate) isolated: bool,
    /// The largest packet, in bytes; the kernel's default unless somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// What it was marked with.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// RFC 3339, in UTC.
    #[serde(default)]
    pub(crate) created: String,
}

impl Network {
    /// The default network, whose subnets its bridge knows.
    pub(crate) fn default_one() -> Network {
        Network {
            name: DEFAULT.into(),
            id: BRIDGE.into(),
            bridge: BRIDGE.into(),
            subnets: Vec::new(),
            internal: false,
            isolated: false,
            mtu: None,
            labels: BTreeMap::new(),
            created: String::new(),
        }
    }

    /// Whether it is the one that is there without having been made.
    pub(crate) fn is_default(&self) -> bool {
        self.bridge == BRIDGE
    }

    /// Its subnet of IPv4.
    pub(crate) fn ipv4(&self) -> Option<&Range> {
        self.subnets.iter().find(|range| range.subnet.is_ipv4())
    }

    /// Its subnet of IPv6.
    pub(crate) fn ipv6(&self) -> Option<&Range> {
        self.subnets.iter().find(|range| !range.subnet.is_ipv4())
    }

    /// Fails with [`Kind::Invalid`] when it cannot be made so. A definition may have been edited by hand.
    pub(crate) fn check(&self) -> Result<()> {
        checked_name(&self.name)?;
        let is_id = Id::parse(&self.id).is_ok_and(|id| id.is_network());
        if !is_id || self.bridge != self.id {
            let what = format!("'{}' is no id of a network", self.id);
            return Err(Error::new(Kind::Invalid, what));
        }
        let count = |four: bool| {
            let of_family = self
                .subnets
                .iter()
                .filter(|range| range.subnet.is_ipv4() == four);
            of_family.count()
        };
        if count(true) != 1 || count(false) > 1 {
            let what = "a network has one subnet of IPv4, and at most one of IPv6";
            return Err(Error::new(Kind::Invalid, what)
                .hint("make a network each, and give --network several times"));
        }
        self.subnets.iter().try_for_each(Range::check)?;
        let smallest = match self.ipv6() {
            Some(_) => MTU_MIN_IPV6,
            None => MTU_MIN,
        };
        match self.mtu {
            Some(mtu) if !(smallest..=MTU_MAX).contains(&mtu) => Err(Error::new(
                Kind::Invalid,
                format!("a packet cannot be at most {mtu} bytes long"),
            )
            .hint(format!("give --mtu {smallest} to {MTU_MAX}"))),
            _ => Ok(()),
        }
    }

    /// Writes the definition, for one who holds the lock of all networks and knows that there is none of this name.
    pub(crate) fn save(&self) -> Result<()> {
        let (path, new) = (path(&self.name), folder().join(NEW));
        let what = || format!("write {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder())
            .doing(what)?;
        let written = serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::from)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                let mut options = OpenOptions::new();
                let options = options.write(true).create(true).truncate(true).mode(0o600);
                let mut file = options.open(&new)?;
                file.write_all(&bytes)?;
                // Seen at all, it is seen whole, after a power cut too.
                file.sync_all()?;
                fs::rename(&new, &path)?;
                File::open(folder())?.sync_all()
            });
        if written.is_err() {
            // The first failure is the one to tell.
            let _ = tidy();
        }
        written.doing(what)
    }

    /// Removes the definition. Already gone is success.
    pub(crate) fn forget(&self) -> Result<()> {
        files::remove(&path(&self.name))?;
        tidy()
    }

    /// The containers of our root whose documents say that they are on it, running or not.
    pub(crate) fn named_by(&self) -> Result<Vec<Id>> {
        let is_on_it = |id: &Id| {
            let document = containers::load(id).ok()?;
            let attachments = document.value("/bocker/net/attachments")?.as_array()?;
            let on = |name: &str| attachments.iter().any(|one| one["network"] == name);
            Some(on(&self.name))
        };
        let mut ids = containers::list()?;
        ids.retain(|id| is_on_it(id).unwrap_or(false));
        Ok(ids)
    }
}

/// Removes what one has left who was killed as it wrote a definition, for one who holds the lock of all networks.
pub(crate) fn tidy() -> Result<()> {
    files::remove(&folder().join(NEW))?;
    // As long as there are definitions, it stays.
    let _ = fs::remove_dir(folder());
    Ok(())
}

/// The folder of the definitions.
pub(crate) fn folder() -> PathBuf {
    paths::root().join("networks")
}

/// The definition of a network.
pub(crate) fn path(name: &str) -> PathBuf {
    folder().join(format!("{name}{SUFFIX}"))
}

/// Takes a name for a network. Fails with [`Kind::Invalid`].
pub(crate) fn checked_name(name: &str) -> Result<&str> {
    let refuse = |what: &str, hint: &str| {
        Err(Error::new(Kind::Invalid, format!("'{name}' {what}")).hint(hint))
    };
    if RESERVED.contains(&name) {
        return refuse("cannot be the name of a network", "it means something else");
    }
    if Id::parse(name).is_ok() {
        return refuse("cannot be the name of a network", "it is an id");
    }
    if !containers::is_name(name) {
        return refuse(
            "cannot be the name of a network",
            "use two or more of a-z A-Z 0-9 _ . - and begin with a letter or digit",
        );
    }
    Ok(name)
}

/// The network that a name, an id or the unique beginning of one stands for. Fails with [`Kind::NotFound`].
pub(crate) fn find(text: &str) -> Result<Network> {
    let missing = || {
        let what = format!("No network named '{text}' exists");
        Error::new(Kind::NotFound, what)
            .hint("'bocker network ls' lists them, 'bocker network create' makes one")
    };
    if [DEFAULT, "default", BRIDGE].contains(&text) {
        return Ok(Network::default_one());
    }
    if containers::is_name(text) && path(text).exists() {
        return load(text);
    }
    if text.is_empty() {
        return Err(Error::new(Kind::Invalid, "an empty name names no network"));
    }
    let mut found = Vec::new();
    for name in names()? {
        // One that is damaged is found by its name only.
        found.extend(
            load(&name)
                .ok()
                .filter(|network| network.id.starts_with(text)),
        );
    }
    match found.len() {
        0 => Err(missing()),
        1 => found.pop().ok_or_else(missing),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("several networks begin with '{text}'"),
        )
        .hint("give more characters")),
    }
}

/// Reads the definition of a network. Fails with [`Kind::Invalid`] when it is damaged.
fn load(name: &str) -> Result<Network> {
    let path = path(name);
    let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
    let network: Result<Network> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(Kind::Invalid, error.to_string()))
        .and_then(|network: Network| network.check().map(|()| network))
        .and_then(|network| match network.name == name {
            true => Ok(network),
            false => Err(Error::new(
                Kind::Invalid,
                format!("it is of '{}'", network.name),
            )),
        });
    network.map_err(|error| {
        let what = format!("{} is damaged: {}", path.display(), error.message());
        Error::new(Kind::Invalid, what).hint("mend it, or remove it and make the network again")
    })
}

/// The names of all networks that were made, sorted.
fn names() -> Result<Vec<String>> {
    let folder = folder();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    let name = |path: &Path| Some(path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.to_owned());
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| name(&entry.path()))
        .collect();
    names.sort();
    Ok(names)
}

/// All networks that were made, and what is wrong with definitions that cannot be read.
pub(crate) fn list() -> Result<(Vec<Network>, Failures)> {
    let mut failures = Failures::default();
    let mut networks = Vec::new();
    for name in names()? {
        match load(&name) {
            Ok(network) => networks.push(network),
            Err(error) => failures.note(Err(error)),
        }
    }
    Ok((networks, failures))
}

/// Orders the making and removing of networks on this machine.
pub(crate) fn lock() -> Result<host::Guard> {
    host::lock(nix::fcntl::FlockArg::LockExclusive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str) -> Range {
        Range::of(subnet.parse().unwrap())
    }

    #[test]
    fn absurd_subnets_are_refused() {
        for subnet in [
            "10.89.0.0/21",
            "172.16.0.0/12",
            "198.51.100.0/30",
            "fd00:1::/64",
            "2001:db8::/126",
        ] {
            range(subnet).check().unwrap();
        }
        for subnet in [
            "0.0.0.0/0",
            "10.0.0.0/7",
            "10.0.0.0/31",
            "10.0.0.0/32",
            "127.0.0.0/16",
            "224.0.0.0/8",
            "255.0.0.0/8",
            "169.254.0.0/24",
            "128.0.0.0/1",
            "::/64",
            "fe80::/64",
            "ff02::/64",
            "fd00::/127",
            "fc00::/7",
            "::ffff:0.0.0.0/96",
        ] {
            assert_eq!(
                range(subnet).check().unwrap_err().kind(),
                &Kind::Invalid,
                "{subnet}"
            );
        }
    }

    #[test]
    fn a_gateway_and_a_range_are_parts_of_their_subnet() {
        let with = |gateway: &str, part: Option<&str>| Range {
            gateway: gateway.parse().unwrap(),
            range: part.map(|part| part.parse().unwrap()),
            ..range("10.89.0.0/24")
        };
        with("10.89.0.254", Some("10.89.0.128/25")).check().unwrap();
        for (gateway, part) in [
            ("10.89.0.0", None),
            ("10.89.0.255", None),
            ("10.89.1.1", None),
            ("fd00::1", None),
            ("10.89.0.1", Some("10.89.1.0/25")),
            ("10.89.0.1", Some("10.89.0.0/16")),
        ] {
            let error = with(gateway, part).check().unwrap_err();
            assert_eq!(error.kind(), &Kind::Invalid, "{gateway} {part:?}");
        }
    }

    #[test]
    fn names_that_mean_something_else_or_could_leave_the_folder_are_refused() {
        for name in ["web", "my.net_1-x"] {
            checked_name(name).unwrap();
        }
        for name in [
            "",
            "a",
            "bridge",
            "host",
            "none",
            "default",
            "bridge0",
            "net_abc123",
            "container:x",
            "../x",
            "a b",
            "-x",
        ] {
            assert_eq!(
                checked_name(name).unwrap_err().kind(),
                &Kind::Invalid,
                "{name}"
            );
        }
    }
}
