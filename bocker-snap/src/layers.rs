//! The store of unpacked layers, `BOCKER_ROOT/layers/<hex of the chain id>`: each is a lower directory for overlayfs or a read-only
//! subvolume, shared by all images in which the same layers lie below it. A layer that can be seen is complete.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bocker_pipe::layout::{Descriptor, Digest, Manifest, chain_ids};
use bocker_pipe::step::interruption;
use bocker_pipe::{Doing, Error, Id, Kind, Result, paths};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, OFlags, RenameFlags, ResolveFlags, flock, fstat, futimens,
    renameat_with, syncfs, unlinkat,
};
use rustix::io::Errno;

use crate::btrfs;
use crate::driver::Driver;
use crate::folder_lock::{self, Attempt};
use crate::overlay::{Overlay, unmount_all};
use crate::source::Source;
use crate::tree::{
    copy_attributes, names, open_below, open_directory, remove_path, sync_directory, times,
};
use crate::unpack::unpack;

/// What the folder of a layer on its way begins with; the rest is the layer's name. It is its own lock, and its content
/// belongs to the one who holds that.
const UNFINISHED: &str = "new-";
/// How often a layer that another process unpacks is looked at.
const WAIT: Duration = Duration::from_millis(10);
/// In it: the layer, overlayfs' own folder, and a place for a passing mount.
const TREE: &str = "tree";
const WORK: &str = "work";
const PLACE: &str = "place";

/// One layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Its archive.
    pub(crate) blob: Descriptor,
    /// The archive's digest when decompressed.
    pub(crate) diff_id: Digest,
    /// What it is known by, together with all layers below (image-spec config.md, "Layer ChainID").
    pub(crate) chain_id: Digest,
}

/// The layers of an image, lowest first. Fails with [`Kind::Invalid`] when manifest and configuration disagree.
pub(crate) fn of_image(manifest: &Manifest, diff_ids: &[Digest]) -> Result<Vec<Layer>> {
    if manifest.layers.len() != diff_ids.len() {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "the image has {} layers, but its configuration names {}",
                manifest.layers.len(),
                diff_ids.len()
            ),
        ));
    }
    let layers = manifest.layers.iter().zip(diff_ids);
    Ok(layers
        .zip(chain_ids(diff_ids))
        .map(|((blob, diff_id), chain_id)| Layer {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            chain_id,
        })
        .collect())
}

/// Where a layer lies.
pub(crate) fn path(chain_id: &Digest) -> PathBuf {
    paths::layers().join(chain_id.hex())
}

/// Whether a layer is here.
pub(crate) fn is_here(chain_id: &Digest) -> bool {
    path(chain_id).is_dir()
}

/// Which layers have to be unpacked before a root can be made of the topmost.
pub(crate) fn missing(driver: Driver, layers: &[Layer]) -> Vec<usize> {
    driver.missing(layers, |layer| is_here(&layer.chain_id))
}

/// Lets layers be seen, lowest first. Before that they are on the disk: a power failure must not leave empty files in a layer.
pub(crate) fn publish<'a>(
    driver: Driver,
    new: impl Iterator<Item = (&'a Unfinished, &'a Digest)> + Clone,
) -> Result<()> {
    let store = paths::layers();
    if let (Driver::Overlay, Some((any, _))) = (driver, new.clone().next()) {
        syncfs(&any.lock).doing(|| format!("sync {}", store.display()))?;
    }
    for (unfinished, chain_id) in new {
        let (tree, target) = (unfinished.tree(), path(chain_id));
        match driver {
            Driver::Btrfs => publish_snapshot(&tree, &target)?,
            Driver::Overlay => {
                match renameat_with(CWD, &tree, CWD, &target, RenameFlags::NOREPLACE) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).doing(|| format!("make {}", target.display())),
                }
            }
        }
    }
    sync_directory(&store)
}

/// What it does, as far as there are commands for it.
pub(crate) fn publish_commands<'a>(
    driver: Driver,
    layers: impl Iterator<Item = &'a Digest>,
) -> Vec<String> {
    let how = match driver {
        Driver::Overlay => "written to the disk and renamed to",
        Driver::Btrfs => "seen as a read-only snapshot,",
    };
    layers
        .map(|chain_id| {
            format!(
                "# {UNFINISHED}{}/{TREE} is {how} {}",
                chain_id.hex(),
                path(chain_id).display()
            )
        })
        .collect()
}

/// Whether a name in the store is that of a layer on its way.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED)
}

/// Removes a layer, or what a dead import left. The caller is alone with the store.
/// A layer that can be seen is complete: a subvolume goes at once, a directory is moved out of sight first.
pub(crate) fn discard(path: &Path) -> Result<()> {
    let store = paths::layers();
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    if is_unfinished(name) {
        unmount_all(&path.join(PLACE))?;
        return remove_path(path);
    }
    if open_directory(path).is_ok_and(btrfs::is_subvolume) {
        return remove_path(path);
    }
    let hidden = store.join(format!("{UNFINISHED}{name}"));
    remove_path(&hidden)?;
    fs::rename(path, &hidden).doing(|| format!("remove {}", path.display()))?;
    remove_path(&hidden)
}

/// How many layers are here.
pub(crate) fn count() -> Result<usize> {
    let store = paths::layers();
    match fs::read_dir(&store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        entries => Ok(entries
            .doing(|| format!("read {}", store.display()))?
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with(UNFINISHED))
            .count()),
    }
}

/// What the step of a layer does, as far as there are commands for it.
pub(crate) fn import_commands(driver: Driver, layer: &Layer) -> Vec<String> {
    let into = match driver {
        Driver::Overlay => "into",
        Driver::Btrfs => "into a snapshot of the uppermost of them, the subvolume",
    };
    vec![format!(
        "# unpack {} over the layers below it {into} {}",
        layer.blob.digest,
        path(&layer.chain_id).display()
    )]
}

/// Layers that are counted on but that no container's folder names yet are not removed as long as one of these lives.
#[derive(Debug)]
pub(crate) struct Keep(#[expect(dead_code, reason = "held for its drop")] File);

impl Keep {
    /// Waits while layers are being removed.
    pub(crate) fn take() -> Result<Keep> {
        Keep::lock(FlockOperation::LockShared)?
            .ok_or_else(|| Error::new(Kind::InUse, "the layers are locked"))
    }

    /// The same where there may be none yet to wait for; nothing is made then.
    pub(crate) fn if_any() -> Result<Option<Keep>> {
        match paths::layers().is_dir() {
            true => Keep::take().map(Some),
            false => Ok(None),
        }
    }

    /// For who removes layers. `None` while anyone counts on them.
    pub(crate) fn try_alone() -> Result<Option<Keep>> {
        Keep::lock(FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(operation: FlockOperation) -> Result<Option<Keep>> {
        let store = paths::layers();
        make_folder(&store)?;
        let file = File::open(&store).doing(|| format!("open {}", store.display()))?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Keep(file))),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).doing(|| format!("lock {}", store.display())),
            }
        }
    }
}

/// Makes a folder that only root may enter, with those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(|| format!("make {}", path.display()))
}

/// A layer on its way: a folder that is locked as long as its maker lives.
pub(crate) struct Unfinished {
    path: PathBuf,
    lock: File,
}

impl Unfinished {
    /// Makes the folder or takes over what a dead process left of it. `None` when the layer is there.
    pub(crate) fn claim(store: &Path, chain_id: &Digest) -> Result<Option<Unfinished>> {
        let target = path(chain_id);
        let path = store.join(format!("{UNFINISHED}{}", chain_id.hex()));
        while !target.is_dir() {
            let Some(new) = Unfinished::make(&path)? else {
                // Looked at again and again instead of waiting in the kernel: a signal must be able to end it.
                interruption()?;
                std::thread::sleep(WAIT);
                continue;
            };
            if target.is_dir() {
                new.remove()?;
                break;
            }
            new.empty()?;
            return Ok(Some(new));
        }
        Ok(None)
    }

    /// Makes the folder, if it is not there, and locks it. `None` when another holds it.
    fn make(path: &Path) -> Result<Option<Unfinished>> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).doing(|| format!("make {}", path.display()))
            }
            _ => Unfinished::lock(path),
        }
    }

    /// Locks the folder. `None` when it is gone, or another holds it.
    fn lock(path: &Path) -> Result<Option<Unfinished>> {
        Ok(match folder_lock::attempt(path)? {
            Attempt::Locked(lock) => Some(Unfinished {
                path: path.to_owned(),
                lock,
            }),
            Attempt::Held | Attempt::Gone => None,
        })
    }

    /// Removes what is in it.
    pub(crate) fn empty(&self) -> Result<()> {
        // A mount that passes by, where the kernel knows no detached ones, stays when its maker is killed.
        unmount_all(&self.path.join(PLACE))?;
        for name in names(&self.lock).doing(|| format!("read {}", self.path.display()))? {
            remove_path(&self.path.join(OsStr::from_bytes(&name)))?;
        }
        Ok(())
    }

    /// Where the layer comes to lie in it.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }

    /// Unpacks a layer above the trees `below` it, lowest first.
    pub(crate) fn unpack(
        &self,
        driver: Driver,
        below: &[PathBuf],
        layer: &Layer,
        mut source: Source,
    ) -> Result<()> {
        let unpacked = match driver {
            Driver::Overlay => self.unpack_difference(below, &mut source),
            Driver::Btrfs => self.unpack_whole(below, &mut source),
        };
        // A read that was interrupted is no damaged layer.
        unpacked
            .as_ref()
            .or_else(|_| interruption().map(|()| &()))?;
        unpacked.map_err(|error| {
            let message = format!("the layer {}: {}", layer.blob.digest, error.message());
            let told = Error::new(error.kind().clone(), message);
            match error.hint_text() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        })?;
        match source.finish()?.diff_id {
            diff_id if diff_id == layer.diff_id => Ok(()),
            diff_id => {
                let (digest, should) = (&layer.blob.digest, &layer.diff_id);
                let what = format!(
                    "the layer {digest} is not the image's: its diff id is {diff_id}, not {should}"
                );
                Err(Error::new(Kind::Invalid, what).hint("remove the image and pull it again"))
            }
        }
    }

    /// Into a directory, through an overlay mount of it over the layers below.
    fn unpack_difference(&self, below: &[PathBuf], source: &mut Source) -> Result<()> {
        let [tree, work, place] = [TREE, WORK, PLACE].map(|name| self.path.join(name));
        for folder in [&tree, &work, &place] {
            DirBuilder::new()
                .mode(0o755)
                .create(folder)
                .doing(|| format!("make {}", folder.display()))?;
        }
        let upper = open_directory(&tree)?;
        let Some(top) = below.last() else {
            return unpack(upper.as_fd(), false, source);
        };
        // The merged root shows the attributes of the topmost directory: until the layer says otherwise, the lower ones'.
        copy_attributes(open_directory(top)?, &upper)?;
        let overlay = Overlay {
            lower: below.iter().rev().cloned().collect(),
            upper: tree,
            work,
            volatile: true,
        };
        let merged = overlay.detached(&place)?;
        unpack(merged.as_fd(), true, source)
    }

    /// Into a snapshot of the uppermost layer below.
    fn unpack_whole(&self, below: &[PathBuf], source: &mut Source) -> Result<()> {
        let tree = self.path.join(TREE);
        match below.last() {
            None => btrfs::create(&tree)?,
            Some(top) => btrfs::snapshot(top, &tree, false)?,
        }
        unpack(open_directory(&tree)?.as_fd(), !below.is_empty(), source)
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_path(&self.path)
    }
}

/// A snapshot of a container's root, which a commit makes a layer of.
pub(crate) struct Draft {
    unfinished: Unfinished,
    /// As long as it lives, nobody takes the snapshot for what a dead process has left.
    _keep: Keep,
}

impl Draft {
    /// Where the snapshot comes to lie.
    pub(crate) fn place(id: &Id) -> PathBuf {
        Draft::folder(id).join(TREE)
    }

    fn folder(id: &Id) -> PathBuf {
        paths::layers().join(format!("{UNFINISHED}{id}-{}", std::process::id()))
    }

    /// Takes the snapshot, which can be written to.
    pub(crate) fn take(id: &Id, root: &Path) -> Result<Draft> {
        let keep = Keep::take()?;
        let folder = Draft::folder(id);
        let unfinished = Unfinished::make(&folder)?.ok_or_else(|| {
            let what = format!("{} is held by another process", folder.display());
            Error::new(Kind::InUse, what)
        })?;
        // What a process of the same number has left.
        unfinished.empty()?;
        let draft = Draft {
            unfinished,
            _keep: keep,
        };
        match btrfs::snapshot(root, &draft.tree(), false) {
            Ok(()) => Ok(draft),
            Err(error) => draft.remove().and(Err(error)),
        }
    }

    /// The snapshot.
    pub(crate) fn tree(&self) -> PathBuf {
        self.unfinished.path.join(TREE)
    }

    /// Removes what the layer's archive does not hold, so that the snapshot is what the archive unpacks to.
    pub(crate) fn leave_out(&self, paths: &[PathBuf]) -> Result<()> {
        let root = open_directory(&self.tree())?;
        for path in paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let leave = || {
                let parent = Path::new(".").join(parent);
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let parent = open_below(&root, parent.as_os_str(), OFlags::RDONLY, resolve)?;
                let stat = fstat(&parent)?;
                unlinkat(&parent, name, AtFlags::empty())?;
                futimens(&parent, &times(&stat))
            };
            leave().doing(|| format!("leave out {}", path.display()))?;
        }
        Ok(())
    }

    /// Lets it be seen as this layer.
    pub(crate) fn publish(&self, chain_id: &Digest) -> Result<()> {
        publish_snapshot(&self.tree(), &path(chain_id))
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        self.unfinished.remove()
    }
}

/// Lets a subvolume be seen as a layer, by a read-only snapshot: one that is read-only could not be renamed to another folder, and a
/// snapshot is made and written to the disk in one.
fn publish_snapshot(tree: &Path, target: &Path) -> Result<()> {
    match btrfs::snapshot(tree, target, true) {
        Err(error) if error.is(nix::errno::Errno::EEXIST) => Ok(()),
        result => result,
    }
}
