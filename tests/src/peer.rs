//! A registry that does what it is told, wrong things included: HTTP/1.1 on a port of loopback, and it remembers what was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// The path and the query; for a proxy the whole address.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// As text.
    pub body: String,
}

impl Request {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// 200.
    pub status: u16,
    /// Beside those that say how long the body is.
    pub headers: Vec<(String, String)>,
    /// What follows.
    pub body: Vec<u8>,
    /// How many bytes are promised beyond those of the body.
    pub missing: usize,
    /// What is sent after the body, when the gate is open.
    pub later: Option<(Arc<AtomicBool>, Vec<u8>)>,
    /// Whether the connection is then left open without a word.
    pub stall: bool,
    /// What is sent instead of a head.
    pub garbage: Option<Vec<u8>>,
    /// Whether the body is sent again and again, without a length.
    pub endless: bool,
    /// A byte of the body each time so much has passed; of the head too when there is `garbage`.
    pub drip: Option<Duration>,
}

impl Reply {
    /// A good one.
    #[must_use]
    pub fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status: 200,
            body: body.into(),
            ..Reply::default()
        }
        .header("Content-Type", content_type)
    }

    /// One without a body.
    #[must_use]
    pub fn status(status: u16) -> Reply {
        Reply {
            status,
            ..Reply::default()
        }
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }
}

/// A running peer. Dropped, it and what it still answers end, so that none of its threads outlives the test's namespaces.
pub struct Peer {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts a peer on a thread of its own that answers with `answer`, which hears the peer's own address too.
    ///
    /// # Panics
    /// When there is no port left.
    pub fn start(answer: impl Fn(&Request, &str) -> Reply + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, stopped) = (Arc::clone(&log), Arc::clone(&stop));
        let server = thread::spawn(move || {
            // A thread that shares its view of the file system with the test's would keep that in its namespaces.
            unshare(CloneFlags::CLONE_FS).expect("a working directory of its own");
            thread::scope(|scope| {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    scope.spawn({
                        let (asked, answer, stopped) = (&asked, &answer, &stopped);
                        move || {
                            if let Some(request) = read(&stream) {
                                asked.lock().expect("the log").push(request.clone());
                                let reply = answer(&request, &address.to_string());
                                send(stream, &request, &reply, stopped);
                            }
                        }
                    });
                }
            });
        });
        Peer {
            address,
            log,
            stop,
            server: Some(server),
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// A reference to an image here.
    #[must_use]
    pub fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// What was asked, in order.
    ///
    /// # Panics
    /// When an answer has.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("the log").clone()
    }

    /// The same, to be looked at when the peer is gone.
    #[must_use]
    pub fn log(&self) -> Arc<Mutex<Vec<Request>>> {
        Arc::clone(&self.log)
    }

    /// How many requests had this text in their target.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        let asked = self.requests();
        asked.iter().filter(|r| r.target.contains(text)).count()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the one who waits for connections.
        _ = TcpStream::connect(self.address);
        _ = self.server.take().map(JoinHandle::join);
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream.take(64 << 10));
    let mut lines = reader.by_ref().lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Request {
        method,
        target,
        headers,
        body,
    })
}

fn send(mut stream: TcpStream, request: &Request, reply: &Reply, stopped: &AtomicBool) {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply.endless {
        let later = reply.later.as_ref().map_or(0, |(_, rest)| rest.len());
        let length = reply.body.len() + later + reply.missing;
        head += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let head = reply.garbage.clone().unwrap_or(head.into_bytes());
    let go_on = || !stopped.load(Ordering::SeqCst);
    let mut write = |bytes: &[u8], drip: Option<Duration>| match drip {
        None => stream.write_all(bytes).is_ok(),
        Some(pause) => bytes.iter().all(|byte| {
            thread::sleep(pause);
            go_on() && stream.write_all(&[*byte]).is_ok()
        }),
    };
    // The client may hang up in the middle, which is the client's good right.
    let mut well = write(&head, reply.drip.filter(|_| reply.garbage.is_some()));
    if request.method != "HEAD" {
        well = well && write(&reply.body, reply.drip);
        if let Some((gate, rest)) = &reply.later {
            while well && !gate.load(Ordering::SeqCst) && go_on() {
                thread::sleep(Duration::from_millis(10));
            }
            well = well && write(rest, reply.drip);
        }
        while well && reply.endless && go_on() {
            well = write(&reply.body, reply.drip);
        }
    }
    while well && reply.stall && go_on() {
        thread::sleep(Duration::from_millis(10));
    }
}

/// `sha256:...` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// What a registry has on its shelf: manifests by tag and digest, blobs by digest. Tests replace what they want wrong.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    /// Media type and bytes.
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Bytes.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// A shelf with one image of two layers under the tag `1`.
    pub fn with_image() -> Shelf {
        let mut shelf = Shelf::default();
        let manifest = shelf.image("amd64", OCI_MANIFEST);
        shelf.manifest("1", OCI_MANIFEST, &manifest);
        shelf
    }

    /// Puts the blobs of an image there and gives its manifest.
    pub fn image(&mut self, architecture: &str, media_type: &str) -> Value {
        let layers: Vec<Value> = ["lower", "upper"]
            .map(|name| {
                let bytes = format!("{architecture} {name}").repeat(1000);
                self.blob(OCI_LAYER, bytes.into_bytes())
            })
            .into();
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(b"1"), digest(b"2")]}
        });
        let config = self.blob(OCI_CONFIG, config.to_string().into_bytes());
        json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers})
    }

    /// Puts a blob there and gives its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor =
            json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
        self.blobs.insert(digest(&bytes), bytes);
        descriptor
    }

    /// Puts a manifest or index there, under its digest and a tag, and gives its descriptor.
    pub fn manifest(&mut self, tag: &str, media_type: &str, manifest: &Value) -> Value {
        let bytes = manifest.to_string().into_bytes();
        let descriptor =
            json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
        for name in [tag.to_owned(), digest(&bytes)] {
            self.manifests
                .insert(name, (media_type.to_owned(), bytes.clone()));
        }
        descriptor
    }

    /// The digests of the layers of `amd64`.
    pub fn layer(name: &str) -> String {
        digest(format!("amd64 {name}").repeat(1000).as_bytes())
    }

    /// What a well-behaved registry answers.
    pub fn answer(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return Reply::ok("application/json", "{}");
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, bytes)) => Reply::ok(media_type, bytes.clone())
                    .header("Docker-Content-Digest", &digest(bytes)),
                None => Reply::status(404),
            };
        }
        match self.blobs.get(name) {
            Some(bytes) => part(bytes, request.header("range")),
            None => Reply::status(404),
        }
    }

    /// Starts a peer with this shelf; `first` may answer before it.
    pub fn serve(
        self,
        first: impl Fn(&Request, &str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Peer {
        Peer::start(move |request, address| {
            first(request, address).unwrap_or_else(|| self.answer(request))
        })
    }
}

/// A blob, or the rest of it that was asked for.
fn part(bytes: &[u8], range: Option<&str>) -> Reply {
    let from = range.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let Some(from) = from.filter(|from| (1..bytes.len()).contains(from)) else {
        return Reply::ok("application/octet-stream", bytes);
    };
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    Reply {
        status: 206,
        ..Reply::ok("application/octet-stream", &bytes[from..])
    }
    .header("Content-Range", &range)
}
