//! The driver for btrfs beside the one for every filesystem: the same trees, the same layers, and nothing left in the background.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bocker_tests::{
    Container, Host, Image, Layer, Node, Platform, Root, assert_same_tree, need, tree,
};
use serde_json::json;

fn on_btrfs(host: &Host) -> Root<'_> {
    let [_, btrfs] = Root::both(host);
    btrfs
}

/// Where the two have most occasion to differ.
fn hard_image() -> Image {
    let lowest = Layer::new()
        .node("./", 0o711, Node::Dir)
        .owner(7, 8)
        .dir("opaque")
        .file("opaque/lower", "x")
        .dir("opaque/both")
        .file("opaque/both/lower", "x")
        .file("a", "linked")
        .hardlink("b", "a")
        .hardlink("c", "a")
        .dir("turned")
        .file("turned/x", "x")
        .file("turned-too", "x")
        .dir("usr")
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("gone", "x")
        .file("noted", "x")
        .xattr("user.note", "lower")
        .dir("attributes")
        .xattr("user.note", "goes");
    let middle = Layer::new()
        .file("opaque/upper", "y")
        .opaque("opaque")
        .hardlink("d", "a")
        .hardlink("opaque/e", "b")
        .whiteout("c")
        .file("turned", "a file")
        .dir("turned-too")
        .file("turned-too/x", "in a directory")
        .file("lib/through", "a link")
        .node("attributes", 0o2770, Node::Dir)
        .owner(5, 6)
        .node("null", 0o666, Node::Char(1, 3))
        .node("fifo", 0o600, Node::Fifo);
    let upper = Layer::new()
        .whiteout("gone")
        .whiteout("null")
        .node("null", 0o640, Node::Block(7, 0))
        .hardlink("f", "d")
        .file("b", "parted")
        .file("new/implied/file", "x");
    Image::single(&Platform::new(vec![lowest, middle, upper], json!({})))
}

#[test]
fn the_same_image_gives_the_same_tree_on_both_inode_by_inode() {
    if !need("skopeo getfattr mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let roots = Root::both(&host);
    for image in [hard_image(), Image::full()] {
        let [overlay, btrfs] = roots.each_ref().map(|root| {
            root.store(&image);
            root.create("fixture:1")
        });
        let driver = |container: &Container| container.document["bocker"]["snap"]["driver"].clone();
        assert_eq!(
            (driver(&overlay), driver(&btrfs)),
            ("overlay".into(), "btrfs".into())
        );
        let [mut first, mut second] = [&overlay, &btrfs].map(|container| tree(&container.root));
        // Directories that no layer names have the time of their making.
        for tree in [&mut first, &mut second] {
            for (name, line) in tree.iter_mut() {
                if name.starts_with(b"new") || name.starts_with(b"long") {
                    let mut words: Vec<&str> = line.split(' ').collect();
                    words.remove(2);
                    *line = words.join(" ");
                }
            }
        }
        assert!(first.len() > 15);
        assert_same_tree(&first, &second);
        let top = |container: &Container| {
            let data = fs::metadata(&container.root).expect("a root");
            (data.mode(), data.uid(), data.gid())
        };
        assert_eq!(top(&overlay), top(&btrfs));
    }
}

/// What a container may do to its root. All times that it leaves are the same, whenever it is run.
const CHANGES: &str = "echo new > data/new; ln data/new data/new-too; rm data/hello; rm -r opt; mkdir opt; echo o > opt/o; mkdir opt/p
    rm usr/bin/setuid; mkdir usr/bin/setuid; mknod nodes/more c 4 5; mkfifo nodes/pipe; ln -s /nowhere usr/link
    setfattr -n user.k -v v data/noted; chmod 2750 data; chown 5:6 order; setcap cap_net_admin+ep data/new; rm nodes/loop
    mkdir -p deep/er/still; echo x > deep/er/still/file; mv data/private data/moved; rm -r var/old; echo y > var/old
    echo more >> etc/passwd; mv etc/group etc/group2; cp etc/group2 etc/group; rm etc/group2; cat lib/through-link >/dev/null
    find . -xdev -newermt '2020-01-01' -exec touch -h -d '2001-02-03T04:05:06.789' {} +";

#[test]
fn the_same_changes_give_the_same_layer_on_both_byte_for_byte() {
    if !need("skopeo getfattr setfattr setcap mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let [overlay, btrfs] = Root::both(&host).map(|root| {
        root.store(&Image::full());
        let container = root.create("fixture:1 --name web");
        container.sh(CHANGES);
        root.sh("bocker-snap commit web new:1").ok();
        (root.names("new:1"), root.top("new:1"))
    });
    assert_eq!(overlay.0, btrfs.0);
    assert!(
        btrfs.0.iter().any(|name| name == "opt/.wh..wh..opq"),
        "{btrfs:?}"
    );
    assert!(
        btrfs.0.iter().any(|name| name == "data/.wh.hello"),
        "{btrfs:?}"
    );
    assert_eq!(overlay.1, btrfs.1);
}

#[test]
fn the_same_changes_are_told_the_same_by_both() {
    if !need("skopeo setfattr setcap mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let [overlay, btrfs] = Root::both(&host).map(|root| {
        root.store(&Image::full());
        let container = root.create("fixture:1 --name web");
        container.sh(CHANGES);
        root.sh("bocker-snap diff web").text()
    });
    assert_eq!(overlay, btrfs);
    for line in [
        r#"{"kind":"A","path":"/data/new"}"#,
        r#"{"kind":"C","path":"/etc/group"}"#,
        r#"{"kind":"D","path":"/data/hello"}"#,
        r#"{"kind":"C","path":"/var/old"}"#,
    ] {
        assert!(
            btrfs.lines().any(|other| other == line),
            "{line} is not in {btrfs}"
        );
    }
}

#[test]
fn a_commit_is_a_snapshot_which_is_what_the_layers_archive_unpacks_to() {
    if !need("skopeo getfattr setfattr setcap python3 btrfs mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    root.store(&Image::full());
    let container = root.create("fixture:1 --name web");
    container.sh(CHANGES);
    // What no layer can hold, in places where something was or was not.
    container.sh("rm etc/removed-too 2>/dev/null || :; rm order; mknod order c 0 0; mknod data/hidden c 0 0
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"data/socket\")'; touch -d @1 data");
    let before = root.subvolumes().len();
    root.sh("bocker-snap commit web new:1").ok();
    assert_eq!(
        root.subvolumes().len(),
        before + 1,
        "{:?}",
        root.subvolumes()
    );

    let made = root.sh("bocker-snap create new:1 -v").ok();
    assert!(!made.stderr.contains("# unpack"), "{made}");
    let snapshot = tree(Path::new(
        made.json()["root"]["path"].as_str().expect("a root"),
    ));
    assert!(!snapshot.contains_key(&b"data/socket"[..]) && !snapshot.contains_key(&b"order"[..]));
    assert!(snapshot.contains_key(&b"data/new"[..]));
    let layers = made.json()["bocker"]["snap"]["layers"].clone();
    let layer = layers[4]
        .as_str()
        .expect("the fifth layer")
        .replace("sha256:", "layers/");
    root.sh(&format!("touch $BOCKER_ROOT/{layer}/x"))
        .exits(1)
        .says("Read-only");

    // The layer again, of its archive.
    root.sh(&format!("btrfs subvolume delete $BOCKER_ROOT/{layer}"))
        .ok();
    let again = root.create("new:1");
    assert_same_tree(&tree(&again.root), &snapshot);
}

#[test]
fn what_was_only_read_is_not_in_the_layer() {
    if !need("skopeo mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    root.store(&Image::full());
    let container = root.create("fixture:1 --name web");
    root.sh("mount -o remount,strictatime $BOCKER_ROOT").ok();
    container.sh("find . -type f -exec cat {} + >/dev/null; ls -R >/dev/null; sync -f .");
    root.sh("bocker-snap commit web new:1").ok();
    assert_eq!(root.names("new:1"), ["./"]);
}

/// Makes subvolumes in the current folder as a hostile container might.
const NESTED: &str = "btrfs subvolume create sub; btrfs subvolume create sub/sub; mkdir sub/sub/dir; echo x > sub/sub/dir/file
    btrfs subvolume create sub/sub/dir/ro; btrfs subvolume create sub/sub/dir/ro/in; btrfs property set sub/sub/dir/ro ro true
    btrfs subvolume snapshot -r sub/sub data/snapshot; btrfs property set sub ro true
    at=.; for level in $(seq 40); do at=$at/deep; btrfs subvolume create $at; done >/dev/null
    for many in $(seq 300); do btrfs subvolume create var/many-$many; done >/dev/null";

#[test]
fn subvolumes_that_a_container_made_go_with_it() {
    if !need("skopeo btrfs mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    root.store(&Image::full());
    root.create("fixture:1").delete();
    let before = root.subvolumes();
    assert_eq!(before.len(), 4, "{before:?}");
    for end in ["bocker-snap delete web", "bocker-snap gc --grace 0"] {
        let container = root.create("fixture:1 --name web");
        container.sh(NESTED);
        assert!(root.subvolumes().len() > 340);
        root.sh(end).ok();
        assert_eq!(root.subvolumes(), before, "{end}");
        assert!(!container.root.exists());
    }
    root.create("fixture:1").sh(NESTED);
    root.sh("bocker-snap reset").ok();
    assert_eq!(root.subvolumes(), Vec::<String>::new());
}

#[test]
fn a_commit_of_a_root_with_subvolumes_of_its_own_keeps_what_is_in_them() {
    if !need("skopeo btrfs mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    root.store(&Image::full());
    let container = root.create("fixture:1 --name web");
    container.sh("btrfs subvolume create data/sub; mkdir data/sub/dir; echo inside > data/sub/dir/file; rm data/hello
        rm -r var/old; btrfs subvolume create var/old; echo too > var/old/kept");
    root.sh("bocker-snap commit web new:1").ok();
    let made = root.create("new:1");
    let read = |name: &str| fs::read_to_string(made.root.join(name)).expect(name);
    assert_eq!(read("data/sub/dir/file"), "inside\n");
    assert_eq!(read("var/old/kept"), "too\n");
    assert!(!made.root.join("data/hello").exists());
    assert_eq!(
        root.names("new:1")
            .iter()
            .filter(|name| name.starts_with("usr/"))
            .count(),
        0
    );
}

#[test]
fn a_view_of_a_directory_is_an_overlay_there_too() {
    if !need("mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let made = root.create(&format!("--rootfs {rootfs} --name web"));
    assert_eq!(made.document["bocker"]["snap"]["driver"], "overlay");
    made.sh("rm etc/passwd; echo x > new; rm -r tmp; mkdir tmp");
    root.sh("bocker-snap unmount web && bocker-snap mount web")
        .ok();
    assert!(made.root.join("new").exists() && !made.root.join("etc/passwd").exists());
    assert!(Path::new(&rootfs).join("etc/passwd").exists());
    made.delete();
}

#[test]
fn a_container_keeps_its_root_when_it_is_unmounted_and_mounted() {
    if !need("skopeo mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    root.store(&Image::simple());
    let made = root.create("fixture:1 --name web");
    made.sh("echo kept > written");
    for line in ["unmount", "mount", "mount", "unmount", "unmount"] {
        root.sh(&format!("bocker-snap {line} web")).ok();
        assert!(made.root.join("written").exists(), "{line}");
    }
    let listed = root.sh("bocker-snap list").ok().json();
    assert_eq!(listed["driver"], "btrfs");
    assert_eq!(root.sh("bocker-snap info").ok().json()["driver"], "btrfs");
    root.sh("bocker-snap delete web").ok();
    assert_eq!(root.subvolumes().len(), 1);
}

#[test]
fn containers_of_one_image_do_not_see_what_the_others_write() {
    if !need("skopeo mkfs.btrfs") {
        return;
    }
    let host = Host::new();
    let root = on_btrfs(&host);
    root.store(&Image::simple());
    let (one, two) = (root.create("fixture:1"), root.create("fixture:1"));
    one.sh("echo mine > etc/passwd; rm -r tmp");
    assert!(
        fs::read_to_string(two.root.join("etc/passwd"))
            .expect("a file")
            .contains("root:x")
    );
    assert!(two.root.join("tmp").is_dir());
    let three = root.create("fixture:1");
    assert_same_tree(&tree(&three.root), &tree(&two.root));
}
