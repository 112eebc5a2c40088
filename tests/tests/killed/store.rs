//! bocker-snap and bocker-pull, on the image store and the layers.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_tests::{Call, Fingerprint, Host, Image, Layer, Output, Platform};
use serde_json::{Value, json};

use crate::{at_every_change, collect};

const SNAP: &[&str] = &["bocker-snap"];
const NAME: &str = "docker.io/library/fixture:1";

/// A machine with an image of two layers in its store.
struct Store {
    host: Host,
    /// With the image there, and its layers not unpacked.
    stored: Fingerprint,
    /// With the layers unpacked.
    unpacked: Fingerprint,
}

impl Store {
    fn new() -> Store {
        let host = Host::new();
        let base = Layer::new()
            .dir("etc")
            .file("etc/below", "below")
            .file("etc/hidden", "hidden");
        let top = Layer::new()
            .dir("etc")
            .file("etc/above", "above")
            .whiteout("etc/hidden");
        let image = Image::single(&Platform::new(vec![base, top], json!({})));
        host.store(&image, NAME);
        // Folders that stay, and what our own tools add to another's layout.
        let rootfs = host.scratch().join("rootfs");
        fs::create_dir_all(rootfs.join("etc")).expect("mkdir");
        fs::write(rootfs.join("etc/above"), "made here").expect("a file");
        let store = Store {
            stored: host.fingerprint(),
            unpacked: host.fingerprint(),
            host,
        };
        let made = store.init().run().ok().json();
        store.pull(&["rmi", text(&made["id"])]).ok();
        let document = store.run(&["create", "fixture:1"]).ok();
        store.delete(&document.stdout);
        let unpacked = store.host.fingerprint();
        store.host.remove_layers();
        Store {
            stored: store.host.fingerprint(),
            unpacked,
            ..store
        }
    }

    fn run(&self, words: &[&str]) -> Output {
        self.host.run(&[SNAP, words].concat())
    }

    fn pull(&self, words: &[&str]) -> Output {
        self.host.run(&[&["bocker-pull"], words].concat())
    }

    fn init(&self) -> Call {
        let rootfs = self.host.scratch().join("rootfs").display().to_string();
        self.host
            .call(&["bocker-snap", "init", &rootfs, "--name", "made:1"])
    }

    fn delete(&self, document: &str) {
        let call = self.host.call(&["bocker-snap", "delete"]).stdin(document);
        call.run().ok();
    }

    /// What a container of an image finds in files, where they are there.
    fn contents<const N: usize>(&self, image: &str, files: [&str; N]) -> [Option<String>; N] {
        let output = self.run(&["create", image]).ok();
        let root = PathBuf::from(text(&output.json()["root"]["path"]));
        let contents = files.map(|file| fs::read_to_string(root.join(file)).ok());
        self.delete(&output.stdout);
        contents
    }

    /// The image that was there from the beginning is whole.
    #[track_caller]
    fn has_its_image(&self) {
        let files = ["etc/above", "etc/below", "etc/hidden"];
        let whole = [Some("above".to_owned()), Some("below".to_owned()), None];
        assert_eq!(self.contents("fixture:1", files), whole);
    }

    /// The image that is made here is whole.
    #[track_caller]
    fn has_the_made_image(&self) {
        let whole = [Some("made here".to_owned())];
        assert_eq!(self.contents("made:1", ["etc/above"]), whole);
    }

    /// The images by their names.
    fn names(&self) -> Vec<String> {
        let images = self.pull(&["list"]).ok().json_lines();
        let mut names: Vec<String> = images
            .iter()
            .map(|image| text(&image["source"]).to_owned())
            .collect();
        names.sort();
        names
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn an_import_is_finished_by_the_next_or_by_who_needs_the_layers() {
    let store = Store::new();
    let mut again = false;
    at_every_change(
        20,
        || (store.host.call(&["bocker-snap", "import", "fixture:1"]), ()),
        |()| {
            again = !again;
            if again {
                store.run(&["import", "fixture:1"]).ok();
            }
            store.has_its_image();
            collect(&store.host, SNAP, &store.unpacked);
            store.host.remove_layers();
        },
    );
}

#[test]
fn a_layer_that_is_there_after_a_killed_import_is_whole() {
    let store = Store::new();
    at_every_change(
        20,
        || (store.host.call(&["bocker-snap", "import", "fixture:1"]), ()),
        |()| {
            store.run(&["gc", "--grace", "0"]).ok();
            for layer in fs::read_dir(store.host.root().join("layers"))
                .expect("layers")
                .flatten()
            {
                let etc = layer.path().join("etc");
                let read = |name: &str| fs::read_to_string(etc.join(name)).ok();
                let is_hidden = !etc.join("hidden").is_file();
                match read("above") {
                    Some(above) => assert_eq!((above.as_str(), is_hidden), ("above", true)),
                    None => assert_eq!(
                        (read("below").as_deref(), is_hidden),
                        (Some("below"), false)
                    ),
                }
            }
            store.host.remove_layers();
            store.host.assert_same(&store.stored);
        },
    );
}

#[test]
fn an_image_that_is_made_is_there_and_whole_or_not_at_all() {
    let store = Store::new();
    for fail_at in ["", "snap.index"] {
        at_every_change(
            10,
            || (store.init().env("BOCKER_FAIL_AT", fail_at), ()),
            |()| {
                store.run(&["gc", "--grace", "0"]).ok();
                if store.names().contains(&"made:1".to_owned()) {
                    store.has_the_made_image();
                    store.pull(&["rmi", "made:1"]).ok();
                }
                store.host.remove_layers();
                store.host.assert_same(&store.stored);
            },
        );
    }
    store.has_its_image();
}

#[test]
fn a_commit_leaves_the_image_as_it_was_or_with_what_the_container_wrote() {
    let store = Store::new();
    let tag = || store.pull(&["tag", "fixture:1", "changed:1"]).ok();
    let document = store.run(&["create", "fixture:1"]).ok();
    let (id, root) = (
        text(&document.json()["bocker"]["id"]).to_owned(),
        text(&document.json()["root"]["path"]).to_owned(),
    );
    fs::write(Path::new(&root).join("etc/above"), "changed").expect("write in the container");
    // As bocker-spawn keeps it.
    let config = Path::new(&root).with_file_name("config.json");
    fs::write(config, &document.stdout).expect("config.json");
    for fail_at in ["", "snap.index"] {
        at_every_change(
            10,
            || {
                tag();
                let call = store
                    .host
                    .call(&["bocker-snap", "commit", &id, "changed:1"]);
                (call.env("BOCKER_FAIL_AT", fail_at), ())
            },
            |()| {
                store.run(&["gc", "--grace", "0"]).ok();
                let [above, below] = store.contents("changed:1", ["etc/above", "etc/below"]);
                assert!(["above", "changed"].contains(&above.as_deref().unwrap_or_default()));
                assert_eq!(below.as_deref(), Some("below"));
                store.has_its_image();
                store.pull(&["rmi", "changed:1"]).ok();
            },
        );
    }
    store.delete(&document.stdout);
    collect(&store.host, SNAP, &store.unpacked);
}

#[test]
fn a_name_is_given_or_taken_from_an_image_or_it_is_not() {
    let store = Store::new();
    at_every_change(
        3,
        || {
            (
                store
                    .host
                    .call(&["bocker-pull", "tag", "fixture:1", "other:1"]),
                (),
            )
        },
        |()| {
            store.has_its_image();
            store.pull(&["rmi", "other:1"]);
            assert_eq!(store.names(), ["fixture:1"]);
            collect(&store.host, SNAP, &store.unpacked);
        },
    );
    at_every_change(
        3,
        || {
            store.pull(&["tag", "fixture:1", "other:1"]).ok();
            (store.host.call(&["bocker-pull", "rmi", "other:1"]), ())
        },
        |()| {
            store.has_its_image();
            store.pull(&["rmi", "other:1"]);
            assert_eq!(store.names(), ["fixture:1"]);
            collect(&store.host, SNAP, &store.unpacked);
        },
    );
}

#[test]
fn an_image_that_is_removed_is_whole_or_gone_and_its_layers_and_blobs_go_with_it() {
    let store = Store::new();
    at_every_change(
        8,
        || {
            store.init().run().ok();
            store.has_the_made_image();
            (store.host.call(&["bocker-pull", "rmi", "made:1"]), ())
        },
        |()| {
            if store.names().contains(&"made:1".to_owned()) {
                store.has_the_made_image();
                store.pull(&["rmi", "made:1"]).ok();
            }
            collect(&store.host, SNAP, &store.stored);
        },
    );
    store.has_its_image();
}

#[test]
fn an_image_that_is_loaded_is_there_and_whole_or_not_at_all() {
    let store = Store::new();
    store.init().run().ok();
    let archive = store.host.scratch().join("made.tar").display().to_string();
    store.pull(&["save", "-o", &archive, "made:1"]).ok();
    store.pull(&["rmi", "made:1"]).ok();
    for fail_at in ["", "pull.index"] {
        at_every_change(
            10,
            || {
                let call = store.host.call(&["bocker-pull", "load", "-i", &archive]);
                (call.env("BOCKER_FAIL_AT", fail_at), ())
            },
            |()| {
                store.run(&["gc", "--grace", "0"]).ok();
                if store.names().contains(&"made:1".to_owned()) {
                    store.has_the_made_image();
                    store.pull(&["rmi", "made:1"]).ok();
                }
                store.host.remove_layers();
                store.host.assert_same(&store.stored);
            },
        );
    }
    store.has_its_image();
}

#[test]
fn an_archive_that_is_saved_is_whole_or_what_was_there_before() {
    let store = Store::new();
    let archive = store.host.scratch().join("saved.tar").display().to_string();
    store.pull(&["save", "-o", &archive, "fixture:1"]).ok();
    let whole = fs::read(&archive).expect("an archive");
    at_every_change(
        10,
        || {
            fs::write(&archive, "what was there").expect("a file");
            let save = ["bocker-pull", "save", "-o", &archive, "fixture:1"];
            (store.host.call(&save), ())
        },
        |()| {
            let found = fs::read(&archive).expect("an archive");
            assert!(found == whole || found == b"what was there");
        },
    );
    collect(&store.host, SNAP, &store.stored);
}

#[test]
fn a_collection_of_the_store_is_finished_by_the_next() {
    let store = Store::new();
    let images = store.host.root().join("images");
    at_every_change(
        6,
        || {
            fs::write(
                images.join("blobs/sha256").join("0".repeat(64)),
                "a blob of no image",
            )
            .expect("a blob");
            fs::write(images.join("ingest").join("1".repeat(64)), "half a blob")
                .expect("half a blob");
            fs::write(images.join("index.json.new"), "{").expect("half an index");
            let layers = store.host.root().join("layers");
            fs::create_dir_all(layers.join("new-23/tree/etc")).expect("half a layer");
            (store.host.call(&["bocker-snap", "gc", "--grace", "0"]), ())
        },
        |()| collect(&store.host, SNAP, &store.stored),
    );
    store.has_its_image();
}
