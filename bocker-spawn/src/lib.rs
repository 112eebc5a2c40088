//! bocker-spawn: from a document to a running container. Namespaces, the change of root, privileges, standard streams,
//! supervision, `exec` and signals; and nothing else of the kernel's.

mod attach;
mod caps;
mod cgroups;
mod channel;
mod child;
mod container;
mod create;
mod exec;
mod health;
mod holders;
mod init;
mod keys;
mod list;
mod log;
mod memory;
mod mounts;
mod oom;
mod options;
mod plan;
mod privileges;
mod process;
mod procfs;
mod reap;
mod record;
mod report;
mod requested;
mod restart;
mod rooted;
mod run;
mod seal;
mod serve;
mod show;
mod signals;
mod socket;
mod spec;
mod start;
mod stop;
mod streams;
mod supervise;
mod sys;
mod title;
mod top;
mod tty;
mod users;
mod wait;
mod watch;

use std::fmt::Display;
use std::io::Write;

use bocker_pipe::{Call, Result, Tool, Verb, VerbKind};

/// The short name, in documents, claims and steps.
const STAGE: &str = "spawn";

/// A line on stderr beside the error of a verb, in one write. Where nobody reads it any more (EPIPE), nothing depends on it.
fn say(what: impl Display) {
    let line = format!("bocker-spawn: {what}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The program's `main`.
pub fn main() -> u8 {
    match init::is_called() {
        true => init::main(),
        false => bocker_pipe::tool::main(&TOOL),
    }
}

const fn verb(name: &'static str, kind: VerbKind, run: fn(&mut Call) -> Result<()>) -> Verb {
    Verb { name, kind, run }
}

/// The tool.
pub static TOOL: Tool = Tool {
    name: "bocker-spawn",
    stage: STAGE,
    help: include_str!("help.txt"),
    verbs: &[
        verb("run", VerbKind::Runs, run::run),
        verb("create", VerbKind::Creates, create::create),
        verb("spec", VerbKind::Creates, create::spec),
        verb("attach", VerbKind::Reports, attach::attach),
        verb("wait", VerbKind::Reports, wait::wait),
        verb("exec", VerbKind::Reports, exec::exec),
        verb("reap", VerbKind::Deletes, reap::reap),
        verb("state", VerbKind::Reports, report::state),
        verb("kill", VerbKind::Reports, stop::kill),
        verb("stop", VerbKind::Reports, stop::stop),
        verb("list", VerbKind::Reports, list::list),
        verb("top", VerbKind::Reports, top::top),
        verb("logs", VerbKind::Reports, log::logs),
        verb("gc", VerbKind::Reports, reap::gc),
    ],
    default_verb: None,
};
