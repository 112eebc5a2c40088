//! `tag IMAGE NAME`.

use bocker_pipe::Result;

use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Give an image another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: id, unique beginning of it, or name
    image: String,
    /// The name to give: [REGISTRY/]NAME[:TAG]
    target: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session.tool(Piece::Pull, "tag")?;
    let stage = stage.args([&args.image, &args.target]);
    session.run(&Pipeline::new([stage]).discarded())
}
