//! Where a layer's archive comes from: a blob, decompressed and hashed on threads of their own while the tree is written.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bocker_pipe::compression;
use bocker_pipe::layout::{Digest, Hasher};
use bocker_pipe::step::interruption;
use bocker_pipe::{Error, Kind, Result};

/// How much is read, and handed over, at once, in bytes.
const CHUNK: usize = 256 << 10;
/// How many pieces may be on their way: 4 MiB.
const AHEAD: usize = 16;
/// How often who waits for a piece looks whether a signal came.
const TICK: Duration = Duration::from_millis(50);

/// What went by, when all of it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Bytes read, compressed as they were.
    pub(crate) size: u64,
    /// Of what they decompressed to. What this vouches for needs no digest of the compressed bytes.
    pub(crate) diff_id: Digest,
}

/// The decompressed stream.
pub(crate) struct Source {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// Takes buffers back, so that memory is not mapped anew for each.
    spent: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    reads: JoinHandle<Option<u64>>,
    hashes: JoinHandle<Digest>,
}

impl Source {
    /// Reads a stream of at most `limit` bytes when decompressed; how it is compressed is told by how it begins.
    pub(crate) fn new(from: impl Read + Send + 'static, limit: u64) -> Source {
        // One piece is decompressed while another is hashed and a third is unpacked.
        let (decompressed, unhashed) = sync_channel(1);
        let (full, chunks) = sync_channel(AHEAD);
        let (spent, empty) = sync_channel(AHEAD + 2);
        let reads = std::thread::spawn(move || {
            pump(from, limit, &decompressed, &empty).unwrap_or_else(|error| {
                let _ = decompressed.send(Err(error));
                None
            })
        });
        let hashes = std::thread::spawn(move || {
            let mut hasher = Hasher::default();
            for chunk in unhashed {
                if let Ok(chunk) = &chunk {
                    hasher.update(chunk);
                }
                if full.send(chunk).is_err() {
                    break;
                }
            }
            hasher.finish()
        });
        Source {
            chunks,
            spent,
            current: Vec::new(),
            at: 0,
            reads,
            hashes,
        }
    }

    /// The sums, after the stream was read to its end.
    pub(crate) fn finish(self) -> Result<Sums> {
        drop(self.chunks);
        match (self.reads.join(), self.hashes.join()) {
            (Ok(Some(size)), Ok(diff_id)) => Ok(Sums { size, diff_id }),
            _ => Err(Error::new(
                Kind::Invalid,
                "the layer was not read to its end",
            )),
        }
    }

    /// The next piece; none at the end. A signal ends the wait for it.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.chunks.recv_timeout(TICK) {
                Ok(chunk) => return chunk.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => interruption().map_err(io::Error::other)?,
            }
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let count = buffer.len().min(there.len());
        buffer[..count].copy_from_slice(&there[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            let next = self.next()?.unwrap_or_default();
            let spent = std::mem::replace(&mut self.current, next);
            self.at = 0;
            let _ = self.spent.try_send(spent);
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// Decompresses and hands over. Answers how much was read; `None` when the reader has gone.
fn pump(
    from: impl Read,
    limit: u64,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<Option<u64>> {
    let mut read = Counted { from, size: 0 };
    let mut stream = compression::decoder(&mut read)?;
    let mut left = limit;
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let count = fill(&mut stream, &mut chunk)?;
        if count == 0 {
            break;
        }
        chunk.truncate(count);
        left = left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!(
                "it unpacks to more than the {limit} bytes that are free"
            ))
        })?;
        if full.send(Ok(chunk)).is_err() {
            return Ok(None);
        }
    }
    drop(stream);
    // What follows the compressed data is read too: somebody may be writing it into a pipe.
    io::copy(&mut read, &mut io::sink())?;
    Ok(Some(read.size))
}

fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match stream.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Counts what is read.
struct Counted<R> {
    from: R,
    size: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.size += count as u64;
        Ok(count)
    }
}

/// How much a layer may unpack to: what the filesystem has left.
pub(crate) fn free_space(on: &File) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(on)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: Vec<u8>, limit: u64) -> io::Result<(Vec<u8>, Sums)> {
        let mut source = Source::new(Cursor::new(bytes), limit);
        let mut data = Vec::new();
        source.read_to_end(&mut data)?;
        Ok((data, source.finish().unwrap()))
    }

    #[test]
    fn plain_gzip_of_one_or_many_members_and_zstd_give_the_same() {
        let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 7) as u8).collect();
        let two = [gzip(&data[..1000]), gzip(&data[1000..])].concat();
        let zstd = compress_to_vec(data.as_slice(), CompressionLevel::Fastest);
        for bytes in [data.clone(), gzip(&data), two, zstd] {
            let size = bytes.len() as u64;
            let (read, sums) = read(bytes, 1_000_000).unwrap();
            assert!(read == data);
            assert_eq!(
                sums,
                Sums {
                    size,
                    diff_id: Digest::of(&data)
                }
            );
        }
    }

    #[test]
    fn nothing_at_all_and_less_than_a_magic_number_are_plain() {
        assert!(read(Vec::new(), 0).unwrap().0.is_empty());
        assert_eq!(read(vec![0x1f], 9).unwrap().0, [0x1f]);
    }

    #[test]
    fn a_bomb_is_stopped_at_what_is_free() {
        let error = read(gzip(&vec![0; 1_000_001]), 1_000_000).unwrap_err();
        assert!(error.to_string().contains("more than the 1000000 bytes"));
    }

    #[test]
    fn a_cut_or_damaged_stream_is_an_error() {
        let whole = gzip(b"some text that is compressed");
        assert!(read(whole[..whole.len() - 4].to_vec(), 100).is_err());
        let mut damaged = whole.clone();
        damaged[12] ^= 0xff;
        assert!(read(damaged, 100).is_err());
    }

    #[test]
    fn a_reader_that_goes_away_leaves_no_thread_waiting() {
        let source = Source::new(io::repeat(0), u64::MAX);
        assert!(source.finish().is_err());
    }
}
