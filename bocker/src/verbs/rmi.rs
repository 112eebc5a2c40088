//! `rmi IMAGE...`.

use bocker_pipe::{Kind, Result};

use super::rm::Outcome;
use crate::image;
use crate::pipeline::Pipeline;
use crate::session::{Session, complain};
use crate::tools::Piece;

/// Remove images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let mut worst = Outcome::Removed;
    for name in &args.images {
        let outcome = remove(session, name).unwrap_or_else(|error| {
            complain(&error);
            Outcome::of(&error)
        });
        worst = worst.max(outcome);
    }
    Ok(worst.exit_code())
}

/// Removes one image, or one of its names, and says so in the original's words.
pub(crate) fn remove(session: &Session, name: &str) -> Result<Outcome> {
    if !image::exists(session, name)? {
        return Err(image::missing(name));
    }
    let stage = session.tool(Piece::Snap, "rmi")?.arg("--").arg(name);
    let pipeline = Pipeline::new([stage])
        .discarded()
        .said(format!("Removed: {name}"));
    match session.run(&pipeline)? {
        0 => Ok(Outcome::Removed),
        _ => Ok(Outcome::Failed),
    }
}

impl Outcome {
    /// What an error before the removal comes to.
    pub(crate) fn of(error: &bocker_pipe::Error) -> Outcome {
        match error.kind() {
            Kind::NotFound => Outcome::Missing,
            Kind::InUse => Outcome::InUse,
            _ => Outcome::Failed,
        }
    }
}
