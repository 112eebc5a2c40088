//! Blobs from the registry into the layout, a few at a time on one thread: what is waited for is the network.

use std::rc::Rc;

use bocker_pipe::layout::{Descriptor, Digest, Layout, Slot, Writer};
use bocker_pipe::{Doing, Error, Kind, Result, step};
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use tokio::runtime::Runtime;
use tokio::time;

use crate::announce::{self, Growth};
use crate::notices::Notices;
use crate::progress::{Progress, TICK};
use crate::registry::Registry;
use crate::resolve::Layer;
use crate::transfer;

/// How many blobs are fetched at the same time, as docker has it.
const AT_ONCE: usize = 3;

/// What has become of one blob: `true` when it was downloaded, `false` when it was there.
type Outcome = (usize, Result<bool>);

/// Downloads that are begun in order and may end in any. Dropped, those that are under way leave what they have for the next.
pub(crate) struct Downloads {
    outcomes: LocalBoxStream<'static, Outcome>,
    done: Vec<Option<bool>>,
    written: Vec<Digest>,
    layers: Rc<[Layer]>,
    progress: Rc<Progress>,
    notices: Rc<Notices>,
}

impl Downloads {
    /// Of these blobs. Nothing is begun before the first [`Downloads::wait`].
    pub(crate) fn new(
        registry: &Rc<Registry>,
        writer: &Rc<Writer>,
        progress: &Rc<Progress>,
        layers: &[Layer],
    ) -> Downloads {
        let layers: Rc<[Layer]> = layers.into();
        let shared = (
            registry.clone(),
            writer.clone(),
            progress.clone(),
            layers.clone(),
        );
        let fetch = move |number| {
            let (registry, writer, progress, layers) = shared.clone();
            async move {
                (
                    number,
                    fetch(&registry, &writer, &progress, &layers[number]).await,
                )
            }
        };
        Downloads {
            outcomes: stream::iter(0..layers.len())
                .map(fetch)
                .buffer_unordered(AT_ONCE)
                .boxed_local(),
            done: vec![None; layers.len()],
            written: Vec::new(),
            layers,
            progress: progress.clone(),
            notices: Rc::clone(&registry.notices),
        }
    }

    /// Waits until the blob of this number is in the layout, while the ones after it come too. The first failure of any ends all.
    pub(crate) fn wait(&mut self, runtime: &Runtime, number: usize) -> Result<()> {
        loop {
            if self.done.get(number).copied().flatten().is_some() {
                return Ok(());
            }
            match patiently(runtime, &self.progress, &self.notices, self.outcomes.next())? {
                Some((finished, outcome)) => {
                    let downloaded = outcome?;
                    self.done[finished] = Some(downloaded);
                    if downloaded {
                        self.written
                            .push(self.layers[finished].descriptor.digest.clone());
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

/// Waits for something that takes long: draws the progress, says what is to be said, and fails when a signal came.
pub(crate) fn patiently<T>(
    runtime: &Runtime,
    progress: &Progress,
    notices: &Notices,
    work: impl Future<Output = T>,
) -> Result<T> {
    runtime.block_on(async {
        let mut work = std::pin::pin!(work);
        loop {
            match time::timeout(TICK, &mut work).await {
                Ok(result) => return Ok(result),
                Err(_) => progress.draw(),
            }
            progress.say_all(notices);
            step::interruption()?;
        }
    })
}

/// How much there is of a blob that is on its way.
fn come(layout: &Layout, blob: &Descriptor) -> Result<u64> {
    let Some(file) = layout.open_ingest(&blob.digest)? else {
        return Ok(0);
    };
    let data = file.metadata();
    data.map(|data| data.len())
        .doing(|| format!("look how far {} has come", blob.digest))
}

async fn fetch(
    registry: &Registry,
    writer: &Writer,
    progress: &Progress,
    layer: &Layer,
) -> Result<bool> {
    let blob = &layer.descriptor;
    let (layout, growth) = (Layout::open(), Growth::of(blob));
    let mut ingest = loop {
        match writer.resume(blob)? {
            Slot::Present => {
                progress.present(blob);
                announce::whole(blob)?;
                return Ok(false);
            }
            Slot::Busy => {
                // What another pull writes is as good to the next stage.
                growth.has(come(&layout, blob)?)?;
                time::sleep(TICK).await;
            }
            Slot::Ours(ingest) => break ingest,
        }
    };
    let underway = progress.begin(blob);
    underway.advance(ingest.size());
    transfer::fetch(registry, layer, &mut ingest, &underway).await?;
    ingest.commit_as(blob)?;
    progress.downloaded(blob);
    announce::whole(blob)?;
    Ok(true)
}
