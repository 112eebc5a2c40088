//! `init` and `commit`: a layer is written into the image store, and an image made of it.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bocker_pipe::events::{Event, Type};
use bocker_pipe::layout::{
    Change, Descriptor, Digest, Image, Index, Layout, OCI_CONFIG, OCI_MANIFEST, WHY_BLOBS, Writer,
};
use bocker_pipe::reference::Reference;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Document, Doing, Error, Id, Kind, Result, Step, containers, paths};
use rustix::fs::CWD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::base::{Base, Provenance};
use crate::btrfs;
use crate::compare::Comparison;
use crate::container::{self, Folder, Snap};
use crate::driver::Driver;
use crate::ingest::Layer;
use crate::layers::Draft;
use crate::mount_points::MountPoints;
use crate::overlay::{self, Overlay};
use crate::pack::{Rules, Tree};
use crate::tar::Time;
use crate::tree::{open_child, open_directory};
use crate::{cover, ioctl, layers, time};

/// What was made, as one JSON line.
#[derive(Serialize)]
struct Made {
    id: Id,
    reference: Option<String>,
    digest: Digest,
    /// Whether an image of this id was there before.
    replaced: bool,
}

/// Takes an option that says how an image comes about, if it is one.
fn take_provenance(call: &mut Call, option: &str, of: &mut Provenance) -> Result<bool> {
    match option {
        "-a" | "--author" => of.author = Some(call.text()?),
        "-m" | "--message" => of.comment = Some(call.text()?),
        "-c" | "--change" => of.changes.push(call.text()?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// `init DIR|FILE|- [--name REFERENCE]`: an image of one layer from a directory, or from a tar archive.
pub(crate) fn init(call: &mut Call) -> Result<()> {
    let (mut from, mut name) = (None, None);
    let mut provenance = Provenance::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--name" => {
                name = Some(Reference::parse(&call.text()?)?);
            }
            Arg::Option(option) => {
                if !take_provenance(call, &option, &mut provenance)? {
                    return Err(call.unknown(&option));
                }
            }
            Arg::Value(word) if from.is_none() => from = Some(PathBuf::from(word)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let from = from.ok_or_else(|| {
        Error::new(Kind::Usage, "nothing is named to make an image of")
            .hint("give a directory, a tar archive, or - for one on stdin")
    })?;
    let (content, title) = match from.as_os_str() == "-" {
        true if io::stdin().is_terminal() => {
            return Err(Error::new(Kind::Usage, "stdin is a terminal")
                .hint("pipe an archive in, or name a file or a directory"));
        }
        true => (Content::Archive(None), "stdin".to_owned()),
        false if from.is_dir() || !from.exists() => (
            Content::Directory(cover::Source::find(&from)?),
            from.display().to_string(),
        ),
        false => (
            Content::Archive(Some(from.clone())),
            from.display().to_string(),
        ),
    };
    // Where the files came from is of interest only where there is no better name; it would make the same files two images.
    provenance.created_by = match name {
        Some(_) => "bocker init".to_owned(),
        None => format!("bocker init {title}"),
    };
    let annotations = name
        .is_none()
        .then(|| json!({"org.opencontainers.image.title": title}));
    let mut build = Build::new(content, Target::New(name), provenance)?;
    build.annotations = annotations;
    build.run(call)
}

/// `commit CONTAINER [IMAGE]`: what the container wrote becomes a layer above those of its image.
pub(crate) fn commit(call: &mut Call) -> Result<()> {
    let mut words = Vec::new();
    let mut provenance = Provenance::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => {
                if !take_provenance(call, &option, &mut provenance)? {
                    return Err(call.unknown(&option));
                }
            }
            Arg::Value(word) if words.len() < 2 => words.push(word.to_string_lossy().into_owned()),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let (container, image) = match &words[..] {
        [container] => (container, None),
        [container, image] => (container, Some(image)),
        _ => return Err(Error::new(Kind::Usage, "no container is named")),
    };
    let id = containers::resolve(container)?;
    // Nobody deletes it meanwhile; who did so while this waited has left no container.
    let _lock = container::lock(&id)?;
    containers::resolve(id.as_str())?;
    let folder = Folder::of(&id);
    let document = containers::load_if_written(&id)?;
    // As docker, what ran in it: the id would make two images of equal containers.
    let words: Vec<String> = document.get("/process/args")?.unwrap_or_default();
    provenance.created_by = match words.is_empty() {
        true => "bocker commit".to_owned(),
        false => words.join(" "),
    };
    let content = Content::Container {
        snap: folder.snap()?,
        folder,
        document,
        id,
    };
    let target = match image {
        Some(image) => Target::find(&Layout::open(), image)?,
        None => Target::New(None),
    };
    Build::new(content, target, provenance)?.run(call)
}

/// How much of its content a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// What differs from the layers below.
    Difference,
}

/// What the layer holds.
enum Content {
    /// A directory of the host.
    Directory(cover::Source),
    /// A tar archive in a file, or on stdin.
    Archive(Option<PathBuf>),
    /// What a container wrote, or all that it sees.
    Container {
        id: Id,
        folder: Folder,
        snap: Snap,
        document: Document,
    },
}

impl Content {
    /// What the layer comes to lie upon, and so how much it has to hold.
    fn base(&self, layout: &Layout) -> Result<(Base, Extent)> {
        match self {
            Content::Container {
                snap,
                document,
                folder,
                ..
            } => match Base::of_container(layout, document, snap)? {
                Some(base) if has_lower(folder, snap)? => Ok((base, Extent::Difference)),
                // The image's blobs are gone, or there never were any: all that the container sees becomes one layer.
                _ => Ok((Base::flat(document)?, Extent::Whole)),
            },
            _ => Ok((Base::scratch(), Extent::Whole)),
        }
    }

    /// Whether the layer can be had as a snapshot at once.
    fn is_subvolume(&self) -> bool {
        matches!(self, Content::Container { snap, .. } if snap.driver == Driver::Btrfs)
    }

    /// Takes the snapshot. There is none of what holds subvolumes of its own, which it would show empty.
    fn draft(&self) -> Result<Option<Draft>> {
        let Content::Container { id, folder, .. } = self else {
            return Ok(None);
        };
        let root = open_directory(&folder.root())?;
        if btrfs::has_nested(&root)? {
            ioctl::sync(&root).doing(|| "write the container's root to the disk".into())?;
            return Ok(None);
        }
        Draft::take(id, &folder.root()).map(Some)
    }

    fn write(
        &self,
        writer: &Writer,
        extent: Extent,
        draft: Option<&Draft>,
        latest: Option<Time>,
    ) -> Result<Layer> {
        let whole = Tree::Whole;
        let rules = Rules {
            latest,
            ..Rules::default()
        };
        match (self, extent) {
            (Content::Directory(source), _) => {
                let root = open_directory(&source.path)?;
                let without: Vec<PathBuf> = source
                    .covers
                    .iter()
                    .chain(&source.hidden)
                    .cloned()
                    .collect();
                let rules = Rules {
                    without: &without,
                    ..rules
                };
                Layer::pack(writer, root.as_fd(), whole, rules).map(|(layer, _)| layer)
            }
            (Content::Archive(None), _) => Layer::copy(writer, io::stdin()),
            (Content::Archive(Some(path)), _) => {
                let file = File::open(path).doing(|| format!("open {}", path.display()))?;
                Layer::copy(writer, file)
            }
            (
                Content::Container {
                    folder,
                    snap,
                    document,
                    ..
                },
                extent,
            ) if snap.driver == Driver::Overlay => {
                let mount_points = MountPoints::find(&Comparison::of(folder, snap)?, document)?;
                let rules = Rules {
                    left_out: Some(mount_points.made()),
                    ..rules
                };
                let (root, tree) = match extent {
                    Extent::Difference => (open_directory(&overlay::upper(folder))?, Tree::Upper),
                    Extent::Whole => (merged(folder, snap)?, whole),
                };
                Layer::pack(writer, root.as_fd(), tree, rules).map(|(layer, _)| layer)
            }
            (
                Content::Container {
                    folder,
                    snap,
                    document,
                    ..
                },
                extent,
            ) => {
                let place = draft.map_or_else(|| folder.root(), Draft::tree);
                let root = open_directory(&place)?;
                // Where other layers are here, nothing is known of what it began as.
                let comparison = match has_lower(folder, snap)? {
                    true => {
                        let top = open_directory(&place)?;
                        Some(Comparison::of_subvolume(top, folder, snap)?)
                    }
                    false => None,
                };
                let mount_points = match &comparison {
                    Some(comparison) => MountPoints::find(comparison, document)?,
                    None => MountPoints::default(),
                };
                let rules = Rules {
                    left_out: Some(mount_points.made()),
                    ..rules
                };
                let tree = match (&comparison, extent) {
                    (Some(comparison), Extent::Difference) => comparison.tree(),
                    _ => whole,
                };
                let (layer, left_out) = Layer::pack(writer, root.as_fd(), tree, rules)?;
                if let Some(draft) = draft {
                    draft.leave_out(&left_out)?;
                    mount_points.remove_from(&draft.tree())?;
                }
                Ok(layer)
            }
        }
    }

    /// What packs it, written to stdout.
    fn commands(&self, extent: Extent) -> (Option<&'static str>, String) {
        let tar = |path: &Path, options: &str| {
            format!(
                "tar -C {} --one-file-system --sort=name --numeric-owner --xattrs{options} -c . | gzip -1n",
                quote(&path.display().to_string())
            )
        };
        match self {
            Content::Archive(None) => (None, "gzip -1n".to_owned()),
            Content::Archive(Some(path)) => (
                None,
                format!("gzip -1n < {}", quote(&path.display().to_string())),
            ),
            Content::Directory(source) => {
                let without = |path: &PathBuf| {
                    let inside = format!("./{}/*", path.display());
                    format!(" --exclude={}", quote(&inside))
                };
                let mut options: String = source.covers.iter().map(without).collect();
                if let Some(hidden) = &source.hidden {
                    let file = format!("./{}", hidden.display());
                    options += &format!(" --exclude={}", quote(&file));
                }
                (None, tar(&source.path, &options))
            }
            Content::Container {
                id, folder, snap, ..
            } => match (snap.driver, extent) {
                (Driver::Overlay, Extent::Whole) => (None, tar(&folder.root(), "")),
                (Driver::Overlay, Extent::Difference) => (
                    Some("# what overlayfs hides becomes .wh. files, for which tar has no option"),
                    tar(&overlay::upper(folder), ""),
                ),
                (Driver::Btrfs, Extent::Whole) => (None, tar(&Draft::place(id), "")),
                (Driver::Btrfs, Extent::Difference) => (
                    Some(
                        "# only what differs from the layer below, and .wh. files for what is gone from it, for which tar has no option",
                    ),
                    tar(&Draft::place(id), ""),
                ),
            },
        }
    }
}

/// That a container became an image, or something from elsewhere.
fn tell(content: &Content, image: &Image) {
    let name = image.reference.clone().unwrap_or_default();
    match content {
        Content::Container { document, .. } => Event::of(document, "commit")
            .with("imageID", &image.id)
            .with("imageRef", name),
        _ => Event::new(Type::Image, "import", &image.id).name(name),
    }
    .record();
}

/// A blob of JSON.
struct Blob {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

/// An image on its way: what is planned, and what has come of it.
struct Build {
    layout: Layout,
    content: Content,
    target: Target,
    provenance: Provenance,
    /// What was modified later counts as modified then.
    latest: Option<Time>,
    annotations: Option<Value>,
    base: Base,
    extent: Extent,
    /// The container's root, as it is when the layer is made.
    draft: Option<Draft>,
    writer: Option<Writer>,
    layer: Option<Layer>,
    config: Option<Blob>,
    manifest: Option<Blob>,
    change: Change,
    made: Option<Image>,
}

impl Build {
    fn new(content: Content, target: Target, mut provenance: Provenance) -> Result<Build> {
        let layout = Layout::open();
        let (base, extent) = content.base(&layout)?;
        base.check(&provenance.changes)?;
        let date = time::source_date()?;
        provenance.created = date.unwrap_or_else(time::now);
        let latest = date.map(|date| Time {
            seconds: date as i64,
            nanoseconds: 0,
        });
        Ok(Build {
            layout,
            content,
            target,
            provenance,
            latest,
            annotations: None,
            base,
            extent,
            draft: None,
            writer: None,
            layer: None,
            config: None,
            manifest: None,
            change: Change::default(),
            made: None,
        })
    }

    fn run(mut self, call: &Call) -> Result<()> {
        let mut steps = vec![store_step()];
        let mut after = Vec::new();
        if self.content.is_subvolume() {
            steps.push(snapshot_step());
            after.push(publish_step());
        }
        steps.extend([layer_step(), config_step(), manifest_step(), index_step()]);
        call.run_steps(&mut self, steps)?;
        // The image is made, and nothing that fails from here on takes it back.
        let replaced = matches!(self.target, Target::Existing(_));
        if replaced {
            after.push(blobs_step());
        }
        let tidied = call.engine().tear_down(&mut self, after);
        if let Some(image) = self.made {
            tell(&self.content, &image);
            call.line(&Made {
                id: image.id,
                reference: image.reference,
                digest: image.digest,
                replaced,
            })?;
        }
        tidied
    }

    fn path(&self, blob: &Descriptor) -> String {
        quote(&self.layout.blob(&blob.digest).display().to_string())
    }

    fn write_command(&self, blob: Option<&Blob>, planned: &str) -> Vec<String> {
        match blob {
            Some(blob) => vec![format!(
                "printf %s {} > {}",
                quote(&String::from_utf8_lossy(&blob.bytes)),
                self.path(&blob.descriptor)
            )],
            None => vec![format!("# {planned}")],
        }
    }

    fn write(&self, media_type: &str, bytes: Vec<u8>) -> Result<Blob> {
        let descriptor = done(&self.writer)?.write_blob(media_type, &bytes)?;
        Ok(Blob { descriptor, bytes })
    }
}

/// What an earlier step has made.
fn done<T>(value: &Option<T>) -> Result<&T> {
    value
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Invalid, "an earlier step was left out"))
}

fn store_step() -> Step<Build> {
    Step::new(
        "snap.store",
        "the image store is there, and as long as the image is made nobody removes blobs from it",
    )
    .command(|c: &Build| {
        let folders = ["blobs/sha256", "ingest"]
            .map(|name| quote(&c.layout.root().join(name).display().to_string()));
        vec![format!("mkdir -p {}", folders.join(" "))]
    })
    .apply(|c| {
        layers::make_folder(&paths::root())?;
        c.writer = Some(c.layout.writer()?);
        // What was seen before may be gone; what is seen now stays.
        (c.base, c.extent) = c.content.base(&c.layout)?;
        Ok(())
    })
    // The store itself stays. All blobs go here: only together can they be checked against what else is in the store.
    .undo(|c| {
        let json = [c.config.take(), c.manifest.take()];
        let json = json.into_iter().flatten().map(|blob| blob.descriptor);
        let layer = c.layer.take().map(|layer| layer.blob);
        let written: Vec<Digest> = json.chain(layer).map(|blob| blob.digest).collect();
        match c.writer.take() {
            Some(writer) => writer.discard(&written),
            None => Ok(()),
        }
    })
}

fn snapshot_step() -> Step<Build> {
    Step::new(
        "snap.snapshot",
        "the container's root stands still in a snapshot while it is read, and becomes the layer in the end",
    )
    .command(|c: &Build| match (&c.content, &c.draft) {
        (Content::Container { id, folder, .. }, Some(_)) => {
            let place = Draft::place(id);
            let parent = place.parent().unwrap_or(&place).display().to_string();
            vec![
                format!("mkdir -m 700 {}", quote(&parent)),
                btrfs::snapshot_command(&folder.root(), &place, false),
            ]
        }
        _ => vec!["# a snapshot, unless subvolumes lie in the root: it would show them empty".into()],
    })
    .apply(|c| {
        c.draft = c.content.draft()?;
        Ok(())
    })
    .undo(|c| match c.draft.take() {
        Some(draft) => draft.remove(),
        None => Ok(()),
    })
}

fn publish_step() -> Step<Build> {
    let chain_id = |c: &Build| c.base.chain_id();
    Step::new(
        "snap.publish",
        "the snapshot is the new image's topmost layer: a container made of it unpacks nothing",
    )
    .command(move |c: &Build| match (&c.content, chain_id(c)) {
        (Content::Container { id, .. }, Some(chain_id)) if c.draft.is_some() => {
            let place = Draft::place(id);
            let parent = place.parent().unwrap_or(&place).display().to_string();
            vec![
                btrfs::snapshot_command(&place, &layers::path(&chain_id), true),
                btrfs::destroy_command(&place),
                format!("rmdir {}", quote(&parent)),
            ]
        }
        _ => vec!["# a read-only snapshot, if there was one".into()],
    })
    .apply(move |c| match (c.draft.take(), chain_id(c)) {
        (Some(draft), Some(chain_id)) => {
            let published = draft.publish(&chain_id);
            let removed = draft.remove();
            c.draft = Some(draft);
            published.and(removed)
        }
        _ => Ok(()),
    })
}

fn layer_step() -> Step<Build> {
    Step::new(
        "snap.layer",
        "the files, as a compressed archive that is named by its digest",
    )
    .command(|c: &Build| {
        let (note, pack) = c.content.commands(c.extent);
        let new = c.layout.root().join("ingest/layer").display().to_string();
        let (new, blobs) = (quote(&new), c.layout.root().join("blobs/sha256"));
        let blobs = quote(&blobs.display().to_string());
        let mut lines: Vec<String> = note.map(str::to_owned).into_iter().collect();
        lines.push(format!("{pack} > {new}"));
        lines.push(format!(
            "mv {new} {blobs}/$(sha256sum < {new} | cut -d' ' -f1)"
        ));
        lines
    })
    .look(|c| match &c.layer {
        Some(layer) => format!("tar tf {}", c.path(&layer.blob)),
        None => "tar tf".to_owned(),
    })
    .apply(|c| {
        let draft = c.draft.as_ref();
        c.layer = Some(
            c.content
                .write(done(&c.writer)?, c.extent, draft, c.latest)?,
        );
        Ok(())
    })
}

fn config_step() -> Step<Build> {
    Step::new(
        "snap.config",
        "the configuration: how the image is run, and its layers by the digests of what they unpack to",
    )
    .command(|c: &Build| c.write_command(c.config.as_ref(), "the configuration, with the layer added"))
    .apply(|c| {
        let bytes = c.base.add(done(&c.layer)?, &c.provenance)?;
        c.config = Some(c.write(OCI_CONFIG, bytes)?);
        Ok(())
    })
}

fn manifest_step() -> Step<Build> {
    Step::new(
        "snap.manifest",
        "the manifest names the configuration and the layers, and its digest is the image's",
    )
    .command(|c: &Build| {
        c.write_command(
            c.manifest.as_ref(),
            "the manifest of configuration and layers",
        )
    })
    .apply(|c| {
        let config = &done(&c.config)?.descriptor;
        let bytes = c.base.manifest(config, c.annotations.as_ref())?;
        let mut blob = c.write(OCI_MANIFEST, bytes)?;
        blob.descriptor.platform = c.base.platform();
        c.manifest = Some(blob);
        Ok(())
    })
}

/// One rename of index.json: before it the old image is there, after it the new one.
fn index_step() -> Step<Build> {
    Step::new(
        "snap.index",
        "the entry in index.json that makes the blobs an image; from here on it can be seen",
    )
    .command(|c: &Build| {
        let planned = format!("# index.json: {} is the manifest", c.target.name());
        vec![c.made.as_ref().map_or(planned, Image::entry_line)]
    })
    .look(|c| c.layout.look_at_index())
    .apply(|c| {
        let manifest = &done(&c.manifest)?.descriptor;
        let target = &c.target;
        let point = |index: &mut Index| target.point(index, manifest);
        c.made = Some(c.change.make(done(&c.writer)?, point)?);
        Ok(())
    })
    .undo(|c| c.change.undo(done(&c.writer)?))
}

fn blobs_step() -> Step<Build> {
    Step::new("snap.blobs", WHY_BLOBS)
        .command(|c: &Build| c.change.discarded(&c.layout))
        .apply(|c| {
            if let Some(writer) = c.writer.take() {
                c.change.discard(writer);
            }
            Ok(())
        })
}

/// Whether the layers are here of which the container's root was made, so that a difference from them can be told.
fn has_lower(folder: &Folder, snap: &Snap) -> Result<bool> {
    match (snap.driver, Folder::top(snap)) {
        (Driver::Btrfs, Some(top)) => {
            let root = open_directory(&folder.root())?;
            let same = || -> rustix::io::Result<bool> {
                let top = ioctl::info(open_child(CWD, top.as_os_str())?)?;
                Ok(ioctl::info(root)?.parent_uuid == top.uuid)
            };
            Ok(same().unwrap_or(false))
        }
        _ => Ok(true),
    }
}

/// What a container's processes see, whether it is mounted or not; without what is mounted in it.
pub(crate) fn merged(folder: &Folder, snap: &Snap) -> Result<OwnedFd> {
    if folder.is_mounted() {
        return open_directory(&folder.root());
    }
    let detached = Overlay::of(folder, snap)?.detached(&folder.root())?;
    open_child(&detached, ".".as_ref()).doing(|| "open the container's root".into())
}

/// What a commit makes or changes.
enum Target {
    /// This image gets new content and keeps its id and names.
    Existing(Image),
    /// A new image, to which this name goes.
    New(Option<Reference>),
}

impl Target {
    fn find(layout: &Layout, text: &str) -> Result<Target> {
        let index = layout.index()?;
        let image = match index.find(text) {
            Ok(image) => image,
            Err(error) if error.kind() == &Kind::NotFound && Id::parse(text).is_err() => {
                return Ok(Target::New(Some(Reference::parse(text)?)));
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
                Ok(Target::New(Some(reference)))
            }
            _ => Ok(Target::Existing(image)),
        }
    }

    /// What the image is known by.
    fn name(&self) -> String {
        match self {
            Target::Existing(image) => image.id.to_string(),
            Target::New(Some(reference)) => reference.to_string(),
            Target::New(None) => "a new image".to_owned(),
        }
    }

    /// Enters the manifest.
    fn point(&self, index: &mut Index, manifest: &Descriptor) -> Result<Image> {
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
                Ok(new(image.id.clone(), image.reference.clone()))
            }
            Target::Existing(image) => Err(Error::new(
                Kind::NotFound,
                format!("No image named '{}' exists", image.id),
            )),
            Target::New(reference) => {
                let name = reference.as_ref().map(Reference::to_string);
                let image = new(index.id_for(&manifest.digest)?, name);
                index.put(&image);
                Ok(image)
            }
        }
    }
}
