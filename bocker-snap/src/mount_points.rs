//! What a runtime has made in a container's root only to mount something on it: `/dev`, `/etc/hosts`, the places of volumes. It is
//! no change of the container's, who sees the mounts and never these, and belongs neither into a list of its changes nor into
//! an image of them (docker makes them in a layer of their own, below the container's).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bocker_pipe::document::Mount;
use bocker_pipe::{Document, Doing, Result};
use rustix::fs::{FileType, OFlags, ResolveFlags, Stat, fstat, futimens};

use crate::compare::{Comparison, Difference};
use crate::tree::{open_below, open_directory, remove_all, times};

/// The mount points of a container that its image does not have.
#[derive(Debug, Default)]
pub(crate) struct MountPoints {
    /// They, and directories that were made to hold them, by their paths relative to the root.
    made: HashSet<Vec<u8>>,
    /// Directories of the image in which nothing was changed but that one of these was made.
    changed: HashSet<Vec<u8>>,
}

/// What is known of a path that differs.
struct Entry {
    kind: Difference,
    stat: Option<Stat>,
    former: Option<Stat>,
}

impl MountPoints {
    /// Finds those of the document's mounts. Where a symbolic link of the image leads elsewhere, what was made there counts as the
    /// container's.
    pub(crate) fn find(comparison: &Comparison, document: &Document) -> Result<MountPoints> {
        let mounts: Vec<Mount> = document.get("/mounts")?.unwrap_or_default();
        let targets = mounts.iter().map(|mount| normal(&mount.destination));
        let targets: BTreeSet<Vec<u8>> = targets.filter(|path| !path.is_empty()).collect();
        let above: BTreeSet<&[u8]> = targets.iter().flat_map(|path| ancestors(path)).collect();
        let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        // Directories in which something else differs.
        let mut others: HashSet<Vec<u8>> = HashSet::new();
        comparison.walk(&mut |found| {
            let path = found.path;
            let concerns = targets.contains(path) || above.contains(path);
            if concerns {
                let entry = Entry {
                    kind: found.kind,
                    stat: found.stat,
                    former: found.former,
                };
                entries.insert(path.to_vec(), entry);
            } else if !others.contains(parent(path)) {
                others.insert(parent(path).to_vec());
            }
            Ok(concerns)
        })?;
        let mut points = MountPoints::default();
        // What lies in a directory comes before it.
        for (path, entry) in entries.iter().rev() {
            let below = entries.keys().filter(|other| parent(other) == path);
            let is_explained = below.into_iter().all(|other| points.explain(other));
            if is_explained && !others.contains(path) {
                points.note(path, entry, targets.contains(path));
            }
        }
        Ok(points)
    }

    fn note(&mut self, path: &[u8], entry: &Entry, is_target: bool) {
        match (entry.kind, entry.stat, entry.former) {
            (Difference::Added, Some(stat), _) => {
                let is_empty_file = is(&stat, FileType::RegularFile) && stat.st_size == 0;
                if is(&stat, FileType::Directory) || (is_target && is_empty_file) {
                    self.made.insert(path.to_vec());
                }
            }
            (Difference::Changed, Some(stat), Some(former)) => {
                let rights = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
                let mut ours = self.made.iter().chain(&self.changed);
                let holds_made = ours.any(|other| parent(other) == path);
                if holds_made && rights(&stat) == rights(&former) {
                    self.changed.insert(path.to_vec());
                }
            }
            _ => {}
        }
    }

    /// Whether that a path differs says nothing but that there are mount points.
    pub(crate) fn explain(&self, path: &[u8]) -> bool {
        self.made.contains(path) || self.changed.contains(path)
    }

    /// What would not be there without them, a directory with all that is in it.
    pub(crate) fn made(&self) -> &HashSet<Vec<u8>> {
        &self.made
    }

    /// Removes that from a copy of the root. Other directories keep their times.
    pub(crate) fn remove_from(&self, root: &Path) -> Result<()> {
        let root = open_directory(root)?;
        let top = self
            .made
            .iter()
            .filter(|path| !self.made.contains(parent(path)));
        for path in top {
            let remove = || {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
                let above = [b"./", parent(path)].concat();
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let above = open_below(&root, OsStr::from_bytes(&above), OFlags::RDONLY, resolve)?;
                let stat = fstat(&above)?;
                remove_all(above.as_fd(), OsStr::from_bytes(name))?;
                futimens(&above, &times(&stat))
            };
            remove().doing(|| format!("leave out {}", String::from_utf8_lossy(path)))?;
        }
        Ok(())
    }
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// A path as it is written of what was found: relative to the root, without what says nothing.
fn normal(path: &str) -> Vec<u8> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/").into_bytes()
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/');
    &path[..end.unwrap_or(0)]
}

/// The directories above, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let above = std::iter::successors(Some(parent(path)), |path| Some(parent(path)));
    above.take_while(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_they_are_found() {
        assert_eq!(normal("//etc/./hosts/"), b"etc/hosts");
        assert_eq!(normal("/"), b"");
        let above: Vec<&[u8]> = ancestors(b"a/b/c").collect();
        assert_eq!(above, [&b"a/b"[..], b"a"]);
        assert_eq!(ancestors(b"a").count(), 0);
    }
}
