//! One error type for all tools. What went wrong is a [`Kind`], and the exit code belongs to the kind, never to the text.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// A tool failed, wrong usage included (the "chroot standard" that docker and podman follow).
pub const EXIT_FAILED: u8 = 125;
/// The command exists but cannot be executed.
pub const EXIT_CANNOT_EXECUTE: u8 = 126;
/// The command was not found.
pub const EXIT_NOT_FOUND: u8 = 127;
/// A signal `n` is reported as `EXIT_SIGNAL + n`.
pub const EXIT_SIGNAL: u8 = 128;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller may want to tell cases apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The document is not one, is too large, or lacks what the stage needs.
    Document,
    /// The document is of another major version.
    Version,
    /// A named container, image or volume does not exist.
    NotFound,
    /// A name is taken.
    Exists,
    /// The object is alive, locked or used by another.
    InUse,
    /// A value that a user or an image gave is out of range or malformed.
    Invalid,
    /// Well formed, but not done here (yet), or not on this kernel.
    Unsupported,
    /// A system call failed with this errno.
    System(i32),
    /// A registry or another peer refused or lied.
    Remote,
    /// The container's command cannot be executed: exit 126.
    CannotExecute,
    /// The container's command was not found: exit 127.
    CommandNotFound,
    /// This signal ended the work: exit 128+n.
    Interrupted(i32),
    /// `BOCKER_FAIL_AT` asked for it.
    Injected,
    /// A stage before this one failed with this exit code; it has already said why.
    Passed(u8),
}

impl Kind {
    /// The word that stands for the kind in `bocker.error.kind`.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Document => "document",
            Kind::Version => "version",
            Kind::NotFound => "not-found",
            Kind::Exists => "exists",
            Kind::InUse => "in-use",
            Kind::Invalid => "invalid",
            Kind::Unsupported => "unsupported",
            Kind::System(_) => "system",
            Kind::Remote => "remote",
            Kind::CannotExecute => "cannot-execute",
            Kind::CommandNotFound => "command-not-found",
            Kind::Interrupted(_) => "interrupted",
            Kind::Injected => "injected",
            Kind::Passed(_) => "passed",
        }
    }

    /// The exit code of a tool that ends with this kind of error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Kind::CannotExecute => EXIT_CANNOT_EXECUTE,
            Kind::CommandNotFound => EXIT_NOT_FOUND,
            // Signal numbers end at 64, so the sum fits; the mask keeps it so for any value.
            Kind::Interrupted(signal) => EXIT_SIGNAL.saturating_add((signal & 0x7f) as u8),
            Kind::Passed(code) => *code,
            _ => EXIT_FAILED,
        }
    }
}

/// An error: what was being done on which object, why that failed, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error whose message is one line without the tool's name and without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// A failed system call: "cannot `what`: No such file or directory (ENOENT)".
    pub fn system(what: &str, errno: Errno) -> Error {
        let message = format!("cannot {what}: {} ({errno:?})", errno.desc());
        let error = Error::new(Kind::System(errno as i32), message);
        match errno {
            Errno::EPERM | Errno::EACCES if !nix::unistd::geteuid().is_root() => {
                error.hint("run it as root")
            }
            Errno::ENOSPC => error.hint("free some space with 'bocker system prune'"),
            _ => error,
        }
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Appends another failure that happened while this one was handled; the kind stays the first one's.
    #[must_use]
    pub fn and(mut self, other: &Error) -> Error {
        self.message = format!("{}; and then {}", self.message, other.message);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The message without its hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code that belongs to the kind.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// The errno of a failed system call.
    pub fn errno(&self) -> Option<i32> {
        match self.kind {
            Kind::System(errno) => Some(errno),
            _ => None,
        }
    }

    /// Whether a system call failed with this errno.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno as i32)
    }
}

impl fmt::Display for Error {
    /// One line: control characters, which a hostile name may hold, are shown escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.message)?;
        if let Some(hint) = &self.hint {
            f.write_str("; ")?;
            write_line(f, hint)?;
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            fmt::Write::write_char(f, c)?;
        }
    }
    Ok(())
}

impl std::error::Error for Error {}

/// What failed of work that goes on after a failure.
#[derive(Debug, Default)]
pub struct Failures(Option<Error>);

impl Failures {
    /// Remembers the failure, if it is one.
    pub fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.0 = Some(match self.0.take() {
                None => error,
                Some(first) => first.and(&error),
            });
        }
    }

    /// Whether nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// One error that tells all failures, of the first one's kind.
    pub fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the failure into "cannot `what`: ...".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            match error.raw_os_error() {
                Some(code) => Error::system(&what(), Errno::from_raw(code)),
                None => Error::new(
                    Kind::System(Errno::EIO as i32),
                    format!("cannot {}: {error}", what()),
                ),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_belongs_to_the_kind() {
        assert_eq!(Error::new(Kind::Usage, "x").exit_code(), 125);
        assert_eq!(Error::new(Kind::CannotExecute, "x").exit_code(), 126);
        assert_eq!(Error::new(Kind::CommandNotFound, "x").exit_code(), 127);
        assert_eq!(Error::new(Kind::Interrupted(2), "x").exit_code(), 130);
        assert_eq!(Error::new(Kind::Passed(126), "x").exit_code(), 126);
    }

    #[test]
    fn a_failed_call_names_the_errno_and_its_meaning() {
        let error = std::fs::File::open("/nowhere/at/all")
            .doing(|| "open /nowhere/at/all".into())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open /nowhere/at/all: No such file or directory (ENOENT)"
        );
        assert!(error.is(Errno::ENOENT));
    }

    #[test]
    fn a_hostile_name_cannot_break_the_line() {
        let error =
            Error::new(Kind::NotFound, "No image named 'a\nb\x1b[2J' exists").hint("try\nless");
        assert_eq!(
            error.to_string(),
            "No image named 'a\\nb\\u{1b}[2J' exists; try\\nless"
        );
    }
}
