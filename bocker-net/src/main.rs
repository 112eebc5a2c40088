//! The program; the work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    bocker_pipe::tool::main(&bocker_net::TOOL)
}
