//! `rm`: containers, and images by their ids as the original did.

use bocker_pipe::document::VERSION;
use bocker_pipe::{Error, Id, Kind, Result, containers, lock, paths};
use serde_json::json;

use crate::image;
use crate::pipeline::Pipeline;
use crate::session::{Session, say};
use crate::tools::Piece;
use crate::verbs::chosen::Chosen;
use crate::verbs::outcome::{Outcome, each};
use crate::verbs::stop::{self, How};
use crate::verbs::{cleanup, rmi};

/// Remove containers, or images by id
#[derive(Debug, clap::Args)]
#[command(mut_arg("all", |arg| arg.short('a')))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Kill what is running first
    #[arg(short, long)]
    force: bool,
    /// With --force, ask it to end, and wait so many seconds before killing
    #[arg(short, long, value_name = "SECONDS", value_parser = stop::seconds(), allow_negative_numbers = true, requires = "force")]
    time: Option<i64>,
    /// Remove also the volumes that nobody named
    #[arg(short, long)]
    volumes: bool,
    /// Pass over what does not exist
    #[arg(short, long)]
    ignore: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let names = args.chosen.names(session, |_| true)?;
    let how = args.force.then(|| How::forced(args.time));
    let worst = each(&names, |name| {
        if image::is_id(name) {
            // As in the original, whose containers did not need their image either.
            rmi::remove(session, name, true)
        } else if args.ignore && stop::is_missing(name) {
            Ok(Outcome::Done)
        } else {
            let id = containers::resolve(name)?;
            remove(session, &id, name, how.as_ref(), args.volumes)
        }
    })?;
    Ok(worst.exit_code())
}

/// How often one that somebody else starts each time is ended before it is given up.
const TIMES: u32 = 5;

/// Removes one container, called `name` by the caller, and its volumes that nobody named, if so asked. One that runs is made to end,
/// or refused.
pub(crate) fn remove(
    session: &Session,
    id: &Id,
    name: &str,
    how: Option<&How>,
    volumes: bool,
) -> Result<Outcome> {
    let mut left = TIMES;
    loop {
        let read = containers::load(id);
        // What has ended is not forced: somebody may have started it again, and would lose what it stands on.
        let forced = read.is_err() && how.is_some();
        let stage = |piece: Piece| Ok(session.stage(piece, "delete")?.flag("--force", forced));
        let mut stages = vec![
            stage(Piece::Cg)?,
            stage(Piece::Net)?,
            stage(Piece::Snap)?.flag("--volumes", volumes),
        ];
        let mut document = None;
        match read {
            Ok(_) => {
                end(session, id, name, how, true)?;
                if !paths::container(id).exists() {
                    // One of 'run --rm' goes with its end.
                    say(&format!("Removed: {name}"))?;
                    return Ok(Outcome::Done);
                }
                stages[0].args.push(id.as_str().into());
            }
            // It never reached bocker-spawn, or its document is damaged: what it may have is found by the id alone.
            Err(error) if forced && error.kind() != &Kind::Version => {
                end(session, id, name, how, false)?;
                let members =
                    json!({"version": VERSION, "id": id, "net": {}, "cg": {}, "snap": {}});
                document = Some(json!({ "bocker": members }).to_string());
                stages[0].args.push("-".into());
            }
            Err(error) if error.kind() == &Kind::NotFound => {
                let what = format!("Container '{name}' has not been started");
                let hint =
                    format!("if nobody is starting it now, remove it with 'bocker rm -f {name}'");
                return Err(Error::new(Kind::InUse, what).hint(hint));
            }
            Err(error) => return Err(error),
        }
        let mut pipeline = Pipeline::new(stages)
            .discarded()
            .said(format!("Removed: {name}"));
        pipeline.document = document;
        let outcome = Outcome::of_status(session.run(&pipeline)?);
        left -= 1;
        let is_started_again = outcome != Outcome::Done && how.is_some() && lock::is_alive(id);
        if !is_started_again || left == 0 {
            return Ok(outcome);
        }
    }
}

/// Sees to it that the container does not run.
fn end(session: &Session, id: &Id, name: &str, how: Option<&How>, is_read: bool) -> Result<()> {
    match (lock::is_alive(id), how) {
        (false, _) => {
            stop::until_tidied(id)?;
            cleanup::end(session, id, name)
        }
        (true, None) => Err(
            Error::new(Kind::InUse, format!("Container '{name}' is running")).hint(format!(
                "stop it first, or remove it with 'bocker rm -f {name}'"
            )),
        ),
        (true, Some(how)) => {
            let stop = match is_read {
                true => how.pipeline(session, &[id.to_string()])?,
                false => How::forced(None).pipeline_of_unread(session, id)?,
            };
            match session.run(&stop.discarded_to_the_end())? {
                0 => Ok(()),
                status => Err(Error::new(
                    Kind::Passed(status),
                    "the container could not be killed",
                )),
            }
        }
    }
}
