//! `diff`: what a container has changed in the tree that it began with, as docker has it: added, changed, deleted, and each
//! directory on the way to one of these.
//!
//! With overlayfs that is what the upper directory holds, seen against the directories below it. On btrfs it is found in the
//! filesystem's own tree, as for a commit, at the cost of what was changed; BTRFS_IOC_SEND, which compares too, takes read-only
//! roots only, so that a snapshot would have to be made of the container first, and writes a stream that would have to be
//! read back to learn the names.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bocker_pipe::{Call, Doing, Error, Kind, Result, containers};
use rustix::fs::{CWD, FileType, OFlags, ResolveFlags, Stat, fstat};
use rustix::io::Errno;
use serde::Serialize;

use crate::btrfs::Changes;
use crate::container::{Folder, Snap};
use crate::cover::Source;
use crate::driver::Driver;
use crate::pack::{MAX_PATH, allow_depth, is_opaque, is_whiteout};
use crate::tree::{entries, names, open_below, open_child, open_directory, stat_child};
use crate::{container, ioctl, overlay};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Difference {
    #[serde(rename = "A")]
    Added,
    #[serde(rename = "C")]
    Changed,
    #[serde(rename = "D")]
    Deleted,
}

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
    allow_depth();
    let walk = Walk::new(&folder, &snap)?;
    let top = walk.top.try_clone().doing(|| "open the root".into())?;
    walk.directory(top.as_fd(), b"", &walk.below, false, &mut |kind, path| {
        let path = format!("/{}", String::from_utf8_lossy(path));
        call.line(&Line { kind, path: &path })
    })
}

/// A tree and what it is compared with.
struct Walk {
    /// What the container has written, or on btrfs all that it sees.
    top: OwnedFd,
    below: Below,
    /// On btrfs, where to look.
    changes: Option<Changes>,
    /// What bocker itself hides in a view of a directory is no change of the container's.
    hidden: Vec<PathBuf>,
}

impl Walk {
    fn new(folder: &Folder, snap: &Snap) -> Result<Walk> {
        if snap.driver == Driver::Overlay {
            let lower = overlay::lower(folder, snap);
            let lower: Result<_> = lower.iter().map(|path| open_directory(path)).collect();
            let hidden = match &snap.rootfs {
                Some(path) => {
                    let source = Source::find(path)?;
                    source.covers.into_iter().chain(source.hidden).collect()
                }
                None => Vec::new(),
            };
            return Ok(Walk {
                top: open_directory(&overlay::upper(folder))?,
                below: Below(lower?),
                changes: None,
                hidden,
            });
        }
        let top = open_directory(&folder.root())?;
        let mut walk = Walk {
            top,
            below: Below::default(),
            changes: Some(Changes::default()),
            hidden: Vec::new(),
        };
        match Folder::top(snap) {
            // An image without layers: the root began as an empty subvolume.
            None => walk.changes = None,
            Some(below) => {
                let below = open_directory(&below)?;
                // What is only in memory yet is not in the tree that is searched.
                ioctl::sync(&walk.top).doing(|| "write the container's root to the disk".into())?;
                let find = || {
                    let made = ioctl::info(open_child(CWD, folder.root().as_os_str())?)?;
                    Changes::find(walk.top.as_fd(), made.made_in, below.as_fd())
                };
                walk.changes = Some(find().doing(|| "look for what was changed".into())?);
                walk.below = Below(vec![below]);
            }
        }
        Ok(walk)
    }

    /// Compares a directory with the one below of the same name. With `whole`, what is not in it is gone, too: it has come in the
    /// other's place.
    fn directory(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        below: &Below,
        whole: bool,
        each: &mut impl FnMut(Difference, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let what = || format!("read '/{}'", String::from_utf8_lossy(path));
        let mut found: BTreeMap<Vec<u8>, Difference> = BTreeMap::new();
        let looks_at_all = match &self.changes {
            // The upper directory says by marks what is gone.
            None => whole || is_opaque(directory),
            Some(changes) => whole || changes.is_changed(fstat(directory).doing(what)?.st_ino),
        };
        if looks_at_all {
            for name in below.names().doing(what)? {
                found.insert(name, Difference::Deleted);
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
                    found.insert(name, Difference::Deleted);
                }
                continue;
            }
            let Some(former) = former else {
                found.insert(name, Difference::Added);
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
                false => found.insert(name, Difference::Changed),
            };
        }
        for (name, kind) in found {
            let path = match path.is_empty() {
                true => name.clone(),
                false => [path, b"/", &name].concat(),
            };
            if self
                .hidden
                .iter()
                .any(|hidden| hidden.as_os_str().as_bytes() == path)
            {
                continue;
            }
            if path.len() > MAX_PATH {
                let what = format!("a path of {} bytes is too long", path.len());
                return Err(Error::new(Kind::Invalid, what));
            }
            each(kind, &path)?;
            if kind != Difference::Deleted {
                self.descend(directory, &name, &path, below, kind, each)?;
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
        each: &mut impl FnMut(Difference, &[u8]) -> Result<()>,
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
        self.directory(directory.as_fd(), path, &below, whole, each)
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
