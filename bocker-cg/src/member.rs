//! What bocker-cg writes into the document: `bocker.cg`, `linux.cgroupsPath` and its members of `linux.resources`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bocker_pipe::{Document, Id};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::STAGE;
use crate::controller::{ALL, Controller, RESOURCES};
use crate::hierarchies::Hierarchies;
use crate::request::Request;

const CGROUPS_PATH: &str = "/linux/cgroupsPath";
const LINUX_RESOURCES: &str = "/linux/resources";

/// `bocker.cg`.
#[derive(Debug, Serialize)]
struct Member<'a> {
    /// Of cgroups.
    version: u64,
    /// The group's path below the mount of every hierarchy.
    path: &'a str,
    /// The group's folder by controller; on v2 all are one. In each bocker-spawn lets the container begin.
    paths: BTreeMap<&'static str, PathBuf>,
    /// Where a supervisor of the container is to live: in each of these, if there are any.
    #[serde(skip_serializing_if = "<[PathBuf]>::is_empty")]
    supervisor: &'a [PathBuf],
    /// What was asked for.
    request: &'a Request,
}

/// What is read of a `bocker.cg`, which may be another program's: never a path.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Earlier {
    /// What was asked for.
    pub(crate) request: Request,
}

/// Adds the members.
pub(crate) fn add(
    document: &mut Document,
    id: &Id,
    hierarchies: &Hierarchies,
    supervisor: &[PathBuf],
    request: &Request,
) {
    let (version, path) = (hierarchies.version(), hierarchies.path(id));
    let there: Vec<(Controller, PathBuf)> = ALL
        .into_iter()
        .filter_map(|c| Some((c, hierarchies.of(c)?.to_owned())))
        .collect();
    for (controller, parent) in &there {
        if let Some((name, value)) = controller.resources(version, request, parent) {
            document.set(&format!("{LINUX_RESOURCES}/{name}"), &value);
        }
    }
    document.set(CGROUPS_PATH, &path);
    let member = Member {
        version: version.number(),
        path: &path,
        paths: there
            .into_iter()
            .map(|(c, parent)| (c.name(), parent.join(id)))
            .collect(),
        supervisor,
        request,
    };
    document.set_member(STAGE, &member);
}

/// Removes the members, and the objects around them that became empty.
pub(crate) fn remove(document: &mut Document) {
    document.remove_member(STAGE);
    document.remove(CGROUPS_PATH);
    for name in RESOURCES {
        document.remove(&format!("{LINUX_RESOURCES}/{name}"));
    }
    for pointer in [LINUX_RESOURCES, "/linux"] {
        if document.value(pointer) == Some(&json!({})) {
            document.remove(pointer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies() -> Hierarchies {
        Hierarchies::parse(
            "1 1 0:30 / /cgroup/memory rw - cgroup cgroup rw,memory\n\
             2 1 0:31 / /cgroup/devices rw - cgroup cgroup rw,devices\n",
        )
    }

    #[test]
    fn on_version_2_every_controller_names_the_one_group() {
        let unified = Hierarchies::parse("1 1 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let mut document = Document::new();
        let request = Request {
            devices: Some(crate::request::Devices::All),
            ..Request::default()
        };
        add(&mut document, &Id::placeholder(), &unified, &[], &request);
        let group = "/sys/fs/cgroup/bocker/ps_dryrun";
        let names = ["cpu", "devices", "freezer", "memory", "pids"];
        let paths: BTreeMap<&str, &str> = names.map(|name| (name, group)).into();
        assert_eq!(
            document.value("/bocker/cg").unwrap(),
            &json!({"version": 2, "path": "/bocker/ps_dryrun", "paths": paths,
                "request": {"devices": "all"}})
        );
        assert_eq!(
            document.value("/linux/cgroupsPath").unwrap(),
            "/bocker/ps_dryrun"
        );
    }

    #[test]
    fn what_was_added_is_removed_and_the_rest_stays() {
        let text = br#"{"bocker":{"version":1,"id":"ps_3fa0c1"},
            "linux":{"resources":{"hugepageLimits":[]},"seccomp":{}}}"#;
        let before = Document::parse(text).unwrap();
        let mut document = before.clone();
        let id = document.id().unwrap();
        add(&mut document, &id, &hierarchies(), &[], &Request::default());
        assert_eq!(document.value("/linux/cgroupsPath").unwrap(), "/ps_3fa0c1");
        assert_ne!(document, before);
        remove(&mut document);
        assert_eq!(document, before);
    }

    #[test]
    fn the_member_of_another_program_asks_for_nothing() {
        let text = br#"{"bocker":{"version":1,"cg":{"paths":{"memory":"/x"},"theirs":1}}}"#;
        let document = Document::parse(text).unwrap();
        let earlier: Option<Earlier> = document.member(STAGE).unwrap();
        assert_eq!(earlier.unwrap().request, Request::default());
    }

    #[test]
    fn what_became_empty_goes_too() {
        let before = Document::new();
        let mut document = before.clone();
        let id = Id::placeholder();
        add(&mut document, &id, &hierarchies(), &[], &Request::default());
        remove(&mut document);
        assert_eq!(document, before);
    }
}
