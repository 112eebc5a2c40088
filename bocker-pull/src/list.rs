//! The verb `list`: the names in the store, and what is known of the images that have them.

use bocker_pipe::layout::{Digest, Image, Layout, MANIFEST_MAX};
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result};
use serde::Serialize;
use serde_json::Value;

/// An exit code that is an answer: no image has the name.
const ABSENT: u8 = 1;
/// Where it is noted what an image was made of that was not pulled.
const TITLE: &str = "/annotations/org.opencontainers.image.title";

/// One image under one of its names.
#[derive(Serialize)]
pub(crate) struct Line {
    id: Id,
    reference: Option<String>,
    /// For people: the short reference, or what the image was made of.
    source: String,
    digest: Digest,
    /// The digest of the index that led to the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    /// Bytes of its layers, compressed.
    size: u64,
    layers: usize,
}

impl Line {
    /// An image whose blobs are damaged is listed too: it can be removed only by who sees it.
    pub(crate) fn new(layout: &Layout, image: Image) -> Line {
        let manifest = layout.manifest(&image).ok();
        let config = manifest
            .as_ref()
            .and_then(|manifest| layout.config(manifest).ok());
        let layers = manifest
            .as_ref()
            .map_or(&[][..], |manifest| &manifest.layers);
        let title = || -> Option<String> {
            let bytes = layout.read_blob(&image.digest, MANIFEST_MAX).ok()?;
            let manifest: Value = serde_json::from_slice(&bytes).ok()?;
            Some(manifest.pointer(TITLE)?.as_str()?.to_owned())
        };
        let source = match image.reference {
            Some(_) => image.familiar(),
            None => title().unwrap_or_else(|| image.familiar()),
        };
        Line {
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
            size: layers
                .iter()
                .map(|layer| layer.size)
                .fold(0, u64::saturating_add),
            layers: layers.len(),
            id: image.id,
            reference: image.reference,
            digest: image.digest,
            index: image.source,
        }
    }
}

/// `list [IMAGE...] [--exists]`.
pub(crate) fn list(call: &mut Call) -> Result<()> {
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
        call.line(&Line::new(&layout, image))?;
    }
    Ok(())
}

/// All arguments, of a verb that has no options.
pub(crate) fn words(call: &mut Call) -> Result<Vec<String>> {
    let mut words = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
        }
    }
    Ok(words)
}
