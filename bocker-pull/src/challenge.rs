//! The `WWW-Authenticate` header: a list of challenges, each a scheme and parameters
//! (<https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1>).

/// One way in that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of a parameter, whose names have no case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header value. What follows a fault is left out.
pub(crate) fn parse(text: &str) -> Vec<Challenge> {
    let mut rest = Cursor(text);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| matches!(c, ' ' | '\t' | ','));
        let word = rest.take(is_token);
        if word.is_empty() {
            return challenges;
        }
        match (challenges.last_mut(), rest.after_equals()) {
            (Some(challenge), Some(after)) => {
                rest = after;
                let Some(value) = rest.value() else {
                    return challenges;
                };
                challenge.parameters.push((word.to_owned(), value));
            }
            (None, Some(_)) => return challenges,
            (_, None) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest.skip_token68();
            }
        }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[derive(Clone, Copy)]
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.take(unwanted);
    }

    fn skip_space(&mut self) {
        self.skip(|c| matches!(c, ' ' | '\t'));
    }

    /// What follows an `=`, around which old servers put white space.
    fn after_equals(self) -> Option<Cursor<'a>> {
        let mut rest = self;
        rest.skip_space();
        let mut rest = Cursor(rest.0.strip_prefix('=')?);
        rest.skip_space();
        Some(rest)
    }

    /// A token or a quoted string, in which a backslash makes the next character literal.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return Some(self.take(is_token).to_owned()).filter(|token| !token.is_empty());
        };
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(chars.next()?),
                c => value.push(c),
            }
        }
        self.0 = chars.as_str();
        Some(value)
    }

    /// `Negotiate YWJj==`: one opaque word instead of parameters.
    fn skip_token68(&mut self) {
        let mut rest = *self;
        rest.skip_space();
        let word = rest.take(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        rest.skip(|c| c == '=');
        rest.skip_space();
        if !word.is_empty() && (rest.0.is_empty() || rest.0.starts_with(',')) {
            *self = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |challenge: &Challenge| {
            let parameters: Vec<String> = challenge
                .parameters
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            format!("{} {}", challenge.scheme, parameters.join("|"))
        };
        parse(text).iter().map(show).collect()
    }

    #[test]
    fn what_registries_send_is_read() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
                &[
                    "bearer realm=https://auth.docker.io/token|service=registry.docker.io|scope=repository:library/busybox:pull",
                ][..],
            ),
            (
                r#"Basic realm="a, b", Bearer realm=x , service = "y""#,
                &["basic realm=a, b", "bearer realm=x|service=y"],
            ),
            (
                r#"BEARER Realm="say \"hi\" \\""#,
                &[r#"bearer Realm=say "hi" \"#],
            ),
            ("Negotiate", &["negotiate "]),
            (
                "Negotiate YWJj==, Basic, Bearer realm=x",
                &["negotiate ", "basic ", "bearer realm=x"],
            ),
            (
                r#"Bearer realm="x",error="insufficient_scope" , , scope="a b""#,
                &["bearer realm=x|error=insufficient_scope|scope=a b"],
            ),
        ] {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    #[test]
    fn what_follows_a_fault_is_left_out() {
        assert_eq!(shown(r#"Bearer realm="never ends"#), ["bearer "]);
        assert_eq!(shown("Bearer a=b, \u{e9}=c"), ["bearer a=b"]);
        assert_eq!(shown("realm=x"), Vec::<String>::new());
        assert_eq!(shown(""), Vec::<String>::new());
    }

    #[test]
    fn parameter_names_have_no_case() {
        assert_eq!(parse("Bearer REALM=x")[0].get("realm"), Some("x"));
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(text in "[ -~]{0,80}") {
            parse(&text);
        }

        #[test]
        fn a_quoted_value_comes_back_as_it_was(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', r"\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\",service=s"));
            prop_assert_eq!(challenges[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[0].get("service"), Some("s"));
        }
    }
}
