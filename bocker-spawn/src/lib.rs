//! bocker-spawn: from a document to a running container. Namespaces, the change of root, privileges, standard streams,
//! supervision, `exec` and signals; and nothing else of the kernel's.

mod caps;
mod channel;
mod child;
mod files;
mod log;
mod mounts;
mod oom;
mod plan;
mod privileges;
mod process;
mod procfs;
mod rooted;
mod run;
mod show;
mod signals;
mod spec;
mod streams;
mod sys;
mod tty;
mod users;

use bocker_pipe::{Tool, Verb, VerbKind};

/// The tool.
pub static TOOL: Tool = Tool {
    name: "bocker-spawn",
    stage: "spawn",
    help: include_str!("help.txt"),
    verbs: &[Verb {
        name: "run",
        kind: VerbKind::Runs,
        run: run::run,
    }],
    default_verb: None,
};
