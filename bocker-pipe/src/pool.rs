//! A pool: a btrfs in a file beside `BOCKER_ROOT`, `<BOCKER_ROOT>.btrfs`, that is mounted on it. bocker-snap makes and mounts it;
//! after a restart of the machine, whichever tool comes first has it mounted again.

use std::env;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;

use crate::error::{Doing, Error, Kind, Result};
use crate::paths;

/// The program that mounts it, and its verb.
const PROGRAM: &str = "bocker-snap";
const VERB: &str = "setup";

/// Whether there is a pool that is not mounted. Costs one system call where there is none, two where there is.
pub fn is_unmounted() -> bool {
    let Ok(file) = paths::pool().symlink_metadata() else {
        return false;
    };
    if !file.is_file() {
        return false;
    }
    match paths::root().metadata() {
        Ok(root) => root.dev() == file.dev(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Has it mounted, if there is one that is not.
pub fn ensure() -> Result<()> {
    if !is_unmounted() {
        return Ok(());
    }
    let program = beside().unwrap_or_else(|| PROGRAM.into());
    let output = Command::new(&program)
        .arg(VERB)
        .stdin(Stdio::null())
        .output()
        .doing(|| format!("execute {}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default();
    let pool = paths::pool();
    let message = format!("the pool {} is not mounted: {said}", pool.display());
    Err(Error::new(Kind::System(Errno::ENODEV as i32), message))
}

/// The program in the folder of this one.
fn beside() -> Option<PathBuf> {
    let program = env::current_exe().ok()?.with_file_name(PROGRAM);
    Path::is_file(&program).then_some(program)
}
