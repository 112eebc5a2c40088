//! `cp`: files from a container to the host and back, or as a tar archive on stdin or stdout, by docker's rules
//! (<https://docs.docker.com/reference/cli/docker/container/cp/>).
//!
//! A container may be hostile, and run while its files are copied. So nothing of it is executed, none of its namespaces is entered
//! (CVE-2019-14271), and a path of its is never turned into one of the host: it is resolved by openat2(2) with its root as
//! the root, to a descriptor, and what is below that is reached by descriptors too, no link followed (CVE-2018-15664). What
//! comes out is added to a directory that is open already, beyond which no name in the archive leads.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bocker_pipe::events::Event;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, Step, containers, lock};
use rustix::fs::{AtFlags, FileType, OFlags, ResolveFlags, Stat, readlinkat, statat};
use rustix::io::Errno;

use crate::container::{self, Folder};
use crate::export::refuse_terminal;
use crate::pack::pack_named;
use crate::source::{Source, free_space};
use crate::tar::{Entry, EntryKind};
use crate::tree::{open_below, open_directory};
use crate::unpack::extract;
use crate::view::{self, IN_CONTAINER};

/// How many symbolic links the last component of a path may lead through, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// How much is written at once, in bytes.
const BUFFER: usize = 256 << 10;
/// The permissions that do not make somebody somebody else.
const PLAIN_MODE: u32 = 0o1777;
/// Attributes that mean nothing to the kernel.
const USER_XATTR: &[u8] = b"user.";

/// One of the two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// A tar archive on stdin or stdout.
    Stream,
    Host(PathBuf),
    Container(String, PathBuf),
}

impl End {
    /// `-`, `PATH` or `CONTAINER:PATH`. A path that holds a colon is one when it begins with a slash or a point.
    fn parse(word: &OsStr) -> End {
        if word == "-" {
            return End::Stream;
        }
        let bytes = word.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        match colon {
            Some(colon) if !matches!(bytes.first(), Some(b'/' | b'.')) => {
                let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
                let path = match path.first() {
                    Some(b'/') => path.to_vec(),
                    _ => [b"/", path].concat(),
                };
                let name = String::from_utf8_lossy(name).into_owned();
                End::Container(name, PathBuf::from(OsString::from_vec(path)))
            }
            _ => End::Host(word.into()),
        }
    }
}

/// Where paths begin, and how they are followed.
struct Root {
    directory: OwnedFd,
    resolve: ResolveFlags,
    path: PathBuf,
}

/// What a path means, resolved as far as the directory that holds it.
struct Place {
    directory: OwnedFd,
    /// `.` for the directory itself.
    name: OsString,
    /// Nothing when there is nothing of that name.
    stat: Option<Stat>,
    /// Of the path as it was written: what it calls the file.
    label: Vec<u8>,
    /// Whether it ends with a slash, and so means a directory.
    is_directory_path: bool,
    /// Whether it ends with `/.`, and so means what is in the directory.
    means_content: bool,
}

impl Place {
    fn is_directory(&self) -> Option<bool> {
        self.stat.map(|stat| is_directory(&stat))
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl Root {
    /// Resolves a path. With `follows`, so is a last component that is a symbolic link.
    fn find(&self, follows: bool) -> Result<Place> {
        let what = || format!("find {}", self.path.display());
        let typed = self.path.as_os_str().as_bytes();
        let trimmed = trim(typed);
        let (_, label) = split(trimmed);
        let is_itself = matches!(label, b"" | b"." | b"..");
        let is_directory_path = is_itself || typed.len() > trimmed.len();
        let mut path = trimmed.to_vec();
        for _ in 0..=MAX_LINKS {
            let (parent, name) = split(trim(&path));
            let (parent, name) = match name {
                b"" | b"." | b".." => (trim(&path), &b"."[..]),
                name => (parent, name),
            };
            let parent = if parent.is_empty() { b"/" } else { parent };
            let directory = open_below(
                &self.directory,
                OsStr::from_bytes(parent),
                OFlags::RDONLY,
                self.resolve,
            )
            .doing(what)?;
            let name = OsStr::from_bytes(name).to_owned();
            let stat = match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => None,
                stat => Some(stat.doing(what)?),
            };
            let is_link =
                stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            if is_link && (follows || is_directory_path) {
                let target = readlinkat(&directory, &name, Vec::new()).doing(what)?;
                path = match target.as_bytes() {
                    absolute @ [b'/', ..] => absolute.to_vec(),
                    relative => [parent, b"/", relative].concat(),
                };
                continue;
            }
            let place = Place {
                directory,
                name,
                stat,
                label: label.to_vec(),
                is_directory_path,
                means_content: is_itself,
            };
            return match place.is_directory() {
                Some(false) if is_directory_path => Err(Errno::NOTDIR).doing(what),
                _ => Ok(place),
            };
        }
        Err(Errno::LOOP).doing(what)
    }
}

/// Without the slashes at its end.
fn trim(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    &path[..end.map_or(0, |end| end + 1)]
}

/// All but the last component, and that.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Where what is copied goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    /// Into the directory that is named, under its own name.
    Inside,
    /// What is in the directory goes into the one that is named.
    Merged,
    /// To the path that is named, and is or becomes its name.
    Named,
}

/// Docker's rules. `content` says that what is in the source directory is meant; `destination` is whether there is something, and
/// if so whether it is a directory; `wants_directory`, that its path ends with a slash.
fn place(
    source_is_directory: bool,
    content: bool,
    destination: Option<bool>,
    wants_directory: bool,
) -> std::result::Result<Placement, &'static str> {
    match (source_is_directory, destination) {
        (true, Some(true)) if content => Ok(Placement::Merged),
        (_, Some(true)) => Ok(Placement::Inside),
        (true, Some(false)) => Err("a directory cannot be copied onto a file"),
        (true, None) => Ok(Placement::Named),
        (false, _) if wants_directory => Err("there is no such directory to copy the file into"),
        (false, _) => Ok(Placement::Named),
    }
}

/// What is copied, and where to, as one can say before the container is looked at.
struct Copy {
    from: End,
    to: End,
    /// Owners, set-id bits, capabilities and devices too.
    archive: bool,
    follows: bool,
}

impl Copy {
    /// Records it under docker's names. A container that has gone since took it along.
    fn tell(&self) {
        for (end, action) in [(&self.from, "archive-path"), (&self.to, "extract-to-dir")] {
            if let End::Container(name, _) = end
                && let Ok(id) = containers::resolve(name)
            {
                Event::to(&id, action).record();
            }
        }
    }
}

/// `cp [-a] [-L] CONTAINER:SOURCE DESTINATION|-` and `cp [-a] [-L] SOURCE|- CONTAINER:DESTINATION`.
pub(crate) fn cp(call: &mut Call) -> Result<()> {
    let (mut archive, mut follows) = (false, false);
    let mut words = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "-a" | "--archive" => archive = true,
                "-L" | "--follow-link" => follows = true,
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if words.len() < 2 => words.push(word),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let [from, to] = &words[..] else {
        return Err(Error::new(
            Kind::Usage,
            "what to copy and where to have to be named",
        ));
    };
    let mut copy = Copy {
        from: End::parse(from),
        to: End::parse(to),
        archive,
        follows,
    };
    let usage =
        |text: &str| Err(Error::new(Kind::Usage, text).hint("one of the two is CONTAINER:PATH"));
    match (&copy.from, &copy.to) {
        (End::Container(..), End::Container(..)) => {
            usage("files are not copied between containers")
        }
        (End::Container(..), _) | (_, End::Container(..)) => Ok(()),
        _ => usage("no container is named"),
    }?;
    if copy.from == End::Stream && io::stdin().is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            "stdin is a terminal, and an archive is read from it",
        ));
    }
    if copy.to == End::Stream {
        refuse_terminal()?;
    }
    call.engine().tear_down(&mut copy, vec![copy_step()])?;
    if !call.dry_run() {
        copy.tell();
    }
    Ok(())
}

fn copy_step() -> Step<Copy> {
    Step::new(
        "snap.copy",
        "the files, with a namespace of mounts of our own in which the container's root and volumes are mounted",
    )
    .command(|c: &Copy| {
        let (from, to) = (shown(&c.from), shown(&c.to));
        let line = match (from, to) {
            (None, to) => format!("tar -C {} -x", to.unwrap_or_default()),
            (Some(from), None) => format!("tar -P -c {from}"),
            (Some(from), Some(to)) => {
                let options = if c.archive { "-a" } else { "-r" };
                let follows = if c.follows { " -H" } else { "" };
                format!("cp {options}{follows} {from} {to}")
            }
        };
        vec![
            "# where no volume is concerned, and nobody plants links:".into(),
            line,
        ]
    })
    .apply(run)
}

/// Where an end is for a shell, which follows the container's links to wherever they lead.
fn shown(end: &End) -> Option<String> {
    let path = match end {
        End::Stream => return None,
        End::Host(path) => path.clone(),
        End::Container(name, path) => {
            let root = containers::resolve(name).map(|id| Folder::of(&id).root());
            let below = path.strip_prefix("/").unwrap_or(path);
            root.unwrap_or_default().join(below)
        }
    };
    Some(quote(&path.display().to_string()))
}

fn run(copy: &mut Copy) -> Result<()> {
    let mut guard = None;
    let mut root = |end: &End| -> Result<Option<Root>> {
        Ok(Some(match end {
            End::Stream => return Ok(None),
            End::Host(path) => Root {
                directory: open_directory(Path::new("/"))?,
                resolve: ResolveFlags::IN_ROOT,
                path: absolute(path)?,
            },
            End::Container(name, path) => {
                let id = containers::resolve(name)?;
                // While it runs, its files change anyway, and it may be stopped meanwhile.
                if !lock::is_alive(&id) {
                    guard = container::lock(&id)?;
                }
                let folder = Folder::of(&id);
                let document = containers::load_if_written(&id)?;
                Root {
                    directory: view::open(&folder, &folder.snap()?, &document)?,
                    resolve: IN_CONTAINER,
                    path: path.clone(),
                }
            }
        }))
    };
    // The host's side first, as the caller sees it.
    let (from, to) = match &copy.from {
        End::Container(..) => {
            let to = root(&copy.to)?;
            (root(&copy.from)?, to)
        }
        _ => (root(&copy.from)?, root(&copy.to)?),
    };
    let source = from.map(|root| root.find(copy.follows)).transpose()?;
    let source = match source {
        Some(Place { stat: None, .. }) => return Err(missing(&copy.from)),
        Some(source) => source.stat.map(|stat| (source, stat)),
        None => None,
    };
    let destination = to.as_ref().map(|root| root.find(true)).transpose()?;
    match (source, destination) {
        (Some((source, stat)), Some(destination)) => between(copy, &source, stat, &destination),
        (Some((source, stat)), None) => {
            let label = if source.means_content {
                &b""[..]
            } else {
                &source.label
            };
            let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
            let mut out = pack_named(source.directory.as_fd(), &source.name, stat, label, out)?;
            out.flush().doing(|| "write the archive".into())
        }
        (None, Some(destination)) => {
            if destination.is_directory() != Some(true) {
                return Err(Error::new(
                    Kind::Invalid,
                    "an archive is unpacked into a directory, and the destination is none",
                )
                .hint("make it first"));
            }
            let into = itself(&destination)?;
            let limit = free_space(
                &into
                    .try_clone()
                    .doing(|| "open the destination".into())?
                    .into(),
            );
            let limit = limit.doing(|| "ask for free space".into())?;
            let mut archive = Source::new(io::stdin(), limit);
            let added = add(copy, &into, &mut archive);
            added.and_then(|()| archive.finish().map(drop))
        }
        (None, None) => Ok(()),
    }
}

fn missing(end: &End) -> Error {
    let what = match end {
        End::Container(name, path) => format!("{} does not exist in {name}", path.display()),
        End::Host(path) => format!("{} does not exist", path.display()),
        End::Stream => "nothing is copied".to_owned(),
    };
    Error::new(Kind::NotFound, what)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(Kind::Usage, "a path is empty"));
    }
    // Not std::path::absolute, which takes a last `/.` away.
    let here = std::env::current_dir().doing(|| "find the working directory".into())?;
    let path = path.as_os_str().as_bytes();
    let bytes = match path.first() {
        Some(b'/') => path.to_vec(),
        _ => [here.as_os_str().as_bytes(), b"/", path].concat(),
    };
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

fn itself(place: &Place) -> Result<OwnedFd> {
    open_below(
        &place.directory,
        &place.name,
        OFlags::RDONLY,
        ResolveFlags::NO_SYMLINKS,
    )
    .doing(|| format!("open {}", place.name.display()))
}

fn between(copy: &Copy, source: &Place, stat: Stat, destination: &Place) -> Result<()> {
    let placement = place(
        is_directory(&stat),
        source.means_content,
        destination.is_directory(),
        destination.is_directory_path,
    )
    .map_err(|why| Error::new(Kind::Invalid, why))?;
    let into = match placement {
        Placement::Named => destination
            .directory
            .try_clone()
            .doing(|| "open the destination".into())?,
        Placement::Inside | Placement::Merged => itself(destination)?,
    };
    let label = match placement {
        Placement::Named => destination.name.as_bytes(),
        Placement::Inside => &source.label,
        Placement::Merged => b"",
    };
    let (reader, writer) = io::pipe().doing(|| "make a pipe".into())?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let to = BufWriter::with_capacity(BUFFER, writer);
            let mut to = pack_named(source.directory.as_fd(), &source.name, stat, label, to)?;
            to.flush().doing(|| "write the files".into())
        });
        let added = add(copy, &into, BufReader::with_capacity(BUFFER, reader));
        match packing.join() {
            // A writer fails with EPIPE when the reader has failed, which is then the cause.
            Err(_) => added,
            Ok(packed)
                if packed
                    .as_ref()
                    .is_err_and(|error| !error.is(nix::errno::Errno::EPIPE)) =>
            {
                packed
            }
            Ok(_) => added,
        }
    })
}

/// Unpacks, as files of root that give nobody rights which they do not have, unless the archive's own are wanted.
fn add(copy: &Copy, into: &OwnedFd, archive: impl BufRead) -> Result<()> {
    let mut left_out = 0_u64;
    let added = extract(into.as_fd(), archive, |entry: &mut Entry| {
        if copy.archive {
            return true;
        }
        (entry.uid, entry.gid) = (0, 0);
        entry.mode &= PLAIN_MODE;
        entry
            .xattrs
            .retain(|(name, _)| name.starts_with(USER_XATTR));
        let is_device = matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        left_out += u64::from(is_device);
        !is_device
    });
    if left_out > 0 {
        let line =
            format!("bocker-snap: device files are left out without --archive: {left_out}\n");
        let _ = io::stderr().write_all(line.as_bytes());
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_container_s_by_its_colon() {
        let container = |name: &str, path: &str| End::Container(name.into(), path.into());
        for (word, end) in [
            ("-", End::Stream),
            ("web:/etc/hosts", container("web", "/etc/hosts")),
            ("web:etc", container("web", "/etc")),
            ("web:", container("web", "/")),
            ("web:a:b", container("web", "/a:b")),
            ("/a:b", End::Host("/a:b".into())),
            ("./a:b", End::Host("./a:b".into())),
            ("../a:b", End::Host("../a:b".into())),
            ("file", End::Host("file".into())),
        ] {
            assert_eq!(End::parse(word.as_ref()), end, "{word}");
        }
    }

    /// The rules as docker documents them.
    #[test]
    fn files_go_where_docker_puts_them() {
        use Placement::{Inside, Merged, Named};
        let (file, directory) = (Some(false), Some(true));
        // A file: does not exist; does not exist and ends with /; is a file; is a directory.
        assert_eq!(place(false, false, None, false), Ok(Named));
        assert!(place(false, false, None, true).is_err());
        assert_eq!(place(false, false, file, false), Ok(Named));
        assert_eq!(place(false, false, directory, false), Ok(Inside));
        assert_eq!(place(false, false, directory, true), Ok(Inside));
        // A directory: does not exist; is a file; is a directory, without and with /. after the source.
        assert_eq!(place(true, false, None, false), Ok(Named));
        assert_eq!(place(true, true, None, true), Ok(Named));
        assert!(place(true, false, file, false).is_err());
        assert!(place(true, true, file, false).is_err());
        assert_eq!(place(true, false, directory, false), Ok(Inside));
        assert_eq!(place(true, true, directory, true), Ok(Merged));
    }

    fn find(folder: &Path, path: &str, follows: bool) -> Result<Place> {
        let root = Root {
            directory: open_directory(folder)?,
            resolve: IN_CONTAINER,
            path: path.into(),
        };
        root.find(follows)
    }

    #[test]
    fn a_path_of_a_container_never_leads_out_of_it() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("etc")).unwrap();
        std::fs::write(path.join("etc/passwd"), "").unwrap();
        let inside = std::fs::metadata(path.join("etc/passwd")).unwrap().ino();
        symlink("/etc/passwd", path.join("file")).unwrap();
        symlink("../../../../etc", path.join("directory")).unwrap();
        symlink("/proc/self/root/etc/passwd", path.join("magic")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        for text in [
            "/file",
            "file",
            "/directory/passwd",
            "/../../etc/passwd",
            "/etc/../../file",
        ] {
            let place = find(path, text, true).unwrap();
            assert_eq!(place.stat.unwrap().st_ino, inside, "{text}");
        }
        assert!(find(path, "/magic", true).is_err());
        assert!(find(path, "/loop", true).is_err());
        let link = find(path, "/file", false).unwrap();
        assert_ne!(link.stat.unwrap().st_ino, inside);
        assert!(find(path, "/file/", false).is_err(), "it is no directory");
        assert!(find(path, "/directory/", false).unwrap().is_directory() == Some(true));
    }

    #[test]
    fn a_path_says_what_it_calls_the_file_and_whether_its_content_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let of = |path: &str| {
            let place = find(folder.path(), path, false).unwrap();
            let label = String::from_utf8(place.label).unwrap();
            (label, place.is_directory_path, place.means_content)
        };
        assert_eq!(of("/a/b"), ("b".into(), false, false));
        assert_eq!(of("/a/b/"), ("b".into(), true, false));
        assert_eq!(of("/a/b/."), (".".into(), true, true));
        assert_eq!(of("/"), (String::new(), true, true));
        assert_eq!(of("/a/.."), ("..".into(), true, true));
        assert_eq!(of("/a/new"), ("new".into(), false, false));
        assert!(find(folder.path(), "/none/new", false).is_err());
    }
}
