//! Small files that are there whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::{Doing, Result};

/// Replaces `path`, readable by root only: written beside it, then renamed over it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let doing = || format!("write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        // What a killed writer left there; the writers of one container are ordered by its lock.
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&beside)
        .doing(doing)?;
    let result = file
        .write_all(bytes)
        .and_then(|()| fs::rename(&beside, path));
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result.doing(doing)
}

/// Removes a file; gone already is success.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The content of a file that may not be there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {}", path.display())),
    }
}

/// The lines of a file that people write, without those that are empty or begin with `#`, and without the white space before each.
pub fn lines(path: &Path) -> Result<Vec<Vec<u8>>> {
    let text = fs::read(path).doing(|| format!("read {}", path.display()))?;
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start());
    let wanted = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    Ok(wanted.map(<[u8]>::to_vec).collect())
}

/// Puts back what [`read`] answered.
pub fn restore(path: &Path, before: Option<&[u8]>) -> Result<()> {
    match before {
        Some(bytes) => replace(path, bytes),
        None => remove(path),
    }
}
