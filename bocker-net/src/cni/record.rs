//! What DEL needs, on disk before ADD begins: `/run/bocker/<id>/cni`. By it alone plugins are called that remove something, or
//! after a restart of the machine by the document that bocker-spawn has stored; never by one that came down a pipe.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bocker_pipe::{Document, Doing, Error, Id, Kind, Result, containers, files, paths};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CNI;

/// In a claim's folder, and the same before it is whole.
const RECORD: &str = "cni";
const RECORD_NEW: &str = "cni.new";
/// In documents.
const ATTACHMENTS: &str = "/bocker/net/attachments";
/// How long the plugins of one that was killed may take to end; the kernel kills them with it, and not what they execute.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container's interface in a network of CNI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// The interface in the container.
    pub(crate) ifname: String,
    /// The boot in which it was made: in another one, what is kept on disk is all that is left of it.
    pub(crate) boot_id: String,
    /// The version that is spoken.
    pub(crate) version: String,
    /// Folders of plugins.
    pub(crate) path: Vec<PathBuf>,
    /// Seconds that a plugin may take.
    pub(crate) timeout: u64,
    /// What is passed to plugins that ask for it.
    pub(crate) capabilities: Map<String, Value>,
    /// The configuration list, verbatim.
    pub(crate) list: Value,
    /// What ADD gave, in the shape of the latest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
}

/// The networks of one container, as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) attachments: Vec<Attached>,
}

impl Kept {
    /// Where it is.
    pub(crate) fn path(id: &Id) -> PathBuf {
        paths::claim(id).join(RECORD)
    }

    /// Whether something is kept.
    pub(crate) fn is_there(id: &Id) -> bool {
        Kept::path(id).exists() || paths::claim(id).join(RECORD_NEW).exists()
    }

    /// What is kept. Fails with [`Kind::Invalid`] when it cannot be understood.
    pub(crate) fn read(id: &Id) -> Result<Option<Kept>> {
        let path = Kept::path(id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing(|| format!("read {}", path.display())),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let message = format!(
                "{} says not what CNI plugins are to remove: {error}",
                path.display()
            );
            Error::new(Kind::Invalid, message)
                .hint("remove what they have made by hand, and then that file")
        })
    }

    /// What the stored document of this container says: all that is left after a restart of the machine.
    pub(crate) fn stored(id: &Id) -> Result<Kept> {
        match containers::load(id) {
            Ok(document) => Kept::of(&document),
            Err(error) if error.kind() == &Kind::NotFound => Ok(Kept::default()),
            Err(error) => Err(error),
        }
    }

    fn of(document: &Document) -> Result<Kept> {
        let mut kept = Kept::default();
        let all = document.value(ATTACHMENTS).and_then(Value::as_array);
        for place in 0..all.map_or(0, Vec::len) {
            let pointer = format!("{ATTACHMENTS}/{place}");
            let attached: Option<Attached> = document.get(&format!("{pointer}/{CNI}"))?;
            let result = document.value(&format!("{pointer}/result")).cloned();
            kept.attachments
                .extend(attached.map(|attached| Attached { result, ..attached }));
        }
        Ok(kept)
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(&self, id: &Id) -> Result<()> {
        let path = Kept::path(id);
        let bytes = serde_json::to_vec(self).doing(|| format!("write {}", path.display()))?;
        files::replace(&path, &bytes)
    }

    /// Nothing is left to be removed. Already gone is success.
    pub(crate) fn remove(id: &Id) -> Result<()> {
        for path in [paths::claim(id).join(RECORD_NEW), Kept::path(id)] {
            files::remove(&path)?;
        }
        Ok(())
    }
}

/// The right to call plugins for a container: a flock(2) on its claim's folder, which the plugins have too, so that it ends with
/// the last of them.
pub(crate) struct Turn(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Turn {
    /// Waits for those that one who was killed has started, but not for ever: a plugin may have left a daemon. `None` without a
    /// claim.
    pub(crate) fn wait(id: &Id) -> Result<Option<Turn>> {
        let folder = paths::claim(id);
        let mut file = match File::open(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.doing(|| format!("open {}", folder.display()))?,
        };
        let begun = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    fcntl(&*lock, FcntlArg::F_SETFD(FdFlag::empty()))
                        .doing(|| format!("hand on {}", folder.display()))?;
                    return Ok(Some(Turn(lock)));
                }
                Err((again, Errno::EWOULDBLOCK)) if begun.elapsed() < PATIENCE => file = again,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((again, Errno::EINTR)) => file = again,
                Err((_, errno)) => {
                    return Err(errno).doing(|| format!("lock {}", folder.display()));
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
