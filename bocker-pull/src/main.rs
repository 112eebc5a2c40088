//! bocker-pull: a registry's image into the local image store.

use std::process::ExitCode;

fn main() -> ExitCode {
    bocker_pipe::tool::main(&bocker_pull::TOOL)
}
