//! What the poll(2) loop of the streams looks after for others: moments at which they want to be called, and descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// What something is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// To look again at what a process does with a signal.
    Look,
    /// A terminal has had its size for a while.
    Sized,
    /// A run has lasted as long as it may.
    Timeout,
    /// What was asked to end has had its time.
    Kill,
    /// It is time for a health check.
    Health,
    /// A health check takes too long.
    HealthTimeout,
    /// It has written something.
    HealthOutput,
    /// It has ended.
    HealthEnded,
    /// The pause before the next run is over.
    Restart,
}

/// The deadlines and descriptors of one loop.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    deadlines: Vec<(Token, Instant)>,
    descriptors: Vec<(Token, OwnedFd)>,
}

impl Watch {
    /// To be called at that moment, and at no other that was set before.
    pub(crate) fn at(&mut self, token: Token, when: Instant) {
        self.deadlines.retain(|(other, _)| *other != token);
        self.deadlines.push((token, when));
    }

    /// To be called when the descriptor is readable or at its end, until it is forgotten.
    pub(crate) fn readable(&mut self, token: Token, fd: OwnedFd) {
        self.descriptors.push((token, fd));
    }

    /// Not to be called any more.
    pub(crate) fn forget(&mut self, token: Token) {
        self.deadlines.retain(|(other, _)| *other != token);
        self.descriptors.retain(|(other, _)| *other != token);
    }

    /// The first of the deadlines.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().map(|(_, when)| *when).min()
    }

    /// A deadline that has passed, which is gone then.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Token> {
        let index = self.deadlines.iter().position(|(_, when)| *when <= now)?;
        Some(self.deadlines.swap_remove(index).0)
    }

    /// The descriptors.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (Token, BorrowedFd<'_>)> {
        self.descriptors
            .iter()
            .map(|(token, fd)| (*token, fd.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deadline_is_told_once_and_can_be_moved() {
        let mut watch = Watch::default();
        let now = Instant::now();
        watch.at(Token::Look, now);
        watch.at(Token::Look, now + Duration::from_secs(1));
        assert_eq!(watch.due(now), None, "it was moved");
        let later = watch.next().unwrap();
        assert_eq!(watch.due(later), Some(Token::Look));
        assert_eq!((watch.due(later), watch.next()), (None, None));
    }
}
