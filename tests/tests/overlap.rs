//! `bocker-pull REF | bocker-snap import`: what has come of an image is unpacked while the rest is still on its way, and nothing of it is
//! seen before all of it is whole.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bocker_tests::peer::{self, OCI_MANIFEST, Peer, Request, Shelf};
use bocker_tests::{Host, Image, Layer, Platform, Running};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

/// More than the pipe, the buffers of HTTP and the step at which bocker-pull says what has come.
const LARGE: usize = 6 << 20;
/// How much of the large layer is sent at once; the rest waits for the gate.
const AT_FIRST: usize = 4 << 20;

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// An image of a small layer and a large one, on whose top lies a name that is seen when the rest is not there yet.
fn image() -> Image {
    let lower = Layer::new().file("lower", "lower");
    let upper = Layer::new()
        .file("early", "early")
        .file("late", noise(LARGE));
    Image::single(&Platform::new(vec![lower, upper], json!({})))
}

/// The image on a shelf, with its manifest for those who want it otherwise.
fn shelf(image: &Image) -> (Shelf, Value) {
    let blobs = image.layout().join("blobs/sha256");
    let read = |name: &str| fs::read(blobs.join(name)).expect("a blob of the fixture");
    let index = fs::read(image.layout().join("index.json")).expect("the fixture's index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let manifest = serde_json::from_slice(&read(&digest[7..])).expect("a manifest");
    let mut shelf = Shelf::default();
    for entry in fs::read_dir(&blobs).expect("the blobs").flatten() {
        let name = entry.file_name().into_string().expect("a digest");
        shelf.blobs.insert(format!("sha256:{name}"), read(&name));
    }
    shelf.manifest("1", OCI_MANIFEST, &manifest);
    (shelf, manifest)
}

fn large(request: &Request, manifest: &Value) -> bool {
    let digest = manifest["layers"][1]["digest"].as_str().expect("a digest");
    request.target.ends_with(digest)
}

/// A registry that keeps the end of the large layer back until the gate is open.
fn hesitant(gate: &Arc<AtomicBool>, spoil: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Peer {
    let (shelf, manifest) = shelf(&image());
    let (gate, all) = (Arc::clone(gate), shelf.clone());
    shelf.serve(move |request, _| {
        let mut reply = large(request, &manifest).then(|| all.answer(request))?;
        // Of one that goes on where a killed pull has stopped, all is sent.
        let mut rest = reply.body.split_off(AT_FIRST.min(reply.body.len()));
        spoil(&mut rest);
        reply.later = Some((Arc::clone(&gate), rest));
        Some(reply)
    })
}

fn begin(host: &Host, peer: &Peer) -> Running {
    let line = format!("bocker-pull -q {} | bocker-snap import", peer.image("x:1"));
    host.spawn(&["sh", "-c", &line])
}

/// The names in the store of layers, the unfinished ones' too.
fn names(host: &Host) -> Vec<String> {
    let found = fs::read_dir(host.root().join("layers"))
        .into_iter()
        .flatten();
    let mut names: Vec<_> = found
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits until the large layer has begun to be unpacked, and gives the place of its first file.
fn wait_until_unpacking(host: &Host) -> PathBuf {
    host.wait_for("the upper layer is being unpacked", || {
        let store = host.root().join("layers");
        names(host)
            .iter()
            .map(|name| store.join(name).join("tree/early"))
            .find(|early| early.exists())
    })
}

/// The process of this name that works on this machine of the test's.
fn process(host: &Host, name: &str) -> Pid {
    let root = host.root();
    let found = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .find_map(|entry| {
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let first = words.split(|byte| *byte == 0).next()?;
            let is_it = first.ends_with(name.as_bytes())
                && environment
                    .split(|byte| *byte == 0)
                    .any(|line| line == [b"BOCKER_ROOT=", root.as_os_str().as_bytes()].concat());
            is_it
                .then(|| entry.file_name().to_str()?.parse().ok())
                .flatten()
        });
    Pid::from_raw(found.expect("a process of that name"))
}

#[test]
fn a_layer_is_unpacked_while_its_last_bytes_are_on_their_way_and_seen_when_they_have_come() {
    let host = Host::new();
    let gate = Arc::new(AtomicBool::new(false));
    let peer = hesitant(&gate, |_| {});
    let line = begin(&host, &peer);
    wait_until_unpacking(&host);
    let hidden = names(&host).iter().all(|name| name.starts_with("new-"));
    assert!(hidden, "{:?}", names(&host));
    gate.store(true, Ordering::SeqCst);
    let document = line.wait().ok().json();
    assert_eq!(document["bocker"]["image"]["reference"], peer.image("x:1"));
    assert!(document["bocker"]["image"]["id"].is_string());
    assert_eq!(names(&host).len(), 2);
    let script = "bocker-snap create x:1 > d && cat $(jq -r .root.path d)/late; bocker-snap delete < d > /dev/null";
    let script = script.replace("x:1", &peer.image("x:1"));
    let sum = host.sh(&format!(
        "cd {} && {{ {script}; }} | sha256sum",
        host.scratch().display()
    ));
    let expected = peer::digest(&noise(LARGE));
    assert!(sum.ok().stdout.starts_with(&expected[7..]));
}

#[test]
fn a_pull_that_fails_in_the_end_leaves_no_layer_and_its_error_is_passed_on() {
    let host = Host::new();
    let gate = Arc::new(AtomicBool::new(false));
    let peer = hesitant(&gate, |rest| rest.iter_mut().for_each(|byte| *byte ^= 0xff));
    let line = begin(&host, &peer);
    wait_until_unpacking(&host);
    gate.store(true, Ordering::SeqCst);
    let output = line.wait().exits(125);
    assert_eq!(output.json()["bocker"]["error"]["stage"], "pull");
    assert!(!output.stderr.contains("bocker-snap:"), "{output}");
    assert!(names(&host).is_empty(), "{:?}", names(&host));
}

#[test]
fn a_pull_that_fails_when_all_has_come_leaves_no_layer_either() {
    let host = Host::new();
    let (shelf, _) = shelf(&image());
    let peer = shelf.serve(|_, _| None);
    for fail_at in ["pull.index", "kill:pull.index"] {
        let pull = format!(
            "BOCKER_FAIL_AT={fail_at} bocker-pull -q {}",
            peer.image("x:1")
        );
        host.sh(&format!("{pull} | bocker-snap import")).exits(125);
        assert!(names(&host).is_empty(), "{fail_at}: {:?}", names(&host));
    }
}

#[test]
fn a_pull_that_is_killed_leaves_no_layer_and_the_next_one_succeeds() {
    let host = Host::new();
    let gate = Arc::new(AtomicBool::new(false));
    let peer = hesitant(&gate, |_| {});
    let line = begin(&host, &peer);
    wait_until_unpacking(&host);
    nix::sys::signal::kill(process(&host, "bocker-pull"), Signal::SIGKILL).unwrap();
    line.wait().exits(125).says("ended without a document");
    assert!(names(&host).is_empty(), "{:?}", names(&host));
    gate.store(true, Ordering::SeqCst);
    begin(&host, &peer).wait().ok();
    assert_eq!(names(&host).len(), 2);
}

#[test]
fn an_import_that_is_killed_takes_the_pull_with_it_and_the_next_one_cleans_up_and_succeeds() {
    let host = Host::new();
    let gate = Arc::new(AtomicBool::new(false));
    let peer = hesitant(&gate, |_| {});
    let line = begin(&host, &peer);
    wait_until_unpacking(&host);
    nix::sys::signal::kill(process(&host, "bocker-snap"), Signal::SIGKILL).unwrap();
    gate.store(true, Ordering::SeqCst);
    line.wait().exits(137).says("Broken pipe");
    assert!(names(&host).iter().all(|name| name.starts_with("new-")));
    begin(&host, &peer).wait().ok();
    assert_eq!(names(&host).len(), 2);
    assert!(names(&host).iter().all(|name| !name.starts_with("new-")));
}

#[test]
fn two_pulls_and_imports_of_one_image_at_once_fetch_and_unpack_it_once() {
    let host = Host::new();
    let gate = Arc::new(AtomicBool::new(false));
    let peer = hesitant(&gate, |_| {});
    let lines = [begin(&host, &peer), begin(&host, &peer)];
    wait_until_unpacking(&host);
    gate.store(true, Ordering::SeqCst);
    for line in lines {
        line.wait().ok();
    }
    assert_eq!(names(&host).len(), 2);
    let (_, manifest) = shelf(&image());
    let asked = peer.requests();
    assert_eq!(asked.iter().filter(|r| large(r, &manifest)).count(), 1);
}

#[test]
fn what_another_pull_fetches_is_unpacked_as_it_comes() {
    let host = Host::new();
    let gate = Arc::new(AtomicBool::new(false));
    let peer = hesitant(&gate, |_| {});
    let (_, manifest) = shelf(&image());
    let alone = host.spawn(&["bocker-pull", "-q", &peer.image("x:1")]);
    host.wait_for("its request", || {
        let asked = peer.requests();
        asked.iter().any(|r| large(r, &manifest)).then_some(())
    });
    let line = begin(&host, &peer);
    wait_until_unpacking(&host);
    gate.store(true, Ordering::SeqCst);
    alone.wait().ok();
    line.wait().ok();
    assert_eq!(names(&host).len(), 2);
    let asked = peer.requests();
    assert_eq!(asked.iter().filter(|r| large(r, &manifest)).count(), 1);
}

#[test]
fn a_layer_with_another_diff_id_is_refused_and_no_layer_is_left() {
    let host = Host::new();
    let (mut shelf, mut manifest) = shelf(&image());
    let config = manifest["config"]["digest"].as_str().expect("a digest");
    let mut config: Value = serde_json::from_slice(&shelf.blobs[config]).expect("JSON");
    config["rootfs"]["diff_ids"][1] = json!(peer::digest(b"another"));
    let media_type = manifest["config"]["mediaType"]
        .as_str()
        .expect("text")
        .to_owned();
    manifest["config"] = shelf.blob(&media_type, config.to_string().into_bytes());
    shelf.manifest("1", OCI_MANIFEST, &manifest);
    let peer = shelf.serve(|_, _| None);
    let output = begin(&host, &peer).wait().exits(125).says("its diff id is");
    assert_eq!(output.json()["bocker"]["error"]["stage"], "snap");
    assert!(names(&host).is_empty(), "{:?}", names(&host));
}

#[test]
fn what_a_pull_has_written_to_a_file_is_imported_later() {
    let host = Host::new();
    let (shelf, _) = shelf(&image());
    let peer = shelf.serve(|_, _| None);
    let file = host.scratch().join("written");
    let file = file.display();
    host.sh(&format!("bocker-pull -q {} > {file}", peer.image("x:1")))
        .ok();
    drop(peer);
    let text = fs::read_to_string(file.to_string()).expect("what was written");
    assert!(
        text.starts_with(r#"{"pull":{"manifest":"sha256:"#),
        "{text}"
    );
    host.sh(&format!("bocker-snap import < {file}")).ok();
    assert_eq!(names(&host).len(), 2);
    // Stages that know nothing of the lines pass over them.
    let create = format!("bocker-snap create - < {file} | bocker-snap delete");
    assert!(host.sh(&create).ok().json()["bocker"]["image"].is_object());
}

#[test]
fn lines_that_lie_harm_nobody() {
    let host = Host::new();
    for line in [
        r#"{"pull":{"manifest":"../../../../etc/passwd"}}"#,
        r#"{"pull":{"manifest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}"#,
    ] {
        let output = host
            .call(&["bocker-snap", "import"])
            .stdin(format!("{line}\n{{}}"));
        let output = output.run().exits(125);
        assert_eq!(output.json()["bocker"]["error"]["stage"], "snap");
    }
    assert!(names(&host).is_empty(), "{:?}", names(&host));
}
