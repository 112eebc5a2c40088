//! `images`.

use bocker_pipe::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::session::{Session, not_understood};
use crate::table::{Format, List, size};
use crate::time;
use crate::tools::Piece;

const USUAL: [(&str, &str); 4] = [
    ("IMAGE_ID", "ID"),
    ("SOURCE", "Source"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];
const DIGESTS: [(&str, &str); 5] = [USUAL[0], USUAL[1], ("DIGEST", "Digest"), USUAL[2], USUAL[3]];

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for those used to it: all are listed anyway
    #[arg(short, long)]
    all: bool,
    /// Show digests too
    #[arg(long)]
    digests: bool,
    /// Show only those without a name (dangling=true), or with one (dangling=false)
    #[arg(short, long, value_name = "dangling=BOOL", value_parser = dangling)]
    filter: Option<bool>,
    #[command(flatten)]
    format: Format,
}

/// The one filter that there is.
fn dangling(text: &str) -> Result<bool, String> {
    match text.split_once('=') {
        Some(("dangling", "true" | "1")) => Ok(true),
        Some(("dangling", "false" | "0")) => Ok(false),
        _ => Err("the only filter is dangling=true or dangling=false".into()),
    }
}

/// One line of `bocker-pull list`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Image {
    id: String,
    source: String,
    reference: Option<String>,
    digest: String,
    created: Option<String>,
    platform: Option<String>,
    size: u64,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session.tool(Piece::Pull, "list")?;
    let mut lines: Vec<Value> = session.read(&stage)?;
    if let Some(dangling) = args.filter {
        lines.retain(|line| line["reference"].is_null() == dangling);
    }
    let images = lines.iter().map(Image::deserialize);
    let images: Vec<Image> = images
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| not_understood(&stage, &error))?;
    let list = List {
        columns: if args.digests { &DIGESTS } else { &USUAL },
        rows: images.iter().map(record).collect(),
        lines,
    };
    list.print(&args.format)
}

/// What lists and templates show, under docker's names.
fn record(image: &Image) -> Value {
    let name = image.reference.as_ref().map_or("<none>", |_| &image.source);
    // A port stands before the last slash, a digest after an @.
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && !name.contains('@') => (repository, tag),
        _ => (name.split('@').next().unwrap_or(name), "<none>"),
    };
    let since = image.created.as_deref().and_then(time::since);
    json!({
        "ID": image.id,
        "Source": image.source,
        "Repository": repository,
        "Tag": tag,
        "Digest": image.digest,
        "CreatedAt": image.created,
        "CreatedSince": since.map(|since| format!("{since} ago")),
        "Platform": image.platform,
        "Size": size(image.size),
        "Bytes": image.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_repository_and_tag() {
        let of = |source: &str, named: bool| {
            let record = record(&Image {
                id: "img_aaaaaa".into(),
                source: source.into(),
                reference: named.then(|| source.into()),
                digest: String::new(),
                created: None,
                platform: None,
                size: 0,
            });
            format!("{} {}", record["Repository"], record["Tag"]).replace('"', "")
        };
        assert_eq!(of("busybox:1", true), "busybox 1");
        assert_eq!(of("127.0.0.1:5000/a/b:c", true), "127.0.0.1:5000/a/b c");
        assert_eq!(of("a@sha256:00", true), "a <none>");
        assert_eq!(of("/some/directory", false), "<none> <none>");
    }
}
