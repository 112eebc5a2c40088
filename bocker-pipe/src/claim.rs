//! Claims: a folder `/run/bocker/<id>` is made before the first object of a container and removed after the last.
//! mkdir(2) makes it exclusive; its record says which `BOCKER_ROOT`, which boot and which tool it belongs to.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Kind, Result};
use crate::id::{Id, Prefix};
use crate::{lock, paths};

/// In a claim's folder: the record.
const RECORD: &str = "claim";
/// In a claim's folder: whom the supervisor keeps company, written by bocker-spawn.
pub const PID: &str = "pid";
/// How many random ids are tried: with 30 bits, a second try is already rare.
const TRIES: usize = 64;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How old a claim that never reached bocker-spawn must be before `gc` takes it.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(600);

/// Who claimed an id, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The `BOCKER_ROOT` of the claimant, absolute.
    pub root: PathBuf,
    /// The boot in which it was claimed (random(4), boot_id).
    pub boot_id: String,
    /// Seconds since 1970.
    pub time: u64,
    /// The stage that made the claim, and whose delete releases it.
    pub by: String,
}

/// A claim that stands on this machine.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The id.
    pub id: Id,
    /// Absent for a moment after the claim is made, and when its file is damaged.
    pub record: Option<Record>,
    /// Since the claim was made.
    pub age: Duration,
}

impl Claim {
    /// Whether it belongs to our `BOCKER_ROOT`.
    pub fn is_ours(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.root == paths::root())
    }

    /// Whether it was made in another boot of the machine.
    pub fn is_of_another_boot(&self, boot_id: &str) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.boot_id != boot_id)
    }

    /// Whether `gc` may take it while it is still `creating`: ours, and of another boot or older than the grace.
    pub fn is_stale(&self, boot_id: &str, grace: Duration) -> bool {
        self.is_ours() && (self.is_of_another_boot(boot_id) || self.age >= grace)
    }
}

/// The id of this boot, by which everything from before a restart is told apart.
pub fn boot_id() -> Result<String> {
    let text = fs::read_to_string(BOOT_ID).doing(|| format!("read {BOOT_ID}"))?;
    Ok(text.trim().to_owned())
}

fn record(stage: &str) -> Result<Record> {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    Ok(Record {
        root: paths::root(),
        boot_id: boot_id()?,
        time,
        by: stage.to_owned(),
    })
}

fn make_run() -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(paths::run())
        .doing(|| format!("make {}", paths::run().display()))
}

/// Claims a fresh container id for the stage.
pub fn make(stage: &str) -> Result<Id> {
    let record = record(stage)?;
    make_run()?;
    for _ in 0..TRIES {
        let id = Id::random(Prefix::Container)?;
        // A container of ours outlives its claim when /run is emptied by a restart.
        if id.is_placeholder() || paths::container(&id).exists() {
            continue;
        }
        if take(&id, &record)? {
            return Ok(id);
        }
    }
    Err(Error::new(
        Kind::Exists,
        format!("{TRIES} random ids in a row were taken"),
    )
    .hint("look at /run/bocker, and run 'bocker system prune'"))
}

/// Claims the id of a container that exists already, after a restart emptied `/run`. Succeeds if the claim stands.
pub fn renew(id: &Id, stage: &str) -> Result<()> {
    make_run()?;
    take(id, &record(stage)?).map(|_| ())
}

fn take(id: &Id, record: &Record) -> Result<bool> {
    let folder = paths::claim(id);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error).doing(|| format!("claim {}", folder.display())),
    }
    // The record is small and written at once; a reader that comes between sees a claim without one, which nobody touches.
    let written = serde_json::to_vec(record)
        .map_err(std::io::Error::from)
        .and_then(|bytes| fs::write(folder.join(RECORD), bytes));
    if let Err(error) = written {
        let _ = release(id);
        return Err(error).doing(|| format!("write {}", folder.join(RECORD).display()));
    }
    Ok(true)
}

/// Releases a claim: removes its own files and the folder. Already gone is success; a folder in which something of
/// another tool remains is left, and the claim with it. Answers whether the claim is gone.
pub fn release(id: &Id) -> Result<bool> {
    let folder = paths::claim(id);
    let remains = match fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().any(|entry| {
            let name = entry.file_name();
            ![RECORD, PID, lock::VERBS, lock::ALIVE]
                .iter()
                .any(|own| name == *own)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    if remains {
        return Ok(false);
    }
    // The record goes last: as long as anything is there, the claim can be told whose it is.
    for name in [PID, lock::VERBS, lock::ALIVE, RECORD] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(|| format!("remove {}", path.display())),
        }
    }
    match fs::remove_dir(&folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).doing(|| format!("remove {}", folder.display())),
    }
}

/// Releases the claim if this stage made it; otherwise it is for another to release.
pub fn release_own(id: &Id, stage: &str) -> Result<()> {
    if read(id).is_some_and(|record| record.by == stage) {
        release(id)?;
    }
    Ok(())
}

/// The record of a claim, if it stands and can be read.
pub fn read(id: &Id) -> Option<Record> {
    let bytes = fs::read(paths::claim(id).join(RECORD)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// All claims on this machine, those of other roots included, by id.
pub fn list() -> Result<Vec<Claim>> {
    let entries = match fs::read_dir(paths::run()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", paths::run().display())),
    };
    let mut claims = Vec::new();
    for entry in entries.flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| Id::parse(name).ok())
        else {
            continue;
        };
        let record = read(&id);
        let now = SystemTime::now();
        // A time ahead, of a clock set back or out of range, makes the age zero, which keeps the claim.
        let made = match &record {
            Some(record) => UNIX_EPOCH
                .checked_add(Duration::from_secs(record.time))
                .unwrap_or(now),
            None => entry
                .metadata()
                .and_then(|data| data.modified())
                .unwrap_or(UNIX_EPOCH),
        };
        let age = now.duration_since(made).unwrap_or_default();
        claims.push(Claim { id, record, age });
    }
    claims.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(root: PathBuf, boot_id: &str, age: u64) -> Claim {
        let record = Record {
            root,
            boot_id: boot_id.into(),
            time: 0,
            by: "snap".into(),
        };
        Claim {
            id: Id::placeholder(),
            record: Some(record),
            age: Duration::from_secs(age),
        }
    }

    #[test]
    fn a_claim_is_stale_when_old_or_of_another_boot() {
        let grace = Duration::from_secs(600);
        assert!(!claim(paths::root(), "now", 599).is_stale("now", grace));
        assert!(claim(paths::root(), "now", 600).is_stale("now", grace));
        assert!(claim(paths::root(), "before", 0).is_stale("now", grace));
        assert!(claim(paths::root(), "now", 0).is_stale("now", Duration::ZERO));
    }

    #[test]
    fn a_claim_of_another_root_or_without_a_record_is_never_ours() {
        assert!(!claim("/elsewhere".into(), "before", 9999).is_stale("now", Duration::ZERO));
        let unknown = Claim {
            id: Id::placeholder(),
            record: None,
            age: Duration::from_secs(9999),
        };
        assert!(!unknown.is_stale("now", Duration::ZERO));
    }
}
