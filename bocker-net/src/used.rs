//! Programs of the host that use a port which is to be published: published, they would be hidden from the outside. Whether
//! one does, the kernel says (bind(2)); which one, only when the port is refused (proc(5): /proc/net/tcp, /proc/PID/fd).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use bocker_pipe::{Error, Kind, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};

use crate::nft::Family;
use crate::publish::{Protocol, Publish};

const PROC: &str = "/proc";
/// The tables of sockets of the namespace of the thread that asks.
const TABLES: &str = "/proc/thread-self/net";
/// The state of a socket that waits for connections (include/net/tcp_states.h, TCP_LISTEN), and of one of UDP that is bound.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Whether the host's ports are free, over those families.
pub(crate) fn is_free(publish: &Publish, families: &[Family]) -> Result<bool> {
    match try_all(publish, families) {
        Ok(()) => Ok(true),
        Err((_, Errno::EADDRINUSE)) => Ok(false),
        Err((one, errno)) => Err(cannot(&one, errno)),
    }
}

/// Refuses ports that a program of the host uses, and says which program. Also one on an address that the host has not.
pub(crate) fn refuse(ports: &[Publish], families: &[Family]) -> Result<()> {
    for publish in ports {
        if let Err((one, errno)) = try_all(publish, families) {
            return Err(cannot(&one, errno));
        }
    }
    Ok(())
}

fn try_all(publish: &Publish, families: &[Family]) -> std::result::Result<(), (Publish, Errno)> {
    for one in publish.each() {
        for family in families.iter().filter(|family| publish.covers(**family)) {
            try_bind(&one, *family).map_err(|errno| (one.clone(), errno))?;
        }
    }
    Ok(())
}

fn try_bind(publish: &Publish, family: Family) -> std::result::Result<(), Errno> {
    let kind = match publish.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let domain = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let socket = match socket(domain, kind, SockFlag::SOCK_CLOEXEC, None) {
        // A kernel without IPv6 has nobody who listens there.
        Err(Errno::EAFNOSUPPORT) if family == Family::V6 => return Ok(()),
        socket => socket?,
    };
    if publish.protocol == Protocol::Tcp {
        // Connections that have just ended are not in the way; a listener still is (socket(7)).
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    match (family, publish.host_ip) {
        (Family::V4, ip) => {
            let Some(IpAddr::V4(ip)) = ip.or(Some(Ipv4Addr::UNSPECIFIED.into())) else {
                return Ok(());
            };
            let [a, b, c, d] = ip.octets();
            bind(
                socket.as_raw_fd(),
                &SockaddrIn::new(a, b, c, d, publish.host_port),
            )
        }
        (Family::V6, ip) => {
            let Some(IpAddr::V6(ip)) = ip.or(Some(Ipv6Addr::UNSPECIFIED.into())) else {
                return Ok(());
            };
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            let address = std::net::SocketAddrV6::new(ip, publish.host_port, 0, 0);
            bind(socket.as_raw_fd(), &SockaddrIn6::from(address))
        }
    }
}

fn cannot(publish: &Publish, errno: Errno) -> Error {
    let refuse = |kind, what: &str, hint: &str| {
        Error::new(kind, format!("cannot publish {publish}: {what}")).hint(hint)
    };
    match errno {
        Errno::EADDRINUSE => {
            let who = user(publish).unwrap_or_else(|| "a program of the host".into());
            refuse(
                Kind::InUse,
                &format!("{who} uses that port"),
                "choose another, or end that program; 'ss -lntup' lists them",
            )
        }
        Errno::EADDRNOTAVAIL => refuse(
            Kind::Invalid,
            "the host does not have that address",
            "'ip address' lists those it has",
        ),
        errno => Error::system(&format!("try port {}", publish.host()), errno),
    }
}

/// Name and number of the program that uses a port: `nginx (pid 123)`.
fn user(publish: &Publish) -> Option<String> {
    let (names, state) = match publish.protocol {
        Protocol::Tcp => (["tcp", "tcp6"], LISTEN),
        Protocol::Udp => (["udp", "udp6"], UNCONNECTED),
    };
    let mut sockets = Vec::new();
    for name in names {
        // A kernel without IPv6 has no such table.
        let Ok(text) = fs::read_to_string(format!("{TABLES}/{name}")) else {
            continue;
        };
        let theirs = text.lines().skip(1).filter_map(Bound::parse);
        let in_the_way = theirs.filter(|one| {
            one.port == publish.host_port
                && (one.state == state || publish.protocol == Protocol::Udp)
                && (publish.is_any()
                    || one.address.is_unspecified()
                    || Some(one.address) == publish.host_ip)
        });
        sockets.extend(in_the_way.map(|one| format!("socket:[{}]", one.inode)));
    }
    let processes = fs::read_dir(PROC).ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let descriptors = fs::read_dir(format!("{PROC}/{pid}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
            {
                let name = fs::read_to_string(format!("{PROC}/{pid}/comm")).ok()?;
                // Whoever wrote the program chose its name.
                return Some(format!("{} (pid {pid})", name.trim_end().escape_debug()));
            }
        }
    }
    None
}

/// A line of /proc/net/tcp and its like.
struct Bound<'a> {
    address: IpAddr,
    port: u16,
    state: &'a str,
    inode: &'a str,
}

impl Bound<'_> {
    fn parse(line: &str) -> Option<Bound<'_>> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, port) = words.get(1)?.split_once(':')?;
        // Words of 32 bits, each in the host's byte order.
        let word = |place: usize| {
            let text = address.get(place * 8..(place + 1) * 8)?;
            Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
        };
        let address: IpAddr = match address.len() {
            8 => Ipv4Addr::from(word(0)?).into(),
            32 => {
                let words = [word(0)?, word(1)?, word(2)?, word(3)?];
                let octets: [u8; 16] = words.concat().try_into().ok()?;
                IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
            }
            _ => return None,
        };
        Some(Bound {
            address,
            port: u16::from_str_radix(port, 16).ok()?,
            state: words.get(3)?,
            inode: words.get(9)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn publish(text: &str) -> Publish {
        let wanted: crate::publish::Wanted = text.parse().unwrap();
        wanted.settled().unwrap()
    }

    #[test]
    fn lines_of_the_kernels_tables_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        let bound = Bound::parse(line).unwrap();
        assert_eq!((bound.port, bound.inode), (8080, "4711"));
        if cfg!(target_endian = "little") {
            assert_eq!(bound.address, IpAddr::from(Ipv4Addr::LOCALHOST));
        }
        assert_eq!(bound.state, LISTEN);
        for line in [
            "",
            "0: 0100007F",
            "0: 01:1F90 0 0A 0 0 0 0 0 1",
            "0: é0007F00:1 0 0A 0 0 0 0 0 1",
        ] {
            assert!(Bound::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_port_that_is_refused_names_the_program() {
        let pid = std::process::id().to_string();
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (port, protocol) in [
            (v4.local_addr().unwrap().port(), "tcp"),
            (udp.local_addr().unwrap().port(), "udp"),
        ] {
            for address in ["", "127.0.0.1:"] {
                let one = publish(&format!("{address}{port}:80/{protocol}"));
                assert!(!is_free(&one, &[Family::V4]).unwrap());
                let error = refuse(std::slice::from_ref(&one), &[Family::V4]).unwrap_err();
                assert_eq!(error.kind(), &Kind::InUse);
                assert!(error.message().contains(&format!("(pid {pid})")), "{error}");
            }
            let other = publish(&format!("127.0.0.2:{port}:80/{protocol}"));
            assert!(is_free(&other, &[Family::V4]).unwrap());
        }
        let nowhere = publish("198.51.100.7:80:80");
        let error = refuse(&[nowhere], &[Family::V4]).unwrap_err();
        assert_eq!(error.kind(), &Kind::Invalid);
    }
}
