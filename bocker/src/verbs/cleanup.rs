//! `cleanup`: takes down what a container that has ended leaves, with the document from stdin, or by name.
//! bocker-spawn's supervisor runs it at the end of a container that nobody waits for.

use std::io;

use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::{Document, Error, Id, Kind, Result, containers, state};

use super::outcome::{Outcome, each};
use super::stop;
use crate::pipeline::{Pipeline, Stage};
use crate::session::{Session, say};
use crate::signals;
use crate::tools::Piece;

/// Take down what a container that has ended left
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Take down what a container that has ended left: its cgroups, network and mounts.\n\
Without a name, the container is that of the document on stdin. Of a named one that has lost its supervisor, what still\n\
lives is killed first."
)]
pub(crate) struct Args {
    /// Id or name
    name: Option<String>,
    /// Remove the container as well, with the volumes that nobody named
    #[arg(long)]
    rm: bool,
    /// End 'run -d': print the id of a container that runs, remove one that could not be started
    #[arg(long, conflicts_with = "name")]
    unless_running: bool,
    /// End 'run -t': wait until what the container has left is taken down, and give its exit status
    #[arg(long, requires = "unless_running")]
    status: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    if let Some(name) = &args.name {
        let id = containers::resolve(name)?;
        return session.run(&of(session, &id, args.rm)?);
    }
    // What the stages before have made is this one's to take down, whatever comes.
    signals::ignore()?;
    if !args.unless_running {
        return session.run(&teardown(session, args.rm)?);
    }
    let document = Document::read(io::stdin().lock())?;
    if document.error().is_none() {
        let id = document.id()?;
        match (args.status, document.exit()?) {
            (false, _) => say(id.as_str())?,
            (true, None) => return Ok(0),
            // The supervisor does it.
            (true, Some(_)) => stop::until_tidied(&id)?,
        }
        return Ok(document.status());
    }
    // What never began is not kept: bocker-snap unmount removes it, as nothing came of it and nobody knows its id.
    let mut pipeline = teardown(session, false)?;
    pipeline.document = Some(document.tree().to_string());
    session.run(&pipeline)
}

/// The end of every pipeline: cgroups, network, root, in the reverse of the order in which they were made.
/// The exit status is the container's.
pub(crate) fn teardown(session: &Session, remove: bool) -> Result<Pipeline> {
    let last = match remove {
        true => session.stage(Piece::Snap, "delete")?.arg("--volumes"),
        false => session.stage(Piece::Snap, "unmount")?,
    };
    Ok(Pipeline::new([
        session.stage(Piece::Cg, "delete")?,
        session.stage(Piece::Net, "delete")?,
        last.arg("--status"),
    ])
    .discarded())
}

/// The same for a container that nobody tears down, with its end, which nobody may have seen, before it.
pub(crate) fn of(session: &Session, id: &Id, remove: bool) -> Result<Pipeline> {
    let mut pipeline = teardown(session, remove)?;
    pipeline.stages.insert(0, reap(session, id)?);
    Ok(pipeline)
}

fn reap(session: &Session, id: &Id) -> Result<Stage> {
    Ok(session.stage(Piece::Spawn, "reap")?.arg(id.as_str()))
}

/// Sees to it that nothing lives of a container that has no supervisor.
pub(crate) fn end(session: &Session, id: &Id, name: &str) -> Result<()> {
    if lock::supervisor(id) == Supervisor::Lost {
        let reap = Pipeline::new([reap(session, id)?]);
        end_by(session, id, name, &reap.discarded())?;
    }
    Ok(())
}

/// The same by a pipeline that begins with that. Fails when something of it was killed and lives: nothing may be taken from it, and
/// no other begun in its place. Why it lives is said by who tried to end it.
pub(crate) fn end_by(session: &Session, id: &Id, name: &str, pipeline: &Pipeline) -> Result<()> {
    match try_to_end(session, id, pipeline)? {
        true => Ok(()),
        false => Err(Error::new(
            Kind::InUse,
            format!("what is left of container '{name}' has not ended"),
        )
        .hint("every command tries again to end it")),
    }
}

/// Runs the pipeline, unless it was in vain before. Whether the container has ended.
fn try_to_end(session: &Session, id: &Id, pipeline: &Pipeline) -> Result<bool> {
    if !session.unended.borrow().contains(id) {
        session.run(pipeline)?;
    }
    let lives = !session.dry_run && lock::supervisor(id) == Supervisor::Lost;
    let mut unended = session.unended.borrow_mut();
    match lives {
        true => unended.insert(id.clone()),
        false => unended.remove(id),
    };
    Ok(!lives)
}

/// What every command begins with: tears down what nobody is left to tear down, because a supervisor was killed or the machine
/// was restarted, and lets go on what stands still for a command that was killed. What fails is said by its stage, and does not
/// keep the caller from what it wants.
pub(crate) fn abandoned(session: &Session) -> Result<()> {
    let ids = containers::list()?;
    for id in ids.iter().filter(|id| lock::is_forgotten_still(id)) {
        let thaw = session.tool(Piece::Cg, "thaw")?.arg(id.as_str());
        session.run(&Pipeline::new([thaw]))?;
    }
    let ids: Vec<String> = state::abandoned(ids)?.iter().map(Id::to_string).collect();
    each(&ids, |id| {
        let id = Id::parse(id)?;
        let remove = match containers::load(&id) {
            Ok(document) => document.is_removed_at_its_end(),
            // Killed while it was set up: nobody knows its id.
            Err(error) => error.kind() == &Kind::NotFound,
        };
        try_to_end(session, &id, &of(session, &id, remove)?)?;
        Ok(Outcome::Done)
    })
    .map(drop)
}
