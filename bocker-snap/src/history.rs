//! `history`: how an image came about, from its configuration, with the layer that each step made.

use bocker_pipe::layout::{Digest, Layout};
use bocker_pipe::{Call, Error, Kind, Result};
use serde::Serialize;
use serde_json::Value;

/// One step, as a JSON line.
#[derive(Serialize)]
struct Line<'a> {
    created: Option<&'a str>,
    created_by: Option<&'a str>,
    author: Option<&'a str>,
    comment: Option<&'a str>,
    /// Of the layer, compressed; 0 without one.
    size: u64,
    /// The layer that it made, if it made one.
    layer: Option<&'a Digest>,
}

/// `history IMAGE`: the newest first. A layer that the history does not tell of is shown all the same.
pub(crate) fn history(call: &mut Call) -> Result<()> {
    let name = call.container(None)?;
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no image is named"))?;
    let layout = Layout::open();
    let image = layout.find(&name)?;
    let manifest = layout.manifest(&image)?;
    let (_, config) = layout.config(&manifest)?;
    let nothing = Vec::new();
    let entries = config["history"].as_array().unwrap_or(&nothing);
    let mut layers = manifest.layers.iter();
    let mut lines = Vec::new();
    for entry in entries {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let layer = match entry.get("empty_layer") {
            Some(Value::Bool(true)) => None,
            _ => layers.next(),
        };
        lines.push(Line {
            created: text("created"),
            created_by: text("created_by"),
            author: text("author"),
            comment: text("comment"),
            size: layer.map_or(0, |layer| layer.size),
            layer: layer.map(|layer| &layer.digest),
        });
    }
    lines.extend(layers.map(|layer| Line {
        created: None,
        created_by: None,
        author: None,
        comment: None,
        size: layer.size,
        layer: Some(&layer.digest),
    }));
    lines.iter().rev().try_for_each(|line| call.line(line))
}
