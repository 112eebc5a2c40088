//! The container's first process, from its birth to execve(2). It sets up the container from inside, with the powers of
//! the host's root and one step at a time, reports each to the supervisor, and gives the powers up last.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bocker_pipe::document::Mount;
use bocker_pipe::{Doing, Error, Kind, Result, timing};
use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_change, open_tree, unmount,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{fchdir, pivot_root, setsid};

use crate::channel::Channel;
use crate::mounts::{self, NODEV, NOEXEC, NOSUID, Options, RDONLY};
use crate::plan::{Cgroups, Plan};
use crate::privileges::{self, Stdio};
use crate::rooted::{Make, Root};
use crate::{cgroups, init, spec, sys, tty};

/// The nodes of every container (runtime-spec, config-linux.md, default devices): name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// And the links.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const DEV: &str = "/dev";
const DEV_PTS: &str = "/dev/pts";
const DEV_SHM: &str = "/dev/shm";

/// The parts of the work, each a step. They are reported together, in one message, unless one fails.
pub(crate) const PARTS: [&str; 7] = [
    "spawn.cgroup",
    "spawn.root",
    "spawn.mounts",
    "spawn.devices",
    "spawn.volumes",
    "spawn.mask",
    "spawn.privileges",
];

/// Sets everything up, waits for the word, and executes the command, or the init that does. Never returns.
pub(crate) fn enter(
    plan: &Plan,
    channel: &Channel,
    stdio: Option<Stdio>,
    joins: &[OwnedFd],
    born_in_cgroup: bool,
    init: Option<&OwnedFd>,
) -> ! {
    let mut parts = 0;
    let result = set_up(plan, channel, stdio, joins, born_in_cgroup, &mut parts);
    let result = result.and_then(|()| {
        let program = &plan.program;
        Err(match init {
            Some(file) => init::execute(file.as_fd(), program, channel),
            None => privileges::execute(&program.args, &program.env, &program.path),
        })
    });
    if let Err::<(), _>(error) = result {
        // Without a supervisor there is nobody to tell.
        let _ = channel.failed(parts, &error);
    }
    sys::exit(1)
}

fn set_up(
    plan: &Plan,
    channel: &Channel,
    stdio: Option<Stdio>,
    joins: &[OwnedFd],
    born_in_cgroup: bool,
    parts: &mut usize,
) -> Result<()> {
    // The change of user clears it, and it is set once more after that.
    privileges::end_with_parent()?;
    part(parts, || match born_in_cgroup {
        true => Ok(()),
        false => cgroups::join(&plan.cgroups),
    })?;
    let (tied, root) = part(parts, || {
        sys::reset_signals();
        setsid().doing(|| "begin a session".into())?;
        namespaces(plan, joins)?;
        Ok((mounts::tied(&plan.mounts)?, root(plan)?))
    })?;
    let kernel = part(parts, || kernel_mounts(plan, &root))?;
    let terminal = part(parts, || {
        devices(&kernel.dev)?;
        match plan.program.terminal {
            true => terminal(&kernel, channel).map(Some),
            false => Ok(None),
        }
    })?;
    part(parts, || {
        let all = plan.mounts.iter().zip(tied);
        for (mount, tied) in all.filter(|(mount, _)| !is_own(mount)) {
            mounts::mount(&root, mount, tied)?;
        }
        working_directory(&root, &plan.program.cwd)
    })?;
    part(parts, || {
        mask(plan, &root, &kernel.dev)?;
        if plan.read_only {
            sys::mount_setattr(root.as_fd(), false, RDONLY, 0)
                .doing(|| "make the container's root read-only".into())?;
        }
        pivot(&root)
    })?;
    part(parts, || {
        let stdio = match terminal {
            Some(terminal) => Stdio::terminal(terminal)?,
            None => stdio.unwrap_or_default(),
        };
        privileges::prepare(&plan.program, &root, stdio)
    })?;
    channel.done(*parts)?;
    if !channel.wait() {
        sys::exit(1);
    }
    Ok(())
}

/// Does the next part, and counts it once it is done.
fn part<T>(parts: &mut usize, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = timing::measure(PARTS[*parts], act)?;
    *parts += 1;
    Ok(done)
}

fn namespaces(plan: &Plan, joins: &[OwnedFd]) -> Result<()> {
    if plan.new_cgroup {
        sys::unshare(libc::CLONE_NEWCGROUP).doing(|| "make a cgroup namespace".into())?;
    }
    for (join, fd) in plan.joins.iter().zip(joins) {
        rustix::thread::move_into_link_name_space(fd.as_fd(), None)
            .doing(|| format!("enter the {} namespace {}", join.kind, join.path.display()))?;
    }
    if plan.new_network {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
            .doing(|| "make a socket".into())?;
        sys::loopback_up(socket.as_fd()).doing(|| "bring the loopback interface up".into())?;
    }
    if !plan.hostname.is_empty() {
        rustix::system::sethostname(plan.hostname.as_bytes())
            .doing(|| format!("set the host name {}", plan.hostname))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .doing(|| format!("set the domain name {name}"))?;
    }
    Ok(())
}

/// Nothing of ours reaches the host's mounts from here on; the root becomes a mount of our own, without devices.
fn root(plan: &Plan) -> Result<Root> {
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).doing(|| "make the mounts private".into())?;
    let path = &plan.root;
    let doing = || format!("mount the root {}", path.display());
    let target = Root::open(path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&target, "", flags).doing(doing)?;
    sys::mount_setattr(tree.as_fd(), true, NODEV, 0).doing(doing)?;
    mounts::attach(&tree, target.as_fd()).doing(doing)?;
    Ok(tree.into())
}

/// Whether a mount is of the kernel's own filesystems. They come first, and nothing of the image may stand in for their
/// mount points.
pub(crate) fn is_own(mount: &Mount) -> bool {
    matches!(
        mount.kind.as_deref(),
        Some("proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts" | "mqueue")
    ) || (mount.kind.as_deref() == Some("tmpfs")
        && [DEV, DEV_SHM].contains(&mount.destination.as_str()))
}

/// The mounts that later steps work in, by descriptor.
struct Kernel {
    dev: OwnedFd,
    pts: Option<OwnedFd>,
}

fn kernel_mounts(plan: &Plan, root: &Root) -> Result<Kernel> {
    let mut dev = None;
    let mut pts = None;
    for mount in plan.mounts.iter().filter(|mount| is_own(mount)) {
        let path = mount.destination.as_str();
        // A link here was planted, to make us write somewhere else (CVE-2019-16884, CVE-2019-19921, CVE-2026-41579).
        match root.find_without_links(path) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(Errno::LOOP) => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{path} of the image is, or is behind, a symbolic link"),
                )
                .hint("the image is broken or hostile"));
            }
            Err(errno) => return Err(errno).doing(|| format!("open {path} in the container")),
        }
        let tree = match mount.kind.as_deref() {
            Some("cgroup") => cgroup_view(root, mount, &plan.cgroups)?,
            _ => mounts::mount(root, mount, None)?,
        };
        match path {
            DEV => dev = Some(tree),
            DEV_PTS => pts = Some(tree),
            _ => {}
        }
    }
    let dev =
        dev.ok_or_else(|| Error::new(Kind::Document, "the document has no tmpfs mount at /dev"))?;
    Ok(Kernel { dev, pts })
}

/// What a container sees of its cgroups, read-only: on v2 the hierarchy, whose root its namespace has made its own; on v1
/// a directory per hierarchy, as the host has them, with its own cgroup in it and nobody else's.
fn cgroup_view(root: &Root, mount: &Mount, cgroups: &Cgroups) -> Result<OwnedFd> {
    if spec::is_unified(Path::new(spec::CGROUP)) {
        let v2 = Mount {
            kind: Some("cgroup2".into()),
            ..mount.clone()
        };
        return mounts::mount(root, &v2, None);
    }
    let view = Mount {
        kind: Some("tmpfs".into()),
        options: ["nosuid", "noexec", "nodev", "mode=755"]
            .map(String::from)
            .into(),
        ..mount.clone()
    };
    let tree = mounts::mount(root, &view, None)?;
    for path in cgroups.unique() {
        let name = hierarchy(path, &cgroups.path)?;
        let doing = || format!("show the cgroup {}", path.display());
        let own = mounts::clone_tree(path, false).doing(doing)?;
        sys::mount_setattr(own.as_fd(), false, RDONLY | NOSUID | NODEV | NOEXEC, 0).doing(doing)?;
        let target = mounts::make_directory(tree.as_fd(), name).doing(doing)?;
        mounts::attach(&own, target.as_fd()).doing(doing)?;
        // cpu and cpuacct of a hierarchy that is mounted as cpu,cpuacct.
        for (controller, _) in cgroups.paths.iter().filter(|(_, other)| *other == path) {
            match symlinkat(name, &tree, controller.as_str()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).doing(doing),
            }
        }
    }
    if Options::parse(&mount.options)?.set & RDONLY != 0 {
        sys::mount_setattr(tree.as_fd(), false, RDONLY, 0)
            .doing(|| "make the view of the cgroups read-only".into())?;
    }
    Ok(tree)
}

/// `/sys/fs/cgroup/cpu,cpuacct/<id>` is of the hierarchy `cpu,cpuacct`.
fn hierarchy<'a>(path: &'a Path, below: &str) -> Result<&'a str> {
    path.to_str()
        .and_then(|path| path.strip_suffix(below.trim_end_matches('/')))
        .and_then(|mount_point| mount_point.rsplit('/').next())
        .filter(|name| !name.is_empty() && *name != "." && *name != "..")
        .ok_or_else(|| {
            Error::new(
                Kind::Document,
                format!("the cgroup {} does not end with {below}", path.display()),
            )
        })
}

/// Everything is made relative to the descriptor of our own new filesystem (CVE-2026-41579).
fn devices(dev: &OwnedFd) -> Result<()> {
    // The modes of the nodes are exact.
    rustix::process::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            dev,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )
        .doing(|| format!("make the device {DEV}/{name} in the container"))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).doing(|| format!("make {DEV}/{name} in the container"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// A terminal of the container's own devpts. The supervisor gets the master; the other end, opened through it and never
/// by a path (CVE-2025-52565), becomes /dev/console too.
fn terminal(kernel: &Kernel, channel: &Channel) -> Result<OwnedFd> {
    let pts = kernel.pts.as_ref().ok_or_else(|| {
        Error::new(
            Kind::Document,
            "a terminal needs a devpts mount at /dev/pts",
        )
    })?;
    let (master, terminal) = tty::open_pair(pts.as_fd(), "ptmx")?;
    let doing = || "make /dev/console in the container".to_owned();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let console = openat(&kernel.dev, "console", flags, Mode::from_raw_mode(0o600)).doing(doing)?;
    let tree = mounts::clone_tree_of(terminal.as_fd()).doing(doing)?;
    mounts::attach(&tree, console.as_fd()).doing(doing)?;
    channel.descriptor(master.as_fd())?;
    Ok(terminal)
}

/// As docker: a working directory that is not there is made. One that leads through /proc/self/fd is no directory of the
/// container's (CVE-2024-21626): it is never followed.
fn working_directory(root: &Root, path: &str) -> Result<()> {
    root.find_or_make(path, Make::Directory).map(drop)
}

fn mask(plan: &Plan, root: &Root, dev: &OwnedFd) -> Result<()> {
    let null = our_null(dev)?;
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked {
        let doing = || format!("mask {path}");
        let Some(target) = existing(root, path).doing(doing)? else {
            continue;
        };
        let stat = fstat(&target).doing(doing)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let tree = mounts::clone_tree_of(null.as_fd()).doing(doing)?;
            sys::mount_setattr(tree.as_fd(), false, RDONLY | NOSUID | NOEXEC, 0).doing(doing)?;
            mounts::attach(&tree, target.as_fd()).doing(doing)?;
            continue;
        }
        // One empty filesystem serves them all.
        let tree = match &empty {
            Some(first) => mounts::clone_tree_of(first.as_fd()).doing(doing)?,
            None => mounts::new(
                "tmpfs",
                "tmpfs",
                &Options::of(RDONLY | NOSUID | NODEV | NOEXEC),
            )?,
        };
        mounts::attach(&tree, target.as_fd()).doing(doing)?;
        empty.get_or_insert(tree);
    }
    for path in &plan.read_only_paths {
        let doing = || format!("make {path} read-only");
        let Some(target) = existing(root, path).doing(doing)? else {
            continue;
        };
        let tree = mounts::clone_tree_of(target.as_fd()).doing(doing)?;
        sys::mount_setattr(tree.as_fd(), false, RDONLY, 0).doing(doing)?;
        mounts::attach(&tree, target.as_fd()).doing(doing)?;
    }
    Ok(())
}

fn existing(root: &Root, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match root.find(path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The null device that we have just made in a filesystem that nobody else has seen, looked at once more
/// (CVE-2025-31133: a mask that is bound from a planted file shows and writes that file).
fn our_null(dev: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let doing = || "open the null device".to_owned();
    let null = openat(dev, "null", flags, Mode::empty()).doing(doing)?;
    let stat = fstat(&null).doing(doing)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != makedev(1, 3) {
        return Err(Error::new(
            Kind::Invalid,
            "/dev/null of the container is not the null device",
        ));
    }
    Ok(null)
}

/// pivot_root(2), "pivot_root(".", ".")": the host's root ends up on top of ours, and is let go.
fn pivot(root: &Root) -> Result<()> {
    let doing = || "change the root".to_owned();
    fchdir(root).doing(doing)?;
    pivot_root(".", ".").doing(doing)?;
    unmount(".", UnmountFlags::DETACH).doing(|| "let the host's root go".into())?;
    rustix::process::chdir("/").doing(doing)
}

/// Lets go of the caller's standard descriptors.
pub(crate) fn let_stdio_go() -> Result<()> {
    let doing = || "let the standard descriptors go".to_owned();
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).doing(doing)?;
    for number in 0..=2 {
        sys::set_stdio(null.as_fd(), number).doing(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_named_by_its_mount_point() {
        let path = Path::new("/sys/fs/cgroup/cpu,cpuacct/ps_aaaaaa");
        assert_eq!(hierarchy(path, "/ps_aaaaaa").unwrap(), "cpu,cpuacct");
        assert!(hierarchy(path, "/ps_bbbbbb").is_err());
    }
}
