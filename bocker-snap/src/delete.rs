//! `mount`, `unmount` and `delete`: a container's root comes, goes, and goes for good.

use std::fs;
use std::path::PathBuf;

use bocker_pipe::events::Event;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Document, Id, Kind, Result, Step, claim, containers, lock, paths};

use crate::container::{self, Folder, Snap};
use crate::driver::Driver;
use crate::volume::{Request, Volume};
use crate::{STAGE, btrfs, names, overlay, tree};

struct Context {
    id: Id,
    /// Whether the volumes that nobody named go too.
    with_volumes: bool,
    /// What the document says of it.
    snap: Option<Snap>,
    /// By the container's own note: what a document says may be another's.
    driver: Option<Driver>,
    /// Held to the end.
    lock: Option<lock::Lock>,
}

impl Context {
    fn folder(&self) -> Folder {
        Folder::of(&self.id)
    }

    /// The volumes that nobody named, by the container's own note.
    fn anonymous(&self) -> Vec<Volume> {
        let volumes = self.folder().snap().map(|snap| snap.volumes);
        let volumes = volumes.unwrap_or_default();
        let anonymous = volumes.iter().filter(|request| request.anonymous);
        anonymous.filter_map(Request::volume).collect()
    }
}

/// `mount [CONTAINER]`: what `start` begins with.
pub(crate) fn mount(call: &mut Call) -> Result<()> {
    if let Some(word) = call.container(None)? {
        let document = load(&word)?;
        call.adopt(document);
    }
    let id = call.document()?.id()?;
    let snap = Folder::of(&id).snap()?;
    let context = Context {
        with_volumes: false,
        driver: Some(snap.driver),
        snap: Some(snap),
        lock: None,
        id,
    };
    let steps = vec![renew_step(), mount_step()];
    call.create(context, steps, |document, context| {
        // It begins anew: how it ended or failed before is not how this ends.
        document.remove_member("exit");
        document.remove_member("error");
        document.set("/root/path", tree::text(&context.folder().root())?);
        if let Some(snap) = &context.snap {
            document.set_member("snap", snap);
        }
        Ok(())
    })
}

fn renew_step() -> Step<Context> {
    Step::new(
        "snap.claim",
        "after a restart of the machine the id has to be claimed again",
    )
    .command(|c: &Context| vec![format!("mkdir -p -m 700 {}", paths::claim(&c.id).display())])
    .apply(|c| {
        claim::renew(&c.id, STAGE)?;
        c.lock = container::lock(&c.id)?;
        container::refuse_alive(&c.id)
    })
}

fn mount_step() -> Step<Context> {
    Step::new(
        "snap.mount",
        "the layers and what the container wrote are shown as one tree again",
    )
    .command(|c: &Context| match &c.snap {
        Some(snap) => {
            let status = c.folder().path().join(containers::STATUS);
            let mount = match snap.driver {
                Driver::Overlay => Some(overlay::mount_command(&c.folder(), snap)),
                Driver::Btrfs => None,
            };
            let forget = format!("rm -f {}", quote(&status.display().to_string()));
            mount.into_iter().chain([forget]).collect()
        }
        None => Vec::new(),
    })
    .look(|c| {
        format!(
            "findmnt {}",
            quote(&c.folder().root().display().to_string())
        )
    })
    .apply(|c| match &c.snap {
        Some(snap) => {
            for volume in snap.volumes.iter().filter_map(Request::volume) {
                volume.settle()?;
            }
            c.folder().mount(snap)?;
            claim::begin_again(&c.id, STAGE)?;
            c.folder().begin_again()
        }
        None => Ok(()),
    })
    .undo(|c| c.folder().unmount())
}

/// `unmount [CONTAINER]`: the root goes, what was written stays. Of a container that failed before bocker-spawn had it nothing
/// stays: nobody could see it, start it or keep it.
pub(crate) fn unmount(call: &mut Call) -> Result<()> {
    let force = options(call, None)?;
    tear_down(call, force, |document, id| {
        match has_failed(document) && !Folder::of(id).is_handed_over() {
            true => Extent::All,
            false => Extent::Root,
        }
    })
}

/// `delete [CONTAINER] [--volumes]`: the root, everything written, the name and the claim, and the volumes that nobody named.
pub(crate) fn delete(call: &mut Call) -> Result<()> {
    let mut volumes = false;
    let force = options(call, Some(&mut volumes))?;
    tear_down(call, force, |_, _| match volumes {
        true => Extent::All,
        false => Extent::Container,
    })
}

/// Whether nothing came of it.
fn has_failed(document: &Document) -> bool {
    document.error().is_some() && document.value("/bocker/exit").is_none()
}

/// How much of a container goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// The mount of its root.
    Root,
    /// What it wrote to its root, and its name.
    Container,
    /// Its volumes too, those that nobody named.
    All,
}

/// Takes the container, if one is named, and the options. Answers whether one that is alive is taken too.
fn options(call: &mut Call, mut volumes: Option<&mut bool>) -> Result<bool> {
    let (mut force, mut found) = (false, None);
    while let Some(arg) = call.arg()? {
        match (arg, volumes.as_deref_mut()) {
            (Arg::Option(option), Some(volumes)) if option == "--volumes" => *volumes = true,
            (Arg::Option(option), _) if matches!(&*option, "-f" | "--force") => force = true,
            (Arg::Option(option), _) => return Err(call.unknown(&option)),
            (Arg::Value(word), _) if found.is_some() => return Err(call.unexpected(&word)),
            (Arg::Value(word), _) => found = Some(word),
        }
    }
    if let Some(word) = found {
        let document = load(word.to_str().ok_or_else(|| call.unexpected(&word))?)?;
        call.adopt(document);
    }
    Ok(force)
}

/// Takes down the container that was named, or the one of the document, as far as `extent` says.
fn tear_down(
    call: &mut Call,
    force: bool,
    extent: impl Fn(&Document, &Id) -> Extent,
) -> Result<()> {
    let Ok(id) = call.document()?.id() else {
        // Nothing was claimed, so nothing was made.
        return Ok(());
    };
    let lock = match call.dry_run() {
        true => None,
        false => container::lock(&id)?,
    };
    if !force && !call.dry_run() {
        container::refuse_alive(&id)?;
    }
    let document = call.document()?;
    let extent = extent(document, &id);
    let goes = extent != Extent::Root;
    let context = Context {
        with_volumes: extent == Extent::All,
        snap: document.member("snap").ok().flatten(),
        driver: Folder::of(&id).snap().ok().map(|snap| snap.driver),
        lock,
        id,
    };
    let mut steps = Vec::new();
    if context.driver != Some(Driver::Btrfs) {
        steps.push(unmount_step());
    }
    if goes {
        if context.with_volumes && !context.anonymous().is_empty() {
            steps.push(volumes_step());
        }
        // Of one that has run the id may still be asked for.
        let file = context.folder().snap().ok().and_then(|snap| snap.cidfile);
        if let Some(file) = file.filter(|_| has_failed(document)) {
            steps.push(cidfile_step(file));
        }
        // The name goes after what it leads to, so that one that is killed can be told to go on by name.
        steps.extend([folder_step(), name_step(), release_step()]);
    }
    call.delete(context, steps, |document, context| {
        if goes {
            if context.driver.is_some() {
                Event::of(document, "destroy").record();
            }
            forget(document, context);
        }
        Ok(())
    })
}

/// Removes from the document what was the container's.
fn forget(document: &mut Document, context: &Context) {
    let volumes = context.snap.iter().flat_map(|snap| &snap.volumes);
    let ours: Vec<&str> = volumes.map(|volume| &*volume.destination).collect();
    document.remove_mounts(|destination, _| ours.contains(&destination));
    document.remove_member("snap");
    document.remove("/root");
}

fn unmount_step() -> Step<Context> {
    Step::new("snap.mount", "nothing is written to the root any more")
        .command(|c: &Context| {
            vec![format!(
                "umount -l {}",
                quote(&c.folder().root().display().to_string())
            )]
        })
        .apply(|c| c.folder().unmount())
}

fn name_step() -> Step<Context> {
    Step::new("snap.name", "the name is free again")
        .command(|c: &Context| {
            vec![format!(
                "find {} -lname {} -delete",
                quote(&paths::names().display().to_string()),
                quote(&format!("../containers/{}", c.id))
            )]
        })
        .apply(|c| names::take_names(&c.id))
        .last()
}

fn cidfile_step(file: PathBuf) -> Step<Context> {
    let shown = quote(&file.display().to_string());
    Step::new("snap.cidfile", "the id that it holds is nobody's")
        .command(move |c: &Context| vec![format!("grep -qx {} {shown} && rm {shown}", c.id)])
        .apply(move |c| match fs::read(&file) {
            Ok(held) if held == c.id.as_str().as_bytes() => tree::remove_path(&file),
            _ => Ok(()),
        })
}

fn folder_step() -> Step<Context> {
    Step::new(
        "snap.folder",
        "what the container wrote, its log and its document go",
    )
    .command(|c: &Context| {
        let folder = c.folder();
        let config = folder.path().join(containers::CONFIG).display().to_string();
        let mut lines = vec![format!("rm -f {}", quote(&config))];
        if c.driver == Some(Driver::Btrfs) {
            lines.push(btrfs::destroy_command(&folder.root()));
        }
        let folder = folder.path().display().to_string();
        lines.push(format!("rm -rf {}", quote(&folder)));
        lines
    })
    .apply(|c| {
        c.folder().keep_volumes()?;
        c.folder().remove()
    })
}

fn volumes_step() -> Step<Context> {
    Step::new(
        "snap.volume",
        "volumes that nobody named go with the container, unless another uses them",
    )
    .command(|c: &Context| {
        let config = c.folder().path().join(containers::CONFIG);
        let commands = c.anonymous().into_iter();
        let commands = commands.map(|volume| volume.remove_command());
        std::iter::once(format!("rm -f {}", quote(&config.display().to_string())))
            .chain(commands)
            .collect()
    })
    .apply(|c| {
        c.folder().disown()?;
        c.folder().remove_volumes(&c.id)
    })
}

fn release_step() -> Step<Context> {
    Step::new("snap.claim", "nothing carries the id any more")
        .command(|c: &Context| vec![format!("rm -r {}", paths::claim(&c.id).display())])
        .apply(|c| container::release(&c.id))
        .last()
}

/// The document of a container that is named: the one that bocker-spawn wrote, or as much as is known without.
fn load(word: &str) -> Result<Document> {
    let id = containers::resolve(word)?;
    match containers::load(&id) {
        Err(error) if error.kind() == &Kind::NotFound => {
            let mut document = Document::new();
            document.set_member("id", &id);
            if let Ok(snap) = Folder::of(&id).snap() {
                document.set_member("snap", &snap);
            }
            Ok(document)
        }
        document => document,
    }
}
