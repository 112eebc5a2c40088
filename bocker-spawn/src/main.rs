//! `bocker-spawn`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    bocker_pipe::tool::main(&bocker_spawn::TOOL)
}
