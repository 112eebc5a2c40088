//! What happened: a line of JSON for each thing that a tool has done to a container, an image, a network or a volume, in
//! `BOCKER_ROOT/events`. `bocker events` shows them under docker's names; `tail -F` shows them too.
//!
//! Telling is no part of the thing that is told: an event that cannot be written is said on stderr, and nothing fails by it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::error::{Doing, Result};
use crate::id::Id;
use crate::{containers, lock, paths, rotated, time};

/// A file of this size is full: it becomes `events.1`, and the one of that name goes.
const FULL: u64 = 1 << 20;
/// A longer event is told without its attributes, of which a label can be of any size.
const MAX_LINE: usize = 64 << 10;
/// So much of its action is told then, in which a command can be of any size.
const MAX_ACTION: usize = 1 << 10;
/// How often it is tried to write while another renames the file, which takes it some microseconds.
const TRIES: usize = 50;
const MOMENT: Duration = Duration::from_millis(1);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Type {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Type::Container => "container",
            Type::Image => "image",
            Type::Network => "network",
            Type::Volume => "volume",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// To what.
    #[serde(rename = "type")]
    pub kind: Type,
    /// Docker's word for it: `start`, `die`, `exec_create: CMD`.
    pub action: String,
    /// The object's id; of an image or a volume without one its name.
    pub id: String,
    /// The name that people gave it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// More: `exitCode`, `signal`, a container's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that has happened just now.
    pub fn new(kind: Type, action: impl Into<String>, id: impl Display) -> Event {
        Event {
            time: time::now().to_string(),
            kind,
            action: action.into(),
            id: id.to_string(),
            name: String::new(),
            attributes: BTreeMap::new(),
        }
    }

    /// The same to the container of a document, with the name, the labels and the image that this tells.
    pub fn of(document: &Document, action: impl Into<String>) -> Event {
        let text = |pointer: &str| {
            let value = document.value(pointer).and_then(|value| value.as_str());
            value.unwrap_or_default().to_owned()
        };
        let mut event =
            Event::new(Type::Container, action, text("/bocker/id")).name(text("/bocker/name"));
        let labels = document
            .value("/bocker/labels")
            .and_then(|labels| labels.as_object());
        for (key, value) in labels.into_iter().flatten() {
            event = event.with(key, value.as_str().unwrap_or_default());
        }
        match text("/bocker/image/reference") {
            image if image.is_empty() => event,
            image => event.with("image", image),
        }
    }

    /// The same to the container of this id, which may have no document.
    pub fn to(id: &Id, action: impl Into<String>) -> Event {
        match containers::load(id) {
            Ok(document) => Event::of(&document, action),
            Err(_) => Event::new(Type::Container, action, id),
        }
    }

    /// With the name that people gave to what it is about.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Event {
        self.name = name.into();
        self
    }

    /// With something more about it.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Display) -> Event {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }

    /// Appends it to the file. Where there is no `BOCKER_ROOT`, nothing is kept of anything, and not this.
    pub fn record(self) {
        static COMPLAINED: AtomicBool = AtomicBool::new(false);
        if let Err(error) = append(&path(), self)
            && !COMPLAINED.swap(true, Ordering::Relaxed)
        {
            // In one write, as all that stages say.
            let line = format!("{}: {error}; the event is lost\n", program());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Where they are.
pub fn path() -> PathBuf {
    paths::root().join("events")
}

fn program() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn append(path: &Path, mut event: Event) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let mut line = line_of(&event).doing(doing)?;
    if line.len() > MAX_LINE {
        event.attributes.clear();
        event.action = event.action.chars().take(MAX_ACTION).collect();
        line = line_of(&event).doing(doing)?;
    }
    let Some(file) = open(path).doing(doing)? else {
        return Ok(());
    };
    let size = file.metadata().doing(doing)?.len();
    // What a full disk has left of another's line ends here. One that is being written looks so too, which makes an empty line.
    let mut last = [b'\n'];
    if size > 0 && file.read_at(&mut last, size - 1).is_ok() && last != [b'\n'] {
        line.insert(0, b'\n');
    }
    // One write(2) of a file that is opened to append to: whole, and after what others have written.
    (&file).write_all(&line).doing(doing)
}

fn line_of(event: &Event) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

/// The file, which is not renamed as long as this is held. `None` where there is no folder for it.
fn open(path: &Path) -> std::io::Result<Option<File>> {
    let mut tries = 0..TRIES;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = match file {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let file = match file.metadata()?.len() >= FULL {
            true => make_way(file, path)?,
            false => Some(file),
        };
        if let Some(file) = file
            && let Some(file) = share(file, path)?
        {
            return Ok(Some(file));
        }
        if tries.next().is_none() {
            return Err(Errno::EWOULDBLOCK.into());
        }
    }
}

/// Renames the file, which is full. It is given back when somebody writes to it: the next one will see that it is full.
fn make_way(file: File, path: &Path) -> std::io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => {
            // Another may have renamed it already.
            if lock::is_at(&file, path)? {
                rotated::rotate(path, 1)?;
            }
            Ok(None)
        }
        Err(_) => Ok(Some(file)),
    }
}

/// `None` when another is renaming the file, or has.
fn share(file: File, path: &Path) -> std::io::Result<Option<File>> {
    match file.try_lock_shared() {
        Ok(()) => Ok(lock::is_at(&file, path)?.then_some(file)),
        Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Interrupted => Err(error),
        Err(_) => {
            std::thread::sleep(MOMENT);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<Event> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_containers_event_tells_its_name_its_image_and_its_labels() {
        let document = br#"{"bocker":{"version":1,"id":"ps_abc123","name":"web","labels":{"a":"b"},"image":{"reference":"busybox:1"}}}"#;
        let event = Event::of(&Document::parse(document).unwrap(), "die").with("exitCode", 3);
        assert_eq!(
            (&*event.id, &*event.name, &*event.action),
            ("ps_abc123", "web", "die")
        );
        let attributes: Vec<(&str, &str)> =
            event.attributes.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            attributes,
            [("a", "b"), ("exitCode", "3"), ("image", "busybox:1")]
        );
    }

    #[test]
    fn no_event_is_lost_when_many_write_while_the_file_is_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        // Two files hold them all: it is renamed once.
        let (writers, each, filler) = (8, 100, "x".repeat(2000));
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let (path, filler) = (&path, &filler);
                scope.spawn(move || {
                    for number in 0..each {
                        let event =
                            Event::new(Type::Volume, "create", format!("{writer} {number}"));
                        append(path, event.with("filler", filler)).unwrap();
                    }
                });
            }
        });
        let old = read(&folder.path().join("events.1"));
        assert!(!old.is_empty(), "it was never renamed");
        let mut ids: Vec<String> = old
            .into_iter()
            .chain(read(&path))
            .map(|event| event.id)
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), writers * each);
    }

    #[test]
    fn half_a_line_of_anothers_takes_none_of_ours_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        std::fs::write(&path, r#"{"time":"20"#).unwrap();
        append(&path, Event::new(Type::Image, "pull", "busybox:1")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let last: Event = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last.action, "pull");
    }

    #[test]
    fn a_link_in_its_place_is_refused_and_a_root_that_is_not_there_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let event = || Event::new(Type::Image, "pull", "busybox:1");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(append(&path, event()).is_err());
        assert!(!folder.path().join("elsewhere").exists());
        let missing = folder.path().join("root/events");
        append(&missing, event()).unwrap();
        assert!(!missing.exists());
    }

    #[test]
    fn who_has_opened_a_file_that_another_renames_neither_writes_to_it_nor_renames_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events"), folder.path().join("events.1"));
        std::fs::write(&path, "first").unwrap();
        let open = || File::open(folder.path().join("events")).unwrap();
        let (writer, renamer) = (open(), open());
        rotated::rotate(&path, 1).unwrap();
        std::fs::write(&path, "second").unwrap();
        assert!(share(writer, &path).unwrap().is_none());
        assert!(make_way(renamer, &path).unwrap().is_none());
        assert_eq!(std::fs::read(&old).unwrap(), b"first");
        assert!(make_way(open(), &path).unwrap().is_none());
        assert_eq!(std::fs::read(&old).unwrap(), b"second");
    }

    #[test]
    fn a_file_that_is_never_let_go_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let held = lock::exclusive(&path).unwrap();
        let event = || Event::new(Type::Image, "pull", "busybox:1");
        assert!(append(&path, event()).is_err());
        drop(held);
        append(&path, event()).unwrap();
    }

    #[test]
    fn one_with_huge_labels_is_told_without_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let event = Event::new(Type::Container, "start", "ps_abc123");
        append(&path, event.with("label", "x".repeat(MAX_LINE))).unwrap();
        let read = read(&path);
        assert!(read[0].attributes.is_empty() && read[0].action == "start");
    }
}
