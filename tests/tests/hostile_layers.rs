//! Layers that attack: each gets one clear error or makes the tree that it would make in the container, in bounded memory; nothing
//! outside the root changes, and nothing is left behind. Sources: the advisories that are named, and what they were found in.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bocker_tests::{Archive, Host, Image, Layer, Node, Output, Root, need};
use tar::{EntryType, Header};

/// The most memory that any of them may cost, in bytes.
const MEMORY: u64 = 256 << 20;
/// And those of few entries.
const LITTLE_MEMORY: u64 = 64 << 20;

/// What an attack comes to.
enum End {
    /// One line that says this.
    Refused(&'static str),
    /// A root in which this holds.
    Contained(fn(&Path)),
}
use End::{Contained, Refused};

struct Attack(&'static str, Archive, End);

fn of(layer: Layer) -> Archive {
    Box::new(move |to| to.write_all(&layer.tar()))
}

/// An archive of blocks, and the end.
fn blocks(all: Vec<Vec<u8>>) -> Archive {
    Box::new(move |to| {
        for block in all {
            to.write_all(&block)?;
        }
        to.write_all(&[0; 1024])
    })
}

fn header(kind: EntryType, name: &str, size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// An extension header with one record.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    let mut data = format!("{length}{rest}").into_bytes();
    let header = header(EntryType::XHeader, "pax", data.len() as u64);
    data.resize(data.len().next_multiple_of(512), 0);
    [header, data].concat()
}

fn zeros(to: &mut dyn Write, count: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), count), to).map(drop)
}

/// What lies below each: links to what is outside, absolute and not, and what can be replaced.
fn below(outside: &str) -> Layer {
    let up = format!("{}{outside}", "../".repeat(30).trim_end_matches('/'));
    Layer::new()
        .dir("a")
        .file("a/f", "x")
        .symlink("out", outside)
        .symlink("up", &up)
        .symlink("file", &format!("{outside}/secret"))
        .symlink("loop", "loop2")
        .symlink("loop2", "loop")
}

/// Whether something was planted where the root has what is outside.
fn planted(root: &Path) -> bool {
    let found = fs::read_dir(root.join("var/tmp")).expect("made in the root");
    found
        .flatten()
        .any(|test| test.path().join("scratch/outside/planted").is_file())
}

fn names(root: &Path) -> Vec<String> {
    let all = fs::read_dir(root).expect("a root").flatten();
    let mut all: Vec<String> = all
        .map(|name| name.file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all.retain(|name| !["a", "file", "loop", "loop2", "out", "up"].contains(&name.as_str()));
    all
}

fn paths_and_links(outside: &str) -> Vec<Attack> {
    let secret = format!("{outside}/secret");
    let new = Layer::new;
    let refused = |says, layer, why| Attack(says, of(layer), Refused(why));
    let contained = |says, layer, holds| Attack(says, of(layer), Contained(holds));
    vec![
        refused(
            "a path that climbs",
            new().file("../planted", "x"),
            "names '../planted'",
        ),
        refused(
            "one that climbs later",
            new().file("a/../../planted", "x"),
            "names 'a/../../planted'",
        ),
        refused("a directory that climbs", new().dir("a/.."), "names 'a/..'"),
        refused(
            "a whiteout of the directory above the root",
            new().file(".wh...", ""),
            "reserved",
        ),
        refused(
            "of the one above another",
            new().file("a/.wh...", ""),
            "reserved",
        ),
        refused(
            "of the directory itself",
            new().file("a/.wh..", ""),
            "reserved",
        ),
        refused("of nothing", new().file("a/.wh.", ""), "reserved"),
        refused(
            "a file in a whiteout",
            new().file(".wh.a/x", ""),
            "reserved",
        ),
        refused(
            "a hard link to what is outside",
            new().hardlink("stolen", &secret),
            "hard link",
        ),
        refused(
            "by a path that climbs",
            new().hardlink("stolen", &format!("../../..{secret}")),
            "names '../../..",
        ),
        refused(
            "through a link of a lower layer",
            new().hardlink("stolen", "out/secret"),
            "hard link",
        ),
        refused(
            "through one of its own",
            new()
                .symlink("own", outside)
                .hardlink("stolen", "own/secret"),
            "hard link",
        ),
        refused(
            "a hard link to the root",
            new().hardlink("root", "/"),
            "hard link",
        ),
        refused(
            "a hard link to a directory",
            new().hardlink("dir", "a"),
            "hard link",
        ),
        refused(
            "a path through a loop of links",
            new().file("loop/x", "x"),
            "ELOOP",
        ),
        refused(
            "a link for the root (CVE-2021-29136)",
            new().symlink("./", "/"),
            "replaces the root",
        ),
        refused(
            "a file for the root",
            new().file("/", "x"),
            "replaces the root",
        ),
        refused(
            "a hard link for the root",
            new().hardlink(".", "a/f"),
            "replaces the root",
        ),
        refused(
            "a name that no filesystem takes",
            new().file("n".repeat(256), "x"),
            "ENAMETOOLONG",
        ),
        refused(
            "a path that no system call takes",
            new().file("d/".repeat(2048) + "f", "x"),
            "too long",
        ),
        contained(
            "a path through a link to what is outside",
            new().file("out/planted", "x"),
            |root| assert!(planted(root)),
        ),
        contained(
            "through one that climbs",
            new().file("up/planted", "x"),
            |root| assert!(planted(root)),
        ),
        contained(
            "a link to a file outside, written to (CVE-2018-20990)",
            new().file("file", "planted"),
            |root| {
                assert_eq!(
                    fs::read_to_string(root.join("file")).expect("a file"),
                    "planted"
                )
            },
        ),
        contained(
            "a hard link to that link, written to",
            new().hardlink("hard", "file").file("hard", "planted"),
            |root| assert!(!root.join("hard").is_symlink() && root.join("file").is_symlink()),
        ),
        contained(
            "whiteouts through links to what is outside",
            new()
                .whiteout("out/secret")
                .opaque("up")
                .whiteout("up/secret"),
            |root| assert!(names(root).is_empty()),
        ),
        contained(
            "a directory that turns into a link after it was written to (CVE-2021-38511)",
            new()
                .dir("d")
                .file("d/x", "x")
                .symlink("d", outside)
                .file("d/planted", "x")
                .dir("d/e"),
            |root| assert!(planted(root) && root.join("d").is_symlink()),
        ),
        contained(
            "a directory's mode and time, where a link is by then (CVE-2026-33056)",
            new()
                .node("d/e", 0o777, Node::Dir)
                .symlink("d", outside)
                .node("out", 0o777, Node::Dir),
            |root| assert!(root.join("d").is_symlink() && !root.join("out").is_symlink()),
        ),
        contained(
            "devices where files were, and files where they are",
            new()
                .node("a/f", 0o666, Node::Block(7, 0))
                .hardlink("a/g", "a/f")
                .file("a/g", "over the device")
                .node("a/f", 0o666, Node::Char(1, 1)),
            |root| {
                let kind = fs::symlink_metadata(root.join("a/f"))
                    .expect("a device")
                    .file_type();
                assert!(kind.is_char_device() && root.join("a/g").is_file());
            },
        ),
        contained(
            "300 components",
            new().file("d/".repeat(300) + "f", "deep"),
            |root| {
                assert_eq!(
                    fs::read(root.join("d/".repeat(300) + "f")).expect("a file"),
                    b"deep"
                )
            },
        ),
        contained(
            "a thousand times the same name",
            (0..500).fold(new(), |layer, number| {
                layer
                    .file("same", number.to_string())
                    .dir("same")
                    .file("same/in", "x")
            }),
            |root| assert!(root.join("same/in").is_file()),
        ),
    ]
}

fn sizes() -> Vec<Attack> {
    let file = EntryType::Regular;
    let mut attacks = vec![
        Attack(
            "a header that the extension's size makes data of (CVE-2025-62518)",
            blocks(vec![
                record("size", "512"),
                header(file, "first", 0),
                header(file, "smuggled", 0),
            ]),
            Contained(|root| assert_eq!(names(root), ["first"])),
        ),
        Attack(
            "data that the extension's size makes a header of (CVE-2026-33055)",
            blocks(vec![
                record("size", "0"),
                header(file, "first", 512),
                header(file, "second", 0),
            ]),
            Contained(|root| assert_eq!(names(root), ["first", "second"])),
        ),
        Attack(
            "more than there is",
            blocks(vec![
                record("size", "1099511627776"),
                header(file, "first", 0),
            ]),
            Refused("cut short"),
        ),
        Attack(
            "more than there can be",
            blocks(vec![
                record("size", "18446744073709551616"),
                header(file, "first", 0),
            ]),
            Refused("malformed"),
        ),
        Attack(
            "a record that is longer than its header",
            blocks(vec![
                header(EntryType::XHeader, "pax", 20),
                b"99 path=x\n".repeat(52)[..512].to_vec(),
                header(file, "first", 0),
            ]),
            Refused("malformed"),
        ),
        Attack(
            "a device number that the kernel would cut to 0:0",
            Box::new(|to| to.write_all(&Layer::new().node("a", 0o644, Node::Char(4096, 0)).tar())),
            Refused("out of range"),
        ),
        Attack(
            "a sparse file's data outside of it",
            of(Layer::new()
                .file("s", "abc")
                .record("GNU.sparse.size", "4")
                .record("GNU.sparse.map", "9223372036854775806,3")),
            Refused("do not fit"),
        ),
        Attack(
            "32 MB of zeros after the end",
            Box::new(|to| {
                to.write_all(&header(EntryType::Regular, "first", 0))?;
                zeros(to, 32 << 20)
            }),
            Contained(|root| assert_eq!(names(root), ["first"])),
        ),
        Attack(
            "a file that unpacks to a thousand times its size",
            Box::new(|to| {
                to.write_all(&header(EntryType::Regular, "large", 64 << 20))?;
                zeros(to, 64 << 20)
            }),
            Contained(|root| {
                assert_eq!(
                    fs::metadata(root.join("large")).expect("a file").len(),
                    64 << 20
                )
            }),
        ),
    ];
    // As Go's archive/tar would have taken into memory once, and `tar` 0.4.46 does.
    for kind in [
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        attacks.push(Attack(
            "an extension header of 1.5 GB",
            Box::new(move |to| {
                to.write_all(&header(kind, "large", 3 << 29))?;
                zeros(to, 4 << 20)
            }),
            Refused("larger than"),
        ));
    }
    attacks
}

/// Files below a path of nearly 4 KB: whoever remembers all their paths needs 4 KB for each.
fn many(count: usize) -> Archive {
    Box::new(move |to| {
        let folder = format!("{}/", "d".repeat(250)).repeat(15);
        for number in 0..count {
            let path = format!("{folder}{number}");
            to.write_all(&record("path", &path))?;
            to.write_all(&header(EntryType::Regular, "x", 0))?;
        }
        to.write_all(&[0; 1024])
    })
}

/// A store with some images, each of which is imported, and their blobs.
struct Images<'a> {
    roots: [Root<'a>; 2],
    blobs: Vec<PathBuf>,
}

impl<'a> Images<'a> {
    fn new(host: &'a Host, archives: Vec<Archive>, outside: &str) -> Images<'a> {
        let all = archives.into_iter().enumerate();
        let name = |number| format!("docker.io/library/attack:{number}");
        let all = all.map(|(number, archive)| (name(number), below(outside), archive));
        let (image, blobs) = Image::named(&host.scratch().join("images"), all.collect());
        let roots = Root::both(host);
        for root in &roots {
            let from = image.layout().display();
            root.sh(&format!("cp -r {from} $BOCKER_ROOT/images")).ok();
        }
        Images { roots, blobs }
    }
}

/// What every end of an attack has in common.
fn is_clear(output: &Output, says: &str, memory: u64) {
    let lines = output.stderr.lines().count();
    assert!(
        matches!((output.code, lines), (0, 0) | (125, 1)),
        "{says}: {output}"
    );
    assert!(
        output.peak < memory,
        "{says}: {} bytes of memory",
        output.peak
    );
    assert!(output.peak > 1 << 20, "{says}: its memory was not measured");
}

/// Those that are on their way.
fn unfinished(root: &Root) -> usize {
    let layers = fs::read_dir(root.path.join("layers"))
        .expect("layers")
        .flatten();
    layers
        .filter(|name| name.file_name().to_string_lossy().starts_with("new-"))
        .count()
}

/// Something of the host's, that layers name.
struct Outside(PathBuf);

impl Outside {
    fn new(host: &Host) -> Outside {
        let folder = host.scratch().join("outside");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("secret"), "the host's").expect("a file");
        Outside(folder)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Whoever changes something of it changes the time of its change.
    fn picture(&self) -> Vec<[i64; 4]> {
        let secret = self.0.join("secret");
        let paths = [self.0.parent().expect("a folder"), &self.0, &secret];
        let data = paths.map(|path| fs::symlink_metadata(path).expect("still there"));
        let picture = |data: fs::Metadata| {
            let (inode, links) = (data.ino().cast_signed(), data.nlink().cast_signed());
            [inode, links, data.ctime(), data.ctime_nsec()]
        };
        data.map(picture).into()
    }
}

#[test]
fn an_attack_by_a_layer_is_refused_or_contained_on_both_drivers() {
    if !need("mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let outside = Outside::new(&host);
    let (attacks, archives): (Vec<_>, Vec<_>) = [paths_and_links(&outside.path()), sizes()]
        .into_iter()
        .flatten()
        .map(|Attack(says, archive, end)| ((says, end), archive))
        .unzip();
    let images = Images::new(&host, archives, &outside.path());
    let (before, machine) = (outside.picture(), host.fingerprint());
    for root in &images.roots {
        for (number, (says, end)) in attacks.iter().enumerate() {
            let import = ["bocker-snap", "import", &format!("attack:{number}")];
            let output = host.call(&import).env("BOCKER_ROOT", &root.path).run();
            is_clear(&output, says, LITTLE_MEMORY);
            match end {
                Refused(why) => {
                    assert_eq!(output.code, 125, "{says}: {output}");
                    assert!(output.stderr.contains(why), "{says}: {output}");
                    assert!(
                        output.stderr.contains("the layer sha256:"),
                        "{says}: {output}"
                    );
                }
                Contained(holds) => {
                    assert_eq!(output.code, 0, "{says}: {output}");
                    let container = root.create(&format!("attack:{number}"));
                    holds(&container.root);
                    container.delete();
                }
            }
            assert_eq!(outside.picture(), before, "{says}");
            assert_eq!(unfinished(root), 0, "{says}");
        }
    }
    host.assert_same(&machine);
}

#[test]
fn an_archive_that_attacks_on_stdin_is_refused_or_kept_as_it_is() {
    let host = Host::new();
    let outside = Outside::new(&host);
    let (says, archives): (Vec<_>, Vec<_>) = [paths_and_links(&outside.path()), sizes()]
        .into_iter()
        .flatten()
        .map(|Attack(says, archive, _)| (says, archive))
        .unzip();
    let all = archives.into_iter().enumerate();
    let all = all.map(|(number, archive)| (format!("attack:{number}"), Layer::new(), archive));
    let (_, blobs) = Image::named(&host.scratch().join("images"), all.collect());
    // The first of all makes the store.
    let first = Layer::new().file("f", "x").tar();
    let first = host.call(&["bocker-snap", "init", "-"]).stdin(first);
    first.run().ok();
    let (before, machine) = (outside.picture(), host.fingerprint());
    for (says, blob) in says.into_iter().zip(blobs) {
        let archive = fs::read(blob).unwrap();
        let output = host
            .call(&["bocker-snap", "init", "-"])
            .stdin(archive)
            .run();
        is_clear(&output, says, LITTLE_MEMORY);
        if output.code == 0 {
            let id = output.json()["id"].as_str().unwrap().to_owned();
            host.run(&["bocker-pull", "rmi", &id]).ok();
        }
        assert_eq!(outside.picture(), before, "{says}");
    }
    host.assert_same(&machine);
}

#[test]
fn what_is_remembered_of_a_layer_does_not_grow_with_its_paths() {
    many_entries(5_000, LITTLE_MEMORY / 4);
}

/// A minute or more for each driver: by hand.
#[test]
#[ignore = "it makes a million files"]
fn a_million_entries_take_bounded_memory() {
    many_entries(1_000_000, MEMORY);
}

fn many_entries(count: usize, memory: u64) {
    if !need("mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let outside = Outside::new(&host);
    let images = Images::new(&host, vec![many(count)], &outside.path());
    let before = outside.picture();
    for root in &images.roots {
        let call = host
            .call(&["bocker-snap", "import", "attack:0"])
            .env("BOCKER_ROOT", &root.path);
        let output = call
            .timeout(std::time::Duration::from_secs(1800))
            .run()
            .ok();
        is_clear(&output, "many entries", memory);
        eprintln!(
            "{count} entries: {:?}, {} kB",
            output.took,
            output.peak >> 10
        );
        let gc = ["bocker-snap", "gc", "--grace", "0"];
        let mut index = root.path.join("images/index.json");
        assert!(index.pop() && fs::remove_dir_all(&index).is_ok());
        let call = host.call(&gc).env("BOCKER_ROOT", &root.path);
        let output = call
            .timeout(std::time::Duration::from_secs(1800))
            .run()
            .ok();
        assert!(output.peak < memory, "{output}");
        let left = fs::read_dir(root.path.join("layers"))
            .expect("layers")
            .count();
        assert_eq!(left, 0, "{output}");
    }
    assert_eq!(outside.picture(), before);
    assert_eq!(images.blobs.len(), 1);
}
