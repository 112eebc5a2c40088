//! `spec` and `create`: the document completed, printed or kept, and nothing run.

use std::path::PathBuf;

use bocker_pipe::events::Event;
use bocker_pipe::state::State;
use bocker_pipe::{
    Arg, Call, Document, Error, Id, Kind, Result, Step, claim, containers, files, lock, paths, time,
};

use crate::options::{process_option, take_command};
use crate::process::Request;
use crate::record::{self, SpawnMember};
use crate::requested::Requested;
use crate::{STAGE, show, spec};

/// The host name of a container that nobody has given an id.
const NAMELESS: &str = "bocker";

#[derive(Default)]
struct Options {
    request: Request,
    requested: Requested,
    read_only: bool,
}

fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(name) if name == "--read-only" => options.read_only = true,
            Arg::Option(name) => {
                if !process_option(call, &name, &mut options.request)?
                    && !options.requested.option(call, &name)?
                {
                    return Err(call.unknown(&name));
                }
            }
            Arg::Value(word) => {
                take_command(call, word, &mut options.request)?;
                break;
            }
        }
    }
    options.requested.check()?;
    Ok(options)
}

fn complete(document: &mut Document, options: &Options, name: &str, dry_run: bool) -> Result<()> {
    if options.read_only {
        document.set("/root/readonly", &true);
    }
    spec::complete(document, &options.request, name, dry_run)
}

/// `spec`: the config.json for another runtime, on stdout.
pub(crate) fn spec(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    call.document()?;
    let dry_run = call.dry_run();
    let document = call.document()?;
    let name = document
        .id()
        .map_or_else(|_| NAMELESS.to_owned(), |id| id.to_string());
    complete(document, &options, &name, dry_run)
}

struct Context {
    id: Id,
    folder: PathBuf,
    document: Document,
    before: Option<Vec<u8>>,
    claim_is_new: bool,
    made_folder: bool,
}

/// `create`: the document is kept as a container that was never started.
pub(crate) fn create(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    let mut document = call.document()?.clone();
    let dry_run = call.dry_run();
    let id = document.id()?;
    if !dry_run && lock::is_alive(&id) {
        return Err(Error::new(Kind::InUse, format!("{id} is running")));
    }
    complete(&mut document, &options, id.as_str(), dry_run)?;
    let member = SpawnMember {
        created: Some(time::now().to_string()),
        ..SpawnMember::of(&document, &options.requested)?
    };
    document.set_member("spawn", &member);
    document.set_member("state", &State::Created);
    let context = Context {
        folder: paths::container(&id),
        id,
        document,
        before: None,
        claim_is_new: false,
        made_folder: false,
    };
    let step = Step::new(
        "spawn.config",
        "the document is kept, so that the container can be found",
    )
    .command(|cx: &Context| show::keeps(&cx.folder))
    .look(|cx| format!("cat {}", cx.folder.join(containers::CONFIG).display()))
    .apply(keep)
    .undo(forget);
    let claim_is_new = claim::read(&context.id).is_none();
    if claim_is_new {
        call.tells(
            |document| vec![Event::of(document, "create")],
            |document| vec![Event::of(document, "destroy")],
        );
    }
    call.create(context, vec![step], |document, context| {
        *document = context.document.clone();
        Ok(())
    })
}

fn keep(context: &mut Context) -> Result<()> {
    context.claim_is_new = claim::renew(&context.id, STAGE)?;
    let _lock = lock::verbs(&context.id)?;
    if record::make_folder(&context.folder)? {
        context.made_folder = true;
        context.document.set("/bocker/spawn/made_folder", &true);
    }
    let path = context.folder.join(containers::CONFIG);
    context.before = files::read(&path)?;
    let result = record::bytes(&context.document).and_then(|bytes| files::replace(&path, &bytes));
    if result.is_err() {
        let _ = forget(context);
    }
    result
}

fn forget(context: &mut Context) -> Result<()> {
    files::restore(
        &context.folder.join(containers::CONFIG),
        context.before.as_deref(),
    )?;
    if context.made_folder {
        record::remove_made_folder(&context.folder)?;
    }
    if context.claim_is_new {
        claim::release_own(&context.id, STAGE)?;
    }
    Ok(())
}
