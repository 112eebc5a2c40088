//! Networks by real packets: another host behind a cable, networks that bocker-net has made, and who answers whom.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::{Host, Output};

/// The world outside: a namespace with a cable to the host and no route to containers (RFC 5737 and RFC 3849 addresses).
pub const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The other end.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The same over IPv6.
pub const HOST_OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The other end.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Longer than the first retransmission of a SYN, so that a slow answer is an answer.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Long enough for what would answer at all, on a cable that is memory.
pub const SILENCE: Duration = Duration::from_millis(400);

/// Runs a piece of the test in a network namespace. Sockets that it opens stay in it.
///
/// # Panics
/// When the piece does, or there is no such namespace.
pub fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let file = File::open(namespace).unwrap_or_else(|e| panic!("{e}"));
            setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("{e}"));
            work()
        });
        visitor
            .join()
            .unwrap_or_else(|_| panic!("in {}", namespace.display()))
    })
}

/// The world outside, with a cable to the host.
#[must_use]
pub fn outside(host: &Host) -> PathBuf {
    let path = host.scratch().join("outside");
    let name = path.display();
    host.sh(&format!(
        "set -e; touch {name}; unshare --net={name} true
         ip link add cable type veth peer name eth0 netns {name}
         ip addr add {HOST_OUTSIDE}/24 dev cable; ip link set cable up
         ip addr add {HOST_OUTSIDE6}/64 dev cable nodad
         nsenter --net={name} sh -c '
            ip link set lo up; ip addr add {OUTSIDE}/24 dev eth0; ip link set eth0 up
            ip addr add {OUTSIDE6}/64 dev eth0 nodad'"
    ))
    .ok();
    path
}

/// A network made by `create --new`.
pub struct Net {
    /// What it printed.
    pub document: Value,
}

impl Net {
    /// One with these options.
    #[must_use]
    #[track_caller]
    pub fn new(host: &Host, options: &[&str]) -> Net {
        Net {
            document: create(host, options).ok().json(),
        }
    }

    /// The container that it is for.
    ///
    /// # Panics
    /// When the document names none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.document["bocker"]["id"].as_str().expect("an id")
    }

    /// Where its namespace is pinned.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn namespace(&self) -> PathBuf {
        self.document["bocker"]["net"]["netns"]["path"]
            .as_str()
            .expect("a path")
            .into()
    }

    /// Its address on its first bridge.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        let ips = &self.document["bocker"]["net"]["attachments"][0]["result"]["ips"];
        let text = ips[0]["address"].as_str().expect("an address");
        text.split('/')
            .next()
            .and_then(|text| text.parse().ok())
            .expect("IPv4")
    }

    /// Listens in it.
    ///
    /// # Panics
    /// When that is impossible.
    #[must_use]
    pub fn listen(&self, port: u16) -> TcpListener {
        inside(&self.namespace(), || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        })
        .expect("listen")
    }

    /// `delete`.
    pub fn delete(&self, host: &Host) -> Output {
        host.call(&["bocker-net", "delete"])
            .stdin(self.document.to_string())
            .run()
    }
}

/// `bocker-net create --new`, with these options.
pub fn create(host: &Host, options: &[&str]) -> Output {
    host.run(&[&["bocker-net", "create", "--new"], options].concat())
}

/// Connects, from a namespace or from the test's own.
///
/// # Errors
/// When nobody answers within the time.
pub fn connect(
    namespace: Option<&Path>,
    to: impl Into<IpAddr>,
    port: u16,
    patience: Duration,
) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    match namespace {
        Some(namespace) => inside(namespace, || TcpStream::connect_timeout(&to, patience)),
        None => TcpStream::connect_timeout(&to, patience),
    }
}

/// Sends a word each way, and says whom the listener saw.
///
/// # Panics
/// When a word is lost.
#[track_caller]
pub fn talk(
    listener: &TcpListener,
    from: Option<&Path>,
    to: impl Into<IpAddr>,
    port: u16,
) -> IpAddr {
    let to = to.into();
    let mut client = connect(from, to, port, PATIENCE)
        .unwrap_or_else(|e| panic!("from {from:?} to {to} port {port}: {e}"));
    let (mut server, peer) = listener.accept().expect("accept");
    let mut word = [0; 4];
    client.write_all(b"ping").expect("write");
    server.read_exact(&mut word).expect("read");
    server.write_all(b"pong").expect("write");
    client.read_exact(&mut word).expect("read");
    assert_eq!(&word, b"pong");
    peer.ip()
}

/// Asserts that nobody answers there.
///
/// # Panics
/// When somebody does.
#[track_caller]
pub fn assert_silent(from: Option<&Path>, to: impl Into<IpAddr>, port: u16) {
    let to = to.into();
    let answer = connect(from, to, port, SILENCE);
    assert!(answer.is_err(), "{to} port {port} answers {from:?}");
}
