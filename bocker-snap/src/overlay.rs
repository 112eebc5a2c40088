//! The driver for every filesystem: overlay mounts (overlayfs.rst of the kernel), by the new mount API where the kernel has all of
//! it, else by mount(2).

use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Kind, Result, paths};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount,
    unmount,
};

use crate::container::{Folder, Snap};
use crate::layers;
use crate::tree::{copy_attributes, open_directory, remove_path};

/// The filesystem type, and what mountinfo shows as the source.
const NAME: &str = "overlay";
/// Adds one lower directory, the topmost first (Linux 6.5).
const LOWER: &str = "lowerdir+";
/// What a value of fsconfig(2) may be long, its end included.
const MAX_STRING: usize = 256;
/// What the options of mount(2) may be long: a page.
const MAX_OPTIONS: usize = 4096;
/// Features that make an upper directory more than the plain difference which a layer has to be: off, whatever the
/// module's parameters say.
const PLAIN: [(&str, &str); 4] = [
    ("redirect_dir", "off"),
    ("metacopy", "off"),
    ("index", "off"),
    ("xino", "off"),
];

/// In a container's folder: what it has written, as overlayfs keeps it.
const UPPER: &str = "upper";
/// Overlayfs' own folder.
const WORK: &str = "work";
/// In it: overlayfs was mounted volatile and perhaps did not end well (overlayfs.rst, "Volatile mount").
const MARK: &str = "work/incompat";
/// The lower directory of an image without layers.
const EMPTY: &str = "empty";

/// What a container has written.
pub(crate) fn upper(folder: &Folder) -> PathBuf {
    folder.path().join(UPPER)
}

/// Makes what a container's folder needs beside the mount point.
pub(crate) fn make_folders(folder: &Folder, snap: &Snap) -> Result<()> {
    for name in needed(snap) {
        let folder = folder.path().join(name);
        DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .doing(|| format!("make {}", folder.display()))?;
    }
    Ok(())
}

fn needed(snap: &Snap) -> Vec<&'static str> {
    match snap.layers.is_empty() && snap.rootfs.is_none() {
        true => vec![UPPER, WORK, EMPTY],
        false => vec![UPPER, WORK],
    }
}

/// The command that makes them, and the mount point.
pub(crate) fn folders_command(folder: &Folder, snap: &Snap) -> String {
    let mut paths = vec![folder.root()];
    paths.extend(needed(snap).iter().map(|name| folder.path().join(name)));
    let words: Vec<String> = paths
        .iter()
        .map(|path| quote(&path.display().to_string()))
        .collect();
    format!("mkdir {}", words.join(" "))
}

/// The lower directories of a container, topmost first.
pub(crate) fn lower(folder: &Folder, snap: &Snap) -> Vec<PathBuf> {
    match &snap.rootfs {
        Some(directory) => vec![directory.clone()],
        None if snap.layers.is_empty() => vec![folder.path().join(EMPTY)],
        None => snap.layers.iter().rev().map(layers::path).collect(),
    }
}

/// Gives the root the attributes of the directory that it shows, since overlayfs takes them from the upper one.
pub(crate) fn dress(folder: &Folder, snap: &Snap) -> Result<()> {
    // There is always one: of an image without layers, the empty one.
    let Some(top) = lower(folder, snap).into_iter().next() else {
        return Ok(());
    };
    let top = File::open(&top).doing(|| format!("open {}", top.display()))?;
    copy_attributes(top, open_directory(&upper(folder))?)
}

/// The command that mounts what [`Folder::mount`] mounts.
pub(crate) fn mount_command(folder: &Folder, snap: &Snap) -> String {
    let escape = |path: &Path| {
        let text = path.display().to_string();
        text.replace('\\', r"\\")
            .replace(':', r"\:")
            .replace(',', r"\,")
    };
    // Relative to their folder: options of mount(2) end with a page.
    let layers = paths::layers();
    let lower: Vec<String> = lower(folder, snap)
        .iter()
        .map(|path| escape(path.strip_prefix(&layers).unwrap_or(path)))
        .collect();
    let options = format!(
        "nodev,lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off,xino=off{}",
        lower.join(":"),
        escape(&upper(folder)),
        escape(&folder.path().join(WORK)),
        if snap.volatile { ",volatile" } else { "" }
    );
    let root = folder.root().display().to_string();
    let mount = format!(
        "mount -t overlay -o {} overlay {}",
        quote(&options),
        quote(&root)
    );
    match snap.layers.is_empty() {
        true => mount,
        false => format!("(cd {} && {mount})", quote(&layers.display().to_string())),
    }
}

/// Directories that are to be seen as one.
#[derive(Debug, Clone)]
pub(crate) struct Overlay {
    /// Read-only, topmost first; at least one.
    pub(crate) lower: Vec<PathBuf>,
    /// Takes what is written.
    pub(crate) upper: PathBuf,
    /// Empty, on the filesystem of `upper`.
    pub(crate) work: PathBuf,
    /// Whether writes need not reach the disk before the mount is gone.
    pub(crate) volatile: bool,
}

impl Overlay {
    /// A container's root.
    pub(crate) fn of(folder: &Folder, snap: &Snap) -> Result<Overlay> {
        let work = folder.path().join(WORK);
        if snap.volatile {
            // A mark of overlayfs from before, by which it refuses: what may be lost may be incomplete too.
            remove_path(&work.join(MARK))?;
        }
        Ok(Overlay {
            lower: lower(folder, snap),
            upper: upper(folder),
            work,
            volatile: snap.volatile,
        })
    }

    /// Mounts at a directory. No device file below it can be opened.
    pub(crate) fn attach(&self, target: &Path) -> Result<()> {
        let what = || format!("mount an overlay at {}", target.display());
        if let Some(made) = self.open()? {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            return move_mount(&made, "", CWD, target, flags).doing(what);
        }
        self.mount(target)
    }

    /// Mounts nowhere: the tree is reached through the descriptor only and is gone with it.
    /// `place` is an empty directory, mounted on for a moment where the kernel knows no other way.
    pub(crate) fn detached(&self, place: &Path) -> Result<OwnedFd> {
        if let Some(made) = self.open()? {
            return Ok(made);
        }
        self.mount(place)?;
        let root = open(
            place,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .doing(|| format!("open {}", place.display()));
        let detached = unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .doing(|| format!("unmount {}", place.display()));
        detached.and(root)
    }

    /// By fsopen(2). `None` where that, or its option `lowerdir+` (Linux 6.5), is unknown or forbidden.
    fn open(&self) -> Result<Option<OwnedFd>> {
        let context = match fsopen(NAME, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => context,
            Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
            Err(Errno::NODEV) => return Err(no_overlay()),
            Err(error) => return Err(error).doing(|| "open an overlay".into()),
        };
        if is_legacy(&context) {
            return Ok(None);
        }
        let explain = |error: Errno| self.explain(error, &context);
        let mut held = Vec::new();
        for (index, lower) in self.lower.iter().enumerate() {
            match fsconfig_set_string(&context, LOWER, name(lower, &mut held)?) {
                Ok(()) => {}
                Err(Errno::INVAL) if index == 0 => return Ok(None),
                Err(error) => return Err(explain(error)),
            }
        }
        for (key, path) in [("upperdir", &self.upper), ("workdir", &self.work)] {
            fsconfig_set_string(&context, key, name(path, &mut held)?).map_err(explain)?;
        }
        for (key, value) in PLAIN.into_iter().chain([("source", NAME)]) {
            fsconfig_set_string(&context, key, value).map_err(explain)?;
        }
        if self.volatile {
            fsconfig_set_flag(&context, "volatile").map_err(explain)?;
        }
        fsconfig_create(&context).map_err(explain)?;
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NODEV,
        )
        .map(Some)
        .map_err(explain)
    }

    /// By mount(2). All directories are named by descriptors: they are short, and hold no comma or colon.
    fn mount(&self, target: &Path) -> Result<()> {
        let mut held = Vec::new();
        let mut lower = Vec::new();
        for path in &self.lower {
            lower.push(by_descriptor(path, &mut held)?);
        }
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            by_descriptor(&self.upper, &mut held)?,
            by_descriptor(&self.work, &mut held)?
        );
        for (key, value) in PLAIN {
            options += &format!(",{key}={value}");
        }
        if self.volatile {
            options += ",volatile";
        }
        if options.len() >= MAX_OPTIONS {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "this kernel cannot stack {} layers (Linux 6.5 can)",
                    lower.len()
                ),
            ));
        }
        let options = std::ffi::CString::new(options)
            .map_err(|_| Error::new(Kind::Invalid, "a mount option holds a NUL byte"))?;
        match mount(NAME, target, NAME, MountFlags::NODEV, options.as_c_str()) {
            Err(Errno::NODEV) => Err(no_overlay()),
            result => result.doing(|| format!("mount an overlay at {}", target.display())),
        }
    }

    /// What the kernel wrote about a failure into the context (fsopen(2)), which says more than the errno.
    fn explain(&self, error: Errno, context: &OwnedFd) -> Error {
        let mut messages = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = rustix::io::read(context, &mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..count]);
            messages.push(message.trim_start_matches("e ").trim_end().to_owned());
        }
        let upper = self.upper.display();
        let what = match messages.is_empty() {
            true => format!("mount an overlay with {upper}"),
            false => format!("mount an overlay with {upper} ({})", messages.join("; ")),
        };
        let error = Error::system(&what, nix::errno::Errno::from_raw(error.raw_os_error()));
        if messages
            .iter()
            .any(|message| message.contains("as upperdir"))
        {
            return error
                .hint("set BOCKER_ROOT to a folder on a filesystem such as ext4, xfs or tmpfs");
        }
        error
    }
}

/// The calls by which this kernel mounts overlays.
pub(crate) fn api() -> &'static str {
    let known = fsopen(NAME, FsOpenFlags::FSOPEN_CLOEXEC).is_ok_and(|context| {
        !is_legacy(&context) && fsconfig_set_string(&context, LOWER, "/").is_ok()
    });
    if known { "fsopen" } else { "mount" }
}

/// Whether the kernel only collects the options for the older interface (before Linux 6.5): it takes any then, even one that
/// lacks its value, and complains when all are there.
fn is_legacy(context: &OwnedFd) -> bool {
    let legacy = fsconfig_set_flag(context, LOWER).is_ok();
    if !legacy {
        // What it wrote about that is no news to anybody.
        _ = rustix::io::read(context, &mut [0; 1024]);
    }
    legacy
}

fn no_overlay() -> Error {
    Error::new(Kind::Unsupported, "this kernel has no overlay filesystem")
        .hint("try 'modprobe overlay'")
}

/// The path itself, or a name by descriptor where it is too long.
fn name(path: &Path, held: &mut Vec<OwnedFd>) -> Result<PathBuf> {
    if path.as_os_str().len() < MAX_STRING {
        return Ok(path.to_owned());
    }
    by_descriptor(path, held).map(PathBuf::from)
}

fn by_descriptor(path: &Path, held: &mut Vec<OwnedFd>) -> Result<String> {
    let fd = open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| format!("open {}", path.display()))?;
    let name = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    held.push(fd);
    Ok(name)
}

/// Unmounts whatever is mounted at a directory, however often. Not mounted, or not there, is success.
pub(crate) fn unmount_all(target: &Path) -> Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("unmount {}", target.display())),
        }
    }
}
