//! The pool: a sparse file beside `BOCKER_ROOT` with a btrfs in it, mounted there through a loop device, for machines whose disk has
//! another filesystem. `setup` makes it, mounts it and lets it grow; every tool has it mounted at need (`bocker_pipe::pool`).
//!
//! The file appears under its name when there is a filesystem in it, and its lock orders those who make, mount and remove it. Its
//! loop device is let go of by the kernel when it is not mounted any more, so that nothing is left whenever this is killed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, Step, paths, pool, size};
use nix::errno::Errno as Code;
use nix::libc;
use rustix::fs::{CWD, FlockOperation, flock, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::Serialize;

use crate::btrfs;
use crate::ioctl;
use crate::layers::make_folder;
use crate::loop_device::LoopDevice;
use crate::tree::{open_child, open_directory, sync_directory};

/// The one program that is executed: how a filesystem is laid out is its knowledge, and no kernel's.
const MKFS: &str = "mkfs.btrfs";
/// Where it is if PATH does not say, and the Debian package that has it.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
const PACKAGE: &str = "btrfs-progs";
/// No second copy of metadata, as the disk below has none either: what begins a container is a commit, which takes 1.8 ms instead
/// of 2.4. The label is what `lsblk -f` shows.
const MKFS_OPTIONS: [&str; 5] = ["-q", "-m", "single", "-L", "bocker"];

/// btrfs(5): no write for each read, since snapshots would no longer share what was read; freed space goes back to the disk in
/// the background (Linux 5.6). Device files are never opened on it; set-user-id programs are for containers to run.
const OPTIONS: &std::ffi::CStr = c"discard=async";
const FLAGS: MountFlags = MountFlags::NODEV.union(MountFlags::NOATIME);

/// btrfs itself refuses to grow one that is smaller.
const MIN: u64 = 256 << 20;
/// Files have no more.
const MAX: u64 = i64::MAX as u64;
/// A whole number of blocks for every disk.
const UNIT: u64 = 1 << 20;
/// How much of the disk has to be free beside a pool: a twentieth of it, within these. When the disk is full, what the pool's
/// filesystem has promised to keep cannot be written, and it becomes read-only.
const RESERVE: std::ops::RangeInclusive<u64> = 1 << 30..=10 << 30;
const RESERVE_PART: u64 = 20;

/// What `setup` does, and what has come of it.
#[derive(Default)]
struct Setup {
    /// What is asked for; without it what is there is mounted.
    size: Option<u64>,
    /// The file, locked.
    file: Option<File>,
    made: bool,
    mounted: bool,
    grown: bool,
}

/// `setup [--btrfs SIZE]`.
pub(crate) fn setup(call: &mut Call) -> Result<()> {
    let mut setup = Setup::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--btrfs" => {
                setup.size = Some(parse(&call.text()?)?);
            }
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    if setup.size.is_none() && !paths::pool().exists() {
        return Ok(());
    }
    let mut steps = vec![file_step(), mount_step()];
    if setup.size.is_some() {
        steps.push(grow_step());
    }
    call.run_steps(&mut setup, steps)?;
    match (call.dry_run(), info()) {
        (false, Some(info)) => {
            info.warn();
            call.line(&info)
        }
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Result<u64> {
    let bytes = size::parse(text)?;
    if !(MIN..=MAX).contains(&bytes) {
        let what = format!("a pool of {} cannot be made", size::show(bytes));
        return Err(Error::new(Kind::Invalid, what)
            .hint(format!("give {} or more, as 20g", size::show(MIN))));
    }
    Ok(bytes.next_multiple_of(UNIT).min(MAX / UNIT * UNIT))
}

fn file_step() -> Step<Setup> {
    Step::new(
        "snap.pool",
        "a sparse file takes of the disk what is written to it, and the filesystem in it can make snapshots",
    )
    .command(|c: &Setup| {
        let (file, new) = (shown(&paths::pool()), shown(&new()));
        match c.size {
            Some(size) if c.made || c.file.is_none() && !paths::pool().exists() => vec![
                format!("(umask 077 && truncate -s {size} {new})"),
                format!("{MKFS} {} {new}", MKFS_OPTIONS.join(" ")),
                format!("mv {new} {file}"),
            ],
            _ => vec![format!("# {file} is there")],
        }
    })
    .look(|_| format!("ls -ls {}", shown(&paths::pool())))
    .apply(|c| {
        let taken = take(c.size)?;
        c.made = taken.made;
        c.file = taken.file;
        Ok(())
    })
    .undo(|c| match c.made {
        true => remove_file(&paths::pool()),
        false => Ok(()),
    })
}

fn mount_step() -> Step<Setup> {
    Step::new(
        "snap.loop",
        "the file is a disk to the kernel, by a loop device that goes with the mount",
    )
    .command(|c: &Setup| {
        if c.file.is_some() && !c.mounted {
            return vec!["# it is mounted".into()];
        }
        vec![
            format!("mkdir -p -m 700 {}", shown(&paths::root())),
            format!(
                "mount -t btrfs -o nodev,noatime,{} $(losetup --find --show --direct-io=on {}) {}",
                OPTIONS.to_string_lossy(),
                shown(&paths::pool()),
                shown(&paths::root())
            ),
        ]
    })
    .look(|_| format!("findmnt {}", shown(&paths::root())))
    .apply(|c| {
        if let Some(file) = &c.file {
            c.mounted = mount_file(file)?;
        }
        Ok(())
    })
    .undo(|c| match c.mounted {
        true => unmount_root(),
        false => Ok(()),
    })
}

fn grow_step() -> Step<Setup> {
    Step::new(
        "snap.grow",
        "a pool grows while it is in use: first the file, then the device, then the filesystem",
    )
    .command(|c: &Setup| match (c.size, c.grown) {
        (Some(size), true) => vec![
            format!("truncate -s {size} {}", shown(&paths::pool())),
            format!(
                "losetup --set-capacity $(losetup -n -O NAME -j {})",
                shown(&paths::pool())
            ),
            format!("btrfs filesystem resize max {}", shown(&paths::root())),
        ],
        _ => vec!["# it has this size".into()],
    })
    .look(|_| format!("btrfs filesystem usage {}", shown(&paths::root())))
    .apply(|c| {
        if let (Some(file), Some(size)) = (&c.file, c.size) {
            c.grown = grow(file, size)?;
        }
        Ok(())
    })
}

fn shown(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// The file until there is a filesystem in it.
fn new() -> PathBuf {
    let mut path = paths::pool().into_os_string();
    path.push(".new");
    path.into()
}

/// The pool's file, locked, and whether it was made now.
struct Taken {
    file: Option<File>,
    made: bool,
}

/// Locks the file, after those who hold it, or makes one of this size. None of either without a size.
fn take(size: Option<u64>) -> Result<Taken> {
    let (path, new) = (paths::pool(), new());
    loop {
        if let Some(file) = open_locked(&path, false)? {
            let made = false;
            return Ok(Taken {
                file: Some(file),
                made,
            });
        }
        let Some(size) = size else {
            return Ok(Taken {
                file: None,
                made: false,
            });
        };
        refuse_place()?;
        let host = parent(&path);
        make_folder(host)?;
        check_room(host, size)?;
        let Some(file) = open_locked(&new, true)? else {
            continue;
        };
        // Made by another while this one waited.
        if path.exists() {
            remove_file(&new)?;
            continue;
        }
        let made = make(&file, &new, size);
        if made.is_err() {
            let _ = remove_file(&new);
        }
        made?;
        // The lock is on the file, whatever its name.
        let file = Some(file);
        return Ok(Taken { file, made: true });
    }
}

/// Opens a file and waits for its lock. `None` when it is not there, or not any more.
fn open_locked(path: &Path, create: bool) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.doing(|| format!("open {}", path.display()))?,
    };
    let lock = || loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    };
    lock().doing(|| format!("lock {}", path.display()))?;
    let data = file
        .metadata()
        .doing(|| format!("examine {}", path.display()))?;
    let there = fs::symlink_metadata(path);
    let same = there.is_ok_and(|there| (there.dev(), there.ino()) == (data.dev(), data.ino()));
    Ok(same.then_some(file))
}

/// Refuses what must not be hidden by a mount, and what needs none.
fn refuse_place() -> Result<()> {
    let root = paths::root();
    let shown = root.display();
    if btrfs::holds(&root) {
        let what = format!("{shown} is on btrfs: snapshots are made there without a pool");
        return Err(Error::new(Kind::Exists, what));
    }
    let mut entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("read {shown}"))?,
    };
    if entries.next().is_some() {
        let what = format!("{shown} holds files already, which a pool would hide");
        return Err(Error::new(Kind::Exists, what).hint(
            "remove its images and containers with 'bocker system reset', or set BOCKER_ROOT to another folder",
        ));
    }
    Ok(())
}

/// Makes the filesystem in the file, and gives it its name.
fn make(file: &File, new: &Path, size: u64) -> Result<()> {
    let what = || format!("make {}", new.display());
    file.set_len(0).doing(what)?;
    file.set_len(size).doing(what)?;
    let program = find_mkfs()?;
    let output = Command::new(&program)
        .args(MKFS_OPTIONS)
        .arg(new)
        .stdin(Stdio::null())
        .output()
        .doing(|| format!("execute {}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.split_whitespace().collect();
        let message = format!("{MKFS} failed on {}: {}", new.display(), said.join(" "));
        return Err(Error::new(Kind::System(Code::EIO as i32), message));
    }
    file.sync_all().doing(what)?;
    let path = paths::pool();
    fs::rename(new, &path).doing(|| format!("make {}", path.display()))?;
    sync_directory(parent(&path))
}

fn find_mkfs() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(MKFS))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("{MKFS} is not installed, which makes the pool"),
            )
            .hint(format!(
                "install it, on Debian with 'apt install {PACKAGE}'"
            ))
        })
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// How much a disk has free, and how much it should.
fn room(folder: &Path) -> Result<(u64, u64)> {
    let found = statvfs(folder).doing(|| format!("ask {}", folder.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_bavail), reserve(bytes(found.f_blocks))))
}

fn reserve(disk: u64) -> u64 {
    (disk / RESERVE_PART).clamp(*RESERVE.start(), *RESERVE.end())
}

/// Refuses a disk that is nearly full. The pool may be larger than what is free: only what is written counts.
fn check_room(folder: &Path, size: u64) -> Result<()> {
    let (free, reserve) = room(folder)?;
    if free < reserve {
        let what = format!(
            "the disk with {} is nearly full: {} are free, and {} should be",
            folder.display(),
            mebibytes(free),
            mebibytes(reserve)
        );
        return Err(Error::new(Kind::System(Code::ENOSPC as i32), what)
            .hint("free some space, or set BOCKER_ROOT to a folder on another disk"));
    }
    if size > free {
        let line = format!(
            "bocker-snap: the pool may grow to {}, and its disk has {} free: when the disk is full, the pool becomes read-only\n",
            size::show(size),
            mebibytes(free)
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Mounts the file on `BOCKER_ROOT`. Answers whether it was not before.
fn mount_file(file: &File) -> Result<bool> {
    let root = paths::root();
    if !pool::is_unmounted() {
        return match device_of(file)? {
            Some(_) => Ok(false),
            None => Err(Error::new(
                Kind::Exists,
                format!(
                    "something else than its pool is mounted on {}",
                    root.display()
                ),
            )),
        };
    }
    make_folder(&root)?;
    let device = LoopDevice::attach(file)?;
    if !device.is_direct() {
        let line = format!(
            "bocker-snap: the filesystem of {} does no direct I/O: what the pool holds is cached twice\n",
            paths::pool().display()
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    match mount(&device.path, &root, "btrfs", FLAGS, OPTIONS) {
        Err(Errno::NODEV) => {
            Err(Error::new(Kind::Unsupported, "this kernel has no btrfs")
                .hint("try 'modprobe btrfs'"))
        }
        result => {
            result.doing(|| format!("mount {} at {}", paths::pool().display(), root.display()))
        }
    }?;
    let closed = fs::set_permissions(&root, Permissions::from_mode(0o700));
    if let Err(error) = closed {
        let _ = unmount_root();
        return Err(error).doing(|| format!("close {}", root.display()));
    }
    Ok(true)
}

/// The loop device by which the file is mounted on `BOCKER_ROOT`.
fn device_of(file: &File) -> Result<Option<LoopDevice>> {
    let Ok(root) = open_child(CWD, paths::root().as_os_str()) else {
        return Ok(None);
    };
    let Ok(device) = ioctl::device(&root) else {
        return Ok(None);
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(&device.path));
    match LoopDevice::open(path) {
        Ok(device) if device.has(file)? => Ok(Some(device)),
        _ => Ok(None),
    }
}

/// Grows all three that are smaller. Answers whether any was.
fn grow(file: &File, size: u64) -> Result<bool> {
    let path = paths::pool();
    let what = || format!("grow {}", path.display());
    let length = file.metadata().doing(what)?.len();
    if size < length {
        let what = format!("the pool {} has {}", path.display(), size::show(length));
        return Err(Error::new(Kind::Invalid, what)
            .hint("a pool only grows: give more, or 'bocker system reset' removes it"));
    }
    let Some(device) = device_of(file)? else {
        return Err(Error::new(
            Kind::NotFound,
            format!("the pool {} is not mounted", path.display()),
        ));
    };
    let root = open_directory(&paths::root())?;
    if size > length {
        check_room(parent(&path), size)?;
        file.set_len(size).doing(what)?;
    } else if ioctl::device(&root).doing(what)?.size == size {
        return Ok(false);
    }
    device.grow()?;
    ioctl::grow(root.as_fd()).doing(what)?;
    Ok(true)
}

fn unmount_root() -> Result<()> {
    let root = paths::root();
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    unmount(&root, flags).doing(|| format!("unmount {}", root.display()))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Unmounts the pool and removes it, or under a dry run only finds it: the files that go.
pub(crate) fn remove(dry_run: bool) -> Result<Vec<PathBuf>> {
    let files = [paths::pool(), new()];
    let there: Vec<PathBuf> = files.into_iter().filter(|path| path.is_file()).collect();
    if dry_run {
        return Ok(there);
    }
    for path in &there {
        let Some(file) = open_locked(path, false)? else {
            continue;
        };
        if !pool::is_unmounted() && device_of(&file)?.is_some() {
            unmount_root()?;
        }
        remove_file(path)?;
    }
    Ok(there)
}

/// What `info` says of the pool.
#[derive(Debug, Serialize)]
pub(crate) struct Info {
    file: PathBuf,
    /// What it may hold.
    size: u64,
    /// What it holds.
    used: u64,
    /// What it takes of its disk.
    on_disk: u64,
    /// What that has free.
    disk_free: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<PathBuf>,
    direct_io: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl Info {
    /// Says what is wrong to whoever looks.
    pub(crate) fn warn(&self) {
        if let Some(warning) = &self.warning {
            let _ = std::io::stderr().write_all(format!("bocker-snap: {warning}\n").as_bytes());
        }
    }
}

/// The pool of this `BOCKER_ROOT`, if it has one.
pub(crate) fn info() -> Option<Info> {
    let path = paths::pool();
    let file = File::open(&path).ok()?;
    let data = file.metadata().ok()?;
    let device = device_of(&file).ok().flatten();
    let used = statvfs(paths::root()).ok().filter(|_| device.is_some());
    let (free, reserve) = room(parent(&path)).ok()?;
    let warning = (free < reserve).then(|| {
        format!(
            "the disk of the pool {} has {} free: when it is full, the pool becomes read-only",
            path.display(),
            mebibytes(free)
        )
    });
    Some(Info {
        size: data.len(),
        used: used.map_or(0, |found| (found.f_blocks - found.f_bfree) * found.f_frsize),
        on_disk: data.blocks() * 512,
        disk_free: free,
        direct_io: device.as_ref().is_some_and(LoopDevice::is_direct),
        device: device.map(|device| device.path),
        warning,
        file: path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_whole_number_of_mebibytes_and_not_tiny() {
        assert_eq!(parse("256m").unwrap(), MIN);
        assert_eq!(parse("20g").unwrap(), 20 << 30);
        assert_eq!(parse("300000000").unwrap(), 287 << 20);
        for text in ["255m", "0", "", "1x", "99999999t"] {
            assert_eq!(parse(text).unwrap_err().kind(), &Kind::Invalid, "{text}");
        }
        assert_eq!(parse("9223372036854775807").unwrap() % UNIT, 0);
    }

    #[test]
    fn a_twentieth_of_the_disk_is_kept_free_but_neither_nothing_nor_very_much() {
        assert_eq!(reserve(4 << 30), 1 << 30);
        assert_eq!(reserve(100 << 30), 5 << 30);
        assert_eq!(reserve(20 << 40), 10 << 30);
    }

    #[test]
    fn the_file_lies_beside_the_folder() {
        assert_eq!(new().parent(), paths::root().parent());
        assert!(new().display().to_string().ends_with(".btrfs.new"));
    }
}
