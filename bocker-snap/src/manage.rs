//! `images`, `tag` and `rmi`: the names in the image store, and the layers that no name leads to any more.

use std::collections::BTreeSet;
use std::time::Duration;

use bocker_pipe::layout::{Digest, Image, Layout};
use bocker_pipe::reference::Reference;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result};
use serde::Serialize;
use serde_json::Value;

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
    if call.dry_run() {
        return Ok(());
    }
    let tagged = Image {
        reference: Some(reference.to_string()),
        ..found
    };
    layout.writer()?.edit(|index| {
        index.find(tagged.digest.as_str())?;
        index.put(&tagged);
        Ok(())
    })?;
    call.line(&Listed::new(&layout, tagged))
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
    let layout = Layout::open();
    for word in words {
        let image = layout.find(&word)?;
        if call.dry_run() {
            continue;
        }
        let blobs = blobs(&layout, &image);
        let writer = layout.writer()?;
        let removed = writer.edit(|index| {
            let image = index.find(&word)?;
            let by_name =
                Reference::parse(&word).is_ok_and(|name| image.reference == Some(name.to_string()));
            let gone = match (by_name, &image.reference) {
                (true, Some(reference)) => index.remove_reference(reference),
                _ => index.remove_id(&image.id),
            };
            let still_there = index.images().iter().any(|other| other.id == image.id);
            Ok(gone
                .into_iter()
                .map(|image| (image, !still_there))
                .collect::<Vec<_>>())
        })?;
        // The name is gone. What cannot be tidied up now, because another image is damaged, is for gc to tell.
        let _ = writer.discard(&blobs);
        for (image, removed) in removed {
            call.line(&Removed {
                id: image.id,
                reference: image.reference,
                removed,
            })?;
        }
    }
    let _ = garbage::collect_layers(&layout, Duration::ZERO, false, &mut |_| Ok(()));
    Ok(())
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
