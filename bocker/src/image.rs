//! Asks bocker-snap for images.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Document, Error, Id, Kind, Result};

use crate::execute;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// What an image id begins with.
const PREFIX: &str = "img_";

/// What `bocker-snap images --exists` answers.
const EXISTS: u8 = 0;
const ABSENT: u8 = 1;

/// Whether the store holds the image.
pub(crate) fn exists(session: &Session, name: &str) -> Result<bool> {
    let stage = session
        .tool(Piece::Snap, "images")?
        .args(["--exists", "--", name]);
    session.comment(&stage)?;
    match execute::capture(&stage)?.1 {
        EXISTS => Ok(true),
        ABSENT => Ok(false),
        status => Err(Error::new(
            Kind::Passed(status),
            "the image store cannot be read",
        )),
    }
}

/// Whether the image says what takes the words of a command, by a container of it that is only planned.
pub(crate) fn has_entrypoint(session: &Session, name: &str) -> Result<bool> {
    let stage = session
        .tool(Piece::Snap, "create")?
        .args(["--dry-run", "--", name]);
    session.comment(&stage)?;
    let (stdout, _) = execute::capture_quietly(&stage)?;
    let document = Document::parse(&stdout)?;
    let words: Option<Vec<String>> = document.get("/bocker/image/config/Entrypoint")?;
    Ok(words.is_some_and(|words| !words.is_empty()))
}

/// Sees to it that the store holds the image.
pub(crate) fn pull_if_missing(session: &Session, name: &str) -> Result<()> {
    if exists(session, name)? {
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
    Ok(Pipeline::new([
        session.stage(Piece::Pull, "pull")?.arg(reference),
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
