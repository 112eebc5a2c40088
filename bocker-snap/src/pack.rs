//! Writes a directory tree as a layer: what a container wrote, as the difference that it is, or a whole tree. The same tree gives
//! the same bytes: names are sorted, hidden names come before the others of their directory, times of access are left out.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, fstat, lgetxattr, llistxattr, major,
    minor, openat, readlinkat,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::btrfs::Changes;
use crate::cover::OPAQUE as OPAQUE_XATTR;
use crate::tar::write::Writer;
use crate::tar::{Entry, EntryKind, Time};
use crate::tree::{
    MAX_XATTR, entries, is_portable, names, open_below, open_child, stat_child, xattr_names,
};
use crate::unpack::{OPAQUE, WHITEOUT};

/// The longest path that a layer can carry to others (limits.h, PATH_MAX, less its end).
pub(crate) const MAX_PATH: usize = 4095;

/// What a tree is.
#[derive(Clone, Copy)]
pub(crate) enum Tree<'a> {
    /// Everything in it is content.
    Whole,
    /// The upper directory of an overlay: character devices 0:0 hide a name, an attribute hides all of a directory.
    Upper,
    /// What was a snapshot of the tree `below`: only the difference is content, and in the same bytes as overlayfs would keep it.
    Snapshot {
        below: BorrowedFd<'a>,
        changes: &'a Changes,
    },
    /// Files for who knows nothing of layers: any name is one, `.wh.` names too. With `mounts`, what is mounted is part of it.
    Files { mounts: bool },
}

/// What of a tree is written otherwise than it stands there.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rules<'a> {
    /// Paths of directories that are empty in the archive, and of files that are left out.
    pub(crate) without: &'a [PathBuf],
    /// Paths that are left out, directories with all that is in them.
    pub(crate) left_out: Option<&'a HashSet<Vec<u8>>>,
    /// What was modified later counts as modified then.
    pub(crate) latest: Option<Time>,
}

/// Writes the tree below `root` as a tar archive. Directories on which something else is mounted are empty in it; sockets and
/// the devices by which overlayfs hides names are left out. Answers the writer and what was left out.
/// Fails with [`Kind::Invalid`] when a name could not be told from a hidden one's.
pub(crate) fn pack<W: Write>(
    root: BorrowedFd<'_>,
    tree: Tree<'_>,
    rules: Rules<'_>,
    to: W,
) -> Result<(W, Vec<PathBuf>)> {
    let mut packer = Packer::new(root, tree, rules, to)?;
    let stat = fstat(root).doing(|| "examine the root".into())?;
    let mut entry = packer.entry(EntryKind::Directory, b"./", &stat);
    entry.xattrs = xattrs(root, &entry)?;
    packer.writer.append(&entry, &mut io::empty())?;
    let below = match tree {
        Tree::Snapshot { below, .. } => Some(below),
        Tree::Whole | Tree::Upper | Tree::Files { .. } => None,
    };
    packer.directory(root, &[], below, false)?;
    Ok((packer.writer.finish()?, packer.left_out))
}

/// Writes what a directory has under a name, and everything below it, mounts included, as an archive in which it is called
/// `path`; the empty path stands for what is in the directory of that name. `stat` is what was found under the name: what has come
/// in its place since, as a link, is not taken for it.
pub(crate) fn pack_named<W: Write>(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    stat: Stat,
    path: &[u8],
    to: W,
) -> Result<W> {
    let files = Tree::Files { mounts: true };
    let mut packer = Packer::new(directory, files, Rules::default(), to)?;
    let what = || format!("read '{}'", name.display());
    if path.is_empty() {
        let directory = open_child(directory, name).doing(what)?;
        packer.directory(directory.as_fd(), &[], None, false)?;
    } else {
        let child = Child {
            name: name.as_bytes().to_vec(),
            stat,
            kept: false,
            replaces: false,
        };
        packer.child(directory, path.to_vec(), &child, None)?;
    }
    packer.writer.finish()
}

struct Packer<'a, W> {
    tree: Tree<'a>,
    rules: Rules<'a>,
    /// Of the root.
    device: u64,
    writer: Writer<W>,
    /// Files with several names, by device and inode: the first of them.
    links: HashMap<(u64, u64), Vec<u8>>,
    left_out: Vec<PathBuf>,
}

/// A name in a directory.
struct Child {
    name: Vec<u8>,
    stat: Stat,
    /// Whether it is the same inode that the tree below has under this name.
    kept: bool,
    /// Whether it is another.
    replaces: bool,
}

/// What of a directory goes into the layer, sorted.
#[derive(Default)]
struct Listing {
    /// Names that are to be hidden.
    hidden: Vec<Vec<u8>>,
    children: Vec<Child>,
}

impl<'a, W: Write> Packer<'a, W> {
    fn new(root: BorrowedFd<'_>, tree: Tree<'a>, rules: Rules<'a>, to: W) -> Result<Packer<'a, W>> {
        allow_depth();
        let stat = fstat(root).doing(|| "examine the root".into())?;
        Ok(Packer {
            tree,
            rules,
            device: stat.st_dev,
            writer: Writer::new(to),
            links: HashMap::new(),
            left_out: Vec::new(),
        })
    }

    fn entry(&self, kind: EntryKind, path: &[u8], stat: &Stat) -> Entry {
        let mut entry = Entry::new(kind, path);
        entry.mode = stat.st_mode & 0o7777;
        entry.uid = stat.st_uid;
        entry.gid = stat.st_gid;
        let mtime = Time {
            seconds: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec as u32,
        };
        entry.mtime = self.rules.latest.map_or(mtime, |latest| mtime.min(latest));
        entry
    }

    /// Packs what is in a directory. `below` is the same directory in the tree below; `replaces` says that it has come where that
    /// tree has something else.
    fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        below: Option<BorrowedFd<'_>>,
        replaces: bool,
    ) -> Result<()> {
        let what = || format!("read '{}'", String::from_utf8_lossy(path));
        let mut listing = match (self.tree, below) {
            (Tree::Snapshot { changes, .. }, Some(below)) => {
                self.difference(directory, below, changes).doing(what)?
            }
            _ => self.everything(directory).doing(what)?,
        };
        let hides = matches!(self.tree, Tree::Upper) && is_opaque(directory);
        let mut children = Vec::new();
        for child in listing.children {
            let child_path = join(path, &child.name);
            let is_left_out = |paths: &HashSet<Vec<u8>>| paths.contains(&child_path);
            if self.rules.left_out.is_some_and(is_left_out) {
                continue;
            }
            let is_file_only = matches!(self.tree, Tree::Files { .. });
            if child.name.starts_with(WHITEOUT) && !is_file_only {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "'{}' cannot be put into a layer: there, names that begin with .wh. hide others",
                        String::from_utf8_lossy(&child_path)
                    ),
                )
                .hint("rename the file"));
            }
            if matches!(self.tree, Tree::Upper) && is_whiteout(&child.stat) {
                listing.hidden.push(child.name);
            } else if is_whiteout(&child.stat) || is_socket(&child.stat) {
                self.left_out.push(OsStr::from_bytes(&child_path).into());
                if below.is_some() {
                    listing.hidden.push(child.name);
                }
            } else {
                children.push(child);
            }
        }
        let mut hidden: Vec<Vec<u8>> = listing
            .hidden
            .into_iter()
            .map(|name| [WHITEOUT, &name].concat())
            .collect();
        if hides || replaces {
            hidden.push(OPAQUE.to_vec());
        }
        hidden.sort();
        hidden.dedup();
        children.sort_by(|a, b| a.name.cmp(&b.name));
        for name in hidden {
            self.writer.append(
                &Entry::new(EntryKind::File, join(path, &name)),
                &mut io::empty(),
            )?;
        }
        for child in children {
            self.child(directory, join(path, &child.name), &child, below)?;
        }
        Ok(())
    }

    fn is_without(&self, path: &[u8]) -> bool {
        let mut without = self.rules.without.iter();
        without.any(|other| other.as_os_str().as_bytes() == path)
    }

    fn everything(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<Listing> {
        let mut listing = Listing::default();
        for name in names(directory)? {
            if let Some(stat) = stat_child(directory, &name)? {
                listing.children.push(Child {
                    name,
                    stat,
                    kept: false,
                    replaces: false,
                });
            }
        }
        Ok(listing)
    }

    /// What differs from the tree below, and what is on the way to that.
    fn difference(
        &self,
        directory: BorrowedFd<'_>,
        below: BorrowedFd<'_>,
        changes: &Changes,
    ) -> rustix::io::Result<Listing> {
        let mut listing = Listing::default();
        let mut before = HashMap::new();
        let is_changed = changes.is_changed(fstat(directory)?.st_ino);
        if is_changed {
            before.extend(entries(below)?);
        }
        for (name, inode) in entries(directory)? {
            // In a directory in which no name came or went, all are kept.
            if !is_changed && !changes.is_reached(inode) {
                continue;
            }
            let Some(stat) = stat_child(directory, &name)? else {
                continue;
            };
            let former = before.remove(&name);
            let kept = !is_changed || (former == Some(stat.st_ino) && stat.st_dev == self.device);
            if !kept || changes.is_reached(stat.st_ino) {
                listing.children.push(Child {
                    name,
                    stat,
                    kept,
                    replaces: !kept && former.is_some(),
                });
            }
        }
        listing.hidden.extend(before.into_keys());
        Ok(listing)
    }

    fn child(
        &mut self,
        directory: BorrowedFd<'_>,
        path: Vec<u8>,
        child: &Child,
        below: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let Child {
            name, stat, kept, ..
        } = child;
        if path.len() > MAX_PATH {
            return Err(Error::new(
                Kind::Invalid,
                format!("a path of {} bytes is too long for a layer", path.len()),
            ));
        }
        let what = || format!("read '{}'", String::from_utf8_lossy(&path));
        let file_name = OsStr::from_bytes(name);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if self.is_without(&path) => return Ok(()),
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => {
                let what = || format!("read '{}'", String::from_utf8_lossy(&path));
                let below = match below.filter(|_| *kept) {
                    Some(below) => Some(open_child(below, OsStr::from_bytes(name)).doing(what)?),
                    None => None,
                };
                let below = below.as_ref().map(AsFd::as_fd);
                return self.subdirectory(directory, &path, child, below);
            }
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Fifo => EntryKind::Fifo,
            _ => return Ok(()),
        };
        let mut entry = self.entry(kind, &path, stat);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                entry.kind = EntryKind::HardLink;
                entry.link.clone_from(first);
                return self.writer.append(&entry, &mut io::empty());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        match kind {
            EntryKind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = openat(directory, file_name, flags, Mode::empty()).doing(what)?;
                // What is open may have taken the place of what was seen.
                let stat = fstat(&fd).doing(what)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Errno::STALE).doing(what);
                }
                entry.size = stat.st_size as u64;
                entry.xattrs = xattrs(fd.as_fd(), &entry)?;
                self.writer.append(&entry, &mut std::fs::File::from(fd))
            }
            _ => {
                if kind == EntryKind::Symlink {
                    let target = readlinkat(directory, file_name, Vec::new()).doing(what)?;
                    entry.link = target.into_bytes();
                } else {
                    entry.device = (major(stat.st_rdev), minor(stat.st_rdev));
                }
                entry.xattrs = xattrs_at(directory, name, &entry)?;
                self.writer.append(&entry, &mut io::empty())
            }
        }
    }

    fn subdirectory(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &[u8],
        child: &Child,
        below: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let what = || format!("read '{}'", String::from_utf8_lossy(path));
        let mut entry = self.entry(EntryKind::Directory, &[path, b"/"].concat(), &child.stat);
        let resolve = match self.tree {
            Tree::Files { mounts: true } => ResolveFlags::NO_SYMLINKS,
            _ => ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS,
        };
        let name = OsStr::from_bytes(&child.name);
        let opened = open_below(parent, name, OFlags::RDONLY, resolve);
        let directory: OwnedFd = match opened {
            // Something else is mounted there: the directory belongs to the tree, its content does not.
            Err(Errno::XDEV) => return self.writer.append(&entry, &mut io::empty()),
            opened => opened.doing(what)?,
        };
        entry.xattrs = xattrs(directory.as_fd(), &entry)?;
        self.writer.append(&entry, &mut io::empty())?;
        if self.is_without(path) {
            return Ok(());
        }
        self.directory(directory.as_fd(), path, below, child.replaces)
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path.is_empty() {
        true => name.to_vec(),
        false => [path, b"/", name].concat(),
    }
}

/// A socket is nothing without the process that made it.
fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    matches!(fgetxattr(directory, OPAQUE_XATTR, &mut value), Ok(1)) && value == *b"y"
}

fn xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let what = || format!("read the attributes of '{}'", entry.name());
    let mut all = Vec::new();
    for name in xattr_names(fd).doing(what)? {
        let mut value = vec![0; MAX_XATTR];
        let length = fgetxattr(fd, OsStr::from_bytes(&name), &mut value).doing(what)?;
        value.truncate(length);
        all.push((name, value));
    }
    sorted(all, entry)
}

/// The same for what must not be opened.
fn xattrs_at(
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let what = || format!("read the attributes of '{}'", entry.name());
    let folder = format!("/proc/self/fd/{}/", directory.as_raw_fd());
    let path = [folder.as_bytes(), name].concat();
    let path = OsStr::from_bytes(&path);
    let mut list = vec![0; MAX_XATTR];
    let length = match llistxattr(path, &mut list) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error).doing(what),
    };
    let mut all = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if name.is_empty() || !is_portable(name) {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
        let length = lgetxattr(path, OsStr::from_bytes(name), &mut value).doing(what)?;
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    sorted(all, entry)
}

fn sorted(mut all: Vec<(Vec<u8>, Vec<u8>)>, entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    if let Some((name, _)) = all.iter().find(|(name, _)| name.contains(&b'=')) {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "the attribute {} of '{}' cannot be put into a layer: its name holds a '='",
                String::from_utf8_lossy(name),
                entry.name()
            ),
        ));
    }
    all.sort();
    Ok(all)
}

/// Each directory on the way down is held open, and a path may have more of them than the usual limit of descriptors.
pub(crate) fn allow_depth() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Where it stays low, a deep tree fails with EMFILE.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;
    use crate::tar::read::Reader;
    use crate::tree::open_directory;
    use crate::unpack::extract;

    /// Directories in each other, whose path together has so many bytes.
    fn deep(root: &OwnedFd, length: usize) {
        let mut here = root.try_clone().unwrap();
        let mut left = length;
        while left > 0 {
            let name = "d".repeat(if left > 255 { 200 } else { left });
            mkdirat(&here, &*name, Mode::RWXU).unwrap();
            here = open_child(&here, OsStr::new(&name)).unwrap();
            left = left.saturating_sub(name.len() + 1);
        }
    }

    #[test]
    fn the_longest_path_that_is_packed_is_read_and_unpacked_again() {
        let [from, to, too_deep] = [0; 3].map(|_| tempfile::tempdir().unwrap());
        let [from, to, too_deep] =
            [&from, &to, &too_deep].map(|d| open_directory(d.path()).unwrap());
        deep(&from, MAX_PATH);
        deep(&too_deep, MAX_PATH + 1);
        let pack = |root: &OwnedFd| pack(root.as_fd(), Tree::Whole, Rules::default(), Vec::new());
        let (archive, _) = pack(&from).unwrap();
        let mut reader = Reader::new(&*archive);
        let mut longest = 0;
        while let Some(entry) = reader.next().unwrap() {
            longest = longest.max(entry.path.len());
        }
        assert_eq!(longest, MAX_PATH + 1, "with a slash at its end");
        extract(to.as_fd(), &*archive, |_| true).unwrap();
        let (again, _) = pack(&to).unwrap();
        assert_eq!(again.len(), archive.len());
        assert!(pack(&too_deep).is_err());
    }
}
