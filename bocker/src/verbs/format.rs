//! `format TEMPLATE`: the last stage of pipelines that say something about the document that they made.

use std::io;

use bocker_pipe::{Document, Result};

use crate::session::say;
use crate::template::Template;

/// Print a document from stdin by a template, unless it carries an error
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Print a document from stdin by a template, as '{{.bocker.id}}', unless it carries an error.\n\
The exit status is that of the document: the error's code, or 0."
)]
pub(crate) struct Args {
    /// Text with {{.member.of.member}} or {{json .member}}
    template: String,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let template = Template::parse(&args.template)?;
    let document = Document::read(io::stdin().lock())?;
    match document.error() {
        Some(error) => Ok(error.code),
        None => say(&template.fill(document.tree())).map(|()| 0),
    }
}
