//! `--rootfs DIR`: a container's root as a view of a directory of the host, `/` included. What bocker itself keeps is covered where
//! it lies below DIR: the documents of other containers hold secrets, and a view of the layers within themselves helps nobody.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Kind, Result, paths};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, XattrFlags, fsetxattr, makedev,
    mkdirat, mknodat, statx,
};

use crate::tree::{copy_attributes, open_below, open_child, open_directory, text};

/// Makes a directory of an upper layer hide what lower ones have in it (overlayfs.rst, "whiteouts and opaque directories").
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
const MOUNTS: &str = "/proc/self/mountinfo";

/// A directory of the host that is to be seen or copied as a root.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Absolute, without symbolic links.
    pub(crate) path: PathBuf,
    /// Directories that are covered, relative to it.
    pub(crate) covers: Vec<PathBuf>,
    /// The file of the pool, which holds all that they do, relative to it.
    pub(crate) hidden: Option<PathBuf>,
}

impl Source {
    /// Examines a directory. Fails with [`Kind::NotFound`] or [`Kind::Invalid`] when it cannot be one's root.
    pub(crate) fn find(directory: &Path) -> Result<Source> {
        let path = fs::canonicalize(directory)
            .map_err(|_| missing(directory))
            .and_then(|path| {
                if path.is_dir() {
                    Ok(path)
                } else {
                    Err(missing(directory))
                }
            })?;
        text(&path)?;
        let mounts = fs::read(MOUNTS).doing(|| format!("read {MOUNTS}"))?;
        let place = Place::of(&path, &mounts)?;
        let within = |ours: &Path| -> Result<Option<PathBuf>> {
            // What does not exist yet may be made while the container runs: where its nearest folder lies decides.
            let Some((there, rest)) = nearest(ours) else {
                return Ok(None);
            };
            let there = Place::of(&there, &mounts)?;
            let same = there.device == place.device;
            Ok(same.then(|| there.path.join(rest)))
        };
        let mut covers = Vec::new();
        for ours in [paths::root(), paths::run().to_owned()] {
            let Some(ours_in_filesystem) = within(&ours)? else {
                continue;
            };
            if place.path.starts_with(&ours_in_filesystem) {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{} belongs to bocker itself", path.display()),
                )
                .hint("choose a directory outside BOCKER_ROOT"));
            }
            if let Ok(relative) = ours_in_filesystem.strip_prefix(&place.path) {
                covers.push(relative.to_owned());
            }
        }
        let pool = within(&paths::pool())?;
        let hidden = pool.and_then(|pool| Some(pool.strip_prefix(&place.path).ok()?.to_owned()));
        Ok(Source {
            path,
            covers,
            hidden,
        })
    }

    /// Whether there is anything to be covered.
    pub(crate) fn is_covered(&self) -> bool {
        !self.covers.is_empty() || self.hidden.is_some()
    }

    /// Makes what hides ours in the upper directory of a root that shows this one.
    pub(crate) fn cover(&self, upper: &Path) -> Result<()> {
        for cover in &self.covers {
            let what = || format!("cover {}", self.path.join(cover).display());
            let directory = self.make(upper, cover)?;
            fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty()).doing(what)?;
        }
        if let Some(hidden) = &self.hidden
            && let (Some(parent), Some(name)) = (hidden.parent(), hidden.file_name())
        {
            let what = || format!("hide {}", self.path.join(hidden).display());
            let directory = self.make(upper, parent)?;
            if let Some(below) = self.lower(parent) {
                copy_attributes(below, &directory)?;
            }
            let device = makedev(0, 0);
            mknodat(
                directory,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                device,
            )
            .doing(what)?;
        }
        Ok(())
    }

    /// Makes a directory in the upper one, those above it like the ones that they stand for.
    fn make(&self, upper: &Path, path: &Path) -> Result<OwnedFd> {
        let what = || format!("cover {}", self.path.join(path).display());
        let mut here = open_directory(upper)?;
        let mut shown = PathBuf::new();
        for part in path.iter() {
            shown.push(part);
            match mkdirat(&here, part, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error).doing(what),
            }
            here = open_child(&here, part).doing(what)?;
            if shown != *path
                && let Some(below) = self.lower(&shown)
            {
                copy_attributes(below, &here)?;
            }
        }
        Ok(here)
    }

    fn lower(&self, path: &Path) -> Option<OwnedFd> {
        let root = open_directory(&self.path).ok()?;
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        open_below(root, path.as_os_str(), OFlags::RDONLY, resolve).ok()
    }
}

fn missing(directory: &Path) -> Error {
    Error::new(
        Kind::NotFound,
        format!("No directory named '{}' exists", directory.display()),
    )
}

/// The deepest existing folder on the way to a path, without symbolic links, and what comes below it.
fn nearest(path: &Path) -> Option<(PathBuf, PathBuf)> {
    path.ancestors().find_map(|folder| {
        let there = fs::canonicalize(folder).ok()?;
        let rest = path.strip_prefix(folder).ok()?;
        Some((there, rest.to_owned()))
    })
}

/// Where a directory lies in its filesystem, which two bind mounts of it have in common.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Major and minor number, as mountinfo writes them.
    device: Vec<u8>,
    path: PathBuf,
}

impl Place {
    fn of(path: &Path, mounts: &[u8]) -> Result<Place> {
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
            .doing(|| format!("look at {}", path.display()))?;
        Place::parse(path, found.stx_mnt_id, mounts).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("{MOUNTS} does not show where {} lies", path.display()),
            )
        })
    }

    /// Fields of a line: id, parent, device, root in the filesystem, mount point (proc_pid_mountinfo(5)).
    fn parse(path: &Path, mount: u64, mounts: &[u8]) -> Option<Place> {
        let id = mount.to_string();
        let line = mounts
            .split(|byte| *byte == b'\n')
            .find(|line| line.split(|byte| *byte == b' ').next() == Some(id.as_bytes()))?;
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = fields.next()?.to_vec();
        let root = unescape(fields.next()?);
        let point = unescape(fields.next()?);
        let below = path.strip_prefix(OsStr::from_bytes(&point)).ok()?;
        Some(Place {
            device,
            path: Path::new(OsStr::from_bytes(&root)).join(below),
        })
    }
}

/// Blanks and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| std::str::from_utf8(more.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    bytes
}

/// The commands that do what [`Source::cover`] does.
pub(crate) fn commands(source: &Source, upper: &Path) -> Vec<String> {
    use bocker_pipe::step::quote;
    let shown = |path: &Path| quote(&upper.join(path).display().to_string());
    let covers = source.covers.iter().map(|cover| {
        let path = shown(cover);
        format!("mkdir -p {path} && setfattr -n {OPAQUE} -v y {path}")
    });
    let hidden = source.hidden.iter().map(|hidden| {
        let folder = shown(hidden.parent().unwrap_or(Path::new("")));
        format!("mkdir -p {folder} && mknod {} c 0 0", shown(hidden))
    });
    covers.chain(hidden).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"22 1 8:1 / / rw shared:1 - ext4 /dev/root rw\n\
        30 22 8:1 /srv/disk /mnt/a\\040b rw - ext4 /dev/root rw\n\
        31 22 0:25 / /run rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_place_is_found_through_bind_mounts() {
        let place = |path: &str, mount| {
            let place = Place::parse(Path::new(path), mount, MOUNTINFO).unwrap();
            (String::from_utf8(place.device).unwrap(), place.path)
        };
        assert_eq!(
            place("/var/bocker", 22),
            ("8:1".into(), "/var/bocker".into())
        );
        assert_eq!(
            place("/mnt/a b/x", 30),
            ("8:1".into(), "/srv/disk/x".into())
        );
        assert_eq!(place("/run/bocker", 31), ("0:25".into(), "/bocker".into()));
        assert!(Place::parse(Path::new("/x"), 99, MOUNTINFO).is_none());
    }

    #[test]
    fn what_is_missing_is_named_from_the_nearest_folder() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(real.join("a")).unwrap();
        assert_eq!(
            nearest(&real.join("a/b/c")),
            Some((real.join("a"), PathBuf::from("b/c")))
        );
    }

    #[test]
    fn a_directory_that_is_none_is_refused_in_the_words_of_the_original() {
        let error = Source::find(Path::new("/etc/passwd")).unwrap_err();
        assert_eq!(error.to_string(), "No directory named '/etc/passwd' exists");
        assert!(Source::find(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn our_own_folders_are_covered_below_the_root_of_the_host() {
        let source = Source::find(Path::new("/")).unwrap();
        for cover in &source.covers {
            assert!(cover.is_relative());
        }
        let error = Source::find(&paths::root());
        assert!(error.is_err(), "BOCKER_ROOT itself is no root");
    }
}
