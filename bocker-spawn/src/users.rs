//! Who the container's process is: `user[:group]` as numbers or as names of the container's own passwd and group files,
//! by the rules of docker: a user that passwd knows brings its group, home and supplementary groups; a group that is
//! given replaces them.

use std::collections::HashMap;

use bocker_pipe::{Error, Kind, Result};

use crate::rooted::Root;

/// passwd(5), in the container.
const PASSWD: &str = "/etc/passwd";
/// group(5), in the container.
const GROUP: &str = "/etc/group";
/// More than any real file of the two; a larger one is refused (CVE-2026-47262).
const LIMIT: u64 = 16 << 20;
/// A larger number wraps to another user where it is kept as signed (CVE-2024-40635).
const MAX_ID: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first (CVE-2022-36109).
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl User {
    /// Root, for a dry run that cannot look.
    pub(crate) fn unknown() -> User {
        User {
            uid: 0,
            gid: 0,
            groups: vec![0],
            home: "/".into(),
        }
    }
}

/// Resolves `text` inside `root`. The empty text is root's.
pub(crate) fn resolve(text: &str, root: &Root) -> Result<User> {
    let file = |path| root.read(path, LIMIT);
    resolve_with(text, || file(PASSWD), || file(GROUP))
}

/// The names of users by their numbers, as far as the container has a file of them that can be read.
pub(crate) fn names(root: &Root) -> HashMap<u32, String> {
    let passwd = root.read(PASSWD, LIMIT).ok().flatten().unwrap_or_default();
    let mut names = HashMap::new();
    for fields in entries(&passwd) {
        if let [name, _, uid, ..] = fields.as_slice()
            && let (Ok(name), Some(uid)) = (std::str::from_utf8(name), id(uid))
        {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

fn resolve_with(
    text: &str,
    passwd: impl Fn() -> Result<Option<Vec<u8>>>,
    group: impl Fn() -> Result<Option<Vec<u8>>>,
) -> Result<User> {
    let (user, given_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let passwd = match (passwd(), number) {
        (Ok(bytes), _) => bytes.unwrap_or_default(),
        // A number needs no file, and one that cannot be read is not in its way.
        (Err(_), Some(_)) => Vec::new(),
        (Err(error), None) => return Err(error),
    };
    let entry = entries(&passwd).find_map(|fields| {
        let (name, uid) = (*fields.first()?, id(fields.get(2)?)?);
        let matches = number.map_or(name == user.as_bytes(), |number| number == uid);
        matches.then(|| Entry {
            name: name.to_vec(),
            uid,
            gid: fields.get(3).and_then(|field| id(field)).unwrap_or(0),
            home: fields
                .get(5)
                .and_then(|home| std::str::from_utf8(home).ok())
                .filter(|home| home.starts_with('/') && !home.contains('\0'))
                .unwrap_or("/")
                .to_owned(),
        })
    });
    let entry = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(uid)) => Entry {
            name: Vec::new(),
            uid,
            gid: 0,
            home: "/".into(),
        },
        (None, None) => {
            return Err(Error::new(
                Kind::Invalid,
                format!("the container has no user '{user}' in {PASSWD}"),
            )
            .hint("name the user by number"));
        }
    };
    let (gid, mut groups) = match given_group {
        Some(name) if !name.is_empty() => (find_group(name, &group)?, Vec::new()),
        _ if entry.name.is_empty() => (entry.gid, Vec::new()),
        _ => {
            let bytes = group().ok().flatten().unwrap_or_default();
            (entry.gid, memberships(&bytes, &entry.name))
        }
    };
    groups.retain(|group| *group != gid);
    groups.insert(0, gid);
    Ok(User {
        uid: entry.uid,
        gid,
        groups,
        home: entry.home,
    })
}

struct Entry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: String,
}

fn find_group(name: &str, group: impl Fn() -> Result<Option<Vec<u8>>>) -> Result<u32> {
    if let Some(gid) = number(name)? {
        return Ok(gid);
    }
    let bytes = group()?.unwrap_or_default();
    entries(&bytes)
        .find(|fields| fields.first() == Some(&name.as_bytes()))
        .and_then(|fields| id(fields.get(2)?))
        .ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("the container has no group '{name}' in {GROUP}"),
            )
            .hint("name the group by number")
        })
}

fn memberships(group: &[u8], user: &[u8]) -> Vec<u32> {
    let mut groups: Vec<u32> = entries(group)
        .filter(|fields| {
            fields
                .get(3)
                .is_some_and(|members| members.split(|b| *b == b',').any(|name| name == user))
        })
        .filter_map(|fields| id(fields.get(2)?))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    bytes
        .split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.split(|b| *b == b':').collect())
}

fn id(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?;
    number(text).ok().flatten()
}

/// The number that a user or group is named by; `None` for a name. Digits that are out of range are an error and never
/// a name, so that nobody becomes root by overflow.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number <= MAX_ID => Ok(Some(number)),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("the user or group {text} is out of range (0 to {MAX_ID})"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD_FILE: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:33:34:Web:/srv/web:/bin/false\nbig:x:4294967296:0::/:/bin/sh\n";
    const GROUP_FILE: &str =
        "root:x:0:\nwheel:x:10:root,web\ndisk:x:6:root\nwww:x:34:\nempty:x:50:,\n";

    fn user(text: &str) -> Result<User> {
        resolve_with(
            text,
            || Ok(Some(PASSWD_FILE.into())),
            || Ok(Some(GROUP_FILE.into())),
        )
    }

    fn made(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        }
    }

    #[test]
    fn a_known_user_brings_group_home_and_supplementary_groups() {
        assert_eq!(user("").unwrap(), made(0, 0, &[0, 6, 10], "/root"));
        assert_eq!(user("web").unwrap(), made(33, 34, &[34, 10], "/srv/web"));
        assert_eq!(user("33").unwrap(), made(33, 34, &[34, 10], "/srv/web"));
    }

    #[test]
    fn a_given_group_replaces_them() {
        assert_eq!(user("web:wheel").unwrap(), made(33, 10, &[10], "/srv/web"));
        assert_eq!(user("web:7").unwrap(), made(33, 7, &[7], "/srv/web"));
        assert_eq!(user("1234:www").unwrap(), made(1234, 34, &[34], "/"));
    }

    #[test]
    fn a_number_needs_no_entry_and_no_file() {
        assert_eq!(user("1234").unwrap(), made(1234, 0, &[0], "/"));
        let none = resolve_with("7:8", || Ok(None), || Ok(None)).unwrap();
        assert_eq!(none, made(7, 8, &[8], "/"));
        let broken = || Err(Error::new(Kind::Invalid, "is not a regular file"));
        assert_eq!(
            resolve_with("0", broken, broken).unwrap(),
            made(0, 0, &[0], "/")
        );
        assert!(resolve_with("web", broken, broken).is_err());
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error() {
        for text in ["nobody", "web:nobody", "-1", "+0", "0x0", " 0", "root "] {
            assert_eq!(user(text).unwrap_err().kind(), &Kind::Invalid, "{text}");
        }
    }

    #[test]
    fn a_number_out_of_range_never_wraps_to_root() {
        for text in [
            "4294967296",
            "2147483648",
            "4294967296:0",
            "0:4294967296",
            "99999999999999999999",
        ] {
            assert_eq!(user(text).unwrap_err().kind(), &Kind::Invalid, "{text}");
        }
        assert!(user("2147483647").is_ok());
        assert!(user("big").is_err());
    }

    proptest! {
        #[test]
        fn no_files_make_it_panic(text in "\\PC{0,12}", passwd in prop::collection::vec(any::<u8>(), 0..128), group in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = resolve_with(&text, || Ok(Some(passwd.clone())), || Ok(Some(group.clone())));
        }

        #[test]
        fn a_text_that_is_no_number_and_not_in_the_files_is_refused(text in "[a-z+-][0-9a-z]{0,8}") {
            prop_assert!(resolve_with(&text, || Ok(None), || Ok(None)).is_err());
        }
    }
}
