//! What `cargo fuzz` runs on any bytes (see the page of `fuzz/`), and ordinary tests on the inputs that are kept there.
//! Each function returns, whatever it is given; an assertion that fails is a fault.

use crate::credentials::Content;
use crate::{challenge, mirrors, platform};

/// The value of a `WWW-Authenticate` header.
pub fn challenge(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    // A list of n bytes holds no more challenges than that.
    let mut count = 0;
    for one in challenge::parse(text) {
        count += 1;
        assert!(count <= bytes.len());
        let _ = challenge::is(&one, "bearer");
        for name in ["realm", "service", "scope"] {
            let value = challenge::get(&one, name);
            assert!(value.is_none_or(|value| value.len() <= bytes.len()));
        }
    }
}

/// A platform as people type it: whatever is read is the same when it is shown and read again.
pub fn platform(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(read) = platform::parse(text) else {
        return;
    };
    assert_eq!(platform::parse(&platform::show(&read)).ok(), Some(read));
}

/// A file of credentials: docker's config.json or podman's auth.json. Its helpers, which are programs, are not asked.
pub fn credentials(bytes: &[u8]) {
    let Ok(content) = Content::parse(bytes, "config.json".to_owned()) else {
        return;
    };
    for name in ["docker.io", "docker.io/library", "localhost:5000/a"] {
        let _ = content.entry(name);
    }
}

/// The file that sets up mirrors.
pub fn registries(bytes: &[u8]) {
    let _ = mirrors::parse(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, run: impl Fn(&[u8])) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/");
        let seeds = std::fs::read_dir(format!("{folder}{target}")).unwrap();
        let count = seeds
            .map(|seed| run(&std::fs::read(seed.unwrap().path()).unwrap()))
            .count();
        assert!(count > 0);
    }

    #[test]
    fn what_was_found_by_fuzzing_stays_found() {
        replay("challenge", challenge);
        replay("platform", platform);
        replay("credentials", credentials);
        replay("registries", registries);
    }
}
