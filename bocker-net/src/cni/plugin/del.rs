//! DEL: whatever there is of an attachment is removed, whether its namespace is still there or not.

use std::rc::Rc;

use bocker_pipe::step::{Engine, Mode};
use bocker_pipe::{Id, Result, Step};

use super::attachment;
use super::config::{Config, Environment};
use super::{Answer, ipam};
use crate::cni::invoke::Verb;
use crate::delete::Remains;
use crate::gc;

pub(super) fn run(config: &Config, environment: &Environment) -> Answer {
    let Environment {
        container,
        ifname,
        netns,
        ..
    } = environment;
    if let Some(id) = environment.label(&config.name).find() {
        remove(&id)?;
    } else if let Some(delegate) = ipam::of(config) {
        // What it gave may have outlived what we know (SPEC.md, section 4).
        ipam::call(Verb::Del, &delegate, container, ifname, netns.as_deref())?;
    }
    Ok(None)
}

/// Removes all that is found by an attachment's id.
pub(super) fn remove(id: &Id) -> Result<()> {
    let mut remains = Remains::of(id.clone(), false)?;
    gc::search(&mut remains)?;
    let steps = remains.steps();
    Engine::new(Mode::default()).tear_down(&mut remains, steps)
}

/// The steps by which `delete` and `gc`, too, remove what only an attachment of another runtime has: addresses of an IPAM
/// plugin come first, and what the claim is for is forgotten last.
pub(crate) fn steps<C>(id: &Id) -> [Option<Step<C>>; 2] {
    if !attachment::is_there(id) {
        return [None, None];
    }
    let attachment = attachment::read(id);
    let delegated = attachment.and_then(|one| Some(Rc::new((one.ipam.clone()?, one))));
    let free = delegated.map(|delegated| {
        let shown = Rc::clone(&delegated);
        Step::new("net.ipam", "the plugin that gave the address takes it back")
            .command(move |_| vec![ipam::free_command(&shown.1, &shown.0)])
            .apply(move |_: &mut C| {
                ipam::free(&delegated.1, &delegated.0).map_err(|failed| failed.error)
            })
    });
    let (id, shown) = (id.clone(), attachment::path(id));
    let forget = Step::new("net.record", "the id stands for nothing any more")
        .command(move |_| vec![format!("rm -f {}", shown.display())])
        .apply(move |_: &mut C| attachment::forget(&id))
        .last();
    [free, Some(forget)]
}
