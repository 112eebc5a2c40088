//! What stands outside the pipeline and only looks: `state`, `list` and `logs`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, containers, paths};
use serde_json::json;

use crate::container::Container;
use crate::log::{self, Stream};

fn one_name(call: &mut Call) -> Result<String> {
    let mut name = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if name.is_some() => return Err(call.unexpected(&word)),
            Arg::Value(word) => name = Some(utf8(word)?),
        }
    }
    name.ok_or_else(|| Error::new(Kind::Usage, "no container is given"))
}

pub(crate) fn utf8(word: std::ffi::OsString) -> Result<String> {
    word.into_string()
        .map_err(|_| Error::new(Kind::Usage, "the container's name is not UTF-8"))
}

/// `state`: the runtime-spec's state, and how it ended; of several, a line each.
pub(crate) fn state(call: &mut Call) -> Result<()> {
    let mut names = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => names.push(utf8(word)?),
        }
    }
    if names.is_empty() {
        return Err(Error::new(Kind::Usage, "no container is given"));
    }
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

/// `logs`: what the container wrote, each stream to ours.
pub(crate) fn logs(call: &mut Call) -> Result<()> {
    let id = containers::resolve(&one_name(call)?)?;
    let path = paths::container(&id).join(containers::LOG);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    let file = match file {
        // It has not written anything yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.doing(|| format!("open the log {}", path.display()))?,
    };
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    log::replay(file, |stream, bytes| {
        let result = match stream {
            Stream::Stdout => out.write_all(bytes),
            // The order between the two, when both go to one place, is that of the log.
            Stream::Stderr => out.flush().and_then(|()| err.write_all(bytes)),
        };
        result.doing(|| "write the log".into())
    })?;
    out.flush().doing(|| "write the log".into())
}
