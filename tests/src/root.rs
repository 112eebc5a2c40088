//! A store on a machine: a `BOCKER_ROOT` of its own, on whichever filesystem, and containers of it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Host, Image, Output};

/// What [`Root::store`] calls an image; `fixture:1` for short.
const NAME: &str = "docker.io/library/fixture:1";

/// A `BOCKER_ROOT` of its own on a machine.
pub struct Root<'a> {
    host: &'a Host,
    /// Where it is.
    pub path: PathBuf,
}

impl<'a> Root<'a> {
    /// One on the machine's disk, and one on btrfs.
    ///
    /// # Panics
    /// When `mkfs.btrfs` is not installed, or the machine has no loop devices.
    #[must_use]
    pub fn both(host: &'a Host) -> [Root<'a>; 2] {
        let [overlay, btrfs] = ["overlay", "btrfs"].map(|name| Root {
            host,
            path: host.another_root(name),
        });
        host.mount_btrfs("another-disk", &btrfs.path);
        [overlay, btrfs]
    }

    /// Runs a script with it as `BOCKER_ROOT`.
    pub fn sh(&self, script: &str) -> Output {
        let call = self.host.call(&["bash", "-ec", script]);
        call.env("BOCKER_ROOT", &self.path).run()
    }

    /// Puts an image into its store as another program would, as `fixture:1`.
    ///
    /// # Panics
    /// When skopeo cannot copy it.
    pub fn store(&self, image: &Image) {
        let from = image.layout().display().to_string();
        self.sh(&format!(
            "skopeo copy --quiet oci:{from} oci:$BOCKER_ROOT/images:{NAME}"
        ))
        .ok();
    }

    /// Makes a container with `bocker-snap create`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn create(&self, words: &str) -> Container<'_> {
        let document = self.sh(&format!("bocker-snap create {words}")).ok().json();
        let root = document["root"]["path"].as_str().expect("a root").into();
        Container {
            of: self,
            document,
            root,
        }
    }

    /// The subvolumes that there are, by path.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn subvolumes(&self) -> Vec<String> {
        let text = self.sh("btrfs subvolume list $BOCKER_ROOT").ok().stdout;
        let path = |line: &str| Some(line.split_once(" path ")?.1.to_owned());
        text.lines().filter_map(path).collect()
    }

    /// The digest of the topmost layer of an image.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn top(&self, image: &str) -> String {
        let listed = self.sh(&format!("bocker-pull list {image}")).ok().json();
        let blob = |digest: &str| {
            let path = self.path.join("images/blobs/sha256").join(&digest[7..]);
            serde_json::from_slice::<Value>(&fs::read(path).expect("a blob")).expect("JSON")
        };
        let manifest = blob(listed["digest"].as_str().expect("a digest"));
        let layers = manifest["layers"].as_array().expect("layers").clone();
        let top = layers.last().expect("a layer");
        top["digest"].as_str().expect("a digest").to_owned()
    }

    /// The names in the topmost layer of an image.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn names(&self, image: &str) -> Vec<String> {
        let blob = format!("$BOCKER_ROOT/images/blobs/sha256/{}", &self.top(image)[7..]);
        let text = self.sh(&format!("tar tzf {blob}")).ok().stdout;
        text.lines().map(str::to_owned).collect()
    }
}

/// A container that was made, not started.
pub struct Container<'a> {
    of: &'a Root<'a>,
    /// What its making has said.
    pub document: Value,
    /// Its root filesystem.
    pub root: PathBuf,
}

impl Container<'_> {
    /// Does something in its root.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, script: &str) {
        self.of
            .sh(&format!("cd {}\n{script}", self.root.display()))
            .ok();
    }

    /// Its id.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.document["bocker"]["id"].as_str().expect("an id")
    }

    /// Deletes it.
    ///
    /// # Panics
    /// When it cannot be deleted.
    pub fn delete(&self) {
        self.of
            .sh(&format!("bocker-snap delete {}", self.id()))
            .ok();
    }
}
