//! Images of the store, as the other verbs see them: what a document says about one, and its layers.

use bocker_pipe::layout::{Digest, Image, Layout, Platform};
use bocker_pipe::{Document, Id, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::layers::{self, Layer};

/// `bocker.image`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageMember {
    pub(crate) id: Id,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// Of the manifest.
    pub(crate) digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    /// The image's own, verbatim.
    #[serde(default)]
    pub(crate) config: Value,
}

/// What is needed of an image to make a root from it.
pub(crate) struct Unpacked {
    pub(crate) member: ImageMember,
    pub(crate) layers: Vec<Layer>,
}

/// Reads manifest and configuration.
pub(crate) fn read(layout: &Layout, image: &Image) -> Result<Unpacked> {
    let manifest = layout.manifest(image)?;
    let (config, _) = layout.config(&manifest)?;
    let layers = layers::of_image(&manifest, &config.rootfs.diff_ids)?;
    let member = ImageMember {
        id: image.id.clone(),
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        platform: Some(config.platform()),
        config: config.config,
    };
    Ok(Unpacked { member, layers })
}

/// The image that a document names, as it is in the store: found by its digest, under its name if it has that still.
pub(crate) fn of_document(layout: &Layout, document: &Document) -> Result<Option<Image>> {
    let Some(member) = document.member::<ImageMember>("image")? else {
        return Ok(None);
    };
    let images = layout.images()?;
    let same = images.iter().filter(|image| image.digest == member.digest);
    let named = same
        .clone()
        .find(|image| image.reference == member.reference);
    match named.or_else(|| same.clone().next()) {
        Some(image) => Ok(Some(image.clone())),
        None => layout.find(member.digest.as_str()).map(Some),
    }
}
