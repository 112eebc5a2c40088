//! `system`: what concerns the machine rather than one container.

use bocker_pipe::Result;

use crate::session::Session;

/// Look after what all containers share
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Print what the tools found on this machine, as JSON
    Info,
}

pub(crate) fn run(_: &Session, _: &Verb) -> Result<u8> {
    Ok(0)
}
