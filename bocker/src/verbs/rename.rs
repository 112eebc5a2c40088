//! `rename`: another name for a container, running or not.

use bocker_pipe::Result;

use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Give a container another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id or name
    container: String,
    /// The name that it gets
    name: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let rename = session
        .stage(Piece::Snap, "rename")?
        .args(["--", &args.container, &args.name]);
    let tell = session.tool(Piece::Net, "rename")?.args(["--", &args.name]);
    let told = Pipeline::new([tell]).discarded();
    session.run(&Pipeline::new([rename]).discarded().then(told))
}
