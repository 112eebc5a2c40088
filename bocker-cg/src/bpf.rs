//! bpf(2), for which neither `nix` nor `rustix` has a call: loading a device program and attaching it to a group. All
//! `unsafe` of the crate is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use bocker_pipe::{Doing, Error, Result};
use nix::errno::Errno;

use crate::device_filter::{Filter, Instruction};

/// Commands of bpf(2), and the kinds of program and of attachment (enum bpf_cmd, bpf_prog_type and bpf_attach_type,
/// linux/bpf.h).
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Programs of groups above and beneath count too: all must allow a device (BPF_F_ALLOW_MULTI).
const ALLOW_MULTI: u32 = 1 << 1;
/// Shown by bpftool(8); at most 15 letters, digits, `_` and `.`.
const NAME: [u8; 16] = *b"bocker_devices\0\0";
/// Decides which functions of the kernel a program may call; ours calls none.
const LICENSE: &std::ffi::CStr = c"MIT";

/// The beginning of union bpf_attr for [`PROG_LOAD`]; the kernel takes what is missing as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// For [`PROG_ATTACH`].
#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Attaches a device program to a group. It goes with the group.
pub(crate) fn attach(group: &Path, filter: &Filter) -> Result<()> {
    let doing = || format!("attach a device program to {}", group.display());
    let folder = File::open(group).doing(doing)?;
    load(&filter.instructions())
        .and_then(|program| attach_to(&folder, &program))
        .doing(doing)
        .map_err(explained)
}

fn explained(error: Error) -> Error {
    if error.is(Errno::EPERM) {
        return error.hint(
            "it takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN; --devices all does without",
        );
    }
    if error.is(Errno::EINVAL) || error.is(Errno::ENOSYS) {
        return error.hint("it takes a kernel with CONFIG_CGROUP_BPF; --devices all does without");
    }
    error
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len().try_into().unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: NAME,
    };
    // SAFETY: `attr` has the layout of the kernel's for this command, and `insns` and `license` point to as many
    // instructions as it says and to a C string, which outlive the call; nothing is written to them.
    let fd = unsafe { bpf(PROG_LOAD, &attr) }?;
    // SAFETY: the kernel has just answered with a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach_to(group: &File, program: &OwnedFd) -> io::Result<()> {
    let attr = ProgAttach {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    // SAFETY: `attr` has the layout of the kernel's for this command, which holds no pointers.
    unsafe { bpf(PROG_ATTACH, &attr) }.map(|_| ())
}

/// # Safety
/// `attr` must have the layout that the kernel has for the command, and its pointers must be valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the size is that of `attr`, and the caller vouches for its content.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as libc::c_int)
}
