//! How this machine is set up to reach registries: mirrors, and which are spoken to without TLS. In
//! `/etc/bocker/registries.json`, or the file that `BOCKER_REGISTRIES` names:
//!
//! ```json
//! {
//!   "docker.io": {"mirrors": ["https://mirror.example", "http://10.0.0.7:5000/hub"]},
//!   "registry.lan:5000": {"plain_http": true}
//! }
//! ```
//!
//! A mirror is an address; a path in it comes before the name of the repository. It is without TLS only if it says `http://`
//! or is loopback's. It gets nothing of what the registry's credentials are: it is a server of its own, with its own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::rc::Rc;

use bocker_pipe::reference::Reference;
use bocker_pipe::{Doing, Error, Kind, Result};
use reqwest::Url;
use serde::Deserialize;

use crate::auth::Auth;
use crate::credentials::Source;
use crate::endpoint::{Endpoint, Options, is_loopback};
use crate::notices::Notices;

/// Names another file.
const VARIABLE: &str = "BOCKER_REGISTRIES";
const FILE: &str = "/etc/bocker/registries.json";

/// What is set up for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Setup {
    /// Addresses to ask before the registry itself.
    pub(crate) mirrors: Vec<String>,
    /// The registry itself is spoken to without TLS.
    pub(crate) plain_http: bool,
}

/// What is set up for a registry: `docker.io`.
pub(crate) fn of(domain: &str) -> Result<Setup> {
    let named = env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let (path, must) = match named {
        Some(name) => (PathBuf::from(name), true),
        None => (FILE.into(), false),
    };
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !must => return Ok(Setup::default()),
        bytes => bytes.doing(|| format!("read {}", path.display()))?,
    };
    let mut all = parse(&bytes).map_err(|error| {
        let what = format!("{} cannot be used: {error}", path.display());
        Error::new(Kind::Invalid, what).hint("bocker-pull's README says what may be in it")
    })?;
    Ok(all.remove(domain).unwrap_or_default())
}

/// Reads the file.
pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<BTreeMap<String, Setup>> {
    serde_json::from_slice(bytes)
}

/// The repository of a reference at a mirror.
pub(crate) fn endpoint(
    address: &str,
    reference: &Reference,
    options: Options,
    notices: &Rc<Notices>,
) -> Result<Endpoint> {
    let wrong = |why: &str| {
        Error::new(Kind::Invalid, format!("'{address}' is no mirror: {why}"))
            .hint("name it as https://HOST[:PORT][/PATH]")
    };
    let full = match address.contains("://") {
        true => address.to_owned(),
        false if is_loopback(address.split('/').next().unwrap_or_default()) => {
            format!("http://{address}")
        }
        false => format!("https://{address}"),
    };
    let url = Url::parse(&full).map_err(|error| wrong(&error.to_string()))?;
    let secret = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it is not spoken to by HTTP"));
    }
    if secret || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it may have no user, no query and no fragment"));
    }
    let authority = url.authority();
    let path = match url.path().trim_matches('/') {
        "" => reference.path().to_owned(),
        prefix => format!("{prefix}/{}", reference.path()),
    };
    let base = format!("{}://{authority}/v2/{path}/", url.scheme());
    let mut endpoint = Endpoint::at(&base, authority, "mirror", options)?;
    endpoint.subject = reference.familiar();
    endpoint.notices = Rc::clone(notices);
    endpoint.auth = Auth::new(Source::of(format!("{authority}/{path}")));
    endpoint.want(&format!("repository:{path}:pull"));
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(address: &str) -> Result<String> {
        let reference = Reference::parse("busybox:1").unwrap();
        let endpoint = endpoint(address, &reference, Options::default(), &Rc::default())?;
        Ok(endpoint.shown(""))
    }

    #[test]
    fn a_mirror_is_an_address_and_a_path_in_it_comes_before_the_name() {
        for (address, expected) in [
            ("https://m.example", "https://m.example/v2/library/busybox/"),
            (
                "m.example:444/",
                "https://m.example:444/v2/library/busybox/",
            ),
            (
                "127.0.0.1:5000",
                "http://127.0.0.1:5000/v2/library/busybox/",
            ),
            (
                "http://[::1]:5000/a/b/",
                "http://[::1]:5000/v2/a/b/library/busybox/",
            ),
        ] {
            assert_eq!(base(address).unwrap(), expected, "{address}");
        }
        for address in [
            "",
            "ftp://m.example",
            "https://u:p@m.example",
            "https://m.example?x",
            "https://m.example#x",
            "https://",
        ] {
            assert_eq!(
                *base(address).unwrap_err().kind(),
                Kind::Invalid,
                "{address}"
            );
        }
    }

    #[test]
    fn the_file_is_refused_when_a_word_in_it_is_not_known() {
        let all = parse(br#"{"docker.io":{"mirrors":["a"]},"r":{"plain_http":true}}"#).unwrap();
        assert_eq!(all["docker.io"].mirrors, ["a"]);
        assert!(all["r"].plain_http && !all["docker.io"].plain_http);
        assert!(parse(br#"{"docker.io":{"mirror":["a"]}}"#).is_err());
        assert!(parse(b"[]").is_err());
    }
}
