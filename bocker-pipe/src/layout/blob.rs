//! Blobs: read bounded and believed only when they hash to their name; written to an ingest file that is hashed on the way,
//! synced and renamed, so that a blob that can be seen is complete whatever was killed when.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::digest::{Digest, Hasher};
use super::types::Descriptor;
use super::{Layout, Writer};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::{Id, Prefix};
use crate::lock;

/// How often a writer looks whether another one of the same blob is done.
pub(super) const WAIT: Duration = Duration::from_millis(50);
/// How much of a part is read at once to be hashed.
const CHUNK: usize = 256 << 10;

impl Layout {
    /// Where a blob lies.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Whether the blob is here with the descriptor's size. Its content is checked when it is read.
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        let found = fs::symlink_metadata(self.blob(&descriptor.digest));
        found.is_ok_and(|data| data.is_file() && data.len() == descriptor.size)
    }

    /// Opens a blob to be read as a stream, with its size in bytes. The reader has to check the digest.
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64)> {
        open(&self.blob(digest))?.ok_or_else(|| {
            let missing = format!("the blob {digest} is not in {}", self.root().display());
            Error::new(Kind::NotFound, missing).hint("pull the image again")
        })
    }

    /// Opens what has come of a blob that is on its way. Nothing in it is checked yet, and its writer may begin it anew.
    pub fn open_ingest(&self, digest: &Digest) -> Result<Option<File>> {
        Ok(open(&self.ingest().join(digest.hex()))?.map(|(file, _)| file))
    }

    /// Reads a whole blob of at most `max` bytes and checks its digest. Fails with [`Kind::Invalid`] when it is larger or damaged.
    pub fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let (file, size) = self.open_blob(digest)?;
        if size > max {
            return Err(Error::new(
                Kind::Invalid,
                format!("the blob {digest} has {size} bytes; at most {max} are read"),
            ));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(max)
            .read_to_end(&mut bytes)
            .doing(|| format!("read {}", path.display()))?;
        if Digest::of(&bytes) != *digest {
            return Err(damaged(&path, "its content has another digest"));
        }
        Ok(bytes)
    }
}

/// Opens a regular file, with its size. `None` when it is not there.
fn open(path: &Path) -> Result<Option<(File, u64)>> {
    // O_NONBLOCK: somebody's FIFO of that name must not hold us.
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match open {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.doing(|| format!("open {}", path.display()))?,
    };
    let data = file
        .metadata()
        .doing(|| format!("look at {}", path.display()))?;
    match data.is_file() {
        true => Ok(Some((file, data.len()))),
        false => Err(damaged(path, "it is not a regular file")),
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("the blob {} is damaged: {why}", path.display()),
    )
    .hint("remove the file and pull the image again")
}

impl Writer {
    /// Stores bytes as a blob and answers its descriptor.
    pub fn write_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = Digest::of(bytes);
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: bytes.len() as u64,
            annotations: Default::default(),
            platform: None,
        };
        loop {
            match self.ingest(&descriptor)? {
                Slot::Present => return Ok(descriptor),
                Slot::Busy => std::thread::sleep(WAIT),
                Slot::Ours(mut ingest) => {
                    ingest
                        .write_all(bytes)
                        .doing(|| format!("write {}", ingest.path.display()))?;
                    ingest.commit_as(&descriptor)?;
                }
            }
        }
    }

    /// Begins a blob of known digest, if it is neither here already nor on its way.
    pub fn ingest(&self, descriptor: &Descriptor) -> Result<Slot> {
        let slot = self.slot(descriptor)?;
        match slot {
            Slot::Ours(mut ingest) => {
                ingest.restart()?;
                Ok(Slot::Ours(ingest))
            }
            other => Ok(other),
        }
    }

    /// Like [`Writer::ingest`], but goes on where a former writer has stopped, which [`Ingest::size`] tells; what is there is
    /// hashed. Dropped before it is committed, it stays for the next.
    pub fn resume(&self, descriptor: &Descriptor) -> Result<Slot> {
        let slot = self.slot(descriptor)?;
        match slot {
            Slot::Ours(mut ingest) => {
                ingest.resume(descriptor.size)?;
                Ok(Slot::Ours(ingest))
            }
            other => Ok(other),
        }
    }

    /// The file of a blob on its way, as it is.
    fn slot(&self, descriptor: &Descriptor) -> Result<Slot> {
        let path = self.layout.ingest().join(descriptor.digest.hex());
        if self.layout.has(descriptor) {
            return Ok(Slot::Present);
        }
        let Some(file) = claim_file(&path, true)? else {
            return Ok(Slot::Busy);
        };
        let ingest = Ingest::new(&self.layout, path, file);
        // The one who held it may have finished between the two looks.
        Ok(if self.layout.has(descriptor) {
            Slot::Present
        } else {
            Slot::Ours(ingest)
        })
    }

    /// Begins a blob whose digest is known only when it is written.
    pub fn ingest_new(&self) -> Result<Ingest> {
        loop {
            let path = self.layout.ingest().join(Id::random(Prefix::Image)?);
            if let Some(file) = claim_file(&path, true)? {
                let mut ingest = Ingest::new(&self.layout, path, file);
                ingest.restart()?;
                return Ok(ingest);
            }
        }
    }
}

/// What may be done about a blob that is wanted.
#[derive(Debug)]
pub enum Slot {
    /// Nothing: it is here.
    Present,
    /// Look again later: another process or thread is writing it.
    Busy,
    /// Write it.
    Ours(Ingest),
}

/// Takes over an ingest file, made if it is not there and `make` says so, locked as long as its writer lives. `None` when another
/// writer has it.
pub(super) fn claim_file(path: &Path, make: bool) -> Result<Option<File>> {
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(make)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            result => result.doing(|| format!("make {}", path.display()))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {
                continue;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).doing(|| format!("lock {}", path.display()));
            }
        }
        // Renamed or removed by its former writer between open and lock: that lock is worth nothing.
        if lock::is_at(&file, path).doing(|| format!("look at {}", path.display()))? {
            return Ok(Some(file));
        }
    }
}

/// A blob on its way into the layout. Dropped before `commit`, it is removed, unless it is one that can be resumed and holds
/// something; killed, its file stays for `gc` or the next writer.
#[derive(Debug)]
pub struct Ingest {
    path: PathBuf,
    blobs: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
    resumable: bool,
    done: bool,
}

impl Ingest {
    fn new(layout: &Layout, path: PathBuf, file: File) -> Ingest {
        Ingest {
            path,
            blobs: layout.blobs(),
            file,
            hasher: Hasher::default(),
            size: 0,
            resumable: false,
            done: false,
        }
    }

    /// Hashes what a former writer has left, which is at most `max` bytes of use.
    fn resume(&mut self, max: u64) -> Result<()> {
        self.resumable = true;
        let mut buffer = vec![0; CHUNK];
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).doing(|| format!("read {}", self.path.display()));
                }
            }
            if self.size > max {
                return self.restart();
            }
        }
    }

    /// Forgets everything that was written.
    pub fn restart(&mut self) -> Result<()> {
        self.hasher = Hasher::default();
        self.size = 0;
        self.file
            .set_len(0)
            .and_then(|()| (&self.file).rewind())
            .doing(|| format!("empty {}", self.path.display()))
    }

    /// How many bytes were written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Makes the blob visible under the digest of what was written. Answers digest and size.
    pub fn commit(mut self) -> Result<(Digest, u64)> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let target = self.blobs.join(digest.hex());
        self.file
            .sync_all()
            .doing(|| format!("sync {}", self.path.display()))?;
        fs::rename(&self.path, &target)
            .doing(|| format!("rename {} to {}", self.path.display(), target.display()))?;
        self.done = true;
        sync_folder(&self.blobs)?;
        Ok((digest, self.size))
    }

    /// Like [`Ingest::commit`], but fails with [`Kind::Remote`], and leaves nothing, unless [`Ingest::check`] succeeds.
    pub fn commit_as(mut self, descriptor: &Descriptor) -> Result<()> {
        if let Err(error) = self.check(descriptor) {
            self.resumable = false;
            return Err(error);
        }
        self.commit().map(drop)
    }

    /// Whether size and digest are the descriptor's. Fails with [`Kind::Remote`].
    pub fn check(&self, descriptor: &Descriptor) -> Result<()> {
        let Descriptor { digest, size, .. } = descriptor;
        if self.size != *size {
            let got = self.size;
            return Err(Error::new(
                Kind::Remote,
                format!("the blob {digest} should have {size} bytes, but {got} came"),
            ));
        }
        let got = self.digest();
        if got != *digest {
            return Err(Error::new(
                Kind::Remote,
                format!("the blob {digest} is not what was sent: that is {got}"),
            ));
        }
        Ok(())
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&self.file).write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let resumed_later = self.resumable && self.size > 0;
        if !self.done && !resumed_later {
            // Nothing to do about a failure: gc removes what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes renames in a folder last.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .doing(|| format!("sync {}", path.display()))
}
