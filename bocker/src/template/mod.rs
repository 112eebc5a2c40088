//! The part of Go's text/template that people use with docker, with the functions that docker adds, for output of any command:
//! `{{.Field}}`, `{{.a.b}}`, `{{json .}}`, `{{index .Ports "80/tcp"}}`, `{{range $k, $v := .Labels}}`, `{{if eq .State "running"}}`.
//!
//! Not gtmpl nor its fork: brackets nested deeply enough overflow the stack of both, and they keep neither the order of members nor
//! numbers as they were written.

mod evaluate;
mod functions;
mod lexer;
mod parse;

use bocker_pipe::{Error, Kind, Result};
use serde_json::Value;

/// The longest template that is read, in bytes.
const MAX_LENGTH: usize = 64 << 10;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<parse::Node>);

impl Template {
    /// Reads a template. Fails with [`Kind::Usage`], naming what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Template> {
        if text.len() > MAX_LENGTH {
            return Err(wrong(&format!("is longer than {MAX_LENGTH} bytes")));
        }
        Ok(Template(parse::parse(lexer::cut(text)?)?))
    }

    /// Fills it in. What is not there is `<no value>`, as in Go. Fails with [`Kind::Invalid`] where a function is given what it
    /// cannot take.
    pub(crate) fn fill(&self, value: &Value) -> Result<String> {
        evaluate::fill(&self.0, value)
    }
}

/// The error for a template that is not understood.
fn wrong(why: &str) -> Error {
    Error::new(Kind::Usage, format!("the template {why}"))
}

/// The error for one that cannot be filled in.
fn failed(why: &str) -> Error {
    Error::new(Kind::Invalid, format!("the template fails: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn filled(template: &str, value: &Value) -> String {
        let read = Template::parse(template).and_then(|template| template.fill(value));
        read.unwrap_or_else(|error| panic!("{template}: {error}"))
    }

    fn sample() -> Value {
        json!({
            "ID": "ps_abc123",
            "Names": "web",
            "n": null,
            "yes": true,
            "count": 3,
            "Labels": {"b.c": "2", "a": "1"},
            "Env": ["A=1", "B=2"],
            "Ports": {"80/tcp": [{"HostPort": "8080"}]},
            "x-y": "hyphen",
            "evil": "\u{1b}[2J\nx\u{9b}",
            "deep": {"\u{1b}[2J": "x"},
        })
    }

    #[test]
    fn fields_are_filled_in() {
        for (template, expected) in [
            ("{{.ID}}\\t{{ .Names }}!", "ps_abc123\tweb!"),
            (
                "{{.n}} {{.x.y}} {{.id}}",
                "<no value> <no value> <no value>",
            ),
            (
                "{{.Env}} {{.Labels}} {{.yes}}",
                "[A=1 B=2] map[a:1 b.c:2] true",
            ),
            ("{{json .Env}} {{json .x}}", r#"["A=1","B=2"] null"#),
            ("{{.x-y}}{{/* }} said */}}{{$.Names}}", "hyphenweb"),
            ("a {{- \" b \" -}} c {{- /* d */ -}} e", "a b ce"),
        ] {
            assert_eq!(filled(template, &sample()), expected, "{template}");
        }
        let text = r#"{"a":1.50}"#;
        assert_eq!(
            filled("{{json .}}", &serde_json::from_str(text).unwrap()),
            text
        );
    }

    #[test]
    fn blocks_are_there_when_their_conditions_hold() {
        for (template, expected) in [
            ("{{if .yes}}Y{{if .Names}}N{{end}}{{end}}.", "YN."),
            (
                "{{if .n}}N{{else if eq .Names \"web\"}}W{{else}}E{{end}}",
                "W",
            ),
            (
                "{{if and .yes (not .n) (ne .Names \"db\" )}}all{{end}}",
                "all",
            ),
            ("{{if or .n .x}}one{{else}}none{{end}}", "none"),
            (
                "{{with .Names}}<{{.}}>{{end}}{{with .n}}{{else}}-{{end}}",
                "<web>-",
            ),
            (
                "{{if gt .count 2}}many{{end}}{{if lt 10 9}}wrong{{end}}",
                "many",
            ),
            ("{{if eq .Names \"a\" \"b\" \"web\"}}in{{end}}", "in"),
        ] {
            assert_eq!(filled(template, &sample()), expected, "{template}");
        }
    }

    #[test]
    fn ranges_go_over_lists_and_objects_in_the_order_of_their_names() {
        for (template, expected) in [
            ("{{range .Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}",
                "a=1 b.c=2 ",
            ),
            (
                "{{range $i, $_ := .Env}}{{$i}}{{end}}{{range .n}}x{{else}}none{{end}}",
                "01none",
            ),
            (
                "{{range $p, $b := .Ports}}{{$p}}->{{(index $b 0).HostPort}}{{end}}",
                "80/tcp->8080",
            ),
            ("{{range .Env}}{{$.Names}}{{end}}", "webweb"),
            ("{{$x := 1}}{{range $_, $x := .Env}}{{end}}{{$x}}", "1"),
            (
                "{{$x := 1}}{{range .n}}{{else}}{{$x := 2}}{{end}}{{$x}}",
                "1",
            ),
            (
                "{{$x := 1}}{{range .Env}}{{$x = print $x 5}}{{$x := 2}}{{end}}{{$x}}",
                "1 55",
            ),
            ("{{$s := \"\"}}{{range .Env}}{{$s = .}}{{end}}{{$s}}", "B=2"),
        ] {
            assert_eq!(filled(template, &sample()), expected, "{template}");
        }
    }

    #[test]
    fn functions_are_gos_and_dockers() {
        for (template, expected) in [
            (r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#, "8080"),
            (
                r#"{{index .Labels "b.c"}} {{.Label "a"}} {{.Label "z"}}"#,
                "2 1 <no value>",
            ),
            (
                r#"{{join .Env ", "}} {{len .Env}} {{.Names | upper}}"#,
                "A=1, B=2 2 WEB",
            ),
            (
                r#"{{title "two words"}} {{lower "ABC"}} {{truncate .ID 5}}"#,
                "Two Words abc ps_ab",
            ),
            (
                r#"{{printf "%-6s|%4d|%04d|%q|%.2s%%" .Names .count .count .Names .ID}}"#,
                "web   |   3|0003|\"web\"|ps%",
            ),
            (
                r#"{{index (split .ID "_") 1}} {{print "a" 1 2 "b"}}"#,
                "abc123 a1 2b",
            ),
            (
                r#"{{printf "%04d|%4d" -3 -3}} {{eq .count 3.0}} {{gt 9007199254740993 9007199254740992}}"#,
                "-003|  -3 true true",
            ),
            (
                r#"{{`raw\n` | printf "%s"}} {{1.5}} {{-1}}"#,
                "raw\\n 1.5 -1",
            ),
        ] {
            assert_eq!(filled(template, &sample()), expected, "{template}");
        }
    }

    #[test]
    fn what_could_drive_a_terminal_is_shown_escaped_unless_the_template_says_it() {
        let value = sample();
        for template in [
            "{{.evil}}",
            "{{json .evil}}",
            "{{println .evil | upper}}",
            "{{join (split .evil \"[\") \"\"}}",
            "{{range $k, $v := .}}{{$v}}{{end}}",
            "{{printf \"%q%v\" .evil .}}",
            "{{truncate .evil 10}}",
            "{{.deep}}",
            "{{range $k, $v := .deep}}{{$k}}{{end}}",
        ] {
            let shown = filled(template, &value);
            assert!(
                !shown.trim_end_matches('\n').contains(char::is_control),
                "{template}: {shown:?}"
            );
        }
        assert_eq!(filled("{{\"\\t\"}}\\n", &value), "\t\n");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (template, named) in [
            ("{{if .a}}", "{{if}}"),
            ("{{end}}", "{{end}}"),
            ("{{else}}", "{{else}}"),
            ("{{if .a}}{{else}}{{else}}{{end}}", "after {{else}}"),
            ("{{.a", "{{ without }}"),
            ("{{range .x}}", "{{range}}"),
            ("{{ID}}", "'ID'"),
            ("{{.a..b}}", "'.'"),
            ("{{}}", "without anything"),
            ("{{.a b}}", "'b'"),
            ("{{$x}}", "$x"),
            ("{{range $x := .a}}{{end}}{{$x}}", "$x"),
            ("{{template \"x\"}}", "'template'"),
            ("{{len}}", "len 0 arguments"),
            ("{{.a .b}}", "no function"),
            ("{{(.a}}", "( without )"),
            ("{{\"a}}", "\""),
            ("{{.a | }}", "without anything"),
            ("{{/* a}}", "comment"),
            ("{{^}}", "'^'"),
            ("{{1x}}", "'1x'"),
            ("{{break}}", "'break'"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert_eq!(error.kind(), &Kind::Usage, "{template}");
            assert!(error.to_string().contains(named), "{template}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        for template in [
            "{{index .Env 9}}",
            "{{index .n \"a\"}}",
            "{{len .n}}",
            "{{range .count}}{{end}}",
            "{{printf \"%d\" .Names}}",
            "{{printf \"%s\"}}",
            "{{printf \"%s\" 1 2}}",
            "{{printf \"%1001s\" .Names}}",
            "{{printf \"%999999999s\" .Names}}",
            "{{printf \"%z\" .Names}}",
            "{{lt .Names 1}}",
            "{{join .Names \"\"}}",
        ] {
            let template_read = Template::parse(template).unwrap();
            let error = template_read.fill(&sample()).unwrap_err();
            assert_eq!(error.kind(), &Kind::Invalid, "{template}: {error}");
        }
        // What comes after the one that decides is not asked.
        assert_eq!(filled("{{and .n (index .n 0)}}", &sample()), "<no value>");
    }

    #[test]
    fn neither_depth_nor_length_is_without_bound() {
        for template in [
            format!("{{{{{}.a{}}}}}", "(".repeat(10_000), ")".repeat(10_000)),
            "{{if .a}}".repeat(7_000),
            format!("{{{{.a{}}}}}", "|json".repeat(10_000)),
            "x".repeat(MAX_LENGTH + 1),
        ] {
            assert!(Template::parse(&template).is_err());
        }
        let value = json!({"l": vec![0; 100], "t": "x".repeat(1000)});
        let deep = |body: &str| {
            let text = format!(
                "{}{body}{}",
                "{{range $.l}}".repeat(12),
                "{{end}}".repeat(12)
            );
            Template::parse(&text).unwrap().fill(&value)
        };
        assert!(deep("").is_err() && deep("{{$.t}}").is_err());
        let doubled = format!("{{{{$x := .t}}}}{}", "{{$x = print $x $x}}".repeat(64));
        assert!(Template::parse(&doubled).unwrap().fill(&value).is_err());
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(text in "(\\{\\{-? ?|(-| -)?\\}\\}|[.a-c \\\\|()$:=,\"`%0-9é-]|json|if |else|end|range |with |index |printf \"%0-9d\"|split |\\PC){0,40}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.fill(&json!({"a": {"b": "c"}, "b": [1, "é"]}));
            }
        }

        #[test]
        fn text_without_braces_stays(text in "[^{\\\\]{0,40}") {
            prop_assert_eq!(filled(&text, &Value::Null), text);
        }
    }
}
