//! `diff`: what a container has changed in its files.

use bocker_pipe::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::container;
use crate::session::{Session, not_understood, say};
use crate::table::visible;
use crate::tools::Piece;

/// List what a container has added (A), changed (C) and deleted (D)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container: id or name
    container: String,
    /// Print the tool's JSON Lines
    #[arg(long)]
    json: bool,
}

/// One line of `bocker-snap diff`.
#[derive(Debug, Deserialize)]
struct Line {
    kind: String,
    path: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.container)?;
    let stage = session.tool(Piece::Snap, "diff")?.arg(id.as_str());
    if args.json {
        return session.become_stage(&stage);
    }
    let lines: Vec<Value> = session.read(&stage)?;
    let mut shown = Vec::new();
    for line in lines {
        let Line { kind, path } =
            Line::deserialize(&line).map_err(|error| not_understood(&stage, &error))?;
        shown.push(format!("{kind} {}", visible(&path)));
    }
    match shown.is_empty() {
        true => Ok(0),
        false => say(&shown.join("\n")).map(|()| 0),
    }
}
