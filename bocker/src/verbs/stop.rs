//! `stop`: the image's stop signal, a while to end in, then KILL.

use std::thread::sleep;
use std::time::{Duration, Instant};

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::{Error, Id, Kind, Result};

use super::outcome::{Outcome, each};
use crate::container;
use crate::pipeline::Pipeline;
use crate::session::{Session, say};
use crate::signals;
use crate::tools::Piece;

const DEFAULT_SIGNAL: &str = "TERM";
const TICK: Duration = Duration::from_millis(5);
/// How long a supervisor may take to notice that its container has ended.
const NOTICED: Duration = Duration::from_secs(1);
/// How long one may take to be gone after KILL.
pub(crate) const KILLED: Duration = Duration::from_secs(10);
/// How long the cleaning up after it may take. What is not done by then goes on.
const TIDIED: Duration = Duration::from_secs(10);

/// Stop running containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
    /// Seconds to wait before killing
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    time: u64,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    match each(&args.names, |name| stop(session, name, args.time))? {
        Outcome::Done => Ok(0),
        _ => Ok(EXIT_FAILED),
    }
}

fn stop(session: &Session, name: &str, seconds: u64) -> Result<Outcome> {
    let (id, document) = container::find(name)?;
    // Stopped already is what was asked for, as in docker.
    if lock::is_alive(&id) {
        let wanted = document
            .value("/bocker/image/config/StopSignal")
            .and_then(|signal| signal.as_str());
        send(
            session,
            &id,
            wanted
                .filter(|signal| !signal.is_empty())
                .unwrap_or(DEFAULT_SIGNAL),
        )?;
        if session.dry_run {
            return Ok(Outcome::Done);
        }
        if !wait(&id, Duration::from_secs(seconds))? {
            send(session, &id, "KILL")?;
            if !wait(&id, KILLED)? {
                return Err(Error::new(
                    Kind::InUse,
                    format!("{id} does not end, though it was killed"),
                ));
            }
        }
    }
    // One that has just ended by itself may still be cleaned up after.
    wait(&id, Duration::ZERO)?;
    say(name)?;
    Ok(Outcome::Done)
}

fn send(session: &Session, id: &Id, name: &str) -> Result<()> {
    match session.run(&signal(session, id, name)?)? {
        0 => Ok(()),
        // It may have ended in the meantime, which its supervisor notices in a moment.
        _ if wait(id, NOTICED)? => Ok(()),
        status => Err(Error::new(Kind::Passed(status), "the signal was not sent")),
    }
}

/// The pipeline that sends a signal to a container's process 1.
pub(crate) fn signal(session: &Session, id: &Id, name: &str) -> Result<Pipeline> {
    let stage = session.stage(Piece::Spawn, "kill")?;
    Ok(Pipeline::new([stage
        .arg("--signal")
        .arg(name)
        .arg(id.as_str())]))
}

/// Waits, at most so long, until the container has ended, and then until its supervisor has cleaned up. Whether it has ended.
/// Fails with [`Kind::Interrupted`] when a signal ends the waiting.
pub(crate) fn wait(id: &Id, patience: Duration) -> Result<bool> {
    let ended = until(patience, || lock::supervisor(id) != Supervisor::Runs)?;
    if ended {
        until(TIDIED, || lock::supervisor(id) != Supervisor::Tidies)?;
    }
    Ok(ended)
}

fn until(patience: Duration, done: impl Fn() -> bool) -> Result<bool> {
    let begun = Instant::now();
    while !done() {
        signals::interrupted()?;
        if begun.elapsed() >= patience {
            return Ok(false);
        }
        sleep(TICK);
    }
    Ok(true)
}
