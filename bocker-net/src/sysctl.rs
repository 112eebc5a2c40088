//! Kernel switches that we turn on (sysctl(8), /proc/sys/net), and what they were before, so that `reset` restores them.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Kind, Result};
use nix::libc;
use serde::Serialize;

use crate::host;

const PROC_SYS: &str = "/proc/sys";
const ON: &str = "1";
const OFF: &str = "0";
/// Under our folder: one file a switch, which holds the former value.
const FORMER: &str = "sysctl";

/// The host passes packets on between its interfaces: without it, nothing leaves the bridge.
pub(crate) const IP_FORWARD: &str = "net.ipv4.ip_forward";
/// The same for IPv6.
pub(crate) const IP6_FORWARD: &str = "net.ipv6.conf.all.forwarding";
/// Router advertisements are listened to, but not by a router (the kernel's ip-sysctl.rst, accept_ra).
pub(crate) const ACCEPT_RA_HOST: &str = "1";

/// Packets from or to 127.0.0.0/8 may use the interface, so that `127.0.0.1:8080` on the host reaches a container.
pub(crate) fn route_localnet(interface: &str) -> String {
    format!("net.ipv4.conf.{interface}.route_localnet")
}

/// No IPv6 on the interface.
pub(crate) fn disable_ipv6(interface: &str) -> String {
    format!("net.ipv6.conf.{interface}.disable_ipv6")
}

/// Whether routers on the interface are listened to, who say where the way out is.
pub(crate) fn accept_ra(interface: &str) -> String {
    format!("net.ipv6.conf.{interface}.accept_ra")
}

/// Sets a switch of an interface of ours. There is nothing to restore, the switch goes with the interface.
pub(crate) fn set_own(name: &str, value: &str) -> Result<()> {
    match fs::write(path(name), value) {
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("set {name} to {value}")),
    }
}

/// A switch that we have turned on.
#[derive(Debug, Serialize)]
pub(crate) struct TurnedOn {
    pub(crate) name: String,
    /// Before we came.
    pub(crate) former: String,
    /// Now; absent when the interface of the switch is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) now: Option<String>,
}

fn path(name: &str) -> PathBuf {
    // An interface's name may have a dot, where a name in full has a slash (sysctl.d(5)): it is the word before the last.
    let (head, last) = name.rsplit_once('.').unwrap_or(("", name));
    let parts: Vec<&str> = head.splitn(4, '.').collect();
    let mut path = Path::new(PROC_SYS).to_owned();
    path.extend(parts);
    path.join(last)
}

pub(crate) fn folder() -> PathBuf {
    host::folder().join(FORMER)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {}", path.display())),
    }
}

/// What the switch is set to; `None` when there is no such switch.
pub(crate) fn value(name: &str) -> Result<Option<String>> {
    read(&path(name))
}

/// Whether the switch is on. One that does not exist (its interface is not made yet) is off.
pub(crate) fn is_on(name: &str) -> Result<bool> {
    Ok(value(name)?.is_some_and(|value| value == ON))
}

/// Turns a switch on, after what it was has been written down.
pub(crate) fn turn_on(name: &str) -> Result<()> {
    if is_on(name)? {
        return Ok(());
    }
    if name == IP6_FORWARD && !path(name).exists() {
        let what = "the kernel has no IPv6";
        return Err(Error::new(Kind::System(libc::EAFNOSUPPORT), what)
            .hint("use a network without it, or start the machine without ipv6.disable=1"));
    }
    for single in overruled(name)? {
        write_down(&single, ON)?;
    }
    // Where somebody has turned it off after us there is a record already, which says the same: what was before us counts.
    write_down(name, OFF)?;
    fs::write(path(name), ON).doing(|| format!("turn on {name}"))
}

/// The switches of single interfaces that are on already: turning off what is for all of them turns them off, too.
pub(crate) fn overruled(name: &str) -> Result<Vec<String>> {
    let family = match name {
        IP_FORWARD => "net.ipv4",
        IP6_FORWARD => "net.ipv6",
        _ => return Ok(Vec::new()),
    };
    let conf = path(&format!("{family}.conf"));
    let entries = fs::read_dir(&conf).doing(|| format!("read {}", conf.display()))?;
    let interfaces = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut on = Vec::new();
    for interface in interfaces.filter(|interface| interface != "all") {
        let single = format!("{family}.conf.{interface}.forwarding");
        if is_on(&single)? {
            on.push(single);
        }
    }
    Ok(on)
}

fn write_down(name: &str, former: &str) -> Result<()> {
    let record = folder().join(name);
    let write = || {
        fs::create_dir_all(folder())?;
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&record)?.write_all(former.as_bytes())
    };
    write().doing(|| format!("write {}", record.display()))
}

/// The switches that we have turned on, and behind them those that go back to on.
pub(crate) fn turned_on() -> Result<Vec<TurnedOn>> {
    let entries = match fs::read_dir(folder()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", folder().display())),
    };
    let mut switches = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let was_on = read(&entry.path())?.is_some_and(|former| former == ON);
        switches.push(TurnedOn {
            now: read(&path(&name))?,
            former: if was_on { ON } else { OFF }.to_owned(),
            name,
        });
    }
    switches.sort_by(|a, b| (&a.former, &a.name).cmp(&(&b.former, &b.name)));
    Ok(switches)
}

/// Gives a switch its former value and forgets it. One whose interface is gone is gone with it.
pub(crate) fn restore(switch: &TurnedOn) -> Result<()> {
    match fs::write(path(&switch.name), &switch.former) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => result.doing(|| format!("restore {}", switch.name))?,
    }
    let record = folder().join(&switch.name);
    fs::remove_file(&record).doing(|| format!("remove {}", record.display()))
}

/// Forgets the switches of an interface that goes, and they with it.
pub(crate) fn forget_interface(interface: &str) -> Result<()> {
    let record = folder().join(route_localnet(interface));
    match fs::remove_file(&record) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", record.display())),
    }
}
