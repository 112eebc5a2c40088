//! resolv.conf(5) for a container: the name servers that it asks, the domains in which it looks, and how. What was asked for by
//! option comes first; the rest is the host's, as far as it holds for the container too.

use std::net::{IpAddr, Ipv4Addr};

use bocker_pipe::{Error, Kind, Result};

use crate::files;
use crate::member::CniDns;

/// The host's own.
const HOST: &str = "/etc/resolv.conf";
/// What systemd-resolved itself asks, where the host's resolv.conf only names its stub on loopback (systemd-resolved(8)).
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// Where neither names a server that a container can reach: Google's, as Docker and the original do.
const DEFAULT_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];
/// A resolv.conf of the host that is larger is none.
const SIZE_MAX: u64 = 64 << 10;
/// How much is taken over from the host of each: many times what resolvers read (MAXNS of resolv.h is 3).
const TAKEN_MAX: usize = 32;
/// The answers of the host's own stub are to be trusted by an option that says nothing of other servers (resolv.conf(5)).
const TRUST: &str = "trust-ad";
/// A search domain that stands for none (docker's `--dns-search .`).
const NO_SEARCH: &str = ".";

/// What was asked for; what is empty comes from the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl Asked {
    /// Whether nothing was.
    pub(crate) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty() && self.options.is_empty()
    }

    /// Checks what comes from a document as what comes from an option. Fails with [`Kind::Invalid`].
    pub(crate) fn check(&self) -> Result<()> {
        self.search.iter().try_for_each(|one| checked_search(one))?;
        self.options.iter().try_for_each(|one| checked_option(one))
    }
}

/// Which of the host's servers a container can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All: it is in the host's network namespace.
    Host,
    /// Those that are not on loopback, where a stub of the host's listens; by IPv6 only if it has such an address.
    Network { ipv6: bool },
}

impl Reach {
    fn has(self, server: &str) -> bool {
        // The zone of a link-local address is an interface of the host's.
        let address = match self {
            Reach::Host => server.split('%').next().unwrap_or_default(),
            Reach::Network { .. } => server,
        };
        match (self, address.parse()) {
            (_, Err(_)) => false,
            (Reach::Host, Ok(_)) => true,
            (Reach::Network { ipv6 }, Ok(address)) => {
                let IpAddr::V6(v6) = address else {
                    return !address.is_loopback() && !address.is_unspecified();
                };
                ipv6 && !v6.is_loopback()
                    && !v6.is_unspecified()
                    && !v6.is_unicast_link_local()
                    && v6.to_ipv4_mapped().is_none()
            }
        }
    }
}

/// Reads the address of a name server. Fails with [`Kind::Usage`].
pub(crate) fn server(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        let what = format!("'{text}' is not the address of a name server");
        Error::new(Kind::Usage, what).hint("such as --dns 192.0.2.53 or --dns 2001:db8::53")
    })
}

/// Fails with [`Kind::Invalid`] when it cannot stand in a line of search domains.
pub(crate) fn checked_search(text: &str) -> Result<()> {
    if text == NO_SEARCH || files::is_domain(text.strip_suffix('.').unwrap_or(text)) {
        return Ok(());
    }
    let what = format!("'{text}' is not a domain to search");
    Err(Error::new(Kind::Invalid, what).hint("such as --dns-search example.org, or . for none"))
}

/// Fails with [`Kind::Invalid`] when it cannot stand in a line of options.
pub(crate) fn checked_option(text: &str) -> Result<()> {
    if is_word(text) {
        return Ok(());
    }
    let what = format!("'{}' is not an option of resolv.conf", text.escape_debug());
    Err(Error::new(Kind::Invalid, what).hint("such as --dns-option ndots:2, see resolv.conf(5)"))
}

/// A word of letters, digits and what options are written with.
fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte);
    !text.is_empty() && text.len() <= files::NAME_MAX && text.bytes().all(plain)
}

/// Name resolution for a container: what was asked for, and for the rest what the host has.
pub(crate) fn resolution(asked: &Asked, reach: Reach) -> Result<CniDns> {
    let is_all_asked = [
        asked.servers.is_empty(),
        asked.search.is_empty(),
        asked.options.is_empty(),
    ] == [false; 3];
    if is_all_asked {
        return Ok(combine(asked, reach, "", ""));
    }
    let host = of_host(HOST)?;
    let needs_resolved = asked.servers.is_empty() && servers(&host, reach).is_empty();
    let resolved = match needs_resolved && reach != Reach::Host {
        true => of_host(RESOLVED)?,
        false => String::new(),
    };
    Ok(combine(asked, reach, &host, &resolved))
}

/// The text of resolv.conf for a container. One in the host's namespace for which nothing was asked has the host's, as it is.
pub(crate) fn text(asked: &Asked, reach: Reach, dns: &CniDns) -> Result<String> {
    match reach {
        Reach::Host if asked.is_empty() => of_host(HOST),
        _ => Ok(resolv_conf(dns)),
    }
}

fn of_host(path: &str) -> Result<String> {
    files::of_host(path, SIZE_MAX).map_err(|error| match error.kind() {
        Kind::Invalid => error.hint("mend it, or give --dns, --dns-search and --dns-option"),
        _ => error,
    })
}

fn combine(asked: &Asked, reach: Reach, host: &str, resolved: &str) -> CniDns {
    let own = servers(host, reach);
    let upstream = servers(resolved, reach);
    let is_own = asked.servers.is_empty() && (reach == Reach::Host || !own.is_empty());
    let (found, source) = match () {
        () if !asked.servers.is_empty() => {
            (asked.servers.iter().map(IpAddr::to_string).collect(), host)
        }
        () if is_own => (own, host),
        () if !upstream.is_empty() => (upstream, resolved),
        () => (DEFAULT_SERVERS.map(|ip| ip.to_string()).into(), host),
    };
    // Of several lines, the last one counts (resolv.conf(5)).
    let last = || {
        words(source, "search")
            .chain(words(source, "domain"))
            .last()
    };
    let search = match asked.search.as_slice() {
        [] => last().unwrap_or_default(),
        [.., one] if one == NO_SEARCH => Vec::new(),
        asked => asked.to_vec(),
    };
    let options = match asked.options.as_slice() {
        [] => words(source, "options")
            .flatten()
            .filter(|option| is_own || option != TRUST)
            .take(TAKEN_MAX)
            .collect(),
        asked => asked.to_vec(),
    };
    CniDns {
        nameservers: found,
        search,
        options,
    }
}

/// The servers of a resolv.conf that a container can reach.
fn servers(resolv_conf: &str, reach: Reach) -> Vec<String> {
    let first = |line: Vec<String>| line.into_iter().next();
    words(resolv_conf, "nameserver")
        .filter_map(first)
        .filter(|server| reach.has(server))
        .take(TAKEN_MAX)
        .collect()
}

/// The words after this one, of each line that begins with it. A word that no line of ours could hold is passed over.
fn words<'a>(resolv_conf: &'a str, first: &'a str) -> impl Iterator<Item = Vec<String>> + 'a {
    let plain = |word: &&str| {
        word.len() <= files::NAME_MAX && word.bytes().all(|byte| byte.is_ascii_graphic())
    };
    resolv_conf.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(first)).then(|| {
            let words = words.take_while(|word| !word.starts_with(['#', ';']));
            words
                .filter(plain)
                .take(TAKEN_MAX)
                .map(String::from)
                .collect()
        })
    })
}

/// resolv.conf(5) as text.
fn resolv_conf(dns: &CniDns) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: Reach = Reach::Network { ipv6: false };
    const BOTH: Reach = Reach::Network { ipv6: true };

    fn asked(servers: &[&str]) -> Asked {
        Asked {
            servers: servers.iter().map(|text| server(text).unwrap()).collect(),
            ..Asked::default()
        }
    }

    fn nameservers(reach: Reach, host: &str, resolved: &str) -> Vec<String> {
        combine(&Asked::default(), reach, host, resolved).nameservers
    }

    #[test]
    fn a_stub_on_loopback_is_replaced_by_what_it_asks_itself() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let upstream = "nameserver 192.0.2.1\nsearch lan corp.example\n";
        let text = |resolved| resolv_conf(&combine(&Asked::default(), V4, stub, resolved));
        assert_eq!(
            text(upstream),
            "nameserver 192.0.2.1\nsearch lan corp.example\n"
        );
        // A public server's word that an answer was validated is not to be trusted as the stub's is.
        assert_eq!(
            text(""),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch lan\noptions edns0\n"
        );
    }

    #[test]
    fn servers_of_the_host_that_a_container_reaches_are_kept() {
        let host = "# comment\nnameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver fe80::2\n\
            nameserver 192.0.2.7 # mine\n nameserver\t192.0.2.8\nnameserver 2001:db8::1\nnameserver 0.0.0.0\n";
        let resolved = "nameserver 192.0.2.1";
        assert_eq!(nameservers(V4, host, resolved), ["192.0.2.7", "192.0.2.8"]);
        assert_eq!(
            nameservers(BOTH, host, resolved),
            ["192.0.2.7", "192.0.2.8", "2001:db8::1"]
        );
        assert_eq!(
            nameservers(V4, "nameserver 2001:db8::1", resolved),
            ["192.0.2.1"],
            "without an address of its own, nothing is reached by IPv6"
        );
        assert_eq!(
            nameservers(Reach::Host, "nameserver ::1\nnameserver fe80::1%eth0", ""),
            ["::1", "fe80::1%eth0"]
        );
    }

    #[test]
    fn what_was_asked_for_comes_alone_and_the_rest_from_the_host() {
        let host = "nameserver 192.0.2.7\nsearch lan\noptions ndots:3\n";
        let dns = combine(&asked(&["127.0.0.1", "2001:db8::53"]), V4, host, "");
        assert_eq!(dns.nameservers, ["127.0.0.1", "2001:db8::53"]);
        assert_eq!(
            (dns.search, dns.options),
            (vec!["lan".into()], vec!["ndots:3".into()])
        );
        let mut asked = Asked {
            search: vec!["example.org".into()],
            options: vec!["use-vc".into()],
            ..Asked::default()
        };
        let text = resolv_conf(&combine(&asked, V4, host, ""));
        assert_eq!(
            text,
            "nameserver 192.0.2.7\nsearch example.org\noptions use-vc\n"
        );
        asked.search = vec![".".into()];
        assert!(combine(&asked, V4, host, "").search.is_empty());
    }

    #[test]
    fn the_last_line_of_domains_counts_and_the_former_word_for_one_is_known() {
        let search = |host| combine(&Asked::default(), V4, host, "").search;
        assert_eq!(search("search a\nsearch b c ; d\n"), ["b", "c"]);
        assert_eq!(search("domain a\n"), ["a"]);
    }

    #[test]
    fn a_domain_and_an_option_are_checked() {
        for good in ["example.org", "example.org.", "a", "_tcp.x-y", "."] {
            checked_search(good).unwrap();
        }
        for bad in [
            "",
            "a b",
            "a\nnameserver 192.0.2.1",
            "a..b",
            "-a",
            "ä",
            &"a.".repeat(130),
        ] {
            assert_eq!(
                checked_search(bad).unwrap_err().kind(),
                &Kind::Invalid,
                "{bad:?}"
            );
        }
        for good in ["ndots:2", "edns0", "trust-ad", "single-request-reopen"] {
            checked_option(good).unwrap();
        }
        for bad in ["", "a b", "a\nb", "#", "ä"] {
            assert_eq!(
                checked_option(bad).unwrap_err().kind(),
                &Kind::Invalid,
                "{bad:?}"
            );
        }
        assert!(server("dns.example").is_err());
    }

    #[test]
    fn a_huge_file_of_the_host_makes_a_small_one() {
        let host = "nameserver 192.0.2.7\nsearch a b c d\noptions a b c d\n".repeat(10_000);
        let long = format!("search {}\n", "x ".repeat(100_000));
        let text = resolv_conf(&combine(&Asked::default(), V4, &(host + &long), ""));
        assert!(text.len() < 4096, "{}", text.len());
    }

    proptest! {
        #[test]
        fn no_resolv_conf_of_the_host_makes_a_line_that_is_not_ours(text in "\\PC*(\n\\PC*){0,4}") {
            for reach in [V4, BOTH, Reach::Host] {
                let made = resolv_conf(&combine(&Asked::default(), reach, &text, &text));
                for line in made.lines() {
                    prop_assert!(["nameserver ", "search ", "options "].iter().any(|word| line.starts_with(word)));
                }
            }
        }
    }
}
