//! Names of containers: `BOCKER_ROOT/names/<name>` is a link to `../containers/<id>`, which two cannot make at once.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bocker_pipe::listed::Listed;
use bocker_pipe::{Doing, Error, Id, Kind, Result, containers, lock, paths};

use crate::words::{ADJECTIVES, NOUNS};

/// How many pairs of words are tried before a number is put after one.
const TRIES: usize = 16;

/// Holds the lock under which names are given and taken back.
fn lock_names() -> Result<lock::Lock> {
    lock::exclusive(&paths::names().join(".lock"))
}

/// Checks that the text can be a container's name. Fails with [`Kind::Invalid`].
pub(crate) fn check_name(name: &str) -> Result<()> {
    if containers::is_name(name) && Id::parse(name).is_err() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!("'{name}' cannot be a container's name"),
    )
    .hint("use two or more of a-z A-Z 0-9 _ . - and begin with a letter or digit"))
}

/// Gives a container its name. Fails with [`Kind::Exists`] when another container has it.
pub(crate) fn give_name(name: &str, id: &Id) -> Result<()> {
    let _lock = lock_names()?;
    match link(name, id)? {
        None => Ok(()),
        Some(owner) => Err(taken(name, &owner)),
    }
}

/// Gives a container a name of two words that no other has.
pub(crate) fn give_any_name(id: &Id) -> Result<String> {
    let _lock = lock_names()?;
    for number in 0.. {
        let mut name = two_words()?;
        if number >= TRIES {
            name.push_str(&number.to_string());
        }
        if link(&name, id)?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::new(Kind::Exists, "all names are taken"))
}

/// Gives a container another name. `keep` writes it down wherever else it is; until it has, the container has both.
pub(crate) fn rename(id: &Id, name: &str, keep: impl FnOnce() -> Result<()>) -> Result<()> {
    let _lock = lock_names()?;
    let is_new = match link(name, id)? {
        None => true,
        Some(owner) if owner == *id => false,
        Some(owner) => return Err(taken(name, &owner)),
    };
    if let Err(error) = keep() {
        if is_new {
            let _ = remove_link(&paths::names().join(name));
        }
        return Err(error);
    }
    for (link, owner) in links()? {
        if owner.as_ref() == Some(id) && !link.ends_with(name) {
            remove_link(&link)?;
        }
    }
    Ok(())
}

fn taken(name: &str, owner: &Id) -> Error {
    Error::new(
        Kind::Exists,
        format!("the name '{name}' is taken by {owner}"),
    )
    .hint(format!("remove it with 'bocker rm {name}'"))
}

/// Makes the link, for one who holds the lock of the names. Answers whose the name is, if it is taken.
fn link(name: &str, id: &Id) -> Result<Option<Id>> {
    let link = paths::names().join(name);
    let target = Path::new("../containers").join(id);
    let give = || std::os::unix::fs::symlink(&target, &link);
    let result = match give() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if let Some(owner) = owner(&link) {
                return Ok(Some(owner));
            }
            // What is left of a container that is gone.
            fs::remove_file(&link).and_then(|()| give())
        }
        result => result,
    };
    result
        .map(|()| None)
        .doing(|| format!("make {}", link.display()))
}

/// An adjective and a noun.
fn two_words() -> Result<String> {
    let mut random = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .doing(|| "read /dev/urandom".into())?;
    let [a, b, c, d, e, f, g, h] = random;
    let pick = |words: &[&'static str], random: [u8; 4]| {
        // Some words are likelier by a ten millionth.
        words[u32::from_ne_bytes(random) as usize % words.len()]
    };
    let (adjective, noun) = (pick(ADJECTIVES, [a, b, c, d]), pick(NOUNS, [e, f, g, h]));
    Ok(format!("{adjective}_{noun}"))
}

/// Takes all names of a container back.
pub(crate) fn take_names(id: &Id) -> Result<()> {
    if !paths::names().is_dir() {
        return Ok(());
    }
    let _lock = lock_names()?;
    for (link, owner) in links()? {
        if owner.as_ref() == Some(id) {
            remove_link(&link)?;
        }
    }
    Ok(())
}

/// Takes back the names of containers that no longer exist, or under a dry run only finds them.
pub(crate) fn take_dead_names(listed: &Listed, dry_run: bool) -> Result<Vec<PathBuf>> {
    if !paths::names().is_dir() {
        return Ok(Vec::new());
    }
    let _lock = lock_names()?;
    let mut dead = Vec::new();
    for (link, owner) in links()? {
        let is_dead = owner.is_none_or(|id| !paths::container(&id).is_dir());
        if is_dead && listed.has(&link.to_string_lossy()) {
            if !dry_run {
                remove_link(&link)?;
            }
            dead.push(link);
        }
    }
    Ok(dead)
}

/// The names that a container has.
pub(crate) fn names_of(id: &Id) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (link, owner) in links()? {
        if owner.as_ref() == Some(id)
            && let Some(name) = link.file_name().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn remove_link(link: &Path) -> Result<()> {
    fs::remove_file(link).doing(|| format!("remove {}", link.display()))
}

/// The existing container that a name leads to.
fn owner(link: &Path) -> Option<Id> {
    target(link).filter(|id| paths::container(id).is_dir())
}

fn target(link: &Path) -> Option<Id> {
    let target = fs::read_link(link).ok()?;
    Id::parse(target.file_name()?.to_str()?).ok()
}

/// All names with the ids that they lead to, whether those exist or not.
fn links() -> Result<Vec<(PathBuf, Option<Id>)>> {
    let folder = paths::names();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(|| format!("read {}", folder.display()))?,
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .map(|entry| (entry.path(), target(&entry.path())))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_words_is_a_name_and_every_word_is_there_once() {
        for words in [ADJECTIVES, NOUNS] {
            assert!(words.is_sorted_by(|a, b| a < b), "sorted, each once");
            for word in words {
                assert!(
                    word.len() <= 9 && word.bytes().all(|b| b.is_ascii_lowercase()),
                    "{word}"
                );
            }
        }
        assert!(ADJECTIVES.len() * NOUNS.len() > 40_000);
        check_name(&two_words().unwrap()).unwrap();
    }
}
