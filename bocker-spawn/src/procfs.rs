//! What the host's /proc says about a process.

use std::fs;

use bocker_pipe::{Doing, Error, Kind, Result};

/// When a process started, in clock ticks since boot (proc(5), stat, field 22): with its number it names it for good.
pub(crate) fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    parse_start_time(&text)
        .ok_or_else(|| Error::new(Kind::System(libc::EPROTO), format!("{path} is malformed")))
}

/// The second field, the name, may hold anything; the last `)` ends it.
fn parse_start_time(stat: &str) -> Option<u64> {
    const AFTER_NAME: usize = 22 - 3;
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(AFTER_NAME)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        assert_eq!(parse_start_time(&format!("7 (a) b) {rest}")), Some(4242));
        assert_eq!(parse_start_time("7 (x"), None);
        assert!(start_time(std::process::id() as i32).unwrap() > 0);
    }
}
