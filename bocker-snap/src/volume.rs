//! Volumes: directories of the host, or named ones below `BOCKER_ROOT/volumes`, that a container sees below its root.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use bocker_pipe::document::Mount;
use bocker_pipe::{Doing, Error, Id, Kind, Result, containers, paths};
use rustix::fs::{CWD, OFlags, RenameFlags, ResolveFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::layers::make_folder;
use crate::pack::{Tree, pack};
use crate::tree::{self, open_below, open_directory, remove_path};
use crate::unpack::unpack;

/// What the name of a volume on its way in or out begins with; the container's id follows.
const HIDDEN: &str = ".";

/// One volume, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// An absolute path of the host, or the name of a volume.
    pub(crate) source: String,
    /// Where the container sees it, absolute.
    pub(crate) destination: String,
    /// Whether the container may only read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) readonly: bool,
}

impl Request {
    /// Takes `SOURCE:DESTINATION[:ro|:rw]`. A source that begins with `/` or `.` is a path, anything else a name, as for docker.
    pub(crate) fn parse(text: &str) -> Result<Request> {
        let malformed = |why: &str| {
            Error::new(Kind::Usage, format!("'{text}' is not a volume: {why}"))
                .hint("give SOURCE:DESTINATION, and :ro after it for one that is only read")
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, readonly) = match parts[..] {
            [source, destination] | [source, destination, "rw"] => (source, destination, false),
            [source, destination, "ro"] => (source, destination, true),
            [_, _, _] => return Err(malformed("its option is neither ro nor rw")),
            _ => return Err(malformed("it has not two parts")),
        };
        let source = if source.starts_with(['/', '.']) {
            let path = fs::canonicalize(source)
                .doing(|| format!("find the volume {source}"))
                .map_err(|error| error.hint("make it first"))?;
            tree::text(&path)?.to_owned()
        } else if containers::is_name(source) {
            source.to_owned()
        } else {
            return Err(malformed("its source is neither a path nor a name"));
        };
        Ok(Request {
            source,
            destination: destination_of(destination).ok_or_else(|| {
                malformed("its destination is not an absolute path below the root")
            })?,
            readonly,
        })
    }

    /// The folder of a named volume.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        (!self.source.starts_with('/')).then(|| paths::volumes().join(&self.source))
    }

    /// What the document says about it. No device file on a volume can be opened.
    pub(crate) fn mount(&self) -> Result<Mount> {
        let source = match self.folder() {
            Some(folder) => tree::text(&folder)?.to_owned(),
            None => self.source.clone(),
        };
        let mut options = vec!["rbind", "rprivate", "nodev"];
        if self.readonly {
            options.push("ro");
        }
        Ok(Mount {
            destination: self.destination.clone(),
            kind: Some("bind".into()),
            source: Some(source),
            options: options.into_iter().map(Into::into).collect(),
        })
    }
}

/// The destination without `.`, `..` and doubled slashes; it must be absolute, and not the root itself.
fn destination_of(text: &str) -> Option<String> {
    let mut path = String::new();
    let mut parts = Path::new(text).components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    for part in parts {
        match part {
            Component::Normal(name) => {
                path.push('/');
                path.push_str(name.to_str()?);
            }
            _ => return None,
        }
    }
    (!path.is_empty()).then_some(path)
}

/// Makes a named volume for a container, filled with what its root has at the destination, as docker does: a volume over
/// `/var/lib/x` begins with what the image ships there. Answers whether it was not there before.
/// It is filled under a hidden name, so that a volume that can be seen is whole.
pub(crate) fn make(folder: &Path, id: &Id, root: &Path, destination: &str) -> Result<bool> {
    make_folder(&paths::volumes())?;
    if folder.exists() {
        return Ok(false);
    }
    let new = hidden(folder, id);
    remove_path(&new)?;
    let what = || format!("make {}", folder.display());
    let made = (|| {
        DirBuilder::new().mode(0o755).create(&new).doing(what)?;
        fill(&new, root, destination)?;
        match renameat_with(CWD, &new, CWD, folder, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(false),
            result => result.map(|()| true).doing(what),
        }
    })();
    if !matches!(made, Ok(true)) {
        remove_path(&new)?;
    }
    made
}

/// Removes a volume that was made just now.
pub(crate) fn unmake(folder: &Path, id: &Id) -> Result<()> {
    let gone = hidden(folder, id);
    match fs::rename(folder, &gone) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result
            .doing(|| format!("remove {}", folder.display()))
            .and_then(|()| remove_path(&gone)),
    }
}

/// Where a volume is as long as it must not be seen; no volume's own name begins so.
pub(crate) fn hidden(folder: &Path, id: &Id) -> PathBuf {
    let name = folder.file_name().unwrap_or_default();
    folder.with_file_name(format!("{HIDDEN}{id}.{}", name.display()))
}

/// Hidden volumes, each with the container for which it is made.
pub(crate) fn unfinished() -> Result<Vec<(Id, PathBuf)>> {
    let folder = paths::volumes();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(|| format!("read {}", folder.display()))?,
    };
    let maker = |path: &Path| {
        let (id, _) = path
            .file_name()?
            .to_str()?
            .strip_prefix(HIDDEN)?
            .split_once('.')?;
        Id::parse(id).ok()
    };
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths
        .filter_map(|path| Some((maker(&path)?, path)))
        .collect())
}

fn fill(folder: &Path, root: &Path, destination: &str) -> Result<()> {
    let below = Path::new(destination.trim_start_matches('/'));
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let from = match open_below(
        open_directory(root)?,
        below.as_os_str(),
        OFlags::RDONLY,
        resolve,
    ) {
        // Nothing there, or no directory: the volume stays empty.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        from => from.doing(|| format!("open the container's {destination}"))?,
    };
    let (reader, writer) = std::io::pipe().doing(|| "make a pipe".into())?;
    let packing =
        std::thread::spawn(move || pack(from.as_fd(), Tree::Whole, &[], writer).map(drop));
    let unpacked = unpack(open_directory(folder)?.as_fd(), false, reader);
    match packing.join() {
        // A writer fails with EPIPE when the reader has failed, which is then the cause.
        Ok(packed) => unpacked.and(packed),
        Err(_) => unpacked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_path_or_a_name_and_a_destination() {
        let request = Request::parse("/tmp/..:/data").unwrap();
        assert_eq!((&*request.source, &*request.destination), ("/", "/data"));
        assert!(request.folder().is_none() && !request.readonly);
        let request = Request::parse("cache:/var//cache/:ro").unwrap();
        assert_eq!(
            (&*request.source, &*request.destination),
            ("cache", "/var/cache")
        );
        assert!(request.readonly);
        assert_eq!(request.folder().unwrap(), paths::volumes().join("cache"));
        assert_eq!(
            request.mount().unwrap().options,
            ["rbind", "rprivate", "nodev", "ro"]
        );
    }

    #[test]
    fn a_volume_that_could_mean_something_else_is_refused() {
        for text in [
            "",
            ":",
            "a",
            "/data",
            "x:",
            ":/x",
            "cache:data",
            "cache:/",
            "cache:/a/../b",
            "a/b:/x",
            "cache:/x:z",
            "cache:/x:ro:ro",
            "/nowhere/at/all:/x",
        ] {
            assert!(Request::parse(text).is_err(), "{text:?}");
        }
    }
}
