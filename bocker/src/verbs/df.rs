//! `system df`: what images, containers and volumes take on the disk. bocker-snap measures; here it is laid out.

use bocker_pipe::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::session::{Session, not_understood, say};
use crate::table::{self, visible};
use crate::template::Template;
use crate::tools::Piece;

/// Show what images, containers and volumes take on the disk
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show what images, containers and volumes take on the disk.\n\
RECLAIMABLE is what comes back when all that are not in use are removed; what others share stays, and does not count.\n\
-v tells each by itself, where UNIQUE is what comes back when it alone goes."
)]
pub(crate) struct Args {
    /// Show each image, container and volume
    #[arg(short, long, conflicts_with = "format")]
    verbose: bool,
    /// Print the tool's JSON Lines, in bytes
    #[arg(long, conflicts_with_all = ["format", "verbose"])]
    json: bool,
    /// Print each line by a template, as '{{.Type}} {{.Size}}'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// One line of `bocker-snap df`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
enum Line {
    Images(Total),
    Containers(Total),
    Volumes(Total),
    Leftovers(Total),
    Image {
        id: String,
        references: Vec<String>,
        containers: Vec<String>,
        #[serde(flatten)]
        sizes: Sizes,
    },
    Container {
        id: String,
        names: Vec<String>,
        running: bool,
        #[serde(flatten)]
        sizes: Sizes,
    },
    Volume {
        name: String,
        containers: Vec<String>,
        #[serde(flatten)]
        sizes: Sizes,
    },
}

#[derive(Debug, Deserialize)]
struct Total {
    count: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

#[derive(Debug, Deserialize)]
struct Sizes {
    size: u64,
    shared: u64,
    unique: u64,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session.tool(Piece::Snap, "df")?;
    let values = session.read(&stage)?;
    if args.json {
        values.iter().try_for_each(|line| say(&line.to_string()))?;
        return Ok(0);
    }
    let lines: Vec<Line> = values
        .iter()
        .map(Line::deserialize)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| not_understood(&stage, &error))?;
    let totals = lines.iter().filter_map(Line::total);
    if let Some(template) = &args.format {
        let template = match template.as_str() {
            "json" => "{{json .}}",
            template => template,
        };
        let template = Template::parse(template)?;
        totals
            .map(|(name, total)| template.fill(&record(name, total)))
            .try_for_each(|line| say(&line?))?;
        return Ok(0);
    }
    if !args.verbose {
        let heading = ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"];
        let rows = totals.map(|(name, total)| {
            let record = record(name, total);
            ["Type", "TotalCount", "Active", "Size", "Reclaimable"]
                .map(|member| record[member].as_str().unwrap_or_default().to_owned())
        });
        return say(&columns(heading, rows)).map(|()| 0);
    }
    let sections = [
        (
            "Images",
            [
                "IMAGE_ID",
                "NAMES",
                "SIZE",
                "SHARED",
                "UNIQUE",
                "CONTAINERS",
            ],
            lines.iter().filter_map(Line::image).collect::<Vec<_>>(),
        ),
        (
            "Containers",
            [
                "CONTAINER_ID",
                "NAMES",
                "SIZE",
                "SHARED",
                "UNIQUE",
                "RUNNING",
            ],
            lines.iter().filter_map(Line::container).collect(),
        ),
        (
            "Volumes",
            ["VOLUME", "", "SIZE", "SHARED", "UNIQUE", "CONTAINERS"],
            lines.iter().filter_map(Line::volume).collect(),
        ),
    ];
    let text = sections.map(|(name, heading, rows)| format!("{name}:\n{}", columns(heading, rows)));
    say(&text.join("\n\n")).map(|()| 0)
}

impl Line {
    fn total(&self) -> Option<(&'static str, &Total)> {
        match self {
            Line::Images(total) => Some(("Images", total)),
            Line::Containers(total) => Some(("Containers", total)),
            Line::Volumes(total) => Some(("Volumes", total)),
            Line::Leftovers(total) => Some(("Leftovers", total)),
            _ => None,
        }
    }

    fn image(&self) -> Option<[String; 6]> {
        match self {
            Line::Image {
                id,
                references,
                containers,
                sizes,
            } => Some(sizes.row(id, &references.join(","), containers.len().to_string())),
            _ => None,
        }
    }

    fn container(&self) -> Option<[String; 6]> {
        match self {
            Line::Container {
                id,
                names,
                running,
                sizes,
            } => {
                let running = if *running { "yes" } else { "no" };
                Some(sizes.row(id, &names.join(","), running.to_owned()))
            }
            _ => None,
        }
    }

    fn volume(&self) -> Option<[String; 6]> {
        match self {
            Line::Volume {
                name,
                containers,
                sizes,
            } => Some(sizes.row(name, "", containers.len().to_string())),
            _ => None,
        }
    }
}

impl Sizes {
    fn row(&self, id: &str, names: &str, last: String) -> [String; 6] {
        let [size, shared, unique] = [self.size, self.shared, self.unique].map(table::size);
        [visible(id), visible(names), size, shared, unique, last]
    }
}

/// What lists and templates show of all of a kind, under docker's names.
fn record(name: &str, total: &Total) -> Value {
    let part = match total.size {
        0 => String::new(),
        size => format!(" ({}%)", total.reclaimable.min(size) * 100 / size),
    };
    json!({
        "Type": name,
        "TotalCount": total.count.to_string(),
        "Active": total.active.to_string(),
        "Size": table::size(total.size),
        "Reclaimable": format!("{}{part}", table::size(total.reclaimable)),
    })
}

/// Columns as wide as their longest cell; the last line has no end.
fn columns<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![heading.map(str::to_owned)];
    all.extend(rows);
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_where_there_is_something_to_share() {
        let total = |size, reclaimable| Total {
            count: 3,
            active: 1,
            size,
            reclaimable,
        };
        let shown = record("Images", &total(2000, 500));
        assert_eq!(shown["Reclaimable"], "500B (25%)");
        assert_eq!(record("Volumes", &total(0, 0))["Reclaimable"], "0B");
    }

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [["image".to_owned(), "1".into()], ["x".into(), "10".into()]];
        assert_eq!(
            columns(["A", "SIZE"], rows),
            "A      SIZE\nimage  1\nx      10"
        );
    }
}
