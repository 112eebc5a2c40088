//! Paths inside a container's root. The image may hold any symbolic link, and another container may be changing a volume
//! while we walk: every path is resolved by the kernel within the root (openat2(2), RESOLVE_IN_ROOT), and what is done
//! then is done to the descriptor that came of it, never to the path again (CVE-2021-30465, CVE-2024-45310).

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat,
};
use rustix::io::Errno;

/// path_resolution(7): how many symbolic links the kernel follows.
const MAX_LINKS: usize = 40;
/// openat2(2) answers EAGAIN when something was renamed meanwhile; it is asked again this often.
const TRIES: usize = 32;

/// A directory that is some container's root.
pub(crate) struct Root(OwnedFd);

/// What is made where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Directory,
    File,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Root {
    fn from(fd: OwnedFd) -> Root {
        Root(fd)
    }
}

impl Root {
    /// The directory at a path of the host.
    pub(crate) fn open(path: &Path) -> Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map(Root)
            .doing(|| format!("open the root {}", path.display()))
    }

    /// What is at `path`, symbolic links followed within the root, as an O_PATH descriptor.
    pub(crate) fn find(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// The same where no symbolic link may be on the way, for what only we mount: a link there is planted.
    pub(crate) fn find_without_links(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    fn resolve(
        &self,
        path: &str,
        flags: OFlags,
        more: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            result = openat2(
                &self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            );
            if result.as_ref().err() != Some(&Errno::AGAIN) {
                break;
            }
        }
        result
    }

    /// What is at `path`; where nothing is, it and the directories before it are made. A dangling link's target is made
    /// where the link points within the root (images link /etc/resolv.conf into an empty /run).
    pub(crate) fn find_or_make(&self, path: &str, make: Make) -> Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::NOENT) => self.make(path, make),
            result => result,
        }
        .doing(|| format!("make {path} in the container"))
    }

    /// Walks one component at a time, each opened relative to its parent without following it. `..` is taken back along
    /// the descriptors that led here, so that a directory moved elsewhere meanwhile leads nowhere else.
    fn make(&self, path: &str, make: Make) -> rustix::io::Result<OwnedFd> {
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut left: VecDeque<Vec<u8>> = components(path.as_bytes());
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == b".." {
                above.pop();
                continue;
            }
            let parent = above.last().map_or(self.0.as_fd(), AsFd::as_fd);
            let last = left.is_empty();
            let next = enter(parent, &name, if last { make } else { Make::Directory })?;
            match FileType::from_raw_mode(fstat(&next)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(parent, &*name, Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        above.clear();
                    }
                    for name in components(&target).into_iter().rev() {
                        left.push_front(name);
                    }
                }
                _ => above.push(next),
            }
        }
        match above.pop() {
            Some(found) => Ok(found),
            None => self.find("/"),
        }
    }

    /// The content of a regular file of at most `limit` bytes; `None` where there is no such file.
    /// A FIFO, a device or a huge file in its place is an error and neither blocks nor fills memory
    /// (CVE-2024-9676, CVE-2026-47262).
    pub(crate) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        // What it is is asked before it is opened for reading: opening a device can already act.
        let found = match self.find(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno).doing(|| format!("open {path} in the container")),
        };
        let refuse = |why: &str| {
            Err(
                Error::new(Kind::Invalid, format!("{path} of the container {why}"))
                    .hint("name the user by number"),
            )
        };
        if !is_regular(&found)? {
            return refuse("is not a regular file");
        }
        let fd = self
            .resolve(path, flags, ResolveFlags::empty())
            .doing(|| format!("open {path} in the container"))?;
        if !is_regular(&fd)? {
            return refuse("is not a regular file");
        }
        let mut bytes = Vec::new();
        File::from(fd)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .doing(|| format!("read {path} in the container"))?;
        if bytes.len() as u64 > limit {
            return refuse(&format!("is larger than {} MiB", limit >> 20));
        }
        Ok(Some(bytes))
    }
}

fn is_regular(fd: &OwnedFd) -> Result<bool> {
    let stat = fstat(fd).doing(|| "look at a file of the container".into())?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Opens `name` in `parent`, a symbolic link as itself; makes it where nothing is.
fn enter(parent: BorrowedFd, name: &[u8], make: Make) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    match make {
        Make::Directory => match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        },
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            match openat(parent, name, flags, Mode::from_raw_mode(0o644)) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        let root = Root::open(&folder.path().join("root")).unwrap();
        (folder, root)
    }

    #[test]
    fn what_is_missing_is_made_with_the_directories_before_it() {
        let (folder, root) = root();
        root.find_or_make("/a/b/file", Make::File).unwrap();
        root.find_or_make("/c/d", Make::Directory).unwrap();
        assert!(folder.path().join("root/a/b/file").is_file());
        assert!(folder.path().join("root/c/d").is_dir());
    }

    #[test]
    fn a_planted_link_leads_nowhere_outside() {
        let (folder, root) = root();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for (name, target) in [
            ("absolute", outside.to_str().unwrap().to_owned()),
            ("upwards", "../outside".to_owned()),
            ("far", "../../../../../../../../tmp".to_owned()),
        ] {
            symlink(target, folder.path().join("root").join(name)).unwrap();
            root.find_or_make(&format!("/{name}/x"), Make::File)
                .unwrap();
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_dangling_link_is_filled_within_the_root() {
        let (folder, root) = root();
        fs::create_dir(folder.path().join("root/etc")).unwrap();
        symlink(
            "../run/resolve/stub.conf",
            folder.path().join("root/etc/resolv.conf"),
        )
        .unwrap();
        root.find_or_make("/etc/resolv.conf", Make::File).unwrap();
        assert!(folder.path().join("root/run/resolve/stub.conf").is_file());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let (folder, root) = root();
        symlink("b", folder.path().join("root/a")).unwrap();
        symlink("a", folder.path().join("root/b")).unwrap();
        assert!(root.find_or_make("/a/x", Make::File).is_err());
        assert_eq!(root.make("/a/x", Make::File).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let (folder, root) = root();
        let file = |name: &str| folder.path().join("root").join(name);
        fs::write(file("good"), "12345678").unwrap();
        fs::create_dir(file("folder")).unwrap();
        symlink("/dev/zero", file("zero")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            file("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert_eq!(root.read("/good", 8).unwrap().unwrap(), b"12345678");
        assert_eq!(root.read("/good", 7).unwrap_err().kind(), &Kind::Invalid);
        assert_eq!(root.read("/folder", 8).unwrap_err().kind(), &Kind::Invalid);
        assert_eq!(root.read("/fifo", 8).unwrap_err().kind(), &Kind::Invalid);
        assert_eq!(root.read("/zero", 8).unwrap(), None);
        assert_eq!(root.read("/missing", 8).unwrap(), None);
    }

    #[test]
    fn where_only_we_mount_no_link_is_followed() {
        let (folder, root) = root();
        fs::create_dir(folder.path().join("root/real")).unwrap();
        symlink("real", folder.path().join("root/proc")).unwrap();
        assert!(root.find("/proc").is_ok());
        assert_eq!(root.find_without_links("/proc").unwrap_err(), Errno::LOOP);
    }
}
