//! `ps`: every container, running or not.

use std::collections::HashMap;

use bocker_pipe::Result;
use bocker_pipe::part::Parts;
use serde_json::json;

use crate::container::{self, COMMAND, Container, SHOWN};
use crate::filter::{self, Filter};
use crate::pipeline::Stage;
use crate::session::Session;
use crate::table::{Format, List, size};

type Column = (&'static str, &'static str);

const USUAL: [Column; 7] = [
    ("CONTAINER_ID", "ID"),
    ("COMMAND", "Command"),
    ("IMAGE", "Image"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];
const WITH_SIZE: [Column; 8] = [
    USUAL[0],
    USUAL[1],
    USUAL[2],
    USUAL[3],
    USUAL[4],
    USUAL[5],
    USUAL[6],
    ("SIZE", "Size"),
];
/// As podman shows them.
const NAMESPACES: [Column; 10] = [
    ("ID", "ID"),
    ("NAMES", "Names"),
    ("PID", "Pid"),
    ("CGROUPNS", "cgroup"),
    ("IPC", "ipc"),
    ("MNT", "mnt"),
    ("NET", "net"),
    ("PIDNS", "pid"),
    ("USERNS", "user"),
    ("UTS", "uts"),
];

/// List containers, running or not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for those used to it: all are listed anyway
    #[arg(short, long)]
    all: bool,
    /// Only those of which this holds, as name=REGEX, status=running, label=NAME[=VALUE]
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Only the N made last
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "latest")]
    last: Option<usize>,
    /// Only the one made last
    #[arg(short, long)]
    latest: bool,
    /// Show how much each has written, and how large it is with its image
    #[arg(short, long)]
    size: bool,
    /// Show the namespaces of process 1
    #[arg(long, conflicts_with = "size")]
    ns: bool,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    // Of a thousand containers it takes longer to ask for everything than to ask.
    let is_classic = args.format.is_classic() && !args.ns && !args.size;
    let shown: Vec<&str> = match args.format.quiet {
        _ if !args.filter.is_empty() => filter::shown(&args.filter).collect(),
        true => Vec::new(),
        false if is_classic => COMMAND.to_vec(),
        false => SHOWN.to_vec(),
    };
    let ask = |stage: Stage| stage.options("--with", shown).flag("--namespaces", args.ns);
    let mut containers = match args.format.json {
        true => container::list_lines(session, &Parts::of([""]), ask)?,
        false => container::list(session, ask)?,
    };
    filter::keep(&mut containers, &args.filter)?;
    if let Some(last) = args.last.or(args.latest.then_some(1)) {
        containers.truncate(last);
    }
    let has_size = args.size || args.format.shows("Size");
    let sizes = if has_size {
        container::sizes(session)?
    } else {
        HashMap::new()
    };
    let record = |one: &Container| {
        let mut record = one.record();
        if let Some(sizes) = sizes.get(one.id.as_str()) {
            let (written, whole) = (size(sizes.written), size(sizes.whole));
            record["Size"] = format!("{written} (virtual {whole})").into();
        }
        if args.ns {
            record["Pid"] = one.line["pid"].clone();
            let namespaces = one.line["namespaces"].as_object();
            for (name, number) in namespaces.into_iter().flatten() {
                record[name] = number.clone();
            }
        }
        record
    };
    let row = |one: &Container| match args.format.quiet {
        true => json!({"ID": one.id}),
        false if is_classic => json!({"ID": one.id, "Command": one.command()}),
        false => record(one),
    };
    let rows = containers.iter().map(row).collect();
    let lines = containers.into_iter().map(|one| one.line).collect();
    let list = |columns| List {
        columns,
        rows,
        lines,
    };
    match (args.ns, args.size) {
        (true, _) => list(&NAMESPACES).print_all(&args.format),
        (_, true) => list(&WITH_SIZE).print_all(&args.format),
        _ => list(&USUAL).print(&args.format),
    }
}
