//! Mounts: an OCI `mounts` entry becomes a detached mount first, with all its attributes, and is attached then to the
//! descriptor of its target (mount_setattr(2), move_mount(2)): no path is resolved twice, and nothing is ever visible
//! without its flags.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bocker_pipe::document::Mount;
use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::rooted::{Make, Root};
use crate::sys;

/// mount_setattr(2).
pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// What the options of a mount come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    bind: bool,
    recursive: bool,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Flags only.
    pub(crate) fn of(set: u64) -> Options {
        Options {
            set,
            ..Options::default()
        }
    }

    /// Reads options as mount(8) knows them. What is no flag is the filesystem's own. Fails with [`Kind::Unsupported`]
    /// for propagation other than private: a container's mounts are its own.
    pub(crate) fn parse(words: &[String]) -> Result<Options> {
        let mut options = Options::default();
        for word in words {
            let (set, clear) = match word.as_str() {
                "ro" => (RDONLY, 0),
                "rw" => (0, RDONLY),
                "nosuid" => (NOSUID, 0),
                "suid" => (0, NOSUID),
                "nodev" => (NODEV, 0),
                "dev" => (0, NODEV),
                "noexec" => (NOEXEC, 0),
                "exec" => (0, NOEXEC),
                "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
                "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
                "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
                "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
                "atime" | "relatime" => (libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME),
                "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
                "bind" => {
                    options.bind = true;
                    continue;
                }
                "rbind" => {
                    options.bind = true;
                    options.recursive = true;
                    continue;
                }
                "defaults" | "private" | "rprivate" => continue,
                "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("mount propagation '{word}' is not supported"),
                    )
                    .hint("use private, which is the default"));
                }
                _ => {
                    let (key, value) = match word.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_owned())),
                        None => (word.as_str(), None),
                    };
                    options.data.push((key.to_owned(), value));
                    continue;
                }
            };
            // The last word of a pair wins.
            options.set = options.set & !clear | set;
            options.clear = options.clear & !set | clear;
        }
        Ok(options)
    }
}

/// Mounts an entry of the document in the container's root. Missing targets are made there.
pub(crate) fn mount(root: &Root, mount: &Mount) -> Result<OwnedFd> {
    let options = Options::parse(&mount.options)?;
    let kind = mount.kind.as_deref().unwrap_or("");
    let source = mount.source.as_deref().unwrap_or(kind);
    let (tree, make) = if options.bind || kind == "bind" {
        bind(source, &options)?
    } else {
        (new(kind, source, &options)?, Make::Directory)
    };
    let target = root.find_or_make(&mount.destination, make)?;
    attach(&tree, target.as_fd()).doing(|| format!("mount {source} on {}", mount.destination))?;
    Ok(tree)
}

/// A detached copy of what is mounted or lies at `source` of the host. Devices in it are not for the container: nodev is
/// set unless the options say `dev`. What the host restricts stays restricted, whatever the options say.
fn bind(source: &str, options: &Options) -> Result<(OwnedFd, Make)> {
    if !source.starts_with('/') {
        return Err(Error::new(
            Kind::Document,
            format!("the source '{source}' of a bind mount is not absolute"),
        ));
    }
    let tree = clone_tree(Path::new(source), options.recursive)
        .doing(|| format!("mount {source} in the container"))?;
    let set = options.set | if options.clear & NODEV == 0 { NODEV } else { 0 };
    let clear = options.clear & libc::MOUNT_ATTR__ATIME;
    sys::mount_setattr(tree.as_fd(), options.recursive, set, clear)
        .doing(|| format!("set the mount options of {source}"))?;
    let stat = fstat(&tree).doing(|| format!("look at {source}"))?;
    let make = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Make::Directory,
        _ => Make::File,
    };
    Ok((tree, make))
}

/// A detached bind mount of a path of the host.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

/// The same of an open file or directory.
pub(crate) fn clone_tree_of(fd: BorrowedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(fd, "", flags)
}

/// A detached mount of a new filesystem.
pub(crate) fn new(kind: &str, source: &str, options: &Options) -> Result<OwnedFd> {
    let doing = |result: rustix::io::Result<()>, what: &str| {
        result.doing(|| format!("{what} of a {kind} filesystem"))
    };
    let context =
        fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| format!("make a {kind} filesystem"))?;
    doing(
        fsconfig_set_string(&context, "source", source),
        "set the source",
    )?;
    for (key, value) in &options.data {
        let result = match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        };
        doing(result, &format!("set the option '{key}'"))?;
    }
    fsconfig_create(&context).doing(|| format!("make a {kind} filesystem"))?;
    // The bits that fsmount(2) and mount_setattr(2) take are the same and fit 32 bits.
    let attributes = MountAttrFlags::from_bits_retain(options.set as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .doing(|| format!("mount a {kind} filesystem"))
}

/// Attaches a detached mount to an open target.
pub(crate) fn attach(tree: impl AsFd, target: BorrowedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Makes `name` in an open directory of ours, and opens it.
pub(crate) fn make_directory(parent: BorrowedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Options::parse(&words)
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = parse(&["ro", "nosuid", "mode=755", "size=64k", "newinstance"]).unwrap();
        assert_eq!(options.set, RDONLY | NOSUID);
        assert_eq!(
            options.data,
            [
                ("mode".into(), Some("755".into())),
                ("size".into(), Some("64k".into())),
                ("newinstance".into(), None)
            ]
        );
    }

    #[test]
    fn the_last_word_of_a_pair_wins() {
        assert_eq!(parse(&["ro", "rw"]).unwrap().set, 0);
        let options = parse(&["rw", "ro"]).unwrap();
        assert_eq!((options.set, options.clear), (RDONLY, 0));
        assert_eq!(
            parse(&["noatime", "strictatime"]).unwrap().set,
            libc::MOUNT_ATTR_STRICTATIME
        );
    }

    #[test]
    fn a_shared_mount_is_refused() {
        assert_eq!(parse(&["rshared"]).unwrap_err().kind(), &Kind::Unsupported);
    }
}
