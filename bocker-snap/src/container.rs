//! A container's folder, `BOCKER_ROOT/containers/<id>`: what bocker-snap keeps in it, and the mount of its root.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bocker_pipe::layout::Digest;
use bocker_pipe::{
    Document, Doing, Error, Id, Kind, Result, claim, containers, files, lock, paths,
};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::driver::Driver;
use crate::overlay::{self, Overlay, unmount_all};
use crate::tree::remove_path;
use crate::{btrfs, layers, quota, volume};

/// What commands see as `/`: a mount point, or a subvolume.
const ROOT: &str = "rootfs";
/// What the root is made of: read by `mount` and `gc`, and there before the first layer is counted on.
const SNAP: &str = "snap.json";

/// `bocker.snap`: what a container's root is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snap {
    /// How.
    pub(crate) driver: Driver,
    /// The image, unless the root is a view of a directory.
    pub(crate) image: Option<Id>,
    /// Chain ids, lowest first.
    #[serde(default)]
    pub(crate) layers: Vec<Digest>,
    /// The directory that the root is a view of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Whether what is written may be lost when the machine stops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) volatile: bool,
    /// How many bytes may be written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// The file that holds the id for somebody; without the container it means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Volumes, bind mounts and filesystems in memory, as they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<volume::Request>,
}

/// A container's folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder of an id, whether it exists or not.
    pub(crate) fn of(id: &Id) -> Folder {
        Folder(paths::container(id))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the root is.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join(ROOT)
    }

    /// Makes the folder and all in it, or nothing.
    pub(crate) fn make(&self, snap: &Snap) -> Result<()> {
        layers::make_folder(&paths::containers())?;
        DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .doing(|| format!("make {}", self.0.display()))?;
        let made = self.fill(snap);
        if made.is_err() {
            let _ = self.remove();
        }
        made
    }

    fn fill(&self, snap: &Snap) -> Result<()> {
        if snap.driver == Driver::Overlay {
            DirBuilder::new()
                .mode(0o755)
                .create(self.root())
                .doing(|| format!("make {}", self.root().display()))?;
            overlay::make_folders(self, snap)?;
        }
        self.write(snap)
    }

    /// Writes what the root is made of.
    fn write(&self, snap: &Snap) -> Result<()> {
        let bytes = serde_json::to_vec(snap).map_err(io::Error::from);
        self.replace(SNAP, bytes)
    }

    /// Where bocker-spawn keeps the document.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join(containers::CONFIG)
    }

    /// Writes the document as bocker-spawn does, for one who holds the container's lock.
    pub(crate) fn write_config(&self, document: &Document) -> Result<()> {
        let mut bytes = Vec::new();
        let written = document.write(&mut bytes, true);
        self.replace(containers::CONFIG, written.map(|()| bytes))
    }

    /// Writes a file that others read only under its own name, so that they see all of it or nothing.
    fn replace(&self, name: &str, bytes: io::Result<Vec<u8>>) -> Result<()> {
        let path = self.0.join(name);
        let bytes = bytes.doing(|| format!("write {}", path.display()))?;
        files::replace(&path, &bytes)
    }

    /// Whether bocker-spawn has taken it over: then it is kept until somebody deletes it.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.config().exists()
    }

    /// Forgets the recorded end: from now on it is being started again.
    pub(crate) fn begin_again(&self) -> Result<()> {
        remove_path(&self.0.join(containers::STATUS))
    }

    /// Removes the container's document, so that one who is killed from here on leaves no container that has lost some of its
    /// files.
    pub(crate) fn disown(&self) -> Result<()> {
        remove_path(&self.config())
    }

    /// Keeps the volumes that nobody named when the container goes, whoever removes the rest of it.
    pub(crate) fn keep_volumes(&self) -> Result<()> {
        let mut snap = match self.snap() {
            Err(error) if error.kind() == &Kind::NotFound => return Ok(()),
            snap => snap?,
        };
        if !snap.volumes.iter().any(|volume| volume.anonymous) {
            return Ok(());
        }
        for volume in &mut snap.volumes {
            volume.anonymous = false;
        }
        self.write(&snap)
    }

    /// Removes the volumes that nobody named and no other container uses.
    pub(crate) fn remove_volumes(&self, id: &Id) -> Result<()> {
        match self.snap() {
            Err(error) if error.kind() == &Kind::NotFound => Ok(()),
            snap => volume::remove_anonymous(id, &snap?.volumes),
        }
    }

    /// Removes the folder with everything in it. Not there is success.
    pub(crate) fn remove(&self) -> Result<()> {
        self.disown()?;
        if self.snap().is_ok_and(|snap| snap.size.is_some()) {
            quota::lift(&self.root())?;
        }
        remove_path(&self.0)
    }

    /// What the root is made of. Fails with [`Kind::NotFound`] when it was never made.
    pub(crate) fn snap(&self) -> Result<Snap> {
        let path = self.0.join(SNAP);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let missing = format!("the container has no {SNAP} in {}", self.0.display());
                return Err(Error::new(Kind::NotFound, missing)
                    .hint("'bocker-snap gc' removes what was left half made"));
            }
            bytes => bytes.doing(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(
                Kind::Invalid,
                format!("{} is damaged: {error}", path.display()),
            )
        })
    }

    /// What the layers are below: the topmost one, if there is any.
    pub(crate) fn top(snap: &Snap) -> Option<PathBuf> {
        snap.layers.last().map(layers::path)
    }

    /// Makes the root that a new container begins with.
    pub(crate) fn make_root(&self, snap: &Snap) -> Result<()> {
        match (snap.driver, Folder::top(snap)) {
            (Driver::Overlay, _) => {
                overlay::dress(self, snap)?;
                self.mount(snap)
            }
            (Driver::Btrfs, Some(top)) => btrfs::snapshot(&top, &self.root(), false),
            (Driver::Btrfs, None) => btrfs::create(&self.root()),
        }
    }

    /// Takes back what [`Folder::make_root`] made.
    pub(crate) fn unmake_root(&self, snap: &Snap) -> Result<()> {
        match snap.driver {
            Driver::Overlay => self.unmount(),
            Driver::Btrfs => remove_path(&self.root()),
        }
    }

    /// Mounts the root, which a snapshot does not need. One that is mounted already is left as it is.
    pub(crate) fn mount(&self, snap: &Snap) -> Result<()> {
        match snap.driver {
            Driver::Overlay if !self.is_mounted() => Overlay::of(self, snap)?.attach(&self.root()),
            Driver::Btrfs if !self.root().is_dir() => Err(Error::new(
                Kind::NotFound,
                format!("the subvolume {} is gone", self.root().display()),
            )),
            _ => Ok(()),
        }
    }

    /// Unmounts the root. Not mounted is success.
    pub(crate) fn unmount(&self) -> Result<()> {
        unmount_all(&self.root())
    }

    /// Whether something is mounted at the root.
    pub(crate) fn is_mounted(&self) -> bool {
        statx(
            CWD,
            self.root(),
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::empty(),
        )
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }
}

/// Takes the lock that orders the verbs on a container; one that nobody claims (its machine was restarted) needs none.
pub(crate) fn lock(id: &Id) -> Result<Option<lock::Lock>> {
    match lock::verbs(id) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == &Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fails with [`Kind::InUse`] when the container's supervisor lives.
pub(crate) fn refuse_alive(id: &Id) -> Result<()> {
    if lock::is_alive(id) {
        return Err(Error::new(Kind::InUse, format!("{id} is running"))
            .hint("stop it first, or use --force"));
    }
    Ok(())
}

/// Releases the claim on an id, if it is this tool's and of this `BOCKER_ROOT`.
pub(crate) fn release(id: &Id) -> Result<()> {
    match claim::read(id) {
        Some(record) if record.root != paths::root() => Ok(()),
        _ => claim::release_own(id, crate::STAGE),
    }
}
