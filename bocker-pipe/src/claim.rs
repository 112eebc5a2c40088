//! Claims: a folder `/run/bocker/<id>` is there before the first object of a container and goes after the last.
//! rename(2) makes it exclusive and complete: its record says which `BOCKER_ROOT`, which boot and which tool it belongs to.
//! On its way in and out it is hidden, `.<id>.<pid>`, so that whatever is killed when, no claim is seen whose it is not known.

use std::fs::{self, DirBuilder, DirEntry};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Kind, Result};
use crate::id::{Id, Prefix};
use crate::listed::Listed;
use crate::lock::Supervisor;
use crate::{containers, files, lock, paths};

/// In a claim's folder: where the supervisor listens.
pub const SOCKET: &str = "socket";
/// The same before anybody would be heard there.
pub const SOCKET_NEW: &str = "socket.new";
/// In a claim's folder: the record.
const RECORD: &str = "claim";
/// The same before it is whole.
const RECORD_NEW: &str = "claim.new";
/// All that this library keeps in a claim's folder. The record goes last: as long as anything is there, it can be told whose.
const OWN: [&str; 13] = [
    lock::VERBS,
    lock::RESTARTING,
    HEALTH_NEW,
    HEALTH,
    LOST_NEW,
    LOST,
    lock::STILL,
    SOCKET_NEW,
    SOCKET,
    lock::ALIVE_NEW,
    lock::ALIVE,
    RECORD_NEW,
    RECORD,
];
/// How a container that runs is found to be by its health checks, written by its supervisor.
pub const HEALTH: &str = "health";
/// What of the output of one that runs could not be recorded, written by its supervisor.
pub const LOST: &str = "lost";
/// The same two before they are whole, see [`files::replace`](crate::files::replace).
const HEALTH_NEW: &str = "health.new";
const LOST_NEW: &str = "lost.new";
/// What a supervisor notes for those who look as long as the container runs.
pub(crate) const NOTES: [&str; 4] = [HEALTH_NEW, HEALTH, LOST_NEW, LOST];
/// What the name of a claim's folder begins with as long as it must not be seen.
const HIDDEN: &str = ".";
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
    /// Absent when its file is damaged, and when the folder was made by hand.
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

    /// Whether `gc` may take it while it is still `creating`: ours, and of another boot, older than the grace, or given up
    /// by a bocker-spawn that was killed.
    pub fn is_stale(&self, boot_id: &str, grace: Duration) -> bool {
        self.is_ours()
            && (self.is_of_another_boot(boot_id)
                || self.age >= grace
                || lock::supervisor(&self.id) == Supervisor::Lost)
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

/// Claims the id of a container that exists already, after a restart emptied `/run`. Succeeds if the claim stands; one that
/// a restart has left is of this boot from now on. Answers whether there was none.
pub fn renew(id: &Id, stage: &str) -> Result<bool> {
    make_run()?;
    let now = record(stage)?;
    let is_new = take(id, &now)?;
    if let Some(earlier) = read(id).filter(|earlier| earlier.boot_id != now.boot_id) {
        rewrite(id, earlier, now)?;
    }
    Ok(is_new)
}

/// The container is being started again, for one who holds the lock of its verbs: its claim is as young as one just made.
pub fn begin_again(id: &Id, stage: &str) -> Result<()> {
    match read(id) {
        Some(earlier) => rewrite(id, earlier, record(stage)?),
        None => Ok(()),
    }
}

/// Makes the claim one of this boot and of now. It stays whose it is.
fn rewrite(id: &Id, earlier: Record, now: Record) -> Result<()> {
    let folder = paths::claim(id);
    let (path, new) = (folder.join(RECORD), folder.join(RECORD_NEW));
    let record = Record {
        root: earlier.root,
        by: earlier.by,
        ..now
    };
    fs::write(&new, bytes(&record)?)
        .and_then(|()| fs::rename(&new, &path))
        .doing(|| format!("write {}", path.display()))
}

/// Whether `gc` may take what a container that has exited has left: its end is recorded, which a start takes back first,
/// or it is stale, as that start was killed.
pub fn is_over(id: &Id, boot_id: &str, grace: Duration) -> bool {
    let is_stale = |record: Record| {
        let (id, age) = (id.clone(), age(&record));
        let record = Some(record);
        Claim { id, record, age }.is_stale(boot_id, grace)
    };
    paths::container(id).join(containers::STATUS).exists() || read(id).is_some_and(is_stale)
}

fn age(record: &Record) -> Duration {
    let now = SystemTime::now();
    // A time ahead, of a clock set back or out of range, makes the age zero, which keeps the claim.
    let made = UNIX_EPOCH.checked_add(Duration::from_secs(record.time));
    now.duration_since(made.unwrap_or(now)).unwrap_or_default()
}

fn bytes(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec(record)
        .map_err(std::io::Error::from)
        .doing(|| "write a claim".into())
}

fn take(id: &Id, record: &Record) -> Result<bool> {
    let (folder, new) = (paths::claim(id), hidden(id));
    let bytes = bytes(record)?;
    for _ in 0..TRIES {
        if folder.exists() {
            return Ok(false);
        }
        let made = DirBuilder::new()
            .mode(0o700)
            .create(&new)
            .and_then(|()| fs::write(new.join(RECORD), &bytes))
            .and_then(|()| fs::rename(&new, &folder));
        let Err(error) = made else { return Ok(true) };
        discard(&new)?;
        // Another came first; or a killed one had our pid; or `gc --grace 0` took us for a killed one.
        let again = [
            ErrorKind::DirectoryNotEmpty,
            ErrorKind::AlreadyExists,
            ErrorKind::NotFound,
        ];
        if !again.contains(&error.kind()) {
            return Err(error).doing(|| format!("claim {}", folder.display()));
        }
    }
    let message = format!("{} was removed {TRIES} times in a row", new.display());
    Err(Error::new(Kind::InUse, message))
}

/// Where the folder of a claim is while it is being made or released by this process.
fn hidden(id: &Id) -> PathBuf {
    paths::run().join(format!("{HIDDEN}{id}.{}", std::process::id()))
}

/// Removes the folder of a claim that can no longer be seen. Not there is success.
fn discard(folder: &Path) -> Result<()> {
    for name in OWN {
        files::remove(&folder.join(name))?;
    }
    gone_is_success(fs::remove_dir(folder)).doing(|| format!("remove {}", folder.display()))
}

/// Removes a supervisor's socket, for the supervisor, or for one who holds the lock of the verbs when there is none.
pub fn forget_socket(id: &Id) -> Result<()> {
    let folder = paths::claim(id);
    files::remove(&folder.join(SOCKET_NEW))?;
    files::remove(&folder.join(SOCKET))
}

/// Whether somebody has a supervisor's socket, which the kernel closes when the supervisor dies. Who has it does not notice: asked for
/// a socket of another kind than it is, the kernel says that it is one only where it is somebody's (connect(2), EPROTOTYPE).
pub(crate) fn has_socket(id: &Id) -> bool {
    let asked = UnixStream::connect(paths::claim(id).join(SOCKET));
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::EPROTOTYPE))
}

fn gone_is_success(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Releases a claim: its own files and the folder go at once. Already gone is success; a folder in which something of
/// another tool remains is left, and the claim with it. Answers whether the claim is gone.
/// The caller holds the lock of its verbs, so that nothing is put there meanwhile.
pub fn release(id: &Id) -> Result<bool> {
    let (folder, gone) = (paths::claim(id), hidden(id));
    let entries: Vec<DirEntry> = match fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    let is_own = |entry: &DirEntry| OWN.iter().any(|own| entry.file_name() == *own);
    if !entries.iter().all(is_own) {
        return Ok(false);
    }
    // Those that cannot be removed are found before the claim is hidden.
    let is_folder = |entry: &&DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    for entry in entries.iter().filter(is_folder) {
        let all = || format!("look whose this is, and remove {}", folder.display());
        files::remove(&entry.path()).map_err(|error| error.hint(all()))?;
    }
    gone_is_success(fs::rename(&folder, &gone))
        .doing(|| format!("release {}", folder.display()))?;
    discard(&gone)?;
    Ok(true)
}

/// Removes what is left of claims whose maker was killed as it made or released them, if older than the grace and listed; under a
/// dry run only finds it. There is nothing in it yet or any more that could be anybody's.
pub fn sweep(grace: Duration, listed: &Listed, dry_run: bool) -> Result<Vec<PathBuf>> {
    let now = SystemTime::now();
    let mut swept = Vec::new();
    for (path, id) in hidden_claims()? {
        let changed = fs::symlink_metadata(&path).map_or(0, |data| data.ctime().unsigned_abs());
        let changed = UNIX_EPOCH + Duration::from_secs(changed);
        let is_young = now.duration_since(changed).unwrap_or_default() < grace;
        if is_young || !listed.has(&path.to_string_lossy()) {
            continue;
        }
        if !dry_run {
            take_away(&path, &id)?;
        }
        swept.push(path);
    }
    swept.sort();
    Ok(swept)
}

/// In one step first: its maker, if it lives after all, finds it gone and begins again, instead of going on with half of it.
fn take_away(path: &Path, id: &Id) -> Result<()> {
    let ours = hidden(id);
    if ours != path {
        discard(&ours)?;
        gone_is_success(fs::rename(path, &ours)).doing(|| format!("remove {}", path.display()))?;
    }
    discard(&ours)
}

fn hidden_claims() -> Result<impl Iterator<Item = (PathBuf, Id)>> {
    let id = |name: &str| Id::parse(name.strip_prefix(HIDDEN)?.split_once('.')?.0).ok();
    Ok(entries()?.into_iter().filter_map(move |entry| {
        let id = id(entry.file_name().to_str()?)?;
        Some((entry.path(), id))
    }))
}

/// Releases the claim if this stage made it; otherwise it is for another to release. One that nobody holds any more may
/// have been released half: then the rest goes.
pub fn release_own(id: &Id, stage: &str) -> Result<()> {
    match read(id) {
        Some(record) if record.by == stage => release(id).map(|_| ()),
        Some(_) => Ok(()),
        None => {
            hidden_claims()?
                .filter(|(_, of)| of == id)
                .try_for_each(|(path, id)| take_away(&path, &id))?;
            // One whose record is damaged says no more whose it is: it goes once nothing of another tool's is in it.
            release(id).map(drop)
        }
    }
}

/// The record of a claim, if it stands and can be read.
pub fn read(id: &Id) -> Option<Record> {
    let bytes = fs::read(paths::claim(id).join(RECORD)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn entries() -> Result<Vec<DirEntry>> {
    match fs::read_dir(paths::run()) {
        Ok(entries) => Ok(entries.flatten().collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).doing(|| format!("read {}", paths::run().display())),
    }
}

/// The ids that are claimed on this machine, sorted.
pub(crate) fn ids() -> Result<Vec<Id>> {
    let id = |entry: DirEntry| Id::parse(entry.file_name().to_str()?).ok();
    let mut ids: Vec<Id> = entries()?.into_iter().filter_map(id).collect();
    ids.sort();
    Ok(ids)
}

/// All claims on this machine, those of other roots included, by id.
pub fn list() -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for entry in entries()? {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| Id::parse(name).ok())
        else {
            continue;
        };
        let record = read(&id);
        let age = match &record {
            Some(record) => age(record),
            None => entry
                .metadata()
                .and_then(|data| data.modified())
                .ok()
                .and_then(|made| made.elapsed().ok())
                .unwrap_or_default(),
        };
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
