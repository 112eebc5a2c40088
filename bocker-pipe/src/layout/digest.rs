//! Content digests: `sha256:` and 64 hexadecimal characters. What is read under a digest is believed only when it hashes to it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::error::{Error, Kind, Result};

const ALGORITHM: &str = "sha256:";
const HEX_LEN: usize = 64;

/// A well-formed SHA-256 digest, safe as a file name. Other algorithms of the image spec are refused:
/// no registry in use answers with them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Takes `sha256:` and 64 of `[0-9a-f]`. Fails with [`Kind::Unsupported`] for another algorithm, else with [`Kind::Invalid`].
    pub fn parse(text: &str) -> Result<Digest> {
        match text.strip_prefix(ALGORITHM) {
            Some(hex) if hex.len() == HEX_LEN && hex.bytes().all(is_hex) => {
                Ok(Digest(text.to_owned()))
            }
            None if text.contains(':') => Err(Error::new(
                Kind::Unsupported,
                format!("the digest '{text}' is not of sha256, the only algorithm supported"),
            )),
            _ => Err(Error::new(
                Kind::Invalid,
                format!("'{text}' is not a digest: sha256: and 64 of 0-9a-f"),
            )),
        }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// `sha256:...`
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal characters, which are the blob's file name.
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM.len()..]
    }
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The chain id at each of an image's layers, the lowest first: it stands for the layer and all below it
/// (<https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>).
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

/// Hashes what goes by, piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(ALGORITHM.len() + HEX_LEN);
        text.push_str(ALGORITHM);
        for byte in sha2::Digest::finalize(self.0) {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Digest(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let digests: Vec<Digest> = [b"a", b"b", b"c"]
            .iter()
            .map(|text| Digest::of(*text))
            .collect();
        let chain = chain_ids(&digests);
        assert_eq!(chain[0], digests[0]);
        assert_eq!(
            chain[1],
            Digest::of(format!("{} {}", digests[0], digests[1]).as_bytes())
        );
        assert_eq!(
            chain[2],
            Digest::of(format!("{} {}", chain[1], digests[2]).as_bytes())
        );
    }

    #[test]
    fn the_digest_of_nothing_is_the_one_in_the_books() {
        // FIPS 180-4 test vector: the empty message.
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert_eq!(Digest::parse(empty).unwrap(), Digest::of(b""));
    }

    #[test]
    fn what_could_leave_the_blob_folder_is_not_a_digest() {
        for text in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert_eq!(
                *Digest::parse(text).unwrap_err().kind(),
                Kind::Invalid,
                "{text:?}"
            );
        }
        let sha512 = format!("sha512:{}", "a".repeat(128));
        assert_eq!(
            *Digest::parse(&sha512).unwrap_err().kind(),
            Kind::Unsupported
        );
    }
}
