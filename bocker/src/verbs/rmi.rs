//! `rmi IMAGE...`.

use bocker_pipe::Result;
use bocker_pipe::layout::Layout;

use super::outcome::{Outcome, each};
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Remove images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    images: Vec<String>,
    /// Remove what containers use too, and all names of what is given by its id
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let worst = each(&args.images, |name| remove(session, name, args.force))?;
    Ok(worst.exit_code())
}

/// Removes one image, or one of its names, and says so in the original's words.
pub(crate) fn remove(session: &Session, name: &str, force: bool) -> Result<Outcome> {
    // What bocker-pull would say, for the exit status.
    Layout::open().index()?.removal(name, force)?;
    let rmi = session.tool(Piece::Pull, "rmi")?.flag("--force", force);
    let layers = session.tool(Piece::Snap, "gc")?.arg("--layers");
    let layers = Pipeline::new([layers.args(["--grace", "0"])]).discarded();
    let pipeline = Pipeline::new([rmi.arg("--").arg(name)])
        .discarded()
        .then(layers)
        .said(format!("Removed: {name}"));
    Ok(Outcome::of_status(session.run(&pipeline)?))
}
