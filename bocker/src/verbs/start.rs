//! `start`: a container that has ended or never began, with all that was asked for it made again.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result, lock};

use super::chosen::Chosen;
use super::outcome::{Outcome, each};
use super::run::{Leaving, Way, refuse_half_a_terminal};
use super::{attach, cleanup, stop};
use crate::container;
use crate::pipeline::Pipeline;
use crate::session::{Session, say};
use crate::tools::Piece;

/// Start containers that have ended
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Stay with it to its end, and give its exit status
    #[arg(short, long)]
    attach: bool,
    /// The same, and hand stdin to it
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    leaving: Leaving,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let by_policy = args.chosen.is_by_policy();
    let names = args.chosen.names(session, |one| {
        one.is_over() && !(by_policy && one.stays_stopped())
    })?;
    if args.attach || args.interactive {
        return match names.as_slice() {
            [name] => attach(session, name, args),
            _ => Err(Error::new(
                Kind::Usage,
                "with -a or -i one container is started, and several are named",
            )),
        };
    }
    match each(&names, |name| start(session, name))? {
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
    anew(session, name, false)
}

/// The same for one that does not run; whether it was stopped for it.
pub(crate) fn anew(session: &Session, name: &str, restarted: bool) -> Result<Outcome> {
    let pipeline = again(session, name, None, restarted)?.discarded();
    Ok(Outcome::of_status(
        session.run(&pipeline.said(name.to_owned()))?,
    ))
}

fn attach(session: &Session, name: &str, args: &Args) -> Result<u8> {
    let (id, _) = container::find(name)?;
    if lock::is_alive(&id) {
        return attach::to(session, &id, args.interactive, &args.leaving);
    }
    let pipeline = again(session, name, Some(args), false)?;
    session.run(&pipeline)
}

/// The pipeline that makes everything of the container again, detached unless somebody stays with it.
fn again(
    session: &Session,
    name: &str,
    attached: Option<&Args>,
    restarted: bool,
) -> Result<Pipeline> {
    let (id, document) = container::find(name)?;
    let tty = document.get("/process/terminal")?.unwrap_or(false);
    let interactive = attached.is_some_and(|args| args.interactive);
    refuse_half_a_terminal(interactive, tty)?;
    stop::until_tidied(&id)?;
    // Of one that was only created, or whose cleanup was killed, there is something left.
    cleanup::end_by(session, &id, name, &cleanup::of(session, &id, false)?)?;
    let stages = vec![
        session.stage(Piece::Snap, "mount")?.arg(id.as_str()),
        session.stage(Piece::Net, "create")?,
        session.stage(Piece::Cg, "create")?,
    ];
    let way = Way {
        detach: attached.is_none(),
        interactive,
        tty,
        attach: &[],
        leaving: &attached.map_or_else(Leaving::default, |args| args.leaving.clone()),
        rm: document.is_removed_at_its_end(),
        restarts: container::restart_policy(&document) != "no",
    };
    let spawn = session.stage(Piece::Spawn, "run")?;
    way.pipeline(session, stages, spawn.flag("--restarted", restarted), &[])
}
