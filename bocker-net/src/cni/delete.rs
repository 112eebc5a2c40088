//! What plugins have made is taken back, by `delete` and by `gc`: by what is kept on disk, whatever a document says.

use std::rc::Rc;

use bocker_pipe::error::Failures;
use bocker_pipe::{Id, Result, Step, claim};

use super::Chain;
use super::record::{Kept, Turn};

/// What is left of one container.
struct Left {
    id: Id,
    chains: Result<Vec<Chain>>,
}

impl Left {
    fn new(id: &Id, kept: Result<Kept>) -> Left {
        let chains = kept.and_then(|kept| {
            let attachments = kept.attachments.into_iter();
            attachments
                .map(|attached| Chain::kept(id, attached))
                .collect()
        });
        Left {
            id: id.clone(),
            chains,
        }
    }

    fn remove(&self) -> Result<()> {
        let _turn = Turn::wait(&self.id)?;
        let chains = self.chains.as_ref().map_err(Clone::clone)?;
        let mut failures = Failures::default();
        for chain in chains.iter().rev() {
            failures.note(chain.delete());
        }
        failures.into_result()?;
        Kept::remove(&self.id)
    }

    fn commands(&self) -> Vec<String> {
        let chains = self.chains.iter().flatten().rev();
        let mut lines: Vec<String> = chains.flat_map(Chain::delete_commands).collect();
        lines.push(format!("rm -f {}", Kept::path(&self.id).display()));
        lines
    }
}

/// The step that removes it, where there is something. `is_stored`: the container's document is of a network of CNI, and what
/// it made in another boot of the machine is to go too.
pub(crate) fn step<C>(id: &Id, is_stored: bool) -> Option<Step<C>> {
    let kept = match Kept::is_there(id) {
        // Without a record the one who wrote it was killed before any plugin was called.
        true => Kept::read(id).map(Option::unwrap_or_default),
        false if is_stored => of_another_boot(id),
        false => return None,
    };
    if !Kept::is_there(id) && kept.as_ref().is_ok_and(|kept| kept.attachments.is_empty()) {
        return None;
    }
    let left = Rc::new(Left::new(id, kept));
    let shown = Rc::clone(&left);
    let step = Step::new(
        "net.cni",
        "the plugins take back what they have made, last first",
    )
    .command(move |_| shown.commands())
    .apply(move |_| left.remove());
    Some(step)
}

/// What plugins keep on disk outlives the machine's end, addresses of host-local among it.
fn of_another_boot(id: &Id) -> Result<Kept> {
    let boot_id = claim::boot_id()?;
    let mut kept = Kept::stored(id)?;
    kept.attachments
        .retain(|attached| attached.boot_id != boot_id);
    Ok(kept)
}

/// What the plugins of each network answer when they are asked whether all is as they have made it. Of those that cannot be
/// asked nothing is told.
pub(crate) fn check(id: &Id) -> Result<Vec<(String, Result<()>)>> {
    let mut answers = Vec::new();
    for attached in Kept::read(id)?.unwrap_or_default().attachments {
        let chain = Chain::kept(id, attached)?;
        if let Some(answer) = chain.check() {
            answers.push((chain.network().to_owned(), answer));
        }
    }
    Ok(answers)
}

/// The names of the networks of CNI that a container is in, as far as can be told.
pub(crate) fn networks(id: &Id) -> Vec<String> {
    let kept = Kept::read(id).ok().flatten().unwrap_or_default();
    let names = kept
        .attachments
        .iter()
        .filter_map(|one| one.list.get("name")?.as_str());
    names.map(str::to_owned).collect()
}
