//! What a directory tree is, in all that a layer can say of it, to be compared with another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Content of at most so many bytes is shown.
const SHOWN: usize = 256;

/// Everything about every name in a tree, that a layer can say. Inodes are told by the first name that has them.
///
/// # Panics
/// When it changes meanwhile.
#[must_use]
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    fn walk(
        root: &Path,
        path: &Path,
        xattrs: &BTreeMap<Vec<u8>, String>,
        inodes: &mut BTreeMap<u64, Vec<u8>>,
        all: &mut BTreeMap<Vec<u8>, String>,
    ) {
        let mut names: Vec<_> = fs::read_dir(path)
            .expect("a directory")
            .map(|entry| entry.expect("a name").path())
            .collect();
        names.sort();
        for path in names {
            let data = fs::symlink_metadata(&path).expect("an inode");
            let name = path
                .strip_prefix(root)
                .expect("below")
                .as_os_str()
                .as_bytes()
                .to_vec();
            let kind = data.file_type();
            let first = match kind.is_dir() {
                true => name.clone(),
                false => inodes
                    .entry(data.ino())
                    .or_insert_with(|| name.clone())
                    .clone(),
            };
            let content = match () {
                () if kind.is_symlink() => {
                    format!("-> {}", fs::read_link(&path).expect("a link").display())
                }
                () if kind.is_file() => shown(&fs::read(&path).expect("a file")),
                () if kind.is_char_device() || kind.is_block_device() => {
                    format!("{kind:?} {}", data.rdev())
                }
                () => String::new(),
            };
            let links = if kind.is_dir() { 0 } else { data.nlink() };
            let time = format!("{}.{:09}", data.mtime(), data.mtime_nsec());
            let line = format!(
                "{:o} {}:{} {time} {links} {} {} {content}",
                data.mode(),
                data.uid(),
                data.gid(),
                String::from_utf8_lossy(&first),
                xattrs.get(&name).map_or("", String::as_str)
            );
            all.insert(name, line);
            if kind.is_dir() {
                walk(root, &path, xattrs, inodes, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &xattrs(root), &mut BTreeMap::new(), &mut all);
    all
}

/// A file's content, by its digest where nobody would read it.
fn shown(content: &[u8]) -> String {
    match content.len() {
        ..=SHOWN => format!("{:?}", String::from_utf8_lossy(content)),
        length => format!("{length} bytes, {:x?}", Sha256::digest(content)),
    }
}

/// The extended attributes of everything in a tree that has any, by path below its root.
fn xattrs(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let output = std::process::Command::new("getfattr")
        .args([
            "-R",
            "-h",
            "-d",
            "-m",
            "^(user|security)\\.",
            "-e",
            "hex",
            ".",
        ])
        .current_dir(root)
        .output()
        .expect("getfattr");
    let mut all = BTreeMap::new();
    for block in String::from_utf8_lossy(&output.stdout).split("\n\n") {
        let mut lines = block.lines();
        let Some(name) = lines.next().and_then(|line| line.strip_prefix("# file: ")) else {
            continue;
        };
        let mut lines: Vec<_> = lines
            .filter(|line| !line.starts_with("security.selinux"))
            .collect();
        lines.sort_unstable();
        all.insert(name.as_bytes().to_vec(), lines.join(","));
    }
    all
}

/// Checks that two trees are the same.
///
/// # Panics
/// When they differ; the message shows each name that does, theirs first.
#[track_caller]
pub fn assert_same_tree(ours: &BTreeMap<Vec<u8>, String>, theirs: &BTreeMap<Vec<u8>, String>) {
    let show = |name: &Vec<u8>, line: Option<&String>| {
        format!("{}: {line:?}", String::from_utf8_lossy(name))
    };
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let different: Vec<_> = names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| {
            format!(
                "- {}\n+ {}",
                show(name, theirs.get(name)),
                show(name, ours.get(name))
            )
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}
