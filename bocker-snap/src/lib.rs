//! bocker-snap: image layers to root filesystems, and back. It alone touches the layer store, the mounts of roots, and volumes.
//!
//! The image store is an OCI image layout; a layer of it is unpacked once (`layers`, `unpack`). Of layers a container's root is
//! made (`create`, `container`) by one of two drivers (`driver`): snapshots of subvolumes (`btrfs`) or overlay mounts (`overlay`).

mod arrival;
mod base;
mod btrfs;
mod build;
mod compare;
mod container;
mod copy;
mod cover;
mod create;
mod delete;
mod df;
mod diff;
mod driver;
mod export;
mod folder_lock;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod garbage;
mod gzip;
mod history;
mod image;
mod import;
mod ingest;
mod instruction;
mod ioctl;
mod layers;
mod loop_device;
mod mount_points;
mod names;
mod overlay;
mod pack;
mod parts;
mod pool;
mod quota;
mod rename;
mod report;
mod source;
mod stack;
mod time;
mod tree;
mod unpack;
mod view;
mod volume;
mod words;
mod writeback;

use bocker_pipe::{Tool, Verb, VerbKind, tar};

/// The stage's name in documents, steps and claims.
const STAGE: &str = "snap";

/// The tool.
pub static TOOL: Tool = Tool {
    name: "bocker-snap",
    stage: STAGE,
    help: include_str!("help.txt"),
    verbs: &[
        Verb {
            name: "create",
            kind: VerbKind::Begins,
            run: create::create,
        },
        Verb {
            name: "import",
            kind: VerbKind::Creates,
            run: import::import,
        },
        Verb {
            name: "mount",
            kind: VerbKind::Creates,
            run: delete::mount,
        },
        Verb {
            name: "unmount",
            kind: VerbKind::Deletes,
            run: delete::unmount,
        },
        Verb {
            name: "delete",
            kind: VerbKind::Deletes,
            run: delete::delete,
        },
        Verb {
            name: "rename",
            kind: VerbKind::Reports,
            run: rename::rename,
        },
        Verb {
            name: "commit",
            kind: VerbKind::Reports,
            run: build::commit,
        },
        Verb {
            name: "diff",
            kind: VerbKind::Reports,
            run: diff::diff,
        },
        Verb {
            name: "export",
            kind: VerbKind::Reports,
            run: export::export,
        },
        Verb {
            name: "cp",
            kind: VerbKind::Reports,
            run: copy::cp,
        },
        Verb {
            name: "history",
            kind: VerbKind::Reports,
            run: history::history,
        },
        Verb {
            name: "init",
            kind: VerbKind::Reports,
            run: build::init,
        },
        Verb {
            name: "volume",
            kind: VerbKind::Reports,
            run: volume::volume,
        },
        Verb {
            name: "setup",
            kind: VerbKind::Prepares,
            run: pool::setup,
        },
        Verb {
            name: "gc",
            kind: VerbKind::Reports,
            run: garbage::gc,
        },
        Verb {
            name: "reset",
            kind: VerbKind::Reports,
            run: garbage::reset,
        },
        Verb {
            name: "info",
            kind: VerbKind::Reports,
            run: report::info,
        },
        Verb {
            name: "df",
            kind: VerbKind::Reports,
            run: df::df,
        },
        Verb {
            name: "list",
            kind: VerbKind::Reports,
            run: report::list,
        },
    ],
    default_verb: None,
};
