//! `image inspect`: what is known of images, as docker has it.

use bocker_pipe::reference::Reference;
use bocker_pipe::{Kind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::inspect::{EXIT_MISSING, print};
use crate::session::{Session, not_understood};
use crate::tools::Piece;

/// Print images as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids, names or digests
    #[arg(required = true)]
    names: Vec<String>,
    /// Print each by a template, as '{{json .Config.Env}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// One line of `bocker-pull inspect`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Image {
    id: String,
    names: Vec<Name>,
    digest: String,
    size: u64,
    configuration: Value,
}

#[derive(Debug, Deserialize)]
struct Name {
    reference: String,
    index: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        match describe(session, name)? {
            Some(image) => found.push(image),
            None => code = EXIT_MISSING,
        }
    }
    print(found, args.format.as_deref())?;
    Ok(code)
}

/// An image in docker's shape; nothing when it cannot be described, and then the tool has said why.
pub(crate) fn describe(session: &Session, name: &str) -> Result<Option<Value>> {
    let stage = session.tool(Piece::Pull, "inspect")?.args(["--", name]);
    let lines = match session.read(&stage) {
        Err(error) if matches!(error.kind(), Kind::Passed(_)) => return Ok(None),
        lines => lines?,
    };
    let Some(line) = lines.first() else {
        return Ok(None);
    };
    let image = Image::deserialize(line).map_err(|error| not_understood(&stage, &error))?;
    Ok(Some(shape(&image)))
}

fn shape(image: &Image) -> Value {
    let names = || {
        let names = image.names.iter();
        names.filter_map(|name| Some((Reference::parse(&name.reference).ok()?, name)))
    };
    let tags = names().filter(|(_, name)| !name.reference.contains('@'));
    let tags: Vec<String> = tags.map(|(reference, _)| reference.familiar()).collect();
    let digest = |(reference, name): (Reference, &Name)| {
        let digest = name.index.as_ref().unwrap_or(&image.digest);
        let full = format!("{}@{digest}", reference.repository());
        Some(Reference::parse(&full).ok()?.familiar())
    };
    let mut digests: Vec<String> = names().filter_map(digest).collect();
    digests.sort();
    digests.dedup();
    let configuration = &image.configuration;
    let text = |key: &str| configuration[key].as_str().unwrap_or_default();
    json!({
        "Id": image.digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": configuration["created"],
        "Author": text("author"),
        "Architecture": text("architecture"),
        "Variant": text("variant"),
        "Os": text("os"),
        "Config": configuration["config"],
        "RootFS": {
            "Type": configuration["rootfs"]["type"],
            "Layers": configuration["rootfs"]["diff_ids"],
        },
        "Size": image.size,
        "bocker": {"id": image.id},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_tags_and_as_digests() {
        let digest = |character: char| format!("sha256:{}", character.to_string().repeat(64));
        let name = |reference: &str, index: Option<char>| Name {
            reference: reference.into(),
            index: index.map(digest),
        };
        let shape = shape(&Image {
            id: "img_aaaaaa".into(),
            names: vec![
                name("docker.io/library/busybox:1", Some('b')),
                name("docker.io/library/busybox:2", Some('b')),
                name("localhost:5000/a/b:c", None),
                name(&format!("r.example/x@{}", digest('d')), None),
            ],
            digest: digest('a'),
            size: 7,
            configuration: json!({"os": "linux", "config": {"Env": ["A=1"]}, "rootfs": {"type": "layers", "diff_ids": ["x"]}}),
        });
        assert_eq!(
            shape["RepoTags"],
            json!(["busybox:1", "busybox:2", "localhost:5000/a/b:c"])
        );
        let at = |name: &str, character| format!("{name}@{}", digest(character));
        assert_eq!(
            shape["RepoDigests"],
            json!([
                at("busybox", 'b'),
                at("localhost:5000/a/b", 'a'),
                at("r.example/x", 'a')
            ])
        );
        assert_eq!(shape["Config"]["Env"], json!(["A=1"]));
        assert_eq!(shape["RootFS"], json!({"Type": "layers", "Layers": ["x"]}));
    }
}
