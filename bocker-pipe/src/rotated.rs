//! A file of lines that is renamed when it is full: `log` to `log.1`, that to `log.2`, and so on.

use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The `n`th of the old files.
pub fn old(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Makes way for a new file at `path`: what is there becomes the first of the `kept` old ones, and the last of those goes.
pub fn rotate(path: &Path, kept: usize) -> Result<()> {
    let gone_is_fine = |result: Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    };
    for n in (1..kept).rev() {
        gone_is_fine(fs::rename(old(path, n), old(path, n + 1)))?;
    }
    gone_is_fine(match kept {
        0 => fs::remove_file(path),
        _ => fs::rename(path, old(path, 1)),
    })
}
