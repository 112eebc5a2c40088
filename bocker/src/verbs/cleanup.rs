//! `cleanup`: takes down what a container that has ended leaves, with the document from stdin, or by name.
//! bocker-spawn's supervisor runs it at the end of a container that nobody waits for.

use std::io;

use bocker_pipe::{Document, Result};

use crate::container;
use crate::pipeline::Pipeline;
use crate::session::{Session, say};
use crate::tools::Piece;

/// Take down what a container that has ended left
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Take down what a container that has ended left: its cgroups, network and mounts.\n\
Without a name, the container is that of the document on stdin."
)]
pub(crate) struct Args {
    /// Id or name
    name: Option<String>,
    /// Remove the container as well
    #[arg(long)]
    rm: bool,
    /// End 'run -d': print the id of a container that runs, remove one that could not be started
    #[arg(long, conflicts_with = "name")]
    unless_running: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    if let Some(name) = &args.name {
        let (id, _) = container::find(name)?;
        let mut stages = teardown(session, args.rm)?;
        if let Some(first) = stages.stages.first_mut() {
            first.args.push(id.as_str().into());
        }
        return session.run(&stages);
    }
    if !args.unless_running {
        return session.run(&teardown(session, args.rm)?);
    }
    let document = Document::read(io::stdin().lock())?;
    if document.error().is_none() {
        return say(document.id()?.as_str()).map(|()| 0);
    }
    // What could not be started is not kept: nothing came of it, and nobody knows its id.
    let mut pipeline = teardown(session, true)?;
    pipeline.document = Some(document.tree().to_string());
    session.run(&pipeline)
}

/// The end of every pipeline: cgroups, network, root, in the reverse of the order in which they were made.
/// The exit status is the container's.
pub(crate) fn teardown(session: &Session, remove: bool) -> Result<Pipeline> {
    let last = if remove { "delete" } else { "unmount" };
    Ok(Pipeline::new([
        session.stage(Piece::Cg, "delete")?,
        session.stage(Piece::Net, "delete")?,
        session.stage(Piece::Snap, last)?.arg("--status"),
    ])
    .discarded())
}
