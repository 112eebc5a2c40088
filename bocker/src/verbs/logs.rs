//! `logs`: what a container wrote, from the log that it cannot reach.

use bocker_pipe::Result;

use super::chosen::One;
use crate::container;
use crate::session::Session;
use crate::tools::Piece;

/// Print what a container wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on with what it writes, until it has ended
    #[arg(short, long)]
    follow: bool,
    /// Print so many lines at the end, or 'all'
    #[arg(short = 'n', long, value_name = "LINES", allow_hyphen_values = true)]
    tail: Option<String>,
    /// Print what was written from a time on, as 2026-11-21T14:30:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print what was written before a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print before each line when it was written
    #[arg(short, long)]
    timestamps: bool,
    /// Taken for docker's sake: no record has more than is printed
    #[arg(long)]
    details: bool,
    #[command(flatten)]
    one: One,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.one.name(session)?)?;
    let stage = session
        .stage(Piece::Spawn, "logs")?
        .flag("--follow", args.follow)
        .option("--tail", args.tail.as_ref())
        .option("--since", args.since.as_ref())
        .option("--until", args.until.as_ref())
        .flag("--timestamps", args.timestamps)
        .arg(id.as_str());
    session.become_stage(&stage)
}
