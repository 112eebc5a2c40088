//! The tree of cgroup v2: the group that holds those of all containers, and the controllers that are handed down to it.
//! Kernel documentation: admin-guide/cgroup-v2, "Controlling Controllers" and "No Internal Process Constraint".

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use bocker_pipe::step::quote;
use bocker_pipe::{Call, Doing, Error, Id, Kind, Result, Step, id};
use nix::errno::Errno;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::controller::Controller;
use crate::hierarchies::{Hierarchies, Hierarchy, Version};
use crate::{group, list, supervisors};

/// The group beneath the root in which those of containers are. It is made at first need, and stays.
pub(crate) const PARENT: &str = "bocker";

/// In every group: the controllers that it may hand down, and those that it does.
const CONTROLLERS: &str = "cgroup.controllers";
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
/// Of [`PARENT`]: the controllers that the root handed down to nobody before us, for `reset`. It goes with the group.
const ENABLED: &str = "user.bocker.enabled";
/// More than the names of all controllers that there are.
const ENABLED_MAX: usize = 256;

/// Those of ours that a group has to be handed down.
const HANDED_DOWN: [Controller; 3] = [Controller::Cpu, Controller::Memory, Controller::Pids];

/// The names of the controllers that the root of the tree has.
pub(crate) fn available(mount: &Path) -> Result<String> {
    read(&mount.join(CONTROLLERS))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).doing(|| format!("read {}", path.display()))
}

/// The error for a controller that an option asked for and the tree does not have.
pub(crate) fn not_available(option: &str, name: &str, hierarchies: &Hierarchies) -> Error {
    let mount = hierarchies.iter().next().map(|h| h.mount.join(CONTROLLERS));
    let file = mount.unwrap_or_default().display().to_string();
    Error::new(
        Kind::Unsupported,
        format!("{option} needs the {name} controller, which {file} does not have"),
    )
    .hint(format!(
        "the kernel has it disabled (cgroup_disable=), cgroup v1 has it mounted, \
         or the group above does not hand it down; or leave {option} out"
    ))
}

/// The controllers of ours that `group` can hand down.
fn possible(group: &Path) -> Result<Vec<&'static str>> {
    let available = available(group)?;
    let names = HANDED_DOWN.into_iter().map(Controller::name);
    Ok(names.filter(|name| is_listed(&available, name)).collect())
}

/// Those of them that it does not hand down yet.
fn missing(group: &Path) -> Result<Vec<&'static str>> {
    let enabled = read(&group.join(SUBTREE_CONTROL))?;
    let mut names = possible(group)?;
    names.retain(|name| !is_listed(&enabled, name));
    Ok(names)
}

fn is_listed(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|word| word == name)
}

/// Hands controllers down from a group to those beneath it, or with `-` no longer.
fn hand_down(group: &Path, sign: char, names: &[&str]) -> Result<()> {
    let file = group.join(SUBTREE_CONTROL);
    let words = signed(sign, names);
    let result = OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut file| file.write_all(words.as_bytes()))
        .doing(|| format!("write {words} to {}", file.display()));
    result.map_err(|error| {
        if !error.is(Errno::EBUSY) {
            return error;
        }
        let group = group.display();
        // Only the root of the machine's tree is free of this rule; that of a container or a delegated tree is not.
        error.hint(format!(
            "processes are in {group} itself, and only a group without any hands controllers down: \
             mkdir {group}/init, and write each of {group}/{} to {group}/init/{}",
            group::PROCS,
            group::PROCS
        ))
    })
}

fn signed(sign: char, names: &[&str]) -> String {
    let words: Vec<String> = names.iter().map(|name| format!("{sign}{name}")).collect();
    words.join(" ")
}

/// The names recorded at the parent group.
fn recorded(parent: &Path) -> Vec<String> {
    let mut buffer = [0; ENABLED_MAX];
    let length = getxattr(parent, ENABLED, &mut buffer).unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..length]);
    text.split_whitespace().map(str::to_owned).collect()
}

/// What the step does, looked up beforehand, so that it can be shown.
#[derive(Debug, Clone)]
struct Plan {
    mount: PathBuf,
    parent: PathBuf,
    makes: bool,
    at_root: Vec<&'static str>,
    at_parent: Vec<&'static str>,
}

impl Plan {
    fn of(hierarchy: &Hierarchy) -> Result<Plan> {
        let (mount, parent) = (hierarchy.mount.clone(), hierarchy.parent.clone());
        let makes = !parent.exists();
        let at_root = missing(&mount)?;
        let at_parent = if makes {
            possible(&mount)?
        } else {
            let handed_down = at_root.iter().copied();
            missing(&parent)?.into_iter().chain(handed_down).collect()
        };
        Ok(Plan {
            mount,
            parent,
            makes,
            at_root,
            at_parent,
        })
    }

    fn is_empty(&self) -> bool {
        !self.makes && self.at_root.is_empty() && self.at_parent.is_empty()
    }

    fn commands(&self) -> Vec<String> {
        let quoted = |path: &Path| quote(&path.display().to_string());
        let enable = |group: &Path, names: &[&str]| {
            let file = quoted(&group.join(SUBTREE_CONTROL));
            format!("echo {} > {file}", quote(&signed('+', names)))
        };
        let parent = quoted(&self.parent);
        let mut lines = Vec::new();
        if self.makes {
            lines.push(format!("mkdir -p {parent}"));
        }
        if !self.at_root.is_empty() {
            let names = self.at_root.join(" ");
            lines.push(format!(
                "setfattr -n {ENABLED} -v {} {parent}",
                quote(&names)
            ));
            lines.push(enable(&self.mount, &self.at_root));
        }
        if !self.at_parent.is_empty() {
            lines.push(enable(&self.parent, &self.at_parent));
        }
        lines
    }

    /// Each of it may have been done by another meanwhile.
    fn apply(&self) -> Result<()> {
        match fs::create_dir(&self.parent) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).doing(|| format!("make {}", self.parent.display()));
            }
            _ => {}
        }
        if !self.at_root.is_empty() {
            // Written down first: what is not known to be ours stays for ever.
            let mut names = recorded(&self.parent);
            names.extend(self.at_root.iter().map(|name| (*name).to_owned()));
            names.sort_unstable();
            names.dedup();
            setxattr(
                &self.parent,
                ENABLED,
                names.join(" ").as_bytes(),
                XattrFlags::empty(),
            )
            .doing(|| format!("note at {} what is enabled", self.parent.display()))?;
            hand_down(&self.mount, '+', &self.at_root)?;
        }
        if !self.at_parent.is_empty() {
            hand_down(&self.parent, '+', &self.at_parent)?;
        }
        Ok(())
    }
}

/// The step that makes the parent group and hands the controllers down to it; none when all is as it should be, and on v1.
pub(crate) fn parent_step<C>(hierarchies: &Hierarchies) -> Result<Option<Step<C>>> {
    let unified = hierarchies.iter().next();
    let Some(hierarchy) = unified.filter(|_| hierarchies.version() == Version::V2) else {
        return Ok(None);
    };
    let plan = Plan::of(hierarchy)?;
    if plan.is_empty() {
        return Ok(None);
    }
    let (shown, looked) = (plan.clone(), plan.parent.join(SUBTREE_CONTROL));
    Ok(Some(
        Step::new(
            "cg.parent",
            "a group for all containers' groups, with the controllers that they need",
        )
        .command(move |_| shown.commands())
        .look(move |_| format!("cat {}", quote(&looked.display().to_string())))
        .apply(move |_| plan.apply()),
    ))
}

/// `setup`: makes what all share, so that the first container finds it.
pub(crate) fn setup(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let hierarchies = Hierarchies::read()?;
    let parent = parent_step(&hierarchies)?.into_iter();
    let steps = parent.chain(supervisors::step(&hierarchies)).collect();
    call.engine().set_up(&mut (), steps, &mut Vec::new())
}

/// `reset`: removes the groups that all share, and hands down from the root what was handed down before us.
pub(crate) fn reset(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let hierarchies = Hierarchies::read()?;
    let unified = hierarchies
        .iter()
        .find(|h| h.parent != h.mount && h.parent.exists());
    let steps = supervisors::reset_step(&hierarchies).into_iter();
    let parent = unified.map(|h| reset_step(h.mount.clone(), h.parent.clone()));
    let steps: Vec<Step<()>> = steps.chain(parent).collect();
    let users: Vec<Id> = list::ids(&hierarchies).into_iter().collect();
    if !steps.is_empty() && !users.is_empty() {
        let users = id::named(&users);
        let message = format!("what all containers share is in use by {users}");
        return Err(Error::new(Kind::InUse, message).hint(
            "remove those containers with 'bocker rm', what is left over with 'bocker-cg gc'",
        ));
    }
    call.engine().tear_down(&mut (), steps)
}

fn reset_step(mount: PathBuf, parent: PathBuf) -> Step<()> {
    let names = recorded(&parent);
    let (shown, shown_names) = ((mount.clone(), parent.clone()), names.clone());
    Step::new(
        "cg.parent",
        "the group of all containers goes, and what was enabled for it",
    )
    .command(move |()| {
        let quoted = |path: &Path| quote(&path.display().to_string());
        let mut lines = vec![format!("rmdir {}", quoted(&shown.1))];
        for name in &shown_names {
            lines.push(format!(
                "echo -{name} > {}",
                quoted(&shown.0.join(SUBTREE_CONTROL))
            ));
        }
        lines
    })
    .apply(move |()| {
        group::remove(&parent)?;
        for name in &names {
            match hand_down(&mount, '-', &[name]) {
                // Somebody else has begun to use it meanwhile.
                Err(error) if error.is(Errno::EBUSY) => {}
                result => result?,
            }
        }
        Ok(())
    })
}

/// The parent group as `info` shows it: where it is, and which controllers were enabled for it.
pub(crate) fn shared(hierarchies: &Hierarchies) -> Option<(PathBuf, Vec<String>)> {
    let mut unified = hierarchies.iter().filter(|h| h.parent != h.mount);
    let parent = unified.next()?.parent.clone();
    parent.exists().then(|| (parent.clone(), recorded(&parent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(controllers: &str, enabled: &str) -> (tempfile::TempDir, Hierarchies) {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join(CONTROLLERS), controllers).unwrap();
        fs::write(top.path().join(SUBTREE_CONTROL), enabled).unwrap();
        let line = format!(
            "3 1 0:30 / {} rw - cgroup2 cgroup2 rw\n",
            top.path().display()
        );
        (top, Hierarchies::parse(&line))
    }

    fn plan(hierarchies: &Hierarchies) -> Plan {
        Plan::of(hierarchies.iter().next().unwrap()).unwrap()
    }

    #[test]
    fn only_what_is_missing_is_enabled_from_the_root_down() {
        let (top, hierarchies) = tree("cpuset cpu io memory pids\n", "memory pids\n");
        let root = top.path().display();
        let parent = top.path().join(PARENT);
        assert_eq!(
            plan(&hierarchies).commands(),
            [
                format!("mkdir -p {root}/bocker"),
                format!("setfattr -n user.bocker.enabled -v cpu {root}/bocker"),
                format!("echo +cpu > {root}/cgroup.subtree_control"),
                format!("echo '+cpu +memory +pids' > {root}/bocker/cgroup.subtree_control"),
            ]
        );
        fs::create_dir(&parent).unwrap();
        fs::write(parent.join(CONTROLLERS), "memory pids\n").unwrap();
        fs::write(parent.join(SUBTREE_CONTROL), "memory\n").unwrap();
        assert_eq!(plan(&hierarchies).at_parent, ["pids", "cpu"]);
        fs::write(top.path().join(SUBTREE_CONTROL), "cpu memory pids\n").unwrap();
        for file in [CONTROLLERS, SUBTREE_CONTROL] {
            fs::write(parent.join(file), "cpu memory pids\n").unwrap();
        }
        assert!(plan(&hierarchies).is_empty());
    }

    #[test]
    fn what_the_root_lacks_is_not_asked_of_it() {
        let (_top, hierarchies) = tree("hugetlb pids\n", "");
        let plan = plan(&hierarchies);
        assert_eq!((plan.at_root, plan.at_parent), (vec!["pids"], vec!["pids"]));
    }
}
