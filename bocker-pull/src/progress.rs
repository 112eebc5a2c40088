//! What is shown of a pull or a push, on stderr: on a terminal a bar for each blob on its way and one for all, which are gone at
//! the end; elsewhere one line for each blob; for programs, events as JSON Lines.

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

use bocker_pipe::layout::{Descriptor, Digest};
use bocker_pipe::{Call, Error, Kind, Result};
use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::notices::Notices;

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

/// How the user wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Style {
    /// Bars on a terminal, lines elsewhere.
    #[default]
    Auto,
    Plain,
    Json,
    Quiet,
}

impl Style {
    /// Takes an option, if it is one of these. Fails with [`Kind::Usage`] when its value is none.
    pub(crate) fn take(&mut self, call: &mut Call, option: &str) -> Result<bool> {
        *self = match option {
            "-q" | "--quiet" => Style::Quiet,
            "--progress" => match call.text()?.as_str() {
                "auto" => Style::Auto,
                "plain" => Style::Plain,
                "json" => Style::Json,
                "quiet" => Style::Quiet,
                other => {
                    let what = format!("'{other}' is no way to show progress");
                    return Err(Error::new(Kind::Usage, what).hint("auto, plain, json or quiet"));
                }
            },
            _ => return Ok(false),
        };
        Ok(true)
    }
}

/// How far a pull or a push is.
pub(crate) struct Progress(How);

enum How {
    Quiet,
    /// What is said, and nothing of blobs.
    Messages,
    Lines,
    Bars(Bars),
    Json(Json),
}

/// What a program reads. The names are part of the interface: they are in the README.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'a> {
    /// What the reference means.
    Resolve {
        reference: &'a str,
        digest: &'a Digest,
    },
    /// A blob begins to come or to go.
    Begin { blob: &'a Digest, size: u64 },
    /// Some of it has.
    Progress {
        blob: &'a Digest,
        bytes: u64,
        size: u64,
    },
    /// All of it has.
    Done {
        blob: &'a Digest,
        size: u64,
        how: &'a str,
    },
    /// It was there.
    Present { blob: &'a Digest, size: u64 },
    /// All blobs together; those that are present count.
    Total {
        blobs: usize,
        of: usize,
        bytes: u64,
        size: u64,
    },
    /// A line for people.
    Message { text: &'a str },
}

impl Event<'_> {
    /// In one write. A reader that has gone is nothing that a pull should stop for.
    fn print(&self) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let _ = std::io::stderr().write_all(&line);
        }
    }
}

struct Json {
    blobs: usize,
    finished: Cell<usize>,
    size: u64,
    bytes: Cell<u64>,
    /// What the last total said.
    said: Cell<(usize, u64)>,
}

impl Json {
    fn total(&self) {
        let now = (self.finished.get(), self.bytes.get());
        if self.said.replace(now) != now {
            let (blobs, bytes) = now;
            Event::Total {
                blobs,
                of: self.blobs,
                bytes,
                size: self.size,
            }
            .print();
        }
    }
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    blob: ProgressStyle,
    blobs: usize,
    finished: Cell<usize>,
}

/// A blob on its way. Dropped, its bar is gone.
pub(crate) struct Underway<'a>(Shown<'a>);

enum Shown<'a> {
    Not,
    Bar(&'a Bars, ProgressBar),
    Events {
        json: &'a Json,
        blob: Digest,
        size: u64,
        bytes: Cell<u64>,
        /// When the last event was printed.
        said: Cell<Instant>,
    },
}

impl Progress {
    /// Of something that has no size.
    pub(crate) fn waiting(style: Style) -> Progress {
        match style {
            Style::Quiet => Progress(How::Quiet),
            Style::Json => Progress::of(style, []),
            Style::Auto | Style::Plain => Progress(How::Messages),
        }
    }

    /// Of these blobs. Nothing is drawn before the first [`Progress::draw`].
    pub(crate) fn of<'a>(
        style: Style,
        blobs: impl IntoIterator<Item = &'a Descriptor>,
    ) -> Progress {
        let (mut count, mut bytes) = (0, 0_u64);
        for blob in blobs {
            count += 1;
            bytes = bytes.saturating_add(blob.size);
        }
        match style {
            Style::Auto => Progress::on_terminal(count, bytes),
            Style::Plain => Progress(How::Lines),
            Style::Quiet => Progress(How::Quiet),
            Style::Json => Progress(How::Json(Json {
                blobs: count,
                finished: Cell::new(0),
                size: bytes,
                bytes: Cell::new(0),
                said: Cell::new((0, 0)),
            })),
        }
    }

    fn on_terminal(blobs: usize, bytes: u64) -> Progress {
        let all = MultiProgress::new();
        let rows = match width() {
            // Also where `TERM` is not set, or that of a terminal whose cursor only moves on.
            _ if all.is_hidden() => return Progress(How::Lines),
            ..NARROW => return Progress(How::Lines),
            NARROW..WIDE => NARROW_ROWS,
            WIDE.. => WIDE_ROWS,
        };
        let total = ProgressBar::new(bytes)
            .with_style(style(rows.total))
            .with_prefix(count(0, blobs));
        Progress(How::Bars(Bars {
            total: all.add(total),
            all,
            blob: style(rows.blob),
            blobs,
            finished: Cell::new(0),
        }))
    }

    /// What the reference led to is known.
    pub(crate) fn resolved(&self, reference: &str, digest: &Digest) {
        if let How::Json(_) = self.0 {
            Event::Resolve { reference, digest }.print();
        }
    }

    /// A blob that is in the store already.
    pub(crate) fn present(&self, blob: &Descriptor) {
        self.left_out(blob, "already here");
    }

    /// A blob that the registry has already.
    pub(crate) fn there(&self, blob: &Descriptor) {
        self.left_out(blob, "already there");
    }

    fn left_out(&self, blob: &Descriptor, how: &str) {
        self.finished(blob, how);
        match &self.0 {
            // What nobody downloads would be taken for speed.
            How::Bars(bars) => bars.total.dec_length(blob.size),
            How::Json(json) => {
                json.bytes.set(json.bytes.get().saturating_add(blob.size));
                let (blob, size) = (&blob.digest, blob.size);
                Event::Present { blob, size }.print();
                json.total();
            }
            How::Quiet | How::Messages | How::Lines => {}
        }
    }

    /// A blob begins to come or to go.
    pub(crate) fn begin(&self, blob: &Descriptor) -> Underway<'_> {
        let bars = match &self.0 {
            How::Bars(bars) => bars,
            How::Json(json) => {
                let (digest, size) = (blob.digest.clone(), blob.size);
                Event::Begin {
                    blob: &digest,
                    size,
                }
                .print();
                return Underway(Shown::Events {
                    json,
                    blob: digest,
                    size,
                    bytes: Cell::new(0),
                    said: Cell::new(Instant::now()),
                });
            }
            How::Quiet | How::Messages | How::Lines => return Underway(Shown::Not),
        };
        let bar = ProgressBar::new(blob.size)
            .with_style(bars.blob.clone())
            .with_prefix(short(blob).to_owned());
        let bar = bars.all.insert_before(&bars.total, bar);
        // A bar that never was drawn would come up with its first byte.
        bar.tick();
        Underway(Shown::Bar(bars, bar))
    }

    /// A blob is stored.
    pub(crate) fn downloaded(&self, blob: &Descriptor) {
        self.done(blob, "downloaded");
    }

    /// A registry has stored a blob.
    pub(crate) fn uploaded(&self, blob: &Descriptor) {
        self.done(blob, "uploaded");
    }

    /// A registry has taken a blob over from another of its repositories.
    pub(crate) fn mounted(&self, blob: &Descriptor) {
        match &self.0 {
            How::Bars(bars) => bars.total.dec_length(blob.size),
            How::Json(json) => json.bytes.set(json.bytes.get().saturating_add(blob.size)),
            How::Quiet | How::Messages | How::Lines => {}
        }
        self.done(blob, "mounted");
    }

    fn done(&self, blob: &Descriptor, how: &str) {
        self.finished(blob, how);
        if let How::Json(json) = &self.0 {
            let (blob, size) = (&blob.digest, blob.size);
            Event::Done { blob, size, how }.print();
            json.total();
        }
    }

    fn finished(&self, blob: &Descriptor, how: &str) {
        match &self.0 {
            How::Quiet | How::Messages => {}
            How::Lines => self.say(&format!("{} {:>10} {how}", short(blob), size(blob.size))),
            How::Bars(bars) => {
                bars.finished.set(bars.finished.get() + 1);
                bars.total
                    .set_prefix(count(bars.finished.get(), bars.blobs));
            }
            How::Json(json) => json.finished.set(json.finished.get() + 1),
        }
    }

    /// Draws the bars anew.
    pub(crate) fn draw(&self) {
        match &self.0 {
            How::Bars(bars) => bars.total.tick(),
            How::Json(json) => json.total(),
            How::Quiet | How::Messages | How::Lines => {}
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
        match self.0 {
            How::Quiet => {}
            How::Json(_) => Event::Message { text: line }.print(),
            How::Messages | How::Lines | How::Bars(_) => {
                self.clear();
                // What a registry sent may be in it.
                let line = line.replace(char::is_control, "?");
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    }
}

impl Underway<'_> {
    /// Some bytes came or went.
    pub(crate) fn advance(&self, more: u64) {
        match &self.0 {
            Shown::Not => {}
            Shown::Bar(bars, bar) => {
                bar.inc(more);
                bars.total.inc(more);
            }
            Shown::Events {
                json,
                blob,
                size,
                bytes,
                said,
            } => {
                bytes.set(bytes.get().saturating_add(more));
                json.bytes.set(json.bytes.get().saturating_add(more));
                if more > 0 && said.get().elapsed() >= TICK {
                    said.set(Instant::now());
                    Event::Progress {
                        blob,
                        bytes: bytes.get(),
                        size: *size,
                    }
                    .print();
                }
            }
        }
    }

    /// So many of the bytes that came are worth nothing.
    pub(crate) fn retreat(&self, less: u64) {
        match &self.0 {
            Shown::Not => {}
            Shown::Bar(bars, bar) => {
                let less = less.min(bar.position());
                bar.dec(less);
                bars.total.dec(less);
            }
            Shown::Events { json, bytes, .. } => {
                let less = less.min(bytes.get());
                bytes.set(bytes.get() - less);
                json.bytes.set(json.bytes.get().saturating_sub(less));
            }
        }
    }

    /// All bytes that came are worth nothing: the blob begins anew.
    pub(crate) fn restart(&self) {
        self.retreat(u64::MAX);
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Shown::Bar(bars, bar) = &self.0 {
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
