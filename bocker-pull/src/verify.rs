//! `--verify PROGRAM`: somebody else's program decides whether an image is wanted, before any of its layers is fetched.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::process::Command;

use bocker_pipe::layout::Descriptor;
use bocker_pipe::reference::Reference;
use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::resolve::Resolved;

/// For the program, the digest of the manifest of the platform that is pulled.
const MANIFEST: &str = "BOCKER_MANIFEST";
/// For the program, what its stdin is.
const MEDIA_TYPE: &str = "BOCKER_MEDIA_TYPE";

/// Runs the program with the reference and the digest that it led to, which is what signatures are made for: the index's, where
/// there is one. Its stdin is the document of that digest; what it writes goes to stderr. Fails unless it exits with 0.
pub(crate) fn verify(program: &OsStr, reference: &Reference, resolved: &Resolved) -> Result<()> {
    let (top, bytes): &(Descriptor, Vec<u8>) =
        resolved.index.as_ref().unwrap_or(&resolved.manifest);
    let doing = || format!("run {}", program.display());
    // A file, so that a program that does not read it keeps nobody waiting.
    let stdin = memfd_create("manifest", MemfdFlags::CLOEXEC).doing(doing)?;
    let mut stdin = File::from(stdin);
    stdin
        .write_all(bytes)
        .and_then(|()| stdin.rewind())
        .doing(doing)?;
    // Stdout is the document's.
    let stdout = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .doing(doing)?;
    let status = Command::new(program)
        .arg(reference.to_string())
        .arg(top.digest.as_str())
        .env(MANIFEST, resolved.digest().as_str())
        .env(MEDIA_TYPE, &top.media_type)
        .stdin(stdin)
        .stdout(stdout)
        .status()
        .doing(doing)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Invalid,
            format!(
                "'{}' does not accept '{}': {status}",
                program.display(),
                reference.familiar()
            ),
        )),
    }
}
