//! `inspect`: the network of a container as it is now.

use bocker_pipe::{Arg, Call, Error, Id, Kind, Result};
use serde::Serialize;

use crate::gc::{self, Found};
use crate::netns;
use crate::observe::{self, Inside};

/// What is printed of one.
#[derive(Serialize)]
struct View<'a> {
    #[serde(flatten)]
    found: &'a Found,
    #[serde(flatten)]
    inside: Inside,
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let mut ids: Vec<Id> = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Value(word) => ids.push(call.document_of(&word.to_string_lossy())?.id()?),
            Arg::Option(option) => return Err(call.unknown(&option)),
        }
    }
    if ids.is_empty() {
        let what = "no container is named";
        return Err(
            Error::new(Kind::Usage, what).hint("'bocker-net list' names all that have a network")
        );
    }
    let all = gc::find()?;
    for id in ids {
        let nothing = Found::nothing(id.clone());
        let path = netns::path(&id);
        // One that has ended, or is in the host's namespace, has none.
        let inside = match netns::is_pinned(&path) {
            true => observe::inside(&path)?,
            false => Inside::default(),
        };
        call.line(&View {
            found: all.of(&id).unwrap_or(&nothing),
            inside,
        })?;
    }
    Ok(())
}
