//! `import FILE|- [NAME]`: an image from the archive of a root filesystem.

use std::ffi::OsString;

use bocker_pipe::Result;

use super::commit::Provenance;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Create an image from a tar archive, compressed or not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, or - for one on stdin
    file: OsString,
    /// What to call the image: [REGISTRY/]NAME[:TAG]
    name: Option<OsString>,
    #[command(flatten)]
    provenance: Provenance,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session
        .tool(Piece::Snap, "init")?
        .option("--name", args.name.as_ref());
    let stage = args.provenance.of(stage).arg(&args.file);
    let said = session.own_stage("format").arg("{{.id}}");
    session.run(&Pipeline::new([stage, said]))
}
