//! The store of volumes, `BOCKER_ROOT/volumes/<name>`: what a volume holds is in `data`, what is known of it in `volume.json`.
//! On btrfs each is a subvolume.
//!
//! A volume that can be seen is whole: it is made under a hidden name, which is its lock too, and renamed. Which containers use
//! one their own notes say (`snap.json`), which are there before a volume is made or counted on; nothing is counted.

mod gather;
mod request;
mod verbs;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{BufReader, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bocker_pipe::events::{Event, Type};
use bocker_pipe::paths::VOLUME_DATA;
use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Id, Kind, Result, containers, paths};
use rustix::fs::{CWD, OFlags, RenameFlags, ResolveFlags, fstat, futimens, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(crate) use gather::gather;
pub(crate) use request::{Request, Source};
pub(crate) use verbs::volume;

use crate::container::Folder;
use crate::folder_lock::{self, Attempt};
use crate::layers::make_folder;
use crate::pack::{Rules, Tree, pack};
use crate::tree::{copy_attributes, names, open_below, open_directory, remove_path, times};
use crate::unpack::extract;
use crate::{btrfs, time};

/// In a volume's folder: what is known of it.
const RECORD: &str = "volume.json";
/// In it as long as an empty volume is filled: a copy that is not complete, and one that is and has to be put in its place.
const COPYING: &str = "copying";
const COPIED: &str = "copied";
/// What the name of a volume on its way in or out begins with; no volume's own name does.
const HIDDEN: &str = ".";
/// How much is taken from a pipe at once: as much as it holds (pipe(7)).
const PIPE: usize = 64 << 10;
/// As many characters as docker's.
const RANDOM_BYTES: usize = 32;

/// What is known of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// RFC 3339, in UTC.
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Nobody has named it.
    #[serde(default)]
    pub(crate) anonymous: bool,
}

impl Record {
    /// Of a volume that is made for a container.
    pub(crate) fn of(request: &Request) -> Record {
        Record::new(request.labels.clone(), request.anonymous)
    }

    /// Of one that is made now.
    pub(crate) fn new(labels: BTreeMap<String, String>, anonymous: bool) -> Record {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Record {
            created: time::rfc3339(now.unwrap_or_default().as_secs()),
            labels,
            anonymous,
        }
    }
}

/// What a new volume begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    /// A container's root.
    pub(crate) root: &'a Path,
    /// Where in it.
    pub(crate) destination: &'a str,
}

/// A volume, whether it exists or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    name: String,
}

impl Volume {
    /// The volume of a name, which must be one ([`containers::is_name`]).
    pub(crate) fn named(name: &str) -> Volume {
        Volume { name: name.into() }
    }

    /// The volume that a command line names. Fails with [`Kind::Invalid`].
    pub(crate) fn parse(name: &str) -> Result<Volume> {
        if !containers::is_name(name) {
            let what = format!("'{name}' cannot be a volume's name");
            return Err(Error::new(Kind::Invalid, what)
                .hint("use two or more of a-z A-Z 0-9 _ . - and begin with a letter or digit"));
        }
        Ok(Volume::named(name))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn folder(&self) -> PathBuf {
        paths::volumes().join(&self.name)
    }

    /// Where it is as long as it must not be seen.
    fn hidden(&self) -> PathBuf {
        paths::volumes().join(format!("{HIDDEN}{}", self.name))
    }

    /// What containers see.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join(VOLUME_DATA)
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        self.folder().is_dir()
    }

    /// What is known of it. Fails with [`Kind::NotFound`] when it is not there.
    pub(crate) fn record(&self) -> Result<Record> {
        let path = self.folder().join(RECORD);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.missing()),
            bytes => bytes.doing(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let what = format!("{} is damaged: {error}", path.display());
            Error::new(Kind::Invalid, what)
        })
    }

    fn missing(&self) -> Error {
        let what = format!("No volume named '{}' exists", self.name);
        Error::new(Kind::NotFound, what).hint("'bocker volume ls' lists them")
    }

    /// Makes it unless it is there, filled with `content`; one that is there and empty is filled too, as docker does. Answers
    /// whether it was not there before.
    pub(crate) fn make(&self, record: &Record, content: Option<Content<'_>>) -> Result<bool> {
        make_folder(&paths::volumes())?;
        loop {
            if self.exists() {
                let Some(_lock) = folder_lock::wait(&self.folder())? else {
                    continue;
                };
                self.settle_locked()?;
                if let Some(content) = content {
                    self.fill(content)?;
                }
                return Ok(false);
            }
            match self.begin() {
                Err(error) if error.is(nix::errno::Errno::EEXIST) => self.clear_hidden()?,
                begun => {
                    begun?;
                    // Who collects what the dead left can come first.
                    let Attempt::Locked(_lock) = folder_lock::attempt(&self.hidden())? else {
                        continue;
                    };
                    let made = self.finish(record, content);
                    if !matches!(made, Ok(true)) {
                        remove_path(&self.hidden())?;
                    }
                    if made? {
                        self.tell("create");
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn tell(&self, action: &str) {
        let event = Event::new(Type::Volume, action, &self.name);
        event.with("driver", "local").record();
    }

    /// Makes the hidden folder.
    fn begin(&self) -> Result<()> {
        let hidden = self.hidden();
        match btrfs::holds(&paths::volumes()) {
            true => btrfs::create(&hidden),
            false => DirBuilder::new()
                .mode(0o700)
                .create(&hidden)
                .doing(|| format!("make {}", hidden.display())),
        }
    }

    /// Fills the hidden folder and shows it. Answers whether nobody else's was there first.
    fn finish(&self, record: &Record, content: Option<Content<'_>>) -> Result<bool> {
        let hidden = self.hidden();
        let what = || format!("make the volume {}", self.name);
        let data = hidden.join(VOLUME_DATA);
        DirBuilder::new().mode(0o755).create(&data).doing(what)?;
        if let Some(content) = content {
            content.copy_to(&data)?;
        }
        let record = serde_json::to_vec(record).map_err(std::io::Error::from);
        record
            .and_then(|record| fs::write(hidden.join(RECORD), record))
            .doing(what)?;
        match renameat_with(CWD, &hidden, CWD, self.folder(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(false),
            result => result.map(|()| true).doing(what),
        }
    }

    /// Removes what a dead process left under the hidden name, or waits until a living one is done with it.
    fn clear_hidden(&self) -> Result<()> {
        match folder_lock::wait(&self.hidden())? {
            Some(_lock) => remove_path(&self.hidden()),
            None => Ok(()),
        }
    }

    /// Copies `content` into an empty volume that is locked: beside it first, so that one that is killed leaves it empty, or
    /// complete for who comes next.
    fn fill(&self, content: Content<'_>) -> Result<()> {
        let folder = self.folder();
        let data = open_directory(&self.data())?;
        let is_empty = names(&data).doing(|| format!("read {}", self.data().display()))?;
        if !is_empty.is_empty() {
            return Ok(());
        }
        let copying = folder.join(COPYING);
        let what = || format!("fill the volume {}", self.name);
        DirBuilder::new().mode(0o700).create(&copying).doing(what)?;
        match content.copy_to(&copying) {
            Ok(true) => fs::rename(&copying, folder.join(COPIED)).doing(what)?,
            Ok(false) => return remove_path(&copying),
            Err(error) => {
                return Err(match remove_path(&copying) {
                    Ok(()) => error,
                    Err(second) => error.and(&second),
                });
            }
        }
        self.settle_locked()
    }

    /// Ends what a killed process has begun in a volume that is there.
    pub(crate) fn settle(&self) -> Result<()> {
        match folder_lock::wait(&self.folder())? {
            Some(_lock) => self.settle_locked(),
            None => Err(self.missing()),
        }
    }

    /// Puts a complete copy in its place, name by name: the directory that containers have mounted stays the same. What one of
    /// them has put there meanwhile stays too.
    fn settle_locked(&self) -> Result<()> {
        let folder = self.folder();
        remove_path(&folder.join(COPYING))?;
        let from = match open_directory(&folder.join(COPIED)) {
            Err(error) if error.is(nix::errno::Errno::ENOENT) => return Ok(()),
            from => from?,
        };
        let to = open_directory(&self.data())?;
        let what = || format!("fill the volume {}", self.name);
        // Before what is taken from it changes it.
        let times = times(&fstat(&from).doing(what)?);
        for name in names(&from).doing(what)? {
            let name = std::ffi::OsStr::from_bytes(&name);
            match renameat_with(&from, name, &to, name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                renamed => renamed.doing(what)?,
            }
        }
        copy_attributes(&from, &to)?;
        futimens(&to, &times).doing(what)?;
        remove_path(&folder.join(COPIED))
    }

    /// Fails with [`Kind::InUse`], naming them, when containers use it, `except` one.
    fn refuse_used(&self, except: Option<&Id>) -> Result<()> {
        let users = users()?.remove(&self.name).unwrap_or_default();
        let others = users.iter().filter(|id| Some(*id) != except);
        let others: Vec<&str> = others.map(Id::as_str).collect();
        if others.is_empty() {
            return Ok(());
        }
        let what = format!(
            "the volume '{}' is used by {}",
            self.name,
            others.join(", ")
        );
        let hint = format!(
            "remove first what uses it: 'bocker rm {}'",
            others.join(" ")
        );
        Err(Error::new(Kind::InUse, what).hint(hint))
    }

    /// Removes it. Answers whether it was there. Fails with [`Kind::InUse`], naming them, when containers use it, `except` one.
    pub(crate) fn remove(&self, except: Option<&Id>) -> Result<bool> {
        loop {
            let Some(_lock) = folder_lock::wait(&self.folder())? else {
                return Ok(false);
            };
            self.refuse_used(except)?;
            self.clear_hidden()?;
            let hidden = self.hidden();
            match renameat_with(CWD, self.folder(), CWD, &hidden, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                renamed => {
                    renamed.doing(|| format!("remove the volume {}", self.name))?;
                    remove_path(&hidden)?;
                    self.tell("destroy");
                    return Ok(true);
                }
            }
        }
    }

    /// The commands that make it, filled with what is at `from`.
    pub(crate) fn make_commands(
        &self,
        record: &Record,
        content: Option<Content<'_>>,
    ) -> Vec<String> {
        let shown = |path: &Path| quote(&path.display().to_string());
        let hidden = self.hidden();
        let data = shown(&hidden.join(VOLUME_DATA));
        let record = serde_json::to_string(record).unwrap_or_default();
        let make = match btrfs::holds(&paths::volumes()) {
            true => btrfs::create_command(&hidden),
            false => format!("mkdir -m 700 {}", shown(&hidden)),
        };
        let mut lines = vec![
            format!("mkdir -p -m 700 {}", shown(&paths::volumes())),
            make,
            format!("mkdir -m 755 {data}"),
        ];
        if let Some(content) = content {
            let from = content
                .root
                .join(content.destination.trim_start_matches('/'));
            let from = shown(&from);
            lines.push(format!("if [ -d {from} ]; then cp -a {from}/. {data}; fi"));
        }
        lines.push(format!(
            "printf %s {} > {}",
            quote(&record),
            shown(&hidden.join(RECORD))
        ));
        lines.push(format!(
            "mv -nT {} {}",
            shown(&hidden),
            shown(&self.folder())
        ));
        lines
    }

    /// The command that removes it.
    pub(crate) fn remove_command(&self) -> String {
        let folder = self.folder();
        match btrfs::holds(&folder) {
            true => btrfs::destroy_command(&folder),
            false => format!("rm -rf {}", quote(&folder.display().to_string())),
        }
    }
}

impl Content<'_> {
    /// Copies it into an empty directory, which becomes what it is: owner, mode and times included. Answers whether there is a
    /// directory at all.
    fn copy_to(self, folder: &Path) -> Result<bool> {
        let below = Path::new(self.destination.trim_start_matches('/'));
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let root = open_directory(self.root)?;
        let from = match open_below(root, below.as_os_str(), OFlags::RDONLY, resolve) {
            // Nothing there, or no directory: the volume stays empty.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            from => from.doing(|| format!("open the container's {}", self.destination))?,
        };
        let to = open_directory(folder)?;
        let (reader, writer) = std::io::pipe().doing(|| "make a pipe".into())?;
        std::thread::scope(|scope| {
            let files = Tree::Files { mounts: false };
            let from = from.as_fd();
            let packing =
                scope.spawn(move || pack(from, files, Rules::default(), writer).map(drop));
            let reader = BufReader::with_capacity(PIPE, reader);
            let unpacked = extract(to.as_fd(), reader, |_| true);
            match packing.join() {
                // A writer fails with EPIPE when the reader has failed, which is then the cause.
                Ok(packed) => unpacked.and(packed),
                Err(_) => unpacked,
            }
        })?;
        // An archive is added to a directory, which stays as it is.
        copy_attributes(&from, &to)?;
        Ok(true)
    }
}

/// All volumes, by name.
pub(crate) fn all() -> Result<Vec<Volume>> {
    let mut all: Vec<Volume> = entries()?
        .into_iter()
        .filter(|name| containers::is_name(name))
        .map(|name| Volume { name })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Folders of volumes on their way in or out whose maker or remover is dead.
pub(crate) fn abandoned() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in entries()? {
        let path = paths::volumes().join(&name);
        if name.starts_with(HIDDEN) && matches!(folder_lock::attempt(&path)?, Attempt::Locked(_)) {
            found.push(path);
        }
    }
    Ok(found)
}

fn entries() -> Result<Vec<String>> {
    let folder = paths::volumes();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(|| format!("read {}", folder.display()))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// Which containers use which volumes. Fails when a container's note cannot be read: better too much kept.
pub(crate) fn users() -> Result<BTreeMap<String, Vec<Id>>> {
    let mut users: BTreeMap<String, Vec<Id>> = BTreeMap::new();
    for id in containers::list()? {
        let snap = match Folder::of(&id).snap() {
            Err(error) if error.kind() == &Kind::NotFound => continue,
            snap => snap?,
        };
        for request in snap.volumes {
            if request.kind == Source::Volume {
                let users = users.entry(request.source).or_default();
                if users.last() != Some(&id) {
                    users.push(id.clone());
                }
            }
        }
    }
    Ok(users)
}

/// Removes the volumes that nobody named of a container that goes. Those that another uses too stay.
pub(crate) fn remove_anonymous(id: &Id, requests: &[Request]) -> Result<()> {
    for request in requests.iter().filter(|request| request.anonymous) {
        match Volume::named(&request.source).remove(Some(id)) {
            Err(error) if error.kind() == &Kind::InUse => {}
            removed => drop(removed?),
        }
    }
    Ok(())
}

/// Makes a directory of the host with those above it, and answers which were not there, the deepest last. None are left when it
/// fails.
pub(crate) fn make_directories(path: &Path) -> Result<Vec<PathBuf>> {
    let missing = path.ancestors().take_while(|above| !above.exists());
    let mut missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
    missing.reverse();
    let mut made = Vec::new();
    for directory in missing {
        match DirBuilder::new().mode(0o755).create(&directory) {
            Ok(()) => made.push(directory),
            // Another container asks for the same.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => {
                remove_directories(&mut made)?;
                return Err(error).doing(|| format!("make {}", directory.display()));
            }
        }
    }
    Ok(made)
}

/// Removes directories that were made just now, as far as nobody has put anything there.
pub(crate) fn remove_directories(made: &mut Vec<PathBuf>) -> Result<()> {
    while let Some(directory) = made.pop() {
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.doing(|| format!("remove {}", directory.display()))?,
        }
    }
    Ok(())
}

/// A name that no other volume has.
pub(crate) fn random_name() -> Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .doing(|| "read /dev/urandom".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
