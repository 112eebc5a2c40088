//! The system calls that neither `rustix` nor `nix` offers safely, each in a small function.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, waitpid,
};

/// Which side of [`fork`] or [`clone`] this is.
pub(crate) enum Side {
    /// The new process.
    Child,
    /// The caller, with what names the new process.
    Parent(Pid, OwnedFd),
}

/// Birth in a cgroup (linux/sched.h); more than 32 bits, which `libc` gives it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// clone3(2) without shared memory: fork(2) into new namespaces. `flags` are `CLONE_NEW*`, `cgroup` is a folder of v2.
pub(crate) fn clone(flags: i32, cgroup: Option<BorrowedFd>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: a structure of integers, for which all zeroes is a valid value (clone3(2): zero means absent).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets a copy of the address space, as after fork(2), and this program is
    // single-threaded, so that no lock can be held by a thread that the child lacks. `args` outlives the call and its
    // `pidfd` points to a live integer.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_mut(&mut args),
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel has just stored a new descriptor there (CLONE_PIDFD), which nobody else owns.
            Ok(Side::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// fork(2), by libc, whose own record of the thread's number is right in the child then (raise(3) uses it).
pub(crate) fn fork() -> io::Result<Side> {
    // Where there is no descriptor left for the child's, there is none before it is made, and says something.
    let room = pidfd_open(getpid(), PidfdFlags::empty())?;
    // SAFETY: this program is single-threaded, so that the child may do all that the parent may.
    let pid = unsafe { libc::fork() };
    check(pid.into())?;
    drop(room);
    match Pid::from_raw(pid) {
        None => Ok(Side::Child),
        // It is our child and not reaped: the number is its own.
        Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Side::Parent(pid, pidfd)),
            Err(errno) => {
                // It would go on though the caller is told that it is not there.
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
                Err(errno.into())
            }
        },
    }
}

/// unshare(2) of namespaces.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes an integer; only CLONE_NEW* flags are passed here, which unshare no memory and no descriptors.
    check(unsafe { libc::unshare(flags) }.into())
}

/// mount_setattr(2): sets and clears `MOUNT_ATTR_*` on the mount that `fd` refers to.
pub(crate) fn mount_setattr(
    fd: BorrowedFd,
    recursive: bool,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(fd, recursive, &attr)
}

/// mount_setattr(2): what is mounted in the source of this mount and those in it appears in them too, and not the other way.
pub(crate) fn make_slave(fd: BorrowedFd) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: libc::MS_SLAVE,
        userns_fd: 0,
    };
    set_attributes(fd, true, &attr)
}

fn set_attributes(fd: BorrowedFd, recursive: bool, attr: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, and `attr` is a live structure of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
}

/// close_range(2): every descriptor from `first` on is closed by execve(2).
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes integers; CLOSE_RANGE_CLOEXEC closes nothing now.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
}

/// pidfd_send_signal(2), for any signal number.
pub(crate) fn send_signal(pidfd: BorrowedFd, signal: i32) -> io::Result<()> {
    pidfd_send_signal(pidfd, signal, 0)
}

/// The same for the process group that the process leads or has led, be it reaped or not; before Linux 6.9 for it alone.
pub(crate) fn send_signal_to_group(pidfd: BorrowedFd, signal: i32) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal, libc::PIDFD_SIGNAL_PROCESS_GROUP) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => send_signal(pidfd, signal),
        result => result,
    }
}

fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers, and a null pointer, which means default siginfo.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            flags,
        )
    })
}

/// The descriptor `number` that the caller of this program passed to it, as one of our own, closed by execve(2).
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) checks the number itself (EBADF) and answers with a new descriptor.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    check(fd.into())?;
    // SAFETY: `fd` is new, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether execve(2) closes a descriptor, as it does all that this program opens. One that is not open is none of anybody's.
pub(crate) fn is_closed_by_exec(number: RawFd) -> bool {
    // SAFETY: fcntl(2) checks the number itself, and changes nothing.
    unsafe { libc::fcntl(number, libc::F_GETFD) & libc::FD_CLOEXEC != 0 }
}

/// Closes a descriptor that the caller of this program passed to it. Those that are ours are never named by number.
pub(crate) fn close(number: RawFd) {
    // SAFETY: close(2) checks the number itself. Nobody in this program owns what its caller has named: `duplicate` is used.
    unsafe { libc::close(number) };
}

/// dup2(2) onto one of the three standard descriptors.
pub(crate) fn set_stdio(fd: BorrowedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: takes integers. Descriptors 0 to 2 are owned by nobody in this program, so that replacing one is sound.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())
}

/// dup2(2) onto a number under which the program finds it that is executed next.
pub(crate) fn hand_on(fd: BorrowedFd, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: takes integers. Whatever had the number before is closed by execve(2) anyway, and not used until then.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())
}

/// Gives every signal its default disposition and lets all through: what a parent ignores is not the container's matter.
pub(crate) fn reset_signals() {
    // SAFETY: a structure for which all zeroes is SIG_DFL, no flags and an empty mask.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: installs no handler. Fails for KILL, STOP and the two that libc keeps, which need no reset.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
    // SAFETY: an empty set is a valid value.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: reads a live set and writes nothing.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut()) };
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// execveat(2) of an open file. Returns only when it fails.
pub(crate) fn execute_descriptor(file: BorrowedFd, args: &[CString], env: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: the path is a constant C string; both arrays hold C strings, end with a null pointer and live until the call
    // returns.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// execve(2). Returns only when it fails.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both are arrays of C strings that end with a null pointer and live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// _exit(2): ends a forked child without running what the parent registered for its own end.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// TIOCSCTTY, ioctl_tty(2): makes the terminal the controlling one of our session.
pub(crate) fn set_controlling_terminal(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: the request takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())
}

/// Sets IFF_UP on the loopback interface of our network namespace (netdevice(7)). `socket` is any of AF_INET.
pub(crate) fn loopback_up(socket: BorrowedFd) -> io::Result<()> {
    // SAFETY: a structure of integers and bytes, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request reads a live ifreq whose name ends with a zero byte.
    check(
        unsafe {
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFFLAGS,
                ptr::from_ref(&request),
            )
        }
        .into(),
    )
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
