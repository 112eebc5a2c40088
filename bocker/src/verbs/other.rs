//! `bocker frob` runs `bocker-frob`, as git does.

use std::ffi::{OsStr, OsString};

use bocker_pipe::Result;

use crate::cli;
use crate::pipeline::Stage;
use crate::session::Session;
use crate::tools::{Piece, Program};

pub(crate) fn run(session: &Session, words: &[OsString]) -> Result<u8> {
    let (verb, args) = words
        .split_first()
        .map_or((OsStr::new(""), words), |(verb, args)| (verb, args));
    let program = find(session, verb)?;
    session.become_stage(&Stage::new(program).args(args))
}

/// The tools are found like any stage; everything else on PATH alone.
fn find(session: &Session, verb: &OsStr) -> Result<Program> {
    if let Some(piece) = Piece::ALL.into_iter().find(|piece| verb == piece.stage()) {
        return session.tools.find(piece);
    }
    let mut name = OsString::from("bocker-");
    name.push(verb);
    let is_word = !verb.is_empty() && !verb.to_string_lossy().contains('/');
    Program::on_path(&name)
        .filter(|_| is_word)
        .ok_or_else(|| cli::unknown_verb(verb))
}
