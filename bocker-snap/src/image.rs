//! Images of the store, as the other verbs see them: what a document says about one, and its layers.

use bocker_pipe::layout::{Digest, Image, Layout, Manifest, Platform};
use bocker_pipe::{Document, Id, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::layers::{self, Layer};

/// `bocker.image`. Written whole; of one that is read, any of the first three is enough to find the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageMember {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// Of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
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
    let mut unpacked = of_manifest(layout, layout.manifest(image)?, &image.digest)?;
    unpacked.member.id = Some(image.id.clone());
    unpacked.member.reference = image.reference.clone();
    Ok(unpacked)
}

/// The same of an image that has no id and no name yet.
pub(crate) fn read_manifest(layout: &Layout, digest: &Digest) -> Result<Unpacked> {
    of_manifest(layout, layout.manifest_of(digest)?, digest)
}

fn of_manifest(layout: &Layout, manifest: Manifest, digest: &Digest) -> Result<Unpacked> {
    let (config, _) = layout.config(&manifest)?;
    let layers = layers::of_image(&manifest, &config.rootfs.diff_ids)?;
    let member = ImageMember {
        id: None,
        reference: None,
        digest: Some(digest.clone()),
        platform: Some(config.platform()),
        config: config.config,
    };
    Ok(Unpacked { member, layers })
}

/// The image that a document names, as it is in the store: found by its digest, which a commit under the same id changes,
/// under its name if it has that still; without one by its id; without that by its reference, as a replacement of bocker-pull
/// may write it alone.
pub(crate) fn of_document(layout: &Layout, document: &Document) -> Result<Option<Image>> {
    let Some(member) = document.member::<ImageMember>("image")? else {
        return Ok(None);
    };
    let index = layout.index()?;
    match (&member.digest, &member.id, &member.reference) {
        (Some(digest), _, reference) => {
            let images = index.images();
            let named = images
                .into_iter()
                .find(|image| image.digest == *digest && image.reference == *reference);
            named.map_or_else(|| index.find(digest.as_str()), Ok)
        }
        (None, Some(id), _) => index.find(id.as_str()),
        (None, None, Some(reference)) => index.find(reference),
        (None, None, None) => return Ok(None),
    }
    .map(Some)
}
