//! `ps`: every container, running or not.

use bocker_pipe::Result;

use crate::container::{self, Container};
use crate::session::Session;
use crate::table::{Format, List};

/// List containers, running or not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for those used to it: all are listed anyway
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let containers = container::all(session)?;
    let list = List {
        columns: &[
            ("CONTAINER_ID", "ID"),
            ("COMMAND", "Command"),
            ("IMAGE", "Image"),
            ("CREATED", "RunningFor"),
            ("STATUS", "Status"),
            ("PORTS", "Ports"),
            ("NAMES", "Names"),
        ],
        rows: containers.iter().map(Container::record).collect(),
        lines: containers
            .into_iter()
            .map(|container| container.line)
            .collect(),
    };
    list.print(&args.format)
}
