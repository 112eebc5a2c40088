//! `start`: a container that has ended or never began, with all that was asked for it made again.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result, lock};

use super::outcome::{Outcome, each};
use super::run::Way;
use super::{cleanup, stop};
use crate::container;
use crate::pipeline::Pipeline;
use crate::session::{Session, say};
use crate::tools::Piece;

/// Start containers that have ended
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
    /// Stay with it to its end, and give its exit status
    #[arg(short, long)]
    attach: bool,
    /// Hand stdin to it; goes with -a
    #[arg(short, long, requires = "attach")]
    interactive: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    if args.attach {
        return match args.names.as_slice() {
            [name] => attach(session, name, args.interactive),
            _ => Err(Error::new(
                Kind::Usage,
                "with -a one container is started, and several are named",
            )),
        };
    }
    match each(&args.names, |name| start(session, name))? {
        Outcome::Done => Ok(0),
        _ => Ok(EXIT_FAILED),
    }
}

fn start(session: &Session, name: &str) -> Result<Outcome> {
    let (id, _) = container::find(name)?;
    // Running already is what was asked for, as in docker.
    if lock::is_alive(&id) {
        say(name)?;
        return Ok(Outcome::Done);
    }
    anew(session, name)
}

/// The same for one that has ended a moment ago.
pub(crate) fn anew(session: &Session, name: &str) -> Result<Outcome> {
    let pipeline = again(session, name, None)?.discarded();
    Ok(Outcome::of_status(
        session.run(&pipeline.said(name.to_owned()))?,
    ))
}

fn attach(session: &Session, name: &str, interactive: bool) -> Result<u8> {
    let (id, _) = container::find(name)?;
    if lock::is_alive(&id) {
        let what = format!("Container '{name}' is running");
        return Err(Error::new(Kind::InUse, what));
    }
    let pipeline = again(session, name, Some(interactive))?;
    session.run(&pipeline)
}

/// The pipeline that makes everything of the container again, detached unless stdin is said to be its or not.
fn again(session: &Session, name: &str, attached: Option<bool>) -> Result<Pipeline> {
    let (id, document) = container::find(name)?;
    stop::until_tidied(&id)?;
    // Of one that was only created, or whose cleanup was killed, there is something left.
    session.run(&cleanup::of(session, &id, false)?)?;
    let stages = vec![
        session.stage(Piece::Snap, "mount")?.arg(id.as_str()),
        session.stage(Piece::Net, "create")?,
        session.stage(Piece::Cg, "create")?,
    ];
    let way = Way {
        detach: attached.is_none(),
        interactive: attached.unwrap_or(false),
        rm: document.is_removed_at_its_end(),
    };
    way.pipeline(session, stages, session.stage(Piece::Spawn, "run")?, &[])
}
