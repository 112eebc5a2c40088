//! Much data that is written once and not read soon: it is sent to the disk while more of it comes, and the memory that the kernel
//! keeps it in is used again for what comes next.
//!
//! Otherwise the page cache grows by all that a pull writes: it pushes out what the machine works with, the kernel finds and clears a
//! new page for each of them (in a virtual machine, at worst, the host has to), and at the end one waits for the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU64;
use std::rc::Rc;

use rustix::fs::{Advice, fadvise};

/// Smaller files are left to the kernel, which writes many of them at once better than each by itself, in bytes.
pub(crate) const LEAST: u64 = 64 << 10;
/// How much of a file is sent at once, in bytes.
pub(crate) const PIECE: u64 = 8 << 20;
/// How much may be on its way to the disk, in bytes and in pieces.
const UNDERWAY: u64 = 32 << 20;
const PIECES: usize = 128;

/// What is on its way to the disk.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    pieces: VecDeque<Piece>,
    bytes: u64,
}

#[derive(Debug)]
struct Piece {
    file: Rc<File>,
    offset: u64,
    length: u64,
}

impl Writeback {
    /// Sends a part of a file to the disk, and forgets the parts that were sent before and have arrived. It is advice: nothing fails,
    /// and nothing is said about what is on the disk.
    pub(crate) fn send(&mut self, file: &Rc<File>, offset: u64, length: u64) {
        let piece = Piece {
            file: Rc::clone(file),
            offset,
            length,
        };
        piece.advise();
        self.bytes += length;
        self.pieces.push_back(piece);
        while self.bytes > UNDERWAY || self.pieces.len() > PIECES {
            let Some(oldest) = self.pieces.pop_front() else {
                break;
            };
            self.bytes -= oldest.length;
            oldest.advise();
        }
    }
}

impl Piece {
    /// The first time this begins to write what is dirty, the second time it gives back the pages that are clean by then
    /// (posix_fadvise(2)). Unlike sync_file_range(2) and RWF_DONTCACHE it reaches through overlayfs.
    fn advise(&self) {
        // Without it everything is as it would have been.
        let _ = fadvise(
            &*self.file,
            self.offset,
            NonZeroU64::new(self.length),
            Advice::DontNeed,
        );
    }
}
