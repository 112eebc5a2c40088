//! Compresses a layer into the store on all processors: one gzip member, of blocks that are compressed each for itself and put
//! together in their order, as pigz does. What comes out depends on what goes in and on nothing else, the number of threads
//! included.

use std::io::{self, Write};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bocker_pipe::layout::{Digest, Hasher, Ingest};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// RFC 1952: the magic number, deflate, no flags, no time, as fast as it goes, and a system that is of no interest.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
/// RFC 1951: a last block of nothing, in fixed codes. Those before it end on whole bytes.
const END: [u8; 2] = [0x03, 0x00];
/// Local layers are read more often than they travel: as fast as gzip goes.
const LEVEL: u32 = 1;
/// How much is compressed at once, in bytes. Another size makes other blobs of the same tree.
const BLOCK: usize = 1 << 20;
/// How much a block can grow: what it is stored in, and the mark at its end (zlib.h, deflateBound).
const GROWTH: usize = 1 << 10;
/// How many blocks may wait for each thread: on a busy machine it may be a while until it has its turn.
const AHEAD: usize = 4;
/// More threads than this wait for the one that reads.
const MOST: usize = 8;

type Block = Arc<Vec<u8>>;

/// Takes what is to be compressed.
pub(crate) struct Gzip {
    current: Vec<u8>,
    /// How many blocks were handed out.
    count: usize,
    /// Until the end, or a failure.
    threads: Option<Threads>,
}

struct Threads {
    /// Each compresses; the blocks go round.
    workers: Vec<SyncSender<Block>>,
    /// Takes the sums of what comes in.
    sums: SyncSender<Block>,
    summing: JoinHandle<(Digest, Crc)>,
    writing: JoinHandle<io::Result<Ingest>>,
}

impl Threads {
    /// Waits until all that was handed out is written.
    fn join(self) -> io::Result<(Ingest, Digest, Crc)> {
        drop((self.workers, self.sums));
        let panicked = |_| io::Error::other("a thread has failed");
        let ingest = self.writing.join().map_err(panicked)??;
        let (digest, crc) = self.summing.join().map_err(panicked)?;
        Ok((ingest, digest, crc))
    }
}

impl Gzip {
    pub(crate) fn new(to: Ingest) -> Gzip {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Gzip::with(threads.min(MOST), to)
    }

    fn with(threads: usize, to: Ingest) -> Gzip {
        let (mut workers, mut compressed) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (sender, blocks) = sync_channel(AHEAD);
            let (done, receiver) = sync_channel(AHEAD);
            // It ends when nobody sends, or nobody takes, any more.
            thread::spawn(move || compress_all(&blocks, &done));
            workers.push(sender);
            compressed.push(receiver);
        }
        let (sums, blocks) = sync_channel(AHEAD + threads);
        Gzip {
            current: Vec::with_capacity(BLOCK),
            count: 0,
            threads: Some(Threads {
                workers,
                sums,
                summing: thread::spawn(move || sum(&blocks)),
                writing: thread::spawn(move || write(to, &compressed)),
            }),
        }
    }

    /// Hands the current block out. Fails when what was written before could not be.
    fn hand_out(&mut self) -> io::Result<()> {
        let Some(threads) = &self.threads else {
            return Err(io::Error::other("it has failed before"));
        };
        let block = std::mem::replace(&mut self.current, Vec::with_capacity(BLOCK));
        let block = Arc::new(block);
        let worker = &threads.workers[self.count % threads.workers.len()];
        self.count += 1;
        if worker.send(Arc::clone(&block)).is_ok() && threads.sums.send(block).is_ok() {
            return Ok(());
        }
        match self.threads.take().map(Threads::join) {
            Some(Err(error)) => Err(error),
            _ => Err(io::Error::other("a thread has ended too early")),
        }
    }

    /// Ends the stream. Answers where it was written to, and the digest of what came in.
    pub(crate) fn finish(mut self) -> io::Result<(Ingest, Digest)> {
        if !self.current.is_empty() {
            self.hand_out()?;
        }
        let threads = self.threads.take();
        let threads = threads.ok_or_else(|| io::Error::other("it has failed before"))?;
        let (mut ingest, digest, crc) = threads.join()?;
        ingest.write_all(&END)?;
        ingest.write_all(&crc.sum().to_le_bytes())?;
        ingest.write_all(&crc.amount().to_le_bytes())?;
        Ok((ingest, digest))
    }
}

impl Drop for Gzip {
    /// What was written goes with the thread that writes it, which is waited for.
    fn drop(&mut self) {
        _ = self.threads.take().map(Threads::join);
    }
}

impl Write for Gzip {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK - self.current.len());
        self.current.extend_from_slice(&bytes[..count]);
        if self.current.len() == BLOCK {
            self.hand_out()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress_all(blocks: &Receiver<Block>, done: &SyncSender<io::Result<Vec<u8>>>) {
    let mut state = Compress::new(Compression::new(LEVEL), false);
    for block in blocks {
        state.reset();
        if done.send(compress(&mut state, &block)).is_err() {
            return;
        }
    }
}

/// Compresses a block to its end, at which a byte ends too.
fn compress(state: &mut Compress, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(BLOCK + GROWTH);
    loop {
        let taken = state.total_in() as usize;
        let status = state.compress_vec(&block[taken..], &mut out, FlushCompress::Sync);
        if status.map_err(io::Error::other)? != Status::Ok {
            return Err(io::Error::other("a block does not end"));
        }
        // With space left in the buffer, nothing is held back.
        if state.total_in() as usize == block.len() && out.len() < out.capacity() {
            return Ok(out);
        }
        out.reserve(GROWTH);
    }
}

fn sum(blocks: &Receiver<Block>) -> (Digest, Crc) {
    let (mut hasher, mut crc) = (Hasher::default(), Crc::new());
    for block in blocks {
        hasher.update(&block);
        crc.update(&block);
    }
    (hasher.finish(), crc)
}

/// Writes the blocks in their order: that of the workers, round and round, until the next one has none any more.
fn write(mut to: Ingest, compressed: &[Receiver<io::Result<Vec<u8>>>]) -> io::Result<Ingest> {
    to.write_all(&HEADER)?;
    for worker in compressed.iter().cycle() {
        match worker.recv() {
            Ok(block) => to.write_all(&block?)?,
            Err(_) => break,
        }
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use bocker_pipe::layout::Layout;
    use flate2::read::GzDecoder;

    use super::*;

    /// What `threads` make of some bytes, and the digest that they were told to have.
    fn gzip(threads: usize, bytes: &[u8]) -> (Vec<u8>, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::at(folder.path());
        let writer = layout.writer().unwrap();
        let mut gzip = Gzip::with(threads, writer.ingest_new().unwrap());
        // In pieces that are no blocks.
        for piece in bytes.chunks(77_777) {
            gzip.write_all(piece).unwrap();
        }
        let (ingest, digest) = gzip.finish().unwrap();
        let (blob, _) = ingest.commit().unwrap();
        (std::fs::read(layout.blob(&blob)).unwrap(), digest)
    }

    fn noise(count: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn any_number_of_threads_makes_the_same_bytes_and_they_are_one_member() {
        let text: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 9) as u8).collect();
        for data in [
            Vec::new(),
            b"x".to_vec(),
            vec![0; BLOCK],
            text,
            noise(3 * BLOCK + 1),
        ] {
            let (one, digest) = gzip(1, &data);
            assert_eq!(digest, Digest::of(&data));
            let mut back = Vec::new();
            // Not MultiGzDecoder: what follows the first member would be left.
            GzDecoder::new(one.as_slice())
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == data);
            for threads in [2, 3, 8] {
                assert!(gzip(threads, &data).0 == one, "{threads} threads");
            }
        }
    }

    #[test]
    fn the_header_tells_neither_time_nor_system() {
        let (blob, _) = gzip(1, b"x");
        assert_eq!(blob[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::at(folder.path());
        let mut gzip = Gzip::with(2, layout.writer().unwrap().ingest_new().unwrap());
        gzip.write_all(&noise(5 * BLOCK)).unwrap();
        drop(gzip);
        let left = std::fs::read_dir(folder.path().join("ingest")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
