//! Ids of containers and images: `ps_`, `img_` or `net_` and six characters.
//! An interface name holds 15 characters (IFNAMSIZ, netdevice(7)), and `veth0_ps_xxxxxx` is exactly that long.

use std::fmt;
use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Doing, Error, Kind, Result};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const RANDOM_LEN: usize = 6;
const PLACEHOLDER: &str = "ps_dryrun";
/// So many ids fit on a line that is to be read.
const NAMED: usize = 5;

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// A container: `ps_`, as the original called it.
    Container,
    /// An image: `img_`.
    Image,
    /// A network that somebody made: `net_`, the name of its bridge.
    Network,
}

impl Prefix {
    /// The characters that the id begins with.
    pub fn as_str(self) -> &'static str {
        match self {
            Prefix::Container => "ps_",
            Prefix::Image => "img_",
            Prefix::Network => "net_",
        }
    }
}

/// A well-formed id. Safe as a file name, for containers as the end of an interface name, and for networks as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// Takes `ps_`, `img_` or `net_` and six of `[0-9a-z]`, else fails with [`Kind::Invalid`].
    pub fn parse(text: &str) -> Result<Id> {
        let prefixes = [Prefix::Container, Prefix::Image, Prefix::Network];
        let rest = prefixes
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix.as_str()));
        match rest {
            Some(rest)
                if rest.len() == RANDOM_LEN
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) =>
            {
                Ok(Id(text.to_owned()))
            }
            _ => Err(Error::new(
                Kind::Invalid,
                format!("'{text}' is not an id: ps_, img_ or net_ and six of 0-9a-z"),
            )),
        }
    }

    /// A random id (30 bits from the kernel). Whether it is free is for the caller to claim.
    pub fn random(prefix: Prefix) -> Result<Id> {
        let mut bytes = [0u8; RANDOM_LEN];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .doing(|| "read /dev/urandom".into())?;
        let random: String = bytes
            .iter()
            .map(|b| ALPHABET[usize::from(b % 32)] as char)
            .collect();
        Ok(Id(format!("{}{random}", prefix.as_str())))
    }

    /// An id made from a digest's hex characters, so that one image has one id wherever it is pulled.
    /// `None` when there are fewer than six usable characters.
    pub fn from_hex(prefix: Prefix, hex: &str) -> Option<Id> {
        let start = hex.get(..RANDOM_LEN)?;
        Id::parse(&format!("{}{start}", prefix.as_str())).ok()
    }

    /// The id that a dry run shows instead of one that nobody has claimed.
    pub fn placeholder() -> Id {
        Id(PLACEHOLDER.to_owned())
    }

    /// Whether this is the placeholder of a dry run.
    pub fn is_placeholder(&self) -> bool {
        self.0 == PLACEHOLDER
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the id names a container.
    pub fn is_container(&self) -> bool {
        self.0.starts_with(Prefix::Container.as_str())
    }

    /// Whether the id names a network.
    pub fn is_network(&self) -> bool {
        self.0.starts_with(Prefix::Network.as_str())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for Id {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Id, D::Error> {
        let text = String::deserialize(deserializer)?;
        Id::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Ids for a line of text: the first few by name, and how many more there are.
pub fn named(ids: &[Id]) -> String {
    let (first, others) = ids.split_at(ids.len().min(NAMED));
    let names: Vec<&str> = first.iter().map(Id::as_str).collect();
    match others.len() {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_named_and_of_many_the_first_few() {
        let ids: Vec<Id> = (0..7)
            .map(|n| Id::parse(&format!("ps_00000{n}")).unwrap())
            .collect();
        assert_eq!(named(&ids[..1]), "ps_000000");
        assert!(named(&ids[..5]).ends_with(", ps_000004"));
        assert!(named(&ids).ends_with(", ps_000004 and 2 more"));
    }

    #[test]
    fn a_random_id_is_well_formed_and_fits_an_interface_name() {
        let id = Id::random(Prefix::Container).unwrap();
        assert_eq!(Id::parse(id.as_str()).unwrap(), id);
        assert_eq!(format!("veth0_{id}").len(), 15);
        let id = Id::random(Prefix::Network).unwrap();
        assert!(id.is_network() && id.as_str().len() <= 15);
    }

    #[test]
    fn what_could_leave_a_folder_is_not_an_id() {
        for text in [
            "",
            "ps_",
            ".",
            "..",
            "ps_../..",
            "ps_abcde",
            "ps_abcdefg",
            "ps_ABCDEF",
            "img_a/bcde",
            "ps_abc de",
        ] {
            assert!(Id::parse(text).is_err(), "{text:?}");
        }
    }
}
