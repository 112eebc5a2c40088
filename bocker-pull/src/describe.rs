//! The verb `resolve`: what a reference means at its registry. Nothing is fetched but manifests and, of an image without an index, the
//! configuration, which says what it runs on; and nothing is kept.

use bocker_pipe::layout::{CONFIG_MAX, Config, Descriptor, Digest, ImageIndex, Manifest, Platform};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result};
use serde::Serialize;
use tokio::runtime;

use crate::archive::is_index;
use crate::download::patiently;
use crate::endpoint::Options;
use crate::platform;
use crate::progress::{Progress, Style};
use crate::registry::Registry;
use crate::resolve::{DEPTH_MAX, is_image, json, media_type};

/// What a reference means.
#[derive(Serialize)]
struct Meaning {
    reference: String,
    digest: Digest,
    media_type: String,
    size: u64,
    /// The digest of the manifest for the platform that was asked for, if there is one.
    manifest: Option<Digest>,
    /// What an index offers, or the one image where there is none.
    platforms: Vec<Offer>,
}

/// An image for one platform.
#[derive(Serialize)]
struct Offer {
    platform: Option<String>,
    digest: Digest,
    size: u64,
}

/// `resolve REF`.
pub(crate) fn resolve(call: &mut Call) -> Result<()> {
    let (mut name, mut wanted) = (None, None);
    let (mut options, mut mirrors) = (Options::default(), Vec::new());
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--platform" => wanted = Some(platform::parse(&call.text()?)?),
                "--mirror" => mirrors.push(call.text()?),
                other if options.take(call, other)? => {}
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if name.is_none() => name = Some(word.to_string_lossy().into_owned()),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no image was named"))?;
    let reference = Reference::parse(&name)?;
    let registry = Registry::new(&reference, &mirrors, options)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "prepare for network traffic".into())?;
    let wanted = wanted.unwrap_or_else(platform::host);
    let progress = Progress::waiting(Style::Plain);
    let meaning = patiently(
        &runtime,
        &progress,
        &registry.notices,
        ask(&registry, &reference, &wanted),
    );
    progress.say_all(&registry.notices);
    call.line(&meaning??)
}

async fn ask(registry: &Registry, reference: &Reference, wanted: &Platform) -> Result<Meaning> {
    let top = registry.manifest(reference.version()).await?;
    let top_type = media_type(registry, &top)?;
    let mut meaning = Meaning {
        reference: reference.to_string(),
        manifest: (!is_index(&top_type)).then(|| top.digest.clone()),
        digest: top.digest,
        size: top.bytes.len() as u64,
        media_type: top_type,
        platforms: Vec::new(),
    };
    if !is_index(&meaning.media_type) {
        let manifest: Manifest = json(registry, &top.bytes, "a manifest")?;
        if is_image(&manifest) {
            let config = registry.small_blob(&manifest.config.digest, CONFIG_MAX);
            let config: Config = json(registry, &config.await?, "an image configuration")?;
            meaning.platforms.push(Offer {
                platform: Some(platform::show(&config.platform())),
                digest: meaning.digest.clone(),
                size: meaning.size,
            });
        }
        return Ok(meaning);
    }
    let mut images: Vec<Descriptor> = Vec::new();
    let mut waiting = vec![(top.bytes, 1)];
    while let Some((bytes, depth)) = waiting.pop() {
        if depth > DEPTH_MAX {
            return Err(registry.says(&format!("nests indexes more than {DEPTH_MAX} deep")));
        }
        let index: ImageIndex = json(registry, &bytes, "an index")?;
        for child in index.manifests {
            if is_index(&child.media_type) {
                let version = Version::Digest(child.digest);
                waiting.push((registry.manifest(&version).await?.bytes, depth + 1));
            } else if !platform::is_attestation(&child) {
                images.push(child);
            }
        }
    }
    meaning.manifest = platform::choose(wanted, &images).map(|chosen| chosen.digest.clone());
    meaning.platforms = images
        .into_iter()
        .map(|image| Offer {
            platform: image.platform.as_ref().map(platform::show),
            digest: image.digest,
            size: image.size,
        })
        .collect();
    Ok(meaning)
}
