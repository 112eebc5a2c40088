//! The verb `inspect`: all that is known of an image, its configuration whole.

use bocker_pipe::layout::{Digest, Image, Layout};
use bocker_pipe::{Call, Error, Id, Kind, Result};
use serde::Serialize;
use serde_json::Value;

use crate::list::words;

/// One image.
#[derive(Serialize)]
struct Line {
    id: Id,
    names: Vec<Name>,
    digest: Digest,
    /// Bytes of its layers, compressed.
    size: u64,
    /// The layers' blobs, lowest first.
    layers: Vec<Digest>,
    /// The image configuration, verbatim.
    configuration: Value,
}

/// One of its names.
#[derive(Serialize)]
struct Name {
    reference: String,
    /// The digest of the index that this name led to.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Digest>,
}

/// `inspect IMAGE...`.
pub(crate) fn inspect(call: &mut Call) -> Result<()> {
    let words = words(call)?;
    if words.is_empty() {
        return Err(Error::new(Kind::Usage, "no image is named"));
    }
    let layout = Layout::open();
    let index = layout.index()?;
    for word in &words {
        let image = index.find(word)?;
        let names = index.images().into_iter();
        let names = names.filter(|other| other.digest == image.digest);
        call.line(&line(&layout, &image, names)?)?;
    }
    Ok(())
}

fn line(layout: &Layout, image: &Image, names: impl Iterator<Item = Image>) -> Result<Line> {
    let manifest = layout.manifest(image)?;
    let (_, configuration) = layout.config(&manifest)?;
    let sizes = manifest.layers.iter().map(|layer| layer.size);
    let name = |image: Image| {
        Some(Name {
            reference: image.reference?,
            index: image.source,
        })
    };
    Ok(Line {
        id: image.id.clone(),
        names: names.filter_map(name).collect(),
        digest: image.digest.clone(),
        size: sizes.fold(0, u64::saturating_add),
        layers: manifest
            .layers
            .into_iter()
            .map(|layer| layer.digest)
            .collect(),
        configuration,
    })
}
