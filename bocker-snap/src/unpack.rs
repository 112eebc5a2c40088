//! Applies one layer's archive to a tree, as the image-spec's layer.md says, and never to anything outside of it.
//!
//! The tree is a plain directory for the lowest layer, and for the others a private overlay mount of which the directory
//! of the new layer is the upper one: so the kernel itself copies up, whites out and makes opaque, and a path through a
//! symbolic link of a lower layer ends where it would in the container.
//!
//! Every path is resolved by openat2(2) with the tree as its root, all but its last component, which no call follows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use bocker_pipe::step::interruption;
use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chmod, chownat, fchmod, fchown, fremovexattr, fsetxattr, fstat, futimens, linkat,
    lsetxattr, makedev, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::tar::read::Reader;
use crate::tar::{Entry, EntryKind, Time};
use crate::tree::{self, is_portable, names, open_below, open_child, remove_all, xattr_names};
use crate::writeback::{self, Writeback};

/// What an entry's name begins with that is none but says what is hidden (layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Hides everything that lower layers have in its directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of AUFS, which some old images still carry; they are no part of the tree.
const AUFS: &[u8] = b".wh..wh.";
/// Where AUFS kept files with several names: what is in it, in the root, is there for hard links to name it.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";
/// The most entries that a layer may have, with the directories that it has to have beside them.
const MAX_ENTRIES: usize = 4_000_000;
/// How many bytes of paths are remembered before what they are remembered for is done.
const MAX_REMEMBERED: usize = 16 << 20;
/// How many symbolic links a path may lead through, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// How many directories are held open at most.
const MAX_OPEN: usize = 64;

/// A directory of the tree, held open.
struct Place {
    fd: OwnedFd,
    /// From the root of the tree, without symbolic links; empty for the root itself.
    path: Vec<u8>,
}

/// Device and number.
type Inode = (u64, u64);

/// Where a file went that overlayfs has copied up for one of its names.
struct Parted {
    inode: Inode,
    /// What is known of its names.
    names: [Vec<u8>; 2],
}

/// Applies archives to the tree below `root`.
struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    /// What the root's own path is, which the kernel puts before those below it.
    root_path: Vec<u8>,
    /// Whether there are lower layers, of which something can be hidden.
    has_lower: bool,
    /// Whether files are added to what is there, and nothing is a layer.
    adds: bool,
    /// Directories by the name under which entries reach them.
    open: HashMap<Vec<u8>, Rc<Place>>,
    /// What this layer has written and the directories above: whiteouts hide nothing of it, in whichever order they come.
    written: Paths,
    /// Entries, and directories made for them.
    count: usize,
    /// When directories were modified, set at the end, after the last change in them.
    times: HashMap<Vec<u8>, Timestamps>,
    /// Files of lower layers with several names of which overlayfs has taken one away from the others, by their former inode.
    parted: HashMap<Inode, Parted>,
    /// Those of their names that were not removed since, with the former inode: another file may have got the number of one that is gone.
    parted_names: BTreeMap<Vec<u8>, Inode>,
    /// How many bytes the paths in the two take: a layer can have millions, of a page each.
    remembered: usize,
    writeback: Writeback,
    warned: bool,
}

/// Unpacks an archive into the tree below `root`. `has_lower` says that the tree shows lower layers too.
pub(crate) fn unpack(root: BorrowedFd<'_>, has_lower: bool, archive: impl BufRead) -> Result<()> {
    let mut unpacker = Unpacker::new(root, has_lower)?;
    let mut reader = Reader::new(archive);
    while let Some(entry) = reader.next()? {
        interruption()?;
        unpacker.entry(&entry, &mut reader)?;
    }
    reader.finish()?;
    unpacker.finish()
}

/// Adds the files of an archive to the directory `root`, as tar(1) would: any name is a file's, `.wh.` names too, nothing of another
/// kind takes a directory's place or gives way to one, and directories that are only passed keep their times. `admit` sees each
/// entry before, may alter it, and says whether it is taken. Fails with [`Kind::Exists`] where a directory is in the way.
pub(crate) fn extract(
    root: BorrowedFd<'_>,
    archive: impl BufRead,
    mut admit: impl FnMut(&mut Entry) -> bool,
) -> Result<()> {
    let mut unpacker = Unpacker::new(root, false)?;
    unpacker.adds = true;
    let mut reader = Reader::new(archive);
    while let Some(mut entry) = reader.next()? {
        interruption()?;
        if admit(&mut entry) {
            unpacker.add(&entry, &mut reader)?;
        }
    }
    reader.finish()?;
    unpacker.settle()
}

/// The components of a path in an archive: relative to the root whether it begins with a slash or not.
/// Fails with [`Kind::Invalid`] on `..`, which nothing honest needs.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| match part {
            b".." => Err(Error::new(
                Kind::Invalid,
                format!("a layer names '{}'", String::from_utf8_lossy(path)),
            )),
            part => Ok(part),
        })
        .collect()
}

impl<'a> Unpacker<'a> {
    fn new(root: BorrowedFd<'a>, has_lower: bool) -> Result<Unpacker<'a>> {
        Ok(Unpacker {
            root,
            root_path: path_of(root)?,
            has_lower,
            adds: false,
            open: HashMap::new(),
            written: Paths::default(),
            count: 0,
            times: HashMap::new(),
            parted: HashMap::new(),
            parted_names: BTreeMap::new(),
            remembered: 0,
            writeback: Writeback::default(),
            warned: false,
        })
    }

    fn entry(&mut self, entry: &Entry, data: &mut (impl BufRead + ?Sized)) -> Result<()> {
        self.count()?;
        if self.remembered > MAX_REMEMBERED {
            self.settle()?;
        }
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root_entry(entry);
        };
        let is_aufs = |part: &&[u8]| part.starts_with(AUFS) && *part != OPAQUE;
        let linked = parents == [AUFS_LINKS] && entry.kind == EntryKind::File && !is_aufs(name);
        if parts.iter().any(is_aufs) && !linked {
            return Ok(());
        }
        let reserved = || {
            Err(Error::new(
                Kind::Invalid,
                format!("a layer names '{}', which is reserved", entry.name()),
            ))
        };
        if !linked && parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return reserved();
        }
        let parents = parents.join(&b'/');
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return match hidden {
                // Nothing, the directory itself, and the one above, which may be that of the root.
                b"" | b"." | b".." => reserved(),
                _ => self.whiteout(&parents, name, hidden),
            };
        }
        let place = self.make_place(&parents)?;
        // A character device 0:0 is how overlayfs says that a name is hidden; other tools unpack one to just that.
        if entry.kind == EntryKind::CharDevice && entry.device == (0, 0) {
            return self.remove(&place, name).doing(|| hide(entry));
        }
        self.write(&place, name, entry, data)?;
        self.note(&place, name);
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.count += 1;
        match self.count.max(self.written.0.len()) > MAX_ENTRIES {
            true => Err(Error::new(
                Kind::Invalid,
                format!("a layer has more than {MAX_ENTRIES} entries"),
            )),
            false => Ok(()),
        }
    }

    /// What can be done only when everything else is.
    fn finish(mut self) -> Result<()> {
        let root = Place {
            fd: self.resolve(b"").doing(|| "open the root".into())?,
            path: Vec::new(),
        };
        if self.exists(&root, AUFS_LINKS) {
            self.remove(&root, AUFS_LINKS)
                .doing(|| "remove what hard links named".into())?;
        }
        self.settle()
    }

    /// Does what was put off, as if the layer ended here. It may go on: of a directory that changes after this, the time is taken
    /// down again before it does.
    fn settle(&mut self) -> Result<()> {
        self.join_parted()?;
        self.set_times()?;
        self.open.clear();
        self.remembered = 0;
        Ok(())
    }

    /// Remembers the time of a directory, until it is set.
    fn keep_time(&mut self, path: Vec<u8>, times: Timestamps) {
        self.remembered += path.len() + size_of::<(Vec<u8>, Timestamps)>();
        self.times.insert(path, times);
    }

    /// What [`extract`] does with one entry. The directory that is added to stays as it is.
    fn add(&mut self, entry: &Entry, data: &mut (impl BufRead + ?Sized)) -> Result<()> {
        self.count()?;
        if self.remembered > MAX_REMEMBERED {
            self.settle()?;
        }
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(());
        };
        let place = self.make_place(&parents.join(&b'/'))?;
        let is_directory = entry.kind == EntryKind::Directory;
        match self.exists(&place, name) {
            true if self.is_directory(&place, name) != is_directory => {
                let (old, new) = match is_directory {
                    true => ("what is no directory", "a directory"),
                    false => ("a directory", "what is none"),
                };
                Err(Error::new(
                    Kind::Exists,
                    format!("'{}': {old} is not replaced by {new}", entry.name()),
                )
                .hint("remove it first"))
            }
            _ => self.write(&place, name, entry, data),
        }
    }

    /// The attributes of the root, which can only be a directory (CVE-2021-29136).
    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::new(
                Kind::Invalid,
                "a layer replaces the root by something that is no directory",
            ));
        }
        let root = openat(
            self.root,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .doing(|| "open the root of the layer".into())?;
        self.set_attributes(&root, entry, true)?;
        self.keep_time(Vec::new(), timestamps(entry.mtime));
        Ok(())
    }

    fn write(
        &mut self,
        place: &Rc<Place>,
        name: &[u8],
        entry: &Entry,
        data: &mut (impl BufRead + ?Sized),
    ) -> Result<()> {
        let what = || format!("unpack '{}'", entry.name());
        let file_name = OsStr::from_bytes(name);
        // As it is to be, where that lets in nobody before the owner is set. Set-id bits come last.
        let permissions = Mode::from_raw_mode(match (entry.uid, entry.gid) {
            (0, 0) => entry.mode & 0o777,
            _ => 0o700,
        });
        match entry.kind {
            EntryKind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = self
                    .replacing(place, name, |fd| openat(fd, file_name, flags, permissions))
                    .doing(what)?;
                let file = Rc::new(File::from(fd));
                self.fill(&file, entry, data)?;
                self.set_attributes(&*file, entry, false)?;
                futimens(&*file, &timestamps(entry.mtime)).doing(what)
            }
            EntryKind::Directory => {
                let existed = match mkdirat(&place.fd, file_name, permissions) {
                    Ok(()) => false,
                    Err(Errno::EXIST) if self.is_directory(place, name) => true,
                    Err(Errno::EXIST) => {
                        self.replacing(place, name, |fd| mkdirat(fd, file_name, permissions))
                            .doing(what)?;
                        false
                    }
                    Err(error) => return Err(error).doing(what),
                };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = openat(&place.fd, file_name, flags, Mode::empty()).doing(what)?;
                self.set_attributes(&directory, entry, existed)?;
                self.keep_time(below(&place.path, name), timestamps(entry.mtime));
                Ok(())
            }
            EntryKind::HardLink => self.hard_link(place, name, entry),
            EntryKind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                self.replacing(place, name, |fd| symlinkat(target, fd, file_name))
                    .doing(what)?;
                self.set_attributes_at(place, name, entry)
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                self.replacing(place, name, |fd| {
                    mknodat(fd, file_name, kind, Mode::RUSR | Mode::WUSR, device)
                })
                .doing(what)?;
                self.set_attributes_at(place, name, entry)
            }
        }
    }

    /// The file's data, with holes where a sparse one has them.
    fn fill(
        &mut self,
        file: &Rc<File>,
        entry: &Entry,
        data: &mut (impl BufRead + ?Sized),
    ) -> Result<()> {
        let what = || format!("unpack '{}'", entry.name());
        let mut writer = &**file;
        let whole = [(0, entry.size)];
        let pieces = entry
            .sparse
            .as_ref()
            .map_or(&whole[..], |sparse| &sparse.pieces);
        for (offset, length) in pieces {
            if entry.sparse.is_some() {
                writer.seek(SeekFrom::Start(*offset)).doing(what)?;
            }
            let mut left = *length;
            let mut unsent = 0;
            while left > 0 {
                interruption()?;
                // From where it was decompressed to, in pieces as large as they come.
                match data.fill_buf() {
                    Ok([]) => return Err(Errno::NODATA).doing(what),
                    Ok(there) => {
                        let count = usize::try_from(left).unwrap_or(usize::MAX).min(there.len());
                        writer.write_all(&there[..count]).doing(what)?;
                        data.consume(count);
                        left -= count as u64;
                        unsent += count as u64;
                        if unsent >= writeback::PIECE || left == 0 && *length >= writeback::LEAST {
                            let at = offset + length - left - unsent;
                            self.writeback.send(file, at, unsent);
                            unsent = 0;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error).doing(what),
                }
            }
        }
        match &entry.sparse {
            Some(sparse) => file.set_len(sparse.length).doing(what),
            None => Ok(()),
        }
    }

    /// Another name of a file that is there already, perhaps from a lower layer. Its target is never followed.
    fn hard_link(&mut self, place: &Rc<Place>, name: &[u8], entry: &Entry) -> Result<()> {
        let target = String::from_utf8_lossy(&entry.link);
        let what = || format!("unpack '{}', a hard link to '{target}'", entry.name());
        let parts = components(&entry.link)?;
        let missing = || Err(Errno::NOENT).doing(what);
        let Some((target_name, parents)) = parts.split_last() else {
            return missing();
        };
        let Some(target_place) = self.find_place(&parents.join(&b'/'))? else {
            return missing();
        };
        if below(&place.path, name) == below(&target_place.path, target_name) {
            return if self.exists(place, name) {
                Ok(())
            } else {
                missing()
            };
        }
        let mut before = self.stat(&target_place, target_name).doing(what)?;
        if self.join(&target_place, target_name, &before)? {
            before = self.stat(&target_place, target_name).doing(what)?;
        }
        let (from, to) = (OsStr::from_bytes(target_name), OsStr::from_bytes(name));
        self.replacing(place, name, |fd| {
            linkat(&target_place.fd, from, fd, to, AtFlags::empty())
        })
        .doing(what)?;
        if self.has_lower && before.st_nlink > 1 {
            let after = self.stat(place, name).doing(what)?;
            if inode(&after) != inode(&before) {
                let names = [
                    below(&place.path, name),
                    below(&target_place.path, target_name),
                ];
                let former = inode(&before);
                for name in &names {
                    self.remembered += 2 * name.len() + size_of::<(Inode, Parted)>();
                    self.parted_names.insert(name.clone(), former);
                }
                let inode = inode(&after);
                self.parted.insert(former, Parted { inode, names });
            }
        }
        Ok(())
    }

    /// Makes a name one of a file's again that was parted from it. Answers whether it was one.
    fn join(&mut self, place: &Rc<Place>, name: &[u8], stat: &Stat) -> Result<bool> {
        let Some(parted) = self.parted.get(&inode(stat)) else {
            return Ok(false);
        };
        let (target, names) = (parted.inode, parted.names.clone());
        let former = inode(stat);
        for other in names {
            if self.parted_names.get(&other) != Some(&former) {
                continue;
            }
            let end = other.iter().rposition(|byte| *byte == b'/');
            let (parent, from) = match end {
                Some(end) => (&other[..end], &other[end + 1..]),
                None => (&b""[..], &other[..]),
            };
            let Some(from_place) = self.find_place(parent)? else {
                continue;
            };
            let found = self.stat(&from_place, from);
            if !found.is_ok_and(|found| inode(&found) == target) {
                continue;
            }
            let (from, to) = (OsStr::from_bytes(from), OsStr::from_bytes(name));
            self.replacing(place, name, |fd| {
                linkat(&from_place.fd, from, fd, to, AtFlags::empty())
            })
            .doing(|| {
                format!(
                    "link '{}'",
                    String::from_utf8_lossy(&below(&place.path, name))
                )
            })?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Does so with all names that are left, wherever they are: an image is to be the same tree on every filesystem.
    fn join_parted(&mut self) -> Result<()> {
        let mut pending = match self.parted.is_empty() {
            true => Vec::new(),
            false => vec![Vec::new()],
        };
        while let Some(path) = pending.pop() {
            let what = || format!("read '{}'", String::from_utf8_lossy(&path));
            interruption()?;
            // No link is followed: only directories come here.
            let directory = self.resolve(&path).doing(what)?;
            for name in names(open_child(&directory, OsStr::new(".")).doing(what)?).doing(what)? {
                let file_name = OsStr::from_bytes(&name);
                let stat = statat(&directory, file_name, AtFlags::SYMLINK_NOFOLLOW).doing(what)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    pending.push(below(&path, &name));
                } else if self.parted.contains_key(&inode(&stat)) {
                    let place = self.make_place(&path)?;
                    self.join(&place, &name, &stat)?;
                }
            }
        }
        self.parted.clear();
        self.parted_names.clear();
        Ok(())
    }

    /// Owner, extended attributes, mode, in this order: a change of owner takes set-id bits and capabilities away.
    /// What existed already loses the attributes that the entry does not name.
    fn set_attributes(&mut self, fd: impl AsFd, entry: &Entry, existed: bool) -> Result<()> {
        let what = || format!("unpack '{}'", entry.name());
        // To look costs less than to change: most files are made as they should be.
        let stat = fstat(&fd).doing(what)?;
        let is_owned = (stat.st_uid, stat.st_gid) == (entry.uid, entry.gid);
        if !is_owned {
            let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(&fd, Some(owner.0), Some(owner.1)).doing(what)?;
        }
        if existed {
            for name in xattr_names(&fd).doing(what)? {
                if !entry.xattrs.iter().any(|(other, _)| *other == name) {
                    fremovexattr(&fd, OsStr::from_bytes(&name)).doing(what)?;
                }
            }
        }
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_portable(name)) {
            let result = fsetxattr(&fd, OsStr::from_bytes(name), value, XattrFlags::empty());
            self.judge_xattr(result, entry, name)?;
        }
        // An attribute may have changed the mode: an access control list does.
        let is_dressed = is_owned && !existed && entry.xattrs.is_empty();
        match Mode::from_raw_mode(entry.mode) {
            mode if is_dressed && Mode::from_raw_mode(stat.st_mode) == mode => Ok(()),
            mode => fchmod(&fd, mode).doing(what),
        }
    }

    /// The same, and the time, for what must not be opened: symbolic links, devices and FIFOs.
    fn set_attributes_at(&mut self, place: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let what = || format!("unpack '{}'", entry.name());
        let file_name = OsStr::from_bytes(name);
        let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&place.fd, file_name, Some(owner.0), Some(owner.1), flags).doing(what)?;
        // The calls for attributes take no directory: the descriptor stands for it in a path.
        let directory = format!("/proc/self/fd/{}/", place.fd.as_raw_fd());
        let path = [directory.as_bytes(), name].concat();
        let path = OsStr::from_bytes(&path);
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_portable(name)) {
            let result = lsetxattr(path, OsStr::from_bytes(name), value, XattrFlags::empty());
            self.judge_xattr(result, entry, name)?;
        }
        if entry.kind != EntryKind::Symlink {
            // chmod(2) follows a last symbolic link, but this name was made a device just now in a tree of our own.
            chmod(path, Mode::from_raw_mode(entry.mode)).doing(what)?;
        }
        utimensat(&place.fd, file_name, &timestamps(entry.mtime), flags).doing(what)
    }

    fn judge_xattr(
        &mut self,
        result: rustix::io::Result<()>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<()> {
        let attribute = String::from_utf8_lossy(name);
        match result {
            // xattr(7): user attributes are for files and directories only.
            Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
            Err(Errno::OPNOTSUPP) => {
                if !std::mem::replace(&mut self.warned, true) {
                    let line = format!(
                        "bocker-snap: this filesystem keeps no {}: '{}' and others lack it\n",
                        attribute.escape_debug(),
                        entry.name().escape_debug()
                    );
                    let _ = io::stderr().write_all(line.as_bytes());
                }
                Ok(())
            }
            result => result.doing(|| format!("set {attribute} of '{}'", entry.name())),
        }
    }

    /// Hides one name, or everything in its directory, of lower layers.
    fn whiteout(&mut self, parents: &[u8], name: &[u8], hidden: &[u8]) -> Result<()> {
        if !self.has_lower {
            return Ok(());
        }
        let Some(place) = self.find_place(parents)? else {
            return Ok(());
        };
        let shown = below(parents, hidden);
        let what = || format!("hide '{}'", String::from_utf8_lossy(&shown));
        if name == OPAQUE {
            let directory = open_child(&place.fd, OsStr::from_bytes(b".")).doing(what)?;
            return self.prune(&directory, &place.path).doing(what);
        }
        let path = below(&place.path, hidden);
        if !self.written.contains(&path) {
            return self.remove(&place, hidden).doing(what);
        }
        match open_child(&place.fd, OsStr::from_bytes(hidden)) {
            Ok(directory) => self.prune(&directory, &path).doing(what),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(()),
            Err(error) => Err(error).doing(what),
        }
    }

    /// Removes everything below a directory but what this layer has written.
    fn prune(&mut self, directory: &OwnedFd, path: &[u8]) -> rustix::io::Result<()> {
        self.open.clear();
        if !self.times.contains_key(path) {
            self.keep_time(path.to_vec(), tree::times(&fstat(directory)?));
        }
        for name in Dir::read_from(directory)? {
            let name = name?;
            let name = name.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let file_name = OsStr::from_bytes(name);
            let path = below(path, name);
            if !self.written.contains(&path) {
                self.forget(&path);
                remove_all(directory.as_fd(), file_name)?;
                continue;
            }
            match open_child(directory, file_name) {
                Ok(child) => self.prune(&child, &path)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes something under a name, removing what has it first if need be.
    fn replacing<T>(
        &mut self,
        place: &Place,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make(place.fd.as_fd()) {
            Err(Errno::EXIST) => {
                self.remove(place, name)?;
                make(place.fd.as_fd())
            }
            result => result,
        }
    }

    fn remove(&mut self, place: &Place, name: &[u8]) -> rustix::io::Result<()> {
        // Names of open directories may lead through it.
        self.open.clear();
        self.forget(&below(&place.path, name));
        remove_all(place.fd.as_fd(), OsStr::from_bytes(name))
    }

    /// Remembers no longer that files parted from others are at a path and below.
    fn forget(&mut self, path: &[u8]) {
        if self.parted_names.is_empty() {
            return;
        }
        self.parted_names.remove(path);
        let below = [path, b"/"].concat();
        let names = self.parted_names.range(below.clone()..);
        let names: Vec<_> = names
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(&below))
            .collect();
        for name in names {
            self.parted_names.remove(&name);
        }
    }

    fn stat(&self, place: &Place, name: &[u8]) -> rustix::io::Result<Stat> {
        statat(
            &place.fd,
            OsStr::from_bytes(name),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    fn exists(&self, place: &Place, name: &[u8]) -> bool {
        self.stat(place, name).is_ok()
    }

    fn is_directory(&self, place: &Place, name: &[u8]) -> bool {
        self.stat(place, name)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Remembers a name as written by this layer, with the directories above it.
    fn note(&mut self, place: &Place, name: &[u8]) {
        if !self.has_lower {
            return;
        }
        self.written.insert(&below(&place.path, name));
        let mut path = place.path.as_slice();
        while !path.is_empty() && self.written.insert(path) {
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            path = &path[..end];
        }
    }

    /// The directory of a path, or none if there is none.
    fn find_place(&mut self, path: &[u8]) -> Result<Option<Rc<Place>>> {
        if let Some(place) = self.open.get(path) {
            return Ok(Some(Rc::clone(place)));
        }
        match self.resolve(path) {
            Ok(fd) => self.hold(path, fd).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error).doing(|| format!("open '{}'", String::from_utf8_lossy(path))),
        }
    }

    /// The directory of a path, made with those above it (0755, of root) where it is missing.
    fn make_place(&mut self, path: &[u8]) -> Result<Rc<Place>> {
        if let Some(place) = self.open.get(path) {
            return Ok(Rc::clone(place));
        }
        let what = || format!("open '{}'", String::from_utf8_lossy(path));
        match self.resolve(path) {
            Ok(fd) => self.hold(path, fd),
            Err(Errno::NOENT) => {
                self.make_directories(path, MAX_LINKS)?;
                let fd = self.resolve(path).doing(what)?;
                self.hold(path, fd)
            }
            Err(error) => Err(error).doing(what),
        }
    }

    fn resolve(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        open_below(self.root, OsStr::from_bytes(path), OFlags::PATH, resolve)
    }

    fn hold(&mut self, name: &[u8], fd: OwnedFd) -> Result<Rc<Place>> {
        let path = path_of(fd.as_fd())?;
        let path = path
            .strip_prefix(self.root_path.as_slice())
            .unwrap_or(&path);
        let path = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        if !self.adds && !self.times.contains_key(&path) {
            let stat = fstat(&fd).doing(|| "examine a directory".into())?;
            self.keep_time(path.clone(), tree::times(&stat));
        }
        let place = Rc::new(Place { fd, path });
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(name.to_vec(), Rc::clone(&place));
        Ok(place)
    }

    /// Makes each missing directory of a path, beyond dangling symbolic links too: they lead to places in the tree.
    fn make_directories(&mut self, path: &[u8], links: usize) -> Result<()> {
        let what = || format!("make '{}'", String::from_utf8_lossy(path));
        let parts: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .collect();
        for end in 1..=parts.len() {
            let here = parts[..end].join(&b'/');
            match self.resolve(&here) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).doing(what),
            }
            let above = parts[..end - 1].join(&b'/');
            let parent = self.resolve(&above).doing(what)?;
            let parent = self.hold(&above, parent)?;
            let name = OsStr::from_bytes(parts[end - 1]);
            match mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    self.count()?;
                    continue;
                }
                Err(Errno::EXIST) if links > 0 => {}
                Err(Errno::EXIST) => return Err(Errno::LOOP).doing(what),
                Err(error) => return Err(error).doing(what),
            }
            let target = readlinkat(&parent.fd, name, Vec::new()).doing(what)?;
            let target = target.as_bytes();
            let beside = match target.first() {
                Some(b'/') => target.to_vec(),
                _ => below(&above, target),
            };
            self.make_directories(&beside, links - 1)?;
        }
        Ok(())
    }

    /// Sets the times of all directories that were touched. One that is no longer there has none.
    fn set_times(&mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times) {
            let what = || format!("set the time of '{}'", String::from_utf8_lossy(&path));
            let place = OsStr::from_bytes(if path.is_empty() { b"." } else { &path });
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match open_below(self.root, place, OFlags::RDONLY, resolve) {
                Ok(directory) => futimens(&directory, &times).doing(what)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error).doing(what),
            }
        }
        Ok(())
    }
}

/// A set of paths, by hashes of 128 bits with keys that nobody knows: however long the paths are, it takes little memory.
#[derive(Default)]
struct Paths(HashSet<(u64, u64)>, [RandomState; 2]);

impl Paths {
    /// Answers whether the path was not in it.
    fn insert(&mut self, path: &[u8]) -> bool {
        let hash = self.hash(path);
        self.0.insert(hash)
    }

    fn contains(&self, path: &[u8]) -> bool {
        self.0.contains(&self.hash(path))
    }

    fn hash(&self, path: &[u8]) -> (u64, u64) {
        let [first, second] = &self.1;
        (first.hash_one(path), second.hash_one(path))
    }
}

fn inode(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

fn hide(entry: &Entry) -> String {
    format!("hide '{}'", entry.name())
}

fn below(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent.is_empty() {
        true => name.to_vec(),
        false => [parent, b"/", name].concat(),
    }
}

/// The kernel's own name for an open directory.
fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlink(&link, Vec::new()).doing(|| format!("read {link}"))?;
    let path = path.into_bytes();
    Ok(if path == b"/" { Vec::new() } else { path })
}

fn timestamps(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use rustix::process::{getgid, getuid};

    use super::*;
    use crate::tar::write::Writer;
    use crate::tree::open_directory;

    /// An entry that whoever runs the tests may unpack.
    fn entry(kind: EntryKind, path: &str, link: &str) -> Entry {
        let mut entry = Entry::new(kind, path);
        entry.uid = getuid().as_raw();
        entry.gid = getgid().as_raw();
        entry.mode = if kind == EntryKind::Directory {
            0o755
        } else {
            0o644
        };
        entry.link = link.as_bytes().to_vec();
        entry
    }

    fn unpack_all(root: &Path, entries: &[Entry], has_lower: bool) -> Result<()> {
        let mut writer = Writer::new(Vec::new());
        for entry in entries {
            let data = vec![b'x'; entry.size as usize];
            writer.append(entry, &mut data.as_slice())?;
        }
        let archive = writer.finish()?;
        let root = open_directory(root)?;
        unpack(root.as_fd(), has_lower, archive.as_slice())
    }

    fn kind(number: usize) -> EntryKind {
        [
            EntryKind::File,
            EntryKind::Directory,
            EntryKind::Symlink,
            EntryKind::HardLink,
            EntryKind::Fifo,
        ][number]
    }

    /// Everything in a folder, without the times that reading changes.
    fn picture(folder: &Path) -> BTreeMap<std::path::PathBuf, String> {
        use std::os::unix::fs::MetadataExt;
        let mut all = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let data = fs::symlink_metadata(&path).unwrap();
                let line = format!(
                    "{:o} {} {} {}",
                    data.mode(),
                    data.nlink(),
                    data.ctime(),
                    data.ctime_nsec()
                );
                if data.is_dir() {
                    folders.push(path.clone());
                }
                all.insert(path, line);
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Few names, so that entries meet each other: links to folders that are then written through, replaced, hidden.
        #[test]
        fn no_sequence_of_entries_touches_anything_outside_the_root(
            steps in prop::collection::vec(
                (0_usize..5, "/?(a|b|\\.wh\\.a|\\.\\.|OUT|\\.wh\\.\\.wh\\.\\.opq)(/(a|b|\\.\\.|out|\\.wh\\.b|\\.)){0,3}",
                 "(a|b|\\.|/|/a|\\.\\./a|\\.\\./\\.\\./outside|OUT|OUT/secret|b/a/secret)", 0_u64..3, prop::bool::weighted(0.2)),
                1..25,
            ),
            has_lower in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let outside = folder.path().join("outside");
            fs::create_dir_all(outside.join("a/b")).unwrap();
            fs::create_dir_all(outside.join("b/a")).unwrap();
            fs::write(outside.join("secret"), "the host's").unwrap();
            let before = picture(&outside);
            let root = folder.path().join("root");
            fs::create_dir(&root).unwrap();
            let directory = open_directory(&root).unwrap();
            let mut unpacker = Unpacker::new(directory.as_fd(), has_lower).unwrap();
            for (number, path, link, size, ends) in steps {
                let place = outside.display().to_string();
                let (path, link) = (path.replace("OUT", &place), link.replace("OUT", &place));
                let mut entry = entry(kind(number), &path, &link);
                if entry.kind == EntryKind::File {
                    entry.size = size;
                }
                // An error is as good as success here; a layer ends, and another begins, anywhere.
                let _ = unpacker.entry(&entry, &mut &vec![b'x'; size as usize][..]);
                if ends {
                    let _ = unpacker.set_times();
                    unpacker = Unpacker::new(directory.as_fd(), has_lower).unwrap();
                }
            }
            let _ = unpacker.set_times();
            prop_assert_eq!(picture(&outside), before);
            let names: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
            prop_assert_eq!(names.len(), 2, "{:?}", names);
        }
    }

    #[test]
    fn the_times_of_a_directory_that_became_a_link_are_not_set_beyond_it() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, root) = (folder.path().join("outside"), folder.path().join("root"));
        fs::create_dir_all(outside.join("b")).unwrap();
        fs::create_dir(&root).unwrap();
        let before = picture(&outside);
        let entries = [
            entry(EntryKind::Directory, "a/b", ""),
            entry(EntryKind::Symlink, "a", &outside.display().to_string()),
        ];
        unpack_all(&root, &entries, true).unwrap();
        assert!(root.join("a").is_symlink());
        assert_eq!(picture(&outside), before);
    }

    #[test]
    fn an_archive_is_applied_in_order_and_in_one_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = entry(EntryKind::File, "a/b/file", "");
        first.size = 3;
        first.mtime.seconds = 1_000_000_000;
        let mut directory = entry(EntryKind::Directory, "a/b", "");
        directory.mtime.seconds = 1_100_000_000;
        directory.mode = 0o750;
        let entries = [
            directory,
            first,
            entry(EntryKind::HardLink, "a/hard", "/a/b/file"),
            entry(EntryKind::Symlink, "a/link", "b"),
            entry(EntryKind::File, "a/link/through", ""),
            entry(EntryKind::Symlink, "a/link", "nowhere"),
            entry(EntryKind::Fifo, "a/fifo", ""),
        ];
        unpack_all(folder.path(), &entries, false).unwrap();
        use std::os::unix::fs::MetadataExt;
        let data = |name: &str| fs::symlink_metadata(folder.path().join(name)).unwrap();
        assert_eq!(data("a/b/file").ino(), data("a/hard").ino());
        assert_eq!(data("a/b").mtime(), 1_100_000_000);
        assert_eq!(data("a/b").mode() & 0o7777, 0o750);
        assert_eq!(data("a/b/file").mtime(), 1_000_000_000);
        assert!(data("a/b/through").is_file());
        assert_eq!(
            fs::read_link(folder.path().join("a/link")).unwrap(),
            Path::new("nowhere")
        );
    }

    #[test]
    fn a_sparse_file_has_holes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let mut sparse = entry(EntryKind::File, "sparse", "");
        sparse.size = 4;
        sparse.sparse = Some(crate::tar::Sparse {
            pieces: vec![(1 << 20, 4)],
            length: 8 << 20,
        });
        let root = open_directory(folder.path()).unwrap();
        let mut unpacker = Unpacker::new(root.as_fd(), false).unwrap();
        unpacker.entry(&sparse, &mut &b"data"[..]).unwrap();
        let path = folder.path().join("sparse");
        let data = fs::metadata(&path).unwrap();
        assert_eq!(data.len(), 8 << 20);
        assert!(data.blocks() < 64, "{} blocks", data.blocks());
        assert_eq!(&fs::read(&path).unwrap()[1 << 20..][..6], b"data\0\0");
    }
}
