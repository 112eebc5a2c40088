//! A signal at any moment: a program is run under ptrace(2) and gets it right after the system call by which it changed
//! something outside itself for the n-th time. For n = 1, 2, 3 ... until it ends, these are all the states of the machine
//! in which SIGKILL can leave it, and from which it has to find back after any other.

use std::collections::HashMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::ExitStatus;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::libc::{self, c_long};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::command::{Call, Output};

/// How long a traced program may run. Only a hang takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// linux/ptrace.h, `struct ptrace_syscall_info`: eleven words hold it.
const PTRACE_GET_SYSCALL_INFO: u32 = 0x420e;
const INFO_WORDS: usize = 11;
const OP_ENTRY: u8 = 1;
const OP_EXIT: u8 = 2;

macro_rules! calls {
    ($($name:ident)*) => { [$((libc::$name, stringify!($name))),*] };
}

/// What changes something that outlives the caller, or that others see.
const CHANGES: &[(c_long, &str)] = &calls![
    SYS_bind SYS_bpf SYS_clone SYS_clone3 SYS_connect SYS_copy_file_range SYS_fallocate SYS_fchmod SYS_fchmodat SYS_fchown
    SYS_fchownat SYS_fremovexattr SYS_fsetxattr SYS_ftruncate SYS_ioctl SYS_kill SYS_linkat SYS_lsetxattr SYS_mkdirat
    SYS_mknodat SYS_mount SYS_mount_setattr SYS_move_mount SYS_openat SYS_pidfd_send_signal SYS_pivot_root
    SYS_pwrite64 SYS_renameat2 SYS_sendfile SYS_sendmsg SYS_sendto SYS_splice SYS_symlinkat SYS_tgkill SYS_truncate SYS_umount2
    SYS_unlinkat SYS_utimensat SYS_write SYS_writev
];
/// What changes nothing, or only what ends with the caller: its memory, descriptors, locks, sockets and namespaces.
/// By openat2(2) our tools only look for what is there.
const HARMLESS: &[(c_long, &str)] = &calls![
    SYS_accept4 SYS_brk SYS_capget SYS_chdir SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_epoll_create1
    SYS_epoll_ctl SYS_epoll_pwait SYS_eventfd2 SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fchdir SYS_fcntl SYS_fdatasync
    SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fstat SYS_fstatfs SYS_fsync SYS_futex
    SYS_getcwd SYS_getdents64 SYS_geteuid SYS_getegid SYS_getgid SYS_getpeername SYS_getpid SYS_getppid SYS_getrandom
    SYS_getsockname SYS_getsockopt SYS_gettid SYS_getuid SYS_inotify_add_watch SYS_inotify_init1 SYS_lgetxattr SYS_listen SYS_llistxattr SYS_lseek SYS_madvise
    SYS_membarrier SYS_memfd_create SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat2 SYS_open_tree
    SYS_pidfd_open SYS_pipe2 SYS_ppoll SYS_prctl SYS_pread64 SYS_prlimit64 SYS_read SYS_readlinkat SYS_readv SYS_recvfrom
    SYS_recvmsg SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigtimedwait SYS_signalfd4 SYS_sched_getaffinity
    SYS_sched_yield SYS_set_robust_list SYS_set_tid_address SYS_setns SYS_setsockopt SYS_shutdown SYS_sigaltstack SYS_socket
    SYS_socketpair SYS_statfs SYS_statx SYS_syncfs SYS_sysinfo SYS_umask SYS_uname SYS_unshare SYS_wait4 SYS_waitid
];

/// The older names of some, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_CHANGES: &[(c_long, &str)] = &calls![
    SYS_chmod SYS_chown SYS_fork SYS_lchown SYS_link SYS_mkdir SYS_mknod SYS_open SYS_rename SYS_renameat SYS_rmdir SYS_symlink SYS_unlink
    SYS_vfork
];
#[cfg(target_arch = "x86_64")]
const OLD_HARMLESS: &[(c_long, &str)] = &calls![
    SYS_access SYS_arch_prctl SYS_dup2 SYS_epoll_wait SYS_getpgrp SYS_lstat SYS_pipe SYS_poll SYS_readlink SYS_stat
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CHANGES: &[(c_long, &str)] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_HARMLESS: &[(c_long, &str)] = &[];

/// What became of a program that was to be killed.
#[derive(Debug)]
pub enum Struck {
    /// It was killed after this system call.
    Killed(&'static str),
    /// It ended by itself before it had changed as much.
    Ended(Output),
}

impl Call {
    /// Runs the program, its threads included but not what it starts, and kills it once it has changed something for the
    /// `count`-th time, counted from one.
    ///
    /// # Panics
    /// When it cannot be traced, hangs, or makes a system call of which this file does not say whether it changes anything.
    #[must_use]
    pub fn kill_after_change(self, count: usize) -> Struck {
        let (struck, output) = self.signal_after_change(count, Signal::SIGKILL);
        match struck {
            Some(name) => Struck::Killed(name),
            None => Struck::Ended(output),
        }
    }

    /// The same with any signal. Gives the change after which it came, unless the program had ended by itself before, and what
    /// became of the program.
    ///
    /// # Panics
    /// As [`Call::kill_after_change`].
    #[must_use]
    pub fn signal_after_change(
        self,
        count: usize,
        signal: Signal,
    ) -> (Option<&'static str>, Output) {
        assert!(count > 0, "changes are counted from one");
        let running = self.spawn_with(|command| {
            // SAFETY: ptrace(2) is async-signal-safe, and the only thing done here.
            unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
        });
        let leader = Pid::from_raw(running.pid().cast_signed());
        let (ended, end) = channel::<()>();
        let watch = thread::spawn(move || {
            if end
                .recv_timeout(PATIENCE)
                .is_err_and(|e| !matches!(e, std::sync::mpsc::RecvTimeoutError::Disconnected))
            {
                _ = killpg(leader, Signal::SIGKILL);
            }
        });
        let (struck, status) = Tracer::new(leader, count, signal).run();
        drop(ended);
        watch.join().expect("the watch does not fail");
        let output = running.finish(status);
        let hung = status
            .signal()
            .is_some_and(|by| struck.is_none() || by != signal as i32);
        assert!(!hung, "it hung, or was traced wrongly: {output}");
        (struck, output)
    }
}

/// One traced program.
struct Tracer {
    leader: Pid,
    /// How many changes are left until the signal.
    left: usize,
    signal: Signal,
    /// What each thread is about to do, where that changes something.
    begun: HashMap<Pid, &'static str>,
}

impl Tracer {
    fn new(leader: Pid, count: usize, signal: Signal) -> Tracer {
        Tracer {
            leader,
            left: count,
            signal,
            begun: HashMap::new(),
        }
    }

    /// Lets the program run to its end, be it by our hand. Gives the change after which it got the signal.
    fn run(mut self) -> (Option<&'static str>, ExitStatus) {
        let mut struck = None;
        let mut has_options = false;
        loop {
            // Threads of a traced program are children of the tracer, too; they are in the group of their leader.
            let group = Pid::from_raw(-self.leader.as_raw());
            let status =
                waitpid(group, Some(WaitPidFlag::__WALL)).expect("wait for a traced program");
            let (thread, signal) = match status {
                WaitStatus::Exited(pid, code) if pid == self.leader => {
                    return (struck, ExitStatus::from_raw(code << 8));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => {
                    return (struck, ExitStatus::from_raw(signal as i32));
                }
                WaitStatus::Stopped(pid, Signal::SIGTRAP) if !has_options => {
                    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
                        | ptrace::Options::PTRACE_O_TRACECLONE
                        // Without it an execve(2) sends a SIGTRAP, which would end the program.
                        | ptrace::Options::PTRACE_O_TRACEEXEC
                        | ptrace::Options::PTRACE_O_EXITKILL;
                    ptrace::setoptions(pid, options).expect("trace a program");
                    has_options = true;
                    (pid, None)
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if struck.is_none()
                        && let Some(name) = self.change(pid)
                    {
                        self.left -= 1;
                        if self.left == 0 {
                            struck = Some(name);
                            kill(self.leader, self.signal).expect("signal a traced program");
                        }
                    }
                    (pid, None)
                }
                // A new thread begins with a stop of its own.
                WaitStatus::Stopped(pid, Signal::SIGSTOP) | WaitStatus::PtraceEvent(pid, _, _) => {
                    (pid, None)
                }
                WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
                _ => continue,
            };
            // ESRCH: killed meanwhile.
            _ = ptrace::syscall(thread, signal);
        }
    }

    /// At the end of a system call that has changed something, its name.
    fn change(&mut self, thread: Pid) -> Option<&'static str> {
        let info = syscall_info(thread)?;
        let [operation, ..] = info[0].to_ne_bytes();
        match operation {
            OP_ENTRY => {
                let [number, first @ ..] =
                    [info[3], info[4], info[5], info[6]].map(u64::cast_signed);
                self.begun.remove(&thread);
                if let Some(name) = changes(number, first) {
                    self.begun.insert(thread, name);
                }
                None
            }
            OP_EXIT => {
                let [is_error, ..] = info[4].to_ne_bytes();
                self.begun.remove(&thread).filter(|_| is_error == 0)
            }
            _ => None,
        }
    }
}

/// The name of a system call, if it changes anything.
fn changes(number: c_long, arguments: [c_long; 3]) -> Option<&'static str> {
    let named = |list: &[(c_long, &'static str)]| {
        let found = list.iter().find(|(other, _)| *other == number);
        found.map(|(_, name)| name.trim_start_matches("SYS_"))
    };
    let Some(name) = named(CHANGES).or_else(|| named(OLD_CHANGES)) else {
        let known = named(HARMLESS).or_else(|| named(OLD_HARMLESS));
        assert!(
            known.is_some(),
            "say whether system call {number} changes anything"
        );
        return None;
    };
    let flags = match name {
        "open" => arguments[1],
        "openat" => arguments[2],
        _ => return Some(name),
    };
    (flags & c_long::from(libc::O_CREAT | libc::O_TRUNC) != 0).then_some(name)
}

/// What a thread that stopped at a system call is about to do or has done; `None` when it was killed meanwhile.
fn syscall_info(thread: Pid) -> Option<[u64; INFO_WORDS]> {
    let mut info = [0u64; INFO_WORDS];
    // SAFETY: the kernel writes at most as many bytes as it is told, into a buffer of that size.
    let got = unsafe {
        libc::ptrace(
            PTRACE_GET_SYSCALL_INFO,
            thread.as_raw(),
            size_of_val(&info),
            info.as_mut_ptr(),
        )
    };
    (got > 0).then_some(info)
}
