//! `delete`: removes the container's groups, having said whether the kernel killed in them for want of memory.

use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bocker_pipe::step::quote;
use bocker_pipe::{Call, Error, Id, Kind, Result, Step, claim, lock, paths};

use crate::STAGE;
use crate::controller::Controller;
use crate::hierarchies::{Hierarchies, Version};
use crate::member::{self, Earlier};
use crate::{freezer, group, memory};

/// How long a container whose supervisor has just closed its pipe may take to be gone altogether.
const ENDING: Duration = Duration::from_millis(500);

/// What the steps work on.
pub(crate) struct Context {
    id: Id,
    hierarchies: Hierarchies,
    /// Until when the kernel may keep the groups: they go one after the other, and wait for the same.
    deadline: Option<Instant>,
}

pub(crate) fn run(call: &mut Call) -> Result<()> {
    let mut force = false;
    let name = call.container(Some(&mut force))?;
    let by_name = name.is_some();
    if let Some(name) = name {
        call.document_of(&name)?;
    }
    let document = call.document()?;
    let nothing_of_ours = !by_name && document.value("/bocker/cg").is_none();
    if nothing_of_ours && document.value("/bocker/id").is_none() {
        return Ok(());
    }
    // One that is no id is said to be none, even where nothing would be removed.
    let id = document.id()?;
    if nothing_of_ours {
        return Ok(());
    }
    // A malformed member still says that there is something to remove; where, follows from the id alone.
    let request = document
        .member::<Earlier>(STAGE)
        .ok()
        .flatten()
        .map(|m| m.request);
    let hierarchies = Hierarchies::read()?;
    let ours = claim::read(&id);
    if let Some(record) = ours.as_ref().filter(|r| r.root != paths::root()) {
        let root = record.root.display();
        return Err(
            Error::new(Kind::InUse, format!("{id} belongs to BOCKER_ROOT={root}"))
                .hint("set BOCKER_ROOT to delete it"),
        );
    }

    let supervised = document.value("/bocker/spawn").is_some();
    let mut kill = force;
    let mut _lock = None;
    if !call.dry_run() {
        // Its supervisor takes the lock, too, before it is gone.
        let has_ended = kill || has_ended(&id, &hierarchies);
        _lock = lock::verbs(&id).ok();
        if !has_ended || lock::is_alive(&id) {
            kill = kill || is_orphaned(&id, &hierarchies, supervised)?;
        }
        say_oom(&id, &hierarchies, request.and_then(|r| r.memory).as_ref());
    }
    let claimed = ours.as_ref().is_some_and(|record| record.by == STAGE);
    // Without a record it may be half released.
    let releases = ours.is_none_or(|record| record.by == STAGE);
    let context = Context {
        id,
        hierarchies: hierarchies.clone(),
        deadline: None,
    };
    let steps = steps(&hierarchies, kill, releases);
    call.delete(context, steps, |document, _| {
        member::remove(document);
        if claimed {
            document.remove_member("id");
        }
        Ok(())
    })
}

/// Waits, not for long, until nothing of a container lives. Whether nothing does.
fn has_ended(id: &Id, hierarchies: &Hierarchies) -> bool {
    let groups = group::all(hierarchies, id);
    let deadline = Instant::now() + ENDING;
    loop {
        if group::are_empty(&groups) && !lock::is_alive(id) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        group::wait(&groups, deadline);
    }
}

/// Whether processes are left of a container that has lost its supervisor. Fails with [`Kind::InUse`] while it has one,
/// and when there are processes in a group that never had one: somebody else put them there.
fn is_orphaned(id: &Id, hierarchies: &Hierarchies, supervised: bool) -> Result<bool> {
    let groups = group::all(hierarchies, id);
    let alive = lock::is_alive(id);
    if group::are_empty(&groups) && !alive {
        return Ok(false);
    }
    if supervised && !alive {
        say_orphaned(id);
        return Ok(true);
    }
    let message = match group::processes(&groups).len() {
        0 => format!("{id} is being started or stopped"),
        1 => format!("{id} is running: 1 process is in its cgroup"),
        left => format!("{id} is running: {left} processes are in its cgroup"),
    };
    Err(Error::new(Kind::InUse, message).hint("stop it first, or kill it with --force"))
}

/// Says on stderr that a container without its supervisor is killed.
pub(crate) fn say_orphaned(id: &Id) {
    // If stderr is gone, nobody wants to know.
    let _ = writeln!(
        std::io::stderr(),
        "bocker-cg: {id} had lost its supervisor: what was left of it is killed"
    );
}

/// Says on stderr when the kernel killed in the container, and which limit it had hit.
fn say_oom(id: &Id, hierarchies: &Hierarchies, request: Option<&crate::request::Memory>) {
    let Some(parent) = hierarchies.of(Controller::Memory) else {
        return;
    };
    let kills = memory::oom_kills(&parent.join(id));
    if kills > 0 {
        let message = memory::oom_message(id.as_str(), kills, request);
        // If stderr is gone, nobody wants to know.
        let _ = writeln!(std::io::stderr(), "bocker-cg: {message}");
    }
}

/// The steps that remove an id's groups; with `kill`, whatever is in them first; with `releases`, its claim last.
fn steps(hierarchies: &Hierarchies, kill: bool, releases: bool) -> Vec<Step<Context>> {
    let mut steps = Vec::new();
    if kill {
        steps.push(kill_step());
    }
    for hierarchy in hierarchies.iter() {
        let Some(name) = group_step(hierarchies.version(), &hierarchy.controllers) else {
            continue;
        };
        let parent: Rc<Path> = hierarchy.parent.as_path().into();
        let (shown, looked) = (parent.clone(), parent.clone());
        steps.push(
            Step::new(name, "a group goes with its container")
                .command(move |c: &Context| vec![format!("rmdir {}", quoted(&shown, &c.id))])
                .look(move |c| format!("ls -d {}", quoted(&looked, &c.id)))
                .apply(move |c| {
                    let deadline = c.deadline.get_or_insert_with(group::removed_by);
                    group::remove_by(&parent.join(&c.id), *deadline)
                }),
        );
    }
    if releases {
        steps.push(
            Step::new("cg.claim", "the id is free again")
                .command(|c: &Context| vec![format!("rm -r /run/bocker/{}", c.id)])
                .apply(|c| claim::release_own(&c.id, STAGE))
                .last(),
        );
    }
    steps
}

/// The step that made a hierarchy's group: on v1 that of its first controller.
fn group_step(version: Version, controllers: &[Controller]) -> Option<&'static str> {
    match version {
        Version::V1 => controllers.first().map(|controller| controller.step()),
        Version::V2 => Some("cg.group"),
    }
}

fn kill_step() -> Step<Context> {
    Step::new("cg.kill", "nothing may outlive its limits")
        .command(|c: &Context| {
            let Some(parent) = c.hierarchies.of(Controller::Freezer) else {
                return vec!["# kill -9 every process in its groups".into()];
            };
            let group = quoted(parent, &c.id);
            let (state, procs, kill) = (freezer::STATE, group::PROCS, group::KILL);
            match c.hierarchies.version() {
                Version::V1 => vec![
                    format!("echo FROZEN > {group}/{state}"),
                    format!("xargs -r kill -9 < {group}/{procs}"),
                    format!("echo THAWED > {group}/{state}"),
                ],
                Version::V2 => vec![format!("echo 1 > {group}/{kill}")],
            }
        })
        .look(|c| format!("bocker-cg list | grep {}", c.id))
        .apply(|c| {
            group::kill_all(&c.hierarchies, &c.id).inspect_err(|_| {
                // It has been waited for long enough.
                c.deadline = Some(Instant::now());
            })
        })
}

fn quoted(parent: &Path, id: &Id) -> String {
    quote(&parent.join(id).display().to_string())
}

/// Removes an id's groups outside a pipeline, for `gc`.
pub(crate) fn sweep(
    call: &Call,
    id: &Id,
    hierarchies: &Hierarchies,
    kill: bool,
    releases: bool,
) -> Result<()> {
    let mut context = Context {
        id: id.clone(),
        hierarchies: hierarchies.clone(),
        deadline: None,
    };
    let steps = steps(hierarchies, kill, releases);
    call.engine().tear_down(&mut context, steps)
}
