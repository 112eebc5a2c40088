//! Keeps a container from writing to this program's file. A process in a container can reach the program that started it
//! through /proc/PID/exe, and could open it for writing once nobody executes it any more (CVE-2019-5736).
//!
//! `exec` meets processes that are already there and waiting, so it executes itself once more from a read-only view of
//! its file that is mounted nowhere: no descriptor leads from there to a writable one. `run` is alone in the container; it
//! looks at what process 1 has become, and ends it when that is this program again, before anything else can run there. The
//! init that it can be told to put there is executed from such a view, too, as whatever it starts finds it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, Statx, StatxFlags, statx};
use rustix::process::Pid;

use crate::mounts::{self, RDONLY};
use crate::sys;

/// The file that this process executes, by proc(5).
const SELF: &str = "/proc/self/exe";
/// What ps(1) shows of a process that was executed by descriptor.
const NAME: &std::ffi::CStr = c"bocker-spawn";

/// Returns at once in a process that is sealed, and in it only.
pub(crate) fn seal() -> Result<()> {
    let is_read_only = rustix::fs::statvfs(SELF)
        .doing(sealing)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY);
    if is_read_only {
        // It is only a name.
        let _ = rustix::thread::set_name(NAME);
        return Ok(());
    }
    let tree = read_only()?;
    let strings = |words: Vec<Vec<u8>>| -> Result<Vec<CString>> {
        words
            .into_iter()
            .map(|word| CString::new(word).map_err(|_| Error::new(Kind::Usage, "a zero byte")))
            .collect()
    };
    let args = strings(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    let env = strings(
        std::env::vars_os()
            .map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='))
            .collect(),
    )?;
    Err(sys::execute_descriptor(tree.as_fd(), &args, &env)).doing(sealing)
}

fn sealing() -> String {
    "seal the program against the container".into()
}

/// This program's file on a mount of its own, which is nowhere and cannot be written to.
pub(crate) fn read_only() -> Result<OwnedFd> {
    let tree = mounts::clone_tree(Path::new(SELF), false).doing(sealing)?;
    sys::mount_setattr(tree.as_fd(), false, RDONLY, 0).doing(sealing)?;
    Ok(tree)
}

/// Fails with [`Kind::CannotExecute`] when the process executes this very file, as seen by the host: an image's command
/// is `/proc/self/exe`, or a script or loader leads there. The same file by a mount of the container's own is not meant.
pub(crate) fn refuse_own_program(pid: Pid) -> Result<()> {
    let look = |path: &str| -> rustix::io::Result<Statx> {
        statx(
            CWD,
            path,
            AtFlags::empty(),
            StatxFlags::INO | StatxFlags::MNT_ID,
        )
    };
    let ours = look(SELF).doing(|| format!("look at {SELF}"))?;
    // One that has ended already executes nothing.
    let Ok(theirs) = look(&format!("/proc/{}/exe", pid.as_raw_nonzero())) else {
        return Ok(());
    };
    if (ours.stx_ino, ours.stx_mnt_id) == (theirs.stx_ino, theirs.stx_mnt_id) {
        return Err(Error::new(
            Kind::CannotExecute,
            "the container's command leads to this tool's own file on the host",
        )
        .hint("the image is broken or hostile"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_program_is_told_from_another() {
        let own = rustix::process::getpid();
        assert_eq!(refuse_own_program(own).unwrap_err().exit_code(), 126);
        let mut other = std::process::Command::new("sleep")
            .arg("9")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(other.id() as i32).unwrap();
        refuse_own_program(pid).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
