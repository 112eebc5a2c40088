//! Images of chance, unpacked by both drivers and by umoci, which knows nothing of either: all three trees are the same.
//!
//! `BOCKER_TESTS_IMAGES=500 cargo nextest run -p bocker-tests --test oracle` takes more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use bocker_tests::{Host, Image, Layer, Node, Platform, Root, assert_same_tree, need, tree};
use serde_json::json;

type Tree = BTreeMap<Vec<u8>, String>;

/// How many images there are unless somebody wants more, and how many entries each layer has.
const IMAGES: u64 = 3;
const LAYERS: usize = 4;
const ENTRIES: usize = 100;
/// So few that layers meet each other's.
const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "long name", "\u{e9}"];

/// The same numbers for the same seed (Steele, Lea and Flood's SplitMix64).
struct Chance(u64);

impl Chance {
    fn number(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % below as u64) as usize
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.number(all.len())].clone()
    }

    fn is(&mut self, one_in: usize) -> bool {
        self.number(one_in) == 0
    }
}

/// What a path is, as far as it decides what may come next: no entry of an image of chance is wrong.
#[derive(Clone, PartialEq)]
enum Kind {
    Directory,
    /// To a directory, by its path, if it is one.
    Symlink(String),
    Other,
}

struct Maker {
    chance: Chance,
    /// What is there, by real path, after the layers so far.
    all: BTreeMap<String, Kind>,
    /// What was there before this layer.
    lower: Vec<String>,
    /// What this layer has written, and the directories above.
    written: BTreeSet<String>,
}

fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        parent => format!("{parent}/{name}"),
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Maker {
    fn new(seed: u64) -> Maker {
        Maker {
            chance: Chance(seed),
            all: BTreeMap::new(),
            lower: Vec::new(),
            written: BTreeSet::new(),
        }
    }

    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.all.get(path) == Some(&Kind::Directory)
    }

    fn directories(&self) -> Vec<String> {
        let all = self.all.keys().filter(|path| self.is_directory(path));
        all.cloned().chain([String::new()]).collect()
    }

    /// A directory, and how an entry may call it: by its path, or through a symbolic link.
    fn directory(&mut self) -> (String, String) {
        let real = self.chance.of(&self.directories());
        let through = |kind: &Kind| matches!(kind, Kind::Symlink(to) if *to == real);
        let links: Vec<&String> = self
            .all
            .iter()
            .filter(|(_, kind)| through(kind))
            .map(|(path, _)| path)
            .collect();
        match links.is_empty() || !self.chance.is(2) {
            true => (real.clone(), real),
            false => {
                let link = self.chance.of(&links).clone();
                (real, link)
            }
        }
    }

    /// Removes what is at a path and below; of what this layer has written, only if it is `replaced`.
    fn remove(&mut self, path: &str, replaced: bool) {
        let below = format!("{path}/");
        let goes = |other: &String| *other == path || other.starts_with(&below);
        let written = &mut self.written;
        self.all
            .retain(|other, _| !goes(other) || (!replaced && written.contains(other)));
        if replaced {
            written.retain(|other| !goes(other));
        }
    }

    fn put(&mut self, path: &str, kind: Kind) {
        if kind != Kind::Directory || !self.is_directory(path) {
            self.remove(path, true);
        }
        self.all.insert(path.to_owned(), kind);
        let mut path = path;
        while !path.is_empty() {
            self.written.insert(path.to_owned());
            path = parent(path);
        }
    }

    fn layer(&mut self) -> Layer {
        self.lower = self.all.keys().cloned().collect();
        self.written.clear();
        (0..ENTRIES).fold(Layer::new(), |layer, _| self.entry(layer))
    }

    fn entry(&mut self, layer: Layer) -> Layer {
        match self.chance.number(20) {
            0 | 1 if !self.lower.is_empty() => return self.whiteout(layer),
            2 if self.chance.is(4) => {
                let (real, called) = self.directory();
                let below: Vec<String> = self.children(&real);
                below.iter().for_each(|path| self.remove(path, false));
                return layer.file(join(&called, ".wh..wh..opq"), "");
            }
            _ => {}
        }
        let (real, called) = self.directory();
        let name = self.chance.of(&NAMES);
        let (path, called) = (join(&real, name), join(&called, name));
        // A directory with much in it goes seldom: else little would be left in the end.
        if self.is_directory(&path) && !self.chance.is(6) {
            return self.finish(layer, &path, &called, Kind::Directory, Node::Dir);
        }
        let (kind, node) = match self.chance.number(12) {
            0..=3 => {
                let length = self.chance.number(3000);
                let byte = b'a' + self.chance.number(26) as u8;
                (Kind::Other, Node::File(vec![byte; length]))
            }
            4..=6 => (Kind::Directory, Node::Dir),
            7 | 8 => {
                let to = self.chance.of(&self.directories());
                let target = match self.chance.number(3) {
                    // From the root, from here, and to nowhere.
                    0 => format!("/{to}"),
                    1 => format!("{}{to}", "../".repeat(real.split('/').count() + 3)),
                    _ => {
                        return self.finish(
                            layer,
                            &path,
                            &called,
                            Kind::Other,
                            Node::Symlink("nowhere".into()),
                        );
                    }
                };
                (Kind::Symlink(to), Node::Symlink(target))
            }
            9 => match self.hard_link(&path) {
                Some((kind, target)) => {
                    self.put(&path, kind);
                    return layer.hardlink(&called, &target);
                }
                None => return layer,
            },
            10 => (Kind::Other, Node::Fifo),
            _ => {
                let minor = self.chance.number(200) as u32;
                let node = match self.chance.is(2) {
                    true => Node::Char(240, minor),
                    false => Node::Block(240, minor),
                };
                (Kind::Other, node)
            }
        };
        self.finish(layer, &path, &called, kind, node)
    }

    /// Adds the entry with attributes.
    fn finish(&mut self, layer: Layer, path: &str, called: &str, kind: Kind, node: Node) -> Layer {
        self.put(path, kind);
        let is_link = matches!(node, Node::Symlink(_));
        let keeps = matches!(node, Node::File(_) | Node::Dir);
        let modes = [0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o7777, 0];
        let mode = if is_link {
            0o777
        } else {
            self.chance.of(&modes)
        };
        let owners = [
            (0, 0),
            (0, 0),
            (1000, 1000),
            (65_534, 7),
            (4_000_000, 70_000),
        ];
        let (uid, gid) = self.chance.of(&owners);
        let mut layer = layer.node(called, mode, node).owner(uid, gid);
        if self.chance.is(2) {
            let (seconds, part) = (self.chance.number(2_000_000_000), self.chance.number(1000));
            layer = layer.time(&format!("{seconds}.{part:03}"));
        }
        if keeps && self.chance.is(4) {
            let value = vec![1 + self.chance.number(255) as u8; 1 + self.chance.number(40)];
            layer = layer.xattr(
                &self.chance.of(&["user.one".to_owned(), "user.two".into()]),
                value,
            );
        }
        layer
    }

    fn children(&self, path: &str) -> Vec<String> {
        let all = self.all.keys().filter(|other| parent(other) == path);
        all.cloned().collect()
    }

    /// Hides something of a lower layer that is still there, or has been replaced since.
    fn whiteout(&mut self, layer: Layer) -> Layer {
        let path = self.chance.of(&self.lower);
        if !self.is_directory(parent(&path)) || !self.all.contains_key(&path) {
            return layer;
        }
        self.remove(&path, false);
        layer.whiteout(&path)
    }

    /// What is no directory, and does not go when `path` is made.
    fn hard_link(&mut self, path: &str) -> Option<(Kind, String)> {
        let below = format!("{path}/");
        let fits = |other: &str, kind: &Kind| {
            *kind != Kind::Directory && other != path && !other.starts_with(&below)
        };
        let all = self.all.iter().filter(|(other, kind)| fits(other, kind));
        let all: Vec<_> = all
            .map(|(other, kind)| (kind.clone(), other.clone()))
            .collect();
        if all.is_empty() {
            return None;
        }
        let (kind, target) = self.chance.of(&all);
        let target = if self.chance.is(2) {
            format!("/{target}")
        } else {
            target
        };
        Some((kind, target))
    }
}

/// What overlayfs tells otherwise: of a file with several names in a lower layer of which an upper one hides some, it counts the
/// hidden ones too. Which names are of one file, the rest of the line says.
fn without_counts(tree: &Tree) -> Tree {
    let without = |line: &String| {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.remove(3);
        words.join(" ")
    };
    let lines = tree
        .iter()
        .map(|(name, line)| (name.clone(), without(line)));
    lines.collect()
}

/// What umoci 0.4 does otherwise: a directory in which something was hidden, or written by way of a symbolic link, has the time of
/// that, and not the one that a layer gave it. Such times, and no others, are ours.
fn with_times_of(ours: &Tree, mut theirs: Tree, started: u64) -> Tree {
    for (name, line) in &mut theirs {
        let mut words: Vec<&str> = line.split(' ').collect();
        let is_directory = words[0].len() == 5 && words[0].starts_with('4');
        let seconds = words[2]
            .split('.')
            .next()
            .and_then(|seconds| seconds.parse::<u64>().ok());
        let Some(own) = ours.get(name).and_then(|line| line.split(' ').nth(2)) else {
            continue;
        };
        if is_directory && seconds.is_some_and(|seconds| seconds >= started) {
            words[2] = own;
            *line = words.join(" ");
        }
    }
    theirs
}

#[test]
fn images_of_chance_are_the_same_tree_on_both_drivers_and_for_umoci() {
    if !need("skopeo umoci getfattr mkfs.btrfs") {
        return;
    }
    let count = std::env::var("BOCKER_TESTS_IMAGES");
    let count: u64 = count.map_or(IMAGES, |count| count.parse().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let started = now.unwrap().as_secs();
    let host = Host::new();
    let roots = Root::both(&host);
    let (mut entries, mut names) = (0, 0);
    for seed in 0..count {
        let mut maker = Maker::new(seed);
        let layers = (0..LAYERS).map(|_| maker.layer()).collect();
        let image = Image::single(&Platform::new(layers, json!({})));
        let [overlay, btrfs] = roots.each_ref().map(|root| {
            root.store(&image);
            root.create("fixture:1")
        });
        let bundle = host.scratch().join(format!("bundle{seed}"));
        let from = format!(
            "umoci unpack --image $BOCKER_ROOT/images:docker.io/library/fixture:1 {}",
            bundle.display()
        );
        roots[0].sh(&from).ok();
        let (ours, theirs) = (tree(&overlay.root), tree(&bundle.join("rootfs")));
        eprintln!("the image of seed {seed}: {} names", ours.len());
        names += ours.len();
        let on_btrfs = tree(&btrfs.root);
        assert_same_tree(&without_counts(&ours), &without_counts(&on_btrfs));
        assert_same_tree(&on_btrfs, &with_times_of(&on_btrfs, theirs, started));
        entries += LAYERS * ENTRIES;
        overlay.delete();
        btrfs.delete();
        std::fs::remove_dir_all(bundle).unwrap();
    }
    eprintln!("{count} images of {entries} entries, {names} names in the end");
}
