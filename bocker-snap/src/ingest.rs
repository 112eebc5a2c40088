//! A layer on its way into the image store: packed from a tree or copied from an archive, compressed, and its digests taken on the way.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use bocker_pipe::layout::{Descriptor, Digest, OCI_LAYER_GZIP, Writer};
use bocker_pipe::{Doing, Error, Kind, Result, paths};

use crate::gzip::Gzip;
use crate::pack::{self, Rules, Tree};
use crate::source::{Source, free_space};
use crate::tar::EntryKind;
use crate::tar::read::Reader;
use crate::unpack::{WHITEOUT, components};

/// A layer in the store.
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
}

impl Layer {
    /// Writes a tree. Answers what was left out too.
    pub(crate) fn pack(
        writer: &Writer,
        root: BorrowedFd<'_>,
        tree: Tree<'_>,
        rules: Rules<'_>,
    ) -> Result<(Layer, Vec<PathBuf>)> {
        let sink = Gzip::new(writer.ingest_new()?);
        let (sink, left_out) = pack::pack(root, tree, rules, sink)?;
        Ok((Layer::finish(sink)?, left_out))
    }

    /// Takes an archive as it is, checked on the way: every header of it, that no name leads out of it, and that it hides nothing.
    pub(crate) fn copy(writer: &Writer, from: impl Read + Send + 'static) -> Result<Layer> {
        let store = File::open(paths::root()).doing(|| "open BOCKER_ROOT".into())?;
        let limit = free_space(&store).doing(|| "ask for free space".into())?;
        let mut sink = Gzip::new(writer.ingest_new()?);
        let mut source = Source::new(from, limit);
        let mut reader = Reader::new(Tee {
            from: &mut source,
            to: &mut sink,
        });
        while let Some(entry) = reader.next()? {
            for part in components(&entry.path)? {
                if part.starts_with(WHITEOUT) {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "'{}' cannot be put into a layer: there, names that begin with .wh. hide others",
                            entry.name()
                        ),
                    ));
                }
            }
            if entry.kind == EntryKind::HardLink {
                components(&entry.link)?;
            }
        }
        reader.finish()?;
        if source.finish()?.size == 0 {
            return Err(Error::new(Kind::Invalid, "the archive is empty"));
        }
        Layer::finish(sink)
    }

    fn finish(sink: Gzip) -> Result<Layer> {
        let (ingest, diff_id) = sink.finish().doing(|| "write the layer".into())?;
        let (digest, size) = ingest.commit()?;
        Ok(Layer {
            blob: Descriptor {
                media_type: OCI_LAYER_GZIP.to_owned(),
                digest,
                size,
                annotations: Default::default(),
                platform: None,
            },
            diff_id,
        })
    }
}

/// Copies what is read.
struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}
