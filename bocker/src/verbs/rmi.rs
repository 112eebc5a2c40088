//! `rmi IMAGE...`.

use bocker_pipe::Result;

use super::outcome::{Outcome, each};
use crate::image;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Remove images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let worst = each(&args.images, |name| remove(session, name))?;
    Ok(worst.exit_code())
}

/// Removes one image, or one of its names, and says so in the original's words.
pub(crate) fn remove(session: &Session, name: &str) -> Result<Outcome> {
    if image::find(name)?.is_none() {
        return Err(image::missing(name));
    }
    let stage = session.tool(Piece::Snap, "rmi")?.arg("--").arg(name);
    let pipeline = Pipeline::new([stage])
        .discarded()
        .said(format!("Removed: {name}"));
    Ok(Outcome::of_status(session.run(&pipeline)?))
}
