//! A picture of everything on a piece of the machine that a container may leave behind, as sorted lines by subject.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cgroups;
use crate::host::Host;

/// The inode number of the root of every subvolume of btrfs, which no other filesystem gives a directory so early.
const SUBVOLUME: u64 = 256;

/// What the machine looked like; compare two with [`Fingerprint::diff`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    sections: BTreeMap<&'static str, Vec<String>>,
}

impl Fingerprint {
    pub(crate) fn take(host: &Host) -> Fingerprint {
        let mut sections = BTreeMap::from([
            ("links", links(host)),
            ("addresses", addresses(host)),
            ("routes", routes(host)),
            ("mounts", mounts()),
            ("nftables", nftables(host)),
            ("sysctls", sysctls()),
            ("cgroups", groups(host)),
            ("processes", processes(host)),
            ("/run/bocker", files(Path::new("/run/bocker"))),
            ("/run/netns", files(Path::new("/run/netns"))),
            ("leases", contents(Path::new("/run/bocker/net"))),
            ("BOCKER_ROOT", without_events(files(&host.root()))),
            ("TMPDIR", files(&host.temporary())),
            ("loop devices", loop_devices(host)),
        ]);
        for lines in sections.values_mut() {
            lines.sort();
        }
        Fingerprint { sections }
    }

    /// Whether there is an interface of a container whose network namespace is pinned no more: the kernel removes it some
    /// time after the namespace that held its peer.
    pub(crate) fn has_interfaces_in_flight(&self) -> bool {
        let names = self.sections["links"].iter().filter_map(|line| {
            let (_, id) = line.strip_prefix(r#"ifname="veth"#)?.split_once('_')?;
            id.split('"').next()
        });
        let mut claims = names.map(|id| Path::new("/run/bocker").join(id));
        // That of another runtime's container is pinned elsewhere.
        claims.any(|claim| !claim.join("netns").exists() && !claim.join("attachment").exists())
    }

    /// What differs in a later picture, one line each: `- ` what is gone, `+ ` what is new, under the subject's name.
    /// Empty when nothing does.
    #[must_use]
    pub fn diff(&self, later: &Fingerprint) -> String {
        let mut text = String::new();
        for (name, before) in &self.sections {
            let after = &later.sections[name];
            let gone = missing(before, after);
            let new = missing(after, before);
            if gone.is_empty() && new.is_empty() {
                continue;
            }
            _ = writeln!(text, "{name}:");
            for line in gone {
                _ = writeln!(text, "  - {line}");
            }
            for line in new {
                _ = writeln!(text, "  + {line}");
            }
        }
        text
    }

    /// The lines of one subject, such as `links`, `mounts`, `nftables`, `cgroups`, `/run/bocker`, `BOCKER_ROOT`.
    ///
    /// # Panics
    /// When there is no such subject.
    #[must_use]
    pub fn section(&self, name: &str) -> &[String] {
        &self.sections[name]
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, lines) in &self.sections {
            writeln!(f, "{name}:")?;
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// What has happened stays written down, whatever came of it.
fn without_events(mut files: Vec<String>) -> Vec<String> {
    files.retain(|line| {
        !["events", "events.1"].contains(&line.rsplit(' ').next().unwrap_or_default())
    });
    files
}

/// The lines of `these` that `others` has not, each as often as it is missing there (mounts can be stacked).
fn missing<'a>(these: &'a [String], others: &[String]) -> Vec<&'a str> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for line in others {
        *left.entry(line).or_default() += 1;
    }
    these
        .iter()
        .filter(|line| match left.get_mut(line.as_str()) {
            Some(n) if *n > 0 => {
                *n -= 1;
                false
            }
            _ => true,
        })
        .map(String::as_str)
        .collect()
}

/// The named members of an object, those that are there.
fn only(value: &Value, members: &[&str]) -> String {
    members
        .iter()
        .filter_map(|m| value.get(m).map(|v| format!("{m}={v}")))
        .collect::<Vec<_>>()
        .join(" ")
}

fn ip(host: &Host, arguments: &[&str]) -> Vec<Value> {
    let argv: Vec<&str> = ["ip", "-j", "-d"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let output = host.run(&argv).ok();
    // ip says nothing at all about an empty table.
    if output.stdout.trim().is_empty() {
        return Vec::new();
    }
    output.json().as_array().cloned().unwrap_or_default()
}

fn links(host: &Host) -> Vec<String> {
    ip(host, &["link", "show"])
        .iter()
        .map(|l| {
            let kind = l["linkinfo"]["info_kind"].as_str().unwrap_or("-");
            let up = l["flags"].to_string().contains("\"UP\"");
            let names = [
                "ifname", "ifalias", "altnames", "master", "link", "mtu", "address",
            ];
            format!("{} kind={kind} up={up}", only(l, &names))
        })
        .collect()
}

/// The kernel gives every interface that has a carrier a link-local IPv6 address, with its routes, and takes them away
/// with the carrier: they say nothing that the interface does not say.
fn is_automatic(address: &Value) -> bool {
    let address = address.as_str().unwrap_or_default();
    address.starts_with("fe80:") || address == "ff00::/8"
}

fn addresses(host: &Host) -> Vec<String> {
    let mut lines = Vec::new();
    for link in ip(host, &["addr", "show"]) {
        for a in link["addr_info"].as_array().into_iter().flatten() {
            if is_automatic(&a["local"]) {
                continue;
            }
            let name = link["ifname"].as_str().unwrap_or("?");
            lines.push(format!(
                "{name} {}",
                only(a, &["local", "prefixlen", "scope"])
            ));
        }
    }
    lines
}

fn routes(host: &Host) -> Vec<String> {
    let members = ["type", "dst", "gateway", "dev", "table", "scope", "metric"];
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        for what in [&["route", "show", "table", "all"][..], &["rule", "show"]] {
            let argv: Vec<&str> = std::iter::once(family)
                .chain(what.iter().copied())
                .collect();
            for r in ip(host, &argv).iter().filter(|r| !is_automatic(&r["dst"])) {
                let rule = only(r, &["priority", "src", "fwmark"]);
                lines.push(format!("{family} {} {rule}", only(r, &members)));
            }
        }
    }
    lines
}

/// All mounts, pinned namespaces among them (`nsfs`), without the numbers that the kernel gives them.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    text.lines()
        .map(|l| l.splitn(4, ' ').nth(3).unwrap_or(l).to_owned())
        .collect()
}

/// The ruleset, one object a line, without handles and counts.
fn nftables(host: &Host) -> Vec<String> {
    let ruleset = host.run(&["nft", "-j", "list", "ruleset"]).ok().json();
    ruleset["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|o| o.get("metainfo").is_none())
        .map(|o| without_numbers(o).to_string())
        .collect()
}

fn without_numbers(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| !["handle", "packets", "bytes", "expires"].contains(&name.as_str()))
            .map(|(name, v)| (name.clone(), without_numbers(v)))
            .collect(),
        Value::Array(items) => items.iter().map(without_numbers).collect(),
        other => other.clone(),
    }
}

/// The settings of the network that containers need changed.
fn sysctls() -> Vec<String> {
    let mut files = vec![PathBuf::from("/proc/sys/net/ipv4/ip_forward")];
    for (family, names) in [
        (
            "ipv4",
            &["forwarding", "route_localnet", "proxy_arp", "rp_filter"][..],
        ),
        ("ipv6", &["forwarding", "disable_ipv6", "proxy_ndp"]),
    ] {
        let conf = format!("/proc/sys/net/{family}/conf");
        for interface in fs::read_dir(conf).into_iter().flatten().flatten() {
            files.extend(names.iter().map(|n| interface.path().join(n)));
        }
    }
    files
        .iter()
        .filter_map(|f| {
            let value = fs::read_to_string(f).ok()?;
            Some(format!("{}={}", f.display(), value.trim()))
        })
        .collect()
}

/// What the first container in the background makes for all that come. That `system reset` removes it is a test of its own.
const FOR_SUPERVISORS: [&str; 2] = ["bocker-supervisors", "bocker/supervisors"];

/// Every cgroup beneath the test's own, in every hierarchy.
fn groups(host: &Host) -> Vec<String> {
    fn walk(group: &Path, lines: &mut Vec<String>) {
        for child in cgroups::children(group) {
            if FOR_SUPERVISORS.iter().any(|name| child.ends_with(name)) {
                continue;
            }
            lines.push(child.display().to_string());
            walk(&child, lines);
        }
    }
    let mut lines = Vec::new();
    for mount in host.cgroup_mounts() {
        walk(mount, &mut lines);
    }
    lines
}

/// Every process that the test started and all that those started, wherever they went.
fn processes(host: &Host) -> Vec<String> {
    let mut pids: Vec<_> = host.cgroup_mounts().flat_map(cgroups::pids).collect();
    pids.sort();
    pids.dedup();
    pids.into_iter()
        .filter_map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            Some(format!("{pid} {command}"))
        })
        .collect()
}

/// Type and name of everything in a folder, without what is mounted there.
fn files(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if let Ok(meta) = top.symlink_metadata() {
        walk(top, top, meta.dev(), &mut |path, meta| {
            lines.push(describe(path, meta));
        });
    }
    lines
}

fn walk(top: &Path, dir: &Path, device: u64, each: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        each(path.strip_prefix(top).unwrap_or(&path), &meta);
        if meta.is_dir() && meta.dev() == device {
            walk(top, &path, device, each);
        }
    }
}

fn describe(path: &Path, meta: &fs::Metadata) -> String {
    let kind = meta.file_type();
    let kind = match () {
        () if kind.is_dir() && meta.ino() == SUBVOLUME => "subvolume",
        () if kind.is_dir() => "dir",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symlink",
        () if kind.is_socket() => "socket",
        () if kind.is_fifo() => "fifo",
        () => "device",
    };
    format!("{kind} {:o} {}", meta.mode() & 0o7777, path.display())
}

/// The files of the test that are disks.
fn loop_devices(host: &Host) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some(file.trim().to_owned())
    });
    let ours = host.root().parent().map(Path::to_owned).unwrap_or_default();
    files
        .filter(|file| Path::new(file).starts_with(&ours))
        .collect()
}

/// What the address leases say.
fn contents(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if let Ok(meta) = top.symlink_metadata() {
        walk(top, top, meta.dev(), &mut |path, meta| {
            if meta.is_file() {
                let text = fs::read(top.join(path)).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                lines.push(format!("{}: {text:?}", path.display()));
            }
        });
    }
    lines
}
