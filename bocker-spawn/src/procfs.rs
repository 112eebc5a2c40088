//! What the host's /proc says about a process.

use std::fs;
use std::os::fd::RawFd;

use bocker_pipe::{Doing, Error, Kind, Result};

/// Of a process (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) name: String,
    pub(crate) state: char,
    pub(crate) parent: i32,
    /// When it started, in clock ticks since boot: with its number it names it for good.
    pub(crate) start_time: u64,
    /// The number of its terminal's device; 0 without one.
    pub(crate) terminal: u32,
    /// How long it has run, in the kernel and outside, in clock ticks.
    pub(crate) cpu_ticks: u64,
}

/// Of the process with this number now.
pub(crate) fn stat(pid: i32) -> Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let bytes = fs::read(&path).doing(|| format!("read {path}"))?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| Error::new(Kind::System(libc::EPROTO), format!("{path} is malformed")))
}

/// Where the words are in memory that this process was called with: the first byte, and the one after the last.
pub(crate) fn own_arguments() -> Option<(usize, usize)> {
    let bytes = fs::read("/proc/self/stat").ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, rest) = text.rsplit_once(')')?;
    // The fields 48 and 49; those after the name begin with the third.
    let mut fields = rest.split_ascii_whitespace().skip(48 - 3);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The descriptors of this process, and the one by which they were read.
pub(crate) fn own_descriptors() -> Result<Vec<RawFd>> {
    let entries = fs::read_dir("/proc/self/fd").doing(|| "list our descriptors".into())?;
    let numbers = entries.map_while(std::io::Result::ok);
    Ok(numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

pub(crate) fn start_time(pid: i32) -> Result<u64> {
    Ok(stat(pid)?.start_time)
}

/// The second field, the name, may hold anything; the last `)` ends it.
fn parse(stat: &str) -> Option<Stat> {
    let (head, rest) = stat.rsplit_once(')')?;
    // From the third field on.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        terminal: field(7)?.parse().ok()?,
        cpu_ticks: field(14)?
            .parse::<u64>()
            .ok()?
            .checked_add(field(15)?.parse().ok()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        let parsed = parse(&format!("7 (a) b) {rest}"));
        let expected = Stat {
            name: "a) b".into(),
            state: 'S',
            parent: 1,
            start_time: 4242,
            terminal: 4,
            cpu_ticks: 11 + 12,
        };
        assert_eq!(parsed, Some(expected));
        assert_eq!(parse("7 (x"), None);
        assert!(start_time(std::process::id() as i32).unwrap() > 0);
    }
}
