//! Asks bocker-snap for images.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Document, Error, Id, Kind, Result};
use serde_json::Value;

use crate::execute;
use crate::pipeline::{Pipeline, Stage};
use crate::session::Session;
use crate::tools::Piece;

/// What an image id begins with.
const PREFIX: &str = "img_";

/// The image's own `config` (OCI image-spec), where it is in the store. Asked by planning a container of it, so that what
/// names an image is bocker-snap's to know.
pub(crate) fn config(session: &Session, name: &str) -> Result<Option<Value>> {
    let stage =
        Stage::new(session.tools.find(Piece::Snap)?).args(["create", "--dry-run", "--", name]);
    session.comment(&stage)?;
    let (stdout, _) = execute::capture_quietly(&stage)?;
    let document = Document::parse(&stdout)?;
    match document.error() {
        None => Ok(Some(
            document
                .value("/bocker/image/config")
                .cloned()
                .unwrap_or_default(),
        )),
        Some(error) if error.kind.as_deref() == Some("not-found") => Ok(None),
        Some(error) => Err(Error::new(Kind::Invalid, error.message)),
    }
}

/// The same, after pulling it when it is not there.
pub(crate) fn config_or_pull(session: &Session, name: &str) -> Result<Value> {
    if let Some(config) = config(session, name)? {
        return Ok(config);
    }
    // An id, of an image or a container, is no name to pull.
    if Id::parse(name).is_ok() {
        return Err(missing(name));
    }
    let status = session.run(&pull(session, name)?.discarded())?;
    match status {
        0 if session.dry_run => Ok(Value::Null),
        0 => config(session, name)?.ok_or_else(|| missing(name)),
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
