//! zstd (RFC 8878): frames one after another, with skippable ones between, in which zstd:chunked keeps its tables.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How much is decoded at once, in bytes.
const STEP: usize = 128 << 10;

/// The decompressed stream. Its content is not checked against zstd's own sums: layers have better ones.
pub(crate) struct Zstd<R> {
    from: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    pub(crate) fn new(from: R) -> Zstd<R> {
        Zstd {
            from,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Goes to the next frame with data. Answers whether there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.from).take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.in_frame && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.in_frame && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBytes(STEP);
                self.decoder
                    .decode_blocks(&mut self.from, strategy)
                    .map_err(io::Error::other)?;
                continue;
            }
            self.in_frame = self.next_frame()?;
            if !self.in_frame {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        Zstd::new(bytes).read_to_end(&mut data)?;
        Ok(data)
    }

    #[test]
    fn frames_are_joined_and_skippable_ones_left_out() {
        let data: Vec<u8> = (0..100_000_u32).map(|n| (n / 5) as u8).collect();
        let frame = |data: &[u8]| compress_to_vec(data, CompressionLevel::Fastest);
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let all = [
            skippable.clone(),
            frame(&data[..1000]),
            skippable.clone(),
            frame(&data[1000..]),
            skippable,
        ]
        .concat();
        assert!(read(&all).unwrap() == data);
        assert!(read(b"").unwrap().is_empty());
        assert!(read(&all[..all.len() - 1]).is_err());
        assert!(read(&all[..all.len() - 20]).is_err());
        assert!(read(b"no zstd").is_err());
    }

    static FRAME: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let data: Vec<u8> = (0..20_000_u32).map(|n| (n * n / 7) as u8).collect();
        compress_to_vec(data.as_slice(), CompressionLevel::Fastest)
    });

    proptest! {
        #[test]
        fn no_input_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0_usize..200) {
            let _ = read(&[&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat());
            let mut frame = FRAME.clone();
            for (place, byte) in frame.iter_mut().skip(at).zip(bytes.iter().take(3)) {
                *place ^= byte;
            }
            let _ = read(&frame);
        }
    }
}
