//! Network namespaces that stay without a process: a new one, pinned by a bind mount (network_namespaces(7), ip-netns(8)).

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Id, Kind, Result, paths};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};

use crate::route::Route;

/// In a claim's folder: the pin.
const PIN: &str = "netns";
/// The namespace of the thread that asks, not of the process.
const OWN: &str = "/proc/thread-self/ns/net";
/// linux/magic.h: what a pinned namespace looks like to statfs(2).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Where a container's namespace is pinned.
pub(crate) fn path(id: &Id) -> PathBuf {
    paths::claim(id).join(PIN)
}

/// A new namespace: a descriptor of it, and a socket that works inside.
pub(crate) struct Inside {
    pub(crate) namespace: File,
    pub(crate) route: Route,
    /// Index of the container's interface, once it is there.
    pub(crate) index: u32,
}

/// Whether a namespace is pinned here.
pub(crate) fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// A socket that works in the namespace that is pinned here. setns(2) moves the calling thread, which is moved back.
/// Fails with [`Kind::NotFound`] when none is.
pub(crate) fn route_in(path: &Path) -> Result<Route> {
    if !is_pinned(path) {
        let what = format!("no network namespace is pinned at {}", path.display());
        return Err(Error::new(Kind::NotFound, what));
    }
    let open = |path: &Path| File::open(path).doing(|| format!("open {}", path.display()));
    let (ours, theirs) = (open(Path::new(OWN))?, open(path)?);
    setns(&theirs, CloneFlags::CLONE_NEWNET).doing(|| format!("enter {}", path.display()))?;
    let route = Route::open();
    setns(&ours, CloneFlags::CLONE_NEWNET).doing(|| "return to our namespace".into())?;
    route
}

/// A new namespace that nobody else can know: it is gone with this value.
pub(crate) struct Unpinned {
    namespace: File,
    route: Route,
}

impl Unpinned {
    /// Makes one. unshare(2) moves the calling thread, which is moved back.
    pub(crate) fn make() -> Result<Unpinned> {
        let open = || File::open(OWN).doing(|| format!("open {OWN}"));
        let ours = open()?;
        unshare(CloneFlags::CLONE_NEWNET).doing(|| "make a network namespace".into())?;
        let made = open().and_then(|namespace| {
            let route = Route::open()?;
            Ok(Unpinned { namespace, route })
        });
        setns(&ours, CloneFlags::CLONE_NEWNET).doing(|| "return to our namespace".into())?;
        made
    }

    /// Pins it.
    pub(crate) fn pin(self, path: &Path) -> Result<Inside> {
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(path)
        {
            Ok(_) => {}
            // Left by a create that was killed before the mount.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !is_pinned(path) => {}
            Err(error) => return Err(error).doing(|| format!("make {}", path.display())),
        }
        let source = format!("/proc/self/fd/{}", self.namespace.as_raw_fd());
        let pinned = mount(
            Some(source.as_str()),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        );
        if pinned.is_err() {
            // The first failure is the one to tell.
            let _ = fs::remove_file(path);
        }
        pinned.doing(|| format!("pin the network namespace at {}", path.display()))?;
        Ok(Inside {
            namespace: self.namespace,
            route: self.route,
            index: 0,
        })
    }
}

/// Lets a namespace go: it ends, and its interfaces with it, as soon as no process is in it. Already gone is success.
pub(crate) fn unpin(path: &Path) -> Result<()> {
    while is_pinned(path) {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).doing(|| format!("unmount {}", path.display())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", path.display())),
    }
}
