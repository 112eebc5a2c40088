//! Columns for people, and the original's two columns for scripts.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use bocker_pipe::{Doing, Result};
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, presets};
use serde_json::{Map, Value};

use crate::template::Template;

/// Between two columns of the original's lists.
const CLASSIC_GAP: &str = "\t\t";
const GAP: u16 = 2;
/// Of a terminal that does not say how wide it is, as ls(1) has it.
const UNKNOWN_WIDTH: u16 = 80;
/// What a template begins with whose columns are to be aligned.
const TABLE: &str = "table";
/// Where a cell could be broken: nowhere, it never holds one.
const UNUSED: char = '\0';

/// Rows of texts, the headings first.
type Cells = Vec<Vec<String>>;

/// How a list is wanted.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Format {
    /// Print only the ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print the tool's JSON Lines, with everything
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    pub(crate) json: bool,
    /// Print each by a template, as '{{.ID}} {{.State}}'; after 'table' as columns; 'json': each as JSON
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "quiet")]
    format: Option<String>,
    /// Leave the headings out
    #[arg(long, visible_alias = "no-heading")]
    noheading: bool,
    /// Show long lines whole
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

impl Format {
    /// Whether it is the original's two columns that are printed.
    pub(crate) fn is_classic(&self) -> bool {
        !self.quiet && !self.json && self.format.is_none() && !io::stdout().is_terminal()
    }

    /// Whether a template shows this field.
    pub(crate) fn shows(&self, field: &str) -> bool {
        let template = self.format.as_deref().unwrap_or_default();
        template.contains(&format!(".{field}"))
    }
}

/// A list.
pub(crate) struct List<'a> {
    /// The headings, the first two being the original's, and the members of the rows that fill them.
    pub(crate) columns: &'a [(&'static str, &'static str)],
    /// What templates see, under docker's names.
    pub(crate) rows: Vec<Value>,
    /// The same as the tool said it.
    pub(crate) lines: Vec<Value>,
}

impl List<'_> {
    /// Prints the list as it is wanted: on a terminal all columns, in a pipe the first two.
    pub(crate) fn print(&self, format: &Format) -> Result<u8> {
        self.print_or(format, classic)
    }

    /// The same for a list that the original did not have: all columns in a pipe, too.
    pub(crate) fn print_all(&self, format: &Format) -> Result<u8> {
        self.print_or(format, |cells| aligned(cells, u16::MAX))
    }

    fn print_or(&self, format: &Format, in_a_pipe: impl Fn(&Cells) -> String) -> Result<u8> {
        let stdout = io::stdout();
        let width = match stdout.is_terminal() {
            true if format.no_trunc => Some(u16::MAX),
            true => Some(width(&stdout)),
            false => None,
        };
        let template = format.format.as_deref();
        let text = match template.map(|template| (template, template.strip_prefix(TABLE))) {
            _ if format.quiet => self.filled("{{.ID}}")?,
            _ if format.json => self.lines.iter().map(|line| format!("{line}\n")).collect(),
            Some(("json", _)) => self.filled("{{json .}}")?,
            None | Some((_, Some(""))) => {
                let cells = self.cells(format);
                match (width, template) {
                    (Some(width), _) => aligned(&cells, width),
                    (None, None) => in_a_pipe(&cells),
                    (None, Some(_)) => aligned(&cells, u16::MAX),
                }
            }
            Some((_, Some(columns))) => aligned(
                &self.by_template(columns.trim_start(), format)?,
                width.unwrap_or(u16::MAX),
            ),
            Some((template, None)) => self.filled(template)?,
        };
        stdout
            .lock()
            .write_all(text.as_bytes())
            .doing(|| "write to stdout".into())?;
        Ok(0)
    }

    fn filled(&self, template: &str) -> Result<String> {
        let template = Template::parse(template)?;
        self.rows
            .iter()
            .map(|row| Ok(template.fill(row)? + "\n"))
            .collect()
    }

    fn cells(&self, format: &Format) -> Cells {
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
        let headings = (!format.noheading).then(|| headings.collect());
        headings.into_iter().chain(rows).collect()
    }

    /// Columns divided by tabs, headed by what the template makes of the names of the fields.
    fn by_template(&self, template: &str, format: &Format) -> Result<Cells> {
        let template = Template::parse(template)?;
        let cells = |row: &Value| -> Result<Vec<String>> {
            Ok(template.fill(row)?.split('\t').map(str::to_owned).collect())
        };
        let names = self.rows.first().and_then(Value::as_object);
        let names = names.into_iter().flatten().map(|(name, _)| name.as_str());
        let names = names.chain(self.columns.iter().map(|(_, member)| *member));
        let headings: Map<String, Value> = names
            .map(|name| (name.to_owned(), self.heading(name).into()))
            .collect();
        // What a template does with a value it may not be able to do with a heading.
        let headings = (!format.noheading).then(|| cells(&headings.into()).unwrap_or_default());
        let rows = self.rows.iter().map(cells);
        headings.into_iter().map(Ok).chain(rows).collect()
    }

    /// Of the column that shows a field; of a field that no column shows its name, word by word: `CREATED AT`.
    fn heading(&self, field: &str) -> String {
        if let Some((heading, _)) = self.columns.iter().find(|(_, member)| *member == field) {
            return (*heading).to_owned();
        }
        let mut heading = String::new();
        let mut before = None;
        for c in field.chars() {
            if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
                heading.push(' ');
            }
            heading.extend(c.to_uppercase());
            before = Some(c);
        }
        heading
    }
}

/// The original's two columns.
fn classic(cells: &Cells) -> String {
    cells
        .iter()
        .map(|cells| cells[..2].join(CLASSIC_GAP) + "\n")
        .collect()
}

/// Each row on one line of a terminal of `width` columns. What is longer is elided, the ids in the first never.
fn aligned(cells: &Cells, width: u16) -> String {
    if cells.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    for cells in cells {
        // What cannot be shown anyway is cut off first: the table breaks lines in quadratic time.
        let mut row = Row::from(
            cells
                .iter()
                .map(|cell| cell.chars().take(width.into()).collect::<String>()),
        );
        row.max_height(1);
        table.add_row(row);
    }
    let last = table.column_count().saturating_sub(1);
    for column in table.column_iter_mut() {
        column.set_padding((0, if column.index == last { 0 } else { GAP }));
        column.set_delimiter(UNUSED);
        if column.index == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt() + "\n"
}

/// How wide a terminal is, in columns.
fn width(terminal: impl AsFd) -> u16 {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 => size.ws_col,
        _ => UNKNOWN_WIDTH,
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

/// A number of bytes in docker's way: three digits, units of 1000.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use unicode_width::UnicodeWidthStr;

    use super::*;

    fn list() -> List<'static> {
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
            classic(&list().cells(&Format::default())),
            "CONTAINER_ID\t\tCOMMAND\nps_aaaaaa\t\techo \\u{1b}[2J\\nx\nps_bbbbbb\t\tsh\n"
        );
    }

    #[test]
    fn on_a_terminal_a_list_has_all_columns_aligned() {
        assert_eq!(
            aligned(&list().cells(&Format::default()), 80),
            "CONTAINER_ID  COMMAND            STATUS\n\
             ps_aaaaaa     echo \\u{1b}[2J\\nx  Exited (0)\n\
             ps_bbbbbb     sh\n"
        );
    }

    #[test]
    fn a_table_fits_its_terminal_and_keeps_the_ids() {
        let mut list = list();
        list.rows[1]["Command"] = json!("sh -c 'sleep 1000; 眠る 眠る 眠る'");
        assert_eq!(
            aligned(&list.cells(&Format::default()), 40),
            "CONTAINER_ID  COMMAND         STATUS\n\
             ps_aaaaaa     echo \\u{1b}[2…  Exited (0)\n\
             ps_bbbbbb     sh -c 'sleep …\n"
        );
        for width in 12..200 {
            for line in aligned(&list.cells(&Format::default()), width).lines() {
                assert!(
                    line.starts_with("CONTAINER_ID  ") || line.starts_with("ps_"),
                    "{line}"
                );
                assert!(
                    line.width() <= usize::from(width.max(18)),
                    "{width}: {line}"
                );
            }
        }
    }

    #[test]
    fn a_template_after_table_makes_columns_with_headings() {
        let mut list = list();
        let table = |list: &List<'_>, template: &str, noheading: bool| {
            let format = Format {
                noheading,
                ..Format::default()
            };
            aligned(&list.by_template(template, &format).unwrap(), u16::MAX)
        };
        let template = "{{.ID}}\\t{{.Command | lower}}\\t{{.CreatedAt}}";
        list.rows[0] = json!({"ID": "ps_aaaaaa", "Command": "A", "CreatedAt": "now"});
        assert_eq!(
            table(&list, template, false),
            "CONTAINER_ID  command  CREATED AT\nps_aaaaaa     a        now\nps_bbbbbb     sh       <no value>\n"
        );
        assert_eq!(table(&list, "{{.Command}}", true), "A\nsh\n");
        list.rows.clear();
        assert_eq!(table(&list, "{{.ID}}", false), "CONTAINER_ID\n");
    }

    #[test]
    fn a_cell_longer_than_any_terminal_is_shown() {
        let mut list = list();
        list.rows[1]["Command"] = json!("x".repeat(200_000));
        assert_eq!(
            aligned(&list.cells(&Format::default()), 80).lines().count(),
            3
        );
    }

    #[test]
    fn a_size_has_three_digits() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (2_210_000, "2.21MB"),
            (99_960, "100kB"),
            (999_600, "1.00MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
