//! `commit PS IMAGE`: what a container has become, as an image. The original wanted the image to exist; here it may.

use bocker_pipe::Result;

use crate::container;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// The original's words: an image that is there has its content replaced at once, and keeps its id and names.
const SAID: &str = "{{if .replaced}}Removed: {{.id}}\\n{{end}}Created: {{.id}}";

/// Make an image of a container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container: id or name
    container: String,
    /// The image to replace, by id or name, or the name of a new one
    image: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.container)?;
    session.run(&Pipeline::new([
        session
            .tool(Piece::Snap, "commit")?
            .arg(id.as_str())
            .arg(&args.image),
        session.own_stage("format").arg(SAID),
    ]))
}
