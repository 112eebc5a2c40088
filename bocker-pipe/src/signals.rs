//! What INT, QUIT, HUP and TERM do to a stage: a creating one notes them and stops after its step, a deleting one ignores them.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const ENDING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTERM,
];

static PENDING: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    // The first one counts: the ones after it are the same wish, repeated.
    let _ = PENDING.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
}

fn install(handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    for signal in ENDING {
        // SAFETY: the handler is SIG_IGN, or `note`, which does nothing but one atomic store and so is async-signal-safe.
        // The call can fail for an invalid signal number only, and these are valid.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// From now on the ending signals are noted, see [`pending`]. Reading a document goes on: the stages before this one may
/// have made things that only it passes on to those who remove them.
pub(crate) fn catch() {
    install(SigHandler::Handler(note));
}

/// From now on the ending signals are ignored.
pub(crate) fn ignore() {
    install(SigHandler::SigIgn);
}

/// The first ending signal that came since [`catch`].
pub(crate) fn pending() -> Option<i32> {
    match PENDING.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}
