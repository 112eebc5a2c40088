//! The Container Network Interface (containernetworking/cni, SPEC.md 1.1.0), as its runtime: networks of an administrator's
//! configuration lists, made and removed by plugins. Those are other people's programs, which may lie, hang and die.

mod chain;
pub(crate) mod create;
pub(crate) mod delete;
mod invoke;
mod list;
pub(crate) mod plugin;
mod record;
mod result;
mod version;

use chain::Chain;
pub(crate) use create::is_in;
pub(crate) use delete::check;
pub(crate) use record::Kept;

/// In documents: the mode, what is put before a network's name in `--network`, and the member of an attachment.
pub(crate) const CNI: &str = "cni";
/// How much a configuration, or what a plugin says, may have, in bytes. Usual are one to three thousand.
const MAX_SIZE: usize = 1 << 20;

/// Whether a text may be the name of a network or of a plugin (SPEC.md, section 1): it is part of paths, too.
fn is_name(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.len() <= 255
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// A list reads back the same; a result says the same in every version; and names are such as can be part of paths.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use serde_json::Value;

    let _ = result::Refused::parse(bytes);
    if let Ok(outcome) = result::Outcome::parse(bytes) {
        for version in version::Version::ALL {
            let again = result::Outcome::of(outcome.in_version(version));
            assert!(again.is_ok(), "a result cannot be read in {version}");
            if let Ok(again) = again {
                assert_eq!(again.addresses, outcome.addresses);
                assert_eq!(again.routes, outcome.routes);
            }
        }
    }
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    if let Ok(list) = list::List::parse(value.clone()) {
        let kinds = list.plugins.iter().map(|plugin| &plugin.kind);
        assert!(kinds.chain([&list.name]).all(|name| is_name(name)));
        assert_eq!(list::List::parse(list.source.clone()).ok(), Some(list));
    }
    plugin::fuzz(value);
}
