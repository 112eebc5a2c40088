//! The least that a pipeline costs: `copies N FILE` starts itself N times, joined by pipes as `bocker` joins its stages, and
//! each copies the document from stdin to stdout and does nothing else. `make bench` measures it.

use std::env;
use std::fs::File;
use std::io::{self, Error, Read, Write, pipe};
use std::process::{Command, Stdio};

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    match (args.next(), args.next()) {
        (Some(number), Some(file)) => {
            start(number.parse().map_err(Error::other)?, File::open(file)?)
        }
        _ => copy(),
    }
}

fn copy() -> io::Result<()> {
    let mut document = Vec::new();
    io::stdin().read_to_end(&mut document)?;
    io::stdout().write_all(&document)
}

fn start(number: usize, document: File) -> io::Result<()> {
    let own = env::current_exe()?;
    let mut input = Stdio::from(document);
    let mut children = Vec::new();
    for left in (0..number).rev() {
        let (reader, writer) = pipe()?;
        let output = match left {
            0 => Stdio::null(),
            _ => Stdio::from(writer),
        };
        children.push(Command::new(&own).stdin(input).stdout(output).spawn()?);
        input = Stdio::from(reader);
    }
    for mut child in children {
        if !child.wait()?.success() {
            return Err(Error::other("a copy failed"));
        }
    }
    Ok(())
}
