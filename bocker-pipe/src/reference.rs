//! Image references as docker reads them: `[domain/]path[:tag][@digest]`, with the defaults `docker.io`, `library/` and `latest`.
//! The grammar is that of <https://github.com/distribution/reference>.

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::layout::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
/// An older name of the same registry.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where docker.io answers the registry protocol.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// The namespace of docker.io's own images.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// A name of this many hexadecimal characters would be taken for an image id.
const IDENTIFIER_LEN: usize = 64;

/// A complete reference: every default is filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

/// Which of a repository's images is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Version {
    /// Whatever the tag points at.
    Tag(String),
    /// Exactly this manifest or index.
    Digest(Digest),
}

impl Reference {
    /// Reads a reference as people type it. With a tag and a digest the digest wins and the tag is dropped.
    /// Fails with [`Kind::Invalid`], or [`Kind::Unsupported`] for a digest that is not sha256.
    pub fn parse(text: &str) -> Result<Reference> {
        let wrong = |why: &str| {
            Error::new(
                Kind::Invalid,
                format!("'{text}' is not an image reference: {why}"),
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (domain, rest) = split_domain(rest);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(wrong("the name is missing"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(wrong("the name must be in lower case"));
        }
        if !is_domain(domain) {
            return Err(wrong("the registry is not a host name"));
        }
        if !path.split('/').all(is_component) {
            return Err(wrong(
                "the name may hold a-z, 0-9 and single separators . _ __ - between them",
            ));
        }
        if domain == DEFAULT_DOMAIN
            && path.len() == IDENTIFIER_LEN
            && path.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(wrong(
                "64 hexadecimal characters are an image id, not a name",
            ));
        }
        let path = match (domain, path.contains('/')) {
            (DEFAULT_DOMAIN, false) => format!("{OFFICIAL}{path}"),
            _ => path.to_owned(),
        };
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(wrong("the name is longer than 255 characters"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong(
                "a tag is up to 128 of a-z, A-Z, 0-9, _ . - and begins with none of . -",
            ));
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Reference {
            domain: domain.to_owned(),
            path,
            version,
        })
    }

    /// The registry as it is named: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Host and port where the registry answers: for docker.io another one than its name.
    pub fn host(&self) -> &str {
        if self.domain == DEFAULT_DOMAIN {
            DEFAULT_HOST
        } else {
            &self.domain
        }
    }

    /// The repository within the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which of the repository's images is meant.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The short form for people, which reads back as the same reference: `busybox:1`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full
            .strip_prefix(DEFAULT_DOMAIN)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            return full;
        };
        // "docker.io/localhost/x" is not "localhost/x", which names another registry.
        let same = |text: &&str| Reference::parse(text).is_ok_and(|other| other == *self);
        let shorter = short
            .strip_prefix(OFFICIAL)
            .filter(same)
            .or(Some(short).filter(same));
        shorter.unwrap_or(&full).to_owned()
    }
}

/// The canonical form: `docker.io/library/busybox:1`, `docker.io/library/busybox@sha256:...`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// The version as the registry protocol wants it in an address.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Tag(tag) => f.write_str(tag),
            Version::Digest(digest) => f.write_str(digest.as_str()),
        }
    }
}

/// The first part names a registry if it could not be the first part of a path: it has a dot, a port or an upper case letter,
/// or is `localhost`. `localhost` alone, without a slash, is an image.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

/// `host[:port]`, the host a name or an IPv4 address, or an IPv6 address in brackets.
fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
            (
                valid,
                rest.strip_prefix(':').or(rest.is_empty().then_some("0")),
            )
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, "0"));
            (host.split('.').all(is_domain_component), Some(port))
        }
    };
    host && port
        .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn is_domain_component(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `[a-z0-9]+((?:[._]|__|[-]+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = text.bytes();
    let mut separators = 0;
    let mut last = b'-';
    let (Some(first), Some(end)) = (text.bytes().next(), text.bytes().last()) else {
        return false;
    };
    word(first)
        && word(end)
        && bytes.all(|b| {
            separators = if word(b) { 0 } else { separators + 1 };
            let valid = match b {
                b'-' => separators == 1 || last == b'-',
                b'.' => separators == 1,
                b'_' => separators == 1 || (separators == 2 && last == b'_'),
                _ => word(b),
            };
            last = b;
            valid
        })
}

/// `[\w][\w.-]{0,127}`
fn is_tag(text: &str) -> bool {
    (1..=TAG_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn defaults_are_filled_in_as_docker_does() {
        for (typed, canonical, familiar) in [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "library/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
            (
                "library/user/app",
                "docker.io/library/user/app:latest",
                "library/user/app:latest",
            ),
            (
                "localhost",
                "docker.io/library/localhost:latest",
                "localhost:latest",
            ),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            (
                "example.com",
                "docker.io/library/example.com:latest",
                "example.com:latest",
            ),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            (
                "docker.io/localhost/a",
                "docker.io/localhost/a:latest",
                "docker.io/localhost/a:latest",
            ),
            (
                "localhost:5000/a/b:C_d.e-f",
                "localhost:5000/a/b:C_d.e-f",
                "localhost:5000/a/b:C_d.e-f",
            ),
            ("UPPER/a", "UPPER/a:latest", "UPPER/a:latest"),
            (
                "quay.io/a__b/c--d",
                "quay.io/a__b/c--d:latest",
                "quay.io/a__b/c--d:latest",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "[2001:db8::1]/a:1",
                "[2001:db8::1]/a:1",
                "[2001:db8::1]/a:1",
            ),
        ] {
            let reference =
                Reference::parse(typed).unwrap_or_else(|error| panic!("{typed}: {error}"));
            assert_eq!(reference.to_string(), canonical, "{typed}");
            assert_eq!(reference.familiar(), familiar, "{typed}");
        }
    }

    #[test]
    fn the_digest_wins_over_the_tag() {
        let reference = Reference::parse(&format!("busybox:1@sha256:{HEX}")).unwrap();
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/busybox@sha256:{HEX}")
        );
        assert_eq!(reference.familiar(), format!("busybox@sha256:{HEX}"));
    }

    #[test]
    fn docker_io_answers_under_another_name() {
        assert_eq!(
            Reference::parse("busybox").unwrap().host(),
            "registry-1.docker.io"
        );
        assert_eq!(
            Reference::parse("localhost:5000/x").unwrap().host(),
            "localhost:5000"
        );
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            ":",
            "@",
            "/",
            "/a",
            "a/",
            "a//b",
            "a:",
            "a@",
            "a:b:c",
            "Busybox",
            "a/B",
            "a/b.",
            ".a",
            "-a",
            "a..b",
            "a___b",
            "a._b",
            "a.-b",
            "a b",
            "a\nb",
            "../a",
            "a/../b",
            "http://a/b",
            "user@host/a",
            "a@sha256:1",
            "a:.b",
            "a:-b",
            "exa_mple.com:1/a",
            "-a.com/b",
            "a.com:/../b",
            "a.com:x/b",
            "a.com:99999/b",
            "a.com:+1/b",
            "[::1/a",
            "[::1]x/a",
            "[g::]:1/a",
            "ä",
            "a:ä",
            &long,
            &long_tag,
            HEX,
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_reads_back_the_same(
            text in "((localhost|[a-zA-Z0-9.-]{1,8}|\\[::1\\])(:[0-9]{1,5})?/)?[a-z0-9._-]{1,9}(/[a-z0-9._-]{1,9}){0,2}(:[a-zA-Z0-9._-]{1,9})?(@sha256:[0-9a-f]{64})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic_or_yields_a_strange_address(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(reference.to_string().bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!reference.path().split('/').any(|part| part.is_empty() || part.starts_with('.')));
            }
        }
    }
}
