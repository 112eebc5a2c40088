//! What ps(1) shows of a process of ours that stays: the program and the verb. The words after them are for everybody to read
//! (proc_pid_cmdline(5)), and the value of a variable among them may be a secret.

use std::ffi::OsString;
use std::ptr;

use crate::procfs;

/// The program and its verb.
const SHOWN: usize = 2;

/// Shows no more. From here on the other words are empty, for this process too.
pub(crate) fn shorten() {
    let Some((start, end)) = procfs::own_arguments() else {
        return;
    };
    let from = start.saturating_add(length(std::env::args_os()));
    if let Some(length) = end.checked_sub(from) {
        // SAFETY: the kernel has put the words there, on the stack of a process that may write to them and has one thread. The
        // standard library, which alone reads them, hands out copies; each still ends with a zero byte.
        unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(from), 0, length) };
    }
}

/// How many bytes the words that are shown take, each with the zero byte that ends it.
fn length(words: impl Iterator<Item = OsString>) -> usize {
    words.take(SHOWN).map(|word| word.len() + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_words_are_shown() {
        let words = ["bocker-spawn", "run", "-e", "A=b"].map(OsString::from);
        assert_eq!(length(words.into_iter()), "bocker-spawn run ".len());
    }
}
