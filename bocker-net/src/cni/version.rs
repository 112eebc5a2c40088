//! Versions of the protocol. A configuration list names those that it is written for; the highest one that everybody speaks
//! is spoken (SPEC.md, section 3, "Version considerations").

use std::fmt;

/// One that we speak. 0.2.0 and what came before have results of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    /// Adds CHECK, and gives DEL the result of ADD.
    V0_4_0,
    /// Addresses do not say of which IP they are any more.
    V1_0_0,
    /// Adds GC and STATUS.
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Version; 4] = [
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];
    /// That of results in documents.
    pub(crate) const LATEST: Version = Version::V1_1_0;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Version> {
        Version::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    /// All, for people.
    pub(crate) fn list() -> String {
        Version::ALL.map(Version::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
