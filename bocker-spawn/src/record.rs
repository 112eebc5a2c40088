//! What is kept of a container: the document, which says where process 1 is, and how it ended.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bocker_pipe::document::ExitMember;
use bocker_pipe::state::State;
use bocker_pipe::{Document, Doing, Result, containers, files, rotated};
use serde::{Deserialize, Serialize};

use crate::log::Lost;
use crate::process;
use crate::requested::Requested;
use crate::signals;

/// `bocker.spawn`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpawnMember {
    /// Process 1, as the host numbers it; absent when none runs. Never believed without the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// Its start time in clock ticks since boot (proc(5), stat, field 22).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start_time: Option<u64>,
    /// The boot that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_id: Option<String>,
    /// Where its output is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<PathBuf>,
    /// What of its output could not be recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<Lost>,
    /// When the document was handed to this tool first, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    /// When its command was executed, RFC 3339 in UTC; absent when none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<String>,
    /// What asks it to end, where the options or the image name a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
    /// What was asked for, beside results, so that a later start can ask for it again.
    #[serde(default, skip_serializing_if = "Requested::is_empty")]
    pub(crate) request: Requested,
    /// How often it was begun again since the user started it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) restarts: u64,
    /// Whether the user has stopped it since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stopped: bool,
    /// Whether the container's folder is of this tool's making, and so its to remove.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) made_folder: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SpawnMember {
    /// What asks it to end. A name that means nothing is an image's: options are checked.
    pub(crate) fn stop_signal(&self) -> i32 {
        let named = self.stop_signal.as_deref();
        named
            .and_then(|name| signals::parse(name).ok())
            .unwrap_or(libc::SIGTERM)
    }

    /// Of a document, with what is asked for now.
    pub(crate) fn of(document: &Document, requested: &Requested) -> Result<SpawnMember> {
        let before: SpawnMember = document.member("spawn")?.unwrap_or_default();
        let request = requested.clone().or(before.request);
        Ok(SpawnMember {
            stop_signal: match &request.stop_signal {
                Some(signal) => Some(signal.clone()),
                None => process::stop_signal(document)?,
            },
            request,
            restarts: 0,
            stopped: false,
            ..before
        })
    }
}

/// As it is kept, for people to read.
pub(crate) fn bytes(document: &Document) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    document
        .write(&mut bytes, true)
        .doing(|| "write the document".into())?;
    Ok(bytes)
}

/// Puts the end into the document.
pub(crate) fn end(document: &mut Document, member: &mut SpawnMember, exit: &ExitMember) {
    member.pid = None;
    member.start_time = None;
    member.boot_id = None;
    member.started = None;
    document.set_member("exit", exit);
    document.set_member("state", &State::Exited);
    document.set_member("spawn", member);
}

/// Takes the name that the container has by now from the document that is kept of it: `bocker-snap rename` writes it there.
pub(crate) fn take_name(document: &mut Document, kept: Option<&[u8]>) {
    #[derive(Deserialize)]
    struct Kept {
        bocker: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    if let Some(Ok(kept)) = kept.map(serde_json::from_slice::<Kept>) {
        document.set_member("name", &kept.bocker.name);
    }
}

/// More than an end takes, by itself and in the document.
const END: usize = 4096;

/// Keeps room for what [`write_status`] and [`write_document`] write: a container that fills the disk with its log loses neither its
/// exit status nor the word that something of the log is lost.
pub(crate) fn reserve_end(folder: &Path, document: usize) -> Result<()> {
    files::reserve(&folder.join(containers::STATUS), END as u64)?;
    files::reserve(&folder.join(containers::CONFIG), (document + END) as u64)
}

/// The opposite of [`reserve_end`].
pub(crate) fn unreserve_end(folder: &Path) -> Result<()> {
    files::unreserve(&folder.join(containers::STATUS))?;
    files::unreserve(&folder.join(containers::CONFIG))
}

/// Writes the end into the container's folder: as soon as it is known, so that it is not lost with who knows it. The supervisor may,
/// and without one who holds the lock of the verbs.
pub(crate) fn write_status(exit: &ExitMember, folder: &Path) -> Result<()> {
    let status = serde_json::to_vec(exit)
        .map_err(std::io::Error::from)
        .doing(|| "write the status".into())?;
    files::replace_reserved(&folder.join(containers::STATUS), &status)
}

/// Writes the document that tells it, with the name that the container has by now, for one who holds the lock of its verbs.
pub(crate) fn write_document(document: &mut Document, folder: &Path) -> Result<()> {
    let config = folder.join(containers::CONFIG);
    take_name(document, files::read(&config)?.as_deref());
    files::replace_reserved(&config, &bytes(document)?)
}

/// How it ended, as [`write_status`] wrote it.
pub(crate) fn status(folder: &Path) -> Option<ExitMember> {
    let bytes = files::read(&folder.join(containers::STATUS)).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// Makes a container's folder if it is not there. Whether it was not.
pub(crate) fn make_folder(folder: &Path) -> Result<bool> {
    if folder.exists() {
        return Ok(false);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .doing(|| format!("make {}", folder.display()))?;
    Ok(true)
}

/// Removes what this tool writes into a container's folder, and the folder if nothing else is in it.
pub(crate) fn remove_made_folder(folder: &Path) -> Result<()> {
    let log = folder.join(containers::LOG);
    rotated::remove(&log).doing(|| format!("remove {}", log.display()))?;
    unreserve_end(folder)?;
    for name in [containers::STATUS, containers::CONFIG] {
        files::remove(&folder.join(name))?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", folder.display())),
    }
}
