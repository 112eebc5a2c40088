//! `create`: claims an id and makes a container's root from an image or from a directory.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{self, Path, PathBuf};

use bocker_pipe::events::Event;
use bocker_pipe::layout::{Image, Layout};
use bocker_pipe::step::quote;
use bocker_pipe::{
    Arg, Call, Document, Doing, Error, Id, Kind, Result, Step, claim, lock, paths, size,
};
use serde_json::{Map, Value};

use crate::container::{self, Folder, Snap};
use crate::cover::{self, Source};
use crate::driver::Driver;
use crate::image::{self, ImageMember};
use crate::layers::{self, Keep};
use crate::stack::Stack;
use crate::volume::{Content, Record, Request, Volume};
use crate::{STAGE, btrfs, names, overlay, quota, tree, volume};

/// Less would hold the tree's own nodes and hardly a file.
const MIN_SIZE: u64 = 1 << 20;

/// Shown where a name will be generated.
const TWO_WORDS: &str = "two_words";

/// What the command line asks for.
#[derive(Default)]
struct Options {
    image: Option<String>,
    rootfs: Option<PathBuf>,
    name: Option<String>,
    generate_name: bool,
    cidfile: Option<PathBuf>,
    labels: Map<String, Value>,
    read_only: bool,
    volatile: bool,
    size: Option<u64>,
    volumes: Vec<Request>,
    /// Containers whose volumes this one gets too.
    volumes_from: Vec<String>,
}

/// What is planned, and what has come of it.
struct Context {
    /// The placeholder until one is claimed.
    id: Id,
    name: Option<String>,
    /// Whether one of two words is given to what has none.
    is_name_generated: bool,
    labels: Map<String, Value>,
    read_only: bool,
    image: Option<ImageMember>,
    stack: Stack,
    source: Option<Source>,
    snap: Snap,
    /// Volumes that were not there before.
    made: Vec<String>,
    /// Directories of the host that were not there before, the deepest last.
    directories: Vec<PathBuf>,
    /// Keeps the layers from being removed until the container's own folder names them.
    keep: Option<Keep>,
    /// Orders the verbs on this container, until it is passed on: a collection without grace takes all of it or nothing.
    lock: Cell<Option<lock::Lock>>,
}

impl Context {
    fn folder(&self) -> Folder {
        Folder::of(&self.id)
    }
}

/// `create IMAGE|--rootfs DIR`.
pub(crate) fn create(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    let document = call.document()?;
    let context = plan(options, document)?;
    let steps = steps(&context, document.id().is_ok());
    call.tells(
        |document| vec![Event::of(document, "create")],
        |document| vec![Event::of(document, "destroy")],
    );
    call.create(context, steps, finish)
}

fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--rootfs" => options.rootfs = Some(call.value()?.into()),
                "--name" => options.name = Some(call.text()?),
                "--generate-name" => options.generate_name = true,
                "--cidfile" => {
                    let file = call.value()?;
                    let absolute =
                        path::absolute(&file).doing(|| format!("find {}", file.display()))?;
                    options.cidfile = Some(absolute);
                }
                "--label" => {
                    let text = call.text()?;
                    let (key, value) = text.split_once('=').unwrap_or((&text, ""));
                    options.labels.insert(key.into(), value.into());
                }
                "--read-only" => options.read_only = true,
                "--volatile" => options.volatile = true,
                "--volume" => options.volumes.push(Request::parse(&call.text()?)?),
                "--mount" => options.volumes.push(Request::parse_mount(&call.text()?)?),
                "--tmpfs" => options.volumes.push(Request::parse_tmpfs(&call.text()?)?),
                "--volumes-from" => options.volumes_from.push(call.text()?),
                "--storage-opt" => options.size = Some(storage_option(&call.text()?)?),
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if options.image.is_none() => {
                let word = word.into_string().map_err(|word| {
                    Error::new(
                        Kind::NotFound,
                        format!("No image named '{}' exists", word.display()),
                    )
                })?;
                options.image = Some(word);
            }
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    if options.image.is_some() && options.rootfs.is_some() {
        return Err(Error::new(
            Kind::Usage,
            "a root is made from an image or from a directory, not from both",
        ));
    }
    Ok(options)
}

/// Takes `size=SIZE`.
fn storage_option(text: &str) -> Result<u64> {
    let bytes = match text.split_once('=') {
        Some(("size", value)) => size::parse(value)?,
        _ => {
            let what = format!("'{text}' is no storage option");
            return Err(Error::new(Kind::Usage, what).hint("give size=SIZE, as size=10g"));
        }
    };
    if bytes < MIN_SIZE {
        let what = format!("a root of {} cannot be written to", size::show(bytes));
        return Err(
            Error::new(Kind::Invalid, what).hint(format!("give {} or more", size::show(MIN_SIZE)))
        );
    }
    Ok(bytes)
}

/// Checks everything before anything is made.
fn plan(options: Options, document: &Document) -> Result<Context> {
    let name = match options.name {
        Some(name) => Some(name),
        None => document.member("name")?,
    };
    if let Some(name) = &name {
        names::check_name(name)?;
    }
    if let Some(file) = &options.cidfile
        && file.symlink_metadata().is_ok()
    {
        return Err(
            Error::new(Kind::Exists, format!("the file {} exists", file.display()))
                .hint("remove it, or name another: whose id it holds may still run"),
        );
    }
    let id = document.id().ok();
    if let Some(id) = &id
        && !id.is_placeholder()
        && claim::read(id).is_none_or(|record| record.root != paths::root())
    {
        return Err(Error::new(
            Kind::Document,
            format!("the document's {id} is not claimed, or for another BOCKER_ROOT"),
        )
        .hint("leave the id out, and a fresh one is claimed"));
    }
    let mut labels: Map<String, Value> = document.member("labels")?.unwrap_or_default();
    labels.extend(options.labels);
    let layout = Layout::open();
    let mut snap = Snap {
        driver: match options.rootfs {
            Some(_) => Driver::Overlay,
            None => Driver::here(),
        },
        image: None,
        layers: Vec::new(),
        rootfs: None,
        volatile: options.volatile,
        size: options.size,
        cidfile: options.cidfile,
        volumes: Vec::new(),
    };
    if snap.size.is_some() && snap.driver != Driver::Btrfs {
        let what = match options.rootfs {
            Some(_) => "the size of a view of a directory cannot be limited".to_owned(),
            None => format!(
                "{} is not on btrfs, where sizes are limited",
                paths::root().display()
            ),
        };
        return Err(Error::new(Kind::Unsupported, what)
            .hint("leave --storage-opt out; or 'bocker system setup --btrfs SIZE' makes a pool for images"));
    }
    let (mut member, mut layers, mut source) = (None, Vec::new(), None);
    if let Some(directory) = options.rootfs {
        let found = Source::find(&directory)?;
        snap.rootfs = Some(found.path.clone());
        source = Some(found);
    } else {
        let image = find(&layout, options.image, document)?;
        let unpacked = image::read(&layout, &image)?;
        snap.image = Some(image.id.clone());
        snap.layers = unpacked
            .layers
            .iter()
            .map(|layer| layer.chain_id.clone())
            .collect();
        layers = unpacked.layers;
        member = Some(unpacked.member);
    }
    let of_image = member
        .as_ref()
        .and_then(|image| image.config.get("Volumes"));
    snap.volumes = volume::gather(options.volumes, &options.volumes_from, of_image)?;
    Ok(Context {
        id: id.unwrap_or_else(Id::placeholder),
        is_name_generated: name.is_none() && options.generate_name,
        name,
        labels,
        read_only: options.read_only,
        image: member,
        stack: Stack::new(snap.driver, layers, None)?,
        source,
        snap,
        made: Vec::new(),
        directories: Vec::new(),
        keep: None,
        lock: Cell::default(),
    })
}

/// The image that is named, or the one that the document brings.
fn find(layout: &Layout, named: Option<String>, document: &Document) -> Result<Image> {
    if let Some(name) = named {
        return layout.find(&name);
    }
    match image::of_document(layout, document)? {
        Some(image) => Ok(image),
        None => Err(Error::new(Kind::Usage, "no image is named")
            .hint("give one, or --rootfs DIR for a view of a directory")),
    }
}

fn steps(context: &Context, is_claimed: bool) -> Vec<Step<Context>> {
    let mut steps = Vec::new();
    if !is_claimed {
        steps.push(claim_step());
    }
    steps.push(folder_step());
    if context.name.is_some() || context.is_name_generated {
        steps.push(name_step());
    }
    if let Some(file) = &context.snap.cidfile {
        steps.push(cidfile_step(file.clone()));
    }
    steps.extend(
        context
            .stack
            .steps(|c: &Context| &c.stack, |c| &mut c.stack),
    );
    if context.source.as_ref().is_some_and(Source::is_covered) {
        steps.push(cover_step());
    }
    steps.push(match context.snap.driver {
        Driver::Overlay => mount_step(),
        Driver::Btrfs => snapshot_step(),
    });
    if let Some(bytes) = context.snap.size {
        steps.extend([quota_step(), limit_step(bytes)]);
    }
    for (index, request) in context.snap.volumes.iter().enumerate() {
        match request.volume() {
            Some(volume) => steps.push(volume_step(index, volume)),
            None if request.is_made => steps.push(directory_step(request.source.clone().into())),
            None => {}
        }
    }
    steps
}

fn claim_step() -> Step<Context> {
    Step::new(
        "snap.claim",
        "an id that nothing else on this machine has; everything made later carries it",
    )
    .command(|c: &Context| {
        vec![format!(
            "mkdir -p {} && mkdir -m 700 {}",
            paths::run().display(),
            paths::claim(&c.id).display()
        )]
    })
    .look(|c| format!("cat {}/claim", paths::claim(&c.id).display()))
    .apply(|c| {
        c.id = claim::make(STAGE)?;
        Ok(())
    })
    .undo(|c| container::release(&c.id))
}

fn folder_step() -> Step<Context> {
    Step::new(
        "snap.folder",
        "what the container writes is kept apart from the image, where only root may look",
    )
    .command(|c: &Context| {
        let folder = c.folder();
        let make = format!(
            "mkdir -p -m 700 {}",
            quote(&folder.path().display().to_string())
        );
        vec![match c.snap.driver {
            Driver::Overlay => {
                format!("{make} && {}", overlay::folders_command(&folder, &c.snap))
            }
            Driver::Btrfs => make,
        }]
    })
    .look(|c| format!("ls -l {}", quote(&c.folder().path().display().to_string())))
    .apply(|c| {
        layers::make_folder(&paths::root())?;
        c.lock.set(Some(lock::verbs(&c.id)?));
        c.keep = Some(Keep::take()?);
        c.folder().make(&c.snap)
    })
    .undo(|c| c.folder().remove())
}

fn name_step() -> Step<Context> {
    Step::new(
        "snap.name",
        "a name is given to one container only: a link cannot be made twice",
    )
    .command(|c: &Context| {
        let link = paths::names().join(c.name.as_deref().unwrap_or(TWO_WORDS));
        vec![format!(
            "mkdir -p {} && ln -s ../containers/{} {}",
            quote(&paths::names().display().to_string()),
            c.id,
            quote(&link.display().to_string())
        )]
    })
    .look(|_| format!("ls -l {}", quote(&paths::names().display().to_string())))
    .apply(|c| match &c.name {
        Some(name) => names::give_name(name, &c.id),
        None => {
            c.name = Some(names::give_any_name(&c.id)?);
            Ok(())
        }
    })
    .undo(|c| names::take_names(&c.id))
}

fn cidfile_step(file: PathBuf) -> Step<Context> {
    let shown = quote(&file.display().to_string());
    let (look, made) = (format!("cat {shown}"), file.clone());
    Step::new("snap.cidfile", "who asked for it finds the id in a file")
        .command(move |c: &Context| vec![format!("printf %s {} > {shown}", c.id)])
        .look(move |_| look.clone())
        .apply(move |c| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&file)
                .and_then(|mut open| open.write_all(c.id.as_str().as_bytes()))
                .doing(|| format!("write {}", file.display()))
        })
        .undo(move |_| tree::remove_path(&made))
}

fn quota_step() -> Step<Context> {
    Step::new(
        "snap.quota",
        "the filesystem counts from now on who wrote what; it is switched on once, for all",
    )
    .command(|_: &Context| vec![quota::enable_command()])
    .look(|_| quota::look_command(&paths::root()))
    .apply(|_| quota::enable().map(drop))
}

fn limit_step(bytes: u64) -> Step<Context> {
    Step::new(
        "snap.limit",
        "what the container writes is limited, the image that it shares with others not counted",
    )
    .command(move |c: &Context| quota::limit_commands(&c.folder().root(), bytes))
    .look(|c| quota::look_command(&c.folder().root()))
    .apply(move |c| quota::limit(&c.folder().root(), bytes))
    .undo(|c| quota::lift(&c.folder().root()))
}

fn directory_step(path: PathBuf) -> Step<Context> {
    let shown = quote(&path.display().to_string());
    let look = format!("ls -ld {shown}");
    Step::new(
        "snap.directory",
        "a directory of the host that is to be mounted is made, as docker does",
    )
    .command(move |_: &Context| vec![format!("mkdir -p {shown}")])
    .look(move |_| look.clone())
    .apply(move |c| {
        let made = volume::make_directories(&path)?;
        c.directories.extend(made);
        Ok(())
    })
    .undo(|c| volume::remove_directories(&mut c.directories))
}

fn volume_step(index: usize, volume: Volume) -> Step<Context> {
    let (shown, unmade) = (volume.clone(), volume.clone());
    Step::new(
        "snap.volume",
        "a volume outlives its containers; a new one begins with what the image has where it is mounted",
    )
    .command(move |c: &Context| {
        // Under a dry run it is not made, but would be.
        if !c.made.iter().any(|name| name == shown.name()) && shown.exists() {
            return vec!["# the volume was there before".into()];
        }
        let request = &c.snap.volumes[index];
        let root = c.folder().root();
        shown.make_commands(&Record::of(request), content(request, &root))
    })
    .look(|_| format!("ls -l {}", quote(&paths::volumes().display().to_string())))
    .apply(move |c| {
        let request = &c.snap.volumes[index];
        let root = c.folder().root();
        if volume.make(&Record::of(request), content(request, &root))? {
            c.made.push(volume.name().to_owned());
        }
        Ok(())
    })
    .undo(move |c| match c.made.iter().any(|name| name == unmade.name()) {
        true => match unmade.remove(Some(&c.id)) {
            // Another container has it already.
            Err(error) if error.kind() == &Kind::InUse => Ok(()),
            removed => removed.map(drop),
        },
        false => Ok(()),
    })
}

/// What a volume begins with, if it is new or empty.
fn content<'a>(request: &'a Request, root: &'a Path) -> Option<Content<'a>> {
    (!request.nocopy && request.subpath.is_none()).then_some(Content {
        root,
        destination: &request.destination,
    })
}

fn cover_step() -> Step<Context> {
    Step::new(
        "snap.cover",
        "a view of the host's directories must not show the secrets and roots of other containers",
    )
    .command(|c: &Context| match &c.source {
        Some(source) => cover::commands(source, &overlay::upper(&c.folder())),
        None => Vec::new(),
    })
    .apply(|c| match &c.source {
        Some(source) => source.cover(&overlay::upper(&c.folder())),
        None => Ok(()),
    })
}

fn mount_step() -> Step<Context> {
    Step::new(
        "snap.mount",
        "overlayfs shows the layers as one tree and keeps what is written in the topmost directory",
    )
    .command(|c: &Context| vec![overlay::mount_command(&c.folder(), &c.snap)])
    .look(|c| {
        format!(
            "findmnt {}",
            quote(&c.folder().root().display().to_string())
        )
    })
    .apply(make_root)
    .undo(|c| c.folder().unmake_root(&c.snap))
}

fn snapshot_step() -> Step<Context> {
    Step::new(
        "snap.snapshot",
        "a snapshot shares every block with the layers until one of the two is written to",
    )
    .command(|c: &Context| {
        let root = c.folder().root();
        vec![match Folder::top(&c.snap) {
            Some(top) => btrfs::snapshot_command(&top, &root, false),
            None => btrfs::create_command(&root),
        }]
    })
    .look(|c| {
        format!(
            "btrfs subvolume show {}",
            quote(&c.folder().root().display().to_string())
        )
    })
    .apply(make_root)
    .undo(|c| c.folder().unmake_root(&c.snap))
}

fn make_root(c: &mut Context) -> Result<()> {
    c.folder().make_root(&c.snap)?;
    c.keep = None;
    Ok(())
}

fn finish(document: &mut Document, context: &Context) -> Result<()> {
    drop(context.lock.take());
    document.set_member("id", &context.id);
    if let Some(name) = &context.name {
        document.set_member("name", name);
    }
    if !context.labels.is_empty() {
        document.set_member("labels", &context.labels);
    }
    if let Some(image) = &context.image {
        document.set_member("image", image);
    }
    document.set_member("snap", &context.snap);
    document.set("/root/path", tree::text(&context.folder().root())?);
    document.set("/root/readonly", &context.read_only);
    for request in &context.snap.volumes {
        document.add_mount(&request.mount()?);
    }
    Ok(())
}
