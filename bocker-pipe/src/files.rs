//! Small files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::{Doing, Result};

/// What a file is called that is written to replace another.
const NEW: &str = ".new";
/// And one that holds the room for that.
const ROOM: &str = ".room";

/// Replaces `path`, readable by root only: written beside it, then renamed over it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = beside(path, NEW);
    let create = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&beside)
    };
    let file = match create() {
        // What a killed writer left there, the writers of one container being ordered by its lock; or what somebody else put there,
        // whose file, or another name of one, ours must not be.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&beside).and_then(|()| create())
        }
        file => file,
    }
    .doing(|| format!("write {}", path.display()))?;
    put(file, &beside, path, bytes)
}

/// The same with the room that [`reserve`] has kept, where it has.
pub fn replace_reserved(path: &Path, bytes: &[u8]) -> Result<()> {
    let room = beside(path, ROOM);
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW);
    match options.open(&room) {
        Ok(file) => put(file, &room, path, bytes),
        Err(_) => replace(path, bytes),
    }
}

/// Writes a file, as short as that makes it, and renames it over another.
fn put(mut file: File, beside: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let result = file
        .write_all(bytes)
        .and_then(|()| file.set_len(bytes.len() as u64))
        .and_then(|()| fs::rename(beside, path));
    if result.is_err() {
        let _ = fs::remove_file(beside);
    }
    result.doing(|| format!("write {}", path.display()))
}

/// Keeps room for what the next [`replace_reserved`] writes, so that a disk that is full by then does not keep it out. A filesystem
/// that cannot (fallocate(2), EOPNOTSUPP) keeps none. It is for folders in which nobody else writes.
pub fn reserve(path: &Path, size: u64) -> Result<()> {
    let doing = || format!("keep room for {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(beside(path, ROOM))
        .doing(doing)?;
    let size = size.try_into().unwrap_or(libc::off_t::MAX);
    match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, size) {
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => {
            unreserve(path)?;
            Err(errno).doing(doing)
        }
    }
}

/// Gives back the room that [`reserve`] kept.
pub fn unreserve(path: &Path) -> Result<()> {
    remove(&beside(path, ROOM))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

/// Removes a file, or as [`remove_folder`] a folder in its place; gone already is success.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => remove_folder(path),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder that somebody has made in the place of a file of ours; gone already is success. One with something in it
/// stays: that is not ours.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let removed = Err(error).doing(|| format!("remove {}", path.display()));
            removed.map_err(|error| {
                error.hint("a file of bocker's was there: look whose this is, and remove it")
            })
        }
        Ok(()) => Ok(()),
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_for_root_alone_whatever_was_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(
            folder.path().join("file.new"),
            "of a writer that was killed",
        )
        .unwrap();
        replace(&path, b"1").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"1"[..]));
        fs::remove_file(&path).unwrap();
        replace(&path, b"2").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_that_cannot_be_replaced_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_beside_it_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("file"), folder.path().join("elsewhere"));
        symlink(&elsewhere, folder.path().join("file.new")).unwrap();
        replace(&path, b"x").unwrap();
        assert!(!elsewhere.exists() && !path.is_symlink());
    }

    #[test]
    fn what_was_read_is_put_back_and_what_was_not_there_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let before = read(&path).unwrap();
        assert_eq!(before, None);
        replace(&path, b"x").unwrap();
        let then = read(&path).unwrap();
        restore(&path, before.as_deref()).unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
        restore(&path, then.as_deref()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_goes_unless_something_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::create_dir(&path).unwrap();
        remove(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("other"), "kept").unwrap();
        let error = remove(&path).unwrap_err().to_string();
        assert!(error.contains("look whose this is"), "{error}");
        assert!(path.join("other").exists());
        // A link to it is no folder.
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        remove(&link).unwrap();
        assert!(path.join("other").exists() && !link.is_symlink());
    }

    #[test]
    fn what_is_put_into_room_that_was_kept_is_as_long_as_it_is_and_takes_the_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        reserve(&path, 1 << 16).unwrap();
        fs::write(folder.path().join("file.room"), "left by a killed writer").unwrap();
        for text in ["ours", "once more"] {
            replace_reserved(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        reserve(&path, 1).unwrap();
        unreserve(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_lies_where_a_file_is_written_first_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&other, "kept").unwrap();
        fs::hard_link(&other, folder.path().join("file.new")).unwrap();
        replace(&path, b"ours").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(fs::read(&other).unwrap(), b"kept");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn lines_are_those_that_say_something() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        fs::write(&path, "a\n\n # b\n  c d \r\n\te").unwrap();
        assert_eq!(lines(&path).unwrap(), [&b"a"[..], b"c d ", b"e"]);
    }
}
