//! Layers exactly as the image specification has them, on both drivers: each rule as a few entries and the tree that they make.
//! Sources: image-spec layer.md; what containerd's pkg/archive, moby's go-archive and umoci do where it is silent.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use bocker_tests::{Host, Image, Layer, Node, Platform, Root, need};
use serde_json::json;

/// The time of every entry of a fixture that tells no other.
const MTIME: i64 = 1_420_070_400;
/// What is younger than this, and older than that, is of a directory that no layer has told the time of.
const NOW: std::ops::Range<i64> = 1_700_000_000..4_000_000_000;
/// `CAP_NET_RAW` effective and permitted, as `setcap` writes it (capabilities(7)).
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// What is said of layers, lowest first, and what is in the tree then: see [`listing`].
struct Vector(&'static str, Vec<Layer>, &'static [&'static str]);

fn layer() -> Layer {
    Layer::new()
}

/// An empty file whose name hides something, however it hides it.
fn hides(path: &str, node: Node) -> Layer {
    layer().node(path, 0o644, node)
}

fn whiteouts() -> Vec<Vector> {
    vec![
        Vector(
            "a whiteout hides what a lower layer has",
            vec![layer().file("f", "x"), layer().whiteout("f")],
            &[],
        ),
        Vector(
            "before its sibling it hides nothing of its own layer",
            vec![layer().file("f", "x"), layer().whiteout("f").file("f", "y")],
            &["f=y"],
        ),
        Vector(
            "nor after it",
            vec![layer().file("f", "x"), layer().file("f", "y").whiteout("f")],
            &["f=y"],
        ),
        Vector(
            "of a directory that its layer writes to, it hides what lower layers have in it",
            vec![
                layer()
                    .dir("d")
                    .file("d/a", "x")
                    .dir("d/e")
                    .file("d/e/a", "x"),
                layer().file("d/e/b", "y").whiteout("d"),
            ],
            &["d/", "d/e/", "d/e/b=y"],
        ),
        Vector(
            "through a symbolic link it hides what is there",
            vec![
                layer()
                    .dir("d")
                    .file("d/a", "x")
                    .file("d/b", "x")
                    .symlink("l", "d"),
                layer().whiteout("l/a"),
            ],
            &["d/", "d/b=x", "l -> d"],
        ),
        Vector(
            "of a symbolic link it hides the link and not its target",
            vec![
                layer().dir("d").file("d/a", "x").symlink("l", "d"),
                layer().whiteout("l"),
            ],
            &["d/", "d/a=x"],
        ),
        Vector(
            "what it hides does not come back with the directory",
            vec![
                layer().dir("d").file("d/a", "x"),
                layer().whiteout("d"),
                layer().dir("d").file("d/b", "y"),
            ],
            &["d/", "d/b=y"],
        ),
        Vector(
            "it is one whatever its type",
            vec![
                layer().file("a", "x").file("b", "x").file("c", "x"),
                hides(".wh.a", Node::Dir)
                    .and(hides(".wh.b", Node::Symlink("/etc".into())))
                    .and(hides(".wh.c/", Node::Fifo)),
            ],
            &[],
        ),
        Vector(
            "it may hide what never was, also in directories that never were",
            vec![
                layer().file("f", "x"),
                layer().whiteout("g").whiteout("d/e/f"),
            ],
            &["f=x"],
        ),
        Vector(
            "in the lowest layer it hides nothing",
            vec![
                layer()
                    .whiteout("f")
                    .file("f", "x")
                    .opaque("d")
                    .file("d/f", "x"),
            ],
            &["d/", "d/f=x", "f=x"],
        ),
        Vector(
            "an opaque one hides all that lower layers have in a directory, and not the directory",
            vec![
                layer()
                    .node("d", 0o700, Node::Dir)
                    .file("d/a", "x")
                    .dir("d/e")
                    .file("d/e/f", "x"),
                layer().opaque("d"),
            ],
            &["d/ 700"],
        ),
        Vector(
            "first, amidst or last in its layer, it hides nothing of that",
            vec![
                layer()
                    .dir("a")
                    .file("a/x", "x")
                    .dir("b")
                    .file("b/x", "x")
                    .dir("c")
                    .file("c/x", "x"),
                layer()
                    .opaque("a")
                    .file("a/y", "y")
                    .file("b/y", "y")
                    .opaque("b")
                    .file("b/z", "z")
                    .file("c/y", "y")
                    .opaque("c"),
            ],
            &["a/", "a/y=y", "b/", "b/y=y", "b/z=z", "c/", "c/y=y"],
        ),
        Vector(
            "it reaches into directories that its layer has too",
            vec![
                layer()
                    .dir("d")
                    .dir("d/e")
                    .file("d/e/lower", "x")
                    .dir("d/g"),
                layer().file("d/e/upper", "y").opaque("d"),
            ],
            &["d/", "d/e/", "d/e/upper=y"],
        ),
        Vector(
            "the character device 0:0, by which overlayfs hides a name, hides it",
            vec![
                layer().file("f", "x").file("g", "x"),
                layer().node("f", 0, Node::Char(0, 0)),
            ],
            &["g=x"],
        ),
    ]
}

fn links() -> Vec<Vector> {
    vec![
        Vector(
            "a path leads through a relative symbolic link of a lower layer",
            vec![
                layer().dir("usr").dir("usr/lib").symlink("lib", "usr/lib"),
                layer().file("lib/x", "x"),
            ],
            &["lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x=x"],
        ),
        Vector(
            "through an absolute one, in its own layer too, from the root of the image",
            vec![
                layer()
                    .dir("usr")
                    .dir("usr/lib")
                    .symlink("lib", "/usr/lib")
                    .file("lib/x", "x")
                    .dir("lib/d"),
                layer().file("lib/d/y", "y").symlink("lib/l", "x"),
            ],
            &[
                "lib -> /@/usr/lib",
                "usr/",
                "usr/lib/",
                "usr/lib/d/",
                "usr/lib/d/y=y",
                "usr/lib/l -> x",
                "usr/lib/x=x",
            ],
        ),
        Vector(
            "a link that leads nowhere yet leads to what is made there",
            vec![layer().symlink("l", "a/b"), layer().file("l/x", "x")],
            &["a/", "a/b/", "a/b/x=x", "l -> a/b"],
        ),
        Vector(
            "the last part of a path is never followed",
            vec![
                layer()
                    .file("f", "x")
                    .symlink("l", "f")
                    .dir("d")
                    .symlink("m", "d"),
                layer().file("l", "y").dir("m").file("m/z", "z"),
            ],
            &["d/", "f=x", "l=y", "m/", "m/z=z"],
        ),
        Vector(
            "a hard link may name a file of a lower layer, from the root or not",
            vec![
                layer().file("f", "x"),
                layer().hardlink("g", "f").hardlink("h", "/f"),
            ],
            &["f=x x3", "g=x x3", "h=x x3"],
        ),
        Vector(
            "all names of a file stay names of one, in whichever layers they are",
            vec![
                layer().file("a", "x").hardlink("b", "a").hardlink("c", "a"),
                layer().dir("d").hardlink("d/d", "b"),
                layer().hardlink("e", "d/d").whiteout("c"),
            ],
            &["a=x x4", "b=x x4", "d/", "d/d=x x4", "e=x x4"],
        ),
        Vector(
            "one of them is replaced alone",
            vec![
                layer().file("a", "x").hardlink("b", "a"),
                layer().hardlink("c", "a").file("b", "y"),
            ],
            &["a=x x2", "b=y", "c=x x2"],
        ),
        Vector(
            "a hard link to a symbolic link is another link and not its target",
            vec![
                layer().file("f", "x").symlink("l", "f"),
                layer().hardlink("m", "l"),
            ],
            &["f=x", "l -> f x2", "m -> f x2"],
        ),
        Vector(
            "a hard link leads through symbolic links on the way, and replaces what is there",
            vec![
                layer()
                    .dir("d")
                    .file("d/f", "x")
                    .symlink("l", "/d")
                    .dir("g")
                    .file("g/h", "y"),
                layer().hardlink("g", "l/f"),
            ],
            &["d/", "d/f=x x2", "g=x x2", "l -> /@/d"],
        ),
        Vector(
            "devices and pipes have several names too, and nobody opens them",
            vec![
                // Nobody reads this pipe, and nothing drives this device: an open would wait, or fail.
                layer()
                    .node("fifo", 0o600, Node::Fifo)
                    .node("none", 0o600, Node::Char(240, 7))
                    .node("ptmx", 0o666, Node::Char(5, 2))
                    .node("console", 0o620, Node::Char(5, 1))
                    .owner(0, 5),
                layer().hardlink("fifo2", "fifo").hardlink("none2", "none"),
            ],
            &[
                "console c5:1 620 0:5",
                "fifo fifo x2 600",
                "fifo2 fifo x2 600",
                "none c240:7 x2 600",
                "none2 c240:7 x2 600",
                "ptmx c5:2 666",
            ],
        ),
    ]
}

/// Every kind of entry in place of every other, over a lower layer and within one.
fn replacements() -> Vec<Vector> {
    type Make = fn(&str) -> Layer;
    let kinds: [(&str, Make); 6] = [
        ("file", |name| layer().file(name, "x")),
        ("dir", |name| {
            layer().dir(name).file(format!("{name}/in"), "x")
        }),
        ("link", |name| layer().symlink(name, "to")),
        ("hard", |name| layer().hardlink(name, "target")),
        ("device", |name| {
            layer().node(name, 0o600, Node::Block(7, 9))
        }),
        ("fifo", |name| layer().node(name, 0o600, Node::Fifo)),
    ];
    let mut lower = layer().file("target", "t");
    let mut upper = layer();
    let mut within = layer().file("target", "t");
    for (first, make) in kinds {
        for (then, make_then) in kinds {
            let name = format!("{first}-{then}");
            lower = lower.and(make(&name));
            upper = upper.and(make_then(&name));
            within = within.and(make(&name)).and(make_then(&name));
        }
    }
    const EXPECTED: &[&str] = &[
        "device-device b7:9 600",
        "device-dir/",
        "device-dir/in=x",
        "device-fifo fifo 600",
        "device-file=x",
        "device-hard=t x7",
        "device-link -> to",
        "dir-device b7:9 600",
        "dir-dir/",
        "dir-dir/in=x",
        "dir-fifo fifo 600",
        "dir-file=x",
        "dir-hard=t x7",
        "dir-link -> to",
        "fifo-device b7:9 600",
        "fifo-dir/",
        "fifo-dir/in=x",
        "fifo-fifo fifo 600",
        "fifo-file=x",
        "fifo-hard=t x7",
        "fifo-link -> to",
        "file-device b7:9 600",
        "file-dir/",
        "file-dir/in=x",
        "file-fifo fifo 600",
        "file-file=x",
        "file-hard=t x7",
        "file-link -> to",
        "hard-device b7:9 600",
        "hard-dir/",
        "hard-dir/in=x",
        "hard-fifo fifo 600",
        "hard-file=x",
        "hard-hard=t x7",
        "hard-link -> to",
        "link-device b7:9 600",
        "link-dir/",
        "link-dir/in=x",
        "link-fifo fifo 600",
        "link-file=x",
        "link-hard=t x7",
        "link-link -> to",
        "target=t x7",
    ];
    vec![
        Vector(
            "each kind replaces each of a lower layer",
            vec![lower, upper],
            EXPECTED,
        ),
        Vector(
            "of a name that comes twice, the last counts",
            vec![within],
            EXPECTED,
        ),
    ]
}

fn attributes() -> Vec<Vector> {
    vec![
        Vector(
            "a directory over a directory keeps what is in it and takes the attributes",
            vec![
                layer()
                    .node("attr", 0o700, Node::Dir)
                    .owner(1, 2)
                    .xattr("user.a", "1")
                    .file("attr/f", "x"),
                layer()
                    .node("attr", 0o1777, Node::Dir)
                    .owner(3, 4)
                    .xattr("user.b", "2")
                    .time("7"),
            ],
            &["attr/ 1777 3:4 @7.0 user.b=2", "attr/f=x"],
        ),
        Vector(
            "a directory that a layer only passes keeps its attributes and its time",
            vec![
                layer()
                    .node("d", 0o710, Node::Dir)
                    .owner(1, 2)
                    .time("86400.25")
                    .file("d/f", "x"),
                layer().file("d/g", "y").whiteout("d/f"),
            ],
            &["d/ 710 1:2 @86400.250000000", "d/g=y"],
        ),
        Vector(
            "one that no layer tells of is root's",
            vec![layer().file("a/b/f", "x").owner(5, 6)],
            &["a/", "a/b/", "a/b/f=x 5:6"],
        ),
        Vector(
            "the time of a directory is set when all in it is done, in whichever order it comes",
            vec![
                layer()
                    .file("d/f", "x")
                    .dir("d")
                    .time("1")
                    .dir("e")
                    .time("2")
                    .file("e/f", "x"),
                layer().symlink("e/g", "f").node("e/h", 0o644, Node::Fifo),
            ],
            &[
                "d/ @1.0", "d/f=x", "e/ @2.0", "e/f=x", "e/g -> f", "e/h fifo",
            ],
        ),
        Vector(
            "times have fractions, are before 1970 and far away, on whatever they are",
            vec![
                layer()
                    .file("f", "x")
                    .time("-1.25")
                    .symlink("l", "f")
                    .time("1.5")
                    .node("p", 0o644, Node::Fifo)
                    .time("4102444800.000000001")
                    .dir("d")
                    .time("-86400"),
            ],
            &[
                "d/ @-86400.0",
                "f=x @-2.750000000",
                "l -> f @1.500000000",
                "p fifo @4102444800.1",
            ],
        ),
        Vector(
            "set-id and sticky bits stay when the owner is set",
            vec![
                layer()
                    .node("suid", 0o4755, Node::File("x".into()))
                    .owner(1000, 1000)
                    .node("sgid", 0o2710, Node::File("x".into()))
                    .owner(7, 8)
                    .node("dir", 0o7777, Node::Dir)
                    .owner(7, 8)
                    .node("none", 0, Node::File("x".into()))
                    .node("fifo", 0o6666, Node::Fifo)
                    .owner(1, 1),
            ],
            &[
                "dir/ 7777 7:8",
                "fifo fifo 6666 1:1",
                "none=x 0",
                "sgid=x 2710 7:8",
                "suid=x 4755 1000:1000",
            ],
        ),
        Vector(
            "owners have more than 16 bits",
            vec![
                layer()
                    .file("f", "x")
                    .owner(65_536, 4_000_000)
                    .file("g", "x")
                    .record("uid", "4294967294")
                    .record("gid", "2147483648"),
            ],
            &["f=x 65536:4000000", "g=x 4294967294:2147483648"],
        ),
        Vector(
            "capabilities stay when the owner is set, and values are bytes",
            vec![
                layer()
                    .file("attr-f", "x")
                    .owner(1000, 1000)
                    .xattr("security.capability", CAPABILITY)
                    .file("attr-g", "x")
                    .xattr("user.bytes", [0, b'\n', b'=', 0xff]),
            ],
            &[
                "attr-f=x 1000:1000 security.capability=\\x01\\x00\\x00\\x02\\x00 \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
                "attr-g=x user.bytes=\\x00\\n=\\xff",
            ],
        ),
        Vector(
            "labels of this kernel and marks of overlayfs are left out, as is what a kind of inode cannot have",
            vec![
                layer()
                    .file("attr-f", "x")
                    .xattr("security.selinux", "system_u:object_r:etc_t:s0\0")
                    .xattr("trusted.overlay.whiteout", "y")
                    .xattr("user.overlay.opaque", "y")
                    .xattr("user.kept", "")
                    .dir("attr-d")
                    .xattr("trusted.overlay.opaque", "y")
                    .symlink("attr-l", "nowhere")
                    .xattr("user.note", "n")
                    .xattr("trusted.note", "kept")
                    .node("attr-p", 0o644, Node::Fifo)
                    .xattr("user.note", "n"),
            ],
            &[
                "attr-d/",
                "attr-f=x user.kept=",
                "attr-l -> nowhere trusted.note=kept",
                "attr-p fifo",
            ],
        ),
    ]
}

fn archives() -> Vec<Vector> {
    // PAX records that say something about all entries, and that nobody heeds.
    let mut global = tar::Header::new_ustar();
    let records = b"19 path=/etc/shadow\n11 uid=1000\n";
    let (length, rest) = (records.len(), [0; 512]);
    global.set_entry_type(tar::EntryType::XGlobalHeader);
    global.set_size(length as u64);
    global.set_cksum();
    let global = [&global.as_bytes()[..], records, &rest[length..]].concat();
    // A map of PAX 1.0 stands before the data, and fills its block.
    let mut map = b"1\n8192\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abc");
    vec![
        Vector(
            "names are bytes",
            vec![
                layer()
                    .file(b"\xff\xfe", "x")
                    .file("a\nb\\c d", "x")
                    .dir("-rf")
                    .file([b"-rf/".as_slice(), &[b'n'; 255]].concat(), "x")
                    .symlink("\u{202e}", "x"),
                layer().whiteout("a\nb\\c d").hardlink("again", "\u{202e}"),
            ],
            &[
                "-rf/",
                "-rf/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn=x",
                "again -> x x2",
                "\\xe2\\x80\\xae -> x x2",
                "\\xff\\xfe=x",
            ],
        ),
        Vector(
            "paths begin and end as they like",
            vec![
                layer()
                    .file("./a", "x")
                    .dir("b//")
                    .file("b/./c", "x")
                    .file("/d", "x"),
            ],
            &["a=x", "b/", "b/c=x", "d=x"],
        ),
        Vector(
            "a global header is for nobody",
            vec![layer().node("", 0, Node::Raw(global)).file("f", "x")],
            &["f=x"],
        ),
        Vector(
            "a sparse file has its length, its data and nothing else, in each form of PAX",
            vec![
                layer()
                    .file("a", "abc")
                    .record("GNU.sparse.size", "70000")
                    .record("GNU.sparse.numblocks", "1")
                    .record("GNU.sparse.offset", "8192")
                    .record("GNU.sparse.numbytes", "3")
                    .file("b", "abc")
                    .record("GNU.sparse.size", "70000")
                    .record("GNU.sparse.numblocks", "1")
                    .record("GNU.sparse.map", "8192,3")
                    .file("c", map)
                    .record("GNU.sparse.major", "1")
                    .record("GNU.sparse.minor", "0")
                    .record("GNU.sparse.realsize", "70000"),
            ],
            &[
                "a (70000 bytes, abc at 8192)",
                "b (70000 bytes, abc at 8192)",
                "c (70000 bytes, abc at 8192)",
            ],
        ),
        Vector(
            "after the end comes what will",
            vec![
                layer()
                    .file("f", "x")
                    .node("", 0, Node::Raw(vec![0; 20 << 10]))
                    .file("g", "x"),
            ],
            &["f=x"],
        ),
    ]
}

/// What AUFS kept for itself, as some old images still have it, is no part of the tree; but files in one of its folders are what
/// hard links name.
fn aufs() -> Layer {
    layer()
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.orph")
        .file(".wh..wh.orph/gone", "x")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1234.5678", "x")
        .hardlink("aufs-a", "/.wh..wh.plnk/1234.5678")
        .hardlink("aufs-b", ".wh..wh.plnk/1234.5678")
}

/// A name as it can be read.
fn escaped(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if text.is_ascii() => text.to_owned(),
        _ => name.escape_ascii().to_string(),
    }
}

/// One line for each name, in the order of names: what it is, and of its attributes those that are not as usual. `x3`: it is one of
/// three names.
fn listing(root: &Path, prefix: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if path != root {
            lines.push(line(&path, root, prefix));
        }
        if fs::symlink_metadata(&path).expect("an inode").is_dir() {
            let names = fs::read_dir(&path).expect("a directory");
            pending.extend(names.map(|name| name.expect("a name").path()));
        }
    }
    lines.sort();
    lines
}

fn line(path: &Path, root: &Path, prefix: &str) -> String {
    let data = fs::symlink_metadata(path).expect("an inode");
    let kind = data.file_type();
    let mut line = escaped(
        path.strip_prefix(root)
            .expect("below")
            .as_os_str()
            .as_bytes(),
    );
    let device = (data.rdev() >> 8 & 0xfff, data.rdev() & 0xff);
    let (what, usual) = match () {
        () if kind.is_dir() => ("/".to_owned(), 0o755),
        () if kind.is_symlink() => {
            let target = fs::read_link(path).expect("a link");
            let target = target.to_string_lossy().replace(prefix, "@");
            (format!(" -> {target}"), 0o777)
        }
        () if kind.is_char_device() => (format!(" c{}:{}", device.0, device.1), 0o644),
        () if kind.is_block_device() => (format!(" b{}:{}", device.0, device.1), 0o644),
        () if kind.is_fifo() => (" fifo".to_owned(), 0o644),
        () => (content(path, &data), 0o644),
    };
    line += &what;
    if !kind.is_dir() && data.nlink() > 1 {
        line += &format!(" x{}", data.nlink());
    }
    if data.mode() & 0o7777 != usual {
        line += &format!(" {:o}", data.mode() & 0o7777);
    }
    if (data.uid(), data.gid()) != (0, 0) {
        line += &format!(" {}:{}", data.uid(), data.gid());
    }
    match (data.mtime(), data.mtime_nsec()) {
        (MTIME, 0) => {}
        (seconds, _) if NOW.contains(&seconds) => {}
        (seconds, nanoseconds) => line += &format!(" @{seconds}.{nanoseconds}"),
    }
    // A program for each name is slow: those of interest say so.
    let name = path.file_name().expect("a name").as_bytes();
    if name.starts_with(b"attr") {
        for attribute in xattrs(path) {
            line += &format!(" {attribute}");
        }
    }
    line
}

fn content(path: &Path, data: &fs::Metadata) -> String {
    let bytes = fs::read(path).expect("a file");
    if bytes.len() < 100 {
        return format!("={}", escaped(&bytes));
    }
    assert!(
        data.blocks() <= 16,
        "{}: {} blocks",
        path.display(),
        data.blocks()
    );
    let at = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    format!(" ({} bytes, {} at {at})", bytes.len(), escaped(&text))
}

/// All of them, whatever they are for, that of this machine excepted.
fn xattrs(path: &Path) -> Vec<String> {
    let mut getfattr = Command::new("getfattr");
    getfattr.args(["-h", "-d", "-m", "-", "-e", "hex", "--absolute-names"]);
    let output = getfattr.arg(path).output().expect("getfattr");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let attributes = text.lines().filter_map(|line| {
        let (name, value) = line.split_once("=0x")?;
        let digits = value
            .as_bytes()
            .chunks(2)
            .map(|digits| str::from_utf8(digits).expect("digits"));
        let bytes: Vec<u8> = digits
            .map(|digits| u8::from_str_radix(digits, 16).expect("digits"))
            .collect();
        Some(format!("{name}={}", bytes.escape_ascii()))
    });
    let mut all: Vec<String> = attributes.collect();
    // A label that no layer gave.
    all.retain(|attribute| !attribute.starts_with("security.selinux=unlabeled"));
    all
}

#[test]
fn layers_make_the_tree_that_the_specification_says_on_both_drivers() {
    if !need("skopeo getfattr mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let vectors: Vec<Vector> = [
        whiteouts(),
        links(),
        replacements(),
        attributes(),
        archives(),
    ]
    .into_iter()
    .flatten()
    .collect();
    // One image for all, each in a folder of its own: what has no such layer has an empty one. What ends its archive comes last.
    let folder = |number: usize| format!("v{number:02}");
    let mut layers = vec![aufs(), Layer::new(), Layer::new()];
    for (number, Vector(_, own, _)) in vectors.iter().enumerate() {
        for (layer, own) in layers.iter_mut().zip(own) {
            *layer = std::mem::take(layer).and(own.clone().below(&folder(number)));
        }
    }
    let image = Image::single(&Platform::new(layers, json!({})));
    for root in Root::both(&host) {
        root.store(&image);
        let container = root.create("fixture:1");
        let driver = &container.document["bocker"]["snap"]["driver"];
        let mut found = listing(&container.root, "");
        found.retain(|line| line.starts_with('.') || line.starts_with("aufs"));
        assert_eq!(found, ["aufs-a=x x2", "aufs-b=x x2"], "{driver}");
        for (number, Vector(says, _, expected)) in vectors.iter().enumerate() {
            let folder = folder(number);
            let place = container.root.join(&folder);
            let found = match place.exists() {
                true => listing(&place, &folder),
                false => Vec::new(),
            };
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{says} ({driver})");
        }
    }
}

/// overlayfs parts a file's names when one of them is linked in an upper layer, and they are joined again: by the number of its
/// inode, which another file may have by then.
#[test]
fn the_names_of_a_file_are_not_joined_to_what_came_in_its_place() {
    if !need("skopeo mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let mut lower = layer();
    let mut upper = layer();
    for n in 0..10 {
        lower = lower
            .file(format!("a{n}"), "x")
            .hardlink(&format!("b{n}"), &format!("a{n}"));
        upper = upper
            .hardlink(&format!("c{n}"), &format!("a{n}"))
            .file(format!("a{n}"), "y")
            .symlink(&format!("c{n}"), "z");
    }
    let image = Image::single(&Platform::new(vec![lower, upper], json!({})));
    for root in Root::both(&host) {
        root.store(&image);
        let container = root.create("fixture:1");
        for n in 0..10 {
            let name = container.root.join(format!("b{n}"));
            assert_eq!(fs::symlink_metadata(&name).unwrap().len(), 1, "{n}");
            assert_eq!(fs::read_to_string(&name).unwrap(), "x", "{n}");
        }
    }
}
