//! From a reference to one platform's manifest and configuration, through indexes, everything checked on the way.

use bocker_pipe::layout::{
    CONFIG_MAX, Config, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Digest, ImageIndex, Layout,
    MANIFEST_MAX, Manifest, OCI_INDEX, OCI_MANIFEST, Platform,
};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::{Error, Kind, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::platform;
use crate::registry::{Fetched, Registry};

/// How deep indexes may be nested.
pub(crate) const DEPTH_MAX: u32 = 4;
/// What the format of before 2015 is called.
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// What a configuration of a container image is called; those after the first two by old versions of docker.
const CONFIGS: [&str; 6] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];
/// What a layer is called begins with one of these; the rest says how it is compressed.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A layer and where else it can be had.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Layer {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    /// Of a layer that its maker does not let registries pass on, addresses where it is.
    #[serde(default)]
    pub(crate) urls: Option<Vec<String>>,
}

/// The layers of a manifest.
#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Option<Vec<Layer>>,
}

/// One platform's image, known but not stored.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The index that the reference led to, raw, when it led to one.
    pub(crate) index: Option<(Descriptor, Vec<u8>)>,
    /// The manifest.
    pub(crate) manifest: (Descriptor, Vec<u8>),
    /// The configuration.
    pub(crate) config: (Descriptor, Vec<u8>),
    /// The layers, lowest first.
    pub(crate) layers: Vec<Layer>,
    /// What the image runs on, as the index says, or the configuration where there is no index.
    pub(crate) platform: Platform,
    /// The `config` object of the configuration, verbatim.
    pub(crate) settings: Map<String, Value>,
    /// Whether the image runs on what was asked for.
    pub(crate) fits: bool,
}

impl Resolved {
    /// The digest of the manifest, which is the image's.
    pub(crate) fn digest(&self) -> &Digest {
        &self.manifest.0.digest
    }
}

/// The members by which an index and a manifest are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Value>,
    #[serde(default)]
    config: Option<Value>,
    #[serde(default)]
    layers: Option<Value>,
}

/// Follows a reference. What the layout has already is not asked for again, except what a tag points at.
pub(crate) async fn resolve(
    registry: &Registry,
    layout: &Layout,
    reference: &Reference,
    wanted: &Platform,
) -> Result<Resolved> {
    let mut fetched = match known(registry, layout, reference).await? {
        Some(known) => known,
        None => fetch(registry, layout, reference.version(), None).await?,
    };
    let mut top = None;
    let mut promised = None;
    let mut depth = 0;
    let (media_type, manifest) = loop {
        let media_type = media_type(registry, &fetched)?;
        if !matches!(media_type.as_str(), OCI_INDEX | DOCKER_INDEX) {
            break (
                media_type,
                json::<Manifest>(registry, &fetched.bytes, "a manifest")?,
            );
        }
        let index: ImageIndex = json(registry, &fetched.bytes, "an index")?;
        let child = platform::choose(wanted, &index.manifests)
            .ok_or_else(|| unfit(reference, wanted, &platform::offers(&index.manifests)))?;
        depth += 1;
        if depth > DEPTH_MAX {
            return Err(registry.says(&format!("nests indexes more than {DEPTH_MAX} deep")));
        }
        promised.clone_from(&child.platform);
        let next = fetch(
            registry,
            layout,
            &Version::Digest(child.digest.clone()),
            Some(child),
        )
        .await?;
        let descriptor = descriptor(&media_type, &fetched);
        top.get_or_insert((descriptor, fetched.bytes));
        fetched = next;
    };
    check(registry, reference, &manifest)?;
    let Layers { layers } = json(registry, &fetched.bytes, "a manifest")?;
    let bytes = match layout.has(&manifest.config) {
        true => layout.read_blob(&manifest.config.digest, CONFIG_MAX)?,
        false => {
            registry
                .small_blob(&manifest.config.digest, CONFIG_MAX)
                .await?
        }
    };
    if bytes.len() as u64 != manifest.config.size {
        return Err(registry.says("sent a configuration of another size than the manifest says"));
    }
    let config: Config = json(registry, &bytes, "an image configuration")?;
    let platform = promised.unwrap_or_else(|| config.platform());
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(registry.says(&format!(
            "sent an image of {} layers whose configuration knows {}",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        )));
    }
    let settings = match config.config {
        Value::Object(settings) => settings,
        Value::Null => Map::new(),
        _ => return Err(registry.says("sent an image configuration whose settings are no object")),
    };
    Ok(Resolved {
        index: top,
        manifest: (descriptor(&media_type, &fetched), fetched.bytes),
        config: (manifest.config, bytes),
        layers: layers.unwrap_or_default(),
        fits: platform::rank(wanted, &platform).is_some(),
        platform,
        settings,
    })
}

/// What is in the layout under this very name, if it is still that: then the registry has to send nothing. A digest needs no
/// asking, and a name that is not there yet is asked for at once.
async fn known(
    registry: &Registry,
    layout: &Layout,
    reference: &Reference,
) -> Result<Option<Fetched>> {
    let name = reference.to_string();
    let images = layout.images()?;
    let image = images
        .iter()
        .find(|image| image.reference.as_deref() == Some(&name));
    let Some(image) = image else {
        return Ok(None);
    };
    let digest = match reference.version() {
        Version::Digest(digest) => Some(digest.clone()),
        tag => registry.look(tag).await?,
    };
    let ours = [Some(&image.digest), image.source.as_ref()];
    let Some(digest) = digest.filter(|digest| ours.contains(&Some(digest))) else {
        return Ok(None);
    };
    match layout.read_blob(&digest, MANIFEST_MAX) {
        Ok(bytes) => Ok(Some(Fetched {
            bytes,
            digest,
            content_type: String::new(),
        })),
        // Removed or damaged by somebody: then it comes from the registry once more.
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A manifest or index from the layout if it is there, else from the registry. One that an index led to must have the size that
/// the index says.
async fn fetch(
    registry: &Registry,
    layout: &Layout,
    version: &Version,
    expected: Option<&Descriptor>,
) -> Result<Fetched> {
    if let Some(descriptor) = expected.filter(|descriptor| layout.has(descriptor)) {
        let bytes = layout.read_blob(&descriptor.digest, MANIFEST_MAX)?;
        return Ok(Fetched {
            bytes,
            digest: descriptor.digest.clone(),
            content_type: descriptor.media_type.clone(),
        });
    }
    let fetched = registry.manifest(version).await?;
    match expected {
        Some(descriptor) if descriptor.size != fetched.bytes.len() as u64 => {
            Err(registry.says(&format!(
                "sent the manifest {} in another size than the index says",
                descriptor.digest
            )))
        }
        _ => Ok(fetched),
    }
}

fn descriptor(media_type: &str, fetched: &Fetched) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: fetched.digest.clone(),
        size: fetched.bytes.len() as u64,
        annotations: Default::default(),
        platform: None,
    }
}

/// What the bytes are. Header, `mediaType` and members must agree: one document that is read as an index here and as a manifest
/// there hides an image from whoever looks (CVE-2021-41190).
pub(crate) fn media_type(registry: &Registry, fetched: &Fetched) -> Result<String> {
    let header = fetched.content_type.as_str();
    let shape: Shape = json(registry, &fetched.bytes, "a manifest")?;
    if SCHEMA_1.contains(&header) || shape.schema_version == 1 {
        return Err(Error::new(
            Kind::Unsupported,
            "the image is of the old schema 1, which has no verifiable layers",
        )
        .hint("push it again with a program of after 2016"));
    }
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.config.is_some() || shape.layers.is_some();
    let known =
        |name: &&str| [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].contains(name);
    let inside = shape.media_type.as_deref().filter(|name| !name.is_empty());
    let ambiguous = || registry.says("sent a manifest that contradicts itself about what it is");
    if is_index && is_manifest
        || inside
            .zip(Some(header).filter(known))
            .is_some_and(|(inside, header)| inside != header)
    {
        return Err(ambiguous());
    }
    let by_shape = match (is_index, is_manifest) {
        (true, false) => OCI_INDEX,
        (false, true) => OCI_MANIFEST,
        _ => return Err(registry.says("sent something that is neither a manifest nor an index")),
    };
    let named = inside.or(Some(header).filter(known)).unwrap_or(by_shape);
    if !known(&named) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("manifests of the type '{named}' are not supported"),
        ));
    }
    match matches!(named, OCI_INDEX | DOCKER_INDEX) == is_index {
        true => Ok(named.to_owned()),
        false => Err(ambiguous()),
    }
}

/// Whether a manifest's configuration is that of a container image.
pub(crate) fn is_image(manifest: &Manifest) -> bool {
    CONFIGS.contains(&manifest.config.media_type.as_str())
}

/// Fails with [`Kind::Unsupported`] when a manifest is not that of a container image.
fn check(registry: &Registry, reference: &Reference, manifest: &Manifest) -> Result<()> {
    let layer = |layer: &Descriptor| {
        LAYERS
            .iter()
            .any(|known| layer.media_type.starts_with(known))
    };
    let strange = match manifest.layers.iter().find(|one| !layer(one)) {
        _ if !is_image(manifest) => Some(manifest.config.media_type.as_str()),
        Some(layer) => Some(layer.media_type.as_str()),
        None => None,
    };
    if let Some(strange) = strange {
        let name = reference.familiar();
        return Err(Error::new(
            Kind::Unsupported,
            format!("'{name}' is not a container image: it consists of '{strange}'"),
        ));
    }
    if manifest
        .layers
        .iter()
        .map(|layer| layer.size)
        .try_fold(0_u64, u64::checked_add)
        .is_none()
    {
        return Err(registry.says("sent a manifest of absurd sizes"));
    }
    Ok(())
}

fn unfit(reference: &Reference, wanted: &Platform, offered: &str) -> Error {
    let (name, wanted) = (reference.familiar(), platform::show(wanted));
    Error::new(
        Kind::NotFound,
        format!("the image '{name}' is not made for {wanted}; it is for {offered}"),
    )
    .hint("choose one with --platform")
}

/// An image of a single platform that is not the one asked for by name.
pub(crate) fn another(reference: &Reference, wanted: &Platform, found: &Platform) -> Error {
    unfit(reference, wanted, &platform::show(found))
}

/// Reads what a registry has sent.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    registry: &Registry,
    bytes: &[u8],
    what: &str,
) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| registry.says(&format!("sent {what} that cannot be read: {error}")))
}
