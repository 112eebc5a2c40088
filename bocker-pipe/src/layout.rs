//! The image store: an OCI image layout (image-spec image-layout.md) in `BOCKER_ROOT/images` that skopeo and umoci read and write too.
//! Blobs are never changed, `index.json` is replaced as a whole under a lock, and what is killed on the way leaves nothing
//! that can be seen but an ingest file, which `gc` removes.
//!
//! ```text
//! images/oci-layout      the version
//! images/index.json      one entry for each name of an image
//! images/blobs/sha256/   manifests, configurations, layers
//! images/ingest/         blobs on their way, each locked by its writer
//! images/lock            orders the changes of index.json
//! images/writers         held shared by who writes blobs, exclusively by who removes them
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Doing, Error, Kind, Result};
use crate::{lock, paths};

mod blob;
mod change;
mod digest;
mod gc;
mod index;
mod types;

pub use blob::{Ingest, Slot};
pub use change::{Change, WHY_BLOBS};
pub use digest::{Digest, Hasher, chain_ids};
pub use gc::Garbage;
pub use index::{Image, Index, Removal};
pub use types::{
    Config, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Index as ImageIndex, Manifest, OCI_CONFIG,
    OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, Platform, RootFs,
};

/// The largest manifest or index that is read, as other clients have it: 4 MiB.
pub const MANIFEST_MAX: u64 = 4 << 20;
/// The largest configuration that is read: 4 MiB.
pub const CONFIG_MAX: u64 = 4 << 20;
/// The largest `index.json` that is read.
const INDEX_MAX: u64 = 64 << 20;
const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const VERSION: &str = "1.0.0";
const INDEX_FILE: &str = "index.json";
const INDEX_NEW: &str = "index.json.new";
const LOCK: &str = "lock";
const WRITERS: &str = "writers";

/// An image layout, to be read. It need not exist: then it holds no images.
#[derive(Debug, Clone)]
pub struct Layout(PathBuf);

impl Layout {
    /// The layout in `BOCKER_ROOT/images`.
    pub fn open() -> Layout {
        Layout::at(paths::images())
    }

    /// A layout in any folder.
    pub fn at(root: impl Into<PathBuf>) -> Layout {
        Layout(root.into())
    }

    /// The layout's folder.
    pub fn root(&self) -> &Path {
        &self.0
    }

    fn blobs(&self) -> PathBuf {
        self.0.join("blobs/sha256")
    }

    fn ingest(&self) -> PathBuf {
        self.0.join("ingest")
    }

    fn exists(&self) -> bool {
        self.0.join(LAYOUT_FILE).exists()
    }

    /// What `index.json` holds now. Fails with [`Kind::Version`] for a layout of another version.
    pub fn index(&self) -> Result<Index> {
        match read_file(&self.0.join(LAYOUT_FILE))? {
            None => return Ok(Index::empty()),
            Some(bytes) => {
                let value: Option<Value> = serde_json::from_slice(&bytes).ok();
                let version = value
                    .as_ref()
                    .and_then(|value| value.get("imageLayoutVersion")?.as_str());
                if version != Some(VERSION) {
                    let found = version.unwrap_or("none at all");
                    let root = self.0.display();
                    return Err(Error::new(
                        Kind::Version,
                        format!(
                            "the image layout in {root} has version {found}; {VERSION} is supported"
                        ),
                    ));
                }
            }
        }
        read_file(&self.0.join(INDEX_FILE))?
            .map_or_else(|| Ok(Index::empty()), |bytes| Index::parse(&bytes))
    }

    /// All images, one for each name.
    pub fn images(&self) -> Result<Vec<Image>> {
        Ok(self.index()?.images())
    }

    /// The image of an id, a reference, a digest or the beginning of an id: see [`Index::find`].
    pub fn find(&self, text: &str) -> Result<Image> {
        self.index()?.find(text)
    }

    /// An image's manifest. Fails with [`Kind::Unsupported`] when another program has entered a whole index.
    pub fn manifest(&self, image: &Image) -> Result<Manifest> {
        if matches!(image.media_type.as_str(), OCI_INDEX | DOCKER_INDEX) {
            let name = image.familiar();
            return Err(Error::new(
                Kind::Unsupported,
                format!("the image '{name}' is an index of several platforms"),
            )
            .hint("pull it, or copy one platform's image into the layout"));
        }
        self.manifest_of(&image.digest)
    }

    /// The manifest of this digest, whether an image is made of it yet or not.
    pub fn manifest_of(&self, digest: &Digest) -> Result<Manifest> {
        let bytes = self.read_blob(digest, MANIFEST_MAX)?;
        json(&bytes, || format!("the manifest {digest}"))
    }

    /// A manifest's configuration: what the tools act on, and the whole of it as it is.
    pub fn config(&self, manifest: &Manifest) -> Result<(Config, Value)> {
        let digest = &manifest.config.digest;
        let bytes = self.read_blob(digest, CONFIG_MAX)?;
        let what = || format!("the image configuration {digest}");
        Ok((json(&bytes, what)?, json(&bytes, what)?))
    }

    /// Makes the layout at need and enters the ranks of those who write to it. Waits while `gc` removes blobs.
    pub fn writer(&self) -> Result<Writer> {
        for folder in [self.blobs(), self.ingest()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .doing(|| format!("make {}", folder.display()))?;
        }
        let path = self.0.join(WRITERS);
        let shared = lock::open_at_need(&path)?;
        lock::wait_for(|| shared.lock_shared()).doing(|| format!("lock {}", path.display()))?;
        let writer = Writer {
            layout: self.clone(),
            shared,
        };
        if !self.exists() {
            // Whoever comes first; the content is always the same.
            let _alone = lock::exclusive(&self.0.join(LOCK))?;
            self.replace(LAYOUT_FILE, LAYOUT)?;
        }
        Ok(writer)
    }

    /// Replaces a file of the layout as a whole. The caller holds the lock, so that one name for the new file is enough.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (new, target) = (self.0.join(INDEX_NEW), self.0.join(name));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &target)
        };
        write().doing(|| format!("write {}", target.display()))?;
        blob::sync_folder(&self.0)
    }
}

/// The right to write to a layout. As long as it lives no blob is removed, whether anything leads to it or not.
#[derive(Debug)]
pub struct Writer {
    layout: Layout,
    shared: File,
}

impl Writer {
    /// The layout that is written.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Changes `index.json` under its lock: read, changed by `change`, written anew, synced, renamed. An error changes nothing.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _lock = lock::exclusive(&self.layout.0.join(LOCK))?;
        let mut index = self.layout.index()?;
        let result = change(&mut index)?;
        self.layout.replace(INDEX_FILE, &index.to_bytes()?)?;
        Ok(result)
    }

    /// Removes blobs that were written and are not wanted after all, those excepted that something leads to.
    /// While another writer may be counting on them they are left to `gc`. Nothing more can be written afterwards.
    pub fn discard(self, digests: &[Digest]) -> Result<()> {
        self.take_back(digests, &[])
    }

    /// Like [`Writer::discard`], but the blobs of `parts` become what [`Writer::resume`] goes on with: they are whole, and
    /// what they are a part of is not.
    pub fn take_back(self, digests: &[Digest], parts: &[Digest]) -> Result<()> {
        let layout = &self.layout;
        match self.shared.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => {
                return Err(error).doing(|| format!("lock {}", layout.0.display()));
            }
        }
        let reachable = layout.reachable()?;
        let unwanted = |digest: &&Digest| !reachable.contains(digest.hex());
        for digest in digests.iter().filter(unwanted) {
            let path = layout.blob(digest);
            let gone = match parts.contains(digest) {
                true => fs::rename(&path, layout.ingest().join(digest.hex())),
                false => fs::remove_file(&path),
            };
            match gone {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).doing(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.doing(|| format!("open {}", path.display()))?,
    };
    let mut bytes = Vec::new();
    file.take(INDEX_MAX + 1)
        .read_to_end(&mut bytes)
        .doing(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > INDEX_MAX {
        return Err(Error::new(
            Kind::Invalid,
            format!("{} is larger than {INDEX_MAX} bytes", path.display()),
        ));
    }
    Ok(Some(bytes))
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Kind::Invalid, format!("{} is not valid: {error}", what())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reference::Reference;

    /// An image of one layer, stored and entered under a name.
    fn store(layout: &Layout, name: &str, layer: &[u8]) -> Image {
        let writer = layout.writer().unwrap();
        let layer = writer.write_blob(OCI_LAYER_GZIP, layer).unwrap();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            layer.digest
        );
        let config = writer.write_blob(OCI_CONFIG, config.as_bytes()).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: None,
            config,
            layers: vec![layer],
        };
        let manifest = writer
            .write_blob(OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap())
            .unwrap();
        writer
            .edit(|index| {
                let image = Image {
                    id: index.id_for(&manifest.digest)?,
                    reference: Some(Reference::parse(name)?.to_string()),
                    media_type: manifest.media_type.clone(),
                    digest: manifest.digest.clone(),
                    size: manifest.size,
                    platform: None,
                    source: None,
                };
                index.put(&image);
                Ok(image)
            })
            .unwrap()
    }

    fn ours(slot: Slot) -> Ingest {
        match slot {
            Slot::Ours(ingest) => ingest,
            other => panic!("{other:?}"),
        }
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::at(folder.path().join("images"));
        (folder, layout)
    }

    fn collect(layout: &Layout, grace: u64, dry_run: bool) -> Vec<String> {
        let mut found = Vec::new();
        layout
            .gc(
                Duration::from_secs(grace),
                dry_run,
                |_| true,
                |garbage| {
                    found.push(garbage.path);
                    Ok(())
                },
            )
            .unwrap();
        found.sort();
        found
    }

    #[test]
    fn a_layout_that_does_not_exist_holds_no_images_and_is_not_made_by_reading() {
        let (_folder, layout) = layout();
        assert!(layout.images().unwrap().is_empty());
        assert_eq!(
            layout.find("x").unwrap_err().to_string(),
            "No image named 'x' exists"
        );
        assert!(collect(&layout, 0, false).is_empty());
        assert!(!layout.root().exists());
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let (_folder, layout) = layout();
        let image = store(&layout, "busybox:1", b"layer");
        assert_eq!(layout.find("busybox:1").unwrap(), image);
        let manifest = layout.manifest(&image).unwrap();
        let (config, whole) = layout.config(&manifest).unwrap();
        assert_eq!(config.rootfs.diff_ids.len(), 1);
        assert_eq!(whole["config"]["Cmd"][0], "sh");
        assert_eq!(
            layout.read_blob(&manifest.layers[0].digest, 5).unwrap(),
            b"layer"
        );
    }

    #[test]
    fn a_blob_that_is_too_large_damaged_or_a_link_is_not_read() {
        let (folder, layout) = layout();
        store(&layout, "x", b"layer");
        let digest = Digest::of(b"layer");
        assert_eq!(
            *layout.read_blob(&digest, 4).unwrap_err().kind(),
            Kind::Invalid
        );
        fs::write(layout.blob(&digest), b"LAYER").unwrap();
        assert!(
            layout
                .read_blob(&digest, 5)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
        fs::remove_file(layout.blob(&digest)).unwrap();
        assert_eq!(
            *layout.read_blob(&digest, 5).unwrap_err().kind(),
            Kind::NotFound
        );
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, b"layer").unwrap();
        std::os::unix::fs::symlink(&elsewhere, layout.blob(&digest)).unwrap();
        assert!(
            layout
                .read_blob(&digest, 5)
                .unwrap_err()
                .is(nix::errno::Errno::ELOOP)
        );
    }

    #[test]
    fn a_blob_that_is_not_what_was_promised_is_never_seen() {
        let (_folder, layout) = layout();
        let writer = layout.writer().unwrap();
        let mut promised = writer.write_blob("x", b"promised").unwrap();
        fs::remove_file(layout.blob(&promised.digest)).unwrap();
        for sent in [&b"promise"[..], b"Promised", b"promised and more"] {
            let mut ingest = ours(writer.ingest(&promised).unwrap());
            ingest.write_all(sent).unwrap();
            assert_eq!(
                *ingest.commit_as(&promised).unwrap_err().kind(),
                Kind::Remote
            );
        }
        promised.size = 3;
        assert!(!layout.has(&promised));
        assert_eq!(fs::read_dir(layout.blobs()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_goes_on_where_it_was_left() {
        let (_folder, layout) = layout();
        let writer = layout.writer().unwrap();
        let whole = writer.write_blob("x", b"one two").unwrap();
        fs::remove_file(layout.blob(&whole.digest)).unwrap();
        let part = layout.ingest().join(whole.digest.hex());
        let resume = || ours(writer.resume(&whole).unwrap());
        drop(resume());
        assert!(!part.exists(), "a part of nothing is none");
        resume().write_all(b"one ").unwrap();
        assert_eq!(fs::read(&part).unwrap(), b"one ");
        let mut rest = resume();
        assert_eq!(rest.size(), 4);
        rest.write_all(b"two").unwrap();
        rest.commit_as(&whole).unwrap();
        assert_eq!(layout.read_blob(&whole.digest, 7).unwrap(), b"one two");

        fs::remove_file(layout.blob(&whole.digest)).unwrap();
        fs::write(&part, b"bad ").unwrap();
        let mut bad = resume();
        bad.write_all(b"two").unwrap();
        assert!(bad.check(&whole).is_err());
        bad.restart().unwrap();
        bad.write_all(b"one two").unwrap();
        bad.commit_as(&whole).unwrap();

        fs::remove_file(layout.blob(&whole.digest)).unwrap();
        fs::write(&part, b"longer than it may be").unwrap();
        assert_eq!(resume().size(), 0);
        fs::write(&part, b"one ").unwrap();
        assert_eq!(ours(writer.ingest(&whole).unwrap()).size(), 0);
        assert!(!part.exists(), "one that does not resume leaves nothing");
    }

    #[test]
    fn a_blob_that_is_taken_back_is_gone_on_with() {
        let (_folder, layout) = layout();
        let writer = layout.writer().unwrap();
        let layer = writer.write_blob("x", b"layer").unwrap();
        let config = writer.write_blob("x", b"config").unwrap();
        let both = [layer.digest.clone(), config.digest.clone()];
        writer.take_back(&both, &both[..1]).unwrap();
        assert!(!layout.has(&layer) && !layout.has(&config));
        let writer = layout.writer().unwrap();
        let ingest = ours(writer.resume(&layer).unwrap());
        assert_eq!(ingest.size(), 5);
        ingest.commit_as(&layer).unwrap();
        assert_eq!(ours(writer.resume(&config).unwrap()).size(), 0);
    }

    #[test]
    fn two_writers_of_one_blob_write_it_once() {
        let (_folder, layout) = layout();
        let writer = layout.writer().unwrap();
        let descriptor = Descriptor {
            media_type: "x".into(),
            digest: Digest::of(b"once"),
            size: 4,
            annotations: Default::default(),
            platform: None,
        };
        let mut first = ours(writer.ingest(&descriptor).unwrap());
        let other = layout.writer().unwrap();
        assert!(matches!(other.ingest(&descriptor).unwrap(), Slot::Busy));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| other.write_blob("x", b"once").unwrap());
            std::thread::sleep(2 * blob::WAIT);
            first.write_all(b"once").unwrap();
            first.commit_as(&descriptor).unwrap();
            assert_eq!(second.join().unwrap(), descriptor);
        });
        assert!(matches!(other.ingest(&descriptor).unwrap(), Slot::Present));
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn gc_removes_what_nothing_leads_to_and_what_a_dead_writer_left() {
        let (_folder, layout) = layout();
        let kept = store(&layout, "kept", b"kept");
        let gone = store(&layout, "gone", b"gone");
        fs::write(layout.ingest().join("dead"), b"half").unwrap();
        let writer = layout.writer().unwrap();
        writer.edit(|index| Ok(index.remove_id(&gone.id))).unwrap();
        fs::write(layout.root().join(INDEX_NEW), b"half").unwrap();
        let alive = writer.ingest_new().unwrap();
        assert_eq!(
            collect(&layout, 0, false),
            ["index.json.new", "ingest/dead"],
            "a writer is at work: no blob may go"
        );
        drop(alive);
        drop(writer);
        assert!(
            collect(&layout, 600, false).is_empty(),
            "nothing is older than the grace"
        );
        let planned = collect(&layout, 0, true);
        assert_eq!(
            planned.len(),
            3,
            "manifest, configuration and layer of the image that is gone: {planned:?}"
        );
        assert_eq!(collect(&layout, 0, false), planned);
        let manifest = layout.manifest(&kept).unwrap();
        assert!(layout.has(&manifest.config) && layout.has(&manifest.layers[0]));
        assert!(collect(&layout, 0, false).is_empty());
    }

    #[test]
    fn gc_keeps_what_nested_indexes_lead_to_and_removes_nothing_when_it_does_not_understand() {
        let (_folder, layout) = layout();
        let image = store(&layout, "x", b"layer");
        let writer = layout.writer().unwrap();
        writer.write_blob("x", b"garbage").unwrap();
        let mut digest = image.digest.clone();
        let mut size = image.size;
        for _ in 0..50 {
            let index = serde_json::json!({"manifests": [{"digest": digest, "size": size}]});
            let blob = writer
                .write_blob(OCI_INDEX, index.to_string().as_bytes())
                .unwrap();
            (digest, size) = (blob.digest, blob.size);
        }
        // An entry that lies about the size leads there all the same.
        let entry = |digest: &str| format!(r#"{{"manifests":[{{"digest":"{digest}","size":1}}]}}"#);
        fs::write(layout.root().join(INDEX_FILE), entry(digest.as_str())).unwrap();
        drop(writer);
        assert_eq!(collect(&layout, 0, false).len(), 1, "only the garbage goes");
        assert!(layout.blob(&Digest::of(b"layer")).exists());

        fs::write(layout.root().join(INDEX_FILE), entry("sha512:00")).unwrap();
        let nothing = |_| panic!("something was removed");
        let error = layout
            .gc(Duration::ZERO, false, |_| true, nothing)
            .unwrap_err();
        assert!(error.to_string().contains("no blob is removed"), "{error}");
    }

    #[test]
    fn discarded_blobs_go_unless_an_image_needs_them() {
        let (_folder, layout) = layout();
        store(&layout, "x", b"needed");
        let writer = layout.writer().unwrap();
        let unwanted = writer.write_blob("x", b"unwanted").unwrap();
        writer
            .discard(&[
                unwanted.digest.clone(),
                Digest::of(b"needed"),
                Digest::of(b"never there"),
            ])
            .unwrap();
        assert!(!layout.has(&unwanted));
        assert!(layout.blob(&Digest::of(b"needed")).exists());
    }

    #[test]
    fn a_failed_edit_changes_nothing_and_twenty_at_once_lose_none() {
        let (_folder, layout) = layout();
        let image = store(&layout, "x", b"layer");
        let before = fs::read(layout.root().join(INDEX_FILE)).unwrap();
        let writer = layout.writer().unwrap();
        let failed: Result<()> = writer.edit(|index| {
            index.remove_id(&image.id);
            Err(Error::new(Kind::Injected, "no"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(layout.root().join(INDEX_FILE)).unwrap(), before);
        std::thread::scope(|scope| {
            for number in 0..20 {
                let (layout, image) = (&layout, &image);
                scope.spawn(move || {
                    let reference = Some(format!("docker.io/library/x:{number}"));
                    let image = Image {
                        reference,
                        ..image.clone()
                    };
                    layout
                        .writer()
                        .unwrap()
                        .edit(|index| {
                            index.put(&image);
                            Ok(())
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(layout.images().unwrap().len(), 21);
    }

    #[test]
    fn a_layout_of_another_version_is_refused() {
        let (_folder, layout) = layout();
        fs::create_dir_all(layout.root()).unwrap();
        fs::write(
            layout.root().join(LAYOUT_FILE),
            br#"{"imageLayoutVersion":"2.0.0"}"#,
        )
        .unwrap();
        let error = layout.images().unwrap_err();
        assert_eq!(*error.kind(), Kind::Version);
        assert!(error.to_string().contains("2.0.0"));
    }
}
