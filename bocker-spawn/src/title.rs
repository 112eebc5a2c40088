//! What ps(1) shows of a process of ours that stays: the program, the verb and the container. The words that it was called with
//! are for everybody to read (proc_pid_cmdline(5)), and the value of a variable among them may be a secret.

use std::ffi::OsString;
use std::ptr;

use bocker_pipe::Id;

use crate::procfs;

/// The program and its verb.
const SHOWN: usize = 2;

/// Shows no more. From here on the words after the verb are another, for this process too.
pub(crate) fn show(id: Option<&Id>) {
    let Some((start, end)) = procfs::own_arguments() else {
        return;
    };
    let from = start.saturating_add(length(std::env::args_os()));
    if let Some(length) = end.checked_sub(from) {
        let words = words(id, length);
        let to = ptr::with_exposed_provenance_mut::<u8>(from);
        // SAFETY: the kernel has put the words there, on the stack of a process that may write to them and has one thread. The
        // standard library, which alone reads them, hands out copies; each still ends with a zero byte. `words` is as long.
        unsafe { ptr::copy_nonoverlapping(words.as_ptr(), to, length) };
    }
}

/// So many bytes: the id, if there is room for it and the zero byte that ends it, and zero bytes.
fn words(id: Option<&Id>, length: usize) -> Vec<u8> {
    let id = id.map_or("", Id::as_str);
    let mut words = match id.len() < length {
        true => id.as_bytes().to_vec(),
        false => Vec::new(),
    };
    words.resize(length, 0);
    words
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

    #[test]
    fn the_id_is_shown_where_it_fits() {
        let id = Id::placeholder();
        assert_eq!(words(Some(&id), 12), b"ps_dryrun\0\0\0");
        assert_eq!(words(Some(&id), 9), [0; 9]);
        assert_eq!(words(None, 2), [0; 2]);
    }
}
