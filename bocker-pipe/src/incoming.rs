//! What bocker-pull says before its document, a line of JSON for each thing, so that bocker-snap can unpack what has come while the
//! rest is on its way: `{"pull":{"manifest":DIGEST}}` when manifest and configuration are in the image store, then
//! `{"pull":{"blob":DIGEST,"have":BYTES}}`, when a layer's blob has grown. Such a line is a hint: whoever reads documents
//! alone passes over them, and the writer leaves one out rather than wait for the reader.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Deserializer;

use crate::document::{Document, MAX_SIZE, too_large, unreadable};
use crate::error::{Doing, Error, Kind, Result};

/// How long a wait lasts before who waits looks around.
pub const TICK: Duration = Duration::from_millis(50);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The manifest of this digest and its configuration are in the image store, checked.
    Manifest(String),
    /// So many bytes of the blob of this digest have been written. With all of them it is in the image store, checked; one that is
    /// fetched anew has fewer again.
    Blob(String, u64),
}

/// As it is written. Plain members, since numbers that are kept as text survive no untagged enum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    pull: Members,
}

#[derive(Serialize, Deserialize)]
struct Members {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    have: Option<u64>,
}

/// Any line of bocker-pull's, of later versions too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyLine {
    #[expect(dead_code, reason = "only whether it is there matters")]
    pull: IgnoredAny,
}

impl Notice {
    /// Writes the line, unless the reader is so far behind that this would wait. Fails when the reader has gone.
    pub fn write(&self, mut to: impl Write + AsFd) -> Result<()> {
        let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        // A pipe is ready when a line of less than PIPE_BUF bytes is written at once (pipe(7)).
        let answer = poll(&mut ready, PollTimeout::ZERO);
        if matches!(answer, Ok(0)) {
            return Ok(());
        }
        let (manifest, blob, have) = match self {
            Notice::Manifest(digest) => (Some(digest.clone()), None, None),
            Notice::Blob(digest, have) => (None, Some(digest.clone()), Some(*have)),
        };
        let pull = Members {
            manifest,
            blob,
            have,
        };
        // Strings and numbers: this cannot fail.
        let mut line = serde_json::to_vec(&Line { pull }).unwrap_or_default();
        line.push(b'\n');
        to.write_all(&line)
            .and_then(|()| to.flush())
            .doing(|| "say what has come".into())
    }

    fn parse(line: &[u8]) -> Option<Notice> {
        let pull = serde_json::from_slice::<Line>(line).ok()?.pull;
        match (pull.manifest, pull.blob, pull.have) {
            (Some(digest), _, _) => Some(Notice::Manifest(digest)),
            (None, Some(digest), Some(have)) => Some(Notice::Blob(digest, have)),
            _ => None,
        }
    }
}

/// What remains when the lines before a document are passed over, however they are laid out.
pub(crate) fn skip(bytes: &[u8]) -> &[u8] {
    let mut lines = Deserializer::from_slice(bytes).into_iter::<AnyLine>();
    while let Some(Ok(_)) = lines.next() {}
    &bytes[lines.byte_offset()..]
}

/// What comes down the pipe, read by a thread as it comes: the writer never waits for what is done about it.
#[derive(Debug, Clone)]
pub struct Incoming(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    manifest: Option<String>,
    have: HashMap<String, u64>,
    /// What came after the lines, up to the end of file.
    end: Option<std::result::Result<Vec<u8>, String>>,
}

impl Incoming {
    /// Begins to read, at most [`MAX_SIZE`] bytes.
    pub fn new(from: impl Read + Send + 'static) -> Incoming {
        let incoming = Incoming(Arc::default());
        let shared = incoming.clone();
        thread::spawn(move || {
            let end = shared.read(from).map_err(|error| error.to_string());
            shared.change(|state| state.end = Some(end));
        });
        incoming
    }

    fn read(&self, from: impl Read) -> std::io::Result<Vec<u8>> {
        // One more than is taken, so that more can be told from just as much.
        let mut from = BufReader::new(from.take(MAX_SIZE + 1));
        let mut rest = Vec::new();
        loop {
            rest.clear();
            from.read_until(b'\n', &mut rest)?;
            match Notice::parse(&rest) {
                Some(Notice::Manifest(digest)) => {
                    self.change(|state| {
                        state.manifest.get_or_insert(digest);
                    });
                }
                Some(Notice::Blob(digest, have)) => {
                    self.change(|state| {
                        state.have.insert(digest, have);
                    });
                }
                None => break,
            }
        }
        from.read_to_end(&mut rest)?;
        match from.get_ref().limit() {
            0 => Err(std::io::Error::other(too_large())),
            _ => Ok(rest),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment: what a thread that panicked has left is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.changed.notify_all();
    }

    /// Waits until something is `found` or `look_around`, which is asked every [`TICK`], fails.
    fn wait<T>(
        &self,
        found: impl Fn(&State) -> Option<T>,
        look_around: impl Fn() -> Result<()>,
    ) -> Result<T> {
        let mut state = self.state();
        loop {
            if let Some(found) = found(&state) {
                return Ok(found);
            }
            let waited = self.0.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            look_around()?;
        }
    }

    /// Waits for the first line. `None` when the document comes without any.
    pub fn manifest(&self, look_around: impl Fn() -> Result<()>) -> Result<Option<String>> {
        let found = |state: &State| match (&state.manifest, &state.end) {
            (None, None) => None,
            (manifest, _) => Some(manifest.clone()),
        };
        self.wait(found, look_around)
    }

    /// How much has been said to be there of a blob; nothing more is going to be said when the document has come.
    pub fn have(&self, blob: &str) -> Option<u64> {
        self.state().have.get(blob).copied()
    }

    /// Waits a [`TICK`], or less when something comes.
    pub fn pause(&self) {
        let state = self.state();
        drop(self.0.changed.wait_timeout(state, TICK));
    }

    /// Whether the document has come, or failed to.
    pub fn is_over(&self) -> bool {
        self.state().end.is_some()
    }

    /// Waits for the document.
    pub fn document(&self, look_around: impl Fn() -> Result<()>) -> Result<Document> {
        let end = self.wait(|state| state.end.clone(), look_around)?;
        let bytes = end.map_err(|error| Error::new(Kind::Document, unreadable(&error)))?;
        Document::parse(skip(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;

    const DOCUMENT: &[u8] = br#"{"ociVersion":"1.0.2","bocker":{"version":1}}"#;

    fn now() -> Result<()> {
        Ok(())
    }

    #[test]
    fn what_is_written_is_known_before_the_document_comes() {
        let (from, mut to) = pipe().unwrap();
        let incoming = Incoming::new(from);
        Notice::Manifest("m".into()).write(&to).unwrap();
        assert_eq!(incoming.manifest(now).unwrap().as_deref(), Some("m"));
        Notice::Blob("b".into(), 7).write(&to).unwrap();
        while incoming.have("b") != Some(7) {
            incoming.pause();
        }
        assert!(!incoming.is_over());
        to.write_all(DOCUMENT).unwrap();
        drop(to);
        assert_eq!(
            incoming.document(now).unwrap(),
            Document::parse(DOCUMENT).unwrap()
        );
    }

    #[test]
    fn a_document_alone_is_one_without_lines() {
        for pretty in [&b""[..], b"\n  "] {
            let bytes = [pretty, DOCUMENT, b"\n"].concat();
            let incoming = Incoming::new(std::io::Cursor::new(bytes));
            assert_eq!(incoming.manifest(now).unwrap(), None);
            incoming.document(now).unwrap();
        }
    }

    #[test]
    fn an_end_without_a_document_and_endless_lines_are_errors() {
        let line = br#"{"pull":{"manifest":"m"}}"#;
        let error = |from: Box<dyn Read + Send>| Incoming::new(from).document(now).unwrap_err();
        assert!(
            error(Box::new(&line[..]))
                .to_string()
                .contains("without a document")
        );
        let endless =
            std::iter::repeat_n(&b"{\"pull\":{\"blob\":\"b\",\"have\":1}}\n"[..], 1 << 20);
        let endless = std::io::Cursor::new(endless.collect::<Vec<_>>().concat());
        assert!(error(Box::new(endless)).to_string().contains("larger than"));
    }

    #[test]
    fn a_wait_ends_when_the_one_who_waits_has_seen_enough() {
        let (from, _to) = pipe().unwrap();
        let enough = || Err(Error::new(Kind::Invalid, "enough"));
        let error = Incoming::new(from).manifest(enough).unwrap_err();
        assert_eq!(error.message(), "enough");
    }

    #[test]
    fn lines_are_passed_over_however_they_are_laid_out() {
        let pretty = b"{\n  \"pull\": {\n    \"manifest\": \"m\"\n  }\n}\n";
        let later = br#"{"pull":{"new":[1,{"a":2.5}]}} "#;
        let bytes = [&pretty[..], later, DOCUMENT].concat();
        assert_eq!(skip(&bytes).trim_ascii(), DOCUMENT);
        assert_eq!(skip(DOCUMENT), DOCUMENT);
        assert_eq!(skip(b"nonsense"), b"nonsense");
        // What says more than that is a document.
        let more = br#"{"pull":{},"bocker":{}}"#;
        assert_eq!(skip(more), more);
    }

    #[test]
    fn a_reader_that_is_behind_makes_nobody_wait_and_one_that_is_gone_is_an_error() {
        let (from, to) = pipe().unwrap();
        for count in 0..10_000 {
            Notice::Blob("b".into(), count).write(&to).unwrap();
        }
        drop(from);
        let error = Notice::Blob("b".into(), 0).write(&to).unwrap_err();
        assert!(error.is(nix::errno::Errno::EPIPE), "{error}");
    }
}
