//! A private piece of the machine for one test.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use crate::bins::bin_dir;
use crate::cgroups::{self, PREFIX, View, left_behind};
use crate::command::{Call, Output, Running};
use crate::fingerprint::Fingerprint;
use crate::fixture::Image;
use crate::need::require;

/// Folders of the machine that each test gets empty.
const PRIVATE: [(&str, &str); 2] = [("/run/bocker", "mode=0700"), ("/run/netns", "mode=0755")];

/// Says on what `BOCKER_ROOT` lies: `btrfs`, or without it the disk of the machine (ext4, usually).
const DRIVER: &str = "BOCKER_TEST_DRIVER";

/// How large the btrfs of a test is at most, in bytes. Its file is sparse.
const BTRFS_SIZE: u64 = 8 << 30;

/// How long the kernel may take to finish what it does in the background (an interface goes some time after the
/// namespace that held its peer).
const SETTLE: Duration = Duration::from_secs(5);

/// The namespaces that a test does not share with the machine, as `/proc` names them.
const NAMESPACES: [(&str, CloneFlags); 4] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// The calling thread in namespaces of its own (mount, network, uts, cgroup), with an empty `/run/bocker`, a fresh
/// `BOCKER_ROOT` on disk and the binaries under test first in PATH. What the thread starts, threads included,
/// inherits all of it. Dropping it kills what was started and puts the thread back.
pub struct Host {
    pub(crate) dir: PathBuf,
    bins: PathBuf,
    env: BTreeMap<OsString, OsString>,
    pub(crate) cgroups: View,
    outer: Vec<(File, CloneFlags)>,
    cwd: PathBuf,
    /// The namespaces are the thread's: a host can be lent to threads started from it, and not be sent away.
    _thread: PhantomData<MutexGuard<'static, ()>>,
}

impl Host {
    /// Puts the calling thread into a new piece of the machine.
    ///
    /// # Panics
    /// When the tests do not run as root, or the binaries are not built.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it moves the calling thread")]
    pub fn new() -> Host {
        Host::make(false)
    }

    /// The same with the tree of cgroups of version 2 beside those of version 1, as systemd has it in its hybrid layout. It
    /// takes the whole process along: only tests that all do so may share one.
    ///
    /// # Panics
    /// As [`Host::new`] does, and where there is no such tree: see [`need_hybrid`].
    #[must_use]
    pub fn hybrid() -> Host {
        assert!(cgroups::is_hybrid(), "no tree of cgroup v2 beside v1");
        Host::make(true)
    }

    fn make(hybrid: bool) -> Host {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the end-to-end tests make namespaces, mounts and cgroups: run them as root"
        );
        let bins = bin_dir();
        let cwd = env::current_dir().expect("the current directory");
        let dir = fresh_dir();
        for sub in ["root", "home", "tmp", "scratch"] {
            fs::create_dir(dir.join(sub)).expect("a folder of the test");
        }
        let outer = NAMESPACES.map(|(name, flag)| {
            let path = format!("/proc/thread-self/ns/{name}");
            (File::open(path).expect("a namespace of the thread"), flag)
        });
        let cgroups = View::enter(hybrid);
        unshare(
            NAMESPACES
                .iter()
                .fold(CloneFlags::empty(), |all, (_, flag)| all | *flag),
        )
        .expect("unshare");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("make mounts private");
        for (folder, options) in PRIVATE {
            fs::create_dir_all(folder).expect(folder);
            mount(
                Some("tmpfs"),
                folder,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(options),
            )
            .expect(folder);
        }
        cgroups.mount();
        let host = Host {
            env: environment(&dir, &bins),
            dir,
            bins,
            cgroups,
            outer: outer.into(),
            cwd,
            _thread: PhantomData,
        };
        host.run(&["ip", "link", "set", "lo", "up"]).ok();
        if is_btrfs() {
            host.mount_btrfs("disk", &host.root());
        }
        host
    }

    /// Makes a btrfs of its own and mounts it on a folder; it goes with the test's mounts.
    ///
    /// # Panics
    /// When `mkfs.btrfs` is not installed, or the machine has no loop devices.
    pub fn mount_btrfs(&self, name: &str, folder: &Path) {
        let disk = self.dir.join(name);
        let file = File::create(&disk).expect("a file for a disk");
        file.set_len(BTRFS_SIZE).expect("a sparse file");
        let (disk, folder) = (disk.display().to_string(), folder.display().to_string());
        self.run(&["mkfs.btrfs", "-q", &disk]).ok();
        self.run(&["mount", "-o", "loop,nodev,noatime", &disk, &folder])
            .ok();
        // The loop device holds it: nobody else is to see it.
        fs::remove_file(&disk).expect("unlink the disk");
    }

    /// The `BOCKER_ROOT` of the test.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The image store as others see it: its entries in any order, and its blobs.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn images_and_blobs(&self) -> (Vec<String>, Vec<String>) {
        let text = self.run(&["bocker-pull", "list"]).ok().stdout;
        let mut images: Vec<String> = text.lines().map(str::to_owned).collect();
        images.sort();
        let blobs = fs::read_dir(self.root().join("images/blobs/sha256")).expect("the store");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("a blob").file_name();
        let mut blobs: Vec<String> = blobs
            .map(|entry| name(entry).into_string().expect("a digest"))
            .collect();
        blobs.sort();
        (images, blobs)
    }

    /// A folder for the test's own files, which no fingerprint looks at.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Makes a file of the test's own, with the folders that it needs, and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.scratch().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path.display().to_string()
    }

    /// Puts an image into the store as another program would.
    ///
    /// # Panics
    /// When skopeo cannot.
    pub fn store(&self, image: &Image, name: &str) {
        let from = format!("oci:{}", image.layout().display());
        let to = format!("oci:{}:{name}", self.root().join("images").display());
        self.run(&["skopeo", "copy", "--quiet", &from, &to]).ok();
    }

    /// The document of `bocker-snap create`, with its options.
    pub fn create(&self, options: &str) -> Value {
        self.sh(&format!("bocker-snap create {options}"))
            .ok()
            .json()
    }

    /// Hands a document to a verb of bocker-snap, with its options.
    pub fn pass(&self, verb: &str, document: &Value) -> Output {
        let script = format!("bocker-snap {verb}");
        let call = self.call(&["sh", "-c", &script]);
        call.stdin(document.to_string()).run()
    }

    /// The configuration of an image of the store.
    ///
    /// # Panics
    /// When there is no such image.
    #[must_use]
    pub fn config(&self, image: &str) -> Value {
        let digest = self.run(&["bocker-pull", "list", image]).ok().json()["digest"].clone();
        let blob = |digest: &Value| -> Value {
            let hex = digest.as_str().expect("a digest").replace("sha256:", "");
            let path = self.root().join("images/blobs/sha256").join(hex);
            serde_json::from_slice(&fs::read(path).expect("a blob")).expect("JSON")
        };
        blob(&blob(&digest)["config"]["digest"])
    }

    /// The folder of the binaries under test.
    #[must_use]
    pub fn bins(&self) -> &Path {
        &self.bins
    }

    /// A program, not started yet: the first word is looked up in the test's PATH.
    ///
    /// # Panics
    /// When it is one of the tools and has not been built.
    #[must_use]
    pub fn call<A: AsRef<OsStr>>(&self, argv: &[A]) -> Call {
        let program = argv.first().map(|a| a.as_ref().to_string_lossy());
        if let Some(tool) = program.filter(|p| p.starts_with("bocker") && !p.contains('/')) {
            assert!(
                self.bins.join(&*tool).exists(),
                "{tool} is not built: there is none in {}",
                self.bins.display()
            );
        }
        Call::new(argv, self.env.clone())
    }

    /// Runs a program to its end.
    pub fn run<A: AsRef<OsStr>>(&self, argv: &[A]) -> Output {
        self.call(argv).run()
    }

    /// Runs a program beside the test.
    #[must_use]
    pub fn spawn<A: AsRef<OsStr>>(&self, argv: &[A]) -> Running {
        self.call(argv).spawn()
    }

    /// Runs a script with `sh -c`.
    pub fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-c", script])
    }

    /// What is on this piece of the machine now, once the interfaces of containers that are gone have gone too.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let deadline = Instant::now() + SETTLE;
        loop {
            let picture = Fingerprint::take(self);
            if !picture.has_interfaces_in_flight() || Instant::now() > deadline {
                return picture;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Checks that everything is as it was.
    ///
    /// # Panics
    /// When something still differs after the kernel had time to finish; the message shows each difference as a line
    /// that begins with `-` (gone) or `+` (new).
    #[track_caller]
    pub fn assert_same(&self, before: &Fingerprint) {
        let deadline = Instant::now() + SETTLE;
        loop {
            let diff = before.diff(&self.fingerprint());
            if diff.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the machine is not as it was:\n{diff}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `look` answers, for as long as a test may take to see something happen.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what}: it never happened");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes a second root on the same piece of the machine and gives the environment that selects it.
    ///
    /// # Panics
    /// When there is one of this name.
    #[must_use]
    pub fn another_root(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).expect("another root");
        dir
    }

    /// Writes a program of the test's own and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch().join(name);
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    /// A root filesystem of busybox alone, for `--rootfs`; its applets are links in `/bin`.
    ///
    /// # Panics
    /// When busybox is not installed.
    #[must_use]
    pub fn busybox_rootfs(&self, name: &str) -> PathBuf {
        let dir = self.scratch().join(name);
        for sub in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
            fs::create_dir_all(dir.join(sub)).expect("a folder of the root filesystem");
        }
        fs::copy("/bin/busybox", dir.join("bin/busybox")).expect("busybox-static is installed");
        fs::set_permissions(dir.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        for applet in crate::fixture::applets() {
            _ = std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet));
        }
        fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("passwd");
        fs::write(dir.join("etc/group"), "root:x:0:\n").expect("group");
        dir
    }

    /// Removes all unpacked layers, as nobody but a test would while their images are there.
    ///
    /// # Panics
    /// When one cannot be removed.
    pub fn remove_layers(&self) {
        for layer in fs::read_dir(self.root().join("layers"))
            .expect("layers")
            .flatten()
        {
            match crate::is_btrfs() {
                // They are read-only subvolumes.
                true => drop(
                    self.run(&[
                        "btrfs".as_ref(),
                        "subvolume".as_ref(),
                        "delete".as_ref(),
                        layer.path().as_os_str(),
                    ])
                    .ok(),
                ),
                false => fs::remove_dir_all(layer.path()).expect("remove a layer"),
            }
        }
    }

    pub(crate) fn cgroup_mounts(&self) -> impl Iterator<Item = &Path> {
        self.cgroups.mounts()
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.dir.join("tmp")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.cgroups.kill();
        // Threads that the test has started and not waited for share the thread's file system context, and with it shared
        // setns(2) refuses (EINVAL).
        unshare(CloneFlags::CLONE_FS).expect("a file system context of the thread's own");
        for (namespace, flag) in &self.outer {
            setns(namespace, *flag).expect("leave the test's namespaces");
        }
        _ = env::set_current_dir(&self.cwd);
        self.cgroups.leave();
        if keeps() {
            eprintln!("kept: {}", self.dir.display());
        } else if let Err(e) = fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {e}", self.dir.display());
        }
    }
}

/// Whether this machine has the tree of cgroup v2 beside those of v1; a test begins with `if !need_hybrid() { return; }`.
///
/// # Panics
/// As [`crate::need`] does.
#[must_use]
pub fn need_hybrid() -> bool {
    let missing =
        (!cgroups::is_hybrid()).then_some("cgroup v2 beside v1, on /sys/fs/cgroup/unified");
    require(missing.as_slice())
}

/// Where the root is that a document names.
///
/// # Panics
/// When it names none.
#[must_use]
pub fn root_of(document: &Value) -> PathBuf {
    document["root"]["path"].as_str().expect("a root").into()
}

/// Whether `BOCKER_ROOT` of the tests is on btrfs.
#[must_use]
pub fn is_btrfs() -> bool {
    match env::var(DRIVER).as_deref() {
        Ok("btrfs") => true,
        Ok("" | "overlay") | Err(_) => false,
        Ok(other) => panic!("{DRIVER} is neither overlay nor btrfs but {other}"),
    }
}

/// Whether the files of tests stay for a look, until a run without this.
fn keeps() -> bool {
    env::var_os("BOCKER_TESTS_KEEP").is_some()
}

/// A folder on a disk (overlayfs wants extended attributes and whiteouts of its upper layer, which tmpfs has only on
/// new kernels).
fn fresh_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = Path::new("/var/tmp");
    if !keeps() {
        for left in left_behind(parent) {
            _ = fs::remove_dir_all(left);
        }
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
    // What BOCKER_TESTS_KEEP kept, under a pid that has come round again.
    _ = fs::remove_dir_all(&dir);
    fs::DirBuilder::new()
        .mode(0o755)
        .create(&dir)
        .expect("a folder in /var/tmp");
    dir
}

/// Nothing of the caller's environment reaches the programs.
fn environment(dir: &Path, bins: &Path) -> BTreeMap<OsString, OsString> {
    let mut path = bins.as_os_str().to_owned();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    BTreeMap::from([
        ("PATH".into(), path),
        ("BOCKER_ROOT".into(), dir.join("root").into()),
        ("HOME".into(), dir.join("home").into()),
        ("TMPDIR".into(), dir.join("tmp").into()),
        ("LC_ALL".into(), "C.UTF-8".into()),
    ])
}
