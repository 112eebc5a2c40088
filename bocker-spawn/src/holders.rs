//! Who keeps a container that was killed from being gone: a process that waits for the kernel, or one that has ended and is not
//! reaped, because its parent outside (who entered the namespace, as nsenter(1) does) is suspended. Process 1 waits for both
//! (pid_namespaces(7)).

use std::fmt::{self, Display};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Pid;

use crate::procfs::{self, Stat};

/// proc(5), stat: ended and not reaped, and stopped by a signal or a tracer.
const ZOMBIE: char = 'Z';
const SUSPENDED: [char; 2] = ['T', 't'];

/// What is left in a pid namespace beside its process 1.
pub(crate) struct Holders(Vec<Holder>);

struct Holder {
    pid: i32,
    stat: Stat,
    /// Of one that has ended.
    parent: Option<Stat>,
}

/// Looks for those in the namespace of this process 1.
pub(crate) fn of(process_1: Pid) -> Holders {
    let process_1 = process_1.as_raw_nonzero().get();
    let Some(namespace) = namespace(process_1) else {
        return Holders(Vec::new());
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let others = pids.filter(|pid| *pid != process_1 && self::namespace(*pid) == Some(namespace));
    Holders(others.filter_map(Holder::of).collect())
}

/// What tells a process's pid namespace from any other. One that has ended still has it.
fn namespace(pid: i32) -> Option<(u64, u64)> {
    let meta = fs::metadata(Path::new("/proc").join(pid.to_string()).join("ns/pid")).ok()?;
    Some((meta.dev(), meta.ino()))
}

impl Holder {
    fn of(pid: i32) -> Option<Holder> {
        let stat = procfs::stat(pid).ok()?;
        let parent = (stat.state == ZOMBIE)
            .then(|| procfs::stat(stat.parent).ok())
            .flatten();
        Some(Holder { pid, stat, parent })
    }

    /// Whether somebody must do something before it can be gone.
    fn is_stuck(&self) -> bool {
        let parent = self.parent.as_ref();
        parent.is_some_and(|parent| SUSPENDED.contains(&parent.state))
    }
}

impl Holders {
    /// Whether it makes sense to wait on.
    pub(crate) fn may_go(&self) -> bool {
        !self.0.iter().any(Holder::is_stuck)
    }
}

impl Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, Holder { pid, stat, parent }) in self.0.iter().enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            write!(
                f,
                "{before}{pid} ({}) is in state {}",
                stat.name, stat.state
            )?;
            if let Some(parent) = parent {
                let (number, name, state) = (stat.parent, &parent.name, parent.state);
                write!(f, " until {number} ({name}, state {state}) reaps it")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: char) -> Stat {
        Stat {
            name: name.into(),
            state,
            parent: 7,
            start_time: 0,
            terminal: 0,
            cpu_ticks: 0,
        }
    }

    #[test]
    fn what_is_left_is_told_with_its_state_and_who_should_reap_it() {
        let zombie = |parent| Holder {
            pid: 8,
            stat: stat("sh", 'Z'),
            parent: Some(stat("nsenter", parent)),
        };
        let waiting = Holder {
            pid: 9,
            stat: stat("dd", 'D'),
            parent: None,
        };
        let all = Holders(vec![zombie('T'), waiting]);
        assert_eq!(
            all.to_string(),
            ": 8 (sh) is in state Z until 7 (nsenter, state T) reaps it, 9 (dd) is in state D"
        );
        assert!(!all.may_go());
        assert!(Holders(vec![zombie('S')]).may_go() && Holders(vec![]).may_go());
    }
}
