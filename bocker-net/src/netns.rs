//! Network namespaces that stay without a process: a new one, pinned by a bind mount (network_namespaces(7), ip-netns(8)).

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bocker_pipe::{Doing, Error, Id, Kind, Result, paths};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs, statfs};

use crate::route::Route;

/// In a claim's folder: the pin.
const PIN: &str = "netns";
/// The namespace of the thread that asks, not of the process.
const OWN: &str = "/proc/thread-self/ns/net";
/// linux/magic.h: what a pinned namespace looks like to statfs(2).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// linux/nsfs.h: NSIO, and the number of NS_GET_NSTYPE.
const NS_IOCTL: u8 = 0xb7;
const NS_GET_NSTYPE: u8 = 3;

/// How long the kernel may take to remove what was in a namespace that has ended, and how often it is looked at.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(3);
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Where a container's namespace is pinned.
pub(crate) fn path(id: &Id) -> PathBuf {
    paths::claim(id).join(PIN)
}

/// A new namespace: a descriptor of it, and a socket that works inside.
pub(crate) struct Inside {
    pub(crate) namespace: File,
    pub(crate) route: Route,
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

/// Fails with [`Kind::Invalid`] when what is at the path is no network namespace.
pub(crate) fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    let refuse = || {
        let what = format!("{shown} is not a network namespace");
        let error = Error::new(Kind::Invalid, what);
        Err(error.hint("'ip netns add NAME' makes one at /run/netns/NAME"))
    };
    // Only looked at, as long as it could be anything: opening a FIFO waits, and opening a device may do something.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(OFlag::O_PATH.bits());
    let place = options.open(path).doing(|| format!("open {shown}"))?;
    let found = fstatfs(&place).doing(|| format!("look at {shown}"))?;
    if found.filesystem_type() != NSFS_MAGIC {
        return refuse();
    }
    let namespace = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .doing(|| format!("open {shown}"))?;
    match is_network(&namespace) {
        true => Ok(()),
        false => refuse(),
    }
}

/// Whether a namespace is one of networks (ioctl_nsfs(2), NS_GET_NSTYPE).
fn is_network(namespace: &File) -> bool {
    nix::ioctl_none!(ns_get_nstype, NS_IOCTL, NS_GET_NSTYPE);
    // SAFETY: the descriptor is open as long as `namespace` is, and this request takes no argument.
    let kind = unsafe { ns_get_nstype(namespace.as_raw_fd()) };
    kind == Ok(CloneFlags::CLONE_NEWNET.bits())
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
