//! `restart`: `stop` and `start`, each container with all that was asked for it.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result, lock};

use super::chosen::Chosen;
use super::outcome::{Outcome, each};
use super::start;
use super::stop::How;
use crate::container;
use crate::session::Session;

/// Stop containers and start them again
#[derive(Debug, clap::Args)]
#[command(mut_arg("all", |arg| arg.short('a')))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    how: How,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let names = args.chosen.names(session, |_| true)?;
    match each(&names, |name| restart(session, name, &args.how))? {
        Outcome::Done => Ok(0),
        _ => Ok(EXIT_FAILED),
    }
}

fn restart(session: &Session, name: &str, how: &How) -> Result<Outcome> {
    let (id, document) = container::find(name)?;
    if lock::is_alive(&id) {
        if document.is_removed_at_its_end() {
            let what = format!("Container '{name}' goes with its end, as it was run with --rm");
            return Err(Error::new(Kind::InUse, what).hint("run it anew"));
        }
        let stop = how.pipeline(session, &[name.to_owned()])?;
        let status = session.run(&stop.discarded_to_the_end())?;
        if status != 0 {
            return Ok(Outcome::of_status(status));
        }
    }
    start::anew(session, name, true)
}
