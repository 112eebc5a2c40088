//! The part of Go's text/template that people use with docker: `{{.Field}}`, `{{.a.b.c}}`, `{{json .Field}}`,
//! `{{if .Field}}...{{end}}`, `\t`, `\n`.

use bocker_pipe::{Error, Kind, Result};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The value at a path, as text.
    Field(Vec<String>),
    /// The value at a path, as JSON.
    Json(Vec<String>),
    /// Parts that are there if the value at a path is neither absent nor empty.
    If(Vec<String>, Vec<Part>),
}

impl Template {
    /// Reads a template. Fails with [`Kind::Usage`], naming what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Template> {
        let wrong = |why: &str| Error::new(Kind::Usage, format!("the template '{text}' {why}"));
        // The innermost open block is the last; the first is the template itself, which no {{if}} opened.
        let mut outer: Vec<(Vec<String>, Vec<Part>)> = Vec::new();
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| wrong("has {{ without }}"))?;
            rest = after;
            parts.push(Part::Text(unescape(before)));
            match action.trim().split_once(' ') {
                Some(("json", field)) => parts.push(Part::Json(path_of(field.trim())?)),
                Some(("if", field)) => {
                    outer.push((path_of(field.trim())?, std::mem::take(&mut parts)));
                }
                None if action.trim() == "end" => {
                    let (path, before) = outer
                        .pop()
                        .ok_or_else(|| wrong("has {{end}} without {{if}}"))?;
                    let block = std::mem::replace(&mut parts, before);
                    parts.push(Part::If(path, block));
                }
                _ => parts.push(Part::Field(path_of(action.trim())?)),
            }
        }
        if !outer.is_empty() {
            return Err(wrong("has {{if}} without {{end}}"));
        }
        parts.push(Part::Text(unescape(rest)));
        Ok(Template(parts))
    }

    /// Fills it in. What a path does not lead to is `<no value>`, as in Go.
    pub(crate) fn fill(&self, value: &Value) -> String {
        fill(&self.0, value)
    }
}

fn fill(parts: &[Part], value: &Value) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Field(path) => match lookup(value, path) {
            None | Some(Value::Null) => "<no value>".into(),
            Some(Value::String(text)) => crate::table::visible(text),
            Some(other) => other.to_string(),
        },
        Part::Json(path) => lookup(value, path).unwrap_or(&Value::Null).to_string(),
        Part::If(path, block) => match lookup(value, path) {
            Some(found) if !is_empty(found) => fill(block, value),
            _ => String::new(),
        },
    };
    parts.iter().map(part).collect()
}

/// As Go's templates see it: false, 0, and what has no length.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn lookup<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// `.` is everything, `.a.b` the member b of the member a.
fn path_of(field: &str) -> Result<Vec<String>> {
    let unknown = || {
        Error::new(
            Kind::Usage,
            format!("the template's {{{{{field}}}}} is not understood"),
        )
        .hint("use {{.Field}}, {{json .Field}} or {{if .Field}}...{{end}}")
    };
    let names = field.strip_prefix('.').ok_or_else(unknown)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    names
        .split('.')
        .map(|name| {
            if is_name(name) {
                Ok(name.to_owned())
            } else {
                Err(unknown())
            }
        })
        .collect()
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn filled(template: &str, value: &Value) -> String {
        Template::parse(template).unwrap().fill(value)
    }

    #[test]
    fn fields_are_filled_in() {
        let value = json!({"ID": "ps_1", "a": {"b": [1, 2]}, "n": null});
        assert_eq!(filled("{{.ID}}\\t{{ .a.b }}!", &value), "ps_1\t[1,2]!");
        assert_eq!(filled("{{json .ID}} {{json .x}}", &value), "\"ps_1\" null");
        assert_eq!(filled("{{.n}} {{.x.y}}", &value), "<no value> <no value>");
        assert_eq!(filled("{{json .}}", &json!({"a": 1})), r#"{"a":1}"#);
    }

    #[test]
    fn a_block_is_there_if_its_field_has_something() {
        let value = json!({"a": true, "b": "", "c": {"d": [1]}});
        assert_eq!(
            filled("{{if .a}}A{{if .c.d}}D{{end}}{{end}}.", &value),
            "AD."
        );
        assert_eq!(
            filled("{{if .b}}B{{.a}}{{end}}{{if .x}}X{{end}}.", &value),
            "."
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for template in [
            "{{if .a}}",
            "{{end}}",
            "{{.a",
            "{{range .x}}",
            "{{ID}}",
            "{{.a..b}}",
            "{{}}",
        ] {
            assert_eq!(
                Template::parse(template).unwrap_err().kind(),
                &Kind::Usage,
                "{template}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(text in "([{}.a-c \\\\]|json|\\{\\{if .a\\}\\}|\\{\\{end\\}\\}|\\PC){0,30}") {
            if let Ok(template) = Template::parse(&text) {
                template.fill(&json!({"a": {"b": "c"}}));
            }
        }
    }
}
