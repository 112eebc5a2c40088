//! What goes to a registry, a real one and one that makes it hard: every blob at most once, from where it broke off, and
//! nothing that leads to something before that is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use bocker_tests::{Host, Image, Layer, Platform, Registry, need};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NAME: &str = "docker.io/library/fixture:1";

/// Puts an image into the store as another program would, an index with all that it leads to.
fn store(host: &Host, image: &Image, name: &str) {
    let from = format!("oci:{}", image.layout().display());
    let to = format!("oci:{}:{name}", host.root().join("images").display());
    host.run(&["skopeo", "copy", "--all", "--quiet", &from, &to])
        .ok();
}

fn listed(host: &Host, name: &str) -> Value {
    host.run(&["bocker-pull", "list", name]).ok().json()
}

#[test]
fn what_is_pushed_is_what_peers_and_we_pull_and_goes_there_once() {
    if !need("docker-registry skopeo") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    store(&host, &Image::simple(), NAME);
    let digest = listed(&host, "fixture:1")["digest"].clone();
    let at = |rest: &str| format!("{}/{rest}", registry.address());
    let first = at("team/app:1");
    let push = |image: &str, target: &str| host.run(&["bocker-pull", "push", image, target]).ok();
    let said = push("fixture:1", &first);
    assert_eq!(
        said.json(),
        json!({"reference": first, "tag": "1", "digest": digest, "size": said.json()["size"]})
    );
    assert_eq!(said.stderr.matches(" uploaded").count(), 2, "{said}");
    let source = format!("docker://{first}");
    let inspect = ["skopeo", "inspect", "--tls-verify=false", &source];
    assert_eq!(host.run(&inspect).ok().json()["Digest"], digest);

    // Under another name in the same repository there is nothing to send, in another one it is mounted.
    let again = push("fixture:1", &at("team/app:2"));
    assert_eq!(again.stderr.matches("already there").count(), 2, "{again}");
    host.run(&["bocker-pull", "tag", "fixture:1", &first]).ok();
    let mounted = push("fixture:1", &at("other/place:1"));
    assert_eq!(mounted.stderr.matches(" mounted").count(), 2, "{mounted}");
    // By its own name, and by nothing but its id.
    host.run(&["bocker-pull", "push", "-q", &first]).ok();
    let id = listed(&host, "fixture:1")["id"].clone();
    let by_id = push(id.as_str().expect("an id"), &at("by/id"));
    assert_eq!(by_id.json()["tag"], "latest");

    host.run(&["bocker-pull", "rmi", "-f", id.as_str().expect("an id")])
        .ok();
    for name in ["team/app:1", "team/app:2", "other/place:1", "by/id:latest"] {
        let pulled = host.run(&["bocker-pull", "-q", &at(name)]).ok().json();
        assert_eq!(pulled["bocker"]["image"]["digest"], digest, "{name}");
    }
}

#[test]
fn an_index_is_pushed_after_all_that_it_leads_to_and_foreign_layers_are_not() {
    if !need("docker-registry skopeo") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    store(&host, &Image::two_platforms(), NAME);
    let target = format!("{}/many:1", registry.address());
    host.run(&["bocker-pull", "push", "fixture:1", &target])
        .ok();
    let resolved = host.run(&["bocker-pull", "resolve", &target]).ok().json();
    assert_eq!(resolved["digest"], listed(&host, "fixture:1")["digest"]);
    let platforms = resolved["platforms"].as_array().expect("platforms");
    let named: Vec<&str> = platforms
        .iter()
        .filter_map(|offer| offer["platform"].as_str())
        .collect();
    assert_eq!(named, ["linux/arm64", "linux/amd64"]);
    let digests: Vec<&Value> = platforms.iter().map(|offer| &offer["digest"]).collect();
    assert!(digests.contains(&&resolved["manifest"]), "{resolved}");
    // Of an image alone its configuration tells.
    let alone = registry.push(&Image::simple(), "alone:1");
    let resolved = host.run(&["bocker-pull", "resolve", &alone]).ok().json();
    let (digest, size) = (&resolved["digest"], &resolved["size"]);
    assert_eq!(&resolved["manifest"], digest);
    assert_eq!(
        resolved["platforms"],
        json!([{"platform": "linux/amd64", "digest": digest, "size": size}])
    );
    host.run(&["bocker-pull", "-q", &target]).ok();

    // What its maker keeps for himself is named by the manifest and not sent.
    let images = host.root().join("images");
    let image = Image::single(&Platform::new(vec![Layer::new().file("x", "x")], json!({})));
    store(&host, &image, "docker.io/library/foreign:1");
    let path = |digest: &Value| {
        let digest = digest.as_str().expect("a digest");
        images.join("blobs/sha256").join(&digest[7..])
    };
    let known = listed(&host, "foreign:1");
    let bytes = fs::read(path(&known["digest"])).expect("a manifest");
    let mut manifest: Value = serde_json::from_slice(&bytes).expect("a manifest");
    manifest["layers"][0]["mediaType"] =
        json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
    let bytes = manifest.to_string().into_bytes();
    let digest = sum(&bytes);
    fs::write(path(&json!(digest)), &bytes).expect("a manifest");
    let index = fs::read_to_string(images.join("index.json")).expect("an index");
    let mut index: Value = serde_json::from_str(&index).expect("an index");
    for entry in index["manifests"].as_array_mut().expect("entries") {
        if entry["digest"] == known["digest"] {
            entry["digest"] = json!(digest);
            entry["size"] = json!(bytes.len());
        }
    }
    fs::write(images.join("index.json"), index.to_string()).expect("an index");
    fs::remove_file(path(&manifest["layers"][0]["digest"])).expect("the layer");
    let pushed = host.run(&[
        "bocker-pull",
        "push",
        "foreign:1",
        &format!("{}/foreign:1", registry.address()),
    ]);
    // This registry wants to know where it is; the blobs that it may have, it got.
    assert_eq!(pushed.stderr.matches(" uploaded").count(), 1, "{pushed}");
}

#[test]
fn a_push_that_cannot_be_done_is_one_line() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    store(&host, &Image::simple(), NAME);
    let digest = listed(&host, "fixture:1")["digest"].clone();
    let digest = digest.as_str().expect("a digest");
    // A layout of skopeo's gets what our own tools add to it.
    host.run(&["bocker-pull", "tag", "fixture:1", "other:1"])
        .ok();
    let before = host.fingerprint();
    let other = format!("127.0.0.1:1/x@sha256:{}", "0".repeat(64));
    for (words, message) in [
        (&["nope"][..], "No image named 'nope' exists"),
        (&[], "no image was named"),
        (&["fixture:1", "127.0.0.1:1/x:1"], "cannot"),
        (&["fixture:1", &other], "cannot be pushed as"),
        (&["fixture:1", "X"], "X"),
        (
            &["fixture:1", "127.0.0.1:1/x:1", "y"],
            "unexpected argument 'y'",
        ),
        (
            &["fixture:1", "--progress", "loud"],
            "is no way to show progress",
        ),
    ] {
        let failed = host.run(&[&["bocker-pull", "push"], words].concat());
        let failed = failed.exits(125).says(message);
        assert_eq!(failed.stderr.lines().count(), 1, "{failed}");
    }
    let dry = [
        "bocker-pull",
        "push",
        "--dry-run",
        digest,
        "127.0.0.1:1/x:1",
    ];
    let dry = host.run(&dry).ok();
    assert!(
        dry.stderr.contains("+ curl") && dry.stdout.is_empty(),
        "{dry}"
    );
    host.assert_same(&before);
    let layer = fs::read_dir(host.root().join("images/blobs/sha256"))
        .expect("blobs")
        .flatten()
        .max_by_key(|blob| blob.metadata().expect("a blob").len());
    fs::write(layer.expect("a layer").path(), "x").expect("a damaged layer");
    host.run(&["bocker-pull", "push", "fixture:1", "127.0.0.1:1/x:1"])
        .exits(125)
        .says("is damaged");
}

#[test]
fn what_the_front_end_pushes_can_be_pasted() {
    if !need("docker-registry skopeo") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    store(&host, &Image::simple(), NAME);
    let digest = listed(&host, "fixture:1")["digest"].clone();
    let words = [
        "push",
        "-q",
        "fixture:1",
        &format!("{}/x:3", registry.address()),
    ];
    let pasted = host
        .run(&[&["bocker", "--dry-run"], &words[..]].concat())
        .text();
    let said = host.sh(&pasted).text();
    assert!(
        said.starts_with(&format!(
            "3: digest: {} size: ",
            digest.as_str().expect("a digest")
        )),
        "{said}"
    );
    assert_eq!(host.run(&[&["bocker"], &words[..]].concat()).text(), said);
}

fn sum(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// One request.
struct Request {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// What a registry that makes it hard does.
#[derive(Clone, Copy, Default)]
struct Habits {
    /// Hangs up in the middle of the first pieces, so often, and keeps what has come by then.
    hangs_up: usize,
    /// The largest body that it takes.
    most: Option<usize>,
    /// The least that it wants in a piece, if there is more.
    least: usize,
    /// Forgets the first upload, once it has got a piece of it.
    forgets: bool,
}

/// What it has, and what was asked of it.
#[derive(Default)]
struct Shelf {
    uploads: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    asked: Vec<String>,
    hung_up: usize,
    forgot: bool,
}

impl Shelf {
    fn answer(&mut self, request: &Request, habits: Habits, whole: bool) -> Option<(u16, String)> {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let rest = path.strip_prefix("/v2/x/").unwrap_or_default().to_owned();
        let has = |upload: &[u8]| format!("0-{}", upload.len().saturating_sub(1));
        // Relative, with a query of its own that has to come back.
        let place = |upload: &str, has: &[u8]| {
            format!("Location: ../uploads/{upload}?state={}\r\n", has.len())
        };
        let least = format!("OCI-Chunk-Min-Length: {}\r\n", habits.least);
        if let Some(upload) = rest
            .strip_prefix("blobs/uploads/")
            .filter(|id| !id.is_empty())
        {
            let Some(bytes) = self.uploads.get_mut(upload) else {
                return Some((404, String::new()));
            };
            let digest = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("digest="));
            let state = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("state="));
            assert!(
                state.is_some(),
                "the query of the address is kept: {}",
                request.target
            );
            if request.method == "GET" {
                return Some((
                    204,
                    format!("Range: {}\r\n{}", has(bytes), place(upload, bytes)),
                ));
            }
            if habits.most.is_some_and(|most| request.body.len() > most) {
                return Some((413, String::new()));
            }
            if let Some(range) = request.headers.get("content-range") {
                let from = range.split('-').next().and_then(|from| from.parse().ok());
                if from != Some(bytes.len()) {
                    return Some((416, format!("Range: {}\r\n", has(bytes))));
                }
            }
            bytes.extend(&request.body);
            if !whole {
                return None;
            }
            if habits.forgets && !self.forgot && request.method == "PATCH" {
                self.forgot = true;
                self.uploads.clear();
                return Some((202, format!("Location: {}\r\n", request.target)));
            }
            if request.method == "PATCH" {
                return Some((
                    202,
                    format!("Range: {}\r\n{}", has(bytes), place(upload, bytes)),
                ));
            }
            let digest = digest
                .map(|digest| digest.replace("%3A", ":"))
                .unwrap_or_default();
            let found = sum(bytes);
            if found != digest {
                return Some((400, String::new()));
            }
            let bytes = self.uploads.remove(upload).unwrap_or_default();
            self.blobs.insert(digest, bytes);
            return Some((201, String::new()));
        }
        Some(match (request.method.as_str(), rest.split_once('/')) {
            ("HEAD", Some(("blobs", digest))) if self.blobs.contains_key(digest) => {
                (200, String::new())
            }
            ("POST", Some(("blobs", "uploads/"))) => {
                let id = format!("{}", self.asked.len());
                self.uploads.insert(id.clone(), Vec::new());
                // As if from `blobs/uploads/`: relative to where the request went.
                (202, format!("Location: {id}?state=0\r\n{least}"))
            }
            ("PUT", Some(("manifests", version))) => {
                let manifest: Value = serde_json::from_slice(&request.body).expect("a manifest");
                let parts = manifest["layers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .chain([&manifest["config"]]);
                for part in parts {
                    assert!(
                        self.blobs
                            .contains_key(part["digest"].as_str().expect("a digest")),
                        "{manifest}"
                    );
                }
                self.manifests
                    .insert(version.to_owned(), request.body.clone());
                (
                    201,
                    format!("Docker-Content-Digest: {}\r\n", sum(&request.body)),
                )
            }
            _ => (404, String::new()),
        })
    }
}

/// A registry that makes it hard. Dropped, it ends.
struct Hard {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Hard {
    fn start(habits: Habits) -> Hard {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number");
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&shelf), Arc::clone(&stop));
        let server = thread::spawn(move || {
            // A thread that shares its view of the file system with the test's would keep that in its namespaces.
            unshare(CloneFlags::CLONE_FS).expect("a working directory of its own");
            // One after another: a client of several connections waits.
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                serve(stream, &shared, habits);
            }
        });
        Hard {
            address,
            shelf,
            stop,
            server: Some(server),
        }
    }

    fn asked(&self, method: &str) -> Vec<String> {
        let shelf = self.shelf.lock().expect("the shelf");
        shelf
            .asked
            .iter()
            .filter(|line| line.starts_with(method))
            .cloned()
            .collect()
    }
}

impl Drop for Hard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the one who waits for connections.
        _ = TcpStream::connect(self.address);
        _ = self.server.take().map(JoinHandle::join);
    }
}

fn serve(mut stream: TcpStream, shelf: &Mutex<Shelf>, habits: Habits) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    let mut lines = reader
        .by_ref()
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    let length: usize = headers
        .get("content-length")
        .map_or(0, |length| length.parse().expect("a length"));
    let mut shelf = shelf.lock().expect("the shelf");
    let hangs_up = first.starts_with("PATCH") && shelf.hung_up < habits.hangs_up;
    let mut body = vec![0; if hangs_up { length / 2 } else { length }];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let mut words = first.split(' ').map(str::to_owned);
    let request = Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers,
        body,
    };
    shelf.asked.push(format!(
        "{} {} {}",
        request.method,
        request.target,
        request.body.len()
    ));
    shelf.hung_up += usize::from(hangs_up);
    if let Some((status, headers)) = shelf.answer(&request, habits, !hangs_up) {
        _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
        );
    }
}

/// An image of one layer of twenty megabytes that no compression makes smaller.
fn large(host: &Host) {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..20_000_000 / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let folder = host.scratch().join("large");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("noise"), noise).expect("a file");
    host.run(&[
        "bocker-snap",
        "init",
        &folder.display().to_string(),
        "--name",
        "large:1",
    ])
    .ok();
}

#[test]
fn a_large_blob_goes_on_from_where_it_broke_off_in_pieces_that_the_registry_takes() {
    let host = Host::new();
    large(&host);
    let digest = listed(&host, "large:1")["digest"].clone();
    let size = listed(&host, "large:1")["size"].as_u64().expect("a size") as usize;
    let push = |habits: Habits| {
        let hard = Hard::start(habits);
        let target = format!("{}/x:1", hard.address);
        let pushed = host.run(&["bocker-pull", "push", "large:1", &target]).ok();
        assert_eq!(pushed.json()["digest"], digest);
        let stored = sum(&hard.shelf.lock().expect("the shelf").manifests["1"]);
        assert_eq!(json!(stored), digest);
        hard
    };
    let sizes = |hard: &Hard| -> Vec<usize> {
        let asked = hard.asked("PATCH");
        asked
            .iter()
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|size| size.parse().ok())
                    .expect("a size")
            })
            .collect()
    };
    let plain = push(Habits::default());
    assert_eq!(sizes(&plain), [size]);
    // Half of what was sent has come, then half of the rest: neither is sent again.
    let hard = push(Habits {
        hangs_up: 2,
        ..Habits::default()
    });
    assert_eq!(
        sizes(&hard),
        [
            size / 2,
            (size - size / 2) / 2,
            size - size / 2 - (size - size / 2) / 2
        ]
    );
    // One that takes no more than 6 MB is sent that much or less, and never less than it wants.
    let small = push(Habits {
        most: Some(6_000_000),
        least: 4_500_000,
        ..Habits::default()
    });
    let pieces: Vec<usize> = sizes(&small)
        .into_iter()
        .filter(|size| *size <= 6_000_000)
        .collect();
    assert_eq!(pieces.iter().sum::<usize>(), size);
    let (_, but_the_last) = pieces.split_last().expect("pieces");
    assert!(
        but_the_last.iter().all(|piece| *piece >= 4_194_304),
        "{pieces:?}"
    );
    // One that forgets an upload is sent all of it again.
    let forgetful = push(Habits {
        forgets: true,
        ..Habits::default()
    });
    assert_eq!(sizes(&forgetful), [size, size]);
    // One that hangs up for ever is given up.
    let hopeless = Hard::start(Habits {
        hangs_up: usize::MAX,
        most: Some(0),
        ..Habits::default()
    });
    let target = format!("{}/x:1", hopeless.address);
    let failed = host
        .run(&[
            "bocker-pull",
            "push",
            "-q",
            "--retries",
            "1",
            "large:1",
            &target,
        ])
        .exits(125);
    assert_eq!(failed.stderr.lines().count(), 1, "{failed}");
}

#[test]
fn a_program_of_the_users_decides_before_any_layer_is_fetched() {
    if !need("docker-registry skopeo jq") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::two_platforms(), "many:1");
    let resolved = host
        .run(&["bocker-pull", "resolve", &reference])
        .ok()
        .json();
    let notes = host.scratch().join("notes").display().to_string();
    let check = host.script(
        "check",
        &format!("#!/bin/sh\necho \"$# $1 $2 $BOCKER_MANIFEST $(jq -r .mediaType) $BOCKER_MEDIA_TYPE\" > {notes}; echo said; exit ${{CODE:-0}}"),
    );
    let pull = [
        "bocker-pull",
        "--verify",
        &check.display().to_string(),
        &reference,
    ];
    let before = host.fingerprint();
    let refused = host.call(&pull).env("CODE", "3").run().exits(125);
    let refused = refused
        .says("does not accept")
        .says("exit status: 3")
        .says("said");
    assert_eq!(refused.json()["bocker"]["error"]["kind"], "invalid");
    host.assert_same(&before);
    let accepted = host.run(&pull).ok();
    assert_eq!(
        accepted.json()["bocker"]["image"]["digest"],
        resolved["manifest"]
    );
    let (text, index) = (
        |value: &Value| value.as_str().expect("text").to_owned(),
        "application/vnd.oci.image.index.v1+json",
    );
    let (top, own) = (text(&resolved["digest"]), text(&resolved["manifest"]));
    let noted = fs::read_to_string(&notes).expect("notes");
    assert_eq!(
        noted,
        format!("2 {reference} {top} {own} {index} {index}\n")
    );
    let missing = ["bocker-pull", "--verify", "/no/such/program", &reference];
    host.run(&missing)
        .exits(125)
        .says("cannot run /no/such/program");
}

#[test]
fn progress_for_programs_is_json_lines_that_add_up() {
    if !need("docker-registry skopeo") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::full(), "full:1");
    let events = |words: &[&str]| -> Vec<Value> {
        let output = host.run(words).ok();
        let lines = output.stderr.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect()
    };
    let of = |events: &[Value], kind: &str| -> Vec<Value> {
        events
            .iter()
            .filter(|event| event["event"] == kind)
            .cloned()
            .collect()
    };
    let pulled = events(&["bocker-pull", "--progress", "json", &reference]);
    assert_eq!(pulled[0]["event"], "resolve");
    assert_eq!(pulled[0]["reference"], json!(reference));
    let (begun, done) = (of(&pulled, "begin"), of(&pulled, "done"));
    assert_eq!((begun.len(), done.len()), (4, 4));
    assert!(done.iter().all(|event| event["how"] == "downloaded"));
    let size: u64 = done.iter().filter_map(|event| event["size"].as_u64()).sum();
    let total = of(&pulled, "total").pop().expect("a total");
    assert_eq!(
        total,
        json!({"event": "total", "blobs": 4, "of": 4, "bytes": size, "size": size})
    );

    // Of an image that shares its layers, nothing comes.
    host.run(&["bocker-pull", "tag", &reference, "other:1"])
        .ok();
    host.run(&["bocker-pull", "rmi", &reference]).ok();
    let again = events(&["bocker-pull", "--progress", "json", &reference]);
    assert_eq!(
        (of(&again, "present").len(), of(&again, "begin").len()),
        (4, 0)
    );
    let target = format!("{}/copy:1", registry.address());
    let pushed = events(&[
        "bocker-pull",
        "push",
        "--progress",
        "json",
        "other:1",
        &target,
    ]);
    let done = of(&pushed, "done");
    assert_eq!(done.len(), 5, "the configuration too");
    let total = of(&pushed, "total").pop().expect("a total");
    assert_eq!(
        (&total["blobs"], &total["bytes"]),
        (&json!(5), &total["size"])
    );
}
