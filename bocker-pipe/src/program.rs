//! How a program of ours begins and ends. What Rust's own start-up adds to that is a message on stack overflow, for which it
//! reads `/proc/self/maps`, asks for the CPUs and sets up handlers with a stack of their own: 100 of the 550 microseconds
//! that a small static program takes from execve(2) to its end, and `bocker run` starts eight.

use std::io::Write;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

const NULL: &std::ffi::CStr = c"/dev/null";

/// Makes a function without parameters, which returns the exit code as `u8`, the program's `main`.
/// The crate is to be `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($main:expr) => {
        /// Called by the C library's start-up, once, with what this does not need: [`std::env::args_os`] has it.
        #[unsafe(no_mangle)]
        extern "C" fn main(_: i32, _: *const *const u8) -> i32 {
            $crate::program::run($main)
        }
    };
}

/// What [`program!`](crate::program!) calls: keeps from Rust's start-up what everything relies on, runs `main`, and
/// gives its exit code.
pub fn run(main: impl FnOnce() -> u8) -> i32 {
    open_standard_descriptors();
    // SAFETY: ignoring a signal installs no handler. It makes a write to a pipe without a reader an error to report.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let code = main();
    // What did not end with a newline is still in the buffer; whoever wanted to know has asked.
    let _ = std::io::stdout().flush();
    code.into()
}

/// A descriptor below 3 that the caller has closed would be that of the first file opened, and what is meant for a person
/// would be written there.
fn open_standard_descriptors() {
    for number in 0..=2 {
        // SAFETY: fcntl(2) with F_GETFD only looks, and checks the number itself.
        let flags = unsafe { nix::libc::fcntl(number, nix::libc::F_GETFD) };
        if flags < 0 && Errno::last() == Errno::EBADF {
            // SAFETY: the path is a C string. The lowest free number is this one, which nobody owns, now or later.
            unsafe { nix::libc::open(NULL.as_ptr(), nix::libc::O_RDWR) };
        }
    }
}
