//! Where the supervisors of detached containers live: a group in every hierarchy that is mounted, with a controller of ours or
//! not, so that they are outside of the groups of whoever has started them. A systemd unit that runs `bocker run -d` may end, and
//! what systemd kills then is what is left in the unit's group. All share these groups; they are made at first need, and stay.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Result, Step};

use crate::controller::Setting;
use crate::group;
use crate::hierarchies::Hierarchies;

/// On v2, beside the groups of containers.
pub(crate) const BESIDE: &str = "supervisors";
/// In a hierarchy that has no group for all of ours.
pub(crate) const ALONE: &str = "bocker-supervisors";
/// cgroup-v1/cpusets: a new group has none of either, and takes no process until it has.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The settings that a group lacks, as that above it has them. On v2, where nothing set is all that there is above, none.
fn lacking(group: &Path) -> Vec<Setting> {
    let read = |group: &Path, file| {
        let text = fs::read_to_string(group.join(file)).ok()?;
        Some(text.trim().to_owned())
    };
    let lacks = |file| match group.is_dir() {
        true => read(group, file).is_some_and(|value| value.is_empty()),
        false => true,
    };
    let above = group.parent().unwrap_or(group);
    let setting = |file| {
        let value = read(above, file).filter(|value| !value.is_empty())?;
        lacks(file).then(|| Setting::new(file, value))
    };
    CPUSET.into_iter().filter_map(setting).collect()
}

/// The step that makes those that are missing; none when all are there.
pub(crate) fn step<C>(hierarchies: &Hierarchies) -> Option<Step<C>> {
    let missing: Vec<PathBuf> = hierarchies
        .supervisors()
        .into_iter()
        .filter(|group| !group.is_dir() || !lacking(group).is_empty())
        .collect();
    let looked = missing.first()?.clone();
    let shown = missing.clone();
    Some(
        Step::new(
            "cg.supervisors",
            "a place for supervisors, so that they outlive the group of whoever starts them",
        )
        .command(move |_| shown.iter().flat_map(|group| commands(group)).collect())
        .look(move |_| {
            format!(
                "cat {}",
                quote(&looked.join(group::PROCS).display().to_string())
            )
        })
        .apply(move |_| missing.iter().try_for_each(|group| make(group))),
    )
}

fn commands(group: &Path) -> Vec<String> {
    let settings = lacking(group).into_iter();
    let mkdir = format!("mkdir -p {}", quote(&group.display().to_string()));
    let settings = settings.map(|setting| setting.command(group));
    std::iter::once(mkdir).chain(settings).collect()
}

/// Another may do the same meanwhile.
fn make(group: &Path) -> Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).doing(|| format!("make {}", group.display()));
        }
        _ => {}
    }
    group::set(group, &lacking(group))
}

/// Those that there are.
pub(crate) fn present(hierarchies: &Hierarchies) -> Vec<PathBuf> {
    let mut groups = hierarchies.supervisors();
    groups.retain(|group| group.is_dir());
    groups
}

/// The step that removes them.
pub(crate) fn reset_step(hierarchies: &Hierarchies) -> Option<Step<()>> {
    let groups = present(hierarchies);
    let shown = groups.clone();
    (!groups.is_empty()).then(|| {
        Step::new("cg.supervisors", "no supervisor is left to live there")
            .command(move |()| {
                let rmdir =
                    |group: &PathBuf| format!("rmdir {}", quote(&group.display().to_string()));
                shown.iter().map(rmdir).collect()
            })
            .apply(move |()| groups.iter().try_for_each(|group| group::remove(group)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_group_has_the_processors_of_that_above_it_and_keeps_its_own() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join(CPUSET[0]), "0-3\n").unwrap();
        fs::write(top.path().join(CPUSET[1]), "0\n").unwrap();
        let group = top.path().join(ALONE);
        make_as_the_kernel_does(&group);
        assert_eq!(lacking(&group).len(), 2);
        group::set(&group, &lacking(&group)).unwrap();
        assert_eq!(fs::read_to_string(group.join(CPUSET[0])).unwrap(), "0-3");
        assert!(lacking(&group).is_empty());
        let plain = tempfile::tempdir().unwrap();
        assert!(lacking(&plain.path().join(ALONE)).is_empty());
    }

    fn make_as_the_kernel_does(group: &Path) {
        fs::create_dir(group).unwrap();
        for file in CPUSET {
            fs::write(group.join(file), "\n").unwrap();
        }
    }
}
