//! The last steps before execve(2), the same for `run` and `exec`: standard descriptors, working directory, groups, user,
//! capabilities, no_new_privs, and the search for the command.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fstat, makedev, openat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal, fchdir, getcwd};

use crate::plan::{Program, c_string};
use crate::rooted::Root;
use crate::sys;

/// The first descriptor that is not standard.
const FIRST_OTHER: u32 = 3;

/// What the command's standard descriptors will be: pipes or a terminal of ours, never descriptors of the host, which a
/// container could reopen through /proc/self/fd. What is absent is the container's null device.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    terminal: bool,
}

impl Stdio {
    /// A terminal for all three.
    pub(crate) fn terminal(fd: OwnedFd) -> Result<Stdio> {
        let copy = || {
            fd.try_clone()
                .map(Some)
                .doing(|| "copy a descriptor".into())
        };
        Ok(Stdio {
            stdin: copy()?,
            stdout: copy()?,
            stderr: Some(fd),
            terminal: true,
        })
    }

    fn apply(&self, root: &Root, uid: Uid) -> Result<()> {
        let null = match (&self.stdin, &self.stdout, &self.stderr) {
            (Some(_), Some(_), Some(_)) => None,
            _ => Some(open_null(root)?),
        };
        for (number, fd) in [(0, &self.stdin), (1, &self.stdout), (2, &self.stderr)] {
            if let (Some(fd), false) = (fd, uid.is_root()) {
                // So that another user can open /dev/stdout.
                fchown(fd, Some(uid), None).doing(|| "give away a standard descriptor".into())?;
            }
            if let Some(fd) = fd.as_ref().or(null.as_ref()) {
                sys::set_stdio(fd.as_fd(), number)
                    .doing(|| "set the standard descriptors".into())?;
            }
        }
        if let (true, Some(fd)) = (self.terminal, &self.stdin) {
            sys::set_controlling_terminal(fd.as_fd())
                .doing(|| "take the terminal as the controlling one".into())?;
        }
        Ok(())
    }
}

/// The container's null device: the host's own must not be reachable through a descriptor.
fn open_null(root: &Root) -> Result<OwnedFd> {
    let doing = || "open /dev/null in the container".to_owned();
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(root, "dev/null", flags, Mode::empty()).doing(doing)?;
    let stat = fstat(&null).doing(doing)?;
    if stat.st_rdev != makedev(1, 3) {
        return Err(Error::new(
            Kind::Invalid,
            "/dev/null of the container is not the null device",
        ));
    }
    Ok(null)
}

/// From its birth to execve(2) no other process of the container may look into this one, which still has the host's
/// program and memory (CVE-2019-5736).
pub(crate) fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(|| "hide the process from the container".into())
}

/// Becomes what the command shall run as. `root` is the container's root, which is ours by now.
pub(crate) fn prepare(program: &Program, root: &Root, stdio: Stdio) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(program.uid), Gid::from_raw(program.gid));
    stdio.apply(root, uid)?;
    drop(stdio);
    sys::close_on_exec_from(FIRST_OTHER).doing(|| "close the other descriptors".into())?;
    rustix::process::umask(Mode::from_raw_mode(program.umask));

    // The user may be denied what root may enter, and root what the user may (NFS): either is enough, as in runc.
    let entered = change_directory(root, &program.cwd);

    program.capabilities.bound()?;
    let groups: Vec<Gid> = program
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    rustix::thread::set_thread_groups(&groups).doing(|| "set the groups".into())?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .doing(|| format!("become group {}", program.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .doing(|| format!("become user {}", program.uid))?;
    program.capabilities.apply()?;

    if entered.is_err() {
        change_directory(root, &program.cwd)
            .doing(|| format!("enter the working directory {}", program.cwd))?;
    }
    is_inside()?;
    if program.no_new_privileges {
        rustix::thread::set_no_new_privs(true).doing(|| "set no_new_privs".into())?;
    }
    end_with_parent()
}

/// The fast path when the parent is killed: prctl(2), PR_SET_PDEATHSIG. A change of user clears it.
pub(crate) fn end_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .doing(|| "set the parent-death signal".into())
}

fn change_directory(root: &Root, path: &str) -> rustix::io::Result<()> {
    fchdir(root.find(path)?)
}

/// The kernel says "(unreachable)" of a directory that is not below our root (getcwd(2), CVE-2024-21626).
fn is_inside() -> Result<()> {
    let path = getcwd(Vec::new()).doing(|| "ask for the working directory".into())?;
    if path.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        "the working directory is outside of the container",
    ))
}

/// Executes the command; returns only why it could not. Words without a slash are searched in the container's PATH.
pub(crate) fn execute(args: &[CString], env: &[CString], path: &str) -> Error {
    let Some(command) = args.first() else {
        return Error::new(Kind::Document, "the document's process.args is empty");
    };
    let name = command.to_string_lossy();
    let mut worst = Errno::NOENT;
    for candidate in candidates(&name, path) {
        let Ok(file) = c_string(&candidate) else {
            continue;
        };
        let error = sys::execve(&file, args, env);
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) if !exists(&file) => {}
            // What is found and cannot be executed is told, unless a later directory has one that can.
            Some(errno) => worst = errno,
            None => {}
        }
    }
    explain(&name, &candidates(&name, path), worst)
}

fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    path.split(':')
        .map(|folder| match folder {
            "" => format!("./{name}"),
            folder => format!("{folder}/{name}"),
        })
        .collect()
}

fn exists(path: &CString) -> bool {
    rustix::fs::stat(path.as_c_str())
        .is_ok_and(|stat| !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn explain(name: &str, tried: &[String], errno: Errno) -> Error {
    let found = tried
        .iter()
        .find(|path| c_string(path).is_ok_and(|path| exists(&path)));
    match (errno, found) {
        (Errno::NOENT, None) => Error::new(
            Kind::CommandNotFound,
            format!("'{name}' was not found in the container"),
        ),
        (Errno::NOENT, Some(path)) => Error::new(
            Kind::CommandNotFound,
            format!("'{path}' is in the container, but its interpreter is not"),
        )
        .hint("look at its first line, or at what 'file' says of it"),
        (errno, found) => {
            let path = found.map_or(name, String::as_str);
            let error: std::io::Error = errno.into();
            let nix = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            let error = Error::new(
                Kind::CannotExecute,
                format!(
                    "cannot execute '{path}' in the container: {} ({nix:?})",
                    nix.desc()
                ),
            );
            match errno {
                Errno::NOEXEC => error.hint("a script needs a first line such as #!/bin/sh"),
                _ => error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_slash_is_not_searched() {
        assert_eq!(candidates("/bin/x", "/a:/b"), ["/bin/x"]);
        assert_eq!(candidates("./x", "/a:/b"), ["./x"]);
        assert_eq!(candidates("x", "/a::/b/"), ["/a/x", "./x", "/b//x"]);
        assert!(candidates("", "/a").is_empty());
    }

    #[test]
    fn not_found_and_not_executable_differ() {
        assert_eq!(explain("nope", &[], Errno::NOENT).exit_code(), 127);
        assert_eq!(explain("/etc", &[], Errno::ACCESS).exit_code(), 126);
        assert_eq!(explain("/x", &[], Errno::NOEXEC).exit_code(), 126);
        let here = ["/proc/self/status".to_owned()];
        let error = explain("status", &here, Errno::NOENT);
        assert!(error.message().contains("interpreter"), "{error}");
    }
}
