//! Blobs from the registry into the layout, a few at a time on one thread: what is waited for is the network.

use std::io::Write;
use std::rc::Rc;

use bocker_pipe::layout::{Descriptor, Digest, Slot, Writer};
use bocker_pipe::{Doing, Error, Kind, Result, step};
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use tokio::runtime::Runtime;
use tokio::time;

use crate::progress::{Progress, TICK};
use crate::registry::Registry;

/// How many blobs are fetched at the same time, as docker has it.
const AT_ONCE: usize = 3;

/// What has become of one blob: `true` when it was downloaded, `false` when it was there.
type Outcome = (usize, Result<bool>);

/// Downloads that are begun in order and may end in any. Dropped, those that are under way leave nothing.
pub(crate) struct Downloads {
    outcomes: LocalBoxStream<'static, Outcome>,
    done: Vec<Option<bool>>,
    written: Vec<Digest>,
    blobs: Rc<[Descriptor]>,
    progress: Rc<Progress>,
}

impl Downloads {
    /// Of these blobs. Nothing is begun before the first [`Downloads::wait`].
    pub(crate) fn new(
        registry: &Rc<Registry>,
        writer: &Rc<Writer>,
        progress: &Rc<Progress>,
        blobs: &[Descriptor],
    ) -> Downloads {
        let blobs: Rc<[Descriptor]> = blobs.into();
        let shared = (
            registry.clone(),
            writer.clone(),
            progress.clone(),
            blobs.clone(),
        );
        let fetch = move |number| {
            let (registry, writer, progress, blobs) = shared.clone();
            async move {
                (
                    number,
                    fetch(&registry, &writer, &progress, &blobs[number]).await,
                )
            }
        };
        Downloads {
            outcomes: stream::iter(0..blobs.len())
                .map(fetch)
                .buffer_unordered(AT_ONCE)
                .boxed_local(),
            done: vec![None; blobs.len()],
            written: Vec::new(),
            blobs,
            progress: progress.clone(),
        }
    }

    /// Waits until the blob of this number is in the layout, while the ones after it come too. The first failure of any ends all.
    pub(crate) fn wait(&mut self, runtime: &Runtime, number: usize) -> Result<()> {
        loop {
            if self.done.get(number).copied().flatten().is_some() {
                return Ok(());
            }
            match patiently(runtime, &self.progress, self.outcomes.next())? {
                Some((finished, outcome)) => {
                    let downloaded = outcome?;
                    self.done[finished] = Some(downloaded);
                    if downloaded {
                        self.written.push(self.blobs[finished].digest.clone());
                    }
                }
                None => {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!("there is no blob of number {number}"),
                    ));
                }
            }
        }
    }

    /// Ends what is under way and answers which blobs were not in the layout before.
    pub(crate) fn stop(self) -> Vec<Digest> {
        self.written
    }

    /// Whether the blob of this number was downloaded, not found in the layout.
    pub(crate) fn downloaded(&self, number: usize) -> bool {
        self.done.get(number).copied().flatten() == Some(true)
    }
}

/// Waits for something that takes long: draws the progress, and fails when a signal came.
pub(crate) fn patiently<T>(
    runtime: &Runtime,
    progress: &Progress,
    work: impl Future<Output = T>,
) -> Result<T> {
    runtime.block_on(async {
        let mut work = std::pin::pin!(work);
        loop {
            match time::timeout(TICK, &mut work).await {
                Ok(result) => return Ok(result),
                Err(_) => progress.draw(),
            }
            step::interruption()?;
        }
    })
}

async fn fetch(
    registry: &Registry,
    writer: &Writer,
    progress: &Progress,
    blob: &Descriptor,
) -> Result<bool> {
    let mut ingest = loop {
        match writer.ingest(blob)? {
            Slot::Present => {
                progress.present(blob);
                return Ok(false);
            }
            Slot::Busy => time::sleep(TICK).await,
            Slot::Ours(ingest) => break ingest,
        }
    };
    let underway = progress.begin(blob);
    let mut response = registry.blob(&blob.digest).await?;
    while let Some(chunk) = registry.chunk(&mut response).await? {
        let chunk = chunk.as_ref();
        if ingest.size() + chunk.len() as u64 > blob.size {
            return Err(registry.says(&format!(
                "sent more than the {} bytes of the blob {}",
                blob.size, blob.digest
            )));
        }
        ingest
            .write_all(chunk)
            .doing(|| format!("store the blob {}", blob.digest))?;
        underway.advance(chunk.len() as u64);
    }
    ingest.commit_as(blob)?;
    progress.downloaded(blob);
    Ok(true)
}
