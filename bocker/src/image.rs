//! Looks images up in the store, which bocker-pull and bocker-snap fill. It is read here and not asked of bocker-snap, since
//! a process more is a tenth of a short run.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::layout::{Image, Layout};
use bocker_pipe::{Error, Id, Kind, Result};
use serde_json::Value;

use crate::pipeline::{Pipeline, Stage};
use crate::session::Session;
use crate::tools::Piece;
use crate::verbs::run::Pull;

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

/// Sees to it that the store holds the image that a container is to be made of.
pub(crate) fn provide(session: &Session, name: &str, when: Pull, quiet: bool) -> Result<()> {
    // An id, of an image or a container, is no name to pull.
    let is_name = Id::parse(name).is_err();
    match (find(name)?, when) {
        (Some(_), Pull::Missing | Pull::Never) => return Ok(()),
        (Some(_), Pull::Always) if !is_name => return Ok(()),
        (None, _) if !is_name => return Err(missing(name)),
        (None, Pull::Never) => {
            return Err(missing(name).hint("with --pull never it is not looked for elsewhere"));
        }
        (_, Pull::Always) | (None, Pull::Missing) => {}
    }
    let stage = session.stage(Piece::Pull, "pull")?.flag("--quiet", quiet);
    match session.run(&fetch(session, stage.arg(name))?.discarded())? {
        0 => Ok(()),
        EXIT_FAILED => Err(missing(name).hint("and it could not be pulled")),
        status => Err(Error::new(Kind::Passed(status), "the pull has failed")),
    }
}

/// Fetches an image into the store, by a stage that says which.
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
