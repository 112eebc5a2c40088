//! `rename CONTAINER NAME`: another name for a container, running or not.

use bocker_pipe::events::Event;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step, containers, paths};
use serde_json::json;

use crate::container::{self, Folder};
use crate::names;

struct Context {
    id: Id,
    name: String,
    former: Option<String>,
}

/// The verb.
pub(crate) fn rename(call: &mut Call) -> Result<()> {
    let mut words = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if words.len() < 2 => words.push(
                word.into_string()
                    .map_err(|word| Error::new(Kind::Invalid, format!("{word:?} is no name")))?,
            ),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let [container, name] = <[String; 2]>::try_from(words).map_err(|_| {
        Error::new(Kind::Usage, "a container and its new name are to be given")
            .hint("as in 'rename web store'")
    })?;
    names::check_name(&name)?;
    let id = containers::resolve(&container)?;
    let document = containers::load(&id)?;
    let mut context = Context {
        former: document.member("name")?,
        id,
        name,
    };
    call.run_steps(&mut context, vec![step()])?;
    if !call.dry_run() {
        call.line(&json!({"id": context.id, "name": context.name, "former": context.former}))?;
    }
    Ok(())
}

fn step() -> Step<Context> {
    Step::new(
        "snap.name",
        "a name is given to one container only: a link cannot be made twice",
    )
    .command(|c: &Context| {
        let link = |name: &str| quote(&paths::names().join(name).display().to_string());
        let make = format!("ln -s ../containers/{} {}", c.id, link(&c.name));
        let former = c.former.as_deref().map(|name| format!("rm {}", link(name)));
        let note = format!(
            "# write the name to {}",
            Folder::of(&c.id).config().display()
        );
        [make, note].into_iter().chain(former).collect()
    })
    .look(|_| format!("ls -l {}", quote(&paths::names().display().to_string())))
    .apply(|c| {
        // bocker-spawn writes the document under the same lock.
        let _lock = container::lock(&c.id)?;
        names::rename(&c.id, &c.name, || {
            let mut document = containers::load(&c.id)?;
            document.set_member("name", &c.name);
            Folder::of(&c.id).write_config(&document)?;
            let former = c.former.as_deref().unwrap_or_default();
            Event::of(&document, "rename")
                .with("oldName", former)
                .record();
            Ok(())
        })
    })
}
