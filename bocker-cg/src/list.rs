//! `list` and `info`: the groups of containers, and the controllers of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use bocker_pipe::{Call, Id, Result, claim};
use serde_json::json;

use crate::controller::{ALL, Controller};
use crate::hierarchies::Hierarchies;
use crate::{freezer, group, memory, supervisors, unified};

pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let hierarchies = Hierarchies::read()?;
    for id in ids(&hierarchies) {
        let groups = group::all(&hierarchies, &id);
        call.line(&json!({
            "id": id,
            "root": claim::read(&id).map(|record| record.root),
            "paths": paths(&hierarchies, &id),
            "processes": group::processes(&groups).len(),
            "frozen": is_frozen(&hierarchies, &id),
            "oom_kills": hierarchies.of(Controller::Memory).map(|m| memory::oom_kills(&m.join(&id))),
        }))?;
    }
    Ok(())
}

pub(crate) fn info(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let hierarchies = Hierarchies::read()?;
    let mounts: BTreeMap<&str, _> = ALL
        .into_iter()
        .filter_map(|c| Some((c.name(), hierarchies.mount_of(c)?)))
        .collect();
    let version = hierarchies.version();
    let memory = hierarchies.of(Controller::Memory);
    let mut info = json!({
        "version": version.number(),
        "controllers": mounts,
        "swap": memory.is_some_and(|parent| memory::counts_swap(version, parent)),
    });
    if let Some((group, enabled)) = unified::shared(&hierarchies) {
        info["shared"] = json!({"group": group, "enabled": enabled});
    }
    let supervisors = supervisors::present(&hierarchies);
    if !supervisors.is_empty() {
        info["supervisors"] = json!(supervisors);
    }
    call.line(&info)
}

/// All ids that have a group in any hierarchy.
pub(crate) fn ids(hierarchies: &Hierarchies) -> BTreeSet<Id> {
    hierarchies
        .iter()
        .filter_map(|h| fs::read_dir(&h.parent).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| Id::parse(entry.file_name().to_str()?).ok())
        .filter(Id::is_container)
        .collect()
}

/// The id's groups that are there, by controller.
pub(crate) fn paths(hierarchies: &Hierarchies, id: &Id) -> BTreeMap<&'static str, PathBuf> {
    ALL.into_iter()
        .filter_map(|c| Some((c.name(), hierarchies.of(c)?.join(id))))
        .filter(|(_, group)| group.is_dir())
        .collect()
}

pub(crate) fn is_frozen(hierarchies: &Hierarchies, id: &Id) -> bool {
    hierarchies
        .of(Controller::Freezer)
        .is_some_and(|parent| freezer::is_frozen(hierarchies.version(), &parent.join(id)))
}
