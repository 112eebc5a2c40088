//! What the next stage is told on stdout before the document, so that it can begin with what has come. On a terminal there is none.

use std::cell::Cell;
use std::io::{IsTerminal, stdout};

use bocker_pipe::Result;
use bocker_pipe::incoming::Notice;
use bocker_pipe::layout::{Descriptor, Digest};

/// How often it is told about a blob: when so many bytes have come, and not more often than so many times.
const STEP: u64 = 1 << 20;
const TIMES: u64 = 256;

/// That manifest and configuration are in the store.
pub(crate) fn manifest(digest: &Digest) -> Result<()> {
    tell(&Notice::Manifest(digest.to_string()))
}

/// That all of a blob is in the store, checked.
pub(crate) fn whole(blob: &Descriptor) -> Result<()> {
    tell(&Notice::Blob(blob.digest.to_string(), blob.size))
}

fn tell(notice: &Notice) -> Result<()> {
    let stdout = stdout().lock();
    match stdout.is_terminal() {
        true => Ok(()),
        false => notice.write(stdout),
    }
}

/// A blob that grows.
pub(crate) struct Growth<'a> {
    blob: &'a Descriptor,
    told: Cell<u64>,
}

impl<'a> Growth<'a> {
    pub(crate) fn of(blob: &'a Descriptor) -> Growth<'a> {
        Growth {
            blob,
            told: Cell::new(0),
        }
    }

    /// So much of it has been written; less than before when it begins anew.
    pub(crate) fn has(&self, have: u64) -> Result<()> {
        let (told, size) = (self.told.get(), self.blob.size);
        let grown = have.checked_sub(told);
        // With all of it, the blob would have been checked.
        if have >= size || grown.is_some_and(|grown| grown < (size / TIMES).max(STEP)) {
            return Ok(());
        }
        self.told.set(have);
        tell(&Notice::Blob(self.blob.digest.to_string(), have))
    }
}
