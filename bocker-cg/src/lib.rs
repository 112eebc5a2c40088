//! Control groups for containers: makes a container's groups, sets its limits, and removes them.
//! Kernel documentation: admin-guide/cgroup-v1, admin-guide/cgroup-v2.

mod bpf;
mod controller;
mod cpu;
mod create;
mod delete;
mod device_filter;
mod devices;
mod events;
mod freezer;
mod gc;
mod group;
mod hierarchies;
mod list;
mod member;
mod memory;
mod pause;
mod pids;
mod request;
mod supervisors;
mod unified;

use bocker_pipe::{Tool, Verb, VerbKind};

/// The tool, for `main`.
pub static TOOL: Tool = Tool {
    name: "bocker-cg",
    stage: STAGE,
    help: HELP,
    verbs: &[
        Verb {
            name: "create",
            kind: VerbKind::Creates,
            run: create::run,
        },
        Verb {
            name: "delete",
            kind: VerbKind::Deletes,
            run: delete::run,
        },
        Verb {
            name: "freeze",
            kind: VerbKind::Reports,
            run: pause::freeze,
        },
        Verb {
            name: "thaw",
            kind: VerbKind::Reports,
            run: pause::thaw,
        },
        Verb {
            name: "list",
            kind: VerbKind::Reports,
            run: list::list,
        },
        Verb {
            name: "info",
            kind: VerbKind::Reports,
            run: list::info,
        },
        Verb {
            name: "gc",
            kind: VerbKind::Reports,
            run: gc::run,
        },
        Verb {
            name: "setup",
            kind: VerbKind::Reports,
            run: unified::setup,
        },
        Verb {
            name: "reset",
            kind: VerbKind::Reports,
            run: unified::reset,
        },
    ],
    default_verb: None,
};

const STAGE: &str = "cg";

const HELP: &str = "\
bocker-cg: control groups for containers (cgroup v1 and v2)

bocker-cg create [LIMITS]      reads a document, makes its groups, passes it on
  --cpu-shares N               weight against others, 2 to 262144
  --cpus F                     at most so much CPU time: 0.5 is half a CPU
  --memory SIZE                512m (of 1024 * 1024) or 512MB (of 1000 * 1000)
  --default-memory SIZE        the same, where nobody asked for a limit
  --pids-limit N               at most N processes and threads, -1 any number
  --devices default|all        Docker's list of device nodes (default), or all
  --supervisor                 a place outside the caller's groups for who stays
bocker-cg delete [ID|NAME]     removes the groups; --force kills what is in them
bocker-cg freeze ID [CMD ARG...]  it stands still, while the command runs if one
bocker-cg thaw ID              is given; and goes on
bocker-cg list | info          all groups of containers; the controllers
bocker-cg gc                   removes what dead containers have left
  --grace SECONDS              keep what was begun less than this ago (600)
  --listed                     gc: only what 'gc --dry-run' said, on stdin
  --orphans                    show groups that nobody claims, too
  --force                      kill what is alive, too
bocker-cg setup | reset        makes or removes what all share

Common: -v --explain --dry-run --document FD - --new --status --help --version
create and delete are stages: bocker-snap create IMG | bocker-cg create
list, info and gc print JSON Lines. Exit status: 0, or 125 and why on stderr.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_fits_a_screen() {
        assert!(HELP.lines().count() <= 24, "{}", HELP.lines().count());
        assert!(HELP.lines().all(|line| line.len() <= 80));
    }
}
