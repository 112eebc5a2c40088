//! `images`.

use bocker_pipe::Result;
use serde_json::Value;

use crate::pipeline::Stage;
use crate::session::Session;
use crate::table::{Format, List};
use crate::tools::Piece;

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for those used to it: all are listed anyway
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = Stage::new(session.tools.find(Piece::Snap)?).arg("images");
    let rows: Vec<Value> = session.read(&stage)?;
    let list = List {
        columns: &[
            ("IMAGE_ID", "id"),
            ("SOURCE", "source"),
            ("DIGEST", "digest"),
            ("SIZE", "size"),
        ],
        rows,
    };
    list.print(&args.format)
}
