//! `top`: the processes of a container, as the host's /proc has them, with users by the container's own names.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bocker_pipe::events::Event;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result};
use serde_json::{Value, json};

use crate::cgroups;
use crate::container::Container;
use crate::procfs::{self, Stat};
use crate::report::utf8;
use crate::rooted::Root;
use crate::users;

/// In how many ticks a second counts (time(7), USER_HZ).
const TICKS: f64 = 100.0;
/// Seconds since boot, and idle ones (proc_uptime(5)).
const UPTIME: &str = "/proc/uptime";
/// The majors of pseudoterminals (admin-guide/devices).
const PTS: std::ops::RangeInclusive<u32> = 136..=143;
/// And of consoles.
const TTY: u32 = 4;

/// The verb: a line for each process.
pub(crate) fn top(call: &mut Call) -> Result<()> {
    let mut name = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if name.is_some() => return Err(call.unexpected(&word)),
            Arg::Value(word) => name = Some(utf8(word)?),
        }
    }
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no container is given"))?;
    let container = Container::find(&name)?;
    let (first, _) = container
        .process()?
        .ok_or_else(|| container.not_running())?;
    let first = first.as_raw_nonzero().get();
    let root = Root::open(Path::new(&format!("/proc/{first}/root")))?;
    let names = users::names(&root);
    let uptime = uptime()?;
    let pids = || match cgroups::processes(&container.cgroups) {
        pids if pids.is_empty() => vec![first],
        pids => pids,
    };
    let found: Vec<(i32, Process)> = pids()
        .into_iter()
        .filter_map(|pid| Some((pid, Process::read(pid)?)))
        .collect();
    // One that has ended may have left its number to another, who is none of the container's.
    let still = pids();
    for (pid, process) in found.iter().filter(|(pid, _)| still.contains(pid)) {
        call.line(&process.line(*pid, &names, uptime))?;
    }
    if !call.dry_run() {
        Event::of(&container.document, "top").record();
    }
    Ok(())
}

fn uptime() -> Result<f64> {
    let text = fs::read_to_string(UPTIME).doing(|| format!("read {UPTIME}"))?;
    let seconds = text.split(' ').next().and_then(|text| text.parse().ok());
    seconds.ok_or_else(|| Error::new(Kind::System(libc::EPROTO), format!("{UPTIME} is malformed")))
}

struct Process {
    stat: Stat,
    uid: u32,
    /// The number that it has in the container.
    inner: Option<i32>,
    args: Vec<String>,
}

impl Process {
    /// Nothing of one that has ended.
    fn read(pid: i32) -> Option<Process> {
        let stat = procfs::stat(pid).ok()?;
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::split_ascii_whitespace)
        };
        let args = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let args = args.strip_suffix(b"\0").unwrap_or(&args);
        let args = args.split(|byte| *byte == 0);
        Some(Process {
            // The effective one is the second (proc_pid_status(5)).
            uid: field("Uid:")?.nth(1)?.parse().ok()?,
            inner: field("NSpid:").and_then(|pids| pids.last()?.parse().ok()),
            args: args
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect(),
            stat,
        })
    }

    fn line(&self, pid: i32, names: &HashMap<u32, String>, uptime: f64) -> Value {
        let stat = &self.stat;
        let elapsed = (uptime - stat.start_time as f64 / TICKS).max(0.0);
        let time = stat.cpu_ticks as f64 / TICKS;
        let args = self.args.join(" ");
        json!({
            "user": names.get(&self.uid).cloned().unwrap_or_else(|| self.uid.to_string()),
            "uid": self.uid,
            "pid": pid,
            "inner_pid": self.inner,
            "ppid": stat.parent,
            "state": stat.state.to_string(),
            "tty": terminal(stat.terminal),
            "elapsed": elapsed as u64,
            "time": time as u64,
            "cpu": if elapsed > 0.0 { (time / elapsed * 1000.0).round() / 10.0 } else { 0.0 },
            "name": stat.name,
            // As ps(1): a thread of the kernel's, and what has ended, have none.
            "args": if args.is_empty() { format!("[{}]", stat.name) } else { args },
        })
    }
}

/// The name of a device by its number as the kernel packs it (proc_pid_stat(5), tty_nr).
fn terminal(number: u32) -> String {
    let major = (number >> 8) & 0xfff;
    let minor = (number & 0xff) | ((number >> 12) & 0xfff00);
    match major {
        major if PTS.contains(&major) => format!("pts/{}", (major - PTS.start()) * 256 + minor),
        TTY => format!("tty{minor}"),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_goes_by_its_name() {
        for (number, name) in [(0, "?"), (34816, "pts/0"), (34823, "pts/7"), (1025, "tty1")] {
            assert_eq!(terminal(number), name);
        }
    }
}
