//! A container that was handed to this tool: its document, and what the kernel says of it now.

use std::os::fd::{AsFd, OwnedFd};

use bocker_pipe::part::Parts;
use bocker_pipe::state::State;
use bocker_pipe::{Document, Doing, Error, Id, Kind, Result, claim, containers};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroups::Present;
use crate::plan::Cgroups;
use crate::record::SpawnMember;
use crate::{cgroups, procfs, sys};

/// A container and the name by which it was asked for.
pub(crate) struct Container {
    pub(crate) id: Id,
    /// As the user wrote it, for what is said to the user.
    pub(crate) name: String,
    pub(crate) document: Document,
    pub(crate) member: SpawnMember,
    pub(crate) cgroups: Cgroups,
}

impl Container {
    /// The container that an id, a name or a prefix means.
    pub(crate) fn find(name: &str) -> Result<Container> {
        Container::load(containers::resolve(name)?, name)
    }

    /// Of an id.
    pub(crate) fn load(id: Id, name: &str) -> Result<Container> {
        let document = containers::load(&id)?;
        Container::new(id, name, document)
    }

    /// Of an id, with some parts of its document.
    pub(crate) fn load_parts(id: Id, parts: &Parts) -> Result<Container> {
        let document = containers::load_parts(&id, parts)?;
        let name = id.to_string();
        Container::new(id, &name, document)
    }

    /// Of an id whose document cannot be read: nothing is known of it.
    pub(crate) fn unread(id: Id, name: &str) -> Result<Container> {
        Container::new(id, name, Document::new())
    }

    fn new(id: Id, name: &str, document: Document) -> Result<Container> {
        Ok(Container {
            name: name.to_owned(),
            member: document.member("spawn")?.unwrap_or_default(),
            cgroups: Cgroups::of(&document)?,
            document,
            id,
        })
    }

    /// Asked of the kernel.
    pub(crate) fn state(&self) -> State {
        self.state_if(|| cgroups::are_populated(&self.cgroups))
    }

    /// The same of one of many, whose groups are looked for together.
    pub(crate) fn state_among(&self, present: &Present) -> State {
        self.state_if(|| present.has_any(&self.cgroups) && cgroups::are_populated(&self.cgroups))
    }

    fn state_if(&self, are_populated: impl Fn() -> bool) -> State {
        State::of_document(
            &self.id,
            &self.document,
            // Without any group, process 1 alone is asked for.
            || are_populated() || self.process().is_ok_and(|found| found.is_some()),
            || cgroups::are_frozen(&self.cgroups),
        )
    }

    /// What it is now, with a document no older than that, and how it ended even where nobody has recorded it.
    pub(crate) fn observe(self) -> Result<(Container, State)> {
        let state = self.state();
        self.observed(state)
    }

    /// The same of one that was found in this state.
    pub(crate) fn observed(self, state: State) -> Result<(Container, State)> {
        if state != State::Exited || self.document.value("/bocker/exit").is_some() {
            return Ok((self, state));
        }
        // The end is recorded before the supervisor's lock is free.
        let mut container = Container::load(self.id, &self.name)?;
        if !container.is_recorded() {
            let exit = container.unrecorded_exit(state);
            container.document.set_member("exit", &exit);
        }
        Ok((container, state))
    }

    /// Process 1, by a descriptor that names it for good. A number alone is never believed: its start time and the boot
    /// must be those that were recorded.
    pub(crate) fn process(&self) -> Result<Option<(Pid, OwnedFd)>> {
        let member = &self.member;
        let (Some(pid), Some(start_time), Some(boot_id)) = (
            member.pid.and_then(Pid::from_raw),
            member.start_time,
            &member.boot_id,
        ) else {
            return Ok(None);
        };
        if *boot_id != claim::boot_id()? {
            return Ok(None);
        }
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(None);
        };
        // After opening: whoever has the number and the start time now is who the descriptor names.
        let is_same =
            procfs::start_time(pid.as_raw_nonzero().get()).is_ok_and(|time| time == start_time);
        let lives = is_same && !has_ended(&pidfd)?;
        Ok(lives.then_some((pid, pidfd)))
    }

    /// The original's words, for everything that needs a running container.
    pub(crate) fn not_running(&self) -> Error {
        Error::new(
            Kind::NotFound,
            format!("Container '{}' exists but is not running", self.name),
        )
    }

    /// Whether somebody can be let in: fails when it has no process, or one that stands still.
    pub(crate) fn must_run(&self) -> Result<()> {
        let name = &self.name;
        let (what, hint) = match self.state() {
            State::Running => return Ok(()),
            State::Restarting => (
                "is between two runs",
                "the next begins within a minute".into(),
            ),
            State::Paused => (
                "is paused",
                format!("'bocker unpause {name}' lets it go on"),
            ),
            _ => return Err(self.not_running()),
        };
        Err(Error::new(Kind::InUse, format!("Container '{name}' {what}")).hint(hint))
    }

    /// Kills everything in it, be it paused. Without cgroups process 1, with which its pid namespace goes.
    pub(crate) fn kill_all(&self) -> Result<()> {
        if let Some((_, pidfd)) = self.process()? {
            // It may just have ended.
            let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        if cgroups::kill_at_once(&self.cgroups) {
            return Ok(());
        }
        for number in cgroups::processes(&self.cgroups) {
            let Some(pid) = Pid::from_raw(number) else {
                continue;
            };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Asked again after opening: the number may be another's by now.
            if cgroups::processes(&self.cgroups).contains(&number) {
                let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
        cgroups::thaw(&self.cgroups);
        Ok(())
    }
}

/// A pidfd is readable once its process has ended, reaped or not (pidfd_open(2)).
pub(crate) fn has_ended(pidfd: &OwnedFd) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now))
        .doing(|| "ask whether a process lives".into())?;
    Ok(ready > 0)
}
