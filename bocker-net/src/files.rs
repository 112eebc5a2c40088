//! The three files by which a container knows names: hosts(5), hostname(5) and resolv.conf(5). They lie in the claim's folder
//! and are mounted over those of the image, so that no symbolic link of an image is ever followed.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use bocker_pipe::document::Mount;
use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Id, Kind, Result, paths};

pub(crate) const HOSTS: &str = "hosts";
const HOSTNAME: &str = "hostname";
const RESOLV_CONF: &str = "resolv.conf";
/// All three, with where they are mounted.
const FILES: [(&str, &str); 3] = [
    (HOSTS, "/etc/hosts"),
    (HOSTNAME, "/etc/hostname"),
    (RESOLV_CONF, "/etc/resolv.conf"),
];
const MODE: u32 = 0o644;
const HOSTS_OF_HOST: &str = FILES[0].1;
/// Lists of names that are to lead nowhere are some megabytes.
const HOSTS_MAX: u64 = 16 << 20;
/// What stands in every hosts file (as docker).
const STANDARD_HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";
/// HOST_NAME_MAX, gethostname(2).
const HOST_NAME_MAX: usize = 64;
/// RFC 1035, 2.3.4: of a label, and of a whole name as it is written.
const LABEL_MAX: usize = 63;
pub(crate) const NAME_MAX: usize = 253;

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) hosts: String,
    pub(crate) hostname: String,
    pub(crate) resolv_conf: String,
}

impl Files {
    fn contents(&self) -> [(&'static str, &str); 3] {
        [
            (HOSTS, &self.hosts),
            (HOSTNAME, &self.hostname),
            (RESOLV_CONF, &self.resolv_conf),
        ]
    }

    /// Writes them. On failure none is left.
    pub(crate) fn write(&self, id: &Id) -> Result<()> {
        for (name, text) in self.contents() {
            let path = paths::claim(id).join(name);
            let written = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(MODE)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&path)
                .and_then(|mut file| {
                    // Whatever the umask: programs of every user in the container read them.
                    file.set_permissions(Permissions::from_mode(MODE))?;
                    file.write_all(text.as_bytes())
                });
            if let Err(error) = written {
                remove(id)?;
                return Err(error).doing(|| format!("write {}", path.display()));
            }
        }
        Ok(())
    }

    /// The commands that write them.
    pub(crate) fn commands(&self, id: &Id) -> Vec<String> {
        let command = |(name, text): (&str, &str)| {
            let lines: Vec<String> = text.lines().map(quote).collect();
            format!(
                "printf '%s\\n' {} > {}",
                lines.join(" "),
                paths::claim(id).join(name).display()
            )
        };
        self.contents().into_iter().map(command).collect()
    }
}

fn source(id: &Id, name: &str) -> PathBuf {
    paths::claim(id).join(name)
}

/// Where they are.
pub(crate) fn paths(id: &Id) -> [PathBuf; 3] {
    FILES.map(|(name, _)| source(id, name))
}

/// What its hosts file says now; nothing when there is none. The container may have written to it whatever it likes.
pub(crate) fn read_hosts(id: &Id) -> Result<String> {
    let path = source(id, HOSTS);
    of_host(&path.display().to_string(), HOSTS_MAX)
}

/// Removes the files. Already gone is success.
pub(crate) fn remove(id: &Id) -> Result<()> {
    for (name, _) in FILES {
        match fs::remove_file(source(id, name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.doing(|| format!("remove {}", source(id, name).display()))?,
        }
    }
    Ok(())
}

/// Whether any of them is there.
pub(crate) fn any(id: &Id) -> bool {
    FILES.iter().any(|(name, _)| source(id, name).exists())
}

/// The command that removes them.
pub(crate) fn remove_command(id: &Id) -> String {
    let files = FILES.map(|(name, _)| source(id, name).display().to_string());
    format!("rm -f {}", files.join(" "))
}

/// The mounts that show the files in the container. They are the container's own copies, so it may write to them.
pub(crate) fn mounts(id: &Id) -> impl Iterator<Item = Mount> {
    FILES.into_iter().map(move |(name, destination)| Mount {
        destination: destination.into(),
        kind: Some("bind".into()),
        source: Some(source(id, name).display().to_string()),
        options: ["bind", "rprivate", "nosuid", "nodev", "noexec"]
            .map(String::from)
            .into(),
    })
}

/// The host's own hosts(5), of whole lines.
pub(crate) fn hosts_of_host() -> Result<String> {
    let mut text = of_host(HOSTS_OF_HOST, HOSTS_MAX)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Whether a mount is one of ours.
pub(crate) fn is_mount(id: &Id, destination: &str, mounted: &str) -> bool {
    FILES
        .iter()
        .any(|(name, path)| *path == destination && source(id, name).as_os_str() == mounted)
}

/// hosts(5) for a container with this name and these addresses, or none but its own loopback; `extra` are lines that were
/// asked for.
pub(crate) fn hosts(hostname: &str, addresses: &[IpAddr], extra: &str) -> String {
    let addresses = match addresses {
        [] => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        addresses => addresses,
    };
    // A name with a domain is known without it, too (hosts(5)).
    let short = hostname
        .split_once('.')
        .map_or(String::new(), |(short, _)| format!(" {short}"));
    let own: String = addresses
        .iter()
        .map(|address| format!("{address}\t{hostname}{short}\n"))
        .collect();
    format!("{STANDARD_HOSTS}{extra}{own}")
}

/// The host's own file, of at most so many bytes; empty when there is none. Fails with [`Kind::Invalid`] when it is larger, or
/// no file: what a pipe or a device says never ends.
pub(crate) fn of_host(path: &str, size_max: u64) -> Result<String> {
    let reading = || format!("read {path}");
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
    {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        file => file.doing(reading)?,
    };
    if !file.metadata().doing(reading)?.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{path} is no file")));
    }
    let mut bytes = Vec::new();
    let limited = file.take(size_max + 1).read_to_end(&mut bytes);
    if limited.doing(reading)? as u64 > size_max {
        let what = format!("{path} is larger than {size_max} bytes");
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes a host name: a domain name (see [`is_domain`]) of 64 characters at most. Fails with [`Kind::Invalid`].
pub(crate) fn checked_hostname(name: &str) -> Result<String> {
    if name.len() <= HOST_NAME_MAX && is_domain(name) {
        return Ok(name.to_owned());
    }
    let name = name.escape_debug();
    Err(
        Error::new(Kind::Invalid, format!("'{name}' is not a host name"))
            .hint("give up to 64 letters, digits, '-', '_' and single dots between them"),
    )
}

/// Whether it is a domain name: labels of letters, digits, `-` and `_`, with dots between. The underscore is in every id, and in
/// many names of containers.
pub(crate) fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= NAME_MAX && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_checked() {
        for name in ["web", "ps_abc123", "a.b-c.d", "7", &"a".repeat(63)] {
            assert_eq!(checked_hostname(name).unwrap(), name);
        }
        for name in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a\nb",
            "ä",
            "a/b",
            &"a".repeat(64),
            &"a.".repeat(33),
        ] {
            assert_eq!(
                checked_hostname(name).unwrap_err().kind(),
                &Kind::Invalid,
                "{name:?}"
            );
        }
    }

    #[test]
    fn the_container_finds_itself_by_name() {
        let [v4, v6]: [IpAddr; 2] = ["10.0.0.2", "fd00::2"].map(|text| text.parse().unwrap());
        assert!(hosts("web", &[v4], "").ends_with("ip6-allrouters\n10.0.0.2\tweb\n"));
        assert!(hosts("web", &[v4, v6], "").ends_with("10.0.0.2\tweb\nfd00::2\tweb\n"));
        assert!(hosts("web", &[], "").ends_with("127.0.0.1\tweb\n"));
        assert!(hosts("web.example.org", &[], "").ends_with("\tweb.example.org web\n"));
        assert!(hosts("web", &[v4], "192.0.2.7\tdb\n").ends_with("192.0.2.7\tdb\n10.0.0.2\tweb\n"));
    }

    #[test]
    fn a_file_of_the_host_is_read_to_a_limit_and_what_is_no_file_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let name = path.to_str().unwrap();
        assert_eq!(of_host(name, 4).unwrap(), "");
        fs::write(&path, b"a\xff\n").unwrap();
        assert_eq!(of_host(name, 4).unwrap(), "a\u{fffd}\n");
        assert_eq!(of_host(name, 2).unwrap_err().kind(), &Kind::Invalid);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in [name, "/dev/zero", "/"] {
            assert_eq!(
                of_host(name, 4).unwrap_err().kind(),
                &Kind::Invalid,
                "{name}"
            );
        }
    }
}
