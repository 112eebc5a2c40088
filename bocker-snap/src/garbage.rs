//! `gc` and `reset`: what was left half made, what nothing leads to any more, and everything.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bocker_pipe::claim::{self, DEFAULT_GRACE};
use bocker_pipe::error::Failures;
use bocker_pipe::events::{Event, Type};
use bocker_pipe::layout::{DOCKER_INDEX, Layout, OCI_INDEX};
use bocker_pipe::listed::Listed;
use bocker_pipe::lock::Supervisor;
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Error, Id, Kind, Result, containers, lock, paths};
use bocker_pipe::{events, rotated};
use nix::errno::Errno;
use serde::Serialize;

use crate::container::{self, Folder};
use crate::layers::{self, Keep};
use crate::tree::remove_path;
use crate::{STAGE, image, names, pool, quota, volume};

/// How long a container's folder in which things still turn up is removed again and again.
const PATIENCE: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(1);

/// What was removed, or would be, as one JSON line.
#[derive(Debug, Serialize)]
struct Removed {
    /// `container`, `mount`, `claim`, `name`, `volume`, `layer`, `unfinished`, `blob`, `ingest`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

impl Removed {
    fn of(kind: &'static str, id: &Id) -> Removed {
        Removed {
            kind,
            id: Some(id.clone()),
            path: None,
        }
    }

    fn at(kind: &'static str, path: PathBuf) -> Removed {
        Removed {
            kind,
            id: None,
            path: Some(path),
        }
    }
}

/// `gc [--grace SECONDS] [--listed] [--layers] [--orphans] [--force]`.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let (mut grace, mut orphans, mut force) = (DEFAULT_GRACE, false, false);
    let mut only_layers = false;
    let mut listed = Listed::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--grace" => grace = Duration::from_secs(call.number()?),
                "--layers" => only_layers = true,
                "--listed" => listed = Listed::from_stdin()?,
                "--orphans" => orphans = true,
                "-f" | "--force" => force = true,
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let dry_run = call.dry_run();
    if only_layers {
        return collect_layers(&Layout::open(), grace, &listed, dry_run, &mut |removed| {
            call.line(&removed)
        });
    }
    let boot = claim::boot_id()?;
    // Objects first, claims second: one that is claimed in between is then seen as claimed.
    let folders = containers::list()?;
    let claims = claim::list()?;
    let mut failures = Failures::default();
    for id in folders.into_iter().filter(|id| listed.has(id.as_str())) {
        let folder = Folder::of(&id);
        if !force && lock::is_alive(&id) {
            continue;
        }
        let handed_over = folder.is_handed_over();
        let claim = claims.iter().find(|claim| claim.id == id);
        if handed_over {
            let restarted = || claim::read(&id).is_none_or(|record| record.boot_id != boot);
            // The end of one that a killed start had begun with is not recorded.
            let given_up = || {
                State::of(&id, || false, || false) == State::Exited
                    && claim::is_over(&id, &boot, grace)
                    && !matches!(lock::supervisor(&id), Supervisor::Runs | Supervisor::Tidies)
            };
            let is_idle = || folder.is_mounted() && (force || restarted() || given_up());
            if is_idle() {
                // A start may have come first.
                let _lock = match dry_run {
                    true => None,
                    false => container::lock(&id)?,
                };
                if is_idle() {
                    if !dry_run {
                        folder.unmount()?;
                    }
                    call.line(&Removed::of("mount", &id))?;
                }
            }
            if orphans && claim.is_none() {
                call.line(&Removed::of("unclaimed", &id))?;
            }
            continue;
        }
        let stale = match claim {
            Some(claim) => claim.is_stale(&boot, grace),
            None => age(folder.path()) >= grace,
        };
        if !stale {
            continue;
        }
        let removed = match dry_run {
            true => Ok(true),
            false => remove(&id, &folder),
        };
        if matches!(removed, Ok(true)) {
            call.line(&Removed::of("container", &id))?;
        }
        failures.note(removed.map(drop));
    }
    for claim in claims {
        let own = claim
            .record
            .as_ref()
            .is_some_and(|record| record.by == STAGE);
        let lost = !paths::container(&claim.id).exists() && listed.has(claim.id.as_str());
        if own && lost && claim.is_stale(&boot, grace) && (force || !lock::is_alive(&claim.id)) {
            if !dry_run {
                let _lock = container::lock(&claim.id)?;
                container::release(&claim.id)?;
            }
            call.line(&Removed::of("claim", &claim.id))?;
        }
    }
    for claim in claim::sweep(grace, &listed, dry_run)? {
        call.line(&Removed::at("claim", claim))?;
    }
    for name in names::take_dead_names(&listed, dry_run)? {
        call.line(&Removed::at("name", name))?;
    }
    let abandoned = volume::abandoned()?.into_iter();
    for volume in abandoned.filter(|volume| listed.has(&volume.to_string_lossy())) {
        if !dry_run {
            remove_path(&volume)?;
        }
        call.line(&Removed::at("volume", volume))?;
    }
    let layout = Layout::open();
    let mut each = |removed| call.line(&removed);
    collect_layers(&layout, grace, &listed, dry_run, &mut each)?;
    let may_go = |path: &str| listed.has(&layout.root().join(path).to_string_lossy());
    layout.gc(grace, dry_run, may_go, |garbage| {
        call.line(&Removed::at(
            garbage.kind,
            layout.root().join(&garbage.path),
        ))
    })?;
    failures.into_result()
}

/// Where the layers and blobs lie that nothing leads to and nobody is about to use.
pub(crate) fn leftovers(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut each = |removed: Removed| {
        paths.extend(removed.path);
        Ok(())
    };
    collect_layers(layout, Duration::ZERO, &Listed::default(), true, &mut each)?;
    layout.gc(
        Duration::ZERO,
        true,
        |_| true,
        |garbage| {
            paths.push(layout.root().join(garbage.path));
            Ok(())
        },
    )?;
    Ok(paths)
}

/// Removes a container that was never handed to bocker-spawn. Answers `false` for one that was, while this waited for its lock.
fn remove(id: &Id, folder: &Folder) -> Result<bool> {
    let _lock = container::lock(id)?;
    if folder.is_handed_over() {
        return Ok(false);
    }
    folder.remove_volumes(id)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        folder.unmount()?;
        match folder.remove() {
            // Somebody who holds no lock still puts things there, or mounts.
            Err(error)
                if (error.is(Errno::ENOTEMPTY) || error.is(Errno::EBUSY))
                    && Instant::now() < deadline =>
            {
                sleep(TICK);
            }
            result => break result?,
        }
    }
    names::take_names(id)?;
    container::release(id)?;
    Event::new(Type::Container, "destroy", id).record();
    Ok(true)
}

/// Removes layers that neither an image nor a container stands on, and what dead imports left, if older than `grace` and listed.
/// While anyone imports layers or makes a root, they are left alone.
fn collect_layers(
    layout: &Layout,
    grace: Duration,
    listed: &Listed,
    dry_run: bool,
    each: &mut dyn FnMut(Removed) -> Result<()>,
) -> Result<()> {
    let store = paths::layers();
    if !store.is_dir() {
        return Ok(());
    }
    let Some(_alone) = Keep::try_alone()? else {
        return Ok(());
    };
    let wanted = wanted(layout)?;
    let mut found: Vec<_> = fs::read_dir(&store)
        .doing(|| format!("read {}", store.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| age(path) >= grace && listed.has(&path.to_string_lossy()))
        .collect();
    found.sort();
    for path in found {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        let kind = match layers::is_unfinished(name) {
            true => "unfinished",
            false if wanted.contains(name) => continue,
            false => "layer",
        };
        if !dry_run {
            layers::discard(&path)?;
        }
        each(Removed::at(kind, path))?;
    }
    Ok(())
}

/// The names of the layers that images and containers stand on. Fails when an image cannot be read: better too much kept.
fn wanted(layout: &Layout) -> Result<BTreeSet<String>> {
    let mut wanted = BTreeSet::new();
    for entry in layout.images()? {
        if [OCI_INDEX, DOCKER_INDEX].contains(&&*entry.media_type) {
            // Another program's; none of its images was ever unpacked.
            continue;
        }
        match image::read(layout, &entry) {
            Ok(image) => wanted.extend(
                image
                    .layers
                    .iter()
                    .map(|layer| layer.chain_id.hex().to_owned()),
            ),
            // Without its blobs it is no image, and what stood on it counts below.
            Err(error) if error.kind() == &Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for id in containers::list()? {
        match Folder::of(&id).snap() {
            Ok(snap) => wanted.extend(snap.layers.iter().map(|layer| layer.hex().to_owned())),
            Err(error) if error.kind() == &Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted)
}

/// Since when a file has been as it is: the clock of the filesystem, which nobody sets.
fn age(path: &Path) -> Duration {
    let Ok(data) = fs::symlink_metadata(path) else {
        return Duration::ZERO;
    };
    let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(data.ctime()).unwrap_or(0));
    SystemTime::now()
        .duration_since(changed)
        .unwrap_or_default()
}

/// `reset [--force]`: everything of this `BOCKER_ROOT` goes, volumes included.
pub(crate) fn reset(call: &mut Call) -> Result<()> {
    let mut force = false;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if matches!(&*option, "-f" | "--force") => force = true,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let ids = containers::list()?;
    let claims = claim::list()?;
    let ours = claims
        .iter()
        .filter(|claim| claim.is_ours())
        .map(|claim| &claim.id);
    if !force && let Some(id) = ids.iter().chain(ours).find(|id| lock::is_alive(id)) {
        return Err(Error::new(Kind::InUse, format!("{id} is running"))
            .hint("stop it first, or use --force"));
    }
    let root = paths::root();
    for id in &ids {
        if !call.dry_run() {
            let folder = Folder::of(id);
            folder.unmount()?;
            folder.remove()?;
            names::take_names(id)?;
            container::release(id)?;
        }
        call.line(&Removed::of("container", id))?;
    }
    for claim in claims
        .iter()
        .filter(|claim| claim.is_ours() && !ids.contains(&claim.id))
    {
        if !call.dry_run() {
            container::release(&claim.id)?;
        }
        call.line(&Removed::of("claim", &claim.id))?;
    }
    for claim in claim::sweep(Duration::ZERO, &Listed::default(), call.dry_run())? {
        call.line(&Removed::at("claim", claim))?;
    }
    for folder in [
        events::path(),
        rotated::old(&events::path(), 1),
        paths::containers(),
        paths::names(),
        paths::layers(),
        paths::images(),
        paths::volumes(),
    ] {
        if folder.exists() {
            if !call.dry_run() {
                remove_path(&folder)?;
            }
            call.line(&Removed::at("folder", folder))?;
        }
    }
    if root.is_dir() && quota::disable(call.dry_run())? {
        call.line(&Removed::at("quota", root.clone()))?;
    }
    for file in pool::remove(call.dry_run())? {
        call.line(&Removed::at("pool", file))?;
    }
    if call.dry_run() {
        return Ok(());
    }
    match fs::remove_dir(&root) {
        // Somebody else's files, or a mount point of the user's: not ours to remove.
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
            ) =>
        {
            Err(error).doing(|| format!("remove {}", root.display()))
        }
        _ => Ok(()),
    }
}
