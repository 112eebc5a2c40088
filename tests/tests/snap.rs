//! bocker-snap on the kernel: what it unpacks, what it mounts, what it makes of a container, and that it leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use bocker_tests::{
    Host, Image, Layer, Node, Output, Platform, assert_same_tree, is_btrfs, need, root_of, tree,
};
use serde_json::{Value, json};

const NAME: &str = "docker.io/library/fixture:1";

fn layers(layers: Vec<Layer>) -> Image {
    Image::single(&Platform::new(layers, json!({})))
}

fn id(document: &Value) -> &str {
    document["bocker"]["id"].as_str().expect("an id")
}

/// The step that makes a root of layers.
fn root_step() -> &'static str {
    match is_btrfs() {
        true => "snap.snapshot",
        false => "snap.mount",
    }
}

/// Directories of the full image of which a layer tells no time, or whose time umoci does not put back.
fn without_time(name: &[u8]) -> bool {
    name == b"long" || name == ["long/", &"d".repeat(90)].concat().as_bytes()
}

#[test]
fn an_image_with_everything_unpacks_as_umoci_unpacks_it() {
    if !need("skopeo umoci getfattr") {
        return;
    }
    let host = Host::new();
    let image = Image::full();
    host.store(&image, NAME);
    let document = host.create("fixture:1");
    let bundle = host.scratch().join("bundle");
    let source = format!("{}:{NAME}", host.root().join("images").display());
    host.run(&[
        "umoci",
        "unpack",
        "--image",
        &source,
        &bundle.display().to_string(),
    ])
    .ok();
    let mut theirs = tree(&bundle.join("rootfs"));
    let mut ours = tree(&root_of(&document));
    assert!(ours[&b"usr/bin/capable"[..]].contains("security.capability=0x"));
    assert!(ours[&b"data/noted"[..]].contains("user.note=0x"));
    assert!(ours[&b"data/linked-across"[..]].contains(" 3 data/linked "));
    for tree in [&mut theirs, &mut ours] {
        tree.retain(|name, _| !without_time(name));
    }
    assert_same_tree(&ours, &theirs);
}

#[test]
fn a_layer_that_umoci_has_inserted_without_its_end_is_unpacked() {
    if !need("skopeo umoci") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let file = host.scratch().join("file");
    fs::write(&file, "x".repeat(700)).unwrap();
    let image = format!("{}:{NAME}", host.root().join("images").display());
    let file = file.display().to_string();
    host.run(&["umoci", "insert", "--image", &image, &file, "/inserted"])
        .ok();
    let document = host.create("fixture:1");
    let inserted = fs::read_to_string(root_of(&document).join("inserted")).unwrap();
    assert_eq!(inserted, "x".repeat(700));
    host.pass("delete", &document).ok();
}

/// What no peer agrees on, and the specification says.
#[test]
fn whiteouts_hide_lower_layers_only_in_whichever_order_they_come() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let lower = Layer::new()
        .dir("opaque")
        .file("opaque/lower", "x")
        .dir("opaque/both")
        .file("opaque/both/lower", "x")
        .dir("kept")
        .file("kept/lower", "x")
        .file("file", "lower")
        .dir("tree")
        .dir("tree/deep")
        .file("tree/deep/file", "x")
        .symlink("link", "tree")
        .file("one", "linked")
        .file("beside", "x");
    let upper = Layer::new()
        .file("opaque/upper", "y")
        .file("opaque/both/upper", "y")
        .opaque("opaque")
        .file("kept/upper", "y")
        .whiteout("kept")
        .whiteout("file")
        .file("file", "upper")
        .whiteout("link/deep")
        .hardlink("two", "one")
        .whiteout("one")
        .whiteout("never/was/there")
        .whiteout("beside");
    host.store(&layers(vec![lower, upper]), NAME);
    let root = root_of(&host.create("fixture:1"));
    let names: Vec<String> = tree(&root)
        .keys()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    let expected = [
        "file",
        "kept",
        "kept/upper",
        "link",
        "opaque",
        "opaque/both",
        "opaque/both/upper",
        "opaque/upper",
        "tree",
        "two",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "upper");
    assert_eq!(fs::read_to_string(root.join("two")).unwrap(), "linked");
}

#[test]
fn paths_lead_through_links_of_lower_layers_and_never_out_of_the_root() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let outside = host.scratch().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "the host's").unwrap();
    let target = outside.display().to_string();
    let up = "../".repeat(20) + target.trim_start_matches('/');
    let lower = Layer::new()
        .dir("usr")
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/usr/lib")
        .symlink("out", &target)
        .symlink("up", &up)
        .symlink("dangling", "not/there/yet")
        .symlink("file", &format!("{target}/secret"));
    let upper = Layer::new()
        .file("lib/a", "a")
        .file("absolute/b", "b")
        .file("dangling/c", "c")
        .file("out/planted", "x")
        .file("up/planted", "x")
        .file("file", "replaces the link")
        .symlink("early", &target)
        .file("early/planted", "x")
        .dir("early/planted-too")
        .whiteout("out/secret")
        .opaque("up")
        .dir("turned")
        .file("turned/x", "x");
    let third = Layer::new()
        .symlink("turned", &target)
        .file("turned/planted", "x");
    host.store(&layers(vec![lower, upper, third]), NAME);
    let before = tree(&outside);
    let root = root_of(&host.create("fixture:1"));
    assert_same_tree(&tree(&outside), &before);
    assert_eq!(fs::read_to_string(root.join("usr/lib/a")).unwrap(), "a");
    assert_eq!(fs::read_to_string(root.join("usr/lib/b")).unwrap(), "b");
    assert_eq!(
        fs::read_to_string(root.join("not/there/yet/c")).unwrap(),
        "c"
    );
    assert_eq!(
        fs::read_to_string(root.join("file")).unwrap(),
        "replaces the link"
    );
    let inside = root.join(target.trim_start_matches('/'));
    assert!(
        inside.join("planted").is_file(),
        "the root is the container's, for links too"
    );
}

#[test]
fn a_layer_that_would_leave_the_root_or_lies_is_refused_and_leaves_nothing() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let secret = host.scratch().join("secret");
    fs::write(&secret, "the host's").unwrap();
    let secret_path = secret.display().to_string();
    let plain = || Layer::new().dir("a");
    for (bad, message) in [
        (Layer::new().file("../outside", "x"), "'../outside'"),
        (
            Layer::new().file("a/../../outside", "x"),
            "'a/../../outside'",
        ),
        (Layer::new().hardlink("stolen", &secret_path), "hard link"),
        (
            Layer::new().hardlink("stolen", &format!("..{secret_path}")),
            "'..'",
        ),
        (
            Layer::new()
                .symlink("link", &secret_path)
                .hardlink("stolen", "link/x"),
            "hard link",
        ),
        (Layer::new().symlink("./", "/"), "replaces the root"),
        (Layer::new().file("a", "").file("a/.wh.", ""), "reserved"),
        (Layer::new().file(".wh.x/y", ""), "reserved"),
    ] {
        let image = layers(vec![plain(), bad]);
        let name = "docker.io/library/bad:1";
        host.store(&image, name);
        let output = host.run(&["bocker-snap", "import", "bad:1"]).exits(125);
        assert!(
            output.stderr.contains(message)
                || message == "'..'" && output.stderr.contains("names '"),
            "{}: {message}",
            output.stderr
        );
        let left: Vec<_> = fs::read_dir(host.root().join("layers"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            left.is_empty(),
            "not even the lower layer is there: {left:?}"
        );
        host.sh("bocker-pull rmi bad:1 && bocker-snap gc --layers --grace 0")
            .ok();
    }
    assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's");
}

#[test]
fn a_hard_link_to_a_symbolic_link_is_another_link_and_not_its_target() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let lower = Layer::new().symlink("etc-passwd", "/etc/passwd");
    host.store(
        &layers(vec![lower, Layer::new().hardlink("copy", "/etc-passwd")]),
        NAME,
    );
    let root = root_of(&host.create("fixture:1"));
    assert_eq!(
        fs::read_link(root.join("copy")).unwrap(),
        Path::new("/etc/passwd")
    );
}

#[test]
fn a_blob_that_was_changed_in_the_store_is_not_unpacked() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let manifest = host.run(&["bocker-pull", "list"]).ok().json()["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let blobs = host.root().join("images/blobs/sha256");
    let manifest: Value =
        serde_json::from_slice(&fs::read(blobs.join(&manifest[7..])).unwrap()).unwrap();
    let layer = blobs.join(&manifest["layers"][0]["digest"].as_str().unwrap()[7..]);
    let good = fs::read(&layer).unwrap();
    for change in [
        |bytes: &mut Vec<u8>| {
            let end = bytes.len() - 20;
            bytes[end] ^= 1
        },
        |bytes: &mut Vec<u8>| bytes.push(0),
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2),
    ] {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&layer, &bytes).unwrap();
        host.run(&["bocker-snap", "import", "fixture:1"]).exits(125);
        assert_eq!(fs::read_dir(host.root().join("layers")).unwrap().count(), 0);
    }
    fs::write(&layer, &good).unwrap();
    host.run(&["bocker-snap", "import", "fixture:1"]).ok();
}

#[test]
fn imports_at_once_unpack_each_layer_once_and_all_succeed() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let running: Vec<_> = (0..8)
        .map(|_| host.spawn(&["bocker-snap", "create", "fixture:1"]))
        .collect();
    let documents: Vec<Value> = running
        .into_iter()
        .map(|running| running.wait().ok().json())
        .collect();
    assert_eq!(fs::read_dir(host.root().join("layers")).unwrap().count(), 4);
    let first = tree(&root_of(&documents[0]));
    for document in &documents {
        assert_same_tree(&tree(&root_of(document)), &first);
        host.pass("delete", document).ok();
    }
}

#[test]
fn a_killed_import_is_taken_up_by_the_next_and_collected_by_gc() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let layers = host.root().join("layers");
    fs::create_dir_all(&layers).unwrap();
    let is_unfinished = || {
        fs::read_dir(&layers)
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().as_bytes().starts_with(b"new-"))
    };
    let mut seen = false;
    for round in 0..40 {
        let mut running = host.spawn(&["bocker-snap", "import", "fixture:1"]);
        while !running.has_ended() && !is_unfinished() {
            std::thread::yield_now();
        }
        // As it begins a layer, and then later each time.
        std::thread::sleep(std::time::Duration::from_micros(100 * round));
        running.signal(nix::sys::signal::Signal::SIGKILL);
        running.wait();
        seen |= is_unfinished();
    }
    assert!(seen, "no kill ever met an import");
    host.run(&["bocker-snap", "import", "fixture:1"]).ok();
    let names: Vec<_> = fs::read_dir(&layers)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    fs::create_dir(layers.join(format!("new-{}", "0".repeat(64)))).unwrap();
    host.run(&["bocker-snap", "gc", "--grace", "0"])
        .ok()
        .says("");
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 4);
}

#[test]
fn a_failure_or_kill_at_each_step_leaves_nothing_after_gc() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let create = "bocker-snap create --name web --volume data:/data";
    let script = |options: &str| format!("{create} {options}");
    host.sh(&format!("{create} fixture:1 | bocker-snap delete"))
        .ok();
    host.sh(&format!("{create} --rootfs / | bocker-snap delete"))
        .ok();
    host.sh("bocker-snap volume rm data && bocker-snap gc").ok();
    let before = host.fingerprint();
    for options in ["fixture:1", "--rootfs /"] {
        let steps: &[&str] = match options {
            "fixture:1" => &[root_step()],
            // On a filesystem of its own, nothing of BOCKER_ROOT is seen in the view.
            _ if is_btrfs() => &["snap.mount"],
            _ => &["snap.cover", "snap.mount"],
        };
        let first = ["snap.claim", "snap.folder", "snap.name", "snap.volume"];
        for step in first.iter().chain(steps) {
            let output = host
                .call(&["sh", "-c", &script(options)])
                .env("BOCKER_FAIL_AT", *step)
                .run()
                .exits(125);
            assert_eq!(
                output.json()["bocker"]["error"]["kind"],
                "injected",
                "{step}"
            );
            host.assert_same(&before);
            host.call(&["sh", "-c", &script(options)])
                .env("BOCKER_FAIL_AT", format!("kill:{step}"))
                .run()
                .exits(137);
            host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
            host.run(&["bocker-snap", "volume", "rm", "-f", "data"])
                .ok();
            host.assert_same(&before);
        }
    }
}

#[test]
fn a_deletion_that_is_killed_at_each_step_is_finished_by_the_next() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let options = format!("--name web --rootfs {rootfs}");
    let first = host.create(&options);
    host.pass("delete", &first).ok();
    let before = host.fingerprint();
    for step in ["snap.mount", "snap.folder", "snap.name", "snap.claim"] {
        let document = host.create(&options);
        host.call(&["bocker-snap", "delete"])
            .env("BOCKER_FAIL_AT", format!("kill:{step}"))
            .stdin(document.to_string())
            .run()
            .exits(137);
        let output = host.pass("delete", &document).ok();
        assert!(output.json()["bocker"].get("snap").is_none());
        host.assert_same(&before);
    }
}

#[test]
fn a_view_of_the_hosts_root_writes_nothing_to_it_and_shows_neither_bocker_nor_other_mounts() {
    let host = Host::new();
    let document = host.create("--rootfs /");
    let root = root_of(&document);
    let ours = host.root();
    let covered = root.join(ours.strip_prefix("/").unwrap());
    assert_eq!(
        fs::read_dir(&covered).unwrap().count(),
        0,
        "BOCKER_ROOT is covered"
    );
    assert!(ours.join("containers").is_dir());
    assert_eq!(
        fs::read_dir(root.join("proc")).unwrap().count(),
        0,
        "submounts are not seen"
    );
    assert_eq!(
        fs::metadata(root.join("var")).unwrap().mode(),
        fs::metadata("/var").unwrap().mode(),
        "what had to be made on the way to a cover is as below"
    );
    fs::write(root.join("etc/written-by-a-test"), "x").unwrap();
    fs::remove_file(root.join("etc/passwd")).unwrap();
    assert!(Path::new("/etc/passwd").exists() && !Path::new("/etc/written-by-a-test").exists());
    host.pass("delete", &document).ok();
}

#[test]
fn a_view_of_a_bind_mount_of_the_hosts_root_is_covered_too() {
    let host = Host::new();
    let view = host.scratch().join("view");
    fs::create_dir(&view).unwrap();
    host.run(&["mount", "--bind", "/", &view.display().to_string()])
        .ok();
    let document = host.create(&format!("--rootfs {}", view.display()));
    let covered = root_of(&document).join(host.root().strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(&covered).unwrap().count(), 0);
    host.pass("delete", &document).ok();
    if is_btrfs() {
        // It is another filesystem than the one that is seen.
        return;
    }
    let inside = view.join(host.root().strip_prefix("/").unwrap());
    host.sh(&format!("bocker-snap create --rootfs {}", inside.display()))
        .exits(125)
        .says("belongs to bocker");
    host.run(&["umount", &view.display().to_string()]).ok();
}

#[test]
fn device_files_of_an_image_cannot_be_opened_through_the_root() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(
        &layers(vec![Layer::new().node("null", 0o666, Node::Char(1, 3))]),
        NAME,
    );
    let document = host.create("fixture:1");
    let device = root_of(&document).join("null");
    assert!(
        fs::symlink_metadata(&device)
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_eq!(
        fs::read(&device).unwrap_err().raw_os_error(),
        Some(nix::libc::EACCES)
    );
}

#[test]
fn the_root_directory_has_the_attributes_that_the_topmost_layer_to_name_it_gives() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let named = Layer::new()
        .node("./", 0o711, Node::Dir)
        .owner(7, 8)
        .file("a", "");
    host.store(&layers(vec![named, Layer::new().file("b", "")]), NAME);
    let data = fs::metadata(root_of(&host.create("fixture:1"))).unwrap();
    assert_eq!(
        (data.mode() & 0o7777, data.uid(), data.gid()),
        (0o711, 7, 8)
    );
}

#[test]
fn the_callers_umask_is_not_the_containers() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(
        &layers(vec![
            Layer::new().file("implied/file", "x"),
            Layer::new().file("also/implied", "x"),
        ]),
        NAME,
    );
    let document = host
        .sh("umask 077; bocker-snap create fixture:1 --volume new:/data")
        .ok()
        .json();
    let root = root_of(&document);
    let volume = host.root().join("volumes/new/data");
    for path in [&root, &root.join("implied"), &root.join("also"), &volume] {
        assert_eq!(
            fs::metadata(path).unwrap().mode() & 0o7777,
            0o755,
            "{}",
            path.display()
        );
    }
}

#[test]
fn an_image_without_layers_and_one_with_an_empty_layer_make_empty_roots() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&layers(vec![]), "docker.io/library/none:1");
    host.store(&layers(vec![Layer::new()]), "docker.io/library/empty:1");
    for name in ["none:1", "empty:1"] {
        let document = host.create(name);
        assert!(tree(&root_of(&document)).is_empty());
        host.pass("delete", &document).ok();
    }
}

#[test]
fn what_a_container_changed_is_all_that_its_commit_adds_and_all_of_it() {
    if !need("skopeo umoci getfattr") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let document = host.create("fixture:1 --name web");
    let root = root_of(&document);
    host.sh(&format!(
        "cd {} && echo new > data/new && ln data/new data/new-too && rm data/hello && rm -r opt && mkdir opt && echo o > opt/o &&
         rm usr/bin/setuid && mkdir usr/bin/setuid && mknod nodes/more c 4 5 && mkfifo nodes/pipe && ln -s /nowhere usr/link &&
         setfattr -n user.k -v v data/noted && chmod 2750 data && chown 5:6 order && touch -h -d 2001-02-03T04:05:06.789 usr/link order &&
         setcap cap_net_admin+ep data/new",
        root.display()
    ))
    .ok();
    let before = host.run(&["bocker-pull", "list"]).ok().json();
    let made = host
        .run(&["bocker-snap", "commit", "web", "fixture:1"])
        .ok()
        .json();
    assert_eq!(made["id"], before["id"], "the image keeps its id");
    assert_eq!(made["replaced"], true);
    let after = host.run(&["bocker-pull", "list"]).ok().json();
    assert_eq!(
        (&after["reference"], &after["layers"]),
        (&before["reference"], &json!(5))
    );
    let second = host.create("fixture:1");
    assert_same_tree(&tree(&self::root_of(&second)), &tree(&root));
    if !is_btrfs() {
        let upper = self::root_of(&second).with_file_name("upper");
        assert_eq!(fs::read_dir(upper).unwrap().count(), 0);
    }

    // A peer reads the same from it.
    let bundle = host.scratch().join("bundle");
    let source = format!("{}:{NAME}", host.root().join("images").display());
    host.run(&[
        "umoci",
        "unpack",
        "--image",
        &source,
        &bundle.display().to_string(),
    ])
    .ok();
    let (ours, theirs) = (tree(&root), tree(&bundle.join("rootfs")));
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>()
    );
    for name in [
        "data/new",
        "data/noted",
        "data",
        "order",
        "usr/link",
        "opt",
        "nodes/more",
        "nodes/pipe",
    ] {
        assert_eq!(
            ours.get(name.as_bytes()),
            theirs.get(name.as_bytes()),
            "{name}"
        );
    }

    // Again, to a new name: the same base, one layer more.
    let made = host
        .run(&["bocker-snap", "commit", "web", "another:2"])
        .ok()
        .json();
    assert_eq!(made["replaced"], false);
    let listed = host.run(&["bocker-pull", "list", "another:2"]).ok().json();
    assert_eq!(listed["layers"], 5);
}

#[test]
fn a_commit_without_the_images_blobs_is_one_layer_of_all_that_the_container_sees() {
    if !need("skopeo getfattr") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let document = host.create("fixture:1 --name web");
    fs::write(root_of(&document).join("data/new"), "x").unwrap();
    host.run(&["bocker-pull", "rmi", "fixture:1"]).ok();
    for mounted in [true, false] {
        let seen = tree(&root_of(&document));
        if !mounted {
            host.pass("unmount", &document).ok();
        }
        host.run(&["bocker-snap", "commit", "web", "flat:1"]).ok();
        assert_eq!(
            host.run(&["bocker-pull", "list", "flat:1"]).ok().json()["layers"],
            1
        );
        if mounted {
            let flat = host.create("flat:1");
            assert_same_tree(&tree(&root_of(&flat)), &seen);
            host.pass("delete", &flat).ok();
        }
    }
}

#[test]
fn an_image_from_a_directory_keeps_all_of_it_and_is_the_same_bytes_again() {
    if !need("getfattr setfattr setcap zstd") {
        return;
    }
    let host = Host::new();
    let source = host.scratch().join("source");
    fs::create_dir(&source).unwrap();
    host.sh(&format!(
        "cd {} && echo x > .hidden && mkdir .dir && echo y > .dir/y && cp /bin/busybox su && chown 3:4 su && chmod 6755 su &&
         ln su su2 && mknod null c 1 3 && mknod loop b 7 0 && mkfifo pipe && ln -s .hidden link && setfattr -n user.a -v b .hidden &&
         echo c > cap && setcap cap_net_raw+ep cap && mkdir 'a b' && chmod 1777 'a b' && touch -d @1.5 .dir && truncate -s 1M hole &&
         touch -d @981173106 .hidden su null loop pipe cap 'a b' hole && touch -h -d @981173106 link",
        source.display()
    ))
    .ok();
    let path = source.display().to_string();
    let first = host
        .run(&["bocker-snap", "init", &path, "--name", "made:1"])
        .ok()
        .json();
    let ours = tree(&root_of(&host.create("made:1")));
    assert_same_tree(&ours, &tree(&source));
    let listed = host.run(&["bocker-pull", "list", "made:1"]).ok().json();
    assert_eq!(
        (&listed["id"], &listed["layers"]),
        (&first["id"], &json!(1))
    );

    // Through a pipe, compressed or not, as docker export and debootstrap write it.
    for compress in ["cat", "gzip", "zstd"] {
        host.sh(&format!(
            "tar -C {path} --xattrs --xattrs-include='*' --sparse -c . | {compress} | bocker-snap init - --name piped:{compress}"
        ))
        .ok();
        let piped = tree(&root_of(&host.create(&format!("piped:{compress}"))));
        // tar's own format keeps whole seconds only.
        let drop_fraction = |tree: BTreeMap<Vec<u8>, String>| -> BTreeMap<Vec<u8>, String> {
            tree.into_iter()
                .map(|(name, line)| (name, line.replace(".500000000", ".000000000")))
                .collect()
        };
        assert_same_tree(&drop_fraction(piped), &drop_fraction(ours.clone()));
    }
}

#[test]
fn an_image_of_a_directory_around_bocker_root_is_without_it_and_without_mounts() {
    let host = Host::new();
    let around = host.root().parent().unwrap().to_owned();
    fs::create_dir_all(host.root().join("containers")).unwrap();
    fs::create_dir_all(around.join("mounted")).unwrap();
    let point = around.join("mounted").display().to_string();
    host.run(&["mount", "-t", "tmpfs", "tmpfs", &point]).ok();
    fs::write(around.join("mounted/file"), "x").unwrap();
    host.run(&[
        "bocker-snap",
        "init",
        &around.display().to_string(),
        "--name",
        "around:1",
    ])
    .ok();
    host.run(&["umount", &point]).ok();
    let root = root_of(&host.create("around:1"));
    for empty in ["mounted", "root"] {
        assert_eq!(
            fs::read_dir(root.join(empty)).unwrap().count(),
            0,
            "{empty}"
        );
    }
    assert!(root.join("tmp").exists());
}

#[test]
fn an_image_is_made_of_an_empty_directory_and_not_of_nothing() {
    let host = Host::new();
    let empty = host.scratch().join("empty");
    fs::create_dir(&empty).unwrap();
    let path = empty.display().to_string();
    let made = host.run(&["bocker-snap", "init", &path]).ok().json();
    let image = host.run(&["bocker-pull", "list"]).ok().json();
    assert_eq!(
        (&image["id"], &image["source"]),
        (&made["id"], &json!(path))
    );
    let document = host.create(made["id"].as_str().unwrap());
    assert!(tree(&root_of(&document)).is_empty());
    host.run(&["bocker-snap", "init", "/nowhere/at/all"])
        .exits(125)
        .says("No directory named '/nowhere/at/all' exists");
    host.run(&["bocker-snap", "init", "-"])
        .exits(125)
        .says("the archive is empty");
    host.call(&["bocker-snap", "init", "-"])
        .stdin("no archive ".repeat(100))
        .run()
        .exits(125)
        .says("malformed");
    let leads_out = Layer::new().hardlink("x", "../y").tar();
    host.call(&["bocker-snap", "init", "-"])
        .stdin(leads_out)
        .run()
        .exits(125)
        .says("a layer names '../y'");
    fs::write(empty.join(".wh.file"), "").unwrap();
    host.run(&["bocker-snap", "init", &path])
        .exits(125)
        .says(".wh.file");
    let count = host.run(&["bocker-pull", "list"]).ok().json_lines().len();
    assert_eq!(count, 1);
    let blobs = fs::read_dir(host.root().join("images/ingest"))
        .unwrap()
        .count();
    assert_eq!(blobs, 0, "a failed init leaves no half of a blob");
}

/// The names of the steps that a line explains.
fn steps_of(host: &Host, line: &str) -> Vec<String> {
    let shown = host.sh(&format!("bocker-snap {line} --explain --dry-run"));
    let names = shown.ok().stderr;
    let name = |line: &str| {
        let (name, _) = line.strip_prefix("# ")?.split_once(": ")?;
        name.starts_with("snap.").then(|| name.to_owned())
    };
    names.lines().filter_map(name).collect()
}

#[test]
fn a_verb_on_images_that_fails_or_is_killed_at_a_step_leaves_the_old_image_or_the_new_one_whole() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let container = || {
        let container = host.create("fixture:1 --name web");
        fs::write(root_of(&container).join("written"), "x").unwrap();
        container
    };
    host.pass("delete", &container()).ok();
    let source = host.busybox_rootfs("rootfs").display().to_string();
    let before = host.images_and_blobs();
    let saved = host.scratch().join("saved").display().to_string();
    host.sh(&format!("cp -a $BOCKER_ROOT/images {saved}")).ok();
    let build = ["store", "layer", "config", "manifest", "index"];
    let (commit, published): (Vec<&str>, &[&str]) = match is_btrfs() {
        true => ([&["store", "snapshot"], &build[1..]].concat(), &["publish"]),
        false => (build.to_vec(), &[]),
    };
    for (line, own) in [
        (
            "commit web fixture:1".to_owned(),
            [&commit[..], published, &["blobs"]].concat(),
        ),
        (
            "commit web new:1".to_owned(),
            [&commit[..], published].concat(),
        ),
        (format!("init {source} --name fixture:1"), build.to_vec()),
        (format!("init {source}"), build.to_vec()),
    ] {
        let web = container();
        let steps = steps_of(&host, &line);
        let own: Vec<String> = own.iter().map(|name| format!("snap.{name}")).collect();
        assert_eq!(steps, own, "{line}");
        host.pass("delete", &web).ok();
        let point = steps.iter().position(|step| step == "snap.index").unwrap();
        for (place, step) in steps.iter().enumerate() {
            for killed in [false, true] {
                let what = format!("{line}: {step}, killed: {killed}");
                let web = container();
                let fail_at = if killed {
                    format!("kill:{step}")
                } else {
                    step.clone()
                };
                host.call(&["sh", "-c", &format!("bocker-snap {line}")])
                    .env("BOCKER_FAIL_AT", fail_at)
                    .run()
                    .exits(if killed { 137 } else { 125 });
                host.pass("delete", &web).ok();
                if killed {
                    host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
                }
                let after = host.images_and_blobs();
                let done = place > point || (place == point && killed);
                assert_eq!(after == before, !done, "{what}: {after:?}");
                let rest = host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
                if !done || killed {
                    assert_eq!(rest.stdout, "", "{what}");
                }
                for image in host.run(&["bocker-pull", "list"]).ok().json_lines() {
                    let made = host.create(image["digest"].as_str().unwrap());
                    host.pass("delete", &made).ok();
                }
                host.sh(&format!("rm -r $BOCKER_ROOT/images && cp -a {saved} $BOCKER_ROOT/images && bocker-snap gc --grace 0"))
                    .ok();
            }
        }
    }
}

#[test]
fn the_commands_that_an_init_prints_make_the_same_files() {
    let host = Host::new();
    let source = host.busybox_rootfs("rootfs").display().to_string();
    let made = host
        .sh(&format!("bocker-snap init {source} --name made:1 -v"))
        .ok();
    let index = fs::read(host.root().join("images/index.json")).unwrap();
    let ours = host.images_and_blobs().1;
    host.sh("rm -r $BOCKER_ROOT/images").ok();
    let lines: Vec<&str> = made
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .collect();
    host.sh(&format!("set -e\n{}", lines.join("\n"))).ok();
    fs::write(host.root().join("images/index.json"), index).unwrap();
    // GNU tar and gzip write other bytes for the same files: the digest of the layer is another, all else is the same.
    let theirs = host.images_and_blobs().1;
    let common = ours.iter().filter(|blob| theirs.contains(blob)).count();
    assert_eq!((ours.len(), theirs.len(), common), (3, 3, 2));
    let layer = theirs.iter().find(|blob| !ours.contains(blob)).unwrap();
    let path = host.root().join("images/blobs/sha256").join(layer);
    let listed = host
        .sh(&format!("tar tzf {} | sort", path.display()))
        .ok()
        .stdout;
    let expected = host
        .sh(&format!(
            "cd {source} && find . -type d -printf '%p/\\n' -o -printf '%p\\n' | sort"
        ))
        .ok()
        .stdout;
    assert_eq!(listed, expected);
}

#[test]
fn a_damaged_image_is_listed_can_be_removed_and_is_in_nobodys_way() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    host.store(
        &layers(vec![Layer::new().file("x", "x")]),
        "docker.io/library/bad:1",
    );
    let bad = host.run(&["bocker-pull", "list", "bad:1"]).ok().json();
    let digest = bad["digest"].as_str().unwrap();
    fs::write(
        host.root().join("images/blobs/sha256").join(&digest[7..]),
        "{}",
    )
    .unwrap();
    let document = host.create("fixture:1 --name web");
    host.run(&["bocker-snap", "create", "bad:1"])
        .exits(125)
        .says("damaged");
    host.run(&["bocker-snap", "commit", "web", "fixture:1"])
        .ok();
    host.pass("delete", &document).ok();
    host.run(&["bocker-pull", "rmi", "fixture:1"]).ok();
    assert_eq!(
        host.run(&["bocker-pull", "list"]).ok().json()["source"],
        "bad:1"
    );
    host.run(&["bocker-pull", "rmi", "bad:1"]).ok();
    host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
    assert_eq!(
        fs::read_dir(host.root().join("images/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(fs::read_dir(host.root().join("layers")).unwrap().count(), 0);
}

#[test]
fn a_root_goes_and_comes_back_with_what_was_written() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let document = host.create(&format!(
        "--rootfs {rootfs} --name web --read-only --label a=b"
    ));
    assert_eq!(document["root"]["readonly"], true);
    assert_eq!(document["bocker"]["labels"], json!({"a": "b"}));
    let file = root_of(&document).join("written");
    fs::write(&file, "kept").unwrap();
    host.pass("unmount", &document).ok();
    assert!(!file.exists());
    host.pass("unmount", &document).ok();
    for _ in 0..2 {
        host.run(&["bocker-snap", "mount", "web"]).ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
    let listed = host.run(&["bocker-snap", "list"]).ok().json();
    assert_eq!(
        (&listed["id"], &listed["names"], &listed["mounted"]),
        (&document["bocker"]["id"], &json!(["web"]), &json!(true))
    );
    host.run(&["bocker-snap", "delete", "web"]).ok();
    host.run(&["bocker-snap", "delete", "web"])
        .exits(125)
        .says("No container named 'web' exists");
    let again = host.pass("delete", &document).ok().json();
    assert!(again.get("root").is_none(), "already gone is success");
}

#[test]
fn a_new_volume_begins_with_what_the_image_has_there_and_an_old_one_is_left_alone() {
    if !need("skopeo getfattr") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let options =
        "fixture:1 --volume new:/data --volume linked:/absolute --volume none:/nowhere/yet";
    let document = host.create(options);
    let volumes = host.root().join("volumes");
    let in_image = root_of(&document).join("data");
    assert_same_tree(&tree(&volumes.join("new/data")), &tree(&in_image));
    let (volume, data) = (
        fs::metadata(volumes.join("new/data")).unwrap(),
        fs::metadata(&in_image).unwrap(),
    );
    assert_eq!(
        (volume.mode(), volume.uid(), volume.gid()),
        (data.mode(), data.uid(), data.gid())
    );
    assert!(
        volumes.join("linked/data/through-link").exists(),
        "through a link of the image"
    );
    assert_eq!(fs::read_dir(volumes.join("none/data")).unwrap().count(), 0);
    fs::remove_file(volumes.join("new/data/hello")).unwrap();
    host.pass("delete", &document).ok();
    host.create(options);
    assert!(!volumes.join("new/data/hello").exists());

    let before = host.fingerprint();
    for step in ["snap.volume", root_step()] {
        host.sh(&format!(
            "BOCKER_FAIL_AT={step} bocker-snap create fixture:1 --volume other:/data"
        ))
        .exits(125);
        host.assert_same(&before);
    }
}

#[test]
fn a_volatile_root_comes_back_too() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let document = host.create(&format!("--volatile --rootfs {rootfs}"));
    let mounts = host.run(&["cat", "/proc/self/mountinfo"]).text();
    assert!(
        mounts
            .lines()
            .any(|line| line.contains(id(&document)) && line.contains("volatile"))
    );
    fs::write(root_of(&document).join("written"), "kept").unwrap();
    host.pass("unmount", &document).ok();
    host.pass("mount", &document).ok();
    assert_eq!(
        fs::read_to_string(root_of(&document).join("written")).unwrap(),
        "kept"
    );
    host.pass("delete", &document).ok();
}

#[test]
fn a_volatile_root_that_a_crash_has_left_can_be_deleted() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let options = format!("--name web --volatile --rootfs {rootfs}");
    host.pass("delete", &host.create(&options)).ok();
    let before = host.fingerprint();
    // As after a restart: the mount and the claim are gone, overlayfs' mark is not.
    let document = host.create(&options);
    host.run(&["umount".as_ref(), root_of(&document).as_os_str()])
        .ok();
    host.sh(&format!("rm -r /run/bocker/{}", id(&document)))
        .ok();
    let mark = root_of(&document).with_file_name("work/work/incompat/volatile");
    assert!(mark.exists());
    host.run(&["bocker-snap", "delete", "web"]).ok();
    host.assert_same(&before);
}

#[test]
fn an_image_is_found_by_whatever_of_it_a_document_names() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), "127.0.0.1:5000/other:1");
    host.store(&layers(vec![Layer::new().file("x", "x")]), "short:1");
    let all = host.run(&["bocker-pull", "list"]).ok().json_lines();
    for image in &all {
        for name in ["id", "digest", "reference"] {
            let member = json!({name: image[name]});
            let document = json!({"bocker": {"version": 1, "image": member}});
            let imported = host.pass("import", &document).ok().json();
            assert_eq!(imported["bocker"]["image"]["id"], image["id"], "{name}");
            assert_eq!(imported["bocker"]["image"]["digest"], image["digest"]);
            let made = host.pass("create -", &document).ok().json();
            assert_eq!(made["bocker"]["snap"]["image"], image["id"], "{name}");
            host.pass("delete", &made).ok();
        }
    }
    for (member, says) in [
        (json!({}), "names no image"),
        (json!({"reference": "absent:1"}), "'absent:1'"),
        (json!({"digest": "nothing"}), "digest"),
    ] {
        let document = json!({"bocker": {"version": 1, "image": member}});
        host.pass("import", &document).exits(125).says(says);
    }
}

#[test]
fn a_container_that_failed_before_anyone_could_keep_it_goes_when_it_is_unmounted() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let run = |words: &[&str]| {
        let all = [
            &["bocker", "run", "--name", "web"],
            words,
            &["--rootfs", &rootfs, "true"],
        ]
        .concat();
        host.run(&all)
    };
    run(&["--rm"]).ok();
    let before = host.fingerprint();
    run(&["--memory", "1"]).exits(125).says("memory");
    host.assert_same(&before);
    // The name is free, and one that bocker-spawn had is kept.
    run(&[]).ok();
    let document = host.sh("bocker inspect web").ok();
    assert!(document.stdout.contains("\"exit\""), "{document}");
    host.run(&["bocker", "rm", "web"]).ok();
    host.assert_same(&before);

    let mut failed = host.create(&format!("--name web --rootfs {rootfs}"));
    failed["bocker"]["error"] = json!({"stage": "cg", "code": 125, "message": "m"});
    host.pass("unmount --dry-run", &failed).ok();
    assert!(root_of(&failed).join("bin").exists());
    let left = host.pass("unmount --status", &failed).exits(125).json();
    assert_eq!(left["bocker"].get("snap"), None);
    host.assert_same(&before);
}

#[test]
fn a_name_is_given_once_even_to_twenty_at_a_time() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let argv = [
        "bocker-snap",
        "create",
        "--name",
        "web",
        "--rootfs",
        &rootfs,
    ];
    let running: Vec<_> = (0..20).map(|_| host.spawn(&argv)).collect();
    let outputs: Vec<Output> = running
        .into_iter()
        .map(bocker_tests::Running::wait)
        .collect();
    let winners: Vec<&Output> = outputs.iter().filter(|output| output.code == 0).collect();
    assert_eq!(winners.len(), 1);
    for loser in outputs.iter().filter(|output| output.code != 0) {
        assert!(
            loser.stderr.contains("the name 'web' is taken"),
            "{}",
            loser.stderr
        );
    }
    assert_eq!(
        fs::read_dir(host.root().join("containers"))
            .unwrap()
            .count(),
        1
    );
    host.run(&["bocker-snap", "delete", "web"]).ok();
    host.run(&argv).ok();
}

#[test]
fn an_older_kernel_mounts_the_same_by_mount_2() {
    if !need("skopeo getfattr python3") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let mut modern = tree(&root_of(&host.create("fixture:1")));
    modern.retain(|name, _| !without_time(name));
    let old = host.another_root("old:root,with it");
    host.run(&[
        "cp",
        "-a",
        &host.root().join("images").display().to_string(),
        &old.display().to_string(),
    ])
    .ok();
    let output = host
        .call(&[
            "python3",
            "-c",
            NO_FSOPEN,
            "bocker-snap",
            "create",
            "fixture:1",
        ])
        .env("BOCKER_ROOT", &old)
        .run()
        .ok();
    let document = output.json();
    let mut older = tree(&root_of(&document));
    older.retain(|name, _| !without_time(name));
    assert_same_tree(&older, &modern);
    let mounts = host.run(&["cat", "/proc/self/mountinfo"]).text();
    let line = mounts
        .lines()
        .find(|line| line.contains(id(&document)))
        .expect("mounted");
    assert!(
        line.contains("lowerdir=/proc/self/fd/") && line.contains("nodev"),
        "{line}"
    );
    host.call(&["bocker-snap", "delete"])
        .env("BOCKER_ROOT", &old)
        .stdin(document.to_string())
        .run()
        .ok();
}

#[test]
fn as_many_layers_as_images_have_are_stacked_below_a_path_of_any_length() {
    if !need("skopeo python3") {
        return;
    }
    let host = Host::new();
    let many = (0..128).map(|number| {
        Layer::new()
            .file(format!("file-{number}"), "x")
            .file("last", number.to_string())
    });
    host.store(&layers(many.collect()), NAME);
    let mut long = host.another_root("long");
    for _ in 0..3 {
        long.push("x".repeat(200));
    }
    fs::create_dir_all(&long).unwrap();
    let images = host.root().join("images").display().to_string();
    host.run(&["cp", "-a", &images, &long.display().to_string()])
        .ok();
    let new = vec!["bocker-snap", "create", "fixture:1"];
    let old = [vec!["python3", "-c", NO_FSOPEN], new.clone()].concat();
    for argv in [new, old] {
        let document = host.call(&argv).env("BOCKER_ROOT", &long).run().ok().json();
        assert_eq!(fs::read_dir(root_of(&document)).unwrap().count(), 129);
        assert_eq!(
            fs::read_to_string(root_of(&document).join("last")).unwrap(),
            "127"
        );
        host.call(&["bocker-snap", "delete"])
            .env("BOCKER_ROOT", &long)
            .stdin(document.to_string())
            .run()
            .ok();
    }
}

/// A seccomp filter under which fsopen(2), number 430 everywhere, does not exist; then the program.
const NO_FSOPEN: &str = r"
import ctypes, os, struct, sys
ops = [(0x20, 0, 0, 0), (0x15, 0, 1, 430), (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *op) for op in ops))
program = ctypes.create_string_buffer(struct.pack('@HP', len(ops), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
os.execvp(sys.argv[1], sys.argv[1:])
";

#[test]
fn the_commands_that_verbose_prints_make_the_same_root() {
    if !need("skopeo getfattr") {
        return;
    }
    let host = Host::new();
    host.store(&Image::full(), NAME);
    let output = host
        .sh("bocker-snap create -v --name web --volume data:/data fixture:1")
        .ok();
    let document = output.json();
    let seen = tree(&root_of(&document));
    host.pass("delete", &document).ok();
    let script: String = output
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .map(|line| format!("{line}\n"))
        .collect();
    host.sh(&format!("set -e\n{script}")).ok();
    assert_same_tree(&tree(&root_of(&document)), &seen);
    let verbose = host.pass("delete -v", &document).ok();
    assert!(verbose.stderr.contains("+ umount"));
    assert!(!root_of(&document).exists());
}

#[test]
fn a_dry_run_of_every_verb_changes_nothing() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let document = host.create(&format!("--rootfs {rootfs} --name web"));
    host.run(&["bocker-snap", "volume", "create", "there"]).ok();
    host.run(&["bocker-snap", "gc"]).ok();
    let before = host.fingerprint();
    for line in [
        "create fixture:1 --name other --volume xx:/x --volume /y --tmpfs /z",
        "create --rootfs / --name other",
        "import fixture:1",
        "mount web",
        "unmount web",
        "delete web",
        "commit web new:1",
        "gc --grace 0",
        "reset",
        "init /etc",
        "volume create other",
        "volume rm there",
        "volume prune --all",
    ] {
        host.sh(&format!("bocker-snap {line} --dry-run")).ok();
        host.assert_same(&before);
    }
    let planned = host
        .sh("bocker-snap create fixture:1 --dry-run")
        .ok()
        .json();
    assert_eq!(planned["bocker"]["id"], "ps_dryrun");
    assert_eq!(planned["bocker"]["dry_run"], true);
    host.pass("delete", &document).ok();
}

#[test]
fn reset_removes_everything_of_one_root_and_nothing_of_another() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let other = host.another_root("other");
    let kept = host
        .call(&["bocker-snap", "create", "--rootfs", &rootfs])
        .env("BOCKER_ROOT", &other)
        .run()
        .ok()
        .json();
    let before = host.fingerprint();
    host.store(&Image::simple(), NAME);
    host.create("fixture:1 --name web --volume data:/data");
    host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
    host.create("fixture:1");
    host.run(&["bocker-snap", "reset"]).ok();
    host.assert_same(&before);
    assert!(!host.root().exists() || fs::read_dir(host.root()).unwrap().count() == 0);
    assert!(root_of(&kept).join("bin/busybox").exists());
}

#[test]
fn a_claim_of_another_root_is_not_released_by_a_document_that_names_it() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let other = host.another_root("other");
    let foreign = host
        .call(&["bocker-snap", "create", "--rootfs", &rootfs])
        .env("BOCKER_ROOT", &other)
        .run()
        .ok()
        .json();
    host.pass("delete", &foreign).ok();
    assert!(Path::new("/run/bocker").join(id(&foreign)).exists());
    assert!(root_of(&foreign).join("bin/busybox").exists());
}

#[test]
fn what_is_wrong_is_said_before_anything_is_made() {
    let host = Host::new();
    let before = host.fingerprint();
    for (line, message) in [
        ("create", "no image is named"),
        ("create nope", "No image named 'nope' exists"),
        (
            "create --rootfs /nowhere",
            "No directory named '/nowhere' exists",
        ),
        (
            "create --rootfs /etc/passwd",
            "No directory named '/etc/passwd' exists",
        ),
        (
            "create --rootfs / --name /x",
            "cannot be a container's name",
        ),
        (
            "create --rootfs / --name ps_abcdef",
            "cannot be a container's name",
        ),
        (
            "create --rootfs / --mount type=bind,source=/nowhere,target=/x",
            "make it first",
        ),
        ("create --rootfs / --volume x", "is not a volume"),
        (
            "create --rootfs / --volume xx:/x --tmpfs /x/",
            "two mounts are asked for at /x",
        ),
        (
            "create --rootfs / --volumes-from nope",
            "No container named 'nope' exists",
        ),
        (
            "create --rootfs / --storage-opt size=1g",
            "cannot be limited",
        ),
        ("create --rootfs / --storage-opt x=1", "no storage option"),
        ("volume", "the verb after 'volume' is missing"),
        ("volume rm nope", "No volume named 'nope' exists"),
        ("volume inspect nope", "No volume named 'nope' exists"),
        ("volume create /x", "cannot be a volume's name"),
        ("create --rootfs / image", "not from both"),
        ("create --rootfs / --nope", "unknown option '--nope'"),
        ("mount nope", "No container named 'nope' exists"),
        ("commit nope image", "No container named 'nope' exists"),
        ("import nope", "No image named 'nope' exists"),
        (
            "create - --rootfs / <<< '{\"bocker\":{\"id\":\"ps_aaaaaa\"}}'",
            "ps_aaaaaa is not claimed",
        ),
    ] {
        host.run(&["bash", "-c", &format!("bocker-snap {line}")])
            .exits(125)
            .says(message);
        host.assert_same(&before);
    }
}

/// Holds a container's lock as its supervisor does, until it is killed.
const HOLD: &str = r"
import fcntl, struct, sys, time
file = open(sys.argv[1], 'a+')
fcntl.fcntl(file, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))
print('held', flush=True)
time.sleep(1000)
";

#[test]
fn what_is_alive_is_neither_deleted_nor_collected_nor_reset_unless_forced() {
    if !need("python3") {
        return;
    }
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let document = host.create(&format!("--rootfs {rootfs} --name web"));
    let alive = format!("/run/bocker/{}/alive", id(&document));
    let supervisor = host.spawn(&["python3", "-c", HOLD, &alive]);
    host.wait_for("the lock is held", || {
        let output = host.pass("unmount", &document);
        (output.code == 125).then_some(output)
    })
    .says("is running");
    host.pass("mount", &document).exits(125).says("is running");
    host.run(&["bocker-snap", "delete", "web"])
        .exits(125)
        .says("is running; stop it first, or use --force");
    host.run(&["bocker-snap", "reset"])
        .exits(125)
        .says("is running");
    assert_eq!(
        host.run(&["bocker-snap", "gc", "--grace", "0"]).ok().stdout,
        ""
    );
    assert!(Path::new("/run/bocker").join(id(&document)).exists());
    host.run(&["bocker-snap", "delete", "--force", "web"]).ok();
    assert!(!host.root().join("containers").join(id(&document)).exists());
    supervisor.signal(nix::sys::signal::Signal::SIGKILL);
    supervisor.wait();
}

#[test]
fn a_signal_stops_an_import_within_a_layer_and_nothing_is_left() {
    let host = Host::new();
    let source = host.scratch().join("source");
    fs::create_dir(&source).unwrap();
    fs::File::create(source.join("large"))
        .unwrap()
        .set_len(1 << 29)
        .unwrap();
    host.run(&[
        "bocker-snap",
        "init",
        &source.display().to_string(),
        "--name",
        "large:1",
    ])
    .ok();
    let mut interrupted = 0;
    for delay in [20, 100, 200] {
        let running = host.spawn(&["bocker-snap", "import", "large:1"]);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        running.signal(nix::sys::signal::Signal::SIGINT);
        let output = running.wait();
        if output.code == 130 && output.stderr.contains("interrupted by SIGINT") {
            interrupted += 1;
        }
        assert_eq!(
            fs::read_dir(host.root().join("layers")).unwrap().count(),
            0,
            "{}",
            output.stderr
        );
    }
    assert!(interrupted > 0);
}

#[test]
fn a_full_disk_stops_an_import_before_it_is_full_and_nothing_is_left() {
    let host = Host::new();
    let source = host.scratch().join("source");
    fs::create_dir(&source).unwrap();
    fs::File::create(source.join("large"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let small = host.another_root("small");
    host.run(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=32m",
        "tmpfs",
        &small.display().to_string(),
    ])
    .ok();
    let call = |argv: &[&str]| host.call(argv).env("BOCKER_ROOT", &small).run();
    call(&[
        "bocker-snap",
        "init",
        &source.display().to_string(),
        "--name",
        "large:1",
    ])
    .ok();
    call(&["bocker-snap", "import", "large:1"])
        .exits(125)
        .says("more than the");
    assert_eq!(fs::read_dir(small.join("layers")).unwrap().count(), 0);
    call(&["bocker-snap", "create", "large:1", "--name", "web"]).exits(125);
    assert_eq!(fs::read_dir(small.join("containers")).unwrap().count(), 0);
    host.run(&["umount", &small.display().to_string()]).ok();
}

#[test]
fn an_image_that_is_removed_while_containers_are_made_of_it_gives_whole_ones_or_none() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let image = Image::full();
    host.store(&image, NAME);
    let expected = {
        let document = host.create("fixture:1");
        let seen = tree(&root_of(&document)).into_keys().collect::<Vec<_>>();
        host.pass("delete", &document).ok();
        seen
    };
    let (images, saved) = (host.root().join("images"), host.scratch().join("images"));
    let copy = |from: &Path, to: &Path| {
        let (from, to) = (from.display().to_string(), to.display().to_string());
        host.run(&["cp", "-a", &from, &to]).ok();
    };
    copy(&images, &saved);
    let mut made = 0;
    for round in 0..6 {
        fs::remove_dir_all(&images).unwrap();
        copy(&saved, &images);
        let mut creators: Vec<_> = (0..3)
            .map(|_| host.spawn(&["bocker-snap", "create", "fixture:1"]))
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(round * 12));
        let removal = host.spawn(&["bocker-pull", "rmi", "fixture:1"]);
        creators.push(host.spawn(&["bocker-snap", "create", "fixture:1"]));
        removal.wait().ok();
        for output in creators.into_iter().map(bocker_tests::Running::wait) {
            if output.code != 0 {
                continue;
            }
            made += 1;
            let document = output.json();
            let seen: Vec<_> = tree(&root_of(&document)).into_keys().collect();
            assert_eq!(seen, expected);
            host.pass("delete", &document).ok();
        }
        let containers = host.root().join("containers");
        assert_eq!(fs::read_dir(containers).unwrap().count(), 0);
    }
    assert!(made > 0);
}
