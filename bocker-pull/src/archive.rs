//! What archives of images hold: the files of an OCI image layout (image-spec image-layout.md), and beside them or instead of
//! them the `manifest.json` of `docker save` (moby image/spec/v1.2.md).

use bocker_pipe::layout::{
    Config, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST,
};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) const LAYOUT_FILE: &str = "oci-layout";
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const INDEX_FILE: &str = "index.json";
pub(crate) const BLOBS: &str = "blobs/sha256";
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// What docker before 1.10 wrote instead of [`MANIFEST_FILE`].
pub(crate) const REPOSITORIES_FILE: &str = "repositories";
/// The annotation of an index's entry by which containerd and docker know the whole name.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The one of the specification: the whole name for podman and skopeo, its tag alone for docker.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image in [`MANIFEST_FILE`]. The paths are those of files of the archive.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) layers: Option<Vec<String>>,
}

/// The names of an entry of the index.
pub(crate) fn name_of(entry: &Descriptor) -> Option<Reference> {
    let names = [CONTAINERD_NAME, REF_NAME].map(|key| entry.annotations.get(key));
    let mut names = names.into_iter().flatten();
    names.find_map(|name| Reference::parse(name).ok().filter(has_tag))
}

pub(crate) fn has_tag(name: &Reference) -> bool {
    matches!(name.version(), Version::Tag(_))
}

/// Whether the media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Reads a manifest to which a descriptor has led. One that is an index too, or calls itself something else than the
/// descriptor does, hides something from whoever looks (CVE-2021-41190).
pub(crate) fn manifest(entry: &Descriptor, bytes: &[u8]) -> Result<Manifest> {
    let invalid = |why: String| {
        Error::new(
            Kind::Invalid,
            format!("the manifest {} in the archive {why}", entry.digest),
        )
    };
    let fields: Value =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("is not JSON: {error}")))?;
    let own = fields.get("mediaType").and_then(Value::as_str);
    let known = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&&*entry.media_type);
    if fields.get("manifests").is_some() || own.is_some_and(|own| own != entry.media_type) || !known
    {
        return Err(invalid(
            "contradicts itself about what it is, or is not an image's".into(),
        ));
    }
    serde_json::from_value(fields).map_err(|error| invalid(format!("cannot be read: {error}")))
}

/// Reads a configuration that knows as many layers as there are.
pub(crate) fn config(bytes: &[u8], layers: usize) -> Result<Config> {
    let invalid = |why: String| {
        let what = format!("an image configuration in the archive {why}");
        Error::new(Kind::Invalid, what)
    };
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("cannot be read: {error}")))?;
    let known = config.rootfs.diff_ids.len();
    if known != layers {
        return Err(invalid(format!("knows {known} layers of {layers}")));
    }
    if !(config.config.is_object() || config.config.is_null()) {
        return Err(invalid("has settings that are no object".into()));
    }
    Ok(config)
}
