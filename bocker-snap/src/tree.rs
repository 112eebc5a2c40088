//! Small operations on directory trees that hold whatever a layer or a container put there: nothing is followed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, openat, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::btrfs;

/// The largest list of extended attributes, and the largest value of one (xattr(7)).
pub(crate) const MAX_XATTR: usize = 64 << 10;

/// How many directories that have to be emptied are remembered of one that is removed: a layer can have millions in it.
const MAX_PENDING: usize = 256;

/// Opens a directory for reading its names, or for syncing it.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    open_child(CWD, path.as_os_str()).doing(|| format!("open {}", path.display()))
}

/// Opens a directory by its name in another.
pub(crate) fn open_child(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// What a name stands for. `None` when there is nothing of that name (any more).
pub(crate) fn stat_child(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match statat(parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a path below a directory, which no link and no `..` leads out of.
pub(crate) fn open_below(
    root: impl AsFd,
    path: &OsStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        match openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            // While `..` was followed something was renamed or mounted somewhere (openat2(2)): what was found proves nothing.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The names in a directory.
pub(crate) fn names(directory: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let entries = entries(directory)?;
    Ok(entries.into_iter().map(|(name, _)| name).collect())
}

/// The same with the number of each inode; of a mount point or a subvolume it is another than statx(2) tells.
pub(crate) fn entries(directory: impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, u64)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            entries.push((name, entry.ino()));
        }
    }
    Ok(entries)
}

/// One directory on the way down, closed while its children are at work: a container can nest deeper than descriptors last.
struct Level {
    name: Vec<u8>,
    /// By which it is recognised on the way back up.
    inode: (u64, u64),
    pending: Pending,
}

/// What is still to be removed in a directory.
struct Pending {
    /// Directories that are not empty.
    names: Vec<Vec<u8>>,
    /// Whether there may be others.
    more: bool,
}

/// Removes a name and everything below it, however deep. Not there is success.
pub(crate) fn remove_all(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    // The name of a directory to be emptied may come from a layer: these two are of others.
    if matches!(name.as_bytes(), b"." | b"..") {
        return Err(Errno::INVAL);
    }
    let Some(mut here) = enter(parent, name.as_bytes())? else {
        return Ok(());
    };
    let mut levels = vec![level(&here, name.as_bytes())?];
    while let Some(current) = levels.last_mut() {
        if let Some(child) = current.pending.names.pop() {
            if let Some(directory) = enter(here.as_fd(), &child)? {
                here = directory;
                levels.push(level(&here, &child)?);
            }
            continue;
        }
        if current.pending.more {
            current.pending = sweep(&here)?;
            continue;
        }
        let done = std::mem::take(&mut current.name);
        levels.pop();
        let Some(above) = levels.last() else {
            return unlinkat(parent, OsStr::from_bytes(&done), AtFlags::REMOVEDIR);
        };
        here = openat(
            &here,
            "..",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if inode(&fstat(&here)?) != above.inode {
            // Somebody moves directories about while we remove them.
            return Err(Errno::BUSY);
        }
        unlinkat(&here, OsStr::from_bytes(&done), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Removes what a path names. Not there is success.
pub(crate) fn remove_path(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(
            Kind::Invalid,
            format!("{} cannot be removed", path.display()),
        ));
    };
    let remove = || match open_child(CWD, parent.as_os_str()) {
        Err(Errno::NOENT) => Ok(()),
        parent => remove_all(parent?.as_fd(), name),
    };
    remove().doing(|| format!("remove {}", path.display()))
}

/// Removes a name, or opens the directory that has to be emptied first. A subvolume goes whole, with those that lie in it: what is
/// read-only could not be emptied.
fn enter(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    if unlink(parent, name)? {
        return Ok(None);
    }
    let name = OsStr::from_bytes(name);
    let directory = open_child(parent, name)?;
    match btrfs::is_subvolume(&directory) {
        true => btrfs::destroy(parent, name).map(|()| None),
        false => Ok(Some(directory)),
    }
}

/// Whether the name is gone now; it is not when it is a directory with something in it.
fn unlink(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<bool> {
    let name = OsStr::from_bytes(name);
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn level(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<Level> {
    Ok(Level {
        name: name.to_vec(),
        inode: inode(&fstat(directory)?),
        pending: sweep(directory)?,
    })
}

/// Removes what goes at once, as far as directories that do not can be remembered.
fn sweep(directory: &OwnedFd) -> rustix::io::Result<Pending> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || unlink(directory.as_fd(), name)? {
            continue;
        }
        names.push(name.to_vec());
        if names.len() == MAX_PENDING {
            return Ok(Pending { names, more: true });
        }
    }
    Ok(Pending { names, more: false })
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Attributes that mean something to this kernel or this machine only are neither taken from a layer nor put into one.
pub(crate) fn is_portable(xattr: &[u8]) -> bool {
    xattr != b"security.selinux"
        && !xattr.starts_with(b"trusted.overlay.")
        && !xattr.starts_with(b"user.overlay.")
}

/// The portable extended attributes' names of what is open. A filesystem that keeps none has none.
pub(crate) fn xattr_names(fd: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; MAX_XATTR];
    let length = match flistxattr(fd, &mut list) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    Ok(list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && is_portable(name))
        .map(<[u8]>::to_vec)
        .collect())
}

/// Copies owner, extended attributes, mode and times from one open directory to another.
pub(crate) fn copy_attributes(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let copy = || -> rustix::io::Result<()> {
        let stat = fstat(&from)?;
        fchown(
            &to,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
        for name in xattr_names(&from)? {
            let name = OsStr::from_bytes(&name);
            let mut value = vec![0; MAX_XATTR];
            let length = fgetxattr(&from, name, &mut value)?;
            match fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
        futimens(&to, &times(&stat))
    };
    copy().doing(|| "copy the attributes of a directory".into())
}

/// When the file was last accessed and modified.
pub(crate) fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as i64,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as i64,
        },
    }
}

/// Writes to the disk what a directory says about its names.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let directory = File::from(open_directory(path)?);
    directory
        .sync_all()
        .doing(|| format!("sync {}", path.display()))
}

/// A path as text for the document. Fails with [`Kind::Invalid`] when it is not UTF-8, which JSON cannot carry.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!("the path {} is not UTF-8", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_descriptors_and_paths_last_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let top = open_directory(folder.path()).unwrap();
        let mut here = top.try_clone().unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&here, "directory", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&here, "sibling", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc", &here, "link").unwrap();
            here = open_child(&here, OsStr::new("directory")).unwrap();
        }
        remove_all(top.as_fd(), OsStr::new("directory")).unwrap();
        let mut left = names(&top).unwrap();
        left.sort();
        assert_eq!(left, [b"link".to_vec(), b"sibling".to_vec()]);
        remove_all(top.as_fd(), OsStr::new("directory")).unwrap();
    }

    #[test]
    fn a_directory_with_more_directories_than_are_remembered_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let top = open_directory(folder.path()).unwrap();
        for number in 0..2 * MAX_PENDING + 1 {
            std::fs::create_dir_all(folder.path().join(format!("wide/{number}/below"))).unwrap();
            std::fs::write(folder.path().join(format!("wide/file{number}")), "").unwrap();
        }
        remove_all(top.as_fd(), OsStr::new("wide")).unwrap();
        assert!(names(&top).unwrap().is_empty());
    }

    #[test]
    fn neither_the_directory_itself_nor_the_one_above_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        std::fs::write(folder.path().join("beside"), "").unwrap();
        let root = open_directory(&folder.path().join("root")).unwrap();
        for name in [".", ".."] {
            let removed = remove_all(root.as_fd(), OsStr::new(name));
            assert_eq!(removed, Err(Errno::INVAL));
        }
        assert!(folder.path().join("beside").exists());
    }
}
