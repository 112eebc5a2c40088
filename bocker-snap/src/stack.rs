//! The layers of one image on their way: those that are missing are unpacked above each other out of sight, the next ones being read and
//! decompressed meanwhile, and are let be seen when all of them are whole and on the disk. While bocker-pull still downloads the image,
//! each layer is unpacked as far as it has come.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bocker_pipe::error::Failures;
use bocker_pipe::incoming::Incoming;
use bocker_pipe::layout::Layout;
use bocker_pipe::step::{interruption, quote};
use bocker_pipe::{Doing, Error, Kind, Result, Step, paths};

use crate::arrival::Arrival;
use crate::driver::Driver;
use crate::layers::{self, Keep, Layer, Unfinished};
use crate::source::{Source, free_space};

/// How many layers are read at a time: the one that is unpacked, and those after it, each as far ahead as [`Source`] goes.
const AT_ONCE: usize = 3;

/// Layers of an image, lowest first.
pub(crate) struct Stack {
    driver: Driver,
    layers: Vec<Layer>,
    /// Those that were not here at the beginning.
    missing: Vec<usize>,
    incoming: Option<Incoming>,
    ahead: VecDeque<Stream>,
    unfinished: Vec<(usize, Unfinished)>,
    keep: Option<Keep>,
}

/// A layer that is being read.
struct Stream {
    index: usize,
    source: Source,
    /// Whether the blob was here when it began.
    was_whole: bool,
    /// As long as it lives, the reader waits for what is to come.
    _wanted: Arc<()>,
}

impl Stack {
    /// Of an image that is here or that, with `incoming`, is on its way.
    pub(crate) fn new(
        driver: Driver,
        layers: Vec<Layer>,
        incoming: Option<Incoming>,
    ) -> Result<Stack> {
        // Before it is asked what is here, or that may be collected until something is unpacked above it.
        let keep = Keep::if_any()?;
        let missing = layers::missing(driver, &layers);
        Ok(Stack {
            driver,
            keep: keep.filter(|_| !missing.is_empty()),
            missing,
            layers,
            incoming,
            ahead: VecDeque::new(),
            unfinished: Vec::new(),
        })
    }

    /// The steps that unpack what is missing, of a tool whose context has the stack at `of`.
    pub(crate) fn steps<C: 'static>(
        &self,
        of: fn(&C) -> &Stack,
        of_mut: fn(&mut C) -> &mut Stack,
    ) -> Vec<Step<C>> {
        let mut steps: Vec<_> = self
            .missing
            .iter()
            .map(|index| layer_step(*index, of, of_mut))
            .collect();
        if !steps.is_empty() {
            steps.push(publish_step(of, of_mut));
        }
        steps
    }

    /// Unpacks a layer; those below it are here or were unpacked before. While another process does the same, this waits for it.
    fn unpack(&mut self, index: usize) -> Result<()> {
        let store = paths::layers();
        if self.keep.is_none() {
            self.keep = Some(Keep::take()?);
        }
        self.read_ahead(index);
        let Some(new) = Unfinished::claim(&store, &self.layers[index].chain_id)? else {
            self.ahead.retain(|stream| stream.index != index);
            return Ok(());
        };
        match self.unpack_into(&new, index) {
            Ok(()) => {
                self.unfinished.push((index, new));
                Ok(())
            }
            Err(error) => new.remove().and(Err(error)),
        }
    }

    fn unpack_into(&mut self, new: &Unfinished, index: usize) -> Result<()> {
        let below = self.below(index);
        let begun = self.ahead.iter().position(|stream| stream.index == index);
        let stream = match begun.and_then(|place| self.ahead.remove(place)) {
            Some(stream) => stream,
            None => self.read(index)?,
        };
        let layer = &self.layers[index];
        match new.unpack(self.driver, &below, layer, stream.source) {
            Err(_) if !stream.was_whole => {
                // The download may have begun anew, or failed, and then it says why.
                self.wait_for(index)?;
                new.empty()?;
                let source = self.read(index)?.source;
                new.unpack(self.driver, &below, &self.layers[index], source)
            }
            result => result,
        }
    }

    /// Begins to read the layers from this one on that are missing.
    fn read_ahead(&mut self, index: usize) {
        let next: Vec<_> = self
            .missing
            .iter()
            .filter(|other| **other >= index)
            .copied()
            .take(AT_ONCE)
            .collect();
        for index in next {
            if !self.ahead.iter().any(|stream| stream.index == index)
                // What cannot be read is an error when it is needed.
                && let Ok(stream) = self.read(index)
            {
                self.ahead.push_back(stream);
            }
        }
    }

    fn read(&self, index: usize) -> Result<Stream> {
        let wanted = Arc::new(());
        let (layout, blob) = (Layout::open(), &self.layers[index].blob);
        let arrival = Arrival::new(
            &layout,
            blob,
            self.incoming.as_ref(),
            Arc::downgrade(&wanted),
        )?;
        let store = paths::layers();
        let limit = File::open(&store)
            .and_then(|store| free_space(&store))
            .doing(|| format!("ask {}", store.display()))?;
        Ok(Stream {
            index,
            was_whole: arrival.is_whole(),
            source: Source::new(arrival, limit),
            _wanted: wanted,
        })
    }

    /// Waits until all of a layer's blob has come, or nothing more does.
    fn wait_for(&self, index: usize) -> Result<()> {
        let layout = Layout::open();
        while let Some(incoming) = &self.incoming
            && !layout.has(&self.layers[index].blob)
        {
            interruption()?;
            if incoming.is_over() {
                return self.passed();
            }
            incoming.pause();
        }
        Ok(())
    }

    /// Waits for the document, and fails when it carries an error.
    fn passed(&self) -> Result<()> {
        let Some(incoming) = &self.incoming else {
            return Ok(());
        };
        match incoming.document(interruption)?.error() {
            Some(error) => Err(Error::new(
                Kind::Passed(error.code),
                format!("{} failed: {}", error.stage, error.message),
            )),
            None => Ok(()),
        }
    }

    /// The trees of the layers below one, lowest first.
    fn below(&self, index: usize) -> Vec<PathBuf> {
        let place = |index: usize| {
            let found = self.unfinished.iter().find(|(other, _)| *other == index);
            match found {
                Some((_, unfinished)) => unfinished.tree(),
                None => layers::path(&self.layers[index].chain_id),
            }
        };
        (0..index).map(place).collect()
    }

    /// Lets the unpacked layers be seen, once the image has come whole. Before that they are on the disk.
    fn publish(&mut self) -> Result<()> {
        self.passed()?;
        let new = std::mem::take(&mut self.unfinished);
        let published = layers::publish(
            self.driver,
            new.iter()
                .map(|(index, unfinished)| (unfinished, &self.layers[*index].chain_id)),
        );
        published.and(remove(new))
    }

    /// Removes what was unpacked and not let be seen.
    fn discard(&mut self) -> Result<()> {
        self.ahead.clear();
        remove(std::mem::take(&mut self.unfinished))
    }
}

/// The uppermost first: it may be mounted, or stand, on the others.
fn remove(unfinished: Vec<(usize, Unfinished)>) -> Result<()> {
    let mut failures = Failures::default();
    for (_, unfinished) in unfinished.into_iter().rev() {
        failures.note(unfinished.remove());
    }
    failures.into_result()
}

fn layer_step<C: 'static>(
    index: usize,
    of: fn(&C) -> &Stack,
    of_mut: fn(&mut C) -> &mut Stack,
) -> Step<C> {
    Step::new(
        "snap.layer",
        "a layer is unpacked once, and shared by all containers and images above it",
    )
    .command(move |c| {
        let stack = of(c);
        layers::import_commands(stack.driver, &stack.layers[index])
    })
    .look(move |c| {
        let path = layers::path(&of(c).layers[index].chain_id);
        format!("ls -l {}", quote(&path.display().to_string()))
    })
    .apply(move |c| of_mut(c).unpack(index))
    .undo(move |c| of_mut(c).discard())
}

fn publish_step<C: 'static>(of: fn(&C) -> &Stack, of_mut: fn(&mut C) -> &mut Stack) -> Step<C> {
    Step::new(
        "snap.publish",
        "layers are seen when all of them are whole and on the disk: a power failure must not leave empty files in one",
    )
    .command(move |c| {
        let stack = of(c);
        let layers = stack.missing.iter().map(|index| &stack.layers[*index].chain_id);
        layers::publish_commands(stack.driver, layers)
    })
    .look(|_| format!("ls -l {}", quote(&paths::layers().display().to_string())))
    .apply(move |c| of_mut(c).publish())
}
