//! The three files by which a container knows names: hosts(5), hostname(5) and resolv.conf(5). They lie in the claim's folder
//! and are mounted over those of the image, so that no symbolic link of an image is ever followed.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use bocker_pipe::document::Mount;
use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Id, Kind, Result, paths};

use crate::member::CniDns;

const HOSTS: &str = "hosts";
const HOSTNAME: &str = "hostname";
const RESOLV_CONF: &str = "resolv.conf";
/// All three, with where they are mounted.
const FILES: [(&str, &str); 3] = [
    (HOSTS, "/etc/hosts"),
    (HOSTNAME, "/etc/hostname"),
    (RESOLV_CONF, "/etc/resolv.conf"),
];
const MODE: u32 = 0o644;
/// What systemd-resolved itself asks, where the host's resolv.conf only names its stub on loopback (systemd-resolved(8)).
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// Where neither names a server that a container can reach: Google's, as Docker and the original do.
const DEFAULT_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];
/// HOST_NAME_MAX, gethostname(2).
const HOST_NAME_MAX: usize = 64;
/// RFC 1035, 2.3.4.
const LABEL_MAX: usize = 63;

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

/// Whether a mount is one of ours.
pub(crate) fn is_mount(id: &Id, destination: &str, mounted: &str) -> bool {
    FILES
        .iter()
        .any(|(name, path)| *path == destination && source(id, name).as_os_str() == mounted)
}

/// hosts(5) for a container with this name and, unless it has none, this address.
pub(crate) fn hosts(hostname: &str, address: Option<Ipv4Addr>) -> String {
    let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
    // A name with a domain is known without it, too (hosts(5)).
    let short = hostname
        .split_once('.')
        .map_or(String::new(), |(short, _)| format!(" {short}"));
    format!(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n\
         {address}\t{hostname}{short}\n"
    )
}

/// The host's own file, empty when there is none.
pub(crate) fn of_host(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).doing(|| format!("read {path}")),
    }
}

/// Name resolution for a container with a network of its own: the servers asked for, else those of the host that it can
/// reach, and the host's search domains and options.
pub(crate) fn dns(asked: &[Ipv4Addr]) -> Result<CniDns> {
    let host = of_host(FILES[2].1)?;
    let resolved = if servers(&host).is_empty() {
        of_host(RESOLVED)?
    } else {
        String::new()
    };
    Ok(resolution(asked, &host, &resolved))
}

fn resolution(asked: &[Ipv4Addr], host: &str, resolved: &str) -> CniDns {
    let found = [
        asked.to_vec(),
        servers(host),
        servers(resolved),
        DEFAULT_SERVERS.to_vec(),
    ];
    let nameservers = found
        .into_iter()
        .find(|servers| !servers.is_empty())
        .unwrap_or_default();
    // Of several lines, the last one counts (resolv.conf(5)).
    let last = |word| words(host, word).last().unwrap_or_default();
    CniDns {
        nameservers: nameservers.iter().map(Ipv4Addr::to_string).collect(),
        search: last("search"),
        options: words(host, "options").flatten().collect(),
    }
}

/// Servers that a container can reach: not the host's own loopback, where a stub listens, and nothing by IPv6.
fn servers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let reachable = |server: &String| match server.parse() {
        Ok(IpAddr::V4(server)) if !server.is_loopback() && !server.is_unspecified() => Some(server),
        _ => None,
    };
    words(resolv_conf, "nameserver")
        .filter_map(|line| reachable(line.first()?))
        .collect()
}

/// The words after this one, of each line that begins with it.
fn words<'a>(resolv_conf: &'a str, first: &'a str) -> impl Iterator<Item = Vec<String>> + 'a {
    resolv_conf.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(first)).then(|| words.map(String::from).collect())
    })
}

/// resolv.conf(5) as text.
pub(crate) fn resolv_conf(dns: &CniDns) -> String {
    let mut text: String = dns
        .nameservers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    for (word, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            text += &format!("{word} {}\n", values.join(" "));
        }
    }
    text
}

/// Takes a host name: labels of letters, digits, `-` and `_`, 64 characters at most. Fails with [`Kind::Invalid`].
/// The underscore is in every id, and in many names of containers.
pub(crate) fn checked_hostname(name: &str) -> Result<String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() <= HOST_NAME_MAX && name.split('.').all(label) {
        return Ok(name.to_owned());
    }
    Err(
        Error::new(Kind::Invalid, format!("'{name}' is not a host name"))
            .hint("give up to 64 letters, digits, '-', '_' and single dots between them"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nameservers(asked: &[Ipv4Addr], host: &str, resolved: &str) -> Vec<String> {
        resolution(asked, host, resolved).nameservers
    }

    #[test]
    fn a_stub_on_loopback_is_replaced_by_what_it_asks_itself() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        assert_eq!(
            nameservers(&[], stub, "nameserver 192.0.2.1\n"),
            ["192.0.2.1"]
        );
        assert_eq!(nameservers(&[], stub, ""), ["8.8.8.8", "8.8.4.4"]);
        let dns = resolution(&[], stub, "");
        assert_eq!(
            resolv_conf(&dns),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch lan\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn servers_of_the_host_that_a_container_reaches_are_kept() {
        let host = "# comment\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.7\n nameserver\t192.0.2.8\n";
        assert_eq!(
            nameservers(&[], host, "nameserver 192.0.2.1"),
            ["192.0.2.7", "192.0.2.8"]
        );
    }

    #[test]
    fn servers_that_were_asked_for_come_alone() {
        let asked = [Ipv4Addr::new(127, 0, 0, 1)];
        assert_eq!(
            nameservers(&asked, "nameserver 192.0.2.7\n", ""),
            ["127.0.0.1"]
        );
    }

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
        assert!(hosts("web", Some(Ipv4Addr::new(10, 0, 0, 2))).ends_with("10.0.0.2\tweb\n"));
        assert!(hosts("web", None).ends_with("127.0.0.1\tweb\n"));
        assert!(hosts("web.example.org", None).ends_with("\tweb.example.org web\n"));
    }

    proptest! {
        #[test]
        fn no_resolv_conf_of_the_host_makes_a_line_that_is_not_ours(text in "\\PC*(\n\\PC*){0,4}") {
            let made = resolv_conf(&resolution(&[], &text, &text));
            for line in made.lines() {
                prop_assert!(["nameserver ", "search ", "options "].iter().any(|word| line.starts_with(word)));
            }
        }
    }
}
