//! What comes of a verb that does the same to several.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result};

use crate::session::complain;

/// How it went with one; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Done,
    Missing,
    InUse,
    Failed,
}

impl Outcome {
    /// Podman's exit codes of `rm` and `rmi`.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Missing => 1,
            Outcome::InUse => 2,
            Outcome::Failed => EXIT_FAILED,
        }
    }

    /// Of the exit status of a pipeline.
    pub(crate) fn of_status(status: u8) -> Outcome {
        match status {
            0 => Outcome::Done,
            _ => Outcome::Failed,
        }
    }

    fn of(error: &Error) -> Outcome {
        match error.kind() {
            Kind::NotFound => Outcome::Missing,
            Kind::InUse => Outcome::InUse,
            _ => Outcome::Failed,
        }
    }
}

/// Does it to each, and gives the worst of it: what is wrong with one does not keep the others.
/// Fails when a signal has ended it.
pub(crate) fn each(
    names: &[String],
    mut act: impl FnMut(&str) -> Result<Outcome>,
) -> Result<Outcome> {
    let mut worst = Outcome::Done;
    for name in names {
        worst = worst.max(match act(name) {
            Ok(outcome) => outcome,
            Err(error) if matches!(error.kind(), Kind::Interrupted(_)) => return Err(error),
            Err(error) => {
                complain(&error);
                Outcome::of(&error)
            }
        });
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_all_is_reported_and_none_is_left_out() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let mut seen = Vec::new();
        let outcome = each(&names, |name| {
            seen.push(name.to_owned());
            match name {
                "a" => Err(Error::new(Kind::InUse, "in use")),
                "b" => Err(Error::new(Kind::NotFound, "missing")),
                _ => Ok(Outcome::Done),
            }
        });
        assert_eq!(outcome.unwrap().exit_code(), 2);
        assert_eq!(seen, names);
    }

    #[test]
    fn a_signal_ends_it() {
        let names = ["a", "b"].map(str::to_owned);
        let outcome = each(&names, |_| {
            Err(Error::new(Kind::Interrupted(2), "interrupted"))
        });
        assert_eq!(outcome.unwrap_err().exit_code(), 130);
    }
}
