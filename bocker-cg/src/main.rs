//! bocker-cg: control groups for containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    bocker_pipe::tool::main(&bocker_cg::TOOL)
}
