//! The verb `rmi`: a name goes, and with the last one the image and its blobs. What was unpacked of it is bocker-snap's.

use bocker_pipe::events::{Event, Type};
use bocker_pipe::layout::{Change, Index, Layout, Removal, WHY_BLOBS, Writer};
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step};
use serde::Serialize;

/// What was removed, as one JSON line.
#[derive(Serialize)]
struct Removed {
    id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// Whether the image is gone, and not just one of its names.
    removed: bool,
}

impl Removed {
    fn tell(&self) {
        let name = self.reference.as_deref().unwrap_or_default();
        let event = |action| Event::new(Type::Image, action, &self.id).name(name);
        if self.reference.is_some() {
            event("untag").record();
        }
        if self.removed {
            event("delete").record();
        }
    }
}

struct Remove {
    word: String,
    force: bool,
    layout: Layout,
    /// As long as it is held, what the entries lead to stays and can be named.
    writer: Option<Writer>,
    change: Change,
    removed: Vec<Removed>,
}

/// `rmi [-f] IMAGE...`.
pub(crate) fn rmi(call: &mut Call) -> Result<()> {
    let (mut words, mut force) = (Vec::new(), false);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if matches!(&*option, "-f" | "--force") => force = true,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
        }
    }
    if words.is_empty() {
        return Err(Error::new(Kind::Usage, "no image is named"));
    }
    for word in words {
        let layout = Layout::open();
        layout.index()?.removal(&word, force)?;
        let mut remove = Remove {
            word,
            force,
            layout,
            writer: None,
            change: Change::default(),
            removed: Vec::new(),
        };
        call.run_steps(&mut remove, vec![index()])?;
        let tidied = call.engine().tear_down(&mut remove, vec![blobs()]);
        for removed in remove.removed {
            if !call.dry_run() {
                removed.tell();
            }
            call.line(&removed)?;
        }
        tidied?;
    }
    Ok(())
}

fn index() -> Step<Remove> {
    Step::new(
        "pull.index",
        "an entry less in index.json; what none of them names is no image any more",
    )
    .command(|c: &Remove| vec![format!("# index.json: without {}", c.word)])
    .look(|c| c.layout.look_at_index())
    .apply(|c| {
        let writer = c.layout.writer()?;
        let (word, force) = (&c.word, c.force);
        c.removed = c.change.make(&writer, |index| remove(index, word, force))?;
        c.writer = Some(writer);
        Ok(())
    })
    .undo(|c| match &c.writer {
        Some(writer) => c.change.undo(writer),
        None => Ok(()),
    })
}

fn remove(index: &mut Index, word: &str, force: bool) -> Result<Vec<Removed>> {
    let removal = index.removal(word, force)?;
    let gone = index.take(&removal).into_iter();
    let removed = gone.map(|image| Removed {
        id: image.id,
        reference: image.reference,
        removed: matches!(removal, Removal::Image(_)),
    });
    Ok(removed.collect())
}

fn blobs() -> Step<Remove> {
    Step::new("pull.blobs", WHY_BLOBS)
        .command(|c: &Remove| c.change.discarded(&c.layout))
        .apply(|c| {
            if let Some(writer) = c.writer.take() {
                c.change.discard(writer);
            }
            Ok(())
        })
}
