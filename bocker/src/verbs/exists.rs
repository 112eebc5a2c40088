//! `container exists`, `image exists`: an answer by the exit status alone.

use bocker_pipe::{Kind, Result, containers};

use super::inspect::EXIT_MISSING;
use crate::image;

/// Exit with 0 if it exists, and with 1 if not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id or name
    name: String,
}

pub(crate) fn container(args: &Args) -> Result<u8> {
    match containers::resolve(&args.name) {
        Ok(_) => Ok(0),
        Err(error) if error.kind() == &Kind::NotFound => Ok(EXIT_MISSING),
        Err(error) => Err(error),
    }
}

pub(crate) fn image(args: &Args) -> Result<u8> {
    Ok(match image::find(&args.name)? {
        Some(_) => 0,
        None => EXIT_MISSING,
    })
}
