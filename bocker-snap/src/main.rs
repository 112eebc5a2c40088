//! The program; the work is in the library.

fn main() -> std::process::ExitCode {
    bocker_pipe::tool::main(&bocker_snap::TOOL)
}
