//! Columns for people, and the original's two columns for scripts.

use std::io::{self, IsTerminal, Write};

use bocker_pipe::{Doing, Result};
use serde_json::Value;

use crate::template::Template;

/// Between two columns of the original's lists.
const CLASSIC_GAP: &str = "\t\t";
const GAP: usize = 2;
/// How much of a value a table on a terminal shows, in characters.
const CELL_MAX: usize = 40;

/// How a list is wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Format {
    /// Print only the ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print the tool's JSON Lines, with everything
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    json: bool,
    /// Print each by a template, as '{{.ID}} {{.State}}'
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "quiet")]
    format: Option<String>,
}

/// A list.
pub(crate) struct List {
    /// The headings, the first two being the original's, and the members of the rows that fill them.
    pub(crate) columns: &'static [(&'static str, &'static str)],
    /// What templates see, under docker's names.
    pub(crate) rows: Vec<Value>,
    /// The same as the tool said it.
    pub(crate) lines: Vec<Value>,
}

impl List {
    /// Prints the list as it is wanted: on a terminal all columns, in a pipe the first two.
    pub(crate) fn print(&self, format: &Format) -> Result<u8> {
        let stdout = io::stdout();
        let text = match &format.format {
            _ if format.quiet => self.filled(&Template::parse("{{.ID}}")?),
            _ if format.json => self.lines.iter().map(|line| format!("{line}\n")).collect(),
            Some(template) if template == "json" => self.filled(&Template::parse("{{json .}}")?),
            Some(template) => self.filled(&Template::parse(template)?),
            None if stdout.is_terminal() => self.aligned(),
            None => self.classic(),
        };
        stdout
            .lock()
            .write_all(text.as_bytes())
            .doing(|| "write to stdout".into())?;
        Ok(0)
    }

    fn filled(&self, template: &Template) -> String {
        self.rows
            .iter()
            .map(|row| template.fill(row) + "\n")
            .collect()
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let headings = self
            .columns
            .iter()
            .map(|(heading, _)| (*heading).to_owned());
        let cell = |row: &Value, member: &str| match &row[member] {
            Value::String(text) => visible(text),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let rows = self.rows.iter().map(|row| {
            self.columns
                .iter()
                .map(|(_, member)| cell(row, member))
                .collect()
        });
        std::iter::once(headings.collect()).chain(rows).collect()
    }

    fn classic(&self) -> String {
        self.cells()
            .iter()
            .map(|cells| cells[..2].join(CLASSIC_GAP) + "\n")
            .collect()
    }

    fn aligned(&self) -> String {
        let cells: Vec<Vec<String>> = self
            .cells()
            .into_iter()
            .map(|row| row.iter().map(|cell| elided(cell)).collect())
            .collect();
        let width = |column: usize| {
            cells
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let padded: String = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}", width = width + GAP))
                .collect();
            padded.trim_end().to_owned() + "\n"
        };
        cells.iter().map(line).collect()
    }
}

/// Text from an image or a container, with what could drive a terminal or break a line shown escaped.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn elided(cell: &str) -> String {
    if cell.chars().count() <= CELL_MAX {
        return cell.to_owned();
    }
    cell.chars().take(CELL_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> List {
        List {
            columns: &[
                ("CONTAINER_ID", "ID"),
                ("COMMAND", "Command"),
                ("STATUS", "Status"),
            ],
            rows: vec![
                json!({"ID": "ps_aaaaaa", "Command": "echo \u{1b}[2J\nx", "Status": "Exited (0)"}),
                json!({"ID": "ps_bbbbbb", "Command": "sh"}),
            ],
            lines: Vec::new(),
        }
    }

    #[test]
    fn in_a_pipe_a_list_is_the_originals_two_columns() {
        assert_eq!(
            list().classic(),
            "CONTAINER_ID\t\tCOMMAND\nps_aaaaaa\t\techo \\u{1b}[2J\\nx\nps_bbbbbb\t\tsh\n"
        );
    }

    #[test]
    fn on_a_terminal_a_list_has_all_columns_aligned() {
        assert_eq!(
            list().aligned(),
            "CONTAINER_ID  COMMAND            STATUS\n\
             ps_aaaaaa     echo \\u{1b}[2J\\nx  Exited (0)\n\
             ps_bbbbbb     sh\n"
        );
    }

    #[test]
    fn a_long_cell_is_elided() {
        assert_eq!(elided(&"x".repeat(40)), "x".repeat(40));
        assert_eq!(elided(&"x".repeat(41)), "x".repeat(39) + "…");
    }
}
