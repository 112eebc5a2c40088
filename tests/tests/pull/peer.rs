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

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// The path and the query; for a proxy the whole address.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// How many bytes are promised beyond those of the body.
    pub(crate) missing: usize,
    /// Whether the connection is then left open without a word.
    pub(crate) stall: bool,
}

impl Reply {
    pub(crate) fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status: 200,
            body: body.into(),
            ..Reply::default()
        }
        .header("Content-Type", content_type)
    }

    pub(crate) fn status(status: u16) -> Reply {
        Reply {
            status,
            ..Reply::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }
}

/// A running peer. Dropped, it and what it still answers end, so that none of its threads outlives the test's namespaces.
pub(crate) struct Peer {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts a peer that answers with `answer`, which hears the peer's own address too.
    pub(crate) fn start(answer: impl Fn(&Request, &str) -> Reply + Send + Sync + 'static) -> Peer {
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
                                send(stream, &answer(&request, &address.to_string()), stopped);
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
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// A reference to an image here.
    pub(crate) fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// What was asked, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("the log").clone()
    }

    /// How many requests had this text in their target.
    pub(crate) fn count(&self, text: &str) -> usize {
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
    let mut lines = BufReader::new(stream.take(64 << 10)).lines();
    let target = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Some(Request { target, headers })
}

fn send(mut stream: TcpStream, reply: &Reply, stopped: &AtomicBool) {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    let length = reply.body.len() + reply.missing;
    head += &format!("Content-Length: {length}\r\n");
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    // The client may hang up in the middle, which is the client's good right.
    _ = stream.write_all(head.as_bytes());
    _ = stream.write_all(&reply.body);
    while reply.stall && !stopped.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// `sha256:...` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// What a registry has on its shelf: manifests by tag and digest, blobs by digest. Tests replace what they want wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// A shelf with one image of two layers under the tag `1`.
    pub(crate) fn with_image() -> Shelf {
        let mut shelf = Shelf::default();
        let manifest = shelf.image("amd64", OCI_MANIFEST);
        shelf.manifest("1", OCI_MANIFEST, &manifest);
        shelf
    }

    /// Puts the blobs of an image there and gives its manifest.
    pub(crate) fn image(&mut self, architecture: &str, media_type: &str) -> Value {
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
    pub(crate) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor =
            json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
        self.blobs.insert(digest(&bytes), bytes);
        descriptor
    }

    /// Puts a manifest or index there, under its digest and a tag, and gives its descriptor.
    pub(crate) fn manifest(&mut self, tag: &str, media_type: &str, manifest: &Value) -> Value {
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
    pub(crate) fn layer(name: &str) -> String {
        digest(format!("amd64 {name}").repeat(1000).as_bytes())
    }

    /// What a well-behaved registry answers.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, bytes)) => Reply::ok(media_type, bytes.clone()),
                None => Reply::status(404),
            };
        }
        match self.blobs.get(name) {
            Some(bytes) => Reply::ok("application/octet-stream", bytes.clone()),
            None => Reply::status(404),
        }
    }

    /// Starts a peer with this shelf; `first` may answer before it.
    pub(crate) fn serve(
        self,
        first: impl Fn(&Request, &str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Peer {
        Peer::start(move |request, address| {
            first(request, address).unwrap_or_else(|| self.answer(request))
        })
    }
}
