//! The pids controller: how many processes and threads there may be. Kernel documentation: admin-guide/cgroup-v1/pids,
//! admin-guide/cgroup-v2 ("PID").

use std::path::Path;

use bocker_pipe::Result;
use serde_json::{Value, json};

use crate::controller::{Interface, Setting};
use crate::request::{Request, out_of_range};

pub(crate) const NAME: &str = "pids";
pub(crate) const RESOURCES: &str = "pids";
pub(crate) const WHY: &str =
    "counts processes and threads, so that a fork bomb ends with the container";

const MAX: &str = "pids.max";
/// What the file takes for any number.
const ANY: &str = "max";
/// The option's value for any number, as Docker has it.
const UNLIMITED: i64 = -1;
/// The most processes that Linux has (PID_MAX_LIMIT, linux/threads.h).
const MOST: i64 = 1 << 22;

/// Checks a number of processes.
pub(crate) fn check(pids: i64) -> Result<()> {
    if pids == UNLIMITED || (1..=MOST).contains(&pids) {
        return Ok(());
    }
    let range = format!("1 to {MOST}, or {UNLIMITED} for any number");
    Err(out_of_range("--pids-limit", &pids.to_string(), &range))
}

/// Both versions have the same file.
pub(crate) const BOTH: Interface = Interface {
    shown_by: Some(MAX),
    settings,
};

fn settings(request: &Request, _: &Path) -> Vec<Setting> {
    match request.pids {
        None => Vec::new(),
        Some(UNLIMITED) => vec![Setting::new(MAX, ANY)],
        Some(pids) => vec![Setting::new(MAX, pids)],
    }
}

pub(crate) fn resources(request: &Request) -> Option<Value> {
    request.pids.map(|pids| json!({ "limit": pids }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_processes_is_positive_or_minus_one() {
        for pids in [1, 100, MOST, -1] {
            assert!(check(pids).is_ok(), "{pids}");
        }
        for pids in [0, -2, MOST + 1, i64::MIN, i64::MAX] {
            assert!(check(pids).is_err(), "{pids}");
        }
    }
}
