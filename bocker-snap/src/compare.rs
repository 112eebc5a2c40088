//! A container's root, compared with what it began as.
//!
//! With overlayfs that is what the upper directory holds, seen against the directories below it. On btrfs it is found in the
//! filesystem's own tree, as for a commit, at the cost of what was changed; BTRFS_IOC_SEND, which compares too, takes read-only
//! roots only, so that a snapshot would have to be made of the container first, and writes a stream that would have to be
//! read back to learn the names.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{CWD, FileType, OFlags, ResolveFlags, Stat, fstat};
use rustix::io::Errno;
use serde::Serialize;

use crate::btrfs::Changes;
use crate::container::{Folder, Snap};
use crate::driver::Driver;
use crate::pack::{MAX_PATH, Tree, allow_depth, is_opaque, is_whiteout};
use crate::tree::{entries, names, open_below, open_child, open_directory, stat_child};
use crate::{ioctl, overlay};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Difference {
    #[serde(rename = "A")]
    Added,
    #[serde(rename = "C")]
    Changed,
    #[serde(rename = "D")]
    Deleted,
}

/// A path that differs.
pub(crate) struct Found<'a> {
    pub(crate) kind: Difference,
    /// Relative to the root.
    pub(crate) path: &'a [u8],
    /// What is there now.
    pub(crate) stat: Option<Stat>,
    /// What was there.
    pub(crate) former: Option<Stat>,
}

/// Is told of each path that differs, and says whether it wants to be told of those below, too.
type Visit<'a> = dyn FnMut(&Found<'_>) -> Result<bool> + 'a;

/// A tree and what it is compared with.
pub(crate) struct Comparison {
    /// What the container has written, or on btrfs all that it sees.
    top: OwnedFd,
    below: Below,
    /// On btrfs, where to look.
    changes: Option<Changes>,
}

impl Comparison {
    /// Of a container's root as it is now.
    pub(crate) fn of(folder: &Folder, snap: &Snap) -> Result<Comparison> {
        if snap.driver == Driver::Overlay {
            let lower = overlay::lower(folder, snap);
            let lower: Result<_> = lower.iter().map(|path| open_directory(path)).collect();
            return Ok(Comparison {
                top: open_directory(&overlay::upper(folder))?,
                below: Below(lower?),
                changes: None,
            });
        }
        let top = open_directory(&folder.root())?;
        if !snap.layers.is_empty() {
            // What is only in memory yet is not in the tree that is searched.
            ioctl::sync(&top).doing(|| "write the container's root to the disk".into())?;
        }
        Comparison::of_subvolume(top, folder, snap)
    }

    /// Of a container's subvolume as it is on the disk, or of a snapshot of it, with the layers that it is a snapshot of.
    pub(crate) fn of_subvolume(top: OwnedFd, folder: &Folder, snap: &Snap) -> Result<Comparison> {
        let Some(below) = Folder::top(snap) else {
            // An image without layers: the root began as an empty subvolume.
            return Ok(Comparison {
                top,
                below: Below::default(),
                changes: None,
            });
        };
        let below = open_directory(&below)?;
        let find = || {
            let made = ioctl::info(open_child(CWD, folder.root().as_os_str())?)?;
            Changes::find(top.as_fd(), made.made_in, below.as_fd())
        };
        let changes = find().doing(|| "look for what was changed".into())?;
        Ok(Comparison {
            top,
            below: Below(vec![below]),
            changes: Some(changes),
        })
    }

    /// What differs, for a layer of it.
    pub(crate) fn tree(&self) -> Tree<'_> {
        match (&self.changes, self.below.0.first()) {
            (Some(changes), Some(below)) => Tree::Snapshot {
                below: below.as_fd(),
                changes,
            },
            _ => Tree::Whole,
        }
    }

    /// Goes through all that differs, each directory before what is in it.
    pub(crate) fn walk(&self, visit: &mut Visit<'_>) -> Result<()> {
        allow_depth();
        self.directory(self.top.as_fd(), b"", &self.below, false, visit)
    }

    /// Compares a directory with the one below of the same name. With `whole`, what is not in it is gone, too: it has come in the
    /// other's place.
    fn directory(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        below: &Below,
        whole: bool,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let what = || format!("read '/{}'", String::from_utf8_lossy(path));
        let mut found: BTreeMap<Vec<u8>, (Difference, Option<Stat>, Option<Stat>)> =
            BTreeMap::new();
        let looks_at_all = match &self.changes {
            // The upper directory says by marks what is gone.
            None => whole || is_opaque(directory),
            Some(changes) => whole || changes.is_changed(fstat(directory).doing(what)?.st_ino),
        };
        if looks_at_all {
            for name in below.names().doing(what)? {
                let former = below.stat(&name).doing(what)?;
                found.insert(name, (Difference::Deleted, None, former));
            }
        }
        for (name, inode) in entries(directory).doing(what)? {
            let passes = |changes: &Changes| looks_at_all || changes.is_reached(inode);
            if !self.changes.as_ref().is_none_or(passes) {
                continue;
            }
            // A process of the container may have removed it since.
            let Some(stat) = stat_child(directory, &name).doing(what)? else {
                continue;
            };
            let former = below.stat(&name).doing(what)?;
            if is_whiteout(&stat) {
                if former.is_some() {
                    found.insert(name, (Difference::Deleted, None, former));
                }
                continue;
            }
            let Some(former) = former else {
                found.insert(name, (Difference::Added, Some(stat), None));
                continue;
            };
            let kept = match &self.changes {
                None => false,
                Some(changes) => {
                    let same = former.st_ino == stat.st_ino && !whole;
                    same && !changes.is_reached(stat.st_ino)
                }
            };
            match kept {
                true => found.remove(&name),
                false => found.insert(name, (Difference::Changed, Some(stat), Some(former))),
            };
        }
        for (name, (kind, stat, former)) in found {
            let path = match path.is_empty() {
                true => name.clone(),
                false => [path, b"/", &name].concat(),
            };
            if path.len() > MAX_PATH {
                let what = format!("a path of {} bytes is too long", path.len());
                return Err(Error::new(Kind::Invalid, what));
            }
            let goes_on = visit(&Found {
                kind,
                path: &path,
                stat,
                former,
            })?;
            if goes_on && kind != Difference::Deleted {
                self.descend(directory, &name, &path, below, kind, visit)?;
            }
        }
        Ok(())
    }

    fn descend(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        below: &Below,
        kind: Difference,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let what = || format!("read '/{}'", String::from_utf8_lossy(path));
        let Some(directory) = enter(parent, name).doing(what)? else {
            return Ok(());
        };
        let below = match kind {
            Difference::Added => Below::default(),
            _ => below.enter(name).doing(what)?,
        };
        // On btrfs, another inode has come in the former one's place.
        let replaced = || -> rustix::io::Result<bool> {
            let Some(former) = below.0.first() else {
                return Ok(true);
            };
            Ok(fstat(former)?.st_ino != fstat(&directory)?.st_ino)
        };
        let whole = self.changes.is_some() && replaced().doing(what)?;
        self.directory(directory.as_fd(), path, &below, whole, visit)
    }
}

/// A directory of the tree below: as overlayfs has it, one in each layer that has a part in it, topmost first.
#[derive(Default)]
struct Below(Vec<OwnedFd>);

impl Below {
    fn names(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for directory in &self.0 {
            all.extend(names(directory)?);
        }
        let mut there = Vec::new();
        for name in all {
            if self.stat(&name)?.is_some() {
                there.push(name);
            }
        }
        Ok(there)
    }

    /// What has the name.
    fn stat(&self, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
        for directory in &self.0 {
            match stat_child(directory.as_fd(), name)? {
                None => {}
                Some(stat) if is_whiteout(&stat) => return Ok(None),
                found => return Ok(found),
            }
        }
        Ok(None)
    }

    /// The directory of this name; nothing where it is none.
    fn enter(&self, name: &[u8]) -> rustix::io::Result<Below> {
        let mut parts = Vec::new();
        for directory in &self.0 {
            match stat_child(directory.as_fd(), name)? {
                None => continue,
                Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => break,
                Some(_) => {}
            }
            let Some(part) = enter(directory.as_fd(), name)? else {
                break;
            };
            let hides = is_opaque(part.as_fd());
            parts.push(part);
            if hides {
                break;
            }
        }
        Ok(Below(parts))
    }
}

/// Opens a directory by its name. `None` when it is none, is gone, or something else is mounted there.
fn enter(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    match open_below(parent, OsStr::from_bytes(name), OFlags::RDONLY, resolve) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::XDEV) => Ok(None),
        Err(error) => Err(error),
    }
}
