//! What people see of a pull, on stderr: one line that moves on a terminal, one line for each blob elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use bocker_pipe::layout::Descriptor;

/// How often the moving line is drawn.
pub(crate) const TICK: Duration = Duration::from_millis(100);
const USUAL_WIDTH: usize = 80;
const BAR: usize = 20;
/// Returns to the first column and clears the line (ECMA-48 EL).
const CLEAR: &str = "\r\x1b[K";
/// How much of a digest is shown: enough to tell layers apart.
const SHORT: usize = 12;

/// How far a pull is.
#[derive(Debug)]
pub(crate) struct Progress {
    how: How,
    name: String,
    begun: Instant,
    total: u64,
    blobs: usize,
    bytes: Cell<u64>,
    finished: Cell<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Quiet,
    Lines,
    Bar,
}

impl Progress {
    /// Of `blobs` blobs of `total` bytes that are part of the image `name`.
    pub(crate) fn new(quiet: bool, name: String, total: u64, blobs: usize) -> Progress {
        let how = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => How::Quiet,
            (false, true) => How::Bar,
            (false, false) => How::Lines,
        };
        Progress {
            how,
            name,
            begun: Instant::now(),
            total,
            blobs,
            bytes: Cell::new(0),
            finished: Cell::new(0),
        }
    }

    /// Some bytes came.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// A blob is stored, or was there already.
    pub(crate) fn blob(&self, blob: &Descriptor, downloaded: bool) {
        self.finished.set(self.finished.get() + 1);
        if !downloaded {
            self.advance(blob.size);
        }
        if self.how == How::Lines {
            let done = if downloaded {
                "downloaded"
            } else {
                "already here"
            };
            self.say(&format!("{} {:>10} {done}", short(blob), size(blob.size)));
        }
    }

    /// Draws the moving line anew.
    pub(crate) fn draw(&self) {
        if self.how == How::Bar {
            let width = width().saturating_sub(1);
            let line: String = self
                .line(self.begun.elapsed())
                .chars()
                .take(width)
                .collect();
            // A terminal that has gone is nothing that a pull should stop for.
            let _ = write!(std::io::stderr(), "{CLEAR}{line}");
        }
    }

    /// Removes the moving line, before anything else is said.
    pub(crate) fn clear(&self) {
        if self.how == How::Bar {
            let _ = write!(std::io::stderr(), "{CLEAR}");
        }
    }

    /// Says one line that is not an error.
    pub(crate) fn say(&self, line: &str) {
        if self.how != How::Quiet {
            self.clear();
            // What a registry sent may be in it.
            let line = line.replace(char::is_control, "?");
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let (bytes, total) = (self.bytes.get(), self.total.max(1));
        // Sizes are the registry's word: u128 so that no product overflows.
        let filled =
            (u128::from(bytes) * BAR as u128 / u128::from(total)).min(BAR as u128) as usize;
        let speed = bytes as f64 / elapsed.as_secs_f64().max(0.001);
        format!(
            "{}/{} layers [{:<BAR$}] {} of {}, {}/s {}",
            self.finished.get(),
            self.blobs,
            "#".repeat(filled),
            size(bytes),
            size(self.total),
            size(speed as u64),
            self.name,
        )
    }
}

/// The first characters of a blob's digest.
pub(crate) fn short(blob: &Descriptor) -> &str {
    &blob.digest.hex()[..SHORT]
}

/// Bytes for people, in powers of ten as docker shows them.
pub(crate) fn size(bytes: u64) -> String {
    let scaled = |unit: u64| bytes as f64 / unit as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", scaled(1_000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", scaled(1_000_000)),
        _ => format!("{:.2} GB", scaled(1_000_000_000)),
    }
}

/// The columns of the terminal that stderr is.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => USUAL_WIDTH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_how_far_it_is_and_stays_within_absurd_sizes() {
        let progress = Progress::new(true, "busybox:1".into(), 2_000_000, 4);
        progress.advance(1_000_000);
        assert_eq!(
            progress.line(Duration::from_secs(2)),
            "0/4 layers [##########          ] 1.0 MB of 2.0 MB, 500.0 kB/s busybox:1"
        );
        let absurd = Progress::new(true, "x".into(), u64::MAX, 1);
        absurd.advance(u64::MAX);
        assert!(
            absurd
                .line(Duration::ZERO)
                .contains("18446744073.71 GB of 18446744073.71 GB")
        );
        let empty = Progress::new(true, "x".into(), 0, 0);
        assert!(empty.line(Duration::ZERO).contains("0 B of 0 B"));
    }

    #[test]
    fn sizes_are_rounded_to_what_people_read() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(2_345_678), "2.3 MB");
        assert_eq!(size(1_234_567_890), "1.23 GB");
    }
}
