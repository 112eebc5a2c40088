//! What `cargo fuzz` runs on any bytes (see the page of `fuzz/`), and ordinary tests on the inputs that are kept there.
//! Each function returns, whatever it is given; an assertion that fails is a fault.

use std::fs;
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bocker_pipe::tar::read::Reader;
use bocker_pipe::tar::write::Writer;
use bocker_pipe::tar::{BLOCK, Entry};

use crate::source::Source;
use crate::tree::{open_directory, remove_path};
use crate::unpack::unpack;

/// A block that begins so parts two layers of an image.
const NEXT_LAYER: &[u8] = b"next layer";
/// The most that is unpacked of one input, in bytes.
const LIMIT: u64 = 4 << 20;

/// A layer's archive: whatever is read is the same when it is written and read again.
pub fn tar(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let (all, whole) = entries(&bytes);
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in &all {
        // There are device numbers that are read, and refused when they are to be written.
        if writer.append(entry, &mut data.as_slice()).is_err() {
            return;
        }
    }
    let Ok(written) = writer.finish() else {
        return;
    };
    let (again, readable) = entries(&written);
    assert!(readable || !whole);
    assert_eq!(again, all);
}

/// Everything up to the end, or to what is malformed; whether it was the end. Sparse files are as others: they are only read.
fn entries(bytes: &[u8]) -> (Vec<(Entry, Vec<u8>)>, bool) {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(mut entry)) => {
                let mut data = Vec::new();
                if reader.read_to_end(&mut data).is_err() {
                    return (all, false);
                }
                assert_eq!(entry.size, data.len() as u64);
                entry.sparse = None;
                all.push((entry, data));
            }
            Ok(None) => return (all, reader.finish().is_ok()),
            Err(_) => return (all, false),
        }
    }
}

/// A blob, compressed or not.
pub fn source(bytes: &[u8]) {
    let mut source = Source::new(Cursor::new(bytes.to_vec()), LIMIT);
    let read = io::copy(&mut source, &mut io::sink());
    let sums = source.finish();
    assert!(read.is_err() || sums.is_ok_and(|sums| sums.size == bytes.len() as u64));
}

/// The layers of an image, one upon the other in one folder: beside it nothing changes.
pub fn unpack_layers(bytes: &[u8]) {
    let scratch = Scratch::new();
    let before = scratch.outside();
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let mut has_lower = false;
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    for layer in blocks.split(|block| block.starts_with(NEXT_LAYER)) {
        let layer = layer.concat();
        if let Ok(root) = open_directory(&scratch.root()) {
            let _ = unpack(root.as_fd(), has_lower, layer.as_slice());
        }
        has_lower = true;
    }
    assert_eq!(scratch.outside(), before);
}

/// Gives every block that says it is a header the checksum that it has: no mutation would find it.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

/// A folder with a root to unpack into, and something beside it that nothing may touch.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bocker-fuzz-{}-{count}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        let make = || {
            fs::create_dir_all(scratch.0.join("outside/a"))?;
            fs::write(scratch.0.join("outside/a/b"), "the host's")?;
            fs::create_dir(scratch.root())
        };
        assert!(make().is_ok(), "{} cannot be made", scratch.0.display());
        scratch
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// All that a change of what is outside would change: the time of change cannot be set.
    fn outside(&self) -> Vec<(u64, u64, i64, i64)> {
        let picture = |path: &Path| {
            let data = fs::symlink_metadata(path).ok()?;
            Some((data.ino(), data.nlink(), data.ctime(), data.ctime_nsec()))
        };
        let paths = ["", "outside", "outside/a", "outside/a/b"];
        paths
            .iter()
            .filter_map(|path| picture(&self.0.join(path)))
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = remove_path(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, run: impl Fn(&[u8])) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/");
        let seeds = fs::read_dir(format!("{folder}{target}")).unwrap();
        let count = seeds
            .map(|seed| run(&fs::read(seed.unwrap().path()).unwrap()))
            .count();
        assert!(count > 0);
    }

    #[test]
    fn what_was_found_by_fuzzing_stays_found() {
        replay("tar", tar);
        replay("source", source);
        replay("unpack", unpack_layers);
    }
}
