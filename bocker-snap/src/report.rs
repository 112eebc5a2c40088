//! `list` and `info`: what is there, as JSON Lines.

use std::path::PathBuf;

use bocker_pipe::layout::{Digest, Layout};
use bocker_pipe::{Call, Id, Result, containers, paths};
use serde::Serialize;

use crate::container::Folder;
use crate::driver::Driver;
use crate::{layers, names, overlay, pool};

/// One container, as `list` prints it.
#[derive(Serialize)]
struct Container {
    id: Id,
    names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<Driver>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<PathBuf>,
    layers: Vec<Digest>,
    mounted: bool,
}

/// `list`: the containers that have a folder.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    for id in containers::list()? {
        let folder = Folder::of(&id);
        // Half made or damaged: it is shown, so that it can be removed.
        let snap = folder.snap().ok();
        let driver = snap.as_ref().map(|snap| snap.driver);
        let (image, rootfs, layers) = match snap {
            Some(snap) => (snap.image, snap.rootfs, snap.layers),
            None => (None, None, Vec::new()),
        };
        call.line(&Container {
            names: names::names_of(&id)?,
            mounted: folder.is_mounted(),
            id,
            driver,
            image,
            rootfs,
            layers,
        })?;
    }
    Ok(())
}

/// What `info` prints.
#[derive(Serialize)]
struct Info {
    root: PathBuf,
    driver: Driver,
    /// The calls by which overlays are mounted: `fsopen`, or `mount` on older kernels.
    mounts_by: &'static str,
    images: usize,
    layers: usize,
    containers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<pool::Info>,
}

/// `info`: what is used, and how much of it there is.
pub(crate) fn info(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let pool = pool::info();
    if let Some(pool) = &pool {
        pool.warn();
    }
    call.line(&Info {
        root: paths::root(),
        driver: Driver::here(),
        mounts_by: overlay::api(),
        images: Layout::open().images()?.len(),
        layers: layers::count()?,
        containers: containers::list()?.len(),
        pool,
    })
}
