//! Images as archives: what `save` writes, all the peers read; what they write, `load` reads; and what an archive may be that
//! somebody made who means no good.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bocker_tests::{Docker, Host, Image, Output, assert_same_tree, need, tree};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NAME: &str = "docker.io/library/fixture:1";

/// What a container of the image sees.
fn seen(host: &Host, image: &str) -> std::collections::BTreeMap<Vec<u8>, String> {
    let document = host.run(&["bocker-snap", "create", image]).ok();
    let root: PathBuf = document.json()["root"]["path"]
        .as_str()
        .expect("a root")
        .into();
    let seen = tree(&root);
    host.call(&["bocker-snap", "delete"])
        .stdin(document.stdout)
        .run()
        .ok();
    seen
}

/// The names in the store.
fn names(host: &Host) -> Vec<String> {
    let lines = host.run(&["bocker-pull", "list"]).ok().json_lines();
    let mut names: Vec<String> = lines
        .iter()
        .map(|line| line["source"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names
}

/// Removes all images, and what was unpacked of them.
fn clear(host: &Host) {
    for line in host.run(&["bocker-pull", "list"]).ok().json_lines() {
        host.run(&[
            "bocker-pull",
            "rmi",
            "-f",
            line["id"].as_str().expect("an id"),
        ]);
    }
    host.run(&["bocker-snap", "gc", "--layers", "--grace", "0"])
        .ok();
    for folder in ["images/blobs/sha256", "images/ingest", "layers"] {
        let left = fs::read_dir(host.root().join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{folder}");
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn podman(host: &Host, words: &[&str]) -> Output {
    let folder = host.scratch().join("podman");
    let [root, run] = ["root", "run"].map(|name| text(&folder.join(name)));
    let options = [
        "podman",
        "--root",
        &root,
        "--runroot",
        &run,
        "--storage-driver",
        "vfs",
    ];
    host.call(&[&options, words].concat())
        .timeout(Duration::from_secs(60))
        .run()
}

#[test]
fn what_is_saved_podman_and_skopeo_read_and_what_they_write_is_loaded() {
    if !need("skopeo podman") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let whole = seen(&host, "fixture:1");
    let digest = host.run(&["bocker-pull", "list"]).ok().json()["digest"].clone();
    host.run(&[
        "bocker-pull",
        "tag",
        "fixture:1",
        "localhost:5000/team/app:2",
    ])
    .ok();
    let scratch = host.scratch();
    let path = |name: &str| text(&scratch.join(name));
    let archive = path("saved.tar");
    host.run(&[
        "bocker-pull",
        "save",
        "-o",
        &archive,
        "fixture:1",
        "localhost:5000/team/app:2",
    ])
    .ok();

    let skopeo = |from: &str, to: &str| {
        host.run(&["skopeo", "copy", "--quiet", "--insecure-policy", from, to])
            .ok();
    };
    skopeo(
        &format!("oci-archive:{archive}:{NAME}"),
        &format!("oci-archive:{}:{NAME}", path("oci.tar")),
    );
    skopeo(
        &format!("docker-archive:{archive}:fixture:1"),
        &format!("docker-archive:{}:fixture:1", path("docker.tar")),
    );
    skopeo(
        &format!("oci-archive:{archive}:{NAME}"),
        &format!("oci:{}:{NAME}", path("folder")),
    );
    podman(&host, &["load", "-q", "-i", &archive]).ok();
    let listed = podman(&host, &["images", "--format", "{{.Repository}}:{{.Tag}}"]).text();
    assert_eq!(
        listed.lines().collect::<std::collections::BTreeSet<_>>(),
        [NAME, "localhost:5000/team/app:2"].into()
    );
    podman(&host, &["save", "-q", "-o", &path("podman.tar"), NAME]).ok();

    clear(&host);
    // The one that bocker wrote keeps what it was; the others may have packed it anew.
    host.run(&["bocker-pull", "load", "-i", &archive]).ok();
    assert_eq!(names(&host), ["fixture:1", "localhost:5000/team/app:2"]);
    assert_eq!(
        host.run(&["bocker-pull", "list", "fixture:1"]).ok().json()["digest"],
        digest
    );
    assert_same_tree(&seen(&host, "localhost:5000/team/app:2"), &whole);
    for name in ["oci.tar", "docker.tar", "folder", "podman.tar"] {
        clear(&host);
        let loaded = host.run(&["bocker-pull", "load", "-i", &path(name)]).ok();
        assert_eq!(loaded.json()["source"], "fixture:1", "{name}");
        assert_same_tree(&seen(&host, "fixture:1"), &whole);
    }
}

#[test]
fn what_is_saved_docker_and_containerd_read_and_what_they_write_is_loaded() {
    if !need("skopeo dockerd docker ctr") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let whole = seen(&host, "fixture:1");
    let path = |name: &str| text(&host.scratch().join(name));
    let archive = path("saved.tar");
    host.run(&["bocker-pull", "save", "-o", &archive, "fixture:1"])
        .ok();
    let docker = Docker::start(
        &host,
        &["--bridge=none", "--iptables=false", "--ip6tables=false"],
    );
    assert_eq!(
        docker.run(&["load", "-i", &archive]).text(),
        "Loaded image: fixture:1\n"
    );
    let saved = path("docker.tar");
    docker.run(&["save", "-o", &saved, "fixture:1"]).ok();
    docker.ctr(&["image", "import", &archive]).ok();
    docker
        .ctr(&["image", "export", &path("ctr.tar"), NAME])
        .ok();
    docker.stop();
    for name in ["docker.tar", "ctr.tar"] {
        clear(&host);
        let loaded = host.run(&["bocker-pull", "load", "-i", &path(name)]).ok();
        assert_eq!(loaded.json()["source"], "fixture:1", "{name}");
        assert_same_tree(&seen(&host, "fixture:1"), &whole);
    }
}

#[test]
fn the_same_images_give_the_same_bytes_and_compressed_and_through_pipes_they_are_the_same() {
    if !need("skopeo gzip zstd xz bzip2") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    host.run(&["bocker-pull", "tag", "fixture:1", "other:2"])
        .ok();
    let archive = text(&host.scratch().join("saved.tar"));
    host.run(&[
        "bocker-pull",
        "save",
        "-o",
        &archive,
        "fixture:1",
        "other:2",
    ])
    .ok();
    host.sh(&format!(
        "bocker-pull save other:2 fixture:1 other:2 | cmp - {archive}"
    ))
    .ok();
    host.sh(&format!(
        "gzip -k {archive} && zstd -q {archive} && xz -9k {archive} && bzip2 -k {archive}"
    ))
    .ok();
    for (line, code) in [
        (format!("bocker-pull load < {archive}.gz"), 0),
        (format!("cat {archive} | bocker-pull load"), 0),
        (format!("bocker-pull load --input {archive}.zst"), 0),
        (format!("bocker-pull load --input {archive}.xz"), 0),
        (format!("bocker-pull load < {archive}.bz2"), 0),
        (
            format!("bocker-pull load -i {archive} && bocker-pull load -i {archive}"),
            0,
        ),
        (format!("head -c 3000 {archive}.gz | bocker-pull load"), 125),
        (format!("head -c 3000 {archive}.xz | bocker-pull load"), 125),
    ] {
        clear(&host);
        host.sh(&line).exits(code);
        let expected: &[&str] = if code == 0 {
            &["fixture:1", "other:2"]
        } else {
            &[]
        };
        assert_eq!(names(&host), expected, "{line}");
    }
    clear(&host);
    // Without a name, as docker does it, what is named by its id or digest.
    host.sh(&format!("bocker-pull load -i {archive} > /dev/null"))
        .ok();
    let digest = host.run(&["bocker-pull", "list", "other:2"]).ok().json()["digest"].clone();
    host.run(&[
        "bocker-pull",
        "save",
        "-o",
        &archive,
        digest.as_str().expect("a digest"),
    ])
    .ok();
    clear(&host);
    let loaded = host
        .run(&["bocker-pull", "load", "-i", &archive])
        .ok()
        .json();
    assert_eq!(
        (&loaded["reference"], &loaded["digest"]),
        (&Value::Null, &digest)
    );
}

#[test]
fn a_save_that_fails_leaves_what_was_there_and_nothing_of_its_own() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let folder = host.scratch().join("out");
    fs::create_dir(&folder).expect("a folder");
    let file = folder.join("saved.tar");
    fs::write(&file, "what was there").expect("a file");
    let blobs = host.root().join("images/blobs/sha256");
    let layer = fs::read_dir(&blobs)
        .expect("blobs")
        .flatten()
        .max_by_key(|blob| blob.metadata().expect("a blob").len());
    let layer = layer.expect("a layer").path();
    let mut bytes = fs::read(&layer).expect("a layer");
    bytes[100] ^= 1;
    fs::write(&layer, bytes).expect("a damaged layer");
    let save = ["bocker-pull", "save", "-o", &text(&file), "fixture:1"];
    let failed = host.run(&save).exits(125).says("is damaged");
    assert_eq!(failed.stderr.lines().count(), 1, "{failed}");
    host.call(&save)
        .env("BOCKER_FAIL_AT", "pull.archive")
        .run()
        .exits(125);
    for words in [&["nope"][..], &[], &["--nope", "fixture:1"]] {
        host.run(&[&["bocker-pull", "save", "-o", &text(&file)], words].concat())
            .exits(125);
    }
    assert_eq!(
        fs::read_to_string(&file).expect("the file"),
        "what was there"
    );
    assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 1);
    host.sh("script -qec 'bocker-pull save fixture:1' /dev/null")
        .exits(125);
}

/// A tar archive, entry by entry.
struct Archive(tar::Builder<Vec<u8>>);

impl Default for Archive {
    fn default() -> Self {
        Archive(tar::Builder::new(Vec::new()))
    }
}

impl Archive {
    fn file(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.as_ref().len() as u64);
        header.set_mode(0o644);
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        self.0.append(&header, bytes.as_ref()).expect("an entry");
        self
    }

    fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &[][..]).expect("an entry");
        self
    }

    fn blob(self, bytes: &[u8]) -> Self {
        self.file(&format!("blobs/sha256/{}", hex(bytes)), bytes)
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("an archive")
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()})
}

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer of one file, as it is in an image that is not compressed.
fn layer() -> Vec<u8> {
    Archive::default().file("file", "from the layer").finish()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("sha256:{}", hex(layer)))
        .collect();
    bytes(
        &json!({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}),
    )
}

/// Docker's of before 1.25: a folder for each layer, where one that another image has too is a link to it.
fn old_archive(link: tar::EntryType, target: &str) -> Vec<u8> {
    let layer = layer();
    let config = config(&[&layer, &layer]);
    let name = format!("{}.json", hex(&config));
    let saved = json!([{"Config": name, "RepoTags": ["old:1", "old:2"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    Archive::default()
        .file(&name, &config)
        .file("a/VERSION", "1.0")
        .file("a/json", "{}")
        .file("a/layer.tar", &layer)
        .link(link, "b/layer.tar", target)
        .file("manifest.json", bytes(&saved))
        .file("repositories", "{}")
        .finish()
}

#[test]
fn an_archive_of_an_old_docker_whose_layers_are_links_is_loaded() {
    let host = Host::new();
    let file = host.scratch().join("old.tar");
    for (link, target) in [
        (tar::EntryType::Symlink, "../a/layer.tar"),
        (tar::EntryType::Link, "a/layer.tar"),
    ] {
        fs::write(&file, old_archive(link, target)).expect("an archive");
        host.run(&["bocker-pull", "load", "-i", &text(&file)]).ok();
        assert_eq!(names(&host), ["old:1", "old:2"]);
        assert!(seen(&host, "old:2").contains_key(&b"file"[..]));
        clear(&host);
    }
}

#[test]
fn an_archive_that_lies_is_one_clear_error_and_leaves_nothing() {
    let host = Host::new();
    let layer = layer();
    let config = config(&[&layer]);
    let manifest = bytes(&json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)]}));
    let index = |manifest: &Value| bytes(&json!({"schemaVersion": 2, "manifests": [manifest]}));
    let good = descriptor(MANIFEST, &manifest);
    let whole = || {
        Archive::default()
            .file("oci-layout", LAYOUT)
            .blob(&config)
            .blob(&layer)
            .blob(&manifest)
    };
    // Each of the following is this one, but for one thing.
    let file = host.scratch().join("archive.tar");
    let load = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("an archive");
        host.run(&["bocker-pull", "load", "-i", &text(&file)])
    };
    load(&whole().file("index.json", index(&good)).finish()).ok();
    clear(&host);
    let before = host.fingerprint();

    let with = |key: &str, value: Value| {
        let mut entry = good.clone();
        entry[key] = value;
        index(&entry)
    };
    let manifest_with = |key: &str, value: Value| {
        let mut other: Value = serde_json::from_slice(&manifest).expect("a manifest");
        other[key] = value;
        let other = bytes(&other);
        whole()
            .blob(&other)
            .file("index.json", index(&descriptor(MANIFEST, &other)))
    };
    let saved = |config: &str, layers: &[&str]| {
        bytes(&json!([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]))
    };
    let legacy = || {
        Archive::default()
            .file("c.json", &config)
            .file("a/layer.tar", &layer)
    };
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let mut header = tar::Header::new_gnu();
        fs::write(&file, "").expect("a file");
        header.set_path("blobs/sha256/bomb.tar").expect("a path");
        header.set_size(1 << 50);
        header.set_cksum();
        encoder.write_all(header.as_bytes()).expect("a header");
        encoder.write_all(&vec![0; 64 << 20]).expect("zeros");
        encoder.finish().expect("a bomb")
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "holds no images",
            Archive::default().file("file", "x").finish(),
        ),
        (
            "holds no image",
            whole()
                .file("index.json", r#"{"schemaVersion":2,"manifests":[]}"#)
                .finish(),
        ),
        ("the archive is malformed", vec![b'x'; 2048]),
        (
            "docker before 1.10",
            Archive::default().file("repositories", "{}").finish(),
        ),
        (
            "another version",
            Archive::default()
                .file("oci-layout", r#"{"imageLayoutVersion":"2"}"#)
                .file("index.json", "{}")
                .finish(),
        ),
        (
            "index.json of the archive cannot be read",
            whole().file("index.json", "{").finish(),
        ),
        (
            "lacks the blob",
            Archive::default()
                .blob(&manifest)
                .blob(&config)
                .file("index.json", index(&good))
                .finish(),
        ),
        (
            "lacks the blob",
            whole()
                .file(
                    "index.json",
                    with("digest", json!(format!("sha256:{}", "0".repeat(64)))),
                )
                .finish(),
        ),
        (
            "lacks the blob",
            whole().file("index.json", with("size", json!(3))).finish(),
        ),
        (
            "contradicts itself",
            whole()
                .file("index.json", with("mediaType", json!("text/plain")))
                .finish(),
        ),
        (
            "contradicts itself",
            manifest_with("manifests", json!([])).finish(),
        ),
        (
            "contradicts itself",
            manifest_with(
                "mediaType",
                json!("application/vnd.oci.image.index.v1+json"),
            )
            .finish(),
        ),
        (
            "knows 1 layers of 0",
            manifest_with("layers", json!([])).finish(),
        ),
        (
            "cannot be read",
            manifest_with(
                "config",
                json!({"digest": "sha256:../../../etc/shadow", "size": 1}),
            )
            .finish(),
        ),
        (
            "is not what it is called",
            whole()
                .file(&format!("blobs/sha256/{}", "0".repeat(64)), "x")
                .file("index.json", index(&good))
                .finish(),
        ),
        (
            "leads out of the archive",
            whole()
                .file("../x.tar", "x")
                .file("index.json", index(&good))
                .finish(),
        ),
        (
            "lacks its file 'a/b.tar'",
            legacy()
                .file("manifest.json", saved("c.json", &["a/b.tar"]))
                .finish(),
        ),
        (
            "leads out of the archive",
            legacy()
                .file("manifest.json", saved("../c.json", &["a/layer.tar"]))
                .finish(),
        ),
        (
            "leads out of the archive",
            old_archive(tar::EntryType::Symlink, "../../../../etc/passwd"),
        ),
        (
            "lacks its file",
            old_archive(tar::EntryType::Symlink, "/etc/passwd"),
        ),
        (
            "too many links",
            old_archive(tar::EntryType::Symlink, "layer.tar"),
        ),
        (
            "knows 1 layers of 2",
            legacy()
                .file(
                    "manifest.json",
                    saved("c.json", &["a/layer.tar", "a/layer.tar"]),
                )
                .finish(),
        ),
        (
            "is not what its image's configuration says",
            legacy()
                .file("b.tar", "x")
                .file("manifest.json", saved("c.json", &["b.tar"]))
                .finish(),
        ),
        (
            "cannot be read",
            legacy()
                .file("d.json", "[]")
                .file("manifest.json", saved("d.json", &["a/layer.tar"]))
                .finish(),
        ),
        (
            "twice",
            legacy()
                .file("a/layer.tar", "another")
                .file("manifest.json", saved("c.json", &["a/layer.tar"]))
                .finish(),
        ),
        (
            "twice",
            whole()
                .file("index.json", index(&good))
                .file("index.json", index(&good))
                .finish(),
        ),
        ("are free", bomb),
        ("cut short", {
            let mut archive = whole().file("index.json", index(&good)).finish();
            archive.truncate(3 * 512 + 100);
            archive
        }),
    ];
    for (message, archive) in cases {
        let failed = load(&archive).exits(125).says(message);
        assert_eq!(failed.stderr.lines().count(), 1, "{failed}");
        assert!(failed.stdout.is_empty(), "{failed}");
        // At once, and in the end exactly: pictures of the whole machine take their time.
        for folder in ["images/blobs/sha256", "images/ingest"] {
            let left = fs::read_dir(host.root().join(folder))
                .expect(folder)
                .count();
            assert_eq!(left, 0, "{folder}: {failed}");
        }
    }
    host.assert_same(&before);
}

#[test]
fn a_folder_is_loaded_without_following_its_links() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let (folder, secret) = (host.scratch().join("layout"), host.scratch().join("secret"));
    let from = Image::simple().layout().display().to_string();
    host.run(&["cp", "-a", &from, &text(&folder)]).ok();
    host.run(&["bocker-pull", "load", "-i", &text(&folder)])
        .ok();
    clear(&host);
    let before = host.fingerprint();
    let blob = fs::read_dir(folder.join("blobs/sha256"))
        .expect("blobs")
        .flatten()
        .next()
        .expect("a blob")
        .path();
    fs::rename(&blob, &secret).expect("a secret");
    std::os::unix::fs::symlink(&secret, &blob).expect("a link");
    let failed = host
        .run(&["bocker-pull", "load", "-i", &text(&folder)])
        .exits(125)
        .says("ELOOP");
    assert_eq!(failed.stderr.lines().count(), 1, "{failed}");
    fs::remove_file(&blob).expect("unlink");
    fs::rename(folder.join("blobs"), host.scratch().join("blobs")).expect("a rename");
    std::os::unix::fs::symlink(host.scratch().join("blobs"), folder.join("blobs")).expect("a link");
    host.run(&["bocker-pull", "load", "-i", &text(&folder)])
        .exits(125)
        .says("ELOOP");
    host.assert_same(&before);
}

#[test]
fn a_save_and_a_load_that_fail_at_a_step_are_taken_back() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let archive = text(&host.scratch().join("saved.tar"));
    host.run(&["bocker-pull", "save", "-o", &archive, "fixture:1"])
        .ok();
    clear(&host);
    let before = host.fingerprint();
    let load = ["bocker-pull", "load", "-i", &archive];
    let shown = host
        .run(&[&load[..], &["--explain", "--dry-run"]].concat())
        .ok();
    let steps = bocker_tests::step_names(&shown.stderr);
    assert_eq!(
        steps,
        [
            "pull.store",
            "pull.archive",
            "pull.manifest",
            "pull.index",
            "pull.blobs"
        ]
    );
    for step in &steps[..4] {
        host.call(&load)
            .env("BOCKER_FAIL_AT", step)
            .run()
            .exits(125);
        host.assert_same(&before);
    }
    host.call(&load)
        .env("BOCKER_FAIL_AT", "pull.blobs")
        .run()
        .exits(125);
    assert_eq!(names(&host), ["fixture:1"]);
}

#[test]
fn what_the_front_end_saves_and_loads_can_be_pasted() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let archive = text(&host.scratch().join("saved.tar"));
    for words in [
        ["save", "-o", &archive, "fixture:1"],
        ["load", "-q", "--input", &archive],
    ] {
        host.run(&[&["bocker", "--dry-run"], &words[..]].concat())
            .ok();
        assert!(
            words[0] == "load" || !Path::new(&archive).exists(),
            "a dry run writes nothing"
        );
        let pasted = host
            .run(&[&["bocker", "--dry-run"], &words[..]].concat())
            .text();
        let said = host.sh(&pasted).text();
        assert_eq!(said.is_empty(), words[0] == "save", "{said}");
        assert_eq!(host.run(&[&["bocker"], &words[..]].concat()).text(), said);
    }
    assert_eq!(
        host.sh(&format!("bocker save fixture:1 | cmp - {archive}"))
            .code,
        0
    );
    let loaded = host.sh("bocker save fixture:1 | bocker load").text();
    assert!(
        loaded.starts_with("Loaded image: fixture:1 (img_"),
        "{loaded}"
    );
}
