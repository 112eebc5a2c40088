//! What a container sees, its volumes included, put together in a mount namespace of our own: as the runtime does it, whether the
//! container runs or not, and without entering a namespace of its, in which everything belongs to the container.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use bocker_pipe::document::Mount;
use bocker_pipe::{Document, Doing, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, mount_remount,
    move_mount, open_tree,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::container::{Folder, Snap};
use crate::tree::open_directory;

/// How paths of a container are resolved: neither a link nor `..` leads out, and no link of proc(5) anywhere.
pub(crate) const IN_CONTAINER: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Moves the calling thread, and those that it starts, into a mount namespace of their own, mounts the container's root there
/// unless it is mounted, and its volumes on top, and opens it. All of it is gone with the process.
pub(crate) fn open(folder: &Folder, snap: &Snap, document: &Document) -> Result<OwnedFd> {
    leave_namespace().doing(|| "make a mount namespace".into())?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).doing(|| "make mounts private".into())?;
    folder.mount(snap)?;
    let mut root = open_directory(&folder.root())?;
    if document.value("/root/readonly") == Some(&true.into()) {
        let path = folder.root();
        let what = || format!("mount {} read-only", path.display());
        let tree = clone(&path, false).doing(what)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, &path, flags).doing(what)?;
        make_readonly(&tree).doing(what)?;
        root = open_directory(&path)?;
    }
    let mut mounts: Vec<Mount> = document.get("/mounts")?.unwrap_or_default();
    mounts.retain(|mount| mount.kind.as_deref() == Some("bind"));
    mounts.sort_by_key(|mount| mount.destination.split('/').count());
    for mount in &mounts {
        attach(&root, mount).doing(|| format!("mount the container's {}", mount.destination))?;
    }
    Ok(root)
}

fn leave_namespace() -> rustix::io::Result<()> {
    // SAFETY: of what can be unshared only a descriptor table would make descriptors of other threads mean something else.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}

/// One bind mount. Where its source is gone, or its place is, there is nothing to be seen.
fn attach(root: &OwnedFd, mount: &Mount) -> rustix::io::Result<()> {
    let Some(source) = &mount.source else {
        return Ok(());
    };
    let has = |option: &str| mount.options.iter().any(|other| other == option);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = match openat2(
        root,
        &*mount.destination,
        flags,
        Mode::empty(),
        IN_CONTAINER,
    ) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        place => place?,
    };
    let tree = match clone(Path::new(source), has("rbind")) {
        Err(Errno::NOENT) => return Ok(()),
        tree => tree?,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(&tree, "", &place, "", flags) {
        // A file cannot be mounted on a directory, nor the other way round: the runtime could not either.
        Err(Errno::NOTDIR) => return Ok(()),
        result => result?,
    }
    match has("ro") {
        true => make_readonly(&tree),
        false => Ok(()),
    }
}

fn clone(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

/// Of an attached mount. Nobody but us sees it.
fn make_readonly(tree: &OwnedFd) -> rustix::io::Result<()> {
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
    mount_remount(path, flags, "")
}
