//! What a guest boots with: a file system as an archive in cpio's "newc" format, with the programs that it is given,
//! their libraries, and the modules of its kernel.
//!
//! The format: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Folders of the root that are links to those of `/usr`, as on Debian.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A file system that is being written.
pub(super) struct Initramfs {
    archive: BufWriter<File>,
    paths: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Begins one with the folders that every program expects, those for programs and libraries merged into `/usr`.
    pub(super) fn new(file: File) -> Initramfs {
        let mut initramfs = Initramfs {
            archive: BufWriter::new(file),
            paths: BTreeSet::new(),
        };
        for folder in ["dev", "mnt", "proc", "run", "sys", "tmp", "var"] {
            initramfs.folder(&Path::new("/").join(folder));
        }
        for folder in MERGED {
            initramfs.folder(&Path::new("/usr").join(folder));
            let link = Path::new("/").join(folder);
            let target = Path::new("usr").join(folder);
            initramfs.write(&link, S_IFLNK | 0o777, target.as_os_str().as_bytes());
        }
        initramfs
    }

    /// Adds a file with its content.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) {
        self.entry(path.as_ref(), S_IFREG | mode, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: impl AsRef<Path>, target: impl AsRef<OsStr>) {
        self.entry(path.as_ref(), S_IFLNK | 0o777, target.as_ref().as_bytes());
    }

    /// Adds a file of the host's.
    pub(super) fn copy(&mut self, from: &Path, to: impl AsRef<Path>) {
        let content = fs::read(from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        let mode = from.metadata().map_or(0o644, |m| m.permissions().mode());
        self.file(to, mode & 0o7777, &content);
    }

    /// Adds a program of the host's under its own path, with the libraries that it is linked with.
    pub(super) fn program(&mut self, path: &Path) {
        self.copy(path, path);
        // What ldd shows of a library is `name => /path (address)`, and `/path (address)` of the loader; of a static
        // program, nothing on stdout.
        let ldd = Command::new("ldd").arg(path).output().expect("ldd");
        for word in String::from_utf8_lossy(&ldd.stdout).split_whitespace() {
            if word.starts_with('/') {
                self.copy(Path::new(word), word);
            }
        }
    }

    /// Adds modules with all that they depend on, and the list `/modules`, in the order in which they can be loaded.
    /// What is built into the kernel is no module.
    pub(super) fn modules(&mut self, folder: &Path, names: &[&str]) {
        let dependencies = fs::read_to_string(folder.join("modules.dep")).expect("modules.dep");
        let mut list: Vec<&str> = Vec::new();
        for name in names {
            let line = dependencies.lines().find_map(|line| {
                let (module, needs) = line.split_once(':')?;
                let file = module.rsplit('/').next()?;
                (file.split('.').next() == Some(name)).then_some((module, needs))
            });
            let Some((module, needs)) = line else {
                continue;
            };
            // The last named is needed by those before it.
            let needed = needs.split_whitespace().rev().chain([module]);
            for module in needed {
                if !list.contains(&module) {
                    list.push(module);
                }
            }
        }
        let mut text = String::new();
        for module in list {
            let path = Path::new("/lib/modules").join(module);
            self.copy(&folder.join(module), &path);
            text += &format!("{}\n", path.display());
        }
        self.file("/modules", 0o644, text.as_bytes());
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) {
        self.write(Path::new("TRAILER!!!"), 0, b"");
        self.archive.flush().expect("write the initramfs");
    }

    fn folder(&mut self, path: &Path) {
        self.entry(path, S_IFDIR | 0o755, b"");
    }

    /// Adds what is not there yet, and first the folders above it: the kernel does not make them by itself.
    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let merged = MERGED
            .iter()
            .any(|dir| path.starts_with(Path::new("/").join(dir)));
        let path = match path.strip_prefix("/") {
            Ok(relative) if merged => &Path::new("/usr").join(relative),
            _ => path,
        };
        if let Some(parent) = path.parent().filter(|p| p.parent().is_some()) {
            self.folder(parent);
        }
        if self.paths.insert(path.to_owned()) {
            self.write(path, mode, content);
        }
    }

    fn write(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str();
        let inode = u32::try_from(self.paths.len()).expect("few files");
        let size = u32::try_from(content.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(name.len()).expect("a short name") + 1;
        // inode, mode, owner, group, links, time, size, device (2), device of a node (2), length of the name, checksum
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        let parts = [header.as_bytes(), name.as_bytes(), b"\0"].concat();
        for part in [&parts[..], content] {
            let padding = part.len().next_multiple_of(4) - part.len();
            self.archive
                .write_all(part)
                .and_then(|()| self.archive.write_all(&[0; 3][..padding]))
                .expect("write the initramfs");
        }
    }
}
