//! What files take on the disk, in parts each of which is freed as a whole when the last that holds it goes: so that what is shared can
//! be told from what is not, and sums agree with what removing returns.
//!
//! A tree on its own is one part: the blocks of its inodes, each counted once (st_blocks). Subvolumes of btrfs share extents with their
//! snapshots and with what was reflinked; what they reach is read from their trees (BTRFS_IOC_TREE_SEARCH_V2), where an extent is known by
//! where it begins on the disk and freed with the last reference to any piece of it. Of the trees themselves the items are
//! counted, and not what is free in their nodes: a leaf that two snapshots share was written in the same transaction.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bocker_pipe::{Doing, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::ioctl::{self, Key};
use crate::tree::{names, open_child};
use crate::{btrfs, tree};

/// `st_blocks` counts units of 512 bytes, on every filesystem (stat(2)).
const BLOCK: u64 = 512;
/// `BTRFS_EXTENT_DATA_KEY` (linux/btrfs_tree.h).
const EXTENT_DATA: u32 = 108;
/// Of `struct btrfs_file_extent_item`: its type, and for all but inline ones where the extent lies on the disk, 0 being a hole, and how
/// long it is there.
const EXTENT_TYPE: usize = 20;
const EXTENT_INLINE: u8 = 0;
const EXTENT_START: usize = 21;
const EXTENT_LENGTH: usize = 29;
/// `sizeof(struct btrfs_item)`, which stands before each item in a leaf.
const ITEM: u64 = 25;

/// What is freed as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// The inodes of a tree that nothing shares.
    Tree(PathBuf),
    /// An extent of btrfs, by where it begins.
    Extent(u64),
    /// What a transaction wrote to the trees of a subvolume and its snapshots, known by the first of them.
    Items(Rc<str>, u64),
}

/// Parts with the bytes that each takes.
pub(crate) type Parts = HashMap<Part, u64>;

/// What a path names and all below it, subvolumes included; not what is mounted there. Not there is nothing. Snapshots of one
/// subvolume have one `lineage`.
pub(crate) fn of(path: &Path, lineage: &str) -> Result<Parts> {
    let mut found = Found {
        parts: Parts::new(),
        lineage: lineage.into(),
        bytes: 0,
        linked: HashSet::new(),
    };
    let look = |found: &mut Found| {
        let stat = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => found.tree(open_child(CWD, path.as_os_str())?),
            _ => {
                found.add(&stat);
                Ok(())
            }
        }
    };
    look(&mut found).doing(|| format!("measure {}", path.display()))?;
    if found.bytes > 0 {
        let tree = Part::Tree(path.to_owned());
        found.parts.insert(tree, found.bytes);
    }
    Ok(found.parts)
}

struct Found {
    parts: Parts,
    lineage: Rc<str>,
    /// Of the inodes that lie in no subvolume of ours.
    bytes: u64,
    /// Those with several names.
    linked: HashSet<(u64, u64)>,
}

/// A directory on the way down, closed while its children are looked at: a container can nest deeper than descriptors last.
struct Level {
    inode: (u64, u64),
    pending: Vec<Vec<u8>>,
}

impl Found {
    fn add(&mut self, stat: &Stat) {
        if stat.st_nlink == 1 || self.linked.insert((stat.st_dev, stat.st_ino)) {
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
        }
    }

    fn tree(&mut self, top: OwnedFd) -> rustix::io::Result<()> {
        if btrfs::is_subvolume(&top) {
            return self.subvolume(top);
        }
        let mut levels = vec![self.enter(&top)?];
        let mut here = top;
        while let Some(level) = levels.last_mut() {
            let device = level.inode.0;
            let Some(name) = level.pending.pop() else {
                levels.pop();
                if let Some(above) = levels.last() {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    here = openat(&here, "..", flags, Mode::empty())?;
                    let stat = fstat(&here)?;
                    if (stat.st_dev, stat.st_ino) != above.inode {
                        // Somebody moves directories about.
                        return Err(Errno::BUSY);
                    }
                }
                continue;
            };
            let name = OsStr::from_bytes(&name);
            // What vanishes meanwhile takes nothing.
            let Some(stat) = there(statat(&here, name, AtFlags::SYMLINK_NOFOLLOW))? else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                self.add(&stat);
                continue;
            }
            let Some(child) = there(open_child(&here, name))? else {
                continue;
            };
            if btrfs::is_subvolume(&child) {
                self.subvolume(child)?;
            } else if fstat(&child)?.st_dev == device {
                levels.push(self.enter(&child)?);
                here = child;
            }
        }
        Ok(())
    }

    fn enter(&mut self, directory: &OwnedFd) -> rustix::io::Result<Level> {
        let stat = fstat(directory)?;
        // Its other names are those of `.` and `..`.
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
        Ok(Level {
            inode: (stat.st_dev, stat.st_ino),
            pending: names(directory)?,
        })
    }

    /// A subvolume, and those that a container has made in it.
    fn subvolume(&mut self, root: OwnedFd) -> rustix::io::Result<()> {
        let mut pending = vec![root];
        let mut lineage = Rc::clone(&self.lineage);
        while let Some(root) = pending.pop() {
            self.items(&root, &lineage)?;
            for id in ioctl::children(&root)? {
                pending.push(ioctl::open_by_id(&root, id)?);
            }
            if let Some(next) = pending.last() {
                lineage = ioctl::info(next)?.id.to_string().into();
            }
        }
        Ok(())
    }

    fn items(&mut self, root: impl AsFd, lineage: &Rc<str>) -> rustix::io::Result<()> {
        let mut written: HashMap<u64, u64> = HashMap::new();
        ioctl::search_all(root, |transaction, key, item| {
            *written.entry(transaction).or_default() += ITEM + item.len() as u64;
            if let Some((start, length)) = extent(key, item) {
                self.parts.insert(Part::Extent(start), length);
            }
        })?;
        for (transaction, bytes) in written {
            let part = Part::Items(Rc::clone(lineage), transaction);
            self.parts.insert(part, bytes);
        }
        Ok(())
    }
}

/// Where the extent of an item begins and how long it is.
fn extent(key: Key, item: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| Some(u64::from_le_bytes(*item.get(at..)?.first_chunk()?));
    if key.kind != EXTENT_DATA || item.get(EXTENT_TYPE)? == &EXTENT_INLINE {
        return None;
    }
    let start = number(EXTENT_START)?;
    (start > 0).then_some((start, number(EXTENT_LENGTH)?))
}

fn there<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        result => result.map(Some),
    }
}

/// Lets what was written be seen in the trees, where there are any.
pub(crate) fn settle(path: &Path) -> Result<()> {
    match btrfs::holds(path) && path.exists() {
        true => {
            ioctl::sync(tree::open_directory(path)?).doing(|| format!("sync {}", path.display()))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_inode_of_several_names_counts_once_and_what_is_not_there_counts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), vec![1; 100_000]).unwrap();
        fs::hard_link(deep.join("file"), folder.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        let paths = ["", "a", "a/b", "a/b/file", "link"];
        let blocks = |path: &str| {
            let found = fs::symlink_metadata(folder.path().join(path)).unwrap();
            found.blocks() * BLOCK
        };
        let expected: u64 = paths.into_iter().map(blocks).sum();
        assert!(expected >= 100_000);
        let found = of(folder.path(), "x").unwrap();
        assert_eq!(found.values().sum::<u64>(), expected);
        assert!(of(&folder.path().join("nothing"), "x").unwrap().is_empty());
    }

    #[test]
    fn an_extent_is_known_by_its_place_on_the_disk_and_an_inline_one_and_a_hole_have_none() {
        let mut item = [0; 53];
        item[EXTENT_TYPE] = 1;
        item[EXTENT_START..][..8].copy_from_slice(&4096_u64.to_le_bytes());
        item[EXTENT_LENGTH..][..8].copy_from_slice(&8192_u64.to_le_bytes());
        let key = |kind| Key {
            object: 257,
            kind,
            offset: 0,
        };
        assert_eq!(extent(key(EXTENT_DATA), &item), Some((4096, 8192)));
        assert_eq!(extent(key(EXTENT_DATA + 1), &item), None);
        assert_eq!(extent(key(EXTENT_DATA), &item[..30]), None);
        item[EXTENT_TYPE] = EXTENT_INLINE;
        assert_eq!(extent(key(EXTENT_DATA), &item), None);
        item[EXTENT_TYPE] = 1;
        item[EXTENT_START..][..8].fill(0);
        assert_eq!(extent(key(EXTENT_DATA), &item), None);
    }
}
