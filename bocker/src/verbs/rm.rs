//! `rm`: containers, and images by their ids as the original did.

use std::time::{Duration, Instant};

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Id, Kind, Result, containers, lock};

use crate::image;
use crate::pipeline::Pipeline;
use crate::session::{Session, complain};
use crate::tools::Piece;
use crate::verbs::{rmi, stop};

/// How long a killed container may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// Remove containers, or images by id
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names of containers, ids of images
    #[arg(required = true)]
    names: Vec<String>,
    /// Kill what is running first
    #[arg(short, long)]
    force: bool,
}

/// How a removal went; the later, the worse. The exit codes are podman's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Removed,
    Missing,
    InUse,
    Failed,
}

impl Outcome {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Outcome::Removed => 0,
            Outcome::Missing => 1,
            Outcome::InUse => 2,
            Outcome::Failed => EXIT_FAILED,
        }
    }
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let mut worst = Outcome::Removed;
    for name in &args.names {
        let outcome = if image::is_id(name) {
            rmi::remove(session, name)
        } else {
            containers::resolve(name).and_then(|id| remove(session, &id, name, args.force))
        };
        let outcome = outcome.unwrap_or_else(|error| {
            complain(&error);
            Outcome::of(&error)
        });
        worst = worst.max(outcome);
    }
    Ok(worst.exit_code())
}

/// Removes one container, called `name` by the caller.
pub(crate) fn remove(session: &Session, id: &Id, name: &str, force: bool) -> Result<Outcome> {
    if lock::is_alive(id) {
        if !force {
            return Err(
                Error::new(Kind::InUse, format!("Container '{name}' is running")).hint(format!(
                    "stop it first, or remove it with 'bocker rm -f {name}'"
                )),
            );
        }
        kill(session, id)?;
    }
    let pipeline = removal(session, id, name, force)?.said(format!("Removed: {name}"));
    match session.run(&pipeline)? {
        0 => Ok(Outcome::Removed),
        _ => Ok(Outcome::Failed),
    }
}

/// The pipeline that removes everything that is left of a container.
fn removal(session: &Session, id: &Id, name: &str, force: bool) -> Result<Pipeline> {
    let stage = |piece: Piece| Ok(session.stage(piece, "delete")?.flag("--force", force));
    if containers::load(id).is_ok() {
        let first = stage(Piece::Cg)?.arg(id.as_str());
        return Ok(Pipeline::new([first, stage(Piece::Net)?, stage(Piece::Snap)?]).discarded());
    }
    // It never reached bocker-spawn, and what it had of a network and of cgroups has been taken back: a root is left.
    if !force {
        return Err(Error::new(
            Kind::InUse,
            format!("Container '{name}' has not been started"),
        )
        .hint(format!(
            "if nobody is starting it now, remove it with 'bocker rm -f {name}'"
        )));
    }
    Ok(Pipeline::new([stage(Piece::Snap)?.arg(id.as_str())]).discarded())
}

fn kill(session: &Session, id: &Id) -> Result<()> {
    let status = session.run(&stop::signal(session, id, "KILL")?)?;
    let deadline = Instant::now() + KILLED;
    if status != 0 && lock::is_alive(id) {
        return Err(Error::new(
            Kind::Passed(status),
            "the container could not be killed",
        ));
    }
    if session.dry_run || stop::wait(id, deadline) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InUse,
        format!("{id} does not end, though it was killed"),
    )
    .hint("a process of it may be stuck in the kernel: see its state in /proc"))
}
