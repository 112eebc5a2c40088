//! Who keeps a container that was killed from being gone: a process that waits for the kernel, which does not let it go before it
//! has what it waits for (state D: a disk, a server, a filesystem that is frozen), or one that has ended and is not reaped,
//! because its parent outside (who entered the namespace, as nsenter(1) does) is suspended. Process 1 waits for both
//! (pid_namespaces(7)).

use std::fmt::{self, Display};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bocker_pipe::{Error, Id, Kind};
use rustix::process::Pid;

use crate::procfs::{self, Stat};

/// proc(5), stat: waiting for the kernel, ended and not reaped, and stopped by a signal or a tracer.
const WAITING: char = 'D';
const ZOMBIE: char = 'Z';
const SUSPENDED: [char; 2] = ['T', 't'];

/// Those that are left in a pid namespace: all but its process 1, and that too while it waits for the kernel.
pub(crate) struct Holders(Vec<Holder>);

struct Holder {
    /// Of the process, or of the thread of it that waits for the kernel.
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
    let all = pids.filter(|pid| self::namespace(*pid) == Some(namespace));
    let holders = all.filter_map(|pid| Some((pid, Holder::of(pid)?)));
    let holders = holders.filter(|(pid, holder)| *pid != process_1 || holder.is_waiting());
    Holders(holders.map(|(_, holder)| holder).collect())
}

/// What tells a process's pid namespace from any other. One that has ended still has it.
fn namespace(pid: i32) -> Option<(u64, u64)> {
    let meta = fs::metadata(Path::new("/proc").join(pid.to_string()).join("ns/pid")).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The threads of a process. The first may have ended before the others.
fn threads(pid: i32) -> impl Iterator<Item = i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let names = threads.into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

impl Holder {
    fn of(pid: i32) -> Option<Holder> {
        let mut all = threads(pid).filter_map(|thread| Some((thread, procfs::stat(thread).ok()?)));
        let waiting = all.find(|(_, stat)| stat.state == WAITING);
        let (pid, stat) = match waiting {
            Some(found) => found,
            None => (pid, procfs::stat(pid).ok()?),
        };
        let parent = (stat.state == ZOMBIE)
            .then(|| procfs::stat(stat.parent).ok())
            .flatten();
        Some(Holder { pid, stat, parent })
    }

    fn is_waiting(&self) -> bool {
        self.stat.state == WAITING
    }

    /// Whether somebody must do something before it can be gone.
    fn is_stuck(&self) -> bool {
        let parent = self.parent.as_ref();
        parent.is_some_and(|parent| SUSPENDED.contains(&parent.state))
    }
}

impl Holders {
    /// Whether they may be gone without anybody's doing.
    pub(crate) fn may_go(&self) -> bool {
        !self.0.iter().any(Holder::is_stuck)
    }

    /// Whether it is known that they go soon: nobody can say how long the kernel will let one wait.
    pub(crate) fn will_go(&self) -> bool {
        self.may_go() && !self.0.iter().any(Holder::is_waiting)
    }

    /// The error of a container that they hold.
    pub(crate) fn error(&self, id: &Id) -> Error {
        let what = format!("{id} was killed and is not gone{self}");
        let waiting = self.0.iter().find(|holder| holder.is_waiting());
        let hint = match waiting {
            Some(Holder { pid, .. }) => format!(
                "the kernel lets it go when it has what it waits for, as a disk or a server: see /proc/{pid}/stack"
            ),
            None => "process 1 goes when all others in its namespace have been reaped".into(),
        };
        Error::new(Kind::InUse, what).hint(hint)
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
        let waiting = || Holder {
            pid: 9,
            stat: stat("dd", 'D'),
            parent: None,
        };
        let all = Holders(vec![zombie('T'), waiting()]);
        assert_eq!(
            all.to_string(),
            ": 8 (sh) is in state Z until 7 (nsenter, state T) reaps it, 9 (dd) is in state D"
        );
        assert!(!all.may_go() && !all.will_go());
        for all in [Holders(vec![zombie('S')]), Holders(vec![])] {
            assert!(all.may_go() && all.will_go());
        }
        let all = Holders(vec![waiting()]);
        assert!(all.may_go() && !all.will_go());
        let error = all.error(&Id::parse("ps_abc123").unwrap());
        assert!(error.to_string().ends_with("see /proc/9/stack"), "{error}");
    }
}
