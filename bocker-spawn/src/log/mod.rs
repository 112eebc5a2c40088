//! The log: one record per line, as the CRI writes them: `2026-11-21T02:30:21.123456789Z stdout F message`.
//! `F` ends a line; `P` is a part of one whose rest comes in the stream's next record. Bytes stay as they were.

mod request;
mod show;
mod write;

pub(crate) use request::Request;
pub(crate) use show::logs;
pub(crate) use write::{Log, Lost};

/// Where a record's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A record that is read back.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    time: &'a [u8],
    stream: Stream,
    /// Whether its line ends with it.
    is_end: bool,
    text: &'a [u8],
}

impl Record<'_> {
    /// Reads a record, or as much of it as there is. A line that is none, as a hand may write it, is skipped.
    fn parse(line: &[u8]) -> Option<Record<'_>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut words = line.splitn(4, |b| *b == b' ');
        let time = words.next()?;
        let stream = match words.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let is_end = match words.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        let text = words.next()?;
        Some(Record {
            time,
            stream,
            is_end,
            text,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_read_and_what_is_none_is_not() {
        let record = Record::parse(b"T stderr P a b \n").unwrap();
        assert_eq!(record.stream, Stream::Stderr);
        assert!(!record.is_end);
        assert_eq!(record.text, b"a b ");
        for line in [
            &b""[..],
            b"\n",
            b"hello\n",
            b"T stdin F a\n",
            b"T stdout X a\n",
            b"T stdout F",
        ] {
            assert_eq!(Record::parse(line), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Record::parse(&bytes);
        }
    }
}
