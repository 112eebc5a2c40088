//! `cp`: files between a container and the host.

use std::ffi::OsString;

use bocker_pipe::Result;

use crate::session::Session;
use crate::tools::Piece;

/// Copy files from a container or into one
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "bocker cp [OPTIONS] CONTAINER:SOURCE DESTINATION|-\n       bocker cp [OPTIONS] SOURCE|- CONTAINER:DESTINATION",
    long_about = "Copy files from a container or into one, whether it runs or not; its volumes are seen.\n\
- is a tar archive on stdin or stdout. A directory that ends with /. stands for what is in it.\n\
The copies belong to root, without set-id bits and devices, unless --archive is given."
)]
pub(crate) struct Args {
    /// Copy owners, set-id bits, attributes and devices too
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link leads to instead of the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, a path of the host, or - for an archive on stdin
    source: OsString,
    /// The same; - for an archive on stdout
    destination: OsString,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session
        .tool(Piece::Snap, "cp")?
        .flag("--archive", args.archive)
        .flag("--follow-link", args.follow_link)
        .args(["--".into(), args.source.clone(), args.destination.clone()]);
    session.become_stage(&stage)
}
