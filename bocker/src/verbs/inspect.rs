//! `inspect`: the documents of containers, or the line that made one; images, as `image inspect` shows them.

use std::io::{self, Write};

use bocker_pipe::{Document, Doing, Error, Kind, Result, containers};
use serde_json::{Value, json};

use super::image_inspect;
use crate::container::{self, Container};
use crate::image;
use crate::session::{Session, complain, say};
use crate::shell;
use crate::template::Template;

/// Expected and not there: neither success nor a failure of the tool.
pub(crate) const EXIT_MISSING: u8 = 1;

/// Print containers as JSON, and images where no container has the name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
    /// Print the 'bocker run' line that made each
    #[arg(long)]
    as_command: bool,
    /// Print each by a template, as '{{.bocker.state}}'
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "as_command")]
    format: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let all = container::list(session, |stage| stage.args(["--with", ""]))?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        if !args.as_command && containers::resolve(name).is_err() && image::find(name)?.is_some() {
            found.extend(image_inspect::describe(session, name)?);
            continue;
        }
        let container = containers::resolve(name).and_then(|id| {
            all.iter()
                .find(|container| container.id == id)
                .ok_or_else(|| Error::new(Kind::NotFound, format!("{id} was never started")))
        });
        match container {
            Ok(container) if args.as_command => as_command(container)?,
            Ok(container) => found.push(described(container)),
            Err(error) => {
                complain(&error);
                code = EXIT_MISSING;
            }
        }
    }
    if !args.as_command {
        print(found, args.format.as_deref())?;
    }
    Ok(code)
}

/// Prints each by a template, or all as one array.
pub(crate) fn print(found: Vec<Value>, format: Option<&str>) -> Result<()> {
    let Some(template) = format else {
        return say(&format!("{:#}", Value::Array(found)));
    };
    let template = Template::parse(template)?;
    found
        .iter()
        .try_for_each(|value| say(&template.fill(value)?))
}

/// The document, with the state that the kernel shows instead of the one that was last written, and what is mounted as docker
/// tells it.
fn described(container: &Container) -> Value {
    let mut document = container.document.clone();
    document.set_member("state", &container.state);
    document.set("/Mounts", &mounts(&document));
    document.tree().clone()
}

/// The volumes, paths and filesystems in memory that were asked for.
fn mounts(document: &Document) -> Vec<Value> {
    let list = |pointer: &str| document.value(pointer).and_then(Value::as_array);
    let requests = list("/bocker/snap/volumes").into_iter().flatten();
    let shape = |request: &Value| {
        let text = |key: &str| request[key].as_str().unwrap_or_default();
        let (kind, destination) = (text("type"), text("destination"));
        let readonly = request["readonly"] == true;
        let mut shape = json!({
            "Type": kind,
            "Source": text("source"),
            "Destination": destination,
            "Mode": if readonly { "ro" } else { "" },
            "RW": !readonly,
            "Propagation": match (kind, text("propagation")) {
                ("bind", "") => "rprivate",
                (_, propagation) => propagation,
            },
        });
        if kind == "volume" {
            let is_its = |mount: &&Value| mount["destination"] == destination;
            let mount = list("/mounts").into_iter().flatten().find(is_its);
            shape["Name"] = shape["Source"].take();
            shape["Driver"] = json!("local");
            shape["Source"] = mount.map_or(Value::Null, |mount| mount["source"].clone());
        }
        shape
    };
    requests.map(shape).collect()
}

fn as_command(container: &Container) -> Result<()> {
    let words: Option<Vec<String>> = container.document.member("command")?;
    let words = words.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!("{} was not made by bocker, but by its tools", container.id),
        )
    })?;
    let line = [shell::join(&words), b"\n".to_vec()].concat();
    io::stdout()
        .write_all(&line)
        .doing(|| "write to stdout".into())
}
