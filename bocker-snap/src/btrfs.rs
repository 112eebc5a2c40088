//! The driver for btrfs: layers are read-only subvolumes, each a whole tree; a container's root is a snapshot of the topmost.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{FsWord, fstat, fstatfs, statfs};
use rustix::io::Errno;

use crate::ioctl::{self, Key};
use crate::tree::{open_child, open_directory};

/// Kinds of items (linux/btrfs_tree.h): an inode; its name in a directory, whose inode number is the offset; one of those names
/// that do not fit there, with the directory's number first.
const INODE_ITEM: u32 = 1;
const INODE_REF: u32 = 12;
const INODE_EXTREF: u32 = 13;
/// Of `struct btrfs_inode_item`: where the transaction that wrote it last stands, and the time of access.
const TRANSACTION: std::ops::Range<usize> = 8..16;
const ACCESSED: std::ops::Range<usize> = 112..124;
const INODE_ITEM_SIZE: usize = 160;

/// Whether a path lies on btrfs, or will when it is made.
pub(crate) fn holds(path: &Path) -> bool {
    let nearest = path.ancestors().find_map(|folder| statfs(folder).ok());
    nearest.is_some_and(|found| is_magic(found.f_type))
}

fn is_magic(kind: FsWord) -> bool {
    // A word is 32 bits and signed on some machines; the number has as many.
    kind as u32 == ioctl::MAGIC as u32
}

/// Whether an open directory is the root of a subvolume.
pub(crate) fn is_subvolume(directory: impl AsFd) -> bool {
    fstat(&directory).is_ok_and(|stat| stat.st_ino == ioctl::ROOT_INODE)
        && fstatfs(directory).is_ok_and(|found| is_magic(found.f_type))
}

/// Makes an empty subvolume.
pub(crate) fn create(path: &Path) -> Result<()> {
    let (parent, name) = split(path)?;
    ioctl::create(parent, name).doing(|| format!("make the subvolume {}", path.display()))
}

/// Makes a snapshot. It is on the disk when this returns.
pub(crate) fn snapshot(source: &Path, path: &Path, read_only: bool) -> Result<()> {
    let root = open_directory(source)?;
    if !is_subvolume(&root) {
        let what = format!("{} is no subvolume of btrfs", source.display());
        return Err(Error::new(Kind::Invalid, what)
            .hint("it was unpacked for another filesystem: remove it, and it is unpacked again"));
    }
    let (parent, name) = split(path)?;
    ioctl::snapshot(root.as_fd(), parent, name, read_only).doing(|| {
        format!(
            "make a snapshot of {} at {}",
            source.display(),
            path.display()
        )
    })
}

fn split(path: &Path) -> Result<(OwnedFd, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((open_directory(parent)?, name)),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("{} names nothing", path.display()),
        )),
    }
}

/// The commands that make what [`create`] and [`snapshot`] make.
pub(crate) fn create_command(path: &Path) -> String {
    format!("btrfs subvolume create {}", shown(path))
}

pub(crate) fn snapshot_command(source: &Path, path: &Path, read_only: bool) -> String {
    let option = if read_only { "-r " } else { "" };
    format!(
        "btrfs subvolume snapshot {option}{} {}",
        shown(source),
        shown(path)
    )
}

/// The command that removes one.
pub(crate) fn destroy_command(path: &Path) -> String {
    format!("btrfs subvolume delete {}", shown(path))
}

fn shown(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// Destroys the subvolume of this name with all that lie in it, which a container can have made, nested and made read-only as
/// it liked. None of their content is looked at: the kernel frees it in the background.
pub(crate) fn destroy(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match ioctl::destroy(parent, name) {
        Err(Errno::NOTEMPTY) => {}
        result => return result,
    }
    let top = open_child(parent, name)?;
    // By id, since paths are the container's. The last goes first; one that holds others is looked at again after them.
    let mut pending = vec![ioctl::info(&top)?.id];
    while let Some(id) = pending.last() {
        match ioctl::destroy_by_id(parent, *id) {
            Ok(()) | Err(Errno::NOENT) => {
                pending.pop();
            }
            Err(Errno::NOTEMPTY) => {
                let root = ioctl::open_by_id(parent, *id)?;
                // Nothing is unlinked in one that is read-only.
                ioctl::make_writable(&root)?;
                let children = ioctl::children(&root)?;
                if children.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                pending.extend(children);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether other subvolumes lie in this one, of which a snapshot shows nothing.
pub(crate) fn has_nested(root: impl AsFd) -> Result<bool> {
    let children = ioctl::children(root).doing(|| "look for subvolumes".into())?;
    Ok(!children.is_empty())
}

/// Inodes, by number, in which a tree differs from the one that it was a snapshot of, where inodes have the same numbers.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Made, written to, given other attributes or another number of names; directories too in which names came or went.
    changed: HashSet<u64>,
    /// These, and the directories above.
    reached: HashSet<u64>,
}

impl Changes {
    /// Finds them. `tree` is as it is on the disk: a snapshot, or just after [`ioctl::sync`]; `since` is the transaction that made
    /// it or, where it is a snapshot of a snapshot, the first one.
    pub(crate) fn find(
        tree: BorrowedFd<'_>,
        since: u64,
        below: BorrowedFd<'_>,
    ) -> rustix::io::Result<Changes> {
        let (first, last) = (key(0, 0, 0), key(u64::MAX, u32::from(u8::MAX), u64::MAX));
        let mut written = Vec::new();
        ioctl::search(tree, first, last, since, |key, item| {
            if key.kind == INODE_ITEM && was_written(item, since) {
                written.push((key.object, item.to_vec()));
            }
        })?;
        let mut changes = Changes::default();
        for (inode, item) in written {
            let mut same = false;
            let at = key(inode, INODE_ITEM, 0);
            ioctl::search(below, at, at, 0, |_, other| same = is_same(&item, other))?;
            if !same {
                changes.changed.insert(inode);
            }
        }
        let mut pending: Vec<u64> = changes.changed.iter().copied().collect();
        while let Some(inode) = pending.pop() {
            if !changes.reached.insert(inode) {
                continue;
            }
            let (first, last) = (key(inode, INODE_REF, 0), key(inode, INODE_EXTREF, u64::MAX));
            ioctl::search(tree, first, last, 0, |key, item| match key.kind {
                INODE_REF => pending.push(key.offset),
                _ => pending.extend(
                    item.first_chunk()
                        .map(|directory| u64::from_le_bytes(*directory)),
                ),
            })?;
        }
        Ok(changes)
    }

    /// Whether the inode itself differs.
    pub(crate) fn is_changed(&self, inode: u64) -> bool {
        self.changed.contains(&inode)
    }

    /// Whether it does, or something below it.
    pub(crate) fn is_reached(&self, inode: u64) -> bool {
        self.reached.contains(&inode)
    }
}

fn key(object: u64, kind: u32, offset: u64) -> Key {
    Key {
        object,
        kind,
        offset,
    }
}

fn was_written(item: &[u8], since: u64) -> bool {
    let transaction = item.get(TRANSACTION).and_then(|bytes| bytes.first_chunk());
    transaction.is_none_or(|bytes| u64::from_le_bytes(*bytes) >= since)
}

/// Whether two items say the same of an inode: reading a file is no change of it. They hold what neither the clock nor the
/// container can hide: a counter of changes.
fn is_same(item: &[u8], other: &[u8]) -> bool {
    let without = |item: &[u8]| {
        let mut item = item.to_vec();
        for range in [TRANSACTION, ACCESSED] {
            item[range].fill(0);
        }
        item
    };
    item.len() == INODE_ITEM_SIZE
        && other.len() == INODE_ITEM_SIZE
        && without(item) == without(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_that_was_only_read_is_the_same_and_any_other_byte_tells() {
        let item = [7; INODE_ITEM_SIZE];
        for place in 0..INODE_ITEM_SIZE {
            let mut other = item;
            other[place] = 8;
            let read = TRANSACTION.contains(&place) || ACCESSED.contains(&place);
            assert_eq!(is_same(&item, &other), read, "{place}");
        }
        assert!(!is_same(&item, &item[1..]));
        assert!(!is_same(&[], &[]));
    }

    #[test]
    fn an_inode_counts_from_the_transaction_of_the_snapshot_on() {
        let mut item = [0; INODE_ITEM_SIZE];
        item[8..16].copy_from_slice(&10_u64.to_le_bytes());
        assert!(was_written(&item, 10) && !was_written(&item, 11));
        assert!(was_written(&[], 11), "better too much than too little");
    }

    #[test]
    fn the_filesystem_of_a_path_is_that_of_its_nearest_folder() {
        assert!(!holds(Path::new("/proc/nothing/here")));
    }
}
