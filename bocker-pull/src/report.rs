//! What is in the store (`list`) and what nothing leads to any more (`gc`).

use std::time::Duration;

use bocker_pipe::layout::{Digest, Image, Layout, Platform};
use bocker_pipe::{Arg, Call, Id, Result};
use serde::Serialize;

/// Seconds for which `gc` leaves what it finds alone.
const GRACE: u64 = 600;

/// One stored image under one of its names.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a Id,
    reference: Option<&'a str>,
    digest: &'a Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a Platform>,
    /// Bytes of manifest, configuration and compressed layers; absent when the manifest cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// `list`: every name of every stored image.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let layout = Layout::open();
    for image in layout.images()? {
        call.line(&Line {
            id: &image.id,
            reference: image.reference.as_deref(),
            digest: &image.digest,
            source: image.source.as_ref(),
            platform: image.platform.as_ref(),
            size: size(&layout, &image),
        })?;
    }
    Ok(())
}

fn size(layout: &Layout, image: &Image) -> Option<u64> {
    let manifest = layout.manifest(image).ok()?;
    let parts = manifest
        .layers
        .iter()
        .chain([&manifest.config])
        .map(|part| part.size);
    parts.chain([image.size]).try_fold(0_u64, u64::checked_add)
}

/// `gc`: removes files whose writer is dead and blobs that nothing leads to, and names each.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let mut grace = GRACE;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--grace" => grace = call.number()?,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let (dry_run, call) = (call.dry_run(), &*call);
    Layout::open().gc(Duration::from_secs(grace), dry_run, |garbage| {
        call.line(&garbage)
    })
}
