//! `pause` and `unpause`: all processes of a container stand still, and go on.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result, lock};

use super::chosen::Chosen;
use super::kill::not_running;
use super::outcome::{Outcome, each};
use super::stop;
use crate::container;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Let all processes of containers stand still
#[derive(Debug, clap::Args)]
#[command(mut_arg("all", |arg| arg.short('a')))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
}

/// Let containers go on that stand still
#[derive(Debug, clap::Args)]
#[command(mut_arg("all", |arg| arg.short('a')))]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    chosen: Chosen,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    set(session, &args.chosen, true)
}

pub(crate) fn unpause(session: &Session, args: &UnpauseArgs) -> Result<u8> {
    set(session, &args.chosen, false)
}

fn set(session: &Session, chosen: &Chosen, stands: bool) -> Result<u8> {
    let state = if stands { "running" } else { "paused" };
    let names = chosen.names(session, |one| one.state == state)?;
    match each(&names, |name| set_one(session, name, stands))? {
        Outcome::Done => Ok(0),
        _ => Ok(EXIT_FAILED),
    }
}

fn set_one(session: &Session, name: &str, stands: bool) -> Result<Outcome> {
    let (id, _) = container::find(name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(name));
    }
    let is_paused = !stop::paused(session, std::slice::from_ref(&id))?.is_empty();
    // As in docker neither is done twice.
    let verb = match (stands, is_paused) {
        (true, false) => "freeze",
        (false, true) => "thaw",
        (true, true) => {
            let what = format!("Container '{name}' is paused already");
            return Err(Error::new(Kind::InUse, what));
        }
        (false, false) => {
            let what = format!("Container '{name}' is not paused");
            return Err(Error::new(Kind::Invalid, what));
        }
    };
    let stage = session.tool(Piece::Cg, verb)?.arg(id.as_str());
    let pipeline = Pipeline::new([stage]).said(name.to_owned());
    Ok(Outcome::of_status(session.run(&pipeline)?))
}
