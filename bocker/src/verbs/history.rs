//! `history`: how an image came about.

use bocker_pipe::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::image;
use crate::session::{Session, not_understood};
use crate::table::{Format, List, size};
use crate::time;
use crate::tools::Piece;

/// What stands for the id of an image that was never here: each step but the last made one.
const MISSING: &str = "<missing>";
/// How much of a line is shown unless all of it is wanted, in characters, as docker.
const SHOWN: usize = 45;

/// Show how an image came about
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: id, unique beginning of it, or name
    image: String,
    #[command(flatten)]
    format: Format,
}

/// One line of `bocker-snap history`.
#[derive(Debug, Deserialize)]
struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    size: u64,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let image = image::find(&args.image)?.ok_or_else(|| image::missing(&args.image))?;
    let stage = session
        .tool(Piece::Snap, "history")?
        .args(["--", &args.image]);
    let lines: Vec<Value> = session.read(&stage)?;
    let steps = lines.iter().map(Step::deserialize);
    let steps: Vec<Step> = steps
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| not_understood(&stage, &error))?;
    let mut rows: Vec<Value> = steps
        .iter()
        .map(|step| record(step, args.format.no_trunc))
        .collect();
    if let Some(newest) = rows.first_mut() {
        newest["ID"] = json!(image.id);
    }
    let list = List {
        columns: &[
            ("IMAGE", "ID"),
            ("CREATED", "CreatedSince"),
            ("CREATED BY", "CreatedBy"),
            ("SIZE", "Size"),
            ("COMMENT", "Comment"),
        ],
        rows,
        lines,
    };
    list.print_all(&args.format)
}

/// What lists and templates show, under docker's names.
fn record(step: &Step, whole: bool) -> Value {
    let since = step.created.as_deref().and_then(time::since);
    let by = step.created_by.as_deref().unwrap_or_default();
    let by = match by.char_indices().nth(SHOWN) {
        Some(_) if !whole => by.chars().take(SHOWN - 1).collect::<String>() + "…",
        _ => by.to_owned(),
    };
    json!({
        "ID": MISSING,
        "CreatedAt": step.created,
        "CreatedSince": since.map_or("N/A".to_owned(), |since| format!("{since} ago")),
        "CreatedBy": by,
        "Size": size(step.size),
        "Bytes": step.size,
        "Comment": step.comment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_shown_as_far_as_docker_shows_it() {
        let step = Step {
            created: None,
            created_by: Some("é".repeat(46)),
            comment: None,
            size: 0,
        };
        let shown = record(&step, false);
        assert_eq!(shown["CreatedBy"], "é".repeat(44) + "…");
        assert_eq!(record(&step, true)["CreatedBy"], "é".repeat(46));
        assert_eq!(shown["CreatedSince"], "N/A");
    }
}
