//! The least that unpacking costs: `inflate FILE...` decompresses gzip files one after another and keeps nothing of them.
//! `make bench-images` measures it.

use std::env;
use std::fs::File;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How much is read and decompressed at once, in bytes: as much as bocker-snap takes.
const CHUNK: usize = 256 << 10;

fn main() -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    for path in env::args_os().skip(1) {
        let mut archive = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, File::open(path)?));
        while archive.read(&mut chunk)? > 0 {}
    }
    Ok(())
}
