//! `list`, `images` and `info`: what is there, as JSON Lines.

use bocker_pipe::{Call, Id, Result, containers, paths};
use serde::Serialize;

use crate::container::{self, Folder, Snap};

/// One container, as `list` prints it.
#[derive(Serialize)]
struct Container {
    id: Id,
    names: Vec<String>,
    #[serde(flatten)]
    snap: Option<Snap>,
    mounted: bool,
}

/// `list`: the containers that have a root.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    for id in containers::list()? {
        let folder = Folder::of(&id);
        call.line(&Container {
            names: container::names_of(&id)?,
            snap: folder.snap().ok(),
            mounted: folder.is_mounted(),
            id,
        })?;
    }
    let _ = paths::root();
    Ok(())
}
