//! `images`, `tag` and `rmi`: the names in the image store, and the layers that no name leads to any more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bocker_pipe::layout::{Digest, Image, Index, Layout, Writer};
use bocker_pipe::reference::Reference;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step};
use serde::Serialize;
use serde_json::Value;

use crate::change::{self, Change};
use crate::garbage;

/// An exit code that is an answer: no image has the name.
const ABSENT: u8 = 1;
/// Where `init` notes what an image was made of.
const TITLE: &str = "/annotations/org.opencontainers.image.title";

/// One image under one of its names, as `images` prints it.
#[derive(Serialize)]
struct Listed {
    id: Id,
    reference: Option<String>,
    /// For people: the short reference, or what the image was made of.
    source: String,
    digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    /// Bytes of its layers, compressed.
    size: u64,
    layers: usize,
}

impl Listed {
    /// An image whose blobs are damaged is listed too: it can be removed only by who sees it.
    fn new(layout: &Layout, image: Image) -> Listed {
        let manifest = layout.manifest(&image).ok();
        let config = manifest
            .as_ref()
            .and_then(|manifest| layout.config(manifest).ok());
        let layers = manifest
            .as_ref()
            .map_or(&[][..], |manifest| &manifest.layers);
        let title = || -> Option<String> {
            let bytes = layout
                .read_blob(&image.digest, bocker_pipe::layout::MANIFEST_MAX)
                .ok()?;
            let manifest: Value = serde_json::from_slice(&bytes).ok()?;
            Some(manifest.pointer(TITLE)?.as_str()?.to_owned())
        };
        let source = match image.reference {
            Some(_) => image.familiar(),
            None => title().unwrap_or_else(|| image.familiar()),
        };
        Listed {
            source,
            created: config
                .as_ref()
                .and_then(|(config, _)| config.created.clone()),
            platform: config.as_ref().map(|(config, _)| {
                let platform = config.platform();
                let parts = [
                    Some(platform.os),
                    Some(platform.architecture),
                    platform.variant,
                ];
                parts.into_iter().flatten().collect::<Vec<_>>().join("/")
            }),
            size: layers.iter().map(|layer| layer.size).sum(),
            layers: layers.len(),
            id: image.id,
            reference: image.reference,
            digest: image.digest,
        }
    }
}

/// `images [IMAGE...] [--exists]`.
pub(crate) fn images(call: &mut Call) -> Result<()> {
    let mut exists = false;
    let mut words = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--exists" => exists = true,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
        }
    }
    let layout = Layout::open();
    let index = layout.index()?;
    if exists {
        if words.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                "--exists needs the name of an image",
            ));
        }
        for word in &words {
            match index.find(word) {
                Err(error) if error.kind() == &Kind::NotFound => call.set_exit_code(ABSENT),
                found => drop(found?),
            }
        }
        return Ok(());
    }
    let shown = match words.is_empty() {
        true => index.images(),
        false => words
            .iter()
            .map(|word| index.find(word))
            .collect::<Result<_>>()?,
    };
    for image in shown {
        call.line(&Listed::new(&layout, image))?;
    }
    Ok(())
}

/// `tag IMAGE REFERENCE`: one more name. What had it before loses it.
pub(crate) fn tag(call: &mut Call) -> Result<()> {
    let words = words(call)?;
    let [image, name] = &words[..] else {
        return Err(Error::new(
            Kind::Usage,
            "an image and its new name have to be given",
        ));
    };
    let reference = Reference::parse(name)?;
    if matches!(
        reference.version(),
        bocker_pipe::reference::Version::Digest(_)
    ) {
        return Err(Error::new(
            Kind::Invalid,
            format!("'{name}' is a digest, which no image can be given"),
        ));
    }
    let layout = Layout::open();
    let found = layout.find(image)?;
    let mut tag = Tag {
        layout,
        tagged: Image {
            reference: Some(reference.to_string()),
            ..found
        },
        change: Change::default(),
    };
    change::run(call, &mut tag, vec![tag_step()])?;
    match call.dry_run() {
        true => Ok(()),
        false => call.line(&Listed::new(&tag.layout, tag.tagged)),
    }
}

struct Tag {
    layout: Layout,
    tagged: Image,
    change: Change,
}

fn tag_step() -> Step<Tag> {
    Step::new(
        "snap.index",
        "one more entry in index.json, with the same manifest under another name",
    )
    .command(|c: &Tag| vec![change::entry(&c.tagged)])
    .look(|c| change::look(&c.layout))
    .apply(|c| {
        let tagged = &c.tagged;
        c.change.make(&c.layout.writer()?, |index| {
            index.find(tagged.digest.as_str())?;
            index.put(tagged);
            Ok(())
        })
    })
    .undo(|c| c.change.undo(&c.layout.writer()?))
}

/// What was removed, as one JSON line.
#[derive(Serialize)]
struct Removed {
    id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// Whether the image is gone, and not just one of its names.
    removed: bool,
}

/// `rmi IMAGE...`: a name goes, and with the last one the image. Containers keep the layers that they stand on.
pub(crate) fn rmi(call: &mut Call) -> Result<()> {
    let words = words(call)?;
    if words.is_empty() {
        return Err(Error::new(Kind::Usage, "no image is named"));
    }
    for word in words {
        let layout = Layout::open();
        layout.find(&word)?;
        let mut removal = Removal {
            word,
            layout,
            writer: None,
            change: Change::default(),
            removed: Vec::new(),
        };
        change::run(call, &mut removal, vec![name_step()])?;
        let tidied = call.engine().tear_down(&mut removal, vec![blobs_step()]);
        for removed in removal.removed {
            call.line(&removed)?;
        }
        tidied?;
    }
    call.engine()
        .tear_down(&mut Vec::new(), vec![layers_step()])
}

struct Removal {
    word: String,
    layout: Layout,
    /// As long as it is held, what the entries lead to stays and can be named.
    writer: Option<Writer>,
    change: Change,
    removed: Vec<Removed>,
}

fn name_step() -> Step<Removal> {
    Step::new(
        "snap.index",
        "an entry less in index.json; what none of them names is no image any more",
    )
    .command(|c: &Removal| vec![format!("# index.json: without {}", c.word)])
    .look(|c| change::look(&c.layout))
    .apply(|c| {
        let writer = c.layout.writer()?;
        let word = &c.word;
        c.removed = c.change.make(&writer, |index| remove(index, word))?;
        c.writer = Some(writer);
        Ok(())
    })
    .undo(|c| match &c.writer {
        Some(writer) => c.change.undo(writer),
        None => Ok(()),
    })
}

fn remove(index: &mut Index, word: &str) -> Result<Vec<Removed>> {
    let image = index.find(word)?;
    let by_name =
        Reference::parse(word).is_ok_and(|name| image.reference == Some(name.to_string()));
    let gone = match (by_name, &image.reference) {
        (true, Some(reference)) => index.remove_reference(reference),
        _ => index.remove_id(&image.id),
    };
    let still_there = index.images().iter().any(|other| other.id == image.id);
    let removed = gone.into_iter().map(|image| Removed {
        id: image.id,
        reference: image.reference,
        removed: !still_there,
    });
    Ok(removed.collect())
}

fn blobs_step() -> Step<Removal> {
    Step::new(change::BLOBS, change::WHY_BLOBS)
        .command(|c: &Removal| c.change.discarded(&c.layout))
        .apply(|c| {
            if let Some(writer) = c.writer.take() {
                c.change.discard(writer);
            }
            Ok(())
        })
}

/// The context holds the layers that went.
fn layers_step() -> Step<Vec<PathBuf>> {
    Step::new(
        "snap.layers",
        "unpacked layers that neither an image nor a container stands on are of no use",
    )
    .command(|gone: &Vec<PathBuf>| {
        let paths = gone.iter().map(|path| path.display().to_string());
        paths
            .map(|path| format!("rm -rf {}", quote(&path)))
            .collect()
    })
    .apply(|gone| {
        let mut note = |removed: garbage::Removed| {
            gone.extend(removed.path);
            Ok(())
        };
        // What cannot be removed now, because an image is damaged, is for gc to tell.
        let _ = garbage::collect_layers(&Layout::open(), Duration::ZERO, false, &mut note);
        Ok(())
    })
}

/// Everything that an image consists of, as far as it can be told.
pub(crate) fn blobs(layout: &Layout, image: &Image) -> Vec<Digest> {
    let mut blobs = BTreeSet::from([image.digest.clone()]);
    if let Ok(manifest) = layout.manifest(image) {
        blobs.insert(manifest.config.digest);
        blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
    }
    blobs.into_iter().collect()
}

fn words(call: &mut Call) -> Result<Vec<String>> {
    let mut words = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
        }
    }
    Ok(words)
}
