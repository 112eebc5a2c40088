//! A stage in a few lines: what a program of your own that stands in the pipe has to do, and no more.
//! The examples of the protocol page are executed against it.

use std::process::ExitCode;

use bocker_pipe::{Call, Error, Kind, Result, Step, Tool, Verb, VerbKind};
use serde_json::json;

static TOOL: Tool = Tool {
    name: "stage",
    stage: "example",
    help: "stage create|delete|fail: adds a member to the document, removes it, or fails\n",
    verbs: &[
        Verb {
            name: "create",
            kind: VerbKind::Creates,
            run: create,
        },
        Verb {
            name: "delete",
            kind: VerbKind::Deletes,
            run: delete,
        },
        Verb {
            name: "fail",
            kind: VerbKind::Creates,
            run: fail,
        },
    ],
    default_verb: None,
};

fn main() -> ExitCode {
    ExitCode::from(bocker_pipe::tool::main(&TOOL))
}

fn create(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    call.document()?;
    let step = Step::new("example.nothing", "a stage is a list of steps")
        .command(|()| vec!["true".into()])
        .undo(|()| Ok(()));
    call.create((), vec![step], |document, ()| {
        document.set_member("example", &json!({"made": true}));
        Ok(())
    })
}

fn delete(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    call.document()?;
    call.delete((), Vec::new(), |document, ()| {
        document.remove_member("example");
        Ok(())
    })
}

fn fail(call: &mut Call) -> Result<()> {
    call.document()?;
    Err(Error::new(Kind::CannotExecute, "/bin/x is a directory").hint("name a program"))
}
