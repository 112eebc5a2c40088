//! A layer's blob, read while bocker-pull still writes it: as far as it has said that the blob has come.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Weak;

use bocker_pipe::incoming::Incoming;
use bocker_pipe::layout::{Descriptor, Layout};
use bocker_pipe::{Error, Kind, Result};

/// The bytes of a blob in their order. It ends when all have been read, or when nobody wants them any more.
pub(crate) struct Arrival {
    layout: Layout,
    blob: Descriptor,
    /// Says how far it has come; a blob that is not here needs it.
    incoming: Option<Incoming>,
    /// Lives as long as somebody wants the bytes.
    wanted: Weak<()>,
    file: Option<File>,
    /// How much of it may be read, and has been.
    come: u64,
    read: u64,
}

impl Arrival {
    /// Of a blob that is here, or on its way. Fails with [`Kind::NotFound`] for any other.
    pub(crate) fn new(
        layout: &Layout,
        blob: &Descriptor,
        incoming: Option<&Incoming>,
        wanted: Weak<()>,
    ) -> Result<Arrival> {
        let mut arrival = Arrival {
            layout: layout.clone(),
            blob: blob.clone(),
            incoming: incoming.cloned(),
            wanted,
            file: None,
            come: 0,
            read: 0,
        };
        // Asked first, since the blob may come in between.
        if incoming.is_some_and(|incoming| !incoming.is_over()) && !layout.has(blob) {
            return Ok(arrival);
        }
        let (file, size) = layout.open_blob(&blob.digest)?;
        if size != blob.size {
            let Descriptor {
                digest,
                size: should,
                ..
            } = blob;
            let what =
                format!("the layer {digest} is not the image's: its size is {size}, not {should}");
            return Err(Error::new(Kind::Invalid, what).hint("remove the image and pull it again"));
        }
        (arrival.file, arrival.come) = (Some(file), size);
        Ok(arrival)
    }

    /// Whether all of it was here, and checked by who wrote it, when it was begun. Otherwise a failure need not be the blob's fault: its
    /// writer may have begun it anew.
    pub(crate) fn is_whole(&self) -> bool {
        self.come == self.blob.size
    }

    /// Looks how far it has come.
    fn look(&mut self) -> io::Result<()> {
        let digest = &self.blob.digest;
        let Some(incoming) = &self.incoming else {
            return Ok(());
        };
        let is_over = incoming.is_over();
        if self.layout.has(&self.blob) {
            if self.file.is_none() {
                let (file, _) = self.layout.open_blob(digest).map_err(io::Error::other)?;
                self.file = Some(file);
            }
            self.come = self.blob.size;
            return Ok(());
        }
        if is_over {
            return Err(io::Error::other("the rest of it never came"));
        }
        let come = incoming.have(digest.as_str()).unwrap_or(0);
        if come > self.read && self.file.is_none() {
            self.file = self.layout.open_ingest(digest).map_err(io::Error::other)?;
        }
        if self.file.is_some() {
            self.come = come.min(self.blob.size);
        }
        Ok(())
    }
}

impl Read for Arrival {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read >= self.come && self.read < self.blob.size {
            self.look()?;
            if self.read < self.come {
                break;
            }
            if self.wanted.strong_count() == 0 {
                return Err(io::Error::other("nobody reads it"));
            }
            if let Some(incoming) = &self.incoming {
                incoming.pause();
            }
        }
        let Some(file) = &mut self.file else {
            return Ok(0);
        };
        let left = self.come.saturating_sub(self.read);
        let limit = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = file.read(&mut buffer[..limit])?;
        if count == 0 && limit > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it has fewer bytes than were said to have come",
            ));
        }
        self.read += count as u64;
        Ok(count)
    }
}
