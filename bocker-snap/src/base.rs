//! What a new image is made on top of: the lower layers of another with its configuration, or nothing.

use bocker_pipe::layout::{
    Descriptor, Digest, Layout, MANIFEST_MAX, Manifest, OCI_LAYER_GZIP, OCI_MANIFEST, Platform,
    chain_ids,
};
use bocker_pipe::{Document, Error, Kind, Result};
use serde_json::{Value, json};

use crate::container::Snap;
use crate::image::ImageMember;
use crate::ingest::Layer;
use crate::{instruction, time};

/// Docker's name for a layer of the same format.
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What is said of how an image came about.
#[derive(Default)]
pub(crate) struct Provenance {
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) created_by: String,
    pub(crate) author: Option<String>,
    pub(crate) comment: Option<String>,
    /// Instructions that alter the configuration.
    pub(crate) changes: Vec<String>,
}

/// What a new layer comes to lie upon.
pub(crate) struct Base {
    /// The image's configuration, whole.
    config: Value,
    layers: Vec<Descriptor>,
}

impl Base {
    /// Nothing: for an image that stands on no other.
    pub(crate) fn scratch() -> Base {
        Base {
            config: json!({"architecture": architecture(), "os": "linux", "config": {}}),
            layers: Vec::new(),
        }
    }

    /// The layers that a container stands on, where an image of the store still has them all at its bottom: the container's own,
    /// or one that was made from it. `None` when none has, and for a view of a directory.
    pub(crate) fn of_container(
        layout: &Layout,
        document: &Document,
        snap: &Snap,
    ) -> Result<Option<Base>> {
        if snap.rootfs.is_some() {
            return Ok(None);
        }
        let member: Option<ImageMember> = document.member("image")?;
        let mut found = None;
        for image in layout.images()? {
            let Some(base) = Base::read(layout, &image.digest, snap) else {
                continue;
            };
            // Of several, the container's own image knows best how it came about.
            let own = Some(&image.id) == snap.image.as_ref();
            if own || found.is_none() {
                found = Some(base);
            }
            if own {
                break;
            }
        }
        if let (Some(base), Some(member)) = (&mut found, member) {
            base.config["config"] = member.config;
        }
        Ok(found)
    }

    /// The lower part of an image, up to the container's layers. `None` when it has others, or its blobs are not here.
    fn read(layout: &Layout, digest: &Digest, snap: &Snap) -> Option<Base> {
        let bytes = layout.read_blob(digest, MANIFEST_MAX).ok()?;
        let mut manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let (config, mut whole) = layout.config(&manifest).ok()?;
        let count = snap.layers.len();
        let chain = chain_ids(&config.rootfs.diff_ids);
        if chain.get(..count) != Some(&snap.layers) || manifest.layers.len() != chain.len() {
            return None;
        }
        if chain.len() > count {
            manifest.layers.truncate(count);
            whole["rootfs"]["diff_ids"] = json!(config.rootfs.diff_ids[..count]);
            if let Some(Value::Array(history)) = whole.get_mut("history") {
                let mut layers = 0;
                history.retain(|entry| {
                    layers += usize::from(is_layer(entry));
                    layers <= count
                });
            }
        }
        let here = manifest.layers.iter().all(|layer| layout.has(layer));
        here.then_some(Base {
            config: whole,
            layers: manifest.layers,
        })
    }

    /// No layers, but what the image said about how it is run.
    pub(crate) fn flat(document: &Document) -> Result<Base> {
        let member: Option<ImageMember> = document.member("image")?;
        let (platform, config) = match member {
            Some(member) => (member.platform, member.config),
            None => (None, json!({})),
        };
        let platform = platform.unwrap_or(Platform {
            os: "linux".into(),
            architecture: architecture().into(),
            variant: None,
        });
        let mut whole =
            json!({"architecture": platform.architecture, "os": platform.os, "config": config});
        if let Some(variant) = platform.variant {
            whole["variant"] = variant.into();
        }
        Ok(Base {
            config: whole,
            layers: Vec::new(),
        })
    }

    /// Fails as [`Base::add`] will when the instructions cannot be applied.
    pub(crate) fn check(&self, changes: &[String]) -> Result<()> {
        instruction::apply(&mut self.config["config"].clone(), changes)
    }

    /// Puts a layer on top. Answers the configuration of the image that it makes.
    pub(crate) fn add(&mut self, layer: &Layer, provenance: &Provenance) -> Result<Vec<u8>> {
        let created = time::rfc3339(provenance.created);
        let before = self.layers.len();
        let config = &mut self.config;
        if before == 0 {
            config["rootfs"] = json!({"type": "layers", "diff_ids": []});
            config["history"] = json!([]);
        }
        instruction::apply(&mut config["config"], &provenance.changes)?;
        config["created"] = json!(created);
        if let Some(author) = &provenance.author {
            config["author"] = json!(author);
        }
        if let Some(Value::Array(diff_ids)) = config.pointer_mut("/rootfs/diff_ids") {
            diff_ids.push(json!(layer.diff_id));
        }
        // A history names each layer or is of no use: one that does not is left as it is.
        if let Some(Value::Array(history)) = config.get_mut("history")
            && history.iter().filter(|entry| is_layer(entry)).count() == before
        {
            let mut entry = json!({"created": created, "created_by": provenance.created_by});
            for (key, value) in [
                ("author", &provenance.author),
                ("comment", &provenance.comment),
            ] {
                if let Some(value) = value {
                    entry[key] = json!(value);
                }
            }
            history.push(entry);
        }
        self.layers.push(layer.blob.clone());
        for layer in &mut self.layers {
            if layer.media_type == DOCKER_LAYER_GZIP {
                layer.media_type = OCI_LAYER_GZIP.into();
            }
        }
        serde_json::to_vec(config).map_err(unprintable)
    }

    /// What the topmost layer is known by, if there is one.
    pub(crate) fn chain_id(&self) -> Option<Digest> {
        let diff_ids = self.config.pointer("/rootfs/diff_ids")?;
        let diff_ids: Vec<Digest> = serde_json::from_value(diff_ids.clone()).ok()?;
        chain_ids(&diff_ids).pop()
    }

    /// The manifest of the image, whose configuration is in the store.
    pub(crate) fn manifest(
        &self,
        config: &Descriptor,
        annotations: Option<&Value>,
    ) -> Result<Vec<u8>> {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config,
            "layers": self.layers,
        });
        if let Some(annotations) = annotations {
            manifest["annotations"] = annotations.clone();
        }
        serde_json::to_vec(&manifest).map_err(unprintable)
    }

    /// What the configuration says about where the image runs.
    pub(crate) fn platform(&self) -> Option<Platform> {
        let text = |key: &str| {
            self.config
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        Some(Platform {
            os: text("os")?,
            architecture: text("architecture")?,
            variant: text("variant"),
        })
    }
}

/// Whether an entry of an image's history made a layer.
fn is_layer(entry: &Value) -> bool {
    entry.get("empty_layer") != Some(&Value::Bool(true))
}

fn unprintable(error: serde_json::Error) -> Error {
    Error::new(Kind::Invalid, format!("cannot write JSON: {error}"))
}

/// This machine's architecture in Go's words, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
