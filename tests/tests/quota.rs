//! Limits of size by simple quotas of btrfs: what counts, what does not, and that no group outlives its container.

use bocker_tests::{Container, Host, Image, Layer, Platform, Root, need};
use serde_json::json;

/// The groups by which the filesystem counts; none where it does not.
fn groups(root: &Root<'_>) -> Vec<String> {
    let text = root.sh("btrfs qgroup show $BOCKER_ROOT 2>/dev/null || :");
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let names = text.stdout.lines().filter_map(first);
    names.filter(|name| name.contains('/')).collect()
}

/// Waits until the kernel has removed the groups of subvolumes that are gone, which it does in the background: then each that
/// is left is of a subvolume.
fn wait_for_groups(host: &Host, root: &Root<'_>) {
    host.wait_for("the groups go", || {
        root.sh("btrfs filesystem sync $BOCKER_ROOT").ok();
        let listed = root.sh("btrfs subvolume list $BOCKER_ROOT").ok().stdout;
        let id = |line: &str| Some(format!("0/{}", line.split(' ').nth(1)?));
        let mut expected: Vec<String> = listed.lines().filter_map(id).collect();
        expected.insert(0, "0/5".into());
        (groups(root) == expected).then_some(())
    });
}

/// How many files of a MiB can be written below a folder of a container's root, of so many.
fn write(root: &Root<'_>, container: &Container<'_>, folder: &str, files: usize) -> usize {
    let script = format!(
        "mkdir -p {0}/{folder}; for n in $(seq {files}); do dd if=/dev/urandom of={0}/{folder}/$n bs=1M count=1 conv=fsync status=none 2>&1 || break; echo written; done",
        container.root.display()
    );
    let output = root.sh(&script);
    let written = output.stdout.lines().filter(|line| *line == "written");
    let written = written.count();
    let is_full = output.stdout.contains("Disk quota exceeded");
    assert_eq!(is_full, written < files, "{output}");
    written
}

#[test]
fn what_a_container_writes_is_limited_and_neither_its_image_nor_what_others_write() {
    if !need("skopeo mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let [_, root] = Root::both(&host);
    let layer = Layer::new().busybox().file("large", vec![7; 12 << 20]);
    root.store(&Image::single(&Platform::new(vec![layer], json!({}))));
    root.create("fixture:1").delete();
    assert_eq!(groups(&root), Vec::<String>::new(), "nobody has asked yet");
    root.create("fixture:1 --storage-opt size=8m").delete();
    wait_for_groups(&host, &root);

    let (limited, free) = (
        root.create("fixture:1 --storage-opt size=8m"),
        root.create("fixture:1"),
    );
    assert_eq!(write(&root, &limited, "data", 12), 7);
    assert_eq!(
        write(&root, &free, "data", 12),
        12,
        "another one is not limited"
    );
    // Room that is given back can be written again, be it in a subvolume that the container makes.
    limited.sh("rm -r data; btrfs subvolume create nested >/dev/null; sync -f .");
    assert_eq!(write(&root, &limited, "nested/deep", 12), 7);
    limited.sh("! touch file 2>/dev/null");
    root.sh(&format!(
        "bocker-snap unmount {0} && bocker-snap mount {0}",
        limited.id()
    ))
    .ok();
    limited.sh("rm -r nested/deep; sync -f .");
    let again = format!(
        "bocker-snap unmount {0} && bocker-snap mount {0}",
        limited.id()
    );
    root.sh(&again).ok();
    assert_eq!(
        write(&root, &limited, "nested/again", 12),
        7,
        "a start keeps it"
    );
    limited.delete();
    free.delete();
    wait_for_groups(&host, &root);

    let limited = root.create("fixture:1 --storage-opt size=8m --name web");
    write(&root, &limited, "data", 5);
    root.sh("bocker-snap commit web new:1").ok();
    let made = root.create("new:1");
    assert_eq!(
        write(&root, &made, "more", 12),
        12,
        "a commit is not limited"
    );
    root.sh("bocker-snap reset").ok();
    let quotas = root.sh("btrfs qgroup show $BOCKER_ROOT");
    assert_ne!(quotas.code, 0, "off again: {quotas}");
}

#[test]
fn a_limit_that_fails_or_is_killed_leaves_no_group() {
    if !need("skopeo mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let [overlay, root] = Root::both(&host);
    for root in [&overlay, &root] {
        root.store(&Image::simple());
    }
    overlay
        .sh("bocker-snap create fixture:1 --storage-opt size=8m")
        .exits(125)
        .says("bocker system setup --btrfs");
    let create = "bocker-snap create fixture:1 --storage-opt size=8m --volume /x";
    root.create("fixture:1 --storage-opt size=8m").delete();
    wait_for_groups(&host, &root);
    for step in ["snap.quota", "snap.limit", "snap.volume"] {
        root.sh(&format!("BOCKER_FAIL_AT={step} {create}"))
            .exits(125);
        wait_for_groups(&host, &root);
        root.sh(&format!("BOCKER_FAIL_AT=kill:{step} {create}"))
            .exits(137);
        root.sh("bocker-snap gc --grace 0").ok();
        wait_for_groups(&host, &root);
    }
    root.sh("bocker-snap create fixture:1 --name web --storage-opt size=8m")
        .ok();
    root.sh("BOCKER_FAIL_AT=kill:snap.folder bocker-snap delete web")
        .exits(137);
    wait_for_groups(&host, &root);
}
