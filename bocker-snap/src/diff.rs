//! `diff`: what a container has changed in the tree that it began with, as docker has it: added, changed, deleted, and each
//! directory on the way to one of these.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use bocker_pipe::{Call, Error, Kind, Result, containers};
use serde::Serialize;

use crate::compare::{Comparison, Difference};
use crate::container::{self, Folder, Snap};
use crate::cover::Source;
use crate::driver::Driver;
use crate::mount_points::MountPoints;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    kind: Difference,
    path: &'a str,
}

/// `diff CONTAINER`.
pub(crate) fn diff(call: &mut Call) -> Result<()> {
    let name = call.container(None)?;
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no container is named"))?;
    let id = containers::resolve(&name)?;
    let _lock = container::lock(&id)?;
    let folder = Folder::of(&id);
    let snap = folder.snap()?;
    let document = containers::load_if_written(&id)?;
    let comparison = Comparison::of(&folder, &snap)?;
    let mount_points = MountPoints::find(&comparison, &document)?;
    let covered = covered(&snap)?;
    comparison.walk(&mut |found| {
        if covered.contains(found.path) || mount_points.explain(found.path) {
            return Ok(false);
        }
        let path = format!("/{}", String::from_utf8_lossy(found.path));
        let kind = found.kind;
        call.line(&Line { kind, path: &path })?;
        Ok(true)
    })
}

/// What bocker itself hides in a view of a directory is no change of the container's.
fn covered(snap: &Snap) -> Result<HashSet<Vec<u8>>> {
    match (&snap.rootfs, snap.driver) {
        (Some(path), Driver::Overlay) => {
            let source = Source::find(path)?;
            let paths = source.covers.iter().chain(&source.hidden);
            Ok(paths
                .map(|path| path.as_os_str().as_bytes().to_vec())
                .collect())
        }
        _ => Ok(HashSet::new()),
    }
}
