//! Which of our ids an attachment of another runtime has. Theirs are a container's id and an interface, too long for the names
//! of our objects: ours is made of a hash of both and the network's name, and the claim says of what.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Id, Kind, Result, claim, files, paths};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::STAGE;

/// In a claim's folder: what it is for, and the same before it is whole.
const RECORD: &str = "attachment";
const RECORD_NEW: &str = "attachment.new";
/// Two attachments may have one hash: so many ids are tried for each.
const TRIES: u32 = 8;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const CHARACTERS: u32 = 6;

/// By what its runtime knows an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The name of the configuration.
    pub(crate) network: String,
    pub(crate) container: String,
    pub(crate) ifname: String,
}

/// An attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) label: Label,
    /// The namespace, for whoever wants to know whether it is still there.
    pub(crate) netns: PathBuf,
    /// Where addresses come from another plugin: what it is to be called with to free them, and where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipam: Option<Delegate>,
}

/// A plugin that we call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delegate {
    pub(crate) kind: String,
    pub(crate) path: Vec<PathBuf>,
    pub(crate) input: Value,
}

impl Attachment {
    /// Whether its namespace is no more: then it is of no use to anybody.
    pub(crate) fn is_over(&self) -> bool {
        !self.netns.exists()
    }

    /// Claims an id for it. Fails with [`Kind::Exists`] when it has one, and with [`Kind::InUse`] when none of those that it
    /// could have is free.
    pub(super) fn claim(&self) -> Result<Id> {
        let Label {
            network,
            container,
            ifname,
        } = &self.label;
        for id in self.label.candidates() {
            match read(&id) {
                Some(other) if other.label == self.label => {
                    let what = format!(
                        "{container} is connected to the network '{network}' by {ifname} already"
                    );
                    return Err(Error::new(Kind::Exists, what));
                }
                Some(_) => {}
                None if claim::renew(&id, STAGE)? => return Ok(id),
                None => {}
            }
        }
        let what = format!("each of the {TRIES} ids that {container} could have is another's");
        Err(Error::new(Kind::InUse, what).hint("free forgotten ones with 'bocker-net gc'"))
    }

    /// Says in the claim what it is for, whole or not at all.
    pub(super) fn write(&self, id: &Id) -> Result<()> {
        let path = path(id);
        let bytes = serde_json::to_vec(self).doing(|| format!("write {}", path.display()))?;
        files::replace(&path, &bytes)
    }
}

/// Where it is said what a claim is for.
pub(crate) fn path(id: &Id) -> PathBuf {
    paths::claim(id).join(RECORD)
}

/// The attachment that an id stands for; `None` for a container of ours.
pub(crate) fn read(id: &Id) -> Option<Attachment> {
    serde_json::from_slice(&fs::read(path(id)).ok()?).ok()
}

/// Forgets what a claim was for. Already gone is success.
pub(crate) fn forget(id: &Id) -> Result<()> {
    for name in [RECORD_NEW, RECORD] {
        let path = paths::claim(id).join(name);
        files::remove(&path)?;
    }
    Ok(())
}

/// The attachments to a network of this name.
pub(super) fn all(network: &str) -> Result<Vec<(Id, Attachment)>> {
    let claims = claim::list()?.into_iter();
    let attachment = claims.filter_map(|claim| Some((read(&claim.id)?, claim.id)));
    let of_network = attachment.filter(|(one, _)| one.label.network == network);
    Ok(of_network.map(|(one, id)| (id, one)).collect())
}

/// The ids of all attachments.
pub(crate) fn ids() -> Result<Vec<Id>> {
    let claims = claim::list()?.into_iter().map(|claim| claim.id);
    Ok(claims.filter(is_there).collect())
}

impl Label {
    /// The id, where the attachment is there.
    pub(super) fn find(&self) -> Option<Id> {
        let mut candidates = self.candidates();
        candidates.find(|id| read(id).is_some_and(|one| one.label == *self))
    }

    /// The ids that it can have, in the order in which they are tried: the same for ever.
    fn candidates(&self) -> impl Iterator<Item = Id> {
        let key = [self.network.as_str(), &self.container, &self.ifname].join("/");
        (0..TRIES).filter_map(move |place| {
            let mut hash = hash(&format!("{place}/{key}"));
            let mut text = String::from("ps_");
            for _ in 0..CHARACTERS {
                text.push(char::from(ALPHABET[(hash % 32) as usize]));
                hash /= 32;
            }
            Id::parse(&text).ok().filter(|id| !id.is_placeholder())
        })
    }
}

/// FNV-1a, 64 bits, stays the same over releases.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether there is anything of an attachment in the claim's folder.
pub(crate) fn is_there(id: &Id) -> bool {
    let has = |name: &str| Path::new(&paths::claim(id)).join(name).exists();
    has(RECORD) || has(RECORD_NEW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_attachment_has_the_same_few_ids_for_ever_and_others_have_others() {
        let ids = |container: &str| -> Vec<String> {
            let (network, container) = ("lab".to_owned(), container.to_owned());
            let label = Label {
                network,
                container,
                ifname: "eth0".to_owned(),
            };
            label.candidates().map(|id| id.to_string()).collect()
        };
        assert_eq!(ids("abc").len(), TRIES as usize);
        assert_eq!(ids("abc"), ids("abc"));
        let first: HashSet<String> = (0..1000)
            .map(|n| ids(&format!("container{n}")).remove(0))
            .collect();
        assert!(first.len() >= 999, "{}", first.len());
    }
}
