//! What stands outside the pipeline and only looks: `state`.

use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Error, Kind, Result, paths};
use serde_json::json;

use crate::container::Container;

pub(crate) fn utf8(word: std::ffi::OsString) -> Result<String> {
    word.into_string()
        .map_err(|_| Error::new(Kind::Usage, "the container's name is not UTF-8"))
}

/// All arguments of a verb that takes containers and no options.
pub(crate) fn names(call: &mut Call) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => names.push(utf8(word)?),
        }
    }
    match names.is_empty() {
        true => Err(Error::new(Kind::Usage, "no container is given")),
        false => Ok(names),
    }
}

/// `state`: the runtime-spec's state, and how it ended; of several, a line each.
pub(crate) fn state(call: &mut Call) -> Result<()> {
    let names = names(call)?;
    names.iter().try_for_each(|name| state_of(call, name))
}

fn state_of(call: &Call, name: &str) -> Result<()> {
    let (container, state) = Container::find(name)?.observe()?;
    let pid = container
        .process()?
        .map(|(pid, _)| pid.as_raw_nonzero().get());
    let mut answer = json!({
        "ociVersion": container.document.value("/ociVersion"),
        "id": container.id,
        "status": state.as_str(),
        "pid": pid.unwrap_or(0),
        "bundle": paths::container(&container.id),
    });
    if let (State::Exited, Some(exit)) = (state, container.document.exit()?) {
        answer["exit"] = json!(exit);
    }
    call.line(&answer)
}
