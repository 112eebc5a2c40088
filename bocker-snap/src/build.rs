//! `init` and `commit`: a layer is written into the image store, and an image made of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bocker_pipe::layout::{
    Descriptor, Digest, Hasher, Image, Ingest, Layout, MANIFEST_MAX, Manifest, OCI_CONFIG,
    OCI_LAYER_GZIP, OCI_MANIFEST, Platform, Writer,
};
use bocker_pipe::reference::Reference;
use bocker_pipe::{Arg, Call, Document, Doing, Error, Id, Kind, Result, containers, paths};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use serde::Serialize;
use serde_json::{Value, json};

use crate::container::{Folder, Snap};
use crate::image::ImageMember;
use crate::pack::{self, Tree};
use crate::source::{Source, free_space};
use crate::tar::read::Reader;
use crate::tree::{open_child, open_directory};
use crate::unpack::{WHITEOUT, components};
use crate::{cover, layers, manage, time};

/// RFC 1952: the operating system on which a file was compressed is of no interest.
const UNKNOWN_SYSTEM: u8 = 255;
/// Local layers are read more often than they travel: as fast as gzip goes.
const LEVEL: u32 = 1;
/// Docker's name for a layer of the same format.
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What was made, as one JSON line.
#[derive(Serialize)]
struct Made {
    id: Id,
    reference: Option<String>,
    digest: Digest,
    /// Whether an image of this id was there before.
    replaced: bool,
}

/// `init DIR|- [--name REFERENCE]`: an image of one layer from a directory, or from a tar archive on stdin.
pub(crate) fn init(call: &mut Call) -> Result<()> {
    let (mut from, mut name) = (None, None);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--name" => {
                name = Some(Reference::parse(&call.text()?)?);
            }
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if from.is_none() => from = Some(PathBuf::from(word)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let from = from.ok_or_else(|| {
        Error::new(Kind::Usage, "nothing is named to make an image of")
            .hint("give a directory, or - for a tar archive on stdin")
    })?;
    let archive = from.as_os_str() == "-";
    let root = match archive {
        true => None,
        false => Some(cover::Source::find(&from)?),
    };
    if call.dry_run() {
        return Ok(());
    }
    layers::make_folder(&paths::root())?;
    let layout = Layout::open();
    let writer = layout.writer()?;
    let layer = match root {
        Some(root) => {
            let tree = open_directory(&root.path)?;
            Layer::pack(&writer, tree, Tree::Whole, &root.covers)?
        }
        None => Layer::copy(&writer, io::stdin())?,
    };
    let source = match archive {
        true => "stdin".to_owned(),
        false => from.display().to_string(),
    };
    let base = Base {
        config: json!({"architecture": architecture(), "os": "linux", "config": {}}),
        layers: Vec::new(),
    };
    let title = json!({"org.opencontainers.image.title": source});
    let manifest = base.extend(
        &writer,
        &layer,
        &format!("bocker init {source}"),
        Some(title),
    )?;
    let made = writer.edit(|index| {
        let image = Image {
            id: index.id_for(&manifest.digest)?,
            reference: name.as_ref().map(Reference::to_string),
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: manifest.size,
            platform: manifest.platform.clone(),
            source: None,
        };
        index.put(&image);
        Ok(image)
    })?;
    report(call, made, false)
}

/// `commit CONTAINER IMAGE`: what the container wrote becomes a layer above those of its image.
pub(crate) fn commit(call: &mut Call) -> Result<()> {
    let mut words = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if words.len() < 2 => words.push(word.to_string_lossy().into_owned()),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let [container, image] = &words[..] else {
        return Err(Error::new(
            Kind::Usage,
            "a container and an image have to be named",
        ));
    };
    let id = containers::resolve(container)?;
    let folder = Folder::of(&id);
    let snap = folder.snap()?;
    let document = containers::load(&id).unwrap_or_default();
    let layout = Layout::open();
    let target = Target::find(&layout, image)?;
    if call.dry_run() {
        return Ok(());
    }
    let writer = layout.writer()?;
    let created_by = format!("bocker commit {id}");
    let manifest = match Base::of_container(&layout, &document, &snap)? {
        Some(base) => {
            let layer = Layer::pack(&writer, open_directory(&folder.upper())?, Tree::Upper, &[])?;
            base.extend(&writer, &layer, &created_by, None)?
        }
        // The image's blobs are gone, or there never were any: all that the container sees becomes one layer.
        None => {
            let layer = Layer::pack(&writer, merged(&folder, &snap)?, Tree::Whole, &[])?;
            Base::flat(&document)?.extend(&writer, &layer, &created_by, None)?
        }
    };
    let former = match &target {
        Target::Existing(image) => manage::blobs(&layout, image),
        Target::New(_) => Vec::new(),
    };
    let (made, replaced) = target.point(&writer, &manifest)?;
    // The commit is made. What cannot be tidied up now, because another image is damaged, is for gc to tell.
    let _ = writer.discard(&former);
    report(call, made, replaced)
}

/// What a container's processes see, whether it is mounted or not.
fn merged(folder: &Folder, snap: &Snap) -> Result<OwnedFd> {
    if folder.is_mounted() {
        return open_directory(&folder.root());
    }
    let detached = folder.overlay(snap)?.detached(&folder.root())?;
    open_child(&detached, ".".as_ref()).doing(|| "open the container's root".into())
}

fn report(call: &Call, image: Image, replaced: bool) -> Result<()> {
    call.line(&Made {
        id: image.id,
        reference: image.reference,
        digest: image.digest,
        replaced,
    })
}

/// What a commit makes or changes.
enum Target {
    /// This image gets new content and keeps its id and names.
    Existing(Image),
    /// This name goes to a new image.
    New(Reference),
}

impl Target {
    fn find(layout: &Layout, text: &str) -> Result<Target> {
        let index = layout.index()?;
        let image = match index.find(text) {
            Ok(image) => image,
            Err(error) if error.kind() == &Kind::NotFound && Id::parse(text).is_err() => {
                return Reference::parse(text).map(Target::New);
            }
            Err(error) => return Err(error),
        };
        let names = index.images();
        let others = names
            .iter()
            .any(|other| other.id == image.id && other.reference != image.reference);
        match Reference::parse(text) {
            // One of several names: the others stay with what they name.
            Ok(reference) if others && image.reference == Some(reference.to_string()) => {
                Ok(Target::New(reference))
            }
            _ => Ok(Target::Existing(image)),
        }
    }

    /// One rename of index.json: before it the old image is there, after it the new one.
    fn point(self, writer: &Writer, manifest: &Descriptor) -> Result<(Image, bool)> {
        writer.edit(|index| {
            let new = |id: Id, reference: Option<String>| Image {
                id,
                reference,
                media_type: manifest.media_type.clone(),
                digest: manifest.digest.clone(),
                size: manifest.size,
                platform: manifest.platform.clone(),
                source: None,
            };
            match self {
                Target::Existing(image) if index.repoint(&image.id, manifest) => {
                    Ok((new(image.id, image.reference), true))
                }
                Target::Existing(image) => Err(Error::new(
                    Kind::NotFound,
                    format!("No image named '{}' exists", image.id),
                )),
                Target::New(reference) => {
                    let image = new(index.id_for(&manifest.digest)?, Some(reference.to_string()));
                    index.put(&image);
                    Ok((image, false))
                }
            }
        })
    }
}

/// A layer in the store.
struct Layer {
    blob: Descriptor,
    diff_id: Digest,
}

impl Layer {
    /// Writes a tree.
    fn pack(writer: &Writer, root: OwnedFd, tree: Tree, without: &[PathBuf]) -> Result<Layer> {
        let sink = Sink::new(writer.ingest_new()?);
        pack::pack(root.as_fd(), tree, without, sink)?.finish()
    }

    /// Takes an archive as it is, checked on the way: every header of it, and that it hides nothing.
    fn copy(writer: &Writer, from: impl Read + Send + 'static) -> Result<Layer> {
        let store = File::open(paths::root()).doing(|| "open BOCKER_ROOT".into())?;
        let limit = free_space(&store).doing(|| "ask for free space".into())?;
        let mut sink = Sink::new(writer.ingest_new()?);
        let mut source = Source::new(from, limit);
        let mut reader = Reader::new(Tee {
            from: &mut source,
            to: &mut sink,
        });
        while let Some(entry) = reader.next()? {
            for part in components(&entry.path)? {
                if part.starts_with(WHITEOUT) {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "'{}' cannot be put into a layer: there, names that begin with .wh. hide others",
                            entry.name()
                        ),
                    ));
                }
            }
        }
        reader.finish()?;
        if source.finish()?.size == 0 {
            return Err(Error::new(Kind::Invalid, "stdin ended without an archive"));
        }
        sink.finish()
    }
}

/// Compresses into the store, with the sum of what comes in.
struct Sink {
    encoder: GzEncoder<Ingest>,
    hasher: Hasher,
}

impl Sink {
    fn new(to: Ingest) -> Sink {
        let builder = GzBuilder::new().operating_system(UNKNOWN_SYSTEM);
        Sink {
            encoder: builder.write(to, Compression::new(LEVEL)),
            hasher: Hasher::default(),
        }
    }

    fn finish(self) -> Result<Layer> {
        let ingest = self.encoder.finish().doing(|| "write the layer".into())?;
        let (digest, size) = ingest.commit()?;
        Ok(Layer {
            blob: descriptor(OCI_LAYER_GZIP, digest, size),
            diff_id: self.hasher.finish(),
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.encoder.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Copies what is read.
struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// What a new layer comes to lie upon.
struct Base {
    /// The image's configuration, whole.
    config: Value,
    layers: Vec<Descriptor>,
}

impl Base {
    /// The layers that a container stands on, where an image of the store still has them all at its bottom: the container's own,
    /// or one that was made from it. `None` when none has, and for a view of a directory.
    fn of_container(layout: &Layout, document: &Document, snap: &Snap) -> Result<Option<Base>> {
        if snap.rootfs.is_some() {
            return Ok(None);
        }
        let member: Option<ImageMember> = document.member("image")?;
        let mut found = None;
        for image in layout.images()? {
            let Some(base) = Base::read(layout, &image.digest, snap) else {
                continue;
            };
            // Of several, the container's own image knows best how it came about.
            let own = Some(&image.id) == snap.image.as_ref();
            if own || found.is_none() {
                found = Some(base);
            }
            if own {
                break;
            }
        }
        if let (Some(base), Some(member)) = (&mut found, member) {
            base.config["config"] = member.config;
        }
        Ok(found)
    }

    /// The lower part of an image, up to the container's layers. `None` when it has others, or its blobs are not here.
    fn read(layout: &Layout, digest: &Digest, snap: &Snap) -> Option<Base> {
        let bytes = layout.read_blob(digest, MANIFEST_MAX).ok()?;
        let mut manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let (config, mut whole) = layout.config(&manifest).ok()?;
        let count = snap.layers.len();
        let chain = layers::chain_ids(&config.rootfs.diff_ids);
        if chain.get(..count) != Some(&snap.layers) || manifest.layers.len() != chain.len() {
            return None;
        }
        if chain.len() > count {
            manifest.layers.truncate(count);
            whole["rootfs"]["diff_ids"] = json!(config.rootfs.diff_ids[..count]);
            if let Some(Value::Array(history)) = whole.get_mut("history") {
                let mut layers = 0;
                history.retain(|entry| {
                    layers += usize::from(is_layer(entry));
                    layers <= count
                });
            }
        }
        let here = manifest.layers.iter().all(|layer| layout.has(layer));
        here.then_some(Base {
            config: whole,
            layers: manifest.layers,
        })
    }

    /// No layers, but what the image said about how it is run.
    fn flat(document: &Document) -> Result<Base> {
        let member: Option<ImageMember> = document.member("image")?;
        let (platform, config) = match member {
            Some(member) => (member.platform, member.config),
            None => (None, json!({})),
        };
        let platform = platform.unwrap_or(Platform {
            os: "linux".into(),
            architecture: architecture().into(),
            variant: None,
        });
        let mut whole =
            json!({"architecture": platform.architecture, "os": platform.os, "config": config});
        if let Some(variant) = platform.variant {
            whole["variant"] = variant.into();
        }
        Ok(Base {
            config: whole,
            layers: Vec::new(),
        })
    }

    /// Writes configuration and manifest of the image with the new layer on top.
    fn extend(
        mut self,
        writer: &Writer,
        layer: &Layer,
        created_by: &str,
        annotations: Option<Value>,
    ) -> Result<Descriptor> {
        let created = time::rfc3339(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        );
        let before = self.layers.len();
        let config = &mut self.config;
        if before == 0 {
            config["rootfs"] = json!({"type": "layers", "diff_ids": []});
            config["history"] = json!([]);
        }
        config["created"] = json!(created);
        if let Some(Value::Array(diff_ids)) = config.pointer_mut("/rootfs/diff_ids") {
            diff_ids.push(json!(layer.diff_id));
        }
        // A history names each layer or is of no use: one that does not is left as it is.
        if let Some(Value::Array(history)) = config.get_mut("history")
            && history.iter().filter(|entry| is_layer(entry)).count() == before
        {
            history.push(json!({"created": created, "created_by": created_by}));
        }
        let bytes = serde_json::to_vec(config).map_err(unprintable)?;
        let config_blob = writer.write_blob(OCI_CONFIG, &bytes)?;
        self.layers.push(layer.blob.clone());
        for layer in &mut self.layers {
            if layer.media_type == DOCKER_LAYER_GZIP {
                layer.media_type = OCI_LAYER_GZIP.into();
            }
        }
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config_blob,
            "layers": self.layers,
        });
        if let Some(annotations) = annotations {
            manifest["annotations"] = annotations;
        }
        let bytes = serde_json::to_vec(&manifest).map_err(unprintable)?;
        let mut descriptor = writer.write_blob(OCI_MANIFEST, &bytes)?;
        let text = |key: &str| {
            self.config
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        if let (Some(os), Some(architecture)) = (text("os"), text("architecture")) {
            descriptor.platform = Some(Platform {
                os,
                architecture,
                variant: text("variant"),
            });
        }
        Ok(descriptor)
    }
}

/// Whether an entry of an image's history made a layer.
fn is_layer(entry: &Value) -> bool {
    entry.get("empty_layer") != Some(&Value::Bool(true))
}

fn unprintable(error: serde_json::Error) -> Error {
    Error::new(Kind::Invalid, format!("cannot write JSON: {error}"))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        annotations: Default::default(),
        platform: None,
    }
}

/// This machine's architecture in Go's words, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
