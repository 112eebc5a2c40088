//! `in-guest PROGRAM ARG...` runs a program in a virtual machine and exits with its status; see `Guest` of this crate.
//! As cargo's runner it makes `cargo test` run whole files of tests there.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use bocker_tests::Guest;

const USAGE: &str = "\
usage: in-guest [OPTION...] PROGRAM [ARG...]
  -t                  give it the terminal (Ctrl-A x ends the machine)
  --with PROGRAM      bring another program of the host's along
  --disk FILE         the disk, mounted on /var and kept (default: an empty one)
  --limit SECONDS     how long the machine may run (default: 600)";

/// The exit status when there is none of the program's.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let Some((guest, argv)) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(FAILED);
    };
    match guest.run(&argv) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(FAILED)),
        Err(why) => {
            eprintln!("in-guest: {why}");
            ExitCode::from(FAILED)
        }
    }
}

fn parse() -> Option<(Guest, Vec<OsString>)> {
    let mut guest = Guest {
        programs: Vec::new(),
        disk: None,
        limit: Duration::from_secs(600),
        interactive: false,
    };
    let mut words = std::env::args_os().skip(1).peekable();
    while words.peek()?.as_encoded_bytes().starts_with(b"-") {
        match words.next()?.to_str()? {
            "-t" => guest.interactive = true,
            "--with" => guest.programs.push(words.next()?.into_string().ok()?),
            "--disk" => guest.disk = Some(words.next()?.into()),
            "--limit" => guest.limit = Duration::from_secs(words.next()?.to_str()?.parse().ok()?),
            _ => return None,
        }
    }
    Some((guest, words.collect()))
}
