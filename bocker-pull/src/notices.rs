//! What a registry wants to have said, or is to be said about it, beside errors: collected while requests are on their way,
//! and shown when no bar is in the way, each once.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// How many different ones are shown: a registry has no right to a screen full.
const MAX: usize = 20;
/// How much of one is shown.
const LENGTH_MAX: usize = 300;

/// Lines to show.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    known: RefCell<BTreeSet<String>>,
    waiting: RefCell<Vec<String>>,
}

impl Notices {
    /// Adds a line, unless it was there already.
    pub(crate) fn add(&self, line: &str) {
        let line: String = line.chars().take(LENGTH_MAX).collect();
        let mut known = self.known.borrow_mut();
        if known.len() < MAX && known.insert(line.clone()) {
            self.waiting.borrow_mut().push(line);
        }
    }

    /// The lines that were not taken yet.
    pub(crate) fn take(&self) -> Vec<String> {
        self.waiting.take()
    }
}
