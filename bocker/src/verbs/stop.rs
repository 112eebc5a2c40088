//! `stop`: the stop signal, a while to end in, then KILL; several at once.

use std::time::Duration;

use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::{Id, Kind, Result, containers};
use clap::builder::TypedValueParser;
use serde::Deserialize;
use serde_json::Value;

use crate::pipeline::{Pipeline, Stage};
use crate::session::{Session, not_understood};
use crate::tools::Piece;
use crate::verbs::chosen::Chosen;

/// How long the cleaning up after a container may take. What is not done by then goes on.
const TIDIED: Duration = Duration::from_secs(10);

/// Stop running containers
#[derive(Debug, clap::Args)]
#[command(mut_arg("all", |arg| arg.short('a')))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    how: How,
    /// Pass over what does not exist
    #[arg(short, long)]
    ignore: bool,
}

/// How containers are made to end.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    /// What asks them to end (default: what each was made with, its image names, or TERM)
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to wait before killing, -1 for ever (default: what each was made with, or 10)
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", value_parser = seconds(), allow_negative_numbers = true)]
    time: Option<i64>,
}

/// A number of seconds to end in, -1 being for ever.
pub(crate) fn seconds() -> impl TypedValueParser<Value = i64> {
    clap::value_parser!(i64).range(-1..)
}

impl How {
    /// KILL, at once; with a time the same as for those that are stopped.
    pub(crate) fn forced(time: Option<i64>) -> How {
        How {
            signal: time.is_none().then(|| "KILL".into()),
            time,
        }
    }

    /// The pipeline that ends containers, and prints the name of each that has ended and is cleaned up. Those that stand still
    /// are let go on for it.
    pub(crate) fn pipeline(&self, session: &Session, names: &[String]) -> Result<Pipeline> {
        let ids: Vec<Id> = names
            .iter()
            .filter_map(|name| containers::resolve(name).ok())
            .collect();
        let thaw = thaw(session, &ids)?;
        Ok(in_turn(thaw, Pipeline::new([self.stage(session, names)?])))
    }

    /// The same for one of which nobody can say whether it stands still, as its document cannot be read.
    pub(crate) fn pipeline_of_unread(&self, session: &Session, id: &Id) -> Result<Pipeline> {
        let thaw = session.tool(Piece::Cg, "thaw")?.arg(id.as_str());
        Ok(in_turn(
            vec![thaw],
            Pipeline::new([self.stage(session, &[id.to_string()])?]),
        ))
    }

    fn stage(&self, session: &Session, names: &[String]) -> Result<Stage> {
        Ok(session
            .stage(Piece::Spawn, "stop")?
            .option("--signal", self.signal.as_ref())
            .option("--time", self.time.map(|time| time.to_string()))
            .args(names))
    }
}

/// These first, then the last.
fn in_turn(stages: Vec<Stage>, last: Pipeline) -> Pipeline {
    stages.into_iter().rev().fold(last, |next, stage| {
        Pipeline::new([stage]).discarded().then(next)
    })
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let mut names = args.chosen.names(session, |one| !one.is_over())?;
    if args.ignore {
        names.retain(|name| !is_missing(name));
    }
    match names.is_empty() {
        true => Ok(0),
        false => session.run(&args.how.pipeline(session, &names)?),
    }
}

/// Whether there is no container of that name.
pub(crate) fn is_missing(name: &str) -> bool {
    matches!(containers::resolve(name), Err(error) if error.kind() == &Kind::NotFound)
}

/// The pipeline that sends a signal to a container's process 1.
pub(crate) fn signal(session: &Session, id: &Id, name: &str) -> Result<Pipeline> {
    let stage = session.stage(Piece::Spawn, "kill")?;
    Ok(Pipeline::new([stage
        .arg("--signal")
        .arg(name)
        .arg(id.as_str())]))
}

/// The stages that let those go on that stand still.
pub(crate) fn thaw(session: &Session, ids: &[Id]) -> Result<Vec<Stage>> {
    paused(session, ids)?
        .iter()
        .map(|id| Ok(session.tool(Piece::Cg, "thaw")?.arg(id.as_str())))
        .collect()
}

/// Which of them stand still: bocker-spawn asks the kernel.
pub(crate) fn paused(session: &Session, ids: &[Id]) -> Result<Vec<Id>> {
    #[derive(Deserialize)]
    struct State {
        id: Id,
        status: String,
    }
    let alive: Vec<&str> = ids
        .iter()
        .filter(|id| lock::is_alive(id))
        .map(Id::as_str)
        .collect();
    if alive.is_empty() {
        return Ok(Vec::new());
    }
    let stage = session.tool(Piece::Spawn, "state")?.args(alive);
    let lines: Vec<Value> = session.read(&stage)?;
    let mut paused = Vec::new();
    for line in lines {
        let state = State::deserialize(&line).map_err(|error| not_understood(&stage, &error))?;
        if state.status == "paused" {
            paused.push(state.id);
        }
    }
    Ok(paused)
}

/// Waits until the supervisor of a container that has just ended has cleaned up.
pub(crate) fn until_tidied(id: &Id) -> Result<()> {
    lock::wait(id, TIDIED, |state| state != Supervisor::Tidies).map(drop)
}
