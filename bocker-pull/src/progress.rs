//! What people see of a pull, on stderr: on a terminal a bar for each blob on its way and one for all, which are gone at
//! the end; elsewhere one line for each blob.

use std::cell::Cell;
use std::io::Write;
use std::time::Duration;

use bocker_pipe::layout::Descriptor;
use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::notices::Notices;
use crate::resolve::Layer;

/// How often the bars are drawn at least: time left and speed change while no byte comes.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// From how many columns on there is room for bars and sizes beside the names and numbers.
const WIDE: u16 = 64;
/// From how many columns on there is room for names and numbers. Rows that do not fit would be wrapped.
const NARROW: u16 = 36;
const USUAL_WIDTH: u16 = 80;
/// How much of a digest is shown: enough to tell layers apart.
const SHORT: usize = 12;
const FILLED_TO_EMPTY: &str = "#> ";

/// The rows of a terminal. The last one ends by taking the cursor to its beginning (ECMA-48 CHA): Ctrl-C is echoed where
/// the cursor is, and behind a full row the echo begins another one, of which nobody knows when all are cleared.
struct Rows {
    blob: &'static str,
    total: &'static str,
}

const WIDE_ROWS: Rows = Rows {
    blob: "{prefix:12} [{wide_bar}] {decimal_bytes:>9} of {decimal_total_bytes:<9}               ",
    total: "{prefix:12} [{wide_bar}] {decimal_bytes:>9} of {decimal_total_bytes:<9}{decimal_bytes_per_sec:>11} {eta:>3}\x1b[G",
};
const NARROW_ROWS: Rows = Rows {
    blob: "{prefix:12} {percent:>3}%",
    total: "{prefix:12} {percent:>3}% {decimal_bytes_per_sec:>11} {eta:>3}{wide_msg}\x1b[G",
};

/// How far a pull is.
pub(crate) struct Progress(How);

enum How {
    Quiet,
    Lines,
    Bars(Bars),
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    blob: ProgressStyle,
    blobs: usize,
    finished: Cell<usize>,
}

/// A blob on its way. Dropped, its bar is gone.
pub(crate) struct Underway<'a>(Option<(&'a Bars, ProgressBar)>);

impl Progress {
    /// Of nothing that is to be shown.
    pub(crate) fn quiet() -> Progress {
        Progress(How::Quiet)
    }

    /// Of something that has no size.
    pub(crate) fn lines() -> Progress {
        Progress(How::Lines)
    }

    /// Of the download of these layers. Nothing is drawn before the first [`Progress::draw`].
    pub(crate) fn of(layers: &[Layer]) -> Progress {
        let all = MultiProgress::new();
        let rows = match width() {
            // Also where `TERM` is not set, or that of a terminal whose cursor only moves on.
            _ if all.is_hidden() => return Progress(How::Lines),
            ..NARROW => return Progress(How::Lines),
            NARROW..WIDE => NARROW_ROWS,
            WIDE.. => WIDE_ROWS,
        };
        let bytes = layers
            .iter()
            .map(|layer| layer.descriptor.size)
            .fold(0, u64::saturating_add);
        let total = ProgressBar::new(bytes)
            .with_style(style(rows.total))
            .with_prefix(count(0, layers.len()));
        Progress(How::Bars(Bars {
            total: all.add(total),
            all,
            blob: style(rows.blob),
            blobs: layers.len(),
            finished: Cell::new(0),
        }))
    }

    /// A blob that was there already.
    pub(crate) fn present(&self, blob: &Descriptor) {
        self.finished(blob, "already here");
        if let How::Bars(bars) = &self.0 {
            // What nobody downloads would be taken for speed.
            bars.total.dec_length(blob.size);
        }
    }

    /// A blob begins to come.
    pub(crate) fn begin(&self, blob: &Descriptor) -> Underway<'_> {
        let How::Bars(bars) = &self.0 else {
            return Underway(None);
        };
        let bar = ProgressBar::new(blob.size)
            .with_style(bars.blob.clone())
            .with_prefix(short(blob).to_owned());
        let bar = bars.all.insert_before(&bars.total, bar);
        // A bar that never was drawn would come up with its first byte.
        bar.tick();
        Underway(Some((bars, bar)))
    }

    /// A blob is stored.
    pub(crate) fn downloaded(&self, blob: &Descriptor) {
        self.finished(blob, "downloaded");
    }

    fn finished(&self, blob: &Descriptor, how: &str) {
        match &self.0 {
            How::Quiet => {}
            How::Lines => self.say(&format!("{} {:>10} {how}", short(blob), size(blob.size))),
            How::Bars(bars) => {
                bars.finished.set(bars.finished.get() + 1);
                bars.total
                    .set_prefix(count(bars.finished.get(), bars.blobs));
            }
        }
    }

    /// Draws the bars anew.
    pub(crate) fn draw(&self) {
        if let How::Bars(bars) = &self.0 {
            bars.total.tick();
        }
    }

    /// Removes the bars, before anything else is said.
    pub(crate) fn clear(&self) {
        if let How::Bars(bars) = &self.0 {
            // A terminal that has gone is nothing that a pull should stop for.
            let _ = bars.all.clear();
        }
    }

    /// Says what is to be said about a registry.
    pub(crate) fn say_all(&self, notices: &Notices) {
        for line in notices.take() {
            self.say(&format!("bocker-pull: {line}"));
        }
    }

    /// Says one line that is not an error.
    pub(crate) fn say(&self, line: &str) {
        if !matches!(self.0, How::Quiet) {
            self.clear();
            // What a registry sent may be in it.
            let line = line.replace(char::is_control, "?");
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

impl Underway<'_> {
    /// Some bytes came.
    pub(crate) fn advance(&self, bytes: u64) {
        if let Some((bars, bar)) = &self.0 {
            bar.inc(bytes);
            bars.total.inc(bytes);
        }
    }
}

impl Underway<'_> {
    /// All bytes that came are worth nothing: the blob begins anew.
    pub(crate) fn restart(&self) {
        if let Some((bars, bar)) = &self.0 {
            bars.total.dec(bar.position());
            bar.reset();
        }
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Some((bars, bar)) = &self.0 {
            bars.all.remove(bar);
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the templates are constants, and a test reads each"
)]
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("a template")
        .progress_chars(FILLED_TO_EMPTY)
}

fn count(finished: usize, blobs: usize) -> String {
    format!("{finished}/{blobs} layers")
}

/// The first characters of a blob's digest.
fn short(blob: &Descriptor) -> &str {
    &blob.digest.hex()[..SHORT]
}

/// Bytes for people, in powers of ten as docker shows them.
pub(crate) fn size(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

/// The columns of the terminal that stderr is.
fn width() -> u16 {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col,
        _ => USUAL_WIDTH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_can_be_read() {
        for rows in [WIDE_ROWS, NARROW_ROWS] {
            style(rows.blob);
            style(rows.total);
        }
    }
}
