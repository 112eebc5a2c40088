//! The images of the store: their names, and what comes in and goes out otherwise than by a pull.

use std::fs;

use bocker_tests::{Host, Image, Session, need, root_of};

const NAME: &str = "docker.io/library/fixture:1";

/// How many files a folder of `BOCKER_ROOT` holds.
fn count(host: &Host, folder: &str) -> usize {
    fs::read_dir(host.root().join(folder)).map_or(0, Iterator::count)
}

#[test]
fn names_of_images_come_and_go_and_the_last_takes_image_and_layers_with_it() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.run(&["bocker-pull", "list", "--exists", "fixture:1"])
        .exits(1);
    host.store(&Image::full(), NAME);
    host.run(&["bocker-pull", "list", "--exists", "fixture:1"])
        .ok();
    host.run(&["bocker-pull", "tag", "fixture:1", "other:2"])
        .ok();
    host.run(&["bocker-snap", "import", "other:2"]).ok();
    let container = host.create("other:2 --name web");
    let removed = host.run(&["bocker-pull", "rmi", "fixture:1"]).ok().json();
    assert_eq!(removed["removed"], false);
    let removed = host.run(&["bocker-pull", "rmi", "other:2"]).ok().json();
    assert_eq!(removed["removed"], true);
    assert_eq!(host.run(&["bocker-pull", "list"]).ok().stdout, "");
    assert_eq!(
        fs::read_dir(host.root().join("images/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    let layers = host.root().join("layers");
    assert_eq!(
        fs::read_dir(&layers).unwrap().count(),
        4,
        "the container stands on them"
    );
    host.pass("unmount", &container).ok();
    host.pass("mount", &container).ok();
    assert!(root_of(&container).join("data/hello").exists());
    host.pass("delete", &container).ok();
    host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 0);
    host.run(&["bocker-snap", "create", "fixture:1"])
        .exits(125)
        .says("No image named 'fixture:1' exists");
}

#[test]
fn a_verb_on_names_that_fails_or_is_killed_at_a_step_leaves_the_old_names_or_the_new_ones() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let before = host.images_and_blobs();
    let saved = host.scratch().join("saved").display().to_string();
    host.sh(&format!("cp -a $BOCKER_ROOT/images {saved}")).ok();
    for (line, own) in [
        ("tag fixture:1 new:1", &["pull.index"][..]),
        ("rmi fixture:1", &["pull.index", "pull.blobs"]),
    ] {
        let shown = host
            .sh(&format!("bocker-pull {line} --explain --dry-run"))
            .ok();
        let steps = bocker_tests::step_names(&shown.stderr);
        assert_eq!(steps, own, "{line}");
        assert_eq!(host.images_and_blobs(), before, "a dry run changes nothing");
        for (place, step) in steps.iter().enumerate() {
            for killed in [false, true] {
                let what = format!("{line}: {step}, killed: {killed}");
                let fail_at = if killed {
                    format!("kill:{step}")
                } else {
                    step.clone()
                };
                host.call(&["sh", "-c", &format!("bocker-pull {line}")])
                    .env("BOCKER_FAIL_AT", fail_at)
                    .run()
                    .exits(if killed { 137 } else { 125 });
                if killed {
                    host.run(&["bocker-pull", "gc", "--grace", "0"]).ok();
                }
                let done = place > 0 || killed;
                assert_eq!(host.images_and_blobs() == before, !done, "{what}");
                let rest = host.run(&["bocker-pull", "gc", "--grace", "0"]).ok();
                assert_eq!(rest.stdout, "", "{what}");
                host.sh(&format!(
                    "rm -r $BOCKER_ROOT/images && cp -a {saved} $BOCKER_ROOT/images"
                ))
                .ok();
            }
        }
    }
}

#[test]
fn an_image_that_a_container_uses_or_that_has_several_names_is_removed_only_by_force() {
    let s = Session::new();
    s.bocker(&["init", &s.rootfs, "base:1"]).ok();
    s.bocker(&["run", "--name", "box", "base:1", "true"]).ok();
    let box_id = s.host.run(&["bocker-spawn", "list"]).ok().json()["id"].clone();
    let (box_id, list) = (box_id.as_str().expect("an id"), || {
        s.host.run(&["bocker-pull", "list"]).ok().json_lines()
    });
    let id = list()[0]["id"].as_str().expect("an id").to_owned();
    let digest = list()[0]["digest"].as_str().expect("a digest").to_owned();
    for name in ["base:1", &id, &id[..7], &digest, &digest[..14]] {
        let refused = s.bocker(&["rmi", name]).exits(2);
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        refused.says(&format!("{id} is the image of {box_id}"));
        s.host
            .run(&["bocker-pull", "rmi", name])
            .exits(125)
            .says(box_id);
    }
    s.bocker(&["tag", "base:1", "other:2"]).ok();
    for name in [&id, &digest] {
        s.bocker(&["rmi", name])
            .exits(2)
            .says("has several names: base:1, other:2");
    }
    // A name that is not the last one is nobody's.
    assert_eq!(s.bocker(&["rmi", "base:1"]).text(), "Removed: base:1\n");
    s.bocker(&["rmi", "other:2"]).exits(2);
    assert_eq!(
        s.bocker(&["rmi", "-f", &digest[..14]]).text(),
        format!("Removed: {}\n", &digest[..14])
    );
    assert!(list().is_empty());
    // The container keeps what it stands on, and the layers go with it.
    s.bocker(&["start", "-a", "box"]).ok();
    assert_eq!(count(&s.host, "layers"), 1);
    s.bocker(&["rm", "box"]).ok();
    s.host
        .run(&["bocker-snap", "gc", "--layers", "--grace", "0"])
        .ok();
    assert_eq!(
        (
            count(&s.host, "layers"),
            count(&s.host, "images/blobs/sha256")
        ),
        (0, 0)
    );
}

#[test]
fn a_removed_image_takes_its_layers_and_its_blobs_with_it_and_pasted_it_does_the_same() {
    let s = Session::new();
    for pasted in [false, true] {
        s.bocker(&["init", &s.rootfs, "base:1"]).ok();
        s.bocker(&["run", "--rm", "base:1", "true"]).ok();
        assert_eq!(
            (
                count(&s.host, "layers"),
                count(&s.host, "images/blobs/sha256")
            ),
            (1, 3)
        );
        let said = match pasted {
            false => s.bocker(&["rmi", "base:1"]),
            true => s.host.sh(&s.bocker(&["--dry-run", "rmi", "base:1"]).text()),
        };
        assert_eq!(said.text(), "Removed: base:1\n");
        assert_eq!(
            (
                count(&s.host, "layers"),
                count(&s.host, "images/blobs/sha256")
            ),
            (0, 0)
        );
    }
}

#[test]
fn what_cannot_be_done_with_a_name_is_one_line() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    host.store(&Image::simple(), NAME);
    let before = host.fingerprint();
    let digest = host.run(&["bocker-pull", "list"]).ok().json()["digest"].clone();
    let by_digest = format!("tag fixture:1 new@{}", digest.as_str().expect("a digest"));
    for (line, message) in [
        ("tag nope new", "No image named 'nope' exists"),
        (
            "tag fixture:1",
            "an image and its new name have to be given",
        ),
        ("tag fixture:1 New", "New"),
        (&by_digest, "is a digest, which no image can be given"),
        ("rmi nope", "No image named 'nope' exists"),
        ("rmi", "no image is named"),
        ("rmi --nope x", "unknown option '--nope'"),
    ] {
        let failed = host
            .sh(&format!("bocker-pull {line}"))
            .exits(125)
            .says(message);
        assert_eq!(failed.stderr.lines().count(), 1, "{failed}");
        host.assert_same(&before);
    }
}

#[test]
fn an_image_that_a_peer_has_written_into_the_store_is_listed_run_tagged_pushed_and_removed() {
    if !need("skopeo umoci docker-registry") {
        return;
    }
    let s = Session::new();
    let registry = bocker_tests::Registry::start(&s.host);
    let layout = s.host.root().join("images").display().to_string();
    s.host.store(&Image::simple(), NAME);
    // umoci makes another image of it in the same layout, under a name of its own kind.
    let image = format!("{layout}:{NAME}");
    let changed = s.host.scratch().join("changed").display().to_string();
    fs::write(&changed, "by umoci").expect("a file");
    let insert = [
        "umoci",
        "insert",
        "--image",
        &image,
        "--tag",
        "docker.io/library/umoci:1",
        &changed,
        "/changed",
    ];
    s.host.run(&insert).ok();
    for (name, command, said) in [
        ("fixture:1", &["sh", "-c", "echo it runs"][..], "it runs\n"),
        ("umoci:1", &["cat", "/changed"], "by umoci"),
    ] {
        assert!(s.bocker(&["images"]).text().contains(name));
        let run = ["run", "--rm", "--network", "none", name];
        assert_eq!(s.bocker(&[&run[..], command].concat()).text(), said);
        let target = format!("{}/{name}", registry.address());
        s.bocker(&["tag", name, &target]).ok();
        s.bocker(&["push", "-q", &target]).ok();
        // What we have written, the peers read.
        let inspect = [
            "skopeo",
            "inspect",
            "--raw",
            &format!("oci:{layout}:{target}"),
        ];
        let ours = s.host.run(&inspect).ok().json();
        let docker = format!("docker://{target}");
        let inspect = ["skopeo", "inspect", "--tls-verify=false", "--raw", &docker];
        assert_eq!(s.host.run(&inspect).ok().json(), ours);
        let theirs = s.host.run(&["umoci", "ls", "--layout", &layout]).text();
        assert!(theirs.lines().any(|line| line == target), "{theirs}");
        s.bocker(&["rmi", name, &target]).ok();
    }
    let before = count(&s.host, "images/blobs/sha256");
    assert_eq!((before, count(&s.host, "layers")), (0, 0));
}

#[test]
fn what_has_lost_its_name_is_listed_alone_and_pruned_unless_a_container_uses_it() {
    let s = Session::new();
    let init = |name: &str, content: &str| {
        fs::write(format!("{}/content", s.rootfs), content).expect("a file");
        s.bocker(&["init", &s.rootfs, name]).ok();
    };
    init("base:1", "first");
    s.bocker(&["run", "--name", "box", "base:1", "true"]).ok();
    // Moved on twice, the name leaves two images without one, of which a container uses the first.
    init("base:1", "second");
    init("base:1", "third");
    let ids = |words: &[&str]| -> Vec<String> {
        let list = [words, &["--format", "{{.ID}} {{.Tag}} {{.Digest}}"]].concat();
        s.bocker(&list).text().lines().map(str::to_owned).collect()
    };
    assert_eq!(ids(&["images"]).len(), 3);
    assert_eq!(ids(&["image", "ls"]), ids(&["images"]));
    assert_eq!(ids(&["images", "--filter", "dangling=true"]).len(), 2);
    let named = ids(&["images", "-f", "dangling=false"]);
    assert!(
        named.len() == 1 && named[0].contains(" 1 sha256:"),
        "{named:?}"
    );
    let wide = s
        .host
        .sh("script -qec 'stty cols 200; bocker images --digests' /dev/null");
    assert!(wide.text().contains("DIGEST"));
    let planned = s.bocker(&["--dry-run", "image", "prune"]).text();
    assert_eq!(planned.lines().count(), 1, "{planned}");
    let pruned = s.bocker(&["image", "prune", "-f"]).text();
    assert_eq!(pruned.lines().count(), 1, "{pruned}");
    assert_eq!(ids(&["images", "--filter", "dangling=true"]).len(), 1);
    s.bocker(&["rm", "box"]).ok();
    s.bocker(&["image", "prune", "--all", "--force"]).ok();
    assert!(ids(&["images"]).is_empty());
    assert_eq!(
        (
            count(&s.host, "layers"),
            count(&s.host, "images/blobs/sha256")
        ),
        (0, 0)
    );
}
