//! Looks images up in the store, which bocker-pull and bocker-snap fill. It is read here and not asked of bocker-snap, since
//! a process more is a tenth of a short run.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::layout::{Image, Layout};
use bocker_pipe::{Error, Id, Kind, Result};
use serde_json::Value;

use crate::pipeline::{Pipeline, Stage};
use crate::session::Session;
use crate::tools::Piece;

/// What an image id begins with.
const PREFIX: &str = "img_";

/// The image that is meant, if the store holds it.
pub(crate) fn find(name: &str) -> Result<Option<Image>> {
    match Layout::open().find(name) {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.kind() == &Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the image says what takes the words of a command.
pub(crate) fn has_entrypoint(image: &Image) -> Result<bool> {
    let layout = Layout::open();
    let (config, _) = layout.config(&layout.manifest(image)?)?;
    let words = config.config.get("Entrypoint").and_then(Value::as_array);
    Ok(words.is_some_and(|words| !words.is_empty()))
}

/// Sees to it that the store holds the image.
pub(crate) fn pull_if_missing(session: &Session, name: &str) -> Result<()> {
    if find(name)?.is_some() {
        return Ok(());
    }
    // An id, of an image or a container, is no name to pull.
    if Id::parse(name).is_ok() {
        return Err(missing(name));
    }
    match session.run(&pull(session, name)?.discarded())? {
        0 => Ok(()),
        EXIT_FAILED => Err(missing(name).hint("and it could not be pulled")),
        status => Err(Error::new(Kind::Passed(status), "the pull has failed")),
    }
}

/// Fetches an image into the store.
pub(crate) fn pull(session: &Session, reference: &str) -> Result<Pipeline> {
    fetch(session, session.stage(Piece::Pull, "pull")?.arg(reference))
}

/// The same by a stage that is told more than the name.
pub(crate) fn fetch(session: &Session, stage: Stage) -> Result<Pipeline> {
    Ok(Pipeline::new([
        stage,
        session.stage(Piece::Snap, "import")?,
    ]))
}

/// Whether the text is an image's id.
pub(crate) fn is_id(text: &str) -> bool {
    text.starts_with(PREFIX) && Id::parse(text).is_ok()
}

/// The original's words.
pub(crate) fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("No image named '{name}' exists"))
}
