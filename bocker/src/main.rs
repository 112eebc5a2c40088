//! The command line that people type.
use std::process::ExitCode;

fn main() -> ExitCode {
    bocker::main()
}
