//! Mounts: an OCI `mounts` entry becomes a detached mount first, with all its attributes, and is attached then to the
//! descriptor of its target (mount_setattr(2), move_mount(2)): no path is resolved twice, and nothing is ever visible
//! without its flags.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bocker_pipe::document::Mount;
use bocker_pipe::{Doing, Error, Kind, Result, paths};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::rooted::{Make, Root};
use crate::sys;

/// proc_pid_mountinfo(5).
const MOUNT_INFO: &str = "/proc/self/mountinfo";

/// mount_setattr(2).
pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// What mounts made on one side of a bind mount do to the other (mount_namespaces(7)).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Propagation {
    /// Nothing.
    #[default]
    Private,
    /// The host's appear in the container.
    Slave,
    /// And the container's on the host.
    Shared,
}

/// What the options of a mount come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    bind: bool,
    recursive: bool,
    propagation: Propagation,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn is_bind(&self, mount: &Mount) -> bool {
        self.bind || mount.kind.as_deref() == Some("bind")
    }

    /// Flags only.
    pub(crate) fn of(set: u64) -> Options {
        Options {
            set,
            ..Options::default()
        }
    }

    /// Reads options as mount(8) knows them. What is no flag is the filesystem's own. Propagation is that of a whole tree of
    /// mounts, recursive or not. Fails with [`Kind::Unsupported`] for mounts that may not be bound again.
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
                "defaults" => continue,
                "private" | "rprivate" => {
                    options.propagation = Propagation::Private;
                    continue;
                }
                "slave" | "rslave" => {
                    options.propagation = Propagation::Slave;
                    continue;
                }
                "shared" | "rshared" => {
                    options.propagation = Propagation::Shared;
                    continue;
                }
                "unbindable" | "runbindable" => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("mount propagation '{word}' is not supported"),
                    )
                    .hint("use private, slave or shared"));
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

/// What `linux.rootfsPropagation` has to be for runtimes whose bind mounts are tied to the host's only if the root is; nothing where
/// none is. As docker: `shared` leaves the namespace as it is, `rslave` is that of all mounts in it.
pub(crate) fn propagation(mounts: &[Mount]) -> Result<Option<&'static str>> {
    let mut most = Propagation::Private;
    for mount in mounts {
        let options = Options::parse(&mount.options)?;
        if options.is_bind(mount) {
            most = most.max(options.propagation);
        }
    }
    Ok(match most {
        Propagation::Private => None,
        Propagation::Slave => Some("rslave"),
        Propagation::Shared => Some("shared"),
    })
}

/// The sources of those mounts that stay tied to the host's, and nothing for the others. Taken before the host's mounts become
/// private to us, for then there is nothing left to be tied to.
pub(crate) fn tied(mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>> {
    let tied = |mount: &Mount| -> Result<Option<OwnedFd>> {
        let options = Options::parse(&mount.options)?;
        if options.propagation == Propagation::Private || !options.is_bind(mount) {
            return Ok(None);
        }
        let source = mount.source.as_deref().unwrap_or_default();
        refuse_untied(source, options.propagation)?;
        clone_source(source, options.recursive).map(Some)
    };
    mounts.iter().map(tied).collect()
}

/// Fails with [`Kind::Invalid`] when nothing would come through to a bind mount of `source`: to say so is better than to do
/// something else than was asked for.
fn refuse_untied(source: &str, propagation: Propagation) -> Result<()> {
    let found = statx(CWD, source, AtFlags::empty(), StatxFlags::MNT_ID)
        .doing(|| format!("look at {source}"))?;
    let table = std::fs::read_to_string(MOUNT_INFO).doing(|| format!("read {MOUNT_INFO}"))?;
    let id = found.stx_mnt_id.to_string();
    let (is_shared, is_slave) = ties(&table, &id);
    if is_shared || (is_slave && propagation == Propagation::Slave) {
        return Ok(());
    }
    let what = format!("{source} lies on a mount that shares nothing with others");
    Err(Error::new(Kind::Invalid, what).hint(format!(
        "share it with 'mount --make-shared $(findmnt -no TARGET -T {source})'"
    )))
}

/// Whether a mount is in a group of peers, and whether it gets what is mounted in another one (proc_pid_mountinfo(5)).
fn ties(table: &str, id: &str) -> (bool, bool) {
    let mut lines = table.lines();
    let line = lines.find(|line| line.split(' ').next() == Some(id));
    let line = line.unwrap_or_default();
    let optional = || line.split(' ').skip(6).take_while(|field| *field != "-");
    (
        optional().any(|field| field.starts_with("shared:")),
        optional().any(|field| field.starts_with("master:")),
    )
}

/// Mounts an entry of the document in the container's root, `tied` being its source where that was taken before. Missing
/// targets are made there.
pub(crate) fn mount(root: &Root, mount: &Mount, tied: Option<OwnedFd>) -> Result<OwnedFd> {
    let mut options = Options::parse(&mount.options)?;
    let kind = mount.kind.as_deref().unwrap_or("");
    let source = mount.source.as_deref().unwrap_or(kind);
    let (tree, make) = if options.is_bind(mount) {
        bind(source, &options, tied)?
    } else {
        if kind == "tmpfs" && !options.data.iter().any(|(key, _)| key == "mode") {
            options.data.extend(mode_of(root, &mount.destination));
        }
        (new(kind, source, &options)?, Make::Directory)
    };
    let target = root.find_or_make(&mount.destination, make)?;
    attach(&tree, target.as_fd()).doing(|| format!("mount {source} on {}", mount.destination))?;
    Ok(tree)
}

/// The option by which a filesystem in memory takes the mode of the directory that it hides, as with other runtimes.
fn mode_of(root: &Root, path: &str) -> Option<(String, Option<String>)> {
    let stat = fstat(root.find(path).ok()?).ok()?;
    Some(("mode".into(), Some(format!("{:o}", stat.st_mode & 0o7777))))
}

/// A detached copy of what is mounted or lies at `source` of the host. Devices in it are not for the container: nodev is
/// set unless the options say `dev`. What the host restricts stays restricted, whatever the options say.
fn bind(source: &str, options: &Options, tied: Option<OwnedFd>) -> Result<(OwnedFd, Make)> {
    if !source.starts_with('/') {
        return Err(Error::new(
            Kind::Document,
            format!("the source '{source}' of a bind mount is not absolute"),
        ));
    }
    let tree = match tied {
        Some(tree) => tree,
        None => clone_source(source, options.recursive)?,
    };
    if options.propagation == Propagation::Slave {
        sys::make_slave(tree.as_fd()).doing(|| format!("set the propagation of {source}"))?;
    }
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

/// A detached bind mount of what lies at `source` of the host. Within a volume no link is followed: other containers write there.
fn clone_source(source: &str, recursive: bool) -> Result<OwnedFd> {
    let path = Path::new(source);
    let cloned = match within_volume(path) {
        None => clone_tree(path, recursive),
        Some((data, below)) => open_below(&data, below)
            .and_then(|found| clone_tree_at(found.as_fd(), Path::new(""), recursive)),
    };
    cloned.doing(|| format!("mount {source} in the container"))
}

/// What is in a volume and where, for a path that leads into one.
fn within_volume(path: &Path) -> Option<(PathBuf, &Path)> {
    let below = path.strip_prefix(paths::volumes()).ok()?;
    let mut parts = below.components();
    let folder = paths::volumes().join(parts.next()?);
    if parts.next()?.as_os_str() != paths::VOLUME_DATA || parts.as_path() == Path::new("") {
        return None;
    }
    Some((folder.join(paths::VOLUME_DATA), parts.as_path()))
}

fn open_below(folder: &Path, below: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags | OFlags::NOFOLLOW, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(folder, below, flags, Mode::empty(), resolve)
}

/// A detached bind mount of a path of the host.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    clone_tree_at(CWD, path, recursive)
}

/// The same of an open file or directory.
pub(crate) fn clone_tree_of(fd: BorrowedFd) -> rustix::io::Result<OwnedFd> {
    clone_tree_at(fd, Path::new(""), false)
}

fn clone_tree_at(at: BorrowedFd, path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(at, path, flags)
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
    fn the_last_word_says_what_comes_through_a_mount() {
        let propagation = |words: &[&str]| parse(words).unwrap().propagation;
        assert_eq!(propagation(&["rbind"]), Propagation::Private);
        assert_eq!(propagation(&["rshared", "rslave"]), Propagation::Slave);
        assert_eq!(propagation(&["rslave", "shared"]), Propagation::Shared);
        let error = parse(&["unbindable"]).unwrap_err();
        assert_eq!(error.kind(), &Kind::Unsupported);
    }

    #[test]
    fn what_a_mount_is_tied_to_is_read_from_its_line() {
        let table = "22 1 8:1 / / rw shared:1 - ext4 /dev/vda rw,x=shared:9\n\
                     23 22 0:5 / /a rw master:1 propagate_from:2 - tmpfs x rw\n\
                     2 22 0:6 / /b rw - tmpfs shared:3 rw\n";
        assert_eq!(ties(table, "22"), (true, false));
        assert_eq!(ties(table, "23"), (false, true));
        assert_eq!(ties(table, "2"), (false, false));
        assert_eq!(ties(table, "9"), (false, false));
    }

    #[test]
    fn a_path_into_a_volume_is_told_from_others() {
        let volumes = paths::volumes();
        let path = volumes.join("x/data/a/b");
        let (data, below) = within_volume(&path).unwrap();
        assert_eq!(
            (&*data, below),
            (&*volumes.join("x/data"), Path::new("a/b"))
        );
        for path in ["x/data", "x/data/", "x", "x/other/a"] {
            assert_eq!(within_volume(&volumes.join(path)), None, "{path}");
        }
        assert_eq!(within_volume(Path::new("/x/data/a")), None);
    }
}
