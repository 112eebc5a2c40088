//! `format TEMPLATE`: the last stage of pipelines that say something about what they made.

use std::io::{self, Read};

use bocker_pipe::document::MAX_SIZE;
use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result};
use serde_json::Value;

use crate::session::say;
use crate::template::Template;

/// Print documents from stdin by a template
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Print documents, or JSON Lines, from stdin by a template, as '{{.bocker.id}}'.\n\
                  One that carries an error is not printed: its code is the exit status. If nothing comes, that is 125."
)]
pub(crate) struct Args {
    /// Text with {{.member.of.member}}, {{json .member}}, {{if .member}}...{{end}} and more of Go's templates
    template: String,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let template = Template::parse(&args.template)?;
    // The stage before has said why nothing came.
    let mut code = EXIT_FAILED;
    let stdin = io::BufReader::new(io::stdin().lock().take(MAX_SIZE));
    for value in serde_json::Deserializer::from_reader(stdin).into_iter::<Value>() {
        let value = value
            .map_err(|error| Error::new(Kind::Document, format!("stdin is not JSON: {error}")))?;
        code = match value.pointer("/bocker/error") {
            None => say(&template.fill(&value)?).map(|()| 0)?,
            Some(error) => error["code"]
                .as_u64()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(EXIT_FAILED),
        };
    }
    Ok(code)
}
