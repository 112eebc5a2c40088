//! A virtual machine that runs one program and ends with its exit status: Debian's cloud kernel with cgroups of version 2
//! alone, in qemu, which needs no KVM for it. Nothing of the host's is shared with it or changed by it.

mod initramfs;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use initramfs::Initramfs;

use crate::bins::{TOOLS, bin_dir, cache_dir};
use crate::fixture::{BUSYBOX, applets};
use crate::need::{find, require};

const QEMU: &str = "qemu-system-x86_64";

/// What the name of the kernel's file begins and ends with; the release lies between.
const KERNEL: (&str, &str) = ("vmlinuz-", "-cloud-amd64");

/// Like a small cloud machine's. Two processors, because races are of interest.
const MACHINE: [&str; 4] = ["-smp", "2", "-m", "1024"];

/// A panic resets the machine, and a reset ends qemu (`-no-reboot`). Without `tsc=reliable` every look at the clock leaves
/// the guest. qemu 7.2 translates code anew wherever it finds it at another address: with `norandmaps` a program that has
/// run before starts four times as fast.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 oops=panic tsc=reliable norandmaps";

/// What bocker and the tests ask the kernel for.
const MODULES: [&str; 16] = [
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "veth",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_redir",
    "nft_log",
    "loop",
    "dummy",
    "tun",
];

/// What the harness uses, and busybox has otherwise: its shell would prefer its own applets to programs in PATH.
const PROGRAMS: [&str; 5] = ["sh", "ip", "nft", "nsenter", "setsid"];

/// The size of the disk that a guest is given when it is given none; the host stores what is written.
const DISK: u64 = 8 << 30;

/// How much of the kernel's messages tells why a guest failed.
const LAST_LINES: usize = 60;

/// How long a machine may take to come to its process 1, which is 3 s, and how often it is begun. On a busy host qemu 7.2 gets stuck
/// before the kernel has said a word, in interrupts that never end (seen once). Process 1 says on the line of the exit status that it is
/// there.
const BOOT: Duration = Duration::from_secs(90);
const BOOTS: u32 = 3;

/// Whether a guest can be started here; a test begins with `if !need_guest() { return; }`.
///
/// # Panics
/// As [`crate::need`] does.
#[must_use]
pub fn need_guest() -> bool {
    let mut missing: Vec<&str> = [QEMU, "mkfs.ext4", "ldd"].into();
    missing.retain(|program| find(program).is_none());
    if kernel().is_none() {
        missing.push("Debian's linux-image-cloud-amd64");
    }
    require(&missing)
}

/// A virtual machine that is going to run a program.
#[derive(Debug)]
pub struct Guest {
    /// Programs of the host's that it gets, beside busybox and those that every guest has.
    pub programs: Vec<String>,
    /// The file of its disk, which is mounted on `/var`; without it the disk is empty and goes with the machine.
    pub disk: Option<PathBuf>,
    /// How long it may take before it counts as hanging.
    pub limit: Duration,
    /// Whether the program has the terminal.
    pub interactive: bool,
}

impl Guest {
    /// Runs a program in the machine and gives its exit status. A path is that of a program of the host's, which comes
    /// along; a name is looked up in the guest. What it says on stdout and stderr comes to stdout.
    ///
    /// # Errors
    /// When the machine ended or was ended before the program did: why, and the last messages of the kernel.
    ///
    /// # Panics
    /// When there is no kernel or qemu, or the host's disk is full.
    pub fn run(&self, argv: &[OsString]) -> Result<i32, String> {
        let kernel = kernel().expect("Debian's linux-image-cloud-amd64 is installed");
        let [initramfs, console, verdict] = [(); 3].map(|()| temporary());
        self.fill(&initramfs, &kernel, argv);
        let empty = temporary();
        let disk = self.disk.clone().unwrap_or_else(|| {
            empty.set_len(DISK).expect("a sparse file");
            let made = Command::new(find("mkfs.ext4").expect("mkfs.ext4"))
                .args(["-q", "-F", "-O", "^has_journal"])
                .arg(path_of(&empty))
                .status();
            assert!(made.expect("mkfs.ext4").success(), "mkfs.ext4 failed");
            path_of(&empty)
        });
        let mut qemu = Command::new(QEMU);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-no-reboot"])
            .args(MACHINE)
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(path_of(&initramfs))
            .args(["-append", COMMAND_LINE])
            .arg("-drive")
            .arg(format!(
                "file={},if=virtio,format=raw,cache=unsafe",
                disk.display()
            ))
            .args(["-serial", &format!("file:{}", path_of(&console).display())]);
        // On a terminal, Ctrl-A x ends the machine.
        let mux = if self.interactive { "on" } else { "off" };
        qemu.args([
            "-chardev",
            &format!("stdio,id=program,signal=off,mux={mux}"),
        ])
        .args(["-serial", "chardev:program"])
        .args(["-serial", &format!("file:{}", path_of(&verdict).display())]);
        if !self.interactive {
            // Not the caller's own stdout: qemu would make it non-blocking for everybody who has it.
            qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        let has_booted = || verdict.metadata().is_ok_and(|file| file.len() > 0);
        let mut left = BOOTS;
        let ended = loop {
            let mut qemu = Ended(qemu.spawn().unwrap_or_else(|e| panic!("{QEMU}: {e}")));
            let output = qemu.0.stdout.take();
            let copy = thread::spawn(move || {
                output.map_or(Ok(0), |mut output| io::copy(&mut output, &mut io::stdout()))
            });
            let begun = Instant::now();
            let boots = qemu.wait(BOOT.min(self.limit), has_booted);
            let ended = boots && qemu.wait(self.limit.saturating_sub(begun.elapsed()), || false);
            drop(qemu);
            _ = copy.join();
            left -= 1;
            if boots || left == 0 || self.limit <= BOOT {
                break ended;
            }
            eprintln!("the guest did not boot in {BOOT:?}; it is started again");
        };
        _ = io::stdout().flush();
        let said = read(verdict);
        let status = said.lines().find_map(|line| line.strip_prefix("exit "));
        match status.map(|status| status.trim().parse()) {
            Some(Ok(status)) => Ok(status),
            _ => Err(self.failure(ended, &read(console))),
        }
    }

    fn failure(&self, ended: bool, console: &str) -> String {
        let what = match ended {
            true => "the guest ended before the program did".to_owned(),
            false => format!("the guest hung: no end after {:?}", self.limit),
        };
        let lines: Vec<&str> = console.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("{what}; its kernel's last messages:\n{}", last.join("\n"))
    }

    /// Writes the file system that the machine boots with.
    fn fill(&self, file: &File, kernel: &Kernel, argv: &[OsString]) {
        let file = file.try_clone().expect("duplicate a descriptor");
        let mut initramfs = Initramfs::new(file);
        initramfs.file("/init", 0o755, include_bytes!("guest/init"));
        initramfs.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        initramfs.file("/etc/group", 0o644, b"root:x:0:\n");
        initramfs.copy(Path::new(BUSYBOX), BUSYBOX);
        for tool in TOOLS {
            let path = bin_dir().join(tool);
            if path.exists() {
                initramfs.copy(&path, Path::new("/bocker").join(tool));
            }
        }
        for program in PROGRAMS
            .iter()
            .copied()
            .chain(self.programs.iter().map(String::as_str))
        {
            let path = find(program).unwrap_or_else(|| panic!("{program} is not installed"));
            initramfs.program(&path);
        }
        for applet in applets() {
            initramfs.link(Path::new("/bin").join(applet), "busybox");
        }
        let program = Path::new(argv.first().expect("a program"));
        if program.components().count() > 1 {
            initramfs.program(program);
        }
        initramfs.modules(&kernel.modules, &MODULES);
        let words: Vec<OsString> = argv.iter().map(|word| quote(word)).collect();
        initramfs.file(
            "/command",
            0o644,
            words.join(OsStr::new(" ")).as_encoded_bytes(),
        );
        if self.interactive {
            let terminal = env::var("TERM").unwrap_or_else(|_| "dumb".into());
            let size = Command::new("stty")
                .arg("size")
                .stdin(Stdio::inherit())
                .output()
                .expect("stty");
            let size = String::from_utf8_lossy(&size.stdout);
            let (rows, columns) = size.trim().split_once(' ').unwrap_or(("24", "80"));
            let script =
                format!("export TERM={terminal}; stty rows {rows} columns {columns} 2>/dev/null\n");
            initramfs.file("/interactive", 0o644, script.as_bytes());
        }
        initramfs.finish();
    }
}

/// A kernel on this machine.
struct Kernel {
    image: PathBuf,
    /// The folder of its modules.
    modules: PathBuf,
}

/// The newest cloud kernel: of a package that was unpacked beside the tests' other files (`.ci/guest-kernel` does), else
/// of one that is installed.
fn kernel() -> Option<Kernel> {
    let roots = [cache_dir().join("kernel"), "/".into()];
    roots.iter().find_map(|root| {
        let files = fs::read_dir(root.join("boot")).ok()?;
        let kernels = files.flatten().filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let release = name.strip_prefix(KERNEL.0)?;
            let modules = root.join("lib/modules").join(release);
            let whole = release.ends_with(KERNEL.1) && modules.join("modules.dep").exists();
            let time = file.metadata().and_then(|m| m.modified()).ok()?;
            let image = file.path();
            whole.then_some((time, Kernel { image, modules }))
        });
        kernels
            .max_by_key(|(time, _)| *time)
            .map(|(_, kernel)| kernel)
    })
}

/// A machine that ends with the caller.
struct Ended(Child);

impl Ended {
    /// Waits until the machine has ended, or `done` says so, and gives whether it was in time.
    fn wait(&mut self, limit: Duration, done: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.0.try_wait().expect("wait for qemu").is_some() || done() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A file without a name, so that nothing is left whatever happens.
fn temporary() -> File {
    tempfile::tempfile_in("/var/tmp").expect("a file in /var/tmp")
}

/// How another process opens it.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// What another process has written into a file that we hold.
fn read(file: File) -> String {
    let mut bytes = Vec::new();
    File::open(path_of(&file))
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .expect("read a file of our own");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A word as a shell reads it.
fn quote(word: &OsStr) -> OsString {
    let text = word.to_str().expect("words are UTF-8");
    format!("'{}'", text.replace('\'', r"'\''")).into()
}
