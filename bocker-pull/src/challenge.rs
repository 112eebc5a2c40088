//! The `WWW-Authenticate` header: a list of challenges, each a scheme and parameters
//! (<https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1>).

use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;

/// Reads the challenges of one header value. What follows a fault is left out, with the challenge that it is in.
pub(crate) fn parse(text: &str) -> impl Iterator<Item = ChallengeRef<'_>> {
    ChallengeParser::new(text).map_while(Result::ok)
}

/// Whether a challenge is of a scheme, whose names have no case.
pub(crate) fn is(challenge: &ChallengeRef, scheme: &str) -> bool {
    challenge.scheme.eq_ignore_ascii_case(scheme)
}

/// The first value of a parameter, whose names have no case.
pub(crate) fn get(challenge: &ChallengeRef, name: &str) -> Option<String> {
    let mut parameters = challenge.params.iter();
    let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_unescaped())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |challenge: ChallengeRef| {
            let parameters = challenge.params.iter();
            let parameters: Vec<String> = parameters
                .map(|(key, value)| format!("{key}={}", value.to_unescaped()))
                .collect();
            let scheme = challenge.scheme.to_ascii_lowercase();
            format!("{scheme} {}", parameters.join("|"))
        };
        parse(text).map(show).collect()
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
                "Negotiate, Basic, Bearer realm=x",
                &["negotiate ", "basic ", "bearer realm=x"],
            ),
            (
                r#"BASIC realm="Sonatype Nexus Repository Manager""#,
                &["basic realm=Sonatype Nexus Repository Manager"],
            ),
            (
                r#"Bearer realm="https://r.example/token",service=r.example,scope="""#,
                &["bearer realm=https://r.example/token|service=r.example|scope="],
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
        let nothing = Vec::<String>::new();
        assert_eq!(shown(r#"Basic, Bearer realm="never ends"#), ["basic "]);
        assert_eq!(shown("Basic, Bearer a=b, \u{e9}=c"), ["basic "]);
        // Sent only to one who has begun to negotiate.
        assert_eq!(shown("Negotiate YWJj==, Bearer realm=x"), nothing);
        assert_eq!(shown("realm=x"), nothing);
        assert_eq!(shown(""), nothing);
    }

    #[test]
    fn parameter_names_have_no_case() {
        assert_eq!(
            parse("Bearer REALM=x")
                .next()
                .and_then(|c| get(&c, "realm"))
                .as_deref(),
            Some("x")
        );
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(text in r#"([ -~]|Bearer |realm=|["\\,]){0,40}"#) {
            parse(&text).for_each(|challenge| drop(get(&challenge, "realm")));
        }

        #[test]
        fn a_quoted_value_comes_back_as_it_was(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', r"\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\",service=s");
            let bearer = parse(&header).next().unwrap();
            prop_assert_eq!(get(&bearer, "realm"), Some(value));
            prop_assert_eq!(get(&bearer, "service"), Some("s".to_owned()));
        }
    }
}
