//! `bocker-pull`: fetches images from registries that speak the OCI distribution protocol into the local OCI image layout, and keeps
//! the names there.
//! Everything that comes from the registry is bounded in size and believed only when it has the digest that led to it.

use bocker_pipe::{Tool, Verb, VerbKind};

mod announce;
mod archive;
mod auth;
mod challenge;
mod credentials;
mod describe;
mod dns;
mod download;
mod endpoint;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod gc;
mod inspect;
mod limits;
mod list;
mod load;
mod login;
mod mirrors;
mod notices;
mod platform;
mod progress;
mod prompt;
mod pull;
mod push;
mod registry;
mod resolve;
mod retry;
mod rmi;
mod save;
mod tag;
mod transfer;
mod upload;
mod verify;

const HELP: &str = "\
bocker-pull: fetch an image from a registry into the local image store

    bocker-pull [pull] REF        begin a pipeline: the document names the image
    bocker-pull list [IMAGE...] [--exists]   stored images, a line for each name
    bocker-pull inspect IMAGE...    all that is known of an image
    bocker-pull resolve REF         its digest and platforms; nothing is kept
    bocker-pull push IMAGE [REF]    an image to a registry
    bocker-pull tag IMAGE REF       one more name
    bocker-pull rmi [-f] IMAGE...   a name goes, with the last one the image
    bocker-pull save [-o FILE] IMAGE...  an archive that docker and podman read
    bocker-pull load [-i FILE|DIR]  images of an archive, compressed or not
    bocker-pull login [REGISTRY] [-u USER --password-stdin];   logout [REGISTRY]
    bocker-pull gc                  remove what nothing needs any more

REF is [REGISTRY/]NAME[:TAG|@sha256:DIGEST]; where they are left out,
docker.io, library/ and latest are meant.

    --platform OS/ARCH[/VARIANT]  linux/arm64, linux/arm/v7; else the host's
    --mirror ADDRESS              ask there first (again: any number of them)
    --plain-http                  no TLS (loopback registries never have it)
    --retries N, --timeout SECONDS  try again so often (5); how long a
                                  registry may send next to nothing (60)
    --verify PROGRAM              run PROGRAM REF DIGEST; go on if it exits 0
    -q, --progress auto|plain|json|quiet   how progress is shown
    --grace SECONDS, --listed     gc: only what is older (600), or on stdin
    -v, --explain                 show each step as a command; and why
    --dry-run                     ask the registry, but change nothing
    -, --document FD              add to a document from stdin or FD
    -h, --help, -V, --version
";

/// The tool.
pub static TOOL: Tool = Tool {
    name: "bocker-pull",
    stage: "pull",
    help: HELP,
    verbs: &[
        Verb {
            name: "pull",
            kind: VerbKind::Begins,
            run: pull::pull,
        },
        Verb {
            name: "list",
            kind: VerbKind::Reports,
            run: list::list,
        },
        Verb {
            name: "inspect",
            kind: VerbKind::Reports,
            run: inspect::inspect,
        },
        Verb {
            name: "resolve",
            kind: VerbKind::Reports,
            run: describe::resolve,
        },
        Verb {
            name: "push",
            kind: VerbKind::Reports,
            run: push::push,
        },
        Verb {
            name: "tag",
            kind: VerbKind::Reports,
            run: tag::tag,
        },
        Verb {
            name: "rmi",
            kind: VerbKind::Reports,
            run: rmi::rmi,
        },
        Verb {
            name: "save",
            kind: VerbKind::Reports,
            run: save::save,
        },
        Verb {
            name: "load",
            kind: VerbKind::Reports,
            run: load::load,
        },
        Verb {
            name: "login",
            kind: VerbKind::Reports,
            run: login::login,
        },
        Verb {
            name: "logout",
            kind: VerbKind::Reports,
            run: login::logout,
        },
        Verb {
            name: "gc",
            kind: VerbKind::Reports,
            run: gc::gc,
        },
    ],
    default_verb: Some("pull"),
};
